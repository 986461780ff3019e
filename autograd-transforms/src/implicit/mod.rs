//! Solutions as differentiable functions: roots, fixed points, minima, linear systems, and
//! ordinary differential equations.
//!
//! The functions given are closures over whatever they read. What they read that is watched (by a
//! tape, a dual number, a batch) is found by recording the closure and becomes an input of one op,
//! whose derivative is the implicit function theorem's: with F(y, θ) = 0, ∂y/∂θ = −F_y⁻¹·F_θ
//! (Griewank and Walther, "Evaluating Derivatives", chapter 15; Blondel and others, "Efficient and
//! modular implicit differentiation", 2022). No iteration of a solver is differentiated. The rules
//! are made of the same ops again, so that they hold to every order and in every mode.
//!
//! A closure must not look at numbers to choose what it computes: it is recorded once.
//!
//! ```
//! use autograd_core::{Result, TrackedTensor};
//! use autograd_ops::TensorAutograd;
//! use autograd_tape::GradientTape;
//! use autograd_transforms::implicit::root;
//!
//! fn main() -> Result<()> {
//!     // y² = x³, so y = x^1.5 and dy/dx = 1.5·√x.
//!     let tape = GradientTape::new();
//!     let x = tape.variable(TrackedTensor::scalar(5.0));
//!     let y = root(|y| y.sqr()?.sub(&x.powf(3.)?), &TrackedTensor::scalar(1.0), &Default::default())?;
//!     assert!((y.to_scalar::<f64>()? - 11.18033989).abs() < 1e-8);
//!     assert!((tape.derivative(&y, &x)?.to_scalar::<f64>()? - 3.35410197).abs() < 1e-8);
//!     Ok(())
//! }
//! ```

mod adjoint;
mod dormand_prince;
mod krylov;
mod linear;
mod newton;
mod numbers;
mod ode;
mod record;
mod solution;

pub use krylov::LinearSolver;
pub use linear::linear_solve;
pub use newton::SolveOptions;
pub use ode::{Adjoint, OdeOptions, ode_solve};
pub use solution::{argmin, fixed_point, root};
