//! Normalisations of images: x is [batch, channels, …], with one weight and bias for each channel.
//!
//! A channel of one image is a run of numbers. Group norm takes the statistics of a few
//! neighbouring runs, batch norm those of the same channel in all images; the loops over a run
//! are the same.

use super::{affine, kinds, output, parts, per_row, row};
use crate::rows::{MIN_CHUNK, Rows, RowsMut};
use crate::simd::Float;
use crate::threads::{Disjoint, parallel_chunks};
use crate::{SliceMut, View, memory};
use std::ops::Range;

/// (batch, channels, numbers of a run).
fn extents(x: &View<'_>) -> (usize, usize, usize) {
    let dims = x.layout.dims();
    assert!(dims.len() >= 2, "norm: the input is [batch, channels, …], not {:?}", x.layout.shape());
    (dims[0], dims[1], dims[2..].iter().product())
}

/// The runs over which one pair of statistics is taken.
#[derive(Clone, Copy)]
enum Over {
    /// Neighbouring runs: `.0` channels of one image.
    Group(usize),
    /// The same channel of all images.
    Batch,
}

/// The runs of x [batch, channels, run].
#[derive(Clone, Copy)]
struct Runs {
    batch: usize,
    channels: usize,
    len: usize,
    over: Over,
}

impl Runs {
    /// How many pairs of statistics there are.
    fn sets(&self) -> usize {
        match self.over {
            Over::Group(size) => self.batch * self.channels / size,
            Over::Batch => self.channels,
        }
    }

    /// The runs of a set: their numbers.
    fn of(&self, set: usize) -> std::iter::StepBy<Range<usize>> {
        match self.over {
            Over::Group(size) => (set * size..(set + 1) * size).step_by(1),
            Over::Batch => (set..self.batch * self.channels).step_by(self.channels),
        }
    }

    /// The numbers of a set.
    fn count(&self) -> f64 {
        (self.batch * self.channels * self.len) as f64 / self.sets() as f64
    }

    fn range(&self, run: usize) -> Range<usize> {
        run * self.len..(run + 1) * self.len
    }

    /// Runs f(set) for all sets, on all threads.
    fn for_sets(&self, f: &(dyn Fn(usize) + Sync)) {
        let min = (MIN_CHUNK as f64 / self.count().max(1.0)).ceil() as usize;
        parallel_chunks(self.sets(), min, &|range| range.for_each(f));
    }

    fn statistics<T: Float>(&self, x: &[T], set: usize, eps: f64) -> (f64, f64) {
        let n = self.count();
        let sum: f64 = self.of(set).map(|run| row::sum(&x[self.range(run)])).sum();
        let mean = T::from_f64(sum / n).to_f64();
        let squares: f64 = self.of(set).map(|run| row::squares(&x[self.range(run)], mean)).sum();
        (mean, 1.0 / (squares / n + eps).sqrt())
    }
}

/// y = (x − mean)·rstd·weight + bias for x [batch, channels, …], with the mean and rstd of each
/// image's groups of channels; `mean` and `rstd` get one number for each [batch, group].
///
/// # Panics
/// Panics where `x` has fewer than two dimensions, the groups do not divide the channels, or the
/// lengths do not fit.
#[expect(clippy::too_many_arguments, reason = "a kernel takes all its tensors")]
pub fn group_norm(
    x: View<'_>,
    groups: usize,
    weight: Option<View<'_>>,
    bias: Option<View<'_>>,
    eps: f64,
    y: SliceMut<'_>,
    mean: Option<SliceMut<'_>>,
    rstd: Option<SliceMut<'_>>,
) {
    let runs = grouped(&x, groups);
    if kinds([Some(&x), weight.as_ref(), bias.as_ref()], [Some(&y)]) {
        forward::<f64>(runs, x, weight, bias, eps, y, mean, rstd);
    } else {
        forward::<f32>(runs, x, weight, bias, eps, y, mean, rstd);
    }
}

fn grouped(x: &View<'_>, groups: usize) -> Runs {
    let (batch, channels, len) = extents(x);
    assert!(
        groups > 0 && channels.is_multiple_of(groups),
        "group_norm: {groups} groups divide {channels} channels"
    );
    Runs { batch, channels, len, over: Over::Group((channels / groups).max(1)) }
}

fn batched(x: &View<'_>) -> Runs {
    let (batch, channels, len) = extents(x);
    Runs { batch, channels, len, over: Over::Batch }
}

/// y = (x − mean)·rstd·weight + bias for x [batch, channels, …], with the mean and rstd of each
/// channel over the batch; `mean` and `rstd` get one number for each channel.
///
/// # Panics
/// Panics where `x` has fewer than two dimensions, or the lengths do not fit.
pub fn batch_norm(
    x: View<'_>,
    weight: Option<View<'_>>,
    bias: Option<View<'_>>,
    eps: f64,
    y: SliceMut<'_>,
    mean: Option<SliceMut<'_>>,
    rstd: Option<SliceMut<'_>>,
) {
    let runs = batched(&x);
    if kinds([Some(&x), weight.as_ref(), bias.as_ref()], [Some(&y)]) {
        forward::<f64>(runs, x, weight, bias, eps, y, mean, rstd);
    } else {
        forward::<f32>(runs, x, weight, bias, eps, y, mean, rstd);
    }
}

#[expect(clippy::too_many_arguments, reason = "a kernel takes all its tensors")]
fn forward<T: Float>(
    runs: Runs,
    x: View<'_>,
    weight: Option<View<'_>>,
    bias: Option<View<'_>>,
    eps: f64,
    y: SliceMut<'_>,
    mean: Option<SliceMut<'_>>,
    rstd: Option<SliceMut<'_>>,
) {
    let channels = runs.channels;
    assert_eq!(y.len(), x.layout.elements(), "norm: the output has as many elements as the input");
    let (w, b) = (affine::<T>(weight, 1.0, channels), affine::<T>(bias, 0.0, channels));
    let (mut mean, mut rstd) = (output::<T>(mean, runs.sets()), output::<T>(rstd, runs.sets()));
    let x = Rows::<T>::flat(x);
    let mut y = RowsMut::<T>::flat(y);
    let (means, rstds, all_y) = (parts(&mut mean), parts(&mut rstd), Disjoint::new(y.all()));
    runs.for_sets(&|set| {
        let (m, s) = runs.statistics(x.all(), set, eps);
        for run in runs.of(set) {
            let channel = run % channels;
            let (w, b) = (w.all()[channel].to_f64(), b.all()[channel].to_f64());
            // SAFETY: each run belongs to one set.
            let y = unsafe { all_y.part(runs.range(run)) };
            row::scale(&x.all()[runs.range(run)], m, s * w, b, y);
        }
        for (out, value) in [(&means, m), (&rstds, s)] {
            if out.len() > 0 {
                // SAFETY: each set is worked on once.
                let out = unsafe { out.part(set..set + 1) };
                out[0] = T::from_f64(value);
            }
        }
    });
    y.finish();
    [mean, rstd].into_iter().flatten().for_each(RowsMut::finish);
}

/// The reverse rule of [`group_norm`]: with x̂ = (x − mean)·rstd and g = ct·weight,
/// dx = rstd·(g − mean(g) − x̂·mean(g·x̂)) with means over each group, dweight = Σ ct·x̂ and
/// dbias = Σ ct for each channel. A mean or rstd not given is computed anew.
///
/// # Panics
/// Panics where the shapes do not fit, as for [`group_norm`].
#[expect(clippy::too_many_arguments, reason = "a kernel takes all its tensors")]
pub fn group_norm_vjp(
    ct: View<'_>,
    x: View<'_>,
    groups: usize,
    weight: Option<View<'_>>,
    mean: Option<View<'_>>,
    rstd: Option<View<'_>>,
    eps: f64,
    dx: Option<SliceMut<'_>>,
    dweight: Option<SliceMut<'_>>,
    dbias: Option<SliceMut<'_>>,
) {
    let (runs, saved) = (grouped(&x, groups), (mean, rstd));
    if kinds([Some(&ct), Some(&x), weight.as_ref()], [dx.as_ref()]) {
        reverse::<f64>(runs, ct, x, weight, saved, eps, dx, dweight, dbias);
    } else {
        reverse::<f32>(runs, ct, x, weight, saved, eps, dx, dweight, dbias);
    }
}

/// The reverse rule of [`batch_norm`], in the formulas of [`group_norm_vjp`] with means over each
/// channel.
///
/// # Panics
/// Panics where the shapes do not fit, as for [`batch_norm`].
#[expect(clippy::too_many_arguments, reason = "a kernel takes all its tensors")]
pub fn batch_norm_vjp(
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
    let (runs, saved) = (batched(&x), (mean, rstd));
    if kinds([Some(&ct), Some(&x), weight.as_ref()], [dx.as_ref()]) {
        reverse::<f64>(runs, ct, x, weight, saved, eps, dx, dweight, dbias);
    } else {
        reverse::<f32>(runs, ct, x, weight, saved, eps, dx, dweight, dbias);
    }
}

#[expect(clippy::too_many_arguments, reason = "a kernel takes all its tensors")]
fn reverse<T: Float>(
    runs: Runs,
    ct: View<'_>,
    x: View<'_>,
    weight: Option<View<'_>>,
    (mean, rstd): (Option<View<'_>>, Option<View<'_>>),
    eps: f64,
    dx: Option<SliceMut<'_>>,
    dweight: Option<SliceMut<'_>>,
    dbias: Option<SliceMut<'_>>,
) {
    let (elements, channels) = (x.layout.elements(), runs.channels);
    assert_eq!(ct.layout.elements(), elements, "norm: ct has as many elements as x");
    let w = affine::<T>(weight, 1.0, channels);
    let (mean, rstd) = (per_row::<T>(mean, runs.sets()), per_row::<T>(rstd, runs.sets()));
    let mut dx = output::<T>(dx, elements);
    let (ct, x) = (Rows::<T>::flat(ct), Rows::<T>::flat(x));
    // Σ ct and Σ ct·x̂ of every run: they give dx, dweight and dbias.
    let mut sums = memory::zeros::<f64>(2 * runs.batch * channels);
    let (all_sums, all_dx) = (Disjoint::new(&mut sums), parts(&mut dx));
    runs.for_sets(&|set| {
        let saved = |of: &Option<Rows<'_, T>>| of.as_ref().map(|of| of.all()[set].to_f64());
        let (m, s) = match (saved(&mean), saved(&rstd)) {
            (Some(m), Some(s)) => (m, s),
            (m, s) => {
                let (new_m, new_s) = runs.statistics(x.all(), set, eps);
                (m.unwrap_or(new_m), s.unwrap_or(new_s))
            }
        };
        let (mut g, mut gx) = (0.0, 0.0);
        for run in runs.of(set) {
            let at = runs.range(run);
            let (c, cx) = row::channel_sums(&ct.all()[at.clone()], &x.all()[at], m);
            // SAFETY: each run belongs to one set.
            let out = unsafe { all_sums.part(2 * run..2 * run + 2) };
            (out[0], out[1]) = (c, cx * s);
            let w = w.all()[run % channels].to_f64();
            g += w * c;
            gx += w * cx * s;
        }
        if all_dx.len() > 0 {
            let (g, gx) = (g / runs.count(), gx / runs.count());
            for run in runs.of(set) {
                let at = runs.range(run);
                let w = w.all()[run % channels].to_f64();
                // SAFETY: each run belongs to one set.
                let dx = unsafe { all_dx.part(at.clone()) };
                let factors = (s * w, -s * s * gx, -s * g);
                row::combine(&ct.all()[at.clone()], &x.all()[at], m, factors, dx);
            }
        }
    });
    dx.into_iter().for_each(RowsMut::finish);
    for (which, out) in [(1, dweight), (0, dbias)] {
        let Some(mut out) = output::<f64>(out, channels) else { continue };
        for (channel, total) in out.all().iter_mut().enumerate() {
            let of = (channel..runs.batch * channels).step_by(channels.max(1));
            *total = of.map(|run| sums[2 * run + which]).sum();
        }
        out.finish();
    }
    memory::give(sums);
}
