//! Attribution on real gradients.
