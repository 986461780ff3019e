//! Dual numbers: a value with its tangent, pushed forward op by op.

use crate::inline::inline;
use autograd_core::algebra::{accumulate, zeros_like};
use autograd_core::smallvec::SmallVec;
use autograd_core::{
    Applied, Call, Error, Level, Mask, Primitive, Result, Rule, Scope, Shape, Site, Tracer, TrackedTensor,
    Values, apply_call, on_behalf_of,
};
use candle_core::{DType, DeviceLocation};
use std::any::Any;
use std::fmt;
use std::sync::Arc;

/// A value that carries a tangent at one level.
pub(crate) struct DualTracer {
    level: Level,
    primal: TrackedTensor,
    tangent: TrackedTensor,
    /// The run of the function that the value was made for; none in a context, which has no end.
    scope: Option<Scope>,
}

impl DualTracer {
    /// The primal and the tangent of a value at `level`; no tangent where the value has none.
    pub(crate) fn split(level: Level, value: &TrackedTensor) -> (TrackedTensor, Option<TrackedTensor>) {
        match Self::of(level, value) {
            Some(dual) => (dual.primal.clone(), Some(dual.tangent.clone())),
            None => (value.clone(), None),
        }
    }

    /// A value with a tangent at `level`.
    pub(crate) fn join(
        level: Level,
        primal: TrackedTensor,
        tangent: TrackedTensor,
        scope: Option<&Scope>,
    ) -> TrackedTensor {
        TrackedTensor::from_tracer(Arc::new(Self { level, primal, tangent, scope: scope.cloned() }))
    }

    fn of(level: Level, value: &TrackedTensor) -> Option<&Self> {
        value.tracer()?.as_any().downcast_ref::<Self>().filter(|dual| dual.level == level)
    }
}

impl fmt::Debug for DualTracer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "dual level {}", self.level.number())
    }
}

impl Tracer for DualTracer {
    fn level(&self) -> Level {
        self.level
    }

    fn shape(&self) -> &Shape {
        self.primal.shape()
    }

    fn dtype(&self) -> DType {
        self.primal.dtype()
    }

    fn device(&self) -> DeviceLocation {
        self.primal.location()
    }

    fn lower(&self) -> Option<&TrackedTensor> {
        Some(&self.primal)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn process(&self, call: &Call<'_>) -> Result<Applied> {
        let Call { op, inputs, aux, site } = *call;
        if let Some(scope) = &self.scope {
            scope.check(site)?;
        }
        let duals: SmallVec<[Option<&Self>; 4]> = inputs.iter().map(|x| Self::of(self.level, x)).collect();
        let primals: SmallVec<[&TrackedTensor; 4]> =
            inputs.iter().zip(&duals).map(|(x, dual)| dual.map_or(*x, |d| &d.primal)).collect();
        let tangents: SmallVec<[Option<TrackedTensor>; 4]> =
            duals.iter().map(|dual| dual.map(|d| d.tangent.clone())).collect();
        let push = |tangents: SmallVec<[Option<TrackedTensor>; 2]>, made: Applied| {
            let outputs = made.outputs.into_iter().zip(tangents).map(|(y, dy)| match dy {
                Some(dy) => Self::join(self.level, y, dy, self.scope.as_ref()),
                None => y,
            });
            Applied { outputs: outputs.collect(), aux: made.aux }
        };
        match op.rule() {
            Rule::Flat => apply_call(op, &primals, aux, site),
            Rule::Opaque(_) => {
                let reason = "a CustomOp has a reverse rule only; write it as custom_jvp over values";
                Err(Error::mode(op.name(), "forward mode", reason))
            }
            Rule::Composite => inline(op, inputs, site, "forward mode"),
            Rule::Pointwise(pointwise) => {
                let masks = pointwise.definition().masks;
                let moving: SmallVec<[Option<TrackedTensor>; 4]> =
                    tangents.into_iter().enumerate().map(|(i, t)| t.filter(|_| !masks.has(i))).collect();
                let made = apply_call(op, &primals, aux, site)?;
                if moving.iter().all(Option::is_none) {
                    return Ok(made);
                }
                let dys = on_behalf_of(site, || pointwise.jvp(&primals, &made.outputs, &moving))?;
                Ok(push(dys, made))
            }
            // ẏ = f(ẋ), the inputs in which f is not linear held.
            Rule::Linear(linear, _) => {
                let made = apply_call(op, &primals, aux, site)?;
                if (0..inputs.len()).all(|i| tangents[i].is_none() || !linear.has(i)) {
                    return Ok(made);
                }
                let dys = on_behalf_of(site, || linear_tangent(op, linear, &primals, &tangents, site))?;
                Ok(push(dys.into_iter().map(Some).collect(), made))
            }
            // ẏ = f(ȧ, b) + f(a, ḃ).
            Rule::Bilinear(a, b, _) => {
                let made = apply_call(op, &primals, aux, site)?;
                let part = |i: usize| -> Result<Option<TrackedTensor>> {
                    let Some(tangent) = &tangents[i] else { return Ok(None) };
                    let mut held: SmallVec<[&TrackedTensor; 4]> = primals.iter().copied().collect();
                    held[i] = tangent;
                    Ok(apply_call(op, &held, false, site)?.outputs.into_iter().next())
                };
                let dy = on_behalf_of(site, || match (part(a)?, part(b)?) {
                    (Some(left), Some(right)) => accumulate(left, &right).map(Some),
                    (left, right) => Ok(left.or(right)),
                })?;
                Ok(push(SmallVec::from_iter([dy]), made))
            }
            Rule::General(general) => {
                let made = apply_call(op, &primals, aux, site)?;
                match on_behalf_of(site, || general.jvp(&primals, &made.outputs, &tangents))? {
                    Some(dys) => Ok(push(dys, made)),
                    None => inline(op, inputs, site, "forward mode"),
                }
            }
        }
    }
}

fn linear_tangent(
    op: &dyn Primitive,
    linear: Mask,
    primals: &[&TrackedTensor],
    tangents: &[Option<TrackedTensor>],
    site: Site,
) -> Result<Values> {
    let mut inputs: SmallVec<[TrackedTensor; 4]> = SmallVec::new();
    for (i, primal) in primals.iter().enumerate() {
        inputs.push(match &tangents[i] {
            Some(tangent) if linear.has(i) => tangent.clone(),
            None if linear.has(i) => zeros_like(primal)?,
            _ => (*primal).clone(),
        });
    }
    let refs: SmallVec<[&TrackedTensor; 4]> = inputs.iter().collect();
    Ok(apply_call(op, &refs, false, site)?.outputs)
}
