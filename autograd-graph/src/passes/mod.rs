//! Passes: functions from programs to programs that compute the same with less work.
//!
//! Each stands in a file of its own and can be switched off in [`Passes`]. Debug builds check the
//! program after every pass.

mod affine;
mod block;
mod budget;
mod common;
mod dead;
mod epilogue;
mod flow;
mod fold;
mod fuse;
mod gate;
mod gather;
mod join;
mod min_cut;
mod rematerialise;
mod rewrite;
mod schedule;
mod simplify;
mod sink;
mod uses;

use crate::check::check;
use crate::graph::Graph;
use crate::plan::Plan;
use autograd_core::{Error, Program, Result};
pub use budget::Recomputation;

/// Which passes run. All do by default, but [`epilogue`](Self::epilogue).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passes {
    /// What is computed from literals is computed once, while compiling.
    pub fold: bool,
    /// Neutral elements, double negations, rearrangements that change nothing, cheaper powers.
    pub simplify: bool,
    /// Rearrangements move behind pointwise ops and into matrix products.
    pub sink: bool,
    /// A product of matrices and the bias added to it become one op.
    pub linear: bool,
    /// Sums of values that lie next to each other between zeros become concatenations.
    pub join: bool,
    /// Equal ops on equal operands are computed once.
    pub common: bool,
    /// What no output needs is left out, hints that no rule reads too.
    pub dead: bool,
    /// Cheap values of the forward pass are computed again in the backward pass where that takes
    /// less memory than keeping them.
    pub rematerialise: bool,
    /// The same by a minimum cut between what is computed once and the backward pass. Of this, the
    /// greedy way and neither, what needs the smallest arena is taken.
    pub min_cut: bool,
    /// Runs of pointwise ops and the sums of them become one pass over memory.
    pub fuse: bool,
    /// Ops whose rows are independent run on a few rows at a time.
    pub block: bool,
    /// A product or a convolution, and the fused op that reads it, become one op. It moves fewer bytes
    /// and takes as long or a little longer where the last cache holds them, so it is off by default.
    pub epilogue: bool,
    /// Ops run in the order that needs the least memory.
    pub schedule: bool,
    /// A fused op writes over an input that nobody reads afterwards.
    pub in_place: bool,
}

impl Passes {
    /// All of them.
    pub const ALL: Self = Self {
        fold: true,
        simplify: true,
        sink: true,
        linear: true,
        join: true,
        common: true,
        dead: true,
        rematerialise: true,
        min_cut: true,
        fuse: true,
        block: true,
        epilogue: true,
        schedule: true,
        in_place: true,
    };

    /// None of them: the ops as they were captured.
    pub const NONE: Self = Self {
        fold: false,
        simplify: false,
        sink: false,
        linear: false,
        join: false,
        common: false,
        dead: false,
        rematerialise: false,
        min_cut: false,
        fuse: false,
        block: false,
        epilogue: false,
        schedule: false,
        in_place: false,
    };
}

impl Default for Passes {
    fn default() -> Self {
        let mut passes = Self::ALL;
        passes.epilogue = false;
        passes
    }
}

impl Graph {
    /// The graph after these passes, in their order.
    ///
    /// Results stay within rounding of the interpreter's: fused ops keep numbers in registers that
    /// ops one by one round to memory only in half types, known numbers are folded in f64, and
    /// sums of fused ops are made in f64.
    ///
    /// Its checkpointed regions stay: [`gradient`](Self::gradient) of the new graph computes them
    /// again. So nothing is fused or shared across the border of a region, and what a policy keeps
    /// stays the op that it names; [`compile`](Self::compile), which differentiates the graph as it
    /// was captured, knows no such borders.
    ///
    /// # Errors
    /// [`Error::Internal`](autograd_core::Error::Internal) where a pass broke the program, in debug
    /// builds.
    pub fn optimise(&self, passes: &Passes) -> Result<Self> {
        let program = run(
            self.program(),
            &[
                (passes.dead, dead::remove),
                (passes.fold, fold::fold),
                (passes.simplify, simplify::simplify),
                (passes.common, common::share),
                (passes.join, join::join),
                (passes.dead, dead::remove),
            ],
        )?;
        let program = if passes.sink { sunk(program, passes)? } else { program };
        let program = run(&program, &[(passes.linear, affine::fold), (passes.linear, dead::remove)])?;
        let mut variants = vec![program.clone()];
        if passes.rematerialise {
            variants.push(rematerialise::rematerialise(&program)?);
        }
        if passes.min_cut {
            variants.extend(min_cut::candidates(&program));
        }
        let mut best: Option<(usize, Program)> = None;
        for variant in variants {
            let (program, bytes, _) = finished(&variant, passes)?;
            if best.as_ref().is_none_or(|(least, _)| bytes < *least) {
                best = Some((bytes, program));
            }
        }
        let (_, program) = best.ok_or_else(|| Error::internal("optimise", "there is always a program"))?;
        Self::with_hints(program, self.hints)
    }
}

/// The program with rearrangements sunk, where a run then moves no more bytes than without.
fn sunk(program: Program, passes: &Passes) -> Result<Program> {
    let Some(sunk) = sink::sink(&program)? else { return Ok(program) };
    let sunk = run(&sunk, &[(passes.common, common::share), (true, dead::remove)])?;
    let (_, _, kept) = finished(&program, passes)?;
    let (_, _, moved) = finished(&sunk, passes)?;
    Ok(if moved <= kept { sunk } else { program })
}

/// The program after the passes that make large ops of small ones, with the bytes of its arena and
/// those that a run moves. A program that cannot be planned is none that can be compared.
fn finished(program: &Program, passes: &Passes) -> Result<(Program, usize, u64)> {
    let program = run(
        program,
        &[
            (passes.fuse, fuse::fuse),
            (passes.dead, dead::remove),
            (passes.block, block::block),
            (passes.dead, dead::remove),
        ],
    )?;
    let apart = ordered(&program, passes)?;
    if !passes.epilogue {
        return Ok(apart);
    }
    let Some(joined) = epilogue::join(&program)? else { return Ok(apart) };
    let joined = ordered(&run(&joined, &[(true, dead::remove)])?, passes)?;
    // Values that were written over in turn may have to live side by side for one op.
    let room = (apart.1 / PART_FOR_TILES).max(ROOM_FOR_TILES);
    Ok(if joined.1 <= apart.1.saturating_add(room) { joined } else { apart })
}

/// What the tiles that epilogues work in may take: one part in so many of an arena, or so many bytes.
const PART_FOR_TILES: usize = 64;
const ROOM_FOR_TILES: usize = 128 * 1024;

/// The program in its final order, with the bytes of its arena and those that a run moves.
fn ordered(program: &Program, passes: &Passes) -> Result<(Program, usize, u64)> {
    let program = run(program, &[(true, gather::gather), (passes.schedule, schedule::schedule)])?;
    let (bytes, moved) = match Plan::new(&program, passes.in_place) {
        Ok(plan) => (plan.bytes, plan.steps.iter().map(|step| step.bytes).sum()),
        Err(_) => (usize::MAX, u64::MAX),
    };
    Ok((program, bytes, moved))
}

type Pass = fn(&Program) -> Result<Program>;

/// Runs those passes that are on.
fn run(program: &Program, passes: &[(bool, Pass)]) -> Result<Program> {
    let mut program = program.clone();
    for (_, pass) in passes.iter().filter(|(on, _)| *on) {
        program = pass(&program)?;
        if cfg!(debug_assertions) {
            check(&program)?;
        }
    }
    Ok(program)
}
