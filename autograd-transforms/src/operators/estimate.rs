//! Traces and log-determinants by random probes, with standard errors.

use super::LinearOperator;
use super::lanczos::lanczos;
use super::probe::{at_least_two, signs};
use super::vector::{dot, norm, plus, square, unwatched};
use crate::estimate::Estimate;
use autograd_core::algebra::scale;
use autograd_core::{Error, Result, Site, TrackedTensor};
use autograd_ops::random;

/// The mean of independent samples.
fn mean(samples: &[f64]) -> Estimate<f64> {
    let n = samples.len() as f64;
    let mean = samples.iter().sum::<f64>() / n;
    let spread = samples.iter().map(|s| (s - mean).powi(2)).sum::<f64>() / (n - 1.0);
    Estimate { mean, standard_error: (spread / n).sqrt(), samples: samples.len() }
}

/// tr A ≈ mean of ⟨z, A·z⟩ over probes z of ±1 (Hutchinson 1990). Exact for a diagonal matrix; the
/// variance of one probe is 2·Σ of the squares beside the diagonal (for symmetric A).
///
/// # Errors
/// [`Error::InvalidArgument`] for an operator that is not square or fewer than two probes; what the
/// operator reports.
///
/// ```
/// use autograd_core::{Result, TrackedTensor};
/// use autograd_ops::random;
/// use autograd_transforms::operators::{DenseMatrix, trace};
///
/// fn main() -> Result<()> {
///     let a = DenseMatrix::new(TrackedTensor::from_vec(vec![2f64, 1., 1., 5.], &[2, 2])?)?;
///     let found = trace(&a, 400, &random::key(1))?;
///     assert!((found.mean - 7.0).abs() < 5.0 * found.standard_error);
///     Ok(())
/// }
/// ```
#[track_caller]
pub fn trace(operator: &dyn LinearOperator, probes: usize, key: &TrackedTensor) -> Result<Estimate<f64>> {
    let site = Site::caller();
    let n = square("trace", operator, site)?;
    at_least_two("trace", probes, site)?;
    let mut samples = Vec::with_capacity(probes);
    for key in random::split(key, probes)? {
        let probe = signs(&key, n, operator.dtype())?;
        let image = operator.matvec(&probe)?;
        unwatched("trace", &image, site)?;
        samples.push(dot(&probe, &image)?);
    }
    Ok(mean(&samples))
}

/// tr A with a third of the products spent on the largest directions, whose trace is exact, and
/// Hutchinson's estimator for the rest: for positive semidefinite A the error falls as
/// 1/products instead of its root (Meyer, Musco, Musco and Woodruff, "Hutch++", SOSA 2021). The
/// standard error is that of the rest.
///
/// # Errors
/// [`Error::InvalidArgument`] for an operator that is not square or fewer than six products; what the
/// operator reports.
#[track_caller]
pub fn hutch_plus_plus(
    operator: &dyn LinearOperator,
    products: usize,
    key: &TrackedTensor,
) -> Result<Estimate<f64>> {
    const OP: &str = "hutch_plus_plus";
    let site = Site::caller();
    let n = square(OP, operator, site)?;
    let third = products / 3;
    at_least_two(OP, third, site)?;
    let keys = random::split(key, 2 * third)?;
    let mut basis: Vec<TrackedTensor> = Vec::new();
    for key in &keys[..third.min(n)] {
        let mut image = operator.matvec(&signs(key, n, operator.dtype())?)?;
        unwatched(OP, &image, site)?;
        let before = norm(&image)?;
        for _ in 0..2 {
            image = without(&basis, image)?;
        }
        let left = norm(&image)?;
        // A direction that is in the basis already leaves rounding only.
        const SAME: f64 = 1e-6;
        if left > SAME * before {
            basis.push(scale(&image, 1.0 / left)?);
        }
    }
    let mut largest = 0.0;
    for q in &basis {
        largest += dot(q, &operator.matvec(q)?)?;
    }
    let mut samples = Vec::with_capacity(third);
    for key in &keys[third..] {
        let probe = without(&basis, signs(key, n, operator.dtype())?)?;
        samples.push(dot(&probe, &operator.matvec(&probe)?)?);
    }
    let rest = mean(&samples);
    Ok(Estimate { mean: largest + rest.mean, ..rest })
}

/// x without its parts along the vectors of an orthonormal basis.
fn without(basis: &[TrackedTensor], mut x: TrackedTensor) -> Result<TrackedTensor> {
    for q in basis {
        x = plus(&x, -dot(q, &x)?, q)?;
    }
    Ok(x)
}

/// tr f(A) for symmetric A by stochastic Lanczos quadrature: the mean over probes z of
/// ‖z‖²·Σ τ²·f(θ), with nodes and weights of `steps` steps of Lanczos from z (Ubaru, Chen and
/// Saad, SIMAX 38, 2017). The standard error is that of the probes; the quadrature's own error
/// falls with `steps` and vanishes at n.
///
/// # Errors
/// [`Error::InvalidArgument`] for an operator that is not square, fewer than two probes, no steps, or
/// where `f` of an eigenvalue is not finite.
#[track_caller]
pub fn trace_of_function(
    operator: &dyn LinearOperator,
    f: impl Fn(f64) -> f64,
    steps: usize,
    probes: usize,
    key: &TrackedTensor,
) -> Result<Estimate<f64>> {
    quadrature("trace_of_function", operator, &f, steps, probes, key, Site::caller())
}

/// ln det A for symmetric positive definite A: tr ln A, as [`trace_of_function`].
///
/// # Errors
/// As [`trace_of_function`]; [`Error::InvalidArgument`] where a Ritz value is not positive.
///
/// ```
/// use autograd_core::{Result, TrackedTensor};
/// use autograd_ops::random;
/// use autograd_transforms::operators::{DenseMatrix, log_determinant};
///
/// fn main() -> Result<()> {
///     let a = DenseMatrix::new(TrackedTensor::from_vec(vec![2f64, 1., 1., 5.], &[2, 2])?)?;
///     let found = log_determinant(&a, 2, 200, &random::key(3))?;
///     assert!((found.mean - 9f64.ln()).abs() < 5.0 * found.standard_error + 1e-9);
///     Ok(())
/// }
/// ```
#[track_caller]
pub fn log_determinant(
    operator: &dyn LinearOperator,
    steps: usize,
    probes: usize,
    key: &TrackedTensor,
) -> Result<Estimate<f64>> {
    quadrature("log_determinant", operator, &f64::ln, steps, probes, key, Site::caller())
}

fn quadrature(
    op: &'static str,
    operator: &dyn LinearOperator,
    f: &dyn Fn(f64) -> f64,
    steps: usize,
    probes: usize,
    key: &TrackedTensor,
    site: Site,
) -> Result<Estimate<f64>> {
    let n = square(op, operator, site)?;
    at_least_two(op, probes, site)?;
    let mut samples = Vec::with_capacity(probes);
    for key in random::split(key, probes)? {
        let probe = signs(&key, n, operator.dtype())?;
        let mut sum = 0.0;
        for (node, weight) in lanczos(operator, &probe, steps).map_err(|e| e.or_at(site))?.quadrature()? {
            let value = f(node);
            if !value.is_finite() {
                let reason = format!("the function of the eigenvalue {node:e} is {value}");
                return Err(Error::argument(op, reason).or_at(site));
            }
            sum += weight * value;
        }
        samples.push(n as f64 * sum);
    }
    Ok(mean(&samples))
}
