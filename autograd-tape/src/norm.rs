//! Norms of gradients, kept in f64 whatever their type.

use autograd_core::algebra::{add, cast, fill, mul, sum_to};
use autograd_core::device::KernelCall;
use autograd_core::kernels::expr::{Builder, Reg, Unary};
use autograd_core::kernels::statistics::sums_of_squares;
use autograd_core::smallvec::{SmallVec, smallvec};
use autograd_core::{
    DType, Definition, DeviceLocation, Error, Meta, Prim, Primitive, Result, Rule, ScalarExpr, Shape,
    Signature, SliceMut, TrackedTensor, Values, View, apply_one, is_float, pointwise,
};
use std::sync::LazyLock;

/// The norm of all values together, √Σx², as a value of type f64 without dimensions. Of nothing it
/// is 0. Sums are kept in f64, so that a norm of half-precision gradients does not overflow, and do
/// not depend on the number of threads.
///
/// # Errors
/// The error of a value whose construction failed; an element type that is not a float.
///
/// ```
/// use autograd_core::{Result, TrackedTensor};
/// use autograd_tape::global_norm;
///
/// fn main() -> Result<()> {
///     let grads = [TrackedTensor::scalar(3.0), TrackedTensor::from_vec(vec![4f32], &[1])?];
///     assert_eq!(global_norm(&grads)?.to_scalar::<f64>()?, 5.0);
///     Ok(())
/// }
/// ```
#[track_caller]
pub fn global_norm(values: &[TrackedTensor]) -> Result<TrackedTensor> {
    root(&squares_of_all(values)?)
}

/// Σx² over all values.
#[track_caller]
pub(crate) fn squares_of_all(values: &[TrackedTensor]) -> Result<TrackedTensor> {
    let mut sum: Option<TrackedTensor> = None;
    for value in values {
        let one = squares(value, Parts::One)?;
        sum = Some(match sum {
            None => one,
            Some(sum) => add(&sum, &one)?,
        });
    }
    sum.map_or_else(|| Ok(TrackedTensor::scalar(0.0)), Ok)
}

/// √x. Its derivative at 0 is that of the norm of the zero vector, 0 by convention.
#[track_caller]
pub(crate) fn root(squares: &TrackedTensor) -> Result<TrackedTensor> {
    static ROOT: LazyLock<Definition> =
        LazyLock::new(|| Definition::new("norm", ScalarExpr::build(1, 0, |b, x, _| root_of(b, x[0]))));
    pointwise(&ROOT, &[squares])
}

/// √x in an expression, with derivative 0 at 0.
pub(crate) fn root_of(b: &mut Builder, x: Reg) -> Reg {
    // At 0 the root of a constant is taken: the infinite derivative of √x must not even be
    // computed, since 0 · ∞ is NaN.
    let (zero, one) = (b.constant(0.0), b.constant(1.0));
    let sound = b.select(x, x, one);
    let root = b.unary(Unary::Sqrt, sound);
    b.select(x, root, zero)
}

/// Over what squares are summed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Parts {
    /// Over all elements.
    One,
    /// Over all dimensions but the first.
    Units,
}

/// Σx², in f64: of shape [], or of shape n×1×…×1 for the n units along the first dimension.
#[track_caller]
pub(crate) fn squares(x: &TrackedTensor, parts: Parts) -> Result<TrackedTensor> {
    match parts {
        Parts::One => apply_one(&SumOfSquares(Parts::One), &[x]),
        Parts::Units => apply_one(&SumOfSquares(Parts::Units), &[x]),
    }
}

/// One pass where nobody watches; conversion, square and sum where somebody does.
#[derive(Clone, Copy, Debug)]
struct SumOfSquares(Parts);

impl SumOfSquares {
    fn target(self, x: &Shape) -> Result<Shape> {
        match (self.0, x.dims()) {
            (Parts::Units, [units, rest @ ..]) => {
                let mut dims: SmallVec<[usize; 8]> = smallvec![1; rest.len() + 1];
                dims[0] = *units;
                autograd_core::checked_shape("sum_of_squares", &dims)
            }
            (Parts::One, _) | (Parts::Units, []) => Ok(Shape::SCALAR),
        }
    }
}

impl Primitive for SumOfSquares {
    fn name(&self) -> &'static str {
        "sum_of_squares"
    }

    fn keep(&self) -> Prim {
        match self.0 {
            Parts::One => Prim::Static(&SumOfSquares(Parts::One)),
            Parts::Units => Prim::Static(&SumOfSquares(Parts::Units)),
        }
    }

    fn infer(&self, inputs: &[Meta]) -> Result<Signature> {
        let x = inputs[0];
        if !is_float(x.dtype) {
            return Err(Error::dtype("sum_of_squares", x.dtype, "gradients are of float types"));
        }
        Ok(Signature::one(x.with_dtype(DType::F64).with_shape(self.target(&x.shape)?)))
    }

    fn eval_into(&self, inputs: &[View<'_>], outputs: &mut [SliceMut<'_>]) -> Result<()> {
        let Some(out) = outputs[0].f64s_mut() else {
            return Err(Error::internal("sum_of_squares", "its output is not f64"));
        };
        sums_of_squares(inputs[0], out);
        Ok(())
    }

    fn kernel(&self) -> Option<KernelCall> {
        Some(KernelCall::new("sum_of_squares", &[i64::from(self.0 == Parts::Units)], &[]))
    }

    fn rule(&self) -> Rule<'_> {
        Rule::Composite
    }

    fn decompose(&self, inputs: &[&TrackedTensor]) -> Result<Option<Values>> {
        let wide = cast(inputs[0], DType::F64)?;
        Ok(Some(smallvec![sum_to(&mul(&wide, &wide)?, &self.target(inputs[0].shape())?)?]))
    }
}

/// The numbers of a value that nobody watches: what a choice may be based on. `None` where a
/// transform must go through both sides of it.
pub(crate) fn readable(x: &TrackedTensor) -> Result<Option<Vec<f64>>> {
    if x.is_tracked() { Ok(None) } else { x.to_flat().map(Some) }
}

/// A value without dimensions of type f64, on the device of `like`.
pub(crate) fn number(value: f64, like: &TrackedTensor) -> Result<TrackedTensor> {
    let device: DeviceLocation = like.location();
    fill(value, &Meta { shape: Shape::SCALAR, dtype: DType::F64, device }, like)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::GradientTape;

    /// Both sides are sums of a few squares in f64.
    const ROUNDING: f64 = 1e-15;

    #[test]
    fn the_kernel_is_the_decomposition() -> Result<()> {
        let data: Vec<f64> = (0..24).map(|i| f64::from(i) - 11.5).collect();
        for parts in [Parts::One, Parts::Units] {
            for dtype in [DType::F64, DType::F32, DType::F16, DType::BF16] {
                let x = cast(&TrackedTensor::from_vec(data.clone(), &[4, 3, 2])?, dtype)?;
                let made = squares(&x, parts)?;
                let op = SumOfSquares(parts);
                let Some(said) = op.decompose(&[&x])? else { panic!("it has a decomposition") };
                assert_eq!((made.dims(), made.dtype()), (said[0].dims(), DType::F64));
                for (a, b) in made.to_flat::<f64>()?.iter().zip(said[0].to_flat::<f64>()?) {
                    assert!((a - b).abs() <= ROUNDING * b.abs(), "{a} {b} {parts:?} {dtype:?}");
                }
            }
        }
        Ok(())
    }

    #[test]
    fn the_norm_is_differentiable_and_flat_at_zero() -> Result<()> {
        let of = |x: Vec<f64>| -> Result<Vec<f64>> {
            let tape = GradientTape::new();
            let x = tape.variable(TrackedTensor::from_vec(x, &[2])?);
            let norm = global_norm(std::slice::from_ref(&x))?;
            tape.derivative(&norm, &x)?.to_vec1()
        };
        let unit = of(vec![3.0, 4.0])?;
        assert!((unit[0] - 0.6).abs() < ROUNDING && (unit[1] - 0.8).abs() < ROUNDING);
        assert_eq!(of(vec![0.0, 0.0])?, [0.0, 0.0]);
        Ok(())
    }

    #[test]
    fn half_precision_does_not_overflow() -> Result<()> {
        let x = cast(&TrackedTensor::from_vec(vec![60000f64; 4], &[4])?, DType::F16)?;
        let exact = 2.0 * f64::from(autograd_core::kernels::f16::from_f64(60000.0));
        assert_eq!(global_norm(&[x])?.to_scalar::<f64>()?, exact);
        assert_eq!(global_norm(&[])?.to_scalar::<f64>()?, 0.0);
        let whole = TrackedTensor::from_vec(vec![1u32], &[1])?;
        assert!(matches!(global_norm(&[whole]), Err(Error::UnsupportedDType { .. })));
        Ok(())
    }
}
