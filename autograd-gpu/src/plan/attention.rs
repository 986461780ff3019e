//! Attention without the matrix of scores.

use super::{Argument, Draft, Plan, Structure, threads_for, whole, wide};
use autograd_core::device::KernelCall;
use autograd_core::{DType, Shape};

/// Features of a head that a tile has room for.
const MOST_FEATURES: usize = 128;

/// Rows of a block: a warp each.
const ROWS: usize = 4;

/// The extents of q [..lead, G, L, D], k and v [..lead, S, D].
struct Extents {
    /// Heads of q.
    heads: usize,
    group: usize,
    l: usize,
    s: usize,
    d: usize,
}

impl Extents {
    /// `None` where values have other features than keys, or more than fit.
    fn of(q: &Shape, k: &Shape, v: &Shape) -> Option<Self> {
        let (&[ref lead @ .., group, l, d], &[.., s, _]) = (q.dims(), k.dims()) else { return None };
        let heads = lead.iter().product::<usize>() * group;
        (k == v && d <= MOST_FEATURES).then_some(Self { heads, group, l, s, d })
    }

    fn argument(&self, causal: i64, scale: f64) -> Option<Argument> {
        let extents = Structure::default().u64(self.l).u64(self.s);
        Some(extents.u32(self.d)?.u32(self.group)?.u32(causal as usize)?.f64(scale).done())
    }
}

/// Inputs q, k and v; hint: log Σ exp. A mask is the decomposition's.
pub(super) fn attention(mut draft: Draft<'_>, call: &KernelCall) -> Option<Plan> {
    let (&[causal, 0], &[scale]) = (&call.integers[..], &call.reals[..]) else { return None };
    let [q, k, v] = draft.inputs else { return None };
    let e = Extents::of(&q.shape, &k.shape, &v.shape)?;
    let entry = format!("attention_{}", draft.suffix(0..3)?);
    let sums = draft.hint(0)?;
    let mut arguments: Vec<Argument> = (0..3).map(Argument::Input).collect();
    arguments.extend([Argument::Output(0), sums, e.argument(causal, scale)?]);
    draft.launch("attention", entry, [e.l.div_ceil(ROWS), e.heads], 32 * ROWS, arguments)?;
    draft.done()
}

/// Inputs ct, y, q, k, v and, where it is there, log Σ exp; outputs those of dq, dk and dv that are
/// wanted.
pub(super) fn attention_vjp(mut draft: Draft<'_>, call: &KernelCall) -> Option<Plan> {
    let (&[causal, 0, hinted, wants_q, wants_k, wants_v], &[scale]) = (&call.integers[..], &call.reals[..])
    else {
        return None;
    };
    let [_, _, q, k, v, ..] = draft.inputs else { return None };
    let e = Extents::of(&q.shape, &k.shape, &v.shape)?;
    let (suffix, dtype): (_, DType) = (draft.suffix(0..5)?, wide(q.dtype));
    let mut next = 0;
    let mut output = |wanted: i64| {
        next += wanted as usize;
        if wanted == 1 { Argument::Output(next - 1) } else { Argument::Null }
    };
    let [dq, dk, dv] = [output(wants_q), output(wants_k), output(wants_v)];
    let delta = draft.room(dtype, e.heads * e.l);
    let [ct, y] = [0, 1].map(Argument::Input);
    let arguments = vec![ct.clone(), y, delta.clone(), whole(e.d)];
    let rows = [e.heads * e.l, 1];
    draft.launch("attention", format!("attention_delta_{suffix}"), rows, threads_for(e.d), arguments)?;
    let [q, k, v] = [2, 3, 4].map(Argument::Input);
    let extents = e.argument(causal, scale)?;
    let sums = match hinted {
        1 => Argument::Input(5),
        _ => {
            // The forward pass once more, without its output.
            let sums = draft.room(dtype, e.heads * e.l);
            let entry = format!("attention_{suffix}");
            let arguments = [&q, &k, &v, &Argument::Null, &sums, &extents].into_iter().cloned().collect();
            draft.launch("attention", entry, [e.l.div_ceil(ROWS), e.heads], 32 * ROWS, arguments)?;
            sums
        }
    };
    let common = [ct, q, k, v, sums, delta];
    if wants_q == 1 {
        let arguments = common.iter().cloned().chain([dq, extents.clone()]).collect();
        let grid = [e.l.div_ceil(ROWS), e.heads];
        draft.launch("attention", format!("attention_vjp_q_{suffix}"), grid, 32 * ROWS, arguments)?;
    }
    if wants_k == 1 || wants_v == 1 {
        let arguments = common.into_iter().chain([dk, dv, extents]).collect();
        let grid = [e.s.div_ceil(ROWS), e.heads / e.group];
        draft.launch("attention", format!("attention_vjp_kv_{suffix}"), grid, 32 * ROWS, arguments)?;
    }
    draft.done()
}
