//! Three small models as structs: what the nestings are compared on.

use autograd_core::{Result, TrackedTensor, tree};
use autograd_ops::{TensorAutograd, random};
use candle_core::DType;

/// Normal numbers from a seed.
pub(crate) fn draw(shape: &[usize], seed: u64) -> Result<TrackedTensor> {
    random::normal(&random::key(seed), shape, DType::F64)?.mul(0.5)
}

/// A linear layer.
pub(crate) struct Linear {
    weight: TrackedTensor,
    bias: TrackedTensor,
}
tree!(Linear { weight, bias });

impl Linear {
    fn new(inputs: usize, outputs: usize, seed: u64) -> Result<Self> {
        Ok(Self { weight: draw(&[inputs, outputs], seed)?, bias: draw(&[outputs], seed + 1)? })
    }

    fn forward(&self, x: &TrackedTensor) -> Result<TrackedTensor> {
        x.matmul(&self.weight)?.add(&self.bias)
    }
}

/// tanh between two linear layers, cross entropy.
pub(crate) struct Mlp {
    layers: Vec<Linear>,
}
tree!(Mlp { layers });

/// A convolution, layer norm, gelu, pooling, a linear layer.
pub(crate) struct ConvNet {
    kernel: TrackedTensor,
    scale: TrackedTensor,
    head: Linear,
}
tree!(ConvNet { kernel, scale, head });

/// Attention of two heads with a residual, and a feed-forward layer.
pub(crate) struct Block {
    queries: Linear,
    keys: Linear,
    values: Linear,
    out: Option<Linear>,
}
tree!(Block { queries, keys, values, out });

impl Mlp {
    pub(crate) fn new() -> Result<Self> {
        Ok(Self { layers: vec![Linear::new(3, 4, 1)?, Linear::new(4, 3, 3)?] })
    }

    pub(crate) fn loss(&self) -> Result<TrackedTensor> {
        let x = draw(&[5, 3], 100)?;
        let targets = TrackedTensor::from_vec(vec![0u32, 1, 2, 1, 0], &[5])?;
        self.layers[1].forward(&self.layers[0].forward(&x)?.tanh()?)?.cross_entropy(&targets)
    }
}

impl ConvNet {
    pub(crate) fn new() -> Result<Self> {
        Ok(Self { kernel: draw(&[2, 1, 3, 3], 11)?, scale: draw(&[4], 12)?, head: Linear::new(8, 2, 13)? })
    }

    pub(crate) fn loss(&self) -> Result<TrackedTensor> {
        let x = draw(&[2, 1, 6, 6], 101)?;
        let y = x.conv2d(&self.kernel, 0, 1, 1, 1)?;
        let y = y.softmax(-1)?.mul(&self.scale)?.gelu()?;
        let y = y.avg_pool2d(2)?.reshape((2, 8))?;
        self.head.forward(&y)?.sigmoid()?.sqr()?.sum()
    }
}

impl Block {
    pub(crate) fn new() -> Result<Self> {
        Ok(Self {
            queries: Linear::new(4, 4, 21)?,
            keys: Linear::new(4, 4, 23)?,
            values: Linear::new(4, 4, 25)?,
            out: Some(Linear::new(4, 4, 27)?),
        })
    }

    pub(crate) fn loss(&self) -> Result<TrackedTensor> {
        let x = draw(&[3, 4], 102)?;
        let heads = |y: TrackedTensor| y.reshape((3, 2, 2))?.permute((1, 0, 2));
        let (q, k) = (heads(self.queries.forward(&x)?)?, heads(self.keys.forward(&x)?)?);
        let v = heads(self.values.forward(&x)?)?;
        let y = q.scaled_dot_product_attention(&k, &v, None, true, None)?;
        let y = y.permute((1, 0, 2))?.reshape((3, 4))?.add(&x)?;
        let y = match &self.out {
            Some(out) => out.forward(&y.silu()?)?,
            None => y,
        };
        y.logsumexp(-1)?.sum()
    }
}
