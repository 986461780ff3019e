//! Gradients, residuals, statistics and errors of norms.

use super::*;
use crate::batched::numbers;
use autograd_tape::GradientTape;
use candle_core::DType;

// The sum over a row of a normalised tensor is constant, so each row of dx sums to 0. candle-nn's layer_norm
// has no gradient at all.
#[test]
fn layer_norm_has_its_gradients() {
    let tape = GradientTape::new();
    let x = tape.variable(numbers(&[2, 3], 0.7));
    let (w, b) = (tape.variable(numbers(&[3], 1.1)), tape.variable(numbers(&[3], 1.9)));
    let y = layer_norm(&x, &w, &b, 1e-5).unwrap();
    let ct = numbers(&[2, 3], 0.3);
    let grads = tape.gradient_with(&[&y], &[&ct], &[&x, &w, &b]).unwrap();
    let dx = grads[0].to_vec2::<f64>().unwrap();
    assert!(dx.iter().all(|row| row.iter().sum::<f64>().abs() < 1e-12));
    assert!(dx.iter().flatten().any(|d| d.abs() > 1e-3));
    let ct = ct.to_vec2::<f64>().unwrap();
    let db = grads[2].to_vec1::<f64>().unwrap();
    assert!((0..3).all(|i| (db[i] - ct[0][i] - ct[1][i]).abs() < 1e-12));
}

// PyTorch keeps input, weight, mean and 1/σ.
#[test]
fn no_more_is_kept_than_pytorch_keeps() {
    let kept = |f: &dyn Fn(&TrackedTensor, &TrackedTensor, &TrackedTensor) -> TrackedTensor, c: usize| {
        let tape = GradientTape::new();
        let x = tape.variable(numbers(&[4, c, 8], 0.7));
        let (w, b) = (tape.variable(numbers(&[c], 1.1)), tape.variable(numbers(&[c], 1.9)));
        let _y = f(&x, &w, &b);
        tape.nodes().iter().map(|node| node.kept_bytes).sum::<usize>() / 8
    };
    let layer = |x: &TrackedTensor, w: &TrackedTensor, b: &TrackedTensor| layer_norm(x, w, b, 1e-5).unwrap();
    assert_eq!(kept(&layer, 8), 4 * 64 + 8 + 2 * 32);
    let group = |x: &TrackedTensor, w: &TrackedTensor, b: &TrackedTensor| {
        group_norm(x, 2, Some(w), Some(b), 1e-5).unwrap()
    };
    assert_eq!(kept(&group, 6), 4 * 48 + 6 + 2 * 8);
    let batch = |x: &TrackedTensor, w: &TrackedTensor, b: &TrackedTensor| {
        let (mean, var) = (numbers(&[6], 0.1), numbers(&[6], 0.2));
        batch_norm_train(x, &mean, &var, Some(w), Some(b), 0.1, 1e-5).unwrap().output
    };
    assert_eq!(kept(&batch, 6), 4 * 48 + 6 + 2 * 6);
    let rms = |x: &TrackedTensor, w: &TrackedTensor, _: &TrackedTensor| rms_norm(x, w, 1e-5).unwrap();
    assert_eq!(kept(&rms, 8), 4 * 64 + 8 + 32);
}

#[test]
fn running_statistics_follow_the_batch() {
    let x = TrackedTensor::from_vec(vec![1f64, 2., 3., 6.], &[4, 1]).unwrap();
    let (mean, var) = (numbers(&[1], 0.0), algebra::ones_like(&numbers(&[1], 0.0)).unwrap());
    let made = batch_norm_train(&x, &mean, &var, None, None, 0.1, 0.0).unwrap();
    assert!((made.running_mean.to_vec1::<f64>().unwrap()[0] - 0.3).abs() < 1e-12);
    // Unbiased variance: (4 + 1 + 0 + 9)/3.
    assert!((made.running_var.to_vec1::<f64>().unwrap()[0] - (0.9 + 0.1 * 14.0 / 3.0)).abs() < 1e-12);
    assert!(made.output.to_flat::<f64>().unwrap().iter().sum::<f64>().abs() < 1e-12);
}

#[test]
fn a_constant_row_is_normalised_to_zero() {
    let x = TrackedTensor::from_vec(vec![5f64; 4], &[1, 4]).unwrap();
    let tape = GradientTape::new();
    let x = tape.variable(&x);
    let y = layer_norm_with(&x, 1, None, None, 1e-5).unwrap();
    assert_eq!(y.to_flat::<f64>().unwrap(), [0.; 4]);
    let dx = tape.gradient_with(&[&y], &[&numbers(&[1, 4], 0.7)], &[&x]).unwrap();
    assert!(dx[0].to_flat::<f64>().unwrap().iter().all(|d| d.is_finite()));
}

#[test]
fn half_types_keep_statistics_in_f32() {
    let (x, w) = (numbers(&[3, 64], 0.7), numbers(&[64], 1.1));
    let want = rms_norm(&x, &w, 1e-5).unwrap().to_flat::<f64>().unwrap();
    for dtype in [DType::BF16, DType::F16] {
        let cast = |x: &TrackedTensor| algebra::cast(x, dtype).unwrap();
        let y = rms_norm(&cast(&x), &cast(&w), 1e-5).unwrap();
        let y = algebra::cast(&y, DType::F64).unwrap().to_flat::<f64>().unwrap();
        assert!(y.iter().zip(&want).all(|(y, w)| (y - w).abs() < 0.02 * w.abs().max(1.0)));
    }
}

#[test]
fn what_does_not_fit_is_a_typed_error() {
    let (x, w) = (numbers(&[2, 3], 0.7), numbers(&[2], 0.7));
    assert!(matches!(layer_norm(&x, &w, &w, 1e-5), Err(Error::Shape { .. })));
    assert!(matches!(layer_norm_with(&x, 3, None, None, 1e-5), Err(Error::Shape { .. })));
    assert!(matches!(group_norm(&x, 2, None, None, 1e-5), Err(Error::InvalidArgument { .. })));
    let one = numbers(&[1, 3], 0.7);
    let c = numbers(&[3], 0.7);
    assert!(matches!(batch_norm_train(&one, &c, &c, None, None, 0.1, 1e-5), Err(Error::Shape { .. })));
    let half = algebra::cast(&numbers(&[3], 0.7), DType::BF16).unwrap();
    assert!(matches!(layer_norm(&x, &half, &half, 1e-5), Err(Error::DTypeMismatch { .. })));
}
