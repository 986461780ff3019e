//! What an op costs beside its arithmetic: recording, the backward pass, and values without a
//! tape, against candle in the same run. `cargo xtask overhead` runs it; of `chain`, `untracked` and
//! `recording` it runs those that are named, or all.
//!
//! Every figure is a median over interleaved rounds; ratios compare medians of the same run.

use candle_autograd::{GradientTape, Result, TensorAutograd, TrackedTensor};
use candle_core::{DType, Device, Tensor, Var};
use std::hint::black_box;
use std::time::Instant;

/// Ops in a chain.
const CHAIN: usize = 1000;

/// One round of a contender: what it did, timed by the caller.
type Round<'a> = Box<dyn FnMut() -> Result<()> + 'a>;

/// Medians of contenders that take turns, in nanoseconds a round. The first of two rounds of a turn
/// is not timed: at its start the other library's threads are still looking for work, on the same
/// cores, and one's own have gone to sleep.
fn medians(rounds: usize, contenders: &mut [Round<'_>]) -> Result<Vec<f64>> {
    let mut times = vec![Vec::with_capacity(rounds); contenders.len()];
    for round in 0..rounds + rounds / 4 + 1 {
        for (contender, times) in contenders.iter_mut().zip(&mut times) {
            contender()?;
            let start = Instant::now();
            contender()?;
            let took = start.elapsed().as_nanos() as f64;
            if round > rounds / 4 {
                times.push(took);
            }
        }
    }
    Ok(times
        .into_iter()
        .map(|mut t| {
            t.sort_by(f64::total_cmp);
            t[t.len() / 2]
        })
        .collect())
}

fn random(shape: &[usize], dtype: DType) -> Result<Tensor> {
    let n: usize = shape.iter().product();
    // A fixed sequence: nothing here depends on the draw.
    let numbers: Vec<f64> = (0..n).map(|i| 0.5 + ((i * 7919) % 10007) as f64 / 20014.0).collect();
    Ok(Tensor::from_vec(numbers, shape, &Device::Cpu)?.to_dtype(dtype)?)
}

/// The chain of the peers' `small_ops` workload: mul, add, tanh in turn.
fn chain() -> Result<()> {
    let (x, c, d) = (random(&[16], DType::F32)?, random(&[16], DType::F32)?, random(&[16], DType::F32)?);
    let own = |t: &Tensor| TrackedTensor::from_vec(t.to_vec1::<f32>()?, &[16]);
    let (px, pc, pd) = (own(&x)?, own(&c)?, own(&d)?);
    let run = |x: &TrackedTensor| -> Result<TrackedTensor> {
        let mut y = x.clone();
        for i in 0..CHAIN {
            y = match i % 3 {
                0 => y.mul(&pc)?,
                1 => y.add(&pd)?,
                _ => y.tanh()?,
            };
        }
        Ok(y)
    };
    let candle = |x: &Tensor| -> Result<Tensor> {
        let mut y = x.clone();
        for i in 0..CHAIN {
            y = match i % 3 {
                0 => y.mul(&c)?,
                1 => y.add(&d)?,
                _ => y.tanh()?,
            };
        }
        Ok(y)
    };
    let var = Var::from_tensor(&x)?;
    let seed = px.clone();
    let mut contenders: Vec<Round<'_>> = vec![
        Box::new(|| {
            black_box(candle(&x)?);
            Ok(())
        }),
        Box::new(|| {
            let _ = black_box(run(&px)?);
            Ok(())
        }),
        Box::new(|| {
            let tape = GradientTape::new();
            let v = tape.variable(&px);
            let _ = black_box(run(&v)?);
            Ok(())
        }),
        Box::new(|| {
            let tape = GradientTape::new();
            let v = tape.variable(&px);
            let y = run(&v)?;
            black_box(tape.gradient_with(&[&y], &[&seed], &[&v])?);
            Ok(())
        }),
        Box::new(|| {
            let y = candle(var.as_tensor())?;
            black_box(y.backward()?);
            Ok(())
        }),
    ];
    let ns = medians(60, &mut contenders)?;
    let per = |i: usize| ns[i] / CHAIN as f64;
    println!("chain of {CHAIN} ops on 16 f32 elements, ns per op");
    println!("  bare candle, forward                {:7.0}", per(0));
    println!("  ours without a tape, forward        {:7.0}   ratio to candle {:.2}", per(1), ns[1] / ns[0]);
    println!("  ours, recording                     {:7.0}", per(2));
    println!("  ours, recording and backward        {:7.0}   ratio to candle {:.2}", per(3), ns[3] / ns[4]);
    println!("  candle Var, forward and backward    {:7.0}", per(4));
    Ok(())
}

/// An op of ours; one of a single operand leaves the second.
type Ours = fn(&TrackedTensor, &TrackedTensor) -> Result<TrackedTensor>;

/// An op in both libraries.
struct Pair {
    name: &'static str,
    ours: Ours,
    candle: fn(&Tensor, &Tensor) -> candle_core::Result<Tensor>,
}

const PAIRS: &[Pair] = &[
    Pair { name: "add", ours: |x, y| x.add(y), candle: |x, y| x.add(y) },
    Pair { name: "sub", ours: |x, y| x.sub(y), candle: |x, y| x.sub(y) },
    Pair { name: "mul", ours: |x, y| x.mul(y), candle: |x, y| x.mul(y) },
    Pair { name: "div", ours: |x, y| x.div(y), candle: |x, y| x.div(y) },
    Pair { name: "neg", ours: |x, _| x.neg(), candle: |x, _| x.neg() },
    Pair { name: "sqr", ours: |x, _| x.sqr(), candle: |x, _| x.sqr() },
    Pair { name: "sqrt", ours: |x, _| x.sqrt(), candle: |x, _| x.sqrt() },
    Pair { name: "exp", ours: |x, _| x.exp(), candle: |x, _| x.exp() },
    Pair { name: "log", ours: |x, _| x.log(), candle: |x, _| x.log() },
    Pair { name: "sin", ours: |x, _| x.sin(), candle: |x, _| x.sin() },
    Pair { name: "cos", ours: |x, _| x.cos(), candle: |x, _| x.cos() },
    Pair { name: "tanh", ours: |x, _| x.tanh(), candle: |x, _| x.tanh() },
    Pair { name: "relu", ours: |x, _| x.relu(), candle: |x, _| x.relu() },
    Pair { name: "affine", ours: |x, _| x.affine(2.0, 1.0), candle: |x, _| x.affine(2.0, 1.0) },
    Pair { name: "reshape", ours: |x, _| x.reshape((4, ())), candle: |x, _| x.reshape((4, ())) },
    Pair { name: "t", ours: |x, _| x.t(), candle: |x, _| x.t() },
    Pair { name: "sum_all", ours: |x, _| x.sum(), candle: |x, _| x.sum_all() },
    Pair { name: "sum rows", ours: |x, _| x.sum_dim(1), candle: |x, _| x.sum(1) },
    Pair { name: "max rows", ours: |x, _| x.max_dim(1), candle: |x, _| x.max(1) },
    Pair { name: "softmax", ours: |x, _| x.softmax(1), candle: |x, _| candle_nn::ops::softmax(x, 1) },
    Pair {
        name: "log_softmax",
        ours: |x, _| x.log_softmax(1),
        candle: |x, _| candle_nn::ops::log_softmax(x, 1),
    },
    Pair { name: "matmul", ours: |x, y| x.matmul(y), candle: |x, y| x.matmul(y) },
];

/// Values without a tape against bare candle, op by op.
fn untracked() -> Result<()> {
    println!("\nvalues without a tape: time of ours / time of bare candle, per op");
    println!("  {:12} {:>10} {:>10} {:>10} {:>10}", "op", "f32 4x4", "f64 4x4", "f32 256²", "f64 256²");
    let mut logs = Vec::new();
    for pair in PAIRS {
        print!("  {:12}", pair.name);
        for n in [4, 256] {
            for dtype in [DType::F32, DType::F64] {
                let (x, y) = (random(&[n, n], dtype)?, random(&[n, n], dtype)?);
                // Memory of our own, as every result has it.
                let own = |t: &Tensor| TrackedTensor::from_candle(t)?.mul(1.0);
                let (px, py) = (own(&x)?, own(&y)?);
                // As many calls a round as fill 200 µs, so that neither the clock nor a wake counts.
                let start = Instant::now();
                for _ in 0..10 {
                    black_box((pair.candle)(&x, &y)?);
                }
                let repeat = (2_000_000 / start.elapsed().as_nanos().max(1)).clamp(4, 1000) as usize;
                let mut contenders: Vec<Round<'_>> = vec![
                    Box::new(|| {
                        (0..repeat)
                            .try_for_each(|_| (pair.ours)(black_box(&px), &py).map(|y| drop(black_box(y))))
                    }),
                    Box::new(|| {
                        for _ in 0..repeat {
                            black_box((pair.candle)(black_box(&x), &y)?);
                        }
                        Ok(())
                    }),
                ];
                let ns = medians(40, &mut contenders)?;
                logs.push((ns[0] / ns[1]).ln());
                print!(" {:>10.2}", ns[0] / ns[1]);
            }
        }
        println!();
    }
    println!("  geometric mean {:.2}", (logs.iter().sum::<f64>() / logs.len() as f64).exp());
    Ok(())
}

/// What recording a tiny op costs, as a share of the op's time at 64 Ki elements.
fn recording() -> Result<()> {
    println!("\nrecording a tiny op, against the op's time at 64 Ki elements");
    let ops: &[(&str, Ours)] = &[
        ("add", |x, y| x.add(y)),
        ("mul", |x, y| x.mul(y)),
        ("tanh", |x, _| x.tanh()),
        ("softmax", |x, _| x.softmax(1)),
        ("matmul", |x, y| x.matmul(y)),
    ];
    let mut logs = Vec::new();
    let mut worst = 0f64;
    for (name, op) in ops {
        let own = |n: usize| TrackedTensor::from_candle(&random(&[n, n], DType::F32)?)?.mul(1.0);
        let (small, large) = (own(4)?, own(256)?);
        let mut contenders: Vec<Round<'_>> = vec![
            Box::new(|| {
                (0..CHAIN).try_for_each(|_| op(black_box(&small), &small).map(|y| drop(black_box(y))))
            }),
            Box::new(|| {
                let tape = GradientTape::new();
                let v = tape.variable(&small);
                (0..CHAIN).try_for_each(|_| op(black_box(&v), &small).map(|y| drop(black_box(y))))
            }),
            Box::new(|| (0..50).try_for_each(|_| op(black_box(&large), &large).map(|y| drop(black_box(y))))),
        ];
        let ns = medians(40, &mut contenders)?;
        let (cost, time) = ((ns[1] - ns[0]) / CHAIN as f64, ns[2] / 50.0);
        let share = cost / time;
        worst = worst.max(share);
        logs.push(share.max(1e-6).ln());
        println!(
            "  {name:8} recording {cost:6.0} ns, op at 64 Ki {time:9.0} ns, share {:.2} %",
            share * 100.0
        );
    }
    let mean = (logs.iter().sum::<f64>() / logs.len() as f64).exp();
    println!("  geometric mean {:.2} %, worst {:.2} %", mean * 100.0, worst * 100.0);
    Ok(())
}

fn main() -> Result<()> {
    let named: Vec<String> = std::env::args().skip(1).filter(|name| !name.starts_with('-')).collect();
    for (name, run) in [("chain", chain as fn() -> _), ("untracked", untracked), ("recording", recording)] {
        if named.is_empty() || named.iter().any(|n| n == name) {
            run()?;
        }
    }
    Ok(())
}
