//! Affine maps.

use super::Module;
use crate::builder::ValueBuilder;
use autograd_core::{Result, TrackedTensor};
use autograd_ops::TensorAutograd;
use candle_nn::Init;
use candle_nn::init::DEFAULT_KAIMING_NORMAL;

/// y = x Wᵀ + b over the last dimension; W is out × in.
#[derive(Clone, Debug)]
pub struct Linear {
    weight: TrackedTensor,
    bias: Option<TrackedTensor>,
}

impl Linear {
    /// The layer of a weight (out × in) and a bias (out).
    pub fn new(weight: TrackedTensor, bias: Option<TrackedTensor>) -> Self {
        Self { weight, bias }
    }

    /// The weight.
    pub fn weight(&self) -> &TrackedTensor {
        &self.weight
    }

    /// The bias.
    pub fn bias(&self) -> Option<&TrackedTensor> {
        self.bias.as_ref()
    }
}

impl Module for Linear {
    #[track_caller]
    fn forward(&self, xs: &TrackedTensor) -> Result<TrackedTensor> {
        xs.linear(&self.weight, self.bias.as_ref())
    }
}

/// A linear layer with the parameters `weight` and `bias`.
///
/// # Errors
/// A parameter that is missing or of another shape.
#[track_caller]
pub fn linear(in_dim: usize, out_dim: usize, vb: ValueBuilder) -> Result<Linear> {
    linear_b(in_dim, out_dim, true, vb)
}

/// A linear layer with the parameter `weight`.
///
/// # Errors
/// As [`linear`].
#[track_caller]
pub fn linear_no_bias(in_dim: usize, out_dim: usize, vb: ValueBuilder) -> Result<Linear> {
    linear_b(in_dim, out_dim, false, vb)
}

/// A linear layer with or without bias.
///
/// # Errors
/// As [`linear`].
#[track_caller]
#[expect(clippy::needless_pass_by_value, reason = "vb.pp(..) is written at the call, as with candle")]
pub fn linear_b(in_dim: usize, out_dim: usize, bias: bool, vb: ValueBuilder) -> Result<Linear> {
    let weight = vb.get_with(&[out_dim, in_dim], "weight", DEFAULT_KAIMING_NORMAL)?;
    let bound = 1.0 / (in_dim as f64).sqrt();
    let init = Init::Uniform { lo: -bound, up: bound };
    let bias = bias.then(|| vb.get_with(&[out_dim], "bias", init)).transpose()?;
    Ok(Linear { weight, bias })
}
