//! At home with candle: models as they are, variables in, gradient stores out, and layers to port
//! models to.
//!
//! - [`CandleOps::candle`] puts existing candle code on a tape as one op; [`diagnose()`] finds the
//!   layer whose gradient candle gets wrong or drops.
//! - [`Parameters`] puts candle's variables on a tape, and hands gradients back as the `GradStore`
//!   that candle-nn's optimisers step on. They load and save safetensors, and are those of a
//!   `VarMap` where there is one.
//! - [`optimisers`] are steps as functions of trees, to be compiled with the gradient.
//! - [`layers`] are candle-nn's over values; [`ValueBuilder`] gives them their parameters.
//!
//! It is not a training framework: loops, data and schedules stay yours and candle's.
//!
//! ```
//! use autograd_core::Result;
//! use autograd_nn::Parameters;
//! use autograd_ops::TensorAutograd;
//! use autograd_tape::GradientTape;
//! use candle_core::{DType, Device};
//! use candle_nn::{Init, Optimizer, SGD, VarMap};
//!
//! fn main() -> Result<()> {
//!     let map = VarMap::new();
//!     map.get(2, "w", Init::Const(1.0), DType::F32, &Device::Cpu)?;
//!     let parameters = Parameters::from_varmap(&map);
//!     let mut optimiser = SGD::new(parameters.vars(), 0.1)?;
//!     let tape = GradientTape::new();
//!     let watched = parameters.watch(&tape)?;
//!     let w = watched.get("w")?;
//!     let loss = w.mul(w)?.sum()?;
//!     let grads = watched.gradients(&tape, &loss)?;
//!     drop(watched);
//!     optimiser.step(&grads)?;
//!     assert_eq!(parameters.vars()[0].to_vec1::<f32>()?, [0.8, 0.8]);
//!     Ok(())
//! }
//! ```

mod builder;
mod candle_op;
mod diagnose;
mod function;
pub mod layers;
pub mod optimisers;
mod parameters;
mod watched;

pub use builder::ValueBuilder;
pub use candle_op::{CandleOps, candle, candle_checkpointed};
pub use diagnose::{Diagnosis, Finding, Layer, LayerFinding, diagnose};
pub use function::CandleFunction;
pub use parameters::Parameters;
pub use watched::Watched;
