//! Attribution on real gradients: which inputs a model's output owes its value to.
//!
//! Methods take any function over values; no module system is needed. Layers are values that the
//! function names with [`tap`](autograd_core::tap). Every method is a plain struct that implements
//! [`Method`]; what it gives carries a certificate where the method makes a promise.
//!
//! ```
//! use autograd_core::{Result, TrackedTensor};
//! use autograd_interpret::{IntegratedGradients, Method};
//! use autograd_ops::TensorAutograd;
//!
//! fn main() -> Result<()> {
//!     let x = TrackedTensor::from_vec(vec![1.0, 2.0], &[1, 2])?;
//!     let net = |x: &TrackedTensor| x.tanh()?.sum_dim(1);
//!     let found = IntegratedGradients::new().explain(net, &x, ())?;
//!     assert!(found.worst_delta() < 1e-12); // the contributions add up to net(x) − net(0)
//!     Ok(())
//! }
//! ```

mod ablation;
mod adversarial;
mod attribution;
mod baseline;
mod concepts;
mod control;
mod copies;
mod deep_lift;
mod draws;
mod expected;
mod function;
mod gradients;
mod guided;
mod influence;
mod integrated;
mod kinks;
mod layer;
mod layers;
mod masks;
mod multipliers;
mod neuron;
mod noise;
mod pair;
#[cfg(feature = "pictures")]
pub mod picture;
mod quadrature;
mod quality;
mod regression;
mod relevance;
mod reveal;
mod shapley;
mod slopes;
mod surrogate;
mod taps;
mod target;

pub use ablation::{FeatureAblation, FeaturePermutation, Occlusion};
pub use adversarial::{Ball, Pgd, fgsm};
pub use attribution::{Attribution, Method};
pub use baseline::Baseline;
pub use concepts::Concept;
pub use control::Progress;
pub use deep_lift::{DeepLift, DeepLiftShap, LiftRule};
pub use expected::{ExpectedGradients, GradientShap};
pub use function::{Function, single};
pub use gradients::{InputXGradient, Saliency, saliency};
pub use guided::{Deconvolution, GuidedBackprop};
pub use influence::{Checkpoint, InfluenceFunctions, Loss, TracIn};
pub use integrated::{IntegratedGradients, integrated_gradients};
pub use layer::{
    AtLayer, Conductance, FromBaseline, InternalInfluence, attention_rollout, grad_cam, guided_grad_cam,
    layer_activation, layer_gradient_x_activation,
};
pub use masks::Features;
pub use neuron::{NeuronConductance, neuron};
pub use noise::{Noise, Smoothing};
pub use quadrature::Quadrature;
pub use quality::{
    Curve, Curves, Infidelity, MaxSensitivity, ParameterRandomisation, Parametrised, Perturbation,
    rank_correlation,
};
pub use relevance::{LayerRule, Lrp};
pub use shapley::ShapleyValues;
pub use surrogate::{KernelShap, Lime, Shrinkage};
pub use target::Target;
