//! eˣ and what is made of it.

use super::constants::{Constants, horner};
use super::logarithm::log1p_of_unit;
use crate::simd::Vector;
use std::f64::consts::LOG2_E;

/// x = n · ln 2 + r: n, r, and eʳ − 1 − r.
#[inline(always)]
fn reduce<V: Vector>(x: V) -> (V, V, V) {
    let [hi, lo] = V::Item::LN2;
    let n = (x * V::num(LOG2_E)).round();
    let r = n.fma(V::num(-lo), n.fma(V::num(-hi), x));
    (n, r, horner(r, V::Item::EXP) * (r * r))
}

/// 1 + r + rest, where what 1 + r loses in rounding is kept.
#[inline(always)]
fn one_plus<V: Vector>(r: V, rest: V) -> V {
    let one = V::num(1.0);
    let head = one + r;
    head + (((one - head) + r) + rest)
}

/// eˣ.
#[inline(always)]
pub(crate) fn exp<V: Vector>(x: V) -> V {
    let [low, high] = V::Item::EXP_RANGE;
    // In this order the limits let NaN through.
    let x = V::num(low).max(V::num(high).min(x));
    let (n, r, rest) = reduce(x);
    // 2ⁿ in two factors: n goes beyond the powers of normal numbers on both sides.
    let half = (n * V::num(0.5)).floor();
    one_plus(r, rest) * half.pow2() * (n - half).pow2()
}

/// eˣ for x ≤ 0, within an ulp: nothing overflows, so that one factor 2ⁿ is enough.
#[inline(always)]
pub(crate) fn exp_down<V: Vector>(x: V) -> V {
    let [low, _] = V::Item::EXP_RANGE;
    let (n, r, rest) = reduce(V::num(low).max(x));
    // 2ⁿ is too small for a normal number where the result is: shifted, and back.
    let [up, down] = V::Item::SHIFT;
    (V::num(1.0) + (r + rest)) * (n + V::num(up)).pow2() * V::num(down)
}

/// eˣ − 1.
#[inline(always)]
pub(crate) fn expm1<V: Vector>(x: V) -> V {
    let high = V::Item::EXP_RANGE[1];
    let (n, r, rest) = reduce(V::num(V::Item::EXPM1_MINUS_ONE).max(V::num(high).min(x)));
    let p = r + rest;
    // (p + 1)·2ⁿ − 1, halved so that 2ⁿ stays finite.
    let s = (n - V::num(1.0)).pow2();
    let far = p.fma(s, s - V::num(0.5));
    // Without scaling near 0, where it would cost denormals their last bit.
    let y = n.eq(V::num(0.0)).select(p, far + far);
    y.or(x.sign_bit())
}

/// tanh x.
#[inline(always)]
pub(crate) fn tanh<V: Vector>(x: V) -> V {
    let a = V::num(V::Item::TANH_ONE).min(x.abs());
    let (one, two) = (V::num(1.0), V::num(2.0));
    let y = if V::Item::TANH.is_empty() {
        let e = expm1(a + a);
        let y = e / (e + two);
        a.lt(V::num(V::Item::TINY)).select(a, y)
    } else {
        // A polynomial near 0, elsewhere 1 − 2/(e²ˣ + 1).
        let z = a * a;
        let near = (horner(z, V::Item::TANH) * z).fma(a, a);
        // e²ˣ is far from any limit here.
        let (n, r, rest) = reduce(a + a);
        let e = (one + r + rest) * n.pow2();
        let far = one - two / (e + one);
        a.lt(V::num(0.625)).select(near, far)
    };
    y.or(x.sign_bit())
}

/// 1/(1 + e⁻ˣ).
#[inline(always)]
pub(crate) fn sigmoid<V: Vector>(x: V) -> V {
    // From e⁻|ˣ|, which cannot overflow; the small side as e/(1 + e), without cancellation.
    let (one, negative) = (V::num(1.0), x.lt(V::num(0.0)));
    let e = exp_down(-x.abs());
    let d = one + e;
    let y = negative.select(e, one) / d;
    // On the small side, what 1 + e lost in rounding: y' = y·(1 − lost/d), and 1/d is 1 − y.
    let lost = (e - (d - one)).and(negative);
    (y * (one - y)).fma(-lost, y)
}

/// ln(1 + eˣ).
#[inline(always)]
pub(crate) fn softplus<V: Vector>(x: V) -> V {
    V::num(0.0).max(x) + log1p_of_unit(exp_down(-x.abs()))
}
