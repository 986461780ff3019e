//! Methods of inputs moved to a layer.

use crate::attribution::{Attribution, Method};
use crate::baseline::Baseline;
use crate::deep_lift::DeepLift;
use crate::function::{Examples, Function, check_inputs};
use crate::integrated::IntegratedGradients;
use crate::relevance::Lrp;
use crate::taps::{activation, tapped, with_value};
use crate::target::Target;
use autograd_core::algebra::{broadcast_to, zeros_like};
use autograd_core::{Result, Site, TrackedTensor, no_grad};

/// A method applied between a layer and the output: the function of the layer's value that comes
/// after it, with the value at the inputs' baseline as its baseline.
#[derive(Clone, Debug)]
pub struct AtLayer<M> {
    layer: String,
    method: M,
}

impl<M> AtLayer<M> {
    /// The method at the layer of a name.
    pub fn new(layer: &str, method: M) -> Self {
        Self { layer: layer.to_owned(), method }
    }
}

/// Methods that [`AtLayer`] knows how to move: their baseline is one of inputs, which the layer
/// turns into one of its own.
pub trait FromBaseline: Method + Clone {
    /// The method's baseline.
    fn input_baseline(&self) -> Baseline;

    /// The same method with another baseline.
    #[must_use]
    fn with_baseline(self, baseline: Baseline) -> Self;
}

impl FromBaseline for IntegratedGradients {
    fn input_baseline(&self) -> Baseline {
        self.own_baseline().clone()
    }

    fn with_baseline(self, baseline: Baseline) -> Self {
        self.baseline(baseline)
    }
}

impl FromBaseline for DeepLift {
    fn input_baseline(&self) -> Baseline {
        self.own_baseline().clone()
    }

    fn with_baseline(self, baseline: Baseline) -> Self {
        self.baseline(baseline)
    }
}

impl<M: FromBaseline> Method for AtLayer<M> {
    fn name(&self) -> &'static str {
        self.method.name()
    }

    /// The contributions of the layer's elements: the only value of the attribution. Inputs may be
    /// of any type where the baseline is given.
    #[track_caller]
    fn attribute(&self, f: &Function<'_>, inputs: &[TrackedTensor], target: &Target) -> Result<Attribution> {
        let site = Site::caller();
        let run = || {
            let start = match self.method.input_baseline() {
                Baseline::Zero => inputs.iter().map(zeros_like).collect::<Result<Vec<_>>>()?,
                Baseline::Values(values) if values.len() == inputs.len() => {
                    let wide = values.iter().zip(inputs);
                    wide.map(|(b, x)| broadcast_to(b, x.shape())).collect::<Result<_>>()?
                }
                other => other.of(self.name(), inputs)?,
            };
            let (value, y) = no_grad(|| tapped(f, inputs, &self.layer))?;
            let rows = Examples::of(inputs, &y);
            let rows = rows.batched.then_some(rows.count);
            let base = activation(f, &start, &self.layer)?;
            let behind = |h: &[TrackedTensor]| with_value(f, inputs, &self.layer, &h[0], rows);
            let method = self.method.clone().with_baseline(base.into());
            method.attribute(&behind, &[value], target)
        };
        run().map_err(|e| e.or_at(site))
    }
}

impl Method for AtLayer<Lrp> {
    fn name(&self) -> &'static str {
        self.method.name()
    }

    #[track_caller]
    fn attribute(&self, f: &Function<'_>, inputs: &[TrackedTensor], target: &Target) -> Result<Attribution> {
        let site = Site::caller();
        check_inputs(self.name(), inputs, site)?;
        self.method.run(f, inputs, target, Some(&self.layer)).map_err(|e| e.or_at(site))
    }
}
