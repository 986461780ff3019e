//! Captum's figures and the nets that they are of, built from the same weights.
//!
//! `tests/fixtures/captum_fixtures.py` made the file.

use autograd_core::{DType, Device, Error, Result, TrackedTensor, tap};
use autograd_interpret::{Function, Method, Target};
use autograd_ops::TensorAutograd;
use std::collections::HashMap;

/// The largest error, relative to the largest number of the attribution, in f64.
pub(crate) const IN_F64: f64 = 1e-8;

/// The same for relevance: Captum adds ε = 1e-9 to what max-pooling gives, too.
const OF_RELEVANCE: f64 = 1e-6;

/// The same in f32, which has seven digits and loses some in sums and differences.
pub(crate) const IN_F32: f64 = 1e-4;

/// The file's tensors, in one element type.
pub(crate) struct Fixtures {
    all: HashMap<String, TrackedTensor>,
    dtype: DType,
}

impl Fixtures {
    pub(crate) fn load(dtype: DType) -> Result<Self> {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/captum_fixtures.safetensors");
        let read = candle_core::safetensors::load(path, &Device::Cpu)?;
        let all =
            read.into_iter().map(|(name, tensor)| Ok((name, TrackedTensor::from(tensor.to_dtype(dtype)?))));
        Ok(Self { all: all.collect::<Result<_>>()?, dtype })
    }

    pub(crate) fn get(&self, name: &str) -> Result<&TrackedTensor> {
        self.all.get(name).ok_or_else(|| Error::msg(format!("the file has no {name}")))
    }

    /// x·wᵀ + b.
    fn linear(&self, net: &str, layer: &str, x: &TrackedTensor) -> Result<TrackedTensor> {
        let w = self.get(&format!("{net}/weights/{layer}.weight"))?;
        x.matmul(&w.t()?)?.add(self.get(&format!("{net}/weights/{layer}.bias"))?)
    }

    fn convolution(&self, layer: &str, x: &TrackedTensor) -> Result<TrackedTensor> {
        x.conv2d(self.get(&format!("conv/weights/{layer}.weight"))?, 0, 1, 1, 1)
    }

    pub(crate) fn conv(&self, x: &TrackedTensor, means: bool) -> Result<TrackedTensor> {
        let bias = |x: TrackedTensor, layer: &str| {
            x.add(&self.get(&format!("conv/weights/{layer}.bias"))?.reshape(((), 1, 1))?)
        };
        let x = tap("conv1", &bias(self.convolution("conv1", x)?, "conv1")?)?.relu()?;
        let x = if means { x.avg_pool2d(2)? } else { x.max_pool2d(2)? };
        let x = tap("conv2", &bias(self.convolution("conv2", &x)?, "conv2")?)?;
        let x = tap("relu2", &x.relu()?)?.flatten_from(1)?;
        let x = tap("fc1", &self.linear("conv", "fc1", &x)?)?.relu()?;
        tap("fc2", &self.linear("conv", "fc2", &x)?)
    }

    /// The conv net without biases.
    pub(crate) fn bare(&self, x: &TrackedTensor) -> Result<TrackedTensor> {
        let linear = |layer: &str, x: &TrackedTensor| {
            x.matmul(&self.get(&format!("conv/weights/{layer}.weight"))?.t()?)
        };
        let x = self.convolution("conv1", x)?.relu()?.max_pool2d(2)?;
        let x = self.convolution("conv2", &x)?.relu()?.flatten_from(1)?;
        tap("fc2", &linear("fc2", &linear("fc1", &x)?.relu()?)?)
    }

    pub(crate) fn mlp(&self, x: &TrackedTensor) -> Result<TrackedTensor> {
        let x = tap("act1", &self.linear("mlp", "fc1", x)?.tanh()?)?;
        let x = tap("act2", &self.linear("mlp", "fc2", &x)?.relu()?)?;
        let x = tap("act3", &self.linear("mlp", "fc3", &x)?.softplus()?)?;
        self.linear("mlp", "fc4", &x)
    }

    pub(crate) fn plain(&self, x: &TrackedTensor) -> Result<TrackedTensor> {
        let x = self.linear("plain", "fc1", x)?.tanh()?;
        let x = self.linear("plain", "fc2", &x)?.relu()?;
        self.linear("plain", "fc4", &x)
    }

    fn norm(&self, layer: &str, x: &TrackedTensor) -> Result<TrackedTensor> {
        let weight = self.get(&format!("block/weights/{layer}.weight"))?;
        x.layer_norm(weight, self.get(&format!("block/weights/{layer}.bias"))?, 1e-5)
    }

    pub(crate) fn block(&self, x: &TrackedTensor) -> Result<TrackedTensor> {
        let &[batch, tokens, width] = x.dims() else { return Err(Error::msg("three dimensions")) };
        let heads = |x: &TrackedTensor| x.reshape((batch, tokens, 2, 4))?.transpose(1, 2);
        let qkv = self.linear("block", "qkv", &self.norm("norm1", x)?)?.chunk(3, -1)?;
        let (q, k, v) = (heads(&qkv[0])?, heads(&qkv[1])?, heads(&qkv[2])?);
        let weights = q.matmul(&k.transpose(2, 3)?)?.affine(0.5, 0.0)?.softmax(-1)?;
        let mixed =
            tap("attention", &weights)?.matmul(&v)?.transpose(1, 2)?.reshape((batch, tokens, width))?;
        let x = tap("attended", &x.add(&self.linear("block", "out", &mixed)?)?)?;
        let up = self.linear("block", "up", &self.norm("norm2", &x)?)?.gelu_erf()?;
        let x = x.add(&self.linear("block", "down", &up)?)?;
        self.linear("block", "head", &x.mean_dim(1)?)
    }

    /// Compares with the attribution of a name.
    #[track_caller]
    pub(crate) fn check(&self, name: &str, found: Result<TrackedTensor>) -> Result<()> {
        let found = found.map_err(|error| Error::msg(format!("{name}: {error}")))?;
        let wanted = self.get(name)?;
        assert_eq!(
            found.elem_count(),
            wanted.elem_count(),
            "{name}: {} for {}",
            found.shape(),
            wanted.shape()
        );
        let numbers = |x: &TrackedTensor| x.to_dtype(DType::F64)?.to_flat::<f64>();
        let (found, wanted) = (numbers(&found)?, numbers(wanted)?);
        let scale = wanted.iter().fold(0.0f64, |most, w| most.max(w.abs()));
        let error = found.iter().zip(&wanted).fold(0.0f64, |most, (a, b)| most.max((a - b).abs())) / scale;
        let most = match self.dtype {
            DType::F64 if name.contains("lrp") => OF_RELEVANCE,
            DType::F64 => IN_F64,
            _ => IN_F32,
        };
        assert!(error <= most, "{name}: relative error {error:.1e}\n{found:?}\n{wanted:?}");
        Ok(())
    }

    #[track_caller]
    pub(crate) fn method(
        &self,
        name: &str,
        method: &dyn Method,
        f: &Function<'_>,
        x: &TrackedTensor,
        target: &Target,
    ) -> Result<()> {
        let found = method.attribute(f, std::slice::from_ref(x), target);
        self.check(name, found.map(|mut found| found.values.remove(0)))
    }
}
