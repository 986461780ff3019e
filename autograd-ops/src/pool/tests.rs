//! Values, gradients and errors of pooling.

use super::*;
use autograd_tape::GradientTape;

fn gradient(
    data: Vec<f64>,
    dims: &[usize],
    f: impl Fn(&TrackedTensor) -> Result<TrackedTensor>,
) -> (Vec<f64>, Vec<f64>) {
    let tape = GradientTape::new();
    let x = tape.variable(TrackedTensor::from_vec(data, dims).unwrap());
    let y = f(&x).unwrap();
    let sum = algebra::sum_to(&y, &Shape::SCALAR).unwrap();
    let dx = tape.derivative(&sum, &x).unwrap();
    (y.to_flat().unwrap(), dx.to_flat().unwrap())
}

// CASES.md 29.
#[test]
fn overlapping_windows_add_up_at_the_chosen_elements() {
    let x = vec![
        0.2479, 0.6386, 0.3166, 0.5742, 0.7065, 0.1940, 0.6305, 0.8959, 0.5416, 0.8602, 0.8129, 0.1662,
        0.3358, 0.3059, 0.8293, 0.0990,
    ];
    let (_, dx) = gradient(x, &[1, 1, 4, 4], |x| max_pool2d_with_stride(x, 3, 1));
    let mut want = vec![0.0; 16];
    (want[7], want[9]) = (2.0, 2.0);
    assert_eq!(dx, want);
}

// CASES.md 32.
#[test]
fn an_average_spreads_its_cotangent() {
    let (_, dx) =
        gradient((0..36).map(f64::from).collect(), &[1, 1, 6, 6], |x| avg_pool2d_with_stride(x, 3, 1));
    assert!((dx[0] - 1.0 / 9.0).abs() < 1e-15 && (dx[14] - 1.0).abs() < 1e-15);
}

// candle gives each element of such a window a quarter of the gradient.
#[test]
fn one_maximum_gets_all_of_the_gradient() {
    let (_, dx) = gradient(vec![1., 2., 4., 3.], &[1, 1, 2, 2], |x| max_pool2d(x, 2));
    assert_eq!(dx, [0., 0., 1., 0.]);
}

#[test]
fn the_first_of_equal_maxima_is_chosen() {
    let (_, dx) = gradient(vec![1., 3., 3., 3.], &[1, 1, 2, 2], |x| max_pool2d(x, 2));
    assert_eq!(dx, [0., 1., 0., 0.]);
}

// candle: wrong or an error.
#[test]
fn windows_need_not_divide_the_size_nor_lie_side_by_side() {
    let x: Vec<f64> = (0..15).map(f64::from).collect();
    let (y, dx) = gradient(x.clone(), &[1, 3, 5], |x| max_pool2d(x, 2));
    assert_eq!(y, [6., 8.]);
    assert_eq!(dx.iter().sum::<f64>(), 2.0);
    assert_eq!((dx[6], dx[8]), (1., 1.));
    let (y, dx) = gradient(x, &[1, 3, 5], |x| avg_pool2d_with_stride(x, (2, 2), (1, 3)));
    assert_eq!(y, [3., 6., 8., 11.]);
    assert_eq!(dx, [0.25, 0.25, 0., 0.25, 0.25, 0.5, 0.5, 0., 0.5, 0.5, 0.25, 0.25, 0., 0.25, 0.25]);
}

#[test]
fn gradients_of_gradients_reach_through_the_maximum() {
    let tape = GradientTape::new().persistent();
    let x = tape.variable(TrackedTensor::from_vec(vec![1f64, 2., 4., 3.], &[1, 2, 2]).unwrap());
    let y = max_pool2d(&x, 2).unwrap();
    let y =
        algebra::sum_to(&algebra::mul(&algebra::mul(&y, &y).unwrap(), &y).unwrap(), &Shape::SCALAR).unwrap();
    let dx = tape.derivative(&y, &x).unwrap();
    assert_eq!(dx.to_flat::<f64>().unwrap(), [0., 0., 48., 0.]);
    let sum = algebra::sum_to(&dx, &Shape::SCALAR).unwrap();
    assert_eq!(tape.derivative(&sum, &x).unwrap().to_flat::<f64>().unwrap(), [0., 0., 24., 0.]);
}

#[test]
fn what_does_not_fit_is_a_typed_error() {
    let x = TrackedTensor::from_vec(vec![1f64; 4], &[2, 2]).unwrap();
    let fault = |r: Result<TrackedTensor>| r.unwrap_err().to_string();
    assert!(fault(max_pool2d(&x, 3)).contains("larger than the padded input"));
    assert!(fault(avg_pool2d_with(&x, 2, 1, 2)).contains("smaller than the kernel"));
    assert!(fault(max_pool2d(&x, 0)).contains("at least 1"));
    assert!(fault(max_pool1d(&TrackedTensor::scalar(1.0), 1, 1, 0)).contains("two dimensions"));
    let integers = TrackedTensor::from_vec(vec![1u32; 4], &[2, 2]).unwrap();
    assert!(matches!(max_pool2d(&integers, 2), Err(Error::UnsupportedDType { .. })));
}
