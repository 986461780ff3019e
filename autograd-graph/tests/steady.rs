//! Compiled steps of the benchmarks' nets: what they give, what memory they take, and that steady ones
//! allocate nothing and do not meet other threads at the buffer pool.
//!
//! One test in a binary of its own: the counter sees every allocation of the process.

mod nets;

use autograd_core::kernels::memory;
use autograd_core::{DType, Result, TrackedTensor};
use autograd_graph::{Engine, Graph, Options, Passes, value_and_grad};
use autograd_ops::TensorAutograd;
use nets::Net;
use peak_alloc::PeakAlloc;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// Compiled steps sum in other orders and keep in registers what eager ops round to memory: some
/// hundred roundings of f32 against the largest number of an output.
const ROUNDING: f64 = 1e-4;

/// Steps over which nothing may be allocated.
const STEPS: usize = 100;

/// How often that many steps run at most until none of them allocates: each thread of the pool
/// keeps small working memory of its own, and it is chance when it first has a part in a kernel.
const ROUNDS: usize = 20;

fn flat(x: &TrackedTensor) -> Result<Vec<f64>> {
    x.to_dtype(DType::F64)?.to_flat::<f64>()
}

fn assert_close(net: &str, a: &[TrackedTensor], b: &[TrackedTensor]) -> Result<()> {
    assert_eq!(a.len(), b.len(), "{net}");
    for (k, (a, b)) in a.iter().zip(b).enumerate() {
        let (a, b) = (flat(a)?, flat(b)?);
        let size = b.iter().fold(0f64, |most, x| most.max(x.abs()));
        let apart = a.iter().zip(&b).map(|(x, y)| (x - y).abs()).fold(0.0, f64::max);
        assert!(a.len() == b.len() && apart <= ROUNDING * size, "{net}: output {k}: {apart:e} of {size:e}");
    }
    Ok(())
}

/// Runs a net; how many bytes its steady steps allocate at one time, and for how many buffers
/// they ask the store that threads share.
fn check(net: &Net, engine: Engine, passes: Passes) -> Result<(usize, usize)> {
    let Net { name, inputs, loss } = net;
    let f = value_and_grad(loss);
    let metas: Vec<_> = inputs.iter().map(TrackedTensor::meta).collect();
    let refs: Vec<&TrackedTensor> = inputs.iter().collect();
    let compiled = Graph::capture(&f, &metas)?.compile(Options { engine, passes, ..Options::default() })?;

    let before = ALLOCATOR.current_usage();
    let mut executor = compiled.executor();
    let taken = ALLOCATOR.current_usage() - before;
    // The list of closed-over values is all that it holds beside the arena.
    let list = size_of_val(compiled.graph().program().constants.as_slice());
    assert_eq!(executor.bytes(), compiled.planned_bytes(), "{name}: the arena is the planned one");
    assert_eq!(taken, compiled.planned_bytes() + list, "{name}: the arena is all that an executor takes");

    let mut outputs = executor.run(&refs)?;
    assert_close(name, &outputs, &f(inputs)?)?;
    for _ in 0..3 {
        executor.run_into(&refs, &mut outputs)?;
    }
    let (mut most, mut taken) = (0, 0);
    for _ in 0..ROUNDS {
        let known = memory::stats().asked;
        ALLOCATOR.reset_peak_usage();
        let before = ALLOCATOR.current_usage();
        for _ in 0..STEPS {
            executor.run_into(&refs, &mut outputs)?;
        }
        // An allocation is above what was there before, even if it is given back at once.
        most = ALLOCATOR.peak_usage() - before;
        taken = memory::stats().asked - known;
        if (most, taken) == (0, 0) {
            break;
        }
    }
    Ok((most, taken))
}

#[test]
fn steps_take_the_planned_bytes_and_neither_allocate_nor_lock() -> Result<()> {
    let mut unsteady = Vec::new();
    for net in nets::all()? {
        for engine in [Engine::Tiles, Engine::Best] {
            for passes in [Passes::default(), Passes::ALL] {
                let (bytes, taken) = check(&net, engine, passes)?;
                if (bytes, taken) != (0, 0) {
                    unsteady.push(format!("{} ({engine:?}): {bytes} bytes, {taken} buffers", net.name));
                }
            }
        }
    }
    assert!(unsteady.is_empty(), "{STEPS} steps allocate nothing and take no buffer, but {unsteady:?}");
    Ok(())
}
