//! The gradient of a sum of products is the other factor itself, where nothing can change it.

use candle_autograd::{GradientTape, Result, TensorAutograd, TrackedTensor};
use candle_core::{Device, Tensor};

#[test]
fn a_factor_in_our_memory_is_not_copied() -> Result<()> {
    let w = TrackedTensor::from_vec(vec![5f64, 7.], &[2])?;
    let tape = GradientTape::new();
    let x = tape.variable(TrackedTensor::from_vec(vec![2f64, 3.], &[2])?);
    let y = x.mul(&w)?.sum()?;
    let (gradient, evaluations) =
        candle_autograd::core::testing::count_evaluations(|| tape.derivative(&y, &x));
    assert_eq!((gradient?.to_vec1::<f64>()?, evaluations), (vec![5., 7.], 0));
    Ok(())
}

/// candle can change its tensors in place.
#[test]
fn a_factor_in_candles_memory_is_copied() -> Result<()> {
    let w = Tensor::new(&[5f64, 7.], &Device::Cpu)?;
    let tape = GradientTape::new();
    let x = tape.variable(TrackedTensor::from_vec(vec![2f64, 3.], &[2])?);
    let y = x.mul(&w)?.sum()?;
    let gradient = tape.derivative(&y, &x)?;
    w.slice_set(&Tensor::new(&[0f64, 0.], &Device::Cpu)?, 0, 0)?;
    assert_eq!(gradient.to_vec1::<f64>()?, [5., 7.]);
    Ok(())
}
