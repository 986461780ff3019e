//! Layer normalisation and its reverse rule.

use crate::copy::{from_f64, to_f64};
use crate::{SliceMut, View};

/// y = (x − mean) · rstd · weight + bias over the last dimension, rstd = 1/√(variance + eps).
pub fn layer_norm(
    x: View<'_>,
    weight: Option<View<'_>>,
    bias: Option<View<'_>>,
    eps: f64,
    y: SliceMut<'_>,
    mean: Option<SliceMut<'_>>,
    rstd: Option<SliceMut<'_>>,
) {
    let n = *x.layout.dims().last().expect("layer_norm: the input has a dimension");
    let (mut d, w, b) = (to_f64(x), weight.map(to_f64), bias.map(to_f64));
    let (mut means, mut rstds) = (Vec::new(), Vec::new());
    for row in d.chunks_mut(n.max(1)) {
        let (m, r) = statistics(row, eps);
        for (i, v) in row.iter_mut().enumerate() {
            *v = (*v - m) * r * w.as_ref().map_or(1.0, |w| w[i]) + b.as_ref().map_or(0.0, |b| b[i]);
        }
        means.push(m);
        rstds.push(r);
    }
    from_f64(&d, y);
    if let Some(out) = mean {
        from_f64(&means, out);
    }
    if let Some(out) = rstd {
        from_f64(&rstds, out);
    }
}

fn statistics(row: &[f64], eps: f64) -> (f64, f64) {
    let n = row.len() as f64;
    let mean = row.iter().sum::<f64>() / n;
    let variance = row.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / n;
    (mean, 1.0 / (variance + eps).sqrt())
}

/// With x̂ = (x − mean)·rstd and g = ct·weight: dx = rstd·(g − mean(g) − x̂·mean(g·x̂)),
/// dweight = Σ ct·x̂ and dbias = Σ ct over the rows. A mean or rstd not given is computed anew.
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
    let n = *x.layout.dims().last().expect("layer_norm: the input has a dimension");
    let (c, mut d, w) = (to_f64(ct), to_f64(x), weight.map(to_f64));
    let (means, rstds) = (mean.map(to_f64), rstd.map(to_f64));
    let (mut dw, mut db) = (vec![0.0; n], vec![0.0; n]);
    for (k, row) in d.chunks_mut(n.max(1)).enumerate() {
        let (m, r) = statistics(row, eps);
        let (m, r) = (means.as_ref().map_or(m, |v| v[k]), rstds.as_ref().map_or(r, |v| v[k]));
        let c = &c[k * n..][..n];
        let (mut s, mut t) = (0.0, 0.0);
        for i in 0..n {
            let (xh, g) = ((row[i] - m) * r, c[i] * w.as_ref().map_or(1.0, |w| w[i]));
            s += g;
            t += g * xh;
            dw[i] += c[i] * xh;
            db[i] += c[i];
        }
        for i in 0..n {
            let (xh, g) = ((row[i] - m) * r, c[i] * w.as_ref().map_or(1.0, |w| w[i]));
            row[i] = r * (g - s / n as f64 - xh * t / n as f64);
        }
    }
    for (out, values) in [(dx, &d), (dweight, &dw), (dbias, &db)] {
        if let Some(out) = out {
            from_f64(values, out);
        }
    }
}
