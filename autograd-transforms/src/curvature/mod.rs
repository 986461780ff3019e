//! Curvature of losses as operators: Hessians, Gauss–Newton matrices, Fisher information, and the
//! natural gradient.
//!
//! None of the matrices is written down. A function is recorded once, at given parameters; each
//! product is then a sweep over that record. Vectors are parameters laid end to end
//! ([`ParameterLayout`](crate::ParameterLayout)).
//!
//! ```
//! use autograd_core::{Result, TrackedTensor};
//! use autograd_ops::{TensorAutograd, random};
//! use autograd_transforms::ParameterLayout;
//! use autograd_transforms::curvature::{Fisher, Likelihood, natural_gradient};
//!
//! fn main() -> Result<()> {
//!     // Logistic regression on three points.
//!     let x = TrackedTensor::from_vec(vec![1f64, 0., 0., 1., 1., 1.], &[3, 2])?;
//!     let w = TrackedTensor::from_vec(vec![0.5f64, -0.5, 0.1, 0.2], &[2, 2])?;
//!     let model = |w: &TrackedTensor, x: &TrackedTensor| x.matmul(w);
//!     let fisher = Fisher::sampled(model, &w, &x, Likelihood::Categorical, 8, &random::key(1))?;
//!     let gradient = TrackedTensor::from_vec(vec![1f64, 0., 0., -1.], &[4])?;
//!     let step = natural_gradient(&fisher, &gradient, 0.1, &Default::default())?;
//!     assert!(step.converged);
//!     let step = ParameterLayout::of(&w)?.unflatten_like(&step.x, &w)?;
//!     assert_eq!(step.dims(), [2, 2]);
//!     Ok(())
//! }
//! ```

mod fisher;
mod gauss_newton;
mod kronecker;
mod layers;
mod likelihood;
mod natural;
mod recorded;

pub use fisher::Fisher;
pub use gauss_newton::GaussNewton;
pub use kronecker::KroneckerFactors;
pub use layers::Layers;
pub use likelihood::Likelihood;
pub use natural::{kronecker_factors, natural_gradient};
pub use recorded::{HessianOperator, JacobianOperator};
