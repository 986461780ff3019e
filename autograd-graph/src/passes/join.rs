//! Joining: a sum of values that zeros surround is one concatenation where they do not overlap.
//!
//! ```text
//! before                                after
//! %0 = embed x0 : [8, 12]               %0 = cat x0 x1 x2 : [8, 12]
//! %1 = embed x1 : [8, 12]               return %0
//! %2 = embed x2 : [8, 12]
//! %3 = add %0 %1 : [8, 12]
//! %4 = add %3 %2 : [8, 12]
//! return %4
//! ```
//!
//! This is what the gradient of a value looks like that was split, chunked or narrowed: each part's
//! cotangent in its place and zeros around it. Parts that lie next to each other along one dimension
//! are joined; where they do not cover the dimension, zeros stay around the whole. What else is added
//! to them still is, in its order.

use super::rewrite::Rewrite;
use super::uses::uses;
use crate::graph::meta_of;
use crate::regions::held;
use autograd_core::kernels::expr::{Binary, Node};
use autograd_core::smallvec::smallvec;
use autograd_core::{Instruction, Meta, Operand, Parameter, Prim, Program, Result, SavedOp};
use std::collections::HashSet;

/// The most values that one concatenation takes.
const AT_ONCE: usize = 64;

/// A value with zeros around it.
#[derive(Clone)]
struct Part {
    dim: usize,
    start: usize,
    end: usize,
    /// The values that lie there one behind the other, each with the number of its term.
    values: Vec<(usize, Operand)>,
}

pub(super) fn join(old: &Program) -> Result<Program> {
    let uses = uses(old);
    let inner = |add: &Instruction, operand: Operand| match operand {
        Operand::Result { instruction, .. } if uses[instruction] == 1 => {
            let made = Some(&old.instructions[instruction]);
            made.filter(|made| made.section == add.section && is_add(made, old))
        }
        _ => None,
    };
    // Adds that are terms of another one are looked at from there.
    let mut below = vec![false; old.instructions.len()];
    for add in old.instructions.iter().filter(|i| is_add(i, old)) {
        for operand in &add.operands {
            if let (Some(_), Operand::Result { instruction, .. }) = (inner(add, *operand), *operand) {
                below[instruction] = true;
            }
        }
    }
    let mut new = Rewrite::of(old);
    for (i, instruction) in old.instructions.iter().enumerate() {
        let joined = if is_add(instruction, old) && !below[i] {
            let mut terms = Vec::new();
            let mut open: Vec<Operand> = instruction.operands.iter().rev().copied().collect();
            while let Some(operand) = open.pop() {
                match inner(instruction, operand) {
                    Some(add) => open.extend(add.operands.iter().rev()),
                    None => terms.push(operand),
                }
            }
            sum(old, instruction, &terms, &mut new)
        } else {
            None
        };
        match joined {
            Some(operand) => new.replace(i, operand),
            None => new.keep(i, instruction),
        }
    }
    Ok(new.finish(old))
}

/// Whether an instruction adds two values of its own shape and type, and nobody keeps what it makes.
fn is_add(instruction: &Instruction, program: &Program) -> bool {
    let Some(op) = instruction.op.as_pointwise() else { return false };
    let [output] = instruction.outputs[..] else { return false };
    let adds = matches!(
        op.expr().program().nodes(),
        [Node::Input(0), Node::Input(1), Node::Binary(Binary::Add, 0, 1)]
    );
    adds && !op.definition().flat
        && !held(program, instruction)
        && instruction.operands.iter().all(|o| meta_of(program, *o) == output)
}

fn part(program: &Program, term: usize, operand: Operand) -> Option<Part> {
    let Operand::Result { instruction, .. } = operand else { return None };
    let made = &program.instructions[instruction];
    let SavedOp { tag: "embed", parameters } = made.op.saved()? else { return None };
    let [Parameter::Whole(dim), Parameter::Whole(start), _] = parameters[..] else { return None };
    let (dim, start) = (usize::try_from(dim).ok()?, usize::try_from(start).ok()?);
    let len = meta_of(program, made.operands[0]).shape.dims()[dim];
    Some(Part { dim, start, end: start + len, values: vec![(term, made.operands[0])] })
}

/// The sum of the terms with neighbours joined; `None` where there are none.
fn sum(old: &Program, add: &Instruction, terms: &[Operand], new: &mut Rewrite) -> Option<Operand> {
    let mut parts: Vec<Part> = terms.iter().enumerate().filter_map(|(i, term)| part(old, i, *term)).collect();
    parts.sort_by_key(|part| (part.dim, part.start));
    let mut runs: Vec<Part> = Vec::new();
    for part in parts {
        let next =
            |run: &&mut Part| run.dim == part.dim && run.end == part.start && run.values.len() < AT_ONCE;
        match runs.iter_mut().find(next) {
            Some(run) => {
                run.end = part.end;
                run.values.extend(part.values);
            }
            None => runs.push(part),
        }
    }
    runs.retain(|run| run.values.len() > 1);
    if runs.is_empty() {
        return None;
    }
    let mut joined = Vec::new();
    for run in &runs {
        joined.push(emit(add, run, new)?);
    }
    let taken: HashSet<usize> = runs.iter().flat_map(|run| &run.values).map(|(term, _)| *term).collect();
    let rest = terms.iter().enumerate().filter(|(i, _)| !taken.contains(i)).map(|(_, term)| new.at(*term));
    let mut all = rest.chain(joined).collect::<Vec<_>>().into_iter();
    let first = all.next()?;
    Some(all.fold(first, |sum, term| {
        let operands = smallvec![sum, term];
        let instruction = new.push(Instruction { operands, ..add.clone() });
        Operand::Result { instruction, output: 0 }
    }))
}

/// Appends a run of values as one, with zeros around it where it does not fill its dimension.
fn emit(add: &Instruction, run: &Part, new: &mut Rewrite) -> Option<Operand> {
    let whole = add.outputs[0];
    let operands: Vec<Operand> = run.values.iter().map(|(_, value)| new.at(*value)).collect();
    let number = |n: usize| Parameter::Whole(n as u64);
    let cat = [number(run.dim), number(operands.len())];
    let joined = push(add, "cat", &cat, &operands, new)?;
    let size = whole.shape.dims()[run.dim];
    if run.end - run.start == size {
        return Some(joined);
    }
    push(add, "embed", &[number(run.dim), number(run.start), number(size)], &[joined], new)
}

fn push(
    add: &Instruction,
    tag: &str,
    parameters: &[Parameter],
    operands: &[Operand],
    new: &mut Rewrite,
) -> Option<Operand> {
    let metas: Vec<Meta> = operands.iter().map(|o| new.meta(*o)).collect();
    let op: Prim = autograd_core::rebuild(tag, parameters, &metas)
        .or_else(|| autograd_ops::rebuild(tag, parameters, &metas))?;
    let outputs = op.infer(&metas).ok()?.outputs;
    let operands = operands.iter().copied().collect();
    let (site, section) = (add.site, add.section);
    let instruction = new.push(Instruction { op, operands, outputs, aux: 0, site, section });
    Some(Operand::Result { instruction, output: 0 })
}
