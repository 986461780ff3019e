//! Reverse mode on closures.

use autograd_core::{Result, TrackedTensor};
use autograd_tape::GradientTape;

/// f(x) and vᵀJ: the outputs, and the cotangent of each primal.
///
/// # Errors
/// As [`GradientTape::gradient_with`], and what `f` reports.
#[track_caller]
pub fn vjp(
    f: impl FnOnce(&[TrackedTensor]) -> Result<Vec<TrackedTensor>>,
    primals: &[&TrackedTensor],
    cotangents: &[&TrackedTensor],
) -> Result<(Vec<TrackedTensor>, Vec<TrackedTensor>)> {
    let tape = GradientTape::new();
    let variables: Vec<TrackedTensor> =
        primals.iter().map(|x| tape.try_variable(*x)).collect::<Result<_>>()?;
    let outputs = f(&variables)?;
    // An output that does not depend on the primals has no place on the tape.
    let reached: Vec<usize> = (0..outputs.len()).filter(|&i| tape.watches(&outputs[i])).collect();
    let targets: Vec<&TrackedTensor> = reached.iter().map(|&i| &outputs[i]).collect();
    let seeds: Vec<&TrackedTensor> = reached.iter().map(|&i| cotangents[i]).collect();
    let sources: Vec<&TrackedTensor> = variables.iter().collect();
    let grads = tape.gradient_with(&targets, &seeds, &sources)?;
    Ok((outputs.iter().map(|y| tape.unwatched(y)).collect(), grads))
}

/// The gradient of a scalar function with respect to each primal.
///
/// # Errors
/// As [`GradientTape::gradient`], and what `f` reports.
#[track_caller]
pub fn grad(
    f: impl FnOnce(&[TrackedTensor]) -> Result<TrackedTensor>,
    primals: &[&TrackedTensor],
) -> Result<Vec<TrackedTensor>> {
    Ok(value_and_grad(f, primals)?.1)
}

/// The value and the gradients of a scalar function.
///
/// # Errors
/// As [`GradientTape::gradient`], and what `f` reports.
#[track_caller]
pub fn value_and_grad(
    f: impl FnOnce(&[TrackedTensor]) -> Result<TrackedTensor>,
    primals: &[&TrackedTensor],
) -> Result<(TrackedTensor, Vec<TrackedTensor>)> {
    let tape = GradientTape::new();
    let variables: Vec<TrackedTensor> =
        primals.iter().map(|x| tape.try_variable(*x)).collect::<Result<_>>()?;
    let y = f(&variables)?;
    let sources: Vec<&TrackedTensor> = variables.iter().collect();
    let grads = tape.gradient(&y, &sources)?;
    Ok((tape.unwatched(&y), grads))
}
