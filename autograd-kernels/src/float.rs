//! The float types that kernels compute in: f32 and f64.

use crate::Element;
use crate::lanes::{Lanes, Plain};
use std::ops::{Add, AddAssign, Mul};

/// A float type that kernels compute in; bf16 and f16 are computed in f32.
pub(crate) trait Float:
    Element + Add<Output = Self> + Mul<Output = Self> + AddAssign
{
    /// A vector of 32 bytes on the best instructions known for the target; the machine at hand
    /// may lack them.
    type Fast: Lanes<Scalar = Self>;
    /// The same vector on any machine.
    type Plain: Lanes<Scalar = Self>;
    /// Zero.
    const ZERO: Self;
    /// Negative infinity: smaller than any number.
    const LOWEST: Self;
    /// 1/n.
    fn reciprocal(n: usize) -> Self;
    /// A small whole number as an integer.
    fn whole(self) -> u32;
}

impl Float for f32 {
    #[cfg(target_arch = "x86_64")]
    type Fast = crate::lanes::F32x8;
    #[cfg(not(target_arch = "x86_64"))]
    type Fast = Plain<f32, 8>;
    type Plain = Plain<f32, 8>;
    const ZERO: f32 = 0.0;
    const LOWEST: f32 = f32::NEG_INFINITY;
    fn reciprocal(n: usize) -> f32 {
        1.0 / n as f32
    }
    fn whole(self) -> u32 {
        self as u32
    }
}

impl Float for f64 {
    #[cfg(target_arch = "x86_64")]
    type Fast = crate::lanes::F64x4;
    #[cfg(not(target_arch = "x86_64"))]
    type Fast = Plain<f64, 4>;
    type Plain = Plain<f64, 4>;
    const ZERO: f64 = 0.0;
    const LOWEST: f64 = f64::NEG_INFINITY;
    fn reciprocal(n: usize) -> f64 {
        1.0 / n as f64
    }
    fn whole(self) -> u32 {
        self as u32
    }
}
