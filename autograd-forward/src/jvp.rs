//! Jacobian-vector products of functions.

use crate::dual::DualTracer;
use autograd_core::algebra::zeros_like;
use autograd_core::{At, Error, Level, Result, Site, TrackedTensor, is_float};

/// f(x) and its derivative along `tangents`: (y, J·v), in one pass.
///
/// # Errors
/// [`Error::Mismatch`] where a tangent has not its primal's shape and type,
/// [`Error::NotDifferentiable`] for an integer primal, and what `f` reports.
///
/// ```
/// use autograd_core::{Result, TrackedTensor};
/// use autograd_forward::jvp;
/// use autograd_ops::TensorAutograd;
///
/// fn main() -> Result<()> {
///     let (x, v) = (TrackedTensor::scalar(3.0), TrackedTensor::scalar(4.0));
///     let (y, dy) = jvp(|x| Ok(vec![x[0].pow(3)?]), &[&x], &[&v])?;
///     assert_eq!((y[0].to_scalar::<f64>()?, dy[0].to_scalar::<f64>()?), (27.0, 108.0));
///     Ok(())
/// }
/// ```
#[track_caller]
pub fn jvp(
    f: impl FnOnce(&[TrackedTensor]) -> Result<Vec<TrackedTensor>>,
    primals: &[&TrackedTensor],
    tangents: &[&TrackedTensor],
) -> Result<(Vec<TrackedTensor>, Vec<TrackedTensor>)> {
    let site = Site::caller();
    if primals.len() != tangents.len() {
        let reason = format!("{} tangents given for {} primals", tangents.len(), primals.len());
        return Err(Error::argument("jvp", reason).or_at(site));
    }
    let level = Level::fresh();
    let duals: Vec<TrackedTensor> =
        primals.iter().zip(tangents).map(|(x, v)| dual(level, x, v, site)).collect::<Result<_>>()?;
    let outputs = f(&duals)?;
    drop(duals);
    let (mut ys, mut dys) = (Vec::with_capacity(outputs.len()), Vec::with_capacity(outputs.len()));
    for output in &outputs {
        let (y, dy) = DualTracer::split(level, output);
        dys.push(match dy {
            Some(dy) => dy,
            None => zeros_like(&y)?,
        });
        ys.push(y);
    }
    Ok((ys, dys))
}

/// A primal with its tangent at a level, checked.
pub(crate) fn dual(level: Level, x: &TrackedTensor, v: &TrackedTensor, site: Site) -> Result<TrackedTensor> {
    if let Some(error) = x.failure().or_else(|| v.failure()) {
        return Err(error.clone());
    }
    if !is_float(x.dtype()) {
        return Err(Error::NotDifferentiable { dtype: x.dtype(), at: At::from(site) });
    }
    if x.shape() != v.shape() || x.dtype() != v.dtype() {
        return Err(Error::Mismatch {
            what: "the tangent of a primal",
            got: Box::new(v.meta()),
            want: Box::new(x.meta()),
            at: At::from(site),
        });
    }
    Ok(DualTracer::join(level, x.clone(), v.clone()))
}
