//! A residual net's forward and backward pass with and without ops in place: buffers taken, peak
//! memory and time. `cargo bench --bench in_place`.
//!
//! Eight blocks of two 3×3 convolutions of 32 channels with bias, relu and a skip connection, on
//! 8 images of 32 × 32. Both ways give the same gradients, to the bit.

use candle_autograd::core::{InPlaceStatistics, count_in_place};
use candle_autograd::kernels::memory;
use candle_autograd::{GradientTape, Result, TensorAutograd, TrackedTensor};
use std::time::Instant;

const IMAGES: usize = 8;
const CHANNELS: usize = 32;
const SIDE: usize = 32;
const BLOCKS: usize = 8;
const STEPS: usize = 7;
const MIB: f64 = 1024.0 * 1024.0;

/// How a block computes relu(conv(relu(conv(x) + b)) + c + x).
type Block = fn(&TrackedTensor, &[TrackedTensor]) -> Result<TrackedTensor>;

fn functional(x: &TrackedTensor, w: &[TrackedTensor]) -> Result<TrackedTensor> {
    let h = x.conv2d(&w[0], 1, 1, 1, 1)?.add(&w[1])?.relu()?;
    h.conv2d(&w[2], 1, 1, 1, 1)?.add(&w[3])?.add(x)?.relu()
}

fn in_place(x: &TrackedTensor, w: &[TrackedTensor]) -> Result<TrackedTensor> {
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

struct Figures {
    taken: usize,
    peak: usize,
    times: Vec<f64>,
    statistics: InPlaceStatistics,
    gradient: Vec<f32>,
}

fn run(block: Block) -> Result<Figures> {
    let x = numbers(&[IMAGES, CHANNELS, SIDE, SIDE], 1.0)?;
    let mut weights = Vec::new();
    for _ in 0..2 * BLOCKS {
        weights.push(numbers(&[CHANNELS, CHANNELS, 3, 3], 0.05)?);
        weights.push(numbers(&[1, CHANNELS, 1, 1], 0.1)?);
    }
    let mut figures = Figures {
        taken: 0,
        peak: 0,
        times: Vec::new(),
        statistics: Default::default(),
        gradient: Vec::new(),
    };
    for _ in 0..STEPS {
        let before = memory::stats();
        memory::reset_peak();
        let clock = Instant::now();
        let (grads, statistics) = count_in_place(|| {
            let tape = GradientTape::new();
            let watched: Vec<TrackedTensor> = weights.iter().map(|w| tape.variable(w)).collect();
            let y = watched.chunks(4).try_fold(x.clone(), |x, w| block(&x, w))?;
            let loss = y.mean()?;
            drop(y);
            tape.gradient(&loss, &watched.iter().collect::<Vec<_>>())
        });
        figures.times.push(clock.elapsed().as_secs_f64() * 1e3);
        let after = memory::stats();
        figures.gradient = grads?[0].to_flat()?;
        figures.taken = (after.reused + after.fresh) - (before.reused + before.fresh);
        figures.peak = after.peak_bytes - before.live_bytes;
        figures.statistics = statistics;
    }
    figures.times.sort_by(f64::total_cmp);
    Ok(figures)
}

fn main() -> Result<()> {
    let (without, with) = (run(functional)?, run(in_place)?);
    assert!(without.gradient == with.gradient, "both ways give the same gradients");
    println!("a training step of a residual net, {BLOCKS} blocks of {CHANNELS} channels, {IMAGES} images\n");
    println!("{:<12} {:>14} {:>14} {:>10}", "", "buffers taken", "peak MiB", "ms");
    for (name, figures) in [("functional", &without), ("in place", &with)] {
        let (peak, time) = (figures.peak as f64 / MIB, figures.times[STEPS / 2]);
        println!("{name:<12} {:>14} {peak:>14.1} {time:>10.1}", figures.taken);
    }
    println!("\n{:.0} % of ops in place reused their memory", 100.0 * with.statistics.share_reused());
    Ok(())
}
