//! Programs on a few dozen elements: no plan, no allocation, one tile on the stack.
//!
//! Here the set-up of the tile machine would cost ten times the arithmetic.

use super::schedule::{Place, Schedule};
use super::tile::act;
use crate::expr::Program;
use crate::math::Operand;
use crate::simd::Float;
use crate::threads::Disjoint;
use crate::{Kind, Shape, SliceMut, View};

/// The numbers that fit on the stack, for all tiles together.
const ROOM: usize = 256;

/// How many inputs, and how many uniform nodes, there may be.
const FEW: usize = 6;

/// Runs the program where it is small and all tensors are of one type, the inputs contiguous or
/// repeated along leading dimensions. Returns whether it did.
pub(super) fn run(
    program: &Program,
    params: &[f64],
    inputs: &[View<'_>],
    shape: &Shape,
    outputs: &mut [SliceMut<'_>],
) -> bool {
    let n = shape.elements();
    let room = n * (program.schedule().slots + inputs.len());
    let few = inputs.len() <= FEW && program.schedule().uniform.len() <= FEW;
    if n == 0 || room > ROOM || !few || inputs.is_empty() {
        return false;
    }
    // Anything wrong with the arguments is left to the general path, which says what it is.
    if inputs.len() != program.inputs()
        || params.len() < program.params()
        || outputs.len() != program.outputs().len()
        || outputs.iter().any(|out| out.len() != n)
    {
        return false;
    }
    match inputs[0].kind() {
        Kind::F32 => run_as::<f32>(program, params, inputs, shape, outputs),
        Kind::F64 => run_as::<f64>(program, params, inputs, shape, outputs),
        _ => false,
    }
}

/// The elements of an input, and whether they are repeated: its extents are the last ones of the
/// shape, after any number of ones.
fn repeated<'a, T: Float>(x: &View<'a>, shape: &Shape) -> Option<&'a [T]> {
    let data = x.contiguous::<T>()?;
    let dims = x.layout.dims();
    let ones = dims.iter().take_while(|&&d| d == 1).count();
    (dims.len() <= shape.rank() && shape.dims().ends_with(&dims[ones..])).then_some(data)
}

fn run_as<T: Float>(
    program: &Program,
    params: &[f64],
    inputs: &[View<'_>],
    shape: &Shape,
    outputs: &mut [SliceMut<'_>],
) -> bool {
    let (n, schedule): (usize, &Schedule) = (shape.elements(), program.schedule());
    // A wider output decides the type of computation.
    if outputs.iter().any(|out| out.kind() == Kind::F64 && T::KIND != Kind::F64) {
        return false;
    }
    let mut room = [T::ZERO; ROOM];
    let mut sources = [Operand::All(T::ZERO); FEW];
    let (tiles, mut copies) = room.split_at_mut(n * schedule.slots);
    for (source, x) in sources.iter_mut().zip(inputs) {
        let Some(data) = repeated::<T>(x, shape) else { return false };
        *source = match data.len() {
            len if len == n => Operand::Each(data),
            1 => Operand::All(data[0]),
            len => {
                let (copy, rest) = std::mem::take(&mut copies).split_at_mut(n);
                copy.chunks_exact_mut(len).for_each(|part| part.copy_from_slice(data));
                copies = rest;
                Operand::Each(copy)
            }
        };
    }
    let mut uniform = [T::ZERO; FEW];
    super::uniform(program, params, |i, value| uniform[i] = T::from_f64(value));

    let tiles = Disjoint::new(tiles);
    let at = |place: Place| match place {
        Place::Input(i) => sources[usize::from(i)],
        Place::Uniform(i) => Operand::All(uniform[usize::from(i)]),
        Place::Slot(slot) => {
            let from = usize::from(slot) * n;
            // SAFETY: a step writes to no tile that it reads (the schedule's invariant), so while
            // an operand is in use its tile is not written.
            Operand::Each(unsafe { tiles.read(from..from + n) })
        }
    };
    for step in &schedule.steps {
        let from = usize::from(step.to) * n;
        // SAFETY: this tile is not among those that the step reads.
        act(step.action, at, unsafe { tiles.part(from..from + n) });
    }
    for (out, &place) in outputs.iter_mut().zip(&schedule.outputs) {
        match at(place) {
            Operand::Each(v) => T::scatter(v, out.reborrow()),
            Operand::All(v) => T::scatter(&[v; ROOM][..n], out.reborrow()),
        }
    }
    true
}
