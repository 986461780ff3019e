//! Scaled dot product attention as one primitive that keeps no matrix of weights.
//!
//! The reverse rule keeps q, k, v, the output and, as a hint, the log Σ exp of each row: what
//! PyTorch's flash attention keeps. Said in ops it is two products around a softmax.

use crate::compare::gt;
use crate::matrix::matmul;
use crate::numbers::{in_front, sound, with_batch};
use crate::registry::{Case, Family, Op, Sample};
use crate::softmax::softmax;
use autograd_core::algebra::{self, add, mul, reshape, scale, select, sub, sum_to, transpose};
use autograd_core::device::KernelCall;
use autograd_core::kernels::attention::{Attention as Operands, Gradients, attention, attention_vjp};
use autograd_core::smallvec::{SmallVec, smallvec};
use autograd_core::{
    At, Error, General, Grads, Layout, Mask, Meta, Prim, Primitive, Residual, Residuals, Result, Rule, Saved,
    Shape, Signature, Site, SliceMut, TrackedTensor, Values, View, apply, apply_one, checked_shape, is_float,
};
use candle_core::DType;
use std::sync::Arc;

/// y = softmax(q·kᵀ · scale + mask) · v.
///
/// q is …×H×L×D, k …×h×S×D and v …×h×S×E with the same leading dimensions, where h divides H:
/// each head of k and v serves H/h heads of q. The mask broadcasts to …×H×L×S: of type u8 it is 0
/// where a key is not seen, of q's type it is added to the scores. With `causal`, query i sees the
/// keys 0 ..= i alone (PyTorch's `is_causal`). The scale is 1/√D where none is given. A query
/// that sees no key gives 0 and has gradient 0.
///
/// # Errors
/// Shapes that do not fit; types or devices that differ; a type that is not a float.
#[track_caller]
pub fn scaled_dot_product_attention(
    q: &TrackedTensor,
    k: &TrackedTensor,
    v: &TrackedTensor,
    mask: Option<&TrackedTensor>,
    causal: bool,
    scale: Option<f64>,
) -> Result<TrackedTensor> {
    let site = Site::caller();
    for x in [Some(q), Some(k), Some(v), mask].into_iter().flatten() {
        sound(x)?;
    }
    let seen = Seen::new(q, k, v).map_err(|e| e.or_at(site))?;
    let mask = mask.map(|mask| seen.mask(mask).map_err(|e| e.or_at(site))).transpose()?;
    let shape = |dims: &[usize]| checked_shape(NAME, dims).map_err(|e| e.or_at(site));
    let q5 = reshape(q, &shape(&seen.grouped(seen.l, seen.d))?)?;
    let scale = scale.unwrap_or(1.0 / (seen.d.max(1) as f64).sqrt());
    let op = Attend { scale, causal, masked: mask.is_some() };
    let mut inputs: SmallVec<[&TrackedTensor; 4]> = smallvec![&q5, k, v];
    inputs.extend(&mask);
    let y = apply_one(&op, &inputs)?;
    let mut dims: SmallVec<[usize; 8]> = SmallVec::from_slice(q.dims());
    dims[q.rank() - 1] = v.dims()[v.rank() - 1];
    reshape(&y, &shape(&dims)?)
}

/// How attention weighs keys.
#[derive(Clone, Copy, Debug, Default)]
pub struct AttentionOptions<'a> {
    /// What is not seen (u8, 0), or what is added to the scores.
    pub mask: Option<&'a TrackedTensor>,
    /// Query i sees the keys 0 ..= i alone.
    pub causal: bool,
    /// The factor of the scores; 1/√D where none is given.
    pub scale: Option<f64>,
    /// A key of [`random`](crate::random) and the probability with which a weight is dropped; the
    /// others are divided by one minus it.
    pub dropout: Option<(&'a TrackedTensor, f64)>,
}

/// [`scaled_dot_product_attention`] with its parameters by name, and with dropout of weights,
/// which keeps the matrix of weights for the backward pass.
///
/// # Errors
/// As [`scaled_dot_product_attention`], and as [`dropout`](crate::random::dropout).
#[track_caller]
pub fn attention_with(
    q: &TrackedTensor,
    k: &TrackedTensor,
    v: &TrackedTensor,
    options: &AttentionOptions<'_>,
) -> Result<TrackedTensor> {
    let &AttentionOptions { mask, causal, scale, dropout } = options;
    let Some((key, rate)) = dropout else {
        return scaled_dot_product_attention(q, k, v, mask, causal, scale);
    };
    let site = Site::caller();
    for x in [Some(q), Some(k), Some(v), Some(key), mask].into_iter().flatten() {
        sound(x)?;
    }
    let seen = Seen::new(q, k, v).map_err(|e| e.or_at(site))?;
    let mask = mask.map(|mask| seen.mask(mask).map_err(|e| e.or_at(site))).transpose()?;
    let shape = |dims: &[usize]| checked_shape(NAME, dims).map_err(|e| e.or_at(site));
    let q5 = reshape(q, &shape(&seen.grouped(seen.l, seen.d))?)?;
    let scale = scale.unwrap_or(1.0 / (seen.d.max(1) as f64).sqrt());
    let attend = Attend { scale, causal, masked: mask.is_some() };
    let weights = attend.weights(&q5, k, mask.as_ref()).map_err(|e| e.or_at(site))?;
    let kept = crate::random::dropout(&weights, key, rate)?;
    let y = matmul(&together(&kept)?, v)?;
    let mut dims: SmallVec<[usize; 8]> = SmallVec::from_slice(q.dims());
    dims[q.rank() - 1] = v.dims()[v.rank() - 1];
    reshape(&y, &shape(&dims)?)
}

const NAME: &str = "scaled_dot_product_attention";

/// The extents of an attention, heads of q in groups that share keys and values.
struct Seen {
    /// Leading dimensions, those of k and v.
    lead: SmallVec<[usize; 8]>,
    group: usize,
    l: usize,
    s: usize,
    d: usize,
}

impl Seen {
    fn new(q: &TrackedTensor, k: &TrackedTensor, v: &TrackedTensor) -> Result<Self> {
        let fault = |reason: &str| Error::shape(NAME, &[*q.shape(), *k.shape(), *v.shape()], reason);
        let ([ql @ .., l, d], [kl @ .., s, kd], [vl @ .., vs, _]) = (q.dims(), k.dims(), v.dims()) else {
            return Err(fault("queries, keys and values have two dimensions or more"));
        };
        if d != kd || s != vs || kl != vl {
            return Err(fault("keys do not fit the queries' features, or the values' number"));
        }
        let group = match (ql, kl) {
            ([], []) => Some(1),
            ([outer @ .., heads], [kouter @ .., shared]) if outer == kouter => match (*heads, *shared) {
                (0, 0) => Some(1),
                (heads, shared) if shared > 0 && heads % shared == 0 => Some(heads / shared),
                _ => None,
            },
            _ => None,
        };
        let group =
            group.ok_or_else(|| fault("the heads of the queries are not a multiple of those of the keys"))?;
        Ok(Self { lead: SmallVec::from_slice(kl), group, l: *l, s: *s, d: *d })
    }

    /// The leading dimensions, the group and two more.
    fn grouped(&self, a: usize, b: usize) -> SmallVec<[usize; 8]> {
        let mut dims = self.lead.clone();
        dims.extend([self.group, a, b]);
        dims
    }

    /// A mask over …×H×L×S with the heads in groups.
    fn mask(&self, mask: &TrackedTensor) -> Result<TrackedTensor> {
        let rank = if self.lead.is_empty() { 2 } else { self.lead.len() + 2 };
        let fault = || {
            let full = Shape::try_new(&self.grouped(self.l, self.s)).unwrap_or(Shape::SCALAR);
            Error::shape(NAME, &[*mask.shape(), full], "the mask does not broadcast to the scores")
        };
        let missing = rank.checked_sub(mask.rank()).ok_or_else(fault)?;
        let mut dims: SmallVec<[usize; 8]> = smallvec![1; missing];
        dims.extend_from_slice(mask.dims());
        match self.lead.last() {
            None => dims.insert(0, 1),
            Some(&heads) => {
                let at = self.lead.len() - 1;
                let parts = match dims[at] {
                    1 => [1, 1],
                    all if all == heads * self.group => [heads, self.group],
                    _ => return Err(fault()),
                };
                dims[at] = parts[0];
                dims.insert(at + 1, parts[1]);
            }
        }
        reshape(mask, &checked_shape(NAME, &dims)?)
    }
}

/// Attention of q [..lead, G, L, D], k [..lead, S, D], v [..lead, S, E] and a mask that
/// broadcasts to [..lead, G, L, S]. Hint: log Σ exp of each row.
#[derive(Clone, Copy, Debug)]
struct Attend {
    scale: f64,
    causal: bool,
    masked: bool,
}

/// The fused reverse rule of [`Attend`]: (ct, y, q, k, v, mask, log Σ exp) to those of dq, dk, dv
/// and the scores' gradient that are wanted.
#[derive(Clone, Copy, Debug)]
struct AttendGrad {
    attend: Attend,
    wanted: Mask,
    hinted: bool,
}

/// [..lead, G, L, S] for inputs of these shapes.
fn score_shape(q: &Shape, k: &Shape) -> Shape {
    let mut scores = *q;
    if let (Some(last), [.., s, _]) = (scores.dims_mut().last_mut(), k.dims()) {
        *last = *s;
    }
    scores
}

/// [..lead, G, L, x] as [..lead, G·L, x]: the groups share what they are multiplied with.
fn together(x: &TrackedTensor) -> Result<TrackedTensor> {
    let [lead @ .., g, l, n] = x.dims() else {
        return Err(Error::internal(NAME, "its operands have three dimensions"));
    };
    let mut dims: SmallVec<[usize; 8]> = SmallVec::from_slice(lead);
    dims.extend([g * l, *n]);
    reshape(x, &checked_shape(NAME, &dims)?)
}

fn turned(x: &TrackedTensor) -> Result<TrackedTensor> {
    transpose(x, x.rank() - 2, x.rank() - 1)
}

/// A score that no key can come up against, in a type.
fn lowest(dtype: DType) -> f64 {
    match dtype {
        DType::F64 => -1e300,
        DType::F16 => -65504.0,
        _ => -3e38,
    }
}

impl Attend {
    fn operands<'a>(&self, q: View<'a>, k: View<'a>, v: View<'a>, mask: Option<View<'a>>) -> Operands<'a> {
        Operands { q, k, v, mask, scale: self.scale, causal: self.causal }
    }

    /// The weights [..lead, G, L, S], said in ops. What is not seen is left out before and after
    /// the softmax, so that a row that sees nothing is 0.
    fn weights(
        &self,
        q: &TrackedTensor,
        k: &TrackedTensor,
        mask: Option<&TrackedTensor>,
    ) -> Result<TrackedTensor> {
        let shape = score_shape(q.shape(), k.shape());
        let mut scores = reshape(&matmul(&together(q)?, &turned(k)?)?, &shape)?;
        scores = scale(&scores, self.scale)?;
        let mut seen: SmallVec<[TrackedTensor; 2]> = SmallVec::new();
        match mask {
            Some(mask) if is_float(mask.dtype()) => {
                scores = add(&scores, mask)?;
                seen.push(gt(mask, f64::NEG_INFINITY)?);
            }
            Some(mask) => seen.push(mask.clone()),
            None => {}
        }
        if self.causal {
            let (l, s) = (shape.dims()[shape.rank() - 2], shape.dims()[shape.rank() - 1]);
            let triangle = (0..l * s).map(|at| u8::from(at % s <= at / s)).collect();
            seen.push(algebra::beside(TrackedTensor::from_vec::<u8>(triangle, &[l, s])?, q)?);
        }
        let one = Meta { shape: Shape::SCALAR, ..scores.meta() };
        let (low, zero) = (algebra::fill(lowest(one.dtype), &one, q)?, algebra::fill(0.0, &one, q)?);
        for seen in &seen {
            scores = select(seen, &scores, &low)?;
        }
        let mut weights = softmax(&scores, -1)?;
        for seen in &seen {
            weights = select(seen, &weights, &zero)?;
        }
        Ok(weights)
    }
}

crate::saved::stored! {
    "attention" => Attend { scale, causal, masked }, |op, x| x.len() == 3 + usize::from(op.masked);
    "attention_vjp" => AttendGrad { attend, wanted, hinted }, |op, x| {
        let Some((given, operands)) = x.split_at_checked(2) else { return false };
        let masked = usize::from(op.attend.masked);
        let wanted = op.wanted.iter().all(|i| i < 3 + masked);
        let Some(hint) = operands.get(3 + masked..) else { return false };
        let made = op.attend.infer(&operands[..3 + masked]);
        wanted && hint.len() == usize::from(op.hinted) && made.is_ok_and(|made| {
            given.iter().all(|y| *y == made.outputs[0]) && hint.iter().eq(made.aux.iter().take(hint.len()))
        })
    };
}

impl Primitive for Attend {
    crate::saved::by_tag!();
    fn name(&self) -> &'static str {
        NAME
    }

    fn keep(&self) -> Prim {
        Prim::Shared(Arc::new(*self))
    }

    fn infer(&self, inputs: &[Meta]) -> Result<Signature> {
        let (q, k, v) = (inputs[0], inputs[1], inputs[2]);
        if !is_float(q.dtype) {
            return Err(Error::dtype(NAME, q.dtype, "convert to a float type with to_dtype"));
        }
        let wrong = |m: &Meta| m.dtype != q.dtype && m.dtype != DType::U8;
        if k.dtype != q.dtype || v.dtype != q.dtype || inputs.iter().any(wrong) {
            let dtypes = inputs.iter().map(|m| m.dtype).collect();
            return Err(Error::DTypeMismatch { op: NAME, dtypes, at: At::default() });
        }
        let shapes: SmallVec<[Shape; 4]> = inputs.iter().map(|m| m.shape).collect();
        let fault = |reason: &str| Error::shape(NAME, &shapes, reason);
        let ([lead @ .., _, l, d], [kl @ .., s, kd], [vl @ .., vs, e]) =
            (q.shape.dims(), k.shape.dims(), v.shape.dims())
        else {
            return Err(fault("they are not queries in groups, keys and values"));
        };
        if lead != kl || kl != vl || d != kd || s != vs {
            return Err(fault("keys and values do not fit the queries"));
        }
        let scores = score_shape(&q.shape, &k.shape);
        if shapes.get(3).is_some_and(|mask| Layout::contiguous(*mask).broadcast_to(&scores).is_none()) {
            return Err(fault("the mask does not broadcast to the scores"));
        }
        let (mut y, mut sums) = (q.shape, SmallVec::<[usize; 8]>::from_slice(lead));
        if let Some(last) = y.dims_mut().last_mut() {
            *last = *e;
        }
        sums.extend([q.shape.dims()[lead.len()], *l]);
        let sum_type = if q.dtype == DType::F64 { DType::F64 } else { DType::F32 };
        let sums = q.with_shape(checked_shape(NAME, &sums)?).with_dtype(sum_type);
        Ok(Signature { outputs: smallvec![q.with_shape(y)], aux: smallvec![sums] })
    }

    fn eval_into(&self, inputs: &[View<'_>], outputs: &mut [SliceMut<'_>]) -> Result<()> {
        let [y, rest @ ..] = outputs else { return Err(Error::internal(NAME, "it has an output")) };
        let operands = self.operands(inputs[0], inputs[1], inputs[2], inputs.get(3).copied());
        attention(&operands, y.reborrow(), rest.first_mut().map(SliceMut::reborrow));
        Ok(())
    }

    fn kernel(&self) -> Option<KernelCall> {
        let switches = [self.causal, self.masked].map(i64::from);
        Some(KernelCall::new("attention", &switches, &[self.scale]))
    }

    fn rule(&self) -> Rule<'_> {
        Rule::General(self)
    }

    fn batch(&self, batched: Mask, inputs: &[&TrackedTensor], size: usize) -> Result<Option<Values>> {
        let all = all_batched(batched, inputs, size, 3)?;
        Ok(Some(apply(self, &all.iter().collect::<SmallVec<[&TrackedTensor; 4]>>())?))
    }

    fn decompose(&self, inputs: &[&TrackedTensor]) -> Result<Option<Values>> {
        let weights = self.weights(inputs[0], inputs[1], inputs.get(3).copied())?;
        let y = matmul(&together(&weights)?, inputs[2])?;
        let mut shape = *inputs[0].shape();
        if let (Some(last), Some(&e)) = (shape.dims_mut().last_mut(), inputs[2].dims().last()) {
            *last = e;
        }
        Ok(Some(smallvec![reshape(&y, &shape)?]))
    }
}

/// Operands with the batch in front; the one numbered `mask` only gets a dimension of extent 1.
fn all_batched(
    batched: Mask,
    inputs: &[&TrackedTensor],
    size: usize,
    mask: usize,
) -> Result<SmallVec<[TrackedTensor; 8]>> {
    let with = |(i, x): (usize, &&TrackedTensor)| match i == mask && !batched.has(i) {
        true => reshape(x, &in_front(NAME, 1, x.shape())?),
        false => with_batch(x, batched.has(i), size),
    };
    inputs.iter().enumerate().map(with).collect()
}

impl General for Attend {
    fn residuals(&self, _: Mask) -> Residuals {
        let inputs = (0..3 + usize::from(self.masked)).map(Residual::Input);
        inputs.chain([Residual::Output(0), Residual::Aux(0)]).collect()
    }

    // With p the weights: dv = pᵀ·ct, ds = p·(ct·vᵀ − Σ ct·y), dq = scale·ds·k, dk = scale·dsᵀ·q.
    fn vjp(&self, wanted: Mask, cts: &[Option<TrackedTensor>], saved: &Saved<'_>) -> Result<Grads> {
        let mut grads: Grads = smallvec![None; saved.inputs.len()];
        let Some(ct) = &cts[0] else { return Ok(grads) };
        let mut inputs: SmallVec<[&TrackedTensor; 8]> = smallvec![ct, saved.output(0)?];
        for i in 0..saved.inputs.len() {
            inputs.push(saved.input(i)?);
        }
        let hint = saved.aux(0);
        inputs.extend(hint);
        let made = apply(&AttendGrad { attend: *self, wanted, hinted: hint.is_some() }, &inputs)?;
        for (i, grad) in wanted.iter().zip(made) {
            // The scores' gradient is that of the mask, where it was broadcast.
            grads[i] = Some(if i == 3 { sum_to(&grad, &saved.inputs[3].shape)? } else { grad });
        }
        Ok(grads)
    }
}

impl AttendGrad {
    fn mask_at(&self) -> Option<usize> {
        self.attend.masked.then_some(5)
    }

    fn hint_at(&self) -> Option<usize> {
        self.hinted.then_some(5 + usize::from(self.attend.masked))
    }
}

impl Primitive for AttendGrad {
    crate::saved::by_tag!();
    fn name(&self) -> &'static str {
        "scaled_dot_product_attention_vjp"
    }

    fn keep(&self) -> Prim {
        Prim::Shared(Arc::new(*self))
    }

    fn infer(&self, inputs: &[Meta]) -> Result<Signature> {
        let (q, k, v) = (inputs[2], inputs[3], inputs[4]);
        let scores = q.with_shape(score_shape(&q.shape, &k.shape));
        let all = [q, k, v, scores];
        Ok(Signature { outputs: self.wanted.iter().map(|i| all[i]).collect(), aux: SmallVec::new() })
    }

    fn eval_into(&self, inputs: &[View<'_>], outputs: &mut [SliceMut<'_>]) -> Result<()> {
        let mask = self.mask_at().map(|i| inputs[i]);
        let operands = self.attend.operands(inputs[2], inputs[3], inputs[4], mask);
        let mut gradients = Gradients::default();
        for (i, out) in self.wanted.iter().zip(outputs.iter_mut()) {
            let slot = match i {
                0 => &mut gradients.dq,
                1 => &mut gradients.dk,
                2 => &mut gradients.dv,
                _ => &mut gradients.dmask,
            };
            *slot = Some(out.reborrow());
        }
        attention_vjp(&operands, inputs[0], inputs[1], self.hint_at().map(|i| inputs[i]), gradients);
        Ok(())
    }

    fn kernel(&self) -> Option<KernelCall> {
        let wanted: SmallVec<[i64; 4]> = (0..4).map(|i| i64::from(self.wanted.has(i))).collect();
        let Attend { causal, masked, scale } = self.attend;
        let switches = [causal, masked, self.hinted].map(i64::from);
        Some(KernelCall::new("attention_vjp", &[&switches[..], &wanted].concat(), &[scale]))
    }

    fn rule(&self) -> Rule<'_> {
        Rule::Composite
    }

    fn batch(&self, batched: Mask, inputs: &[&TrackedTensor], size: usize) -> Result<Option<Values>> {
        let mask = self.mask_at().unwrap_or(usize::MAX);
        let all = all_batched(batched, inputs, size, mask)?;
        Ok(Some(apply(self, &all.iter().collect::<SmallVec<[&TrackedTensor; 8]>>())?))
    }

    // From ct, q, k, v and the mask: neither the output nor the hint is read.
    fn decompose(&self, inputs: &[&TrackedTensor]) -> Result<Option<Values>> {
        let (ct, q, k, v) = (inputs[0], inputs[2], inputs[3], inputs[4]);
        let weights = self.attend.weights(q, k, self.mask_at().map(|i| inputs[i]))?;
        let ct = together(ct)?;
        let flat_weights = together(&weights)?;
        let through = matmul(&ct, &turned(v)?)?;
        let mut kept = *through.shape();
        if let Some(last) = kept.dims_mut().last_mut() {
            *last = 1;
        }
        let inner = sum_to(&mul(&through, &flat_weights)?, &kept)?;
        let ds = mul(&flat_weights, &sub(&through, &inner)?)?;
        let grads = self.wanted.iter().map(|i| match i {
            0 => reshape(&scale(&matmul(&ds, k)?, self.attend.scale)?, q.shape()),
            1 => scale(&matmul(&turned(&ds)?, &together(q)?)?, self.attend.scale),
            2 => matmul(&turned(&flat_weights)?, &ct),
            _ => reshape(&ds, weights.shape()),
        });
        Ok(Some(grads.collect::<Result<_>>()?))
    }
}

/// The ops of this file.
pub fn ops() -> Vec<Op> {
    vec![Op {
        name: NAME,
        family: Family::Neural,
        formula: "softmax(q·kᵀ·scale + mask)·v; q …×H×L×D, k …×h×S×D, v …×h×S×E; a query that sees no key gives 0",
        cases: || {
            let inputs = |q: &[usize], k: &[usize], v: &[usize]| {
                vec![Sample::float(q), Sample::float(k), Sample::float(v)]
            };
            let plain = |v: &[TrackedTensor], causal, scale| {
                scaled_dot_product_attention(&v[0], &v[1], &v[2], v.get(3), causal, scale)
            };
            let with = |mut inputs: Vec<Sample>, mask: Sample| {
                inputs.push(mask);
                inputs
            };
            vec![
                Case::new("one head", inputs(&[3, 2], &[4, 2], &[4, 3]), move |v| plain(v, false, None)),
                Case::new(
                    "heads, causal, a scale",
                    inputs(&[2, 2, 3, 2], &[2, 2, 3, 2], &[2, 2, 3, 2]),
                    move |v| plain(v, true, Some(0.7)),
                ),
                Case::new("grouped heads", inputs(&[1, 4, 2, 3], &[1, 2, 3, 3], &[1, 2, 3, 2]), move |v| {
                    plain(v, false, None)
                }),
                Case::new(
                    "causal, more keys than queries, grouped",
                    inputs(&[4, 2, 3], &[2, 4, 3], &[2, 4, 2]),
                    move |v| plain(v, true, None),
                ),
                Case::new(
                    "an added mask for each head",
                    with(inputs(&[2, 4, 2, 3], &[2, 2, 3, 3], &[2, 2, 3, 2]), Sample::float(&[4, 2, 3])),
                    move |v| plain(v, false, None),
                ),
                Case::new(
                    "a mask of what is seen",
                    with(inputs(&[2, 2, 3, 2], &[2, 2, 4, 2], &[2, 2, 4, 2]), Sample::mask(&[2, 1, 3, 4])),
                    move |v| plain(v, false, None),
                ),
                Case::new("dropped weights", inputs(&[2, 4, 3], &[2, 4, 3], &[2, 4, 2]), |v| {
                    let key = crate::random::key(7);
                    let options = AttentionOptions { dropout: Some((&key, 0.5)), ..Default::default() };
                    attention_with(&v[0], &v[1], &v[2], &options)
                }),
                Case::new("no queries", inputs(&[2, 0, 3], &[2, 3, 3], &[2, 3, 2]), move |v| {
                    plain(v, false, None)
                }),
            ]
        },
    }]
}

/// The methods of this file.
#[macro_export]
#[doc(hidden)]
macro_rules! attention_methods {
    ($($callback:tt)*) => {
        $($callback)* {
            unary {}
            binary {}
            other {
                /// softmax(q·kᵀ·scale + mask)·v for the queries q.
                scaled_dot_product_attention(k: &TrackedTensor, v: &TrackedTensor, mask: Option<&TrackedTensor>, causal: bool, scale: Option<f64>) -> TrackedTensor = $crate::attention::scaled_dot_product_attention;
                /// The same with its parameters by name, and with dropout of weights.
                attention_with(k: &TrackedTensor, v: &TrackedTensor, options: &$crate::attention::AttentionOptions<'_>) -> TrackedTensor = $crate::attention::attention_with;
            }
        }
    };
}

#[cfg(test)]
mod tests;
