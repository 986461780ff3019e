//! Reductions over any set of dimensions.

use crate::copy::{from_f64, to_f64};
use crate::{Layout, Shape, SliceMut, View};

/// How elements become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reduction {
    /// Σ x; 0 of nothing.
    Sum,
    /// Σ x / n; NaN of nothing.
    Mean,
    /// Π x; 1 of nothing.
    Prod,
    /// The largest, NaN where there is one; −∞ of nothing.
    Max,
    /// The smallest, NaN where there is one; +∞ of nothing.
    Min,
}

/// Reduces `x` over the dimensions that `over` marks. `out` has the kept dimensions in row-major
/// order.
///
/// # Panics
/// Panics where `over` has not one entry for each dimension, or `out` not one element for each
/// kept index.
pub fn reduce(op: Reduction, x: View<'_>, over: &[bool], out: SliceMut<'_>) {
    let dims = x.layout.dims();
    assert_eq!(over.len(), dims.len(), "reduce: one mark for each dimension");
    let target: Vec<usize> = dims.iter().zip(over).map(|(&d, &r)| if r { 1 } else { d }).collect();
    let target = Shape::new(&target);
    assert_eq!(target.elements(), out.len(), "reduce: one output for each kept index");
    let values = to_f64(x);
    let count = values.len() / out.len().max(1);
    let start = match op {
        Reduction::Sum | Reduction::Mean => 0.0,
        Reduction::Prod => 1.0,
        Reduction::Max => f64::NEG_INFINITY,
        Reduction::Min => f64::INFINITY,
    };
    let mut sums = vec![start; out.len()];
    let layout =
        Layout::contiguous(target).broadcast_to(x.layout.shape()).expect("1 broadcasts to all");
    layout.for_each_run(|first, at, len, stride| {
        for i in 0..len {
            let (acc, v) = (&mut sums[at + i * stride], values[first + i]);
            *acc = match op {
                Reduction::Sum | Reduction::Mean => *acc + v,
                Reduction::Prod => *acc * v,
                Reduction::Max if v > *acc || v.is_nan() => v,
                Reduction::Min if v < *acc || v.is_nan() => v,
                Reduction::Max | Reduction::Min => *acc,
            };
        }
    });
    if op == Reduction::Mean {
        sums.iter_mut().for_each(|s| *s /= count as f64);
    }
    from_f64(&sums, out);
}

/// The largest (or smallest) elements along `dim`, and their indices there. The first wins among
/// equals, NaN wins over all.
///
/// # Panics
/// Panics where `dim` is no dimension or is empty, or the outputs have not one element for each
/// index of the other dimensions, or `indices` is not U32.
pub fn arg_reduce(max: bool, x: View<'_>, dim: usize, values: SliceMut<'_>, indices: SliceMut<'_>) {
    let dims = x.layout.dims();
    assert!(dim < dims.len(), "arg_reduce: the dimension exists");
    let (n, inner) = (dims[dim], dims[dim + 1..].iter().product::<usize>());
    let rows = x.layout.elements() / n.max(1);
    assert!(n > 0, "arg_reduce: the dimension is not empty");
    assert!(values.len() == rows && indices.len() == rows, "arg_reduce: one output for each row");
    let data = to_f64(x);
    let SliceMut::U32(indices) = indices else { panic!("arg_reduce: the indices are U32") };
    let mut best = vec![0.0; rows];
    for row in 0..rows {
        let start = row / inner * inner * n + row % inner;
        let (mut at, mut top) = (0, data[start]);
        for i in 1..n {
            let v = data[start + i * inner];
            if !top.is_nan() && (v.is_nan() || if max { v > top } else { v < top }) {
                (at, top) = (i, v);
            }
        }
        best[row] = top;
        indices[row] = at as u32;
    }
    from_f64(&best, values);
}
