//! The error function.

use super::constants::horner;
use super::exponential::exp;
use crate::simd::Vector;

/// erf x for f32, after N. Juffa: x + x·p(x²) near 0, 1 − exp(q(|x|)) beyond.
#[inline(always)]
pub(crate) fn erf_f32<V: Vector<Item = f32>>(x: V) -> V {
    let t = V::num(4.0).min(x.abs());
    let s = t * t;
    let p = V::num(-1.728_534_7e-5).fma(t, V::num(3.831_971_26e-4));
    let u = V::num(-3.883_964_38e-3).fma(t, V::num(2.425_462_19e-2));
    let p = p.fma(s, u).fma(t, V::num(-1.067_778_77e-1));
    let p = p.fma(t, V::num(-6.348_466_87e-1)).fma(t, V::num(-1.287_175_12e-1));
    let far = V::num(1.0) - exp(p.fma(t, -t));
    let q = horner(s, &NEAR);
    let near = q.fma(t, t);
    V::num(0.927_734_375).lt(t).select(far, near).or(x.sign_bit())
}

/// (erf x − x)/x near 0.
const NEAR: [f64; 6] =
    [-5.967_617_03e-4, 4.991_194_23e-3, -2.676_813_49e-2, 1.128_199_25e-1, -3.761_253_36e-1, 1.283_791_66e-1];

/// erf x for f64, lane by lane.
#[inline(always)]
pub(crate) fn erf_f64<V: Vector<Item = f64>>(x: V) -> V {
    x.map(libm::erf)
}
