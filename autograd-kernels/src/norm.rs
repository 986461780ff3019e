//! Normalisations with their reverse rules: over the last dimension (layer, rms), over groups of
//! channels, and over batches.
//!
//! Statistics are sums in vectors of the type of computation, joined in f64; the variance is taken
//! of differences from the mean, never as a difference of squares. Gradients of weights are summed
//! in parts of rows that do not depend on the number of threads.

mod channels;
mod row;

pub use channels::{batch_norm, batch_norm_vjp, group_norm, group_norm_vjp};

use crate::rows::{MIN_CHUNK, Rows, RowsMut, wide};
use crate::simd::Float;
use crate::threads::{Disjoint, chunk_length, parallel_for};
use crate::{SliceMut, View, memory};

/// The kinds of tensors of which some may be missing.
fn kinds<const N: usize, const M: usize>(
    inputs: [Option<&View<'_>>; N],
    outputs: [Option<&SliceMut<'_>>; M],
) -> bool {
    let inputs = inputs.into_iter().flatten().map(View::kind);
    inputs.chain(outputs.into_iter().flatten().map(SliceMut::kind)).any(|kind| wide(&[kind]))
}

/// The number of rows and their length.
fn extents(x: &View<'_>) -> (usize, usize) {
    let n = *x.layout.dims().last().expect("norm: the input has a last dimension");
    (x.layout.elements() / n.max(1), n)
}

/// A tensor of n elements as a row, the same number throughout where there is none.
fn affine<T: Float>(x: Option<View<'_>>, missing: f64, n: usize) -> Rows<'_, T> {
    match x {
        Some(x) => {
            assert_eq!(x.layout.elements(), n, "norm: weight and bias have one element for each");
            Rows::flat(x)
        }
        None => Rows::repeat(missing, n),
    }
}

fn per_row<T: Float>(x: Option<View<'_>>, rows: usize) -> Option<Rows<'_, T>> {
    x.map(|x| {
        assert_eq!(x.layout.elements(), rows, "norm: one mean and rstd for each row");
        Rows::flat(x)
    })
}

/// An output of one number for each of `len`.
fn output<T: Float>(out: Option<SliceMut<'_>>, len: usize) -> Option<RowsMut<'_, T>> {
    out.map(|out| {
        assert_eq!(out.len(), len, "norm: an output has one element for each");
        RowsMut::flat(out)
    })
}

/// The parts of an output that may be missing.
fn parts<'a, T: Float>(out: &'a mut Option<RowsMut<'_, T>>) -> Disjoint<'a, T> {
    Disjoint::new(out.as_mut().map_or(&mut [][..], RowsMut::all))
}

/// Mean and 1/√(variance + eps) of a row; the mean is 0 where it is not taken out.
fn statistics<T: Float>(x: &[T], centred: bool, eps: f64) -> (f64, f64) {
    let n = x.len() as f64;
    // Rounded to the type in which it is subtracted, so that differences are exact about it.
    let mean = if centred { T::from_f64(row::sum(x) / n).to_f64() } else { 0.0 };
    (mean, 1.0 / (row::squares(x, mean) / n + eps).sqrt())
}

/// Rows of a chunk: enough that the sums a chunk keeps for itself are few beside them.
const MIN_ROWS: usize = 16;

/// y = (x − mean)·rstd·weight + bias over the last dimension, rstd = 1/√(variance + eps).
///
/// `mean` and `rstd` get one number for each row, for [`layer_norm_vjp`].
///
/// # Panics
/// Panics where `x` has no dimension, or the lengths do not fit.
pub fn layer_norm(
    x: View<'_>,
    weight: Option<View<'_>>,
    bias: Option<View<'_>>,
    eps: f64,
    y: SliceMut<'_>,
    mean: Option<SliceMut<'_>>,
    rstd: Option<SliceMut<'_>>,
) {
    if kinds([Some(&x), weight.as_ref(), bias.as_ref()], [Some(&y)]) {
        forward::<f64>(x, weight, bias, eps, true, y, mean, rstd);
    } else {
        forward::<f32>(x, weight, bias, eps, true, y, mean, rstd);
    }
}

/// y = x·rstd·weight over the last dimension, rstd = 1/√(mean(x²) + eps).
///
/// # Panics
/// Panics where `x` has no dimension, or the lengths do not fit.
pub fn rms_norm(
    x: View<'_>,
    weight: Option<View<'_>>,
    eps: f64,
    y: SliceMut<'_>,
    rstd: Option<SliceMut<'_>>,
) {
    if kinds([Some(&x), weight.as_ref()], [Some(&y)]) {
        forward::<f64>(x, weight, None, eps, false, y, None, rstd);
    } else {
        forward::<f32>(x, weight, None, eps, false, y, None, rstd);
    }
}

#[expect(clippy::too_many_arguments, reason = "a kernel takes all its tensors")]
fn forward<T: Float>(
    x: View<'_>,
    weight: Option<View<'_>>,
    bias: Option<View<'_>>,
    eps: f64,
    centred: bool,
    y: SliceMut<'_>,
    mean: Option<SliceMut<'_>>,
    rstd: Option<SliceMut<'_>>,
) {
    let (rows, n) = extents(&x);
    assert_eq!(y.len(), rows * n, "norm: the output has as many elements as the input");
    let (w, b) = (affine::<T>(weight, 1.0, n), affine::<T>(bias, 0.0, n));
    let (mut mean, mut rstd) = (output::<T>(mean, rows), output::<T>(rstd, rows));
    let x = Rows::<T>::flat(x);
    let mut y = RowsMut::<T>::flat(y);
    let (means, rstds) = (parts(&mut mean), parts(&mut rstd));
    crate::rows::for_rows(y.all(), n, &|rows, y| {
        for (r, y) in rows.zip(y.chunks_exact_mut(n)) {
            let x = x.part(r..r + 1, n);
            let (m, s) = statistics(x, centred, eps);
            row::normalise(x, m, s, w.all(), b.all(), y);
            for (out, value) in [(&means, m), (&rstds, s)] {
                if out.len() > 0 {
                    // SAFETY: each row is worked on once.
                    let out = unsafe { out.part(r..r + 1) };
                    out[0] = T::from_f64(value);
                }
            }
        }
    });
    y.finish();
    [mean, rstd].into_iter().flatten().for_each(RowsMut::finish);
}

/// With x̂ = (x − mean)·rstd and g = ct·weight: dx = rstd·(g − mean(g) − x̂·mean(g·x̂)),
/// dweight = Σ ct·x̂ and dbias = Σ ct over the rows. A mean or rstd not given is computed anew.
///
/// # Panics
/// Panics where `x` has no dimension, or the lengths do not fit.
#[expect(clippy::too_many_arguments, reason = "a kernel takes all its tensors")]
pub fn layer_norm_vjp(
    ct: View<'_>,
    x: View<'_>,
    weight: Option<View<'_>>,
    mean: Option<View<'_>>,
    rstd: Option<View<'_>>,
    eps: f64,
    dx: Option<SliceMut<'_>>,
    dweight: Option<SliceMut<'_>>,
    dbias: Option<SliceMut<'_>>,
) {
    let f64s = kinds([Some(&ct), Some(&x), weight.as_ref()], [dx.as_ref()]);
    let saved = (mean, rstd);
    if f64s {
        reverse::<f64>(ct, x, weight, saved, eps, true, dx, dweight, dbias);
    } else {
        reverse::<f32>(ct, x, weight, saved, eps, true, dx, dweight, dbias);
    }
}

/// With x̂ = x·rstd and g = ct·weight: dx = rstd·(g − x̂·mean(g·x̂)) and dweight = Σ ct·x̂ over the
/// rows. An rstd not given is computed anew.
///
/// # Panics
/// Panics where `x` has no dimension, or the lengths do not fit.
pub fn rms_norm_vjp(
    ct: View<'_>,
    x: View<'_>,
    weight: Option<View<'_>>,
    rstd: Option<View<'_>>,
    eps: f64,
    dx: Option<SliceMut<'_>>,
    dweight: Option<SliceMut<'_>>,
) {
    let f64s = kinds([Some(&ct), Some(&x), weight.as_ref()], [dx.as_ref()]);
    if f64s {
        reverse::<f64>(ct, x, weight, (None, rstd), eps, false, dx, dweight, None);
    } else {
        reverse::<f32>(ct, x, weight, (None, rstd), eps, false, dx, dweight, None);
    }
}

#[expect(clippy::too_many_arguments, reason = "a kernel takes all its tensors")]
fn reverse<T: Float>(
    ct: View<'_>,
    x: View<'_>,
    weight: Option<View<'_>>,
    (mean, rstd): (Option<View<'_>>, Option<View<'_>>),
    eps: f64,
    centred: bool,
    dx: Option<SliceMut<'_>>,
    dweight: Option<SliceMut<'_>>,
    dbias: Option<SliceMut<'_>>,
) {
    let (rows, n) = extents(&x);
    assert_eq!(ct.layout.elements(), rows * n, "norm: ct has as many elements as x");
    let w = affine::<T>(weight, 1.0, n);
    let (mean, rstd) = (per_row::<T>(mean, rows), per_row::<T>(rstd, rows));
    let mut dx = output::<T>(dx, rows * n);
    let (ct, x) = (Rows::<T>::flat(ct), Rows::<T>::flat(x));
    let chunk = chunk_length(rows, MIN_CHUNK.div_ceil(n.max(1)).max(MIN_ROWS)).max(1);
    let chunks = rows.div_ceil(chunk);
    // Each chunk's own sums for dweight and dbias.
    let mut sums = memory::zeros::<T>(chunks * 2 * n);
    let (all_sums, all_dx) = (Disjoint::new(&mut sums), parts(&mut dx));
    parallel_for(if n == 0 { 0 } else { chunks }, &|c| {
        // SAFETY: each chunk has its own part.
        let (dw, db) = unsafe { all_sums.part(c * 2 * n..(c + 1) * 2 * n) }.split_at_mut(n);
        for r in c * chunk..rows.min((c + 1) * chunk) {
            let (ct, x) = (ct.part(r..r + 1, n), x.part(r..r + 1, n));
            let saved = |of: &Option<Rows<'_, T>>| of.as_ref().map(|of| of.all()[r].to_f64());
            let (m, s) = match (saved(&mean), saved(&rstd)) {
                (Some(m), Some(s)) => (m, s),
                (None, Some(s)) if !centred => (0.0, s),
                (m, s) => {
                    let (new_m, new_s) = statistics(x, centred, eps);
                    (m.unwrap_or(new_m), s.unwrap_or(new_s))
                }
            };
            let (g, gx) = row::sums(ct, x, w.all(), m, s, dw, db);
            if all_dx.len() > 0 {
                let g = if centred { g } else { 0.0 };
                let means = (g / n as f64, gx / n as f64);
                // SAFETY: each row is worked on once.
                let dx = unsafe { all_dx.part(r * n..(r + 1) * n) };
                row::spread(ct, x, w.all(), (m, s), means, dx);
            }
        }
    });
    dx.into_iter().for_each(RowsMut::finish);
    for (at, out) in [(0, dweight), (n, dbias)] {
        if chunks == 1 {
            // One chunk's sums are the totals.
            let Some(mut out) = output::<T>(out, n) else { continue };
            out.all().copy_from_slice(&sums[at..at + n]);
            out.finish();
            continue;
        }
        let Some(mut out) = output::<f64>(out, n) else { continue };
        let totals = out.all();
        totals.fill(0.0);
        for part in sums.chunks_exact((2 * n).max(1)) {
            totals.iter_mut().zip(&part[at..at + n]).for_each(|(t, p)| *t += p.to_f64());
        }
        out.finish();
    }
    memory::give(sums);
}
