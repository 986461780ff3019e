//! The modes that a comparison of devices needs.

use autograd_core::{Error, Mask, Result, TrackedTensor};
use autograd_ops::testing::{Function, Modes};
use autograd_tape::GradientTape;

/// Reverse mode alone.
pub(crate) struct Reverse;

impl Modes for Reverse {
    fn vjp(
        &self,
        f: &Function<'_>,
        primals: &[TrackedTensor],
        cotangents: &[TrackedTensor],
    ) -> Result<(Vec<TrackedTensor>, Vec<TrackedTensor>)> {
        let tape = GradientTape::new();
        let variables: Vec<TrackedTensor> = primals.iter().map(|x| tape.variable(x)).collect();
        let outputs = f(&variables)?;
        let (targets, seeds): (Vec<&TrackedTensor>, Vec<&TrackedTensor>) =
            outputs.iter().zip(cotangents).filter(|(y, _)| tape.watches(y)).unzip();
        if targets.is_empty() {
            return Ok((outputs, Vec::new()));
        }
        let gradients = tape.gradient_with(&targets, &seeds, &variables.iter().collect::<Vec<_>>())?;
        Ok((outputs, gradients))
    }

    fn jvp(
        &self,
        _: &Function<'_>,
        _: &[TrackedTensor],
        _: &[TrackedTensor],
    ) -> Result<(Vec<TrackedTensor>, Vec<TrackedTensor>)> {
        Err(Error::mode("emulation", "forward", "reverse mode alone is compared"))
    }

    fn vmap(&self, _: &Function<'_>, _: &[TrackedTensor], _: Mask) -> Result<Vec<TrackedTensor>> {
        Err(Error::mode("emulation", "batch", "reverse mode alone is compared"))
    }
}
