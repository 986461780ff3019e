//! Attribution by one gradient at the input.

use crate::attribution::{Attribution, Method};
use crate::function::{Function, check_inputs};
use crate::slopes::slopes;
use crate::target::Target;
use autograd_core::algebra::mul;
use autograd_core::{Result, Site, TrackedTensor};
use autograd_ops::TensorAutograd;

/// |∂y/∂x|: how much the output answers to each element (Simonyan et al. 2013).
#[derive(Clone, Copy, Debug)]
pub struct Saliency {
    absolute: bool,
}

impl Default for Saliency {
    fn default() -> Self {
        Self::new()
    }
}

impl Saliency {
    /// Saliency as published: the size of the gradient.
    pub fn new() -> Self {
        Self { absolute: true }
    }

    /// The gradient with its sign.
    #[must_use]
    pub fn signed(mut self) -> Self {
        self.absolute = false;
        self
    }
}

impl Method for Saliency {
    fn name(&self) -> &'static str {
        "saliency"
    }

    #[track_caller]
    fn attribute(&self, f: &Function<'_>, inputs: &[TrackedTensor], target: &Target) -> Result<Attribution> {
        let site = Site::caller();
        check_inputs(self.name(), inputs, site)?;
        let found = slopes(f, inputs, target).map_err(|e| e.or_at(site))?.gradients;
        let values =
            if self.absolute { found.iter().map(TensorAutograd::abs).collect::<Result<_>>()? } else { found };
        Ok(Attribution::plain(values, 1))
    }
}

/// x · ∂y/∂x (Shrikumar et al. 2016).
#[derive(Clone, Copy, Debug, Default)]
pub struct InputXGradient;

impl Method for InputXGradient {
    fn name(&self) -> &'static str {
        "input × gradient"
    }

    #[track_caller]
    fn attribute(&self, f: &Function<'_>, inputs: &[TrackedTensor], target: &Target) -> Result<Attribution> {
        let site = Site::caller();
        check_inputs(self.name(), inputs, site)?;
        let found = slopes(f, inputs, target).map_err(|e| e.or_at(site))?.gradients;
        let values = found.iter().zip(inputs).map(|(g, x)| mul(g, x)).collect::<Result<_>>()?;
        Ok(Attribution::plain(values, 1))
    }
}

/// |∂f/∂x| of a function of one number: [`Saliency`] in short.
///
/// # Errors
/// As [`Method::attribute`].
#[track_caller]
pub fn saliency(
    f: impl Fn(&TrackedTensor) -> Result<TrackedTensor>,
    x: &TrackedTensor,
) -> Result<TrackedTensor> {
    Ok(Saliency::new().explain(f, x, ())?.values.remove(0))
}
