//! The float types that kernels compute in: f32 and f64.

use crate::Element;
use std::ops::{Add, AddAssign, Mul};

/// A float type that kernels compute in; bf16 and f16 are computed in f32.
pub(crate) trait Float: Element + Add<Output = Self> + Mul<Output = Self> + AddAssign {
    /// Zero.
    const ZERO: Self;
    /// Negative infinity: smaller than any number.
    const LOWEST: Self;
    /// 1/n.
    fn reciprocal(n: usize) -> Self;
}

impl Float for f32 {
    const ZERO: f32 = 0.0;
    const LOWEST: f32 = f32::NEG_INFINITY;
    fn reciprocal(n: usize) -> f32 {
        1.0 / n as f32
    }
}

impl Float for f64 {
    const ZERO: f64 = 0.0;
    const LOWEST: f64 = f64::NEG_INFINITY;
    fn reciprocal(n: usize) -> f64 {
        1.0 / n as f64
    }
}
