//! Inverses, of square matrices and in the sense of Moore and Penrose.

use super::{ending, fault, matrices, mm, mt, square};
use autograd_core::algebra::{add, neg, sub};
use autograd_core::kernels::linalg as kernel;
use autograd_core::smallvec::smallvec;
use autograd_core::{
    General, Grads, Mask, Meta, Primitive, Residual, Residuals, Result, Saved, Signature, SliceMut,
    TrackedTensor, View, apply_one,
};

/// a⁻¹ of each matrix (…×N×N).
///
/// # Errors
/// Matrices that are not square; one that is exactly singular.
#[track_caller]
pub fn inverse(a: &TrackedTensor) -> Result<TrackedTensor> {
    apply_one(&Inverse, &[a])
}

/// The pseudo-inverse a⁺ of each matrix (…×M×N, result …×N×M): a·a⁺·a = a. Singular values up to
/// max(M, N)·ε·(the largest) count as zero. The derivative holds where the rank does not change
/// (Golub and Pereyra, 1973).
///
/// # Errors
/// Numbers that are not finite.
#[track_caller]
pub fn pinv(a: &TrackedTensor) -> Result<TrackedTensor> {
    apply_one(&PseudoInverse, &[a])
}

#[derive(Clone, Copy, Debug)]
struct Inverse;

#[derive(Clone, Copy, Debug)]
struct PseudoInverse;

crate::saved::stored! {
    "inverse" => Inverse {}, |_, x| x.len() == 1;
    "pinv" => PseudoInverse {}, |_, x| x.len() == 1;
}

impl Primitive for Inverse {
    crate::saved::by_tag!();
    super::plain_parts!(Inverse, "inverse");
    fn infer(&self, inputs: &[Meta]) -> Result<Signature> {
        square("inverse", &inputs[0])?;
        Ok(Signature::one(inputs[0]))
    }
    fn eval_into(&self, inputs: &[View<'_>], outputs: &mut [SliceMut<'_>]) -> Result<()> {
        kernel::inverse(inputs[0], outputs[0].reborrow()).map_err(|f| fault("inverse", f))
    }
    crate::elsewhere::on_host!();
}

impl General for Inverse {
    fn residuals(&self, _: Mask) -> Residuals {
        smallvec![Residual::Output(0)]
    }
    // ā = −yᵀ·ȳ·yᵀ.
    fn vjp(&self, _: Mask, cts: &[Option<TrackedTensor>], saved: &Saved<'_>) -> Result<Grads> {
        let Some(ct) = &cts[0] else { return Ok(smallvec![None]) };
        let yt = mt(saved.output(0)?)?;
        Ok(smallvec![Some(neg(&mm(&mm(&yt, ct)?, &yt)?)?)])
    }
    // ẏ = −y·ȧ·y.
    fn jvp(
        &self,
        _: &[&TrackedTensor],
        outputs: &[TrackedTensor],
        tangents: &[Option<TrackedTensor>],
    ) -> Result<Option<super::Tangents>> {
        let Some(da) = &tangents[0] else { return Ok(Some(smallvec![None])) };
        let y = &outputs[0];
        Ok(Some(smallvec![Some(neg(&mm(&mm(y, da)?, y)?)?)]))
    }
}

impl Primitive for PseudoInverse {
    crate::saved::by_tag!();
    super::plain_parts!(PseudoInverse, "pinv");
    fn infer(&self, inputs: &[Meta]) -> Result<Signature> {
        let (rows, columns) = matrices("pinv", &inputs[0])?;
        Ok(Signature::one(inputs[0].with_shape(ending(&inputs[0].shape, &[columns, rows])?)))
    }
    fn eval_into(&self, inputs: &[View<'_>], outputs: &mut [SliceMut<'_>]) -> Result<()> {
        kernel::pseudo_inverse(inputs[0], outputs[0].reborrow()).map_err(|f| fault("pinv", f))
    }
    crate::elsewhere::on_host!();
}

/// v − a·(y·v) and its like: what a projection leaves.
fn left_of(a: &TrackedTensor, y: &TrackedTensor, v: &TrackedTensor) -> Result<TrackedTensor> {
    sub(v, &mm(a, &mm(y, v)?)?)
}

impl General for PseudoInverse {
    fn residuals(&self, _: Mask) -> Residuals {
        smallvec![Residual::Input(0), Residual::Output(0)]
    }
    // ā = −yᵀ·ȳ·yᵀ + (1 − a·y)·ȳᵀ·y·yᵀ + yᵀ·y·ȳᵀ·(1 − y·a).
    fn vjp(&self, _: Mask, cts: &[Option<TrackedTensor>], saved: &Saved<'_>) -> Result<Grads> {
        let Some(ct) = &cts[0] else { return Ok(smallvec![None]) };
        let (a, y) = (saved.input(0)?, saved.output(0)?);
        let (yt, ctt) = (mt(y)?, mt(ct)?);
        let first = neg(&mm(&mm(&yt, ct)?, &yt)?)?;
        let second = left_of(a, y, &mm(&mm(&ctt, y)?, &yt)?)?;
        let v = mm(&mm(&yt, y)?, &ctt)?;
        let third = sub(&v, &mm(&mm(&v, y)?, a)?)?;
        Ok(smallvec![Some(add(&add(&first, &second)?, &third)?)])
    }
    // ẏ = −y·ȧ·y + y·yᵀ·ȧᵀ·(1 − a·y) + (1 − y·a)·ȧᵀ·yᵀ·y.
    fn jvp(
        &self,
        inputs: &[&TrackedTensor],
        outputs: &[TrackedTensor],
        tangents: &[Option<TrackedTensor>],
    ) -> Result<Option<super::Tangents>> {
        let Some(da) = &tangents[0] else { return Ok(Some(smallvec![None])) };
        let (a, y) = (inputs[0], &outputs[0]);
        let (yt, dat) = (mt(y)?, mt(da)?);
        let first = neg(&mm(&mm(y, da)?, y)?)?;
        let v = mm(&mm(y, &yt)?, &dat)?;
        let second = sub(&v, &mm(&mm(&v, a)?, y)?)?;
        let third = left_of(y, a, &mm(&mm(&dat, &yt)?, y)?)?;
        Ok(Some(smallvec![Some(add(&add(&first, &second)?, &third)?)]))
    }
}
