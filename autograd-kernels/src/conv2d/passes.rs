//! Forward pass and input gradient as correlations over padded images.

use super::Conv2d;
use super::correlate::{Blocks, Correlation, Segment, pack_groups, segments, steps};
use super::frame::Frame;
use crate::float::Float;
use crate::lanes::Isa;
use crate::matmul::then::Then;
use crate::memory;
use crate::memory::list::List;
use crate::output::Output;
use crate::simd::Vector;
use crate::threads::{parallel_for, threads};
use smallvec::SmallVec;

/// Runs `f(image, part)` for parts of the blocks of output channels: one part for each image
/// where there are images enough for all threads.
fn for_each_part(batch: usize, blocks: usize, f: &(dyn Fn(usize, std::ops::Range<usize>) + Sync)) {
    let parts = (2 * threads()).div_ceil(batch.max(1)).clamp(1, blocks.max(1));
    let parts = if batch >= threads() { 1 } else { parts };
    parallel_for(batch * parts, &|task| {
        let (image, part) = (task / parts, task % parts);
        f(image, blocks * part / parts..blocks * (part + 1) / parts);
    });
}

/// The columns of a padded row that vectors of outputs read, the last vector a whole one.
fn whole_vectors<T: Float>(columns: usize) -> usize {
    columns.next_multiple_of(<T::Plain as Vector>::LANES)
}

/// The padded input of the forward pass.
pub(super) fn input_frame<T: Float>(g: &Conv2d) -> Frame {
    let [sh, sw] = g.stride;
    let [dh, dw] = g.dilation;
    Frame {
        height: g.height,
        width: g.width,
        rows: (g.out_height() - 1) * sh + (g.kernel_h - 1) * dh + 1,
        columns: whole_vectors::<T>(g.out_width()) + (g.kernel_w - 1) * dw / sw,
        phases: sw,
        top: -(g.padding[0] as isize),
        left: -(g.padding[1] as isize),
    }
}

/// Where the taps of the kernel read in a channel of the padded input.
pub(super) fn input_taps(g: &Conv2d, frame: &Frame) -> List<usize> {
    let [dh, dw] = g.dilation;
    let row = |p: usize| (0..g.kernel_w).map(move |q| frame.at(p * dh, q * dw));
    (0..g.kernel_h).flat_map(row).collect()
}

/// y, all extents of which are positive.
pub(super) fn forward<T: Float>(isa: Isa, g: &Conv2d, x: &[T], k: &[T], y: &mut [T], then: Then<'_, T>) {
    let (cg, og) = (g.in_channels / g.groups, g.out_channels / g.groups);
    let (oh, ow) = (g.out_height(), g.out_width());
    let frame = input_frame::<T>(g);
    let offsets = steps(cg, frame.plane(), &input_taps(g, &frame));
    let blocks = Blocks::of(og);
    let count = offsets.len();
    let weights = pack_groups(g.groups, blocks, count, |group, o, s| k[(group * og + o) * count + s]);
    let segments = segments::<T>(oh, ow, g.stride[0] * frame.row());
    let (in_group, out_group) = (cg * g.height * g.width, og * oh * ow);
    let output = Output::new(y);
    for_each_part(g.batch, blocks.count(), &|image, range| {
        let mut padded = memory::take::<T>(cg * frame.plane());
        for group in 0..g.groups {
            let at = image * g.groups + group;
            frame.fill(&x[at * in_group..][..in_group], &mut padded);
            let correlation = Correlation {
                frame: &padded,
                offsets: &offsets,
                weights: &weights[group * og * count..],
                blocks,
                segments: &segments,
                plane: oh * ow,
            };
            // SAFETY: the group's channels lie in y, which has batch · groups of them, and no
            // other task has the same image and blocks.
            unsafe {
                let out = output.start().add(at * out_group);
                correlation.run(isa, range.clone(), out, then.at(at * og));
            }
        }
        memory::give(padded);
    });
    memory::give(weights);
}

/// One axis of the transposed convolution.
///
/// Input h = r + s·u gets cotangent i through tap p where i·s + p·d − pad = h: for each residue
/// r, the taps with r + pad − p·d divisible by s, at cotangent u + (r + pad − p·d)/s.
struct Axis {
    extent: usize,
    kernel: usize,
    stride: usize,
    padding: usize,
    dilation: usize,
}

impl Axis {
    /// (r + pad − p·d)/s, rounded down.
    fn shift(&self, residue: usize, tap: usize) -> isize {
        let at = (residue + self.padding) as isize - (tap * self.dilation) as isize;
        at.div_euclid(self.stride as isize)
    }

    fn reaches(&self, residue: usize, tap: usize) -> bool {
        let at = (residue + self.padding) as isize - (tap * self.dilation) as isize;
        at.rem_euclid(self.stride as isize) == 0
    }

    /// The inputs r + s·u below the extent.
    fn count(&self, residue: usize) -> usize {
        self.extent.saturating_sub(residue).div_ceil(self.stride)
    }

    /// The least and the largest shift.
    fn shifts(&self) -> (isize, isize) {
        (self.shift(0, self.kernel - 1), self.shift(self.stride - 1, 0))
    }
}

/// Taps of a kernel; most kernels have no more than five by five.
type Taps = SmallVec<[(usize, usize); 25]>;

/// The inputs of one residue of both axes: a correlation of the cotangent with some of the taps.
struct Phase<T> {
    offsets: List<usize>,
    weights: Vec<T>,
    segments: List<Segment>,
    /// The residue, rows and columns.
    at: [usize; 2],
    extent: [usize; 2],
}

/// dx, all extents of which are positive.
pub(super) fn input_grad<T: Float>(isa: Isa, g: &Conv2d, ct: &[T], k: &[T], dx: &mut [T], then: Then<'_, T>) {
    let (cg, og) = (g.in_channels / g.groups, g.out_channels / g.groups);
    let (oh, ow) = (g.out_height(), g.out_width());
    let axis = |d: usize| Axis {
        extent: [g.height, g.width][d],
        kernel: [g.kernel_h, g.kernel_w][d],
        stride: g.stride[d],
        padding: g.padding[d],
        dilation: g.dilation[d],
    };
    let (down, right) = (axis(0), axis(1));
    let ((top, bottom), (left, far)) = (down.shifts(), right.shifts());
    let frame = Frame {
        height: oh,
        width: ow,
        rows: down.count(0) + (bottom - top) as usize,
        columns: whole_vectors::<T>(right.count(0)) + (far - left) as usize,
        phases: 1,
        top,
        left,
    };
    let blocks = Blocks::of(cg);
    let phase = |r: usize, s: usize| {
        let taps: Taps = (0..g.kernel_h)
            .flat_map(|p| (0..g.kernel_w).map(move |q| (p, q)))
            .filter(|&(p, q)| down.reaches(r, p) && right.reaches(s, q))
            .collect();
        let at = |&(p, q): &(usize, usize)| {
            frame.at((down.shift(r, p) - top) as usize, (right.shift(s, q) - left) as usize)
        };
        let places: List<usize> = taps.iter().map(at).collect();
        let offsets = steps(og, frame.plane(), &places);
        let weights = pack_groups(g.groups, blocks, offsets.len(), |group, c, step| {
            let ((p, q), o) = (taps[step % taps.len()], group * og + step / taps.len());
            k[((o * cg + c) * g.kernel_h + p) * g.kernel_w + q]
        });
        let extent = [down.count(r), right.count(s)];
        let segments = segments::<T>(extent[0], extent[1], frame.row());
        Phase { offsets, weights, segments, at: [r, s], extent }
    };
    let [sh, sw] = g.stride;
    let phases: SmallVec<[Phase<T>; 4]> =
        (0..sh).flat_map(|r| (0..sw).map(move |s| (r, s))).map(|(r, s)| phase(r, s)).collect();
    let (in_group, out_group) = (cg * g.height * g.width, og * oh * ow);
    let output = Output::new(dx);
    for_each_part(g.batch, blocks.count(), &|image, range| {
        let mut padded = memory::take::<T>(og * frame.plane());
        for group in 0..g.groups {
            let at = image * g.groups + group;
            frame.fill(&ct[at * out_group..][..out_group], &mut padded);
            for phase in &phases {
                let correlation = Correlation {
                    frame: &padded,
                    offsets: &phase.offsets,
                    weights: &phase.weights[group * cg * phase.offsets.len()..],
                    blocks,
                    segments: &phase.segments,
                    plane: phase.extent[0] * phase.extent[1],
                };
                let channels = blocks.channels(range.clone());
                // SAFETY: the group's channels lie in dx, which has batch · groups of them, and
                // no other task has the same image and blocks.
                unsafe {
                    let out = output.start().add(at * in_group);
                    if phases.len() == 1 {
                        correlation.run(isa, range.clone(), out, then.at(at * cg));
                        continue;
                    }
                    let mut part = memory::take::<T>(cg * correlation.plane);
                    correlation.run(isa, range.clone(), part.as_mut_ptr(), Then::nothing());
                    for c in channels {
                        let plane = &part[c * correlation.plane..][..correlation.plane];
                        let out = out.add(c * g.height * g.width);
                        let out = std::slice::from_raw_parts_mut(out, g.height * g.width);
                        spread(plane, phase.extent, phase.at, g.stride, g.width, out);
                    }
                    memory::give(part);
                }
            }
            if phases.len() > 1 {
                let plane = g.height * g.width;
                // SAFETY: as above; all phases of these channels are there.
                unsafe {
                    let out = output.start().add(at * in_group);
                    then.at(at * cg).block(out, plane, blocks.channels(range.clone()), 0..plane);
                }
            }
        }
        memory::give(padded);
    });
    phases.into_iter().for_each(|phase| memory::give(phase.weights));
}

/// Puts the pixels of one residue in their places.
fn spread<T: Float>(
    plane: &[T],
    [rows, columns]: [usize; 2],
    [row, column]: [usize; 2],
    [down, right]: [usize; 2],
    width: usize,
    out: &mut [T],
) {
    if columns == 0 {
        return;
    }
    for (u, from) in plane.chunks_exact(columns).take(rows).enumerate() {
        let out = &mut out[(row + u * down) * width..][..width];
        let out = &mut out[column..];
        match right {
            1 => out[..columns].copy_from_slice(from),
            2 => {
                let (&last, from) = from.split_last().expect("columns are positive");
                out[2 * from.len()] = last;
                for (pair, &x) in out.chunks_exact_mut(2).zip(from) {
                    pair[0] = x;
                }
            }
            step => from.iter().enumerate().for_each(|(u, &x)| out[u * step] = x),
        }
    }
}
