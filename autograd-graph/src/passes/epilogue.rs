//! Epilogues: a product or a convolution and the fused op that reads it become one op.
//!
//! ```text
//! before                                after
//! %0 = linear x0 x1 x2 : [512, 1024]    %0 = epilogue x0 x1 x2 x3
//! %1 = fused %0 x3 : [512, 1024]               : [512, 1024] : [512, 1024]
//! %2 = fused %0 ...                     %1 = fused %0.1 ...
//! return %1 %2                          return %0 %1
//! ```
//!
//! The expression is evaluated on each block of the product when its last term is in, by the thread that
//! has just made it; by itself it would read the whole product from memory again. What others read of
//! the product is one more output. The product is made in the memory of an output, and where the
//! expression ends in place of it nothing but that is written.
//!
//! It saves a pass over memory, and costs the way of short rows in and out of tiles. On two cores of an
//! EPYC with 32 MiB of last cache the two came out even or a little worse: steps of the bench `peers` with
//! it took 0.98 to 1.07 of the time without (mlp and gpt_step 1.00, resnet_block 0.98 to 1.03, convnet
//! 0.98 to 1.07, hvp_mlp 1.00 to 1.04). So it is not among the passes that run by default.
//!
//! It is for products larger than what stays in a core's first cache. It is right where the
//! fused op has no sums, whose order is that of its own chunks, and no other way leads from the product
//! to the fused op. Of several products that it reads, the last is taken. Both are in the same
//! checkpointed region or in none, and neither is kept by its policy.

use super::block::reshapes;
use super::fuse::Groups;
use super::rewrite::Rewrite;
use crate::epilogue::WithEpilogue;
use crate::fused::{Fused, MOST_INPUTS, MOST_OUTPUTS};
use crate::graph::meta_of;
use crate::plan::as_fused;
use crate::regions::held;
use autograd_core::smallvec::SmallVec;
use autograd_core::{Instruction, Meta, Operand, Prim, Program, Result, Rule};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// Products of fewer bytes stay in the first cache until they are read.
const WORTH: usize = 32 * 1024;

/// A product and what follows it.
struct Found {
    product: usize,
    /// Reshapes of the product, of which the last is what the fused op reads, and others.
    views: Vec<usize>,
    fused: usize,
    /// The fused op's input that is the product.
    input: usize,
    /// Whether others read the product too.
    read: bool,
}

/// The program with epilogues, where there is one.
pub(super) fn join(old: &Program) -> Result<Option<Program>> {
    let users = users(old);
    let mut groups = Groups::new(old);
    let mut all: HashMap<usize, (Found, WithEpilogue)> = HashMap::new();
    let mut taken: HashSet<usize> = HashSet::new();
    for product in (0..old.instructions.len()).rev() {
        let Some(found) = found(old, &users, &taken, product) else { continue };
        let Some(op) = joined(old, &found) else { continue };
        let own = groups.group_of(product);
        let whole = found.views.iter().fold(own, |own, view| groups.merge(groups.group_of(*view), own));
        let to = groups.group_of(found.fused);
        if groups.path_through_others(whole, to) {
            // What was merged is a product and views of it, in their order.
            continue;
        }
        groups.merge(whole, to);
        taken.insert(found.fused);
        all.insert(found.fused, (found, op));
    }
    if all.is_empty() {
        return Ok(None);
    }
    let mut new = Rewrite::of(old);
    for group in groups.order() {
        let members = groups.members_of(group);
        match members.iter().find_map(|i| all.get(i)) {
            Some((found, op)) => emit(old, found, op, &mut new),
            None => members.iter().for_each(|&i| new.keep(i, &old.instructions[i])),
        }
    }
    Ok(Some(new.finish(old)))
}

/// The instructions that read each instruction.
fn users(program: &Program) -> Vec<Vec<usize>> {
    let mut users = vec![Vec::new(); program.instructions.len()];
    for (i, instruction) in program.instructions.iter().enumerate() {
        for operand in &instruction.operands {
            if let Operand::Result { instruction: from, .. } = *operand
                && users[from].last() != Some(&i)
            {
                users[from].push(i);
            }
        }
    }
    users
}

fn metas(program: &Program, instruction: &Instruction) -> SmallVec<[Meta; 4]> {
    instruction.operands.iter().map(|o| meta_of(program, *o)).collect()
}

/// What follows a product, where it is one and something does.
fn found(program: &Program, users: &[Vec<usize>], taken: &HashSet<usize>, product: usize) -> Option<Found> {
    let made = &program.instructions[product];
    let [out] = made.outputs[..] else { return None };
    // What a user's own code makes is made once, which those who repeat ops see by its rule.
    let opaque = matches!(made.op.rule(), Rule::Opaque(_));
    if opaque || made.aux > 0 || held(program, made) || out.bytes() < WORTH {
        return None;
    }
    made.op.finishes(&metas(program, made))?;
    // All names of the product: itself, and what only gives it another shape.
    let mut names = vec![product];
    let mut readers: Vec<usize> = Vec::new();
    let mut next = 0;
    while let Some(&name) = names.get(next) {
        next += 1;
        for &user in &users[name] {
            let instruction = &program.instructions[user];
            let view = reshapes(instruction, &metas(program, instruction))
                && instruction.section == made.section
                && !held(program, instruction);
            if view { names.push(user) } else { readers.push(user) }
        }
    }
    let named = |operand: &Operand| matches!(*operand, Operand::Result { instruction, .. } if names.contains(&instruction));
    readers.sort_unstable();
    readers.dedup();
    let fused = *readers.iter().find(|i| as_fused(&program.instructions[**i].op).is_some())?;
    let reads = &program.instructions[fused];
    let input = reads.operands.iter().position(named)?;
    let once = reads.operands.iter().filter(|o| named(o)).count() == 1;
    if taken.contains(&fused) || !once || reads.section != made.section || held(program, reads) {
        return None;
    }
    let read = readers.len() > 1 || program.outputs.iter().any(named);
    Some(Found { product, views: names.split_off(1), fused, input, read })
}

/// The two as one op, where they can be.
fn joined(program: &Program, found: &Found) -> Option<WithEpilogue> {
    let (product, reads) = (&program.instructions[found.product], &program.instructions[found.fused]);
    let fused: &Fused = as_fused(&reads.op)?;
    let out = product.outputs[0];
    let same = meta_of(program, reads.operands[found.input]).shape == fused.shape && out.dtype == fused.dtype;
    let room =
        fused.outputs.len() < MOST_OUTPUTS && product.operands.len() + reads.operands.len() <= MOST_INPUTS;
    if !same || !room {
        return None;
    }
    let fused = match found.read {
        true => fused.passing_on(found.input, out.shape),
        false => fused.clone(),
    };
    WithEpilogue::new(product.op.clone(), product.operands.len(), fused, found.input)
}

/// Appends the two as one instruction, and what others know the product by.
fn emit(old: &Program, found: &Found, op: &WithEpilogue, new: &mut Rewrite) {
    let (product, fused) = (&old.instructions[found.product], &old.instructions[found.fused]);
    let others = fused.operands.iter().enumerate().filter(|(k, _)| *k != found.input).map(|(_, o)| o);
    let operands = product.operands.iter().chain(others).map(|o| new.at(*o)).collect();
    let mut outputs = fused.outputs.clone();
    if op.fused.outputs.len() > outputs.len() {
        outputs.push(product.outputs[0]);
    }
    let Instruction { site, section, .. } = *product;
    let op = Prim::Shared(Arc::new(op.clone()));
    let at = new.push(Instruction { op, operands, outputs, aux: 0, site, section });
    for output in 0..fused.outputs.len() {
        new.replace_output(found.fused, output, Operand::Result { instruction: at, output });
    }
    if found.read {
        // It is the last output.
        new.replace(found.product, Operand::Result { instruction: at, output: fused.outputs.len() });
        found.views.iter().for_each(|&view| new.keep(view, &old.instructions[view]));
    }
}
