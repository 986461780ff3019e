//! At home with candle: variables in, gradient stores out.
//!
//! [`Parameters`] puts candle's variables on a tape, and hands gradients back as the `GradStore`
//! that candle-nn's optimisers step on. Saving, loading and initialising stay candle's.
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

mod parameters;

pub use parameters::{Parameters, Watched};
