//! Strided gathers, casts, fills and in-place accumulation.

use crate::shape::merge_dims;
use crate::threads::{Disjoint, parallel_chunks};
use crate::{Element, Layout, MAX_RANK, Shape, Slice, SliceMut, View, bf16, f16, memory};

/// A conversion between element types, as candle's `to_dtype` does it: Rust's `as`, half types
/// through f32.
pub(crate) trait Cast<T> {
    /// The value in the other type.
    fn cast(self) -> T;
}

macro_rules! cast {
    ($($from:ty => $($to:ty),*;)*) => {$($(
        impl Cast<$to> for $from {
            #[inline(always)]
            fn cast(self) -> $to {
                self as $to
            }
        }
    )*)*};
}

cast! {
    f64 => f64, f32, u8, u32, i64;
    f32 => f64, f32, u8, u32, i64;
    u8 => f64, f32, u8, u32, i64;
    u32 => f64, f32, u8, u32, i64;
    i64 => f64, f32, u8, u32, i64;
}

macro_rules! cast_half {
    ($($half:ident),*) => {$(
        cast_half!(@int $half; u8, u32, i64);
        impl Cast<f64> for $half {
            #[inline(always)]
            fn cast(self) -> f64 {
                self.to_f64()
            }
        }
        impl Cast<f32> for $half {
            #[inline(always)]
            fn cast(self) -> f32 {
                self.to_f32()
            }
        }
        impl Cast<$half> for $half {
            #[inline(always)]
            fn cast(self) -> $half {
                self
            }
        }
        impl Cast<$half> for f64 {
            #[inline(always)]
            fn cast(self) -> $half {
                $half::from_f64(self)
            }
        }
        impl Cast<$half> for f32 {
            #[inline(always)]
            fn cast(self) -> $half {
                $half::from_f32(self)
            }
        }
    )*};
    (@int $half:ident; $($int:ty),*) => {$(
        impl Cast<$int> for $half {
            #[inline(always)]
            fn cast(self) -> $int {
                self.to_f32() as $int
            }
        }
        impl Cast<$half> for $int {
            #[inline(always)]
            fn cast(self) -> $half {
                $half::from_f32(self as f32)
            }
        }
    )*};
}

cast_half!(bf16, f16);

impl Cast<bf16> for f16 {
    #[inline(always)]
    fn cast(self) -> bf16 {
        bf16::from_f32(self.to_f32())
    }
}

impl Cast<f16> for bf16 {
    #[inline(always)]
    fn cast(self) -> f16 {
        f16::from_f32(self.to_f32())
    }
}

/// Binds `$s` to the typed slice inside a [`Slice`] or [`SliceMut`], whatever its type.
macro_rules! each_kind {
    ($enum:ident, $slice:expr, $s:ident => $body:expr) => {
        match $slice {
            $enum::F64($s) => $body,
            $enum::F32($s) => $body,
            $enum::BF16($s) => $body,
            $enum::F16($s) => $body,
            $enum::U8($s) => $body,
            $enum::U32($s) => $body,
            $enum::I64($s) => $body,
        }
    };
}
pub(crate) use each_kind;

/// Fewer elements than this stay on one thread.
const MIN_CHUNK: usize = 32 * 1024;

/// Writes `x`'s elements in row-major order.
fn gather<S: Element + Cast<T>, T: Element>(src: &[S], x: &View<'_>, out: &mut [T]) {
    if out.is_empty() {
        return;
    }
    assert!(x.layout.end() <= src.len(), "copy: the layout lies within its buffer");
    if out.len() < MIN_CHUNK && x.layout.is_contiguous() {
        return cast_slice(&src[x.layout.offset()..][..out.len()], out);
    }
    let mut strides = [[0; MAX_RANK]];
    strides[0][..x.layout.rank()].copy_from_slice(x.layout.strides());
    let shape = merge_dims(x.layout.shape(), &mut strides);
    let (dims, strides) = (shape.dims(), &strides[0][..shape.rank()]);
    let src = &src[x.layout.offset()..];
    let Some((&outer, inner)) = dims.split_first() else {
        out[0] = src[0].cast();
        return;
    };
    // One slab for each index of the outermost dimension; threads take ranges of slabs.
    let slab: usize = inner.iter().product();
    let parts = Disjoint::new(out);
    parallel_chunks(outer, MIN_CHUNK.div_ceil(slab), &|range| {
        // SAFETY: the ranges do not overlap, so neither do their slabs.
        let out = unsafe { parts.part(range.start * slab..range.end * slab) };
        let mut dims = shape;
        dims.dims_mut()[0] = range.len();
        block(&src[range.start * strides[0]..], dims.dims(), strides, out);
    });
}

fn cast_slice<S: Cast<T> + Copy, T>(src: &[S], out: &mut [T]) {
    for (o, &v) in out.iter_mut().zip(src) {
        *o = v.cast();
    }
}

/// A gather of any rank ≥ 1 on this thread.
fn block<S: Cast<T> + Copy, T: Copy + Default>(src: &[S], dims: &[usize], strides: &[usize], out: &mut [T]) {
    let last = dims.len() - 1;
    if last == 0 {
        return row(src, strides[0], out);
    }
    if last == 1 && strides[1] != 1 && strides[0] < strides[1] {
        return transpose(src, [dims[0], dims[1]], [strides[0], strides[1]], out, dims[1]);
    }
    // A dimension that the source walks in smaller steps than the last one is transposed with it.
    let near = (0..last).rev().find(|&d| strides[d] == 1 && strides[last] != 1);
    if let Some(near) = near.filter(|&d| d + 1 < last) {
        return spread(src, dims, strides, near, out);
    }
    let slab = out.len() / dims[0];
    for (i, out) in out.chunks_exact_mut(slab).enumerate() {
        block(&src[i * strides[0]..], &dims[1..], &strides[1..], out);
    }
}

/// `out[i] = src[i·stride]`.
#[inline]
pub(crate) fn row<S: Cast<T> + Copy, T: Copy>(src: &[S], stride: usize, out: &mut [T]) {
    match stride {
        0 => out.fill(src[0].cast()),
        1 => cast_slice(&src[..out.len()], out),
        _ => {
            for (o, v) in out.iter_mut().zip(src.iter().step_by(stride)) {
                *o = v.cast();
            }
        }
    }
}

/// A side of the blocks that are transposed at once: one cache line of f32.
const TILE: usize = 16;

/// A side of the blocks of blocks, for whose rows there are enough entries in the tables of pages.
const BLOCK: usize = 8 * TILE;

/// `out[i][j] = src[i·strides[0] + j·strides[1]]`, in square blocks; rows of the output are `step`
/// apart.
fn transpose<S: Cast<T> + Copy, T: Copy + Default>(
    src: &[S],
    dims: [usize; 2],
    strides: [usize; 2],
    out: &mut [T],
    step: usize,
) {
    for i1 in (0..dims[0]).step_by(BLOCK) {
        for j1 in (0..dims[1]).step_by(BLOCK) {
            for j0 in (j1..dims[1].min(j1 + BLOCK)).step_by(TILE) {
                for i0 in (i1..dims[0].min(i1 + BLOCK)).step_by(TILE) {
                    let src = &src[i0 * strides[0] + j0 * strides[1]..];
                    let out = &mut out[i0 * step + j0..];
                    if strides[0] == 1 && i0 + TILE <= dims[0] && j0 + TILE <= dims[1] {
                        tile(src, strides[1], out, step);
                    } else {
                        for i in 0..TILE.min(dims[0] - i0) {
                            let n = TILE.min(dims[1] - j0);
                            row(&src[i * strides[0]..], strides[1], &mut out[i * step..][..n]);
                        }
                    }
                }
            }
        }
    }
}

/// One whole block of a transpose. It goes through a small buffer, so that source and output are
/// each touched a cache line at a time: lines that lie a power of two apart push each other out of
/// the cache before they could be used again.
#[inline]
fn tile<S: Cast<T> + Copy, T: Copy + Default>(src: &[S], from: usize, out: &mut [T], to: usize) {
    let mut buffer = [[T::default(); TILE]; TILE];
    for j in 0..TILE {
        let line = &src[j * from..j * from + TILE];
        for i in 0..TILE {
            buffer[i][j] = line[i].cast();
        }
    }
    for (i, line) in buffer.iter().enumerate() {
        out[i * to..i * to + TILE].copy_from_slice(line);
    }
}

/// A gather whose unit stride lies at dimension `near`, with others between it and the last:
/// blocks of `near` and the last dimension, for each index of all others.
fn spread<S: Cast<T> + Copy, T: Copy + Default>(
    src: &[S],
    dims: &[usize],
    strides: &[usize],
    near: usize,
    out: &mut [T],
) {
    let last = dims.len() - 1;
    let (n, step) = (dims[last], strides[last]);
    let out_step: usize = dims[near + 1..].iter().product();
    let mut rest = Shape::new(dims);
    rest.dims_mut()[near] = 1;
    rest.dims_mut()[last] = 1;
    let to = Shape::new(dims).contiguous_strides();
    let from = Layout::new(rest, strides, 0);
    let to = Layout::new(rest, &to[..dims.len()], 0);
    let mut starts = [0; 2];
    for index in 0..rest.elements() {
        for (start, layout) in starts.iter_mut().zip([&from, &to]) {
            *start = layout.index_of(index);
        }
        let out = &mut out[starts[1]..];
        transpose(&src[starts[0]..], [dims[near], n], [1, step], out, out_step);
    }
}

/// Writes the elements of `x` in row-major order, cast to the type of `out`.
///
/// # Panics
/// Panics where `out` has not as many elements as `x`, or `x` reaches beyond its buffer.
pub fn copy(x: View<'_>, out: SliceMut<'_>) {
    assert_eq!(x.layout.elements(), out.len(), "copy: the output has as many elements as the input");
    each_kind!(SliceMut, out, out => each_kind!(Slice, x.data, src => gather(src, &x, out)));
}

/// Sets every element to `value`, cast to the type of `out`.
pub fn fill(value: f64, out: SliceMut<'_>) {
    each_kind!(SliceMut, out, out => out.fill(Cast::cast(value)));
}

/// acc += x, element by element, in the type of `acc` (half types add in f32).
///
/// # Panics
/// Panics where `acc` has not as many elements as `x`.
pub fn add_assign(acc: SliceMut<'_>, x: View<'_>) {
    assert_eq!(x.layout.elements(), acc.len(), "add_assign: both sides have as many elements");
    if acc.is_empty() {
        return;
    }
    assert!(x.layout.end() <= x.data.len(), "add_assign: the layout lies within its buffer");
    match acc {
        SliceMut::F32(acc) => {
            each_kind!(Slice, x.data, src => accumulate::<_, _, f32>(acc, src, x.layout))
        }
        SliceMut::F64(acc) => {
            each_kind!(Slice, x.data, src => accumulate::<_, _, f64>(acc, src, x.layout))
        }
        SliceMut::BF16(acc) => {
            each_kind!(Slice, x.data, src => accumulate::<_, _, f32>(acc, src, x.layout))
        }
        SliceMut::F16(acc) => {
            each_kind!(Slice, x.data, src => accumulate::<_, _, f32>(acc, src, x.layout))
        }
        SliceMut::U8(acc) => accumulate_int(acc, x, u8::wrapping_add),
        SliceMut::U32(acc) => accumulate_int(acc, x, u32::wrapping_add),
        SliceMut::I64(acc) => accumulate_int(acc, x, i64::wrapping_add),
    }
}

/// acc += src in the type `C`.
fn accumulate<T, S, C>(acc: &mut [T], src: &[S], layout: &Layout)
where
    T: Element + Cast<C>,
    S: Element + Cast<C>,
    C: Cast<T> + std::ops::Add<Output = C>,
{
    let add = |acc: &mut T, v: S| *acc = ((*acc).cast() + v.cast()).cast();
    if layout.is_contiguous() {
        let src = &src[layout.offset()..][..acc.len()];
        let parts = Disjoint::new(acc);
        parallel_chunks(src.len(), MIN_CHUNK, &|range| {
            // SAFETY: the ranges do not overlap.
            let acc = unsafe { parts.part(range.clone()) };
            acc.iter_mut().zip(&src[range]).for_each(|(a, &v)| add(a, v));
        });
        return;
    }
    layout.for_each_run(|at, from, len, stride| {
        let acc = &mut acc[at..at + len];
        if stride == 0 {
            acc.iter_mut().for_each(|a| add(a, src[from]));
        } else {
            acc.iter_mut().zip(src[from..].iter().step_by(stride)).for_each(|(a, &v)| add(a, v));
        }
    });
}

/// acc += x for integers, which wrap.
fn accumulate_int<T: Element>(acc: &mut [T], x: View<'_>, add: fn(T, T) -> T) {
    let mut values = memory::take::<T>(acc.len());
    copy(x, T::slice_mut(&mut values));
    acc.iter_mut().zip(&values).for_each(|(a, &v)| *a = add(*a, v));
    memory::give(values);
}
