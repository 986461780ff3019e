//! Where the entries of a sparse matrix may be other than zero.

use autograd_core::{Error, Result, Site};
use std::sync::Arc;

/// The structure of a sparse matrix, row by row. Cloning shares it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SparsityPattern {
    rows: usize,
    columns: usize,
    /// Where each row starts in `indices`, and the end of the last one.
    offsets: Arc<[usize]>,
    /// The columns of the entries, ascending within a row.
    indices: Arc<[u32]>,
}

impl SparsityPattern {
    /// A structure from the columns of each row.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`](autograd_core::Error::InvalidArgument) for a column that does not
    /// exist.
    #[track_caller]
    pub fn from_rows<R: AsRef<[usize]>>(rows: &[R], columns: usize) -> Result<Self> {
        let site = Site::caller();
        let wrong = |reason: String| Error::argument("sparsity_pattern", reason).or_at(site);
        let mut offsets = Vec::with_capacity(rows.len() + 1);
        let mut indices: Vec<u32> = Vec::new();
        offsets.push(0);
        for (i, row) in rows.iter().enumerate() {
            let start = indices.len();
            for &column in row.as_ref() {
                let narrow = u32::try_from(column).ok().filter(|_| column < columns);
                let index =
                    narrow.ok_or_else(|| wrong(format!("row {i} names column {column} of {columns}")))?;
                indices.push(index);
            }
            indices[start..].sort_unstable();
            let mut kept = start;
            for at in start..indices.len() {
                if at == start || indices[at] != indices[at - 1] {
                    indices[kept] = indices[at];
                    kept += 1;
                }
            }
            indices.truncate(kept);
            offsets.push(kept);
        }
        Ok(Self::from_parts(columns, offsets, indices))
    }

    /// A structure from its parts, which are known to be sound.
    pub(super) fn from_parts(columns: usize, offsets: Vec<usize>, indices: Vec<u32>) -> Self {
        Self { rows: offsets.len() - 1, columns, offsets: offsets.into(), indices: indices.into() }
    }

    /// The number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The number of columns.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// The number of entries that may be other than zero.
    pub fn nnz(&self) -> usize {
        self.indices.len()
    }

    /// Where each row starts in [`column_indices`](Self::column_indices), and where the last ends.
    pub fn row_offsets(&self) -> &[usize] {
        &self.offsets
    }

    /// The columns of all entries, row after row, ascending within each.
    pub fn column_indices(&self) -> &[u32] {
        &self.indices
    }

    /// The columns of one row, ascending.
    ///
    /// # Panics
    /// Panics where there is no such row.
    pub fn row(&self, i: usize) -> &[u32] {
        &self.indices[self.offsets[i]..self.offsets[i + 1]]
    }

    /// The entries as (row, column), row after row.
    pub fn entries(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        (0..self.rows).flat_map(|i| self.row(i).iter().map(move |&j| (i, j as usize)))
    }

    /// The structure of the transposed matrix.
    #[must_use]
    pub fn transpose(&self) -> Self {
        let mut offsets = vec![0usize; self.columns + 1];
        for &column in self.indices.iter() {
            offsets[column as usize + 1] += 1;
        }
        for j in 0..self.columns {
            offsets[j + 1] += offsets[j];
        }
        let mut next = offsets.clone();
        let mut indices = vec![0u32; self.indices.len()];
        for (i, j) in self.entries() {
            indices[next[j]] = i as u32;
            next[j] += 1;
        }
        Self::from_parts(self.rows, offsets, indices)
    }

    /// Whether the structure is square and equal to its transpose.
    pub fn is_symmetric(&self) -> bool {
        self.rows == self.columns && self.transpose() == *self
    }
}
