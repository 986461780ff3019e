//! The natural gradient, and Kronecker factors collected from a model.

use super::kronecker::KroneckerFactors;
use super::layers::Layers;
use super::likelihood::Likelihood;
use crate::operators::{
    ConjugateGradientOptions, ConjugateGradientSolution, Damped, LinearOperator, conjugate_gradient,
};
use autograd_core::{Error, Result, Site, TrackedTensor, Tree};
use autograd_tape::GradientTape;

/// (F + λ)⁻¹·∇: the direction of steepest descent in the space of distributions (Amari, "Natural
/// gradient works efficiently in learning", Neural Computation 10, 1998), by conjugate gradients
/// on products with F alone. F is a [`Fisher`](super::Fisher), a
/// [`GaussNewton`](super::GaussNewton), or any symmetric positive semidefinite operator.
///
/// # Errors
/// As [`conjugate_gradient`]; [`Error::InvalidArgument`] for a negative damping.
#[track_caller]
pub fn natural_gradient(
    fisher: &dyn LinearOperator,
    gradient: &TrackedTensor,
    damping: f64,
    options: &ConjugateGradientOptions,
) -> Result<ConjugateGradientSolution> {
    conjugate_gradient(&Damped::new(fisher, damping)?, gradient, options)
}

/// The Kronecker factors of a model's layers, in the order in which it calls them: targets are
/// drawn from the model's own distribution, and gradients flow back to the outputs of the layers.
///
/// # Errors
/// What the model reports; [`Error::InvalidArgument`] where it called no layer.
///
/// ```
/// use autograd_core::{Result, TrackedTensor};
/// use autograd_ops::{TensorAutograd, random};
/// use autograd_transforms::curvature::{Layers, Likelihood, kronecker_factors};
///
/// fn main() -> Result<()> {
///     let x = TrackedTensor::from_vec(vec![1f64, 0., 0., 1., 1., 1.], &[3, 2])?;
///     let w = TrackedTensor::from_vec(vec![0.5f64, -0.5, 0.1, 0.2, 0.3, 0.4], &[3, 2])?;
///     let b = TrackedTensor::from_vec(vec![0f64; 3], &[3])?;
///     type Parameters = (TrackedTensor, TrackedTensor);
///     let model = |(w, b): &Parameters, layers: &mut Layers| layers.linear(&x, w, Some(b));
///     let factors = kronecker_factors(model, &(&w, &b), Likelihood::Categorical, &random::key(1))?;
///     let (dw, db) = factors[0].solve(&w, Some(&b), 0.01)?;
///     assert_eq!((dw.dims(), db.map(|db| db.dims().to_vec())), (&[3, 2][..], Some(vec![3])));
///     Ok(())
/// }
/// ```
#[track_caller]
pub fn kronecker_factors<P: Tree + ?Sized>(
    model: impl FnOnce(&P::Owned, &mut Layers) -> Result<TrackedTensor>,
    parameters: &P,
    likelihood: Likelihood,
    key: &TrackedTensor,
) -> Result<Vec<KroneckerFactors>> {
    let site = Site::caller();
    let tape = GradientTape::new();
    let parameters = parameters.rebuild(&mut |p| tape.try_variable(p))?;
    let mut layers = Layers::default();
    let outputs = model(&parameters, &mut layers)?;
    if layers.seen.is_empty() {
        let reason = "the model called none of the layers that it was given";
        return Err(Error::argument("kronecker_factors", reason).or_at(site));
    }
    let plain = tape.unwatched(&outputs);
    // The scores of all examples at once: layers see the gradient of each example in its row.
    let score = likelihood.score(&plain, &likelihood.sample(&plain, key)?)?;
    let sources: Vec<&TrackedTensor> = layers.seen.iter().map(|seen| &seen.output).collect();
    let gradients = tape.gradient_with(&[&outputs], &[&score], &sources)?;
    layers.seen.iter().zip(&gradients).map(|(seen, gradient)| seen.factors(gradient)).collect()
}
