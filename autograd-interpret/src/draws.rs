//! Random numbers from a seed, the same on every machine and for any number of threads.

use crate::function::numbers;
use autograd_core::{DType, Result, TrackedTensor};
use autograd_ops::random::{fold_in, key, normal, uniform};

/// A stream of draws.
#[derive(Debug)]
pub(crate) struct Draws {
    key: TrackedTensor,
    count: u64,
}

impl Draws {
    pub(crate) fn new(seed: u64) -> Self {
        Self { key: key(seed), count: 0 }
    }

    fn next(&mut self) -> Result<TrackedTensor> {
        self.count += 1;
        fold_in(&self.key, self.count)
    }

    /// Normal numbers of a shape.
    pub(crate) fn normal(&mut self, dims: &[usize], dtype: DType) -> Result<TrackedTensor> {
        normal(&self.next()?, dims, dtype)
    }

    /// Numbers uniform in [0, 1).
    pub(crate) fn uniform(&mut self, count: usize) -> Result<Vec<f64>> {
        numbers(&uniform(&self.next()?, &[count], DType::F64)?)
    }

    /// Whole numbers below a bound.
    pub(crate) fn below(&mut self, bound: usize, count: usize) -> Result<Vec<usize>> {
        let drawn = self.uniform(count)?;
        Ok(drawn.into_iter().map(|u| ((u * bound as f64) as usize).min(bound.saturating_sub(1))).collect())
    }

    /// 0 .. n in a random order.
    pub(crate) fn permutation(&mut self, n: usize) -> Result<Vec<usize>> {
        let mut order: Vec<usize> = (0..n).collect();
        for (i, u) in (1..n).rev().zip(self.uniform(n.saturating_sub(1))?) {
            order.swap(i, ((u * (i + 1) as f64) as usize).min(i));
        }
        Ok(order)
    }
}
