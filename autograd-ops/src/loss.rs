//! Losses between a prediction and a target of the same shape.
//!
//! Losses over classes are in [`cross_entropy`](crate::cross_entropy) and reached from here too.

pub use crate::cross_entropy::{CrossEntropy, cross_entropy, cross_entropy_with, nll, nll_with};

use crate::arithmetic::sub;
use crate::elementwise::abs;
use crate::numbers::{Dim, dimension};
use crate::registry::{Case, Family, Op, Sample};
use autograd_core::algebra::{broadcast_to, mul, reshape, scale, sum_to};
use autograd_core::kernels::expr::{Binary, Builder, Reg, Unary};
use autograd_core::smallvec::SmallVec;
use autograd_core::{
    Definition, Error, Result, ScalarExpr, Shape, Site, TrackedTensor, pointwise, pointwise_with,
};
use std::sync::LazyLock;

/// What becomes of the losses of the elements or rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Reduction {
    /// Their mean; NaN of nothing, as PyTorch.
    #[default]
    Mean,
    /// Their sum.
    Sum,
    /// They stay as they are.
    None,
}

/// Losses of each element, reduced.
fn reduced(losses: &TrackedTensor, reduction: Reduction) -> Result<TrackedTensor> {
    match reduction {
        Reduction::None => Ok(losses.clone()),
        Reduction::Sum => sum_to(losses, &Shape::SCALAR),
        Reduction::Mean => scale(&sum_to(losses, &Shape::SCALAR)?, 1.0 / losses.elem_count() as f64),
    }
}

/// |x − target|; the derivative is 0 where they are equal. The difference is an op of its own, and
/// all that is kept.
/// This is the mean over all elements.
///
/// # Errors
/// Shapes or types that differ.
#[track_caller]
pub fn l1(x: &TrackedTensor, target: impl Into<TrackedTensor>) -> Result<TrackedTensor> {
    l1_with(x, target, Reduction::Mean)
}

/// |x − target|; the derivative is 0 where they are equal.
/// With the reduction given.
///
/// # Errors
/// Shapes or types that differ.
#[track_caller]
pub fn l1_with(
    x: &TrackedTensor,
    target: impl Into<TrackedTensor>,
    reduction: Reduction,
) -> Result<TrackedTensor> {
    let target = target.into();
    comparable("l1_loss", x, &target)?;
    reduced(&abs(&sub(x, &target)?)?, reduction)
}

/// d²/(2·beta) where |d| < beta, else |d| − beta/2, for d = x − target; beta = 0 is [`l1`].
/// This is the mean over all elements.
///
/// # Errors
/// Shapes or types that differ.
#[track_caller]
pub fn smooth_l1(x: &TrackedTensor, target: impl Into<TrackedTensor>, beta: f64) -> Result<TrackedTensor> {
    smooth_l1_with(x, target, beta, Reduction::Mean)
}

/// d²/(2·beta) where |d| < beta, else |d| − beta/2, for d = x − target; beta = 0 is [`l1`].
/// With the reduction given.
///
/// # Errors
/// Shapes or types that differ.
#[track_caller]
pub fn smooth_l1_with(
    x: &TrackedTensor,
    target: impl Into<TrackedTensor>,
    beta: f64,
    reduction: Reduction,
) -> Result<TrackedTensor> {
    static DEFINITION: LazyLock<Definition> = LazyLock::new(|| {
        let expr = ScalarExpr::build(2, 1, |b, x, p| {
            let (half, beta) = (b.constant(0.5), p[0]);
            let d = b.binary(Binary::Sub, x[0], x[1]);
            let size = b.unary(Unary::Abs, d);
            let near = b.binary(Binary::Lt, size, beta);
            let square = b.binary(Binary::Mul, d, d);
            let square = b.binary(Binary::Mul, half, square);
            let square = b.binary(Binary::Div, square, beta);
            let back = b.binary(Binary::Mul, half, beta);
            let line = b.binary(Binary::Sub, size, back);
            b.select(near, square, line)
        });
        Definition::new("smooth_l1_loss", expr)
    });
    // The square must not divide by 0.
    if beta == 0.0 {
        return l1_with(x, target, reduction);
    }
    loss(&DEFINITION, &[beta], x, &target.into(), reduction)
}

/// Prediction and target must have one shape, since a broadcast here is a bug more often than not.
#[track_caller]
fn comparable(op: &'static str, x: &TrackedTensor, target: &TrackedTensor) -> Result<()> {
    for value in [x, target] {
        if let Some(error) = value.failure() {
            return Err(error.clone());
        }
    }
    if x.shape() != target.shape() {
        let shapes = [*x.shape(), *target.shape()];
        let reason = "prediction and target must have one shape; broadcast_as makes that explicit";
        return Err(Error::shape(op, &shapes, reason).or_at(Site::caller()));
    }
    Ok(())
}

/// The loss of each element, reduced.
#[track_caller]
fn loss(
    definition: &'static LazyLock<Definition>,
    params: &[f64],
    x: &TrackedTensor,
    target: &TrackedTensor,
    reduction: Reduction,
) -> Result<TrackedTensor> {
    comparable(definition.name, x, target)?;
    reduced(&pointwise_with(definition, params, &[x, target])?, reduction)
}

/// Losses of an expression in prediction, target and parameters. A row
/// `mse_loss: mse, mse_with(); |b, x, t| ..;` becomes the functions `mse(x, target)`, the mean,
/// and `mse_with(x, target, reduction)`.
macro_rules! losses {
    ($($(#[$doc:meta])* $label:literal: $name:ident, $with:ident($($param:ident),*); |$b:ident, $x:ident, $t:ident| $body:expr;)*) => {$(
        $(#[$doc])*
        /// This is the mean over all elements.
        ///
        /// # Errors
        /// Shapes or types that differ.
        #[track_caller]
        pub fn $name(x: &TrackedTensor, target: impl Into<TrackedTensor>, $($param: f64),*) -> Result<TrackedTensor> {
            $with(x, target, $($param,)* Reduction::Mean)
        }

        $(#[$doc])*
        /// With the reduction given.
        ///
        /// # Errors
        /// Shapes or types that differ.
        #[track_caller]
        pub fn $with(
            x: &TrackedTensor,
            target: impl Into<TrackedTensor>,
            $($param: f64,)*
            reduction: Reduction,
        ) -> Result<TrackedTensor> {
            static DEFINITION: LazyLock<Definition> = LazyLock::new(|| {
                const PARAMS: &[&str] = &[$(stringify!($param)),*];
                let expr = ScalarExpr::build(2, PARAMS.len(), |$b, x, _p| {
                    let ($x, $t) = (x[0], x[1]);
                    let mut _next = _p.iter();
                    $(let $param = *_next.next().expect("the expression has as many parameters as names");)*
                    $body
                });
                Definition::new($label, expr)
            });
            loss(&DEFINITION, &[$($param),*], x, &target.into(), reduction)
        }
    )*};
}

/// ln u, and −100 with derivative 0 below e⁻¹⁰⁰.
fn bounded_log(b: &mut Builder, u: Reg) -> Reg {
    let (least, one, bound) = (b.constant((-100f64).exp()), b.constant(1.0), b.constant(-100.0));
    let tiny = b.binary(Binary::Lt, u, least);
    // The logarithm of the part that is not taken must have no infinite derivative.
    let safe = b.select(tiny, one, u);
    let log = b.unary(Unary::Log, safe);
    b.select(tiny, bound, log)
}

losses! {
    /// (x − target)².
    "mse_loss": mse, mse_with(); |b, x, t| {
        let d = b.binary(Binary::Sub, x, t);
        b.binary(Binary::Mul, d, d)
    };
    /// d²/2 where |d| < delta, else delta · (|d| − delta/2), for d = x − target.
    "huber_loss": huber, huber_with(delta); |b, x, t| {
        let half = b.constant(0.5);
        let d = b.binary(Binary::Sub, x, t);
        let size = b.unary(Unary::Abs, d);
        let near = b.binary(Binary::Lt, size, delta);
        let square = b.binary(Binary::Mul, d, d);
        let square = b.binary(Binary::Mul, half, square);
        let back = b.binary(Binary::Mul, half, delta);
        let line = b.binary(Binary::Sub, size, back);
        let line = b.binary(Binary::Mul, delta, line);
        b.select(near, square, line)
    };
    /// −(target · ln x + (1 − target) · ln(1 − x)) for probabilities x, with logarithms no lower
    /// than −100 as in PyTorch; where they are cut off the derivative is 0 (PyTorch's is 10¹²).
    "binary_cross_entropy": binary_cross_entropy, binary_cross_entropy_with(); |b, x, t| {
        let one = b.constant(1.0);
        let (other, rest) = (b.binary(Binary::Sub, one, x), b.binary(Binary::Sub, one, t));
        let (log, log_other) = (bounded_log(b, x), bounded_log(b, other));
        let yes = b.binary(Binary::Mul, t, log);
        let no = b.binary(Binary::Mul, rest, log_other);
        let sum = b.binary(Binary::Add, yes, no);
        b.unary(Unary::Neg, sum)
    };
    /// ln(1 + eˣ) − target · x: the binary cross entropy of sigmoid(x), without overflow.
    "binary_cross_entropy_with_logits": binary_cross_entropy_with_logits, binary_cross_entropy_with_logits_with(); |b, x, t| {
        let s = b.unary(Unary::Softplus, x);
        let own = b.binary(Binary::Mul, t, x);
        b.binary(Binary::Sub, s, own)
    };
    /// target · (ln target − x) for log-probabilities x and probabilities target; 0 where the
    /// target is 0. PyTorch's "batchmean" is the sum divided by the number of rows.
    "kl_div": kl_div, kl_div_with(); |b, x, t| {
        let (zero, one, bottom) = (b.constant(0.0), b.constant(1.0), b.constant(f64::NEG_INFINITY));
        let off = b.binary(Binary::Eq, t, zero);
        let safe = b.select(off, one, t);
        let log = b.unary(Unary::Log, safe);
        // 0 · −∞ is 0 here; any other x keeps its derivative −t, and that one its own.
        let impossible = b.binary(Binary::Eq, x, bottom);
        let bounded = b.select(impossible, zero, x);
        let x = b.select(off, bounded, x);
        let difference = b.binary(Binary::Sub, log, x);
        b.binary(Binary::Mul, t, difference)
    };
}

/// [`kl_div`] with the logarithms of the target's probabilities:
/// e^target · (target − x), where a target of −∞ counts 0.
///
/// # Errors
/// Shapes or types that differ.
#[track_caller]
pub fn kl_div_log_target(
    x: &TrackedTensor,
    target: impl Into<TrackedTensor>,
    reduction: Reduction,
) -> Result<TrackedTensor> {
    static TERM: LazyLock<Definition> = LazyLock::new(|| {
        let expr = ScalarExpr::build(2, 0, |b, x, _| {
            let (zero, low) = (b.constant(0.0), b.constant(f64::NEG_INFINITY));
            let off = b.binary(Binary::Eq, x[1], low);
            // The part that is not taken must have no infinite derivative.
            let safe = b.select(off, zero, x[1]);
            let p = b.unary(Unary::Exp, safe);
            let difference = b.binary(Binary::Sub, safe, x[0]);
            let term = b.binary(Binary::Mul, p, difference);
            b.select(off, zero, term)
        });
        Definition::new("kl_div", expr)
    });
    loss(&TERM, &[], x, &target.into(), reduction)
}

/// [`binary_cross_entropy_with_logits`] in which positives count `pos_weight` times, a number
/// for each class that broadcasts to x: −(w·t·ln σ(x) + (1 − t)·ln(1 − σ(x))).
///
/// # Errors
/// Shapes or types that differ; weights that do not broadcast to x.
#[track_caller]
pub fn binary_cross_entropy_with_logits_weighted(
    x: &TrackedTensor,
    target: impl Into<TrackedTensor>,
    pos_weight: impl Into<TrackedTensor>,
    reduction: Reduction,
) -> Result<TrackedTensor> {
    // (1 − t)·x + (1 + (w − 1)·t)·ln(1 + e⁻ˣ).
    static TERM: LazyLock<Definition> = LazyLock::new(|| {
        let expr = ScalarExpr::build(3, 0, |b, x, _| {
            let one = b.constant(1.0);
            let (logit, t, w) = (x[0], x[1], x[2]);
            let more = b.binary(Binary::Sub, w, one);
            let more = b.binary(Binary::Mul, more, t);
            let weight = b.binary(Binary::Add, one, more);
            let negative = b.unary(Unary::Neg, logit);
            let softplus = b.unary(Unary::Softplus, negative);
            let weighted = b.binary(Binary::Mul, weight, softplus);
            let rest = b.binary(Binary::Sub, one, t);
            let rest = b.binary(Binary::Mul, rest, logit);
            b.binary(Binary::Add, rest, weighted)
        });
        Definition::new("binary_cross_entropy_with_logits", expr)
    });
    let (target, weight) = (target.into(), pos_weight.into());
    if let Some(error) = x.failure().or_else(|| target.failure()).or_else(|| weight.failure()) {
        return Err(error.clone());
    }
    if target.shape() != x.shape() || x.shape().broadcast(weight.shape()) != Some(*x.shape()) {
        let shapes = [*x.shape(), *target.shape(), *weight.shape()];
        let reason = "the target has x's shape, and the weight broadcasts to it";
        return Err(Error::shape("binary_cross_entropy_with_logits", &shapes, reason).or_at(Site::caller()));
    }
    reduced(&pointwise(&TERM, &[x, &target, &weight])?, reduction)
}

/// x · y / (max(‖x‖, eps) · max(‖y‖, eps)) over a dimension, which the result lacks. The gradient
/// of a zero vector's norm is 0.
///
/// # Errors
/// A dimension that does not exist, shapes that do not broadcast, types that differ.
#[track_caller]
pub fn cosine_similarity(
    x: &TrackedTensor,
    y: impl Into<TrackedTensor>,
    dim: impl Dim,
    eps: f64,
) -> Result<TrackedTensor> {
    static COSINE: LazyLock<Definition> = LazyLock::new(|| {
        let expr = ScalarExpr::build(3, 1, |b, x, p| {
            let floor = b.binary(Binary::Mul, p[0], p[0]);
            let mut cosine = x[0];
            for &square in &x[1..] {
                // Below the floor the norm is a constant: no gradient, and no √0 to differentiate.
                let small = b.binary(Binary::Lt, square, floor);
                let safe = b.select(small, floor, square);
                let scale = b.unary(Unary::Rsqrt, safe);
                cosine = b.binary(Binary::Mul, cosine, scale);
            }
            cosine
        });
        Definition::new("cosine_similarity", expr)
    });
    let site = Site::caller();
    let y = y.into();
    let shape = x.shape().broadcast(y.shape()).ok_or_else(|| {
        let shapes = [*x.shape(), *y.shape()];
        Error::shape("cosine_similarity", &shapes, "they do not broadcast to one shape").or_at(site)
    })?;
    let (x, y) = (broadcast_to(x, &shape)?, broadcast_to(&y, &shape)?);
    let dim = dimension("cosine_similarity", dim, &x)?;
    let mut kept = shape;
    kept.dims_mut()[dim] = 1;
    let sum = |a: &TrackedTensor, b: &TrackedTensor| sum_to(&mul(a, b)?, &kept);
    let cosine = pointwise_with(&COSINE, &[eps], &[&sum(&x, &y)?, &sum(&x, &x)?, &sum(&y, &y)?])?;
    let dims: SmallVec<[usize; 8]> =
        (0..shape.rank()).filter(|d| *d != dim).map(|d| shape.dims()[d]).collect();
    reshape(&cosine, &Shape::new(&dims))
}

/// The ops of this file.
pub fn ops() -> Vec<Op> {
    let op = |name, formula, cases| Op { name, family: Family::Loss, formula, cases };
    // Two samples whose difference lies between 0.1 and 1 in size.
    fn pair(dims: &[usize]) -> Vec<Sample> {
        vec![Sample::between(dims, 0.5, 0.9), Sample::between(dims, -0.1, 0.4)]
    }
    macro_rules! reductions {
        ($with:ident($($param:literal),*), $inputs:expr) => {{
            let run = |label: &str, dims: &[usize], reduction| {
                let label = [label $(, " with ", stringify!($param))*].concat();
                Case::new(&label, $inputs(dims), move |x| $with(&x[0], &x[1], $($param,)* reduction))
            };
            vec![
                run("mean", &[2, 3], Reduction::Mean),
                run("sum", &[5], Reduction::Sum),
                run("none", &[2, 3], Reduction::None),
                run("rank 0", &[], Reduction::Mean),
                run("empty", &[0, 3], Reduction::Sum),
            ]
        }};
    }
    fn probabilities(dims: &[usize]) -> Vec<Sample> {
        vec![Sample::between(dims, 0.2, 0.8), Sample::between(dims, 0.1, 0.9)]
    }
    vec![
        op("mse_loss", "(x − target)², reduced", || reductions!(mse_with(), pair)),
        op("l1_loss", "|x − target|, reduced; derivative 0 at 0", || {
            let mut cases = reductions!(l1_with(), pair);
            let same = || Sample::Exact { dims: vec![2], values: vec![0.5, -1.0] };
            cases.push(Case::new("equal", vec![same(), same()], |x| l1(&x[0], &x[1])).at_a_kink());
            cases
        }),
        op("huber_loss", "d²/2 where |d| < δ, else δ(|d| − δ/2), reduced", || {
            let mut cases = reductions!(huber_with(1.5), pair);
            cases.extend(reductions!(huber_with(0.05), pair));
            cases
        }),
        op("smooth_l1_loss", "d²/2β where |d| < β, else |d| − β/2, reduced", || {
            let mut cases = reductions!(smooth_l1_with(1.5), pair);
            cases.extend(reductions!(smooth_l1_with(0.0), pair));
            cases
        }),
        op("binary_cross_entropy", "−(t · ln x + (1 − t) · ln(1 − x)), reduced", || {
            reductions!(binary_cross_entropy_with(), probabilities)
        }),
        op("binary_cross_entropy_with_logits", "ln(1 + eˣ) − t · x, reduced", || {
            let mut cases = reductions!(binary_cross_entropy_with_logits_with(), probabilities);
            let inputs = vec![
                Sample::float(&[2, 3]),
                Sample::between(&[2, 3], 0.1, 0.9),
                Sample::between(&[3], 0.5, 2.0),
            ];
            cases.push(Case::new("weights of positives", inputs, |x| {
                binary_cross_entropy_with_logits_weighted(&x[0], &x[1], &x[2], Reduction::Mean)
            }));
            cases
        }),
        op("kl_div", "t · (ln t − x), reduced; 0 where t = 0", || {
            let mut cases = reductions!(kl_div_with(), probabilities);
            cases.push(Case::new("logarithms", vec![Sample::float(&[2, 3]), Sample::float(&[2, 3])], |x| {
                kl_div_log_target(&x[0], &x[1], Reduction::Sum)
            }));
            cases
        }),
        op("cosine_similarity", "x · y / (‖x‖ · ‖y‖) over a dimension", || {
            let case = |label, a: &[usize], b: &[usize], dim| {
                Case::new(label, vec![Sample::between(a, 0.2, 1.5), Sample::float(b)], move |x| {
                    cosine_similarity(&x[0], &x[1], dim, 1e-8)
                })
            };
            vec![
                case("the last dimension", &[2, 3], &[2, 3], -1),
                case("the first dimension, broadcast", &[3, 2], &[2], 0),
                case("vectors", &[4], &[4], 0),
            ]
        }),
    ]
}

/// The methods of this file and of `cross_entropy.rs`.
#[macro_export]
#[doc(hidden)]
macro_rules! loss_methods {
    ($($callback:tt)*) => {
        $($callback)* {
            unary {}
            binary {}
            other {
                /// The mean over rows of ln Σ eˣ − `x[target]`; the targets are class indices or probabilities.
                cross_entropy(targets: impl Into<autograd_core::TrackedTensor>) -> autograd_core::TrackedTensor = $crate::cross_entropy::cross_entropy;
                /// Cross entropy with weights, smoothing, an ignored class and a reduction.
                cross_entropy_with(targets: impl Into<autograd_core::TrackedTensor>, options: &$crate::cross_entropy::CrossEntropy) -> autograd_core::TrackedTensor = $crate::cross_entropy::cross_entropy_with;
                /// The mean over rows of −`x[target]` for log-probabilities.
                nll_loss(targets: impl Into<autograd_core::TrackedTensor>) -> autograd_core::TrackedTensor = $crate::cross_entropy::nll;
                /// The mean of (x − target)².
                mse_loss(target: impl Into<autograd_core::TrackedTensor>) -> autograd_core::TrackedTensor = $crate::loss::mse;
                /// The mean of |x − target|.
                l1_loss(target: impl Into<autograd_core::TrackedTensor>) -> autograd_core::TrackedTensor = $crate::loss::l1;
                /// The mean of d²/2 where |d| < delta, else delta · (|d| − delta/2).
                huber_loss(target: impl Into<autograd_core::TrackedTensor>, delta: f64) -> autograd_core::TrackedTensor = $crate::loss::huber;
                /// The mean of d²/(2·beta) where |d| < beta, else |d| − beta/2.
                smooth_l1_loss(target: impl Into<autograd_core::TrackedTensor>, beta: f64) -> autograd_core::TrackedTensor = $crate::loss::smooth_l1;
                /// The mean binary cross entropy of probabilities.
                binary_cross_entropy(target: impl Into<autograd_core::TrackedTensor>) -> autograd_core::TrackedTensor = $crate::loss::binary_cross_entropy;
                /// The mean binary cross entropy of sigmoid(x), without overflow.
                binary_cross_entropy_with_logits(target: impl Into<autograd_core::TrackedTensor>) -> autograd_core::TrackedTensor = $crate::loss::binary_cross_entropy_with_logits;
                /// The mean of target · (ln target − x) for log-probabilities x.
                kl_div(target: impl Into<autograd_core::TrackedTensor>) -> autograd_core::TrackedTensor = $crate::loss::kl_div;
                /// The same with the logarithms of the target, and a reduction.
                kl_div_log_target(target: impl Into<autograd_core::TrackedTensor>, reduction: $crate::loss::Reduction) -> autograd_core::TrackedTensor = $crate::loss::kl_div_log_target;
                /// Binary cross entropy of sigmoid(x) in which positives count `pos_weight` times.
                binary_cross_entropy_with_logits_weighted(target: impl Into<autograd_core::TrackedTensor>, pos_weight: impl Into<autograd_core::TrackedTensor>, reduction: $crate::loss::Reduction) -> autograd_core::TrackedTensor = $crate::loss::binary_cross_entropy_with_logits_weighted;
                /// x · y / (max(‖x‖, eps) · max(‖y‖, eps)) over a dimension.
                cosine_similarity(y: impl Into<autograd_core::TrackedTensor>, dim: impl $crate::Dim, eps: f64) -> autograd_core::TrackedTensor = $crate::loss::cosine_similarity;
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pull::{close, kept_bytes, pull, slopes, vector};

    /// −(w·t·ln σ(x) + (1 − t)·ln(1 − σ(x))) at x = 0.5, t = 0.25, w = 3, and its slope
    /// (1 − t)·σ(x) − w·t·(1 − σ(x)).
    #[test]
    fn positives_that_weigh_more() -> Result<()> {
        let loss = |x: &TrackedTensor| {
            binary_cross_entropy_with_logits_weighted(x, vector(&[0.25]), vector(&[3.0]), Reduction::Sum)
        };
        let s = 1.0 / (1.0 + (-0.5f64).exp());
        let want = -(3.0 * 0.25 * s.ln() + 0.75 * (1.0 - s).ln());
        close(&[loss(&vector(&[0.5]))?.to_scalar()?], &[want]);
        close(&slopes(&[0.5], loss)?, &[0.75 * s - 3.0 * 0.25 * (1.0 - s)]);
        Ok(())
    }

    /// A class that the target excludes counts 0 and spoils nothing.
    #[test]
    fn targets_of_minus_infinity() -> Result<()> {
        let target = || vector(&[0.0, f64::NEG_INFINITY]);
        let loss = |x: &TrackedTensor| kl_div_log_target(x, target(), Reduction::Sum);
        assert_eq!(loss(&vector(&[-0.5, -3.0]))?.to_scalar::<f64>()?, 0.5);
        assert_eq!(slopes(&[-0.5, -3.0], loss)?, [-1.0, 0.0]);
        Ok(())
    }

    #[test]
    fn l1_has_slope_zero_where_both_are_equal() -> Result<()> {
        assert_eq!(
            slopes(&[1.0, 2.0, 0.0], |x| l1_with(x, vector(&[1.0; 3]), Reduction::Sum))?,
            [0.0, 1.0, -1.0]
        );
        Ok(())
    }

    #[test]
    fn huber_and_smooth_l1_join_without_a_kink() -> Result<()> {
        let zero = || vector(&[0.0; 5]);
        let x = [-3.0, -0.5, 0.0, 0.5, 3.0];
        close(
            &huber_with(&vector(&x), zero(), 0.5, Reduction::None)?.to_vec1()?,
            &[1.375, 0.125, 0.0, 0.125, 1.375],
        );
        assert_eq!(slopes(&x, |x| huber_with(x, zero(), 0.5, Reduction::Sum))?, [-0.5, -0.5, 0.0, 0.5, 0.5]);
        close(
            &smooth_l1_with(&vector(&x), zero(), 0.5, Reduction::None)?.to_vec1()?,
            &[2.75, 0.25, 0.0, 0.25, 2.75],
        );
        assert_eq!(
            slopes(&x, |x| smooth_l1_with(x, zero(), 0.5, Reduction::Sum))?,
            [-1.0, -1.0, 0.0, 1.0, 1.0]
        );
        assert_eq!(
            slopes(&x, |x| smooth_l1_with(x, zero(), 0.0, Reduction::Sum))?,
            [-1.0, -1.0, 0.0, 1.0, 1.0]
        );
        Ok(())
    }

    #[test]
    fn binary_cross_entropy_is_finite_at_zero_and_one() -> Result<()> {
        let (x, t) = (vector(&[0.0, 1.0, 0.0, 1.0]), vector(&[0.0, 1.0, 1.0, 0.0]));
        let losses = binary_cross_entropy_with(&x, &t, Reduction::None)?;
        assert_eq!(losses.to_vec1::<f64>()?, [0.0, 0.0, 100.0, 100.0]);
        let grads = pull(&[&x, &t], |x| binary_cross_entropy_with(&x[0], &x[1], Reduction::Sum))?;
        assert_eq!(grads[0], [1.0, -1.0, 0.0, 0.0]);
        assert!(grads[1].iter().all(|g| g.is_finite()), "{grads:?}");
        Ok(())
    }

    #[test]
    fn logits_and_probabilities_agree() -> Result<()> {
        let (x, t) = (vector(&[-2.0, 0.5, 3.0]), vector(&[0.0, 0.25, 1.0]));
        let by_probability = binary_cross_entropy(&crate::activation::sigmoid(&x)?, &t)?;
        close(&[binary_cross_entropy_with_logits(&x, &t)?.to_scalar()?], &[by_probability.to_scalar()?]);
        let far = slopes(&[-1e4, 1e4], |x| {
            binary_cross_entropy_with_logits_with(x, vector(&[1.0, 0.0]), Reduction::Sum)
        })?;
        assert_eq!(far, [-1.0, 1.0]);
        Ok(())
    }

    #[test]
    fn kl_div_is_zero_where_the_target_is() -> Result<()> {
        let (x, t) = (vector(&[-1.0, -2.0]), vector(&[0.0, 0.5]));
        close(&kl_div_with(&x, &t, Reduction::None)?.to_vec1()?, &[0.0, 0.5 * (0.5f64.ln() + 2.0)]);
        let grads = pull(&[&x, &t], |x| kl_div_with(&x[0], &x[1], Reduction::Sum))?;
        close(&grads[0], &[0.0, -0.5]);
        // ln t counts as 0 there; −x stays.
        assert_eq!(grads[1][0], 1.0);
        Ok(())
    }

    #[test]
    fn cosine_similarity_of_a_zero_vector_has_gradient_zero_in_its_norm() -> Result<()> {
        let x = TrackedTensor::from_vec(vec![3.0, 4.0, 0.0, 0.0], &[2, 2])?;
        let y = TrackedTensor::from_vec(vec![4.0, 3.0, 1.0, 0.0], &[2, 2])?;
        close(&cosine_similarity(&x, &y, 1, 1e-8)?.to_vec1()?, &[0.96, 0.0]);
        let grads = pull(&[&x, &y], |x| cosine_similarity(&x[0], &x[1], 1, 1e-8))?;
        // Only the product x · y moves there: y/(eps · ‖y‖).
        close(&grads[0][2..], &[1e8, 0.0]);
        assert_eq!(grads[1][2..], [0.0, 0.0]);
        Ok(())
    }

    #[test]
    fn shapes_that_differ_are_refused() -> Result<()> {
        let x = TrackedTensor::from_vec(vec![1.0, 2.0], &[2, 1])?;
        let error = mse(&x, vector(&[1.0, 2.0])).expect_err("a broadcast");
        assert!(error.to_string().starts_with("mse_loss: shapes"), "{error}");
        assert!(error.site().is_some_and(|site| site.file().ends_with("loss.rs")), "{error}");
        Ok(())
    }

    #[test]
    fn both_sides_are_kept() -> Result<()> {
        let target = vector(&[1.0, 2.0]);
        assert_eq!(kept_bytes(&vector(&[0.5, 0.25]), |x| mse_with(x, &target, Reduction::None))?, 32);
        assert_eq!(kept_bytes(&vector(&[0.5, 0.25]), |x| l1_with(x, &target, Reduction::None))?, 16);
        Ok(())
    }
}
