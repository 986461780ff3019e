//! A product with weights and a bias: y = x·Wᵀ + b, the bias added to each block of the product while
//! it is in a cache.

use crate::matrix::{MatMul, matmul, turned};
use crate::numbers::sound;
use crate::registry::{Case, Family, Op, Sample};
use autograd_core::algebra::{accumulate, add, broadcast_to, reshape, sum_to};
use autograd_core::device::KernelCall;
use autograd_core::kernels::View;
use autograd_core::kernels::machine::Epilogue;
use autograd_core::kernels::matmul::{matmul_bias, matmul_then};
use autograd_core::smallvec::{SmallVec, smallvec};
use autograd_core::{
    At, DType, Error, Finishes, General, Grads, Mask, Meta, Prim, Primitive, Residual, Residuals, Result,
    Rule, Saved, Shape, Signature, Site, SliceMut, TrackedTensor, Values, apply_one, checked_shape, is_float,
};

/// x·Wᵀ + b for rows x, as one primitive.
#[derive(Clone, Copy, Debug)]
pub struct Linear;

/// y = x·Wᵀ + b over the last dimension.
///
/// | x | weight W | bias b | result |
/// |---|---|---|---|
/// | `[in]` | `[out, in]` | `[out]` | `[out]` |
/// | [.., in] | `[out, in]` | `[out]` | [.., out] |
///
/// Without a bias it is the product alone. The numbers are those of `matmul` and an addition after it,
/// to the bit in f32 and f64; half types are rounded once, after the addition. On other devices than
/// the CPU it runs as these two ops, where no kernel of theirs is installed that does both.
///
/// # Errors
/// A weight that is not a matrix, a last dimension of x that is not the weight's, a bias that is not
/// one number for each of the weight's rows; types or devices that differ.
#[track_caller]
pub fn linear(
    x: &TrackedTensor,
    weight: &TrackedTensor,
    bias: Option<&TrackedTensor>,
) -> Result<TrackedTensor> {
    let site = Site::caller();
    for value in [Some(x), Some(weight), bias].into_iter().flatten() {
        sound(value)?;
    }
    let out = fits(x.shape(), weight.shape(), bias.map(TrackedTensor::shape)).map_err(|e| e.or_at(site))?;
    let Some(bias) = bias else { return matmul(x, turned(weight)?) };
    if x.rank() == 2 {
        return apply_one(&Linear, &[x, weight, bias]);
    }
    // All rows as one product.
    let lead = x.rank() - 1;
    let rows = x.dims()[..lead].iter().product();
    let flat = reshape(x, &checked_shape("linear", &[rows, x.dims()[lead]])?)?;
    let mut shape = *x.shape();
    shape.dims_mut()[lead] = out;
    reshape(&apply_one(&Linear, &[&flat, weight, bias])?, &shape)
}

/// The number of outputs, where the shapes fit.
fn fits(x: &Shape, weight: &Shape, bias: Option<&Shape>) -> Result<usize> {
    let fail = |reason: &str| {
        let shapes: SmallVec<[Shape; 3]> = [*x, *weight].into_iter().chain(bias.copied()).collect();
        Err(Error::shape("linear", &shapes, reason))
    };
    let ([.., columns], &[out, within]) = (x.dims(), weight.dims()) else {
        return fail("x needs a dimension, and the weight two: out × in");
    };
    if *columns != within {
        return fail("the last extent of x is not the last of the weight, which is out × in");
    }
    if bias.is_some_and(|bias| bias.dims() != [out]) {
        return fail("the bias is not one number for each row of the weight, which is out × in");
    }
    Ok(out)
}

/// x·Wᵀ.
#[track_caller]
fn product(x: &TrackedTensor, weight: &TrackedTensor) -> Result<TrackedTensor> {
    apply_one(&MatMul, &[x, &turned(weight)?])
}

crate::saved::stored! {
    "linear" => Linear {}, |_, x| x.len() == 3;
}

impl Primitive for Linear {
    crate::saved::by_tag!();
    fn name(&self) -> &'static str {
        "linear"
    }

    fn keep(&self) -> Prim {
        Prim::Static(&Self)
    }

    fn infer(&self, inputs: &[Meta]) -> Result<Signature> {
        let [x, weight, bias] = inputs else { return Err(Error::internal("linear", "it has three inputs")) };
        if x.dtype != weight.dtype || x.dtype != bias.dtype {
            let dtypes = inputs.iter().map(|x| x.dtype).collect();
            return Err(Error::DTypeMismatch { op: "linear", dtypes, at: At::default() });
        }
        if !is_float(x.dtype) {
            return Err(Error::dtype("linear", x.dtype, "convert to a float type with to_dtype"));
        }
        let out = fits(&x.shape, &weight.shape, Some(&bias.shape))?;
        let &[rows, _] = x.shape.dims() else {
            return Err(Error::shape("linear", &[x.shape], "as a primitive it takes rows: two dimensions"));
        };
        Ok(Signature::one(x.with_shape(checked_shape("linear", &[rows, out])?)))
    }

    // A product and a sum for each element of each inner product, and the bias.
    fn operations(&self, inputs: &[Meta]) -> u64 {
        let inner = inputs[0].shape.dims().last().copied().unwrap_or(1) as u64;
        let out = self.infer(inputs).map_or(0, |signature| signature.outputs[0].elements() as u64);
        (2 * inner + 1) * out
    }

    fn is_affine(&self) -> bool {
        true
    }

    fn eval_into(&self, inputs: &[View<'_>], outputs: &mut [SliceMut<'_>]) -> Result<()> {
        let weight = inputs[1].layout.permute(&[1, 0]);
        let weight = View { data: inputs[1].data, layout: &weight };
        matmul_bias(inputs[0], weight, inputs[2], outputs[0].reborrow());
        Ok(())
    }

    fn finishes(&self, inputs: &[Meta]) -> Option<Finishes> {
        matches!(inputs[0].dtype, DType::F32 | DType::F64).then_some(Finishes::Once)
    }

    fn eval_then(&self, inputs: &[View<'_>], then: Epilogue<'_>) -> Result<()> {
        let weight = inputs[1].layout.permute(&[1, 0]);
        let weight = View { data: inputs[1].data, layout: &weight };
        matmul_then(inputs[0], weight, Some(inputs[2]), then);
        Ok(())
    }

    fn kernel(&self) -> Option<KernelCall> {
        Some(KernelCall::new("linear", &[], &[]))
    }

    fn rule(&self) -> Rule<'_> {
        Rule::General(self)
    }

    fn batch(&self, batched: Mask, inputs: &[&TrackedTensor], size: usize) -> Result<Option<Values>> {
        // The weights of all examples are the same: more rows. Otherwise each has its own product.
        if batched != Mask::one(0) {
            return Ok(None);
        }
        let &[_, rows, columns] = inputs[0].dims() else {
            return Err(Error::internal("linear", "a batch of rows has three dimensions"));
        };
        let flat = reshape(inputs[0], &checked_shape("linear", &[size * rows, columns])?)?;
        let y = apply_one(self, &[&flat, inputs[1], inputs[2]])?;
        let out = y.dims()[1];
        Ok(Some(smallvec![reshape(&y, &checked_shape("linear", &[size, rows, out])?)?]))
    }

    fn decompose(&self, inputs: &[&TrackedTensor]) -> Result<Option<Values>> {
        Ok(Some(smallvec![add(&product(inputs[0], inputs[1])?, inputs[2])?]))
    }
}

impl General for Linear {
    fn residuals(&self, wanted: Mask) -> Residuals {
        let partner = |i: usize, of: usize| wanted.has(of).then_some(Residual::Input(i));
        partner(0, 1).into_iter().chain(partner(1, 0)).collect()
    }

    // dx = ct·W, dW = ctᵀ·x, db = Σ ct's rows.
    fn vjp(&self, wanted: Mask, cts: &[Option<TrackedTensor>], saved: &Saved<'_>) -> Result<Grads> {
        let mut grads: Grads = smallvec![None, None, None];
        let Some(ct) = &cts[0] else { return Ok(grads) };
        if wanted.has(0) {
            grads[0] = Some(apply_one(&MatMul, &[ct, saved.input(1)?])?);
        }
        if wanted.has(1) {
            grads[1] = Some(apply_one(&MatMul, &[&turned(ct)?, saved.input(0)?])?);
        }
        if wanted.has(2) {
            grads[2] = Some(sum_to(ct, &saved.inputs[2].shape)?);
        }
        Ok(grads)
    }

    // dy = dx·Wᵀ + x·dWᵀ + db.
    fn jvp(
        &self,
        inputs: &[&TrackedTensor],
        outputs: &[TrackedTensor],
        tangents: &[Option<TrackedTensor>],
    ) -> Result<Option<SmallVec<[Option<TrackedTensor>; 2]>>> {
        let of_x = tangents[0].as_ref().map(|dx| (dx, inputs[1]));
        let of_weight = tangents[1].as_ref().map(|dw| (inputs[0], dw));
        let mut products = of_x.into_iter().chain(of_weight);
        // The bias's tangent goes with the first product.
        let mut dy = match (products.next(), &tangents[2]) {
            (Some((x, w)), Some(db)) => Some(apply_one(self, &[x, w, db])?),
            (Some((x, w)), None) => Some(product(x, w)?),
            (None, Some(db)) => Some(broadcast_to(db, outputs[0].shape())?),
            (None, None) => None,
        };
        for (x, w) in products {
            let next = product(x, w)?;
            dy = Some(match dy {
                Some(sum) => accumulate(sum, &next)?,
                None => next,
            });
        }
        Ok(Some(smallvec![dy]))
    }
}

/// The ops of this file.
pub fn ops() -> Vec<Op> {
    let formula = "x·Wᵀ + b over the last dimension: W is out × in, b of extent out";
    let cases = || {
        let of = |label: &str, x: &[usize], weight: &[usize; 2]| {
            let inputs = vec![Sample::float(x), Sample::float(weight), Sample::float(&weight[..1])];
            Case::new(label, inputs, |v| linear(&v[0], &v[1], Some(&v[2])))
        };
        vec![
            of("rows", &[3, 2], &[4, 2]),
            of("one row", &[2], &[3, 2]),
            of("more dimensions", &[2, 2, 3], &[2, 3]),
            of("inner extent 1", &[3, 1], &[2, 1]),
            of("inner extent 0", &[2, 0], &[3, 0]),
            of("no rows", &[0, 3], &[2, 3]),
            Case::new("without bias", vec![Sample::float(&[2, 3]), Sample::float(&[4, 3])], |v| {
                linear(&v[0], &v[1], None)
            }),
            Case::new(
                "transposed views",
                vec![Sample::float(&[2, 3]), Sample::float(&[2, 4]), Sample::float(&[4])],
                |v| linear(&turned(&v[0])?, &turned(&v[1])?, Some(&v[2])),
            ),
        ]
    };
    vec![Op { name: "linear", family: Family::Matrix, formula, cases }]
}

/// The methods of this file.
#[macro_export]
#[doc(hidden)]
macro_rules! linear_methods {
    ($($callback:tt)*) => {
        $($callback)* {
            unary {}
            binary {}
            other {
                /// x·Wᵀ + b over the last dimension, for a weight that is out × in.
                linear(weight: &TrackedTensor, bias: Option<&TrackedTensor>) -> TrackedTensor = $crate::linear::linear;
            }
        }
    };
}
