//! Batching: a function of one example mapped over a batch without a loop.

use crate::axes::{Axes, Mapped};
use autograd_core::algebra::{broadcast_to, narrow, permute};
use autograd_core::smallvec::SmallVec;
use autograd_core::{
    Applied, Call, Error, Level, Mask, Result, Rule, Scope, Shape, Site, Tracer, TrackedTensor, Tree, Values,
    captured, checked_shape, on_behalf_of,
};
use candle_core::{DType, DeviceLocation};
use std::any::Any;
use std::fmt;
use std::sync::Arc;

/// A value that stands for one example of a batch; the batch dimension is the inner value's
/// first.
struct BatchTracer {
    level: Level,
    value: TrackedTensor,
    /// The shape of one example.
    shape: Shape,
    size: usize,
    scope: Scope,
}

impl BatchTracer {
    fn join(level: Level, value: TrackedTensor, size: usize, scope: &Scope) -> TrackedTensor {
        let shape = Shape::new(&value.dims()[1..]);
        TrackedTensor::from_tracer(Arc::new(Self { level, value, shape, size, scope: scope.clone() }))
    }

    fn of(level: Level, value: &TrackedTensor) -> Option<&Self> {
        value.tracer()?.as_any().downcast_ref::<Self>().filter(|batch| batch.level == level)
    }
}

impl fmt::Debug for BatchTracer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "batch of {} level {}", self.size, self.level.number())
    }
}

impl Tracer for BatchTracer {
    fn level(&self) -> Level {
        self.level
    }

    fn shape(&self) -> &Shape {
        &self.shape
    }

    fn dtype(&self) -> DType {
        self.value.dtype()
    }

    fn device(&self) -> DeviceLocation {
        self.value.location()
    }

    fn lower(&self) -> Option<&TrackedTensor> {
        None
    }

    fn captured(&self) -> Option<TrackedTensor> {
        captured(&self.value)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn process(&self, call: &Call<'_>) -> Result<Applied> {
        let Call { op, inputs, site, .. } = *call;
        self.scope.check(site)?;
        if let Rule::Opaque(_) = op.rule() {
            return Err(Error::mode(
                op.name(),
                "batching",
                "a CustomOp sees whole tensors; call it outside of vmap",
            ));
        }
        let batched = Mask::of(inputs.len(), |i| Self::of(self.level, inputs[i]).is_some());
        let inner: SmallVec<[&TrackedTensor; 4]> =
            inputs.iter().map(|x| Self::of(self.level, x).map_or(*x, |b| &b.value)).collect();
        if let Some(outputs) = on_behalf_of(site, || op.batch(batched, &inner, self.size))? {
            for output in &outputs {
                if output.dims().first() != Some(&self.size) {
                    let reason =
                        format!("its batch rule gave {} for a batch of {}", output.shape(), self.size);
                    return Err(Error::internal(op.name(), reason));
                }
            }
            let outputs = outputs.into_iter().map(|y| Self::join(self.level, y, self.size, &self.scope));
            return Ok(Applied { outputs: outputs.collect(), aux: Values::new() });
        }
        let parts = on_behalf_of(site, || op.decompose(inputs))?;
        let outputs = parts.ok_or_else(|| {
            Error::mode(op.name(), "batching", "it has neither a batch rule nor a decomposition")
        })?;
        Ok(Applied { outputs, aux: Values::new() })
    }
}

/// `f` mapped over a dimension of its arguments. `axes` says which: `0` or another dimension for
/// all of them, `[Some(0), None]` for each one (`None`: the same for all examples), or a
/// [`Mask`] of the arguments whose first dimension is mapped. Outputs carry the batch in front;
/// [`Vmap`] puts it elsewhere and works in chunks.
///
/// # Errors
/// [`Error::InvalidArgument`] where the mapped dimensions are not there or differ in extent;
/// [`Error::UnsupportedMode`] for an op that cannot be batched; what `f` reports.
///
/// ```
/// use autograd_core::{Result, TrackedTensor};
/// use autograd_ops::TensorAutograd;
/// use autograd_transforms::vmap;
///
/// fn main() -> Result<()> {
///     let w = TrackedTensor::from_vec(vec![1f64, 2.], &[2])?;
///     let xs = TrackedTensor::from_vec(vec![1f64, 0., 0., 1., 1., 1.], &[3, 2])?;
///     let ys = vmap(|(w, x)| w.dot(x), &(&w, &xs), [None, Some(0)])?;
///     assert_eq!(ys.to_vec1::<f64>()?, [1.0, 2.0, 3.0]);
///     Ok(())
/// }
/// ```
#[track_caller]
pub fn vmap<P, O>(f: impl FnOnce(&P::Owned) -> Result<O>, inputs: &P, axes: impl Into<Axes>) -> Result<O>
where
    P: Tree + ?Sized,
    O: Tree<Owned = O>,
{
    let site = Site::caller();
    let mapped = Mapped::of("vmap", inputs, &axes.into(), site)?;
    let leaves = mapped.in_front(inputs).map_err(|e| e.or_at(site))?;
    batched(f, inputs, leaves, mapped.size, site)
}

/// Runs `f` on leaves whose first dimension is the batch where they are `Some`; outputs have it
/// in front.
fn batched<P, O>(
    f: impl FnOnce(&P::Owned) -> Result<O>,
    inputs: &P,
    leaves: Vec<(TrackedTensor, bool)>,
    size: usize,
    site: Site,
) -> Result<O>
where
    P: Tree + ?Sized,
    O: Tree<Owned = O>,
{
    let level = Level::fresh();
    let guard = Scope::enter("vmap", site);
    let examples = leaves.into_iter().map(|(x, mapped)| match mapped {
        true => BatchTracer::join(level, x, size, guard.scope()),
        false => x,
    });
    let examples = inputs.with_leaves(examples)?;
    let outputs = f(&examples)?;
    outputs.rebuild(&mut |y| {
        if let Some(error) = y.failure() {
            return Err(error.clone().or_at(site));
        }
        match BatchTracer::of(level, y) {
            Some(batch) => Ok(batch.value.clone()),
            None => {
                let dims: SmallVec<[usize; 8]> =
                    std::iter::once(size).chain(y.dims().iter().copied()).collect();
                broadcast_to(y, &checked_shape("vmap", &dims)?)
            }
        }
    })
}

/// Mapping with its options: where the batch goes in the outputs, and in how large chunks it is
/// worked on.
///
/// ```
/// use autograd_core::{Result, TrackedTensor};
/// use autograd_ops::TensorAutograd;
/// use autograd_transforms::Vmap;
///
/// fn main() -> Result<()> {
///     // The columns of x, two at a time; each gives a row of two, and they stand side by side.
///     let x = TrackedTensor::from_vec(vec![1f64, 2., 3., 4., 5., 6.], &[2, 3])?;
///     let doubled = Vmap::over(1).to(1).chunk_size(2).run(|column| column.mul(2.0), &x)?;
///     assert_eq!(doubled.to_vec2::<f64>()?, [[2., 4., 6.], [8., 10., 12.]]);
///     Ok(())
/// }
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct Vmap {
    axes: Axes,
    out: Vec<isize>,
    chunk_size: Option<usize>,
}

impl Vmap {
    /// A mapping over dimensions of the arguments, as [`vmap`] takes them.
    pub fn over(axes: impl Into<Axes>) -> Self {
        Self { axes: axes.into(), out: vec![0], chunk_size: None }
    }

    /// The dimension that the batch becomes in every output.
    pub fn to(mut self, dim: isize) -> Self {
        self.out = vec![dim];
        self
    }

    /// The dimension that the batch becomes in each leaf of the output.
    pub fn to_each(mut self, dims: &[isize]) -> Self {
        self.out = dims.to_vec();
        self
    }

    /// At most so many examples at once: less memory for a little time.
    pub fn chunk_size(mut self, examples: usize) -> Self {
        self.chunk_size = Some(examples);
        self
    }

    /// Maps `f`.
    ///
    /// # Errors
    /// As [`vmap`]; [`Error::InvalidArgument`] for a chunk of nothing, or a place in the outputs
    /// that is not there.
    #[track_caller]
    pub fn run<P, O>(&self, f: impl Fn(&P::Owned) -> Result<O>, inputs: &P) -> Result<O>
    where
        P: Tree + ?Sized,
        O: Tree<Owned = O>,
    {
        let site = Site::caller();
        let mapped = Mapped::of("vmap", inputs, &self.axes, site)?;
        let leaves = mapped.in_front(inputs).map_err(|e| e.or_at(site))?;
        let step = self.chunk_size.unwrap_or(mapped.size.max(1));
        if step == 0 {
            return Err(Error::argument("vmap", "chunks of 0 examples never end").or_at(site));
        }
        let mut parts: Vec<O> = Vec::new();
        let mut start = 0;
        loop {
            let size = step.min(mapped.size - start);
            let chunk = leaves.iter().map(|(x, is)| {
                Ok((if *is && size < mapped.size { narrow(x, 0, start, size)? } else { x.clone() }, *is))
            });
            let chunk = chunk.collect::<Result<Vec<_>>>().map_err(|e| e.or_at(site))?;
            parts.push(batched(&f, inputs, chunk, size, site)?);
            start += size;
            if start >= mapped.size {
                break;
            }
        }
        self.placed(joined(parts, site)?, site)
    }

    /// Outputs with the batch where it was asked for.
    fn placed<O: Tree<Owned = O>>(&self, outputs: O, site: Site) -> Result<O> {
        let leaves = outputs.leaves().len();
        if self.out.len() != 1 && self.out.len() != leaves {
            let reason = format!("{} places given for {leaves} outputs", self.out.len());
            return Err(Error::argument("vmap", reason).or_at(site));
        }
        let mut places = self.out.iter().cycle();
        outputs.rebuild(&mut |y| {
            let dim = places.next().copied().unwrap_or(0);
            let to = autograd_core::resolve_dim(dim, y.rank()).ok_or_else(|| {
                let reason = format!("no place {dim} for the batch in an output of shape {}", y.shape());
                Error::argument("vmap", reason).or_at(site)
            })?;
            if to == 0 {
                return Ok(y.clone());
            }
            let mut order: SmallVec<[usize; 8]> = (1..y.rank()).collect();
            order.insert(to, 0);
            permute(y, &order)
        })
    }
}

/// The outputs of several chunks as one.
pub(crate) fn joined<O: Tree<Owned = O>>(mut parts: Vec<O>, site: Site) -> Result<O> {
    if parts.len() == 1
        && let Some(only) = parts.pop()
    {
        return Ok(only);
    }
    let leaves: Vec<Vec<&TrackedTensor>> = parts.iter().map(Tree::leaves).collect();
    let Some(first) = parts.first() else { return Err(Error::internal("vmap", "no chunk was run")) };
    for part in &parts[1..] {
        autograd_core::same_structure("the outputs of a chunk", part, first, site)?;
    }
    let mut i = 0;
    first.rebuild(&mut |_| {
        let column: Vec<&TrackedTensor> = leaves.iter().map(|part| part[i]).collect();
        i += 1;
        autograd_ops::cat(&column, 0).map_err(|e| e.or_at(site))
    })
}
