//! Norms of matrices.

use super::spectral::svdvals;
use crate::elementwise::abs;
use crate::extremum::{max_dim, min_dim};
use crate::reduce::sum_dim;
use crate::spread::norm_p;
use autograd_core::{Result, TrackedTensor};

/// A norm of a matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MatrixNorm {
    /// √Σ a², with gradient 0 at the zero matrix.
    Frobenius,
    /// The sum of the singular values.
    Nuclear,
    /// The largest singular value.
    Spectral,
    /// The largest sum of a column's sizes.
    One,
    /// The largest sum of a row's sizes.
    Infinity,
    /// The smallest singular value.
    Smallest,
}

/// A norm of each matrix (…×M×N, result …). Where several columns, rows or singular values tie
/// for the largest, they share the gradient.
///
/// # Errors
/// Fewer than two dimensions; numbers that are not finite, for norms of singular values.
#[track_caller]
pub fn matrix_norm(a: &TrackedTensor, norm: MatrixNorm) -> Result<TrackedTensor> {
    match norm {
        MatrixNorm::Frobenius => norm_p(a, 2.0, [-2isize, -1], false),
        MatrixNorm::Nuclear => sum_dim(&svdvals(a)?, -1),
        MatrixNorm::Spectral => max_dim(&svdvals(a)?, -1),
        MatrixNorm::Smallest => min_dim(&svdvals(a)?, -1),
        MatrixNorm::One => max_dim(&sum_dim(&abs(a)?, -2)?, -1),
        MatrixNorm::Infinity => max_dim(&sum_dim(&abs(a)?, -1)?, -1),
    }
}
