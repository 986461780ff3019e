//! Capture: a function over values recorded as a program, without running it.

use autograd_core::{
    Closure, DType, DeviceLocation, Meta, Program, Result, Shape, TrackedTensor, algebra, close_whole,
};

/// Records what `f` does to inputs of the given shapes and types. Whatever transforms `f` uses
/// inside, their work is recorded too, and what it applies to closed-over values alone. These are
/// constants of the program; what `f` computes from numbers of its own is computed now.
///
/// # Errors
/// [`Error::ReadWhileCapturing`](autograd_core::Error::ReadWhileCapturing), with its line, where `f`
/// reads a number; whatever `f` reports.
///
/// ```
/// use autograd_core::{Result, TrackedTensor};
/// use autograd_graph::capture;
/// use autograd_ops::TensorAutograd;
///
/// fn main() -> Result<()> {
///     let x = TrackedTensor::scalar(3.0);
///     let program = capture(|x| Ok(vec![x[0].mul(&x[0])?.add(1.0)?]), &[x.meta()])?;
///     assert_eq!(program.run(&[&x])?[0].to_scalar::<f64>()?, 10.0);
///     Ok(())
/// }
/// ```
pub fn capture(
    f: impl FnOnce(&[TrackedTensor]) -> Result<Vec<TrackedTensor>>,
    inputs: &[Meta],
) -> Result<Program> {
    let hints = inputs.iter().all(|x| x.device == DeviceLocation::Cpu);
    capture_with(f, inputs, hints)
}

/// The program, with auxiliary outputs or without.
pub(crate) fn capture_with(
    f: impl FnOnce(&[TrackedTensor]) -> Result<Vec<TrackedTensor>>,
    inputs: &[Meta],
    hints: bool,
) -> Result<Program> {
    // A program is of no device: its numbers are moved where its inputs are when it runs.
    let inputs: Vec<Meta> = inputs.iter().map(|x| Meta { device: DeviceLocation::Cpu, ..*x }).collect();
    let Closure { mut program, .. } = close_whole(f, &inputs, hints)?.bind(|_| true);
    program.constants.iter_mut().try_for_each(known_number)?;
    Ok(program)
}

/// Makes a literal of a known value of one number: `f` computed it from literals while it was
/// captured (the 1/n of a mean's cotangent).
fn known_number(constant: &mut TrackedTensor) -> Result<()> {
    let Some(plain) = constant.plain() else { return Ok(()) };
    let one = plain.buffer().slice().is_some_and(|slice| slice.len() == 1) && plain.layout().elements() > 0;
    if !plain.is_known() || plain.literal().is_some() || !one {
        return Ok(());
    }
    let mut one = constant.clone();
    for dim in 0..constant.rank() {
        one = algebra::narrow(&one, dim, 0, 1)?;
    }
    let number = algebra::cast(&algebra::reshape(&one, &Shape::SCALAR)?, DType::F64)?.to_scalar::<f64>()?;
    *constant = algebra::fill(number, &constant.meta(), constant)?;
    Ok(())
}
