//! Twelve transformer blocks, checkpointed and plain: `cargo bench --features full --bench
//! checkpoint`.
//!
//! The workload is the peers' `stack12`: B 8, T 128, D 256, 8 heads, f32, blocks with norms in
//! front, causal attention and gelu (tanh); the loss is Σ y·g. Memory of a step is what lives at its
//! peak beyond inputs, parameters and returned gradients, by two counters: the buffer pool's, and the
//! allocator's with an empty pool.

// The bench has its own numbers; it needs only the block.
#[path = "../examples/checkpoint_stack/block.rs"]
mod block;

use block::{Block, PARAMETERS};
use candle_autograd::checkpoint::{CheckpointManager, Costs, Plan, checkpoint, checkpoint_sequential};
use candle_autograd::graph::{Graph, Options, value_and_grad};
use candle_autograd::kernels::memory;
use candle_autograd::{Error, GradientTape, Result, TensorAutograd, TrackedTensor};
use peak_alloc::PeakAlloc;
use std::time::Instant;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

const LAYERS: usize = 12;
const SHAPE: [usize; 3] = [8, 128, 256];
const HEADS: usize = 8;
/// Steps of each contender, taken in turns.
const STEPS: usize = 9;
/// PyTorch 2's eager mode with `torch.utils.checkpoint` around each block, on two cores of the kind
/// that this was developed on.
const PYTORCH_MB: f64 = 272.0;

type Layer<'a> = Box<dyn Fn(&TrackedTensor) -> Result<TrackedTensor> + 'a>;

fn main() -> Result<()> {
    let stack = Stack::new();
    let plain = |layers: &[Layer<'_>], x: &TrackedTensor| {
        checkpoint_sequential(layers, x, &Plan::keep_all(layers.len())?)
    };
    let each = |layers: &[Layer<'_>], x: &TrackedTensor| {
        let (loss, blocks) = layers.split_last().ok_or_else(|| Error::msg("no layers"))?;
        let again = |x: TrackedTensor, block: &Layer<'_>| -> Result<TrackedTensor> {
            Ok(checkpoint(|x| Ok(vec![block(&x[0])?]), &[&x])?.swap_remove(0))
        };
        loss(&blocks.iter().try_fold(x.clone(), again)?)
    };
    let same = bits(&stack.step(&plain)?) == bits(&stack.step(&each)?);
    println!("gradients equal to the bit: {same}\n");

    let (mut plain_ms, mut each_ms) = (Vec::new(), Vec::new());
    for _ in 0..STEPS {
        plain_ms.push(stack.time(&plain)?);
        each_ms.push(stack.time(&each)?);
    }
    let (plain_ms, each_ms) = (median(&mut plain_ms), median(&mut each_ms));
    let (plain_mb, each_mb) = (stack.pool_mb(&plain)?, stack.pool_mb(&each)?);
    let (plain_all, each_all) = (stack.allocator_mb(&plain)?, stack.allocator_mb(&each)?);
    println!("{:<24} {:>10} {:>10} {:>14}", "", "ms", "MB (pool)", "MB (allocator)");
    println!("{:<24} {plain_ms:>10.1} {plain_mb:>10.1} {plain_all:>14.1}", "stack12_plain");
    println!("{:<24} {each_ms:>10.1} {each_mb:>10.1} {each_all:>14.1}", "stack12_ckpt");
    println!(
        "{:<24} {:>10.2} {:>10.2} {:>14.2}\n",
        "ratio",
        each_ms / plain_ms,
        each_mb / plain_mb,
        each_all / plain_all
    );
    println!("time ratio      {:.2}  (at most 1.30 is wanted; PyTorch 1.37)", each_ms / plain_ms);
    println!(
        "step memory     {:.2}  of PyTorch's {PYTORCH_MB} MB (at most 0.50 is wanted)\n",
        each_all / PYTORCH_MB
    );
    stack.budgets(&plain)?;
    stack.graphs()
}

struct Stack {
    x: TrackedTensor,
    g: TrackedTensor,
    parameters: Vec<Vec<TrackedTensor>>,
}

fn value(seed: usize, dims: &[usize], scale: f32) -> TrackedTensor {
    let count: usize = dims.iter().product();
    let number = |i: usize| (((i + seed) * 2_654_435_761 % 100_003) as f32 / 50_001.5 - 1.0) * scale;
    TrackedTensor::from_vec((0..count).map(number).collect(), dims)
        .expect("as many elements as the shape has")
}

fn bits(values: &[TrackedTensor]) -> Vec<Vec<u32>> {
    let bits = |v: &TrackedTensor| v.to_flat::<f32>().expect("f32").into_iter().map(f32::to_bits).collect();
    values.iter().map(bits).collect()
}

fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn bytes(values: &[TrackedTensor]) -> usize {
    values.iter().map(|v| v.meta().bytes()).sum()
}

impl Stack {
    fn new() -> Self {
        let width = SHAPE[2];
        let block = |b: usize| {
            let parameter = |(i, (name, shape)): (usize, &(&str, &[usize]))| {
                let dims: Vec<usize> = shape.iter().map(|times| times * width).collect();
                match dims.len() {
                    1 => value(0, &dims, 0.0).affine(0.0, f64::from(u8::from(name.ends_with("weight")))),
                    _ => Ok(value(b * 101 + i, &dims, 0.05)),
                }
            };
            PARAMETERS.iter().enumerate().map(parameter).collect::<Result<_>>().expect("plain numbers")
        };
        Self {
            x: value(1, &SHAPE, 1.0),
            g: value(2, &SHAPE, 1.0),
            parameters: (0..LAYERS).map(block).collect(),
        }
    }

    /// The gradients of x and of all parameters.
    fn step(
        &self,
        run: &dyn Fn(&[Layer<'_>], &TrackedTensor) -> Result<TrackedTensor>,
    ) -> Result<Vec<TrackedTensor>> {
        self.step_mut(&mut |layers, x| run(layers, x))
    }

    fn step_mut(
        &self,
        run: &mut dyn FnMut(&[Layer<'_>], &TrackedTensor) -> Result<TrackedTensor>,
    ) -> Result<Vec<TrackedTensor>> {
        let tape = GradientTape::new();
        let x = tape.variable(&self.x);
        let blocks: Vec<Block> = self
            .parameters
            .iter()
            .map(|p| Block { parameters: p.iter().map(|w| tape.variable(w)).collect(), heads: HEADS })
            .collect();
        let mut layers: Vec<Layer<'_>> = Vec::new();
        for block in &blocks {
            layers.push(Box::new(move |x| block.forward(x)));
        }
        let g = &self.g;
        layers.push(Box::new(move |x| (x * g)?.sum()));
        let loss = run(&layers, &x)?;
        let sources: Vec<&TrackedTensor> =
            std::iter::once(&x).chain(blocks.iter().flat_map(|block| &block.parameters)).collect();
        tape.gradient(&loss, &sources)
    }

    fn time(&self, run: &dyn Fn(&[Layer<'_>], &TrackedTensor) -> Result<TrackedTensor>) -> Result<f64> {
        let clock = Instant::now();
        drop(self.step(run)?);
        Ok(clock.elapsed().as_secs_f64() * 1e3)
    }

    /// Peak of the pool's live bytes beyond inputs, parameters and returned gradients.
    fn pool_mb(&self, run: &dyn Fn(&[Layer<'_>], &TrackedTensor) -> Result<TrackedTensor>) -> Result<f64> {
        memory::reset_peak();
        let start = memory::stats().live_bytes;
        let gradients = self.step(run)?;
        let beyond = memory::stats().peak_bytes.saturating_sub(start + bytes(&gradients));
        Ok(beyond as f64 / 1e6)
    }

    /// The same by the allocator, while the pool keeps nothing.
    fn allocator_mb(
        &self,
        run: &dyn Fn(&[Layer<'_>], &TrackedTensor) -> Result<TrackedTensor>,
    ) -> Result<f64> {
        let limit = 2 << 30;
        memory::set_limit(0);
        memory::trim();
        let start = ALLOCATOR.current_usage();
        ALLOCATOR.reset_peak_usage();
        let gradients = self.step(run)?;
        let beyond = ALLOCATOR.peak_usage().saturating_sub(start + bytes(&gradients));
        memory::set_limit(limit);
        Ok(beyond as f64 / 1e6)
    }

    /// The step as a static graph within budgets: what is planned, how long the search and a step take.
    fn graphs(&self) -> Result<()> {
        let inputs: Vec<&TrackedTensor> =
            std::iter::once(&self.x).chain(self.parameters.iter().flatten()).collect();
        let metas: Vec<_> = inputs.iter().map(|x| x.meta()).collect();
        let loss = |x: &[TrackedTensor]| {
            let mut blocks = x[1..].chunks(PARAMETERS.len());
            let block = |x: TrackedTensor, p: &[TrackedTensor]| {
                Block { parameters: p.to_vec(), heads: HEADS }.forward(&x)
            };
            (blocks.try_fold(x[0].clone(), block)? * &self.g)?.sum()
        };
        let graph = Graph::capture(value_and_grad(loss), &metas)?;
        let free = graph.compile(Options::default())?;
        let mb = |bytes: usize| bytes as f64 / 1e6;
        println!("\nas a static graph of {} ops, arena in MB", free.graph().program().instructions.len());
        let clock = Instant::now();
        let trades = free.graph().recompute_trades(true)?;
        let seconds = clock.elapsed().as_secs_f64();
        let least = trades.last().map_or(0, |trade| trade.0);
        println!(
            "  {} budgets from {:.1} to {:.1}, found in {seconds:.1} s",
            trades.len(),
            mb(free.planned_bytes()),
            mb(least)
        );
        let want = bits(&free.call(&inputs)?);
        println!(
            "{:>8} {:>10} {:>12} {:>8} {:>8} {:>6}",
            "budget", "planned", "extra work", "made s", "ms", "equal"
        );
        for quarter in (0..=4).rev() {
            let budget = least + (free.planned_bytes() - least) * quarter / 4;
            let clock = Instant::now();
            let compiled = graph.compile(Options { budget: Some(budget), ..Options::default() })?;
            let made = clock.elapsed().as_secs_f64();
            let work = trades.iter().find(|trade| trade.0 <= budget).map_or(0.0, |trade| trade.1);
            let equal = bits(&compiled.call(&inputs)?) == want;
            let mut times = Vec::new();
            for _ in 0..STEPS {
                let clock = Instant::now();
                drop(compiled.call(&inputs)?);
                times.push(clock.elapsed().as_secs_f64() * 1e3);
            }
            let (planned, ms) = (mb(compiled.planned_bytes()), median(&mut times));
            println!(
                "{:>8.1} {planned:>10.2} {:>11.1}% {made:>8.1} {ms:>8.1} {equal:>6}",
                mb(budget),
                work * 100.0
            );
        }
        Ok(())
    }

    /// Predicted and measured peaks under five budgets.
    fn budgets(&self, plain: &dyn Fn(&[Layer<'_>], &TrackedTensor) -> Result<TrackedTensor>) -> Result<()> {
        let want = bits(&self.step(plain)?);
        let mut measuring = CheckpointManager::new(usize::MAX);
        drop(self.step_mut(&mut |layers, x| measuring.run(layers, x))?);
        let cost = measuring.cost().cloned().ok_or_else(|| Error::msg("no costs"))?;
        let least = Plan::least_budget(&cost);
        let most = Plan::keep_all(LAYERS + 1)?.predict(&cost)?.peak_bytes;
        println!("budgets in MB, gradients of the parameters included");
        println!(
            "{:>8} {:>10} {:>10} {:>8} {:>10} {:>12} {:>8} {:>6}",
            "budget", "predicted", "measured", "ratio", "allocator", "extra work", "ms", "equal"
        );
        for fifth in 0..5 {
            let budget = least + (most - least) * fifth / 4;
            let mut manager = CheckpointManager::new(budget).costs(Costs::Given(cost.clone()));
            let clock = Instant::now();
            let gradients = self.step_mut(&mut |layers, x| manager.run(layers, x))?;
            let ms = clock.elapsed().as_secs_f64() * 1e3;
            let stats = manager.stats().ok_or_else(|| Error::msg("no stats"))?;
            let equal = bits(&gradients) == want;
            drop(gradients);
            let plan = Plan::optimal(&cost, budget)?;
            let allocator =
                self.allocator_mb(&|layers, x| checkpoint_sequential(layers, x, &plan))? + gradient_mb(&cost);
            let mb = |bytes: usize| bytes as f64 / 1e6;
            println!(
                "{:>8.1} {:>10.2} {:>10.2} {:>8.4} {allocator:>10.1} {:>11.1}% {ms:>8.1} {equal:>6}",
                mb(budget),
                mb(stats.predicted_peak_bytes),
                mb(stats.peak_bytes),
                stats.peak_bytes as f64 / stats.predicted_peak_bytes as f64,
                stats.extra_forward_work * 100.0
            );
        }
        Ok(())
    }
}

/// The gradients of the parameters and of x.
fn gradient_mb(cost: &candle_autograd::checkpoint::ChainCost) -> f64 {
    let parameters: usize = cost.layers().iter().map(|layer| layer.gradients).sum();
    (parameters + SHAPE.iter().product::<usize>() * 4) as f64 / 1e6
}
