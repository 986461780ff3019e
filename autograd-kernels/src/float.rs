//! The float types that kernels compute in: f32 and f64.

use crate::lanes::{Lanes, Registers};
use crate::simd;

/// A float type that kernels compute in; bf16 and f16 are computed in f32.
pub(crate) trait Float: simd::Float {
    /// A vector of 32 bytes on the best instructions known for the target; the machine at hand
    /// may lack them.
    type Fast: Lanes<Item = Self>;
    /// A vector of 64 bytes where the target has such instructions; the machine at hand may lack
    /// them.
    type Wide: Registers<Item = Self>;
    /// The vector of 32 bytes on any machine.
    type Plain: Lanes<Item = Self>;
    /// Negative infinity: smaller than any number.
    const LOWEST: Self;
    /// All bits set eight times, then none: a window of it keeps the first lanes of a vector.
    const KEEP: [Self; 16];
    /// 1/n.
    fn reciprocal(n: usize) -> Self;
    /// A small whole number as an integer.
    fn whole(self) -> u32;
}

macro_rules! float {
    ($ty:ident, $wide:ident) => {
        impl Float for $ty {
            #[cfg(target_arch = "x86_64")]
            type Fast = <$ty as simd::Float>::Avx2;
            #[cfg(not(target_arch = "x86_64"))]
            type Fast = <$ty as simd::Float>::Portable;
            #[cfg(target_arch = "x86_64")]
            type Wide = crate::lanes::wide::$wide;
            #[cfg(not(target_arch = "x86_64"))]
            type Wide = <$ty as simd::Float>::Portable;
            type Plain = <$ty as simd::Float>::Portable;
            const LOWEST: $ty = $ty::NEG_INFINITY;
            const KEEP: [$ty; 16] = {
                let on = $ty::from_bits(!0);
                [on, on, on, on, on, on, on, on, 0., 0., 0., 0., 0., 0., 0., 0.]
            };
            fn reciprocal(n: usize) -> $ty {
                1.0 / n as $ty
            }
            fn whole(self) -> u32 {
                self as u32
            }
        }
    };
}

float!(f32, F32x16);
float!(f64, F64x8);
