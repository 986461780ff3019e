//! Operands brought into the form that kernels compute on: contiguous, and f32 for the half types.

use crate::{Element, Kind, Slice, SliceMut, View, bf16, f16};
use std::ops::Deref;

/// Elements in row-major order: borrowed where they lie so already, else gathered into a buffer.
pub(crate) enum Operand<'a, T: Element> {
    /// The view's own memory.
    Borrowed(&'a [T]),
    /// A copy.
    Gathered(Vec<T>),
}

impl<T: Element> Deref for Operand<'_, T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        match self {
            Operand::Borrowed(data) => data,
            Operand::Gathered(data) => data,
        }
    }
}

/// Asserts that every element of the view lies in its buffer.
pub(crate) fn assert_in_bounds(view: View<'_>) {
    let (end, len) = (view.layout.end(), view.data.len());
    assert!(end <= len, "a layout reaches element {end} of a buffer of {len}");
}

/// The elements of a view of type `T`.
///
/// # Panics
/// Panics where the view is of another type.
pub(crate) fn same<T: Element>(view: View<'_>) -> Operand<'_, T> {
    assert_in_bounds(view);
    let Some(data) = T::read(&view.data) else {
        panic!("operand of type {:?} where {:?} is expected", view.kind(), T::KIND)
    };
    match view.contiguous() {
        Some(data) => Operand::Borrowed(data),
        None => Operand::Gathered(gather(view, data, |x| x)),
    }
}

/// The elements of a half or f32 view as f32.
///
/// # Panics
/// Panics where the view is of another type.
pub(crate) fn widen(view: View<'_>) -> Operand<'_, f32> {
    assert_in_bounds(view);
    match view.data {
        Slice::BF16(data) => Operand::Gathered(gather(view, data, bf16::to_f32)),
        Slice::F16(data) => Operand::Gathered(gather(view, data, f16::to_f32)),
        _ => same(view),
    }
}

fn gather<S: Copy, T: Element>(view: View<'_>, data: &[S], convert: impl Fn(S) -> T) -> Vec<T> {
    let mut out = vec![T::default(); view.layout.elements()];
    view.layout.for_each_run(|first, at, len, stride| {
        let to = &mut out[first..first + len];
        match stride {
            1 => {
                for (to, &from) in to.iter_mut().zip(&data[at..at + len]) {
                    *to = convert(from);
                }
            }
            _ => {
                for (i, to) in to.iter_mut().enumerate() {
                    *to = convert(data[at + i * stride]);
                }
            }
        }
    });
    out
}

/// Rounds f32 results into a half output.
pub(crate) fn narrow(wide: &[f32], out: SliceMut<'_>) {
    match out {
        SliceMut::BF16(out) => {
            for (to, &from) in out.iter_mut().zip(wide) {
                *to = bf16::from_f32(from);
            }
        }
        SliceMut::F16(out) => {
            for (to, &from) in out.iter_mut().zip(wide) {
                *to = f16::from_f32(from);
            }
        }
        other => unreachable!("{:?} is not narrower than f32", other.kind()),
    }
}

/// Asserts that an operand is of the output's type.
pub(crate) fn assert_kind(what: &str, operand: View<'_>, kind: Kind) {
    let have = operand.kind();
    assert!(have == kind, "{what} is of type {have:?}, the output of type {kind:?}");
}

/// Asserts that an operand has these extents.
pub(crate) fn assert_dims(what: &str, operand: View<'_>, want: &[usize]) {
    let have = operand.layout.dims();
    assert!(have == want, "{what} has shape {have:?} where {want:?} is expected");
}

/// Asserts the length of an output.
pub(crate) fn assert_len(what: &str, out: &SliceMut<'_>, want: usize) {
    let have = out.len();
    assert!(have == want, "{what} has {have} elements where {want} are expected");
}

/// Runs a function that is generic over the float type on float operands:
/// `in_float!(out, (a, b), f(extra, ..))` calls `f::<T>(extra, .., &[a], &[b], &mut [out])` with
/// `T` = f32 or f64; half operands are widened first and the result is rounded back.
macro_rules! in_float {
    ($out:expr, ($($input:expr),*), $f:ident($($extra:expr),*)) => {
        match $out {
            $crate::SliceMut::F32(out) => {
                $f::<f32>($($extra,)* $(&$crate::operand::same($input),)* out)
            }
            $crate::SliceMut::F64(out) => {
                $f::<f64>($($extra,)* $(&$crate::operand::same($input),)* out)
            }
            out if out.kind().is_float() => {
                let mut wide = vec![0f32; out.len()];
                $f::<f32>($($extra,)* $(&$crate::operand::widen($input),)* &mut wide);
                $crate::operand::narrow(&wide, out);
            }
            other => panic!("the output is of type {:?}, not a float", other.kind()),
        }
    };
}
pub(crate) use in_float;
