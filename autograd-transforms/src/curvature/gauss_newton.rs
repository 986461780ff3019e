//! The generalized Gauss–Newton matrix.

use super::recorded::{HessianOperator, JacobianOperator};
use crate::operators::LinearOperator;
use crate::ravel::ParameterLayout;
use autograd_core::{DType, Result, TrackedTensor, Tree};

/// Jᵀ·H·J: J the Jacobian of a model at its parameters, H the Hessian of a loss at its output
/// (Schraudolph, Neural Computation 14, 2002). Positive semidefinite where the loss is convex in the output,
/// whatever the model. For the negative log-likelihood of an exponential family in its natural
/// parameters it is the Fisher information exactly (Martens, JMLR 21, 2020, section 9).
#[derive(Debug)]
pub struct GaussNewton {
    model: JacobianOperator,
    loss: HessianOperator,
}

impl GaussNewton {
    /// The matrix of a model, which takes the parameters (one value, a list, a model), and of a loss, which
    /// takes the model's output.
    ///
    /// # Errors
    /// As [`JacobianOperator::new`] and [`HessianOperator::new`].
    ///
    /// ```
    /// use autograd_core::{Result, TrackedTensor};
    /// use autograd_ops::TensorAutograd;
    /// use autograd_transforms::curvature::GaussNewton;
    /// use autograd_transforms::operators::LinearOperator;
    ///
    /// fn main() -> Result<()> {
    ///     // The model w², the loss y²/2: J = 2w, H = 1, so 4w².
    ///     let w = TrackedTensor::from_vec(vec![3f64], &[1])?;
    ///     let matrix = GaussNewton::new(|w| w.sqr(), |y| y.sqr()?.sum()?.mul(0.5), &w)?;
    ///     let one = TrackedTensor::from_vec(vec![1f64], &[1])?;
    ///     assert_eq!(matrix.matvec(&one)?.to_vec1::<f64>()?, [36.]);
    ///     assert_eq!(matrix.gradient()?.to_vec1::<f64>()?, [54.]);
    ///     Ok(())
    /// }
    /// ```
    #[track_caller]
    pub fn new<P: Tree + ?Sized>(
        model: impl FnOnce(&P::Owned) -> Result<TrackedTensor>,
        loss: impl FnOnce(&TrackedTensor) -> Result<TrackedTensor>,
        parameters: &P,
    ) -> Result<Self> {
        let model = JacobianOperator::new(model, parameters)?;
        let output = model.value();
        let loss = HessianOperator::new(loss, &output)?;
        Ok(Self { model, loss })
    }

    /// The loss.
    pub fn value(&self) -> TrackedTensor {
        self.loss.value()
    }

    /// The gradient of the loss with respect to the parameters, as a vector.
    ///
    /// # Errors
    /// What the levels below report.
    pub fn gradient(&self) -> Result<TrackedTensor> {
        self.model.adjoint(&self.loss.gradient()?)
    }

    /// How parameters become vectors.
    pub fn layout(&self) -> &ParameterLayout {
        self.model.layout()
    }
}

impl LinearOperator for GaussNewton {
    fn rows(&self) -> usize {
        self.model.columns()
    }

    fn columns(&self) -> usize {
        self.model.columns()
    }

    fn dtype(&self) -> DType {
        self.model.dtype()
    }

    fn matvec(&self, x: &TrackedTensor) -> Result<TrackedTensor> {
        self.model.adjoint(&self.loss.matvec(&self.model.matvec(x)?)?)
    }

    fn adjoint(&self, y: &TrackedTensor) -> Result<TrackedTensor> {
        self.matvec(y)
    }
}
