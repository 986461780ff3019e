//! Dead code: what no output needs is left out.
//!
//! ```text
//! before                                after
//! %0 = tanh x0 : [2] F64                %0 = tanh x0 : [2] F64
//! %1 = exp x0 : [2] F64                 return %0
//! return %0
//! ```
//!
//! An op's auxiliary outputs (hints) are left out where none of them is read. Constants that
//! nothing reads go too.

use autograd_core::{Instruction, Operand, Program, Result};

pub(super) fn remove(old: &Program) -> Result<Program> {
    let mut needed = vec![false; old.instructions.len()];
    let mut hints = vec![false; old.instructions.len()];
    let mut constants = vec![false; old.constants.len()];
    let mut need = |operand: &Operand, needed: &mut Vec<bool>| match *operand {
        Operand::Result { instruction, output } => {
            needed[instruction] = true;
            let made: &Instruction = &old.instructions[instruction];
            hints[instruction] |= output >= made.outputs.len() - made.aux;
        }
        Operand::Constant(i) => constants[i] = true,
        Operand::Input(_) => {}
    };
    old.outputs.iter().for_each(|o| need(o, &mut needed));
    for i in (0..old.instructions.len()).rev() {
        if needed[i] {
            old.instructions[i].operands.iter().for_each(|o| need(o, &mut needed));
        }
    }
    let (inputs, sections) = (old.inputs.clone(), old.sections.clone());
    let mut program = Program { inputs, sections, ..Program::default() };
    let mut constant_at = vec![0; old.constants.len()];
    for (i, value) in old.constants.iter().enumerate().filter(|(i, _)| constants[*i]) {
        constant_at[i] = program.constants.len();
        program.constants.push(value.clone());
    }
    let mut at = vec![0; old.instructions.len()];
    let moved = |operand: Operand, at: &[usize]| match operand {
        Operand::Result { instruction, output } => Operand::Result { instruction: at[instruction], output },
        Operand::Constant(i) => Operand::Constant(constant_at[i]),
        Operand::Input(_) => operand,
    };
    for (i, instruction) in old.instructions.iter().enumerate().filter(|(i, _)| needed[*i]) {
        let mut instruction = instruction.clone();
        if !hints[i] {
            instruction.outputs.truncate(instruction.outputs.len() - instruction.aux);
            instruction.aux = 0;
        }
        instruction.operands.iter_mut().for_each(|o| *o = moved(*o, &at));
        at[i] = program.instructions.len();
        program.instructions.push(instruction);
    }
    program.outputs = old.outputs.iter().map(|o| moved(*o, &at)).collect();
    Ok(program)
}
