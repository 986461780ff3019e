//! Softmax, its logarithm, log Σ exp and cross entropy, with their reverse rules.
//!
//! All subtract the largest element first, so that nothing overflows. Edges are PyTorch's: −∞
//! counts as probability 0, a softmax whose row has +∞, or nothing above −∞, is NaN, and
//! log Σ exp of those rows is +∞ and −∞.

mod row;

use crate::memory::list::List;
use crate::rows::{Rows, RowsMut, for_rows, wide};
use crate::simd::Float;
use crate::threads::Disjoint;
use crate::{Shape, Slice, SliceMut, View};

/// Runs `$f::<T>(args)` with the type T that the tensors are computed in.
macro_rules! in_type {
    ([$($kind:expr),*], $f:ident($($arg:expr),*)) => {
        if wide(&[$($kind),*]) { $f::<f64>($($arg),*) } else { $f::<f32>($($arg),*) }
    };
}

/// The shape and the length of rows along `dim`.
fn shape_along(x: &View<'_>, dim: usize) -> (Shape, usize) {
    let shape = *x.layout.shape();
    assert!(dim < shape.rank(), "softmax: dimension {dim} is one of the {} there are", shape.rank());
    (shape, shape.dims()[dim])
}

#[track_caller]
fn assert_like(x: &View<'_>, len: usize) {
    assert_eq!(x.layout.elements(), len, "softmax: the tensors have as many elements");
}

/// y = f(x) row by row.
fn map<T: Float>(x: View<'_>, dim: usize, y: SliceMut<'_>, f: fn(&[T], &mut [T])) {
    let (shape, n) = shape_along(&x, dim);
    assert_like(&x, y.len());
    let x = Rows::<T>::along(x, dim);
    let mut y = RowsMut::<T>::along(y, &shape, dim);
    for_rows(y.all(), n, &|rows, y| {
        let x = x.part(rows, n);
        for (x, y) in x.chunks_exact(n).zip(y.chunks_exact_mut(n)) {
            f(x, y);
        }
    });
    y.finish();
}

/// dx = f(ct, y) row by row.
fn map_two<T: Float>(ct: View<'_>, y: View<'_>, dim: usize, dx: SliceMut<'_>, f: fn(&[T], &[T], &mut [T])) {
    let (shape, n) = shape_along(&y, dim);
    assert_eq!(ct.layout.shape(), y.layout.shape(), "softmax: ct has the shape of y");
    assert_like(&y, dx.len());
    let (ct, y) = (Rows::<T>::along(ct, dim), Rows::<T>::along(y, dim));
    let mut dx = RowsMut::<T>::along(dx, &shape, dim);
    for_rows(dx.all(), n, &|rows, dx| {
        let (ct, y) = (ct.part(rows.clone(), n), y.part(rows, n));
        for ((ct, y), dx) in ct.chunks_exact(n).zip(y.chunks_exact(n)).zip(dx.chunks_exact_mut(n)) {
            f(ct, y, dx);
        }
    });
    dx.finish();
}

/// y = exp(x) / Σ exp(x) over dimension `dim`.
///
/// # Panics
/// Panics where `dim` is no dimension of `x`, or the lengths differ.
pub fn softmax(x: View<'_>, dim: usize, y: SliceMut<'_>) {
    if wide(&[x.kind(), y.kind()]) {
        map::<f64>(x, dim, y, row::softmax);
    } else {
        map::<f32>(x, dim, y, row::softmax);
    }
}

/// y = x − log Σ exp(x) over dimension `dim`.
///
/// # Panics
/// Panics where `dim` is no dimension of `x`, or the lengths differ.
pub fn log_softmax(x: View<'_>, dim: usize, y: SliceMut<'_>) {
    if wide(&[x.kind(), y.kind()]) {
        map::<f64>(x, dim, y, row::log_softmax);
    } else {
        map::<f32>(x, dim, y, row::log_softmax);
    }
}

/// dx = y·(ct − Σ ct·y) for y = softmax(x).
///
/// # Panics
/// Panics where `dim` is no dimension of `y`, or the shapes differ.
pub fn softmax_vjp(ct: View<'_>, y: View<'_>, dim: usize, dx: SliceMut<'_>) {
    if wide(&[ct.kind(), y.kind(), dx.kind()]) {
        map_two::<f64>(ct, y, dim, dx, row::softmax_vjp);
    } else {
        map_two::<f32>(ct, y, dim, dx, row::softmax_vjp);
    }
}

/// dx = ct − exp(y)·Σ ct for y = log_softmax(x).
///
/// # Panics
/// Panics where `dim` is no dimension of `y`, or the shapes differ.
pub fn log_softmax_vjp(ct: View<'_>, y: View<'_>, dim: usize, dx: SliceMut<'_>) {
    if wide(&[ct.kind(), y.kind(), dx.kind()]) {
        map_two::<f64>(ct, y, dim, dx, row::log_softmax_vjp);
    } else {
        map_two::<f32>(ct, y, dim, dx, row::log_softmax_vjp);
    }
}

/// y = log Σ exp(x) over dimension `dim`, which `y` lacks.
///
/// # Panics
/// Panics where `dim` is no dimension of `x`, or `y` has not one element for each row.
pub fn logsumexp(x: View<'_>, dim: usize, y: SliceMut<'_>) {
    in_type!([x.kind(), y.kind()], logsumexp_as(x, dim, y));
}

fn logsumexp_as<T: Float>(x: View<'_>, dim: usize, y: SliceMut<'_>) {
    let (shape, n) = shape_along(&x, dim);
    let rows: usize = shape.dims().iter().enumerate().filter(|(d, _)| *d != dim).map(|(_, n)| n).product();
    assert_eq!(y.len(), rows, "logsumexp: one output for each row");
    let x = Rows::<T>::along(x, dim);
    let mut y = RowsMut::<T>::flat(y);
    each_row(y.all(), n, &|r, y| {
        let (max, log) = row::log_sum_exp(x.part(r..r + 1, n));
        *y = T::from_f64(max + log);
    });
    y.finish();
}

/// Runs f(row, its number to write) for rows of length n, on all threads.
fn each_row<T: Float>(y: &mut [T], n: usize, f: &(dyn Fn(usize, &mut T) + Sync)) {
    let rows = y.len();
    let y = Disjoint::new(y);
    crate::threads::parallel_chunks(rows, crate::rows::MIN_CHUNK.div_ceil(n.max(1)), &|range| {
        // SAFETY: the ranges do not overlap.
        let part = unsafe { y.part(range.clone()) };
        range.zip(part).for_each(|(r, y)| f(r, y));
    });
}

/// dx = ct·exp(x − y) for y = log Σ exp(x); `ct` and `y` lack dimension `dim`.
///
/// # Panics
/// Panics where `dim` is no dimension of `x`, or the shapes do not fit.
pub fn logsumexp_vjp(ct: View<'_>, x: View<'_>, y: View<'_>, dim: usize, dx: SliceMut<'_>) {
    in_type!([ct.kind(), x.kind(), y.kind(), dx.kind()], logsumexp_vjp_as(ct, x, y, dim, dx));
}

fn logsumexp_vjp_as<T: Float>(ct: View<'_>, x: View<'_>, y: View<'_>, dim: usize, dx: SliceMut<'_>) {
    let (shape, n) = shape_along(&x, dim);
    assert_like(&x, dx.len());
    if dx.is_empty() {
        return;
    }
    assert_like(&ct, dx.len() / n);
    assert_like(&y, dx.len() / n);
    let (ct, x, y) = (Rows::<T>::flat(ct), Rows::<T>::along(x, dim), Rows::<T>::flat(y));
    let mut dx = RowsMut::<T>::along(dx, &shape, dim);
    for_rows(dx.all(), n, &|rows, dx| {
        for (r, dx) in rows.zip(dx.chunks_exact_mut(n)) {
            row::scaled_exp(ct.all()[r], x.part(r..r + 1, n), y.all()[r], dx);
        }
    });
    dx.finish();
}

/// The logits' extents and the target of each row.
fn classes(logits: &View<'_>, targets: &View<'_>) -> (usize, usize, List<usize>) {
    let &[rows, n] = logits.layout.dims() else {
        panic!("cross_entropy: the logits are [rows, classes], not {:?}", logits.layout.shape());
    };
    assert_eq!(targets.layout.elements(), rows, "cross_entropy: one target for each row");
    let mut list: List<usize> = std::iter::repeat_n(0, rows).collect();
    targets.layout.for_each_run(|to, at, len, stride| {
        for i in 0..len {
            // Through i64, so that a negative target is seen as one.
            let t = match targets.data {
                Slice::U32(t) => i64::from(t[at + i * stride]),
                Slice::I64(t) => t[at + i * stride],
                _ => panic!("cross_entropy: the targets are U32 or I64, not {:?}", targets.kind()),
            };
            list[to + i] = match usize::try_from(t) {
                Ok(t) if t < n => t,
                _ => panic!("cross_entropy: target {t} of row {} is none of the {n} classes", to + i),
            };
        }
    });
    (rows, n, list)
}

/// losses = log Σ exp(logits) − logits at the target, for each row of logits of the shape
/// `[rows, classes]`; `lse` gets the first term, for [`cross_entropy_vjp`].
///
/// # Panics
/// Panics where the logits have not two dimensions, the targets (U32 or I64) are not one class for
/// each row, or the outputs have not one element for each.
pub fn cross_entropy(logits: View<'_>, targets: View<'_>, losses: SliceMut<'_>, lse: Option<SliceMut<'_>>) {
    in_type!([logits.kind(), losses.kind()], cross_entropy_as(logits, targets, losses, lse));
}

fn cross_entropy_as<T: Float>(
    logits: View<'_>,
    targets: View<'_>,
    losses: SliceMut<'_>,
    lse: Option<SliceMut<'_>>,
) {
    let (rows, n, targets) = classes(&logits, &targets);
    assert_eq!(losses.len(), rows, "cross_entropy: one loss for each row");
    assert!(lse.as_ref().is_none_or(|l| l.len() == rows), "cross_entropy: one lse for each row");
    let x = Rows::<T>::flat(logits);
    let mut losses = RowsMut::<T>::flat(losses);
    let mut sums = lse.map(RowsMut::<T>::flat);
    let mut none = [];
    let sums_at = Disjoint::new(sums.as_mut().map_or(&mut none[..], RowsMut::all));
    let with_sums = sums_at.len() == rows;
    each_row(losses.all(), n, &|r, loss| {
        let x = x.part(r..r + 1, n);
        let (max, log) = row::log_sum_exp(x);
        // Subtracted before the logarithm is added: exact where the target is the largest.
        *loss = T::from_f64((max - x[targets[r]].to_f64()) + log);
        if with_sums {
            // SAFETY: each row is worked on once.
            let sum = unsafe { sums_at.part(r..r + 1) };
            sum[0] = T::from_f64(max + log);
        }
    });
    losses.finish();
    sums.into_iter().for_each(RowsMut::finish);
}

/// dx = ct·(softmax(logits) − onehot(targets)); `ct` has one number for each row, `lse` those that
/// [`cross_entropy`] gave (computed anew where `None`).
///
/// # Panics
/// Panics where the shapes do not fit, as for [`cross_entropy`].
pub fn cross_entropy_vjp(
    ct: View<'_>,
    logits: View<'_>,
    targets: View<'_>,
    lse: Option<View<'_>>,
    dx: SliceMut<'_>,
) {
    in_type!([ct.kind(), logits.kind(), dx.kind()], cross_entropy_vjp_as(ct, logits, targets, lse, dx));
}

fn cross_entropy_vjp_as<T: Float>(
    ct: View<'_>,
    logits: View<'_>,
    targets: View<'_>,
    lse: Option<View<'_>>,
    dx: SliceMut<'_>,
) {
    let (rows, n, targets) = classes(&logits, &targets);
    assert_like(&ct, rows);
    assert_like(&logits, dx.len());
    if let Some(lse) = &lse {
        assert_like(lse, rows);
    }
    let (ct, x, lse) = (Rows::<T>::flat(ct), Rows::<T>::flat(logits), lse.map(Rows::<T>::flat));
    let mut dx = RowsMut::<T>::flat(dx);
    for_rows(dx.all(), n, &|rows, dx| {
        for (r, dx) in rows.zip(dx.chunks_exact_mut(n)) {
            let (c, x) = (ct.all()[r], x.part(r..r + 1, n));
            let lse = lse.as_ref().map_or_else(
                || {
                    let (max, log) = row::log_sum_exp(x);
                    T::from_f64(max + log)
                },
                |lse| lse.all()[r],
            );
            row::scaled_exp(c, x, lse, dx);
            dx[targets[r]] = dx[targets[r]] - c;
        }
    });
    dx.finish();
}
