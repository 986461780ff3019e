//! One gradient of the explained numbers.

use crate::attribution::finite;
use crate::function::{Examples, Function, numbers};
use crate::target::Target;
use autograd_core::{Result, TrackedTensor, no_grad};
use autograd_ops::TensorAutograd;
use autograd_tape::GradientTape;

/// The explained numbers, and their gradients at the inputs.
pub(crate) struct Slopes {
    pub(crate) y: TrackedTensor,
    pub(crate) gradients: Vec<TrackedTensor>,
}

/// The gradients on a tape without rules.
pub(crate) fn slopes(f: &Function<'_>, inputs: &[TrackedTensor], target: &Target) -> Result<Slopes> {
    slopes_on(&GradientTape::new(), f, inputs, target)
}

/// The gradients on a fresh tape.
pub(crate) fn slopes_on(
    tape: &GradientTape,
    f: &Function<'_>,
    inputs: &[TrackedTensor],
    target: &Target,
) -> Result<Slopes> {
    let variables: Vec<TrackedTensor> = inputs.iter().map(|x| tape.try_variable(x)).collect::<Result<_>>()?;
    let y = f(&variables)?;
    let examples = Examples::of(inputs, &y);
    let y = target.select(&y, examples)?;
    let sources: Vec<&TrackedTensor> = variables.iter().collect();
    let gradients = tape.gradient(&y.sum()?, &sources)?;
    Ok(Slopes { y: tape.unwatched(&y), gradients })
}

/// The explained numbers as they are, unrecorded: finite, one for each example.
pub(crate) fn outputs(
    op: &'static str,
    f: &Function<'_>,
    inputs: &[TrackedTensor],
    target: &Target,
) -> Result<(Vec<f64>, Examples)> {
    let y = no_grad(|| f(inputs))?;
    let examples = Examples::of(inputs, &y);
    let y = numbers(&no_grad(|| target.select(&y, examples))?)?;
    Ok((finite(op, "the output", y)?, examples))
}
