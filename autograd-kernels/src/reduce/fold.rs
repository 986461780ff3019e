//! How rows and columns of numbers are folded.

use super::Reduction;
use crate::Element;
use crate::simd::{Float, Vector, fold, load_at, store_at, vectorised};

/// A type that reductions compute in.
pub(super) trait Number: Element + PartialEq {
    /// The result of nothing.
    fn start(op: Reduction) -> Self;
    /// Two numbers to one.
    fn pair(op: Reduction, a: Self, b: Self) -> Self;
    /// A row to one number.
    fn row(op: Reduction, x: &[Self]) -> Self;
    /// acc = op(acc, x), element by element.
    fn columns(op: Reduction, acc: &mut [Self], x: &[Self]);
}

fn start(op: Reduction) -> f64 {
    match op {
        Reduction::Sum | Reduction::Mean => 0.0,
        Reduction::Prod => 1.0,
        Reduction::Max => f64::NEG_INFINITY,
        Reduction::Min => f64::INFINITY,
    }
}

/// The larger; NaN where either is. The vector maximum gives its second operand then.
#[inline(always)]
fn max<V: Vector>(a: V, b: V) -> V {
    b.is_nan().select(b, b.max(a))
}

#[inline(always)]
fn min<V: Vector>(a: V, b: V) -> V {
    b.is_nan().select(b, b.min(a))
}

vectorised! {
    fn row<T, V>(op: Reduction, x: &[T]) -> T {
        let first = T::from_f64(start(op));
        let total = match op {
            Reduction::Sum | Reduction::Mean => fold::<V>(
                x, first, first, #[inline(always)] |a, x| a + x, #[inline(always)] |a, b| a + b),
            Reduction::Prod => fold::<V>(
                x, first, first, #[inline(always)] |a, x| a * x, #[inline(always)] |a, b| a * b),
            Reduction::Max => fold::<V>(
                x, first, first, #[inline(always)] |a, x| max(a, x), #[inline(always)] |a, b| max(a, b)),
            Reduction::Min => fold::<V>(
                x, first, first, #[inline(always)] |a, x| min(a, x), #[inline(always)] |a, b| min(a, b)),
        };
        let lanes = total.lanes();
        let mut one = lanes[0];
        for &lane in &lanes[1..V::LANES] {
            one = pair(op, one, lane);
        }
        one
    }
}

vectorised! {
    fn columns<T, V>(op: Reduction, acc: &mut [T], x: &[T]) {
        assert_eq!(acc.len(), x.len(), "rows of one length");
        let mut i = 0;
        while i < x.len() {
            let (a, b) = (load_at::<V>(acc, i), load_at::<V>(x, i));
            let y = match op {
                Reduction::Sum | Reduction::Mean => a + b,
                Reduction::Prod => a * b,
                Reduction::Max => max(a, b),
                Reduction::Min => min(a, b),
            };
            store_at(y, acc, i);
            i += V::LANES;
        }
    }
}

fn pair<T: Float>(op: Reduction, a: T, b: T) -> T {
    let nan = |v: T| v.to_f64().is_nan();
    match op {
        Reduction::Sum | Reduction::Mean => a + b,
        Reduction::Prod => a * b,
        Reduction::Max if a > b || nan(a) => a,
        Reduction::Min if a < b || nan(a) => a,
        Reduction::Max | Reduction::Min => b,
    }
}

macro_rules! float {
    ($ty:ty) => {
        impl Number for $ty {
            fn start(op: Reduction) -> Self {
                start(op) as $ty
            }
            fn pair(op: Reduction, a: Self, b: Self) -> Self {
                pair(op, a, b)
            }
            fn row(op: Reduction, x: &[Self]) -> Self {
                row(op, x)
            }
            fn columns(op: Reduction, acc: &mut [Self], x: &[Self]) {
                columns(op, acc, x);
            }
        }
    };
}

float!(f32);
float!(f64);

impl Number for i64 {
    fn start(op: Reduction) -> Self {
        // The limits stand for the infinities; cast to narrower types they are theirs.
        match op {
            Reduction::Sum | Reduction::Mean => 0,
            Reduction::Prod => 1,
            Reduction::Max => i64::MIN,
            Reduction::Min => i64::MAX,
        }
    }
    fn pair(op: Reduction, a: Self, b: Self) -> Self {
        match op {
            Reduction::Sum | Reduction::Mean => a.wrapping_add(b),
            Reduction::Prod => a.wrapping_mul(b),
            Reduction::Max => a.max(b),
            Reduction::Min => a.min(b),
        }
    }
    fn row(op: Reduction, x: &[Self]) -> Self {
        x.iter().fold(Self::start(op), |a, &b| Self::pair(op, a, b))
    }
    fn columns(op: Reduction, acc: &mut [Self], x: &[Self]) {
        acc.iter_mut().zip(x).for_each(|(a, &b)| *a = Self::pair(op, *a, b));
    }
}
