//! A residual net's forward and backward pass, with and without ops in place: what it takes from the
//! pool of buffers.

use candle_autograd::core::{InPlaceStatistics, count_in_place};
use candle_autograd::kernels::memory;
use candle_autograd::{GradientTape, Result, TensorAutograd, TrackedTensor};

/// How a block computes relu(conv(relu(conv(x) + b)) + c + x).
pub(crate) type Block = fn(&TrackedTensor, &[TrackedTensor]) -> Result<TrackedTensor>;

pub(crate) fn functional(x: &TrackedTensor, w: &[TrackedTensor]) -> Result<TrackedTensor> {
    let h = x.conv2d(&w[0], 1, 1, 1, 1)?.add(&w[1])?.relu()?;
    h.conv2d(&w[2], 1, 1, 1, 1)?.add(&w[3])?.add(x)?.relu()
}

pub(crate) fn in_place(x: &TrackedTensor, w: &[TrackedTensor]) -> Result<TrackedTensor> {
    let mut h = x.conv2d(&w[0], 1, 1, 1, 1)?;
    h.add_(&w[1])?.relu_()?;
    let mut y = h.conv2d(&w[2], 1, 1, 1, 1)?;
    y.add_(&w[3])?.add_(x)?.relu_()?;
    Ok(y)
}

fn numbers(dims: &[usize], scale: f32) -> Result<TrackedTensor> {
    let count: usize = dims.iter().product();
    TrackedTensor::from_vec((0..count).map(|i| scale * (i as f32 * 0.37).sin()).collect(), dims)
}

/// The net's input and parameters.
pub(crate) struct Net {
    x: TrackedTensor,
    weights: Vec<TrackedTensor>,
}

/// One step's gradients, and what it took.
pub(crate) struct Step {
    pub(crate) gradients: Vec<Vec<f32>>,
    pub(crate) statistics: InPlaceStatistics,
    /// Buffers of 4 KiB and more from the pool.
    pub(crate) taken: usize,
    /// Bytes beyond those that lived before.
    pub(crate) peak: usize,
}

impl Net {
    /// So many blocks of 3×3 convolutions, on square images.
    pub(crate) fn new(blocks: usize, images: usize, channels: usize, side: usize) -> Result<Self> {
        let mut weights = Vec::new();
        for _ in 0..2 * blocks {
            weights.push(numbers(&[channels, channels, 3, 3], 0.05)?);
            weights.push(numbers(&[1, channels, 1, 1], 0.1)?);
        }
        Ok(Self { x: numbers(&[images, channels, side, side], 1.0)?, weights })
    }

    /// The gradients of the mean of the last block's values.
    pub(crate) fn step(&self, block: Block) -> Result<Step> {
        let before = memory::stats();
        memory::reset_peak();
        let (grads, statistics) = count_in_place(|| {
            let tape = GradientTape::new();
            let watched: Vec<TrackedTensor> = self.weights.iter().map(|w| tape.variable(w)).collect();
            let y = watched.chunks(4).try_fold(self.x.clone(), |x, w| block(&x, w))?;
            let loss = y.mean()?;
            drop(y);
            tape.gradient(&loss, &watched.iter().collect::<Vec<_>>())
        });
        let after = memory::stats();
        Ok(Step {
            gradients: grads?.iter().map(TrackedTensor::to_flat).collect::<Result<_>>()?,
            statistics,
            taken: (after.reused + after.fresh) - (before.reused + before.fresh),
            peak: after.peak_bytes - before.live_bytes,
        })
    }
}
