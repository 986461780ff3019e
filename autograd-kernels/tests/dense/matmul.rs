//! Matrix products of all shapes and strides.

use crate::support::{Number, Random, Tensor, assert_close, same_for_any_threads};
use autograd_kernels::matmul::{matmul, matmul_acc};
use autograd_kernels::{Layout, Shape, bf16, f16};

fn reference<T: Number>(a: &Tensor<T>, b: &Tensor<T>) -> Vec<f64> {
    let rank = a.layout.rank();
    let (da, db) = (a.layout.dims(), b.layout.dims());
    let (m, k, n) = (da[rank - 2], da[rank - 1], db[rank - 1]);
    let batch: usize = da[..rank - 2].iter().product();
    let (a, b) = (a.values(), b.values());
    let mut out = vec![0.0; batch * m * n];
    for s in 0..batch {
        for i in 0..m {
            for j in 0..n {
                for l in 0..k {
                    out[(s * m + i) * n + j] += a[(s * m + i) * k + l] * b[(s * k + l) * n + j];
                }
            }
        }
    }
    out
}

fn check<T: Number>(a: &Tensor<T>, b: &Tensor<T>) {
    let what = format!("{:?} x {:?}", a.layout, b.layout);
    let k = *a.layout.dims().last().unwrap();
    let mut want = reference(a, b);
    let mut out = vec![T::of(f64::NAN); want.len()];
    matmul(a.view(), b.view(), T::slice_mut(&mut out));
    assert_close(&out, &want, k as f64, &what);
    let mut random = Random::new(9);
    let mut out: Vec<T> = want.iter().map(|_| T::of(random.unit())).collect();
    for (want, start) in want.iter_mut().zip(&out) {
        *want += start.get();
    }
    matmul_acc(a.view(), b.view(), T::slice_mut(&mut out));
    assert_close(&out, &want, k as f64 + 1.0, &what);
}

const SHAPES: &[[usize; 3]] = &[
    [1, 1, 1],
    [4, 4, 4],
    [3, 5, 7],
    [0, 3, 4],
    [3, 0, 4],
    [3, 4, 0],
    [1, 40, 33],
    [37, 70, 1],
    [1, 300, 1],
    [1, 700, 530],
    [530, 700, 1],
    [2, 300, 270],
    [6, 16, 16],
    [7, 17, 17],
    [31, 33, 32],
    [61, 50, 47],
    [130, 270, 95],
    [95, 530, 35],
    [253, 65, 33],
    [13, 9, 1100],
    [2, 150, 200],
    [7, 133, 101],
    [11, 70, 97],
];

fn sweep<T: Number>() {
    let mut random = Random::new(1);
    let makers = [Tensor::<T>::random, Tensor::transposed, Tensor::spread];
    for &[m, k, n] in SHAPES {
        for a in makers {
            for b in makers {
                check(&a(&[m, k], &mut random), &b(&[k, n], &mut random));
            }
        }
    }
}

#[test]
fn every_shape_and_stride_f32() {
    sweep::<f32>();
}

#[test]
fn every_shape_and_stride_f64() {
    sweep::<f64>();
}

#[test]
fn half_types_are_summed_in_f32() {
    let mut random = Random::new(2);
    for &[m, k, n] in &SHAPES[..10] {
        check(&Tensor::<bf16>::transposed(&[m, k], &mut random), &Tensor::random(&[k, n], &mut random));
        check(&Tensor::<f16>::spread(&[m, k], &mut random), &Tensor::random(&[k, n], &mut random));
    }
    // 4096 ones added in bf16 would stop at 256.
    let (a, b) = (vec![bf16::ONE; 4096], vec![bf16::ONE; 4096]);
    let (la, lb) = (Layout::contiguous(Shape::new(&[1, 4096])), Layout::contiguous(Shape::new(&[4096, 1])));
    let (a, b) = (Tensor { data: a, layout: la }, Tensor { data: b, layout: lb });
    let mut out = [bf16::ZERO];
    matmul(a.view(), b.view(), autograd_kernels::SliceMut::BF16(&mut out));
    assert_eq!(out[0].to_f32(), 4096.0);
}

#[test]
fn batches_plain_broadcast_and_empty() {
    let mut random = Random::new(3);
    for [m, k, n] in [[3, 4, 5], [40, 33, 50], [1, 64, 48], [64, 48, 1]] {
        for batch in [&[0][..], &[5], &[2, 3], &[2, 0, 3]] {
            let (a, b) = ([batch, &[m, k]].concat(), [batch, &[k, n]].concat());
            check::<f32>(&Tensor::random(&a, &mut random), &Tensor::transposed(&b, &mut random));
            let mut weights = Tensor::<f32>::random(&[k, n], &mut random);
            weights.layout = weights.layout.broadcast_to(&Shape::new(&b)).unwrap();
            check(&Tensor::random(&a, &mut random), &weights);
            let mut left = Tensor::<bf16>::random(&[m, k], &mut random);
            left.layout = left.layout.broadcast_to(&Shape::new(&a)).unwrap();
            check(&left, &Tensor::random(&b, &mut random));
        }
    }
}

#[test]
fn rows_and_columns_may_be_repeated() {
    let mut random = Random::new(4);
    for [m, k, n] in [[5, 6, 7], [50, 60, 70], [1, 60, 70]] {
        let mut a = Tensor::<f32>::random(&[1, k], &mut random);
        a.layout = a.layout.broadcast_to(&Shape::new(&[m, k])).unwrap();
        let mut b = Tensor::<f32>::random(&[k, 1], &mut random);
        b.layout = b.layout.broadcast_to(&Shape::new(&[k, n])).unwrap();
        check(&a, &b);
        check(&a, &Tensor::random(&[k, n], &mut random));
        check(&Tensor::random(&[m, k], &mut random), &b);
    }
}

#[test]
fn nan_and_infinity_pass_through_zeros() {
    for n in [2, 80] {
        let mut random = Random::new(5);
        let mut a = Tensor::<f32>::random(&[n, n], &mut random);
        let mut b = Tensor::<f32>::random(&[n, n], &mut random);
        a.data.fill(0.0);
        b.data[0] = f32::INFINITY;
        let mut out = vec![0f32; n * n];
        matmul(a.view(), b.view(), autograd_kernels::SliceMut::F32(&mut out));
        assert!(out[0].is_nan() && out[n].is_nan() && out[1] == 0.0);
    }
}

#[test]
#[should_panic(expected = "a layout reaches element 40 of a buffer of 36")]
fn a_layout_past_its_buffer_is_refused() {
    let mut random = Random::new(6);
    let mut a = Tensor::<f32>::random(&[6, 6], &mut random);
    a.layout = Layout::new(Shape::new(&[6, 6]), &[6, 1], 4);
    let b = Tensor::<f32>::random(&[6, 6], &mut random);
    matmul(a.view(), b.view(), autograd_kernels::SliceMut::F32(&mut [0.0; 36]));
}

#[test]
#[should_panic(expected = "matrix product of shapes [2, 3] and [4, 2]")]
fn shapes_that_do_not_fit_are_refused() {
    let mut random = Random::new(7);
    let (a, b) = (Tensor::<f32>::random(&[2, 3], &mut random), Tensor::<f32>::random(&[4, 2], &mut random));
    matmul(a.view(), b.view(), autograd_kernels::SliceMut::F32(&mut [0.0; 4]));
}

#[test]
fn equal_to_the_bit_for_any_number_of_threads() {
    let mut random = Random::new(8);
    for [m, k, n] in
        [[200, 300, 150], [30, 600, 1000], [5, 600, 1000], [1, 500, 900], [900, 500, 1], [7, 90, 70]]
    {
        for batch in [1, 3, 20] {
            let a = Tensor::<f32>::random(&[batch, m, k], &mut random);
            let b = Tensor::<f32>::transposed(&[batch, k, n], &mut random);
            same_for_any_threads(batch * m * n, |out| {
                matmul(a.view(), b.view(), autograd_kernels::SliceMut::F32(out));
            });
        }
    }
}
