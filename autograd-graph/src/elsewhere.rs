//! Graphs on other devices than the CPU. Where the device's kernels take the whole program, it is
//! said in ops that they have, laid out in one arena by the planner of the CPU, and replayed as one
//! thing. Otherwise the program after the passes runs op by op, each fused group as one kernel.

use crate::graph::{Graph, meta_of};
use crate::passes::Passes;
use crate::plan::{External, Kernel, Plan, Read, Write};
use autograd_core::device::{self, Home, Laid, LaidStep, LaidValue, Whole};
use autograd_core::kernels::Layout;
use autograd_core::kernels::arena::Region;
use autograd_core::smallvec::SmallVec;
use autograd_core::{
    Buffer, DType, DeviceLocation, Error, Instruction, Meta, Operand, Prim, Program, Result, TrackedTensor,
    Values, algebra, apply_call, dtype_of, on_behalf_of,
};
use autograd_tape::run_recorded;
use parking_lot::Mutex;
use std::sync::Arc;

/// A graph's programs for devices, made at the first run there.
#[derive(Default)]
pub(crate) struct Elsewhere(Mutex<Vec<Made>>);

/// What runs on a device.
#[derive(Clone)]
struct Made {
    location: DeviceLocation,
    passes: bool,
    program: Arc<Program>,
    /// The program as one thing, where the device's kernels take it.
    whole: Option<Arc<Whole>>,
}

/// A value on another device than the CPU, where there is one among these.
pub(crate) fn device_of<'a>(inputs: &[&'a TrackedTensor]) -> Option<&'a TrackedTensor> {
    inputs.iter().find(|x| x.location() != DeviceLocation::Cpu).copied()
}

impl Elsewhere {
    /// Runs a graph where `like`, one of the inputs, is: after the passes, or as it was captured.
    pub(crate) fn run(
        &self,
        graph: &Graph,
        passes: Option<&Passes>,
        inputs: &[&TrackedTensor],
        like: &TrackedTensor,
    ) -> Result<Vec<TrackedTensor>> {
        let location = like.location();
        if inputs.iter().any(|x| x.location() != location) {
            return Err(mismatch(inputs.iter().map(|x| x.location()).collect()));
        }
        let key = |known: &&Made| known.location == location && known.passes == passes.is_some();
        let known = self.0.lock().iter().find(key).cloned();
        let made = match known {
            Some(made) => made,
            None => {
                let graph = match passes {
                    // Blocks of rows are for the CPU's cache, and a bias goes with the fused ops
                    // after its product.
                    Some(passes) => {
                        let passes = Passes { block: false, linear: false, ..*passes };
                        biases_apart(graph.without_checkpoints())?.optimise(&passes)?
                    }
                    None => graph.clone(),
                };
                let whole = match passes {
                    Some(_) => whole(graph.program(), like)?.map(Arc::new),
                    None => None,
                };
                let program = Arc::new(moved(graph.program().clone(), like)?);
                let made = Made { location, passes: passes.is_some(), program, whole };
                self.0.lock().push(made.clone());
                made
            }
        };
        match made.whole {
            Some(whole) if inputs.iter().all(|x| x.plain().is_some()) => whole.run(inputs),
            _ => run_recorded(&made.program, inputs),
        }
    }
}

/// The program made ready for the device of `like`; `None` where its kernels do not take all of it.
fn whole(program: &Program, like: &TrackedTensor) -> Result<Option<Whole>> {
    let Some(program) = in_smaller_ops(program) else { return Ok(None) };
    let program = moved(program, like)?;
    // Nothing is written over what it reads: the device's kernels do not say that they may.
    let plan = Plan::new(&program, false)?;
    match laid(&plan, &program)? {
        Some(laid) => device::compile(&laid, like),
        None => Ok(None),
    }
}

/// The graph with additions of biases as ops of their own, which can be fused with others.
fn biases_apart(graph: Graph) -> Result<Graph> {
    let program = graph.program();
    let open: Vec<bool> = program.instructions.iter().map(|step| step.op.is_affine()).collect();
    if !open.contains(&true) {
        return Ok(graph);
    }
    Graph::capture_with(|x| run_opened(program, &open, x), &program.inputs, graph.hints)
}

/// How often ops are taken apart: a fused backward kernel, then what it is made of.
const ROUNDS: usize = 4;

/// The program in ops that the device's kernels take or that are views; `None` where some op cannot
/// be said so.
fn in_smaller_ops(program: &Program) -> Option<Program> {
    let mut program = program.clone();
    for _ in 0..ROUNDS {
        let open: Vec<bool> = program.instructions.iter().map(|step| !is_taken(&program, step)).collect();
        if !open.contains(&true) {
            return Some(program);
        }
        let hints = program.instructions.iter().any(|step| step.aux > 0);
        let run = |x: &[TrackedTensor]| run_opened(&program, &open, x);
        // An op that cannot be taken apart leaves the program to those that run it op by op.
        let opened = Graph::capture_with(run, &program.inputs, hints).ok()?;
        program = opened.program().clone();
    }
    None
}

/// Whether an instruction needs no launch, or the device's kernels take it.
fn is_taken(program: &Program, step: &Instruction) -> bool {
    let metas: Vec<Meta> = step.operands.iter().map(|o| meta_of(program, *o)).collect();
    let layouts: Vec<Layout> = metas.iter().map(|x| Layout::contiguous(x.shape)).collect();
    let refs: SmallVec<[&Layout; 4]> = layouts.iter().collect();
    let view = matches!(step.outputs[..], [y] if step.op.view(&y, &refs).is_some());
    view || step.op.infer(&metas).is_ok_and(|signature| device::takes(&*step.op, &metas, &signature))
}

/// Runs a program on values that are being captured, some of its ops by their decomposition.
fn run_opened(program: &Program, open: &[bool], inputs: &[TrackedTensor]) -> Result<Vec<TrackedTensor>> {
    let mut made: Vec<Values> = Vec::with_capacity(program.instructions.len());
    let read = |made: &[Values], operand: Operand| match operand {
        Operand::Input(i) => inputs[i].clone(),
        Operand::Constant(i) => program.constants[i].clone(),
        Operand::Result { instruction, output } => made[instruction][output].clone(),
    };
    for (step, open) in program.instructions.iter().zip(open) {
        let operands: Vec<TrackedTensor> = step.operands.iter().map(|o| read(&made, *o)).collect();
        let refs: Vec<&TrackedTensor> = operands.iter().collect();
        made.push(on_behalf_of(step.site, || {
            if *open {
                let parts = step.op.decompose(&refs)?;
                let parts = parts.filter(|parts| parts.len() == step.outputs.len());
                return parts
                    .ok_or_else(|| Error::mode(step.op.name(), "device", "it cannot be taken apart"));
            }
            let applied = apply_call(&*step.op, &refs, step.aux > 0, step.site)?;
            Ok(applied.outputs.into_iter().chain(applied.aux).collect())
        })?);
    }
    Ok(program.outputs.iter().map(|o| read(&made, *o)).collect())
}

/// The plan in the words of a device; `None` for a step that only the CPU has.
fn laid(plan: &Plan, program: &Program) -> Result<Option<Laid>> {
    let region = |region: &Region, layout: Layout| LaidValue {
        home: Home::Arena,
        at: region.offset,
        layout,
        dtype: dtype_of(region.kind),
    };
    let mut steps = Vec::with_capacity(plan.steps.len());
    for step in &plan.steps {
        let op: Option<Prim> = match &step.kernel {
            Kernel::Op(op) => Some(op.clone()),
            Kernel::Copy => None,
            Kernel::Fused { .. } | Kernel::Blocked { .. } => return Ok(None),
        };
        let outside = |home: Home, dtype: DType, layout: Layout| LaidValue { home, at: 0, layout, dtype };
        let reads: Vec<LaidValue> = step
            .reads
            .iter()
            .map(|(read, layout)| match *read {
                Read::Arena(i) => region(&step.read_regions[i], *layout),
                Read::Output(k) => outside(Home::Output(k), plan.outputs[k].dtype, *layout),
                Read::External(i) => match step.externals[i] {
                    External::Input(i) => outside(Home::Input(i), plan.inputs[i].dtype, *layout),
                    External::Constant(i) => {
                        outside(Home::Constant(i), program.constants[i].dtype(), *layout)
                    }
                },
            })
            .collect();
        let metas: Vec<Meta> = reads.iter().map(LaidValue::meta).collect();
        let made: Vec<Meta> = match &op {
            Some(op) => {
                let signature = op.infer(&metas)?;
                signature.outputs.into_iter().chain(signature.aux).collect()
            }
            None => metas,
        };
        let writes = step
            .writes
            .iter()
            .zip(&made)
            .map(|(write, meta)| {
                let layout = Layout::contiguous(meta.shape);
                match *write {
                    Write::Arena(i) => region(&step.write_regions[i], layout),
                    Write::Output(k) => outside(Home::Output(k), meta.dtype, layout),
                }
            })
            .collect();
        steps.push(LaidStep { op, reads, writes, site: step.site });
    }
    let (inputs, outputs) = (plan.inputs.clone(), plan.outputs.clone());
    Ok(Some(Laid { steps, bytes: plan.bytes, inputs, constants: program.constants.clone(), outputs }))
}

/// A program whose constants lie where `like` does.
pub(crate) fn moved(mut program: Program, like: &TrackedTensor) -> Result<Program> {
    for constant in &mut program.constants {
        let Some(plain) = constant.plain() else { continue };
        let location = plain.device();
        // What candle holds may change behind our back: a copy of it would not.
        if location != like.location() && matches!(plain.buffer(), Buffer::Candle(..)) {
            return Err(mismatch(vec![location, like.location()]));
        }
        *constant = algebra::beside(constant.clone(), like)?;
    }
    Ok(program)
}

fn mismatch(devices: Vec<DeviceLocation>) -> Error {
    Error::DeviceMismatch { op: "compiled", devices, at: autograd_core::At::default() }
}

#[cfg(test)]
mod tests {
    use crate::{Graph, Passes, compile, jit, value_and_grad};
    use autograd_core::testing::elsewhere;
    use autograd_core::{DType, Device, Error, Result, Tensor, TrackedTensor};
    use autograd_ops::{TensorAutograd, norm};
    use autograd_tape::GradientTape;

    fn vector(len: usize, factor: f64) -> Result<TrackedTensor> {
        TrackedTensor::from_vec((0..len).map(|i| factor * (i as f64 - 2.5)).collect(), &[len])
    }

    fn close(a: &TrackedTensor, b: &TrackedTensor) -> Result<()> {
        for (a, b) in a.to_flat::<f64>()?.iter().zip(b.to_flat::<f64>()?) {
            assert!((a - b).abs() < 1e-12 * b.abs().max(1.0), "{a}, not {b}");
        }
        Ok(())
    }

    #[test]
    fn a_step_gives_on_a_device_what_it_gives_here() -> Result<()> {
        let shift = vector(6, 0.25)?;
        let loss = |x: &[TrackedTensor]| {
            let rows = x[0].mul(&x[1])?.tanh()?.add(&shift)?.affine(2.0, 0.5)?.reshape((2, 3))?;
            let ones = autograd_core::algebra::ones_like(&rows.narrow(0, 0, 1)?.flatten_all()?)?;
            norm::layer_norm(&rows, &ones, &ones, 1e-3)?.softmax(-1)?.log()?.sum()
        };
        let step = jit(value_and_grad(loss));
        let (x, w) = (vector(6, 0.5)?, vector(6, -0.75)?);
        let here = step.call(&[&x, &w])?;
        let (far_x, far_w) = (elsewhere(&x)?, elsewhere(&w)?);
        // Compiled here first, and there first.
        for step in [&step, &jit(value_and_grad(loss))] {
            for _ in 0..2 {
                let there = step.call(&[&far_x, &far_w])?;
                for (there, here) in there.iter().zip(&here) {
                    assert_eq!(there.location(), far_x.location());
                    close(there, here)?;
                }
            }
        }
        Ok(())
    }

    #[test]
    fn a_bias_is_fused_with_what_follows_its_product() -> Result<()> {
        let (x, w, b) =
            (vector(6, 0.5)?.reshape((2, 3))?, vector(12, 0.25)?.reshape((4, 3))?, vector(4, 1.0)?);
        let layer = |x: &[TrackedTensor]| Ok(vec![x[0].linear(&x[1], Some(&x[2]))?.tanh()?]);
        let graph = Graph::capture(layer, &[x.meta(), w.meta(), b.meta()])?;
        let passes = Passes { linear: false, ..Passes::ALL };
        let apart = super::biases_apart(graph)?.optimise(&passes)?;
        let names: Vec<_> = apart.program().instructions.iter().map(|step| step.op.name()).collect();
        assert_eq!(names.iter().filter(|name| ["matmul", "fused"].contains(name)).count(), 2, "{apart}");
        assert!(!names.contains(&"linear") && !names.contains(&"add"), "{apart}");
        let there = jit(layer).call(&[&elsewhere(&x)?, &elsewhere(&w)?, &elsewhere(&b)?])?;
        close(&there[0], &layer(&[x, w, b])?[0])
    }

    /// A graph of a backward pass that was captured on the CPU reads what its kernels keep.
    #[test]
    fn hints_of_the_cpu_are_an_error_elsewhere() -> Result<()> {
        let x = TrackedTensor::from_vec((0..6).map(f64::from).collect(), &[2, 3])?;
        let norm = |x: &[TrackedTensor]| norm::layer_norm_with(&x[0], 1, None, None, 1e-3)?.tanh()?.sum();
        let here = compile(value_and_grad(norm), &[x.meta()])?;
        let far = elsewhere(&x)?;
        let error = here.call(&[&far]).err();
        assert!(matches!(error, Some(Error::UnsupportedMode { mode: "device", .. })), "{error:?}");
        let there = compile(value_and_grad(norm), &[far.meta()])?;
        close(&there.call(&[&far])?[1], &here.call(&[&x])?[1])
    }

    #[test]
    fn gradients_go_through_a_graph_on_a_device() -> Result<()> {
        let x = vector(6, 0.5)?;
        let f = compile(|x| Ok(vec![x[0].tanh()?.mul(&x[0])?.affine(3.0, 1.0)?]), &[x.meta()])?;
        let gradient = |x: &TrackedTensor| -> Result<TrackedTensor> {
            let tape = GradientTape::new().persistent();
            let v = tape.variable(x);
            let dx = tape.gradient(&f.call(&[&v])?[0].sum()?, &[&v])?.remove(0);
            // Second order is by the ops of the graph as it was captured.
            Ok(tape.gradient(&dx.sum()?, &[&v])?.remove(0))
        };
        close(&gradient(&elsewhere(&x)?)?, &gradient(&x)?)
    }

    #[test]
    fn two_devices_are_an_error_that_names_both() -> Result<()> {
        let x = vector(6, 0.5)?;
        let far = elsewhere(&x)?;
        let both = |error: Option<Error>| match error {
            Some(Error::DeviceMismatch { devices, .. }) => {
                assert!(devices.contains(&x.location()) && devices.contains(&far.location()));
            }
            other => panic!("not a mismatch: {other:?}"),
        };
        let sum = jit(|x: &[TrackedTensor]| Ok(vec![x[0].add(&x[1])?]));
        both(sum.call(&[&x, &far]).err());
        // A closed-over tensor of candle can change, so it is not copied.
        let held = TrackedTensor::from(Tensor::zeros(6, DType::F64, &Device::Cpu)?);
        let close_over = jit(|x: &[TrackedTensor]| Ok(vec![x[0].add(&held)?]));
        both(close_over.call(&[&far]).err());
        let mut outputs = [x.clone()];
        let error = compile(|x| Ok(vec![x[0].exp()?]), &[x.meta()])?.run_into(&[&far], &mut outputs).err();
        assert!(matches!(error, Some(Error::UnsupportedDevice { op: "run_into", .. })), "{error:?}");
        Ok(())
    }
}
