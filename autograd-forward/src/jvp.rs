//! Jacobian-vector products of functions.

use crate::dual::DualTracer;
use autograd_core::algebra::zeros_like;
use autograd_core::{At, Error, Level, Result, Scope, Site, TrackedTensor, Tree, is_float, same_structure};

/// f(x) and its derivative along `tangents`: (y, J·v), in one pass. `f` takes and gives trees of
/// values: one value, a list, a tuple, a struct of the user's.
///
/// # Errors
/// [`Error::Mismatch`] where a tangent has not its primal's shape and type,
/// [`Error::TreeMismatch`] where the tangents have not the primals' structure,
/// [`Error::NotDifferentiable`] for an integer primal, and what `f` reports.
///
/// ```
/// use autograd_core::{Result, TrackedTensor};
/// use autograd_forward::jvp;
/// use autograd_ops::TensorAutograd;
///
/// fn main() -> Result<()> {
///     let (x, v) = (TrackedTensor::scalar(3.0), TrackedTensor::scalar(4.0));
///     let (y, dy) = jvp(|x| x.pow(3), &x, &v)?;
///     assert_eq!((y.to_scalar::<f64>()?, dy.to_scalar::<f64>()?), (27.0, 108.0));
///     Ok(())
/// }
/// ```
#[track_caller]
pub fn jvp<P, V, O>(f: impl FnOnce(&P::Owned) -> Result<O>, primals: &P, tangents: &V) -> Result<(O, O)>
where
    P: Tree + ?Sized,
    V: Tree<Owned = P::Owned> + ?Sized,
    O: Tree<Owned = O>,
{
    let site = Site::caller();
    same_structure("the tangents", tangents, primals, site)?;
    let level = Level::fresh();
    let guard = Scope::enter("jvp", site);
    let directions = tangents.leaves();
    let mut next = directions.iter();
    let duals = primals.rebuild(&mut |x| {
        let v = next.next().ok_or_else(|| Error::internal("jvp", "a tangent is missing"))?;
        checked(x, v, site)?;
        Ok(DualTracer::join(level, x.clone(), (*v).clone(), Some(guard.scope())))
    })?;
    let outputs = f(&duals)?;
    drop(duals);
    let ys = outputs.rebuild(&mut |y| Ok(DualTracer::split(level, y).0))?;
    let dys = outputs.rebuild(&mut |y| match DualTracer::split(level, y) {
        (_, Some(dy)) => Ok(dy),
        (y, None) => zeros_like(&y),
    })?;
    Ok((ys, dys))
}

/// Whether `v` can be the tangent of `x`.
pub(crate) fn checked(x: &TrackedTensor, v: &TrackedTensor, site: Site) -> Result<()> {
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
    Ok(())
}
