//! Convolutions.

use super::Module;
use crate::builder::ValueBuilder;
use autograd_core::{Result, TrackedTensor};
use autograd_ops::TensorAutograd;
use candle_nn::Init;
use candle_nn::init::DEFAULT_KAIMING_NORMAL;

/// Padding, stride, dilation and groups of a convolution, the same in all directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvConfig {
    /// Zeros around the input.
    pub padding: usize,
    /// Steps of the kernel.
    pub stride: usize,
    /// Distances between the kernel's taps.
    pub dilation: usize,
    /// Groups of channels that do not see one another.
    pub groups: usize,
}

impl Default for ConvConfig {
    fn default() -> Self {
        Self { padding: 0, stride: 1, dilation: 1, groups: 1 }
    }
}

impl From<candle_nn::Conv1dConfig> for ConvConfig {
    fn from(c: candle_nn::Conv1dConfig) -> Self {
        Self { padding: c.padding, stride: c.stride, dilation: c.dilation, groups: c.groups }
    }
}

impl From<candle_nn::Conv2dConfig> for ConvConfig {
    fn from(c: candle_nn::Conv2dConfig) -> Self {
        Self { padding: c.padding, stride: c.stride, dilation: c.dilation, groups: c.groups }
    }
}

macro_rules! convolution {
    (
        $(#[$doc:meta])* $layer:ident, $new:ident, $no_bias:ident, $make:ident,
        $method:ident, [$($kernel:ident),*], [$($one:literal),*], $example:literal
    ) => {
        $(#[$doc])*
        #[derive(Clone, Debug)]
        pub struct $layer {
            weight: TrackedTensor,
            bias: Option<TrackedTensor>,
            config: ConvConfig,
        }

        impl $layer {
            /// The layer of a kernel and a bias, one number for each channel that comes out.
            pub fn new(weight: TrackedTensor, bias: Option<TrackedTensor>, config: ConvConfig) -> Self {
                Self { weight, bias, config }
            }

            /// The kernel.
            pub fn weight(&self) -> &TrackedTensor {
                &self.weight
            }

            /// The bias.
            pub fn bias(&self) -> Option<&TrackedTensor> {
                self.bias.as_ref()
            }
        }

        impl Module for $layer {
            #[track_caller]
            fn forward(&self, xs: &TrackedTensor) -> Result<TrackedTensor> {
                let ConvConfig { padding, stride, dilation, groups } = self.config;
                let mut y = xs.$method(&self.weight, padding, stride, dilation, groups)?;
                if let Some(bias) = &self.bias {
                    y.add_(&bias.reshape([1, self.weight.dim(0)?, $($one),*])?)?;
                }
                Ok(y)
            }
        }

        #[doc = concat!("A layer with the parameters `weight` (", $example, ") and `bias`.")]
        ///
        /// # Errors
        /// A parameter that is missing or of another shape.
        #[track_caller]
        pub fn $new(
            in_channels: usize,
            out_channels: usize,
            kernel_size: usize,
            config: impl Into<ConvConfig>,
            vb: ValueBuilder,
        ) -> Result<$layer> {
            $make(in_channels, out_channels, kernel_size, config.into(), true, &vb)
        }

        #[doc = concat!("A layer with the parameter `weight` (", $example, ").")]
        ///
        /// # Errors
        /// A parameter that is missing or of another shape.
        #[track_caller]
        pub fn $no_bias(
            in_channels: usize,
            out_channels: usize,
            kernel_size: usize,
            config: impl Into<ConvConfig>,
            vb: ValueBuilder,
        ) -> Result<$layer> {
            $make(in_channels, out_channels, kernel_size, config.into(), false, &vb)
        }

        #[track_caller]
        fn $make(
            in_channels: usize,
            out_channels: usize,
            size: usize,
            config: ConvConfig,
            bias: bool,
            vb: &ValueBuilder,
        ) -> Result<$layer> {
            $(let $kernel = size;)*
            let dims = [out_channels, in_channels / config.groups.max(1), $($kernel),*];
            let weight = vb.get_with(&dims, "weight", DEFAULT_KAIMING_NORMAL)?;
            let bound = 1.0 / (in_channels as f64).sqrt();
            let init = Init::Uniform { lo: -bound, up: bound };
            let bias = bias.then(|| vb.get_with(&[out_channels], "bias", init)).transpose()?;
            Ok($layer { weight, bias, config })
        }
    };
}

convolution!(
    /// A convolution over one dimension; x is N×C×L.
    Conv1d, conv1d, conv1d_no_bias, make_conv1d, conv1d, [size], [1], "out × in/groups × kernel"
);
convolution!(
    /// A convolution over two dimensions; x is N×C×H×W.
    Conv2d, conv2d, conv2d_no_bias, make_conv2d, conv2d, [rows, columns], [1, 1],
    "out × in/groups × kernel × kernel"
);
