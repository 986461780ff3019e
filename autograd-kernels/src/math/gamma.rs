//! ln Γ and its derivatives, in f64 for one number: f32 is computed here too and rounded once.

use std::f64::consts::PI;

/// Bernoulli numbers B₂, B₄, … B₂₄.
const BERNOULLI: [f64; 12] = [
    1.0 / 6.0,
    -1.0 / 30.0,
    1.0 / 42.0,
    -1.0 / 30.0,
    5.0 / 66.0,
    -691.0 / 2730.0,
    7.0 / 6.0,
    -3617.0 / 510.0,
    43867.0 / 798.0,
    -174_611.0 / 330.0,
    854_513.0 / 138.0,
    -236_364_091.0 / 2730.0,
];

/// ln |Γ(x)|; +∞ at the poles 0, −1, −2, …
pub(crate) fn lgamma(x: f64) -> f64 {
    libm::lgamma(x)
}

/// ψ(x). At 0 it is ∓∞ by the sign of the zero, at the other poles NaN, as in PyTorch.
pub(crate) fn digamma(x: f64) -> f64 {
    if x == 0.0 {
        return -f64::INFINITY.copysign(x);
    }
    if x < 0.0 {
        if x == x.floor() {
            return f64::NAN;
        }
        // Reflection: ψ(x) = ψ(1 − x) − π cot πx, the angle reduced first to keep it exact.
        let angle = PI * (x - x.round_ties_even());
        return digamma(1.0 - x) - PI / angle.tan();
    }
    // Near its positive root ψ cancels in the recurrence; there the Taylor series about the root
    // keeps full relative precision.
    if (x - ROOT_HI).abs() < 0.15 {
        return digamma_near_root(x);
    }
    // Recurrence ψ(x) = ψ(x + 1) − 1/x up to where the asymptotic series has full precision.
    let (mut x, mut y) = (x, 0.0);
    while x < 10.0 {
        y -= 1.0 / x;
        x += 1.0;
    }
    let z = 1.0 / (x * x);
    let series = BERNOULLI[..9]
        .iter()
        .enumerate()
        .rev()
        .fold(0.0, |sum, (k, b)| sum * z + b / (2.0 * (k as f64 + 1.0)));
    y + x.ln() - 0.5 / x - series * z
}

/// The positive root of ψ in two parts.
const ROOT_HI: f64 = 1.461_632_144_968_362_2;
const ROOT_LO: f64 = 9.549_995_429_965_697e-17;

/// ψ around its root x₀: Σ ψ⁽ᵏ⁾(x₀)/k! · (x − x₀)ᵏ.
fn digamma_near_root(x: f64) -> f64 {
    let d = (x - ROOT_HI) - ROOT_LO;
    // ψ⁽ᵏ⁾(x₀)/k! = (−1)ᵏ⁺¹ ζ(k + 1, x₀).
    let mut sum = 0.0;
    for k in (1..=24u32).rev() {
        let sign = if k % 2 == 1 { 1.0 } else { -1.0 };
        sum = sum * d + sign * hurwitz_zeta(k + 1, ROOT_HI);
    }
    sum * d
}

/// ψ⁽ⁿ⁾(x) for whole n ≥ 0; NaN for any other n. At the poles: +∞ for odd n (both sides agree),
/// NaN for even n ≥ 2.
pub(crate) fn polygamma(n: f64, x: f64) -> f64 {
    if n.is_nan() || x.is_nan() || n < 0.0 || n != n.floor() {
        return f64::NAN;
    }
    if n == 0.0 {
        return digamma(x);
    }
    let odd = n % 2.0 == 1.0;
    if x <= 0.0 && x == x.floor() {
        return if odd { f64::INFINITY } else { f64::NAN };
    }
    // n! overflows from 171 on; such orders have no use and no finite value near.
    if n > 170.0 {
        return if odd { f64::INFINITY } else { f64::NEG_INFINITY };
    }
    let order = n as u32;
    let sign = if odd { 1.0 } else { -1.0 };
    if x < -1.0 && order <= MAX_REFLECTION {
        // ψ⁽ⁿ⁾(1 − x) + (−1)ⁿ⁺¹ ψ⁽ⁿ⁾(x) = (−1)ⁿ π dⁿ/dxⁿ cot πx.
        return -PI * cot_derivative(order, x) - sign * polygamma(n, 1.0 - x);
    }
    let factorial = libm::tgamma(n + 1.0);
    sign * factorial * hurwitz_zeta(order + 1, x)
}

/// The highest order whose reflection formula is evaluated; above it the series is summed.
const MAX_REFLECTION: u32 = 20;

/// dⁿ/dxⁿ cot πx as a polynomial in c = cot πx: P₀ = c, Pₖ₊₁ = −π (1 + c²) Pₖ′.
fn cot_derivative(n: u32, x: f64) -> f64 {
    let c = 1.0 / (PI * (x - x.round_ties_even())).tan();
    let mut p = [0.0; MAX_REFLECTION as usize + 3];
    p[1] = 1.0;
    for degree in 1..=n as usize {
        let mut next = [0.0; MAX_REFLECTION as usize + 3];
        for k in 1..=degree {
            let slope = -PI * k as f64 * p[k];
            next[k - 1] += slope;
            next[k + 1] += slope;
        }
        p = next;
    }
    p.iter().rev().fold(0.0, |sum, a| sum * c + a)
}

/// Σ (x + k)⁻ˢ over k ≥ 0 by Euler and Maclaurin, for whole s ≥ 2 and x no pole.
fn hurwitz_zeta(s: u32, x: f64) -> f64 {
    if x == f64::INFINITY {
        return 0.0;
    }
    let power = -(s as i32);
    let (mut x, mut sum) = (x, 0.0);
    // Far enough out for the tail's series, farther for a larger s.
    let far = 10.0 + 0.5 * f64::from(s);
    while x < far {
        sum += x.powi(power);
        x += 1.0;
    }
    let s = f64::from(s);
    let at = x.powi(power);
    sum += x * at / (s - 1.0) + 0.5 * at;
    let (mut rise, mut term) = (s, at / x);
    for (k, b) in BERNOULLI.iter().enumerate() {
        let j = 2.0 * (k as f64 + 1.0);
        let step = b / libm::tgamma(j + 1.0) * rise * term;
        sum += step;
        if step.abs() < sum.abs() * 1e-18 {
            break;
        }
        rise *= (s + j - 1.0) * (s + j);
        term /= x * x;
    }
    sum
}
