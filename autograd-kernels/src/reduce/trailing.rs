//! Reductions over the last dimensions of contiguous numbers: the most frequent case, a loop over
//! rows without a plan.

use super::{MIN_CHUNK, Reduction};
use crate::threads::{Disjoint, parallel_chunks};
use crate::{Element, SliceMut, View, memory};

/// Sums are made in their own type within a block, and of blocks in f64.
const BLOCK: usize = 1024;

/// Independent sums within a block.
const LANES: usize = 32;

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

/// What sums and extrema need of a number.
trait Number: Element + std::ops::AddAssign {
    fn to_f64(self) -> f64;
    fn from_f64(x: f64) -> Self;
    fn is_nan(self) -> bool;
}

macro_rules! number {
    ($($ty:ty),*) => {$(
        impl Number for $ty {
            #[inline(always)]
            fn to_f64(self) -> f64 {
                f64::from(self)
            }
            #[inline(always)]
            fn from_f64(x: f64) -> Self {
                x as $ty
            }
            #[inline(always)]
            fn is_nan(self) -> bool {
                self != self
            }
        }
    )*};
}

number!(f32, f64);

fn rows<T: Number>(op: Reduction, x: &[T], n: usize, y: &mut [T]) -> bool {
    match op {
        Reduction::Sum | Reduction::Mean if n > 0 => {
            let scale = if op == Reduction::Mean { n as f64 } else { 1.0 };
            sums(x, n, scale, y);
            true
        }
        Reduction::Max | Reduction::Min if n > 0 && x.len() <= SHORT => {
            for (y, row) in y.iter_mut().zip(x.chunks_exact(n)) {
                *y = extremum(op == Reduction::Max, row);
            }
            true
        }
        Reduction::Sum | Reduction::Mean | Reduction::Prod | Reduction::Max | Reduction::Min => false,
    }
}

/// The largest or smallest, NaN where there is one.
fn extremum<T: Number>(max: bool, row: &[T]) -> T {
    let mut best = row[0];
    for &x in &row[1..] {
        let wins = if max { x > best } else { x < best };
        if wins || x.is_nan() {
            best = x;
        }
        if best.is_nan() {
            break;
        }
    }
    best
}

fn sums<T: Number>(x: &[T], n: usize, scale: f64, y: &mut [T]) {
    if let [y] = y {
        *y = T::from_f64(total(x) / scale);
        return;
    }
    if x.len() <= SHORT {
        for (y, row) in y.iter_mut().zip(x.chunks_exact(n)) {
            *y = T::from_f64(row.chunks(BLOCK).map(block).sum::<f64>() / scale);
        }
        return;
    }
    let all = Disjoint::new(y);
    parallel_chunks(x.len() / n, (4 * MIN_CHUNK).div_ceil(n), &|range| {
        // SAFETY: the ranges do not overlap.
        let y = unsafe { all.part(range.clone()) };
        for (y, row) in y.iter_mut().zip(x[range.start * n..range.end * n].chunks_exact(n)) {
            *y = T::from_f64(row.chunks(BLOCK).map(block).sum::<f64>() / scale);
        }
    });
}

/// The sum of all: of long inputs in parts that do not depend on the number of threads.
fn total<T: Number>(x: &[T]) -> f64 {
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

/// The sum of a block, in lanes that a compiler turns into vectors.
#[inline]
fn block<T: Number>(x: &[T]) -> f64 {
    if x.len() < LANES {
        return x.iter().map(|x| x.to_f64()).sum();
    }
    // Four vectors at a time hide the latency of an addition.
    let mut sums = [[T::default(); LANES / 4]; 4];
    let (whole, rest) = x.as_chunks::<LANES>();
    for chunk in whole {
        for (k, sum) in sums.iter_mut().enumerate() {
            for i in 0..LANES / 4 {
                sum[i] += chunk[k * (LANES / 4) + i];
            }
        }
    }
    let [mut sum, b, c, d] = sums;
    for i in 0..LANES / 4 {
        sum[i] += b[i];
        sum[i] += c[i];
        sum[i] += d[i];
    }
    sum.iter().chain(rest).map(|x| x.to_f64()).sum()
}
