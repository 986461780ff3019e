//! Rematerialisation: cheap values are computed again near a late use instead of being kept.
//!
//! ```text
//! before: %0 lives through all of it    after: only x0 does
//! %0 = relu x0 : [1024, 1024]           %0 = relu x0 : [1024, 1024]
//! %1 = matmul %0 x1                     %1 = matmul %0 x1
//! ..                                    ..
//! %9 = mul %8 %0                        %9 = relu x0 : [1024, 1024]
//!                                       %10 = mul %8 %9
//! ```
//!
//! A pointwise value is recomputed for its uses after a gap where all that it reads is alive there
//! anyway, so that memory is only saved. Matrix products, convolutions, attention and reductions
//! are never computed twice. Greedy, the largest values first, and each one is taken only where
//! the program's peak falls. What is computed again reads through barriers, as in `min_cut`.

use super::gate::{Gates, latest};
use super::rewrite::Rewrite;
use crate::graph::meta_of;
use crate::plan::peak_bytes;
use autograd_core::{Operand, Program, Result};

/// Uses that follow within so many instructions are near.
const NEAR: usize = 6;

/// Values smaller than this are not worth the work.
const WORTH: usize = 64 * 1024;

/// No more values than this are tried: each costs a plan of the whole program.
const TRIED: usize = 48;

pub(super) fn rematerialise(old: &Program) -> Result<Program> {
    let mut program = old.clone();
    let mut peak = peak_bytes(&program);
    let mut tried = 0;
    loop {
        let mut candidates = candidates(&program);
        candidates.sort_by_key(|c| std::cmp::Reverse(c.bytes));
        let mut taken = false;
        for candidate in candidates {
            if tried == TRIED {
                return Ok(program);
            }
            tried += 1;
            let next = recomputed(&program, &candidate);
            let less = peak_bytes(&next);
            if less < peak {
                (program, peak, taken) = (next, less, true);
                break;
            }
        }
        if !taken {
            return Ok(program);
        }
    }
}

/// A value to compute again in front of one instruction, for it and all later ones.
struct Candidate {
    value: usize,
    before: usize,
    bytes: usize,
}

fn candidates(program: &Program) -> Vec<Candidate> {
    let n = program.instructions.len();
    let mut uses: Vec<Vec<usize>> = vec![Vec::new(); n];
    let mut last = vec![0; n];
    for (i, instruction) in program.instructions.iter().enumerate() {
        for operand in &instruction.operands {
            if let Operand::Result { instruction: from, .. } = *operand {
                uses[from].push(i);
                last[from] = i;
            }
        }
    }
    for output in &program.outputs {
        if let Operand::Result { instruction, .. } = *output {
            last[instruction] = n;
        }
    }
    let alive = |operand: &Operand, at: usize| match *operand {
        Operand::Result { instruction, .. } => last[instruction] > at,
        Operand::Input(_) | Operand::Constant(_) => true,
    };
    let mut found = Vec::new();
    for (i, instruction) in program.instructions.iter().enumerate() {
        let [output] = instruction.outputs[..] else { continue };
        if last[i] == n || output.bytes() < WORTH || instruction.op.as_pointwise().is_none() {
            continue;
        }
        // The first use that comes after a gap in which nobody reads it.
        let mut previous = i;
        let late = uses[i].iter().copied().find(|&at| {
            let far = at > previous + NEAR;
            previous = at;
            far
        });
        // A checkpointed region has its own way to compute again.
        let together = |at: usize| program.instructions[at].section == instruction.section;
        let there = |at: usize| instruction.operands.iter().all(|o| alive(o, at));
        if let Some(before) = late.filter(|&at| together(at) && there(at)) {
            found.push(Candidate {
                value: i,
                before,
                bytes: meta_of(program, Operand::Result { instruction: i, output: 0 }).bytes(),
            });
        }
    }
    found
}

/// The program with a value computed again.
fn recomputed(old: &Program, candidate: &Candidate) -> Program {
    let mut new = Rewrite::of(old);
    let mut gates = Gates::default();
    for (i, instruction) in old.instructions.iter().enumerate() {
        if i == candidate.before {
            let mut again = old.instructions[candidate.value].clone();
            let token = latest(&instruction.operands, candidate.value + 1).map(|token| new.at(token));
            let value = &old.instructions[candidate.value];
            for operand in &mut again.operands {
                let kept = new.at(*operand);
                *operand = token.map_or(kept, |token| gates.pass(&mut new, kept, token, value));
            }
            let at = new.push(again);
            new.replace(candidate.value, Operand::Result { instruction: at, output: 0 });
        }
        new.keep(i, instruction);
    }
    new.finish(old)
}
