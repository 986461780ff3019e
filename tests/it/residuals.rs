//! What each op keeps for the backward pass, in bytes, beside PyTorch's figure: no more than it, with
//! the exceptions named, each with a bound of its own.
//!
//! The figures of PyTorch come with the fixtures: the storages that its autograd saves for the
//! same application, each once, inputs included. Ours are counted by the same rule.
//! `docs/residuals.md` is the table of the largest case of each op.

use crate::fixtures::{cases, reference};
use autograd_core::{Result, is_float};
use autograd_ops::registry::Case;
use autograd_ops::testing::Numbers;
use autograd_tape::GradientTape;
use std::collections::BTreeMap;
use std::fmt::Write;

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/residuals.md");

/// Cases that keep more: the most bytes that each may keep, with the reason.
const MORE: &[(&str, &str, usize, &str)] = &[
    ("cross_entropy", "mean", 144, ROWS),
    ("cross_entropy", "sum", 144, ROWS),
    ("cross_entropy", "none", 144, ROWS),
    ("cross_entropy", "pixels", 288, ROWS),
    (
        "cross_entropy",
        "weights",
        184,
        "ln Σ eˣ of each row and the weight of its target, which PyTorch picks again",
    ),
    (
        "cross_entropy",
        "weights, smoothing, ignored",
        180,
        "the weight of each row's target, which PyTorch picks again, and whether it counts",
    ),
    (
        "scaled_dot_product_attention",
        "no queries",
        240,
        "keys and values, though there is nothing to pull back: an op for this case alone would be the price",
    ),
    ("scan", "states kept", 128, STATES),
    ("scan", "from the end", 128, STATES),
    ("scan", "two states, no results", 96, STATES),
];

const ROWS: &str = "ln Σ eˣ of each row, which saves the backward pass a pass over the logits; PyTorch keeps as many logarithms as there are logits, and not the logits";
const STATES: &str = "the state before each step and the whole sequence, from which the backward pass computes a step again; PyTorch's figure is that of this body written out, which reads less";

/// Inputs that PyTorch's own op is not differentiated by, so that its figure is without what their
/// gradients would read: they are not watched here either.
const NOT_WATCHED: &[(&str, &[usize])] = &[("batch_norm_eval", &[1, 2]), ("cross_entropy", &[2])];

/// What a case may keep: PyTorch's bytes, or its own bound.
fn allowed(op: &str, label: &str, theirs: u64) -> u64 {
    let bound = MORE.iter().find(|(name, case, ..)| *name == op && *case == label);
    bound.map_or(theirs, |(.., bytes, _)| *bytes as u64)
}

/// Bytes that the tape keeps for a case.
fn kept(op: &'static str, case: &Case) -> Result<usize> {
    let mut inputs = Numbers::of(op, case)?.inputs;
    let tape = GradientTape::new();
    let fixed = NOT_WATCHED.iter().find(|(name, _)| *name == op).map_or(&[][..], |(_, inputs)| inputs);
    for (i, x) in inputs.iter_mut().enumerate() {
        if is_float(x.dtype()) && !fixed.contains(&i) {
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

/// PyTorch's figure of each case.
type Theirs<'a> = BTreeMap<(&'a str, &'a str), u64>;

fn table(rows: &BTreeMap<&str, Largest>, theirs: &Theirs<'_>, without: &[&str]) -> String {
    let mut text = String::from(
        "# What ops keep for the backward pass\n\nBytes in f64, of each op's largest case, beside what PyTorch saves for the same \
         application: each memory once,\ninputs included on both sides. Written by the test `residuals` with \
         `WRITE_RESIDUALS=1`, which compares every\ncase, and fails where another op keeps more or the table is stale.\n\n\
         | op | case | kept here | PyTorch |\n|---|---|---|---|\n",
    );
    for (op, (case, ours, theirs)) in rows {
        let _ = writeln!(text, "| {op} | {case} | {ours} | {theirs} |");
    }
    text += "\nThese cases keep more than PyTorch, and no more than the bytes named:\n\n| op | case | at most | PyTorch | what for |\n|---|---|---|---|---|\n";
    for (op, case, bytes, what) in MORE {
        let theirs = theirs.get(&(*op, *case)).map_or(String::new(), u64::to_string);
        let _ = writeln!(text, "| {op} | {case} | {bytes} | {theirs} | {what} |");
    }
    text += "\nInputs that PyTorch's own op is not differentiated by are not watched here either: the statistics of\n`batch_norm_eval`, the class weights of `cross_entropy`.\n";
    let _ = writeln!(text, "\nWithout a figure to compare with: {}.", without.join(", "));
    text
}

#[test]
fn no_op_keeps_more_than_pytorch() -> Result<()> {
    let reference = reference();
    let mut faults = Vec::new();
    let mut rows: BTreeMap<&str, Largest> = BTreeMap::new();
    let mut without: Vec<&str> = Vec::new();
    let mut figures = Theirs::new();
    let all = cases();
    for (op, case) in &all {
        let op = *op;
        let row = reference.get(&(op.to_owned(), case.label.clone()));
        let Some(theirs) = row.and_then(|row| row["saved"].as_u64()) else {
            if !without.contains(&op) {
                without.push(op);
            }
            continue;
        };
        let ours = kept(op, case)?;
        figures.insert((op, &case.label), theirs);
        let bound = allowed(op, &case.label, theirs);
        if ours as u64 > bound {
            faults.push(format!(
                "{op}, case '{}': {ours} bytes, {bound} allowed, PyTorch {theirs}",
                case.label
            ));
        } else if bound > theirs && ours as u64 <= theirs {
            faults
                .push(format!("{op}, case '{}' keeps no more than PyTorch: it needs no excuse", case.label));
        }
        if rows.get(op).is_none_or(|(.., known)| theirs > *known) {
            rows.insert(op, (case.label.clone(), ours, theirs));
        }
    }
    without.retain(|op| !rows.contains_key(op));
    let unknown = MORE.iter().filter(|(op, case, ..)| !figures.contains_key(&(*op, *case)));
    faults.extend(unknown.map(|(op, case, ..)| format!("{op} has no case '{case}' with a figure")));
    for fault in &faults {
        println!("FAILED {fault}");
    }
    assert!(faults.is_empty(), "{} cases keep more than they may; each is printed above", faults.len());
    assert!(rows.len() > 190, "{} ops have a figure to be compared with", rows.len());
    let text = table(&rows, &figures, &without);
    if std::env::var_os("WRITE_RESIDUALS").is_some() {
        std::fs::write(PATH, &text).expect("the table can be written");
    }
    let known = std::fs::read_to_string(PATH).unwrap_or_default();
    assert!(known == text, "docs/residuals.md is stale: run this test with WRITE_RESIDUALS=1");
    Ok(())
}
