//! Eigenvalues of symmetric matrices, and singular values.
//!
//! Where two eigenvalues (or singular values) are equal, the vectors are not functions of the
//! matrix. The rules count 1/0 as 0 there: exact for functions that do not depend on the choice
//! of a basis, as those of the values alone.

use super::{columns_times, diagonal, ending, fault, matrices, mm, mt, plus, rows_times, square, symmetric};
use crate::shape::unsqueeze;
use autograd_core::algebra::{add, mul, sub};
use autograd_core::kernels::expr::{Binary, Unary};
use autograd_core::kernels::linalg as kernel;
use autograd_core::smallvec::smallvec;
use autograd_core::{
    Definition, Error, General, Grads, Mask, Meta, Primitive, Residual, Residuals, Result, Saved, ScalarExpr,
    Signature, SliceMut, TrackedTensor, View, apply, pointwise,
};
use std::sync::LazyLock;

/// The eigenvalues w, ascending (…×N), and eigenvectors V, in columns (…×N×N), of
/// (a + aᵀ)/2: a·V = V·diag(w). The symmetric part is taken, as in JAX.
///
/// # Errors
/// Matrices that are not square; numbers that are not finite.
#[track_caller]
pub fn eigh(a: &TrackedTensor) -> Result<(TrackedTensor, TrackedTensor)> {
    square("eigh", &a.meta()).map_err(|e| e.or_at(autograd_core::Site::caller()))?;
    let mut made = apply(&Eigh, &[&symmetric(a)?])?.into_iter();
    match (made.next(), made.next()) {
        (Some(w), Some(v)) => Ok((w, v)),
        _ => Err(Error::internal("eigh", "it has two outputs")),
    }
}

/// The eigenvalues of [`eigh`] alone: differentiable also where some are equal.
///
/// # Errors
/// As [`eigh`].
#[track_caller]
pub fn eigvalsh(a: &TrackedTensor) -> Result<TrackedTensor> {
    Ok(eigh(a)?.0)
}

/// U (…×M×K), s ≥ 0 descending (…×K) and Vᵀ (…×K×N) with a = U·diag(s)·Vᵀ and K = min(M, N).
///
/// # Errors
/// Numbers that are not finite.
#[track_caller]
pub fn svd(a: &TrackedTensor) -> Result<(TrackedTensor, TrackedTensor, TrackedTensor)> {
    let mut made = apply(&Svd, &[a])?.into_iter();
    match (made.next(), made.next(), made.next()) {
        (Some(u), Some(s), Some(vt)) => Ok((u, s, vt)),
        _ => Err(Error::internal("svd", "it has three outputs")),
    }
}

/// The singular values of [`svd`] alone: differentiable also where some are equal.
///
/// # Errors
/// As [`svd`].
#[track_caller]
pub fn svdvals(a: &TrackedTensor) -> Result<TrackedTensor> {
    Ok(svd(a)?.1)
}

#[derive(Clone, Copy, Debug)]
struct Eigh;

#[derive(Clone, Copy, Debug)]
struct Svd;

/// 1/x, and 0 at 0; the division is of a number that is not 0 either way, so that derivatives
/// hide no infinity.
fn recip_or_zero(x: &TrackedTensor) -> Result<TrackedTensor> {
    static RECIP: LazyLock<Definition> = LazyLock::new(|| {
        let expr = ScalarExpr::build(1, 0, |b, x, _| {
            let (zero, one) = (b.constant(0.0), b.constant(1.0));
            let none = b.binary(Binary::Eq, x[0], zero);
            let safe = b.select(none, one, x[0]);
            let recip = b.unary(Unary::Recip, safe);
            b.select(none, zero, recip)
        });
        Definition::new("recip_or_zero", expr)
    });
    pointwise(&RECIP, &[x])
}

/// F with F[i, j] = 1/(w[j] − w[i]), and 0 where they are equal.
fn gaps(w: &TrackedTensor) -> Result<TrackedTensor> {
    recip_or_zero(&sub(&unsqueeze(w, -2)?, &unsqueeze(w, -1)?)?)
}

crate::saved::stored! {
    "eigh" => Eigh {}, |_, x| x.len() == 1;
    "svd" => Svd {}, |_, x| x.len() == 1;
}

impl Primitive for Eigh {
    crate::saved::by_tag!();
    super::plain_parts!(Eigh, "eigh");
    fn infer(&self, inputs: &[Meta]) -> Result<Signature> {
        let n = square("eigh", &inputs[0])?;
        let w = inputs[0].with_shape(ending(&inputs[0].shape, &[n])?);
        Ok(Signature { outputs: smallvec![w, inputs[0]], aux: smallvec![] })
    }
    fn eval_into(&self, inputs: &[View<'_>], outputs: &mut [SliceMut<'_>]) -> Result<()> {
        let [w, v, ..] = outputs else { return Err(Error::internal("eigh", "it has two outputs")) };
        kernel::eigh(inputs[0], w.reborrow(), v.reborrow()).map_err(|f| fault("eigh", f))
    }
    crate::elsewhere::on_host!();
}

impl General for Eigh {
    fn residuals(&self, _: Mask) -> Residuals {
        smallvec![Residual::Output(0), Residual::Output(1)]
    }
    // ā = the symmetric part of V·(diag(w̄) + F∘(Vᵀ·V̄))·Vᵀ.
    fn vjp(&self, _: Mask, cts: &[Option<TrackedTensor>], saved: &Saved<'_>) -> Result<Grads> {
        let v = saved.output(1)?;
        let vt = mt(v)?;
        let of_w = cts[0].as_ref().map(|ct| mm(&columns_times(v, ct)?, &vt)).transpose()?;
        let of_v = match &cts[1] {
            Some(ct) => {
                let inner = mul(&gaps(saved.output(0)?)?, &mm(&vt, ct)?)?;
                Some(symmetric(&mm(&mm(v, &inner)?, &vt)?)?)
            }
            None => None,
        };
        Ok(smallvec![plus(of_w, of_v)?])
    }
    // With P = Vᵀ·ȧ·V: ẇ = diag(P), V̇ = V·(F∘P).
    fn jvp(
        &self,
        _: &[&TrackedTensor],
        outputs: &[TrackedTensor],
        tangents: &[Option<TrackedTensor>],
    ) -> Result<Option<super::Tangents>> {
        let Some(da) = &tangents[0] else { return Ok(Some(smallvec![None; 2])) };
        let (w, v) = (&outputs[0], &outputs[1]);
        let p = mm(&mm(&mt(v)?, &symmetric(da)?)?, v)?;
        Ok(Some(smallvec![Some(diagonal(&p)?), Some(mm(v, &mul(&gaps(w)?, &p)?)?)]))
    }
}

impl Primitive for Svd {
    crate::saved::by_tag!();
    super::plain_parts!(Svd, "svd");
    fn infer(&self, inputs: &[Meta]) -> Result<Signature> {
        let (rows, columns) = matrices("svd", &inputs[0])?;
        let k = rows.min(columns);
        let with = |end: &[usize]| Ok::<_, Error>(inputs[0].with_shape(ending(&inputs[0].shape, end)?));
        Ok(Signature {
            outputs: smallvec![with(&[rows, k])?, with(&[k])?, with(&[k, columns])?],
            aux: smallvec![],
        })
    }
    fn eval_into(&self, inputs: &[View<'_>], outputs: &mut [SliceMut<'_>]) -> Result<()> {
        let [u, s, vt, ..] = outputs else { return Err(Error::internal("svd", "it has three outputs")) };
        kernel::svd(inputs[0], u.reborrow(), s.reborrow(), vt.reborrow()).map_err(|f| fault("svd", f))
    }
    crate::elsewhere::on_host!();
}

impl General for Svd {
    fn residuals(&self, _: Mask) -> Residuals {
        smallvec![Residual::Output(0), Residual::Output(1), Residual::Output(2)]
    }
    // ā = U·[(F∘(UᵀŪ − ŪᵀU))·S + S·(F∘(VᵀV̄ − V̄ᵀV)) + diag(s̄)]·Vᵀ
    //   + (1 − UUᵀ)·Ū·S⁻¹·Vᵀ + U·S⁻¹·V̄ᵀ·(1 − VVᵀ), with F[i, j] = 1/(sⱼ² − sᵢ²)
    // (Townsend, 2016).
    fn vjp(&self, _: Mask, cts: &[Option<TrackedTensor>], saved: &Saved<'_>) -> Result<Grads> {
        let (u, s, vt) = (saved.output(0)?, saved.output(1)?, saved.output(2)?);
        let skew = |q: &TrackedTensor, ct: &TrackedTensor| -> Result<TrackedTensor> {
            let x = mm(&mt(q)?, ct)?;
            mul(&gaps(&mul(s, s)?)?, &sub(&x, &mt(&x)?)?)
        };
        let k = u.dims()[u.rank() - 1];
        let mut total = cts[1].as_ref().map(|ct| mm(&columns_times(u, ct)?, vt)).transpose()?;
        if let Some(ct) = &cts[0] {
            let inner = columns_times(&skew(u, ct)?, s)?;
            let mut left = mm(u, &inner)?;
            if u.dims()[u.rank() - 2] > k {
                let outside = sub(ct, &mm(u, &mm(&mt(u)?, ct)?)?)?;
                left = add(&left, &columns_times(&outside, &recip_or_zero(s)?)?)?;
            }
            total = plus(total, Some(mm(&left, vt)?))?;
        }
        if let Some(ct) = &cts[2] {
            let (v, ct_v) = (mt(vt)?, mt(ct)?);
            let inner = rows_times(s, &skew(&v, &ct_v)?)?;
            let mut right = mm(&inner, vt)?;
            if vt.dims()[vt.rank() - 1] > k {
                let outside = sub(ct, &mm(&mm(ct, &v)?, vt)?)?;
                right = add(&right, &rows_times(&recip_or_zero(s)?, &outside)?)?;
            }
            total = plus(total, Some(mm(u, &right)?))?;
        }
        Ok(smallvec![total])
    }
    // With P = Uᵀ·ȧ·V: ṡ = diag(P), U̇ = U·(F∘(P·S + S·Pᵀ)) + (1 − UUᵀ)·ȧ·V·S⁻¹,
    // V̇ = V·(F∘(S·P + Pᵀ·S)) + (1 − VVᵀ)·ȧᵀ·U·S⁻¹.
    fn jvp(
        &self,
        _: &[&TrackedTensor],
        outputs: &[TrackedTensor],
        tangents: &[Option<TrackedTensor>],
    ) -> Result<Option<super::Tangents>> {
        let Some(da) = &tangents[0] else { return Ok(Some(smallvec![None; 3])) };
        let (u, s, vt) = (&outputs[0], &outputs[1], &outputs[2]);
        let (ut, v) = (mt(u)?, mt(vt)?);
        let k = s.dims()[s.rank() - 1];
        let p = mm(&mm(&ut, da)?, &v)?;
        let f = gaps(&mul(s, s)?)?;
        let ps = columns_times(&p, s)?;
        let sp = rows_times(s, &p)?;
        let mut du = mm(u, &mul(&f, &add(&ps, &mt(&ps)?)?)?)?;
        if u.dims()[u.rank() - 2] > k {
            let x = mm(da, &v)?;
            let outside = sub(&x, &mm(u, &p)?)?;
            du = add(&du, &columns_times(&outside, &recip_or_zero(s)?)?)?;
        }
        let mut dv = mm(&v, &mul(&f, &add(&sp, &mt(&sp)?)?)?)?;
        if vt.dims()[vt.rank() - 1] > k {
            let x = mm(&mt(da)?, u)?;
            let outside = sub(&x, &mm(&v, &mt(&p)?)?)?;
            dv = add(&dv, &columns_times(&outside, &recip_or_zero(s)?)?)?;
        }
        Ok(Some(smallvec![Some(du), Some(diagonal(&p)?), Some(mt(&dv)?)]))
    }
}
