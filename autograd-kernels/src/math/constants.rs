//! The numbers in which f32 and f64 algorithms differ, given as f64 literals.

use crate::simd::Vector;

/// Polynomials are listed from the highest power down.
pub(crate) trait Constants {
    /// ln 2 in two parts; the first has zeros at its end, so that n · HI is exact.
    const LN2: [f64; 2];
    /// (eʳ − 1 − r)/r² for |r| ≤ ½ ln 2.
    const EXP: &'static [f64];
    /// eˣ is ∞ above the second, and rounds to 0 below the first.
    const EXP_RANGE: [f64; 2];
    /// The exponent of a power of two that makes any eˣ ≤ 1 a normal number, and that power's inverse.
    const SHIFT: [f64; 2];
    /// From here on tanh rounds to 1.
    const TANH_ONE: f64;
    /// (tanh x − x)/x³ as a polynomial in x², for |x| ≤ 0.625.
    const TANH: &'static [f64];
    /// Below this eˣ − 1 rounds to −1.
    const EXPM1_MINUS_ONE: f64;
    /// (ln(1+s) − ln(1−s))/s − 2 as a polynomial in s², times s⁻².
    const LOG: &'static [f64];
    /// The smallest normal number, and the power of two that makes denormals normal.
    const MIN_NORMAL: [f64; 2];
    /// π/2 in parts, to be subtracted with fused multiply-add.
    const HALF_PI: [f64; 3];
    /// Up to here these parts reduce an angle exactly enough.
    const ANGLE: f64;
    /// (sin r − r)/r³ and (cos r − 1 + r²/2)/r⁴ as polynomials in r², for |r| ≤ π/4.
    const SIN: &'static [f64];
    const COS: &'static [f64];
    /// Below this sin x, tanh x and the like round to x.
    const TINY: f64;
}

impl Constants for f32 {
    const LN2: [f64; 2] = [0.693_359_375, -2.121_944_4e-4];
    // Cephes, expf.
    const EXP: &'static [f64] = &[
        1.987_569_150_0e-4,
        1.398_199_950_7e-3,
        8.333_451_907_3e-3,
        4.166_579_589_4e-2,
        1.666_666_545_9e-1,
        5.000_000_120_1e-1,
    ];
    const EXP_RANGE: [f64; 2] = [-104.0, 89.0];
    const SHIFT: [f64; 2] = [64.0, 1.0 / (1u128 << 64) as f64];
    const TANH_ONE: f64 = 9.5;
    // Cephes, tanhf.
    const TANH: &'static [f64] = &[
        -5.704_988_727_45e-3,
        2.063_908_879_54e-2,
        -5.373_971_507_23e-2,
        1.333_144_221_58e-1,
        -3.333_328_199_84e-1,
    ];
    const EXPM1_MINUS_ONE: f64 = -20.0;
    // FreeBSD, e_logf.c.
    const LOG: &'static [f64] = &[
        0.242_790_788_412_094_1,
        0.284_987_866_878_509_5,
        0.400_009_721_517_562_87,
        0.666_666_626_930_236_8,
    ];
    const MIN_NORMAL: [f64; 2] = [f32::MIN_POSITIVE as f64, 8_388_608.0];
    const HALF_PI: [f64; 3] = [1.570_796_370_506_286_6, -4.371_138_828_673_793e-8, -1.715_124_5e-15];
    const ANGLE: f64 = 40_000.0;
    // Cephes, sinf and cosf.
    const SIN: &'static [f64] = &[-1.951_529_589_1e-4, 8.332_160_873_6e-3, -1.666_665_461_1e-1];
    const COS: &'static [f64] =
        &[2.443_315_711_809_948e-5, -1.388_731_625_493_765e-3, 4.166_664_568_298_827e-2];
    const TINY: f64 = 2.4e-4;
}

impl Constants for f64 {
    // fdlibm, e_log.c.
    const LN2: [f64; 2] = [6.931_471_803_691_238e-1, 1.908_214_929_270_587_7e-10];
    // Taylor's series: the first term left out is below 2⁻⁵⁷ of the sum.
    const EXP: &'static [f64] = &[
        1.605_904_383_682_161_5e-10,
        2.087_675_698_786_81e-9,
        2.505_210_838_544_172e-8,
        2.755_731_922_398_589_3e-7,
        2.755_731_922_398_589e-6,
        2.480_158_730_158_73e-5,
        1.984_126_984_126_984e-4,
        1.388_888_888_888_889e-3,
        8.333_333_333_333_333e-3,
        4.166_666_666_666_666_4e-2,
        1.666_666_666_666_666_6e-1,
        0.5,
    ];
    const EXP_RANGE: [f64; 2] = [-746.0, 710.0];
    // 2⁻⁵¹²: a sign of 0, an exponent of 1023 − 512, a fraction of 0.
    const SHIFT: [f64; 2] = [512.0, f64::from_bits((1023 - 512) << 52)];
    const TANH_ONE: f64 = 20.0;
    const TANH: &'static [f64] = &[];
    const EXPM1_MINUS_ONE: f64 = -40.0;
    // fdlibm, e_log.c.
    const LOG: &'static [f64] = &[
        1.479_819_860_511_658_6e-1,
        1.531_383_769_920_937_3e-1,
        1.818_357_216_161_805e-1,
        2.222_219_843_214_978_4e-1,
        2.857_142_874_366_239e-1,
        3.999_999_999_940_942e-1,
        6.666_666_666_666_735e-1,
    ];
    const MIN_NORMAL: [f64; 2] = [f64::MIN_POSITIVE, 4_503_599_627_370_496.0];
    const HALF_PI: [f64; 3] =
        [std::f64::consts::FRAC_PI_2, 6.123_233_995_736_766e-17, -1.497_384_904_859_169_8e-33];
    const ANGLE: f64 = 1e6;
    // fdlibm, k_sin.c and k_cos.c.
    const SIN: &'static [f64] = &[
        1.589_690_995_211_55e-10,
        -2.505_076_025_340_686_3e-8,
        2.755_731_370_707_006_8e-6,
        -1.984_126_982_985_795e-4,
        8.333_333_333_322_49e-3,
        -1.666_666_666_666_663_2e-1,
    ];
    const COS: &'static [f64] = &[
        -1.135_964_755_778_819_5e-11,
        2.087_572_321_298_175e-9,
        -2.755_731_435_139_066e-7,
        2.480_158_728_947_673e-5,
        -1.388_888_888_887_411e-3,
        4.166_666_666_666_66e-2,
    ];
    const TINY: f64 = 1e-8;
}

/// The polynomial with these coefficients, highest power first.
///
/// A plain loop, because std's `fold` is a call of its own where the compiler declines to inline
/// it, outside of the code with AVX2 switched on.
#[inline(always)]
pub(super) fn horner<V: Vector>(x: V, coefficients: &[f64]) -> V {
    let mut sum = V::num(coefficients[0]);
    let mut k = 1;
    while k < coefficients.len() {
        sum = sum.fma(x, V::num(coefficients[k]));
        k += 1;
    }
    sum
}
