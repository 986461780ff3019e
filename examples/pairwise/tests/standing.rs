//! The registry's checks on an op from outside, and the modes by hand.

use autograd_core::{Mask, Result, TrackedTensor};
use autograd_graph::capture;
use autograd_ops::TensorAutograd;
use autograd_ops::testing::{Check, Function, Modes, check};
use autograd_tape::GradientTape;
use autograd_transforms::vmap;
use pairwise::{op, squared_distances};

/// Reverse mode by a tape, forward mode by dual numbers, batches by vmap.
struct All;

impl Modes for All {
    fn vjp(
        &self,
        f: &Function<'_>,
        primals: &[TrackedTensor],
        cotangents: &[TrackedTensor],
    ) -> Result<(Vec<TrackedTensor>, Vec<TrackedTensor>)> {
        let tape = GradientTape::new();
        let variables: Vec<TrackedTensor> =
            primals.iter().map(|x| tape.try_variable(x)).collect::<Result<_>>()?;
        let outputs = f(&variables)?;
        let plain = outputs.iter().map(|y| tape.unwatched(y)).collect();
        let targets: Vec<&TrackedTensor> = outputs.iter().collect();
        let seeds: Vec<&TrackedTensor> = cotangents.iter().collect();
        let sources: Vec<&TrackedTensor> = variables.iter().collect();
        Ok((plain, tape.gradient_with(&targets, &seeds, &sources)?))
    }

    fn jvp(
        &self,
        f: &Function<'_>,
        primals: &[TrackedTensor],
        tangents: &[TrackedTensor],
    ) -> Result<(Vec<TrackedTensor>, Vec<TrackedTensor>)> {
        let primals: Vec<&TrackedTensor> = primals.iter().collect();
        let tangents: Vec<&TrackedTensor> = tangents.iter().collect();
        autograd_forward::jvp(|x| f(x), &primals, &tangents)
    }

    fn vmap(&self, f: &Function<'_>, inputs: &[TrackedTensor], mapped: Mask) -> Result<Vec<TrackedTensor>> {
        let inputs: Vec<&TrackedTensor> = inputs.iter().collect();
        vmap(|x| f(x), &inputs, mapped)
    }
}

#[test]
fn every_check_of_the_registry_passes() {
    let report = check(&op(), &All).unwrap_or_else(|failure| panic!("{failure}"));
    for check in [
        Check::Forward,
        Check::Reverse,
        Check::Adjoint,
        Check::SecondOrder,
        Check::Subsets,
        Check::Decomposition,
        Check::Batch,
        Check::Layouts,
        Check::F32,
    ] {
        assert!(report.is_covered(check), "{check}");
    }
    // Half types are an error of the op's own, and the report says so.
    assert!(report.gaps.iter().all(|gap| [Check::BF16, Check::F16].contains(&gap.check)));
}

#[test]
fn a_graph_holds_the_op_and_its_gradient() -> Result<()> {
    let x = TrackedTensor::from_vec(vec![0f64, 1., 2., 3.], &[2, 2])?;
    let gradient = |x: &TrackedTensor| -> Result<TrackedTensor> {
        let tape = GradientTape::new();
        let v = tape.variable(x);
        tape.derivative(&squared_distances(&v, &v)?.sum()?, &v)
    };
    let program = capture(|x| Ok(vec![gradient(&x[0])?]), &[x.meta()])?;
    assert_eq!(program.run(&[&x])?[0].to_flat::<f64>()?, gradient(&x)?.to_flat::<f64>()?);
    assert_eq!(gradient(&x)?.to_flat::<f64>()?, [-8., -8., 8., 8.]);
    Ok(())
}

#[test]
fn errors_name_the_op_and_the_line() -> Result<()> {
    let (x, y) =
        (TrackedTensor::from_vec(vec![0f64; 4], &[2, 2])?, TrackedTensor::from_vec(vec![0f64; 3], &[1, 3])?);
    let error = squared_distances(&x, &y).expect_err("two and three features");
    assert!(error.to_string().starts_with("squared_distances: shapes"), "{error}");
    assert!(error.site().is_some_and(|site| site.file().ends_with("standing.rs")), "{error}");
    Ok(())
}
