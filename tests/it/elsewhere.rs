//! Every op on a device: its values and gradients by candle's ops, with numbers that are only said
//! to be there, so that any machine can check it.

use crate::registry::all;
use autograd_core::testing::elsewhere;
use autograd_core::{DType, Result, TrackedTensor, algebra};
use autograd_ops::registry::Case;
use autograd_ops::testing::Numbers;
use autograd_tape::GradientTape;

fn numbers(x: &TrackedTensor) -> Result<Vec<f64>> {
    algebra::cast(x, DType::F64)?.to_flat()
}

/// The outputs of a case, and the gradients of their sum weighted by 0.5, 1, 1.5, ….
fn outputs(case: &Case, inputs: &[TrackedTensor], away: bool) -> Result<Vec<Vec<f64>>> {
    let place = |x: &TrackedTensor| if away { elsewhere(x) } else { Ok(x.clone()) };
    let inputs: Vec<TrackedTensor> = inputs.iter().map(place).collect::<Result<_>>()?;
    let tape = GradientTape::new();
    let watched: Vec<TrackedTensor> = inputs
        .iter()
        .map(|x| if autograd_core::is_float(x.dtype()) { tape.variable(x) } else { x.clone() })
        .collect();
    let ys = (case.run)(&watched)?;
    let mut all: Vec<Vec<f64>> = Vec::new();
    let mut total: Option<TrackedTensor> = None;
    for y in &ys {
        all.push(numbers(&y.detach()?)?);
        if !autograd_core::is_float(y.dtype()) || !y.is_tracked() {
            continue;
        }
        let weights = (0..y.elem_count()).map(|i| 0.5 + 0.5 * (i % 5) as f64).collect();
        let weights = place(&algebra::cast(&TrackedTensor::from_vec(weights, y.dims())?, y.dtype())?)?;
        let part = algebra::sum_to(&algebra::mul(y, &weights)?, &autograd_core::Shape::SCALAR)?;
        total = Some(match total {
            Some(total) => algebra::add(&total, &part)?,
            None => part,
        });
    }
    let wanted: Vec<&TrackedTensor> = watched.iter().filter(|x| x.is_tracked()).collect();
    let Some(total) = total.filter(|_| !wanted.is_empty()) else { return Ok(all) };
    for gradient in tape.gradient(&total, &wanted)? {
        assert_eq!(gradient.location(), total.location());
        all.push(numbers(&gradient)?);
    }
    Ok(all)
}

#[test]
fn every_op_gives_its_numbers_on_a_device() {
    let only = std::env::var("OP").ok();
    let (mut failures, mut cases, mut skipped) = (Vec::new(), 0, 0);
    for op in all().into_iter().filter(|op| only.as_deref().is_none_or(|name| op.name == name)) {
        for case in (op.cases)() {
            let name = format!("{}, case '{}'", op.name, case.label);
            let inputs = Numbers::of(op.name, &case).unwrap_or_else(|error| panic!("{name}: {error}")).inputs;
            // What has no first-order gradient on the CPU has none elsewhere.
            let Ok(here) = outputs(&case, &inputs, false) else {
                skipped += 1;
                continue;
            };
            cases += 1;
            match outputs(&case, &inputs, true) {
                Err(error) => failures.push(format!("{name}: {error}")),
                Ok(there) => {
                    let scale =
                        here.iter().flatten().filter(|x| x.is_finite()).fold(1f64, |m, x| m.max(x.abs()));
                    let close = |(a, b): (&f64, &f64)| {
                        a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= 1e-9 * scale
                    };
                    let same = here.len() == there.len()
                        && here
                            .iter()
                            .zip(&there)
                            .all(|(a, b)| a.len() == b.len() && a.iter().zip(b).all(close));
                    if !same {
                        failures.push(format!("{name}: {there:?} on a device, {here:?} on the CPU"));
                    }
                }
            }
        }
    }
    for failure in &failures {
        println!("FAILED {failure}");
    }
    assert!(failures.is_empty(), "{} of {cases} cases failed; each is printed above", failures.len());
    assert!(only.is_some() || (cases > 300 && skipped < 60), "{cases} cases, {skipped} without a gradient");
}
