//! Training and evaluation.

use super::Result;
use super::data::{Batch, Digits};
use super::net::Net;
use candle_autograd::nn::{Parameters, Watched};
use candle_autograd::{GradientTape, TensorAutograd, TrackedTensor};
use candle_core::backprop::GradStore;
use candle_nn::{AdamW, Optimizer, ParamsAdamW};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use std::f64::consts::PI;

/// The learning rate at the start; it falls to zero along half a cosine.
const LEARNING_RATE: f64 = 2e-3;

/// Images evaluated at once.
const EVALUATED: usize = 250;

/// Trains the net's parameters, one step at a time.
pub(crate) struct Training<'d> {
    digits: &'d Digits,
    parameters: Parameters,
    optimizer: AdamW,
    rng: StdRng,
    order: Vec<usize>,
    batch: usize,
    steps: usize,
    step: usize,
    compiled: Option<Box<dyn Stepper>>,
}

/// Steps by other means than a tape and candle's optimiser.
pub(crate) trait Stepper {
    /// A step on a batch at a learning rate.
    fn step(&mut self, batch: &Batch, rate: f64) -> Result<Step>;

    /// Gives the variables what was learnt.
    fn finish(&mut self) -> Result<()>;
}

/// What a step found before it changed the parameters.
#[derive(Clone, Copy)]
pub(crate) struct Step {
    /// The mean loss of the batch.
    pub(crate) loss: f64,
    /// How many images of the batch were read rightly.
    pub(crate) correct: usize,
    /// How many images there were.
    pub(crate) images: usize,
}

impl<'d> Training<'d> {
    /// A training of `epochs` epochs on the first `images` digits.
    pub(crate) fn new(
        digits: &'d Digits,
        images: usize,
        parameters: Parameters,
        batch: usize,
        epochs: usize,
        rng: StdRng,
    ) -> Result<Self> {
        let settings = ParamsAdamW { lr: LEARNING_RATE, ..ParamsAdamW::default() };
        let optimizer = AdamW::new(parameters.vars(), settings)?;
        let steps = epochs * images.div_ceil(batch);
        let order = (0..images).collect();
        Ok(Self { digits, parameters, optimizer, rng, order, batch, steps, step: 0, compiled: None })
    }

    /// The training with steps by other means.
    #[cfg(feature = "graph")]
    pub(crate) fn with_compiled(mut self, compiled: Box<dyn Stepper>) -> Self {
        self.compiled = Some(compiled);
        self
    }

    /// Takes the steps of one epoch, the images in a new order. `after` hears of each and says
    /// whether to go on.
    pub(crate) fn epoch(&mut self, mut after: impl FnMut(Step) -> bool) -> Result<()> {
        let mut order = std::mem::take(&mut self.order);
        order.shuffle(&mut self.rng);
        for chosen in order.chunks(self.batch) {
            let batch = self.digits.moved_batch(chosen, &mut self.rng)?;
            let rate = self.learning_rate();
            let step = match &mut self.compiled {
                Some(compiled) => compiled.step(&batch, rate)?,
                None => {
                    let (step, gradients) = eager_step(&self.parameters, &batch)?;
                    self.optimizer.set_learning_rate(rate);
                    self.optimizer.step(&gradients)?;
                    step
                }
            };
            self.step += 1;
            if !after(step) {
                break;
            }
        }
        self.order = order;
        self.compiled.as_mut().map_or(Ok(()), |compiled| compiled.finish())
    }

    fn learning_rate(&self) -> f64 {
        let done = self.step as f64 / self.steps as f64;
        LEARNING_RATE * 0.5 * (1.0 + (PI * done).cos())
    }
}

/// The loss of a batch and its gradients: the forward pass on a tape, then the way back.
pub(crate) fn eager_step(parameters: &Parameters, batch: &Batch) -> Result<(Step, GradStore)> {
    let tape = GradientTape::new();
    let (loss, logits, gradients) = gradients_of(&tape, &parameters.watch(&tape)?, batch)?;
    let step = Step {
        loss: f64::from(loss.to_scalar::<f32>()?),
        correct: correct(&logits, batch)?,
        images: batch.labels.elem_count(),
    };
    Ok((step, parameters.plain()?.store(gradients)?))
}

/// The loss, the logits, and the gradient of each parameter in the order of their names.
pub(crate) fn gradients_of(
    tape: &GradientTape,
    watched: &Watched,
    batch: &Batch,
) -> candle_autograd::Result<(TrackedTensor, TrackedTensor, Vec<TrackedTensor>)> {
    let logits = Net::new(watched)?.forward(&batch.images)?;
    let loss = logits.cross_entropy(&batch.labels)?;
    let gradients = tape.gradient(&loss, &watched.values())?;
    Ok((tape.unwatched(&loss), tape.unwatched(&logits), gradients))
}

/// The share of digits that are read rightly, on plain values: nothing is recorded.
pub(crate) fn accuracy(parameters: &Parameters, digits: &Digits) -> Result<f64> {
    let net = Net::new(&parameters.plain()?)?;
    let order: Vec<usize> = (0..digits.len()).collect();
    let mut right = 0;
    for chosen in order.chunks(EVALUATED) {
        let batch = digits.batch(chosen)?;
        right += correct(&net.forward(&batch.images)?, &batch)?;
    }
    Ok(right as f64 / digits.len() as f64)
}

/// How many logits are largest at their label.
fn correct(logits: &TrackedTensor, batch: &Batch) -> Result<usize> {
    let read = logits.detach()?.argmax(1)?.to_vec1::<u32>()?;
    let labels = batch.labels.to_vec1::<u32>()?;
    Ok(read.iter().zip(&labels).filter(|(read, label)| read == label).count())
}
