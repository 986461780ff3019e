//! Scaled dot product attention, block of queries by block, and its reverse rule.
//!
//! The matrix of weights is never kept: a block of it is made, used, and in the reverse pass made
//! again from the logarithm of its row sums (Dao et al., "FlashAttention", 2022).

use crate::copy::copy;
use crate::expr::Unary;
use crate::math::unary;
use crate::matmul::{matmul, matmul_acc};
use crate::simd::Float;
use crate::threads::{Disjoint, parallel_for};
use crate::{Kind, Layout, Shape, SliceMut, View, memory};
use smallvec::SmallVec;
use std::borrow::Cow;
use std::ops::Range;

/// The inputs: q [..lead, G, L, D], k [..lead, S, D], v [..lead, S, E], and a mask that broadcasts
/// to [..lead, G, L, S]: bytes, 0 where a key is not seen, or floats that are added to the scores.
#[derive(Clone, Copy, Debug)]
pub struct Attention<'a> {
    /// Queries; G of them share their keys and values.
    pub q: View<'a>,
    /// Keys.
    pub k: View<'a>,
    /// Values.
    pub v: View<'a>,
    /// What is seen.
    pub mask: Option<View<'a>>,
    /// What the scores are multiplied with.
    pub scale: f64,
    /// Whether query i sees the keys 0 ..= i alone.
    pub causal: bool,
}

/// What the reverse rule is to give.
#[derive(Debug, Default)]
pub struct Gradients<'a> {
    /// With q's shape.
    pub dq: Option<SliceMut<'a>>,
    /// With k's shape.
    pub dk: Option<SliceMut<'a>>,
    /// With v's shape.
    pub dv: Option<SliceMut<'a>>,
    /// With the scores' shape [..lead, G, L, S].
    pub dmask: Option<SliceMut<'a>>,
}

/// y = softmax(scale · q·kᵀ + mask) · v, and log Σ exp of each row of scores, +∞ for a row that
/// sees nothing. Such a row of y is 0.
///
/// # Panics
/// Panics where shapes or types do not fit, or an output has another number of elements.
pub fn attention(a: &Attention<'_>, y: SliceMut<'_>, lse: Option<SliceMut<'_>>) {
    if y.kind() == Kind::F64 { forward::<f64>(a, y, lse) } else { forward::<f32>(a, y, lse) }
}

/// The gradients of [`attention`] from ct [..lead, G, L, E], its output y and, where it is given,
/// its log Σ exp.
///
/// # Panics
/// As [`attention`].
pub fn attention_vjp(
    a: &Attention<'_>,
    ct: View<'_>,
    y: View<'_>,
    lse: Option<View<'_>>,
    gradients: Gradients<'_>,
) {
    if ct.kind() == Kind::F64 {
        backward::<f64>(a, ct, y, lse, gradients);
    } else {
        backward::<f32>(a, ct, y, lse, gradients);
    }
}

/// Elements of a block of scores.
const BLOCK: usize = 64 * 1024;

/// The elements in row-major order and in the type of computation.
fn elements<'a, T: Float>(x: View<'a>) -> Cow<'a, [T]> {
    x.contiguous::<T>().map_or_else(
        || {
            let mut out = vec![T::ZERO; x.layout.elements()];
            copy(x, T::slice_mut(&mut out));
            Cow::Owned(out)
        },
        Cow::Borrowed,
    )
}

/// An output in the type of computation.
struct Sink<'a, T: Float> {
    out: SliceMut<'a>,
    wide: Option<Vec<T>>,
}

impl<'a, T: Float> Sink<'a, T> {
    fn new(out: SliceMut<'a>, len: usize) -> Self {
        assert!(out.len() == len, "an output of {} elements where {len} are expected", out.len());
        let wide = (out.kind() != T::KIND).then(|| memory::take(len));
        Self { out, wide }
    }

    fn slice(&mut self) -> &mut [T] {
        match &mut self.wide {
            Some(wide) => wide,
            None => T::write(&mut self.out).expect("the type was compared"),
        }
    }

    fn finish(self) {
        if let Some(wide) = self.wide {
            T::scatter(&wide, self.out);
            memory::give(wide);
        }
    }
}

/// The operands in the type of computation, and their extents.
struct Problem<'a, T: Float> {
    q: Cow<'a, [T]>,
    k: Cow<'a, [T]>,
    v: Cow<'a, [T]>,
    /// What is added to the scores, −∞ where nothing is seen, and where it lies.
    mask: Option<(Vec<T>, Layout)>,
    lead: Shape,
    /// Lead elements.
    outer: usize,
    /// G, L, S, D, E.
    group: usize,
    rows: usize,
    columns: usize,
    features: usize,
    values: usize,
    scale: T,
    causal: bool,
}

/// A matrix of r rows and c columns in a slice, or the transpose of one.
fn product<T: Float>(a: (&[T], [usize; 2], bool), b: (&[T], [usize; 2], bool), out: &mut [T], add: bool) {
    let layout = |[r, c]: [usize; 2], turned: bool| {
        let strides = if turned { [1, r.max(1)] } else { [c.max(1), 1] };
        Layout::new(Shape::new(&[r, c]), &strides, 0)
    };
    let (la, lb) = (layout(a.1, a.2), layout(b.1, b.2));
    let (a, b) = (View { data: T::slice(a.0), layout: &la }, View { data: T::slice(b.0), layout: &lb });
    let out = T::slice_mut(out);
    if add { matmul_acc(a, b, out) } else { matmul(a, b, out) }
}

impl<'a, T: Float> Problem<'a, T> {
    fn new(a: &Attention<'a>) -> Self {
        let (q, k, v) = (a.q.layout.dims(), a.k.layout.dims(), a.v.layout.dims());
        let n = k.len().checked_sub(2).expect("keys have two dimensions");
        assert!(
            q.len() == n + 3 && v.len() == n + 2 && q[..n] == k[..n] && k[..n] == v[..n],
            "attention of {q:?}, {k:?} and {v:?}"
        );
        assert!(q[n + 2] == k[n + 1] && k[n] == v[n], "attention of {q:?}, {k:?} and {v:?}");
        let full = Shape::new(&[&q[..n + 2], &k[n..=n]].concat());
        let mask = a.mask.map(|mask| {
            let small = Layout::contiguous(*mask.layout.shape());
            let layout = small.broadcast_to(&full).expect("a mask broadcasts to the scores");
            (additive(mask), layout)
        });
        Self {
            q: elements(a.q),
            k: elements(a.k),
            v: elements(a.v),
            mask,
            lead: Shape::new(&q[..n]),
            outer: q[..n].iter().product(),
            group: q[n],
            rows: q[n + 1],
            columns: k[n],
            features: q[n + 2],
            values: v[n + 1],
            scale: T::from_f64(a.scale),
            causal: a.causal,
        }
    }

    /// Rows of a block.
    fn block(&self) -> usize {
        (BLOCK / self.columns.max(1)).clamp(1, 64).min(self.rows.max(1))
    }

    /// The columns that any of these rows may see.
    fn seen(&self, rows: &Range<usize>) -> usize {
        if self.causal { self.columns.min(rows.end) } else { self.columns }
    }

    fn queries(&self, z: usize, g: usize, rows: &Range<usize>) -> &[T] {
        let start = ((z * self.group + g) * self.rows + rows.start) * self.features;
        &self.q[start..][..rows.len() * self.features]
    }

    fn keys(&self, z: usize, columns: usize) -> &[T] {
        &self.k[z * self.columns * self.features..][..columns * self.features]
    }

    fn shown(&self, z: usize, columns: usize) -> &[T] {
        &self.v[z * self.columns * self.values..][..columns * self.values]
    }

    /// The rows' scores: scale · q·kᵀ + mask, −∞ where nothing is seen.
    fn scores(&self, z: usize, g: usize, rows: &Range<usize>, out: &mut [T]) {
        let (r, c) = (rows.len(), self.seen(rows));
        let (q, k) = (self.queries(z, g, rows), self.keys(z, c));
        product((q, [r, self.features], false), (k, [self.features, c], true), out, false);
        let low = T::from_f64(f64::NEG_INFINITY);
        for (i, out) in rows.clone().zip(out.chunks_exact_mut(c.max(1))) {
            out.iter_mut().for_each(|s| *s = *s * self.scale);
            if let Some((mask, layout)) = &self.mask {
                let (at, step) = self.mask_row(layout, z, g, i);
                for (j, s) in out.iter_mut().enumerate() {
                    let m = mask[at + j * step];
                    // What is not seen has no say, whatever its score.
                    *s = if m == low { low } else { *s + m };
                }
            }
            if self.causal {
                out[c.min(i + 1)..].fill(low);
            }
        }
    }

    /// Where the mask of a row begins, and the step along it.
    fn mask_row(&self, layout: &Layout, z: usize, g: usize, row: usize) -> (usize, usize) {
        let (n, strides) = (self.lead.rank(), layout.strides());
        let (mut at, mut rest) = (g * strides[n] + row * strides[n + 1], z);
        for d in (0..n).rev() {
            at += rest % self.lead.dims()[d] * strides[d];
            rest /= self.lead.dims()[d];
        }
        (at, strides[n + 2])
    }
}

/// A mask as what is added to the scores.
fn additive<T: Float>(mask: View<'_>) -> Vec<T> {
    let mut out = vec![T::ZERO; mask.layout.elements()];
    copy(mask, T::slice_mut(&mut out));
    if mask.kind() == Kind::U8 {
        let low = T::from_f64(f64::NEG_INFINITY);
        out.iter_mut().for_each(|m| *m = if *m == T::ZERO { low } else { T::ZERO });
    }
    out
}

/// The largest number, NaN where there is one.
fn largest<T: Float>(x: &[T]) -> T {
    let low = T::from_f64(f64::NEG_INFINITY);
    x.iter().fold(low, |m, &x| if x > m || x.to_f64().is_nan() { x } else { m })
}

/// p = exp(s) / Σ exp(s) for each row; log Σ exp is given back row by row. `s` is overwritten.
fn weigh<T: Float>(s: &mut [T], p: &mut [T], columns: usize, mut lse: impl FnMut(usize, T)) {
    for (i, (s, p)) in s.chunks_exact_mut(columns).zip(p.chunks_exact_mut(columns)).enumerate() {
        let max = largest(s);
        if max == T::from_f64(f64::NEG_INFINITY) {
            p.fill(T::ZERO);
            lse(i, T::from_f64(f64::INFINITY));
            continue;
        }
        s.iter_mut().for_each(|s| *s = *s - max);
        unary(Unary::Exp, s, p);
        let sum: f64 = p.iter().map(|p| p.to_f64()).sum();
        let share = T::from_f64(1.0 / sum);
        p.iter_mut().for_each(|p| *p = *p * share);
        lse(i, max + T::from_f64(sum.ln()));
    }
}

fn forward<T: Float>(a: &Attention<'_>, y: SliceMut<'_>, lse: Option<SliceMut<'_>>) {
    let e = Problem::<T>::new(a);
    let all = e.outer * e.group * e.rows;
    let mut y = Sink::<T>::new(y, all * e.values);
    let mut sums = lse.map(|lse| Sink::<T>::new(lse, all));
    if all > 0 {
        let (step, blocks) = (e.block(), e.rows.div_ceil(e.block()));
        let out = Disjoint::new(y.slice());
        let lse = sums.as_mut().map(|s| Disjoint::new(s.slice()));
        parallel_for(e.outer * e.group * blocks, &|task| {
            let (zg, block) = (task / blocks, task % blocks);
            let rows = block * step..e.rows.min((block + 1) * step);
            let (r, c) = (rows.len(), e.seen(&rows));
            let first = zg * e.rows + rows.start;
            // SAFETY: blocks of rows do not overlap, and each is visited once.
            let y = unsafe { out.part(first * e.values..(first + r) * e.values) };
            let mut none: [T; 0] = [];
            let lse = match &lse {
                // SAFETY: as above.
                Some(lse) => unsafe { lse.part(first..first + r) },
                None => &mut none[..],
            };
            if c == 0 {
                y.fill(T::ZERO);
                lse.fill(T::from_f64(f64::INFINITY));
                return;
            }
            let (mut s, mut p) = (memory::take::<T>(r * c), memory::take::<T>(r * c));
            e.scores(zg / e.group, zg % e.group, &rows, &mut s);
            weigh(&mut s, &mut p, c, |i, sum| {
                if let Some(slot) = lse.get_mut(i) {
                    *slot = sum;
                }
            });
            product((&p, [r, c], false), (e.shown(zg / e.group, c), [c, e.values], false), y, false);
            memory::give(s);
            memory::give(p);
        });
    }
    y.finish();
    if let Some(sums) = sums {
        sums.finish();
    }
}

fn backward<T: Float>(
    a: &Attention<'_>,
    ct: View<'_>,
    y: View<'_>,
    lse: Option<View<'_>>,
    gradients: Gradients<'_>,
) {
    let e = Problem::<T>::new(a);
    let (ct, y, lse) = (elements::<T>(ct), elements::<T>(y), lse.map(elements::<T>));
    let rows = e.group * e.rows;
    let extents = [rows * e.features, e.columns * e.features, e.columns * e.values, rows * e.columns];
    let given = [gradients.dq, gradients.dk, gradients.dv, gradients.dmask];
    let mut sinks: SmallVec<[Option<Sink<'_, T>>; 4]> =
        given.into_iter().zip(extents).map(|(out, n)| Some(Sink::new(out?, e.outer * n))).collect();
    {
        let parts: SmallVec<[Option<Disjoint<'_, T>>; 4]> =
            sinks.iter_mut().map(|sink| Some(Disjoint::new(sink.as_mut()?.slice()))).collect();
        parallel_for(e.outer, &|z| {
            // SAFETY: each lead element has its own part of each output, and is visited once.
            let part =
                |i: usize| parts[i].as_ref().map(|p| unsafe { p.part(z * extents[i]..(z + 1) * extents[i]) });
            let lse = lse.as_ref().map(|lse| &lse[z * rows..(z + 1) * rows]);
            let n = rows * e.values;
            one(&e, z, &ct[z * n..][..n], &y[z * n..][..n], lse, [part(0), part(1), part(2), part(3)]);
        });
    }
    sinks.into_iter().flatten().for_each(Sink::finish);
}

/// The gradients of one lead element. With p the weights: dv = pᵀ·ct, ds = p·(ct·vᵀ − Σ ct·y),
/// dq = scale · ds·k, dk = scale · dsᵀ·q.
fn one<T: Float>(
    e: &Problem<'_, T>,
    z: usize,
    ct: &[T],
    y: &[T],
    lse: Option<&[T]>,
    [mut dq, mut dk, mut dv, mut dmask]: [Option<&mut [T]>; 4],
) {
    for out in [&mut dk, &mut dv, &mut dmask].into_iter().flatten() {
        out.fill(T::ZERO);
    }
    let (step, d, n) = (e.block(), e.features, e.values);
    let (mut s, mut p) = (memory::take::<T>(step * e.columns), memory::take::<T>(step * e.columns));
    for g in 0..e.group {
        for start in (0..e.rows).step_by(step) {
            let rows = start..e.rows.min(start + step);
            let (r, c, first) = (rows.len(), e.seen(&rows), g * e.rows + start);
            if c == 0 {
                if let Some(dq) = &mut dq {
                    dq[first * d..][..r * d].fill(T::ZERO);
                }
                continue;
            }
            let (s, p) = (&mut s[..r * c], &mut p[..r * c]);
            let (ct, y) = (&ct[first * n..][..r * n], &y[first * n..][..r * n]);
            e.scores(z, g, &rows, s);
            match lse {
                Some(lse) => {
                    for (s, &lse) in s.chunks_exact_mut(c).zip(&lse[first..]) {
                        s.iter_mut().for_each(|s| *s = *s - lse);
                    }
                    unary(Unary::Exp, s, p);
                }
                None => weigh(s, p, c, |_, _| {}),
            }
            if let Some(dv) = &mut dv {
                product((p, [c, r], true), (ct, [r, n], false), &mut dv[..c * n], true);
            }
            product((ct, [r, n], false), (e.shown(z, c), [n, c], true), s, false);
            for (i, (s, p)) in s.chunks_exact_mut(c).zip(p.chunks_exact(c)).enumerate() {
                let at = i * n..(i + 1) * n;
                let inner: f64 =
                    ct[at.clone()].iter().zip(&y[at]).map(|(a, b)| a.to_f64() * b.to_f64()).sum();
                let inner = T::from_f64(inner);
                for (s, &p) in s.iter_mut().zip(p) {
                    *s = p * (*s - inner);
                }
                if let Some(dmask) = &mut dmask {
                    dmask[(first + i) * e.columns..][..c].copy_from_slice(s);
                }
                s.iter_mut().for_each(|s| *s = *s * e.scale);
            }
            if let Some(dq) = &mut dq {
                let dq = &mut dq[first * d..][..r * d];
                product((s, [r, c], false), (e.keys(z, c), [c, d], false), dq, false);
            }
            if let Some(dk) = &mut dk {
                product((s, [c, r], true), (e.queries(z, g, &rows), [r, d], false), &mut dk[..c * d], true);
            }
        }
    }
    memory::give(s);
    memory::give(p);
}
