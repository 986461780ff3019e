//! The matrices of F(4, 3) and F(3, 4) over the points 0, ±1, ±2 and ∞, applied to vectors of tiles.

use super::{PATCH, POINTS, TILE};
use crate::lanes::Lanes;

/// Bᵀ: six inputs to six points.
#[inline(always)]
fn inputs<L: Lanes>(d: [L; PATCH]) -> [L; PATCH] {
    let (two, four, five) = (L::num(2.0), L::num(4.0), L::num(-5.0));
    let minus_four = L::num(-4.0);
    let (even, odd) = (minus_four.mul_add(d[2], d[4]), minus_four.mul_add(d[1], d[3]));
    let (high, low) = (d[4] - d[2], two * (d[3] - d[1]));
    [
        four.mul_add(d[0], five.mul_add(d[2], d[4])),
        even + odd,
        even - odd,
        high + low,
        high - low,
        four.mul_add(d[1], five.mul_add(d[3], d[5])),
    ]
}

/// Aᵀ of F(4, 3): six points to four outputs.
#[inline(always)]
fn outputs<L: Lanes>(m: [L; PATCH]) -> [L; TILE] {
    let (one, minus_one) = (m[1] + m[2], m[1] - m[2]);
    let (two, minus_two) = (m[3] + m[4], m[3] - m[4]);
    [
        m[0] + (one + two),
        L::num(2.0).mul_add(minus_two, minus_one),
        L::num(4.0).mul_add(two, one),
        L::num(8.0).mul_add(minus_two, minus_one) + m[5],
    ]
}

/// G of F(3, 4): four cotangents to six points.
#[inline(always)]
fn cotangents<L: Lanes>(g: [L; TILE]) -> [L; PATCH] {
    let (even, odd) = (g[0] + g[2], g[1] + g[3]);
    let four = L::num(4.0);
    let (far_even, far_odd) = (four.mul_add(g[2], g[0]), L::num(2.0) * four.mul_add(g[3], g[1]));
    let (sixth, small) = (L::num(-1.0 / 6.0), L::num(1.0 / 24.0));
    [
        L::num(0.25) * g[0],
        sixth * (even + odd),
        sixth * (even - odd),
        small * (far_even + far_odd),
        small * (far_even - far_odd),
        g[3],
    ]
}

/// Aᵀ of F(3, 4): six points to three taps.
#[inline(always)]
fn taps<L: Lanes>(m: [L; PATCH]) -> [L; 3] {
    let (one, minus_one) = (m[1] + m[2], m[1] - m[2]);
    let (two, minus_two) = (m[3] + m[4], m[3] - m[4]);
    [m[0] + (one + two), L::num(2.0).mul_add(minus_two, minus_one), L::num(4.0).mul_add(two, one) + m[5]]
}

/// M x Mᵀ for one of the matrices: columns, then rows.
///
/// Loops, and no closures: what is not inlined would lose the instructions of `L`.
macro_rules! both_ways {
    ($(#[$doc:meta])* $name:ident, $matrix:ident, $from:expr, $to:expr) => {
        $(#[$doc])*
        #[inline(always)]
        pub(super) fn $name<L: Lanes>(x: &[[L; $from]; $from]) -> [[L; $to]; $to] {
            let mut columns = [[L::num(0.0); $to]; $from];
            for j in 0..$from {
                let mut column = [L::num(0.0); $from];
                for i in 0..$from {
                    column[i] = x[i][j];
                }
                columns[j] = $matrix(column);
            }
            let mut out = [[L::num(0.0); $to]; $to];
            for i in 0..$to {
                let mut row = [L::num(0.0); $from];
                for j in 0..$from {
                    row[j] = columns[j][i];
                }
                out[i] = $matrix(row);
            }
            out
        }
    };
}

both_ways!(
    /// Bᵀ d B for the input (row, column).
    patch,
    inputs,
    PATCH,
    PATCH
);
both_ways!(
    /// Aᵀ m A for the point (row, column).
    tile,
    outputs,
    PATCH,
    TILE
);
both_ways!(
    /// G g Gᵀ of F(3, 4) for the cotangent (row, column).
    cotangent,
    cotangents,
    TILE,
    PATCH
);
both_ways!(
    /// Aᵀ m A of F(3, 4) for the point (row, column).
    kernel,
    taps,
    PATCH,
    3
);

/// G of F(4, 3): three taps to six points.
const KERNEL: [[f64; 3]; PATCH] = [
    [0.25, 0.0, 0.0],
    [-1.0 / 6.0, -1.0 / 6.0, -1.0 / 6.0],
    [-1.0 / 6.0, 1.0 / 6.0, -1.0 / 6.0],
    [1.0 / 24.0, 1.0 / 12.0, 1.0 / 6.0],
    [1.0 / 24.0, -1.0 / 12.0, 1.0 / 6.0],
    [0.0, 0.0, 1.0],
];

/// G k Gᵀ, computed in f64: it is done once for all tiles.
pub(super) fn points(k: [f64; 9]) -> [f64; POINTS] {
    let rows: [[f64; 3]; PATCH] =
        std::array::from_fn(|i| std::array::from_fn(|q| (0..3).map(|p| KERNEL[i][p] * k[3 * p + q]).sum()));
    std::array::from_fn(|xi| (0..3).map(|q| rows[xi / PATCH][q] * KERNEL[xi % PATCH][q]).sum())
}

/// Four planes of the rows that one row of tiles sees: column 4·t + k of row i is element t of
/// plane k, so that neighbouring tiles lie side by side.
pub(super) struct Planes<T> {
    /// Zeros, a row of the image, zeros.
    line: Vec<T>,
    /// Zeros before the image's row.
    before: usize,
    width: usize,
    planes: Vec<T>,
    /// Elements of a plane.
    step: usize,
}

/// to = from, a few vectors long: in place of a call.
///
/// # Safety
/// The machine has the instructions of `L`.
#[inline(always)]
unsafe fn copy<L: Lanes>(from: &[L::Item], to: &mut [L::Item]) {
    assert!(from.len() == to.len(), "both have one length");
    let whole = to.len() / L::LANES * L::LANES;
    for i in (0..whole).step_by(L::LANES) {
        // SAFETY: i + LANES is at most the length of both.
        unsafe { L::load(from.as_ptr().add(i)).store(to.as_mut_ptr().add(i)) };
    }
    #[expect(clippy::manual_memcpy, reason = "a call of memmove costs more than the few elements")]
    for i in whole..to.len() {
        to[i] = from[i];
    }
}

impl<T: crate::float::Float> Planes<T> {
    /// For `rows` rows of `width` pixels, of which the first is pixel `before` of the tiles' line.
    pub(super) fn new<L: Lanes<Item = T>>(rows: usize, width: usize, before: usize, tiles: usize) -> Self {
        let step = (tiles + 1).next_multiple_of(L::LANES) + L::LANES;
        let line = crate::memory::zeros::<T>((4 * step).max(before + width));
        let planes = crate::memory::zeros::<T>(rows * 4 * step);
        Self { line, before, width, planes, step }
    }

    /// Fills the rows; `row(i)` is where row i of the image begins, `None` outside of it.
    ///
    /// # Safety
    /// The machine has the instructions of `L`.
    #[inline(always)]
    pub(super) unsafe fn fill<'a, L: Lanes<Item = T>>(&mut self, row: impl Fn(usize) -> Option<&'a [T]>)
    where
        T: 'a,
    {
        for (i, planes) in self.planes.chunks_exact_mut(4 * self.step).enumerate() {
            let Some(row) = row(i) else {
                planes.fill(T::ZERO);
                continue;
            };
            // SAFETY: the machine has the instructions.
            unsafe { copy::<L>(row, &mut self.line[self.before..self.before + self.width]) };
            for t in (0..self.step - L::LANES).step_by(L::LANES) {
                // SAFETY: t + LANES stays below the step; the line has four times as many elements
                // and each plane a step of them.
                unsafe {
                    let fours = L::load_fours(self.line.as_ptr().add(4 * t));
                    for (k, four) in fours.into_iter().enumerate() {
                        four.store(planes.as_mut_ptr().add(k * self.step + t));
                    }
                }
            }
        }
    }

    /// R × R values of the tiles from `t` on: row i, column j of each.
    ///
    /// # Safety
    /// t is a tile of the row, there are R rows, and the machine has the instructions of `L`.
    #[inline(always)]
    pub(super) unsafe fn at<L: Lanes<Item = T>, const R: usize>(&self, t: usize) -> [[L; R]; R] {
        assert!(4 * R * self.step <= self.planes.len() && t + 1 + L::LANES <= self.step);
        let mut out = [[L::num(0.0); R]; R];
        for (i, row) in out.iter_mut().enumerate() {
            for (j, value) in row.iter_mut().enumerate() {
                let at = (4 * i + j % 4) * self.step + t + j / 4;
                // SAFETY: the vector ends within its plane, as just checked.
                *value = unsafe { L::load(self.planes.as_ptr().add(at)) };
            }
        }
        out
    }

    pub(super) fn give(self) {
        crate::memory::give(self.line);
        crate::memory::give(self.planes);
    }
}
