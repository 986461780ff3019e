//! The executor: steps over one arena. Values need no memory but the arena and the caller's outputs;
//! what the kernels of single ops need to work in stays with their threads, so that a steady run
//! neither allocates nor takes a lock.

use crate::code::Code;
use crate::plan::{External, Kernel, Plan, Read, SharedPlan, Step, Write};
use autograd_core::kernels::arena::{Arena, Lent, Slices, for_each_block};
use autograd_core::kernels::machine::{Epilogue, Feed};
use autograd_core::kernels::{Layout, Slice, copy, memory};
use autograd_core::smallvec::SmallVec;
use autograd_core::{
    At, Buffer, Error, Mask, Meta, Plain, Result, SliceMut, TrackedTensor, View, is_capturing, with_buffers,
};
use parking_lot::Mutex;
use std::sync::Arc;

/// Inputs and outputs of a graph: up to so many take no allocation.
type Many<T> = SmallVec<[T; 64]>;

/// Runs a compiled graph again and again in the same memory.
///
/// It belongs to one caller at a time; a [`Compiled`](crate::Compiled) graph makes as many as are
/// wanted.
#[derive(Debug)]
pub struct Executor {
    plan: SharedPlan,
    code: Arc<Code>,
    constants: Vec<TrackedTensor>,
    arena: Arena,
}

impl Executor {
    pub(crate) fn new(plan: SharedPlan, code: Arc<Code>, constants: Vec<TrackedTensor>) -> Self {
        let arena = Arena::new(plan.bytes);
        Self { plan, code, constants, arena }
    }

    /// Bytes of the arena: everything but inputs, closed-over values and outputs.
    pub fn bytes(&self) -> usize {
        self.arena.bytes()
    }

    /// Runs the graph and writes its outputs over `outputs`, whose shapes and types are the
    /// graph's. A value there whose memory nobody shares is overwritten; another one is replaced.
    ///
    /// Inputs are read in place where they are in row-major order, and copied otherwise. Where all
    /// are in order and all outputs are unique, values need no new memory; working memory of single
    /// kernels stays with its thread up to 256 KiB, and comes from the buffer pool beyond.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] where inputs or outputs are not those of the graph;
    /// [`Error::UnsupportedMode`] for inputs that a transform watches; what an op reports about the
    /// numbers that it is given.
    pub fn run_into(&mut self, inputs: &[&TrackedTensor], outputs: &mut [TrackedTensor]) -> Result<()> {
        self.check(inputs, outputs)?;
        // Nothing is allocated while all inputs are in order.
        let mut ordered: Vec<Option<TrackedTensor>> = Vec::new();
        for (i, input) in inputs.iter().enumerate() {
            if input.plain().is_some_and(|plain| !plain.is_contiguous()) {
                ordered.resize(inputs.len(), None);
                ordered[i] = Some(in_order(input)?);
            }
        }
        let mut plains: Many<&Plain> = Many::new();
        for (i, input) in inputs.iter().enumerate() {
            let value = ordered.get(i).and_then(Option::as_ref).unwrap_or(input);
            plains.push(value.plain().ok_or_else(watched)?);
        }
        for (output, meta) in outputs.iter_mut().zip(&self.plan.outputs) {
            if output.unique_slice().is_none() {
                *output = blank(meta)?;
            }
        }
        let mut slices: Many<SliceMut<'_>> =
            outputs.iter_mut().filter_map(TrackedTensor::unique_slice).collect();
        self.run_slices(&plains, &mut slices)
    }

    /// Runs the graph; the outputs are new values.
    ///
    /// # Errors
    /// As [`run_into`](Self::run_into).
    pub fn run(&mut self, inputs: &[&TrackedTensor]) -> Result<Vec<TrackedTensor>> {
        let mut outputs = self.plan.outputs.iter().map(blank).collect::<Result<Vec<_>>>()?;
        self.run_into(inputs, &mut outputs)?;
        Ok(outputs)
    }

    /// Runs the graph on views, in any order of elements, into slices.
    pub(crate) fn run_views(&mut self, inputs: &[View<'_>], outputs: &mut [SliceMut<'_>]) -> Result<()> {
        let values = inputs
            .iter()
            .map(|view| {
                let kind = view.kind();
                let shape = *view.layout.shape();
                let mut out = TrackedTensor::from_buffer(Buffer::take(kind, shape.elements()), shape)?;
                if let Some(to) = out.unique_slice() {
                    copy::copy(*view, to);
                }
                Ok(out)
            })
            .collect::<Result<Vec<TrackedTensor>>>()?;
        let mut plains: Slices<&Plain> = Slices::new();
        for value in &values {
            plains.push(value.plain().ok_or_else(watched)?);
        }
        self.run_slices(&plains, outputs)
    }

    fn check(&self, inputs: &[&TrackedTensor], outputs: &[TrackedTensor]) -> Result<()> {
        if is_capturing() {
            let reason = "what is captured writes over nothing; call the compiled graph as an op with `call`";
            return Err(Error::mode("compiled", "capture", reason));
        }
        let wrong = |what: &str, given: usize, wanted: usize| {
            Err(Error::argument("compiled", format!("{given} {what} given, {wanted} compiled for")))
        };
        if inputs.len() != self.plan.inputs.len() {
            return wrong("inputs", inputs.len(), self.plan.inputs.len());
        }
        if outputs.len() != self.plan.outputs.len() {
            return wrong("outputs", outputs.len(), self.plan.outputs.len());
        }
        let fits = |what: &str, i: usize, value: &TrackedTensor, meta: &Meta| {
            if let Some(error) = value.failure() {
                return Err(error.clone());
            }
            if value.shape() == &meta.shape && value.dtype() == meta.dtype {
                return Ok(());
            }
            let (got, want) = (value.shape(), &meta.shape);
            let reason =
                format!("{what} {i} is {got} {:?}, compiled for {want} {:?}", value.dtype(), meta.dtype);
            Err(Error::argument("compiled", reason))
        };
        for (i, (input, meta)) in inputs.iter().zip(&self.plan.inputs).enumerate() {
            fits("input", i, input, meta)?;
        }
        for (i, (output, meta)) in outputs.iter().zip(&self.plan.outputs).enumerate() {
            fits("output", i, output, meta)?;
        }
        Ok(())
    }

    fn run_slices(&mut self, inputs: &[&Plain], outputs: &mut [SliceMut<'_>]) -> Result<()> {
        let Self { plan, code, constants, arena } = self;
        // Working memory of single ops is there again at the next run, without a lock.
        memory::staying(|| {
            for (number, step) in plan.steps.iter().enumerate() {
                run_step(step, number, code, inputs, constants, arena, outputs)
                    .map_err(|error| error.or_at(step.site))?;
            }
            Ok(())
        })
    }
}

/// What stands in for a slice that was taken out of a list.
fn empty<'a>() -> SliceMut<'a> {
    SliceMut::U8(&mut [])
}

fn run_step(
    step: &Step,
    number: usize,
    code: &Code,
    inputs: &[&Plain],
    constants: &[TrackedTensor],
    arena: &mut Arena,
    outputs: &mut [SliceMut<'_>],
) -> Result<()> {
    let mut externals: Slices<&Plain> = Slices::new();
    for external in &step.externals {
        externals.push(match *external {
            External::Input(i) => inputs[i],
            External::Constant(i) => constants[i].plain().ok_or_else(watched)?,
        });
    }
    with_buffers("compiled", &externals, |buffers| {
        let mut outside: Slices<Slice<'_>> = Slices::new();
        for (k, external) in step.externals.iter().enumerate() {
            outside.push(match *external {
                // An input in row-major order may begin anywhere in its buffer.
                External::Input(_) => {
                    let own = externals[k].layout();
                    buffers[k].part(own.offset()..own.offset() + own.elements())
                }
                External::Constant(_) => buffers[k],
            });
        }
        run_opened(step, number, code, &outside, &mut arena.lend(), outputs)
    })
}

/// Runs a step of which all values from outside of the arena are at hand.
fn run_opened(
    step: &Step,
    number: usize,
    code: &Code,
    outside: &[Slice<'_>],
    arena: &mut Lent<'_>,
    outputs: &mut [SliceMut<'_>],
) -> Result<()> {
    let (read, mut written) = arena.open(&step.read_regions, &step.write_regions);
    // Output buffers that are written come out of the list, so that others can be read.
    let mut taken: Slices<SliceMut<'_>> = Slices::new();
    for write in &step.writes {
        if let Write::Output(k) = *write {
            taken.push(std::mem::replace(&mut outputs[k], empty()));
        }
    }
    let done = {
        let mut own = taken.iter_mut();
        let mut writes: Slices<SliceMut<'_>> = Slices::new();
        for write in &step.writes {
            writes.push(match *write {
                Write::Arena(i) => std::mem::replace(&mut written[i], empty()),
                Write::Output(_) => own.next().map_or_else(empty, SliceMut::reborrow),
            });
        }
        let slice = |at: Read| -> Slice<'_> {
            match at {
                Read::Arena(i) => read[i],
                Read::Output(k) => outputs[k].as_slice(),
                Read::External(i) => outside[i],
            }
        };
        compute(step, number, code, &slice, &mut writes, &mut written[in_arena(step)..])
    };
    let into = step.writes.iter().filter_map(|write| match *write {
        Write::Output(k) => Some(k),
        Write::Arena(_) => None,
    });
    for (k, slice) in into.zip(taken) {
        outputs[k] = slice;
    }
    done
}

/// Runs a plan over the rows of each block: of the inputs in `rows` a block reads its own, of the
/// others all; each output is one part for each block. The memory is for as many workers as it has
/// room for.
pub(crate) fn run_blocks(
    plan: &Plan,
    code: &Code,
    blocks: usize,
    rows: Mask,
    inputs: &[Slice<'_>],
    outputs: &mut [SliceMut<'_>],
    memory: &mut [u8],
) -> Result<()> {
    // Locked where a step fails, and nowhere else.
    let failed: Mutex<Option<Error>> = Mutex::new(None);
    for_each_block(blocks, memory, plan.bytes, outputs, &|arena, block, outputs| {
        for (number, step) in plan.steps.iter().enumerate() {
            let mut outside: Slices<Slice<'_>> = Slices::new();
            for external in &step.externals {
                let External::Input(i) = *external else { continue };
                let len = inputs[i].len() / if rows.has(i) { blocks } else { 1 };
                let from = if rows.has(i) { block * len } else { 0 };
                outside.push(inputs[i].part(from..from + len));
            }
            if let Err(error) = run_opened(step, number, code, &outside, arena, outputs) {
                failed.lock().get_or_insert(error.or_at(step.site));
                return;
            }
        }
    });
    failed.into_inner().map_or(Ok(()), Err)
}

/// How many outputs lie in the arena: working memory begins behind them.
fn in_arena(step: &Step) -> usize {
    step.writes.iter().filter(|w| matches!(w, Write::Arena(_))).count()
}

fn compute<'s>(
    step: &'s Step,
    number: usize,
    code: &Code,
    slice: &dyn Fn(Read) -> Slice<'s>,
    writes: &mut [SliceMut<'_>],
    scratch: &mut [SliceMut<'_>],
) -> Result<()> {
    match &step.kernel {
        Kernel::Op(op) => {
            let views: Slices<View<'_>> =
                step.reads.iter().map(|(at, layout)| View { data: slice(*at), layout }).collect();
            op.eval_into(&views, writes)
        }
        Kernel::Blocked { plan, blocks, rows, .. } => {
            let mut inputs: Slices<Slice<'_>> = Slices::new();
            for (at, layout) in &step.reads {
                inputs.push(slice(*at).part(layout.offset()..layout.offset() + layout.elements()));
            }
            let memory = scratch.first_mut().and_then(SliceMut::u8s_mut);
            let memory =
                memory.ok_or_else(|| Error::internal("rows", "its working memory is not planned"))?;
            let none = Code::default();
            run_blocks(plan, code.within(number).unwrap_or(&none), *blocks, *rows, &inputs, writes, memory)
        }
        Kernel::Copy => {
            let (at, layout) = &step.reads[0];
            copy::copy(View { data: slice(*at), layout }, writes[0].reborrow());
            Ok(())
        }
        Kernel::Epilogue { op, count, prepared, input, home, over, .. } => {
            let (own, others) = step.reads.split_at(*count);
            let views: Slices<View<'_>> =
                own.iter().map(|(at, layout)| View { data: slice(*at), layout }).collect();
            let mut feeds = feeds(others, &over[*count..], slice);
            feeds.insert(*input, Feed::Output(*home));
            let [tiles] = scratch else {
                return Err(Error::internal("epilogue", "its working memory is not planned"));
            };
            let tiles = tiles.reborrow();
            op.eval_then(&views, Epilogue::new(prepared, &feeds, writes, *home, tiles, code.of(number)))
        }
        Kernel::Fused { prepared, over, .. } => {
            let feeds = feeds(&step.reads, over, slice);
            let [tiles, sums] = scratch else {
                return Err(Error::internal("fused", "its working memory is not planned"));
            };
            let sums = sums.f64s_mut().ok_or_else(|| Error::internal("fused", "its sums are not f64"))?;
            prepared.run(&feeds, writes, tiles.reborrow(), sums, code.of(number));
            Ok(())
        }
    }
}

/// What the inputs of an expression read, those that lie under an output through it.
fn feeds<'s>(
    reads: &[(Read, Layout)],
    over: &[Option<usize>],
    slice: &dyn Fn(Read) -> Slice<'s>,
) -> Slices<Feed<'s>> {
    let feed = |((at, _), over): (&(Read, Layout), &Option<usize>)| match over {
        Some(output) => Feed::Output(*output),
        None => Feed::Read(slice(*at)),
    };
    reads.iter().zip(over).map(feed).collect()
}

fn watched() -> Error {
    Error::UnsupportedMode {
        op: "compiled",
        mode: "executor",
        reason: "a transform watches an input; call the compiled graph as an op with `call`".to_owned(),
        at: At::default(),
    }
}

/// The value in row-major order.
fn in_order(x: &TrackedTensor) -> Result<TrackedTensor> {
    let plain = x.plain().ok_or_else(watched)?;
    let mut out = blank(&x.meta())?;
    with_buffers("compiled", &[plain], |slices| {
        if let Some(to) = out.unique_slice() {
            copy::copy(View { data: slices[0], layout: plain.layout() }, to);
        }
        Ok(())
    })?;
    Ok(out)
}

/// A value in memory of its own, with arbitrary content.
pub(crate) fn blank(meta: &Meta) -> Result<TrackedTensor> {
    let kind = autograd_core::kind_of(meta.dtype)
        .ok_or_else(|| Error::dtype("compiled", meta.dtype, "f64, f32, bf16, f16, u8, u32 and i64 are"))?;
    TrackedTensor::from_buffer(Buffer::take(kind, meta.elements()), meta.shape)
}
