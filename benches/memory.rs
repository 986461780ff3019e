//! What a training step of the `digits` net keeps in memory at its peak, against candle's own
//! backward pass on the same net and batch: `cargo bench --bench memory`.
//!
//! Each contender runs in a process of its own. Counted is what the allocator has given out beyond
//! the parameters and the batch, gradients and pooled buffers included; the resident set is the
//! system's word on the same (Linux only).

// The bench has its own batches; it needs only the net.
#[path = "../examples/digits/net.rs"]
mod net;

use candle_autograd::nn::Parameters;
use candle_autograd::{GradientTape, Result, TensorAutograd, TrackedTensor};
use candle_core::backprop::GradStore;
use candle_core::{D, Device, Tensor, Var};
use candle_nn::VarMap;
use net::Net;
use peak_alloc::PeakAlloc;
use rand::SeedableRng;
use rand::rngs::StdRng;
use std::hint::black_box;
use std::process::Command;
use std::time::Instant;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// Images in a batch.
const BATCHES: [usize; 2] = [64, 256];
/// Steps after the first.
const STEPS: usize = 10;
const MIB: f64 = 1024.0 * 1024.0;

const OURS: &str = "candle-autograd";
const CANDLES: &str = "candle backward";

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [_, who, batch] = arguments.as_slice() {
        let batch = batch.parse().unwrap_or(BATCHES[0]);
        return if who == OURS { run(batch, Ours::new) } else { run(batch, Candles::new) };
    }
    println!("peak memory of a training step, MiB beyond parameters and batch\n");
    println!("{:>5}  {:<16} {:>10} {:>10} {:>10} {:>10}", "batch", "", "first", "later", "resident", "ms");
    for batch in BATCHES {
        let (ours, candles) = (child(OURS, batch), child(CANDLES, batch));
        for (name, row) in [(OURS, &ours), (CANDLES, &candles)] {
            println!("{batch:>5}  {name:<16} {}", cells(row, 1));
        }
        let ratios: Vec<f64> = ours.iter().zip(&candles).map(|(ours, candles)| ours / candles).collect();
        println!("{:>5}  {:<16} {}", "", "ratio", cells(&ratios, 2));
    }
    Ok(())
}

fn cells(row: &[f64], digits: usize) -> String {
    let cells: Vec<String> = row.iter().map(|cell| format!("{cell:>10.digits$}")).collect();
    cells.join(" ")
}

/// The figures of a contender, from a fresh process.
fn child(who: &str, batch: usize) -> Vec<f64> {
    let program = std::env::current_exe().expect("a running program has a path");
    let output = Command::new(program).args(["--child", who, &batch.to_string()]).output();
    let output = output.expect("a program that runs can be started once more");
    assert!(output.status.success(), "{who}: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout);
    text.split_whitespace().map(|figure| figure.parse().expect("a child prints numbers")).collect()
}

/// A net and its batch: takes a step when asked.
trait Contender {
    fn step(&self) -> Result<GradStore>;
}

/// Prints the peaks of the first step, of all, of the resident set, and the median time.
fn run<C: Contender>(batch: usize, new: impl FnOnce(usize) -> Result<C>) -> Result<()> {
    let contender = new(batch)?;
    let (start, resident) = (ALLOCATOR.current_usage(), resident_peak());
    let above = || (ALLOCATOR.peak_usage().saturating_sub(start)) as f64 / MIB;
    ALLOCATOR.reset_peak_usage();
    drop(black_box(contender.step()?));
    let first = above();
    let mut times = Vec::new();
    for _ in 0..STEPS {
        let clock = Instant::now();
        drop(black_box(contender.step()?));
        times.push(clock.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    println!("{first} {} {} {}", above(), resident_peak() - resident, times[times.len() / 2]);
    Ok(())
}

/// The most memory that the process ever had resident, in MiB; 0 where the system does not say.
fn resident_peak() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    kib.map_or(0.0, |kib| kib / 1024.0)
}

/// The batch: what the pixels are does not matter here.
fn batch_of(images: usize) -> Result<(Tensor, Tensor)> {
    let pixels: Vec<f32> = (0..images * 28 * 28).map(|i| (i * 7919 % 256) as f32 / 255.0).collect();
    let labels: Vec<u32> = (0..images as u32).map(|i| i % 10).collect();
    let device = Device::Cpu;
    Ok((Tensor::from_vec(pixels, (images, 1, 28, 28), &device)?, Tensor::from_vec(labels, images, &device)?))
}

fn variables() -> Result<VarMap> {
    Ok(net::variables(&mut StdRng::seed_from_u64(0))?)
}

struct Ours {
    parameters: Parameters,
    images: TrackedTensor,
    labels: TrackedTensor,
}

impl Ours {
    fn new(batch: usize) -> Result<Self> {
        let (images, labels) = batch_of(batch)?;
        let parameters = Parameters::from_varmap(&variables()?);
        Ok(Self { parameters, images: images.into(), labels: labels.into() })
    }
}

impl Contender for Ours {
    fn step(&self) -> Result<GradStore> {
        let tape = GradientTape::new();
        let watched = self.parameters.watch(&tape)?;
        let loss = Net::new(&watched)?.forward(&self.images)?.cross_entropy(&self.labels)?;
        watched.gradients(&tape, &loss)
    }
}

struct Candles {
    map: VarMap,
    images: Tensor,
    labels: Tensor,
}

impl Candles {
    fn new(batch: usize) -> Result<Self> {
        let (images, labels) = batch_of(batch)?;
        Ok(Self { map: variables()?, images, labels })
    }

    fn var(&self, name: &str) -> Var {
        let data = self.map.data().lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        data[name].clone()
    }

    fn convolve(&self, x: &Tensor, name: &str) -> candle_core::Result<Tensor> {
        let (weight, bias) = (self.var(&format!("{name}.weight")), self.var(&format!("{name}.bias")));
        x.conv2d(&weight, 2, 1, 1, 1)?.broadcast_add(&bias.reshape((1, (), 1, 1))?)
    }
}

impl Contender for Candles {
    fn step(&self) -> Result<GradStore> {
        let x = self.convolve(&self.images, "conv1")?.relu()?.max_pool2d(2)?;
        let x = self.convolve(&x, "conv2")?.relu()?.max_pool2d(2)?;
        let x = x.flatten_from(1)?.matmul(&self.var("linear.weight").t()?)?;
        let logits = x.broadcast_add(&self.var("linear.bias"))?;
        let chances = candle_nn::ops::log_softmax(&logits, D::Minus1)?;
        Ok(candle_nn::loss::nll(&chances, &self.labels)?.backward()?)
    }
}
