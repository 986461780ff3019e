//! Implicit functions against what is known of them, to second order and in every mode.

use crate::dense::{distance, gradient, hessian, jacobian, normal};
use autograd_core::{Error, Result, TrackedTensor};
use autograd_forward::jvp;
use autograd_ops::TensorAutograd;
use autograd_tape::GradientTape;
use autograd_transforms::implicit::{
    Adjoint, LinearSolver, OdeOptions, SolveOptions, argmin, fixed_point, linear_solve, ode_solve, root,
};
use autograd_transforms::vmap;

/// Newton's last step and the rounding of a few solves.
const SOLVED: f64 = 1e-9;

fn scalar(x: f64) -> TrackedTensor {
    TrackedTensor::scalar(x)
}

fn number(x: &TrackedTensor) -> Result<f64> {
    x.to_scalar::<f64>()
}

/// y with y² = x³.
fn power(x: &TrackedTensor) -> Result<TrackedTensor> {
    root(|y| y.sqr()?.sub(&x.powf(3.)?), &scalar(1.0), &SolveOptions::default())
}

#[test]
fn the_root_of_the_book_is_right_to_third_order_in_all_nestings() -> Result<()> {
    // y = x^1.5: derivatives 1.5·x^0.5, 0.75·x^−0.5, −0.375·x^−1.5.
    let x = scalar(5.0);
    assert!((number(&power(&x)?)? - 11.18033989).abs() < 1e-8);
    let first = |x: &TrackedTensor| gradient(power, x);
    assert!((number(&first(&x)?)? - 3.35410197).abs() < 1e-8);
    let second = 0.75 / 5f64.sqrt();
    let third = -0.375 / 5f64.powf(1.5);
    assert!((number(&gradient(first, &x)?)? - second).abs() < SOLVED, "reverse over reverse");
    let forward = |x: &TrackedTensor| Ok(jvp(power, x, &scalar(1.0))?.1);
    assert!((number(&forward(&x)?)? - 3.35410197).abs() < 1e-8, "forward");
    assert!((number(&gradient(forward, &x)?)? - second).abs() < SOLVED, "reverse over forward");
    let (_, dy) = jvp(first, &x, &scalar(1.0))?;
    assert!((number(&dy)? - second).abs() < SOLVED, "forward over reverse");
    assert!((number(&gradient(|x| gradient(first, x), &x)?)? - third).abs() < SOLVED, "third order");
    // One persistent tape, differentiated again and again.
    let tape = GradientTape::new().persistent();
    let v = tape.variable(&x);
    let dy = tape.derivative(&power(&v)?, &v)?;
    let ddy = tape.derivative(&dy, &v)?;
    assert!((number(&ddy)? - second).abs() < SOLVED, "persistent tape");
    assert!((number(&tape.derivative(&ddy, &v)?)? - third).abs() < SOLVED, "persistent tape, third order");
    Ok(())
}

/// z ↦ the solution u of A·u + u³ = θ for a fixed definite A.
fn cubic(theta: &TrackedTensor) -> Result<TrackedTensor> {
    let n = theta.elem_count();
    let b = normal(1, &[n, n])?;
    let a = b.matmul(&b.t()?)?;
    root(|u| a.mv(u)?.add(&u.powf(3.)?)?.sub(theta), &theta.mul(0.0)?, &SolveOptions::default())
}

#[test]
fn roots_of_systems_have_the_jacobian_of_the_theorem() -> Result<()> {
    let theta = normal(2, &[4])?;
    let u = cubic(&theta)?;
    let equation = |u: &TrackedTensor| {
        let b = normal(1, &[4, 4])?;
        b.matmul(&b.t()?)?.mv(u)?.add(&u.powf(3.)?)
    };
    let residual = equation(&u)?.sub(&theta)?.to_vec1::<f64>()?;
    assert!(distance(&residual, &[0.0; 4]) < SOLVED);
    // The Jacobian of the inverse function is the inverse: their product is 1.
    let (inverse, forward) = (jacobian(cubic, &theta)?, jacobian(equation, &u)?);
    for (i, row) in inverse.iter().enumerate() {
        for j in 0..4 {
            let entry: f64 = row.iter().zip(&forward).map(|(a, b)| a * b[j]).sum();
            assert!((entry - f64::from(u8::from(i == j))).abs() < SOLVED, "({i}, {j}): {entry}");
        }
    }
    // Second order against central differences of first order.
    const STEP: f64 = 1e-5;
    const DIFFERENCES: f64 = 1e-7;
    let scalar_of = |t: &TrackedTensor| cubic(t)?.sin()?.sum();
    let second = hessian(scalar_of, &theta)?;
    for j in 0..4 {
        let unit = crate::dense::unit(j, &theta)?.mul(STEP)?;
        let (up, down) = (gradient(scalar_of, &theta.add(&unit)?)?, gradient(scalar_of, &theta.sub(&unit)?)?);
        let numeric = up.sub(&down)?.mul(0.5 / STEP)?.to_vec1::<f64>()?;
        let column: Vec<f64> = second.iter().map(|row| row[j]).collect();
        assert!(distance(&numeric, &column) < DIFFERENCES);
    }
    Ok(())
}

#[test]
fn derivatives_ride_on_vmap() -> Result<()> {
    let theta = normal(2, &[3])?;
    let units = TrackedTensor::from_vec(vec![1f64, 0., 0., 0., 1., 0., 0., 0., 1.], &[3, 3])?;
    let dense = jacobian(cubic, &theta)?.concat();
    let columns = vmap(|v: &TrackedTensor| Ok(jvp(cubic, &theta, v)?.1), &units, 0)?;
    assert!(distance(&columns.t()?.to_flat::<f64>()?, &dense) < SOLVED);
    let pull = |v: &TrackedTensor| {
        let tape = GradientTape::new();
        let t = tape.variable(&theta);
        tape.gradient_with(&[&cubic(&t)?], &[v], &[&t])
    };
    let rows = vmap(pull, &units, 0)?;
    assert!(distance(&rows[0].to_flat::<f64>()?, &dense) < SOLVED);
    // A batch of problems is a loop of them.
    let thetas = normal(5, &[2, 3])?;
    let batch = vmap(cubic, &thetas, 0)?.to_vec2::<f64>()?;
    for (i, row) in batch.iter().enumerate() {
        let one = cubic(&thetas.narrow(0, i, 1)?.squeeze(0)?)?.to_vec1::<f64>()?;
        assert!(distance(row, &one) < SOLVED);
    }
    Ok(())
}

#[test]
fn fixed_points_and_minima_have_known_derivatives() -> Result<()> {
    // cos(a·y) = y: ẏ = −y·sin(ay)/(1 + a·sin(ay)).
    let kepler = |a: &TrackedTensor| fixed_point(|y| a.mul(y)?.cos(), &scalar(0.5), &SolveOptions::default());
    let a = scalar(0.9);
    let y = number(&kepler(&a)?)?;
    let slope = |a: f64, y: f64| -y * (a * y).sin() / (1.0 + a * (a * y).sin());
    assert!((number(&gradient(kepler, &a)?)? - slope(0.9, y)).abs() < SOLVED);
    let (_, dy) = jvp(kepler, &a, &scalar(1.0))?;
    assert!((number(&dy)? - slope(0.9, y)).abs() < SOLVED);
    // Ridge regression: argmin |X·w − t|² + λ|w|² = (XᵀX + λ)⁻¹Xᵀt.
    let (x, t) = (normal(1, &[6, 3])?, normal(2, &[6])?);
    let ridge = |l: &TrackedTensor| {
        let loss = |w: &TrackedTensor| x.mv(w)?.sub(&t)?.sqr()?.sum()?.add(&w.sqr()?.sum()?.mul(l)?);
        argmin(loss, &normal(3, &[3])?, &SolveOptions::default())
    };
    let explicit = |l: &TrackedTensor| {
        let normal_equations = |w: &TrackedTensor| x.t()?.mv(&x.mv(w)?)?.add(&w.mul(l)?);
        linear_solve(normal_equations, &x.t()?.mv(&t)?, LinearSolver::ConjugateGradient)
    };
    let l = scalar(0.7);
    assert!(distance(&ridge(&l)?.to_vec1::<f64>()?, &explicit(&l)?.to_vec1::<f64>()?) < SOLVED);
    let size = |w: TrackedTensor| w.sqr()?.sum();
    let (one, other) = (gradient(|l| size(ridge(l)?), &l)?, gradient(|l| size(explicit(l)?), &l)?);
    assert!((number(&one)? - number(&other)?).abs() < SOLVED);
    let (one, other) = (hessian(|l| size(ridge(l)?), &l)?, hessian(|l| size(explicit(l)?), &l)?);
    assert!(distance(&one.concat(), &other.concat()) < SOLVED);
    // Rosenbrock's valley: the Hessian is indefinite on the way.
    let valley = |v: &TrackedTensor| {
        let (a, b) = (v.narrow(0, 0, 1)?, v.narrow(0, 1, 1)?);
        b.sub(&a.sqr()?)?.sqr()?.mul(100.0)?.add(&a.sub(1.0)?.sqr()?)?.sum()
    };
    let start = TrackedTensor::from_vec(vec![-1.2f64, 1.0], &[2])?;
    let found = argmin(valley, &start, &SolveOptions::default())?.to_vec1::<f64>()?;
    assert!(distance(&found, &[1.0, 1.0]) < SOLVED, "{found:?}");
    Ok(())
}

#[test]
fn large_systems_are_solved_by_products() -> Result<()> {
    // More unknowns than are ever written down.
    let n = 300;
    let d = normal(1, &[n])?.sqr()?.add(2.0)?;
    let b = normal(2, &[n])?;
    for solver in
        [LinearSolver::Auto, LinearSolver::Gmres, LinearSolver::ConjugateGradient, LinearSolver::Dense]
    {
        let solve = |d: &TrackedTensor| {
            linear_solve(|x| d.mul(x)?.sub(&x.roll(1, 0)?.add(&x.roll(-1, 0)?)?.mul(0.5)?), &b, solver)
        };
        let x = solve(&d)?;
        let back = d.mul(&x)?.sub(&x.roll(1, 0)?.add(&x.roll(-1, 0)?)?.mul(0.5)?)?;
        assert!(distance(&back.to_vec1::<f64>()?, &b.to_vec1::<f64>()?) < SOLVED, "{solver:?}");
        // d̄ = −λ·x with Aᵀ = A here.
        let g = gradient(|d| solve(d)?.sum(), &d)?;
        let ones = b.mul(0.0)?.add(1.0)?;
        let lambda =
            linear_solve(|x| d.mul(x)?.sub(&x.roll(1, 0)?.add(&x.roll(-1, 0)?)?.mul(0.5)?), &ones, solver)?;
        assert!(distance(&g.to_vec1::<f64>()?, &lambda.mul(&x)?.neg()?.to_vec1::<f64>()?) < SOLVED);
    }
    Ok(())
}

/// A pendulum with friction k and frequency w: y = (angle, speed).
fn pendulum(p: &TrackedTensor, adjoint: Adjoint) -> Result<TrackedTensor> {
    let start = TrackedTensor::from_vec(vec![1f64, 0.], &[2])?;
    let options = OdeOptions { relative: 1e-11, absolute: 1e-12, adjoint, ..OdeOptions::default() };
    let (k, w) = (p.narrow(0, 0, 1)?, p.narrow(0, 1, 1)?);
    let field = |t: &TrackedTensor, y: &TrackedTensor| {
        let (angle, speed) = (y.narrow(0, 0, 1)?, y.narrow(0, 1, 1)?);
        let push = t.sin()?.mul(0.1)?.sub(&w.mul(&angle.sin()?)?)?.sub(&k.mul(&speed)?)?;
        TrackedTensor::cat(&[speed, push], 0)
    };
    let ends = ode_solve(field, &start, &[0.0, 0.7, 1.5], &options)?;
    TrackedTensor::cat(&ends, 0)
}

#[test]
fn both_adjoints_agree_with_differences_and_each_other_to_second_order() -> Result<()> {
    /// Accuracies of 1e-11 a step, some ten steps, and central differences with step 1e-4.
    const DIFFERENCES: f64 = 2e-7;
    const ADJOINTS: f64 = 1e-8;
    let p = TrackedTensor::from_vec(vec![0.3f64, 2.0], &[2])?;
    let f = |p: &TrackedTensor, adjoint| pendulum(p, adjoint)?.sqr()?.sum();
    let numeric = |j: usize| -> Result<f64> {
        let unit = crate::dense::unit(j, &p)?.mul(1e-4)?;
        let (up, down) = (f(&p.add(&unit)?, Adjoint::Discrete)?, f(&p.sub(&unit)?, Adjoint::Discrete)?);
        Ok((number(&up)? - number(&down)?) / 2e-4)
    };
    let numeric = [numeric(0)?, numeric(1)?];
    let mut seconds = Vec::new();
    for adjoint in [Adjoint::Continuous, Adjoint::Discrete] {
        let slope = gradient(|p| f(p, adjoint), &p)?.to_vec1::<f64>()?;
        assert!(distance(&slope, &numeric) < DIFFERENCES, "{adjoint:?}: {slope:?} {numeric:?}");
        let along = jacobian(|p| f(p, adjoint), &p)?.concat();
        assert!(distance(&along, &slope) < ADJOINTS, "{adjoint:?}: forward {along:?} {slope:?}");
        seconds.push(hessian(|p| f(p, adjoint), &p)?.concat());
    }
    assert!(distance(&seconds[0], &seconds[1]) < 10.0 * ADJOINTS, "{seconds:?}");
    let unit = crate::dense::unit(0, &p)?.mul(1e-4)?;
    let slope = |p: &TrackedTensor| gradient(|p| f(p, Adjoint::Continuous), p);
    let differences = slope(&p.add(&unit)?)?.sub(&slope(&p.sub(&unit)?)?)?.mul(0.5e4)?.to_vec1::<f64>()?;
    assert!(distance(&[seconds[0][0], seconds[0][2]], &differences) < 1e-5, "{seconds:?} {differences:?}");
    Ok(())
}

#[test]
fn exponentials_come_out_to_the_accuracy_asked_for() -> Result<()> {
    for (relative, bound) in [(1e-4, 1e-3), (1e-8, 1e-7), (1e-12, 1e-10)] {
        let options = OdeOptions { relative, absolute: relative, ..OdeOptions::default() };
        let y = ode_solve(|_, y| y.neg(), &scalar(1.0), &[0.0, 1.0, 3.0], &options)?;
        assert!((number(&y[0])? - (-1f64).exp()).abs() < bound, "{relative:e}");
        assert!((number(&y[1])? - (-3f64).exp()).abs() < bound, "{relative:e}");
        // Backwards in time.
        let back = ode_solve(|_, y| y.neg(), &y[1], &[3.0, 0.0], &options)?;
        assert!((number(&back[0])? - 1.0).abs() < 100.0 * bound, "{relative:e}");
    }
    let y = ode_solve(|t, _| t.mul(2.0), &scalar(0.0), &[0.0, 3.0], &OdeOptions::default())?;
    assert!((number(&y[0])? - 9.0).abs() < 1e-9, "t itself is seen");
    let single = scalar(1.0).to_dtype(candle_core::DType::F32)?;
    let options = OdeOptions { relative: 1e-5, absolute: 1e-6, ..OdeOptions::default() };
    let y = ode_solve(|_, y| y.neg(), &single, &[0.0, 1.0], &options)?;
    assert!((y[0].to_scalar::<f32>()? - (-1f32).exp()).abs() < 1e-4);
    Ok(())
}

#[test]
fn what_has_no_solution_is_a_typed_error() -> Result<()> {
    let options = SolveOptions::default();
    let fails = |result: Result<TrackedTensor>, what: &str| {
        let error = result.expect_err("it must fail");
        assert!(error.to_string().contains(what) && error.site().is_some(), "{error}");
    };
    fails(root(|y| y.sqr()?.add(1.0), &scalar(0.7), &options), "no solution");
    fails(root(|y| y.mul(0.0)?.add(1.0), &scalar(0.7), &options), "singular");
    fails(fixed_point(|y| y.mul(2.0)?.add(1.0), &scalar(0.7), &options), "no solution");
    fails(argmin(|y| y.sum(), &scalar(0.0), &SolveOptions { iterations: 20, ..options }), "no solution");
    fails(linear_solve(|x| x.mul(0.0), &scalar(1.0), LinearSolver::Auto), "singular");
    fails(root(|y| y.unsqueeze(0), &scalar(1.0), &options), "shape");
    fails(root(|y| Ok(scalar(number(y)?)), &scalar(1.0), &options), "captured");
    fails(argmin(|y| y.broadcast_as(2), &scalar(1.0), &options), "gradient_with");
    let whole = TrackedTensor::from_vec(vec![1i64], &[1])?;
    assert!(matches!(
        root(|y| Ok(y.clone()), &whole, &options).expect_err("integers"),
        Error::NotDifferentiable { .. }
    ));
    let half = scalar(1.0).to_dtype(candle_core::DType::BF16)?;
    fails(root(|y| y.sub(1.0), &half, &options), "f32 or f64");
    let ode = |times: &[f64]| {
        ode_solve(|_, y| y.sqr(), &scalar(1.0), times, &OdeOptions::default()).map(|mut y| y.swap_remove(0))
    };
    fails(ode(&[0.0]), "two or more");
    fails(ode(&[0.0, 1.0, 0.5]), "ascending");
    fails(ode(&[0.0, f64::NAN]), "finite");
    // y' = y² ends at t = 1.
    fails(ode(&[0.0, 1.5]), "t = ");
    let wild = OdeOptions { relative: 0.0, ..OdeOptions::default() };
    let y = ode_solve(|_, y| y.neg(), &scalar(1.0), &[0.0, 1.0], &wild);
    assert!(y.expect_err("no accuracy").to_string().contains("not positive"));
    Ok(())
}
