//! Captured steps as sequences: the launches that a CUDA graph would hold, executed over the offsets of
//! one arena, give what the steps give on the CPU.

use crate::EMULATOR;
use crate::emulator::{message, wholes};
use crate::nets::nets;
use autograd_core::testing::elsewhere;
use autograd_core::{Result, TrackedTensor};
use autograd_gpu::sources;
use autograd_graph::jit;
use autograd_ops::{TensorAutograd, index};

#[test]
fn captured_steps_are_sequences_that_give_the_numbers_of_the_cpu() -> Result<()> {
    let Some(emulator) = EMULATOR.as_ref() else { return Ok(()) };
    for net in nets() {
        for &dtype in net.types(false) {
            let before = wholes();
            let difference = net.difference(dtype, &elsewhere)?;
            assert_eq!(difference, None);
            assert_eq!(wholes(), before + 1, "{} runs as a whole, and is made once", net.name);
        }
    }
    let ran = emulator.launches();
    for source in sources().iter().filter(|source| source.name() == "copy") {
        let missing: Vec<&String> =
            source.entries().iter().filter(|entry| !ran.contains_key(*entry)).collect();
        assert!(missing.is_empty(), "no step has launched {missing:?}");
    }
    Ok(())
}

/// Closed-over values are read where they are, and an index out of range is the error of the CPU.
#[test]
fn a_step_reads_what_it_closes_over_and_judges_indices() -> Result<()> {
    if EMULATOR.is_none() {
        return Ok(());
    }
    let table = TrackedTensor::from_vec((0..12).map(f64::from).collect(), &[4, 3])?;
    let good = TrackedTensor::from_vec(vec![3i64, 0], &[2])?;
    let bad = TrackedTensor::from_vec(vec![1i64, 4], &[2])?;
    let far_table = elsewhere(&table)?;
    let rows = |table: TrackedTensor| {
        jit(move |x: &[TrackedTensor]| Ok(vec![index::embedding(&table, &x[0])?.affine(2.0, 1.0)?]))
    };
    let (here, there) = (rows(table), rows(far_table));
    let before = wholes();
    let far = |x: &TrackedTensor| elsewhere(x);
    assert_eq!(there.call(&[&far(&good)?])?[0].to_flat::<f64>()?, here.call(&[&good])?[0].to_flat::<f64>()?);
    let (want, got) = (message(here.call(&[&bad])), message(there.call(&[&far(&bad)?])));
    assert!(want.contains("index 4"), "{want}");
    assert_eq!(got, want);
    // It goes on with the next ones.
    assert_eq!(there.call(&[&far(&good)?])?[0].to_flat::<f64>()?, here.call(&[&good])?[0].to_flat::<f64>()?);
    assert_eq!(wholes(), before + 1);
    Ok(())
}

/// What no sequence has runs op by op, with the same numbers.
#[test]
fn a_step_with_an_op_that_has_no_launch_runs_op_by_op() -> Result<()> {
    if EMULATOR.is_none() {
        return Ok(());
    }
    let x = TrackedTensor::from_vec(vec![0.5, -1.0, 2.0, 0.25], &[4])?;
    let step = jit(|x: &[TrackedTensor]| Ok(vec![x[0].cumsum(0)?.tanh()?]));
    let before = wholes();
    let (here, there) = (step.call(&[&x])?, step.call(&[&elsewhere(&x)?])?);
    assert_eq!(wholes(), before);
    for (a, b) in there[0].to_flat::<f64>()?.iter().zip(here[0].to_flat::<f64>()?) {
        assert!((a - b).abs() <= 1e-12, "{a}, not {b}");
    }
    Ok(())
}
