//! What each op keeps for the backward pass, in bytes, beside PyTorch's figure: no more than it, with
//! the exceptions named.
//!
//! The figures of PyTorch come with the fixtures: the storages that its autograd saves for the
//! same application, each once, inputs included. Ours are counted by the same rule.
//! `docs/residuals.md` is the table of the largest case of each op.

use crate::fixtures::{cases, reference};
use autograd_core::{Result, is_float};
use autograd_ops::registry::Case;
use autograd_ops::testing::Numbers;
use autograd_tape::GradientTape;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/residuals.md");

/// Cases that keep more, with the reason; with no label, all cases of an op may.
const MORE: &[(&str, Option<&str>, &str)] = &[
    (
        "conv3d",
        None,
        "the windows of each plane of the kernel, where stride or padding in depth keep them from being views",
    ),
    (
        "cross_entropy",
        None,
        "ln Σ eˣ of each row, which saves the backward pass a pass over the logits; with class weights also what their mean is made of",
    ),
    ("batch_norm_eval", None, "what the gradients of mean and variance read, which PyTorch does not give"),
    (
        "scaled_dot_product_attention",
        Some("no queries"),
        "keys and values, though there is nothing to pull back",
    ),
    ("scan", None, "the whole sequence, since the backward pass computes each step again from its state"),
    ("qr", None, "of a wide matrix: the square part's factors and the rest"),
    ("einsum", None, "the intermediate products, in the order in which they are written"),
];

fn may_keep_more(op: &str, label: &str) -> bool {
    MORE.iter().any(|(name, case, _)| *name == op && case.is_none_or(|case| case == label))
}

/// Bytes that the tape keeps for a case.
fn kept(op: &'static str, case: &Case) -> Result<usize> {
    let mut inputs = Numbers::of(op, case)?.inputs;
    let tape = GradientTape::new();
    for x in &mut inputs {
        if is_float(x.dtype()) {
            *x = tape.try_variable(&*x)?;
        }
    }
    let outputs = (case.run)(&inputs)?;
    let bytes = tape.kept_bytes();
    drop(outputs);
    Ok(bytes)
}

/// The largest case of an op, by PyTorch's figure: label, ours, PyTorch's.
type Largest = (String, usize, u64);

fn table(rows: &BTreeMap<&str, Largest>, without: &[&str]) -> String {
    let mut text = String::from(
        "# What ops keep for the backward pass\n\nBytes in f64, of each op's largest case, beside what PyTorch saves for the same \
         application: each memory once,\ninputs included on both sides. Written by the test `residuals` with \
         `WRITE_RESIDUALS=1`, which compares every\ncase, and fails where another op keeps more or the table is stale.\n\n\
         | op | case | kept here | PyTorch |\n|---|---|---|---|\n",
    );
    for (op, (case, ours, theirs)) in rows {
        let _ = writeln!(text, "| {op} | {case} | {ours} | {theirs} |");
    }
    text += "\nThese keep more than PyTorch in some case:\n\n";
    for (op, case, what) in MORE {
        let case = case.map_or(String::new(), |case| format!(" ({case})"));
        let _ = writeln!(text, "- {op}{case}: {what}.");
    }
    let _ = writeln!(text, "\nWithout a figure to compare with: {}.", without.join(", "));
    text
}

#[test]
fn no_op_keeps_more_than_pytorch() -> Result<()> {
    let reference = reference();
    let mut faults = Vec::new();
    let mut rows: BTreeMap<&str, Largest> = BTreeMap::new();
    let mut without: Vec<&str> = Vec::new();
    let mut more = BTreeSet::new();
    for (op, case) in cases() {
        let row = reference.get(&(op.to_owned(), case.label.clone()));
        let Some(theirs) = row.and_then(|row| row["saved"].as_u64()) else {
            if !without.contains(&op) {
                without.push(op);
            }
            continue;
        };
        let ours = kept(op, &case)?;
        if ours as u64 > theirs && may_keep_more(op, &case.label) {
            more.insert(op);
        } else if ours as u64 > theirs {
            faults.push(format!("{op}, case '{}': {ours} bytes, PyTorch {theirs}", case.label));
        }
        if rows.get(op).is_none_or(|(.., known)| theirs > *known) {
            rows.insert(op, (case.label.clone(), ours, theirs));
        }
    }
    without.retain(|op| !rows.contains_key(op));
    let stale = MORE.iter().filter(|(op, ..)| !more.contains(op));
    faults.extend(stale.map(|(op, ..)| format!("{op} keeps no more than PyTorch: it needs no excuse")));
    for fault in &faults {
        println!("FAILED {fault}");
    }
    assert!(faults.is_empty(), "{} cases keep more than PyTorch; each is printed above", faults.len());
    assert!(rows.len() > 190, "{} ops have a figure to be compared with", rows.len());
    let text = table(&rows, &without);
    if std::env::var_os("WRITE_RESIDUALS").is_some() {
        std::fs::write(PATH, &text).expect("the table can be written");
    }
    let known = std::fs::read_to_string(PATH).unwrap_or_default();
    assert!(known == text, "docs/residuals.md is stale: run this test with WRITE_RESIDUALS=1");
    Ok(())
}
