//! Ops as data: a tag and parameters, from which the crate that owns the op makes it again.
//!
//! Each crate with ops has a `rebuild` of its own that knows their tags; who stores programs asks
//! one after the other. Pointwise ops need none: their expression is all there is to them.

use crate::primitive::Prim;
use crate::{algebra, barrier};
use autograd_kernels::Shape;
use candle_core::DType;

/// A parameter of an op.
#[derive(Clone, Debug, PartialEq)]
pub enum Parameter {
    /// A whole number.
    Whole(u64),
    /// Yes or no.
    Flag(bool),
    /// Extents, or an order of dimensions.
    Shape(Vec<usize>),
    /// An element type, by candle's name for it.
    Type(DType),
}

impl Parameter {
    /// The extents of a shape.
    pub fn shape(shape: &Shape) -> Self {
        Self::Shape(shape.dims().to_vec())
    }
}

/// An op as data.
#[derive(Clone, Debug, PartialEq)]
pub struct SavedOp {
    /// Names the op among all: its crate's `rebuild` knows it.
    pub tag: &'static str,
    /// Its parameters, in the order in which the op lists them.
    pub parameters: Vec<Parameter>,
}

impl SavedOp {
    /// An op with these parameters.
    pub fn new(tag: &'static str, parameters: Vec<Parameter>) -> Self {
        Self { tag, parameters }
    }
}

/// The op of this crate that a tag and parameters describe, and how many operands it takes; `None`
/// for a tag that is not this crate's or parameters that are not the op's.
pub fn rebuild(tag: &str, parameters: &[Parameter]) -> Option<(Prim, usize)> {
    if parameters.is_empty()
        && let Some(op) = barrier::rebuild(tag)
    {
        return Some((op, 2));
    }
    // The algebra's ops rearrange, convert or sum one value.
    algebra::rebuild(tag, parameters).map(|op| (op, 1))
}
