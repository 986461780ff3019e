//! Functions evaluated once and differentiated often: the linear map of a derivative, kept.

use crate::reverse::{fits, pull, variables, zeros};
use autograd_core::algebra::zeros_like;
use autograd_core::{Result, Site, TrackedTensor, Tree};
use autograd_tape::GradientTape;
use std::fmt;

/// The map v ↦ vᵀJ at one point.
#[derive(Debug)]
pub struct Pullback<P, O> {
    tape: GradientTape,
    variables: P,
    outputs: O,
}

/// f(x), and the map v ↦ vᵀJ there: one evaluation for any number of cotangents.
///
/// # Errors
/// As [`vjp`](crate::vjp).
///
/// ```
/// use autograd_core::{Result, TrackedTensor};
/// use autograd_ops::TensorAutograd;
/// use autograd_transforms::pullback;
///
/// fn main() -> Result<()> {
///     let x = TrackedTensor::scalar(3.0);
///     let (_, pull) = pullback(|x| x.sqr(), &x)?;
///     assert_eq!(pull.apply(&TrackedTensor::scalar(1.0))?.to_scalar::<f64>()?, 6.0);
///     assert_eq!(pull.apply(&TrackedTensor::scalar(2.0))?.to_scalar::<f64>()?, 12.0);
///     Ok(())
/// }
/// ```
#[track_caller]
pub fn pullback<P, O>(
    f: impl FnOnce(&P::Owned) -> Result<O>,
    primals: &P,
) -> Result<(O, Pullback<P::Owned, O>)>
where
    P: Tree + ?Sized,
    O: Tree<Owned = O>,
{
    let site = Site::caller();
    let tape = GradientTape::new().persistent();
    let variables = variables(&tape, primals, site)?;
    let outputs = f(&variables)?;
    let ys = outputs.rebuild(&mut |y| Ok(tape.unwatched(y)))?;
    Ok((ys, Pullback { tape, variables, outputs }))
}

impl<P: Tree<Owned = P>, O: Tree<Owned = O>> Pullback<P, O> {
    /// vᵀJ.
    ///
    /// # Errors
    /// [`Error::TreeMismatch`](autograd_core::Error::TreeMismatch) or
    /// [`Error::Mismatch`](autograd_core::Error::Mismatch) where the cotangents do not fit the
    /// outputs; what a rule reports.
    #[track_caller]
    pub fn apply<C: Tree<Owned = O> + ?Sized>(&self, cotangents: &C) -> Result<P> {
        let site = Site::caller();
        match pull(&self.tape, &self.outputs, cotangents, &self.variables, site)? {
            Some(pulled) => self.variables.with_leaves(pulled),
            None => self.variables.rebuild(&mut |x| zeros_like(&self.tape.unwatched(x))),
        }
    }
}

/// The map v ↦ J·v at one point.
pub struct Linearized<P, O> {
    /// Holds u ↦ uᵀJ, recorded; its transpose is the map.
    tape: GradientTape,
    primals: P,
    zeros: O,
    cotangents: O,
    pulled: Option<Vec<TrackedTensor>>,
}

impl<P, O> fmt::Debug for Linearized<P, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Linearized").finish_non_exhaustive()
    }
}

/// f(x), and the map v ↦ J·v there: one evaluation for any number of tangents. The map is kept as
/// the transpose of a recorded backward pass, so that the function itself is not run again.
///
/// # Errors
/// As [`vjp`](crate::vjp); [`Error::UnsupportedMode`](autograd_core::Error::UnsupportedMode) at
/// an op that is differentiable only once.
///
/// ```
/// use autograd_core::{Result, TrackedTensor};
/// use autograd_ops::TensorAutograd;
/// use autograd_transforms::linearize;
///
/// fn main() -> Result<()> {
///     let x = TrackedTensor::scalar(2.0);
///     let (y, linear) = linearize(|x| x.sin()?.sin(), &x)?;
///     assert_eq!(y.to_scalar::<f64>()?, 2f64.sin().sin());
///     let dy = linear.apply(&TrackedTensor::scalar(3.0))?.to_scalar::<f64>()?;
///     assert!((dy - -0.76691736).abs() < 1e-8);
///     Ok(())
/// }
/// ```
#[track_caller]
pub fn linearize<P, O>(
    f: impl FnOnce(&P::Owned) -> Result<O>,
    primals: &P,
) -> Result<(O, Linearized<P::Owned, O>)>
where
    P: Tree + ?Sized,
    O: Tree<Owned = O>,
{
    let site = Site::caller();
    let inner = GradientTape::new();
    let variables = variables(&inner, primals, site)?;
    let outputs = f(&variables)?;
    let ys = outputs.rebuild(&mut |y| Ok(inner.unwatched(y)))?;
    let zeros_of_y = zeros(&ys)?;
    // The cotangents are variables of an outer tape, which records the backward pass. It takes
    // its level after the inner one, and the inner one is spent by then.
    let tape = GradientTape::new().persistent();
    let floats = |y: &TrackedTensor| autograd_core::is_float(y.dtype());
    let cotangents =
        zeros_of_y.rebuild(&mut |y| if floats(y) { tape.try_variable(y) } else { Ok(y.clone()) })?;
    let pulled = pull(&inner, &outputs, &cotangents, &variables, site)?;
    let primals = primals.rebuild(&mut |x| Ok(x.clone()))?;
    Ok((ys, Linearized { tape, primals, zeros: zeros_of_y, cotangents, pulled }))
}

impl<P: Tree<Owned = P>, O: Tree<Owned = O>> Linearized<P, O> {
    /// J·v.
    ///
    /// # Errors
    /// [`Error::TreeMismatch`](autograd_core::Error::TreeMismatch) or
    /// [`Error::Mismatch`](autograd_core::Error::Mismatch) where the tangents do not fit the
    /// primals; what a rule reports.
    #[track_caller]
    pub fn apply<V: Tree<Owned = P> + ?Sized>(&self, tangents: &V) -> Result<O> {
        let site = Site::caller();
        fits("the tangents", tangents, &self.primals, site)?;
        let Some(pulled) = &self.pulled else { return self.zeros.rebuild(&mut |y| Ok(y.clone())) };
        let (targets, seeds): (Vec<_>, Vec<_>) =
            pulled.iter().zip(tangents.leaves()).filter(|(g, _)| self.tape.watches(g)).unzip();
        if targets.is_empty() {
            return self.zeros.rebuild(&mut |y| Ok(y.clone()));
        }
        let sources: Vec<&TrackedTensor> =
            self.cotangents.leaves().into_iter().filter(|u| self.tape.watches(u)).collect();
        let pushed = self.tape.gradient_with_detached(&targets, &seeds, &sources);
        let mut pushed = pushed.map_err(|e| e.or_at(site))?.into_iter();
        self.cotangents.rebuild(&mut |u| match self.tape.watches(u) {
            true => pushed
                .next()
                .ok_or_else(|| autograd_core::Error::internal("linearize", "a tangent is missing")),
            false => Ok(u.clone()),
        })
    }
}
