//! One function whose intermediate results are computed again.

use autograd_core::{Result, TrackedTensor};
use autograd_tape::{RegionOptions, region};

/// Runs `f` without keeping what its backward pass needs; that is computed again when a gradient
/// passes through, as far as it is needed. Values of `f` that stay in the caller's hands are kept,
/// of course. A checkpoint inside a checkpoint nests: a replay of the outer one leaves the inner
/// one to be replayed in its turn.
///
/// Nodes are replayed, not the closure: `f` runs once, whatever it captures gets its gradients,
/// random ops repeat their numbers, and running statistics are not updated twice. A
/// [`CustomOp`](autograd_core::CustomOp) inside is a node: its forward function runs again, unless
/// a policy keeps its result.
///
/// In a function that is captured with its gradient (a static graph's `value_and_grad`, or any tape
/// inside of it) the replays are part of the graph, behind barriers, so that passes neither share
/// them with the forward pass nor make them early: its arena is planned for what is kept here. A
/// graph of a function alone has no backward pass; its checkpoints hold where it is differentiated.
///
/// # Errors
/// What `f` reports.
pub fn checkpoint(
    f: impl FnOnce(&[TrackedTensor]) -> Result<Vec<TrackedTensor>>,
    inputs: &[&TrackedTensor],
) -> Result<Vec<TrackedTensor>> {
    run(RegionOptions::new(), f, inputs)
}

pub(crate) fn run(
    options: RegionOptions,
    f: impl FnOnce(&[TrackedTensor]) -> Result<Vec<TrackedTensor>>,
    inputs: &[&TrackedTensor],
) -> Result<Vec<TrackedTensor>> {
    let inputs: Vec<TrackedTensor> = inputs.iter().map(|x| (*x).clone()).collect();
    region(options, || f(&inputs))
}
