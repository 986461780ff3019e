//! Algebraic simplification and scalar strength reduction.
//!
//! ```text
//! before                                after
//! c0 = 1 : [] F64                       %0 = sqr x0 : [2] F64
//! %0 = mul x0 c0 : [2] F64              return %0
//! %1 = reshape %0 : [2] F64
//! %2 = pow(2) %1 : [2] F64
//! return %2
//! ```
//!
//! Literal operands and the numbers that an op carries go into its expression, where neutral
//! elements vanish, powers with small whole exponents become products, and division by a power of
//! two becomes a product. What is left of an op may be one of its operands, or a number.
//! Rearrangements that leave every element in its place are left out; sums over extents of 1 are
//! reshapes.

use super::rewrite::Rewrite;
use crate::graph::literal_of;
use crate::regions::held;
use autograd_core::algebra::fill;
use autograd_core::kernels::expr::{Binary, Builder, Node, Program as Expr, Reg, Unary};
use autograd_core::smallvec::SmallVec;
use autograd_core::{
    Definition, Instruction, Layout, Meta, Operand, Pointwise, Prim, Program, Result, ScalarExpr,
};
use std::collections::HashMap;
use std::sync::Arc;

/// What an instruction comes to.
enum Outcome {
    /// One of its operands.
    Operand(Operand),
    /// A number.
    Number(f64),
    /// Another op on some of its operands.
    Op(Pointwise, SmallVec<[Operand; 4]>),
}

pub(super) fn simplify(old: &Program) -> Result<Program> {
    let mut new = Rewrite::of(old);
    let mut made: HashMap<String, Arc<Definition>> = HashMap::new();
    for (i, instruction) in old.instructions.iter().enumerate() {
        let operands: SmallVec<[Operand; 4]> = instruction.operands.iter().map(|o| new.at(*o)).collect();
        match simplified(&new, instruction, &operands, &mut made) {
            Some(Outcome::Operand(operand)) => new.replace(i, operand),
            Some(Outcome::Number(number)) => {
                // Some value of the program tells the device.
                let output = instruction.outputs[0];
                let like = fill(number, &output, &autograd_core::TrackedTensor::scalar(0.0))?;
                let operand = new.constant(like);
                new.replace(i, operand);
            }
            Some(Outcome::Op(op, operands)) => {
                let at = new.push(Instruction {
                    op: Prim::Pointwise(op),
                    operands: operands.iter().copied().collect(),
                    ..instruction.clone()
                });
                for output in 0..instruction.outputs.len() {
                    new.replace_output(i, output, Operand::Result { instruction: at, output });
                }
            }
            None => new.keep(i, instruction),
        }
    }
    Ok(new.finish(old))
}

fn simplified(
    new: &Rewrite,
    instruction: &Instruction,
    operands: &[Operand],
    made: &mut HashMap<String, Arc<Definition>>,
) -> Option<Outcome> {
    if held(&new.program, instruction) {
        return None;
    }
    if let Some(operand) = unchanged(new, instruction, operands) {
        return Some(Outcome::Operand(operand));
    }
    let op = instruction.op.as_pointwise()?;
    if instruction.outputs.iter().any(|out| !autograd_core::is_float(out.dtype)) {
        return None;
    }
    let output = instruction.outputs[0];
    let numbers: SmallVec<[Option<f64>; 4]> = operands
        .iter()
        .enumerate()
        .map(|(i, o)| literal_of(&new.program, *o).filter(|_| !op.definition().masks.has(i)))
        .collect();
    let reduced = reduce(op, &numbers);
    if let [out] = reduced.outputs()[..] {
        match reduced.nodes()[usize::from(out)] {
            Node::Const(number) => return Some(Outcome::Number(number)),
            Node::Input(i) => {
                let operand = operands[usize::from(i)];
                if new.meta(operand) == output {
                    return Some(Outcome::Operand(operand));
                }
            }
            Node::Param(_) | Node::Unary(..) | Node::Binary(..) | Node::Select(..) => {}
        }
    }
    if !op.params().is_empty() || numbers.iter().any(Option::is_some) || reduced != *op.expr().program() {
        return keep_shape(new, op, &reduced, operands, output, made);
    }
    None
}

/// The reduced expression over the operands that it still reads, where those still make the
/// output's shape and type.
fn keep_shape(
    new: &Rewrite,
    op: &Pointwise,
    reduced: &Expr,
    operands: &[Operand],
    output: Meta,
    made: &mut HashMap<String, Arc<Definition>>,
) -> Option<Outcome> {
    let read: SmallVec<[usize; 4]> = (0..operands.len()).filter(|&i| reduced.reads(i)).collect();
    let mut b = Builder::new();
    let mut inputs: Vec<Reg> = vec![0; operands.len()];
    for (to, &from) in read.iter().enumerate() {
        inputs[from] = b.input(to);
    }
    let at = b.inline(reduced, &inputs, &[]);
    let outputs: Vec<Reg> = reduced.outputs().iter().map(|&o| at[usize::from(o)]).collect();
    let program = b.finish(&outputs, read.len(), 0);
    let text = format!("{} {program:?}", op.definition().name);
    let definition = made
        .entry(text)
        .or_insert_with(|| {
            let mut definition = Definition::new(op.definition().name, ScalarExpr::new(program));
            definition.flat = op.definition().flat;
            Arc::new(definition)
        })
        .clone();
    let op = Pointwise::shared(definition, &[]);
    let operands: SmallVec<[Operand; 4]> = read.iter().map(|&i| operands[i]).collect();
    let metas: Vec<Meta> = operands.iter().map(|o| new.meta(*o)).collect();
    let inferred =
        (!metas.is_empty()).then(|| autograd_core::Primitive::infer(&op, &metas).ok()).flatten()?;
    (inferred.outputs[0] == output).then_some(Outcome::Op(op, operands))
}

/// The operand that an op only passes on: a rearrangement to the layout that it has already.
fn unchanged(new: &Rewrite, instruction: &Instruction, operands: &[Operand]) -> Option<Operand> {
    let ([operand], [output]) = (operands, &instruction.outputs[..]) else { return None };
    let meta = new.meta(*operand);
    let layout = Layout::contiguous(meta.shape);
    let (_, seen) = instruction.op.view(output, &[&layout])?;
    (meta == *output && seen == layout).then_some(*operand)
}

/// An op's expression with its numbers in it, and cheaper functions where they are exact.
fn reduce(op: &Pointwise, numbers: &[Option<f64>]) -> Expr {
    let program = op.expr().program();
    let mut b = Builder::new();
    let mut at: Vec<Reg> = Vec::with_capacity(program.nodes().len());
    for node in program.nodes() {
        let r = |reg: Reg| at[usize::from(reg)];
        let reg = match *node {
            Node::Input(i) => match numbers[usize::from(i)] {
                Some(number) => b.constant(number),
                None => b.input(usize::from(i)),
            },
            Node::Param(i) => b.constant(op.params()[usize::from(i)]),
            Node::Const(c) => b.constant(c),
            Node::Unary(f, a) => b.unary(f, r(a)),
            Node::Binary(f, x, y) => cheaper(&mut b, f, r(x), r(y)),
            Node::Select(c, x, y) => b.select(r(c), r(x), r(y)),
        };
        at.push(reg);
    }
    let outputs: Vec<Reg> = program.outputs().iter().map(|&o| at[usize::from(o)]).collect();
    b.finish(&outputs, program.inputs(), 0)
}

/// f(x, y), by products where the second is a number that allows it without another rounding than
/// the function's own.
fn cheaper(b: &mut Builder, f: Binary, x: Reg, y: Reg) -> Reg {
    let Node::Const(number) = b.node(y) else { return b.binary(f, x, y) };
    match (f, number) {
        (Binary::Div, c) if is_power_of_two(c) => {
            let factor = b.constant(1.0 / c);
            b.binary(Binary::Mul, x, factor)
        }
        (Binary::Pow | Binary::Powi, 1.0) => x,
        (Binary::Pow | Binary::Powi, 2.0) => b.binary(Binary::Mul, x, x),
        (Binary::Pow | Binary::Powi, -1.0) => b.unary(Unary::Recip, x),
        _ => b.binary(f, x, y),
    }
}

fn is_power_of_two(c: f64) -> bool {
    let mantissa = c.to_bits() & ((1 << 52) - 1);
    c.is_normal() && mantissa == 0 && (-100.0..100.0).contains(&c.abs().log2())
}
