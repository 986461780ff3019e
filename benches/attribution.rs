//! Integrated gradients of the digits net, 50 steps for a batch of 32, against Captum in the same
//! run: rounds of both take turns, and the ratio is one of medians.
//!
//! ```text
//! CAPTUM_PYTHON=venv/bin/python cargo bench --bench attribution
//! ```
//!
//! `CAPTUM_PYTHON` names an interpreter that has torch and captum; without it only the own side is
//! measured.

use autograd_interpret::{IntegratedGradients, Method, Target, single};
use candle_autograd::{Result, TensorAutograd, TrackedTensor};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

const BATCH: usize = 32;
const STEPS: usize = 50;
const ROUNDS: usize = 7;

/// The net of the example `digits`, its weights a fixed sequence: times do not depend on them.
struct Net {
    conv1: [TrackedTensor; 2],
    conv2: [TrackedTensor; 2],
    linear: [TrackedTensor; 2],
}

/// Numbers between −1 and 1, times `scale`; the Python side makes the same.
fn numbers(dims: &[usize], scale: f32) -> Result<TrackedTensor> {
    let n: usize = dims.iter().product();
    let number = |i: usize| scale * (((i * 7919 + 13) % 10007) as f32 / 5003.5 - 1.0);
    TrackedTensor::from_vec((0..n).map(number).collect(), dims)
}

impl Net {
    fn new() -> Result<Self> {
        Ok(Self {
            conv1: [numbers(&[16, 1, 5, 5], 0.3)?, numbers(&[16, 1, 1], 0.1)?],
            conv2: [numbers(&[32, 16, 5, 5], 0.08)?, numbers(&[32, 1, 1], 0.1)?],
            linear: [numbers(&[10, 32 * 7 * 7], 0.04)?, numbers(&[10], 0.1)?],
        })
    }

    fn forward(&self, x: &TrackedTensor) -> Result<TrackedTensor> {
        let layer = |x: &TrackedTensor, [w, b]: &[TrackedTensor; 2]| -> Result<TrackedTensor> {
            x.conv2d(w, 2, 1, 1, 1)?.add(b)?.relu()?.max_pool2d(2)
        };
        let x = layer(&layer(x, &self.conv1)?, &self.conv2)?;
        let [w, b] = &self.linear;
        x.flatten_from(1)?.linear(w, Some(b))
    }
}

/// Captum in a process of its own, which answers every line with a round's seconds.
struct Captum {
    child: Child,
    answers: BufReader<std::process::ChildStdout>,
}

impl Captum {
    fn start() -> Option<Self> {
        let python = std::env::var_os("CAPTUM_PYTHON")?;
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/attribution_captum.py");
        let mut child = Command::new(python)
            .args([script, &BATCH.to_string(), &STEPS.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("CAPTUM_PYTHON starts");
        let answers = BufReader::new(child.stdout.take().expect("its output is piped"));
        Some(Self { child, answers })
    }

    /// One round: seconds, and the sum of all contributions.
    fn round(&mut self) -> (f64, f64) {
        let mut line = String::new();
        writeln!(self.child.stdin.as_mut().expect("its input is piped"), "go").expect("it listens");
        self.answers.read_line(&mut line).expect("it answers");
        let mut fields = line.split_whitespace().map(|field| field.parse().expect("it answers with numbers"));
        (fields.next().expect("seconds"), fields.next().expect("a sum"))
    }
}

impl Drop for Captum {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        // It ends with its input; nothing is left to be said of how.
        let _ = self.child.wait();
    }
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn main() -> Result<()> {
    let net = Net::new()?;
    let x = numbers(&[BATCH, 1, 28, 28], 1.0)?;
    let target = Target::Each((0..BATCH).map(|i| i % 10).collect());
    let f = single(|x| net.forward(x));
    let method = IntegratedGradients::new().steps(STEPS);
    let mut captum = Captum::start();
    let (mut own, mut theirs) = (Vec::new(), Vec::new());
    let mut sums = (0.0, None);
    for round in 0..=ROUNDS {
        let start = Instant::now();
        let found = method.attribute(&f, std::slice::from_ref(&x), &target)?;
        let took = start.elapsed().as_secs_f64();
        sums.0 = f64::from(found.value().sum()?.to_scalar::<f32>()?);
        let other = captum.as_mut().map(Captum::round);
        // The first round warms up.
        if round > 0 {
            own.push(took);
            if let Some((seconds, sum)) = other {
                theirs.push(seconds);
                sums.1 = Some(sum);
            }
        }
    }
    let own = median(own);
    println!("integrated gradients, {STEPS} steps, batch {BATCH}: {:.0} ms here", 1e3 * own);
    if let Some(sum) = sums.1 {
        let theirs = median(theirs);
        println!(
            "Captum: {:.0} ms; ratio {:.2}; sums {:.4} and {sum:.4}",
            1e3 * theirs,
            own / theirs,
            sums.0
        );
    }
    Ok(())
}
