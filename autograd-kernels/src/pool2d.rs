//! Maximum and average over windows of an image, and their gradients.

mod rows;

use crate::float::Float;
use crate::lanes::Isa;
use crate::memory;
use crate::operand::{assert_kind, assert_len, in_float, same};
use crate::threads::{Disjoint, parallel_chunks};
use crate::{SliceMut, View};
use std::ops::Range;

/// Elements that are worth a task of their own.
const MIN_CHUNK: usize = 16 * 1024;

/// Extents and parameters of a pooling; all planes (batch × channels) are treated alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Pool2d {
    /// Batch size times channels.
    pub planes: usize,
    /// Rows of a plane.
    pub height: usize,
    /// Columns of a plane.
    pub width: usize,
    /// Rows and columns of a window.
    pub kernel: [usize; 2],
    /// Steps of the window down and right.
    pub stride: [usize; 2],
    /// Width of the border above and below, left and right; less than the kernel.
    pub padding: [usize; 2],
}

impl Pool2d {
    /// Rows of the output: ⌊(H + 2·padding − kernel) / stride⌋ + 1; 0 where the window does not fit.
    pub fn out_height(&self) -> usize {
        out_extent(self.height, self.kernel[0], self.stride[0], self.padding[0])
    }

    /// Columns of the output, as [`Pool2d::out_height`].
    pub fn out_width(&self) -> usize {
        out_extent(self.width, self.kernel[1], self.stride[1], self.padding[1])
    }

    fn in_plane(&self) -> usize {
        self.height * self.width
    }

    fn out_plane(&self) -> usize {
        self.out_height() * self.out_width()
    }

    fn assert_valid(&self) {
        let Self { kernel, stride, padding, .. } = *self;
        assert!(!stride.contains(&0), "a pooling of stride {stride:?}");
        // A window that lay in the border alone would have no maximum.
        assert!(
            padding[0] < kernel[0] && padding[1] < kernel[1],
            "a pooling with kernel {kernel:?} and padding {padding:?}: the padding must be smaller"
        );
    }

    /// The part of window number `at` along `axis` that lies inside the plane.
    fn window(&self, axis: usize, at: usize) -> Range<usize> {
        let extent = if axis == 0 { self.height } else { self.width };
        let start = at * self.stride[axis];
        let end = (start + self.kernel[axis]).saturating_sub(self.padding[axis]).min(extent);
        start.saturating_sub(self.padding[axis])..end
    }

    fn assert_operand(&self, what: &str, operand: View<'_>, want: usize) {
        let have = operand.layout.elements();
        assert!(have == want, "{what} has {have} elements where {want} are expected");
    }
}

fn out_extent(extent: usize, kernel: usize, stride: usize, padding: usize) -> usize {
    (extent + 2 * padding).checked_sub(kernel).map_or(0, |room| room / stride + 1)
}

/// y = the maximum of each window; `indices`, where given, tells its flat index h·W + w within
/// the plane.
///
/// The border never wins. The first of equal maxima wins. A NaN wins over numbers, the last NaN
/// over earlier ones, as in PyTorch.
///
/// # Panics
/// Panics where extents or types do not fit, or a layout leaves its buffer.
pub fn max_pool2d(g: &Pool2d, x: View<'_>, y: SliceMut<'_>, indices: Option<SliceMut<'_>>) {
    g.assert_valid();
    g.assert_operand("the input", x, g.planes * g.in_plane());
    assert_len("the output", &y, g.planes * g.out_plane());
    assert_kind("the input", x, y.kind());
    let indices = indices.map(|indices| match indices {
        SliceMut::U32(indices) => indices,
        other => panic!("indices of type {:?}, not U32", other.kind()),
    });
    if let Some(indices) = &indices {
        let (have, want) = (indices.len(), g.planes * g.out_plane());
        assert!(have == want, "{have} indices where {want} are expected");
        assert!(g.in_plane() <= u32::MAX as usize, "a plane of more than 2^32 - 1 elements");
    }
    in_float!(y, (x), max_planes(g, indices));
}

fn max_planes<T: Float>(g: &Pool2d, indices: Option<&mut [u32]>, x: &[T], y: &mut [T]) {
    let (inside, outside) = (g.in_plane(), g.out_plane());
    if y.is_empty() {
        return;
    }
    let isa = Isa::detect();
    let (y, indices) = (Disjoint::new(y), indices.map(Disjoint::new));
    parallel_chunks(g.planes, MIN_CHUNK.div_ceil(inside.max(1)), &|planes| {
        let mut unwanted = if indices.is_none() { memory::take::<u32>(outside) } else { Vec::new() };
        for plane in planes {
            let span = plane * outside..(plane + 1) * outside;
            // SAFETY: tasks have different planes.
            let y = unsafe { y.part(span.clone()) };
            let at = match &indices {
                // SAFETY: as above.
                Some(indices) => unsafe { indices.part(span) },
                None => &mut unwanted,
            };
            rows::maxima(isa, g, &x[plane * inside..][..inside], y, at);
        }
        memory::give(unwanted);
    });
}

/// dx: each cotangent added at the element that `indices` (from [`max_pool2d`]) names.
///
/// # Panics
/// Panics where extents or types do not fit, a layout leaves its buffer, or an index its plane.
pub fn max_pool2d_grad(g: &Pool2d, ct: View<'_>, indices: View<'_>, dx: SliceMut<'_>) {
    g.assert_valid();
    g.assert_operand("the cotangent", ct, g.planes * g.out_plane());
    g.assert_operand("the indices", indices, g.planes * g.out_plane());
    assert_len("the input's gradient", &dx, g.planes * g.in_plane());
    assert_kind("the cotangent", ct, dx.kind());
    let indices = same::<u32>(indices);
    in_float!(dx, (ct), spread_max(g, &indices));
}

fn spread_max<T: Float>(g: &Pool2d, indices: &[u32], ct: &[T], dx: &mut [T]) {
    let (inside, outside) = (g.in_plane(), g.out_plane());
    for_each_plane(inside, dx, &|plane, dx| {
        dx.fill(T::ZERO);
        let at = plane * outside..(plane + 1) * outside;
        for (&ct, &index) in ct[at.clone()].iter().zip(&indices[at]) {
            dx[index as usize] += ct;
        }
    });
}

/// Runs `f(plane, its elements)` for planes of `size` elements.
fn for_each_plane<T: Float>(size: usize, out: &mut [T], f: &(dyn Fn(usize, &mut [T]) + Sync)) {
    if out.is_empty() {
        return;
    }
    let (planes, out) = (out.len() / size, Disjoint::new(out));
    parallel_chunks(planes, MIN_CHUNK.div_ceil(size), &|range| {
        for plane in range {
            // SAFETY: tasks have different planes.
            f(plane, unsafe { out.part(plane * size..(plane + 1) * size) });
        }
    });
}

/// y = the mean of each window; the border counts as zeros (`count_include_pad`).
///
/// # Panics
/// As [`max_pool2d`].
pub fn avg_pool2d(g: &Pool2d, x: View<'_>, y: SliceMut<'_>) {
    g.assert_valid();
    g.assert_operand("the input", x, g.planes * g.in_plane());
    assert_len("the output", &y, g.planes * g.out_plane());
    assert_kind("the input", x, y.kind());
    in_float!(y, (x), mean_planes(g));
}

fn mean_planes<T: Float>(g: &Pool2d, x: &[T], y: &mut [T]) {
    let (inside, isa) = (g.in_plane(), Isa::detect());
    for_each_plane(g.out_plane(), y, &|plane, y| {
        rows::means(isa, g, &x[plane * inside..][..inside], y);
    });
}

/// dx: each cotangent divided evenly over its window; the border's share is dropped.
///
/// # Panics
/// As [`max_pool2d`].
pub fn avg_pool2d_grad(g: &Pool2d, ct: View<'_>, dx: SliceMut<'_>) {
    g.assert_valid();
    g.assert_operand("the cotangent", ct, g.planes * g.out_plane());
    assert_len("the input's gradient", &dx, g.planes * g.in_plane());
    assert_kind("the cotangent", ct, dx.kind());
    in_float!(dx, (ct), spread_mean(g));
}

fn spread_mean<T: Float>(g: &Pool2d, ct: &[T], dx: &mut [T]) {
    let outside = g.out_plane();
    for_each_plane(g.in_plane(), dx, &|plane, dx| {
        rows::spread(g, &ct[plane * outside..][..outside], dx);
    });
}
