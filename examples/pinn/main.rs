//! A small tanh network solves the Poisson problem −Δu = f on the unit square, u = 0 on its edge.
//!
//! The loss is the mean square of Δu + f at random points. The Laplacian of the network comes
//! from one forward pass (`laplacian_along`), and that pass is differentiated with respect to the
//! weights. With f = 2π²·sin πx·sin πy the solution is sin πx·sin πy, and the error is printed.

mod adam;
mod net;
mod options;

use adam::Adam;
use candle_autograd::ops::random;
use candle_autograd::transforms::{laplacian_along, value_and_grad};
use candle_autograd::{TensorAutograd, TrackedTensor};
use candle_core::DType;
use indicatif::{ProgressBar, ProgressStyle};
use net::Net;
use options::Options;
use std::f64::consts::PI;
use std::process::ExitCode;
use std::time::Instant;

type Result<T, E = Box<dyn std::error::Error>> = std::result::Result<T, E>;

/// sin πx · sin πy of points `[n, 2]`, shape `[n, 1]`.
fn solution(points: &TrackedTensor) -> candle_autograd::Result<TrackedTensor> {
    let waves = points.mul(PI)?.sin()?;
    waves.narrow(1, 0, 1)?.mul(waves.narrow(1, 1, 1)?)
}

/// The mean square of Δu + f.
fn residual(
    net: &Net,
    points: &TrackedTensor,
    axes: &TrackedTensor,
) -> candle_autograd::Result<TrackedTensor> {
    let found = laplacian_along(|x| net.u(x), points, axes)?;
    let f = solution(points)?.mul(2.0 * PI * PI)?;
    found.laplacian.add(&f)?.sqr()?.mean()
}

/// The relative error in the mean square, and the largest absolute one, on a grid.
fn errors(net: &Net) -> Result<(f64, f64)> {
    const SIDE: usize = 51;
    let at = |i: usize| i as f64 / (SIDE - 1) as f64;
    let grid: Vec<f64> = (0..SIDE * SIDE).flat_map(|i| [at(i / SIDE), at(i % SIDE)]).collect();
    let points = TrackedTensor::from_vec(grid, &[SIDE * SIDE, 2])?;
    let (got, want) = (net.u(&points)?.to_flat::<f64>()?, solution(&points)?.to_flat::<f64>()?);
    let square = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>();
    let off = square(&mut got.iter().zip(&want).map(|(a, b)| a - b));
    let largest = got.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    Ok(((off / square(&mut want.iter().copied())).sqrt(), largest))
}

fn run() -> Result<()> {
    let Some(options) = Options::read()? else { return Ok(()) };
    let key = random::key(options.seed);
    let mut net = Net::new(options.width, &random::fold_in(&key, 0)?)?;
    let mut adam = Adam::new(&net)?;
    let axes = TrackedTensor::from_vec(vec![1f64, 0., 0., 1.], &[2, 1, 2])?;
    let style = ProgressStyle::with_template("{bar:30.cyan} {pos:>5}/{len}  {msg}")?;
    let bar = ProgressBar::new(options.steps as u64).with_style(style.progress_chars("━╸─"));
    let start = Instant::now();
    for step in 0..options.steps {
        let points =
            random::uniform(&random::fold_in(&key, step as u64 + 1)?, &[options.points, 2], DType::F64)?;
        let (loss, gradient) = value_and_grad(|net: &Net| residual(net, &points, &axes), &net)?;
        // A cosine from the full rate to nothing.
        let rate = options.rate * 0.5 * (1.0 + (PI * step as f64 / options.steps as f64).cos());
        net = adam.step(&net, &gradient, rate)?;
        bar.inc(1);
        if step % 20 == 0 {
            let (relative, _) = errors(&net)?;
            let loss = loss.to_scalar::<f64>()?;
            bar.set_message(format!("residual {:.2e}  relative error {relative:.2e}", loss.sqrt()));
        }
    }
    bar.finish_and_clear();
    let took = start.elapsed().as_secs_f64();
    let (relative, largest) = errors(&net)?;
    println!(
        "{} steps of {} points in {took:.1} s ({:.2} ms each)",
        options.steps,
        options.points,
        1e3 * took / options.steps as f64
    );
    println!("relative error against sin πx · sin πy: {relative:.2e}, largest absolute error: {largest:.2e}");
    Ok(())
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pinn: {error}");
            ExitCode::FAILURE
        }
    }
}
