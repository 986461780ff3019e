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

mod in_place;
mod inspect;
mod node;
mod probe;
mod record;
mod region;
mod replay;
mod rules;
mod saved;
mod stow;
mod sweep;
mod tape;
mod tracer;
mod variables;

pub use autograd_core::no_grad;
pub use inspect::{Operation, TapeNode};
pub use probe::{Probe, probe};
pub use region::{Fate, RegionOptions, ReplayCount, region};
pub use rules::{BackwardRule, Choice, RuleSet, own_backward};
pub use stow::{Store, Stowed};
pub use tape::GradientTape;
