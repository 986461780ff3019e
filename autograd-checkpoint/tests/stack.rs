//! A stack of transformer blocks within byte budgets: what is measured against what was predicted,
//! gradients against those of the plain run. Live bytes are those of the whole process, so all of
//! it is one test.

use autograd_checkpoint::{
    ChainCost, CheckpointManager, CheckpointStats, Costs, Plan, checkpoint_sequential,
};
use autograd_core::kernels::memory;
use autograd_core::{Error, Result, TrackedTensor};
use autograd_ops::TensorAutograd;
use autograd_tape::GradientTape;

const LAYERS: usize = 6;
const BATCH: usize = 2;
const TOKENS: usize = 64;
const WIDTH: usize = 64;
const HEADS: usize = 4;

/// Measured peak over predicted: plans know layers, not single kernels.
const TOLERANCE: f64 = 0.05;

fn value(seed: usize, dims: &[usize], scale: f32) -> TrackedTensor {
    let count: usize = dims.iter().product();
    let number = |i: usize| (((i + seed) * 2_654_435_761 % 1009) as f32 / 504.5 - 1.0) * scale;
    TrackedTensor::from_vec((0..count).map(number).collect(), dims)
        .expect("as many elements as the shape has")
}

fn parameters() -> Vec<Vec<TrackedTensor>> {
    let ones = || TrackedTensor::from_vec(vec![1f32; WIDTH], &[WIDTH]).expect("a vector");
    let block = |b: usize| {
        let w = |i: usize, rows: usize, columns: usize| value(b * 31 + i, &[rows, columns], 0.1);
        let o = |columns: usize| value(0, &[columns], 0.0);
        vec![
            ones(),
            o(WIDTH),
            w(1, WIDTH, 3 * WIDTH),
            o(3 * WIDTH),
            w(2, WIDTH, WIDTH),
            o(WIDTH),
            ones(),
            o(WIDTH),
            w(3, WIDTH, 4 * WIDTH),
            o(4 * WIDTH),
            w(4, 4 * WIDTH, WIDTH),
            o(WIDTH),
        ]
    };
    (0..LAYERS).map(block).collect()
}

/// A block with norms in front, causal attention, and four times as wide a hidden layer.
fn block(x: &TrackedTensor, p: &[TrackedTensor]) -> Result<TrackedTensor> {
    let h = x.layer_norm(&p[0], &p[1], 1e-5)?;
    let qkv = (h.matmul(&p[2])? + &p[3])?.reshape([BATCH, TOKENS, 3, HEADS, WIDTH / HEADS])?;
    let qkv = qkv.permute([2, 0, 3, 1, 4])?;
    let part = |i: usize| qkv.narrow(0, i, 1)?.squeeze(0);
    let a = part(0)?.scaled_dot_product_attention(&part(1)?, &part(2)?, None, true, None)?;
    let a = a.transpose(1, 2)?.reshape([BATCH, TOKENS, WIDTH])?;
    let x = (x + (a.matmul(&p[4])? + &p[5])?)?;
    let h = x.layer_norm(&p[6], &p[7], 1e-5)?;
    let h = (h.matmul(&p[8])? + &p[9])?.gelu()?;
    &x + (h.matmul(&p[10])? + &p[11])?
}

type Layer<'a> = Box<dyn Fn(&TrackedTensor) -> Result<TrackedTensor> + 'a>;

/// The blocks, and the loss as the last layer.
fn layers<'a>(parameters: &'a [Vec<TrackedTensor>], g: &'a TrackedTensor) -> Vec<Layer<'a>> {
    let mut layers: Vec<Layer<'a>> = Vec::new();
    for p in parameters {
        layers.push(Box::new(move |x| block(x, p)));
    }
    layers.push(Box::new(move |x| (x * g)?.sum()));
    layers
}

/// One step's gradients: of x, then of all parameters unless they are frozen.
fn step(
    x: &TrackedTensor,
    p: &[Vec<TrackedTensor>],
    frozen: bool,
    run: impl FnOnce(&[Layer<'_>], &TrackedTensor) -> Result<TrackedTensor>,
) -> Result<Vec<TrackedTensor>> {
    let g = value(77, &[BATCH, TOKENS, WIDTH], 1.0);
    let tape = GradientTape::new();
    let x = tape.variable(x);
    let watched = |w: &TrackedTensor| if frozen { w.clone() } else { tape.variable(w) };
    let p: Vec<Vec<TrackedTensor>> = p.iter().map(|block| block.iter().map(watched).collect()).collect();
    let layers = layers(&p, &g);
    let loss = run(&layers, &x)?;
    let mut sources = vec![&x];
    if !frozen {
        sources.extend(p.iter().flatten());
    }
    tape.gradient(&loss, &sources)
}

/// The layers' costs, and the gradients of a run that keeps everything.
fn costs(x: &TrackedTensor, p: &[Vec<TrackedTensor>], frozen: bool) -> Result<(ChainCost, Vec<Vec<u32>>)> {
    let all = Plan::keep_all(LAYERS + 1)?;
    let plain = step(x, p, frozen, |layers, x| checkpoint_sequential(layers, x, &all))?;
    let mut manager = CheckpointManager::new(usize::MAX);
    let measured = step(x, p, frozen, |layers, x| manager.run(layers, x))?;
    assert_eq!(bits(&measured), bits(&plain), "measuring changes nothing");
    let cost = manager.cost().cloned().ok_or_else(|| Error::msg("no costs"))?;
    Ok((cost, bits(&plain)))
}

fn bits(values: &[TrackedTensor]) -> Vec<Vec<u32>> {
    let bits = |v: &TrackedTensor| v.to_flat::<f32>().expect("f32").into_iter().map(f32::to_bits).collect();
    values.iter().map(bits).collect()
}

/// Measured over predicted, in words where they differ by more than they may.
fn compare(stats: &CheckpointStats) -> String {
    let ratio = stats.peak_bytes as f64 / stats.predicted_peak_bytes as f64;
    assert!((ratio - 1.0).abs() <= TOLERANCE, "{stats}");
    format!("measured over predicted {ratio:.4}\n{stats}\n")
}

#[test]
fn a_stack_stays_within_its_budgets() -> Result<()> {
    let (x, p) = (value(5, &[BATCH, TOKENS, WIDTH], 1.0), parameters());
    five_budgets(&x, &p)?;
    on_a_disk(&x, &p)
}

fn five_budgets(x: &TrackedTensor, p: &[Vec<TrackedTensor>]) -> Result<()> {
    let (cost, plain) = costs(x, p, false)?;
    let least = Plan::least_budget(&cost);
    let most = Plan::keep_all(LAYERS + 1)?.predict(&cost)?.peak_bytes;
    assert!(least * 3 < most * 2, "{least} of {most}: there is something to save");
    for fifth in 0..5 {
        let budget = least + (most - least) * fifth / 4;
        let mut manager = CheckpointManager::new(budget).costs(Costs::Given(cost.clone()));
        let gradients = step(x, p, false, |layers, x| manager.run(layers, x))?;
        let stats = manager.stats().ok_or_else(|| Error::msg("no stats"))?;
        assert_eq!(bits(&gradients), plain, "budget {budget}");
        assert!(stats.predicted_peak_bytes <= budget);
        println!("budget {budget}: {}", compare(&stats));
        assert_eq!(stats.recomputed_layers > 0, stats.recomputed_ops > 0, "{stats}");
    }
    // A budget that is too small says what would do, at the user's line.
    let mut manager = CheckpointManager::new(least - 1).costs(Costs::Given(cost));
    let error = step(x, p, false, |layers, x| manager.run(layers, x)).expect_err("one byte too few");
    assert!(matches!(error, Error::Budget { least: said, .. } if said == least), "{error}");
    assert!(error.to_string().contains("stack.rs"), "{error}");
    Ok(())
}

fn on_a_disk(x: &TrackedTensor, p: &[Vec<TrackedTensor>]) -> Result<()> {
    let (cost, plain) = costs(x, p, true)?;
    // The least memory takes much work, and a disk saves some of it.
    let limit = 1 << 24;
    let least = Plan::least_budget(&cost);
    let alone = Plan::optimal(&cost, least)?.recomputations();
    let directory = std::env::temp_dir().join(format!("autograd-stack-{}", std::process::id()));
    std::fs::create_dir_all(&directory).map_err(Error::msg)?;
    let files = || Ok::<_, Error>(std::fs::read_dir(&directory).map_err(Error::msg)?.count());
    let given = Costs::Given(cost);
    let mut manager = CheckpointManager::new(least).costs(given.clone()).offload_to(&directory, limit)?;
    let gradients = step(x, p, true, |layers, x| manager.run(layers, x))?;
    assert_eq!(bits(&gradients), plain, "offloaded");
    let stats = manager.stats().ok_or_else(|| Error::msg("no stats"))?;
    assert!(
        stats.offloaded_bytes > 0 && stats.recomputed_layers < alone && stats.predicted_peak_bytes <= least,
        "{stats}"
    );
    println!("on a disk, budget {least}: {}", compare(&stats));
    drop(manager);
    assert_eq!(files()?, 0, "no file is left");
    // A directory that goes away: an error, and the values are all there still.
    let mut manager = CheckpointManager::new(least).costs(given).offload_to(&directory, limit)?;
    std::fs::remove_dir_all(&directory).map_err(Error::msg)?;
    let failed = step(x, p, true, |layers, x| manager.run(layers, x)).expect_err("no directory");
    assert!(matches!(failed, Error::Offload { .. }), "{failed}");
    assert!(failed.to_string().contains("stack.rs"), "{failed}");
    assert!(!directory.exists());
    let each = Plan::each(LAYERS + 1)?;
    let after = step(x, p, true, |layers, x| checkpoint_sequential(layers, x, &each))?;
    assert_eq!(bits(&after), plain, "after the error");
    // Nothing is held when all is dropped.
    let live = memory::stats().live_bytes;
    drop(after);
    assert!(memory::stats().live_bytes < live);
    Ok(())
}
