//! Checkpoints of graphs that passes rewrote, or that were stored and loaded: what was computed again
//! before is computed again, and the numbers are the same to the bit.

use crate::checkpointed_graphs::{
    BLOCKS, Kept, STATE, bits, block, compiled, count, draw, inputs, loss, refs,
};
use candle_autograd::checkpoint::{DiskStore, Fate, Policy, checkpoint, checkpoint_with};
use candle_autograd::core::tap;
use candle_autograd::graph::{Compiled, Graph, Options, Passes, StoredGraph};
use candle_autograd::{Result, TensorAutograd, TrackedTensor};
use std::sync::Arc;

/// What passes change of a gradient's arena: working memory of fused ops.
const WORKING: usize = 16 * 1024;

fn captured(f: impl Fn(&[TrackedTensor]) -> Result<TrackedTensor>, x: &[TrackedTensor]) -> Result<Graph> {
    let metas: Vec<_> = x.iter().map(TrackedTensor::meta).collect();
    Graph::capture(|x| Ok(vec![f(x)?]), &metas)
}

/// The value and the gradients with respect to all inputs.
fn step(graph: &Graph) -> Result<Graph> {
    let all: Vec<usize> = (0..graph.inputs().len()).collect();
    graph.value_and_gradient(&[0], &all)
}

fn compiled_step(graph: &Graph) -> Result<Compiled> {
    step(graph)?.compile(Options::default())
}

fn planned(graph: &Graph) -> Result<usize> {
    Ok(compiled_step(graph)?.planned_bytes())
}

/// The graph as data and back.
fn stored(graph: &Graph) -> Result<Graph> {
    let text = serde_json::to_string(&graph.to_stored()?).expect("it is plain data");
    let stored: StoredGraph = serde_json::from_str(&text).expect("it was just written");
    let loaded = stored.load(&[])?;
    assert_eq!(loaded.to_stored()?, stored);
    Ok(loaded)
}

/// The same ops, with nothing computed again.
fn without_regions(graph: &Graph) -> Result<Graph> {
    let mut program = graph.program().clone();
    program.sections.clear();
    program.instructions.iter_mut().for_each(|step| step.section = None);
    Graph::from_program(program)
}

#[test]
fn a_rewritten_graph_computes_its_regions_again() -> Result<()> {
    let x = inputs(BLOCKS)?;
    for kept in [Kept::Blocks, Kept::Groups(4)] {
        let graph = captured(|x| loss(x, kept), &x)?;
        let first = planned(&graph)?;
        let alone = |change: fn(&mut Passes)| {
            let mut passes = Passes::NONE;
            change(&mut passes);
            passes
        };
        let ways = [
            Passes::ALL,
            Passes { fuse: false, ..Passes::ALL },
            alone(|p| p.common = true),
            alone(|p| p.fuse = true),
            alone(|p| p.schedule = true),
            alone(|p| p.sink = true),
            alone(|p| p.linear = true),
            alone(|p| (p.rematerialise, p.min_cut) = (true, true)),
        ];
        for passes in ways {
            let rewritten = graph.optimise(&passes)?;
            let plain = without_regions(&rewritten)?;
            let (least, most) = (planned(&rewritten)?, planned(&plain)?);
            assert!(
                least <= first + WORKING,
                "{kept:?}, {passes:?}: {least} bytes planned, {first} as captured"
            );
            assert!(3 * least <= most, "{kept:?}, {passes:?}: {least} bytes planned, {most} without regions");
            let want = bits(&step(&plain)?.run(&refs(&x))?)?;
            assert_eq!(bits(&step(&rewritten)?.run(&refs(&x))?)?, want, "{kept:?}, {passes:?}");
        }
    }
    Ok(())
}

#[test]
fn a_loaded_graph_computes_its_regions_again() -> Result<()> {
    let x = inputs(BLOCKS)?;
    for kept in [Kept::Blocks, Kept::Groups(4)] {
        let graph = captured(|x| loss(x, kept), &x)?;
        for graph in [graph.optimise(&Passes::ALL)?, graph] {
            let loaded = stored(&graph)?;
            let bound = BLOCKS * STATE + compiled(Kept::Everything, 1)?.planned_bytes() + WORKING;
            let (first, again) = (planned(&graph)?, planned(&loaded)?);
            assert_eq!(again, first, "{kept:?}");
            assert!(again <= bound, "{kept:?}: {again} bytes planned, {bound} allowed");
            let want = bits(&step(&graph)?.run(&refs(&x))?)?;
            assert_eq!(bits(&step(&loaded)?.run(&refs(&x))?)?, want, "{kept:?}");
        }
    }
    Ok(())
}

/// Blocks under a policy, with a name for what lies between their products.
fn with_policy(policy: &Policy, x: &[TrackedTensor]) -> Result<TrackedTensor> {
    let each = |x: TrackedTensor, w: &[TrackedTensor]| -> Result<TrackedTensor> {
        let named = |x: &[TrackedTensor]| Ok(vec![tap("block", &block(x)?)?.mul(1.5)?.tanh()?]);
        Ok(checkpoint_with(policy, named, &[&x, &w[0], &w[1]])?.swap_remove(0))
    };
    x[1..].chunks(2).try_fold(x[0].clone(), each)?.sqr()?.mean()
}

#[test]
fn policies_hold_in_graphs_that_were_rewritten_and_stored() -> Result<()> {
    const MANY: usize = 4;
    let x = inputs(MANY)?;
    // Of the three products of a block's forward and replay, and the four of its backward pass.
    let cases: [(&str, Policy, usize); 3] = [
        ("products", Policy::save_nothing().ops(["matmul"], Fate::Keep), 6),
        ("a name", Policy::save_names(["block"]), 7),
        ("nothing", Policy::save_nothing(), 8),
    ];
    for (name, policy, products) in cases {
        let graph = captured(|x| with_policy(&policy, x), &x)?;
        let first = compiled_step(&graph)?;
        assert_eq!(count(&first, "matmul"), products * MANY, "{name}");
        let want = bits(&step(&graph)?.run(&refs(&x))?)?;
        assert_eq!(bits(&step(&stored(&graph)?)?.run(&refs(&x))?)?, want, "{name}");
        for graph in [graph.optimise(&Passes::ALL)?, stored(&graph)?, stored(&graph.optimise(&Passes::ALL)?)?]
        {
            let again = compiled_step(&graph)?;
            assert_eq!(count(&again, "matmul"), products * MANY, "{name}");
            let (least, most) = (first.planned_bytes(), again.planned_bytes());
            assert!(least.abs_diff(most) <= WORKING, "{name}: {most} bytes planned, {least} as captured");
        }
    }
    Ok(())
}

#[test]
fn what_a_policy_moves_out_of_memory_is_computed_again_by_a_loaded_graph() -> Result<()> {
    let x = inputs(2)?;
    let policy = Policy::save_nothing()
        .ops(["matmul"], Fate::Offload)
        .store(Arc::new(DiskStore::new(std::env::temp_dir(), 1 << 20)?));
    let nothing = captured(|x| with_policy(&Policy::save_nothing(), x), &x)?;
    let loaded = stored(&captured(|x| with_policy(&policy, x), &x)?)?;
    assert_eq!(planned(&loaded)?, planned(&nothing)?);
    assert_eq!(bits(&step(&loaded)?.run(&refs(&x))?)?, bits(&step(&nothing)?.run(&refs(&x))?)?);
    Ok(())
}

/// Two regions that compute the same share nothing, or what the first one made would be kept.
#[test]
fn regions_that_compute_the_same_stay_two() -> Result<()> {
    let x = [draw(&[128, 64], 1)?, draw(&[64, 128], 2)?];
    let part = |x: &[TrackedTensor]| Ok(vec![x[0].exp()?.matmul(&x[1])?.tanh()?.sum()?]);
    let twice = |x: &[TrackedTensor]| {
        let mut parts = Vec::new();
        for _ in 0..2 {
            parts.extend(checkpoint(part, &[&x[0], &x[1]])?);
        }
        parts[0].mul(&parts[1])
    };
    let graph = captured(twice, &x)?;
    let only = Passes { common: true, ..Passes::NONE };
    assert_eq!(graph.optimise(&only)?.program().instructions.len(), graph.program().instructions.len());
    let shared = without_regions(&graph)?.optimise(&only)?;
    assert!(shared.program().instructions.len() < graph.program().instructions.len());
    Ok(())
}
