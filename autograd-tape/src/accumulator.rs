//! Gradients of several micro-batches as one.

use autograd_core::algebra::{accumulate, cast, scale};
use autograd_core::kernels::threads::parallel_for;
use autograd_core::{At, DType, Error, Meta, Pauses, Result, Site, TrackedTensor};
use parking_lot::{Condvar, Mutex};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What becomes of the gradients of several micro-batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Sum,
    Mean,
    Weighted,
}

/// Adds up the gradients of micro-batches, in the order in which they come.
///
/// The first gradients are moved in, later ones are added in place. bfloat16 and float16 gradients
/// are summed in f32 and come back in their own type, so that small contributions are not lost.
/// With [`over`](Self::over) the micro-batches run on the pool of threads, with the same result to
/// the bit.
///
/// ```
/// use autograd_core::{Result, TrackedTensor};
/// use autograd_tape::{GradientAccumulator, GradientTape};
///
/// fn main() -> Result<()> {
///     let w = TrackedTensor::scalar(2.0);
///     let mut mean = GradientAccumulator::mean();
///     for x in [1.0, 3.0, 5.0] {
///         let tape = GradientTape::new();
///         let w = tape.variable(&w);
///         let loss = (&w * x)?;
///         mean.add(tape.gradient(&loss, &[&w])?)?;
///     }
///     let grads = mean.finish()?;
///     assert_eq!(grads[0].to_scalar::<f64>()?, 3.0);
///     Ok(())
/// }
/// ```
#[derive(Debug)]
pub struct GradientAccumulator {
    kind: Kind,
    sums: Vec<TrackedTensor>,
    /// What came in, so that the result has its types again.
    metas: Vec<Meta>,
    count: usize,
    weight: f64,
}

impl GradientAccumulator {
    fn of(kind: Kind) -> Self {
        Self { kind, sums: Vec::new(), metas: Vec::new(), count: 0, weight: 0.0 }
    }

    /// Σ gᵢ: for losses that are sums over a micro-batch.
    pub fn sum() -> Self {
        Self::of(Kind::Sum)
    }

    /// Σ gᵢ / n: for losses that are means over micro-batches of one size.
    pub fn mean() -> Self {
        Self::of(Kind::Mean)
    }

    /// Σ wᵢ gᵢ / Σ wᵢ: for losses that are means over micro-batches of different sizes, which are
    /// the weights.
    pub fn weighted() -> Self {
        Self::of(Kind::Weighted)
    }

    /// Adds the gradients of a micro-batch, with weight 1 where they are weighted.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] where they are not as many as before, [`Error::Mismatch`] where
    /// one differs in shape, type or device. What was added before stays as it was.
    #[track_caller]
    pub fn add(&mut self, grads: Vec<TrackedTensor>) -> Result<()> {
        self.add_at(grads, 1.0, Site::caller())
    }

    /// Adds the gradients of a micro-batch with its weight.
    ///
    /// # Errors
    /// As [`add`](Self::add); [`Error::InvalidArgument`] for a weight that is negative or not
    /// finite, and where gradients are not weighted.
    #[track_caller]
    pub fn add_weighted(&mut self, grads: Vec<TrackedTensor>, weight: f64) -> Result<()> {
        let site = Site::caller();
        if self.kind != Kind::Weighted {
            let reason = "weights are for GradientAccumulator::weighted()";
            return Err(Error::argument("accumulate", reason).or_at(site));
        }
        if !(weight.is_finite() && weight >= 0.0) {
            let reason = format!("the weight {weight} is not a finite number of 0 or more");
            return Err(Error::argument("accumulate", reason).or_at(site));
        }
        self.add_at(grads, weight, site)
    }

    fn add_at(&mut self, grads: Vec<TrackedTensor>, weight: f64, site: Site) -> Result<()> {
        if let Some(error) = grads.iter().find_map(TrackedTensor::failure) {
            return Err(error.clone().or_at(site));
        }
        if self.count > 0 {
            if grads.len() != self.metas.len() {
                let reason = format!("{} gradients after {} before", grads.len(), self.metas.len());
                return Err(Error::argument("accumulate", reason).or_at(site));
            }
            for (grad, want) in grads.iter().zip(&self.metas) {
                if grad.meta() != *want {
                    let (got, want) = (Box::new(grad.meta()), Box::new(*want));
                    let what = "the gradient of a micro-batch";
                    return Err(Error::Mismatch { what, got, want, at: At::from(site) });
                }
            }
        }
        let metas: Vec<Meta> = grads.iter().map(TrackedTensor::meta).collect();
        let mut scaled = Vec::with_capacity(grads.len());
        for grad in grads {
            let wide = match grad.dtype() {
                DType::BF16 | DType::F16 => cast(&grad, DType::F32),
                _ => Ok(grad),
            };
            let grad = if weight == 1.0 { wide } else { wide.and_then(|grad| scale(&grad, weight)) };
            scaled.push(grad.map_err(|e| e.or_at(site))?);
        }
        if self.count == 0 {
            (self.sums, self.metas) = (scaled, metas);
        } else {
            let sums = std::mem::take(&mut self.sums);
            let added = sums.into_iter().zip(&scaled).map(|(sum, grad)| accumulate(sum, grad));
            self.sums = added.collect::<Result<_>>().map_err(|e| e.or_at(site))?;
        }
        self.count += 1;
        self.weight += weight;
        Ok(())
    }

    /// How many micro-batches were added.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The accumulated gradients; the accumulator is empty again, for the next step.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] where nothing was added, or nothing with a weight above 0.
    #[track_caller]
    pub fn finish(&mut self) -> Result<Vec<TrackedTensor>> {
        let site = Site::caller();
        if self.count == 0 {
            return Err(Error::argument("accumulate", "no gradients were added").or_at(site));
        }
        let factor = match self.kind {
            Kind::Sum => 1.0,
            Kind::Mean => 1.0 / self.count as f64,
            Kind::Weighted if self.weight > 0.0 => 1.0 / self.weight,
            Kind::Weighted => {
                return Err(Error::argument("accumulate", "all weights are 0").or_at(site));
            }
        };
        let taken = std::mem::replace(self, Self::of(self.kind));
        let each = taken.sums.into_iter().zip(taken.metas).map(|(sum, meta)| {
            let whole = if factor == 1.0 { Ok(sum) } else { scale(&sum, factor) };
            whole.and_then(|sum| cast(&sum, meta.dtype)).map_err(|e| e.or_at(site))
        });
        each.collect()
    }

    /// Runs `f` on every micro-batch, on the pool of threads where the feature `parallel` is on,
    /// and adds what it gives: gradients and their weight (which only
    /// [`weighted`](Self::weighted) reads). Gradients are added in the order of the micro-batches,
    /// whichever thread made them, so the result is that of a plain loop to the bit.
    ///
    /// `f` makes a tape of its own for each micro-batch. Pauses (`no_grad`) of the caller hold in
    /// it; taps do not. While the pool works on this, kernels inside `f` run on one thread each.
    /// Not many more gradients are alive at a time than there are threads.
    ///
    /// # Errors
    /// The error of the first micro-batch that has one; what was added before it stays.
    ///
    /// # Panics
    /// A panic in `f` is thrown again here.
    ///
    /// ```
    /// use autograd_core::{Result, TrackedTensor};
    /// use autograd_tape::{GradientAccumulator, GradientTape};
    ///
    /// fn main() -> Result<()> {
    ///     let w = TrackedTensor::scalar(2.0);
    ///     let mut mean = GradientAccumulator::mean();
    ///     mean.over(&[1.0, 3.0, 5.0], |x| {
    ///         let tape = GradientTape::new();
    ///         let w = tape.variable(&w);
    ///         let loss = (&w * *x)?;
    ///         Ok((tape.gradient(&loss, &[&w])?, 1.0))
    ///     })?;
    ///     assert_eq!(mean.finish()?[0].to_scalar::<f64>()?, 3.0);
    ///     Ok(())
    /// }
    /// ```
    #[track_caller]
    pub fn over<B: Sync>(
        &mut self,
        batches: &[B],
        f: impl Fn(&B) -> Result<(Vec<TrackedTensor>, f64)> + Sync,
    ) -> Result<()> {
        let site = Site::caller();
        let pauses = Pauses::current();
        let line = Line {
            state: Mutex::new(Waiting { next: 0, made: BTreeMap::new(), merging: Some(self), stopped: None }),
            moved: Condvar::new(),
            ahead: 2 * autograd_core::kernels::threads::threads(),
            site,
        };
        let claimed = AtomicUsize::new(0);
        parallel_for(batches.len(), &|_| {
            // Claimed in order here, because tasks may be handed out in any.
            let i = claimed.fetch_add(1, Ordering::Relaxed);
            if !line.wait_for(i) {
                return;
            }
            let stop = StopOnPanic { line: &line, done: false };
            let made = pauses.clone().scope(|| f(&batches[i]));
            stop.passed();
            line.hand_in(i, made);
        });
        match line.state.into_inner().stopped {
            Some((_, error)) => Err(error.or_at(site)),
            None => Ok(()),
        }
    }
}

type Made = Result<(Vec<TrackedTensor>, f64)>;

/// The line in which micro-batches stand to be added.
struct Line<'a> {
    state: Mutex<Waiting<'a>>,
    moved: Condvar,
    /// How far a thread may run ahead of the slowest one.
    ahead: usize,
    site: Site,
}

struct Waiting<'a> {
    /// The micro-batch to be added next.
    next: usize,
    made: BTreeMap<usize, Made>,
    /// The accumulator, while nobody adds to it.
    merging: Option<&'a mut GradientAccumulator>,
    /// The first micro-batch that failed, and why.
    stopped: Option<(usize, Error)>,
}

impl Line<'_> {
    /// Waits until micro-batch `i` is not too far ahead; false where it need not run any more.
    fn wait_for(&self, i: usize) -> bool {
        let mut state = self.state.lock();
        while state.stopped.is_none() && i >= state.next + self.ahead {
            // The thread with micro-batch `next` never waits: the line moves.
            self.moved.wait(&mut state);
        }
        state.stopped.as_ref().is_none_or(|(failed, _)| i < *failed)
    }

    /// Puts the gradients of micro-batch `i` in line, and adds all whose turn it is. Nothing is
    /// added under the lock.
    fn hand_in(&self, i: usize, made: Made) {
        let mut state = self.state.lock();
        state.made.insert(i, made);
        let Some(sum) = state.merging.take() else { return };
        loop {
            let next = state.next;
            let Some(made) = state.made.remove(&next).filter(|_| state.stopped.is_none()) else { break };
            drop(state);
            let added = made.and_then(|(grads, weight)| match sum.kind {
                Kind::Weighted => sum.add_weighted(grads, weight),
                Kind::Sum | Kind::Mean => sum.add_at(grads, 1.0, self.site),
            });
            state = self.state.lock();
            match added {
                Ok(()) => state.next += 1,
                Err(error) => state.stopped = Some((next, error)),
            }
            self.moved.notify_all();
        }
        state.merging = Some(sum);
    }
}

/// Lets nobody wait for a thread that panicked.
struct StopOnPanic<'a, 'b> {
    line: &'a Line<'b>,
    done: bool,
}

impl StopOnPanic<'_, '_> {
    fn passed(mut self) {
        self.done = true;
    }
}

impl Drop for StopOnPanic<'_, '_> {
    fn drop(&mut self) {
        if !self.done {
            self.line.state.lock().stopped = Some((0, Error::msg("a micro-batch panicked")));
            self.line.moved.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::GradientTape;
    use autograd_core::algebra::{mul, sum_to};
    use autograd_core::kernels::threads::set_threads;
    use autograd_core::{Shape, no_grad};

    fn vector(x: &[f64]) -> Result<TrackedTensor> {
        TrackedTensor::from_vec(x.to_vec(), &[x.len()])
    }

    #[test]
    fn sum_mean_and_weighted_mean() -> Result<()> {
        let parts =
            || -> Result<_> { Ok([vector(&[1.0, 2.0])?, vector(&[3.0, 4.0])?, vector(&[8.0, 0.0])?]) };
        for (mut acc, want) in [
            (GradientAccumulator::sum(), [12.0, 6.0]),
            (GradientAccumulator::mean(), [4.0, 2.0]),
            (GradientAccumulator::weighted(), [4.0, 2.0]),
        ] {
            for part in parts()? {
                acc.add(vec![part])?;
            }
            assert_eq!((acc.count(), acc.finish()?[0].to_vec1::<f64>()?), (3, want.to_vec()));
            // Empty again.
            assert_eq!(acc.count(), 0);
            assert!(matches!(acc.finish(), Err(Error::InvalidArgument { .. })));
        }
        let mut acc = GradientAccumulator::weighted();
        for (part, weight) in parts()?.into_iter().zip([1.0, 2.0, 1.0]) {
            acc.add_weighted(vec![part], weight)?;
        }
        assert_eq!(acc.finish()?[0].to_vec1::<f64>()?, [3.75, 2.5]);
        Ok(())
    }

    #[test]
    fn micro_batches_give_the_gradient_of_the_batch() -> Result<()> {
        let w = vector(&[0.5, -1.5])?;
        let gradient = |rows: &[[f64; 2]]| -> Result<Vec<TrackedTensor>> {
            let tape = GradientTape::new();
            let w = tape.variable(&w);
            let x = TrackedTensor::from_vec(rows.concat(), &[rows.len(), 2])?;
            let out = sum_to(&mul(&x, &w)?, &Shape::new(&[rows.len(), 1]))?;
            let loss = (&sum_to(&mul(&out, &out)?, &Shape::SCALAR)? * (1.0 / rows.len() as f64))?;
            tape.gradient(&loss, &[&w])
        };
        let rows = [[1.0, 2.0], [3.0, -1.0], [0.5, 0.25], [2.0, 2.0], [-1.0, 1.0]];
        let whole = gradient(&rows)?[0].to_vec1::<f64>()?;
        let mut acc = GradientAccumulator::weighted();
        for part in rows.chunks(2) {
            acc.add_weighted(gradient(part)?, part.len() as f64)?;
        }
        for (a, b) in acc.finish()?[0].to_vec1::<f64>()?.iter().zip(whole) {
            // The same sums in another order, of five rows.
            assert!((a - b).abs() < 1e-14, "{a} {b}");
        }
        Ok(())
    }

    #[test]
    fn half_precision_keeps_small_contributions() -> Result<()> {
        for dtype in [DType::BF16, DType::F16] {
            let mut acc = GradientAccumulator::sum();
            acc.add(vec![cast(&vector(&[1.0])?, dtype)?])?;
            // A quarter of the distance between 1 and the next number of 11 bits: lost one by one.
            for _ in 0..4096 {
                acc.add(vec![cast(&vector(&[1.0 / 4096.0])?, dtype)?])?;
            }
            let sum = acc.finish()?;
            assert_eq!((sum[0].dtype(), cast(&sum[0], DType::F64)?.to_vec1::<f64>()?), (dtype, vec![2.0]));
        }
        Ok(())
    }

    #[test]
    fn what_does_not_fit_is_an_error_and_changes_nothing() -> Result<()> {
        let mut acc = GradientAccumulator::mean();
        acc.add(vec![vector(&[1.0, 2.0])?])?;
        assert!(matches!(acc.add(vec![]), Err(Error::InvalidArgument { .. })));
        let here = line!() + 1;
        let error = acc.add(vec![vector(&[1.0])?]).err();
        assert!(matches!(&error, Some(Error::Mismatch { .. })));
        assert_eq!(error.and_then(|e| e.site()).map(|s| s.line()), Some(here));
        assert!(matches!(
            acc.add_weighted(vec![vector(&[1.0, 2.0])?], 2.0),
            Err(Error::InvalidArgument { .. })
        ));
        let single = cast(&vector(&[1.0, 2.0])?, DType::F32)?;
        assert!(matches!(acc.add(vec![single]), Err(Error::Mismatch { .. })));
        assert_eq!((acc.count(), acc.finish()?[0].to_vec1::<f64>()?), (1, vec![1.0, 2.0]));
        let mut acc = GradientAccumulator::weighted();
        assert!(acc.add_weighted(vec![vector(&[1.0])?], f64::NAN).is_err());
        acc.add_weighted(vec![vector(&[1.0])?], 0.0)?;
        assert!(matches!(acc.finish(), Err(Error::InvalidArgument { .. })));
        Ok(())
    }

    /// A gradient whose bits depend on the order of summation.
    fn rough(i: &usize) -> Made {
        let tape = GradientTape::new();
        let x = tape.variable(vector(&[1.0 / (*i as f64 + 3.0), 1e8 / (*i as f64 + 1.0)])?);
        let y = sum_to(&mul(&x, &mul(&x, &x)?)?, &Shape::SCALAR)?;
        // Later micro-batches are done sooner.
        std::thread::sleep(std::time::Duration::from_micros(((7 * i) % 5 * 100) as u64));
        Ok((tape.gradient(&y, &[&x])?, 1.0 + *i as f64))
    }

    #[test]
    fn threads_give_the_loops_result_to_the_bit() -> Result<()> {
        let batches: Vec<usize> = (0..40).collect();
        let mut alone = GradientAccumulator::weighted();
        for i in &batches {
            let (grads, weight) = rough(i)?;
            alone.add_weighted(grads, weight)?;
        }
        let alone = alone.finish()?[0].to_vec1::<f64>()?;
        for threads in [1, 2, 3, 8] {
            set_threads(threads);
            let mut acc = GradientAccumulator::weighted();
            acc.over(&batches, rough)?;
            assert_eq!(acc.count(), batches.len());
            assert_eq!(acc.finish()?[0].to_vec1::<f64>()?, alone, "{threads} threads");
        }
        set_threads(0);
        Ok(())
    }

    #[test]
    fn the_first_failing_micro_batch_is_reported() -> Result<()> {
        let batches: Vec<usize> = (0..40).collect();
        for _ in 0..20 {
            let mut acc = GradientAccumulator::sum();
            let error = acc.over(&batches, |&i| match i {
                11 | 12 | 30 => Err(Error::msg(format!("batch {i}"))),
                _ => Ok((vec![vector(&[1.0])?], 1.0)),
            });
            assert_eq!(error.map_err(|e| e.to_string()), Err("batch 11".to_owned()));
            assert_eq!(acc.count(), 11);
        }
        Ok(())
    }

    #[test]
    fn a_panic_comes_out_and_nobody_waits_for_ever() {
        for _ in 0..10 {
            let batches: Vec<usize> = (0..40).collect();
            let caught = std::panic::catch_unwind(|| {
                GradientAccumulator::sum().over(&batches, |&i| {
                    assert!(i != 5, "batch 5 fails");
                    Ok((vec![vector(&[1.0])?], 1.0))
                })
            });
            assert!(caught.is_err());
        }
    }

    #[test]
    fn pauses_hold_in_micro_batches() -> Result<()> {
        let outer = GradientTape::new();
        let w = outer.variable(vector(&[2.0])?);
        let recorded = outer.len();
        no_grad(|| GradientAccumulator::sum().over(&[1.0, 2.0, 3.0], |x| Ok((vec![(&w * *x)?], 1.0))))?;
        assert_eq!(outer.len(), recorded);
        Ok(())
    }
}
