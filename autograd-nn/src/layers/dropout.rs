//! Dropout.

use super::ModuleT;
use autograd_core::{Result, TrackedTensor};
use autograd_ops::random;
use std::sync::atomic::{AtomicU64, Ordering};

/// Zeroes elements with a probability in training, and divides the others by what is left of it.
///
/// Every call draws anew, from the key and the number of the call. So a model that is built anew
/// with the same key repeats its masks; a training step gives it a key of its own
/// (`random::fold_in(&key, step)`).
#[derive(Debug)]
pub struct Dropout {
    rate: f64,
    key: TrackedTensor,
    calls: AtomicU64,
}

impl Dropout {
    /// The layer of a rate and a key; see [`random::key`].
    pub fn new(rate: f64, key: &TrackedTensor) -> Self {
        Self { rate, key: key.clone(), calls: AtomicU64::new(0) }
    }
}

impl ModuleT for Dropout {
    #[track_caller]
    fn forward_t(&self, xs: &TrackedTensor, train: bool) -> Result<TrackedTensor> {
        if !train {
            return Ok(xs.clone());
        }
        let key = random::fold_in(&self.key, self.calls.fetch_add(1, Ordering::Relaxed))?;
        random::dropout(xs, &key, self.rate)
    }
}
