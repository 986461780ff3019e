//! Reading and writing at indices. Indices are u8, u32 or i64 values that count from the front;
//! one out of range is an error when it is met. The order of arguments is candle's.

use crate::elsewhere;
use crate::numbers::{Dim, dimension, sound, with_batch, with_extent};
use crate::registry::{Case, Family, Op, Sample};
use crate::saved::has;
use autograd_core::algebra::{self, broadcast_to, fill, reshape};
use autograd_core::device::{KernelCall, Tensors};
use autograd_core::kernels::{copy, index as kernel};
use autograd_core::smallvec::{SmallVec, smallvec};
use autograd_core::{
    At, Error, Grads, Mask, Meta, Prim, Primitive, Result, Rule, Saved, Shape, Signature, Site, SliceMut,
    TrackedTensor, Transpose, Values, View, apply_one, checked_shape,
};
use candle_core::DType;
use std::sync::Arc;

/// out[.., j, ..] = x[.., indices[j], ..]; inputs x, indices.
#[derive(Clone, Copy, Debug)]
struct IndexSelect {
    dim: usize,
}

/// x with src[.., j, ..] added at [.., indices[j], ..]; inputs x, indices, src.
#[derive(Clone, Copy, Debug)]
pub(crate) struct IndexAdd {
    pub(crate) dim: usize,
}

/// out[p] = x[p with its coordinate along `dim` replaced by indices[p]]; inputs x, indices.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Gather {
    pub(crate) dim: usize,
}

/// x with src[p] added where [`Gather`] would read for p; inputs x, indices, src.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ScatterAdd {
    pub(crate) dim: usize,
}

/// Slices of x along `dim`, in the order of the indices (rank 1): x.dims with their number in place
/// of that extent.
///
/// # Errors
/// A dimension that x does not have; indices of another rank or type, or out of range.
#[track_caller]
pub fn index_select(
    x: &TrackedTensor,
    indices: impl Into<TrackedTensor>,
    dim: impl Dim,
) -> Result<TrackedTensor> {
    apply_one(&IndexSelect { dim: dimension("index_select", dim, x)? }, &[x, &indices.into()])
}

/// Rows of the table x [n, ..] at indices of any shape: indices.dims, then the other dims of x.
///
/// # Errors
/// A table without dimensions; indices of a type that is none, or out of range.
#[track_caller]
pub fn embedding(x: &TrackedTensor, indices: impl Into<TrackedTensor>) -> Result<TrackedTensor> {
    let indices: TrackedTensor = indices.into();
    dimension("embedding", 0, x)?;
    sound(&indices)?;
    let flat = reshape(&indices, &checked_shape("embedding", &[indices.elem_count()])?)?;
    let rows = apply_one(&IndexSelect { dim: 0 }, &[x, &flat])?;
    let mut dims: SmallVec<[usize; 8]> = SmallVec::from_slice(indices.dims());
    dims.extend_from_slice(&x.dims()[1..]);
    reshape(&rows, &checked_shape("embedding", &dims).map_err(|e| e.or_at(Site::caller()))?)
}

/// x with the slices of `src` along `dim` added at the indices (rank 1); equal indices add up.
///
/// # Errors
/// A dimension that x does not have; shapes or types that do not fit; indices out of range.
#[track_caller]
pub fn index_add(
    x: &TrackedTensor,
    indices: impl Into<TrackedTensor>,
    src: impl Into<TrackedTensor>,
    dim: impl Dim,
) -> Result<TrackedTensor> {
    apply_one(&IndexAdd { dim: dimension("index_add", dim, x)? }, &[x, &indices.into(), &src.into()])
}

/// The element of x at each index along `dim`: `out[i][j] = x[indices[i][j]][j]` for dim 0. The
/// indices have x's rank, and may be smaller than x along the other dimensions.
///
/// # Errors
/// A dimension that x does not have; indices that do not fit, or out of range.
#[track_caller]
pub fn gather(x: &TrackedTensor, indices: impl Into<TrackedTensor>, dim: impl Dim) -> Result<TrackedTensor> {
    apply_one(&Gather { dim: dimension("gather", dim, x)? }, &[x, &indices.into()])
}

/// x with the elements of `src` added where [`gather`] would read them; equal indices add up.
///
/// # Errors
/// A dimension that x does not have; shapes or types that do not fit; indices out of range.
#[track_caller]
pub fn scatter_add(
    x: &TrackedTensor,
    indices: impl Into<TrackedTensor>,
    src: impl Into<TrackedTensor>,
    dim: impl Dim,
) -> Result<TrackedTensor> {
    apply_one(&ScatterAdd { dim: dimension("scatter_add", dim, x)? }, &[x, &indices.into(), &src.into()])
}

/// The transpose of [`gather`]: zeros of `shape` with `src` added at the indices.
#[track_caller]
pub(crate) fn scattered(
    src: &TrackedTensor,
    indices: &TrackedTensor,
    dim: usize,
    shape: &Shape,
) -> Result<TrackedTensor> {
    let zeros = fill(0.0, &src.meta().with_shape(*shape), src)?;
    apply_one(&ScatterAdd { dim }, &[&zeros, indices, src])
}

/// The transpose of [`index_select`]: zeros of `shape` with the slices of `src` added.
#[track_caller]
pub(crate) fn index_added(
    src: &TrackedTensor,
    indices: &TrackedTensor,
    dim: usize,
    shape: &Shape,
) -> Result<TrackedTensor> {
    let zeros = fill(0.0, &src.meta().with_shape(*shape), src)?;
    apply_one(&IndexAdd { dim }, &[&zeros, indices, src])
}

fn check_type(op: &'static str, indices: &Meta) -> Result<()> {
    match indices.dtype {
        DType::U8 | DType::U32 | DType::I64 => Ok(()),
        other => Err(Error::dtype(op, other, "indices are u8, u32 or i64")),
    }
}

fn check_same(op: &'static str, x: &Meta, src: &Meta) -> Result<()> {
    if x.dtype == src.dtype {
        return Ok(());
    }
    Err(Error::DTypeMismatch { op, dtypes: vec![x.dtype, src.dtype], at: At::default() })
}

pub(crate) fn check_range(op: &'static str, indices: View<'_>, bound: usize) -> Result<()> {
    kernel::check_indices(indices, bound).map_err(|(position, value)| {
        Error::argument(op, format!("index {value} (number {position}) is not in 0 .. {bound}"))
    })
}

/// The shape of one slice for each index.
fn selected(op: &'static str, x: &Shape, indices: &Shape, dim: usize) -> Result<Shape> {
    match (indices.dims(), dim < x.rank()) {
        (&[count], true) => Ok(with_extent(x, dim, count)),
        _ => {
            let reason = format!("the indices need one dimension, and the first dimension {dim}");
            Err(Error::shape(op, &[*x, *indices], reason))
        }
    }
}

fn check_gather(op: &'static str, x: &Shape, indices: &Shape, dim: usize) -> Result<()> {
    let fits = x.rank() == indices.rank()
        && dim < x.rank()
        && x.dims().iter().zip(indices.dims()).enumerate().all(|(d, (x, i))| d == dim || i <= x);
    if fits {
        return Ok(());
    }
    let reason =
        format!("the indices need x's rank, and extents that are not larger except along dimension {dim}");
    Err(Error::shape(op, &[*x, *indices], reason))
}

/// Indices of rank 1, one list for each element of the batch, as [`gather`] takes them for a
/// result of `shape`.
fn spread(indices: &TrackedTensor, dim: usize, shape: &Shape) -> Result<TrackedTensor> {
    let mut dims: SmallVec<[usize; 8]> = smallvec![1; shape.rank()];
    dims[0] = indices.dims()[0];
    dims[dim] = indices.dims()[1];
    broadcast_to(&reshape(indices, &checked_shape("index_select", &dims)?)?, shape)
}

pub(crate) fn all_batched(
    batched: Mask,
    inputs: &[&TrackedTensor],
    size: usize,
) -> Result<SmallVec<[TrackedTensor; 3]>> {
    inputs.iter().enumerate().map(|(i, x)| with_batch(x, batched.has(i), size)).collect()
}

macro_rules! common {
    ($name:literal, $linear:expr) => {
        fn name(&self) -> &'static str {
            $name
        }
        fn keep(&self) -> Prim {
            Prim::Shared(Arc::new(*self))
        }
        fn rule(&self) -> Rule<'_> {
            Rule::Linear($linear, self)
        }
    };
}

const X: Mask = Mask::one(0);
pub(crate) const X_AND_SRC: Mask = Mask::one(0).with(2);

crate::saved::stored! {
    "index_select" => IndexSelect { dim }, |op, x| has(x, 2, [op.dim]);
    "index_add" => IndexAdd { dim }, |op, x| has(x, 3, [op.dim]);
    "gather" => Gather { dim }, |op, x| has(x, 2, [op.dim]);
    "scatter_add" => ScatterAdd { dim }, |op, x| has(x, 3, [op.dim]);
}

impl Primitive for IndexSelect {
    crate::saved::by_tag!();
    common!("index_select", X);
    fn infer(&self, inputs: &[Meta]) -> Result<Signature> {
        check_type("index_select", &inputs[1])?;
        let shape = selected("index_select", &inputs[0].shape, &inputs[1].shape, self.dim)?;
        Ok(Signature::one(inputs[0].with_shape(shape)))
    }
    fn eval_into(&self, inputs: &[View<'_>], outputs: &mut [SliceMut<'_>]) -> Result<()> {
        check_range("index_select", inputs[1], inputs[0].layout.dims()[self.dim])?;
        kernel::index_select(inputs[0], self.dim, inputs[1], outputs[0].reborrow());
        Ok(())
    }
    fn batch(&self, batched: Mask, inputs: &[&TrackedTensor], size: usize) -> Result<Option<Values>> {
        let (x, indices) = (inputs[0], inputs[1]);
        let dim = self.dim + 1;
        Ok(Some(smallvec![if !batched.has(1) {
            apply_one(&Self { dim }, &[x, indices])?
        } else if batched.has(0) {
            let shape = with_extent(x.shape(), dim, indices.dims()[1]);
            apply_one(&Gather { dim }, &[x, &spread(indices, dim, &shape)?])?
        } else {
            // One long list, cut into the batch's lists afterwards.
            let count = indices.dims()[1];
            let flat = reshape(indices, &checked_shape("index_select", &[size * count])?)?;
            let long = apply_one(self, &[x, &flat])?;
            let mut dims: SmallVec<[usize; 8]> = SmallVec::from_slice(x.dims());
            dims[self.dim] = count;
            dims.insert(self.dim, size);
            let cut = reshape(&long, &checked_shape("index_select", &dims)?)?;
            let others = (0..dims.len()).filter(|&d| d != self.dim);
            let order: SmallVec<[usize; 8]> = std::iter::once(self.dim).chain(others).collect();
            algebra::permute(&cut, &order)?
        }]))
    }
    fn kernel(&self) -> Option<KernelCall> {
        Some(KernelCall::new("index_select", &[self.dim as i64], &[]))
    }
    fn eval_candle(&self, inputs: &[autograd_core::Tensor]) -> Result<Option<Tensors>> {
        let at = elsewhere::indices("index_select", &inputs[1], inputs[0].dims()[self.dim])?;
        elsewhere::one(inputs[0].contiguous()?.index_select(&at, self.dim)?)
    }
}

impl Transpose for IndexSelect {
    fn transpose(&self, _: Mask, cts: &[Option<TrackedTensor>], saved: &Saved<'_>) -> Result<Grads> {
        let Some(ct) = &cts[0] else { return Ok(smallvec![None, None]) };
        let dx = index_added(ct, saved.input(1)?, self.dim, &saved.inputs[0].shape)?;
        Ok(smallvec![Some(dx), None])
    }
}

impl Primitive for IndexAdd {
    crate::saved::by_tag!();
    common!("index_add", X_AND_SRC);
    fn infer(&self, inputs: &[Meta]) -> Result<Signature> {
        let [x, indices, src] = inputs else { return Err(Error::internal("index_add", "three inputs")) };
        check_type("index_add", indices)?;
        check_same("index_add", x, src)?;
        if selected("index_add", &x.shape, &indices.shape, self.dim)? != src.shape {
            let reason = "the third needs one slice of the first for each index";
            return Err(Error::shape("index_add", &[x.shape, indices.shape, src.shape], reason));
        }
        Ok(Signature::one(*x))
    }
    fn eval_into(&self, inputs: &[View<'_>], outputs: &mut [SliceMut<'_>]) -> Result<()> {
        let shape = inputs[0].layout.shape();
        check_range("index_add", inputs[1], shape.dims()[self.dim])?;
        copy::copy(inputs[0], outputs[0].reborrow());
        kernel::index_add(outputs[0].reborrow(), shape, self.dim, inputs[1], inputs[2]);
        Ok(())
    }
    fn eval_over(&self, x: SliceMut<'_>, shape: &Shape, rest: &[View<'_>]) -> Result<bool> {
        check_range("index_add", rest[0], shape.dims()[self.dim])?;
        kernel::index_add(x, shape, self.dim, rest[0], rest[1]);
        Ok(true)
    }
    fn batch(&self, batched: Mask, inputs: &[&TrackedTensor], size: usize) -> Result<Option<Values>> {
        let dim = self.dim + 1;
        let x = with_batch(inputs[0], batched.has(0), size)?;
        let src = with_batch(inputs[2], batched.has(2), size)?;
        Ok(Some(smallvec![if batched.has(1) {
            let indices = spread(inputs[1], dim, src.shape())?;
            apply_one(&ScatterAdd { dim }, &[&x, &indices, &src])?
        } else {
            apply_one(&Self { dim }, &[&x, inputs[1], &src])?
        }]))
    }
    fn kernel(&self) -> Option<KernelCall> {
        Some(KernelCall::new("index_add", &[self.dim as i64], &[]))
    }
    fn eval_candle(&self, inputs: &[autograd_core::Tensor]) -> Result<Option<Tensors>> {
        let at = elsewhere::indices("index_add", &inputs[1], inputs[0].dims()[self.dim])?;
        elsewhere::one(inputs[0].contiguous()?.index_add(&at, &inputs[2].contiguous()?, self.dim)?)
    }
}

impl Transpose for IndexAdd {
    // dx = ct, dsrc = the slices of ct at the indices.
    fn transpose(&self, wanted: Mask, cts: &[Option<TrackedTensor>], saved: &Saved<'_>) -> Result<Grads> {
        let Some(ct) = &cts[0] else { return Ok(smallvec![None, None, None]) };
        let src = |ct| apply_one(&IndexSelect { dim: self.dim }, &[ct, saved.input(1)?]);
        let dsrc = wanted.has(2).then(|| src(ct)).transpose()?;
        Ok(smallvec![wanted.has(0).then(|| ct.clone()), None, dsrc])
    }
}

impl Primitive for Gather {
    crate::saved::by_tag!();
    common!("gather", X);
    fn infer(&self, inputs: &[Meta]) -> Result<Signature> {
        check_type("gather", &inputs[1])?;
        check_gather("gather", &inputs[0].shape, &inputs[1].shape, self.dim)?;
        Ok(Signature::one(inputs[0].with_shape(inputs[1].shape)))
    }
    fn eval_into(&self, inputs: &[View<'_>], outputs: &mut [SliceMut<'_>]) -> Result<()> {
        check_range("gather", inputs[1], inputs[0].layout.dims()[self.dim])?;
        kernel::gather(inputs[0], self.dim, inputs[1], outputs[0].reborrow());
        Ok(())
    }
    fn batch(&self, batched: Mask, inputs: &[&TrackedTensor], size: usize) -> Result<Option<Values>> {
        let all = all_batched(batched, inputs, size)?;
        Ok(Some(smallvec![apply_one(&Self { dim: self.dim + 1 }, &[&all[0], &all[1]])?]))
    }
    fn kernel(&self) -> Option<KernelCall> {
        Some(KernelCall::new("gather", &[self.dim as i64], &[]))
    }
    fn eval_candle(&self, inputs: &[autograd_core::Tensor]) -> Result<Option<Tensors>> {
        let at = elsewhere::indices("gather", &inputs[1], inputs[0].dims()[self.dim])?;
        elsewhere::one(inputs[0].contiguous()?.gather(&at, self.dim)?)
    }
}

impl Transpose for Gather {
    fn transpose(&self, _: Mask, cts: &[Option<TrackedTensor>], saved: &Saved<'_>) -> Result<Grads> {
        let Some(ct) = &cts[0] else { return Ok(smallvec![None, None]) };
        let dx = scattered(ct, saved.input(1)?, self.dim, &saved.inputs[0].shape)?;
        Ok(smallvec![Some(dx), None])
    }
}

pub(crate) fn infer_scatter(op: &'static str, dim: usize, inputs: &[Meta]) -> Result<Signature> {
    let [x, indices, src] = inputs else { return Err(Error::internal(op, "three inputs")) };
    check_type(op, indices)?;
    check_same(op, x, src)?;
    check_gather(op, &x.shape, &indices.shape, dim)?;
    if indices.shape != src.shape {
        let reason = "indices and source need one shape";
        return Err(Error::shape(op, &[x.shape, indices.shape, src.shape], reason));
    }
    Ok(Signature::one(*x))
}

impl Primitive for ScatterAdd {
    crate::saved::by_tag!();
    common!("scatter_add", X_AND_SRC);
    fn infer(&self, inputs: &[Meta]) -> Result<Signature> {
        infer_scatter("scatter_add", self.dim, inputs)
    }
    fn eval_into(&self, inputs: &[View<'_>], outputs: &mut [SliceMut<'_>]) -> Result<()> {
        let shape = inputs[0].layout.shape();
        check_range("scatter_add", inputs[1], shape.dims()[self.dim])?;
        copy::copy(inputs[0], outputs[0].reborrow());
        kernel::scatter_add(outputs[0].reborrow(), shape, self.dim, inputs[1], inputs[2]);
        Ok(())
    }
    fn eval_over(&self, x: SliceMut<'_>, shape: &Shape, rest: &[View<'_>]) -> Result<bool> {
        check_range("scatter_add", rest[0], shape.dims()[self.dim])?;
        kernel::scatter_add(x, shape, self.dim, rest[0], rest[1]);
        Ok(true)
    }
    fn batch(&self, batched: Mask, inputs: &[&TrackedTensor], size: usize) -> Result<Option<Values>> {
        let all = all_batched(batched, inputs, size)?;
        Ok(Some(smallvec![apply_one(&Self { dim: self.dim + 1 }, &[&all[0], &all[1], &all[2]])?]))
    }
    fn kernel(&self) -> Option<KernelCall> {
        Some(KernelCall::new("scatter_add", &[self.dim as i64], &[]))
    }
    fn eval_candle(&self, inputs: &[autograd_core::Tensor]) -> Result<Option<Tensors>> {
        let at = elsewhere::indices("scatter_add", &inputs[1], inputs[0].dims()[self.dim])?;
        elsewhere::in_part(&inputs[0], at.dims(), self.dim, |x| {
            Ok(x.scatter_add(&at, &inputs[2].contiguous()?, self.dim)?)
        })
    }
}

impl Transpose for ScatterAdd {
    // dx = ct, dsrc = ct read at the indices.
    fn transpose(&self, wanted: Mask, cts: &[Option<TrackedTensor>], saved: &Saved<'_>) -> Result<Grads> {
        let Some(ct) = &cts[0] else { return Ok(smallvec![None, None, None]) };
        let src = |ct| apply_one(&Gather { dim: self.dim }, &[ct, saved.input(1)?]);
        let dsrc = wanted.has(2).then(|| src(ct)).transpose()?;
        Ok(smallvec![wanted.has(0).then(|| ct.clone()), None, dsrc])
    }
}

/// The ops of this file.
pub fn ops() -> Vec<Op> {
    let op = |name, formula, cases| Op { name, family: Family::Shape, formula, cases };
    fn reading(
        label: &str,
        x: &[usize],
        indices: (&[usize], u32),
        run: impl Fn(&TrackedTensor, &TrackedTensor) -> Result<TrackedTensor> + Send + Sync + 'static,
    ) -> Case {
        Case::new(label, vec![Sample::float(x), Sample::index(indices.0, indices.1)], move |x| {
            run(&x[0], &x[1])
        })
    }
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
    vec![
        op("index_select", "out[.., j, ..] = x[.., indices[j], ..]", || {
            vec![
                reading("rows, some repeated", &[3, 2], (&[5], 3), |x, i| index_select(x, i, 0)),
                reading("columns", &[2, 3], (&[2], 3), |x, i| index_select(x, i, -1)),
                reading("inner", &[2, 3, 2], (&[4], 3), |x, i| index_select(x, i, 1)),
                reading("no index", &[2, 3], (&[0], 3), |x, i| index_select(x, i, 1)),
            ]
        }),
        op("embedding", "rows of a table at indices of any shape", || {
            vec![
                reading("matrix of indices", &[4, 3], (&[2, 3], 4), |x, i| embedding(x, i)),
                reading("one index", &[4, 3], (&[], 4), |x, i| embedding(x, i)),
            ]
        }),
        op("index_add", "x with src[.., j, ..] added at [.., indices[j], ..]", || {
            vec![
                writing("rows", &[3, 2], (&[4], 3), &[4, 2], |x| index_add(&x[0], &x[1], &x[2], 0)),
                writing("columns", &[2, 3], (&[2], 3), &[2, 2], |x| index_add(&x[0], &x[1], &x[2], 1)),
            ]
        }),
        op("gather", "out[p] = x[p with its coordinate along dim replaced by indices[p]]", || {
            vec![
                reading("along rows", &[3, 2], (&[4, 2], 3), |x, i| gather(x, i, 0)),
                reading("along columns, fewer rows", &[3, 4], (&[2, 3], 4), |x, i| gather(x, i, 1)),
                reading("rank 3", &[2, 3, 2], (&[2, 1, 2], 3), |x, i| gather(x, i, 1)),
            ]
        }),
        op("scatter_add", "x with src[p] added where gather reads for p", || {
            vec![
                writing("along rows", &[3, 2], (&[4, 2], 3), &[4, 2], |x| {
                    scatter_add(&x[0], &x[1], &x[2], 0)
                }),
                writing("fewer rows", &[3, 4], (&[2, 3], 4), &[2, 3], |x| {
                    scatter_add(&x[0], &x[1], &x[2], -1)
                }),
            ]
        }),
    ]
}

/// The methods of this file.
#[macro_export]
#[doc(hidden)]
macro_rules! index_methods {
    ($($callback:tt)*) => {
        $($callback)* {
            unary {}
            binary {}
            other {
                /// Slices along `dim`, in the order of the indices.
                index_select(indices: impl Into<autograd_core::TrackedTensor>, dim: impl $crate::Dim) -> TrackedTensor = $crate::index::index_select;
                /// Rows of this table at indices of any shape.
                embedding(indices: impl Into<autograd_core::TrackedTensor>) -> TrackedTensor = $crate::index::embedding;
                /// This value with slices of `src` added at the indices.
                index_add(indices: impl Into<autograd_core::TrackedTensor>, src: impl Into<autograd_core::TrackedTensor>, dim: impl $crate::Dim) -> TrackedTensor = $crate::index::index_add;
                /// The element at each index along `dim`.
                gather(indices: impl Into<autograd_core::TrackedTensor>, dim: impl $crate::Dim) -> TrackedTensor = $crate::index::gather;
                /// This value with `src` added where `gather` would read.
                scatter_add(indices: impl Into<autograd_core::TrackedTensor>, src: impl Into<autograd_core::TrackedTensor>, dim: impl $crate::Dim) -> TrackedTensor = $crate::index::scatter_add;
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
    fn rows_selected_twice_count_twice() -> Result<()> {
        let tape = GradientTape::new();
        let x = tape.variable(TrackedTensor::from_vec((1..17).map(f64::from).collect(), &[4, 4])?);
        let y = crate::reduce::sum(&index_select(&x, u32s(&[1, 1, 3, 2, 1, 2], &[6])?, 0)?)?;
        let dx = tape.derivative(&y, &x)?.to_vec2::<f64>()?;
        assert_eq!(dx, [[0.; 4], [3.; 4], [2.; 4], [1.; 4]]);
        Ok(())
    }

    #[test]
    fn a_bad_index_is_a_typed_error() -> Result<()> {
        let x = TrackedTensor::from_vec(vec![1f64, 2., 3.], &[3])?;
        let error = index_select(&x, u32s(&[0, 3], &[2])?, 0).expect_err("it must fail");
        assert_eq!(
            error.to_string().split(" (at").next(),
            Some("index_select: index 3 (number 1) is not in 0 .. 3")
        );
        let floats = TrackedTensor::from_vec(vec![0f32], &[1])?;
        assert!(matches!(gather(&x, floats, 0), Err(Error::UnsupportedDType { .. })));
        let negative = TrackedTensor::from_vec(vec![-1i64], &[1])?;
        assert!(matches!(gather(&x, negative, 0), Err(Error::InvalidArgument { op: "gather", .. })));
        Ok(())
    }
}
