//! Ops as data: a tag and parameters, from which the crate that owns the op makes it again.
//!
//! Each crate with ops has a `rebuild` of its own that knows their tags; who stores programs asks
//! one after the other. Pointwise ops need none: their expression is all there is to them.

use crate::meta::Meta;
use crate::primitive::Prim;
use crate::{algebra, barrier, tap};
use autograd_kernels::Shape;
use candle_core::DType;
use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

/// A parameter of an op.
#[derive(Clone, Debug, PartialEq)]
pub enum Parameter {
    /// A whole number.
    Whole(u64),
    /// Yes or no.
    Flag(bool),
    /// A number.
    Number(f64),
    /// A word, such as the name by which an error calls the op.
    Text(String),
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

/// The op of this crate that a tag and parameters describe, on operands of these shapes and types;
/// `None` for a tag that is not this crate's, or parameters or operands that are not the op's.
pub fn rebuild(tag: &str, parameters: &[Parameter], operands: &[Meta]) -> Option<Prim> {
    match operands {
        // The algebra's ops rearrange, convert or sum one value.
        [_] => algebra::rebuild(tag, parameters).or_else(|| tap::rebuild(tag, parameters)),
        [_, _] if parameters.is_empty() => barrier::rebuild(tag),
        _ => None,
    }
}

/// A shape from data: `None` where there are too many dimensions or elements for this and for what is
/// computed from it.
pub fn sound_shape(dims: &[usize]) -> Option<Shape> {
    let elements = dims.iter().try_fold(1usize, |n, &d| n.checked_mul(d.max(1)))?;
    Shape::try_new(dims).filter(|_| elements < 1 << 48)
}

/// A name that lives as long as the program: an op's name is compiled in where the op is, and is
/// kept once where it was loaded.
pub fn interned(name: &str) -> &'static str {
    static NAMES: Mutex<Option<HashSet<&'static str>>> = Mutex::new(None);
    let mut names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
    let names = names.get_or_insert_default();
    if let Some(known) = names.get(name) {
        return known;
    }
    let kept: &'static str = Box::leak(name.to_owned().into_boxed_str());
    names.insert(kept);
    kept
}
