//! The micro-kernels: a tile of the product held in registers.

use crate::float::Float;
use crate::lanes::{Isa, Lanes, Registers, prefetch};
use crate::simd::{Float as _, Vector};

/// The largest tile of packed factors for some instructions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    /// Rows of the left factor.
    pub(crate) rows: usize,
    /// Vectors of columns of the right factor.
    pub(crate) vectors: usize,
    /// Columns in a vector.
    pub(crate) lanes: usize,
}

impl Size {
    /// Of AVX2's 16 registers, 12 hold sums; of AVX-512's 32, 24 do. The others hold the vectors of
    /// the right factor and an element of the left one.
    pub(crate) fn of<T: Float>(isa: Isa) -> Self {
        match isa {
            Isa::Plain | Isa::Fast => Self { rows: 6, vectors: 2, lanes: <T::Plain as Vector>::LANES },
            Isa::Wide => Self { rows: 8, vectors: 3, lanes: <T::Wide as Registers>::LANES },
        }
    }
}

/// out[i·step + j] = or += Σ_l a[i, l]·b[l, j] for the rows and vectors that the kernel was made
/// for, j < width: b holds whole vectors for each l, `b_step` elements apart.
///
/// # Safety
/// The factors hold `depth` steps, rows × width elements lie within `out`, and the machine has the
/// instructions the kernel was asked for.
pub(crate) type Kernel<T> = unsafe fn(
    depth: usize,
    a: Left<T>,
    b: *const T,
    b_step: usize,
    out: *mut T,
    step: usize,
    width: usize,
    add: bool,
);

/// The micro-kernel for tiles of this size, at most the largest of [`Size::of`].
pub(crate) fn kernel<T: Float>(isa: Isa, rows: usize, vectors: usize) -> Kernel<T> {
    macro_rules! sized {
        ($kernel:ident, $lanes:ty, $($rows:literal)*; $($vectors:literal)*) => {
            sized!(@ $kernel, $lanes, [$($rows)*], $($vectors)*)
        };
        (@ $kernel:ident, $lanes:ty, $rows:tt, $($vectors:literal)*) => {
            match vectors {
                $($vectors => sized!(@@ $kernel, $lanes, $rows, $vectors),)*
                _ => panic!("no tile is {vectors} vectors wide"),
            }
        };
        (@@ $kernel:ident, $lanes:ty, [$($rows:literal)*], $vectors:literal) => {
            match rows {
                $($rows => $kernel::<$lanes, $rows, $vectors>,)*
                _ => panic!("no tile has {rows} rows"),
            }
        };
    }
    match isa {
        Isa::Plain => sized!(packed, T::Plain, 1 2 3 4 5 6; 1 2),
        Isa::Fast => sized!(packed_fast, T::Fast, 1 2 3 4 5 6; 1 2),
        Isa::Wide => sized!(packed_wide, T::Wide, 1 2 3 4 5 6 7 8; 1 2 3),
    }
}

#[expect(clippy::too_many_arguments, reason = "a kernel: two operands and an output with strides")]
#[cfg_attr(target_arch = "x86_64", target_feature(enable = "avx512f,avx2,fma"))]
unsafe fn packed_wide<L: Registers, const R: usize, const V: usize>(
    depth: usize,
    a: Left<L::Item>,
    b: *const L::Item,
    b_step: usize,
    out: *mut L::Item,
    step: usize,
    width: usize,
    add: bool,
) {
    // SAFETY: the caller's promise is the same.
    unsafe { packed::<L, R, V>(depth, a, b, b_step, out, step, width, add) };
}

#[expect(clippy::too_many_arguments, reason = "a kernel: two operands and an output with strides")]
#[cfg_attr(target_arch = "x86_64", target_feature(enable = "avx2,fma"))]
unsafe fn packed_fast<L: Registers, const R: usize, const V: usize>(
    depth: usize,
    a: Left<L::Item>,
    b: *const L::Item,
    b_step: usize,
    out: *mut L::Item,
    step: usize,
    width: usize,
    add: bool,
) {
    // SAFETY: the caller's promise is the same.
    unsafe { packed::<L, R, V>(depth, a, b, b_step, out, step, width, add) };
}

#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "as above")]
#[expect(clippy::needless_range_loop, reason = "the loops over registers unroll by their indices")]
unsafe fn packed<L: Registers, const R: usize, const V: usize>(
    depth: usize,
    a: Left<L::Item>,
    mut b: *const L::Item,
    b_step: usize,
    out: *mut L::Item,
    step: usize,
    width: usize,
    add: bool,
) {
    // The tile of the output is on its way while the sums are made.
    for i in 0..R {
        for v in 0..V {
            prefetch(out.wrapping_add(i * step + v * L::LANES));
        }
        prefetch(out.wrapping_add(i * step + width - 1));
    }
    // SAFETY: row i, vector v and step l stay below R, V and depth, and the last vector of the
    // output is read and written in part; the caller allows these accesses.
    unsafe {
        let mut sums = [[L::all(L::Item::ZERO); V]; R];
        let mut at = a.at;
        for _ in 0..depth {
            let right: [L; V] = std::array::from_fn(|v| L::read(b.add(v * L::LANES)));
            for i in 0..R {
                let left = L::all(*at.add(i * a.row));
                for v in 0..V {
                    sums[i][v] = left.times_plus(right[v], sums[i][v]);
                }
            }
            at = at.wrapping_add(a.column);
            b = b.wrapping_add(b_step);
        }
        let last = width - (V - 1) * L::LANES;
        for i in 0..R {
            for v in 0..V {
                let to = out.add(i * step + v * L::LANES);
                let sum = sums[i][v];
                if v + 1 < V || last == L::LANES {
                    if add { L::read(to).plus(sum) } else { sum }.write(to);
                } else {
                    if add { L::read_first(to, last).plus(sum) } else { sum }.write_first(to, last);
                }
            }
        }
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
