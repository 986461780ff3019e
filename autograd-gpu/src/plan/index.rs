//! Rows by index, and rows added by index.

use super::{Argument, BLOCK, Draft, Plan, Room, blocks_for, gather, threads_for, whole};
use autograd_core::device::KernelCall;
use autograd_core::{DType, is_float};

/// Rows of n floats, where the op is along the first dimension.
fn rows(draft: &Draft<'_>, call: &KernelCall) -> Option<(usize, usize)> {
    let (&rows, rest) = draft.inputs[0].shape.dims().split_first()?;
    (call.integers[0] == 0 && is_float(draft.inputs[0].dtype)).then(|| (rows, rest.iter().product()))
}

/// Inputs x and indices.
pub(super) fn select(mut draft: Draft<'_>, call: &KernelCall) -> Option<Plan> {
    let Some((rows, n)) = rows(&draft, call) else { return gather::gather(draft, call) };
    let entry = format!("index_select_{}", draft.suffix([0])?);
    draft.plan.converted = [None, Some(DType::I64)].into_iter().collect();
    let fault = draft.fault(rows, false);
    let (table, index) = (Argument::Input(0), Argument::Input(1));
    let arguments = vec![table, index, Argument::Output(0), fault, whole(rows), whole(n)];
    let count = draft.inputs[1].elements();
    draft.launch("embedding", entry, [count, 1], threads_for(n), arguments)?;
    draft.done()
}

/// Inputs x, indices and what is added at them.
pub(super) fn add(mut draft: Draft<'_>, call: &KernelCall) -> Option<Plan> {
    let Some((rows, n)) = rows(&draft, call) else { return gather::scatter(draft, call) };
    let entry = format!("index_add_{}", draft.suffix([0, 2])?);
    draft.plan.converted = [None, Some(DType::I64), None].into_iter().collect();
    let count = draft.inputs[1].elements();
    draft.plan.rooms.push(Room { bytes: rows * 8, zeroed: true });
    let (counts, fault) = (Argument::Room(0), draft.fault(rows, false));
    let (starts, order) = (draft.room(DType::I64, rows + 1), draft.room(DType::I64, count));
    let index = Argument::Input(1);
    let arguments = vec![index.clone(), counts.clone(), fault, whole(rows), whole(count)];
    draft.launch("embedding", "count_indices".into(), [blocks_for(count), 1], BLOCK as usize, arguments)?;
    let arguments = vec![counts, starts.clone(), whole(rows)];
    draft.launch("embedding", "starts_of_rows".into(), [1, 1], threads_for(rows), arguments)?;
    let arguments = vec![index, starts.clone(), order.clone(), whole(rows), whole(count)];
    let warps = [(rows * 32).div_ceil(BLOCK as usize), 1];
    draft.launch("embedding", "order_indices".into(), warps, BLOCK as usize, arguments)?;
    let (x, source) = (Argument::Input(0), Argument::Input(2));
    let arguments = vec![x, source, order, starts, Argument::Output(0), whole(n)];
    draft.launch("embedding", entry, [rows, 1], threads_for(n), arguments)?;
    draft.done()
}
