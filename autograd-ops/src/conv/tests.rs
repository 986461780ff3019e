//! Values, gradients and errors of convolutions.

use super::contraction::dims;
use super::*;
use crate::batched::{assert_equals_loop, numbers};
use autograd_tape::GradientTape;
use candle_core::{DType, Device, Tensor};

fn assert_close(a: &TrackedTensor, b: &Tensor) {
    assert_eq!(a.dims(), b.dims());
    let b = b.flatten_all().unwrap().to_vec1::<f64>().unwrap();
    for (a, b) in a.to_flat::<f64>().unwrap().into_iter().zip(b) {
        assert!((a - b).abs() < 1e-12, "{a} and {b}");
    }
}

#[test]
fn forward_values_are_candles() {
    for (x, k, padding, stride, dilation, groups) in [
        ([2, 3, 6, 5], [4, 3, 3, 2], 1, 2, 1, 1),
        ([1, 4, 7, 7], [2, 2, 3, 3], 2, 1, 2, 2),
        ([2, 3, 4, 4], [3, 1, 2, 2], 0, 1, 1, 3),
    ] {
        let (x, k) = (numbers(&x, 0.7), numbers(&k, 1.3));
        let y = conv2d(&x, &k, padding, stride, dilation, groups).unwrap();
        let want = x.tensor().unwrap().conv2d(&k.tensor().unwrap(), padding, stride, dilation, groups);
        assert_close(&y, &want.unwrap());
    }
    let (x, k) = (numbers(&[2, 4, 9], 0.7), numbers(&[6, 2, 3], 1.3));
    let want = x.tensor().unwrap().conv1d(&k.tensor().unwrap(), 2, 2, 2, 2).unwrap();
    assert_close(&conv1d(&x, &k, 2, 2, 2, 2).unwrap(), &want);
    let (x, k) = (numbers(&[2, 3, 4, 3], 0.7), numbers(&[3, 2, 3, 3], 1.3));
    let want = x.tensor().unwrap().conv_transpose2d(&k.tensor().unwrap(), 1, 1, 2, 1).unwrap();
    assert_close(&conv_transpose2d(&x, &k, 1, 1, 2, 1).unwrap(), &want);
    let (x, k) = (numbers(&[2, 4, 5], 0.7), numbers(&[4, 3, 3], 1.3));
    let want = x.tensor().unwrap().conv_transpose1d(&k.tensor().unwrap(), 1, 1, 2, 1, 2).unwrap();
    assert_close(&conv_transpose1d(&x, &k, 1, 1, 2, 1, 2).unwrap(), &want);
}

// candle gives an error for the gradient of a transposed convolution in one dimension.
#[test]
fn conv_transpose1d_has_both_gradients() {
    let tape = GradientTape::new();
    let (x, k) = (numbers(&[1, 2, 3], 0.7), numbers(&[2, 1, 2], 1.3));
    let (tx, tk) = (tape.variable(&x), tape.variable(&k));
    let y = conv_transpose1d(&tx, &tk, 0, 0, 2, 1, 1).unwrap();
    let y = algebra::sum_to(&y, &Shape::SCALAR).unwrap();
    let grads = tape.gradient(&y, &[&tx, &tk]).unwrap();
    let k = k.to_flat::<f64>().unwrap();
    for (i, g) in grads[0].to_flat::<f64>().unwrap().into_iter().enumerate() {
        assert!((g - (k[2 * (i / 3)] + k[2 * (i / 3) + 1])).abs() < 1e-12);
    }
    let x = x.to_flat::<f64>().unwrap();
    for (i, g) in grads[1].to_flat::<f64>().unwrap().into_iter().enumerate() {
        assert!((g - x[3 * (i / 2)..][..3].iter().sum::<f64>()).abs() < 1e-12);
    }
}

#[test]
fn every_contraction_batches_in_every_argument() {
    for groups in [1, 2] {
        let options = ConvOptions { padding: [1, 0], stride: [1, 2], groups, ..ConvOptions::default() };
        let (x, k) = (numbers(&[2, 4, 3, 4], 0.1), numbers(&[6, 4 / groups, 2, 2], 0.1));
        let geometry = geometry("conv2d", &x, &k, &options, Site::caller()).unwrap();
        for gives in [Role::Input, Role::Kernel, Role::Output] {
            let op = Contraction { geometry, gives };
            let [a, b] = op.reads().map(|role| dims(&geometry, role));
            assert_equals_loop(&op, &[&a, &b]);
        }
    }
}

#[test]
fn half_types_compute_in_f32() {
    let (x, k) = (numbers(&[1, 2, 4, 4], 0.7), numbers(&[2, 2, 3, 3], 1.3));
    let want = conv2d(&x, &k, 1, 1, 1, 1).unwrap().to_flat::<f64>().unwrap();
    for dtype in [DType::BF16, DType::F16] {
        let cast = |x: &TrackedTensor| algebra::cast(x, dtype).unwrap();
        let y = conv2d(&cast(&x), &cast(&k), 1, 1, 1, 1).unwrap();
        assert_eq!(y.dtype(), dtype);
        let y = algebra::cast(&y, DType::F64).unwrap().to_flat::<f64>().unwrap();
        assert!(y.iter().zip(&want).all(|(y, w)| (y - w).abs() < 0.05 * w.abs().max(1.0)));
    }
}

#[test]
fn what_does_not_fit_is_a_typed_error() {
    let x =
        TrackedTensor::from_candle(&Tensor::ones((1, 2, 3, 3), DType::F32, &Device::Cpu).unwrap()).unwrap();
    let k = |dims: &[usize]| {
        TrackedTensor::from_candle(&Tensor::ones(dims, DType::F32, &Device::Cpu).unwrap()).unwrap()
    };
    let fault = |r: Result<TrackedTensor>| r.unwrap_err().to_string();
    assert!(fault(conv2d(&x, &k(&[1, 3, 1, 1]), 0, 1, 1, 1)).contains("input channels"));
    assert!(fault(conv2d(&x, &k(&[1, 2, 4, 1]), 0, 1, 1, 1)).contains("larger than the padded input"));
    assert!(fault(conv2d(&x, &k(&[1, 2, 1, 1]), 0, 0, 1, 1)).contains("at least 1"));
    assert!(fault(conv2d(&x, &k(&[1, 2]), 0, 1, 1, 1)).contains("four dimensions"));
    assert!(
        fault(conv2d(&x, &k(&[1, 2, 1, 1]), 0, 1, 1, 1).and_then(|y| conv1d(&y, &y, 0, 1, 1, 1)))
            .contains("three dimensions")
    );
    assert!(fault(conv_transpose2d(&x, &k(&[2, 2, 1, 1]), 0, 1, 1, 1)).contains("output_padding"));
    let integers = TrackedTensor::from_vec(vec![1u32; 4], &[1, 1, 2, 2]).unwrap();
    assert!(matches!(conv2d(&integers, &integers, 0, 1, 1, 1), Err(Error::UnsupportedDType { .. })));
    let at = conv2d(&x, &k(&[1, 3, 1, 1]), 0, 1, 1, 1).unwrap_err().site();
    assert!(at.is_some_and(|site| site.file().ends_with("tests.rs")));
}
