//! Attribution to a layer: a value that the function names with `tap`.

mod cam;
mod moved;
mod rollout;
mod way;

pub use cam::{grad_cam, guided_grad_cam};
pub use moved::{AtLayer, FromBaseline};
pub use rollout::attention_rollout;
pub use way::{Conductance, InternalInfluence};

use crate::function::{Examples, Function};
use crate::taps::{activation, not_one};
use crate::target::Target;
use autograd_core::algebra::mul;
use autograd_core::{Result, Site, TrackedTensor, with_taps};
use autograd_ops::TensorAutograd;
use autograd_tape::GradientTape;
use std::cell::RefCell;
use std::rc::Rc;

/// What a layer's value is, by its name.
///
/// # Errors
/// [`Error::InvalidArgument`](autograd_core::Error::InvalidArgument) where the function taps the name not at all or several times;
/// whatever `f` reports.
#[track_caller]
pub fn layer_activation(f: &Function<'_>, inputs: &[TrackedTensor], layer: &str) -> Result<TrackedTensor> {
    let site = Site::caller();
    activation(f, inputs, layer).map_err(|e| e.or_at(site))
}

/// A tapped value, the explained numbers and their gradient at the value.
pub(crate) struct LayerSlopes {
    pub(crate) value: TrackedTensor,
    pub(crate) gradient: TrackedTensor,
}

/// The gradient at a tapped value: the function is recorded from there on only.
pub(crate) fn layer_slopes(
    f: &Function<'_>,
    inputs: &[TrackedTensor],
    target: &Target,
    layer: &str,
) -> Result<LayerSlopes> {
    let tape = Rc::new(GradientTape::new());
    let found: Rc<RefCell<Vec<TrackedTensor>>> = Rc::default();
    let (wanted, keep, on) = (layer.to_owned(), found.clone(), tape.clone());
    let look = move |name: &str, value: &TrackedTensor| {
        if name != wanted {
            return Ok(None);
        }
        let variable = on.try_variable(value)?;
        keep.borrow_mut().push(variable.clone());
        Ok(Some(variable))
    };
    let y = with_taps(look, || f(inputs))?;
    let found = found.borrow();
    let [value] = &found[..] else { return Err(not_one(layer, found.len())) };
    let y = target.select(&y, Examples::of(inputs, &y))?;
    let gradient = tape.derivative(&y.sum()?, value)?;
    Ok(LayerSlopes { value: tape.unwatched(value), gradient })
}

/// h · ∂y/∂h for a layer's value h.
///
/// # Errors
/// As [`layer_activation`].
#[track_caller]
pub fn layer_gradient_x_activation(
    f: &Function<'_>,
    inputs: &[TrackedTensor],
    target: &Target,
    layer: &str,
) -> Result<TrackedTensor> {
    let site = Site::caller();
    let found = layer_slopes(f, inputs, target, layer).map_err(|e| e.or_at(site))?;
    mul(&found.value, &found.gradient)
}
