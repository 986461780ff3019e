//! The kernels over one row, in vectors.

use crate::lanes::prefetch;
use crate::math::exponential::exp_down;
use crate::simd::{Float, Vector, fold, load_at, map1, map2, store_at, vectorised};
use std::cell::Cell;

/// The largest number but for NaN; −∞ of none.
#[inline(always)]
fn largest<T: Float, V: Vector<Item = T>>(x: &[T]) -> T {
    let low = T::from_f64(f64::NEG_INFINITY);
    // The vector maximum gives its second operand where either is NaN.
    let max = fold::<V>(
        x,
        low,
        low,
        #[inline(always)]
        |m, x| x.max(m),
        #[inline(always)]
        |a, b| a.max(b),
    );
    max.lanes()[..V::LANES].iter().fold(low, |m, &v| if v > m { v } else { m })
}

/// Σ exp(x − max). The next row is on its way meanwhile.
#[inline(always)]
fn sum_exp<T: Float, V: Vector<Item = T>>(x: &[T], max: T) -> f64 {
    let m = V::splat(max);
    let next = Cell::new(x.as_ptr().wrapping_add(x.len()));
    fold::<V>(
        x,
        T::ZERO,
        T::from_f64(f64::NEG_INFINITY),
        #[inline(always)]
        |sum, x| {
            prefetch(next.get());
            next.set(next.get().wrapping_add(V::LANES));
            sum + exp_down(x - m)
        },
        #[inline(always)]
        |a, b| a + b,
    )
    .sum()
}

/// Σ a·b.
#[inline(always)]
fn dot<T: Float, V: Vector<Item = T>>(a: &[T], b: &[T]) -> f64 {
    assert_eq!(a.len(), b.len(), "rows of one length");
    let mut sums = [V::num(0.0); 4];
    let mut i = 0;
    while i < a.len() {
        for sum in &mut sums {
            if i < a.len() {
                *sum = load_at::<V>(a, i).fma(load_at(b, i), *sum);
            }
            i += V::LANES;
        }
    }
    ((sums[0] + sums[1]) + (sums[2] + sums[3])).sum()
}

/// Whether there is a NaN.
fn has_nan<T: Float>(x: &[T]) -> bool {
    x.iter().any(|v| v.to_f64().is_nan())
}

vectorised! {
    /// y = exp(x) / Σ exp(x). The next row is on its way meanwhile.
    pub(super) fn softmax<T, V>(x: &[T], y: &mut [T]) {
        let m = V::splat(largest::<T, V>(x));
        let mut sums = [V::num(0.0); 2];
        let n = y.len();
        assert_eq!(x.len(), n, "rows of one length");
        let whole = n - n % (2 * V::LANES);
        let mut i = 0;
        while i < whole {
            prefetch(x.as_ptr().wrapping_add(n + i));
            let (e, f) = (exp_down(load_at::<V>(x, i) - m), exp_down(load_at::<V>(x, i + V::LANES) - m));
            store_at(e, y, i);
            store_at(f, y, i + V::LANES);
            sums[0] = sums[0] + e;
            sums[1] = sums[1] + f;
            i += 2 * V::LANES;
        }
        let mut sum = (sums[0] + sums[1]).sum();
        if whole < n {
            map1::<V>(&x[whole..], &mut y[whole..], #[inline(always)] |x| exp_down(x - m));
            sum += y[whole..].iter().map(|v| v.to_f64()).sum::<f64>();
        }
        let scale = V::num(1.0 / sum);
        let mut i = 0;
        while i < n {
            store_at(load_at::<V>(y, i) * scale, y, i);
            i += V::LANES;
        }
    }
}

vectorised! {
    /// dx = y·(ct − Σ ct·y).
    pub(super) fn softmax_vjp<T, V>(ct: &[T], y: &[T], dx: &mut [T]) {
        let sum = V::num(dot::<T, V>(ct, y));
        map2::<V>(ct, y, dx, #[inline(always)] |c, y| y * (c - sum));
    }
}

vectorised! {
    /// y = x − log Σ exp(x).
    pub(super) fn log_softmax<T, V>(x: &[T], y: &mut [T]) {
        let max = largest::<T, V>(x);
        let (m, log) = (V::splat(max), V::num(sum_exp::<T, V>(x, max).ln()));
        map1::<V>(x, y, #[inline(always)] |x| (x - m) - log);
    }
}

vectorised! {
    /// dx = ct − exp(y)·Σ ct.
    pub(super) fn log_softmax_vjp<T, V>(ct: &[T], y: &[T], dx: &mut [T]) {
        let sum = fold::<V>(
            ct,
            T::ZERO,
            T::ZERO,
            #[inline(always)] |sum, c| sum + c,
            #[inline(always)] |a, b| a + b,
        );
        let sum = V::num(sum.sum());
        map2::<V>(ct, y, dx, #[inline(always)] |c, y| exp_down(y).fma(-sum, c));
    }
}

vectorised! {
    /// (m, log Σ exp(x − m)) with m = max x. Where m is infinite, (m, 0), and NaN where there is one.
    pub(super) fn log_sum_exp<T, V>(x: &[T]) -> (f64, f64) {
        let max = largest::<T, V>(x);
        if max.to_f64().is_infinite() {
            return (if has_nan(x) { f64::NAN } else { max.to_f64() }, 0.0);
        }
        (max.to_f64(), sum_exp::<T, V>(x, max).ln())
    }
}

vectorised! {
    /// dx = ct·exp(x − y) for numbers ct and y.
    pub(super) fn scaled_exp<T, V>(ct: T, x: &[T], y: T, dx: &mut [T]) {
        let (c, y) = (V::splat(ct), V::splat(y));
        map1::<V>(x, dx, #[inline(always)] |x| c * exp_down(x - y));
    }
}
