//! Rematerialisation to a budget: values anywhere in the graph are computed again, whatever op
//! makes them, until the planned arena fits.
//!
//! ```text
//! before: %0 waits for %9               after: only x0 does
//! %0 = matmul x0 x1 : [1024, 1024]      %0 = matmul x0 x1 : [1024, 1024]
//! %1 = tanh %0                          %1 = tanh %0
//! ..                                    ..
//! %9 = mul %8 %0                        %9 = matmul x0 x1 : [1024, 1024]
//!                                       %10 = mul %8 %9
//! ```
//!
//! A value that nobody reads at the peak, though it lives there, is computed again in front of its
//! next use, for that one and all later ones; operands that are dead by then are computed again
//! too, as far back as it takes. Taken first is what frees the most bytes over the longest time for
//! the least work, and only what lowers the bytes above the target, which sinks step by step. The
//! search does not look at the budget: it stops at the first graph whose plan fits. So the least
//! that an error names is a budget that would have been met; whether less is possible nobody knows,
//! because the problem is NP-hard.
//!
//! The same ops run on the same operands, so results are equal to the bit.

use super::rewrite::Rewrite;
use crate::graph::Graph;
use crate::plan::Plan;
use crate::usage::Usage;
use autograd_core::{At, Error, Meta, Operand, Program, Result, Rule};
use std::collections::BTreeSet;

/// A graph that computes some of its values more than once, so as to run in less memory.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Recomputation {
    /// The graph. Passes that share equal ops would undo it.
    pub graph: Graph,
    /// Bytes of the arena that it is planned to run in.
    pub planned_bytes: usize,
    /// Ops that are evaluated again.
    pub again: usize,
    /// Their estimated time, over that of all others.
    pub extra_work: f64,
}

/// Each target is so much of the peak before.
const SINK: (usize, usize) = (31, 32);

/// Values tried at one peak before the next peak is looked at.
const TRIED: usize = 64;

/// Peaks looked at before the target counts as out of reach.
const PEAKS: usize = 4;

/// Ops that may be computed again for one value.
const LONGEST: usize = 128;

impl Graph {
    /// The graph with as much computed again as it takes to run in an arena of `budget` bytes:
    /// greedily, so that the extra work is small but not the least possible. The arena is all that
    /// a run takes beside inputs, parameters and outputs; `in_place` says whether fused ops write
    /// over inputs that die, as in [`Passes`](crate::Passes). It comes after the passes:
    /// [`Options::budget`](crate::Options) does so.
    ///
    /// # Errors
    /// [`Error::Budget`] where the search does not get there, with the least budget at which it
    /// does; as [`compile`](Self::compile).
    pub fn recompute_within(&self, budget: usize, in_place: bool) -> Result<Recomputation> {
        let mut least = usize::MAX;
        let mut found = None;
        descend(self.program(), in_place, |program, bytes| {
            least = least.min(bytes);
            let fits = bytes <= budget;
            if fits {
                found = Some((program.clone(), bytes));
            }
            fits
        })?;
        let (program, planned_bytes) = found.ok_or(Error::Budget { budget, least, at: At::default() })?;
        let all: f64 = (0..program.instructions.len()).map(|i| nanoseconds(&program, i)).sum();
        let first: f64 = (0..self.program().instructions.len()).map(|i| nanoseconds(self.program(), i)).sum();
        Ok(Recomputation {
            again: evaluated(&program) - evaluated(self.program()),
            planned_bytes,
            extra_work: if first > 0.0 { (all - first) / first } else { 0.0 },
            graph: Self::with_hints(program, self.hints)?,
        })
    }

    /// The budgets at which [`recompute_within`](Self::recompute_within) gives another graph, most
    /// bytes first, each with its extra work over that of the graph as it is.
    ///
    /// # Errors
    /// As [`compile`](Self::compile).
    pub fn recompute_trades(&self, in_place: bool) -> Result<Vec<(usize, f64)>> {
        let work = |program: &Program| -> f64 {
            (0..program.instructions.len()).map(|i| nanoseconds(program, i)).sum()
        };
        let first = work(self.program()).max(f64::MIN_POSITIVE);
        let mut trades: Vec<(usize, f64)> = Vec::new();
        descend(self.program(), in_place, |program, bytes| {
            if trades.last().is_none_or(|(least, _)| bytes < *least) {
                trades.push((bytes, work(program) / first - 1.0));
            }
            false
        })?;
        Ok(trades)
    }
}

/// How many instructions make memory.
fn evaluated(program: &Program) -> usize {
    let usage = Usage::of(program, false);
    (0..program.instructions.len()).filter(|&i| !usage.is_view(i)).count()
}

/// Walks from the program to ones of less and less memory, showing each with its planned bytes,
/// until `seen` is content or nothing more is found.
fn descend(program: &Program, in_place: bool, mut seen: impl FnMut(&Program, usize) -> bool) -> Result<()> {
    let mut program = program.clone();
    let mut usage = Usage::of(&program, in_place);
    let mut planned = Plan::new(&program, in_place)?.bytes;
    if seen(&program, planned) {
        return Ok(());
    }
    let mut target = usage.peak().0;
    loop {
        if usage.peak().0 <= target {
            target = (usage.peak().0 / SINK.1 * SINK.0).min(usage.peak().0.saturating_sub(1));
        }
        let Some(better) = step(&program, &usage, target, in_place) else { return Ok(()) };
        (program, usage) = better;
        // The arena is never smaller than what lives in it.
        if usage.peak().0 < planned {
            let bytes = Plan::new(&program, in_place)?.bytes;
            planned = planned.min(bytes);
            if seen(&program, bytes) {
                return Ok(());
            }
        }
    }
}

/// A value to compute again in front of an instruction.
struct Candidate {
    /// The instructions to repeat, in order.
    again: Vec<usize>,
    before: usize,
    score: f64,
}

/// The program with one more value computed again, if that brings less memory above the target.
fn step(program: &Program, usage: &Usage, target: usize, in_place: bool) -> Option<(Program, Usage)> {
    let above = |usage: &Usage| -> usize { usage.live.iter().map(|live| live.saturating_sub(target)).sum() };
    let now = above(usage);
    let uses = uses(program, usage);
    let mut left: Vec<usize> = (0..usage.live.len()).filter(|&i| usage.live[i] > target).collect();
    for _ in 0..PEAKS {
        let peak = left.iter().copied().max_by_key(|&i| (usage.live[i], i))?;
        let mut candidates = candidates(program, usage, &uses, peak);
        candidates.sort_by(|a, b| b.score.total_cmp(&a.score));
        for candidate in candidates.iter().take(TRIED) {
            let next = recomputed(program, usage, candidate);
            let next_usage = Usage::of(&next, in_place);
            if above(&next_usage) < now {
                return Some((next, next_usage));
            }
        }
        // Next door the same values wait.
        let near = usage.live.len() / 16 + 1;
        left.retain(|&i| i.abs_diff(peak) > near);
    }
    None
}

/// For each instruction that makes memory, the instructions that read it, in order; the program's
/// length for what it gives out.
fn uses(program: &Program, usage: &Usage) -> Vec<Vec<usize>> {
    let n = program.instructions.len();
    let mut uses: Vec<Vec<usize>> = vec![Vec::new(); n];
    for (i, instruction) in program.instructions.iter().enumerate() {
        // A rearrangement reads nothing: what reads it does.
        if usage.is_view(i) {
            continue;
        }
        for (made, _) in instruction.operands.iter().filter_map(|o| usage.home(*o)) {
            if uses[made].last() != Some(&i) {
                uses[made].push(i);
            }
        }
    }
    for (made, _) in program.outputs.iter().filter_map(|o| usage.home(*o)) {
        if uses[made].last() != Some(&n) {
            uses[made].push(n);
        }
    }
    uses
}

/// What lives at an instruction and waits there for a later one.
fn candidates(program: &Program, usage: &Usage, uses: &[Vec<usize>], at: usize) -> Vec<Candidate> {
    let mut found = Vec::new();
    for (made, uses) in uses.iter().enumerate().take(at) {
        let bytes: usize = usage.bytes[made]
            .iter()
            .zip(&usage.last[made])
            .filter(|(_, last)| **last > at)
            .map(|(bytes, _)| *bytes)
            .sum();
        let next = uses.partition_point(|&i| i <= at);
        let Some(&before) = uses.get(next) else { continue };
        let previous = if next == 0 { made } else { uses[next - 1] };
        if bytes == 0 || previous == at {
            continue;
        }
        let Some(again) = repeated(program, usage, made, before) else { continue };
        let work: f64 = again.iter().map(|&i| nanoseconds(program, i)).sum();
        let score = bytes as f64 * (before - previous) as f64 / work.max(1.0);
        found.push(Candidate { again, before, score });
    }
    found
}

/// The instructions that make a value again from what is alive in front of `before`; `None` where
/// they are too many, or run code of the user's.
fn repeated(program: &Program, usage: &Usage, made: usize, before: usize) -> Option<Vec<usize>> {
    let mut again = BTreeSet::from([made]);
    let mut open = vec![made];
    while let Some(i) = open.pop() {
        if matches!(program.instructions[i].op.rule(), Rule::Opaque(_)) || again.len() > LONGEST {
            return None;
        }
        for operand in &program.instructions[i].operands {
            let (Operand::Result { instruction, .. }, Some((a, b))) = (*operand, usage.home(*operand)) else {
                continue;
            };
            let alive = a != made && usage.last[a][b] >= before;
            if !alive && again.insert(instruction) {
                open.push(instruction);
            }
        }
    }
    // Rearrangements of the value that are read later are made of the new one.
    for i in made + 1..before {
        if usage.is_view(i)
            && usage.home(Operand::Result { instruction: i, output: 0 }).is_some_and(|h| h.0 == made)
        {
            again.insert(i);
        }
    }
    Some(again.into_iter().collect())
}

/// The program with the candidate's instructions repeated; later ones read the new results.
fn recomputed(old: &Program, usage: &Usage, candidate: &Candidate) -> Program {
    let n = old.instructions.len();
    let reads = |k: usize, i: usize| old.instructions[k].operands.iter().any(|o| made_by(*o) == Some(i));
    // Rearrangements are repeated where they are read later, and go where they are read no more.
    let mut wanted = BTreeSet::new();
    let mut gone = BTreeSet::new();
    for &i in candidate.again.iter().rev() {
        let later = || {
            (candidate.before..n).any(|k| reads(k, i)) || old.outputs.iter().any(|o| made_by(*o) == Some(i))
        };
        if !usage.is_view(i) || wanted.iter().any(|&k| reads(k, i)) || later() {
            wanted.insert(i);
        }
        if usage.is_view(i) && !(i + 1..candidate.before).any(|k| !gone.contains(&k) && reads(k, i)) {
            gone.insert(i);
        }
    }
    let mut new = Rewrite::of(old);
    for i in 0..=n {
        if i == candidate.before {
            for &k in &wanted {
                let mut again = old.instructions[k].clone();
                // What is computed again for a checkpointed region is part of it.
                again.section = old.instructions.get(i).and_then(|reader| reader.section);
                for operand in &mut again.operands {
                    *operand = new.at(*operand);
                }
                let at = new.push(again);
                for output in 0..old.instructions[k].outputs.len() {
                    new.replace_output(k, output, Operand::Result { instruction: at, output });
                }
            }
        }
        if i < n && !gone.contains(&i) {
            new.keep(i, &old.instructions[i]);
        }
    }
    new.finish(old)
}

fn made_by(operand: Operand) -> Option<usize> {
    match operand {
        Operand::Result { instruction, .. } => Some(instruction),
        Operand::Input(_) | Operand::Constant(_) => None,
    }
}

/// Floating point operations that an ordinary core does in a nanosecond.
const OPERATIONS: f64 = 50.0;
/// Bytes that it reads and writes in a nanosecond.
const BYTES: f64 = 10.0;

/// An estimate of an instruction's time.
fn nanoseconds(program: &Program, i: usize) -> f64 {
    let instruction = &program.instructions[i];
    let metas: Vec<Meta> = instruction.operands.iter().map(|o| program.meta_of(*o)).collect();
    let bytes: usize = metas.iter().chain(&instruction.outputs).map(Meta::bytes).sum();
    instruction.op.operations(&metas) as f64 / OPERATIONS + bytes as f64 / BYTES
}
