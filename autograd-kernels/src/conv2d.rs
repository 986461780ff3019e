//! The two-dimensional convolution of machine learning (a cross-correlation) and its gradients, and
//! expressions evaluated on what is finished of them while it is in a cache.

mod correlate;
mod frame;
mod passes;
mod weight_grad;
mod winograd;

use crate::float::Float;
use crate::lanes::Isa;
use crate::machine::Epilogue;
use crate::matmul::then::{Block, Then};
use crate::operand::{assert_dims, assert_kind, assert_len, in_float, same};
use crate::{Kind, SliceMut, View};
pub use winograd::{set_winograd, winograd};

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

/// The expression of `then` evaluated on the result of [`conv2d`], which is made in the epilogue's home.
///
/// What is finished of some channels goes through the expression by the thread that has made it. A part
/// may be made and go through it again, so no input of it lies under an output, but the result. The
/// numbers are those of [`conv2d`] and of the expression after it, to the bit.
///
/// # Panics
/// As [`conv2d`]; where the result is of a half type, or an input lies under another output.
pub fn conv2d_then(g: &Conv2d, x: View<'_>, k: View<'_>, then: Epilogue<'_>) {
    g.assert_valid();
    assert_dims("the input", x, &g.x_dims());
    assert_dims("the kernel", k, &g.k_dims());
    match then.kind() {
        Kind::F32 => followed::<f32>(g.y_dims(), x, k, then, |x, k, y, then| forward_then(g, x, k, y, then)),
        Kind::F64 => followed::<f64>(g.y_dims(), x, k, then, |x, k, y, then| forward_then(g, x, k, y, then)),
        other => panic!("a convolution of type {other:?} with an epilogue"),
    }
}

/// The expression of `then` evaluated on the result of [`conv2d_input_grad`], as [`conv2d_then`].
///
/// # Panics
/// As [`conv2d_then`].
pub fn conv2d_input_grad_then(g: &Conv2d, ct: View<'_>, k: View<'_>, then: Epilogue<'_>) {
    g.assert_valid();
    assert_dims("the cotangent", ct, &g.y_dims());
    assert_dims("the kernel", k, &g.k_dims());
    match then.kind() {
        Kind::F32 => {
            followed::<f32>(g.x_dims(), ct, k, then, |ct, k, dx, then| grad_then(g, ct, k, dx, then))
        }
        Kind::F64 => {
            followed::<f64>(g.x_dims(), ct, k, then, |ct, k, dx, then| grad_then(g, ct, k, dx, then))
        }
        other => panic!("the gradient of a convolution of type {other:?} with an epilogue"),
    }
}

/// Runs a convolution whose result has these extents, its channels the rows of the blocks that are
/// finished.
fn followed<T: Float>(
    dims: [usize; 4],
    a: View<'_>,
    b: View<'_>,
    then: Epilogue<'_>,
    run: impl FnOnce(&[T], &[T], &mut [T], Then<'_, T>),
) {
    let [images, channels, height, width] = dims;
    let elements = images * channels * height * width;
    assert!(then.elements() == elements, "an epilogue of a result of {elements} elements");
    assert!(then.is_repeatable(), "what an epilogue of a convolution reads is not written over");
    let (out, following) = then.open::<T>(height * width);
    let epilogue = |mut block: Block<'_, T>| {
        // SAFETY: an element is in one block at a time, and no input lies under an output.
        unsafe { following.finish(&mut block) };
    };
    run(&same(a), &same(b), out, Then::of(&epilogue));
}

fn forward<T: Float>(g: &Conv2d, x: &[T], k: &[T], y: &mut [T]) {
    forward_then(g, x, k, y, Then::nothing());
}

fn forward_then<T: Float>(g: &Conv2d, x: &[T], k: &[T], y: &mut [T], then: Then<'_, T>) {
    if y.is_empty() {
    } else if winograd::fits::<T>(g) {
        winograd::forward(Isa::detect(), g, x, k, y, then);
    } else {
        passes::forward(Isa::detect(), g, x, k, y, then);
    }
}

fn input_grad<T: Float>(g: &Conv2d, ct: &[T], k: &[T], dx: &mut [T]) {
    grad_then(g, ct, k, dx, Then::nothing());
}

fn grad_then<T: Float>(g: &Conv2d, ct: &[T], k: &[T], dx: &mut [T], then: Then<'_, T>) {
    if dx.is_empty() {
    } else if ct.is_empty() {
        dx.fill(T::ZERO);
        then.whole(dx, g.height * g.width);
    } else if winograd::fits::<T>(g) {
        winograd::input_grad(Isa::detect(), g, ct, k, dx, then);
    } else {
        passes::input_grad(Isa::detect(), g, ct, k, dx, then);
    }
}

fn weight_grad<T: Float>(g: &Conv2d, x: &[T], ct: &[T], dk: &mut [T]) {
    if x.is_empty() || ct.is_empty() {
        dk.fill(T::ZERO);
    } else if dk.is_empty() {
    } else if winograd::fits::<T>(g) {
        winograd::weight_grad(Isa::detect(), g, x, ct, dk);
    } else {
        weight_grad::weight_grad(Isa::detect(), g, x, ct, dk);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Small whole numbers: every sum is exact, so any order and any instructions agree.
    fn whole<T: Float>(len: usize, seed: usize) -> Vec<T> {
        let digit = |i: usize| (i * 7 + seed * 13 + i / 11) % 9;
        let one = T::reciprocal(1);
        (0..len).map(|i| (0..digit(i)).fold(T::ZERO, |sum, _| sum + one)).collect()
    }

    fn check<T: Float>(g: &Conv2d) {
        let len = |dims: [usize; 4]| dims.iter().product::<usize>();
        let (nx, nk, ny) = (len(g.x_dims()), len(g.k_dims()), len(g.y_dims()));
        let (x, k, ct) = (whole::<T>(nx, 1), whole::<T>(nk, 2), whole::<T>(ny, 3));
        let results = Isa::all().into_iter().map(|isa| {
            let (mut y, mut dx, mut dk) = (ct.clone(), x.clone(), k.clone());
            passes::forward(isa, g, &x, &k, &mut y, Then::nothing());
            passes::input_grad(isa, g, &ct, &k, &mut dx, Then::nothing());
            weight_grad::weight_grad(isa, g, &x, &ct, &mut dk);
            (y, dx, dk)
        });
        let results: Vec<_> = results.collect();
        assert!(results.iter().all(|result| *result == results[0]), "{g:?}");
    }

    #[test]
    fn plain_and_fast_instructions_agree_exactly_on_whole_numbers() {
        for (stride, groups) in [([1, 1], 1), ([2, 1], 2), ([2, 3], 1)] {
            for out_channels in [2, 4, 6, 10, 14] {
                let g = Conv2d {
                    batch: 2,
                    in_channels: 4,
                    height: 9,
                    width: 21,
                    out_channels,
                    kernel_h: 3,
                    kernel_w: 2,
                    stride,
                    padding: [1, 1],
                    dilation: [1, 2],
                    groups,
                };
                check::<f32>(&g);
                check::<f64>(&g);
            }
        }
    }

    #[test]
    fn a_gradient_of_nothing_is_nothing() {
        let empty = |height, out_channels| Conv2d {
            batch: 2,
            in_channels: 1,
            height,
            width: 4,
            out_channels,
            kernel_h: 1,
            kernel_w: 1,
            stride: [1, 1],
            padding: [0, 0],
            dilation: [1, 1],
            groups: 1,
        };
        let mut none: [f32; 0] = [];
        input_grad(&empty(0, 1), &[], &[1.0], &mut none);
        let mut rest = [7f32; 24];
        input_grad(&empty(3, 0), &[], &[], &mut rest);
        assert_eq!(rest, [0.0; 24], "no output channel, no gradient");
    }
}
