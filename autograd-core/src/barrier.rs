//! Barriers: values that programs must not look through.
//!
//! A captured program is a set of equations: two equal ones may be made one, and an instruction may
//! go wherever its operands are there. Who computes something *again*, to have it later rather than
//! keep it, reads the operands through a barrier: they are then other values than the ones that the
//! first computation read, and are there no sooner than what the barrier waits for. Passes that
//! share equal ops, fuse or reorder need to know nothing of it, because all that they look at are
//! operands. A barrier is a view, so it costs a run nothing.

use crate::apply::apply_one;
use crate::device::Tensors;
use crate::error::Result;
use crate::mask::Mask;
use crate::meta::Meta;
use crate::primitive::{Prim, Primitive, Signature};
use crate::rule::{Grads, Residuals, Rule, Saved, Transpose};
use crate::saved::SavedOp;
use crate::tracer::Values;
use crate::value::{TrackedTensor, checked_shape};
use crate::{algebra, apply::heard};
use autograd_kernels::{Layout, SliceMut, View, copy};
use candle_core::Tensor;
use smallvec::SmallVec;

/// The identity on the first operand; the second is waited for.
#[derive(Clone, Copy, Debug)]
struct Barrier;

/// The tag of a stored barrier.
pub(crate) const TAG: &str = "barrier";

/// x, in a program no sooner than `token`: y = x, with dy = dx and no derivative in `token`, whose
/// shape and type do not matter. Equal ops on x and on y stay two. It copies nothing.
///
/// ```
/// use autograd_core::{Result, TrackedTensor, barrier};
///
/// fn main() -> Result<()> {
///     let (x, token) = (TrackedTensor::scalar(2.0), TrackedTensor::scalar(7.0));
///     assert_eq!(barrier(&x, &token)?.to_scalar::<f64>()?, 2.0);
///     Ok(())
/// }
/// ```
///
/// # Errors
/// [`Error::DeviceMismatch`](crate::Error::DeviceMismatch) where the two are on different devices;
/// the error that a value carries.
#[track_caller]
pub fn barrier(x: &TrackedTensor, token: &TrackedTensor) -> Result<TrackedTensor> {
    apply_one(&Barrier, &[x, token])
}

/// The value beneath all levels, where a program is being captured there; `None` where numbers are.
pub fn captured(x: &TrackedTensor) -> Option<TrackedTensor> {
    heard(x).tracer()?.captured()
}

impl Primitive for Barrier {
    fn name(&self) -> &'static str {
        "barrier"
    }
    fn keep(&self) -> Prim {
        Prim::Static(&Self)
    }
    fn saved(&self) -> Option<SavedOp> {
        Some(SavedOp::new(TAG, Vec::new()))
    }
    fn infer(&self, inputs: &[Meta]) -> Result<Signature> {
        Ok(Signature::one(inputs[0]))
    }
    fn view(&self, _: &Meta, inputs: &[&Layout]) -> Option<(usize, Layout)> {
        Some((0, *inputs[0]))
    }
    fn operations(&self, _: &[Meta]) -> u64 {
        0
    }
    fn eval_into(&self, inputs: &[View<'_>], outputs: &mut [SliceMut<'_>]) -> Result<()> {
        copy::copy(inputs[0], outputs[0].reborrow());
        Ok(())
    }
    fn eval_candle(&self, inputs: &[Tensor]) -> Result<Option<Tensors>> {
        Ok(Some(smallvec::smallvec![inputs[0].clone()]))
    }
    fn rule(&self) -> Rule<'_> {
        Rule::Linear(Mask::one(0), self)
    }
    fn batch(&self, batched: Mask, inputs: &[&TrackedTensor], size: usize) -> Result<Option<Values>> {
        let y = barrier(inputs[0], inputs[1])?;
        if batched.has(0) {
            return Ok(Some(smallvec::smallvec![y]));
        }
        let mut dims: SmallVec<[usize; 8]> = smallvec::smallvec![size];
        dims.extend_from_slice(y.dims());
        Ok(Some(smallvec::smallvec![algebra::broadcast_to(&y, &checked_shape("barrier", &dims)?)?]))
    }
}

impl Transpose for Barrier {
    fn residuals(&self, _: Mask, _: usize, _: Rule<'_>) -> Residuals {
        Residuals::new()
    }
    fn transpose(&self, _: Mask, cts: &[Option<TrackedTensor>], _: &Saved<'_>) -> Result<Grads> {
        Ok(smallvec::smallvec![cts[0].clone(), None])
    }
}

/// The barrier that a tag describes.
pub(crate) fn rebuild(tag: &str) -> Option<Prim> {
    (tag == TAG).then(|| Barrier.keep())
}
