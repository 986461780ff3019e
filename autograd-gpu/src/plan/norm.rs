//! Norms: rows that lie together (layer, group, instance, rms), or channels that do not (batch).

use super::reduce::finish;
use super::{Argument, Draft, Plan, Structure, parts_of, real, threads_for, whole, wide};
use autograd_core::device::KernelCall;
use autograd_core::{Mask, Shape};

/// How the dimensions of x are seen by the kernels.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    /// Rows of n elements; element i of row r has the parameter (r mod groups)·(n / inner) + i / inner.
    Rows { rows: usize, n: usize, groups: usize, inner: usize },
    /// All elements but those of other channels; a parameter for each channel.
    Channels { batch: usize, channels: usize, inner: usize },
}

/// x of these extents, normalised over some of its dimensions, with weight and bias of one shape
/// that broadcasts to it.
fn seen(x: &Shape, over: Mask, affine: Option<&Shape>) -> Option<Seen> {
    let dims = x.dims();
    let rank = dims.len();
    let product = |range: std::ops::Range<usize>| dims[range].iter().product::<usize>();
    let affine = match affine {
        Some(affine) => {
            let mut full = vec![1; rank.checked_sub(affine.rank())?];
            full.extend_from_slice(affine.dims());
            Some(full)
        }
        None => None,
    };
    // Whether the parameters are those of the dimensions a .. b.
    let spans = |a: usize, b: usize| {
        affine
            .as_ref()
            .is_none_or(|s| (0..rank).all(|d| s[d] == if (a..b).contains(&d) { dims[d] } else { 1 }))
    };
    let first = (0..rank).find(|&d| over.has(d))?;
    if (first..rank).all(|d| over.has(d)) {
        let Some(s) = &affine else {
            return Some(Seen::Rows {
                rows: product(0..first),
                n: product(first..rank),
                groups: 1,
                inner: 1,
            });
        };
        let a = (0..first).take_while(|&d| s[d] == 1).count();
        let b = (first..rank).rev().take_while(|&d| s[d] == 1).last().unwrap_or(rank);
        let (n, inner) = (product(first..rank), product(b..rank));
        return spans(a, b).then(|| Seen::Rows {
            rows: product(0..first),
            n,
            groups: product(a..first),
            inner,
        });
    }
    let (a, b) = ((0..rank).find(|&d| !over.has(d))?, (0..rank).rev().find(|&d| !over.has(d))? + 1);
    let together = (a..b).all(|d| !over.has(d));
    let channels = Seen::Channels { batch: product(0..a), channels: product(a..b), inner: product(b..rank) };
    (together && a > 0 && spans(a, b)).then_some(channels)
}

fn channel(channels: usize, inner: usize) -> Argument {
    Structure::default().u64(channels).u64(inner).done()
}

/// Inputs x, weight and bias where they are there; hints rstd and, where it is centred, mean.
pub(super) fn normalize(mut draft: Draft<'_>, call: &KernelCall) -> Option<Plan> {
    let (&[over, centred, weighted, biased], &[eps]) = (&call.integers[..], &call.reals[..]) else {
        return None;
    };
    let inputs = draft.inputs;
    let mut next = 1..inputs.len();
    let mut part = |there: i64| (there == 1).then(|| next.next()).flatten();
    let (weight, bias) = (part(weighted), part(biased));
    let shapes: Vec<&Shape> = weight.iter().chain(&bias).map(|&i| &inputs[i].shape).collect();
    if shapes.len() == 2 && shapes[0] != shapes[1] {
        return None;
    }
    let seen = seen(&inputs[0].shape, bits(over), shapes.first().copied())?;
    let suffix = draft.suffix(0..inputs.len())?;
    let at = |i: Option<usize>| i.map_or(Argument::Null, Argument::Input);
    let (x, y, weight, bias) = (Argument::Input(0), Argument::Output(0), at(weight), at(bias));
    let rstd = draft.hint(0)?;
    match seen {
        Seen::Rows { rows, n, groups: 1, inner: 1 } if centred == 0 && biased == 0 => {
            let arguments = vec![x, weight, y, rstd, whole(n), real(eps)];
            draft.launch("norm", format!("rms_norm_{suffix}"), [rows, 1], threads_for(n), arguments)?;
        }
        _ if centred == 0 => return None,
        Seen::Rows { rows, n, groups, inner } => {
            let mean = draft.hint(1)?;
            let arguments =
                vec![x, weight, bias, y, mean, rstd, whole(n), whole(groups), whole(inner), real(eps)];
            draft.launch("norm", format!("row_norm_{suffix}"), [rows, 1], threads_for(n), arguments)?;
        }
        Seen::Channels { batch, channels, inner } => {
            let (mean, count) = (draft.hint(1)?, batch * inner);
            let arguments =
                vec![x, weight, bias, y, mean, rstd, whole(count), channel(channels, inner), real(eps)];
            let entry = format!("channel_norm_{suffix}");
            draft.launch("norm", entry, [channels, 1], threads_for(count), arguments)?;
        }
    }
    draft.done()
}

fn bits(over: i64) -> Mask {
    (0..8).filter(|d| over >> d & 1 == 1).collect()
}

/// Inputs ct, x, weight where dx reads it, rstd and, where it is centred, mean; outputs dx, dweight
/// and dbias, those that are wanted. Without hints the statistics are made first.
pub(super) fn normalize_vjp(mut draft: Draft<'_>, call: &KernelCall) -> Option<Plan> {
    let &[over, centred, reads_weight, hinted, input, weight, bias] = &call.integers[..] else { return None };
    let inputs = draft.inputs;
    let suffix = draft.suffix(0..2 + reads_weight as usize)?;
    let mut next = 0;
    let mut output = |wanted: i64| {
        next += wanted as usize;
        (wanted == 1).then(|| next - 1)
    };
    let [dx, dweight, dbias] = [output(input), output(weight), output(bias)];
    let made = [dweight, dbias].into_iter().flatten().map(|i| &draft.signature.outputs[i].shape);
    let shapes: Vec<&Shape> = made.chain((reads_weight == 1).then(|| &inputs[2].shape)).collect();
    if shapes.windows(2).any(|pair| pair[0] != pair[1]) {
        return None;
    }
    let seen = seen(&inputs[1].shape, bits(over), shapes.first().copied())?;
    let hints = 2 + reads_weight as usize;
    let (ct, x) = (Argument::Input(0), Argument::Input(1));
    let (rstd, mean) = match (hinted, centred) {
        (1, 1) => (Argument::Input(hints), Argument::Input(hints + 1)),
        (1, _) => (Argument::Input(hints), Argument::Null),
        _ => statistics(&mut draft, &seen, centred == 1, suffix, call.reals[0])?,
    };
    let w = if reads_weight == 1 { Argument::Input(2) } else { Argument::Null };
    let to = |i: Option<usize>| i.map_or(Argument::Null, Argument::Output);
    let (rows, n, groups, inner) = match seen {
        Seen::Channels { .. } if centred == 0 => return None,
        Seen::Channels { batch, channels, inner } => {
            let count = batch * inner;
            let outputs = [to(dx), to(dweight), to(dbias), whole(count), channel(channels, inner)];
            let arguments = [ct, x, w, mean, rstd].into_iter().chain(outputs).collect();
            let entry = format!("channel_norm_vjp_{suffix}");
            draft.launch("norm", entry, [channels, 1], threads_for(count), arguments)?;
            return draft.done();
        }
        Seen::Rows { rows, n, groups, inner } => (rows, n, groups, inner),
    };
    let by_columns = groups == 1 && inner == 1;
    if centred == 0 && !by_columns {
        return None;
    }
    if dx.is_some() {
        let (entry, arguments) = if centred == 1 {
            let arguments = vec![
                ct.clone(),
                x.clone(),
                w,
                mean.clone(),
                rstd.clone(),
                to(dx),
                whole(n),
                whole(groups),
                whole(inner),
            ];
            ("row_norm_vjp", arguments)
        } else {
            ("rms_norm_vjp", vec![ct.clone(), x.clone(), w, rstd.clone(), to(dx), whole(n)])
        };
        draft.launch("norm", format!("{entry}_{suffix}"), [rows, 1], threads_for(n), arguments)?;
    }
    if dweight.is_none() && dbias.is_none() {
        return draft.done();
    }
    if !by_columns {
        let outputs = [to(dweight), to(dbias), whole(rows), whole(n), whole(groups), whole(inner)];
        let arguments = [ct, x, mean, rstd].into_iter().chain(outputs).collect();
        let entry = format!("row_norm_vjp_affine_{suffix}");
        let terms = rows / groups * inner;
        draft.launch("norm", entry, [groups * n / inner, 1], threads_for(terms), arguments)?;
        return draft.done();
    }
    let (splits, per) = parts_of(rows, n.div_ceil(32), 64);
    let dtype = inputs[1].dtype;
    let mut rooms = [dweight, dbias]
        .map(|wanted| wanted.map_or(Argument::Null, |_| draft.room(wide(dtype), splits * n)))
        .into_iter();
    let (Some(weights), Some(biases)) = (rooms.next(), rooms.next()) else { return None };
    let arguments =
        vec![ct, x, mean, rstd, weights.clone(), biases.clone(), whole(rows), whole(n), whole(per)];
    let entry = format!("row_norm_vjp_columns_{suffix}");
    draft.launch("norm", entry, [n.div_ceil(32), splits], 256, arguments)?;
    for (parts, output) in [(weights, dweight), (biases, dbias)] {
        if output.is_some() {
            finish(&mut draft, suffix, parts, to(output), splits, n, 1.0)?;
        }
    }
    draft.done()
}

/// rstd and, where it is centred, the mean of the second input: the forward kernels without output.
fn statistics(
    draft: &mut Draft<'_>,
    seen: &Seen,
    centred: bool,
    suffix: &str,
    eps: f64,
) -> Option<(Argument, Argument)> {
    let (x, none, dtype) = (Argument::Input(1), Argument::Null, wide(draft.inputs[1].dtype));
    let slices = match *seen {
        Seen::Rows { rows, .. } => rows,
        Seen::Channels { channels, .. } => channels,
    };
    let rstd = draft.room(dtype, slices);
    let mean = if centred { draft.room(dtype, slices) } else { Argument::Null };
    let (entry, count, geometry) = match *seen {
        _ if !centred => {
            let Seen::Rows { n, .. } = *seen else { return None };
            let arguments = vec![x, none.clone(), none, rstd.clone(), whole(n), real(eps)];
            draft.launch("norm", format!("rms_norm_{suffix}"), [slices, 1], threads_for(n), arguments)?;
            return Some((rstd, mean));
        }
        Seen::Rows { n, groups, inner, .. } => ("row_norm", n, vec![whole(n), whole(groups), whole(inner)]),
        Seen::Channels { batch, channels, inner } => {
            ("channel_norm", batch * inner, vec![whole(batch * inner), channel(channels, inner)])
        }
    };
    let mut arguments = vec![x, none.clone(), none.clone(), none, mean.clone(), rstd.clone()];
    arguments.extend(geometry.into_iter().chain([real(eps)]));
    draft.launch("norm", format!("{entry}_{suffix}"), [slices, 1], threads_for(count), arguments)?;
    Some((rstd, mean))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn norms_are_seen_as_their_kernels_read_them() {
        let of = |dims: &[usize], over: &[usize], affine: Option<&[usize]>| {
            let affine = affine.map(Shape::new);
            seen(&Shape::new(dims), over.iter().copied().collect(), affine.as_ref())
        };
        let rows = |rows, n, groups, inner| Some(Seen::Rows { rows, n, groups, inner });
        assert_eq!(of(&[4, 6], &[1], Some(&[1, 6])), rows(4, 6, 1, 1));
        assert_eq!(of(&[4, 6], &[1], None), rows(4, 6, 1, 1));
        assert_eq!(of(&[2, 3, 4, 5], &[2, 3], Some(&[1, 3, 4, 1])), rows(6, 20, 3, 5));
        assert_eq!(of(&[2, 3, 5], &[2], Some(&[1, 3, 1])), rows(6, 5, 3, 5));
        let channels = Some(Seen::Channels { batch: 2, channels: 3, inner: 5 });
        assert_eq!(of(&[2, 3, 5], &[0, 2], Some(&[1, 3, 1])), channels);
        // A weight for each example is no norm's.
        assert_eq!(of(&[4, 6], &[1], Some(&[4, 6])), rows(4, 6, 4, 1));
        assert_eq!(of(&[2, 3, 5], &[0, 2], Some(&[1, 1, 5])), None);
        assert_eq!(of(&[2, 3, 5, 7], &[1, 3], None), None);
    }
}
