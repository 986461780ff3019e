//! Fusion: pointwise ops over one shape, and sums of them, become one pass over memory.
//!
//! ```text
//! before                                after
//! %0 = mul x0 x1 : [4096, 1024] F32     %0 = fused x0 x1 : [4096, 1024] F32 : [] F32
//! %1 = tanh %0 : [4096, 1024] F32       return %0 %0.1
//! %2 = sum %1 : [] F32
//! return %1 %2
//! ```
//!
//! Ops over one shape and type join where one reads the other's elements, or both read the same
//! ones: forward and backward passes meet in one group. An operand of a smaller shape is read as
//! it is broadcast. A sum, a mean or a rule's fused sum joins what it sums. A group runs as one op,
//! so two ops do not join where a third one lies between them. What nobody outside of a group
//! reads never reaches memory. A group is of one checkpointed region, or of none.

use super::rewrite::Rewrite;
use crate::fused::{Fused, FusedOutput, MOST_INPUTS, MOST_OUTPUTS};
use crate::graph::{literal_of, meta_of};
use crate::regions::held;
use autograd_core::kernels::expr::{Builder, Reg};
use autograd_core::smallvec::SmallVec;
use autograd_core::{
    DType, Instruction, Meta, Operand, Pointwise, Prim, Program, Result, ScalarExpr, Shape, is_float,
};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap, HashSet};
use std::sync::Arc;

/// Groups with more steps than this would not stay in the fastest cache.
const MOST_STEPS: usize = 6000;

/// How an instruction can take part.
struct Member<'a> {
    /// The shape over which it is computed.
    shape: Shape,
    dtype: DType,
    work: Work<'a>,
    /// For each output, whether it is one value for each element.
    elementwise: SmallVec<[bool; 2]>,
}

enum Work<'a> {
    /// An expression, and what its outputs are summed to.
    Expression(&'a Pointwise, SmallVec<[Shape; 2]>),
    /// A sum of its operand.
    Sum(Shape, f64),
}

fn member(program: &Program, i: usize) -> Option<Member<'_>> {
    let instruction = &program.instructions[i];
    if held(program, instruction) {
        return None;
    }
    let metas: SmallVec<[Meta; 4]> = instruction.operands.iter().map(|o| meta_of(program, *o)).collect();
    if metas.iter().any(|m| m.elements() == 0) || instruction.aux > 0 {
        return None;
    }
    if let Some(op) = instruction.op.as_pointwise() {
        let shape = instruction.outputs[0].shape;
        let targets = instruction.outputs.iter().map(|_| shape).collect();
        return expression(op, instruction, &metas, shape, targets);
    }
    if let Some(op) = instruction.op.as_reduced_pointwise() {
        let targets = op.targets().iter().copied().collect();
        return expression(op.pointwise(), instruction, &metas, *op.shape(), targets);
    }
    let [x] = metas[..] else { return None };
    let sum = instruction.op.as_sum(&x)?;
    let whole = sum.kept == x.shape;
    is_float(x.dtype).then(|| Member {
        shape: x.shape,
        dtype: x.dtype,
        work: Work::Sum(sum.kept, sum.scale),
        elementwise: [whole && instruction.outputs[0].shape == x.shape].into_iter().collect(),
    })
}

fn expression<'a>(
    op: &'a Pointwise,
    instruction: &Instruction,
    metas: &[Meta],
    shape: Shape,
    targets: SmallVec<[Shape; 2]>,
) -> Option<Member<'a>> {
    let masks = op.definition().masks;
    let float = |i: usize| !masks.has(i);
    let dtype = metas.iter().enumerate().find(|(i, _)| float(*i)).map(|(_, m)| m.dtype)?;
    let fits = |(i, m): (usize, &Meta)| {
        if float(i) { m.dtype == dtype } else { m.dtype == dtype || m.dtype == DType::U8 }
    };
    // Whole numbers would be rounded on the way through floats.
    if !is_float(dtype) || !metas.iter().enumerate().all(fits) {
        return None;
    }
    let made = |out: &Meta| out.dtype == dtype || out.dtype == DType::U8;
    if !instruction.outputs.iter().all(made) || instruction.outputs[0].elements() == 0 {
        return None;
    }
    let elementwise = targets.iter().map(|target| *target == shape).collect();
    Some(Member { shape, dtype, work: Work::Expression(op, targets), elementwise })
}

/// Which instructions run together.
pub(super) struct Groups<'a> {
    program: &'a Program,
    members: Vec<Option<Member<'a>>>,
    /// The group of each instruction, and the instructions of each group.
    group: Vec<usize>,
    inside: Vec<Vec<usize>>,
    /// What each group reads from outside, and how many steps it has.
    outside: Vec<BTreeSet<Key>>,
    steps: Vec<usize>,
    users: Vec<Vec<usize>>,
    /// For each group, the last instruction of it and of all groups that it reads from, directly or
    /// not, or a later one.
    reach: Vec<usize>,
}

impl<'a> Groups<'a> {
    pub(super) fn new(program: &'a Program) -> Self {
        let n = program.instructions.len();
        let mut users = vec![Vec::new(); n];
        for (i, instruction) in program.instructions.iter().enumerate() {
            for operand in &instruction.operands {
                if let Operand::Result { instruction: from, .. } = *operand {
                    users[from].push(i);
                }
            }
        }
        let members: Vec<Option<Member<'a>>> = (0..n).map(|i| member(program, i)).collect();
        let steps = members.iter().map(|m| match m.as_ref().map(|m| &m.work) {
            Some(Work::Expression(op, _)) => op.expr().program().nodes().len(),
            Some(Work::Sum(..)) | None => 1,
        });
        let outside = program.instructions.iter().map(|instruction| {
            let read = instruction.operands.iter().filter(|o| literal_of(program, **o).is_none());
            read.map(|o| key(*o)).collect()
        });
        Self {
            program,
            steps: steps.collect(),
            outside: outside.collect(),
            members,
            group: (0..n).collect(),
            inside: (0..n).map(|i| vec![i]).collect(),
            users,
            reach: (0..n).collect(),
        }
    }

    /// Joins instruction after instruction with the groups of what it reads.
    fn grow(&mut self) {
        // The groups that read a value from outside, by that value.
        let mut readers: HashMap<Operand, Vec<usize>> = HashMap::new();
        for i in 0..self.program.instructions.len() {
            let Some(member) = &self.members[i] else { continue };
            let shape = member.shape;
            let operands = self.program.instructions[i].operands.clone();
            for operand in &operands {
                if let Operand::Result { instruction, .. } = *operand {
                    self.join(instruction, i);
                }
            }
            for operand in operands.iter().filter(|o| meta_of(self.program, **o).shape == shape) {
                if literal_of(self.program, *operand).is_some() {
                    continue;
                }
                let others = readers.entry(*operand).or_default().clone();
                for other in others {
                    self.join(other, i);
                }
                readers.entry(*operand).or_default().push(i);
            }
        }
    }

    /// Joins the groups of two instructions where that is right.
    fn join(&mut self, a: usize, b: usize) {
        let (from, to) = (self.group[a], self.group[b]);
        if from == to {
            return;
        }
        let section = |i: usize| self.program.instructions[i].section;
        let alike = match (&self.members[a], &self.members[b]) {
            (Some(x), Some(y)) => x.shape == y.shape && x.dtype == y.dtype && section(a) == section(b),
            _ => false,
        };
        if !alike || !self.meet_in_elements(from, to) || self.path_through_others(from, to) {
            return;
        }
        let within = |key: &Key| key.0 == RESULT && [from, to].contains(&self.group[key.1]);
        let outside: BTreeSet<Key> =
            self.outside[from].union(&self.outside[to]).filter(|key| !within(key)).copied().collect();
        let steps = self.steps[from] + self.steps[to];
        if outside.len() > MOST_INPUTS || steps > MOST_STEPS {
            return;
        }
        let to = self.merge(from, to);
        self.outside[to] = outside;
        self.steps[to] = steps;
    }

    /// Makes one group of two; gives its number. The smaller one moves.
    pub(super) fn merge(&mut self, from: usize, to: usize) -> usize {
        let (from, to) =
            if self.inside[from].len() > self.inside[to].len() { (to, from) } else { (from, to) };
        let moved = std::mem::take(&mut self.inside[from]);
        for &i in &moved {
            self.group[i] = to;
        }
        self.inside[to].extend(moved);
        self.inside[to].sort_unstable();
        self.extend_reach(to, self.reach[from].max(self.reach[to]));
        to
    }

    /// Notes that a group reaches to an instruction, and so does every group that reads from it.
    fn extend_reach(&mut self, group: usize, reach: usize) {
        self.reach[group] = reach;
        let mut open = vec![group];
        while let Some(group) = open.pop() {
            for &user in self.inside[group].iter().flat_map(|&i| &self.users[i]) {
                let reader = self.group[user];
                if self.reach[reader] < reach {
                    self.reach[reader] = reach;
                    open.push(reader);
                }
            }
        }
    }

    /// The group of an instruction.
    pub(super) fn group_of(&self, instruction: usize) -> usize {
        self.group[instruction]
    }

    /// The instructions of a group, in their order.
    pub(super) fn members_of(&self, group: usize) -> &[usize] {
        &self.inside[group]
    }

    /// Whether the two groups read only elements from each other, never sums.
    fn meet_in_elements(&self, a: usize, b: usize) -> bool {
        let fine = |from: usize, to: usize| {
            self.inside[to].iter().all(|&i| {
                self.program.instructions[i].operands.iter().all(|operand| match *operand {
                    Operand::Result { instruction, output } if self.group[instruction] == from => {
                        self.members[instruction].as_ref().is_some_and(|m| m.elementwise[output])
                    }
                    _ => true,
                })
            })
        };
        fine(a, b) && fine(b, a)
    }

    /// Whether one group reads, through others, what the other makes.
    pub(super) fn path_through_others(&self, a: usize, b: usize) -> bool {
        self.reaches_through_others(a, b) || self.reaches_through_others(b, a)
    }

    fn reaches_through_others(&self, from: usize, to: usize) -> bool {
        // Groups are walked upwards from `to`; what does not reach behind the first instruction of
        // `from` cannot lead to it.
        let first = self.inside[from][0];
        let mut seen: HashSet<usize> = HashSet::new();
        let mut open: Vec<usize> = Vec::new();
        let operands = |group: usize| {
            self.inside[group].iter().flat_map(|&i| {
                self.program.instructions[i].operands.iter().filter_map(|o| match *o {
                    Operand::Result { instruction, .. } => Some(self.group[instruction]),
                    Operand::Input(_) | Operand::Constant(_) => None,
                })
            })
        };
        let later = |group: usize| self.reach[group] > first;
        for group in operands(to) {
            if group != from && group != to && later(group) && seen.insert(group) {
                open.push(group);
            }
        }
        while let Some(group) = open.pop() {
            for next in operands(group) {
                if next == from {
                    return true;
                }
                if next != to && later(next) && seen.insert(next) {
                    open.push(next);
                }
            }
        }
        false
    }

    /// Groups with more outputs than a fused op has are cut in halves, in the order of the program:
    /// no value of the first half depends on the second.
    fn split(&mut self) {
        let mut open: Vec<usize> = (0..self.inside.len()).filter(|&g| self.inside[g].len() > 1).collect();
        while let Some(group) = open.pop() {
            let all = self.inside[group].clone();
            if all.len() < 2 || self.fits(&all) {
                continue;
            }
            let second = all[all.len() / 2..].to_vec();
            // The number of a group is that of one of its members, which may be in either half.
            let (mut keep, mut go) = (all[..all.len() / 2].to_vec(), second);
            if go.contains(&group) {
                std::mem::swap(&mut keep, &mut go);
            }
            let number = go[0];
            go.iter().for_each(|&i| self.group[i] = number);
            self.inside[group] = keep;
            self.inside[number] = go;
            open.extend([group, number]);
        }
    }

    /// Whether a group of these instructions has no more inputs and outputs than a fused op.
    fn fits(&self, all: &[usize]) -> bool {
        let inside: HashSet<usize> = all.iter().copied().collect();
        self.reads(all, &inside).len() <= MOST_INPUTS && self.written(all, &inside).len() <= MOST_OUTPUTS
    }

    /// What a group reads from outside.
    fn reads(&self, all: &[usize], inside: &HashSet<usize>) -> BTreeSet<Key> {
        let operands = all.iter().flat_map(|&i| &self.program.instructions[i].operands);
        operands
            .filter(|o| match **o {
                Operand::Result { instruction, .. } => !inside.contains(&instruction),
                Operand::Input(_) => true,
                Operand::Constant(_) => literal_of(self.program, **o).is_none(),
            })
            .map(|o| key(*o))
            .collect()
    }

    /// The outputs that somebody outside of a group reads.
    pub(super) fn written(&self, all: &[usize], inside: &HashSet<usize>) -> Vec<(usize, usize)> {
        let mut written: BTreeSet<(usize, usize)> = BTreeSet::new();
        for &i in all {
            for &user in self.users[i].iter().filter(|user| !inside.contains(user)) {
                for operand in &self.program.instructions[user].operands {
                    if let Operand::Result { instruction, output } = *operand
                        && instruction == i
                    {
                        written.insert((i, output));
                    }
                }
            }
        }
        for output in &self.program.outputs {
            if let Operand::Result { instruction, output } = *output
                && inside.contains(&instruction)
            {
                written.insert((instruction, output));
            }
        }
        written.into_iter().collect()
    }

    /// The groups in an order in which operands come first, close to that of the program.
    pub(super) fn order(&self) -> Vec<usize> {
        let mut waits: BTreeMap<usize, HashSet<usize>> = BTreeMap::new();
        let mut feeds: HashMap<usize, HashSet<usize>> = HashMap::new();
        for (i, instruction) in self.program.instructions.iter().enumerate() {
            let group = self.group[i];
            let waits = waits.entry(group).or_default();
            for operand in &instruction.operands {
                if let Operand::Result { instruction: from, .. } = *operand
                    && self.group[from] != group
                {
                    waits.insert(self.group[from]);
                    feeds.entry(self.group[from]).or_default().insert(group);
                }
            }
        }
        let first = |group: usize| self.inside[group][0];
        let mut ready: BinaryHeap<Reverse<(usize, usize)>> =
            waits.iter().filter(|(_, on)| on.is_empty()).map(|(&g, _)| Reverse((first(g), g))).collect();
        let mut order = Vec::new();
        while let Some(Reverse((_, group))) = ready.pop() {
            order.push(group);
            for next in feeds.get(&group).into_iter().flatten() {
                let on = waits.entry(*next).or_default();
                on.remove(&group);
                if on.is_empty() {
                    ready.push(Reverse((first(*next), *next)));
                }
            }
        }
        order
    }
}

/// An operand as something that has an order.
type Key = (u8, usize, usize);

/// The first part of the key of an instruction's output.
const RESULT: u8 = 2;

fn key(operand: Operand) -> Key {
    match operand {
        Operand::Input(i) => (0, i, 0),
        Operand::Constant(i) => (1, i, 0),
        Operand::Result { instruction, output } => (RESULT, instruction, output),
    }
}

pub(super) fn fuse(old: &Program) -> Result<Program> {
    let mut groups = Groups::new(old);
    groups.grow();
    groups.split();
    let mut new = Rewrite::of(old);
    for group in groups.order() {
        let all = &groups.inside[group];
        if groups.members[all[0]].is_none() || !groups.fits(all) {
            for &i in all {
                new.keep(i, &old.instructions[i]);
            }
            continue;
        }
        emit(&groups, all, &mut new);
    }
    Ok(new.finish(old))
}

/// Appends a group as one instruction.
fn emit(groups: &Groups<'_>, all: &[usize], new: &mut Rewrite) {
    let program = groups.program;
    let inside: HashSet<usize> = all.iter().copied().collect();
    let mut b = Builder::new();
    let mut inputs: Vec<Operand> = Vec::new();
    let mut at: HashMap<Key, Reg> = HashMap::new();
    let (mut parts, mut outputs, mut regs) = (Vec::new(), Vec::new(), Vec::new());
    let written = groups.written(all, &inside);
    let mut made: Vec<Meta> = Vec::new();
    let mut shape_and_type = None;
    for &i in all {
        let instruction = &program.instructions[i];
        let Some(member) = &groups.members[i] else { continue };
        shape_and_type = Some((member.shape, member.dtype));
        parts.push(instruction.op.name());
        let mut operands: Vec<Reg> = Vec::new();
        for operand in &instruction.operands {
            let reg = match (at.get(&key(*operand)), literal_of(program, *operand)) {
                (Some(reg), _) => *reg,
                (None, Some(number)) => b.constant(number),
                (None, None) => {
                    let reg = b.input(inputs.len());
                    inputs.push(*operand);
                    at.insert(key(*operand), reg);
                    reg
                }
            };
            operands.push(reg);
        }
        // For each output: its register, what it is summed to, and a sum's scale.
        let results: SmallVec<[(Reg, Shape, f64); 2]> = match &member.work {
            Work::Expression(op, targets) => {
                let params: Vec<Reg> = op.params().iter().map(|&p| b.constant(p)).collect();
                let expr = op.expr().program();
                let to = b.inline(expr, &operands, &params);
                let regs = expr.outputs().iter().map(|&out| to[usize::from(out)]);
                regs.zip(targets).map(|(reg, target)| (reg, full_rank(target, &member.shape), 1.0)).collect()
            }
            Work::Sum(kept, scale) => [(operands[0], *kept, *scale)].into_iter().collect(),
        };
        for (output, (reg, kept, scale)) in results.into_iter().enumerate() {
            let out = instruction.outputs[output];
            if member.elementwise[output] {
                // A mean over one element is the element.
                at.insert((RESULT, i, output), reg);
            }
            if written.contains(&(i, output)) {
                outputs.push((i, output));
                made.push(out);
                regs.push((reg, FusedOutput { kept, shape: out.shape, scale, mask: out.dtype == DType::U8 }));
            }
        }
    }
    let Some((shape, dtype)) = shape_and_type else { return };
    if inputs.is_empty() {
        // Nothing but literals: it is left to the ops themselves.
        for &i in all {
            new.keep(i, &program.instructions[i]);
        }
        return;
    }
    let list: Vec<Reg> = regs.iter().map(|(reg, _)| *reg).collect();
    let expr = ScalarExpr::new(b.finish(&list, inputs.len(), 0));
    let fused = Fused::new(expr, shape, dtype, regs.into_iter().map(|(_, out)| out).collect(), parts);
    let Instruction { site, section, .. } = program.instructions[all[0]];
    let at = new.push(Instruction {
        op: Prim::Shared(Arc::new(fused)),
        operands: inputs.iter().map(|o| new.at(*o)).collect(),
        outputs: made.into_iter().collect(),
        aux: 0,
        site,
        section,
    });
    for (position, (i, output)) in outputs.into_iter().enumerate() {
        new.replace_output(i, output, Operand::Result { instruction: at, output: position });
    }
}

/// A target with as many dimensions as the whole shape, by ones in front.
fn full_rank(target: &Shape, whole: &Shape) -> Shape {
    let mut shape = *whole;
    let lead = whole.rank() - target.rank();
    for (d, extent) in shape.dims_mut().iter_mut().enumerate() {
        *extent = if d < lead { 1 } else { target.dims()[d - lead] };
    }
    shape
}
