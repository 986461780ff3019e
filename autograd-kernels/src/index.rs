//! Reading and writing at indices: selection along a dimension, gather, scatter.
//!
//! Indices are U8, U32 or I64 and count from the front; a negative one is out of range.
//!
//! Where several indices name one element, writes happen in row-major order: tasks divide the
//! elements written to, never the writes to one of them.

use crate::copy::{copy, each_kind};
use crate::memory;
use crate::operand::{
    Operand, assert_dims, assert_in_bounds, assert_kind, assert_len, narrow, same, widen, widened,
};
use crate::threads::{Disjoint, parallel_chunks, parallel_for};
use crate::{Element, Layout, MAX_RANK, Shape, Slice, SliceMut, View};
use std::ops::Range;

/// Elements that are worth a task of their own.
const MIN_CHUNK: usize = 32 * 1024;

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
    fn check<T: Copy + Into<i64>>(layout: &Layout, data: &[T], bound: usize) -> Result<(), (usize, i64)> {
        let mut result = Ok(());
        layout.for_each_run(|first, at, len, stride| {
            let value = |i: usize| -> i64 { data[at + i * stride].into() };
            // A negative index is a huge one without its sign.
            let bad = |&i: &usize| value(i) as u64 >= bound as u64;
            if result.is_ok()
                && let Some(i) = (0..len).find(bad)
            {
                result = Err((first + i, value(i)));
            }
        });
        result
    }
    assert_in_bounds(indices);
    match indices.data {
        Slice::U8(data) => check(indices.layout, data, bound),
        Slice::U32(data) => check(indices.layout, data, bound),
        Slice::I64(data) => check(indices.layout, data, bound),
        other => panic!("indices of type {:?}, not U8, U32 or I64", other.kind()),
    }
}

/// All indices in row-major order, each in 0 .. `bound`.
fn checked(indices: View<'_>, bound: usize) -> Operand<'_, i64> {
    if let Err((position, value)) = check_indices(indices, bound) {
        panic!("index {value} at position {position} is not in 0 .. {bound}");
    }
    if let Some(indices) = indices.contiguous() {
        return Operand::Borrowed(indices);
    }
    let mut out = memory::take::<i64>(indices.layout.elements());
    copy(indices, SliceMut::I64(&mut out));
    Operand::Gathered(out)
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
            half => {
                let mut wide = widened(&half);
                {
                    let ($data, $read) = (&mut wide[..], widen($src));
                    $call
                }
                narrow(wide, half);
            }
        }
    };
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

/// `out[.., j, ..] = x[.., indices[j], ..]` along `dim`; out has x's shape with the number of
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
    each_kind!(SliceMut, out, out => select(x, dim, &indices, &shape, out));
}

fn select<T: Element>(x: View<'_>, dim: usize, indices: &[i64], shape: &Shape, out: &mut [T]) {
    let inner: usize = shape.dims()[dim + 1..].iter().product();
    let (extent, count) = (x.layout.dims()[dim], indices.len());
    if out.is_empty() {
        return;
    }
    let Some(x) = x.contiguous::<T>() else { return select_strided(x, dim, indices, inner, out) };
    let (rows, out) = (out.len() / inner, Disjoint::new(out));
    parallel_chunks(rows, MIN_CHUNK.div_ceil(inner), &|range| {
        // SAFETY: tasks have different rows.
        let out = unsafe { out.part(range.start * inner..range.end * inner) };
        for (row, out) in range.zip(out.chunks_exact_mut(inner)) {
            let from = (row / count * extent + indices[row % count] as usize) * inner;
            out.copy_from_slice(&x[from..from + inner]);
        }
    });
}

/// As [`select`], reading only the elements that are wanted.
fn select_strided<T: Element>(x: View<'_>, dim: usize, indices: &[i64], inner: usize, out: &mut [T]) {
    let (data, count) = (T::read(&x.data).expect("type checked"), indices.len());
    let last = dim + 1 == x.layout.rank();
    for (j, &index) in indices.iter().enumerate() {
        // The run of one element along `dim` where that is the last dimension, and else a run
        // inside a row of `inner` elements.
        x.layout.narrow(dim, index as usize, 1).for_each_run(|first, at, len, stride| {
            let (o, within) = if last { (first, 0) } else { (first / inner, first % inner) };
            let out = &mut out[(o * count + j) * inner + within..][..len];
            out.iter_mut().enumerate().for_each(|(i, out)| *out = data[at + i * stride]);
        });
    }
}

/// `out[.., indices[j], ..] += src[.., j, ..]` along `dim`, in the order of j.
///
/// `out` has shape `out_shape` and holds the start value.
///
/// # Panics
/// As [`index_select`].
pub fn index_add(out: SliceMut<'_>, out_shape: &Shape, dim: usize, indices: View<'_>, src: View<'_>) {
    assert_dim(out_shape.dims(), dim);
    assert!(indices.layout.rank() == 1, "indices of rank {}, not 1", indices.layout.rank());
    assert_kind("the source", src, out.kind());
    assert_len("the output", &out, out_shape.elements());
    let indices = checked(indices, out_shape.dims()[dim]);
    let want = with_extent(out_shape.dims(), dim, indices.len());
    assert_dims("the source", src, want.dims());
    sum_into!(out, src, |out, src| add_rows(out, out_shape, dim, &indices, &src));
}

fn add_rows<T: Sum>(out: &mut [T], shape: &Shape, dim: usize, indices: &[i64], src: &[T]) {
    let inner: usize = shape.dims()[dim + 1..].iter().product();
    let outer: usize = shape.dims()[..dim].iter().product();
    let (extent, count) = (shape.dims()[dim], indices.len());
    if src.is_empty() {
        return;
    }
    // Pieces of rows: whole cache lines, and enough of them to be worth a task.
    let piece = MIN_CHUNK.div_ceil(count).next_multiple_of(64).min(inner);
    let (pieces, out) = (inner.div_ceil(piece), Disjoint::new(out));
    parallel_for(outer * pieces, &|task| {
        let (o, start) = (task / pieces, task % pieces * piece);
        let len = piece.min(inner - start);
        for (j, &index) in indices.iter().enumerate() {
            let to = (o * extent + index as usize) * inner + start;
            let from = (o * count + j) * inner + start;
            // SAFETY: no other task has this piece of the rows of o.
            let to = unsafe { out.part(to..to + len) };
            for (to, &from) in to.iter_mut().zip(&src[from..from + len]) {
                *to = to.plus(from);
            }
        }
    });
}

/// Where position p of the indices meets the larger tensor: its layout with the extents of the
/// indices and stride 0 along `dim`, to which index · stride is added.
fn meeting(large: &Layout, dim: usize, indices: &[usize]) -> Layout {
    let dims = large.dims();
    assert_dim(dims, dim);
    let fits = dims.len() == indices.len()
        && dims.iter().zip(indices).enumerate().all(|(d, (large, small))| d == dim || small <= large);
    assert!(fits, "indices of shape {indices:?} for a tensor of shape {dims:?} along {dim}");
    let mut strides = [0; MAX_RANK];
    strides[..dims.len()].copy_from_slice(large.strides());
    strides[dim] = 0;
    Layout::new(Shape::new(indices), &strides[..dims.len()], large.offset())
}

/// `out[p] = x[q]`, where q is the position p with its coordinate along `dim` replaced by
/// `indices[p]`; out has the shape of the indices, which may be smaller than x along the other
/// dimensions.
///
/// # Panics
/// As [`index_select`].
pub fn gather(x: View<'_>, dim: usize, indices: View<'_>, out: SliceMut<'_>) {
    let walk = meeting(x.layout, dim, indices.layout.dims());
    assert_in_bounds(x);
    assert_kind("the input", x, out.kind());
    assert_len("the output", &out, walk.elements());
    let (indices, step) = (checked(indices, x.layout.dims()[dim]), x.layout.strides()[dim]);
    each_kind!(SliceMut, out, out => read_at(&x, &walk, step, &indices, out));
}

fn read_at<T: Element>(x: &View<'_>, walk: &Layout, step: usize, indices: &[i64], out: &mut [T]) {
    let data = T::read(&x.data).expect("type checked");
    if out.is_empty() {
        return;
    }
    let slab = out.len() / walk.dims()[0];
    let out = Disjoint::new(out);
    parallel_chunks(walk.dims()[0], MIN_CHUNK.div_ceil(slab), &|range| {
        let span = range.start * slab..range.end * slab;
        // SAFETY: tasks have different slabs.
        let (out, indices) = (unsafe { out.part(span.clone()) }, &indices[span]);
        walk.narrow(0, range.start, range.len()).for_each_run(|first, at, len, stride| {
            let (out, indices) = (&mut out[first..][..len], &indices[first..][..len]);
            for (i, (out, &index)) in out.iter_mut().zip(indices).enumerate() {
                *out = data[at + i * stride + index as usize * step];
            }
        });
    });
}

/// `out[q] += src[p]` in row-major order of p, where q is p with its coordinate along `dim`
/// replaced by `indices[p]`.
///
/// `out` has shape `out_shape` and holds the start value; src has the shape of the indices.
///
/// # Panics
/// As [`index_select`].
pub fn scatter_add(out: SliceMut<'_>, out_shape: &Shape, dim: usize, indices: View<'_>, src: View<'_>) {
    let (walk, indices) = scattering(&out, out_shape, dim, indices, src);
    sum_into!(out, src, |out, src| write_at(out, out_shape, dim, &indices, &walk, &src, Sum::plus));
}

/// `out[q] = src[p]`, where q is p with its coordinate along `dim` replaced by `indices[p]`; the
/// last write in row-major order of p wins.
///
/// `out` has shape `out_shape` and keeps its values where nothing is written; src has the shape
/// of the indices.
///
/// # Panics
/// As [`index_select`].
pub fn scatter(out: SliceMut<'_>, out_shape: &Shape, dim: usize, indices: View<'_>, src: View<'_>) {
    let (walk, indices) = scattering(&out, out_shape, dim, indices, src);
    each_kind!(SliceMut, out, out => write_at(out, out_shape, dim, &indices, &walk, &same(src), |_, new| new));
}

fn scattering<'a>(
    out: &SliceMut<'_>,
    out_shape: &Shape,
    dim: usize,
    indices: View<'a>,
    src: View<'_>,
) -> (Layout, Operand<'a, i64>) {
    assert_len("the output", out, out_shape.elements());
    assert_kind("the source", src, out.kind());
    assert_dims("the source", src, indices.layout.dims());
    let walk = meeting(&Layout::contiguous(*out_shape), dim, indices.layout.dims());
    (walk, checked(indices, out_shape.dims()[dim]))
}

fn write_at<T: Element>(
    out: &mut [T],
    shape: &Shape,
    dim: usize,
    indices: &[i64],
    walk: &Layout,
    src: &[T],
    combine: impl Fn(T, T) -> T + Sync,
) {
    if src.is_empty() {
        return;
    }
    let strides = shape.contiguous_strides();
    let (step, slab, out_slab) = (strides[dim], src.len() / walk.dims()[0], strides[0]);
    let out = Disjoint::new(out);
    let slabs = |range: Range<usize>, base: usize, out: &mut [T]| {
        let skip = range.start * slab;
        walk.narrow(0, range.start, range.len()).for_each_run(|first, at, len, stride| {
            for i in 0..len {
                let p = skip + first + i;
                let to = &mut out[at + i * stride + indices[p] as usize * step - base];
                *to = combine(*to, src[p]);
            }
        });
    };
    if dim == 0 {
        // Any slab may write anywhere.
        // SAFETY: this is the only part.
        return slabs(0..walk.dims()[0], 0, unsafe { out.part(0..shape.elements()) });
    }
    parallel_chunks(walk.dims()[0], MIN_CHUNK.div_ceil(slab), &|range| {
        let span = range.start * out_slab..range.end * out_slab;
        // SAFETY: along another dimension than the first, a slab writes to its own place.
        slabs(range, span.start, unsafe { out.part(span.clone()) });
    });
}
