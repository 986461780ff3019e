//! Operands: what the right-hand side of an op can be.

use autograd_core::algebra::fill;
use autograd_core::{Meta, Result, Shape, TrackedTensor};
use candle_core::Tensor;

/// The other side of an op: a value, a candle tensor, or a number.
#[derive(Clone, Debug)]
pub enum Operand {
    /// A value.
    Value(TrackedTensor),
    /// A real number.
    Real(f64),
    /// A whole number: as an exponent it is exact for negative bases.
    Integer(i64),
}

impl Operand {
    /// The operand as a number, if it is one.
    pub fn number(&self) -> Option<f64> {
        match self {
            Operand::Value(_) => None,
            Operand::Real(x) => Some(*x),
            Operand::Integer(n) => Some(*n as f64),
        }
    }

    /// The operand as a value: a number takes the type and device of `like`.
    ///
    /// # Errors
    /// A type without kernels.
    #[track_caller]
    pub fn value(self, like: &TrackedTensor) -> Result<TrackedTensor> {
        let number = match self {
            Operand::Value(value) => return Ok(value),
            Operand::Real(x) => x,
            Operand::Integer(n) => n as f64,
        };
        fill(number, &Meta { shape: Shape::SCALAR, ..like.meta() }, like)
    }
}

macro_rules! from {
    ($($ty:ty => |$x:ident| $operand:expr;)*) => {$(
        impl From<$ty> for Operand {
            #[track_caller]
            fn from($x: $ty) -> Self {
                $operand
            }
        }
    )*};
}

from! {
    TrackedTensor => |x| Operand::Value(x);
    &TrackedTensor => |x| Operand::Value(x.clone());
    Tensor => |x| Operand::Value(TrackedTensor::from(x));
    &Tensor => |x| Operand::Value(TrackedTensor::from(x));
    f64 => |x| Operand::Real(x);
    f32 => |x| Operand::Real(f64::from(x));
    i32 => |n| Operand::Integer(i64::from(n));
    i64 => |n| Operand::Integer(n);
}
