//! Graphs within budgets of bytes: equal to the bit, planned within what is allowed, and an error
//! that names what would do.

use autograd_core::{Error, Result, TrackedTensor};
use autograd_graph::{Compiled, Graph, Options, Passes, value_and_grad};
use autograd_ops::{TensorAutograd, random};
use autograd_tape::GradientTape;

fn draw(dims: &[usize], seed: u64) -> Result<TrackedTensor> {
    random::normal(&random::key(seed), dims, autograd_core::DType::F32)?.mul(0.3)
}

fn refs(x: &[TrackedTensor]) -> Vec<&TrackedTensor> {
    x.iter().collect()
}

fn bits(values: &[TrackedTensor]) -> Vec<Vec<u32>> {
    let bits = |v: &TrackedTensor| v.to_flat::<f32>().expect("f32").into_iter().map(f32::to_bits).collect();
    values.iter().map(bits).collect()
}

/// A deep net of tanh layers.
fn deep(x: &[TrackedTensor]) -> Result<TrackedTensor> {
    x[1..].iter().try_fold(x[0].clone(), |h, w| h.matmul(w)?.tanh())?.sqr()?.sum()
}

fn deep_inputs() -> Result<Vec<TrackedTensor>> {
    let weights = (0..16).map(|i| draw(&[16, 16], i + 2));
    std::iter::once(draw(&[64, 16], 1)).chain(weights).collect()
}

const BATCH: usize = 2;
const TOKENS: usize = 16;
const WIDTH: usize = 16;
const HEADS: usize = 2;

/// Blocks with norms in front, causal attention, four times as wide a hidden layer.
fn transformer(x: &[TrackedTensor]) -> Result<TrackedTensor> {
    let block = |x: TrackedTensor, p: &[TrackedTensor]| -> Result<TrackedTensor> {
        let h = x.layer_norm(&p[0], &p[1], 1e-5)?;
        let qkv = h.matmul(&p[2])?.reshape([BATCH, TOKENS, 3, HEADS, WIDTH / HEADS])?;
        let qkv = qkv.permute([2, 0, 3, 1, 4])?;
        let part = |i: usize| qkv.narrow(0, i, 1)?.squeeze(0);
        let a = part(0)?.scaled_dot_product_attention(&part(1)?, &part(2)?, None, true, None)?;
        let a = a.transpose(1, 2)?.reshape([BATCH, TOKENS, WIDTH])?;
        let x = (x + a.matmul(&p[3])?)?;
        let h = x.layer_norm(&p[0], &p[1], 1e-5)?.matmul(&p[4])?.gelu()?;
        x + h.matmul(&p[5])?
    };
    x[1..].chunks(6).try_fold(x[0].clone(), block)?.sqr()?.sum()
}

fn transformer_inputs() -> Result<Vec<TrackedTensor>> {
    let mut inputs = vec![draw(&[BATCH, TOKENS, WIDTH], 1)?];
    for block in 0..4 {
        let shapes: [&[usize]; 6] = [
            &[WIDTH],
            &[WIDTH],
            &[WIDTH, 3 * WIDTH],
            &[WIDTH, WIDTH],
            &[WIDTH, 4 * WIDTH],
            &[4 * WIDTH, WIDTH],
        ];
        for (i, dims) in shapes.into_iter().enumerate() {
            inputs.push(draw(dims, 10 * block + i as u64 + 2)?);
        }
    }
    Ok(inputs)
}

/// Convolutions with shortcuts: values that more than one later op waits for.
fn convolutions(x: &[TrackedTensor]) -> Result<TrackedTensor> {
    let block = |x: TrackedTensor, w: &[TrackedTensor]| -> Result<TrackedTensor> {
        let h = x.conv2d(&w[0], 1, 1, 1, 1)?.silu()?;
        (h.conv2d(&w[1], 1, 1, 1, 1)? + &x)?.relu()
    };
    x[1..].chunks(2).try_fold(x[0].clone(), block)?.sqr()?.mean()
}

fn convolution_inputs() -> Result<Vec<TrackedTensor>> {
    let weights = (0..8).map(|i| draw(&[4, 4, 3, 3], i + 2));
    std::iter::once(draw(&[2, 4, 8, 8], 1)).chain(weights).collect()
}

type Loss = fn(&[TrackedTensor]) -> Result<TrackedTensor>;

fn nets() -> Result<[(&'static str, Loss, Vec<TrackedTensor>); 3]> {
    Ok([
        ("deep net", deep, deep_inputs()?),
        ("transformer", transformer, transformer_inputs()?),
        ("convolutions", convolutions, convolution_inputs()?),
    ])
}

fn step(loss: Loss, x: &[TrackedTensor]) -> Result<Graph> {
    let metas: Vec<_> = x.iter().map(TrackedTensor::meta).collect();
    Graph::capture(value_and_grad(loss), &metas)
}

fn within(graph: &Graph, budget: usize) -> Result<Compiled> {
    graph.compile(Options { budget: Some(budget), ..Options::default() })
}

#[test]
fn every_net_runs_within_its_budgets_and_gives_the_same_bits() -> Result<()> {
    for (name, loss, x) in nets()? {
        let graph = step(loss, &x)?;
        let free = graph.compile(Options::default())?;
        let want = bits(&free.call(&refs(&x))?);
        let optimised = free.graph();
        let trades = optimised.recompute_trades(true)?;
        let (all, least) = (free.planned_bytes(), trades.last().map_or(0, |trade| trade.0));
        assert_eq!(trades[0], (all, 0.0), "{name}");
        assert!(trades.windows(2).all(|two| two[1].0 < two[0].0 && two[1].1 > 0.0), "{name}: {trades:?}");
        println!("{name}: {all} bytes, least {least}, extra work {:.2}", trades[trades.len() - 1].1);
        assert!(least * 3 < all * 2, "{name}: {least} of {all}");
        for quarter in 0..=4 {
            let budget = least + (all - least) * quarter / 4;
            let compiled = within(&graph, budget)?;
            assert!(compiled.planned_bytes() <= budget, "{name}: {} of {budget}", compiled.planned_bytes());
            assert_eq!(bits(&compiled.call(&refs(&x))?), want, "{name} within {budget}");
            let made = optimised.recompute_within(budget, true)?;
            assert_eq!(made.again > 0, quarter < 4, "{name}: {made:?}");
            assert_eq!(made.extra_work > 0.0, quarter < 4, "{name}: {made:?}");
            made.graph.check()?;
        }
        // One byte too few: the error names the budget that has just been met.
        let error = within(&graph, least - 1).expect_err("one byte too few");
        assert!(matches!(error, Error::Budget { least: said, .. } if said == least), "{name}: {error}");
    }
    Ok(())
}

/// The deep net with its halves checkpointed.
fn halves(x: &[TrackedTensor]) -> Result<TrackedTensor> {
    let middle = x.len() / 2;
    let run =
        |h: &TrackedTensor, w: &[TrackedTensor]| w.iter().try_fold(h.clone(), |h, w| h.matmul(w)?.tanh());
    let region = autograd_tape::RegionOptions::new;
    let h = autograd_tape::region(region(), || run(&x[0], &x[1..middle]))?;
    autograd_tape::region(region(), || run(&h, &x[middle..]))?.sqr()?.sum()
}

#[test]
fn a_graph_that_is_differentiated_afterwards_keeps_its_checkpoints() -> Result<()> {
    let x = deep_inputs()?;
    let metas: Vec<_> = x.iter().map(TrackedTensor::meta).collect();
    let all: Vec<usize> = (0..x.len()).collect();
    let differentiated = |f: Loss| -> Result<Compiled> {
        let graph = Graph::capture(|x| Ok(vec![f(x)?]), &metas)?;
        graph.value_and_gradient(&[0], &all)?.compile(Options::default())
    };
    let (kept, less) = (differentiated(deep)?, differentiated(halves)?);
    assert!(
        less.planned_bytes() < kept.planned_bytes(),
        "{} of {}",
        less.planned_bytes(),
        kept.planned_bytes()
    );
    assert_eq!(bits(&less.call(&refs(&x))?), bits(&kept.call(&refs(&x))?));
    // As many bytes as where the gradient is captured with the function, and ops.
    let together = step(halves, &x)?;
    assert_eq!(less.planned_bytes(), together.compile(Options::default())?.planned_bytes());
    assert_eq!(less.source().program().instructions.len(), together.program().instructions.len());
    // A compiled forward pass as an op in eager code has a backward pass with them.
    let forward = Graph::capture(|x| Ok(vec![halves(x)?]), &metas)?.compile(Options::default())?;
    let tape = GradientTape::new();
    let variables: Vec<TrackedTensor> = x.iter().map(|x| tape.variable(x)).collect();
    let y = forward.call(&refs(&variables))?.swap_remove(0);
    assert_eq!(bits(&tape.gradient(&y, &refs(&variables))?), bits(&kept.call(&refs(&x))?[1..]));
    Ok(())
}

#[test]
fn checkpointed_functions_are_captured_with_what_they_compute_again() -> Result<()> {
    // The other way to less memory: the function says what is computed again, and a pass that
    // shares equal ops would undo it.
    let x = deep_inputs()?;
    let metas: Vec<_> = x.iter().map(TrackedTensor::meta).collect();
    let plain = Graph::capture(value_and_grad(deep), &metas)?;
    let again = Graph::capture(value_and_grad(halves), &metas)?;
    assert!(again.program().instructions.len() > plain.program().instructions.len());
    assert_eq!(bits(&again.run(&refs(&x))?), bits(&plain.run(&refs(&x))?));
    let apart = Options { passes: Passes { common: false, ..Passes::ALL }, ..Options::default() };
    let (kept, less) = (plain.compile(apart)?, again.compile(apart)?);
    assert!(less.planned_bytes() < kept.planned_bytes());
    assert_eq!(bits(&less.call(&refs(&x))?), bits(&kept.call(&refs(&x))?));
    Ok(())
}

#[test]
fn a_budget_holds_for_the_compiled_backward_pass() -> Result<()> {
    let x = deep_inputs()?;
    let metas: Vec<_> = x.iter().map(TrackedTensor::meta).collect();
    let forward = Graph::capture(|x| Ok(vec![deep(x)?]), &metas)?;
    let gradients = |options: Options| -> Result<Vec<TrackedTensor>> {
        let f = forward.compile(options)?;
        let tape = GradientTape::new();
        let x: Vec<TrackedTensor> = x.iter().map(|x| tape.variable(x)).collect();
        let y = f.call(&refs(&x))?.swap_remove(0);
        tape.gradient(&y, &refs(&x))
    };
    let free = gradients(Options::default())?;
    let backward = step(deep, &x)?.compile(Options::default())?.planned_bytes();
    let options = Options { budget: Some(backward * 2 / 3), ..Options::default() };
    assert_eq!(bits(&gradients(options)?), bits(&free));
    let tight =
        Options { budget: Some(forward.compile(Options::default())?.planned_bytes()), ..Options::default() };
    let error = gradients(tight).expect_err("the backward pass needs more than the forward pass");
    assert!(matches!(error, Error::Budget { .. }), "{error}");
    Ok(())
}
