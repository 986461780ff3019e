//! A transformer block of BERT, in candle.

use candle_core::{D, Result, Tensor};
use candle_nn::ops::softmax;
use candle_nn::{LayerNorm, Linear, Module, VarBuilder, layer_norm, linear};

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
    pub fn load(size: usize, heads: usize, vb: VarBuilder) -> Result<Self> {
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
    pub fn forward(&self, x: &Tensor, mask: &Tensor) -> Result<Tensor> {
        let (n, l, size) = x.dims3()?;
        let split = |x: Tensor| x.reshape((n, l, self.heads, ()))?.transpose(1, 2)?.contiguous();
        let (q, k) = (split(self.query.forward(x)?)?, split(self.key.forward(x)?)?);
        let v = split(self.value.forward(x)?)?;
        let scores = (q.matmul(&k.t()?)? / ((size / self.heads) as f64).sqrt())?;
        let weights = softmax(&scores.broadcast_add(mask)?, D::Minus1)?;
        let mixed = weights.matmul(&v)?.transpose(1, 2)?.reshape((n, l, size))?;
        let x = self.attention_norm.forward(&(self.output.forward(&mixed)? + x)?)?;
        let h = self.up.forward(&x)?.gelu_erf()?;
        self.norm.forward(&(self.down.forward(&h)? + x)?)
    }
}
