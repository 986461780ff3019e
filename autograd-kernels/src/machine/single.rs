//! Programs of one function on contiguous tensors of one type: one loop, nothing else.

use super::MIN_CHUNK;
use super::schedule::{Leaf, Single};
use crate::expr::{Binary, Program, Unary};
use crate::math::{Operand, binary, unary};
use crate::simd::Float;
use crate::threads::Disjoint;
use crate::{Element, Shape, SliceMut, View};

/// Below this many bytes of output one thread does what is cheaper than waking another.
const CHEAP_ALONE: usize = 192 * 1024;

/// Evaluates `program` for each element of inputs of one type and length, where it is one function
/// of at most two of them and the type f32 or f64. Returns whether that is so; nothing is written
/// otherwise, and [`run`](super::run) is the way.
#[inline]
pub fn run_alike<T: Element>(program: &Program, params: &[f64], inputs: &[&[T]], y: &mut [T]) -> bool {
    let Some(single) = &program.schedule().single else { return false };
    let fits = inputs.len() == program.inputs()
        && inputs.len() <= 2
        && params.len() >= program.params()
        && inputs.iter().all(|x| x.len() == y.len());
    if !fits {
        return false;
    }
    match T::slice_mut(y) {
        SliceMut::F32(y) => call(single, params, |i| f32::read(&T::slice(inputs[usize::from(i)])), y),
        SliceMut::F64(y) => call(single, params, |i| f64::read(&T::slice(inputs[usize::from(i)])), y),
        _ => false,
    }
}

/// Evaluates a program of one function. Returns whether it is one, with arguments that fit.
#[inline]
pub(super) fn run(
    program: &Program,
    params: &[f64],
    inputs: &[View<'_>],
    shape: &Shape,
    outputs: &mut [SliceMut<'_>],
) -> bool {
    let (Some(single), [out]) = (&program.schedule().single, outputs) else { return false };
    // A wider input that the function does not read would decide the type of computation.
    let fits = inputs.len() == program.inputs()
        && inputs.len() <= 2
        && params.len() >= program.params()
        && inputs.iter().all(|x| x.kind() == out.kind() && x.layout.shape() == shape)
        && out.len() == shape.elements();
    if !fits {
        return false;
    }
    match out {
        SliceMut::F32(y) => call(single, params, |i| inputs[usize::from(i)].contiguous(), y),
        SliceMut::F64(y) => call(single, params, |i| inputs[usize::from(i)].contiguous(), y),
        _ => false,
    }
}

#[inline]
fn call<'a, T: Float>(
    single: &Single,
    params: &[f64],
    whole: impl Fn(u8) -> Option<&'a [T]>,
    y: &mut [T],
) -> bool {
    let leaf = |leaf: Leaf| match leaf {
        Leaf::Input(i) => whole(i).map(Operand::Each),
        Leaf::Param(i) => Some(Operand::All(T::from_f64(params[usize::from(i)]))),
        Leaf::Const(c) => Some(Operand::All(T::from_f64(c))),
    };
    match *single {
        Single::Unary(op, i) => {
            let Some(x) = whole(i) else { return false };
            let run = move |x: &[T], y: &mut [T]| match op {
                Unary::Neg => each(x, y, |x| -x),
                _ => unary(op, x, y),
            };
            if y.len() < if is_cheap_unary(op) { CHEAP_ALONE / size_of::<T>() } else { 2 * MIN_CHUNK } {
                run(x, y);
                return true;
            }
            in_chunks(y, &move |at, y| run(&x[at..at + y.len()], y));
        }
        Single::Binary(op, a, b) => {
            let (Some(a), Some(b)) = (leaf(a), leaf(b)) else { return false };
            if y.len() < if is_cheap_binary(op) { CHEAP_ALONE / size_of::<T>() } else { 2 * MIN_CHUNK } {
                match (op, a, b) {
                    (Binary::Add, Operand::Each(a), Operand::Each(b)) => pairs(a, b, y, |a, b| a + b),
                    (Binary::Sub, Operand::Each(a), Operand::Each(b)) => pairs(a, b, y, |a, b| a - b),
                    (Binary::Mul, Operand::Each(a), Operand::Each(b)) => pairs(a, b, y, |a, b| a * b),
                    _ => binary(op, a, b, y),
                }
                return true;
            }
            in_chunks(y, &move |at, y| {
                let range = at..at + y.len();
                binary(op, a.part(range.clone()), b.part(range), y);
            });
        }
        Single::Affine(i, a, b) => {
            let (Some(x), Some(Operand::All(a)), Some(Operand::All(b))) = (whole(i), leaf(a), leaf(b)) else {
                return false;
            };
            let line = move |x: &[T], y: &mut [T]| each(x, y, |x| x * a + b);
            if size_of_val(y) < CHEAP_ALONE {
                line(x, y);
                return true;
            }
            in_chunks(y, &move |at, y| line(&x[at..at + y.len()], y));
        }
    }
    true
}

/// y = f(x) as a plain loop. Where the work is nothing but reading and writing, the compiler's own
/// vectors of 16 bytes never straddle two cache lines, and longer ones do.
#[inline]
fn each<T: Copy>(x: &[T], y: &mut [T], f: impl Fn(T) -> T) {
    for (y, x) in y.iter_mut().zip(x) {
        *y = f(*x);
    }
}

/// y = f(a, b) as a plain loop, for the same reason.
#[inline]
fn pairs<T: Copy>(a: &[T], b: &[T], y: &mut [T], f: impl Fn(T, T) -> T) {
    for ((y, a), b) in y.iter_mut().zip(a).zip(b) {
        *y = f(*a, *b);
    }
}

/// Whether a function costs less than reading its argument.
pub(crate) fn is_cheap_unary(op: Unary) -> bool {
    matches!(op, Unary::Neg | Unary::Abs | Unary::Sign | Unary::Relu | Unary::Recip | Unary::Sqrt)
}

/// Whether a function costs less than reading its arguments.
pub(crate) fn is_cheap_binary(op: Binary) -> bool {
    use Binary::{Add, Div, Eq, Ge, Gt, Le, Lt, Max, Min, Mul, Ne, Sub};
    matches!(op, Add | Sub | Mul | Div | Max | Min | Lt | Le | Gt | Ge | Eq | Ne)
}

/// Runs f(start, part) over the parts of y, on all threads.
fn in_chunks<T: Float>(y: &mut [T], f: &(dyn Fn(usize, &mut [T]) + Sync)) {
    let len = y.len();
    let parts = Disjoint::new(y);
    crate::threads::parallel_chunks(len, MIN_CHUNK, &|range| {
        // SAFETY: the ranges do not overlap.
        f(range.start, unsafe { parts.part(range.clone()) });
    });
}
