//! The weight gradient: dot products of cotangent planes and shifted images.
//!
//! A tile holds the sums of R output channels and T taps, each a vector that runs over the pixels
//! of a block of images and is added up at its end. Blocks depend on the shape only, and tasks
//! have different channels, so an element is summed in the same order for any number of threads.

use super::Conv2d;
use super::correlate::steps;
use super::frame::Frame;
use super::passes::{input_frame, input_taps};
use crate::float::Float;
use crate::lanes::{Isa, Lanes};
use crate::memory;
use crate::simd::Vector;
use crate::threads::{Disjoint, parallel_for, threads};

/// Output channels and taps of the largest tile: 12 sums.
const ROWS: usize = 4;
const TAPS: usize = 3;

/// Elements of the padded images that lie ready at a time: they stay in the last cache.
const PADDED: usize = 1 << 19;

/// Pixels of an output channel in a block: those of a tile's channels stay in the first cache.
const PIXELS: usize = 1 << 10;

/// dk, all extents of which are positive.
pub(super) fn weight_grad<T: Float>(isa: Isa, g: &Conv2d, x: &[T], ct: &[T], dk: &mut [T]) {
    let (cg, og) = (g.in_channels / g.groups, g.out_channels / g.groups);
    let frame = input_frame::<T>(g);
    let offsets = steps(cg, frame.plane(), &input_taps(g, &frame));
    let count = offsets.len();
    dk.fill(T::ZERO);
    let (image, in_image) = (g.in_channels * frame.plane(), g.in_channels * g.height * g.width);
    // Cotangent rows are padded to whole vectors too, unless they are so already.
    let rows = cotangent_frame::<T>(g);
    let (ct_image, in_ct) = (g.out_channels * rows.plane(), g.out_channels * rows.height * rows.width);
    let whole = rows.columns == rows.width;
    let together = (PADDED / (image + ct_image)).clamp(1, g.batch);
    let mut padded = memory::take::<T>(together * image);
    let mut padded_ct = memory::take::<T>(if whole { 0 } else { together * ct_image });
    let strips = og.div_ceil(ROWS);
    // Where there are few strips of channels, the taps are divided too.
    let parts = (4 * threads()).div_ceil(g.groups * strips).clamp(1, count.div_ceil(TAPS));
    let share = count.div_ceil(TAPS).div_ceil(parts) * TAPS;
    let parts = count.div_ceil(share);
    for first in (0..g.batch).step_by(together) {
        let images = together.min(g.batch - first);
        let (inputs, outputs) = (Disjoint::new(&mut padded), Disjoint::new(&mut padded_ct));
        parallel_for(images, &|i| {
            // SAFETY: each task pads an image of its own.
            let out = unsafe { inputs.part(i * image..(i + 1) * image) };
            frame.fill(&x[(first + i) * in_image..][..in_image], out);
            if !whole {
                // SAFETY: as above.
                let out = unsafe { outputs.part(i * ct_image..(i + 1) * ct_image) };
                rows.fill(&ct[(first + i) * in_ct..][..in_ct], out);
            }
        });
        let ct = if whole { &ct[first * in_ct..][..images * in_ct] } else { &padded_ct[..images * ct_image] };
        let sums_of = Disjoint::new(dk);
        parallel_for(g.groups * strips * parts, &|task| {
            let (strip, part) = (task / parts, task % parts);
            let (group, strip) = (strip / strips, strip % strips);
            let channels = strip * ROWS..og.min((strip + 1) * ROWS);
            let taps = part * share..count.min((part + 1) * share);
            let mut sums = memory::zeros::<T>(channels.len() * taps.len());
            let dots = Dots {
                frame: &frame,
                padded: &padded[group * cg * frame.plane()..images * image],
                image,
                offsets: &offsets[taps.clone()],
                ct: &ct[(group * og + channels.start) * rows.plane()..],
                rows: &rows,
                g,
                images,
                channels: channels.len(),
            };
            dots.run(isa, &mut sums);
            for (sums, o) in sums.chunks_exact(taps.len()).zip(channels) {
                let at = (group * og + o) * count;
                // SAFETY: no other task has the same channel and taps.
                let out = unsafe { sums_of.part(at + taps.start..at + taps.end) };
                out.iter_mut().zip(sums).for_each(|(out, &sum)| *out += sum);
            }
            memory::give(sums);
        });
    }
    memory::give(padded);
    memory::give(padded_ct);
}

/// The cotangent with rows of whole vectors.
fn cotangent_frame<T: Float>(g: &Conv2d) -> Frame {
    let (height, width) = (g.out_height(), g.out_width());
    let columns = width.next_multiple_of(<T::Plain as Vector>::LANES);
    Frame { height, width, rows: height, columns, phases: 1, top: 0, left: 0 }
}

/// Some channels of the cotangent against some taps, over some images.
struct Dots<'a, T> {
    frame: &'a Frame,
    /// The padded images from the first channel of the group on.
    padded: &'a [T],
    /// Elements of a padded image.
    image: usize,
    offsets: &'a [usize],
    /// The cotangent from the first channel of the first image on.
    ct: &'a [T],
    rows: &'a Frame,
    g: &'a Conv2d,
    images: usize,
    channels: usize,
}

/// Rows of some images.
#[derive(Clone, Copy)]
struct Block {
    images: [usize; 2],
    rows: [usize; 2],
}

impl<T: Float> Dots<'_, T> {
    /// Adds the products into `sums`: channels × taps.
    fn run(&self, isa: Isa, sums: &mut [T]) {
        let (oh, ow) = (self.g.out_height(), self.g.out_width());
        let last = (self.images - 1) * self.image
            + (oh - 1) * self.g.stride[0] * self.frame.row()
            + self.offsets.iter().max().copied().unwrap_or(0)
            + self.rows.columns;
        assert!(last <= self.padded.len(), "all taps lie in the padded images");
        let planes = (self.images - 1) * self.g.out_channels + self.channels;
        assert!(planes * self.rows.plane() <= self.ct.len(), "all channels of the cotangent are there");
        assert!(sums.len() == self.channels * self.offsets.len(), "one sum a channel and tap");
        // Whole images up to the size of a block, or rows of one.
        let images = (PIXELS / (oh * ow)).max(1);
        let rows = (PIXELS / ow).clamp(1, oh);
        for image in (0..self.images).step_by(images) {
            let images = [image, self.images.min(image + images)];
            for row in (0..oh).step_by(rows) {
                let block = Block { images, rows: [row, oh.min(row + rows)] };
                // SAFETY: both operands were checked to hold all images, rows and taps; `Fast`
                // is only chosen where the machine has its instructions.
                unsafe {
                    match isa {
                        Isa::Plain => self.block::<T::Plain>(block, sums),
                        Isa::Fast | Isa::Wide => self.block_fast::<T::Fast>(block, sums),
                    }
                }
            }
        }
    }

    #[cfg_attr(target_arch = "x86_64", target_feature(enable = "avx2,fma"))]
    unsafe fn block_fast<L: Lanes<Item = T>>(&self, block: Block, sums: &mut [T]) {
        // SAFETY: the caller's promise is the same.
        unsafe { self.block::<L>(block, sums) };
    }

    #[inline(always)]
    unsafe fn block<L: Lanes<Item = T>>(&self, block: Block, sums: &mut [T]) {
        let mut tap = 0;
        while tap < self.offsets.len() {
            // SAFETY: the caller checked all channels and taps.
            tap += unsafe {
                match (self.offsets.len() - tap).min(TAPS) {
                    1 => self.taps::<L, 1>(block, tap, sums),
                    2 => self.taps::<L, 2>(block, tap, sums),
                    _ => self.taps::<L, TAPS>(block, tap, sums),
                }
            };
        }
    }

    #[inline(always)]
    unsafe fn taps<L: Lanes<Item = T>, const K: usize>(
        &self,
        block: Block,
        tap: usize,
        sums: &mut [T],
    ) -> usize {
        // SAFETY: the caller checked all channels and taps.
        unsafe {
            match self.channels {
                1 => self.tile::<L, 1, K>(block, tap, sums),
                2 => self.tile::<L, 2, K>(block, tap, sums),
                3 => self.tile::<L, 3, K>(block, tap, sums),
                _ => self.tile::<L, ROWS, K>(block, tap, sums),
            }
        }
        K
    }

    #[inline(always)]
    #[expect(clippy::needless_range_loop, reason = "the loops over registers unroll by their indices")]
    unsafe fn tile<L: Lanes<Item = T>, const R: usize, const K: usize>(
        &self,
        block: Block,
        tap: usize,
        out: &mut [T],
    ) {
        let (ow, plane, ct_row) = (self.rows.width, self.rows.plane(), self.rows.columns);
        let row_step = self.g.stride[0] * self.frame.row();
        let offsets: [usize; K] = std::array::from_fn(|t| self.offsets[tap + t]);
        // SAFETY: images, rows, channels and taps were checked by the caller, whole vectors of
        // each row.
        unsafe {
            let mut sums = [[L::splat(T::ZERO); K]; R];
            for image in block.images[0]..block.images[1] {
                for row in block.rows[0]..block.rows[1] {
                    let x = self.padded.as_ptr().add(image * self.image + row * row_step);
                    let ct = self.ct.as_ptr().add(image * self.g.out_channels * plane + row * ct_row);
                    let mut j = 0;
                    while j + L::LANES <= ow {
                        let x: [L; K] = std::array::from_fn(|t| L::load(x.add(j + offsets[t])));
                        for i in 0..R {
                            let ct = L::load(ct.add(i * plane + j));
                            for t in 0..K {
                                sums[i][t] = ct.mul_add(x[t], sums[i][t]);
                            }
                        }
                        j += L::LANES;
                    }
                    if j < ow {
                        // The cotangent is zero past the row, but zero times infinity is not.
                        let x: [L; K] =
                            std::array::from_fn(|t| L::load(x.add(j + offsets[t])).keep_first(ow - j));
                        for i in 0..R {
                            let ct = L::load(ct.add(i * plane + j));
                            for t in 0..K {
                                sums[i][t] = ct.mul_add(x[t], sums[i][t]);
                            }
                        }
                    }
                }
            }
            for i in 0..R {
                for t in 0..K {
                    out[i * self.offsets.len() + tap + t] += sums[i][t].total();
                }
            }
        }
    }
}
