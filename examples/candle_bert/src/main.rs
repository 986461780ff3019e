//! A candle BERT under a gradient tape, without a line of it rewritten for the tape.
//!
//! `cargo run --release --example candle_bert -- --model DIR` takes the folder of a sentence model
//! (`config.json`, `model.safetensors`, `tokenizer.json`, as of all-MiniLM-L6-v2); without it the
//! weights are random. The similarity of two texts is traced back to the tokens of the first:
//!
//! 1. candle-transformers' own layers have no gradient, and `diagnose` says where it ends; so the
//!    layer norm is written out (`layers.rs`), with the same numbers.
//! 2. The gradients of the words' vectors under `tape.candle` are candle's own.
//! 3. Checkpointed layer by layer, the backward pass takes less memory.
//! 4. Integrated gradients over the tokens become an HTML page.

mod layers;
mod model;
mod page;

use candle_autograd::interpret::integrated_gradients;
use candle_autograd::nn::{CandleOps, candle, candle_checkpointed, diagnose};
use candle_autograd::{Error, GradientTape, Result, TrackedTensor};
use candle_core::{Tensor, Var};
use layers::Layer;
use model::Model;
use page::Page;
use peak_alloc::PeakAlloc;
use std::path::PathBuf;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

const MIB: f64 = 1024.0 * 1024.0;

/// Rounding in f32, where ops are the same and their order too: the gradients are equal.
const SAME: f64 = 1e-6;

/// The layer norm that is written out rounds in another order than the fused one.
const CLOSE: f64 = 1e-3;

struct Options {
    model: Option<PathBuf>,
    text: String,
    other: String,
    out: PathBuf,
    steps: usize,
}

impl Options {
    fn read() -> Result<Self, lexopt::Error> {
        use lexopt::ValueExt;
        let mut options = Self {
            model: None,
            text: "a small cat sleeps on the warm mat while the rain falls on the quiet town".to_owned(),
            other: "a kitten naps on a rug".to_owned(),
            out: PathBuf::from("out/candle_bert.html"),
            steps: 32,
        };
        let mut arguments = lexopt::Parser::from_env();
        while let Some(argument) = arguments.next()? {
            match argument {
                lexopt::Arg::Long("model") => options.model = Some(arguments.value()?.into()),
                lexopt::Arg::Long("text") => options.text = arguments.value()?.string()?,
                lexopt::Arg::Long("other") => options.other = arguments.value()?.string()?,
                lexopt::Arg::Long("out") => options.out = arguments.value()?.into(),
                lexopt::Arg::Long("steps") => options.steps = arguments.value()?.parse()?,
                other => return Err(other.unexpected()),
            }
        }
        Ok(options)
    }
}

/// The mean of the tokens' vectors, of length 1.
fn pooled(output: &Tensor) -> candle_core::Result<Tensor> {
    let mean = output.mean(1)?;
    mean.broadcast_div(&mean.sqr()?.sum_keepdim(1)?.sqrt()?)
}

/// The cosine of the angle between a result and the other text's.
fn similarity(output: &Tensor, other: &Tensor) -> candle_core::Result<Tensor> {
    (pooled(output)? * other)?.sum_all()
}

/// Runs `f` and gives the most memory that it held beyond what there was.
fn peak<R>(f: impl FnOnce() -> Result<R>) -> Result<(R, f64)> {
    let before = ALLOCATOR.current_usage();
    ALLOCATOR.reset_peak_usage();
    let made = f()?;
    Ok((made, ALLOCATOR.peak_usage().saturating_sub(before) as f64 / MIB))
}

fn distance(a: &Tensor, b: &Tensor) -> Result<f64> {
    let far = (a - b)?.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>()?;
    let size = b.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>()?;
    Ok(f64::from(far / size))
}

/// The layers one after another, each an op of the tape that keeps its input alone.
fn checkpointed(layers: &[Layer], x: TrackedTensor) -> Result<TrackedTensor> {
    layers
        .iter()
        .cloned()
        .try_fold(x, |x, layer| candle_checkpointed("layer", move |x: &Tensor| layer.forward(x), &[&x]))
}

fn main() -> Result<()> {
    let options = Options::read().map_err(Error::msg)?;
    let model = match &options.model {
        Some(folder) => Model::load(folder)?,
        None => {
            println!("no --model DIR given: the weights are random, and so is what they say");
            Model::random(1)?
        }
    };
    let (tokens, words) = model.tokens(&options.text)?;
    let (other, _) = model.tokens(&options.other)?;
    let other = pooled(&model.own_output(&other)?)?.detach();
    let vectors = model.embeddings.words(&tokens)?.detach();

    // 1. candle-transformers' own layers.
    let start = model.embeddings.complete(&vectors)?;
    let mask = Tensor::zeros((1, 1, 1, tokens.len()), start.dtype(), start.device())?;
    let found =
        diagnose(&[("candle-transformers' encoder", &|x| model.own_encoder.forward(x, &mask))], &start)?;
    print!("{found}");
    let far = distance(&model.output(&vectors)?, &model.own_output(&tokens)?)?;
    println!("with the layer norm written out, the result is {far:.1e} from candle-transformers'");
    ensure(far < CLOSE, "the layers are not those of candle-transformers")?;

    // 2. Gradients of the words' vectors: candle's own, and those under the tape.
    let leaf = Var::from_tensor(&vectors)?;
    let (own, of_candle) = peak(|| {
        let grads = similarity(&model.output(&leaf)?, &other)?.backward()?;
        grads.get(&leaf).cloned().ok_or_else(|| Error::msg("candle gave no gradient"))
    })?;
    let (grad, of_tape) = peak(|| {
        let tape = GradientTape::new();
        let x = tape.variable(&vectors);
        let score = tape.candle(|x: &Tensor| similarity(&model.output(x)?, &other), &[&x])?;
        tape.derivative(&score, &x)?.into_tensor()
    })?;
    let far = distance(&grad, &own)?;
    println!("gradients under tape.candle are {far:.1e} from candle's own");
    ensure(far <= SAME, "the gradients are not candle's")?;

    // 3. The same, checkpointed layer by layer.
    let (grad, of_layers) = peak(|| {
        let tape = GradientTape::new();
        let x = tape.variable(&vectors);
        let start = candle(|x: &Tensor| model.embeddings.complete(x), &[&x])?;
        let output = checkpointed(&model.layers, start)?;
        let score = candle(|x: &Tensor| similarity(x, &other), &[&output])?;
        tape.derivative(&score, &x)?.into_tensor()
    })?;
    let far = distance(&grad, &own)?;
    println!("checkpointed by layer they are {far:.1e} from candle's own");
    ensure(far <= SAME, "the checkpointed gradients are not candle's")?;
    println!(
        "peak memory of {} tokens: {of_candle:.1} MiB by candle, {of_tape:.1} MiB under the tape, {of_layers:.1} MiB checkpointed by layer",
        tokens.len()
    );

    // 4. Integrated gradients, from vectors of no word.
    let score = |x: &TrackedTensor| -> Result<TrackedTensor> {
        let output = checkpointed(&model.layers, candle(|x: &Tensor| model.embeddings.complete(x), &[x])?)?;
        candle(|x: &Tensor| similarity(x, &other), &[&output])
    };
    let found = integrated_gradients(score, &TrackedTensor::from(&vectors), None, options.steps)?;
    let shares = found.value().tensor()?.squeeze(0)?.sum(1)?.to_vec1::<f32>()?;
    let shares: Vec<f64> = shares.into_iter().map(f64::from).collect();
    let similar = f64::from(similarity(&model.output(&vectors)?, &other)?.to_scalar::<f32>()?);
    let page = Page {
        title: &options.text,
        other: &options.other,
        words: &words,
        shares: &shares,
        similarity: similar,
        delta: found.worst_delta(),
        steps: found.steps,
    };
    if let Some(folder) = options.out.parent() {
        std::fs::create_dir_all(folder).map_err(Error::msg)?;
    }
    std::fs::write(&options.out, page.html()?).map_err(Error::msg)?;
    println!("similarity {similar:.4}; the page is {}", options.out.display());
    Ok(())
}

fn ensure(holds: bool, otherwise: &str) -> Result<()> {
    if holds { Ok(()) } else { Err(Error::msg(otherwise)) }
}
