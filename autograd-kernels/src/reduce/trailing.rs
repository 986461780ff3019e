//! Reductions over the last dimensions of contiguous numbers: the most frequent case, a loop over
//! rows without a plan.

use super::{MIN_CHUNK, Reduction};
use crate::simd::{Float, fold, vectorised};
use crate::threads::{Disjoint, parallel_chunks};
use crate::{SliceMut, View, memory};

/// Sums are made in their own type within a block, and of blocks in f64.
const BLOCK: usize = 1024;

/// Below this many numbers vectors do not pay.
const SCALAR: usize = 16;

/// Up to here no thread is asked; extrema are found one by one, and beyond folds in vectors win.
const SHORT: usize = 4096;

/// Reduces where the short way applies; says whether it did.
pub(super) fn reduce(op: Reduction, x: &View<'_>, over: &[bool], out: &mut SliceMut<'_>) -> bool {
    let kept = over.iter().take_while(|over| !**over).count();
    if !over[kept..].iter().all(|over| *over) {
        return false;
    }
    let n: usize = x.layout.dims()[kept..].iter().product();
    match out {
        SliceMut::F32(y) => x.contiguous::<f32>().is_some_and(|x| rows(op, x, n, y)),
        SliceMut::F64(y) => x.contiguous::<f64>().is_some_and(|x| rows(op, x, n, y)),
        _ => false,
    }
}

fn rows<T: Float>(op: Reduction, x: &[T], n: usize, y: &mut [T]) -> bool {
    match op {
        Reduction::Sum | Reduction::Mean if n > 0 => {
            let scale = if op == Reduction::Mean { n as f64 } else { 1.0 };
            sums(x, n, scale, y);
            true
        }
        Reduction::Max if n > 0 && x.len() <= SHORT => {
            extrema(x, n, y, |x, best| x > best);
            true
        }
        Reduction::Min if n > 0 && x.len() <= SHORT => {
            extrema(x, n, y, |x, best| x < best);
            true
        }
        Reduction::Sum | Reduction::Mean | Reduction::Prod | Reduction::Max | Reduction::Min => false,
    }
}

/// The first number of each row that no other wins against, NaN where there is one.
#[inline]
fn extrema<T: Float>(x: &[T], n: usize, y: &mut [T], wins: impl Fn(T, T) -> bool) {
    for (y, row) in y.iter_mut().zip(x.chunks_exact(n)) {
        let (mut best, mut nan) = (row[0], false);
        for &x in row {
            best = if wins(x, best) { x } else { best };
            nan |= is_nan(x);
        }
        *y = if nan { row.iter().copied().find(|&x| is_nan(x)).unwrap_or(best) } else { best };
    }
}

fn is_nan<T: Float>(x: T) -> bool {
    x.partial_cmp(&x).is_none()
}

fn sums<T: Float>(x: &[T], n: usize, scale: f64, y: &mut [T]) {
    if let [y] = y {
        *y = T::from_f64(total(x) / scale);
        return;
    }
    if x.len() <= SHORT {
        each_row(x, n, scale, y);
        return;
    }
    let all = Disjoint::new(y);
    parallel_chunks(x.len() / n, (4 * MIN_CHUNK).div_ceil(n), &|range| {
        // SAFETY: the ranges do not overlap.
        let y = unsafe { all.part(range.clone()) };
        each_row(&x[range.start * n..range.end * n], n, scale, y);
    });
}

/// The sum of all: of long inputs in parts that do not depend on the number of threads.
fn total<T: Float>(x: &[T]) -> f64 {
    let part = 4 * MIN_CHUNK;
    if x.len() <= 2 * part {
        return x.chunks(BLOCK).map(block).sum();
    }
    let count = x.len().div_ceil(part);
    let mut parts = memory::take::<f64>(count);
    let all = Disjoint::new(&mut parts);
    parallel_chunks(count, 1, &|range| {
        // SAFETY: the ranges do not overlap.
        let sums = unsafe { all.part(range.clone()) };
        for (sum, k) in sums.iter_mut().zip(range) {
            *sum = x[k * part..x.len().min((k + 1) * part)].chunks(BLOCK).map(block).sum();
        }
    });
    let sum = parts.iter().sum();
    memory::give(parts);
    sum
}

/// The sums of rows of `n` numbers, divided by `scale`.
fn each_row<T: Float>(x: &[T], n: usize, scale: f64, y: &mut [T]) {
    if (SCALAR..=BLOCK).contains(&n) {
        return blocks(x, n, scale, y);
    }
    for (y, row) in y.iter_mut().zip(x.chunks_exact(n)) {
        *y = T::from_f64(row.chunks(BLOCK).map(block).sum::<f64>() / scale);
    }
}

vectorised! {
    /// The same where each row is one block: no call for each.
    fn blocks<T, V>(x: &[T], n: usize, scale: f64, y: &mut [T]) {
        for (y, row) in y.iter_mut().zip(x.chunks_exact(n)) {
            let sum = fold::<V>(row, T::ZERO, T::ZERO, |a, x| a + x, |a, b| a + b).sum();
            *y = T::from_f64(sum / scale);
        }
    }
}

/// The sum of a block: in vectors, or number by number where that is shorter.
#[inline]
fn block<T: Float>(x: &[T]) -> f64 {
    if x.len() < SCALAR { x.iter().map(|x| x.to_f64()).sum() } else { block_in_vectors(x) }
}

vectorised! {
    fn block_in_vectors<T, V>(x: &[T]) -> f64 {
        fold::<V>(x, T::ZERO, T::ZERO, |a, x| a + x, |a, b| a + b).sum()
    }
}
