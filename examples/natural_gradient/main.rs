//! Natural gradient against plain gradient descent, on handwritten digits.
//!
//! ```text
//! cargo run --release --example natural_gradient
//! ```
//!
//! A small net learns the 1,797 digits of 8×8 pixels in `data/`, all training images at once, from
//! the same start by both methods. The natural gradient is (F + λ)⁻¹·∇ by conjugate gradients on
//! products with the Fisher information F, which is the Gauss–Newton matrix of the cross entropy;
//! λ follows the Levenberg–Marquardt rule (Martens, "Deep learning via Hessian-free optimization",
//! ICML 2010). Gradient descent has the best of several learning rates and the same time.
//! `curves.rs` draws the losses over steps and over time into `out/natural_gradient.png`.

#[allow(dead_code, reason = "the digits example draws more")]
#[path = "../digits/canvas.rs"]
mod canvas;
mod curves;

use candle_autograd::core::tree;
use candle_autograd::ops::random;
use candle_autograd::transforms::curvature::{GaussNewton, Likelihood, natural_gradient};
use candle_autograd::transforms::operators::{ConjugateGradientOptions, LinearOperator};
use candle_autograd::transforms::{grad, value_and_grad};
use candle_autograd::{DType, TensorAutograd, TrackedTensor};
use curves::Run;
use std::path::Path;
use std::time::Instant;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Images to learn from; the rest judges.
const TRAINING: usize = 1500;
/// Steps of the natural gradient.
const STEPS: usize = 40;
/// Products with the Fisher information in a step, at most.
const PRODUCTS: usize = 40;
/// The least λ: below it the numbers of type f32 no longer tell F + λ from a singular matrix.
const LEAST_DAMPING: f64 = 1e-4;
/// Learning rates of gradient descent to choose from, and the steps that choose.
const RATES: [f64; 6] = [0.1, 0.2, 0.5, 1.0, 2.0, 4.0];
const TRIAL: usize = 200;

/// Two layers of weights.
#[derive(Clone)]
struct Net {
    hidden: TrackedTensor,
    hidden_bias: TrackedTensor,
    output: TrackedTensor,
    output_bias: TrackedTensor,
}
tree!(Net { hidden, hidden_bias, output, output_bias });

/// Images as N×64 numbers from 0 to 1, and their labels.
struct Digits {
    images: TrackedTensor,
    labels: TrackedTensor,
}

impl Net {
    fn new(seed: u64) -> candle_autograd::Result<Self> {
        let keys = random::split(&random::key(seed), 2)?;
        let drawn = |key: &TrackedTensor, inputs: usize, outputs: usize| {
            random::normal(key, &[inputs, outputs], DType::F32)?.mul(1.0 / (inputs as f64).sqrt())
        };
        let zeros = |n: usize| TrackedTensor::from_vec(vec![0f32; n], &[n]);
        Ok(Self {
            hidden: drawn(&keys[0], 64, 40)?,
            hidden_bias: zeros(40)?,
            output: drawn(&keys[1], 40, 10)?,
            output_bias: zeros(10)?,
        })
    }

    /// Logits, one for each digit.
    fn forward(&self, images: &TrackedTensor) -> candle_autograd::Result<TrackedTensor> {
        let hidden = images.matmul(&self.hidden)?.add(&self.hidden_bias)?.tanh()?;
        hidden.matmul(&self.output)?.add(&self.output_bias)
    }

    fn loss(&self, digits: &Digits) -> candle_autograd::Result<TrackedTensor> {
        Likelihood::Categorical.negative_log(&self.forward(&digits.images)?, &digits.labels)
    }

    /// The part of the digits that is read correctly.
    fn accuracy(&self, digits: &Digits) -> candle_autograd::Result<f64> {
        let read = self.forward(&digits.images)?.argmax(1)?.to_dtype(DType::I64)?;
        read.eq(&digits.labels)?.to_dtype(DType::F64)?.mean()?.to_scalar::<f64>()
    }

    /// These parameters moved along others.
    fn moved(&self, factor: f64, along: &Self) -> candle_autograd::Result<Self> {
        Ok(Self {
            hidden: self.hidden.add(&along.hidden.mul(factor)?)?,
            hidden_bias: self.hidden_bias.add(&along.hidden_bias.mul(factor)?)?,
            output: self.output.add(&along.output.mul(factor)?)?,
            output_bias: self.output_bias.add(&along.output_bias.mul(factor)?)?,
        })
    }
}

/// The digits in two parts.
fn digits() -> Result<(Digits, Digits)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/uci-digits-8x8.csv");
    let text = std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let (mut pixels, mut labels) = (Vec::new(), Vec::new());
    for (i, line) in text.lines().enumerate() {
        let numbers: Vec<f32> = line
            .split(',')
            .map(|number| number.trim().parse().map_err(|error| format!("line {}: {error}", i + 1)))
            .collect::<std::result::Result<_, String>>()?;
        let [image @ .., label] = &numbers[..] else { continue };
        if image.len() != 64 {
            return Err(format!("line {}: {} pixels", i + 1, image.len()).into());
        }
        pixels.extend(image.iter().map(|pixel| pixel / 16.0));
        labels.push(*label as i64);
    }
    let part = |from: usize, to: usize| -> Result<Digits> {
        Ok(Digits {
            images: TrackedTensor::from_vec(pixels[64 * from..64 * to].to_vec(), &[to - from, 64])?,
            labels: TrackedTensor::from_vec(labels[from..to].to_vec(), &[to - from])?,
        })
    };
    Ok((part(0, TRAINING)?, part(TRAINING, labels.len())?))
}

/// Steps of the natural gradient.
fn natural(mut net: Net, train: &Digits) -> Result<(Net, Run)> {
    let mut run = Run::new("natural gradient");
    let mut damping = 1.0;
    let options = ConjugateGradientOptions { tolerance: 1e-3, iterations: PRODUCTS };
    let mut loss = f64::from(net.loss(train)?.to_scalar::<f32>()?);
    run.add(0.0, loss);
    let start = Instant::now();
    let mut products = 0;
    for _ in 0..STEPS {
        let cross_entropy = |z: &TrackedTensor| Likelihood::Categorical.negative_log(z, &train.labels);
        let fisher = GaussNewton::new(|net: &Net| net.forward(&train.images), cross_entropy, &net)?;
        let gradient = fisher.gradient()?;
        let step = natural_gradient(&fisher, &gradient, damping, &options)?;
        products += step.iterations;
        // What the quadratic model promises: ⟨∇, s⟩ − ½⟨s, F·s⟩ for the step −s.
        let promised = step.x.dot(&gradient)?.sub(&step.x.dot(&fisher.matvec(&step.x)?)?.mul(0.5)?)?;
        let next = net.moved(-1.0, &fisher.layout().unflatten_like(&step.x, &net)?)?;
        let reached = f64::from(next.loss(train)?.to_scalar::<f32>()?);
        let kept = (loss - reached) / f64::from(promised.to_scalar::<f32>()?);
        if kept > 0.75 {
            damping = (damping * 0.4).max(LEAST_DAMPING);
        } else if kept < 0.25 {
            damping *= 2.5;
        }
        if reached < loss {
            (net, loss) = (next, reached);
        }
        run.add(start.elapsed().as_secs_f64(), loss);
    }
    println!("natural gradient: {STEPS} steps, {products} products with F, {:.2?}", start.elapsed());
    Ok((net, run))
}

/// Gradient descent for as long as it may take.
fn descent(mut net: Net, train: &Digits, rate: f64, steps: usize, seconds: f64) -> Result<(Net, Run)> {
    let mut run = Run::new(&format!("gradient descent, rate {rate}"));
    let start = Instant::now();
    for _ in 0..steps {
        let (loss, gradient) = value_and_grad(|net: &Net| net.loss(train), &net)?;
        run.add(start.elapsed().as_secs_f64(), f64::from(loss.to_scalar::<f32>()?));
        if start.elapsed().as_secs_f64() > seconds {
            break;
        }
        net = net.moved(-rate, &gradient)?;
    }
    Ok((net, run))
}

fn main() -> Result<()> {
    let (train, test) = digits()?;
    let start = Net::new(0)?;
    // What is made once (threads, expressions) counts for neither.
    grad(|net: &Net| net.loss(&train), &start)?;
    let (natural_net, natural) = natural(start.clone(), &train)?;

    let mut trials = Vec::new();
    for rate in RATES {
        let (_, run) = descent(start.clone(), &train, rate, TRIAL, f64::INFINITY)?;
        trials.push((run.last(), rate));
    }
    let finite = trials.iter().filter(|(loss, _)| loss.is_finite());
    let best = finite.min_by(|a, b| a.0.total_cmp(&b.0)).ok_or("gradient descent diverged at every rate")?;
    let (plain_net, plain) = descent(start, &train, best.1, usize::MAX, natural.seconds())?;

    for (net, run) in [(&natural_net, &natural), (&plain_net, &plain)] {
        println!(
            "{:<28} {:>6} steps, {:>5.2} s: training loss {:.2e}, test accuracy {:.2} %",
            run.name,
            run.steps(),
            run.seconds(),
            run.last(),
            100.0 * net.accuracy(&test)?
        );
    }
    if let Some(seconds) = natural.seconds_to(plain.last()) {
        println!("the natural gradient is where gradient descent ends after {seconds:.2} s");
    }
    std::fs::create_dir_all("out")?;
    let picture = Path::new("out/natural_gradient.png");
    curves::draw(&[natural, plain], picture)?;
    println!("curves: {}", picture.display());
    Ok(())
}
