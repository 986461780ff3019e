//! Forward mode from autograd-core and autograd-forward alone.

use autograd_core::{Result, TrackedTensor};
use autograd_forward::jvp;
use candle_core::{Device, Tensor};

fn main() -> Result<()> {
    let x = TrackedTensor::from(Tensor::new(&[1f64, 2.], &Device::Cpu)?);
    let v = TrackedTensor::from(Tensor::new(&[1f64, 10.], &Device::Cpu)?);
    // d(x³) = 3x² dx.
    let (y, dy) = jvp(|x| Ok(vec![((&x[0] * &x[0])? * &x[0])?]), &[&x], &[&v])?;
    assert_eq!(y[0].to_vec1::<f64>()?, [1., 8.]);
    assert_eq!(dy[0].to_vec1::<f64>()?, [3., 120.]);
    println!("core_forward: {} {}", y[0], dy[0]);
    Ok(())
}
