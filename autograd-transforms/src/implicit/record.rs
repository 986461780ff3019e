//! Closures as programs: recorded without numbers, with what they read of watched values turned
//! into inputs.

use autograd_core::smallvec::SmallVec;
use autograd_core::{
    Applied, Call, DType, DeviceLocation, Error, Instruction, Level, Meta, Operand, Program, Result, Rule,
    Shape, Tracer, TrackedTensor, watcher,
};
use parking_lot::Mutex;
use std::any::Any;
use std::fmt;
use std::sync::Arc;

/// A program, and the watched values that it reads after its own inputs.
pub(super) struct Recorded {
    pub(super) program: Arc<Program>,
    pub(super) captured: Vec<TrackedTensor>,
}

#[derive(Default)]
struct Recording {
    program: Program,
    captured: Vec<TrackedTensor>,
}

/// A value that has a place in a program and no numbers.
struct PlaceTracer {
    level: Level,
    recording: Arc<Mutex<Recording>>,
    operand: Operand,
    meta: Meta,
}

impl PlaceTracer {
    fn of(level: Level, value: &TrackedTensor) -> Option<&Self> {
        value.tracer()?.as_any().downcast_ref::<Self>().filter(|place| place.level == level)
    }
}

impl fmt::Debug for PlaceTracer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "recorded {} level {}", self.operand, self.level.number())
    }
}

impl Recording {
    /// Where the program finds a value from outside: watched values are inputs, others constants.
    fn outside(&mut self, value: &TrackedTensor) -> Operand {
        let value = autograd_core::heard(value);
        if watcher(value).is_some() {
            let same = |known: &TrackedTensor| match (known.tracer(), value.tracer()) {
                (Some(a), Some(b)) => Arc::ptr_eq(a, b),
                _ => false,
            };
            let before = self.program.inputs.len() - self.captured.len();
            let at = self.captured.iter().position(same).unwrap_or_else(|| {
                self.captured.push(value.clone());
                self.program.inputs.push(value.meta());
                self.captured.len() - 1
            });
            return Operand::Input(before + at);
        }
        let same = |known: &TrackedTensor| match (known.plain(), value.plain()) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            _ => false,
        };
        let constants = &mut self.program.constants;
        Operand::Constant(constants.iter().position(same).unwrap_or_else(|| {
            constants.push(value.clone());
            constants.len() - 1
        }))
    }
}

impl Tracer for PlaceTracer {
    fn level(&self) -> Level {
        self.level
    }

    fn shape(&self) -> &Shape {
        &self.meta.shape
    }

    fn dtype(&self) -> DType {
        self.meta.dtype
    }

    fn device(&self) -> DeviceLocation {
        self.meta.device
    }

    fn lower(&self) -> Option<&TrackedTensor> {
        None
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn process(&self, call: &Call<'_>) -> Result<Applied> {
        let Call { op, inputs, aux, site } = *call;
        if let Rule::Opaque(_) = op.rule() {
            let reason = "a CustomOp cannot be looked into; write it over values";
            return Err(Error::mode(op.name(), "implicit differentiation", reason));
        }
        let metas: SmallVec<[Meta; 4]> = inputs.iter().map(|x| x.meta()).collect();
        let signature = op.infer(&metas)?;
        let mut outputs = signature.outputs;
        let count = outputs.len();
        if aux {
            outputs.extend(signature.aux);
        }
        let mut recording = self.recording.lock();
        let operands = inputs
            .iter()
            .map(|x| match Self::of(self.level, x) {
                Some(place) => place.operand,
                None => recording.outside(x),
            })
            .collect();
        let instruction = recording.program.instructions.len();
        let hints = outputs.len() - count;
        let step = Instruction { op: op.keep(), operands, outputs: outputs.clone(), aux: hints, site };
        recording.program.instructions.push(step);
        drop(recording);
        let mut values = outputs.iter().enumerate().map(|(output, meta)| {
            let (level, recording) = (self.level, self.recording.clone());
            let operand = Operand::Result { instruction, output };
            TrackedTensor::from_tracer(Arc::new(Self { level, recording, operand, meta: *meta }))
        });
        let outputs = values.by_ref().take(count).collect();
        Ok(Applied { outputs, aux: values.collect() })
    }
}

/// Records a function of values with the given metas.
///
/// # Errors
/// [`Error::ReadWhileCapturing`] where it reads a number, an op that cannot be looked into, and
/// what it reports.
pub(super) fn record(
    f: impl FnOnce(&[TrackedTensor]) -> Result<TrackedTensor>,
    inputs: &[Meta],
) -> Result<Recorded> {
    let level = Level::fresh();
    let program = Program { inputs: inputs.to_vec(), ..Program::default() };
    let recording = Arc::new(Mutex::new(Recording { program, captured: Vec::new() }));
    let places: Vec<TrackedTensor> = inputs
        .iter()
        .enumerate()
        .map(|(i, meta)| {
            let (recording, operand) = (recording.clone(), Operand::Input(i));
            TrackedTensor::from_tracer(Arc::new(PlaceTracer { level, recording, operand, meta: *meta }))
        })
        .collect();
    let output = f(&places)?;
    if let Some(error) = output.failure() {
        return Err(error.clone());
    }
    let mut recording = recording.lock();
    let operand = match PlaceTracer::of(level, &output) {
        Some(place) => place.operand,
        None => recording.outside(&output),
    };
    recording.program.outputs.push(operand);
    let Recording { program, captured } = std::mem::take(&mut *recording);
    Ok(Recorded { program: Arc::new(program), captured })
}

/// Runs a program of one output on a value and what follows it.
pub(super) fn run(program: &Program, inputs: &[&TrackedTensor]) -> Result<TrackedTensor> {
    let mut outputs = program.run(inputs)?;
    outputs.pop().ok_or_else(|| Error::internal("implicit", "a program without output"))
}
