//! Packing: blocks of the factors copied into the order in which the micro-kernel reads them.

use super::Matrix;
use super::tile::{ROWS, columns};
use crate::float::Float;
use crate::lanes::{Isa, Lanes};

/// Packs `rows` × `depth` of the left factor from (row, step) on into panels of [`ROWS`] rows:
/// panel[l·ROWS + i]. Rows past the end are zeros.
pub(crate) fn pack_left<T: Float>(
    a: Matrix<'_, T>,
    [row, step]: [usize; 2],
    [rows, depth]: [usize; 2],
    out: &mut [T],
) {
    for (panel, out) in out.chunks_exact_mut(ROWS * depth).take(rows.div_ceil(ROWS)).enumerate() {
        let (start, height) = (row + panel * ROWS, ROWS.min(rows - panel * ROWS));
        let from = &a.data[start * a.row + step * a.column..];
        if height < ROWS {
            out.fill(T::ZERO);
            for i in 0..height {
                for l in 0..depth {
                    out[l * ROWS + i] = from[i * a.row + l * a.column];
                }
            }
        } else if a.row == 1 {
            for (l, out) in out.chunks_exact_mut(ROWS).enumerate() {
                out.copy_from_slice(&from[l * a.column..][..ROWS]);
            }
        } else if a.column == 1 {
            let rows: [&[T]; ROWS] = std::array::from_fn(|i| &from[i * a.row..][..depth]);
            for (l, out) in out.chunks_exact_mut(ROWS).enumerate() {
                for i in 0..ROWS {
                    out[i] = rows[i][l];
                }
            }
        } else {
            for (l, out) in out.chunks_exact_mut(ROWS).enumerate() {
                for i in 0..ROWS {
                    out[i] = from[i * a.row + l * a.column];
                }
            }
        }
    }
}

/// Packs `depth` × `width` of the right factor from (step, column) on into panels of two vectors:
/// panel[l·columns + j]. Columns past the end are zeros.
pub(crate) fn pack_right<T: Float>(
    isa: Isa,
    b: Matrix<'_, T>,
    [step, column]: [usize; 2],
    [depth, width]: [usize; 2],
    out: &mut [T],
) {
    let full = columns::<T>();
    for (panel, out) in out.chunks_exact_mut(full * depth).take(width.div_ceil(full)).enumerate() {
        let (start, width) = (column + panel * full, full.min(width - panel * full));
        let from = &b.data[step * b.row + start * b.column..];
        if b.column == 1 {
            for (l, out) in out.chunks_exact_mut(full).enumerate() {
                let from = &from[l * b.row..][..width];
                if width == full {
                    out.copy_from_slice(&from[..full]);
                } else {
                    out[..width].copy_from_slice(from);
                    out[width..].fill(T::ZERO);
                }
            }
        } else if b.row == 1 && width == full {
            transpose(isa, from, b.column, depth, out);
        } else {
            for (l, out) in out.chunks_exact_mut(full).enumerate() {
                for j in 0..width {
                    out[j] = from[l * b.row + j * b.column];
                }
                out[width..].fill(T::ZERO);
            }
        }
    }
}

/// A full panel from columns that are contiguous, `from_step` apart.
fn transpose<T: Float>(isa: Isa, from: &[T], from_step: usize, depth: usize, out: &mut [T]) {
    let full = columns::<T>();
    let width = full / 2;
    assert!(out.len() >= depth * full, "the panel holds all steps");
    assert!(depth == 0 || from.len() > (full - 1) * from_step + depth - 1, "all columns are there");
    let squares = depth / width;
    // SAFETY: square s of half h reads columns h·width .. and steps s·width .., and writes those
    // steps; both buffers were checked to hold all columns and steps. `Fast` is only chosen where
    // the machine has its instructions.
    unsafe {
        match isa {
            Isa::Plain => squares_of::<T::Plain>(from.as_ptr(), from_step, squares, out.as_mut_ptr()),
            Isa::Fast => squares_fast::<T::Fast>(from.as_ptr(), from_step, squares, out.as_mut_ptr()),
        }
    }
    for l in squares * width..depth {
        for j in 0..full {
            out[l * full + j] = from[j * from_step + l];
        }
    }
}

#[cfg_attr(target_arch = "x86_64", target_feature(enable = "avx2,fma"))]
unsafe fn squares_fast<L: Lanes>(from: *const L::Item, from_step: usize, squares: usize, out: *mut L::Item) {
    // SAFETY: the caller's promise is the same.
    unsafe { squares_of::<L>(from, from_step, squares, out) };
}

#[inline(always)]
unsafe fn squares_of<L: Lanes>(from: *const L::Item, from_step: usize, squares: usize, out: *mut L::Item) {
    let width = L::LANES;
    for s in 0..squares {
        for half in 0..2 {
            // SAFETY: the caller vouches for all squares of both halves.
            unsafe {
                let from = from.add(half * width * from_step + s * width);
                let to = out.add(s * width * 2 * width + half * width);
                L::transpose(from, from_step, to, 2 * width);
            }
        }
    }
}
