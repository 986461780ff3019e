//! One function whose intermediate results are computed again.

use autograd_core::{Result, TrackedTensor};
use autograd_tape::{RegionOptions, region};

/// Runs `f` without keeping what its backward pass needs; that is computed again when a gradient
/// passes through, as far as it is needed. Values of `f` that stay in the caller's hands are kept,
/// of course. A checkpoint inside a checkpoint nests: a replay of the outer one leaves the inner
/// one to be replayed in its turn.
///
/// # Errors
/// What `f` reports.
pub fn checkpoint(
    f: impl FnOnce(&[TrackedTensor]) -> Result<Vec<TrackedTensor>>,
    inputs: &[&TrackedTensor],
) -> Result<Vec<TrackedTensor>> {
    let inputs: Vec<TrackedTensor> = inputs.iter().map(|x| (*x).clone()).collect();
    region(RegionOptions::new(), || f(&inputs))
}
