//! Every op of the registry captured with its gradient: it is a sequence, as docs/gpu.md says, and gives
//! what it gives on the CPU.

use crate::EMULATOR;
use crate::emulator::with_one_library;
use autograd_core::device::Declined;
use autograd_core::testing::elsewhere;
use autograd_core::{DType, Result, TrackedTensor, algebra, is_float};
use autograd_graph::jit;
use autograd_ops::registry::{self, Case, Family, Op};
use autograd_ops::testing::Numbers;
use autograd_tape::GradientTape;

/// A few roundings in f64, of sums in another order.
const TOLERANCE: f64 = 1e-11;

/// The outputs of a case, and the gradient of the sum of those that have one.
fn outputs_and_gradient(case: &Case, x: &[TrackedTensor]) -> Result<Vec<TrackedTensor>> {
    let tape = GradientTape::new();
    let watched = |x: &TrackedTensor| if is_float(x.dtype()) { tape.try_variable(x) } else { Ok(x.clone()) };
    let inputs: Vec<TrackedTensor> = x.iter().map(watched).collect::<Result<_>>()?;
    let made = (case.run)(&inputs)?;
    let mut all: Vec<TrackedTensor> = made.iter().map(|y| tape.unwatched(y)).collect();
    let targets: Vec<&TrackedTensor> =
        made.iter().filter(|y| tape.watches(y) && is_float(y.dtype())).collect();
    if !targets.is_empty() {
        let seeds = targets.iter().map(|y| algebra::ones_like(y)).collect::<Result<Vec<_>>>()?;
        let sources: Vec<&TrackedTensor> = inputs.iter().filter(|x| tape.watches(x)).collect();
        all.extend(tape.gradient_with(&targets, &seeds.iter().collect::<Vec<_>>(), &sources)?);
    }
    Ok(all)
}

/// The first number that differs.
fn difference(there: &[TrackedTensor], here: &[TrackedTensor]) -> Result<Option<String>> {
    for (i, (there, here)) in there.iter().zip(here).enumerate() {
        let flat = |x: &TrackedTensor| algebra::cast(x, DType::F64)?.to_flat::<f64>();
        let (got, want) = (flat(there)?, flat(here)?);
        let size = want.iter().filter(|x| x.is_finite()).fold(1.0f64, |most, x| most.max(x.abs()));
        for (a, b) in got.iter().zip(&want) {
            let same = a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= TOLERANCE * size;
            if !same {
                return Ok(Some(format!("output {i}: {a}, not {b}")));
            }
        }
    }
    Ok(None)
}

/// What a case gives as a captured step elsewhere: a difference, and the ops that were declined.
fn check(numbers: &Numbers, case: &Case, compared: bool) -> Result<(Option<String>, Vec<Declined>)> {
    let refs: Vec<&TrackedTensor> = numbers.inputs.iter().collect();
    let far: Vec<TrackedTensor> = numbers.inputs.iter().map(elsewhere).collect::<Result<_>>()?;
    let far: Vec<&TrackedTensor> = far.iter().collect();
    let step = jit(|x: &[TrackedTensor]| outputs_and_gradient(case, x));
    let there = step.call(&far)?;
    let declined = step.explain(&far)?.devices.into_iter().flat_map(|device| device.declined).collect();
    let differs = if compared { difference(&there, &step.call(&refs)?)? } else { None };
    Ok((differs, declined))
}

#[test]
fn every_op_is_a_sequence() {
    if EMULATOR.is_none() {
        return;
    }
    let only = std::env::var("OP").ok();
    let (mut failures, mut whole, mut compared) = (Vec::new(), 0, false);
    with_one_library(|| {
        // Transforms and factorisations, which are features of their crate, have no launches at all.
        let plain = |op: &&Op| !matches!(op.family, Family::LinearAlgebra | Family::Fourier);
        let wanted = |op: &&Op| only.as_deref().is_none_or(|name| op.name == name);
        for op in registry::all().iter().filter(plain).filter(wanted) {
            for case in (op.cases)() {
                let numbers = Numbers::of(op.name, &case).expect("the registry's cases compute");
                let checked = check(&numbers, &case, compared);
                if !compared {
                    continue;
                }
                let failed = |said: String| format!("{} ({}): {said}", op.name, case.label);
                match checked {
                    Ok((differs, declined)) => {
                        whole += usize::from(declined.is_empty());
                        failures.extend(differs.map(failed));
                        failures.extend(declined.iter().map(|reason| failed(reason.to_string())));
                    }
                    Err(error) => failures.push(failed(error.to_string())),
                }
            }
        }
        compared = true;
    });
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    println!("{whole} cases are sequences");
    let said = include_str!("../../../docs/gpu.md");
    assert!(said.contains("Every op of the registry has launches"), "docs/gpu.md says so");
}
