//! What a model's outputs say of its targets: the distributions that Fisher information is about.

use autograd_core::{DType, Error, Result, Site, TrackedTensor};
use autograd_ops::{TensorAutograd, random};

/// A distribution p(y | z) of targets y given the outputs z of a model, whose first dimension is
/// the examples.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Likelihood {
    /// Classes with the logits z of shape N×C; targets are N indices.
    Categorical,
    /// Independent yes and no with the logits z; targets are 0 or 1 in z's shape.
    Bernoulli,
    /// Independent normal numbers with the means z; targets have z's shape.
    Gaussian {
        /// The deviation σ.
        deviation: f64,
    },
}

impl Likelihood {
    /// −Σ ln p(y | z), summed over examples and divided by their number.
    ///
    /// # Errors
    /// Outputs or targets of another shape or type.
    #[track_caller]
    pub fn negative_log(&self, outputs: &TrackedTensor, targets: &TrackedTensor) -> Result<TrackedTensor> {
        let n = self.examples(outputs)? as f64;
        match self {
            Self::Categorical => {
                let chosen = outputs.log_softmax(1)?.gather(targets.unsqueeze(1)?, 1)?;
                chosen.sum()?.mul(-1.0 / n)
            }
            // softplus(z) − y·z.
            Self::Bernoulli => outputs.softplus()?.sub(&targets.mul(outputs)?)?.sum()?.mul(1.0 / n),
            Self::Gaussian { deviation } => {
                let normalizer = (deviation * (2.0 * std::f64::consts::PI).sqrt()).ln();
                let numbers = outputs.elem_count() as f64;
                let squares = outputs.sub(targets)?.sqr()?.sum()?.mul(0.5 / (deviation * deviation))?;
                squares.add(normalizer * numbers)?.mul(1.0 / n)
            }
        }
    }

    /// Targets drawn from p(y | z).
    ///
    /// # Errors
    /// Outputs of another shape or type; a deviation that is not positive.
    #[track_caller]
    pub fn sample(&self, outputs: &TrackedTensor, key: &TrackedTensor) -> Result<TrackedTensor> {
        self.examples(outputs)?;
        match self {
            // The largest of the logits with Gumbel noise, −ln(−ln u).
            Self::Categorical => {
                let uniform = random::uniform(key, outputs.dims(), DType::F64)?;
                // 0 has no logarithm: the smallest number that uniform can give stands for it.
                const SMALLEST: f64 = 1.0 / (1u64 << 53) as f64;
                let gumbel = uniform.maximum(SMALLEST)?.log()?.neg()?.log()?.neg()?;
                outputs.to_dtype(DType::F64)?.add(&gumbel)?.argmax(1)
            }
            Self::Bernoulli => {
                let uniform = random::uniform(key, outputs.dims(), DType::F64)?;
                uniform.lt(&outputs.to_dtype(DType::F64)?.sigmoid()?)?.to_dtype(outputs.dtype())
            }
            Self::Gaussian { deviation } => {
                outputs.add(&random::normal(key, outputs.dims(), outputs.dtype())?.mul(*deviation)?)
            }
        }
    }

    /// ∂ ln p(y | z)/∂z: the score of each example with respect to its output.
    ///
    /// # Errors
    /// Outputs or targets of another shape or type.
    #[track_caller]
    pub fn score(&self, outputs: &TrackedTensor, targets: &TrackedTensor) -> Result<TrackedTensor> {
        self.examples(outputs)?;
        match self {
            Self::Categorical => {
                let classes = outputs.dims()[1];
                let numbers: Vec<i64> = (0..classes as i64).collect();
                let numbers = TrackedTensor::from_vec(numbers, &[1, classes])?;
                let chosen = targets.to_dtype(DType::I64)?.unsqueeze(1)?.eq(&numbers)?;
                chosen.to_dtype(outputs.dtype())?.sub(&outputs.softmax(1)?)
            }
            Self::Bernoulli => targets.sub(&outputs.sigmoid()?),
            Self::Gaussian { deviation } => targets.sub(outputs)?.mul(1.0 / (deviation * deviation)),
        }
    }

    /// How many examples there are.
    #[track_caller]
    pub(super) fn examples(&self, outputs: &TrackedTensor) -> Result<usize> {
        let site = Site::caller();
        let wrong = |reason: &str| Err(Error::shape("likelihood", &[*outputs.shape()], reason).or_at(site));
        match self {
            Self::Gaussian { deviation } if !(*deviation > 0.0 && deviation.is_finite()) => {
                let reason = format!("a deviation of {deviation} is not positive");
                return Err(Error::argument("likelihood", reason).or_at(site));
            }
            Self::Categorical if outputs.rank() != 2 => return wrong("logits of classes are N×C"),
            Self::Categorical | Self::Bernoulli | Self::Gaussian { .. } => {}
        }
        match outputs.dims().first() {
            Some(&n) if n > 0 => Ok(n),
            _ => wrong("there are no examples: outputs have the shape N×.."),
        }
    }
}
