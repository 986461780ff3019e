//! Softmax, its logarithm and log Σ exp: fused kernels, with reverse rules fused as well.
//!
//! Each reverse rule is a primitive of its own that has no rule but its decomposition: the first
//! derivative is one kernel, the second one is made of general ops.

use crate::elementwise::{exp, log};
use crate::elsewhere;
use crate::numbers::{Dim, dimension, without};
use crate::registry::{Case, Family, Op, Sample};
use crate::saved::has;
use autograd_core::algebra::{add, broadcast_to, div, mul, ones_like, reshape, sub, sum_to};
use autograd_core::device::{KernelCall, Tensors};
use autograd_core::kernels::expr::{Binary, Unary};
use autograd_core::kernels::{reduce, softmax as kernel};
use autograd_core::smallvec::{SmallVec, smallvec};
use autograd_core::{
    ByRows, Definition, Error, General, Grads, Mask, Meta, Prim, Primitive, Residual, Residuals, Result,
    Rule, Saved, ScalarExpr, Shape, Signature, SliceMut, TrackedTensor, Values, View, apply_one,
    checked_shape, is_float, pointwise,
};
use std::sync::{Arc, LazyLock};

/// eˣ / Σ eˣ over a dimension. A row with +∞, or with nothing above −∞, is NaN.
///
/// # Errors
/// A dimension that does not exist, a type that is not a float.
#[track_caller]
pub fn softmax(x: &TrackedTensor, dim: impl Dim) -> Result<TrackedTensor> {
    apply_one(&Softmax(dimension("softmax", dim, x)?), &[x])
}

/// x − ln Σ eˣ over a dimension: the logarithm of [`softmax`] without overflow.
///
/// # Errors
/// A dimension that does not exist, a type that is not a float.
#[track_caller]
pub fn log_softmax(x: &TrackedTensor, dim: impl Dim) -> Result<TrackedTensor> {
    apply_one(&LogSoftmax(dimension("log_softmax", dim, x)?), &[x])
}

/// ln Σ eˣ over a dimension, which the result lacks, without overflow. −∞ of nothing; a row of −∞
/// alone has the gradient NaN, as in PyTorch.
///
/// # Errors
/// A dimension that does not exist, a type that is not a float.
#[track_caller]
pub fn logsumexp(x: &TrackedTensor, dim: impl Dim) -> Result<TrackedTensor> {
    apply_one(&Logsumexp(dimension("logsumexp", dim, x)?), &[x])
}

/// As [`logsumexp`], with the dimension kept at extent 1.
///
/// # Errors
/// As [`logsumexp`].
#[track_caller]
pub fn logsumexp_keepdim(x: &TrackedTensor, dim: impl Dim) -> Result<TrackedTensor> {
    let dim = dimension("logsumexp", dim, x)?;
    let y = apply_one(&Logsumexp(dim), &[x])?;
    reshape(&y, &kept(x.shape(), dim))
}

/// A shape with a dimension shrunk to 1.
fn kept(shape: &Shape, dim: usize) -> Shape {
    let mut kept = *shape;
    kept.dims_mut()[dim] = 1;
    kept
}

/// Σ over a dimension, kept at extent 1.
fn sum_kept(x: &TrackedTensor, dim: usize) -> Result<TrackedTensor> {
    sum_to(x, &kept(x.shape(), dim))
}

/// The error for an input that is no float.
pub(crate) fn floats(op: &'static str, input: &Meta) -> Result<()> {
    if is_float(input.dtype) {
        return Ok(());
    }
    Err(Error::dtype(op, input.dtype, "convert to a float type with to_dtype"))
}

/// All inputs with the batch dimension in front: those without one are repeated.
pub(crate) fn all_batched(
    op: &'static str,
    batched: Mask,
    inputs: &[&TrackedTensor],
    size: usize,
) -> Result<SmallVec<[TrackedTensor; 4]>> {
    let repeated = |(i, x): (usize, &&TrackedTensor)| {
        if batched.has(i) {
            return Ok((*x).clone());
        }
        let mut dims: SmallVec<[usize; 8]> = smallvec![size];
        dims.extend_from_slice(x.dims());
        broadcast_to(x, &checked_shape(op, &dims)?)
    };
    inputs.iter().enumerate().map(repeated).collect()
}

/// [`softmax`] over a dimension.
#[derive(Clone, Copy, Debug)]
struct Softmax(usize);

/// y · (ct − Σ ct · y), for y = softmax(x); inputs ct, y. The Jacobian is symmetric, so it is
/// the forward rule too.
#[derive(Clone, Copy, Debug)]
struct SoftmaxVjp(usize);

/// [`log_softmax`] over a dimension.
#[derive(Clone, Copy, Debug)]
struct LogSoftmax(usize);

/// ct − e^y · Σ ct, for y = log_softmax(x); inputs ct, y.
#[derive(Clone, Copy, Debug)]
struct LogSoftmaxVjp(usize);

/// [`logsumexp`] over a dimension.
#[derive(Clone, Copy, Debug)]
struct Logsumexp(usize);

/// ct · e^(x − y), for y = logsumexp(x); inputs ct, x, y.
#[derive(Clone, Copy, Debug)]
struct LogsumexpVjp(usize);

/// The largest of a row, kept at extent 1. It only shifts: the results do not depend on it, so
/// that it has no derivative.
#[derive(Clone, Copy, Debug)]
struct RowMax(usize);

/// x less a shift that keeps eˣ finite, and the shift: a row's largest element, 0 where that is
/// infinite.
fn shifted(x: &TrackedTensor, dim: usize) -> Result<(TrackedTensor, TrackedTensor)> {
    static FINITE: LazyLock<Definition> = LazyLock::new(|| {
        let expr = ScalarExpr::build(1, 0, |b, x, _| {
            let (zero, top) = (b.constant(0.0), b.constant(f64::INFINITY));
            let size = b.unary(Unary::Abs, x[0]);
            let finite = b.binary(Binary::Lt, size, top);
            b.select(finite, x[0], zero)
        });
        Definition::flat("finite_or_zero", expr)
    });
    let shift = pointwise(&FINITE, &[&apply_one(&RowMax(dim), &[x])?])?;
    Ok((sub(x, &shift)?, shift))
}

macro_rules! plain_parts {
    ($name:literal) => {
        fn name(&self) -> &'static str {
            $name
        }
        fn keep(&self) -> Prim {
            Prim::Shared(Arc::new(*self))
        }
        fn kernel(&self) -> Option<KernelCall> {
            Some(KernelCall::new($name, &[self.0 as i64], &[]))
        }
    };
}

/// Rows along another dimension than the first are independent.
macro_rules! rows_apart {
    () => {
        fn by_rows(&self, _: &[Meta]) -> Option<ByRows> {
            (self.0 > 0).then(ByRows::default)
        }
    };
}

/// A batch dimension in front moves the op's own by one.
macro_rules! batch_shifts_dim {
    ($op:ident) => {
        fn batch(&self, batched: Mask, inputs: &[&TrackedTensor], size: usize) -> Result<Option<Values>> {
            let inputs = all_batched(self.name(), batched, inputs, size)?;
            let inputs: SmallVec<[&TrackedTensor; 4]> = inputs.iter().collect();
            Ok(Some(smallvec![apply_one(&$op(self.0 + 1), &inputs)?]))
        }
    };
}

crate::saved::stored! {
    "softmax" => Softmax { 0 }, |op, x| has(x, 1, [op.0]);
    "softmax_vjp" => SoftmaxVjp { 0 }, |op, x| has(x, 2, [op.0]) && x[0] == x[1];
    "log_softmax" => LogSoftmax { 0 }, |op, x| has(x, 1, [op.0]);
    "log_softmax_vjp" => LogSoftmaxVjp { 0 }, |op, x| has(x, 2, [op.0]) && x[0] == x[1];
    "logsumexp" => Logsumexp { 0 }, |op, x| has(x, 1, [op.0]);
    "logsumexp_vjp" => LogsumexpVjp { 0 }, |op, x| {
        let rows = |x: &Meta| x.elements() / x.shape.dims()[op.0].max(1);
        x.len() == 3
            && op.0 < x[1].shape.rank()
            && [x[0], x[2]].iter().all(|y| y.elements() == rows(&x[1]) && y.dtype == x[1].dtype)
    };
    "row_max" => RowMax { 0 }, |op, x| has(x, 1, [op.0]);
}

impl Primitive for Softmax {
    crate::saved::by_tag!();
    plain_parts!("softmax");
    batch_shifts_dim!(Softmax);
    rows_apart!();
    fn infer(&self, inputs: &[Meta]) -> Result<Signature> {
        floats("softmax", &inputs[0])?;
        Ok(Signature::one(inputs[0]))
    }
    fn eval_into(&self, inputs: &[View<'_>], outputs: &mut [SliceMut<'_>]) -> Result<()> {
        kernel::softmax(inputs[0], self.0, outputs[0].reborrow());
        Ok(())
    }
    fn rule(&self) -> Rule<'_> {
        Rule::General(self)
    }
    fn decompose(&self, inputs: &[&TrackedTensor]) -> Result<Option<Values>> {
        let e = exp(&shifted(inputs[0], self.0)?.0)?;
        let y = div(&e, &sum_kept(&e, self.0)?)?;
        Ok(Some(smallvec![y]))
    }
}

impl General for Softmax {
    fn residuals(&self, _: Mask) -> Residuals {
        smallvec![Residual::Output(0)]
    }
    fn vjp(&self, _: Mask, cts: &[Option<TrackedTensor>], saved: &Saved<'_>) -> Result<Grads> {
        let Some(ct) = &cts[0] else { return Ok(smallvec![None]) };
        Ok(smallvec![Some(apply_one(&SoftmaxVjp(self.0), &[ct, saved.output(0)?])?)])
    }
    fn jvp(
        &self,
        _: &[&TrackedTensor],
        outputs: &[TrackedTensor],
        tangents: &[Option<TrackedTensor>],
    ) -> Result<Option<SmallVec<[Option<TrackedTensor>; 2]>>> {
        let Some(dx) = &tangents[0] else { return Ok(Some(smallvec![None])) };
        Ok(Some(smallvec![Some(apply_one(&SoftmaxVjp(self.0), &[dx, &outputs[0]])?)]))
    }
}

impl Primitive for SoftmaxVjp {
    crate::saved::by_tag!();
    plain_parts!("softmax_vjp");
    batch_shifts_dim!(SoftmaxVjp);
    rows_apart!();
    fn infer(&self, inputs: &[Meta]) -> Result<Signature> {
        Ok(Signature::one(inputs[1]))
    }
    fn eval_into(&self, inputs: &[View<'_>], outputs: &mut [SliceMut<'_>]) -> Result<()> {
        kernel::softmax_vjp(inputs[0], inputs[1], self.0, outputs[0].reborrow());
        Ok(())
    }
    fn rule(&self) -> Rule<'_> {
        Rule::Composite
    }
    fn decompose(&self, inputs: &[&TrackedTensor]) -> Result<Option<Values>> {
        let (ct, y) = (inputs[0], inputs[1]);
        let dot = sum_kept(&mul(ct, y)?, self.0)?;
        Ok(Some(smallvec![mul(y, &sub(ct, &dot)?)?]))
    }
}

impl Primitive for LogSoftmax {
    crate::saved::by_tag!();
    plain_parts!("log_softmax");
    batch_shifts_dim!(LogSoftmax);
    rows_apart!();
    fn infer(&self, inputs: &[Meta]) -> Result<Signature> {
        floats("log_softmax", &inputs[0])?;
        Ok(Signature::one(inputs[0]))
    }
    fn eval_into(&self, inputs: &[View<'_>], outputs: &mut [SliceMut<'_>]) -> Result<()> {
        kernel::log_softmax(inputs[0], self.0, outputs[0].reborrow());
        Ok(())
    }
    fn rule(&self) -> Rule<'_> {
        Rule::General(self)
    }
    fn decompose(&self, inputs: &[&TrackedTensor]) -> Result<Option<Values>> {
        let (z, _) = shifted(inputs[0], self.0)?;
        let sum = sum_kept(&exp(&z)?, self.0)?;
        Ok(Some(smallvec![sub(&z, &log(&sum)?)?]))
    }
}

impl General for LogSoftmax {
    fn residuals(&self, _: Mask) -> Residuals {
        smallvec![Residual::Output(0)]
    }
    fn vjp(&self, _: Mask, cts: &[Option<TrackedTensor>], saved: &Saved<'_>) -> Result<Grads> {
        let Some(ct) = &cts[0] else { return Ok(smallvec![None]) };
        Ok(smallvec![Some(apply_one(&LogSoftmaxVjp(self.0), &[ct, saved.output(0)?])?)])
    }
    // dx − Σ e^y · dx.
    fn jvp(
        &self,
        _: &[&TrackedTensor],
        outputs: &[TrackedTensor],
        tangents: &[Option<TrackedTensor>],
    ) -> Result<Option<SmallVec<[Option<TrackedTensor>; 2]>>> {
        let Some(dx) = &tangents[0] else { return Ok(Some(smallvec![None])) };
        let mean = sum_kept(&mul(&exp(&outputs[0])?, dx)?, self.0)?;
        Ok(Some(smallvec![Some(sub(dx, &mean)?)]))
    }
}

impl Primitive for LogSoftmaxVjp {
    crate::saved::by_tag!();
    plain_parts!("log_softmax_vjp");
    batch_shifts_dim!(LogSoftmaxVjp);
    rows_apart!();
    fn infer(&self, inputs: &[Meta]) -> Result<Signature> {
        Ok(Signature::one(inputs[1]))
    }
    fn eval_into(&self, inputs: &[View<'_>], outputs: &mut [SliceMut<'_>]) -> Result<()> {
        kernel::log_softmax_vjp(inputs[0], inputs[1], self.0, outputs[0].reborrow());
        Ok(())
    }
    fn rule(&self) -> Rule<'_> {
        Rule::Composite
    }
    fn decompose(&self, inputs: &[&TrackedTensor]) -> Result<Option<Values>> {
        let (ct, y) = (inputs[0], inputs[1]);
        let share = mul(&exp(y)?, &sum_kept(ct, self.0)?)?;
        Ok(Some(smallvec![sub(ct, &share)?]))
    }
}

impl Primitive for Logsumexp {
    crate::saved::by_tag!();
    plain_parts!("logsumexp");
    batch_shifts_dim!(Logsumexp);
    rows_apart!();
    fn infer(&self, inputs: &[Meta]) -> Result<Signature> {
        floats("logsumexp", &inputs[0])?;
        Ok(Signature::one(inputs[0].with_shape(without(&inputs[0].shape, Mask::one(self.0)))))
    }
    fn eval_into(&self, inputs: &[View<'_>], outputs: &mut [SliceMut<'_>]) -> Result<()> {
        kernel::logsumexp(inputs[0], self.0, outputs[0].reborrow());
        Ok(())
    }
    fn rule(&self) -> Rule<'_> {
        Rule::General(self)
    }
    fn decompose(&self, inputs: &[&TrackedTensor]) -> Result<Option<Values>> {
        let (z, shift) = shifted(inputs[0], self.0)?;
        let y = add(&log(&sum_kept(&exp(&z)?, self.0)?)?, &shift)?;
        Ok(Some(smallvec![reshape(&y, &without(inputs[0].shape(), Mask::one(self.0)))?]))
    }
}

impl General for Logsumexp {
    fn residuals(&self, _: Mask) -> Residuals {
        smallvec![Residual::Input(0), Residual::Output(0)]
    }
    fn vjp(&self, _: Mask, cts: &[Option<TrackedTensor>], saved: &Saved<'_>) -> Result<Grads> {
        let Some(ct) = &cts[0] else { return Ok(smallvec![None]) };
        let inputs = [ct, saved.input(0)?, saved.output(0)?];
        Ok(smallvec![Some(apply_one(&LogsumexpVjp(self.0), &inputs)?)])
    }
    // Σ e^(x − y) · dx.
    fn jvp(
        &self,
        inputs: &[&TrackedTensor],
        outputs: &[TrackedTensor],
        tangents: &[Option<TrackedTensor>],
    ) -> Result<Option<SmallVec<[Option<TrackedTensor>; 2]>>> {
        let Some(dx) = &tangents[0] else { return Ok(Some(smallvec![None])) };
        let share = apply_one(&LogsumexpVjp(self.0), &[&ones_like(&outputs[0])?, inputs[0], &outputs[0]])?;
        let dy = sum_kept(&mul(&share, dx)?, self.0)?;
        Ok(Some(smallvec![Some(reshape(&dy, outputs[0].shape())?)]))
    }
}

impl Primitive for LogsumexpVjp {
    crate::saved::by_tag!();
    plain_parts!("logsumexp_vjp");
    batch_shifts_dim!(LogsumexpVjp);
    rows_apart!();
    fn infer(&self, inputs: &[Meta]) -> Result<Signature> {
        Ok(Signature::one(inputs[1]))
    }
    fn eval_into(&self, inputs: &[View<'_>], outputs: &mut [SliceMut<'_>]) -> Result<()> {
        kernel::logsumexp_vjp(inputs[0], inputs[1], inputs[2], self.0, outputs[0].reborrow());
        Ok(())
    }
    fn rule(&self) -> Rule<'_> {
        Rule::Composite
    }
    fn decompose(&self, inputs: &[&TrackedTensor]) -> Result<Option<Values>> {
        let x = inputs[1];
        let row = kept(x.shape(), self.0);
        let (ct, y) = (reshape(inputs[0], &row)?, reshape(inputs[2], &row)?);
        Ok(Some(smallvec![mul(&ct, &exp(&sub(x, &y)?)?)?]))
    }
}

impl Primitive for RowMax {
    crate::saved::by_tag!();
    plain_parts!("row_max");
    batch_shifts_dim!(RowMax);
    fn infer(&self, inputs: &[Meta]) -> Result<Signature> {
        Ok(Signature::one(inputs[0].with_shape(kept(&inputs[0].shape, self.0))))
    }
    fn eval_into(&self, inputs: &[View<'_>], outputs: &mut [SliceMut<'_>]) -> Result<()> {
        let over: SmallVec<[bool; 8]> = (0..inputs[0].layout.rank()).map(|d| d == self.0).collect();
        reduce::reduce(reduce::Reduction::Max, inputs[0], &over, outputs[0].reborrow());
        Ok(())
    }
    fn eval_candle(&self, inputs: &[autograd_core::Tensor]) -> Result<Option<Tensors>> {
        let x = &inputs[0];
        if x.elem_count() == 0 {
            let shape = kept(&checked_shape(self.name(), x.dims())?, self.0);
            // The largest of nothing, as the kernel has it.
            let low = elsewhere::zeros(&shape, x)?.affine(1.0, f64::NEG_INFINITY)?;
            return elsewhere::one(low);
        }
        elsewhere::one(elsewhere::extremum(x, Mask::one(self.0), true)?)
    }
    fn rule(&self) -> Rule<'_> {
        Rule::Flat
    }
}

fn over_dims(
    run: impl Fn(&TrackedTensor, isize) -> Result<TrackedTensor> + Copy + Send + Sync + 'static,
) -> Vec<Case> {
    let case = |label, dims: &[usize], dim| {
        Case::new(label, vec![Sample::float(dims)], move |x: &[TrackedTensor]| run(&x[0], dim))
    };
    vec![
        case("the last dimension", &[2, 5], -1),
        case("the first dimension", &[3, 2], 0),
        case("a middle dimension", &[2, 3, 2], 1),
        case("more than a register", &[19], 0),
        case("a dimension of 1", &[3, 1], 1),
        case("no rows", &[0, 3], 1),
        case("empty rows", &[2, 0], 1),
    ]
}

/// The ops of this file.
pub fn ops() -> Vec<Op> {
    let op = |name, formula, cases| Op { name, family: Family::Activation, formula, cases };
    vec![
        op("softmax", "eˣ / Σ eˣ over a dimension", || over_dims(softmax)),
        op("log_softmax", "x − ln Σ eˣ over a dimension", || over_dims(log_softmax)),
        Op {
            family: Family::Reduction,
            ..op("logsumexp", "ln Σ eˣ over a dimension", || {
                // The gradient of an empty row has no elements, and its value is −∞.
                let mut cases = over_dims(logsumexp);
                cases.truncate(6);
                cases.push(Case::new("kept", vec![Sample::float(&[2, 3])], |x| logsumexp_keepdim(&x[0], 1)));
                cases
            })
        },
    ]
}

/// The methods of this file.
#[macro_export]
#[doc(hidden)]
macro_rules! softmax_methods {
    ($($callback:tt)*) => {
        $($callback)* {
            unary {}
            binary {}
            other {
                /// eˣ / Σ eˣ over a dimension.
                softmax(dim: impl $crate::Dim) -> autograd_core::TrackedTensor = $crate::softmax::softmax;
                /// x − ln Σ eˣ over a dimension.
                log_softmax(dim: impl $crate::Dim) -> autograd_core::TrackedTensor = $crate::softmax::log_softmax;
                /// ln Σ eˣ over a dimension, which the result lacks.
                logsumexp(dim: impl $crate::Dim) -> autograd_core::TrackedTensor = $crate::softmax::logsumexp;
                /// ln Σ eˣ over a dimension, kept at extent 1.
                logsumexp_keepdim(dim: impl $crate::Dim) -> autograd_core::TrackedTensor = $crate::softmax::logsumexp_keepdim;
                /// ln Σ eˣ over a dimension, under candle's name.
                log_sum_exp(dim: impl $crate::Dim) -> autograd_core::TrackedTensor = $crate::softmax::logsumexp;
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pull::{close, kept_bytes, pull, slopes, vector};
    use autograd_tape::GradientTape;

    const LOW: f64 = f64::NEG_INFINITY;

    #[test]
    fn rows_that_are_large_or_masked() -> Result<()> {
        close(&softmax(&vector(&[1e4, 1e4, LOW]), 0)?.to_vec1()?, &[0.5, 0.5, 0.0]);
        close(&log_softmax(&vector(&[1e4, 1e4]), 0)?.to_vec1()?, &[-(2f64.ln()); 2]);
        assert_eq!(logsumexp(&vector(&[LOW, LOW]), 0)?.to_scalar::<f64>()?, LOW);
        assert_eq!(logsumexp(&vector(&[1.0, f64::INFINITY]), 0)?.to_scalar::<f64>()?, f64::INFINITY);
        assert!(softmax(&vector(&[LOW, LOW]), 0)?.to_vec1::<f64>()?.iter().all(|y| y.is_nan()));
        // A masked element gets no gradient, and does not spoil the others'.
        assert_eq!(slopes(&[0.0, 0.0, LOW], |x| logsumexp(x, 0))?, [0.5, 0.5, 0.0]);
        Ok(())
    }

    #[test]
    fn kernels_equal_their_decompositions() -> Result<()> {
        let data: Vec<f64> = (0..24).map(|i| f64::from(i * 7 % 11) - 4.0).collect();
        let x = TrackedTensor::from_vec(data.clone(), &[2, 3, 4])?;
        let ct = TrackedTensor::from_vec(data.into_iter().rev().collect(), &[2, 3, 4])?;
        for dim in 0..3 {
            let row = TrackedTensor::from_vec(
                vec![0.5; 24 / x.dims()[dim]],
                without(x.shape(), Mask::one(dim)).dims(),
            )?;
            let ops: [(&dyn Primitive, Vec<&TrackedTensor>); 6] = [
                (&Softmax(dim), vec![&x]),
                (&SoftmaxVjp(dim), vec![&ct, &x]),
                (&LogSoftmax(dim), vec![&x]),
                (&LogSoftmaxVjp(dim), vec![&ct, &x]),
                (&Logsumexp(dim), vec![&x]),
                (&LogsumexpVjp(dim), vec![&row, &x, &row]),
            ];
            for (op, inputs) in ops {
                let parts = op.decompose(&inputs)?.expect("it has a decomposition");
                close(&apply_one(op, &inputs)?.to_flat()?, &parts[0].to_flat()?);
            }
        }
        Ok(())
    }

    #[test]
    fn empty_rows() -> Result<()> {
        let x = TrackedTensor::from_vec(Vec::<f64>::new(), &[2, 0])?;
        assert_eq!(softmax(&x, -1)?.dims(), [2, 0]);
        assert_eq!(logsumexp(&x, -1)?.to_vec1::<f64>()?, [LOW, LOW]);
        assert_eq!(pull(&[&x], |x| logsumexp(&x[0], 1))?, [[0.0; 0]]);
        let parts = Logsumexp(1).decompose(&[&x])?.expect("it has a decomposition");
        assert_eq!(parts[0].to_vec1::<f64>()?, [LOW, LOW]);
        Ok(())
    }

    #[test]
    fn errors_name_the_op_and_the_line() -> Result<()> {
        let error = softmax(&vector(&[1.0]), 1).expect_err("no dimension 1");
        assert!(error.to_string().starts_with("softmax: no dimension 1 in shape"), "{error}");
        assert!(error.site().is_some_and(|site| site.file().ends_with("softmax.rs")), "{error}");
        assert!(log_softmax(&TrackedTensor::scalar(1.0), -1).is_err());
        let integers = TrackedTensor::from_vec(vec![1u32], &[1])?;
        assert!(
            logsumexp(&integers, 0).expect_err("integers").to_string().starts_with("logsumexp: element type")
        );
        Ok(())
    }

    #[test]
    fn the_first_derivative_is_one_kernel() -> Result<()> {
        let x = vector(&[1.0, 2.0, 3.0]);
        assert_eq!(kept_bytes(&x, |x| softmax(x, 0))?, 24);
        assert_eq!(kept_bytes(&x, |x| log_softmax(x, 0))?, 24);
        assert_eq!(kept_bytes(&x, |x| logsumexp(x, 0))?, 24 + 8);
        let tape = GradientTape::new();
        let y = log_softmax(&tape.variable(&x), 0)?;
        assert_eq!(tape.len(), 2);
        drop(y);
        Ok(())
    }
}
