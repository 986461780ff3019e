//! Along one dimension: running sums, resampling, softmax where it is not the last.

use super::order::lines;
use super::place::Way;
use super::{Argument, BLOCK, Draft, Plan, Structure, alone, blocks_for};
use autograd_core::Layout;
use autograd_core::device::KernelCall;

/// Running sums.
pub(super) fn cumsum(mut draft: Draft<'_>, call: &KernelCall) -> Option<Plan> {
    let &[dim, reversed] = &call.integers[..] else { return None };
    let [n, inner, total] = lines(&draft.inputs[0].shape, usize::try_from(dim).ok()?)?;
    let suffix = draft.suffix([0])?;
    let geometry =
        [n, inner, total, reversed as usize].into_iter().fold(Structure::default(), Structure::u64);
    let arguments = vec![Argument::Input(0), Argument::Output(0), geometry.done()];
    if alone(n, inner, total) {
        let entry = format!("cumsum_columns_{suffix}");
        draft.launch("scan", entry, [blocks_for(total), 1], BLOCK as usize, arguments)?;
    } else {
        let threads = n.next_multiple_of(32).min(BLOCK as usize);
        draft.launch("scan", format!("cumsum_{suffix}"), [total, 1], threads, arguments)?;
    }
    draft.done()
}

/// By a method's matrix, or its transpose.
pub(super) fn resample(mut draft: Draft<'_>, call: &KernelCall) -> Option<Plan> {
    let &[dim, method, from, to, transposed] = &call.integers[..] else { return None };
    let inner = lines(&draft.inputs[0].shape, usize::try_from(dim).ok()?)?[1];
    let n = draft.signature.outputs[0].elements();
    let numbers = [from as usize, to as usize, inner, method as usize, n];
    let geometry = numbers.into_iter().fold(Structure::default(), Structure::u64);
    let arguments = vec![Argument::Input(0), Argument::Output(0), geometry.done()];
    let kernel = if transposed == 0 { "resample" } else { "resample_transposed" };
    let entry = format!("{kernel}_{}", draft.suffix([0])?);
    draft.launch("resample", entry, [blocks_for(n), 1], BLOCK as usize, arguments)?;
    draft.done()
}

/// Values with a dimension moved to the end.
pub(super) struct Moved {
    /// The extents before the dimension, behind it, and its own.
    dims: [usize; 3],
    /// Where they lie in the value as it is.
    there: Way,
    /// Where they lie with the dimension at the end.
    here: Way,
}

impl Moved {
    /// `None` where the dimension is the last already.
    pub(super) fn new(draft: &Draft<'_>, input: usize, dim: usize) -> Option<Self> {
        let shape = draft.inputs[input].shape;
        let [n, inner, total] = lines(&shape, dim)?;
        let (outer, steps) = (total / inner, vec![n * inner, 1, inner]);
        let here = Way::of(&Layout::contiguous(autograd_core::Shape::new(&[outer, inner, n])));
        (inner > 1).then_some(Self { dims: [outer, inner, n], there: Way { start: 0, steps }, here })
    }

    /// The rows of an input, in a room.
    pub(super) fn read(&self, draft: &mut Draft<'_>, input: usize) -> Option<Argument> {
        let dtype = draft.inputs[input].dtype;
        let to = draft.room(dtype, self.dims.iter().product());
        draft.moved(dtype, &self.dims, (Argument::Input(input), &self.there), (to.clone(), &self.here))?;
        Some(to)
    }

    /// The output from its rows in a room.
    pub(super) fn write(&self, draft: &mut Draft<'_>, rows: Argument) -> Option<()> {
        let dtype = draft.signature.outputs[0].dtype;
        draft.moved(dtype, &self.dims, (rows, &self.here), (Argument::Output(0), &self.there))
    }
}
