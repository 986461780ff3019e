//! The closed algebra: what cotangents and tangents themselves need, so that every rule in this
//! crate can be differentiated again without an op from outside it.

mod accumulate;
mod arithmetic;
mod fill;
mod layout;
mod reduce;

pub use accumulate::accumulate;
pub use arithmetic::{add, add_scalar, cast, div, mul, neg, scale, select, sub};
pub use fill::{beside, fill, ones_like, zeros_like};
pub use layout::{broadcast_to, narrow, permute, reshape, transpose};
pub use reduce::{SumTo, sum_to};

use crate::primitive::Prim;
use crate::saved::Parameter;

/// The op of the algebra that a tag and parameters describe.
pub(crate) fn rebuild(tag: &str, parameters: &[Parameter]) -> Option<Prim> {
    layout::rebuild(tag, parameters)
        .or_else(|| arithmetic::rebuild(tag, parameters))
        .or_else(|| reduce::rebuild(tag, parameters))
}
