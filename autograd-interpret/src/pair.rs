//! A value beside its reference: what DeepLift compares.

use autograd_core::smallvec::SmallVec;
use autograd_core::{
    Applied, Call, DType, DeviceLocation, Error, Level, Result, Rule, Shape, Tracer, TrackedTensor, Values,
    apply_call,
};
use std::any::Any;
use std::sync::Arc;

/// What a function computes of the input, and of the baseline in the same place.
#[derive(Debug)]
pub(crate) struct Pair {
    level: Level,
    actual: TrackedTensor,
    reference: TrackedTensor,
    /// Whether what has no derivative is taken of the actual value for both.
    alike: bool,
}

impl Pair {
    /// A value and its reference, of one shape and type.
    pub(crate) fn watch(level: Level, actual: TrackedTensor, reference: TrackedTensor) -> TrackedTensor {
        TrackedTensor::from_tracer(Arc::new(Self { level, actual, reference, alike: false }))
    }

    /// A value and its reference that share what has no derivative: a maximum that is subtracted
    /// from both.
    pub(crate) fn watch_alike(
        level: Level,
        actual: TrackedTensor,
        reference: TrackedTensor,
    ) -> TrackedTensor {
        TrackedTensor::from_tracer(Arc::new(Self { level, actual, reference, alike: true }))
    }

    /// The value and its reference; a value that does not depend on the inputs is its own.
    pub(crate) fn split(value: &TrackedTensor) -> (TrackedTensor, TrackedTensor) {
        match value.tracer().and_then(|tracer| tracer.as_any().downcast_ref::<Self>()) {
            Some(pair) => (pair.actual.clone(), pair.reference.clone()),
            None => (value.clone(), value.clone()),
        }
    }
}

impl Tracer for Pair {
    fn level(&self) -> Level {
        self.level
    }

    fn shape(&self) -> &Shape {
        self.actual.shape()
    }

    fn dtype(&self) -> DType {
        self.actual.dtype()
    }

    fn device(&self) -> DeviceLocation {
        self.actual.location()
    }

    fn lower(&self) -> Option<&TrackedTensor> {
        Some(&self.actual)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn process(&self, call: &Call<'_>) -> Result<Applied> {
        let pairs: SmallVec<[(TrackedTensor, TrackedTensor); 4]> =
            call.inputs.iter().map(|x| Self::split(x)).collect();
        let actual: SmallVec<[&TrackedTensor; 4]> = pairs.iter().map(|(actual, _)| actual).collect();
        let reference: SmallVec<[&TrackedTensor; 4]> = pairs.iter().map(|(_, reference)| reference).collect();
        let actual = apply_call(call.op, &actual, false, call.site)?.outputs;
        if self.alike && matches!(call.op.rule(), Rule::Flat) {
            return Ok(Applied { outputs: actual, aux: Values::new() });
        }
        let reference = apply_call(call.op, &reference, false, call.site)?.outputs;
        let both = actual.into_iter().zip(reference).map(|(actual, reference)| {
            if actual.shape() != reference.shape() {
                return Err(Error::internal(call.op.name(), "its shape depends on the numbers"));
            }
            Ok(TrackedTensor::from_tracer(Arc::new(Self {
                level: self.level,
                actual,
                reference,
                alike: self.alike,
            })))
        });
        Ok(Applied { outputs: both.collect::<Result<_>>()?, aux: Values::new() })
    }
}
