//! Whether candle tensors that ops saved still have the numbers they were saved with.
//!
//! Values of this library never change while anybody can see them. A candle tensor that a tape
//! reads in place can be changed behind its back: by `Var::set` (an optimiser step between forward
//! and backward) or `slice_set`. The gradient would be wrong without a word. So a tape keeps
//! fingerprints of such tensors and compares them when the backward pass reads them.

use crate::node::Node;
use crate::record::{Record, Shared};
use crate::tape::GradientTape;
use autograd_core::smallvec::SmallVec;
use autograd_core::{At, Error, Fingerprint, Result, TrackedTensor};
use std::sync::atomic::{AtomicU8, Ordering};

/// The fingerprints of one node: the number of the kept value, and its fingerprint.
pub(crate) type Fingerprints = SmallVec<[(u32, Fingerprint); 2]>;

/// How a tape watches what it saves.
#[derive(Debug)]
pub(crate) struct Watchfulness(AtomicU8);

impl Watchfulness {
    const NONE: u8 = 0;
    const SAMPLED: u8 = 1;
    const FULL: u8 = 2;

    /// Samples in debug builds, nothing in release builds.
    pub(crate) fn new() -> Self {
        Self(AtomicU8::new(if cfg!(debug_assertions) { Self::SAMPLED } else { Self::NONE }))
    }
}

impl GradientTape {
    /// The tape with a full check of the candle tensors that ops save for the backward pass: one
    /// whose numbers change before its gradient is taken (`Var::set`, `slice_set`, an optimiser
    /// step) makes that gradient the error [`Error::MutatedInput`], which names the op that saved
    /// it. Each such tensor is read once more when it is saved and when it is used.
    ///
    /// Without this, debug builds compare 64 elements of each tensor, and release builds none.
    /// Not seen, even by the full check: numbers that were put back before the gradient, tensors
    /// that are not on the CPU, and a change that comes while the backward pass runs and has
    /// passed the op.
    ///
    /// ```
    /// use autograd_core::{Error, Result};
    /// use autograd_tape::GradientTape;
    /// use candle_core::{Device, Var};
    ///
    /// fn main() -> Result<()> {
    ///     let var = Var::new(&[2f32], &Device::Cpu)?;
    ///     let tape = GradientTape::new().verify_saved();
    ///     let x = tape.variable(var.as_tensor());
    ///     let y = (&x * &x)?;
    ///     var.set(&var.affine(1.0, 1.0)?)?;
    ///     let error = tape.derivative(&y, &x).expect_err("x is not what it was");
    ///     assert!(matches!(error, Error::MutatedInput { op: "mul", .. }));
    ///     Ok(())
    /// }
    /// ```
    #[must_use]
    pub fn verify_saved(self) -> Self {
        self.shared().watchfulness.0.store(Watchfulness::FULL, Ordering::Relaxed);
        self
    }
}

impl Shared {
    /// Fingerprints of what a node is about to keep.
    pub(crate) fn fingerprints<'a>(
        &self,
        kept: impl IntoIterator<Item = Option<&'a TrackedTensor>>,
    ) -> Fingerprints {
        let how = self.watchfulness.0.load(Ordering::Relaxed);
        if how == Watchfulness::NONE {
            return Fingerprints::new();
        }
        let full = how == Watchfulness::FULL;
        let of = |(i, value): (usize, Option<_>)| Some((i as u32, Fingerprint::of(value?, full)?));
        kept.into_iter().enumerate().filter_map(of).collect()
    }
}

impl Record {
    /// Appends a node whose kept values have these fingerprints.
    pub(crate) fn push_saved(&mut self, node: Node, prints: Fingerprints) -> u32 {
        let id = self.push(node);
        self.note_prints(id, prints);
        id
    }

    /// Notes the fingerprints of a node's kept values.
    pub(crate) fn note_prints(&mut self, id: u32, prints: Fingerprints) {
        if !prints.is_empty() {
            self.prints.insert(id, prints);
        }
    }

    /// The fingerprints of a node's kept values.
    pub(crate) fn prints_of(&self, id: usize) -> Fingerprints {
        if self.prints.is_empty() {
            return Fingerprints::new();
        }
        self.prints.get(&(id as u32)).cloned().unwrap_or_default()
    }
}

/// The error where a kept candle tensor has other numbers than when it was saved.
pub(crate) fn verify(op: &'static str, node: &Node, prints: &Fingerprints) -> Result<()> {
    for (i, print) in prints {
        if let Some(Some(value)) = node.kept.get(*i as usize)
            && !print.holds_for(value)
        {
            return Err(Error::MutatedInput { op, shape: *value.shape(), at: At::from(node.site) });
        }
    }
    Ok(())
}
