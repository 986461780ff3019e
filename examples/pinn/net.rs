//! The network: a plain struct, which `tree!` makes an argument of transforms.

use candle_autograd::ops::random;
use candle_autograd::{Result, TensorAutograd, TrackedTensor, tree};
use candle_core::DType;

/// tanh layers of one width, and a linear one.
pub(crate) struct Net {
    layers: Vec<(TrackedTensor, TrackedTensor)>,
}
tree!(Net { layers });

impl Net {
    /// Two hidden layers, weights of variance 1/inputs.
    pub(crate) fn new(width: usize, key: &TrackedTensor) -> Result<Self> {
        let layers = [(2, width), (width, width), (width, 1)].into_iter().enumerate();
        let layers = layers.map(|(i, (inputs, outputs))| {
            let weight = random::normal(&random::fold_in(key, i as u64)?, &[inputs, outputs], DType::F64)?;
            let bias = TrackedTensor::from_vec(vec![0f64; outputs], &[outputs])?;
            Ok((weight.mul((inputs as f64).sqrt().recip())?, bias))
        });
        Ok(Self { layers: layers.collect::<Result<_>>()? })
    }

    /// u at points `[n, 2]`: x(1 − x)·y(1 − y) times the network, so that it is 0 on the edge.
    pub(crate) fn u(&self, points: &TrackedTensor) -> Result<TrackedTensor> {
        let mut y = points.clone();
        for (i, (weight, bias)) in self.layers.iter().enumerate() {
            y = y.matmul(weight)?.add(bias)?;
            if i + 1 < self.layers.len() {
                y = y.tanh()?;
            }
        }
        let edge = points.mul(points.neg()?.add(1.0)?)?;
        edge.narrow(1, 0, 1)?.mul(edge.narrow(1, 1, 1)?)?.mul(y)
    }
}
