//! Reductions over any set of dimensions.
//!
//! Sums go through the tile machine, whose accumulators are f64. Products, maxima and minima fold
//! rows in vectors (f32 and f64; half types in f32) or number by number (integers, in i64).

mod fold;
mod trailing;

use crate::copy::copy;
use crate::expr::{Builder, Program};
use crate::machine::run_reduced;
use crate::rows::{MIN_CHUNK, Rows, wide, with_last};
use crate::shape::merge_dims;
use crate::simd::Float;
use crate::threads::{Disjoint, chunk_length, parallel_chunks, parallel_for};
use crate::{Kind, Layout, MAX_RANK, Shape, SliceMut, View, memory};
use fold::Number;
use std::sync::LazyLock;

/// How elements become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reduction {
    /// Σ x; 0 of nothing.
    Sum,
    /// Σ x / n; NaN of nothing.
    Mean,
    /// Π x; 1 of nothing.
    Prod,
    /// The largest, NaN where there is one; −∞ of nothing.
    Max,
    /// The smallest, NaN where there is one; +∞ of nothing.
    Min,
}

/// Reduces `x` over the dimensions that `over` marks. `out` has the kept dimensions in row-major
/// order, and any kind: integers are reduced in i64 (a mean in f64), floats in their own type.
///
/// # Panics
/// Panics where `over` has not one entry for each dimension, `out` not one element for each kept
/// index, or `x` reaches beyond its buffer.
pub fn reduce(op: Reduction, x: View<'_>, over: &[bool], out: SliceMut<'_>) {
    let shape = *x.layout.shape();
    assert_eq!(over.len(), shape.rank(), "reduce: one mark for each dimension");
    let mut target = shape;
    target.dims_mut().iter_mut().zip(over).for_each(|(d, &r)| *d = if r { 1 } else { *d });
    assert_eq!(out.len(), target.elements(), "reduce: one output for each kept index");
    let mut out = out;
    if shape.elements() <= LONG && trailing::reduce(op, &x, over, &mut out) {
        return;
    }
    let floats = x.kind().is_float();
    let summands = Summands { program: &IDENTITY, params: &[], inputs: &[x], shape, target };
    match op {
        Reduction::Sum if floats => summands.sum(out),
        Reduction::Mean if wide(&[x.kind(), out.kind()]) || !floats => summands.mean::<f64>(out),
        Reduction::Mean => summands.mean::<f32>(out),
        Reduction::Sum | Reduction::Prod | Reduction::Max | Reduction::Min => match x.kind() {
            Kind::F64 => fold_as::<f64>(op, Rows::flat(x).all(), &shape, &target, out),
            Kind::F32 | Kind::BF16 | Kind::F16 => {
                fold_as::<f32>(op, Rows::flat(x).all(), &shape, &target, out);
            }
            Kind::U8 | Kind::U32 | Kind::I64 => {
                let values = integers(x.data, x.layout);
                fold_as::<i64>(op, &values, &shape, &target, out);
                memory::give(values);
            }
        },
    }
}

/// Sums of more numbers than this go through the tile machine, whatever is summed.
const LONG: usize = 64 * 1024;

/// Whether [`reduce_expression`] gives to the bit what [`reduce`] gives of the expression's values,
/// for inputs that are contiguous.
pub fn sums_alike(elements: usize) -> bool {
    elements > LONG
}

/// Sum or mean of an expression's one output, for floats, in the pass that computes it: as
/// [`machine::run`](crate::machine::run) over the shape to which the inputs broadcast, and then
/// [`reduce`], without the values in between.
///
/// # Panics
/// Panics where either would, and for another reduction.
pub fn reduce_expression(
    op: Reduction,
    program: &Program,
    params: &[f64],
    inputs: &[View<'_>],
    over: &[bool],
    out: SliceMut<'_>,
) {
    let broadcast = |shape: Shape, x: &View<'_>| shape.broadcast(x.layout.shape());
    let shape = inputs.iter().try_fold(Shape::SCALAR, broadcast).expect("reduce: inputs broadcast");
    let mut target = shape;
    target.dims_mut().iter_mut().zip(over).for_each(|(d, &r)| *d = if r { 1 } else { *d });
    let summands = Summands { program, params, inputs, shape, target };
    match op {
        Reduction::Sum => summands.sum(out),
        Reduction::Mean if out.kind() == Kind::F64 => summands.mean::<f64>(out),
        Reduction::Mean => summands.mean::<f32>(out),
        Reduction::Prod | Reduction::Max | Reduction::Min => {
            panic!("reduce: {op:?} of an expression is found from its values")
        }
    }
}

/// An expression over a shape, to be summed to a target.
struct Summands<'a> {
    program: &'a Program,
    params: &'a [f64],
    inputs: &'a [View<'a>],
    shape: Shape,
    target: Shape,
}

impl Summands<'_> {
    fn sum(&self, out: SliceMut<'_>) {
        run_reduced(self.program, self.params, self.inputs, &self.shape, &mut [out], &[self.target]);
    }

    fn mean<T: Float>(&self, out: SliceMut<'_>) {
        let count = self.shape.elements() as f64 / self.target.elements() as f64;
        let mut sums = memory::take::<T>(out.len());
        self.sum(T::slice_mut(&mut sums));
        sums.iter_mut().for_each(|s| *s = T::from_f64(s.to_f64() / count));
        let layout = Layout::contiguous(self.target);
        copy(View { data: T::slice(&sums), layout: &layout }, out);
        memory::give(sums);
    }
}

/// The program y = x, whose reduction is a sum.
static IDENTITY: LazyLock<Program> = LazyLock::new(|| {
    let mut b = Builder::new();
    let x = b.input(0);
    b.finish(&[x], 1, 0)
});

fn integers(data: crate::Slice<'_>, layout: &Layout) -> Vec<i64> {
    let mut values = memory::take::<i64>(layout.elements());
    copy(View { data, layout }, SliceMut::I64(&mut values));
    values
}

/// Folds contiguous numbers of a shape to its target.
fn fold_as<A: Number>(op: Reduction, x: &[A], shape: &Shape, target: &Shape, out: SliceMut<'_>) {
    let mut acc = memory::take::<A>(out.len());
    acc.fill(A::start(op));
    if !x.is_empty() {
        let wide = Layout::contiguous(*target).broadcast_to(shape).expect("1 broadcasts to all");
        let mut strides = [[0; MAX_RANK]; 2];
        strides[0] = shape.contiguous_strides();
        strides[1][..shape.rank()].copy_from_slice(wide.strides());
        let merged = merge_dims(shape, &mut strides);
        fold_parallel(op, x, merged, &strides[1], &mut acc);
    }
    let layout = Layout::contiguous(Shape::new(&[acc.len()]));
    copy(View { data: A::slice(&acc), layout: &layout }, out);
    memory::give(acc);
}

/// Folds over chunks of the outermost dimension, on all threads.
fn fold_parallel<A: Number>(op: Reduction, x: &[A], dims: Shape, strides: &[usize; MAX_RANK], acc: &mut [A]) {
    let Some(&outer) = dims.dims().first() else {
        acc[0] = A::pair(op, acc[0], x[0]);
        return;
    };
    let slab = x.len() / outer;
    let fold = |range: std::ops::Range<usize>, acc: &mut [A]| {
        let mut part = dims;
        part.dims_mut()[0] = range.len();
        fold_block(op, &x[range.start * slab..range.end * slab], part.dims(), strides, acc);
    };
    if strides[0] != 0 {
        // Kept: each chunk has its own part of the output.
        let step = strides[0];
        let all = Disjoint::new(acc);
        parallel_chunks(outer, MIN_CHUNK.div_ceil(slab), &|range| {
            // SAFETY: the ranges do not overlap.
            fold(range.clone(), unsafe { all.part(range.start * step..range.end * step) });
        });
        return;
    }
    // Reduced: each chunk folds into an array of its own; few of them beside the input.
    let len = acc.len();
    let chunk = chunk_length(outer, MIN_CHUNK.max(8 * len).div_ceil(slab));
    let chunks = outer.div_ceil(chunk);
    if chunks == 1 {
        return fold(0..outer, acc);
    }
    let mut own = memory::take::<A>(chunks * len);
    own.fill(A::start(op));
    let all = Disjoint::new(&mut own);
    parallel_for(chunks, &|c| {
        // SAFETY: each chunk has its own part.
        let part = unsafe { all.part(c * len..(c + 1) * len) };
        fold(c * chunk..outer.min((c + 1) * chunk), part);
    });
    own.chunks_exact(len).for_each(|part| A::columns(op, acc, part));
    memory::give(own);
}

/// Folds a block on this thread.
fn fold_block<A: Number>(op: Reduction, x: &[A], dims: &[usize], strides: &[usize], acc: &mut [A]) {
    if let &[n] = dims {
        if strides[0] == 0 {
            acc[0] = A::pair(op, acc[0], A::row(op, x));
        } else {
            A::columns(op, &mut acc[..n], x);
        }
        return;
    }
    let slab = x.len() / dims[0];
    for (i, x) in x.chunks_exact(slab).enumerate() {
        fold_block(op, x, &dims[1..], &strides[1..], &mut acc[i * strides[0]..]);
    }
}

/// The largest (or smallest) elements along `dim`, and their indices there. The first wins among
/// equals, and NaN wins over all, as in PyTorch.
///
/// # Panics
/// Panics where `dim` is no dimension or is empty, the outputs have not one element for each
/// index of the other dimensions, or `indices` is not U32.
pub fn arg_reduce(max: bool, x: View<'_>, dim: usize, values: SliceMut<'_>, indices: SliceMut<'_>) {
    let dims = x.layout.dims();
    assert!(dim < dims.len(), "arg_reduce: dimension {dim} is one of the {} there are", dims.len());
    let n = dims[dim];
    assert!(n > 0, "arg_reduce: the dimension is not empty");
    let rows = x.layout.elements() / n;
    assert!(
        values.len() == rows && indices.len() == rows,
        "arg_reduce: one value and one index for each row"
    );
    let SliceMut::U32(indices) = indices else {
        panic!("arg_reduce: the indices are U32, not {:?}", indices.kind())
    };
    let op = if max { Reduction::Max } else { Reduction::Min };
    match x.kind() {
        Kind::F64 => arg_rows::<f64>(op, Rows::along(x, dim).all(), n, values, indices),
        Kind::F32 | Kind::BF16 | Kind::F16 => {
            arg_rows::<f32>(op, Rows::along(x, dim).all(), n, values, indices);
        }
        Kind::U8 | Kind::U32 | Kind::I64 => {
            let data = integers(x.data, &with_last(x.layout, dim));
            arg_rows::<i64>(op, &data, n, values, indices);
            memory::give(data);
        }
    }
}

fn arg_rows<A: Number>(op: Reduction, x: &[A], n: usize, out: SliceMut<'_>, indices: &mut [u32]) {
    let rows = indices.len();
    let mut values = memory::take::<A>(rows);
    let (best, at) = (Disjoint::new(&mut values), Disjoint::new(indices));
    parallel_chunks(rows, MIN_CHUNK.div_ceil(n), &|range| {
        // SAFETY: the ranges do not overlap.
        let (best, at) = unsafe { (best.part(range.clone()), at.part(range.clone())) };
        let rows = x[range.start * n..range.end * n].chunks_exact(n);
        for ((row, best), at) in rows.zip(best).zip(at) {
            *best = A::row(op, row);
            let is_nan = |v: &A| v.partial_cmp(v).is_none();
            let found = match is_nan(best) {
                true => row.iter().position(is_nan),
                false => row.iter().position(|v| v == best),
            };
            *at = found.unwrap_or(0) as u32;
        }
    });
    let layout = Layout::contiguous(Shape::new(&[rows]));
    copy(View { data: A::slice(&values), layout: &layout }, out);
    memory::give(values);
}
