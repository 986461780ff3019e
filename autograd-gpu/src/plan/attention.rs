//! Attention without the matrix of scores.

use super::{Argument, Draft, Plan, Structure, threads_for, whole, wide};
use autograd_core::device::KernelCall;
use autograd_core::{DType, Layout, Meta, Shape};

/// Features of a head that a tile has room for.
const MOST_FEATURES: usize = 128;

/// Rows of a block: a warp each.
const ROWS: usize = 4;

/// Dimensions that a mask has before those of queries and keys.
const HEAD_DIMS: usize = 6;

/// The extents of q [..lead, G, L, D], k [..lead, S, D] and v [..lead, S, N].
struct Extents {
    /// Heads of q.
    heads: usize,
    group: usize,
    l: usize,
    s: usize,
    d: usize,
    n: usize,
}

impl Extents {
    /// `None` for more features than fit.
    fn of(q: &Shape, k: &Shape, v: &Shape) -> Option<Self> {
        let (&[ref lead @ .., group, l, d], &[.., s, _], &[.., n]) = (q.dims(), k.dims(), v.dims()) else {
            return None;
        };
        let heads = lead.iter().product::<usize>() * group;
        (d.max(n) <= MOST_FEATURES).then_some(Self { heads, group, l, s, d, n })
    }

    fn argument(&self, causal: i64, scale: f64) -> Option<Argument> {
        let extents = Structure::default().u64(self.l).u64(self.s).u32(self.d)?.u32(self.n)?;
        Some(extents.u32(self.group)?.u32(causal as usize)?.f64(scale).done())
    }
}

/// Where the numbers of a mask lie that broadcasts to q's heads, queries and the keys.
fn places(q: &Shape, s: usize, mask: Option<&Meta>) -> Option<Argument> {
    let (mut steps, mut dims, mut along) = ([0; HEAD_DIMS], [1; HEAD_DIMS], [0; 2]);
    if let Some(mask) = mask {
        let mut scores = *q;
        *scores.dims_mut().last_mut()? = s;
        let layout = Layout::contiguous(mask.shape).broadcast_to(&scores)?;
        let (strides, extents) = (layout.strides(), scores.dims());
        let heads = extents.len().checked_sub(2)?;
        let first = HEAD_DIMS.checked_sub(heads)?;
        steps[first..].copy_from_slice(&strides[..heads]);
        dims[first..].copy_from_slice(&extents[..heads]);
        along.copy_from_slice(&strides[heads..]);
    }
    let places = along.into_iter().chain(steps).fold(Structure::default(), Structure::u64);
    let bytes = usize::from(mask.is_some_and(|mask| mask.dtype == DType::U8));
    let places = dims.into_iter().chain([bytes, 0]).try_fold(places, Structure::u32)?;
    Some(places.done())
}

/// Inputs q, k, v and, where there is one, a mask; hint: log Σ exp.
pub(super) fn attention(mut draft: Draft<'_>, call: &KernelCall) -> Option<Plan> {
    let (&[causal, _], &[scale]) = (&call.integers[..], &call.reals[..]) else { return None };
    let [q, k, v, mask @ ..] = draft.inputs else { return None };
    let e = Extents::of(&q.shape, &k.shape, &v.shape)?;
    let entry = format!("attention_{}", draft.suffix(0..3)?);
    let places = places(&q.shape, e.s, mask.first())?;
    let sums = draft.hint(0)?;
    let mut arguments: Vec<Argument> = (0..3).map(Argument::Input).collect();
    arguments.push(if mask.is_empty() { Argument::Null } else { Argument::Input(3) });
    arguments.extend([Argument::Output(0), sums, e.argument(causal, scale)?, places]);
    draft.launch("attention", entry, [e.l.div_ceil(ROWS), e.heads], 32 * ROWS, arguments)?;
    draft.done()
}

/// Inputs ct, y, q, k, v and, where they are there, a mask and log Σ exp; outputs those of dq, dk, dv
/// and the scores' gradient that are wanted.
pub(super) fn attention_vjp(mut draft: Draft<'_>, call: &KernelCall) -> Option<Plan> {
    let (&[causal, masked, hinted, ref wanted @ ..], &[scale]) = (&call.integers[..], &call.reals[..]) else {
        return None;
    };
    let [_, _, q, k, v, beside @ ..] = draft.inputs else { return None };
    let e = Extents::of(&q.shape, &k.shape, &v.shape)?;
    let (suffix, dtype): (_, DType) = (draft.suffix(0..5)?, wide(q.dtype));
    let places = places(&q.shape, e.s, beside.first().filter(|_| masked == 1))?;
    let mut next = 0;
    let mut output = |wanted: i64| {
        next += wanted as usize;
        if wanted == 1 { Argument::Output(next - 1) } else { Argument::Null }
    };
    let &[wants_q, wants_k, wants_v, wants_scores] = wanted else { return None };
    let [dq, dk, dv, ds] = [wants_q, wants_k, wants_v, wants_scores].map(&mut output);
    let delta = draft.room(dtype, e.heads * e.l);
    let [ct, y] = [0, 1].map(Argument::Input);
    let arguments = vec![ct.clone(), y, delta.clone(), whole(e.n)];
    let rows = [e.heads * e.l, 1];
    draft.launch("attention", format!("attention_delta_{suffix}"), rows, threads_for(e.n), arguments)?;
    let [q, k, v] = [2, 3, 4].map(Argument::Input);
    let mask = if masked == 1 { Argument::Input(5) } else { Argument::Null };
    let extents = e.argument(causal, scale)?;
    let sums = match hinted {
        1 => Argument::Input(5 + masked as usize),
        _ => {
            // The forward pass once more, without its output.
            let sums = draft.room(dtype, e.heads * e.l);
            let entry = format!("attention_{suffix}");
            let arguments = [&q, &k, &v, &mask, &Argument::Null, &sums, &extents, &places];
            let arguments = arguments.into_iter().cloned().collect();
            draft.launch("attention", entry, [e.l.div_ceil(ROWS), e.heads], 32 * ROWS, arguments)?;
            sums
        }
    };
    let common = [ct, q, k, v, mask, sums, delta];
    if wants_q == 1 || wants_scores == 1 {
        let arguments = common.iter().cloned().chain([dq, ds, extents.clone(), places.clone()]).collect();
        let grid = [e.l.div_ceil(ROWS), e.heads];
        draft.launch("attention", format!("attention_vjp_q_{suffix}"), grid, 32 * ROWS, arguments)?;
    }
    if wants_k == 1 || wants_v == 1 {
        let arguments = common.into_iter().chain([dk, dv, extents, places]).collect();
        let grid = [e.s.div_ceil(ROWS), e.heads / e.group];
        draft.launch("attention", format!("attention_vjp_kv_{suffix}"), grid, 32 * ROWS, arguments)?;
    }
    draft.done()
}
