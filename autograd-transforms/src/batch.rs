//! Batching: a function of one example mapped over a batch without a loop.

use autograd_core::algebra::broadcast_to;
use autograd_core::smallvec::SmallVec;
use autograd_core::{
    Applied, Call, Error, Level, Mask, Result, Rule, Shape, Site, Tracer, TrackedTensor, Values,
    checked_shape, on_behalf_of,
};
use candle_core::{DType, DeviceLocation};
use std::any::Any;
use std::fmt;
use std::sync::Arc;

/// A value that stands for one example of a batch; the batch dimension is the inner value's
/// first.
struct BatchTracer {
    level: Level,
    value: TrackedTensor,
    /// The shape of one example.
    shape: Shape,
    size: usize,
}

impl BatchTracer {
    fn join(level: Level, value: TrackedTensor, size: usize) -> TrackedTensor {
        let shape = Shape::new(&value.dims()[1..]);
        TrackedTensor::from_tracer(Arc::new(Self { level, value, shape, size }))
    }

    fn of(level: Level, value: &TrackedTensor) -> Option<&Self> {
        value.tracer()?.as_any().downcast_ref::<Self>().filter(|batch| batch.level == level)
    }
}

impl fmt::Debug for BatchTracer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "batch of {} level {}", self.size, self.level.number())
    }
}

impl Tracer for BatchTracer {
    fn level(&self) -> Level {
        self.level
    }

    fn shape(&self) -> &Shape {
        &self.shape
    }

    fn dtype(&self) -> DType {
        self.value.dtype()
    }

    fn device(&self) -> DeviceLocation {
        self.value.location()
    }

    fn lower(&self) -> Option<&TrackedTensor> {
        None
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn process(&self, call: &Call<'_>) -> Result<Applied> {
        let Call { op, inputs, site, .. } = *call;
        if let Rule::Opaque(_) = op.rule() {
            return Err(Error::mode(
                op.name(),
                "batching",
                "a CustomOp sees whole tensors; call it outside of vmap",
            ));
        }
        let batched = Mask::of(inputs.len(), |i| Self::of(self.level, inputs[i]).is_some());
        let inner: SmallVec<[&TrackedTensor; 4]> =
            inputs.iter().map(|x| Self::of(self.level, x).map_or(*x, |b| &b.value)).collect();
        if let Some(outputs) = on_behalf_of(site, || op.batch(batched, &inner, self.size))? {
            for output in &outputs {
                if output.dims().first() != Some(&self.size) {
                    let reason =
                        format!("its batch rule gave {} for a batch of {}", output.shape(), self.size);
                    return Err(Error::internal(op.name(), reason));
                }
            }
            let outputs = outputs.into_iter().map(|y| Self::join(self.level, y, self.size));
            return Ok(Applied { outputs: outputs.collect(), aux: Values::new() });
        }
        let parts = on_behalf_of(site, || op.decompose(inputs))?;
        let outputs = parts.ok_or_else(|| {
            Error::mode(op.name(), "batching", "it has neither a batch rule nor a decomposition")
        })?;
        Ok(Applied { outputs, aux: Values::new() })
    }
}

/// f mapped over the first dimension of the inputs in `mapped`; the others are the same for all
/// examples. Outputs carry the batch in front.
///
/// # Errors
/// [`Error::InvalidArgument`] where the mapped inputs have no first dimension in common;
/// [`Error::UnsupportedMode`] for an op that cannot be batched; what `f` reports.
#[track_caller]
pub fn vmap(
    f: impl FnOnce(&[TrackedTensor]) -> Result<Vec<TrackedTensor>>,
    inputs: &[&TrackedTensor],
    mapped: Mask,
) -> Result<Vec<TrackedTensor>> {
    let site = Site::caller();
    let wrong = |reason: String| Error::argument("vmap", reason).or_at(site);
    let mut size = None;
    for (i, input) in inputs.iter().enumerate().filter(|(i, _)| mapped.has(*i)) {
        let Some(&extent) = input.dims().first() else {
            return Err(wrong(format!("input {i} has no dimension to map over")));
        };
        if *size.get_or_insert(extent) != extent {
            return Err(wrong(format!("input {i} has {extent} examples, an earlier one {size:?}")));
        }
    }
    let size = size.ok_or_else(|| wrong("no input is mapped".to_owned()))?;
    let level = Level::fresh();
    let examples: Vec<TrackedTensor> = inputs
        .iter()
        .enumerate()
        .map(|(i, x)| if mapped.has(i) { BatchTracer::join(level, (*x).clone(), size) } else { (*x).clone() })
        .collect();
    let outputs = f(&examples)?;
    outputs
        .iter()
        .map(|y| match BatchTracer::of(level, y) {
            Some(batch) => Ok(batch.value.clone()),
            None => {
                let dims: SmallVec<[usize; 8]> =
                    std::iter::once(size).chain(y.dims().iter().copied()).collect();
                broadcast_to(y, &checked_shape("vmap", &dims)?)
            }
        })
        .collect()
}
