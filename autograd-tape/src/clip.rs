//! Gradients held within bounds: by value, by norm, and relative to what they change.
//!
//! Every function takes the gradients and gives them back: one that is within its bounds is not
//! touched. Gradients that a transform watches are clipped by ops, so clipping can be recorded,
//! batched (one norm for each example) and captured; what is `if` on numbers is `select` there.

use crate::norm::{Parts, number, readable, root, root_of, squares, squares_of_all};
use autograd_core::algebra::{add, cast, mul, scale, sum_to};
use autograd_core::kernels::expr::{Binary, Unary};
use autograd_core::{
    At, Definition, Error, Result, ScalarExpr, Shape, Site, TrackedTensor, pointwise, pointwise_with,
};
use std::sync::LazyLock;

/// Every element held within ±`limit`. NaN stays NaN.
///
/// # Errors
/// [`Error::InvalidArgument`] for a limit that is negative or NaN.
///
/// ```
/// use autograd_core::{Result, TrackedTensor};
/// use autograd_tape::clip_by_value;
///
/// fn main() -> Result<()> {
///     let grads = clip_by_value(vec![TrackedTensor::from_vec(vec![-3f32, 0.5], &[2])?], 1.0)?;
///     assert_eq!(grads[0].to_vec1::<f32>()?, [-1.0, 0.5]);
///     Ok(())
/// }
/// ```
#[track_caller]
pub fn clip_by_value(grads: Vec<TrackedTensor>, limit: f64) -> Result<Vec<TrackedTensor>> {
    static CLIP: LazyLock<Definition> = LazyLock::new(|| {
        let expr = ScalarExpr::build(1, 1, |b, x, p| {
            let low = b.unary(Unary::Neg, p[0]);
            let (below, above) = (b.binary(Binary::Lt, x[0], low), b.binary(Binary::Gt, x[0], p[0]));
            let held = b.select(above, p[0], x[0]);
            b.select(below, low, held)
        });
        Definition::new("clip_by_value", expr)
    });
    sound("clip_by_value", limit, Site::caller())?;
    grads.into_iter().map(|grad| pointwise_with(&CLIP, &[limit], &[&grad])).collect()
}

/// All gradients scaled by one factor so that their norm together is at most `max`; with them, the
/// norm that they had (f64, without dimensions).
///
/// # Errors
/// [`Error::InvalidArgument`] for a bound that is negative or NaN, and for gradients whose norm is
/// not finite: no factor would make them right. The error names the gradient.
///
/// ```
/// use autograd_core::{Result, TrackedTensor};
/// use autograd_tape::clip_by_global_norm;
///
/// fn main() -> Result<()> {
///     let grads = vec![TrackedTensor::scalar(3.0), TrackedTensor::scalar(4.0)];
///     let (grads, norm) = clip_by_global_norm(grads, 1.0)?;
///     assert_eq!(norm.to_scalar::<f64>()?, 5.0);
///     assert!((grads[1].to_scalar::<f64>()? - 0.8).abs() < 1e-15);
///     Ok(())
/// }
/// ```
#[track_caller]
pub fn clip_by_global_norm(
    grads: Vec<TrackedTensor>,
    max: f64,
) -> Result<(Vec<TrackedTensor>, TrackedTensor)> {
    let site = Site::caller();
    sound("clip_by_global_norm", max, site)?;
    let total = squares_of_all(&grads).map_err(|e| e.or_at(site))?;
    if let Some(total) = readable(&total)? {
        finite("clip_by_global_norm", total[0], &grads, site)?;
    }
    let grads = within(grads, &total, max, site)?;
    Ok((grads, root(&total)?))
}

/// Each gradient scaled so that its own norm is at most `max`; with them, the norm that they had
/// together (f64, without dimensions).
///
/// # Errors
/// As [`clip_by_global_norm`].
///
/// ```
/// use autograd_core::{Result, TrackedTensor};
/// use autograd_tape::clip_by_norm;
///
/// fn main() -> Result<()> {
///     let grads = vec![TrackedTensor::scalar(3.0), TrackedTensor::scalar(0.5)];
///     let (grads, _) = clip_by_norm(grads, 1.0)?;
///     assert_eq!((grads[0].to_scalar::<f64>()?, grads[1].to_scalar::<f64>()?), (1.0, 0.5));
///     Ok(())
/// }
/// ```
#[track_caller]
pub fn clip_by_norm(grads: Vec<TrackedTensor>, max: f64) -> Result<(Vec<TrackedTensor>, TrackedTensor)> {
    let site = Site::caller();
    sound("clip_by_norm", max, site)?;
    let mut total = TrackedTensor::scalar(0.0);
    let mut clipped = Vec::with_capacity(grads.len());
    for (i, grad) in grads.into_iter().enumerate() {
        let own = squares(&grad, Parts::One).map_err(|e| e.or_at(site))?;
        if let Some(own) = readable(&own)? {
            finite_one("clip_by_norm", own[0], i, site)?;
        }
        total = if i == 0 { own.clone() } else { add(&total, &own)? };
        clipped.append(&mut within(vec![grad], &own, max, site)?);
    }
    Ok((clipped, root(&total)?))
}

/// Adaptive clipping: each unit of a gradient scaled so that its norm is at most `factor` times
/// that of the unit of its parameter,
///
/// gᵢ ← gᵢ · λ max(‖wᵢ‖, 10⁻³) / ‖gᵢ‖ where ‖gᵢ‖ > λ max(‖wᵢ‖, 10⁻³).
///
/// A unit is a row along the first dimension (an output of a linear or convolution layer of candle);
/// a parameter of one dimension is one unit. With the gradients, the norm that they had together.
/// From Brock, De, Smith, Simonyan: "High-performance large-scale image recognition without
/// normalization" (2021); the paper uses λ = 0.01 and leaves the last layer out.
///
/// # Errors
/// As [`clip_by_global_norm`]; [`Error::InvalidArgument`] where there are not as many parameters as
/// gradients, [`Error::Mismatch`] where one has another shape than its gradient.
///
/// ```
/// use autograd_core::{Result, TrackedTensor};
/// use autograd_tape::clip_adaptive;
///
/// fn main() -> Result<()> {
///     let weight = TrackedTensor::from_vec(vec![3f64, 4., 0., 0.], &[2, 2])?;
///     let grad = TrackedTensor::from_vec(vec![0f64, 1., 1., 0.], &[2, 2])?;
///     let (grads, _) = clip_adaptive(vec![grad], &[&weight], 0.01)?;
///     let rows = grads[0].to_vec2::<f64>()?;
///     // 0.01 · 5 for the first row; the second has no weight yet: 0.01 · 0.001.
///     assert!((rows[0][1] - 0.05).abs() < 1e-15 && (rows[1][0] - 1e-5).abs() < 1e-18);
///     Ok(())
/// }
/// ```
#[track_caller]
pub fn clip_adaptive(
    grads: Vec<TrackedTensor>,
    parameters: &[&TrackedTensor],
    factor: f64,
) -> Result<(Vec<TrackedTensor>, TrackedTensor)> {
    /// λ max(√w, 10⁻³) / √g where that is below 1, else 1, of squared norms g and w.
    static FACTOR: LazyLock<Definition> = LazyLock::new(|| {
        let expr = ScalarExpr::build(2, 1, |b, x, p| {
            let (least, one) = (b.constant(SMALLEST_NORM), b.constant(1.0));
            let (have, weight) = (root_of(b, x[0]), root_of(b, x[1]));
            let weight = b.binary(Binary::Max, weight, least);
            let bound = b.binary(Binary::Mul, weight, p[0]);
            let shrunk = b.binary(Binary::Div, bound, have);
            let over = b.binary(Binary::Gt, have, bound);
            b.select(over, shrunk, one)
        });
        Definition::new("clip_adaptive", expr)
    });
    let site = Site::caller();
    sound("clip_adaptive", factor, site)?;
    if grads.len() != parameters.len() {
        let reason = format!("{} gradients given for {} parameters", grads.len(), parameters.len());
        return Err(Error::argument("clip_adaptive", reason).or_at(site));
    }
    let mut total = TrackedTensor::scalar(0.0);
    let mut clipped = Vec::with_capacity(grads.len());
    for (i, (grad, parameter)) in grads.into_iter().zip(parameters).enumerate() {
        if let Some(error) = grad.failure().or_else(|| parameter.failure()) {
            return Err(error.clone());
        }
        if grad.shape() != parameter.shape() {
            let (got, want) = (Box::new(grad.meta()), Box::new(parameter.meta()));
            return Err(Error::Mismatch { what: "a gradient to clip", got, want, at: At::from(site) });
        }
        let parts = if grad.rank() > 1 { Parts::Units } else { Parts::One };
        let (have, weight) = (squares(&grad, parts)?, squares(parameter, parts)?);
        let own = sum_to(&have, &Shape::SCALAR)?;
        if let Some(own) = readable(&own)? {
            finite_one("clip_adaptive", own[0], i, site)?;
        }
        total = if i == 0 { own } else { add(&total, &own)? };
        let factors = pointwise_with(&FACTOR, &[factor], &[&have, &weight])?;
        let untouched = readable(&factors)?.is_some_and(|factors| factors.iter().all(|&f| f == 1.0));
        clipped.push(if untouched { grad } else { mul(&grad, &cast(&factors, grad.dtype())?)? });
    }
    Ok((clipped, root(&total)?))
}

/// The norm that a parameter without weight is taken to have, as in the paper.
const SMALLEST_NORM: f64 = 1e-3;

/// The gradients scaled so that the norm whose square is `total` comes down to `max`.
fn within(
    grads: Vec<TrackedTensor>,
    total: &TrackedTensor,
    max: f64,
    site: Site,
) -> Result<Vec<TrackedTensor>> {
    /// m/√s where that is below 1, else 1.
    static FACTOR: LazyLock<Definition> = LazyLock::new(|| {
        let expr = ScalarExpr::build(2, 0, |b, x, _| {
            let (norm, one) = (root_of(b, x[0]), b.constant(1.0));
            let shrunk = b.binary(Binary::Div, x[1], norm);
            let over = b.binary(Binary::Gt, norm, x[1]);
            b.select(over, shrunk, one)
        });
        Definition::new("clip_factor", expr)
    });
    if let Some(total) = readable(total)? {
        let norm = total[0].sqrt();
        if norm <= max {
            return Ok(grads);
        }
        return grads.iter().map(|grad| scale(grad, max / norm).map_err(|e| e.or_at(site))).collect();
    }
    let factor = pointwise(&FACTOR, &[total, &number(max, total)?])?;
    grads.iter().map(|grad| mul(grad, &cast(&factor, grad.dtype())?)).collect()
}

fn sound(op: &'static str, bound: f64, site: Site) -> Result<()> {
    if bound >= 0.0 {
        return Ok(());
    }
    Err(Error::argument(op, format!("the bound {bound} is not a number of 0 or more")).or_at(site))
}

fn finite(op: &'static str, total: f64, grads: &[TrackedTensor], site: Site) -> Result<()> {
    if total.is_finite() {
        return Ok(());
    }
    for (i, grad) in grads.iter().enumerate() {
        let own = squares(grad, Parts::One)?;
        finite_one(op, readable(&own)?.map_or(0.0, |own| own[0]), i, site)?;
    }
    Err(Error::argument(op, "the norm of all gradients together is not finite").or_at(site))
}

fn finite_one(op: &'static str, squares: f64, i: usize, site: Site) -> Result<()> {
    if squares.is_finite() {
        return Ok(());
    }
    let reason = format!(
        "gradient {i} has the norm {}; find the op that made it with detect_anomaly()",
        squares.sqrt()
    );
    Err(Error::argument(op, reason).or_at(site))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::GradientTape;
    use autograd_core::DType;

    /// A few roundings in f64.
    const ROUNDING: f64 = 1e-14;

    fn vector(x: &[f64]) -> Result<TrackedTensor> {
        TrackedTensor::from_vec(x.to_vec(), &[x.len()])
    }

    fn norm_of(grads: &[TrackedTensor]) -> Result<f64> {
        crate::global_norm(grads)?.to_scalar()
    }

    #[test]
    fn what_is_within_its_bounds_is_the_same_memory() -> Result<()> {
        let grad = vector(&[3.0, 4.0])?;
        let memory = |x: &TrackedTensor| x.plain().map(std::sync::Arc::as_ptr);
        let (at, weight) = (memory(&grad), vector(&[300.0, 400.0])?);
        let (grads, norm) = clip_by_global_norm(vec![grad], 5.0)?;
        let (grads, _) = clip_by_norm(grads, f64::INFINITY)?;
        let (grads, _) = clip_adaptive(grads, &[&weight], 0.01)?;
        assert_eq!((memory(&grads[0]), norm.to_scalar::<f64>()?), (at, 5.0));
        Ok(())
    }

    #[test]
    fn every_type_is_clipped_in_its_own() -> Result<()> {
        for dtype in [DType::F64, DType::F32, DType::F16, DType::BF16] {
            let grads = vec![cast(&vector(&[3.0, 4.0])?, dtype)?, cast(&vector(&[12.0])?, dtype)?];
            let (clipped, norm) = clip_by_global_norm(grads, 1.0)?;
            assert_eq!((clipped[1].dtype(), norm.to_scalar::<f64>()?), (dtype, 13.0));
            // bfloat16 has 8 bits.
            assert!((norm_of(&clipped)? - 1.0).abs() < 4e-3);
        }
        Ok(())
    }

    #[test]
    fn watched_gradients_are_clipped_to_the_same_numbers() -> Result<()> {
        let data = [vector(&[3.0, 4.0])?, vector(&[-12.0])?];
        let weights = [vector(&[1.0, 2.0])?, vector(&[5.0])?];
        let refs: Vec<&TrackedTensor> = weights.iter().collect();
        type Clip<'a> = Box<dyn Fn(Vec<TrackedTensor>) -> Result<Vec<TrackedTensor>> + 'a>;
        let ways: [Clip<'_>; 5] = [
            Box::new(|g| Ok(clip_by_global_norm(g, 1.0)?.0)),
            Box::new(|g| Ok(clip_by_global_norm(g, 100.0)?.0)),
            Box::new(|g| Ok(clip_by_norm(g, 6.0)?.0)),
            Box::new(|g| Ok(clip_adaptive(g, &refs, 0.1)?.0)),
            Box::new(|g| clip_by_value(g, 3.5)),
        ];
        for clip in ways {
            let tape = GradientTape::new();
            let watched: Vec<TrackedTensor> = data.iter().map(|x| tape.variable(x)).collect();
            for (a, b) in clip(data.to_vec())?.iter().zip(clip(watched)?) {
                assert!(b.is_tracked());
                for (a, b) in a.to_vec1::<f64>()?.iter().zip(b.to_vec1::<f64>()?) {
                    assert!((a - b).abs() < ROUNDING, "{a} {b}");
                }
            }
        }
        Ok(())
    }

    #[test]
    fn zero_gradients_stay_zero() -> Result<()> {
        let (grads, norm) = clip_by_global_norm(vec![vector(&[0.0, 0.0])?], 0.0)?;
        assert_eq!((grads[0].to_vec1::<f64>()?, norm.to_scalar::<f64>()?), (vec![0.0, 0.0], 0.0));
        let weight = vector(&[0.0, 0.0])?;
        assert_eq!(clip_adaptive(grads, &[&weight], 0.0)?.0[0].to_vec1::<f64>()?, [0.0, 0.0]);
        assert!(clip_by_global_norm(vec![], 1.0)?.0.is_empty());
        Ok(())
    }

    #[test]
    fn bad_bounds_and_bad_gradients_are_errors() -> Result<()> {
        for bound in [-1.0, f64::NAN] {
            let here = line!() + 1;
            let error = clip_by_global_norm(vec![], bound).err();
            assert!(matches!(&error, Some(Error::InvalidArgument { op: "clip_by_global_norm", .. })));
            assert_eq!(error.and_then(|e| e.site()).map(|s| s.line()), Some(here));
            assert!(clip_by_value(vec![], bound).is_err() && clip_by_norm(vec![], bound).is_err());
        }
        let bad = || Ok::<_, Error>(vec![vector(&[1.0])?, vector(&[f64::NAN])?]);
        for error in [clip_by_global_norm(bad()?, 1.0).err(), clip_by_norm(bad()?, 1.0).err()] {
            assert!(error.is_some_and(|e| e.to_string().contains("gradient 1")));
        }
        let (a, b) = (vector(&[1.0])?, vector(&[1.0, 2.0])?);
        assert!(matches!(clip_adaptive(vec![a.clone()], &[&b], 0.1), Err(Error::Mismatch { .. })));
        assert!(matches!(clip_adaptive(vec![a], &[], 0.1), Err(Error::InvalidArgument { .. })));
        Ok(())
    }
}
