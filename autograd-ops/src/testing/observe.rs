//! A level of the harness's own: it sees every application below the modes, and changes nothing
//! that its observer does not change.

use autograd_core::smallvec::SmallVec;
use autograd_core::{
    Applied, Call, Level, Result, Shape, Tracer, TrackedTensor, Values, apply_call, is_float,
};
use candle_core::{DType, DeviceLocation};
use std::any::Any;
use std::fmt::Debug;
use std::sync::Arc;

/// Looks at applications as they pass.
pub(crate) trait Observer: Debug + Send + Sync + 'static {
    /// Whether ops are to give their hints, so that the observer sees them.
    fn wants_hints(&self) -> bool {
        false
    }

    /// Takes an application over: its outputs, which stay as they are.
    fn replace(&self, call: &Call<'_>) -> Result<Option<Values>> {
        let _ = call;
        Ok(None)
    }

    /// Looks at an application that was not taken over. Values are those below the level;
    /// `hints` says which inputs come from auxiliary outputs of a float type.
    fn see(
        &self,
        call: &Call<'_>,
        inputs: &[&TrackedTensor],
        hints: &[bool],
        applied: &Applied,
    ) -> Result<()> {
        let _ = (call, inputs, hints, applied);
        Ok(())
    }
}

/// A level with its observer.
#[derive(Clone, Debug)]
pub(crate) struct Watch {
    level: Level,
    observer: Arc<dyn Observer>,
}

#[derive(Debug)]
struct Observed {
    watch: Watch,
    value: TrackedTensor,
    hint: bool,
}

impl Watch {
    /// A level above all values that exist.
    pub(crate) fn new(observer: Arc<dyn Observer>) -> Self {
        Self { level: Level::fresh(), observer }
    }

    /// Values under observation.
    pub(crate) fn over(&self, values: &[TrackedTensor]) -> Vec<TrackedTensor> {
        values.iter().map(|x| self.wrap(x.clone(), false)).collect()
    }

    /// The values below the level.
    pub(crate) fn below(&self, values: &[TrackedTensor]) -> Vec<TrackedTensor> {
        values.iter().map(|x| self.find(x).map_or(x, |seen| &seen.value).clone()).collect()
    }

    fn wrap(&self, value: TrackedTensor, hint: bool) -> TrackedTensor {
        TrackedTensor::from_tracer(Arc::new(Observed { watch: self.clone(), value, hint }))
    }

    fn find<'a>(&self, value: &'a TrackedTensor) -> Option<&'a Observed> {
        value.tracer()?.as_any().downcast_ref::<Observed>().filter(|seen| seen.watch.level == self.level)
    }
}

impl Tracer for Observed {
    fn level(&self) -> Level {
        self.watch.level
    }

    fn shape(&self) -> &Shape {
        self.value.shape()
    }

    fn dtype(&self) -> DType {
        self.value.dtype()
    }

    fn device(&self) -> DeviceLocation {
        self.value.location()
    }

    fn lower(&self) -> Option<&TrackedTensor> {
        Some(&self.value)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn process(&self, call: &Call<'_>) -> Result<Applied> {
        let watch = &self.watch;
        if let Some(outputs) = watch.observer.replace(call)? {
            return Ok(Applied { outputs, aux: Values::new() });
        }
        let seen: SmallVec<[Option<&Observed>; 4]> = call.inputs.iter().map(|x| watch.find(x)).collect();
        let below: SmallVec<[&TrackedTensor; 4]> =
            seen.iter().zip(call.inputs).map(|(seen, x)| seen.map_or(*x, |s| &s.value)).collect();
        let hints: SmallVec<[bool; 4]> = seen.iter().map(|seen| seen.is_some_and(|s| s.hint)).collect();
        let aux = call.aux || watch.observer.wants_hints();
        let applied = apply_call(call.op, &below, aux, call.site)?;
        watch.observer.see(call, &below, &hints, &applied)?;
        // What is made of hints alone is a hint.
        let hint = !hints.is_empty() && hints.iter().all(|h| *h);
        let outputs = applied.outputs.into_iter().map(|y| watch.wrap(y, hint)).collect();
        let aux = applied.aux.into_iter().map(|y| {
            let hint = is_float(y.dtype());
            watch.wrap(y, hint)
        });
        Ok(Applied { outputs, aux: aux.collect() })
    }
}
