//! Trains a transformer within a memory budget that its training would not fit.
//!
//! ```text
//! cargo run --release --example checkpoint_stack -- --budget-mb 100
//! ```
//!
//! Where to read on: the loop below is all that checkpointing asks of a training; `model.rs` says
//! the model as a list of layers, `block.rs` is one of them.

mod block;
mod model;
mod options;

use candle_autograd::checkpoint::Plan;
use candle_autograd::{CheckpointManager, GradientTape};
use candle_nn::{AdamW, Optimizer, ParamsAdamW};
use indicatif::{ProgressBar, ProgressStyle};
use options::Options;
use rand::SeedableRng;
use rand::rngs::StdRng;
use std::process::ExitCode;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// What the model learns to write.
const TEXT: &str = concat!(include_str!("../../ARCHITECTURE.md"), include_str!("../../LICENSE"));

/// Steps between two lines that stay.
const REPORTED: usize = 10;

fn main() -> ExitCode {
    let done = Options::read().and_then(|options| options.map_or(Ok(()), |options| run(&options)));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("checkpoint_stack: {error}");
            ExitCode::FAILURE
        }
    }
}

fn megabytes(bytes: usize) -> f64 {
    bytes as f64 / 1e6
}

fn run(options: &Options) -> Result<()> {
    let text = TEXT.as_bytes();
    if options.tokens + 1 > text.len() {
        return Err(format!("--tokens {}: the text has {} characters", options.tokens, text.len()).into());
    }
    let mut rng = StdRng::seed_from_u64(0);
    let parameters = model::parameters(options, &mut rng)?;
    let mut optimizer = AdamW::new(parameters.vars(), ParamsAdamW { lr: 1e-3, ..ParamsAdamW::default() })?;
    let mut manager = CheckpointManager::new(options.budget);
    if let Some(directory) = &options.disk {
        manager = manager.offload_to(directory, 1 << 32)?;
    }
    println!(
        "{} parameters in {} blocks, {} sequences of {} characters",
        parameters.elem_count(),
        options.layers,
        options.batch,
        options.tokens
    );

    let bar = ProgressBar::new(options.steps as u64);
    bar.set_style(ProgressStyle::with_template("{bar:30.cyan} {pos:>4}/{len}  {msg}")?.progress_chars("━╸─"));
    let mut first_plan = true;
    for step in 1..=options.steps {
        let (here, next) = model::batch(options, text, &mut rng)?;
        let tape = GradientTape::new();
        let watched = parameters.watch(&tape)?;
        let layers = model::layers(options, &watched, &next)?;
        if std::mem::take(&mut first_plan) {
            let plan = manager.plan(&layers, &here)?.explain();
            println!("{plan}");
            if let Some(cost) = manager.cost() {
                let all = Plan::keep_all(layers.len())?.predict(cost)?.peak_bytes;
                let (all, budget) = (megabytes(all), megabytes(options.budget));
                println!("  without checkpoints       {all:.2} MB, where {budget:.2} MB are allowed\n");
            }
        }
        let loss = manager.run(&layers, &here)?;
        drop(layers);
        let found = loss.to_scalar::<f32>()?;
        let gradients = watched.gradients(&tape, &loss)?;
        let stats = manager.stats().ok_or("no step was taken")?;
        optimizer.step(&gradients)?;
        let line = format!("loss {found:.3}  peak {:.2} MB", megabytes(stats.peak_bytes));
        bar.set_message(line.clone());
        bar.inc(1);
        if step % REPORTED == 0 || step == options.steps {
            bar.suspend(|| println!("step {step:>4}  {line}"));
        }
    }
    bar.finish_and_clear();
    println!("\n{}", manager.stats().ok_or("no step was taken")?);
    Ok(())
}
