//! Every op against PyTorch and JAX: values, vjp, jvp and jvp of vjp, in f64.
//!
//! `tests/fixtures/make.py` says how the reference is made; `docs/differences.md` lists where the
//! two differ and whom we follow. With `FIXTURE_INPUTS=path` this test writes the numbers of every
//! case there instead of comparing.

mod edges;

use crate::modes::Workspace;
use crate::registry::all;
use autograd_core::{DType, Result, TrackedTensor, algebra, is_float};
use autograd_ops::registry::Case;
use autograd_ops::testing::{Modes, Numbers};
use serde_json::{Value, json};
use std::collections::{BTreeSet, HashMap};
use std::io::Read;

const REFERENCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/reference.json.gz");

/// Both sides round, and add up in different orders.
const TOLERANCE: f64 = 1e-10;

const OPEN: &str = "PyTorch leaves open which of equal indices wins, and gives all of them a gradient";

/// Ops that neither framework has, or has with other numbers; with a label, one case of an op.
const WITHOUT_REFERENCE: &[(&str, Option<&str>, &str)] = &[
    ("dropout", None, "each framework has random numbers of its own"),
    ("uniform", None, "each framework has random numbers of its own"),
    ("normal", None, "each framework has random numbers of its own"),
    ("split_key", None, "each framework has random numbers of its own"),
    ("fold_in", None, "each framework has random numbers of its own"),
    ("clip_gradient", None, "neither framework has it"),
    ("gradient_hook", None, "it is what the hook is"),
    ("scatter", Some("equal indices"), OPEN),
    ("index_put", Some("rows"), OPEN),
    ("index_put", Some("one row for all"), OPEN),
    ("index_put", Some("indices of rank 2"), OPEN),
    ("index_put", Some("elements"), OPEN),
    ("scaled_dot_product_attention", Some("dropped weights"), "each framework has random numbers of its own"),
];

fn is_excused(op: &str, label: &str) -> bool {
    WITHOUT_REFERENCE.iter().any(|(name, case, _)| *name == op && case.is_none_or(|case| case == label))
}

/// The cases of the registry, then those of [`edges`].
pub(crate) fn cases() -> Vec<(&'static str, Case)> {
    let of = |op: autograd_ops::registry::Op| (op.cases)().into_iter().map(move |case| (op.name, case));
    all().into_iter().flat_map(of).chain(edges::edges()).collect()
}

fn numbers(x: &TrackedTensor) -> Result<Vec<f64>> {
    algebra::cast(&x.detach()?, DType::F64)?.to_flat()
}

/// Values as JSON: extents, kind and numbers; what JSON has no number for goes by name.
fn written(values: &[TrackedTensor]) -> Result<Value> {
    let number = |x: f64| if x.is_finite() { json!(x) } else { json!(x.to_string()) };
    let one = |x: &TrackedTensor| -> Result<Value> {
        let kind = match x.dtype() {
            DType::U32 => "u32",
            DType::U8 => "u8",
            _ => "f64",
        };
        let data: Vec<Value> = numbers(x)?.into_iter().map(number).collect();
        Ok(json!({"dims": x.dims(), "type": kind, "data": data}))
    };
    Ok(Value::Array(values.iter().map(one).collect::<Result<_>>()?))
}

fn export(path: &str) -> Result<()> {
    let mut rows = Vec::new();
    for (op, case) in cases() {
        let drawn = Numbers::of(op, &case)?;
        rows.push(json!({
            "op": op,
            "case": case.label,
            "inputs": written(&drawn.inputs)?,
            "tangents": written(&drawn.tangents)?,
            "cotangents": written(&drawn.cotangents)?,
        }));
    }
    std::fs::write(path, Value::Array(rows).to_string()).expect("the path can be written");
    Ok(())
}

/// The reference, by op and case.
pub(crate) fn reference() -> HashMap<(String, String), Value> {
    let packed = std::fs::read(REFERENCE).expect("the fixtures are in the repository");
    let mut text = String::new();
    flate2::read::GzDecoder::new(packed.as_slice()).read_to_string(&mut text).expect("the fixtures are gzip");
    let whole: Value = serde_json::from_str(&text).expect("the fixtures are JSON");
    let rows = whole["cases"].as_array().expect("the fixtures are a list").iter();
    let key = |row: &Value, what: &str| row[what].as_str().unwrap_or_default().to_owned();
    rows.map(|row| ((key(row, "op"), key(row, "case")), row.clone())).collect()
}

/// Values, vjp, jvp and jvp of vjp of a case, under the names of the fixtures.
fn ours(op: &'static str, case: &Case) -> Result<[(&'static str, Vec<TrackedTensor>); 4]> {
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
    let out = (case.run)(&drawn.inputs)?;
    let vjp = Workspace.vjp(&f, &primals, &drawn.cotangents)?.1;
    let jvp = Workspace.jvp(&f, &primals, &drawn.tangents)?.1;
    let pull = |x: &[TrackedTensor]| Ok(Workspace.vjp(&f, x, &drawn.cotangents)?.1);
    let second = Workspace.jvp(&pull, &primals, &drawn.tangents)?.1;
    Ok([("out", out), ("vjp", vjp), ("jvp", jvp), ("jvp of vjp", second)])
}

/// What is wrong with a part, if anything; lists that are not finite there are not compared.
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
    for (op, case) in cases() {
        let Some(row) = reference.get(&(op.to_owned(), case.label.clone())) else { continue };
        for (part, got) in ours(op, &case)? {
            for (whose, want) in [("followed", &row[part]), ("JAX", &row["jax"][part])] {
                if want.is_null() {
                    continue;
                }
                compared += 1;
                if let Some(words) = fault(&got, want)? {
                    faults.push(format!("{op}, case '{}', {part}, {whose}: {words}", case.label));
                }
            }
        }
    }
    for fault in &faults {
        println!("FAILED {fault}");
    }
    assert!(faults.is_empty(), "{} of {compared} comparisons failed; each is printed above", faults.len());
    assert!(compared > 5000, "{compared} comparisons");
    Ok(())
}

/// A new op, or a new case, either has a reference or is listed with the reason why not.
#[test]
fn every_case_has_a_fixture_or_an_excuse() {
    let reference = reference();
    let mut faults = Vec::new();
    let mut unused: BTreeSet<_> = WITHOUT_REFERENCE.iter().collect();
    let mut known = BTreeSet::new();
    for (op, case) in cases() {
        let key = (op.to_owned(), case.label.clone());
        let excused = is_excused(op, &case.label);
        unused.retain(|(name, label, _)| *name != op || label.is_some_and(|label| label != case.label));
        match (reference.contains_key(&key), excused) {
            (true, true) => faults.push(format!("{op}, case '{}': has a fixture and an excuse", case.label)),
            (false, false) => faults.push(format!("{op}, case '{}': has neither", case.label)),
            _ => {}
        }
        known.insert(key);
    }
    faults.extend(unused.iter().map(|(op, ..)| format!("{op} is excused and not there")));
    faults.extend(
        reference
            .keys()
            .filter(|key| !known.contains(*key))
            .map(|key| format!("{key:?} is no case any more")),
    );
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn fixtures_that_differ_are_rejected() -> Result<()> {
    let got = [TrackedTensor::from_vec(vec![1.0, 2.0], &[2])?];
    assert_eq!(fault(&got, &json!([[1.0, 2.0]]))?, None);
    assert!(fault(&got, &json!([[1.0, 2.0 + 4e-10]]))?.is_some());
    assert!(fault(&got, &json!([[1.0]]))?.is_some());
    assert!(fault(&got, &json!([]))?.is_some());
    let nan = [TrackedTensor::from_vec(vec![1.0, f64::NAN], &[2])?];
    assert!(fault(&nan, &json!([[1.0, 2.0]]))?.is_some());
    Ok(())
}
