//! The model: convolution, relu and pooling twice, then a linear layer.
//!
//! A model is a plain struct of values with a function that computes. Whether the values are
//! plain, on a tape or in forward mode makes no difference to it.

use candle_autograd::core::tap;
use candle_autograd::nn::Watched;
use candle_autograd::{Result, TensorAutograd, TrackedTensor};
use candle_core::{DType, Device, Tensor, Var};
use candle_nn::VarMap;
use rand::Rng;
use std::sync::PoisonError;

/// A net that reads 28×28 images.
pub(crate) struct Net {
    conv1: Layer,
    conv2: Layer,
    linear: Layer,
}

struct Layer {
    weight: TrackedTensor,
    bias: TrackedTensor,
}

impl Net {
    /// The net with these parameters.
    pub(crate) fn new(parameters: &Watched) -> Result<Self> {
        let layer = |name: &str| -> Result<Layer> {
            Ok(Layer {
                weight: parameters.get(&format!("{name}.weight"))?.clone(),
                bias: parameters.get(&format!("{name}.bias"))?.clone(),
            })
        };
        Ok(Self { conv1: layer("conv1")?, conv2: layer("conv2")?, linear: layer("linear")? })
    }

    /// N×1×28×28 images to N×10 logits, one for each digit.
    pub(crate) fn forward(&self, images: &TrackedTensor) -> Result<TrackedTensor> {
        let x = self.conv1.convolve(images)?.relu()?.max_pool2d(2)?;
        // A name for those who look at the layer: class activation maps do.
        let x = tap("conv2", &self.conv2.convolve(&x)?.relu()?)?.max_pool2d(2)?;
        x.flatten_from(1)?.linear(&self.linear.weight, Some(&self.linear.bias))
    }
}

impl Layer {
    /// A convolution that keeps the size of the images: 5×5, two zeros around them.
    fn convolve(&self, x: &TrackedTensor) -> Result<TrackedTensor> {
        let (padding, stride, dilation, groups) = (2, 1, 1, 1);
        let bias = self.bias.reshape(((), 1, 1))?;
        x.conv2d(&self.weight, padding, stride, dilation, groups)?.add(&bias)
    }
}

/// The shape of each layer's weight, as candle-nn has it: outputs first, then what one output reads.
const LAYERS: [(&str, &[usize]); 3] =
    [("conv1", &[16, 1, 5, 5]), ("conv2", &[32, 16, 5, 5]), ("linear", &[10, 32 * 7 * 7])];

/// New variables for the net, drawn by `rng`: weights uniform with the variance 2 / inputs, which
/// keeps the size of the numbers from layer to layer (He et al. 2015), biases zero.
pub(crate) fn variables(rng: &mut impl Rng) -> candle_core::Result<VarMap> {
    let map = VarMap::new();
    for (name, shape) in LAYERS {
        let (outputs, inputs) = (shape[0], shape[1..].iter().product::<usize>());
        let bound = (6.0 / inputs as f32).sqrt();
        let drawn: Vec<f32> = (0..outputs * inputs).map(|_| rng.random_range(-bound..bound)).collect();
        insert(&map, &format!("{name}.weight"), &Tensor::from_vec(drawn, shape, &Device::Cpu)?)?;
        insert(&map, &format!("{name}.bias"), &Tensor::zeros(outputs, DType::F32, &Device::Cpu)?)?;
    }
    Ok(map)
}

/// `VarMap::get` would draw the values itself, and without a seed.
fn insert(map: &VarMap, name: &str, value: &Tensor) -> candle_core::Result<()> {
    let mut data = map.data().lock().unwrap_or_else(PoisonError::into_inner);
    data.insert(name.to_owned(), Var::from_tensor(value)?);
    Ok(())
}
