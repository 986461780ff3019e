//! Loss scaling: small gradients of half precision kept from vanishing.

use crate::statistics::not_finite;
use autograd_core::algebra::{cast, scale};
use autograd_core::device::{KernelCall, Tensors};
use autograd_core::kernels::statistics::scale_checked;
use autograd_core::smallvec::smallvec;
use autograd_core::{
    DType, Error, Meta, Prim, Primitive, Result, Rule, Shape, Signature, Site, SliceMut, Tensor,
    TrackedTensor, View, apply, is_float,
};
use std::sync::Arc;

/// Scales a loss up before the backward pass and its gradients down after it, so that small
/// gradients of half precision do not vanish on the way.
///
/// A dynamic scale follows PyTorch's `GradScaler`: a step whose gradients overflow is skipped and
/// the scale is halved; after 2000 good steps in a row it is doubled. Micikevicius et al., "Mixed
/// precision training" (2018).
///
/// ```
/// use autograd_core::{DType, Result, TrackedTensor, algebra};
/// use autograd_tape::{GradientTape, LossScaler};
///
/// fn main() -> Result<()> {
///     let mut scaler = LossScaler::dynamic().in_type(DType::F32);
///     let w = algebra::cast(&TrackedTensor::scalar(2.0), DType::F16)?;
///     let tape = GradientTape::new();
///     let w = tape.variable(&w);
///     let loss = (&w * 1e-7)?; // its gradient is below what float16 can say
///     let grads = tape.gradient(&scaler.scale(&loss)?, &[&w])?;
///     if let Some(grads) = scaler.unscale(grads)? {
///         let dw = grads[0].to_scalar::<f32>()?;
///         assert!((dw - 1e-7).abs() < 1e-9);
///     } // else: they overflowed, and this step is skipped
///     Ok(())
/// }
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct LossScaler {
    state: LossScalerState,
    /// `None` for a fixed scale.
    dynamic: Option<Growth>,
    to: Option<DType>,
}

/// What a scaler has learnt: to be saved with a training run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LossScalerState {
    /// The scale.
    pub scale: f64,
    /// Good steps since it last changed.
    pub good_steps: usize,
    /// Steps skipped since the start.
    pub skipped: usize,
}

/// How a scale changes.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Growth {
    factor: f64,
    backoff: f64,
    interval: usize,
}

impl LossScaler {
    /// A scale that starts at 2¹⁶, doubles after 2000 good steps and halves after an overflow.
    pub fn dynamic() -> Self {
        Self {
            state: LossScalerState { scale: 65536.0, good_steps: 0, skipped: 0 },
            dynamic: Some(Growth { factor: 2.0, backoff: 0.5, interval: 2000 }),
            to: None,
        }
    }

    /// A scale that stays; steps that overflow are skipped.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for a scale that is not finite and above 0.
    #[track_caller]
    pub fn fixed(scale: f64) -> Result<Self> {
        let state = LossScalerState { scale, good_steps: 0, skipped: 0 };
        check_scale(scale, Site::caller())?;
        Ok(Self { state, dynamic: None, to: None })
    }

    /// Another first scale, growth factor (above 1), backoff factor (between 0 and 1) and number of
    /// good steps before the scale grows.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for numbers outside of these ranges.
    #[track_caller]
    pub fn dynamic_with(scale: f64, growth: f64, backoff: f64, interval: usize) -> Result<Self> {
        let site = Site::caller();
        check_scale(scale, site)?;
        let sound = growth > 1.0 && growth.is_finite() && backoff > 0.0 && backoff < 1.0 && interval > 0;
        if !sound {
            let reason =
                format!("growth {growth}, backoff {backoff} and {interval} steps make no scale grow");
            return Err(Error::argument("loss_scale", reason).or_at(site));
        }
        let growth = Growth { factor: growth, backoff, interval };
        let state = LossScalerState { scale, good_steps: 0, skipped: 0 };
        Ok(Self { state, dynamic: Some(growth), to: None })
    }

    /// Gives gradients in another float type: unscaled into f32, those of half precision keep what
    /// the scale saved.
    #[must_use]
    pub fn in_type(mut self, dtype: DType) -> Self {
        self.to = Some(dtype);
        self
    }

    /// The loss times the scale.
    ///
    /// # Errors
    /// A loss that is not of a float type.
    #[track_caller]
    pub fn scale(&self, loss: &TrackedTensor) -> Result<TrackedTensor> {
        scale(loss, self.state.scale)
    }

    /// The gradients divided by the scale, or `None` where one of them is infinite or NaN: then the
    /// step is to be skipped. The scale changes accordingly, so this is called once a step. Scaling
    /// and looking for overflow are one pass.
    ///
    /// # Errors
    /// The error of a gradient whose construction failed; a type that is not a float;
    /// [`Error::ReadWhileCapturing`] while they are captured or batched: skipping depends on numbers.
    #[track_caller]
    pub fn unscale(&mut self, grads: Vec<TrackedTensor>) -> Result<Option<Vec<TrackedTensor>>> {
        let site = Site::caller();
        let factor = 1.0 / self.state.scale;
        let mut unscaled = Vec::with_capacity(grads.len());
        let mut sound = true;
        for grad in grads {
            let to = self.to.unwrap_or(grad.dtype());
            let (grad, finite) = unscale_one(&grad, factor, to).map_err(|e| e.or_at(site))?;
            sound &= finite;
            unscaled.push(grad);
            if !sound {
                break;
            }
        }
        self.note(sound);
        Ok(sound.then_some(unscaled))
    }

    fn note(&mut self, sound: bool) {
        let state = &mut self.state;
        if sound {
            state.good_steps += 1;
        } else {
            state.good_steps = 0;
            state.skipped += 1;
        }
        let Some(growth) = self.dynamic else { return };
        if !sound {
            // Never 0: a scale must have an inverse.
            state.scale = (state.scale * growth.backoff).max(f64::MIN_POSITIVE);
        } else if state.good_steps >= growth.interval {
            let grown = state.scale * growth.factor;
            state.scale = if grown.is_finite() { grown } else { state.scale };
            state.good_steps = 0;
        }
    }

    /// The state, to be saved.
    pub fn state(&self) -> LossScalerState {
        self.state
    }

    /// Goes on from a saved state.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for a scale that is not finite and above 0.
    #[track_caller]
    pub fn restore(&mut self, state: LossScalerState) -> Result<()> {
        check_scale(state.scale, Site::caller())?;
        self.state = state;
        Ok(())
    }
}

fn check_scale(scale: f64, site: Site) -> Result<()> {
    if scale.is_finite() && scale > 0.0 {
        return Ok(());
    }
    let reason = format!("the scale {scale} is not a finite number above 0");
    Err(Error::argument("loss_scale", reason).or_at(site))
}

/// A gradient times `factor` in type `to`, and whether it was finite.
fn unscale_one(grad: &TrackedTensor, factor: f64, to: DType) -> Result<(TrackedTensor, bool)> {
    if grad.is_tracked() {
        let finite = not_finite(grad)? == (0, 0);
        return Ok((scale(&cast(grad, to)?, factor)?, finite));
    }
    let mut made = apply(&Unscale { factor, to }, &[grad])?;
    let missing = || Error::internal("unscale", "it has two outputs");
    let (finite, grad) = (made.pop().ok_or_else(missing)?, made.pop().ok_or_else(missing)?);
    Ok((grad, finite.to_scalar::<u8>()? == 1))
}

/// x · factor, and whether all of x is finite. Applied to plain values alone.
#[derive(Clone, Copy, Debug)]
struct Unscale {
    factor: f64,
    to: DType,
}

impl Primitive for Unscale {
    fn name(&self) -> &'static str {
        "unscale"
    }

    fn keep(&self) -> Prim {
        Prim::Shared(Arc::new(*self))
    }

    fn infer(&self, inputs: &[Meta]) -> Result<Signature> {
        for dtype in [inputs[0].dtype, self.to] {
            if !is_float(dtype) {
                return Err(Error::dtype("unscale", dtype, "gradients are of float types"));
            }
        }
        let flag = inputs[0].with_dtype(DType::U8).with_shape(Shape::SCALAR);
        Ok(Signature { outputs: smallvec![inputs[0].with_dtype(self.to), flag], aux: smallvec![] })
    }

    fn eval_into(&self, inputs: &[View<'_>], outputs: &mut [SliceMut<'_>]) -> Result<()> {
        let [scaled, SliceMut::U8(flag)] = outputs else {
            return Err(Error::internal("unscale", "its second output is not u8"));
        };
        flag[0] = u8::from(scale_checked(inputs[0], self.factor, scaled.reborrow()));
        Ok(())
    }

    fn kernel(&self) -> Option<KernelCall> {
        Some(KernelCall::new("unscale", &[], &[self.factor]))
    }

    fn eval_candle(&self, inputs: &[Tensor]) -> Result<Option<Tensors>> {
        let scaled = inputs[0].to_dtype(self.to)?.affine(self.factor, 0.0)?;
        // 0 where it is finite, NaN elsewhere: the sum tells whether one was not.
        let wide = if inputs[0].dtype() == DType::F64 { DType::F64 } else { DType::F32 };
        let off = inputs[0].to_dtype(wide)?.affine(0.0, 0.0)?.sum_all()?;
        Ok(Some(smallvec![scaled, off.eq(&off.zeros_like()?)?]))
    }

    fn rule(&self) -> Rule<'_> {
        Rule::Flat
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::GradientTape;

    fn vector(x: &[f64], dtype: DType) -> Result<TrackedTensor> {
        cast(&TrackedTensor::from_vec(x.to_vec(), &[x.len()])?, dtype)
    }

    // The sequence of torch.amp.GradScaler(init_scale=8, growth_factor=4, backoff_factor=0.25,
    // growth_interval=2) under the same steps.
    #[test]
    fn the_scale_grows_and_backs_off_as_in_pytorch() -> Result<()> {
        let mut scaler = LossScaler::dynamic_with(8.0, 4.0, 0.25, 2)?;
        let mut scales = Vec::new();
        for good in [true, true, true, false, true, true, false, false] {
            let number = if good { 1.0 } else { f64::INFINITY };
            let made = scaler.unscale(vec![vector(&[1.0], DType::F32)?, vector(&[number], DType::F32)?])?;
            assert_eq!(made.is_some(), good);
            scales.push(scaler.state().scale);
        }
        assert_eq!(scales, [8.0, 32.0, 32.0, 8.0, 8.0, 32.0, 8.0, 2.0]);
        assert_eq!(scaler.state(), LossScalerState { scale: 2.0, good_steps: 0, skipped: 3 });
        Ok(())
    }

    #[test]
    fn every_type_is_scaled_back_and_nan_is_seen() -> Result<()> {
        for dtype in [DType::F64, DType::F32, DType::F16, DType::BF16] {
            let mut scaler = LossScaler::fixed(4.0)?;
            let grads = scaler.unscale(vec![vector(&[8.0, -2.0], dtype)?])?;
            let Some(grads) = grads else { panic!("they are finite") };
            assert_eq!(
                (grads[0].dtype(), cast(&grads[0], DType::F64)?.to_vec1::<f64>()?),
                (dtype, vec![2.0, -0.5])
            );
            assert!(scaler.unscale(vec![vector(&[1.0, f64::NAN], dtype)?])?.is_none());
            assert_eq!(scaler.state().scale, 4.0);
        }
        Ok(())
    }

    #[test]
    fn small_half_gradients_survive_in_f32() -> Result<()> {
        let tape = GradientTape::new().persistent();
        let x = tape.variable(vector(&[1.0], DType::F16)?);
        let y = (&(&x * 1e-3)? * 1e-5)?;
        let lost = tape.gradient_with(&[&y], &[&vector(&[1.0], DType::F16)?], &[&x])?;
        assert_eq!(cast(&lost[0], DType::F64)?.to_vec1::<f64>()?, [0.0]);
        let mut scaler = LossScaler::dynamic().in_type(DType::F32);
        let seed = scaler.scale(&vector(&[0.5], DType::F16)?)?;
        // Gradients that are still on the tape go through ops.
        let found = scaler.unscale(tape.gradient_with(&[&y], &[&seed], &[&x])?)?;
        let Some(found) = found else { panic!("they are finite") };
        assert!((found[0].to_vec1::<f32>()?[0] - 5e-9).abs() < 5e-11);
        Ok(())
    }

    #[test]
    fn the_state_is_saved_and_restored() -> Result<()> {
        let mut first = LossScaler::dynamic_with(8.0, 2.0, 0.5, 3)?;
        first.unscale(vec![vector(&[1.0], DType::F32)?])?;
        let mut second = LossScaler::dynamic_with(1.0, 2.0, 0.5, 3)?;
        second.restore(first.state())?;
        assert_eq!(second, first);
        assert!(second.restore(LossScalerState { scale: 0.0, ..first.state() }).is_err());
        Ok(())
    }

    #[test]
    fn bad_numbers_are_errors() -> Result<()> {
        for scale in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(matches!(LossScaler::fixed(scale), Err(Error::InvalidArgument { .. })));
        }
        assert!(LossScaler::dynamic_with(1.0, 1.0, 0.5, 1).is_err());
        assert!(LossScaler::dynamic_with(1.0, 2.0, 1.0, 1).is_err());
        assert!(LossScaler::dynamic_with(1.0, 2.0, 0.5, 0).is_err());
        let whole = TrackedTensor::from_vec(vec![1u32], &[1])?;
        let found = LossScaler::dynamic().unscale(vec![whole]);
        assert!(matches!(found, Err(Error::UnsupportedDType { op: "unscale", .. })));
        Ok(())
    }
}
