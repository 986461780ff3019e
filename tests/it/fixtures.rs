//! Every op against PyTorch and JAX: values, vjp, jvp and jvp of vjp, in f64.
//!
//! `tests/fixtures/make.py` says how the reference is made. With `FIXTURE_INPUTS=path` this test
//! writes the numbers of every case there instead of comparing.

use crate::modes::Workspace;
use crate::registry::all;
use autograd_core::{DType, Result, TrackedTensor, algebra, is_float};
use autograd_ops::registry::Case;
use autograd_ops::testing::{Modes, Numbers};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::io::Read;

/// Both sides round, and add up in different orders.
const TOLERANCE: f64 = 1e-10;

/// Ops that neither framework has, or has with other numbers.
const WITHOUT_REFERENCE: &[(&str, &str)] = &[
    ("eq", "its result is a mask"),
    ("ne", "its result is a mask"),
    ("lt", "its result is a mask"),
    ("le", "its result is a mask"),
    ("gt", "its result is a mask"),
    ("ge", "its result is a mask"),
    ("argmax", "its result is whole numbers"),
    ("argmin", "its result is whole numbers"),
    ("argsort", "its result is whole numbers"),
    ("dropout", "each framework has random numbers of its own"),
    ("uniform", "each framework has random numbers of its own"),
    ("normal", "each framework has random numbers of its own"),
    ("split_key", "its result is whole numbers"),
    ("fold_in", "its result is whole numbers"),
    ("recurrence", "neither framework has it; cumsum and cumprod are built on it"),
    ("scatter", "PyTorch leaves open which of equal indices wins"),
    ("clip_gradient", "neither framework has it"),
    ("gradient_hook", "it is what the hook is"),
];

fn numbers(x: &TrackedTensor) -> Result<Vec<f64>> {
    algebra::cast(&x.detach()?, DType::F64)?.to_flat()
}

/// Values as JSON: extents, kind and numbers.
fn written(values: &[TrackedTensor]) -> Result<Value> {
    let one = |x: &TrackedTensor| -> Result<Value> {
        let kind = match x.dtype() {
            DType::U32 => "u32",
            DType::U8 => "u8",
            _ => "f64",
        };
        Ok(json!({"dims": x.dims(), "type": kind, "data": numbers(x)?}))
    };
    Ok(Value::Array(values.iter().map(one).collect::<Result<_>>()?))
}

fn export(path: &str) -> Result<()> {
    let mut cases = Vec::new();
    for op in all() {
        for case in (op.cases)() {
            let drawn = Numbers::of(op.name, &case)?;
            cases.push(json!({
                "op": op.name,
                "case": case.label,
                "inputs": written(&drawn.inputs)?,
                "tangents": written(&drawn.tangents)?,
                "cotangents": written(&drawn.cotangents)?,
            }));
        }
    }
    std::fs::write(path, Value::Array(cases).to_string()).expect("the path can be written");
    Ok(())
}

/// The reference, case by case.
pub(crate) fn reference() -> HashMap<(String, String), Value> {
    let packed: &[u8] = include_bytes!("../fixtures/reference.json.gz");
    let mut text = String::new();
    flate2::read::GzDecoder::new(packed).read_to_string(&mut text).expect("the fixtures are gzip");
    let whole: Value = serde_json::from_str(&text).expect("the fixtures are JSON");
    let cases = whole["cases"].as_array().expect("the fixtures are a list").iter();
    let key = |row: &Value, what: &str| row[what].as_str().unwrap_or_default().to_owned();
    cases.map(|row| ((key(row, "op"), key(row, "case")), row.clone())).collect()
}

/// Values, vjp, jvp and jvp of vjp of a case, under the names of the fixtures; what an op does not
/// support is left out.
fn ours(op: &'static str, case: &Case) -> Result<Vec<(&'static str, Vec<TrackedTensor>)>> {
    let drawn = Numbers::of(op, case)?;
    let floats: Vec<usize> = (0..drawn.inputs.len()).filter(|&i| is_float(drawn.inputs[i].dtype())).collect();
    let f = |x: &[TrackedTensor]| -> Result<Vec<TrackedTensor>> {
        let mut inputs = drawn.inputs.clone();
        for (&i, x) in floats.iter().zip(x) {
            inputs[i] = x.clone();
        }
        Ok((case.run)(&inputs)?.into_iter().filter(|y| is_float(y.dtype())).collect())
    };
    let primals: Vec<TrackedTensor> = floats.iter().map(|&i| drawn.inputs[i].clone()).collect();
    let (out, vjp) = Workspace.vjp(&f, &primals, &drawn.cotangents)?;
    let jvp = Workspace.jvp(&f, &primals, &drawn.tangents)?.1;
    let pull = |x: &[TrackedTensor]| Ok(Workspace.vjp(&f, x, &drawn.cotangents)?.1);
    let second = Workspace.jvp(&pull, &primals, &drawn.tangents)?.1;
    Ok(vec![("out", out), ("vjp", vjp), ("jvp", jvp), ("jvp of vjp", second)])
}

/// What is wrong with a part, if anything; parts that are not finite there are not compared.
fn fault(got: &[TrackedTensor], want: &Value) -> Result<Option<String>> {
    let want = want.as_array().cloned().unwrap_or_default();
    if want.len() != got.len() {
        return Ok(Some(format!("{} values for {}", got.len(), want.len())));
    }
    for (i, (got, want)) in got.iter().zip(&want).enumerate() {
        let Some(want) = want.as_array() else { continue };
        let want: Vec<f64> = want.iter().filter_map(Value::as_f64).collect();
        let got = numbers(got)?;
        let allowed = TOLERANCE * want.iter().fold(1.0f64, |m, w| m.max(w.abs()));
        let near = |(got, want): (&f64, &f64)| (got - want).abs() <= allowed;
        if got.len() != want.len() || !got.iter().zip(&want).all(near) {
            return Ok(Some(format!("value {i}: {got:?}, not {want:?}")));
        }
    }
    Ok(None)
}

#[test]
fn every_op_agrees_with_the_fixtures() -> Result<()> {
    if let Ok(path) = std::env::var("FIXTURE_INPUTS") {
        return export(&path);
    }
    let reference = reference();
    let mut faults = Vec::new();
    let mut compared = 0;
    for op in all() {
        let mut found = 0;
        for case in (op.cases)() {
            let Some(row) = reference.get(&(op.name.to_owned(), case.label.clone())) else { continue };
            found += 1;
            for (part, got) in ours(op.name, &case)? {
                if let Some(words) = fault(&got, &row[part])? {
                    faults.push(format!("{}, case '{}', {part}: {words}", op.name, case.label));
                }
                compared += 1;
            }
        }
        let excused = WITHOUT_REFERENCE.iter().any(|(name, _)| *name == op.name);
        if (found == 0) != excused {
            faults.push(format!("{}: {found} fixtures; is it in WITHOUT_REFERENCE?", op.name));
        }
    }
    for fault in &faults {
        println!("FAILED {fault}");
    }
    assert!(faults.is_empty(), "{} of {compared} comparisons failed; each is printed above", faults.len());
    Ok(())
}
