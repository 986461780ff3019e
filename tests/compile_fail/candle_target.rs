//! A candle tensor cannot be the target of a gradient: it has no place on a tape.

use candle_autograd::{Device, GradientTape, Result, Tensor, TensorAutograd};

fn main() -> Result<()> {
    let tape = GradientTape::new();
    let tensor = Tensor::new(1f32, &Device::Cpu)?;
    let x = tape.variable(&tensor);
    let y = x.mul(&tensor)?;
    let grads = tape.gradient(&tensor, &[&x])?; //~ ERROR expected `&TrackedTensor`
    //~ CONTROL let grads = tape.gradient(&y, &[&x])?;
    drop((grads, y));
    Ok(())
}
