//! Products over dimensions.

use crate::numbers::{Dim, dimension, flattened, without};
use crate::registry::{Case, Family, Op, Sample};
use crate::saved::has;
use crate::scan::products_of_others;
use crate::shape::flatten_all;
use autograd_core::algebra::{broadcast_to, mul, narrow, reshape, sum_to};
use autograd_core::kernels::reduce::{Reduction, reduce};
use autograd_core::smallvec::{SmallVec, smallvec};
use autograd_core::{
    Error, General, Grads, Mask, Meta, Prim, Primitive, Residual, Residuals, Result, Rule, Saved, Signature,
    SliceMut, TrackedTensor, Values, View, algebra, apply_one, is_float,
};
use std::sync::Arc;

/// Π x along a dimension, which stays with extent 1.
#[derive(Clone, Copy, Debug)]
struct Product {
    dim: usize,
}

/// Π x over all elements, rank 0; 1 of nothing. The gradient is right where elements are 0.
///
/// # Errors
/// An integer type.
#[track_caller]
pub fn prod(x: &TrackedTensor) -> Result<TrackedTensor> {
    let product = apply_one(&Product { dim: 0 }, &[&flatten_all(x)?])?;
    reshape(&product, &autograd_core::Shape::SCALAR)
}

/// Π x over one dimension, which goes; 1 of nothing. The gradient is right where elements are 0.
///
/// # Errors
/// A dimension that x does not have; an integer type.
#[track_caller]
pub fn prod_dim(x: &TrackedTensor, dim: impl Dim) -> Result<TrackedTensor> {
    let kept = prod_keepdim(x, dim)?;
    let dim = dimension("prod", dim, x)?;
    reshape(&kept, &without(x.shape(), Mask::one(dim)))
}

/// Π x over one dimension, which stays with extent 1.
///
/// # Errors
/// A dimension that x does not have; an integer type.
#[track_caller]
pub fn prod_keepdim(x: &TrackedTensor, dim: impl Dim) -> Result<TrackedTensor> {
    apply_one(&Product { dim: dimension("prod", dim, x)? }, &[x])
}

crate::saved::stored! {
    "prod" => Product { dim }, |op, x| has(x, 1, [op.dim]);
}

impl Primitive for Product {
    crate::saved::by_tag!();
    fn name(&self) -> &'static str {
        "prod"
    }
    fn keep(&self) -> Prim {
        Prim::Shared(Arc::new(*self))
    }
    fn infer(&self, inputs: &[Meta]) -> Result<Signature> {
        let x = inputs[0];
        if !is_float(x.dtype) {
            return Err(Error::dtype("prod", x.dtype, "convert to a float type with to_dtype"));
        }
        Ok(Signature::one(x.with_shape(flattened(&x.shape, Mask::one(self.dim)))))
    }
    fn eval_into(&self, inputs: &[View<'_>], outputs: &mut [SliceMut<'_>]) -> Result<()> {
        let over: SmallVec<[bool; 8]> = (0..inputs[0].layout.rank()).map(|d| d == self.dim).collect();
        reduce(Reduction::Prod, inputs[0], &over, outputs[0].reborrow());
        Ok(())
    }
    fn rule(&self) -> Rule<'_> {
        Rule::General(self)
    }
    fn batch(&self, _: Mask, inputs: &[&TrackedTensor], _: usize) -> Result<Option<Values>> {
        Ok(Some(smallvec![apply_one(&Self { dim: self.dim + 1 }, inputs)?]))
    }
    // Halves multiplied until one element is left.
    fn decompose(&self, inputs: &[&TrackedTensor]) -> Result<Option<Values>> {
        let mut y = inputs[0].clone();
        let mut n = y.dims()[self.dim];
        if n == 0 {
            let one = y.meta().with_shape(flattened(y.shape(), Mask::one(self.dim)));
            return Ok(Some(smallvec![algebra::fill(1.0, &one, &y)?]));
        }
        let mut odd: Option<TrackedTensor> = None;
        while n > 1 {
            if n % 2 == 1 {
                let last = narrow(&y, self.dim, n - 1, 1)?;
                odd = Some(match odd {
                    Some(odd) => mul(&odd, &last)?,
                    None => last,
                });
            }
            n /= 2;
            y = mul(&narrow(&y, self.dim, 0, n)?, &narrow(&y, self.dim, n, n)?)?;
        }
        Ok(Some(smallvec![match odd {
            Some(odd) => mul(&y, &odd)?,
            None => y,
        }]))
    }
}

impl General for Product {
    fn residuals(&self, _: Mask) -> Residuals {
        smallvec![Residual::Input(0)]
    }

    // dxₖ = ct·Π xᵢ over i ≠ k, without a division.
    fn vjp(&self, _: Mask, cts: &[Option<TrackedTensor>], saved: &Saved<'_>) -> Result<Grads> {
        let Some(ct) = &cts[0] else { return Ok(smallvec![None]) };
        let x = saved.input(0)?;
        let ct = broadcast_to(ct, x.shape())?;
        Ok(smallvec![Some(mul(&ct, &products_of_others(x, self.dim)?)?)])
    }

    // dy = Σₖ dxₖ·Π xᵢ over i ≠ k.
    fn jvp(
        &self,
        inputs: &[&TrackedTensor],
        outputs: &[TrackedTensor],
        tangents: &[Option<TrackedTensor>],
    ) -> Result<Option<SmallVec<[Option<TrackedTensor>; 2]>>> {
        let Some(dx) = &tangents[0] else { return Ok(Some(smallvec![None])) };
        let terms = mul(dx, &products_of_others(inputs[0], self.dim)?)?;
        Ok(Some(smallvec![Some(sum_to(&terms, outputs[0].shape())?)]))
    }
}

/// The ops of this file.
pub fn ops() -> Vec<Op> {
    fn one(
        label: &str,
        sample: Sample,
        run: impl Fn(&TrackedTensor) -> Result<TrackedTensor> + Send + Sync + 'static,
    ) -> Case {
        Case::new(label, vec![sample], move |x| run(&x[0]))
    }
    fn zeros() -> Sample {
        Sample::Exact { dims: vec![3, 3], values: vec![2., 0., 3., 0., 5., 0., 1., 2., 3.] }
    }
    let cases = || {
        vec![
            one("all elements", Sample::float(&[2, 3]), prod),
            one("rank 0", Sample::float(&[]), prod),
            one("no elements", Sample::float(&[0, 2]), prod),
            one("rows", Sample::float(&[2, 5]), |x| prod_dim(x, -1)),
            one("columns", Sample::float(&[3, 2]), |x| prod_dim(x, 0)),
            one("inner, kept", Sample::float(&[2, 3, 2]), |x| prod_keepdim(x, 1)),
            one("extent 1", Sample::float(&[2, 1]), |x| prod_dim(x, 1)),
            one("zeros", zeros(), |x| prod_dim(x, 1)),
        ]
    };
    vec![Op { name: "prod", family: Family::Reduction, formula: "Π x; 1 of nothing; zeros right", cases }]
}

/// The methods of this file.
#[macro_export]
#[doc(hidden)]
macro_rules! product_methods {
    ($($callback:tt)*) => {
        $($callback)* {
            unary {
                /// The product of all elements, rank 0.
                prod = $crate::product::prod;
            }
            binary {}
            other {
                /// The product over one dimension, which goes.
                prod_dim(dim: impl $crate::Dim) -> TrackedTensor = $crate::product::prod_dim;
                /// The product over one dimension, which stays with extent 1.
                prod_keepdim(dim: impl $crate::Dim) -> TrackedTensor = $crate::product::prod_keepdim;
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use autograd_tape::GradientTape;

    #[test]
    fn zeros_in_a_product_have_their_gradient() -> Result<()> {
        for (x, want) in
            [([2., 0., 5.], [0., 10., 0.]), ([0., 0., 5.], [0.; 3]), ([2., 3., 5.], [15., 10., 6.])]
        {
            let tape = GradientTape::new();
            let x = tape.variable(TrackedTensor::from_vec::<f64>(x.to_vec(), &[3])?);
            assert_eq!(tape.derivative(&prod(&x)?, &x)?.to_vec1::<f64>()?, want);
        }
        Ok(())
    }

    #[test]
    fn the_kernel_equals_its_decomposition() -> Result<()> {
        for n in [0, 1, 2, 3, 6, 7] {
            let x = (1..=2 * n).map(f64::from).collect::<Vec<_>>();
            let x = TrackedTensor::from_vec(x, &[2, n as usize])?;
            let op = Product { dim: 1 };
            let parts = op.decompose(&[&x])?.ok_or_else(|| Error::msg("no decomposition"))?;
            assert_eq!(parts[0].to_vec2::<f64>()?, apply_one(&op, &[&x])?.to_vec2::<f64>()?);
        }
        Ok(())
    }
}
