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

mod cost;
mod disk;
mod host;
mod levels;
mod manager;
mod optimal;
mod plan;
mod policy;
mod predict;
mod region;
mod sequential;
mod uniform;

pub use autograd_tape::{Fate, Store, Stowed};
pub use cost::{ChainCost, LayerCost};
pub use disk::DiskStore;
pub use host::HostStore;
pub use levels::OffloadCost;
pub use manager::{CheckpointManager, CheckpointStats, Costs};
pub use plan::{Part, Plan};
pub use policy::{Policy, checkpoint_with};
pub use predict::Prediction;
pub use region::checkpoint;
pub use sequential::checkpoint_sequential;
pub use uniform::binomial_recomputations;
