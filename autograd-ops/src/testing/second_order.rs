//! Second order: the product of the Hessian of ⟨u, f⟩ with a direction, in three nestings.

use super::compare::{all_close, numbers, within};
use super::first_order::{DIFFERENCES, differences, scale_of};
use super::report::Stop;
use super::subject::Subject;
use super::{Function, Outcome};
use autograd_core::{Result, TrackedTensor};

/// Rounding errors of second derivatives, which are sums of products of a few dozen terms.
const NESTINGS: f64 = 1e-10;

/// Reverse over reverse = forward over reverse = reverse over forward, and where the case is
/// smooth all equal the finite differences of the gradient.
pub(crate) fn nestings(subject: &Subject<'_>) -> Result<Outcome, Stop> {
    if !subject.is_differentiable() {
        return Ok(Outcome::NothingToCheck);
    }
    let (x, u) = (subject.primals(), subject.cotangents()?);
    let smooth = subject.smooth_direction()?;
    let v = match &smooth {
        Some(v) => v.clone(),
        None => subject.direction()?,
    };
    let f = |x: &[TrackedTensor]| subject.f(x);
    let gradient = |x: &[TrackedTensor]| Ok(subject.modes.vjp(&f, x, &u)?.1);
    let reverse_reverse = subject.modes.vjp(&gradient, &x, &v)?.1;
    if smooth.is_some() {
        let slopes = differences(&gradient, &x, &v)?;
        let tolerance = DIFFERENCES * scale_of(&[&gradient(&x)?, &slopes])?;
        for (i, (got, want)) in reverse_reverse.iter().zip(&slopes).enumerate() {
            let place = format!("reverse over reverse, input {i}");
            within(&place, &numbers(got)?, &numbers(want)?, tolerance)?;
        }
    }
    let forward_reverse = subject.modes.jvp(&gradient, &x, &v)?.1;
    all_close("forward over reverse, input", &forward_reverse, &reverse_reverse, NESTINGS)?;
    let slope = |x: &[TrackedTensor]| slope_along(subject, &f, x, &v);
    let reverse_forward = subject.modes.vjp(&slope, &x, &u)?.1;
    all_close("reverse over forward, input", &reverse_forward, &reverse_reverse, NESTINGS)?;
    Ok(Outcome::Checked)
}

/// Jv as a function of x.
fn slope_along(
    subject: &Subject<'_>,
    f: &Function<'_>,
    x: &[TrackedTensor],
    v: &[TrackedTensor],
) -> Result<Vec<TrackedTensor>> {
    Ok(subject.modes.jvp(f, x, v)?.1)
}
