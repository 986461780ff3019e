//! Elements by index along any dimension, elements added or written by index, the class of each row.

use super::{Argument, BLOCK, Draft, Plan, Structure, blocks_for, rows, whole};
use autograd_core::device::KernelCall;
use autograd_core::{DType, Layout, MAX_RANK, Shape};

/// Eight numbers, those of a layout behind what is missing.
fn eight(numbers: &[usize], missing: usize) -> [usize; MAX_RANK] {
    let mut all = [missing; MAX_RANK];
    all[MAX_RANK - numbers.len()..].copy_from_slice(numbers);
    all
}

/// Steps along all dimensions but one, along which something else leads; and that one's step.
fn led(shape: &Shape, dim: usize) -> Option<([usize; MAX_RANK], usize)> {
    let layout = Layout::contiguous(*shape);
    let mut steps = layout.strides().to_vec();
    let own = std::mem::take(steps.get_mut(dim)?);
    Some((eight(&steps, 0), own))
}

/// The steps of the indices: those of a value of their own shape, or along `dim` alone where they are
/// a list for all others.
fn steps_of(indices: &Shape, rank: usize, dim: usize) -> [usize; MAX_RANK] {
    if indices.rank() == rank {
        return eight(Layout::contiguous(*indices).strides(), 0);
    }
    let mut steps = vec![0; rank];
    steps[dim] = 1;
    eight(&steps, 0)
}

fn copied(structure: Structure, numbers: [usize; MAX_RANK]) -> Structure {
    numbers.into_iter().fold(structure, Structure::u64)
}

/// Inputs x and indices: of x's rank, or a list.
pub(super) fn gather(mut draft: Draft<'_>, call: &KernelCall) -> Option<Plan> {
    let dim = usize::try_from(*call.integers.first()?).ok()?;
    let (x, indices, y) = (draft.inputs[0], draft.inputs[1].shape, draft.signature.outputs[0]);
    let bound = *x.shape.dims().get(dim)?;
    let (steps, own) = led(&x.shape, dim)?;
    let read = Structure::default().u64(y.elements()).u64(bound).u64(own);
    let read = copied(copied(read, steps), steps_of(&indices, y.shape.rank(), dim));
    let read = eight(y.shape.dims(), 1).into_iter().try_fold(read, Structure::u32)?;
    draft.plan.converted = [None, Some(DType::I64)].into_iter().collect();
    let fault = draft.fault(bound, false);
    let arguments = vec![Argument::Input(0), Argument::Input(1), Argument::Output(0), fault, read.done()];
    let entry = format!("gather_{}", x.dtype.size_in_bytes());
    draft.launch("gather", entry, [blocks_for(y.elements()), 1], BLOCK as usize, arguments)?;
    draft.done()
}

/// Inputs x, indices and what is added to x at them, or written there.
pub(super) fn scatter(mut draft: Draft<'_>, call: &KernelCall) -> Option<Plan> {
    let dim = usize::try_from(*call.integers.first()?).ok()?;
    let (x, indices, source) = (draft.inputs[0], draft.inputs[1].shape, draft.inputs[2].shape);
    let (bound, count) = (*x.shape.dims().get(dim)?, *source.dims().get(dim)?);
    let lines = source.elements().checked_div(count)?;
    let ((y, step), (from, source_step)) = (led(&x.shape, dim)?, led(&source, dim)?);
    let mut at = steps_of(&indices, source.rank(), dim);
    let at_step = std::mem::take(&mut at[MAX_RANK - source.rank() + dim]);
    let write = [lines, count, bound, step, at_step, source_step].into_iter();
    let write = write.fold(Structure::default(), Structure::u64);
    let write = copied(copied(copied(write, y), at), from);
    let mut dims = eight(source.dims(), 1);
    dims[MAX_RANK - source.rank() + dim] = 1;
    let write = dims.into_iter().try_fold(write, Structure::u32)?;
    let entry = match call.kernel {
        "scatter" => format!("scatter_{}", x.dtype.size_in_bytes()),
        _ => format!("scatter_add_{}", draft.suffix([0, 2])?),
    };
    draft.plan.converted = [None, Some(DType::I64), None].into_iter().collect();
    draft.copied(Argument::Input(0), Argument::Output(0), x.dtype, x.elements())?;
    let fault = draft.fault(bound, false);
    let arguments = vec![Argument::Input(1), Argument::Input(2), Argument::Output(0), fault, write.done()];
    draft.launch("gather", entry, [blocks_for(lines), 1], BLOCK as usize, arguments)?;
    draft.done()
}

/// Inputs x and the classes: those of x that are picked, or the places where x is put.
pub(super) fn classes(mut draft: Draft<'_>, call: &KernelCall) -> Option<Plan> {
    let (x, y) = (draft.inputs[0], draft.signature.outputs[0]);
    draft.suffix([0])?;
    let placed = call.kernel == "place_class";
    let &[count, classes] = (if placed { y } else { x }).shape.dims() else { return None };
    draft.plan.converted = [None, Some(DType::I64)].into_iter().collect();
    let fault = draft.fault(classes, true);
    let ignored = rows::ignore(call);
    let (from, targets, to) = (Argument::Input(0), Argument::Input(1), Argument::Output(0));
    let arguments = vec![from, targets, to, fault, whole(count), whole(classes), ignored];
    let threads = if placed { count * classes } else { count };
    let entry = format!("{}_{}", call.kernel, x.dtype.size_in_bytes());
    draft.launch("gather", entry, [blocks_for(threads), 1], BLOCK as usize, arguments)?;
    draft.done()
}
