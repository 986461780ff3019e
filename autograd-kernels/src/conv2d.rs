//! The two-dimensional convolution of machine learning (a cross-correlation) and its gradients.

use crate::float::Float;
use crate::matmul::{Matrix, multiply};
use crate::operand::{assert_dims, assert_kind, assert_len, in_float};
use crate::{SliceMut, View};

/// Extents and parameters of a convolution: x [N, C, H, W], k [O, C/groups, KH, KW],
/// y [N, O, OH, OW].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Conv2d {
    /// N.
    pub batch: usize,
    /// C.
    pub in_channels: usize,
    /// H.
    pub height: usize,
    /// W.
    pub width: usize,
    /// O.
    pub out_channels: usize,
    /// KH.
    pub kernel_h: usize,
    /// KW.
    pub kernel_w: usize,
    /// Steps of the kernel down and right.
    pub stride: [usize; 2],
    /// Zeros around the input: above and below, left and right.
    pub padding: [usize; 2],
    /// Distances between the kernel's taps.
    pub dilation: [usize; 2],
    /// Groups of channels that do not see one another; divides C and O.
    pub groups: usize,
}

impl Conv2d {
    /// OH: ⌊(H + 2·padding − dilation·(KH − 1) − 1) / stride⌋ + 1; 0 where the kernel does not fit.
    pub fn out_height(&self) -> usize {
        out_extent(self.height, self.kernel_h, self.stride[0], self.padding[0], self.dilation[0])
    }

    /// OW, as [`Conv2d::out_height`].
    pub fn out_width(&self) -> usize {
        out_extent(self.width, self.kernel_w, self.stride[1], self.padding[1], self.dilation[1])
    }

    fn x_dims(&self) -> [usize; 4] {
        [self.batch, self.in_channels, self.height, self.width]
    }

    fn k_dims(&self) -> [usize; 4] {
        [self.out_channels, self.in_channels / self.groups, self.kernel_h, self.kernel_w]
    }

    fn y_dims(&self) -> [usize; 4] {
        [self.batch, self.out_channels, self.out_height(), self.out_width()]
    }

    fn assert_valid(&self) {
        let Self { in_channels, out_channels, groups, stride, dilation, .. } = *self;
        assert!(
            groups > 0 && in_channels % groups == 0 && out_channels % groups == 0,
            "{groups} groups of {in_channels} input and {out_channels} output channels"
        );
        assert!(!stride.contains(&0), "a convolution of stride {stride:?}");
        assert!(!dilation.contains(&0), "a convolution of dilation {dilation:?}");
        assert!(self.kernel_h > 0 && self.kernel_w > 0, "a convolution with an empty kernel");
    }
}

fn out_extent(extent: usize, kernel: usize, stride: usize, padding: usize, dilation: usize) -> usize {
    let reach = dilation * kernel.saturating_sub(1) + 1;
    (extent + 2 * padding).checked_sub(reach).map_or(0, |room| room / stride + 1)
}

/// y[n, o, i, j] = Σ_{c, p, q} k[o, c, p, q] · x[n, c, i·s − pad + p·d, j·s − pad + q·d], zero
/// outside x; c runs over the channels of o's group.
///
/// # Panics
/// Panics where shapes or types do not fit the parameters, or a layout leaves its buffer.
pub fn conv2d(g: &Conv2d, x: View<'_>, k: View<'_>, y: SliceMut<'_>) {
    g.assert_valid();
    assert_dims("the input", x, &g.x_dims());
    assert_dims("the kernel", k, &g.k_dims());
    assert_len("the output", &y, g.y_dims().iter().product());
    assert_kind("the input", x, y.kind());
    assert_kind("the kernel", k, y.kind());
    in_float!(y, (x, k), forward(g));
}

/// dx, the transpose of [`conv2d`] in x: each cotangent spread over the inputs it came from,
/// zero where none did.
///
/// # Panics
/// As [`conv2d`].
pub fn conv2d_input_grad(g: &Conv2d, ct: View<'_>, k: View<'_>, dx: SliceMut<'_>) {
    g.assert_valid();
    assert_dims("the cotangent", ct, &g.y_dims());
    assert_dims("the kernel", k, &g.k_dims());
    assert_len("the input's gradient", &dx, g.x_dims().iter().product());
    assert_kind("the cotangent", ct, dx.kind());
    assert_kind("the kernel", k, dx.kind());
    in_float!(dx, (ct, k), input_grad(g));
}

/// dk, the transpose of [`conv2d`] in k: Σ over batch and positions of cotangent · input.
///
/// # Panics
/// As [`conv2d`].
pub fn conv2d_weight_grad(g: &Conv2d, x: View<'_>, ct: View<'_>, dk: SliceMut<'_>) {
    g.assert_valid();
    assert_dims("the input", x, &g.x_dims());
    assert_dims("the cotangent", ct, &g.y_dims());
    assert_len("the kernel's gradient", &dk, g.k_dims().iter().product());
    assert_kind("the input", x, dk.kind());
    assert_kind("the cotangent", ct, dk.kind());
    in_float!(dk, (x, ct), weight_grad(g));
}

/// Extents of one group of one image.
struct Group {
    c: usize,
    o: usize,
    taps: usize,
    pixels: usize,
    out_pixels: usize,
}

impl Group {
    fn new(g: &Conv2d) -> Self {
        let [_, c, kh, kw] = g.k_dims();
        Self {
            c,
            o: g.out_channels / g.groups,
            taps: c * kh * kw,
            pixels: g.height * g.width,
            out_pixels: g.out_height() * g.out_width(),
        }
    }
}

fn forward<T: Float>(g: &Conv2d, x: &[T], k: &[T], y: &mut [T]) {
    let e = Group::new(g);
    let mut columns = vec![T::ZERO; e.taps * e.out_pixels];
    for i in 0..g.batch * g.groups {
        let (group, x) = (i % g.groups, &x[i * e.c * e.pixels..][..e.c * e.pixels]);
        let y = &mut y[i * e.o * e.out_pixels..][..e.o * e.out_pixels];
        unfold(g, x, &mut columns);
        let k = Matrix { data: &k[group * e.o * e.taps..], row: e.taps, column: 1 };
        let columns = Matrix { data: &columns, row: e.out_pixels, column: 1 };
        multiply([e.o, e.taps, e.out_pixels], k, columns, y, false);
    }
}

fn input_grad<T: Float>(g: &Conv2d, ct: &[T], k: &[T], dx: &mut [T]) {
    let e = Group::new(g);
    let mut columns = vec![T::ZERO; e.taps * e.out_pixels];
    for i in 0..g.batch * g.groups {
        let (group, ct) = (i % g.groups, &ct[i * e.o * e.out_pixels..]);
        let k = Matrix { data: &k[group * e.o * e.taps..], row: 1, column: e.taps };
        let ct = Matrix { data: ct, row: e.out_pixels, column: 1 };
        multiply([e.taps, e.o, e.out_pixels], k, ct, &mut columns, false);
        fold(g, &columns, &mut dx[i * e.c * e.pixels..][..e.c * e.pixels]);
    }
}

fn weight_grad<T: Float>(g: &Conv2d, x: &[T], ct: &[T], dk: &mut [T]) {
    let e = Group::new(g);
    dk.fill(T::ZERO);
    let mut columns = vec![T::ZERO; e.taps * e.out_pixels];
    for i in 0..g.batch * g.groups {
        let (group, x) = (i % g.groups, &x[i * e.c * e.pixels..][..e.c * e.pixels]);
        unfold(g, x, &mut columns);
        let ct = Matrix { data: &ct[i * e.o * e.out_pixels..], row: e.out_pixels, column: 1 };
        let columns = Matrix { data: &columns, row: 1, column: e.out_pixels };
        let dk = &mut dk[group * e.o * e.taps..][..e.o * e.taps];
        multiply([e.o, e.out_pixels, e.taps], ct, columns, dk, true);
    }
}

/// The output positions along one axis whose tap `tap` falls inside the input, and the input
/// position of the first of them.
fn inside(
    outs: usize,
    extent: usize,
    tap: usize,
    stride: usize,
    padding: usize,
    dilation: usize,
) -> (usize, usize, usize) {
    let shift = tap * dilation;
    // Input position of output i: i·stride + shift − padding.
    let first = padding.saturating_sub(shift).div_ceil(stride).min(outs);
    let last = (extent + padding).checked_sub(shift + 1).map_or(0, |room| room / stride + 1);
    let last = last.min(outs).max(first);
    (first, last, (first * stride + shift).saturating_sub(padding))
}

/// One channel's image, taken apart: columns[c, p, q, i, j] = x[c, i·s − pad + p·d, j·s − pad + q·d].
fn unfold<T: Float>(g: &Conv2d, x: &[T], columns: &mut [T]) {
    let (oh, ow) = (g.out_height(), g.out_width());
    if oh * ow == 0 {
        return;
    }
    for (at, plane) in columns.chunks_exact_mut(oh * ow).enumerate() {
        let (c, p, q) = (at / (g.kernel_h * g.kernel_w), at / g.kernel_w % g.kernel_h, at % g.kernel_w);
        let x = &x[c * g.height * g.width..][..g.height * g.width];
        let (i0, i1, mut row) = inside(oh, g.height, p, g.stride[0], g.padding[0], g.dilation[0]);
        let (j0, j1, column) = inside(ow, g.width, q, g.stride[1], g.padding[1], g.dilation[1]);
        plane[..i0 * ow].fill(T::ZERO);
        plane[i1 * ow..].fill(T::ZERO);
        for to in plane[i0 * ow..i1 * ow].chunks_exact_mut(ow) {
            to[..j0].fill(T::ZERO);
            to[j1..].fill(T::ZERO);
            let from = &x[row * g.width..][..g.width];
            match g.stride[1] {
                1 if j1 > j0 => to[j0..j1].copy_from_slice(&from[column..][..j1 - j0]),
                s => {
                    for (j, to) in to[j0..j1].iter_mut().enumerate() {
                        *to = from[column + j * s];
                    }
                }
            }
            row += g.stride[0];
        }
    }
}

/// The transpose of [`unfold`]: every column entry added to the pixel it was read from.
fn fold<T: Float>(g: &Conv2d, columns: &[T], x: &mut [T]) {
    x.fill(T::ZERO);
    let (oh, ow) = (g.out_height(), g.out_width());
    if oh * ow == 0 {
        return;
    }
    for (at, plane) in columns.chunks_exact(oh * ow).enumerate() {
        let (c, p, q) = (at / (g.kernel_h * g.kernel_w), at / g.kernel_w % g.kernel_h, at % g.kernel_w);
        let x = &mut x[c * g.height * g.width..][..g.height * g.width];
        let (i0, i1, mut row) = inside(oh, g.height, p, g.stride[0], g.padding[0], g.dilation[0]);
        let (j0, j1, column) = inside(ow, g.width, q, g.stride[1], g.padding[1], g.dilation[1]);
        for from in plane[i0 * ow..i1 * ow].chunks_exact(ow) {
            let to = &mut x[row * g.width..][..g.width];
            for (j, &from) in from[j0..j1].iter().enumerate() {
                to[column + j * g.stride[1]] += from;
            }
            row += g.stride[0];
        }
    }
}
