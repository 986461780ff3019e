//! Closure conversion: a function over values as a program that closes over nothing.
//!
//! A primitive never holds a tracked value. One that is made of a user's function (a loop, a
//! custom rule) holds the function's program; whatever the function closed over is an input.

use crate::error::{Error, Result};
use crate::level::Level;
use crate::meta::Meta;
use crate::primitive::{Composed, Primitive};
use crate::program::{Instruction, Operand, Program};
use crate::rule::Rule;
use crate::tracer::{Applied, Call, Tracer};
use crate::value::TrackedTensor;
use autograd_kernels::{Shape, SliceMut, View};
use candle_core::{DType, DeviceLocation};
use smallvec::SmallVec;
use std::any::Any;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// A function's program and what it closed over.
#[derive(Clone, Debug, Default)]
pub struct Closure {
    /// The program. Its inputs are the function's arguments and then [`captured`](Self::captured);
    /// it has no constants.
    pub program: Program,
    /// The values that the function closed over, watched or not.
    pub captured: Vec<TrackedTensor>,
}

/// A value that has a shape and a place in a program, and no numbers.
struct Argument {
    level: Level,
    body: Arc<Mutex<Closure>>,
    operand: Operand,
    meta: Meta,
}

impl Argument {
    fn of(level: Level, value: &TrackedTensor) -> Option<&Self> {
        value.tracer()?.as_any().downcast_ref::<Self>().filter(|argument| argument.level == level)
    }

    fn join(&self, operand: Operand, meta: Meta) -> TrackedTensor {
        let (level, body) = (self.level, self.body.clone());
        TrackedTensor::from_tracer(Arc::new(Self { level, body, operand, meta }))
    }
}

impl fmt::Debug for Argument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "value {} of a traced function, level {}", self.operand, self.level.number())
    }
}

impl Tracer for Argument {
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
            return Err(Error::mode(op.name(), "tracing", reason));
        }
        let metas: SmallVec<[Meta; 4]> = inputs.iter().map(|x| x.meta()).collect();
        let signature = op.infer(&metas)?;
        let mut outputs = signature.outputs;
        let count = outputs.len();
        if aux {
            outputs.extend(signature.aux);
        }
        let mut body = self.body.lock().unwrap_or_else(PoisonError::into_inner);
        let operands = inputs
            .iter()
            .map(|x| match Self::of(self.level, x) {
                Some(argument) => argument.operand,
                None => body.close_over(x),
            })
            .collect();
        let instruction = body.program.instructions.len();
        let hints = outputs.len() - count;
        let step = Instruction { op: op.keep(), operands, outputs: outputs.clone(), aux: hints, site };
        body.program.instructions.push(step);
        drop(body);
        let mut values = outputs
            .iter()
            .enumerate()
            .map(|(output, meta)| self.join(Operand::Result { instruction, output }, *meta));
        let outputs = values.by_ref().take(count).collect();
        Ok(Applied { outputs, aux: values.collect() })
    }
}

impl Closure {
    /// The input that stands for a closed-over value: the same one for the same value.
    fn close_over(&mut self, value: &TrackedTensor) -> Operand {
        let same = |known: &TrackedTensor| match (known.plain(), value.plain()) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            _ => match (known.tracer(), value.tracer()) {
                (Some(a), Some(b)) => Arc::ptr_eq(a, b),
                _ => false,
            },
        };
        let arguments = self.program.inputs.len() - self.captured.len();
        let at = self.captured.iter().position(same).unwrap_or_else(|| {
            self.captured.push(value.clone());
            self.program.inputs.push(value.meta());
            self.captured.len() - 1
        });
        Operand::Input(arguments + at)
    }
}

/// The program of `f` for arguments of the given shapes and types. `f` is run once, without
/// numbers; steps that no output needs are left out.
///
/// # Errors
/// [`Error::ReadWhileCapturing`], with its line, where `f` reads a number; whatever `f` reports.
///
/// ```
/// use autograd_core::{Result, TrackedTensor, close};
///
/// fn main() -> Result<()> {
///     let (x, w) = (TrackedTensor::scalar(3.0), TrackedTensor::scalar(4.0));
///     let closure = close(|x| Ok(vec![(&x[0] * &w)?]), &[x.meta()])?;
///     assert_eq!(closure.captured.len(), 1);
///     assert_eq!(closure.program.run(&[&x, &closure.captured[0]])?[0].to_scalar::<f64>()?, 12.0);
///     Ok(())
/// }
/// ```
pub fn close(
    f: impl FnOnce(&[TrackedTensor]) -> Result<Vec<TrackedTensor>>,
    arguments: &[Meta],
) -> Result<Closure> {
    let level = Level::fresh();
    let program = Program { inputs: arguments.to_vec(), ..Program::default() };
    let body = Arc::new(Mutex::new(Closure { program, captured: Vec::new() }));
    let given = arguments.iter().enumerate().map(|(i, meta)| {
        let argument = Argument { level, body: body.clone(), operand: Operand::Input(i), meta: *meta };
        TrackedTensor::from_tracer(Arc::new(argument))
    });
    let outputs = f(&given.collect::<Vec<_>>())?;
    let mut done = std::mem::take(&mut *body.lock().unwrap_or_else(PoisonError::into_inner));
    for output in &outputs {
        if let Some(error) = output.failure() {
            return Err(error.clone());
        }
        let operand = match Argument::of(level, output) {
            Some(argument) => argument.operand,
            None => done.close_over(output),
        };
        done.program.outputs.push(operand);
    }
    done.program.drop_unused();
    Ok(done)
}

/// Evaluates a composed op where outputs are memory that was given: its inputs are copied to
/// values, and its results to the memory. What [`Primitive::eval_into`] of such an op is.
///
/// # Errors
/// Whatever its steps report.
pub fn eval_composed(
    op: &dyn Primitive,
    composed: &dyn Composed,
    inputs: &[View<'_>],
    outputs: &mut [SliceMut<'_>],
) -> Result<()> {
    let inputs: Vec<TrackedTensor> = inputs.iter().map(|view| TrackedTensor::from_view(*view)).collect();
    let made = composed.run(&inputs.iter().collect::<SmallVec<[_; 4]>>())?;
    if made.len() < outputs.len() {
        let reason = format!("{} outputs for {} places", made.len(), outputs.len());
        return Err(Error::internal(op.name(), reason));
    }
    made.iter().zip(outputs).try_for_each(|(value, place)| value.copy_into(place.reborrow()))
}
