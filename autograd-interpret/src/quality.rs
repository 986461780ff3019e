//! How far an attribution can be trusted.

mod curves;
mod infidelity;
mod randomisation;
mod sensitivity;

pub use curves::{Curve, Curves};
pub use infidelity::{Infidelity, Perturbation};
pub use randomisation::{ParameterRandomisation, Parametrised, rank_correlation};
pub use sensitivity::MaxSensitivity;

use autograd_core::TrackedTensor;

/// Whether there is one attribution of the shape of each input.
fn fits(attributions: &[TrackedTensor], inputs: &[TrackedTensor]) -> bool {
    attributions.len() == inputs.len() && attributions.iter().zip(inputs).all(|(a, x)| a.shape() == x.shape())
}
