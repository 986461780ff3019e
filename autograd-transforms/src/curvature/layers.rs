//! Layers that note what flows in and out of them, for Kronecker-factored curvature.

use super::kronecker::KroneckerFactors;
use autograd_core::{Result, TrackedTensor};
use autograd_ops::TensorAutograd;

/// What a layer saw and gave in one run of a model.
pub(super) struct Seen {
    input: TrackedTensor,
    pub(super) output: TrackedTensor,
    bias: bool,
    kind: Kind,
}

enum Kind {
    Linear,
    Conv2d { window: (usize, usize), padding: usize, stride: usize },
}

/// The layers of a model whose curvature is wanted, in the order in which the model calls them.
///
/// A model that is written with them computes as it would without; see
/// [`kronecker_factors`](super::kronecker_factors).
#[derive(Default)]
pub struct Layers {
    pub(super) seen: Vec<Seen>,
}

impl std::fmt::Debug for Layers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Layers").field("seen", &self.seen.len()).finish()
    }
}

impl Layers {
    /// x·Wᵀ + b for x: examples × in, W: out × in, b: out.
    ///
    /// # Errors
    /// Shapes that do not fit.
    #[track_caller]
    pub fn linear(
        &mut self,
        x: &TrackedTensor,
        weight: &TrackedTensor,
        bias: Option<&TrackedTensor>,
    ) -> Result<TrackedTensor> {
        let mut output = x.matmul(&weight.t()?)?;
        if let Some(bias) = bias {
            output = output.add(bias)?;
        }
        self.note(x, &output, bias.is_some(), Kind::Linear);
        Ok(output)
    }

    /// The convolution of x: examples × in × height × width with W: out × in × kh × kw, and b: out.
    ///
    /// # Errors
    /// Shapes that do not fit.
    #[track_caller]
    pub fn conv2d(
        &mut self,
        x: &TrackedTensor,
        weight: &TrackedTensor,
        bias: Option<&TrackedTensor>,
        padding: usize,
        stride: usize,
    ) -> Result<TrackedTensor> {
        let mut output = x.conv2d(weight, padding, stride, 1, 1)?;
        if let Some(bias) = bias {
            output = output.add(&bias.reshape((1, (), 1, 1))?)?;
        }
        let window = (weight.dims()[2], weight.dims()[3]);
        self.note(x, &output, bias.is_some(), Kind::Conv2d { window, padding, stride });
        Ok(output)
    }

    fn note(&mut self, input: &TrackedTensor, output: &TrackedTensor, bias: bool, kind: Kind) {
        self.seen.push(Seen { input: input.clone(), output: output.clone(), bias, kind });
    }
}

impl Seen {
    /// The factors, given the gradients with respect to the output.
    pub(super) fn factors(&self, gradients: &TrackedTensor) -> Result<KroneckerFactors> {
        let input = self.input.detach()?;
        match self.kind {
            Kind::Linear => KroneckerFactors::linear(&input, gradients, self.bias),
            Kind::Conv2d { window, padding, stride } => {
                KroneckerFactors::conv2d(&input, gradients, window, padding, stride, self.bias)
            }
        }
    }
}
