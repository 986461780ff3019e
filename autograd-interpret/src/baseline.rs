//! What stands for the absence of an input.

use autograd_core::algebra::broadcast_to;
use autograd_core::{Error, Result, TrackedTensor};
use autograd_ops::TensorAutograd;

/// What stands for an input that says nothing.
#[derive(Clone, Debug, Default)]
pub enum Baseline {
    /// Zeros.
    #[default]
    Zero,
    /// This number everywhere.
    Number(f64),
    /// One value for each input, of its shape or one that broadcasts to it.
    Values(Vec<TrackedTensor>),
}

impl From<f64> for Baseline {
    fn from(number: f64) -> Self {
        Self::Number(number)
    }
}

impl From<&TrackedTensor> for Baseline {
    fn from(value: &TrackedTensor) -> Self {
        Self::Values(vec![value.clone()])
    }
}

impl From<TrackedTensor> for Baseline {
    fn from(value: TrackedTensor) -> Self {
        Self::Values(vec![value])
    }
}

impl From<Vec<TrackedTensor>> for Baseline {
    fn from(values: Vec<TrackedTensor>) -> Self {
        Self::Values(values)
    }
}

impl Baseline {
    /// One baseline for each input, of its shape.
    pub(crate) fn of(&self, op: &'static str, inputs: &[TrackedTensor]) -> Result<Vec<TrackedTensor>> {
        let number =
            |number: f64| inputs.iter().map(|x| autograd_core::algebra::fill(number, &x.meta(), x)).collect();
        match self {
            Self::Zero => number(0.0),
            Self::Number(value) => number(*value),
            Self::Values(values) if values.len() == inputs.len() => {
                let fit = |(value, x): (&TrackedTensor, &TrackedTensor)| {
                    if let Some(error) = value.failure() {
                        return Err(error.clone());
                    }
                    let value =
                        if value.dtype() == x.dtype() { value.clone() } else { value.to_dtype(x.dtype())? };
                    broadcast_to(&value, x.shape()).map_err(|_| {
                        Error::shape(
                            op,
                            &[*value.shape(), *x.shape()],
                            "a baseline does not broadcast to its input",
                        )
                    })
                };
                values.iter().zip(inputs).map(fit).collect()
            }
            Self::Values(values) => {
                let reason = format!("{} baselines given for {} inputs", values.len(), inputs.len());
                Err(Error::argument(op, reason))
            }
        }
    }
}
