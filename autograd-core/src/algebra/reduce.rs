//! Sums down to a smaller shape: the transpose of broadcasting.

use super::layout::{broadcast_to, reshape};
use crate::apply::apply_one;
use crate::device::Tensors;
use crate::error::{Error, Result};
use crate::mask::Mask;
use crate::meta::Meta;
use crate::primitive::{Prim, Primitive, Signature, SumOver};
use crate::rule::{Grads, Rule, Saved, Transpose};
use crate::saved::{Parameter, SavedOp, sound_shape};
use crate::tracer::Values;
use crate::value::{TrackedTensor, checked_shape};
use autograd_kernels::{Layout, Shape, SliceMut, View, reduce};
use candle_core::Tensor;
use smallvec::SmallVec;
use std::sync::Arc;

/// Sum over the dimensions that broadcasting from `target` would repeat.
#[derive(Clone, Copy, Debug)]
pub struct SumTo {
    /// The shape of the result, which broadcasts to the input's.
    pub target: Shape,
}

/// x summed over the dimensions in which `target` would be broadcast to x's shape.
///
/// # Errors
/// [`Error::Shape`] where `target` does not broadcast to x's shape.
#[track_caller]
pub fn sum_to(x: &TrackedTensor, target: &Shape) -> Result<TrackedTensor> {
    if x.shape() == target && x.failure().is_none() {
        return Ok(x.clone());
    }
    apply_one(&SumTo { target: *target }, &[x])
}

pub(super) fn rebuild(tag: &str, parameters: &[Parameter]) -> Option<Prim> {
    match (tag, parameters) {
        ("sum_to", [Parameter::Shape(dims)]) => {
            Some(Prim::Shared(Arc::new(SumTo { target: sound_shape(dims)? })))
        }
        _ => None,
    }
}

impl Primitive for SumTo {
    fn name(&self) -> &'static str {
        "sum_to"
    }

    fn keep(&self) -> Prim {
        Prim::Shared(Arc::new(*self))
    }

    fn infer(&self, inputs: &[Meta]) -> Result<Signature> {
        let x = inputs[0].shape;
        if Layout::contiguous(self.target).broadcast_to(&x).is_none() {
            return Err(Error::shape(
                "sum_to",
                &[x, self.target],
                "the second does not broadcast to the first",
            ));
        }
        Ok(Signature::one(inputs[0].with_shape(self.target)))
    }

    fn saved(&self) -> Option<SavedOp> {
        Some(SavedOp::new("sum_to", vec![Parameter::shape(&self.target)]))
    }

    fn as_sum(&self, input: &Meta) -> Option<SumOver> {
        let lead = input.shape.rank().checked_sub(self.target.rank())?;
        let mut kept = input.shape;
        for (i, extent) in kept.dims_mut().iter_mut().enumerate() {
            *extent = if i < lead { 1 } else { self.target.dims()[i - lead] };
        }
        Some(SumOver { kept, scale: 1.0 })
    }

    fn eval_into(&self, inputs: &[View<'_>], outputs: &mut [SliceMut<'_>]) -> Result<()> {
        let dims = inputs[0].layout.dims();
        let lead = dims.len() - self.target.rank();
        let over: SmallVec<[bool; 8]> =
            dims.iter().enumerate().map(|(i, &d)| i < lead || self.target.dims()[i - lead] != d).collect();
        reduce::reduce(reduce::Reduction::Sum, inputs[0], &over, outputs[0].reborrow());
        Ok(())
    }

    fn eval_candle(&self, inputs: &[Tensor]) -> Result<Option<Tensors>> {
        let dims = inputs[0].dims();
        let lead = dims.len() - self.target.rank();
        let over: Vec<usize> =
            (0..dims.len()).filter(|&i| i < lead || self.target.dims()[i - lead] != dims[i]).collect();
        Ok(Some(smallvec::smallvec![inputs[0].sum_keepdim(over)?.reshape(self.target.dims())?]))
    }

    fn rule(&self) -> Rule<'_> {
        Rule::Linear(Mask::one(0), self)
    }

    fn batch(&self, _: Mask, inputs: &[&TrackedTensor], size: usize) -> Result<Option<Values>> {
        let x = inputs[0];
        // Dimensions that vanish are summed to 1 first, so that the batch dimension stays in front.
        let lead = x.rank() - 1 - self.target.rank();
        let mut dims: SmallVec<[usize; 8]> = smallvec::smallvec![size];
        dims.resize(1 + lead, 1);
        dims.extend_from_slice(self.target.dims());
        let summed = sum_to(x, &checked_shape("sum_to", &dims)?)?;
        dims.truncate(1);
        dims.extend_from_slice(self.target.dims());
        Ok(Some(smallvec::smallvec![reshape(&summed, &checked_shape("sum_to", &dims)?)?]))
    }
}

impl Transpose for SumTo {
    // ∂(Σx)ᵀ: the cotangent repeated.
    fn transpose(&self, _: Mask, cts: &[Option<TrackedTensor>], saved: &Saved<'_>) -> Result<Grads> {
        let back = |ct: &TrackedTensor| broadcast_to(ct, &saved.inputs[0].shape);
        Ok(smallvec::smallvec![cts[0].as_ref().map(back).transpose()?])
    }
}
