//! Triangular factorisations.

use super::solve::{Triangle, triangular_solve};
use super::{ending, fault, matrices, mm, mt, plus, square, symmetric};
use crate::join::cat;
use crate::rearrange::{pad_with_zeros, tril, triu};
use crate::slice::narrow;
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
    matrices("qr", &a.meta()).map_err(|e| e.or_at(site))?;
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

crate::saved::stored! {
    "cholesky" => Cholesky {}, |_, x| x.len() == 1;
    "qr" => Qr {}, |_, x| x.len() == 1;
}

impl Primitive for Cholesky {
    crate::saved::by_tag!();
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
    crate::saved::by_tag!();
    super::plain_parts!(Qr, "qr");
    fn infer(&self, inputs: &[Meta]) -> Result<Signature> {
        let (rows, columns) = matrices("qr", &inputs[0])?;
        let (whole, least) = (&inputs[0].shape, rows.min(columns));
        let q = inputs[0].with_shape(ending(whole, &[rows, least])?);
        let r = inputs[0].with_shape(ending(whole, &[least, columns])?);
        Ok(Signature { outputs: smallvec![q, r], aux: smallvec![] })
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
    // A wide a = [x y] has the factors Q and [U T] with x = Q·U and T = Qᵀ·y, so y = Q·T:
    // ȳ = Q·T̄, and x̄ is that of x's factors with Q̄ + y·T̄ᵀ in the place of Q̄.
    fn vjp(&self, _: Mask, cts: &[Option<TrackedTensor>], saved: &Saved<'_>) -> Result<Grads> {
        let (q, r) = (saved.output(0)?, saved.output(1)?);
        let Some(rest) = Rest::of(r) else {
            return Ok(smallvec![square_or_tall(q, r, cts[0].as_ref(), cts[1].as_ref())?]);
        };
        let u = rest.first(r)?;
        let Some(of_r) = &cts[1] else {
            let x = square_or_tall(q, &u, cts[0].as_ref(), None)?;
            return Ok(smallvec![x.map(|x| rest.beside(&x, None)).transpose()?]);
        };
        let y = mm(q, &rest.last(r)?)?;
        let of_q = plus(cts[0].clone(), Some(mm(&y, &mt(&rest.last(of_r)?)?)?))?;
        let x = square_or_tall(q, &u, of_q.as_ref(), Some(&rest.first(of_r)?))?;
        let y = mm(q, &rest.last(of_r)?)?;
        Ok(smallvec![x.map(|x| rest.beside(&x, Some(&y))).transpose()?])
    }
    // With C = ȧ·R⁻¹, W = Qᵀ·C, Ω = W's lower triangle minus its mirror image:
    // Q̇ = C − Q·(W − Ω), Ṙ = (W − Ω)·R. Of a wide a, Ṫ = Q̇ᵀ·y + Qᵀ·ẏ.
    fn jvp(
        &self,
        _: &[&TrackedTensor],
        outputs: &[TrackedTensor],
        tangents: &[Option<TrackedTensor>],
    ) -> Result<Option<super::Tangents>> {
        let Some(da) = &tangents[0] else { return Ok(Some(smallvec![None; 2])) };
        let (q, r) = (&outputs[0], &outputs[1]);
        let rest = Rest::of(r);
        let (u, dx) = match &rest {
            Some(rest) => (rest.first(r)?, rest.first(da)?),
            None => (r.clone(), da.clone()),
        };
        let c = mt(&triangular_solve(&mt(&u)?, &mt(&dx)?, Triangle::LOWER)?)?;
        let w = mm(&mt(q)?, &c)?;
        let low = tril(&w, -1)?;
        let upper = sub(&w, &sub(&low, &mt(&low)?)?)?;
        let (dq, du) = (sub(&c, &mm(q, &upper)?)?, mm(&upper, &u)?);
        let dr = match &rest {
            Some(rest) => {
                let y = mm(q, &rest.last(r)?)?;
                let dt = add(&mm(&mt(&dq)?, &y)?, &mm(&mt(q)?, &rest.last(da)?)?)?;
                rest.beside(&du, Some(&dt))?
            }
            None => du,
        };
        Ok(Some(smallvec![Some(dq), Some(dr)]))
    }
}

// x̄ = (Q̄ + Q·sym(M))·R⁻ᵀ with M = R·R̄ᵀ − Q̄ᵀ·Q, sym the lower triangle mirrored up (Walter and
// Lehmann, 2018).
fn square_or_tall(
    q: &TrackedTensor,
    r: &TrackedTensor,
    of_q: Option<&TrackedTensor>,
    of_r: Option<&TrackedTensor>,
) -> Result<Option<TrackedTensor>> {
    let right = of_r.map(|ct| mm(r, &mt(&triu(ct, 0)?)?)).transpose()?;
    let left = of_q.map(|ct| mm(&mt(ct)?, q).and_then(|x| neg(&x))).transpose()?;
    let Some(m) = plus(right, left)? else { return Ok(None) };
    let mirrored = add(&tril(&m, 0)?, &mt(&tril(&m, -1)?)?)?;
    let b = plus(of_q.cloned(), Some(mm(q, &mirrored)?))?;
    b.map(|b| mt(&triangular_solve(r, &mt(&b)?, Triangle::UPPER)?)).transpose()
}

/// The columns of a wide matrix behind its first square.
struct Rest {
    rows: usize,
    columns: usize,
}

impl Rest {
    /// `None` where R is square.
    fn of(r: &TrackedTensor) -> Option<Self> {
        let &[.., rows, whole] = r.dims() else { return None };
        (rows < whole).then_some(Self { rows, columns: whole - rows })
    }

    fn first(&self, x: &TrackedTensor) -> Result<TrackedTensor> {
        narrow(x, -1, 0, self.rows)
    }

    fn last(&self, x: &TrackedTensor) -> Result<TrackedTensor> {
        narrow(x, -1, self.rows, self.columns)
    }

    /// [first last]; zeros where there is no last.
    fn beside(&self, first: &TrackedTensor, last: Option<&TrackedTensor>) -> Result<TrackedTensor> {
        match last {
            Some(last) => cat(&[first, last], -1),
            None => pad_with_zeros(first, -1, 0, self.columns),
        }
    }
}
