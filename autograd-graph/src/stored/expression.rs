//! Scalar expressions as data.

use super::{broken, interned};
use autograd_core::kernels::expr::{Binary, Builder, Node, Program as Expr, Reg, Unary};
use autograd_core::{Definition, Pointwise, Result, ScalarExpr};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct StoredExpression {
    pub(super) name: String,
    pub(super) nodes: Vec<StoredNode>,
    pub(super) outputs: Vec<Reg>,
    pub(super) inputs: usize,
    /// The op's numbers, by their bits.
    pub(super) params: Vec<u64>,
    pub(super) to_mask: bool,
    pub(super) flat: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum StoredNode {
    Input(u8),
    Param(u8),
    Const(u64),
    Unary(String, Reg),
    Binary(String, Reg, Reg),
    Select(Reg, Reg, Reg),
}

pub(super) fn stored_expression(op: &Pointwise) -> StoredExpression {
    let (definition, program) = (op.definition(), op.expr().program());
    let nodes = program.nodes().iter().map(|node| match *node {
        Node::Input(i) => StoredNode::Input(i),
        Node::Param(i) => StoredNode::Param(i),
        Node::Const(number) => StoredNode::Const(number.to_bits()),
        Node::Unary(f, a) => StoredNode::Unary(format!("{f:?}"), a),
        Node::Binary(f, a, b) => StoredNode::Binary(format!("{f:?}"), a, b),
        Node::Select(c, a, b) => StoredNode::Select(c, a, b),
    });
    StoredExpression {
        name: definition.name.to_owned(),
        nodes: nodes.collect(),
        outputs: program.outputs().to_vec(),
        inputs: program.inputs(),
        params: op.params().iter().map(|p| p.to_bits()).collect(),
        to_mask: definition.to_mask,
        flat: definition.flat,
    }
}

pub(super) fn loaded_expression(stored: &StoredExpression) -> Result<Pointwise> {
    let program = loaded_program(stored)?;
    let mut definition = Definition::new(interned(&stored.name), ScalarExpr::new(program));
    (definition.to_mask, definition.flat) = (stored.to_mask, stored.flat);
    let params: Vec<f64> = stored.params.iter().map(|bits| f64::from_bits(*bits)).collect();
    Ok(Pointwise::shared(Arc::new(definition), &params))
}

fn loaded_program(stored: &StoredExpression) -> Result<Expr> {
    let wrong = || broken(format!("the expression of {:?} is broken", stored.name));
    if stored.nodes.len() > usize::from(Reg::MAX) || stored.inputs > 256 || stored.outputs.is_empty() {
        return Err(wrong());
    }
    let unary = |name: &str| Unary::ALL.into_iter().find(|f| format!("{f:?}") == name).ok_or_else(wrong);
    let binary = |name: &str| Binary::ALL.into_iter().find(|f| format!("{f:?}") == name).ok_or_else(wrong);
    let mut b = Builder::new();
    let mut at: Vec<Reg> = Vec::with_capacity(stored.nodes.len());
    for node in &stored.nodes {
        let r = |reg: Reg| at.get(usize::from(reg)).copied().ok_or_else(wrong);
        let reg = match node {
            StoredNode::Input(i) if usize::from(*i) < stored.inputs => b.input(usize::from(*i)),
            StoredNode::Param(i) if usize::from(*i) < stored.params.len() => b.param(usize::from(*i)),
            StoredNode::Input(_) | StoredNode::Param(_) => return Err(wrong()),
            StoredNode::Const(bits) => b.constant(f64::from_bits(*bits)),
            StoredNode::Unary(f, x) => {
                let x = r(*x)?;
                b.unary(unary(f)?, x)
            }
            StoredNode::Binary(f, x, y) => {
                let (x, y) = (r(*x)?, r(*y)?);
                b.binary(binary(f)?, x, y)
            }
            StoredNode::Select(c, x, y) => {
                let (c, x, y) = (r(*c)?, r(*x)?, r(*y)?);
                b.select(c, x, y)
            }
        };
        at.push(reg);
    }
    let outputs = stored
        .outputs
        .iter()
        .map(|out| at.get(usize::from(*out)).copied().ok_or_else(wrong))
        .collect::<Result<Vec<Reg>>>()?;
    Ok(b.finish(&outputs, stored.inputs, stored.params.len()))
}
