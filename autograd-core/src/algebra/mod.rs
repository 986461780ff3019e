//! The closed algebra: what cotangents and tangents themselves need, so that every rule in this
//! crate can be differentiated again without an op from outside it.

mod accumulate;
mod arithmetic;
mod fill;
mod layout;
mod reduce;

pub use accumulate::accumulate;
pub use arithmetic::{add, add_scalar, cast, div, mul, neg, scale, select, sub};
pub use fill::{fill, ones_like, zeros_like};
pub use layout::{broadcast_to, narrow, permute, reshape, transpose};
pub use reduce::{SumTo, sum_to};
