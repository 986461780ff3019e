//! What tiles of matrices and images need of vectors beyond [`Vector`]: parts of vectors, squares
//! transposed, and a multiply-add that is fast anywhere.
//!
//! Kernels are `#[inline(always)]` functions over a [`Lanes`] type. They are instantiated with
//! [`Float::Fast`] inside a function that enables AVX2 and FMA and with [`Float::Plain`] anywhere;
//! [`Isa`] says which.
//!
//! [`Float::Fast`]: crate::float::Float::Fast
//! [`Float::Plain`]: crate::float::Float::Plain

#[cfg(target_arch = "x86_64")]
pub(crate) mod wide;

use crate::float::Float;
use crate::simd::{Array, Float as _, Vector, has_avx2};

/// Which instructions a kernel is compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd)]
pub(crate) enum Isa {
    /// What every machine of the target has.
    Plain,
    /// AVX2 and FMA, on x86-64 machines that have them.
    Fast,
    /// Also AVX-512F and VL: kernels that tile [`Registers`] use it, all others are as `Fast`.
    Wide,
}

impl Isa {
    /// The best that this machine has.
    #[inline]
    pub(crate) fn detect() -> Self {
        if !has_avx2() {
            return Isa::Plain;
        }
        // Detection is cached by std in one atomic.
        #[cfg(target_arch = "x86_64")]
        if std::is_x86_feature_detected!("avx512f") && std::is_x86_feature_detected!("avx512vl") {
            return Isa::Wide;
        }
        Isa::Fast
    }

    /// All that this machine has: tests run each.
    #[cfg(test)]
    pub(crate) fn all() -> Vec<Self> {
        [Isa::Plain, Isa::Fast, Isa::Wide].into_iter().filter(|isa| *isa <= Self::detect()).collect()
    }
}

/// The little that a tile of sums needs of a vector: every [`Lanes`] has it, and so have the
/// vectors of AVX-512.
///
/// Associated functions may only be called where the machine has the instructions of the type.
pub(crate) trait Registers: Copy {
    /// The numbers' type.
    type Item: Float;
    /// How many there are.
    const LANES: usize;

    /// The same number in all lanes.
    fn all(x: Self::Item) -> Self;
    /// # Safety
    /// LANES elements can be read at `p`.
    unsafe fn read(p: *const Self::Item) -> Self;
    /// The first `count` elements at `p`, zeros in the other lanes.
    ///
    /// # Safety
    /// `count.min(LANES)` elements can be read at `p`.
    unsafe fn read_first(p: *const Self::Item, count: usize) -> Self;
    /// # Safety
    /// LANES elements can be written at `p`.
    unsafe fn write(self, p: *mut Self::Item);
    /// Writes the first `count` lanes to `p`.
    ///
    /// # Safety
    /// `count.min(LANES)` elements can be written at `p`.
    unsafe fn write_first(self, p: *mut Self::Item, count: usize);
    /// self · factor + term, as [`Lanes::mul_add`].
    fn times_plus(self, factor: Self, term: Self) -> Self;
    /// self + other.
    fn plus(self, other: Self) -> Self;
}

// Each method has the promise of the one it calls.
impl<L: Lanes> Registers for L {
    type Item = <L as Vector>::Item;
    const LANES: usize = <L as Vector>::LANES;

    #[inline(always)]
    fn all(x: Self::Item) -> Self {
        Self::splat(x)
    }
    #[inline(always)]
    unsafe fn read(p: *const Self::Item) -> Self {
        // SAFETY: see above.
        unsafe { Self::load(p) }
    }
    #[inline(always)]
    unsafe fn read_first(p: *const Self::Item, count: usize) -> Self {
        // SAFETY: see above.
        unsafe { Self::load_first(p, count) }
    }
    #[inline(always)]
    unsafe fn write(self, p: *mut Self::Item) {
        // SAFETY: see above.
        unsafe { self.store(p) }
    }
    #[inline(always)]
    unsafe fn write_first(self, p: *mut Self::Item, count: usize) {
        // SAFETY: see above.
        unsafe { self.store_first(p, count) }
    }
    #[inline(always)]
    fn times_plus(self, factor: Self, term: Self) -> Self {
        self.mul_add(factor, term)
    }
    #[inline(always)]
    fn plus(self, other: Self) -> Self {
        self + other
    }
}

/// Asks for the line of memory at `p` to be brought into the first cache; any pointer will do.
#[inline(always)]
pub(crate) fn prefetch<T>(p: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch is a hint that never faults, and SSE is part of the target.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(p.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = p;
}

/// A vector that tiles are made of.
///
/// Associated functions that read memory may only be called where the machine has the instructions
/// of the type.
pub(crate) trait Lanes: Vector<Item: Float> {
    /// The first `count` elements at `p`, zeros in the other lanes.
    ///
    /// # Safety
    /// `count.min(LANES)` elements can be read at `p`.
    #[inline(always)]
    unsafe fn load_first(p: *const Self::Item, count: usize) -> Self {
        let mut lanes = [Self::Item::ZERO; 8];
        // SAFETY: the caller allows reading `count.min(LANES)` elements, and LANES is at most 8.
        unsafe {
            std::ptr::copy_nonoverlapping(p, lanes.as_mut_ptr(), count.min(Self::LANES));
            Self::load(lanes.as_ptr())
        }
    }

    /// Writes the first `count` lanes to `p`.
    ///
    /// # Safety
    /// `count.min(LANES)` elements can be written at `p`.
    #[inline(always)]
    unsafe fn store_first(self, p: *mut Self::Item, count: usize) {
        let mut lanes = [Self::Item::ZERO; 8];
        // SAFETY: the caller allows writing `count.min(LANES)` elements, and LANES is at most 8.
        unsafe {
            self.store(lanes.as_mut_ptr());
            std::ptr::copy_nonoverlapping(lanes.as_ptr(), p, count.min(Self::LANES));
        }
    }

    /// The first `count` lanes, zeros in the others.
    #[inline(always)]
    fn keep_first(self, count: usize) -> Self {
        // SAFETY: a window of LANES starts at 0 ..= LANES of 16 elements.
        let mask = unsafe {
            let kept = count.min(Self::LANES);
            Self::load(Self::Item::KEEP.as_ptr().add(8 - kept))
        };
        self.and(mask)
    }

    /// self · factor + term, in one operation where the machine has it and in two where it would
    /// have to be computed bit by bit.
    #[inline(always)]
    fn mul_add(self, factor: Self, term: Self) -> Self {
        self * factor + term
    }

    /// The sum of the lanes, halves first.
    #[inline(always)]
    fn total(self) -> Self::Item {
        let mut lanes = self.lanes();
        let mut width = Self::LANES;
        while width > 1 {
            width /= 2;
            for i in 0..width {
                lanes[i] += lanes[i + width];
            }
        }
        lanes[0]
    }

    /// Lane by lane the other value and its tag where that is larger or NaN, else these.
    #[inline(always)]
    fn raise(self, tag: Self, other: Self, other_tag: Self) -> (Self, Self) {
        let take = self.lt(other).or(other.is_nan());
        (take.select(other, self), take.select(other_tag, tag))
    }

    /// Every `step`-th of the elements at `p`.
    ///
    /// # Safety
    /// `LANES · step` elements can be read at `p`.
    #[inline(always)]
    unsafe fn load_every(p: *const Self::Item, step: usize) -> Self {
        let mut lanes = [Self::Item::ZERO; 8];
        // SAFETY: the caller allows reading these elements, and LANES is at most 8.
        unsafe {
            for (i, lane) in lanes.iter_mut().enumerate().take(Self::LANES) {
                *lane = *p.add(i * step);
            }
            Self::load(lanes.as_ptr())
        }
    }

    /// Four vectors of every fourth element: lane t of the k-th is element 4·t + k at `p`.
    ///
    /// # Safety
    /// `4 · LANES` elements can be read at `p`.
    #[inline(always)]
    unsafe fn load_fours(p: *const Self::Item) -> [Self; 4] {
        let mut lanes = [[Self::Item::ZERO; 8]; 4];
        // SAFETY: the caller allows reading these elements, and LANES is at most 8.
        unsafe {
            for t in 0..Self::LANES {
                for (k, lanes) in lanes.iter_mut().enumerate() {
                    lanes[t] = *p.add(4 * t + k);
                }
            }
            std::array::from_fn(|k| Self::load(lanes[k].as_ptr()))
        }
    }

    /// Writes lane t of the k-th vector to element 4·t + k at `p`.
    ///
    /// # Safety
    /// `4 · LANES` elements can be written at `p`.
    #[inline(always)]
    unsafe fn store_fours(vectors: [Self; 4], p: *mut Self::Item) {
        let lanes = vectors.map(Self::lanes);
        for t in 0..Self::LANES {
            for (k, lanes) in lanes.iter().enumerate() {
                // SAFETY: the caller allows writing these elements.
                unsafe { *p.add(4 * t + k) = lanes[t] };
            }
        }
    }

    /// Transposes a square of LANES × LANES elements: to[j·to_step + i] = from[i·from_step + j].
    ///
    /// # Safety
    /// LANES elements can be read at each of LANES rows `from_step` apart, and written at each of
    /// LANES rows `to_step` apart; the two do not overlap.
    #[inline(always)]
    unsafe fn transpose(from: *const Self::Item, from_step: usize, to: *mut Self::Item, to_step: usize) {
        for j in 0..Self::LANES {
            for i in 0..Self::LANES {
                // SAFETY: i and j are below LANES; the caller allows both accesses.
                unsafe { *to.add(j * to_step + i) = *from.add(i * from_step + j) };
            }
        }
    }
}

impl Lanes for Array<f32, 8> {}

impl Lanes for Array<f64, 4> {}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use super::Lanes;
    use crate::simd::{F32x8, F64x4, Vector};
    use std::arch::x86_64::*;

    /// Lane i loads where i < count: a window of 8 into −1 × 8, 0 × 8.
    static MASK: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];
    static MASK_WIDE: [i64; 8] = [-1, -1, -1, -1, 0, 0, 0, 0];

    // In the methods below, an intrinsic needs AVX2 or FMA: values of these types exist only where
    // the processor has them (the invariant of `simd::avx2`), and an associated function is called
    // only under the same check. It reads or writes no more than the method itself is allowed to.
    impl Lanes for F32x8 {
        #[inline(always)]
        unsafe fn load_first(p: *const f32, count: usize) -> Self {
            // SAFETY: see above; the window of 8 starts at 0 ..= 8 of 16, and masked lanes are
            // not read.
            unsafe {
                let mask = _mm256_loadu_si256(MASK.as_ptr().add(8 - count.min(8)).cast());
                Self(_mm256_maskload_ps(p, mask))
            }
        }

        #[inline(always)]
        fn mul_add(self, factor: Self, term: Self) -> Self {
            self.fma(factor, term)
        }

        #[inline(always)]
        unsafe fn store_first(self, p: *mut f32, count: usize) {
            // Masked stores are slow on AMD, so it goes by halves.
            // SAFETY: see above; `count` lanes are written.
            unsafe {
                if count >= 8 {
                    return self.store(p);
                }
                let (mut rest, mut p) = (_mm256_castps256_ps128(self.0), p);
                if count & 4 != 0 {
                    _mm_storeu_ps(p, rest);
                    (rest, p) = (_mm256_extractf128_ps(self.0, 1), p.add(4));
                }
                if count & 2 != 0 {
                    _mm_store_sd(p.cast(), _mm_castps_pd(rest));
                    (rest, p) = (_mm_movehl_ps(rest, rest), p.add(2));
                }
                if count & 1 != 0 {
                    _mm_store_ss(p, rest);
                }
            }
        }

        #[inline(always)]
        unsafe fn load_every(p: *const f32, step: usize) -> Self {
            // SAFETY: see above; lane i reads element i·step, and for a step of 2 two vectors.
            unsafe {
                if step == 1 {
                    return Self::load(p);
                }
                if step == 2 {
                    let (a, b) = (_mm256_loadu_ps(p), _mm256_loadu_ps(p.add(8)));
                    // Even elements of a and b, half by half, then the middle quarters swapped.
                    let even = _mm256_castps_pd(_mm256_shuffle_ps(a, b, 0b10_00_10_00));
                    return Self(_mm256_castpd_ps(_mm256_permute4x64_pd(even, 0b11_01_10_00)));
                }
                let mut lanes = [0.0; 8];
                for (i, lane) in lanes.iter_mut().enumerate() {
                    *lane = *p.add(i * step);
                }
                Self::load(lanes.as_ptr())
            }
        }

        #[inline(always)]
        unsafe fn load_fours(p: *const f32) -> [Self; 4] {
            // SAFETY: see above; 32 elements are read.
            unsafe {
                let at = |i: usize| _mm256_loadu_ps(p.add(8 * i));
                let (a, b, c, d) = (at(0), at(1), at(2), at(3));
                // The halves hold fours t and t + 4; then a transposition of 4 × 4 in each half.
                let (x, y) = (_mm256_permute2f128_ps(a, c, 0x20), _mm256_permute2f128_ps(a, c, 0x31));
                let (z, w) = (_mm256_permute2f128_ps(b, d, 0x20), _mm256_permute2f128_ps(b, d, 0x31));
                fours([x, y, z, w]).map(Self)
            }
        }

        #[inline(always)]
        unsafe fn store_fours(vectors: [Self; 4], p: *mut f32) {
            // SAFETY: see above; 32 elements are written.
            unsafe {
                let [x, y, z, w] = fours(vectors.map(|v| v.0));
                _mm256_storeu_ps(p, _mm256_permute2f128_ps(x, y, 0x20));
                _mm256_storeu_ps(p.add(8), _mm256_permute2f128_ps(z, w, 0x20));
                _mm256_storeu_ps(p.add(16), _mm256_permute2f128_ps(x, y, 0x31));
                _mm256_storeu_ps(p.add(24), _mm256_permute2f128_ps(z, w, 0x31));
            }
        }

        #[inline(always)]
        fn total(self) -> f32 {
            // SAFETY: see above.
            unsafe {
                let four = _mm_add_ps(_mm256_castps256_ps128(self.0), _mm256_extractf128_ps(self.0, 1));
                let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
                _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
            }
        }

        #[inline(always)]
        unsafe fn transpose(from: *const f32, from_step: usize, to: *mut f32, to_step: usize) {
            // SAFETY: see above; rows 0 .. 8 are read and written.
            unsafe {
                let row = |i: usize| _mm256_loadu_ps(from.add(i * from_step));
                let rows: [__m256; 8] = std::array::from_fn(row);
                // Pairs of rows, then fours, then halves.
                let mut pairs = rows;
                for i in 0..4 {
                    pairs[2 * i] = _mm256_unpacklo_ps(rows[2 * i], rows[2 * i + 1]);
                    pairs[2 * i + 1] = _mm256_unpackhi_ps(rows[2 * i], rows[2 * i + 1]);
                }
                let mut fours = pairs;
                for h in [0, 4] {
                    fours[h] = _mm256_shuffle_ps(pairs[h], pairs[h + 2], 0x44);
                    fours[h + 1] = _mm256_shuffle_ps(pairs[h], pairs[h + 2], 0xEE);
                    fours[h + 2] = _mm256_shuffle_ps(pairs[h + 1], pairs[h + 3], 0x44);
                    fours[h + 3] = _mm256_shuffle_ps(pairs[h + 1], pairs[h + 3], 0xEE);
                }
                for i in 0..4 {
                    let low = _mm256_permute2f128_ps(fours[i], fours[i + 4], 0x20);
                    let high = _mm256_permute2f128_ps(fours[i], fours[i + 4], 0x31);
                    _mm256_storeu_ps(to.add(i * to_step), low);
                    _mm256_storeu_ps(to.add((i + 4) * to_step), high);
                }
            }
        }
    }

    /// Transposes the 4 × 4 elements in each half.
    ///
    /// # Safety
    /// The processor has AVX2.
    #[inline(always)]
    unsafe fn fours([a, b, c, d]: [__m256; 4]) -> [__m256; 4] {
        // SAFETY: the caller's promise.
        unsafe {
            let (ab, ba) = (_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
            let (cd, dc) = (_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
            [
                _mm256_shuffle_ps(ab, cd, 0x44),
                _mm256_shuffle_ps(ab, cd, 0xEE),
                _mm256_shuffle_ps(ba, dc, 0x44),
                _mm256_shuffle_ps(ba, dc, 0xEE),
            ]
        }
    }

    impl Lanes for F64x4 {
        #[inline(always)]
        unsafe fn load_first(p: *const f64, count: usize) -> Self {
            // SAFETY: as for `F32x8`; the window of 4 starts at 0 ..= 4 of 8.
            unsafe {
                let mask = _mm256_loadu_si256(MASK_WIDE.as_ptr().add(4 - count.min(4)).cast());
                Self(_mm256_maskload_pd(p, mask))
            }
        }

        #[inline(always)]
        unsafe fn store_first(self, p: *mut f64, count: usize) {
            // SAFETY: as for `F32x8`; `count` lanes are written.
            unsafe {
                if count >= 4 {
                    return self.store(p);
                }
                let (mut rest, mut p) = (_mm256_castpd256_pd128(self.0), p);
                if count & 2 != 0 {
                    _mm_storeu_pd(p, rest);
                    (rest, p) = (_mm256_extractf128_pd(self.0, 1), p.add(2));
                }
                if count & 1 != 0 {
                    _mm_store_sd(p, rest);
                }
            }
        }

        #[inline(always)]
        fn mul_add(self, factor: Self, term: Self) -> Self {
            self.fma(factor, term)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[inline(always)]
    fn exercise<L: Lanes>() {
        let ints =
            |start: usize| -> Vec<L::Item> { (0..64).map(|i| L::Item::reciprocal(start + i)).collect() };
        let (x, y, w) = (ints(1), ints(100), L::LANES);
        // SAFETY: the caller has the instructions; all buffers hold 64 elements, LANES is ≤ 8.
        unsafe {
            let mut out = vec![L::Item::ZERO; 64];
            (L::load(x.as_ptr()) + L::splat(y[0])).store(out.as_mut_ptr());
            (0..w).for_each(|i| assert!(out[i] == x[i] + y[0]));
            let one = L::splat(L::Item::reciprocal(1));
            L::load(x.as_ptr()).mul_add(one, L::load(y.as_ptr())).store(out.as_mut_ptr());
            (0..w).for_each(|i| assert!(out[i] == x[i] + y[i]));
            for count in 0..=9 {
                out.fill(L::Item::ZERO);
                L::load_first(x.as_ptr(), count).store(out.as_mut_ptr());
                (0..w).for_each(|i| {
                    assert!(out[i] == if i < count { x[i] } else { L::Item::ZERO });
                });
                out.fill(L::Item::ZERO);
                L::load(x.as_ptr()).store_first(out.as_mut_ptr(), count);
                (0..64).for_each(|i| {
                    assert!(out[i] == if i < count.min(w) { x[i] } else { L::Item::ZERO });
                });
            }
            for step in 1..4 {
                L::load_every(x.as_ptr(), step).store(out.as_mut_ptr());
                (0..w).for_each(|i| assert!(out[i] == x[i * step]));
            }
            let fours = L::load_fours(x.as_ptr());
            for (k, four) in fours.into_iter().enumerate() {
                four.store(out.as_mut_ptr());
                (0..w).for_each(|i| assert!(out[i] == x[4 * i + k]));
            }
            out.fill(L::Item::ZERO);
            L::store_fours(fours, out.as_mut_ptr());
            (0..64).for_each(|i| assert!(out[i] == if i < 4 * w { x[i] } else { L::Item::ZERO }));
            // Nothing is raised to the lowest.
            let (best, tag) = L::load(x.as_ptr()).raise(
                L::splat(x[0]),
                L::load(y.as_ptr()).mul_add(L::splat(L::Item::LOWEST), L::splat(x[0])),
                L::splat(x[1]),
            );
            best.store(out.as_mut_ptr());
            (0..w).for_each(|i| assert!(out[i] == x[i]));
            tag.store(out.as_mut_ptr());
            (0..w).for_each(|i| assert!(out[i] == x[0]));
            for count in 0..=w {
                L::load(x.as_ptr()).keep_first(count).store(out.as_mut_ptr());
                (0..w).for_each(|i| {
                    assert!(out[i] == if i < count { x[i] } else { L::Item::ZERO });
                });
            }
            assert!(L::splat(L::Item::reciprocal(w)).total() == L::Item::reciprocal(1));
            L::transpose(x.as_ptr(), w, out.as_mut_ptr(), w);
            for i in 0..w {
                (0..w).for_each(|j| assert!(out[j * w + i] == x[i * w + j]));
            }
        }
    }

    #[test]
    fn plain_lanes() {
        exercise::<Array<f32, 8>>();
        exercise::<Array<f64, 4>>();
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn avx2_lanes() {
        #[target_feature(enable = "avx2,fma")]
        fn fast<L: Lanes>() {
            exercise::<L>();
        }
        if Isa::detect() >= Isa::Fast {
            // SAFETY: the machine has AVX2 and FMA.
            unsafe {
                use crate::simd::{F32x8, F64x4};
                fast::<F32x8>();
                fast::<F64x4>();
            }
        }
    }
}
