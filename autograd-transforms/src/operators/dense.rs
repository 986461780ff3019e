//! Operators made of a matrix that is there, and of another operator with a multiple of one.

use super::LinearOperator;
use super::vector::{checked, plus};
use autograd_core::{DType, Error, Result, Site, TrackedTensor};
use autograd_ops::TensorAutograd;

/// A matrix with all its entries, as an operator.
#[derive(Clone, Debug)]
pub struct DenseMatrix(TrackedTensor);

impl DenseMatrix {
    /// The operator of a value with two dimensions.
    ///
    /// # Errors
    /// [`Error::Shape`] where it has not two.
    #[track_caller]
    pub fn new(matrix: TrackedTensor) -> Result<Self> {
        if let Some(error) = matrix.failure() {
            return Err(error.clone());
        }
        if matrix.rank() != 2 {
            let reason = "a matrix has two dimensions";
            return Err(Error::shape("dense_matrix", &[*matrix.shape()], reason).or_at(Site::caller()));
        }
        Ok(Self(matrix))
    }

    /// The matrix.
    pub fn matrix(&self) -> &TrackedTensor {
        &self.0
    }
}

impl LinearOperator for DenseMatrix {
    fn rows(&self) -> usize {
        self.0.dims()[0]
    }
    fn columns(&self) -> usize {
        self.0.dims()[1]
    }
    fn dtype(&self) -> DType {
        self.0.dtype()
    }
    #[track_caller]
    fn matvec(&self, x: &TrackedTensor) -> Result<TrackedTensor> {
        checked("the vector of a product", x, self.columns(), self.dtype())?;
        self.0.mv(x)
    }
    #[track_caller]
    fn adjoint(&self, y: &TrackedTensor) -> Result<TrackedTensor> {
        checked("the vector of a product", y, self.rows(), self.dtype())?;
        self.0.t()?.mv(y)
    }
}

/// A + λ·1: an operator with damping (Tikhonov, Levenberg–Marquardt).
#[derive(Clone, Debug)]
pub struct Damped<A> {
    operator: A,
    damping: f64,
}

impl<A: LinearOperator> Damped<A> {
    /// A + damping·1.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for an operator that is not square or a damping that is negative or not
    /// a number.
    #[track_caller]
    pub fn new(operator: A, damping: f64) -> Result<Self> {
        let site = Site::caller();
        super::vector::square("damped", &operator, site)?;
        if !(damping >= 0.0 && damping.is_finite()) {
            return Err(Error::argument("damped", format!("a damping of {damping}")).or_at(site));
        }
        Ok(Self { operator, damping })
    }
}

impl<A: LinearOperator> LinearOperator for Damped<A> {
    fn rows(&self) -> usize {
        self.operator.rows()
    }
    fn columns(&self) -> usize {
        self.operator.columns()
    }
    fn dtype(&self) -> DType {
        self.operator.dtype()
    }
    fn matvec(&self, x: &TrackedTensor) -> Result<TrackedTensor> {
        plus(&self.operator.matvec(x)?, self.damping, x)
    }
    fn adjoint(&self, y: &TrackedTensor) -> Result<TrackedTensor> {
        plus(&self.operator.adjoint(y)?, self.damping, y)
    }
}
