//! Elements chosen by comparing: extrema over any dimensions, sorting along one.

use super::reduce::{runs, walks};
use super::{Argument, BLOCK, Draft, Plan, Structure, alone, blocks_for, threads_for, whole};
use autograd_core::device::KernelCall;
use autograd_core::{DType, Meta, Shape};

/// A number's type as kernels name it.
fn suffix(dtype: DType) -> Option<&'static str> {
    match dtype {
        DType::U8 => Some("u8"),
        DType::U32 => Some("u32"),
        DType::I64 => Some("i64"),
        _ => super::suffix(dtype),
    }
}

/// The extremum of x over dimensions, its elements to `y` and its places to `chosen`.
fn extrema(draft: &mut Draft<'_>, max: bool, over: &[usize], y: Argument, chosen: Argument) -> Option<()> {
    let x = draft.inputs[0];
    let mut kept = x.shape;
    over.iter().try_for_each(|&dim| kept.dims_mut().get_mut(dim).map(|extent| *extent = 1))?;
    let (runs, suffix) = (runs(&x.shape, &kept), suffix(x.dtype)?);
    let (total, n) = (kept.elements(), x.elements() / kept.elements());
    let inner = match runs[..] {
        [(_, true)] | [(_, false), (_, true)] => Some(1),
        [(_, true), (inner, false)] | [(_, false), (_, true), (inner, false)] => Some(inner),
        // Every element is an extremum.
        [] | [(_, false)] => Some(1),
        _ => None,
    };
    if let Some(inner) = inner.filter(|&inner| alone(n, inner, total)) {
        let last = [n, inner, total, usize::from(max)].map(whole);
        let arguments = [Argument::Input(0), y, chosen].into_iter().chain(last).collect();
        let entry = format!("extremum_columns_{suffix}");
        return draft.launch("extremum", entry, [blocks_for(total), 1], BLOCK as usize, arguments);
    }
    let walk = walks(&runs).u64(n).done();
    let arguments = vec![Argument::Input(0), y, chosen, walk, whole(usize::from(max))];
    draft.launch("extremum", format!("extremum_{suffix}"), [total, 1], threads_for(n), arguments)
}

/// Over any dimensions, without places.
pub(super) fn extremum(mut draft: Draft<'_>, call: &KernelCall) -> Option<Plan> {
    let (&max, over) = call.integers.split_first()?;
    let over: Vec<usize> = over.iter().map(|&dim| dim as usize).collect();
    extrema(&mut draft, max != 0, &over, Argument::Output(0), Argument::Null)?;
    draft.done()
}

/// The largest along a dimension.
pub(super) fn row_max(mut draft: Draft<'_>, call: &KernelCall) -> Option<Plan> {
    let dim = *call.integers.first()? as usize;
    extrema(&mut draft, true, &[dim], Argument::Output(0), Argument::Null)?;
    draft.done()
}

/// Along a dimension, with places.
pub(super) fn arg_extremum(mut draft: Draft<'_>, call: &KernelCall) -> Option<Plan> {
    let &[max, dim] = &call.integers[..] else { return None };
    extrema(&mut draft, max != 0, &[dim as usize], Argument::Output(0), Argument::Output(1))?;
    draft.done()
}

/// Lines along a dimension: how long they are, how far apart their elements, and how many.
pub(super) fn lines(x: &Shape, dim: usize) -> Option<[usize; 3]> {
    let n = *x.dims().get(dim)?;
    Some([n, x.dims()[dim + 1..].iter().product(), x.elements().checked_div(n)?])
}

/// The most threads of a block that sorts a tile: twice as many elements.
const MOST_THREADS: usize = 512;

/// Outputs the first elements in order, and their indices.
pub(super) fn sort(mut draft: Draft<'_>, call: &KernelCall) -> Option<Plan> {
    let &[dim, descending] = &call.integers[..] else { return None };
    let (x, dim): (Meta, usize) = (draft.inputs[0], usize::try_from(dim).ok()?);
    let [n, inner, total] = lines(&x.shape, dim)?;
    let count = draft.signature.outputs[0].shape.dims()[dim];
    let all = || [n, inner, total].into_iter().fold(Structure::default(), Structure::u64).done();
    let threads = n.div_ceil(2).next_power_of_two().clamp(32, MOST_THREADS);
    let mut run = 2 * threads;
    let mut room = || [draft.room(DType::I64, n * total), draft.room(DType::U32, n * total)];
    let mut from = room();
    // Runs are merged from one to the other.
    let mut to = if run < n { room() } else { from.clone() };
    let entry = format!("sort_tiles_{}", suffix(x.dtype)?);
    let [keys, indices] = from.clone();
    let arguments = vec![Argument::Input(0), keys, indices, all(), whole(descending as usize)];
    draft.launch("sort", entry, [total * n.div_ceil(run), 1], threads, arguments)?;
    while run < n {
        let arguments = from.iter().chain(&to).cloned().chain([all(), whole(run)]).collect();
        let blocks = [blocks_for(n * total), 1];
        draft.launch("sort", "merge_runs".to_owned(), blocks, BLOCK as usize, arguments)?;
        std::mem::swap(&mut from, &mut to);
        run *= 2;
    }
    let [_, indices] = from;
    let outputs = [Argument::Output(0), Argument::Output(1)];
    let arguments = [Argument::Input(0), indices].into_iter().chain(outputs).chain([all(), whole(count)]);
    let entry = format!("take_sorted_{}", x.dtype.size_in_bytes());
    let blocks = [blocks_for(total * count), 1];
    draft.launch("sort", entry, blocks, BLOCK as usize, arguments.collect())?;
    draft.done()
}
