//! Matrices known by their products alone: solves, eigenvalues, traces and log-determinants of
//! operators too large to be written down.
//!
//! ```
//! use autograd_core::{Result, TrackedTensor};
//! use autograd_transforms::operators::{DenseMatrix, conjugate_gradient};
//!
//! fn main() -> Result<()> {
//!     let a = DenseMatrix::new(TrackedTensor::from_vec(vec![4f64, 1., 1., 3.], &[2, 2])?)?;
//!     let b = TrackedTensor::from_vec(vec![1f64, 2.], &[2])?;
//!     let solution = conjugate_gradient(&a, &b, &Default::default())?;
//!     let x = solution.x.to_vec1::<f64>()?;
//!     assert!((x[0] - 1. / 11.).abs() < 1e-12 && (x[1] - 7. / 11.).abs() < 1e-12);
//!     Ok(())
//! }
//! ```

mod cholesky;
mod conjugate_gradient;
mod dense;
mod estimate;
mod lanczos;
mod probe;
mod tridiagonal;
mod vector;

pub use cholesky::Cholesky;
pub use conjugate_gradient::{
    ConjugateGradientOptions, ConjugateGradientSolution, conjugate_gradient, conjugate_gradient_with,
};
pub use dense::{Damped, DenseMatrix};
pub use estimate::{hutch_plus_plus, log_determinant, trace, trace_of_function};
pub use lanczos::{Lanczos, RitzValue, lanczos};

pub(crate) use vector::checked;

use autograd_core::{DType, Result, TrackedTensor};

/// A matrix of which only products are known. Vectors are values of one dimension.
pub trait LinearOperator {
    /// The length of the results of [`matvec`](Self::matvec).
    fn rows(&self) -> usize;

    /// The length of its arguments.
    fn columns(&self) -> usize;

    /// The element type of arguments and results.
    fn dtype(&self) -> DType;

    /// A·x.
    ///
    /// # Errors
    /// A vector of another length or type; what the operator's function reports.
    fn matvec(&self, x: &TrackedTensor) -> Result<TrackedTensor>;

    /// Aᵀ·y.
    ///
    /// # Errors
    /// As [`matvec`](Self::matvec).
    fn adjoint(&self, y: &TrackedTensor) -> Result<TrackedTensor>;
}

impl<A: LinearOperator + ?Sized> LinearOperator for &A {
    fn rows(&self) -> usize {
        (**self).rows()
    }
    fn columns(&self) -> usize {
        (**self).columns()
    }
    fn dtype(&self) -> DType {
        (**self).dtype()
    }
    fn matvec(&self, x: &TrackedTensor) -> Result<TrackedTensor> {
        (**self).matvec(x)
    }
    fn adjoint(&self, y: &TrackedTensor) -> Result<TrackedTensor> {
        (**self).adjoint(y)
    }
}
