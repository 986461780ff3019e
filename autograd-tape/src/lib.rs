//! Reverse mode: gradient tapes over candle tensors.
//!
//! A [`GradientTape`] watches its variables and records, as data, what is computed from them;
//! [`GradientTape::gradient`] walks the record down once. It knows rule shapes, never ops, and
//! holds no lock while a rule runs. It is not a graph compiler: for captured, optimised programs
//! see `autograd-graph`.
//!
//! ```
//! use autograd_core::{Result, TrackedTensor};
//! use autograd_tape::GradientTape;
//!
//! fn main() -> Result<()> {
//!     let tape = GradientTape::new().persistent();
//!     let x = tape.variable(TrackedTensor::scalar(2.0));
//!     let y = ((&x * &x)? * &x)?;
//!     let dy = tape.derivative(&y, &x)?; // 3x²
//!     let ddy = tape.derivative(&dy, &x)?; // 6x
//!     assert_eq!((dy.to_scalar::<f64>()?, ddy.to_scalar::<f64>()?), (12.0, 12.0));
//!     Ok(())
//! }
//! ```

mod accumulator;
mod anomaly;
mod clip;
mod diagnostics;
mod draw;
mod explain;
mod fence;
mod hooks;
mod in_place;
mod inspect;
mod life;
mod node;
mod noise;
mod norm;
mod probe;
mod record;
mod region;
mod replay;
mod rules;
mod saved;
mod scaler;
mod statistics;
mod stow;
mod sweep;
mod tape;
mod tracer;
mod variables;
mod watch;

pub use accumulator::GradientAccumulator;
pub use autograd_core::no_grad;
pub use clip::{clip_adaptive, clip_by_global_norm, clip_by_norm, clip_by_value};
pub use diagnostics::{GradientReport, LayerReport, Limits, Trouble, dead_units};
pub use explain::{Cause, Explanation, PathStep, Place, Verdict};
pub use hooks::{Hook, NamedGradients};
pub use inspect::{Operation, TapeNode};
pub use noise::GradientNoise;
pub use norm::global_norm;
pub use probe::{Probe, probe};
pub use region::{Fate, RegionOptions, ReplayCount, region, run_recorded};
pub use rules::{BackwardRule, Choice, RuleSet, own_backward};
pub use scaler::{LossScaler, LossScalerState};
pub use statistics::Statistics;
pub use stow::{Store, Stowed};
pub use tape::GradientTape;
