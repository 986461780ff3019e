//! Resampling along one dimension: each output is a weighted sum of a few inputs.

use crate::copy::Cast;
use crate::float::Float;
use crate::operand::{assert_kind, assert_len, in_float};
use crate::threads::{Disjoint, parallel_for};
use crate::{SliceMut, View};
use std::ops::Range;

/// A sparse matrix by rows: which inputs each output is made of, and with what weights.
#[derive(Clone, Debug, Default)]
pub struct Table {
    /// Where each row's entries begin, and the end of the last one.
    starts: Vec<usize>,
    indices: Vec<usize>,
    weights: Vec<f64>,
}

impl Table {
    /// A table of the rows that `entries` lists, one after the other.
    pub fn new<R: IntoIterator<Item = (usize, f64)>>(rows: impl IntoIterator<Item = R>) -> Self {
        let mut table = Self { starts: vec![0], ..Self::default() };
        for row in rows {
            for (index, weight) in row {
                table.indices.push(index);
                table.weights.push(weight);
            }
            table.starts.push(table.indices.len());
        }
        table
    }

    /// The number of rows: outputs.
    pub fn rows(&self) -> usize {
        self.starts.len().saturating_sub(1)
    }

    /// The transpose, for a table over `columns` inputs.
    ///
    /// # Panics
    /// Panics where an index is not below `columns`.
    #[must_use]
    pub fn transposed(&self, columns: usize) -> Self {
        let mut rows = vec![Vec::new(); columns];
        for row in 0..self.rows() {
            for at in self.entries(row) {
                rows[self.indices[at]].push((row, self.weights[at]));
            }
        }
        Self::new(rows)
    }

    fn entries(&self, row: usize) -> Range<usize> {
        self.starts[row]..self.starts[row + 1]
    }
}

/// y[.., o, ..] = Σ weight · x[.., index, ..] along `dim`, over the entries of the table's row o.
///
/// # Panics
/// Panics where the output has not the table's rows in place of that extent, an index is out of
/// range, or types differ.
pub fn resample(x: View<'_>, dim: usize, table: &Table, y: SliceMut<'_>) {
    let dims = x.layout.dims();
    assert!(dim < dims.len(), "dimension {dim} of a tensor of shape {dims:?}");
    let (outer, inner): (usize, usize) = (dims[..dim].iter().product(), dims[dim + 1..].iter().product());
    assert_len("the output", &y, outer * table.rows() * inner);
    assert_kind("the input", x, y.kind());
    let bound = dims[dim];
    assert!(table.indices.iter().all(|&i| i < bound), "an index is not below {bound}");
    in_float!(y, (x), blocks(table, bound, inner));
}

fn blocks<T: Float>(table: &Table, extent: usize, inner: usize, x: &[T], y: &mut [T])
where
    f64: Cast<T>,
{
    let (from, to) = (extent * inner, table.rows() * inner);
    if to == 0 || y.is_empty() {
        return;
    }
    let weights: Vec<T> = table.weights.iter().map(|&w| w.cast()).collect();
    let blocks = y.len() / to;
    let y = Disjoint::new(y);
    // Several blocks a task, about 16 Ki elements.
    let batch = (16 * 1024 / to).max(1);
    parallel_for(blocks.div_ceil(batch), &|task| {
        for block in task * batch..blocks.min((task + 1) * batch) {
            // SAFETY: blocks do not overlap, and each is visited once.
            let y = unsafe { y.part(block * to..(block + 1) * to) };
            one_block(table, &weights, inner, &x[block * from..][..from], y);
        }
    });
}

fn one_block<T: Float>(table: &Table, weights: &[T], inner: usize, x: &[T], y: &mut [T]) {
    for (row, y) in y.chunks_exact_mut(inner).enumerate() {
        let entries = table.entries(row);
        if let [y] = y {
            let terms = table.indices[entries.clone()].iter().zip(&weights[entries]);
            *y = terms.fold(T::ZERO, |sum, (&index, &weight)| sum + weight * x[index]);
            continue;
        }
        y.fill(T::ZERO);
        for at in entries {
            let (weight, x) = (weights[at], &x[table.indices[at] * inner..][..inner]);
            for (y, &x) in y.iter_mut().zip(x) {
                *y += weight * x;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Element, Layout, Shape};

    #[test]
    fn rows_and_columns_agree_with_the_sum() {
        let table = Table::new([vec![(0, 0.5), (2, 2.0)], vec![], vec![(1, 1.0)]]);
        let x = [1f64, 2., 3., 4., 5., 6.];
        let mut y = [9f64; 6];
        let run = |dims: &[usize], dim, table: &Table, y: &mut [f64]| {
            let layout = Layout::contiguous(Shape::new(dims));
            resample(View { data: f64::slice(&x), layout: &layout }, dim, table, f64::slice_mut(y));
        };
        run(&[2, 3], 1, &table, &mut y);
        assert_eq!(y, [6.5, 0., 2., 14., 0., 5.]);
        run(&[3, 2], 0, &table, &mut y);
        assert_eq!(y, [10.5, 13., 0., 0., 3., 4.]);
        run(&[2, 3], 1, &table.transposed(3), &mut y);
        assert_eq!(y, [0.5, 3., 2., 2., 6., 8.]);
    }
}
