//! Fourier transforms over one dimension, over rustfft and realfft.
//!
//! Complex numbers are pairs of real and imaginary parts in two tensors. f32 is transformed in
//! f32, f64 in f64; plans are made once for each length.

use crate::{Element, Slice, SliceMut, View, copy};
use realfft::num_complex::Complex;
use realfft::{FftNum, RealFftPlanner};
use rustfft::FftPlanner;
use std::sync::{LazyLock, Mutex, PoisonError};

/// A type without a kernel: the kernels work on f64 and f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoKernel;

/// The plans of one float type, shared by all threads.
struct Plans<T: FftNum> {
    real: Mutex<RealFftPlanner<T>>,
    complex: Mutex<FftPlanner<T>>,
}

impl<T: FftNum> Plans<T> {
    fn new() -> Self {
        Self { real: Mutex::new(RealFftPlanner::new()), complex: Mutex::new(FftPlanner::new()) }
    }
}

/// A float that can be transformed.
trait Float: Element + FftNum {
    fn plans() -> &'static Plans<Self>;
}

impl Float for f64 {
    fn plans() -> &'static Plans<Self> {
        static PLANS: LazyLock<Plans<f64>> = LazyLock::new(Plans::new);
        &PLANS
    }
}

impl Float for f32 {
    fn plans() -> &'static Plans<Self> {
        static PLANS: LazyLock<Plans<f32>> = LazyLock::new(Plans::new);
        &PLANS
    }
}

fn read<T: Float>(x: View<'_>) -> Vec<T> {
    let mut out = vec![T::default(); x.layout.elements()];
    copy::copy(x, T::slice_mut(&mut out));
    out
}

/// The last extent of a view.
fn last(x: View<'_>) -> usize {
    x.layout.dims().last().copied().unwrap_or(1)
}

/// The transform of real rows: the first n/2 + 1 of n frequencies, unscaled.
///
/// # Errors
/// A type without a kernel.
pub fn real_to_complex(x: View<'_>, re: SliceMut<'_>, im: SliceMut<'_>) -> Result<(), NoKernel> {
    fn typed<T: Float>(x: View<'_>, mut re: SliceMut<'_>, mut im: SliceMut<'_>) -> Result<(), NoKernel> {
        let (Some(re), Some(im)) = (T::write(&mut re), T::write(&mut im)) else { return Err(NoKernel) };
        let n = last(x);
        let plan = T::plans().real.lock().unwrap_or_else(PoisonError::into_inner).plan_fft_forward(n);
        let half = n / 2 + 1;
        let (mut row, mut out) = (plan.make_input_vec(), plan.make_output_vec());
        let mut scratch = plan.make_scratch_vec();
        for (r, from) in read::<T>(x).chunks_exact(n).enumerate() {
            row.copy_from_slice(from);
            plan.process_with_scratch(&mut row, &mut out, &mut scratch).map_err(|_| NoKernel)?;
            for (k, c) in out.iter().enumerate() {
                re[r * half + k] = c.re;
                im[r * half + k] = c.im;
            }
        }
        Ok(())
    }
    match x.data {
        Slice::F64(_) => typed::<f64>(x, re, im),
        Slice::F32(_) => typed::<f32>(x, re, im),
        _ => Err(NoKernel),
    }
}

/// The real rows of length `n` whose transforms are given by their first n/2 + 1 frequencies,
/// unscaled: n times the inverse. The imaginary parts of frequency 0 and, for even n, n/2 are not
/// read.
///
/// # Errors
/// A type without a kernel.
pub fn complex_to_real(re: View<'_>, im: View<'_>, n: usize, out: SliceMut<'_>) -> Result<(), NoKernel> {
    fn typed<T: Float>(re: View<'_>, im: View<'_>, n: usize, mut out: SliceMut<'_>) -> Result<(), NoKernel> {
        let Some(out) = T::write(&mut out) else { return Err(NoKernel) };
        let plan = T::plans().real.lock().unwrap_or_else(PoisonError::into_inner).plan_fft_inverse(n);
        let half = n / 2 + 1;
        let mut row = plan.make_input_vec();
        let mut scratch = plan.make_scratch_vec();
        let (re, im) = (read::<T>(re), read::<T>(im));
        let rows = re.chunks_exact(half).zip(im.chunks_exact(half));
        for ((re, im), to) in rows.zip(out.chunks_exact_mut(n)) {
            for (k, c) in row.iter_mut().enumerate() {
                let single = k == 0 || 2 * k == n;
                *c = Complex { re: re[k], im: if single { T::default() } else { im[k] } };
            }
            plan.process_with_scratch(&mut row, to, &mut scratch).map_err(|_| NoKernel)?;
        }
        Ok(())
    }
    match re.data {
        Slice::F64(_) => typed::<f64>(re, im, n, out),
        Slice::F32(_) => typed::<f32>(re, im, n, out),
        _ => Err(NoKernel),
    }
}

/// The transform of complex rows, unscaled; with `inverse` that with the other sign.
///
/// # Errors
/// A type without a kernel.
pub fn complex(
    re: View<'_>,
    im: View<'_>,
    inverse: bool,
    out_re: SliceMut<'_>,
    out_im: SliceMut<'_>,
) -> Result<(), NoKernel> {
    fn typed<T: Float>(
        re: View<'_>,
        im: View<'_>,
        inverse: bool,
        mut out_re: SliceMut<'_>,
        mut out_im: SliceMut<'_>,
    ) -> Result<(), NoKernel> {
        let (Some(to_re), Some(to_im)) = (T::write(&mut out_re), T::write(&mut out_im)) else {
            return Err(NoKernel);
        };
        let n = last(re);
        let plan = {
            let mut planner = T::plans().complex.lock().unwrap_or_else(PoisonError::into_inner);
            if inverse { planner.plan_fft_inverse(n) } else { planner.plan_fft_forward(n) }
        };
        let mut scratch = vec![Complex::default(); plan.get_inplace_scratch_len()];
        let mut row = vec![Complex::default(); n];
        let (re, im) = (read::<T>(re), read::<T>(im));
        for (r, (re, im)) in re.chunks_exact(n).zip(im.chunks_exact(n)).enumerate() {
            for (c, (re, im)) in row.iter_mut().zip(re.iter().zip(im)) {
                *c = Complex { re: *re, im: *im };
            }
            plan.process_with_scratch(&mut row, &mut scratch);
            for (k, c) in row.iter().enumerate() {
                to_re[r * n + k] = c.re;
                to_im[r * n + k] = c.im;
            }
        }
        Ok(())
    }
    match re.data {
        Slice::F64(_) => typed::<f64>(re, im, inverse, out_re, out_im),
        Slice::F32(_) => typed::<f32>(re, im, inverse, out_re, out_im),
        _ => Err(NoKernel),
    }
}
