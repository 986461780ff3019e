//! What is known of a program before it runs: which steps need a tile, where each tile lies, and
//! whether one loop does it all.

use crate::expr::{Binary, Node, Reg, Unary};

/// Where the value of a node lies while a tile is worked on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Place {
    /// In the input of this number.
    Input(u8),
    /// In the tile of this number.
    Slot(u16),
    /// Among the numbers that are the same for all elements.
    Uniform(u16),
}

/// A node's function with its operands' places.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Action {
    Unary(Unary, Place),
    Binary(Binary, Place, Place),
    Select(Place, Place, Place),
}

/// One loop over a tile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Step {
    pub(crate) action: Action,
    /// The tile that it writes, which is none that it reads.
    pub(crate) to: u16,
    /// The output that is the only reader of the result, so that it can be written there at once.
    pub(crate) only_for: Option<u16>,
}

/// A leaf of a program that is one function.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Leaf {
    Input(u8),
    Param(u8),
    Const(f64),
}

/// A program that is one function of leaves.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Single {
    Unary(Unary, u8),
    Binary(Binary, Leaf, Leaf),
    /// x · a + b, where a and b are the same for all elements.
    Affine(u8, Leaf, Leaf),
}

/// The order of work for one tile.
#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    pub(crate) steps: Vec<Step>,
    /// How many tiles the steps need.
    pub(crate) slots: usize,
    /// The nodes that are computed once, in the order of their `Place::Uniform` numbers.
    pub(crate) uniform: Vec<Reg>,
    /// Where each output lies after the last step.
    pub(crate) outputs: Vec<Place>,
    /// Set where the whole program is one function.
    pub(crate) single: Option<Single>,
}

impl Schedule {
    pub(crate) fn new(nodes: &[Node], outputs: &[Reg], is_uniform: &[bool]) -> Self {
        let mut uniform = Vec::new();
        let mut last_read = vec![0usize; nodes.len()];
        let mut reads = vec![0usize; nodes.len()];
        for (k, node) in nodes.iter().enumerate() {
            for a in node.operands() {
                last_read[a as usize] = k;
                reads[a as usize] += 1;
            }
        }
        for &reg in outputs {
            last_read[reg as usize] = usize::MAX;
            reads[reg as usize] += 1;
        }
        let mut places = Vec::with_capacity(nodes.len());
        let (mut steps, mut free, mut slots) = (Vec::new(), Vec::new(), 0u16);
        for (k, node) in nodes.iter().enumerate() {
            if is_uniform[k] {
                places.push(Place::Uniform(uniform.len() as u16));
                uniform.push(k as Reg);
                continue;
            }
            let at = |reg: Reg| places[reg as usize];
            let action = match *node {
                Node::Input(i) => {
                    places.push(Place::Input(i));
                    continue;
                }
                Node::Param(_) | Node::Const(_) => {
                    unreachable!("parameters and constants are uniform")
                }
                Node::Unary(f, a) => Action::Unary(f, at(a)),
                Node::Binary(f, a, b) => Action::Binary(f, at(a), at(b)),
                Node::Select(c, a, b) => Action::Select(at(c), at(a), at(b)),
            };
            // The tile to write is taken before those that end here are freed.
            let to = free.pop().unwrap_or_else(|| {
                slots += 1;
                slots - 1
            });
            let mut ended: Vec<Reg> = node.operands().filter(|&a| last_read[a as usize] == k).collect();
            ended.sort_unstable();
            ended.dedup();
            for a in ended {
                if let Place::Slot(slot) = places[a as usize] {
                    free.push(slot);
                }
            }
            let only_for = outputs.iter().position(|&o| usize::from(o) == k && reads[k] == 1);
            steps.push(Step { action, to, only_for: only_for.map(|o| o as u16) });
            places.push(Place::Slot(to));
        }
        let outputs: Vec<Place> = outputs.iter().map(|&reg| places[reg as usize]).collect();
        let single = single(nodes, &outputs, &steps);
        Self { steps, slots: usize::from(slots), uniform, outputs, single }
    }
}

fn single(nodes: &[Node], outputs: &[Place], steps: &[Step]) -> Option<Single> {
    let leaf = |reg: Reg| match nodes[reg as usize] {
        Node::Input(i) => Some(Leaf::Input(i)),
        Node::Param(i) => Some(Leaf::Param(i)),
        Node::Const(c) => Some(Leaf::Const(c)),
        Node::Unary(..) | Node::Binary(..) | Node::Select(..) => None,
    };
    if let (2, [Place::Slot(_)]) = (steps.len(), outputs) {
        return affine(nodes, leaf);
    }
    if steps.len() != 1 || outputs.len() != 1 || !matches!(outputs[0], Place::Slot(_)) {
        return None;
    }
    match *nodes.last()? {
        Node::Unary(f, a) => match leaf(a)? {
            Leaf::Input(i) => Some(Single::Unary(f, i)),
            Leaf::Param(_) | Leaf::Const(_) => None,
        },
        Node::Binary(f, a, b) => Some(Single::Binary(f, leaf(a)?, leaf(b)?)),
        Node::Input(_) | Node::Param(_) | Node::Const(_) | Node::Select(..) => None,
    }
}

/// A program of two steps as x · a + b, if it is that.
fn affine(nodes: &[Node], leaf: impl Fn(Reg) -> Option<Leaf>) -> Option<Single> {
    let Node::Binary(Binary::Add, p, q) = *nodes.last()? else { return None };
    let (product, term) = match (leaf(p), leaf(q)) {
        (None, Some(term)) => (p, term),
        (Some(term), None) => (q, term),
        _ => return None,
    };
    let Node::Binary(Binary::Mul, p, q) = nodes[product as usize] else { return None };
    match (leaf(p)?, leaf(q)?, term) {
        (_, _, Leaf::Input(_)) | (Leaf::Input(_), Leaf::Input(_), _) => None,
        (Leaf::Input(x), a, b) | (a, Leaf::Input(x), b) => Some(Single::Affine(x, a, b)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expr::Builder;

    /// The tile machine's unsafe reads rest on this.
    #[test]
    fn no_step_writes_a_tile_that_it_reads_or_that_is_read_later() {
        let mut b = Builder::new();
        let mut regs = vec![b.input(0), b.input(1), b.param(0)];
        let mut seed = 1usize;
        let mut pick = |n: usize| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % n
        };
        for _ in 0..200 {
            let (x, y, z) = (pick(regs.len()), pick(regs.len()), pick(regs.len()));
            let (x, y, z) = (regs[x], regs[y], regs[z]);
            regs.push(match pick(3) {
                0 => b.unary(Unary::Sin, x),
                1 => b.binary(Binary::Max, x, y),
                _ => b.select(x, y, z),
            });
        }
        let program = b.finish(&regs[regs.len() - 4..], 2, 1);
        let schedule = program.schedule();
        // The node that each tile holds; a step must find those that its own node reads.
        let mut held = vec![None; schedule.slots];
        let nodes = program.nodes().iter().enumerate();
        let inner = nodes.filter(|(i, n)| !program.is_uniform(*i as Reg) && !matches!(n, Node::Input(_)));
        for ((i, node), step) in inner.zip(&schedule.steps) {
            let places = match step.action {
                Action::Unary(_, a) => vec![a],
                Action::Binary(_, a, b) => vec![a, b],
                Action::Select(c, a, b) => vec![c, a, b],
            };
            for (place, operand) in places.iter().zip(node.operands()) {
                if let Place::Slot(slot) = *place {
                    assert_ne!(slot, step.to);
                    assert_eq!(held[usize::from(slot)], Some(operand));
                }
            }
            held[usize::from(step.to)] = Some(i as Reg);
        }
        for (place, &reg) in schedule.outputs.iter().zip(program.outputs()) {
            if let Place::Slot(slot) = *place {
                assert_eq!(held[usize::from(slot)], Some(reg));
            }
        }
    }
}
