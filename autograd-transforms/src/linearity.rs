//! Whether a program is linear in some of its inputs, as far as rule shapes tell.

use autograd_core::smallvec::SmallVec;
use autograd_core::{Mask, Meta, Operand, Program, Residual, Result, Rule, close};

/// The first op through which the outputs depend on the inputs in `moving` otherwise than
/// linearly (up to a constant); `None` where there is none.
///
/// Only such a program may be transposed at zero and stand for itself everywhere.
pub(crate) fn first_bend(program: &Program, moving: &dyn Fn(usize) -> bool) -> Result<Option<&'static str>> {
    let mut moves = vec![false; program.instructions.len()];
    for (at, step) in program.instructions.iter().enumerate() {
        let dependent = Mask::of(step.operands.len(), |i| match step.operands[i] {
            Operand::Input(input) => moving(input),
            Operand::Constant(_) => false,
            Operand::Result { instruction, .. } => moves[instruction],
        });
        if dependent.is_empty() {
            continue;
        }
        let all_in = |mask: Mask| dependent.iter().all(|i| mask.has(i));
        let linear = match step.op.rule() {
            Rule::Linear(mask, _) => all_in(mask),
            Rule::Bilinear(a, b, _) => dependent == Mask::one(a) || dependent == Mask::one(b),
            // A derivative that reads nothing that moves is the same everywhere.
            Rule::Pointwise(op) => {
                let reads = op.residuals(dependent, 1);
                let masks = op.definition().masks;
                !dependent.iter().any(|i| masks.has(i))
                    && reads.iter().all(|read| match *read {
                        Residual::Input(i) => !dependent.has(i),
                        Residual::Output(_) | Residual::Aux(_) => false,
                    })
            }
            Rule::General(_) | Rule::Composite => {
                let metas: SmallVec<[Meta; 4]> =
                    step.operands.iter().map(|operand| program.meta_of(*operand)).collect();
                let mut parts = None;
                let traced = close(
                    |x| {
                        let refs: Vec<_> = x.iter().collect();
                        let made = step.op.decompose(&refs)?;
                        parts = Some(made.is_some());
                        Ok(made.unwrap_or_default().into_vec())
                    },
                    &metas,
                )?;
                parts == Some(true) && first_bend(&traced.program, &|i| dependent.has(i))?.is_none()
            }
            Rule::Flat | Rule::Opaque(_) => false,
        };
        if !linear {
            return Ok(Some(step.op.name()));
        }
        moves[at] = true;
    }
    Ok(None)
}
