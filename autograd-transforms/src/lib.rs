//! Composable transforms of functions on values: `vmap`, `grad`, `vjp`, forward mode's `jvp`;
//! loops (`scan`) and functions with rules of their own (`custom_vjp`, `custom_jvp`).
//!
//! Every transform takes a closure over [`TrackedTensor`](autograd_core::TrackedTensor)s and can
//! be nested in every other one, since each works at a level of its own.
//!
//! ```
//! use autograd_core::{Result, TrackedTensor};
//! use autograd_ops::TensorAutograd;
//! use autograd_transforms::{grad, vmap};
//!
//! fn main() -> Result<()> {
//!     // The derivative of x³ at each of three points: a gradient, mapped.
//!     let x = TrackedTensor::from_vec(vec![1f64, 2., 3.], &[3])?;
//!     let dy = vmap(|x| grad(|x| x.pow(3), x), &x, 0)?;
//!     assert_eq!(dy.to_vec1::<f64>()?, [3., 12., 27.]);
//!     Ok(())
//! }
//! ```

mod axes;
mod batch;
mod check;
pub mod curvature;
mod custom;
mod diagonal;
mod estimate;
mod hessian;
pub mod implicit;
mod jacobian;
mod linearity;
mod linearize;
pub mod operators;
mod ravel;
pub mod registry;
mod reverse;
mod scan;
mod single;
pub mod sparse;

pub use autograd_forward::{Laplacian, derivatives, jet, jvp, laplacian, laplacian_along};
pub use axes::Axes;
pub use batch::{Vmap, vmap};
pub use check::{Comparison, GradCheck, Report, Scheme, gradcheck, gradgradcheck, jacobian_check};
pub use custom::{custom_jvp, custom_vjp};
pub use diagonal::hessian_diagonal;
pub use estimate::{Estimate, estimate_hessian_diagonal, forward_gradient};
pub use hessian::{hessian, hvp, inner_product, mixed_partials, vhp};
pub use jacobian::{Jacobian, jacfwd, jacobian, jacrev};
pub use linearize::{Linearized, Pullback, linearize, pullback};
pub use ravel::{ParameterLayout, ravel};
pub use reverse::{grad, grad_aux, value_and_grad, value_and_grad_aux, vjp};
pub use scan::{ScanOptions, Step, scan, scan_with};
