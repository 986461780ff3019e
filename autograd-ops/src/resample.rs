//! Resampling of images: adaptive average pooling, and upsampling by neighbours or lines.
//!
//! Each is a sparse matrix applied along a dimension, so each is linear, and the transpose of one
//! is the same primitive with the transposed matrix. Two dimensions are two applications.

use crate::numbers::{sound, with_extent};
use crate::registry::{Case, Family, Op, Sample};
use crate::saved::has;
use autograd_core::device::KernelCall;
use autograd_core::kernels::resample::{Table, resample as kernel};
use autograd_core::smallvec::{SmallVec, smallvec};
use autograd_core::{
    Error, Grads, Mask, Meta, Prim, Primitive, Result, Rule, Saved, Signature, Site, SliceMut, TrackedTensor,
    Transpose, Values, View, apply_one, checked_shape, is_float,
};
use std::sync::Arc;

/// The mean over h×w windows that cover …×H×W as evenly as they can: window i spans the rows
/// ⌊i·H/h⌋ .. ⌈(i + 1)·H/h⌉, as in PyTorch.
///
/// # Errors
/// Fewer than two dimensions, an empty image or target, a type that is not a float.
#[track_caller]
pub fn adaptive_avg_pool2d(x: &TrackedTensor, height: usize, width: usize) -> Result<TrackedTensor> {
    both("adaptive_avg_pool2d", Method::Mean, x, height, width)
}

/// The nearest element above and to the left: y[…, i] = x[…, ⌊i·L/l⌋] for …×L to …×l.
///
/// # Errors
/// No dimension, an empty input or target, a type that is not a float.
#[track_caller]
pub fn upsample_nearest1d(x: &TrackedTensor, size: usize) -> Result<TrackedTensor> {
    let last = last_dims("upsample_nearest1d", x, 1, &[size], Site::caller())?;
    along("upsample_nearest1d", Method::Nearest, x, last, size)
}

/// The nearest element above and to the left: y[…, i, j] = x[…, ⌊i·H/h⌋, ⌊j·W/w⌋].
///
/// # Errors
/// As [`adaptive_avg_pool2d`].
#[track_caller]
pub fn upsample_nearest2d(x: &TrackedTensor, height: usize, width: usize) -> Result<TrackedTensor> {
    both("upsample_nearest2d", Method::Nearest, x, height, width)
}

/// Bilinear interpolation of …×H×W to …×h×w. With `align_corners` the corner elements keep their
/// places, else the images' edges do, and elements beyond the outermost centres repeat them.
///
/// # Errors
/// As [`adaptive_avg_pool2d`].
#[track_caller]
pub fn upsample_bilinear2d(
    x: &TrackedTensor,
    height: usize,
    width: usize,
    align_corners: bool,
) -> Result<TrackedTensor> {
    both("upsample_bilinear2d", Method::Linear { align_corners }, x, height, width)
}

/// The first of the last `count` dimensions of x, after the checks that concern shapes.
fn last_dims(
    op: &'static str,
    x: &TrackedTensor,
    count: usize,
    sizes: &[usize],
    site: Site,
) -> Result<usize> {
    sound(x)?;
    let first =
        x.rank().checked_sub(count).filter(|&first| !x.dims()[first..].contains(&0) && !sizes.contains(&0));
    let first = first.ok_or_else(|| {
        let reason = format!("cannot resample the last {count} dimensions to {sizes:?}");
        Error::shape(op, &[*x.shape()], reason).or_at(site)
    })?;
    let dims: SmallVec<[usize; 8]> = x.dims()[..first].iter().chain(sizes).copied().collect();
    checked_shape(op, &dims).map_err(|e| e.or_at(site))?;
    Ok(first)
}

#[track_caller]
fn both(
    op: &'static str,
    method: Method,
    x: &TrackedTensor,
    height: usize,
    width: usize,
) -> Result<TrackedTensor> {
    let rows = last_dims(op, x, 2, &[height, width], Site::caller())?;
    // The smaller result first.
    if height.saturating_mul(x.dims()[rows + 1]) <= width.saturating_mul(x.dims()[rows]) {
        along(op, method, &along(op, method, x, rows, height)?, rows + 1, width)
    } else {
        along(op, method, &along(op, method, x, rows + 1, width)?, rows, height)
    }
}

#[track_caller]
fn along(
    op: &'static str,
    method: Method,
    x: &TrackedTensor,
    dim: usize,
    size: usize,
) -> Result<TrackedTensor> {
    let from = x.dims()[dim];
    apply_one(&Resample { op, method, dim, from, to: size, transposed: false }, &[x])
}

/// How an output is made of inputs.
#[derive(Clone, Copy, Debug)]
enum Method {
    Mean,
    Nearest,
    Linear { align_corners: bool },
}

impl Method {
    /// The matrix from extent `from` to extent `to`.
    fn table(self, from: usize, to: usize) -> Table {
        match self {
            Method::Mean => Table::new((0..to).map(|i| {
                let (start, end) = (i * from / to, ((i + 1) * from).div_ceil(to));
                (start..end).map(move |at| (at, 1.0 / (end - start) as f64))
            })),
            Method::Nearest => Table::new((0..to).map(|i| [(i * from / to, 1.0)])),
            Method::Linear { align_corners } => Table::new((0..to).map(|i| {
                let (i, n, m) = (i as f64, from as f64, to as f64);
                let at = match align_corners {
                    true if to > 1 => i * (n - 1.0) / (m - 1.0),
                    true => 0.0,
                    false => ((i + 0.5) * n / m - 0.5).max(0.0),
                };
                let low = (at as usize).min(from - 1);
                let share = at - low as f64;
                [(low, 1.0 - share), ((low + 1).min(from - 1), share)]
            })),
        }
    }
}

/// The method's matrix for `from` to `to`, or its transpose, applied along `dim`.
#[derive(Clone, Copy, Debug)]
struct Resample {
    op: &'static str,
    method: Method,
    dim: usize,
    from: usize,
    to: usize,
    transposed: bool,
}

crate::saved::datum! {
    enum Method { 0 => Mean {}, 1 => Nearest {}, 2 => Linear { align_corners } }
}

crate::saved::stored! {
    "resample" => Resample { op, method, dim, from, to, transposed }, |op, x| {
        has(x, 1, [op.dim]) && [op.from, op.to].iter().all(|n| (1..1 << 24).contains(n))
    };
}

impl Primitive for Resample {
    crate::saved::by_tag!();
    fn name(&self) -> &'static str {
        self.op
    }

    fn keep(&self) -> Prim {
        Prim::Shared(Arc::new(*self))
    }

    fn infer(&self, inputs: &[Meta]) -> Result<Signature> {
        let x = inputs[0];
        if !is_float(x.dtype) {
            return Err(Error::dtype(self.op, x.dtype, "convert to a float type with to_dtype"));
        }
        let (from, to) = if self.transposed { (self.to, self.from) } else { (self.from, self.to) };
        if x.shape.dims().get(self.dim) != Some(&from) {
            let reason = format!("dimension {} is not of extent {from}", self.dim);
            return Err(Error::shape(self.op, &[x.shape], reason));
        }
        Ok(Signature::one(x.with_shape(with_extent(&x.shape, self.dim, to))))
    }

    fn eval_into(&self, inputs: &[View<'_>], outputs: &mut [SliceMut<'_>]) -> Result<()> {
        let mut table = self.method.table(self.from, self.to);
        if self.transposed {
            table = table.transposed(self.from);
        }
        kernel(inputs[0], self.dim, &table, outputs[0].reborrow());
        Ok(())
    }

    crate::elsewhere::on_host!();
    fn kernel(&self) -> Option<KernelCall> {
        let method = match self.method {
            Method::Mean => 0,
            Method::Nearest => 1,
            Method::Linear { align_corners } => 2 + i64::from(align_corners),
        };
        let numbers = [self.dim as i64, method, self.from as i64, self.to as i64, i64::from(self.transposed)];
        Some(KernelCall::new("resample", &numbers, &[]))
    }
    fn rule(&self) -> Rule<'_> {
        Rule::Linear(Mask::one(0), self)
    }

    fn batch(&self, _: Mask, inputs: &[&TrackedTensor], _: usize) -> Result<Option<Values>> {
        Ok(Some(smallvec![apply_one(&Self { dim: self.dim + 1, ..*self }, inputs)?]))
    }
}

impl Transpose for Resample {
    fn transpose(&self, _: Mask, cts: &[Option<TrackedTensor>], _: &Saved<'_>) -> Result<Grads> {
        let op = Self { transposed: !self.transposed, ..*self };
        Ok(smallvec![cts[0].as_ref().map(|ct| apply_one(&op, &[ct])).transpose()?])
    }
}

/// The ops of this file.
pub fn ops() -> Vec<Op> {
    type Resize = fn(&TrackedTensor, usize, usize) -> Result<TrackedTensor>;
    fn sizes(resize: Resize) -> Vec<Case> {
        let case = |label, dims: &[usize], to: [usize; 2]| {
            Case::new(label, vec![Sample::float(dims)], move |x| resize(&x[0], to[0], to[1]))
        };
        vec![
            case("larger", &[1, 2, 3, 2], [5, 4]),
            case("smaller", &[2, 1, 5, 4], [2, 3]),
            case("to one", &[2, 3, 3], [1, 1]),
            case("from one", &[1, 1], [2, 3]),
            case("the same", &[1, 3, 2], [3, 2]),
            case("no images", &[0, 3, 2], [4, 4]),
        ]
    }
    let op = |name, formula, cases| Op { name, family: Family::Neural, formula, cases };
    vec![
        op("adaptive_avg_pool2d", "the mean over h×w windows that cover …×H×W evenly", || {
            sizes(adaptive_avg_pool2d)
        }),
        op("upsample_nearest2d", "y[…, i, j] = x[…, ⌊i·H/h⌋, ⌊j·W/w⌋]", || {
            sizes(upsample_nearest2d)
        }),
        op("upsample_nearest1d", "y[…, i] = x[…, ⌊i·L/l⌋]", || {
            vec![Case::new("5 to 8", vec![Sample::float(&[2, 5])], |x| upsample_nearest1d(&x[0], 8))]
        }),
        op("upsample_bilinear2d", "bilinear interpolation of …×H×W to …×h×w", || {
            let mut cases = sizes(|x, h, w| upsample_bilinear2d(x, h, w, false));
            cases.push(Case::new("corners aligned", vec![Sample::float(&[1, 3, 4])], |x| {
                upsample_bilinear2d(&x[0], 5, 7, true)
            }));
            cases
        }),
    ]
}

/// The methods of this file.
#[macro_export]
#[doc(hidden)]
macro_rules! resample_methods {
    ($($callback:tt)*) => {
        $($callback)* {
            unary {}
            binary {}
            other {
                /// The mean over height×width windows that cover …×H×W evenly.
                adaptive_avg_pool2d(height: usize, width: usize) -> TrackedTensor = $crate::resample::adaptive_avg_pool2d;
                /// Each element repeated towards a larger last dimension.
                upsample_nearest1d(size: usize) -> TrackedTensor = $crate::resample::upsample_nearest1d;
                /// Each element repeated towards a larger image.
                upsample_nearest2d(height: usize, width: usize) -> TrackedTensor = $crate::resample::upsample_nearest2d;
                /// candle's other name for `upsample_nearest1d`.
                interpolate1d(size: usize) -> TrackedTensor = $crate::resample::upsample_nearest1d;
                /// candle's other name for `upsample_nearest2d`.
                interpolate2d(height: usize, width: usize) -> TrackedTensor = $crate::resample::upsample_nearest2d;
                /// Bilinear interpolation of …×H×W.
                upsample_bilinear2d(height: usize, width: usize, align_corners: bool) -> TrackedTensor = $crate::resample::upsample_bilinear2d;
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use autograd_core::algebra;
    use autograd_tape::GradientTape;

    fn image(dims: &[usize]) -> TrackedTensor {
        let n: usize = dims.iter().product();
        TrackedTensor::from_vec((0..n).map(|i| (i as f64 * 0.7).sin()).collect(), dims).unwrap()
    }

    #[test]
    fn forward_values_are_candles() {
        let x = image(&[1, 2, 3, 4]);
        let t = x.tensor().unwrap();
        let close = |a: TrackedTensor, b: candle_core::Tensor| {
            assert_eq!(a.dims(), b.dims());
            let b = b.flatten_all().unwrap().to_vec1::<f64>().unwrap();
            assert!(a.to_flat::<f64>().unwrap().iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-12));
        };
        close(upsample_nearest2d(&x, 6, 8).unwrap(), t.upsample_nearest2d(6, 8).unwrap());
        for corners in [false, true] {
            let want = t.upsample_bilinear2d(5, 9, corners).unwrap();
            close(upsample_bilinear2d(&x, 5, 9, corners).unwrap(), want);
        }
    }

    // candle's rule overwrites what other uses of x have accumulated.
    #[test]
    fn a_second_use_of_the_input_adds_up() {
        let tape = GradientTape::new();
        let x = tape.variable(image(&[1, 2, 2]));
        let y = upsample_nearest2d(&x, 4, 4).unwrap();
        let sums = [
            algebra::sum_to(&y, &autograd_core::Shape::SCALAR).unwrap(),
            algebra::sum_to(&x, &autograd_core::Shape::SCALAR).unwrap(),
        ];
        let total = algebra::add(&sums[0], &sums[1]).unwrap();
        assert_eq!(tape.derivative(&total, &x).unwrap().to_flat::<f64>().unwrap(), [5.; 4]);
    }

    #[test]
    fn adaptive_windows_overlap_where_they_do_not_divide() {
        let x = TrackedTensor::from_vec(vec![1f64, 2., 3., 4., 5.], &[1, 5]).unwrap();
        let y = adaptive_avg_pool2d(&x, 1, 3).unwrap();
        assert_eq!(y.to_flat::<f64>().unwrap(), [1.5, 3., 4.5]);
    }

    #[test]
    fn what_does_not_fit_is_a_typed_error() {
        let x = image(&[2, 3]);
        assert!(matches!(upsample_nearest2d(&x, 0, 3), Err(Error::Shape { .. })));
        assert!(matches!(adaptive_avg_pool2d(&TrackedTensor::scalar(1.0), 1, 1), Err(Error::Shape { .. })));
        assert!(matches!(upsample_bilinear2d(&image(&[0, 3]), 2, 2, true), Err(Error::Shape { .. })));
    }
}
