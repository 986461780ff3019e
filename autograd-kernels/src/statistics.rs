//! What numbers look like: norms, extremes, counts and magnitudes, in one pass over any layout.
//!
//! Sums are kept in f64 whatever the type, so that a norm of f32 or half numbers neither overflows
//! nor depends on the number of threads: parts are the same for any number of them, and are added
//! in their order.

use crate::copy::copy;
use crate::rows::{MIN_CHUNK, Rows, wide};
use crate::simd::Float;
use crate::threads::{Disjoint, chunk_length, parallel_chunks, parallel_for};
use crate::{Kind, Layout, Shape, SliceMut, View, memory};
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

/// Bins of [`Statistics::magnitudes`].
pub const BINS: usize = 64;

/// The binary exponent of the first bin: 2⁻⁴⁸ is about 4e-15.
pub const FIRST_EXPONENT: i32 = -48;

/// What numbers look like. Extremes, sums and bins are of the finite ones.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Statistics {
    /// How many numbers there are.
    pub count: usize,
    /// How many are NaN.
    pub nans: usize,
    /// How many are infinite.
    pub infinities: usize,
    /// How many are 0.
    pub zeros: usize,
    /// Σ x.
    pub sum: f64,
    /// Σ x².
    pub squares: f64,
    /// The smallest; +∞ of nothing.
    pub min: f64,
    /// The largest; −∞ of nothing.
    pub max: f64,
    /// How many have 2ᵉ ≤ |x| < 2ᵉ⁺¹ for e = [`FIRST_EXPONENT`], …: the first bin holds all smaller
    /// ones but 0, the last all larger ones.
    pub magnitudes: [usize; BINS],
}

impl Default for Statistics {
    fn default() -> Self {
        Self {
            count: 0,
            nans: 0,
            infinities: 0,
            zeros: 0,
            sum: 0.0,
            squares: 0.0,
            min: f64::INFINITY,
            max: f64::NEG_INFINITY,
            magnitudes: [0; BINS],
        }
    }
}

impl Statistics {
    /// The statistics of these numbers and of others together.
    #[must_use]
    pub fn and(mut self, other: &Self) -> Self {
        self.count += other.count;
        self.nans += other.nans;
        self.infinities += other.infinities;
        self.zeros += other.zeros;
        self.sum += other.sum;
        self.squares += other.squares;
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
        self.magnitudes.iter_mut().zip(&other.magnitudes).for_each(|(a, b)| *a += b);
        self
    }

    fn note(&mut self, x: f64) {
        if x.is_nan() {
            self.nans += 1;
            return;
        }
        if x.is_infinite() {
            self.infinities += 1;
            return;
        }
        self.sum += x;
        self.squares += x * x;
        self.min = self.min.min(x);
        self.max = self.max.max(x);
        if x == 0.0 {
            self.zeros += 1;
            return;
        }
        let exponent = (x.to_bits() >> 52 & 0x7ff) as i32 - 1023;
        self.magnitudes[(exponent - FIRST_EXPONENT).clamp(0, BINS as i32 - 1) as usize] += 1;
    }
}

/// Looks at all elements of `x`.
///
/// # Panics
/// Panics where `x` reaches beyond its buffer.
pub fn statistics(x: View<'_>) -> Statistics {
    fn of<T: Float>(x: &[T]) -> Statistics {
        let parts = parts(x.len(), |range| {
            let mut part = Statistics { count: range.len(), ..Statistics::default() };
            x[range].iter().for_each(|x| part.note(x.to_f64()));
            part
        });
        parts.iter().fold(Statistics::default(), Statistics::and)
    }
    match in_f64(&x) {
        true => of::<f64>(Rows::flat(x).all()),
        false => of::<f32>(Rows::flat(x).all()),
    }
}

/// Σ x² of equal parts of `x` in row-major order, one for each element of `out`.
///
/// # Panics
/// Panics where `x` does not divide into as many parts, or reaches beyond its buffer.
pub fn sums_of_squares(x: View<'_>, out: &mut [f64]) {
    fn of<T: Float>(x: &[T], out: &mut [f64]) {
        if let [out] = out {
            *out = parts(x.len(), |range| squares(&x[range])).iter().sum();
            return;
        }
        let n = x.len() / out.len();
        let all = Disjoint::new(out);
        parallel_chunks(all.len(), MIN_CHUNK.div_ceil(n.max(1)), &|range| {
            // SAFETY: the ranges do not overlap.
            let out = unsafe { all.part(range.clone()) };
            for (out, i) in out.iter_mut().zip(range) {
                *out = squares(&x[i * n..(i + 1) * n]);
            }
        });
    }
    if out.is_empty() {
        return;
    }
    assert!(x.layout.elements().is_multiple_of(out.len()), "sums_of_squares: the parts are equal");
    match in_f64(&x) {
        true => of::<f64>(Rows::flat(x).all(), out),
        false => of::<f32>(Rows::flat(x).all(), out),
    }
}

/// Σ x² in eight sums side by side.
fn squares<T: Float>(x: &[T]) -> f64 {
    let mut sums = [0.0; 8];
    let mut eights = x.chunks_exact(8);
    for eight in eights.by_ref() {
        for (sum, x) in sums.iter_mut().zip(eight) {
            let x = x.to_f64();
            *sum += x * x;
        }
    }
    let rest = eights.remainder().iter().map(|x| x.to_f64() * x.to_f64());
    sums.iter().sum::<f64>() + rest.sum::<f64>()
}

/// out = x · factor in one pass, and whether all of x is finite. Computed in f32, or in f64 where
/// either side is.
///
/// # Panics
/// Panics where `out` has not as many elements as `x` or is of no float type, or `x` reaches beyond
/// its buffer.
pub fn scale_checked(x: View<'_>, factor: f64, mut out: SliceMut<'_>) -> bool {
    fn into<T: Float>(x: &[T], factor: T, out: &mut [T]) -> bool {
        let all = Disjoint::new(out);
        let sound = AtomicBool::new(true);
        parallel_chunks(x.len(), MIN_CHUNK, &|range| {
            // SAFETY: the ranges do not overlap.
            let out = unsafe { all.part(range.clone()) };
            let mut bad = false;
            for (out, &x) in out.iter_mut().zip(&x[range]) {
                // x · 0 is 0 for finite numbers alone.
                bad |= x * T::ZERO != T::ZERO;
                *out = x * factor;
            }
            if bad {
                sound.store(false, Ordering::Relaxed);
            }
        });
        sound.into_inner()
    }
    fn of<T: Float>(x: View<'_>, factor: f64, out: &mut SliceMut<'_>) -> bool {
        let (x, factor) = (Rows::<T>::flat(x), T::from_f64(factor));
        if let Some(out) = T::write(out) {
            return into(x.all(), factor, out);
        }
        let mut made = memory::take::<T>(out.len());
        let sound = into(x.all(), factor, &mut made);
        let layout = Layout::contiguous(Shape::new(&[made.len()]));
        copy(View { data: T::slice(&made), layout: &layout }, out.reborrow());
        memory::give(made);
        sound
    }
    assert_eq!(x.layout.elements(), out.len(), "scale_checked: as many elements on both sides");
    assert!(out.kind().is_float(), "scale_checked: the result is of a float type");
    match wide(&[x.kind(), out.kind()]) {
        true => of::<f64>(x, factor, &mut out),
        false => of::<f32>(x, factor, &mut out),
    }
}

/// How many elements are NaN, and how many infinite.
///
/// # Panics
/// As [`statistics`].
pub fn not_finite(x: View<'_>) -> (usize, usize) {
    fn of<T: Float>(x: &[T]) -> (usize, usize) {
        let parts = parts(x.len(), |range| {
            // x · 0 is 0 for finite numbers alone: a loop without branches for the usual case.
            let mut bad = [false; 8];
            let mut eights = x[range.clone()].chunks_exact(8);
            for eight in eights.by_ref() {
                for (bad, x) in bad.iter_mut().zip(eight) {
                    *bad |= *x * T::ZERO != T::ZERO;
                }
            }
            let rest = eights.remainder().iter().any(|x| *x * T::ZERO != T::ZERO);
            if !rest && !bad.contains(&true) {
                return (0, 0);
            }
            let numbers = || x[range.clone()].iter().map(|x| x.to_f64());
            (numbers().filter(|x| x.is_nan()).count(), numbers().filter(|x| x.is_infinite()).count())
        });
        parts.iter().fold((0, 0), |(nans, infinities), part| (nans + part.0, infinities + part.1))
    }
    match in_f64(&x) {
        true => of::<f64>(Rows::flat(x).all()),
        false => of::<f32>(Rows::flat(x).all()),
    }
}

fn in_f64(x: &View<'_>) -> bool {
    wide(&[x.kind()]) || matches!(x.kind(), Kind::U8 | Kind::U32 | Kind::I64)
}

/// `f` of parts of `0..len`, in the order of the parts; the parts are the same for any number of
/// threads.
fn parts<R: Send>(len: usize, f: impl Fn(Range<usize>) -> R + Sync) -> Vec<R> {
    let chunk = chunk_length(len, MIN_CHUNK);
    let chunks = if len == 0 { 0 } else { len.div_ceil(chunk) };
    let found: Vec<Mutex<Option<R>>> = (0..chunks).map(|_| Mutex::new(None)).collect();
    parallel_for(chunks, &|i| {
        let made = f(i * chunk..len.min((i + 1) * chunk));
        // A panic in `f` does not happen under the lock, so poison means nothing.
        *found[i].lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(made);
    });
    let made = found.into_iter().filter_map(|part| part.into_inner().ok().flatten());
    made.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Element, Layout, Shape, f16};

    fn with<T: Element, R>(x: &[T], f: impl Fn(View<'_>) -> R) -> R {
        let layout = Layout::contiguous(Shape::new(&[x.len()]));
        f(View { data: T::slice(x), layout: &layout })
    }

    #[test]
    fn counts_extremes_and_magnitudes() {
        let x = [0.0, -3.0, 4.0, f64::NAN, f64::INFINITY, 1e-30, 1e30, f64::NEG_INFINITY];
        let found = with(&x, statistics);
        assert_eq!((found.count, found.nans, found.infinities, found.zeros), (8, 1, 2, 1));
        assert_eq!((found.min, found.max), (-3.0, 1e30));
        let bins: Vec<usize> = (0..BINS).filter(|&i| found.magnitudes[i] > 0).collect();
        assert_eq!(bins, [0, (1 - FIRST_EXPONENT) as usize, (2 - FIRST_EXPONENT) as usize, BINS - 1]);
        assert_eq!(with(&x, not_finite), (1, 2));
        assert_eq!(with::<f32, _>(&[], statistics), Statistics::default());
    }

    fn sum_of_squares(x: View<'_>) -> f64 {
        let mut out = [0.0];
        sums_of_squares(x, &mut out);
        out[0]
    }

    #[test]
    fn squares_of_rows() {
        let x: Vec<f32> = (0..12).map(|i| i as f32).collect();
        let mut out = [0.0; 3];
        with(&x, |x| sums_of_squares(x, &mut out.clone()));
        let layout = Layout::contiguous(Shape::new(&[3, 4]));
        sums_of_squares(View { data: f32::slice(&x), layout: &layout }, &mut out);
        assert_eq!(out, [14.0, 126.0, 366.0]);
    }

    #[test]
    fn a_scaled_copy_knows_whether_all_was_finite() {
        let mut out = [0f32; 3];
        assert!(with(&[2f32, -4.0, 0.0], |x| scale_checked(x, 0.5, SliceMut::F32(&mut out.clone()))));
        let x = [f16::from_f32(2.0), f16::INFINITY, f16::from_f32(1.0)];
        let layout = Layout::contiguous(Shape::new(&[3]));
        let view = View { data: f16::slice(&x), layout: &layout };
        assert!(!scale_checked(view, 0.5, SliceMut::F32(&mut out)));
        assert_eq!(out, [1.0, f32::INFINITY, 0.5]);
        let mut half = [f16::ZERO; 3];
        assert!(!scale_checked(view, 0.25, SliceMut::F16(&mut half)));
        assert_eq!(half[0], f16::from_f32(0.5));
    }

    #[test]
    fn squares_do_not_overflow_their_type() {
        assert_eq!(with(&[3e30f32; 4], sum_of_squares), 4.0 * f64::from(3e30f32).powi(2));
        let half = with(&[f16::from_f32(60000.0); 9], sum_of_squares);
        assert_eq!(half, 9.0 * f64::from(f16::from_f32(60000.0)).powi(2));
        assert_eq!(with(&[2u32, 3], sum_of_squares), 13.0);
    }

    #[test]
    fn parts_add_up_to_the_whole() {
        let x: Vec<f64> = (0..100_003).map(|i| f64::from(i % 7) - 3.0).collect();
        let (sum, squares) = (x.iter().sum::<f64>(), x.iter().map(|x| x * x).sum::<f64>());
        let found = with(&x, statistics);
        // Whole numbers this small are added exactly, in any order.
        assert_eq!((found.sum, found.squares), (sum, squares));
        assert_eq!(with(&x, sum_of_squares), squares);
        let mut x = x;
        x[77_777] = f64::NAN;
        assert_eq!(with(&x, not_finite), (1, 0));
    }
}
