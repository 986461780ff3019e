//! Windows over images: pooling, and convolutions with their gradients.

use super::reduce::finish;
use super::{Argument, BLOCK, Draft, Plan, Structure, blocks_for, parts_of, whole, wide};
use autograd_core::Shape;
use autograd_core::device::KernelCall;

/// Height and width of the last two dimensions.
fn plane(shape: &Shape) -> Option<[usize; 2]> {
    match shape.dims() {
        &[.., height, width] => Some([height, width]),
        _ => None,
    }
}

/// The windows of a pooling of x to planes like those of y.
fn window(call: &KernelCall, x: &Shape, y: &Shape) -> Option<Argument> {
    let numbers = call.integers.iter().map(|&n| n as usize);
    let mut window = Structure::default();
    for number in plane(x)?.into_iter().chain(plane(y)?).chain(numbers) {
        window = window.u32(number)?;
    }
    Some(window.done())
}

fn maxima(mut draft: Draft<'_>, call: &KernelCall, y: Argument, at: Argument) -> Option<Plan> {
    let entry = format!("max_pool2d_{}", draft.suffix([0])?);
    let out = draft.signature.outputs[0];
    let window = window(call, &draft.inputs[0].shape, &out.shape)?;
    let total = out.elements();
    let arguments = vec![Argument::Input(0), y, at, window, whole(total)];
    draft.launch("pool", entry, [blocks_for(total), 1], BLOCK as usize, arguments)?;
    draft.done()
}

/// Hint: where in its plane each maximum is.
pub(super) fn max_pool(mut draft: Draft<'_>, call: &KernelCall) -> Option<Plan> {
    let at = draft.hint(0)?;
    maxima(draft, call, Argument::Output(0), at)
}

pub(super) fn max_pool_indices(draft: Draft<'_>, call: &KernelCall) -> Option<Plan> {
    maxima(draft, call, Argument::Null, Argument::Output(0))
}

/// Inputs ct, x and the indices.
pub(super) fn max_pool_vjp(mut draft: Draft<'_>, call: &KernelCall) -> Option<Plan> {
    let entry = format!("max_pool2d_vjp_{}", draft.suffix([0, 1])?);
    let window = window(call, &draft.inputs[1].shape, &draft.inputs[0].shape)?;
    let total = draft.inputs[1].elements();
    let arguments = vec![Argument::Input(0), Argument::Input(2), Argument::Output(0), window, whole(total)];
    draft.launch("pool", entry, [blocks_for(total), 1], BLOCK as usize, arguments)?;
    draft.done()
}

/// Means of windows, or the transpose: cotangents to the planes that the windows are of.
pub(super) fn avg_pool(mut draft: Draft<'_>, call: &KernelCall) -> Option<Plan> {
    let entry = format!("{}_{}", call.kernel, draft.suffix([0])?);
    let (read, written) = (draft.inputs[0].shape, draft.signature.outputs[0].shape);
    let (x, y) = if call.kernel == "avg_pool2d" { (read, written) } else { (written, read) };
    let (window, total) = (window(call, &x, &y)?, written.elements());
    let arguments = vec![Argument::Input(0), Argument::Output(0), window, whole(total)];
    draft.launch("pool", entry, [blocks_for(total), 1], BLOCK as usize, arguments)?;
    draft.done()
}

/// Rows and columns of a tile of the product that a convolution is.
const SIDE: usize = 64;

/// Two of input, kernel and output to the third.
pub(super) fn conv(mut draft: Draft<'_>, call: &KernelCall) -> Option<Plan> {
    let &[sy, sx, py, px, dy, dx, groups] = &call.integers[..] else { return None };
    let (a, b, out) = (draft.inputs[0], draft.inputs[1], draft.signature.outputs[0]);
    let (x, k, y) = match call.kernel {
        // candle's, with cuBLAS behind it, where its parameters suffice.
        "conv2d" if sy == sx && py == px && dy == dx && !draft.whole => return None,
        "conv2d" => (a, b, out),
        "conv2d_input_grad" => (out, a, b),
        _ => (a, out, b),
    };
    let (&[n, c, h, w], &[o, own, kh, kw], &[_, _, oh, ow]) =
        (x.shape.dims(), k.shape.dims(), y.shape.dims())
    else {
        return None;
    };
    let groups = groups as usize;
    let (rows, columns, depth) = match call.kernel {
        "conv2d" => (o / groups, n * oh * ow, own * kh * kw),
        "conv2d_input_grad" => (own, n * h * w, o / groups * kh * kw),
        _ => (o / groups, own * kh * kw, n * oh * ow),
    };
    let suffix = draft.suffix([0, 1])?;
    let tiles = rows.div_ceil(SIDE) * columns.div_ceil(SIDE);
    let (splits, per) = parts_of(depth, tiles * groups, 256);
    let mut geometry = Structure::default();
    let steps = [sy, sx, py, px, dy, dx].map(|n| n as usize);
    for number in [n, c, h, w, o, kh, kw, oh, ow].into_iter().chain(steps).chain([groups]) {
        geometry = geometry.u32(number)?;
    }
    let total = out.elements();
    let parts = if splits > 1 { draft.room(wide(a.dtype), splits * total) } else { Argument::Null };
    let to = Argument::Output(0);
    let arguments =
        vec![Argument::Input(0), Argument::Input(1), to.clone(), parts.clone(), geometry.u64(per).done()];
    draft.launch("conv", format!("{}_{suffix}", call.kernel), [tiles, groups * splits], 256, arguments)?;
    if splits > 1 {
        finish(&mut draft, suffix, parts, to, splits, total, 1.0)?;
    }
    draft.done()
}
