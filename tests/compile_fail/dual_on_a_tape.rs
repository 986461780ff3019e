//! A dual number is no variable: its tangent would be lost.

use candle_autograd::{Device, DualTensor, GradientTape, Result, Tensor};

fn main() -> Result<()> {
    let tape = GradientTape::new();
    let one = Tensor::new(1f32, &Device::Cpu)?;
    let dual = DualTensor::new(&one, &one);
    let x = tape.variable(dual); //~ ERROR `TrackedTensor: From<DualTensor>` is not satisfied
    //~ CONTROL let x = tape.variable(dual.value());
    drop(x);
    Ok(())
}
