//! candle's variables as parameters: watched by a tape, their gradients handed back in the form
//! that candle's optimisers read.

use autograd_core::{Error, Result, TrackedTensor};
use autograd_tape::GradientTape;
use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor, Var};
use candle_nn::VarMap;
use std::collections::BTreeMap;
use std::sync::PoisonError;

/// Named variables of a model, in the order of their names.
///
/// The variables stay candle's: an optimiser steps on them, `VarMap` saves and loads them.
#[derive(Clone, Debug, Default)]
pub struct Parameters {
    vars: BTreeMap<String, Var>,
}

impl Parameters {
    /// The variables of a map, under the names that its builder gave them.
    pub fn from_varmap(map: &VarMap) -> Self {
        let data = map.data().lock().unwrap_or_else(PoisonError::into_inner);
        data.iter().map(|(name, var)| (name.clone(), var.clone())).collect()
    }

    /// The variables, in the order of their names.
    pub fn vars(&self) -> Vec<Var> {
        self.vars.values().cloned().collect()
    }

    /// The number of numbers in all variables.
    pub fn elem_count(&self) -> usize {
        self.vars.values().map(|var| var.elem_count()).sum()
    }

    /// The parameters as variables of a tape. They are read in place: nothing is copied, and an
    /// optimiser must not step before the gradients are taken.
    ///
    /// # Errors
    /// As [`GradientTape::try_variable`].
    #[track_caller]
    pub fn watch(&self, tape: &GradientTape) -> Result<Watched> {
        let mut values = BTreeMap::new();
        for (name, var) in &self.vars {
            values.insert(name.clone(), (var.clone(), tape.try_variable(var.as_tensor())?));
        }
        Ok(Watched { values })
    }

    /// The parameters as plain values, for evaluation.
    ///
    /// # Errors
    /// As [`TrackedTensor::from_candle`].
    pub fn plain(&self) -> Result<Watched> {
        let mut values = BTreeMap::new();
        for (name, var) in &self.vars {
            values.insert(name.clone(), (var.clone(), TrackedTensor::from_candle(var.as_tensor())?));
        }
        Ok(Watched { values })
    }
}

impl FromIterator<(String, Var)> for Parameters {
    fn from_iter<I: IntoIterator<Item = (String, Var)>>(iter: I) -> Self {
        Self { vars: iter.into_iter().collect() }
    }
}

/// Parameters as values, with the variables that they came from.
#[derive(Clone, Debug)]
pub struct Watched {
    values: BTreeMap<String, (Var, TrackedTensor)>,
}

impl Watched {
    /// The parameter of a name.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] that lists the names there are.
    #[track_caller]
    pub fn get(&self, name: &str) -> Result<&TrackedTensor> {
        self.values.get(name).map(|(_, value)| value).ok_or_else(|| {
            let names: Vec<&str> = self.values.keys().map(String::as_str).collect();
            Error::argument("parameters", format!("no parameter {name:?} among {}", names.join(", ")))
                .or_at(autograd_core::Site::caller())
        })
    }

    /// All parameters, in the order of their names.
    pub fn values(&self) -> Vec<&TrackedTensor> {
        self.values.values().map(|(_, value)| value).collect()
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
        if grads.len() != self.values.len() {
            let reason = format!("{} gradients given for {} parameters", grads.len(), self.values.len());
            return Err(Error::argument("store", reason).or_at(autograd_core::Site::caller()));
        }
        let mut store = empty_store()?;
        for ((var, _), grad) in self.values.values().zip(grads) {
            store.insert(var.as_tensor(), grad.into_tensor()?);
        }
        Ok(store)
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
