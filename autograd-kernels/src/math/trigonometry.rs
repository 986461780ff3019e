//! Sine and cosine.

use super::constants::{Constants, horner};
use crate::simd::{Float, Vector};
use std::f64::consts::FRAC_2_PI;

/// For x = n·π/2 + r: sin r, cos r and n.
#[inline(always)]
fn quadrant<V: Vector>(x: V) -> (V, V, V) {
    let [a, b, c] = V::Item::HALF_PI;
    let n = (x * V::num(FRAC_2_PI)).round();
    let r = n.fma(V::num(-b), n.fma(V::num(-a), x));
    let r = n.fma(V::num(-c), r);
    let z = r * r;
    let sin = (horner(z, V::Item::SIN) * z).fma(r, r);
    // 1 − z/2 rounds; its error is added back with the rest.
    let (one, half) = (V::num(1.0), z * V::num(0.5));
    let w = one - half;
    let cos = w + (z * z).fma(horner(z, V::Item::COS), (one - w) - half);
    (sin, cos, n)
}

/// −y where n is odd.
#[inline(always)]
fn negate_odd<V: Vector>(n: V, y: V) -> V {
    y.xor(n.is_odd().and(V::num(-0.0)))
}

/// Lanes whose angle is too large for the reduction (or ∞ or NaN) by the scalar function.
#[inline(always)]
fn large<V: Vector>(x: V, y: V, scalar: fn(V::Item) -> V::Item) -> V {
    let small = x.abs().lt(V::num(V::Item::ANGLE));
    let all = V::num(0.0).eq(V::num(0.0));
    if all.without(small).any() { small.select(y, x.map(scalar)) } else { y }
}

/// sin x.
#[inline(always)]
pub(crate) fn sin<V: Vector>(x: V) -> V {
    let (sin, cos, n) = quadrant(x);
    let y = negate_odd((n * V::num(0.5)).floor(), n.is_odd().select(cos, sin));
    let y = x.abs().lt(V::num(V::Item::TINY)).select(x, y);
    large(x, y, V::Item::sin)
}

/// cos x.
#[inline(always)]
pub(crate) fn cos<V: Vector>(x: V) -> V {
    let (sin, cos, n) = quadrant(x);
    let y = negate_odd((n.fma(V::num(0.5), V::num(0.5))).floor(), n.is_odd().select(sin, cos));
    large(x, y, V::Item::cos)
}
