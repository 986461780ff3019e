//! Variance, standard deviation and p-norms.

use crate::extremum::largest_size;
use crate::numbers::{Dim, Numbers};
use crate::reduce::{Over, kept_of, mean_over, sum_over, variants};
use crate::registry::{Case, Family, Op, Sample};
use crate::saved::has;
use autograd_core::kernels::expr::{Binary, Unary};
use autograd_core::kernels::{Element, Kind, Layout, machine, memory};
use autograd_core::smallvec::{SmallVec, smallvec};
use autograd_core::{
    Definition, Error, General, Grads, Mask, Meta, Prim, Primitive, Residual, Residuals, Result, Rule, Saved,
    ScalarExpr, Signature, SliceMut, TrackedTensor, Values, View, algebra, apply_one, is_float, pointwise,
    pointwise_with,
};
use std::sync::{Arc, LazyLock};

/// (x − m)²·p.
static SQUARES: LazyLock<ScalarExpr> = LazyLock::new(|| {
    ScalarExpr::build(2, 1, |b, x, p| {
        let d = b.binary(Binary::Sub, x[0], x[1]);
        let square = b.binary(Binary::Mul, d, d);
        b.binary(Binary::Mul, square, p[0])
    })
});
/// x·p, to be summed to a mean.
static SCALED: LazyLock<ScalarExpr> =
    LazyLock::new(|| ScalarExpr::build(1, 1, |b, x, p| b.binary(Binary::Mul, x[0], p[0])));
/// ct·(x − m)·p.
static DEVIATION: LazyLock<Definition> = LazyLock::new(|| {
    let expr = ScalarExpr::build(3, 1, |b, x, p| {
        let d = b.binary(Binary::Sub, x[1], x[2]);
        let scaled = b.binary(Binary::Mul, d, p[0]);
        b.binary(Binary::Mul, x[0], scaled)
    });
    Definition::new("var_vjp", expr)
});
/// √x, and 0 with all its derivatives at 0.
static ROOT: LazyLock<Definition> = LazyLock::new(|| {
    let expr = ScalarExpr::build(1, 0, |b, x, _| {
        let (zero, one) = (b.constant(0.0), b.constant(1.0));
        let is_zero = b.binary(Binary::Eq, x[0], zero);
        let safe = b.select(is_zero, one, x[0]);
        let root = b.unary(Unary::Sqrt, safe);
        b.select(is_zero, zero, root)
    });
    Definition::new("root", expr)
});
/// |x|ᵖ, and 0 with all its derivatives at 0.
static POWER: LazyLock<Definition> = LazyLock::new(|| {
    let expr = ScalarExpr::build(1, 1, |b, x, p| {
        let (zero, one) = (b.constant(0.0), b.constant(1.0));
        let is_zero = b.binary(Binary::Eq, x[0], zero);
        let safe = b.select(is_zero, one, x[0]);
        let size = b.unary(Unary::Abs, safe);
        let power = b.binary(Binary::Pow, size, p[0]);
        b.select(is_zero, zero, power)
    });
    Definition::new("power", expr)
});
static SIZE: LazyLock<Definition> =
    LazyLock::new(|| Definition::new("abs", ScalarExpr::build(1, 0, |b, x, _| b.unary(Unary::Abs, x[0]))));
static NOT_ZERO: LazyLock<Definition> = LazyLock::new(|| {
    let expr = ScalarExpr::build(1, 0, |b, x, _| {
        let zero = b.constant(0.0);
        b.binary(Binary::Ne, x[0], zero)
    });
    Definition::flat("not_zero", expr)
});

/// Σ (x − mean)² / (n − correction) over some dimensions.
#[derive(Clone, Copy, Debug)]
struct Variance {
    over: Over,
    correction: usize,
}

impl Variance {
    /// 1 / (n − correction); infinite, and the variance NaN, where nothing is left.
    fn factor(self, shape: &autograd_core::Shape) -> f64 {
        1.0 / self.over.count(shape).saturating_sub(self.correction) as f64
    }

    fn mean(self, x: &TrackedTensor) -> Result<TrackedTensor> {
        mean_over(x, Over { keepdim: true, ..self.over })
    }
}

/// Evaluates with a mean of type `T` in between.
fn variance_with<T: Element>(op: Variance, x: View<'_>, out: SliceMut<'_>) {
    let shape = x.layout.shape();
    let kept = op.over.kept(shape);
    let mut mean: Vec<T> = memory::take(kept.elements());
    let per_element = [1.0 / op.over.count(shape) as f64];
    machine::run_reduced(
        SCALED.program(),
        &per_element,
        &[x],
        shape,
        &mut [T::slice_mut(&mut mean)],
        &[kept],
    );
    let layout = Layout::contiguous(kept);
    let views = [x, View { data: T::slice(&mean), layout: &layout }];
    machine::run_reduced(SQUARES.program(), &[op.factor(shape)], &views, shape, &mut [out], &[kept]);
    memory::give(mean);
}

crate::saved::stored! {
    "var" => Variance { over, correction }, |op, x| has(x, 1, op.over.dims.iter());
}

impl Primitive for Variance {
    crate::saved::by_tag!();
    fn name(&self) -> &'static str {
        "var"
    }
    fn keep(&self) -> Prim {
        Prim::Shared(Arc::new(*self))
    }
    fn infer(&self, inputs: &[Meta]) -> Result<Signature> {
        let x = inputs[0];
        if !is_float(x.dtype) {
            return Err(Error::dtype("var", x.dtype, "convert to a float type with to_dtype"));
        }
        Ok(Signature::one(x.with_shape(self.over.shape(&x.shape))))
    }
    fn eval_into(&self, inputs: &[View<'_>], outputs: &mut [SliceMut<'_>]) -> Result<()> {
        let shape = inputs[0].layout.shape();
        if self.over.count(shape) <= self.correction {
            autograd_core::kernels::copy::fill(f64::NAN, outputs[0].reborrow());
        } else if inputs[0].kind() == Kind::F64 {
            variance_with::<f64>(*self, inputs[0], outputs[0].reborrow());
        } else {
            variance_with::<f32>(*self, inputs[0], outputs[0].reborrow());
        }
        Ok(())
    }
    fn rule(&self) -> Rule<'_> {
        Rule::General(self)
    }
    fn batch(&self, _: Mask, inputs: &[&TrackedTensor], _: usize) -> Result<Option<Values>> {
        let op = Self { over: self.over.batched(), ..*self };
        Ok(Some(smallvec![apply_one(&op, inputs)?]))
    }
    fn decompose(&self, inputs: &[&TrackedTensor]) -> Result<Option<Values>> {
        let x = inputs[0];
        let d = algebra::sub(x, &self.mean(x)?)?;
        let sum = sum_over(&algebra::mul(&d, &d)?, self.over)?;
        Ok(Some(smallvec![algebra::scale(&sum, self.factor(x.shape()))?]))
    }
}

impl General for Variance {
    fn residuals(&self, _: Mask) -> Residuals {
        smallvec![Residual::Input(0)]
    }

    // dx = 2/(n − c)·ct·(x − mean).
    fn vjp(&self, _: Mask, cts: &[Option<TrackedTensor>], saved: &Saved<'_>) -> Result<Grads> {
        let Some(ct) = &cts[0] else { return Ok(smallvec![None]) };
        let x = saved.input(0)?;
        let ct = kept_of(ct, self.over, x.shape())?;
        let factor = 2.0 * self.factor(x.shape());
        Ok(smallvec![Some(pointwise_with(&DEVIATION, &[factor], &[&ct, x, &self.mean(x)?])?)])
    }

    // dy = 2/(n − c)·Σ dx·(x − mean); the mean's own tangent drops out, since Σ (x − mean) = 0.
    fn jvp(
        &self,
        inputs: &[&TrackedTensor],
        _: &[TrackedTensor],
        tangents: &[Option<TrackedTensor>],
    ) -> Result<Option<SmallVec<[Option<TrackedTensor>; 2]>>> {
        let Some(dx) = &tangents[0] else { return Ok(Some(smallvec![None])) };
        let x = inputs[0];
        let factor = 2.0 * self.factor(x.shape());
        let terms = pointwise_with(&DEVIATION, &[factor], &[dx, x, &self.mean(x)?])?;
        Ok(Some(smallvec![Some(sum_over(&terms, self.over)?)]))
    }
}

/// The variance Σ (x − mean)² / (n − 1) along one dimension, which goes; NaN of one element.
///
/// # Errors
/// A dimension that x does not have; an integer type.
#[track_caller]
pub fn var(x: &TrackedTensor, dim: impl Dim) -> Result<TrackedTensor> {
    apply_one(&Variance { over: Over::one("var", x, dim, false)?, correction: 1 }, &[x])
}

/// The variance along one dimension, which stays with extent 1.
///
/// # Errors
/// As [`var`].
#[track_caller]
pub fn var_keepdim(x: &TrackedTensor, dim: impl Dim) -> Result<TrackedTensor> {
    apply_one(&Variance { over: Over::one("var", x, dim, true)?, correction: 1 }, &[x])
}

/// The variance Σ (x − mean)² / (n − correction) over the given dimensions: correction 1 for a
/// sample, 0 for a population.
///
/// # Errors
/// A dimension that x does not have, or one named twice; an integer type.
#[track_caller]
pub fn var_dims(
    x: &TrackedTensor,
    dims: impl Numbers,
    correction: usize,
    keepdim: bool,
) -> Result<TrackedTensor> {
    apply_one(&Variance { over: Over::some("var", x, dims, keepdim)?, correction }, &[x])
}

/// The variance of all elements, rank 0.
///
/// # Errors
/// An integer type.
#[track_caller]
pub fn var_all(x: &TrackedTensor) -> Result<TrackedTensor> {
    apply_one(&Variance { over: Over::all(x), correction: 1 }, &[x])
}

/// The standard deviation √var along one dimension, which goes. Where it is 0 so is its gradient,
/// as in PyTorch.
///
/// # Errors
/// As [`var`].
#[track_caller]
pub fn std(x: &TrackedTensor, dim: impl Dim) -> Result<TrackedTensor> {
    pointwise(&ROOT, &[&var(x, dim)?])
}

/// The standard deviation along one dimension, which stays with extent 1.
///
/// # Errors
/// As [`var`].
#[track_caller]
pub fn std_keepdim(x: &TrackedTensor, dim: impl Dim) -> Result<TrackedTensor> {
    pointwise(&ROOT, &[&var_keepdim(x, dim)?])
}

/// The standard deviation over the given dimensions; see [`var_dims`].
///
/// # Errors
/// As [`var_dims`].
#[track_caller]
pub fn std_dims(
    x: &TrackedTensor,
    dims: impl Numbers,
    correction: usize,
    keepdim: bool,
) -> Result<TrackedTensor> {
    pointwise(&ROOT, &[&var_dims(x, dims, correction, keepdim)?])
}

/// The standard deviation of all elements, rank 0.
///
/// # Errors
/// An integer type.
#[track_caller]
pub fn std_all(x: &TrackedTensor) -> Result<TrackedTensor> {
    pointwise(&ROOT, &[&var_all(x)?])
}

/// The Euclidean norm √Σ x² of all elements, rank 0. The zero vector has gradient 0, as in PyTorch.
///
/// # Errors
/// An integer type.
#[track_caller]
pub fn norm(x: &TrackedTensor) -> Result<TrackedTensor> {
    pointwise(&ROOT, &[&sum_over(&algebra::mul(x, x)?, Over::all(x))?])
}

/// The p-norm (Σ |x|ᵖ)^(1/p) over the given dimensions; max |x| for p = ∞, min |x| for −∞, the
/// number of elements that are not 0 for p = 0.
///
/// A zero vector has gradient 0 for every p, and a zero element has 0 in it, also where p < 1; for
/// p = ±∞ equal extrema share the cotangent evenly. All as in PyTorch.
///
/// # Errors
/// A dimension that x does not have, or one named twice; an integer type; NaN for p.
#[track_caller]
pub fn norm_p(x: &TrackedTensor, p: f64, dims: impl Numbers, keepdim: bool) -> Result<TrackedTensor> {
    let over = Over::some("norm", x, dims, keepdim)?;
    if p.is_nan() {
        return Err(Error::argument("norm", "the exponent is NaN").or_at(autograd_core::Site::caller()));
    }
    if p.is_infinite() {
        return largest_size(x, p > 0.0, over);
    }
    if p == 0.0 {
        return sum_over(&pointwise(&NOT_ZERO, &[x])?, over);
    }
    if p == 1.0 {
        return sum_over(&pointwise(&SIZE, &[x])?, over);
    }
    if p == 2.0 {
        return pointwise(&ROOT, &[&sum_over(&algebra::mul(x, x)?, over)?]);
    }
    let sum = sum_over(&pointwise_with(&POWER, &[p], &[x])?, over)?;
    pointwise_with(&POWER, &[1.0 / p], &[&sum])
}

/// The ops of this file.
pub fn ops() -> Vec<Op> {
    let op = |name, formula, cases| Op { name, family: Family::Reduction, formula, cases };
    fn exact(values: &[f64]) -> Vec<Sample> {
        vec![Sample::Exact { dims: vec![values.len()], values: values.to_vec() }]
    }
    fn spreads(
        all: fn(&TrackedTensor) -> Result<TrackedTensor>,
        dim: fn(&TrackedTensor, isize) -> Result<TrackedTensor>,
        dims: fn(&TrackedTensor, &[isize], bool) -> Result<TrackedTensor>,
    ) -> Vec<Case> {
        let mut cases = variants(all, dim, dims, Sample::distinct);
        // One element has no variance.
        cases.retain(|case| case.label != "rank 0" && case.label != "extent 1");
        cases
    }
    vec![
        op("var", "Σ (x − mean)² / (n − correction)", || {
            let mut cases = spreads(var_all, var, |x, dims, keepdim| var_dims(x, dims, 1, keepdim));
            let sample = vec![Sample::float(&[2, 3])];
            cases.push(Case::new("a population", sample.clone(), |x| var_dims(&x[0], -1, 0, false)));
            cases.push(Case::new("keepdim", sample, |x| var_keepdim(&x[0], 0)));
            cases
        }),
        op("std", "√var; gradient 0 where it is 0", || {
            let mut cases = spreads(std_all, std, |x, dims, keepdim| std_dims(x, dims, 0, keepdim));
            cases.push(Case::new("keepdim", vec![Sample::distinct(&[2, 3])], |x| std_keepdim(&x[0], 0)));
            cases.push(Case::new("equal elements", exact(&[2., 2., 2.]), |x| std(&x[0], 0)).at_a_kink());
            cases
        }),
        op("norm", "(Σ |x|ᵖ)^(1/p); the zero vector has gradient 0", || {
            let mut cases = vec![
                Case::new("all elements", vec![Sample::between(&[2, 3], 0.5, 1.5)], |x| norm(&x[0])),
                Case::new("the zero vector", exact(&[0.; 4]), |x| norm(&x[0])).at_a_kink(),
            ];
            for p in [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, -1.0, f64::INFINITY, f64::NEG_INFINITY] {
                let run = move |x: &[TrackedTensor]| norm_p(&x[0], p, -1, false);
                cases.push(Case::new(&format!("p = {p}"), vec![Sample::between(&[2, 3], 0.5, 1.5)], run));
                // At the zero vector p < 0 has no finite value.
                if p >= 0.0 {
                    let label = format!("p = {p} of the zero vector");
                    cases.push(Case::new(&label, exact(&[0.; 4]), run).at_a_kink());
                    let label = format!("p = {p} with a zero element");
                    cases.push(Case::new(&label, exact(&[1., 0., -2.]), run).at_a_kink());
                }
            }
            cases
        }),
    ]
}

/// The methods of this file.
#[macro_export]
#[doc(hidden)]
macro_rules! spread_methods {
    ($($callback:tt)*) => {
        $($callback)* {
            unary {
                /// The variance of all elements, rank 0.
                var_all = $crate::spread::var_all;
                /// The standard deviation of all elements, rank 0.
                std_all = $crate::spread::std_all;
                /// The Euclidean norm of all elements, rank 0.
                norm = $crate::spread::norm;
            }
            binary {}
            other {
                /// The variance along one dimension, which goes.
                var(dim: impl $crate::Dim) -> TrackedTensor = $crate::spread::var;
                /// The variance along one dimension, which stays with extent 1.
                var_keepdim(dim: impl $crate::Dim) -> TrackedTensor = $crate::spread::var_keepdim;
                /// The variance over dimensions, with n − correction in the denominator.
                var_dims(dims: impl $crate::Numbers, correction: usize, keepdim: bool) -> TrackedTensor = $crate::spread::var_dims;
                /// The standard deviation along one dimension, which goes.
                std(dim: impl $crate::Dim) -> TrackedTensor = $crate::spread::std;
                /// The standard deviation along one dimension, which stays with extent 1.
                std_keepdim(dim: impl $crate::Dim) -> TrackedTensor = $crate::spread::std_keepdim;
                /// The standard deviation over dimensions.
                std_dims(dims: impl $crate::Numbers, correction: usize, keepdim: bool) -> TrackedTensor = $crate::spread::std_dims;
                /// The p-norm over dimensions.
                norm_p(p: f64, dims: impl $crate::Numbers, keepdim: bool) -> TrackedTensor = $crate::spread::norm_p;
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use autograd_tape::GradientTape;

    #[test]
    fn the_norm_of_the_zero_vector_has_gradient_zero() -> Result<()> {
        for p in [0.0, 0.5, 1.0, 1.5, 2.0, 3.0] {
            let tape = GradientTape::new().persistent();
            let x = tape.variable(TrackedTensor::from_vec(vec![0f64; 3], &[3])?);
            let y = norm_p(&x, p, 0, false)?;
            let dx = match tape.derivative(&y, &x) {
                Ok(dx) => dx.to_vec1::<f64>()?,
                // p = 0 counts: nothing is recorded.
                Err(Error::Untracked { .. }) if p == 0.0 => vec![0.; 3],
                Err(error) => return Err(error),
            };
            assert_eq!(dx, [0.; 3], "p = {p}");
        }
        Ok(())
    }

    #[test]
    fn the_deviation_of_equal_elements_has_gradient_zero() -> Result<()> {
        let tape = GradientTape::new();
        let x = tape.variable(TrackedTensor::from_vec(vec![2f64; 3], &[3])?);
        assert_eq!(tape.derivative(&std(&x, 0)?, &x)?.to_vec1::<f64>()?, [0.; 3]);
        Ok(())
    }

    #[test]
    fn values_are_those_of_pytorch() -> Result<()> {
        let x = TrackedTensor::from_vec(vec![1f64, 2., 4.], &[3])?;
        assert!((var(&x, 0)?.to_vec0::<f64>()? - 7. / 3.).abs() < 1e-15);
        assert!((var_dims(&x, 0, 0, false)?.to_vec0::<f64>()? - 14. / 9.).abs() < 1e-15);
        assert_eq!(norm(&TrackedTensor::from_vec(vec![3f64, 4.], &[2])?)?.to_vec0::<f64>()?, 5.);
        let one = TrackedTensor::from_vec(vec![3f64], &[1])?;
        assert!(var(&one, 0)?.to_vec0::<f64>()?.is_nan());
        assert_eq!(norm_p(&x, f64::INFINITY, 0, false)?.to_vec0::<f64>()?, 4.);
        Ok(())
    }
}
