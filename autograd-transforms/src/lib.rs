//! Composable transforms of functions on values: `vmap`, `grad`, `vjp`, forward mode's `jvp`;
//! loops (`scan`) and functions with rules of their own (`custom_vjp`, `custom_jvp`).
//!
//! Every transform takes a closure over [`TrackedTensor`](autograd_core::TrackedTensor)s and can
//! be nested in every other one, since each works at a level of its own.
//!
//! ```
//! use autograd_core::{Mask, Result, TrackedTensor};
//! use autograd_ops::TensorAutograd;
//! use autograd_transforms::{grad, vmap};
//!
//! fn main() -> Result<()> {
//!     // The derivative of x³ at each of three points: a gradient, mapped.
//!     let x = TrackedTensor::from_vec(vec![1f64, 2., 3.], &[3])?;
//!     let dy = vmap(|x| grad(|x| x[0].pow(3), &[&x[0]]), &[&x], Mask::one(0))?;
//!     assert_eq!(dy[0].to_vec1::<f64>()?, [3., 12., 27.]);
//!     Ok(())
//! }
//! ```

mod batch;
mod custom;
mod linearity;
pub mod registry;
mod reverse;
mod scan;

pub use autograd_forward::jvp;
pub use batch::vmap;
pub use custom::{custom_jvp, custom_vjp};
pub use reverse::{grad, value_and_grad, vjp};
pub use scan::{ScanOptions, Step, scan, scan_with};
