//! Cross entropy and negative log likelihood over classes.
//!
//! These are functions of the rows' own primitives and of general ops.

use crate::compare::where_cond;
use crate::loss::Reduction;
use crate::pick::{Pick, counting_rows};
use crate::registry::{Case, Family, Op, Sample};
use crate::row_cross_entropy::RowCrossEntropy;
use crate::softmax::log_softmax;
use autograd_core::algebra::{add, broadcast_to, cast, div, mul, neg, permute, reshape, scale, sum_to};
use autograd_core::smallvec::SmallVec;
use autograd_core::{Error, Result, Shape, Site, TrackedTensor, apply_one, checked_shape, is_float};
use candle_core::DType;

/// What a loss over classes does beyond the plain mean; the defaults are PyTorch's.
#[derive(Clone, Debug)]
pub struct CrossEntropy {
    /// A factor for each class, of shape `[classes]`.
    pub weights: Option<TrackedTensor>,
    /// Rows with this target count for nothing. −100 by default, as in PyTorch.
    pub ignore_index: Option<i64>,
    /// How much of each target goes to all classes in equal parts, between 0 and 1.
    pub label_smoothing: f64,
    /// What becomes of the losses of the rows.
    pub reduction: Reduction,
}

impl Default for CrossEntropy {
    fn default() -> Self {
        Self { weights: None, ignore_index: Some(-100), label_smoothing: 0.0, reduction: Reduction::Mean }
    }
}

/// The mean over rows of ln Σ eˣ − `x[target]`; see [`cross_entropy_with`].
///
/// # Errors
/// As [`cross_entropy_with`].
#[track_caller]
pub fn cross_entropy(logits: &TrackedTensor, targets: impl Into<TrackedTensor>) -> Result<TrackedTensor> {
    cross_entropy_with(logits, targets, &CrossEntropy::default())
}

/// −Σ_c q_c · w_c · log_softmax(x)_c for each row.
///
/// The logits are `[classes]`, `[rows, classes]` or `[rows, classes, d1, ..]`. The targets q are
/// class indices (integers, the logits' shape without classes) or probabilities (floats of the
/// logits' shape, which have a gradient too). The mean divides by the weights of the targets that
/// are not ignored; over probabilities, by the number of rows. It is NaN where nothing is left.
///
/// # Errors
/// Shapes that do not fit, an index that is no class, a type that is not a float.
#[track_caller]
pub fn cross_entropy_with(
    logits: &TrackedTensor,
    targets: impl Into<TrackedTensor>,
    options: &CrossEntropy,
) -> Result<TrackedTensor> {
    let site = Site::caller();
    let targets = targets.into();
    let run = || {
        let smoothing = options.label_smoothing;
        if !(0.0..=1.0).contains(&smoothing) {
            return Err(Error::argument(
                "cross_entropy",
                format!("label smoothing {smoothing} is not in 0..=1"),
            ));
        }
        let x = Rows::of("cross_entropy", logits)?;
        if is_float(targets.dtype()) && targets.failure().is_none() {
            return over_probabilities(&x, &targets, options);
        }
        let targets = x.indices(&targets)?;
        let ignore = may_be(options.ignore_index, &targets);
        // What is smoothed reads each class: the logarithms are made, and kept, once for both parts.
        let logarithms = (smoothing > 0.0).then(|| log_softmax(&x.values, 1)).transpose()?;
        let losses = match &logarithms {
            Some(y) => neg(&apply_one(&Pick { op: "cross_entropy", ignore }, &[y, &targets])?)?,
            None => apply_one(&RowCrossEntropy { ignore }, &[&x.values, &targets])?,
        };
        let weights = Weights::of(&x, &targets, options.weights.as_ref(), ignore)?;
        let mut losses = weights.times(&losses)?;
        if let Some(y) = &logarithms {
            let spread = spread_loss(y, options.weights.as_ref())?;
            let spread = match counting_rows(&targets, ignore)? {
                Some(valid) => where_cond(&valid, spread, 0)?,
                None => spread,
            };
            losses = add(&scale(&losses, 1.0 - smoothing)?, &scale(&spread, smoothing)?)?;
        }
        x.reduce(&losses, options.reduction, || weights.total(&losses, &targets, ignore))
    };
    run().map_err(|error| error.or_at(site))
}

/// −`w[target]` · `x[target]` for each row of log-probabilities, reduced by the mean; see
/// [`nll_with`].
///
/// # Errors
/// As [`nll_with`].
#[track_caller]
pub fn nll(log_probabilities: &TrackedTensor, targets: impl Into<TrackedTensor>) -> Result<TrackedTensor> {
    nll_with(log_probabilities, targets, &CrossEntropy::default())
}

/// −`w[target]` · `x[target]` for each row: the part of [`cross_entropy_with`] after log_softmax,
/// with the same shapes and options.
///
/// # Errors
/// As [`cross_entropy_with`]; label smoothing and probabilities as targets are refused.
#[track_caller]
pub fn nll_with(
    log_probabilities: &TrackedTensor,
    targets: impl Into<TrackedTensor>,
    options: &CrossEntropy,
) -> Result<TrackedTensor> {
    let site = Site::caller();
    let targets = targets.into();
    let run = || {
        if options.label_smoothing != 0.0 {
            return Err(Error::argument("nll_loss", "label smoothing is for cross_entropy only"));
        }
        let x = Rows::of("nll_loss", log_probabilities)?;
        let targets = x.indices(&targets)?;
        let ignore = may_be(options.ignore_index, &targets);
        let losses = neg(&apply_one(&Pick { op: "nll_loss", ignore }, &[&x.values, &targets])?)?;
        let weights = Weights::of(&x, &targets, options.weights.as_ref(), ignore)?;
        let losses = weights.times(&losses)?;
        x.reduce(&losses, options.reduction, || weights.total(&losses, &targets, ignore))
    };
    run().map_err(|error| error.or_at(site))
}

/// Values seen as rows of classes, and the shape without classes.
struct Rows {
    op: &'static str,
    values: TrackedTensor,
    outer: Shape,
    whole: Shape,
}

impl Rows {
    fn of(op: &'static str, x: &TrackedTensor) -> Result<Self> {
        if let Some(error) = x.failure() {
            return Err(error.clone());
        }
        let (rank, whole) = (x.rank(), *x.shape());
        if rank == 0 {
            return Err(Error::shape(op, &[whole], "a dimension of classes is needed"));
        }
        let class = usize::from(rank > 1);
        let classes = whole.dims()[class];
        let outer: SmallVec<[usize; 8]> =
            (0..rank).filter(|d| *d != class).map(|d| whole.dims()[d]).collect();
        let outer = checked_shape(op, &outer)?;
        let rows = checked_shape(op, &[outer.elements(), classes])?;
        Ok(Self { op, values: reshape(&classes_last(x)?, &rows)?, outer, whole })
    }

    /// Targets of one index for each row.
    fn indices(&self, targets: &TrackedTensor) -> Result<TrackedTensor> {
        if let Some(error) = targets.failure() {
            return Err(error.clone());
        }
        if *targets.shape() != self.outer {
            let reason = "the targets are the first's shape without its classes";
            return Err(Error::shape(self.op, &[self.whole, *targets.shape()], reason));
        }
        reshape(targets, &checked_shape(self.op, &[self.outer.elements()])?)
    }

    /// The losses reduced; `total` is what the mean divides their sum by.
    fn reduce(
        &self,
        losses: &TrackedTensor,
        reduction: Reduction,
        total: impl FnOnce() -> Result<Option<TrackedTensor>>,
    ) -> Result<TrackedTensor> {
        if reduction == Reduction::None {
            return reshape(losses, &self.outer);
        }
        let sum = sum_to(losses, &Shape::SCALAR)?;
        if reduction == Reduction::Sum {
            return Ok(sum);
        }
        match total()? {
            Some(total) => div(&sum, &total),
            None => scale(&sum, 1.0 / losses.elem_count() as f64),
        }
    }
}

/// x with its classes in the last dimension.
fn classes_last(x: &TrackedTensor) -> Result<TrackedTensor> {
    if x.rank() <= 2 {
        return Ok(x.clone());
    }
    let order: SmallVec<[usize; 8]> = std::iter::once(0).chain(2..x.rank()).chain([1]).collect();
    permute(x, &order)
}

/// The ignored class, where a target of this type can be it.
fn may_be(ignore: Option<i64>, targets: &TrackedTensor) -> Option<i64> {
    ignore.filter(|&class| class >= 0 || targets.dtype() == DType::I64)
}

/// The weight of each row's target, 0 for an ignored one; `None` where all are 1.
struct Weights(Option<TrackedTensor>);

impl Weights {
    fn of(
        x: &Rows,
        targets: &TrackedTensor,
        weights: Option<&TrackedTensor>,
        ignore: Option<i64>,
    ) -> Result<Self> {
        let Some(weights) = weights else { return Ok(Self(None)) };
        let wide = broadcast_to(weights, x.values.shape())?;
        Ok(Self(Some(apply_one(&Pick { op: x.op, ignore }, &[&wide, targets])?)))
    }

    fn times(&self, losses: &TrackedTensor) -> Result<TrackedTensor> {
        self.0.as_ref().map_or_else(|| Ok(losses.clone()), |weights| mul(losses, weights))
    }

    /// The sum of the weights; `None` where it is the number of rows.
    fn total(
        &self,
        losses: &TrackedTensor,
        targets: &TrackedTensor,
        ignore: Option<i64>,
    ) -> Result<Option<TrackedTensor>> {
        let counted = match &self.0 {
            Some(weights) => Some(weights.clone()),
            None => counting_rows(targets, ignore)?.map(|v| cast(&v, losses.dtype())).transpose()?,
        };
        counted.map(|counted| sum_to(&counted, &Shape::SCALAR)).transpose()
    }
}

/// −Σ_c w_c/n · y_c for each row y = log_softmax(x) of n classes.
fn spread_loss(y: &TrackedTensor, weights: Option<&TrackedTensor>) -> Result<TrackedTensor> {
    let (rows, classes) = (y.dims()[0], y.dims()[1]);
    let column = checked_shape("cross_entropy", &[rows, 1])?;
    let sum = match weights {
        Some(weights) => sum_to(&mul(y, weights)?, &column)?,
        None => sum_to(y, &column)?,
    };
    reshape(&scale(&sum, -1.0 / classes as f64)?, &checked_shape("cross_entropy", &[rows])?)
}

/// Cross entropy against probabilities, which the smoothing moves towards equal ones.
fn over_probabilities(x: &Rows, targets: &TrackedTensor, options: &CrossEntropy) -> Result<TrackedTensor> {
    if *targets.shape() != x.whole {
        let reason = "probabilities have the logits' shape";
        return Err(Error::shape(x.op, &[x.whole, *targets.shape()], reason));
    }
    let mut q = reshape(&classes_last(targets)?, x.values.shape())?;
    let (rows, classes) = (x.values.dims()[0], x.values.dims()[1]);
    if options.label_smoothing > 0.0 {
        let equal = options.label_smoothing / classes as f64;
        q = crate::elementwise::affine(&q, 1.0 - options.label_smoothing, equal)?;
    }
    if let Some(weights) = &options.weights {
        q = mul(&q, weights)?;
    }
    let terms = mul(&q, &log_softmax(&x.values, 1)?)?;
    let column = checked_shape(x.op, &[rows, 1])?;
    let losses = reshape(&neg(&sum_to(&terms, &column)?)?, &checked_shape(x.op, &[rows])?)?;
    // The mean is over the first dimension and what follows the classes: over rows.
    x.reduce(&losses, options.reduction, || Ok(None))
}

/// The ops of this file.
pub fn ops() -> Vec<Op> {
    let op = |name, formula, cases| Op { name, family: Family::Loss, formula, cases };
    fn classes(logits: &[usize], targets: &[usize], classes: u32) -> Vec<Sample> {
        vec![Sample::float(logits), Sample::index(targets, classes)]
    }
    vec![
        op("cross_entropy", "−Σ q · w · log_softmax(x), reduced", || {
            let with = |label, options: fn() -> CrossEntropy| {
                Case::new(label, classes(&[4, 3], &[4], 3), move |x| {
                    cross_entropy_with(&x[0], &x[1], &options())
                })
            };
            let plain = CrossEntropy::default;
            let weighted = |label, smoothing: f64, ignore: Option<i64>| {
                let mut inputs = classes(&[4, 3], &[4], 3);
                inputs.push(Sample::between(&[3], 0.5, 1.5));
                Case::new(label, inputs, move |x| {
                    let options = CrossEntropy {
                        weights: Some(x[2].clone()),
                        ignore_index: ignore,
                        label_smoothing: smoothing,
                        ..CrossEntropy::default()
                    };
                    cross_entropy_with(&x[0], &x[1], &options)
                })
            };
            vec![
                with("mean", plain),
                with("sum", || CrossEntropy { reduction: Reduction::Sum, ..CrossEntropy::default() }),
                with("none", || CrossEntropy { reduction: Reduction::None, ..CrossEntropy::default() }),
                with("smoothing", || CrossEntropy { label_smoothing: 0.2, ..CrossEntropy::default() }),
                with("ignored", || CrossEntropy {
                    ignore_index: Some(1),
                    label_smoothing: 0.1,
                    reduction: Reduction::None,
                    ..CrossEntropy::default()
                }),
                weighted("weights", 0.0, None),
                weighted("weights, smoothing, ignored", 0.2, Some(2)),
                Case::new("one row", classes(&[5], &[], 5), |x| cross_entropy(&x[0], &x[1])),
                Case::new("pixels", classes(&[2, 3, 2, 2], &[2, 2, 2], 3), |x| cross_entropy(&x[0], &x[1])),
                Case::new(
                    "probabilities",
                    vec![Sample::float(&[2, 3]), Sample::between(&[2, 3], 0.1, 1.0)],
                    |x| {
                        let options = CrossEntropy { label_smoothing: 0.1, ..CrossEntropy::default() };
                        cross_entropy_with(&x[0], &x[1], &options)
                    },
                ),
            ]
        }),
        op("nll_loss", "−w[target] · x[target], reduced", || {
            vec![
                Case::new("mean", classes(&[4, 3], &[4], 3), |x| nll(&x[0], &x[1])),
                Case::new("pixels", classes(&[2, 3, 2], &[2, 2], 3), |x| nll(&x[0], &x[1])),
                Case::new("ignored", classes(&[4, 3], &[4], 3), |x| {
                    let options = CrossEntropy {
                        ignore_index: Some(0),
                        reduction: Reduction::Sum,
                        ..CrossEntropy::default()
                    };
                    nll_with(&x[0], &x[1], &options)
                }),
            ]
        }),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pull::{close, pull, vector};
    use autograd_core::algebra::ones_like;
    use autograd_tape::GradientTape;

    const LOGITS: [f64; 12] = [0.5, -1.0, 2.0, 1.5, 0.25, -0.75, -2.0, 0.0, 1.0, 3.0, 0.5, -0.5];
    const TARGETS: [i64; 4] = [2, 0, 1, 2];
    const WEIGHTS: [f64; 3] = [0.5, 2.0, 1.25];

    fn logits() -> TrackedTensor {
        TrackedTensor::from_vec(LOGITS.to_vec(), &[4, 3]).expect("four rows of three")
    }

    fn indices(targets: [i64; 4]) -> TrackedTensor {
        TrackedTensor::from_vec(targets.to_vec(), &[4]).expect("four targets")
    }

    /// Loss and gradient by the definition, in plain loops.
    fn by_definition(
        targets: [i64; 4],
        weights: [f64; 3],
        ignore: i64,
        smoothing: f64,
    ) -> (Vec<f64>, f64, Vec<f64>) {
        let (mut losses, mut total, mut grad) = (Vec::new(), 0.0, vec![0.0; 12]);
        for (row, &target) in targets.iter().enumerate() {
            if target == ignore {
                losses.push(0.0);
                continue;
            }
            let x = &LOGITS[row * 3..][..3];
            let lse = x.iter().map(|x| x.exp()).sum::<f64>().ln();
            let q = |c: usize| {
                weights[c] * (smoothing / 3.0 + if c as i64 == target { 1.0 - smoothing } else { 0.0 })
            };
            losses.push((0..3).map(|c| q(c) * (lse - x[c])).sum());
            total += weights[target as usize];
            let mass: f64 = (0..3).map(q).sum();
            for c in 0..3 {
                grad[row * 3 + c] = mass * (x[c] - lse).exp() - q(c);
            }
        }
        (losses, total, grad)
    }

    #[test]
    fn every_option_by_the_definition() -> Result<()> {
        for targets in [TARGETS, [2, -100, 1, -100]] {
            for weights in [None, Some(WEIGHTS)] {
                for ignore in [-100, 1] {
                    if targets.contains(&-100) && ignore != -100 {
                        continue;
                    }
                    for smoothing in [0.0, 0.3, 1.0] {
                        let (losses, total, grad) =
                            by_definition(targets, weights.unwrap_or([1.0; 3]), ignore, smoothing);
                        let options = |reduction| CrossEntropy {
                            weights: weights.map(|w| vector(&w)),
                            ignore_index: Some(ignore),
                            label_smoothing: smoothing,
                            reduction,
                        };
                        let run = |x: &TrackedTensor, reduction| {
                            cross_entropy_with(x, indices(targets), &options(reduction))
                        };
                        let sum: f64 = losses.iter().sum();
                        close(&run(&logits(), Reduction::None)?.to_vec1()?, &losses);
                        close(&[run(&logits(), Reduction::Sum)?.to_scalar()?], &[sum]);
                        close(&[run(&logits(), Reduction::Mean)?.to_scalar()?], &[sum / total]);
                        close(&pull(&[&logits()], |x| run(&x[0], Reduction::Sum))?[0], &grad);
                        let mean: Vec<f64> = grad.iter().map(|g| g / total).collect();
                        close(&pull(&[&logits()], |x| run(&x[0], Reduction::Mean))?[0], &mean);
                        if smoothing == 0.0 {
                            let nll = nll_with(
                                &log_softmax(&logits(), 1)?,
                                indices(targets),
                                &options(Reduction::None),
                            )?;
                            close(&nll.to_vec1()?, &losses);
                        }
                    }
                }
            }
        }
        Ok(())
    }

    #[test]
    fn an_ignored_row_gets_no_gradient_whatever_is_in_it() -> Result<()> {
        let mut data = LOGITS.to_vec();
        data[3..6].fill(f64::NAN);
        let x = TrackedTensor::from_vec(data, &[4, 3])?;
        let grads = pull(&[&x], |x| cross_entropy(&x[0], indices([2, -100, 1, 2])))?;
        assert!(grads[0].iter().all(|g| g.is_finite()) && grads[0][3..6] == [0.0; 3], "{grads:?}");
        // The same at second order, where the decomposition is differentiated.
        let tape = GradientTape::new().persistent();
        let x = tape.variable(&x);
        let first = tape.derivative(&cross_entropy(&x, indices([2, -100, 1, 2]))?, &x)?;
        let second = tape.gradient_with(&[&first], &[&ones_like(&first)?], &[&x])?[0].to_flat::<f64>()?;
        assert!(second.iter().all(|g| g.is_finite()) && second[3..6] == [0.0; 3], "{second:?}");
        Ok(())
    }

    #[test]
    fn nothing_left_is_nan() -> Result<()> {
        assert!(cross_entropy(&logits(), indices([-100; 4]))?.to_scalar::<f64>()?.is_nan());
        Ok(())
    }

    #[test]
    fn classes_in_the_second_dimension() -> Result<()> {
        // [2, 3, 2]: two images of two pixels.
        let x = TrackedTensor::from_vec(LOGITS.to_vec(), &[2, 3, 2])?;
        let rows = permute(&x, &[0, 2, 1])?;
        let rows = reshape(&rows, &Shape::new(&[4, 3]))?;
        let targets = reshape(&indices(TARGETS), &Shape::new(&[2, 2]))?;
        let options = CrossEntropy { reduction: Reduction::None, ..CrossEntropy::default() };
        let losses = cross_entropy_with(&x, &targets, &options)?;
        assert_eq!(losses.dims(), [2, 2]);
        close(&losses.to_flat()?, &cross_entropy_with(&rows, indices(TARGETS), &options)?.to_vec1::<f64>()?);
        Ok(())
    }

    #[test]
    fn probabilities_equal_indices_where_they_are_sure() -> Result<()> {
        let mut sure = vec![0.0; 12];
        for (row, &target) in TARGETS.iter().enumerate() {
            sure[row * 3 + target as usize] = 1.0;
        }
        let sure = TrackedTensor::from_vec(sure, &[4, 3])?;
        let options = CrossEntropy { label_smoothing: 0.1, ..CrossEntropy::default() };
        let by_index = cross_entropy_with(&logits(), indices(TARGETS), &options)?;
        let by_probability = cross_entropy_with(&logits(), &sure, &options)?;
        close(&[by_probability.to_scalar()?], &[by_index.to_scalar()?]);
        Ok(())
    }

    #[test]
    fn half_types_keep_an_exact_hint() -> Result<()> {
        // Far from 0 a logsumexp in bf16 would be off by 0.25, and each probability by a quarter.
        let far: Vec<f64> = LOGITS.iter().map(|x| 2.0 * x + 64.0).collect();
        let x = cast(&TrackedTensor::from_vec(far, &[4, 3])?, DType::BF16)?;
        let exact = pull(&[&cast(&x, DType::F64)?], |x| cross_entropy(&x[0], indices(TARGETS)))?;
        let tape = GradientTape::new();
        let v = tape.variable(&x);
        let grad = tape.derivative(&cross_entropy(&v, indices(TARGETS))?, &v)?;
        let grad = cast(&grad, DType::F64)?.to_flat::<f64>()?;
        for (got, want) in grad.iter().zip(&exact[0]) {
            assert!((got - want).abs() <= 0.01 * want.abs() + 1e-3, "{grad:?}, not {exact:?}");
        }
        Ok(())
    }

    #[test]
    fn a_number_for_each_row_is_kept() -> Result<()> {
        let tape = GradientTape::new();
        let x = tape.variable(logits());
        let loss = cross_entropy(&x, TrackedTensor::from_vec(vec![2u32, 0, 1, 2], &[4])?)?;
        let kept: usize = tape.nodes().iter().map(|node| node.kept_bytes).sum();
        // The logits (the input), the targets, and one logsumexp for each row.
        assert_eq!(kept, 12 * 8 + 4 * 4 + 4 * 8);
        drop(loss);
        Ok(())
    }

    #[test]
    fn errors_name_the_op_and_what_is_wrong() -> Result<()> {
        let says = |result: Result<TrackedTensor>, what: &str| {
            let error = result.expect_err(what);
            assert!(error.to_string().contains(what), "{error}");
            assert!(error.site().is_some_and(|site| site.file().ends_with("cross_entropy.rs")), "{error}");
        };
        says(
            cross_entropy(&logits(), indices([2, 0, 3, 1])),
            "cross_entropy: target 3 of row 2 is not one of 3",
        );
        says(nll(&logits(), indices([2, 0, -1, 1])), "nll_loss: target -1 of row 2");
        says(cross_entropy(&logits(), vector(&[1.0])), "probabilities have the logits' shape");
        says(cross_entropy(&logits(), TrackedTensor::from_vec(vec![0u32], &[1])?), "without its classes");
        says(
            cross_entropy(&TrackedTensor::scalar(1.0), TrackedTensor::from_vec(vec![0u32], &[])?),
            "a dimension of classes",
        );
        says(
            cross_entropy(&indices(TARGETS), TrackedTensor::from_vec(vec![0u32], &[])?),
            "cross_entropy: element type",
        );
        let options = CrossEntropy { label_smoothing: 2.0, ..CrossEntropy::default() };
        says(cross_entropy_with(&logits(), indices(TARGETS), &options), "label smoothing 2");
        Ok(())
    }

    #[test]
    fn empty_rows_of_logits() -> Result<()> {
        let x = TrackedTensor::from_vec(Vec::<f64>::new(), &[0, 3])?;
        let targets = TrackedTensor::from_vec(Vec::<u32>::new(), &[0])?;
        assert!(cross_entropy(&x, &targets)?.to_scalar::<f64>()?.is_nan());
        let none = TrackedTensor::from_vec(Vec::<f64>::new(), &[2, 0])?;
        assert!(cross_entropy(&none, TrackedTensor::from_vec(vec![0u32, 0], &[2])?).is_err());
        Ok(())
    }
}
