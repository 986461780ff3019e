//! Recomputation: memory traded for time.
//!
//! [`checkpoint()`] runs a function whose intermediate results are not kept: the tape keeps the
//! nodes, and the backward pass replays them. Since nodes are replayed and not closures, captured
//! parameters get their gradients, random ops repeat their keys, and results are equal to the bit.
//!
//! ```
//! use autograd_checkpoint::checkpoint;
//! use autograd_core::{Result, TrackedTensor};
//! use autograd_tape::GradientTape;
//!
//! fn main() -> Result<()> {
//!     let tape = GradientTape::new();
//!     let x = tape.variable(TrackedTensor::scalar(3.0));
//!     let y = checkpoint(|x| Ok(vec![((&x[0] * &x[0])? * &x[0])?]), &[&x])?;
//!     assert_eq!(tape.derivative(&y[0], &x)?.to_scalar::<f64>()?, 27.0);
//!     Ok(())
//! }
//! ```

use autograd_core::{Result, TrackedTensor};

/// Runs `f` without keeping what its backward pass needs; that is computed again when a gradient
/// passes through. Values of `f` that stay in the caller's hands are kept, of course. A
/// checkpoint inside a checkpoint joins it.
///
/// # Errors
/// What `f` reports.
pub fn checkpoint(
    f: impl FnOnce(&[TrackedTensor]) -> Result<Vec<TrackedTensor>>,
    inputs: &[&TrackedTensor],
) -> Result<Vec<TrackedTensor>> {
    let inputs: Vec<TrackedTensor> = inputs.iter().map(|x| (*x).clone()).collect();
    autograd_tape::replayed(|| f(&inputs))
}
