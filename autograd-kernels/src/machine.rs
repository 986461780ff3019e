//! The tile machine: evaluates expressions over tensors, a few hundred elements at a time, so that
//! everything between inputs and outputs stays in the fastest cache.
//!
//! The type of computation is f64 where any float input or output is f64, else f32. Inputs of
//! that type are read in place where their elements lie side by side (or are one number repeated);
//! all others are converted tile by tile. Nodes that are the same for all elements are computed
//! once, in f64. Every operation rounds on its own, so an expression gives the same numbers
//! whether it is evaluated in one program or in several.

mod accumulate;
mod epilogue;
mod input;
mod over;
mod prepared;
mod schedule;
mod single;
mod small;
mod tile;

pub use epilogue::Epilogue;
pub use over::run_over;
pub use prepared::{Feed, MAX_INPUTS, MAX_OUTPUTS, Prepared, Target, TileCode};
pub(crate) use schedule::Schedule;
pub use single::run_alike;
pub(crate) use single::{is_cheap_binary, is_cheap_unary};

use crate::expr::{Node, Program};
use crate::math::scalar;
use crate::shape::merge_dims;
use crate::simd::Float;
use crate::threads::{DisjointSlice, chunk_length, parallel_for};
use crate::{Kind, Layout, MAX_RANK, Shape, SliceMut, View};
use accumulate::Accumulator;
use input::Input;
use smallvec::SmallVec;
use tile::Worker;

/// A list with one entry for each input or output: the fused rules of norms have up to seven.
type List<T> = SmallVec<[T; 8]>;

/// Elements of one tile: a few of them stay in a first-level cache.
const TILE: usize = 512;

/// Fewer elements than this stay on one thread.
const MIN_CHUNK: usize = 16 * 1024;

/// Fewer elements than this are computed before machine code for them would be made.
const CODE_FROM: usize = 32 * 1024;

/// Rows shorter than this are not worked on one by one: tiles go across them.
const MIN_ROW: usize = 128;

/// Evaluates `program` for each element of `shape`, to which every input broadcasts.
///
/// An output may be of any kind: floats are rounded to it, and U8 is a mask, 1 where the value is
/// not 0.
///
/// # Panics
/// Panics where the numbers of inputs, parameters or outputs are not the program's, an input does
/// not broadcast to `shape` or reaches beyond its buffer, or an output has not as many elements as
/// `shape`.
pub fn run(
    program: &Program,
    params: &[f64],
    inputs: &[View<'_>],
    shape: &Shape,
    outputs: &mut [SliceMut<'_>],
) {
    if single::run(program, params, inputs, shape, outputs)
        || small::run(program, params, inputs, shape, outputs)
    {
        return;
    }
    evaluate(program, params, inputs, shape, outputs, None, None);
}

/// Like [`run`], and output i is summed over the dimensions in which `targets[i]`, which
/// broadcasts to `shape`, is repeated. A target equal to `shape` is not summed.
///
/// Sums are made in f64 from parts that do not depend on the number of threads.
///
/// # Panics
/// Panics as [`run`] does, with the outputs' lengths those of their targets.
pub fn run_reduced(
    program: &Program,
    params: &[f64],
    inputs: &[View<'_>],
    shape: &Shape,
    outputs: &mut [SliceMut<'_>],
    targets: &[Shape],
) {
    assert_eq!(outputs.len(), targets.len(), "machine: each output has a target shape");
    evaluate(program, params, inputs, shape, outputs, Some(targets), None);
}

/// Evaluates a program. Where there is an input `over`, it is read from the first output, which
/// holds it until its elements are overwritten; of its view only layout and type count.
fn evaluate(
    program: &Program,
    params: &[f64],
    inputs: &[View<'_>],
    shape: &Shape,
    outputs: &mut [SliceMut<'_>],
    targets: Option<&[Shape]>,
    over: Option<usize>,
) {
    assert_eq!(inputs.len(), program.inputs(), "machine: a program gets the inputs that it reads");
    assert!(params.len() >= program.params(), "machine: a program gets all its parameters");
    assert_eq!(outputs.len(), program.outputs().len(), "machine: a program writes all its outputs");
    let wide = inputs.iter().map(View::kind).chain(outputs.iter().map(|o| o.kind()));
    if wide.into_iter().any(|k| k == Kind::F64) {
        Plan::<f64>::run(program, params, inputs, shape, outputs, targets, over);
    } else {
        Plan::<f32>::run(program, params, inputs, shape, outputs, targets, over);
    }
}

/// Where an output goes.
enum Output<'a> {
    /// Element by element.
    Whole(DisjointSlice<'a>),
    /// Summed; boxed, because most outputs are not and lists of them are moved.
    Reduced(Box<Accumulator>),
}

/// One evaluation, with everything that its tiles share.
struct Plan<'a, T> {
    schedule: &'a Schedule,
    /// The dimensions, merged as far as inputs and targets allow.
    shape: Shape,
    inputs: List<Input<'a, T>>,
    uniform: List<T>,
    outputs: List<Output<'a>>,
    /// The input that lies in the memory of the first output, which is whole.
    over: Option<usize>,
    /// What computes a tile in place of the steps; T is f32 where there is some.
    code: Option<&'a dyn TileCode>,
}

impl<'a, T: Float> Plan<'a, T> {
    fn run(
        program: &'a Program,
        params: &[f64],
        inputs: &[View<'a>],
        shape: &Shape,
        outputs: &mut [SliceMut<'_>],
        targets: Option<&[Shape]>,
        over: Option<usize>,
    ) {
        // Strides of the inputs and then the targets, all over `shape`.
        let mut strides: SmallVec<[[usize; MAX_RANK]; 12]> = SmallVec::new();
        let mut push = |layout: &Layout| {
            let wide = layout.broadcast_to(shape);
            let wide = wide.expect("machine: every input and target broadcasts to the shape");
            let mut all = [0; MAX_RANK];
            all[..wide.rank()].copy_from_slice(wide.strides());
            strides.push(all);
        };
        for x in inputs {
            push(x.layout);
        }
        for (i, out) in outputs.iter().enumerate() {
            let target = targets.map_or(*shape, |t| t[i]);
            push(&Layout::contiguous(target));
            assert_eq!(out.len(), target.elements(), "machine: an output fills its target");
        }
        let merged = merge_dims(shape, &mut strides);
        let (input_strides, target_strides) = strides.split_at(inputs.len());
        if shape.elements() == 0 {
            outputs.iter_mut().for_each(|out| crate::copy::fill(0.0, out.reborrow()));
            return;
        }
        let dims = merged.dims();
        let outer = dims.first().copied().unwrap_or(1);
        let slab = shape.elements() / outer;
        // Partial sums that chunks hold for themselves must be few against the elements.
        let reduced = |i: usize| targets.is_some_and(|t| t[i].elements() != shape.elements());
        let private = (0..outputs.len())
            .filter(|&i| reduced(i) && target_strides[i][0] == 0)
            .map(|i| outputs[i].len())
            .max();
        let min_chunk = MIN_CHUNK.max(8 * private.unwrap_or(0)).div_ceil(slab);
        let chunk = chunk_length(outer, min_chunk);
        let chunks = outer.div_ceil(chunk);

        let mut kinds = List::new();
        let mut held = List::new();
        for (i, out) in outputs.iter_mut().enumerate() {
            if reduced(i) {
                let len = out.len();
                let sums = Accumulator::new(len, target_strides[i], outer, chunks);
                kinds.push(Output::Reduced(sums));
                held.push(Some(out.reborrow()));
            } else {
                kinds.push(Output::Whole(DisjointSlice::new(out.reborrow())));
                held.push(None);
            }
        }
        let mut uniforms = List::new();
        uniform(program, params, |_, value| uniforms.push(T::from_f64(value)));
        let mut plan = Plan {
            schedule: program.schedule(),
            shape: merged,
            inputs: inputs
                .iter()
                .zip(input_strides)
                .enumerate()
                .map(|(i, (x, strides))| match over {
                    Some(over) if over == i => Input::over(*strides),
                    _ => Input::<T>::new(x, &merged, *strides, over.is_some()),
                })
                .collect(),
            uniform: uniforms,
            outputs: kinds,
            over,
            code: (T::KIND == Kind::F32 && shape.elements() >= CODE_FROM).then(|| program.code()).flatten(),
        };
        parallel_for(chunks, &|c| {
            let range = c * chunk..outer.min((c + 1) * chunk);
            Worker::new(&plan).run(range, slab, c);
        });
        plan.inputs.iter_mut().for_each(Input::end);
        for (output, out) in plan.outputs.into_iter().zip(held) {
            if let (Output::Reduced(sums), Some(out)) = (output, out) {
                sums.finish(out);
            }
        }
    }
}

/// The numbers that are the same for all elements, in the order of their nodes.
pub(crate) fn uniform_values(program: &Program, mut write: impl FnMut(f64)) {
    uniform(program, &[], |_, value| write(value));
}

/// Computes the numbers that are the same for all elements, in f64: write(which, value).
fn uniform(program: &Program, params: &[f64], mut write: impl FnMut(usize, f64)) {
    let list = &program.schedule().uniform;
    let mut values = List::<f64>::new();
    for (k, &reg) in list.iter().enumerate() {
        // The operands of a uniform node are uniform, and stand before it.
        let at = |reg: u16| values[list[..k].binary_search(&reg).expect("operands come first")];
        let value = match program.nodes()[reg as usize] {
            Node::Input(_) => unreachable!("an input is not uniform"),
            Node::Param(i) => params[usize::from(i)],
            Node::Const(c) => c,
            Node::Unary(f, a) => scalar::unary(f, at(a)),
            Node::Binary(f, a, b) => scalar::binary(f, at(a), at(b)),
            Node::Select(c, a, b) => at(if at(c) != 0.0 { a } else { b }),
        };
        values.push(value);
        write(k, value);
    }
}
