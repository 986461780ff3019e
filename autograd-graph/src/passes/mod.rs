//! Passes: functions from programs to programs that compute the same with less work.
//!
//! Each stands in a file of its own and can be switched off in [`Passes`]. Debug builds check the
//! program after every pass.

mod block;
mod budget;
mod common;
mod dead;
mod fold;
mod fuse;
mod rematerialise;
mod rewrite;
mod schedule;
mod simplify;

use crate::check::check;
use crate::graph::Graph;
use autograd_core::{Program, Result};
pub use budget::Recomputation;

/// Which passes run. All do by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passes {
    /// Numbers that are known are computed once, while compiling. Closed-over values are not known.
    pub fold: bool,
    /// Neutral elements, double negations, rearrangements that change nothing, cheaper powers.
    pub simplify: bool,
    /// Equal ops on equal operands are computed once.
    pub common: bool,
    /// What no output needs is left out, hints that no rule reads too.
    pub dead: bool,
    /// Cheap values of the forward pass are computed again in the backward pass where that takes
    /// less memory than keeping them.
    pub rematerialise: bool,
    /// Runs of pointwise ops and the sums of them become one pass over memory.
    pub fuse: bool,
    /// Ops whose rows are independent run on a few rows at a time.
    pub block: bool,
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
        common: true,
        dead: true,
        rematerialise: true,
        fuse: true,
        block: true,
        schedule: true,
        in_place: true,
    };

    /// None of them: the ops as they were captured.
    pub const NONE: Self = Self {
        fold: false,
        simplify: false,
        common: false,
        dead: false,
        rematerialise: false,
        fuse: false,
        block: false,
        schedule: false,
        in_place: false,
    };
}

impl Default for Passes {
    fn default() -> Self {
        Self::ALL
    }
}

impl Graph {
    /// The graph after these passes, in their order.
    ///
    /// Results stay within rounding of the interpreter's: fused ops keep numbers in registers that
    /// ops one by one round to memory only in half types, known numbers are folded in f64, and
    /// sums of fused ops are made in f64.
    ///
    /// # Errors
    /// [`Error::Internal`](autograd_core::Error::Internal) where a pass broke the program, in debug
    /// builds.
    pub fn optimise(&self, passes: &Passes) -> Result<Self> {
        type Pass = fn(&Program) -> Result<Program>;
        let list: [(bool, Pass); 11] = [
            (passes.dead, dead::remove),
            (passes.fold, fold::fold),
            (passes.simplify, simplify::simplify),
            (passes.common, common::share),
            (passes.dead, dead::remove),
            (passes.rematerialise, rematerialise::rematerialise),
            (passes.fuse, fuse::fuse),
            (passes.dead, dead::remove),
            (passes.block, block::block),
            (passes.dead, dead::remove),
            (passes.schedule, schedule::schedule),
        ];
        let mut program = self.program().clone();
        for (_, pass) in list.into_iter().filter(|(on, _)| *on) {
            program = pass(&program)?;
            if cfg!(debug_assertions) {
                check(&program)?;
            }
        }
        Self::from_program(program)
    }
}
