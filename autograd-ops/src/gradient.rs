//! The identity with another derivative: where gradients stop, turn, shrink, or are looked at.

use crate::compare::clamp;
use crate::operand::Operand;
use crate::registry::{Case, Family, Op, Sample};
use autograd_core::algebra::scale;
use autograd_core::smallvec::{SmallVec, smallvec};
use autograd_core::{
    Error, General, Grads, Layout, Mask, Meta, Prim, Primitive, Residual, Residuals, Result, Rule, Saved,
    Signature, SliceMut, TrackedTensor, Values, View, apply_one, kernels,
};
use std::fmt;
use std::sync::Arc;

/// x, through which no derivative passes: at every level that differentiates it is a constant,
/// while batches and graphs follow it on.
///
/// # Errors
/// None of its own.
#[track_caller]
pub fn stop_gradient(x: &TrackedTensor) -> Result<TrackedTensor> {
    apply_one(&StopGradient, &[x])
}

/// The numbers of `hard` with the derivative of x: the straight-through estimator of a step that
/// has none of its own, as rounding.
///
/// # Errors
/// Shapes or types that differ.
#[track_caller]
pub fn straight_through(x: &TrackedTensor, hard: &TrackedTensor) -> Result<TrackedTensor> {
    apply_one(&StraightThrough, &[x, hard])
}

/// x, whose derivative is `factor` times the identity's.
///
/// # Errors
/// None of its own.
#[track_caller]
pub fn scale_gradient(x: &TrackedTensor, factor: f64) -> Result<TrackedTensor> {
    apply_one(&ScaleGradient(factor), &[x])
}

/// x, whose derivative is −`strength` times the identity's: the layer of domain-adversarial
/// training (Ganin and Lempitsky, 2015).
///
/// # Errors
/// None of its own.
#[track_caller]
pub fn reverse_gradient(x: &TrackedTensor, strength: f64) -> Result<TrackedTensor> {
    scale_gradient(x, -strength)
}

/// x, whose cotangent is clamped between `low` and `high` in the backward pass. The bounds may be
/// values; they get no cotangent in the first backward pass, and theirs in the second.
///
/// # Errors
/// Bounds that do not broadcast to x. In forward mode [`Error::UnsupportedMode`]: a clamped
/// cotangent is no linear map of a tangent.
#[track_caller]
pub fn clip_gradient(
    x: &TrackedTensor,
    low: impl Into<Operand>,
    high: impl Into<Operand>,
) -> Result<TrackedTensor> {
    let (low, high) = (low.into().value(x)?, high.into().value(x)?);
    apply_one(&ClipGradient, &[x, &low, &high])
}

/// x, whose cotangent goes through `hook` in the backward pass: to be looked at, or replaced.
///
/// # Errors
/// In the backward pass, what the hook reports, or a result of another shape or type. In forward
/// mode [`Error::UnsupportedMode`].
///
/// ```
/// use autograd_core::{Result, TrackedTensor};
/// use autograd_ops::TensorAutograd;
/// use autograd_tape::GradientTape;
///
/// fn main() -> Result<()> {
///     let tape = GradientTape::new();
///     let x = tape.variable(TrackedTensor::scalar(3.0));
///     let y = x.gradient_hook(|ct| ct.mul(10.0))?.pow(2)?;
///     assert_eq!(tape.derivative(&y, &x)?.to_scalar::<f64>()?, 60.0);
///     Ok(())
/// }
/// ```
#[track_caller]
pub fn gradient_hook(
    x: &TrackedTensor,
    hook: impl Fn(&TrackedTensor) -> Result<TrackedTensor> + Send + Sync + 'static,
) -> Result<TrackedTensor> {
    apply_one(&GradientHook(Arc::new(hook)), &[x])
}

#[derive(Clone, Copy, Debug)]
struct StopGradient;

#[derive(Clone, Copy, Debug)]
struct StraightThrough;

#[derive(Clone, Copy, Debug)]
struct ScaleGradient(f64);

#[derive(Clone, Copy, Debug)]
struct ClipGradient;

type Hook = dyn Fn(&TrackedTensor) -> Result<TrackedTensor> + Send + Sync;

#[derive(Clone)]
struct GradientHook(Arc<Hook>);

impl fmt::Debug for GradientHook {
    // The address tells two hooks apart.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GradientHook({:p})", Arc::as_ptr(&self.0))
    }
}

/// The first input as it is.
macro_rules! first_input {
    ($name:literal) => {
        fn name(&self) -> &'static str {
            $name
        }
        fn view(&self, _: &Meta, inputs: &[&Layout]) -> Option<(usize, Layout)> {
            Some((0, *inputs[0]))
        }
        fn eval_into(&self, inputs: &[View<'_>], outputs: &mut [SliceMut<'_>]) -> Result<()> {
            kernels::copy::copy(inputs[0], outputs[0].reborrow());
            Ok(())
        }
    };
}

/// What its input is.
macro_rules! as_input {
    () => {
        fn infer(&self, inputs: &[Meta]) -> Result<Signature> {
            Ok(Signature::one(inputs[0]))
        }
        fn batch(&self, _: Mask, inputs: &[&TrackedTensor], _: usize) -> Result<Option<Values>> {
            Ok(Some(smallvec![apply_one(self, inputs)?]))
        }
    };
}

crate::saved::stored! {
    "stop_gradient" => StopGradient {}, |_, x| x.len() == 1;
    "straight_through" => StraightThrough {}, |_, x| x.len() == 2;
    "scale_gradient" => ScaleGradient { 0 }, |_, x| x.len() == 1;
    "clip_gradient" => ClipGradient {}, |_, x| x.len() == 3;
}

impl Primitive for StopGradient {
    crate::saved::by_tag!();
    first_input!("stop_gradient");
    as_input!();
    fn keep(&self) -> Prim {
        Prim::Static(&StopGradient)
    }
    fn rule(&self) -> Rule<'_> {
        Rule::Flat
    }
}

impl Primitive for ScaleGradient {
    crate::saved::by_tag!();
    first_input!("scale_gradient");
    as_input!();
    fn keep(&self) -> Prim {
        Prim::Shared(Arc::new(*self))
    }
    fn rule(&self) -> Rule<'_> {
        Rule::General(self)
    }
    // x + factor · (x − x), of which only the x that is scaled has a derivative.
    fn decompose(&self, inputs: &[&TrackedTensor]) -> Result<Option<Values>> {
        let still = stop_gradient(inputs[0])?;
        let nothing = scale(&autograd_core::algebra::sub(inputs[0], &still)?, self.0)?;
        Ok(Some(smallvec![autograd_core::algebra::add(&still, &nothing)?]))
    }
}

impl General for ScaleGradient {
    fn residuals(&self, _: Mask) -> Residuals {
        smallvec![]
    }
    fn vjp(&self, _: Mask, cts: &[Option<TrackedTensor>], _: &Saved<'_>) -> Result<Grads> {
        Ok(smallvec![cts[0].as_ref().map(|ct| scale(ct, self.0)).transpose()?])
    }
    fn jvp(
        &self,
        _: &[&TrackedTensor],
        _: &[TrackedTensor],
        tangents: &[Option<TrackedTensor>],
    ) -> Result<Option<SmallVec<[Option<TrackedTensor>; 2]>>> {
        Ok(Some(smallvec![tangents[0].as_ref().map(|dx| scale(dx, self.0)).transpose()?]))
    }
}

impl Primitive for StraightThrough {
    crate::saved::by_tag!();
    fn name(&self) -> &'static str {
        "straight_through"
    }
    fn keep(&self) -> Prim {
        Prim::Static(&StraightThrough)
    }
    fn infer(&self, inputs: &[Meta]) -> Result<Signature> {
        if inputs[0].shape != inputs[1].shape || inputs[0].dtype != inputs[1].dtype {
            let reason = format!("types {:?} and {:?}", inputs[0].dtype, inputs[1].dtype);
            let shapes = [inputs[0].shape, inputs[1].shape];
            return Err(Error::shape("straight_through", &shapes, reason));
        }
        Ok(Signature::one(inputs[1]))
    }
    fn view(&self, _: &Meta, inputs: &[&Layout]) -> Option<(usize, Layout)> {
        Some((1, *inputs[1]))
    }
    fn eval_into(&self, inputs: &[View<'_>], outputs: &mut [SliceMut<'_>]) -> Result<()> {
        kernels::copy::copy(inputs[1], outputs[0].reborrow());
        Ok(())
    }
    fn rule(&self) -> Rule<'_> {
        Rule::General(self)
    }
    fn batch(&self, batched: Mask, inputs: &[&TrackedTensor], size: usize) -> Result<Option<Values>> {
        let x = crate::numbers::with_batch(inputs[0], batched.has(0), size)?;
        let hard = crate::numbers::with_batch(inputs[1], batched.has(1), size)?;
        Ok(Some(smallvec![straight_through(&x, &hard)?]))
    }
    // hard + (x − x), of which only the x that is added has a derivative.
    fn decompose(&self, inputs: &[&TrackedTensor]) -> Result<Option<Values>> {
        let nothing = autograd_core::algebra::sub(inputs[0], &stop_gradient(inputs[0])?)?;
        Ok(Some(smallvec![autograd_core::algebra::add(&stop_gradient(inputs[1])?, &nothing)?]))
    }
}

impl General for StraightThrough {
    fn residuals(&self, _: Mask) -> Residuals {
        smallvec![]
    }
    fn vjp(&self, wanted: Mask, cts: &[Option<TrackedTensor>], _: &Saved<'_>) -> Result<Grads> {
        Ok(smallvec![cts[0].clone().filter(|_| wanted.has(0)), None])
    }
    fn jvp(
        &self,
        _: &[&TrackedTensor],
        _: &[TrackedTensor],
        tangents: &[Option<TrackedTensor>],
    ) -> Result<Option<SmallVec<[Option<TrackedTensor>; 2]>>> {
        Ok(Some(smallvec![tangents[0].clone()]))
    }
}

impl Primitive for ClipGradient {
    crate::saved::by_tag!();
    first_input!("clip_gradient");
    fn keep(&self) -> Prim {
        Prim::Static(&ClipGradient)
    }
    fn infer(&self, inputs: &[Meta]) -> Result<Signature> {
        for bound in &inputs[1..] {
            if inputs[0].shape.broadcast(&bound.shape) != Some(inputs[0].shape) {
                let shapes = [inputs[0].shape, bound.shape];
                return Err(Error::shape(
                    "clip_gradient",
                    &shapes,
                    "the bound does not broadcast to the value",
                ));
            }
        }
        Ok(Signature::one(inputs[0]))
    }
    fn rule(&self) -> Rule<'_> {
        Rule::General(self)
    }
    fn batch(&self, batched: Mask, inputs: &[&TrackedTensor], size: usize) -> Result<Option<Values>> {
        let whole = crate::numbers::with_batch(inputs[0], batched.has(0), size)?;
        let mut all: SmallVec<[TrackedTensor; 3]> = smallvec![whole];
        for (i, bound) in inputs.iter().enumerate().skip(1) {
            // A bound's own dimensions stay behind the batch.
            let mut dims: SmallVec<[usize; 8]> = SmallVec::from_slice(bound.dims());
            if batched.has(i) {
                while dims.len() < all[0].rank() {
                    dims.insert(1, 1);
                }
            }
            all.push(autograd_core::algebra::reshape(
                bound,
                &autograd_core::checked_shape("clip_gradient", &dims)?,
            )?);
        }
        Ok(Some(smallvec![apply_one(self, &[&all[0], &all[1], &all[2]])?]))
    }
}

impl General for ClipGradient {
    fn residuals(&self, wanted: Mask) -> Residuals {
        if wanted.has(0) { smallvec![Residual::Input(1), Residual::Input(2)] } else { smallvec![] }
    }
    fn vjp(&self, wanted: Mask, cts: &[Option<TrackedTensor>], saved: &Saved<'_>) -> Result<Grads> {
        let Some(ct) = cts[0].as_ref().filter(|_| wanted.has(0)) else { return Ok(smallvec![None; 3]) };
        Ok(smallvec![Some(clamp(ct, saved.input(1)?, saved.input(2)?)?), None, None])
    }
    fn jvp(
        &self,
        _: &[&TrackedTensor],
        _: &[TrackedTensor],
        tangents: &[Option<TrackedTensor>],
    ) -> Result<Option<SmallVec<[Option<TrackedTensor>; 2]>>> {
        if tangents[0].is_none() {
            return Ok(Some(smallvec![None]));
        }
        let reason = "it clamps cotangents, which is not the transpose of a map of tangents";
        Err(Error::mode("clip_gradient", "forward mode", reason))
    }
}

impl Primitive for GradientHook {
    first_input!("gradient_hook");
    as_input!();
    fn keep(&self) -> Prim {
        Prim::Shared(Arc::new(self.clone()))
    }
    fn rule(&self) -> Rule<'_> {
        Rule::General(self)
    }
}

impl General for GradientHook {
    fn residuals(&self, _: Mask) -> Residuals {
        smallvec![]
    }
    fn vjp(&self, _: Mask, cts: &[Option<TrackedTensor>], _: &Saved<'_>) -> Result<Grads> {
        let Some(ct) = &cts[0] else { return Ok(smallvec![None]) };
        let made = (self.0)(ct)?;
        if made.shape() != ct.shape() || made.dtype() != ct.dtype() {
            let reason = format!(
                "the hook gave {} {:?} for a cotangent of {} {:?}",
                made.shape(),
                made.dtype(),
                ct.shape(),
                ct.dtype()
            );
            return Err(Error::argument("gradient_hook", reason));
        }
        Ok(smallvec![Some(made)])
    }
    fn jvp(
        &self,
        _: &[&TrackedTensor],
        _: &[TrackedTensor],
        _: &[Option<TrackedTensor>],
    ) -> Result<Option<SmallVec<[Option<TrackedTensor>; 2]>>> {
        let reason = "a hook is a function of cotangents; in forward mode there are none";
        Err(Error::mode("gradient_hook", "forward mode", reason))
    }
}

/// The ops of this file.
pub fn ops() -> Vec<Op> {
    fn on(
        label: &str,
        dims: &[usize],
        run: impl Fn(&TrackedTensor) -> Result<TrackedTensor> + Send + Sync + 'static,
    ) -> Case {
        Case::new(label, vec![Sample::float(dims)], move |x| run(&x[0]))
    }
    let op = |name, formula, cases| Op { name, family: Family::Control, formula, cases };
    vec![
        op("stop_gradient", "x, with derivative 0", || {
            vec![on("alone", &[3], stop_gradient).at_a_kink(), on("a scalar", &[], stop_gradient).at_a_kink()]
        }),
        op("straight_through", "hard, with the derivative of x", || {
            let two = |label, dims: &[usize]| {
                Case::new(label, vec![Sample::float(dims), Sample::float(dims)], |x| {
                    straight_through(&x[0], &x[1])
                })
                .at_a_kink()
            };
            vec![
                two("two values", &[2, 3]),
                two("scalars", &[]),
                // The step is flat, so differences see nothing of it; x itself is smooth.
                Case::new("the value itself", vec![Sample::float(&[3])], |x| straight_through(&x[0], &x[0])),
            ]
        }),
        op("scale_gradient", "x, with `factor` times the derivative of x", || {
            vec![
                on("a third", &[2, 2], |x| scale_gradient(x, 1.0 / 3.0)).at_a_kink(),
                on("one", &[3], |x| scale_gradient(x, 1.0)),
            ]
        }),
        op("reverse_gradient", "x, with −`strength` times the derivative of x", || {
            vec![
                on("strength 2", &[3], |x| reverse_gradient(x, 2.0)).at_a_kink(),
                on("twice", &[3], |x| reverse_gradient(&reverse_gradient(x, 1.0)?, 1.0)),
            ]
        }),
        op("clip_gradient", "x, with its cotangent clamped", || {
            vec![
                on("numbers", &[4], |x| clip_gradient(x, -0.1, 0.2)).at_a_kink(),
                Case::new("values", vec![Sample::float(&[2, 3]), Sample::between(&[3], 0.1, 0.9)], |x| {
                    clip_gradient(&x[0], &autograd_core::algebra::neg(&x[1])?, &x[1])
                })
                .at_a_kink(),
            ]
        }),
        op("gradient_hook", "x, with its cotangent given to a function", || {
            vec![on("a factor", &[3], |x| gradient_hook(x, |ct| scale(ct, 3.0))).at_a_kink()]
        }),
    ]
}

/// The methods of this file.
#[macro_export]
#[doc(hidden)]
macro_rules! gradient_methods {
    ($($callback:tt)*) => {
        $($callback)* {
            unary {
                /// The value, through which no derivative passes.
                stop_gradient = $crate::gradient::stop_gradient;
            }
            binary {}
            other {
                /// The numbers of `hard` with the derivative of this value.
                straight_through(hard: &autograd_core::TrackedTensor) -> autograd_core::TrackedTensor = $crate::gradient::straight_through;
                /// The value, whose derivative is `factor` times the identity's.
                scale_gradient(factor: f64) -> autograd_core::TrackedTensor = $crate::gradient::scale_gradient;
                /// The value, whose derivative is −`strength` times the identity's.
                reverse_gradient(strength: f64) -> autograd_core::TrackedTensor = $crate::gradient::reverse_gradient;
                /// The value, whose cotangent is clamped in the backward pass.
                clip_gradient(low: impl Into<$crate::Operand>, high: impl Into<$crate::Operand>) -> autograd_core::TrackedTensor = $crate::gradient::clip_gradient;
                /// The value, whose cotangent goes through a function in the backward pass.
                gradient_hook(hook: impl Fn(&autograd_core::TrackedTensor) -> autograd_core::Result<autograd_core::TrackedTensor> + Send + Sync + 'static) -> autograd_core::TrackedTensor = $crate::gradient::gradient_hook;
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TensorAutograd;
    use crate::pull::{slopes, vector};
    use autograd_tape::GradientTape;

    #[test]
    fn values_stay_and_derivatives_change() -> Result<()> {
        let x = [0.5, -2.0];
        assert_eq!(slopes(&x, |x| x.stop_gradient()?.mul(x))?, x);
        assert_eq!(slopes(&x, |x| x.straight_through(&x.round()?))?, [1.0, 1.0]);
        assert_eq!(slopes(&x, |x| x.scale_gradient(0.25)?.mul(4.0))?, [1.0, 1.0]);
        assert_eq!(slopes(&x, |x| x.reverse_gradient(2.0)?.mul(3.0))?, [-6.0, -6.0]);
        // clamp(x) from the clipped factor and x from the other one.
        assert_eq!(slopes(&x, |x| x.clip_gradient(-1.0, 0.5)?.mul(x))?, [1.0, -3.0]);
        assert_eq!(
            vector(&x).straight_through(&vector(&[f64::INFINITY, 1.0]))?.to_vec1::<f64>()?,
            [f64::INFINITY, 1.0]
        );
        Ok(())
    }

    /// JAX's documentation: lo = −0.1, hi = x + 0.1 at 0.1 gives 0.2.
    #[test]
    fn bounds_may_depend_on_the_value() -> Result<()> {
        let slope = slopes(&[0.1], |x| x.clip_gradient(-0.1, x.add(0.1)?))?;
        assert!((slope[0] - 0.2).abs() < 1e-15, "{slope:?}");
        Ok(())
    }

    #[test]
    fn a_hook_must_keep_the_shape() -> Result<()> {
        let tape = GradientTape::new();
        let x = tape.variable(vector(&[1.0, 2.0]));
        let y = x.gradient_hook(|ct| ct.sum())?.sum()?;
        let error = tape.derivative(&y, &x).expect_err("a scalar for a vector");
        assert!(error.to_string().starts_with("gradient_hook: the hook gave"), "{error}");
        assert!(error.site().is_some_and(|site| site.file().ends_with("gradient.rs")), "{error}");
        Ok(())
    }

    #[test]
    fn nothing_is_kept() -> Result<()> {
        let x = vector(&[1.0, 2.0]);
        assert_eq!(crate::pull::kept_bytes(&x, |x| x.scale_gradient(2.0))?, 0);
        assert_eq!(crate::pull::kept_bytes(&x, |x| x.straight_through(&vector(&[0.0, 0.0])))?, 0);
        Ok(())
    }
}
