//! Products with a bias: equal to the bit to the product and an addition after it.

use crate::support::{Number, Random, Tensor, same_for_any_threads};
use autograd_kernels::matmul::{matmul, matmul_bias};
use autograd_kernels::{Shape, SliceMut, bf16, f16};

/// Asserts that the bias comes to each element of the product, rounded as `add` rounds.
fn check<T: Number>(a: &Tensor<T>, b: &Tensor<T>, bias: &Tensor<T>, add: impl Fn(T, T) -> T) {
    let (da, db) = (a.layout.dims(), b.layout.dims());
    let n = db[db.len() - 1];
    let elements = da[..da.len() - 1].iter().product::<usize>() * n;
    let mut want = vec![T::of(f64::NAN); elements];
    matmul(a.view(), b.view(), T::slice_mut(&mut want));
    let numbers = bias.values();
    want.iter_mut().enumerate().for_each(|(i, y)| *y = add(*y, T::of(numbers[i % n])));
    let mut out = vec![T::of(f64::NAN); elements];
    matmul_bias(a.view(), b.view(), bias.view(), T::slice_mut(&mut out));
    let bits = |x: &[T]| -> Vec<u64> { x.iter().map(|x| x.get().to_bits()).collect() };
    assert!(bits(&out) == bits(&want), "{:?} x {:?} + {:?}", a.layout, b.layout, bias.layout);
}

const SHAPES: &[[usize; 3]] = &[
    [1, 1, 1],
    [3, 5, 7],
    [0, 3, 4],
    [3, 0, 4],
    [3, 4, 0],
    [1, 0, 5],
    [1, 40, 33],
    [37, 70, 1],
    [1, 300, 1],
    [1, 700, 530],
    [530, 700, 1],
    [7, 17, 17],
    [31, 33, 32],
    [130, 270, 95],
    [95, 530, 35],
    [1030, 65, 33],
    [13, 9, 1100],
    [90, 1, 70],
    [7, 133, 101],
    [11, 70, 97],
];

/// A bias that lies in order, with gaps, or is one number.
fn biases<T: Number>(n: usize, random: &mut Random) -> [Tensor<T>; 3] {
    let mut one = Tensor::<T>::random(&[1], random);
    one.layout = one.layout.broadcast_to(&Shape::new(&[n])).unwrap();
    [Tensor::random(&[n], random), Tensor::spread(&[n], random), one]
}

fn sweep<T: Number>(add: impl Fn(T, T) -> T + Copy) {
    let mut random = Random::new(11);
    let makers = [Tensor::<T>::random, Tensor::transposed, Tensor::spread];
    for &[m, k, n] in SHAPES {
        let biases = biases(n, &mut random);
        for (a, b) in makers.iter().flat_map(|a| makers.iter().map(move |b| (a, b))) {
            let (a, b) = (a(&[m, k], &mut random), b(&[k, n], &mut random));
            biases.iter().for_each(|bias| check(&a, &b, bias, add));
        }
    }
}

#[test]
fn every_shape_and_stride_f32() {
    sweep::<f32>(|x, y| x + y);
}

#[test]
fn every_shape_and_stride_f64() {
    sweep::<f64>(|x, y| x + y);
}

#[test]
fn batches_share_the_bias() {
    let mut random = Random::new(12);
    for [m, k, n] in [[3, 4, 5], [40, 33, 50], [1, 64, 48], [64, 48, 1], [6, 0, 5]] {
        for batch in [&[0][..], &[5], &[2, 3], &[2, 0, 3]] {
            let (a, b) = ([batch, &[m, k]].concat(), [batch, &[k, n]].concat());
            let mut weights = Tensor::<f32>::random(&[k, n], &mut random);
            weights.layout = weights.layout.broadcast_to(&Shape::new(&b)).unwrap();
            for bias in biases(n, &mut random) {
                let a = Tensor::random(&a, &mut random);
                check(&a, &Tensor::transposed(&b, &mut random), &bias, |x, y| x + y);
                check(&a, &weights, &bias, |x, y| x + y);
            }
        }
    }
}

/// The sum stays in f32 until the bias is added: one rounding, not two.
#[test]
fn half_types_are_rounded_once() {
    let mut random = Random::new(13);
    for [m, k, n] in [[1, 40, 33], [7, 17, 17], [95, 130, 35], [3, 0, 4]] {
        once::<bf16>([m, k, n], &mut random);
        once::<f16>([m, k, n], &mut random);
    }
}

fn once<T: Number>([m, k, n]: [usize; 3], random: &mut Random) {
    let (a, b) = (Tensor::<T>::transposed(&[m, k], random), Tensor::<T>::random(&[k, n], random));
    let bias = Tensor::<T>::random(&[n], random);
    let wide = |x: &Tensor<T>| Tensor::<f32> {
        data: x.data.iter().map(|x| x.get() as f32).collect(),
        layout: x.layout,
    };
    let mut want = vec![f32::NAN; m * n];
    let (wide_a, wide_b, wide_bias) = (wide(&a), wide(&b), wide(&bias));
    matmul_bias(wide_a.view(), wide_b.view(), wide_bias.view(), SliceMut::F32(&mut want));
    let mut out = vec![T::of(f64::NAN); m * n];
    matmul_bias(a.view(), b.view(), bias.view(), T::slice_mut(&mut out));
    for (got, want) in out.iter().zip(want) {
        assert_eq!(got.get(), T::of(f64::from(want)).get());
    }
}

#[test]
fn equal_to_the_bit_for_any_number_of_threads() {
    let mut random = Random::new(14);
    for [m, k, n] in
        [[1100, 300, 150], [30, 600, 1000], [5, 600, 1000], [1, 500, 900], [900, 500, 1], [900, 1, 75]]
    {
        for batch in [1, 3] {
            let a = Tensor::<f32>::random(&[batch, m, k], &mut random);
            let b = Tensor::<f32>::transposed(&[batch, k, n], &mut random);
            let bias = Tensor::<f32>::random(&[n], &mut random);
            same_for_any_threads(batch * m * n, |out| {
                matmul_bias(a.view(), b.view(), bias.view(), SliceMut::F32(out));
            });
        }
    }
}

#[test]
#[should_panic(expected = "the bias has shape [3] where [2] is expected")]
fn a_bias_of_another_length_is_refused() {
    let mut random = Random::new(15);
    let (a, b) = (Tensor::<f32>::random(&[2, 4], &mut random), Tensor::<f32>::random(&[4, 2], &mut random));
    let bias = Tensor::<f32>::random(&[3], &mut random);
    matmul_bias(a.view(), b.view(), bias.view(), SliceMut::F32(&mut [0.0; 4]));
}
