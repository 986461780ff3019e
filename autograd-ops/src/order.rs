//! Elements chosen by comparing: extrema with their indices, sorting. The chosen element has the
//! cotangent alone, also among equals.

use crate::index::{gather, scattered};
use crate::numbers::{Dim, dimension, with_extent};
use crate::registry::{Case, Family, Op, Sample};
use crate::saved::has;
use autograd_core::device::KernelCall;
use autograd_core::kernels::{reduce::arg_reduce, sort::sort as sort_kernel};
use autograd_core::smallvec::{SmallVec, smallvec};
use autograd_core::{
    Error, General, Grads, Mask, Meta, Prim, Primitive, Residual, Residuals, Result, Rule, Saved, Signature,
    SliceMut, TrackedTensor, Values, View, algebra, apply,
};
use candle_core::DType;
use std::sync::Arc;

/// What is chosen along a dimension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Choice {
    /// The largest, or the smallest.
    Extremum { max: bool },
    /// The first `count` in an order.
    Sorted { descending: bool, count: usize },
}

/// Outputs: the chosen elements, and their indices (U32) along `dim`; its extent is their number.
#[derive(Clone, Copy, Debug)]
struct Pick {
    choice: Choice,
    dim: usize,
}

/// The same without a derivative.
#[derive(Clone, Copy, Debug)]
struct FlatPick(Pick);

impl Pick {
    fn op(self) -> &'static str {
        match self.choice {
            Choice::Extremum { max: true } => "max_with_indices",
            Choice::Extremum { max: false } => "min_with_indices",
            Choice::Sorted { .. } => "sort",
        }
    }

    fn signature(self, x: &Meta) -> Result<Signature> {
        let extent = x.shape.dims()[self.dim];
        let count = match self.choice {
            Choice::Extremum { .. } => 1,
            Choice::Sorted { count, .. } => count,
        };
        let shape = with_extent(&x.shape, self.dim, count);
        if count > extent && shape.elements() > 0 {
            let reason = format!("{count} elements asked for along dimension {}", self.dim);
            return Err(Error::shape(self.op(), &[x.shape], reason));
        }
        if u32::try_from(extent).is_err() {
            return Err(Error::shape(self.op(), &[x.shape], "the extent is too large for u32 indices"));
        }
        let values = x.with_shape(shape);
        let outputs = smallvec![values, values.with_dtype(DType::U32)];
        Ok(Signature { outputs, aux: SmallVec::new() })
    }

    fn evaluate(self, inputs: &[View<'_>], outputs: &mut [SliceMut<'_>]) -> Result<()> {
        let [values, indices] = outputs else { return Err(Error::internal(self.op(), "two outputs")) };
        if values.is_empty() {
            return Ok(());
        }
        let (x, values, indices) = (inputs[0], values.reborrow(), indices.reborrow());
        match self.choice {
            Choice::Extremum { max } => arg_reduce(max, x, self.dim, values, indices),
            Choice::Sorted { descending, .. } => sort_kernel(descending, x, self.dim, values, indices),
        }
        Ok(())
    }

    fn call(self) -> KernelCall {
        let dim = self.dim as i64;
        match self.choice {
            Choice::Extremum { max } => KernelCall::new("arg_extremum", &[i64::from(max), dim], &[]),
            Choice::Sorted { descending, .. } => KernelCall::new("sort", &[dim, i64::from(descending)], &[]),
        }
    }

    fn batched(self) -> Self {
        Self { dim: self.dim + 1, ..self }
    }
}

crate::saved::datum! {
    enum Choice { 0 => Extremum { max }, 1 => Sorted { descending, count } }
}

crate::saved::stored! {
    "order" => Pick { choice, dim }, |op, x| op.fits(x);
    "flat_order" => FlatPick { 0 }, |op, x| op.0.fits(x);
}

impl Pick {
    fn fits(&self, x: &[Meta]) -> bool {
        has(x, 1, [self.dim])
            && match self.choice {
                Choice::Extremum { .. } => true,
                Choice::Sorted { count, .. } => count <= x[0].shape.dims()[self.dim],
            }
    }
}

impl Primitive for Pick {
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
        self.evaluate(inputs, outputs)
    }
    fn kernel(&self) -> Option<KernelCall> {
        Some(self.call())
    }
    fn rule(&self) -> Rule<'_> {
        Rule::General(self)
    }
    fn batch(&self, _: Mask, inputs: &[&TrackedTensor], _: usize) -> Result<Option<Values>> {
        Ok(Some(apply(&self.batched(), inputs)?))
    }
    // x gathered at the indices.
    fn decompose(&self, inputs: &[&TrackedTensor]) -> Result<Option<Values>> {
        let indices = indices_of(*self, inputs[0])?;
        let values = gather(inputs[0], &indices, self.dim as isize)?;
        Ok(Some(smallvec![values, indices]))
    }
}

impl General for Pick {
    fn residuals(&self, _: Mask) -> Residuals {
        smallvec![Residual::Output(1)]
    }

    // dx = zeros with ct added at the indices.
    fn vjp(&self, _: Mask, cts: &[Option<TrackedTensor>], saved: &Saved<'_>) -> Result<Grads> {
        let Some(ct) = &cts[0] else { return Ok(smallvec![None]) };
        Ok(smallvec![Some(scattered(ct, saved.output(1)?, self.dim, &saved.inputs[0].shape)?)])
    }

    // dy = dx gathered at the indices.
    fn jvp(
        &self,
        _: &[&TrackedTensor],
        outputs: &[TrackedTensor],
        tangents: &[Option<TrackedTensor>],
    ) -> Result<Option<SmallVec<[Option<TrackedTensor>; 2]>>> {
        let Some(dx) = &tangents[0] else { return Ok(Some(smallvec![None, None])) };
        Ok(Some(smallvec![Some(gather(dx, &outputs[1], self.dim as isize)?), None]))
    }
}

impl Primitive for FlatPick {
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
        self.0.evaluate(inputs, outputs)
    }
    crate::elsewhere::on_host!();
    fn kernel(&self) -> Option<KernelCall> {
        Some(self.0.call())
    }
    fn rule(&self) -> Rule<'_> {
        Rule::Flat
    }
    fn batch(&self, _: Mask, inputs: &[&TrackedTensor], _: usize) -> Result<Option<Values>> {
        Ok(Some(apply(&Self(self.0.batched()), inputs)?))
    }
}

/// The indices of the chosen elements, flat.
#[track_caller]
fn indices_of(pick: Pick, x: &TrackedTensor) -> Result<TrackedTensor> {
    let indices = apply(&FlatPick(pick), &[x])?.into_iter().nth(1);
    indices.ok_or_else(|| Error::internal(pick.op(), "two outputs"))
}

/// The chosen elements and their indices.
#[track_caller]
fn picked(pick: Pick, x: &TrackedTensor) -> Result<(TrackedTensor, TrackedTensor)> {
    let mut outputs = apply(&pick, &[x])?.into_iter();
    match (outputs.next(), outputs.next()) {
        (Some(values), Some(indices)) => Ok((values, indices)),
        _ => Err(Error::internal(pick.op(), "two outputs")),
    }
}

#[track_caller]
fn squeezed(x: &TrackedTensor, dim: usize) -> Result<TrackedTensor> {
    let mut shape = autograd_core::Shape::SCALAR;
    for (_, &extent) in x.dims().iter().enumerate().filter(|(d, _)| *d != dim) {
        shape = shape.push(extent).unwrap_or(shape);
    }
    algebra::reshape(x, &shape)
}

macro_rules! extremum {
    ($max:literal, $word:literal, $with_indices:ident, $arg:ident, $arg_keepdim:ident) => {
        #[doc = concat!("The ", $word, " along one dimension, which goes, and the index (U32) of each.")]
        ///
        /// Of equal ones the first is chosen and has the cotangent alone; NaN wins over all.
        ///
        /// # Errors
        /// A dimension that x does not have, or of extent 0.
        #[track_caller]
        pub fn $with_indices(x: &TrackedTensor, dim: impl Dim) -> Result<(TrackedTensor, TrackedTensor)> {
            let dim = dimension(stringify!($with_indices), dim, x)?;
            let (values, indices) = picked(Pick { choice: Choice::Extremum { max: $max }, dim }, x)?;
            Ok((squeezed(&values, dim)?, squeezed(&indices, dim)?))
        }

        #[doc = concat!("The index (U32) of the ", $word, " along one dimension, which goes. Flat.")]
        ///
        /// # Errors
        /// A dimension that x does not have, or of extent 0.
        #[track_caller]
        pub fn $arg(x: &TrackedTensor, dim: impl Dim) -> Result<TrackedTensor> {
            let dim = dimension(stringify!($arg), dim, x)?;
            squeezed(&indices_of(Pick { choice: Choice::Extremum { max: $max }, dim }, x)?, dim)
        }

        #[doc = concat!("The index (U32) of the ", $word, " along one dimension, which stays with extent 1. Flat.")]
        ///
        /// # Errors
        /// A dimension that x does not have, or of extent 0.
        #[track_caller]
        pub fn $arg_keepdim(x: &TrackedTensor, dim: impl Dim) -> Result<TrackedTensor> {
            let dim = dimension(stringify!($arg_keepdim), dim, x)?;
            indices_of(Pick { choice: Choice::Extremum { max: $max }, dim }, x)
        }
    };
}

extremum!(true, "largest", max_with_indices, argmax, argmax_keepdim);
extremum!(false, "smallest", min_with_indices, argmin, argmin_keepdim);

#[track_caller]
fn sorted(
    op: &'static str,
    x: &TrackedTensor,
    dim: impl Dim,
    descending: bool,
    count: Option<usize>,
) -> Result<Pick> {
    let dim = dimension(op, dim, x)?;
    let count = count.unwrap_or(x.dims()[dim]);
    Ok(Pick { choice: Choice::Sorted { descending, count }, dim })
}

/// The elements along `dim` in order, and the index (U32) of each. Equal ones keep their order;
/// NaN counts as the largest.
///
/// # Errors
/// A dimension that x does not have.
#[track_caller]
pub fn sort(x: &TrackedTensor, dim: impl Dim, descending: bool) -> Result<(TrackedTensor, TrackedTensor)> {
    picked(sorted("sort", x, dim, descending, None)?, x)
}

/// The indices (U32) that sort x along `dim`. Flat.
///
/// # Errors
/// A dimension that x does not have.
#[track_caller]
pub fn argsort(x: &TrackedTensor, dim: impl Dim, descending: bool) -> Result<TrackedTensor> {
    indices_of(sorted("argsort", x, dim, descending, None)?, x)
}

/// The elements along the last dimension in order, and their indices: candle's name and order flag.
///
/// # Errors
/// A value without dimensions.
#[track_caller]
pub fn sort_last_dim(x: &TrackedTensor, ascending: bool) -> Result<(TrackedTensor, TrackedTensor)> {
    sort(x, -1, !ascending)
}

/// The indices that sort the last dimension: candle's name and order flag.
///
/// # Errors
/// A value without dimensions.
#[track_caller]
pub fn arg_sort_last_dim(x: &TrackedTensor, ascending: bool) -> Result<TrackedTensor> {
    argsort(x, -1, !ascending)
}

/// The `count` largest (or smallest) elements along `dim`, best first, and the index (U32) of each.
///
/// # Errors
/// A dimension that x does not have, or with fewer elements.
#[track_caller]
pub fn topk(
    x: &TrackedTensor,
    count: usize,
    dim: impl Dim,
    largest: bool,
) -> Result<(TrackedTensor, TrackedTensor)> {
    picked(sorted("topk", x, dim, largest, Some(count))?, x)
}

/// The ops of this file.
pub fn ops() -> Vec<Op> {
    let op = |name, formula, cases| Op { name, family: Family::Reduction, formula, cases };
    type Pair = Result<(TrackedTensor, TrackedTensor)>;
    fn both(
        label: &str,
        sample: Sample,
        run: impl Fn(&TrackedTensor) -> Pair + Send + Sync + 'static,
    ) -> Case {
        Case::many(label, vec![sample], move |x| run(&x[0]).map(|(values, indices)| vec![values, indices]))
    }
    fn flat(
        label: &str,
        dims: &[usize],
        run: impl Fn(&TrackedTensor) -> Result<TrackedTensor> + Send + Sync + 'static,
    ) -> Case {
        Case::new(label, vec![Sample::distinct(dims)], move |x| run(&x[0])).at_a_kink()
    }
    fn ties() -> Sample {
        Sample::Exact { dims: vec![2, 3], values: vec![1., 0., 1., 2., 2., 2.] }
    }
    fn extremum(run: fn(&TrackedTensor, isize) -> Pair) -> Vec<Case> {
        vec![
            both("the last dimension", Sample::distinct(&[2, 3]), move |x| run(x, -1)),
            both("an inner dimension", Sample::distinct(&[2, 3, 2]), move |x| run(x, 1)),
            both("extent 1", Sample::distinct(&[2, 1]), move |x| run(x, 1)),
            both("nothing left over", Sample::distinct(&[0, 3]), move |x| run(x, 1)),
            both("ties", ties(), move |x| run(x, 1)).at_a_kink(),
        ]
    }
    vec![
        op("max_with_indices", "the largest and its index; the chosen one has the cotangent", || {
            extremum(max_with_indices)
        }),
        op("min_with_indices", "the smallest and its index; the chosen one has the cotangent", || {
            extremum(min_with_indices)
        }),
        op("argmax", "the index of the largest (flat)", || vec![flat("rows", &[2, 3], |x| argmax(x, 1))]),
        op("argmin", "the index of the smallest (flat)", || {
            vec![flat("columns", &[2, 3], |x| argmin(x, 0)), flat("kept", &[2, 3], |x| argmin_keepdim(x, 0))]
        }),
        op("sort", "the elements in order, and their indices", || {
            vec![
                both("ascending rows", Sample::distinct(&[2, 4]), |x| sort(x, -1, false)),
                both("descending columns", Sample::distinct(&[3, 2]), |x| sort(x, 0, true)),
                both("ties", ties(), |x| sort(x, 1, true)).at_a_kink(),
            ]
        }),
        op("argsort", "the indices that sort (flat)", || {
            vec![flat("rows", &[2, 4], |x| argsort(x, 1, false))]
        }),
        op("topk", "the largest or smallest elements in order, and their indices", || {
            vec![
                both("two of four", Sample::distinct(&[2, 4]), |x| topk(x, 2, -1, true)),
                both("the smallest", Sample::distinct(&[4, 2]), |x| topk(x, 1, 0, false)),
                both("none", Sample::distinct(&[2, 3]), |x| topk(x, 0, 1, true)),
            ]
        }),
    ]
}

/// The methods of this file.
#[macro_export]
#[doc(hidden)]
macro_rules! order_methods {
    ($($callback:tt)*) => {
        $($callback)* {
            unary {}
            binary {}
            other {
                /// The largest along one dimension, which goes, and the index of each.
                max_with_indices(dim: impl $crate::Dim) -> (TrackedTensor, TrackedTensor) = $crate::order::max_with_indices;
                /// The smallest along one dimension, which goes, and the index of each.
                min_with_indices(dim: impl $crate::Dim) -> (TrackedTensor, TrackedTensor) = $crate::order::min_with_indices;
                /// The index of the largest along one dimension, which goes.
                argmax(dim: impl $crate::Dim) -> TrackedTensor = $crate::order::argmax;
                /// The index of the largest along one dimension, which stays.
                argmax_keepdim(dim: impl $crate::Dim) -> TrackedTensor = $crate::order::argmax_keepdim;
                /// The index of the smallest along one dimension, which goes.
                argmin(dim: impl $crate::Dim) -> TrackedTensor = $crate::order::argmin;
                /// The index of the smallest along one dimension, which stays.
                argmin_keepdim(dim: impl $crate::Dim) -> TrackedTensor = $crate::order::argmin_keepdim;
                /// The elements along one dimension in order, and the index of each.
                sort(dim: impl $crate::Dim, descending: bool) -> (TrackedTensor, TrackedTensor) = $crate::order::sort;
                /// The indices that sort along one dimension.
                argsort(dim: impl $crate::Dim, descending: bool) -> TrackedTensor = $crate::order::argsort;
                /// The elements along the last dimension in order, and the index of each.
                sort_last_dim(ascending: bool) -> (TrackedTensor, TrackedTensor) = $crate::order::sort_last_dim;
                /// The indices that sort along the last dimension.
                arg_sort_last_dim(ascending: bool) -> TrackedTensor = $crate::order::arg_sort_last_dim;
                /// The largest (or smallest) elements along one dimension, and the index of each.
                topk(count: usize, dim: impl $crate::Dim, largest: bool) -> (TrackedTensor, TrackedTensor) = $crate::order::topk;
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use autograd_tape::GradientTape;

    #[test]
    fn of_equal_ones_the_first_has_the_cotangent() -> Result<()> {
        let tape = GradientTape::new();
        let x = tape.variable(TrackedTensor::from_vec(vec![1f64, 3., 3., 2., 2., 0.], &[2, 3])?);
        let (values, indices) = max_with_indices(&x, 1)?;
        assert_eq!(values.to_vec1::<f64>()?, [3., 2.]);
        assert_eq!(indices.to_vec1::<u32>()?, [1, 0]);
        let y = crate::reduce::sum(&values)?;
        assert_eq!(tape.derivative(&y, &x)?.to_flat::<f64>()?, [0., 1., 0., 1., 0., 0.]);
        Ok(())
    }

    #[test]
    fn the_gradient_of_a_sort_is_the_inverse_permutation() -> Result<()> {
        let tape = GradientTape::new();
        let x = tape.variable(TrackedTensor::from_vec(vec![3f64, 1., 2.], &[3])?);
        let (values, indices) = sort(&x, 0, false)?;
        assert_eq!((values.to_vec1::<f64>()?, indices.to_vec1::<u32>()?), (vec![1., 2., 3.], vec![1, 2, 0]));
        let seed = TrackedTensor::from_vec(vec![10f64, 20., 30.], &[3])?;
        assert_eq!(tape.gradient_with(&[&values], &[&seed], &[&x])?[0].to_vec1::<f64>()?, [30., 10., 20.]);
        Ok(())
    }

    #[test]
    fn too_many_is_a_typed_error() -> Result<()> {
        let x = TrackedTensor::from_vec(vec![3f64, 1.], &[2])?;
        assert!(matches!(topk(&x, 3, 0, true), Err(Error::Shape { .. })));
        assert!(argmax(&TrackedTensor::from_vec(Vec::<f32>::new(), &[0])?, 0).is_err());
        Ok(())
    }
}
