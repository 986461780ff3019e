//! Pointwise ops: a scalar expression applied to every element, with NumPy broadcasting.

use crate::algebra;
use crate::apply::{apply, apply_one};
use crate::error::{At, Error, Result};
use crate::in_place::write_over;
use crate::mask::Mask;
use crate::meta::{Meta, is_float};
use crate::primitive::{Prim, Primitive, Signature};
use crate::rule::{Cotangents, Grads, Residual, Residuals, Rule, Saved};
use crate::scalar::{Reverse, ScalarExpr};
use crate::tracer::Values;
use crate::value::TrackedTensor;
use autograd_kernels::expr::{Node, Program, Reg};
use autograd_kernels::{Shape, SliceMut, View, machine};
use candle_core::DType;
use smallvec::SmallVec;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

/// What a pointwise op is: made once, shared by all its applications.
#[derive(Debug)]
pub struct Definition {
    /// The op's name.
    pub name: &'static str,
    /// What it computes.
    pub expr: ScalarExpr,
    /// Inputs that may be of another type than the rest: masks, which are only ever asked whether
    /// they are 0. It follows from the expression, and so holds for derived expressions too.
    pub masks: Mask,
    /// Whether the output is a mask of bytes.
    pub to_mask: bool,
    /// Whether the derivative is zero almost everywhere.
    pub flat: bool,
}

impl Definition {
    /// A differentiable op of floats.
    pub fn new(name: &'static str, expr: ScalarExpr) -> Self {
        let masks = conditions(expr.program());
        Self { name, expr, masks, to_mask: false, flat: false }
    }

    /// An op whose derivative is zero almost everywhere.
    pub fn flat(name: &'static str, expr: ScalarExpr) -> Self {
        Self { flat: true, ..Self::new(name, expr) }
    }

    /// A flat op whose result is a mask of bytes, 0 or 1.
    pub fn mask(name: &'static str, expr: ScalarExpr) -> Self {
        Self { to_mask: true, flat: true, ..Self::new(name, expr) }
    }
}

/// Cotangents of fewer elements are not written over: they come and go in a cache.
const OVER_FROM: usize = 32 * 1024;

/// The inputs that a program reads as conditions only.
fn conditions(program: &Program) -> Mask {
    let mut asked = Mask::EMPTY;
    let mut computed = Mask::EMPTY;
    let input = |reg: Reg| match program.nodes()[reg as usize] {
        Node::Input(i) => Some(usize::from(i)),
        _ => None,
    };
    for node in program.nodes() {
        let (condition, operands) = match *node {
            Node::Select(c, a, b) => (input(c), [Some(a), Some(b)]),
            Node::Unary(_, a) => (None, [Some(a), None]),
            Node::Binary(_, a, b) => (None, [Some(a), Some(b)]),
            Node::Input(_) | Node::Param(_) | Node::Const(_) => (None, [None, None]),
        };
        asked = condition.map_or(asked, |i| asked.with(i));
        computed = operands.into_iter().flatten().filter_map(input).fold(computed, Mask::with);
    }
    computed = program.outputs().iter().copied().filter_map(input).fold(computed, Mask::with);
    asked.iter().filter(|&i| !computed.has(i)).collect()
}

#[derive(Clone)]
enum DefinitionRef {
    Static(&'static Definition),
    Shared(Arc<Definition>),
}

/// The numbers that an application of a definition carries.
pub type Params = SmallVec<[f64; 2]>;

/// A pointwise op: a definition and its parameters.
pub struct Pointwise {
    definition: DefinitionRef,
    params: Params,
}

// By hand: numbers are copied as a whole.
impl Clone for Pointwise {
    #[inline]
    fn clone(&self) -> Self {
        Self { definition: self.definition.clone(), params: Params::from_slice(&self.params) }
    }
}

impl Pointwise {
    /// An op without parameters.
    pub fn of(definition: &'static Definition) -> Self {
        Self { definition: DefinitionRef::Static(definition), params: Params::new() }
    }

    /// An op with parameters.
    pub fn with(definition: &'static Definition, params: &[f64]) -> Self {
        Self { definition: DefinitionRef::Static(definition), params: SmallVec::from_slice(params) }
    }

    /// An op made at run time.
    pub fn shared(definition: Arc<Definition>, params: &[f64]) -> Self {
        Self { definition: DefinitionRef::Shared(definition), params: SmallVec::from_slice(params) }
    }

    /// The definition.
    pub fn definition(&self) -> &Definition {
        match &self.definition {
            DefinitionRef::Static(definition) => definition,
            DefinitionRef::Shared(definition) => definition,
        }
    }

    /// Whether the op is one of a registry, rather than a rule derived from one.
    pub(crate) fn is_static(&self) -> bool {
        matches!(self.definition, DefinitionRef::Static(_))
    }

    /// The expression.
    pub fn expr(&self) -> &ScalarExpr {
        &self.definition().expr
    }

    /// The parameters.
    pub fn params(&self) -> &[f64] {
        &self.params
    }

    fn name(&self) -> &'static str {
        self.definition().name
    }

    /// The residuals of the reverse rule: those of the expression.
    pub fn residuals(&self, wanted: Mask, outputs: usize) -> Residuals {
        self.expr().reverse(wanted, Mask::first(outputs), |reverse| SmallVec::from_slice(&reverse.residuals))
    }

    /// The cotangents of the wanted inputs: one fused pass, with the sums over broadcast
    /// dimensions in it.
    ///
    /// # Errors
    /// Whatever the evaluation or the levels below report.
    pub fn vjp(&self, wanted: Mask, cts: &Cotangents, saved: &Saved<'_>) -> Result<Grads> {
        let given = Mask::of(cts.len(), |j| cts[j].is_some());
        if given.is_empty() || wanted.is_empty() {
            return Ok(smallvec::smallvec![None; saved.inputs.len()]);
        }
        self.expr().reverse(wanted, given, |reverse| self.pull(reverse, wanted, cts, saved))
    }

    /// As [`vjp`](Self::vjp), and one gradient of a large cotangent's shape is written over the
    /// cotangent where nobody else has that: memory that has just been read, and none beside it.
    ///
    /// # Errors
    /// Whatever the evaluation or the levels below report.
    pub fn vjp_over(&self, wanted: Mask, cts: &mut Cotangents, saved: &Saved<'_>) -> Result<Grads> {
        let mut all = wanted.iter();
        if let (Some(i), None, [Some(ct)]) = (all.next(), all.next(), &mut cts[..])
            && ct.shape().elements() >= OVER_FROM
            && saved.inputs[i].shape == *ct.shape()
        {
            let done = self.expr().reverse(wanted, Mask::one(0), |reverse| {
                if reverse.direct.iter().any(Option::is_some) {
                    return Ok(false);
                }
                let mut rest: SmallVec<[&TrackedTensor; 6]> = SmallVec::new();
                for residual in &reverse.residuals {
                    rest.push(self.residual(residual, saved)?);
                }
                write_over(&self.derived(&reverse.definition), ct, &rest)
            })?;
            if done {
                let mut grads: Grads = saved.inputs.iter().map(|_| None).collect();
                grads[i] = cts.pop().flatten();
                return Ok(grads);
            }
        }
        self.vjp(wanted, cts, saved)
    }

    /// What a reverse rule reads.
    fn residual<'s>(&self, residual: &Residual, saved: &'s Saved<'_>) -> Result<&'s TrackedTensor> {
        match *residual {
            Residual::Input(i) => saved.input(i),
            Residual::Output(j) => saved.output(j),
            Residual::Aux(_) => Err(Error::internal(self.name(), "an expression has no hints")),
        }
    }

    /// Runs a reverse rule.
    fn pull(&self, reverse: &Reverse, wanted: Mask, cts: &Cotangents, saved: &Saved<'_>) -> Result<Grads> {
        let mut grads = Grads::new();
        saved.inputs.iter().for_each(|_| grads.push(None));
        // A cotangent that passes through as it is costs nothing but its sum.
        if reverse.direct.iter().any(Option::is_some) {
            let mut rest = Mask::EMPTY;
            for (i, direct) in wanted.iter().zip(&reverse.direct) {
                match direct.and_then(|slot| cts.iter().flatten().nth(slot)) {
                    Some(ct) => grads[i] = Some(algebra::sum_to(ct, &saved.inputs[i].shape)?),
                    None => rest = rest.with(i),
                }
            }
            for (grad, computed) in grads.iter_mut().zip(self.vjp(rest, cts, saved)?) {
                *grad = grad.take().or(computed);
            }
            return Ok(grads);
        }
        let mut inputs: SmallVec<[&TrackedTensor; 6]> = SmallVec::new();
        cts.iter().flatten().for_each(|ct| inputs.push(ct));
        let given = inputs.len();
        for residual in &reverse.residuals {
            inputs.push(self.residual(residual, saved)?);
        }
        // 1 times the other factor is that factor, whose numbers nothing else can change.
        let whole = saved.outputs[0].shape;
        let factor = |k: &Option<usize>| {
            let factor = inputs[given + (*k)?];
            (*factor.shape() == whole && factor.plain().is_some_and(|plain| plain.is_own())).then_some(factor)
        };
        if reverse.factor.iter().any(|k| factor(k).is_some())
            && inputs[0].plain().and_then(|ct| ct.literal()) == Some(1.0)
        {
            let mut rest = Mask::EMPTY;
            for (i, k) in wanted.iter().zip(&reverse.factor) {
                match factor(k) {
                    Some(factor) => grads[i] = Some(algebra::sum_to(factor, &saved.inputs[i].shape)?),
                    None => rest = rest.with(i),
                }
            }
            for (grad, computed) in grads.iter_mut().zip(self.vjp(rest, cts, saved)?) {
                *grad = grad.take().or(computed);
            }
            return Ok(grads);
        }
        // One gradient of the output's own shape, which an operand has: nothing is summed.
        let whole = &saved.outputs[0].shape;
        let mut one = wanted.iter();
        if let (Some(i), None) = (one.next(), one.next())
            && saved.inputs[i].shape == *whole
            && inputs[0].shape() == whole
        {
            grads[i] = Some(apply_one(&self.derived(&reverse.definition), &inputs)?);
            return Ok(grads);
        }
        let targets: SmallVec<[Shape; 2]> = wanted.iter().map(|i| saved.inputs[i].shape).collect();
        let out = self.fused(&reverse.definition, &inputs, *whole, &targets)?;
        for (i, ct) in wanted.iter().zip(out) {
            grads[i] = Some(ct);
        }
        Ok(grads)
    }

    /// The tangents of the outputs.
    ///
    /// # Errors
    /// Whatever the evaluation or the levels below report.
    pub fn jvp(
        &self,
        inputs: &[&TrackedTensor],
        outputs: &[TrackedTensor],
        tangents: &[Option<TrackedTensor>],
    ) -> Result<SmallVec<[Option<TrackedTensor>; 2]>> {
        let moving = Mask::of(tangents.len(), |i| tangents[i].is_some());
        let forward = self.expr().forward(moving);
        let mut reads: SmallVec<[&TrackedTensor; 6]> = SmallVec::new();
        for residual in &forward.residuals {
            reads.push(match *residual {
                Residual::Input(i) => inputs[i],
                Residual::Output(j) => &outputs[j],
                Residual::Aux(_) => {
                    return Err(Error::internal(self.name(), "an expression has no hints"));
                }
            });
        }
        reads.extend(tangents.iter().flatten());
        let shape = *outputs[0].shape();
        let targets: SmallVec<[Shape; 2]> = outputs.iter().map(|_| shape).collect();
        let out = self.fused(&forward.definition, &reads, shape, &targets)?;
        Ok(out.into_iter().map(Some).collect())
    }

    /// A derived expression with this op's parameters.
    fn derived(&self, definition: &Arc<Definition>) -> Self {
        Self { definition: DefinitionRef::Shared(definition.clone()), params: self.params.clone() }
    }

    /// Evaluates a derived expression, with this op's parameters, over `shape` and sums each output
    /// down to its target.
    ///
    /// # Errors
    /// Whatever the evaluation or the levels below report.
    pub fn fused(
        &self,
        definition: &Arc<Definition>,
        inputs: &[&TrackedTensor],
        shape: Shape,
        targets: &[Shape],
    ) -> Result<Values> {
        let op = self.derived(definition);
        let whole = inputs.iter().any(|x| *x.shape() == shape);
        if whole && targets.iter().all(|target| *target == shape) {
            return match targets {
                [_] => Ok(smallvec::smallvec![apply_one(&op, inputs)?]),
                _ => apply(&op, inputs),
            };
        }
        apply(&ReducedPointwise { op, shape, targets: SmallVec::from_slice(targets) }, inputs)
    }
}

impl fmt::Debug for Pointwise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({:?}) {:?}", self.name(), self.params, self.expr().program())
    }
}

/// The broadcast shape and common type of a pointwise op's inputs.
fn common(op: &Pointwise, inputs: &[Meta]) -> Result<Meta> {
    let definition = op.definition();
    let mut whole: Option<Meta> = None;
    for (i, meta) in inputs.iter().enumerate().filter(|(i, _)| !definition.masks.has(*i)) {
        let Some(so_far) = whole else {
            whole = Some(*meta);
            continue;
        };
        if so_far.dtype != meta.dtype {
            let dtypes = inputs.iter().map(|m| m.dtype).collect();
            return Err(Error::DTypeMismatch { op: definition.name, dtypes, at: At::default() });
        }
        let _ = i;
    }
    let mut whole = whole.ok_or_else(|| Error::internal(definition.name, "it has only masks"))?;
    if !is_float(whole.dtype) && !definition.to_mask {
        return Err(Error::dtype(definition.name, whole.dtype, "convert to a float type with to_dtype"));
    }
    for meta in inputs {
        if whole.shape != meta.shape {
            whole.shape = whole.shape.broadcast(&meta.shape).ok_or_else(|| {
                let shapes: Vec<Shape> = inputs.iter().map(|m| m.shape).collect();
                Error::shape(definition.name, &shapes, "they do not broadcast to one shape")
            })?;
        }
    }
    Ok(whole)
}

impl Primitive for Pointwise {
    fn name(&self) -> &'static str {
        Pointwise::name(self)
    }

    fn keep(&self) -> Prim {
        Prim::Pointwise(self.clone())
    }

    fn infer(&self, inputs: &[Meta]) -> Result<Signature> {
        let mut meta = match inputs {
            [x] if self.definition().masks.is_empty() && is_float(x.dtype) => *x,
            _ => common(self, inputs)?,
        };
        if self.definition().to_mask {
            meta.dtype = DType::U8;
        }
        let outputs = self.expr().program().outputs().iter().map(|_| meta).collect();
        Ok(Signature { outputs, aux: SmallVec::new() })
    }

    fn as_pointwise(&self) -> Option<&Pointwise> {
        Some(self)
    }

    fn operations(&self, inputs: &[Meta]) -> u64 {
        let widest = inputs.iter().map(Meta::elements).max().unwrap_or(0);
        self.expr().operations() * widest as u64
    }

    fn may_alias(&self, _: usize, _: usize) -> bool {
        !self.definition().to_mask
    }

    fn eval_into(&self, inputs: &[View<'_>], outputs: &mut [SliceMut<'_>]) -> Result<()> {
        let mut shape = *inputs[0].layout.shape();
        for view in &inputs[1..] {
            let other = view.layout.shape();
            if *other != shape {
                shape = shape
                    .broadcast(other)
                    .ok_or_else(|| Error::shape(self.name(), &[shape, *other], "they do not broadcast"))?;
            }
        }
        machine::run(self.expr().program(), &self.params, inputs, &shape, outputs);
        Ok(())
    }

    fn eval_over(&self, x: SliceMut<'_>, shape: &Shape, rest: &[View<'_>]) -> Result<bool> {
        if self.definition().to_mask || self.expr().program().outputs().len() != 1 {
            return Ok(false);
        }
        machine::run_over(self.expr().program(), &self.params, 0, x, shape, rest);
        Ok(true)
    }

    fn rule(&self) -> Rule<'_> {
        if self.definition().flat { Rule::Flat } else { Rule::Pointwise(self) }
    }

    fn batch(&self, batched: Mask, inputs: &[&TrackedTensor], _: usize) -> Result<Option<Values>> {
        // Align the logical dimensions: the batch dimension stays in front of all of them.
        let rank = |i: usize| inputs[i].rank() - usize::from(batched.has(i));
        let widest = (0..inputs.len()).map(rank).max().unwrap_or(0);
        let mut aligned: SmallVec<[TrackedTensor; 4]> = SmallVec::new();
        for (i, x) in inputs.iter().enumerate() {
            aligned.push(if batched.has(i) && rank(i) < widest {
                let mut dims: SmallVec<[usize; 8]> = SmallVec::from_slice(&x.dims()[..1]);
                dims.resize(1 + widest - rank(i), 1);
                dims.extend_from_slice(&x.dims()[1..]);
                algebra::reshape(x, &crate::value::checked_shape(self.name(), &dims)?)?
            } else {
                (*x).clone()
            });
        }
        let refs: SmallVec<[&TrackedTensor; 4]> = aligned.iter().collect();
        Ok(Some(apply(self, &refs)?))
    }
}

/// An expression whose outputs are summed down to smaller shapes in the same pass: what a
/// pointwise reverse rule comes to under broadcasting.
#[derive(Clone, Debug)]
pub struct ReducedPointwise {
    op: Pointwise,
    shape: Shape,
    targets: SmallVec<[Shape; 2]>,
}

impl ReducedPointwise {
    /// The expression over `shape`, each output summed to its target.
    pub fn new(op: Pointwise, shape: Shape, targets: &[Shape]) -> Self {
        Self { op, shape, targets: SmallVec::from_slice(targets) }
    }

    /// The expression.
    pub fn pointwise(&self) -> &Pointwise {
        &self.op
    }

    /// The shape over which it is evaluated.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The shape that each output is summed to.
    pub fn targets(&self) -> &[Shape] {
        &self.targets
    }
}

impl Primitive for ReducedPointwise {
    fn name(&self) -> &'static str {
        self.op.name()
    }

    fn as_reduced_pointwise(&self) -> Option<&ReducedPointwise> {
        Some(self)
    }

    fn operations(&self, _: &[Meta]) -> u64 {
        (self.op.expr().operations() + self.targets.len() as u64) * self.shape.elements() as u64
    }

    fn keep(&self) -> Prim {
        Prim::Shared(Arc::new(self.clone()))
    }

    fn infer(&self, inputs: &[Meta]) -> Result<Signature> {
        let whole = common(&self.op, inputs)?;
        let outputs = self.targets.iter().map(|target| whole.with_shape(*target)).collect();
        Ok(Signature { outputs, aux: SmallVec::new() })
    }

    fn eval_into(&self, inputs: &[View<'_>], outputs: &mut [SliceMut<'_>]) -> Result<()> {
        let program = self.op.expr().program();
        machine::run_reduced(program, &self.op.params, inputs, &self.shape, outputs, &self.targets);
        Ok(())
    }

    fn rule(&self) -> Rule<'_> {
        Rule::Composite
    }

    fn decompose(&self, inputs: &[&TrackedTensor]) -> Result<Option<Values>> {
        let mut wide: SmallVec<[TrackedTensor; 4]> = inputs.iter().map(|x| (*x).clone()).collect();
        if wide.iter().all(|x| *x.shape() != self.shape) {
            wide[0] = algebra::broadcast_to(&wide[0], &self.shape)?;
        }
        let refs: SmallVec<[&TrackedTensor; 4]> = wide.iter().collect();
        let whole = apply(&self.op, &refs)?;
        let parts = whole.iter().zip(&self.targets).map(|(x, target)| algebra::sum_to(x, target));
        Ok(Some(parts.collect::<Result<_>>()?))
    }
}

/// Applies a definition without parameters.
///
/// # Errors
/// As [`apply`].
#[track_caller]
pub fn pointwise(
    definition: &'static impl Deref<Target = Definition>,
    inputs: &[&TrackedTensor],
) -> Result<TrackedTensor> {
    apply_one(&Pointwise::of(definition), inputs)
}

/// Applies a definition with parameters.
///
/// # Errors
/// As [`apply`].
#[track_caller]
pub fn pointwise_with(
    definition: &'static impl Deref<Target = Definition>,
    params: &[f64],
    inputs: &[&TrackedTensor],
) -> Result<TrackedTensor> {
    apply_one(&Pointwise::with(definition, params), inputs)
}
