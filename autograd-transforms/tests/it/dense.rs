//! The oracles: Jacobians and Hessians column by column, random vectors, comparison.

use autograd_core::{Result, TrackedTensor};
use autograd_forward::jvp;
use autograd_ops::{TensorAutograd, random};
use autograd_tape::GradientTape;
use candle_core::DType;

/// A vector of normal numbers.
pub(crate) fn normal(seed: u64, dims: &[usize]) -> Result<TrackedTensor> {
    random::normal(&random::key(seed), dims, DType::F64)
}

/// Unit vector `j` in the shape of `x`.
pub(crate) fn unit(j: usize, x: &TrackedTensor) -> Result<TrackedTensor> {
    let mut v = vec![0f64; x.elem_count()];
    v[j] = 1.0;
    TrackedTensor::from_vec(v, x.dims())?.to_dtype(x.dtype())
}

/// Row-major Jacobian, a column at a time.
pub(crate) fn jacobian(
    f: impl Fn(&TrackedTensor) -> Result<TrackedTensor>,
    x: &TrackedTensor,
) -> Result<Vec<Vec<f64>>> {
    let m = f(x)?.elem_count();
    let n = x.elem_count();
    let mut dense = vec![vec![0.0; n]; m];
    for j in 0..n {
        let (_, dy) = jvp(|x| f(x), x, &unit(j, x)?)?;
        for (row, value) in dense.iter_mut().zip(dy.to_dtype(DType::F64)?.to_flat::<f64>()?) {
            row[j] = value;
        }
    }
    Ok(dense)
}

/// The gradient of a scalar function.
pub(crate) fn gradient(
    f: impl Fn(&TrackedTensor) -> Result<TrackedTensor>,
    x: &TrackedTensor,
) -> Result<TrackedTensor> {
    let tape = GradientTape::new();
    let x = tape.variable(x);
    tape.derivative(&f(&x)?, &x)
}

/// Row-major Hessian.
pub(crate) fn hessian(
    f: impl Fn(&TrackedTensor) -> Result<TrackedTensor>,
    x: &TrackedTensor,
) -> Result<Vec<Vec<f64>>> {
    jacobian(|x| gradient(&f, x), x)
}

/// The largest difference of two lists.
pub(crate) fn distance(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}
