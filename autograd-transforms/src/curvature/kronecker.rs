//! Kronecker-factored curvature of one layer.

use crate::operators::{Cholesky, LinearOperator, checked};
use autograd_core::algebra::{add, narrow, scale};
use autograd_core::{DType, Error, Result, Shape, Site, TrackedTensor};
use autograd_ops::TensorAutograd;

/// The curvature of a layer's weights as a product of two small matrices: F ≈ G ⊗ A.
///
/// For a linear layer y = W·x + b, A = E[a·aᵀ] with a = (x, 1) and G = E[g·gᵀ] with g = ∂ln p/∂y
/// (Martens and Grosse, "Optimizing neural networks with Kronecker-factored approximate
/// curvature", ICML 2015). For a convolution, A is the sum of a·aᵀ over the places of the window
/// and G the mean of g·gᵀ over them (Grosse and Martens, ICML 2016). As an operator it works on
/// the rows of (W, b) laid end to end.
#[derive(Clone, Debug)]
pub struct KroneckerFactors {
    inputs: TrackedTensor,
    gradients: TrackedTensor,
    bias: bool,
    weight: Shape,
}

impl KroneckerFactors {
    /// The factors of a linear layer from the inputs (examples × in) and the gradients of each
    /// example's log-likelihood with respect to the outputs (examples × out).
    ///
    /// # Errors
    /// [`Error::Shape`] where they do not fit.
    #[track_caller]
    pub fn linear(inputs: &TrackedTensor, gradients: &TrackedTensor, bias: bool) -> Result<Self> {
        let (&[examples, width], &[same, out]) = (inputs.dims(), gradients.dims()) else {
            return Err(unfit(inputs, gradients, "both are examples × numbers"));
        };
        if examples != same || examples == 0 {
            return Err(unfit(inputs, gradients, "the numbers of examples differ or are 0"));
        }
        let weight = Shape::new(&[out, width]);
        Self::of_rows(inputs, gradients, bias, weight, 1.0 / examples as f64, 1.0 / examples as f64)
    }

    /// The factors of a two-dimensional convolution from its inputs (examples × channels × height
    /// × width) and the gradients with respect to its outputs, given the window's extents.
    ///
    /// # Errors
    /// [`Error::Shape`] where they do not fit.
    #[track_caller]
    pub fn conv2d(
        inputs: &TrackedTensor,
        gradients: &TrackedTensor,
        window: (usize, usize),
        padding: usize,
        stride: usize,
        bias: bool,
    ) -> Result<Self> {
        let (&[examples, channels, ..], &[same, out, high, wide]) = (inputs.dims(), gradients.dims()) else {
            return Err(unfit(inputs, gradients, "both are examples × channels × height × width"));
        };
        if inputs.rank() != 4 || examples != same || examples * high * wide == 0 {
            return Err(unfit(inputs, gradients, "the numbers of examples differ or are 0"));
        }
        let padded = inputs.pad_with_zeros(2, padding, padding)?.pad_with_zeros(3, padding, padding)?;
        let windows = padded.unfold(2, window.0, stride)?.unfold(3, window.1, stride)?;
        if windows.dims()[2..4] != [high, wide] {
            return Err(unfit(inputs, gradients, "the window does not give outputs of that size"));
        }
        // Examples and places are rows: n c h w kh kw to (n h w) × (c kh kw).
        let size = channels * window.0 * window.1;
        let rows = windows.permute((0, 2, 3, 1, 4, 5))?.reshape((-1, size as isize))?;
        let gradients = gradients.permute((0, 2, 3, 1))?.reshape((-1, out as isize))?;
        let places = high * wide;
        let weight = Shape::new(&[out, channels, window.0, window.1]);
        let (per_example, per_place) = (1.0 / examples as f64, 1.0 / (examples * places) as f64);
        Self::of_rows(&rows, &gradients, bias, weight, per_example, per_place)
    }

    fn of_rows(
        inputs: &TrackedTensor,
        gradients: &TrackedTensor,
        bias: bool,
        weight: Shape,
        of_inputs: f64,
        of_gradients: f64,
    ) -> Result<Self> {
        let inputs = if bias {
            let ones = narrow(inputs, 1, 0, 1)?.mul(0.0)?.add(1.0)?;
            TrackedTensor::cat(&[inputs.clone(), ones], 1)?
        } else {
            inputs.clone()
        };
        Ok(Self {
            inputs: scale(&inputs.t()?.matmul(&inputs)?, of_inputs)?,
            gradients: scale(&gradients.t()?.matmul(gradients)?, of_gradients)?,
            bias,
            weight,
        })
    }

    /// A, over the inputs of the layer and 1 for its bias.
    pub fn inputs(&self) -> &TrackedTensor {
        &self.inputs
    }

    /// G, over the outputs of the layer.
    pub fn gradients(&self) -> &TrackedTensor {
        &self.gradients
    }

    /// Moves these factors towards newer ones: decay·old + (1 − decay)·new.
    ///
    /// # Errors
    /// [`Error::Shape`] where they are of another layer; [`Error::InvalidArgument`] for a decay
    /// outside of 0 ..= 1.
    #[track_caller]
    pub fn update(&mut self, newer: &Self, decay: f64) -> Result<()> {
        let site = Site::caller();
        if self.weight != newer.weight || self.bias != newer.bias {
            let shapes = [self.weight, newer.weight];
            return Err(Error::shape("kronecker_factors", &shapes, "factors of another layer").or_at(site));
        }
        if !(0.0..=1.0).contains(&decay) {
            return Err(Error::argument("kronecker_factors", format!("a decay of {decay}")).or_at(site));
        }
        let blend =
            |old: &TrackedTensor, new: &TrackedTensor| add(&scale(old, decay)?, &scale(new, 1.0 - decay)?);
        self.inputs = blend(&self.inputs, &newer.inputs)?;
        self.gradients = blend(&self.gradients, &newer.gradients)?;
        Ok(())
    }

    /// (G + √λ/π)⁻¹ · ∇ · (A + π√λ)⁻¹: the gradients of weight and bias, preconditioned, with
    /// factored damping, π² = (tr A/dim A)/(tr G/dim G) (Martens and Grosse 2015, section 6.3).
    ///
    /// # Errors
    /// [`Error::Shape`] where gradients have not the layer's shapes; [`Error::InvalidArgument`] for
    /// a damping that is not positive.
    #[track_caller]
    pub fn solve(
        &self,
        weight: &TrackedTensor,
        bias: Option<&TrackedTensor>,
        damping: f64,
    ) -> Result<(TrackedTensor, Option<TrackedTensor>)> {
        let site = Site::caller();
        if !(damping > 0.0 && damping.is_finite()) {
            return Err(Error::argument("kronecker_factors", format!("a damping of {damping}")).or_at(site));
        }
        let out = self.weight.dims()[0];
        let fits = weight.shape() == &self.weight
            && bias.is_some() == self.bias
            && bias.is_none_or(|b| b.dims() == [out]);
        if !fits {
            let mut shapes = vec![*weight.shape()];
            shapes.extend(bias.map(|b| *b.shape()));
            let reason = format!("the layer's weight is {}, with a bias: {}", self.weight, self.bias);
            return Err(Error::shape("kronecker_factors", &shapes, reason).or_at(site));
        }
        let mut rows = weight.reshape((out as isize, ()))?;
        if let Some(bias) = bias {
            rows = TrackedTensor::cat(&[rows, bias.unsqueeze(1)?], 1)?;
        }
        let mean = |m: &TrackedTensor| -> Result<f64> { Ok(trace(m)? / m.dims()[0] as f64) };
        let ratio = mean(&self.inputs)? / mean(&self.gradients)?;
        // A layer without inputs or gradients has no scale of its own.
        let pi = if ratio.is_finite() && ratio > 0.0 { ratio.sqrt() } else { 1.0 };
        let left = Cholesky::new(&damped(&self.gradients, damping.sqrt() / pi)?)?;
        let right = Cholesky::new(&damped(&self.inputs, damping.sqrt() * pi)?)?;
        let solved = right.solve(&left.solve(&rows)?.t()?)?.t()?;
        let width = solved.dims()[1];
        Ok(if self.bias {
            let weight = narrow(&solved, 1, 0, width - 1)?.reshape(self.weight.dims())?;
            (weight, Some(narrow(&solved, 1, width - 1, 1)?.reshape(out)?))
        } else {
            (solved.reshape(self.weight.dims())?, None)
        })
    }
}

fn unfit(inputs: &TrackedTensor, gradients: &TrackedTensor, reason: &str) -> Error {
    Error::shape("kronecker_factors", &[*inputs.shape(), *gradients.shape()], reason)
}

fn trace(matrix: &TrackedTensor) -> Result<f64> {
    let n = matrix.dims()[0];
    let all = matrix.to_dtype(DType::F64)?.to_flat::<f64>()?;
    Ok((0..n).map(|i| all[i * n + i]).sum())
}

/// A matrix in f64 with a number added to its diagonal.
fn damped(matrix: &TrackedTensor, damping: f64) -> Result<TrackedTensor> {
    let n = matrix.dims()[0];
    let mut all = matrix.to_dtype(DType::F64)?.to_flat::<f64>()?;
    (0..n).for_each(|i| all[i * n + i] += damping);
    TrackedTensor::from_vec(all, &[n, n])
}

impl LinearOperator for KroneckerFactors {
    fn rows(&self) -> usize {
        self.inputs.dims()[0] * self.gradients.dims()[0]
    }

    fn columns(&self) -> usize {
        self.rows()
    }

    fn dtype(&self) -> DType {
        self.inputs.dtype()
    }

    /// vec(G·V·A) for the rows of V laid end to end.
    #[track_caller]
    fn matvec(&self, x: &TrackedTensor) -> Result<TrackedTensor> {
        checked("the vector of a product", x, self.columns(), self.dtype())?;
        let (out, width) = (self.gradients.dims()[0] as isize, self.inputs.dims()[0] as isize);
        self.gradients.matmul(&x.reshape((out, width))?.matmul(&self.inputs)?)?.flatten_all()
    }

    fn adjoint(&self, y: &TrackedTensor) -> Result<TrackedTensor> {
        self.matvec(y)
    }
}
