//! The models of Captum's tests, with constant weights.

use autograd_core::{Result, TrackedTensor, tap};
use autograd_interpret::Attribution;
use autograd_ops::TensorAutograd;

/// Rounding of f64 sums of some hundred terms.
pub(crate) const ROUNDING: f64 = 1e-9;

pub(crate) fn values(numbers: &[f64], dims: &[usize]) -> TrackedTensor {
    TrackedTensor::from_vec(numbers.to_vec(), dims).expect("the numbers fit the shape")
}

pub(crate) fn row(numbers: &[f64]) -> TrackedTensor {
    values(numbers, &[1, numbers.len()])
}

fn ones(dims: &[usize]) -> TrackedTensor {
    values(&vec![1.0; dims.iter().product()], dims)
}

#[track_caller]
pub(crate) fn close(found: &TrackedTensor, wanted: &[f64], tolerance: f64) {
    let found = found.to_flat::<f64>().expect("numbers of type f64");
    let near = |(a, b): (&f64, &f64)| (a - b).abs() <= tolerance;
    assert!(
        found.len() == wanted.len() && found.iter().zip(wanted).all(near),
        "found {found:?}, wanted {wanted:?} within {tolerance:e}"
    );
}

#[track_caller]
pub(crate) fn gives(found: &Attribution, wanted: &[f64]) {
    close(found.value(), wanted, ROUNDING);
}

/// linear0 (identity), linear1 (ones, b), relu, linear2.
pub(crate) fn ml(x: &TrackedTensor) -> Result<TrackedTensor> {
    let identity = values(&[1., 0., 0., 0., 1., 0., 0., 0., 1.], &[3, 3]);
    let h = tap("linear0", &x.matmul(&identity)?)?;
    let h = tap("linear1", &h.matmul(ones(&[3, 4]))?.add(row(&[-10., 1., 1., 1.]))?)?;
    let h = tap("relu", &h.relu()?)?;
    tap("linear2", &h.matmul(ones(&[4, 2]))?.add(row(&[-1., 1.]))?)
}

/// conv 1→2 of 3×3 ones, relu, flatten, four rows [1×5, −1×3], relu.
pub(crate) fn conv(x: &TrackedTensor) -> Result<TrackedTensor> {
    let h = x.conv2d(&ones(&[2, 1, 3, 3]), 0, 1, 1, 1)?.add(values(&[-50., -75.], &[2, 1, 1]))?;
    let h = tap("relu", &tap("conv", &h)?.relu()?)?.flatten_from(1)?;
    let row: Vec<f64> = [1.0; 5].into_iter().chain([-1.0; 3]).collect();
    let h = tap("fc", &h.matmul(&values(&row.repeat(4), &[4, 8]).t()?)?)?;
    h.relu()
}

/// 0 .. 16, plus a shift.
pub(crate) fn picture(shift: f64) -> TrackedTensor {
    values(&(0..16).map(|i| f64::from(i) + shift).collect::<Vec<_>>(), &[1, 1, 4, 4])
}

/// 1 − relu(1 − x).
pub(crate) fn b(x: &TrackedTensor) -> Result<TrackedTensor> {
    x.affine(-1.0, 1.0)?.relu()?.affine(-1.0, 1.0)
}

/// relu(relu(x1) − 1 − relu(x2)).
pub(crate) fn b2(x: &[TrackedTensor]) -> Result<TrackedTensor> {
    x[0].relu()?.affine(1.0, -1.0)?.sub(&x[1].relu()?)?.relu()
}

/// relu(relu(x1 − 1) − relu(x2)).
pub(crate) fn b3(x: &[TrackedTensor]) -> Result<TrackedTensor> {
    x[0].affine(1.0, -1.0)?.relu()?.sub(&x[1].relu()?)?.relu()
}

/// 3·ones(1×3)·relu(2·ones(3×3)·x).
pub(crate) fn lrpm(x: &TrackedTensor) -> Result<TrackedTensor> {
    let h = tap("first", &x.matmul((ones(&[3, 3]) * 2.0)?)?)?.relu()?;
    tap("second", &h.matmul((ones(&[3, 1]) * 3.0)?)?)
}

/// The two inputs of B2 and B3.
pub(crate) fn three_one() -> Vec<TrackedTensor> {
    vec![values(&[3.], &[1]), values(&[1.], &[1])]
}
