//! Logarithms, after fdlibm: with s = f/(2 + f), ln(1 + f) = f − f²/2 + s·(f²/2 + R(s²)).

use super::constants::{Constants, horner};
use crate::simd::Vector;
use std::f64::consts::LOG2_E;

/// The parts of ln(1 + f): f, f²/2 and s·(f²/2 + R).
#[inline(always)]
fn series<V: Vector>(f: V) -> (V, V) {
    let s = f / (f + V::num(2.0));
    let z = s * s;
    let r = horner(z, V::Item::LOG) * z;
    let half_square = f * f * V::num(0.5);
    (half_square, s * (half_square + r))
}

/// Puts the results for 0, negative numbers, ∞ and NaN in place.
#[inline(always)]
fn special<V: Vector>(x: V, y: V) -> V {
    let zero = V::num(0.0);
    let y = x.eq(V::num(f64::INFINITY)).select(x, y);
    let y = x.eq(zero).select(V::num(f64::NEG_INFINITY), y);
    x.lt(zero).or(x.is_nan()).select(V::num(f64::NAN), y)
}

/// x = m · 2ᵉ for positive x, denormals too: (m − 1, e).
#[inline(always)]
fn reduce<V: Vector>(x: V) -> (V, V) {
    let [least, scale] = V::Item::MIN_NORMAL;
    let small = x.lt(V::num(least));
    let (m, e) = small.select(x * V::num(scale), x).split();
    (m - V::num(1.0), e - small.and(V::num(scale.log2())))
}

/// ln x.
#[inline(always)]
pub(crate) fn log<V: Vector>(x: V) -> V {
    let [hi, lo] = V::Item::LN2;
    let (f, e) = reduce(x);
    let (half_square, tail) = series(f);
    let y = e.fma(V::num(hi), f - (half_square - e.fma(V::num(lo), tail)));
    special(x, y)
}

/// log₂ x, exact for powers of two.
#[inline(always)]
pub(crate) fn log2<V: Vector>(x: V) -> V {
    let (f, e) = reduce(x);
    let (half_square, tail) = series(f);
    // f/ln 2 in two parts: where f is not small, one product would cost a bit.
    let (head, rest) = (V::num(LOG2_E), V::num(2.035_527_374_093_103_3e-17));
    let y = f - (half_square - tail);
    special(x, y.fma(head, y.fma(rest, e)))
}

/// ln(1 + x) for x in [0, 1] (or NaN): no special cases.
#[inline(always)]
pub(crate) fn log1p_of_unit<V: Vector>(x: V) -> V {
    let [hi, lo] = V::Item::LN2;
    let one = V::num(1.0);
    let u = one + x;
    // What rounding 1 + x lost; relative to u it matters only where u is near 1.
    let lost = x - (u - one);
    let rest = lost * (one - x * V::num(0.5));
    let (m, e) = u.split();
    let f = m - one;
    let (half_square, tail) = series(f);
    e.fma(V::num(hi), f - (half_square - (e.fma(V::num(lo), rest) + tail)))
}

/// ln(1 + x).
#[inline(always)]
pub(crate) fn log1p<V: Vector>(x: V) -> V {
    let [hi, lo] = V::Item::LN2;
    let one = V::num(1.0);
    let u = x + one;
    let (f, e) = reduce(u);
    // What rounding 1 + x lost, from the smaller of the two, relative to u.
    let lost = x.lt(one).select(x - (u - one), one - (u - x)) / u;
    let (half_square, tail) = series(f);
    let y = e.fma(V::num(hi), f - (half_square - (e.fma(V::num(lo), lost) + tail)));
    let y = x.abs().lt(V::num(V::Item::TINY * V::Item::TINY)).select(x, y);
    special(u, y)
}
