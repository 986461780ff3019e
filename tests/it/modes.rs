//! The modes that this workspace has, as the harness takes them.

use autograd_core::{Mask, Result, TrackedTensor, algebra};
use autograd_ops::testing::{Function, Modes};
use autograd_tape::GradientTape;

/// Reverse mode by a tape, forward mode by dual numbers, batches by vmap.
pub(crate) struct Workspace;

impl Modes for Workspace {
    fn vjp(
        &self,
        f: &Function<'_>,
        primals: &[TrackedTensor],
        cotangents: &[TrackedTensor],
    ) -> Result<(Vec<TrackedTensor>, Vec<TrackedTensor>)> {
        let tape = GradientTape::new();
        let variables: Vec<TrackedTensor> =
            primals.iter().map(|x| tape.try_variable(x)).collect::<Result<_>>()?;
        let outputs = f(&variables)?;
        let plain = outputs.iter().map(|y| tape.unwatched(y)).collect();
        // What a flat op gives is not on the tape.
        let (targets, seeds): (Vec<&TrackedTensor>, Vec<&TrackedTensor>) =
            outputs.iter().zip(cotangents).filter(|(y, _)| tape.watches(y)).unzip();
        if targets.is_empty() {
            let zeros = primals.iter().map(algebra::zeros_like).collect::<Result<_>>()?;
            return Ok((plain, zeros));
        }
        let sources: Vec<&TrackedTensor> = variables.iter().collect();
        let gradients = tape.gradient_with(&targets, &seeds, &sources)?;
        Ok((plain, gradients))
    }

    fn jvp(
        &self,
        f: &Function<'_>,
        primals: &[TrackedTensor],
        tangents: &[TrackedTensor],
    ) -> Result<(Vec<TrackedTensor>, Vec<TrackedTensor>)> {
        let primals: Vec<&TrackedTensor> = primals.iter().collect();
        let tangents: Vec<&TrackedTensor> = tangents.iter().collect();
        autograd_forward::jvp(|x| f(x), &primals, &tangents)
    }

    fn vmap(&self, f: &Function<'_>, inputs: &[TrackedTensor], mapped: Mask) -> Result<Vec<TrackedTensor>> {
        let inputs: Vec<&TrackedTensor> = inputs.iter().collect();
        autograd_transforms::vmap(|x| f(x), &inputs, mapped)
    }
}
