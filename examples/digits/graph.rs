//! `--graph`: the whole training step captured once, forward, backward and AdamW as one, and compiled.
//!
//! Parameters and the optimiser's state are inputs and outputs of the step. The new ones are written
//! over those of the step before last, so a step takes no memory but its arena; the variables get
//! them back at the end of an epoch.

use super::Result;
use super::data::Batch;
use super::training::{Step, Stepper, eager_step, gradients_of};
use candle_autograd::graph::{Jit, jit};
use candle_autograd::nn::Parameters;
use candle_autograd::nn::optimisers::{AdamW, Moments};
use candle_autograd::{Error, GradientTape, TensorAutograd, TrackedTensor, Tree};
use candle_core::DType;
use candle_nn::Optimizer;
use std::time::Instant;

/// Steps of each kind that are timed against each other.
const TIMED: usize = 25;

type Function = Box<dyn Fn(&[TrackedTensor]) -> candle_autograd::Result<Vec<TrackedTensor>>>;

/// The compiled step. Images, labels, rate, parameters and state in; the loss, how many images were
/// read rightly, parameters and state out.
pub(crate) struct CompiledStep {
    step: Jit<Function>,
    parameters: Parameters,
    /// Parameters and state.
    now: Vec<TrackedTensor>,
    /// What a step writes over.
    outputs: Vec<TrackedTensor>,
}

/// Inputs in front of the parameters.
const GIVEN: usize = 3;

/// Outputs in front of the parameters.
const FOUND: usize = 2;

impl CompiledStep {
    /// The step for these parameters; it is compiled at its first call for each size of batch.
    pub(crate) fn new(parameters: &Parameters) -> Result<Self> {
        let own = parameters.clone();
        let function: Function = Box::new(move |x| train_step(&own, x));
        let mut step = Self {
            step: jit(function),
            parameters: parameters.clone(),
            now: Vec::new(),
            outputs: Vec::new(),
        };
        step.start()?;
        Ok(step)
    }

    /// Begins with what the variables hold, and a new state.
    fn start(&mut self) -> Result<()> {
        let values = self.parameters.plain()?;
        let state = AdamW::default().start(&values)?;
        self.now = values.leaves().into_iter().chain(state.leaves()).cloned().collect();
        let number = || TrackedTensor::from_vec(vec![0f32], &[]);
        self.outputs = vec![number()?, number()?];
        self.outputs.extend(self.now.iter().cloned());
        Ok(())
    }

    /// What was fused, and how much faster a step is than in eager mode: medians of steps that take
    /// turns on one batch. The variables are then what they were.
    pub(crate) fn compare(&mut self, batch: &Batch) -> Result<String> {
        const RATE: f64 = 1e-4;
        let vars = self.parameters.vars();
        let before = vars.iter().map(|var| var.copy()).collect::<candle_core::Result<Vec<_>>>()?;
        let mut optimizer = candle_nn::AdamW::new_lr(vars.clone(), RATE)?;
        let (mut eager, mut graph) = (Vec::new(), Vec::new());
        for _ in 0..TIMED {
            let start = Instant::now();
            let (_, gradients) = eager_step(&self.parameters, batch)?;
            optimizer.step(&gradients)?;
            eager.push(start.elapsed().as_secs_f64() * 1e3);
            let start = Instant::now();
            self.step(batch, RATE)?;
            graph.push(start.elapsed().as_secs_f64() * 1e3);
        }
        for (var, value) in vars.iter().zip(&before) {
            var.set(value)?;
        }
        let rate = TrackedTensor::from_vec(vec![RATE as f32], &[])?;
        let explanation = self.step.explain(&self.inputs(batch, &rate))?;
        self.start()?;
        let median = |times: &mut Vec<f64>| {
            times.sort_by(f64::total_cmp);
            times[times.len() / 2]
        };
        let (eager, graph) = (median(&mut eager), median(&mut graph));
        let (ops, steps, arena) = (explanation.captured, explanation.steps.len(), explanation.planned_bytes);
        Ok(format!(
            "graph: {ops} ops in {steps} steps, {arena} bytes planned; a training step takes {graph:.2} ms, \
             eager {eager:.2} ms: {:.2} times as fast",
            eager / graph
        ))
    }

    fn inputs<'a>(&'a self, batch: &'a Batch, rate: &'a TrackedTensor) -> Vec<&'a TrackedTensor> {
        [&batch.images, &batch.labels, rate].into_iter().chain(&self.now).collect()
    }
}

impl Stepper for CompiledStep {
    fn step(&mut self, batch: &Batch, rate: f64) -> Result<Step> {
        let rate = TrackedTensor::from_vec(vec![rate as f32], &[])?;
        let mut outputs = std::mem::take(&mut self.outputs);
        self.step.run_into(&self.inputs(batch, &rate), &mut outputs)?;
        self.now.iter_mut().zip(&mut outputs[FOUND..]).for_each(|(now, new)| std::mem::swap(now, new));
        let step = Step {
            loss: f64::from(outputs[0].to_scalar::<f32>()?),
            correct: outputs[1].to_scalar::<f32>()? as usize,
            images: batch.labels.elem_count(),
        };
        self.outputs = outputs;
        Ok(step)
    }

    fn finish(&mut self) -> Result<()> {
        for (var, value) in self.parameters.vars().iter().zip(&self.now) {
            var.set(&value.tensor()?)?;
        }
        Ok(())
    }
}

/// Forward pass, backward pass and optimiser's step.
fn train_step(parameters: &Parameters, x: &[TrackedTensor]) -> candle_autograd::Result<Vec<TrackedTensor>> {
    let structure = parameters.plain()?;
    let n = structure.leaves().len();
    let batch = Batch { images: x[0].clone(), labels: x[1].clone() };
    let part = |i: usize| structure.with_leaves(x[GIVEN + i * n..GIVEN + (i + 1) * n].iter().cloned());
    let (values, first, second) = (part(0)?, part(1)?, part(2)?);
    let Some(steps) = x.last() else { return Err(Error::msg("a training step has inputs")) };
    let state = Moments { first, second, steps: steps.clone() };

    let tape = GradientTape::new();
    let watched = values.map_leaves(|value| tape.try_variable(value))?;
    let (loss, logits, gradients) = gradients_of(&tape, &watched, &batch)?;
    let gradients = structure.with_leaves(gradients)?;
    let right = logits.argmax(1)?.eq(&batch.labels)?.to_dtype(DType::F32)?.sum()?;
    let (values, state) = AdamW::default().step(&x[2], &values, &gradients, &state)?;
    let found = [&loss, &right].into_iter();
    Ok(found.chain(values.leaves()).chain(state.leaves()).cloned().collect())
}
