//! A user's own op on candle tensors, with its own gradient.

use crate::apply::apply_one;
use crate::error::{Error, Result};
use crate::mask::Mask;
use crate::meta::Meta;
use crate::primitive::{Prim, Primitive, Signature};
use crate::rule::{Grads, Opaque, Rule};
use crate::tracer::Values;
use crate::value::TrackedTensor;
use autograd_kernels::{SliceMut, View};
use candle_core::Tensor;
use smallvec::SmallVec;
use std::fmt;
use std::sync::Arc;

/// A differentiable function on candle tensors: the forward pass, and the cotangents of its
/// inputs. First-order reverse mode only; forward mode and second order give a typed error.
///
/// ```
/// use autograd_core::{CustomOp, Result};
/// use candle_core::Tensor;
///
/// /// The identity, whose gradient is held within ±1.
/// struct ClipGradient;
///
/// impl CustomOp for ClipGradient {
///     fn forward(&self, inputs: &[&Tensor]) -> Result<Tensor> {
///         Ok(inputs[0].clone())
///     }
///     fn backward(&self, grad_output: &Tensor, _: &[&Tensor]) -> Result<Vec<Tensor>> {
///         Ok(vec![grad_output.clamp(-1f32, 1f32)?])
///     }
/// }
/// ```
pub trait CustomOp: Send + Sync {
    /// The op's name in errors and dumps.
    fn name(&self) -> &'static str {
        "custom"
    }

    /// The output.
    ///
    /// # Errors
    /// The user's own.
    fn forward(&self, inputs: &[&Tensor]) -> Result<Tensor>;

    /// The cotangent of each input, in the inputs' shapes.
    ///
    /// # Errors
    /// The user's own.
    fn backward(&self, grad_output: &Tensor, inputs: &[&Tensor]) -> Result<Vec<Tensor>>;
}

macro_rules! forward_to_inner {
    ($($ty:ty),*) => {$(
        impl<T: CustomOp + ?Sized> CustomOp for $ty {
            fn name(&self) -> &'static str {
                (**self).name()
            }
            fn forward(&self, inputs: &[&Tensor]) -> Result<Tensor> {
                (**self).forward(inputs)
            }
            fn backward(&self, grad_output: &Tensor, inputs: &[&Tensor]) -> Result<Vec<Tensor>> {
                (**self).backward(grad_output, inputs)
            }
        }
    )*};
}

forward_to_inner!(&T, Arc<T>, Box<T>);

/// Applies a user's op: by value, by `Arc`, or by `&'static` (as a unit struct's `&Op` is).
///
/// # Errors
/// The user's own; [`Error::UnsupportedMode`] where a dual number or a batch watches an input.
#[track_caller]
pub fn custom(op: impl CustomOp + 'static, inputs: &[&TrackedTensor]) -> Result<TrackedTensor> {
    apply_one(&Custom(Arc::new(op)), inputs)
}

#[derive(Clone)]
struct Custom(Arc<dyn CustomOp>);

impl fmt::Debug for Custom {
    // The address tells two closures of one name apart.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Custom({}, {:p})", self.0.name(), Arc::as_ptr(&self.0))
    }
}

fn no_inference(name: &'static str) -> Error {
    Error::mode(name, "static shape", "the shape of a user's op is known only when it runs")
}

impl Primitive for Custom {
    fn name(&self) -> &'static str {
        self.0.name()
    }
    fn keep(&self) -> Prim {
        Prim::Shared(Arc::new(self.clone()))
    }
    fn infer(&self, _: &[Meta]) -> Result<Signature> {
        Err(no_inference(self.0.name()))
    }
    fn eval_into(&self, _: &[View<'_>], _: &mut [SliceMut<'_>]) -> Result<()> {
        Err(no_inference(self.0.name()))
    }
    fn rule(&self) -> Rule<'_> {
        Rule::Opaque(self)
    }
}

fn tensors(inputs: &[&TrackedTensor]) -> Result<SmallVec<[Tensor; 4]>> {
    inputs.iter().map(|x| x.tensor()).collect()
}

impl Opaque for Custom {
    fn forward(&self, inputs: &[&TrackedTensor]) -> Result<Values> {
        let tensors = tensors(inputs)?;
        let refs: SmallVec<[&Tensor; 4]> = tensors.iter().collect();
        Ok(smallvec::smallvec![TrackedTensor::from_candle(&self.0.forward(&refs)?)?])
    }

    fn backward(&self, wanted: Mask, ct: &TrackedTensor, inputs: &[&TrackedTensor]) -> Result<Grads> {
        let mut all: SmallVec<[&TrackedTensor; 4]> = smallvec::smallvec![ct];
        all.extend_from_slice(inputs);
        let op = CustomBackward { op: self.0.clone(), wanted, inputs: inputs.len() };
        let made = crate::apply::apply(&op, &all)?;
        let mut grads: Grads = smallvec::smallvec![None; inputs.len()];
        for (i, grad) in wanted.iter().zip(made) {
            grads[i] = Some(grad);
        }
        Ok(grads)
    }
}

/// The backward pass of a user's op as an op of its own, so that a level which watches it can
/// say that there is no second order instead of losing it.
#[derive(Clone)]
struct CustomBackward {
    op: Arc<dyn CustomOp>,
    wanted: Mask,
    inputs: usize,
}

impl fmt::Debug for CustomBackward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CustomBackward({}, {:p}, {:?})", self.op.name(), Arc::as_ptr(&self.op), self.wanted)
    }
}

impl Primitive for CustomBackward {
    fn name(&self) -> &'static str {
        self.op.name()
    }
    fn keep(&self) -> Prim {
        Prim::Shared(Arc::new(self.clone()))
    }
    fn infer(&self, _: &[Meta]) -> Result<Signature> {
        Err(no_inference(self.op.name()))
    }
    fn eval_into(&self, _: &[View<'_>], _: &mut [SliceMut<'_>]) -> Result<()> {
        Err(no_inference(self.op.name()))
    }
    fn rule(&self) -> Rule<'_> {
        Rule::Opaque(self)
    }
}

impl Opaque for CustomBackward {
    fn forward(&self, inputs: &[&TrackedTensor]) -> Result<Values> {
        let tensors = tensors(inputs)?;
        let refs: SmallVec<[&Tensor; 4]> = tensors[1..].iter().collect();
        let grads = self.op.backward(&tensors[0], &refs)?;
        let name = self.op.name();
        if grads.len() != self.inputs {
            let reason = format!("backward gave {} gradients for {} inputs", grads.len(), self.inputs);
            return Err(Error::argument(name, reason));
        }
        let mut made = Values::new();
        for i in self.wanted.iter() {
            let (grad, input) = (&grads[i], &tensors[i + 1]);
            if grad.dims() != input.dims() || grad.dtype() != input.dtype() {
                let (got, want) = (grad.shape(), input.shape());
                let reason = format!(
                    "backward gave {got:?} {:?} for input {i} of {want:?} {:?}",
                    grad.dtype(),
                    input.dtype()
                );
                return Err(Error::argument(name, reason));
            }
            made.push(TrackedTensor::from_candle(grad)?);
        }
        Ok(made)
    }

    fn backward(&self, _: Mask, _: &TrackedTensor, _: &[&TrackedTensor]) -> Result<Grads> {
        let reason =
            "a CustomOp is differentiable once; write it as custom_vjp over values for higher orders";
        Err(Error::mode(self.op.name(), "second order", reason))
    }
}
