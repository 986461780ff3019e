//! What can look on while a sweep runs: hooks, checks, and whoever explains or draws.

use crate::node::{Kept, Node};
use autograd_core::{Cotangents, Grads, Mask, Meta, Prim, Residuals, Result};

/// A look at a sweep. A sweep without watches pays nothing for them.
pub(crate) trait Watch {
    /// All cotangents of a node have arrived; they may be replaced.
    fn arrive(&mut self, id: usize, node: &Node, cts: &mut Cotangents) -> Result<()> {
        let _ = (id, node, cts);
        Ok(())
    }

    /// A node's rule has run.
    fn pass(&mut self, passage: &Passage<'_>) -> Result<()> {
        let _ = passage;
        Ok(())
    }
}

/// One node's rule, after it has run.
pub(crate) struct Passage<'a> {
    pub(crate) id: usize,
    pub(crate) op: &'a Prim,
    pub(crate) node: &'a Node,
    /// The inputs' metas.
    pub(crate) metas: &'a [Meta],
    /// The inputs in which the application is differentiable.
    pub(crate) recorded: Mask,
    /// Those of them on a path.
    pub(crate) wanted: Mask,
    /// What the rule read, in the order of `reads`.
    pub(crate) kept: &'a Kept,
    pub(crate) cts: &'a Cotangents,
    pub(crate) grads: &'a Grads,
}

impl Passage<'_> {
    /// What each kept value is.
    pub(crate) fn reads(&self) -> Residuals {
        let (inputs, outputs) = (self.node.inputs.len(), self.node.outputs.len());
        crate::node::residuals(self.op.rule(), self.recorded, inputs, outputs)
    }
}
