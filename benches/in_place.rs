//! A residual net's forward and backward pass with and without ops in place: buffers taken, peak
//! memory and time. `cargo bench --bench in_place`.
//!
//! Eight blocks of two 3×3 convolutions of 32 channels with bias, relu and a skip connection, on
//! 8 images of 32 × 32. Both ways give the same gradients, to the bit.

mod residual;

use candle_autograd::Result;
use residual::{Block, Net, Step};
use std::time::Instant;

const IMAGES: usize = 8;
const CHANNELS: usize = 32;
const SIDE: usize = 32;
const BLOCKS: usize = 8;
const STEPS: usize = 7;
const MIB: f64 = 1024.0 * 1024.0;

/// The last of some steps, and the median of their milliseconds.
fn run(net: &Net, block: Block) -> Result<(Step, f64)> {
    let mut times = Vec::new();
    let mut timed = || -> Result<Step> {
        let clock = Instant::now();
        let step = net.step(block)?;
        times.push(clock.elapsed().as_secs_f64() * 1e3);
        Ok(step)
    };
    for _ in 1..STEPS {
        timed()?;
    }
    let last = timed()?;
    times.sort_by(f64::total_cmp);
    Ok((last, times[STEPS / 2]))
}

fn main() -> Result<()> {
    let net = Net::new(BLOCKS, IMAGES, CHANNELS, SIDE)?;
    let (without, with) = (run(&net, residual::functional)?, run(&net, residual::in_place)?);
    assert!(without.0.gradients == with.0.gradients, "both ways give the same gradients");
    println!("a training step of a residual net, {BLOCKS} blocks of {CHANNELS} channels, {IMAGES} images\n");
    println!("{:<12} {:>14} {:>14} {:>10}", "", "buffers taken", "peak MiB", "ms");
    for (name, (step, time)) in [("functional", &without), ("in place", &with)] {
        println!("{name:<12} {:>14} {:>14.1} {time:>10.1}", step.taken, step.peak as f64 / MIB);
    }
    println!("\n{:.0} % of ops in place reused their memory", 100.0 * with.0.statistics.share_reused());
    Ok(())
}
