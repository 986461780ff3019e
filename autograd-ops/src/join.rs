//! Values put together: cat, stack, repeat, meshgrid.

use crate::elsewhere;
use crate::numbers::{Dim, Numbers, dimension, new_dimension, sound, with_batch, with_extent};
use crate::registry::{Case, Family, Op, Sample};
use crate::saved::has;
use crate::shape::unsqueeze;
use autograd_core::algebra::{self, broadcast_to, narrow, reshape};
use autograd_core::device::{KernelCall, Tensors};
use autograd_core::kernels::{Layout, place};
use autograd_core::smallvec::{SmallVec, smallvec};
use autograd_core::{
    At, Error, Grads, Mask, Meta, Prim, Primitive, Result, Rule, Saved, Signature, Site, SliceMut,
    TrackedTensor, Transpose, Values, View, apply_one, checked_shape,
};
use std::borrow::Borrow;
use std::sync::Arc;

/// Its inputs one after the other along `dim`.
#[derive(Clone, Copy, Debug)]
struct Cat {
    dim: usize,
    inputs: usize,
}

/// A mask has room for so many inputs; more are put together in stages.
const AT_ONCE: usize = 64;

/// The values one after the other along `dim`; the other extents are equal.
///
/// # Errors
/// No values; a dimension they do not have; other extents, types or devices that differ.
#[track_caller]
pub fn cat<T: Borrow<TrackedTensor>>(xs: &[T], dim: impl Dim) -> Result<TrackedTensor> {
    let refs: SmallVec<[&TrackedTensor; 8]> = xs.iter().map(Borrow::borrow).collect();
    let first = first_of("cat", &refs)?;
    join(&refs, dimension("cat", dim, first)?)
}

#[track_caller]
fn first_of<'a>(op: &'static str, xs: &[&'a TrackedTensor]) -> Result<&'a TrackedTensor> {
    let none = || Error::argument(op, "no values to put together").or_at(Site::caller());
    xs.first().copied().ok_or_else(none)
}

#[track_caller]
fn join(xs: &[&TrackedTensor], dim: usize) -> Result<TrackedTensor> {
    if let [x] = xs {
        return Ok((*x).clone());
    }
    if xs.len() <= AT_ONCE {
        return apply_one(&Cat { dim, inputs: xs.len() }, xs);
    }
    let mut parts: Vec<TrackedTensor> = Vec::new();
    for chunk in xs.chunks(AT_ONCE) {
        parts.push(join(chunk, dim)?);
    }
    join(&parts.iter().collect::<SmallVec<[&TrackedTensor; 8]>>(), dim)
}

/// The values along a new dimension at `dim`; they have one shape.
///
/// # Errors
/// No values; a place that is not there; shapes, types or devices that differ.
#[track_caller]
pub fn stack<T: Borrow<TrackedTensor>>(xs: &[T], dim: impl Dim) -> Result<TrackedTensor> {
    let refs: SmallVec<[&TrackedTensor; 8]> = xs.iter().map(Borrow::borrow).collect();
    let first = first_of("stack", &refs)?;
    let dim = new_dimension("stack", dim, first)?;
    let mut parts: SmallVec<[TrackedTensor; 8]> = SmallVec::new();
    for x in &refs {
        sound(x)?;
        if x.shape() != first.shape() {
            let reason = "values to stack need one shape";
            return Err(Error::shape("stack", &[*first.shape(), *x.shape()], reason).or_at(Site::caller()));
        }
        parts.push(unsqueeze(x, dim as isize)?);
    }
    join(&parts.iter().collect::<SmallVec<[&TrackedTensor; 8]>>(), dim)
}

crate::saved::stored! {
    "cat" => Cat { dim, inputs }, |op, x| !x.is_empty() && has(x, op.inputs, [op.dim]);
}

impl Primitive for Cat {
    crate::saved::by_tag!();
    fn name(&self) -> &'static str {
        "cat"
    }
    fn keep(&self) -> Prim {
        Prim::Shared(Arc::new(*self))
    }
    fn infer(&self, inputs: &[Meta]) -> Result<Signature> {
        let mut extent = 0;
        for x in inputs {
            if x.dtype != inputs[0].dtype {
                let dtypes = inputs.iter().map(|x| x.dtype).collect();
                return Err(Error::DTypeMismatch { op: "cat", dtypes, at: At::default() });
            }
            let fits = x.shape.rank() == inputs[0].shape.rank()
                && with_extent(&x.shape, self.dim, 0) == with_extent(&inputs[0].shape, self.dim, 0);
            if !fits {
                let shapes: Vec<_> = inputs.iter().map(|x| x.shape).collect();
                let reason = format!("they need equal extents except along dimension {}", self.dim);
                return Err(Error::shape("cat", &shapes, reason));
            }
            extent += x.shape.dims()[self.dim];
        }
        Ok(Signature::one(inputs[0].with_shape(with_extent(&inputs[0].shape, self.dim, extent))))
    }
    fn eval_into(&self, inputs: &[View<'_>], outputs: &mut [SliceMut<'_>]) -> Result<()> {
        let extent = |x: &View<'_>| x.layout.dims()[self.dim];
        let shape = with_extent(inputs[0].layout.shape(), self.dim, inputs.iter().map(extent).sum());
        let whole = Layout::contiguous(shape);
        let mut start = 0;
        for x in inputs {
            place::place(*x, outputs[0].reborrow(), &whole.narrow(self.dim, start, extent(x)));
            start += extent(x);
        }
        Ok(())
    }
    fn eval_candle(&self, inputs: &[autograd_core::Tensor]) -> Result<Option<Tensors>> {
        elsewhere::one(autograd_core::Tensor::cat(inputs, self.dim)?)
    }
    fn kernel(&self) -> Option<KernelCall> {
        Some(KernelCall::new("cat", &[self.dim as i64], &[]))
    }
    fn rule(&self) -> Rule<'_> {
        Rule::Linear(Mask::first(self.inputs), self)
    }
    fn batch(&self, batched: Mask, inputs: &[&TrackedTensor], size: usize) -> Result<Option<Values>> {
        let all = inputs.iter().enumerate().map(|(i, x)| with_batch(x, batched.has(i), size));
        let all: SmallVec<[TrackedTensor; 8]> = all.collect::<Result<_>>()?;
        let refs: SmallVec<[&TrackedTensor; 8]> = all.iter().collect();
        Ok(Some(smallvec![join(&refs, self.dim + 1)?]))
    }
}

impl Transpose for Cat {
    // Each input's part of the cotangent, a view.
    fn transpose(&self, wanted: Mask, cts: &[Option<TrackedTensor>], saved: &Saved<'_>) -> Result<Grads> {
        let mut grads: Grads = smallvec![None; saved.inputs.len()];
        let Some(ct) = &cts[0] else { return Ok(grads) };
        let mut start = 0;
        for (i, meta) in saved.inputs.iter().enumerate() {
            let extent = meta.shape.dims()[self.dim];
            if wanted.has(i) {
                grads[i] = Some(narrow(ct, self.dim, start, extent)?);
            }
            start += extent;
        }
        Ok(grads)
    }
}

/// x repeated along each dimension: extent dᵢ becomes `counts[i]`·dᵢ. With more counts than x has
/// dimensions, x gets new ones in front.
///
/// # Errors
/// Fewer counts than dimensions, or a negative one.
#[track_caller]
pub fn repeat(x: &TrackedTensor, counts: impl Numbers) -> Result<TrackedTensor> {
    sound(x)?;
    let site = Site::caller();
    let counts = counts.list();
    let given: Option<SmallVec<[usize; 8]>> = counts.iter().map(|&n| usize::try_from(n).ok()).collect();
    let (Some(given), Some(lead)) = (given, counts.len().checked_sub(x.rank())) else {
        let reason = format!("counts {counts:?} for shape {}", x.shape());
        return Err(Error::argument("repeat", reason).or_at(site));
    };
    let mut dims: SmallVec<[usize; 8]> = smallvec![1; lead];
    dims.extend_from_slice(x.dims());
    let mut repeated = reshape(x, &checked_shape("repeat", &dims).map_err(|e| e.or_at(site))?)?;
    for (dim, &count) in given.iter().enumerate().filter(|(_, count)| **count != 1) {
        // As outer × 1 × inner, broadcast to outer × count × inner: one copy.
        let outer: usize = dims[..dim].iter().product();
        let inner: usize = dims[dim..].iter().product();
        let apart = reshape(&repeated, &checked_shape("repeat", &[outer, 1, inner])?)?;
        let wide = broadcast_to(&apart, &checked_shape("repeat", &[outer, count, inner])?)?;
        dims[dim] *= count;
        repeated = reshape(&wide, &checked_shape("repeat", &dims)?)?;
    }
    Ok(repeated)
}

/// The coordinates of a grid: for vectors of n₀, n₁, .. elements, as many values of shape
/// [n₀, n₁, ..], of which the i-th varies along dimension i only (PyTorch's `ij`, candle's
/// `xy_indexing = false`; with `xy_indexing` the first two dimensions are exchanged).
///
/// # Errors
/// Values that are not vectors.
#[track_caller]
pub fn meshgrid<T: Borrow<TrackedTensor>>(xs: &[T], xy_indexing: bool) -> Result<Vec<TrackedTensor>> {
    let site = Site::caller();
    let mut extents: SmallVec<[usize; 8]> = SmallVec::new();
    for x in xs {
        sound(x.borrow())?;
        match x.borrow().dims() {
            &[extent] => extents.push(extent),
            _ => {
                let reason = "a vector is needed for each dimension of the grid";
                return Err(Error::shape("meshgrid", &[*x.borrow().shape()], reason).or_at(site));
            }
        }
    }
    let whole = checked_shape("meshgrid", &extents).map_err(|e| e.or_at(site))?;
    let mut grid = Vec::with_capacity(xs.len());
    for (d, x) in xs.iter().enumerate() {
        let mut dims: SmallVec<[usize; 8]> = smallvec![1; extents.len()];
        dims[d] = extents[d];
        let wide = broadcast_to(&reshape(x.borrow(), &checked_shape("meshgrid", &dims)?)?, &whole)?;
        grid.push(if xy_indexing && extents.len() > 1 { algebra::transpose(&wide, 0, 1)? } else { wide });
    }
    Ok(grid)
}

/// The ops of this file.
pub fn ops() -> Vec<Op> {
    let op = |name, formula, cases| Op { name, family: Family::Shape, formula, cases };
    fn several(
        label: &str,
        dims: &[&[usize]],
        run: impl Fn(&[TrackedTensor]) -> Result<TrackedTensor> + Send + Sync + 'static,
    ) -> Case {
        Case::new(label, dims.iter().map(|d| Sample::float(d)).collect(), run)
    }
    vec![
        op("cat", "the values one after the other along a dimension", || {
            vec![
                several("rows", &[&[2, 3], &[1, 3]], |x| cat(x, 0)),
                several("columns", &[&[2, 1], &[2, 3], &[2, 2]], |x| cat(x, -1)),
                several("one of them empty", &[&[2, 0], &[2, 3]], |x| cat(x, 1)),
                several("the same twice", &[&[2, 2]], |x| cat(&[&x[0], &x[0]], 1)),
            ]
        }),
        op("stack", "the values along a new dimension", || {
            vec![
                several("in front", &[&[2, 3], &[2, 3]], |x| stack(x, 0)),
                several("at the end", &[&[2], &[2]], |x| stack(x, -1)),
                several("rank 0", &[&[], &[], &[]], |x| stack(x, 0)),
            ]
        }),
        op("repeat", "extent dᵢ becomes counts[i]·dᵢ", || {
            vec![
                several("both dimensions", &[&[2, 3]], |x| repeat(&x[0], (2, 3))),
                several("a new dimension", &[&[2]], |x| repeat(&x[0], (2, 2))),
                several("to nothing", &[&[2]], |x| repeat(&x[0], 0)),
            ]
        }),
        op("meshgrid", "the coordinates of a grid", || {
            vec![
                Case::many("ij", vec![Sample::float(&[2]), Sample::float(&[3])], |x| meshgrid(x, false)),
                Case::many("xy", vec![Sample::float(&[2]), Sample::float(&[3])], |x| meshgrid(x, true)),
            ]
        }),
    ]
}

/// The methods of this file.
#[macro_export]
#[doc(hidden)]
macro_rules! join_methods {
    ($($callback:tt)*) => {
        $($callback)* {
            unary {}
            binary {}
            other {
                /// Repeated along each dimension.
                repeat(counts: impl $crate::Numbers) -> TrackedTensor = $crate::join::repeat;
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_values_than_a_mask_holds() -> Result<()> {
        let xs = (0..130).map(|i| TrackedTensor::from_vec(vec![f64::from(i)], &[1]));
        let xs: Vec<TrackedTensor> = xs.collect::<Result<_>>()?;
        let y = cat(&xs, 0)?.to_vec1::<f64>()?;
        assert!(y.iter().enumerate().all(|(i, &x)| x == i as f64) && y.len() == 130);
        Ok(())
    }

    #[test]
    fn nothing_cannot_be_put_together() {
        let error = cat::<TrackedTensor>(&[], 0).expect_err("it must fail");
        assert_eq!(error.site().map(|s| s.file()), Some(file!()), "{error}");
    }
}
