//! Series of ops that have a forward rule and no decomposition: factorisations.
//!
//! A forward rule is a function D with y′(t) = D(x(t), y(t), x′(t)). So k·yₖ is the coefficient of
//! tᵏ⁻¹ of D along the series of x and of y, and those of y are needed to yₖ₋₁ only: each
//! coefficient follows from the ones before, through the ops that the rule is made of. Where such
//! an op stands in its own rule (a solve), the cost doubles with each order.

use crate::jet::{Coefficients, jet_of, part_of};
use autograd_core::algebra::scale;
use autograd_core::smallvec::SmallVec;
use autograd_core::{Error, General, Level, Primitive, Result, Scope, TrackedTensor};

/// The coefficients of the outputs, given those of the inputs.
pub(crate) fn by_forward_rule<'a>(
    (op, rule): (&dyn Primitive, &dyn General),
    order: usize,
    primals: &[&TrackedTensor],
    outputs: &[TrackedTensor],
    given: impl Fn(usize, usize) -> Option<&'a TrackedTensor>,
    (scope, mode): (&Scope, &'static str),
) -> Result<Vec<Coefficients>> {
    let mut found: Vec<Coefficients> = vec![Coefficients::new(); outputs.len()];
    for k in 1..=order {
        let level = Level::fresh();
        // Series to tᵏ⁻¹.
        let series = |first: TrackedTensor, rest: Coefficients| jet_of(level, first, rest, scope);
        let xs: SmallVec<[TrackedTensor; 4]> = (0..primals.len())
            .map(|i| series(primals[i].clone(), (1..k).map(|j| given(i, j).cloned()).collect()))
            .collect();
        let ys: SmallVec<[TrackedTensor; 4]> =
            outputs.iter().zip(&found).map(|(y, known)| series(y.clone(), known.clone())).collect();
        let mut slopes: SmallVec<[Option<TrackedTensor>; 4]> = SmallVec::new();
        for (i, primal) in primals.iter().enumerate() {
            let mut all = Coefficients::new();
            for j in 1..=k {
                all.push(given(i, j).map(|x| scale(x, j as f64)).transpose()?);
            }
            slopes.push(match all.iter().all(Option::is_none) {
                true => None,
                false => {
                    let first =
                        all.remove(0).map_or_else(|| autograd_core::algebra::zeros_like(primal), Ok)?;
                    Some(series(first, all))
                }
            });
        }
        let refs: SmallVec<[&TrackedTensor; 4]> = xs.iter().collect();
        let Some(made) = rule.jvp(&refs, &ys, &slopes)? else {
            return Err(Error::mode(op.name(), mode, "it has neither a forward rule nor a decomposition"));
        };
        for (known, made) in found.iter_mut().zip(&made) {
            let part = made.as_ref().and_then(|made| part_of(level, made, k - 1));
            known.push(part.map(|part| scale(&part, 1.0 / k as f64)).transpose()?);
        }
    }
    Ok(found)
}
