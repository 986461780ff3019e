//! Static graphs: eager mode, compiled as tiles, and compiled to machine code, in the same run.
//!
//! ```text
//! cargo bench --features jit --bench graph [-- WORKLOAD ..]
//! ```
//!
//! One repetition is forward and backward of a scalar loss with all gradients, f32; contenders take
//! turns, figures are medians. Where an op has a tensor output, the loss is the sum of it times a
//! constant tensor.

use candle_autograd::graph::{Engine, Graph, Options, value_and_grad};
use candle_autograd::{Result, TensorAutograd, TrackedTensor};
use std::time::Instant;

/// A loss of inputs, of which those from `constants` on get no gradient.
struct Workload {
    name: &'static str,
    inputs: Vec<TrackedTensor>,
    constants: usize,
    loss: fn(&[TrackedTensor]) -> Result<TrackedTensor>,
}

fn draw(dims: &[usize], scale: f32, seed: u64) -> Result<TrackedTensor> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let n: usize = dims.iter().product();
    let numbers = (0..n).map(|_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        ((state >> 40) as f32 / (1u64 << 24) as f32 * 2.0 - 1.0) * scale
    });
    TrackedTensor::from_vec(numbers.collect(), dims)
}

fn chain(x: &[TrackedTensor]) -> Result<TrackedTensor> {
    x[0].mul(&x[1])?.add(&x[2])?.tanh()?.mul(&x[0].sigmoid()?)?.sum()
}

fn small_ops(x: &[TrackedTensor]) -> Result<TrackedTensor> {
    let mut y = x[0].clone();
    for i in 0..1000 {
        y = match i % 3 {
            0 => y.mul(&x[1])?,
            1 => y.add(&x[2])?,
            _ => y.tanh()?,
        };
    }
    y.sum()
}

fn mlp(x: &[TrackedTensor]) -> Result<TrackedTensor> {
    let h = x[6].matmul(&x[0])?.add(&x[1])?.relu()?;
    let h = h.matmul(&x[2])?.add(&x[3])?.relu()?;
    h.matmul(&x[4])?.add(&x[5])?.cross_entropy(&x[7])
}

const BATCH: usize = 8;
const TOKENS: usize = 128;
const WIDTH: usize = 256;
const HEADS: usize = 8;

/// A pre-norm block: x, two norms, qkv, projection, and a gelu network, each with its bias; then
/// the mask of the attention and the cotangent.
fn transformer_block(p: &[TrackedTensor]) -> Result<TrackedTensor> {
    let x = &p[0];
    let h = x.layer_norm(&p[1], &p[2], 1e-5)?;
    let qkv = h.matmul(&p[3])?.add(&p[4])?.reshape((BATCH, TOKENS, 3, HEADS, WIDTH / HEADS))?;
    let part = |i: usize| qkv.narrow(2, i, 1)?.squeeze(2)?.transpose(1, 2);
    let (q, k, v) = (part(0)?, part(1)?, part(2)?);
    let scores = q.matmul(&k.transpose(-2, -1)?)?.mul(1.0 / ((WIDTH / HEADS) as f64).sqrt())?;
    let weights = scores.add(&p[13])?.softmax(-1)?;
    let attended = weights.matmul(&v)?.transpose(1, 2)?.reshape((BATCH, TOKENS, WIDTH))?;
    let x = x.add(&attended.matmul(&p[5])?.add(&p[6])?)?;
    let h = x.layer_norm(&p[7], &p[8], 1e-5)?;
    let h = h.matmul(&p[9])?.add(&p[10])?.gelu()?.matmul(&p[11])?.add(&p[12])?;
    x.add(&h)?.mul(&p[14])?.sum()
}

fn weighed(f: fn(&[TrackedTensor]) -> Result<TrackedTensor>, x: &[TrackedTensor]) -> Result<TrackedTensor> {
    f(x)?.mul(&x[x.len() - 1])?.sum()
}

fn workloads() -> Result<Vec<Workload>> {
    let wide = |seed| draw(&[4096, 1024], 1.0, seed);
    let row = |seed| draw(&[1024], 1.0, seed);
    let labels = TrackedTensor::from_vec((0..128).map(|i| i * 7 % 10).collect::<Vec<u32>>(), &[128])?;
    let mask: Vec<f32> =
        (0..TOKENS * TOKENS).map(|i| if i % TOKENS > i / TOKENS { f32::NEG_INFINITY } else { 0.0 }).collect();
    let ones = |n: usize| TrackedTensor::from_vec(vec![1f32; n], &[n]);
    let zeros = |n: usize| TrackedTensor::from_vec(vec![0f32; n], &[n]);
    let workload = |name, inputs, constants, loss| Workload { name, inputs, constants, loss };
    Ok(vec![
        workload("ew_chain", vec![wide(1)?, wide(2)?, wide(3)?], 3, chain),
        workload("ew_chain_bcast", vec![wide(1)?, row(2)?, row(3)?], 3, chain),
        workload("op_softmax", vec![wide(1)?, wide(2)?], 1, |x| weighed(|x| x[0].softmax(-1), x)),
        workload("op_layer_norm", vec![wide(1)?, row(2)?, row(3)?, wide(4)?], 3, |x| {
            weighed(|x| x[0].layer_norm(&x[1], &x[2], 1e-5), x)
        }),
        workload("op_gelu", vec![wide(1)?, wide(2)?], 1, |x| weighed(|x| x[0].gelu(), x)),
        workload(
            "mlp",
            vec![
                draw(&[784, 1024], 0.03, 1)?,
                zeros(1024)?,
                draw(&[1024, 1024], 0.03, 2)?,
                zeros(1024)?,
                draw(&[1024, 10], 0.03, 3)?,
                zeros(10)?,
                draw(&[128, 784], 1.0, 4)?,
                labels,
            ],
            6,
            mlp,
        ),
        workload(
            "small_ops",
            vec![draw(&[16], 1.0, 1)?, draw(&[16], 1.0, 2)?, draw(&[16], 1.0, 3)?],
            1,
            small_ops,
        ),
        workload(
            "transformer_block",
            vec![
                draw(&[BATCH, TOKENS, WIDTH], 1.0, 1)?,
                ones(WIDTH)?,
                zeros(WIDTH)?,
                draw(&[WIDTH, 3 * WIDTH], 0.06, 2)?,
                zeros(3 * WIDTH)?,
                draw(&[WIDTH, WIDTH], 0.06, 3)?,
                zeros(WIDTH)?,
                ones(WIDTH)?,
                zeros(WIDTH)?,
                draw(&[WIDTH, 4 * WIDTH], 0.06, 4)?,
                zeros(4 * WIDTH)?,
                draw(&[4 * WIDTH, WIDTH], 0.06, 5)?,
                zeros(WIDTH)?,
                TrackedTensor::from_vec(mask, &[TOKENS, TOKENS])?,
                draw(&[BATCH, TOKENS, WIDTH], 1.0, 6)?,
            ],
            13,
            transformer_block,
        ),
    ])
}

/// The loss and its gradients, as a function of the inputs that get one.
fn step(w: &Workload) -> impl Fn(&[TrackedTensor]) -> Result<Vec<TrackedTensor>> + '_ {
    let (constants, loss) = (w.inputs[w.constants..].to_vec(), w.loss);
    value_and_grad(move |x| loss(&x.iter().chain(&constants).cloned().collect::<Vec<_>>()))
}

fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn measure(w: &Workload) -> Result<()> {
    let f = step(w);
    let inputs = &w.inputs[..w.constants];
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
        f(inputs)?;
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
        "{:<18} {eager:>9.3} {tiled:>9.3} {coded:>9.3} {compiled_in:>10.1} {:>5} {:>5} {:>12} {:>12}",
        w.name,
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
    println!("medians in ms; forward, backward and all gradients, f32");
    println!(
        "{:<18} {:>9} {:>9} {:>9} {:>10} {:>5} {:>5} {:>12} {:>12}",
        "workload", "eager", "tiles", "code", "compile", "ops", "steps", "arena bytes", "no reuse"
    );
    for w in workloads()? {
        if wanted.is_empty() || wanted.iter().any(|name| name == w.name) {
            measure(&w)?;
        }
    }
    Ok(())
}
