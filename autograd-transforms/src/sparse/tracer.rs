//! Structure detection: a level on which every element carries the set of inputs that it depends
//! on, while the numbers are computed below.

use super::pattern::SparsityPattern;
use super::probe::{Probe, Reads};
use super::sets::{EMPTY, IndexSets, SetId};
use crate::single::gradient;
use autograd_core::kernels::expr::{Binary, Node, Program, Unary};
use autograd_core::smallvec::SmallVec;
use autograd_core::{
    Applied, Call, DType, DeviceLocation, Error, Layout, Level, Mask, Meta, Pointwise, Result, Rule, Shape,
    Site, Tracer, TrackedTensor, Values, apply_call, is_float, on_behalf_of,
};
use parking_lot::Mutex;
use std::any::Any;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

/// A value whose elements know what they depend on.
struct DependencyTracer {
    level: Level,
    value: TrackedTensor,
    /// The set of each element, in row-major order.
    elements: Arc<[SetId]>,
    sets: Arc<Mutex<IndexSets>>,
}

impl DependencyTracer {
    fn of(level: Level, value: &TrackedTensor) -> Option<&Self> {
        value.tracer()?.as_any().downcast_ref::<Self>().filter(|found| found.level == level)
    }

    /// A value with its sets; just the value where all are empty.
    fn join(&self, value: TrackedTensor, elements: Vec<SetId>) -> TrackedTensor {
        if elements.iter().all(|&set| set == EMPTY) {
            return value;
        }
        let (level, sets) = (self.level, self.sets.clone());
        TrackedTensor::from_tracer(Arc::new(Self { level, value, elements: elements.into(), sets }))
    }
}

impl fmt::Debug for DependencyTracer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "structure level {}", self.level.number())
    }
}

impl Tracer for DependencyTracer {
    fn level(&self) -> Level {
        self.level
    }

    fn shape(&self) -> &Shape {
        self.value.shape()
    }

    fn dtype(&self) -> DType {
        self.value.dtype()
    }

    fn device(&self) -> DeviceLocation {
        self.value.location()
    }

    fn lower(&self) -> Option<&TrackedTensor> {
        Some(&self.value)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn process(&self, call: &Call<'_>) -> Result<Applied> {
        let Call { op, inputs, aux, site } = *call;
        let found: SmallVec<[Option<&Self>; 4]> = inputs.iter().map(|x| Self::of(self.level, x)).collect();
        let values: SmallVec<[&TrackedTensor; 4]> =
            inputs.iter().zip(&found).map(|(x, found)| found.map_or(*x, |f| &f.value)).collect();
        let evaluate = || apply_call(op, &values, aux, site);
        match op.rule() {
            Rule::Flat => evaluate(),
            Rule::Pointwise(pointwise) => {
                let made = evaluate()?;
                self.with_sets(made, |output, meta| self.pointwise(pointwise, &found, &values, output, meta))
            }
            Rule::Linear(linear, _) => {
                let made = evaluate()?;
                let is_linear = |i: usize| linear.has(i);
                self.with_sets(made, |output, meta| {
                    let mut elements = vec![EMPTY; meta.elements()];
                    for (i, found) in found.iter().enumerate() {
                        let Some(found) = found.filter(|_| linear.has(i)) else { continue };
                        let probe = Probe { op, inputs: &values, linear: &is_linear, asked: i, site };
                        let reads = on_behalf_of(site, || probe.reads(output, meta))?;
                        self.read(&mut elements, &reads, found)?;
                    }
                    Ok(elements)
                })
            }
            // Linear in either with the other held: what each reads does not depend on the other's
            // numbers, which the probe sets to one.
            Rule::Bilinear(a, b, _) => {
                let made = evaluate()?;
                self.with_sets(made, |output, meta| {
                    let mut elements = vec![EMPTY; meta.elements()];
                    for i in [a, b] {
                        let Some(found) = found[i] else { continue };
                        let is_linear = |k: usize| k == i;
                        let probe = Probe { op, inputs: &values, linear: &is_linear, asked: i, site };
                        let reads = on_behalf_of(site, || probe.reads(output, meta))?;
                        self.read(&mut elements, &reads, found)?;
                    }
                    Ok(elements)
                })
            }
            // Its parts say more than "everything".
            Rule::General(_) | Rule::Composite => match on_behalf_of(site, || op.decompose(inputs))? {
                Some(outputs) => Ok(Applied { outputs, aux: Values::new() }),
                None => self.dense(evaluate()?, &found),
            },
            Rule::Opaque(_) => self.dense(evaluate()?, &found),
        }
    }
}

impl DependencyTracer {
    fn with_sets(
        &self,
        made: Applied,
        mut sets: impl FnMut(usize, &Meta) -> Result<Vec<SetId>>,
    ) -> Result<Applied> {
        let mut outputs = Values::new();
        for (j, value) in made.outputs.into_iter().enumerate() {
            let elements = sets(j, &value.meta())?;
            outputs.push(self.join(value, elements));
        }
        Ok(Applied { outputs, aux: made.aux })
    }

    /// Nothing is known of the op: every element of every float output depends on all of every
    /// input.
    fn dense(&self, made: Applied, found: &[Option<&Self>]) -> Result<Applied> {
        let mut all: Vec<SetId> =
            found.iter().flatten().flat_map(|found| found.elements.iter().copied()).collect();
        let all = self.sets.lock().union_of(&mut all)?;
        self.with_sets(made, |_, meta| {
            Ok(vec![if is_float(meta.dtype) { all } else { EMPTY }; meta.elements()])
        })
    }

    /// Adds what each element reads to its set.
    fn read(&self, elements: &mut [SetId], reads: &Reads, from: &Self) -> Result<()> {
        let mut sets = self.sets.lock();
        match reads {
            Reads::One(places) => {
                for (element, place) in elements.iter_mut().zip(places) {
                    if let Some(place) = place {
                        *element = sets.union(*element, from.elements[*place as usize])?;
                    }
                }
            }
            Reads::Product { names, lists } => {
                // Many outputs read the same: a row of a product of matrices, say.
                let mut known: HashMap<&[u32], SetId> = HashMap::new();
                let dims = from.value.dims();
                for (element, names) in elements.iter_mut().zip(names) {
                    let all = match known.get(&names[..]) {
                        Some(all) => *all,
                        None => {
                            let mut places = vec![0usize];
                            for (dim, &name) in names.iter().enumerate() {
                                let list = &lists[dim][name as usize];
                                places = places
                                    .iter()
                                    .flat_map(|place| {
                                        list.iter().map(move |&i| place * dims[dim] + i as usize)
                                    })
                                    .collect();
                            }
                            let mut ids = places.into_iter().map(|place| from.elements[place]).collect();
                            let all = sets.union_of(&mut ids)?;
                            known.insert(names, all);
                            all
                        }
                    };
                    *element = sets.union(*element, all)?;
                }
            }
        }
        Ok(())
    }

    /// Element by element, with broadcasting.
    fn pointwise(
        &self,
        op: &Pointwise,
        found: &[Option<&Self>],
        values: &[&TrackedTensor],
        output: usize,
        made: &Meta,
    ) -> Result<Vec<SetId>> {
        let moving = moving_inputs(op.expr().program(), output);
        let mut elements = vec![EMPTY; made.elements()];
        let mut sets = self.sets.lock();
        for (i, found) in found.iter().enumerate() {
            let Some(found) = found.filter(|_| moving.has(i)) else { continue };
            if values[i].shape() == &made.shape {
                for (element, set) in elements.iter_mut().zip(found.elements.iter()) {
                    *element = sets.union(*element, *set)?;
                }
                continue;
            }
            let layout = Layout::contiguous(*values[i].shape()).broadcast_to(&made.shape);
            let layout = layout.ok_or_else(|| {
                Error::shape(op.definition().name, &[*values[i].shape(), made.shape], "they do not broadcast")
            })?;
            for (at, element) in elements.iter_mut().enumerate() {
                *element = sets.union(*element, found.elements[layout.index_of(at)])?;
            }
        }
        Ok(elements)
    }
}

/// The inputs on which an output of an expression depends other than through steps: comparisons,
/// signs and roundings have derivative zero, and a condition only chooses.
fn moving_inputs(program: &Program, output: usize) -> Mask {
    let mut of: Vec<Mask> = Vec::with_capacity(program.nodes().len());
    let union = |a: Mask, b: Mask| b.iter().fold(a, Mask::with);
    for node in program.nodes() {
        of.push(match *node {
            Node::Input(i) => Mask::one(usize::from(i)),
            Node::Param(_) | Node::Const(_) => Mask::EMPTY,
            Node::Unary(Unary::Sign | Unary::Floor | Unary::Ceil | Unary::Round, _) => Mask::EMPTY,
            Node::Unary(_, a) => of[a as usize],
            Node::Binary(
                Binary::Lt | Binary::Le | Binary::Gt | Binary::Ge | Binary::Eq | Binary::Ne,
                _,
                _,
            ) => Mask::EMPTY,
            Node::Binary(_, a, b) | Node::Select(_, a, b) => union(of[a as usize], of[b as usize]),
        });
    }
    of[program.outputs()[output] as usize]
}

/// The structure of the Jacobian of `f` at `x`: which elements of the output can depend on which
/// elements of the input, in row-major order.
///
/// Pointwise ops keep elements apart, linear ops are asked what they read (see the notes in
/// `probe.rs`), others are taken apart into those. The structure holds for every x at which `f`
/// takes the same branches: numbers of `x` are used only where `f` itself reads them, and entries
/// that happen to be zero stay. An op that cannot be taken apart (a
/// [`CustomOp`](autograd_core::CustomOp)) counts as depending on everything. Time and memory grow
/// with the number of entries, not with the product of the extents.
///
/// # Errors
/// [`Error::NotDifferentiable`] for integers, [`Error::InvalidArgument`] where the structure is too
/// dense to be kept as lists, and what `f` reports.
///
/// ```
/// use autograd_core::{Result, TrackedTensor};
/// use autograd_ops::TensorAutograd;
/// use autograd_transforms::sparse::jacobian_sparsity;
///
/// fn main() -> Result<()> {
///     let x = TrackedTensor::from_vec(vec![1f64, 2., 3.], &[3])?;
///     let pattern = jacobian_sparsity(|x| x.cumsum(0), &x)?;
///     assert_eq!([pattern.row(0), pattern.row(1), pattern.row(2)], [&[0][..], &[0, 1], &[0, 1, 2]]);
///     Ok(())
/// }
/// ```
#[track_caller]
pub fn jacobian_sparsity(
    f: impl FnOnce(&TrackedTensor) -> Result<TrackedTensor>,
    x: &TrackedTensor,
) -> Result<SparsityPattern> {
    let site = Site::caller();
    if let Some(error) = x.failure() {
        return Err(error.clone());
    }
    if !is_float(x.dtype()) {
        return Err(Error::NotDifferentiable { dtype: x.dtype(), at: site.into() });
    }
    let n = x.elem_count();
    let sets = Arc::new(Mutex::new(IndexSets::of_inputs(n).map_err(|e| e.or_at(site))?));
    let level = Level::fresh();
    let elements: Arc<[SetId]> = (1..=n as SetId).collect();
    let value = DependencyTracer { level, value: x.clone(), elements, sets: sets.clone() };
    let y = f(&TrackedTensor::from_tracer(Arc::new(value)))?;
    if let Some(error) = y.failure() {
        return Err(error.clone());
    }
    let mut offsets = Vec::with_capacity(y.elem_count() + 1);
    let mut indices: Vec<u32> = Vec::new();
    offsets.push(0);
    let sets = sets.lock();
    let found = DependencyTracer::of(level, &y);
    for i in 0..y.elem_count() {
        indices.extend_from_slice(found.map_or(&[], |found| sets.members(found.elements[i])));
        offsets.push(indices.len());
    }
    Ok(SparsityPattern::from_parts(n, offsets, indices))
}

/// The structure of the Hessian of a scalar function at `x`: that of the Jacobian of its gradient.
/// Where a gradient's rule reads more than its derivative does, the structure is made symmetric by
/// joining it with its transpose.
///
/// # Errors
/// As [`jacobian_sparsity`], and [`Error::NonScalarTarget`].
#[track_caller]
pub fn hessian_sparsity(
    f: impl FnOnce(&TrackedTensor) -> Result<TrackedTensor>,
    x: &TrackedTensor,
) -> Result<SparsityPattern> {
    let pattern = jacobian_sparsity(|x| gradient(f, x), x)?;
    let transposed = pattern.transpose();
    if pattern == transposed {
        return Ok(pattern);
    }
    let rows: Vec<Vec<usize>> = (0..pattern.rows())
        .map(|i| pattern.row(i).iter().chain(transposed.row(i)).map(|&j| j as usize).collect())
        .collect();
    SparsityPattern::from_rows(&rows, pattern.columns())
}
