//! The core of forward pass and input gradient: sums of shifted images, tile by tile in registers.
//!
//! An output vector of a few neighbouring pixels in R channels is the sum over input channels and
//! taps of a weight times the input vector at the tap's offset. A tile holds R × V such vectors.
//! Which offsets there are is the caller's affair, so strides, dilations and the transposed
//! convolution are all the same to this file.

use crate::float::Float;
use crate::lanes::{Isa, Lanes};
use crate::matmul::then::Then;
use crate::memory;
use crate::memory::list::{List, listed};
use crate::simd::Vector;
use std::ops::Range;

/// Output channels of the largest tile.
const ROWS: usize = 6;

/// Segments that all channels go through before the next ones, so that the input stays in the
/// first cache.
const TOGETHER: usize = 8;

/// A run of neighbouring output pixels, at most a vector.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment {
    /// Where the padded input of the first pixel under tap offset 0 lies in its channel.
    from: usize,
    /// The first output pixel in its plane.
    to: usize,
    width: usize,
}

listed!(Segment);

/// The segments of `rows` × `columns` pixels, their inputs `row_step` apart from row to row.
pub(super) fn segments<T: Float>(rows: usize, columns: usize, row_step: usize) -> List<Segment> {
    let width = <T::Plain as Vector>::LANES;
    let row = |i: usize| {
        (0..columns).step_by(width).map(move |j| Segment {
            from: i * row_step + j,
            to: i * columns + j,
            width: width.min(columns - j),
        })
    };
    (0..rows).flat_map(row).collect()
}

/// The blocks of output channels of one group: as equal as can be, at most [`ROWS`] each.
#[derive(Clone, Copy, Debug)]
pub(super) struct Blocks {
    channels: usize,
}

impl Blocks {
    pub(super) fn of(channels: usize) -> Self {
        Self { channels }
    }

    pub(super) fn count(&self) -> usize {
        self.channels.div_ceil(ROWS)
    }

    /// The channels of some blocks.
    pub(super) fn channels(&self, blocks: Range<usize>) -> Range<usize> {
        let count = self.count().max(1);
        self.channels * blocks.start / count..self.channels * blocks.end / count
    }

    fn range(&self, block: usize) -> Range<usize> {
        self.channels(block..block + 1)
    }
}

/// The weights of one group in the order in which tiles read them: block by block, all of a
/// block's channels for each step. `weight(o, s)` is the weight of output channel o at step s.
pub(super) fn pack<T: Float>(
    blocks: Blocks,
    steps: usize,
    out: &mut [T],
    weight: impl Fn(usize, usize) -> T,
) {
    for block in 0..blocks.count() {
        let range = blocks.range(block);
        let out = &mut out[range.start * steps..range.end * steps];
        for (step, out) in out.chunks_exact_mut(range.len()).enumerate() {
            for (o, out) in range.clone().zip(out) {
                *out = weight(o, step);
            }
        }
    }
}

/// One group of one image.
pub(super) struct Correlation<'a, T> {
    /// The padded input, all channels of the group.
    pub(super) frame: &'a [T],
    /// For each step, a tap of a channel, where in the frame it reads for a segment at 0.
    pub(super) offsets: &'a [usize],
    /// Packed by [`pack`].
    pub(super) weights: &'a [T],
    pub(super) blocks: Blocks,
    pub(super) segments: &'a [Segment],
    /// Elements of an output channel.
    pub(super) plane: usize,
}

impl<T: Float> Correlation<'_, T> {
    /// Writes the output channels of some blocks; `out` begins at the first channel of the group. What
    /// follows gets some pixels of all these channels at a time, as rows counted from the group's first.
    ///
    /// # Safety
    /// The channels of these blocks can be written at `out` and nothing else uses them meanwhile.
    ///
    /// # Panics
    /// Panics where the frame, the weights or the planes are too short for the segments.
    pub(super) unsafe fn run(&self, isa: Isa, range: Range<usize>, out: *mut T, then: Then<'_, T>) {
        let width = <T::Plain as Vector>::LANES;
        let reach = self.offsets.iter().max().copied().unwrap_or(0) + width;
        for segment in self.segments {
            assert!(
                self.offsets.is_empty() || segment.from + reach <= self.frame.len(),
                "all taps of a segment lie in the frame"
            );
            assert!(segment.to + segment.width <= self.plane, "a segment lies in its plane");
        }
        let weights = self.blocks.channels * self.offsets.len();
        assert!(self.weights.len() >= weights, "every channel has its weights");
        // SAFETY: the reads were checked above, the writes are the caller's promise; `Fast` is
        // only chosen where the machine has its instructions.
        unsafe {
            match isa {
                Isa::Plain => self.tiles::<T::Plain>(range, out, then),
                Isa::Fast | Isa::Wide => self.tiles_fast::<T::Fast>(range, out, then),
            }
        }
    }

    #[cfg_attr(target_arch = "x86_64", target_feature(enable = "avx2,fma"))]
    unsafe fn tiles_fast<L: Lanes<Item = T>>(&self, range: Range<usize>, out: *mut T, then: Then<'_, T>) {
        // SAFETY: the caller's promise is the same.
        unsafe { self.tiles::<L>(range, out, then) };
    }

    #[inline(always)]
    unsafe fn tiles<L: Lanes<Item = T>>(&self, range: Range<usize>, out: *mut T, then: Then<'_, T>) {
        for segments in self.segments.chunks(TOGETHER) {
            for block in range.clone() {
                let channels = self.blocks.range(block);
                // SAFETY: a block has its channels' weights and planes; the caller checked both.
                unsafe {
                    let weights = self.weights.as_ptr().add(channels.start * self.offsets.len());
                    let out = out.add(channels.start * self.plane);
                    // Few channels take more segments, to have enough independent sums.
                    match channels.len() {
                        1 => self.strip::<L, 1, 8>(segments, weights, out),
                        2 => self.strip::<L, 2, 4>(segments, weights, out),
                        3 => self.strip::<L, 3, 4>(segments, weights, out),
                        4 => self.strip::<L, 4, 2>(segments, weights, out),
                        5 => self.strip::<L, 5, 2>(segments, weights, out),
                        _ => self.strip::<L, 6, 2>(segments, weights, out),
                    }
                }
            }
            // Segments follow each other in the plane.
            if let (Some(first), Some(last)) = (segments.first(), segments.last()) {
                let pixels = first.to..last.to + last.width;
                // SAFETY: these pixels of these channels are written, all taps added.
                unsafe { then.block(out, self.plane, self.blocks.channels(range.clone()), pixels) };
            }
        }
    }

    #[inline(always)]
    unsafe fn strip<L: Lanes<Item = T>, const R: usize, const V: usize>(
        &self,
        segments: &[Segment],
        weights: *const T,
        out: *mut T,
    ) {
        for tile in segments.chunks(V) {
            // Missing segments repeat the first one and write nothing.
            let tile: [Segment; V] =
                std::array::from_fn(|v| tile.get(v).copied().unwrap_or(Segment { width: 0, ..tile[0] }));
            // SAFETY: the caller checked every segment and the weights of R channels.
            unsafe { self.tile::<L, R, V>(&tile, weights, out) };
        }
    }

    #[inline(always)]
    #[expect(clippy::needless_range_loop, reason = "the loops over registers unroll by their indices")]
    unsafe fn tile<L: Lanes<Item = T>, const R: usize, const V: usize>(
        &self,
        segments: &[Segment; V],
        mut weights: *const T,
        out: *mut T,
    ) {
        // SAFETY: the caller checked that a whole vector at any offset of a segment lies in the
        // frame, that there are R weights for each offset, and that `width` pixels of a segment
        // lie in the plane of each of R channels.
        unsafe {
            let from: [*const T; V] =
                std::array::from_fn(|v| self.frame.as_ptr().wrapping_add(segments[v].from));
            let mut sums = [[L::splat(T::ZERO); V]; R];
            for &offset in self.offsets {
                let inputs: [L; V] = std::array::from_fn(|v| L::load(from[v].add(offset)));
                for i in 0..R {
                    let weight = L::splat(*weights.add(i));
                    for v in 0..V {
                        sums[i][v] = weight.mul_add(inputs[v], sums[i][v]);
                    }
                }
                weights = weights.add(R);
            }
            for v in 0..V {
                let segment = segments[v];
                for i in 0..R {
                    let to = out.wrapping_add(i * self.plane + segment.to);
                    match segment.width == L::LANES {
                        true => sums[i][v].store(to),
                        false => sums[i][v].store_first(to, segment.width),
                    }
                }
            }
        }
    }
}

/// The offsets of all steps: the taps of each channel in turn.
pub(super) fn steps(channels: usize, plane: usize, taps: &[usize]) -> List<usize> {
    (0..channels).flat_map(|c| taps.iter().map(move |tap| c * plane + tap)).collect()
}

/// Packed weights of all groups from the pool; `weight(group, o, s)`.
pub(super) fn pack_groups<T: Float>(
    groups: usize,
    blocks: Blocks,
    steps: usize,
    weight: impl Fn(usize, usize, usize) -> T,
) -> Vec<T> {
    let size = blocks.channels * steps;
    let mut out = memory::take::<T>(groups * size);
    for group in 0..groups {
        pack(blocks, steps, &mut out[group * size..][..size], |o, s| weight(group, o, s));
    }
    out
}
