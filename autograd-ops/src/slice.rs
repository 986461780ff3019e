//! Parts of a value as views, and writing into them.

use crate::elsewhere;
use crate::numbers::{Dim, dimension, sound, with_batch, without};
use crate::registry::{Case, Family, Op, Sample};
use crate::saved::Datum;
use autograd_core::algebra::{self, fill, reshape};
use autograd_core::device::{KernelCall, Tensors};
use autograd_core::kernels::{copy, place};
use autograd_core::smallvec::{SmallVec, smallvec};
use autograd_core::{
    At, Error, Grads, Layout, Mask, Meta, Parameter, Prim, Primitive, Result, Rule, Saved, Shape, Signature,
    Site, SliceMut, TrackedTensor, Transpose, Values, View, apply_one,
};
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

/// Where a part lies in a whole: a view of the whole in which no element comes twice. Writing
/// through it is the transpose of reading through it.
#[derive(Clone, Debug)]
enum Part {
    /// start, number and step of the elements, for each dimension.
    Steps(SmallVec<[(usize, usize, usize); 4]>),
    /// The diagonal of dimensions a and b, starting at (`row`, `column`), as the last dimension.
    Diagonal { a: usize, b: usize, row: usize, column: usize, len: usize },
}

impl Part {
    /// The layout of the part in that of the whole.
    fn of(&self, whole: &Layout) -> Layout {
        let (mut dims, mut strides): (SmallVec<[usize; 8]>, SmallVec<[usize; 8]>) =
            (SmallVec::from_slice(whole.dims()), SmallVec::from_slice(whole.strides()));
        let mut offset = whole.offset();
        match self {
            Part::Steps(steps) => {
                for (d, &(start, len, step)) in steps.iter().enumerate() {
                    offset += start * strides[d];
                    dims[d] = len;
                    strides[d] *= step;
                }
            }
            Part::Diagonal { a, b, row, column, len } => {
                offset += row * strides[*a] + column * strides[*b];
                let stride = strides[*a] + strides[*b];
                for d in [*a.max(b), *a.min(b)] {
                    dims.remove(d);
                    strides.remove(d);
                }
                dims.push(*len);
                strides.push(stride);
            }
        }
        let shape = Shape::try_new(&dims).unwrap_or(Shape::SCALAR);
        Layout::new(shape, &strides, if shape.elements() == 0 { whole.offset() } else { offset })
    }

    /// The same part of each element of a batch.
    fn batched(&self, size: usize) -> Self {
        match self {
            Part::Steps(steps) => {
                Part::Steps(std::iter::once((0, size, 1)).chain(steps.iter().copied()).collect())
            }
            Part::Diagonal { a, b, row, column, len } => {
                Part::Diagonal { a: a + 1, b: b + 1, row: *row, column: *column, len: *len }
            }
        }
    }

    fn read(&self) -> Read {
        Read(self.clone())
    }

    fn write(&self) -> Write {
        Write(self.clone())
    }

    fn name(&self) -> &'static str {
        match self {
            Part::Steps(_) => "slice",
            Part::Diagonal { .. } => "diagonal",
        }
    }
}

/// A part of its input, as a view.
#[derive(Clone, Debug)]
struct Read(Part);

/// Its first input with the second written over a part.
#[derive(Clone, Debug)]
pub(crate) struct Write(Part);

impl Datum for Part {
    fn store(&self, to: &mut Vec<Parameter>) {
        match self {
            Part::Steps(steps) => steps.store(to),
            Part::Diagonal { a, b, row, column, len } => {
                [a, b, row, column, len].into_iter().for_each(|n| n.store(to));
            }
        }
    }
    fn load(from: &mut std::slice::Iter<'_, Parameter>) -> Option<Self> {
        if let Some(Parameter::Shape(_)) = from.as_slice().first() {
            return Datum::load(from).map(Part::Steps);
        }
        let mut next = || usize::load(from);
        Some(Part::Diagonal { a: next()?, b: next()?, row: next()?, column: next()?, len: next()? })
    }
}

crate::saved::stored! {
    "slice" => Read { 0 }, |op, x| x.len() == 1 && op.0.within(x[0].shape.dims());
    "write_slice" => Write { 0 }, |op, x| x.len() == 2 && op.0.within(x[0].shape.dims());
}

impl Part {
    /// Whether all its elements are elements of a value of this shape.
    fn within(&self, dims: &[usize]) -> bool {
        let run = |start: usize, len: usize, step: usize, extent: usize| {
            let last = len.checked_sub(1).map(|n| n.checked_mul(step).and_then(|n| n.checked_add(start)));
            start <= extent
                && step < 1 << 32
                && last.is_none_or(|last| last.is_some_and(|last| last < extent))
        };
        match *self {
            Part::Steps(ref steps) => {
                let mut each = steps.iter().zip(dims);
                steps.len() == dims.len()
                    && each.all(|(&(start, len, step), &extent)| run(start, len, step, extent))
            }
            Part::Diagonal { a, b, row, column, len } => {
                let extent = |dim: usize| dims.get(dim).copied().unwrap_or(0);
                a != b
                    && a.max(b) < dims.len()
                    && run(row, len, 1, extent(a))
                    && run(column, len, 1, extent(b))
            }
        }
    }
}

impl Primitive for Read {
    crate::saved::by_tag!();
    fn name(&self) -> &'static str {
        self.0.name()
    }
    fn keep(&self) -> Prim {
        Prim::Shared(Arc::new(self.clone()))
    }
    fn infer(&self, inputs: &[Meta]) -> Result<Signature> {
        let part = self.0.of(&Layout::contiguous(inputs[0].shape));
        Ok(Signature::one(inputs[0].with_shape(*part.shape())))
    }
    fn view(&self, _: &Meta, inputs: &[&Layout]) -> Option<(usize, Layout)> {
        Some((0, self.0.of(inputs[0])))
    }
    fn eval_into(&self, inputs: &[View<'_>], outputs: &mut [SliceMut<'_>]) -> Result<()> {
        let layout = self.0.of(inputs[0].layout);
        copy::copy(View { data: inputs[0].data, layout: &layout }, outputs[0].reborrow());
        Ok(())
    }
    fn rule(&self) -> Rule<'_> {
        Rule::Linear(Mask::one(0), self)
    }
    fn batch(&self, _: Mask, inputs: &[&TrackedTensor], size: usize) -> Result<Option<Values>> {
        Ok(Some(smallvec![apply_one(&self.0.batched(size).read(), inputs)?]))
    }
}

impl Transpose for Read {
    // Zeros with the cotangent written over the part.
    fn transpose(&self, _: Mask, cts: &[Option<TrackedTensor>], saved: &Saved<'_>) -> Result<Grads> {
        let Some(ct) = &cts[0] else { return Ok(smallvec![None]) };
        let zeros = fill(0.0, &saved.inputs[0], ct)?;
        Ok(smallvec![Some(apply_one(&self.0.write(), &[&zeros, ct])?)])
    }
}

impl Primitive for Write {
    crate::saved::by_tag!();
    fn name(&self) -> &'static str {
        match self.0 {
            Part::Steps(_) => "slice_assign",
            Part::Diagonal { .. } => "diagonal_assign",
        }
    }
    fn keep(&self) -> Prim {
        Prim::Shared(Arc::new(self.clone()))
    }
    fn infer(&self, inputs: &[Meta]) -> Result<Signature> {
        let (x, src) = (&inputs[0], &inputs[1]);
        if x.dtype != src.dtype {
            let dtypes = vec![x.dtype, src.dtype];
            return Err(Error::DTypeMismatch { op: self.name(), dtypes, at: At::default() });
        }
        let part = *self.0.of(&Layout::contiguous(x.shape)).shape();
        if part != src.shape {
            let reason = format!("the part has shape {part}");
            return Err(Error::shape(self.name(), &[x.shape, src.shape], reason));
        }
        Ok(Signature::one(*x))
    }
    fn eval_into(&self, inputs: &[View<'_>], outputs: &mut [SliceMut<'_>]) -> Result<()> {
        copy::copy(inputs[0], outputs[0].reborrow());
        let part = self.0.of(&Layout::contiguous(*inputs[0].layout.shape()));
        place::place(inputs[1], outputs[0].reborrow(), &part);
        Ok(())
    }
    fn eval_over(&self, x: SliceMut<'_>, shape: &Shape, rest: &[View<'_>]) -> Result<bool> {
        place::place(rest[0], x, &self.0.of(&Layout::contiguous(*shape)));
        Ok(true)
    }
    fn eval_candle(&self, inputs: &[autograd_core::Tensor]) -> Result<Option<Tensors>> {
        let x = &inputs[0];
        let whole = Layout::contiguous(autograd_core::checked_shape(self.name(), x.dims())?);
        elsewhere::one(elsewhere::written(x, &inputs[1], &self.0.of(&whole))?)
    }
    fn kernel(&self) -> Option<KernelCall> {
        let numbers: SmallVec<[usize; 16]> = match &self.0 {
            Part::Steps(steps) => steps.iter().flat_map(|&(start, _, step)| [start, step]).collect(),
            Part::Diagonal { a, b, row, column, .. } => SmallVec::from_slice(&[*a, *b, *row, *column]),
        };
        let numbers: SmallVec<[i64; 16]> = numbers.into_iter().map(|n| n as i64).collect();
        Some(KernelCall::new(self.0.name(), &numbers, &[]))
    }
    fn rule(&self) -> Rule<'_> {
        Rule::Linear(Mask::first(2), self)
    }
    fn batch(&self, batched: Mask, inputs: &[&TrackedTensor], size: usize) -> Result<Option<Values>> {
        let x = with_batch(inputs[0], batched.has(0), size)?;
        let src = with_batch(inputs[1], batched.has(1), size)?;
        Ok(Some(smallvec![apply_one(&self.0.batched(size).write(), &[&x, &src])?]))
    }
}

impl Transpose for Write {
    // dx = ct with zeros over the part, dsrc = the part of ct.
    fn transpose(&self, wanted: Mask, cts: &[Option<TrackedTensor>], saved: &Saved<'_>) -> Result<Grads> {
        let mut grads: Grads = smallvec![None, None];
        let Some(ct) = &cts[0] else { return Ok(grads) };
        if wanted.has(0) {
            grads[0] = Some(apply_one(self, &[ct, &fill(0.0, &saved.inputs[1], ct)?])?);
        }
        if wanted.has(1) {
            grads[1] = Some(apply_one(&self.0.read(), &[ct])?);
        }
        Ok(grads)
    }
}

/// All of a shape.
fn everything(shape: &Shape) -> SmallVec<[(usize, usize, usize); 4]> {
    shape.dims().iter().map(|&extent| (0, extent, 1)).collect()
}

/// The part of x with these (start, number, step) of the elements of each dimension, as a view.
#[track_caller]
pub(crate) fn part(x: &TrackedTensor, steps: SmallVec<[(usize, usize, usize); 4]>) -> Result<TrackedTensor> {
    apply_one(&Read(Part::Steps(steps)), &[x])
}

/// Elements `start .. start + len` of dimension `dim`, without copying.
///
/// # Errors
/// A dimension that x does not have; elements that are not there.
#[track_caller]
pub fn narrow(x: &TrackedTensor, dim: impl Dim, start: usize, len: usize) -> Result<TrackedTensor> {
    algebra::narrow(x, dimension("narrow", dim, x)?, start, len)
}

/// Every `step`-th element of `start .. end` along `dim`, without copying. As in Python: negative
/// numbers count from the end, and what is beyond either end is left out.
///
/// # Errors
/// A dimension that x does not have; a step of 0.
#[track_caller]
pub fn slice(
    x: &TrackedTensor,
    dim: impl Dim,
    start: isize,
    end: isize,
    step: usize,
) -> Result<TrackedTensor> {
    let dim = dimension("slice", dim, x)?;
    if step == 0 {
        return Err(Error::argument("slice", "a step of 0").or_at(Site::caller()));
    }
    let extent = x.dims()[dim];
    let bound = |n: isize| match usize::try_from(n) {
        Ok(n) => n.min(extent),
        Err(_) => extent.saturating_sub(n.unsigned_abs()),
    };
    let (start, end) = (bound(start), bound(end));
    let len = end.saturating_sub(start).div_ceil(step);
    // A longer step leads nowhere either.
    let step = step.min(extent.max(1));
    if step == 1 {
        return algebra::narrow(x, dim, start, len);
    }
    let mut steps = everything(x.shape());
    steps[dim] = (start, len, step);
    part(x, steps)
}

/// Element `i` along the first dimension, which goes.
///
/// # Errors
/// A value without dimensions, or without that element.
#[track_caller]
pub fn get(x: &TrackedTensor, i: usize) -> Result<TrackedTensor> {
    get_on_dim(x, 0, i)
}

/// Element `i` along `dim`, which goes (PyTorch's `select`).
///
/// # Errors
/// A dimension that x does not have, or without that element.
#[track_caller]
pub fn get_on_dim(x: &TrackedTensor, dim: impl Dim, i: usize) -> Result<TrackedTensor> {
    let dim = dimension("get", dim, x)?;
    let one = algebra::narrow(x, dim, i, 1)?;
    reshape(&one, &without(one.shape(), Mask::one(dim)))
}

/// x in `chunks` parts along `dim`, as views; the last ones may be shorter, or missing. With
/// candle's cut: the first `extent % chunks` parts have one element more.
///
/// # Errors
/// A dimension that x does not have; 0 chunks.
#[track_caller]
pub fn chunk(x: &TrackedTensor, chunks: usize, dim: impl Dim) -> Result<Vec<TrackedTensor>> {
    let dim = dimension("chunk", dim, x)?;
    if chunks == 0 {
        return Err(Error::argument("chunk", "0 chunks").or_at(Site::caller()));
    }
    let extent = x.dims()[dim];
    let (each, more) = (extent / chunks, extent % chunks);
    let lens: Vec<usize> = if extent < chunks {
        vec![1; extent]
    } else {
        (0..chunks).map(|i| each + usize::from(i < more)).collect()
    };
    split(x, &lens, dim as isize)
}

/// x in parts of the given extents along `dim`, as views.
///
/// # Errors
/// A dimension that x does not have; extents that do not add up to its own.
#[track_caller]
pub fn split(x: &TrackedTensor, lens: &[usize], dim: impl Dim) -> Result<Vec<TrackedTensor>> {
    let dim = dimension("split", dim, x)?;
    let whole = lens.iter().try_fold(0usize, |sum, &len| sum.checked_add(len));
    if whole != Some(x.dims()[dim]) {
        let reason = format!("{lens:?} do not add up to the extent of dimension {dim}");
        return Err(Error::shape("split", &[*x.shape()], reason).or_at(Site::caller()));
    }
    let mut start = 0;
    let mut parts = Vec::with_capacity(lens.len());
    for &len in lens {
        parts.push(algebra::narrow(x, dim, start, len)?);
        start += len;
    }
    Ok(parts)
}

/// x with `src` written over the elements from `start` on along `dim`.
///
/// # Errors
/// A dimension that x does not have; a source that does not fit there.
#[track_caller]
pub fn slice_scatter(
    x: &TrackedTensor,
    src: impl Into<TrackedTensor>,
    dim: impl Dim,
    start: usize,
) -> Result<TrackedTensor> {
    let (dim, src) = (dimension("slice_scatter", dim, x)?, src.into());
    sound(&src)?;
    let len = src.dims().get(dim).copied().unwrap_or(0);
    let mut steps = everything(x.shape());
    steps[dim] = (start, len, 1);
    if start.checked_add(len).is_none_or(|end| end > x.dims()[dim]) {
        let reason = format!("{len} elements from {start} on along dimension {dim}");
        return Err(Error::shape("slice_scatter", &[*x.shape(), *src.shape()], reason).or_at(Site::caller()));
    }
    apply_one(&Write(Part::Steps(steps)), &[x, &src])
}

/// x with `src` written over the part that the ranges cut out, one range for each dimension.
///
/// # Errors
/// Ranges that are not within x, or not one for each dimension; a source of another shape.
#[track_caller]
pub fn slice_assign<R: RangeBounds<usize>>(
    x: &TrackedTensor,
    ranges: &[R],
    src: impl Into<TrackedTensor>,
) -> Result<TrackedTensor> {
    apply_one(&assignment(x, ranges)?, &[x, &src.into()])
}

/// Writing over the part of x that the ranges cut out.
#[track_caller]
pub(crate) fn assignment<R: RangeBounds<usize>>(x: &TrackedTensor, ranges: &[R]) -> Result<Write> {
    sound(x)?;
    let site = Site::caller();
    if ranges.len() != x.rank() {
        let reason = format!("{} ranges given", ranges.len());
        return Err(Error::shape("slice_assign", &[*x.shape()], reason).or_at(site));
    }
    let mut steps = everything(x.shape());
    for (d, range) in ranges.iter().enumerate() {
        let (start, end) = bounds(range, x.dims()[d]);
        if start > end || end > x.dims()[d] {
            let reason =
                format!("elements {start}..{end} of dimension {d} are not all in shape {}", x.shape());
            return Err(Error::argument("slice_assign", reason).or_at(site));
        }
        steps[d] = (start, end - start, 1);
    }
    Ok(Write(Part::Steps(steps)))
}

/// The first element of a range in a dimension of `extent`, and the one behind its last.
pub(crate) fn bounds(range: &impl RangeBounds<usize>, extent: usize) -> (usize, usize) {
    let start = match range.start_bound() {
        Bound::Included(&start) => start,
        Bound::Excluded(&start) => start.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(&end) => end.saturating_add(1),
        Bound::Excluded(&end) => end,
        Bound::Unbounded => extent,
    };
    (start, end)
}

/// The elements x[.., i, .., i + offset, ..] of dimensions a and b, as the last dimension, without
/// copying (PyTorch's `diagonal`).
///
/// # Errors
/// Dimensions that x does not have, or one twice.
#[track_caller]
pub fn diagonal(x: &TrackedTensor, offset: isize, a: impl Dim, b: impl Dim) -> Result<TrackedTensor> {
    let (a, b) = (dimension("diagonal", a, x)?, dimension("diagonal", b, x)?);
    if a == b {
        let reason = format!("dimension {a} is named twice");
        return Err(Error::argument("diagonal", reason).or_at(Site::caller()));
    }
    let (row, column) = if offset < 0 { (offset.unsigned_abs(), 0) } else { (0, offset.unsigned_abs()) };
    let len = x.dims()[a].saturating_sub(row).min(x.dims()[b].saturating_sub(column));
    let (row, column) = if len == 0 { (0, 0) } else { (row, column) };
    apply_one(&Read(Part::Diagonal { a, b, row, column, len }), &[x])
}

/// The ops of this file.
pub fn ops() -> Vec<Op> {
    let op = |name, formula, cases| Op { name, family: Family::Shape, formula, cases };
    fn one(
        label: &str,
        dims: &[usize],
        run: impl Fn(&TrackedTensor) -> Result<TrackedTensor> + Send + Sync + 'static,
    ) -> Case {
        Case::new(label, vec![Sample::float(dims)], move |x| run(&x[0]))
    }
    fn two(
        label: &str,
        x: &[usize],
        src: &[usize],
        run: impl Fn(&TrackedTensor, &TrackedTensor) -> Result<TrackedTensor> + Send + Sync + 'static,
    ) -> Case {
        Case::new(label, vec![Sample::float(x), Sample::float(src)], move |x| run(&x[0], &x[1]))
    }
    vec![
        op("narrow", "elements start .. start + len of a dimension", || {
            vec![
                one("inner", &[2, 4], |x| narrow(x, -1, 1, 2)),
                one("all", &[2, 3], |x| narrow(x, 0, 0, 2)),
                one("nothing", &[2, 3], |x| narrow(x, 1, 3, 0)),
            ]
        }),
        op("slice", "every step-th element of start .. end of a dimension", || {
            vec![
                one("steps of 2", &[2, 5], |x| slice(x, 1, 0, 5, 2)),
                one("from the end", &[5, 2], |x| slice(x, 0, -4, -1, 2)),
                one("beyond the end", &[3], |x| slice(x, 0, 1, 9, 1)),
                one("nothing", &[3], |x| slice(x, 0, 2, 1, 3)),
            ]
        }),
        op("get", "one element of a dimension", || {
            vec![one("a row", &[3, 2], |x| get(x, 1)), one("a column", &[3, 2], |x| get_on_dim(x, -1, 1))]
        }),
        op("chunk", "parts along a dimension", || {
            vec![
                Case::many("unequal", vec![Sample::float(&[5, 2])], |x| chunk(&x[0], 3, 0)),
                Case::many("more than elements", vec![Sample::float(&[2])], |x| chunk(&x[0], 3, 0)),
            ]
        }),
        op("split", "parts of given extents along a dimension", || {
            vec![Case::many("two parts", vec![Sample::float(&[2, 5])], |x| split(&x[0], &[2, 3], -1))]
        }),
        op("slice_scatter", "x with src written over start .. of a dimension", || {
            vec![two("columns", &[2, 4], &[2, 2], |x, y| slice_scatter(x, y, 1, 1))]
        }),
        op("slice_assign", "x with src written over a range of each dimension", || {
            vec![
                two("a block", &[3, 4], &[2, 1], |x, y| slice_assign(x, &[1..3, 2..3], y)),
                two("all", &[2, 2], &[2, 2], |x, y| slice_assign(x, &[.., ..], y)),
            ]
        }),
        op("diagonal", "x[.., i, .., i + offset, ..]", || {
            vec![
                one("main", &[3, 3], |x| diagonal(x, 0, 0, 1)),
                one("above", &[2, 3], |x| diagonal(x, 1, 0, 1)),
                one("below, of a batch", &[2, 3, 2], |x| diagonal(x, -1, -2, -1)),
                one("beyond", &[2, 2], |x| diagonal(x, 5, 0, 1)),
            ]
        }),
    ]
}

/// The methods of this file.
#[macro_export]
#[doc(hidden)]
macro_rules! slice_methods {
    ($($callback:tt)*) => {
        $($callback)* {
            unary {}
            binary {}
            other {
                /// Elements `start .. start + len` of a dimension, without copying.
                narrow(dim: impl $crate::Dim, start: usize, len: usize) -> TrackedTensor = $crate::slice::narrow;
                /// Every `step`-th element of `start .. end` along `dim`, without copying.
                slice(dim: impl $crate::Dim, start: isize, end: isize, step: usize) -> TrackedTensor = $crate::slice::slice;
                /// Element `i` along the first dimension, which goes.
                get(i: usize) -> TrackedTensor = $crate::slice::get;
                /// Element `i` along `dim`, which goes.
                get_on_dim(dim: impl $crate::Dim, i: usize) -> TrackedTensor = $crate::slice::get_on_dim;
                /// In `chunks` parts along `dim`.
                chunk(chunks: usize, dim: impl $crate::Dim) -> Vec<TrackedTensor> = $crate::slice::chunk;
                /// In parts of the given extents along `dim`.
                split(lens: &[usize], dim: impl $crate::Dim) -> Vec<TrackedTensor> = $crate::slice::split;
                /// With `src` written over the elements from `start` on along `dim`.
                slice_scatter(src: impl Into<autograd_core::TrackedTensor>, dim: impl $crate::Dim, start: usize) -> TrackedTensor = $crate::slice::slice_scatter;
                /// With `src` written over the part that the ranges cut out.
                slice_assign(ranges: &[impl std::ops::RangeBounds<usize>], src: impl Into<autograd_core::TrackedTensor>) -> TrackedTensor = $crate::slice::slice_assign;
                /// The diagonal of two dimensions, as the last dimension.
                diagonal(offset: isize, a: impl $crate::Dim, b: impl $crate::Dim) -> TrackedTensor = $crate::slice::diagonal;
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_views() -> Result<()> {
        let x = TrackedTensor::from_vec((0..6).map(f64::from).collect(), &[2, 3])?;
        assert_eq!(slice(&x, 1, -3, 3, 2)?.to_vec2::<f64>()?, [[0., 2.], [3., 5.]]);
        assert_eq!(diagonal(&x, 1, 0, 1)?.to_vec1::<f64>()?, [1., 5.]);
        assert_eq!(diagonal(&x, 3, 0, 1)?.dims(), [0]);
        let all: Vec<usize> = chunk(&x, 2, 1)?.iter().map(|part| part.dims()[1]).collect();
        assert_eq!(all, [2, 1]);
        assert!(narrow(&x, 1, 2, 2).is_err() && slice(&x, 0, 0, 1, 0).is_err());
        Ok(())
    }
}
