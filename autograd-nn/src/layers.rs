//! Layers over values, with candle-nn's names: a candle model ports by changing types.
//!
//! Constructors and parameter names are candle-nn's (`linear(3, 2, vb.pp("fc"))` loads
//! `fc.weight` and `fc.bias`), and so are the numbers. What differs: `Tensor` becomes
//! [`TrackedTensor`], `VarBuilder` becomes [`ValueBuilder`](crate::ValueBuilder), broadcasting is
//! implicit, and every layer has a gradient, of every order, in every mode. `docs/porting.md`
//! ports a transformer block line by line.

mod attention;
mod conv;
mod dropout;
mod embedding;
mod linear;
mod norm;
mod sequential;

pub use attention::{MultiHeadAttention, multi_head_attention};
pub use conv::{Conv1d, Conv2d, ConvConfig, conv1d, conv1d_no_bias, conv2d, conv2d_no_bias};
pub use dropout::Dropout;
pub use embedding::{Embedding, embedding};
pub use linear::{Linear, linear, linear_b, linear_no_bias};
pub use norm::{
    BatchNorm, GroupNorm, LayerNorm, RmsNorm, batch_norm, group_norm, layer_norm, layer_norm_no_bias,
    rms_norm,
};
pub use sequential::{Sequential, sequential};

use autograd_core::{Result, TrackedTensor};
use autograd_ops::TensorAutograd;

/// A layer: a function of one value.
pub trait Module {
    /// The layer's value at `xs`.
    ///
    /// # Errors
    /// Shapes that do not fit, and whatever the layer's ops report.
    #[track_caller]
    fn forward(&self, xs: &TrackedTensor) -> Result<TrackedTensor>;
}

/// A layer that does different things in training and in evaluation.
pub trait ModuleT {
    /// The layer's value at `xs`.
    ///
    /// # Errors
    /// As [`Module::forward`].
    #[track_caller]
    fn forward_t(&self, xs: &TrackedTensor, train: bool) -> Result<TrackedTensor>;
}

impl<M: Module> ModuleT for M {
    #[track_caller]
    fn forward_t(&self, xs: &TrackedTensor, _: bool) -> Result<TrackedTensor> {
        self.forward(xs)
    }
}

/// A function is a layer.
impl<F: Fn(&TrackedTensor) -> Result<TrackedTensor>> Module for F {
    #[track_caller]
    fn forward(&self, xs: &TrackedTensor) -> Result<TrackedTensor> {
        self(xs)
    }
}

/// candle-nn's activations, as they are named in configurations.
impl Module for candle_nn::Activation {
    #[track_caller]
    fn forward(&self, xs: &TrackedTensor) -> Result<TrackedTensor> {
        use candle_nn::Activation::{
            Elu, Gelu, GeluPytorchTanh, HardSigmoid, HardSwish, LeakyRelu, Mish, NewGelu, Relu, Relu2, Relu6,
            Sigmoid, Silu, Swiglu, Swish,
        };
        match *self {
            Gelu => xs.gelu_erf(),
            NewGelu | GeluPytorchTanh => xs.gelu(),
            Relu => xs.relu(),
            Relu2 => xs.relu()?.sqr(),
            Relu6 => xs.relu6(),
            Silu | Swish => xs.silu(),
            Sigmoid => xs.sigmoid(),
            HardSigmoid => xs.hardsigmoid(),
            Swiglu => xs.swiglu(),
            Mish => xs.mish(),
            HardSwish => xs.hardswish(),
            Elu(alpha) => xs.elu(alpha),
            LeakyRelu(slope) => xs.leaky_relu(slope),
        }
    }
}
