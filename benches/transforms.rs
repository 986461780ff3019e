//! What transforms cost: `cargo bench --features full --bench transforms`, or `-- hessian` for what has that in its
//! name.
//!
//! Workloads in f32 as other libraries' benches have them: a Hessian-vector product of an MLP
//! against its own gradient, the Hessian of a small net, Jacobians of a square net by both modes,
//! gradients of each sample; the small ones also compiled. Medians over interleaved rounds; the ratio of `hvp` is of medians of
//! the same run. A probe of a matrix product stands beside them: on a shared machine the peak
//! itself moves.

use candle_autograd::graph::jit;
use candle_autograd::ops::random;
use candle_autograd::transforms::{grad, hessian, hvp, jacfwd, jacrev, ravel, value_and_grad, vmap};
use candle_autograd::{Result, TensorAutograd, TrackedTensor};
use candle_core::DType;
use std::hint::black_box;
use std::time::Instant;

/// One round of a contender: what it did, timed by the caller.
type Round<'a> = Box<dyn FnMut() -> Result<()> + 'a>;

/// Layers of weights and biases.
type Net = Vec<(TrackedTensor, TrackedTensor)>;

fn normal(shape: &[usize], seed: u64, scale: f64) -> Result<TrackedTensor> {
    random::normal(&random::key(seed), shape, DType::F32)?.mul(scale)
}

fn net(widths: &[usize], seed: u64) -> Result<Net> {
    let layer = |(i, w): (usize, &[usize])| {
        let scale = (w[0] as f64).sqrt().recip();
        Ok((normal(w, seed + 2 * i as u64, scale)?, normal(&w[1..], seed + 2 * i as u64 + 1, 0.1)?))
    };
    widths.windows(2).enumerate().map(layer).collect()
}

fn labels(n: usize, classes: u32) -> Result<TrackedTensor> {
    TrackedTensor::from_vec((0..n as u32).map(|i| i % classes).collect(), &[n])
}

/// The net's outputs, `activation` between the layers.
fn outputs(
    net: &Net,
    x: &TrackedTensor,
    activation: fn(&TrackedTensor) -> Result<TrackedTensor>,
) -> Result<TrackedTensor> {
    let mut y = x.clone();
    for (i, (weight, bias)) in net.iter().enumerate() {
        y = y.matmul(weight)?.add(bias)?;
        if i + 1 < net.len() {
            y = activation(&y)?;
        }
    }
    Ok(y)
}

/// Medians of contenders that take turns, in milliseconds a round.
fn medians(rounds: usize, contenders: &mut [(&str, Round<'_>)]) -> Result<Vec<f64>> {
    let mut times = vec![Vec::with_capacity(rounds); contenders.len()];
    for round in 0..rounds + rounds / 4 + 1 {
        for ((_, contender), times) in contenders.iter_mut().zip(&mut times) {
            let start = Instant::now();
            contender()?;
            if round > rounds / 4 {
                times.push(start.elapsed().as_secs_f64() * 1e3);
            }
        }
    }
    let median = |mut t: Vec<f64>| {
        t.sort_by(f64::total_cmp);
        t[t.len() / 2]
    };
    Ok(times.into_iter().map(median).collect())
}

fn main() -> Result<()> {
    // 784-1024-1024-10, relu, batch 128.
    let mlp = net(&[784, 1024, 1024, 10], 1)?;
    let direction = net(&[784, 1024, 1024, 10], 100)?;
    let (images, targets) = (normal(&[128, 784], 7, 1.0)?, labels(128, 10)?);
    let loss = |net: &Net| outputs(net, &images, |y| y.relu())?.cross_entropy(&targets);

    // 8-10-10, tanh, batch 32: 200 parameters in one vector.
    let small_net = net(&[8, 10, 10], 2)?;
    let (flat, layout) = ravel(&small_net)?;
    let (points, classes) = (normal(&[32, 8], 8, 1.0)?, labels(32, 10)?);
    let small = |flat: &TrackedTensor| {
        outputs(&layout.unflatten_like(flat, &small_net)?, &points, |y| y.tanh())?.cross_entropy(&classes)
    };

    // 256-256-256, tanh, one input vector.
    let square = net(&[256, 256, 256], 3)?;
    let vector = normal(&[256], 9, 1.0)?;
    let of_vector = |x: &TrackedTensor| outputs(&square, x, |y| y.tanh());

    // 784-64-10, relu, the gradient of each of 128 samples.
    let sampled = net(&[784, 64, 10], 4)?;
    let each = |(x, t): &(TrackedTensor, TrackedTensor)| {
        grad(|net: &Net| outputs(net, x, |y| y.relu())?.cross_entropy(t), &sampled)
    };

    // The small ones again as static graphs, where no time goes into recording.
    let compiled_hessian = jit(|x: &[TrackedTensor]| Ok(vec![hessian(small, &x[0])?]));
    let compiled_jacrev = jit(|x: &[TrackedTensor]| Ok(vec![jacrev(of_vector, &x[0])?]));
    let compiled_jacfwd = jit(|x: &[TrackedTensor]| Ok(vec![jacfwd(of_vector, &x[0])?]));

    let (probe_a, probe_b) = (normal(&[1024, 1024], 10, 1.0)?, normal(&[1024, 1024], 11, 1.0)?);
    let mut contenders: Vec<(&str, Round<'_>)> = vec![
        (
            "gradient of the mlp",
            Box::new(|| {
                let _ = black_box(value_and_grad(loss, &mlp)?);
                Ok(())
            }),
        ),
        (
            "hvp_mlp",
            Box::new(|| {
                let _ = black_box(hvp(loss, &mlp, &direction)?);
                Ok(())
            }),
        ),
        (
            "hessian_200",
            Box::new(|| {
                let _ = black_box(hessian(small, &flat)?);
                Ok(())
            }),
        ),
        (
            "jacrev_256",
            Box::new(|| {
                let _ = black_box(jacrev(of_vector, &vector)?);
                Ok(())
            }),
        ),
        (
            "jacfwd_256",
            Box::new(|| {
                let _ = black_box(jacfwd(of_vector, &vector)?);
                Ok(())
            }),
        ),
        (
            "per_sample_grads",
            Box::new(|| {
                let _ = black_box(vmap(each, &(&images, &targets), 0)?);
                Ok(())
            }),
        ),
        (
            "graph: hessian_200",
            Box::new(|| {
                let _ = black_box(compiled_hessian.call(&[&flat])?);
                Ok(())
            }),
        ),
        (
            "graph: jacrev_256",
            Box::new(|| {
                let _ = black_box(compiled_jacrev.call(&[&vector])?);
                Ok(())
            }),
        ),
        (
            "graph: jacfwd_256",
            Box::new(|| {
                let _ = black_box(compiled_jacfwd.call(&[&vector])?);
                Ok(())
            }),
        ),
        (
            "probe: a product of 1024³",
            Box::new(|| {
                let _ = black_box(probe_a.matmul(&probe_b)?);
                Ok(())
            }),
        ),
    ];
    if let Some(part) = std::env::args().skip(1).find(|argument| !argument.starts_with('-')) {
        contenders.retain(|(name, _)| name.contains(&part));
    }
    let found = medians(20, &mut contenders)?;
    println!("medians of 20 rounds, f32, ms");
    for ((name, _), ms) in contenders.iter().zip(&found) {
        println!("  {name:<28} {ms:8.2}");
    }
    let of = |part: &str| contenders.iter().position(|(name, _)| name.contains(part)).map(|i| found[i]);
    if let (Some(hvp), Some(gradient)) = (of("hvp"), of("gradient of")) {
        println!("  hvp_mlp / gradient           {:8.2}   (the operations alone: 2.27)", hvp / gradient);
    }
    if let Some(probe) = of("probe") {
        println!("  probe                        {:8.1} GFLOP/s", 2.0 * 1024f64.powi(3) / probe / 1e6);
    }
    Ok(())
}
