//! Windows along a dimension.

use crate::index::index_added;
use crate::numbers::{Dim, dimension, with_extent};
use crate::registry::{Case, Family, Op, Sample};
use crate::saved::has;
use autograd_core::algebra::{self, reshape};
use autograd_core::kernels::copy;
use autograd_core::smallvec::{SmallVec, smallvec};
use autograd_core::{
    Error, Grads, Layout, Mask, Meta, Prim, Primitive, Result, Rule, Saved, Signature, Site, SliceMut,
    TrackedTensor, Transpose, Values, View, apply_one,
};
use std::sync::Arc;

/// Windows of `size` elements, `step` apart, along a dimension.
#[derive(Clone, Copy, Debug)]
struct Unfold {
    dim: usize,
    size: usize,
    step: usize,
}

/// All windows of `size` elements along `dim`, `step` apart, without copying: that dimension counts
/// the windows, and a new last one the elements within (PyTorch's `unfold`).
///
/// # Errors
/// A dimension that x does not have, or with fewer elements than a window; a step of 0.
#[track_caller]
pub fn unfold(x: &TrackedTensor, dim: impl Dim, size: usize, step: usize) -> Result<TrackedTensor> {
    let dim = dimension("unfold", dim, x)?;
    if step == 0 || size > x.dims()[dim] {
        let reason = format!("windows of {size} elements, {step} apart, along {}", x.dims()[dim]);
        return Err(Error::argument("unfold", reason).or_at(Site::caller()));
    }
    apply_one(&Unfold { dim, size, step }, &[x])
}

impl Unfold {
    fn windows(self, extent: usize) -> usize {
        (extent - self.size) / self.step + 1
    }

    fn layout(self, x: &Layout) -> Option<Layout> {
        let windows = self.windows(x.dims()[self.dim]);
        let shape = with_extent(x.shape(), self.dim, windows).push(self.size)?;
        let mut strides: SmallVec<[usize; 8]> = SmallVec::from_slice(x.strides());
        strides.push(strides[self.dim]);
        strides[self.dim] *= self.step;
        Some(Layout::new(shape, &strides, x.offset()))
    }
}

crate::saved::stored! {
    "unfold" => Unfold { dim, size, step }, |op, x| {
        has(x, 1, [op.dim]) && op.step > 0 && op.step < 1 << 32 && op.size <= x[0].shape.dims()[op.dim]
    };
}

impl Primitive for Unfold {
    crate::saved::by_tag!();
    fn name(&self) -> &'static str {
        "unfold"
    }
    fn keep(&self) -> Prim {
        Prim::Shared(Arc::new(*self))
    }
    fn infer(&self, inputs: &[Meta]) -> Result<Signature> {
        let layout = self.layout(&Layout::contiguous(inputs[0].shape));
        let layout = layout.ok_or_else(|| Error::argument("unfold", "too many dimensions"))?;
        Ok(Signature::one(inputs[0].with_shape(*layout.shape())))
    }
    fn view(&self, _: &Meta, inputs: &[&Layout]) -> Option<(usize, Layout)> {
        Some((0, self.layout(inputs[0])?))
    }
    fn eval_into(&self, inputs: &[View<'_>], outputs: &mut [SliceMut<'_>]) -> Result<()> {
        let layout = self.layout(inputs[0].layout);
        let layout = layout.ok_or_else(|| Error::internal("unfold", "its shape was not inferred"))?;
        copy::copy(View { data: inputs[0].data, layout: &layout }, outputs[0].reborrow());
        Ok(())
    }
    fn rule(&self) -> Rule<'_> {
        Rule::Linear(Mask::one(0), self)
    }
    fn batch(&self, _: Mask, inputs: &[&TrackedTensor], _: usize) -> Result<Option<Values>> {
        Ok(Some(smallvec![apply_one(&Self { dim: self.dim + 1, ..*self }, inputs)?]))
    }
}

impl Transpose for Unfold {
    // Each element of a window added where it was read.
    fn transpose(&self, _: Mask, cts: &[Option<TrackedTensor>], saved: &Saved<'_>) -> Result<Grads> {
        let Some(ct) = &cts[0] else { return Ok(smallvec![None]) };
        let shape = &saved.inputs[0].shape;
        let windows = self.windows(shape.dims()[self.dim]);
        let mut order: SmallVec<[usize; 8]> = (0..shape.rank()).collect();
        order.insert(self.dim + 1, shape.rank());
        let listed = with_extent(shape, self.dim, windows * self.size);
        let list = reshape(&algebra::permute(ct, &order)?, &listed)?;
        let read = (0..windows).flat_map(|w| (0..self.size).map(move |i| w * self.step + i));
        let read: Vec<i64> = read.map(|i| i as i64).collect();
        let count = read.len();
        let read = algebra::beside(TrackedTensor::from_vec(read, &[count])?, ct)?;
        Ok(smallvec![Some(index_added(&list, &read, self.dim, shape)?)])
    }
}

/// The ops of this file.
pub fn ops() -> Vec<Op> {
    fn one(
        label: &str,
        dims: &[usize],
        run: impl Fn(&TrackedTensor) -> Result<TrackedTensor> + Send + Sync + 'static,
    ) -> Case {
        Case::new(label, vec![Sample::float(dims)], move |x| run(&x[0]))
    }
    let cases = || {
        vec![
            one("that overlap", &[6], |x| unfold(x, 0, 3, 1)),
            one("with gaps, inner", &[2, 5, 2], |x| unfold(x, 1, 1, 2)),
            one("of two rows", &[5, 2], |x| unfold(x, 0, 2, 2)),
        ]
    };
    vec![Op { name: "unfold", family: Family::Shape, formula: "all windows along a dimension", cases }]
}

/// The methods of this file.
#[macro_export]
#[doc(hidden)]
macro_rules! unfold_methods {
    ($($callback:tt)*) => {
        $($callback)* {
            unary {}
            binary {}
            other {
                /// All windows of `size` elements along `dim`, `step` apart.
                unfold(dim: impl $crate::Dim, size: usize, step: usize) -> TrackedTensor = $crate::unfold::unfold;
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use autograd_tape::GradientTape;

    #[test]
    fn overlapping_windows_add_up() -> Result<()> {
        let tape = GradientTape::new();
        let x = tape.variable(TrackedTensor::from_vec(vec![1f64, 2., 3., 4.], &[4])?);
        let y = unfold(&x, 0, 3, 1)?;
        assert_eq!(y.to_vec2::<f64>()?, [[1., 2., 3.], [2., 3., 4.]]);
        let dx = tape.derivative(&crate::reduce::sum(&y)?, &x)?;
        assert_eq!(dx.to_vec1::<f64>()?, [1., 2., 2., 1.]);
        Ok(())
    }
}
