//! What a method gives, and what all methods have in common.

use crate::function::{Function, numbers};
use crate::target::Target;
use autograd_core::{Error, Result, TrackedTensor};

/// An attribution, with what certifies it.
#[derive(Clone, Debug)]
pub struct Attribution {
    /// For each input, what each of its elements contributes.
    pub values: Vec<TrackedTensor>,
    /// For each example, the sum of its contributions less the change of the output that they
    /// should add up to; `None` where a method makes no such promise.
    pub delta: Option<Vec<f64>>,
    /// For a sampled method, the standard error of each contribution.
    pub errors: Option<Vec<TrackedTensor>>,
    /// How often each example was evaluated, or differentiated.
    pub steps: usize,
}

impl Attribution {
    /// Contributions without a certificate.
    pub(crate) fn plain(values: Vec<TrackedTensor>, steps: usize) -> Self {
        Self { values, delta: None, errors: None, steps }
    }

    /// The contributions of the first input.
    pub fn value(&self) -> &TrackedTensor {
        &self.values[0]
    }

    /// The greatest |delta| among the examples; 0 where the method makes no promise.
    pub fn worst_delta(&self) -> f64 {
        self.delta.iter().flatten().fold(0.0, |worst, delta| f64::max(worst, delta.abs()))
    }
}

/// A way to attribute an output to the inputs.
pub trait Method {
    /// The method's name, in errors and captions.
    fn name(&self) -> &'static str;

    /// The contributions of the inputs' elements to the target.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for inputs, baselines or targets that do not fit,
    /// [`Error::Cancelled`] where the progress callback says so, and whatever `f` reports.
    #[track_caller]
    fn attribute(&self, f: &Function<'_>, inputs: &[TrackedTensor], target: &Target) -> Result<Attribution>;

    /// The same for a function of one value.
    ///
    /// # Errors
    /// As [`attribute`](Self::attribute).
    ///
    /// ```
    /// use autograd_core::{Result, TrackedTensor};
    /// use autograd_interpret::{IntegratedGradients, Method};
    /// use autograd_ops::TensorAutograd;
    ///
    /// fn main() -> Result<()> {
    ///     let weights = TrackedTensor::from_vec(vec![1.0, 0.0, 2.0, -1.0], &[2, 2])?;
    ///     let x = TrackedTensor::from_vec(vec![3.0, 4.0], &[1, 2])?;
    ///     let found = IntegratedGradients::new().explain(|x| x.sqr()?.matmul(&weights), &x, 0)?;
    ///     assert!((found.value().to_flat::<f64>()?[1] - 32.0).abs() < 1e-12);
    ///     assert!(found.worst_delta() < 1e-12);
    ///     Ok(())
    /// }
    /// ```
    #[track_caller]
    fn explain(
        &self,
        f: impl Fn(&TrackedTensor) -> Result<TrackedTensor>,
        x: &TrackedTensor,
        target: impl Into<Target>,
    ) -> Result<Attribution>
    where
        Self: Sized,
    {
        self.attribute(&|inputs: &[TrackedTensor]| f(&inputs[0]), std::slice::from_ref(x), &target.into())
    }
}

impl<M: Method + ?Sized> Method for &M {
    fn name(&self) -> &'static str {
        (**self).name()
    }

    fn attribute(&self, f: &Function<'_>, inputs: &[TrackedTensor], target: &Target) -> Result<Attribution> {
        (**self).attribute(f, inputs, target)
    }
}

impl<M: Method + ?Sized> Method for Box<M> {
    fn name(&self) -> &'static str {
        (**self).name()
    }

    fn attribute(&self, f: &Function<'_>, inputs: &[TrackedTensor], target: &Target) -> Result<Attribution> {
        (**self).attribute(f, inputs, target)
    }
}

/// The contributions of each example, added up over all inputs.
pub(crate) fn sums(values: &[TrackedTensor], examples: usize) -> Result<Vec<f64>> {
    let mut sums = vec![0.0; examples];
    for value in values {
        let all = numbers(value)?;
        let each = all.len() / examples;
        for (sum, row) in sums.iter_mut().zip(all.chunks(each.max(1))) {
            *sum += row.iter().sum::<f64>();
        }
    }
    Ok(sums)
}

/// Sums less the changes that they should be.
pub(crate) fn deltas(values: &[TrackedTensor], end: &[f64], start: &[f64]) -> Result<Vec<f64>> {
    let sums = sums(values, end.len())?;
    Ok(sums.iter().zip(end).zip(start).map(|((sum, end), start)| sum - (end - start)).collect())
}

/// Numbers that are all finite, or an error that names the first example that is not.
pub(crate) fn finite(op: &'static str, what: &str, numbers: Vec<f64>) -> Result<Vec<f64>> {
    match numbers.iter().position(|y| !y.is_finite()) {
        Some(i) => Err(Error::argument(op, format!("{what} of example {i} is {}", numbers[i]))),
        None => Ok(numbers),
    }
}
