//! Softmax and its relatives against f64, and their reverse rules against their formulas.

use crate::support::{Data, Rng, Tensor, assert_close};
use autograd_kernels::{Kind, Layout, Shape, Slice, View, softmax, threads};

const FLOATS: [Kind; 4] = [Kind::F32, Kind::F64, Kind::BF16, Kind::F16];

/// The element numbers of each row along `dim`.
fn rows(dims: &[usize], dim: usize) -> Vec<Vec<usize>> {
    let inner: usize = dims[dim + 1..].iter().product();
    let (outer, n): (usize, usize) = (dims[..dim].iter().product(), dims[dim]);
    (0..outer * inner).map(|r| (0..n).map(|k| (r / inner * n + k) * inner + r % inner).collect()).collect()
}

fn log_sum_exp(x: &[f64]) -> f64 {
    let m = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    m + x.iter().map(|v| (v - m).exp()).sum::<f64>().ln()
}

/// An output of this kind, filled by `f`.
fn fill(kind: Kind, len: usize, f: impl FnOnce(autograd_kernels::SliceMut<'_>)) -> Data {
    let mut y = Data::new(kind, (0..len).map(|_| 7.0));
    f(y.slice_mut());
    y
}

#[test]
fn forward_and_reverse_rules_agree_with_their_formulas() {
    let mut rng = Rng(3);
    for _ in 0..120 {
        let rank = 1 + rng.below(4);
        let dims: Vec<usize> = (0..rank).map(|_| rng.pick(&[1, 2, 3, 7, 16, 33, 130])).collect();
        if dims.iter().product::<usize>() > 60_000 {
            continue;
        }
        let (dim, kind) = (rng.below(rank), rng.pick(&FLOATS));
        let x = Tensor::random(&mut rng, kind, &dims);
        let ct = Tensor::random(&mut rng, kind, &dims);
        let (xs, cs) = (x.values(), ct.values());
        let n = xs.len();
        let lists = rows(&dims, dim);
        let (mut soft, mut log, mut lse) = (vec![0.0; n], vec![0.0; n], Vec::new());
        for row in &lists {
            let l = log_sum_exp(&row.iter().map(|&i| xs[i]).collect::<Vec<_>>());
            row.iter().for_each(|&i| (soft[i], log[i]) = ((xs[i] - l).exp(), xs[i] - l));
            lse.push(l);
        }
        let what = &(&dims, dim, kind);
        let y = fill(kind, n, |y| softmax::softmax(x.view(), dim, y));
        assert_close(&y, &soft, 2.0, what);
        let l = fill(kind, n, |y| softmax::log_softmax(x.view(), dim, y));
        assert_close(&l, &log, 2.0, what);
        let z = fill(kind, lists.len(), |y| softmax::logsumexp(x.view(), dim, y));
        assert_close(&z, &lse, 2.0, what);

        // The reverse rules, of the outputs as they were rounded.
        let plain = Layout::contiguous(Shape::new(&dims));
        let (ys, ls, zs) = (y.values(), l.values(), z.values());
        let mut want = [vec![0.0; n], vec![0.0; n], vec![0.0; n]];
        for (r, row) in lists.iter().enumerate() {
            let dot: f64 = row.iter().map(|&i| cs[i] * ys[i]).sum();
            let sum: f64 = row.iter().map(|&i| cs[i]).sum();
            for &i in row {
                want[0][i] = ys[i] * (cs[i] - dot);
                want[1][i] = cs[i] - ls[i].exp() * sum;
                want[2][i] = ls[r % ls.len()] * (xs[i] - zs[r]).exp();
            }
        }
        let dx = fill(kind, n, |dx| {
            softmax::softmax_vjp(ct.view(), View { data: y.slice(), layout: &plain }, dim, dx);
        });
        assert_close(&dx, &want[0], 10.0, what);
        let dx = fill(kind, n, |dx| {
            softmax::log_softmax_vjp(ct.view(), View { data: l.slice(), layout: &plain }, dim, dx);
        });
        assert_close(&dx, &want[1], 10.0, what);
        // Any numbers will do as ct: the first of log_softmax's output.
        let short = Layout::contiguous(Shape::new(&[lists.len()]));
        let ct = View { data: l.slice(), layout: &short };
        let z = View { data: z.slice(), layout: &short };
        let dx = fill(kind, n, |dx| softmax::logsumexp_vjp(ct, x.view(), z, dim, dx));
        assert_close(&dx, &want[2], 10.0, what);
    }
}

#[test]
fn rows_with_infinities_are_as_in_pytorch() {
    let inf = f32::INFINITY;
    let x =
        [[0.0, -inf, 1.0], [-inf, -inf, -inf], [inf, 0.0, 1.0], [f32::NAN, 0.0, 1.0], [-inf, f32::NAN, -inf]];
    let layout = Layout::contiguous(Shape::new(&[5, 3]));
    let flat: Vec<f32> = x.concat();
    let view = View { data: Slice::F32(&flat), layout: &layout };
    let mut y = vec![0f32; 15];
    softmax::softmax(view, 1, autograd_kernels::SliceMut::F32(&mut y));
    assert!(y[1] == 0.0 && (y[0] + y[2] - 1.0).abs() < 1e-6);
    assert!(y[3..].iter().all(|v| v.is_nan()));
    let mut z = vec![0f32; 5];
    softmax::logsumexp(view, 1, autograd_kernels::SliceMut::F32(&mut z));
    assert!((z[0] - 1.313_261_7).abs() < 1e-6);
    assert_eq!((z[1], z[2]), (-inf, inf));
    assert!(z[3].is_nan() && z[4].is_nan());
    softmax::log_softmax(view, 1, autograd_kernels::SliceMut::F32(&mut y));
    assert!(y[1] == -inf && y[3..].iter().all(|v| v.is_nan()));
}

#[test]
fn cross_entropy_agrees_with_its_formula() {
    let mut rng = Rng(5);
    for _ in 0..40 {
        let (m, n) = (rng.pick(&[1, 3, 50]), rng.pick(&[1, 2, 10, 129, 1000]));
        let (kind, index) = (rng.pick(&FLOATS), rng.pick(&[Kind::U32, Kind::I64]));
        let x = Tensor::random(&mut rng, kind, &[m, n]);
        let list: Vec<usize> = (0..m).map(|_| rng.below(n)).collect();
        let targets = Tensor::plain(index, &[m], list.iter().map(|&t| t as f64));
        let xs = x.values();
        let lse: Vec<f64> = xs.chunks(n).map(log_sum_exp).collect();
        let loss: Vec<f64> = (0..m).map(|r| lse[r] - xs[r * n + list[r]]).collect();
        let mut sums = Data::new(kind, (0..m).map(|_| 7.0));
        let y = fill(kind, m, |y| {
            softmax::cross_entropy(x.view(), targets.view(), y, Some(sums.slice_mut()));
        });
        assert_close(&y, &loss, 2.0, &(m, n, kind));
        assert_close(&sums, &lse, 2.0, &(m, n, kind));
        // One cotangent for all rows, as the mean of the losses gives.
        let ct = Tensor::plain(kind, &[1], std::iter::once(0.25));
        let wide = ct.layout.broadcast_to(&Shape::new(&[m])).unwrap();
        let ct = View { data: ct.data.slice(), layout: &wide };
        let mut want: Vec<f64> = (0..m * n).map(|i| 0.25 * (xs[i] - lse[i / n]).exp()).collect();
        list.iter().enumerate().for_each(|(r, t)| want[r * n + t] -= 0.25);
        let rows = Layout::contiguous(Shape::new(&[m]));
        for saved in [None, Some(View { data: sums.slice(), layout: &rows })] {
            let dx = fill(kind, m * n, |dx| {
                softmax::cross_entropy_vjp(ct, x.view(), targets.view(), saved, dx);
            });
            assert_close(&dx, &want, 5.0, &(m, n, kind, saved.is_some()));
        }
    }
}

#[test]
#[should_panic(expected = "target -1 of row 0")]
fn a_target_that_is_no_class_is_refused() {
    let x = Tensor::plain(Kind::F32, &[1, 2], [0.0, 1.0].into_iter());
    let t = Tensor::plain(Kind::I64, &[1], std::iter::once(-1.0));
    let y = autograd_kernels::SliceMut::F32(&mut [0.0]);
    softmax::cross_entropy(x.view(), t.view(), y, None);
}

#[test]
fn softmax_is_equal_to_the_bit_for_one_two_and_three_threads() {
    let mut rng = Rng(9);
    let x = Tensor::plain(Kind::F32, &[600, 201], std::iter::repeat_with(|| rng.number()));
    let run = |count| {
        threads::set_threads(count);
        fill(Kind::F32, 600 * 201, |y| softmax::softmax(x.view(), 1, y)).values()
    };
    let one = run(1);
    assert_eq!(one, run(2));
    assert_eq!(one, run(3));
    threads::set_threads(0);
}
