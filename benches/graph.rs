//! Static graphs: eager mode, compiled as tiles, and compiled to machine code, in the same run, on the
//! workloads of `cargo xtask peers`.
//!
//! ```text
//! cargo bench --features full --bench graph [-- WORKLOAD ..]
//! ```
//!
//! One repetition is forward and backward of a scalar loss with all gradients, f32; contenders take
//! turns, figures are medians. `EXPLAIN=1` prints what each graph does.

#[path = "peers/workloads.rs"]
mod workloads;

use candle_autograd::graph::{Engine, Graph, Options};
use candle_autograd::{Result, TrackedTensor};
use std::time::Instant;

/// The workloads that run where none is named.
const DEFAULT: [&str; 22] = [
    "ew_chain",
    "ew_chain_bcast",
    "small_ops",
    "mlp",
    "convnet",
    "resnet_block",
    "transformer_block",
    "gpt_step",
    "op_softmax",
    "op_log_softmax",
    "op_logsumexp",
    "op_layer_norm",
    "op_gelu",
    "op_mish",
    "op_group_norm",
    "op_batch_norm",
    "op_conv2d",
    "op_max_pool2d",
    "hvp_mlp",
    "hvp_mlp_revrev",
    "jacfwd_256",
    "per_sample_grads",
];

fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn measure(name: &str) -> Result<()> {
    let (inputs, f) = workloads::build(name)?;
    let refs: Vec<&TrackedTensor> = inputs.iter().collect();
    let metas: Vec<_> = inputs.iter().map(TrackedTensor::meta).collect();
    let start = Instant::now();
    let graph = Graph::capture(&f, &metas)?;
    let compile = |engine| graph.compile(Options { engine, ..Options::default() });
    let code = compile(Engine::Best)?;
    let compiled_in = start.elapsed().as_secs_f64() * 1e3;
    let tiles = compile(Engine::Tiles)?;
    let (mut on_tiles, mut on_code) = (tiles.executor(), code.executor());
    let (mut tile_out, mut code_out) = (on_tiles.run(&refs)?, on_code.run(&refs)?);
    let mut times = [Vec::new(), Vec::new(), Vec::new()];
    let begun = Instant::now();
    for round in 0..400 {
        let start = Instant::now();
        f(&inputs)?;
        let eager = start.elapsed();
        let start = Instant::now();
        on_tiles.run_into(&refs, &mut tile_out)?;
        let tiled = start.elapsed();
        let start = Instant::now();
        on_code.run_into(&refs, &mut code_out)?;
        let coded = start.elapsed();
        if round >= 3 {
            for (times, took) in times.iter_mut().zip([eager, tiled, coded]) {
                times.push(took.as_secs_f64() * 1e3);
            }
        }
        if round > 12 && begun.elapsed().as_secs_f64() > 6.0 {
            break;
        }
    }
    let [eager, tiled, coded] = times.each_mut().map(|t| median(t));
    let explanation = code.explain();
    println!(
        "{name:<18} {eager:>9.3} {tiled:>9.3} {coded:>9.3} {:>8.2} {compiled_in:>10.1} {:>5} {:>5} {:>12} {:>12}",
        coded / eager,
        explanation.captured,
        explanation.steps.len(),
        explanation.planned_bytes,
        explanation.bytes_without_reuse,
    );
    if std::env::var_os("EXPLAIN").is_some() {
        println!("{explanation}");
    }
    Ok(())
}

fn main() -> Result<()> {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    println!("medians in ms, the ratio of machine code to eager mode, and the time to capture and compile");
    println!(
        "{:<18} {:>9} {:>9} {:>9} {:>8} {:>10} {:>5} {:>5} {:>12} {:>12}",
        "workload", "eager", "tiles", "code", "ratio", "compile", "ops", "steps", "arena bytes", "no reuse"
    );
    match wanted.is_empty() {
        true => DEFAULT.iter().try_for_each(|name| measure(name)),
        false => wanted.iter().try_for_each(|name| measure(name)),
    }
}
