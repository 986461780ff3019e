//! Tensors as contiguous rows along one dimension, in the type that a kernel computes in.
//!
//! Where a tensor lies that way already it is used in place; else it is copied (transposed,
//! converted) into recycled memory first, and results are copied back. So row kernels know one
//! layout and two types.

use crate::copy::copy;
use crate::simd::Float;
use crate::threads::{Disjoint, parallel_chunks};
use crate::{Kind, Layout, Shape, SliceMut, View, memory};
use std::ops::Range;

/// Whether a kernel over these types computes in f64.
pub(crate) fn wide(kinds: &[Kind]) -> bool {
    kinds.contains(&Kind::F64)
}

/// A layout with dimension `dim` moved to the end.
pub(crate) fn with_last(layout: &Layout, dim: usize) -> Layout {
    let mut order = [0; crate::MAX_RANK];
    let rank = layout.rank();
    let rest = (0..rank).filter(|&d| d != dim).chain([dim]);
    order.iter_mut().zip(rest).for_each(|(o, d)| *o = d);
    layout.permute(&order[..rank])
}

/// Rows to read.
pub(crate) enum Rows<'a, T: Float> {
    /// In place.
    Here(&'a [T]),
    /// Copied.
    Copied(Vec<T>),
}

impl<'a, T: Float> Rows<'a, T> {
    /// The rows of `x` along `dim`.
    pub(crate) fn along(x: View<'a>, dim: usize) -> Self {
        if dim + 1 == x.layout.rank() {
            return Self::flat(x);
        }
        let layout = with_last(x.layout, dim);
        Self::flat_as(x, &layout)
    }

    /// All elements in row-major order.
    pub(crate) fn flat(x: View<'a>) -> Self {
        Self::flat_as(x, x.layout)
    }

    fn flat_as(x: View<'a>, layout: &Layout) -> Self {
        if let Some(data) = T::read(&x.data)
            && layout.is_contiguous()
        {
            let (start, len) = (layout.offset(), layout.elements());
            return Self::Here(&data[if len == 0 { 0..0 } else { start..start + len }]);
        }
        let mut copied = memory::take(layout.elements());
        copy(View { data: x.data, layout }, T::slice_mut(&mut copied));
        Self::Copied(copied)
    }

    /// The same number `n` times.
    pub(crate) fn repeat(value: f64, n: usize) -> Self {
        let mut copied = memory::take(n);
        copied.fill(T::from_f64(value));
        Self::Copied(copied)
    }

    /// The elements of some rows of length n.
    pub(crate) fn part(&self, rows: Range<usize>, n: usize) -> &[T] {
        &self.all()[rows.start * n..rows.end * n]
    }

    /// All elements.
    pub(crate) fn all(&self) -> &[T] {
        match self {
            Self::Here(x) => x,
            Self::Copied(x) => x,
        }
    }
}

impl<T: Float> Drop for Rows<'_, T> {
    fn drop(&mut self) {
        if let Self::Copied(x) = self {
            memory::give(std::mem::take(x));
        }
    }
}

/// Rows to write.
pub(crate) struct RowsMut<'a, T: Float> {
    out: SliceMut<'a>,
    /// Where rows are written that are copied to `out` at the end.
    copied: Option<Vec<T>>,
    /// How `out` reads the rows: its own dimensions, over rows along the last of them.
    layout: Layout,
}

impl<'a, T: Float> RowsMut<'a, T> {
    /// The rows along `dim` of an output with these extents.
    pub(crate) fn along(out: SliceMut<'a>, shape: &Shape, dim: usize) -> Self {
        assert_eq!(out.len(), shape.elements(), "an output has as many elements as its shape");
        let rank = shape.rank();
        // The rows are contiguous in the order with `dim` last; `out` has it where it was.
        let moved = with_last(&Layout::contiguous(*shape), dim);
        let mut back = [0; crate::MAX_RANK];
        back[dim] = rank - 1;
        (0..rank).filter(|&d| d != dim).enumerate().for_each(|(at, d)| back[d] = at);
        let layout = Layout::contiguous(*moved.shape()).permute(&back[..rank]);
        let in_place = out.kind() == T::KIND && dim + 1 == rank;
        let copied = (!in_place).then(|| memory::take(out.len()));
        Self { out, copied, layout }
    }

    /// All elements of an output in row-major order.
    pub(crate) fn flat(out: SliceMut<'a>) -> Self {
        let shape = Shape::new(&[out.len()]);
        Self::along(out, &shape, 0)
    }

    /// What to write.
    pub(crate) fn all(&mut self) -> &mut [T] {
        match &mut self.copied {
            Some(copied) => copied,
            None => T::write(&mut self.out).expect("rows in place are of the kernel's type"),
        }
    }

    /// Writes what was copied to the output.
    pub(crate) fn finish(self) {
        if let Some(copied) = self.copied {
            copy(View { data: T::slice(&copied), layout: &self.layout }, self.out);
            memory::give(copied);
        }
    }
}

/// Elements that a thread takes at least.
pub(crate) const MIN_CHUNK: usize = 16 * 1024;

/// Runs f(rows, their part of y) over all rows of length n, on all threads.
pub(crate) fn for_rows<T: Float>(y: &mut [T], n: usize, f: &(dyn Fn(Range<usize>, &mut [T]) + Sync)) {
    if y.is_empty() {
        return;
    }
    let rows = y.len() / n;
    let y = Disjoint::new(y);
    parallel_chunks(rows, MIN_CHUNK.div_ceil(n), &|range| {
        // SAFETY: the ranges do not overlap.
        let part = unsafe { y.part(range.start * n..range.end * n) };
        f(range, part);
    });
}
