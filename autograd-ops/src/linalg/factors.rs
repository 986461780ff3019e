//! Triangular factorisations.

use super::solve::{Triangle, triangular_solve};
use super::{ending, fault, matrices, mm, mt, plus, square, symmetric};
use crate::rearrange::{tril, triu};
use autograd_core::algebra::{add, neg, sub};
use autograd_core::kernels::linalg as kernel;
use autograd_core::smallvec::smallvec;
use autograd_core::{
    Error, General, Grads, Mask, Meta, Primitive, Residual, Residuals, Result, Saved, Signature, Site,
    SliceMut, TrackedTensor, View, apply, apply_one,
};

/// L, lower triangular with a positive diagonal, with L·Lᵀ = (a + aᵀ)/2: of a symmetric matrix
/// its Cholesky factor (…×N×N). The symmetric part is taken, as in JAX, so that the gradient is
/// symmetric.
///
/// # Errors
/// Matrices that are not square, or not positive definite.
#[track_caller]
pub fn cholesky(a: &TrackedTensor) -> Result<TrackedTensor> {
    let site = Site::caller();
    square("cholesky", &a.meta()).map_err(|e| e.or_at(site))?;
    apply_one(&Cholesky, &[&symmetric(a)?])
}

/// Q with orthonormal columns (…×M×K) and R upper triangular (…×K×N), a = Q·R, with
/// K = min(M, N). Signs are those of Householder's reflections. Differentiable where the first K
/// columns are independent.
///
/// # Errors
/// In derivatives, first columns that depend on one another: R has a zero on its diagonal.
#[track_caller]
pub fn qr(a: &TrackedTensor) -> Result<(TrackedTensor, TrackedTensor)> {
    let site = Site::caller();
    let (rows, columns) = matrices("qr", &a.meta()).map_err(|e| e.or_at(site))?;
    if rows < columns {
        // a = [x y] = Q·[U, Qᵀ·y].
        let x = crate::slice::narrow(a, -1, 0, rows)?;
        let y = crate::slice::narrow(a, -1, rows, columns - rows)?;
        let (q, u) = qr(&x)?;
        let rest = mm(&mt(&q)?, &y)?;
        return Ok((q, crate::join::cat(&[u, rest], -1)?));
    }
    let mut made = apply(&Qr, &[a])?.into_iter();
    match (made.next(), made.next()) {
        (Some(q), Some(r)) => Ok((q, r)),
        _ => Err(Error::internal("qr", "it has two outputs")),
    }
}

#[derive(Clone, Copy, Debug)]
struct Cholesky;

#[derive(Clone, Copy, Debug)]
struct Qr;

/// The lower triangle with half its diagonal.
fn half_lower(x: &TrackedTensor) -> Result<TrackedTensor> {
    autograd_core::algebra::scale(&add(&tril(x, 0)?, &tril(x, -1)?)?, 0.5)
}

impl Primitive for Cholesky {
    super::plain_parts!(Cholesky, "cholesky");
    fn infer(&self, inputs: &[Meta]) -> Result<Signature> {
        square("cholesky", &inputs[0])?;
        Ok(Signature::one(inputs[0]))
    }
    fn eval_into(&self, inputs: &[View<'_>], outputs: &mut [SliceMut<'_>]) -> Result<()> {
        kernel::cholesky(inputs[0], outputs[0].reborrow()).map_err(|f| fault("cholesky", f))
    }
    crate::elsewhere::on_host!();
}

impl General for Cholesky {
    fn residuals(&self, _: Mask) -> Residuals {
        smallvec![Residual::Output(0)]
    }
    // ā = the symmetric part of L⁻ᵀ·Φ(Lᵀ·L̄)·L⁻¹, Φ the lower triangle with half its diagonal
    // (Murray, 2016).
    fn vjp(&self, _: Mask, cts: &[Option<TrackedTensor>], saved: &Saved<'_>) -> Result<Grads> {
        let Some(ct) = &cts[0] else { return Ok(smallvec![None]) };
        let l = saved.output(0)?;
        let lt = mt(l)?;
        let p = half_lower(&mm(&lt, ct)?)?;
        let left = triangular_solve(&lt, &p, Triangle::UPPER)?;
        let both = mt(&triangular_solve(&lt, &mt(&left)?, Triangle::UPPER)?)?;
        Ok(smallvec![Some(symmetric(&both)?)])
    }
    // L̇ = L·Φ(L⁻¹·ȧ·L⁻ᵀ), of the symmetric part of ȧ.
    fn jvp(
        &self,
        _: &[&TrackedTensor],
        outputs: &[TrackedTensor],
        tangents: &[Option<TrackedTensor>],
    ) -> Result<Option<super::Tangents>> {
        let Some(da) = &tangents[0] else { return Ok(Some(smallvec![None])) };
        let l = &outputs[0];
        let left = triangular_solve(l, &symmetric(da)?, Triangle::LOWER)?;
        let both = triangular_solve(l, &mt(&left)?, Triangle::LOWER)?;
        Ok(Some(smallvec![Some(mm(l, &half_lower(&both)?)?)]))
    }
}

impl Primitive for Qr {
    super::plain_parts!(Qr, "qr");
    fn infer(&self, inputs: &[Meta]) -> Result<Signature> {
        let (rows, columns) = matrices("qr", &inputs[0])?;
        if rows < columns {
            return Err(Error::shape("qr", &[inputs[0].shape], "the matrices are wide"));
        }
        let r = inputs[0].with_shape(ending(&inputs[0].shape, &[columns, columns])?);
        Ok(Signature { outputs: smallvec![inputs[0], r], aux: smallvec![] })
    }
    fn eval_into(&self, inputs: &[View<'_>], outputs: &mut [SliceMut<'_>]) -> Result<()> {
        let [q, r, ..] = outputs else { return Err(Error::internal("qr", "it has two outputs")) };
        kernel::qr(inputs[0], q.reborrow(), r.reborrow()).map_err(|f| fault("qr", f))
    }
    crate::elsewhere::on_host!();
}

impl General for Qr {
    fn residuals(&self, _: Mask) -> Residuals {
        smallvec![Residual::Output(0), Residual::Output(1)]
    }
    // ā = (Q̄ + Q·sym(M))·R⁻ᵀ with M = R·R̄ᵀ − Q̄ᵀ·Q, sym the lower triangle mirrored up
    // (Walter and Lehmann, 2018).
    fn vjp(&self, _: Mask, cts: &[Option<TrackedTensor>], saved: &Saved<'_>) -> Result<Grads> {
        let (q, r) = (saved.output(0)?, saved.output(1)?);
        let of_r = cts[1].as_ref().map(|ct| mm(r, &mt(&triu(ct, 0)?)?)).transpose()?;
        let of_q = cts[0].as_ref().map(|ct| mm(&mt(ct)?, q).and_then(|x| neg(&x))).transpose()?;
        let Some(m) = plus(of_r, of_q)? else { return Ok(smallvec![None]) };
        let mirrored = add(&tril(&m, 0)?, &mt(&tril(&m, -1)?)?)?;
        let b = plus(cts[0].clone(), Some(mm(q, &mirrored)?))?;
        let back = b.map(|b| mt(&triangular_solve(r, &mt(&b)?, Triangle::UPPER)?)).transpose()?;
        Ok(smallvec![back])
    }
    // With C = ȧ·R⁻¹, W = Qᵀ·C, Ω = W's lower triangle minus its mirror image:
    // Q̇ = C − Q·(W − Ω), Ṙ = (W − Ω)·R.
    fn jvp(
        &self,
        _: &[&TrackedTensor],
        outputs: &[TrackedTensor],
        tangents: &[Option<TrackedTensor>],
    ) -> Result<Option<super::Tangents>> {
        let Some(da) = &tangents[0] else { return Ok(Some(smallvec![None; 2])) };
        let (q, r) = (&outputs[0], &outputs[1]);
        let c = mt(&triangular_solve(&mt(r)?, &mt(da)?, Triangle::LOWER)?)?;
        let w = mm(&mt(q)?, &c)?;
        let low = tril(&w, -1)?;
        let upper = sub(&w, &sub(&low, &mt(&low)?)?)?;
        Ok(Some(smallvec![Some(sub(&c, &mm(q, &upper)?)?), Some(mm(&upper, r)?)]))
    }
}
