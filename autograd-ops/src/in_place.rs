//! Ops in place: `x.add_(&y)` is `x = x.add(&y)`, with the result written over x's memory where
//! nothing needs the old content.
//!
//! The memory is reused where no clone and no view of the value exists and no backward pass reads
//! it; otherwise the result has memory of its own. So clones and views keep the old numbers,
//! gradients are those of the functional ops, and nothing fails at backward time.
//! [`strict_in_place`](autograd_core::strict_in_place) makes a copy an error that says why;
//! [`count_in_place`](autograd_core::count_in_place) counts both.
//!
//! ```
//! use autograd_core::{Result, TrackedTensor, count_in_place};
//! use autograd_ops::TensorAutograd;
//! use autograd_tape::GradientTape;
//!
//! fn main() -> Result<()> {
//!     let tape = GradientTape::new();
//!     let x = tape.variable(TrackedTensor::from_vec(vec![-1f64, 2.], &[2])?);
//!     let mut y = x.mul(3.0)?;
//!     let (done, statistics) = count_in_place(|| y.add_(&x)?.relu_()?.mul_(0.5).map(|_| ()));
//!     done?;
//!     assert_eq!(statistics.reused, 2); // relu's own backward pass reads its result
//!     assert_eq!(y.to_vec1::<f64>()?, [0., 4.]);
//!     assert_eq!(tape.derivative(&y.sum()?, &x)?.to_vec1::<f64>()?, [0., 2.]);
//!     Ok(())
//! }
//! ```

use crate::compare::clamped;
use crate::index::{IndexAdd, ScatterAdd};
use crate::numbers::{Dim, dimension, sound};
use crate::operand::Operand;
use crate::put::Place;
use crate::scatter::Scatter;
use crate::slice::assignment;
use autograd_core::algebra::reshape;
use autograd_core::kernels::expr::{Binary, Unary};
use autograd_core::{Definition, Pointwise, Result, ScalarExpr, TrackedTensor, apply_in_place};
use std::ops::{Deref, RangeBounds};
use std::sync::LazyLock;

fn binary(name: &'static str, op: Binary) -> Definition {
    Definition::new(name, ScalarExpr::build(2, 0, |b, x, _| b.binary(op, x[0], x[1])))
}

fn with_number(name: &'static str, op: Binary) -> Definition {
    Definition::new(name, ScalarExpr::build(1, 1, |b, x, p| b.binary(op, x[0], p[0])))
}

fn unary(name: &'static str, op: Unary) -> Definition {
    Definition::new(name, ScalarExpr::build(1, 0, |b, x, _| b.unary(op, x[0])))
}

type Lazy = LazyLock<Definition>;

#[track_caller]
fn arithmetic(
    x: &mut TrackedTensor,
    rhs: Operand,
    values: &'static impl Deref<Target = Definition>,
    number: &'static impl Deref<Target = Definition>,
) -> Result<()> {
    match rhs {
        Operand::Value(y) => apply_in_place(&Pointwise::of(values), x, &[&y]),
        Operand::Real(c) => apply_in_place(&Pointwise::with(number, &[c]), x, &[]),
        Operand::Integer(c) => apply_in_place(&Pointwise::with(number, &[c as f64]), x, &[]),
    }
}

macro_rules! arithmetic {
    ($($(#[$doc:meta])* $name:ident = $op:ident, $plain:literal;)*) => {$(
        $(#[$doc])*
        ///
        /// # Errors
        /// An operand that does not broadcast to x's shape; types or devices that differ; under
        /// `strict_in_place`, memory that cannot be reused.
        #[track_caller]
        pub fn $name(x: &mut TrackedTensor, rhs: impl Into<Operand>) -> Result<()> {
            static VALUES: Lazy = LazyLock::new(|| binary($plain, Binary::$op));
            static NUMBER: Lazy = LazyLock::new(|| with_number($plain, Binary::$op));
            arithmetic(x, rhs.into(), &VALUES, &NUMBER)
        }
    )*};
}

arithmetic! {
    /// x = x + y.
    add_ = Add, "add";
    /// x = x − y.
    sub_ = Sub, "sub";
    /// x = x · y. Reuses x's memory where y is a number or a constant: the gradient of y reads x.
    mul_ = Mul, "mul";
    /// x = x / y.
    div_ = Div, "div";
}

/// x = −x.
///
/// # Errors
/// A type without arithmetic; under `strict_in_place`, memory that cannot be reused.
#[track_caller]
pub fn neg_(x: &mut TrackedTensor) -> Result<()> {
    static NEG: Lazy = LazyLock::new(|| unary("neg", Unary::Neg));
    apply_in_place(&Pointwise::of(&NEG), x, &[])
}

/// x = max(x, 0). Its backward pass reads the result, so x's memory is reused.
///
/// # Errors
/// A type without arithmetic; under `strict_in_place`, memory that cannot be reused.
#[track_caller]
pub fn relu_(x: &mut TrackedTensor) -> Result<()> {
    static RELU: Lazy = LazyLock::new(|| unary("relu", Unary::Relu));
    apply_in_place(&Pointwise::of(&RELU), x, &[])
}

/// x = x within bounds, as [`clamp`](crate::compare::clamp). Its backward pass asks which elements
/// were within them, so a tracked x keeps its memory and the result has its own.
///
/// # Errors
/// Bounds that do not broadcast to x's shape; types or devices that differ; under
/// `strict_in_place`, memory that cannot be reused.
#[track_caller]
pub fn clamp_(x: &mut TrackedTensor, low: impl Into<Operand>, high: impl Into<Operand>) -> Result<()> {
    let (op, bounds) = clamped(x, low.into(), high.into())?;
    let bounds: Vec<&TrackedTensor> = bounds.iter().collect();
    apply_in_place(&op, x, &bounds)
}

/// x with `src` written over the part that the ranges cut out, as
/// [`slice_assign`](crate::slice::slice_assign).
///
/// # Errors
/// As `slice_assign`; under `strict_in_place`, memory that cannot be reused.
#[track_caller]
pub fn slice_assign_<R: RangeBounds<usize>>(
    x: &mut TrackedTensor,
    ranges: &[R],
    src: impl Into<TrackedTensor>,
) -> Result<()> {
    let op = assignment(x, ranges)?;
    apply_in_place(&op, x, &[&src.into()])
}

/// x with the slices of `src` added at the indices, as [`index_add`](crate::index::index_add).
///
/// # Errors
/// As `index_add`; under `strict_in_place`, memory that cannot be reused.
#[track_caller]
pub fn index_add_(
    x: &mut TrackedTensor,
    indices: impl Into<TrackedTensor>,
    src: impl Into<TrackedTensor>,
    dim: impl Dim,
) -> Result<()> {
    let dim = dimension("index_add", dim, x)?;
    apply_in_place(&IndexAdd { dim }, x, &[&indices.into(), &src.into()])
}

/// x with the elements of `src` added at the indices, as [`scatter_add`](crate::index::scatter_add).
///
/// # Errors
/// As `scatter_add`; under `strict_in_place`, memory that cannot be reused.
#[track_caller]
pub fn scatter_add_(
    x: &mut TrackedTensor,
    indices: impl Into<TrackedTensor>,
    src: impl Into<TrackedTensor>,
    dim: impl Dim,
) -> Result<()> {
    let dim = dimension("scatter_add", dim, x)?;
    apply_in_place(&ScatterAdd { dim }, x, &[&indices.into(), &src.into()])
}

/// x with the elements of `src` written at the indices, as [`scatter`](crate::scatter::scatter).
///
/// # Errors
/// As `scatter`; under `strict_in_place`, memory that cannot be reused.
#[track_caller]
pub fn scatter_(
    x: &mut TrackedTensor,
    indices: impl Into<TrackedTensor>,
    src: impl Into<TrackedTensor>,
    dim: impl Dim,
) -> Result<()> {
    let dim = dimension("scatter", dim, x)?;
    apply_in_place(&Scatter { dim }, x, &[&indices.into(), &src.into()])
}

/// x with slices written or added at indices of its first dimensions, as
/// [`index_put`](crate::put::index_put).
///
/// # Errors
/// As `index_put`; under `strict_in_place`, memory that cannot be reused.
#[track_caller]
pub fn index_put_(
    x: &mut TrackedTensor,
    indices: &[&TrackedTensor],
    values: impl Into<TrackedTensor>,
    accumulate: bool,
) -> Result<()> {
    let place = Place::of(x, indices, values)?;
    let shape = *x.shape();
    // A view of the same memory takes the place of x meanwhile, so that it is nobody else's.
    let in_rows = |x: &mut TrackedTensor, shape: &_| -> Result<()> {
        if x.shape() != shape {
            let seen = reshape(x, shape)?;
            *x = seen;
        }
        Ok(())
    };
    sound(x)?;
    in_rows(x, &place.rows)?;
    let written = if !accumulate {
        apply_in_place(&Scatter { dim: 0 }, x, &[&place.spread, &place.values])
    } else if place.rows.rank() == 1 {
        apply_in_place(&ScatterAdd { dim: 0 }, x, &[&place.indices, &place.values])
    } else {
        apply_in_place(&IndexAdd { dim: 0 }, x, &[&place.indices, &place.values])
    };
    in_rows(x, &shape)?;
    written
}

#[cfg(test)]
mod tests;
