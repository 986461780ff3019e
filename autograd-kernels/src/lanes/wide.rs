//! Vectors in AVX-512 registers: 64 bytes each, and twice as many registers as AVX2 has.
//!
//! Invariant: these types are named only by `Float::Wide`, which only functions with AVX-512F
//! switched on use, after the processor was found to have it. That is why the intrinsics below may
//! be called.

use super::Registers;
use std::arch::x86_64::*;

/// Sixteen f32.
#[derive(Clone, Copy)]
pub(crate) struct F32x16(__m512);

/// Eight f64.
#[derive(Clone, Copy)]
pub(crate) struct F64x8(__m512d);

macro_rules! registers {
    ($name:ident, $item:ty, $mask:ty, $lanes:literal, $set1:ident, $load:ident, $store:ident,
     $load_masked:ident, $store_masked:ident, $fma:ident, $add:ident) => {
        impl $name {
            /// The first `count` lanes.
            #[inline(always)]
            fn first(count: usize) -> $mask {
                if count < $lanes { (1 << count) - 1 } else { !0 }
            }
        }

        // In the methods below, values of the type exist only where the processor has AVX-512F,
        // and an associated function is called only under the same check. They read or write no
        // more than the methods themselves are allowed to; masked lanes are not touched.
        impl Registers for $name {
            type Item = $item;
            const LANES: usize = $lanes;

            #[inline(always)]
            fn all(x: $item) -> Self {
                // SAFETY: see above.
                Self(unsafe { $set1(x) })
            }
            #[inline(always)]
            unsafe fn read(p: *const $item) -> Self {
                // SAFETY: see above.
                Self(unsafe { $load(p) })
            }
            #[inline(always)]
            unsafe fn read_first(p: *const $item, count: usize) -> Self {
                // SAFETY: see above.
                Self(unsafe { $load_masked(Self::first(count), p) })
            }
            #[inline(always)]
            unsafe fn write(self, p: *mut $item) {
                // SAFETY: see above.
                unsafe { $store(p, self.0) }
            }
            #[inline(always)]
            unsafe fn write_first(self, p: *mut $item, count: usize) {
                // SAFETY: see above.
                unsafe { $store_masked(p, Self::first(count), self.0) }
            }
            #[inline(always)]
            fn times_plus(self, factor: Self, term: Self) -> Self {
                // SAFETY: see above.
                Self(unsafe { $fma(self.0, factor.0, term.0) })
            }
            #[inline(always)]
            fn plus(self, other: Self) -> Self {
                // SAFETY: see above.
                Self(unsafe { $add(self.0, other.0) })
            }
        }
    };
}

registers!(
    F32x16,
    f32,
    __mmask16,
    16,
    _mm512_set1_ps,
    _mm512_loadu_ps,
    _mm512_storeu_ps,
    _mm512_maskz_loadu_ps,
    _mm512_mask_storeu_ps,
    _mm512_fmadd_ps,
    _mm512_add_ps
);

registers!(
    F64x8,
    f64,
    __mmask8,
    8,
    _mm512_set1_pd,
    _mm512_loadu_pd,
    _mm512_storeu_pd,
    _mm512_maskz_loadu_pd,
    _mm512_mask_storeu_pd,
    _mm512_fmadd_pd,
    _mm512_add_pd
);
