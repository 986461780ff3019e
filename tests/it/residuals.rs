//! What each op keeps for the backward pass, in bytes, beside PyTorch's figure: no more than it.
//!
//! The figures of PyTorch come with the fixtures: the storages that its autograd saves for the
//! same application, each once. `docs/residuals.md` is the table of the largest case of each op.

use crate::fixtures::reference;
use crate::registry::all;
use autograd_core::{Result, is_float};
use autograd_ops::testing::Numbers;
use autograd_tape::GradientTape;
use std::fmt::Write;

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/residuals.md");

/// Ops that keep more than PyTorch, with the reason.
const MORE: &[(&str, &str)] = &[];

/// Bytes that the tape keeps for a case.
fn kept(op: &'static str, case: &autograd_ops::registry::Case) -> Result<usize> {
    let mut inputs = Numbers::of(op, case)?.inputs;
    let tape = GradientTape::new();
    for x in &mut inputs {
        if is_float(x.dtype()) {
            *x = tape.try_variable(&*x)?;
        }
    }
    let outputs = (case.run)(&inputs)?;
    let bytes = tape.nodes().iter().map(|node| node.kept_bytes).sum();
    drop(outputs);
    Ok(bytes)
}

#[test]
fn no_op_keeps_more_than_pytorch() -> Result<()> {
    let reference = reference();
    let mut text = String::from(
        "# What ops keep for the backward pass\n\nBytes in f64, of each op's largest case, beside what PyTorch saves for the same \
         application (each storage\nonce). Written by the test `residuals` with `WRITE_RESIDUALS=1`; it fails where an op keeps \
         more, or the table is\nstale.\n\n| op | case | kept here | PyTorch |\n|---|---|---|---|\n",
    );
    let mut faults = Vec::new();
    let mut ops = 0;
    for op in all() {
        let mut largest: Option<(String, usize, u64)> = None;
        for case in (op.cases)() {
            let row = reference.get(&(op.name.to_owned(), case.label.clone()));
            let Some(theirs) = row.and_then(|row| row["saved"].as_u64()) else { continue };
            let ours = kept(op.name, &case)?;
            if ours as u64 > theirs && MORE.iter().all(|(name, _)| *name != op.name) {
                faults.push(format!("{}, case '{}': {ours} bytes, PyTorch {theirs}", op.name, case.label));
            }
            if largest.as_ref().is_none_or(|(_, _, known)| theirs > *known) {
                largest = Some((case.label.clone(), ours, theirs));
            }
        }
        if let Some((case, ours, theirs)) = largest {
            ops += 1;
            let _ = writeln!(text, "| {} | {case} | {ours} | {theirs} |", op.name);
        }
    }
    for fault in &faults {
        println!("FAILED {fault}");
    }
    assert!(faults.is_empty(), "{} cases keep more than PyTorch; each is printed above", faults.len());
    assert!(ops > 100, "{ops} ops have a figure to be compared with");
    for (op, reason) in MORE {
        let _ = writeln!(text, "\n{op}: {reason}");
    }
    if std::env::var_os("WRITE_RESIDUALS").is_some() {
        std::fs::write(PATH, &text).expect("the table can be written");
    }
    let known = std::fs::read_to_string(PATH).unwrap_or_default();
    assert!(known == text, "docs/residuals.md is stale: run this test with WRITE_RESIDUALS=1");
    Ok(())
}
