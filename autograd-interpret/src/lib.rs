//! Attribution on real gradients: which inputs a model's output owes its value to.
//!
//! Methods take any closure over values; no module system is needed.

mod gradients;

pub use gradients::{Attribution, integrated_gradients, saliency};
