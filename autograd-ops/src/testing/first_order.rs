//! First order: both modes against finite differences, and against each other.

use super::compare::{all_close, inner, norm, numbers, same_shapes, within};
use super::report::{Reason, Stop};
use super::subject::Subject;
use super::{Function, Outcome};
use autograd_core::{Result, TrackedTensor, algebra};

/// The step of finite differences. With the stencil of fourth order the truncation error is
/// h⁴/30 · f⁗′ ≈ 3e-14 · f⁗′ and the rounding error ε/h ≈ 2e-13.
const STEP: f64 = 1e-3;

/// The error of finite differences relative to the larger of 1, values and derivatives: leaves
/// room for a fifth derivative of 3e4 in the truncation error above.
pub(crate) const DIFFERENCES: f64 = 1e-9;

/// The rounding errors of both sides of the adjoint identity, relative to the norms.
const ADJOINT: f64 = 1e-12;

/// A mode computes its outputs by the same kernels, or by a decomposition.
pub(crate) const SAME: f64 = 1e-12;

/// The derivative of `f` at `x` along `v`: (8(f(x+hv) − f(x−hv)) − (f(x+2hv) − f(x−2hv))) / 12h.
pub(crate) fn differences(
    f: &Function<'_>,
    x: &[TrackedTensor],
    v: &[TrackedTensor],
) -> Result<Vec<TrackedTensor>> {
    let at = |steps: f64| -> Result<Vec<TrackedTensor>> {
        let moved = x.iter().zip(v).map(|(x, v)| algebra::add(x, &algebra::scale(v, steps * STEP)?));
        f(&moved.collect::<Result<Vec<_>>>()?)
    };
    let (p1, m1, p2, m2) = (at(1.0)?, at(-1.0)?, at(2.0)?, at(-2.0)?);
    let mut slopes = Vec::with_capacity(p1.len());
    for j in 0..p1.len() {
        let near = algebra::scale(&algebra::sub(&p1[j], &m1[j])?, 8.0)?;
        let far = algebra::sub(&p2[j], &m2[j])?;
        slopes.push(algebra::scale(&algebra::sub(&near, &far)?, 1.0 / (12.0 * STEP))?);
    }
    Ok(slopes)
}

/// The largest of 1 and all magnitudes: the scale of errors.
pub(crate) fn scale_of(values: &[&[TrackedTensor]]) -> Result<f64> {
    let mut scale = 1.0f64;
    for x in values.iter().flat_map(|list| list.iter()) {
        scale = numbers(x)?.iter().fold(scale, |m, x| m.max(x.abs()));
    }
    Ok(scale)
}

/// The outputs of forward mode are the case's, its tangents those of finite differences.
pub(crate) fn forward(subject: &Subject<'_>) -> Result<Outcome, Stop> {
    if !subject.is_differentiable() {
        return Ok(Outcome::NothingToCheck);
    }
    let (x, y) = (subject.primals(), subject.results());
    let f = |x: &[TrackedTensor]| subject.f(x);
    let smooth = subject.smooth_direction()?;
    let v = match &smooth {
        Some(v) => v.clone(),
        None => subject.direction()?,
    };
    let (primals, tangents) = subject.modes.jvp(&f, &x, &v)?;
    all_close("output", &primals, &y, SAME)?;
    same_shapes("tangent of output", &tangents, &y)?;
    if smooth.is_some() {
        let slopes = differences(&f, &x, &v)?;
        let tolerance = DIFFERENCES * scale_of(&[&y, &slopes])?;
        for (j, (got, want)) in tangents.iter().zip(&slopes).enumerate() {
            within(&format!("tangent of output {j}"), &numbers(got)?, &numbers(want)?, tolerance)?;
        }
    }
    Ok(if norm(&tangents)? == 0.0 { Outcome::Flat } else { Outcome::Checked })
}

/// The outputs of reverse mode are the case's; ⟨Jᵀu, v⟩ is the slope of ⟨u, f⟩ along v. Gradients
/// are taken one input at a time, so that a failure names the input.
pub(crate) fn reverse(subject: &Subject<'_>) -> Result<Outcome, Stop> {
    if !subject.is_differentiable() {
        return Ok(Outcome::NothingToCheck);
    }
    let (x, y, u) = (subject.primals(), subject.results(), subject.cotangents()?);
    let f = |x: &[TrackedTensor]| subject.f(x);
    let (primals, gradients) = subject.modes.vjp(&f, &x, &u)?;
    all_close("output", &primals, &y, SAME)?;
    same_shapes("gradient of input", &gradients, &x)?;
    let Some(v) = subject.smooth_direction()? else { return Ok(Outcome::Checked) };
    for i in 0..x.len() {
        let alone: Vec<TrackedTensor> = (0..x.len())
            .map(|k| if k == i { Ok(v[k].clone()) } else { algebra::zeros_like(&v[k]) })
            .collect::<Result<_>>()?;
        let slopes = differences(&f, &x, &alone)?;
        let (got, want) = (inner(&gradients, &alone)?, inner(&u, &slopes)?);
        // An inner product adds up the errors of its terms.
        let terms = u.iter().map(|u| u.elem_count().max(1)).sum::<usize>() as f64;
        let tolerance = DIFFERENCES * terms * scale_of(&[&y, &slopes])?;
        within(&format!("slope along the gradient of input {i}"), &[got], &[want], tolerance)?;
    }
    Ok(Outcome::Checked)
}

/// |⟨u, Jv⟩ − ⟨Jᵀu, v⟩| ≤ 1e-12 · (‖u‖‖Jv‖ + ‖Jᵀu‖‖v‖), at kinks too.
pub(crate) fn adjoint(subject: &Subject<'_>) -> Result<Outcome, Stop> {
    if !subject.is_differentiable() {
        return Ok(Outcome::NothingToCheck);
    }
    let (x, u, v) = (subject.primals(), subject.cotangents()?, subject.direction()?);
    let f = |x: &[TrackedTensor]| subject.f(x);
    let (_, jv) = subject.modes.jvp(&f, &x, &v)?;
    let (_, jtu) = subject.modes.vjp(&f, &x, &u)?;
    let (got, want) = (inner(&jtu, &v)?, inner(&u, &jv)?);
    let tolerance = ADJOINT * (norm(&u)? * norm(&jv)? + norm(&jtu)? * norm(&v)?);
    let near = (got - want).abs() <= tolerance;
    if got != want && !near {
        let reason = Reason::Differs { index: 0, got, want, tolerance };
        return Err(Stop::Wrong(String::from("⟨Jᵀu, v⟩ against ⟨u, Jv⟩"), reason));
    }
    Ok(Outcome::Checked)
}
