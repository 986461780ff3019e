//! Rearrangements that move elements: flip, roll, padding, triangles.

use crate::elsewhere;
use crate::join::cat;
use crate::numbers::{Dim, Numbers, dimension, dimensions, sound, with_batch, with_extent};
use crate::registry::{Case, Family, Op, Sample};
use crate::saved::has;
use crate::slice::slice_assign;
use autograd_core::algebra::{broadcast_to, fill, narrow};
use autograd_core::device::{KernelCall, Tensors};
use autograd_core::kernels::{Element, Layout, index, triangle};
use autograd_core::smallvec::{SmallVec, smallvec};
use autograd_core::{
    Error, Grads, Mask, Meta, Prim, Primitive, Result, Rule, Saved, Shape, Signature, Site, SliceMut,
    TrackedTensor, Transpose, Values, View, apply_one, checked_shape,
};
use std::ops::Range;
use std::sync::Arc;

/// Its input with one dimension in the opposite order: its own transpose.
#[derive(Clone, Copy, Debug)]
struct Flip {
    dim: usize,
}

/// x with the given dimensions in the opposite order.
///
/// # Errors
/// A dimension that x does not have, or one named twice.
#[track_caller]
pub fn flip(x: &TrackedTensor, dims: impl Numbers) -> Result<TrackedTensor> {
    let mut y = x.clone();
    for dim in dimensions("flip", &dims.list(), x)? {
        y = apply_one(&Flip { dim }, &[&y])?;
    }
    Ok(y)
}

crate::saved::stored! {
    "flip" => Flip { dim }, |op, x| has(x, 1, [op.dim]);
    "triangle" => Triangle { upper, diagonal }, |_, x| x.len() == 1;
}

impl Primitive for Flip {
    crate::saved::by_tag!();
    fn name(&self) -> &'static str {
        "flip"
    }
    fn keep(&self) -> Prim {
        Prim::Shared(Arc::new(*self))
    }
    fn infer(&self, inputs: &[Meta]) -> Result<Signature> {
        Ok(Signature::one(inputs[0]))
    }
    fn eval_into(&self, inputs: &[View<'_>], outputs: &mut [SliceMut<'_>]) -> Result<()> {
        let n = inputs[0].layout.dims()[self.dim];
        let order: Vec<i64> = (0..n as i64).rev().collect();
        let layout = Layout::contiguous(Shape::new(&[n]));
        let order = View { data: i64::slice(&order), layout: &layout };
        index::index_select(inputs[0], self.dim, order, outputs[0].reborrow());
        Ok(())
    }
    fn eval_candle(&self, inputs: &[autograd_core::Tensor]) -> Result<Option<Tensors>> {
        let x = &inputs[0];
        let n = u32::try_from(x.dims()[self.dim])
            .map_err(|_| Error::argument("flip", "more than 2³² elements along a dimension"))?;
        let order: Vec<u32> = (0..n).rev().collect();
        let order = autograd_core::Tensor::from_vec(order, n as usize, x.device())?;
        elsewhere::one(if x.elem_count() == 0 {
            x.clone()
        } else {
            x.contiguous()?.index_select(&order, self.dim)?
        })
    }
    fn kernel(&self) -> Option<KernelCall> {
        Some(KernelCall::new("flip", &[self.dim as i64], &[]))
    }
    fn rule(&self) -> Rule<'_> {
        Rule::Linear(Mask::one(0), self)
    }
    fn batch(&self, _: Mask, inputs: &[&TrackedTensor], _: usize) -> Result<Option<Values>> {
        Ok(Some(smallvec![apply_one(&Self { dim: self.dim + 1 }, inputs)?]))
    }
}

impl Transpose for Flip {
    fn transpose(&self, _: Mask, cts: &[Option<TrackedTensor>], _: &Saved<'_>) -> Result<Grads> {
        let back = |ct: &TrackedTensor| apply_one(self, &[ct]);
        Ok(smallvec![cts[0].as_ref().map(back).transpose()?])
    }
}

/// x moved `shift` places along `dim`, what leaves at one end coming back at the other.
///
/// # Errors
/// A dimension that x does not have.
#[track_caller]
pub fn roll(x: &TrackedTensor, shift: isize, dim: impl Dim) -> Result<TrackedTensor> {
    let d = dimension("roll", dim, x)?;
    let n = x.dims()[d];
    if n == 0 {
        return Ok(x.clone());
    }
    let shift = shift.rem_euclid(n as isize) as usize;
    if shift == 0 {
        return Ok(x.clone());
    }
    cat(&[narrow(x, d, n - shift, shift)?, narrow(x, d, 0, n - shift)?], dim)
}

/// The extents around x, one pair for each dimension.
type Margins = SmallVec<[(usize, usize); 8]>;

/// One pair of margins for each of the last dimensions, the last one first, as PyTorch's `pad` has
/// it; zero for the others.
#[track_caller]
fn margins(x: &TrackedTensor, pairs: &[(usize, usize)]) -> Result<Margins> {
    sound(x)?;
    if pairs.len() > x.rank() {
        let reason = format!("{} pairs of margins", pairs.len());
        return Err(Error::shape("pad", &[*x.shape()], reason).or_at(Site::caller()));
    }
    let mut all: Margins = smallvec![(0, 0); x.rank()];
    for (slot, &pair) in all.iter_mut().rev().zip(pairs) {
        *slot = pair;
    }
    Ok(all)
}

/// x with `value` around it: one pair (before, after) for each of the last dimensions, beginning
/// with the last one (PyTorch's order).
///
/// # Errors
/// More pairs than dimensions.
#[track_caller]
pub fn pad(x: &TrackedTensor, pairs: &[(usize, usize)], value: f64) -> Result<TrackedTensor> {
    let margins = margins(x, pairs)?;
    let sum = |(&extent, (before, after)): (&usize, &(usize, usize))| {
        let too_much =
            || Error::argument("pad", format!("{before} and {after} around {extent} are too much"));
        before.checked_add(*after).and_then(|around| around.checked_add(extent)).ok_or_else(too_much)
    };
    let extents = x.dims().iter().zip(&margins).map(sum).collect::<Result<SmallVec<[usize; 8]>>>();
    let whole = checked_shape("pad", &extents.map_err(|e| e.or_at(Site::caller()))?)?;
    let ranges = x.dims().iter().zip(&margins).map(|(&extent, &(before, _))| before..before + extent);
    let ranges: SmallVec<[Range<usize>; 8]> = ranges.collect();
    let around = fill(value, &x.meta().with_shape(whole), x)?;
    slice_assign(&around, &ranges, x)
}

/// x with zeros around it along `dim`: candle's name.
///
/// # Errors
/// A dimension that x does not have.
#[track_caller]
pub fn pad_with_zeros(
    x: &TrackedTensor,
    dim: impl Dim,
    before: usize,
    after: usize,
) -> Result<TrackedTensor> {
    let d = dimension("pad_with_zeros", dim, x)?;
    let mut pairs: SmallVec<[(usize, usize); 8]> = smallvec![(0, 0); x.rank()];
    pairs[x.rank() - 1 - d] = (before, after);
    pad(x, &pairs, 0.0)
}

/// x with its first and last slices along `dim` repeated around it: candle's name.
///
/// # Errors
/// A dimension that x does not have, or an empty one.
#[track_caller]
pub fn pad_with_same(x: &TrackedTensor, dim: impl Dim, before: usize, after: usize) -> Result<TrackedTensor> {
    let dim = dimension("pad_with_same", dim, x)?;
    repeated(x, dim, (before, after))
}

/// x with its border repeated around it (PyTorch's `replicate`); pairs as in [`pad`].
///
/// # Errors
/// More pairs than dimensions; a padded dimension that is empty.
#[track_caller]
pub fn pad_replicate(x: &TrackedTensor, pairs: &[(usize, usize)]) -> Result<TrackedTensor> {
    let mut y = x.clone();
    for (dim, &pair) in margins(x, pairs)?.iter().enumerate().filter(|(_, pair)| **pair != (0, 0)) {
        y = repeated(&y, dim, pair)?;
    }
    Ok(y)
}

/// x mirrored around its border, which is not repeated (PyTorch's `reflect`); pairs as in [`pad`].
///
/// # Errors
/// More pairs than dimensions; margins that are not smaller than the extent.
#[track_caller]
pub fn pad_reflect(x: &TrackedTensor, pairs: &[(usize, usize)]) -> Result<TrackedTensor> {
    let mut y = x.clone();
    for (dim, &(before, after)) in margins(x, pairs)?.iter().enumerate().filter(|(_, pair)| **pair != (0, 0))
    {
        if before.max(after) >= x.dims()[dim] {
            let reason =
                format!("margins {before} and {after} along dimension {dim} are not smaller than it");
            return Err(Error::shape("pad_reflect", &[*x.shape()], reason).or_at(Site::caller()));
        }
        let last = y.dims()[dim] - 1;
        let front = flip(&narrow(&y, dim, 1, before)?, dim)?;
        let back = flip(&narrow(&y, dim, last - after, after)?, dim)?;
        y = cat(&[front, y, back], dim)?;
    }
    Ok(y)
}

/// x with its first and last slices along `dim` repeated around it. Nothing is kept.
#[track_caller]
fn repeated(x: &TrackedTensor, dim: usize, (before, after): (usize, usize)) -> Result<TrackedTensor> {
    let n = x.dims()[dim];
    if n == 0 {
        let reason = format!("dimension {dim} is empty: there is nothing to repeat");
        return Err(Error::shape("pad", &[*x.shape()], reason).or_at(Site::caller()));
    }
    let mut dims: SmallVec<[usize; 8]> = SmallVec::from_slice(x.dims());
    let whole = before.checked_add(after).and_then(|around| around.checked_add(n));
    dims[dim] = whole.unwrap_or(usize::MAX);
    checked_shape("pad", &dims).map_err(|e| e.or_at(Site::caller()))?;
    let slices =
        |at: usize, count: usize| broadcast_to(&narrow(x, dim, at, 1)?, &with_extent(x.shape(), dim, count));
    cat(&[slices(0, before)?, x.clone(), slices(n - 1, after)?], dim)
}

/// A triangle of each matrix, zeros elsewhere: its own transpose.
#[derive(Clone, Copy, Debug)]
struct Triangle {
    upper: bool,
    diagonal: isize,
}

/// The lower triangle of each matrix of x: elements with column − row ≤ `diagonal`; zeros elsewhere.
///
/// # Errors
/// Fewer than two dimensions.
#[track_caller]
pub fn tril(x: &TrackedTensor, diagonal: isize) -> Result<TrackedTensor> {
    apply_one(&Triangle { upper: false, diagonal }, &[x])
}

/// The upper triangle of each matrix of x: elements with column − row ≥ `diagonal`; zeros elsewhere.
///
/// # Errors
/// Fewer than two dimensions.
#[track_caller]
pub fn triu(x: &TrackedTensor, diagonal: isize) -> Result<TrackedTensor> {
    apply_one(&Triangle { upper: true, diagonal }, &[x])
}

impl Primitive for Triangle {
    crate::saved::by_tag!();
    fn name(&self) -> &'static str {
        if self.upper { "triu" } else { "tril" }
    }
    fn keep(&self) -> Prim {
        Prim::Shared(Arc::new(*self))
    }
    fn infer(&self, inputs: &[Meta]) -> Result<Signature> {
        if inputs[0].shape.rank() < 2 {
            return Err(Error::shape(self.name(), &[inputs[0].shape], "two dimensions or more are needed"));
        }
        Ok(Signature::one(inputs[0]))
    }
    fn eval_into(&self, inputs: &[View<'_>], outputs: &mut [SliceMut<'_>]) -> Result<()> {
        triangle::triangle(self.upper, self.diagonal, inputs[0], outputs[0].reborrow());
        Ok(())
    }
    fn eval_candle(&self, inputs: &[autograd_core::Tensor]) -> Result<Option<Tensors>> {
        let x = &inputs[0];
        let [.., rows, columns] = *x.dims() else { return Ok(None) };
        let inside = |(i, j): (usize, usize)| {
            let right = j as i64 - i as i64;
            u8::from(if self.upper { right >= self.diagonal as i64 } else { right <= self.diagonal as i64 })
        };
        let mask: Vec<u8> = (0..rows * columns).map(|k| inside((k / columns, k % columns))).collect();
        let mask = autograd_core::Tensor::from_vec(mask, (rows, columns), x.device())?;
        let mask = mask.broadcast_as(x.shape())?.contiguous()?;
        elsewhere::one(mask.where_cond(&x.contiguous()?, &x.zeros_like()?)?)
    }
    fn kernel(&self) -> Option<KernelCall> {
        Some(KernelCall::new("triangle", &[i64::from(self.upper), self.diagonal as i64], &[]))
    }
    fn rule(&self) -> Rule<'_> {
        Rule::Linear(Mask::one(0), self)
    }
    fn batch(&self, batched: Mask, inputs: &[&TrackedTensor], size: usize) -> Result<Option<Values>> {
        Ok(Some(smallvec![apply_one(self, &[&with_batch(inputs[0], batched.has(0), size)?])?]))
    }
}

impl Transpose for Triangle {
    fn transpose(&self, _: Mask, cts: &[Option<TrackedTensor>], _: &Saved<'_>) -> Result<Grads> {
        let back = |ct: &TrackedTensor| apply_one(self, &[ct]);
        Ok(smallvec![cts[0].as_ref().map(back).transpose()?])
    }
}

/// The ops of this file.
pub fn ops() -> Vec<Op> {
    let op = |name, formula, cases| Op { name, family: Family::Shape, formula, cases };
    fn one(
        label: &str,
        dims: &[usize],
        run: impl Fn(&TrackedTensor) -> Result<TrackedTensor> + Send + Sync + 'static,
    ) -> Case {
        Case::new(label, vec![Sample::float(dims)], move |x| run(&x[0]))
    }
    vec![
        op("flip", "dimensions in the opposite order", || {
            vec![
                one("rows", &[3, 2], |x| flip(x, 0)),
                one("both", &[2, 3], |x| flip(x, (0, -1))),
                one("empty", &[0, 2], |x| flip(x, 0)),
            ]
        }),
        op("roll", "moved along a dimension, around the end", || {
            vec![
                one("forwards", &[2, 4], |x| roll(x, 1, -1)),
                one("backwards", &[5, 2], |x| roll(x, -7, 0)),
                one("by nothing", &[3], |x| roll(x, 3, 0)),
            ]
        }),
        op("pad", "a number around x", || {
            vec![
                one("zeros", &[2, 3], |x| pad(x, &[(1, 0), (0, 2)], 0.0)),
                one("minus infinity where nothing is", &[2], |x| pad(x, &[(0, 0)], f64::NEG_INFINITY)),
                one("a number", &[2, 3], |x| pad(x, &[(1, 2)], 1.5)),
            ]
        }),
        op("pad_with_zeros", "zeros around x along a dimension", || {
            vec![one("rows", &[2, 3], |x| pad_with_zeros(x, 0, 1, 2))]
        }),
        op("pad_with_same", "the border of x repeated along a dimension", || {
            vec![one("columns", &[2, 3], |x| pad_with_same(x, -1, 2, 1))]
        }),
        op("pad_replicate", "the border of x repeated", || {
            vec![one("both dimensions", &[2, 3], |x| pad_replicate(x, &[(2, 1), (1, 1)]))]
        }),
        op("pad_reflect", "x mirrored around its border", || {
            vec![one("both dimensions", &[3, 4], |x| pad_reflect(x, &[(3, 2), (1, 2)]))]
        }),
        op("tril", "the lower triangle of each matrix", || {
            vec![one("square", &[3, 3], |x| tril(x, 0)), one("of a batch, above", &[2, 2, 3], |x| tril(x, 1))]
        }),
        op("triu", "the upper triangle of each matrix", || {
            vec![one("square", &[3, 3], |x| triu(x, 0)), one("below", &[4, 2], |x| triu(x, -1))]
        }),
    ]
}

/// The methods of this file.
#[macro_export]
#[doc(hidden)]
macro_rules! rearrange_methods {
    ($($callback:tt)*) => {
        $($callback)* {
            unary {}
            binary {}
            other {
                /// Dimensions in the opposite order.
                flip(dims: impl $crate::Numbers) -> TrackedTensor = $crate::rearrange::flip;
                /// Moved `shift` places along `dim`, around the end.
                roll(shift: isize, dim: impl $crate::Dim) -> TrackedTensor = $crate::rearrange::roll;
                /// With a number around it; pairs for the last dimensions, the last one first.
                pad(pairs: &[(usize, usize)], value: f64) -> TrackedTensor = $crate::rearrange::pad;
                /// With its border repeated around it.
                pad_replicate(pairs: &[(usize, usize)]) -> TrackedTensor = $crate::rearrange::pad_replicate;
                /// Mirrored around its border.
                pad_reflect(pairs: &[(usize, usize)]) -> TrackedTensor = $crate::rearrange::pad_reflect;
                /// With zeros before and after it along `dim`.
                pad_with_zeros(dim: impl $crate::Dim, before: usize, after: usize) -> TrackedTensor = $crate::rearrange::pad_with_zeros;
                /// With its border repeated before and after it along `dim`.
                pad_with_same(dim: impl $crate::Dim, before: usize, after: usize) -> TrackedTensor = $crate::rearrange::pad_with_same;
                /// The lower triangle of each matrix.
                tril(diagonal: isize) -> TrackedTensor = $crate::rearrange::tril;
                /// The upper triangle of each matrix.
                triu(diagonal: isize) -> TrackedTensor = $crate::rearrange::triu;
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(n: u8) -> Result<TrackedTensor> {
        TrackedTensor::from_vec((1..=n).map(f64::from).collect(), &[usize::from(n)])
    }

    #[test]
    fn borders_are_mirrored_and_repeated() -> Result<()> {
        let x = numbers(4)?;
        assert_eq!(pad_reflect(&x, &[(2, 3)])?.to_vec1::<f64>()?, [3., 2., 1., 2., 3., 4., 3., 2., 1.]);
        assert_eq!(pad_replicate(&x, &[(2, 1)])?.to_vec1::<f64>()?, [1., 1., 1., 2., 3., 4., 4.]);
        assert!(pad_reflect(&x, &[(4, 0)]).is_err());
        let around = pad(&x, &[(1, 1)], f64::NEG_INFINITY)?.to_vec1::<f64>()?;
        assert_eq!(around, [f64::NEG_INFINITY, 1., 2., 3., 4., f64::NEG_INFINITY]);
        Ok(())
    }

    #[test]
    fn rolling_comes_around() -> Result<()> {
        assert_eq!(roll(&numbers(4)?, 1, 0)?.to_vec1::<f64>()?, [4., 1., 2., 3.]);
        assert_eq!(roll(&numbers(4)?, -5, 0)?.to_vec1::<f64>()?, [2., 3., 4., 1.]);
        Ok(())
    }
}
