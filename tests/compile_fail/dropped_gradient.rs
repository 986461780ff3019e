//! A gradient that is computed and dropped is a mistake.

#![deny(unused_must_use)]

use candle_autograd::{GradientTape, Result, TensorAutograd, TrackedTensor};

fn main() -> Result<()> {
    let tape = GradientTape::new();
    let x = tape.variable(TrackedTensor::scalar(1.0));
    let y = x.exp()?;
    tape.derivative(&y, &x)?; //~ ERROR unused `TrackedTensor` that must be used
    //~ CONTROL let _dy = tape.derivative(&y, &x)?;
    Ok(())
}
