//! Convolutions: one trilinear form of input, kernel and output, and what users make of it.
//!
//! ⟨y, x ⋆ k⟩ is linear in each of x, k and y. A [`Contraction`] reads two of them and gives the
//! derivative in the third: the convolution itself, its gradient in the input (the transposed
//! convolution) and its gradient in the kernel. So the transposes of each are the other two, and
//! derivatives of every order stay in the family.

use crate::registry::{Case, Family, Op, Sample};
use autograd_core::kernels::conv2d::{Conv2d as Geometry, conv2d as convolve};
use autograd_core::kernels::conv2d::{conv2d_input_grad, conv2d_weight_grad};
use autograd_core::smallvec::{SmallVec, smallvec};
use autograd_core::{
    At, Error, Grads, Mask, Meta, Prim, Primitive, Result, Rule, Saved, Shape, Signature, Site, SliceMut,
    TrackedTensor, Transpose, Values, View, algebra, apply_one, checked_shape, is_float,
};
use std::sync::Arc;

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

/// [`conv2d`] with b[o] added to channel o of the result.
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
            let reach =
                size.checked_sub(1)? * stride[axis] + dilation[axis] * (taps - 1) + output_padding[axis] + 1;
            reach.checked_sub(2 * padding[axis]).filter(|&extent| extent > 0)
        };
        let (Some(height), Some(width)) = (extent(0, h, kh), extent(1, w, kw)) else {
            return Err(fault(format!("nothing is left inside padding {padding:?}")));
        };
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

/// The three arguments of the form ⟨y, x ⋆ k⟩.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Role {
    Input,
    Kernel,
    Output,
}

/// The derivative of ⟨y, x ⋆ k⟩ in one argument, from the other two in the order of [`Role`].
#[derive(Clone, Copy, Debug)]
struct Contraction {
    geometry: Geometry,
    gives: Role,
}

impl Contraction {
    fn reads(&self) -> [Role; 2] {
        match self.gives {
            Role::Input => [Role::Kernel, Role::Output],
            Role::Kernel => [Role::Input, Role::Output],
            Role::Output => [Role::Input, Role::Kernel],
        }
    }
}

fn dims(g: &Geometry, role: Role) -> [usize; 4] {
    match role {
        Role::Input => [g.batch, g.in_channels, g.height, g.width],
        Role::Kernel => [g.out_channels, g.in_channels / g.groups, g.kernel_h, g.kernel_w],
        Role::Output => [g.batch, g.out_channels, g.out_height(), g.out_width()],
    }
}

impl Primitive for Contraction {
    fn name(&self) -> &'static str {
        match self.gives {
            Role::Input => "conv2d_input_grad",
            Role::Kernel => "conv2d_weight_grad",
            Role::Output => "conv2d",
        }
    }

    fn keep(&self) -> Prim {
        Prim::Shared(Arc::new(*self))
    }

    fn infer(&self, inputs: &[Meta]) -> Result<Signature> {
        let [a, b] = inputs else {
            return Err(Error::internal(self.name(), format!("{} inputs where it has two", inputs.len())));
        };
        if !is_float(a.dtype) {
            return Err(Error::dtype(self.name(), a.dtype, "convert to a float type with to_dtype"));
        }
        if a.dtype != b.dtype {
            let dtypes = vec![a.dtype, b.dtype];
            return Err(Error::DTypeMismatch { op: self.name(), dtypes, at: At::default() });
        }
        let [ra, rb] = self.reads();
        if a.shape.dims() != dims(&self.geometry, ra) || b.shape.dims() != dims(&self.geometry, rb) {
            return Err(Error::shape(
                self.name(),
                &[a.shape, b.shape],
                "they are not those of the convolution",
            ));
        }
        Ok(Signature::one(a.with_shape(Shape::new(&dims(&self.geometry, self.gives)))))
    }

    fn eval_into(&self, inputs: &[View<'_>], outputs: &mut [SliceMut<'_>]) -> Result<()> {
        let (a, b, out) = (inputs[0], inputs[1], outputs[0].reborrow());
        match self.gives {
            Role::Input => conv2d_input_grad(&self.geometry, b, a, out),
            Role::Kernel => conv2d_weight_grad(&self.geometry, a, b, out),
            Role::Output => convolve(&self.geometry, a, b, out),
        }
        Ok(())
    }

    fn rule(&self) -> Rule<'_> {
        Rule::Bilinear(0, 1, self)
    }

    fn batch(&self, batched: Mask, inputs: &[&TrackedTensor], size: usize) -> Result<Option<Values>> {
        let reads = self.reads();
        let lacking = (0..2).find(|&i| !batched.has(i)).map(|i| reads[i]);
        let fold = Fold { geometry: self.geometry, lacking, size };
        if size == 0 {
            let shape = fold.with_batch(&dims(&self.geometry, self.gives))?;
            let meta = inputs[0].meta().with_shape(shape);
            return Ok(Some(smallvec![algebra::fill(0.0, &meta, inputs[0])?]));
        }
        let mut folded: SmallVec<[TrackedTensor; 2]> = SmallVec::new();
        for (i, role) in reads.into_iter().enumerate() {
            folded.push(if batched.has(i) { fold.pack(role, inputs[i])? } else { inputs[i].clone() });
        }
        let op = Self { geometry: fold.folded(), gives: self.gives };
        let y = apply_one(&op, &[&folded[0], &folded[1]])?;
        Ok(Some(smallvec![fold.unpack(self.gives, &y)?]))
    }
}

impl Transpose for Contraction {
    // The form is symmetric: the cotangent takes the place of what was given, and the wanted
    // input's place is given.
    fn transpose(&self, wanted: Mask, cts: &[Option<TrackedTensor>], saved: &Saved<'_>) -> Result<Grads> {
        let mut grads: Grads = smallvec![None; 2];
        let Some(ct) = &cts[0] else { return Ok(grads) };
        let reads = self.reads();
        for i in wanted.iter() {
            let partner = saved.input(1 - i)?;
            let op = Self { geometry: self.geometry, gives: reads[i] };
            let in_order = if reads[1 - i] < self.gives { [partner, ct] } else { [ct, partner] };
            grads[i] = Some(apply_one(&op, &in_order)?);
        }
        Ok(grads)
    }
}

/// A batch of convolutions as one: the batch dimension joins the images where the kernels lack
/// it, the output channels where the inputs lack it, the input channels where the outputs lack
/// it, and the groups where all three have it.
struct Fold {
    geometry: Geometry,
    lacking: Option<Role>,
    size: usize,
}

impl Fold {
    fn folded(&self) -> Geometry {
        let (g, b) = (self.geometry, self.size);
        match self.lacking {
            Some(Role::Kernel) => Geometry { batch: b * g.batch, ..g },
            Some(Role::Input) => Geometry { out_channels: b * g.out_channels, ..g },
            Some(Role::Output) => Geometry { in_channels: b * g.in_channels, ..g },
            None => Geometry {
                in_channels: b * g.in_channels,
                out_channels: b * g.out_channels,
                groups: b * g.groups,
                ..g
            },
        }
    }

    fn with_batch(&self, dims: &[usize]) -> Result<Shape> {
        let mut all: SmallVec<[usize; 8]> = smallvec![self.size];
        all.extend_from_slice(dims);
        checked_shape("conv2d", &all)
    }

    /// How a batched operand is cut, with the batch in front, and the order in which the parts
    /// must stand to be merged. Channels are cut into groups, which stay outermost.
    fn plan(&self, role: Role) -> (SmallVec<[usize; 8]>, &'static [usize]) {
        let g = &self.geometry;
        let [a, b, c, d] = dims(g, role);
        let (groups, per) = (g.groups, |channels: usize| channels / g.groups);
        match (self.lacking, role) {
            (Some(Role::Kernel), _) | (None, Role::Kernel) => {
                (smallvec![self.size, a, b, c, d], &[0, 1, 2, 3, 4])
            }
            (Some(Role::Input), Role::Kernel) => {
                (smallvec![self.size, groups, per(a), b, c, d], &[1, 0, 2, 3, 4, 5])
            }
            (Some(_), Role::Input | Role::Output) => {
                (smallvec![self.size, a, groups, per(b), c, d], &[1, 2, 0, 3, 4, 5])
            }
            (Some(Role::Output), Role::Kernel) | (None, Role::Input | Role::Output) => {
                (smallvec![self.size, a, b, c, d], &[1, 0, 2, 3, 4])
            }
        }
    }

    fn pack(&self, role: Role, x: &TrackedTensor) -> Result<TrackedTensor> {
        let (cut, order) = self.plan(role);
        let x = algebra::permute(&algebra::reshape(x, &checked_shape("conv2d", &cut)?)?, order)?;
        algebra::reshape(&x, &Shape::new(&dims(&self.folded(), role)))
    }

    fn unpack(&self, role: Role, y: &TrackedTensor) -> Result<TrackedTensor> {
        let (cut, order) = self.plan(role);
        let parts: SmallVec<[usize; 8]> = order.iter().map(|&from| cut[from]).collect();
        let mut back: SmallVec<[usize; 8]> = smallvec![0; order.len()];
        for (to, &from) in order.iter().enumerate() {
            back[from] = to;
        }
        let y = algebra::permute(&algebra::reshape(y, &checked_shape("conv2d", &parts)?)?, &back)?;
        algebra::reshape(&y, &self.with_batch(&dims(&self.geometry, role))?)
    }
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
mod tests {
    use super::*;
    use crate::batched::{assert_equals_loop, numbers};
    use autograd_tape::GradientTape;
    use candle_core::{DType, Device, Tensor};

    fn assert_close(a: &TrackedTensor, b: &Tensor) {
        assert_eq!(a.dims(), b.dims());
        let b = b.flatten_all().unwrap().to_vec1::<f64>().unwrap();
        for (a, b) in a.to_flat::<f64>().unwrap().into_iter().zip(b) {
            assert!((a - b).abs() < 1e-12, "{a} and {b}");
        }
    }

    #[test]
    fn forward_values_are_candles() {
        for (x, k, padding, stride, dilation, groups) in [
            ([2, 3, 6, 5], [4, 3, 3, 2], 1, 2, 1, 1),
            ([1, 4, 7, 7], [2, 2, 3, 3], 2, 1, 2, 2),
            ([2, 3, 4, 4], [3, 1, 2, 2], 0, 1, 1, 3),
        ] {
            let (x, k) = (numbers(&x, 0.7), numbers(&k, 1.3));
            let y = conv2d(&x, &k, padding, stride, dilation, groups).unwrap();
            let want = x.tensor().unwrap().conv2d(&k.tensor().unwrap(), padding, stride, dilation, groups);
            assert_close(&y, &want.unwrap());
        }
        let (x, k) = (numbers(&[2, 4, 9], 0.7), numbers(&[6, 2, 3], 1.3));
        let want = x.tensor().unwrap().conv1d(&k.tensor().unwrap(), 2, 2, 2, 2).unwrap();
        assert_close(&conv1d(&x, &k, 2, 2, 2, 2).unwrap(), &want);
        let (x, k) = (numbers(&[2, 3, 4, 3], 0.7), numbers(&[3, 2, 3, 3], 1.3));
        let want = x.tensor().unwrap().conv_transpose2d(&k.tensor().unwrap(), 1, 1, 2, 1).unwrap();
        assert_close(&conv_transpose2d(&x, &k, 1, 1, 2, 1).unwrap(), &want);
        let (x, k) = (numbers(&[2, 4, 5], 0.7), numbers(&[4, 3, 3], 1.3));
        let want = x.tensor().unwrap().conv_transpose1d(&k.tensor().unwrap(), 1, 1, 2, 1, 2).unwrap();
        assert_close(&conv_transpose1d(&x, &k, 1, 1, 2, 1, 2).unwrap(), &want);
    }

    // candle gives an error for the gradient of a transposed convolution in one dimension.
    #[test]
    fn conv_transpose1d_has_both_gradients() {
        let tape = GradientTape::new();
        let (x, k) = (numbers(&[1, 2, 3], 0.7), numbers(&[2, 1, 2], 1.3));
        let (tx, tk) = (tape.variable(&x), tape.variable(&k));
        let y = conv_transpose1d(&tx, &tk, 0, 0, 2, 1, 1).unwrap();
        let y = algebra::sum_to(&y, &Shape::SCALAR).unwrap();
        let grads = tape.gradient(&y, &[&tx, &tk]).unwrap();
        let k = k.to_flat::<f64>().unwrap();
        for (i, g) in grads[0].to_flat::<f64>().unwrap().into_iter().enumerate() {
            assert!((g - (k[2 * (i / 3)] + k[2 * (i / 3) + 1])).abs() < 1e-12);
        }
        let x = x.to_flat::<f64>().unwrap();
        for (i, g) in grads[1].to_flat::<f64>().unwrap().into_iter().enumerate() {
            assert!((g - x[3 * (i / 2)..][..3].iter().sum::<f64>()).abs() < 1e-12);
        }
    }

    #[test]
    fn every_contraction_batches_in_every_argument() {
        for groups in [1, 2] {
            let options = ConvOptions { padding: [1, 0], stride: [1, 2], groups, ..ConvOptions::default() };
            let (x, k) = (numbers(&[2, 4, 3, 4], 0.1), numbers(&[6, 4 / groups, 2, 2], 0.1));
            let geometry = geometry("conv2d", &x, &k, &options, Site::caller()).unwrap();
            for gives in [Role::Input, Role::Kernel, Role::Output] {
                let op = Contraction { geometry, gives };
                let [a, b] = op.reads().map(|role| dims(&geometry, role));
                assert_equals_loop(&op, &[&a, &b]);
            }
        }
    }

    #[test]
    fn half_types_compute_in_f32() {
        let (x, k) = (numbers(&[1, 2, 4, 4], 0.7), numbers(&[2, 2, 3, 3], 1.3));
        let want = conv2d(&x, &k, 1, 1, 1, 1).unwrap().to_flat::<f64>().unwrap();
        for dtype in [DType::BF16, DType::F16] {
            let cast = |x: &TrackedTensor| algebra::cast(x, dtype).unwrap();
            let y = conv2d(&cast(&x), &cast(&k), 1, 1, 1, 1).unwrap();
            assert_eq!(y.dtype(), dtype);
            let y = algebra::cast(&y, DType::F64).unwrap().to_flat::<f64>().unwrap();
            assert!(y.iter().zip(&want).all(|(y, w)| (y - w).abs() < 0.05 * w.abs().max(1.0)));
        }
    }

    #[test]
    fn what_does_not_fit_is_a_typed_error() {
        let x = TrackedTensor::from_candle(&Tensor::ones((1, 2, 3, 3), DType::F32, &Device::Cpu).unwrap())
            .unwrap();
        let k = |dims: &[usize]| {
            TrackedTensor::from_candle(&Tensor::ones(dims, DType::F32, &Device::Cpu).unwrap()).unwrap()
        };
        let fault = |r: Result<TrackedTensor>| r.unwrap_err().to_string();
        assert!(fault(conv2d(&x, &k(&[1, 3, 1, 1]), 0, 1, 1, 1)).contains("input channels"));
        assert!(fault(conv2d(&x, &k(&[1, 2, 4, 1]), 0, 1, 1, 1)).contains("larger than the padded input"));
        assert!(fault(conv2d(&x, &k(&[1, 2, 1, 1]), 0, 0, 1, 1)).contains("at least 1"));
        assert!(fault(conv2d(&x, &k(&[1, 2]), 0, 1, 1, 1)).contains("four dimensions"));
        assert!(
            fault(conv2d(&x, &k(&[1, 2, 1, 1]), 0, 1, 1, 1).and_then(|y| conv1d(&y, &y, 0, 1, 1, 1)))
                .contains("three dimensions")
        );
        assert!(fault(conv_transpose2d(&x, &k(&[2, 2, 1, 1]), 0, 1, 1, 1)).contains("output_padding"));
        let integers = TrackedTensor::from_vec(vec![1u32; 4], &[1, 1, 2, 2]).unwrap();
        assert!(matches!(conv2d(&integers, &integers, 0, 1, 1, 1), Err(Error::UnsupportedDType { .. })));
        let at = conv2d(&x, &k(&[1, 3, 1, 1]), 0, 1, 1, 1).unwrap_err().site();
        assert!(at.is_some_and(|site| site.file().ends_with("conv.rs")));
    }
}
