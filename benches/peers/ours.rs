//! Our side of `cargo xtask peers`; see `worker.rs` for what it is asked. Without arguments it does
//! nothing, so that `cargo bench` passes it by.

mod compiled;
mod worker;
mod workloads;

use candle_autograd::graph::Engine;
use candle_autograd::kernels::{memory, probe, threads};
use candle_autograd::{Result, TrackedTensor};
use peak_alloc::PeakAlloc;
use worker::Arguments;
use workloads::Function;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

const MIB: f64 = 1024.0 * 1024.0;

fn main() {
    let Some(asked) = Arguments::read() else {
        println!("`cargo xtask peers` runs this bench");
        return;
    };
    threads::set_threads(asked.threads);
    if asked.workload == "probe" {
        return worker_probe();
    }
    let engine = match asked.mode.as_str() {
        "eager" => None,
        "tiles" => Some(Engine::Tiles),
        "graph" => Some(Engine::Best),
        other => return worker::refuse(format!("no mode `{other}`")),
    };
    let mut repetition = match repetition(&asked, engine) {
        Ok(repetition) => repetition,
        Err(error) => return worker::refuse(error),
    };
    if asked.memory {
        match memory_of(&mut repetition) {
            Ok(line) => println!("{line}"),
            Err(error) => worker::refuse(error),
        }
        return;
    }
    worker::serve(|| repetition().map(|results| drop(std::hint::black_box(results))));
}

/// One repetition: the value, if there is one, and the gradients, all held until they are returned.
type Repetition = Box<dyn FnMut() -> Result<Vec<TrackedTensor>>>;

/// The workload on tapes and duals, or captured and compiled.
fn repetition(asked: &Arguments, engine: Option<Engine>) -> Result<Repetition> {
    let (leaves, function): (Vec<TrackedTensor>, Function) = workloads::build(&asked.workload)?;
    match engine {
        None => Ok(Box::new(move || function(&leaves))),
        Some(engine) => compiled::repetition(leaves, &function, engine, asked.memory),
    }
}

/// The FMA rate, each time that it is asked.
fn worker_probe() {
    println!("{{\"ready\": true}}");
    for _ in std::io::stdin().lines() {
        println!("[{:.1}]", probe::fma_gflops());
    }
}

/// Memory of a step by the resident set and by a count of what the allocator gave out; what is
/// returned counts as well, and is named apart.
fn memory_of(repetition: &mut Repetition) -> Result<String> {
    let resident = worker::resident_step(|| repetition().map(drop), memory::trim)?;
    memory::trim();
    let before = ALLOCATOR.current_usage();
    ALLOCATOR.reset_peak_usage();
    let results = repetition()?;
    let counted = ALLOCATOR.peak_usage().saturating_sub(before) as f64 / MIB;
    let returned: usize = results.iter().map(|x| x.meta().bytes()).sum();
    let step = resident.max(counted);
    Ok(format!(
        "{{\"step_mb\": {step:.2}, \"resident_mb\": {resident:.2}, \"counted_mb\": {counted:.2}, \
         \"returned_mb\": {:.2}}}",
        returned as f64 / MIB
    ))
}
