//! A loop as one op: a state carried over the elements of a sequence.
//!
//! The body is traced once; whatever the number of steps, a tape holds one node and a graph one
//! instruction. The reverse rule is a loop again, from the last step to the first, so derivatives
//! of every order, batches and captures follow. What the body needs of the past is the state at
//! the entry of each step: saved while the loop runs, or recomputed by a second one.

use crate::batch::vmap;
use autograd_core::algebra::{fill, narrow, reshape};
use autograd_core::smallvec::{SmallVec, smallvec};
use autograd_core::{
    Closure, Composed, Error, General, Grads, Mask, Meta, Prim, Primitive, Program, Residual, Residuals,
    Result, Rule, Saved, Shape, Signature, Site, SliceMut, TrackedTensor, Values, View, apply, checked_shape,
    close, eval_composed, heard, is_float,
};
use autograd_forward::jvp;
use autograd_ops::{TensorAutograd, stack};
use autograd_tape::GradientTape;
use std::sync::Arc;

/// What a step gives: the next state, and the step's own results.
pub type Step = (Vec<TrackedTensor>, Vec<TrackedTensor>);

/// How a loop runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScanOptions {
    /// The number of steps, where no sequence gives it.
    pub length: Option<usize>,
    /// From the last element to the first; results stand where their elements stand.
    pub reverse: bool,
    /// Keep the inputs alone for the backward pass, and run the loop again there for the states:
    /// memory of one state instead of one for each step, for one more forward pass.
    pub recompute: bool,
}

/// The final state, and each step's results stacked: `body` is run for each element of the first
/// dimension of `sequences`, on the state and that element.
///
/// ```text
/// for t in 0..n { (state, y[t]) = body(state, x[t]) }
/// ```
///
/// The body may close over other values, watched or not: gradients reach them.
///
/// # Errors
/// Sequences of different lengths, or none (see [`scan_with`]); a state that changes its shape or
/// type; a body that reads numbers; whatever the body reports.
///
/// ```
/// use autograd_core::{Result, TrackedTensor};
/// use autograd_ops::TensorAutograd;
/// use autograd_transforms::{grad, scan};
///
/// fn main() -> Result<()> {
///     // s ← w·s + x over x = 1, 2, 3 from s = 0: ((1)w + 2)w + 3 = w² + 2w + 3.
///     let x = TrackedTensor::from_vec(vec![1f64, 2., 3.], &[3])?;
///     let last = |w: &TrackedTensor| {
///         let start = TrackedTensor::scalar(0.0);
///         let step = |s: &[TrackedTensor], x: &[TrackedTensor]| {
///             let next = s[0].mul(w)?.add(&x[0])?;
///             Ok((vec![next.clone()], vec![next]))
///         };
///         let (state, sums) = scan(step, &[&start], &[&x])?;
///         assert_eq!(sums[0].dims(), [3]);
///         Ok(state[0].clone())
///     };
///     let w = TrackedTensor::scalar(5.0);
///     assert_eq!(last(&w)?.to_scalar::<f64>()?, 38.0);
///     assert_eq!(grad(|w| last(&w[0]), &[&w])?[0].to_scalar::<f64>()?, 12.0);
///     Ok(())
/// }
/// ```
#[track_caller]
pub fn scan(
    body: impl FnOnce(&[TrackedTensor], &[TrackedTensor]) -> Result<Step>,
    state: &[&TrackedTensor],
    sequences: &[&TrackedTensor],
) -> Result<Step> {
    run_scan(body, state, sequences, &ScanOptions::default(), Site::caller())
}

/// [`scan`] with a given number of steps, from the end, or with states recomputed.
///
/// # Errors
/// As [`scan`].
#[track_caller]
pub fn scan_with(
    body: impl FnOnce(&[TrackedTensor], &[TrackedTensor]) -> Result<Step>,
    state: &[&TrackedTensor],
    sequences: &[&TrackedTensor],
    options: &ScanOptions,
) -> Result<Step> {
    run_scan(body, state, sequences, options, Site::caller())
}

fn run_scan(
    body: impl FnOnce(&[TrackedTensor], &[TrackedTensor]) -> Result<Step>,
    state: &[&TrackedTensor],
    sequences: &[&TrackedTensor],
    options: &ScanOptions,
    site: Site,
) -> Result<Step> {
    let wrong = |reason: String| Error::argument("scan", reason).or_at(site);
    if let Some(error) = state.iter().chain(sequences).find_map(|x| x.failure()) {
        return Err(error.clone());
    }
    let mut length = options.length;
    for (i, sequence) in sequences.iter().enumerate() {
        let Some(&extent) = sequence.dims().first() else {
            return Err(wrong(format!("sequence {i} has no dimension to run over")));
        };
        let known = *length.get_or_insert(extent);
        if known != extent {
            return Err(wrong(format!("sequence {i} has {extent} elements, not {known}")));
        }
    }
    let length = length.ok_or_else(|| wrong("no sequence and no length is given".to_owned()))?;
    let mut arguments: Vec<Meta> = state.iter().map(|x| x.meta()).collect();
    arguments.extend(sequences.iter().map(|x| element_meta(&x.meta())));
    let (carried, mut results) = (state.len(), 0);
    let traced = close(
        |x| {
            let (next, ys) = body(&x[..carried], &x[carried..])?;
            if next.len() != carried {
                let reason = format!("the body gave {} states for {carried}", next.len());
                return Err(Error::argument("scan", reason));
            }
            results = ys.len();
            Ok(next.into_iter().chain(ys).collect())
        },
        &arguments,
    );
    let Closure { program, captured, .. } = traced.map_err(|e| e.or_at(site))?;
    for (i, (next, meta)) in program.output_metas().iter().zip(&arguments[..carried]).enumerate() {
        if next.shape != meta.shape || next.dtype != meta.dtype {
            let (want, got) = (meta.shape, next.shape);
            let reason = format!("state {i} is {want} {:?} and becomes {got} {:?}", meta.dtype, next.dtype);
            return Err(wrong(reason));
        }
    }
    let all: Vec<&TrackedTensor> = state.iter().chain(sequences).copied().chain(&captured).collect();
    let op = Scan {
        body: Arc::new(program),
        carried,
        sequences: sequences.len(),
        results,
        length,
        reverse: options.reverse,
        entries: !options.recompute && carried > 0 && all.iter().any(|x| heard(x).is_tracked()),
    };
    let mut made = op.apply(&all).map_err(|e| e.or_at(site))?.into_vec();
    made.truncate(carried + results);
    let results = made.split_off(carried);
    Ok((made, results))
}

/// The loop. Inputs: state, sequences, constants. Outputs: the final state, results, and where
/// they are kept the states at the entry of each step.
#[derive(Clone, Debug)]
struct Scan {
    body: Arc<Program>,
    carried: usize,
    sequences: usize,
    results: usize,
    length: usize,
    reverse: bool,
    entries: bool,
}

/// The meta of one element of a sequence.
fn element_meta(sequence: &Meta) -> Meta {
    sequence.with_shape(Shape::new(&sequence.shape.dims()[1..]))
}

/// The meta of `length` values in a row.
fn sequence_meta(element: &Meta, length: usize) -> Result<Meta> {
    let dims: SmallVec<[usize; 8]> =
        std::iter::once(length).chain(element.shape.dims().iter().copied()).collect();
    Ok(element.with_shape(checked_shape("scan", &dims)?))
}

/// Element `t` of a sequence.
fn element(sequence: &TrackedTensor, t: usize) -> Result<TrackedTensor> {
    let shape = Shape::new(&sequence.dims()[1..]);
    reshape(&narrow(sequence, 0, t, 1)?, &shape)
}

impl Scan {
    fn apply(&self, inputs: &[&TrackedTensor]) -> Result<Values> {
        if inputs.len() > Mask::CAPACITY {
            let reason = format!(
                "{} states, sequences and constants, of at most {}: stack some of them",
                inputs.len(),
                Mask::CAPACITY
            );
            return Err(Error::argument("scan", reason));
        }
        apply(self, inputs)
    }

    /// The constants' place among the inputs.
    fn constants(&self) -> usize {
        self.carried + self.sequences
    }

    /// The steps in the order in which they run.
    fn steps(&self) -> impl Iterator<Item = usize> {
        let (length, reverse) = (self.length, self.reverse);
        (0..length).map(move |t| if reverse { length - 1 - t } else { t })
    }

    /// The loop step by step, through whatever watches the inputs.
    fn unrolled(&self, inputs: &[&TrackedTensor]) -> Result<Values> {
        let mut state: Vec<TrackedTensor> = inputs[..self.carried].iter().map(|x| (*x).clone()).collect();
        let kept = if self.entries { self.carried } else { 0 };
        let mut rows: Vec<Vec<TrackedTensor>> = vec![Vec::new(); self.results + kept];
        for t in self.steps() {
            let elements: Vec<TrackedTensor> = inputs[self.carried..self.constants()]
                .iter()
                .map(|sequence| element(sequence, t))
                .collect::<Result<_>>()?;
            let arguments: Vec<&TrackedTensor> =
                state.iter().chain(&elements).chain(inputs[self.constants()..].iter().copied()).collect();
            let mut made = self.body.run(&arguments)?;
            for (row, result) in rows.iter_mut().zip(made.split_off(self.carried)) {
                row.push(result);
            }
            let before = std::mem::replace(&mut state, made);
            if kept > 0 {
                for (row, entry) in rows[self.results..].iter_mut().zip(before) {
                    row.push(entry);
                }
            }
        }
        let metas = self.result_metas();
        for (mut row, meta) in rows.into_iter().zip(metas) {
            if self.reverse {
                row.reverse();
            }
            state.push(match row.as_slice() {
                [] => fill(
                    0.0,
                    &sequence_meta(&meta, 0)?,
                    inputs.first().copied().unwrap_or(&TrackedTensor::scalar(0.0)),
                )?,
                row => stack(row, 0)?,
            });
        }
        Ok(state.into())
    }

    /// The metas of one step's results, and of the entries where they are kept.
    fn result_metas(&self) -> Vec<Meta> {
        let mut metas = self.body.output_metas().split_off(self.carried);
        if self.entries {
            metas.extend(&self.body.inputs[..self.carried]);
        }
        metas
    }

    /// The states at the entry of each step: kept ones, or those of a loop that keeps them.
    fn entries(&self, saved: &Saved<'_>) -> Result<Vec<TrackedTensor>> {
        let first = self.carried + self.results;
        if self.entries {
            return (first..first + self.carried).map(|j| saved.output(j).cloned()).collect();
        }
        if self.carried == 0 {
            return Ok(Vec::new());
        }
        let inputs: Vec<&TrackedTensor> =
            (0..saved.inputs.len()).map(|i| saved.input(i)).collect::<Result<_>>()?;
        let made = Self { entries: true, ..self.clone() }.apply(&inputs)?;
        Ok(made[first..].to_vec())
    }
}

impl Primitive for Scan {
    fn name(&self) -> &'static str {
        "scan"
    }

    fn keep(&self) -> Prim {
        Prim::Shared(Arc::new(self.clone()))
    }

    fn infer(&self, _: &[Meta]) -> Result<Signature> {
        let mut outputs: SmallVec<[Meta; 1]> = self.body.inputs[..self.carried].iter().copied().collect();
        for meta in self.result_metas() {
            outputs.push(sequence_meta(&meta, self.length)?);
        }
        Ok(Signature { outputs, aux: smallvec![] })
    }

    fn eval_into(&self, inputs: &[View<'_>], outputs: &mut [SliceMut<'_>]) -> Result<()> {
        eval_composed(self, self, inputs, outputs)
    }

    fn composed(&self) -> Option<&dyn Composed> {
        Some(self)
    }

    fn rule(&self) -> Rule<'_> {
        Rule::General(self)
    }

    fn decompose(&self, inputs: &[&TrackedTensor]) -> Result<Option<Values>> {
        self.unrolled(inputs).map(Some)
    }

    fn batch(&self, batched: Mask, inputs: &[&TrackedTensor], size: usize) -> Result<Option<Values>> {
        // A state is batched once any input is; a sequence carries the batch after its steps.
        let mut given: Vec<TrackedTensor> = Vec::with_capacity(inputs.len());
        let mut metas: Vec<Meta> = Vec::with_capacity(inputs.len());
        for (i, x) in inputs.iter().enumerate() {
            let x = if i < self.carried && !batched.has(i) {
                let meta = sequence_meta(&x.meta(), size)?;
                autograd_core::algebra::broadcast_to(x, &meta.shape)?
            } else if i >= self.carried && i < self.constants() && batched.has(i) {
                x.transpose(0, 1)?
            } else {
                (*x).clone()
            };
            let sequence = i >= self.carried && i < self.constants();
            metas.push(if sequence { element_meta(&x.meta()) } else { x.meta() });
            given.push(x);
        }
        let mask = Mask::of(inputs.len(), |i| i < self.carried || batched.has(i));
        let body = close(|x| vmap(|x| self.body.run(&x.iter().collect::<Vec<_>>()), x, mask), &metas)?;
        let op = Self { body: Arc::new(body.program), ..self.clone() };
        let all: Vec<&TrackedTensor> = given.iter().chain(&body.captured).collect();
        let mut made = op.apply(&all)?;
        for row in &mut made[self.carried..] {
            *row = row.transpose(0, 1)?;
        }
        Ok(Some(made))
    }
}

impl Composed for Scan {
    fn run(&self, inputs: &[&TrackedTensor]) -> Result<Values> {
        self.unrolled(inputs)
    }
}

impl General for Scan {
    fn residuals(&self, _: Mask) -> Residuals {
        // The states that came in are the first entries, where those are kept.
        let from = if self.entries { self.carried } else { 0 };
        let mut reads: Residuals = (from..self.body.inputs.len()).map(Residual::Input).collect();
        if self.entries {
            let first = self.carried + self.results;
            reads.extend((first..first + self.carried).map(Residual::Output));
        }
        reads
    }

    // A loop from the other end. State: the state's cotangents and the constants' so far.
    // Sequences: entries, elements, cotangents of results and of entries. Results: the elements'
    // cotangents.
    fn vjp(&self, wanted: Mask, cts: &[Option<TrackedTensor>], saved: &Saved<'_>) -> Result<Grads> {
        let n = saved.inputs.len();
        let mut grads: Grads = smallvec![None; n];
        let Some(like) = cts.iter().flatten().next() else { return Ok(grads) };
        let float = |i: usize| is_float(saved.inputs[i].dtype);
        let states: Vec<usize> = (0..self.carried).filter(|&i| float(i)).collect();
        let moving: Vec<usize> =
            (self.carried..self.constants()).filter(|&i| float(i) && wanted.has(i)).collect();
        let weights: Vec<usize> = (self.constants()..n).filter(|&i| float(i) && wanted.has(i)).collect();
        // Results and entries that have a cotangent.
        let seeded: Vec<usize> = (self.carried..saved.outputs.len()).filter(|&j| cts[j].is_some()).collect();
        let mut init = Vec::new();
        for &i in &states {
            init.push(match &cts[i] {
                Some(ct) => ct.clone(),
                None => fill(0.0, &saved.outputs[i], like)?,
            });
        }
        for &i in &weights {
            init.push(fill(0.0, &saved.inputs[i], like)?);
        }
        let mut rows = self.entries(saved)?;
        for i in self.carried..self.constants() {
            rows.push(saved.input(i)?.clone());
        }
        rows.extend(seeded.iter().filter_map(|&j| cts[j].clone()));
        let constants: Vec<&TrackedTensor> =
            (self.constants()..n).map(|i| saved.input(i)).collect::<Result<_>>()?;

        let mut arguments: Vec<Meta> = init.iter().map(TrackedTensor::meta).collect();
        arguments.extend(rows.iter().map(|x| element_meta(&x.meta())));
        arguments.extend(constants.iter().map(|x| x.meta()));
        let body = close(
            |x| {
                let (sums, x) = x.split_at(init.len());
                let (ct_state, ct_weights) = sums.split_at(states.len());
                let (primals, x) = x.split_at(self.constants());
                let (seeds, x) = x.split_at(seeded.len());
                let tape = GradientTape::new();
                let mut primals: Vec<TrackedTensor> = primals.iter().chain(x).cloned().collect();
                for &i in states.iter().chain(&moving).chain(&weights) {
                    primals[i] = tape.try_variable(&primals[i])?;
                }
                let made = self.body.run(&primals.iter().collect::<Vec<_>>())?;
                let seeds_of_entries: Vec<(usize, &TrackedTensor)> = seeded
                    .iter()
                    .zip(seeds)
                    .filter(|(j, _)| **j >= self.carried + self.results)
                    .map(|(j, seed)| (j - self.carried - self.results, seed))
                    .collect();
                let pairs = states.iter().zip(ct_state).map(|(&i, ct)| (&made[i], ct)).chain(
                    seeded
                        .iter()
                        .zip(seeds)
                        .filter(|(j, _)| **j < self.carried + self.results)
                        .map(|(&j, seed)| (&made[j], seed)),
                );
                let (targets, seeds): (Vec<_>, Vec<_>) = pairs.filter(|(y, _)| tape.watches(y)).unzip();
                let sources: Vec<&TrackedTensor> =
                    states.iter().chain(&moving).chain(&weights).map(|&i| &primals[i]).collect();
                let mut pulled: Vec<TrackedTensor> = if targets.is_empty() {
                    sources.iter().map(|x| fill(0.0, &x.meta(), x)).collect::<Result<_>>()?
                } else {
                    tape.gradient_with(&targets, &seeds, &sources)?
                };
                for (entry, seed) in seeds_of_entries {
                    if let Some(at) = states.iter().position(|&i| i == entry) {
                        pulled[at] = pulled[at].add(seed)?;
                    }
                }
                let of_weights = pulled.split_off(states.len() + moving.len());
                let of_elements = pulled.split_off(states.len());
                for (sum, ct) in ct_weights.iter().zip(of_weights) {
                    pulled.push(sum.add(ct)?);
                }
                pulled.extend(of_elements);
                Ok(pulled)
            },
            &arguments,
        )?;
        let all: Vec<&TrackedTensor> =
            init.iter().chain(&rows).chain(constants).chain(&body.captured).collect();
        let back = Self {
            body: Arc::new(body.program),
            carried: init.len(),
            sequences: rows.len(),
            results: moving.len(),
            length: self.length,
            reverse: !self.reverse,
            entries: self.entries && all.iter().any(|x| heard(x).is_tracked()),
        };
        let made = back.apply(&all)?;
        let places = states.iter().chain(&weights).chain(&moving);
        for (&i, grad) in places.zip(made) {
            grads[i] = Some(grad).filter(|_| wanted.has(i));
        }
        Ok(grads)
    }

    // The loop over states and tangents side by side.
    fn jvp(
        &self,
        inputs: &[&TrackedTensor],
        outputs: &[TrackedTensor],
        tangents: &[Option<TrackedTensor>],
    ) -> Result<Option<SmallVec<[Option<TrackedTensor>; 2]>>> {
        let n = inputs.len();
        // A state moves as soon as anything does.
        let moves = |i: usize| is_float(inputs[i].dtype()) && (i < self.carried || tangents[i].is_some());
        let moving: Vec<usize> = (0..n).filter(|&i| moves(i)).collect();
        let within = |range: std::ops::Range<usize>| moving.iter().filter(move |i| range.contains(i)).count();
        let counts =
            [within(0..self.carried), within(self.carried..self.constants()), within(self.constants()..n)];
        let vectors: Vec<TrackedTensor> = moving
            .iter()
            .map(|&i| tangents[i].clone().map_or_else(|| fill(0.0, &inputs[i].meta(), inputs[i]), Ok))
            .collect::<Result<_>>()?;
        let (of_state, rest) = vectors.split_at(counts[0]);
        let (of_rows, of_constants) = rest.split_at(counts[1]);
        let mut all: Vec<&TrackedTensor> = inputs[..self.carried].iter().copied().chain(of_state).collect();
        let carried = all.len();
        all.extend(inputs[self.carried..self.constants()].iter().copied().chain(of_rows));
        let sequences = all.len() - carried;
        all.extend(inputs[self.constants()..].iter().copied().chain(of_constants));
        let arguments: Vec<Meta> = all
            .iter()
            .enumerate()
            .map(
                |(i, x)| {
                    if i >= carried && i < carried + sequences { element_meta(&x.meta()) } else { x.meta() }
                },
            )
            .collect();
        let floats: Vec<usize> = {
            let metas = self.body.output_metas();
            (0..metas.len()).filter(|&j| is_float(metas[j].dtype)).collect()
        };
        let body = close(
            |x| {
                let (state, x) = x.split_at(self.carried);
                let (d_state, x) = x.split_at(counts[0]);
                let (rows, x) = x.split_at(self.sequences);
                let (d_rows, x) = x.split_at(counts[1]);
                let (constants, d_constants) = x.split_at(n - self.constants());
                let primals: Vec<TrackedTensor> =
                    state.iter().chain(rows).chain(constants).cloned().collect();
                let given: Vec<&TrackedTensor> = moving.iter().map(|&i| &primals[i]).collect();
                let vectors: Vec<&TrackedTensor> = d_state.iter().chain(d_rows).chain(d_constants).collect();
                let (mut ys, dys) = jvp(
                    |x| {
                        let mut primals = primals.clone();
                        for (&i, x) in moving.iter().zip(x) {
                            primals[i] = x.clone();
                        }
                        self.body.run(&primals.iter().collect::<Vec<_>>())
                    },
                    &given,
                    &vectors,
                )?;
                ys.truncate(self.carried);
                ys.extend(floats.iter().map(|&j| dys[j].clone()));
                Ok(ys)
            },
            &arguments,
        )?;
        all.extend(&body.captured);
        let op = Self {
            body: Arc::new(body.program),
            carried,
            sequences,
            results: floats.iter().filter(|&&j| j >= self.carried).count(),
            length: self.length,
            reverse: self.reverse,
            entries: self.entries,
        };
        let made = op.apply(&all)?;
        let mut dys: SmallVec<[Option<TrackedTensor>; 2]> = smallvec![None; outputs.len()];
        for (&j, dy) in floats.iter().zip(&made[self.carried..]) {
            dys[j] = Some(dy.clone());
        }
        if self.entries {
            let entries = &made[op.carried + op.results + self.carried..];
            let states = (0..self.carried).filter(|&i| is_float(inputs[i].dtype()));
            for (i, entry) in states.zip(entries) {
                dys[self.carried + self.results + i] = Some(entry.clone());
            }
        }
        Ok(Some(dys))
    }
}
