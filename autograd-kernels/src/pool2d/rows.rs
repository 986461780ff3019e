//! Windows of one plane, a vector of neighbouring ones at a time.
//!
//! The taps of a window are met in row-major order, whether it is computed in a vector or alone.

use super::Pool2d;
use crate::float::Float;
use crate::lanes::{Isa, Lanes};
use crate::memory::list::List;
use crate::simd::Float as _;
use std::ops::Range;

/// The maxima of a plane and their flat indices in it.
pub(super) fn maxima<T: Float>(isa: Isa, g: &Pool2d, x: &[T], y: &mut [T], at: &mut [u32]) {
    assert_plane(g, x, y);
    assert!(at.len() == y.len(), "one index for each maximum");
    // SAFETY: lengths were checked; `Fast` is only chosen where the machine has its instructions.
    unsafe {
        match isa {
            Isa::Plain => maxima_of::<T::Plain>(g, x, y, at),
            Isa::Fast | Isa::Wide => maxima_fast::<T::Fast>(g, x, y, at),
        }
    }
}

/// The means of the windows of a plane.
pub(super) fn means<T: Float>(isa: Isa, g: &Pool2d, x: &[T], y: &mut [T]) {
    assert_plane(g, x, y);
    // SAFETY: as in `maxima`.
    unsafe {
        match isa {
            Isa::Plain => means_of::<T::Plain>(g, x, y),
            Isa::Fast | Isa::Wide => means_fast::<T::Fast>(g, x, y),
        }
    }
}

/// Spreads the cotangents of a plane evenly over their windows.
pub(super) fn spread<T: Float>(g: &Pool2d, ct: &[T], dx: &mut [T]) {
    let (width, scale) = (g.width, T::reciprocal(g.kernel[0] * g.kernel[1]));
    // Windows side by side that cover whole pairs: each element belongs to one of them.
    let pairs = g.kernel == [2, 2] && g.stride == [2, 2] && g.padding == [0, 0];
    dx.fill(T::ZERO);
    for (i, ct) in ct.chunks_exact(g.out_width().max(1)).enumerate() {
        for h in g.window(0, i) {
            let dx = &mut dx[h * width..][..width];
            if pairs {
                for (pair, &ct) in dx.chunks_exact_mut(2).zip(ct) {
                    pair.fill(ct * scale);
                }
                continue;
            }
            let (inner, step) = (inner(g), g.stride[1]);
            for (j, &ct) in ct.iter().enumerate().filter(|(j, _)| !inner.contains(j)) {
                dx[g.window(1, j)].iter_mut().for_each(|dx| *dx += ct * scale);
            }
            let Some(ct) = ct.get(inner.clone()).filter(|ct| !ct.is_empty()) else { continue };
            let dx = &mut dx[inner.start * step - g.padding[1]..];
            for q in 0..g.kernel[1] {
                for (dx, &ct) in dx[q..].iter_mut().step_by(step).zip(ct) {
                    *dx += ct * scale;
                }
            }
        }
    }
}

fn assert_plane<T>(g: &Pool2d, x: &[T], y: &[T]) {
    assert!(x.len() == g.height * g.width, "the input is a plane");
    assert!(y.len() == g.out_height() * g.out_width(), "the output is a plane");
}

/// The windows of a row that lie between the left and the right border.
fn inner(g: &Pool2d) -> Range<usize> {
    let start = g.padding[1].div_ceil(g.stride[1]);
    let room = (g.width + g.padding[1]).checked_sub(g.kernel[1]);
    start..room.map_or(0, |room| room / g.stride[1] + 1)
}

/// Walks the windows of a plane: `vector(j, rows, first)` for LANES of them from column j of the
/// output on, whose first element is number `first` of the plane, and `one(i, j)` for a single one.
#[inline(always)]
fn walk<L: Lanes>(
    g: &Pool2d,
    mut vector: impl FnMut(usize, Range<usize>, usize),
    mut one: impl FnMut(usize, usize),
) {
    let (inner, columns, plane) = (inner(g), g.out_width(), g.height * g.width);
    for i in 0..g.out_height() {
        let rows = g.window(0, i);
        let mut j = 0;
        while j < columns {
            // The last vector of a row goes back over windows that are done, to be a whole one.
            let start = if j + L::LANES > inner.end && inner.contains(&j) {
                inner.end.saturating_sub(L::LANES)
            } else {
                j
            };
            let first = rows.start * g.width + (start * g.stride[1]).saturating_sub(g.padding[1]);
            // A vector reads up to the last tap of its last window, and a step further.
            let last = rows.len().saturating_sub(1) * g.width + g.kernel[1] - 1;
            if inner.contains(&start)
                && start + L::LANES <= inner.end
                && first + last + L::LANES * g.stride[1] <= plane
            {
                vector(i * columns + start, rows.clone(), first);
                j = start + L::LANES;
            } else {
                one(i, j);
                j += 1;
            }
        }
    }
}

#[cfg_attr(target_arch = "x86_64", target_feature(enable = "avx2,fma"))]
unsafe fn maxima_fast<L: Lanes>(g: &Pool2d, x: &[L::Item], y: &mut [L::Item], at: &mut [u32]) {
    // SAFETY: the caller's promise is the same.
    unsafe { maxima_of::<L>(g, x, y, at) };
}

#[inline(always)]
unsafe fn maxima_of<L: Lanes>(g: &Pool2d, x: &[L::Item], y: &mut [L::Item], at: &mut [u32]) {
    let (columns, step) = (g.out_width(), g.stride[1]);
    // Where each tap of a window lies, from its first.
    let tap = |tap: usize| (tap / g.kernel[1] * g.width + tap % g.kernel[1]) as u32;
    let places: List<u32> = (0..g.kernel[0] * g.kernel[1]).map(tap).collect();
    // The vector and the single windows both write; the walk takes them in turn.
    let (y, at) = (std::cell::RefCell::new(y), std::cell::RefCell::new(at));
    walk::<L>(
        g,
        |to, rows, first| {
            let mut tags = [L::Item::ZERO; 8];
            // SAFETY: the walk keeps all taps of LANES windows inside the plane and the windows
            // inside a row of the output.
            unsafe {
                let (mut best, mut tag) = (L::splat(L::Item::LOWEST), L::splat(L::Item::ZERO));
                let (mut number, one) = (tag, L::splat(L::Item::reciprocal(1)));
                for h in 0..rows.len() {
                    for q in 0..g.kernel[1] {
                        let x = x.as_ptr().add(first + h * g.width + q);
                        (best, tag) = best.raise(tag, L::load_every(x, step), number);
                        number = number + one;
                    }
                }
                best.store(y.borrow_mut().as_mut_ptr().add(to));
                tag.store(tags.as_mut_ptr());
            }
            // The winning tap's number, a small whole float, tells where it is.
            for (v, at) in at.borrow_mut()[to..to + L::LANES].iter_mut().enumerate() {
                *at = (first + v * step) as u32 + places[tags[v].whole() as usize];
            }
        },
        |i, j| {
            let (rows, taps) = (g.window(0, i), g.window(1, j));
            let mut best = (L::Item::LOWEST, (rows.start * g.width + taps.start) as u32);
            for h in rows {
                for w in taps.clone() {
                    best = better(best, (x[h * g.width + w], (h * g.width + w) as u32));
                }
            }
            (y.borrow_mut()[i * columns + j], at.borrow_mut()[i * columns + j]) = best;
        },
    );
}

/// The larger of the best so far and another element; a NaN takes the place of anything.
#[inline(always)]
#[expect(clippy::eq_op, reason = "only a NaN differs from itself")]
fn better<T: Float>(best: (T, u32), other: (T, u32)) -> (T, u32) {
    if other.0 > best.0 || other.0 != other.0 { other } else { best }
}

#[cfg_attr(target_arch = "x86_64", target_feature(enable = "avx2,fma"))]
unsafe fn means_fast<L: Lanes>(g: &Pool2d, x: &[L::Item], y: &mut [L::Item]) {
    // SAFETY: the caller's promise is the same.
    unsafe { means_of::<L>(g, x, y) };
}

#[inline(always)]
unsafe fn means_of<L: Lanes>(g: &Pool2d, x: &[L::Item], y: &mut [L::Item]) {
    let (columns, step) = (g.out_width(), g.stride[1]);
    let scale = L::Item::reciprocal(g.kernel[0] * g.kernel[1]);
    let y = std::cell::RefCell::new(y);
    walk::<L>(
        g,
        // SAFETY: as in `maxima_of`.
        |to, rows, first| unsafe {
            let mut sum = L::splat(L::Item::ZERO);
            for h in 0..rows.len() {
                for q in 0..g.kernel[1] {
                    sum = sum + L::load_every(x.as_ptr().add(first + h * g.width + q), step);
                }
            }
            let mean = sum.mul_add(L::splat(scale), L::splat(L::Item::ZERO));
            mean.store(y.borrow_mut().as_mut_ptr().add(to));
        },
        |i, j| {
            let mut sum = L::Item::ZERO;
            for h in g.window(0, i) {
                x[h * g.width..][g.window(1, j)].iter().for_each(|&x| sum += x);
            }
            y.borrow_mut()[i * columns + j] = sum * scale;
        },
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_and_fast_instructions_agree() {
        let x: Vec<f32> = (0..21 * 40).map(|i| ((i * 37 + i / 7) % 23) as f32).collect();
        for kernel in [[2, 2], [3, 3], [1, 4]] {
            for stride in [[1, 1], [2, 2], [1, 3]] {
                let padding = [kernel[0] / 2, kernel[1] / 2];
                let g = Pool2d { planes: 1, height: 21, width: 40, kernel, stride, padding };
                let results = Isa::all().into_iter().map(|isa| {
                    let len = g.out_height() * g.out_width();
                    let (mut y, mut at, mut mean) = (vec![0.0; len], vec![0; len], vec![0.0; len]);
                    maxima(isa, &g, &x, &mut y, &mut at);
                    means(isa, &g, &x, &mut mean);
                    (y, at, mean)
                });
                let results: Vec<_> = results.collect();
                assert!(results.iter().all(|result| *result == results[0]), "{g:?}");
            }
        }
    }
}
