//! Writing at indices, where the last of equal indices wins.

use crate::elsewhere;
use crate::index::{Gather, X_AND_SRC, all_batched, check_range, infer_scatter};
use crate::numbers::{Dim, dimension};
use crate::registry::{Case, Family, Op, Sample};
use crate::saved::has;
use autograd_core::algebra::{self, fill};
use autograd_core::device::{KernelCall, Tensors};
use autograd_core::kernels::expr::Binary;
use autograd_core::kernels::{copy, index as kernel};
use autograd_core::smallvec::smallvec;
use autograd_core::{
    Definition, Grads, Mask, Meta, Prim, Primitive, Result, Rule, Saved, ScalarExpr, Shape, Signature,
    SliceMut, TrackedTensor, Transpose, Values, View, apply_one, pointwise,
};
use std::sync::{Arc, LazyLock};

/// x with src[p] written where gather would read for p; inputs x, indices, src.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scatter {
    pub(crate) dim: usize,
}

/// x with the elements of `src` written where [`gather`](crate::index::gather) would read them. Of equal indices the last
/// in row-major order wins, and has the cotangent alone.
///
/// # Errors
/// A dimension that x does not have; shapes or types that do not fit; indices out of range.
#[track_caller]
pub fn scatter(
    x: &TrackedTensor,
    indices: impl Into<TrackedTensor>,
    src: impl Into<TrackedTensor>,
    dim: impl Dim,
) -> Result<TrackedTensor> {
    apply_one(&Scatter { dim: dimension("scatter", dim, x)? }, &[x, &indices.into(), &src.into()])
}

crate::saved::stored! {
    "scatter" => Scatter { dim }, |op, x| has(x, 3, [op.dim]);
}

impl Primitive for Scatter {
    crate::saved::by_tag!();
    fn name(&self) -> &'static str {
        "scatter"
    }
    fn keep(&self) -> Prim {
        Prim::Shared(Arc::new(*self))
    }
    fn kernel(&self) -> Option<KernelCall> {
        Some(KernelCall::new("scatter", &[self.dim as i64], &[]))
    }
    fn eval_candle(&self, inputs: &[autograd_core::Tensor]) -> Result<Option<Tensors>> {
        let at = elsewhere::indices("scatter", &inputs[1], inputs[0].dims()[self.dim])?;
        elsewhere::in_part(&inputs[0], at.dims(), self.dim, |x| {
            Ok(x.scatter(&at, &inputs[2].contiguous()?, self.dim)?)
        })
    }
    fn rule(&self) -> Rule<'_> {
        Rule::Linear(X_AND_SRC, self)
    }
    fn infer(&self, inputs: &[Meta]) -> Result<Signature> {
        infer_scatter("scatter", self.dim, inputs)
    }
    fn eval_into(&self, inputs: &[View<'_>], outputs: &mut [SliceMut<'_>]) -> Result<()> {
        let shape = inputs[0].layout.shape();
        check_range("scatter", inputs[1], shape.dims()[self.dim])?;
        copy::copy(inputs[0], outputs[0].reborrow());
        kernel::scatter(outputs[0].reborrow(), shape, self.dim, inputs[1], inputs[2]);
        Ok(())
    }
    fn eval_over(&self, x: SliceMut<'_>, shape: &Shape, rest: &[View<'_>]) -> Result<bool> {
        check_range("scatter", rest[0], shape.dims()[self.dim])?;
        kernel::scatter(x, shape, self.dim, rest[0], rest[1]);
        Ok(true)
    }
    fn batch(&self, batched: Mask, inputs: &[&TrackedTensor], size: usize) -> Result<Option<Values>> {
        let all = all_batched(batched, inputs, size)?;
        Ok(Some(smallvec![apply_one(&Self { dim: self.dim + 1 }, &[&all[0], &all[1], &all[2]])?]))
    }
}

static SAME: LazyLock<Definition> = LazyLock::new(|| {
    Definition::mask("same", ScalarExpr::build(2, 0, |b, x, _| b.binary(Binary::Eq, x[0], x[1])))
});

impl Scatter {
    /// 1 at the elements of the source that are in the result, 0 at those written over.
    fn winners(self, indices: &TrackedTensor, shape: &Shape) -> Result<TrackedTensor> {
        // Exact: there are fewer than 2^53 elements.
        let numbers: Vec<f64> = (0..indices.elem_count()).map(|i| i as f64).collect();
        let numbers = algebra::beside(TrackedTensor::from_vec(numbers, indices.dims())?, indices)?;
        let none = fill(-1.0, &numbers.meta().with_shape(*shape), &numbers)?;
        let written = apply_one(&self, &[&none, indices, &numbers])?;
        let read = apply_one(&Gather { dim: self.dim }, &[&written, indices])?;
        pointwise(&SAME, &[&read, &numbers])
    }
}

impl Transpose for Scatter {
    // dx = ct with zeros at the indices, dsrc = ct read at the indices, zero where written over.
    fn transpose(&self, wanted: Mask, cts: &[Option<TrackedTensor>], saved: &Saved<'_>) -> Result<Grads> {
        let mut grads: Grads = smallvec![None, None, None];
        let Some(ct) = &cts[0] else { return Ok(grads) };
        let indices = saved.input(1)?;
        let zeros = fill(0.0, &saved.inputs[2], ct)?;
        if wanted.has(0) {
            grads[0] = Some(apply_one(self, &[ct, indices, &zeros])?);
        }
        if wanted.has(2) {
            let read = apply_one(&Gather { dim: self.dim }, &[ct, indices])?;
            let winners = self.winners(indices, &saved.inputs[0].shape)?;
            grads[2] = Some(algebra::select(&winners, &read, &zeros)?);
        }
        Ok(grads)
    }
}

/// The ops of this file.
pub fn ops() -> Vec<Op> {
    fn writing(
        label: &str,
        x: &[usize],
        indices: (&[usize], u32),
        src: &[usize],
        run: impl Fn(&[TrackedTensor]) -> Result<TrackedTensor> + Send + Sync + 'static,
    ) -> Case {
        let inputs = vec![Sample::float(x), Sample::index(indices.0, indices.1), Sample::float(src)];
        Case::new(label, inputs, run)
    }
    let cases = || {
        vec![
            writing("equal indices", &[2, 2], (&[4, 2], 2), &[4, 2], |x| scatter(&x[0], &x[1], &x[2], 0)),
            writing("fewer rows", &[3, 4], (&[2, 3], 4), &[2, 3], |x| scatter(&x[0], &x[1], &x[2], 1)),
        ]
    };
    let formula = "x with src[p] written where gather reads for p; the last wins";
    vec![Op { name: "scatter", family: Family::Shape, formula, cases }]
}

/// The methods of this file.
#[macro_export]
#[doc(hidden)]
macro_rules! scatter_methods {
    ($($callback:tt)*) => {
        $($callback)* {
            unary {}
            binary {}
            other {
                /// This value with `src` written where `gather` would read; the last of equal indices wins.
                scatter(indices: impl Into<autograd_core::TrackedTensor>, src: impl Into<autograd_core::TrackedTensor>, dim: impl $crate::Dim) -> TrackedTensor = $crate::scatter::scatter;
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use autograd_tape::GradientTape;

    fn u32s(values: &[u32], dims: &[usize]) -> Result<TrackedTensor> {
        TrackedTensor::from_vec(values.to_vec(), dims)
    }

    #[test]
    fn scatter_differentiates_its_start_value_and_the_last_writer() -> Result<()> {
        let tape = GradientTape::new();
        let x = tape.variable(TrackedTensor::from_vec(vec![1f64, 2., 3.], &[3])?);
        let src = tape.variable(TrackedTensor::from_vec(vec![10f64, 20., 30.], &[3])?);
        let y = scatter(&x, u32s(&[2, 0, 2], &[3])?, &src, 0)?;
        assert_eq!(y.to_vec1::<f64>()?, [20., 2., 30.]);
        let weights = TrackedTensor::from_vec(vec![1f64, 10., 100.], &[3])?;
        let grads = tape.gradient_with(&[&y], &[&weights], &[&x, &src])?;
        assert_eq!(grads[0].to_vec1::<f64>()?, [0., 10., 0.]);
        assert_eq!(grads[1].to_vec1::<f64>()?, [0., 1., 100.]);
        Ok(())
    }
}
