//! Comparisons, choices by a mask, and what stays within bounds.

use crate::elementwise::{binary_cases, kink, unary_cases};
use crate::operand::Operand;
use crate::registry::{Case, Family, Op, Sample};
use autograd_core::kernels::expr::{Binary, Builder, Reg};
use autograd_core::smallvec::{SmallVec, smallvec};
use autograd_core::{
    Definition, Error, Pointwise, Result, ScalarExpr, Site, TrackedTensor, apply_one, is_float, pointwise,
    pointwise_with,
};
use std::sync::LazyLock;

/// Comparisons. A row `/// x < y.` `lt = Lt;` becomes a function of a value and a value or
/// number whose result is a mask.
macro_rules! comparison {
    ($($(#[$doc:meta])* $name:ident = $op:ident;)*) => {$(
        $(#[$doc])*
        ///
        /// The result is a mask: bytes, 1 where it holds and 0 where not (NaN equals nothing). Flat.
        /// Integers can be compared too.
        ///
        /// # Errors
        /// Shapes that do not broadcast; types or devices that differ.
        #[track_caller]
        pub fn $name(x: &TrackedTensor, rhs: impl Into<Operand>) -> Result<TrackedTensor> {
            static VALUE: LazyLock<Definition> = LazyLock::new(|| {
                Definition::mask(stringify!($name), ScalarExpr::build(2, 0, |b, x, _| b.binary(Binary::$op, x[0], x[1])))
            });
            static NUMBER: LazyLock<Definition> = LazyLock::new(|| {
                Definition::mask(stringify!($name), ScalarExpr::build(1, 1, |b, x, p| b.binary(Binary::$op, x[0], p[0])))
            });
            match rhs.into() {
                Operand::Value(y) => pointwise(&VALUE, &[x, &y]),
                Operand::Real(c) => pointwise_with(&NUMBER, &[c], &[x]),
                Operand::Integer(c) => pointwise_with(&NUMBER, &[c as f64], &[x]),
            }
        }
    )*};
}

comparison! {
    /// x = y.
    eq = Eq;
    /// x ≠ y.
    ne = Ne;
    /// x < y.
    lt = Lt;
    /// x ≤ y.
    le = Le;
    /// x > y.
    gt = Gt;
    /// x ≥ y.
    ge = Ge;
}

crate::elementwise::binary! {
    /// The larger of x and y; NaN where either is. At a tie each gets half of the gradient, as
    /// PyTorch's `maximum`.
    maximum = |b, x, y| b.binary(Binary::Max, x, y);
    /// The smaller of x and y; NaN where either is. At a tie each gets half of the gradient, as
    /// PyTorch's `minimum`.
    minimum = |b, x, y| b.binary(Binary::Min, x, y);
}

/// x within bounds: the upper one where x is above it, the lower one where x is below. The
/// gradient passes where x equals a bound, as PyTorch's `clamp`; where the bounds cross, the
/// upper one wins.
///
/// # Errors
/// Shapes that do not broadcast; types or devices that differ.
#[track_caller]
pub fn clamp(x: &TrackedTensor, low: impl Into<Operand>, high: impl Into<Operand>) -> Result<TrackedTensor> {
    let (op, bounds) = clamped(x, low.into(), high.into())?;
    let inputs: SmallVec<[&TrackedTensor; 3]> = std::iter::once(x).chain(&bounds).collect();
    apply_one(&op, &inputs)
}

/// The op of [`clamp`], and its inputs after x.
#[track_caller]
pub(crate) fn clamped(
    x: &TrackedTensor,
    low: Operand,
    high: Operand,
) -> Result<(Pointwise, SmallVec<[TrackedTensor; 2]>)> {
    fn expression(b: &mut Builder, x: Reg, low: Reg, high: Reg) -> Reg {
        let below = b.binary(Binary::Lt, x, low);
        let raised = b.select(below, low, x);
        let above = b.binary(Binary::Gt, raised, high);
        b.select(above, high, raised)
    }
    static VALUES: LazyLock<Definition> = LazyLock::new(|| {
        Definition::new("clamp", ScalarExpr::build(3, 0, |b, x, _| expression(b, x[0], x[1], x[2])))
    });
    static NUMBERS: LazyLock<Definition> = LazyLock::new(|| {
        Definition::new("clamp", ScalarExpr::build(1, 2, |b, x, p| expression(b, x[0], p[0], p[1])))
    });
    if let (Some(low), Some(high)) = (low.number(), high.number()) {
        return Ok((Pointwise::with(&NUMBERS, &[low, high]), SmallVec::new()));
    }
    Ok((Pointwise::of(&VALUES), smallvec![low.value(x)?, high.value(x)?]))
}

/// A mask made of integers as it is, of floats as "not 0": a choice has no derivative in it.
#[track_caller]
fn as_mask(mask: &TrackedTensor) -> Result<TrackedTensor> {
    if is_float(mask.dtype()) && mask.failure().is_none() { ne(mask, 0) } else { Ok(mask.clone()) }
}

/// `a` where the mask is not 0, else `b`; the gradient goes where the value came from, and NaN
/// in what is not taken goes nowhere. One of the two may be a number.
///
/// # Errors
/// Shapes that do not broadcast, types or devices of `a` and `b` that differ, two numbers.
#[track_caller]
pub fn where_cond(
    mask: &TrackedTensor,
    a: impl Into<Operand>,
    b: impl Into<Operand>,
) -> Result<TrackedTensor> {
    static WHERE: LazyLock<Definition> = LazyLock::new(|| {
        Definition::new("where_cond", ScalarExpr::build(3, 0, |b, x, _| b.select(x[0], x[1], x[2])))
    });
    let (a, b) = (a.into(), b.into());
    let (a, b) = match (a, b) {
        (Operand::Value(a), b) => (a.clone(), b.value(&a)?),
        (a, Operand::Value(b)) => (a.value(&b)?, b),
        _ => {
            let reason = "two numbers have no element type: make one of them a tensor";
            return Err(Error::argument("where_cond", reason).or_at(Site::caller()));
        }
    };
    pointwise(&WHERE, &[&as_mask(mask)?, &a, &b])
}

/// `value` where the mask is not 0, else x, as PyTorch's `masked_fill`; the gradient is 0 where
/// it was filled.
///
/// # Errors
/// A mask that does not broadcast with x, a type that is not a float.
#[track_caller]
pub fn masked_fill(x: &TrackedTensor, mask: impl Into<TrackedTensor>, value: f64) -> Result<TrackedTensor> {
    static FILL: LazyLock<Definition> = LazyLock::new(|| {
        Definition::new("masked_fill", ScalarExpr::build(2, 1, |b, x, p| b.select(x[0], p[0], x[1])))
    });
    pointwise_with(&FILL, &[value], &[&as_mask(&mask.into())?, x])
}

/// The ops of this file.
pub fn ops() -> Vec<Op> {
    let op = |name, formula, cases| Op { name, family: Family::Elementwise, formula, cases };
    macro_rules! comparisons {
        ($($name:ident, $formula:literal;)*) => {
            vec![$(op(stringify!($name), $formula, || {
                let cases = binary_cases((-1.0, 1.0), (-1.0, 1.0), |x, y| $name(x, y));
                let number = kink("number", &[-1.0, 0.0, 0.5, 1.0], |x| $name(x, 0.5));
                cases.into_iter().map(Case::at_a_kink).chain([number]).collect()
            }),)*]
        };
    }
    let mut ops = comparisons! {
        eq, "x = y as a mask; flat";
        ne, "x ≠ y as a mask; flat";
        lt, "x < y as a mask; flat";
        le, "x ≤ y as a mask; flat";
        gt, "x > y as a mask; flat";
        ge, "x ≥ y as a mask; flat";
    };
    ops.extend([
        op("maximum", "the larger of x and y; half each at a tie", || {
            let mut cases = binary_cases((-1.0, 0.0), (0.1, 1.0), |x, y| maximum(x, y));
            cases.push(Case::new("both win", vec![Sample::distinct(&[2, 8])], |x| maximum(&x[0], -0.01)));
            cases.push(kink("tie with a number", &[0.0, 1.0, 2.0], |x| maximum(x, 1)));
            let sample = |values: [f64; 3]| Sample::Exact { dims: vec![3], values: values.to_vec() };
            let inputs = vec![sample([1.0, 2.0, -1.0]), sample([1.0, 0.0, -1.0])];
            cases.push(Case::new("ties", inputs, |x| maximum(&x[0], &x[1])).at_a_kink());
            cases
        }),
        op("minimum", "the smaller of x and y; half each at a tie", || {
            let mut cases = binary_cases((-1.0, 0.0), (0.1, 1.0), |x, y| minimum(x, y));
            cases.push(kink("tie with a number", &[0.0, 1.0, 2.0], |x| minimum(x, 1)));
            cases
        }),
        op("clamp", "x within bounds; the gradient passes at a bound", || {
            let mut cases = unary_cases(-0.4, 0.4, |x| clamp(x, -0.5, 0.5));
            cases.push(Case::new("outside", vec![Sample::between(&[4], 0.6, 1.5)], |x| {
                clamp(&x[0], -0.5, 0.5)
            }));
            let bounds = |x: (f64, f64)| {
                let (low, high) = (Sample::between(&[1, 3], -1.0, -0.5), Sample::between(&[2, 1], 0.5, 1.0));
                vec![Sample::between(&[2, 3], x.0, x.1), low, high]
            };
            for (label, range) in [("below", (-2.0, -1.1)), ("within", (-0.4, 0.4)), ("above", (1.1, 2.0))] {
                cases.push(Case::new(label, bounds(range), |x| clamp(&x[0], &x[1], &x[2])));
            }
            cases.push(kink("at the bounds", &[-0.5, 0.5], |x| clamp(x, -0.5, 0.5)));
            cases
        }),
        op("where_cond", "a where the mask is not 0, else b", || {
            let inputs = |m: &[usize], a: &[usize], b: &[usize]| {
                vec![Sample::mask(m), Sample::float(a), Sample::float(b)]
            };
            vec![
                Case::new("same shape", inputs(&[2, 3], &[2, 3], &[2, 3]), |x| {
                    where_cond(&x[0], &x[1], &x[2])
                }),
                Case::new("all broadcast", inputs(&[4, 1, 1], &[2, 1], &[3]), |x| {
                    where_cond(&x[0], &x[1], &x[2])
                }),
                Case::new("a number", inputs(&[4], &[4], &[1])[..2].to_vec(), |x| {
                    where_cond(&x[0], &x[1], 0.5)
                }),
                Case::new("empty", inputs(&[0], &[0], &[1]), |x| where_cond(&x[0], &x[1], &x[2])),
            ]
        }),
        op("masked_fill", "the number where the mask is not 0, else x", || {
            let inputs = |x: &[usize], m: &[usize]| vec![Sample::float(x), Sample::mask(m)];
            vec![
                Case::new("same shape", inputs(&[2, 3], &[2, 3]), |x| masked_fill(&x[0], &x[1], -1.0)),
                Case::new("a mask broadcast", inputs(&[2, 3], &[3]), |x| {
                    crate::elementwise::exp(&masked_fill(&x[0], &x[1], f64::NEG_INFINITY)?)
                }),
            ]
        }),
    ]);
    ops
}

/// The methods of this file.
#[macro_export]
#[doc(hidden)]
macro_rules! compare_methods {
    ($($callback:tt)*) => {
        $($callback)* {
            unary {}
            binary {
                /// x = y as a mask.
                eq = $crate::compare::eq;
                /// x ≠ y as a mask.
                ne = $crate::compare::ne;
                /// x < y as a mask.
                lt = $crate::compare::lt;
                /// x ≤ y as a mask.
                le = $crate::compare::le;
                /// x > y as a mask.
                gt = $crate::compare::gt;
                /// x ≥ y as a mask.
                ge = $crate::compare::ge;
                /// x = y as a mask, under candle's name.
                broadcast_eq = $crate::compare::eq;
                /// x ≠ y as a mask, under candle's name.
                broadcast_ne = $crate::compare::ne;
                /// x < y as a mask, under candle's name.
                broadcast_lt = $crate::compare::lt;
                /// x ≤ y as a mask, under candle's name.
                broadcast_le = $crate::compare::le;
                /// x > y as a mask, under candle's name.
                broadcast_gt = $crate::compare::gt;
                /// x ≥ y as a mask, under candle's name.
                broadcast_ge = $crate::compare::ge;
                /// The larger of x and y; half of the gradient each at a tie.
                maximum = $crate::compare::maximum;
                /// The smaller of x and y; half of the gradient each at a tie.
                minimum = $crate::compare::minimum;
                /// The larger of x and y, under candle's name.
                broadcast_maximum = $crate::compare::maximum;
                /// The smaller of x and y, under candle's name.
                broadcast_minimum = $crate::compare::minimum;
            }
            other {
                /// x within bounds; the gradient passes at a bound.
                clamp(low: impl Into<$crate::Operand>, high: impl Into<$crate::Operand>) -> autograd_core::TrackedTensor = $crate::compare::clamp;
                /// `a` where this mask is not 0, else `b`.
                where_cond(a: impl Into<$crate::Operand>, b: impl Into<$crate::Operand>) -> autograd_core::TrackedTensor = $crate::compare::where_cond;
                /// `value` where the mask is not 0, else x.
                masked_fill(mask: impl Into<autograd_core::TrackedTensor>, value: f64) -> autograd_core::TrackedTensor = $crate::compare::masked_fill;
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pull::{kept_bytes, pull, slopes, vector};

    #[test]
    fn ties_get_half_each() -> Result<()> {
        let (x, y) = (vector(&[1.0, 2.0, 0.0]), vector(&[1.0, 0.0, 2.0]));
        assert_eq!(pull(&[&x, &y], |x| maximum(&x[0], &x[1]))?, [[0.5, 1.0, 0.0], [0.5, 0.0, 1.0]]);
        assert_eq!(pull(&[&x, &y], |x| minimum(&x[0], &x[1]))?, [[0.5, 0.0, 1.0], [0.5, 1.0, 0.0]]);
        Ok(())
    }

    #[test]
    fn clamp_passes_the_gradient_at_its_bounds() -> Result<()> {
        assert_eq!(slopes(&[-2.0, -1.0, 0.0, 1.0, 2.0], |x| clamp(x, -1, 1))?, [0.0, 1.0, 1.0, 1.0, 0.0]);
        let inputs = [&vector(&[-2.0, 0.0, 2.0]), &vector(&[-1.0]), &vector(&[1.0])];
        let grads = pull(&inputs, |x| clamp(&x[0], &x[1], &x[2]))?;
        assert_eq!(grads, [vec![0.0, 1.0, 0.0], vec![1.0], vec![1.0]]);
        Ok(())
    }

    #[test]
    fn crossed_bounds_give_the_upper_one() -> Result<()> {
        assert_eq!(clamp(&vector(&[-2.0, 0.0, 2.0]), 1, -1)?.to_vec1::<f64>()?, [-1.0; 3]);
        assert_eq!(slopes(&[-2.0, 0.0, 2.0], |x| clamp(x, 1, -1))?, [0.0; 3]);
        Ok(())
    }

    #[test]
    fn nan_that_is_not_taken_reaches_no_gradient() -> Result<()> {
        let mask = TrackedTensor::from_vec(vec![1u8, 0], &[2])?;
        let grads = pull(&[&vector(&[1.0, f64::NAN]), &vector(&[f64::NAN, 2.0])], |x| {
            where_cond(&mask, &x[0], &x[1])
        })?;
        assert_eq!(grads, [[1.0, 0.0], [0.0, 1.0]]);
        Ok(())
    }

    #[test]
    fn masks_of_any_type() -> Result<()> {
        let x = vector(&[1.0, 2.0]);
        let masks = [
            TrackedTensor::from_vec(vec![0u8, 1], &[2])?,
            TrackedTensor::from_vec(vec![0u32, 7], &[2])?,
            TrackedTensor::from_vec(vec![0i64, -1], &[2])?,
            TrackedTensor::from_vec(vec![0f32, 0.5], &[2])?,
        ];
        for mask in masks {
            assert_eq!(where_cond(&mask, &x, 0)?.to_vec1::<f64>()?, [0.0, 2.0]);
            assert_eq!(masked_fill(&x, &mask, -1.0)?.to_vec1::<f64>()?, [1.0, -1.0]);
        }
        Ok(())
    }

    #[test]
    fn comparisons_of_floats_and_integers() -> Result<()> {
        let x = vector(&[-1.0, 0.0, f64::NAN]);
        assert_eq!(lt(&x, 0)?.to_vec1::<u8>()?, [1, 0, 0]);
        assert_eq!(ge(&x, 0)?.to_vec1::<u8>()?, [0, 1, 0]);
        assert_eq!(ne(&x, &x)?.to_vec1::<u8>()?, [0, 0, 1]);
        let n = TrackedTensor::from_vec(vec![-100i64, 5], &[2])?;
        assert_eq!(eq(&n, -100)?.to_vec1::<u8>()?, [1, 0]);
        assert_eq!(le(&n, TrackedTensor::from_vec(vec![5i64], &[1])?)?.to_vec1::<u8>()?, [1, 1]);
        Ok(())
    }

    #[test]
    fn two_numbers_have_no_type() -> Result<()> {
        let mask = TrackedTensor::from_vec(vec![1u8], &[1])?;
        let error = where_cond(&mask, 1, 0).expect_err("no type");
        assert!(error.site().is_some() && error.to_string().starts_with("where_cond:"), "{error}");
        Ok(())
    }

    #[test]
    fn a_choice_keeps_its_mask_only() -> Result<()> {
        let mask = TrackedTensor::from_vec(vec![1u8, 0], &[2])?;
        assert_eq!(kept_bytes(&vector(&[1.0, 2.0]), |x| where_cond(&mask, x, 0))?, 2);
        assert_eq!(kept_bytes(&vector(&[1.0, 2.0]), |x| masked_fill(x, &mask, 0.0))?, 2);
        Ok(())
    }
}
