//! The main job: a convolutional net learns to read handwritten digits, and shows what it looks at.
//!
//! ```text
//! cargo run --release --example digits
//! ```
//!
//! Where to read on: `net.rs` is the model, `training.rs` takes the gradients and steps on them,
//! `attribution.rs` asks the trained net which pixels its answers rest on. The rest reads files
//! (`data.rs`), arguments (`options.rs`), and draws (`canvas.rs`, `curve.rs`, `progress.rs`).

mod attribution;
mod canvas;
mod curve;
mod data;
#[cfg(feature = "graph")]
mod graph;
mod net;
mod options;
mod progress;
mod training;

use candle_autograd::nn::Parameters;
use curve::Curve;
use data::Digits;
use options::Options;
use progress::Progress;
use rand::SeedableRng;
use rand::rngs::StdRng;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use training::{Training, accuracy};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

fn main() -> ExitCode {
    let done = Options::read().and_then(|options| options.map_or(Ok(()), |options| run(&options)));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("digits: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<()> {
    let interrupted = interrupted_by_ctrl_c()?;
    let (train, test) = (Digits::train()?, Digits::test()?);
    let images = options.limit.unwrap_or(train.len());
    if images > train.len() {
        return Err(format!("--limit {images}: there are {} training images", train.len()).into());
    }
    std::fs::create_dir_all(&options.out)
        .map_err(|error| format!("--out {}: {error}", options.out.display()))?;

    let mut rng = StdRng::seed_from_u64(options.seed);
    let variables = net::variables(&mut rng)?;
    let parameters = Parameters::from_varmap(&variables);
    println!(
        "{} parameters, {images} training images, {} test images, seed {}",
        parameters.elem_count(),
        test.len(),
        options.seed
    );

    let mut curve = Curve::new(images);
    let mut training = Training::new(&train, images, parameters.clone(), options.batch, options.epochs, rng)?;
    if options.graph {
        training = compiled(
            training,
            &parameters,
            &train.batch(&(0..options.batch.min(images)).collect::<Vec<_>>())?,
        )?;
    }
    for epoch in 1..=options.epochs {
        let mut progress = Progress::new(epoch, options.epochs, images);
        training.epoch(|step| {
            curve.add_step(step);
            progress.add(step);
            !interrupted.load(Ordering::Relaxed)
        })?;
        let accuracy = accuracy(&parameters, &test)?;
        curve.add_accuracy(accuracy);
        progress.finish(accuracy);
        if interrupted.load(Ordering::Relaxed) {
            println!("interrupted: this is the net so far");
            break;
        }
    }

    let model = options.out.join("digits.safetensors");
    variables.save(&model)?;
    println!("parameters   {}", model.display());
    let picture = options.out.join("training.png");
    curve.draw(&picture)?;
    println!("curve        {}", picture.display());
    let picture = options.out.join("attribution.png");
    let completeness = attribution::draw(&parameters, &test, &picture)?;
    println!("attribution  {} ({completeness})", picture.display());
    println!("test accuracy: {:.2} %", 100.0 * curve.last_accuracy());
    Ok(())
}

/// The training by a compiled step.
#[cfg(feature = "graph")]
fn compiled<'d>(
    training: Training<'d>,
    parameters: &Parameters,
    batch: &data::Batch,
) -> Result<Training<'d>> {
    let mut step = graph::CompiledStep::new(parameters)?;
    println!("{}", step.compare(batch)?);
    Ok(training.with_compiled(Box::new(step)))
}

/// Without static graphs there is no such training.
#[cfg(not(feature = "graph"))]
fn compiled<'d>(_: Training<'d>, _: &Parameters, _: &data::Batch) -> Result<Training<'d>> {
    Err("--graph needs static graphs: cargo run --release --features jit --example digits -- --graph".into())
}

/// A flag that the first Ctrl-C sets; the second one ends the process.
fn interrupted_by_ctrl_c() -> Result<Arc<AtomicBool>> {
    const ENDED_BY_CTRL_C: i32 = 130;
    let flag = Arc::new(AtomicBool::new(false));
    let set = flag.clone();
    ctrlc::set_handler(move || {
        if set.swap(true, Ordering::Relaxed) {
            std::process::exit(ENDED_BY_CTRL_C);
        }
    })?;
    Ok(flag)
}
