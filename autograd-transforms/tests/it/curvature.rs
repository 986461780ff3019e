//! Curvature operators against matrices put together from dense Jacobians and Hessians.

use crate::dense::{distance, hessian, jacobian, normal};
use autograd_core::{Error, Result, TrackedTensor};
use autograd_forward::jvp;
use autograd_ops::{TensorAutograd, random};
use autograd_tape::GradientTape;
use autograd_transforms::ParameterLayout;
use autograd_transforms::curvature::{
    Fisher, GaussNewton, HessianOperator, JacobianOperator, KroneckerFactors, Layers, Likelihood,
    kronecker_factors, natural_gradient,
};
use autograd_transforms::operators::{Cholesky, Damped, LinearOperator};

/// The same sums in another order.
const ROUNDING: f64 = 1e-11;

/// A network with one hidden layer: 2 inputs, 3 hidden, `out` outputs.
#[allow(clippy::ptr_arg, reason = "what a list of parameters becomes is a Vec")]
fn net(p: &Vec<TrackedTensor>, x: &TrackedTensor) -> Result<TrackedTensor> {
    x.matmul(&p[0])?.add(&p[1])?.tanh()?.matmul(&p[2])
}

fn parameters(out: usize) -> Result<Vec<TrackedTensor>> {
    Ok(vec![normal(1, &[2, 3])?, normal(2, &[3])?, normal(3, &[3, out])?])
}

/// The operator written out, a column a product.
fn dense(operator: &dyn LinearOperator) -> Result<Vec<Vec<f64>>> {
    let mut rows = vec![vec![0.0; operator.columns()]; operator.rows()];
    for j in 0..operator.columns() {
        let mut unit = vec![0f64; operator.columns()];
        unit[j] = 1.0;
        let column = operator.matvec(&TrackedTensor::from_vec(unit, &[operator.columns()])?)?;
        for (row, value) in rows.iter_mut().zip(column.to_vec1::<f64>()?) {
            row[j] = value;
        }
    }
    Ok(rows)
}

/// ⟨u, A·v⟩ = ⟨Aᵀ·u, v⟩.
fn check_adjoint(operator: &dyn LinearOperator) -> Result<()> {
    let (u, v) = (normal(8, &[operator.rows()])?, normal(9, &[operator.columns()])?);
    let left = operator.matvec(&v)?.dot(&u)?.to_scalar::<f64>()?;
    let right = operator.adjoint(&u)?.dot(&v)?.to_scalar::<f64>()?;
    assert!((left - right).abs() < ROUNDING * (1.0 + left.abs()), "{left} {right}");
    Ok(())
}

fn close(found: &[Vec<f64>], wanted: &[Vec<f64>]) {
    let distance = distance(&found.concat(), &wanted.concat());
    assert!(distance < ROUNDING, "{distance:e}");
}

/// AᵀBA for matrices given by rows.
fn sandwich(a: &[Vec<f64>], b: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let (m, n) = (a.len(), a[0].len());
    let entry = |i: usize, j: usize| {
        (0..m).map(|k| a[k][i] * (0..m).map(|l| b[k][l] * a[l][j]).sum::<f64>()).sum::<f64>()
    };
    (0..n).map(|i| (0..n).map(|j| entry(i, j)).collect()).collect()
}

#[test]
fn jacobians_and_hessians_are_those_of_the_oracle() -> Result<()> {
    let p = parameters(2)?;
    let refs: Vec<&TrackedTensor> = p.iter().collect();
    let x = normal(4, &[5, 2])?;
    let layout = ParameterLayout::of(&refs)?;
    let flat = layout.flatten(&refs)?;
    let f = |v: &TrackedTensor| net(&layout.unflatten(v)?, &x);
    let operator = JacobianOperator::new(|p| net(p, &x), &refs)?;
    close(&dense(&operator)?, &jacobian(f, &flat)?);
    check_adjoint(&operator)?;
    let loss = |v: &TrackedTensor| f(v)?.sin()?.sum();
    let curved = HessianOperator::new(|p| net(p, &x)?.sin()?.sum(), &refs)?;
    close(&dense(&curved)?, &hessian(loss, &flat)?);
    check_adjoint(&curved)?;
    let slope = crate::dense::gradient(loss, &flat)?;
    assert!(distance(&curved.gradient()?.to_vec1::<f64>()?, &slope.to_vec1::<f64>()?) < ROUNDING);
    Ok(())
}

#[test]
fn functions_without_curvature_or_parameters_give_zeros() -> Result<()> {
    let (a, b) = (normal(1, &[2])?, normal(2, &[3])?);
    let linear = HessianOperator::new(|p| p[0].sum(), &[&a, &b])?;
    assert_eq!(dense(&linear)?, vec![vec![0.0; 5]; 5]);
    let constant = JacobianOperator::new(|_| normal(3, &[4]), &[&a, &b])?;
    assert_eq!(dense(&constant)?, vec![vec![0.0; 5]; 4]);
    assert_eq!(constant.adjoint(&normal(3, &[4])?)?.to_vec1::<f64>()?, [0.0; 5]);
    let partly = JacobianOperator::new(|p| p[1].sqr(), &[&a, &b])?;
    check_adjoint(&partly)?;
    assert_eq!(dense(&partly)?[0][..2], [0.0, 0.0]);
    Ok(())
}

#[test]
fn gauss_newton_is_the_sandwich_of_its_parts() -> Result<()> {
    let p = parameters(3)?;
    let refs: Vec<&TrackedTensor> = p.iter().collect();
    let x = normal(4, &[6, 2])?;
    let targets = TrackedTensor::from_vec(vec![0i64, 2, 1, 1, 0, 2], &[6])?;
    let loss = |z: &TrackedTensor| Likelihood::Categorical.negative_log(z, &targets);
    let matrix = GaussNewton::new(|p| net(p, &x), loss, &refs)?;
    let layout = ParameterLayout::of(&refs)?;
    let flat = layout.flatten(&refs)?;
    let model = |v: &TrackedTensor| net(&layout.unflatten(v)?, &x);
    let wanted = sandwich(&jacobian(model, &flat)?, &hessian(loss, &model(&flat)?)?);
    close(&dense(&matrix)?, &wanted);
    check_adjoint(&matrix)?;
    let slope = crate::dense::gradient(|v| loss(&model(v)?), &flat)?;
    assert!(distance(&matrix.gradient()?.to_vec1::<f64>()?, &slope.to_vec1::<f64>()?) < ROUNDING);
    Ok(())
}

/// The gradient of each example's log-likelihood, one row each.
fn single_gradients(
    likelihood: Likelihood,
    out: usize,
    x: &TrackedTensor,
    targets: &TrackedTensor,
) -> Result<Vec<Vec<f64>>> {
    let p = parameters(out)?;
    (0..x.dims()[0])
        .map(|i| {
            let tape = GradientTape::new();
            let p: Vec<TrackedTensor> = p.iter().map(|p| tape.variable(p)).collect();
            let z = net(&p, &x.narrow(0, i, 1)?)?;
            let loss = likelihood.negative_log(&z, &targets.narrow(0, i, 1)?)?.neg()?;
            let grads = tape.gradient(&loss, &p.iter().collect::<Vec<_>>())?;
            let flat: Vec<Vec<f64>> = grads.iter().map(|g| g.to_flat::<f64>()).collect::<Result<_>>()?;
            Ok(flat.concat())
        })
        .collect()
}

#[test]
fn empirical_fisher_is_the_second_moment_of_single_gradients() -> Result<()> {
    let x = normal(4, &[70, 2])?;
    let classes = TrackedTensor::from_vec((0..70).map(|i| (i * i) % 3).collect::<Vec<i64>>(), &[70])?;
    let yes = normal(5, &[70, 2])?.gt(0.0)?.to_dtype(candle_core::DType::F64)?;
    for (likelihood, out, targets) in [
        (Likelihood::Categorical, 3, classes),
        (Likelihood::Bernoulli, 2, yes),
        (Likelihood::Gaussian { deviation: 0.7 }, 2, normal(6, &[70, 2])?),
    ] {
        let p = parameters(out)?;
        let refs: Vec<&TrackedTensor> = p.iter().collect();
        let fisher = Fisher::empirical(net, &refs, &x, likelihood, &targets)?;
        let single = single_gradients(likelihood, out, &x, &targets)?;
        let n = fisher.columns();
        let entry = |i: usize, j: usize| single.iter().map(|g| g[i] * g[j]).sum::<f64>() / 70.0;
        let wanted: Vec<Vec<f64>> = (0..n).map(|i| (0..n).map(|j| entry(i, j)).collect()).collect();
        close(&dense(&fisher)?, &wanted);
        check_adjoint(&fisher)?;
        let diagonal: Vec<f64> = (0..n).map(|i| wanted[i][i]).collect();
        assert!(distance(&fisher.diagonal()?.to_vec1::<f64>()?, &diagonal) < ROUNDING);
        let block = fisher.blocks()?[1].matrix().to_vec2::<f64>()?;
        let wanted: Vec<Vec<f64>> = (6..9).map(|i| wanted[i][6..9].to_vec()).collect();
        close(&block, &wanted);
    }
    Ok(())
}

#[test]
fn the_sampled_fisher_tends_to_the_gauss_newton_matrix() -> Result<()> {
    /// 2,000 samples of 20 examples: entries of size below 1 with deviations of a few hundredths.
    const SAMPLING: f64 = 0.05;
    let x = normal(4, &[20, 2])?;
    for (likelihood, out) in [
        (Likelihood::Categorical, 3),
        (Likelihood::Bernoulli, 2),
        (Likelihood::Gaussian { deviation: 1.5 }, 2),
    ] {
        let p = parameters(out)?;
        let refs: Vec<&TrackedTensor> = p.iter().collect();
        let fisher = Fisher::sampled(net, &refs, &x, likelihood, 2000, &random::key(5))?;
        let targets = likelihood.sample(&fisher.outputs(), &random::key(6))?;
        let loss = |z: &TrackedTensor| likelihood.negative_log(z, &targets);
        let exact = GaussNewton::new(|p| net(p, &x), loss, &refs)?;
        let v = normal(7, &[fisher.columns()])?;
        let size = exact.matvec(&v)?.sqr()?.sum()?.sqrt()?.to_scalar::<f64>()?;
        let off = fisher.matvec(&v)?.sub(&exact.matvec(&v)?)?.sqr()?.sum()?.sqrt()?.to_scalar::<f64>()?;
        assert!(off < SAMPLING * size, "{likelihood:?}: {off} of {size}");
    }
    Ok(())
}

#[test]
fn the_natural_gradient_solves_the_damped_system() -> Result<()> {
    let p = parameters(3)?;
    let refs: Vec<&TrackedTensor> = p.iter().collect();
    let x = normal(4, &[30, 2])?;
    let fisher = Fisher::sampled(net, &refs, &x, Likelihood::Categorical, 4, &random::key(5))?;
    let gradient = normal(7, &[fisher.columns()])?;
    let step = natural_gradient(&fisher, &gradient, 0.01, &Default::default())?;
    assert!(step.converged);
    let back = Damped::new(&fisher, 0.01)?.matvec(&step.x)?;
    assert!(distance(&back.to_vec1::<f64>()?, &gradient.to_vec1::<f64>()?) < 1e-8);
    Ok(())
}

#[test]
fn kronecker_factors_are_exact_for_one_example() -> Result<()> {
    let (w, b) = (normal(1, &[3, 2])?, normal(2, &[3])?);
    let x = normal(4, &[1, 2])?;
    let key = random::key(3);
    let model = |p: &Vec<TrackedTensor>, layers: &mut Layers| layers.linear(&x, &p[0], Some(&p[1]));
    let factors = kronecker_factors(model, &vec![&w, &b], Likelihood::Categorical, &key)?;
    // The same target, by hand: rows of (W, b) end to end.
    let z = x.matmul(&w.t()?)?.add(&b)?;
    let targets = Likelihood::Categorical.sample(&z, &key)?;
    let score = Likelihood::Categorical.score(&z, &targets)?.to_flat::<f64>()?;
    let mut a = x.to_flat::<f64>()?;
    a.push(1.0);
    let gradient: Vec<f64> = score.iter().flat_map(|g| a.iter().map(move |a| g * a)).collect();
    let wanted: Vec<Vec<f64>> = gradient.iter().map(|g| gradient.iter().map(|h| g * h).collect()).collect();
    close(&dense(&factors[0])?, &wanted);
    check_adjoint(&factors[0])
}

#[test]
fn kronecker_factors_of_a_convolution_are_exact_where_the_window_fits_once() -> Result<()> {
    let (w, b) = (normal(1, &[3, 2, 2, 2])?, normal(2, &[3])?);
    let x = normal(4, &[1, 2, 2, 2])?;
    let key = random::key(3);
    let model = |p: &Vec<TrackedTensor>, layers: &mut Layers| {
        layers.conv2d(&x, &p[0], Some(&p[1]), 0, 1)?.reshape((1, 3))
    };
    let factors = kronecker_factors(model, &vec![&w, &b], Likelihood::Categorical, &key)?;
    let tape = GradientTape::new();
    let (wv, bv) = (tape.variable(&w), tape.variable(&b));
    let z = x.conv2d(&wv, 0, 1, 1, 1)?.add(&bv.reshape((1, 3, 1, 1))?)?.reshape((1, 3))?;
    let targets = Likelihood::Categorical.sample(&z.detach()?, &key)?;
    let log = Likelihood::Categorical.negative_log(&z, &targets)?.neg()?;
    let grads = tape.gradient(&log, &[&wv, &bv])?;
    let rows =
        TrackedTensor::cat(&[grads[0].reshape((3, 8))?, grads[1].reshape((3, 1))?], 1)?.to_flat::<f64>()?;
    let wanted: Vec<Vec<f64>> = rows.iter().map(|g| rows.iter().map(|h| g * h).collect()).collect();
    close(&dense(&factors[0])?, &wanted);
    // With several places, A sums over them and G averages: traces say so.
    let x = normal(5, &[4, 2, 5, 6])?;
    let g = normal(6, &[4, 3, 5, 6])?;
    let many = KroneckerFactors::conv2d(&x, &g, (3, 3), 1, 1, true)?;
    assert_eq!((many.inputs().dims(), many.gradients().dims()), (&[19, 19][..], &[3, 3][..]));
    assert!((many.inputs().to_vec2::<f64>()?[18][18] - 30.0).abs() < ROUNDING, "30 places, 1 each");
    let square: f64 = g.sqr()?.sum()?.to_scalar::<f64>()? / 120.0;
    let trace: f64 = many.gradients().to_vec2::<f64>()?.iter().enumerate().map(|(i, row)| row[i]).sum();
    assert!((trace - square).abs() < ROUNDING);
    Ok(())
}

#[test]
fn the_kronecker_solve_inverts_the_damped_product() -> Result<()> {
    let (a, g) = (normal(1, &[20, 3])?, normal(2, &[20, 2])?);
    let factors = KroneckerFactors::linear(&a, &g, true)?;
    let (dw, db) = (normal(3, &[2, 3])?, normal(4, &[2])?);
    let damping = 0.3f64;
    let (w, b) = factors.solve(&dw, Some(&db), damping)?;
    // (G + √λ/π)·X·(A + π√λ) gives the gradients back.
    let trace = |m: &TrackedTensor| -> Result<f64> {
        Ok(m.to_vec2::<f64>()?.iter().enumerate().map(|(i, row)| row[i]).sum())
    };
    let pi = ((trace(factors.inputs())? / 4.0) / (trace(factors.gradients())? / 2.0)).sqrt();
    let damp = |m: &TrackedTensor, d: f64| -> Result<TrackedTensor> {
        let n = m.dims()[0];
        let mut all = m.to_flat::<f64>()?;
        (0..n).for_each(|i| all[i * n + i] += d);
        TrackedTensor::from_vec(all, &[n, n])
    };
    let x = TrackedTensor::cat(&[w, b.expect("a bias").unsqueeze(1)?], 1)?;
    let left = damp(factors.gradients(), damping.sqrt() / pi)?;
    let back = left.matmul(&x)?.matmul(&damp(factors.inputs(), damping.sqrt() * pi)?)?;
    let wanted = TrackedTensor::cat(&[dw.clone(), db.unsqueeze(1)?], 1)?;
    assert!(distance(&back.to_flat::<f64>()?, &wanted.to_flat::<f64>()?) < ROUNDING);
    assert!(Cholesky::new(&left)?.log_determinant().is_finite());
    let mut mean = factors.clone();
    mean.update(&KroneckerFactors::linear(&a.mul(2.0)?, &g, true)?, 0.75)?;
    assert!(
        (mean.inputs().to_vec2::<f64>()?[0][0] / factors.inputs().to_vec2::<f64>()?[0][0] - 1.75).abs()
            < ROUNDING
    );
    Ok(())
}

#[test]
fn products_are_differentiable_from_outside() -> Result<()> {
    // The Hessian of x³ along v is 6xv; along x it moves by 6v.
    let x = TrackedTensor::from_vec(vec![1f64, 2.], &[2])?;
    let v = TrackedTensor::from_vec(vec![1f64, 1.], &[2])?;
    let product = |x: &TrackedTensor| HessianOperator::new(|x| x.powf(3.)?.sum(), x)?.matvec(&v);
    let (hv, moved) = jvp(product, &x, &v)?;
    assert_eq!(hv.to_vec1::<f64>()?, [6., 12.]);
    assert_eq!(moved.to_vec1::<f64>()?, [6., 6.]);
    Ok(())
}

#[test]
fn bad_input_is_a_typed_error() -> Result<()> {
    let p = parameters(3)?;
    let refs: Vec<&TrackedTensor> = p.iter().collect();
    let x = normal(4, &[5, 2])?;
    let whole = TrackedTensor::from_vec(vec![1i64], &[1])?;
    assert!(matches!(ParameterLayout::of(&()).expect_err("none"), Error::InvalidArgument { .. }));
    assert!(matches!(ParameterLayout::of(&whole).expect_err("integers"), Error::NotDifferentiable { .. }));
    assert!(matches!(
        ParameterLayout::of(&(&x, &whole)).expect_err("two types"),
        Error::DTypeMismatch { .. }
    ));
    let layout = ParameterLayout::of(&refs)?;
    assert!(matches!(layout.unflatten(&x).expect_err("a matrix"), Error::Mismatch { .. }));
    assert!(matches!(layout.flatten(&x).expect_err("one of three"), Error::Shape { .. }));
    let not_scalar = HessianOperator::new(|p| p[0].sqr(), &refs).expect_err("a matrix");
    assert!(matches!(not_scalar, Error::NonScalarTarget { .. }));
    let key = random::key(1);
    let none = Fisher::sampled(net, &refs, &x, Likelihood::Categorical, 0, &key).expect_err("no samples");
    assert!(matches!(none, Error::InvalidArgument { .. }), "{none}");
    let flat = |p: &Vec<TrackedTensor>, x: &TrackedTensor| net(p, x)?.flatten_all();
    let unfit = Fisher::sampled(flat, &refs, &x, Likelihood::Categorical, 1, &key).expect_err("no classes");
    assert!(matches!(unfit, Error::Shape { .. }), "{unfit}");
    let width = Likelihood::Gaussian { deviation: 0.0 };
    assert!(Fisher::sampled(net, &refs, &x, width, 1, &key).is_err());
    let mixed = |p: &Vec<TrackedTensor>, x: &TrackedTensor| net(p, x)?.narrow(0, 0, 3);
    let unfit =
        Fisher::sampled(mixed, &refs, &x, Likelihood::Categorical, 1, &key).expect_err("lost examples");
    assert!(matches!(unfit, Error::Shape { .. }), "{unfit}");
    let silent = kronecker_factors(|p, _| net(p, &x), &refs, Likelihood::Categorical, &key);
    assert!(silent.expect_err("no layers").to_string().contains("none of the layers"));
    assert!(KroneckerFactors::linear(&x, &normal(1, &[4, 2])?, true).is_err());
    let factors = KroneckerFactors::linear(&x, &normal(1, &[5, 2])?, false)?;
    assert!(factors.solve(&normal(1, &[3, 3])?, None, 0.1).is_err());
    assert!(factors.solve(&normal(1, &[2, 2])?, None, 0.0).is_err());
    Ok(())
}
