//! Convolutions: one trilinear form of input, kernel and output, and what users make of it.
//!
//! ⟨y, x ⋆ k⟩ is linear in each of x, k and y. A `Contraction` reads two of them and gives the
//! derivative in the third: the convolution itself, its gradient in the input (the transposed
//! convolution) and its gradient in the kernel. So the transposes of each are the other two, and
//! derivatives of every order stay in the family.

mod contraction;
mod elsewhere;

use crate::registry::{Case, Family, Op, Sample};
use autograd_core::kernels::conv2d::Conv2d as Geometry;
use autograd_core::{At, Error, Result, Shape, Site, TrackedTensor, algebra, apply_one, checked_shape};
pub(crate) use contraction::rebuild;
use contraction::{Contraction, Role};

/// Parameters of a convolution where rows and columns differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvOptions {
    /// Zeros around the input: above and below, left and right.
    pub padding: [usize; 2],
    /// Steps of the kernel down and right.
    pub stride: [usize; 2],
    /// Distances between the kernel's taps.
    pub dilation: [usize; 2],
    /// Groups of channels that do not see one another.
    pub groups: usize,
}

impl Default for ConvOptions {
    fn default() -> Self {
        Self { padding: [0; 2], stride: [1; 2], dilation: [1; 2], groups: 1 }
    }
}

/// y[n, o, i, j] = Σ_{c, p, q} k[o, c, p, q] · x[n, c, i·stride − padding + p·dilation, j·…].
///
/// x is N×C×H×W, the kernel O×(C/groups)×KH×KW, the result N×O×OH×OW with
/// OH = ⌊(H + 2·padding − dilation·(KH − 1) − 1) / stride⌋ + 1. Linear in x and in the kernel.
///
/// # Errors
/// Shapes that do not fit, or a kernel larger than the padded input; types or devices that differ.
#[track_caller]
pub fn conv2d(
    x: &TrackedTensor,
    kernel: &TrackedTensor,
    padding: usize,
    stride: usize,
    dilation: usize,
    groups: usize,
) -> Result<TrackedTensor> {
    conv2d_with(
        x,
        kernel,
        &ConvOptions { padding: [padding; 2], stride: [stride; 2], dilation: [dilation; 2], groups },
    )
}

/// [`conv2d`] with parameters that differ between rows and columns.
///
/// # Errors
/// As [`conv2d`].
#[track_caller]
pub fn conv2d_with(
    x: &TrackedTensor,
    kernel: &TrackedTensor,
    options: &ConvOptions,
) -> Result<TrackedTensor> {
    let op = Contraction {
        geometry: geometry("conv2d", x, kernel, options, Site::caller())?,
        gives: Role::Output,
    };
    apply_one(&op, &[x, kernel])
}

/// [`conv2d`] with `b[o]` added to channel o of the result.
///
/// # Errors
/// As [`conv2d`]; a bias that is not one number for each output channel.
#[track_caller]
pub fn conv2d_bias(
    x: &TrackedTensor,
    kernel: &TrackedTensor,
    bias: &TrackedTensor,
    padding: usize,
    stride: usize,
    dilation: usize,
    groups: usize,
) -> Result<TrackedTensor> {
    let y = conv2d(x, kernel, padding, stride, dilation, groups)?;
    algebra::add(&y, &algebra::reshape(bias, &Shape::new(&[y.dims()[1], 1, 1]))?)
}

/// y[n, o, i] = Σ_{c, p} k[o, c, p] · x[n, c, i·stride − padding + p·dilation].
///
/// x is N×C×L, the kernel O×(C/groups)×K, the result N×O×OL with OL as OH in [`conv2d`].
///
/// # Errors
/// As [`conv2d`].
#[track_caller]
pub fn conv1d(
    x: &TrackedTensor,
    kernel: &TrackedTensor,
    padding: usize,
    stride: usize,
    dilation: usize,
    groups: usize,
) -> Result<TrackedTensor> {
    let (x, kernel) = (one_row("conv1d", x)?, one_row("conv1d", kernel)?);
    let options = ConvOptions { padding: [0, padding], stride: [1, stride], dilation: [1, dilation], groups };
    let op = Contraction {
        geometry: geometry("conv1d", &x, &kernel, &options, Site::caller())?,
        gives: Role::Output,
    };
    without_row(&apply_one(&op, &[&x, &kernel])?)
}

/// The transpose of [`conv2d`] in its input: y[n, c, i·stride − padding + p·dilation, j·…] +=
/// k[o, c, p, q] · x[n, o, i, j].
///
/// x is N×O×H×W, the kernel O×C×KH×KW, the result N×C×OH×OW with
/// OH = (H − 1)·stride − 2·padding + dilation·(KH − 1) + output_padding + 1.
///
/// # Errors
/// As [`conv2d`]; an `output_padding` that is not smaller than the stride.
#[track_caller]
pub fn conv_transpose2d(
    x: &TrackedTensor,
    kernel: &TrackedTensor,
    padding: usize,
    output_padding: usize,
    stride: usize,
    dilation: usize,
) -> Result<TrackedTensor> {
    let options =
        ConvOptions { padding: [padding; 2], stride: [stride; 2], dilation: [dilation; 2], groups: 1 };
    conv_transpose2d_with(x, kernel, &options, [output_padding; 2])
}

/// [`conv_transpose2d`] with groups, and parameters that differ between rows and columns.
///
/// # Errors
/// As [`conv_transpose2d`].
#[track_caller]
pub fn conv_transpose2d_with(
    x: &TrackedTensor,
    kernel: &TrackedTensor,
    options: &ConvOptions,
    output_padding: [usize; 2],
) -> Result<TrackedTensor> {
    let geometry = transposed("conv_transpose2d", x, kernel, options, output_padding, Site::caller())?;
    apply_one(&Contraction { geometry, gives: Role::Input }, &[kernel, x])
}

/// The transpose of [`conv1d`] in its input, as [`conv_transpose2d`]; the kernel is O×(C/groups)×K.
///
/// # Errors
/// As [`conv_transpose2d`].
#[track_caller]
pub fn conv_transpose1d(
    x: &TrackedTensor,
    kernel: &TrackedTensor,
    padding: usize,
    output_padding: usize,
    stride: usize,
    dilation: usize,
    groups: usize,
) -> Result<TrackedTensor> {
    let (x, kernel) = (one_row("conv_transpose1d", x)?, one_row("conv_transpose1d", kernel)?);
    let options = ConvOptions { padding: [0, padding], stride: [1, stride], dilation: [1, dilation], groups };
    let geometry =
        transposed("conv_transpose1d", &x, &kernel, &options, [0, output_padding], Site::caller())?;
    without_row(&apply_one(&Contraction { geometry, gives: Role::Input }, &[&kernel, &x])?)
}

/// N×C×L as N×C×1×L.
#[track_caller]
fn one_row(op: &'static str, x: &TrackedTensor) -> Result<TrackedTensor> {
    let &[n, c, l] = x.dims() else {
        return Err(x.failure().cloned().unwrap_or_else(|| {
            Error::shape(op, &[*x.shape()], "input and kernel have three dimensions").or_at(Site::caller())
        }));
    };
    algebra::reshape(x, &Shape::new(&[n, c, 1, l]))
}

/// N×C×1×L as N×C×L.
#[track_caller]
fn without_row(y: &TrackedTensor) -> Result<TrackedTensor> {
    algebra::reshape(y, &Shape::new(&[y.dims()[0], y.dims()[1], y.dims()[3]]))
}

/// The four extents of both operands, after the checks that concern parameters.
fn extents(
    op: &'static str,
    x: &TrackedTensor,
    kernel: &TrackedTensor,
    options: &ConvOptions,
) -> Result<([usize; 4], [usize; 4])> {
    if let Some(error) = x.failure().or(kernel.failure()) {
        return Err(error.clone());
    }
    let ConvOptions { stride, dilation, groups, .. } = *options;
    if stride.contains(&0) || dilation.contains(&0) || groups == 0 {
        let reason =
            format!("stride {stride:?}, dilation {dilation:?} and groups {groups} must be at least 1");
        return Err(Error::argument(op, reason));
    }
    let four = |x: &TrackedTensor| <[usize; 4]>::try_from(x.dims()).ok();
    let fault = |reason: &str| Error::shape(op, &[*x.shape(), *kernel.shape()], reason);
    let (Some(x4), Some(k4)) = (four(x), four(kernel)) else {
        return Err(fault("input and kernel have four dimensions"));
    };
    if k4[2] == 0 || k4[3] == 0 {
        return Err(fault("the kernel is empty"));
    }
    let in_reach = |axis: usize| {
        let around = options.padding[axis].checked_mul(2)?.checked_add(x4[2 + axis])?;
        let kernel = dilation[axis].checked_mul(k4[2 + axis] - 1)?.checked_add(1)?;
        around.checked_add(kernel)
    };
    if in_reach(0).is_none() || in_reach(1).is_none() || k4[1].checked_mul(groups).is_none() {
        let (padding, dilation) = (options.padding, options.dilation);
        let reason =
            format!("padding {padding:?}, dilation {dilation:?} or groups {groups} are beyond any input");
        return Err(Error::argument(op, reason));
    }
    if x.dtype() != kernel.dtype() {
        return Err(Error::DTypeMismatch { op, dtypes: vec![x.dtype(), kernel.dtype()], at: At::default() });
    }
    Ok((x4, k4))
}

/// The geometry of a convolution of `x` with `kernel`.
fn geometry(
    op: &'static str,
    x: &TrackedTensor,
    kernel: &TrackedTensor,
    options: &ConvOptions,
    site: Site,
) -> Result<Geometry> {
    let make = || {
        let ([n, c, h, w], [o, per_group, kh, kw]) = extents(op, x, kernel, options)?;
        let ConvOptions { padding, stride, dilation, groups } = *options;
        let fault = |reason: String| Error::shape(op, &[*x.shape(), *kernel.shape()], reason);
        if c != per_group * groups || o % groups != 0 {
            return Err(fault(format!(
                "{c} input channels are not {groups} groups of the kernel's {per_group}, or {o} output channels do not divide into {groups} groups"
            )));
        }
        // A step beyond the padded input leads nowhere, however long it is.
        let within = |axis: usize, extent: usize| stride[axis].min(extent + 2 * padding[axis]).max(1);
        let stride = [within(0, h), within(1, w)];
        let geometry = Geometry {
            batch: n,
            in_channels: c,
            height: h,
            width: w,
            out_channels: o,
            kernel_h: kh,
            kernel_w: kw,
            stride,
            padding,
            dilation,
            groups,
        };
        if geometry.out_height() == 0 || geometry.out_width() == 0 {
            return Err(fault(format!(
                "the kernel with dilation {dilation:?} is larger than the padded input"
            )));
        }
        Ok(geometry)
    };
    make().map_err(|error: Error| error.or_at(site))
}

/// The geometry of the convolution whose output is like `x` and whose input is to be given.
fn transposed(
    op: &'static str,
    x: &TrackedTensor,
    kernel: &TrackedTensor,
    options: &ConvOptions,
    output_padding: [usize; 2],
    site: Site,
) -> Result<Geometry> {
    let make = || {
        let ([n, o, h, w], [ko, per_group, kh, kw]) = extents(op, x, kernel, options)?;
        let ConvOptions { padding, stride, dilation, groups } = *options;
        let fault = |reason: String| Error::shape(op, &[*x.shape(), *kernel.shape()], reason);
        if o != ko || o % groups != 0 {
            return Err(fault(format!(
                "{o} input channels are not the kernel's {ko}, or do not divide into {groups} groups"
            )));
        }
        if output_padding[0] >= stride[0] || output_padding[1] >= stride[1] {
            let reason = format!("output_padding {output_padding:?} must be smaller than stride {stride:?}");
            return Err(Error::argument(op, reason));
        }
        let extent = |axis: usize, size: usize, taps: usize| {
            let steps = size.checked_sub(1)?.checked_mul(stride[axis])?;
            let kernel = dilation[axis] * (taps - 1) + 1;
            let reach = steps.checked_add(kernel)?.checked_add(output_padding[axis])?;
            reach.checked_sub(2 * padding[axis]).filter(|&extent| extent > 0)
        };
        let (Some(height), Some(width)) = (extent(0, h, kh), extent(1, w, kw)) else {
            return Err(fault(format!("nothing is left inside padding {padding:?}")));
        };
        checked_shape(op, &[n, per_group * groups, height, width])?;
        Ok(Geometry {
            batch: n,
            in_channels: per_group * groups,
            height,
            width,
            out_channels: o,
            kernel_h: kh,
            kernel_w: kw,
            stride,
            padding,
            dilation,
            groups,
        })
    };
    make().map_err(|error: Error| error.or_at(site))
}

/// The ops of this file.
pub fn ops() -> Vec<Op> {
    let op = |name, formula, cases| Op { name, family: Family::Neural, formula, cases };
    vec![
        op(
            "conv2d",
            "y = Σ k · x over the kernel's taps and the group's channels; x N×C×H×W, k O×(C/groups)×KH×KW",
            || {
                let case = |label, x: &[usize], k: &[usize], options: ConvOptions| {
                    let inputs = vec![Sample::float(x), Sample::float(k)];
                    Case::new(label, inputs, move |v| conv2d_with(&v[0], &v[1], &options))
                };
                let plain = ConvOptions::default();
                vec![
                    case("3×3 kernel", &[2, 2, 5, 4], &[3, 2, 3, 3], plain),
                    case("padding 1", &[1, 2, 4, 4], &[2, 2, 3, 3], ConvOptions { padding: [1, 1], ..plain }),
                    case(
                        "stride 2, odd rest",
                        &[1, 1, 6, 5],
                        &[2, 1, 3, 2],
                        ConvOptions { stride: [2, 2], ..plain },
                    ),
                    case(
                        "rows unlike columns",
                        &[1, 2, 5, 6],
                        &[2, 2, 2, 3],
                        ConvOptions { padding: [2, 0], stride: [1, 2], dilation: [2, 1], groups: 1 },
                    ),
                    case(
                        "two groups",
                        &[2, 4, 3, 3],
                        &[6, 2, 2, 2],
                        ConvOptions { groups: 2, padding: [1, 0], ..plain },
                    ),
                    case("depthwise", &[1, 3, 4, 4], &[3, 1, 3, 3], ConvOptions { groups: 3, ..plain }),
                    case("1×1 kernel", &[2, 3, 2, 2], &[2, 3, 1, 1], plain),
                    case("no images", &[0, 2, 4, 4], &[3, 2, 3, 3], plain),
                ]
            },
        ),
        op(
            "conv1d",
            "y = Σ k · x over the kernel's taps and the group's channels; x N×C×L, k O×(C/groups)×K",
            || {
                vec![
                    Case::new("kernel 3", vec![Sample::float(&[2, 2, 6]), Sample::float(&[3, 2, 3])], |v| {
                        conv1d(&v[0], &v[1], 0, 1, 1, 1)
                    }),
                    Case::new(
                        "padding, stride, dilation, groups",
                        vec![Sample::float(&[1, 4, 9]), Sample::float(&[2, 2, 3])],
                        |v| conv1d(&v[0], &v[1], 2, 2, 2, 2),
                    ),
                ]
            },
        ),
        op("conv2d_bias", "conv2d(x, k) + b, b of extent O", || {
            vec![Case::new(
                "padding 1",
                vec![Sample::float(&[2, 2, 3, 3]), Sample::float(&[3, 2, 2, 2]), Sample::float(&[3])],
                |v| conv2d_bias(&v[0], &v[1], &v[2], 1, 1, 1, 1),
            )]
        }),
        op("conv_transpose2d", "the transpose of conv2d in x; x N×O×H×W, k O×C×KH×KW", || {
            let inputs = |x: &[usize], k: &[usize]| vec![Sample::float(x), Sample::float(k)];
            vec![
                Case::new("3×3 kernel", inputs(&[1, 2, 3, 3], &[2, 3, 3, 3]), |v| {
                    conv_transpose2d(&v[0], &v[1], 0, 0, 1, 1)
                }),
                Case::new("stride 2, output padding 1", inputs(&[2, 2, 3, 2], &[2, 1, 3, 3]), |v| {
                    conv_transpose2d(&v[0], &v[1], 1, 1, 2, 1)
                }),
                Case::new("groups", inputs(&[1, 4, 2, 2], &[4, 2, 2, 2]), |v| {
                    conv_transpose2d_with(
                        &v[0],
                        &v[1],
                        &ConvOptions { groups: 2, dilation: [2, 1], ..ConvOptions::default() },
                        [0, 0],
                    )
                }),
            ]
        }),
        op("conv_transpose1d", "the transpose of conv1d in x; x N×O×L, k O×(C/groups)×K", || {
            vec![Case::new(
                "stride 2, output padding 1",
                vec![Sample::float(&[2, 2, 4]), Sample::float(&[2, 2, 3])],
                |v| conv_transpose1d(&v[0], &v[1], 1, 1, 2, 1, 1),
            )]
        }),
    ]
}

/// The methods of this file.
#[macro_export]
#[doc(hidden)]
macro_rules! conv_methods {
    ($($callback:tt)*) => {
        $($callback)* {
            unary {}
            binary {}
            other {
                /// The convolution of N×C×H×W with a kernel O×(C/groups)×KH×KW.
                conv2d(kernel: &TrackedTensor, padding: usize, stride: usize, dilation: usize, groups: usize) -> TrackedTensor = $crate::conv::conv2d;
                /// The same with parameters that differ between rows and columns.
                conv2d_with(kernel: &TrackedTensor, options: &$crate::conv::ConvOptions) -> TrackedTensor = $crate::conv::conv2d_with;
                /// The convolution of N×C×H×W with a number added to each output channel.
                conv2d_bias(kernel: &TrackedTensor, bias: &TrackedTensor, padding: usize, stride: usize, dilation: usize, groups: usize) -> TrackedTensor = $crate::conv::conv2d_bias;
                /// The convolution of N×C×L with a kernel O×(C/groups)×K.
                conv1d(kernel: &TrackedTensor, padding: usize, stride: usize, dilation: usize, groups: usize) -> TrackedTensor = $crate::conv::conv1d;
                /// The transposed convolution of N×O×H×W with a kernel O×C×KH×KW.
                conv_transpose2d(kernel: &TrackedTensor, padding: usize, output_padding: usize, stride: usize, dilation: usize) -> TrackedTensor = $crate::conv::conv_transpose2d;
                /// The transposed convolution of N×O×L with a kernel O×(C/groups)×K.
                conv_transpose1d(kernel: &TrackedTensor, padding: usize, output_padding: usize, stride: usize, dilation: usize, groups: usize) -> TrackedTensor = $crate::conv::conv_transpose1d;
            }
        }
    };
}

#[cfg(test)]
mod tests;
