//! Checkpoints inside captured functions: the passes leave what is computed again where it is, so
//! that a plan saves what eager mode saves.

use crate::checkpoints::CLOSE;
use candle_autograd::checkpoint::{Fate, Policy, checkpoint, checkpoint_with};
use candle_autograd::core::{Operand, barrier, captured};
use candle_autograd::graph::{Compiled, Graph, Options, Passes, StoredGraph, value_and_grad};
use candle_autograd::ops::random;
use candle_autograd::transforms::{grad, gradcheck, jvp, vmap};
use candle_autograd::{GradientTape, Result, TensorAutograd, TrackedTensor};
use candle_core::DType;

const ROWS: usize = 64;
const WIDTH: usize = 32;
pub(crate) const BLOCKS: usize = 8;
/// Bytes of one block's input.
pub(crate) const STATE: usize = ROWS * WIDTH * 4;

pub(crate) fn draw(dims: &[usize], seed: u64) -> Result<TrackedTensor> {
    random::normal(&random::key(seed), dims, DType::F32)?.mul(0.2)
}

/// x and the two weights of each block.
pub(crate) fn inputs(blocks: usize) -> Result<Vec<TrackedTensor>> {
    let weights = (0..blocks as u64)
        .flat_map(|i| [draw(&[WIDTH, 4 * WIDTH], 2 * i + 2), draw(&[4 * WIDTH, WIDTH], 2 * i + 3)]);
    std::iter::once(draw(&[ROWS, WIDTH], 1)).chain(weights).collect()
}

/// A residual block with a hidden layer four times as wide.
pub(crate) fn block(x: &[TrackedTensor]) -> Result<TrackedTensor> {
    let h = x[0].softmax(-1)?.matmul(&x[1])?.gelu()?;
    &x[0] + h.tanh()?.matmul(&x[2])?
}

/// How blocks are checkpointed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Kept {
    /// Nothing is computed again.
    Everything,
    /// Each block by itself.
    Blocks,
    /// Groups of so many blocks, and in them each block by itself.
    Groups(usize),
}

fn again(
    f: impl FnOnce(&[TrackedTensor]) -> Result<TrackedTensor>,
    x: &[&TrackedTensor],
) -> Result<TrackedTensor> {
    Ok(checkpoint(|x| Ok(vec![f(x)?]), x)?.swap_remove(0))
}

fn stack(x: &[TrackedTensor], kept: Kept) -> Result<TrackedTensor> {
    let each = |x: TrackedTensor, w: &[TrackedTensor]| again(block, &[&x, &w[0], &w[1]]);
    let blocks = x[1..].chunks(2);
    match kept {
        Kept::Everything => {
            x[1..].chunks(2).try_fold(x[0].clone(), |x, w| block(&[x, w[0].clone(), w[1].clone()]))
        }
        Kept::Blocks => blocks.into_iter().try_fold(x[0].clone(), each),
        Kept::Groups(size) => x[1..].chunks(2 * size).try_fold(x[0].clone(), |x, group| {
            let mut all: Vec<&TrackedTensor> = vec![&x];
            all.extend(group);
            again(|x| x[1..].chunks(2).try_fold(x[0].clone(), each), &all)
        }),
    }
}

pub(crate) fn loss(x: &[TrackedTensor], kept: Kept) -> Result<TrackedTensor> {
    stack(x, kept)?.sqr()?.mean()
}

pub(crate) fn refs(x: &[TrackedTensor]) -> Vec<&TrackedTensor> {
    x.iter().collect()
}

pub(crate) fn bits(values: &[TrackedTensor]) -> Result<Vec<Vec<u32>>> {
    values.iter().map(|v| Ok(v.to_flat::<f32>()?.into_iter().map(f32::to_bits).collect())).collect()
}

/// The value and the gradients as eager mode gives them.
fn eager(
    f: impl Fn(&[TrackedTensor]) -> Result<TrackedTensor>,
    x: &[TrackedTensor],
) -> Result<Vec<TrackedTensor>> {
    let tape = GradientTape::new();
    let v: Vec<TrackedTensor> = x.iter().map(|x| tape.variable(x)).collect();
    let y = f(&v)?;
    let mut all = vec![tape.unwatched(&y)];
    all.extend(tape.gradient(&y, &refs(&v))?);
    Ok(all)
}

fn captured_step(
    f: impl Fn(&[TrackedTensor]) -> Result<TrackedTensor> + Send + Sync + 'static,
    x: &[TrackedTensor],
) -> Result<Graph> {
    let metas: Vec<_> = x.iter().map(TrackedTensor::meta).collect();
    Graph::capture(value_and_grad(f), &metas)
}

pub(crate) fn compiled(kept: Kept, blocks: usize) -> Result<Compiled> {
    captured_step(move |x| loss(x, kept), &inputs(blocks)?)?.compile(Options::default())
}

/// How many ops of this name a graph has, those inside of fused ones included.
pub(crate) fn count(compiled: &Compiled, name: &str) -> usize {
    let steps = compiled.explain().steps;
    steps.iter().map(|s| usize::from(s.name == name) + s.parts.iter().filter(|p| **p == name).count()).sum()
}

#[test]
fn a_checkpointed_stack_is_planned_in_a_state_for_each_block() -> Result<()> {
    let plain = compiled(Kept::Everything, BLOCKS)?;
    let blocks = compiled(Kept::Blocks, BLOCKS)?;
    let one = compiled(Kept::Everything, 1)?;
    // What eager mode keeps: each block's input, and what one block's step takes.
    let bound = BLOCKS * STATE + one.planned_bytes();
    let (least, most) = (blocks.planned_bytes(), plain.planned_bytes());
    assert!(least <= bound, "{least} bytes planned, {bound} allowed ({most} without checkpoints)");
    assert!(3 * least <= most, "{least} bytes planned, {most} without checkpoints");
    // Without the passes that share equal ops nothing was ever lost: they cost nothing now.
    let options = Options { passes: Passes { common: false, ..Passes::ALL }, ..Options::default() };
    let apart = captured_step(|x| loss(x, Kept::Blocks), &inputs(BLOCKS)?)?.compile(options)?;
    assert!(least <= apart.planned_bytes(), "{least} with common, {} without", apart.planned_bytes());
    Ok(())
}

#[test]
fn what_is_computed_again_is_no_more_than_in_eager_mode() -> Result<()> {
    let (plain, blocks) = (compiled(Kept::Everything, BLOCKS)?, compiled(Kept::Blocks, BLOCKS)?);
    // The second product of a block is read by nobody in the backward pass.
    assert_eq!(count(&plain, "matmul"), 6 * BLOCKS);
    assert_eq!(count(&blocks, "matmul"), 7 * BLOCKS);
    assert_eq!(count(&blocks, "barrier"), 0, "a barrier is no step");
    Ok(())
}

#[test]
fn nested_checkpoints_stay_nested() -> Result<()> {
    const MANY: usize = 16;
    let (one, four) = (compiled(Kept::Everything, 1)?, compiled(Kept::Blocks, 4)?);
    let groups = compiled(Kept::Groups(4), MANY)?;
    // Four states of groups, four states of blocks in one of them, and one block's step.
    let bound = (4 + 4) * STATE + one.planned_bytes();
    let found = groups.planned_bytes();
    assert!(found <= bound, "{found} bytes planned, {bound} allowed");
    assert!(found < compiled(Kept::Blocks, MANY)?.planned_bytes());
    assert!(found > four.planned_bytes(), "what one group takes is the least");
    Ok(())
}

#[test]
fn results_are_those_of_eager_mode_to_the_bit() -> Result<()> {
    let x = inputs(4)?;
    let want = bits(&eager(|x| loss(x, Kept::Everything), &x)?)?;
    for kept in [Kept::Everything, Kept::Blocks, Kept::Groups(2)] {
        assert_eq!(bits(&eager(|x| loss(x, kept), &x)?)?, want, "{kept:?}");
        let graph = captured_step(move |x| loss(x, kept), &x)?;
        assert_eq!(bits(&graph.run(&refs(&x))?)?, want, "{kept:?}, op by op");
        // Sums inside of fused ops are made in f64: they round elsewhere.
        let passes = Passes { fuse: false, block: false, ..Passes::ALL };
        let ops = graph.compile(Options { passes, ..Options::default() })?;
        assert_eq!(bits(&ops.call(&refs(&x))?)?, want, "{kept:?}, every pass but fusion");
        let all = graph.compile(Options::default())?.call(&refs(&x))?;
        let plain = compiled(Kept::Everything, 4)?.call(&refs(&x))?;
        for (a, b) in all.iter().zip(&plain) {
            for (a, b) in a.to_flat::<f32>()?.into_iter().zip(b.to_flat::<f32>()?) {
                assert!((a - b).abs() <= 1e-6 * b.abs().max(1.0), "{kept:?}: {a} for {b}");
            }
        }
    }
    Ok(())
}

/// Regions that wait for one cotangent, or for one that is a number, do not live at one time.
#[test]
fn regions_side_by_side_are_replayed_one_after_the_other() -> Result<()> {
    const SIDES: usize = 6;
    fn part(x: &TrackedTensor) -> Result<TrackedTensor> {
        x.exp()?.sin()?.matmul(&x.t()?)?.tanh()?.matmul(x)?.sqr()?.sum()
    }
    let planned = |sides: usize, again: bool, squared: bool| -> Result<usize> {
        let x: Vec<TrackedTensor> =
            (0..sides as u64).map(|i| draw(&[ROWS, WIDTH], i)).collect::<Result<_>>()?;
        let f = move |x: &[TrackedTensor]| {
            let mut total = TrackedTensor::from_vec(vec![0f32], &[])?;
            for x in x {
                total = (total + if again { self::again(|x| part(&x[0]), &[x])? } else { part(x)? })?;
            }
            if squared { total.sqr() } else { Ok(total) }
        };
        Ok(captured_step(f, &x)?.compile(Options::default())?.planned_bytes())
    };
    for squared in [false, true] {
        let (one, all) = (planned(1, false, squared)?, planned(SIDES, true, squared)?);
        let plain = planned(SIDES, false, squared)?;
        // The sum of the parts is one number.
        assert!(all <= one + 1024, "{all} bytes planned, {one} for one part, {plain} without checkpoints");
        assert!(3 * all <= plain, "{all} bytes planned, {plain} without checkpoints");
    }
    Ok(())
}

/// The cotangent of a linear loss is there from the beginning, and it is read by the loss too: a
/// replay waits for the loss all the same.
#[test]
fn a_replay_waits_for_the_forward_pass_where_its_cotangent_does_not() -> Result<()> {
    fn f(x: &[TrackedTensor]) -> Result<TrackedTensor> {
        let h = x[0].matmul(&x[1])?.tanh()?.matmul(&x[2])?.tanh()?.matmul(&x[1])?;
        h.tanh()?.matmul(&x[2])?.tanh()
    }
    let x = vec![
        draw(&[ROWS, WIDTH], 1)?,
        draw(&[WIDTH, WIDTH], 2)?,
        draw(&[WIDTH, WIDTH], 3)?,
        draw(&[ROWS, WIDTH], 4)?,
    ];
    let step = |kept: bool| -> Result<Graph> {
        let loss = move |x: &[TrackedTensor]| {
            let y = if kept { f(x)? } else { again(f, &[&x[0], &x[1], &x[2]])? };
            y.mul(&x[3])?.sum()
        };
        captured_step(loss, &x)
    };
    let planned = |graph: &Graph| Ok(graph.compile(Options::default())?.planned_bytes());
    // All of it is one region: nothing is saved, and nothing waits twice.
    let graph = step(false)?;
    let (with, without): (Result<usize>, Result<usize>) = (planned(&graph), planned(&step(true)?));
    let (with, without) = (with?, without?);
    assert!(with <= without, "{with} bytes planned, {without} without checkpoints");
    // Whatever passes do, what reads the region's inputs again comes behind the loss.
    let program = graph.program();
    let made_by = |operand: Operand| match operand {
        Operand::Result { instruction, .. } => Some(instruction),
        Operand::Input(_) | Operand::Constant(_) => None,
    };
    let loss = made_by(program.outputs[0]).expect("the loss is computed");
    let mut behind = vec![false; program.instructions.len()];
    behind[loss] = true;
    let mut barriers = 0;
    for (i, instruction) in program.instructions.iter().enumerate().skip(loss + 1) {
        behind[i] = instruction.operands.iter().filter_map(|o| made_by(*o)).any(|from| behind[from]);
        if instruction.op.name() == "barrier" {
            assert!(behind[i], "%{i} does not wait for %{loss}:\n{program}");
            barriers += 1;
        }
    }
    assert!(barriers >= 3, "x and two weights are read again: {barriers} barriers");
    Ok(())
}

#[test]
fn policies_hold_in_captured_functions() -> Result<()> {
    let f = |policy: fn() -> Policy| {
        move |x: &[TrackedTensor]| {
            let each = |x: TrackedTensor, w: &[TrackedTensor]| -> Result<TrackedTensor> {
                let made = checkpoint_with(&policy(), |x| Ok(vec![block(x)?]), &[&x, &w[0], &w[1]])?;
                Ok(made[0].clone())
            };
            x[1..].chunks(2).try_fold(x[0].clone(), each)?.sqr()?.mean()
        }
    };
    let x = inputs(4)?;
    let products: fn() -> Policy = || Policy::save_nothing().ops(["matmul"], Fate::Keep);
    let kept = captured_step(f(products), &x)?;
    let compiled = kept.compile(Options::default())?;
    assert_eq!(count(&compiled, "matmul"), 6 * 4, "products are kept");
    assert!(count(&compiled, "gelu") > 4, "what lies between is computed again");
    assert_eq!(bits(&kept.run(&refs(&x))?)?, bits(&eager(|x| loss(x, Kept::Everything), &x)?)?);
    Ok(())
}

fn small(x: &TrackedTensor) -> Result<TrackedTensor> {
    let first = |x: &[TrackedTensor]| again(|x| x[0].sin()?.mul(&x[0]), &[&x[0]])?.exp();
    again(|x| x[0].tanh()?.sqr()?.sum(), &[&again(first, &[x])?])
}

fn small_plain(x: &TrackedTensor) -> Result<TrackedTensor> {
    x.sin()?.mul(x)?.exp()?.tanh()?.sqr()?.sum()
}

#[test]
fn higher_orders_are_captured_through_checkpoints() -> Result<()> {
    type Function = fn(&TrackedTensor) -> Result<TrackedTensor>;
    type Way = fn(Function, &TrackedTensor) -> Result<TrackedTensor>;
    let ways: [(&str, Way); 5] = [
        ("grad", |f, x| grad(f, x)),
        ("grad of grad", |f, x| grad(|x| grad(f, x)?.sqr()?.sum(), x)),
        ("jvp of grad", |f, x| Ok(jvp(|x| grad(f, x), x, &x.mul(0.5)?)?.1)),
        ("third order", |f, x| grad(|x| grad(|x| grad(f, x)?.sqr()?.sum(), x)?.sum(), x)),
        ("vmap of grad", |f, x| vmap(|x| grad(f, x), &x.reshape([2, 3])?, 0)),
    ];
    let x = random::normal(&random::key(3), &[6], DType::F64)?;
    for (name, way) in ways {
        let want = way(small_plain, &x)?.to_flat::<f64>()?;
        let graph = Graph::capture(|x| Ok(vec![way(small, &x[0])?]), &[x.meta()])?;
        assert!(graph.to_string().contains("= barrier "), "{name}: nothing holds the replays apart");
        for passes in [Passes::ALL, Passes::NONE] {
            let made = graph.compile(Options { passes, ..Options::default() })?.call(&[&x])?;
            for (a, b) in made[0].to_flat::<f64>()?.iter().zip(&want) {
                assert!((a - b).abs() <= CLOSE * b.abs().max(1.0), "{name}: {a} for {b}");
            }
        }
    }
    Ok(())
}

#[test]
fn a_graph_with_barriers_is_drawn_and_stored() -> Result<()> {
    let x = inputs(2)?;
    let graph = captured_step(|x| loss(x, Kept::Blocks), &x)?;
    assert!(graph.to_dot().contains("label=\"barrier\""));
    let text = serde_json::to_string(&graph.to_stored()?).expect("it is plain data");
    let stored: StoredGraph = serde_json::from_str(&text).expect("it was just written");
    let loaded = stored.load(&[])?;
    assert_eq!(loaded.to_stored()?, stored);
    assert_eq!(bits(&loaded.run(&refs(&x))?)?, bits(&graph.run(&refs(&x))?)?);
    let planned = |graph: &Graph| Ok(graph.compile(Options::default())?.planned_bytes());
    let (again, first): (Result<usize>, Result<usize>) = (planned(&loaded), planned(&graph));
    assert_eq!(again?, first?);
    Ok(())
}

#[test]
fn a_barrier_is_the_identity_under_every_transform() -> Result<()> {
    let x = TrackedTensor::from_vec(vec![0.5, -1.0, 2.0], &[3])?;
    let token = TrackedTensor::from_vec(vec![1u32, 2], &[2])?;
    let f = |x: &TrackedTensor| barrier(&x.sin()?, &x.cos()?)?.sum();
    gradcheck(f, &x)?.require()?;
    let rows = TrackedTensor::from_vec((0..6).map(f64::from).collect(), &[2, 3])?;
    // The value, what it waits for, or both are batched.
    let value = vmap(|row| barrier(row, &token), &rows, 0)?;
    assert_eq!(value.to_vec2::<f64>()?, rows.to_vec2::<f64>()?);
    let waiting = vmap(|row| barrier(&x, row), &rows, 0)?;
    assert_eq!(waiting.to_vec2::<f64>()?, vec![x.to_vec1::<f64>()?; 2]);
    let both = vmap(|row| barrier(row, &row.sum()?), &rows, 0)?;
    assert_eq!(both.to_vec2::<f64>()?, rows.to_vec2::<f64>()?);
    assert!(captured(&x).is_none() && captured(&GradientTape::new().variable(&x)).is_none());
    Ok(())
}
