//! Many variants of a batch evaluated as one batch: the variant counts slowest.

use autograd_core::algebra::{add, broadcast_to, mul, reshape, sub};
use autograd_core::{Result, TrackedTensor, checked_shape};
use autograd_ops::TensorAutograd;

/// `n` copies of a batch, one after the other.
pub(crate) fn copies(x: &TrackedTensor, n: usize) -> Result<TrackedTensor> {
    let dims: Vec<usize> = std::iter::once(n).chain(x.dims().iter().copied()).collect();
    let wide = broadcast_to(x, &checked_shape("copies", &dims)?)?;
    joined(&wide)
}

/// n×B×… as (n·B)×….
pub(crate) fn joined(x: &TrackedTensor) -> Result<TrackedTensor> {
    let dims = x.dims();
    let mut flat = vec![dims[0] * dims[1]];
    flat.extend_from_slice(&dims[2..]);
    reshape(x, &checked_shape("copies", &flat)?)
}

/// Numbers along a new dimension in front of `rank` others.
fn column(numbers: &[f64], rank: usize, like: &TrackedTensor) -> Result<TrackedTensor> {
    let mut dims = vec![1; rank + 1];
    dims[0] = numbers.len();
    TrackedTensor::from_vec(numbers.to_vec(), &dims)?.to_dtype(like.dtype())
}

/// The points start + t·(end − start) for each t, one batch after the other.
pub(crate) fn along(start: &TrackedTensor, end: &TrackedTensor, at: &[f64]) -> Result<TrackedTensor> {
    let way = sub(end, start)?;
    joined(&add(start, &mul(&way, &column(at, end.rank(), end)?)?)?)
}

/// Σ w·(copy): the copies of a batch added up with weights.
pub(crate) fn weighted_sum(x: &TrackedTensor, weights: &[f64]) -> Result<TrackedTensor> {
    let mut dims = x.dims().to_vec();
    dims[0] /= weights.len();
    let rows = x.reshape([weights.len(), x.elem_count() / weights.len()])?;
    let weights = TrackedTensor::from_vec(weights.to_vec(), &[1, weights.len()])?.to_dtype(x.dtype())?;
    weights.matmul(&rows)?.reshape(&dims)
}

/// Adds to a running sum for each input.
pub(crate) fn add_to(sums: &mut Vec<TrackedTensor>, parts: Vec<TrackedTensor>) -> Result<()> {
    if sums.is_empty() {
        *sums = parts;
        return Ok(());
    }
    for (sum, part) in sums.iter_mut().zip(parts) {
        let so_far = std::mem::replace(sum, TrackedTensor::scalar(0.0));
        *sum = autograd_core::algebra::accumulate(so_far, &part)?;
    }
    Ok(())
}
