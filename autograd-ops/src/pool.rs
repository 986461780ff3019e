//! Maximum and average over windows of the last two dimensions.
//!
//! The maximum's gradient goes to the chosen element. Its rule is fused and reads the indices
//! that the forward kernel found; said in full, it is a choice of indices (`Indices`, flat) and
//! a gather at them, which is linear.

use crate::index::{gather, scattered};
use crate::registry::{Case, Family, Op, Sample};
use autograd_core::device::KernelCall;
use autograd_core::kernels::index;
use autograd_core::kernels::pool2d::{self, Pool2d};
use autograd_core::smallvec::{SmallVec, smallvec};
use autograd_core::{
    Buffer, Error, General, Grads, Mask, Meta, Prim, Primitive, Residual, Residuals, Result, Rule, Saved,
    Shape, Signature, SliceMut, TrackedTensor, Transpose, Values, View, algebra, apply_one, checked_shape,
    is_float,
};
pub use candle_core::ToUsize2;
use std::sync::Arc;

/// The maximum of each kh×kw window; windows lie side by side. x is …×H×W, the result
/// …×⌊H/kh⌋×⌊W/kw⌋. The first of equal maxima is the chosen one and gets all of the gradient, as
/// in PyTorch; a NaN wins.
///
/// # Errors
/// Fewer than two dimensions, a window larger than x, a type that is not a float.
#[track_caller]
pub fn max_pool2d(x: &TrackedTensor, kernel: impl ToUsize2) -> Result<TrackedTensor> {
    let kernel = kernel.to_usize2();
    max_pool2d_with(x, kernel, kernel, 0)
}

/// [`max_pool2d`] with windows `stride` apart.
///
/// # Errors
/// As [`max_pool2d`].
#[track_caller]
pub fn max_pool2d_with_stride(
    x: &TrackedTensor,
    kernel: impl ToUsize2,
    stride: impl ToUsize2,
) -> Result<TrackedTensor> {
    max_pool2d_with(x, kernel, stride, 0)
}

/// [`max_pool2d`] with windows `stride` apart and a border of `padding` that never wins.
///
/// # Errors
/// As [`max_pool2d`]; a padding that is not smaller than the window.
#[track_caller]
pub fn max_pool2d_with(
    x: &TrackedTensor,
    kernel: impl ToUsize2,
    stride: impl ToUsize2,
    padding: impl ToUsize2,
) -> Result<TrackedTensor> {
    apply_one(&MaxPool(Window::new(kernel, stride, padding)), &[x])
}

/// The mean of each kh×kw window; windows lie side by side. x is …×H×W, the result
/// …×⌊H/kh⌋×⌊W/kw⌋.
///
/// # Errors
/// As [`max_pool2d`].
#[track_caller]
pub fn avg_pool2d(x: &TrackedTensor, kernel: impl ToUsize2) -> Result<TrackedTensor> {
    let kernel = kernel.to_usize2();
    avg_pool2d_with(x, kernel, kernel, 0)
}

/// [`avg_pool2d`] with windows `stride` apart.
///
/// # Errors
/// As [`max_pool2d`].
#[track_caller]
pub fn avg_pool2d_with_stride(
    x: &TrackedTensor,
    kernel: impl ToUsize2,
    stride: impl ToUsize2,
) -> Result<TrackedTensor> {
    avg_pool2d_with(x, kernel, stride, 0)
}

/// [`avg_pool2d`] with windows `stride` apart and a border of `padding` zeros, which count as
/// elements (PyTorch's `count_include_pad`).
///
/// # Errors
/// As [`max_pool2d_with`].
#[track_caller]
pub fn avg_pool2d_with(
    x: &TrackedTensor,
    kernel: impl ToUsize2,
    stride: impl ToUsize2,
    padding: impl ToUsize2,
) -> Result<TrackedTensor> {
    apply_one(&AvgPool(Window::new(kernel, stride, padding)), &[x])
}

/// The maximum of each window of the last dimension, as [`max_pool2d_with`].
///
/// # Errors
/// As [`max_pool2d_with`].
#[track_caller]
pub fn max_pool1d(x: &TrackedTensor, kernel: usize, stride: usize, padding: usize) -> Result<TrackedTensor> {
    let op = MaxPool(Window { kernel: [1, kernel], stride: [1, stride], padding: [0, padding] });
    in_one_row("max_pool1d", x, |x| apply_one(&op, &[x]))
}

/// The mean of each window of the last dimension, as [`avg_pool2d_with`].
///
/// # Errors
/// As [`avg_pool2d_with`].
#[track_caller]
pub fn avg_pool1d(x: &TrackedTensor, kernel: usize, stride: usize, padding: usize) -> Result<TrackedTensor> {
    let op = AvgPool(Window { kernel: [1, kernel], stride: [1, stride], padding: [0, padding] });
    in_one_row("avg_pool1d", x, |x| apply_one(&op, &[x]))
}

/// Runs a function of images on …×L seen as …×1×L.
#[track_caller]
fn in_one_row(
    op: &'static str,
    x: &TrackedTensor,
    f: impl FnOnce(&TrackedTensor) -> Result<TrackedTensor>,
) -> Result<TrackedTensor> {
    let mut dims: SmallVec<[usize; 8]> = SmallVec::from_slice(x.dims());
    dims.insert(dims.len().saturating_sub(1), 1);
    let y = f(&algebra::reshape(x, &checked_shape(op, &dims)?)?)?;
    dims.clear();
    dims.extend_from_slice(y.dims());
    dims.remove(dims.len() - 2);
    algebra::reshape(&y, &Shape::new(&dims))
}

/// Windows over the last two dimensions.
#[derive(Clone, Copy, Debug)]
struct Window {
    kernel: [usize; 2],
    stride: [usize; 2],
    padding: [usize; 2],
}

impl Window {
    fn new(kernel: impl ToUsize2, stride: impl ToUsize2, padding: impl ToUsize2) -> Self {
        let pair = |(a, b): (usize, usize)| [a, b];
        Self {
            kernel: pair(kernel.to_usize2()),
            stride: pair(stride.to_usize2()),
            padding: pair(padding.to_usize2()),
        }
    }

    /// The kernels' geometry over inputs of these extents, at least two.
    fn over(&self, dims: &[usize]) -> Pool2d {
        let (lead, plane) = dims.split_at(dims.len() - 2);
        Pool2d {
            planes: lead.iter().product(),
            height: plane[0],
            width: plane[1],
            kernel: self.kernel,
            stride: self.stride,
            padding: self.padding,
        }
    }

    /// What a device's kernel of this name is told.
    fn call(&self, kernel: &'static str) -> Option<KernelCall> {
        let pairs = [self.kernel, self.stride, self.padding].concat();
        Some(KernelCall::new(kernel, &pairs.iter().map(|&n| n as i64).collect::<Vec<_>>(), &[]))
    }

    /// The meta of the output, or what does not fit.
    fn infer(&self, op: &'static str, x: &Meta) -> Result<Meta> {
        let Self { kernel, stride, padding } = *self;
        if !is_float(x.dtype) {
            return Err(Error::dtype(op, x.dtype, "convert to a float type with to_dtype"));
        }
        if kernel.contains(&0) || stride.contains(&0) || (0..2).any(|i| padding[i] >= kernel[i]) {
            let reason = format!(
                "kernel {kernel:?} and stride {stride:?} must be at least 1, and padding {padding:?} smaller than the kernel"
            );
            return Err(Error::argument(op, reason));
        }
        if x.shape.rank() < 2 {
            return Err(Error::shape(op, &[x.shape], "the input has at least two dimensions"));
        }
        let g = self.over(x.shape.dims());
        if g.out_height() == 0 || g.out_width() == 0 {
            let reason = format!("the window {kernel:?} is larger than the padded input");
            return Err(Error::shape(op, &[x.shape], reason));
        }
        let mut shape = x.shape;
        let rank = shape.rank();
        shape.dims_mut()[rank - 2..].copy_from_slice(&[g.out_height(), g.out_width()]);
        Ok(x.with_shape(shape))
    }
}

fn indices_like(y: &Meta) -> Meta {
    y.with_dtype(candle_core::DType::U32)
}

/// y = the maximum of each window; hint: its index in the plane.
#[derive(Clone, Copy, Debug)]
struct MaxPool(Window);

/// The index of each window's maximum within its plane: h·W + w.
#[derive(Clone, Copy, Debug)]
struct Indices(Window);

/// The fused reverse rule of [`MaxPool`]: (ct, x, indices) to dx.
#[derive(Clone, Copy, Debug)]
struct MaxPoolGrad(Window);

/// y = the mean of each window.
#[derive(Clone, Copy, Debug)]
struct AvgPool(Window);

/// The transpose of [`AvgPool`] for planes of this size.
#[derive(Clone, Copy, Debug)]
struct AvgPoolGrad {
    window: Window,
    plane: [usize; 2],
}

/// …×H×W as …×(H·W).
fn flat_planes(x: &TrackedTensor) -> Result<TrackedTensor> {
    let (lead, plane) = x.dims().split_at(x.rank() - 2);
    let mut dims: SmallVec<[usize; 8]> = SmallVec::from_slice(lead);
    dims.push(plane[0] * plane[1]);
    algebra::reshape(x, &checked_shape("max_pool2d", &dims)?)
}

/// The elements of x (…×H×W) at `indices` (…×OH×OW) of its planes.
fn pick(x: &TrackedTensor, indices: &TrackedTensor) -> Result<TrackedTensor> {
    let y = gather(&flat_planes(x)?, flat_planes(indices)?, -1)?;
    algebra::reshape(&y, indices.shape())
}

/// The transpose of [`pick`]: `ct` (…×OH×OW) added up at `indices` of planes like those of `shape`.
fn spread(ct: &TrackedTensor, indices: &TrackedTensor, shape: &Shape) -> Result<TrackedTensor> {
    let rank = shape.rank();
    let mut flat: SmallVec<[usize; 8]> = SmallVec::from_slice(&shape.dims()[..rank - 2]);
    flat.push(shape.dims()[rank - 2..].iter().product());
    let dx =
        scattered(&flat_planes(ct)?, &flat_planes(indices)?, rank - 2, &checked_shape("max_pool2d", &flat)?)?;
    algebra::reshape(&dx, shape)
}

macro_rules! kept {
    () => {
        fn keep(&self) -> Prim {
            Prim::Shared(Arc::new(*self))
        }
    };
}

macro_rules! over_leading_dims {
    () => {
        /// A batch is one more leading dimension.
        fn batch(&self, _: Mask, inputs: &[&TrackedTensor], _: usize) -> Result<Option<Values>> {
            Ok(Some(smallvec![apply_one(self, inputs)?]))
        }
    };
}

crate::saved::datum!(Window { kernel, stride, padding });

crate::saved::stored! {
    "max_pool" => MaxPool { 0 }, |op, x| op.0.fits(x);
    "max_pool_indices" => Indices { 0 }, |op, x| op.0.fits(x);
    "max_pool_vjp" => MaxPoolGrad { 0 }, |op, x| {
        x.len() == 3
            && op.0.fits(&x[1..2])
            && op.0.infer("max_pool2d", &x[1]).is_ok_and(|y| x[0] == y && x[2] == indices_like(&y))
    };
    "avg_pool" => AvgPool { 0 }, |op, x| op.0.fits(x);
    "avg_pool_vjp" => AvgPoolGrad { window, plane }, |op, x| {
        let rank = x.first().map_or(0, |x| x.shape.rank());
        if x.len() != 1 || rank < 2 || op.plane.iter().any(|n| *n >= 1 << 24) {
            return false;
        }
        let mut whole = x[0];
        whole.shape.dims_mut()[rank - 2..].copy_from_slice(&op.plane);
        op.window.fits(&[whole]) && op.window.infer("avg_pool2d", &whole).is_ok_and(|y| y == x[0])
    };
}

impl Window {
    /// Whether it moves over one value and its extents are such that sums of them are numbers.
    fn fits(&self, x: &[Meta]) -> bool {
        let all = [self.kernel, self.stride, self.padding];
        x.len() == 1 && all.iter().flatten().all(|n| *n < 1 << 24)
    }
}

impl Primitive for MaxPool {
    crate::saved::by_tag!();
    kept!();
    over_leading_dims!();
    fn name(&self) -> &'static str {
        "max_pool2d"
    }
    fn infer(&self, inputs: &[Meta]) -> Result<Signature> {
        let y = self.0.infer("max_pool2d", &inputs[0])?;
        Ok(Signature { outputs: smallvec![y], aux: smallvec![indices_like(&y)] })
    }
    fn eval_into(&self, inputs: &[View<'_>], outputs: &mut [SliceMut<'_>]) -> Result<()> {
        let g = self.0.over(inputs[0].layout.dims());
        let [y, rest @ ..] = outputs else { return Err(Error::internal("max_pool2d", "it has an output")) };
        pool2d::max_pool2d(&g, inputs[0], y.reborrow(), rest.first_mut().map(SliceMut::reborrow));
        Ok(())
    }
    fn kernel(&self) -> Option<KernelCall> {
        self.0.call("max_pool2d")
    }
    fn rule(&self) -> Rule<'_> {
        Rule::General(self)
    }
    fn decompose(&self, inputs: &[&TrackedTensor]) -> Result<Option<Values>> {
        let indices = apply_one(&Indices(self.0), &[inputs[0]])?;
        Ok(Some(smallvec![pick(inputs[0], &indices)?]))
    }
}

impl General for MaxPool {
    fn residuals(&self, _: Mask) -> Residuals {
        smallvec![Residual::Input(0), Residual::Aux(0)]
    }

    // dx = the cotangent of each window, at the element that was chosen.
    fn vjp(&self, _: Mask, cts: &[Option<TrackedTensor>], saved: &Saved<'_>) -> Result<Grads> {
        let Some(ct) = &cts[0] else { return Ok(smallvec![None]) };
        let x = saved.input(0)?;
        // Where the kernel has not kept them the indices are found again.
        let found = if saved.aux(0).is_none() { Some(apply_one(&Indices(self.0), &[x])?) } else { None };
        let indices = saved.aux(0).or(found.as_ref());
        let indices = indices.ok_or_else(|| Error::internal("max_pool2d_vjp", "it has no indices"))?;
        Ok(smallvec![Some(apply_one(&MaxPoolGrad(self.0), &[ct, x, indices])?)])
    }

    // dy = the tangent of the chosen element.
    fn jvp(
        &self,
        inputs: &[&TrackedTensor],
        _: &[TrackedTensor],
        tangents: &[Option<TrackedTensor>],
    ) -> Result<Option<SmallVec<[Option<TrackedTensor>; 2]>>> {
        let Some(dx) = &tangents[0] else { return Ok(Some(smallvec![None])) };
        let indices = apply_one(&Indices(self.0), &[inputs[0]])?;
        Ok(Some(smallvec![Some(pick(dx, &indices)?)]))
    }
}

impl Primitive for Indices {
    crate::saved::by_tag!();
    kept!();
    over_leading_dims!();
    fn name(&self) -> &'static str {
        "max_pool2d_indices"
    }
    fn infer(&self, inputs: &[Meta]) -> Result<Signature> {
        Ok(Signature::one(indices_like(&self.0.infer("max_pool2d_indices", &inputs[0])?)))
    }
    fn scratch(&self, inputs: &[Meta]) -> usize {
        self.0.infer("max_pool2d_indices", &inputs[0]).map_or(0, |y| y.bytes())
    }
    fn eval_into(&self, inputs: &[View<'_>], outputs: &mut [SliceMut<'_>]) -> Result<()> {
        let mut maxima = Buffer::take(inputs[0].kind(), outputs[0].len());
        if let Some(maxima) = maxima.slice_mut() {
            let g = self.0.over(inputs[0].layout.dims());
            pool2d::max_pool2d(&g, inputs[0], maxima, Some(outputs[0].reborrow()));
        }
        Ok(())
    }
    crate::elsewhere::on_host!();
    fn kernel(&self) -> Option<KernelCall> {
        self.0.call("max_pool2d_indices")
    }
    fn rule(&self) -> Rule<'_> {
        Rule::Flat
    }
}

impl Primitive for MaxPoolGrad {
    crate::saved::by_tag!();
    kept!();
    fn name(&self) -> &'static str {
        "max_pool2d_vjp"
    }
    fn infer(&self, inputs: &[Meta]) -> Result<Signature> {
        Ok(Signature::one(inputs[1]))
    }
    fn eval_into(&self, inputs: &[View<'_>], outputs: &mut [SliceMut<'_>]) -> Result<()> {
        let g = self.0.over(inputs[1].layout.dims());
        index::check_indices(inputs[2], g.height * g.width).map_err(|(_, i)| {
            Error::internal("max_pool2d_vjp", format!("index {i} is outside of the plane"))
        })?;
        pool2d::max_pool2d_grad(&g, inputs[0], inputs[2], outputs[0].reborrow());
        Ok(())
    }
    fn kernel(&self) -> Option<KernelCall> {
        self.0.call("max_pool2d_vjp")
    }
    fn rule(&self) -> Rule<'_> {
        Rule::Composite
    }
    fn decompose(&self, inputs: &[&TrackedTensor]) -> Result<Option<Values>> {
        let indices = apply_one(&Indices(self.0), &[inputs[1]])?;
        Ok(Some(smallvec![spread(inputs[0], &indices, inputs[1].shape())?]))
    }
}

impl Primitive for AvgPool {
    crate::saved::by_tag!();
    kept!();
    over_leading_dims!();
    fn name(&self) -> &'static str {
        "avg_pool2d"
    }
    fn infer(&self, inputs: &[Meta]) -> Result<Signature> {
        Ok(Signature::one(self.0.infer("avg_pool2d", &inputs[0])?))
    }
    fn eval_into(&self, inputs: &[View<'_>], outputs: &mut [SliceMut<'_>]) -> Result<()> {
        pool2d::avg_pool2d(&self.0.over(inputs[0].layout.dims()), inputs[0], outputs[0].reborrow());
        Ok(())
    }
    crate::elsewhere::on_host!();
    fn kernel(&self) -> Option<KernelCall> {
        self.0.call("avg_pool2d")
    }
    fn rule(&self) -> Rule<'_> {
        Rule::Linear(Mask::one(0), self)
    }
}

impl Transpose for AvgPool {
    fn transpose(&self, _: Mask, cts: &[Option<TrackedTensor>], saved: &Saved<'_>) -> Result<Grads> {
        let x = saved.inputs[0].shape;
        let plane = [x.dims()[x.rank() - 2], x.dims()[x.rank() - 1]];
        let back = |ct: &TrackedTensor| apply_one(&AvgPoolGrad { window: self.0, plane }, &[ct]);
        Ok(smallvec![cts[0].as_ref().map(back).transpose()?])
    }
}

impl Primitive for AvgPoolGrad {
    crate::saved::by_tag!();
    kept!();
    over_leading_dims!();
    fn name(&self) -> &'static str {
        "avg_pool2d_grad"
    }
    fn infer(&self, inputs: &[Meta]) -> Result<Signature> {
        let mut shape = inputs[0].shape;
        let rank = shape.rank();
        shape.dims_mut()[rank - 2..].copy_from_slice(&self.plane);
        Ok(Signature::one(inputs[0].with_shape(shape)))
    }
    fn eval_into(&self, inputs: &[View<'_>], outputs: &mut [SliceMut<'_>]) -> Result<()> {
        let lead: usize = inputs[0].layout.dims().iter().rev().skip(2).product();
        let g = self.window.over(&[lead, self.plane[0], self.plane[1]]);
        pool2d::avg_pool2d_grad(&g, inputs[0], outputs[0].reborrow());
        Ok(())
    }
    crate::elsewhere::on_host!();
    fn kernel(&self) -> Option<KernelCall> {
        self.window.call("avg_pool2d_grad")
    }
    fn rule(&self) -> Rule<'_> {
        Rule::Linear(Mask::one(0), self)
    }
}

impl Transpose for AvgPoolGrad {
    fn transpose(&self, _: Mask, cts: &[Option<TrackedTensor>], _: &Saved<'_>) -> Result<Grads> {
        let back = |ct: &TrackedTensor| apply_one(&AvgPool(self.window), &[ct]);
        Ok(smallvec![cts[0].as_ref().map(back).transpose()?])
    }
}

/// The ops of this file.
pub fn ops() -> Vec<Op> {
    let op = |name, formula, cases| Op { name, family: Family::Neural, formula, cases };
    let max = "y = the maximum of each window of …×H×W; the first of equal maxima gets all of the gradient";
    let avg = "y = the mean of each window of …×H×W; padding counts as zeros";
    vec![
        op("max_pool2d", max, || {
            let case =
                |label, dims: &[usize], kernel: (usize, usize), stride: (usize, usize), padding: usize| {
                    Case::new(label, vec![Sample::distinct(dims)], move |x| {
                        max_pool2d_with(&x[0], kernel, stride, padding)
                    })
                };
            let mut tie = case("a tie", &[1, 1, 2, 2], (2, 2), (2, 2), 0).at_a_kink();
            tie.inputs = vec![Sample::Exact { dims: vec![1, 1, 2, 2], values: vec![1., 3., 3., 2.] }];
            vec![
                case("2×2", &[2, 2, 4, 4], (2, 2), (2, 2), 0),
                case("a rest that no window covers", &[1, 2, 5, 3], (2, 2), (2, 2), 0),
                case("overlapping windows", &[1, 1, 4, 5], (3, 2), (1, 1), 0),
                case("padding 1", &[1, 2, 4, 4], (3, 3), (2, 2), 1),
                case("gaps between windows", &[1, 1, 5, 5], (1, 2), (3, 3), 0),
                case("no images", &[0, 1, 4, 4], (2, 2), (2, 2), 0),
                tie,
            ]
        }),
        op("avg_pool2d", avg, || {
            let case =
                |label, dims: &[usize], kernel: (usize, usize), stride: (usize, usize), padding: usize| {
                    Case::new(label, vec![Sample::float(dims)], move |x| {
                        avg_pool2d_with(&x[0], kernel, stride, padding)
                    })
                };
            vec![
                case("2×2", &[2, 2, 4, 4], (2, 2), (2, 2), 0),
                case("a rest that no window covers", &[1, 2, 5, 3], (2, 2), (2, 2), 0),
                case("overlapping windows", &[1, 1, 4, 5], (3, 2), (1, 1), 0),
                case("padding 1", &[1, 2, 4, 4], (3, 3), (2, 2), 1),
                case("no images", &[0, 1, 4, 4], (2, 2), (2, 2), 0),
            ]
        }),
        op("max_pool1d", "y = the maximum of each window of …×L", || {
            vec![Case::new("padding 1", vec![Sample::distinct(&[2, 2, 7])], |x| max_pool1d(&x[0], 3, 2, 1))]
        }),
        op("avg_pool1d", "y = the mean of each window of …×L; padding counts as zeros", || {
            vec![Case::new("padding 1", vec![Sample::float(&[2, 2, 7])], |x| avg_pool1d(&x[0], 3, 2, 1))]
        }),
    ]
}

/// The methods of this file.
#[macro_export]
#[doc(hidden)]
macro_rules! pool_methods {
    ($($callback:tt)*) => {
        $($callback)* {
            unary {}
            binary {}
            other {
                /// The maximum of each window of …×H×W; windows lie side by side.
                max_pool2d(kernel: impl $crate::pool::ToUsize2) -> TrackedTensor = $crate::pool::max_pool2d;
                /// The maximum of each window of …×H×W.
                max_pool2d_with_stride(kernel: impl $crate::pool::ToUsize2, stride: impl $crate::pool::ToUsize2) -> TrackedTensor = $crate::pool::max_pool2d_with_stride;
                /// The maximum of each window of …×H×W with a border that never wins.
                max_pool2d_with(kernel: impl $crate::pool::ToUsize2, stride: impl $crate::pool::ToUsize2, padding: impl $crate::pool::ToUsize2) -> TrackedTensor = $crate::pool::max_pool2d_with;
                /// The mean of each window of …×H×W; windows lie side by side.
                avg_pool2d(kernel: impl $crate::pool::ToUsize2) -> TrackedTensor = $crate::pool::avg_pool2d;
                /// The mean of each window of …×H×W.
                avg_pool2d_with_stride(kernel: impl $crate::pool::ToUsize2, stride: impl $crate::pool::ToUsize2) -> TrackedTensor = $crate::pool::avg_pool2d_with_stride;
                /// The mean of each window of …×H×W with a border of zeros, which count.
                avg_pool2d_with(kernel: impl $crate::pool::ToUsize2, stride: impl $crate::pool::ToUsize2, padding: impl $crate::pool::ToUsize2) -> TrackedTensor = $crate::pool::avg_pool2d_with;
                /// The maximum of each window of …×L.
                max_pool1d(kernel: usize, stride: usize, padding: usize) -> TrackedTensor = $crate::pool::max_pool1d;
                /// The mean of each window of …×L with a border of zeros, which count.
                avg_pool1d(kernel: usize, stride: usize, padding: usize) -> TrackedTensor = $crate::pool::avg_pool1d;
            }
        }
    };
}

#[cfg(test)]
mod tests;
