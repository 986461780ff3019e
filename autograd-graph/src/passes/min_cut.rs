//! Rematerialisation by a minimum cut: what is kept from the forward pass is the least that the
//! backward pass can be computed from with cheap ops.
//!
//! ```text
//! before: %1, %2 and %4 are kept        after: %0 is
//! %0 = matmul x0 x1 : [1024, 1024]      %0 = matmul x0 x1 : [1024, 1024]
//! %1 = tanh %0                          %1 = tanh %0
//! %2 = mul %1 %1                        ..
//! ..                                    %6 = tanh %0
//! %6 = mul %5 %1                        %7 = mul %6 %6
//! %7 = mul %6 %2                        %8 = mul %5 %6
//!                                       %9 = mul %8 %7
//! ```
//!
//! The program is cut in two at a place. A value from before it that is read behind it is kept, or
//! computed again from others by pointwise ops and views; inputs and outputs are kept anyway. What
//! is kept is a minimum cut of the network in which a value's edge has its bytes as capacity and an
//! op that is computed once comes from the source (as in PyTorch's AOTAutograd). Among the least
//! ones it is the one with the fewest ops computed again. What is computed again stands in front of
//! the first instruction that reads it, behind a barrier that waits for the rest of what that one
//! reads, and fusion joins the two.
//!
//! The planned arenas of the nets in `tests/passes.rs`, in bytes: everything kept, by the greedy way,
//! by a cut. Layers with gelu and tanh: 1,048,576, the same, 841,728; a transformer: 3,629,056, the
//! same, 2,887,680; convolutions with shortcuts: 1,880,128, 1,458,176, 1,605,632. Neither way is
//! always better, so by default both are tried, and the smallest arena is taken. A run then moves 3
//! to 13 % more bytes, by `explain`'s count.

use super::flow::{Network, UNCUT};
use super::gate::{Gates, latest};
use super::rewrite::Rewrite;
use crate::usage::Usage;
use autograd_core::{Instruction, Operand, Program};
use std::collections::HashMap;

/// Values smaller than this are not worth being computed again.
const WORTH: usize = 64 * 1024;

/// The programs that come of a cut where most memory is in use, and of one behind the instruction
/// that makes the first output: the end of the forward pass, where there is a loss.
pub(super) fn candidates(old: &Program) -> Vec<Program> {
    let usage = Usage::of(old, true);
    let mut places = vec![usage.peak().1 + 1];
    if let Some(Operand::Result { instruction, .. }) = old.outputs.first() {
        places.push(instruction + 1);
    }
    places.dedup();
    places.retain(|place| *place < old.instructions.len());
    places.into_iter().filter_map(|place| cut_at(old, &usage, place)).collect()
}

/// Whether an instruction may be computed twice.
fn cheap(program: &Program, usage: &Usage, i: usize) -> bool {
    let instruction = &program.instructions[i];
    let [output] = instruction.outputs[..] else { return false };
    let view = usage.is_view(i) && instruction.operands.len() == 1;
    view || instruction.op.as_pointwise().is_some() && output.bytes() >= WORTH
}

/// The program in which what is read from `place` on and was made before it is computed again,
/// where it is not part of the minimum cut; `None` where nothing is.
fn cut_at(old: &Program, usage: &Usage, place: usize) -> Option<Program> {
    let kept = kept(old, usage, place);
    let made_before = |operand: &Operand| match *operand {
        Operand::Result { instruction, .. } if instruction < place && !kept[instruction] => Some(instruction),
        _ => None,
    };
    let mut new = Rewrite::of(old);
    let mut gates = Gates::default();
    let mut again: HashMap<usize, usize> = HashMap::new();
    let mut token = None;
    for (i, instruction) in old.instructions.iter().enumerate() {
        if i < place {
            new.keep(i, instruction);
            continue;
        }
        // What is computed again for it is computed when the rest of what it reads is there.
        token = latest(&instruction.operands, place).map(|operand| new.at(operand)).or(token);
        // Operands come first: what they are made of is on top of them.
        let mut open: Vec<usize> = instruction.operands.iter().filter_map(made_before).collect();
        while let Some(&next) = open.last() {
            let step = &old.instructions[next];
            let missing =
                step.operands.iter().filter_map(made_before).filter(|from| !again.contains_key(from));
            let missing: Vec<usize> = missing.collect();
            if again.contains_key(&next) {
                open.pop();
            } else if missing.is_empty() {
                open.pop();
                let operands = step.operands.iter().map(|operand| {
                    match (renewed(operand, &made_before, &again), token) {
                        (Some(operand), _) => operand,
                        (None, Some(token)) => {
                            let kept = new.at(*operand);
                            gates.pass(&mut new, kept, token, step)
                        }
                        (None, None) => new.at(*operand),
                    }
                });
                let operands = operands.collect();
                again.insert(next, new.push(Instruction { operands, ..step.clone() }));
            } else {
                open.extend(missing);
            }
        }
        let operands = instruction
            .operands
            .iter()
            .map(|operand| renewed(operand, &made_before, &again).unwrap_or_else(|| new.at(*operand)));
        let operands = operands.collect();
        let at = new.push(Instruction { operands, ..instruction.clone() });
        for output in 0..instruction.outputs.len() {
            new.replace_output(i, output, Operand::Result { instruction: at, output });
        }
    }
    (!again.is_empty()).then(|| new.finish(old))
}

/// The operand as it was computed again, if it was.
fn renewed(
    operand: &Operand,
    made_before: &dyn Fn(&Operand) -> Option<usize>,
    again: &HashMap<usize, usize>,
) -> Option<Operand> {
    let Operand::Result { output, .. } = *operand else { return None };
    let at = again.get(&made_before(operand)?)?;
    Some(Operand::Result { instruction: *at, output })
}

/// Which instructions before the place are kept: a minimum cut between what is computed once and
/// what is read behind the place.
fn kept(old: &Program, usage: &Usage, place: usize) -> Vec<bool> {
    // Each instruction is an edge from node 2i to node 2i + 1.
    let (source, sink) = (2 * place, 2 * place + 1);
    let mut network = Network::new(2 * place + 2);
    let mut alive = vec![false; place];
    for output in &old.outputs {
        if let Some((i, _)) = usage.home(*output)
            && i < place
        {
            alive[i] = true;
        }
    }
    let mut read = vec![false; place];
    // Checkpointed regions have their own way to compute again.
    let mut apart: Vec<bool> = old.instructions[..place].iter().map(|i| i.section.is_some()).collect();
    for reader in &old.instructions[place..] {
        for operand in &reader.operands {
            if let Operand::Result { instruction, .. } = *operand
                && instruction < place
            {
                read[instruction] = true;
                apart[instruction] |= reader.section.is_some();
            }
        }
    }
    let cheap = |i: usize| !apart[i] && cheap(old, usage, i);
    for i in 0..place {
        let instruction = &old.instructions[i];
        let bytes: usize = instruction.outputs.iter().map(autograd_core::Meta::bytes).sum();
        let cheap = cheap(i);
        let capacity = match () {
            // Its memory lives to the end anyway.
            () if alive[i] => 0,
            // What it is a view of is kept instead.
            () if cheap && usage.is_view(i) => UNCUT,
            () => bytes as u64,
        };
        network.edge(2 * i, 2 * i + 1, capacity);
        if !cheap {
            network.edge(source, 2 * i, UNCUT);
        }
        for operand in instruction.operands.iter().filter(|_| cheap) {
            if let Operand::Result { instruction: from, .. } = *operand {
                network.edge(2 * from + 1, 2 * i, UNCUT);
            }
        }
        if read[i] {
            network.edge(2 * i + 1, sink, UNCUT);
        }
    }
    let side = network.cut(source, sink);
    // What only inputs lead to can always be computed again, and what nobody reads is not asked for.
    (0..place).map(|i| !cheap(i) || alive[i] || (side[2 * i + 1] && !side[2 * i])).collect()
}
