//! DeepLift's rescale rule for every shape of rule.

use crate::pair::Pair;
use autograd_core::algebra::{add, broadcast_to, mul, scale, select, sub, sum_to};
use autograd_core::smallvec::{SmallVec, smallvec};
use autograd_core::{
    Error, Grads, Level, Mask, Pointwise, Primitive, Residual, Result, Rule, Saved, TrackedTensor, apply_one,
};
use autograd_ops::TensorAutograd;
use autograd_tape::{BackwardRule, Choice, GradientTape, RuleSet};
use std::sync::Arc;

/// Differences below it are no differences (Captum's threshold).
const SMALL: f64 = 1e-10;

/// The rules of a tape that records pairs.
pub(crate) fn rescale() -> RuleSet {
    RuleSet::new().otherwise(|op, watched| match op.rule() {
        Rule::Linear(..) | Rule::Composite | Rule::Flat => Choice::Own,
        Rule::Bilinear(a, b, _) if watched.has(a) && watched.has(b) => paired(Product),
        Rule::Bilinear(..) => Choice::Own,
        // A condition may depend on the input, too.
        Rule::Pointwise(pointwise)
            if pointwise.definition().masks.is_empty() && is_linear(pointwise, watched) =>
        {
            Choice::Own
        }
        Rule::Pointwise(_) => paired(Elementwise),
        Rule::General(_) if chooses_maxima(op.name()) => paired(Maximum),
        Rule::General(_) if shifts(op.name()) => paired(Shifted),
        Rule::General(_) => Choice::Decompose,
        Rule::Opaque(_) => paired(NoRule),
    })
}

/// Whether an expression is linear, jointly, in the watched inputs: its reverse rule reads none of
/// them, nor what it made of them.
pub(crate) fn is_linear(op: &Pointwise, watched: Mask) -> bool {
    op.residuals(watched, 1).iter().all(|residual| match *residual {
        Residual::Input(i) => !watched.has(i),
        Residual::Output(_) => false,
        Residual::Aux(_) => true,
    })
}

/// Ops that pick the largest or smallest of several elements.
pub(crate) fn chooses_maxima(name: &str) -> bool {
    ["max_pool", "amax", "amin", "max", "min"].iter().any(|start| name.starts_with(start))
}

/// Ops whose decomposition subtracts a maximum that the result does not depend on.
fn shifts(name: &str) -> bool {
    ["softmax", "log_softmax", "logsumexp"].contains(&name)
}

/// ct · numerator / Δx, and `instead` where Δx vanishes.
fn quotient(numerator: &TrackedTensor, dx: &TrackedTensor, instead: &TrackedTensor) -> Result<TrackedTensor> {
    let tells = dx.abs()?.ge(SMALL)?;
    let safe = tells.where_cond(dx, 1.0)?;
    select(&tells, &numerator.div(&safe)?, instead)
}

/// A rule for operands that are pairs: reads all inputs and the output.
trait OnPairs: Send + Sync {
    fn pull(&self, call: &OnPair<'_>) -> Result<Grads>;
}

/// An application of an op to pairs, on its way back.
struct OnPair<'a> {
    op: &'a dyn Primitive,
    wanted: Mask,
    ct: &'a TrackedTensor,
    actual: SmallVec<[TrackedTensor; 4]>,
    reference: SmallVec<[TrackedTensor; 4]>,
}

impl OnPair<'_> {
    /// The op applied to some of its inputs as they are and to the others as they were.
    fn mixed(&self, actual: Mask) -> Result<TrackedTensor> {
        let all: SmallVec<[&TrackedTensor; 4]> = (0..self.actual.len())
            .map(|i| if actual.has(i) { &self.actual[i] } else { &self.reference[i] })
            .collect();
        apply_one(self.op, &all)
    }

    /// The op's own gradient for one input, at actual or reference inputs.
    fn own(&self, ct: &TrackedTensor, i: usize, at: &[TrackedTensor]) -> Result<TrackedTensor> {
        let tape = GradientTape::new();
        let x = tape.try_variable(&at[i])?;
        let all: SmallVec<[&TrackedTensor; 4]> =
            at.iter().enumerate().map(|(k, other)| if k == i { &x } else { other }).collect();
        let y = apply_one(self.op, &all)?;
        let found = tape.gradient_with(&[&y], &[ct], &[&x])?;
        found.into_iter().next().ok_or_else(|| Error::internal(self.op.name(), "no gradient came back"))
    }

    /// What each wanted input is given.
    fn each(&self, f: impl Fn(usize) -> Result<TrackedTensor>) -> Result<Grads> {
        (0..self.actual.len()).map(|i| self.wanted.has(i).then(|| f(i)).transpose()).collect()
    }
}

/// A rule for pairs as a rule of the tape.
struct Paired<R>(R);

impl<R: OnPairs> BackwardRule for Paired<R> {
    fn backward(
        &self,
        op: &dyn Primitive,
        wanted: Mask,
        cts: &[Option<TrackedTensor>],
        saved: &Saved<'_>,
    ) -> Result<Grads> {
        let Some(ct) = &cts[0] else { return Ok(smallvec![None; saved.inputs.len()]) };
        let mut call = OnPair { op, wanted, ct, actual: SmallVec::new(), reference: SmallVec::new() };
        for i in 0..saved.inputs.len() {
            let (actual, reference) = Pair::split(saved.input(i)?);
            call.actual.push(actual);
            call.reference.push(reference);
        }
        self.0.pull(&call)
    }
}

fn paired(rule: impl OnPairs + 'static) -> Choice {
    Choice::Backward(Arc::new(Paired(rule)))
}

/// a·b − a₀·b₀ = ½(b + b₀)·Δa + ½(a + a₀)·Δb, for any bilinear op.
struct Product;

impl OnPairs for Product {
    fn pull(&self, call: &OnPair<'_>) -> Result<Grads> {
        call.each(|i| {
            // The op is linear in input i: only where the others stand matters.
            let sum = add(&call.own(call.ct, i, &call.actual)?, &call.own(call.ct, i, &call.reference)?)?;
            scale(&sum, 0.5)
        })
    }
}

/// Δy / Δx for an expression of one watched input. Of several, each gets its part of Δy, averaged
/// over the orders in which they change: their Shapley values.
struct Elementwise;

/// The most watched inputs of an expression: the values at all their subsets are computed.
const MOST_WATCHED: usize = 4;

impl OnPairs for Elementwise {
    fn pull(&self, call: &OnPair<'_>) -> Result<Grads> {
        let n = call.wanted.len();
        if n > MOST_WATCHED {
            let reason =
                format!("it divides a difference between at most {MOST_WATCHED} inputs of an expression");
            return Err(Error::mode(call.op.name(), "DeepLift", reason));
        }
        // Conditions that depend on the input change with the first of the others.
        let all = Mask::first(call.actual.len());
        let fixed: Mask = all.iter().filter(|&i| !call.wanted.has(i)).collect();
        let wanted: SmallVec<[usize; 4]> = call.wanted.iter().collect();
        let subset = |bits: usize| -> Mask {
            let chosen = (0..n).filter(|k| bits >> k & 1 == 1).map(|k| wanted[k]);
            if bits == 0 { Mask::EMPTY } else { chosen.chain(fixed.iter()).collect() }
        };
        let values: Vec<TrackedTensor> =
            (0..1usize << n).map(|bits| call.mixed(subset(bits))).collect::<Result<_>>()?;
        let mut weights = vec![1.0 / n as f64; n];
        for size in 1..n {
            weights[size] = weights[size - 1] * size as f64 / (n - size) as f64;
        }
        call.each(|i| {
            let place = wanted.iter().position(|&k| k == i).unwrap_or(0);
            let mut dy: Option<TrackedTensor> = None;
            for bits in (0..1usize << n).filter(|bits| bits >> place & 1 == 0) {
                let gain = sub(&values[bits | 1 << place], &values[bits])?;
                let part = scale(&gain, weights[bits.count_ones() as usize])?;
                dy = Some(match dy {
                    Some(sum) => add(&sum, &part)?,
                    None => part,
                });
            }
            let dy = dy.ok_or_else(|| Error::internal(call.op.name(), "it has no watched input"))?;
            let dx = sub(&call.actual[i], &call.reference[i])?;
            let dx = broadcast_to(&dx, dy.shape())?;
            // The derivative at every element of the output, before it is summed.
            let wide = OnPair {
                actual: call.actual.iter().map(|x| broadcast_to(x, dy.shape())).collect::<Result<_>>()?,
                reference: SmallVec::new(),
                ..*call
            };
            let derivative = wide.own(call.ct, i, &wide.actual)?;
            let found = quotient(&mul(call.ct, &dy)?, &dx, &derivative)?;
            sum_to(&found, call.actual[i].shape())
        })
    }
}

/// The part of Δy up to the larger of both maxima goes to the place of the actual one, the rest to
/// the place of the reference's.
struct Maximum;

impl OnPairs for Maximum {
    fn pull(&self, call: &OnPair<'_>) -> Result<Grads> {
        call.each(|i| {
            let (y, y0) = (call.mixed(Mask::first(call.actual.len()))?, call.mixed(Mask::EMPTY)?);
            let most = y.maximum(&y0)?;
            let here = call.own(&mul(call.ct, &sub(&most, &y0)?)?, i, &call.actual)?;
            let there = call.own(&mul(call.ct, &sub(&y, &most)?)?, i, &call.reference)?;
            let dx = sub(&call.actual[i], &call.reference[i])?;
            let derivative = call.own(call.ct, i, &call.actual)?;
            quotient(&add(&here, &there)?, &dx, &derivative)
        })
    }
}

/// The op's decomposition, in which value and reference subtract the same maximum.
struct Shifted;

impl OnPairs for Shifted {
    fn pull(&self, call: &OnPair<'_>) -> Result<Grads> {
        let level = Level::fresh();
        let tape = GradientTape::with_rules(rescale());
        let pairs = call.actual.iter().zip(&call.reference);
        let variables: SmallVec<[TrackedTensor; 4]> = pairs
            .map(|(x, x0)| tape.try_variable(Pair::watch_alike(level, x.clone(), x0.clone())))
            .collect::<Result<_>>()?;
        let refs: SmallVec<[&TrackedTensor; 4]> = variables.iter().collect();
        let parts = call.op.decompose(&refs)?;
        let y = parts.and_then(|mut parts| parts.pop());
        let y = y.ok_or_else(|| Error::mode(call.op.name(), "DeepLift", "it has no decomposition"))?;
        let found = tape.gradient_with(&[&y], &[call.ct], &refs)?;
        call.each(|i| Ok(Pair::split(&found[i]).0))
    }
}

/// What cannot be looked into.
struct NoRule;

impl OnPairs for NoRule {
    fn pull(&self, call: &OnPair<'_>) -> Result<Grads> {
        Err(Error::mode(call.op.name(), "DeepLift", "a user's op says nothing of differences"))
    }
}
