//! Forward mode: dual numbers over candle tensors.
//!
//! [`jvp`] differentiates a function along a direction in one pass; [`ForwardADContext`] does the
//! same op by op on [`DualTensor`]s; [`jet`] and [`derivatives`] go to any order along a curve, and
//! [`laplacian`] sums second derivatives in one pass. Levels keep nested derivatives apart, so that forward over
//! reverse, reverse over forward and forward over forward compose. Nothing is recorded and no
//! memory is kept: for gradients of one output with respect to many inputs use `autograd-tape`.
//!
//! ```
//! use autograd_core::{Result, TrackedTensor};
//! use autograd_forward::jvp;
//! use autograd_ops::TensorAutograd;
//!
//! fn main() -> Result<()> {
//!     let (x, v) = (TrackedTensor::scalar(2.0), TrackedTensor::scalar(1.0));
//!     let (_, dy) = jvp(|x| x.mul(x), &x, &v)?;
//!     assert_eq!(dy.to_scalar::<f64>()?, 4.0);
//!     Ok(())
//! }
//! ```

mod context;
mod dual;
mod inline;
mod jet;
mod jvp;
mod laplacian;
mod series;

pub use context::{DualOperand, DualTensor, ForwardADContext, Lowered};
pub use jet::{derivatives, jet};
pub use jvp::jvp;
pub use laplacian::{Laplacian, laplacian, laplacian_along};
