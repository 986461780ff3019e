//! Matrix times vector: each element of the matrix is read once, in the order it lies in memory.

use super::Matrix;
use super::then::Then;
use crate::float::Float;
use crate::lanes::{Isa, Lanes};
use crate::memory;
use crate::simd::Float as _;
use crate::threads::{Disjoint, parallel_for, threads};

/// Matrices with fewer elements are left to one thread.
const PARALLEL: usize = 1 << 15;

/// out = or += matrix · x for an m × k matrix with contiguous rows or contiguous columns; m and k
/// are positive. The product whose blocks are finished has n columns: one, or all of `out` is a row.
pub(crate) fn multiply<T: Float>(
    isa: Isa,
    [m, k, n]: [usize; 3],
    matrix: Matrix<'_, T>,
    x: Matrix<'_, T>,
    out: &mut [T],
    add: bool,
    then: Then<'_, T>,
) {
    assert!(matrix.column == 1 || matrix.row == 1, "a matrix with contiguous rows or columns");
    assert!(out.len() == m, "the product has {m} elements, not {}", out.len());
    matrix.assert_holds(m, k);
    // The vector is column 0 of x.
    let (buffer, x) = if x.row == 1 {
        (None, &x.data[..k])
    } else {
        let mut buffer = memory::take::<T>(k);
        buffer.iter_mut().enumerate().for_each(|(l, to)| *to = x.data[l * x.row]);
        (Some(buffer), &[][..])
    };
    let x = buffer.as_deref().unwrap_or(x);
    let share = if m * k < PARALLEL { m } else { (m / (4 * threads())).clamp(64, 2048) };
    let share = share.next_multiple_of(16);
    let parts = Disjoint::new(out);
    parallel_for(m.div_ceil(share), &|task| {
        let rows = task * share..m.min((task + 1) * share);
        // SAFETY: tasks have different rows.
        let out = unsafe { parts.part(rows.clone()) };
        if !add {
            out.fill(T::ZERO);
        }
        // SAFETY: the matrix holds m × k elements, x k of them; `Fast` is only chosen where the
        // machine has its instructions.
        unsafe {
            let from = matrix.data.as_ptr().add(rows.start * matrix.row);
            match isa {
                Isa::Plain => add_product::<T::Plain>(from, matrix.row, matrix.column, x, out),
                Isa::Fast | Isa::Wide => fast::<T::Fast>(from, matrix.row, matrix.column, x, out),
            }
        }
        if n == 1 {
            then.at(rows.start).whole(out, 1);
        } else {
            then.part_of_row(out, rows.start);
        }
    });
    if let Some(buffer) = buffer {
        memory::give(buffer);
    }
}

#[cfg_attr(target_arch = "x86_64", target_feature(enable = "avx2,fma"))]
unsafe fn fast<L: Lanes>(
    from: *const L::Item,
    row: usize,
    column: usize,
    x: &[L::Item],
    out: &mut [L::Item],
) {
    // SAFETY: the caller's promise is the same.
    unsafe { add_product::<L>(from, row, column, x, out) };
}

/// out += the product of out.len() rows.
#[inline(always)]
unsafe fn add_product<L: Lanes>(
    from: *const L::Item,
    row: usize,
    column: usize,
    x: &[L::Item],
    out: &mut [L::Item],
) {
    // SAFETY: the caller vouches for out.len() × x.len() elements.
    unsafe {
        if column == 1 {
            let mut i = 0;
            while i + 4 <= out.len() {
                dots::<L, 4>(from.add(i * row), row, x, &mut out[i..]);
                i += 4;
            }
            while i < out.len() {
                dots::<L, 1>(from.add(i * row), row, x, &mut out[i..]);
                i += 1;
            }
        } else {
            let mut l = 0;
            while l + 4 <= x.len() {
                columns::<L, 4>(from.add(l * column), column, &x[l..], out);
                l += 4;
            }
            while l < x.len() {
                columns::<L, 1>(from.add(l * column), column, &x[l..], out);
                l += 1;
            }
        }
    }
}

/// R rows, each times x; a row is summed in the same order for any R.
#[inline(always)]
#[expect(clippy::needless_range_loop, reason = "the loops over registers unroll by their indices")]
unsafe fn dots<L: Lanes, const R: usize>(
    from: *const L::Item,
    row: usize,
    x: &[L::Item],
    out: &mut [L::Item],
) {
    let k = x.len();
    // SAFETY: elements 0..k of each row are read, the last ones in part of a vector.
    unsafe {
        let mut sums = [[L::splat(L::Item::ZERO); 2]; R];
        let mut l = 0;
        while l + 2 * L::LANES <= k {
            for half in 0..2 {
                let at = l + half * L::LANES;
                let right = L::load(x.as_ptr().add(at));
                for i in 0..R {
                    let left = L::load(from.add(i * row + at));
                    sums[i][half] = left.mul_add(right, sums[i][half]);
                }
            }
            l += 2 * L::LANES;
        }
        while l < k {
            let right = L::load_first(x.as_ptr().add(l), k - l);
            for i in 0..R {
                let left = L::load_first(from.add(i * row + l), k - l);
                sums[i][0] = left.mul_add(right, sums[i][0]);
            }
            l += L::LANES;
        }
        for i in 0..R {
            out[i] += (sums[i][0] + sums[i][1]).total();
        }
    }
}

/// out += C columns, each times its element of x; an element is summed in the order of columns.
#[inline(always)]
#[expect(clippy::needless_range_loop, reason = "the loops over registers unroll by their indices")]
unsafe fn columns<L: Lanes, const C: usize>(
    from: *const L::Item,
    column: usize,
    x: &[L::Item],
    out: &mut [L::Item],
) {
    let (rows, to) = (out.len(), out.as_mut_ptr());
    // SAFETY: elements 0..rows of C columns and of the output are read and written, the last
    // ones in part of a vector.
    unsafe {
        let factors: [L; C] = std::array::from_fn(|c| L::splat(x[c]));
        let mut i = 0;
        while i + L::LANES <= rows {
            let mut sum = L::load(to.add(i));
            for c in 0..C {
                sum = L::load(from.add(c * column + i)).mul_add(factors[c], sum);
            }
            sum.store(to.add(i));
            i += L::LANES;
        }
        if i < rows {
            let mut sum = L::load_first(to.add(i), rows - i);
            for c in 0..C {
                sum = L::load_first(from.add(c * column + i), rows - i).mul_add(factors[c], sum);
            }
            sum.store_first(to.add(i), rows - i);
        }
    }
}
