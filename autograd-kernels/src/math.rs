//! The functions of the expression language over slices and single numbers.

mod gamma;
pub mod scalar;
