//! Centre, scale, weigh and shift: the primitive under every norm, and its fused reverse rule.

use super::expressions::{Part, definition};
use super::fit::Fit;
use crate::numbers::{in_front, with_batch};
use crate::saved::has;
use autograd_core::device::{KernelCall, Tensors};
use autograd_core::smallvec::{SmallVec, smallvec};
use autograd_core::{
    Buffer, ByRows, Error, General, Grads, Layout, Mask, Meta, Pointwise, Prim, Primitive, Residual,
    Residuals, Result, Rule, Saved, Shape, Signature, SliceMut, TrackedTensor, Values, View, algebra, apply,
    is_float,
};
use autograd_kernels::{Kind, machine, norm};
use candle_core::DType;
use std::sync::Arc;

type Views<'a> = SmallVec<[View<'a>; 8]>;

/// y = (x − mean)·rstd·weight + bias with mean and rstd = 1/√(variance + eps) over some
/// dimensions of x; without a mean where it is not centred. Weight and bias have x's rank and
/// broadcast to it. Hints: rstd, mean, with extent 1 in the dimensions they are taken over.
#[derive(Clone, Copy, Debug)]
pub(super) struct Normalize {
    /// The name that users know.
    pub(super) op: &'static str,
    pub(super) centred: bool,
    /// The dimensions that are normalised over.
    pub(super) over: Mask,
    pub(super) eps: f64,
    pub(super) weighted: bool,
    pub(super) biased: bool,
}

/// The fused reverse rule of [`Normalize`]: (ct, x, weight where it is read, the hints where they
/// are there) to the wanted ones of dx, dweight and dbias.
#[derive(Clone, Copy, Debug)]
struct NormalizeGrad {
    norm: Normalize,
    input: bool,
    weight: Option<Shape>,
    bias: Option<Shape>,
    hinted: bool,
}

/// Mean and biased variance of x over some dimensions, kept with extent 1. Flat: statistics that
/// are carried along take no part in a gradient.
#[derive(Clone, Copy, Debug)]
pub(super) struct Statistics {
    pub(super) over: Mask,
}

/// `shape` with extent 1 in the dimensions `over`, and how many elements become one.
fn kept(shape: &Shape, over: Mask) -> (Shape, f64) {
    let mut small = *shape;
    let mut count = 1.0;
    for d in over.iter() {
        count *= small.dims()[d] as f64;
        small.dims_mut()[d] = 1;
    }
    (small, count)
}

/// Whether a part that broadcasts to `whole` is the same for all indices of its first dimension.
fn repeats(part: &Shape, whole: &Shape) -> bool {
    part.rank() < whole.rank() || part.dims().first() == Some(&1)
}

fn shifted(over: Mask) -> Mask {
    over.iter().map(|d| d + 1).collect()
}

/// Statistics of half types are kept in f32.
fn statistics_type(dtype: DType) -> DType {
    if dtype == DType::F64 { DType::F64 } else { DType::F32 }
}

fn statistics_buffer(x: &View<'_>, shape: &Shape) -> Buffer {
    let kind = if x.kind() == Kind::F64 { Kind::F64 } else { Kind::F32 };
    Buffer::take(kind, shape.elements())
}

fn whole<'a>(buffer: &'a Buffer, layout: &'a Layout) -> Result<View<'a>> {
    let data = buffer.slice().ok_or_else(|| Error::internal("normalize", "its buffers are its own"))?;
    Ok(View { data, layout })
}

fn exclusive(buffer: &mut Buffer) -> Result<SliceMut<'_>> {
    buffer.slice_mut().ok_or_else(|| Error::internal("normalize", "its buffers are its own"))
}

/// Σ of an expression over the dimensions that `to` lacks, evaluated in one pass.
fn sums(part: Part, factor: f64, inputs: &[View<'_>], outputs: &mut [SliceMut<'_>], to: &[Shape]) {
    let shape = inputs[part.whole()].layout.shape();
    machine::run_reduced(definition(part).expr.program(), &[factor], inputs, shape, outputs, to);
}

/// mean(x) and mean((x − mean)²); the latter about 0 where there is no mean.
fn moments(x: View<'_>, over: Mask, mean: Option<SliceMut<'_>>, variance: SliceMut<'_>) {
    let (shape, count) = kept(x.layout.shape(), over);
    let layout = Layout::contiguous(shape);
    match mean {
        Some(mut mean) => {
            sums(Part::Mean, 1.0 / count, &[x], &mut [mean.reborrow()], &[shape]);
            let mean = View { data: mean.as_slice(), layout: &layout };
            sums(Part::Variance { centred: true }, 1.0 / count, &[x, mean], &mut [variance], &[shape]);
        }
        None => sums(Part::Variance { centred: false }, 1.0 / count, &[x], &mut [variance], &[shape]),
    }
}

impl Normalize {
    fn weight_at(&self) -> Option<usize> {
        self.weighted.then_some(1)
    }

    fn bias_at(&self) -> Option<usize> {
        self.biased.then_some(1 + usize::from(self.weighted))
    }

    /// rstd, and the mean where it is centred.
    fn statistics(&self, x: View<'_>, mean: Option<SliceMut<'_>>, mut rstd: SliceMut<'_>) -> Result<()> {
        let (shape, _) = kept(x.layout.shape(), self.over);
        let layout = Layout::contiguous(shape);
        let mut variance = statistics_buffer(&x, &shape);
        moments(x, self.over, mean, exclusive(&mut variance)?);
        let variance = whole(&variance, &layout)?;
        let program = &definition(Part::Rstd).expr;
        machine::run(program.program(), &[self.eps], &[variance], &shape, &mut [rstd.reborrow()]);
        Ok(())
    }

    /// The kernels of its own that fit.
    fn fit(&self, x: &Shape, affine: impl Iterator<Item = Shape> + Clone) -> Option<Fit> {
        if self.centred { Fit::of(self.over, x, affine) } else { None }
    }

    /// rstd and mean, said in ops.
    fn said_statistics(&self, x: &TrackedTensor) -> Result<(TrackedTensor, Option<TrackedTensor>)> {
        let (shape, count) = kept(x.shape(), self.over);
        let mean = match self.centred {
            true => Some(algebra::scale(&algebra::sum_to(x, &shape)?, 1.0 / count)?),
            false => None,
        };
        let mut inputs: SmallVec<[&TrackedTensor; 2]> = smallvec![x];
        inputs.extend(&mean);
        let squares = say(Part::Variance { centred: self.centred }, 1.0 / count, &inputs)?;
        drop(inputs);
        let variance = algebra::sum_to(&squares[0], &shape)?;
        let rstd = say(Part::Rstd, self.eps, &[&variance])?;
        Ok((rstd[0].clone(), mean))
    }
}

/// Applies an expression as an op.
fn say(part: Part, parameter: f64, inputs: &[&TrackedTensor]) -> Result<Values> {
    apply(&Pointwise::shared(definition(part).clone(), &[parameter]), inputs)
}

crate::saved::stored! {
    "normalize" => Normalize { op, centred, over, eps, weighted, biased }, |op, x| op.fits(x);
    "normalize_vjp" => NormalizeGrad { norm, input, weight, bias, hinted }, |op, x| {
        let affine = usize::from(op.reads_weight());
        let hints = if op.hinted { 1 + usize::from(op.norm.centred) } else { 0 };
        let whole = |of: &Shape| Layout::contiguous(*of).broadcast_to(&x[1].shape).is_some();
        x.len() == 2 + affine + hints
            && x[0] == x[1]
            && op.norm.over.iter().all(|dim| dim < x[1].shape.rank())
            && x[2..2 + affine].iter().all(|weight| whole(&weight.shape) && weight.dtype == x[1].dtype)
            && [op.weight, op.bias].iter().flatten().all(whole)
            && x[2 + affine..].iter().all(|hint| hint.shape == kept(&x[1].shape, op.norm.over).0)
            && x[2 + affine..].iter().all(|hint| hint.dtype == statistics_type(x[1].dtype))
    };
    "statistics" => Statistics { over }, |op, x| has(x, 1, op.over.iter());
}

impl Normalize {
    fn fits(&self, x: &[Meta]) -> bool {
        has(x, 1 + usize::from(self.weighted) + usize::from(self.biased), self.over.iter())
    }
}

impl Primitive for Normalize {
    crate::saved::by_tag!();
    fn name(&self) -> &'static str {
        self.op
    }

    fn keep(&self) -> Prim {
        Prim::Shared(Arc::new(*self))
    }

    fn infer(&self, inputs: &[Meta]) -> Result<Signature> {
        let x = inputs[0];
        if !is_float(x.dtype) {
            return Err(Error::dtype(self.op, x.dtype, "convert to a float type with to_dtype"));
        }
        if inputs.iter().any(|m| m.dtype != x.dtype) {
            let dtypes = inputs.iter().map(|m| m.dtype).collect();
            return Err(Error::DTypeMismatch { op: self.op, dtypes, at: autograd_core::At::default() });
        }
        if inputs.iter().any(|m| Layout::contiguous(m.shape).broadcast_to(&x.shape).is_none()) {
            let shapes: Vec<Shape> = inputs.iter().map(|m| m.shape).collect();
            return Err(Error::shape(self.op, &shapes, "weight and bias do not broadcast to the first"));
        }
        let statistics = x.with_shape(kept(&x.shape, self.over).0).with_dtype(statistics_type(x.dtype));
        let aux = std::iter::repeat_n(statistics, 1 + usize::from(self.centred)).collect();
        Ok(Signature { outputs: smallvec![x], aux })
    }

    fn by_rows(&self, inputs: &[Meta]) -> Option<ByRows> {
        let apart = !self.over.has(0) && inputs[1..].iter().all(|m| repeats(&m.shape, &inputs[0].shape));
        apart.then(|| ByRows { whole: (1..inputs.len()).collect(), summed: Mask::default() })
    }

    fn scratch(&self, inputs: &[Meta]) -> usize {
        let statistics = kept(&inputs[0].shape, self.over).0.elements();
        3 * statistics * statistics_type(inputs[0].dtype).size_in_bytes()
    }

    fn eval_into(&self, inputs: &[View<'_>], outputs: &mut [SliceMut<'_>]) -> Result<()> {
        let x = inputs[0];
        let (weight, bias) = (self.weight_at().map(|i| inputs[i]), self.bias_at().map(|i| inputs[i]));
        let (y, hints) = outputs.split_at_mut(1);
        let mut hints = hints.iter_mut().map(SliceMut::reborrow);
        let (rstd, mean) = (hints.next(), hints.next());
        if let Some(fit) = self.fit(x.layout.shape(), inputs[1..].iter().map(|v| *v.layout.shape()))
            && let Some(layout) = fit.seen(x.layout)
        {
            let (x, y, eps) = (View { data: x.data, layout: &layout }, y[0].reborrow(), self.eps);
            match fit {
                Fit::Rows => norm::layer_norm(x, weight, bias, eps, y, mean, rstd),
                Fit::Channels { groups: Some(groups), .. } => {
                    norm::group_norm(x, groups, weight, bias, eps, y, mean, rstd);
                }
                Fit::Channels { groups: None, .. } => {
                    norm::batch_norm(x, weight, bias, eps, y, mean, rstd);
                }
            }
            return Ok(());
        }
        let (shape, _) = kept(x.layout.shape(), self.over);
        let layout = Layout::contiguous(shape);
        let (mut own_rstd, mut own_mean) = (None, None);
        let mut rstd = match rstd {
            Some(rstd) => rstd,
            None => exclusive(own_rstd.insert(statistics_buffer(&x, &shape)))?,
        };
        let mut mean = match mean {
            None if self.centred => Some(exclusive(own_mean.insert(statistics_buffer(&x, &shape)))?),
            given => given,
        };
        self.statistics(x, mean.as_mut().map(SliceMut::reborrow), rstd.reborrow())?;
        let mut views: Views<'_> = smallvec![x];
        views.extend(mean.iter().map(|m| View { data: m.as_slice(), layout: &layout }));
        views.push(View { data: rstd.as_slice(), layout: &layout });
        views.extend(weight.into_iter().chain(bias));
        let part = Part::Output { centred: self.centred, weighted: self.weighted, biased: self.biased };
        machine::run(definition(part).expr.program(), &[0.0], &views, x.layout.shape(), y);
        Ok(())
    }

    fn kernel(&self) -> Option<KernelCall> {
        let parts = [self.centred, self.weighted, self.biased].map(i64::from);
        Some(KernelCall::new("normalize", &[&[self.over.bits() as i64][..], &parts].concat(), &[self.eps]))
    }

    fn rule(&self) -> Rule<'_> {
        Rule::General(self)
    }

    fn batch(&self, batched: Mask, inputs: &[&TrackedTensor], size: usize) -> Result<Option<Values>> {
        let x = with_batch(inputs[0], batched.has(0), size)?;
        let op = Self { over: shifted(self.over), ..*self };
        // Weight and bias have x's rank without the batch: they align from the right either way.
        let mut all: SmallVec<[&TrackedTensor; 3]> = smallvec![&x];
        all.extend_from_slice(&inputs[1..]);
        Ok(Some(apply(&op, &all)?))
    }

    fn decompose(&self, inputs: &[&TrackedTensor]) -> Result<Option<Values>> {
        let (rstd, mean) = self.said_statistics(inputs[0])?;
        let mut all: SmallVec<[&TrackedTensor; 6]> = smallvec![inputs[0]];
        all.extend(&mean);
        all.push(&rstd);
        all.extend_from_slice(&inputs[1..]);
        let part = Part::Output { centred: self.centred, weighted: self.weighted, biased: self.biased };
        Ok(Some(say(part, 0.0, &all)?))
    }
}

impl General for Normalize {
    fn residuals(&self, wanted: Mask) -> Residuals {
        let mut reads = Residuals::new();
        let weight_wanted = self.weight_at().is_some_and(|i| wanted.has(i));
        if wanted.has(0) || weight_wanted {
            reads.push(Residual::Input(0));
        }
        if wanted.has(0) && self.weighted {
            reads.push(Residual::Input(1));
        }
        if wanted.has(0) || weight_wanted {
            reads.push(Residual::Aux(0));
            if self.centred {
                reads.push(Residual::Aux(1));
            }
        }
        reads
    }

    // With x̂ = (x − mean)·rstd and g = ct·weight: dx = rstd·(g − mean(g) − x̂·mean(g·x̂)),
    // dweight = Σ ct·x̂, dbias = Σ ct; without mean(g) where it is not centred.
    fn vjp(&self, wanted: Mask, cts: &[Option<TrackedTensor>], saved: &Saved<'_>) -> Result<Grads> {
        let mut grads: Grads = smallvec![None; saved.inputs.len()];
        let Some(ct) = &cts[0] else { return Ok(grads) };
        let part = |at: Option<usize>| at.filter(|&i| wanted.has(i)).map(|i| saved.inputs[i].shape);
        let (input, weight, bias) = (wanted.has(0), part(self.weight_at()), part(self.bias_at()));
        if !input && weight.is_none() {
            if let (Some(at), Some(shape)) = (self.bias_at(), bias) {
                grads[at] = Some(algebra::sum_to(ct, &shape)?);
            }
            return Ok(grads);
        }
        let hints: SmallVec<[&TrackedTensor; 2]> =
            (0..1 + usize::from(self.centred)).filter_map(|k| saved.aux(k)).collect();
        let hinted = hints.len() == 1 + usize::from(self.centred);
        let mut inputs: SmallVec<[&TrackedTensor; 5]> = smallvec![ct, saved.input(0)?];
        if input && self.weighted {
            inputs.push(saved.input(1)?);
        }
        if hinted {
            inputs.extend(hints);
        }
        let made = apply(&NormalizeGrad { norm: *self, input, weight, bias, hinted }, &inputs)?;
        let places = [
            input.then_some(0),
            self.weight_at().filter(|_| weight.is_some()),
            self.bias_at().filter(|_| bias.is_some()),
        ];
        for (at, grad) in places.into_iter().flatten().zip(made) {
            grads[at] = Some(grad);
        }
        Ok(grads)
    }
}

impl NormalizeGrad {
    fn reads_weight(&self) -> bool {
        self.input && self.norm.weighted
    }

    fn sums_part(&self) -> Part {
        Part::Sums {
            centred: self.norm.centred,
            weighted: self.reads_weight(),
            input: self.input,
            weight: self.weight.is_some(),
            bias: self.bias.is_some(),
        }
    }

    fn input_part(&self) -> Part {
        Part::Input { centred: self.norm.centred, weighted: self.reads_weight() }
    }

    /// Sums over the normalised dimensions that dx reads: mean(g) where it is centred, mean(g·x̂).
    fn inner_sums(&self) -> usize {
        if self.input { 1 + usize::from(self.norm.centred) } else { 0 }
    }
}

impl Primitive for NormalizeGrad {
    crate::saved::by_tag!();
    fn name(&self) -> &'static str {
        self.norm.op
    }

    fn key(&self) -> String {
        format!("vjp of {self:?}")
    }

    fn keep(&self) -> Prim {
        Prim::Shared(Arc::new(*self))
    }

    fn infer(&self, inputs: &[Meta]) -> Result<Signature> {
        let x = inputs[1];
        let parts = [self.input.then_some(x.shape), self.weight, self.bias];
        let outputs = parts.into_iter().flatten().map(|shape| x.with_shape(shape)).collect();
        Ok(Signature { outputs, aux: SmallVec::new() })
    }

    fn by_rows(&self, inputs: &[Meta]) -> Option<ByRows> {
        let x = &inputs[1].shape;
        let weight = self.reads_weight().then(|| inputs[2].shape);
        let affine = [weight, self.weight, self.bias];
        let apart = !self.norm.over.has(0) && affine.iter().flatten().all(|shape| repeats(shape, x));
        let sums = [self.weight, self.bias].iter().flatten().count();
        let first = usize::from(self.input);
        apart.then(|| ByRows {
            whole: weight.iter().map(|_| 2).collect(),
            summed: (first..first + sums).collect(),
        })
    }

    fn scratch(&self, inputs: &[Meta]) -> usize {
        let statistics = kept(&inputs[1].shape, self.norm.over).0.elements();
        5 * statistics * statistics_type(inputs[1].dtype).size_in_bytes()
    }

    fn eval_into(&self, inputs: &[View<'_>], outputs: &mut [SliceMut<'_>]) -> Result<()> {
        let (ct, x) = (inputs[0], inputs[1]);
        let (shape, count) = kept(x.layout.shape(), self.norm.over);
        let layout = Layout::contiguous(shape);
        let weight = self.reads_weight().then(|| inputs[2]);
        let hints = if self.hinted { &inputs[2 + usize::from(weight.is_some())..] } else { &[] };
        let (mean, rstd) = (hints.get(1).copied(), hints.first().copied());
        let affine = weight.iter().map(|w| *w.layout.shape()).chain(self.weight).chain(self.bias);
        if let Some(fit) = self.norm.fit(x.layout.shape(), affine)
            && let (Some(ct_layout), Some(x_layout)) = (fit.seen(ct.layout), fit.seen(x.layout))
        {
            let (ct, x) = (View { layout: &ct_layout, ..ct }, View { layout: &x_layout, ..x });
            let mut out = outputs.iter_mut().map(SliceMut::reborrow);
            let dx = if self.input { out.next() } else { None };
            let dweight = if self.weight.is_some() { out.next() } else { None };
            let (dbias, eps) = (out.next(), self.norm.eps);
            match fit {
                Fit::Rows => norm::layer_norm_vjp(ct, x, weight, mean, rstd, eps, dx, dweight, dbias),
                Fit::Channels { groups: Some(groups), .. } => {
                    norm::group_norm_vjp(ct, x, groups, weight, mean, rstd, eps, dx, dweight, dbias);
                }
                Fit::Channels { groups: None, .. } => {
                    norm::batch_norm_vjp(ct, x, weight, mean, rstd, eps, dx, dweight, dbias);
                }
            }
            return Ok(());
        }
        let (mut own_rstd, mut own_mean) = (statistics_buffer(&x, &shape), None);
        if !self.hinted {
            let mean = match self.norm.centred {
                true => Some(exclusive(own_mean.insert(statistics_buffer(&x, &shape)))?),
                false => None,
            };
            self.norm.statistics(x, mean, exclusive(&mut own_rstd)?)?;
        }
        let rstd = hints.first().copied().map_or_else(|| whole(&own_rstd, &layout), Ok)?;
        let own_mean = own_mean.as_ref().map(|m| whole(m, &layout)).transpose()?;
        let mut inner: SmallVec<[Buffer; 2]> =
            (0..self.inner_sums()).map(|_| statistics_buffer(&x, &shape)).collect();
        let mut views: Views<'_> = smallvec![ct, x];
        views.extend(hints.get(1).copied().or(own_mean));
        views.push(rstd);
        views.extend(weight);
        let (dx, parts) = outputs.split_at_mut(usize::from(self.input));
        let mut targets: SmallVec<[Shape; 4]> = smallvec![shape; inner.len()];
        targets.extend(self.weight.into_iter().chain(self.bias));
        let mut sinks: SmallVec<[SliceMut<'_>; 4]> =
            inner.iter_mut().map(exclusive).collect::<Result<_>>()?;
        sinks.extend(parts.iter_mut().map(SliceMut::reborrow));
        sums(self.sums_part(), 1.0 / count, &views, &mut sinks, &targets);
        drop(sinks);
        if self.input {
            let sums: SmallVec<[View<'_>; 2]> =
                inner.iter().map(|b| whole(b, &layout)).collect::<Result<_>>()?;
            let views: Views<'_> = views.iter().copied().chain(sums).collect();
            machine::run(definition(self.input_part()).expr.program(), &[0.0], &views, x.layout.shape(), dx);
        }
        Ok(())
    }

    fn kernel(&self) -> Option<KernelCall> {
        let norm = &self.norm;
        let parts = [norm.centred, self.reads_weight(), self.hinted, self.input];
        let parts = parts.into_iter().chain([self.weight.is_some(), self.bias.is_some()]).map(i64::from);
        let integers: SmallVec<[i64; 8]> = std::iter::once(norm.over.bits() as i64).chain(parts).collect();
        Some(KernelCall::new("normalize_vjp", &integers, &[norm.eps]))
    }

    fn rule(&self) -> Rule<'_> {
        Rule::Composite
    }

    fn batch(&self, batched: Mask, inputs: &[&TrackedTensor], size: usize) -> Result<Option<Values>> {
        let (ct, x) =
            (with_batch(inputs[0], batched.has(0), size)?, with_batch(inputs[1], batched.has(1), size)?);
        let front = |shape: Option<Shape>| shape.map(|s| in_front(self.norm.op, size, &s)).transpose();
        let op = Self {
            norm: Normalize { over: shifted(self.norm.over), ..self.norm },
            weight: front(self.weight)?,
            bias: front(self.bias)?,
            ..*self
        };
        let mut all: SmallVec<[&TrackedTensor; 5]> = smallvec![&ct, &x];
        all.extend_from_slice(&inputs[2..]);
        Ok(Some(apply(&op, &all)?))
    }

    // From ct, x and weight alone: the hints are not read.
    fn decompose(&self, inputs: &[&TrackedTensor]) -> Result<Option<Values>> {
        let (ct, x) = (inputs[0], inputs[1]);
        let (shape, count) = kept(x.shape(), self.norm.over);
        let (rstd, mean) = self.norm.said_statistics(x)?;
        let mut all: SmallVec<[&TrackedTensor; 8]> = smallvec![ct, x];
        all.extend(&mean);
        all.push(&rstd);
        if self.reads_weight() {
            all.push(inputs[2]);
        }
        let terms = say(self.sums_part(), 1.0 / count, &all)?;
        let inner = self.inner_sums();
        let targets = std::iter::repeat_n(shape, inner).chain(self.weight).chain(self.bias);
        let summed: Values =
            terms.iter().zip(targets).map(|(t, to)| algebra::sum_to(t, &to)).collect::<Result<_>>()?;
        let mut grads = Values::new();
        if self.input {
            let all: SmallVec<[&TrackedTensor; 8]> = all.iter().copied().chain(&summed[..inner]).collect();
            grads.extend(say(self.input_part(), 0.0, &all)?);
        }
        grads.extend(summed.iter().skip(inner).cloned());
        Ok(Some(grads))
    }
}

impl Primitive for Statistics {
    crate::saved::by_tag!();
    fn name(&self) -> &'static str {
        "statistics"
    }

    fn keep(&self) -> Prim {
        Prim::Shared(Arc::new(*self))
    }

    fn infer(&self, inputs: &[Meta]) -> Result<Signature> {
        let one = inputs[0].with_shape(kept(&inputs[0].shape, self.over).0);
        Ok(Signature { outputs: smallvec![one, one], aux: SmallVec::new() })
    }

    fn eval_into(&self, inputs: &[View<'_>], outputs: &mut [SliceMut<'_>]) -> Result<()> {
        let [mean, variance] = outputs else {
            return Err(Error::internal("statistics", "its outputs are two"));
        };
        moments(inputs[0], self.over, Some(mean.reborrow()), variance.reborrow());
        Ok(())
    }

    fn eval_candle(&self, inputs: &[autograd_core::Tensor]) -> Result<Option<Tensors>> {
        let x = &inputs[0];
        let dims: Vec<usize> = self.over.iter().collect();
        let count: usize = dims.iter().map(|&d| x.dims()[d]).product();
        let mean = |x: &autograd_core::Tensor| x.sum_keepdim(&dims[..])?.affine(1.0 / count as f64, 0.0);
        let first = mean(x)?;
        let second = mean(&x.broadcast_sub(&first)?.sqr()?)?;
        Ok(Some(smallvec![first, second]))
    }

    fn rule(&self) -> Rule<'_> {
        Rule::Flat
    }

    /// In f32 for the half types: what lies between is not rounded to them.
    fn decompose(&self, inputs: &[&TrackedTensor]) -> Result<Option<Values>> {
        let (small, count) = kept(inputs[0].shape(), self.over);
        let dtype = inputs[0].dtype();
        let x = match dtype {
            DType::F64 => inputs[0].clone(),
            _ => algebra::cast(inputs[0], DType::F32)?,
        };
        let mean_of = |x: &TrackedTensor| algebra::scale(&algebra::sum_to(x, &small)?, 1.0 / count);
        let mean = mean_of(&x)?;
        let off = algebra::sub(&x, &mean)?;
        let variance = mean_of(&algebra::mul(&off, &off)?)?;
        Ok(Some(smallvec![algebra::cast(&mean, dtype)?, algebra::cast(&variance, dtype)?]))
    }

    fn batch(&self, _: Mask, inputs: &[&TrackedTensor], _: usize) -> Result<Option<Values>> {
        Ok(Some(apply(&Self { over: shifted(self.over) }, inputs)?))
    }
}

#[cfg(test)]
mod tests;
