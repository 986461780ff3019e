//! Tapes that nobody takes a gradient of leave nothing behind.
//!
//! One test in a binary of its own: the counter sees every allocation of the process.

use autograd_core::algebra::{mul, sum_to, zeros_like};
use autograd_core::{CustomOp, Result, Shape, Tensor, TrackedTensor, tap};
use autograd_tape::GradientTape;
use peak_alloc::PeakAlloc;
use std::sync::Arc;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// What a thread may keep for its next tape, and the growth of tables that are full by chance. One
/// leaked value of a tape (some 200 bytes) in 10,000 tapes would be 2 MB.
const ALLOWED: usize = 64 * 1024;

/// An op that holds a value of the tape on which it is recorded.
struct Holding(TrackedTensor);

impl CustomOp for Holding {
    fn forward(&self, inputs: &[&Tensor]) -> Result<Tensor> {
        Ok(inputs[0].clone())
    }
    fn backward(&self, ct: &Tensor, _: &[&Tensor]) -> Result<Vec<Tensor>> {
        assert_eq!(self.0.dims(), ct.dims());
        Ok(vec![ct.clone()])
    }
}

fn record(x: &TrackedTensor, kept: &mut Vec<TrackedTensor>) -> Result<()> {
    let tape = GradientTape::new().persistent();
    let x = tape.variable(x);
    let mut y = x.clone();
    for _ in 0..5 {
        y = tap("hidden", &mul(&y, &x)?)?;
    }
    // Everything that could tie a knot: hooks and ops that hold values of their own tape, retained
    // gradients that are on it, values that outlive it, numbers behind a cut.
    let held = y.clone();
    tape.register_hook(&y, move |ct| Ok(Some(mul(ct, &held)?)))?;
    tape.retain_grad(&y)?;
    let z = tape.custom_op(Holding(y.clone()), &[&y])?;
    let _loose = mul(&z.detach()?, &zeros_like(&x)?)?;
    kept.push(sum_to(&z, &Shape::SCALAR)?);
    Ok(())
}

#[test]
fn ten_thousand_tapes_without_a_backward_pass_leave_memory_flat() -> Result<()> {
    let x = TrackedTensor::from_vec(vec![1.5f64; 16], &[16])?;
    let run = |tapes: usize| -> Result<()> {
        for _ in 0..tapes {
            let mut outlives = Vec::new();
            record(&x, &mut outlives)?;
            // Values of a dropped tape are plain numbers.
            assert!(mul(&outlives[0], &outlives[0]).is_ok());
        }
        Ok(())
    };
    run(200)?;
    let before = ALLOCATOR.current_usage();
    run(10_000)?;
    let after = ALLOCATOR.current_usage();
    assert!(after <= before + ALLOWED, "{before} bytes before, {after} after");
    // The counter counts: a leak on purpose is seen.
    let shared = Arc::new(vec![0u8; 2 * ALLOWED]);
    std::mem::forget(shared.clone());
    assert!(ALLOCATOR.current_usage() > after + ALLOWED);
    Ok(())
}
