//! Blocking: ops whose rows do not depend on each other run on a few rows at a time.
//!
//! ```text
//! before                                after
//! %0 = softmax x0 : [4096, 1024] F32    %0 = rows x0 x1 : [256] F32 : [4096, 1024] F32
//! %1 = fused %0 x1 : [] F32             %1 = fused %0 : [] F32
//! %2 = softmax_vjp x1 %0                return %1 %0.1
//!        : [4096, 1024] F32             (inside: the three ops on 16 rows, 256 times)
//! return %1 %2
//! ```
//!
//! A row is an index of the first dimension. An op says by
//! [`by_rows`](autograd_core::Primitive::by_rows) that its rows are independent; a fused op's are
//! where its operands have the rows or are the same for all of them. Ops over as many rows join
//! where one reads the other's rows, or both read those of a third value. A sum over the rows
//! becomes one term for each block, and a sum of these terms. What passes between the ops of a group
//! is as large as a block, and is never written to main memory.
//!
//! How many rows a block has depends on shapes alone, so results do not depend on the number of
//! threads.

use super::fuse::Groups;
use super::rewrite::Rewrite;
use crate::blocked::{Blocked, in_order};
use crate::capture::capture;
use crate::fused::{Fused, FusedOutput, MOST_INPUTS, MOST_OUTPUTS};
use crate::graph::meta_of;
use crate::plan::layouts;
use crate::regions::held;
use autograd_core::algebra::reshape;
use autograd_core::kernels::expr::Builder;
use autograd_core::smallvec::SmallVec;
use autograd_core::{
    DType, Error, Instruction, Layout, Mask, Meta, Operand, Prim, Program, Result, ScalarExpr, Shape,
};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// What the values of a block take: about a third of a core's second cache, and a little more than a
/// power of two, for the statistics that rows come with.
const BLOCK_BYTES: usize = 320 * 1024;

/// Blocks that hold less than this would be more work to begin than to do.
const LEAST_BYTES: usize = 16 * 1024;

/// Groups over less than this stay in the cache as they are.
const WORTH: usize = 1024 * 1024;

/// How an instruction treats rows.
struct Member {
    rows: usize,
    /// The operands and outputs that have the rows.
    operands: Mask,
    outputs: Mask,
}

fn as_fused(op: &Prim) -> Option<&Fused> {
    op.as_any()?.downcast_ref()
}

fn first(shape: &Shape) -> usize {
    shape.dims().first().copied().unwrap_or(1)
}

/// Whether an op leaves elements where they are and rows what they are.
pub(super) fn reshapes(instruction: &Instruction, metas: &[Meta]) -> bool {
    let ([x], [y]) = (metas, &instruction.outputs[..]) else { return false };
    let view = instruction.op.view(y, &[&Layout::contiguous(x.shape)]);
    let same = view.is_some_and(|(_, layout)| layout == Layout::contiguous(y.shape));
    same && x.dtype == y.dtype && y.shape.rank() > 0 && x.elements() == y.elements()
}

/// The op that gives rows another shape, and makes one value of one.
fn reshape_rows(x: &Meta, shape: Shape) -> Result<Prim> {
    let program = capture(|x| Ok(vec![reshape(&x[0], &shape)?]), std::slice::from_ref(x))?;
    let made = program.instructions.into_iter().next().map(|instruction| instruction.op);
    made.ok_or_else(|| Error::internal("rows", "a reshape is an op"))
}

fn member(
    program: &Program,
    instruction: &Instruction,
    layout: &dyn Fn(Operand) -> Layout,
) -> Option<Member> {
    let metas: SmallVec<[Meta; 4]> = instruction.operands.iter().map(|o| meta_of(program, *o)).collect();
    if metas.len() > Mask::CAPACITY
        || held(program, instruction)
        || instruction.outputs.iter().any(|out| out.elements() == 0)
    {
        return None;
    }
    let made = if let Some(fused) = as_fused(&instruction.op) {
        let rows = first(&fused.shape);
        let rank = fused.shape.rank();
        let has = |shape: &Shape| shape.rank() == rank && first(shape) == rows;
        Member {
            rows,
            operands: Mask::of(metas.len(), |i| has(&metas[i].shape)),
            outputs: Mask::of(fused.outputs.len(), |j| first(&fused.outputs[j].kept) == rows),
        }
    } else if reshapes(instruction, &metas) {
        Member { rows: first(&metas[0].shape), operands: Mask::one(0), outputs: Mask::one(0) }
    } else {
        let by = instruction.op.by_rows(&metas)?;
        let rows = metas.iter().enumerate().find(|(i, _)| !by.whole.has(*i)).map(|(_, m)| first(&m.shape))?;
        Member {
            rows,
            operands: Mask::of(metas.len(), |i| !by.whole.has(i)),
            outputs: Mask::of(instruction.outputs.len(), |j| !by.summed.has(j)),
        }
    };
    let fits = |has: Mask, i: usize, meta: &Meta| !has.has(i) || first(&meta.shape) == made.rows;
    let sums = |(j, out): (usize, &Meta)| {
        made.outputs.has(j) || matches!(out.dtype, DType::F32 | DType::F64) && out.shape.rank() < 8
    };
    let sound = made.rows > 1
        && !made.operands.is_empty()
        && metas.iter().enumerate().all(|(i, meta)| fits(made.operands, i, meta))
        && instruction.outputs.iter().enumerate().all(|(j, meta)| fits(made.outputs, j, meta))
        && instruction.outputs.iter().enumerate().all(sums)
        && instruction.operands.iter().all(|operand| in_order(&layout(*operand)));
    sound.then_some(made)
}

pub(super) fn block(old: &Program) -> Result<Program> {
    let layout = layouts(old);
    let members: Vec<Option<Member>> = old.instructions.iter().map(|i| member(old, i, &layout)).collect();
    let mut groups = Groups::new(old);
    grow(old, &members, &mut groups);
    let mut new = Rewrite::of(old);
    for group in groups.order() {
        let all = groups.members_of(group).to_vec();
        let done = several(old, &all) && emit(old, &members, &groups, &all, &mut new)?;
        if !done {
            all.iter().for_each(|&i| new.keep(i, &old.instructions[i]));
        }
    }
    Ok(new.finish(old))
}

/// Whether more than one of the instructions computes something.
fn several(program: &Program, all: &[usize]) -> bool {
    let computes = |i: &&usize| {
        let instruction = &program.instructions[**i];
        let metas: SmallVec<[Meta; 4]> = instruction.operands.iter().map(|o| meta_of(program, *o)).collect();
        !reshapes(instruction, &metas)
    };
    all.iter().filter(computes).count() > 1
}

/// Joins each instruction with those whose rows it reads, and those that read rows which it reads.
fn grow(program: &Program, members: &[Option<Member>], groups: &mut Groups<'_>) {
    let mut readers: HashMap<Operand, Vec<usize>> = HashMap::new();
    for (i, instruction) in program.instructions.iter().enumerate() {
        let Some(own) = &members[i] else { continue };
        for operand in rows_read(instruction, own) {
            let mut others = readers.get(operand).cloned().unwrap_or_default();
            if let Operand::Result { instruction: from, .. } = *operand {
                others.push(from);
            }
            for other in others {
                let alike = members[other].as_ref().is_some_and(|other| other.rows == own.rows)
                    && program.instructions[other].section == instruction.section;
                let (a, b) = (groups.group_of(other), groups.group_of(i));
                if alike
                    && a != b
                    && meet_in_rows(program, members, groups, a, b)
                    && !groups.path_through_others(a, b)
                {
                    groups.merge(a, b);
                }
            }
            readers.entry(*operand).or_default().push(i);
        }
    }
}

/// The operands of which an instruction reads rows.
fn rows_read<'a>(instruction: &'a Instruction, own: &'a Member) -> impl Iterator<Item = &'a Operand> {
    instruction.operands.iter().enumerate().filter(|(k, _)| own.operands.has(*k)).map(|(_, operand)| operand)
}

/// Whether two groups read nothing from each other but rows, as rows.
fn meet_in_rows(
    program: &Program,
    members: &[Option<Member>],
    groups: &Groups<'_>,
    a: usize,
    b: usize,
) -> bool {
    let fine = |from: usize, to: usize| {
        groups.members_of(to).iter().all(|&i| {
            program.instructions[i].operands.iter().enumerate().all(|(k, operand)| match *operand {
                Operand::Result { instruction, output } if groups.group_of(instruction) == from => {
                    let reads = members[i].as_ref().is_some_and(|m| m.operands.has(k));
                    reads && members[instruction].as_ref().is_some_and(|m| m.outputs.has(output))
                }
                _ => true,
            })
        })
    };
    fine(a, b) && fine(b, a)
}

/// The shape of as many rows.
fn with_rows(meta: &Meta, rows: usize) -> Meta {
    let mut meta = *meta;
    meta.shape.dims_mut()[0] = rows;
    meta
}

/// How many rows a block has; `None` where blocks are not worth it.
fn rows_of_a_block(rows: usize, bytes: usize, sums: usize) -> Option<usize> {
    let each = bytes.div_ceil(rows);
    let divisors = (1..rows).filter(|&r| rows.is_multiple_of(r));
    let fits = |r: usize| r * each <= BLOCK_BYTES || r == 1;
    // Terms of sums must be few against the rows.
    let few = |r: usize| (rows / r) * sums <= bytes / 8;
    let best = divisors.clone().filter(|&r| fits(r)).max()?;
    let best = if few(best) { best } else { divisors.filter(|&r| r > best && few(r)).min()? };
    (best * each >= LEAST_BYTES && best * each <= 16 * BLOCK_BYTES).then_some(best)
}

/// Appends a group as one instruction, where that is worth it.
fn emit(
    old: &Program,
    members: &[Option<Member>],
    groups: &Groups<'_>,
    all: &[usize],
    new: &mut Rewrite,
) -> Result<bool> {
    let inside: HashSet<usize> = all.iter().copied().collect();
    let written = groups.written(all, &inside);
    let Some(rows) = members[all[0]].as_ref().map(|m| m.rows) else { return Ok(false) };

    // What is read from outside, by rows or whole.
    let mut inputs: Vec<(Operand, bool)> = Vec::new();
    let (mut bytes, mut sums) = (0, 0);
    for &i in all {
        let (instruction, Some(own)) = (&old.instructions[i], &members[i]) else { return Ok(false) };
        for (k, operand) in instruction.operands.iter().enumerate() {
            let from_inside =
                matches!(*operand, Operand::Result { instruction, .. } if inside.contains(&instruction));
            let input = (*operand, own.operands.has(k));
            if !from_inside && !inputs.contains(&input) {
                inputs.push(input);
                bytes += if input.1 { meta_of(old, *operand).bytes() } else { 0 };
            }
        }
        for (j, out) in instruction.outputs.iter().enumerate() {
            if own.outputs.has(j) {
                bytes += out.bytes();
            } else if written.contains(&(i, j)) {
                sums += out.bytes();
            }
        }
    }
    if bytes < WORTH || inputs.len() > MOST_INPUTS || written.len() > MOST_OUTPUTS {
        return Ok(false);
    }
    let Some(share) = rows_of_a_block(rows, bytes, sums) else { return Ok(false) };

    let mut part = Program::default();
    let mut at: HashMap<(Operand, bool), Operand> = HashMap::new();
    for (k, (operand, by_rows)) in inputs.iter().enumerate() {
        let meta = meta_of(old, *operand);
        part.inputs.push(if *by_rows { with_rows(&meta, share) } else { meta });
        at.insert((*operand, *by_rows), Operand::Input(k));
    }
    for &i in all {
        let (instruction, Some(own)) = (&old.instructions[i], &members[i]) else { return Ok(false) };
        let operands: SmallVec<[Operand; 2]> =
            instruction.operands.iter().enumerate().map(|(k, o)| at[&(*o, own.operands.has(k))]).collect();
        let metas: Vec<Meta> = operands.iter().map(|o| part.meta_of(*o)).collect();
        let whole: SmallVec<[Meta; 4]> = instruction.operands.iter().map(|o| meta_of(old, *o)).collect();
        let op = match as_fused(&instruction.op) {
            Some(fused) => Prim::Shared(Arc::new(over_rows(fused, rows, share))),
            None if reshapes(instruction, &whole) => {
                reshape_rows(&metas[0], with_rows(&instruction.outputs[0], share).shape)?
            }
            None => instruction.op.clone(),
        };
        let signature = op.infer(&metas)?;
        let mut outputs = signature.outputs;
        if instruction.aux > 0 {
            outputs.extend(signature.aux);
        }
        part.instructions.push(Instruction { op, operands, outputs, section: None, ..instruction.clone() });
        let made = part.instructions.len() - 1;
        for output in 0..instruction.outputs.len() {
            let old = Operand::Result { instruction: i, output };
            at.insert((old, own.outputs.has(output)), Operand::Result { instruction: made, output });
        }
    }
    let mut terms = Mask::EMPTY;
    for (position, &(i, output)) in written.iter().enumerate() {
        let by_rows = members[i].as_ref().is_some_and(|m| m.outputs.has(output));
        part.outputs.push(at[&(Operand::Result { instruction: i, output }, by_rows)]);
        if !by_rows {
            terms = terms.with(position);
        }
    }
    let op = Blocked {
        part: Arc::new(part),
        blocks: rows / share,
        rows: Mask::of(inputs.len(), |k| inputs[k].1),
        terms,
    };
    let Instruction { site, section, .. } = old.instructions[all[0]];
    let outputs = op.outputs();
    let made = new.push(Instruction {
        operands: inputs.iter().map(|(operand, _)| new.at(*operand)).collect(),
        outputs: outputs.clone(),
        aux: 0,
        site,
        section,
        op: Prim::Shared(Arc::new(op)),
    });
    for (position, &(i, output)) in written.iter().enumerate() {
        let mut value = Operand::Result { instruction: made, output: position };
        if terms.has(position) {
            let sum = sum_of_terms(&outputs[position], old.instructions[i].outputs[output].shape);
            let meta = old.instructions[i].outputs[output];
            let at = new.push(Instruction {
                op: Prim::Shared(Arc::new(sum)),
                operands: [value].into_iter().collect(),
                outputs: [meta].into_iter().collect(),
                aux: 0,
                site,
                section,
            });
            value = Operand::Result { instruction: at, output: 0 };
        }
        new.replace_output(i, output, value);
    }
    Ok(true)
}

/// A fused op over some of its rows.
fn over_rows(fused: &Fused, rows: usize, share: usize) -> Fused {
    let with = |shape: Shape, has: bool| {
        let mut shape = shape;
        if has {
            shape.dims_mut()[0] = share;
        }
        shape
    };
    let mut part = fused.clone();
    part.shape = with(fused.shape, true);
    for out in &mut part.outputs {
        let has = first(&out.kept) == rows;
        (out.kept, out.shape) = (with(out.kept, has), with(out.shape, has));
    }
    part
}

/// The sum of the blocks' terms.
fn sum_of_terms(terms: &Meta, shape: Shape) -> Fused {
    let mut b = Builder::new();
    let x = b.input(0);
    let mut kept = terms.shape;
    kept.dims_mut()[0] = 1;
    let out = FusedOutput { kept, shape, scale: 1.0, mask: false };
    Fused::new(ScalarExpr::new(b.finish(&[x], 1, 0)), terms.shape, terms.dtype, vec![out], vec!["sum"])
}
