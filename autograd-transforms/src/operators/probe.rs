//! Random vectors that estimators ask an operator with.

use autograd_core::{DType, Error, Result, Site, TrackedTensor};
use autograd_ops::{TensorAutograd, random};

/// A vector of ±1 (Rademacher), drawn from a key.
pub(super) fn signs(key: &TrackedTensor, n: usize, dtype: DType) -> Result<TrackedTensor> {
    // −1 below a half, 1 from there on.
    random::uniform(key, &[n], DType::F32)?.ge(0.5)?.to_dtype(dtype)?.mul(2.0)?.sub(1.0)
}

/// A number of probes that gives a standard error.
pub(super) fn at_least_two(op: &'static str, probes: usize, site: Site) -> Result<()> {
    if probes >= 2 {
        return Ok(());
    }
    let reason = format!("{probes} probes give no standard error; take at least 2");
    Err(Error::argument(op, reason).or_at(site))
}
