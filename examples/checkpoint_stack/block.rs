//! A transformer block: norms in front, causal attention with one product for q, k and v, and a
//! hidden layer four times as wide.

use candle_autograd::{Result, TensorAutograd, TrackedTensor};

/// The parameters of a block, by name, with their shapes in terms of the width.
pub(crate) const PARAMETERS: [(&str, &[usize]); 12] = [
    ("norm1.weight", &[1]),
    ("norm1.bias", &[1]),
    ("qkv.weight", &[1, 3]),
    ("qkv.bias", &[3]),
    ("out.weight", &[1, 1]),
    ("out.bias", &[1]),
    ("norm2.weight", &[1]),
    ("norm2.bias", &[1]),
    ("up.weight", &[1, 4]),
    ("up.bias", &[4]),
    ("down.weight", &[4, 1]),
    ("down.bias", &[1]),
];

/// A block with its parameters, in the order of [`PARAMETERS`].
pub(crate) struct Block {
    pub(crate) parameters: Vec<TrackedTensor>,
    pub(crate) heads: usize,
}

impl Block {
    /// B×T×D to B×T×D.
    pub(crate) fn forward(&self, x: &TrackedTensor) -> Result<TrackedTensor> {
        let [batch, tokens, width] = x.dims()[..] else {
            return Err(candle_autograd::Error::msg("a block takes batch × tokens × width"));
        };
        let p = &self.parameters;
        let h = x.layer_norm(&p[0], &p[1], 1e-5)?;
        let qkv = (h.matmul(&p[2])? + &p[3])?;
        let qkv =
            qkv.reshape([batch, tokens, 3, self.heads, width / self.heads])?.permute([2, 0, 3, 1, 4])?;
        let part = |i: usize| qkv.narrow(0, i, 1)?.squeeze(0);
        let a = part(0)?.scaled_dot_product_attention(&part(1)?, &part(2)?, None, true, None)?;
        let a = a.transpose(1, 2)?.reshape([batch, tokens, width])?;
        let x = (x + (a.matmul(&p[4])? + &p[5])?)?;
        let h = x.layer_norm(&p[6], &p[7], 1e-5)?;
        let h = (h.matmul(&p[8])? + &p[9])?.gelu()?;
        &x + (h.matmul(&p[10])? + &p[11])?
    }
}
