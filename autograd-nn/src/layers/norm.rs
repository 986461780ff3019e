//! Normalisations.

use super::{Module, ModuleT};
use crate::builder::ValueBuilder;
use autograd_core::{Result, TrackedTensor};
use autograd_ops::norm;
use candle_core::Var;
use candle_nn::{BatchNormConfig, Init, LayerNormConfig};

/// y = (x − mean) / √(variance + eps) · weight + bias over the last dimension; or, where the
/// configuration does not remove the mean, the root mean square's norm.
#[derive(Clone, Debug)]
pub struct LayerNorm {
    weight: TrackedTensor,
    bias: Option<TrackedTensor>,
    remove_mean: bool,
    eps: f64,
}

impl LayerNorm {
    /// The layer of a weight and a bias.
    pub fn new(weight: TrackedTensor, bias: TrackedTensor, eps: f64) -> Self {
        Self { weight, bias: Some(bias), remove_mean: true, eps }
    }
}

impl Module for LayerNorm {
    #[track_caller]
    fn forward(&self, xs: &TrackedTensor) -> Result<TrackedTensor> {
        if self.remove_mean {
            return norm::layer_norm_with(xs, 1, Some(&self.weight), self.bias.as_ref(), self.eps);
        }
        let y = norm::rms_norm(xs, &self.weight, self.eps)?;
        match &self.bias {
            Some(bias) => &y + bias,
            None => Ok(y),
        }
    }
}

/// A layer norm with the parameters `weight` and, where the configuration is affine, `bias`
/// (`gamma` and `beta` are taken too).
///
/// # Errors
/// A parameter that is missing or of another shape.
#[track_caller]
#[expect(clippy::needless_pass_by_value, reason = "vb.pp(..) is written at the call, as with candle")]
pub fn layer_norm(size: usize, config: impl Into<LayerNormConfig>, vb: ValueBuilder) -> Result<LayerNorm> {
    let config = config.into();
    let name =
        |new: &'static str, old: &'static str| if !vb.contains(new) && vb.contains(old) { old } else { new };
    let weight = vb.get_with(&[size], name("weight", "gamma"), Init::Const(1.0))?;
    let bias =
        config.affine.then(|| vb.get_with(&[size], name("bias", "beta"), Init::Const(0.0))).transpose()?;
    Ok(LayerNorm { weight, bias, remove_mean: config.remove_mean, eps: config.eps })
}

/// A layer norm with the parameter `weight` alone.
///
/// # Errors
/// As [`layer_norm`].
#[track_caller]
pub fn layer_norm_no_bias(size: usize, eps: f64, vb: ValueBuilder) -> Result<LayerNorm> {
    layer_norm(size, LayerNormConfig { eps, affine: false, remove_mean: true }, vb)
}

/// y = x / √(mean(x²) + eps) · weight over the last dimension.
#[derive(Clone, Debug)]
pub struct RmsNorm(LayerNorm);

impl Module for RmsNorm {
    #[track_caller]
    fn forward(&self, xs: &TrackedTensor) -> Result<TrackedTensor> {
        self.0.forward(xs)
    }
}

/// A root mean square norm with the parameter `weight`.
///
/// # Errors
/// As [`layer_norm`].
#[track_caller]
pub fn rms_norm(size: usize, eps: f64, vb: ValueBuilder) -> Result<RmsNorm> {
    layer_norm(size, LayerNormConfig { eps, affine: false, remove_mean: false }, vb).map(RmsNorm)
}

/// Normalisation over groups of channels and all positions; x is N×C×….
#[derive(Clone, Debug)]
pub struct GroupNorm {
    weight: TrackedTensor,
    bias: TrackedTensor,
    groups: usize,
    eps: f64,
}

impl Module for GroupNorm {
    #[track_caller]
    fn forward(&self, xs: &TrackedTensor) -> Result<TrackedTensor> {
        norm::group_norm(xs, self.groups, Some(&self.weight), Some(&self.bias), self.eps)
    }
}

/// A group norm with the parameters `weight` and `bias`.
///
/// # Errors
/// A parameter that is missing or of another shape.
#[track_caller]
#[expect(clippy::needless_pass_by_value, reason = "vb.pp(..) is written at the call, as with candle")]
pub fn group_norm(groups: usize, channels: usize, eps: f64, vb: ValueBuilder) -> Result<GroupNorm> {
    let weight = vb.get_with(&[channels], "weight", Init::Const(1.0))?;
    let bias = vb.get_with(&[channels], "bias", Init::Const(0.0))?;
    Ok(GroupNorm { weight, bias, groups, eps })
}

/// Normalisation over batch and positions of each channel; x is N×C×….
///
/// In training it uses the batch's statistics and moves the running ones, which are variables of
/// the model's state, towards them; in evaluation it uses those.
#[derive(Clone, Debug)]
pub struct BatchNorm {
    running_mean: Var,
    running_var: Var,
    affine: Option<(TrackedTensor, TrackedTensor)>,
    eps: f64,
    momentum: f64,
}

impl ModuleT for BatchNorm {
    #[track_caller]
    fn forward_t(&self, xs: &TrackedTensor, train: bool) -> Result<TrackedTensor> {
        let (weight, bias) = self.affine.as_ref().map(|(w, b)| (w, b)).unzip();
        let mean = TrackedTensor::from_candle(&self.running_mean)?;
        let variance = TrackedTensor::from_candle(&self.running_var)?;
        if !train {
            return norm::batch_norm_eval(xs, &mean, &variance, weight, bias, self.eps);
        }
        let made = norm::batch_norm_train(xs, &mean, &variance, weight, bias, self.momentum, self.eps)?;
        drop((mean, variance));
        self.running_mean.set(&made.running_mean.tensor()?)?;
        self.running_var.set(&made.running_var.tensor()?)?;
        Ok(made.output)
    }
}

/// A batch norm with the parameters `weight` and `bias` (where the configuration is affine) and
/// the statistics `running_mean` and `running_var`.
///
/// # Errors
/// A parameter that is missing or of another shape.
#[track_caller]
#[expect(clippy::needless_pass_by_value, reason = "vb.pp(..) is written at the call, as with candle")]
pub fn batch_norm(
    channels: usize,
    config: impl Into<BatchNormConfig>,
    vb: ValueBuilder,
) -> Result<BatchNorm> {
    let config = config.into();
    let (running_mean, _) = vb.entry(&[channels], "running_mean", Init::Const(0.0))?;
    let (running_var, _) = vb.entry(&[channels], "running_var", Init::Const(1.0))?;
    let affine = if config.affine {
        let weight = vb.get_with(&[channels], "weight", Init::Const(1.0))?;
        Some((weight, vb.get_with(&[channels], "bias", Init::Const(0.0))?))
    } else {
        None
    };
    Ok(BatchNorm { running_mean, running_var, affine, eps: config.eps, momentum: config.momentum })
}
