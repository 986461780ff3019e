//! Conjugate gradients.

use super::LinearOperator;
use super::vector::{checked, dot, plus, square, unwatched};
use autograd_core::algebra::zeros_like;
use autograd_core::{Error, Result, Site, TrackedTensor};

/// When an iteration of conjugate gradients ends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ConjugateGradientOptions {
    /// The residual to reach, as a part of ‖b‖.
    pub tolerance: f64,
    /// The most products with the operator.
    pub iterations: usize,
}

impl Default for ConjugateGradientOptions {
    /// A residual of 1e-10·‖b‖ within 1,000 iterations.
    fn default() -> Self {
        Self { tolerance: 1e-10, iterations: 1000 }
    }
}

/// What conjugate gradients found.
#[derive(Clone, Debug)]
pub struct ConjugateGradientSolution {
    /// The solution.
    pub x: TrackedTensor,
    /// ‖b − A·x‖ / ‖b‖, as the iteration carries it; 0 for b = 0.
    pub residual: f64,
    /// The products with the operator that were taken.
    pub iterations: usize,
    /// Whether the tolerance was reached. A search direction may do without.
    pub converged: bool,
}

/// Solves A·x = b for a symmetric positive definite operator by conjugate gradients (Hestenes and
/// Stiefel, 1952), from x = 0.
///
/// # Errors
/// [`Error::InvalidArgument`] for an operator that is not square or shows itself not positive definite,
/// [`Error::Mismatch`] for a vector that does not fit, [`Error::UnsupportedMode`] for one that is
/// watched.
#[track_caller]
pub fn conjugate_gradient(
    operator: &dyn LinearOperator,
    b: &TrackedTensor,
    options: &ConjugateGradientOptions,
) -> Result<ConjugateGradientSolution> {
    solve(operator, None, b, options, Site::caller())
}

/// As [`conjugate_gradient`], with an approximate inverse of the operator, symmetric and positive
/// definite too, as preconditioner.
///
/// # Errors
/// As [`conjugate_gradient`].
#[track_caller]
pub fn conjugate_gradient_with(
    operator: &dyn LinearOperator,
    inverse: &dyn LinearOperator,
    b: &TrackedTensor,
    options: &ConjugateGradientOptions,
) -> Result<ConjugateGradientSolution> {
    solve(operator, Some(inverse), b, options, Site::caller())
}

fn solve(
    operator: &dyn LinearOperator,
    inverse: Option<&dyn LinearOperator>,
    b: &TrackedTensor,
    options: &ConjugateGradientOptions,
    site: Site,
) -> Result<ConjugateGradientSolution> {
    const OP: &str = "conjugate_gradient";
    let n = square(OP, operator, site)?;
    checked("the right-hand side", b, n, operator.dtype()).map_err(|e| e.or_at(site))?;
    unwatched(OP, b, site)?;
    let precondition = |r: &TrackedTensor| inverse.map_or_else(|| Ok(r.clone()), |m| m.matvec(r));
    let size = dot(b, b)?.sqrt();
    if !size.is_finite() {
        return Err(Error::argument(OP, "the right-hand side is not finite").or_at(site));
    }
    let mut x = zeros_like(b)?;
    let mut residual = b.clone();
    let mut left = if size == 0.0 { 0.0 } else { 1.0 };
    let mut direction = precondition(&residual)?;
    let mut product = dot(&residual, &direction)?;
    let mut iterations = 0;
    while left > options.tolerance && iterations < options.iterations {
        let image = operator.matvec(&direction)?;
        unwatched(OP, &image, site)?;
        let curvature = dot(&direction, &image)?;
        // NaN fails this comparison too.
        if !(curvature > 0.0 && product > 0.0) {
            let reason = format!(
                "not positive definite: a direction of curvature {curvature:e} after {iterations} steps; add damping"
            );
            return Err(Error::argument(OP, reason).or_at(site));
        }
        let step = product / curvature;
        x = plus(&x, step, &direction)?;
        residual = plus(&residual, -step, &image)?;
        iterations += 1;
        left = dot(&residual, &residual)?.sqrt() / size;
        let conditioned = precondition(&residual)?;
        let next = dot(&residual, &conditioned)?;
        direction = plus(&conditioned, next / product, &direction)?;
        product = next;
    }
    Ok(ConjugateGradientSolution { x, residual: left, iterations, converged: left <= options.tolerance })
}
