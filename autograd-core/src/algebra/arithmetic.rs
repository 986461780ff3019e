//! Arithmetic of cotangents, and the operators of the value.

use crate::apply::apply_one;
use crate::device::{KernelCall, Tensors};
use crate::error::{Error, Result};
use crate::mask::Mask;
use crate::meta::{Meta, is_float, kind_of};
use crate::pointwise::{Definition, pointwise, pointwise_with};
use crate::primitive::{Prim, Primitive, Signature};
use crate::rule::{Grads, Rule, Saved, Transpose};
use crate::saved::{Parameter, SavedOp};
use crate::scalar::ScalarExpr;
use crate::tracer::Values;
use crate::value::TrackedTensor;
use autograd_kernels::expr::{Binary, Unary};
use autograd_kernels::{SliceMut, View, copy};
use candle_core::{DType, Tensor};
use std::ops;
use std::sync::{Arc, LazyLock};

macro_rules! binary {
    ($static:ident, $name:ident, $op:ident, $doc:literal) => {
        static $static: LazyLock<Definition> = LazyLock::new(|| {
            Definition::new(
                stringify!($name),
                ScalarExpr::build(2, 0, |b, x, _| b.binary(Binary::$op, x[0], x[1])),
            )
        });

        #[doc = $doc]
        ///
        /// # Errors
        /// Shapes that do not broadcast, types or devices that differ.
        #[track_caller]
        pub fn $name(a: &TrackedTensor, b: &TrackedTensor) -> Result<TrackedTensor> {
            pointwise(&$static, &[a, b])
        }
    };
}

binary!(ADD, add, Add, "a + b, element by element, with broadcasting.");
binary!(SUB, sub, Sub, "a − b, element by element, with broadcasting.");
binary!(MUL, mul, Mul, "a · b, element by element, with broadcasting.");
binary!(DIV, div, Div, "a / b, element by element, with broadcasting.");

static NEG: LazyLock<Definition> =
    LazyLock::new(|| Definition::new("neg", ScalarExpr::build(1, 0, |b, x, _| b.unary(Unary::Neg, x[0]))));
static SCALE: LazyLock<Definition> = LazyLock::new(|| {
    Definition::new("scale", ScalarExpr::build(1, 1, |b, x, p| b.binary(Binary::Mul, x[0], p[0])))
});
static SHIFT: LazyLock<Definition> = LazyLock::new(|| {
    Definition::new("add_scalar", ScalarExpr::build(1, 1, |b, x, p| b.binary(Binary::Add, x[0], p[0])))
});
static SELECT: LazyLock<Definition> = LazyLock::new(|| {
    Definition::new("select", ScalarExpr::build(3, 0, |b, x, _| b.select(x[0], x[1], x[2])))
});

/// −x.
///
/// # Errors
/// A type without arithmetic.
#[track_caller]
pub fn neg(x: &TrackedTensor) -> Result<TrackedTensor> {
    pointwise(&NEG, &[x])
}

/// factor · x.
///
/// # Errors
/// A type without arithmetic.
#[track_caller]
pub fn scale(x: &TrackedTensor, factor: f64) -> Result<TrackedTensor> {
    pointwise_with(&SCALE, &[factor], &[x])
}

/// x + term.
///
/// # Errors
/// A type without arithmetic.
#[track_caller]
pub fn add_scalar(x: &TrackedTensor, term: f64) -> Result<TrackedTensor> {
    pointwise_with(&SHIFT, &[term], &[x])
}

/// `a` where the mask is not 0, else `b`.
///
/// # Errors
/// Shapes that do not broadcast, types of `a` and `b` that differ.
#[track_caller]
pub fn select(mask: &TrackedTensor, a: &TrackedTensor, b: &TrackedTensor) -> Result<TrackedTensor> {
    pointwise(&SELECT, &[mask, a, b])
}

/// Conversion to another element type.
#[derive(Clone, Copy, Debug)]
struct Cast(DType);

/// x converted to another element type; itself where it has that type already. The gradient is
/// converted back; conversion to or from an integer type is flat.
///
/// # Errors
/// A type without kernels.
#[track_caller]
pub fn cast(x: &TrackedTensor, dtype: DType) -> Result<TrackedTensor> {
    if x.dtype() == dtype && x.failure().is_none() {
        return Ok(x.clone());
    }
    if is_float(x.dtype()) && is_float(dtype) {
        apply_one(&Cast(dtype), &[x])
    } else {
        apply_one(&FlatCast(dtype), &[x])
    }
}

/// A conversion that has no derivative.
#[derive(Clone, Copy, Debug)]
struct FlatCast(DType);

fn infer_cast(dtype: DType, input: &Meta) -> Result<Signature> {
    if kind_of(dtype).is_none() {
        return Err(Error::dtype("to_dtype", dtype, "f64, f32, bf16, f16, u8, u32 and i64 are"));
    }
    Ok(Signature::one(input.with_dtype(dtype)))
}

fn copy_into(inputs: &[View<'_>], outputs: &mut [SliceMut<'_>]) -> Result<()> {
    copy::copy(inputs[0], outputs[0].reborrow());
    Ok(())
}

pub(super) fn rebuild(tag: &str, parameters: &[Parameter]) -> Option<Prim> {
    match (tag, parameters) {
        ("cast", [Parameter::Type(dtype)]) => Some(Prim::Shared(Arc::new(Cast(*dtype)))),
        ("flat_cast", [Parameter::Type(dtype)]) => Some(Prim::Shared(Arc::new(FlatCast(*dtype)))),
        _ => None,
    }
}

impl Primitive for Cast {
    fn name(&self) -> &'static str {
        "to_dtype"
    }
    fn keep(&self) -> Prim {
        Prim::Shared(Arc::new(*self))
    }
    fn saved(&self) -> Option<SavedOp> {
        Some(SavedOp::new("cast", vec![Parameter::Type(self.0)]))
    }
    fn infer(&self, inputs: &[Meta]) -> Result<Signature> {
        infer_cast(self.0, &inputs[0])
    }
    fn eval_into(&self, inputs: &[View<'_>], outputs: &mut [SliceMut<'_>]) -> Result<()> {
        copy_into(inputs, outputs)
    }
    fn eval_candle(&self, inputs: &[Tensor]) -> Result<Option<Tensors>> {
        Ok(Some(smallvec::smallvec![inputs[0].to_dtype(self.0)?]))
    }
    fn kernel(&self) -> Option<KernelCall> {
        Some(KernelCall::new("cast", &[], &[]))
    }
    fn rule(&self) -> Rule<'_> {
        Rule::Linear(Mask::one(0), self)
    }
    fn batch(&self, _: Mask, inputs: &[&TrackedTensor], _: usize) -> Result<Option<Values>> {
        Ok(Some(smallvec::smallvec![cast(inputs[0], self.0)?]))
    }
}

impl Transpose for Cast {
    fn transpose(&self, _: Mask, cts: &[Option<TrackedTensor>], saved: &Saved<'_>) -> Result<Grads> {
        let back = |ct: &TrackedTensor| cast(ct, saved.inputs[0].dtype);
        Ok(smallvec::smallvec![cts[0].as_ref().map(back).transpose()?])
    }
}

impl Primitive for FlatCast {
    fn name(&self) -> &'static str {
        "to_dtype"
    }
    fn keep(&self) -> Prim {
        Prim::Shared(Arc::new(*self))
    }
    fn saved(&self) -> Option<SavedOp> {
        Some(SavedOp::new("flat_cast", vec![Parameter::Type(self.0)]))
    }
    fn infer(&self, inputs: &[Meta]) -> Result<Signature> {
        infer_cast(self.0, &inputs[0])
    }
    fn eval_into(&self, inputs: &[View<'_>], outputs: &mut [SliceMut<'_>]) -> Result<()> {
        copy_into(inputs, outputs)
    }
    fn eval_candle(&self, inputs: &[Tensor]) -> Result<Option<Tensors>> {
        Ok(Some(smallvec::smallvec![inputs[0].to_dtype(self.0)?]))
    }
    fn kernel(&self) -> Option<KernelCall> {
        Some(KernelCall::new("cast", &[], &[]))
    }
    fn rule(&self) -> Rule<'_> {
        Rule::Flat
    }
    fn batch(&self, _: Mask, inputs: &[&TrackedTensor], _: usize) -> Result<Option<Values>> {
        Ok(Some(smallvec::smallvec![cast(inputs[0], self.0)?]))
    }
}

macro_rules! operator {
    ($trait:ident, $method:ident, $f:ident, |$x:ident, $s:ident| $scalar:expr) => {
        operator!(@impl $trait, $method, $f, TrackedTensor, TrackedTensor);
        operator!(@impl $trait, $method, $f, TrackedTensor, &TrackedTensor);
        operator!(@impl $trait, $method, $f, &TrackedTensor, TrackedTensor);
        operator!(@impl $trait, $method, $f, &TrackedTensor, &TrackedTensor);

        impl ops::$trait<f64> for &TrackedTensor {
            type Output = Result<TrackedTensor>;
            #[track_caller]
            fn $method(self, $s: f64) -> Self::Output {
                let $x = self;
                $scalar
            }
        }

        impl ops::$trait<f64> for TrackedTensor {
            type Output = Result<TrackedTensor>;
            #[track_caller]
            fn $method(self, rhs: f64) -> Self::Output {
                ops::$trait::$method(&self, rhs)
            }
        }
    };
    (@impl $trait:ident, $method:ident, $f:ident, $lhs:ty, $rhs:ty) => {
        impl ops::$trait<$rhs> for $lhs {
            type Output = Result<TrackedTensor>;
            #[track_caller]
            fn $method(self, rhs: $rhs) -> Self::Output {
                let (a, b): (&TrackedTensor, &TrackedTensor) = (&self, &rhs);
                $f(a, b)
            }
        }
    };
}

operator!(Add, add, add, |x, s| add_scalar(x, s));
operator!(Sub, sub, sub, |x, s| add_scalar(x, -s));
operator!(Mul, mul, mul, |x, s| scale(x, s));
operator!(Div, div, div, |x, s| scale(x, 1.0 / s));

impl ops::Neg for &TrackedTensor {
    type Output = Result<TrackedTensor>;
    #[track_caller]
    fn neg(self) -> Self::Output {
        neg(self)
    }
}

impl ops::Neg for TrackedTensor {
    type Output = Result<TrackedTensor>;
    #[track_caller]
    fn neg(self) -> Self::Output {
        neg(&self)
    }
}
