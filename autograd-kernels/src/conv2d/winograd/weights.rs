//! The weight gradient: dk = Σ Aᵀ[(G g Gᵀ) ⊙ (Bᵀ d B)]A over all tiles, the sum taken first.

use super::super::{Conv2d, weight_grad as direct};
use super::transform::{Planes, cotangent, kernel as back, patch};
use super::{PATCH, POINTS, TILE, Tiles, apart};
use crate::float::Float;
use crate::lanes::{Isa, Lanes};
use crate::matmul::Shares;
use crate::matmul::tile::{Left, Size, kernel};
use crate::memory;
use crate::output::Output;
use crate::threads::parallel_for;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// Elements of transformed tiles that lie ready at a time: they stay in the last cache.
const READY: usize = 1 << 20;
/// Tiles whose products are summed at a time.
const DEPTH: usize = 256;

/// dk, all extents of which are positive.
pub(in super::super) fn weight_grad<T: Float>(isa: Isa, g: &Conv2d, x: &[T], ct: &[T], dk: &mut [T]) {
    let (cg, og) = (g.in_channels / g.groups, g.out_channels / g.groups);
    let tiles = Tiles::of(g.out_height(), g.out_width());
    assert!(x.len() == g.batch * g.in_channels * g.height * g.width, "the input has all images");
    let pixels = tiles.height * tiles.width;
    assert!(ct.len() == g.batch * g.out_channels * pixels, "the cotangent has all images");
    assert!(dk.len() == g.out_channels * cg * 9, "there is a gradient for each weight");
    let rows = g.batch * tiles.rows;
    let together = (READY / (POINTS * (cg + og))).min(DEPTH) / tiles.columns;
    let together = together.clamp(1, rows);
    let most = together * tiles.columns;
    // A last vector of channels may reach past the end, into the elements between two points.
    let mut inputs = memory::take::<T>(POINTS * apart(most * cg));
    let mut cotangents = memory::take::<T>(POINTS * apart(most * og));
    let mut sums = memory::take::<T>(POINTS * apart(cg * og));
    let finite = AtomicBool::new(true);
    for group in 0..g.groups {
        for first in (0..rows).step_by(together) {
            let these = first..rows.min(first + together);
            let count = these.len() * tiles.columns;
            let (xs, cts) = (Output::new(&mut inputs), Output::new(&mut cotangents));
            // A task for each row of tiles and side.
            parallel_for(2 * these.len(), &|task| {
                let at = task / 2;
                let (image, row) = tiles.place(these.start + at);
                let input = task % 2 == 0;
                let (channels, [height, width], out) = match input {
                    true => (cg, [g.height, g.width], xs.start()),
                    false => (og, [tiles.height, tiles.width], cts.start()),
                };
                let all = if input { x } else { ct };
                let plane = height * width;
                let side = Side {
                    channels: &all[(image * g.groups + group) * channels * plane..][..channels * plane],
                    count: channels,
                    extent: [height, width],
                    padding: if input { g.padding } else { [0, 0] },
                    row,
                    tiles: tiles.columns,
                    step: apart(count * channels),
                };
                // SAFETY: a row's tiles are this task's, and the buffers hold all channels of
                // `count` tiles for each point; `Fast` is only chosen where the machine has its
                // instructions.
                unsafe {
                    let out = out.add(at * tiles.columns * channels);
                    match (isa, input) {
                        (Isa::Plain, true) => side.inputs::<T::Plain>(out),
                        (Isa::Plain, false) => side.cotangents::<T::Plain>(out),
                        (Isa::Fast, true) => side.inputs_fast::<T::Fast>(out),
                        (Isa::Fast, false) => side.cotangents_fast::<T::Fast>(out),
                        (Isa::Wide, true) => side.inputs_wide::<T::Fast>(out),
                        (Isa::Wide, false) => side.cotangents_wide::<T::Fast>(out),
                    }
                }
            });
            let inputs = &inputs[..POINTS * apart(count * cg)];
            let cotangents = &cotangents[..POINTS * apart(count * og)];
            let output = Output::new(&mut sums);
            parallel_for(POINTS, &|xi| {
                let size = Size::of::<T>(isa);
                let (a, b) = (&cotangents[xi * apart(count * og)..], &inputs[xi * apart(count * cg)..]);
                for panel in Shares::new(cg.div_ceil(size.lanes), size.vectors).each() {
                    let column = panel.start * size.lanes;
                    let width = (panel.len() * size.lanes).min(cg - column);
                    for channels in Shares::new(og, size.rows).each() {
                        let run = kernel::<T>(isa, channels.len(), panel.len());
                        // SAFETY: both operands have `count` rows, of og and cg channels; a last
                        // vector reads past a row into the next, and past the last row into the
                        // room behind; the sums of a point are this task's.
                        unsafe {
                            let (a, b) = (a.as_ptr().add(channels.start), b.as_ptr().add(column));
                            let out = output.start().add(xi * apart(og * cg) + channels.start * cg + column);
                            let a = Left { at: a, row: 1, column: og };
                            run(count, a, b, cg, out, cg, width, first > 0);
                        }
                    }
                }
            });
        }
        let dk = Output::new(&mut dk[group * og * cg * 9..][..og * cg * 9]);
        parallel_for(og, &|o| {
            // SAFETY: each task has the weights of its own output channel; the sums hold all
            // points of each pair of channels.
            let good = unsafe {
                match isa {
                    Isa::Plain => taps::<T::Plain>(&sums, [og, cg], o, dk.start()),
                    Isa::Fast | Isa::Wide => taps_fast::<T::Fast>(&sums, [og, cg], o, dk.start()),
                }
            };
            if !good {
                finite.store(false, Relaxed);
            }
        });
    }
    memory::give(inputs);
    memory::give(cotangents);
    memory::give(sums);
    if !finite.into_inner() {
        direct::weight_grad(isa, g, x, ct, dk);
    }
}

/// One row of tiles of the input or of the cotangent.
struct Side<'a, T> {
    /// The image's channels of the group.
    channels: &'a [T],
    count: usize,
    extent: [usize; 2],
    padding: [usize; 2],
    /// Which row of tiles.
    row: usize,
    tiles: usize,
    /// Elements from one point to the next.
    step: usize,
}

impl<T: Float> Side<'_, T> {
    #[cfg_attr(target_arch = "x86_64", target_feature(enable = "avx2,fma"))]
    unsafe fn inputs_fast<L: Lanes<Item = T>>(&self, out: *mut T) {
        // SAFETY: the caller's promise is the same.
        unsafe { self.inputs::<L>(out) };
    }

    #[cfg_attr(target_arch = "x86_64", target_feature(enable = "avx2,fma"))]
    unsafe fn cotangents_fast<L: Lanes<Item = T>>(&self, out: *mut T) {
        // SAFETY: the caller's promise is the same.
        unsafe { self.cotangents::<L>(out) };
    }

    #[cfg_attr(target_arch = "x86_64", target_feature(enable = "avx512f,avx512vl,avx2,fma"))]
    unsafe fn inputs_wide<L: Lanes<Item = T>>(&self, out: *mut T) {
        // SAFETY: the caller's promise is the same.
        unsafe { self.inputs::<L>(out) };
    }

    #[cfg_attr(target_arch = "x86_64", target_feature(enable = "avx512f,avx512vl,avx2,fma"))]
    unsafe fn cotangents_wide<L: Lanes<Item = T>>(&self, out: *mut T) {
        // SAFETY: the caller's promise is the same.
        unsafe { self.cotangents::<L>(out) };
    }

    #[inline(always)]
    unsafe fn inputs<L: Lanes<Item = T>>(&self, out: *mut T) {
        // SAFETY: the caller's promise is the same.
        unsafe {
            self.each::<L, PATCH>(out);
        }
    }

    #[inline(always)]
    unsafe fn cotangents<L: Lanes<Item = T>>(&self, out: *mut T) {
        // SAFETY: the caller's promise is the same.
        unsafe {
            self.each::<L, TILE>(out);
        }
    }

    /// `out[xi·step + t·count + c]` = point xi of tile t in channel c, from R × R pixels of each
    /// tile: patches of the input or tiles of the cotangent.
    ///
    /// # Safety
    /// All these elements can be written and no one else uses them meanwhile; the machine has the
    /// instructions of `L`.
    #[inline(always)]
    unsafe fn each<L: Lanes<Item = T>, const R: usize>(&self, out: *mut T) {
        let ([height, width], [top, left]) = (self.extent, self.padding);
        let planes = || Planes::new::<L>(R, width, left, self.tiles);
        // As many channels as a vector has lanes, so that squares of them can be transposed.
        let mut channels: [Planes<T>; 8] = std::array::from_fn(|_| planes());
        let mut points = [[T::ZERO; 64]; POINTS];
        let mut square = [T::ZERO; 64];
        for first in (0..self.count).step_by(L::LANES) {
            let own = (self.count - first).min(L::LANES);
            for (c, planes) in channels.iter_mut().enumerate().take(own) {
                let x = &self.channels[(first + c) * height * width..][..height * width];
                // SAFETY: the caller's promise.
                unsafe {
                    planes.fill::<L>(|i| {
                        let row = (self.row * TILE + i).checked_sub(top).filter(|&row| row < height)?;
                        Some(&x[row * width..][..width])
                    });
                }
            }
            for t in (0..self.tiles).step_by(L::LANES) {
                for (c, planes) in channels.iter().enumerate().take(own) {
                    // SAFETY: t is a tile; there is room for LANES rows of LANES elements.
                    unsafe {
                        let values = points_of::<L, R>(planes, t);
                        for (points, value) in points.iter_mut().zip(values.as_flattened()) {
                            value.store(points.as_mut_ptr().add(c * L::LANES));
                        }
                    }
                }
                for (xi, points) in points.iter().enumerate() {
                    // SAFETY: both squares have LANES · LANES elements; `own` channels of the tiles
                    // that exist are written.
                    unsafe {
                        L::transpose(points.as_ptr(), L::LANES, square.as_mut_ptr(), L::LANES);
                        for i in 0..(self.tiles - t).min(L::LANES) {
                            let to = out.add(xi * self.step + (t + i) * self.count + first);
                            let row = L::load(square.as_ptr().add(i * L::LANES));
                            if own == L::LANES { row.store(to) } else { row.store_first(to, own) }
                        }
                    }
                }
            }
        }
        channels.into_iter().for_each(Planes::give);
    }
}

/// The points of a vector of tiles.
///
/// # Safety
/// As [`Planes::at`].
#[inline(always)]
unsafe fn points_of<L: Lanes, const R: usize>(planes: &Planes<L::Item>, t: usize) -> [[L; PATCH]; PATCH] {
    // SAFETY: the caller's promise is the same.
    unsafe {
        match R {
            PATCH => patch(&planes.at::<L, PATCH>(t)),
            _ => cotangent(&planes.at::<L, TILE>(t)),
        }
    }
}

#[cfg_attr(target_arch = "x86_64", target_feature(enable = "avx2,fma"))]
unsafe fn taps_fast<L: Lanes>(sums: &[L::Item], channels: [usize; 2], o: usize, dk: *mut L::Item) -> bool {
    // SAFETY: the caller's promise is the same.
    unsafe { taps::<L>(sums, channels, o, dk) }
}

/// The nine taps of all weights of output channel o; whether they are finite.
///
/// # Safety
/// `dk` holds the group's weights, those of channel o are no one else's, and the machine has the
/// instructions of `L`.
#[inline(always)]
unsafe fn taps<L: Lanes>(sums: &[L::Item], [og, cg]: [usize; 2], o: usize, dk: *mut L::Item) -> bool {
    assert!(sums.len() >= POINTS * apart(og * cg) && o < og, "there are sums for all points");
    let mut bad = L::num(0.0);
    for c in (0..cg).step_by(L::LANES) {
        let own = (cg - c).min(L::LANES);
        // SAFETY: pairs (o, c ..) are among the sums of each point, `own` of them.
        unsafe {
            let mut points = [[L::num(0.0); PATCH]; PATCH];
            for (xi, point) in points.as_flattened_mut().iter_mut().enumerate() {
                let from = sums.as_ptr().add(xi * apart(og * cg) + o * cg + c);
                *point = if own == L::LANES { L::load(from) } else { L::load_first(from, own) };
            }
            for (tap, value) in back(&points).as_flattened().iter().enumerate() {
                bad = value.mul_add(L::num(0.0), bad);
                for (i, value) in value.lanes().into_iter().enumerate().take(own) {
                    *dk.add((o * cg + c + i) * 9 + tap) = value;
                }
            }
        }
    }
    !bad.is_nan().any()
}
