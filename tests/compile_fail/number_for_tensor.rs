//! A bare number is not a tensor: the case that shows the harness at work.

use candle_autograd as _;
use candle_core::{Device, Tensor};

fn main() {
    let x: candle_core::Result<Tensor> = Ok(1.0); //~ ERROR expected `Tensor`
    //~ CONTROL let x = Tensor::new(1f32, &Device::Cpu);
    drop((x, Device::Cpu));
}
