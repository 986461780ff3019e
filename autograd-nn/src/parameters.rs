//! candle's variables as parameters: watched by a tape, their gradients handed back in the form
//! that candle's optimisers read.

use crate::watched::{Entry, Watched};
use autograd_core::{Error, Result, Site, TrackedTensor};
use autograd_tape::GradientTape;
use candle_core::{DType, Device, Tensor, Var};
use candle_nn::VarMap;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::PoisonError;

/// Named variables of a model, in the order of their names.
///
/// The variables stay candle's: an optimiser steps on them, `VarMap` saves and loads them. Names
/// that end in `running_mean`, `running_var` or `num_batches_tracked` are statistics of
/// normalisation layers: they are saved and loaded, and no gradient is taken of them.
#[derive(Clone, Debug, Default)]
pub struct Parameters {
    vars: BTreeMap<String, Var>,
}

/// Whether a name is that of a statistic, which is part of the state and not trained.
fn is_statistic(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or(name);
    matches!(last, "running_mean" | "running_var" | "num_batches_tracked")
}

impl Parameters {
    /// The variables of a map, under the names that its builder gave them.
    pub fn from_varmap(map: &VarMap) -> Self {
        let data = map.data().lock().unwrap_or_else(PoisonError::into_inner);
        data.iter().map(|(name, var)| (name.clone(), var.clone())).collect()
    }

    /// Variables with the tensors of a safetensors file, converted to an element type.
    ///
    /// # Errors
    /// A file that cannot be read, or is none.
    pub fn from_safetensors(path: impl AsRef<Path>, dtype: DType, device: &Device) -> Result<Self> {
        let tensors = candle_core::safetensors::load(path, device)?;
        let var = |(name, tensor): (String, Tensor)| Ok((name, Var::from_tensor(&tensor.to_dtype(dtype)?)?));
        tensors.into_iter().map(var).collect()
    }

    /// Writes all variables, statistics too, to a safetensors file under their names.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let tensors: HashMap<&str, Tensor> =
            self.vars.iter().map(|(name, var)| (name.as_str(), var.as_tensor().clone())).collect();
        candle_core::safetensors::save(&tensors, path)?;
        Ok(())
    }

    /// Sets all variables from a safetensors file. Optimisers and models that share them see the
    /// new numbers. Nothing is changed where this fails.
    ///
    /// # Errors
    /// A file that cannot be read; [`Error::InvalidArgument`] that names a variable which the file
    /// lacks or holds with another shape.
    #[track_caller]
    pub fn load(&self, path: impl AsRef<Path>) -> Result<()> {
        let site = Site::caller();
        let refused = |reason: String| Error::argument("load", reason).or_at(site);
        let tensors = candle_core::safetensors::load(path, &Device::Cpu)?;
        let mut found = Vec::new();
        for (name, var) in &self.vars {
            let tensor = tensors.get(name).ok_or_else(|| refused(format!("the file has no {name:?}")))?;
            if tensor.dims() != var.dims() {
                let (got, want) = (tensor.dims(), var.dims());
                return Err(refused(format!("the file has {name:?} with shape {got:?}, not {want:?}")));
            }
            found.push((var, tensor.to_dtype(var.dtype())?.to_device(var.device())?));
        }
        found.into_iter().try_for_each(|(var, tensor)| Ok(var.set(&tensor)?))
    }

    /// The variables that are trained, in the order of their names: for an optimiser.
    pub fn vars(&self) -> Vec<Var> {
        let trained = self.vars.iter().filter(|(name, _)| !is_statistic(name));
        trained.map(|(_, var)| var.clone()).collect()
    }

    /// All names, in their order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.vars.keys().map(String::as_str)
    }

    /// The variable of a name.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] that lists the names there are.
    #[track_caller]
    pub fn var(&self, name: &str) -> Result<&Var> {
        self.vars.get(name).ok_or_else(|| no_parameter(name, self.names()).or_at(Site::caller()))
    }

    /// The number of numbers in all trained variables.
    pub fn elem_count(&self) -> usize {
        self.vars().iter().map(|var| var.elem_count()).sum()
    }

    /// The parameters whose names hold: to train a part of a model, or to give parts of it to
    /// different optimisers.
    #[must_use]
    pub fn filter(&self, holds: impl Fn(&str) -> bool) -> Self {
        let chosen = self.vars.iter().filter(|(name, _)| holds(name));
        chosen.map(|(name, var)| (name.clone(), var.clone())).collect()
    }

    /// The parameters as variables of a tape. They are read in place: nothing is copied, and an
    /// optimiser must not step before the gradients are taken.
    ///
    /// # Errors
    /// As [`GradientTape::try_variable`].
    #[track_caller]
    pub fn watch(&self, tape: &GradientTape) -> Result<Watched> {
        self.seen(|var| tape.try_variable(var))
    }

    /// The parameters as plain values, for evaluation.
    ///
    /// # Errors
    /// As [`TrackedTensor::from_candle`].
    pub fn plain(&self) -> Result<Watched> {
        self.seen(|var| TrackedTensor::from_candle(var))
    }

    fn seen(&self, value: impl Fn(&Tensor) -> Result<TrackedTensor>) -> Result<Watched> {
        let mut entries = BTreeMap::new();
        for (name, var) in &self.vars {
            let statistic = is_statistic(name);
            let value = if statistic { TrackedTensor::from_candle(var)? } else { value(var)? };
            entries.insert(name.clone(), Entry { var: var.clone(), value, statistic });
        }
        Ok(Watched::new(entries))
    }
}

/// The error for a name that is not there.
pub(crate) fn no_parameter<'a>(name: &str, names: impl Iterator<Item = &'a str>) -> Error {
    let names: Vec<&str> = names.collect();
    Error::argument("parameters", format!("no parameter {name:?} among {}", names.join(", ")))
}

impl FromIterator<(String, Var)> for Parameters {
    fn from_iter<I: IntoIterator<Item = (String, Var)>>(iter: I) -> Self {
        Self { vars: iter.into_iter().collect() }
    }
}
