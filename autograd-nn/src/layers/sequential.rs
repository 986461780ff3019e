//! Layers one after another.

use super::ModuleT;
use autograd_core::{Result, TrackedTensor};
use std::fmt;

/// Layers of which each gets what the one before gives.
#[derive(Default)]
pub struct Sequential {
    layers: Vec<Box<dyn ModuleT + Send + Sync>>,
}

/// No layers yet.
pub fn sequential() -> Sequential {
    Sequential::default()
}

impl Sequential {
    /// The layers, and another one at their end: a layer, or a function as
    /// `|x: &TrackedTensor| x.relu()`.
    #[must_use]
    #[expect(clippy::should_implement_trait, reason = "candle's name")]
    pub fn add(mut self, layer: impl ModuleT + Send + Sync + 'static) -> Self {
        self.layers.push(Box::new(layer));
        self
    }

    /// The number of layers.
    pub fn len(&self) -> usize {
        self.layers.len()
    }

    /// Whether there is no layer: then the values pass as they are.
    pub fn is_empty(&self) -> bool {
        self.layers.is_empty()
    }
}

impl fmt::Debug for Sequential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sequential of {} layers", self.layers.len())
    }
}

impl ModuleT for Sequential {
    #[track_caller]
    fn forward_t(&self, xs: &TrackedTensor, train: bool) -> Result<TrackedTensor> {
        self.layers.iter().try_fold(xs.clone(), |x, layer| layer.forward_t(&x, train))
    }
}

impl Sequential {
    /// The value in evaluation: `forward_t(xs, false)`.
    ///
    /// # Errors
    /// As [`forward_t`](ModuleT::forward_t).
    #[track_caller]
    pub fn forward(&self, xs: &TrackedTensor) -> Result<TrackedTensor> {
        self.forward_t(xs, false)
    }
}
