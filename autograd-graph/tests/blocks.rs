//! Ops whose rows are independent, run on a few rows at a time: the results are those of the ops
//! one after the other.

mod nets;

use autograd_core::testing::elsewhere;
use autograd_core::{DType, Error, Result, TrackedTensor};
use autograd_graph::{Compiled, Engine, Graph, Options, Passes, StoredGraph, value_and_grad};
use autograd_ops::TensorAutograd;
use autograd_tape::GradientTape;
use nets::draw;

/// Sums over 2¹⁸ terms in another order, against the largest number of an output.
const F32: f64 = 2e-5;

/// Tiles and sums of two threads.
const WORKING: usize = 64 * 1024;

type Values = Vec<TrackedTensor>;
type Step = Box<dyn Fn(&[TrackedTensor]) -> Result<Values>>;

fn flat(x: &TrackedTensor) -> Result<Vec<f64>> {
    x.to_dtype(DType::F64)?.to_flat::<f64>()
}

fn assert_close(what: &str, a: &[TrackedTensor], b: &[TrackedTensor], tolerance: f64) -> Result<()> {
    assert_eq!(a.len(), b.len(), "{what}");
    for (k, (a, b)) in a.iter().zip(b).enumerate() {
        assert_eq!((a.dims(), a.dtype()), (b.dims(), b.dtype()), "{what}: output {k}");
        let (a, b) = (flat(a)?, flat(b)?);
        let size = b.iter().fold(0f64, |most, x| most.max(x.abs()));
        let apart = a.iter().zip(&b).map(|(x, y)| (x - y).abs()).fold(0.0, f64::max);
        assert!(apart <= tolerance * size, "{what}: output {k}: {apart:e} of {size:e}");
    }
    Ok(())
}

/// Steps of ops on their own that have several passes over rows, and their inputs.
fn cases() -> Result<Vec<(&'static str, Values, Step)>> {
    fn case(
        name: &'static str,
        inputs: Values,
        f: impl Fn(&[TrackedTensor]) -> Result<TrackedTensor> + 'static,
    ) -> (&'static str, Values, Step) {
        (name, inputs, Box::new(value_and_grad(f)))
    }
    let wide = || draw(&[600, 260], 2.0, 1);
    let row = |seed| draw(&[260], 1.0, seed);
    let g = draw(&[600, 260], 1.0, 9)?;
    let rows = draw(&[600], 1.0, 8)?;
    let images = || draw(&[12, 8, 40, 20], 2.0, 3);
    let ct = draw(&[12, 8, 40, 20], 1.0, 4)?;
    let targets = TrackedTensor::from_vec((0..600u32).map(|i| i * 7 % 260).collect(), &[600])?;
    let weigh = move |y: TrackedTensor| y.mul(&g)?.sum();
    let (a, b, c, d) = (weigh.clone(), weigh.clone(), weigh.clone(), weigh);
    Ok(vec![
        case("softmax", vec![wide()?], move |x| a(x[0].softmax(-1)?)),
        case("log_softmax", vec![wide()?], move |x| b(x[0].log_softmax(-1)?)),
        case("logsumexp", vec![wide()?], move |x| x[0].logsumexp(-1)?.mul(&rows)?.sum()),
        case("layer_norm", vec![wide()?, row(2)?, row(3)?], move |x| c(x[0].layer_norm(&x[1], &x[2], 1e-5)?)),
        case("residual, norm, softmax", vec![wide()?, row(2)?, row(3)?, wide()?], move |x| {
            d(x[0].add(&x[3])?.layer_norm(&x[1], &x[2], 1e-5)?.tanh()?.softmax(-1)?)
        }),
        case("group_norm", vec![images()?, draw(&[8], 1.0, 5)?, draw(&[8], 1.0, 6)?], move |x| {
            x[0].group_norm(2, Some(&x[1]), Some(&x[2]), 1e-5)?.mul(&ct)?.sum()
        }),
        case("cross_entropy", vec![wide()?], move |x| x[0].mul(1.5)?.cross_entropy(&targets)),
    ])
}

fn compile(inputs: &[TrackedTensor], step: &Step, options: Options) -> Result<Compiled> {
    let metas: Vec<_> = inputs.iter().map(TrackedTensor::meta).collect();
    Graph::capture(step, &metas)?.compile(options)
}

#[test]
fn steps_over_blocks_of_rows_give_what_whole_steps_give() -> Result<()> {
    for (name, inputs, step) in cases()? {
        let want = step(&inputs)?;
        let refs: Vec<&TrackedTensor> = inputs.iter().collect();
        let mut tiles = Vec::new();
        for engine in [Engine::Tiles, Engine::Best] {
            let compiled = compile(&inputs, &step, Options { engine, ..Options::default() })?;
            let explanation = compiled.explain();
            assert!(explanation.steps.iter().any(|s| s.name == "rows"), "{name}: {explanation}");
            let got = compiled.call(&refs)?;
            assert_close(name, &got, &want, F32)?;
            assert_close(name, &compiled.graph().run(&refs)?, &want, F32)?;
            if engine == Engine::Tiles {
                tiles = got;
            } else {
                assert_close(name, &got, &tiles, 0.0)?;
            }
            let whole = Passes { block: false, ..Passes::ALL };
            let whole = compile(&inputs, &step, Options { passes: whole, engine, ..Options::default() })?;
            assert!(whole.explain().steps.iter().all(|s| s.name != "rows"), "{name}");
            assert_close(name, &whole.call(&refs)?, &want, F32)?;
            // Nothing as large as all rows passes between the ops any more.
            let rows = inputs[0].meta().bytes();
            assert!(
                compiled.planned_bytes() <= whole.planned_bytes().max(rows) + WORKING,
                "{name}: {explanation}"
            );
        }
    }
    Ok(())
}

#[test]
fn graphs_with_blocks_are_stored_as_they_are() -> Result<()> {
    for (name, inputs, step) in cases()? {
        let metas: Vec<_> = inputs.iter().map(TrackedTensor::meta).collect();
        let refs: Vec<&TrackedTensor> = inputs.iter().collect();
        let graph = Graph::capture(&step, &metas)?.optimise(&Passes::ALL)?;
        assert!(graph.to_string().contains("rows"), "{name}: {graph}");
        let text = serde_json::to_string(&graph.to_stored()?).map_err(Error::msg)?;
        let stored: StoredGraph = serde_json::from_str(&text).map_err(Error::msg)?;
        let parameters: Values = graph.parameters().cloned().collect();
        let loaded = stored.load(&parameters)?;
        assert_eq!(loaded.to_stored()?, stored, "{name}");
        assert_close(name, &loaded.run(&refs)?, &graph.run(&refs)?, 0.0)?;
        for passes in [Passes::NONE, Passes::ALL] {
            let compiled = |graph: &Graph| graph.compile(Options { passes, ..Options::default() });
            assert_close(name, &compiled(&loaded)?.call(&refs)?, &compiled(&graph)?.call(&refs)?, 0.0)?;
        }
    }
    Ok(())
}

#[test]
fn blocks_do_not_depend_on_the_number_of_threads() -> Result<()> {
    use autograd_core::kernels::threads::set_threads;
    for (name, inputs, step) in cases()? {
        let refs: Vec<&TrackedTensor> = inputs.iter().collect();
        let mut first: Option<Values> = None;
        for threads in [1, 2, 3] {
            set_threads(threads);
            let got = compile(&inputs, &step, Options::default())?.call(&refs)?;
            match &first {
                Some(first) => assert_close(name, &got, first, 0.0)?,
                None => first = Some(got),
            }
        }
        set_threads(0);
    }
    Ok(())
}

#[test]
fn an_optimised_graph_with_blocks_is_differentiable() -> Result<()> {
    let (x, g) = (draw(&[600, 260], 2.0, 1)?, draw(&[600, 260], 1.0, 2)?);
    let f = |x: &TrackedTensor| x.softmax(-1)?.mul(&g)?.softmax(-1);
    let graph = Graph::capture(|x| Ok(vec![f(&x[0])?]), &[x.meta()])?.optimise(&Passes::ALL)?;
    assert!(graph.to_string().contains("rows"), "{graph}");
    let gradient = |f: &dyn Fn(&TrackedTensor) -> Result<TrackedTensor>| {
        let tape = GradientTape::new();
        let v = tape.variable(&x);
        tape.gradient(&f(&v)?.sqr()?.sum()?, &[&v])
    };
    let got = gradient(&|x| Ok(graph.run(&[x])?.remove(0)))?;
    assert_close("gradient", &got, &gradient(&f)?, F32)
}

#[test]
fn what_an_op_reports_of_a_block_is_an_error() -> Result<()> {
    let x = draw(&[600, 260], 2.0, 1)?;
    let targets = TrackedTensor::from_vec((0..600u32).collect(), &[600])?;
    let step: Step =
        Box::new(value_and_grad(move |x: &[TrackedTensor]| x[0].mul(1.5)?.cross_entropy(&targets)));
    let error = compile(std::slice::from_ref(&x), &step, Options::default())?
        .call(&[&x])
        .expect_err("class 260 of 260");
    assert!(matches!(error, Error::InvalidArgument { .. }), "{error}");
    Ok(())
}

#[test]
fn blocks_run_where_their_inputs_are() -> Result<()> {
    for (name, inputs, step) in cases()?.into_iter().take(2) {
        let metas: Vec<_> = inputs.iter().map(TrackedTensor::meta).collect();
        let graph = Graph::capture(step, &metas)?.optimise(&Passes::ALL)?;
        assert!(graph.to_string().contains("rows"), "{name}");
        let there = inputs.iter().map(elsewhere).collect::<Result<Values>>()?;
        let run = |x: &[TrackedTensor]| graph.run(&x.iter().collect::<Vec<_>>());
        assert_close(name, &run(&there)?, &run(&inputs)?, F32)?;
    }
    Ok(())
}
