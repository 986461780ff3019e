//! Activations: functions of each element with a choice at each kink, and the gated ones.

use crate::elementwise::{binary_cases, kink, unary_cases};
use crate::numbers::Dim;
use crate::operand::Operand;
use crate::registry::{Case, Family, Op, Sample};
use autograd_core::kernels::expr::{Binary, Builder, Reg, Unary};
use autograd_core::{
    Definition, Error, Result, ScalarExpr, Site, TrackedTensor, algebra, pointwise, pointwise_with,
    resolve_dim,
};
use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI, SQRT_2};
use std::sync::LazyLock;

/// α of [`selu`], from Klambauer and others, 2017.
const SELU_ALPHA: f64 = 1.673_263_242_354_377_2;
/// λ of [`selu`].
const SELU_SCALE: f64 = 1.050_700_987_355_480_5;

/// x where x > 0, else α · (eˣ − 1).
fn elu_expression(b: &mut Builder, x: Reg, alpha: Reg) -> Reg {
    let zero = b.constant(0.0);
    let positive = b.binary(Binary::Gt, x, zero);
    // The exponential of the part that is not taken must not overflow.
    let negative = b.select(positive, zero, x);
    let tail = b.unary(Unary::Expm1, negative);
    let tail = b.binary(Binary::Mul, alpha, tail);
    b.select(positive, x, tail)
}

/// low where x ≤ low, high where x ≥ high, else x: the gradient is 0 at both bounds.
fn hardtanh_expression(b: &mut Builder, x: Reg, low: Reg, high: Reg) -> Reg {
    let (below, above) = (b.binary(Binary::Le, x, low), b.binary(Binary::Ge, x, high));
    let capped = b.select(above, high, x);
    b.select(below, low, capped)
}

/// 0 where x ≤ −3, 1 where x ≥ 3, else x/6 + 1/2.
fn hardsigmoid_expression(b: &mut Builder, x: Reg) -> Reg {
    let (sixth, half) = (b.constant(1.0 / 6.0), b.constant(0.5));
    let (low, high, zero, one) = (b.constant(-3.0), b.constant(3.0), b.constant(0.0), b.constant(1.0));
    let (below, above) = (b.binary(Binary::Le, x, low), b.binary(Binary::Ge, x, high));
    let slope = b.binary(Binary::Mul, x, sixth);
    let line = b.binary(Binary::Add, slope, half);
    let capped = b.select(above, one, line);
    b.select(below, zero, capped)
}

crate::elementwise::unary! {
    /// 1/(1 + e⁻ˣ), without overflow.
    sigmoid = new, |b, x| b.unary(Unary::Sigmoid, x);
    /// max(x, 0); its derivative at 0 is 0, as PyTorch's.
    relu = new, |b, x| b.unary(Unary::Relu, x);
    /// min(max(x, 0), 6); its derivative is 0 at 0 and at 6, as PyTorch's.
    relu6 = new, |b, x| {
        let (low, high) = (b.constant(0.0), b.constant(6.0));
        hardtanh_expression(b, x, low, high)
    };
    /// λ · (x where x > 0, else α · (eˣ − 1)) with the constants that keep mean and variance.
    selu = new, |b, x| {
        let (alpha, scale) = (b.constant(SELU_ALPHA), b.constant(SELU_SCALE));
        let y = elu_expression(b, x, alpha);
        b.binary(Binary::Mul, scale, y)
    };
    /// x · sigmoid(x).
    silu = new, |b, x| {
        let s = b.unary(Unary::Sigmoid, x);
        b.binary(Binary::Mul, x, s)
    };
    /// ln(sigmoid(x)) = −ln(1 + e⁻ˣ), without overflow.
    log_sigmoid = new, |b, x| {
        let back = b.unary(Unary::Neg, x);
        let y = b.unary(Unary::Softplus, back);
        b.unary(Unary::Neg, y)
    };
    /// 0 below −3, 1 above 3, x/6 + 1/2 between; its derivative is 0 at both ends, as PyTorch's.
    hardsigmoid = new, |b, x| hardsigmoid_expression(b, x);
    /// x · hardsigmoid(x); its derivative is 0 at −3 and 1 at 3, as PyTorch's.
    hardswish = new, |b, x| {
        let gate = hardsigmoid_expression(b, x);
        b.binary(Binary::Mul, x, gate)
    };
    /// ln(1 + eˣ), without overflow and without PyTorch's threshold.
    softplus = new, |b, x| b.unary(Unary::Softplus, x);
    /// x/2 · (1 + tanh(√(2/π) · (x + 0.044715 x³))), PyTorch's `approximate="tanh"` and candle's
    /// `gelu`; computed as x · sigmoid of twice the argument, which is the same.
    gelu = new, |b, x| {
        let (cubic, linear) = (b.constant(0.044_715), b.constant(FRAC_2_SQRT_PI * SQRT_2));
        let x2 = b.binary(Binary::Mul, x, x);
        let x3 = b.binary(Binary::Mul, x2, x);
        let x3 = b.binary(Binary::Mul, cubic, x3);
        let sum = b.binary(Binary::Add, x, x3);
        let argument = b.binary(Binary::Mul, linear, sum);
        let gate = b.unary(Unary::Sigmoid, argument);
        b.binary(Binary::Mul, x, gate)
    };
    /// x/2 · (1 + erf(x/√2)), PyTorch's `gelu`.
    gelu_erf = new, |b, x| {
        let (half, one, root) = (b.constant(0.5), b.constant(1.0), b.constant(FRAC_1_SQRT_2));
        let argument = b.binary(Binary::Mul, x, root);
        let e = b.unary(Unary::Erf, argument);
        let e = b.binary(Binary::Add, one, e);
        let gate = b.binary(Binary::Mul, half, e);
        b.binary(Binary::Mul, x, gate)
    };
    /// x · tanh(ln(1 + eˣ)), where the hyperbolic tangent is the quotient of two polynomials in
    /// t = e^−|x|, of which none overflows at any order.
    mish = new, |b, x| {
        let (zero, one, two) = (b.constant(0.0), b.constant(1.0), b.constant(2.0));
        let positive = b.binary(Binary::Gt, x, zero);
        let back = b.unary(Unary::Neg, x);
        let shrinking = b.select(positive, back, x);
        let t = b.unary(Unary::Exp, shrinking);
        let twice = b.binary(Binary::Mul, two, t);
        let square = b.binary(Binary::Mul, t, t);
        // (1 + 2t)/(1 + 2t + 2t²) right of 0, (t² + 2t)/(t² + 2t + 2) left of it.
        let own = b.select(positive, one, square);
        let above = b.binary(Binary::Add, own, twice);
        let square = b.binary(Binary::Mul, two, square);
        let rest = b.select(positive, square, two);
        let below = b.binary(Binary::Add, above, rest);
        let below = b.unary(Unary::Recip, below);
        let gate = b.binary(Binary::Mul, above, below);
        b.binary(Binary::Mul, x, gate)
    };
    /// x/(1 + |x|).
    softsign = new, |b, x| {
        let (one, size) = (b.constant(1.0), b.unary(Unary::Abs, x));
        let d = b.binary(Binary::Add, one, size);
        // A quotient's rule would read x and the result; this one reads x alone.
        let gate = b.unary(Unary::Recip, d);
        b.binary(Binary::Mul, x, gate)
    };
}

crate::elementwise::binary! {
    /// x where x > 0, else slope · x; the derivative at 0 is the slope, as PyTorch's.
    leaky_relu = |b, x, slope| {
        let zero = b.constant(0.0);
        let positive = b.binary(Binary::Gt, x, zero);
        let tail = b.binary(Binary::Mul, slope, x);
        b.select(positive, x, tail)
    };
    /// x where x > 0, else α · (eˣ − 1); the derivative at 0 is α, as PyTorch's.
    elu = |b, x, alpha| elu_expression(b, x, alpha);
}

/// x between two bounds; the derivative is 0 at both, as PyTorch's `hardtanh` (whereas `clamp`
/// passes it).
///
/// # Errors
/// A type that is not a float.
#[track_caller]
pub fn hardtanh(x: &TrackedTensor, low: f64, high: f64) -> Result<TrackedTensor> {
    static HARDTANH: LazyLock<Definition> = LazyLock::new(|| {
        Definition::new(
            "hardtanh",
            ScalarExpr::build(1, 2, |b, x, p| hardtanh_expression(b, x[0], p[0], p[1])),
        )
    });
    pointwise_with(&HARDTANH, &[low, high], &[x])
}

/// x where x > 0, else weight · x, with one weight or one for each channel (dimension 1 of x), as
/// PyTorch's `prelu`; the derivative at 0 is the weight.
///
/// # Errors
/// A weight that is neither one number nor one for each channel.
#[track_caller]
pub fn prelu(x: &TrackedTensor, weight: impl Into<TrackedTensor>) -> Result<TrackedTensor> {
    let weight = weight.into();
    if weight.elem_count() == 1 || x.rank() < 2 {
        return leaky_relu(x, weight);
    }
    let mut shape = autograd_core::Shape::new(&[1; autograd_core::MAX_RANK][..x.rank() - 1]);
    if weight.rank() != 1 || weight.dims()[0] != x.dims()[1] {
        let shapes = [*x.shape(), *weight.shape()];
        return Err(
            Error::shape("prelu", &shapes, "one weight for each channel is needed").or_at(Site::caller())
        );
    }
    shape.dims_mut()[0] = weight.dims()[0];
    leaky_relu(x, algebra::reshape(&weight, &shape)?)
}

/// Both halves of x along a dimension.
#[track_caller]
fn halves(op: &'static str, x: &TrackedTensor, dim: impl Dim) -> Result<(TrackedTensor, TrackedTensor)> {
    if let Some(error) = x.failure() {
        return Err(error.clone());
    }
    let dim = dim.number();
    let found = resolve_dim(dim, x.rank()).filter(|&d| x.dims()[d].is_multiple_of(2));
    let Some(dim) = found else {
        let reason = format!("dimension {dim} of shape {} has no two halves", x.shape());
        return Err(Error::argument(op, reason).or_at(Site::caller()));
    };
    let half = x.dims()[dim] / 2;
    Ok((algebra::narrow(x, dim, 0, half)?, algebra::narrow(x, dim, half, half)?))
}

/// a · sigmoid(b) of the halves a, b of x along a dimension.
///
/// # Errors
/// A dimension that does not exist or is odd.
#[track_caller]
pub fn glu(x: &TrackedTensor, dim: impl Dim) -> Result<TrackedTensor> {
    static GLU: LazyLock<Definition> = LazyLock::new(|| {
        let expr = ScalarExpr::build(2, 0, |b, x, _| {
            let gate = b.unary(Unary::Sigmoid, x[1]);
            b.binary(Binary::Mul, x[0], gate)
        });
        Definition::new("glu", expr)
    });
    let (a, b) = halves("glu", x, dim)?;
    pointwise(&GLU, &[&a, &b])
}

/// silu(a) · b of the halves a, b of the last dimension of x, candle's `swiglu`.
///
/// # Errors
/// A value without dimensions or with an odd last one.
#[track_caller]
pub fn swiglu(x: &TrackedTensor) -> Result<TrackedTensor> {
    static SWIGLU: LazyLock<Definition> = LazyLock::new(|| {
        let expr = ScalarExpr::build(2, 0, |b, x, _| {
            let s = b.unary(Unary::Sigmoid, x[0]);
            let gate = b.binary(Binary::Mul, x[0], s);
            b.binary(Binary::Mul, gate, x[1])
        });
        Definition::new("swiglu", expr)
    });
    let (a, b) = halves("swiglu", x, -1)?;
    pointwise(&SWIGLU, &[&a, &b])
}

/// Cases on both sides of a kink, and at it.
fn around(
    (below, above): ((f64, f64), (f64, f64)),
    at: &[f64],
    run: impl Fn(&TrackedTensor) -> Result<TrackedTensor> + Copy + Send + Sync + 'static,
) -> Vec<Case> {
    let mut cases = unary_cases(above.0, above.1, run);
    cases.push(Case::new("below", vec![Sample::between(&[2, 3], below.0, below.1)], move |x| run(&x[0])));
    cases.push(kink("at the kink", at, run));
    cases
}

/// The ops of this file.
pub fn ops() -> Vec<Op> {
    let op = |name, formula, cases| Op { name, family: Family::Activation, formula, cases };
    const BOTH: ((f64, f64), (f64, f64)) = ((-2.0, -0.1), (0.1, 2.0));
    vec![
        op("sigmoid", "1/(1 + e⁻ˣ)", || unary_cases(-2.0, 2.0, sigmoid)),
        op("relu", "max(x, 0); derivative 0 at 0", || around(BOTH, &[0.0], relu)),
        op("relu6", "min(max(x, 0), 6); derivative 0 at 0 and 6", || around(BOTH, &[0.0, 6.0, 7.0], relu6)),
        op("leaky_relu", "x where x > 0, else slope · x", || around(BOTH, &[0.0], |x| leaky_relu(x, 0.1))),
        op("elu", "x where x > 0, else α(eˣ − 1)", || around(BOTH, &[0.0], |x| elu(x, 1.5))),
        op("selu", "λ · elu(x, α)", || around(BOTH, &[0.0], selu)),
        op("silu", "x · sigmoid(x)", || unary_cases(-2.0, 2.0, silu)),
        op("log_sigmoid", "−ln(1 + e⁻ˣ)", || unary_cases(-2.0, 2.0, log_sigmoid)),
        op("hardsigmoid", "0, x/6 + 1/2 or 1; derivative 0 at −3 and 3", || {
            around(((-4.0, -3.1), (-2.9, 2.9)), &[-3.0, 3.0, 4.0], hardsigmoid)
        }),
        op("hardswish", "x · hardsigmoid(x)", || {
            around(((-4.0, -3.1), (-2.9, 2.9)), &[-3.0, 3.0, 4.0], hardswish)
        }),
        op("hardtanh", "x between two bounds; derivative 0 at them", || {
            around(((-2.0, -1.1), (-0.9, 0.9)), &[-1.0, 1.0, 2.0], |x| hardtanh(x, -1.0, 1.0))
        }),
        op("softplus", "ln(1 + eˣ)", || unary_cases(-2.0, 2.0, softplus)),
        op("gelu", "x/2 · (1 + tanh(√(2/π)(x + 0.044715 x³)))", || unary_cases(-2.0, 2.0, gelu)),
        op("gelu_erf", "x/2 · (1 + erf(x/√2))", || unary_cases(-2.0, 2.0, gelu_erf)),
        op("mish", "x · tanh(ln(1 + eˣ))", || unary_cases(-2.0, 2.0, mish)),
        op("softsign", "x/(1 + |x|)", || around(BOTH, &[0.0], softsign)),
        op("prelu", "x where x > 0, else weight · x, a weight for each channel", || {
            let mut cases = binary_cases((-2.0, -0.1), (0.1, 0.5), |x, w| leaky_relu(x, w));
            let inputs = vec![Sample::between(&[2, 3, 2], -2.0, -0.1), Sample::float(&[3])];
            cases.push(Case::new("channels", inputs, |x| prelu(&x[0], &x[1])));
            cases
        }),
        op("glu", "a · sigmoid(b) of x's halves", || {
            vec![
                Case::new("the last dimension", vec![Sample::float(&[2, 6])], |x| glu(&x[0], -1)),
                Case::new("the first dimension", vec![Sample::float(&[4, 3])], |x| glu(&x[0], 0)),
                Case::new("empty", vec![Sample::float(&[2, 0])], |x| glu(&x[0], 1)),
            ]
        }),
        op("swiglu", "silu(a) · b of x's halves", || {
            vec![Case::new("two dimensions", vec![Sample::float(&[2, 6])], |x| swiglu(&x[0]))]
        }),
    ]
}

/// The methods of this file.
#[macro_export]
#[doc(hidden)]
macro_rules! activation_methods {
    ($($callback:tt)*) => {
        $($callback)* {
            unary {
                /// 1/(1 + e⁻ˣ).
                sigmoid = $crate::activation::sigmoid;
                /// max(x, 0); its derivative at 0 is 0.
                relu = $crate::activation::relu;
                /// min(max(x, 0), 6).
                relu6 = $crate::activation::relu6;
                /// λ · elu(x, α) with the constants that keep mean and variance.
                selu = $crate::activation::selu;
                /// x · sigmoid(x).
                silu = $crate::activation::silu;
                /// ln(sigmoid(x)).
                log_sigmoid = $crate::activation::log_sigmoid;
                /// 0 below −3, 1 above 3, x/6 + 1/2 between.
                hardsigmoid = $crate::activation::hardsigmoid;
                /// x · hardsigmoid(x).
                hardswish = $crate::activation::hardswish;
                /// ln(1 + eˣ).
                softplus = $crate::activation::softplus;
                /// x/2 · (1 + tanh(√(2/π)(x + 0.044715 x³))).
                gelu = $crate::activation::gelu;
                /// x/2 · (1 + erf(x/√2)).
                gelu_erf = $crate::activation::gelu_erf;
                /// x · tanh(ln(1 + eˣ)).
                mish = $crate::activation::mish;
                /// x/(1 + |x|).
                softsign = $crate::activation::softsign;
                /// silu(a) · b of the halves of the last dimension.
                swiglu = $crate::activation::swiglu;
            }
            binary {
                /// x where x > 0, else slope · x.
                leaky_relu = $crate::activation::leaky_relu;
                /// x where x > 0, else α · (eˣ − 1).
                elu = $crate::activation::elu;
            }
            other {
                /// x between two bounds; the derivative is 0 at both.
                hardtanh(low: f64, high: f64) -> autograd_core::TrackedTensor = $crate::activation::hardtanh;
                /// x where x > 0, else weight · x, one weight or one for each channel.
                prelu(weight: impl Into<autograd_core::TrackedTensor>) -> autograd_core::TrackedTensor = $crate::activation::prelu;
                /// a · sigmoid(b) of the halves along a dimension.
                glu(dim: impl $crate::Dim) -> autograd_core::TrackedTensor = $crate::activation::glu;
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pull::{close, kept_bytes, pull, slopes, vector};

    #[test]
    fn relu_has_slope_zero_at_zero() -> Result<()> {
        assert_eq!(slopes(&[-1.0, -0.0, 0.0, 2.0], relu)?, [0.0, 0.0, 0.0, 1.0]);
        Ok(())
    }

    #[test]
    fn hardtanh_and_relu6_have_slope_zero_at_their_bounds() -> Result<()> {
        assert_eq!(slopes(&[-1.0, 0.0, 1.0], |x| hardtanh(x, -1.0, 1.0))?, [0.0, 1.0, 0.0]);
        assert_eq!(slopes(&[0.0, 3.0, 6.0, 7.0], relu6)?, [0.0, 1.0, 0.0, 0.0]);
        Ok(())
    }

    #[test]
    fn leaky_relu_and_elu_have_the_lower_slope_at_zero() -> Result<()> {
        assert_eq!(slopes(&[-1.0, 0.0, 1.0], |x| leaky_relu(x, 0.25))?, [0.25, 0.25, 1.0]);
        assert_eq!(slopes(&[0.0, 1.0], |x| elu(x, 1.5))?, [1.5, 1.0]);
        Ok(())
    }

    #[test]
    fn hardswish_and_hardsigmoid_have_the_outer_slope_at_their_ends() -> Result<()> {
        assert_eq!(slopes(&[-4.0, -3.0, 3.0, 4.0], hardswish)?, [0.0, 0.0, 1.0, 1.0]);
        assert_eq!(slopes(&[-3.0, 3.0], hardsigmoid)?, [0.0, 0.0]);
        close(&slopes(&[0.0], hardsigmoid)?, &[1.0 / 6.0]);
        Ok(())
    }

    #[test]
    fn nothing_overflows_far_out() -> Result<()> {
        let far = [-1e4, 1e4];
        for f in [
            sigmoid,
            relu,
            relu6,
            selu,
            silu,
            log_sigmoid,
            hardswish,
            softplus,
            gelu,
            gelu_erf,
            mish,
            softsign,
        ] {
            let y = f(&vector(&far))?.to_vec1::<f64>()?;
            let dy = slopes(&far, f)?;
            assert!(y.iter().chain(&dy).all(|v| v.is_finite()), "{y:?} {dy:?}");
        }
        assert_eq!(slopes(&far, |x| elu(x, 1.0))?, [0.0, 1.0]);
        Ok(())
    }

    #[test]
    fn values_from_outside() -> Result<()> {
        let at_one = |f: fn(&TrackedTensor) -> Result<TrackedTensor>| f(&vector(&[1.0]))?.to_vec1::<f64>();
        // By Python's math module. candle's gelu has a truncated √(2/π) and is 2.5e-7 off.
        close(&at_one(gelu)?, &[0.841_191_990_608_276_7]);
        close(&at_one(gelu_erf)?, &[0.841_344_746_068_542_9]);
        close(&at_one(mish)?, &[0.865_098_388_267_310_3]);
        close(&at_one(silu)?, &[0.731_058_578_630_004_9]);
        close(&at_one(softplus)?, &[1.313_261_687_518_222_8]);
        let slope = slopes(&[0.8762], sigmoid)?[0];
        // burn's suite has six digits, cut off.
        assert!((slope - 0.207_549).abs() < 1e-6, "{slope}");
        Ok(())
    }

    #[test]
    fn a_weight_for_each_channel() -> Result<()> {
        let x = TrackedTensor::from_vec(vec![-1.0, -2.0, -3.0, 4.0], &[1, 2, 2])?;
        let grads = pull(&[&x, &vector(&[0.5, 0.25])], |x| prelu(&x[0], &x[1]))?;
        assert_eq!(grads, [vec![0.5, 0.5, 0.25, 1.0], vec![-3.0, -3.0]]);
        assert!(prelu(&x, vector(&[1.0, 2.0, 3.0])).is_err());
        Ok(())
    }

    #[test]
    fn halves_of_an_odd_dimension_are_refused() {
        let error = glu(&vector(&[1.0, 2.0, 3.0]), 0).expect_err("3 is odd");
        assert!(error.to_string().starts_with("glu: dimension 0 of shape"), "{error}");
        assert!(swiglu(&TrackedTensor::scalar(1.0)).is_err());
    }

    #[test]
    fn one_tensor_is_kept() -> Result<()> {
        for f in [
            sigmoid,
            relu,
            relu6,
            selu,
            silu,
            log_sigmoid,
            hardswish,
            softplus,
            gelu,
            gelu_erf,
            mish,
            softsign,
        ] {
            assert_eq!(kept_bytes(&vector(&[0.5, 0.25]), f)?, 16);
        }
        Ok(())
    }
}
