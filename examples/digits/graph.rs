//! `--graph`: the training step captured once, forward and backward as one, and compiled.
//!
//! The captured function closes over the parameters: it reads what their memory holds at each
//! call, so that the optimiser steps on the same variables as in eager mode.

use super::Result;
use super::data::Batch;
use super::training::{Step, eager_gradients, step_of};
use candle_autograd::TrackedTensor;
use candle_autograd::graph::{Jit, jit};
use candle_autograd::nn::Parameters;
use candle_core::backprop::GradStore;
use std::time::Instant;

/// Steps of each kind that are timed against each other.
const TIMED: usize = 25;

type Function = Box<dyn Fn(&[TrackedTensor]) -> candle_autograd::Result<Vec<TrackedTensor>>>;

/// The compiled step: images and labels in; the loss, the logits and all gradients out.
pub(crate) struct CompiledStep {
    step: Jit<Function>,
    parameters: Parameters,
}

impl CompiledStep {
    /// The step for these parameters; it is compiled at its first call for each size of batch.
    pub(crate) fn new(parameters: &Parameters) -> Self {
        let own = parameters.clone();
        let function: Function = Box::new(move |x| {
            let batch = Batch { images: x[0].clone(), labels: x[1].clone() };
            let (loss, logits, gradients) = eager_gradients(&own, &batch)?;
            Ok([loss, logits].into_iter().chain(gradients).collect())
        });
        Self { step: jit(function), parameters: parameters.clone() }
    }

    /// The loss of a batch and its gradients.
    pub(crate) fn gradients(&self, batch: &Batch) -> Result<(Step, GradStore)> {
        let mut made = self.step.call(&[&batch.images, &batch.labels])?.into_iter();
        let (Some(loss), Some(logits)) = (made.next(), made.next()) else {
            return Err("the compiled step has a loss and logits".into());
        };
        Ok((step_of(&loss, &logits, batch)?, self.parameters.plain()?.store(made.collect())?))
    }

    /// What was fused, and how much faster a step's gradients are than in eager mode: medians of
    /// steps that take turns on one batch.
    pub(crate) fn compare(&self, batch: &Batch) -> Result<String> {
        let explanation = self.step.explain(&[&batch.images, &batch.labels])?;
        let (mut eager, mut graph) = (Vec::new(), Vec::new());
        for _ in 0..TIMED {
            let start = Instant::now();
            let _ = eager_gradients(&self.parameters, batch)?;
            eager.push(start.elapsed().as_secs_f64() * 1e3);
            let start = Instant::now();
            self.gradients(batch)?;
            graph.push(start.elapsed().as_secs_f64() * 1e3);
        }
        let median = |times: &mut Vec<f64>| {
            times.sort_by(f64::total_cmp);
            times[times.len() / 2]
        };
        let (eager, graph) = (median(&mut eager), median(&mut graph));
        let (ops, steps, arena) = (explanation.captured, explanation.steps.len(), explanation.planned_bytes);
        Ok(format!(
            "graph: {ops} ops in {steps} steps, {arena} bytes planned; a step's gradients take {graph:.2} ms, \
             eager {eager:.2} ms: {:.2} times as fast",
            eager / graph
        ))
    }
}
