//! Discrete Fourier transforms. A complex value is a pair: its real and its imaginary part.
//!
//! All are linear, and the transpose of each is another one, so derivatives of every order stay in
//! the family.

use crate::numbers::{Dim, dimension, with_batch};
use crate::registry::{Case, Family, Op, Sample};
use crate::shape::transpose;
use autograd_core::algebra::{cast, fill, mul, scale};
use autograd_core::kernels::fft as kernel;
use autograd_core::smallvec::{SmallVec, smallvec};
use autograd_core::{
    DType, Error, Grads, Mask, Meta, Prim, Primitive, Result, Rule, Saved, Signature, SliceMut,
    TrackedTensor, Transpose, Values, View, apply, apply_one,
};
use std::sync::Arc;

/// The transform of real numbers along a dimension of extent n: real and imaginary parts of
/// Xₖ = Σₜ xₜ·e^(−2πi·k·t/n) for k = 0 … n/2, which say all.
///
/// # Errors
/// No such dimension, or nothing in it; a type other than f64 and f32.
///
/// ```
/// use autograd_core::{Result, TrackedTensor};
/// use autograd_ops::fft::{irfft, rfft};
///
/// fn main() -> Result<()> {
///     let x = TrackedTensor::from_vec(vec![1f64, 0., 0., 0.], &[4])?;
///     let (re, im) = rfft(&x, -1)?;
///     assert_eq!(re.to_vec1::<f64>()?, [1., 1., 1.]);
///     assert_eq!(irfft(&re, &im, 4, -1)?.to_vec1::<f64>()?, [1., 0., 0., 0.]);
///     Ok(())
/// }
/// ```
#[track_caller]
pub fn rfft(x: &TrackedTensor, dim: impl Dim) -> Result<(TrackedTensor, TrackedTensor)> {
    let dim = dimension("rfft", dim, x)? as isize;
    let n = x.dims()[dim as usize];
    let made = apply(&RealToComplex(n), &[&transpose(x, dim, -1)?])?;
    pair("rfft", &made, dim)
}

/// The n real numbers whose transform is re + i·im along a dimension of extent n/2 + 1: the
/// inverse of [`rfft`]. The imaginary parts that a real sequence lacks (at 0, and at n/2 for even
/// n) are not read.
///
/// # Errors
/// As [`rfft`]; an extent that does not belong to n.
#[track_caller]
pub fn irfft(re: &TrackedTensor, im: &TrackedTensor, n: usize, dim: impl Dim) -> Result<TrackedTensor> {
    let dim = dimension("irfft", dim, re)? as isize;
    let parts = (transpose(re, dim, -1)?, transpose(im, dim, -1)?);
    let sum = apply_one(&ComplexToReal(n), &[&parts.0, &parts.1])?;
    transpose(&scale(&sum, 1.0 / n as f64)?, dim, -1)
}

/// The transform of complex numbers along a dimension of extent n:
/// Xₖ = Σₜ xₜ·e^(−2πi·k·t/n).
///
/// # Errors
/// As [`rfft`]; parts of different shapes.
#[track_caller]
pub fn fft(re: &TrackedTensor, im: &TrackedTensor, dim: impl Dim) -> Result<(TrackedTensor, TrackedTensor)> {
    let dim = dimension("fft", dim, re)? as isize;
    let made = apply(&Complex { inverse: false }, &[&transpose(re, dim, -1)?, &transpose(im, dim, -1)?])?;
    pair("fft", &made, dim)
}

/// The inverse of [`fft`]: xₜ = Σₖ Xₖ·e^(2πi·k·t/n) / n.
///
/// # Errors
/// As [`fft`].
#[track_caller]
pub fn ifft(re: &TrackedTensor, im: &TrackedTensor, dim: impl Dim) -> Result<(TrackedTensor, TrackedTensor)> {
    let dim = dimension("ifft", dim, re)? as isize;
    let n = re.dims()[dim as usize];
    let mut made = apply(&Complex { inverse: true }, &[&transpose(re, dim, -1)?, &transpose(im, dim, -1)?])?;
    for part in &mut made {
        *part = scale(part, 1.0 / n as f64)?;
    }
    pair("ifft", &made, dim)
}

fn pair(op: &'static str, made: &Values, dim: isize) -> Result<(TrackedTensor, TrackedTensor)> {
    match &made[..] {
        [re, im] => Ok((transpose(re, dim, -1)?, transpose(im, dim, -1)?)),
        _ => Err(Error::internal(op, "it has two outputs")),
    }
}

/// Real rows of this length to the first half of their frequencies.
#[derive(Clone, Copy, Debug)]
struct RealToComplex(usize);

/// The first half of the frequencies to real rows of this length, times that length.
#[derive(Clone, Copy, Debug)]
struct ComplexToReal(usize);

#[derive(Clone, Copy, Debug)]
struct Complex {
    inverse: bool,
}

/// The last extent, of a type that has a kernel.
fn row(op: &'static str, x: &Meta) -> Result<usize> {
    if !matches!(x.dtype, DType::F64 | DType::F32) {
        return Err(Error::dtype(op, x.dtype, "f64 and f32 are; convert with to_dtype"));
    }
    match x.shape.dims().last() {
        Some(&n) if n > 0 => Ok(n),
        _ => Err(Error::shape(op, &[x.shape], "there is nothing to transform")),
    }
}

fn alike(op: &'static str, inputs: &[Meta]) -> Result<()> {
    if inputs[0].shape != inputs[1].shape {
        let shapes = [inputs[0].shape, inputs[1].shape];
        return Err(Error::shape(op, &shapes, "real and imaginary parts differ"));
    }
    if inputs[0].dtype != inputs[1].dtype {
        let dtypes = vec![inputs[0].dtype, inputs[1].dtype];
        return Err(Error::DTypeMismatch { op, dtypes, at: Default::default() });
    }
    Ok(())
}

fn last(x: &Meta, extent: usize) -> Meta {
    let mut shape = x.shape;
    if let Some(last) = shape.dims_mut().last_mut() {
        *last = extent;
    }
    x.with_shape(shape)
}

/// The frequencies 0 … n/2, with `inside` for those that stand for two (k and n − k).
fn weights(n: usize, inside: f64, like: &TrackedTensor) -> Result<TrackedTensor> {
    let weight = |k| if k == 0 || 2 * k == n { 1.0 } else { inside };
    let weights: Vec<f64> = (0..=n / 2).map(weight).collect();
    let weights = TrackedTensor::from_vec(weights, &[n / 2 + 1])?;
    autograd_core::algebra::beside(cast(&weights, like.dtype())?, like)
}

/// Cotangents, zeros for none; `None` where all are zero.
fn filled(cts: &[Option<TrackedTensor>], metas: &[Meta]) -> Result<Option<(TrackedTensor, TrackedTensor)>> {
    let Some(like) = cts.iter().flatten().next() else { return Ok(None) };
    let of = |j: usize| cts[j].clone().map_or_else(|| fill(0.0, &metas[j], like), Ok);
    Ok(Some((of(0)?, of(1)?)))
}

macro_rules! rows {
    ($name:literal, $linear:expr) => {
        fn name(&self) -> &'static str {
            $name
        }
        fn keep(&self) -> Prim {
            Prim::Shared(Arc::new(*self))
        }
        fn rule(&self) -> Rule<'_> {
            Rule::Linear($linear, self)
        }
        fn batch(&self, batched: Mask, inputs: &[&TrackedTensor], size: usize) -> Result<Option<Values>> {
            let each = |(i, x): (usize, &&TrackedTensor)| with_batch(x, batched.has(i), size);
            let all: SmallVec<[TrackedTensor; 2]> =
                inputs.iter().enumerate().map(each).collect::<Result<_>>()?;
            Ok(Some(apply(self, &all.iter().collect::<SmallVec<[_; 2]>>())?))
        }
    };
}

fn no_kernel(op: &'static str) -> impl Fn(kernel::NoKernel) -> Error {
    move |_| Error::argument(op, "the kernels work on f64 and f32")
}

crate::saved::stored! {
    "rfft" => RealToComplex { 0 }, |op, x| x.len() == 1 && x[0].shape.dims().last() == Some(&op.0);
    "irfft" => ComplexToReal { 0 }, |_, x| x.len() == 2;
    "fft" => Complex { inverse }, |_, x| x.len() == 2;
}

impl Primitive for RealToComplex {
    crate::saved::by_tag!();
    rows!("rfft", Mask::one(0));
    fn infer(&self, inputs: &[Meta]) -> Result<Signature> {
        let half = last(&inputs[0], row("rfft", &inputs[0])? / 2 + 1);
        Ok(Signature { outputs: smallvec![half, half], aux: smallvec![] })
    }
    fn eval_into(&self, inputs: &[View<'_>], outputs: &mut [SliceMut<'_>]) -> Result<()> {
        let [re, im, ..] = outputs else { return Err(Error::internal("rfft", "it has two outputs")) };
        kernel::real_to_complex(inputs[0], re.reborrow(), im.reborrow()).map_err(no_kernel("rfft"))
    }
    crate::elsewhere::on_host!();
}

impl Transpose for RealToComplex {
    // x̄ₜ = Σₖ re̅ₖ·cos − im̅ₖ·sin over the half: a sum over all, with halves for those that count twice.
    fn transpose(&self, _: Mask, cts: &[Option<TrackedTensor>], saved: &Saved<'_>) -> Result<Grads> {
        let Some((re, im)) = filled(cts, saved.outputs)? else { return Ok(smallvec![None]) };
        let w = weights(self.0, 0.5, &re)?;
        Ok(smallvec![Some(apply_one(&ComplexToReal(self.0), &[&mul(&re, &w)?, &mul(&im, &w)?])?)])
    }
}

impl Primitive for ComplexToReal {
    crate::saved::by_tag!();
    rows!("irfft", Mask::first(2));
    fn infer(&self, inputs: &[Meta]) -> Result<Signature> {
        alike("irfft", inputs)?;
        let half = row("irfft", &inputs[0])?;
        if self.0 == 0 || half != self.0 / 2 + 1 {
            let reason = format!("{half} frequencies do not belong to {} numbers", self.0);
            return Err(Error::argument("irfft", reason));
        }
        Ok(Signature::one(last(&inputs[0], self.0)))
    }
    fn eval_into(&self, inputs: &[View<'_>], outputs: &mut [SliceMut<'_>]) -> Result<()> {
        kernel::complex_to_real(inputs[0], inputs[1], self.0, outputs[0].reborrow())
            .map_err(no_kernel("irfft"))
    }
    crate::elsewhere::on_host!();
}

impl Transpose for ComplexToReal {
    fn transpose(&self, wanted: Mask, cts: &[Option<TrackedTensor>], _: &Saved<'_>) -> Result<Grads> {
        let Some(ct) = &cts[0] else { return Ok(smallvec![None, None]) };
        let made = apply(&RealToComplex(self.0), &[ct])?;
        let w = weights(self.0, 2.0, ct)?;
        let part = |i: usize| wanted.has(i).then(|| mul(&made[i], &w)).transpose();
        Ok(smallvec![part(0)?, part(1)?])
    }
}

impl Primitive for Complex {
    crate::saved::by_tag!();
    rows!("fft", Mask::first(2));
    fn infer(&self, inputs: &[Meta]) -> Result<Signature> {
        alike("fft", inputs)?;
        row("fft", &inputs[0])?;
        Ok(Signature { outputs: smallvec![inputs[0], inputs[0]], aux: smallvec![] })
    }
    fn eval_into(&self, inputs: &[View<'_>], outputs: &mut [SliceMut<'_>]) -> Result<()> {
        let [re, im, ..] = outputs else { return Err(Error::internal("fft", "it has two outputs")) };
        kernel::complex(inputs[0], inputs[1], self.inverse, re.reborrow(), im.reborrow())
            .map_err(no_kernel("fft"))
    }
    crate::elsewhere::on_host!();
}

impl Transpose for Complex {
    // The matrix [[cos, sin], [−sin, cos]] turned over is that of the other sign.
    fn transpose(&self, wanted: Mask, cts: &[Option<TrackedTensor>], saved: &Saved<'_>) -> Result<Grads> {
        let Some((re, im)) = filled(cts, saved.outputs)? else { return Ok(smallvec![None, None]) };
        let made = apply(&Self { inverse: !self.inverse }, &[&re, &im])?;
        Ok(made.into_iter().enumerate().map(|(i, part)| Some(part).filter(|_| wanted.has(i))).collect())
    }
}

/// The ops of this file.
pub fn ops() -> Vec<Op> {
    let op = |name, formula, cases| Op { name, family: Family::Fourier, formula, cases };
    type Of = (&'static str, &'static [usize], isize);
    const SHAPES: [Of; 5] = [
        ("even", &[6], 0),
        ("odd", &[5], 0),
        ("one", &[1], -1),
        ("rows", &[2, 4], -1),
        ("columns", &[3, 2], 0),
    ];
    fn both((a, b): (TrackedTensor, TrackedTensor)) -> Vec<TrackedTensor> {
        vec![a, b]
    }
    vec![
        op("rfft", "Xₖ = Σₜ xₜ·e^(−2πi·k·t/n), k ≤ n/2", || {
            let case = |(label, dims, dim): Of| {
                Case::many(label, vec![Sample::float(dims)], move |x| rfft(&x[0], dim).map(both))
            };
            SHAPES.map(case).into()
        }),
        op("irfft", "the inverse of rfft", || {
            let case = |label, dims: &[usize], n, dim| {
                Case::new(label, vec![Sample::float(dims), Sample::float(dims)], move |x| {
                    irfft(&x[0], &x[1], n, dim)
                })
            };
            vec![
                case("even", &[4], 6, 0),
                case("odd", &[3], 5, 0),
                case("one", &[1], 1, 0),
                case("rows", &[2, 3], 4, -1),
                case("columns", &[2, 3], 3, 0),
            ]
        }),
        op("fft", "Xₖ = Σₜ xₜ·e^(−2πi·k·t/n)", || {
            let case = |(label, dims, dim): Of| {
                Case::many(label, vec![Sample::float(dims), Sample::float(dims)], move |x| {
                    fft(&x[0], &x[1], dim).map(both)
                })
            };
            SHAPES.map(case).into()
        }),
        op("ifft", "xₜ = Σₖ Xₖ·e^(2πi·k·t/n) / n", || {
            let case = |(label, dims, dim): Of| {
                Case::many(label, vec![Sample::float(dims), Sample::float(dims)], move |x| {
                    ifft(&x[0], &x[1], dim).map(both)
                })
            };
            SHAPES.map(case).into()
        }),
    ]
}

/// The methods of this file.
#[macro_export]
#[doc(hidden)]
macro_rules! fft_methods {
    ($($callback:tt)*) => {
        $($callback)* {
            unary {}
            binary {}
            other {
                /// Real and imaginary parts of the transform of real numbers along a dimension.
                rfft(dim: impl $crate::Dim) -> (autograd_core::TrackedTensor, autograd_core::TrackedTensor) = $crate::fft::rfft;
                /// The n real numbers whose transform has this real part.
                irfft(im: &autograd_core::TrackedTensor, n: usize, dim: impl $crate::Dim) -> autograd_core::TrackedTensor = $crate::fft::irfft;
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pull::{close, vector};

    #[test]
    fn known_transforms() -> Result<()> {
        let (re, im) = rfft(&vector(&[1., 2., 3., 4.]), 0)?;
        close(&re.to_vec1()?, &[10., -2., -2.]);
        close(&im.to_vec1()?, &[0., 2., 0.]);
        close(&irfft(&re, &im, 4, 0)?.to_vec1()?, &[1., 2., 3., 4.]);
        let (re, im) = fft(&vector(&[0., 1.]), &vector(&[1., 0.]), 0)?;
        close(&re.to_vec1()?, &[1., -1.]);
        close(&im.to_vec1()?, &[1., 1.]);
        Ok(())
    }

    #[test]
    fn what_cannot_be_transformed() {
        let error = irfft(&vector(&[1.; 3]), &vector(&[1.; 3]), 7, 0).expect_err("4 frequencies");
        assert!(error.to_string().contains("3 frequencies do not belong to 7 numbers"), "{error}");
        assert!(error.site().is_some_and(|site| site.file().ends_with("fft.rs")), "{error}");
        assert!(fft(&vector(&[1.]), &vector(&[1., 2.]), 0).is_err());
        assert!(rfft(&vector(&[]), 0).is_err());
        assert!(irfft(&vector(&[1.]), &vector(&[1.]), 0, 0).is_err());
    }
}
