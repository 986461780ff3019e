//! DeepLift's reveal-cancel rule: what raises a value and what lowers it, followed apart.

use crate::function::{Examples, Function};
use crate::multipliers::is_linear;
use crate::target::Target;
use autograd_core::algebra::{add, mul, select, sub};
use autograd_core::smallvec::{SmallVec, smallvec};
use autograd_core::{
    Applied, Call, DType, DeviceLocation, Error, Level, Mask, Primitive, Result, Rule, Shape, Tracer,
    TrackedTensor, Values, apply_one, on_behalf_of,
};
use autograd_ops::TensorAutograd;
use autograd_tape::GradientTape;
use std::any::Any;
use std::sync::Arc;

/// A reference, and the positive and negative parts of the difference from it. The parts are on a
/// tape, on which every op is linear: multipliers are constants there.
#[derive(Debug)]
struct Parts {
    level: Level,
    reference: TrackedTensor,
    raised: TrackedTensor,
    lowered: TrackedTensor,
    /// The reference and both parts: the value itself.
    actual: TrackedTensor,
}

/// The contributions of inputs that differ from `start` by `ways`.
pub(crate) fn reveal_cancel(
    f: &Function<'_>,
    start: &[TrackedTensor],
    ways: &[TrackedTensor],
    target: &Target,
) -> Result<Vec<TrackedTensor>> {
    let tape = GradientTape::new();
    let mut parts: Vec<[TrackedTensor; 2]> = Vec::new();
    for way in ways {
        let raised = way.relu()?;
        let lowered = sub(way, &raised)?;
        parts.push([tape.try_variable(&raised)?, tape.try_variable(&lowered)?]);
    }
    // Younger than the tape: what is inside these values is recorded on it.
    let level = Level::fresh();
    let values = start.iter().zip(&parts).map(|(reference, [raised, lowered])| {
        Parts::watch(level, reference.clone(), raised.clone(), lowered.clone())
    });
    let values: Vec<TrackedTensor> = values.collect::<Result<_>>()?;
    let y = f(&values)?;
    let y = target.select(&y, Examples::of(start, &y))?.sum()?;
    let Some(y) = Parts::of(&y, level) else {
        return ways.iter().map(autograd_core::algebra::zeros_like).collect();
    };
    let both = add(&y.raised, &y.lowered)?;
    let sources: Vec<&TrackedTensor> = parts.iter().flatten().collect();
    let found = tape.gradient(&both, &sources)?;
    let contributions = found.chunks(2).zip(&parts).map(|(multipliers, [raised, lowered])| {
        let raised = mul(&multipliers[0], &tape.unwatched(raised))?;
        add(&raised, &mul(&multipliers[1], &tape.unwatched(lowered))?)
    });
    contributions.collect()
}

impl Parts {
    fn watch(
        level: Level,
        reference: TrackedTensor,
        raised: TrackedTensor,
        lowered: TrackedTensor,
    ) -> Result<TrackedTensor> {
        let actual = add(&reference, &add(&raised, &lowered)?)?;
        Ok(TrackedTensor::from_tracer(Arc::new(Self { level, reference, raised, lowered, actual })))
    }

    fn of(value: &TrackedTensor, level: Level) -> Option<&Self> {
        value.tracer()?.as_any().downcast_ref::<Self>().filter(|parts| parts.level == level)
    }

    /// A result whose parts are `both` linear maps of those of the operands.
    fn with(
        &self,
        reference: TrackedTensor,
        raised: TrackedTensor,
        lowered: TrackedTensor,
    ) -> Result<Applied> {
        let value = Self::watch(self.level, reference, raised, lowered)?;
        Ok(Applied { outputs: smallvec![value], aux: Values::new() })
    }
}

/// The operands of an application, and which of them are watched.
struct Operands<'a> {
    all: &'a [&'a TrackedTensor],
    parts: SmallVec<[Option<&'a Parts>; 4]>,
    watched: Mask,
}

impl<'a> Operands<'a> {
    fn references(&self) -> SmallVec<[&TrackedTensor; 4]> {
        self.all.iter().zip(&self.parts).map(|(x, parts)| parts.map_or(*x, |p| &p.reference)).collect()
    }

    /// The op with one operand exchanged, the others at their reference.
    fn apply_with(&self, op: &dyn Primitive, i: usize, x: &TrackedTensor) -> Result<TrackedTensor> {
        let mut all = self.references();
        all[i] = x;
        apply_one(op, &all)
    }

    fn only(&self) -> Option<(usize, &'a Parts)> {
        let i = self.watched.iter().next().filter(|_| self.watched.len() == 1)?;
        self.parts[i].map(|parts| (i, parts))
    }
}

/// Both parts times a multiplier each: what comes out positive is raised, the rest lowered.
fn split(
    raised: (&TrackedTensor, &TrackedTensor),
    lowered: (&TrackedTensor, &TrackedTensor),
) -> Result<(TrackedTensor, TrackedTensor)> {
    let up = |m: &TrackedTensor| m.relu();
    let down = |m: &TrackedTensor| sub(m, &m.relu()?);
    let ((r, mr), (l, ml)) = (raised, lowered);
    Ok((add(&mul(r, &up(mr)?)?, &mul(l, &down(ml)?)?)?, add(&mul(r, &down(mr)?)?, &mul(l, &up(ml)?)?)?))
}

/// Differences below it are no differences.
const SMALL: f64 = 1e-10;

fn quotient(dy: &TrackedTensor, dx: &TrackedTensor) -> Result<TrackedTensor> {
    let tells = dx.abs()?.ge(SMALL)?;
    select(&tells, &dy.div(&tells.where_cond(dx, 1.0)?)?, &autograd_core::algebra::zeros_like(dy)?)
}

impl Tracer for Parts {
    fn level(&self) -> Level {
        self.level
    }

    fn shape(&self) -> &Shape {
        self.actual.shape()
    }

    fn dtype(&self) -> DType {
        self.actual.dtype()
    }

    fn device(&self) -> DeviceLocation {
        self.actual.location()
    }

    fn lower(&self) -> Option<&TrackedTensor> {
        Some(&self.actual)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn process(&self, call: &Call<'_>) -> Result<Applied> {
        let Call { op, inputs, site, .. } = *call;
        let parts: SmallVec<[Option<&Parts>; 4]> = inputs.iter().map(|x| Self::of(x, self.level)).collect();
        let watched = Mask::of(inputs.len(), |i| parts[i].is_some());
        let operands = Operands { all: inputs, parts, watched };
        on_behalf_of(site, || self.follow(op, &operands))
    }
}

impl Parts {
    fn follow(&self, op: &dyn Primitive, operands: &Operands<'_>) -> Result<Applied> {
        let decompose = || -> Result<Applied> {
            let parts = op.decompose(operands.all)?;
            let outputs = parts.ok_or_else(|| no_rule(op, "it has no decomposition"))?;
            Ok(Applied { outputs, aux: Values::new() })
        };
        match op.rule() {
            Rule::Flat => {
                let actual = operands.all.iter().zip(&operands.parts);
                let actual: SmallVec<[TrackedTensor; 4]> = actual
                    .map(|(x, parts)| parts.map_or_else(|| x.detach(), |p| p.actual.detach()))
                    .collect::<Result<_>>()?;
                let refs: SmallVec<[&TrackedTensor; 4]> = actual.iter().collect();
                Ok(Applied { outputs: autograd_core::apply(op, &refs)?, aux: Values::new() })
            }
            Rule::Composite | Rule::General(_) => decompose(),
            Rule::Opaque(_) => Err(no_rule(op, "a user's op says nothing of differences")),
            Rule::Linear(..) => self.linear(op, operands),
            Rule::Bilinear(..) => self.product(op, operands),
            Rule::Pointwise(pointwise) if operands.watched.len() > 1 => match pointwise.definition().name {
                "add" => self.linear(op, operands),
                "sub" => self.difference(op, operands),
                _ => Err(no_rule(op, "more than one of its inputs depends on what is explained")),
            },
            Rule::Pointwise(pointwise) => {
                self.elementwise(op, operands, is_linear(pointwise, operands.watched))
            }
        }
    }

    /// Sums, views and means: each part by itself.
    fn linear(&self, op: &dyn Primitive, operands: &Operands<'_>) -> Result<Applied> {
        let part = |choose: fn(&Parts) -> &TrackedTensor| -> Result<TrackedTensor> {
            let zeros: SmallVec<[TrackedTensor; 4]> = operands
                .all
                .iter()
                .map(|x| {
                    autograd_core::is_float(x.dtype())
                        .then(|| x.detach().and_then(|x| autograd_core::algebra::zeros_like(&x)))
                })
                .map(|zero| zero.unwrap_or_else(|| Ok(TrackedTensor::scalar(0.0))))
                .collect::<Result<_>>()?;
            let all: SmallVec<[&TrackedTensor; 4]> = (0..zeros.len())
                .map(|i| match operands.parts[i] {
                    Some(parts) => choose(parts),
                    None if autograd_core::is_float(operands.all[i].dtype()) => &zeros[i],
                    None => operands.all[i],
                })
                .collect();
            apply_one(op, &all)
        };
        let reference = apply_one(op, &operands.references())?;
        self.with(reference, part(|p| &p.raised)?, part(|p| &p.lowered)?)
    }

    /// a − b: what lowers b raises the difference.
    fn difference(&self, op: &dyn Primitive, operands: &Operands<'_>) -> Result<Applied> {
        let (Some(a), Some(b)) = (operands.parts[0], operands.parts[1]) else {
            return Err(no_rule(op, "both inputs should be watched"));
        };
        let reference = apply_one(op, &operands.references())?;
        self.with(reference, a.raised.sub(&b.lowered)?, a.lowered.sub(&b.raised)?)
    }

    /// A layer: positive weights keep the parts, negative ones exchange them.
    fn product(&self, op: &dyn Primitive, operands: &Operands<'_>) -> Result<Applied> {
        let Some((i, parts)) = operands.only() else {
            return Err(no_rule(op, "both of its inputs depend on what is explained"));
        };
        let w = operands.all[1 - i];
        let up = w.relu()?;
        let down = sub(w, &up)?;
        let apply = |x: &TrackedTensor, w: &TrackedTensor| {
            let mut both = [w, w];
            both[i] = x;
            apply_one(op, &both)
        };
        let raised = add(&apply(&parts.raised, &up)?, &apply(&parts.lowered, &down)?)?;
        let lowered = add(&apply(&parts.lowered, &up)?, &apply(&parts.raised, &down)?)?;
        self.with(apply_one(op, &operands.references())?, raised, lowered)
    }

    /// Δy⁺ = ½(f(x₀ + Δ⁺) − f(x₀)) + ½(f(x₀ + Δ⁺ + Δ⁻) − f(x₀ + Δ⁻)), and Δy⁻ likewise.
    fn elementwise(&self, op: &dyn Primitive, operands: &Operands<'_>, linear: bool) -> Result<Applied> {
        let Some((i, parts)) = operands.only() else {
            return Err(no_rule(op, "no input is watched"));
        };
        let (raised, lowered) = (parts.raised.detach()?, parts.lowered.detach()?);
        let x0 = &parts.reference;
        let at = |x: &TrackedTensor| operands.apply_with(op, i, x);
        let none = at(x0)?;
        let only_raised = at(&add(x0, &raised)?)?;
        let only_lowered = at(&add(x0, &lowered)?)?;
        let both = at(&add(x0, &add(&raised, &lowered)?)?)?;
        let half = |a: &TrackedTensor, b: &TrackedTensor, c: &TrackedTensor, d: &TrackedTensor| {
            autograd_core::algebra::scale(&add(&sub(a, b)?, &sub(c, d)?)?, 0.5)
        };
        let mut dr = half(&only_raised, &none, &both, &only_lowered)?;
        let mut dl = half(&only_lowered, &none, &both, &only_raised)?;
        let wide = |x: &TrackedTensor| autograd_core::algebra::broadcast_to(x, none.shape());
        let (mut r, mut l) = (wide(&raised)?, wide(&lowered)?);
        if linear {
            // The slope of a linear op is known where a part vanishes, too.
            let one = autograd_core::algebra::ones_like(x0)?;
            let slope = sub(&at(&one)?, &at(&autograd_core::algebra::zeros_like(x0)?)?)?;
            (dr, dl) = (slope.clone(), slope);
            (r, l) = (autograd_core::algebra::ones_like(&dr)?, autograd_core::algebra::ones_like(&dl)?);
        }
        let (mr, ml) = (quotient(&dr, &r)?, quotient(&dl, &l)?);
        let (raised, lowered) = split((&wide(&parts.raised)?, &mr), (&wide(&parts.lowered)?, &ml))?;
        self.with(none, raised, lowered)
    }
}

fn no_rule(op: &dyn Primitive, reason: &str) -> Error {
    Error::mode(op.name(), "reveal-cancel", reason)
}
