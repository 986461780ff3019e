//! Vectors in AVX2 registers.
//!
//! Invariant: these types are named only by `Float::Avx2`, which only functions with AVX2 and FMA
//! switched on use, after the processor was found to have them. That is why the intrinsics below
//! may be called.

use super::Vector;
use std::arch::x86_64::*;
use std::ops::{Add, Div, Mul, Neg, Sub};

/// Eight f32.
#[derive(Clone, Copy)]
pub(crate) struct F32x8(pub(crate) __m256);

/// Four f64.
#[derive(Clone, Copy)]
pub(crate) struct F64x4(pub(crate) __m256d);

/// Calls intrinsics; the module's invariant is the reason why that is sound.
macro_rules! avx {
    ($e:expr) => {
        // SAFETY: values of these types exist only where the processor has AVX2 and FMA.
        unsafe { $e }
    };
}

macro_rules! vector {
    ($name:ident, $item:ty, $lanes:literal,
     $set1:ident, $load:ident, $store:ident, $add:ident, $sub:ident, $mul:ident, $div:ident,
     $fma:ident, $min:ident, $max:ident, $sqrt:ident, $floor:ident, $ceil:ident, $round:ident,
     $and:ident, $or:ident, $xor:ident, $andnot:ident, $cmp:ident, $blend:ident, $movemask:ident,
     { $($own:tt)* }) => {
        impl Add for $name {
            type Output = Self;
            #[inline(always)]
            fn add(self, b: Self) -> Self {
                Self(avx!($add(self.0, b.0)))
            }
        }
        impl Sub for $name {
            type Output = Self;
            #[inline(always)]
            fn sub(self, b: Self) -> Self {
                Self(avx!($sub(self.0, b.0)))
            }
        }
        impl Mul for $name {
            type Output = Self;
            #[inline(always)]
            fn mul(self, b: Self) -> Self {
                Self(avx!($mul(self.0, b.0)))
            }
        }
        impl Div for $name {
            type Output = Self;
            #[inline(always)]
            fn div(self, b: Self) -> Self {
                Self(avx!($div(self.0, b.0)))
            }
        }
        impl Neg for $name {
            type Output = Self;
            #[inline(always)]
            fn neg(self) -> Self {
                self.xor(Self::splat(-0.0))
            }
        }
        impl Vector for $name {
            type Item = $item;
            const LANES: usize = $lanes;
            #[inline(always)]
            fn splat(x: $item) -> Self {
                Self(avx!($set1(x)))
            }
            #[inline(always)]
            unsafe fn load(from: *const $item) -> Self {
                // SAFETY: the caller's promise; unaligned loads.
                Self(unsafe { $load(from) })
            }
            #[inline(always)]
            unsafe fn store(self, to: *mut $item) {
                // SAFETY: the caller's promise; unaligned stores.
                unsafe { $store(to, self.0) }
            }
            #[inline(always)]
            fn fma(self, b: Self, c: Self) -> Self {
                Self(avx!($fma(self.0, b.0, c.0)))
            }
            #[inline(always)]
            fn min(self, b: Self) -> Self {
                Self(avx!($min(self.0, b.0)))
            }
            #[inline(always)]
            fn max(self, b: Self) -> Self {
                Self(avx!($max(self.0, b.0)))
            }
            #[inline(always)]
            fn sqrt(self) -> Self {
                Self(avx!($sqrt(self.0)))
            }
            #[inline(always)]
            fn floor(self) -> Self {
                Self(avx!($floor(self.0)))
            }
            #[inline(always)]
            fn ceil(self) -> Self {
                Self(avx!($ceil(self.0)))
            }
            #[inline(always)]
            fn round(self) -> Self {
                Self(avx!($round::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(self.0)))
            }
            #[inline(always)]
            fn and(self, b: Self) -> Self {
                Self(avx!($and(self.0, b.0)))
            }
            #[inline(always)]
            fn or(self, b: Self) -> Self {
                Self(avx!($or(self.0, b.0)))
            }
            #[inline(always)]
            fn xor(self, b: Self) -> Self {
                Self(avx!($xor(self.0, b.0)))
            }
            #[inline(always)]
            fn without(self, b: Self) -> Self {
                Self(avx!($andnot(b.0, self.0)))
            }
            #[inline(always)]
            fn lt(self, b: Self) -> Self {
                Self(avx!($cmp::<_CMP_LT_OQ>(self.0, b.0)))
            }
            #[inline(always)]
            fn le(self, b: Self) -> Self {
                Self(avx!($cmp::<_CMP_LE_OQ>(self.0, b.0)))
            }
            #[inline(always)]
            fn eq(self, b: Self) -> Self {
                Self(avx!($cmp::<_CMP_EQ_OQ>(self.0, b.0)))
            }
            #[inline(always)]
            fn is_nan(self) -> Self {
                Self(avx!($cmp::<_CMP_UNORD_Q>(self.0, self.0)))
            }
            #[inline(always)]
            fn select(self, a: Self, b: Self) -> Self {
                Self(avx!($blend(b.0, a.0, self.0)))
            }
            #[inline(always)]
            fn any(self) -> bool {
                avx!($movemask(self.0)) != 0
            }
            $($own)*
        }
    };
}

vector! {
    F32x8, f32, 8,
    _mm256_set1_ps, _mm256_loadu_ps, _mm256_storeu_ps,
    _mm256_add_ps, _mm256_sub_ps, _mm256_mul_ps, _mm256_div_ps, _mm256_fmadd_ps,
    _mm256_min_ps, _mm256_max_ps, _mm256_sqrt_ps, _mm256_floor_ps, _mm256_ceil_ps, _mm256_round_ps,
    _mm256_and_ps, _mm256_or_ps, _mm256_xor_ps, _mm256_andnot_ps,
    _mm256_cmp_ps, _mm256_blendv_ps, _mm256_movemask_ps,
    {
        #[inline(always)]
        fn pow2(self) -> Self {
            avx!({
                let n = _mm256_cvtps_epi32(self.0);
                let biased = _mm256_add_epi32(n, _mm256_set1_epi32(127));
                Self(_mm256_castsi256_ps(_mm256_slli_epi32::<23>(biased)))
            })
        }
        #[inline(always)]
        fn split(self) -> (Self, Self) {
            avx!({
                let bits = _mm256_castps_si256(self.0);
                // Counted from the bits of √½, the exponent field is that of m in [√½, √2).
                let from = _mm256_sub_epi32(bits, _mm256_set1_epi32(super::portable::SQRT_HALF_32 as i32));
                let e = _mm256_srai_epi32::<23>(from);
                let m = _mm256_sub_epi32(bits, _mm256_slli_epi32::<23>(e));
                (Self(_mm256_castsi256_ps(m)), Self(_mm256_cvtepi32_ps(e)))
            })
        }
        #[inline(always)]
        fn is_odd(self) -> Self {
            avx!({
                let n = _mm256_cvtps_epi32(self.0);
                Self(_mm256_castsi256_ps(_mm256_srai_epi32::<31>(_mm256_slli_epi32::<31>(n))))
            })
        }
    }
}

/// 1.5 · 2⁵²: added to a whole number, it leaves the number in the low bits of the sum.
const MAGIC: f64 = 6_755_399_441_055_744.0;

vector! {
    F64x4, f64, 4,
    _mm256_set1_pd, _mm256_loadu_pd, _mm256_storeu_pd,
    _mm256_add_pd, _mm256_sub_pd, _mm256_mul_pd, _mm256_div_pd, _mm256_fmadd_pd,
    _mm256_min_pd, _mm256_max_pd, _mm256_sqrt_pd, _mm256_floor_pd, _mm256_ceil_pd, _mm256_round_pd,
    _mm256_and_pd, _mm256_or_pd, _mm256_xor_pd, _mm256_andnot_pd,
    _mm256_cmp_pd, _mm256_blendv_pd, _mm256_movemask_pd,
    {
        #[inline(always)]
        fn pow2(self) -> Self {
            avx!({
                let n = _mm256_castpd_si256(_mm256_add_pd(self.0, _mm256_set1_pd(MAGIC)));
                let biased = _mm256_add_epi64(n, _mm256_set1_epi64x(1023));
                Self(_mm256_castsi256_pd(_mm256_slli_epi64::<52>(biased)))
            })
        }
        #[inline(always)]
        fn split(self) -> (Self, Self) {
            avx!({
                let bits = _mm256_castpd_si256(self.0);
                // As for f32, with the exponent biased by 2048, since there is no arithmetic
                // shift of 64-bit lanes; 2⁵² with n in its low bits is 2⁵² + n.
                let from = _mm256_sub_epi64(bits, _mm256_set1_epi64x(super::portable::SQRT_HALF_64 as i64));
                let biased = _mm256_srli_epi64::<52>(_mm256_add_epi64(from, _mm256_set1_epi64x(1024 << 52)));
                let two52 = _mm256_set1_epi64x(0x4330_0000_0000_0000);
                let e = _mm256_sub_pd(
                    _mm256_castsi256_pd(_mm256_or_si256(biased, two52)),
                    _mm256_set1_pd(4_503_599_627_370_496.0 + 1024.0),
                );
                let shift = _mm256_slli_epi64::<52>(_mm256_sub_epi64(biased, _mm256_set1_epi64x(1024)));
                (Self(_mm256_castsi256_pd(_mm256_sub_epi64(bits, shift))), Self(e))
            })
        }
        #[inline(always)]
        fn is_odd(self) -> Self {
            avx!({
                let n = _mm256_castpd_si256(_mm256_add_pd(self.0, _mm256_set1_pd(MAGIC)));
                let low = _mm256_slli_epi64::<63>(n);
                // The sign of each 64-bit lane, spread over it.
                let spread = _mm256_shuffle_epi32::<0b1111_0101>(_mm256_srai_epi32::<31>(low));
                Self(_mm256_castsi256_pd(spread))
            })
        }
    }
}
