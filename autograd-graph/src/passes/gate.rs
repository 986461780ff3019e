//! Gates: what is computed again reads its operands through barriers, so that no pass makes it early
//! or one with the first computation.

use super::rewrite::Rewrite;
use autograd_core::smallvec::smallvec;
use autograd_core::{Instruction, Operand};
use std::collections::HashMap;

/// Barriers that wait for values of the backward pass.
#[derive(Default)]
pub(super) struct Gates {
    made: HashMap<(Operand, Operand), Operand>,
}

impl Gates {
    /// The operand of an instruction `like` behind a barrier that waits for the token; both are of
    /// the new program.
    pub(super) fn pass(
        &mut self,
        new: &mut Rewrite,
        operand: Operand,
        token: Operand,
        like: &Instruction,
    ) -> Operand {
        if let Some(known) = self.made.get(&(operand, token)) {
            return *known;
        }
        let metas = [new.meta(operand), new.meta(token)];
        let Some(op) = autograd_core::rebuild("barrier", &[], &metas) else { return operand };
        let instruction = new.push(Instruction {
            op,
            operands: smallvec![operand, token],
            outputs: smallvec![metas[0]],
            aux: 0,
            site: like.site,
            section: like.section,
        });
        let passed = Operand::Result { instruction, output: 0 };
        self.made.insert((operand, token), passed);
        passed
    }
}

/// What the instruction waits for anyway: the operand that is made last.
pub(super) fn latest(operands: &[Operand], since: usize) -> Option<Operand> {
    let made = |operand: &&Operand| match **operand {
        Operand::Result { instruction, .. } => Some(instruction).filter(|made| *made >= since),
        Operand::Input(_) | Operand::Constant(_) => None,
    };
    operands.iter().filter(|o| made(o).is_some()).max_by_key(made).copied()
}
