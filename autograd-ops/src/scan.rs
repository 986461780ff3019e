//! Running sums and products along a dimension, and the linear recurrence behind their rules.

use crate::elsewhere;
use crate::join::cat;
use crate::numbers::{Dim, dimension, with_batch, with_extent};
use crate::registry::{Case, Family, Op, Sample};
use crate::saved::has;
use autograd_core::algebra::{add, fill, mul, narrow};
use autograd_core::device::{KernelCall, Tensors};
use autograd_core::kernels::scan as kernel;
use autograd_core::smallvec::{SmallVec, smallvec};
use autograd_core::{
    At, Error, General, Grads, Mask, Meta, Prim, Primitive, Residual, Residuals, Result, Rule, Saved,
    Signature, SliceMut, TrackedTensor, Transpose, Values, View, apply_one, is_float,
};
use std::sync::Arc;

/// A dimension, and from which end it is walked.
#[derive(Clone, Copy, Debug)]
struct Along {
    dim: usize,
    reverse: bool,
}

/// yₖ = Σ xᵢ over i ≤ k.
#[derive(Clone, Copy, Debug)]
struct CumSum(Along);

/// yₖ = Π xᵢ over i ≤ k.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CumProd(Along);

/// sₖ = aₖ·sₖ₋₁ + bₖ, starting with b₀; inputs a, b of one shape.
#[derive(Clone, Copy, Debug)]
struct Recurrence(Along);

impl Along {
    fn turned(self) -> Self {
        Self { reverse: !self.reverse, ..self }
    }

    fn batched(self) -> Self {
        Self { dim: self.dim + 1, ..self }
    }

    /// yₖ = xₖ₋ₛ along the walk, with `filler` at its first `s` places.
    #[track_caller]
    fn shifted(self, x: &TrackedTensor, s: usize, filler: f64) -> Result<TrackedTensor> {
        let n = x.dims()[self.dim];
        let s = s.min(n);
        let new = fill(filler, &x.meta().with_shape(with_extent(x.shape(), self.dim, s)), x)?;
        let start = if self.reverse { s } else { 0 };
        let old = narrow(x, self.dim, start, n - s)?;
        cat(&if self.reverse { [old, new] } else { [new, old] }, self.dim as isize)
    }
}

fn infer_float(op: &'static str, inputs: &[Meta]) -> Result<Signature> {
    if !is_float(inputs[0].dtype) {
        return Err(Error::dtype(op, inputs[0].dtype, "convert to a float type with to_dtype"));
    }
    Ok(Signature::one(inputs[0]))
}

/// Σ xᵢ over i ≤ k along `dim`.
///
/// # Errors
/// A dimension that x does not have; an integer type.
#[track_caller]
pub fn cumsum(x: &TrackedTensor, dim: impl Dim) -> Result<TrackedTensor> {
    apply_one(&CumSum(Along { dim: dimension("cumsum", dim, x)?, reverse: false }), &[x])
}

/// Π xᵢ over i ≤ k along `dim`; the gradient is right where elements are 0.
///
/// # Errors
/// A dimension that x does not have; an integer type.
#[track_caller]
pub fn cumprod(x: &TrackedTensor, dim: impl Dim) -> Result<TrackedTensor> {
    apply_one(&CumProd(Along { dim: dimension("cumprod", dim, x)?, reverse: false }), &[x])
}

/// For each element along `dim` the product of all others: ∂(Π x)/∂xₖ, with zeros right.
#[track_caller]
pub(crate) fn products_of_others(x: &TrackedTensor, dim: usize) -> Result<TrackedTensor> {
    let before = Along { dim, reverse: false };
    let running = |along: Along| along.shifted(&apply_one(&CumProd(along), &[x])?, 1, 1.0);
    mul(&running(before)?, &running(before.turned())?)
}

crate::saved::datum!(Along { dim, reverse });

crate::saved::stored! {
    "cumsum" => CumSum { 0 }, |op, x| has(x, 1, [op.0.dim]);
    "cumprod" => CumProd { 0 }, |op, x| has(x, 1, [op.0.dim]);
    "recurrence" => Recurrence { 0 }, |op, x| has(x, 2, [op.0.dim]);
}

impl Primitive for CumSum {
    crate::saved::by_tag!();
    fn name(&self) -> &'static str {
        "cumsum"
    }
    fn keep(&self) -> Prim {
        Prim::Shared(Arc::new(*self))
    }
    fn infer(&self, inputs: &[Meta]) -> Result<Signature> {
        infer_float("cumsum", inputs)
    }
    fn eval_into(&self, inputs: &[View<'_>], outputs: &mut [SliceMut<'_>]) -> Result<()> {
        kernel::cumsum(inputs[0], self.0.dim, self.0.reverse, outputs[0].reborrow());
        Ok(())
    }
    fn eval_candle(&self, inputs: &[autograd_core::Tensor]) -> Result<Option<Tensors>> {
        let Along { dim, reverse } = self.0;
        let x = &inputs[0];
        if x.elem_count() == 0 {
            return elsewhere::one(x.clone());
        }
        let turn =
            |x: &autograd_core::Tensor| if reverse { x.contiguous()?.flip(&[dim]) } else { x.contiguous() };
        elsewhere::one(turn(&turn(x)?.contiguous()?.cumsum(dim)?)?)
    }
    fn kernel(&self) -> Option<KernelCall> {
        Some(KernelCall::new("cumsum", &[self.0.dim as i64, i64::from(self.0.reverse)], &[]))
    }
    fn rule(&self) -> Rule<'_> {
        Rule::Linear(Mask::one(0), self)
    }
    fn batch(&self, _: Mask, inputs: &[&TrackedTensor], _: usize) -> Result<Option<Values>> {
        Ok(Some(smallvec![apply_one(&Self(self.0.batched()), inputs)?]))
    }
}

impl Transpose for CumSum {
    // dxₖ = Σ ctᵢ over i ≥ k: the running sum from the other end.
    fn transpose(&self, _: Mask, cts: &[Option<TrackedTensor>], _: &Saved<'_>) -> Result<Grads> {
        let back = |ct: &TrackedTensor| apply_one(&Self(self.0.turned()), &[ct]);
        Ok(smallvec![cts[0].as_ref().map(back).transpose()?])
    }
}

impl Primitive for CumProd {
    crate::saved::by_tag!();
    fn name(&self) -> &'static str {
        "cumprod"
    }
    fn keep(&self) -> Prim {
        Prim::Shared(Arc::new(*self))
    }
    fn infer(&self, inputs: &[Meta]) -> Result<Signature> {
        infer_float("cumprod", inputs)
    }
    fn eval_into(&self, inputs: &[View<'_>], outputs: &mut [SliceMut<'_>]) -> Result<()> {
        kernel::cumprod(inputs[0], self.0.dim, self.0.reverse, outputs[0].reborrow());
        Ok(())
    }
    fn rule(&self) -> Rule<'_> {
        Rule::General(self)
    }
    fn batch(&self, _: Mask, inputs: &[&TrackedTensor], _: usize) -> Result<Option<Values>> {
        Ok(Some(smallvec![apply_one(&Self(self.0.batched()), inputs)?]))
    }
    // Products of 1, 2, 4, .. neighbours, each step multiplying with what lies twice as far.
    fn decompose(&self, inputs: &[&TrackedTensor]) -> Result<Option<Values>> {
        let mut y = inputs[0].clone();
        let mut s = 1;
        while s < y.dims()[self.0.dim] {
            y = mul(&y, &self.0.shifted(&y, s, 1.0)?)?;
            s *= 2;
        }
        Ok(Some(smallvec![y]))
    }
}

impl General for CumProd {
    fn residuals(&self, _: Mask) -> Residuals {
        smallvec![Residual::Input(0), Residual::Output(0)]
    }

    // dxₖ = yₖ₋₁·λₖ with λₖ = ctₖ + xₖ₊₁·λₖ₊₁: no division, so zeros do no harm.
    fn vjp(&self, _: Mask, cts: &[Option<TrackedTensor>], saved: &Saved<'_>) -> Result<Grads> {
        let Some(ct) = &cts[0] else { return Ok(smallvec![None]) };
        let back = self.0.turned();
        let next = back.shifted(saved.input(0)?, 1, 0.0)?;
        let behind = apply_one(&Recurrence(back), &[&next, ct])?;
        Ok(smallvec![Some(mul(&self.0.shifted(saved.output(0)?, 1, 1.0)?, &behind)?)])
    }

    // dyₖ = xₖ·dyₖ₋₁ + yₖ₋₁·dxₖ.
    fn jvp(
        &self,
        inputs: &[&TrackedTensor],
        outputs: &[TrackedTensor],
        tangents: &[Option<TrackedTensor>],
    ) -> Result<Option<SmallVec<[Option<TrackedTensor>; 2]>>> {
        let Some(dx) = &tangents[0] else { return Ok(Some(smallvec![None])) };
        let own = mul(&self.0.shifted(&outputs[0], 1, 1.0)?, dx)?;
        Ok(Some(smallvec![Some(apply_one(&Recurrence(self.0), &[inputs[0], &own])?)]))
    }
}

impl Primitive for Recurrence {
    crate::saved::by_tag!();
    fn name(&self) -> &'static str {
        "recurrence"
    }
    fn keep(&self) -> Prim {
        Prim::Shared(Arc::new(*self))
    }
    fn infer(&self, inputs: &[Meta]) -> Result<Signature> {
        let (a, b) = (&inputs[0], &inputs[1]);
        if a.dtype != b.dtype {
            let dtypes = vec![a.dtype, b.dtype];
            return Err(Error::DTypeMismatch { op: "recurrence", dtypes, at: At::default() });
        }
        if a.shape != b.shape {
            return Err(Error::shape("recurrence", &[a.shape, b.shape], "they need one shape"));
        }
        infer_float("recurrence", inputs)
    }
    fn eval_into(&self, inputs: &[View<'_>], outputs: &mut [SliceMut<'_>]) -> Result<()> {
        let Along { dim, reverse } = self.0;
        kernel::recurrence(inputs[0], inputs[1], dim, reverse, outputs[0].reborrow());
        Ok(())
    }
    fn rule(&self) -> Rule<'_> {
        Rule::General(self)
    }
    fn batch(&self, batched: Mask, inputs: &[&TrackedTensor], size: usize) -> Result<Option<Values>> {
        let a = with_batch(inputs[0], batched.has(0), size)?;
        let b = with_batch(inputs[1], batched.has(1), size)?;
        Ok(Some(smallvec![apply_one(&Self(self.0.batched()), &[&a, &b])?]))
    }
    // Maps s ↦ a·s + b of 1, 2, 4, .. neighbours, each step composing with what lies twice as far.
    fn decompose(&self, inputs: &[&TrackedTensor]) -> Result<Option<Values>> {
        let (mut a, mut b) = (inputs[0].clone(), inputs[1].clone());
        let mut s = 1;
        while s < b.dims()[self.0.dim] {
            b = add(&mul(&a, &self.0.shifted(&b, s, 0.0)?)?, &b)?;
            a = mul(&a, &self.0.shifted(&a, s, 1.0)?)?;
            s *= 2;
        }
        Ok(Some(smallvec![b]))
    }
}

impl General for Recurrence {
    fn residuals(&self, wanted: Mask) -> Residuals {
        if wanted.has(0) {
            smallvec![Residual::Input(0), Residual::Output(0)]
        } else {
            smallvec![Residual::Input(0)]
        }
    }

    // dbₖ = ctₖ + aₖ₊₁·dbₖ₊₁, daₖ = dbₖ·sₖ₋₁.
    fn vjp(&self, wanted: Mask, cts: &[Option<TrackedTensor>], saved: &Saved<'_>) -> Result<Grads> {
        let mut grads: Grads = smallvec![None, None];
        let Some(ct) = &cts[0] else { return Ok(grads) };
        let back = self.0.turned();
        let db = apply_one(&Self(back), &[&back.shifted(saved.input(0)?, 1, 0.0)?, ct])?;
        if wanted.has(0) {
            grads[0] = Some(mul(&db, &self.0.shifted(saved.output(0)?, 1, 0.0)?)?);
        }
        if wanted.has(1) {
            grads[1] = Some(db);
        }
        Ok(grads)
    }

    // dsₖ = aₖ·dsₖ₋₁ + (daₖ·sₖ₋₁ + dbₖ).
    fn jvp(
        &self,
        inputs: &[&TrackedTensor],
        outputs: &[TrackedTensor],
        tangents: &[Option<TrackedTensor>],
    ) -> Result<Option<SmallVec<[Option<TrackedTensor>; 2]>>> {
        let through_a = match &tangents[0] {
            Some(da) => Some(mul(da, &self.0.shifted(&outputs[0], 1, 0.0)?)?),
            None => None,
        };
        let own = match (through_a, &tangents[1]) {
            (Some(through), Some(db)) => add(&through, db)?,
            (Some(one), None) => one,
            (None, Some(one)) => one.clone(),
            (None, None) => return Ok(Some(smallvec![None])),
        };
        Ok(Some(smallvec![Some(apply_one(self, &[inputs[0], &own])?)]))
    }
}

/// The ops of this file.
pub fn ops() -> Vec<Op> {
    let op = |name, formula, cases| Op { name, family: Family::Reduction, formula, cases };
    fn cases(run: fn(&TrackedTensor, isize) -> Result<TrackedTensor>) -> Vec<Case> {
        let one = |label, dims: &[usize], dim| {
            Case::new(label, vec![Sample::float(dims)], move |x| run(&x[0], dim))
        };
        vec![
            one("rows", &[2, 4], -1),
            one("columns", &[5, 2], 0),
            one("inner", &[2, 3, 2], 1),
            one("extent 1", &[2, 1], 1),
            one("empty", &[2, 0], 1),
        ]
    }
    vec![
        op("cumsum", "Σ xᵢ over i ≤ k", || cases(cumsum)),
        op("cumprod", "Π xᵢ over i ≤ k; zeros right", || {
            let mut cases = cases(cumprod);
            let zeros = Sample::Exact { dims: vec![2, 4], values: vec![2., 0., 3., 4., 0., 5., 0., 2.] };
            cases.push(Case::new("zeros", vec![zeros], |x| cumprod(&x[0], 1)));
            cases
        }),
        op("recurrence", "sₖ = aₖ·sₖ₋₁ + bₖ", || {
            let inputs = vec![Sample::float(&[2, 4]), Sample::float(&[2, 4])];
            let along = |dim, reverse| Recurrence(Along { dim, reverse });
            vec![
                Case::new("forwards", inputs.clone(), move |x| apply_one(&along(1, false), &[&x[0], &x[1]])),
                Case::new("backwards", inputs, move |x| apply_one(&along(0, true), &[&x[0], &x[1]])),
            ]
        }),
    ]
}

/// The methods of this file.
#[macro_export]
#[doc(hidden)]
macro_rules! scan_methods {
    ($($callback:tt)*) => {
        $($callback)* {
            unary {}
            binary {}
            other {
                /// The running sum along one dimension.
                cumsum(dim: impl $crate::Dim) -> TrackedTensor = $crate::scan::cumsum;
                /// The running product along one dimension.
                cumprod(dim: impl $crate::Dim) -> TrackedTensor = $crate::scan::cumprod;
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use autograd_tape::GradientTape;

    #[test]
    fn zeros_in_a_running_product_have_their_gradient() -> Result<()> {
        for (x, want) in
            [(vec![2., 3., 4.], vec![16., 10., 6.]), (vec![2., 0., 3., 4.], vec![1., 32., 0., 0.])]
        {
            let tape = GradientTape::new();
            let n = x.len();
            let x = tape.variable(TrackedTensor::from_vec::<f64>(x, &[n])?);
            let y = crate::reduce::sum(&cumprod(&x, 0)?)?;
            assert_eq!(tape.derivative(&y, &x)?.to_vec1::<f64>()?, want);
        }
        Ok(())
    }

    #[test]
    fn kernels_equal_decompositions() -> Result<()> {
        let a = TrackedTensor::from_vec::<f64>((0..15).map(|i| f64::from(i % 4) - 1.5).collect(), &[3, 5])?;
        let b = TrackedTensor::from_vec::<f64>((0..15).map(|i| f64::from(i % 7) - 2.5).collect(), &[3, 5])?;
        for (dim, reverse) in [(0, false), (1, false), (1, true)] {
            let along = Along { dim, reverse };
            let whole = |op: &dyn Primitive, x: &[&TrackedTensor]| -> Result<()> {
                let parts = op.decompose(x)?.ok_or_else(|| Error::msg("no decomposition"))?;
                assert_eq!(parts[0].to_vec2::<f64>()?, apply_one(op, x)?.to_vec2::<f64>()?);
                Ok(())
            };
            whole(&CumProd(along), &[&a])?;
            whole(&Recurrence(along), &[&a, &b])?;
        }
        Ok(())
    }
}
