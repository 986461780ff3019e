//! Small products: tiles straight from the factors, on the caller's thread, nothing packed.

use super::Matrix;
use super::then::Then;
use super::tile::{Left, tile};
use crate::float::Float;
use crate::lanes::{Isa, Lanes};
use crate::memory;
use std::mem::MaybeUninit;

/// Products of at most this many multiplications are small.
pub(crate) const LIMIT: usize = 32 * 32 * 32;

/// A right factor up to this size is put in order on the stack.
const ON_STACK: usize = 512;

/// out (m × n, contiguous) = or += a · b, m, k and n all positive.
pub(crate) fn multiply<T: Float>(
    isa: Isa,
    dims: [usize; 3],
    a: Matrix<'_, T>,
    b: Matrix<'_, T>,
    out: &mut [T],
    add: bool,
    then: Then<'_, T>,
) {
    in_order(isa, dims, a, b, out, add);
    then.whole(out, dims[2]);
}

/// The product with the right factor brought into order.
fn in_order<T: Float>(
    isa: Isa,
    dims: [usize; 3],
    a: Matrix<'_, T>,
    b: Matrix<'_, T>,
    out: &mut [T],
    add: bool,
) {
    let [_, k, n] = dims;
    if b.column == 1 || n == 1 {
        return ordered(isa, dims, a, b, out, add);
    }
    let put = |order: &mut [MaybeUninit<T>]| {
        for (l, row) in order.chunks_exact_mut(n).enumerate() {
            for (j, to) in row.iter_mut().enumerate() {
                to.write(b.data[l * b.row + j * b.column]);
            }
        }
    };
    if k * n <= ON_STACK {
        let mut buffer = [MaybeUninit::<T>::uninit(); ON_STACK];
        put(&mut buffer[..k * n]);
        // SAFETY: `put` has written the first k·n elements.
        let data = unsafe { std::slice::from_raw_parts(buffer.as_ptr().cast::<T>(), k * n) };
        ordered(isa, dims, a, Matrix { data, row: n, column: 1 }, out, add);
    } else {
        let mut buffer = memory::take::<T>(k * n);
        for (l, row) in buffer.chunks_exact_mut(n).enumerate() {
            for (j, to) in row.iter_mut().enumerate() {
                *to = b.data[l * b.row + j * b.column];
            }
        }
        ordered(isa, dims, a, Matrix { data: &buffer, row: n, column: 1 }, out, add);
        memory::give(buffer);
    }
}

/// The product where the rows of b are contiguous.
fn ordered<T: Float>(
    isa: Isa,
    [m, k, n]: [usize; 3],
    a: Matrix<'_, T>,
    b: Matrix<'_, T>,
    out: &mut [T],
    add: bool,
) {
    assert!(out.len() == m * n, "the product has {} elements, not {}", m * n, out.len());
    a.assert_holds(m, k);
    b.assert_holds(k, n);
    let left = Left { at: a.data.as_ptr(), row: a.row, column: a.column };
    // SAFETY: both factors and the output were checked to hold all elements; `Fast` is only
    // chosen where the machine has its instructions.
    unsafe {
        match isa {
            Isa::Plain => {
                strips::<T::Plain>([m, k, n], left, b.data.as_ptr(), b.row, out.as_mut_ptr(), add);
            }
            Isa::Fast | Isa::Wide => {
                fast::<T::Fast>([m, k, n], left, b.data.as_ptr(), b.row, out.as_mut_ptr(), add);
            }
        }
    }
}

#[cfg_attr(target_arch = "x86_64", target_feature(enable = "avx2,fma"))]
unsafe fn fast<L: Lanes>(
    dims: [usize; 3],
    a: Left<L::Item>,
    b: *const L::Item,
    b_row: usize,
    out: *mut L::Item,
    add: bool,
) {
    // SAFETY: the caller's promise is the same.
    unsafe { strips::<L>(dims, a, b, b_row, out, add) };
}

#[inline(always)]
unsafe fn strips<L: Lanes>(
    [m, k, n]: [usize; 3],
    a: Left<L::Item>,
    b: *const L::Item,
    b_row: usize,
    out: *mut L::Item,
    add: bool,
) {
    let mut row = 0;
    while row < m {
        // SAFETY: the strip takes rows row .. row + R of a and of the output, R ≤ m − row.
        row += unsafe {
            let a = Left { at: a.at.add(row * a.row), ..a };
            let out = out.add(row * n);
            match m - row {
                1 => strip::<L, 1>([k, n], a, b, b_row, out, add),
                2 => strip::<L, 2>([k, n], a, b, b_row, out, add),
                3 => strip::<L, 3>([k, n], a, b, b_row, out, add),
                4 | 7 | 8 => strip::<L, 4>([k, n], a, b, b_row, out, add),
                5 => strip::<L, 5>([k, n], a, b, b_row, out, add),
                _ => strip::<L, 6>([k, n], a, b, b_row, out, add),
            }
        };
    }
}

/// R rows of the product; returns R.
#[inline(always)]
unsafe fn strip<L: Lanes, const R: usize>(
    [k, n]: [usize; 2],
    a: Left<L::Item>,
    b: *const L::Item,
    b_row: usize,
    out: *mut L::Item,
    add: bool,
) -> usize {
    let full = 2 * L::LANES;
    let mut column = 0;
    // SAFETY: columns column .. column + width stay below n.
    unsafe {
        while n - column >= full {
            let (b, out) = (b.add(column), out.add(column));
            tile::<L, R, 2, false>(k, a, b, b_row, full, out, n, add);
            column += full;
        }
        let (width, b, out) = (n - column, b.add(column), out.add(column));
        if width > L::LANES {
            tile::<L, R, 2, true>(k, a, b, b_row, width, out, n, add);
        } else if width == L::LANES {
            tile::<L, R, 1, false>(k, a, b, b_row, width, out, n, add);
        } else if width > 0 {
            tile::<L, R, 1, true>(k, a, b, b_row, width, out, n, add);
        }
    }
    R
}
