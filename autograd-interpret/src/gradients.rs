//! Attribution by gradients at the input.

use autograd_core::algebra::{add, fill, mul, scale, sub};
use autograd_core::{Error, Result, TrackedTensor};
use autograd_ops::TensorAutograd;
use autograd_transforms::grad;

/// An attribution and how well it adds up.
#[derive(Clone, Debug)]
pub struct Attribution {
    /// What each element of the input contributes.
    pub values: TrackedTensor,
    /// The sum of the contributions less the change of the output: 0 for a complete attribution.
    pub delta: f64,
    /// How many gradients were taken.
    pub steps: usize,
}

/// |∂f/∂x|: how much the output answers to each element (Simonyan et al. 2013). `f` gives one
/// number.
///
/// # Errors
/// As `grad`, and what `f` reports.
#[track_caller]
pub fn saliency(
    f: impl FnOnce(&TrackedTensor) -> Result<TrackedTensor>,
    x: &TrackedTensor,
) -> Result<TrackedTensor> {
    grad(f, x)?.abs()
}

/// (x − x₀) · ∫₀¹ ∂f/∂x(x₀ + t(x − x₀)) dt by the midpoint rule (Sundararajan et al. 2017);
/// x₀ = 0 where no baseline is given. `f` gives one number.
///
/// # Errors
/// [`Error::InvalidArgument`] for no steps; as `grad`, and what `f` reports.
#[track_caller]
pub fn integrated_gradients(
    f: impl Fn(&TrackedTensor) -> Result<TrackedTensor>,
    x: &TrackedTensor,
    baseline: Option<&TrackedTensor>,
    steps: usize,
) -> Result<Attribution> {
    if steps == 0 {
        return Err(Error::argument("integrated_gradients", "at least one step is needed"));
    }
    let zero = fill(0.0, &x.meta(), x)?;
    let start = baseline.unwrap_or(&zero);
    let way = sub(x, start)?;
    let mut total: Option<TrackedTensor> = None;
    for step in 0..steps {
        let t = (step as f64 + 0.5) / steps as f64;
        let at = add(start, &scale(&way, t)?)?;
        let slope = grad(&f, &at)?;
        total = Some(match total {
            Some(total) => add(&total, &slope)?,
            None => slope,
        });
    }
    let total = total.ok_or_else(|| Error::internal("integrated_gradients", "no step was taken"))?;
    let values = mul(&way, &scale(&total, 1.0 / steps as f64)?)?;
    let number = |y: &TrackedTensor| -> Result<f64> {
        Ok(y.tensor()?.to_dtype(candle_core::DType::F64)?.sum_all()?.to_scalar::<f64>()?)
    };
    let delta = number(&values)? - (number(&f(x)?)? - number(&f(start)?)?);
    Ok(Attribution { values, delta, steps })
}
