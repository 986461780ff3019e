//! Vectors of a few numbers: the one way in which kernels are written once and run on AVX2 or
//! anything else.
//!
//! A kernel is a function generic over [`Vector`], made with the macro [`vectorised`]: it is
//! compiled once with AVX2 and FMA switched on over their registers, and once portably over
//! arrays, and calls pick one at run time. Both compute the same, fused multiply-add included, so
//! their results are equal to the bit.

#[cfg(target_arch = "x86_64")]
mod avx2;
mod float;
mod loops;
mod portable;

#[cfg(target_arch = "x86_64")]
pub(crate) use avx2::{F32x8, F64x4};
pub(crate) use float::Float;
pub(crate) use loops::{fold, load_at, map1, map2, map3, store_at};
pub(crate) use portable::Array;

use std::ops::{Add, Div, Mul, Neg, Sub};

/// A few numbers that are computed on at once.
///
/// Comparisons give masks: all bits set where true, none where false.
pub(crate) trait Vector:
    Copy + Add<Output = Self> + Sub<Output = Self> + Mul<Output = Self> + Div<Output = Self> + Neg<Output = Self>
{
    /// The numbers' type.
    type Item: Float;
    /// How many there are: 8 of f32, 4 of f64.
    const LANES: usize;

    /// The same number in all lanes.
    fn splat(x: Self::Item) -> Self;
    /// A number from a literal.
    #[inline(always)]
    fn num(x: f64) -> Self {
        Self::splat(Self::Item::from_f64(x))
    }
    /// # Safety
    /// `LANES` numbers can be read from `from`, which need not be aligned.
    unsafe fn load(from: *const Self::Item) -> Self;
    /// # Safety
    /// `LANES` numbers can be written to `to`, which need not be aligned.
    unsafe fn store(self, to: *mut Self::Item);

    /// self · b + c, rounded once.
    fn fma(self, b: Self, c: Self) -> Self;
    /// The smaller lane by lane; where either is NaN, that of `b`.
    fn min(self, b: Self) -> Self;
    /// The larger lane by lane; where either is NaN, that of `b`.
    fn max(self, b: Self) -> Self;
    fn sqrt(self) -> Self;
    fn floor(self) -> Self;
    fn ceil(self) -> Self;
    /// To the nearest integer, halves to even.
    fn round(self) -> Self;

    fn and(self, b: Self) -> Self;
    fn or(self, b: Self) -> Self;
    fn xor(self, b: Self) -> Self;
    /// The bits of self that `b` has not.
    fn without(self, b: Self) -> Self;

    fn lt(self, b: Self) -> Self;
    fn le(self, b: Self) -> Self;
    fn eq(self, b: Self) -> Self;
    /// Where self is NaN.
    fn is_nan(self) -> Self;
    /// `a` where the mask self is set, else `b`.
    fn select(self, a: Self, b: Self) -> Self;
    /// Whether the mask self is set anywhere.
    fn any(self) -> bool;

    /// 2ⁿ for lanes that hold whole numbers n of normal powers.
    fn pow2(self) -> Self;
    /// For positive normal x: (m, e) with x = m · 2ᵉ and m in [√½, √2) or close to it.
    fn split(self) -> (Self, Self);
    /// The lowest bit of a whole number, as a mask: odd or not. |x| < 2²².
    fn is_odd(self) -> Self;

    #[inline(always)]
    fn abs(self) -> Self {
        self.without(Self::num(-0.0))
    }
    /// The sign bit alone.
    #[inline(always)]
    fn sign_bit(self) -> Self {
        self.and(Self::num(-0.0))
    }

    /// The lanes, in an array of which the first `LANES` count.
    #[inline(always)]
    fn lanes(self) -> [Self::Item; 8] {
        let mut out = [Self::Item::default(); 8];
        // SAFETY: the array has room for 8 lanes, and no vector has more.
        unsafe { self.store(out.as_mut_ptr()) };
        out
    }
    /// f of each lane.
    #[inline(always)]
    fn map(self, f: impl Fn(Self::Item) -> Self::Item) -> Self {
        let lanes = self.lanes().map(f);
        // SAFETY: the array has as many numbers as the largest vector.
        unsafe { Self::load(lanes.as_ptr()) }
    }
    /// The lanes' sum, in f64.
    #[inline(always)]
    fn sum(self) -> f64 {
        self.lanes()[..Self::LANES].iter().map(|x| x.to_f64()).sum()
    }
}

/// Whether the vector paths for AVX2 and FMA may run.
#[inline(always)]
pub(crate) fn has_avx2() -> bool {
    #[cfg(test)]
    if tests::PORTABLE.get() {
        return false;
    }
    // Detection is cached by std in one atomic.
    #[cfg(target_arch = "x86_64")]
    return std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma");
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// Defines a function over `T: Float` whose body is generic over `V: Vector<Item = T>`.
///
/// `vectorised! { fn double<T, V>(x: &mut [T]) { .. } }` expands to
/// `fn double<T: Float>(x: &mut [T])`, with the body as an inlined inner function, called once
/// from a function with AVX2 and FMA switched on (V = `T::Avx2`) and once plainly
/// (V = `T::Portable`), as the processor allows.
macro_rules! vectorised {
    ($(#[$meta:meta])* $vis:vis fn $name:ident<$T:ident, $V:ident>(
        $($arg:ident: $ty:ty),* $(,)?
    ) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        $vis fn $name<$T: $crate::simd::Float>($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn body<$T: $crate::simd::Float, $V: $crate::simd::Vector<Item = $T>>(
                $($arg: $ty),*
            ) $(-> $ret)? $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,fma")]
                fn avx2<$T: $crate::simd::Float>($($arg: $ty),*) $(-> $ret)? {
                    body::<$T, $T::Avx2>($($arg),*)
                }
                if $crate::simd::has_avx2() {
                    // SAFETY: the processor has AVX2 and FMA.
                    return unsafe { avx2::<$T>($($arg),*) };
                }
            }
            body::<$T, $T::Portable>($($arg),*)
        }
    };
}
pub(crate) use vectorised;

#[cfg(test)]
pub(crate) mod tests {
    use std::cell::Cell;

    thread_local! {
        /// Set to run the portable paths on this thread.
        pub(crate) static PORTABLE: Cell<bool> = const { Cell::new(false) };
    }

    /// Runs `f` on the portable paths.
    pub(crate) fn portably<R>(f: impl FnOnce() -> R) -> R {
        PORTABLE.set(true);
        let result = f();
        PORTABLE.set(false);
        result
    }
}
