//! Building a program anew while reading an old one: what most passes do.

use crate::graph::meta_of;
use autograd_core::{Instruction, Meta, Operand, Program, TrackedTensor};

/// A program that grows instruction by instruction, and where the old one's values have come to
/// stand in it.
pub(super) struct Rewrite {
    pub(super) program: Program,
    /// For each old instruction, what its outputs are now.
    results: Vec<Vec<Operand>>,
}

impl Rewrite {
    /// An empty program with the inputs, constants and sections of the old one.
    pub(super) fn of(old: &Program) -> Self {
        let program = Program {
            inputs: old.inputs.clone(),
            constants: old.constants.clone(),
            instructions: Vec::with_capacity(old.instructions.len()),
            outputs: Vec::new(),
            sections: old.sections.clone(),
        };
        Self { program, results: vec![Vec::new(); old.instructions.len()] }
    }

    /// Where an old operand stands now.
    pub(super) fn at(&self, operand: Operand) -> Operand {
        match operand {
            Operand::Result { instruction, output } => self.results[instruction][output],
            Operand::Input(_) | Operand::Constant(_) => operand,
        }
    }

    /// Its shape and type.
    pub(super) fn meta(&self, operand: Operand) -> Meta {
        meta_of(&self.program, operand)
    }

    /// Appends an instruction whose operands are new ones; gives its number.
    pub(super) fn push(&mut self, instruction: Instruction) -> usize {
        self.program.instructions.push(instruction);
        self.program.instructions.len() - 1
    }

    /// Appends an old instruction with its operands in their new places.
    pub(super) fn keep(&mut self, old: usize, instruction: &Instruction) {
        let mut instruction = instruction.clone();
        for operand in &mut instruction.operands {
            *operand = self.at(*operand);
        }
        let outputs = instruction.outputs.len();
        let new = self.push(instruction);
        self.results[old] = (0..outputs).map(|output| Operand::Result { instruction: new, output }).collect();
    }

    /// Says that an old instruction of one output is now this operand.
    pub(super) fn replace(&mut self, old: usize, by: Operand) {
        self.results[old] = vec![by];
    }

    /// Says what one output of an old instruction is now.
    pub(super) fn replace_output(&mut self, old: usize, output: usize, by: Operand) {
        let results = &mut self.results[old];
        if results.len() <= output {
            results.resize(output + 1, by);
        }
        results[output] = by;
    }

    /// A constant of the new program.
    pub(super) fn constant(&mut self, value: TrackedTensor) -> Operand {
        self.program.constants.push(value);
        Operand::Constant(self.program.constants.len() - 1)
    }

    /// The finished program.
    pub(super) fn finish(mut self, old: &Program) -> Program {
        self.program.outputs = old.outputs.iter().map(|o| self.at(*o)).collect();
        self.program
    }
}
