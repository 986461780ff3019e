//! Random numbers, new keys, and dropout.

use super::{Argument, BLOCK, Draft, Plan, blocks_for, real, suffix, whole};
use autograd_core::DType;
use autograd_core::device::KernelCall;

/// How many keys an input holds.
fn keys(draft: &Draft<'_>, input: usize) -> usize {
    draft.inputs[input].elements() / 2
}

/// Numbers of a key each, equally many.
pub(super) fn draw(mut draft: Draft<'_>, call: &KernelCall) -> Option<Plan> {
    let (y, keys) = (draft.signature.outputs[0], keys(&draft, 0));
    let n = y.elements() / keys;
    // A block of four words is as many numbers.
    let each = match (call.kernel, y.dtype) {
        ("normal", _) => 1,
        (_, DType::F64) => 2,
        _ => 4,
    };
    let arguments = vec![Argument::Input(0), Argument::Output(0), whole(keys), whole(n)];
    let (entry, blocks) =
        (format!("{}_{}", call.kernel, suffix(y.dtype)?), blocks_for(keys * n.div_ceil(each)));
    draft.launch("random", entry, [blocks, 1], BLOCK as usize, arguments)?;
    draft.done()
}

/// New keys from each key.
pub(super) fn split(mut draft: Draft<'_>, _: &KernelCall) -> Option<Plan> {
    let keys = keys(&draft, 0);
    let n = draft.signature.outputs[0].elements() / 2 / keys;
    let arguments = vec![Argument::Input(0), Argument::Output(0), whole(keys), whole(n)];
    let blocks = blocks_for(keys * n.div_ceil(2));
    draft.launch("random", "split_key".to_owned(), [blocks, 1], BLOCK as usize, arguments)?;
    draft.done()
}

/// A new key from each key and a number.
pub(super) fn fold_in(mut draft: Draft<'_>, call: &KernelCall) -> Option<Plan> {
    let (keys, number) = (keys(&draft, 0), *call.integers.first()?);
    let arguments = vec![Argument::Input(0), Argument::Output(0), whole(keys), whole(number as usize)];
    draft.launch("random", "fold_in".to_owned(), [blocks_for(keys), 1], BLOCK as usize, arguments)?;
    draft.done()
}

/// Inputs x and keys, which share their leading dimensions with x.
pub(super) fn dropout(mut draft: Draft<'_>, call: &KernelCall) -> Option<Plan> {
    let rate = call.reals[0];
    let entry = format!("dropout_{}", draft.suffix([0])?);
    let keys = keys(&draft, 1);
    let n = draft.inputs[0].elements() / keys;
    // A word below the threshold is dropped: all of them for 1, none for 0.
    let threshold = (rate * 4_294_967_296.0) as usize;
    let scale = if rate < 1.0 { 1.0 / (1.0 - rate) } else { 0.0 };
    let (x, y, key) = (Argument::Input(0), Argument::Output(0), Argument::Input(1));
    let arguments = vec![x, y, key, whole(keys), whole(threshold), real(scale), whole(n)];
    let blocks = blocks_for(keys * n.div_ceil(4));
    draft.launch("random", entry, [blocks, 1], BLOCK as usize, arguments)?;
    draft.done()
}
