//! A transformer block of BERT, over values.

use candle_autograd::nn::ValueBuilder;
use candle_autograd::nn::layers::{LayerNorm, Linear, Module, layer_norm, linear};
use candle_autograd::{Result, TensorAutograd, TrackedTensor};

/// A transformer block of BERT.
pub struct Block {
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
    attention_norm: LayerNorm,
    up: Linear,
    down: Linear,
    norm: LayerNorm,
    heads: usize,
}

impl Block {
    pub fn load(size: usize, heads: usize, vb: ValueBuilder) -> Result<Self> {
        Ok(Self {
            query: linear(size, size, vb.pp("attention.self.query"))?,
            key: linear(size, size, vb.pp("attention.self.key"))?,
            value: linear(size, size, vb.pp("attention.self.value"))?,
            output: linear(size, size, vb.pp("attention.output.dense"))?,
            attention_norm: layer_norm(size, 1e-12, vb.pp("attention.output.LayerNorm"))?,
            up: linear(size, 4 * size, vb.pp("intermediate.dense"))?,
            down: linear(4 * size, size, vb.pp("output.dense"))?,
            norm: layer_norm(size, 1e-12, vb.pp("output.LayerNorm"))?,
            heads,
        })
    }

    /// The rows of a batch of sentences; the mask is 0, or −∞ where a token is padding.
    pub fn forward(&self, x: &TrackedTensor, mask: &TrackedTensor) -> Result<TrackedTensor> {
        let (n, l, size) = x.dims3()?;
        let split = |x: TrackedTensor| x.reshape((n, l, self.heads, ()))?.transpose(1, 2);
        let (q, k) = (split(self.query.forward(x)?)?, split(self.key.forward(x)?)?);
        let v = split(self.value.forward(x)?)?;
        let mixed = q.scaled_dot_product_attention(&k, &v, Some(mask), false, None)?;
        let mixed = mixed.transpose(1, 2)?.reshape((n, l, size))?;
        let x = self.attention_norm.forward(&(self.output.forward(&mixed)? + x)?)?;
        let h = self.up.forward(&x)?.gelu_erf()?;
        self.norm.forward(&(self.down.forward(&h)? + x)?)
    }
}
