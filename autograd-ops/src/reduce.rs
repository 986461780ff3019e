//! Sums and means over any dimensions.

use crate::elsewhere;
use crate::numbers::{Dim, Numbers, dimension, dimensions, flattened, without};
use crate::registry::{Case, Family, Op, Sample};
use crate::saved::has;
use autograd_core::device::Tensors;
use autograd_core::kernels::reduce::{Reduction, reduce};
use autograd_core::smallvec::{SmallVec, smallvec};
use autograd_core::{
    Error, Grads, Mask, Meta, Prim, Primitive, Result, Rule, Saved, Shape, Signature, SliceMut, SumOver,
    TrackedTensor, Transpose, Values, View, algebra, apply_one, is_float,
};
use std::sync::Arc;

/// Which dimensions a reduction takes away, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Over {
    /// The dimensions.
    pub(crate) dims: Mask,
    /// Whether they stay with extent 1.
    pub(crate) keepdim: bool,
}

impl Over {
    /// All dimensions of x, to rank 0.
    pub(crate) fn all(x: &TrackedTensor) -> Self {
        Self { dims: Mask::first(x.rank()), keepdim: false }
    }

    /// One dimension of x.
    #[track_caller]
    pub(crate) fn one(op: &'static str, x: &TrackedTensor, dim: impl Dim, keepdim: bool) -> Result<Self> {
        Ok(Self { dims: Mask::one(dimension(op, dim, x)?), keepdim })
    }

    /// Some dimensions of x.
    #[track_caller]
    pub(crate) fn some(
        op: &'static str,
        x: &TrackedTensor,
        dims: impl Numbers,
        keepdim: bool,
    ) -> Result<Self> {
        Ok(Self { dims: dimensions(op, &dims.list(), x)?.into_iter().collect(), keepdim })
    }

    /// What is left of a shape.
    pub(crate) fn shape(self, x: &Shape) -> Shape {
        if self.keepdim { flattened(x, self.dims) } else { without(x, self.dims) }
    }

    /// What is left with all dimensions there.
    pub(crate) fn kept(self, x: &Shape) -> Shape {
        flattened(x, self.dims)
    }

    /// How many elements become one.
    pub(crate) fn count(self, x: &Shape) -> usize {
        x.dims().iter().enumerate().filter(|(d, _)| self.dims.has(*d)).map(|(_, n)| n).product()
    }

    /// The same behind a batch dimension.
    pub(crate) fn batched(self) -> Self {
        Self { dims: self.dims.iter().map(|d| d + 1).collect(), ..self }
    }

    /// A mark for each of `rank` dimensions.
    pub(crate) fn marks(self, rank: usize) -> SmallVec<[bool; 8]> {
        (0..rank).map(|d| self.dims.has(d)).collect()
    }
}

/// Σ x or Σ x / n over some dimensions.
#[derive(Clone, Copy, Debug)]
pub struct Sum {
    over: Over,
    mean: bool,
}

impl Sum {
    fn op(self) -> &'static str {
        if self.mean { "mean" } else { "sum" }
    }
}

/// Σ x over `over`.
#[track_caller]
pub(crate) fn sum_over(x: &TrackedTensor, over: Over) -> Result<TrackedTensor> {
    apply_one(&Sum { over, mean: false }, &[x])
}

/// Σ x / n over `over`.
#[track_caller]
pub(crate) fn mean_over(x: &TrackedTensor, over: Over) -> Result<TrackedTensor> {
    apply_one(&Sum { over, mean: true }, &[x])
}

/// x with the dimensions that `over` took away there again, with extent 1.
#[track_caller]
pub(crate) fn kept_of(y: &TrackedTensor, over: Over, x: &Shape) -> Result<TrackedTensor> {
    algebra::reshape(y, &over.kept(x))
}

crate::saved::datum!(Over { dims, keepdim });

crate::saved::stored! {
    "sum" => Sum { over, mean }, |op, x| has(x, 1, op.over.dims.iter());
}

impl Primitive for Sum {
    crate::saved::by_tag!();
    fn name(&self) -> &'static str {
        self.op()
    }
    fn keep(&self) -> Prim {
        Prim::Shared(Arc::new(*self))
    }
    fn infer(&self, inputs: &[Meta]) -> Result<Signature> {
        let x = inputs[0];
        if let Some(d) = self.over.dims.iter().find(|&d| d >= x.shape.rank()) {
            return Err(Error::argument(self.op(), format!("no dimension {d} in shape {}", x.shape)));
        }
        if self.mean && !is_float(x.dtype) {
            return Err(Error::dtype("mean", x.dtype, "convert to a float type with to_dtype"));
        }
        Ok(Signature::one(x.with_shape(self.over.shape(&x.shape))))
    }
    fn as_sum(&self, input: &Meta) -> Option<SumOver> {
        let scale = if self.mean { 1.0 / self.over.count(&input.shape) as f64 } else { 1.0 };
        Some(SumOver { kept: self.over.kept(&input.shape), scale })
    }
    fn eval_into(&self, inputs: &[View<'_>], outputs: &mut [SliceMut<'_>]) -> Result<()> {
        let reduction = if self.mean { Reduction::Mean } else { Reduction::Sum };
        reduce(reduction, inputs[0], &self.over.marks(inputs[0].layout.rank()), outputs[0].reborrow());
        Ok(())
    }
    fn eval_candle(&self, inputs: &[autograd_core::Tensor]) -> Result<Option<Tensors>> {
        let x = &inputs[0];
        let dims: Vec<usize> = self.over.dims.iter().collect();
        let shape = autograd_core::checked_shape(self.op(), x.dims())?;
        let sum = x.sum_keepdim(dims)?.reshape(self.over.shape(&shape).dims())?;
        elsewhere::one(if self.mean { sum.affine(1.0 / self.over.count(&shape) as f64, 0.0)? } else { sum })
    }
    fn rule(&self) -> Rule<'_> {
        Rule::Linear(Mask::one(0), self)
    }
    fn batch(&self, _: Mask, inputs: &[&TrackedTensor], _: usize) -> Result<Option<Values>> {
        let op = Self { over: self.over.batched(), ..*self };
        Ok(Some(smallvec![apply_one(&op, inputs)?]))
    }
}

impl Transpose for Sum {
    // dxᵢ = ct, or ct/n for the mean.
    fn transpose(&self, _: Mask, cts: &[Option<TrackedTensor>], saved: &Saved<'_>) -> Result<Grads> {
        let shape = &saved.inputs[0].shape;
        let Some(ct) = &cts[0] else { return Ok(smallvec![None]) };
        let mut ct = kept_of(ct, self.over, shape)?;
        if self.mean {
            ct = algebra::scale(&ct, 1.0 / self.over.count(shape) as f64)?;
        }
        Ok(smallvec![Some(algebra::broadcast_to(&ct, shape)?)])
    }
}

/// Σ x over all elements, rank 0; 0 of nothing.
///
/// # Errors
/// None of its own.
#[track_caller]
pub fn sum(x: &TrackedTensor) -> Result<TrackedTensor> {
    sum_over(x, Over::all(x))
}

/// Σ x over one dimension, which goes.
///
/// # Errors
/// A dimension that x does not have.
#[track_caller]
pub fn sum_dim(x: &TrackedTensor, dim: impl Dim) -> Result<TrackedTensor> {
    sum_over(x, Over::one("sum", x, dim, false)?)
}

/// Σ x over the given dimensions, which stay with extent 1.
///
/// # Errors
/// A dimension that x does not have, or one named twice.
#[track_caller]
pub fn sum_keepdim(x: &TrackedTensor, dims: impl Numbers) -> Result<TrackedTensor> {
    sum_over(x, Over::some("sum", x, dims, true)?)
}

/// Σ x over the given dimensions.
///
/// # Errors
/// A dimension that x does not have, or one named twice.
#[track_caller]
pub fn sum_dims(x: &TrackedTensor, dims: impl Numbers, keepdim: bool) -> Result<TrackedTensor> {
    sum_over(x, Over::some("sum", x, dims, keepdim)?)
}

/// The mean Σ x / n of all elements, rank 0; NaN of nothing.
///
/// # Errors
/// An integer type.
#[track_caller]
pub fn mean(x: &TrackedTensor) -> Result<TrackedTensor> {
    mean_over(x, Over::all(x))
}

/// The mean over one dimension, which goes.
///
/// # Errors
/// A dimension that x does not have; an integer type.
#[track_caller]
pub fn mean_dim(x: &TrackedTensor, dim: impl Dim) -> Result<TrackedTensor> {
    mean_over(x, Over::one("mean", x, dim, false)?)
}

/// The mean over the given dimensions, which stay with extent 1.
///
/// # Errors
/// A dimension that x does not have, or one named twice; an integer type.
#[track_caller]
pub fn mean_keepdim(x: &TrackedTensor, dims: impl Numbers) -> Result<TrackedTensor> {
    mean_over(x, Over::some("mean", x, dims, true)?)
}

/// The mean over the given dimensions.
///
/// # Errors
/// A dimension that x does not have, or one named twice; an integer type.
#[track_caller]
pub fn mean_dims(x: &TrackedTensor, dims: impl Numbers, keepdim: bool) -> Result<TrackedTensor> {
    mean_over(x, Over::some("mean", x, dims, keepdim)?)
}

/// The cases of a reduction with variants for all elements, one dimension and several.
pub(crate) fn variants(
    all: fn(&TrackedTensor) -> Result<TrackedTensor>,
    dim: fn(&TrackedTensor, isize) -> Result<TrackedTensor>,
    dims: fn(&TrackedTensor, &[isize], bool) -> Result<TrackedTensor>,
    sample: fn(&[usize]) -> Sample,
) -> Vec<Case> {
    vec![
        Case::new("all elements", vec![sample(&[2, 3])], move |x| all(&x[0])),
        Case::new("rank 0", vec![sample(&[])], move |x| all(&x[0])),
        Case::new("the last dimension", vec![sample(&[2, 3])], move |x| dim(&x[0], -1)),
        Case::new("the first dimension", vec![sample(&[3, 2])], move |x| dim(&x[0], 0)),
        Case::new("an inner dimension", vec![sample(&[2, 3, 2])], move |x| dim(&x[0], 1)),
        Case::new("two dimensions", vec![sample(&[2, 3, 2])], move |x| dims(&x[0], &[0, -1], false)),
        Case::new("two kept dimensions", vec![sample(&[2, 3, 2])], move |x| dims(&x[0], &[0, 2], true)),
        Case::new("extent 1", vec![sample(&[2, 1])], move |x| dim(&x[0], 1)),
        Case::new("nothing left over", vec![sample(&[0, 3])], move |x| dim(&x[0], 1)),
    ]
}

/// The ops of this file.
pub fn ops() -> Vec<Op> {
    let op = |name, formula, cases| Op { name, family: Family::Reduction, formula, cases };
    vec![
        op("sum", "Σ x; 0 of nothing", || {
            let mut cases =
                variants(sum, sum_dim, |x, dims, keepdim| sum_dims(x, dims, keepdim), Sample::float);
            cases.push(Case::new("no elements", vec![Sample::float(&[0, 3])], |x| sum(&x[0])));
            cases.push(Case::new("over nothing", vec![Sample::float(&[0, 3])], |x| sum_dim(&x[0], 0)));
            cases.push(Case::new("keepdim", vec![Sample::float(&[2, 3])], |x| sum_keepdim(&x[0], 1)));
            cases
        }),
        op("mean", "Σ x / n; NaN of nothing", || {
            let mut cases =
                variants(mean, mean_dim, |x, dims, keepdim| mean_dims(x, dims, keepdim), Sample::float);
            cases.push(Case::new("keepdim", vec![Sample::float(&[2, 3])], |x| mean_keepdim(&x[0], (0, 1))));
            cases
        }),
    ]
}

/// The methods of this file.
#[macro_export]
#[doc(hidden)]
macro_rules! reduce_methods {
    ($($callback:tt)*) => {
        $($callback)* {
            unary {
                /// The sum of all elements, rank 0.
                sum = $crate::reduce::sum;
                /// As `sum`.
                sum_all = $crate::reduce::sum;
                /// The mean of all elements, rank 0.
                mean = $crate::reduce::mean;
                /// As `mean`.
                mean_all = $crate::reduce::mean;
            }
            binary {}
            other {
                /// The sum over one dimension, which goes.
                sum_dim(dim: impl $crate::Dim) -> TrackedTensor = $crate::reduce::sum_dim;
                /// The sum over dimensions, which stay with extent 1.
                sum_keepdim(dims: impl $crate::Numbers) -> TrackedTensor = $crate::reduce::sum_keepdim;
                /// The sum over dimensions.
                sum_dims(dims: impl $crate::Numbers, keepdim: bool) -> TrackedTensor = $crate::reduce::sum_dims;
                /// The mean over one dimension, which goes.
                mean_dim(dim: impl $crate::Dim) -> TrackedTensor = $crate::reduce::mean_dim;
                /// The mean over dimensions, which stay with extent 1.
                mean_keepdim(dims: impl $crate::Numbers) -> TrackedTensor = $crate::reduce::mean_keepdim;
                /// The mean over dimensions.
                mean_dims(dims: impl $crate::Numbers, keepdim: bool) -> TrackedTensor = $crate::reduce::mean_dims;
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use autograd_tape::GradientTape;

    #[test]
    fn the_gradient_of_a_mean_is_one_over_n() -> Result<()> {
        let tape = GradientTape::new();
        let x = tape.variable(TrackedTensor::from_vec(vec![1f64, 2., 3., 4.], &[2, 2])?);
        let y = mean(&x)?;
        assert_eq!(y.to_vec0::<f64>()?, 2.5);
        assert_eq!(tape.derivative(&y, &x)?.to_flat::<f64>()?, [0.25; 4]);
        Ok(())
    }

    #[test]
    fn errors_carry_the_users_line() -> Result<()> {
        let x = TrackedTensor::from_vec(vec![1f64, 2.], &[2])?;
        let error = sum_dim(&x, 1).expect_err("it must fail");
        assert_eq!(error.site().map(|s| s.file()), Some(file!()), "{error}");
        Ok(())
    }
}
