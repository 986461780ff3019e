//! Normalisations against their formulas in f64.

use crate::support::{Data, Rng, Tensor, assert_close};
use autograd_kernels::{Kind, Layout, Shape, SliceMut, View, norm, threads};

const EPS: f64 = 1e-5;

/// Which elements share statistics, and which weight an element has.
struct Sets {
    /// The set of each element.
    set: Vec<usize>,
    /// The weight of each element.
    weight: Vec<usize>,
}

struct Expected {
    y: Vec<f64>,
    mean: Vec<f64>,
    rstd: Vec<f64>,
    dx: Vec<f64>,
    dw: Vec<f64>,
    db: Vec<f64>,
}

/// The formulas, with the mean taken out or not.
fn expected(sets: &Sets, x: &[f64], ct: &[f64], w: &[f64], b: &[f64], centred: bool) -> Expected {
    let count = sets.set.iter().max().map_or(0, |m| m + 1);
    let mut size = vec![0.0; count];
    sets.set.iter().for_each(|&s| size[s] += 1.0);
    let average = |f: &dyn Fn(usize) -> f64| {
        let mut out = vec![0.0; count];
        sets.set.iter().enumerate().for_each(|(i, &s)| out[s] += f(i) / size[s]);
        out
    };
    let mean = if centred { average(&|i| x[i]) } else { vec![0.0; count] };
    let variance = average(&|i| (x[i] - mean[sets.set[i]]).powi(2));
    let rstd: Vec<f64> = variance.iter().map(|v| 1.0 / (v + EPS).sqrt()).collect();
    let hat: Vec<f64> = (0..x.len()).map(|i| (x[i] - mean[sets.set[i]]) * rstd[sets.set[i]]).collect();
    let g = |i: usize| ct[i] * w[sets.weight[i]];
    let g_mean = if centred { average(&g) } else { vec![0.0; count] };
    let gx_mean = average(&|i| g(i) * hat[i]);
    let (mut dw, mut db) = (vec![0.0; w.len()], vec![0.0; w.len()]);
    for i in 0..x.len() {
        dw[sets.weight[i]] += ct[i] * hat[i];
        db[sets.weight[i]] += ct[i];
    }
    Expected {
        y: (0..x.len()).map(|i| hat[i] * w[sets.weight[i]] + b[sets.weight[i]]).collect(),
        dx: (0..x.len())
            .map(|i| rstd[sets.set[i]] * (g(i) - g_mean[sets.set[i]] - hat[i] * gx_mean[sets.set[i]]))
            .collect(),
        mean,
        rstd,
        dw,
        db,
    }
}

/// Which of the four, with the number of groups.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Norm {
    Layer,
    Rms,
    Group(usize),
    Batch,
}

fn out(kind: Kind, n: usize) -> Data {
    Data::new(kind, (0..n).map(|_| 7.0))
}

fn check(rng: &mut Rng, norm: Norm, kind: Kind, dims: &[usize]) {
    let shape = Shape::new(dims);
    let n = shape.elements();
    let sets = match norm {
        Norm::Layer | Norm::Rms => {
            let last = dims[dims.len() - 1];
            Sets { set: (0..n).map(|i| i / last).collect(), weight: (0..n).map(|i| i % last).collect() }
        }
        Norm::Group(_) | Norm::Batch => {
            let (c, s) = (dims[1], dims[2..].iter().product::<usize>());
            let channel = |i: usize| i / s % c;
            let set = |i: usize| match norm {
                Norm::Group(groups) => i / (s * (c / groups)),
                _ => channel(i),
            };
            Sets { set: (0..n).map(set).collect(), weight: (0..n).map(channel).collect() }
        }
    };
    let weights = sets.weight.iter().max().map_or(0, |m| m + 1);
    let x = Tensor::random(rng, kind, dims);
    let ct = Tensor::random(rng, kind, dims);
    let affine = rng.below(3) > 0;
    let w = affine.then(|| Tensor::random(rng, kind, &[weights]));
    let b = (affine && norm != Norm::Rms).then(|| Tensor::random(rng, kind, &[weights]));
    let ws = w.as_ref().map_or(vec![1.0; weights], Tensor::values);
    let bs = b.as_ref().map_or(vec![0.0; weights], Tensor::values);
    let want = expected(&sets, &x.values(), &ct.values(), &ws, &bs, norm != Norm::Rms);
    let (wv, bv) = (w.as_ref().map(Tensor::view), b.as_ref().map(Tensor::view));
    let count = want.mean.len();

    let (mut y, mut mean, mut rstd) = (out(kind, n), out(kind, count), out(kind, count));
    let (ys, ms, rs) = (y.slice_mut(), Some(mean.slice_mut()), Some(rstd.slice_mut()));
    match norm {
        Norm::Layer => norm::layer_norm(x.view(), wv, bv, EPS, ys, ms, rs),
        Norm::Rms => norm::rms_norm(x.view(), wv, EPS, ys, rs),
        Norm::Group(groups) => norm::group_norm(x.view(), groups, wv, bv, EPS, ys, ms, rs),
        Norm::Batch => norm::batch_norm(x.view(), wv, bv, EPS, ys, ms, rs),
    }
    let what = &(norm, kind, dims.to_vec(), affine);
    // Where a set has few numbers, the variance may be small and its root large.
    let slack = 10.0 * want.rstd.iter().fold(1.0, |m: f64, v| m.max(*v));
    assert_close(&y, &want.y, slack, what);
    assert_close(&rstd, &want.rstd, slack, what);
    if norm != Norm::Rms {
        assert_close(&mean, &want.mean, 10.0, what);
    }

    let saved_layout = Layout::contiguous(Shape::new(&[count]));
    let view = |d| View { data: d, layout: &saved_layout };
    // Half types round mean and rstd, so that only the recomputed ones give exact gradients.
    let half = matches!(kind, Kind::BF16 | Kind::F16);
    for saved in if half { vec![false] } else { vec![false, true] } {
        let (m, r) = (saved.then(|| view(mean.slice())), saved.then(|| view(rstd.slice())));
        let (mut dx, mut dw, mut db) = (out(kind, n), out(Kind::F64, weights), out(Kind::F64, weights));
        let (a, b, c) = (Some(dx.slice_mut()), Some(dw.slice_mut()), Some(db.slice_mut()));
        let (cv, xv) = (ct.view(), x.view());
        match norm {
            Norm::Layer => norm::layer_norm_vjp(cv, xv, wv, m, r, EPS, a, b, c),
            Norm::Rms => norm::rms_norm_vjp(cv, xv, wv, r, EPS, a, b),
            Norm::Group(groups) => norm::group_norm_vjp(cv, xv, groups, wv, m, r, EPS, a, b, c),
            Norm::Batch => norm::batch_norm_vjp(cv, xv, wv, m, r, EPS, a, b, c),
        }
        let slack = slack * slack;
        assert_close(&dx, &want.dx, slack, what);
        let narrow = |d: &Data| Data::new(kind, d.values().into_iter());
        assert_close(&narrow(&dw), &want.dw, slack, what);
        if norm != Norm::Rms {
            assert_close(&narrow(&db), &want.db, slack, what);
        }
    }
}

#[test]
fn all_norms_agree_with_their_formulas() {
    let mut rng = Rng(11);
    for round in 0..160 {
        let kind = rng.pick(&[Kind::F32, Kind::F64, Kind::F32, Kind::F64, Kind::BF16, Kind::F16]);
        let channels = rng.pick(&[2, 4, 6]);
        let image = [rng.pick(&[1, 2, 5]), channels, rng.pick(&[1, 3, 17]), rng.pick(&[2, 7, 32])];
        match round % 4 {
            0 | 1 => {
                let dims = [rng.pick(&[1, 3, 40]), rng.pick(&[1, 2]), rng.pick(&[2, 9, 64, 333])];
                let norm = if round % 4 == 0 { Norm::Layer } else { Norm::Rms };
                let from = rng.below(3);
                check(&mut rng, norm, kind, &dims[from..]);
            }
            2 => {
                let groups = rng.pick(&[1, 2]);
                check(&mut rng, Norm::Group(groups), kind, &image);
            }
            _ => {
                let rank = rng.pick(&[2, 3, 4]);
                check(&mut rng, Norm::Batch, kind, &image[..rank]);
            }
        }
    }
}

#[test]
fn gradients_are_equal_to_the_bit_for_one_two_and_three_threads() {
    let mut rng = Rng(13);
    let (m, n) = (900, 130);
    let x = Tensor::plain(Kind::F32, &[m, n], std::iter::repeat_with(|| rng.number()));
    let run = |count| {
        threads::set_threads(count);
        let (mut dx, mut dw, mut db) = (vec![0f32; m * n], vec![0f32; n], vec![0f32; n]);
        norm::layer_norm_vjp(
            x.view(),
            x.view(),
            None,
            None,
            None,
            EPS,
            Some(SliceMut::F32(&mut dx)),
            Some(SliceMut::F32(&mut dw)),
            Some(SliceMut::F32(&mut db)),
        );
        (dx, dw, db)
    };
    let one = run(1);
    assert_eq!(one, run(2));
    assert_eq!(one, run(3));
    threads::set_threads(0);
}
