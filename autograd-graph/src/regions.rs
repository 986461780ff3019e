//! The checkpointed regions of a program: sections whose options say what a tape keeps.
//!
//! Each instruction says which region it is in, so regions survive whatever passes do to a program:
//! one whose instructions come to stand apart is two regions, which keep more and give the same
//! numbers. So that they keep no more than they did, passes join, share and compute again within a
//! region only, leave alone what a policy keeps, and bring the instructions of a region together.

use autograd_core::{Instruction, Program, Section};
use autograd_tape::{Fate, RegionOptions};

/// The options of a region; `None` for a section of another kind.
pub(crate) fn options_of(section: &Section) -> Option<&RegionOptions> {
    section.what.downcast_ref()
}

/// What becomes of an instruction's results when a tape records it.
pub(crate) fn fate(program: &Program, instruction: &Instruction) -> Fate {
    let section = instruction.section.and_then(|section| options_of(&program.sections[section]));
    let outputs = &instruction.outputs[..instruction.outputs.len() - instruction.aux];
    section.map_or(Fate::Recompute, |options| options.fate(&*instruction.op, outputs))
}

/// Whether the policy of its region keeps what an instruction makes: then it stays what it is.
pub(crate) fn held(program: &Program, instruction: &Instruction) -> bool {
    fate(program, instruction) != Fate::Recompute
}
