//! Softmax, its logarithm, log Σ exp and cross entropy, with their reverse rules.

use crate::copy::{from_f64, to_f64};
use crate::{SliceMut, View};

/// (outer, n, inner): the shape seen around `dim`.
fn split(x: &View<'_>, dim: usize) -> (usize, usize, usize) {
    let dims = x.layout.dims();
    assert!(dim < dims.len(), "softmax: the dimension exists");
    (dims[..dim].iter().product(), dims[dim], dims[dim + 1..].iter().product())
}

fn rows(x: &View<'_>, dim: usize, mut f: impl FnMut(usize, &mut dyn Iterator<Item = usize>)) {
    let (outer, n, inner) = split(x, dim);
    for o in 0..outer {
        for i in 0..inner {
            f(o * inner + i, &mut (0..n).map(|k| (o * n + k) * inner + i));
        }
    }
}

fn log_sum_exp(row: &[f64]) -> f64 {
    let max = row.iter().fold(f64::NEG_INFINITY, |m, &v| if v > m || v.is_nan() { v } else { m });
    if max.is_infinite() {
        return max;
    }
    max + row.iter().map(|v| (v - max).exp()).sum::<f64>().ln()
}

fn map_rows(x: View<'_>, dim: usize, y: SliceMut<'_>, f: impl Fn(&mut [f64])) {
    assert_eq!(
        x.layout.elements(),
        y.len(),
        "softmax: the output has as many elements as the input"
    );
    let mut data = to_f64(x);
    rows(&x, dim, |_, at| {
        let at: Vec<usize> = at.collect();
        let mut row: Vec<f64> = at.iter().map(|&i| data[i]).collect();
        f(&mut row);
        at.iter().zip(&row).for_each(|(&i, &v)| data[i] = v);
    });
    from_f64(&data, y);
}

/// y = exp(x) / Σ exp(x) over `dim`. A row with +∞, or with nothing above −∞, is NaN.
pub fn softmax(x: View<'_>, dim: usize, y: SliceMut<'_>) {
    map_rows(x, dim, y, |row| {
        let max =
            row.iter().fold(f64::NEG_INFINITY, |m, &v| if v > m || v.is_nan() { v } else { m });
        row.iter_mut().for_each(|v| *v = (*v - max).exp());
        let sum: f64 = row.iter().sum();
        row.iter_mut().for_each(|v| *v /= sum);
    });
}

/// y = x − log Σ exp(x) over `dim`.
pub fn log_softmax(x: View<'_>, dim: usize, y: SliceMut<'_>) {
    map_rows(x, dim, y, |row| {
        let lse = log_sum_exp(row);
        row.iter_mut().for_each(|v| *v -= lse);
    });
}

/// y = log Σ exp(x) over `dim`, which `y` lacks.
pub fn logsumexp(x: View<'_>, dim: usize, y: SliceMut<'_>) {
    let (outer, _, inner) = split(&x, dim);
    assert_eq!(outer * inner, y.len(), "logsumexp: one output for each row");
    let data = to_f64(x);
    let mut out = vec![0.0; outer * inner];
    rows(&x, dim, |r, at| out[r] = log_sum_exp(&at.map(|i| data[i]).collect::<Vec<_>>()));
    from_f64(&out, y);
}

/// dx = y · (ct − Σ ct·y).
pub fn softmax_vjp(ct: View<'_>, y: View<'_>, dim: usize, dx: SliceMut<'_>) {
    let (c, mut d) = (to_f64(ct), to_f64(y));
    rows(&y, dim, |_, at| {
        let at: Vec<usize> = at.collect();
        let dot: f64 = at.iter().map(|&i| c[i] * d[i]).sum();
        at.iter().for_each(|&i| d[i] *= c[i] - dot);
    });
    from_f64(&d, dx);
}

/// dx = ct − exp(y) · Σ ct.
pub fn log_softmax_vjp(ct: View<'_>, y: View<'_>, dim: usize, dx: SliceMut<'_>) {
    let (c, mut d) = (to_f64(ct), to_f64(y));
    rows(&y, dim, |_, at| {
        let at: Vec<usize> = at.collect();
        let sum: f64 = at.iter().map(|&i| c[i]).sum();
        at.iter().for_each(|&i| d[i] = c[i] - d[i].exp() * sum);
    });
    from_f64(&d, dx);
}

/// dx = ct · exp(x − y), for y = log Σ exp(x).
pub fn logsumexp_vjp(ct: View<'_>, x: View<'_>, y: View<'_>, dim: usize, dx: SliceMut<'_>) {
    let (c, mut d, l) = (to_f64(ct), to_f64(x), to_f64(y));
    rows(&x, dim, |r, at| at.for_each(|i| d[i] = c[r] * (d[i] - l[r]).exp()));
    from_f64(&d, dx);
}

fn classes(logits: &View<'_>, targets: &View<'_>) -> (usize, usize, Vec<usize>) {
    let &[rows, n] = logits.layout.dims() else {
        panic!("cross_entropy: the logits are [rows, classes]")
    };
    assert_eq!(targets.layout.elements(), rows, "cross_entropy: one target for each row");
    let targets: Vec<usize> = to_f64(*targets).iter().map(|&t| t as usize).collect();
    assert!(targets.iter().all(|&t| t < n), "cross_entropy: every target is a class");
    (rows, n, targets)
}

/// losses = log Σ exp(logits) − logits[target] for each row; `lse` gets the first term.
pub fn cross_entropy(
    logits: View<'_>,
    targets: View<'_>,
    losses: SliceMut<'_>,
    lse: Option<SliceMut<'_>>,
) {
    let (rows, n, targets) = classes(&logits, &targets);
    let x = to_f64(logits);
    let l: Vec<f64> = (0..rows).map(|r| log_sum_exp(&x[r * n..][..n])).collect();
    let loss: Vec<f64> = (0..rows).map(|r| l[r] - x[r * n + targets[r]]).collect();
    from_f64(&loss, losses);
    if let Some(out) = lse {
        from_f64(&l, out);
    }
}

/// dx = ct · (softmax(logits) − onehot(targets)).
pub fn cross_entropy_vjp(
    ct: View<'_>,
    logits: View<'_>,
    targets: View<'_>,
    lse: Option<View<'_>>,
    dx: SliceMut<'_>,
) {
    let (rows, n, targets) = classes(&logits, &targets);
    let (c, mut x) = (to_f64(ct), to_f64(logits));
    let l = lse.map(to_f64);
    for r in 0..rows {
        let row = &mut x[r * n..][..n];
        let lse = l.as_ref().map_or_else(|| log_sum_exp(row), |l| l[r]);
        row.iter_mut().for_each(|v| *v = c[r] * (*v - lse).exp());
        row[targets[r]] -= c[r];
    }
    from_f64(&x, dx);
}
