//! Every op of the registry, captured with its gradient: the interpreter equals eager mode to the
//! bit, the compiled graph within rounding. And what ops say of their rows is so.

use autograd_core::algebra::narrow;
use autograd_core::{ByRows, DType, Operand, Result, TrackedTensor, apply_call, is_float};
use autograd_graph::{Engine, Graph, Options};
use autograd_ops::TensorAutograd;
use autograd_ops::registry::{self, Case, Sample};
use autograd_tape::GradientTape;

/// Ops of the registry are a few roundings in f64; sums of fused ops are ordered otherwise.
const TOLERANCE: f64 = 1e-11;

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

#[test]
fn every_op_captured_equals_eager_mode() {
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
