//! Capture: a function over values recorded as a program, without running it.

use autograd_core::smallvec::SmallVec;
use autograd_core::{
    Applied, Call, Error, Instruction, Level, Meta, Operand, Program, Result, Rule, Shape, Tracer,
    TrackedTensor, algebra,
};
use candle_core::{DType, DeviceLocation};
use parking_lot::Mutex;
use std::any::Any;
use std::fmt;
use std::sync::Arc;

/// A value that has a shape and a place in a program, and no numbers.
struct CaptureTracer {
    level: Level,
    program: Arc<Mutex<Program>>,
    operand: Operand,
    meta: Meta,
    /// Whether auxiliary outputs are recorded where a rule wants them.
    hints: bool,
}

impl CaptureTracer {
    fn of(level: Level, value: &TrackedTensor) -> Option<&Self> {
        value.tracer()?.as_any().downcast_ref::<Self>().filter(|captured| captured.level == level)
    }

    fn join(&self, operand: Operand, meta: Meta) -> TrackedTensor {
        let (level, program, hints) = (self.level, self.program.clone(), self.hints);
        TrackedTensor::from_tracer(Arc::new(Self { level, program, operand, meta, hints }))
    }
}

impl fmt::Debug for CaptureTracer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "captured {} level {}", self.operand, self.level.number())
    }
}

impl Tracer for CaptureTracer {
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

    fn constant(&self, plain: TrackedTensor) -> TrackedTensor {
        let meta = plain.meta();
        let operand = constant(&mut self.program.lock(), &plain);
        self.join(operand, meta)
    }

    fn captured(&self) -> Option<TrackedTensor> {
        Some(self.join(self.operand, self.meta))
    }

    fn process(&self, call: &Call<'_>) -> Result<Applied> {
        let Call { op, inputs, aux, site } = *call;
        if let Rule::Opaque(_) = op.rule() {
            return Err(Error::mode(
                op.name(),
                "capture",
                "a CustomOp cannot be looked into; write it over values",
            ));
        }
        let metas: SmallVec<[Meta; 4]> = inputs.iter().map(|x| x.meta()).collect();
        let signature = op.infer(&metas)?;
        let mut outputs = signature.outputs;
        let count = outputs.len();
        if aux && self.hints {
            outputs.extend(signature.aux);
        }
        let mut program = self.program.lock();
        let operands = inputs
            .iter()
            .map(|x| match Self::of(self.level, x) {
                Some(captured) => captured.operand,
                None => constant(&mut program, x),
            })
            .collect();
        let instruction = program.instructions.len();
        let hints = outputs.len() - count;
        program.instructions.push(Instruction {
            op: op.keep(),
            operands,
            outputs: outputs.clone(),
            aux: hints,
            site,
        });
        drop(program);
        let made = |(output, meta): (usize, &Meta)| self.join(Operand::Result { instruction, output }, *meta);
        let mut values = outputs.iter().enumerate().map(made);
        let outputs = values.by_ref().take(count).collect();
        Ok(Applied { outputs, aux: values.collect() })
    }
}

/// The constant that stands for a closed-over value: the same one for the same memory.
fn constant(program: &mut Program, value: &TrackedTensor) -> Operand {
    let same = |known: &TrackedTensor| match (known.plain(), value.plain()) {
        (Some(a), Some(b)) => Arc::ptr_eq(a, b),
        _ => false,
    };
    let at = program.constants.iter().position(same).unwrap_or_else(|| {
        program.constants.push(value.clone());
        program.constants.len() - 1
    });
    Operand::Constant(at)
}

/// Records what `f` does to inputs of the given shapes and types. Whatever transforms `f` uses
/// inside, their work is recorded too.
///
/// # Errors
/// [`Error::ReadWhileCapturing`], with its line, where `f` reads a number; whatever `f` reports.
///
/// ```
/// use autograd_core::{Result, TrackedTensor};
/// use autograd_graph::capture;
/// use autograd_ops::TensorAutograd;
///
/// fn main() -> Result<()> {
///     let x = TrackedTensor::scalar(3.0);
///     let program = capture(|x| Ok(vec![x[0].mul(&x[0])?.add(1.0)?]), &[x.meta()])?;
///     assert_eq!(program.run(&[&x])?[0].to_scalar::<f64>()?, 10.0);
///     Ok(())
/// }
/// ```
pub fn capture(
    f: impl FnOnce(&[TrackedTensor]) -> Result<Vec<TrackedTensor>>,
    inputs: &[Meta],
) -> Result<Program> {
    capture_with(f, inputs, inputs.iter().all(|x| x.device == DeviceLocation::Cpu))
}

/// As [`capture`], with auxiliary outputs or without: kernels of other devices may give none.
pub(crate) fn capture_with(
    f: impl FnOnce(&[TrackedTensor]) -> Result<Vec<TrackedTensor>>,
    inputs: &[Meta],
    hints: bool,
) -> Result<Program> {
    let level = Level::fresh();
    // A program is of no device: its numbers are moved where its inputs are when it runs.
    let inputs: Vec<Meta> = inputs.iter().map(|x| Meta { device: DeviceLocation::Cpu, ..*x }).collect();
    let program = Arc::new(Mutex::new(Program { inputs: inputs.clone(), ..Program::default() }));
    let values: Vec<TrackedTensor> = inputs
        .iter()
        .enumerate()
        .map(|(i, meta)| {
            let (program, operand) = (program.clone(), Operand::Input(i));
            let tracer = CaptureTracer { level, program, operand, meta: *meta, hints };
            TrackedTensor::from_tracer(Arc::new(tracer))
        })
        .collect();
    let outputs = f(&values)?;
    let mut done = std::mem::take(&mut *program.lock());
    for output in &outputs {
        let mut output = output;
        // What a tape of `f` itself made leaves it as the value beneath: that tape is gone.
        while let Some(tracer) = output.tracer().filter(|tracer| !tracer.is_active()) {
            let Some(lower) = tracer.lower() else { break };
            output = lower;
        }
        let operand = match CaptureTracer::of(level, output) {
            Some(captured) => captured.operand,
            None => constant(&mut done, output),
        };
        done.outputs.push(operand);
    }
    drop(outputs);
    drop(values);
    done.constants.iter_mut().try_for_each(known_number)?;
    Ok(done)
}

/// Makes a literal of a constant of one number that nobody else holds: `f` computed it from
/// literals while it was captured (the 1/n of a mean's cotangent), and nothing can change it.
fn known_number(constant: &mut TrackedTensor) -> Result<()> {
    let Some(plain) = constant.plain() else { return Ok(()) };
    let alone = Arc::strong_count(plain) == 1 && plain.literal().is_none();
    if !alone || plain.buffer().slice().is_none_or(|slice| slice.len() != 1) || plain.layout().elements() == 0
    {
        return Ok(());
    }
    let mut one = constant.clone();
    for dim in 0..constant.rank() {
        one = algebra::narrow(&one, dim, 0, 1)?;
    }
    let number = algebra::cast(&algebra::reshape(&one, &Shape::SCALAR)?, DType::F64)?.to_scalar::<f64>()?;
    *constant = algebra::fill(number, &constant.meta(), constant)?;
    Ok(())
}
