//! The transforms against figures from outside, against each other, against dense oracles and
//! against bad input.

mod bad_input;
mod batches;
mod checks;
mod curvature;
mod dense;
mod figures;
mod implicit;
mod models;
mod nesting;
mod operators;
mod registry;
mod series;
mod sparse;
