//! A workload as a compiled graph: captured with its gradients, checked against eager mode, and run
//! again and again in the same memory.

use super::Repetition;
use super::workloads::Function;
use candle_autograd::graph::{Engine, Graph, Options};
use candle_autograd::{DType, Error, Result, TensorAutograd, TrackedTensor};

/// How far compiled results may lie from eager ones, against the largest number of an output: both
/// round f32 numbers, after sums of up to 2²² terms and a dozen layers, in different orders.
const TOLERANCE: f64 = 2e-4;

/// The repetition of a captured function. With `anew`, the arena is made and given back in each,
/// so that it counts where the memory of a step is measured.
///
/// Outputs are written into the caller's memory, which stays the same from step to step.
pub(crate) fn repetition(
    leaves: Vec<TrackedTensor>,
    function: &Function,
    engine: Engine,
    anew: bool,
) -> Result<Repetition> {
    let metas: Vec<_> = leaves.iter().map(TrackedTensor::meta).collect();
    let compiled = Graph::capture(function, &metas)?.compile(Options { engine, ..Options::default() })?;
    if std::env::var_os("EXPLAIN").is_some() {
        eprintln!("{}", compiled.explain());
    }
    let call = |executor: &mut candle_autograd::graph::Executor| executor.run(&refs(&leaves));
    equal(&call(&mut compiled.executor())?, &function(&leaves)?)?;
    if anew {
        return Ok(Box::new(move || compiled.executor().run(&refs(&leaves))));
    }
    let mut executor = compiled.executor();
    let mut outputs = call(&mut executor)?;
    Ok(Box::new(move || {
        executor.run_into(&refs(&leaves), &mut outputs)?;
        Ok(outputs.clone())
    }))
}

fn refs(values: &[TrackedTensor]) -> Vec<&TrackedTensor> {
    values.iter().collect()
}

/// Whether compiled results are the eager ones within rounding.
fn equal(compiled: &[TrackedTensor], eager: &[TrackedTensor]) -> Result<()> {
    if compiled.len() != eager.len() {
        return Err(Error::msg(format!("{} compiled results, {} eager ones", compiled.len(), eager.len())));
    }
    for (k, (a, b)) in compiled.iter().zip(eager).enumerate() {
        let (a, b) = (numbers(a)?, numbers(b)?);
        let largest = b.iter().fold(0f64, |most, x| most.max(x.abs()));
        let apart = a.iter().zip(&b).map(|(x, y)| (x - y).abs()).fold(0.0, f64::max);
        let same = a.len() == b.len() && apart <= TOLERANCE * largest && a.iter().all(|x| x.is_finite());
        if !same {
            return Err(Error::msg(format!("compiled result {k} is {apart:e} from eager's {largest:e}")));
        }
    }
    Ok(())
}

fn numbers(x: &TrackedTensor) -> Result<Vec<f64>> {
    x.to_dtype(DType::F64)?.to_flat::<f64>()
}
