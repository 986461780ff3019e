//! Running sums, products and linear recurrences along a dimension.

use crate::float::Float;
use crate::operand::{assert_dims, assert_kind, assert_len, in_float};
use crate::{SliceMut, View};

/// Where the lines along a dimension lie in a contiguous tensor.
#[derive(Clone, Copy)]
struct Lines {
    /// The extents before the dimension, its own, and those behind it.
    outer: usize,
    n: usize,
    inner: usize,
    reverse: bool,
}

impl Lines {
    fn new(what: &str, x: View<'_>, dim: usize, out: &SliceMut<'_>, reverse: bool) -> Self {
        let dims = x.layout.dims();
        assert!(dim < dims.len(), "{what}: dimension {dim} of shape {dims:?}");
        assert_kind("the input", x, out.kind());
        assert_len("the output", out, x.layout.elements());
        let (outer, inner) = (dims[..dim].iter().product(), dims[dim + 1..].iter().product());
        Self { outer, n: dims[dim], inner, reverse }
    }

    /// Calls f(where a row of `inner` elements starts, where the row before it starts) in the order
    /// of the scan; a first row has none before it.
    fn walk(self, mut f: impl FnMut(usize, Option<usize>)) {
        for o in 0..self.outer {
            let mut before = None;
            for k in 0..self.n {
                let k = if self.reverse { self.n - 1 - k } else { k };
                let at = (o * self.n + k) * self.inner;
                f(at, before);
                before = Some(at);
            }
        }
    }
}

/// `out[k]` = Σ `x[i]` over i ≤ k along `dim`, or over i ≥ k with `reverse`.
///
/// # Panics
/// Panics where `dim` is no dimension, shapes or types do not fit, or a layout leaves its buffer.
pub fn cumsum(x: View<'_>, dim: usize, reverse: bool, out: SliceMut<'_>) {
    let lines = Lines::new("cumsum", x, dim, &out, reverse);
    in_float!(out, (x), running(lines, false));
}

/// `out[k]` = Π `x[i]` over i ≤ k along `dim`, or over i ≥ k with `reverse`.
///
/// # Panics
/// As [`cumsum`].
pub fn cumprod(x: View<'_>, dim: usize, reverse: bool, out: SliceMut<'_>) {
    let lines = Lines::new("cumprod", x, dim, &out, reverse);
    in_float!(out, (x), running(lines, true));
}

fn running<T: Float>(lines: Lines, product: bool, x: &[T], out: &mut [T]) {
    lines.walk(|at, before| {
        for i in 0..lines.inner {
            out[at + i] = match before {
                None => x[at + i],
                Some(before) if product => out[before + i] * x[at + i],
                Some(before) => out[before + i] + x[at + i],
            };
        }
    });
}

/// `out[k]` = `a[k]` · `out[k − 1]` + `b[k]` along `dim`, starting with `b[0]`; with `reverse` from the
/// other end.
///
/// # Panics
/// As [`cumsum`].
pub fn recurrence(a: View<'_>, b: View<'_>, dim: usize, reverse: bool, out: SliceMut<'_>) {
    let lines = Lines::new("recurrence", a, dim, &out, reverse);
    assert_kind("the second input", b, out.kind());
    assert_dims("the second input", b, a.layout.dims());
    in_float!(out, (a, b), recur(lines));
}

fn recur<T: Float>(lines: Lines, a: &[T], b: &[T], out: &mut [T]) {
    lines.walk(|at, before| {
        for i in 0..lines.inner {
            out[at + i] = match before {
                None => b[at + i],
                Some(before) => a[at + i] * out[before + i] + b[at + i],
            };
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Element, Layout, Shape};

    #[test]
    fn lines_run_both_ways() {
        let x = [1f32, 2., 3., 4., 5., 6.];
        let layout = Layout::contiguous(Shape::new(&[3, 2]));
        let view = View { data: f32::slice(&x), layout: &layout };
        let mut out = [0f32; 6];
        cumsum(view, 0, false, f32::slice_mut(&mut out));
        assert_eq!(out, [1., 2., 4., 6., 9., 12.]);
        cumprod(view, 1, true, f32::slice_mut(&mut out));
        assert_eq!(out, [2., 2., 12., 4., 30., 6.]);
        recurrence(view, view, 0, true, f32::slice_mut(&mut out));
        assert_eq!(out, [19., 58., 18., 28., 5., 6.]);
    }
}
