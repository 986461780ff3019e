//! Every op of the registry, captured with its gradient: the interpreter equals eager mode to the
//! bit, the compiled graph within rounding, the stored and loaded one to the bit. And what ops say of
//! their rows is so.

use autograd_core::algebra::narrow;
use autograd_core::{ByRows, DType, Error, Operand, Result, TrackedTensor, apply_call, is_float};
use autograd_graph::{Engine, Graph, Options, StoredGraph};
use autograd_ops::TensorAutograd;
use autograd_ops::registry::{self, Case, Sample};
use autograd_tape::GradientTape;

/// Ops of the registry are a few roundings in f64; sums of fused ops are ordered otherwise.
const TOLERANCE: f64 = 1e-11;

/// Ops that hold a closure.
const CLOSURES: &[&str] = &["gradient_hook"];

fn draw(sample: &Sample, seed: u64) -> Result<TrackedTensor> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x1234_5678_9abc_def1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state >> 11
    };
    let mut unit = || next() as f64 / (1u64 << 53) as f64;
    let dims = sample.dims();
    let n: usize = dims.iter().product();
    match sample {
        Sample::Float { range: (low, high), .. } => {
            TrackedTensor::from_vec((0..n).map(|_| low + (high - low) * unit()).collect::<Vec<f64>>(), dims)
        }
        Sample::Distinct { .. } => {
            let order = |i: usize| (i * 7919 + 3) % n.max(1);
            TrackedTensor::from_vec((0..n).map(|i| order(i) as f64 * 0.1 - 1.0).collect::<Vec<f64>>(), dims)
        }
        Sample::Exact { values, .. } => TrackedTensor::from_vec(values.clone(), dims),
        Sample::Index { bound, .. } => {
            let below = f64::from((*bound).max(1));
            TrackedTensor::from_vec((0..n).map(|_| (unit() * below) as u32).collect::<Vec<u32>>(), dims)
        }
        Sample::Mask { .. } => {
            TrackedTensor::from_vec((0..n).map(|_| u8::from(unit() < 0.5)).collect::<Vec<u8>>(), dims)
        }
    }
}

/// The outputs of a case, and the gradient of the sum of those that have one.
fn outputs_and_gradient(case: &Case, x: &[TrackedTensor]) -> Result<Vec<TrackedTensor>> {
    let tape = GradientTape::new();
    let inputs = x
        .iter()
        .map(|x| if is_float(x.dtype()) { tape.try_variable(x) } else { Ok(x.clone()) })
        .collect::<Result<Vec<_>>>()?;
    let made = (case.run)(&inputs)?;
    let mut all: Vec<TrackedTensor> = made.iter().map(|y| tape.unwatched(y)).collect();
    let targets: Vec<&TrackedTensor> =
        made.iter().filter(|y| tape.watches(y) && is_float(y.dtype())).collect();
    if targets.is_empty() {
        return Ok(all);
    }
    let seeds = targets.iter().map(|y| autograd_core::algebra::ones_like(y)).collect::<Result<Vec<_>>>()?;
    let sources: Vec<&TrackedTensor> = inputs.iter().filter(|x| tape.watches(x)).collect();
    all.extend(tape.gradient_with(&targets, &seeds.iter().collect::<Vec<_>>(), &sources)?);
    Ok(all)
}

fn flat(x: &TrackedTensor) -> Result<Vec<f64>> {
    autograd_core::algebra::cast(x, DType::F64)?.to_flat::<f64>()
}

fn compare(what: &str, a: &[TrackedTensor], b: &[TrackedTensor], tolerance: f64) -> Result<Option<String>> {
    if a.len() != b.len() {
        return Ok(Some(format!("{what}: {} outputs, not {}", a.len(), b.len())));
    }
    for (k, (a, b)) in a.iter().zip(b).enumerate() {
        if (a.dims(), a.dtype()) != (b.dims(), b.dtype()) {
            return Ok(Some(format!("{what}: output {k}: {a:?} and {b:?}")));
        }
        let (a, b) = (flat(a)?, flat(b)?);
        let size = b.iter().filter(|x| x.is_finite()).fold(1.0f64, |m, x| m.max(x.abs()));
        let differs = |(x, y): &(&f64, &f64)| {
            let same = x == y || x.is_nan() && y.is_nan() || (*x - *y).abs() <= tolerance * size;
            !same
        };
        if let Some((x, y)) = a.iter().zip(&b).find(differs) {
            return Ok(Some(format!("{what}: output {k}: {x} and {y}")));
        }
    }
    Ok(None)
}

fn check(case: &Case) -> Result<Option<String>> {
    let x = case.inputs.iter().zip(1..).map(|(s, seed)| draw(s, seed)).collect::<Result<Vec<_>>>()?;
    // Some samples of other draws are not those of the registry's harness: an op may refuse them.
    let Ok(want) = outputs_and_gradient(case, &x) else { return Ok(None) };
    let refs: Vec<&TrackedTensor> = x.iter().collect();
    let metas: Vec<_> = x.iter().map(TrackedTensor::meta).collect();
    let graph = Graph::capture(|x| outputs_and_gradient(case, x), &metas)?;
    graph.check()?;
    if let Some(failure) = compare("interpreter", &graph.run(&refs)?, &want, 0.0)? {
        return Ok(Some(failure));
    }
    let compiled = graph.compile(Options { engine: Engine::Best, ..Options::default() })?;
    compare("compiled", &compiled.call(&refs)?, &want, TOLERANCE)
}

/// The graph of a case, with its values; `None` where the op refuses them.
fn captured(case: &Case) -> Result<Option<(Graph, Vec<TrackedTensor>)>> {
    let x = case.inputs.iter().zip(1..).map(|(s, seed)| draw(s, seed)).collect::<Result<Vec<_>>>()?;
    if outputs_and_gradient(case, &x).is_err() {
        return Ok(None);
    }
    let metas: Vec<_> = x.iter().map(TrackedTensor::meta).collect();
    Ok(Some((Graph::capture(|x| outputs_and_gradient(case, x), &metas)?, x)))
}

/// The graph as text and back.
fn stored_and_loaded(graph: &Graph) -> Result<Graph> {
    let text = serde_json::to_string(&graph.to_stored()?).map_err(Error::msg)?;
    let stored: StoredGraph = serde_json::from_str(&text).map_err(Error::msg)?;
    stored.load(&graph.parameters().cloned().collect::<Vec<_>>())
}

fn check_stored(case: &Case) -> Result<Option<String>> {
    let Some((graph, x)) = captured(case)? else { return Ok(None) };
    let refs: Vec<&TrackedTensor> = x.iter().collect();
    let want = graph.run(&refs)?;
    let again = stored_and_loaded(&graph)?;
    let what = format!("loaded, of {} parameters", graph.parameters().count());
    compare(&what, &again.run(&refs)?, &want, 0.0)
}

/// Whether an op that says that its rows are independent gives for the first row and for the others
/// what it gives for all; how many ops of the case say so.
fn check_rows(case: &Case) -> Result<(usize, Option<String>)> {
    let x = case.inputs.iter().zip(1..).map(|(s, seed)| draw(s, seed)).collect::<Result<Vec<_>>>()?;
    let metas: Vec<_> = x.iter().map(TrackedTensor::meta).collect();
    let Ok(graph) = Graph::capture(|x| outputs_and_gradient(case, x), &metas) else { return Ok((0, None)) };
    let program = graph.program();
    let mut made: Vec<Vec<TrackedTensor>> = Vec::new();
    let mut said = 0;
    for step in &program.instructions {
        let operands: Vec<&TrackedTensor> = step
            .operands
            .iter()
            .map(|operand| match *operand {
                Operand::Input(i) => &x[i],
                Operand::Constant(i) => &program.constants[i],
                Operand::Result { instruction, output } => &made[instruction][output],
            })
            .collect();
        let run = |operands: &[&TrackedTensor]| -> Result<Vec<TrackedTensor>> {
            let applied = apply_call(&*step.op, operands, step.aux > 0, step.site)?;
            Ok(applied.outputs.into_iter().chain(applied.aux).collect())
        };
        let Ok(whole) = run(&operands) else { return Ok((said, None)) };
        let metas: Vec<_> = operands.iter().map(|x| x.meta()).collect();
        let by = step.op.by_rows(&metas);
        let rows =
            |by: ByRows| (0..operands.len()).find(|&i| !by.whole.has(i)).map(|i| operands[i].dims()[0]);
        if let Some((by, rows)) = by.and_then(|by| Some((by, rows(by).filter(|&rows| rows > 1)?))) {
            said += 1;
            let part = |start: usize, len: usize| {
                let own = operands
                    .iter()
                    .enumerate()
                    .map(|(i, x)| if by.whole.has(i) { Ok((*x).clone()) } else { narrow(x, 0, start, len) })
                    .collect::<Result<Vec<_>>>()?;
                run(&own.iter().collect::<Vec<_>>())
            };
            let (first, rest) = (part(0, 1)?, part(1, rows - 1)?);
            for (j, ((first, rest), whole)) in first.iter().zip(&rest).zip(&whole).enumerate() {
                let joined = match by.summed.has(j) {
                    true => first.add(rest)?,
                    false => autograd_ops::join::cat(&[first, rest], 0)?,
                };
                let what = format!("rows of {}", step.op.key());
                if let Some(failure) = compare(&what, &[joined], std::slice::from_ref(whole), TOLERANCE)? {
                    return Ok((said, Some(failure)));
                }
            }
        }
        made.push(whole);
    }
    Ok((said, None))
}

#[test]
fn rows_are_independent_where_an_op_says_so() -> Result<()> {
    let mut said = 0;
    for op in registry::all() {
        for case in (op.cases)() {
            let (count, failure) = check_rows(&case)?;
            said += count;
            assert!(failure.is_none(), "{}, case '{}': {}", op.name, case.label, failure.unwrap_or_default());
        }
    }
    assert!(said > 20, "{said} ops said so: softmax, norms and cross entropy do, and their reverse rules");
    Ok(())
}

/// Checks every case, or those of the op that `OP` names.
fn check_all(check: impl Fn(&Case) -> Result<Option<String>>) {
    let only = std::env::var("OP").ok();
    let mut failures = Vec::new();
    let mut cases = 0;
    for op in registry::all() {
        if only.as_deref().is_some_and(|name| name != op.name) {
            continue;
        }
        for case in (op.cases)() {
            cases += 1;
            match check(&case) {
                Ok(None) => {}
                Ok(Some(failure)) => failures.push(format!("{}, case '{}': {failure}", op.name, case.label)),
                Err(error) => failures.push(format!("{}, case '{}': {error}", op.name, case.label)),
            }
        }
    }
    assert!(cases > 0, "no op is named {only:?}");
    assert!(failures.is_empty(), "{} of {cases} cases failed:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn every_op_captured_equals_eager_mode() {
    check_all(check);
}

#[test]
fn every_op_is_stored_and_loaded_as_it_was() {
    // What closures there are in a graph cannot be data: a hook's, and that of an op's own rule.
    check_all(|case| match check_stored(case) {
        Err(Error::UnsupportedMode { op, mode: "storage", .. }) if CLOSURES.contains(&op) => Ok(None),
        other => other,
    });
}

/// Every whole number, flag and shape of a stored graph, changed: it is refused, or it is another
/// graph, and running that one is an error or gives numbers. Nothing panics.
fn check_broken(case: &Case) -> Result<Option<String>> {
    let Some((graph, x)) = captured(case)? else { return Ok(None) };
    let Ok(stored) = graph.to_stored() else { return Ok(None) };
    let (refs, parameters): (Vec<_>, Vec<_>) = (x.iter().collect(), graph.parameters().cloned().collect());
    let good = serde_json::to_value(&stored).map_err(Error::msg)?;
    let places = places(&good, "");
    for place in places.iter().filter(|place| place.contains("/Named/parameters/")) {
        for value in [0u64, 1, 2, 9, 1 << 33, u64::MAX] {
            let mut broken = good.clone();
            let Some(slot) = broken.pointer_mut(place) else { continue };
            *slot = if slot.is_boolean() { (value % 2 == 0).into() } else { value.into() };
            let Ok(broken) = serde_json::from_value::<StoredGraph>(broken) else { continue };
            let run = || {
                let graph = broken.load(&parameters)?;
                // A value may be as large as a number says; there is no need to make it.
                let made = graph.program().instructions.iter().flat_map(|i| &i.outputs);
                let small = made.map(autograd_core::Meta::elements).all(|n| n < 1 << 14);
                if small { graph.run(&refs) } else { Ok(Vec::new()) }
            };
            if std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).is_err() {
                return Ok(Some(format!("{place} = {value} panics")));
            }
        }
    }
    Ok(None)
}

/// The pointers to all numbers and flags of a value.
fn places(value: &serde_json::Value, at: &str) -> Vec<String> {
    use serde_json::Value;
    match value {
        Value::Number(_) | Value::Bool(_) => vec![at.to_owned()],
        Value::Array(all) => {
            all.iter().enumerate().flat_map(|(i, v)| places(v, &format!("{at}/{i}"))).collect()
        }
        Value::Object(all) => all.iter().flat_map(|(k, v)| places(v, &format!("{at}/{k}"))).collect(),
        Value::Null | Value::String(_) => Vec::new(),
    }
}

#[test]
fn broken_parameters_of_any_op_are_errors() {
    check_all(check_broken);
}
