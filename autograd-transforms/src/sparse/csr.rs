//! Sparse matrices in compressed rows, with values that transforms can watch.

use super::pattern::SparsityPattern;
use crate::operators::LinearOperator;
use autograd_core::algebra::{fill, mul};
use autograd_core::{DType, Error, Meta, Result, Shape, Site, TrackedTensor};
use autograd_ops::TensorAutograd;

/// A sparse matrix: a structure, and the value of each of its entries, row after row.
#[derive(Clone, Debug)]
pub struct CsrMatrix {
    pattern: SparsityPattern,
    values: TrackedTensor,
}

impl CsrMatrix {
    /// A matrix from its structure and a value for each entry, row after row.
    ///
    /// # Errors
    /// [`Error::Shape`] where there are not as many values as entries.
    #[track_caller]
    pub fn new(pattern: SparsityPattern, values: TrackedTensor) -> Result<Self> {
        if let Some(error) = values.failure() {
            return Err(error.clone());
        }
        if values.dims() != [pattern.nnz()] {
            let reason = format!("the structure has {} entries", pattern.nnz());
            return Err(Error::shape("csr_matrix", &[*values.shape()], reason).or_at(Site::caller()));
        }
        Ok(Self { pattern, values })
    }

    /// The structure.
    pub fn pattern(&self) -> &SparsityPattern {
        &self.pattern
    }

    /// The value of each entry, row after row.
    pub fn values(&self) -> &TrackedTensor {
        &self.values
    }

    /// The matrix with all its zeros.
    ///
    /// # Errors
    /// What the levels that watch the values report.
    pub fn to_dense(&self) -> Result<TrackedTensor> {
        let (rows, columns) = (self.pattern.rows(), self.pattern.columns());
        let places = self.pattern.entries().map(|(i, j)| (i * columns + j) as i64).collect();
        let dense = self.zeros(rows * columns)?.index_add(places_of(places)?, &self.values, 0)?;
        dense.reshape((rows, columns))
    }

    fn zeros(&self, n: usize) -> Result<TrackedTensor> {
        let meta = Meta { shape: Shape::new(&[n]), ..self.values.meta() };
        fill(0.0, &meta, &self.values)
    }

    /// The row and the column of each entry, as indices.
    fn coordinates(&self) -> Result<(TrackedTensor, TrackedTensor)> {
        let (rows, columns) = self.pattern.entries().map(|(i, j)| (i as i64, j as i64)).unzip();
        Ok((places_of(rows)?, places_of(columns)?))
    }

    /// The matrix for the crate `sprs`.
    ///
    /// # Errors
    /// As candle's `to_vec1`.
    #[cfg(feature = "sprs")]
    pub fn to_sprs<T: candle_core::WithDType>(&self) -> Result<sprs::CsMat<T>> {
        let offsets = self.pattern.row_offsets().to_vec();
        let indices = self.pattern.column_indices().iter().map(|&j| j as usize).collect();
        let shape = (self.pattern.rows(), self.pattern.columns());
        Ok(sprs::CsMat::new(shape, offsets, indices, self.values.to_vec1::<T>()?))
    }
}

fn places_of(places: Vec<i64>) -> Result<TrackedTensor> {
    let n = places.len();
    TrackedTensor::from_vec(places, &[n])
}

impl LinearOperator for CsrMatrix {
    fn rows(&self) -> usize {
        self.pattern.rows()
    }

    fn columns(&self) -> usize {
        self.pattern.columns()
    }

    fn dtype(&self) -> DType {
        self.values.dtype()
    }

    fn matvec(&self, x: &TrackedTensor) -> Result<TrackedTensor> {
        let (rows, columns) = self.coordinates()?;
        let products = mul(&self.values, &x.index_select(columns, 0)?)?;
        self.zeros(self.pattern.rows())?.index_add(rows, products, 0)
    }

    fn adjoint(&self, y: &TrackedTensor) -> Result<TrackedTensor> {
        let (rows, columns) = self.coordinates()?;
        let products = mul(&self.values, &y.index_select(rows, 0)?)?;
        self.zeros(self.pattern.columns())?.index_add(columns, products, 0)
    }
}
