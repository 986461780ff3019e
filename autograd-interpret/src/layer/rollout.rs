//! Attention followed through the layers.

use crate::function::value_of;
use autograd_core::{Error, Result, Site, TrackedTensor};
use autograd_ops::TensorAutograd;

/// Which input each token of the last layer attends to, through all layers (Abnar and Zuidema
/// 2020): the product of ½(A + 1) over the layers, A the mean over heads, rows normalised.
///
/// `attentions` are B×H×T×T (or B×T×T), the first layer first; the result is B×T×T, rows the
/// outputs' tokens. The weights are what the function taps behind its softmax.
///
/// # Errors
/// [`Error::Shape`] for values that are not square in the last two dimensions;
/// [`Error::InvalidArgument`] for none.
///
/// ```
/// use autograd_core::{Result, TrackedTensor};
/// use autograd_interpret::attention_rollout;
///
/// fn main() -> Result<()> {
///     let uniform = TrackedTensor::from_vec(vec![0.5; 4], &[1, 2, 2])?;
///     let found = attention_rollout(&[uniform])?;
///     assert_eq!(found.to_flat::<f64>()?, [0.75, 0.25, 0.25, 0.75]);
///     Ok(())
/// }
/// ```
#[track_caller]
pub fn attention_rollout(attentions: &[TrackedTensor]) -> Result<TrackedTensor> {
    let site = Site::caller();
    let mut rolled: Option<TrackedTensor> = None;
    for attention in attentions {
        let tokens = attention.dims().last().copied().unwrap_or(0);
        let square = attention.rank() >= 3 && attention.dims()[attention.rank() - 2] == tokens && tokens > 0;
        if !square || attention.rank() > 4 {
            let reason = "attention weights of shape batch × heads × tokens × tokens are needed";
            return Err(Error::shape("attention_rollout", &[*attention.shape()], reason).or_at(site));
        }
        let mean = if attention.rank() == 4 { attention.mean_dim(1)? } else { attention.clone() };
        let own: Vec<f64> =
            (0..tokens * tokens).map(|i| f64::from(u8::from(i % (tokens + 1) == 0))).collect();
        let own = value_of(own, &[tokens, tokens], attention)?;
        let with_skip = mean.add(&own)?.affine(0.5, 0.0)?;
        let step = with_skip.div(&with_skip.sum_keepdim(-1)?)?;
        rolled = Some(match rolled {
            Some(so_far) => step.matmul(&so_far)?,
            None => step,
        });
    }
    rolled.ok_or_else(|| Error::argument("attention_rollout", "no layer was given").or_at(site))
}
