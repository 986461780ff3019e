//! Constant folding: what is computed from literals alone is a literal.
//!
//! ```text
//! before                                after
//! c0 = 1 : [] F64, c1 = 2 : [] F64      c0 = 3 : [3] F64
//! %0 = add c0 c1 : [] F64               %0 = mul x0 c0 : [3] F64
//! %1 = broadcast_as %0 : [3] F64        return %0
//! %2 = mul x0 %1 : [3] F64
//! return %2
//! ```
//!
//! Closed-over values are parameters: their memory may change after an optimiser's step, so they
//! are never folded. Numbers are folded in the type that the op computes in.

use super::rewrite::Rewrite;
use crate::graph::literal_of;
use autograd_core::algebra::fill;
use autograd_core::smallvec::SmallVec;
use autograd_core::{
    Instruction, Layout, Meta, Operand, Program, Result, Shape, TrackedTensor, apply_call, on_behalf_of,
};

pub(super) fn fold(old: &Program) -> Result<Program> {
    let mut new = Rewrite::of(old);
    for (i, instruction) in old.instructions.iter().enumerate() {
        match folded(&new, instruction)? {
            Some(value) => {
                let operand = new.constant(value);
                new.replace(i, operand);
            }
            None => new.keep(i, instruction),
        }
    }
    Ok(new.finish(old))
}

/// The literal that an instruction computes, where all its operands are literals and it computes
/// one number for all elements.
fn folded(new: &Rewrite, instruction: &Instruction) -> Result<Option<TrackedTensor>> {
    let operands: SmallVec<[Operand; 4]> = instruction.operands.iter().map(|o| new.at(*o)).collect();
    let numbers: Option<SmallVec<[f64; 4]>> = operands.iter().map(|o| literal_of(&new.program, *o)).collect();
    let (Some(numbers), [output]) = (numbers, &instruction.outputs[..]) else { return Ok(None) };
    let metas: SmallVec<[Meta; 4]> = operands.iter().map(|o| new.meta(*o)).collect();
    let Some(first) = operands.first() else { return Ok(None) };
    let Operand::Constant(like) = *first else { return Ok(None) };
    let like = &new.program.constants[like];
    // A rearrangement of one number is that number.
    let layouts: SmallVec<[Layout; 4]> = metas.iter().map(|m| Layout::contiguous(m.shape)).collect();
    let layouts: SmallVec<[&Layout; 4]> = layouts.iter().collect();
    if let [number] = numbers[..]
        && instruction.op.view(output, &layouts).is_some()
    {
        return Ok(Some(fill(number, output, like)?));
    }
    if instruction.op.as_pointwise().is_none() {
        return Ok(None);
    }
    // One element is computed, by the op itself, so that it rounds as the op does.
    let scalars = numbers
        .iter()
        .zip(&metas)
        .map(|(number, meta)| fill(*number, &meta.with_shape(Shape::SCALAR), like))
        .collect::<Result<SmallVec<[TrackedTensor; 4]>>>()?;
    let refs: SmallVec<[&TrackedTensor; 4]> = scalars.iter().collect();
    let site = instruction.site;
    let made = on_behalf_of(site, || apply_call(&*instruction.op, &refs, false, site))?.outputs;
    let number = made.first().map(|y| autograd_core::algebra::cast(y, autograd_core::DType::F64));
    match number {
        Some(number) => Ok(Some(fill(number?.to_scalar::<f64>()?, output, like)?)),
        None => Ok(None),
    }
}
