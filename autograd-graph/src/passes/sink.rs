//! Sinking: rearrangements move behind pointwise ops and into matrix products.
//!
//! ```text
//! before                                after
//! %0 = matmul x0 x1 : [8, 4]            %0 = permute x1 : [4, 16]
//! %1 = permute %0 : [4, 8]              %1 = permute x0 : [16, 8]
//! %2 = exp %1 : [4, 8]                  %2 = matmul %0 %1 : [4, 8]
//! return %2                             %3 = exp %2 : [4, 8]
//!                                       return %3
//! ```
//!
//! A product reads its factors in any order of elements, so a transposed factor costs nothing, and a
//! transposed product is that of the transposed factors the other way round. What is pointwise over
//! values that are all rearranged alike is rearranged itself instead: then it can be fused with the
//! ops that make them, and nothing strided is read. Rearrangements of rearrangements are one.

use super::rewrite::Rewrite;
use super::uses::uses;
use crate::regions::held;
use autograd_core::smallvec::SmallVec;
use autograd_core::{Instruction, Meta, Operand, Parameter, Prim, Program, Result, Shape};

/// A rearrangement of elements.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Turn {
    /// Dimension d of the result is this dimension of the source.
    Permute(Vec<usize>),
    Reshape(Shape),
}

/// The program after it; `None` where nothing changed.
pub(super) fn sink(old: &Program) -> Result<Option<Program>> {
    let uses = uses(old);
    let once =
        |operand: Operand| matches!(operand, Operand::Result { instruction, .. } if uses[instruction] == 1);
    let mut new = Rewrite::of(old);
    let mut changed = false;
    for (i, instruction) in old.instructions.iter().enumerate() {
        let operands: SmallVec<[Operand; 4]> = instruction.operands.iter().map(|o| new.at(*o)).collect();
        if held(old, instruction) {
            new.keep(i, instruction);
            continue;
        }
        let alone = instruction.operands.iter().all(|o| once(*o));
        if let Some(turn) = turn_of(instruction) {
            let moved = if alone { product(&mut new, &turn, operands[0], instruction) } else { None };
            let moved = match moved {
                Some(operand) => Some(operand),
                None if turns(&new, &turn, operands[0]) => turned(&mut new, &turn, operands[0], instruction),
                None => None,
            };
            match moved {
                Some(operand) => {
                    changed = true;
                    new.replace(i, operand);
                }
                None => new.keep(i, instruction),
            }
            continue;
        }
        match behind(&mut new, instruction, &operands, |k| once(instruction.operands[k])) {
            Some(results) => {
                changed = true;
                for (output, result) in results.into_iter().enumerate() {
                    new.replace_output(i, output, result);
                }
            }
            None => new.keep(i, instruction),
        }
    }
    Ok(changed.then(|| new.finish(old)))
}

pub(super) fn turn_of(instruction: &Instruction) -> Option<Turn> {
    let [_] = instruction.operands[..] else { return None };
    let saved = instruction.op.saved()?;
    match (saved.tag, saved.parameters.into_iter().next()?) {
        ("permute", Parameter::Shape(order)) => Some(Turn::Permute(order)),
        ("reshape", Parameter::Shape(dims)) => Shape::try_new(&dims).map(Turn::Reshape),
        _ => None,
    }
}

/// What made an operand, in the new program, where it may be made in another way.
fn maker(new: &Rewrite, operand: Operand) -> Option<&Instruction> {
    let Operand::Result { instruction, .. } = operand else { return None };
    Some(&new.program.instructions[instruction]).filter(|made| !held(&new.program, made))
}

/// Whether the rearrangement is of one of its kind, or changes nothing.
fn turns(new: &Rewrite, turn: &Turn, operand: Operand) -> bool {
    let before = maker(new, operand).and_then(turn_of);
    match turn {
        Turn::Permute(order) => {
            matches!(before, Some(Turn::Permute(_))) || order.iter().copied().eq(0..order.len())
        }
        Turn::Reshape(shape) => matches!(before, Some(Turn::Reshape(_))) || *shape == new.meta(operand).shape,
    }
}

/// A value rearranged, for an instruction `like`: by one rearrangement of what it was itself
/// rearranged from, or none.
pub(super) fn turned(
    new: &mut Rewrite,
    turn: &Turn,
    operand: Operand,
    like: &Instruction,
) -> Option<Operand> {
    let (mut turn, mut source) = (turn.clone(), operand);
    if let Some(made) = maker(new, operand)
        && let Some(before) = turn_of(made)
    {
        match (&turn, before) {
            (Turn::Permute(order), Turn::Permute(first)) => {
                turn = Turn::Permute(order.iter().map(|&d| first[d]).collect());
                source = made.operands[0];
            }
            (Turn::Reshape(_), Turn::Reshape(_)) => source = made.operands[0],
            (Turn::Permute(_), Turn::Reshape(_)) | (Turn::Reshape(_), Turn::Permute(_)) => {}
        }
    }
    let nothing = match &turn {
        Turn::Permute(order) => order.iter().copied().eq(0..order.len()),
        Turn::Reshape(shape) => *shape == new.meta(source).shape,
    };
    if nothing {
        return Some(source);
    }
    let (tag, parameter) = match turn {
        Turn::Permute(order) => ("permute", Parameter::Shape(order)),
        Turn::Reshape(shape) => ("reshape", Parameter::shape(&shape)),
    };
    let metas = [new.meta(source)];
    let op = autograd_core::rebuild(tag, &[parameter], &metas)?;
    push(new, op, &[source], like)
}

fn push(new: &mut Rewrite, op: Prim, operands: &[Operand], like: &Instruction) -> Option<Operand> {
    let metas: SmallVec<[Meta; 4]> = operands.iter().map(|o| new.meta(*o)).collect();
    let outputs = op.infer(&metas).ok()?.outputs;
    let operands = operands.iter().copied().collect();
    let Instruction { site, section, .. } = *like;
    let instruction = new.push(Instruction { op, operands, outputs, aux: 0, site, section });
    Some(Operand::Result { instruction, output: 0 })
}

/// (a·b)ᵀ = bᵀ·aᵀ.
fn product(new: &mut Rewrite, turn: &Turn, operand: Operand, reader: &Instruction) -> Option<Operand> {
    let Turn::Permute(order) = turn else { return None };
    let (made, rank) = (maker(new, operand)?.clone(), order.len());
    // A product of another checkpointed region is made there.
    let there = made.section == reader.section;
    if rank < 2 || !there || made.op.saved()?.tag != "matmul" || !swaps_the_last(order) {
        return None;
    }
    let mut factors = SmallVec::<[Operand; 2]>::new();
    for &factor in made.operands.iter().rev() {
        // A matrix that is the same for a whole batch is best on the right.
        if new.meta(factor).shape.rank() != rank {
            return None;
        }
        let mut order: Vec<usize> = (0..rank).collect();
        order.swap(rank - 2, rank - 1);
        factors.push(turned(new, &Turn::Permute(order), factor, &made)?);
    }
    push(new, made.op.clone(), &factors, &made)
}

fn swaps_the_last(order: &[usize]) -> bool {
    let n = order.len();
    order[n - 2..] == [n - 1, n - 2] && order[..n - 2].iter().copied().eq(0..n - 2)
}

/// The outputs of a pointwise op applied to what its operands were rearranged from, rearranged.
fn behind(
    new: &mut Rewrite,
    instruction: &Instruction,
    operands: &[Operand],
    once: impl Fn(usize) -> bool,
) -> Option<SmallVec<[Operand; 2]>> {
    instruction.op.as_pointwise()?;
    let shape = instruction.outputs[0].shape;
    let mut common: Option<(Turn, Shape)> = None;
    let mut sources: SmallVec<[Operand; 4]> = SmallVec::new();
    for (k, &operand) in operands.iter().enumerate() {
        let meta = new.meta(operand);
        if meta.shape.rank() == 0 {
            sources.push(operand);
            continue;
        }
        let made = maker(new, operand).filter(|_| meta.shape == shape)?;
        let turn = turn_of(made)?;
        // A reshape may be a copy, which somebody else would still need.
        if matches!(turn, Turn::Reshape(_)) && !once(k) {
            return None;
        }
        let source = made.operands[0];
        // There must be something to be fused with.
        maker(new, source)?;
        let found = (turn, new.meta(source).shape);
        if common.get_or_insert_with(|| found.clone()) != &found {
            return None;
        }
        sources.push(source);
    }
    let (turn, _) = common?;
    let metas: SmallVec<[Meta; 4]> = sources.iter().map(|o| new.meta(*o)).collect();
    let outputs = instruction.op.infer(&metas).ok()?.outputs;
    let count = outputs.len();
    let made =
        new.push(Instruction { operands: sources.iter().copied().collect(), outputs, ..instruction.clone() });
    (0..count)
        .map(|output| {
            // What was rearranged to the one shape is rearranged back to it.
            turned(new, &turn, Operand::Result { instruction: made, output }, instruction)
        })
        .collect()
}
