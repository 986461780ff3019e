//! Attention with several heads.

use super::Module;
use super::linear::{Linear, linear};
use crate::builder::ValueBuilder;
use autograd_core::{Error, Result, Site, TrackedTensor};
use autograd_ops::TensorAutograd;

/// softmax(q kᵀ / √d + mask) v for each head, between four linear layers.
#[derive(Clone, Debug)]
pub struct MultiHeadAttention {
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
    heads: usize,
}

impl MultiHeadAttention {
    /// Attention of the rows of `xs` (N×L×size) to those of `memory` (N×M×size); the mask, if
    /// any, is added to the scores and broadcasts to N×heads×L×M.
    ///
    /// # Errors
    /// Shapes that do not fit.
    #[track_caller]
    pub fn attend(
        &self,
        xs: &TrackedTensor,
        memory: &TrackedTensor,
        mask: Option<&TrackedTensor>,
        causal: bool,
    ) -> Result<TrackedTensor> {
        let split = |x: TrackedTensor| {
            let (n, l, size) = (x.dim(0)?, x.dim(1)?, x.dim(2)?);
            x.reshape([n, l, self.heads, size / self.heads])?.transpose(1, 2)
        };
        let (q, k) = (split(self.query.forward(xs)?)?, split(self.key.forward(memory)?)?);
        let v = split(self.value.forward(memory)?)?;
        let mixed = q.scaled_dot_product_attention(&k, &v, mask, causal, None)?;
        let merged = mixed.transpose(1, 2)?.reshape([xs.dim(0)?, xs.dim(1)?, xs.dim(2)?])?;
        self.output.forward(&merged)
    }
}

impl Module for MultiHeadAttention {
    /// Attention of the rows to one another, without a mask.
    #[track_caller]
    fn forward(&self, xs: &TrackedTensor) -> Result<TrackedTensor> {
        self.attend(xs, xs, None, false)
    }
}

/// An attention layer with the linear layers `q_proj`, `k_proj`, `v_proj` and `out_proj`.
///
/// # Errors
/// A size that the heads do not divide; a parameter that is missing or of another shape.
#[track_caller]
#[expect(clippy::needless_pass_by_value, reason = "vb.pp(..) is written at the call, as with candle")]
pub fn multi_head_attention(size: usize, heads: usize, vb: ValueBuilder) -> Result<MultiHeadAttention> {
    if heads == 0 || !size.is_multiple_of(heads) {
        let reason = format!("a size of {size} cannot be cut in {heads} heads");
        return Err(Error::argument("multi_head_attention", reason).or_at(Site::caller()));
    }
    Ok(MultiHeadAttention {
        query: linear(size, size, vb.pp("q_proj"))?,
        key: linear(size, size, vb.pp("k_proj"))?,
        value: linear(size, size, vb.pp("v_proj"))?,
        output: linear(size, size, vb.pp("out_proj"))?,
        heads,
    })
}
