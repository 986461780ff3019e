//! Every check on every case of every op of the registry.
//!
//! `OP=softmax cargo test --test it registry` looks at one op.

use crate::modes::Workspace;
use autograd_ops::registry::{self, Op, Sample};
use autograd_ops::testing::{Check, Report, check, check_case};

/// The ops of every crate that has some.
pub(crate) fn all() -> Vec<Op> {
    let mut ops = registry::all();
    ops.extend(autograd_transforms::registry::ops());
    ops
}

#[test]
fn every_op_passes_every_check() {
    let only = std::env::var("OP").ok();
    let ops: Vec<_> =
        all().into_iter().filter(|op| only.as_deref().is_none_or(|name| op.name == name)).collect();
    assert!(!ops.is_empty(), "no op is named {only:?}");
    let mut failures = Vec::new();
    for op in &ops {
        let mut report = Report::default();
        for case in (op.cases)() {
            match check_case(op, &case, &Workspace) {
                Ok(found) => report.add(found),
                Err(failure) => failures.push(failure),
            }
        }
        for gap in &report.gaps {
            println!("{}, case '{}': not covered: {}: {}", op.name, gap.case, gap.check, gap.reason);
        }
    }
    for failure in &failures {
        println!("FAILED {failure}");
    }
    assert!(
        failures.is_empty(),
        "{} cases of {} ops failed; each is printed above",
        failures.len(),
        ops.len()
    );
}

fn can_move(sample: &Sample) -> bool {
    matches!(sample, Sample::Float { .. } | Sample::Distinct { .. })
}

/// What it is for is a derivative that is not that of its values.
const OWN_DERIVATIVE: [&str; 1] = ["stop_gradient"];

/// A case at a kink is compared with no differences: an op of such cases alone could say anything
/// in both modes.
#[test]
fn every_differentiable_op_has_a_smooth_case() {
    for op in all() {
        let cases = (op.cases)();
        let report = check(&op, &Workspace).unwrap_or_else(|failure| panic!("{failure}"));
        let smooth = cases.iter().any(|case| case.smooth && case.inputs.iter().any(can_move));
        let own = OWN_DERIVATIVE.contains(&op.name);
        assert!(smooth || own || report.executed(Check::Forward) == 0, "{} has no smooth case", op.name);
    }
}

#[test]
fn names_of_ops_and_cases_are_unique() {
    let mut seen = std::collections::HashSet::new();
    for op in all() {
        assert!(seen.insert(op.name.to_owned()), "two ops are named {}", op.name);
        // Sample numbers are seeded by these names.
        for case in (op.cases)() {
            let name = format!("{}: {}", op.name, case.label);
            assert!(seen.insert(name.clone()), "two cases are named {name}");
        }
    }
}
