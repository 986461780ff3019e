//! What a layer of a chain costs: the figures that plans are made from.

use autograd_core::{Error, Result};
use std::ops::Range;

/// What one layer of a chain costs, in bytes and in units of work. Everything that is not the
/// layer's own (its input, what other layers keep) is left out.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerCost {
    /// One evaluation: seconds, operations, or 1 where all layers count alike.
    pub work: f64,
    /// Bytes of its output, which are those of the output's cotangent too.
    pub output: usize,
    /// Bytes that its backward pass reads, beyond its input and its output.
    pub kept: usize,
    /// Whether its backward pass reads its output.
    pub keeps_output: bool,
    /// Bytes that evaluating it needs for a while, beyond `output` and `kept`, when what its
    /// backward pass reads is kept.
    pub forward_scratch: usize,
    /// Bytes that evaluating it needs for a while, beyond `output`, when nothing is kept.
    pub discard_scratch: usize,
    /// Bytes that its backward pass needs at its peak, beyond what is kept and the cotangent of
    /// the output; the gradients of its parameters and of its input are among them.
    pub backward_scratch: usize,
    /// Bytes of the gradients of its parameters, which stay.
    pub gradients: usize,
}

impl LayerCost {
    /// A layer among equals: an output of one unit, nothing else to keep, one unit of work.
    pub fn unit() -> Self {
        Self {
            work: 1.0,
            output: 1,
            kept: 0,
            keeps_output: true,
            forward_scratch: 0,
            discard_scratch: 0,
            backward_scratch: 1,
            gradients: 0,
        }
    }

    /// A layer known by three figures: one evaluation's work, the bytes of its output, and the
    /// bytes that its backward pass reads beyond input and output. The backward pass is taken to
    /// need as much again, and the input's cotangent.
    pub fn new(work: f64, output: usize, kept: usize) -> Self {
        Self {
            work,
            output,
            kept,
            keeps_output: false,
            forward_scratch: 0,
            discard_scratch: kept,
            backward_scratch: kept.saturating_add(output),
            gradients: 0,
        }
    }

    /// The output, where the backward pass reads it.
    pub(crate) fn held_output(&self) -> usize {
        if self.keeps_output { self.output } else { 0 }
    }
}

/// The costs of a chain, first layer first. The chain's input belongs to the caller and is not
/// counted.
#[derive(Clone, Debug, PartialEq)]
pub struct ChainCost {
    layers: Vec<LayerCost>,
    /// Gradients of the layers before each one, summed: `gradients[t] - gradients[s]` is s..t's.
    gradients: Vec<usize>,
    work: Vec<f64>,
}

impl ChainCost {
    /// A chain of these layers.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for no layers, and for work that is negative or not finite.
    #[track_caller]
    pub fn new(layers: Vec<LayerCost>) -> Result<Self> {
        let site = autograd_core::Site::caller();
        if layers.is_empty() {
            return Err(Error::argument("chain cost", "a chain has at least one layer").or_at(site));
        }
        if let Some(i) = layers.iter().position(|layer| !(layer.work.is_finite() && layer.work >= 0.0)) {
            let reason = format!("layer {i} has work {}, which is no amount", layers[i].work);
            return Err(Error::argument("chain cost", reason).or_at(site));
        }
        let (mut gradients, mut work) = (vec![0usize], vec![0.0]);
        for (i, layer) in layers.iter().enumerate() {
            gradients.push(gradients[i].saturating_add(layer.gradients));
            work.push(work[i] + layer.work);
        }
        Ok(Self { layers, gradients, work })
    }

    /// `layers` equal layers.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    #[track_caller]
    pub fn uniform(layers: usize, layer: LayerCost) -> Result<Self> {
        Self::new(vec![layer; layers])
    }

    /// The layers.
    pub fn layers(&self) -> &[LayerCost] {
        &self.layers
    }

    /// The number of layers; never 0.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.layers.len()
    }

    /// One evaluation of some of the layers.
    pub fn work_of(&self, layers: Range<usize>) -> f64 {
        self.work[layers.end] - self.work[layers.start]
    }

    /// Bytes of the gradients of some layers' parameters.
    pub(crate) fn gradients_of(&self, layers: Range<usize>) -> usize {
        self.gradients[layers.end] - self.gradients[layers.start]
    }

    /// Bytes of a layer's input; none for the first one's, which is the caller's.
    pub(crate) fn input_of(&self, layer: usize) -> usize {
        if layer == 0 { 0 } else { self.layers[layer - 1].output }
    }
}
