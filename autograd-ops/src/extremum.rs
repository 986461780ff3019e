//! The largest and the smallest element, with the cotangent split evenly among equals.

use crate::elsewhere;
use crate::numbers::{Dim, Numbers};
use crate::reduce::{Over, kept_of, sum_over, variants};
use crate::registry::{Case, Family, Op, Sample};
use crate::saved::has;
use autograd_core::device::{KernelCall, Tensors};
use autograd_core::kernels::expr::{Binary, Unary};
use autograd_core::kernels::reduce::{Reduction, reduce};
use autograd_core::smallvec::{SmallVec, smallvec};
use autograd_core::{
    Composed, Definition, Error, General, Grads, Mask, Meta, Prim, Primitive, Residual, Residuals, Result,
    Rule, Saved, ScalarExpr, Signature, SliceMut, TrackedTensor, Values, View, algebra, apply_one,
    eval_composed, is_float, pointwise,
};
use std::sync::{Arc, LazyLock};

/// 1 where x is the extremum of its group, else 0.
static EQUALS: LazyLock<Definition> = LazyLock::new(|| {
    Definition::flat("equals", ScalarExpr::build(2, 0, |b, x, _| b.binary(Binary::Eq, x[0], x[1])))
});

/// The largest or smallest elements over some dimensions.
#[derive(Clone, Copy, Debug)]
pub struct Extremum {
    max: bool,
    over: Over,
}

/// The same numbers without a derivative: what the decomposition compares with.
#[derive(Clone, Copy, Debug)]
struct FlatExtremum(Extremum);

impl Extremum {
    fn op(self) -> &'static str {
        if self.max { "max" } else { "min" }
    }

    fn signature(self, x: &Meta) -> Result<Signature> {
        if !is_float(x.dtype) {
            return Err(Error::dtype(self.op(), x.dtype, "convert to a float type with to_dtype"));
        }
        let shape = self.over.shape(&x.shape);
        if self.over.count(&x.shape) == 0 && shape.elements() > 0 {
            return Err(Error::shape(self.op(), &[x.shape], "there is no element to choose from"));
        }
        Ok(Signature::one(x.with_shape(shape)))
    }

    fn evaluate(self, inputs: &[View<'_>], outputs: &mut [SliceMut<'_>]) {
        let reduction = if self.max { Reduction::Max } else { Reduction::Min };
        reduce(reduction, inputs[0], &self.over.marks(inputs[0].layout.rank()), outputs[0].reborrow());
    }

    fn by_candle(self, x: &autograd_core::Tensor) -> Result<autograd_core::Tensor> {
        let shape = self.over.shape(&autograd_core::checked_shape(self.op(), x.dims())?);
        if shape.elements() == 0 {
            return elsewhere::zeros(&shape, x);
        }
        Ok(elsewhere::extremum(x, self.over.dims, self.max)?.reshape(shape.dims())?)
    }

    fn call(self) -> KernelCall {
        let dims = self.over.dims.iter().map(|dim| dim as i64);
        let numbers: SmallVec<[i64; 9]> = std::iter::once(i64::from(self.max)).chain(dims).collect();
        KernelCall::new("extremum", &numbers, &[])
    }

    fn batched(self) -> Self {
        Self { over: self.over.batched(), ..self }
    }

    /// Each element's share: 1/k for each of k equal extrema, 0 for the others.
    fn shares(self, x: &TrackedTensor, y: &TrackedTensor) -> Result<TrackedTensor> {
        let equal = pointwise(&EQUALS, &[x, &kept_of(y, self.over, x.shape())?])?;
        let count = sum_over(&equal, Over { keepdim: true, ..self.over })?;
        algebra::div(&equal, &count)
    }
}

crate::saved::stored! {
    "extremum" => Extremum { max, over }, |op, x| has(x, 1, op.over.dims.iter());
    "flat_extremum" => FlatExtremum { 0 }, |op, x| has(x, 1, op.0.over.dims.iter());
    "size_extremum" => SizeExtremum { 0 }, |op, x| has(x, 1, op.0.over.dims.iter());
}

impl Primitive for Extremum {
    crate::saved::by_tag!();
    fn name(&self) -> &'static str {
        self.op()
    }
    fn keep(&self) -> Prim {
        Prim::Shared(Arc::new(*self))
    }
    fn infer(&self, inputs: &[Meta]) -> Result<Signature> {
        self.signature(&inputs[0])
    }
    fn eval_into(&self, inputs: &[View<'_>], outputs: &mut [SliceMut<'_>]) -> Result<()> {
        self.evaluate(inputs, outputs);
        Ok(())
    }
    fn eval_candle(&self, inputs: &[autograd_core::Tensor]) -> Result<Option<Tensors>> {
        elsewhere::one(self.by_candle(&inputs[0])?)
    }
    fn kernel(&self) -> Option<KernelCall> {
        Some(self.call())
    }
    fn rule(&self) -> Rule<'_> {
        Rule::General(self)
    }
    fn batch(&self, _: Mask, inputs: &[&TrackedTensor], _: usize) -> Result<Option<Values>> {
        Ok(Some(smallvec![apply_one(&self.batched(), inputs)?]))
    }
    // Σ x·[x = m]/k, where m is the extremum held constant.
    fn decompose(&self, inputs: &[&TrackedTensor]) -> Result<Option<Values>> {
        let x = inputs[0];
        let shares = self.shares(x, &apply_one(&FlatExtremum(*self), &[x])?)?;
        // Selected, not multiplied: 0·∞ is not a number.
        let chosen = algebra::select(&shares, &algebra::mul(x, &shares)?, &algebra::zeros_like(x)?)?;
        Ok(Some(smallvec![sum_over(&chosen, self.over)?]))
    }
}

impl General for Extremum {
    fn residuals(&self, _: Mask) -> Residuals {
        smallvec![Residual::Input(0), Residual::Output(0)]
    }

    // dxᵢ = ct·[xᵢ = y]/k.
    fn vjp(&self, _: Mask, cts: &[Option<TrackedTensor>], saved: &Saved<'_>) -> Result<Grads> {
        let Some(ct) = &cts[0] else { return Ok(smallvec![None]) };
        let (x, y) = (saved.input(0)?, saved.output(0)?);
        let ct = kept_of(ct, self.over, x.shape())?;
        Ok(smallvec![Some(algebra::mul(&ct, &self.shares(x, y)?)?)])
    }

    // dy = Σ dxᵢ·[xᵢ = y]/k.
    fn jvp(
        &self,
        inputs: &[&TrackedTensor],
        outputs: &[TrackedTensor],
        tangents: &[Option<TrackedTensor>],
    ) -> Result<Option<SmallVec<[Option<TrackedTensor>; 2]>>> {
        let Some(dx) = &tangents[0] else { return Ok(Some(smallvec![None])) };
        let shares = self.shares(inputs[0], &outputs[0])?;
        Ok(Some(smallvec![Some(sum_over(&algebra::mul(dx, &shares)?, self.over)?)]))
    }
}

impl Primitive for FlatExtremum {
    crate::saved::by_tag!();
    fn name(&self) -> &'static str {
        self.0.op()
    }
    fn keep(&self) -> Prim {
        Prim::Shared(Arc::new(*self))
    }
    fn infer(&self, inputs: &[Meta]) -> Result<Signature> {
        self.0.signature(&inputs[0])
    }
    fn eval_into(&self, inputs: &[View<'_>], outputs: &mut [SliceMut<'_>]) -> Result<()> {
        self.0.evaluate(inputs, outputs);
        Ok(())
    }
    fn eval_candle(&self, inputs: &[autograd_core::Tensor]) -> Result<Option<Tensors>> {
        elsewhere::one(self.0.by_candle(&inputs[0])?)
    }
    fn kernel(&self) -> Option<KernelCall> {
        Some(self.0.call())
    }
    fn rule(&self) -> Rule<'_> {
        Rule::Flat
    }
    fn batch(&self, _: Mask, inputs: &[&TrackedTensor], _: usize) -> Result<Option<Values>> {
        Ok(Some(smallvec![apply_one(&Self(self.0.batched()), inputs)?]))
    }
}

static SIZE: LazyLock<Definition> =
    LazyLock::new(|| Definition::new("abs", ScalarExpr::build(1, 0, |b, x, _| b.unary(Unary::Abs, x[0]))));
static SIGN: LazyLock<Definition> =
    LazyLock::new(|| Definition::flat("sign", ScalarExpr::build(1, 0, |b, x, _| b.unary(Unary::Sign, x[0]))));

/// The largest (or smallest) |x| over some dimensions, as one op: |x| is not kept.
#[track_caller]
pub(crate) fn largest_size(x: &TrackedTensor, max: bool, over: Over) -> Result<TrackedTensor> {
    apply_one(&SizeExtremum(Extremum { max, over }), &[x])
}

/// The extremum of |x|.
#[derive(Clone, Copy, Debug)]
struct SizeExtremum(Extremum);

impl Composed for SizeExtremum {
    fn run(&self, inputs: &[&TrackedTensor]) -> Result<Values> {
        Ok(smallvec![apply_one(&self.0, &[&pointwise(&SIZE, &[inputs[0]])?])?])
    }
}

impl Primitive for SizeExtremum {
    crate::saved::by_tag!();
    fn name(&self) -> &'static str {
        "norm"
    }
    fn key(&self) -> String {
        format!("{self:?}")
    }
    fn keep(&self) -> Prim {
        Prim::Shared(Arc::new(*self))
    }
    fn infer(&self, inputs: &[Meta]) -> Result<Signature> {
        self.0.signature(&inputs[0])
    }
    fn eval_into(&self, inputs: &[View<'_>], outputs: &mut [SliceMut<'_>]) -> Result<()> {
        eval_composed(self, self, inputs, outputs)
    }
    fn composed(&self) -> Option<&dyn Composed> {
        Some(self)
    }
    fn rule(&self) -> Rule<'_> {
        Rule::General(self)
    }
    fn batch(&self, _: Mask, inputs: &[&TrackedTensor], _: usize) -> Result<Option<Values>> {
        Ok(Some(smallvec![apply_one(&Self(self.0.batched()), inputs)?]))
    }
    fn decompose(&self, inputs: &[&TrackedTensor]) -> Result<Option<Values>> {
        self.run(inputs).map(Some)
    }
}

impl General for SizeExtremum {
    fn residuals(&self, _: Mask) -> Residuals {
        smallvec![Residual::Input(0), Residual::Output(0)]
    }

    // dxᵢ = ct·sign(xᵢ)·[|xᵢ| = y]/k.
    fn vjp(&self, _: Mask, cts: &[Option<TrackedTensor>], saved: &Saved<'_>) -> Result<Grads> {
        let Some(ct) = &cts[0] else { return Ok(smallvec![None]) };
        let (x, y) = (saved.input(0)?, saved.output(0)?);
        let shares = self.0.shares(&pointwise(&SIZE, &[x])?, y)?;
        let ct = kept_of(ct, self.0.over, x.shape())?;
        Ok(smallvec![Some(algebra::mul(&ct, &algebra::mul(&pointwise(&SIGN, &[x])?, &shares)?)?)])
    }
}

macro_rules! extremum {
    ($(#[$doc:meta])* $max:literal, $word:literal, $all:ident, $dim:ident, $keepdim:ident, $dims:ident) => {
        #[doc = concat!("The ", $word, " of all elements, rank 0; NaN where there is one. Equal ones share the")]
        /// cotangent evenly, as in PyTorch.
        ///
        /// # Errors
        /// No elements; an integer type.
        #[track_caller]
        pub fn $all(x: &TrackedTensor) -> Result<TrackedTensor> {
            apply_one(&Extremum { max: $max, over: Over::all(x) }, &[x])
        }

        #[doc = concat!("The ", $word, " over one dimension, which goes; equal ones share the cotangent evenly.")]
        ///
        /// # Errors
        /// A dimension that x does not have, or of extent 0; an integer type.
        #[track_caller]
        pub fn $dim(x: &TrackedTensor, dim: impl Dim) -> Result<TrackedTensor> {
            apply_one(&Extremum { max: $max, over: Over::one(stringify!($all), x, dim, false)? }, &[x])
        }

        #[doc = concat!("The ", $word, " over dimensions, which stay with extent 1; equal ones share the")]
        /// cotangent evenly.
        ///
        /// # Errors
        /// A dimension that x does not have, or of extent 0; an integer type.
        #[track_caller]
        pub fn $keepdim(x: &TrackedTensor, dims: impl Numbers) -> Result<TrackedTensor> {
            apply_one(&Extremum { max: $max, over: Over::some(stringify!($all), x, dims, true)? }, &[x])
        }

        #[doc = concat!("The ", $word, " over dimensions (PyTorch's `a", stringify!($all), "`); equal ones share the")]
        /// cotangent evenly.
        ///
        /// # Errors
        /// A dimension that x does not have, or of extent 0; an integer type.
        #[track_caller]
        pub fn $dims(x: &TrackedTensor, dims: impl Numbers, keepdim: bool) -> Result<TrackedTensor> {
            apply_one(&Extremum { max: $max, over: Over::some(stringify!($all), x, dims, keepdim)? }, &[x])
        }
    };
}

extremum!(true, "largest", max, max_dim, max_keepdim, amax);
extremum!(false, "smallest", min, min_dim, min_keepdim, amin);

/// The ops of this file.
pub fn ops() -> Vec<Op> {
    let op = |name, formula, cases| Op { name, family: Family::Reduction, formula, cases };
    fn ties() -> Vec<Sample> {
        vec![Sample::Exact { dims: vec![2, 3], values: vec![1., 0., 1., 2., 2., 2.] }]
    }
    vec![
        op("max", "the largest; equal ones share the cotangent evenly", || {
            let mut cases =
                variants(max, max_dim, |x, dims, keepdim| amax(x, dims, keepdim), Sample::distinct);
            cases.push(Case::new("keepdim", vec![Sample::distinct(&[2, 3])], |x| max_keepdim(&x[0], 1)));
            cases.push(Case::new("ties", ties(), |x| max_dim(&x[0], 1)).at_a_kink());
            cases
        }),
        op("min", "the smallest; equal ones share the cotangent evenly", || {
            let mut cases =
                variants(min, min_dim, |x, dims, keepdim| amin(x, dims, keepdim), Sample::distinct);
            cases.push(Case::new("keepdim", vec![Sample::distinct(&[2, 3])], |x| min_keepdim(&x[0], 1)));
            cases.push(Case::new("ties", ties(), |x| min_dim(&x[0], 1)).at_a_kink());
            cases
        }),
    ]
}

/// The methods of this file.
#[macro_export]
#[doc(hidden)]
macro_rules! extremum_methods {
    ($($callback:tt)*) => {
        $($callback)* {
            unary {
                /// The largest of all elements, rank 0.
                max = $crate::extremum::max;
                /// As `max`.
                max_all = $crate::extremum::max;
                /// The smallest of all elements, rank 0.
                min = $crate::extremum::min;
                /// As `min`.
                min_all = $crate::extremum::min;
            }
            binary {}
            other {
                /// The largest over one dimension, which goes.
                max_dim(dim: impl $crate::Dim) -> TrackedTensor = $crate::extremum::max_dim;
                /// The largest over dimensions, which stay with extent 1.
                max_keepdim(dims: impl $crate::Numbers) -> TrackedTensor = $crate::extremum::max_keepdim;
                /// The largest over dimensions.
                amax(dims: impl $crate::Numbers, keepdim: bool) -> TrackedTensor = $crate::extremum::amax;
                /// The smallest over one dimension, which goes.
                min_dim(dim: impl $crate::Dim) -> TrackedTensor = $crate::extremum::min_dim;
                /// The smallest over dimensions, which stay with extent 1.
                min_keepdim(dims: impl $crate::Numbers) -> TrackedTensor = $crate::extremum::min_keepdim;
                /// The smallest over dimensions.
                amin(dims: impl $crate::Numbers, keepdim: bool) -> TrackedTensor = $crate::extremum::amin;
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use autograd_core::Shape;
    use autograd_tape::GradientTape;

    #[test]
    fn ties_share_the_cotangent_evenly() -> Result<()> {
        for (f, want) in [
            (max as fn(&TrackedTensor) -> Result<TrackedTensor>, [1. / 3., 0., 1. / 3., 0., 1. / 3., 0.]),
            (min, [0., 1. / 3., 0., 1. / 3., 0., 1. / 3.]),
        ] {
            let tape = GradientTape::new();
            let x = tape.variable(TrackedTensor::from_vec(vec![1f64, 0., 1., 0., 1., 0.], &[6])?);
            assert_eq!(tape.derivative(&f(&x)?, &x)?.to_vec1::<f64>()?, want);
        }
        Ok(())
    }

    #[test]
    fn nothing_has_no_largest_element() -> Result<()> {
        let x = TrackedTensor::from_vec(Vec::<f64>::new(), &[2, 0])?;
        assert!(matches!(max(&x), Err(Error::Shape { op: "max", .. })));
        assert!(max_dim(&x, 1).is_err());
        assert_eq!(max_dim(&x, 0)?.dims(), [0]);
        Ok(())
    }

    #[test]
    fn infinities_decompose_without_nan() -> Result<()> {
        let x = TrackedTensor::from_vec(vec![f64::INFINITY, 1., f64::NEG_INFINITY], &[3])?;
        let op = Extremum { max: true, over: Over::all(&x) };
        let parts = op.decompose(&[&x])?.ok_or_else(|| Error::msg("no decomposition"))?;
        assert_eq!(parts[0].to_vec0::<f64>()?, f64::INFINITY);
        assert_eq!(*parts[0].shape(), Shape::SCALAR);
        Ok(())
    }
}
