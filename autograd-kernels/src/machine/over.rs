//! Expressions evaluated over the memory of one of their inputs.

use super::single::run_alike;
use super::{evaluate, run};
use crate::expr::Program;
use crate::simd::Float;
use crate::threads::{Disjoint, parallel_chunks};
use crate::{Element, Layout, Shape, Slice, SliceMut, View};
use smallvec::SmallVec;
use std::mem::MaybeUninit;

/// Elements of one step of a program of one function: their old content is set aside on the stack
/// (32 KiB for the widest type), and stays in a cache meanwhile.
const STEP: usize = 4 * 1024;

/// Fewer steps than this stay on one thread.
const MIN_STEPS: usize = 8;

/// Up to so many elements are set aside whole.
const LITTLE: usize = 256;

/// Evaluates a program of one output for each element of `shape`, and writes it over input `over`:
/// `target` holds that input's elements in row-major order. The other inputs, in their order,
/// broadcast to `shape`. The numbers are those of [`run`](super::run), to the bit.
///
/// # Panics
/// Panics as [`run`](super::run) does, and where `target` has not as many elements as `shape`.
pub fn run_over(
    program: &Program,
    params: &[f64],
    over: usize,
    target: SliceMut<'_>,
    shape: &Shape,
    others: &[View<'_>],
) {
    assert_eq!(target.len(), shape.elements(), "machine: a value fills its memory");
    let mut target = target;
    let done = match &mut target {
        SliceMut::F64(data) => alike(program, params, over, data, shape, others),
        SliceMut::F32(data) => alike(program, params, over, data, shape, others),
        _ => false,
    };
    if done {
        return;
    }
    let layout = Layout::contiguous(*shape);
    let with = |old: Slice<'_>, target: SliceMut<'_>| {
        let mut inputs: SmallVec<[View<'_>; 4]> = SmallVec::from_slice(others);
        inputs.insert(over, View { data: old, layout: &layout });
        if old.is_empty() {
            evaluate(program, params, &inputs, shape, &mut [target], None, Some(over));
        } else {
            run(program, params, &inputs, shape, &mut [target]);
        }
    };
    macro_rules! kinds {
        ($($variant:ident $ty:ty),*) => {
            match target { $(SliceMut::$variant(data) => {
                // Little is set aside whole, and goes the short ways that there are for it.
                let mut aside = [const { MaybeUninit::<$ty>::uninit() }; LITTLE];
                let old: &[$ty] = match aside.get_mut(..data.len()) {
                    Some(aside) => aside.write_copy_of_slice(data),
                    None => &[],
                };
                with(<$ty>::slice(old), SliceMut::$variant(data));
            })* }
        };
    }
    kinds!(F64 f64, F32 f32, BF16 half::bf16, F16 half::f16, U8 u8, U32 u32, I64 i64);
}

/// A program of one function over inputs that lie side by side; whether it is one.
fn alike<T: Float>(
    program: &Program,
    params: &[f64],
    over: usize,
    target: &mut [T],
    shape: &Shape,
    others: &[View<'_>],
) -> bool {
    let single = program.schedule().single.is_some() && program.inputs() == others.len() + 1;
    let other = match others {
        [] if single => None,
        [x] if single && x.layout.shape() == shape => match x.contiguous::<T>() {
            Some(x) => Some(x),
            None => return false,
        },
        _ => return false,
    };
    let parts = Disjoint::new(target);
    parallel_chunks(shape.elements().div_ceil(STEP), MIN_STEPS, &|steps| {
        let mut aside = [const { MaybeUninit::<T>::uninit() }; STEP];
        for step in steps {
            let range = step * STEP..shape.elements().min((step + 1) * STEP);
            // SAFETY: steps do not overlap, and each belongs to one chunk.
            let now = unsafe { parts.part(range.clone()) };
            let old: &[T] = aside[..now.len()].write_copy_of_slice(now);
            let ran = match other {
                None => run_alike(program, params, &[old], now),
                Some(x) if over == 0 => run_alike(program, params, &[old, &x[range]], now),
                Some(x) => run_alike(program, params, &[&x[range], old], now),
            };
            assert!(ran, "a program of one function runs on any part of its inputs");
        }
    });
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expr::{Binary, Builder, Unary};

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
        let mut got = x.clone();
        run_over(&program, &[], 0, f32::slice_mut(&mut got), &shape, &[other]);
        assert_eq!(got, want, "shape {dims:?}");
        // The same with the inputs in the other order.
        let views = [other, View { data: f32::slice(&x), layout: &whole }];
        run(&program, &[], &views, &shape, &mut [f32::slice_mut(&mut want)]);
        let mut got = x;
        run_over(&program, &[], 1, f32::slice_mut(&mut got), &shape, &[other]);
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

    #[test]
    fn one_function_over_either_input() {
        let mut b = Builder::new();
        let (x, y) = (b.input(0), b.input(1));
        let out = b.binary(Binary::Sub, x, y);
        let difference = b.finish(&[out], 2, 0);
        let mut b = Builder::new();
        let x = b.input(0);
        let out = b.unary(Unary::Exp, x);
        let exp = b.finish(&[out], 1, 0);
        for n in [0, 1, 4095, 4097, 200_001] {
            let (shape, layout) = (Shape::new(&[n]), Layout::contiguous(Shape::new(&[n])));
            let x: Vec<f64> = (0..n).map(|i| (i % 19) as f64 / 8.0).collect();
            let y: Vec<f64> = (0..n).map(|i| (i % 23) as f64 / 4.0).collect();
            let (of_x, of_y) = (
                View { data: f64::slice(&x), layout: &layout },
                View { data: f64::slice(&y), layout: &layout },
            );
            let mut want = vec![0f64; n];
            run(&difference, &[], &[of_x, of_y], &shape, &mut [f64::slice_mut(&mut want)]);
            let (mut left, mut right) = (x.clone(), y.clone());
            run_over(&difference, &[], 0, f64::slice_mut(&mut left), &shape, &[of_y]);
            run_over(&difference, &[], 1, f64::slice_mut(&mut right), &shape, &[of_x]);
            assert_eq!((&left, &right), (&want, &want));
            run(&exp, &[], &[of_x], &shape, &mut [f64::slice_mut(&mut want)]);
            let mut over = x.clone();
            run_over(&exp, &[], 0, f64::slice_mut(&mut over), &shape, &[]);
            assert_eq!(over, want);
        }
    }

    #[test]
    fn halves_and_masks_are_read_before_they_are_written() {
        let mut b = Builder::new();
        let (x, y) = (b.input(0), b.input(1));
        let exp = b.unary(Unary::Exp, x);
        let out = b.binary(Binary::Mul, exp, y);
        let program = b.finish(&[out], 2, 0);
        for dims in [&[30_000][..], &[5, 700], &[40, 3]] {
            let shape = Shape::new(dims);
            let (n, layout) = (shape.elements(), Layout::contiguous(shape));
            let x: Vec<half::f16> = (0..n).map(|i| half::f16::from_f64((i % 7) as f64 / 8.0)).collect();
            let y: Vec<f32> = (0..dims[dims.len() - 1]).map(|i| (i % 3) as f32).collect();
            let row = Layout::contiguous(Shape::new(&dims[dims.len() - 1..]));
            let of_y = View { data: f32::slice(&y), layout: &row };
            let mut want = vec![half::f16::ZERO; n];
            let views = [View { data: half::f16::slice(&x), layout: &layout }, of_y];
            run(&program, &[], &views, &shape, &mut [half::f16::slice_mut(&mut want)]);
            let mut got = x;
            run_over(&program, &[], 0, half::f16::slice_mut(&mut got), &shape, &[of_y]);
            assert_eq!(got, want, "{dims:?}");
        }
    }
}
