//! Closure conversion: a function over values as a program that closes over nothing.
//!
//! A primitive never holds a tracked value. One that is made of a user's function (a loop, a
//! custom rule) holds the function's program; whatever the function closed over is an input. This
//! is the only recorder: graphs and implicit solutions [bind](Closure::bind) some of those inputs to
//! their values.

use crate::apply::heard;
use crate::capture::{capturing, innermost};
use crate::error::{Error, Result};
use crate::level::Level;
use crate::meta::Meta;
use crate::primitive::{Composed, Primitive};
use crate::program::{Instruction, Operand, Program, Section};
use crate::rule::Rule;
use crate::tracer::{Applied, Call, Tracer};
use crate::value::TrackedTensor;
use autograd_kernels::{Shape, SliceMut, View};
use candle_core::{DType, DeviceLocation};
use smallvec::SmallVec;
use std::any::Any;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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
    recorder: Arc<Recorder>,
    operand: Operand,
    meta: Meta,
}

/// Where the function's steps go.
struct Recorder {
    level: Level,
    /// What the function is traced for, in errors.
    mode: &'static str,
    /// Whether ops on closed-over values alone are steps too.
    whole: bool,
    /// Whether auxiliary outputs are recorded where a rule wants them.
    hints: bool,
    body: Mutex<Body>,
}

/// What has been recorded so far.
#[derive(Default)]
struct Body {
    closure: Closure,
    /// The section whose steps come now.
    section: Option<usize>,
}

impl Recorder {
    fn body(&self) -> MutexGuard<'_, Body> {
        self.body.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Argument {
    fn of(level: Level, value: &TrackedTensor) -> Option<&Self> {
        value.tracer()?.as_any().downcast_ref::<Self>().filter(|argument| argument.recorder.level == level)
    }

    fn join(&self, operand: Operand, meta: Meta) -> TrackedTensor {
        TrackedTensor::from_tracer(Arc::new(Self { recorder: self.recorder.clone(), operand, meta }))
    }
}

impl fmt::Debug for Argument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "value {} of a traced function, level {}", self.operand, self.recorder.level.number())
    }
}

impl Tracer for Argument {
    fn level(&self) -> Level {
        self.recorder.level
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

    fn constant(&self, plain: TrackedTensor) -> TrackedTensor {
        if !self.recorder.whole {
            return plain;
        }
        let meta = plain.meta();
        let operand = self.recorder.body().closure.close_over(&plain);
        self.join(operand, meta)
    }

    fn captured(&self) -> Option<TrackedTensor> {
        self.recorder.whole.then(|| self.join(self.operand, self.meta))
    }

    fn process(&self, call: &Call<'_>) -> Result<Applied> {
        let Call { op, inputs, aux, site } = *call;
        if let Rule::Opaque(_) = op.rule() {
            let reason = "a CustomOp cannot be looked into; write it over values";
            return Err(Error::mode(op.name(), self.recorder.mode, reason));
        }
        let metas: SmallVec<[Meta; 4]> = inputs.iter().map(|x| x.meta()).collect();
        let signature = op.infer(&metas)?;
        let mut outputs = signature.outputs;
        let count = outputs.len();
        if aux && self.recorder.hints {
            outputs.extend(signature.aux);
        }
        let mut body = self.recorder.body();
        let operands = inputs
            .iter()
            .map(|x| match Self::of(self.recorder.level, x) {
                Some(argument) => argument.operand,
                None => body.closure.close_over(x),
            })
            .collect();
        let (hints, section) = (outputs.len() - count, body.section);
        let steps = &mut body.closure.program.instructions;
        let instruction = steps.len();
        let op = op.keep();
        steps.push(Instruction { op, operands, outputs: outputs.clone(), aux: hints, site, section });
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

    /// The closure with those captured values as constants of its program that `constant` says.
    pub fn bind(mut self, constant: impl Fn(&TrackedTensor) -> bool) -> Self {
        let arguments = self.program.inputs.len() - self.captured.len();
        self.program.inputs.truncate(arguments);
        let mut kept = Vec::new();
        let mut places = Vec::new();
        for value in std::mem::take(&mut self.captured) {
            places.push(if constant(&value) {
                self.program.constants.push(value);
                Operand::Constant(self.program.constants.len() - 1)
            } else {
                self.program.inputs.push(value.meta());
                kept.push(value);
                Operand::Input(self.program.inputs.len() - 1)
            });
        }
        let moved = |operand: &mut Operand| {
            if let Operand::Input(i) = *operand
                && let Some(place) = i.checked_sub(arguments).and_then(|i| places.get(i))
            {
                *operand = *place;
            }
        };
        self.program.instructions.iter_mut().flat_map(|step| &mut step.operands).for_each(moved);
        self.program.outputs.iter_mut().for_each(moved);
        self.captured = kept;
        self
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
    close_for("tracing", f, arguments)
}

/// As [`close`], in the name of `mode`: what errors call it.
///
/// # Errors
/// As [`close`].
pub fn close_for(
    mode: &'static str,
    f: impl FnOnce(&[TrackedTensor]) -> Result<Vec<TrackedTensor>>,
    arguments: &[Meta],
) -> Result<Closure> {
    let mut closure = traced(mode, [false, true], f, arguments)?;
    closure.program.drop_unused();
    Ok(closure)
}

/// As [`close`], with every step that `f` applies, also to closed-over values alone: for programs
/// that outlive the numbers which those hold now. What `f` makes itself, and computes from that
/// alone, is computed now. Without `hints`, rules get no auxiliary outputs: kernels of devices may
/// give none.
///
/// # Errors
/// As [`close`].
pub fn close_whole(
    f: impl FnOnce(&[TrackedTensor]) -> Result<Vec<TrackedTensor>>,
    arguments: &[Meta],
    hints: bool,
) -> Result<Closure> {
    traced("capture", [true, hints], f, arguments)
}

fn traced(
    mode: &'static str,
    [whole, hints]: [bool; 2],
    f: impl FnOnce(&[TrackedTensor]) -> Result<Vec<TrackedTensor>>,
    arguments: &[Meta],
) -> Result<Closure> {
    let level = Level::fresh();
    let program = Program { inputs: arguments.to_vec(), ..Program::default() };
    let closure = Closure { program, ..Closure::default() };
    let body = Mutex::new(Body { closure, section: None });
    let recorder = Arc::new(Recorder { level, mode, whole, hints, body });
    let argument = |operand: Operand, meta: Meta| Argument { recorder: recorder.clone(), operand, meta };
    let given = arguments.iter().enumerate();
    let given =
        given.map(|(i, meta)| TrackedTensor::from_tracer(Arc::new(argument(Operand::Input(i), *meta))));
    let given: Vec<TrackedTensor> = given.collect();
    let outputs = if whole {
        // Who records has no value of its own.
        let none = Meta { shape: Shape::SCALAR, dtype: DType::F64, device: DeviceLocation::Cpu };
        capturing(Arc::new(argument(Operand::Constant(usize::MAX), none)), || f(&given))?
    } else {
        f(&given)?
    };
    let mut done = std::mem::take(&mut *recorder.body()).closure;
    for output in &outputs {
        if let Some(error) = output.failure() {
            return Err(error.clone());
        }
        // What a tape of `f` itself made leaves it as the value beneath: that tape is gone.
        let output = heard(output);
        let operand = match Argument::of(level, output) {
            Some(argument) => argument.operand,
            None => done.close_over(output),
        };
        done.program.outputs.push(operand);
    }
    Ok(done)
}

/// Runs `f`, whose steps are a section of the function that this thread captures whole, if it does.
pub fn section<R>(what: impl FnOnce() -> Arc<dyn Any + Send + Sync>, f: impl FnOnce() -> R) -> R {
    let Some(tracer) = innermost() else { return f() };
    let Some(argument) = tracer.as_any().downcast_ref::<Argument>() else { return f() };
    let recorder = &argument.recorder;
    let what = what();
    let outer = {
        let mut body = recorder.body();
        let outer = body.section;
        let sections = &mut body.closure.program.sections;
        sections.push(Section { outer, what });
        body.section = Some(sections.len() - 1);
        outer
    };
    let result = f();
    recorder.body().section = outer;
    result
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
