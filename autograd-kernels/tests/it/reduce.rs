//! Reductions, copies and accumulation against plain loops.

use crate::support::{Data, Rng, Tensor, assert_close, random_dims};
use autograd_kernels::reduce::{Reduction, arg_reduce, reduce};
use autograd_kernels::{Kind, Layout, Shape, Slice, SliceMut, View, copy, threads};

const KINDS: [Kind; 7] = [Kind::F64, Kind::F32, Kind::BF16, Kind::F16, Kind::U8, Kind::U32, Kind::I64];
const OPS: [Reduction; 5] =
    [Reduction::Sum, Reduction::Mean, Reduction::Prod, Reduction::Max, Reduction::Min];

fn fold(op: Reduction, x: &[f64]) -> f64 {
    let nan = x.iter().any(|v| v.is_nan());
    match op {
        Reduction::Sum => x.iter().sum(),
        Reduction::Mean => x.iter().sum::<f64>() / x.len() as f64,
        Reduction::Prod => x.iter().product(),
        Reduction::Max | Reduction::Min if nan => f64::NAN,
        Reduction::Max => x.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        Reduction::Min => x.iter().copied().fold(f64::INFINITY, f64::min),
    }
}

/// The elements that belong to each kept index.
fn groups(x: &Tensor, over: &[bool]) -> Vec<Vec<f64>> {
    let shape = *x.layout.shape();
    let target: Vec<usize> = shape.dims().iter().zip(over).map(|(&d, &r)| if r { 1 } else { d }).collect();
    let target = Shape::new(&target);
    let to = Layout::contiguous(target).broadcast_to(&shape).unwrap();
    let mut out = vec![Vec::new(); target.elements()];
    x.values().iter().enumerate().for_each(|(i, &v)| out[to.index_of(i)].push(v));
    out
}

#[test]
fn reductions_agree_with_plain_folds() {
    let mut rng = Rng(21);
    for _ in 0..400 {
        let dims = random_dims(&mut rng);
        let (op, kind) = (rng.pick(&OPS), rng.pick(&KINDS));
        let mut x = Tensor::random(&mut rng, kind, &dims);
        if op == Reduction::Prod {
            // Near 1, so that long products stay finite; integers are 1.
            let near = x.data.values().into_iter().map(|v| 1.0 + v.abs() * 0.001);
            x.data = Data::new(kind, near);
        } else if kind == Kind::F32 && rng.below(4) == 0 {
            let end = x.data.slice().len();
            if let (Data::F32(data), true) = (&mut x.data, end > 0) {
                data[rng.below(end)] = f32::NAN;
            }
        }
        let over: Vec<bool> = dims.iter().map(|_| rng.below(2) == 0).collect();
        let groups = groups(&x, &over);
        let want: Vec<f64> = groups.iter().map(|g| fold(op, g)).collect();
        let exact = matches!(op, Reduction::Max | Reduction::Min);
        let out = match (kind, op) {
            (Kind::U8 | Kind::U32 | Kind::I64, Reduction::Mean) => Kind::F64,
            (Kind::U8 | Kind::U32 | Kind::I64, Reduction::Sum) => Kind::I64,
            (Kind::BF16 | Kind::F16, _) if !exact => Kind::F32,
            _ => kind,
        };
        if exact && !out.is_float() && groups.iter().any(Vec::is_empty) {
            continue;
        }
        let mut y = Data::new(out, (0..want.len()).map(|_| 9.0));
        reduce(op, x.view(), &over, y.slice_mut());
        let slack = if exact { 0.0 } else { 2.0 * (1.0 + groups.first().map_or(0, Vec::len) as f64).sqrt() };
        assert_close(&y, &want, slack, &(op, kind, &dims, &over));
    }
}

#[test]
fn nothing_reduces_to_the_neutral_element() {
    let x = Tensor::plain(Kind::F32, &[2, 0], std::iter::empty());
    for (op, want) in OPS.into_iter().zip([0.0, f32::NAN, 1.0, f32::NEG_INFINITY, f32::INFINITY]) {
        let mut y = [5f32; 2];
        reduce(op, x.view(), &[false, true], SliceMut::F32(&mut y));
        assert!(y.iter().all(|v| *v == want || v.is_nan() && want.is_nan()), "{op:?} {y:?}");
    }
}

#[test]
fn arg_reductions_find_the_first_and_nan_wins() {
    let mut rng = Rng(22);
    for round in 0..150 {
        let rank = 1 + rng.below(3);
        let dims: Vec<usize> = (0..rank).map(|_| rng.pick(&[1, 2, 5, 9, 40])).collect();
        let (dim, kind, max) = (rng.below(rank), rng.pick(&KINDS), rng.below(2) == 0);
        let mut x = Tensor::random(&mut rng, kind, &dims);
        // Few different numbers, so that there are equals.
        let rough = x.data.values().into_iter().map(|v| v.round());
        x.data = Data::new(kind, rough);
        if let (Data::F32(data), 0) = (&mut x.data, round % 3) {
            let end = data.len();
            data[rng.below(end)] = f32::NAN;
        }
        let over: Vec<bool> = (0..rank).map(|d| d == dim).collect();
        let groups = groups(&x, &over);
        let (mut values, mut indices) =
            (Data::new(kind, groups.iter().map(|_| 0.0)), vec![9u32; groups.len()]);
        arg_reduce(max, x.view(), dim, values.slice_mut(), SliceMut::U32(&mut indices));
        for (i, group) in groups.iter().enumerate() {
            let best = fold(if max { Reduction::Max } else { Reduction::Min }, group);
            let at = group.iter().position(|v| *v == best || v.is_nan() && best.is_nan()).unwrap();
            assert_eq!(indices[i] as usize, at, "{group:?}");
            let value = values.at(i);
            assert!(value == best || value.is_nan() && best.is_nan());
        }
    }
}

#[test]
fn reductions_are_equal_to_the_bit_for_one_two_and_three_threads() {
    let mut rng = Rng(23);
    let x = Tensor::plain(Kind::F32, &[500, 40, 9], std::iter::repeat_with(|| rng.number()));
    for over in [[true; 3], [true, false, false], [false, true, true], [true, false, true]] {
        for op in OPS {
            let results: Vec<Vec<u32>> = [1, 2, 3]
                .into_iter()
                .map(|count| {
                    threads::set_threads(count);
                    let n: usize =
                        [500, 40, 9].iter().zip(over).filter(|(_, r)| !r).map(|(n, _)| n).product();
                    let mut y = vec![0f32; n];
                    reduce(op, x.view(), &over, SliceMut::F32(&mut y));
                    y.into_iter().map(f32::to_bits).collect()
                })
                .collect();
            assert!(results[0] == results[1] && results[0] == results[2], "{op:?} {over:?}");
        }
    }
    threads::set_threads(0);
}

#[test]
fn copies_gather_any_layout_and_cast_any_kind() {
    let mut rng = Rng(24);
    for _ in 0..400 {
        let dims = random_dims(&mut rng);
        let (from, to) = (rng.pick(&KINDS), rng.pick(&KINDS));
        let mut x = Tensor::random(&mut rng, from, &dims);
        if from == Kind::I64 {
            // Negative integers wrap in unsigned ones, which the reference's f64 does not.
            x.data = Data::new(from, x.data.values().into_iter().map(f64::abs));
        }
        let mut y = Data::new(to, (0..x.layout.elements()).map(|_| 9.0));
        copy::copy(x.view(), y.slice_mut());
        let want = Data::new(to, x.values().into_iter()).values();
        assert_eq!(y.values(), want, "{from:?} to {to:?} {:?}", x.layout);

        if to.is_float() {
            copy::add_assign(y.slice_mut(), x.view());
            let sum: Vec<f64> = want.iter().zip(x.values()).map(|(a, b)| a + b).collect();
            assert_close(&y, &sum, 1.0, &(from, to));
        }
    }
}

#[test]
fn large_transposes_are_exact() {
    let (a, b, c) = (300, 70, 11);
    let data: Vec<f32> = (0..a * b * c).map(|i| i as f32).collect();
    let plain = Layout::contiguous(Shape::new(&[a, b, c]));
    for order in [[2, 1, 0], [1, 0, 2], [2, 0, 1], [0, 2, 1], [1, 2, 0]] {
        let layout = plain.permute(&order);
        let mut y = vec![0f32; data.len()];
        copy::copy(View { data: Slice::F32(&data), layout: &layout }, SliceMut::F32(&mut y));
        for (i, v) in y.iter().enumerate() {
            assert_eq!(*v, data[layout.index_of(i)]);
        }
    }
}
