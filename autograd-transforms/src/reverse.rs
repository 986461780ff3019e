//! Reverse mode on closures.

use autograd_core::algebra::zeros_like;
use autograd_core::{At, Error, Result, Site, TrackedTensor, Tree, same_structure};
use autograd_tape::GradientTape;

/// The gradient of a scalar function with respect to its argument: a value, a list, a tuple, a
/// map or a struct of values, whose structure the gradient has.
///
/// # Errors
/// [`Error::NonScalarTarget`] where `f` gives more than one element,
/// [`Error::NotDifferentiable`] for integers among the primals, and what `f` reports.
///
/// ```
/// use autograd_core::{Result, TrackedTensor};
/// use autograd_ops::TensorAutograd;
/// use autograd_transforms::grad;
///
/// fn main() -> Result<()> {
///     let (w, b) = (TrackedTensor::scalar(2.0), TrackedTensor::scalar(1.0));
///     let (dw, db) = grad(|(w, b)| w.mul(3.0)?.add(b)?.sqr(), &(w, b))?;
///     assert_eq!((dw.to_scalar::<f64>()?, db.to_scalar::<f64>()?), (42.0, 14.0));
///     Ok(())
/// }
/// ```
#[track_caller]
pub fn grad<P: Tree + ?Sized>(
    f: impl FnOnce(&P::Owned) -> Result<TrackedTensor>,
    primals: &P,
) -> Result<P::Owned> {
    Ok(value_and_grad(f, primals)?.1)
}

/// The value and the gradient of a scalar function.
///
/// # Errors
/// As [`grad`].
#[track_caller]
pub fn value_and_grad<P: Tree + ?Sized>(
    f: impl FnOnce(&P::Owned) -> Result<TrackedTensor>,
    primals: &P,
) -> Result<(TrackedTensor, P::Owned)> {
    let ((y, ()), gradient) = value_and_grad_aux(|x| Ok((f(x)?, ())), primals)?;
    Ok((y, gradient))
}

/// The gradient of a scalar function that gives something else beside: (gradient, aux). What is
/// beside is not differentiated: predictions, running statistics.
///
/// # Errors
/// As [`grad`].
#[track_caller]
pub fn grad_aux<P, A>(
    f: impl FnOnce(&P::Owned) -> Result<(TrackedTensor, A)>,
    primals: &P,
) -> Result<(P::Owned, A)>
where
    P: Tree + ?Sized,
    A: Tree<Owned = A>,
{
    let ((_, aux), gradient) = value_and_grad_aux(f, primals)?;
    Ok((gradient, aux))
}

/// The value and the gradient of a scalar function that gives something else beside:
/// ((value, aux), gradient).
///
/// # Errors
/// As [`grad`].
///
/// ```
/// use autograd_core::{Result, TrackedTensor};
/// use autograd_ops::TensorAutograd;
/// use autograd_transforms::value_and_grad_aux;
///
/// fn main() -> Result<()> {
///     let x = TrackedTensor::from_vec(vec![1f64, 2.], &[2])?;
///     let f = |x: &TrackedTensor| {
///         let squares = x.sqr()?;
///         Ok((squares.sum()?, squares))
///     };
///     let ((y, squares), dx) = value_and_grad_aux(f, &x)?;
///     assert_eq!(y.to_scalar::<f64>()?, 5.0);
///     assert_eq!(squares.to_vec1::<f64>()?, [1.0, 4.0]);
///     assert_eq!(dx.to_vec1::<f64>()?, [2.0, 4.0]);
///     Ok(())
/// }
/// ```
#[track_caller]
pub fn value_and_grad_aux<P, A>(
    f: impl FnOnce(&P::Owned) -> Result<(TrackedTensor, A)>,
    primals: &P,
) -> Result<((TrackedTensor, A), P::Owned)>
where
    P: Tree + ?Sized,
    A: Tree<Owned = A>,
{
    let site = Site::caller();
    let tape = GradientTape::new();
    let variables = variables(&tape, primals, site)?;
    let (y, aux) = f(&variables)?;
    if let Some(error) = y.failure() {
        return Err(error.clone().or_at(site));
    }
    if y.elem_count() != 1 {
        return Err(Error::NonScalarTarget { shape: *y.shape(), at: At::from(site) });
    }
    let value = tape.unwatched(&y);
    let aux = aux.rebuild(&mut |x| Ok(tape.unwatched(x)))?;
    let gradient = if tape.watches(&y) {
        let pulled = tape.gradient(&y, &variables.leaves()).map_err(|e| e.or_at(site))?;
        primals.with_leaves(pulled)?
    } else {
        zeros(primals)?
    };
    Ok(((value, aux), gradient))
}

/// f(x) and vᵀJ: the outputs, and the cotangent of each primal.
///
/// # Errors
/// [`Error::TreeMismatch`] where the cotangents have not the outputs' structure,
/// [`Error::Mismatch`] where one has not its output's shape and type,
/// [`Error::NotDifferentiable`] for integers among the primals, and what `f` reports.
///
/// ```
/// use autograd_core::{Result, TrackedTensor};
/// use autograd_ops::TensorAutograd;
/// use autograd_transforms::vjp;
///
/// fn main() -> Result<()> {
///     let x = TrackedTensor::from_vec(vec![1f64, 2.], &[2])?;
///     let ct = TrackedTensor::from_vec(vec![1f64, 10.], &[2])?;
///     let (y, dx) = vjp(|x| x.sqr(), &x, &ct)?;
///     assert_eq!(y.to_vec1::<f64>()?, [1.0, 4.0]);
///     assert_eq!(dx.to_vec1::<f64>()?, [2.0, 40.0]);
///     Ok(())
/// }
/// ```
#[track_caller]
pub fn vjp<P, C, O>(
    f: impl FnOnce(&P::Owned) -> Result<O>,
    primals: &P,
    cotangents: &C,
) -> Result<(O, P::Owned)>
where
    P: Tree + ?Sized,
    C: Tree<Owned = O> + ?Sized,
    O: Tree<Owned = O>,
{
    let site = Site::caller();
    let tape = GradientTape::new();
    let variables = variables(&tape, primals, site)?;
    let outputs = f(&variables)?;
    let ys = outputs.rebuild(&mut |y| Ok(tape.unwatched(y)))?;
    let pulled = pull(&tape, &outputs, cotangents, &variables, site)?;
    let gradient = match pulled {
        Some(pulled) => primals.with_leaves(pulled)?,
        None => zeros(primals)?,
    };
    Ok((ys, gradient))
}

/// The primals as variables of a tape.
pub(crate) fn variables<P: Tree + ?Sized>(tape: &GradientTape, primals: &P, site: Site) -> Result<P::Owned> {
    primals.rebuild(&mut |x| {
        if let Some(error) = x.failure() {
            return Err(error.clone().or_at(site));
        }
        if !autograd_core::is_float(x.dtype()) {
            return Err(Error::NotDifferentiable { dtype: x.dtype(), at: At::from(site) });
        }
        tape.try_variable(x)
    })
}

/// The cotangents of the variables, checked against the outputs first; `None` where no output
/// depends on any of them.
pub(crate) fn pull<O, C, V>(
    tape: &GradientTape,
    outputs: &O,
    cotangents: &C,
    variables: &V,
    site: Site,
) -> Result<Option<Vec<TrackedTensor>>>
where
    O: Tree + ?Sized,
    C: Tree + ?Sized,
    V: Tree + ?Sized,
{
    let (targets, seeds) = (outputs.leaves(), cotangents.leaves());
    fits("the cotangents", cotangents, outputs, site)?;
    // An output that does not depend on the primals has no place on the tape.
    let (targets, seeds): (Vec<_>, Vec<_>) =
        targets.into_iter().zip(seeds).filter(|(y, _)| tape.watches(y)).unzip();
    if targets.is_empty() {
        return Ok(None);
    }
    let sources = variables.leaves();
    tape.gradient_with_detached(&targets, &seeds, &sources).map(Some).map_err(|e| e.or_at(site))
}

/// Whether a tree has the structure of another one, and each leaf the shape and type.
pub(crate) fn fits<A, B>(what: &'static str, got: &A, want: &B, site: Site) -> Result<()>
where
    A: Tree + ?Sized,
    B: Tree + ?Sized,
{
    same_structure(what, got, want, site)?;
    for (a, b) in got.leaves().into_iter().zip(want.leaves()) {
        if let Some(error) = a.failure().or_else(|| b.failure()) {
            return Err(error.clone().or_at(site));
        }
        if a.shape() != b.shape() || a.dtype() != b.dtype() {
            let (got, want) = (Box::new(a.meta()), Box::new(b.meta()));
            return Err(Error::Mismatch { what, got, want, at: At::from(site) });
        }
    }
    Ok(())
}

/// Zeros of a tree's shapes.
pub(crate) fn zeros<P: Tree + ?Sized>(primals: &P) -> Result<P::Owned> {
    primals.rebuild(&mut |x| zeros_like(x))
}
