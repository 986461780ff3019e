//! Directions and seeds in the shapes of a tree.

use autograd_core::algebra::{cast, reshape};
use autograd_core::{Error, Result, TrackedTensor, Tree};
use autograd_ops::random;

/// A tree of zeros with one leaf replaced by given numbers.
pub(super) fn replaced<T: Tree<Owned = T>>(zeros: &T, leaf: usize, data: &[f64]) -> Result<T> {
    let mut at = 0;
    zeros.rebuild(&mut |x| {
        at += 1;
        if at - 1 != leaf {
            return Ok(x.clone());
        }
        let flat = TrackedTensor::from_vec(data.to_vec(), &[data.len()])?;
        cast(&reshape(&flat, x.shape())?, x.dtype())
    })
}

/// A tree of zeros with a one in one place.
pub(super) fn unit<T: Tree<Owned = T>>(zeros: &T, leaf: usize, element: usize) -> Result<T> {
    let mut data = vec![0.0; zeros.leaves()[leaf].elem_count()];
    data[element] = 1.0;
    replaced(zeros, leaf, &data)
}

/// Normal numbers in a tree's shapes.
pub(super) fn random_like<T: Tree<Owned = T>>(tree: &T, seed: u64) -> Result<T> {
    let mut keys = random::split(&random::key(seed), tree.leaves().len().max(1))?.into_iter();
    tree.rebuild(&mut |x| {
        let key = keys.next().ok_or_else(|| Error::internal("gradcheck", "a key is missing"))?;
        random::normal(&key, x.dims(), x.dtype())
    })
}
