//! Cholesky factors of small matrices that are there.

use autograd_core::algebra::cast;
use autograd_core::{DType, Error, Result, Site, TrackedTensor};

/// A = L·Lᵀ of a symmetric positive definite matrix, in f64.
#[derive(Clone, Debug)]
pub struct Cholesky {
    n: usize,
    /// L, row after row; zeros above the diagonal.
    lower: Vec<f64>,
}

impl Cholesky {
    /// The factor of a matrix; only its lower triangle is read.
    ///
    /// # Errors
    /// [`Error::Shape`] where it is not square, [`Error::InvalidArgument`] where it is not positive
    /// definite, with the row that shows it.
    #[track_caller]
    pub fn new(matrix: &TrackedTensor) -> Result<Self> {
        let site = Site::caller();
        let &[n, columns] = matrix.dims() else {
            let reason = "a matrix has two dimensions";
            return Err(Error::shape("cholesky", &[*matrix.shape()], reason).or_at(site));
        };
        if n != columns {
            return Err(Error::shape("cholesky", &[*matrix.shape()], "it is not square").or_at(site));
        }
        let mut lower = cast(matrix, DType::F64)?.to_flat::<f64>()?;
        for i in 0..n {
            let (above, rest) = lower.split_at_mut(i * n);
            let row = &mut rest[..n];
            for j in 0..i {
                let other = &above[j * n..][..n];
                let sum: f64 = row[..j].iter().zip(other).map(|(a, b)| a * b).sum();
                row[j] = (row[j] - sum) / other[j];
            }
            let rest = row[i] - row[..i].iter().map(|a| a * a).sum::<f64>();
            if !(rest > 0.0 && rest.is_finite()) {
                let reason = format!("not positive definite: pivot {rest:e} in row {i}; add damping");
                return Err(Error::argument("cholesky", reason).or_at(site));
            }
            row[i] = rest.sqrt();
            row[i + 1..].fill(0.0);
        }
        Ok(Self { n, lower })
    }

    /// ln det A = 2·Σ ln Lᵢᵢ.
    pub fn log_determinant(&self) -> f64 {
        (0..self.n).map(|i| 2.0 * self.lower[i * self.n + i].ln()).sum()
    }

    /// A⁻¹·B for the columns of B, n×m, in B's type.
    ///
    /// # Errors
    /// [`Error::Shape`] where B has not n rows.
    #[track_caller]
    pub fn solve(&self, b: &TrackedTensor) -> Result<TrackedTensor> {
        let n = self.n;
        let &[rows, m] = b.dims() else {
            let reason = "the right-hand side has two dimensions";
            return Err(Error::shape("cholesky", &[*b.shape()], reason).or_at(Site::caller()));
        };
        if rows != n {
            let reason = format!("the factor has {n} rows");
            return Err(Error::shape("cholesky", &[*b.shape()], reason).or_at(Site::caller()));
        }
        let mut x = cast(b, DType::F64)?.to_flat::<f64>()?;
        // L·z = b from above, Lᵀ·x = z from below; a row of x at a time.
        let eliminate = |x: &mut [f64], i: usize, j: usize, factor: f64| {
            for column in 0..m {
                x[i * m + column] -= factor * x[j * m + column];
            }
        };
        for i in 0..n {
            for j in 0..i {
                eliminate(&mut x, i, j, self.lower[i * n + j]);
            }
            x[i * m..(i + 1) * m].iter_mut().for_each(|v| *v /= self.lower[i * n + i]);
        }
        for i in (0..n).rev() {
            for j in i + 1..n {
                eliminate(&mut x, i, j, self.lower[j * n + i]);
            }
            x[i * m..(i + 1) * m].iter_mut().for_each(|v| *v /= self.lower[i * n + i]);
        }
        cast(&TrackedTensor::from_vec(x, &[n, m])?, b.dtype())
    }
}
