//! What a plan costs: peak bytes and extra work, from the layers' costs alone.

use crate::cost::ChainCost;
use crate::plan::{Part, Plan};
use std::ops::Range;

/// What a plan costs on a chain.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Prediction {
    /// The most bytes that live at one time: states, residuals, cotangents, scratch, the gradients
    /// of the parameters and the chain's output. The chain's input and the parameters are the
    /// caller's and not counted.
    pub peak_bytes: usize,
    /// Work of the evaluations beyond each layer's first.
    pub extra_work: f64,
    /// Work of one forward pass.
    pub forward_work: f64,
    /// How often each layer is evaluated, the forward pass included.
    pub evaluations: Vec<usize>,
    /// The most bytes that wait outside of the memory at one time.
    pub offloaded_bytes: usize,
}

impl Prediction {
    pub(crate) fn of(plan: &Plan, cost: &ChainCost) -> Self {
        let evaluations = plan.evaluations();
        let extra = |(count, layer): (&usize, &crate::LayerCost)| (count - 1) as f64 * layer.work;
        Self {
            peak_bytes: need(plan.parts(), output_outside(cost), cost),
            extra_work: evaluations.iter().zip(cost.layers()).map(extra).sum(),
            forward_work: cost.work_of(0..cost.len()),
            offloaded_bytes: offloaded(plan.parts(), cost),
            evaluations,
        }
    }

    /// Extra work over that of one forward pass.
    pub fn extra_share(&self) -> f64 {
        if self.forward_work > 0.0 { self.extra_work / self.forward_work } else { 0.0 }
    }
}

/// The chain's output, which stays in the caller's hands.
pub(crate) fn output_outside(cost: &ChainCost) -> usize {
    cost.layers().last().map_or(0, |layer| layer.output)
}

/// The most bytes that live while the parts are evaluated and then pulled back, beyond what lives
/// outside of them: their first input, and what belongs to other parts. The cotangent of their
/// last output is counted as theirs, all the time; `held` bytes are added while they are pulled back.
pub(crate) fn need(parts: &[Part], held: usize, cost: &ChainCost) -> usize {
    // From the last part to the first: `rest` is the need of the parts after this one.
    let Some(last) = parts.last() else { return 0 };
    let end = last.layers().end;
    let mut rest: Option<usize> = None;
    for part in parts.iter().rev() {
        let so_far = match part {
            Part::Keep(layer) => keep(*layer, end, held, rest, cost),
            Part::Recompute { layers, parts, offload } => {
                let absent = if *offload { cost.input_of(layers.start) } else { 0 };
                let inner = need(parts, 0, cost);
                recompute(layers.clone(), end, held, rest, inner, absent, cost)
            }
        };
        rest = Some(so_far);
    }
    rest.unwrap_or(0)
}

/// The need of a layer that keeps what its backward pass reads, followed by parts that need
/// `rest`; the segment ends at `end`.
pub(crate) fn keep(layer: usize, end: usize, held: usize, rest: Option<usize>, cost: &ChainCost) -> usize {
    let c = &cost.layers()[layer];
    let seed = cost.layers()[end - 1].output;
    let forward = add(&[seed, c.output, c.kept, c.forward_scratch]);
    // The output is the next part's input; the last one's lives on only where the layer keeps it.
    let between = match rest {
        Some(rest) => add(&[c.output, c.kept, rest]),
        None => 0,
    };
    let gradients = cost.gradients_of(layer + 1..end);
    // Where the last output is held outside, the layer keeps that same one.
    let outputs = if rest.is_none() { c.held_output().max(held) } else { add(&[c.held_output(), held]) };
    let backward = add(&[c.output, outputs, c.kept, c.backward_scratch, gradients]);
    forward.max(between).max(backward)
}

/// The need of layers that are evaluated without keeping, and again with a need of `inner`;
/// `absent` bytes of their input are out of the memory while the rest runs.
pub(crate) fn recompute(
    layers: Range<usize>,
    end: usize,
    held: usize,
    rest: Option<usize>,
    inner: usize,
    absent: usize,
    cost: &ChainCost,
) -> usize {
    let between = match rest {
        Some(rest) => add(&[cost.layers()[layers.end - 1].output, rest]).saturating_sub(absent),
        None => 0,
    };
    let again = add(&[inner, cost.gradients_of(layers.end..end), held]);
    let seed = cost.layers()[end - 1].output;
    discard(layers, seed, cost).max(between).max(again)
}

/// The need of evaluating layers without keeping anything but the last output.
pub(crate) fn discard(layers: Range<usize>, seed: usize, cost: &ChainCost) -> usize {
    let mut input = 0;
    let mut most = 0;
    for layer in &cost.layers()[layers] {
        most = most.max(add(&[seed, input, layer.output, layer.discard_scratch]));
        input = layer.output;
    }
    most
}

/// The most bytes that wait outside of the memory at one time.
fn offloaded(parts: &[Part], cost: &ChainCost) -> usize {
    let mut waiting = 0;
    let mut most = 0;
    for part in parts {
        if let Part::Recompute { layers, parts, offload } = part {
            if *offload {
                waiting += cost.input_of(layers.start);
            }
            most = most.max(waiting + offloaded(parts, cost));
        }
    }
    most
}

fn add(bytes: &[usize]) -> usize {
    bytes.iter().fold(0, |sum: usize, b| sum.saturating_add(*b))
}
