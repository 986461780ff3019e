//! The number types that kernels compute in.

use super::{Vector, portable::Array};
use crate::copy::{each_kind, row};
use crate::{Element, Slice, SliceMut};
use std::ops::{Add, AddAssign, Div, Mul, Neg, Sub};

/// f32 or f64.
pub(crate) trait Float:
    Element
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + AddAssign
    + crate::math::Constants
{
    /// Its vectors where AVX2 and FMA are switched on.
    #[cfg(target_arch = "x86_64")]
    type Avx2: Vector<Item = Self>;
    /// Its vectors anywhere.
    type Portable: Vector<Item = Self>;
    const ZERO: Self;

    fn from_f64(x: f64) -> Self;
    fn to_f64(self) -> f64;
    fn powf(self, b: Self) -> Self;
    fn sin(self) -> Self;
    fn cos(self) -> Self;
    /// The slice, where it is of this type.
    fn own<'a>(slice: SliceMut<'a>) -> Option<&'a mut [Self]>;
    /// `out[i] = x[from + i·stride]`, converted.
    fn gather(x: &Slice<'_>, from: usize, stride: usize, out: &mut [Self]);
    /// out = x, converted; masks (U8) are 1 where x is not 0.
    fn scatter(x: &[Self], out: SliceMut<'_>);
    /// The error function over a vector.
    fn erf<V: Vector<Item = Self>>(x: V) -> V;
}

macro_rules! float {
    ($ty:ident, $avx2:ident, $lanes:literal, $erf:ident, $kind:ident) => {
        impl Float for $ty {
            #[cfg(target_arch = "x86_64")]
            type Avx2 = super::avx2::$avx2;
            type Portable = Array<$ty, $lanes>;
            const ZERO: Self = 0.0;

            #[inline(always)]
            fn from_f64(x: f64) -> Self {
                x as $ty
            }
            #[inline(always)]
            fn to_f64(self) -> f64 {
                f64::from(self)
            }
            #[inline(always)]
            fn powf(self, b: Self) -> Self {
                self.powf(b)
            }
            #[inline(always)]
            fn sin(self) -> Self {
                self.sin()
            }
            #[inline(always)]
            fn cos(self) -> Self {
                self.cos()
            }
            #[inline]
            fn own<'a>(slice: SliceMut<'a>) -> Option<&'a mut [Self]> {
                match slice {
                    SliceMut::$kind(s) => Some(s),
                    _ => None,
                }
            }
            fn gather(x: &Slice<'_>, from: usize, stride: usize, out: &mut [Self]) {
                each_kind!(Slice, *x, x => row(&x[from..], stride, out));
            }
            fn scatter(x: &[Self], out: SliceMut<'_>) {
                assert_eq!(x.len(), out.len(), "slices of one length");
                match out {
                    SliceMut::U8(out) => {
                        out.iter_mut().zip(x).for_each(|(o, &x)| *o = u8::from(x != 0.0));
                    }
                    out => each_kind!(SliceMut, out, out => row(x, 1, out)),
                }
            }
            #[inline(always)]
            fn erf<V: Vector<Item = Self>>(x: V) -> V {
                crate::math::erf::$erf(x)
            }
        }
    };
}

float!(f32, F32x8, 8, erf_f32, F32);
float!(f64, F64x4, 4, erf_f64, F64);
