//! A program said in ops that a device's kernels take.

use crate::graph::{Graph, meta_of};
use autograd_core::device::{self, Declined};
use autograd_core::kernels::Layout;
use autograd_core::smallvec::SmallVec;
use autograd_core::{
    Instruction, Meta, Operand, Program, Result, TrackedTensor, Values, apply_call, on_behalf_of,
};

/// How often ops are taken apart: a fused backward kernel, then what it is made of.
const ROUNDS: usize = 4;

/// The program in ops that the device's kernels take or that are views, or the ops that cannot be
/// said so.
///
/// # Errors
/// What an op reports while it is captured.
pub(super) fn in_smaller_ops(program: &Program) -> Result<std::result::Result<Program, Vec<Declined>>> {
    let mut program = program.clone();
    for _ in 0..ROUNDS {
        let open: Vec<bool> = program.instructions.iter().map(|step| !is_taken(&program, step)).collect();
        if !open.contains(&true) {
            return Ok(Ok(program));
        }
        let hints = program.instructions.iter().any(|step| step.aux > 0);
        let mut declined = Vec::new();
        let run = |x: &[TrackedTensor]| run_opened(&program, &open, x, &mut declined);
        let opened = Graph::capture_with(run, &program.inputs, hints)?;
        if !declined.is_empty() {
            return Ok(Err(declined));
        }
        program = opened.program().clone();
    }
    let still = program.instructions.iter().filter(|step| !is_taken(&program, step));
    let declined: Vec<Declined> = still.map(refused).collect();
    Ok(if declined.is_empty() { Ok(program) } else { Err(declined) })
}

/// The graph with additions of biases as ops of their own, which can be fused with others, but for
/// those that the device's kernels take with their products.
///
/// # Errors
/// As [`in_smaller_ops`].
pub(super) fn biases_apart(graph: Graph) -> Result<Graph> {
    let program = graph.program();
    let opens = |step: &Instruction| step.op.is_affine() && !is_taken(program, step);
    let open: Vec<bool> = program.instructions.iter().map(opens).collect();
    if !open.contains(&true) {
        return Ok(graph);
    }
    // What cannot be taken apart stays as it is.
    let run = |x: &[TrackedTensor]| run_opened(program, &open, x, &mut Vec::new());
    Graph::capture_with(run, &program.inputs, graph.hints)
}

fn refused(step: &Instruction) -> Declined {
    Declined::Op { op: step.op.name(), site: step.site }
}

/// Whether an instruction needs no launch, or the device's kernels take it.
fn is_taken(program: &Program, step: &Instruction) -> bool {
    let metas: Vec<Meta> = step.operands.iter().map(|o| meta_of(program, *o)).collect();
    let layouts: Vec<Layout> = metas.iter().map(|x| Layout::contiguous(x.shape)).collect();
    let refs: SmallVec<[&Layout; 4]> = layouts.iter().collect();
    let view = matches!(step.outputs[..], [y] if step.op.view(&y, &refs).is_some());
    view || step.op.infer(&metas).is_ok_and(|signature| device::takes(&*step.op, &metas, &signature))
}

/// Runs a program on values that are being captured, some of its ops by their decomposition. Those
/// that cannot be taken apart are named, and stay as they are.
fn run_opened(
    program: &Program,
    open: &[bool],
    inputs: &[TrackedTensor],
    declined: &mut Vec<Declined>,
) -> Result<Vec<TrackedTensor>> {
    let mut made: Vec<Values> = Vec::with_capacity(program.instructions.len());
    let read = |made: &[Values], operand: Operand| match operand {
        Operand::Input(i) => inputs[i].clone(),
        Operand::Constant(i) => program.constants[i].clone(),
        Operand::Result { instruction, output } => made[instruction][output].clone(),
    };
    for (step, open) in program.instructions.iter().zip(open) {
        let operands: Vec<TrackedTensor> = step.operands.iter().map(|o| read(&made, *o)).collect();
        let refs: Vec<&TrackedTensor> = operands.iter().collect();
        let parts = || on_behalf_of(step.site, || step.op.decompose(&refs));
        let parts = match open {
            // What its parts report has kept it from being taken apart, too.
            true => parts().ok().flatten().filter(|parts| parts.len() == step.outputs.len()),
            false => None,
        };
        if *open && parts.is_none() {
            declined.push(refused(step));
        }
        made.push(match parts {
            Some(parts) => parts,
            None => {
                let applied = apply_call(&*step.op, &refs, step.aux > 0, step.site)?;
                applied.outputs.into_iter().chain(applied.aux).collect()
            }
        });
    }
    Ok(program.outputs.iter().map(|o| read(&made, *o)).collect())
}
