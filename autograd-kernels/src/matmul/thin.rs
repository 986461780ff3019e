//! Products with few rows on the left: the right factor is read in place. Packing it would
//! cost more than the product.

use super::Matrix;
use super::then::Then;
use super::tile::Left;
use crate::float::Float;
use crate::lanes::{Isa, Lanes};
use crate::output::Output;
use crate::threads::{parallel_for, threads};
use std::ops::Range;

/// Products with at most this many rows are thin.
pub(crate) const ROWS: usize = 12;

/// Columns of the output that are added to at a time: they stay in the first cache.
const CHUNK: usize = 384;

/// Whether both factors lie in one of the two ways that can be read in place.
pub(crate) fn fits<T>(m: usize, a: &Matrix<'_, T>, b: &Matrix<'_, T>) -> bool {
    m <= ROWS && (b.column == 1 || (b.row == 1 && a.column == 1))
}

/// out (m × n, contiguous) = or += a · b where [`fits`] holds; m, k and n are positive.
pub(crate) fn multiply<T: Float>(
    isa: Isa,
    [m, k, n]: [usize; 3],
    a: Matrix<'_, T>,
    b: Matrix<'_, T>,
    out: &mut [T],
    add: bool,
    then: Then<'_, T>,
) {
    assert!(fits(m, &a, &b), "a thin product has factors that can be read in place");
    assert!(out.len() == m * n, "the product has {} elements, not {}", m * n, out.len());
    a.assert_holds(m, k);
    b.assert_holds(k, n);
    let thin = Thin {
        dims: [m, k, n],
        a: Left { at: a.data.as_ptr(), row: a.row, column: a.column },
        b: b.data.as_ptr(),
        step: if b.column == 1 { b.row } else { b.column },
        rows_contiguous: b.column == 1,
        add,
    };
    let share = n.div_ceil(4 * threads()).next_multiple_of(48);
    let output = Output::new(out);
    let thin = Shared(thin);
    parallel_for(n.div_ceil(share), &|task| {
        let columns = task * share..n.min((task + 1) * share);
        let (thin, out) = (thin.get(), output.start());
        // SAFETY: the factors and the output were checked to hold all elements, and no other task
        // has these columns; `Fast` is only chosen where the machine has its instructions.
        unsafe {
            match isa {
                Isa::Plain => thin.run::<T::Plain>(columns.clone(), out),
                Isa::Fast | Isa::Wide => thin.fast::<T::Fast>(columns.clone(), out),
            }
            then.block(out, n, 0..m, columns);
        }
    });
}

/// Pointers into the factors, which tasks only read.
struct Shared<T>(Thin<T>);

// SAFETY: the pointers come from slices that outlive the tasks and are only read through.
unsafe impl<T: Sync> Sync for Shared<T> {}

impl<T> Shared<T> {
    /// The product; a method, so that closures capture the whole struct.
    fn get(&self) -> &Thin<T> {
        &self.0
    }
}

struct Thin<T> {
    dims: [usize; 3],
    a: Left<T>,
    b: *const T,
    /// Elements from one contiguous row, or column, of the right factor to the next.
    step: usize,
    rows_contiguous: bool,
    add: bool,
}

impl<T: Float> Thin<T> {
    #[cfg_attr(target_arch = "x86_64", target_feature(enable = "avx2,fma"))]
    unsafe fn fast<L: Lanes<Item = T>>(&self, columns: Range<usize>, out: *mut T) {
        // SAFETY: the caller's promise is the same.
        unsafe { self.run::<L>(columns, out) };
    }

    #[inline(always)]
    unsafe fn run<L: Lanes<Item = T>>(&self, columns: Range<usize>, out: *mut T) {
        // SAFETY: the caller's promise is the same.
        unsafe {
            if self.rows_contiguous {
                self.rows::<L>(columns, out);
            } else {
                self.dots::<L>(columns, out);
            }
        }
    }

    /// Contiguous rows: each, times its elements of the left factor, is added to the rows of the
    /// output, a few at once and a chunk of columns at a time.
    #[inline(always)]
    unsafe fn rows<L: Lanes<Item = T>>(&self, columns: Range<usize>, out: *mut T) {
        let [m, k, n] = self.dims;
        for column in columns.clone().step_by(CHUNK) {
            let width = CHUNK.min(columns.end - column);
            // SAFETY: all accesses are to these columns and rows below m and k.
            unsafe {
                let out = out.add(column);
                for row in 0..if self.add { 0 } else { m } {
                    std::slice::from_raw_parts_mut(out.add(row * n), width).fill(T::ZERO);
                }
                for step in (0..k).step_by(4) {
                    for row in (0..m).step_by(2) {
                        let at = self.a.at.add(row * self.a.row + step * self.a.column);
                        let a = Left { at, ..self.a };
                        let b = self.b.add(step * self.step + column);
                        let out = out.add(row * n);
                        match (m - row, k - step) {
                            (1, 1) => self.add_rows::<L, 1, 1>(a, b, width, out),
                            (1, 2) => self.add_rows::<L, 1, 2>(a, b, width, out),
                            (1, 3) => self.add_rows::<L, 1, 3>(a, b, width, out),
                            (1, _) => self.add_rows::<L, 1, 4>(a, b, width, out),
                            (_, 1) => self.add_rows::<L, 2, 1>(a, b, width, out),
                            (_, 2) => self.add_rows::<L, 2, 2>(a, b, width, out),
                            (_, 3) => self.add_rows::<L, 2, 3>(a, b, width, out),
                            (_, _) => self.add_rows::<L, 2, 4>(a, b, width, out),
                        }
                    }
                }
            }
        }
    }

    /// Adds S rows of the right factor to R rows of the output, in the order of steps.
    #[inline(always)]
    #[expect(clippy::needless_range_loop, reason = "the loops over registers unroll by their indices")]
    unsafe fn add_rows<L: Lanes<Item = T>, const R: usize, const S: usize>(
        &self,
        a: Left<T>,
        b: *const T,
        width: usize,
        out: *mut T,
    ) {
        let n = self.dims[2];
        // SAFETY: the caller's R rows, S steps and `width` columns, the last in part of a vector.
        unsafe {
            let factor = |i: usize, s: usize| L::splat(*a.at.add(i * a.row + s * a.column));
            let factors: [[L; S]; R] = std::array::from_fn(|i| std::array::from_fn(|s| factor(i, s)));
            let mut j = 0;
            while j + L::LANES <= width {
                let right: [L; S] = std::array::from_fn(|s| L::load(b.add(s * self.step + j)));
                for i in 0..R {
                    let to = out.add(i * n + j);
                    let mut sum = L::load(to);
                    for s in 0..S {
                        sum = right[s].mul_add(factors[i][s], sum);
                    }
                    sum.store(to);
                }
                j += L::LANES;
            }
            if j < width {
                let room = width - j;
                for i in 0..R {
                    let to = out.add(i * n + j);
                    let mut sum = L::load_first(to, room);
                    for s in 0..S {
                        let right = L::load_first(b.add(s * self.step + j), room);
                        sum = right.mul_add(factors[i][s], sum);
                    }
                    sum.store_first(to, room);
                }
            }
        }
    }

    /// Contiguous columns: dot products, four rows by three columns at a time.
    #[inline(always)]
    unsafe fn dots<L: Lanes<Item = T>>(&self, columns: Range<usize>, out: *mut T) {
        let mut column = columns.start;
        while column < columns.end {
            // SAFETY: these columns are the caller's.
            column += unsafe {
                match columns.end - column {
                    1 => self.dots_of::<L, 1>(column, out),
                    2 => self.dots_of::<L, 2>(column, out),
                    _ => self.dots_of::<L, 3>(column, out),
                }
            };
        }
    }

    #[inline(always)]
    unsafe fn dots_of<L: Lanes<Item = T>, const C: usize>(&self, column: usize, out: *mut T) -> usize {
        let mut row = 0;
        while row < self.dims[0] {
            // SAFETY: the tile is rows row .. row + R, R ≤ m − row, and these columns.
            row += unsafe {
                match self.dims[0] - row {
                    1 => self.dot_tile::<L, 1, C>(row, column, out),
                    2 => self.dot_tile::<L, 2, C>(row, column, out),
                    3 => self.dot_tile::<L, 3, C>(row, column, out),
                    _ => self.dot_tile::<L, 4, C>(row, column, out),
                }
            };
        }
        C
    }

    #[inline(always)]
    #[expect(clippy::needless_range_loop, reason = "the loops over registers unroll by their indices")]
    unsafe fn dot_tile<L: Lanes<Item = T>, const R: usize, const C: usize>(
        &self,
        row: usize,
        column: usize,
        out: *mut T,
    ) -> usize {
        let [_, k, n] = self.dims;
        // SAFETY: steps 0..k of R rows and C columns are read, the last ones in part of a vector,
        // and R × C elements of the output are written.
        unsafe {
            let (a, b) = (self.a.at.add(row * self.a.row), self.b.add(column * self.step));
            let mut sums = [[L::splat(T::ZERO); C]; R];
            let mut l = 0;
            while l + L::LANES <= k {
                let right: [L; C] = std::array::from_fn(|c| L::load(b.add(c * self.step + l)));
                for i in 0..R {
                    let left = L::load(a.add(i * self.a.row + l));
                    for c in 0..C {
                        sums[i][c] = left.mul_add(right[c], sums[i][c]);
                    }
                }
                l += L::LANES;
            }
            if l < k {
                let right: [L; C] = std::array::from_fn(|c| L::load_first(b.add(c * self.step + l), k - l));
                for i in 0..R {
                    let left = L::load_first(a.add(i * self.a.row + l), k - l);
                    for c in 0..C {
                        sums[i][c] = left.mul_add(right[c], sums[i][c]);
                    }
                }
            }
            for i in 0..R {
                for c in 0..C {
                    let to = out.add((row + i) * n + column + c);
                    let sum = sums[i][c].total();
                    *to = if self.add { *to + sum } else { sum };
                }
            }
        }
        R
    }
}
