//! Reverse mode from autograd-tape alone, with the operators of the value.

use autograd_core::{Result, TrackedTensor};
use autograd_tape::GradientTape;
use candle_core::{Device, Tensor};

fn main() -> Result<()> {
    let tape = GradientTape::new().persistent();
    let x = tape.variable(Tensor::new(3f64, &Device::Cpu)?);
    let y: TrackedTensor = ((&x * &x)? * &x)?;
    let dy = tape.derivative(&y, &x)?;
    let ddy = tape.derivative(&dy, &x)?;
    assert_eq!((dy.to_scalar::<f64>()?, ddy.to_scalar::<f64>()?), (27., 18.));
    println!("tape_alone: {dy} {ddy}");
    Ok(())
}
