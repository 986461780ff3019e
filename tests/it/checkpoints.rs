//! Checkpoints from where a user stands: under every transform, in static graphs, around layers
//! that keep statistics.

use candle_autograd::checkpoint::checkpoint;
use candle_autograd::nn::ValueBuilder;
use candle_autograd::nn::layers::{ModuleT, batch_norm};
use candle_autograd::ops::random;
use candle_autograd::transforms::{
    grad, gradgradcheck, hessian, hessian_diagonal, hvp, jacfwd, jacrev, jet, jvp, laplacian, linearize, vhp,
    vmap,
};
use candle_autograd::{GradientTape, Result, TensorAutograd, TrackedTensor};
use candle_core::{DType, Device};

/// f64 through a few dozen roundings in another order.
pub(crate) const CLOSE: f64 = 1e-12;

fn draw(dims: &[usize], seed: u64) -> Result<TrackedTensor> {
    random::normal(&random::key(seed), dims, DType::F64)
}

fn run(f: impl FnOnce(&TrackedTensor) -> Result<TrackedTensor>, x: &TrackedTensor) -> Result<TrackedTensor> {
    Ok(checkpoint(|x| Ok(vec![f(&x[0])?]), &[x])?.swap_remove(0))
}

fn plain(x: &TrackedTensor) -> Result<TrackedTensor> {
    let w = draw(&[5, 5], 3)?;
    (x.reshape([1, 5])?.matmul(&w)?.tanh()? * x.exp()?)?.softmax(-1)?.matmul(&w)?.sqr()?.sum()
}

/// The same, in two checkpoints, one with another inside.
fn checkpointed(x: &TrackedTensor) -> Result<TrackedTensor> {
    let w = draw(&[5, 5], 3)?;
    let first = |x: &TrackedTensor| {
        let h = run(|x| x.reshape([1, 5])?.matmul(&w)?.tanh(), x)?;
        h * x.exp()?
    };
    run(|h| h.softmax(-1)?.matmul(&w)?.sqr()?.sum(), &run(first, x)?)
}

type Function = fn(&TrackedTensor) -> Result<TrackedTensor>;

#[test]
fn every_transform_gives_what_it_gives_without_checkpoints() -> Result<()> {
    let (x, v, rows) = (draw(&[5], 1)?, draw(&[5], 2)?, draw(&[3, 5], 4)?);
    type Way<'a> = (&'a str, Box<dyn Fn(Function) -> Result<TrackedTensor> + 'a>);
    let ways: [Way<'_>; 16] = [
        ("grad", Box::new(|f| grad(f, &x))),
        ("jvp", Box::new(|f| Ok(jvp(f, &x, &v)?.1))),
        ("linearize", Box::new(|f| linearize(f, &x)?.1.apply(&v))),
        ("jacfwd", Box::new(|f| jacfwd(f, &x))),
        ("jacrev", Box::new(|f| jacrev(f, &x))),
        ("hvp: forward over reverse", Box::new(|f| hvp(f, &x, &v))),
        ("vhp: reverse over reverse", Box::new(|f| vhp(f, &x, &v))),
        ("grad of jvp: reverse over forward", Box::new(|f| grad(|x| Ok(jvp(f, x, &v)?.1), &x))),
        ("jvp of jvp", Box::new(|f| Ok(jvp(|x| Ok(jvp(f, x, &v)?.1), &x, &v)?.1))),
        ("hessian", Box::new(|f| hessian(f, &x))),
        ("hessian by jacrev of grad", Box::new(|f| jacrev(|x| grad(f, x), &x))),
        ("hessian_diagonal", Box::new(|f| hessian_diagonal(f, &x))),
        ("laplacian", Box::new(|f| Ok(laplacian(f, &x)?.laplacian))),
        ("third order: grad of a sum of hvp", Box::new(|f| grad(|x| hvp(f, x, &v)?.sum(), &x))),
        ("vmap of grad", Box::new(|f| vmap(|x| grad(f, x), &rows, 0))),
        ("grad of vmap", Box::new(|f| grad(|rows| vmap(f, rows, 0)?.sum(), &rows))),
    ];
    for (name, way) in ways {
        let (found, want) = (way(checkpointed)?, way(plain)?);
        assert_eq!(found.dims(), want.dims(), "{name}");
        for (a, b) in found.to_flat::<f64>()?.iter().zip(want.to_flat::<f64>()?) {
            assert!((a - b).abs() <= CLOSE * b.abs().max(1.0), "{name}: {a} for {b}");
        }
    }
    gradgradcheck(checkpointed, &x)?.require()
}

#[test]
fn running_statistics_move_once() -> Result<()> {
    let init = ValueBuilder::seeded(1, DType::F32, &Device::Cpu);
    batch_norm(4, 1e-5, init.pp("bn"))?;
    let x = random::normal(&random::key(5), &[6, 4, 3], DType::F32)?;
    let key = random::key(6);
    // Two steps: statistics, loss and gradients of each, with a checkpoint and without.
    let train = |again: bool| -> Result<Vec<Vec<u32>>> {
        let init = ValueBuilder::seeded(1, DType::F32, &Device::Cpu);
        batch_norm(4, 1e-5, init.pp("bn"))?;
        let parameters = init.parameters();
        let mut seen = Vec::new();
        let mut forwards = 0;
        for step in 0..2 {
            let tape = GradientTape::new();
            let watched = parameters.watch(&tape)?;
            let layer = batch_norm(4, 1e-5, ValueBuilder::from(&watched).pp("bn"))?;
            let v = tape.variable(&x);
            let key = random::fold_in(&key, step)?;
            let mut body = |x: &TrackedTensor| -> Result<TrackedTensor> {
                forwards += 1;
                layer.forward_t(&x.tanh()?, true)?.gelu()?.dropout(&key, 0.3)
            };
            let y = if again { run(body, &v)? } else { body(&v)? };
            let loss = y.sqr()?.sum()?;
            let mut sources: Vec<&TrackedTensor> = vec![&v];
            sources.extend(watched.values());
            for made in std::iter::once(loss.clone()).chain(tape.gradient(&loss, &sources)?) {
                seen.push(made.to_flat::<f32>()?.into_iter().map(f32::to_bits).collect());
            }
            for name in ["bn.running_mean", "bn.running_var"] {
                let now = parameters.var(name)?.to_vec1::<f32>()?;
                seen.push(now.into_iter().map(f32::to_bits).collect());
            }
        }
        assert_eq!(forwards, 2, "the closure runs once a step");
        Ok(seen)
    };
    let (with, without) = (train(true)?, train(false)?);
    assert_eq!(with, without);
    assert_ne!(without[without.len() - 2], without[without.len() / 2 - 2], "the statistics move");
    Ok(())
}

/// Taylor mode decomposes: a checkpoint is no obstacle to it either.
#[test]
fn taylor_mode_goes_through_checkpoints() -> Result<()> {
    let (x, v) = (TrackedTensor::scalar(0.4), TrackedTensor::scalar(1.0));
    let f = |x: &TrackedTensor| run(|x| run(TensorAutograd::sin, x)?.exp(), x);
    let (_, with) = jet(f, &x, std::slice::from_ref(&v))?;
    let (_, without) = jet(|x: &TrackedTensor| x.sin()?.exp(), &x, &[v])?;
    for (a, b) in with.iter().zip(&without) {
        assert_eq!(a.to_scalar::<f64>()?, b.to_scalar::<f64>()?);
    }
    Ok(())
}

#[cfg(feature = "graph")]
#[test]
fn a_static_graph_holds_checkpointed_functions() -> Result<()> {
    use candle_autograd::graph::{Options, Passes, jit_with, value_and_grad};
    // What the plans save is in `checkpointed_graphs`.
    for passes in [Passes::ALL, Passes { common: false, ..Passes::ALL }, Passes::NONE] {
        let options = Options { passes, ..Options::default() };
        let step = jit_with(value_and_grad(|x| checkpointed(&x[0])), options);
        let second = jit_with(|x: &[TrackedTensor]| Ok(vec![hessian(checkpointed, &x[0])?]), options);
        for seed in [1, 7] {
            let x = draw(&[5], seed)?;
            let close = |found: &TrackedTensor, want: &TrackedTensor| -> Result<()> {
                for (a, b) in found.to_flat::<f64>()?.iter().zip(want.to_flat::<f64>()?) {
                    assert!((a - b).abs() <= CLOSE * b.abs().max(1.0), "{passes:?}: {a} for {b}");
                }
                Ok(())
            };
            let out = step.call(&[&x])?;
            close(&out[0], &plain(&x)?)?;
            close(&out[1], &grad(plain, &x)?)?;
            close(&second.call(&[&x])?[0], &hessian(plain, &x)?)?;
        }
    }
    Ok(())
}
