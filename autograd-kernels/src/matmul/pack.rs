//! Packing: blocks of the factors copied into the order in which the micro-kernel reads them.

use super::Matrix;
use crate::float::Float;
use crate::lanes::{Isa, Lanes};
use crate::simd::Float as _;

/// Packs `depth` rows of `width` columns of the matrix from (row, column) on:
/// out[l·padded + j] = matrix[row + l, column + j], zeros for width ≤ j < padded.
///
/// The left factor is packed as its transpose.
pub(crate) fn pack<T: Float>(
    isa: Isa,
    matrix: Matrix<'_, T>,
    [row, column]: [usize; 2],
    [depth, width]: [usize; 2],
    padded: usize,
    out: &mut [T],
) {
    if depth == 0 || width == 0 {
        return;
    }
    assert!(width <= padded && depth * padded <= out.len(), "the buffer holds the packed block");
    let from = &matrix.data[row * matrix.row + column * matrix.column..];
    let from = Matrix::new(from, matrix.row, matrix.column);
    from.assert_holds(depth, width);
    // SAFETY: the elements are in both buffers, as just checked; `Fast` is only chosen where the
    // machine has its instructions.
    unsafe {
        match isa {
            Isa::Plain => packed::<T::Plain>(from, depth, width, padded, out.as_mut_ptr()),
            Isa::Fast | Isa::Wide => fast::<T::Fast>(from, depth, width, padded, out.as_mut_ptr()),
        }
    }
}

#[cfg_attr(target_arch = "x86_64", target_feature(enable = "avx2,fma"))]
unsafe fn fast<L: Lanes>(
    from: Matrix<'_, L::Item>,
    depth: usize,
    width: usize,
    padded: usize,
    out: *mut L::Item,
) {
    // SAFETY: the caller's promise is the same.
    unsafe { packed::<L>(from, depth, width, padded, out) };
}

#[inline(always)]
unsafe fn packed<L: Lanes>(
    from: Matrix<'_, L::Item>,
    depth: usize,
    width: usize,
    padded: usize,
    out: *mut L::Item,
) {
    let (start, row, column) = (from.data.as_ptr(), from.row, from.column);
    let whole = width / L::LANES * L::LANES;
    // SAFETY: l < depth and j < width for reads, j < padded for writes; the caller checked that
    // both buffers hold these.
    unsafe {
        if column == 1 {
            for l in 0..depth {
                let (from, to) = (start.add(l * row), out.add(l * padded));
                for j in (0..whole).step_by(L::LANES) {
                    L::load(from.add(j)).store(to.add(j));
                }
                for j in whole..width {
                    *to.add(j) = *from.add(j);
                }
            }
        } else if row == 1 {
            let deep = depth / L::LANES * L::LANES;
            for l in (0..deep).step_by(L::LANES) {
                for j in (0..whole).step_by(L::LANES) {
                    L::transpose(start.add(j * column + l), column, out.add(l * padded + j), padded);
                }
            }
            single(from, deep..depth, 0..whole, padded, out);
            single(from, 0..depth, whole..width, padded, out);
        } else {
            single(from, 0..depth, 0..width, padded, out);
        }
        for l in 0..depth {
            for j in width..padded {
                *out.add(l * padded + j) = L::Item::ZERO;
            }
        }
    }
}

/// Element by element.
#[inline(always)]
unsafe fn single<T: Float>(
    from: Matrix<'_, T>,
    steps: std::ops::Range<usize>,
    columns: std::ops::Range<usize>,
    padded: usize,
    out: *mut T,
) {
    for l in steps {
        for j in columns.clone() {
            // SAFETY: the caller's rows and columns lie in both buffers.
            unsafe { *out.add(l * padded + j) = *from.data.as_ptr().add(l * from.row + j * from.column) };
        }
    }
}
