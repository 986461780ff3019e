//! Figures that other suites hold: JAX's `lax_autodiff_test` and `custom_api_test`, PyTorch's
//! `test_autograd`, burn's autodiff tests.
//!
//! | figure | test |
//! |---|---|
//! | d⁶(1/x); jvp of x³ | here: `the_sixth_derivative_of_a_reciprocal`; `autograd-transforms/tests/it/figures.rs`: the same |
//! | second derivatives of x^y; x⁰ at 0; `powf` | `second_derivatives_of_a_power` |
//! | custom vjps: 2·cos, g·x | `control.rs`: `figures_of_custom_rules` |
//! | a clip whose bound depends on x: 0.2 | `autograd-ops/src/gradient.rs`: `bounds_may_depend_on_the_value` |
//! | sin(x)·cos(stop x) | `a_stopped_factor_is_a_constant` |
//! | Hessians of x² and xᵀAx | `hessians_of_quadratic_forms` |
//! | y² = x³ by implicit differentiation | `autograd-transforms/tests/it/implicit.rs`: `the_root_of_the_book_is_right_to_third_order_in_all_nestings` |
//! | checkpointed sin∘sin; halving | `autograd-checkpoint/tests/regions.rs`: `sin_of_sin_linearised`, `recursive_halving_evaluates_two_eight_and_twenty_four_again` |
//! | fewest forward steps with s snapshots | `autograd-checkpoint/tests/plans.rs`: `binomial_counts_are_those_of_revolve` |
//! | gradient of 2·z_x + z_y | `a_gradient_of_a_sum_of_gradients` |
//! | ties; p-norms at the zero vector | `ties_and_zero_vectors` |
//! | rows selected several times | `rows_selected_several_times` |
//! | a chain of 150,000 ops | `deep.rs`: `a_million_ops_on_a_small_stack` |
//! | max_pool2d and avg_pool2d with overlapping windows | `overlapping_windows` |
//! | cumprod with a zero; sigmoid' | `products_with_a_zero` |

use autograd_core::{Result, TrackedTensor};
use autograd_ops::TensorAutograd;
use autograd_tape::GradientTape;
use autograd_transforms::{grad, hessian};

/// Where the figures have this many digits.
const DIGITS: f64 = 1e-5;

fn value(values: &[f64], dims: &[usize]) -> TrackedTensor {
    TrackedTensor::from_vec(values.to_vec(), dims).expect("the shape fits")
}

/// The gradients of the sum of `f`.
fn gradients<const N: usize>(
    f: impl FnOnce(&[TrackedTensor; N]) -> Result<TrackedTensor>,
    x: [&TrackedTensor; N],
) -> Result<Vec<Vec<f64>>> {
    let pulled = grad(|x: &[TrackedTensor; N]| f(x)?.sum(), &x)?;
    pulled.iter().map(TrackedTensor::to_flat).collect()
}

#[track_caller]
fn near(got: &[f64], want: &[f64], tolerance: f64) {
    let close = got.len() == want.len() && got.iter().zip(want).all(|(g, w)| (g - w).abs() <= tolerance);
    assert!(close, "{got:?}, not {want:?}");
}

/// d⁶(1/x)/dx⁶ = 720/x⁷.
#[test]
fn the_sixth_derivative_of_a_reciprocal() -> Result<()> {
    fn nested(order: usize, x: &TrackedTensor) -> Result<TrackedTensor> {
        if order == 0 { x.recip() } else { grad(|x: &TrackedTensor| nested(order - 1, x), x) }
    }
    let sixth = nested(6, &TrackedTensor::scalar(4.0))?.to_scalar::<f64>()?;
    near(&[sixth], &[0.043_945_312_5], 1e-15);
    Ok(())
}

#[test]
fn second_derivatives_of_a_power() -> Result<()> {
    let f = |x: &TrackedTensor| x.get(0)?.pow(x.get(1)?);
    let second = hessian(f, &value(&[4.0, 0.0], &[2]))?.to_flat::<f64>()?;
    near(&second, &[0.0, 0.25, 0.25, 1.921_812_056], 1e-9);
    let at_zero = gradients(|[x]| x.pow(0), [&value(&[0.0], &[1])])?;
    assert_eq!(at_zero, [[0.0]]);
    let both = gradients(|[x, y]| x.pow(y), [&value(&[2., 7.], &[2]), &value(&[4., 2.], &[2])])?;
    near(&both[0], &[32.0, 14.0], 1e-12);
    near(&both[1], &[11.090_35, 95.349_60], DIGITS);
    Ok(())
}

/// The derivative of sin(x)·cos(stop(x)) is that of sin(x)·cos(y) in x, at both orders.
#[test]
#[expect(clippy::approx_constant, reason = "JAX's own test stands at 3.14")]
fn a_stopped_factor_is_a_constant() -> Result<()> {
    let (x, y) = (TrackedTensor::scalar(3.14), TrackedTensor::scalar(3.14));
    let stopped = |x: &TrackedTensor| x.sin()?.mul(x.stop_gradient()?.cos()?);
    let held = |x: &TrackedTensor| x.sin()?.mul(y.cos()?);
    let first = |f: &dyn Fn(&TrackedTensor) -> Result<TrackedTensor>, x: &TrackedTensor| grad(f, x);
    assert_eq!(first(&stopped, &x)?.to_scalar::<f64>()?, first(&held, &x)?.to_scalar::<f64>()?);
    let second =
        |f: &dyn Fn(&TrackedTensor) -> Result<TrackedTensor>| grad(|x: &TrackedTensor| grad(f, x), &x);
    assert_eq!(second(&stopped)?.to_scalar::<f64>()?, second(&held)?.to_scalar::<f64>()?);
    Ok(())
}

#[test]
fn hessians_of_quadratic_forms() -> Result<()> {
    let x = value(&[1.0, 2.0], &[2]);
    let squares = hessian(|x: &TrackedTensor| x.sqr()?.sum(), &x)?;
    assert_eq!(squares.to_flat::<f64>()?, [2., 0., 0., 2.]);
    let a = value(&[1., 2., 3., 4.], &[2, 2]);
    let form = hessian(|x: &TrackedTensor| x.dot(a.mv(x)?), &x)?;
    assert_eq!(form.to_flat::<f64>()?, [2., 5., 5., 8.]);
    Ok(())
}

/// z = x² + xy + y²; the gradient of 2·z_x + z_y is 5 in x and 4 in y.
#[test]
fn a_gradient_of_a_sum_of_gradients() -> Result<()> {
    let tape = GradientTape::new().persistent();
    let ones = value(&[1.; 4], &[2, 2]);
    let (x, y) = (tape.variable(&ones), tape.variable(&ones));
    let z = x.sqr()?.add(x.mul(&y)?)?.add(y.sqr()?)?.sum()?;
    let first = tape.gradient(&z, &[&x, &y])?;
    let mixed = first[0].mul(2.0)?.add(&first[1])?.sum()?;
    let second = tape.gradient(&mixed, &[&x, &y])?;
    assert_eq!(second[0].to_flat::<f64>()?, [5.; 4]);
    assert_eq!(second[1].to_flat::<f64>()?, [4.; 4]);
    Ok(())
}

#[test]
fn ties_and_zero_vectors() -> Result<()> {
    let x = value(&[1., 0., 1., 0., 1., 0.], &[6]);
    near(&gradients(|[x]| x.max_all(), [&x])?[0], &[1. / 3., 0., 1. / 3., 0., 1. / 3., 0.], 1e-15);
    near(&gradients(|[x]| x.min_all(), [&x])?[0], &[0., 1. / 3., 0., 1. / 3., 0., 1. / 3.], 1e-15);
    for p in [1.0, 1.5, 2.0, 3.0] {
        let at_zero = gradients(|[x]| x.norm_p(p, 0, false), [&value(&[0.; 3], &[3])])?;
        assert_eq!(at_zero, [[0.0; 3]], "p = {p}");
    }
    Ok(())
}

#[test]
fn rows_selected_several_times() -> Result<()> {
    let x = value(&(1..17).map(f64::from).collect::<Vec<_>>(), &[4, 4]);
    let rows = TrackedTensor::from_vec(vec![1u32, 1, 3, 2, 1, 2], &[6])?;
    let counts = gradients(|[x]| x.index_select(&rows, 0), [&x])?;
    let want: Vec<f64> = [0., 3., 2., 1.].into_iter().flat_map(|n| [n; 4]).collect();
    assert_eq!(counts[0], want);
    Ok(())
}

#[test]
fn overlapping_windows() -> Result<()> {
    let x = [
        0.2479, 0.6386, 0.3166, 0.5742, 0.7065, 0.1940, 0.6305, 0.8959, 0.5416, 0.8602, 0.8129, 0.1662,
        0.3358, 0.3059, 0.8293, 0.0990,
    ];
    let pulled = gradients(|[x]| x.max_pool2d_with((3, 3), (1, 1), 0), [&value(&x, &[1, 1, 4, 4])])?;
    let mut want = [0.0; 16];
    (want[7], want[9]) = (2.0, 2.0);
    assert_eq!(pulled[0], want);
    let ones = value(&[1.0; 36], &[1, 1, 6, 6]);
    let means = gradients(|[x]| x.avg_pool2d_with((3, 3), (1, 1), 0), [&ones])?;
    near(&[means[0][0], means[0][14]], &[1.0 / 9.0, 1.0], 1e-12);
    Ok(())
}

#[test]
fn products_with_a_zero() -> Result<()> {
    assert_eq!(gradients(|[x]| x.cumprod(0), [&value(&[2., 3., 4.], &[3])])?[0], [16., 10., 6.]);
    assert_eq!(gradients(|[x]| x.cumprod(0), [&value(&[2., 0., 3., 4.], &[4])])?[0], [1., 32., 0., 0.]);
    let slope = gradients(|[x]| x.sigmoid(), [&value(&[0.8762], &[1])])?;
    near(&slope[0], &[0.207_549], DIGITS);
    Ok(())
}
