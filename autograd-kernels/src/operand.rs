//! Operands brought into the form that kernels compute on: contiguous, and f32 for the half types.

use crate::copy::copy;
use crate::{Element, Kind, Layout, Shape, SliceMut, View, memory};
use std::ops::Deref;

/// Elements in row-major order: borrowed where they lie so already, else in a buffer from the
/// pool, which goes back when this is dropped.
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

impl<T: Element> Drop for Operand<'_, T> {
    fn drop(&mut self) {
        if let Operand::Gathered(data) = self {
            memory::give(std::mem::take(data));
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
    assert!(view.kind() == T::KIND, "operand of type {:?} where {:?} is expected", view.kind(), T::KIND);
    match view.contiguous() {
        Some(data) => Operand::Borrowed(data),
        None => gathered(view),
    }
}

/// The elements of a half or f32 view as f32.
pub(crate) fn widen(view: View<'_>) -> Operand<'_, f32> {
    match view.kind() {
        Kind::BF16 | Kind::F16 => {
            assert_in_bounds(view);
            gathered(view)
        }
        _ => same(view),
    }
}

fn gathered<T: Element>(view: View<'_>) -> Operand<'static, T> {
    let mut out = memory::take::<T>(view.layout.elements());
    copy(view, T::slice_mut(&mut out));
    Operand::Gathered(out)
}

/// Rounds f32 results into a half output and gives their buffer back.
pub(crate) fn narrow(wide: Vec<f32>, out: SliceMut<'_>) {
    let layout = Layout::contiguous(Shape::new(&[wide.len()]));
    copy(View { data: f32::slice(&wide), layout: &layout }, out);
    memory::give(wide);
}

/// A half output's values as f32, to be added to.
pub(crate) fn widened(out: &SliceMut<'_>) -> Vec<f32> {
    let layout = Layout::contiguous(Shape::new(&[out.len()]));
    let mut wide = memory::take::<f32>(out.len());
    copy(View { data: out.as_slice(), layout: &layout }, SliceMut::F32(&mut wide));
    wide
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
                let mut wide = $crate::memory::take::<f32>(out.len());
                $f::<f32>($($extra,)* $(&$crate::operand::widen($input),)* &mut wide);
                $crate::operand::narrow(wide, out);
            }
            other => panic!("the output is of type {:?}, not a float", other.kind()),
        }
    };
}
pub(crate) use in_float;
