//! Products with a bias: a product of matrices and the bias added to it become one `linear`.
//!
//! ```text
//! before                                after
//! %0 = matmul x0 x1 : [64, 32]          %0 = permute x1 : [32, 16]
//! %1 = add %0 x2 : [64, 32]             %1 = linear x0 %0 x2 : [64, 32]
//! %2 = gelu %1 : [64, 32]               %2 = gelu %1 : [64, 32]
//! return %1 %2                          return %1 %2
//! ```
//!
//! The bias is added to each block of the product while it is in a cache; by itself the addition would
//! be a pass over memory, or make a fused op write what it only reads. It folds where nobody else reads
//! the product, and where the bias is one number for each column. The right factor's transpose is a
//! view, for which there is no step.

use super::rewrite::Rewrite;
use super::sink::{Turn, turn_of, turned};
use super::uses::uses;
use crate::graph::{literal_of, meta_of};
use crate::regions::held;
use autograd_core::kernels::expr::{Binary, Node};
use autograd_core::smallvec::smallvec;
use autograd_core::{Instruction, Meta, Operand, Prim, Primitive, Program, Result, Shape};
use autograd_ops::linear::Linear;

pub(super) fn fold(old: &Program) -> Result<Program> {
    let uses = uses(old);
    let mut new = Rewrite::of(old);
    for (i, instruction) in old.instructions.iter().enumerate() {
        let folded = found(old, &uses, instruction).and_then(|found| found.fold(&mut new, instruction));
        match folded {
            Some(operand) => new.replace(i, operand),
            None => new.keep(i, instruction),
        }
    }
    Ok(new.finish(old))
}

/// The parts of an addition of a bias.
struct Found {
    factors: [Operand; 2],
    bias: Operand,
}

/// What an instruction adds to a product, where it does.
fn found(program: &Program, uses: &[usize], add: &Instruction) -> Option<Found> {
    if !adds(add) || held(program, add) {
        return None;
    }
    let &[a, b] = &add.operands[..] else { return None };
    [(a, b), (b, a)].into_iter().find_map(|(value, bias)| {
        let (meta, out) = (meta_of(program, value), &add.outputs[0]);
        let columns = *meta.shape.dims().last()?;
        let of_columns = meta_of(program, bias);
        let fits = meta == *out
            && of_columns.dtype == meta.dtype
            && of_columns.shape.dims().last() == Some(&columns)
            && of_columns.elements() == columns
            && literal_of(program, bias).is_none();
        let factors = fits.then(|| product(program, uses, value, columns, add.section))??;
        Some(Found { factors, bias })
    })
}

/// Whether an instruction is the sum of its two operands and nothing else.
fn adds(instruction: &Instruction) -> bool {
    let Some(op) = instruction.op.as_pointwise() else { return false };
    let program = op.expr().program();
    let &[out] = program.outputs() else { return false };
    let input = |reg: u16| match program.nodes()[usize::from(reg)] {
        Node::Input(i) => Some(i),
        _ => None,
    };
    let Node::Binary(Binary::Add, a, b) = program.nodes()[usize::from(out)] else { return false };
    matches!((input(a), input(b)), (Some(0), Some(1)) | (Some(1), Some(0)))
}

/// The factors of a product of matrices that nobody but its one reader needs; in between it may be
/// reshaped, its columns staying what they are.
fn product(
    program: &Program,
    uses: &[usize],
    value: Operand,
    columns: usize,
    section: Option<usize>,
) -> Option<[Operand; 2]> {
    let Operand::Result { instruction, .. } = value else { return None };
    let made = &program.instructions[instruction];
    if uses[instruction] != 1 || made.section != section || held(program, made) {
        return None;
    }
    if let Some(Turn::Reshape(_)) = turn_of(made) {
        let source = made.operands[0];
        let same = meta_of(program, source).shape.dims().last() == Some(&columns);
        return if same { product(program, uses, source, columns, section) } else { None };
    }
    let &[a, b] = &made.operands[..] else { return None };
    let matrix = |factor: Operand| meta_of(program, factor).shape.rank() == 2;
    (made.op.saved()?.tag == "matmul" && matrix(a) && matrix(b)).then_some([a, b])
}

impl Found {
    /// Appends the op, and what brings its result into the shape of the addition `like`.
    fn fold(&self, new: &mut Rewrite, like: &Instruction) -> Option<Operand> {
        let [x, b] = self.factors.map(|factor| new.at(factor));
        let bias = new.at(self.bias);
        let weight = turned(new, &Turn::Permute(vec![1, 0]), b, like)?;
        let columns = new.meta(bias).elements();
        let bias = turned(new, &Turn::Reshape(Shape::new(&[columns])), bias, like)?;
        let metas: Vec<Meta> = [x, weight, bias].iter().map(|operand| new.meta(*operand)).collect();
        let outputs = Linear.infer(&metas).ok()?.outputs;
        let Instruction { site, section, .. } = *like;
        let operands = smallvec![x, weight, bias];
        let op = Prim::Static(&Linear);
        let instruction = new.push(Instruction { op, operands, outputs, aux: 0, site, section });
        let made = Operand::Result { instruction, output: 0 };
        turned(new, &Turn::Reshape(like.outputs[0].shape), made, like)
    }
}
