//! BERT's layers in candle ops that have a gradient.
//!
//! candle-transformers' own layers end in candle-nn's `LayerNorm`, whose fused kernel has none.
//! Here it is written out; all else is as there, and so are the numbers.

use candle_core::{D, Result, Tensor};
use candle_nn::ops::softmax;
use candle_nn::{Embedding, Linear, Module, VarBuilder, embedding, linear};
use candle_transformers::models::bert::Config;

/// (x − mean) / √(variance + eps) · weight + bias, in ops that candle differentiates.
#[derive(Clone)]
struct Norm {
    weight: Tensor,
    bias: Tensor,
    eps: f64,
}

impl Norm {
    fn load(config: &Config, vb: &VarBuilder) -> Result<Self> {
        let get = |new: &str, old: &str| {
            vb.get(config.hidden_size, if vb.contains_tensor(new) { new } else { old })
        };
        let (weight, bias) = (get("weight", "gamma")?, get("bias", "beta")?);
        Ok(Self { weight, bias, eps: config.layer_norm_eps })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let x = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
        let deviation = (x.sqr()?.mean_keepdim(D::Minus1)? + self.eps)?.sqrt()?;
        x.broadcast_div(&deviation)?.broadcast_mul(&self.weight)?.broadcast_add(&self.bias)
    }
}

/// Words, positions and sentence numbers, summed and normalised.
pub(crate) struct Embeddings {
    words: Embedding,
    positions: Embedding,
    kinds: Embedding,
    norm: Norm,
}

impl Embeddings {
    pub(crate) fn load(config: &Config, vb: &VarBuilder) -> Result<Self> {
        let size = config.hidden_size;
        Ok(Self {
            words: embedding(config.vocab_size, size, vb.pp("word_embeddings"))?,
            positions: embedding(config.max_position_embeddings, size, vb.pp("position_embeddings"))?,
            kinds: embedding(config.type_vocab_size, size, vb.pp("token_type_embeddings"))?,
            norm: Norm::load(config, &vb.pp("LayerNorm"))?,
        })
    }

    /// The words' vectors, 1 × tokens × size: what the attribution is about.
    pub(crate) fn words(&self, tokens: &[u32]) -> Result<Tensor> {
        self.words.forward(&Tensor::new(tokens, self.words.embeddings().device())?.unsqueeze(0)?)
    }

    /// What the layers get, from the words' vectors.
    pub(crate) fn complete(&self, words: &Tensor) -> Result<Tensor> {
        let device = words.device();
        let positions: Vec<u32> = (0..words.dim(1)? as u32).collect();
        let positions = self.positions.forward(&Tensor::new(positions, device)?)?;
        let kind = self.kinds.forward(&Tensor::new(&[0u32], device)?)?;
        self.norm.forward(&words.broadcast_add(&positions)?.broadcast_add(&kind)?)
    }
}

/// One transformer layer.
#[derive(Clone)]
pub(crate) struct Layer {
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
    attention_norm: Norm,
    up: Linear,
    down: Linear,
    norm: Norm,
    heads: usize,
}

impl Layer {
    pub(crate) fn load(config: &Config, vb: &VarBuilder) -> Result<Self> {
        let (size, wide) = (config.hidden_size, config.intermediate_size);
        Ok(Self {
            query: linear(size, size, vb.pp("attention.self.query"))?,
            key: linear(size, size, vb.pp("attention.self.key"))?,
            value: linear(size, size, vb.pp("attention.self.value"))?,
            output: linear(size, size, vb.pp("attention.output.dense"))?,
            attention_norm: Norm::load(config, &vb.pp("attention.output.LayerNorm"))?,
            up: linear(size, wide, vb.pp("intermediate.dense"))?,
            down: linear(wide, size, vb.pp("output.dense"))?,
            norm: Norm::load(config, &vb.pp("output.LayerNorm"))?,
            heads: config.num_attention_heads,
        })
    }

    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (n, l, size) = x.dims3()?;
        let split = |x: Tensor| x.reshape((n, l, self.heads, ()))?.transpose(1, 2)?.contiguous();
        let (q, k) = (split(self.query.forward(x)?)?, split(self.key.forward(x)?)?);
        let v = split(self.value.forward(x)?)?;
        let scores = (q.matmul(&k.t()?)? / ((size / self.heads) as f64).sqrt())?;
        let mixed = softmax(&scores, D::Minus1)?.matmul(&v)?.transpose(1, 2)?.reshape((n, l, size))?;
        let x = self.attention_norm.forward(&(self.output.forward(&mixed)? + x)?)?;
        let h = self.up.forward(&x)?.gelu_erf()?;
        self.norm.forward(&(self.down.forward(&h)? + x)?)
    }
}
