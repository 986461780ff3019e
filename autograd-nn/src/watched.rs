//! Parameters as values, with the variables that they came from.

use crate::parameters::no_parameter;
use autograd_core::{Error, Path, Result, Site, TrackedTensor, Tree};
use autograd_tape::GradientTape;
use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor, Var};
use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::Arc;

/// One parameter.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) var: Var,
    pub(crate) value: TrackedTensor,
    pub(crate) statistic: bool,
}

/// Parameters as values, with the variables that they came from; or, under a prefix, a part of
/// them. Cloning is cheap.
///
/// Drop it before the optimiser steps, with every value computed from it that you no longer need:
/// the values read the variables in place.
#[derive(Clone, Debug)]
pub struct Watched {
    entries: Arc<BTreeMap<String, Entry>>,
    /// Empty, or ends in a dot.
    prefix: String,
}

impl Watched {
    pub(crate) fn new(entries: BTreeMap<String, Entry>) -> Self {
        Self { entries: Arc::new(entries), prefix: String::new() }
    }

    /// The parameters whose names start with `part` and a dot, under the rest of their names:
    /// `watched.pp("conv1").get("weight")` is `watched.get("conv1.weight")`.
    #[must_use]
    pub fn pp(&self, part: impl Display) -> Self {
        Self { entries: self.entries.clone(), prefix: format!("{}{part}.", self.prefix) }
    }

    /// The prefix, empty or with a dot at its end.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    fn entries(&self) -> impl Iterator<Item = (&str, &Entry)> {
        let from = self.entries.range(self.prefix.clone()..);
        let inside = from.take_while(|(name, _)| name.starts_with(&self.prefix));
        inside.map(|(name, entry)| (&name[self.prefix.len()..], entry))
    }

    fn trained(&self) -> impl Iterator<Item = &Entry> {
        self.entries().map(|(_, entry)| entry).filter(|entry| !entry.statistic)
    }

    pub(crate) fn entry(&self, name: &str) -> Option<&Entry> {
        self.entries.get(&format!("{}{name}", self.prefix))
    }

    /// The parameter of a name.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] that lists the names there are.
    #[track_caller]
    pub fn get(&self, name: &str) -> Result<&TrackedTensor> {
        match self.entry(name) {
            Some(entry) => Ok(&entry.value),
            None => {
                let full = format!("{}{name}", self.prefix);
                Err(no_parameter(&full, self.entries.keys().map(String::as_str)).or_at(Site::caller()))
            }
        }
    }

    /// The trained parameters, in the order of their names.
    pub fn values(&self) -> Vec<&TrackedTensor> {
        self.trained().map(|entry| &entry.value).collect()
    }

    /// The gradients of a loss as candle's store, for `Optimizer::step`. A parameter on which the
    /// loss does not depend has gradient zero.
    ///
    /// # Errors
    /// As [`GradientTape::gradient`].
    #[track_caller]
    pub fn gradients(&self, tape: &GradientTape, loss: &TrackedTensor) -> Result<GradStore> {
        let grads = tape.gradient(loss, &self.values())?;
        self.store(grads)
    }

    /// Gradients in the order of [`values`](Self::values) as candle's store.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] where they are not as many as the parameters.
    #[track_caller]
    pub fn store(&self, grads: Vec<TrackedTensor>) -> Result<GradStore> {
        let count = self.trained().count();
        if grads.len() != count {
            let reason = format!("{} gradients given for {count} parameters", grads.len());
            return Err(Error::argument("store", reason).or_at(Site::caller()));
        }
        let mut store = empty_store()?;
        for (entry, grad) in self.trained().zip(grads) {
            store.insert(entry.var.as_tensor(), grad.into_tensor()?);
        }
        Ok(store)
    }
}

/// The trained parameters are the leaves, in the order of their names: so a structure of parameters
/// is what transforms and [optimisers](crate::optimisers) work on.
impl Tree for Watched {
    type Owned = Self;

    fn visit<'a>(&'a self, path: &Path<'_>, leaf: &mut dyn FnMut(&Path<'_>, &'a TrackedTensor)) {
        for (name, entry) in self.entries().filter(|(_, entry)| !entry.statistic) {
            leaf(&Path::Key(path, name), &entry.value);
        }
    }

    fn rebuild(&self, leaf: &mut dyn FnMut(&TrackedTensor) -> Result<TrackedTensor>) -> Result<Self> {
        let mut entries = (*self.entries).clone();
        for (name, entry) in &mut entries {
            if name.starts_with(&self.prefix) && !entry.statistic {
                entry.value = leaf(&entry.value)?;
            }
        }
        Ok(Self { entries: Arc::new(entries), prefix: self.prefix.clone() })
    }
}

/// candle makes a store only by a backward pass: that of a constant leaves it with one entry,
/// which is taken out.
fn empty_store() -> Result<GradStore> {
    let seed = Tensor::zeros((), DType::F32, &Device::Cpu)?;
    let mut store = seed.backward()?;
    store.remove(&seed);
    Ok(store)
}
