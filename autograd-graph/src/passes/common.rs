//! Common subexpressions: equal ops on equal operands are computed once.
//!
//! ```text
//! before                                after
//! %0 = tanh x0 : [2] F64                %0 = tanh x0 : [2] F64
//! %1 = tanh x0 : [2] F64                %1 = mul %0 %0 : [2] F64
//! %2 = mul %0 %1 : [2] F64              return %1
//! return %2
//! ```
//!
//! Equal means equal keys: name and all parameters. Random ops read their key as an operand, so
//! equal draws are equal numbers. Literals of one number, shape and type are one constant. What two
//! checkpointed regions compute each for itself stays two values: a tape would have to keep one.

use super::rewrite::Rewrite;
use crate::graph::{literal_of, meta_of};
use autograd_core::smallvec::SmallVec;
use autograd_core::{Meta, Operand, Prim, Program, Result};
use std::collections::HashMap;
use std::sync::Arc;

/// What makes two instructions one. An op that is shared by reference needs no text.
#[derive(PartialEq, Eq, Hash)]
struct Key {
    op: String,
    operands: SmallVec<[Operand; 2]>,
    aux: usize,
    section: Option<usize>,
}

pub(super) fn share(old: &Program) -> Result<Program> {
    let mut old = old.clone();
    share_literals(&mut old);
    let old = &old;
    let mut new = Rewrite::of(old);
    let mut known: HashMap<Key, usize> = HashMap::new();
    let mut texts: HashMap<usize, String> = HashMap::new();
    for (i, instruction) in old.instructions.iter().enumerate() {
        let op = match &instruction.op {
            // The text of an op that was kept once and recorded often is made once.
            Prim::Shared(op) => texts.entry(Arc::as_ptr(op).addr()).or_insert_with(|| op.key()).clone(),
            op => op.key(),
        };
        let operands: SmallVec<[Operand; 2]> = instruction.operands.iter().map(|o| new.at(*o)).collect();
        let key = Key { op, operands, aux: instruction.aux, section: instruction.section };
        match known.get(&key) {
            Some(&at) => {
                for output in 0..instruction.outputs.len() {
                    new.replace_output(i, output, Operand::Result { instruction: at, output });
                }
            }
            None => {
                new.keep(i, instruction);
                known.insert(key, new.program.instructions.len() - 1);
            }
        }
    }
    Ok(new.finish(old))
}

fn share_literals(program: &mut Program) {
    let mut known: Vec<(u64, Meta, usize)> = Vec::new();
    let mut map: Vec<usize> = (0..program.constants.len()).collect();
    for (i, to) in map.iter_mut().enumerate() {
        let operand = Operand::Constant(i);
        let Some(number) = literal_of(program, operand) else { continue };
        let (bits, meta) = (number.to_bits(), meta_of(program, operand));
        match known.iter().find(|(b, m, _)| *b == bits && *m == meta) {
            Some((_, _, first)) => *to = *first,
            None => known.push((bits, meta, i)),
        }
    }
    let moved = |operand: &mut Operand| {
        if let Operand::Constant(i) = operand {
            *i = map[*i];
        }
    };
    program.instructions.iter_mut().flat_map(|i| &mut i.operands).for_each(moved);
    program.outputs.iter_mut().for_each(moved);
}
