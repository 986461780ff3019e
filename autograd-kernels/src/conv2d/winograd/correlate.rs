//! Forward pass and input gradient: both correlate an image with kernels of 3 × 3 taps.

use super::super::{Conv2d, passes};
use super::transform::{Planes, patch, points, tile};
use super::{PATCH, POINTS, TILE, Tiles, apart};
use crate::float::Float;
use crate::lanes::{Isa, Lanes};
use crate::matmul::Shares;
use crate::matmul::then::Then;
use crate::matmul::tile::{Left, Size, kernel};
use crate::memory;
use crate::output::Output;
use crate::simd::Float as _;
use crate::threads::{Disjoint, parallel_for};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// Elements of a task's transformed input: they stay in the second cache.
const CACHED: usize = 160 << 10;
/// Tiles of a task, where that is as many.
const TOGETHER: usize = 64;
/// Tasks there are at least, where the rows of tiles allow it.
const TASKS: usize = 8;

/// y, all extents of which are positive.
pub(in super::super) fn forward<T: Float>(
    isa: Isa,
    g: &Conv2d,
    x: &[T],
    k: &[T],
    y: &mut [T],
    then: Then<'_, T>,
) {
    let (cg, og) = (g.in_channels / g.groups, g.out_channels / g.groups);
    let pass = Pass {
        isa,
        groups: g.groups,
        channels: [cg, og],
        extent: [g.height, g.width],
        tiles: Tiles::of(g.out_height(), g.out_width()),
        padding: g.padding,
    };
    let wrong = pass.run(g.batch, x, y, then, |group, o, c| {
        let k = &k[((group * og + o) * cg + c) * 9..][..9];
        std::array::from_fn(|tap| k[tap].to_f64())
    });
    let (from, to) = (g.in_channels * g.height * g.width, g.out_channels * g.out_height() * g.out_width());
    for image in wrong {
        let one = Conv2d { batch: 1, ..*g };
        let (x, y) = (&x[image * from..][..from], &mut y[image * to..][..to]);
        passes::forward(isa, &one, x, k, y, then.at(image * g.out_channels));
    }
}

/// dx, all extents of which are positive.
pub(in super::super) fn input_grad<T: Float>(
    isa: Isa,
    g: &Conv2d,
    ct: &[T],
    k: &[T],
    dx: &mut [T],
    then: Then<'_, T>,
) {
    let (cg, og) = (g.in_channels / g.groups, g.out_channels / g.groups);
    let pass = Pass {
        isa,
        groups: g.groups,
        channels: [og, cg],
        extent: [g.out_height(), g.out_width()],
        tiles: Tiles::of(g.height, g.width),
        padding: g.padding.map(|padding| 2 - padding),
    };
    let wrong = pass.run(g.batch, ct, dx, then, |group, c, o| {
        let k = &k[((group * og + o) * cg + c) * 9..][..9];
        std::array::from_fn(|tap| k[8 - tap].to_f64())
    });
    let (from, to) = (g.out_channels * g.out_height() * g.out_width(), g.in_channels * g.height * g.width);
    for image in wrong {
        let one = Conv2d { batch: 1, ..*g };
        let (ct, dx) = (&ct[image * from..][..from], &mut dx[image * to..][..to]);
        passes::input_grad(isa, &one, ct, k, dx, then.at(image * g.in_channels));
    }
}

/// A correlation: the output has the tiles' extent and channels\[1\] channels in each group.
struct Pass {
    isa: Isa,
    groups: usize,
    channels: [usize; 2],
    /// Of an input channel.
    extent: [usize; 2],
    tiles: Tiles,
    padding: [usize; 2],
}

/// Operands of a pass.
#[derive(Clone, Copy)]
struct Operands<'a, T> {
    x: &'a [T],
    /// For each group, point and input channel the weights of all output channels.
    weights: &'a [T],
    output: &'a Output<'a, T>,
}

impl Pass {
    /// The images whose result is not finite. `taps(group, o, c)` are the weights.
    fn run<T: Float>(
        &self,
        batch: usize,
        x: &[T],
        out: &mut [T],
        then: Then<'_, T>,
        taps: impl Fn(usize, usize, usize) -> [f64; 9] + Sync,
    ) -> Vec<usize> {
        let [from, to] = self.channels;
        let (pixels, tiles) = (self.extent[0] * self.extent[1], self.tiles);
        assert!(x.len() == batch * self.groups * from * pixels, "the input has all images");
        let planes = batch * self.groups * to;
        assert!(out.len() == planes * tiles.height * tiles.width, "the output has room for all images");
        let mut weights = memory::take::<T>(self.groups * POINTS * from * to);
        let parts = Disjoint::new(&mut weights);
        parallel_for(self.groups * from, &|task| {
            let (group, c) = (task / from, task % from);
            for o in 0..to {
                for (xi, value) in points(taps(group, o, c)).into_iter().enumerate() {
                    let at = ((group * POINTS + xi) * from + c) * to + o;
                    // SAFETY: each task has its own input channel.
                    unsafe { parts.part(at..at + 1)[0] = T::from_f64(value) };
                }
            }
        });
        let wrong: Vec<AtomicBool> = (0..batch).map(|_| AtomicBool::new(false)).collect();
        let rows = batch * tiles.rows;
        let together = TOGETHER.min(CACHED / (POINTS * from)) / tiles.columns;
        let together = together.min(rows / TASKS).max(1);
        let output = Output::new(out);
        let operands = Operands { x, weights: &weights, output: &output };
        parallel_for(rows.div_ceil(together) * self.groups, &|task| {
            let (unit, group) = (task / self.groups, task % self.groups);
            let rows = unit * together..rows.min((unit + 1) * together);
            // SAFETY: tasks write different rows of tiles or groups of channels; `Fast` is only
            // chosen where the machine has its instructions.
            let finite = unsafe {
                match self.isa {
                    Isa::Plain => self.unit::<T::Plain>(operands, group, rows.clone()),
                    Isa::Fast => self.unit_fast::<T::Fast>(operands, group, rows.clone()),
                    Isa::Wide => self.unit_wide::<T::Fast>(operands, group, rows.clone()),
                }
            };
            if finite {
                // SAFETY: the rows of this group are written, by this task.
                unsafe { self.follow(operands.output, group, rows, then) };
            } else {
                // Rows of a unit may belong to several images; a plain sum is right for any.
                rows.for_each(|row| wrong[tiles.place(row).0].store(true, Relaxed));
            }
        });
        memory::give(weights);
        (0..batch).filter(|&image| wrong[image].load(Relaxed)).collect()
    }

    /// What follows, for some rows of tiles of a group: for each image its pixels of all channels.
    ///
    /// # Safety
    /// They are written, and no other task uses them.
    unsafe fn follow<T: Float>(
        &self,
        output: &Output<'_, T>,
        group: usize,
        rows: Range<usize>,
        then: Then<'_, T>,
    ) {
        let (tiles, channels) = (self.tiles, self.channels[1]);
        let plane = tiles.height * tiles.width;
        let mut row = rows.start;
        while row < rows.end {
            let (image, first) = tiles.place(row);
            let count = (tiles.rows - first).min(rows.end - row);
            row += count;
            let lines = first * TILE..tiles.height.min((first + count) * TILE);
            let planes = (image * self.groups + group) * channels;
            let pixels = lines.start * tiles.width..lines.end * tiles.width;
            // SAFETY: the caller's promise.
            unsafe { then.block(output.start(), plane, planes..planes + channels, pixels) };
        }
    }

    /// With 32 registers for the same vectors: the transforms of a tile spill less.
    #[cfg_attr(target_arch = "x86_64", target_feature(enable = "avx512f,avx512vl,avx2,fma"))]
    unsafe fn unit_wide<L: Lanes>(
        &self,
        operands: Operands<'_, L::Item>,
        group: usize,
        rows: Range<usize>,
    ) -> bool {
        // SAFETY: the caller's promise is the same.
        unsafe { self.unit::<L>(operands, group, rows) }
    }

    #[cfg_attr(target_arch = "x86_64", target_feature(enable = "avx2,fma"))]
    unsafe fn unit_fast<L: Lanes>(
        &self,
        operands: Operands<'_, L::Item>,
        group: usize,
        rows: Range<usize>,
    ) -> bool {
        // SAFETY: the caller's promise is the same.
        unsafe { self.unit::<L>(operands, group, rows) }
    }

    /// Some rows of tiles of one group; whether all outputs are finite.
    ///
    /// # Safety
    /// The operands are as `run` checked them, no other task writes these rows of this group, and
    /// the machine has the instructions of `L`.
    #[inline(always)]
    unsafe fn unit<L: Lanes>(
        &self,
        operands: Operands<'_, L::Item>,
        group: usize,
        rows: Range<usize>,
    ) -> bool {
        let [from, to] = self.channels;
        let size = Size::of::<L::Item>(self.isa);
        let count = rows.len() * self.tiles.columns;
        // Whole vectors of the matrix product.
        let room = count.next_multiple_of(size.lanes);
        // A last vector of tiles may reach past the end, into the elements between two points.
        let mut inputs = memory::take::<L::Item>(POINTS * apart(from * room));
        // SAFETY: the caller's promise.
        unsafe { self.transform::<L>(operands.x, group, rows.clone(), room, &mut inputs) };
        let weights = &operands.weights[group * POINTS * from * to..][..POINTS * from * to];
        let mut sums = memory::take::<L::Item>(POINTS * apart(size.rows * room));
        let mut finite = true;
        let panels = Shares::new(room / size.lanes, size.vectors);
        for channels in Shares::new(to, size.rows).each() {
            for (xi, sums) in sums.chunks_exact_mut(apart(channels.len() * room)).take(POINTS).enumerate() {
                let inputs = &inputs[xi * apart(from * room)..][..from * room];
                let weights = &weights[xi * from * to..][..from * to];
                for panel in panels.each() {
                    let run = kernel::<L::Item>(self.isa, channels.len(), panel.len());
                    let (column, width) = (panel.start * size.lanes, panel.len() * size.lanes);
                    // SAFETY: the weights of all input channels begin at these output channels,
                    // the inputs and sums have `room` columns for each channel.
                    unsafe {
                        let (a, b) = (weights.as_ptr().add(channels.start), inputs.as_ptr().add(column));
                        let out = sums.as_mut_ptr().add(column);
                        let a = Left { at: a, row: 1, column: to };
                        run(from, a, b, room, out, room, width, false);
                    }
                }
            }
            // SAFETY: the caller's promise; the sums hold all points of these channels.
            finite &= unsafe { self.write::<L>(operands.output, group, rows.clone(), channels, room, &sums) };
        }
        memory::give(sums);
        memory::give(inputs);
        finite
    }

    /// inputs\[xi\]\[c\]\[t\] = (Bᵀ d B)\[xi\] for the patches of all tiles.
    #[inline(always)]
    unsafe fn transform<L: Lanes>(
        &self,
        x: &[L::Item],
        group: usize,
        rows: Range<usize>,
        room: usize,
        inputs: &mut [L::Item],
    ) {
        let ([height, width], [top, left]) = (self.extent, self.padding);
        let (from, tiles) = (self.channels[0], self.tiles);
        let step = apart(from * room);
        assert!(inputs.len() >= POINTS * step, "there is room for all tiles");
        let mut planes = Planes::new::<L>(PATCH, width, left, tiles.columns);
        for (at, row) in rows.enumerate() {
            let (image, row) = tiles.place(row);
            for c in 0..from {
                let x = &x[((image * self.groups + group) * from + c) * height * width..];
                // SAFETY: the caller's promise.
                unsafe {
                    planes.fill::<L>(|i| {
                        let row = (row * TILE + i).checked_sub(top).filter(|&row| row < height)?;
                        Some(&x[row * width..][..width])
                    });
                }
                for t in (0..tiles.columns).step_by(L::LANES) {
                    // SAFETY: t is a tile; a vector may reach into the tiles that come next, which
                    // are written later, unless they are those of another channel.
                    unsafe {
                        let d = patch(&planes.at::<L, PATCH>(t));
                        let own = (tiles.columns - t).min(L::LANES);
                        for (xi, value) in d.as_flattened().iter().enumerate() {
                            let to = inputs.as_mut_ptr();
                            let to = to.add(xi * step + c * room + at * tiles.columns + t);
                            if own == L::LANES { value.store(to) } else { value.store_first(to, own) }
                        }
                    }
                }
            }
        }
        planes.give();
    }

    /// Transforms the sums of some channels back and writes their pixels; whether all are finite.
    #[inline(always)]
    unsafe fn write<L: Lanes>(
        &self,
        output: &Output<'_, L::Item>,
        group: usize,
        rows: Range<usize>,
        channels: Range<usize>,
        room: usize,
        sums: &[L::Item],
    ) -> bool {
        let (tiles, count) = (self.tiles, channels.len());
        let step = apart(count * room);
        assert!(sums.len() >= POINTS * step, "there are sums for all tiles");
        let mut bad = L::num(0.0);
        for (at, row) in rows.enumerate() {
            let (image, row) = tiles.place(row);
            for (i, channel) in channels.clone().enumerate() {
                let plane = (image * self.groups + group) * self.channels[1] + channel;
                for t in (0..tiles.columns).step_by(L::LANES) {
                    let own = (tiles.columns - t).min(L::LANES);
                    let (at, column) = (at * tiles.columns + t, t * TILE);
                    let width = (tiles.width - column).min(TILE * own);
                    // SAFETY: the sums have `room` tiles for each point and channel, and vectors
                    // end within the buffer; the pixels lie in the channel's plane, which is this
                    // task's.
                    unsafe {
                        let sums = sums.as_ptr().add(i * room + at);
                        let mut points = [[L::num(0.0); PATCH]; PATCH];
                        for (xi, point) in points.as_flattened_mut().iter_mut().enumerate() {
                            *point = L::load(sums.add(xi * step));
                        }
                        let out = tile(&points);
                        for (y, out) in out.into_iter().enumerate() {
                            for x in out {
                                let x = if own == L::LANES { x } else { x.keep_first(own) };
                                bad = x.mul_add(L::num(0.0), bad);
                            }
                            let line = row * TILE + y;
                            if line < tiles.height {
                                let to = (plane * tiles.height + line) * tiles.width + column;
                                let to = output.start().add(to);
                                if width == TILE * L::LANES {
                                    L::store_fours(out, to);
                                } else {
                                    let mut pixels = [L::Item::ZERO; 4 * 8];
                                    L::store_fours(out, pixels.as_mut_ptr());
                                    std::ptr::copy_nonoverlapping(pixels.as_ptr(), to, width);
                                }
                            }
                        }
                    }
                }
            }
        }
        !bad.is_nan().any()
    }
}
