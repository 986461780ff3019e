//! Products and convolutions with what follows them as one op: the numbers are those of the two ops one
//! after the other, to the bit, for all ways of multiplying, layouts, types, engines and numbers of
//! threads.

use autograd_core::kernels::threads::set_threads;
use autograd_core::testing::elsewhere;
use autograd_core::{DType, Error, Result, TrackedTensor};
use autograd_graph::{Compiled, Engine, Graph, Options, Passes, StoredGraph, value_and_grad};
use autograd_ops::conv::{conv_transpose2d, conv2d};
use autograd_ops::{TensorAutograd, random};
use autograd_tape::GradientTape;

type Values = Vec<TrackedTensor>;
type Step = Box<dyn Fn(&[TrackedTensor]) -> Result<Values>>;
type Follow = fn(&TrackedTensor, &[TrackedTensor]) -> Result<Values>;

const APART: Passes = Passes { epilogue: false, ..Passes::ALL };

fn draw(dims: &[usize], seed: u64, dtype: DType) -> Result<TrackedTensor> {
    random::normal(&random::key(seed), dims, dtype)?.mul(0.5)
}

fn bits(x: &TrackedTensor) -> Result<Vec<u64>> {
    Ok(x.to_dtype(DType::F64)?.to_flat::<f64>()?.iter().map(|x| x.to_bits()).collect())
}

fn assert_same(what: &str, a: &[TrackedTensor], b: &[TrackedTensor]) -> Result<()> {
    assert_eq!(a.len(), b.len(), "{what}");
    for (k, (a, b)) in a.iter().zip(b).enumerate() {
        assert_eq!((a.dims(), a.dtype()), (b.dims(), b.dtype()), "{what}: output {k}");
        let apart = bits(a)?.iter().zip(bits(b)?).filter(|(a, b)| **a != *b).count();
        assert_eq!(apart, 0, "{what}: output {k}: of {} numbers, so many differ", a.elem_count());
    }
    Ok(())
}

fn compile(step: &Step, inputs: &[TrackedTensor], engine: Engine, passes: Passes) -> Result<Compiled> {
    let metas: Vec<_> = inputs.iter().map(TrackedTensor::meta).collect();
    Graph::capture(step, &metas)?.compile(Options { engine, passes, ..Options::default() })
}

fn epilogues(compiled: &Compiled) -> usize {
    let instructions = &compiled.graph().program().instructions;
    instructions.iter().filter(|instruction| instruction.op.name() == "epilogue").count()
}

/// Runs a step with and without epilogues, of which it has so many.
fn check(what: &str, inputs: &[TrackedTensor], step: &Step, count: usize) -> Result<()> {
    let refs: Vec<&TrackedTensor> = inputs.iter().collect();
    for engine in [Engine::Tiles, Engine::Best] {
        let apart = compile(step, inputs, engine, APART)?;
        let want = apart.call(&refs)?;
        for threads in [1, 2, 3] {
            set_threads(threads);
            let joined = compile(step, inputs, engine, Passes::ALL)?;
            joined.graph().check()?;
            assert_eq!(epilogues(&joined), count, "{what}: {}", joined.graph());
            assert_same(what, &joined.call(&refs)?, &want)?;
        }
        // More threads than the plan has working memory for.
        set_threads(1);
        let joined = compile(step, inputs, engine, Passes::ALL)?;
        set_threads(3);
        assert_same(what, &joined.call(&refs)?, &want)?;
        set_threads(0);
        let (joined, apart) = (joined.explain(), apart.explain());
        assert!(count == 0 || joined.bytes_moved < apart.bytes_moved, "{what}: {joined} {apart}");
    }
    Ok(())
}

/// What follows a product y, given a value of its shape, a row and a column of it, a number and a mask.
fn followers() -> Vec<(&'static str, Follow)> {
    vec![
        ("an activation", |y, _| Ok(vec![y.gelu()?])),
        ("a residual, a row, a column and a number", |y, x| {
            Ok(vec![y.add(&x[0])?.mul(&x[1])?.sub(&x[2])?.mul(&x[3])?.tanh()?])
        }),
        ("several outputs, one of them the product", |y, x| {
            let z = y.mul(&x[0])?.silu()?;
            Ok(vec![z.clone(), y.clone(), z.exp()?])
        }),
        ("a mask that is read and one that is made", |y, x| {
            Ok(vec![x[4].where_cond(y, &y.mul(0.1)?)?, y.gt(0.0)?])
        }),
        ("a rearranged operand", |y, x| Ok(vec![y.add(&x[5].t()?)?.relu()?])),
        ("another shape", |y, x| {
            let flat = y.elem_count();
            Ok(vec![y.reshape(flat)?.add(&x[0].reshape(flat)?)?.sin()?, y.clone()])
        }),
    ]
}

fn others(m: usize, n: usize, dtype: DType) -> Result<Values> {
    let mask = draw(&[m, n], 9, DType::F32)?.gt(0.0)?;
    let shapes = [vec![m, n], vec![n], vec![m, 1], vec![1]];
    let mut all: Values =
        shapes.iter().zip(2..).map(|(dims, seed)| draw(dims, seed, dtype)).collect::<Result<_>>()?;
    all.extend([mask, draw(&[n, m], 6, dtype)?]);
    Ok(all)
}

/// All ways of multiplying: packed blocks of one and several depths, thin, in place, a vector, an outer
/// product, and the small ones of a batch.
#[test]
fn products_of_all_shapes_give_the_numbers_of_two_ops() -> Result<()> {
    let shapes =
        [[150, 90, 131], [260, 600, 70], [9, 40, 1200], [12_000, 30, 1], [1, 30, 12_000], [130, 1, 97]];
    for (k, [m, inner, n]) in shapes.into_iter().enumerate() {
        let dtype = if k % 2 == 0 { DType::F32 } else { DType::F64 };
        for (name, follow) in followers() {
            let mut inputs = others(m, n, dtype)?;
            inputs.extend([draw(&[m, inner], 7, dtype)?, draw(&[n, inner], 8, dtype)?]);
            let step: Step = Box::new(move |x| follow(&x[6].matmul(&x[7].t()?)?, &x[..6]));
            check(&format!("{m} x {inner} x {n}: {name}"), &inputs, &step, 1)?;
        }
    }
    Ok(())
}

#[test]
fn products_with_a_bias_give_the_numbers_of_two_ops() -> Result<()> {
    for dtype in [DType::F32, DType::F64] {
        for (name, follow) in followers() {
            let (m, inner, n) = (140, 300, 101);
            let mut inputs = others(m, n, dtype)?;
            inputs.extend([
                draw(&[m, inner], 7, dtype)?,
                draw(&[n, inner], 8, dtype)?,
                draw(&[n], 9, dtype)?,
            ]);
            let step: Step = Box::new(move |x| follow(&x[6].linear(&x[7], Some(&x[8]))?, &x[..6]));
            check(&format!("linear {dtype:?}: {name}"), &inputs, &step, 1)?;
        }
    }
    Ok(())
}

#[test]
fn batches_of_products_give_the_numbers_of_two_ops() -> Result<()> {
    let dtype = DType::F32;
    // Small products that share tasks, and few large ones.
    for [batch, m, k, n] in [[40, 20, 12, 20], [3, 130, 90, 80]] {
        // A mask for all of a batch, and numbers for the columns.
        let shapes = [vec![2, batch, m, k], vec![2, batch, k, n], vec![1, 1, m, n], vec![2, 1, 1, n]];
        let inputs: Values =
            shapes.iter().zip(1..).map(|(dims, seed)| draw(dims, seed, dtype)).collect::<Result<_>>()?;
        let step: Step = Box::new(|x| {
            let y = x[0].matmul(&x[1])?;
            Ok(vec![y.add(&x[2])?.mul(&x[3])?.tanh()?])
        });
        check(&format!("{batch} times {m} x {k} x {n}"), &inputs, &step, 1)?;
    }
    Ok(())
}

/// Direct sums with strides, groups and one tap, and the minimal filtering of 3 × 3 taps.
#[test]
fn convolutions_give_the_numbers_of_two_ops() -> Result<()> {
    // Images, input and output channels, extent, taps, padding, stride, groups.
    let cases = [
        ([2, 5, 13, 21, 3, 1, 1, 1], DType::F64),
        ([3, 8, 10, 33, 3, 1, 2, 2], DType::F32),
        ([2, 16, 20, 18, 1, 0, 1, 1], DType::F32),
        ([2, 30, 28, 25, 3, 1, 1, 1], DType::F32),
        ([9, 48, 56, 9, 3, 2, 1, 2], DType::F32),
    ];
    for ([images, from, to, extent, taps, padding, stride, groups], dtype) in cases {
        let x = draw(&[images, from, extent, extent], 1, dtype)?;
        let kernel = draw(&[to, from / groups, taps, taps], 2, dtype)?;
        let y = conv2d(&x, &kernel, padding, stride, 1, groups)?;
        let numbers = draw(&[to, 1, 1], 3, dtype)?;
        let inputs = vec![x, kernel, numbers, draw(y.dims(), 4, dtype)?];
        let step: Step = Box::new(move |x| {
            let y = conv2d(&x[0], &x[1], padding, stride, 1, groups)?;
            let z = y.mul(&x[2])?.add(&x[2])?.relu()?;
            Ok(vec![z.add(&x[3])?, z])
        });
        check(&format!("{images} {from} {to} {extent} {taps}"), &inputs, &step, 1)?;
        // Its gradient in the input, which is a convolution too.
        let back: Step = Box::new(move |x| {
            if groups > 1 {
                return Ok(vec![x[3].clone()]);
            }
            let y = conv_transpose2d(&x[3], &x[1], padding, stride - 1, stride, 1)?;
            Ok(vec![y.tanh()?, y])
        });
        check(
            &format!("{images} {from} {to} {extent} {taps}, back"),
            &inputs,
            &back,
            usize::from(groups == 1),
        )?;
    }
    Ok(())
}

/// An image of which not all is finite is computed twice; it goes through the expression twice, too.
#[test]
fn what_is_not_finite_is_followed_where_the_plain_sum_has_it() -> Result<()> {
    let mut numbers = draw(&[4, 24, 12, 12], 1, DType::F32)?.to_flat::<f32>()?;
    numbers[5 * 144 + 77] = f32::INFINITY;
    numbers[40 * 144 + 3] = f32::NAN;
    let x = TrackedTensor::from_vec(numbers, &[4, 24, 12, 12])?;
    let inputs = vec![x, draw(&[24, 24, 3, 3], 2, DType::F32)?, draw(&[4, 24, 12, 12], 3, DType::F32)?];
    let step: Step = Box::new(|x| {
        let y = conv2d(&x[0], &x[1], 1, 1, 1, 1)?;
        // A sum that ends here, which the expression may not write over.
        let rest = x[2].exp()?.cumsum(0)?;
        Ok(vec![y.mul(&rest)?.add(0.5)?.relu()?, y.mul(2.0)?])
    });
    check("not finite", &inputs, &step, 1)
}

fn layers(x: &[TrackedTensor]) -> Result<TrackedTensor> {
    let hidden = x[0].linear(&x[1], Some(&x[2]))?.gelu()?;
    hidden.matmul(&x[3])?.add(&x[0])?.tanh()?.sqr()?.sum()
}

fn layer_inputs() -> Result<Values> {
    let shapes = [vec![160, 96], vec![128, 96], vec![128], vec![128, 96]];
    shapes.iter().zip(1..).map(|(dims, seed)| draw(dims, seed, DType::F64)?.mul(0.2)).collect()
}

#[test]
fn an_optimised_graph_with_epilogues_is_differentiated_stored_and_run_elsewhere() -> Result<()> {
    let inputs = layer_inputs()?;
    let refs: Vec<&TrackedTensor> = inputs.iter().collect();
    let metas: Vec<_> = inputs.iter().map(TrackedTensor::meta).collect();
    let graph = Graph::capture(|x| Ok(vec![layers(x)?]), &metas)?.optimise(&Passes::ALL)?;
    assert!(graph.to_string().contains("epilogue"), "{graph}");
    let close = |a: &[TrackedTensor], b: &[TrackedTensor]| -> Result<()> {
        for (a, b) in a.iter().zip(b) {
            let (a, b) = (a.to_flat::<f64>()?, b.to_flat::<f64>()?);
            assert!(a.iter().zip(&b).all(|(x, y)| (x - y).abs() <= 1e-10 * y.abs().max(1.0)));
        }
        Ok(())
    };
    // Differentiated by its decomposition.
    let gradient = |f: &dyn Fn(&[TrackedTensor]) -> Result<TrackedTensor>| {
        let tape = GradientTape::new();
        let x: Values = inputs.iter().map(|x| tape.variable(x)).collect();
        tape.gradient(&f(&x)?, &x.iter().collect::<Vec<_>>())
    };
    let through = |x: &[TrackedTensor]| Ok(graph.run(&x.iter().collect::<Vec<_>>())?.remove(0));
    close(&gradient(&through)?, &gradient(&|x| layers(x))?)?;
    // Stored and loaded.
    let text = serde_json::to_string(&graph.to_stored()?).map_err(Error::msg)?;
    let stored: StoredGraph = serde_json::from_str(&text).map_err(Error::msg)?;
    let loaded = stored.load(&[])?;
    assert_eq!(loaded.to_stored()?, stored);
    assert_same("loaded", &loaded.run(&refs)?, &graph.run(&refs)?)?;
    // On values of a device the graph is the captured one, with passes of its own.
    let there = inputs.iter().map(elsewhere).collect::<Result<Values>>()?;
    let options = Options { passes: Passes::ALL, ..Options::default() };
    let compiled = Graph::capture(|x| Ok(vec![layers(x)?]), &metas)?.compile(options)?;
    assert!(compiled.explain().to_string().contains("epilogue"), "{}", compiled.explain());
    close(&compiled.call(&there.iter().collect::<Vec<_>>())?, &compiled.call(&refs)?)
}

#[test]
fn a_training_step_takes_no_more_memory_with_epilogues() -> Result<()> {
    let inputs = layer_inputs()?;
    let step: Step = Box::new(value_and_grad(layers));
    let refs: Vec<&TrackedTensor> = inputs.iter().collect();
    let (joined, apart) =
        (compile(&step, &inputs, Engine::Best, Passes::ALL)?, compile(&step, &inputs, Engine::Best, APART)?);
    assert!(epilogues(&joined) >= 1, "{}", joined.graph());
    assert!(joined.planned_bytes() <= apart.planned_bytes() + 128 * 1024);
    assert_same("a training step", &joined.call(&refs)?, &apart.call(&refs)?)
}

#[test]
fn what_cannot_follow_stays_apart() -> Result<()> {
    let inputs = vec![draw(&[130, 90], 1, DType::F32)?, draw(&[90, 120], 2, DType::F32)?];
    let apart: Vec<(&str, Step)> = vec![
        ("a sum", Box::new(|x| Ok(vec![x[0].matmul(&x[1])?.tanh()?.sum()?]))),
        ("a small product", Box::new(|x| Ok(vec![x[0].narrow(0, 0, 5)?.matmul(&x[1])?.tanh()?]))),
        (
            "another way to it",
            Box::new(|x| {
                let y = x[0].matmul(&x[1])?;
                Ok(vec![y.add(&y.softmax(-1)?)?.tanh()?])
            }),
        ),
    ];
    apart.iter().try_for_each(|(name, step)| check(name, &inputs, step, 0))
}
