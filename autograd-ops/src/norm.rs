//! Normalisation: over features, groups of channels, instances and batches.
//!
//! All of them are one primitive, `Normalize`: centre and scale x over some of its dimensions,
//! then apply a weight and a bias that broadcast. What differs is the shape under which x is seen.
//! The reverse rule is one fused primitive that keeps x, the weight, and as hints the mean and
//! 1/σ of each slice: no more than PyTorch keeps.

mod expressions;
mod fit;
mod normalize;

use crate::registry::{Case, Family, Op, Sample};
use autograd_core::smallvec::{SmallVec, smallvec};
use autograd_core::{
    Definition, Error, Mask, Result, ScalarExpr, Shape, Site, TrackedTensor, algebra, apply, checked_shape,
    pointwise_with,
};
use autograd_kernels::expr::{Binary, Unary};
pub(crate) use normalize::rebuild;
use normalize::{Normalize, Statistics};
use std::sync::LazyLock;

/// y = (x − mean) / √(variance + eps) · weight + bias over the trailing dimensions that the
/// weight's shape names (usually the last one). The variance is the biased one.
///
/// # Errors
/// A weight or bias whose shape is not that of x's trailing dimensions; types that differ.
#[track_caller]
pub fn layer_norm(
    x: &TrackedTensor,
    weight: &TrackedTensor,
    bias: &TrackedTensor,
    eps: f64,
) -> Result<TrackedTensor> {
    layer_norm_with(x, weight.rank(), Some(weight), Some(bias), eps)
}

/// [`layer_norm`] over the last `dims` dimensions, with weight and bias as they are wanted.
///
/// # Errors
/// As [`layer_norm`].
#[track_caller]
pub fn layer_norm_with(
    x: &TrackedTensor,
    dims: usize,
    weight: Option<&TrackedTensor>,
    bias: Option<&TrackedTensor>,
    eps: f64,
) -> Result<TrackedTensor> {
    over_features("layer_norm", true, x, dims, weight, bias, eps)
}

/// y = x / √(mean(x²) + eps) · weight over the trailing dimensions that the weight's shape names.
///
/// # Errors
/// As [`layer_norm`].
#[track_caller]
pub fn rms_norm(x: &TrackedTensor, weight: &TrackedTensor, eps: f64) -> Result<TrackedTensor> {
    over_features("rms_norm", false, x, weight.rank(), Some(weight), None, eps)
}

#[track_caller]
fn over_features(
    op: &'static str,
    centred: bool,
    x: &TrackedTensor,
    dims: usize,
    weight: Option<&TrackedTensor>,
    bias: Option<&TrackedTensor>,
    eps: f64,
) -> Result<TrackedTensor> {
    let site = Site::caller();
    sound(&[Some(x), weight, bias])?;
    let lead = x.rank().checked_sub(dims).filter(|_| dims > 0);
    let lead = lead.ok_or_else(|| {
        let reason = format!("cannot normalise over the last {dims} dimensions");
        Error::shape(op, &[*x.shape()], reason).or_at(site)
    })?;
    let features = &x.dims()[lead..];
    for part in [weight, bias].into_iter().flatten() {
        if part.dims() != features {
            let reason = "the second is not the shape of the trailing dimensions";
            return Err(Error::shape(op, &[*x.shape(), *part.shape()], reason).or_at(site));
        }
    }
    let n: usize = features.iter().product();
    let rows: usize = x.dims()[..lead].iter().product();
    let view = View { op, shape: Shape::new(&[rows, n]), over: Mask::one(1), affine: Shape::new(&[1, n]) };
    view.normalize(centred, x, weight, bias, eps)
}

/// y = (x − mean) / √(variance + eps) · weight + bias over each of `groups` groups of channels;
/// x is N×C×…, weight and bias have extent C.
///
/// # Errors
/// Channels that do not divide into the groups; a weight or bias that is not of extent C.
#[track_caller]
pub fn group_norm(
    x: &TrackedTensor,
    groups: usize,
    weight: Option<&TrackedTensor>,
    bias: Option<&TrackedTensor>,
    eps: f64,
) -> Result<TrackedTensor> {
    let [n, c, inner] = channels("group_norm", x, weight, bias)?;
    if groups == 0 || c % groups != 0 {
        let reason = format!("{c} channels do not divide into {groups} groups");
        return Err(Error::argument("group_norm", reason).or_at(Site::caller()));
    }
    let per = c / groups;
    let view = View {
        op: "group_norm",
        shape: Shape::new(&[n, groups, per, inner]),
        over: Mask::one(2).with(3),
        affine: Shape::new(&[1, groups, per, 1]),
    };
    view.normalize(true, x, weight, bias, eps)
}

/// y = (x − mean) / √(variance + eps) · weight + bias over each channel of each example: a
/// [`group_norm`] whose groups are the channels.
///
/// # Errors
/// As [`group_norm`].
#[track_caller]
pub fn instance_norm(
    x: &TrackedTensor,
    weight: Option<&TrackedTensor>,
    bias: Option<&TrackedTensor>,
    eps: f64,
) -> Result<TrackedTensor> {
    let [n, c, inner] = channels("instance_norm", x, weight, bias)?;
    let view = View {
        op: "instance_norm",
        shape: Shape::new(&[n, c, inner]),
        over: Mask::one(2),
        affine: Shape::new(&[1, c, 1]),
    };
    view.normalize(true, x, weight, bias, eps)
}

/// What a training step of batch normalisation gives.
#[derive(Clone, Debug)]
pub struct BatchNormed {
    /// The normalised values.
    pub output: TrackedTensor,
    /// (1 − momentum) · running mean + momentum · the batch's mean.
    pub running_mean: TrackedTensor,
    /// (1 − momentum) · running variance + momentum · the batch's unbiased variance.
    pub running_var: TrackedTensor,
}

/// Batch normalisation in training: y = (x − mean) / √(variance + eps) · weight + bias over batch
/// and positions of each channel. x is N×C×…, all else has extent C. The new running statistics
/// are given back as values; no gradient flows through them.
///
/// # Errors
/// As [`group_norm`]; running statistics that are not of extent C; fewer than two elements in a
/// channel, which have no unbiased variance.
#[track_caller]
pub fn batch_norm_train(
    x: &TrackedTensor,
    running_mean: &TrackedTensor,
    running_var: &TrackedTensor,
    weight: Option<&TrackedTensor>,
    bias: Option<&TrackedTensor>,
    momentum: f64,
    eps: f64,
) -> Result<BatchNormed> {
    let [n, c, inner] = channels("batch_norm", x, Some(running_mean), Some(running_var))?;
    channels("batch_norm", x, weight, bias)?;
    if n * inner < 2 {
        let reason = "a channel with fewer than two elements has no variance";
        return Err(Error::shape("batch_norm", &[*x.shape()], reason).or_at(Site::caller()));
    }
    let view = View {
        op: "batch_norm",
        shape: Shape::new(&[n, c, inner]),
        over: Mask::one(0).with(2),
        affine: Shape::new(&[1, c, 1]),
    };
    let output = view.normalize(true, x, weight, bias, eps)?;
    let seen = algebra::reshape(x, &view.shape)?;
    let statistics = apply(&Statistics { over: view.over }, &[&seen])?;
    let [mean, variance] = &statistics[..] else {
        return Err(Error::internal("batch_norm", "its statistics are two"));
    };
    let blend = |old: &TrackedTensor, new: &TrackedTensor, factor: f64| {
        let new = algebra::reshape(new, old.shape())?;
        pointwise_with(&BLEND, &[1.0 - momentum, momentum * factor], &[old, &new])
    };
    let count = (n * inner) as f64;
    Ok(BatchNormed {
        output,
        running_mean: blend(running_mean, mean, 1.0)?,
        running_var: blend(running_var, variance, count / (count - 1.0))?,
    })
}

/// Batch normalisation in evaluation: y = (x − mean) / √(variance + eps) · weight + bias with
/// given statistics. x is N×C×…, all else has extent C.
///
/// # Errors
/// As [`group_norm`].
#[track_caller]
pub fn batch_norm_eval(
    x: &TrackedTensor,
    mean: &TrackedTensor,
    variance: &TrackedTensor,
    weight: Option<&TrackedTensor>,
    bias: Option<&TrackedTensor>,
    eps: f64,
) -> Result<TrackedTensor> {
    let [_, c, _] = channels("batch_norm", x, Some(mean), Some(variance))?;
    channels("batch_norm", x, weight, bias)?;
    // One factor and one term for each channel, so that x is passed over once.
    let mut factor = pointwise_with(&RSQRT, &[eps], &[variance])?;
    if let Some(weight) = weight {
        factor = algebra::mul(&factor, weight)?;
    }
    let mut term = algebra::neg(&algebra::mul(mean, &factor)?)?;
    if let Some(bias) = bias {
        term = algebra::add(&term, bias)?;
    }
    let mut dims: SmallVec<[usize; 8]> = smallvec![c];
    dims.resize(x.rank() - 1, 1);
    let (factor, term) =
        (algebra::reshape(&factor, &Shape::new(&dims))?, algebra::reshape(&term, &Shape::new(&dims))?);
    pointwise_with(&AFFINE, &[], &[x, &factor, &term])
}

/// 1/√(x + p).
static RSQRT: LazyLock<Definition> = LazyLock::new(|| {
    let expr = ScalarExpr::build(1, 1, |b, x, p| {
        let sum = b.binary(Binary::Add, x[0], p[0]);
        b.unary(Unary::Rsqrt, sum)
    });
    Definition::new("rsqrt", expr)
});

/// x · factor + term.
static AFFINE: LazyLock<Definition> = LazyLock::new(|| {
    let expr = ScalarExpr::build(3, 0, |b, x, _| {
        let product = b.binary(Binary::Mul, x[0], x[1]);
        b.binary(Binary::Add, product, x[2])
    });
    Definition::new("batch_norm", expr)
});

/// p · old + q · new.
static BLEND: LazyLock<Definition> = LazyLock::new(|| {
    let expr = ScalarExpr::build(2, 2, |b, x, p| {
        let (old, new) = (b.binary(Binary::Mul, x[0], p[0]), b.binary(Binary::Mul, x[1], p[1]));
        b.binary(Binary::Add, old, new)
    });
    Definition::new("running_statistics", expr)
});

/// The first error that stands in for one of the values.
fn sound(values: &[Option<&TrackedTensor>]) -> Result<()> {
    match values.iter().flatten().find_map(|x| x.failure()) {
        Some(error) => Err(error.clone()),
        None => Ok(()),
    }
}

/// N, C and the number of positions of an N×C×… value, with two values of extent C beside it.
#[track_caller]
fn channels(
    op: &'static str,
    x: &TrackedTensor,
    a: Option<&TrackedTensor>,
    b: Option<&TrackedTensor>,
) -> Result<[usize; 3]> {
    sound(&[Some(x), a, b])?;
    let [n, c, positions @ ..] = x.dims() else {
        let reason = "the input has a batch and a channel dimension";
        return Err(Error::shape(op, &[*x.shape()], reason).or_at(Site::caller()));
    };
    for part in [a, b].into_iter().flatten() {
        if part.dims() != [*c] {
            let reason = "the second is not one number for each channel of the first";
            return Err(Error::shape(op, &[*x.shape(), *part.shape()], reason).or_at(Site::caller()));
        }
    }
    Ok([*n, *c, positions.iter().product()])
}

/// How x, weight and bias are seen while they are normalised.
struct View {
    op: &'static str,
    shape: Shape,
    over: Mask,
    affine: Shape,
}

impl View {
    #[track_caller]
    fn normalize(
        &self,
        centred: bool,
        x: &TrackedTensor,
        weight: Option<&TrackedTensor>,
        bias: Option<&TrackedTensor>,
        eps: f64,
    ) -> Result<TrackedTensor> {
        let affine =
            |part: Option<&TrackedTensor>| part.map(|p| algebra::reshape(p, &self.affine)).transpose();
        let (seen, weight, bias) = (algebra::reshape(x, &self.shape)?, affine(weight)?, affine(bias)?);
        let op = Normalize {
            op: self.op,
            centred,
            over: self.over,
            eps,
            weighted: weight.is_some(),
            biased: bias.is_some(),
        };
        let mut inputs: SmallVec<[&TrackedTensor; 3]> = smallvec![&seen];
        inputs.extend(weight.iter().chain(&bias));
        algebra::reshape(&autograd_core::apply_one(&op, &inputs)?, &checked_shape(self.op, x.dims())?)
    }
}

/// The ops of this file.
pub fn ops() -> Vec<Op> {
    let op = |name, formula, cases| Op { name, family: Family::Neural, formula, cases };
    const EPS: f64 = 1e-3;
    vec![
        op(
            "layer_norm",
            "y = (x − mean)/√(variance + eps)·weight + bias over the trailing dimensions",
            || {
                let case = |label, x: &[usize], features: &[usize]| {
                    let inputs = vec![Sample::float(x), Sample::float(features), Sample::float(features)];
                    Case::new(label, inputs, |v| layer_norm(&v[0], &v[1], &v[2], EPS))
                };
                vec![
                    case("rows", &[3, 5], &[5]),
                    case("one row", &[4], &[4]),
                    case("over two dimensions", &[2, 3, 2], &[3, 2]),
                    case("no rows", &[0, 4], &[4]),
                    Case::new("without weight and bias", vec![Sample::float(&[2, 4])], |v| {
                        layer_norm_with(&v[0], 1, None, None, EPS)
                    }),
                    Case::new("bias alone", vec![Sample::float(&[2, 4]), Sample::float(&[4])], |v| {
                        layer_norm_with(&v[0], 1, None, Some(&v[1]), EPS)
                    }),
                ]
            },
        ),
        op("rms_norm", "y = x/√(mean(x²) + eps)·weight over the trailing dimensions", || {
            let case = |label, x: &[usize], features: &[usize]| {
                let inputs = vec![Sample::float(x), Sample::float(features)];
                Case::new(label, inputs, |v| rms_norm(&v[0], &v[1], EPS))
            };
            vec![case("rows", &[3, 5], &[5]), case("three dimensions", &[2, 2, 3], &[3])]
        }),
        op(
            "group_norm",
            "y = (x − mean)/√(variance + eps)·weight + bias over groups of channels",
            || {
                vec![
                    Case::new(
                        "two groups",
                        vec![Sample::float(&[2, 4, 3]), Sample::float(&[4]), Sample::float(&[4])],
                        |v| group_norm(&v[0], 2, Some(&v[1]), Some(&v[2]), EPS),
                    ),
                    Case::new("images, no weight", vec![Sample::float(&[1, 4, 2, 2])], |v| {
                        group_norm(&v[0], 2, None, None, EPS)
                    }),
                ]
            },
        ),
        op(
            "instance_norm",
            "y = (x − mean)/√(variance + eps)·weight + bias over each channel's positions",
            || {
                vec![Case::new(
                    "images",
                    vec![Sample::float(&[2, 2, 2, 3]), Sample::float(&[2]), Sample::float(&[2])],
                    |v| instance_norm(&v[0], Some(&v[1]), Some(&v[2]), EPS),
                )]
            },
        ),
        op(
            "batch_norm_train",
            "y = (x − mean)/√(variance + eps)·weight + bias over batch and positions",
            || {
                let running = |x: &TrackedTensor| -> Result<[TrackedTensor; 2]> {
                    let c = autograd_core::Meta { shape: Shape::new(&[x.dims()[1]]), ..x.meta() };
                    Ok([algebra::fill(0.0, &c, x)?, algebra::fill(1.0, &c, x)?])
                };
                vec![
                    Case::new(
                        "images",
                        vec![Sample::float(&[3, 2, 2, 2]), Sample::float(&[2]), Sample::float(&[2])],
                        move |v| {
                            let [mean, var] = running(&v[0])?;
                            Ok(batch_norm_train(&v[0], &mean, &var, Some(&v[1]), Some(&v[2]), 0.1, EPS)?
                                .output)
                        },
                    ),
                    Case::new("rows, no weight", vec![Sample::float(&[4, 3])], move |v| {
                        let [mean, var] = running(&v[0])?;
                        Ok(batch_norm_train(&v[0], &mean, &var, None, None, 0.1, EPS)?.output)
                    }),
                ]
            },
        ),
        op(
            "batch_norm_eval",
            "y = (x − mean)/√(variance + eps)·weight + bias with given statistics",
            || {
                let c = || Sample::float(&[2]);
                vec![Case::new(
                    "images",
                    vec![Sample::float(&[3, 2, 2, 2]), c(), Sample::between(&[2], 0.5, 2.0), c(), c()],
                    |v| batch_norm_eval(&v[0], &v[1], &v[2], Some(&v[3]), Some(&v[4]), EPS),
                )]
            },
        ),
    ]
}

/// The methods of this file.
#[macro_export]
#[doc(hidden)]
macro_rules! norm_methods {
    ($($callback:tt)*) => {
        $($callback)* {
            unary {}
            binary {}
            other {
                /// (x − mean)/√(variance + eps) · weight + bias over the trailing dimensions that the weight names.
                layer_norm(weight: &TrackedTensor, bias: &TrackedTensor, eps: f64) -> TrackedTensor = $crate::norm::layer_norm;
                /// x/√(mean(x²) + eps) · weight over the trailing dimensions that the weight names.
                rms_norm(weight: &TrackedTensor, eps: f64) -> TrackedTensor = $crate::norm::rms_norm;
                /// (x − mean)/√(variance + eps) · weight + bias over groups of channels of N×C×….
                group_norm(groups: usize, weight: Option<&TrackedTensor>, bias: Option<&TrackedTensor>, eps: f64) -> TrackedTensor = $crate::norm::group_norm;
                /// (x − mean)/√(variance + eps) · weight + bias over each channel of each example of N×C×….
                instance_norm(weight: Option<&TrackedTensor>, bias: Option<&TrackedTensor>, eps: f64) -> TrackedTensor = $crate::norm::instance_norm;
                /// Batch normalisation of N×C×… in training: the values, and new running statistics.
                batch_norm_train(running_mean: &TrackedTensor, running_var: &TrackedTensor, weight: Option<&TrackedTensor>, bias: Option<&TrackedTensor>, momentum: f64, eps: f64) -> $crate::norm::BatchNormed = $crate::norm::batch_norm_train;
                /// Batch normalisation of N×C×… with given statistics.
                batch_norm_eval(mean: &TrackedTensor, variance: &TrackedTensor, weight: Option<&TrackedTensor>, bias: Option<&TrackedTensor>, eps: f64) -> TrackedTensor = $crate::norm::batch_norm_eval;
            }
        }
    };
}

#[cfg(test)]
mod tests;
