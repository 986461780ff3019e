//! Values and gradients by a tape, for this crate's tests.

use autograd_core::algebra::ones_like;
use autograd_core::{Result, TrackedTensor};
use autograd_tape::GradientTape;

/// A value of one dimension.
pub(crate) fn vector(values: &[f64]) -> TrackedTensor {
    TrackedTensor::from_vec(values.to_vec(), &[values.len()]).expect("a vector has its own length")
}

/// The gradients of the sum of `f` at the inputs, each one in row-major order.
pub(crate) fn pull(
    inputs: &[&TrackedTensor],
    f: impl Fn(&[TrackedTensor]) -> Result<TrackedTensor>,
) -> Result<Vec<Vec<f64>>> {
    let tape = GradientTape::new();
    let x: Vec<TrackedTensor> = inputs.iter().map(|&x| tape.variable(x)).collect();
    let y = f(&x)?;
    let sources: Vec<&TrackedTensor> = x.iter().collect();
    let grads = tape.gradient_with(&[&y], &[&ones_like(&y)?], &sources)?;
    grads.iter().map(TrackedTensor::to_flat).collect()
}

/// The derivative of a function of each element, at the given numbers.
pub(crate) fn slopes(
    values: &[f64],
    f: impl Fn(&TrackedTensor) -> Result<TrackedTensor>,
) -> Result<Vec<f64>> {
    Ok(pull(&[&vector(values)], |x| f(&x[0]))?.remove(0))
}

/// Bytes that the first op on `x` keeps for the backward pass.
pub(crate) fn kept_bytes(
    x: &TrackedTensor,
    f: impl Fn(&TrackedTensor) -> Result<TrackedTensor>,
) -> Result<usize> {
    let tape = GradientTape::new();
    let x = tape.variable(x);
    let y = f(&x)?;
    let bytes = tape.nodes().iter().map(|node| node.kept_bytes).sum();
    drop(y);
    Ok(bytes)
}

/// Asserts that numbers agree to within 1e-12 of the larger of 1 and their size.
#[track_caller]
pub(crate) fn close(got: &[f64], want: &[f64]) {
    let near = |g: f64, w: f64| g == w || (g - w).abs() <= 1e-12 * w.abs().max(1.0);
    assert!(
        got.len() == want.len() && got.iter().zip(want).all(|(&g, &w)| near(g, w)),
        "{got:?}, not {want:?}"
    );
}
