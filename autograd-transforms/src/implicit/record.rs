//! Closures as programs: recorded without numbers, with what they read of watched values turned
//! into inputs.

use autograd_core::{Error, Meta, Program, Result, TrackedTensor, close_for, watcher};
use std::sync::Arc;

/// A program, and the watched values that it reads after its own inputs.
pub(super) struct Recorded {
    pub(super) program: Arc<Program>,
    pub(super) captured: Vec<TrackedTensor>,
}

/// Records a function of values with the given metas. What it closes over is a constant of the
/// program where nobody watches it.
///
/// # Errors
/// [`Error::ReadWhileCapturing`] where it reads a number, an op that cannot be looked into, and
/// what it reports.
pub(super) fn record(
    f: impl FnOnce(&[TrackedTensor]) -> Result<TrackedTensor>,
    inputs: &[Meta],
) -> Result<Recorded> {
    let closure = close_for("implicit differentiation", |x| Ok(vec![f(x)?]), inputs)?;
    let closure = closure.bind(|value| watcher(value).is_none());
    Ok(Recorded { program: Arc::new(closure.program), captured: closure.captured })
}

/// Runs a program of one output on a value and what follows it.
pub(super) fn run(program: &Program, inputs: &[&TrackedTensor]) -> Result<TrackedTensor> {
    let mut outputs = program.run(inputs)?;
    outputs.pop().ok_or_else(|| Error::internal("implicit", "a program without output"))
}
