//! Tapes and threads: no gradient is lost, nobody waits for ever, and what goes wrong is an error.

use autograd_core::algebra::{add, mul, scale, sub, sum_to};
use autograd_core::{CustomOp, Error, Result, Shape, Tensor, TrackedTensor};
use autograd_tape::GradientTape;
use candle_core::{Device, Var};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

const THREADS: usize = 8;

fn vector(x: &[f64]) -> Result<TrackedTensor> {
    TrackedTensor::from_vec(x.to_vec(), &[x.len()])
}

fn total(x: &TrackedTensor) -> Result<TrackedTensor> {
    sum_to(x, &Shape::SCALAR)
}

/// Numbers from a seed: the same programs on every run.
struct Draw(u64);

impl Draw {
    fn below(&mut self, n: usize) -> usize {
        // The generator of Knuth's MMIX; its high bits are good enough to pick ops.
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n
    }
}

/// A random program over parameters, with discarded branches and detached values.
fn program(parameters: &[TrackedTensor], seed: u64) -> Result<TrackedTensor> {
    let mut draw = Draw(seed);
    let mut values: Vec<TrackedTensor> = parameters.to_vec();
    for _ in 0..40 {
        let (i, j) = (draw.below(values.len()), draw.below(values.len()));
        let next = match draw.below(6) {
            0 => mul(&values[i], &scale(&values[j], 0.5)?)?,
            1 => add(&values[i], &values[j])?,
            2 => sub(&values[i], &scale(&values[j], 0.25)?)?,
            3 => mul(&values[i], &values[j].detach()?)?,
            4 => {
                // Recorded and dropped at once.
                let _ = mul(&values[i], &values[j])?;
                scale(&values[i], -0.5)?
            }
            _ => scale(&values[i], 0.75)?,
        };
        // Numbers stay small.
        values.push(scale(&next, 0.5)?);
        if values.len() > 8 {
            let gone = draw.below(values.len() - 1);
            let _ = values.remove(gone);
        }
    }
    let mut sum = total(&values[0])?;
    for value in &values[1..] {
        sum = add(&sum, &total(value)?)?;
    }
    Ok(sum)
}

fn gradients(parameters: &[TrackedTensor], seed: u64) -> Result<Vec<Vec<f64>>> {
    let tape = GradientTape::new();
    let watched: Vec<TrackedTensor> = parameters.iter().map(|p| tape.variable(p)).collect();
    let loss = program(&watched, seed)?;
    let refs: Vec<&TrackedTensor> = watched.iter().collect();
    tape.gradient(&loss, &refs)?.iter().map(|grad| grad.to_vec1()).collect()
}

fn parameters() -> Result<Vec<TrackedTensor>> {
    Ok(vec![vector(&[0.5, -1.0])?, vector(&[1.5, 0.25])?, vector(&[-0.75, 2.0])?])
}

/// Runs `f` on eight threads at once.
fn together(f: impl Fn(usize) -> Result<()> + Sync) -> Result<()> {
    let (start, f) = (Barrier::new(THREADS), &f);
    thread::scope(|scope| {
        let run = |i: usize| {
            let start = &start;
            scope.spawn(move || {
                start.wait();
                f(i)
            })
        };
        let handles: Vec<_> = (0..THREADS).map(run).collect();
        handles.into_iter().try_for_each(|handle| match handle.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    })
}

#[test]
fn eight_tapes_over_shared_parameters_give_what_one_gives() -> Result<()> {
    let shared = parameters()?;
    let alone: Vec<_> = (0..64).map(|seed| gradients(&shared, seed)).collect::<Result<_>>()?;
    together(|i| {
        for round in 0..64 {
            let seed = (round * 7 + i * 5) % 64;
            assert_eq!(gradients(&shared, seed as u64)?, alone[seed], "seed {seed}");
        }
        Ok(())
    })
}

#[test]
fn a_tape_recorded_by_eight_threads_loses_no_contribution() -> Result<()> {
    for round in 0..20 {
        let tape = GradientTape::new();
        let x = tape.variable(vector(&[1.0, 2.0])?);
        let parts = parking_lot::Mutex::new(Vec::new());
        together(|i| {
            let mut y = x.clone();
            for k in 0..50 {
                let next = scale(&x, (i * 50 + k) as f64)?;
                y = add(&y, &next)?;
            }
            parts.lock().push(total(&y)?);
            Ok(())
        })?;
        let parts = parts.into_inner();
        let mut sum = parts[0].clone();
        for part in &parts[1..] {
            sum = add(&sum, part)?;
        }
        // 8 · 1 and the sum of 0 .. 400, whole numbers, in whatever order.
        let want = 8.0 + (0..400).sum::<usize>() as f64;
        assert_eq!(tape.derivative(&sum, &x)?.to_vec1::<f64>()?, [want, want], "round {round}");
    }
    Ok(())
}

#[test]
fn gradients_of_one_persistent_tape_are_asked_by_eight_threads() -> Result<()> {
    let shared = parameters()?;
    let tape = GradientTape::new().persistent();
    let watched: Vec<TrackedTensor> = shared.iter().map(|p| tape.variable(p)).collect();
    let refs: Vec<&TrackedTensor> = watched.iter().collect();
    let losses: Vec<TrackedTensor> = (0..8).map(|seed| program(&watched, seed)).collect::<Result<_>>()?;
    together(|i| {
        for round in 0..20 {
            let seed = (i + round) % 8;
            let grads = tape.gradient(&losses[seed], &refs)?;
            let numbers: Vec<Vec<f64>> = grads.iter().map(|grad| grad.to_vec1()).collect::<Result<_>>()?;
            assert_eq!(numbers, gradients(&shared, seed as u64)?);
        }
        Ok(())
    })
}

/// x², whose backward pass is a gradient taken on a tape of its own.
struct Square;

impl CustomOp for Square {
    fn forward(&self, inputs: &[&Tensor]) -> Result<Tensor> {
        Ok(inputs[0].sqr()?)
    }
    fn backward(&self, ct: &Tensor, inputs: &[&Tensor]) -> Result<Vec<Tensor>> {
        let inner = GradientTape::new();
        let x = inner.variable(inputs[0]);
        let y = mul(&x, &x)?;
        let grads = inner.gradient_with(&[&y], &[&TrackedTensor::from(ct)], &[&x])?;
        grads.into_iter().map(TrackedTensor::into_tensor).collect()
    }
}

#[test]
fn tapes_inside_custom_backward_passes_on_eight_threads() -> Result<()> {
    let shared = vector(&[3.0, -2.0])?;
    let fourth_power = |rounds: usize| {
        for _ in 0..rounds {
            let tape = GradientTape::new();
            let x = tape.variable(&shared);
            let y = tape.custom_op(Square, &[&tape.custom_op(Square, &[&x])?])?;
            assert_eq!(tape.derivative(&total(&y)?, &x)?.to_vec1::<f64>()?, [108.0, -32.0]); // 4x³
        }
        Ok(())
    };
    // The ops' definitions are made at first use, behind a lock that helgrind does not see.
    fourth_power(1)?;
    together(|_| fourth_power(50))
}

#[test]
fn a_tape_is_spent_once_and_those_who_come_late_are_told() -> Result<()> {
    for _ in 0..50 {
        let tape = GradientTape::new();
        let x = tape.variable(vector(&[1.0, 2.0])?);
        let won = AtomicUsize::new(0);
        together(|i| {
            let mut y = x.clone();
            for _ in 0..10 * i {
                y = scale(&add(&y, &x)?, 0.5)?;
            }
            // Right numbers, whether they were recorded or not.
            assert_eq!(y.to_vec1::<f64>()?, [1.0, 2.0]);
            match total(&y).and_then(|target| tape.derivative(&target, &x)) {
                Ok(grad) => {
                    assert_eq!(grad.to_vec1::<f64>()?, [1.0, 1.0]);
                    won.fetch_add(1, Ordering::Relaxed);
                    Ok(())
                }
                Err(Error::SpentTape { .. }) => Ok(()),
                Err(other) => Err(other),
            }
        })?;
        assert_eq!(won.into_inner(), 1);
    }
    Ok(())
}

/// A `Var` that an optimiser steps while another thread's sweeps read it: every gradient is that of
/// numbers the variable had, or the error that says it changed. Never a mixture.
#[test]
fn a_var_stepped_during_a_sweep_is_an_error_or_untouched() -> Result<()> {
    const LEN: usize = 64;
    let var = Var::from_tensor(&Tensor::from_vec(vec![1f64; LEN], LEN, &Device::Cpu)?)?;
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let stepping = scope.spawn(|| -> Result<()> {
            let mut step = 1f64;
            while !done.load(Ordering::Relaxed) {
                step = if step == 1.0 { 2.0 } else { 1.0 };
                var.set(&Tensor::from_vec(vec![step; LEN], LEN, &Device::Cpu)?)?;
                thread::yield_now();
            }
            Ok(())
        });
        let mut seen = [0usize; 2];
        for _ in 0..2000 {
            let tape = GradientTape::new().verify_saved();
            let w = tape.variable(var.as_tensor());
            let loss = total(&mul(&w, &w)?)?;
            match tape.derivative(&loss, &w) {
                Ok(grad) => {
                    let grad = grad.to_vec1::<f64>()?;
                    assert!(grad == vec![2.0; LEN] || grad == vec![4.0; LEN], "a mixture: {grad:?}");
                    seen[0] += 1;
                }
                Err(Error::MutatedInput { op: "mul", .. }) => seen[1] += 1,
                Err(other) => return Err(other),
            }
        }
        done.store(true, Ordering::Relaxed);
        match stepping.join() {
            Ok(result) => result?,
            Err(panic) => std::panic::resume_unwind(panic),
        }
        assert_eq!(seen[0] + seen[1], 2000);
        Ok(())
    })
}
