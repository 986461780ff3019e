//! Scheduling for memory: among the ops that are ready, the one that frees most goes first.
//!
//! ```text
//! before: 3 large values at once        after: 2
//! %0 = relu x0 : [1024, 1024]           %0 = relu x0 : [1024, 1024]
//! %1 = tanh x0 : [1024, 1024]           %1 = sum %0 : []
//! %2 = sum %0 : []                      %2 = tanh x0 : [1024, 1024]
//! %3 = sum %1 : []                      %3 = sum %2 : []
//! ```
//!
//! The order is taken only where it needs less memory than the program's own.

use super::gather::gather;
use super::rewrite::Rewrite;
use crate::plan::{peak_bytes, storage_roots};
use autograd_core::{Operand, Program, Result};
use std::collections::BTreeSet;

pub(super) fn schedule(old: &Program) -> Result<Program> {
    let new = gather(&reordered(old, &greedy(old)))?;
    Ok(if peak_bytes(&new) < peak_bytes(old) { new } else { old.clone() })
}

fn reordered(old: &Program, order: &[usize]) -> Program {
    let mut new = Rewrite::of(old);
    for &i in order {
        new.keep(i, &old.instructions[i]);
    }
    new.finish(old)
}

/// List scheduling: what makes the fewest bytes beyond those it frees, the program's order at ties.
fn greedy(program: &Program) -> Vec<usize> {
    let n = program.instructions.len();
    let roots = storage_roots(program);
    // How many instructions have yet to read the memory behind each instruction's outputs.
    let mut readers = vec![0usize; n];
    let mut reads: Vec<BTreeSet<usize>> = vec![BTreeSet::new(); n];
    let mut waits: Vec<BTreeSet<usize>> = vec![BTreeSet::new(); n];
    let mut feeds: Vec<Vec<usize>> = vec![Vec::new(); n];
    for (i, instruction) in program.instructions.iter().enumerate() {
        for operand in &instruction.operands {
            if let Operand::Result { instruction: from, .. } = *operand {
                if waits[i].insert(from) {
                    feeds[from].push(i);
                }
                reads[i].extend(roots[from]);
            }
        }
        reads[i].iter().for_each(|&root| readers[root] += 1);
    }
    for output in &program.outputs {
        if let Operand::Result { instruction, .. } = *output
            && let Some(root) = roots[instruction]
        {
            // It is never freed.
            readers[root] += 1;
        }
    }
    let bytes = |i: usize| -> i64 {
        let made: usize = program.instructions[i].outputs.iter().map(autograd_core::Meta::bytes).sum();
        made as i64
    };
    let mut ready: BTreeSet<usize> = (0..n).filter(|&i| waits[i].is_empty()).collect();
    let mut order = Vec::with_capacity(n);
    while !ready.is_empty() {
        let cost = |i: usize| {
            let makes = if roots[i] == Some(i) { bytes(i) } else { 0 };
            let frees: i64 =
                reads[i].iter().filter(|&&root| readers[root] == 1).map(|&root| bytes(root)).sum();
            makes - frees
        };
        // Beyond a few dozen candidates the earliest ones are as good.
        let best = ready.iter().copied().take(32).min_by_key(|&i| (cost(i), i));
        let Some(i) = best else { break };
        ready.remove(&i);
        order.push(i);
        reads[i].iter().for_each(|&root| readers[root] -= 1);
        for &next in &feeds[i] {
            waits[next].remove(&i);
            if waits[next].is_empty() {
                ready.insert(next);
            }
        }
    }
    order
}
