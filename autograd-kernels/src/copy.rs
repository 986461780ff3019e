//! Strided gathers, casts, fills and in-place accumulation.

use crate::{Element, Slice, SliceMut, View, bf16, f16};

/// A conversion between element types, as candle's `to_dtype` does it: Rust's `as`, half types
/// through f32.
pub(crate) trait Cast<T> {
    /// The value in the other type.
    fn cast(self) -> T;
}

macro_rules! cast {
    ($($from:ty => $($to:ty),*;)*) => {$($(
        impl Cast<$to> for $from {
            #[inline(always)]
            fn cast(self) -> $to {
                self as $to
            }
        }
    )*)*};
}

cast! {
    f64 => f64, f32, u8, u32, i64;
    f32 => f64, f32, u8, u32, i64;
    u8 => f64, f32, u8, u32, i64;
    u32 => f64, f32, u8, u32, i64;
    i64 => f64, f32, u8, u32, i64;
}

macro_rules! cast_half {
    ($($half:ident),*) => {$(
        cast_half!(@int $half; u8, u32, i64);
        impl Cast<f64> for $half {
            #[inline(always)]
            fn cast(self) -> f64 {
                self.to_f64()
            }
        }
        impl Cast<f32> for $half {
            #[inline(always)]
            fn cast(self) -> f32 {
                self.to_f32()
            }
        }
        impl Cast<$half> for $half {
            #[inline(always)]
            fn cast(self) -> $half {
                self
            }
        }
        impl Cast<$half> for f64 {
            #[inline(always)]
            fn cast(self) -> $half {
                $half::from_f64(self)
            }
        }
        impl Cast<$half> for f32 {
            #[inline(always)]
            fn cast(self) -> $half {
                $half::from_f32(self)
            }
        }
    )*};
    (@int $half:ident; $($int:ty),*) => {$(
        impl Cast<$int> for $half {
            #[inline(always)]
            fn cast(self) -> $int {
                self.to_f32() as $int
            }
        }
        impl Cast<$half> for $int {
            #[inline(always)]
            fn cast(self) -> $half {
                $half::from_f32(self as f32)
            }
        }
    )*};
}

cast_half!(bf16, f16);

impl Cast<bf16> for f16 {
    #[inline(always)]
    fn cast(self) -> bf16 {
        bf16::from_f32(self.to_f32())
    }
}

impl Cast<f16> for bf16 {
    #[inline(always)]
    fn cast(self) -> f16 {
        f16::from_f32(self.to_f32())
    }
}

/// Binds `$s` to the typed slice inside a [`Slice`] or [`SliceMut`], whatever its type.
macro_rules! each_kind {
    ($enum:ident, $slice:expr, $s:ident => $body:expr) => {
        match $slice {
            $enum::F64($s) => $body,
            $enum::F32($s) => $body,
            $enum::BF16($s) => $body,
            $enum::F16($s) => $body,
            $enum::U8($s) => $body,
            $enum::U32($s) => $body,
            $enum::I64($s) => $body,
        }
    };
}

fn gather<S: Element + Cast<T>, T: Element>(src: &[S], x: &View<'_>, out: &mut [T]) {
    x.layout.for_each_run(|at, from, len, stride| {
        let out = &mut out[at..at + len];
        if stride == 1 {
            for (o, &v) in out.iter_mut().zip(&src[from..from + len]) {
                *o = v.cast();
            }
        } else {
            for (i, o) in out.iter_mut().enumerate() {
                *o = src[from + i * stride].cast();
            }
        }
    });
}

/// Writes the elements of `x` in row-major order, cast to the type of `out`.
///
/// # Panics
/// Panics where `out` has not as many elements as `x`.
pub fn copy(x: View<'_>, out: SliceMut<'_>) {
    assert_eq!(x.layout.elements(), out.len(), "copy: the output has as many elements as the input");
    each_kind!(SliceMut, out, out => each_kind!(Slice, x.data, src => gather(src, &x, out)));
}

/// Sets every element to `value`, cast to the type of `out`.
pub fn fill(value: f64, out: SliceMut<'_>) {
    each_kind!(SliceMut, out, out => out.fill(Cast::cast(value)));
}

/// acc += x, element by element, in the type of `acc` (half types add in f32).
///
/// # Panics
/// Panics where `acc` has not as many elements as `x`.
pub fn add_assign(mut acc: SliceMut<'_>, x: View<'_>) {
    assert_eq!(x.layout.elements(), acc.len(), "add_assign: both sides have as many elements");
    let mut sum = to_f64(x);
    let layout = crate::Layout::contiguous(crate::Shape::new(&[acc.len()]));
    let old = to_f64(View { data: acc.as_slice(), layout: &layout });
    sum.iter_mut().zip(old).for_each(|(s, o)| *s += o);
    from_f64(&sum, acc.reborrow());
}

/// The elements in row-major order as f64.
pub(crate) fn to_f64(x: View<'_>) -> Vec<f64> {
    let mut out = vec![0.0; x.layout.elements()];
    copy(x, SliceMut::F64(&mut out));
    out
}

/// Writes f64s in the type of `out`.
pub(crate) fn from_f64(values: &[f64], out: SliceMut<'_>) {
    let layout = crate::Layout::contiguous(crate::Shape::new(&[values.len()]));
    copy(View { data: Slice::F64(values), layout: &layout }, out);
}
