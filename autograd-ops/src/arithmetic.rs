//! Arithmetic of two values, or of a value and a number.

use crate::operand::Operand;
use crate::registry::{Case, Family, Op, Sample};
use autograd_core::kernels::expr::Binary;
use autograd_core::{Definition, Result, ScalarExpr, TrackedTensor, algebra, pointwise, pointwise_with};
use std::sync::LazyLock;

macro_rules! binary {
    ($(#[$doc:meta])* $vis:vis $name:ident, $label:literal, $op:ident, $tensor:ident, $scalar:ident) => {
        static $tensor: LazyLock<Definition> = LazyLock::new(|| {
            Definition::new($label, ScalarExpr::build(2, 0, |b, x, _| b.binary(Binary::$op, x[0], x[1])))
        });
        static $scalar: LazyLock<Definition> = LazyLock::new(|| {
            Definition::new($label, ScalarExpr::build(1, 1, |b, x, p| b.binary(Binary::$op, x[0], p[0])))
        });

        $(#[$doc])*
        ///
        /// # Errors
        /// Shapes that do not broadcast; types or devices that differ.
        #[track_caller]
        $vis fn $name(x: &TrackedTensor, rhs: impl Into<Operand>) -> Result<TrackedTensor> {
            match rhs.into() {
                Operand::Value(y) => pointwise(&$tensor, &[x, &y]),
                Operand::Real(c) => pointwise_with(&$scalar, &[c], &[x]),
                Operand::Integer(c) => pointwise_with(&$scalar, &[c as f64], &[x]),
            }
        }
    };
}

binary!(
    /// x + y.
    pub add, "add", Add, ADD, ADD_SCALAR
);
binary!(
    /// x − y.
    pub sub, "sub", Sub, SUB, SUB_SCALAR
);
binary!(
    /// x · y.
    pub mul, "mul", Mul, MUL, MUL_SCALAR
);
binary!(
    /// x / y.
    quotient, "div", Div, DIV, DIV_SCALAR
);
static DIV_OF_SMALL: LazyLock<Definition> = LazyLock::new(|| Definition::new("div", DIV.expr.from_inputs()));

/// x / y.
///
/// # Errors
/// Shapes that do not broadcast; types or devices that differ.
#[track_caller]
pub fn div(x: &TrackedTensor, rhs: impl Into<Operand>) -> Result<TrackedTensor> {
    let rhs = rhs.into();
    // The reverse rule reads x/y and y; where x is smaller than x/y it reads x instead.
    if let Operand::Value(y) = &rhs
        && x.shape().broadcast(y.shape()).is_some_and(|whole| whole != *x.shape())
    {
        return pointwise(&DIV_OF_SMALL, &[x, y]);
    }
    quotient(x, rhs)
}

static POW: LazyLock<Definition> = LazyLock::new(|| {
    Definition::new("pow", ScalarExpr::build(2, 0, |b, x, _| b.binary(Binary::Pow, x[0], x[1])))
});
static POW_REAL: LazyLock<Definition> = LazyLock::new(|| {
    Definition::new("pow", ScalarExpr::build(1, 1, |b, x, p| b.binary(Binary::Pow, x[0], p[0])))
});
static POW_INTEGER: LazyLock<Definition> = LazyLock::new(|| {
    Definition::new("pow", ScalarExpr::build(1, 1, |b, x, p| b.binary(Binary::Powi, x[0], p[0])))
});

/// xʸ. A whole number as exponent is exact for negative bases. 0⁰ = 1, with gradient 0.
///
/// # Errors
/// Shapes that do not broadcast; types or devices that differ.
#[track_caller]
pub fn pow(x: &TrackedTensor, exponent: impl Into<Operand>) -> Result<TrackedTensor> {
    match exponent.into() {
        Operand::Value(y) => pointwise(&POW, &[x, &y]),
        Operand::Real(c) => pointwise_with(&POW_REAL, &[c], &[x]),
        Operand::Integer(n) => pointwise_with(&POW_INTEGER, &[n as f64], &[x]),
    }
}

/// −x.
///
/// # Errors
/// A type without arithmetic.
#[track_caller]
pub fn neg(x: &TrackedTensor) -> Result<TrackedTensor> {
    algebra::neg(x)
}

fn shapes(
    low: f64,
    high: f64,
    run: impl Fn(&TrackedTensor, &TrackedTensor) -> Result<TrackedTensor> + Copy + Send + Sync + 'static,
) -> Vec<Case> {
    let case = |label, a: &[usize], b: &[usize]| {
        let inputs = vec![Sample::between(a, low, high), Sample::between(b, low, high)];
        Case::new(label, inputs, move |x| run(&x[0], &x[1]))
    };
    vec![
        case("same shape", &[2, 3], &[2, 3]),
        case("a row broadcast", &[2, 3], &[3]),
        case("a column broadcast", &[2, 1], &[2, 3]),
        case("both broadcast", &[3, 1], &[1, 4]),
        case("rank 0", &[], &[2]),
        case("empty", &[0, 3], &[3]),
    ]
}

/// The ops of this file.
pub fn ops() -> Vec<Op> {
    let op = |name, formula, cases| Op { name, family: Family::Elementwise, formula, cases };
    vec![
        op("add", "x + y", || shapes(-2.0, 2.0, |x, y| add(x, y))),
        op("sub", "x − y", || shapes(-2.0, 2.0, |x, y| sub(x, y))),
        op("mul", "x · y", || shapes(-2.0, 2.0, |x, y| mul(x, y))),
        op("div", "x / y", || shapes(0.5, 2.0, |x, y| div(x, y))),
        op("pow", "xʸ; 0⁰ = 1 with gradient 0", || {
            let mut cases = shapes(0.5, 2.0, |x, y| pow(x, y));
            cases.push(Case::new("whole exponent", vec![Sample::float(&[5])], |x| pow(&x[0], 3)));
            cases.push(Case::new("exponent −2", vec![Sample::between(&[5], 0.5, 2.0)], |x| pow(&x[0], -2)));
            cases
                .push(Case::new("real exponent", vec![Sample::between(&[5], 0.5, 2.0)], |x| pow(&x[0], 1.7)));
            cases
        }),
        op("neg", "−x", || vec![Case::new("one shape", vec![Sample::float(&[2, 3])], |x| neg(&x[0]))]),
    ]
}

/// The methods of this file.
#[macro_export]
#[doc(hidden)]
macro_rules! arithmetic_methods {
    ($($callback:tt)*) => {
        $($callback)* {
            unary {
                /// −x.
                neg = $crate::arithmetic::neg;
            }
            binary {
                /// x + y, with broadcasting.
                add = $crate::arithmetic::add;
                /// x − y, with broadcasting.
                sub = $crate::arithmetic::sub;
                /// x · y, with broadcasting.
                mul = $crate::arithmetic::mul;
                /// x / y, with broadcasting.
                div = $crate::arithmetic::div;
                /// xʸ. A whole number as exponent is exact for negative bases. 0⁰ = 1, with gradient 0.
                pow = $crate::arithmetic::pow;
                /// x + y, under candle's name for the broadcast form.
                broadcast_add = $crate::arithmetic::add;
                /// x − y, under candle's name for the broadcast form.
                broadcast_sub = $crate::arithmetic::sub;
                /// x · y, under candle's name for the broadcast form.
                broadcast_mul = $crate::arithmetic::mul;
                /// x / y, under candle's name for the broadcast form.
                broadcast_div = $crate::arithmetic::div;
                /// xʸ, under candle's name for the broadcast form.
                broadcast_pow = $crate::arithmetic::pow;
            }
            other {}
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pull::{close, pull, slopes, vector};
    use autograd_tape::GradientTape;

    #[test]
    fn pow_of_values() -> Result<()> {
        let grads = pull(&[&vector(&[2.0, 7.0]), &vector(&[4.0, 2.0])], |x| pow(&x[0], &x[1]))?;
        close(&grads[0], &[32.0, 14.0]);
        close(&grads[1], &[16.0 * 2f64.ln(), 49.0 * 7f64.ln()]);
        Ok(())
    }

    #[test]
    fn zero_to_the_zero_has_gradient_zero() -> Result<()> {
        let zero = vector(&[0.0]);
        assert_eq!(pull(&[&zero, &zero], |x| pow(&x[0], &x[1]))?, [[0.0], [0.0]]);
        for exponent in [Operand::Integer(0), Operand::Real(0.0)] {
            assert_eq!(slopes(&[0.0], |x| pow(x, exponent.clone()))?, [0.0]);
        }
        Ok(())
    }

    #[test]
    fn second_derivatives_of_pow_where_the_exponent_is_zero() -> Result<()> {
        let tape = GradientTape::new().persistent();
        let (x, y) = (tape.variable(TrackedTensor::scalar(4.0)), tape.variable(TrackedTensor::scalar(0.0)));
        let first = tape.gradient(&pow(&x, &y)?, &[&x, &y])?;
        let mut second = Vec::new();
        for first in &first {
            for second_order in tape.gradient(first, &[&x, &y])? {
                second.push(second_order.to_scalar::<f64>()?);
            }
        }
        let ln4 = 4f64.ln();
        close(&second, &[0.0, 0.25, 0.25, ln4 * ln4]);
        Ok(())
    }

    #[test]
    fn derivatives_of_a_square_at_zero_of_any_order() -> Result<()> {
        let tape = GradientTape::new().persistent();
        let x = tape.variable(TrackedTensor::scalar(0.0));
        let mut y = pow(&x, 2)?;
        for want in [0.0, 2.0, 0.0, 0.0, 0.0] {
            y = tape.derivative(&y, &x)?;
            assert_eq!(y.to_scalar::<f64>()?, want);
        }
        Ok(())
    }
}
