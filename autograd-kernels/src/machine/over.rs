//! Expressions evaluated over the memory of their first input.

use super::run;
use crate::expr::Program;
use crate::threads::{Disjoint, parallel_chunks};
use crate::{Element, Layout, MAX_RANK, Shape, SliceMut, View};
use smallvec::SmallVec;
use std::mem::MaybeUninit;

/// Elements of one step: their old content is set aside on the stack (32 KiB for the widest type),
/// and stays in a cache meanwhile.
const STEP: usize = 4 * 1024;

/// Fewer steps than this stay on one thread.
const MIN_STEPS: usize = 8;

/// Evaluates a program of one output for each element of `shape`, and writes it over its first
/// input: `target` holds that input's elements in row-major order. The other inputs broadcast to
/// `shape`. The numbers are those of [`run`], to the bit.
///
/// # Panics
/// Panics as [`run`] does, and where `target` has not as many elements as `shape`.
pub fn run_over(program: &Program, params: &[f64], target: SliceMut<'_>, shape: &Shape, others: &[View<'_>]) {
    macro_rules! kinds {
        ($($variant:ident),*) => {
            match target { $(SliceMut::$variant(data) => over(program, params, data, shape, others),)* }
        };
    }
    kinds!(F64, F32, BF16, F16, U8, U32, I64);
}

/// How a shape is cut in steps: `rows` of dimension `dim` at a time, for every index before it.
struct Cut {
    dim: usize,
    rows: usize,
    /// Elements of one row.
    inner: usize,
    /// Steps along the dimension.
    along: usize,
    steps: usize,
}

impl Cut {
    fn of(shape: &Shape) -> Self {
        let dims = shape.dims();
        // The foremost dimension whose rows fit in a step.
        let (mut dim, mut inner) = (dims.len().saturating_sub(1), 1);
        while dim > 0 && inner * dims[dim] < STEP {
            inner *= dims[dim];
            dim -= 1;
        }
        let extent = dims.get(dim).copied().unwrap_or(1);
        let rows = (STEP / inner).clamp(1, extent);
        let along = extent.div_ceil(rows);
        let outer: usize = dims[..dim].iter().product();
        Self { dim, rows, inner, along, steps: outer * along }
    }
}

fn over<T: Element>(program: &Program, params: &[f64], target: &mut [T], shape: &Shape, others: &[View<'_>]) {
    assert_eq!(target.len(), shape.elements(), "machine: a value fills its memory");
    if target.is_empty() {
        return;
    }
    let wide: SmallVec<[Layout; 4]> = others
        .iter()
        .map(|x| x.layout.broadcast_to(shape).expect("machine: every input broadcasts to the shape"))
        .collect();
    let cut = Cut::of(shape);
    let parts = Disjoint::new(target);
    parallel_chunks(cut.steps, MIN_STEPS, &|steps| {
        let mut aside = [const { MaybeUninit::<T>::uninit() }; STEP];
        for step in steps {
            let (outer, row) = (step / cut.along, step % cut.along * cut.rows);
            let extent = shape.dims().get(cut.dim).copied().unwrap_or(1);
            let rows = cut.rows.min(extent - row);
            let start = (outer * extent + row) * cut.inner;
            // SAFETY: steps do not overlap, and each belongs to one chunk.
            let now = unsafe { parts.part(start..start + rows * cut.inner) };
            let old: &[T] = aside[..now.len()].write_copy_of_slice(now);
            let layouts: SmallVec<[Layout; 4]> =
                wide.iter().map(|layout| step_of(layout, cut.dim, outer, row, rows)).collect();
            let piece = step_of(&Layout::contiguous(*shape), cut.dim, outer, row, rows);
            let own = Layout::contiguous(*piece.shape());
            let mut views: SmallVec<[View<'_>; 4]> = SmallVec::new();
            views.push(View { data: T::slice(old), layout: &own });
            views.extend(others.iter().zip(&layouts).map(|(x, layout)| View { data: x.data, layout }));
            run(program, params, &views, own.shape(), &mut [T::slice_mut(now)]);
        }
    });
}

/// Rows `row .. row + rows` of dimension `dim` at the index `outer` of the dimensions before it.
fn step_of(layout: &Layout, dim: usize, outer: usize, row: usize, rows: usize) -> Layout {
    if layout.rank() == 0 {
        return *layout;
    }
    let (mut rest, mut offset) = (outer, layout.offset() + row * layout.strides()[dim]);
    for d in (0..dim).rev() {
        offset += rest % layout.dims()[d] * layout.strides()[d];
        rest /= layout.dims()[d];
    }
    let mut dims = [0; MAX_RANK];
    let rank = layout.rank() - dim;
    dims[..rank].copy_from_slice(&layout.dims()[dim..]);
    dims[0] = rows;
    Layout::new(Shape::new(&dims[..rank]), &layout.strides()[dim..], offset)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expr::{Binary, Builder};

    fn product_plus_one() -> Program {
        let mut b = Builder::new();
        let (x, y, one) = (b.input(0), b.input(1), b.constant(1.0));
        let xy = b.binary(Binary::Mul, x, y);
        let out = b.binary(Binary::Add, xy, one);
        b.finish(&[out], 2, 0)
    }

    /// Evaluates over `x` and elsewhere, with the other input of the given layout.
    fn check(dims: &[usize], other: &Layout) {
        let shape = Shape::new(dims);
        let program = product_plus_one();
        let x: Vec<f32> = (0..shape.elements()).map(|i| (i % 17) as f32 - 8.0).collect();
        let y: Vec<f32> = (0..other.end()).map(|i| (i % 5) as f32 - 1.5).collect();
        let whole = Layout::contiguous(shape);
        let other = View { data: f32::slice(&y), layout: other };
        let mut want = vec![0f32; x.len()];
        let views = [View { data: f32::slice(&x), layout: &whole }, other];
        run(&program, &[], &views, &shape, &mut [f32::slice_mut(&mut want)]);
        let mut got = x;
        run_over(&program, &[], f32::slice_mut(&mut got), &shape, &[other]);
        assert_eq!(got, want, "shape {dims:?}");
    }

    #[test]
    fn evaluating_over_an_input_gives_the_numbers_of_evaluating_elsewhere() {
        for dims in [&[][..], &[0], &[7], &[3, 5], &[100_000], &[3, 5000], &[2, 70, 300], &[6000, 2]] {
            let whole = Layout::contiguous(Shape::new(dims));
            check(dims, &whole);
            check(dims, &Layout::contiguous(Shape::SCALAR));
            if let Some((&last, _)) = dims.split_last() {
                check(dims, &Layout::contiguous(Shape::new(&[last])));
            }
        }
        let transposed = Layout::contiguous(Shape::new(&[300, 70])).permute(&[1, 0]);
        check(&[2, 70, 300], &transposed);
        check(&[70, 3], &Layout::contiguous(Shape::new(&[70, 1])));
    }
}
