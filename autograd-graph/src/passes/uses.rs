//! How often values are read.

use autograd_core::{Operand, Program};

/// How many operands and outputs are results of each instruction.
pub(super) fn uses(program: &Program) -> Vec<usize> {
    let mut uses = vec![0; program.instructions.len()];
    let operands = program.instructions.iter().flat_map(|i| &i.operands);
    for operand in operands.chain(&program.outputs) {
        if let Operand::Result { instruction, .. } = *operand {
            uses[instruction] += 1;
        }
    }
    uses
}
