//! Lanczos tridiagonalisation: extreme eigenvalues of symmetric operators.

use super::LinearOperator;
use super::tridiagonal;
use super::vector::{checked, dot, norm, plus, square, unwatched};
use autograd_core::algebra::scale;
use autograd_core::{Error, Result, Site, TrackedTensor};

/// A symmetric operator seen from a Krylov space: QᵀAQ = T, tridiagonal.
#[derive(Clone, Debug)]
pub struct Lanczos {
    diagonal: Vec<f64>,
    /// One more than lie beside the diagonal: the last is what is left.
    beside: Vec<f64>,
}

/// An eigenvalue of the projected operator.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RitzValue {
    /// The value.
    pub value: f64,
    /// An eigenvalue of the operator lies at most this far away: ‖A·v − θ·v‖ for the Ritz vector v.
    pub residual: f64,
}

impl Lanczos {
    /// The diagonal of T.
    pub fn diagonal(&self) -> &[f64] {
        &self.diagonal
    }

    /// What lies beside the diagonal of T: one number less.
    pub fn beside(&self) -> &[f64] {
        &self.beside[..self.diagonal.len().saturating_sub(1)]
    }

    /// The eigenvalues of T, ascending. The extreme ones approach those of the operator first.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] where products were not finite.
    pub fn ritz_values(&self) -> Result<Vec<RitzValue>> {
        let left = self.beside.last().copied().unwrap_or(0.0);
        let found = tridiagonal::eigenvalues(&self.diagonal, self.beside())?;
        Ok(found.iter().map(|f| RitzValue { value: f.0, residual: (left * f.2).abs() }).collect())
    }

    /// Nodes θ and weights τ² of the Gauss quadrature of the start vector's spectral measure:
    /// ⟨q, f(A) q⟩ ≈ Σ τ² f(θ) for ‖q‖ = 1 (Golub and Meurant 1994).
    ///
    /// # Errors
    /// As [`ritz_values`](Self::ritz_values).
    pub fn quadrature(&self) -> Result<Vec<(f64, f64)>> {
        let found = tridiagonal::eigenvalues(&self.diagonal, self.beside())?;
        Ok(found.iter().map(|f| (f.0, f.1 * f.1)).collect())
    }
}

/// Takes up to `steps` steps of Lanczos' iteration (1950) on a symmetric operator from a start
/// vector, every new vector made orthogonal to all earlier ones twice ("twice is enough", Parlett
/// 1980), so that no eigenvalue appears as a ghost. It ends early where the Krylov space is full.
///
/// # Errors
/// [`Error::InvalidArgument`] for an operator that is not square, no steps, a start vector of zeros or
/// products that are not finite; [`Error::Mismatch`] for a vector that does not fit;
/// [`Error::UnsupportedMode`] for one that is watched.
///
/// ```
/// use autograd_core::{Result, TrackedTensor};
/// use autograd_transforms::operators::{DenseMatrix, lanczos};
///
/// fn main() -> Result<()> {
///     let a = DenseMatrix::new(TrackedTensor::from_vec(vec![2f64, 1., 1., 2.], &[2, 2])?)?;
///     let start = TrackedTensor::from_vec(vec![1f64, 0.], &[2])?;
///     let found = lanczos(&a, &start, 2)?.ritz_values()?;
///     assert!((found[0].value - 1.0).abs() < 1e-12 && (found[1].value - 3.0).abs() < 1e-12);
///     Ok(())
/// }
/// ```
#[track_caller]
pub fn lanczos(operator: &dyn LinearOperator, start: &TrackedTensor, steps: usize) -> Result<Lanczos> {
    const OP: &str = "lanczos";
    let site = Site::caller();
    let n = square(OP, operator, site)?;
    checked("the start vector", start, n, operator.dtype()).map_err(|e| e.or_at(site))?;
    unwatched(OP, start, site)?;
    let wrong = |reason: &str| Error::argument(OP, reason).or_at(site);
    if steps == 0 {
        return Err(wrong("no steps were asked for"));
    }
    let size = norm(start)?;
    if !(size > 0.0 && size.is_finite()) {
        return Err(wrong("the start vector has no direction"));
    }
    let epsilon = match operator.dtype() {
        candle_core::DType::F64 => f64::EPSILON,
        _ => f64::from(f32::EPSILON),
    };
    let mut basis = vec![scale(start, 1.0 / size)?];
    let mut made = Lanczos { diagonal: Vec::new(), beside: Vec::new() };
    let mut extent: f64 = 0.0;
    for step in 0..steps.min(n) {
        let mut next = operator.matvec(&basis[step])?;
        unwatched(OP, &next, site)?;
        made.diagonal.push(dot(&basis[step], &next)?);
        let image = norm(&next)?;
        if !image.is_finite() {
            return Err(wrong("the operator's products are not finite numbers"));
        }
        extent = extent.max(image);
        for _ in 0..2 {
            for known in &basis {
                next = plus(&next, -dot(known, &next)?, known)?;
            }
        }
        let left = norm(&next)?;
        // What is left of a full space is rounding.
        let full = left <= extent * epsilon * (n as f64).sqrt() || step + 1 == n;
        made.beside.push(if full { 0.0 } else { left });
        if full {
            break;
        }
        basis.push(scale(&next, 1.0 / left)?);
    }
    Ok(made)
}
