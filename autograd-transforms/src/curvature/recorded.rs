//! Jacobians and Hessians of functions that are recorded once and multiplied often.

use crate::operators::{LinearOperator, checked};
use crate::ravel::ParameterLayout;
use autograd_core::algebra::{fill, zeros_like};
use autograd_core::{DType, Error, Meta, Result, Shape, Site, TrackedTensor, Tree};
use autograd_ops::TensorAutograd;
use autograd_tape::GradientTape;

/// The Jacobian of a function at given parameters: rows for the elements of its output, columns
/// for those of the parameters.
///
/// The function runs once. uᵀJ is a sweep over its record; the sweep for a variable u is recorded
/// too, and since it is linear in u its own transpose is J·v.
#[derive(Debug)]
pub struct JacobianOperator {
    tape: GradientTape,
    layout: ParameterLayout,
    parameters: Vec<TrackedTensor>,
    output: TrackedTensor,
    /// The variable u, and what uᵀJ is in terms of it: none where the output does not depend on
    /// the parameters.
    pulled: Option<(TrackedTensor, Vec<TrackedTensor>)>,
}

impl JacobianOperator {
    /// The Jacobian of `f`, which takes the parameters: one value, a list, a model.
    ///
    /// # Errors
    /// As [`ParameterLayout::of`], and what `f` reports; [`Error::UnsupportedMode`] at an op that is
    /// differentiable only once.
    #[track_caller]
    pub fn new<P: Tree + ?Sized>(
        f: impl FnOnce(&P::Owned) -> Result<TrackedTensor>,
        parameters: &P,
    ) -> Result<Self> {
        let layout = ParameterLayout::of(parameters)?;
        let tape = GradientTape::new().persistent();
        let variables = parameters.rebuild(&mut |p| tape.try_variable(p))?;
        let parameters: Vec<TrackedTensor> = variables.leaves().into_iter().cloned().collect();
        let output = f(&variables)?;
        if let Some(error) = output.failure() {
            return Err(error.clone());
        }
        let mut pulled = None;
        if tape.watches(&output) {
            let u = tape.try_variable(zeros_like(&tape.unwatched(&output))?)?;
            let sources: Vec<&TrackedTensor> = parameters.iter().collect();
            let grads = tape.gradient_with(&[&output], &[&u], &sources)?;
            pulled = Some((u, grads));
        }
        Ok(Self { tape, layout, parameters, output, pulled })
    }

    /// The function's value.
    pub fn value(&self) -> TrackedTensor {
        self.tape.unwatched(&self.output)
    }

    /// How parameters become vectors.
    pub fn layout(&self) -> &ParameterLayout {
        &self.layout
    }

    fn zeros(&self, n: usize) -> Result<TrackedTensor> {
        fill(0.0, &Meta { shape: Shape::new(&[n]), ..self.output.meta() }, &self.output)
    }
}

impl LinearOperator for JacobianOperator {
    fn rows(&self) -> usize {
        self.output.elem_count()
    }

    fn columns(&self) -> usize {
        self.layout.elements()
    }

    fn dtype(&self) -> DType {
        self.layout.dtype()
    }

    fn matvec(&self, x: &TrackedTensor) -> Result<TrackedTensor> {
        let tangents = self.layout.unflatten(x)?;
        let Some((u, pulled)) = &self.pulled else { return self.zeros(self.rows()) };
        let (targets, seeds): (Vec<_>, Vec<_>) =
            pulled.iter().zip(&tangents).filter(|(g, _)| self.tape.watches(g)).unzip();
        if targets.is_empty() {
            return self.zeros(self.rows());
        }
        self.tape.gradient_with_detached(&targets, &seeds, &[u])?[0].flatten_all()
    }

    #[track_caller]
    fn adjoint(&self, y: &TrackedTensor) -> Result<TrackedTensor> {
        checked("a vector of outputs", y, self.rows(), self.dtype())?;
        if self.pulled.is_none() {
            return self.zeros(self.columns());
        }
        let seed = y.reshape(self.output.dims())?;
        let sources: Vec<&TrackedTensor> = self.parameters.iter().collect();
        let grads = self.tape.gradient_with_detached(&[&self.output], &[&seed], &sources)?;
        self.layout.flatten(&grads)
    }
}

/// The Hessian of a scalar function at given parameters. The function and its gradient are
/// recorded once; H·v is a sweep over that record.
#[derive(Debug)]
pub struct HessianOperator {
    tape: GradientTape,
    layout: ParameterLayout,
    parameters: Vec<TrackedTensor>,
    value: TrackedTensor,
    gradient: Vec<TrackedTensor>,
}

impl HessianOperator {
    /// The Hessian of `f`, which takes the parameters: one value, a list, a model.
    ///
    /// # Errors
    /// As [`ParameterLayout::of`], and what `f` reports; [`Error::NonScalarTarget`];
    /// [`Error::UnsupportedMode`] at an op that is differentiable only once.
    ///
    /// ```
    /// use autograd_core::{Result, TrackedTensor};
    /// use autograd_ops::TensorAutograd;
    /// use autograd_transforms::curvature::HessianOperator;
    /// use autograd_transforms::operators::LinearOperator;
    ///
    /// fn main() -> Result<()> {
    ///     let x = TrackedTensor::from_vec(vec![1f64, 2.], &[2])?;
    ///     let hessian = HessianOperator::new(|x| x.powf(3.)?.sum(), &x)?;
    ///     let v = TrackedTensor::from_vec(vec![1f64, 1.], &[2])?;
    ///     assert_eq!(hessian.matvec(&v)?.to_vec1::<f64>()?, [6., 12.]);
    ///     assert_eq!(hessian.gradient()?.to_vec1::<f64>()?, [3., 12.]);
    ///     Ok(())
    /// }
    /// ```
    #[track_caller]
    pub fn new<P: Tree + ?Sized>(
        f: impl FnOnce(&P::Owned) -> Result<TrackedTensor>,
        parameters: &P,
    ) -> Result<Self> {
        let site = Site::caller();
        let layout = ParameterLayout::of(parameters)?;
        let tape = GradientTape::new().persistent();
        let variables = parameters.rebuild(&mut |p| tape.try_variable(p))?;
        let parameters: Vec<TrackedTensor> = variables.leaves().into_iter().cloned().collect();
        let value = f(&variables)?;
        if let Some(error) = value.failure() {
            return Err(error.clone());
        }
        if value.elem_count() != 1 {
            return Err(Error::NonScalarTarget { shape: *value.shape(), at: site.into() });
        }
        let gradient = if tape.watches(&value) {
            tape.gradient(&value, &parameters.iter().collect::<Vec<_>>())?
        } else {
            parameters.iter().map(|p| zeros_like(&tape.unwatched(p))).collect::<Result<_>>()?
        };
        Ok(Self { tape, layout, parameters, value, gradient })
    }

    /// The function's value.
    pub fn value(&self) -> TrackedTensor {
        self.tape.unwatched(&self.value)
    }

    /// The gradient as a vector.
    ///
    /// # Errors
    /// What the levels below report.
    pub fn gradient(&self) -> Result<TrackedTensor> {
        let gradient: Vec<TrackedTensor> = self.gradient.iter().map(|g| self.tape.unwatched(g)).collect();
        self.layout.flatten(&gradient)
    }

    /// How parameters become vectors.
    pub fn layout(&self) -> &ParameterLayout {
        &self.layout
    }
}

impl LinearOperator for HessianOperator {
    fn rows(&self) -> usize {
        self.layout.elements()
    }

    fn columns(&self) -> usize {
        self.layout.elements()
    }

    fn dtype(&self) -> DType {
        self.layout.dtype()
    }

    fn matvec(&self, x: &TrackedTensor) -> Result<TrackedTensor> {
        let tangents = self.layout.unflatten(x)?;
        let (targets, seeds): (Vec<_>, Vec<_>) =
            self.gradient.iter().zip(&tangents).filter(|(g, _)| self.tape.watches(g)).unzip();
        let sources: Vec<&TrackedTensor> = self.parameters.iter().collect();
        if targets.is_empty() {
            // A function without curvature.
            return zeros_like(x);
        }
        let product = self.tape.gradient_with_detached(&targets, &seeds, &sources)?;
        self.layout.flatten(&product)
    }

    fn adjoint(&self, y: &TrackedTensor) -> Result<TrackedTensor> {
        self.matvec(y)
    }
}
