//! Reading and writing at indices: selection along a dimension, gather, scatter.
//!
//! Indices are U8, U32 or I64 and count from the front; a negative one is out of range.

use crate::operand::{assert_in_bounds, assert_kind, assert_len, narrow, same, widen};
use crate::{Element, Layout, MAX_RANK, Shape, Slice, SliceMut, View, bf16, f16};

/// The position and the value of the first index that is not in `0 .. bound`, as an error.
///
/// Callers raise their error from it before a kernel runs; kernels panic on bad indices.
///
/// # Errors
/// The first bad index: its number in row-major order and its value.
///
/// # Panics
/// Panics where the indices are not U8, U32 or I64, or their layout leaves the buffer.
pub fn check_indices(indices: View<'_>, bound: usize) -> Result<(), (usize, i64)> {
    let mut bad = None;
    for_each_index(indices, |position, value| {
        if bad.is_none() && !usize::try_from(value).is_ok_and(|value| value < bound) {
            bad = Some((position, value));
        }
    });
    bad.map_or(Ok(()), Err)
}

fn for_each_index(indices: View<'_>, f: impl FnMut(usize, i64)) {
    fn each<T: Copy>(
        layout: &Layout,
        data: &[T],
        to: impl Fn(T) -> i64,
        mut f: impl FnMut(usize, i64),
    ) {
        layout.for_each_run(|first, at, len, stride| {
            for i in 0..len {
                f(first + i, to(data[at + i * stride]));
            }
        });
    }
    assert_in_bounds(indices);
    match indices.data {
        Slice::U8(data) => each(indices.layout, data, i64::from, f),
        Slice::U32(data) => each(indices.layout, data, i64::from, f),
        Slice::I64(data) => each(indices.layout, data, |x| x, f),
        other => panic!("indices of type {:?}, not U8, U32 or I64", other.kind()),
    }
}

/// All indices in row-major order, each checked against `bound`.
fn checked(indices: View<'_>, bound: usize) -> Vec<usize> {
    let mut out = vec![0; indices.layout.elements()];
    for_each_index(indices, |position, value| {
        let index = usize::try_from(value).ok().filter(|&index| index < bound);
        let Some(index) = index else {
            panic!("index {value} at position {position} is not in 0 .. {bound}")
        };
        out[position] = index;
    });
    out
}

/// Calls `$f::<T>(args)` for the element type of `$out`, which must be that of the operands.
macro_rules! for_any_kind {
    ($out:expr, |$data:ident| $call:expr) => {
        match $out {
            SliceMut::F64($data) => $call,
            SliceMut::F32($data) => $call,
            SliceMut::BF16($data) => $call,
            SliceMut::F16($data) => $call,
            SliceMut::U8($data) => $call,
            SliceMut::U32($data) => $call,
            SliceMut::I64($data) => $call,
        }
    };
}

/// An element type that can be added up; the half types are added in f32.
trait Sum: Element {
    fn plus(self, other: Self) -> Self;
}

macro_rules! sums {
    ($($ty:ty: $plus:expr),*) => {
        $(impl Sum for $ty {
            #[inline]
            fn plus(self, other: Self) -> Self {
                let plus: fn(Self, Self) -> Self = $plus;
                plus(self, other)
            }
        })*
    };
}

sums! {
    f64: |a, b| a + b,
    f32: |a, b| a + b,
    // Integers wrap, as in PyTorch.
    u8: u8::wrapping_add,
    u32: u32::wrapping_add,
    i64: i64::wrapping_add
}

/// Adds into `out` with the half types carried in f32, so that many small terms are not lost.
macro_rules! sum_into {
    ($out:expr, $src:expr, |$data:ident, $read:ident| $call:expr) => {
        match $out {
            SliceMut::F64($data) => {
                let $read = same::<f64>($src);
                $call
            }
            SliceMut::F32($data) => {
                let $read = same::<f32>($src);
                $call
            }
            SliceMut::U8($data) => {
                let $read = same::<u8>($src);
                $call
            }
            SliceMut::U32($data) => {
                let $read = same::<u32>($src);
                $call
            }
            SliceMut::I64($data) => {
                let $read = same::<i64>($src);
                $call
            }
            mut half => {
                let mut wide = widened(&half);
                {
                    let ($data, $read) = (&mut wide[..], widen($src));
                    $call
                }
                narrow(&wide, half.reborrow());
            }
        }
    };
}

fn widened(half: &SliceMut<'_>) -> Vec<f32> {
    match half.as_slice() {
        Slice::BF16(data) => data.iter().map(|&x| bf16::to_f32(x)).collect(),
        Slice::F16(data) => data.iter().map(|&x| f16::to_f32(x)).collect(),
        other => unreachable!("{:?} is not a half type", other.kind()),
    }
}

fn assert_dim(shape: &[usize], dim: usize) {
    assert!(dim < shape.len(), "dimension {dim} of a tensor of shape {shape:?}");
}

/// `dims` with the extent of `dim` replaced.
fn with_extent(dims: &[usize], dim: usize, extent: usize) -> Shape {
    let mut shape = Shape::new(dims);
    shape.dims_mut()[dim] = extent;
    shape
}

/// out[.., j, ..] = x[.., indices[j], ..] along `dim`; out has x's shape with the number of
/// indices in place of that extent.
///
/// # Panics
/// Panics where shapes or types do not fit, an index is out of range, or a layout leaves its
/// buffer.
pub fn index_select(x: View<'_>, dim: usize, indices: View<'_>, out: SliceMut<'_>) {
    assert_dim(x.layout.dims(), dim);
    assert!(indices.layout.rank() == 1, "indices of rank {}, not 1", indices.layout.rank());
    assert_kind("the input", x, out.kind());
    assert_in_bounds(x);
    let indices = checked(indices, x.layout.dims()[dim]);
    let shape = with_extent(x.layout.dims(), dim, indices.len());
    assert_len("the output", &out, shape.elements());
    for_any_kind!(out, |out| select(x, dim, &indices, &shape, out));
}

fn select<T: Element>(x: View<'_>, dim: usize, indices: &[usize], shape: &Shape, out: &mut [T]) {
    let data = T::read(&x.data).expect("type checked");
    let inner: usize = shape.dims()[dim + 1..].iter().product();
    let outer: usize = shape.dims()[..dim].iter().product();
    let (extent, count) = (x.layout.dims()[dim], indices.len());
    if let Some(x) = x.contiguous::<T>() {
        for o in 0..outer {
            for (j, &index) in indices.iter().enumerate() {
                out[(o * count + j) * inner..][..inner]
                    .copy_from_slice(&x[(o * extent + index) * inner..][..inner]);
            }
        }
        return;
    }
    for (j, &index) in indices.iter().enumerate() {
        x.layout.narrow(dim, index, 1).for_each_run(|first, at, len, stride| {
            // A run lies inside one row of `inner` elements, or has one element.
            let (o, within) = (first / inner.max(1), first % inner.max(1));
            if dim + 1 == shape.rank() {
                out[o * count + j] = data[at];
                return;
            }
            for i in 0..len {
                out[(o * count + j) * inner + within + i] = data[at + i * stride];
            }
        });
    }
}

/// out[.., indices[j], ..] += src[.., j, ..] along `dim`, in the order of j.
///
/// `out` has shape `out_shape` and holds the start value.
///
/// # Panics
/// As [`index_select`].
pub fn index_add(
    out: SliceMut<'_>,
    out_shape: &Shape,
    dim: usize,
    indices: View<'_>,
    src: View<'_>,
) {
    assert_dim(out_shape.dims(), dim);
    assert!(indices.layout.rank() == 1, "indices of rank {}, not 1", indices.layout.rank());
    assert_kind("the source", src, out.kind());
    assert_len("the output", &out, out_shape.elements());
    let indices = checked(indices, out_shape.dims()[dim]);
    let want = with_extent(out_shape.dims(), dim, indices.len());
    crate::operand::assert_dims("the source", src, want.dims());
    sum_into!(out, src, |out, src| add_rows(out, out_shape, dim, &indices, &src));
}

fn add_rows<T: Sum>(out: &mut [T], shape: &Shape, dim: usize, indices: &[usize], src: &[T]) {
    let inner: usize = shape.dims()[dim + 1..].iter().product();
    let outer: usize = shape.dims()[..dim].iter().product();
    let (extent, count) = (shape.dims()[dim], indices.len());
    for o in 0..outer {
        for (j, &index) in indices.iter().enumerate() {
            let to = &mut out[(o * extent + index) * inner..][..inner];
            for (to, &from) in to.iter_mut().zip(&src[(o * count + j) * inner..][..inner]) {
                *to = to.plus(from);
            }
        }
    }
}

/// Where position p of the indices meets the larger tensor: its layout with the extents of the
/// indices and stride 0 along `dim`, to which index · stride is added.
fn meeting(large: &Layout, dim: usize, indices: &[usize]) -> Layout {
    let dims = large.dims();
    assert_dim(dims, dim);
    let fits = dims.len() == indices.len()
        && dims
            .iter()
            .zip(indices)
            .enumerate()
            .all(|(d, (large, small))| d == dim || small <= large);
    assert!(fits, "indices of shape {indices:?} for a tensor of shape {dims:?} along {dim}");
    let mut strides = [0; MAX_RANK];
    strides[..dims.len()].copy_from_slice(large.strides());
    strides[dim] = 0;
    Layout::new(Shape::new(indices), &strides[..dims.len()], large.offset())
}

/// out[p] = x[p with its coordinate along `dim` replaced by indices[p]]; out has the shape of the
/// indices, which may be smaller than x along the other dimensions.
///
/// # Panics
/// As [`index_select`].
pub fn gather(x: View<'_>, dim: usize, indices: View<'_>, out: SliceMut<'_>) {
    let walk = meeting(x.layout, dim, indices.layout.dims());
    assert_in_bounds(x);
    assert_kind("the input", x, out.kind());
    assert_len("the output", &out, walk.elements());
    let (indices, step) = (checked(indices, x.layout.dims()[dim]), x.layout.strides()[dim]);
    for_any_kind!(out, |out| read_at(&x, &walk, step, &indices, out));
}

fn read_at<T: Element>(x: &View<'_>, walk: &Layout, step: usize, indices: &[usize], out: &mut [T]) {
    let data = T::read(&x.data).expect("type checked");
    walk.for_each_run(|first, at, len, stride| {
        let (out, indices) = (&mut out[first..][..len], &indices[first..][..len]);
        for (i, (out, &index)) in out.iter_mut().zip(indices).enumerate() {
            *out = data[at + i * stride + index * step];
        }
    });
}

/// out[p with its coordinate along `dim` replaced by indices[p]] += src[p], in row-major order.
///
/// `out` has shape `out_shape` and holds the start value; src has the shape of the indices.
///
/// # Panics
/// As [`index_select`].
pub fn scatter_add(
    out: SliceMut<'_>,
    out_shape: &Shape,
    dim: usize,
    indices: View<'_>,
    src: View<'_>,
) {
    let (walk, step, indices) = scattering(&out, out_shape, dim, indices, src);
    sum_into!(out, src, |out, src| write_at(out, &walk, step, &indices, &src, Sum::plus));
}

/// out[p with its coordinate along `dim` replaced by indices[p]] = src[p]; the last write in
/// row-major order wins.
///
/// `out` has shape `out_shape` and keeps its values where nothing is written; src has the shape
/// of the indices.
///
/// # Panics
/// As [`index_select`].
pub fn scatter(out: SliceMut<'_>, out_shape: &Shape, dim: usize, indices: View<'_>, src: View<'_>) {
    let (walk, step, indices) = scattering(&out, out_shape, dim, indices, src);
    for_any_kind!(out, |out| write_at(out, &walk, step, &indices, &same(src), |_, new| new));
}

fn scattering(
    out: &SliceMut<'_>,
    out_shape: &Shape,
    dim: usize,
    indices: View<'_>,
    src: View<'_>,
) -> (Layout, usize, Vec<usize>) {
    assert_len("the output", out, out_shape.elements());
    assert_kind("the source", src, out.kind());
    crate::operand::assert_dims("the source", src, indices.layout.dims());
    let large = Layout::contiguous(*out_shape);
    let walk = meeting(&large, dim, indices.layout.dims());
    (walk, large.strides()[dim], checked(indices, out_shape.dims()[dim]))
}

fn write_at<T: Element>(
    out: &mut [T],
    walk: &Layout,
    step: usize,
    indices: &[usize],
    src: &[T],
    combine: impl Fn(T, T) -> T,
) {
    walk.for_each_run(|first, at, len, stride| {
        for i in 0..len {
            let to = &mut out[at + i * stride + indices[first + i] * step];
            *to = combine(*to, src[first + i]);
        }
    });
}
