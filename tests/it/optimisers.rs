//! Optimiser steps as functions of trees: equal to candle-nn's, and one pass a parameter in a graph.

use candle_autograd::graph::{Jit, jit};
use candle_autograd::nn::optimisers::{AdamW, Moments, Sgd};
use candle_autograd::transforms::value_and_grad;
use candle_autograd::{Error, Result, TensorAutograd, TrackedTensor, Tree, tree};
use candle_core::{Device, Tensor, Var};
use candle_nn::{Optimizer, ParamsAdamW};

/// Both round each op to f32, in another order.
const F32: f32 = 2e-6;

struct Model {
    weight: TrackedTensor,
    bias: TrackedTensor,
}
tree!(Model { weight, bias });

fn numbers(n: usize, seed: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 37 + seed * 11) % 23) as f32 / 11.0 - 1.0).collect()
}

fn value(dims: &[usize], seed: usize) -> Result<TrackedTensor> {
    TrackedTensor::from_vec(numbers(dims.iter().product(), seed), dims)
}

fn model() -> Result<Model> {
    Ok(Model { weight: value(&[5, 3], 1)?, bias: value(&[3], 2)? })
}

fn loss(model: &Model, x: &TrackedTensor, y: &TrackedTensor) -> Result<TrackedTensor> {
    x.matmul(&model.weight)?.add(&model.bias)?.tanh()?.sub(y)?.sqr()?.mean()
}

fn batch(step: usize) -> Result<(TrackedTensor, TrackedTensor)> {
    Ok((value(&[4, 5], 3 + step)?, value(&[4, 3], 50 + step)?))
}

fn assert_close(a: &TrackedTensor, b: &[f32]) -> Result<()> {
    let a = a.to_flat::<f32>()?;
    assert_eq!(a.len(), b.len());
    assert!(a.iter().zip(b).all(|(a, b)| (a - b).abs() <= F32 * b.abs().max(1.0)), "{a:?} {b:?}");
    Ok(())
}

/// Steps by candle-nn's optimiser on the gradients of ours.
fn by_candle(mut optimiser: impl Optimizer, vars: &[Var], rates: &[f64]) -> Result<()> {
    for (step, rate) in rates.iter().enumerate() {
        let (x, y) = batch(step)?;
        let model = Model { weight: vars[0].as_tensor().into(), bias: vars[1].as_tensor().into() };
        let (_, gradient) = value_and_grad(|model: &Model| loss(model, &x, &y), &model)?;
        drop(model);
        // A store comes from candle's own backward pass alone.
        let sum = (vars[0].sum_all()? + vars[1].sum_all()?)?;
        let mut store = sum.backward()?;
        for (var, gradient) in vars.iter().zip(gradient.leaves()) {
            store.insert(var, gradient.tensor()?);
        }
        optimiser.set_learning_rate(*rate);
        optimiser.step(&store)?;
    }
    Ok(())
}

const RATES: [f64; 6] = [0.1, 0.08, 0.05, 0.05, 0.02, 0.01];

fn vars() -> Result<Vec<Var>> {
    let var = |data: Vec<f32>, dims: &[usize]| Var::from_tensor(&Tensor::from_vec(data, dims, &Device::Cpu)?);
    Ok(vec![var(numbers(15, 1), &[5, 3])?, var(numbers(3, 2), &[3])?])
}

#[test]
fn adamw_steps_like_candle_nns() -> Result<()> {
    let vars = vars()?;
    by_candle(candle_nn::AdamW::new(vars.clone(), ParamsAdamW::default())?, &vars, &RATES)?;
    let adamw = AdamW::default();
    let mut model = model()?;
    let mut state = adamw.start(&model)?;
    for (step, rate) in RATES.into_iter().enumerate() {
        let (x, y) = batch(step)?;
        let (_, gradient): (_, Model) = value_and_grad(|model: &Model| loss(model, &x, &y), &model)?;
        (model, state) = adamw.step(rate, &model, &gradient, &state)?;
    }
    assert_close(&model.weight, &vars[0].flatten_all()?.to_vec1()?)?;
    assert_close(&model.bias, &vars[1].to_vec1()?)?;
    assert_eq!(state.steps.to_scalar::<f64>()?, 6.0);
    Ok(())
}

#[test]
fn sgd_steps_like_candle_nns_and_carries_momentum() -> Result<()> {
    let vars = vars()?;
    by_candle(candle_nn::SGD::new(vars.clone(), 0.0)?, &vars, &RATES)?;
    let sgd = Sgd::default();
    let mut model = model()?;
    let mut velocity = sgd.start(&model)?;
    for (step, rate) in RATES.into_iter().enumerate() {
        let (x, y) = batch(step)?;
        let (_, gradient): (_, Model) = value_and_grad(|model: &Model| loss(model, &x, &y), &model)?;
        (model, velocity) = sgd.step(rate, &model, &gradient, &velocity)?;
    }
    assert_close(&model.weight, &vars[0].flatten_all()?.to_vec1()?)?;

    let sgd = Sgd { momentum: 0.5, weight_decay: 0.1 };
    let one = TrackedTensor::from_vec(vec![1f32], &[1])?;
    let (p, v) = sgd.step(1.0, &one, &one, &sgd.start(&one)?)?;
    assert_close(&p, &[1.0 - 1.1])?;
    let (p, v) = sgd.step(1.0, &p, &one, &v)?;
    assert_close(&v, &[0.5 * 1.1 + 1.0 - 0.01])?;
    assert_close(&p, &[-0.1 - (0.55 + 0.99)])?;
    let wrong = sgd.step(1.0, &one, &vec![one.clone()], &one);
    assert!(matches!(wrong, Err(Error::TreeMismatch { .. })));
    let other = TrackedTensor::from_vec(vec![1f32, 2.], &[2])?;
    assert!(matches!(sgd.step(1.0, &one, &other, &one), Err(Error::Shape { .. })));
    Ok(())
}

/// Rate, batch, parameters and state in; loss, parameters and state out.
fn train_step(x: &[TrackedTensor]) -> Result<Vec<TrackedTensor>> {
    let [rate, input, target, weight, bias, m_weight, m_bias, v_weight, v_bias, steps] = x else {
        return Err(Error::msg("ten inputs"));
    };
    let model = Model { weight: weight.clone(), bias: bias.clone() };
    let state = Moments {
        first: Model { weight: m_weight.clone(), bias: m_bias.clone() },
        second: Model { weight: v_weight.clone(), bias: v_bias.clone() },
        steps: steps.clone(),
    };
    let (loss, gradient): (_, Model) = value_and_grad(|model: &Model| loss(model, input, target), &model)?;
    let (model, state) = AdamW::default().step(rate, &model, &gradient, &state)?;
    let all = std::iter::once(&loss).chain(model.leaves()).chain(state.leaves());
    Ok(all.cloned().collect())
}

type Step = fn(&[TrackedTensor]) -> Result<Vec<TrackedTensor>>;

#[test]
fn a_training_step_is_one_graph_with_one_pass_for_each_parameter() -> Result<()> {
    let compiled: Jit<Step> = jit(train_step);
    let model = model()?;
    let state = AdamW::default().start(&model)?;
    let mut now: Vec<TrackedTensor> = model.leaves().into_iter().chain(state.leaves()).cloned().collect();
    let mut eager = now.clone();
    drop((model, state));
    // The memory that the next parameters and state are written to; then the two change places.
    let mut next: Vec<TrackedTensor> =
        now.iter().map(|x| x.mul(1.0)?.add(0.0)).collect::<Result<Vec<_>>>()?;
    let mut outputs = vec![TrackedTensor::from_vec(vec![0f32], &[])?];
    outputs.append(&mut next);
    let address = |x: &mut TrackedTensor| {
        let slice = x.unique_slice()?;
        let slice = slice.as_slice();
        let singles = slice.f32s().map(|all| all.as_ptr().addr());
        singles.or_else(|| slice.f64s().map(|all| all.as_ptr().addr()))
    };
    let places: Vec<_> = outputs.iter_mut().map(address).collect();
    for (step, rate) in RATES.into_iter().enumerate() {
        let (x, y) = batch(step)?;
        let rate = TrackedTensor::from_vec(vec![rate as f32], &[])?;
        let inputs: Vec<&TrackedTensor> = [&rate, &x, &y].into_iter().chain(&now).collect();
        if step == 0 {
            let explanation = compiled.explain(&inputs)?;
            let updates: Vec<_> =
                explanation.steps.iter().filter(|step| step.parts.contains(&"adamw_step")).collect();
            assert_eq!(updates.len(), 2, "{explanation}");
        }
        compiled.run_into(&inputs, &mut outputs)?;
        let given: Vec<TrackedTensor> = [&rate, &x, &y].into_iter().chain(&eager).cloned().collect();
        eager = train_step(&given)?.split_off(1);
        drop(inputs);
        std::mem::swap(&mut outputs[1], &mut now[0]);
        for i in 1..now.len() {
            std::mem::swap(&mut outputs[i + 1], &mut now[i]);
        }
        for (a, b) in now.iter().zip(&eager) {
            let (a, b) = (a.to_dtype(candle_core::DType::F32)?, b.to_dtype(candle_core::DType::F32)?);
            assert_close(&a, &b.to_flat::<f32>()?)?;
        }
    }
    // After an even number of steps each buffer is back where it was: nothing was allocated for them.
    let after: Vec<_> = outputs.iter_mut().map(address).collect();
    assert_eq!(after, places);
    assert_eq!(compiled.compilations(), 1, "the rate is a value");
    Ok(())
}
