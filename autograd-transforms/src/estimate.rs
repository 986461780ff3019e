//! Derivatives by random directions: unbiased estimates with their standard errors.

use crate::batch::vmap;
use crate::reverse::grad;
use autograd_core::algebra::{add_scalar, cast, mul, reshape, scale, sub, sum_to};
use autograd_core::smallvec::SmallVec;
use autograd_core::{At, Error, Result, Shape, Site, TrackedTensor, Tree, is_float};
use autograd_forward::jvp;
use autograd_ops::{TensorAutograd, random};

/// The mean of samples and how far it may be off: of a number, or of a tree of values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate<P> {
    /// The mean.
    pub mean: P,
    /// The standard error of each element of the mean: √(s²/n), from the samples' own variance.
    pub standard_error: P,
    /// How many samples were taken.
    pub samples: usize,
}

/// An estimate of ∇f by forward mode alone: the mean of (∇f·v)·v over normal directions v
/// (Baydin et al. 2022). Unbiased, in the memory of an evaluation; its variance grows with the
/// number of parameters, and the standard error says how far.
///
/// # Errors
/// [`Error::InvalidArgument`] for fewer than two samples; [`Error::NonScalarTarget`] where `f`
/// gives more than one element; [`Error::NotDifferentiable`] for integers among the primals; what
/// `f` reports.
///
/// ```
/// use autograd_core::{Result, TrackedTensor};
/// use autograd_ops::{TensorAutograd, random};
/// use autograd_transforms::forward_gradient;
///
/// fn main() -> Result<()> {
///     let x = TrackedTensor::from_vec(vec![1f64, 2.], &[2])?;
///     let estimate = forward_gradient(|x| x.sqr()?.sum(), &x, 2000, &random::key(1))?;
///     let (mean, error) = (estimate.mean.to_vec1::<f64>()?, estimate.standard_error.to_vec1::<f64>()?);
///     assert!((mean[0] - 2.0).abs() < 4.0 * error[0]);
///     assert!((mean[1] - 4.0).abs() < 4.0 * error[1]);
///     Ok(())
/// }
/// ```
#[track_caller]
pub fn forward_gradient<P: Tree + ?Sized>(
    f: impl Fn(&P::Owned) -> Result<TrackedTensor>,
    primals: &P,
    samples: usize,
    key: &TrackedTensor,
) -> Result<Estimate<P::Owned>> {
    let site = Site::caller();
    let directions = directions("forward_gradient", primals, samples, key, Law::Normal, site)?;
    let sample = |v: &P::Owned| {
        let (y, slope) = jvp(&f, primals, v)?;
        if y.elem_count() != 1 {
            return Err(Error::NonScalarTarget { shape: *y.shape(), at: At::from(site) });
        }
        let slope = reshape(&slope, &Shape::SCALAR)?;
        v.rebuild(&mut |v| mul(v, &slope))
    };
    let drawn = vmap(sample, &directions, 0).map_err(|e| e.or_at(site))?;
    summarise(primals, &drawn, samples)
}

/// An estimate of the Hessian's diagonal: the mean of v ⊙ H·v over random signs v (Bekas et al.
/// 2007; its sum is Hutchinson's estimate of the trace). The error comes from the entries beside
/// the diagonal; [`hessian_diagonal`](crate::hessian_diagonal) is exact.
///
/// # Errors
/// As [`forward_gradient`].
///
/// ```
/// use autograd_core::{Result, TrackedTensor};
/// use autograd_ops::{TensorAutograd, random};
/// use autograd_transforms::estimate_hessian_diagonal;
///
/// fn main() -> Result<()> {
///     // A diagonal Hessian is found without error.
///     let x = TrackedTensor::from_vec(vec![1f64, 2.], &[2])?;
///     let found = estimate_hessian_diagonal(|x| x.pow(3)?.sum(), &x, 2, &random::key(1))?;
///     assert_eq!(found.mean.to_vec1::<f64>()?, [6., 12.]);
///     assert_eq!(found.standard_error.to_vec1::<f64>()?, [0., 0.]);
///     Ok(())
/// }
/// ```
#[track_caller]
pub fn estimate_hessian_diagonal<P: Tree + ?Sized>(
    f: impl Fn(&P::Owned) -> Result<TrackedTensor>,
    primals: &P,
    samples: usize,
    key: &TrackedTensor,
) -> Result<Estimate<P::Owned>> {
    let site = Site::caller();
    let directions = directions("estimate_hessian_diagonal", primals, samples, key, Law::Signs, site)?;
    let sample = |v: &P::Owned| {
        let (_, hv) = jvp(|x| grad(&f, x), primals, v)?;
        let mut hv = hv.leaves().into_iter();
        v.rebuild(&mut |v| {
            let hv = hv.next().ok_or_else(|| Error::internal("hvp", "a leaf is missing"))?;
            mul(v, hv)
        })
    };
    let drawn = vmap(sample, &directions, 0).map_err(|e| e.or_at(site))?;
    summarise(primals, &drawn, samples)
}

#[derive(Clone, Copy, Debug)]
enum Law {
    Normal,
    Signs,
}

/// Independent directions in the shape of the primals, the samples in front.
fn directions<P: Tree + ?Sized>(
    op: &'static str,
    primals: &P,
    samples: usize,
    key: &TrackedTensor,
    law: Law,
    site: Site,
) -> Result<P::Owned> {
    if samples < 2 {
        let reason = format!("{samples} samples given; an error estimate needs two or more");
        return Err(Error::argument(op, reason).or_at(site));
    }
    let leaves = primals.leaves().len();
    let mut keys = random::split(key, leaves.max(1)).map_err(|e| e.or_at(site))?.into_iter();
    primals.rebuild(&mut |x| {
        if let Some(error) = x.failure() {
            return Err(error.clone().or_at(site));
        }
        if !is_float(x.dtype()) {
            return Err(Error::NotDifferentiable { dtype: x.dtype(), at: At::from(site) });
        }
        let dims: SmallVec<[usize; 9]> = std::iter::once(samples).chain(x.dims().iter().copied()).collect();
        let key = keys.next().ok_or_else(|| Error::internal(op, "a key is missing"))?;
        match law {
            Law::Normal => random::normal(&key, &dims, x.dtype()),
            Law::Signs => {
                let drawn = random::uniform(&key, &dims, x.dtype())?;
                add_scalar(&scale(&cast(&drawn.ge(0.5)?, x.dtype())?, 2.0)?, -1.0)
            }
        }
        .map_err(|e| e.or_at(site))
    })
}

/// Mean and standard error over the first dimension.
fn summarise<P: Tree + ?Sized>(primals: &P, drawn: &P::Owned, n: usize) -> Result<Estimate<P::Owned>> {
    let mut leaves = drawn.leaves().into_iter().zip(primals.leaves()).map(|(drawn, x)| {
        let mean = scale(&sum_to(drawn, x.shape())?, 1.0 / n as f64)?;
        let deviation = sub(drawn, &mean)?;
        let spread = sum_to(&mul(&deviation, &deviation)?, x.shape())?;
        let error = scale(&spread, 1.0 / (n as f64 * (n as f64 - 1.0)))?.sqrt()?;
        Ok((mean, error))
    });
    let mut errors = Vec::new();
    let mean = primals.rebuild(&mut |_| {
        let (mean, error) =
            leaves.next().unwrap_or_else(|| Err(Error::internal("estimate", "a leaf is missing")))?;
        errors.push(error);
        Ok(mean)
    })?;
    Ok(Estimate { mean, standard_error: primals.with_leaves(errors)?, samples: n })
}
