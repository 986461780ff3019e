//! Determinants.

use super::inverse::inverse;
use super::{diagonal, ending, fault, mm, mt, square};
use autograd_core::algebra::{broadcast_to, mul, reshape};
use autograd_core::kernels::linalg as kernel;
use autograd_core::smallvec::{SmallVec, smallvec};
use autograd_core::{
    General, Grads, Mask, Meta, Prim, Primitive, Residual, Residuals, Result, Rule, Saved, Shape, Signature,
    SliceMut, TrackedTensor, Values, View, apply, apply_one,
};

/// The determinant of each matrix (…×N×N, result …). The gradient is the matrix of cofactors: at
/// a singular matrix it is finite and right. A second derivative there needs an inverse, and is
/// an error.
///
/// # Errors
/// Matrices that are not square.
#[track_caller]
pub fn det(a: &TrackedTensor) -> Result<TrackedTensor> {
    apply_one(&Det, &[a])
}

/// The sign of each determinant (0 at a singular matrix; flat) and ln |det|.
///
/// # Errors
/// Matrices that are not square; in the backward pass a singular one, at which ln |det| has no
/// derivative.
#[track_caller]
pub fn slogdet(a: &TrackedTensor) -> Result<(TrackedTensor, TrackedTensor)> {
    let mut made = apply(&SignAndLog, &[a])?.into_iter();
    match (made.next(), made.next()) {
        (Some(sign), Some(log)) => Ok((sign, log)),
        _ => Err(autograd_core::Error::internal("slogdet", "it has two outputs")),
    }
}

/// ln det of each matrix; NaN where the determinant is negative, −∞ where it is zero.
///
/// # Errors
/// As [`slogdet`].
#[track_caller]
pub fn logdet(a: &TrackedTensor) -> Result<TrackedTensor> {
    let (sign, log) = slogdet(a)?;
    let negative = crate::compare::lt(&sign, 0.0)?;
    crate::compare::masked_fill(&log, &negative, f64::NAN)
}

#[derive(Clone, Copy, Debug)]
struct Det;

#[derive(Clone, Copy, Debug)]
struct SignAndLog;

/// The cofactors, given the matrix: det's gradient.
#[derive(Clone, Copy, Debug)]
struct Cofactors;

fn of_each(op: &'static str, x: &Meta) -> Result<Meta> {
    square(op, x)?;
    Ok(x.with_shape(ending(&x.shape, &[])?))
}

/// A number for each matrix, spread over it.
fn spread(x: &TrackedTensor, over: &Shape) -> Result<TrackedTensor> {
    let dims: SmallVec<[usize; 8]> = x.dims().iter().copied().chain([1, 1]).collect();
    broadcast_to(&reshape(x, &autograd_core::checked_shape("det", &dims)?)?, over)
}

/// The traces of aᵀ·b.
fn inner(a: &TrackedTensor, b: &TrackedTensor) -> Result<TrackedTensor> {
    crate::reduce::sum_dims(&mul(a, b)?, [-2isize, -1], false)
}

crate::saved::stored! {
    "det" => Det {}, |_, x| x.len() == 1;
    "slogdet" => SignAndLog {}, |_, x| x.len() == 1;
    "cofactors" => Cofactors {}, |_, x| x.len() == 1;
}

impl Primitive for Det {
    crate::saved::by_tag!();
    super::plain_parts!(Det, "det");
    fn infer(&self, inputs: &[Meta]) -> Result<Signature> {
        Ok(Signature::one(of_each("det", &inputs[0])?))
    }
    fn eval_into(&self, inputs: &[View<'_>], outputs: &mut [SliceMut<'_>]) -> Result<()> {
        kernel::determinant(inputs[0], outputs[0].reborrow()).map_err(|f| fault("det", f))
    }
    crate::elsewhere::on_host!();
}

impl General for Det {
    fn residuals(&self, _: Mask) -> Residuals {
        smallvec![Residual::Input(0)]
    }
    fn vjp(&self, _: Mask, cts: &[Option<TrackedTensor>], saved: &Saved<'_>) -> Result<Grads> {
        let Some(ct) = &cts[0] else { return Ok(smallvec![None]) };
        let cofactors = apply_one(&Cofactors, &[saved.input(0)?])?;
        Ok(smallvec![Some(mul(&cofactors, &spread(ct, cofactors.shape())?)?)])
    }
    fn jvp(
        &self,
        inputs: &[&TrackedTensor],
        _: &[TrackedTensor],
        tangents: &[Option<TrackedTensor>],
    ) -> Result<Option<super::Tangents>> {
        let Some(da) = &tangents[0] else { return Ok(Some(smallvec![None])) };
        Ok(Some(smallvec![Some(inner(&apply_one(&Cofactors, &[inputs[0]])?, da)?)]))
    }
}

impl Primitive for Cofactors {
    crate::saved::by_tag!();
    super::batches!();
    fn name(&self) -> &'static str {
        "cofactors"
    }
    fn keep(&self) -> Prim {
        Prim::Static(&Cofactors)
    }
    fn rule(&self) -> Rule<'_> {
        Rule::Composite
    }
    fn infer(&self, inputs: &[Meta]) -> Result<Signature> {
        square("cofactors", &inputs[0])?;
        Ok(Signature::one(inputs[0]))
    }
    fn eval_into(&self, inputs: &[View<'_>], outputs: &mut [SliceMut<'_>]) -> Result<()> {
        kernel::cofactors(inputs[0], outputs[0].reborrow()).map_err(|f| fault("det", f))
    }
    // det(a)·a⁻ᵀ.
    fn decompose(&self, inputs: &[&TrackedTensor]) -> Result<Option<Values>> {
        let back = mt(&inverse(inputs[0])?)?;
        Ok(Some(smallvec![mul(&back, &spread(&det(inputs[0])?, back.shape())?)?]))
    }
}

impl Primitive for SignAndLog {
    crate::saved::by_tag!();
    super::plain_parts!(SignAndLog, "slogdet");
    fn infer(&self, inputs: &[Meta]) -> Result<Signature> {
        let meta = of_each("slogdet", &inputs[0])?;
        Ok(Signature { outputs: smallvec![meta, meta], aux: smallvec![] })
    }
    fn eval_into(&self, inputs: &[View<'_>], outputs: &mut [SliceMut<'_>]) -> Result<()> {
        let [sign, log, ..] = outputs else {
            return Err(autograd_core::Error::internal("slogdet", "it has two outputs"));
        };
        kernel::sign_and_log(inputs[0], sign.reborrow(), log.reborrow()).map_err(|f| fault("slogdet", f))
    }
    crate::elsewhere::on_host!();
}

impl General for SignAndLog {
    fn residuals(&self, _: Mask) -> Residuals {
        smallvec![Residual::Input(0)]
    }
    // ā = ȳ·a⁻ᵀ.
    fn vjp(&self, _: Mask, cts: &[Option<TrackedTensor>], saved: &Saved<'_>) -> Result<Grads> {
        let Some(ct) = &cts[1] else { return Ok(smallvec![None]) };
        let back = mt(&inverse(saved.input(0)?)?)?;
        Ok(smallvec![Some(mul(&back, &spread(ct, back.shape())?)?)])
    }
    // ẏ = tr(a⁻¹·ȧ).
    fn jvp(
        &self,
        inputs: &[&TrackedTensor],
        _: &[TrackedTensor],
        tangents: &[Option<TrackedTensor>],
    ) -> Result<Option<super::Tangents>> {
        let Some(da) = &tangents[0] else { return Ok(Some(smallvec![None; 2])) };
        let trace = crate::reduce::sum_dim(&diagonal(&mm(&inverse(inputs[0])?, da)?)?, -1)?;
        Ok(Some(smallvec![None, Some(trace)]))
    }
}
