//! Second derivatives: Hessians and products with them.

use crate::jacobian::Jacobian;
use crate::reverse::{fits, grad, variables, zeros};
use autograd_core::algebra::{add, mul, sum_to};
use autograd_core::{At, Error, Result, Shape, Site, TrackedTensor, Tree};
use autograd_forward::jvp;
use autograd_tape::GradientTape;

/// The Hessian of a scalar function of one value, by forward over reverse: shape x ++ x. For a
/// model of many values see [`ravel`](crate::ravel), and [`hvp`] where products with the Hessian
/// are enough.
///
/// # Errors
/// As [`grad`], [`Error::InvalidArgument`] for a value of more than four dimensions.
///
/// ```
/// use autograd_core::{Result, TrackedTensor};
/// use autograd_ops::TensorAutograd;
/// use autograd_transforms::hessian;
///
/// fn main() -> Result<()> {
///     // xᵀAx has the Hessian A + Aᵀ.
///     let a = TrackedTensor::from_vec(vec![1f64, 2., 3., 4.], &[2, 2])?;
///     let x = TrackedTensor::from_vec(vec![1f64, 1.], &[2])?;
///     let h = hessian(|x| x.dot(a.mv(x)?), &x)?;
///     assert_eq!(h.to_vec2::<f64>()?, [[2., 5.], [5., 8.]]);
///     Ok(())
/// }
/// ```
#[track_caller]
pub fn hessian(
    f: impl Fn(&TrackedTensor) -> Result<TrackedTensor>,
    x: &TrackedTensor,
) -> Result<TrackedTensor> {
    Jacobian::forward().of(|x| grad(&f, x), x)
}

/// The mixed partial derivatives ∂²f/∂x∂y of a scalar function of two values: shape x ++ y.
///
/// # Errors
/// As [`hessian`].
///
/// ```
/// use autograd_core::{Result, TrackedTensor};
/// use autograd_ops::TensorAutograd;
/// use autograd_transforms::mixed_partials;
///
/// fn main() -> Result<()> {
///     let (x, y) = (TrackedTensor::scalar(2.0), TrackedTensor::scalar(3.0));
///     let d = mixed_partials(|x, y| x.sqr()?.mul(y), &x, &y)?;
///     assert_eq!(d.to_scalar::<f64>()?, 4.0);
///     Ok(())
/// }
/// ```
#[track_caller]
pub fn mixed_partials(
    f: impl Fn(&TrackedTensor, &TrackedTensor) -> Result<TrackedTensor>,
    x: &TrackedTensor,
    y: &TrackedTensor,
) -> Result<TrackedTensor> {
    Jacobian::forward().of(|y| grad(|x| f(x, y), x), y)
}

/// H·v, the Hessian of a scalar function times a direction, by reverse over forward: a little
/// more than twice the work of a gradient, and no memory for H.
///
/// # Errors
/// As [`grad`]; [`Error::TreeMismatch`] or [`Error::Mismatch`] where `v` does not fit the primals.
///
/// ```
/// use autograd_core::{Result, TrackedTensor};
/// use autograd_ops::TensorAutograd;
/// use autograd_transforms::hvp;
///
/// fn main() -> Result<()> {
///     let x = TrackedTensor::from_vec(vec![1f64, 2.], &[2])?;
///     let v = TrackedTensor::from_vec(vec![1f64, 1.], &[2])?;
///     let hv = hvp(|x| x.pow(3)?.sum(), &x, &v)?;
///     assert_eq!(hv.to_vec1::<f64>()?, [6., 12.]);
///     Ok(())
/// }
/// ```
#[track_caller]
pub fn hvp<P, V>(f: impl FnOnce(&P::Owned) -> Result<TrackedTensor>, primals: &P, v: &V) -> Result<P::Owned>
where
    P: Tree + ?Sized,
    V: Tree<Owned = P::Owned> + ?Sized,
{
    let site = Site::caller();
    fits("the direction", v, primals, site)?;
    // The tape sees the slope alone, so the gradient itself, which forward over reverse would make
    // on the way, costs nothing: for an mlp a sixth of the work.
    grad(|x| Ok(jvp(f, x, v)?.1), primals)
}

/// vᵀ·H by reverse over reverse: equal to H·v where f is twice continuously differentiable, and
/// the way for a function that has no forward mode.
///
/// # Errors
/// As [`hvp`].
///
/// ```
/// use autograd_core::{Result, TrackedTensor};
/// use autograd_ops::TensorAutograd;
/// use autograd_transforms::vhp;
///
/// fn main() -> Result<()> {
///     let x = TrackedTensor::from_vec(vec![1f64, 2.], &[2])?;
///     let v = TrackedTensor::from_vec(vec![1f64, 1.], &[2])?;
///     let vh = vhp(|x| x.pow(3)?.sum(), &x, &v)?;
///     assert_eq!(vh.to_vec1::<f64>()?, [6., 12.]);
///     Ok(())
/// }
/// ```
#[track_caller]
pub fn vhp<P, V>(f: impl FnOnce(&P::Owned) -> Result<TrackedTensor>, primals: &P, v: &V) -> Result<P::Owned>
where
    P: Tree + ?Sized,
    V: Tree<Owned = P::Owned> + ?Sized,
{
    let site = Site::caller();
    fits("the direction", v, primals, site)?;
    let tape = GradientTape::new().persistent();
    let variables = variables(&tape, primals, site)?;
    let y = f(&variables)?;
    if y.elem_count() != 1 {
        return Err(Error::NonScalarTarget { shape: *y.shape(), at: At::from(site) });
    }
    if !tape.watches(&y) {
        return zeros(primals);
    }
    let sources = variables.leaves();
    let slopes = tape.gradient(&y, &sources).map_err(|e| e.or_at(site))?;
    let moving: Vec<(&TrackedTensor, &TrackedTensor)> =
        slopes.iter().zip(v.leaves()).filter(|(slope, _)| tape.watches(slope)).collect();
    if moving.is_empty() {
        return zeros(primals);
    }
    let (targets, seeds): (Vec<_>, Vec<_>) = moving.into_iter().unzip();
    let found = tape.gradient_with_detached(&targets, &seeds, &sources).map_err(|e| e.or_at(site))?;
    primals.with_leaves(found)
}

/// ⟨a, b⟩ over all leaves of two trees of one structure, rank 0.
///
/// # Errors
/// [`Error::TreeMismatch`] or [`Error::Mismatch`] where they do not fit;
/// [`Error::InvalidArgument`] for trees without leaves.
#[track_caller]
pub fn inner_product<A, B>(a: &A, b: &B) -> Result<TrackedTensor>
where
    A: Tree + ?Sized,
    B: Tree + ?Sized,
{
    let site = Site::caller();
    fits("the second factor", b, a, site)?;
    let mut total: Option<TrackedTensor> = None;
    for (a, b) in a.leaves().into_iter().zip(b.leaves()) {
        let part = sum_to(&mul(a, b)?, &Shape::SCALAR)?;
        total = Some(match total {
            Some(total) => add(&total, &part)?,
            None => part,
        });
    }
    total.ok_or_else(|| Error::argument("inner_product", "the trees have no leaves").or_at(site))
}
