//! The functions of the expression language: over vectors, over slices, and for single numbers.
//!
//! Each is written once for f32 and f64 alike, where they differ only in their constants. Hot ones have vector code; the others go through [`scalar`] in f64, so that f32
//! results are rounded once. Against exact values the vector code stays within 2 units in the last
//! place for f32 and 4 for f64; the tests check it on dense grids.

mod constants;
pub(crate) mod erf;
pub(crate) mod exponential;
mod gamma;
pub(crate) mod logarithm;
pub mod recorded;
pub mod scalar;
mod slices;
mod trigonometry;

pub(crate) use constants::Constants;
pub(crate) use slices::{Operand, binary, select, unary};

#[cfg(test)]
mod tests;
