//! The transforms against figures from outside, against each other and against bad input.

mod bad_input;
mod batches;
mod checks;
mod figures;
mod models;
mod nesting;
mod registry;
mod series;
