//! Fisher information of a model: true by sampling, or empirical.

use super::likelihood::Likelihood;
use super::recorded::JacobianOperator;
use crate::operators::{DenseMatrix, LinearOperator};
use crate::ravel::ParameterLayout;
use crate::vmap;
use autograd_core::algebra::{add, narrow, scale};
use autograd_core::{DType, Error, Result, Site, TrackedTensor, Tree};
use autograd_ops::{TensorAutograd, random};
use autograd_tape::GradientTape;
use std::fmt;

/// Examples whose gradients are held in memory at once.
const CHUNK: usize = 64;

/// A model as a function of the leaves of its parameters, and of inputs.
type Model<'a> = Box<dyn Fn(&[TrackedTensor], &TrackedTensor) -> Result<TrackedTensor> + 'a>;

/// F = mean over examples of E[g·gᵀ], where g = ∂ ln p(y | x)/∂θ.
///
/// [`sampled`](Self::sampled) draws y from the model itself, which is the true Fisher information;
/// [`empirical`](Self::empirical) takes the data's targets, which is another matrix (Kunstner,
/// Balles and Hennig, NeurIPS 2019). For the expectation itself, without sampling, take
/// [`GaussNewton`](super::GaussNewton) with [`Likelihood::negative_log`] as the loss.
///
/// A product is F·v = mean Jᵀ(s·⟨s, J·v⟩) with the scores s at the outputs: the model runs once,
/// and no gradient of a single example is formed.
pub struct Fisher<'a> {
    model: Model<'a>,
    parameters: Vec<TrackedTensor>,
    inputs: TrackedTensor,
    jacobian: JacobianOperator,
    examples: usize,
    /// The scores of each sample, examples × outputs of one.
    scores: Vec<TrackedTensor>,
}

impl fmt::Debug for Fisher<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (examples, samples) = (self.examples, self.scores.len());
        f.debug_struct("Fisher")
            .field("examples", &examples)
            .field("samples", &samples)
            .finish_non_exhaustive()
    }
}

impl<'a> Fisher<'a> {
    /// The true Fisher information, estimated with `samples` targets for each example that are
    /// drawn from the model's own distribution. `model` takes parameters and a batch of inputs,
    /// whose first dimension is the examples, as is that of its outputs; examples must not depend
    /// on one another.
    ///
    /// # Errors
    /// As [`JacobianOperator::new`]; [`Error::InvalidArgument`] for no samples; [`Error::Shape`]
    /// where outputs do not fit the likelihood.
    #[track_caller]
    pub fn sampled<P>(
        model: impl Fn(&P::Owned, &TrackedTensor) -> Result<TrackedTensor> + 'a,
        parameters: &P,
        inputs: &TrackedTensor,
        likelihood: Likelihood,
        samples: usize,
        key: &TrackedTensor,
    ) -> Result<Self>
    where
        P: Tree + ?Sized,
        P::Owned: 'a,
    {
        let site = Site::caller();
        if samples == 0 {
            return Err(Error::argument("fisher", "no samples were asked for").or_at(site));
        }
        let mut made = Self::new(model, parameters, inputs, likelihood, site)?;
        let outputs = made.jacobian.value();
        for key in random::split(key, samples)? {
            let targets = likelihood.sample(&outputs, &key)?;
            made.scores.push(likelihood.score(&outputs, &targets)?.reshape((made.examples as isize, ()))?);
        }
        Ok(made)
    }

    /// The empirical Fisher matrix: the gradients' second moment at the data's own targets.
    ///
    /// # Errors
    /// As [`sampled`](Self::sampled); targets that do not fit the outputs.
    #[track_caller]
    pub fn empirical<P>(
        model: impl Fn(&P::Owned, &TrackedTensor) -> Result<TrackedTensor> + 'a,
        parameters: &P,
        inputs: &TrackedTensor,
        likelihood: Likelihood,
        targets: &TrackedTensor,
    ) -> Result<Self>
    where
        P: Tree + ?Sized,
        P::Owned: 'a,
    {
        let mut made = Self::new(model, parameters, inputs, likelihood, Site::caller())?;
        let outputs = made.jacobian.value();
        let scores = likelihood.score(&outputs, targets)?;
        if scores.shape() != outputs.shape() {
            let shapes = [*outputs.shape(), *targets.shape()];
            return Err(
                Error::shape("fisher", &shapes, "the targets do not fit the outputs").or_at(Site::caller())
            );
        }
        made.scores.push(scores.reshape((made.examples as isize, ()))?);
        Ok(made)
    }

    fn new<P>(
        model: impl Fn(&P::Owned, &TrackedTensor) -> Result<TrackedTensor> + 'a,
        parameters: &P,
        inputs: &TrackedTensor,
        likelihood: Likelihood,
        site: Site,
    ) -> Result<Self>
    where
        P: Tree + ?Sized,
        P::Owned: 'a,
    {
        let jacobian = JacobianOperator::new(|p| model(p, inputs), parameters).map_err(|e| e.or_at(site))?;
        let examples = likelihood.examples(&jacobian.value()).map_err(|e| e.or_at(site))?;
        if inputs.dims().first() != Some(&examples) {
            let shapes = [*inputs.shape(), *jacobian.value().shape()];
            let reason = "inputs and outputs must have the examples in front";
            return Err(Error::shape("fisher", &shapes, reason).or_at(site));
        }
        let template = parameters.rebuild(&mut |p| Ok(p.clone()))?;
        let parameters = template.leaves().into_iter().cloned().collect();
        let model: Model<'a> =
            Box::new(move |leaves, x| model(&template.with_leaves(leaves.iter().cloned())?, x));
        Ok(Self { model, parameters, inputs: inputs.clone(), jacobian, examples, scores: Vec::new() })
    }

    /// How parameters become vectors.
    pub fn layout(&self) -> &ParameterLayout {
        self.jacobian.layout()
    }

    /// The model's outputs.
    pub fn outputs(&self) -> TrackedTensor {
        self.jacobian.value()
    }

    /// The diagonal, as a vector of parameters: the mean of the squares of single gradients.
    ///
    /// # Errors
    /// [`Error::UnsupportedMode`] for an op that cannot be batched.
    pub fn diagonal(&self) -> Result<TrackedTensor> {
        let mut sums: Option<Vec<TrackedTensor>> = None;
        self.for_each_chunk(|gradients| {
            let squares = gradients.iter().map(|g| g.sqr()?.sum_dim(0)).collect::<Result<Vec<_>>>()?;
            sums = Some(join(sums.take(), squares)?);
            Ok(())
        })?;
        let sums = sums.unwrap_or_default();
        scale(&self.layout().flatten(&sums)?, 1.0 / self.count())
    }

    /// For each parameter its own block, as a matrix over its elements in row-major order: what
    /// is left when parameters are taken as independent of one another.
    ///
    /// # Errors
    /// As [`diagonal`](Self::diagonal).
    pub fn blocks(&self) -> Result<Vec<DenseMatrix>> {
        let mut sums: Option<Vec<TrackedTensor>> = None;
        self.for_each_chunk(|gradients| {
            let products = gradients.iter().map(|g| {
                let rows = g.reshape((g.dims()[0] as isize, ()))?;
                rows.t()?.matmul(&rows)
            });
            sums = Some(join(sums.take(), products.collect::<Result<Vec<_>>>()?)?);
            Ok(())
        })?;
        let sums = sums.unwrap_or_default();
        sums.iter().map(|sum| DenseMatrix::new(scale(sum, 1.0 / self.count())?)).collect()
    }

    /// How many gradients the mean is of.
    fn count(&self) -> f64 {
        (self.examples * self.scores.len()) as f64
    }

    /// The gradients of single examples with respect to each parameter, the examples in front, a
    /// chunk of examples at a time.
    fn for_each_chunk(&self, mut f: impl FnMut(Vec<TrackedTensor>) -> Result<()>) -> Result<()> {
        for scores in &self.scores {
            let mut start = 0;
            while start < self.examples {
                let count = CHUNK.min(self.examples - start);
                let (x, s) = (narrow(&self.inputs, 0, start, count)?, narrow(scores, 0, start, count)?);
                let single = |(x, s): &(TrackedTensor, TrackedTensor)| {
                    let tape = GradientTape::new();
                    let parameters: Vec<TrackedTensor> =
                        self.parameters.iter().map(|p| tape.try_variable(p)).collect::<Result<_>>()?;
                    let output = (self.model)(&parameters, &x.unsqueeze(0)?)?;
                    let seed = s.reshape(output.dims())?;
                    tape.gradient_with(&[&output], &[&seed], &parameters.iter().collect::<Vec<_>>())
                };
                f(vmap(single, &(x, s), 0)?)?;
                start += count;
            }
        }
        Ok(())
    }
}

/// Sums of sums.
fn join(sums: Option<Vec<TrackedTensor>>, next: Vec<TrackedTensor>) -> Result<Vec<TrackedTensor>> {
    match sums {
        None => Ok(next),
        Some(sums) => sums.iter().zip(&next).map(|(a, b)| add(a, b)).collect(),
    }
}

impl LinearOperator for Fisher<'_> {
    fn rows(&self) -> usize {
        self.jacobian.columns()
    }

    fn columns(&self) -> usize {
        self.jacobian.columns()
    }

    fn dtype(&self) -> DType {
        self.jacobian.dtype()
    }

    fn matvec(&self, x: &TrackedTensor) -> Result<TrackedTensor> {
        let outputs = self.jacobian.matvec(x)?.reshape((self.examples as isize, ()))?;
        let mut sum: Option<TrackedTensor> = None;
        for scores in &self.scores {
            // Along the score of each example, by as much as the output moves along it.
            let along = scores.mul(&outputs)?.sum_keepdim(1)?;
            let part = scores.mul(&along)?;
            sum = Some(match sum {
                None => part,
                Some(sum) => add(&sum, &part)?,
            });
        }
        let sum = sum.ok_or_else(|| Error::internal("fisher", "it has no samples"))?;
        self.jacobian.adjoint(&scale(&sum.flatten_all()?, 1.0 / self.count())?)
    }

    fn adjoint(&self, y: &TrackedTensor) -> Result<TrackedTensor> {
        self.matvec(y)
    }
}
