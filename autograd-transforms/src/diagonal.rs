//! The diagonal of the Hessian, exactly.

use crate::batch::{joined, vmap};
use crate::jacobian::units;
use autograd_core::algebra::reshape;
use autograd_core::{At, Error, Result, Site, TrackedTensor, is_float};
use autograd_forward::derivatives;

/// How many directions are worked on at once.
const CHUNK: usize = 256;

/// The diagonal ∂²f/∂xᵢ² of the Hessian of a scalar function, exactly, in the shape of x: second
/// derivatives along the axes by Taylor mode, without the entries beside the diagonal.
///
/// # Errors
/// [`Error::NonScalarTarget`] where `f` gives more than one element;
/// [`Error::NotDifferentiable`] for an integer x; what `f` reports.
///
/// ```
/// use autograd_core::{Result, TrackedTensor};
/// use autograd_ops::TensorAutograd;
/// use autograd_transforms::hessian_diagonal;
///
/// fn main() -> Result<()> {
///     let x = TrackedTensor::from_vec(vec![1f64, 2.], &[2])?;
///     let d = hessian_diagonal(|x| x.pow(3)?.sum()?.add(x.prod()?), &x)?;
///     assert_eq!(d.to_vec1::<f64>()?, [6., 12.]);
///     Ok(())
/// }
/// ```
#[track_caller]
pub fn hessian_diagonal(
    f: impl Fn(&TrackedTensor) -> Result<TrackedTensor>,
    x: &TrackedTensor,
) -> Result<TrackedTensor> {
    let site = Site::caller();
    if let Some(error) = x.failure() {
        return Err(error.clone().or_at(site));
    }
    if !is_float(x.dtype()) {
        return Err(Error::NotDifferentiable { dtype: x.dtype(), at: At::from(site) });
    }
    let n = x.elem_count();
    if n == 0 {
        return Ok(x.clone());
    }
    let second = |v: &TrackedTensor| {
        let mut found = derivatives(&f, x, v, 2)?;
        match found.pop() {
            Some(second) if second.elem_count() == 1 => Ok(second),
            Some(second) => Err(Error::NonScalarTarget { shape: *second.shape(), at: At::from(site) }),
            None => Err(Error::internal("hessian_diagonal", "no derivative came back")),
        }
    };
    let mut parts = Vec::new();
    for start in (0..n).step_by(CHUNK) {
        let axes = units(start, CHUNK.min(n - start), n, x.shape(), x.dtype())?;
        parts.push(vmap(second, &axes, 0).map_err(|e| e.or_at(site))?);
    }
    reshape(&joined(parts, site)?, x.shape())
}
