//! Class activation maps: where in an image a layer's channels speak for the target.

use super::layer_slopes;
use crate::attribution::Method;
use crate::function::Function;
use crate::guided::GuidedBackprop;
use crate::target::Target;
use autograd_core::algebra::mul;
use autograd_core::{Error, Result, Site, TrackedTensor};
use autograd_ops::TensorAutograd;
use autograd_ops::resample::upsample_nearest2d;

/// Class activation maps by gradients (Selvaraju et al. 2017): Σ over channels of the value times
/// the gradient's mean over all places. A layer of shape B×C×… gives B×1×….
///
/// Negative places speak against the target and are kept, as Captum's `LayerGradCam` keeps them. The
/// paper draws the positive part, Captum's `relu_attributions`, which is `.relu()` of this map and
/// empty where no place speaks for the target.
///
/// # Errors
/// As [`layer_activation`](super::layer_activation); [`Error::Shape`] for a layer without channels.
#[track_caller]
pub fn grad_cam(
    f: &Function<'_>,
    inputs: &[TrackedTensor],
    target: &Target,
    layer: &str,
) -> Result<TrackedTensor> {
    let site = Site::caller();
    let run = || {
        let found = layer_slopes(f, inputs, target, layer)?;
        if found.value.rank() < 2 {
            let reason = "a layer of shape batch × channels × places is needed";
            return Err(Error::shape("grad_cam", &[*found.value.shape()], reason));
        }
        let places: Vec<usize> = (2..found.value.rank()).collect();
        let weights =
            if places.is_empty() { found.gradient } else { found.gradient.mean_dims(&places, true)? };
        mul(&weights, &found.value)?.sum_keepdim(1)
    };
    run().map_err(|e| e.or_at(site))
}

/// [`GuidedBackprop`] of the single input times the positive part of [`grad_cam`], brought to the
/// input's size by repetition.
///
/// # Errors
/// As [`grad_cam`]; [`Error::Shape`] where input and layer are not B×C×H×W.
#[track_caller]
pub fn guided_grad_cam(
    f: &Function<'_>,
    x: &TrackedTensor,
    target: &Target,
    layer: &str,
) -> Result<TrackedTensor> {
    let site = Site::caller();
    let run = || {
        let inputs = [x.clone()];
        let map = grad_cam(f, &inputs, target, layer)?.relu()?;
        let &[_, _, height, width] = x.dims() else {
            let reason = "images of shape batch × channels × rows × columns are needed";
            return Err(Error::shape("guided_grad_cam", &[*x.shape()], reason));
        };
        if map.rank() != 4 {
            let reason = "a layer of shape batch × channels × rows × columns is needed";
            return Err(Error::shape("guided_grad_cam", &[*map.shape()], reason));
        }
        let guided = GuidedBackprop.attribute(f, &inputs, target)?.values.remove(0);
        mul(&guided, &upsample_nearest2d(&map, height, width)?)
    };
    run().map_err(|e| e.or_at(site))
}
