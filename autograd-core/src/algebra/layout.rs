//! Rearrangements: broadcast, reshape, permute, narrow and its transpose. Most are views.

use super::reduce::sum_to;
use crate::apply::apply_one;
use crate::capture::is_capturing;
use crate::device::{KernelCall, Tensors};
use crate::error::{Error, Result};
use crate::mask::Mask;
use crate::meta::Meta;
use crate::primitive::{Prim, Primitive, Signature};
use crate::rule::{Grads, Rule, Saved, Transpose};
use crate::saved::{Parameter, SavedOp, sound_shape};
use crate::tracer::Values;
use crate::value::{TrackedTensor, checked_shape};
use autograd_kernels::{Layout, MAX_RANK, Shape, SliceMut, View, copy, place};
use candle_core::{DeviceLocation, Tensor};
use smallvec::SmallVec;
use std::sync::Arc;

type Order = SmallVec<[usize; 8]>;

#[derive(Clone, Copy, Debug)]
struct BroadcastTo(Shape);

#[derive(Clone, Copy, Debug)]
struct Reshape(Shape);

/// The order of dimensions, in bytes: it is copied at every application.
#[derive(Clone, Copy, Debug)]
struct Permute {
    order: [u8; MAX_RANK],
    rank: usize,
}

impl Permute {
    /// `None` for more dimensions than there can be.
    fn new(order: &[usize]) -> Option<Self> {
        let mut bytes = [0; MAX_RANK];
        for (byte, &dim) in bytes.get_mut(..order.len())?.iter_mut().zip(order) {
            *byte = u8::try_from(dim).unwrap_or(u8::MAX);
        }
        Some(Self { order: bytes, rank: order.len() })
    }

    /// The input's layout in that order; `None` where the order is not one of its dimensions.
    fn of(&self, input: &Layout) -> Option<Layout> {
        let mut order = [0; MAX_RANK];
        let mut seen = 0u32;
        for (to, &from) in order.iter_mut().zip(&self.order[..self.rank]) {
            *to = usize::from(from);
            seen |= 1u32.checked_shl(u32::from(from))?;
        }
        let all = (1u32 << self.rank) - 1;
        (self.rank == input.rank() && seen == all).then(|| input.permute(&order[..self.rank]))
    }
}

/// Elements `start .. start + len` of a dimension.
#[derive(Clone, Copy, Debug)]
struct Narrow {
    dim: usize,
    start: usize,
    len: usize,
}

/// The transpose of [`Narrow`]: zeros of extent `size` with the input at `start`.
#[derive(Clone, Copy, Debug)]
struct Embed {
    dim: usize,
    start: usize,
    size: usize,
}

/// x repeated to a larger shape by NumPy's rules, without copying.
///
/// # Errors
/// [`Error::Shape`] where x's shape does not broadcast to it.
#[track_caller]
pub fn broadcast_to(x: &TrackedTensor, shape: &Shape) -> Result<TrackedTensor> {
    if x.shape() == shape && x.failure().is_none() {
        return Ok(x.clone());
    }
    apply_one(&BroadcastTo(*shape), &[x])
}

/// The elements of x in row-major order under another shape; a view where x is contiguous.
///
/// # Errors
/// [`Error::Shape`] where the numbers of elements differ.
#[track_caller]
pub fn reshape(x: &TrackedTensor, shape: &Shape) -> Result<TrackedTensor> {
    if x.shape() == shape && x.failure().is_none() {
        return Ok(x.clone());
    }
    // Nobody watches and nothing moves: the way through the op would cost more than the view.
    if !is_capturing()
        && let Some(plain) = x.plain()
        && plain.device() == DeviceLocation::Cpu
        && let Some(view) = plain.reshaped(shape)
    {
        return Ok(TrackedTensor::from_plain(view));
    }
    apply_one(&Reshape(*shape), &[x])
}

/// x with its dimensions in another order, without copying.
///
/// # Errors
/// [`Error::InvalidArgument`] where `order` is not a permutation of the dimensions.
#[track_caller]
pub fn permute(x: &TrackedTensor, order: &[usize]) -> Result<TrackedTensor> {
    let op = Permute::new(order).ok_or_else(|| not_an_order(order, x.shape()))?;
    apply_one(&op, &[x])
}

/// x with two dimensions exchanged, without copying.
///
/// # Errors
/// [`Error::InvalidArgument`] where there is no such dimension.
#[track_caller]
pub fn transpose(x: &TrackedTensor, a: usize, b: usize) -> Result<TrackedTensor> {
    if !is_capturing()
        && let Some(plain) = x.plain()
        && plain.device() == DeviceLocation::Cpu
        && a.max(b) < plain.layout().rank()
    {
        return Ok(TrackedTensor::from_plain(plain.view(plain.layout().exchange(a, b))));
    }
    let mut order: Order = (0..x.rank()).collect();
    if a >= order.len() || b >= order.len() {
        return Err(Error::argument(
            "transpose",
            format!("no dimensions {a} and {b} in shape {}", x.shape()),
        ));
    }
    order.swap(a, b);
    permute(x, &order)
}

/// Elements `start .. start + len` of dimension `dim`, without copying.
///
/// # Errors
/// [`Error::InvalidArgument`] where they are not all there.
#[track_caller]
pub fn narrow(x: &TrackedTensor, dim: usize, start: usize, len: usize) -> Result<TrackedTensor> {
    apply_one(&Narrow { dim, start, len }, &[x])
}

fn whole(numbers: &[usize]) -> Vec<Parameter> {
    numbers.iter().map(|n| Parameter::Whole(*n as u64)).collect()
}

pub(super) fn rebuild(tag: &str, parameters: &[Parameter]) -> Option<Prim> {
    use Parameter::Whole;
    let index = |n: &u64| usize::try_from(*n).ok();
    let op: Arc<dyn Primitive> = match (tag, parameters) {
        ("broadcast_to", [Parameter::Shape(dims)]) => Arc::new(BroadcastTo(sound_shape(dims)?)),
        ("reshape", [Parameter::Shape(dims)]) => Arc::new(Reshape(sound_shape(dims)?)),
        ("permute", [Parameter::Shape(order)]) => Arc::new(Permute::new(order)?),
        ("narrow", [Whole(dim), Whole(start), Whole(len)]) => {
            Arc::new(Narrow { dim: index(dim)?, start: index(start)?, len: index(len)? })
        }
        ("embed", [Whole(dim), Whole(start), Whole(size)]) => {
            Arc::new(Embed { dim: index(dim)?, start: index(start)?, size: index(size)? })
        }
        _ => return None,
    };
    Some(Prim::Shared(op))
}

fn not_an_order(order: &[usize], shape: &Shape) -> Error {
    Error::argument("permute", format!("{order:?} is not an order of the dimensions of shape {shape}"))
}

macro_rules! view_op {
    () => {
        fn keep(&self) -> Prim {
            Prim::Shared(Arc::new(self.clone()))
        }
        fn rule(&self) -> Rule<'_> {
            Rule::Linear(Mask::one(0), self)
        }
    };
}

impl Primitive for BroadcastTo {
    view_op!();
    fn name(&self) -> &'static str {
        "broadcast_as"
    }
    fn saved(&self) -> Option<SavedOp> {
        Some(SavedOp::new("broadcast_to", vec![Parameter::shape(&self.0)]))
    }
    fn infer(&self, inputs: &[Meta]) -> Result<Signature> {
        if Layout::contiguous(inputs[0].shape).broadcast_to(&self.0).is_none() {
            let shapes = [inputs[0].shape, self.0];
            return Err(Error::shape("broadcast_as", &shapes, "the first does not broadcast to the second"));
        }
        Ok(Signature::one(inputs[0].with_shape(self.0)))
    }
    fn view(&self, _: &Meta, inputs: &[&Layout]) -> Option<(usize, Layout)> {
        Some((0, inputs[0].broadcast_to(&self.0)?))
    }
    fn rearranged(&self, input: &Layout) -> Option<Layout> {
        input.broadcast_to(&self.0)
    }
    fn eval_into(&self, inputs: &[View<'_>], outputs: &mut [SliceMut<'_>]) -> Result<()> {
        let layout = inputs[0].layout.broadcast_to(&self.0);
        let layout = layout.ok_or_else(|| Error::internal("broadcast_as", "its shapes were not inferred"))?;
        copy::copy(View { data: inputs[0].data, layout: &layout }, outputs[0].reborrow());
        Ok(())
    }
    fn eval_candle(&self, inputs: &[Tensor]) -> Result<Option<Tensors>> {
        Ok(Some(smallvec::smallvec![inputs[0].broadcast_as(self.0.dims())?]))
    }
    fn batch(&self, _: Mask, inputs: &[&TrackedTensor], size: usize) -> Result<Option<Values>> {
        let x = inputs[0];
        let mut dims: SmallVec<[usize; 8]> = smallvec::smallvec![size];
        dims.resize(1 + self.0.rank() - (x.rank() - 1), 1);
        dims.extend_from_slice(&x.dims()[1..]);
        let aligned = reshape(x, &checked_shape("broadcast_as", &dims)?)?;
        dims.truncate(1);
        dims.extend_from_slice(self.0.dims());
        Ok(Some(smallvec::smallvec![broadcast_to(&aligned, &checked_shape("broadcast_as", &dims)?)?]))
    }
}

impl Transpose for BroadcastTo {
    fn transpose(&self, _: Mask, cts: &[Option<TrackedTensor>], saved: &Saved<'_>) -> Result<Grads> {
        let back = |ct: &TrackedTensor| sum_to(ct, &saved.inputs[0].shape);
        Ok(smallvec::smallvec![cts[0].as_ref().map(back).transpose()?])
    }
}

impl Primitive for Reshape {
    view_op!();
    fn name(&self) -> &'static str {
        "reshape"
    }
    fn saved(&self) -> Option<SavedOp> {
        Some(SavedOp::new("reshape", vec![Parameter::shape(&self.0)]))
    }
    fn infer(&self, inputs: &[Meta]) -> Result<Signature> {
        if inputs[0].elements() != self.0.elements() {
            let shapes = [inputs[0].shape, self.0];
            return Err(Error::shape("reshape", &shapes, "the numbers of elements differ"));
        }
        Ok(Signature::one(inputs[0].with_shape(self.0)))
    }
    fn view(&self, _: &Meta, inputs: &[&Layout]) -> Option<(usize, Layout)> {
        Some((0, inputs[0].reshape(self.0)?))
    }
    fn rearranged(&self, input: &Layout) -> Option<Layout> {
        if input.elements() == self.0.elements() { input.reshape(self.0) } else { None }
    }
    fn eval_into(&self, inputs: &[View<'_>], outputs: &mut [SliceMut<'_>]) -> Result<()> {
        copy::copy(inputs[0], outputs[0].reborrow());
        Ok(())
    }
    fn eval_candle(&self, inputs: &[Tensor]) -> Result<Option<Tensors>> {
        Ok(Some(smallvec::smallvec![inputs[0].reshape(self.0.dims())?]))
    }
    fn batch(&self, _: Mask, inputs: &[&TrackedTensor], size: usize) -> Result<Option<Values>> {
        let mut dims: SmallVec<[usize; 8]> = smallvec::smallvec![size];
        dims.extend_from_slice(self.0.dims());
        Ok(Some(smallvec::smallvec![reshape(inputs[0], &checked_shape("reshape", &dims)?)?]))
    }
}

impl Transpose for Reshape {
    fn transpose(&self, _: Mask, cts: &[Option<TrackedTensor>], saved: &Saved<'_>) -> Result<Grads> {
        let back = |ct: &TrackedTensor| reshape(ct, &saved.inputs[0].shape);
        Ok(smallvec::smallvec![cts[0].as_ref().map(back).transpose()?])
    }
}

impl Primitive for Permute {
    view_op!();
    fn name(&self) -> &'static str {
        "permute"
    }
    fn saved(&self) -> Option<SavedOp> {
        Some(SavedOp::new(
            "permute",
            vec![Parameter::Shape(self.order[..self.rank].iter().map(|d| usize::from(*d)).collect())],
        ))
    }
    fn infer(&self, inputs: &[Meta]) -> Result<Signature> {
        let layout = self.of(&Layout::contiguous(inputs[0].shape));
        let order = self.order.map(usize::from);
        let layout = layout.ok_or_else(|| not_an_order(&order[..self.rank], &inputs[0].shape))?;
        Ok(Signature::one(inputs[0].with_shape(*layout.shape())))
    }
    fn view(&self, _: &Meta, inputs: &[&Layout]) -> Option<(usize, Layout)> {
        Some((0, self.of(inputs[0])?))
    }
    fn rearranged(&self, input: &Layout) -> Option<Layout> {
        self.of(input)
    }
    fn eval_into(&self, inputs: &[View<'_>], outputs: &mut [SliceMut<'_>]) -> Result<()> {
        let layout = self.of(inputs[0].layout);
        let layout = layout.ok_or_else(|| Error::internal("permute", "its shape was not inferred"))?;
        copy::copy(View { data: inputs[0].data, layout: &layout }, outputs[0].reborrow());
        Ok(())
    }
    fn eval_candle(&self, inputs: &[Tensor]) -> Result<Option<Tensors>> {
        let order: Order = self.order[..self.rank].iter().map(|d| usize::from(*d)).collect();
        Ok(Some(smallvec::smallvec![inputs[0].permute(&order[..])?]))
    }
    fn batch(&self, _: Mask, inputs: &[&TrackedTensor], _: usize) -> Result<Option<Values>> {
        let inner = self.order[..self.rank].iter().map(|d| usize::from(*d) + 1);
        let order: Order = std::iter::once(0).chain(inner).collect();
        Ok(Some(smallvec::smallvec![permute(inputs[0], &order)?]))
    }
}

impl Transpose for Permute {
    fn transpose(&self, _: Mask, cts: &[Option<TrackedTensor>], _: &Saved<'_>) -> Result<Grads> {
        let mut inverse: Order = smallvec::smallvec![0; self.rank];
        for (to, from) in self.order[..self.rank].iter().enumerate() {
            inverse[usize::from(*from)] = to;
        }
        let back = |ct: &TrackedTensor| permute(ct, &inverse);
        Ok(smallvec::smallvec![cts[0].as_ref().map(back).transpose()?])
    }
}

impl Primitive for Narrow {
    view_op!();
    fn name(&self) -> &'static str {
        "narrow"
    }
    fn saved(&self) -> Option<SavedOp> {
        Some(SavedOp::new("narrow", whole(&[self.dim, self.start, self.len])))
    }
    fn infer(&self, inputs: &[Meta]) -> Result<Signature> {
        let mut shape = inputs[0].shape;
        let extent = shape.dims().get(self.dim).copied();
        if extent.is_none_or(|extent| self.start.checked_add(self.len).is_none_or(|end| end > extent)) {
            let (dim, start, end) = (self.dim, self.start, self.start.saturating_add(self.len));
            let reason = format!("elements {start}..{end} of dimension {dim} are not all in shape {shape}");
            return Err(Error::argument("narrow", reason));
        }
        shape.dims_mut()[self.dim] = self.len;
        Ok(Signature::one(inputs[0].with_shape(shape)))
    }
    fn view(&self, _: &Meta, inputs: &[&Layout]) -> Option<(usize, Layout)> {
        Some((0, inputs[0].narrow(self.dim, self.start, self.len)))
    }
    fn rearranged(&self, input: &Layout) -> Option<Layout> {
        let extent = *input.dims().get(self.dim)?;
        let fits = self.start.checked_add(self.len).is_some_and(|end| end <= extent);
        fits.then(|| input.narrow(self.dim, self.start, self.len))
    }
    fn eval_into(&self, inputs: &[View<'_>], outputs: &mut [SliceMut<'_>]) -> Result<()> {
        let layout = inputs[0].layout.narrow(self.dim, self.start, self.len);
        copy::copy(View { data: inputs[0].data, layout: &layout }, outputs[0].reborrow());
        Ok(())
    }
    fn eval_candle(&self, inputs: &[Tensor]) -> Result<Option<Tensors>> {
        Ok(Some(smallvec::smallvec![inputs[0].narrow(self.dim, self.start, self.len)?]))
    }
    fn batch(&self, _: Mask, inputs: &[&TrackedTensor], _: usize) -> Result<Option<Values>> {
        Ok(Some(smallvec::smallvec![narrow(inputs[0], self.dim + 1, self.start, self.len)?]))
    }
}

impl Transpose for Narrow {
    // The cotangent in its place, zeros around it.
    fn transpose(&self, _: Mask, cts: &[Option<TrackedTensor>], saved: &Saved<'_>) -> Result<Grads> {
        let size = saved.inputs[0].shape.dims()[self.dim];
        let back = |ct: &TrackedTensor| apply_one(&Embed { dim: self.dim, start: self.start, size }, &[ct]);
        Ok(smallvec::smallvec![cts[0].as_ref().map(back).transpose()?])
    }
}

impl Primitive for Embed {
    view_op!();
    fn name(&self) -> &'static str {
        "embed"
    }
    fn saved(&self) -> Option<SavedOp> {
        Some(SavedOp::new("embed", whole(&[self.dim, self.start, self.size])))
    }
    fn infer(&self, inputs: &[Meta]) -> Result<Signature> {
        let mut shape = inputs[0].shape;
        let extent = shape.dims().get(self.dim).copied();
        if extent.is_none_or(|len| self.start.checked_add(len).is_none_or(|end| end > self.size)) {
            let reason =
                format!("{shape} at {} of dimension {} does not fit in {}", self.start, self.dim, self.size);
            return Err(Error::argument("embed", reason));
        }
        shape.dims_mut()[self.dim] = self.size;
        Ok(Signature::one(inputs[0].with_shape(shape)))
    }
    fn eval_into(&self, inputs: &[View<'_>], outputs: &mut [SliceMut<'_>]) -> Result<()> {
        let mut whole = *inputs[0].layout.shape();
        let len = whole.dims()[self.dim];
        whole.dims_mut()[self.dim] = self.size;
        let at = Layout::contiguous(whole).narrow(self.dim, self.start, len);
        copy::fill(0.0, outputs[0].reborrow());
        place::place(inputs[0], outputs[0].reborrow(), &at);
        Ok(())
    }
    fn eval_candle(&self, inputs: &[Tensor]) -> Result<Option<Tensors>> {
        let behind = self.size - self.start - inputs[0].dims()[self.dim];
        Ok(Some(smallvec::smallvec![inputs[0].pad_with_zeros(self.dim, self.start, behind)?]))
    }
    fn kernel(&self) -> Option<KernelCall> {
        Some(KernelCall::new("embed", &[self.dim as i64, self.start as i64], &[]))
    }
    fn batch(&self, _: Mask, inputs: &[&TrackedTensor], _: usize) -> Result<Option<Values>> {
        let op = Self { dim: self.dim + 1, ..*self };
        Ok(Some(smallvec::smallvec![apply_one(&op, inputs)?]))
    }
}

impl Transpose for Embed {
    fn transpose(&self, _: Mask, cts: &[Option<TrackedTensor>], saved: &Saved<'_>) -> Result<Grads> {
        let len = saved.inputs[0].shape.dims()[self.dim];
        let back = |ct: &TrackedTensor| narrow(ct, self.dim, self.start, len);
        Ok(smallvec::smallvec![cts[0].as_ref().map(back).transpose()?])
    }
}
