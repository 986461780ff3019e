//! Convolution over three dimensions, as a sum of convolutions over the last two: one for each
//! tap of the kernel's depth. So its derivatives of every order are theirs.

use crate::conv::{ConvOptions, conv2d_with};
use crate::numbers::sound;
use crate::rearrange::pad_with_zeros;
use crate::registry::{Case, Family, Op, Sample};
use crate::shape::{contiguous, permute, reshape};
use crate::slice::{narrow, slice};
use autograd_core::algebra::add;
use autograd_core::{Error, Result, Site, TrackedTensor};

/// Parameters of a convolution over three dimensions: depth, rows, columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conv3dOptions {
    /// Zeros around the input.
    pub padding: [usize; 3],
    /// Steps of the kernel.
    pub stride: [usize; 3],
    /// Distances between the kernel's taps.
    pub dilation: [usize; 3],
    /// Groups of channels that do not see one another.
    pub groups: usize,
}

impl Default for Conv3dOptions {
    fn default() -> Self {
        Self { padding: [0; 3], stride: [1; 3], dilation: [1; 3], groups: 1 }
    }
}

/// y[n, o, d, i, j] = Σ k[o, c, a, p, q] · x[n, c, d·stride − padding + a·dilation, i·…, j·…].
///
/// x is N×C×D×H×W, the kernel O×(C/groups)×KD×KH×KW, the result N×O×OD×OH×OW with extents as in
/// [`conv2d`](crate::conv::conv2d). Linear in x and in the kernel.
///
/// # Errors
/// As [`conv2d`](crate::conv::conv2d).
#[track_caller]
pub fn conv3d(
    x: &TrackedTensor,
    kernel: &TrackedTensor,
    padding: usize,
    stride: usize,
    dilation: usize,
    groups: usize,
) -> Result<TrackedTensor> {
    let options =
        Conv3dOptions { padding: [padding; 3], stride: [stride; 3], dilation: [dilation; 3], groups };
    conv3d_with(x, kernel, &options)
}

/// [`conv3d`] with parameters that differ between the dimensions.
///
/// # Errors
/// As [`conv3d`].
#[track_caller]
pub fn conv3d_with(
    x: &TrackedTensor,
    kernel: &TrackedTensor,
    options: &Conv3dOptions,
) -> Result<TrackedTensor> {
    sound(x)?;
    sound(kernel)?;
    let site = Site::caller();
    let shapes = [*x.shape(), *kernel.shape()];
    let wrong = |reason: &str| Error::shape("conv3d", &shapes, reason).or_at(site);
    let (&[n, _, depth, _, _], &[o, per_group, taps, kh, kw]) = (x.dims(), kernel.dims()) else {
        return Err(wrong("x is N×C×D×H×W and the kernel O×C×KD×KH×KW"));
    };
    let (stride, dilation) = (options.stride[0], options.dilation[0]);
    if stride == 0 || dilation == 0 || taps == 0 {
        return Err(wrong("stride, dilation and kernel are at least 1"));
    }
    let padding = options.padding[0];
    let whole = padding.checked_mul(2).and_then(|around| around.checked_add(depth));
    let span = dilation.checked_mul(taps - 1).and_then(|reach| reach.checked_add(1));
    let Some((whole, span)) = whole.zip(span).filter(|(whole, span)| span <= whole) else {
        return Err(wrong("the kernel is deeper than the padded input"));
    };
    let out_depth = (whole - span) / stride + 1;
    let options = ConvOptions {
        padding: [options.padding[1], options.padding[2]],
        stride: [options.stride[1], options.stride[2]],
        dilation: [options.dilation[1], options.dilation[2]],
        groups: options.groups,
    };
    let planes = Planes::of(x, stride)?;
    let part = |tap: usize, seen: &TrackedTensor, before: usize, after: usize| {
        let plane = reshape(&narrow(kernel, 2, tap, 1)?, [o, per_group, kh, kw])?;
        let part = conv2d_with(seen, &plane, &options).map_err(|e| e.or_at(site))?;
        pad_with_zeros(&part, 0, n * before, n * after)
    };
    let mut sum: Option<TrackedTensor> = None;
    for tap in 0..taps {
        // Zeros in depth are not there: what reads nothing else is left out.
        let offset = tap * dilation;
        let first = padding.saturating_sub(offset).div_ceil(stride);
        let behind = (depth + padding).saturating_sub(offset).div_ceil(stride).min(out_depth);
        if first < behind {
            let seen = planes.of_tap(first * stride + offset - padding, behind - first)?;
            let part = part(tap, &seen, first, out_depth - behind)?;
            sum = Some(match sum {
                Some(sum) => add(&sum, &part)?,
                None => part,
            });
        }
    }
    let sum = match sum {
        Some(sum) => sum,
        None => part(0, &planes.of_tap(0, 0)?, 0, out_depth)?,
    };
    let [_, _, oh, ow] = *sum.dims() else { return Err(wrong("a plane has four dimensions")) };
    permute(&reshape(&sum, [out_depth, n, o, oh, ow])?, [1, 2, 0, 3, 4])
}

/// The planes of a volume D×N×C×H×W, with depth in front. Those that are `stride` apart lie one
/// behind the other, so that what a tap of the kernel reads is a view: the backward pass needs the
/// volume once, and not once for each tap.
struct Planes {
    phases: Vec<TrackedTensor>,
    stride: usize,
    shape: [usize; 3],
    n: usize,
}

impl Planes {
    /// Of x, N×C×D×H×W.
    fn of(x: &TrackedTensor, stride: usize) -> Result<Self> {
        let &[n, c, depth, h, w] = x.dims() else {
            return Err(Error::internal("conv3d", "its input has five dimensions"));
        };
        let front = permute(x, [2, 0, 1, 3, 4])?;
        let phase = |phase: usize| {
            let planes = slice(&front, 0, phase as isize, depth as isize, stride)?;
            // One volume's planes are views as they are.
            if n > 1 { contiguous(&planes) } else { Ok(planes) }
        };
        let phases = (0..stride.min(depth).max(1)).map(phase).collect::<Result<_>>()?;
        Ok(Self { phases, stride, shape: [c, h, w], n })
    }

    /// `count` planes from `first` on in steps of the stride, (count·N)×C×H×W.
    fn of_tap(&self, first: usize, count: usize) -> Result<TrackedTensor> {
        let [c, h, w] = self.shape;
        let planes = narrow(&self.phases[first % self.stride], 0, first / self.stride, count)?;
        reshape(&planes, [count * self.n, c, h, w])
    }
}

/// The ops of this file.
pub fn ops() -> Vec<Op> {
    fn case(label: &str, x: &[usize], kernel: &[usize], options: Conv3dOptions) -> Case {
        Case::new(label, vec![Sample::float(x), Sample::float(kernel)], move |v| {
            conv3d_with(&v[0], &v[1], &options)
        })
    }
    let cases = || {
        let plain = Conv3dOptions::default();
        vec![
            case("plain", &[1, 2, 3, 3, 3], &[2, 2, 2, 2, 2], plain),
            case(
                "stride and padding",
                &[2, 1, 4, 3, 3],
                &[1, 1, 3, 2, 2],
                Conv3dOptions { stride: [2, 1, 2], padding: [1, 0, 1], ..plain },
            ),
            case(
                "dilation",
                &[1, 1, 5, 3, 4],
                &[2, 1, 2, 2, 2],
                Conv3dOptions { dilation: [3, 1, 2], ..plain },
            ),
            case("groups", &[1, 4, 2, 2, 2], &[2, 2, 2, 1, 2], Conv3dOptions { groups: 2, ..plain }),
        ]
    };
    vec![Op { name: "conv3d", family: Family::Neural, formula: "Σ k · x over windows of a volume", cases }]
}

/// The methods of this file.
#[macro_export]
#[doc(hidden)]
macro_rules! conv3d_methods {
    ($($callback:tt)*) => {
        $($callback)* {
            unary {}
            binary {}
            other {
                /// The convolution of N×C×D×H×W with a kernel O×(C/groups)×KD×KH×KW.
                conv3d(kernel: &autograd_core::TrackedTensor, padding: usize, stride: usize, dilation: usize, groups: usize) -> autograd_core::TrackedTensor = $crate::conv3d::conv3d;
                /// The same with parameters that differ between depth, rows and columns.
                conv3d_with(kernel: &autograd_core::TrackedTensor, options: &$crate::conv3d::Conv3dOptions) -> autograd_core::TrackedTensor = $crate::conv3d::conv3d_with;
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Windows of nothing but zeros are zeros: all of them, some of them, or of an empty volume.
    #[test]
    fn windows_beside_the_volume_are_zero() -> Result<()> {
        let x = TrackedTensor::from_vec(vec![1f64, 2.], &[2, 1, 1, 1, 1])?;
        let kernel = TrackedTensor::from_vec(vec![3f64], &[1, 1, 1, 1, 1])?;
        let beside = Conv3dOptions { padding: [2, 0, 0], stride: [3, 1, 1], ..Conv3dOptions::default() };
        let y = conv3d_with(&x, &kernel, &beside)?;
        assert_eq!((y.dims(), y.to_flat::<f64>()?), (&[2, 1, 2, 1, 1][..], vec![0.0; 4]));
        let around = Conv3dOptions { padding: [2, 0, 0], ..Conv3dOptions::default() };
        let y = conv3d_with(&x, &kernel, &around)?;
        assert_eq!(y.to_flat::<f64>()?, [0., 0., 3., 0., 0., 0., 0., 6., 0., 0.]);
        let empty = TrackedTensor::from_vec(Vec::<f64>::new(), &[2, 1, 0, 1, 1])?;
        assert_eq!(conv3d_with(&empty, &kernel, &around)?.to_flat::<f64>()?, vec![0.0; 8]);
        Ok(())
    }

    /// A kernel of ones sums each window.
    #[test]
    fn windows_of_a_volume() -> Result<()> {
        let x = TrackedTensor::from_vec((0..27).map(f64::from).collect(), &[1, 1, 3, 3, 3])?;
        let ones = TrackedTensor::from_vec(vec![1f64; 8], &[1, 1, 2, 2, 2])?;
        let y = conv3d(&x, &ones, 0, 1, 1, 1)?;
        assert_eq!(y.dims(), [1, 1, 2, 2, 2]);
        // 0 + 1 + 3 + 4 + 9 + 10 + 12 + 13, and 8 more for each column, 24 a row, 72 a plane.
        assert_eq!(y.to_flat::<f64>()?, [52., 60., 76., 84., 124., 132., 148., 156.]);
        assert_eq!(conv3d(&x, &ones, 1, 3, 1, 1)?.to_flat::<f64>()?[0], 0.0);
        let error = conv3d(&x, &TrackedTensor::from_vec(vec![1f64; 4], &[1, 1, 4, 1, 1])?, 0, 1, 1, 1);
        assert!(error.expect_err("too deep").to_string().contains("deeper than the padded input"));
        Ok(())
    }
}
