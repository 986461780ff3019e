//! Vectors as arrays, for any processor.

use super::Vector;
use std::ops::{Add, Div, Mul, Neg, Sub};

/// N numbers.
#[derive(Clone, Copy)]
pub(crate) struct Array<T, const N: usize>([T; N]);

/// The bits of √½ rounded down, which part the mantissas of `split`.
pub(super) const SQRT_HALF_32: u32 = 0x3f35_04f3;
pub(super) const SQRT_HALF_64: u64 = 0x3fe6_a09e_667f_3bcd;

macro_rules! array {
    ($item:ident, $lanes:literal, $bits:ident, $int:ident, $mantissa:literal, $bias:literal,
     $sqrt_half:ident) => {
        impl Array<$item, $lanes> {
            #[inline(always)]
            fn zip(self, b: Self, f: impl Fn($item, $item) -> $item) -> Self {
                Self(std::array::from_fn(|i| f(self.0[i], b.0[i])))
            }
            #[inline(always)]
            fn bits(self, b: Self, f: impl Fn($bits, $bits) -> $bits) -> Self {
                self.zip(b, |a, b| $item::from_bits(f(a.to_bits(), b.to_bits())))
            }
            #[inline(always)]
            fn compare(self, b: Self, f: impl Fn($item, $item) -> bool) -> Self {
                self.zip(b, |a, b| $item::from_bits(if f(a, b) { !0 } else { 0 }))
            }
            #[inline(always)]
            fn each(self, f: impl Fn($item) -> $item) -> Self {
                Self(self.0.map(f))
            }
        }
        impl Add for Array<$item, $lanes> {
            type Output = Self;
            #[inline(always)]
            fn add(self, b: Self) -> Self {
                self.zip(b, |a, b| a + b)
            }
        }
        impl Sub for Array<$item, $lanes> {
            type Output = Self;
            #[inline(always)]
            fn sub(self, b: Self) -> Self {
                self.zip(b, |a, b| a - b)
            }
        }
        impl Mul for Array<$item, $lanes> {
            type Output = Self;
            #[inline(always)]
            fn mul(self, b: Self) -> Self {
                self.zip(b, |a, b| a * b)
            }
        }
        impl Div for Array<$item, $lanes> {
            type Output = Self;
            #[inline(always)]
            fn div(self, b: Self) -> Self {
                self.zip(b, |a, b| a / b)
            }
        }
        impl Neg for Array<$item, $lanes> {
            type Output = Self;
            #[inline(always)]
            fn neg(self) -> Self {
                self.each(|a| -a)
            }
        }
        impl Vector for Array<$item, $lanes> {
            type Item = $item;
            const LANES: usize = $lanes;
            #[inline(always)]
            fn splat(x: $item) -> Self {
                Self([x; $lanes])
            }
            #[inline(always)]
            unsafe fn load(from: *const $item) -> Self {
                // SAFETY: the caller's promise; arrays of numbers have no alignment but theirs,
                // and the read is unaligned.
                Self(unsafe { from.cast::<[$item; $lanes]>().read_unaligned() })
            }
            #[inline(always)]
            unsafe fn store(self, to: *mut $item) {
                // SAFETY: the caller's promise.
                unsafe { to.cast::<[$item; $lanes]>().write_unaligned(self.0) }
            }
            #[inline(always)]
            fn fma(self, b: Self, c: Self) -> Self {
                Self(std::array::from_fn(|i| self.0[i].mul_add(b.0[i], c.0[i])))
            }
            #[inline(always)]
            fn min(self, b: Self) -> Self {
                self.zip(b, |a, b| if a < b { a } else { b })
            }
            #[inline(always)]
            fn max(self, b: Self) -> Self {
                self.zip(b, |a, b| if a > b { a } else { b })
            }
            #[inline(always)]
            fn sqrt(self) -> Self {
                self.each($item::sqrt)
            }
            #[inline(always)]
            fn floor(self) -> Self {
                self.each($item::floor)
            }
            #[inline(always)]
            fn ceil(self) -> Self {
                self.each($item::ceil)
            }
            #[inline(always)]
            fn round(self) -> Self {
                self.each($item::round_ties_even)
            }
            #[inline(always)]
            fn and(self, b: Self) -> Self {
                self.bits(b, |a, b| a & b)
            }
            #[inline(always)]
            fn or(self, b: Self) -> Self {
                self.bits(b, |a, b| a | b)
            }
            #[inline(always)]
            fn xor(self, b: Self) -> Self {
                self.bits(b, |a, b| a ^ b)
            }
            #[inline(always)]
            fn without(self, b: Self) -> Self {
                self.bits(b, |a, b| a & !b)
            }
            #[inline(always)]
            fn lt(self, b: Self) -> Self {
                self.compare(b, |a, b| a < b)
            }
            #[inline(always)]
            fn le(self, b: Self) -> Self {
                self.compare(b, |a, b| a <= b)
            }
            #[inline(always)]
            fn eq(self, b: Self) -> Self {
                self.compare(b, |a, b| a == b)
            }
            #[inline(always)]
            fn is_nan(self) -> Self {
                self.compare(self, |a, _| a.is_nan())
            }
            #[inline(always)]
            fn select(self, a: Self, b: Self) -> Self {
                Self(std::array::from_fn(|i| if self.0[i].to_bits() != 0 { a.0[i] } else { b.0[i] }))
            }
            #[inline(always)]
            fn any(self) -> bool {
                self.0.iter().any(|x| x.to_bits() != 0)
            }
            #[inline(always)]
            fn pow2(self) -> Self {
                self.each(|n| $item::from_bits(((n as $int).wrapping_add($bias) as $bits) << $mantissa))
            }
            #[inline(always)]
            fn split(self) -> (Self, Self) {
                let e = |x: $item| (x.to_bits().wrapping_sub($sqrt_half) as $int) >> $mantissa;
                let m = |x: $item| $item::from_bits(x.to_bits().wrapping_sub((e(x) << $mantissa) as $bits));
                (self.each(m), self.each(|x| e(x) as $item))
            }
            #[inline(always)]
            fn is_odd(self) -> Self {
                self.compare(self, |a, _| (a as $int) & 1 == 1)
            }
        }
    };
}

array!(f32, 8, u32, i32, 23, 127, SQRT_HALF_32);
array!(f64, 4, u64, i64, 52, 1023, SQRT_HALF_64);
