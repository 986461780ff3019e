//! Elementary functions of each element, and those of two or three values.

use crate::operand::Operand;
use crate::registry::{Case, Family, Op, Sample};
use autograd_core::kernels::expr::{Binary, Builder, Reg, Unary};
use autograd_core::{Definition, Result, ScalarExpr, TrackedTensor, pointwise, pointwise_with};
use std::f64::consts::LOG10_E;
use std::sync::LazyLock;

/// Functions of one value. A row `/// eˣ.` `exp = new, |b, x| b.unary(Unary::Exp, x);` becomes
///
/// ```text
/// /// eˣ.
/// #[track_caller]
/// pub fn exp(x: &TrackedTensor) -> Result<TrackedTensor> {
///     static DEFINITION: LazyLock<Definition> = /* Definition::new("exp", the expression) */;
///     pointwise(&DEFINITION, &[x])
/// }
/// ```
macro_rules! unary {
    ($($(#[$doc:meta])* $name:ident = $make:ident, |$b:ident, $x:ident| $body:expr;)*) => {$(
        $(#[$doc])*
        ///
        /// # Errors
        /// A type that is not a float.
        #[track_caller]
        pub fn $name(x: &TrackedTensor) -> Result<TrackedTensor> {
            static DEFINITION: LazyLock<Definition> = LazyLock::new(|| {
                let expr = ScalarExpr::build(1, 0, |$b, x, _| {
                    let $x = x[0];
                    $body
                });
                Definition::$make(stringify!($name), expr)
            });
            pointwise(&DEFINITION, &[x])
        }
    )*};
}

/// Functions of a value and a value or number, as [`unary!`].
macro_rules! binary {
    ($($(#[$doc:meta])* $name:ident = |$b:ident, $x:ident, $y:ident| $body:expr;)*) => {$(
        $(#[$doc])*
        ///
        /// # Errors
        /// Shapes that do not broadcast; types or devices that differ.
        #[track_caller]
        pub fn $name(x: &TrackedTensor, rhs: impl Into<Operand>) -> Result<TrackedTensor> {
            fn expression($b: &mut Builder, $x: Reg, $y: Reg) -> Reg {
                $body
            }
            static VALUE: LazyLock<Definition> = LazyLock::new(|| {
                Definition::new(stringify!($name), ScalarExpr::build(2, 0, |b, x, _| expression(b, x[0], x[1])))
            });
            static NUMBER: LazyLock<Definition> = LazyLock::new(|| {
                Definition::new(stringify!($name), ScalarExpr::build(1, 1, |b, x, p| expression(b, x[0], p[0])))
            });
            match rhs.into() {
                Operand::Value(y) => pointwise(&VALUE, &[x, &y]),
                Operand::Real(c) => pointwise_with(&NUMBER, &[c], &[x]),
                Operand::Integer(c) => pointwise_with(&NUMBER, &[c as f64], &[x]),
            }
        }
    )*};
}

pub(crate) use {binary, unary};

unary! {
    /// |x|; its derivative at 0 is 0, as PyTorch's.
    abs = new, |b, x| b.unary(Unary::Abs, x);
    /// −1, 0 or 1; flat.
    sign = flat, |b, x| b.unary(Unary::Sign, x);
    /// 1/x.
    recip = new, |b, x| b.unary(Unary::Recip, x);
    /// x².
    sqr = new, |b, x| b.binary(Binary::Mul, x, x);
    /// √x; its derivative at 0 is +∞.
    sqrt = new, |b, x| b.unary(Unary::Sqrt, x);
    /// 1/√x.
    rsqrt = new, |b, x| b.unary(Unary::Rsqrt, x);
    /// eˣ.
    exp = new, |b, x| b.unary(Unary::Exp, x);
    /// eˣ − 1, exact near 0.
    expm1 = new, |b, x| b.unary(Unary::Expm1, x);
    /// ln x.
    log = new, |b, x| b.unary(Unary::Log, x);
    /// ln(1 + x), exact near 0.
    log1p = new, |b, x| b.unary(Unary::Log1p, x);
    /// log₂ x.
    log2 = new, |b, x| b.unary(Unary::Log2, x);
    /// log₁₀ x.
    log10 = new, |b, x| {
        let (ln, factor) = (b.unary(Unary::Log, x), b.constant(LOG10_E));
        b.binary(Binary::Mul, ln, factor)
    };
    /// sin x.
    sin = new, |b, x| b.unary(Unary::Sin, x);
    /// cos x.
    cos = new, |b, x| b.unary(Unary::Cos, x);
    /// tan x.
    tan = new, |b, x| b.unary(Unary::Tan, x);
    /// arcsin x.
    asin = new, |b, x| b.unary(Unary::Asin, x);
    /// arccos x.
    acos = new, |b, x| b.unary(Unary::Acos, x);
    /// arctan x.
    atan = new, |b, x| b.unary(Unary::Atan, x);
    /// sinh x.
    sinh = new, |b, x| b.unary(Unary::Sinh, x);
    /// cosh x.
    cosh = new, |b, x| b.unary(Unary::Cosh, x);
    /// tanh x.
    tanh = new, |b, x| b.unary(Unary::Tanh, x);
    /// arsinh x.
    asinh = new, |b, x| b.unary(Unary::Asinh, x);
    /// arcosh x.
    acosh = new, |b, x| b.unary(Unary::Acosh, x);
    /// artanh x.
    atanh = new, |b, x| b.unary(Unary::Atanh, x);
    /// The error function, 2/√π · ∫₀ˣ e^−t² dt.
    erf = new, |b, x| b.unary(Unary::Erf, x);
    /// ln |Γ(x)|.
    lgamma = new, |b, x| b.unary(Unary::Lgamma, x);
    /// ψ(x), the derivative of ln Γ.
    digamma = new, |b, x| b.unary(Unary::Digamma, x);
    /// The largest whole number not above x; flat.
    floor = flat, |b, x| b.unary(Unary::Floor, x);
    /// The smallest whole number not below x; flat.
    ceil = flat, |b, x| b.unary(Unary::Ceil, x);
    /// The nearest whole number, halves to even as PyTorch (candle rounds halves away from 0);
    /// flat.
    round = flat, |b, x| b.unary(Unary::Round, x);
    /// x without its fraction; flat.
    trunc = flat, |b, x| {
        let zero = b.constant(0.0);
        let (below, up, down) = (b.binary(Binary::Lt, x, zero), b.unary(Unary::Ceil, x), b.unary(Unary::Floor, x));
        b.select(below, up, down)
    };
}

binary! {
    /// The remainder with the divisor's sign, x − y·⌊x/y⌋, as PyTorch's `remainder`. Its
    /// derivative by y is −⌊x/y⌋.
    rem = |b, x, y| b.binary(Binary::Rem, x, y);
    /// The angle of the point (rhs, x), between −π and π.
    atan2 = |b, x, y| b.binary(Binary::Atan2, x, y);
    /// √(x² + y²) without overflow; its derivative at the origin is 0.
    hypot = |b, x, y| b.binary(Binary::Hypot, x, y);
    /// x · ln y, and 0 where x = 0; its derivative in x is ln y there too, and 0 where y ≤ 0 as in
    /// PyTorch's `xlogy`.
    xlogy = |b, x, y| {
        let (zero, one, top) = (b.constant(0.0), b.constant(1.0), b.constant(f64::INFINITY));
        // 0 times an infinity: the logarithm is taken of 1.
        let (low, high) = (b.binary(Binary::Le, y, zero), b.binary(Binary::Ge, y, top));
        let bounded = b.select(high, one, y);
        let bounded = b.select(low, one, bounded);
        let off = b.binary(Binary::Eq, x, zero);
        let safe = b.select(off, bounded, y);
        let ln = b.unary(Unary::Log, safe);
        b.binary(Binary::Mul, x, ln)
    };
    /// ln(eˣ + eʸ) without overflow.
    logaddexp = |b, x, y| {
        let above = b.binary(Binary::Gt, x, y);
        let (top, low) = (b.select(above, x, y), b.select(above, y, x));
        let down = b.binary(Binary::Sub, low, top);
        // x = y = ±∞ has no difference. A finite tie has one, with derivatives.
        let (zero, end) = (b.constant(0.0), b.constant(f64::INFINITY));
        let size = b.unary(Unary::Abs, top);
        let finite = b.binary(Binary::Lt, size, end);
        let bounded = b.select(finite, down, zero);
        let tied = b.binary(Binary::Eq, x, y);
        let gap = b.select(tied, bounded, down);
        let tail = b.unary(Unary::Softplus, gap);
        b.binary(Binary::Add, top, tail)
    };
}

/// factor · x + term.
///
/// # Errors
/// A type that is not a float.
#[track_caller]
pub fn affine(x: &TrackedTensor, factor: f64, term: f64) -> Result<TrackedTensor> {
    static AFFINE: LazyLock<Definition> = LazyLock::new(|| {
        let expr = ScalarExpr::build(1, 2, |b, x, p| {
            let product = b.binary(Binary::Mul, x[0], p[0]);
            b.binary(Binary::Add, product, p[1])
        });
        Definition::new("affine", expr)
    });
    pointwise_with(&AFFINE, &[factor, term], &[x])
}

/// x to the power of a real number, as candle's `powf`; see [`pow`](crate::arithmetic::pow).
///
/// # Errors
/// A type that is not a float.
#[track_caller]
pub fn powf(x: &TrackedTensor, exponent: f64) -> Result<TrackedTensor> {
    crate::arithmetic::pow(x, exponent)
}

/// start + weight · (end − start), as PyTorch's `lerp`.
///
/// # Errors
/// Shapes that do not broadcast; types or devices that differ.
#[track_caller]
pub fn lerp(
    start: &TrackedTensor,
    end: impl Into<TrackedTensor>,
    weight: impl Into<Operand>,
) -> Result<TrackedTensor> {
    fn expression(b: &mut Builder, start: Reg, end: Reg, weight: Reg) -> Reg {
        let way = b.binary(Binary::Sub, end, start);
        let step = b.binary(Binary::Mul, weight, way);
        b.binary(Binary::Add, start, step)
    }
    static VALUE: LazyLock<Definition> = LazyLock::new(|| {
        Definition::new("lerp", ScalarExpr::build(3, 0, |b, x, _| expression(b, x[0], x[1], x[2])))
    });
    static NUMBER: LazyLock<Definition> = LazyLock::new(|| {
        Definition::new("lerp", ScalarExpr::build(2, 1, |b, x, p| expression(b, x[0], x[1], p[0])))
    });
    let (end, weight) = (end.into(), weight.into());
    match (weight.number(), weight) {
        (None, Operand::Value(weight)) => pointwise(&VALUE, &[start, &end, &weight]),
        (number, _) => pointwise_with(&NUMBER, &[number.unwrap_or_default()], &[start, &end]),
    }
}

/// Cases of a function of one value: sizes from nothing to more than a vector register.
pub(crate) fn unary_cases(
    low: f64,
    high: f64,
    run: impl Fn(&TrackedTensor) -> Result<TrackedTensor> + Copy + Send + Sync + 'static,
) -> Vec<Case> {
    let case =
        |label, dims: &[usize]| Case::new(label, vec![Sample::between(dims, low, high)], move |x| run(&x[0]));
    vec![
        case("two dimensions", &[2, 3]),
        case("more than a register", &[19]),
        case("size 1", &[1, 1]),
        case("rank 0", &[]),
        case("empty", &[0, 3]),
    ]
}

/// Cases of a function of two values of the same kind, with broadcasting.
pub(crate) fn binary_cases(
    x: (f64, f64),
    y: (f64, f64),
    run: impl Fn(&TrackedTensor, &TrackedTensor) -> Result<TrackedTensor> + Copy + Send + Sync + 'static,
) -> Vec<Case> {
    let case = |label, a: &[usize], b: &[usize]| {
        let inputs = vec![Sample::between(a, x.0, x.1), Sample::between(b, y.0, y.1)];
        Case::new(label, inputs, move |x| run(&x[0], &x[1]))
    };
    vec![
        case("same shape", &[2, 3], &[2, 3]),
        case("both broadcast", &[3, 1], &[1, 4]),
        case("rank 0", &[], &[2]),
        case("empty", &[0, 3], &[3]),
    ]
}

/// Given numbers at a kink or pole, not to be compared with finite differences.
pub(crate) fn kink(
    label: &str,
    values: &[f64],
    run: impl Fn(&TrackedTensor) -> Result<TrackedTensor> + Send + Sync + 'static,
) -> Case {
    let sample = Sample::Exact { dims: vec![values.len()], values: values.to_vec() };
    Case::new(label, vec![sample], move |x| run(&x[0])).at_a_kink()
}

/// The ops of this file.
pub fn ops() -> Vec<Op> {
    let op = |name, formula, cases| Op { name, family: Family::Elementwise, formula, cases };
    macro_rules! smooth {
        ($($name:ident, $formula:literal, $low:literal..$high:literal;)*) => {
            vec![$(op(stringify!($name), $formula, || unary_cases($low, $high, $name)),)*]
        };
    }
    macro_rules! flat {
        ($($name:ident, $formula:literal;)*) => {
            vec![$(op(stringify!($name), $formula, || {
                unary_cases(-2.5, 2.5, $name)
            }),)*]
        };
    }
    let mut ops = smooth! {
        recip, "1/x", 0.5..2.0;
        sqr, "x²", -1.5..1.5;
        sqrt, "√x", 0.3..3.0;
        rsqrt, "1/√x", 0.3..3.0;
        exp, "eˣ", -1.5..1.5;
        expm1, "eˣ − 1", -1.5..1.5;
        log, "ln x", 0.3..3.0;
        log1p, "ln(1 + x)", -0.6..2.0;
        log2, "log₂ x", 0.3..3.0;
        log10, "log₁₀ x", 0.3..3.0;
        sin, "sin x", -3.0..3.0;
        cos, "cos x", -3.0..3.0;
        tan, "tan x", -1.0..1.0;
        asin, "arcsin x", -0.8..0.8;
        acos, "arccos x", -0.8..0.8;
        atan, "arctan x", -2.0..2.0;
        sinh, "sinh x", -1.5..1.5;
        cosh, "cosh x", -1.5..1.5;
        tanh, "tanh x", -1.5..1.5;
        asinh, "arsinh x", -2.0..2.0;
        acosh, "arcosh x", 1.3..3.0;
        atanh, "artanh x", -0.8..0.8;
        erf, "2/√π · ∫₀ˣ e^−t² dt", -1.5..1.5;
        lgamma, "ln |Γ(x)|", 0.5..4.0;
        digamma, "ψ(x) = (ln Γ)'(x)", 0.5..4.0;
    };
    ops.extend(flat! {
        sign, "−1, 0 or 1; flat";
        floor, "⌊x⌋; flat";
        ceil, "⌈x⌉; flat";
        round, "the nearest whole number, halves to even; flat";
        trunc, "x without its fraction; flat";
    });
    ops.extend([
        op("abs", "|x|; derivative 0 at 0", || {
            let mut cases = unary_cases(0.2, 1.5, abs);
            cases.push(Case::new("negative", vec![Sample::between(&[4], -1.5, -0.2)], |x| abs(&x[0])));
            cases.push(kink("zero", &[0.0, -0.0, 1.0], abs));
            cases
        }),
        op("rem", "x − y·⌊x/y⌋; derivative −⌊x/y⌋ by y", || {
            let mut cases = binary_cases((2.1, 2.9), (0.7, 1.0), |x, y| rem(x, y));
            cases.push(Case::new("number", vec![Sample::between(&[4], 2.1, 2.9)], |x| rem(&x[0], 2)));
            cases
        }),
        op("atan2", "the angle of the point (y, x)", || {
            binary_cases((0.5, 2.0), (-2.0, 2.0), |x, y| atan2(x, y))
        }),
        op("hypot", "√(x² + y²); derivative 0 at the origin", || {
            let mut cases = binary_cases((0.5, 2.0), (-2.0, 2.0), |x, y| hypot(x, y));
            cases.push(kink("origin", &[0.0], |x| hypot(x, 0)));
            cases
        }),
        op("xlogy", "x · ln y; 0 where x = 0", || binary_cases((0.5, 2.0), (0.5, 2.0), |x, y| xlogy(x, y))),
        op("logaddexp", "ln(eˣ + eʸ)", || binary_cases((-1.0, 0.0), (0.2, 2.0), |x, y| logaddexp(x, y))),
        op("affine", "factor · x + term", || unary_cases(-1.5, 1.5, |x| affine(x, -1.5, 0.25))),
        op("powf", "x to the power of a real number", || unary_cases(0.5, 2.0, |x| powf(x, 2.5))),
        op("lerp", "start + weight · (end − start)", || {
            let floats = |shapes: &[&[usize]]| shapes.iter().map(|s| Sample::float(s)).collect::<Vec<_>>();
            vec![
                Case::new("a value as weight", floats(&[&[2, 3], &[2, 3], &[3]]), |x| {
                    lerp(&x[0], &x[1], &x[2])
                }),
                Case::new("a number as weight", floats(&[&[4], &[4]]), |x| lerp(&x[0], &x[1], 0.3)),
            ]
        }),
    ]);
    ops
}

/// The methods of this file.
#[macro_export]
#[doc(hidden)]
macro_rules! elementwise_methods {
    ($($callback:tt)*) => {
        $($callback)* {
            unary {
                /// |x|; its derivative at 0 is 0.
                abs = $crate::elementwise::abs;
                /// −1, 0 or 1; flat.
                sign = $crate::elementwise::sign;
                /// 1/x.
                recip = $crate::elementwise::recip;
                /// 1/x, under PyTorch's name.
                reciprocal = $crate::elementwise::recip;
                /// x².
                sqr = $crate::elementwise::sqr;
                /// x², under PyTorch's name.
                square = $crate::elementwise::sqr;
                /// √x.
                sqrt = $crate::elementwise::sqrt;
                /// 1/√x.
                rsqrt = $crate::elementwise::rsqrt;
                /// eˣ.
                exp = $crate::elementwise::exp;
                /// eˣ − 1, exact near 0.
                expm1 = $crate::elementwise::expm1;
                /// ln x.
                log = $crate::elementwise::log;
                /// ln(1 + x), exact near 0.
                log1p = $crate::elementwise::log1p;
                /// log₂ x.
                log2 = $crate::elementwise::log2;
                /// log₁₀ x.
                log10 = $crate::elementwise::log10;
                /// sin x.
                sin = $crate::elementwise::sin;
                /// cos x.
                cos = $crate::elementwise::cos;
                /// tan x.
                tan = $crate::elementwise::tan;
                /// arcsin x.
                asin = $crate::elementwise::asin;
                /// arccos x.
                acos = $crate::elementwise::acos;
                /// arctan x.
                atan = $crate::elementwise::atan;
                /// sinh x.
                sinh = $crate::elementwise::sinh;
                /// cosh x.
                cosh = $crate::elementwise::cosh;
                /// tanh x.
                tanh = $crate::elementwise::tanh;
                /// arsinh x.
                asinh = $crate::elementwise::asinh;
                /// arcosh x.
                acosh = $crate::elementwise::acosh;
                /// artanh x.
                atanh = $crate::elementwise::atanh;
                /// The error function.
                erf = $crate::elementwise::erf;
                /// ln |Γ(x)|.
                lgamma = $crate::elementwise::lgamma;
                /// ψ(x), the derivative of ln Γ.
                digamma = $crate::elementwise::digamma;
                /// ⌊x⌋; flat.
                floor = $crate::elementwise::floor;
                /// ⌈x⌉; flat.
                ceil = $crate::elementwise::ceil;
                /// The nearest whole number, halves to even; flat.
                round = $crate::elementwise::round;
                /// x without its fraction; flat.
                trunc = $crate::elementwise::trunc;
            }
            binary {
                /// The remainder with the divisor's sign.
                rem = $crate::elementwise::rem;
                /// The angle of the point (rhs, self).
                atan2 = $crate::elementwise::atan2;
                /// √(x² + y²); its derivative at the origin is 0.
                hypot = $crate::elementwise::hypot;
                /// x · ln y, and 0 where x = 0.
                xlogy = $crate::elementwise::xlogy;
                /// ln(eˣ + eʸ) without overflow.
                logaddexp = $crate::elementwise::logaddexp;
            }
            other {
                /// factor · x + term.
                affine(factor: f64, term: f64) -> autograd_core::TrackedTensor = $crate::elementwise::affine;
                /// x to the power of a real number.
                powf(exponent: f64) -> autograd_core::TrackedTensor = $crate::elementwise::powf;
                /// self + weight · (end − self).
                lerp(end: impl Into<autograd_core::TrackedTensor>, weight: impl Into<$crate::Operand>) -> autograd_core::TrackedTensor = $crate::elementwise::lerp;
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pull::{close, kept_bytes, pull, slopes, vector};
    use autograd_core::Error;
    use autograd_tape::GradientTape;

    #[test]
    fn abs_has_slope_zero_at_zero() -> Result<()> {
        assert_eq!(slopes(&[-2.0, -0.0, 0.0, 3.0], abs)?, [-1.0, 0.0, 0.0, 1.0]);
        Ok(())
    }

    #[test]
    fn hypot_has_slope_zero_at_the_origin() -> Result<()> {
        let grads = pull(&[&vector(&[0.0, 3.0]), &vector(&[0.0, 4.0])], |x| hypot(&x[0], &x[1]))?;
        assert_eq!(grads, [[0.0, 0.6], [0.0, 0.8]]);
        Ok(())
    }

    #[test]
    fn xlogy_is_zero_where_its_factor_is() -> Result<()> {
        let y = xlogy(&vector(&[0.0, 2.0]), vector(&[0.0, 1.0]))?;
        assert_eq!(y.to_vec1::<f64>()?, [0.0, 0.0]);
        let grads = pull(&[&vector(&[0.0, 2.0]), &vector(&[0.0, 1.0])], |x| xlogy(&x[0], &x[1]))?;
        assert_eq!(grads, [[0.0, 0.0], [0.0, 2.0]]);
        // The value is 0, the derivative is not.
        let grads = pull(&[&vector(&[0.0]), &vector(&[3.0])], |x| xlogy(&x[0], &x[1]))?;
        close(&grads[0], &[3f64.ln()]);
        assert_eq!(grads[1], [0.0]);
        let infinite = xlogy(&vector(&[0.0]), vector(&[f64::INFINITY]))?;
        assert_eq!(infinite.to_vec1::<f64>()?, [0.0]);
        Ok(())
    }

    #[test]
    fn logaddexp_of_infinities() -> Result<()> {
        let low = f64::NEG_INFINITY;
        let y = logaddexp(&vector(&[low, low, 1000.0]), vector(&[low, 1.0, 1000.0]))?;
        assert_eq!(y.to_vec1::<f64>()?, [low, 1.0, 1000.0 + 2f64.ln()]);
        Ok(())
    }

    /// At a tie both have half of the cotangent, and the second derivative is ¼.
    #[test]
    fn logaddexp_is_smooth_at_a_tie() -> Result<()> {
        let tape = GradientTape::new().persistent();
        let x = tape.variable(TrackedTensor::scalar(3.0));
        let first = tape.derivative(&logaddexp(&x, TrackedTensor::scalar(3.0))?, &x)?;
        assert_eq!(first.to_scalar::<f64>()?, 0.5);
        assert_eq!(tape.derivative(&first, &x)?.to_scalar::<f64>()?, 0.25);
        Ok(())
    }

    #[test]
    fn sixth_derivative_of_the_reciprocal() -> Result<()> {
        let tape = GradientTape::new().persistent();
        let x = tape.variable(TrackedTensor::scalar(4.0));
        let mut y = recip(&x)?;
        for _ in 0..6 {
            y = tape.derivative(&y, &x)?;
        }
        close(&[y.to_scalar()?], &[0.043_945_312_5]);
        Ok(())
    }

    #[test]
    fn rounding_is_to_even_and_flat() -> Result<()> {
        let x = vector(&[-2.5, -0.5, 0.5, 1.5, 2.6]);
        assert_eq!(round(&x)?.to_vec1::<f64>()?, [-2.0, -0.0, 0.0, 2.0, 3.0]);
        assert_eq!(trunc(&x)?.to_vec1::<f64>()?, [-2.0, 0.0, 0.0, 1.0, 2.0]);
        let tape = GradientTape::new();
        assert!(!round(&tape.variable(&x))?.is_tracked());
        Ok(())
    }

    #[test]
    fn remainder_has_the_divisors_sign() -> Result<()> {
        assert_eq!(rem(&vector(&[-5.0, 5.0]), vector(&[3.0, -3.0]))?.to_vec1::<f64>()?, [1.0, -1.0]);
        let grads = pull(&[&vector(&[-5.0]), &vector(&[3.0])], |x| rem(&x[0], &x[1]))?;
        assert_eq!(grads, [[1.0], [2.0]]);
        Ok(())
    }

    #[test]
    fn integers_are_refused_by_name() -> Result<()> {
        let x = TrackedTensor::from_vec(vec![1u32], &[1])?;
        let error = exp(&x).expect_err("u32 has no exponential");
        assert!(matches!(error, Error::UnsupportedDType { op: "exp", .. }), "{error}");
        assert!(error.site().is_some_and(|site| site.file().ends_with("elementwise.rs")), "{error}");
        Ok(())
    }

    #[test]
    fn one_tensor_is_kept_at_most() -> Result<()> {
        type Function = fn(&TrackedTensor) -> Result<TrackedTensor>;
        let x = vector(&[0.5, 0.25]);
        let unary: &[(Function, usize)] = &[
            (exp, 16),
            (log, 16),
            (sin, 16),
            (tanh, 16),
            (sqrt, 16),
            (rsqrt, 16),
            (recip, 16),
            (sqr, 16),
            (abs, 16),
            (erf, 16),
            (|x| affine(x, 2.0, 1.0), 0),
            (|x| crate::arithmetic::add(x, 2.0), 0),
        ];
        for (i, (f, bytes)) in unary.iter().enumerate() {
            assert_eq!(kept_bytes(&x, f)?, *bytes, "function {i}");
        }
        Ok(())
    }
}
