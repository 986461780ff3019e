//! Points and weights of integrals from 0 to 1.

use autograd_core::{Error, Result};
use std::f64::consts::PI;

/// A rule for ∫₀¹ g(t) dt ≈ Σ w g(t).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Quadrature {
    /// Gauss and Legendre's: exact for polynomials of degree 2n − 1.
    #[default]
    GaussLegendre,
    /// Riemann sums at the left of n equal intervals.
    Left,
    /// Riemann sums at the right.
    Right,
    /// Riemann sums in the middle.
    Middle,
    /// The trapezoid rule on n points, with half weight at both ends. (Captum's
    /// `riemann_trapezoid` divides by n instead of n − 1, so that its weights add up to less
    /// than 1.)
    Trapezoid,
}

impl Quadrature {
    /// The points and weights of `n` steps.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for no steps, and for one of the trapezoid rule.
    ///
    /// ```
    /// use autograd_interpret::Quadrature;
    ///
    /// let points = Quadrature::Left.points(2)?;
    /// assert_eq!(points, [(0.0, 0.5), (0.5, 0.5)]);
    /// # Ok::<(), autograd_core::Error>(())
    /// ```
    pub fn points(self, n: usize) -> Result<Vec<(f64, f64)>> {
        let least = if self == Self::Trapezoid { 2 } else { 1 };
        if n < least {
            return Err(Error::argument("quadrature", format!("{n} steps given, at least {least} needed")));
        }
        let width = 1.0 / n as f64;
        let riemann = |shift: f64| (0..n).map(|i| ((i as f64 + shift) * width, width)).collect();
        Ok(match self {
            Self::GaussLegendre => gauss_legendre(n),
            Self::Left => riemann(0.0),
            Self::Right => riemann(1.0),
            Self::Middle => riemann(0.5),
            Self::Trapezoid => {
                let width = 1.0 / (n - 1) as f64;
                let weight = |i: usize| if i == 0 || i == n - 1 { 0.5 * width } else { width };
                (0..n).map(|i| (i as f64 * width, weight(i))).collect()
            }
        })
    }
}

/// The zeros of the Legendre polynomial Pₙ, by Newton's method from Tricomi's estimates, and their
/// weights 2 / ((1 − x²) Pₙ′(x)²), brought from −1 .. 1 to 0 .. 1.
fn gauss_legendre(n: usize) -> Vec<(f64, f64)> {
    let mut points = vec![(0.5, 1.0); n];
    for i in 0..n.div_ceil(2) {
        let mut x = (PI * (i as f64 + 0.75) / (n as f64 + 0.5)).cos();
        let mut slope = 1.0;
        // Newton's method doubles the digits; eight rounds are more than f64 has.
        for _ in 0..8 {
            let (value, derivative) = legendre(n, x);
            slope = derivative;
            let step = value / derivative;
            x -= step;
            if step.abs() < 1e-16 {
                break;
            }
        }
        if n % 2 == 1 && i == n / 2 {
            x = 0.0;
            slope = legendre(n, x).1;
        }
        let weight = 1.0 / ((1.0 - x * x) * slope * slope);
        points[i] = (0.5 - 0.5 * x, weight);
        points[n - 1 - i] = (0.5 + 0.5 * x, weight);
    }
    points
}

/// Pₙ(x) and Pₙ′(x) by the recurrence of three terms.
fn legendre(n: usize, x: f64) -> (f64, f64) {
    let (mut before, mut value) = (1.0, x);
    for k in 2..=n {
        let k = k as f64;
        (before, value) = (value, ((2.0 * k - 1.0) * x * value - (k - 1.0) * before) / k);
    }
    (value, n as f64 * (x * value - before) / (x * x - 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rounding of a sum of some hundred terms.
    const ROUNDING: f64 = 1e-13;

    #[test]
    fn gauss_legendre_is_exact_for_polynomials() -> Result<()> {
        for n in [1, 2, 3, 5, 8, 20, 50, 300] {
            let points = Quadrature::GaussLegendre.points(n)?;
            for degree in [0, 1, n, 2 * n - 1] {
                let sum: f64 = points.iter().map(|(t, w)| w * t.powi(degree as i32)).sum();
                assert!(
                    (sum - 1.0 / (degree as f64 + 1.0)).abs() < ROUNDING,
                    "n {n}, degree {degree}: {sum}"
                );
            }
            assert!(points.windows(2).all(|pair| pair[0].0 < pair[1].0));
        }
        Ok(())
    }

    #[test]
    fn riemann_points_of_three_steps() -> Result<()> {
        let points = |rule: Quadrature| rule.points(3);
        let third = 1.0 / 3.0;
        for (rule, at) in [
            (Quadrature::Left, [0.0, third, 2.0 * third]),
            (Quadrature::Right, [third, 2.0 * third, 1.0]),
            (Quadrature::Middle, [0.5 * third, 0.5, 2.5 * third]),
        ] {
            for ((t, w), at) in points(rule)?.into_iter().zip(at) {
                assert!((t - at).abs() < ROUNDING && (w - third).abs() < ROUNDING, "{rule:?}");
            }
        }
        assert_eq!(points(Quadrature::Trapezoid)?, [(0.0, 0.25), (0.5, 0.5), (1.0, 0.25)]);
        Ok(())
    }

    #[test]
    fn too_few_steps_are_an_error() {
        assert!(Quadrature::Middle.points(0).is_err());
        assert!(Quadrature::Trapezoid.points(1).is_err());
    }
}
