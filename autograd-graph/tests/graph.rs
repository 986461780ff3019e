//! Static graphs against eager mode: capture, gradients, passes, plans, machine code.

use autograd_core::{Error, Result, TrackedTensor};
use autograd_graph::{Constant, Engine, Graph, Options, Passes, compile, jit, jit_with, value_and_grad};
use autograd_ops::TensorAutograd;
use autograd_tape::GradientTape;
use autograd_transforms::{grad, jvp, vmap};

/// Fused ops keep what eager ops round to memory, and sum in f64: a few units in the last place of
/// the largest partial result.
const F32: f64 = 2e-5;
const F64: f64 = 1e-12;

fn draw(dims: &[usize], seed: u64) -> Result<TrackedTensor> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let n: usize = dims.iter().product();
    let numbers = (0..n).map(|_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        ((state >> 11) as f64 / (1u64 << 53) as f64 * 2.0 - 1.0) as f32
    });
    TrackedTensor::from_vec(numbers.collect(), dims)
}

fn flat(x: &TrackedTensor) -> Result<Vec<f64>> {
    x.to_dtype(autograd_core::DType::F64)?.to_flat::<f64>()
}

fn assert_close(a: &[TrackedTensor], b: &[TrackedTensor], tolerance: f64, what: &str) -> Result<()> {
    assert_eq!(a.len(), b.len(), "{what}");
    for (k, (a, b)) in a.iter().zip(b).enumerate() {
        assert_eq!((a.dims(), a.dtype()), (b.dims(), b.dtype()), "{what}: output {k}");
        let (a, b) = (flat(a)?, flat(b)?);
        let size = b.iter().filter(|x| x.is_finite()).fold(1.0f64, |m, x| m.max(x.abs()));
        for (i, (x, y)) in a.iter().zip(&b).enumerate() {
            let same = (x - y).abs() <= tolerance * size || x.is_nan() && y.is_nan() || x == y;
            assert!(same, "{what}: output {k}, element {i}: {x} and {y}");
        }
    }
    Ok(())
}

/// tanh(x·w + b)·sigmoid(x), summed: the chain of the benchmarks.
fn chain(x: &[TrackedTensor]) -> Result<TrackedTensor> {
    x[0].mul(&x[1])?.add(&x[2])?.tanh()?.mul(&x[0].sigmoid()?)?.sum()
}

/// A net of two layers.
fn mlp(x: &[TrackedTensor]) -> Result<TrackedTensor> {
    let h = x[0].matmul(&x[1])?.add(&x[2])?.relu()?;
    h.matmul(&x[3])?.add(&x[4])?.sqr()?.mean()
}

fn mlp_inputs() -> Result<Vec<TrackedTensor>> {
    [&[8, 12][..], &[12, 16], &[16], &[16, 4], &[4]]
        .iter()
        .zip(1..)
        .map(|(dims, seed)| draw(dims, seed))
        .collect()
}

fn refs(x: &[TrackedTensor]) -> Vec<&TrackedTensor> {
    x.iter().collect()
}

fn metas(x: &[TrackedTensor]) -> Vec<autograd_core::Meta> {
    x.iter().map(TrackedTensor::meta).collect()
}

#[test]
fn the_whole_chain_is_one_step() -> Result<()> {
    for bias in [&[64, 256][..], &[256]] {
        let x = vec![draw(&[64, 256], 1)?, draw(bias, 2)?, draw(bias, 3)?];
        let f = value_and_grad(chain);
        let want = f(&x)?;
        for engine in [Engine::Tiles, Engine::Best] {
            let compiled =
                Graph::capture(&f, &metas(&x))?.compile(Options { engine, ..Options::default() })?;
            let explanation = compiled.explain();
            assert_eq!(explanation.steps.len(), 1, "{explanation}");
            assert_close(&compiled.call(&refs(&x))?, &want, F32, "chain")?;
        }
    }
    Ok(())
}

#[test]
fn machine_code_gives_what_tiles_give() -> Result<()> {
    // 37 columns: what is left over of a vector goes another way.
    let x = vec![draw(&[9, 37], 1)?, draw(&[37], 2)?, draw(&[9, 1], 3)?];
    let f = |x: &[TrackedTensor]| -> Result<Vec<TrackedTensor>> {
        let u = x[0].mul(&x[1])?.add(&x[2])?;
        let parts = [
            u.tanh()?,
            u.exp()?,
            u.sqr()?.add(0.1)?.log()?,
            u.sigmoid()?,
            u.gelu()?,
            u.gelu_erf()?,
            u.abs()?,
            u.silu()?,
            u.softplus()?,
            u.mish()?,
            u.floor()?,
            u.sign()?,
            u.relu()?,
            u.maximum(&x[1])?,
            u.recip()?,
        ];
        let mut sum = parts[0].clone();
        for part in &parts[1..] {
            sum = sum.mul(0.7)?.add(part)?;
        }
        Ok(vec![sum.clone(), u.gt(0.2)?.where_cond(&sum, &u)?, sum.sum_dim(0)?, sum.mean_dim(1)?, u.le(0.0)?])
    };
    let run = |engine| -> Result<Vec<TrackedTensor>> {
        jit_with(f, Options { engine, ..Options::default() }).call(&refs(&x))
    };
    let (tiles, code) = (run(Engine::Tiles)?, run(Engine::Best)?);
    assert_close(&tiles, &f(&x)?, F32, "tiles and eager")?;
    for (a, b) in tiles.iter().zip(&code) {
        assert_eq!(flat(a)?, flat(b)?, "machine code and tiles");
    }
    Ok(())
}

#[test]
fn graphs_run_like_the_function_to_the_bit() -> Result<()> {
    let x = mlp_inputs()?;
    let f = value_and_grad(mlp);
    let graph = Graph::capture(&f, &metas(&x))?;
    graph.check()?;
    for (a, b) in graph.run(&refs(&x))?.iter().zip(&f(&x)?) {
        assert_eq!(flat(a)?, flat(b)?);
    }
    Ok(())
}

#[test]
fn transforms_are_captured() -> Result<()> {
    let x = vec![draw(&[5, 3], 1)?, draw(&[5, 3], 2)?];
    type Function = fn(&[TrackedTensor]) -> Result<Vec<TrackedTensor>>;
    fn f(x: &TrackedTensor) -> Result<TrackedTensor> {
        x.pow(3)?.tanh()?.sum()
    }
    let functions: [(&str, Function); 3] = [
        ("jvp", |x| Ok(vec![jvp(|x: &TrackedTensor| f(x), &x[0], &x[1])?.1])),
        ("hessian product", |x| Ok(vec![jvp(|x: &TrackedTensor| grad(f, x), &x[0], &x[1])?.1])),
        ("vmap", |x| Ok(vec![vmap(|x: &TrackedTensor| grad(f, x), &x[0], 0)?])),
    ];
    for (name, g) in functions {
        let want = g(&x)?;
        let graph = Graph::capture(g, &metas(&x))?;
        assert_close(&graph.run(&refs(&x))?, &want, 0.0, name)?;
        assert_close(&graph.compile(Options::default())?.call(&refs(&x))?, &want, F32, name)?;
    }
    Ok(())
}

#[test]
fn graphs_are_differentiated_as_a_whole() -> Result<()> {
    let x = TrackedTensor::from_vec(vec![0.5f64, -1.0, 2.0], &[3])?;
    let graph = Graph::capture(|x| Ok(vec![x[0].pow(4)?.sum()?]), &[x.meta()])?;
    let first = graph.gradient(&[0], &[0])?;
    let second =
        Graph::capture(|x| Ok(vec![first.run(&[&x[0]])?[0].sum()?]), &[x.meta()])?.gradient(&[0], &[0])?;
    let numbers: Vec<f64> = x.to_vec1()?;
    let want: Vec<f64> = numbers.iter().map(|x| 12.0 * x * x).collect();
    let got = second.compile(Options::default())?.call(&[&x])?[0].to_vec1::<f64>()?;
    assert!(got.iter().zip(&want).all(|(a, b)| (a - b).abs() < F64), "{got:?} {want:?}");
    assert!(matches!(graph.gradient(&[1], &[0]), Err(Error::InvalidArgument { .. })));
    Ok(())
}

#[test]
fn closed_over_values_are_parameters_and_literals_are_not() -> Result<()> {
    let variable = candle_core::Var::new(&[1f32, 2.], &candle_core::Device::Cpu)?;
    let w = TrackedTensor::from_candle(variable.as_tensor())?;
    let x = TrackedTensor::from_vec(vec![3f32, 4.], &[2])?;
    let graph = Graph::capture(|x| Ok(vec![x[0].mul(&w)?.add(1.0)?]), &[x.meta()])?;
    let kinds: Vec<Constant> = (0..graph.program().constants.len()).map(|i| graph.constant(i)).collect();
    assert_eq!(graph.parameters().count(), 1, "{kinds:?}");
    let compiled = graph.compile(Options::default())?;
    assert_eq!(compiled.call(&[&x])?[0].to_vec1::<f32>()?, [4., 9.]);
    // What an optimiser does: the memory changes, the handle stays.
    variable.set(&candle_core::Tensor::new(&[10f32, 20.], &candle_core::Device::Cpu)?)?;
    assert_eq!(compiled.call(&[&x])?[0].to_vec1::<f32>()?, [31., 81.]);
    let (lifted, bound) = graph.lift_parameters();
    assert_eq!((lifted.inputs().len(), bound.len()), (2, 1));
    assert_eq!(lifted.run(&[&x, &x])?[0].to_vec1::<f32>()?, [10., 17.]);
    Ok(())
}

#[test]
fn what_is_computed_from_closed_over_values_alone_is_part_of_the_graph() -> Result<()> {
    let variable = candle_core::Var::new(&[1f32, 2.], &candle_core::Device::Cpu)?;
    let w = TrackedTensor::from_candle(variable.as_tensor())?;
    let v = TrackedTensor::from_vec(vec![5f32, 6.], &[2])?;
    let x = TrackedTensor::from_vec(vec![3f32, 4.], &[2])?;
    // Neither the square of w nor its sum with v reads the input; the mask reads nothing at all.
    let f = |x: &[TrackedTensor]| {
        let mask = TrackedTensor::from_vec(vec![1f32, 0.], &[2])?.add(1.0)?;
        let mut scale = w.sqr()?;
        scale.add_(&v)?;
        Ok(vec![x[0].mul(&scale)?.mul(&mask)?])
    };
    let step = jit(f);
    assert_eq!(step.call(&[&x])?[0].to_vec1::<f32>()?, [36., 40.]);
    variable.set(&candle_core::Tensor::new(&[10f32, 20.], &candle_core::Device::Cpu)?)?;
    assert_eq!(step.call(&[&x])?[0].to_vec1::<f32>()?, [630., 1624.]);

    // Both are listed, the mask is the function's own, and their gradients are those of inputs.
    let graph = Graph::capture(f, &[x.meta()])?;
    let shapes: Vec<&[usize]> = graph.parameters().map(TrackedTensor::dims).collect();
    assert_eq!(shapes, [[2], [2]], "{graph}");
    let constants = 0..graph.program().constants.len();
    assert_eq!(constants.filter(|&i| graph.constant(i) == Constant::Known).count(), 1, "{graph}");
    let (lifted, bound) = graph.lift_parameters();
    let sum =
        Graph::capture(|x| Ok(vec![lifted.run(&x.iter().collect::<Vec<_>>())?[0].sum()?]), lifted.inputs())?;
    let gradients = sum.gradient(&[0], &[1, 2])?.run(&[&x, &bound[0], &bound[1]])?;
    assert_eq!(gradients[0].to_vec1::<f32>()?, [120., 160.]);
    assert_eq!(gradients[1].to_vec1::<f32>()?, [6., 4.]);
    Ok(())
}

#[test]
fn values_that_an_outer_tape_watches_are_closed_over_too() -> Result<()> {
    let tape = GradientTape::new();
    let w = tape.variable(TrackedTensor::from_vec(vec![1f64, 2.], &[2])?);
    let x = TrackedTensor::from_vec(vec![3f64, 4.], &[2])?;
    // The tape records nothing meanwhile, and the graph reads w itself.
    let before = tape.len();
    let f = |x: &[TrackedTensor]| {
        let mut scale = w.exp()?;
        scale.mul_(&w)?;
        Ok(vec![x[0].mul(&scale)?.sum()?])
    };
    let graph = Graph::capture(f, &[x.meta()])?;
    assert_eq!((tape.len(), graph.parameters().count()), (before, 1), "{graph}");
    let y = graph.run(&[&x])?.remove(0);
    let (got, want) =
        (tape.derivative(&y, &w)?.to_vec1::<f64>()?, [3.0 * 2.0 * 1f64.exp(), 4.0 * 3.0 * 2f64.exp()]);
    assert!(got.iter().zip(&want).all(|(a, b)| (a - b).abs() < F64), "{got:?} {want:?}");
    assert!(matches!(graph.compile(Options::default()), Err(Error::UnsupportedMode { .. })));
    Ok(())
}

#[test]
fn a_function_is_captured_again_where_its_state_has_changed() -> Result<()> {
    let factor = std::cell::Cell::new(2.0);
    let f = jit(|x| Ok(vec![x[0].mul(factor.get())?]));
    let x = TrackedTensor::from_vec(vec![3f32], &[1])?;
    assert_eq!(f.call(&[&x])?[0].to_vec1::<f32>()?, [6.]);
    factor.set(10.0);
    assert_eq!(f.call(&[&x])?[0].to_vec1::<f32>()?, [6.]);
    f.forget();
    assert_eq!(f.call(&[&x])?[0].to_vec1::<f32>()?, [30.]);
    Ok(())
}

#[test]
fn a_compiled_function_within_a_captured_one_closes_over_for_it() -> Result<()> {
    let variable = candle_core::Var::new(&[1f32, 2.], &candle_core::Device::Cpu)?;
    let w = TrackedTensor::from_candle(variable.as_tensor())?;
    let x = TrackedTensor::from_vec(vec![3f32, 4.], &[2])?;
    let inner = jit(|x| Ok(vec![x[0].mul(&w)?]));
    let outer = jit(|x| Ok(vec![inner.call(&[&w])?[0].add(&inner.call(&[&x[0]])?[0])?]));
    assert_eq!(outer.call(&[&x])?[0].to_vec1::<f32>()?, [4., 12.]);
    variable.set(&candle_core::Tensor::new(&[2f32, 3.], &candle_core::Device::Cpu)?)?;
    assert_eq!(outer.call(&[&x])?[0].to_vec1::<f32>()?, [10., 21.]);
    // Writing over memory is no step of a captured function.
    let into = compile(
        |x| {
            let mut out = vec![w.exp()?];
            inner.run_into(&[&w], &mut out)?;
            Ok(vec![x[0].add(&out[0])?])
        },
        &[x.meta()],
    );
    assert!(matches!(into, Err(Error::UnsupportedMode { .. })));
    Ok(())
}

#[test]
fn gradients_read_closed_over_values_when_they_run() -> Result<()> {
    let variable = candle_core::Var::new(&[1f32, 2.], &candle_core::Device::Cpu)?;
    let w = TrackedTensor::from_candle(variable.as_tensor())?;
    let x = TrackedTensor::from_vec(vec![3f32, 4.], &[2])?;
    // The gradient is 1·w: nothing of it depends on the input.
    let f = value_and_grad(move |x: &[TrackedTensor]| x[0].mul(&w)?.sum());
    let compiled = compile(f, &[x.meta()])?;
    assert_eq!(compiled.call(&[&x])?[1].to_vec1::<f32>()?, [1., 2.]);
    variable.set(&candle_core::Tensor::new(&[10f32, 20.], &candle_core::Device::Cpu)?)?;
    assert_eq!(compiled.call(&[&x])?[1].to_vec1::<f32>()?, [10., 20.]);
    Ok(())
}

#[test]
fn explain_counts_what_a_step_reads_and_writes() -> Result<()> {
    let x = vec![draw(&[64, 256], 1)?, draw(&[256], 2)?, draw(&[256], 3)?];
    let compiled = Graph::capture(value_and_grad(chain), &metas(&x))?.compile(Options::default())?;
    let explanation = compiled.explain();
    // One step: it reads each input once and writes the loss and each gradient once.
    let each: usize = x.iter().map(|x| x.meta().bytes()).sum();
    assert_eq!(explanation.bytes_moved, (2 * each + 4) as u64, "{explanation}");
    assert_eq!(explanation.planned_bytes, compiled.executor().bytes(), "{explanation}");
    // A matrix product takes 2·m·k·n operations.
    let (a, b) = (draw(&[8, 12], 1)?, draw(&[12, 16], 2)?);
    let product = compile(|x| Ok(vec![x[0].matmul(&x[1])?]), &[a.meta(), b.meta()])?.explain();
    assert_eq!(product.operations, 2 * 8 * 12 * 16, "{product}");
    Ok(())
}

#[test]
fn reading_a_number_while_capturing_names_the_line() -> Result<()> {
    let x = draw(&[2], 1)?;
    let line = line!() + 1;
    let f = |x: &[TrackedTensor]| Ok(vec![x[0].mul(f64::from(x[0].sum()?.to_scalar::<f32>()?))?]);
    let error = compile(f, &[x.meta()]).expect_err("it reads a number");
    assert!(matches!(error, Error::ReadWhileCapturing { .. }));
    assert_eq!(error.site().map(|s| (s.file(), s.line())), Some((file!(), line)));
    Ok(())
}

#[test]
fn compiled_graphs_are_differentiable_ops() -> Result<()> {
    let x = mlp_inputs()?;
    let step = jit(|x| Ok(vec![mlp(x)?]));
    let tape = GradientTape::new();
    let variables: Vec<TrackedTensor> = x.iter().map(|x| tape.variable(x)).collect();
    let y = step.call(&refs(&variables))?.remove(0).mul(3.0)?;
    let got = tape.gradient(&y, &refs(&variables))?;
    let want: Vec<TrackedTensor> =
        value_and_grad(mlp)(&x)?[1..].iter().map(|g| g.mul(3.0)).collect::<Result<_>>()?;
    assert_close(&got, &want, F32, "gradient through a compiled graph")?;

    // Forward mode, a batch and second order go through too.
    let f = jit(|x| Ok(vec![x[0].pow(3)?]));
    let v = draw(&[4], 9)?;
    let ones = v.mul(0.0)?.add(1.0)?;
    let (_, dy) = jvp(|x: &TrackedTensor| Ok(f.call(&[x])?.remove(0)), &v, &ones)?;
    assert_close(&[dy], &[v.sqr()?.mul(3.0)?], F32, "forward mode")?;
    let batch = draw(&[3, 4], 10)?;
    let mapped = vmap(|x: &TrackedTensor| Ok(f.call(&[x])?.remove(0)), &batch, 0)?;
    assert_close(&[mapped], &[batch.pow(3)?], F32, "batch")?;
    let tape = GradientTape::new().persistent();
    let x = tape.variable(&v);
    let y = f.call(&[&x])?[0].sum()?;
    let dy = tape.derivative(&y, &x)?.sum()?;
    assert_close(&[tape.derivative(&dy, &x)?], &[v.mul(6.0)?], F32, "second order")
}

#[test]
fn a_function_compiles_once_for_each_set_of_shapes() -> Result<()> {
    let f = jit(|x| Ok(vec![x[0].exp()?.sum_dim(0)?]));
    for dims in [&[2, 3][..], &[4, 3], &[2, 3], &[4, 3]] {
        let x = draw(dims, 5)?;
        assert_close(&f.call(&[&x])?, &[x.exp()?.sum_dim(0)?], F32, "shapes")?;
    }
    assert_eq!(f.compilations(), 2);
    Ok(())
}

#[test]
fn outputs_are_written_into_the_callers_memory() -> Result<()> {
    let x = mlp_inputs()?;
    let f = value_and_grad(mlp);
    let compiled = Graph::capture(&f, &metas(&x))?.compile(Options::default())?;
    let want = f(&x)?;
    let mut outputs = compiled.call(&refs(&x))?;
    let before: Vec<_> = outputs
        .iter_mut()
        .map(|y| y.unique_slice().map(|s| format!("{:p}", s.as_slice().f32s().unwrap_or(&[]).as_ptr())))
        .collect();
    compiled.run_into(&refs(&x), &mut outputs)?;
    let after: Vec<_> = outputs
        .iter_mut()
        .map(|y| y.unique_slice().map(|s| format!("{:p}", s.as_slice().f32s().unwrap_or(&[]).as_ptr())))
        .collect();
    assert_eq!(before, after);
    assert_close(&outputs, &want, F32, "run_into")?;
    // A transposed input is read right, and an output that is an input is a copy.
    let t = draw(&[3, 5], 1)?;
    let g = compile(|x| Ok(vec![x[0].clone(), x[0].t()?, x[0].exp()?.t()?]), &[t.t()?.meta()])?;
    let view = t.t()?;
    assert_close(&g.call(&[&view])?, &[view.clone(), t.clone(), t.exp()?], F32, "views")
}

#[test]
fn wrong_inputs_are_errors() -> Result<()> {
    let compiled = compile(|x| Ok(vec![x[0].exp()?]), &[draw(&[3], 1)?.meta()])?;
    let (short, long) = (draw(&[2], 1)?, draw(&[3], 1)?);
    assert!(matches!(compiled.call(&[&short]), Err(Error::InvalidArgument { .. })));
    assert!(matches!(compiled.call(&[&long, &long]), Err(Error::InvalidArgument { .. })));
    let tape = GradientTape::new();
    let watched = tape.variable(&long);
    assert!(compiled.executor().run(&[&watched]).is_err());
    let closed = Graph::capture(|x| Ok(vec![x[0].mul(&watched)?]), &[long.meta()])?;
    assert!(matches!(closed.compile(Options::default()), Err(Error::UnsupportedMode { .. })));
    Ok(())
}

#[test]
fn every_pass_alone_keeps_the_results() -> Result<()> {
    let x = mlp_inputs()?;
    let f = value_and_grad(mlp);
    let graph = Graph::capture(&f, &metas(&x))?;
    let want = f(&x)?;
    let one = |set: fn(&mut Passes)| {
        let mut passes = Passes::NONE;
        set(&mut passes);
        passes
    };
    let list = [
        Passes::NONE,
        one(|p| p.fold = true),
        one(|p| p.simplify = true),
        one(|p| p.sink = true),
        one(|p| p.linear = true),
        one(|p| p.join = true),
        one(|p| p.common = true),
        one(|p| p.dead = true),
        one(|p| p.rematerialise = true),
        one(|p| p.min_cut = true),
        one(|p| p.fuse = true),
        one(|p| (p.fuse, p.block) = (true, true)),
        one(|p| (p.fuse, p.epilogue) = (true, true)),
        one(|p| p.schedule = true),
        one(|p| (p.fuse, p.in_place) = (true, true)),
        Passes::ALL,
    ];
    for passes in list {
        let optimised = graph.optimise(&passes)?;
        assert_close(&optimised.run(&refs(&x))?, &want, F32, &format!("{passes:?}"))?;
        let compiled = graph.compile(Options { passes, ..Options::default() })?;
        assert_close(&compiled.call(&refs(&x))?, &want, F32, &format!("{passes:?}, compiled"))?;
        assert_eq!(compiled.planned_bytes().next_multiple_of(64), compiled.executor().bytes());
    }
    Ok(())
}
