//! The graph checker: what must hold of a program after every pass.

use crate::graph::meta_of;
use autograd_core::{Error, Meta, Operand, Program, Result};

/// Sections lie in each other at most so deep: running and differentiating them recurses.
const DEEPEST: usize = 256;

/// What is wrong with sections, given the one around each.
pub(crate) fn misplaced(outer: impl Iterator<Item = Option<usize>>) -> Option<String> {
    let mut depths: Vec<usize> = Vec::new();
    for (i, outer) in outer.enumerate() {
        let depth = match outer.map(|outer| depths.get(outer)) {
            None => 1,
            Some(Some(depth)) => depth + 1,
            Some(None) => return Some(format!("section {i} lies in one that does not come before it")),
        };
        if depth > DEEPEST {
            return Some(format!("section {i} lies in {DEEPEST} others, and no more are allowed"));
        }
        depths.push(depth);
    }
    None
}

/// Whether operands come first and exist, sections do, and every output is what its op infers.
///
/// # Errors
/// [`Error::Internal`] that names the instruction and what is wrong.
pub(crate) fn check(program: &Program) -> Result<()> {
    let exists = |operand: &Operand, before: usize| match *operand {
        Operand::Input(i) => i < program.inputs.len(),
        Operand::Constant(i) => i < program.constants.len(),
        Operand::Result { instruction, output } => {
            instruction < before && output < program.instructions[instruction].outputs.len()
        }
    };
    if let Some(reason) = misplaced(program.sections.iter().map(|section| section.outer)) {
        return Err(Error::internal("program", reason));
    }
    for (i, instruction) in program.instructions.iter().enumerate() {
        let name = instruction.op.name();
        let broken = |what: String| Error::internal(name, format!("%{i}: {what}")).or_at(instruction.site);
        if let Some(operand) = instruction.operands.iter().find(|o| !exists(o, i)) {
            return Err(broken(format!("operand {operand} does not come before it")));
        }
        if let Some(section) = instruction.section.filter(|section| *section >= program.sections.len()) {
            return Err(broken(format!("it is in section {section}, which does not exist")));
        }
        let metas: Vec<Meta> = instruction.operands.iter().map(|o| meta_of(program, *o)).collect();
        let signature = instruction.op.infer(&metas).map_err(|e| broken(e.to_string()))?;
        let mut inferred = signature.outputs;
        if instruction.aux > 0 {
            inferred.extend(signature.aux);
        }
        if inferred != instruction.outputs {
            return Err(broken(format!("it makes {inferred:?}, recorded are {:?}", instruction.outputs)));
        }
    }
    let all = program.instructions.len();
    match program.outputs.iter().find(|o| !exists(o, all)) {
        Some(output) => Err(Error::internal("program", format!("output {output} does not exist"))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture;
    use autograd_core::TrackedTensor;
    use autograd_ops::TensorAutograd;

    fn sample() -> Result<Program> {
        let x = TrackedTensor::from_vec(vec![1f64, 2., 3., 4.], &[2, 2])?;
        capture(|x| Ok(vec![x[0].matmul(&x[0])?.tanh()?.sum()?]), &[x.meta()])
    }

    #[test]
    fn what_is_captured_is_sound() -> Result<()> {
        check(&sample()?)
    }

    #[test]
    fn a_use_before_its_definition_is_found() -> Result<()> {
        let mut program = sample()?;
        program.instructions.swap(0, 1);
        let error = check(&program).expect_err("it is broken").to_string();
        assert!(error.contains("does not come before"), "{error}");
        Ok(())
    }

    #[test]
    fn a_wrong_shape_and_a_dangling_output_are_found() -> Result<()> {
        let mut program = sample()?;
        program.instructions[1].outputs[0] = program.instructions[2].outputs[0];
        assert!(check(&program).is_err());
        let mut program = sample()?;
        program.outputs[0] = Operand::Input(7);
        assert!(check(&program).expect_err("it dangles").to_string().contains("does not exist"));
        Ok(())
    }
}
