//! Figures that others' suites hold.

use autograd_core::{Result, TrackedTensor};
use autograd_ops::TensorAutograd;
use autograd_transforms::{derivatives, grad, hessian, jvp, linearize, mixed_partials};

/// The figures are given with eight or nine digits.
const GIVEN: f64 = 1e-8;

fn number(x: f64) -> TrackedTensor {
    TrackedTensor::scalar(x)
}

fn close(got: &TrackedTensor, want: f64) -> Result<()> {
    let got = got.to_scalar::<f64>()?;
    assert!((got - want).abs() <= GIVEN, "{got} and {want}");
    Ok(())
}

#[test]
fn the_sixth_derivative_of_a_reciprocal() -> Result<()> {
    let d = derivatives(|x| x.recip(), &number(4.0), &number(1.0), 6)?;
    assert_eq!(d[6].to_scalar::<f64>()?, 0.0439453125);
    // The same by six nested derivatives.
    fn nested(x: &TrackedTensor, depth: usize) -> Result<TrackedTensor> {
        if depth == 0 { x.recip() } else { grad(|x| nested(x, depth - 1), x) }
    }
    close(&nested(&number(4.0), 6)?, 0.0439453125)?;
    let (y, dy) = jvp(|x| x.pow(3), &number(3.0), &number(4.0))?;
    assert_eq!((y.to_scalar::<f64>()?, dy.to_scalar::<f64>()?), (27.0, 108.0));
    Ok(())
}

#[test]
fn second_derivatives_of_a_power() -> Result<()> {
    let (x, y) = (number(4.0), number(0.0));
    close(&hessian(|x| x.pow(&y), &x)?, 0.0)?;
    close(&mixed_partials(|x, y| x.pow(y), &x, &y)?, 0.25)?;
    close(&mixed_partials(|y, x| x.pow(y), &y, &x)?, 0.25)?;
    close(&hessian(|y| x.pow(y), &y)?, 1.921812056)?;
    assert_eq!(grad(|x| x.pow(0), &number(0.0))?.to_scalar::<f64>()?, 0.0);
    Ok(())
}

/// sin(x)·cos(stop x) at first and second order is the two-argument function at (x, x).
#[test]
fn a_stopped_argument_is_another_argument() -> Result<()> {
    let x = number(3.1);
    let stopped = |x: &TrackedTensor| x.sin()?.mul(x.detach()?.cos()?);
    let with = |x: &TrackedTensor, y: &TrackedTensor| x.sin()?.mul(y.cos()?);
    let first = grad(|a| with(a, &x), &x)?.to_scalar::<f64>()?;
    close(&grad(stopped, &x)?, first)?;
    let second = hessian(|a| with(a, &x), &x)?.to_scalar::<f64>()?;
    close(&hessian(stopped, &x)?, second)
}

#[test]
fn hessians_of_quadratic_forms() -> Result<()> {
    let x = TrackedTensor::from_vec(vec![1f64, 2.], &[2])?;
    assert_eq!(hessian(|x| x.sqr()?.sum(), &x)?.to_vec2::<f64>()?, [[2., 0.], [0., 2.]]);
    let a = TrackedTensor::from_vec(vec![1f64, 2., 5., 7.], &[2, 2])?;
    let h = hessian(|x| x.dot(a.mv(x)?), &x)?;
    assert_eq!(h.to_vec2::<f64>()?, [[2., 7.], [7., 14.]]);
    // Linear: nothing is left at second order, and nothing fails.
    assert_eq!(hessian(|x| x.sum(), &x)?.to_vec2::<f64>()?, [[0., 0.], [0., 0.]]);
    Ok(())
}

#[test]
fn sines_of_sines_linearised() -> Result<()> {
    let (_, linear) = linearize(|x| x.sin()?.sin(), &number(2.0))?;
    for scale in [1.0, 2.0] {
        let dy = linear.apply(&number(3.0 * scale))?;
        close(&dy, -0.76691736 * scale)?;
    }
    Ok(())
}

/// z = x² + xy + y²: the gradient of 2·z_x + z_y is 5 and 4 everywhere.
#[test]
fn the_gradient_of_a_sum_of_gradients() -> Result<()> {
    let x = TrackedTensor::from_vec(vec![1f64, 2., 3., 4.], &[2, 2])?;
    let y = TrackedTensor::from_vec(vec![5f64, 6., 7., 8.], &[2, 2])?;
    let z = |(x, y): &(TrackedTensor, TrackedTensor)| x.sqr()?.add(x.mul(y)?)?.add(y.sqr()?)?.sum();
    let (dx, dy) = grad(
        |xy| {
            let (zx, zy) = grad(z, xy)?;
            zx.mul(2.0)?.add(zy)?.sum()
        },
        &(&x, &y),
    )?;
    assert_eq!(dx.to_flat::<f64>()?, [5.0; 4]);
    assert_eq!(dy.to_flat::<f64>()?, [4.0; 4]);
    Ok(())
}

#[test]
fn ties_share_their_gradient() -> Result<()> {
    let x = TrackedTensor::from_vec(vec![1f64, 0., 1., 0., 1., 0.], &[6])?;
    let third = 1.0 / 3.0;
    let top = grad(|x| x.max(), &x)?.to_vec1::<f64>()?;
    let bottom = grad(|x| x.min(), &x)?.to_vec1::<f64>()?;
    assert_eq!(top, [third, 0., third, 0., third, 0.]);
    assert_eq!(bottom, [0., third, 0., third, 0., third]);
    Ok(())
}
