//! Policies: which results inside a checkpoint are kept all the same.

use crate::region::run;
use autograd_core::{Meta, Primitive, Result, Rule, TrackedTensor};
use autograd_tape::{Fate, RegionOptions, Store};
use std::fmt;
use std::sync::Arc;

type Choose = dyn Fn(&dyn Primitive, &[Meta]) -> Option<Fate> + Send + Sync;

/// Decides for each op inside a [`checkpoint_with`] whether its result is kept, computed again or
/// offloaded. Rules that are added later go before earlier ones.
///
/// ```
/// use autograd_checkpoint::{Policy, checkpoint_with};
/// use autograd_core::{Result, TrackedTensor, tap};
/// use autograd_tape::GradientTape;
///
/// fn main() -> Result<()> {
///     // Everything is computed again but what has this name.
///     let policy = Policy::save_names(["hidden"]);
///     let tape = GradientTape::new();
///     let x = tape.variable(TrackedTensor::scalar(3.0));
///     let y = checkpoint_with(
///         &policy,
///         |x| {
///             let hidden = tap("hidden", &(&x[0] * &x[0])?)?;
///             Ok(vec![(&hidden * &hidden)?])
///         },
///         &[&x],
///     )?;
///     assert_eq!(tape.derivative(&y[0], &x)?.to_scalar::<f64>()?, 108.0);
///     Ok(())
/// }
/// ```
#[derive(Clone)]
pub struct Policy {
    otherwise: Fate,
    rules: Vec<Arc<Choose>>,
    store: Option<Arc<dyn Store>>,
}

impl fmt::Debug for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Policy")
            .field("otherwise", &self.otherwise)
            .field("rules", &self.rules.len())
            .field("store", &self.store)
            .finish()
    }
}

impl Policy {
    /// Nothing is kept: what [`checkpoint()`](crate::checkpoint()) does.
    pub fn save_nothing() -> Self {
        Self { otherwise: Fate::Recompute, rules: Vec::new(), store: None }
    }

    /// Every result is kept that some rule might read.
    pub fn save_everything() -> Self {
        Self { otherwise: Fate::Keep, rules: Vec::new(), store: None }
    }

    /// Results of matrix products (with a bias or without) and of convolutions are kept, everything
    /// else is computed again: JAX's `dots_saveable`.
    pub fn save_matmuls() -> Self {
        Self::save_nothing()
            .rule(|op, _| (matches!(op.rule(), Rule::Bilinear(..)) || op.is_affine()).then_some(Fate::Keep))
    }

    /// Elementwise results are computed again, and with them what only rearranges or sums; products
    /// and ops with rules of their own (norms, attention) are kept.
    pub fn recompute_pointwise() -> Self {
        Self::save_everything().rule(|op, _| {
            matches!(op.rule(), Rule::Pointwise(_) | Rule::Linear(..)).then_some(Fate::Recompute)
        })
    }

    /// Values that [`tap`](autograd_core::tap) gave one of these names are kept, everything else is
    /// computed again: JAX's `save_only_these_names`.
    pub fn save_names<N: Into<String>>(names: impl IntoIterator<Item = N>) -> Self {
        Self::save_nothing().names(names, Fate::Keep)
    }

    /// The fate of values that [`tap`](autograd_core::tap) gave one of these names.
    #[must_use]
    pub fn names<N: Into<String>>(self, names: impl IntoIterator<Item = N>, fate: Fate) -> Self {
        let names: Vec<String> = names.into_iter().map(Into::into).collect();
        self.rule(move |op, _| op.label().is_some_and(|l| names.iter().any(|n| n == l)).then_some(fate))
    }

    /// The fate of what ops of these names make: "matmul", "linear" (a product with its bias), "softmax", …
    #[must_use]
    pub fn ops<N: Into<String>>(self, names: impl IntoIterator<Item = N>, fate: Fate) -> Self {
        let names: Vec<String> = names.into_iter().map(Into::into).collect();
        self.rule(move |op, _| names.iter().any(|name| name == op.name()).then_some(fate))
    }

    /// A rule of one's own, from the op and the metas of what it makes (none for a user's own op);
    /// `None` leaves the decision to earlier rules.
    #[must_use]
    pub fn rule(
        mut self,
        choose: impl Fn(&dyn Primitive, &[Meta]) -> Option<Fate> + Send + Sync + 'static,
    ) -> Self {
        self.rules.push(Arc::new(choose));
        self
    }

    /// Where offloaded values wait.
    #[must_use]
    pub fn store(mut self, store: Arc<dyn Store>) -> Self {
        self.store = Some(store);
        self
    }

    fn fate(&self, op: &dyn Primitive, outputs: &[Meta]) -> Fate {
        self.rules.iter().rev().find_map(|rule| rule(op, outputs)).unwrap_or(self.otherwise)
    }
}

/// [`checkpoint()`](crate::checkpoint()) with a choice of what is kept.
///
/// # Errors
/// What `f` reports; [`Error::InvalidArgument`](autograd_core::Error::InvalidArgument) where the
/// policy offloads and has no store, [`Error::Offload`](autograd_core::Error::Offload) where the
/// store fails.
pub fn checkpoint_with(
    policy: &Policy,
    f: impl FnOnce(&[TrackedTensor]) -> Result<Vec<TrackedTensor>>,
    inputs: &[&TrackedTensor],
) -> Result<Vec<TrackedTensor>> {
    let chosen = policy.clone();
    let mut options = RegionOptions::new().select(move |op, outputs| chosen.fate(op, outputs));
    if let Some(store) = &policy.store {
        options = options.store(store.clone());
    }
    run(options, f, inputs)
}
