//! Guided backpropagation and deconvolution: another way back through relu.

use crate::attribution::{Attribution, Method};
use crate::function::{Function, check_inputs};
use crate::slopes::slopes_on;
use crate::target::Target;
use autograd_core::smallvec::smallvec;
use autograd_core::{Grads, Mask, Primitive, Result, Saved, Site, TrackedTensor};
use autograd_ops::TensorAutograd;
use autograd_tape::{GradientTape, RuleSet, own_backward};

/// The gradient, of which only what is positive passes back through a relu that was open
/// (Springenberg et al. 2014).
#[derive(Clone, Copy, Debug, Default)]
pub struct GuidedBackprop;

/// The gradient, of which only what is positive passes back through a relu, open or not (Zeiler
/// and Fergus 2013).
#[derive(Clone, Copy, Debug, Default)]
pub struct Deconvolution;

/// relu of what the op's own rule gives.
fn guided(
    op: &dyn Primitive,
    wanted: Mask,
    cts: &[Option<TrackedTensor>],
    saved: &Saved<'_>,
) -> Result<Grads> {
    let own = own_backward(op, wanted, cts, saved)?;
    own.into_iter().map(|ct| ct.map(|ct| ct.relu()).transpose()).collect()
}

/// relu of the cotangent.
fn deconvolved(_: &dyn Primitive, _: Mask, cts: &[Option<TrackedTensor>], _: &Saved<'_>) -> Result<Grads> {
    Ok(smallvec![cts[0].as_ref().map(TensorAutograd::relu).transpose()?])
}

fn run(
    op: &'static str,
    rules: RuleSet,
    f: &Function<'_>,
    inputs: &[TrackedTensor],
    target: &Target,
    site: Site,
) -> Result<Attribution> {
    check_inputs(op, inputs, site)?;
    let tape = GradientTape::with_rules(rules);
    let found = slopes_on(&tape, f, inputs, target).map_err(|e| e.or_at(site))?;
    Ok(Attribution::plain(found.gradients, 1))
}

impl Method for GuidedBackprop {
    fn name(&self) -> &'static str {
        "guided backpropagation"
    }

    #[track_caller]
    fn attribute(&self, f: &Function<'_>, inputs: &[TrackedTensor], target: &Target) -> Result<Attribution> {
        run(self.name(), RuleSet::new().on("relu", guided), f, inputs, target, Site::caller())
    }
}

impl Method for Deconvolution {
    fn name(&self) -> &'static str {
        "deconvolution"
    }

    #[track_caller]
    fn attribute(&self, f: &Function<'_>, inputs: &[TrackedTensor], target: &Target) -> Result<Attribution> {
        run(self.name(), RuleSet::new().on("relu", deconvolved), f, inputs, target, Site::caller())
    }
}
