//! Where candle 0.11.1's own gradients are wrong or missing: one test for each, that we are right.
//!
//! | candle 0.11.1 | test |
//! |---|---|
//! | `max_pool2d`: one maximum of a 2×2 window gets a quarter | `the_maximum_of_a_window_gets_all` |
//! | `upsample_nearest2d` overwrites accumulated gradients | `upsampling_adds_to_other_contributions` |
//! | pools whose window does not divide the size; stride ≠ window | `windows_that_leave_a_rest_or_overlap` |
//! | ties in max and min: each gets all | `ties_share` |
//! | relu'(0) = 1, abs'(0) = 1, clamp at its bounds | `kinks` |
//! | `scatter`, `scatter_add` in the initial tensor | `scatter_in_its_first_argument` |
//! | `powf(0)`, `pow` at 0: NaN | `powers_at_zero` |
//! | the norm at the zero vector: NaN | `the_norm_of_the_zero_vector` |
//! | gelu with cut-off constants | `gelu_in_all_digits` |
//! | fused softmax, norms, rope, attention drop the gradient | `fused_layers_have_gradients` |
//! | `conv_transpose1d`, bilinear upsampling: error | `resampling_and_transposed_convolution` |
//! | deep graphs overflow the stack | `deep.rs`: `a_million_ops_on_a_small_stack` |
//! | `Var::set`, `slice_set` between forward and backward | `in_place.rs`: `a_var_stepped_between_forward_and_backward_is_an_error`, `debug_builds_sample_saved_tensors` |

use autograd_core::{Result, TrackedTensor};
use autograd_ops::TensorAutograd;
use autograd_tape::GradientTape;

fn value(values: &[f64], dims: &[usize]) -> TrackedTensor {
    TrackedTensor::from_vec(values.to_vec(), dims).expect("the shape fits")
}

/// The gradient of the sum of `f` at x.
fn slope(x: &TrackedTensor, f: impl Fn(&TrackedTensor) -> Result<TrackedTensor>) -> Result<Vec<f64>> {
    let tape = GradientTape::new();
    let x = tape.variable(x);
    tape.derivative(&f(&x)?.sum()?, &x)?.to_flat()
}

#[track_caller]
fn near(got: &[f64], want: &[f64]) {
    let close = got.len() == want.len() && got.iter().zip(want).all(|(g, w)| (g - w).abs() <= 1e-14);
    assert!(close, "{got:?}, not {want:?}");
}

/// candle gives the one maximum of a 2×2 window a quarter of the gradient.
#[test]
fn the_maximum_of_a_window_gets_all() -> Result<()> {
    let x = value(&[1., 4., 2., 3.], &[1, 1, 2, 2]);
    assert_eq!(slope(&x, |x| x.max_pool2d(2))?, [0., 1., 0., 0.]);
    Ok(())
}

/// candle's upsampling overwrites what other uses of the value have contributed.
#[test]
fn upsampling_adds_to_other_contributions() -> Result<()> {
    let x = value(&[1., 2., 3., 4.], &[1, 1, 2, 2]);
    let both = |x: &TrackedTensor| x.mul(10.0)?.sum()?.add(x.upsample_nearest2d(4, 4)?.sum()?);
    assert_eq!(slope(&x, both)?, [14.; 4]);
    let other_way = |x: &TrackedTensor| x.upsample_nearest2d(4, 4)?.sum()?.add(x.mul(10.0)?.sum()?);
    assert_eq!(slope(&x, other_way)?, [14.; 4]);
    Ok(())
}

/// candle fails where windows leave a rest, and where stride and window differ.
#[test]
fn windows_that_leave_a_rest_or_overlap() -> Result<()> {
    let x = value(&[1., 2., 3., 4., 9., 6., 7., 8., 5.], &[1, 1, 3, 3]);
    assert_eq!(slope(&x, |x| x.avg_pool2d(2))?, [0.25, 0.25, 0., 0.25, 0.25, 0., 0., 0., 0.]);
    assert_eq!(slope(&x, |x| x.max_pool2d(2))?, [0., 0., 0., 0., 1., 0., 0., 0., 0.]);
    assert_eq!(slope(&x, |x| x.max_pool2d_with_stride(2, 1))?, [0., 0., 0., 0., 4., 0., 0., 0., 0.]);
    assert_eq!(slope(&x, |x| x.avg_pool2d_with_stride(2, 1))?[4], 1.0);
    Ok(())
}

/// candle gives each of several equal maxima the whole gradient.
#[test]
fn ties_share() -> Result<()> {
    let x = value(&[2., 2., 1.], &[3]);
    assert_eq!(slope(&x, |x| x.max_dim(0))?, [0.5, 0.5, 0.]);
    assert_eq!(slope(&x.neg()?, |x| x.min_dim(0))?, [0.5, 0.5, 0.]);
    Ok(())
}

/// candle says 1 for relu'(0) and |x|'(0), and 0 or 2 at the bounds of a clamp.
#[test]
fn kinks() -> Result<()> {
    let zero = value(&[0.], &[1]);
    assert_eq!(slope(&zero, |x| x.relu())?, [0.]);
    assert_eq!(slope(&zero, |x| x.abs())?, [0.]);
    assert_eq!(slope(&value(&[-1., 0., 1.], &[3]), |x| x.clamp(-1.0, 1.0))?, [1.; 3]);
    Ok(())
}

/// candle gives the tensor that is written to a gradient where it was overwritten, or none.
#[test]
fn scatter_in_its_first_argument() -> Result<()> {
    let (x, source) = (value(&[1., 2., 3.], &[3]), value(&[10., 20.], &[2]));
    let at = TrackedTensor::from_vec(vec![0u32, 2], &[2])?;
    assert_eq!(slope(&x, |x| x.scatter(&at, &source, 0)?.mul(x))?, [10., 4., 20.]);
    assert_eq!(slope(&x, |x| x.scatter(&at, &source, 0))?, [0., 1., 0.]);
    assert_eq!(slope(&x, |x| x.scatter_add(&at, &source, 0))?, [1.; 3]);
    Ok(())
}

/// candle gives NaN for powers at 0, and for the exponent 0.
#[test]
fn powers_at_zero() -> Result<()> {
    let zero = value(&[0.], &[1]);
    assert_eq!(slope(&zero, |x| x.powf(0.0))?, [0.]);
    assert_eq!(slope(&zero, |x| x.powf(2.0))?, [0.]);
    assert_eq!(slope(&zero, |x| x.pow(value(&[3.], &[1])))?, [0.]);
    assert_eq!(slope(&value(&[2.], &[1]), |y| zero.pow(y))?, [0.]);
    Ok(())
}

/// candle gives NaN.
#[test]
fn the_norm_of_the_zero_vector() -> Result<()> {
    assert_eq!(slope(&value(&[0.; 3], &[3]), |x| x.norm())?, [0.; 3]);
    Ok(())
}

/// candle's constants are cut off: its derivative is 2.5e-7 off in f64.
#[test]
fn gelu_in_all_digits() -> Result<()> {
    let (x, c) = (0.7f64, (2.0 / std::f64::consts::PI).sqrt());
    let t = (c * (x + 0.044715 * x.powi(3))).tanh();
    let want = 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * c * (1.0 + 3.0 * 0.044715 * x * x);
    near(&slope(&value(&[x], &[1]), |x| x.gelu())?, &[want]);
    Ok(())
}

/// candle-nn's fused layers drop the gradient without a word.
#[test]
fn fused_layers_have_gradients() -> Result<()> {
    let x = value(&[0.5, -1., 2., 1.], &[1, 4]);
    let (weight, bias) = (value(&[1., 2., 3., 4.], &[4]), value(&[0.; 4], &[4]));
    let moves = |f: &dyn Fn(&TrackedTensor) -> Result<TrackedTensor>| -> Result<bool> {
        Ok(slope(&x, |x| f(x)?.sqr())?.iter().all(|g| g.is_finite() && *g != 0.0))
    };
    assert!(moves(&|x| x.softmax(-1))?);
    assert!(moves(&|x| x.rms_norm(&weight, 1e-5))?);
    assert!(moves(&|x| x.layer_norm(&weight, &bias, 1e-5))?);
    let angles = (value(&[0.3, 0.4], &[1, 2]), value(&[0.5, 0.6], &[1, 2]));
    assert!(moves(&|x| x.reshape((1, 1, 1, 4))?.rope(&angles.0, &angles.1))?);
    assert!(moves(&|x| x.scaled_dot_product_attention(x, x, None, false, None))?);
    Ok(())
}

/// candle has no backward pass for these.
#[test]
fn resampling_and_transposed_convolution() -> Result<()> {
    let row = value(&[1., 2.], &[1, 1, 2]);
    let kernel = value(&[1., 10., 100.], &[1, 1, 3]);
    assert_eq!(slope(&row, |x| x.conv_transpose1d(&kernel, 0, 0, 1, 1, 1))?, [111., 111.]);
    let image = value(&[1., 2., 3., 4.], &[1, 1, 2, 2]);
    near(&slope(&image, |x| x.upsample_bilinear2d(4, 4, false))?, &[4.; 4]);
    Ok(())
}
