//! The micro-kernel: a tile of the product held in registers.

use crate::float::Float;
use crate::lanes::{Isa, Lanes};
use crate::simd::{Float as _, Vector};

/// Rows of a full tile: with two vectors a row, 12 of the 16 AVX registers hold sums.
pub(crate) const ROWS: usize = 6;

/// Columns of a full tile: two vectors.
pub(crate) const fn columns<T: Float>() -> usize {
    2 * <T::Plain as Vector>::LANES
}

/// out[i·step + j] = or += Σ_l a[i, l]·b[l, j] for ROWS × columns of packed panels: a holds ROWS
/// elements for each l, b `columns` of them.
///
/// # Safety
/// The panels hold `depth` steps, the tile lies within `out`, and the machine has the
/// instructions the kernel was asked for.
pub(crate) type Kernel<T> =
    unsafe fn(depth: usize, a: *const T, b: *const T, out: *mut T, step: usize, add: bool);

/// The micro-kernel for these instructions.
pub(crate) fn kernel<T: Float>(isa: Isa) -> Kernel<T> {
    match isa {
        Isa::Plain => packed::<T::Plain>,
        Isa::Fast => packed_fast::<T::Fast>,
    }
}

#[cfg_attr(target_arch = "x86_64", target_feature(enable = "avx2,fma"))]
unsafe fn packed_fast<L: Lanes>(
    depth: usize,
    a: *const L::Item,
    b: *const L::Item,
    out: *mut L::Item,
    step: usize,
    add: bool,
) {
    // SAFETY: the caller's promise is the same.
    unsafe { packed::<L>(depth, a, b, out, step, add) };
}

#[inline(always)]
unsafe fn packed<L: Lanes>(
    depth: usize,
    a: *const L::Item,
    b: *const L::Item,
    out: *mut L::Item,
    step: usize,
    add: bool,
) {
    // SAFETY: with these steps and full widths the tile reads the packed panels only.
    unsafe {
        let left = Left { at: a, row: 1, column: ROWS };
        let width = 2 * L::LANES;
        tile::<L, ROWS, 2, false>(depth, left, b, width, width, out, step, add);
    }
}

/// The rows of the left factor.
#[derive(Clone, Copy)]
pub(crate) struct Left<T> {
    /// The first element.
    pub(crate) at: *const T,
    /// Elements from one row to the next.
    pub(crate) row: usize,
    /// Elements from one column to the next.
    pub(crate) column: usize,
}

/// A tile of R rows and V vectors: out[i·step + j] = or += Σ_l a[i, l] · b[l·b_row + j] for
/// j < width. Where `PARTIAL`, width may be less than V vectors.
///
/// # Safety
/// All those elements can be read and written, and the machine has the instructions of `L`.
#[inline(always)]
#[expect(clippy::needless_range_loop, reason = "the loops over registers unroll by their indices")]
#[expect(clippy::too_many_arguments, reason = "a kernel: two operands and an output with strides")]
pub(crate) unsafe fn tile<L: Lanes, const R: usize, const V: usize, const PARTIAL: bool>(
    depth: usize,
    a: Left<L::Item>,
    b: *const L::Item,
    b_row: usize,
    width: usize,
    out: *mut L::Item,
    step: usize,
    add: bool,
) {
    let room = |v: usize| width.saturating_sub(v * L::LANES);
    // SAFETY: row i, vector v and step l stay below R, V and depth, vectors past `width` are
    // loaded and stored in part only; the caller allows these accesses.
    unsafe {
        let mut sums = [[L::splat(L::Item::ZERO); V]; R];
        let (mut a_at, mut b_at) = (a.at, b);
        for _ in 0..depth {
            let mut right = [L::splat(L::Item::ZERO); V];
            for v in 0..V {
                right[v] = match PARTIAL {
                    true => L::load_first(b_at.wrapping_add(v * L::LANES), room(v)),
                    false => L::load(b_at.add(v * L::LANES)),
                };
            }
            for i in 0..R {
                let left = L::splat(*a_at.add(i * a.row));
                for v in 0..V {
                    sums[i][v] = left.mul_add(right[v], sums[i][v]);
                }
            }
            a_at = a_at.wrapping_add(a.column);
            b_at = b_at.wrapping_add(b_row);
        }
        for i in 0..R {
            for v in 0..V {
                let to = out.wrapping_add(i * step + v * L::LANES);
                let mut sum = sums[i][v];
                if PARTIAL {
                    if add {
                        sum = L::load_first(to, room(v)) + sum;
                    }
                    sum.store_first(to, room(v));
                } else {
                    if add {
                        sum = L::load(to) + sum;
                    }
                    sum.store(to);
                }
            }
        }
    }
}
