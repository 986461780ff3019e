//! The one interception point: every op goes through [`apply`].

use crate::capture::{is_capturing, recorder};
use crate::deferred;
use crate::device;
use crate::error::{At, Error, Result, Site};
use crate::meta::{Meta, kind_of};
use crate::plain::{Buffer, Held, Plain, open};
use crate::pointwise::Pointwise;
use crate::primitive::Primitive;
use crate::provenance::Cut;
use crate::rule::Rule;
use crate::testing;
use crate::tracer::{Applied, Call, Tracer, Values, only};
use crate::value::{Repr, TrackedTensor};
use autograd_kernels::expr::Program;
use autograd_kernels::{Layout, SliceMut, View, bf16, f16, machine, memory};
use candle_core::{DType, DeviceLocation};
use smallvec::SmallVec;
use std::cell::Cell;
use std::sync::Arc;

thread_local! {
    /// The user's line for ops that a rule applies on its behalf: the line of the forward op.
    static ON_BEHALF: Cell<Option<Site>> = const { Cell::new(None) };
}

/// Runs `f` so that ops which it applies count as applied at `site`.
pub fn on_behalf_of<R>(site: Site, f: impl FnOnce() -> R) -> R {
    struct Restore(Option<Site>);
    impl Drop for Restore {
        fn drop(&mut self) {
            ON_BEHALF.set(self.0);
        }
    }
    let _restore = Restore(ON_BEHALF.replace(Some(site)));
    f()
}

/// Applies an op. Nobody watches the inputs: it is evaluated. Otherwise the highest level among
/// them handles it, and the others are constants to that level.
///
/// # Errors
/// Whatever the op's inference, its kernel or a level's rule reports, with the caller's line.
#[track_caller]
pub fn apply(op: &dyn Primitive, inputs: &[&TrackedTensor]) -> Result<Values> {
    Ok(apply_call(op, inputs, false, Site::caller())?.outputs)
}

/// Applies an op of one output.
///
/// # Errors
/// As [`apply`].
#[track_caller]
pub fn apply_one(op: &dyn Primitive, inputs: &[&TrackedTensor]) -> Result<TrackedTensor> {
    apply_single(op, inputs, Site::caller())
}

/// Applies an op of one output on behalf of a level, at the user's line.
///
/// # Errors
/// As [`apply`].
#[inline]
pub fn apply_single(op: &dyn Primitive, inputs: &[&TrackedTensor], site: Site) -> Result<TrackedTensor> {
    if is_capturing() {
        return only(op, apply_call(op, inputs, false, site)?.outputs).map_err(|error| error.or_at(site));
    }
    if let Some(tracer) = hearing(inputs) {
        let site = ON_BEHALF.get().unwrap_or(site);
        let call = Call { op, inputs, aux: false, site };
        return tracer.process_one(&call).map_err(|error| error.or_at(site));
    }
    if let Some(output) = op.as_pointwise().and_then(|pointwise| elementwise(pointwise, inputs)) {
        return Ok(TrackedTensor::from_plain(output));
    }
    if let [input] = inputs
        && let Some(plain) = input.plain()
        && plain.device() == DeviceLocation::Cpu
        && let Some(layout) = op.rearranged(plain.layout())
    {
        return Ok(TrackedTensor::from_plain(plain.view(layout)));
    }
    match unwatched(op, inputs) {
        Some(Ok(output)) => return Ok(TrackedTensor::from_plain(output)),
        Some(Err(error)) => return Err(error.or_at(ON_BEHALF.get().unwrap_or(site))),
        None => {}
    }
    only(op, apply_call(op, inputs, false, site)?.outputs).map_err(|error| error.or_at(site))
}

/// The highest level among the inputs, where all of them are sound and heard.
#[inline]
fn hearing<'a>(inputs: &[&'a TrackedTensor]) -> Option<&'a Arc<dyn Tracer>> {
    let mut top: Option<&Arc<dyn Tracer>> = None;
    for input in inputs {
        match &input.0 {
            Repr::Plain(_) => {}
            Repr::Traced(tracer) if tracer.is_active() => {
                if top.is_none_or(|t| t.level() < tracer.level()) {
                    top = Some(tracer);
                }
            }
            Repr::Traced(_) | Repr::Failed(_) => return None,
        }
    }
    top
}

/// Applies an op on behalf of a level: auxiliary outputs on demand, the user's line given.
///
/// # Errors
/// As [`apply`].
pub fn apply_call(op: &dyn Primitive, inputs: &[&TrackedTensor], aux: bool, site: Site) -> Result<Applied> {
    let mut top: Option<&Arc<dyn Tracer>> = None;
    let mut silent = false;
    for input in inputs {
        match &input.0 {
            Repr::Plain(_) => {}
            Repr::Traced(tracer) if !tracer.is_active() => silent = true,
            Repr::Traced(tracer) => {
                if top.is_none_or(|t| t.level() < tracer.level()) {
                    top = Some(tracer);
                }
            }
            Repr::Failed(error) => return Err(Error::clone(error)),
        }
    }
    let site = ON_BEHALF.get().unwrap_or(site);
    if silent {
        let heard: SmallVec<[&TrackedTensor; 4]> = inputs.iter().map(|x| heard(x)).collect();
        note_silence(op, inputs, &heard, site);
        return apply_call(op, &heard, aux, site);
    }
    let call = Call { op, inputs, aux, site };
    match (recorder(inputs, top.map(|tracer| tracer.level())), top) {
        (Some(recorder), _) => recorder.process(&call),
        (None, Some(tracer)) => tracer.process(&call),
        (None, None) => evaluate(op, inputs, aux, site),
    }
    .map_err(|error| error.or_at(site))
}

/// The value that stands for `x` now: below every tape that is spent, dropped or paused.
pub fn heard(x: &TrackedTensor) -> &TrackedTensor {
    let mut value = x;
    while let Repr::Traced(tracer) = &value.0
        && !tracer.is_active()
        && let Some(lower) = tracer.lower()
    {
        value = lower;
    }
    value
}

/// Notes, on the numbers of values that nobody hears, why that is so.
fn note_silence(op: &dyn Primitive, inputs: &[&TrackedTensor], heard: &[&TrackedTensor], site: Site) {
    for (x, heard) in inputs.iter().zip(heard) {
        if let (Some(tracer), Some(plain)) = (x.tracer(), heard.plain())
            && plain.cut().is_none()
            && let Some(kind) = tracer.silence()
        {
            plain.set_cut(&Arc::new(Cut::through(&[*x], kind, op.name(), site)));
        }
    }
}

/// The highest level that watches `x` now.
pub fn watcher(x: &TrackedTensor) -> Option<&Arc<dyn Tracer>> {
    heard(x).tracer()
}

/// Evaluates an op on plain values.
fn evaluate(op: &dyn Primitive, inputs: &[&TrackedTensor], aux: bool, site: Site) -> Result<Applied> {
    if let Some(pointwise) = op.as_pointwise()
        && let Some(output) = elementwise(pointwise, inputs)
    {
        let output = TrackedTensor::from_plain(output);
        return Ok(Applied { outputs: smallvec::smallvec![output], aux: Values::new() });
    }
    if let Some(output) = deferred::summed(op, inputs) {
        let output = TrackedTensor::from_plain(output?);
        return Ok(Applied { outputs: smallvec::smallvec![output], aux: Values::new() });
    }
    let plains: SmallVec<[&Arc<Plain>; 4]> = inputs.iter().filter_map(|x| x.plain()).collect();
    if let Some(first) = plains.first()
        && plains.iter().any(|p| p.device() != first.device())
    {
        let devices = plains.iter().map(|p| p.device()).collect();
        return Err(Error::DeviceMismatch { op: op.name(), devices, at: At::from(site) });
    }
    if let Rule::Opaque(opaque) = op.rule() {
        let outputs = opaque.forward(inputs)?;
        return Ok(Applied { outputs, aux: Values::new() });
    }
    if let Some(composed) = op.composed() {
        return Ok(Applied { outputs: composed.run(inputs)?, aux: Values::new() });
    }
    if plains.first().is_some_and(|first| first.device() != DeviceLocation::Cpu) {
        return device::evaluate(op, inputs, &plains, aux, site);
    }
    let metas: SmallVec<[Meta; 4]> = plains.iter().map(|p| p.meta()).collect();
    let signature = op.infer(&metas)?;
    if let [output] = signature.outputs[..]
        && let Some((input, layout)) =
            op.view(&output, &plains.iter().map(|p| p.layout()).collect::<SmallVec<[_; 4]>>())
    {
        let view = TrackedTensor::from_plain(plains[input].view(layout));
        return Ok(Applied { outputs: smallvec::smallvec![view], aux: Values::new() });
    }
    let count = signature.outputs.len();
    let made = signature.outputs.iter().chain(signature.aux.iter().take(if aux { usize::MAX } else { 0 }));
    let mut buffers: SmallVec<[(Buffer, Meta); 2]> = SmallVec::new();
    for meta in made {
        if meta.device != DeviceLocation::Cpu {
            return Err(Error::UnsupportedDevice { op: op.name(), device: meta.device, at: At::from(site) });
        }
        let Some(kind) = kind_of(meta.dtype) else {
            return Err(Error::dtype(op.name(), meta.dtype, "f64, f32, bf16, f16, u8, u32 and i64 are"));
        };
        buffers.push((Buffer::take(kind, meta.elements()), *meta));
    }
    testing::note_evaluation();
    let plains: SmallVec<[&Plain; 4]> = plains.iter().map(|p| &***p).collect();
    open(op.name(), &plains, |views| {
        let mut slices: SmallVec<[SliceMut<'_>; 2]> =
            buffers.iter_mut().filter_map(|(buffer, _)| buffer.slice_mut()).collect();
        op.eval_into(views, &mut slices)?;
        testing::poison(&mut slices[count..]);
        Ok(())
    })?;
    let mut values = buffers.into_iter().map(|(buffer, meta)| {
        let plain = Plain::own(buffer, &meta);
        plain.inherit(plains.iter().copied());
        TrackedTensor::from_plain(plain)
    });
    let outputs: Values = values.by_ref().take(count).collect();
    Ok(Applied { outputs, aux: values.collect() })
}

/// The short way of most ops: a scalar expression over contiguous values of one shape and float
/// type needs no inference and no broadcasting, and cannot fail. `None` where it does not apply.
#[inline]
fn elementwise(op: &Pointwise, inputs: &[&TrackedTensor]) -> Option<Arc<Plain>> {
    let first = inputs.first()?.plain()?;
    if let Some(later) = deferred::defer(op, inputs) {
        testing::note_evaluation();
        return Some(later);
    }
    let definition = op.definition();
    let program = definition.expr.program();
    let simple = !definition.to_mask
        && program.outputs().len() == 1
        && inputs.len() <= MAX_ELEMENTWISE
        && first.device() == DeviceLocation::Cpu;
    if !simple {
        return None;
    }
    let mut plains: [&Plain; MAX_ELEMENTWISE] = [first; MAX_ELEMENTWISE];
    for (slot, input) in plains.iter_mut().zip(inputs) {
        let plain = input.plain()?;
        let alike = plain.is_contiguous()
            && plain.dtype() == first.dtype()
            && plain.device() == DeviceLocation::Cpu
            && plain.layout().shape() == first.layout().shape();
        if !alike {
            return None;
        }
        *slot = plain;
    }
    let plains = &plains[..inputs.len()];
    let made = match first.dtype() {
        DType::F32 => computed::<f32>(program, op.params(), plains),
        DType::F64 => computed::<f64>(program, op.params(), plains),
        DType::BF16 => computed::<bf16>(program, op.params(), plains),
        DType::F16 => computed::<f16>(program, op.params(), plains),
        _ => return None,
    };
    let made = made.or_else(|| opened(op, plains))?;
    testing::note_evaluation();
    made.inherit(plains.iter().copied());
    Some(made)
}

/// A program of one output on contiguous values of type T and one shape. `None` where one of them is
/// in memory that is not ours.
#[inline]
fn computed<T: Held>(program: &Program, params: &[f64], plains: &[&Plain]) -> Option<Arc<Plain>> {
    let first = *plains.first()?;
    let mut numbers: [&[T]; MAX_ELEMENTWISE] = [&[]; MAX_ELEMENTWISE];
    for (slot, plain) in numbers.iter_mut().zip(plains) {
        *slot = plain.elements()?;
    }
    let numbers = &numbers[..plains.len()];
    let mut y = memory::take::<T>(first.layout().elements());
    if !machine::run_alike(program, params, numbers, &mut y) {
        let layout = Layout::contiguous(*first.layout().shape());
        let views: SmallVec<[View<'_>; MAX_ELEMENTWISE]> =
            numbers.iter().map(|x| View { data: T::slice(x), layout: &layout }).collect();
        machine::run(program, params, &views, layout.shape(), &mut [T::slice_mut(&mut y)]);
    }
    Some(Plain::own_like(T::buffer(y), first))
}

/// The same on values of which some are candle's, which are locked meanwhile.
fn opened(op: &Pointwise, plains: &[&Plain]) -> Option<Arc<Plain>> {
    let first = *plains.first()?;
    let mut y = Buffer::take(kind_of(first.dtype())?, first.layout().elements());
    // Whatever cannot be opened is reported by the long way.
    open(op.definition().name, plains, |views| {
        let out = y.slice_mut().ok_or_else(|| Error::internal("elementwise", "no memory of its own"))?;
        machine::run(op.expr().program(), op.params(), views, first.layout().shape(), &mut [out]);
        Ok(())
    })
    .ok()?;
    Some(Plain::own_like(y, first))
}

/// The short way of other ops of one output on memory of our own. `None` where it does not apply.
/// The error is boxed, so that the result fits in registers.
#[inline]
fn unwatched(op: &dyn Primitive, inputs: &[&TrackedTensor]) -> Option<Result<Arc<Plain>, Box<Error>>> {
    if let Some(output) = deferred::summed(op, inputs) {
        return Some(output.map_err(Box::new));
    }
    let mut metas: SmallVec<[Meta; 3]> = SmallVec::new();
    let mut views: SmallVec<[View<'_>; 3]> = SmallVec::new();
    for input in inputs {
        let plain = input.plain()?;
        if plain.device() != DeviceLocation::Cpu {
            return None;
        }
        views.push(View { data: plain.buffer().slice()?, layout: plain.layout() });
        metas.push(plain.meta());
    }
    if inputs.is_empty() || matches!(op.rule(), Rule::Opaque(_)) || op.composed().is_some() {
        return None;
    }
    let signature = match op.infer(&metas) {
        Ok(signature) => signature,
        Err(error) => return Some(Err(Box::new(error))),
    };
    let [output] = &signature.outputs[..] else { return None };
    let layouts: SmallVec<[&Layout; 3]> = views.iter().map(|view| view.layout).collect();
    if let Some((input, layout)) = op.view(output, &layouts) {
        return Some(Ok(inputs[input].plain()?.view(layout)));
    }
    let mut buffer = Buffer::take(kind_of(output.dtype)?, output.elements());
    testing::note_evaluation();
    if let Err(error) = op.eval_into(&views, &mut [buffer.slice_mut()?]) {
        return Some(Err(Box::new(error)));
    }
    let made = Plain::own(buffer, output);
    made.inherit(inputs.iter().filter_map(|x| x.plain()).map(|plain| &**plain));
    Some(Ok(made))
}

/// The most inputs of an expression on the short way.
const MAX_ELEMENTWISE: usize = 4;
