//! Ops over blocks of rows as data: the program of one block, and what has the rows.
//!
//! A block's program has steps of its own kind, which are no blocks again: data cannot nest deeper.

use super::{
    StoredMeta, StoredOp, StoredOperand, broken, loaded_instruction, loaded_meta, loaded_op, loaded_operand,
    loaded_shape, meta_before, stored_meta, stored_op, stored_operand,
};
use crate::blocked::Blocked;
use autograd_core::{Mask, Meta, Prim, Program, Result, Site};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct StoredRows {
    pub(super) blocks: usize,
    /// The inputs of which a block reads its own rows, and the outputs of which it gives a term.
    pub(super) rows: Vec<usize>,
    pub(super) terms: Vec<usize>,
    /// What is computed for the rows of a block.
    pub(super) inputs: Vec<StoredMeta>,
    pub(super) steps: Vec<StoredStep>,
    pub(super) outputs: Vec<StoredOperand>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct StoredStep {
    pub(super) op: StoredOp,
    pub(super) operands: Vec<StoredOperand>,
    /// Whether the op's auxiliary outputs are made.
    pub(super) aux: bool,
}

pub(super) fn stored_rows(op: &Blocked) -> Result<StoredRows> {
    let part = &op.part;
    let steps = part.instructions.iter().map(|step| {
        Ok(StoredStep {
            op: stored_op(&step.op).map_err(|e| e.or_at(step.site))?,
            operands: step.operands.iter().map(|o| stored_operand(*o)).collect(),
            aux: step.aux > 0,
        })
    });
    Ok(StoredRows {
        blocks: op.blocks,
        rows: op.rows.iter().collect(),
        terms: op.terms.iter().collect(),
        inputs: part.inputs.iter().map(stored_meta).collect(),
        steps: steps.collect::<Result<_>>()?,
        outputs: part.outputs.iter().map(|o| stored_operand(*o)).collect(),
    })
}

/// The op on operands of these shapes and types.
pub(super) fn loaded_rows(stored: &StoredRows, operands: &[Meta], site: Site) -> Result<Prim> {
    let mut part = Program {
        inputs: stored.inputs.iter().map(loaded_meta).collect::<Result<_>>()?,
        ..Program::default()
    };
    for step in &stored.steps {
        let made =
            loaded_instruction(&part, &step.operands, step.aux, site, |metas| loaded_op(&step.op, metas))?;
        part.instructions.push(made);
    }
    for output in &stored.outputs {
        let output = loaded_operand(*output);
        meta_before(&part, output)?;
        part.outputs.push(output);
    }
    let op = Blocked {
        blocks: stored.blocks,
        rows: loaded_mask(&stored.rows, part.inputs.len())?,
        terms: loaded_mask(&stored.terms, part.outputs.len())?,
        part: Arc::new(part),
    };
    // With no block, and with blocks of nothing, there are no rows.
    let some = |i: usize| op.part.inputs[i].shape.rank() > 0 && op.part.inputs[i].elements() > 0;
    if op.blocks == 0 || op.rows.is_empty() || !op.rows.iter().all(some) {
        return Err(broken("blocks have no rows".to_owned()));
    }
    for (i, meta) in op.part.inputs.iter().enumerate().filter(|(i, _)| op.rows.has(*i)) {
        with_blocks(meta, op.blocks, false).map_err(|_| broken(format!("input {i} has too many rows")))?;
    }
    for (j, meta) in op.part.output_metas().iter().enumerate() {
        with_blocks(meta, op.blocks, op.terms.has(j))?;
    }
    if !op.takes(operands) {
        return Err(broken("blocks of rows do not fit what they read".to_owned()));
    }
    Ok(Prim::Shared(Arc::new(op)))
}

/// Whether there can be a value of all blocks: with as many times the rows, or a term for each.
fn with_blocks(part: &Meta, blocks: usize, terms: bool) -> Result<()> {
    let mut dims = part.shape.dims().to_vec();
    if terms {
        dims.insert(0, blocks);
    } else {
        let rows = dims.first().and_then(|rows| rows.checked_mul(blocks));
        let rows = rows.ok_or_else(|| broken("a value of a block has no rows, or too many".to_owned()))?;
        dims[0] = rows;
    }
    loaded_shape(&dims).map(|_| ())
}

fn loaded_mask(numbers: &[usize], below: usize) -> Result<Mask> {
    if below > Mask::CAPACITY || numbers.iter().any(|i| *i >= below) {
        return Err(broken("blocks of rows have no such input or output".to_owned()));
    }
    Ok(numbers.iter().copied().collect())
}

#[cfg(test)]
mod tests {
    use super::super::{StoredGraph, StoredWork};
    use super::*;
    use crate::{Graph, Passes, value_and_grad};
    use autograd_core::TrackedTensor;
    use autograd_ops::TensorAutograd;

    fn rows_of(graph: &mut StoredGraph) -> &mut StoredRows {
        let rows = |work: &mut StoredWork| matches!(work, StoredWork::Rows(_));
        let found = graph.instructions.iter_mut().map(|i| &mut i.work).find_map(|w| rows(w).then_some(w));
        match found {
            Some(StoredWork::Rows(rows)) => rows,
            Some(StoredWork::Op(_)) | None => panic!("the graph has blocks of rows"),
        }
    }

    #[test]
    fn broken_blocks_are_refused() -> Result<()> {
        let x = TrackedTensor::from_vec(vec![0.5f32; 600 * 260], &[600, 260])?;
        let step = value_and_grad(|x: &[TrackedTensor]| x[0].softmax(-1)?.tanh()?.sum());
        let graph = Graph::capture(step, &[x.meta()])?.optimise(&Passes::ALL)?;
        let good = graph.to_stored()?;
        good.load(&[])?;
        let refused = |what: &str, change: &dyn Fn(&mut StoredRows)| {
            let mut stored = good.clone();
            change(rows_of(&mut stored));
            let error = stored.load(&[]).expect_err(what).to_string();
            assert!(error.contains("load"), "{what}: {error}");
        };
        refused("no blocks", &|r| r.blocks = 0);
        refused("one more block", &|r| r.blocks += 1);
        refused("more blocks than memory", &|r| r.blocks = usize::MAX);
        refused("nothing has rows", &|r| r.rows.clear());
        refused("no such input", &|r| r.rows.push(63));
        refused("no number of a mask", &|r| r.rows.push(1 << 40));
        refused("no such output", &|r| r.terms.push(9));
        refused("an input of no rows", &|r| r.inputs[0].shape.clear());
        refused("an input of another type", &|r| r.inputs[0].dtype = "f33".to_owned());
        refused("an input too many", &|r| r.inputs.push(r.inputs[0].clone()));
        refused("a use before its definition", &|r| r.steps[0].operands[0] = StoredOperand::Result(0, 0));
        refused("a number of its own", &|r| r.steps[0].operands[0] = StoredOperand::Constant(0));
        refused("an op without operands", &|r| r.steps[0].operands.clear());
        refused("an output from nowhere", &|r| r.outputs[0] = StoredOperand::Result(99, 0));
        Ok(())
    }
}
