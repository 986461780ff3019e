//! Replays: the nodes of a region are evaluated again, as far as the backward pass needs them.
//!
//! Nodes are data, so a replay is a walk over them. A first walk, from the last node down, marks
//! what the rules of this region will read, and what it takes to make that: everything else is
//! left alone, the nodes after the last value that is needed among it. A second walk evaluates,
//! and lets go of each value after its last use. Nodes of regions inside get what they read from
//! outside of their own region, and are replayed in their turn.

use crate::fence::{Fence, Gate};
use crate::node::{Kept, Node, Slot, Source, Step, residuals};
use crate::record::Record;
use crate::region::RegionEntry;
use crate::stow::recalled;
use crate::sweep::Nodes;
use autograd_core::smallvec::SmallVec;
use autograd_core::{Cotangents, Error, Prim, Residual, Result, TrackedTensor, apply_call, on_behalf_of};
use std::collections::{HashMap, HashSet};
use std::time::Instant;

/// What replays have made and the sweep has not read yet.
pub(crate) struct Replays<'a> {
    /// For a node of a replayed region: what its rule reads. For a node of a region inside: what
    /// [`Node::kept`] holds for an outermost one.
    kept: HashMap<u32, Kept>,
    /// Regions that have been replayed.
    done: HashSet<u32>,
    pub(crate) fence: Fence<'a>,
}

/// What a sweep knows when it reaches a region.
pub(crate) struct Reached<'a> {
    /// The node that it has reached, taken out of the record, and its op.
    pub(crate) id: usize,
    pub(crate) node: &'a Node,
    pub(crate) op: &'a Prim,
    /// The oldest node of the sweep; `depends` and `cts` count from it.
    pub(crate) low: usize,
    pub(crate) depends: &'a [bool],
    pub(crate) cts: &'a [Cotangents],
    /// The cotangents of the reached node itself.
    pub(crate) ct: &'a Cotangents,
}

/// A node of the region.
struct Visit {
    id: u32,
    node: Node,
    /// Whether the node is of the region itself; otherwise the region inside that it is in.
    inside: Option<u32>,
    /// Whether the sweep will run its rule.
    pulled: bool,
    reads: SmallVec<[Residual; 4]>,
}

impl Visit {
    fn op(&self) -> Option<&Prim> {
        match &self.node.step {
            Step::Apply(op) => Some(op),
            Step::Variable | Step::Released => None,
        }
    }

    /// An operand that comes from outside of the node's own region.
    fn outside(&self, input: usize) -> Option<&TrackedTensor> {
        self.node.kept.get(input).and_then(Option::as_ref)
    }

    /// What the node keeps beside its operands: outputs and hints that a policy saved.
    fn saved(&self) -> &[Option<TrackedTensor>] {
        self.node.kept.get(self.node.inputs.len()..).unwrap_or(&[])
    }

    fn slot(&self, output: usize) -> Slot {
        Slot { node: self.id, output: output as u32 }
    }
}

impl<'a> Replays<'a> {
    pub(crate) fn new(fence: Fence<'a>) -> Self {
        Self { kept: HashMap::new(), done: HashSet::new(), fence }
    }

    /// What the rule of the reached node reads. Replays its region, and those around it, where
    /// that has not been done.
    pub(crate) fn residuals(&mut self, nodes: &Nodes<'_>, reached: &Reached<'_>) -> Result<Kept> {
        let around = nodes.with(|record| around(record, reached.node.region));
        for (region, entry) in around.iter().rev() {
            if self.done.insert(*region) {
                let clock = Instant::now();
                let ops = self.replay(nodes, *region, entry, reached)?;
                if let Some(count) = &entry.count {
                    count.note(ops, clock.elapsed());
                }
            }
        }
        let again = self.kept.remove(&(reached.id as u32));
        again.ok_or_else(|| Error::internal(reached.op.name(), "its region was not replayed"))
    }

    fn replay(
        &mut self,
        nodes: &Nodes<'_>,
        region: u32,
        entry: &RegionEntry,
        reached: &Reached<'_>,
    ) -> Result<u64> {
        let steps = self.steps(nodes, region, entry, reached);
        let gate = self.fence.gate(reached.ct)?;
        let inside: HashSet<Slot> =
            steps.iter().flat_map(|s| (0..s.node.outputs.len()).map(|k| s.slot(k))).collect();
        // Regions inside of which the sweep will run a rule.
        let awaited: HashSet<u32> = steps.iter().filter(|s| s.pulled).filter_map(|s| s.inside).collect();
        let mut uses: HashMap<Slot, u32> = HashMap::new();
        let mut evaluated = vec![false; steps.len()];
        for (at, step) in steps.iter().enumerate().rev() {
            let read = |input: usize| match step.node.inputs[input] {
                Source::Slot(slot) if step.outside(input).is_none() => Some(slot),
                Source::Slot(_) | Source::Constant(_) => None,
            };
            let mut own = false;
            if step.pulled && step.inside.is_none() {
                for residual in &step.reads {
                    match *residual {
                        Residual::Input(i) => {
                            if let Some(slot) = read(i) {
                                *uses.entry(slot).or_default() += 1;
                            }
                        }
                        Residual::Output(_) | Residual::Aux(_) => own = true,
                    }
                }
            }
            if step.inside.is_some_and(|inner| awaited.contains(&inner)) {
                for slot in (0..step.node.inputs.len()).filter_map(read) {
                    if inside.contains(&slot) && !steps_of(&steps, slot, step.inside) {
                        *uses.entry(slot).or_default() += 1;
                    }
                }
            }
            let wanted = (0..step.node.outputs.len()).any(|k| uses.contains_key(&step.slot(k)));
            evaluated[at] = (own || wanted) && step.saved().is_empty();
            if evaluated[at] {
                for slot in (0..step.node.inputs.len()).filter_map(read) {
                    *uses.entry(slot).or_default() += 1;
                }
            }
        }
        let mut made: HashMap<Slot, TrackedTensor> = HashMap::new();
        let mut ops = 0;
        for (at, step) in steps.iter().enumerate() {
            let Some(op) = step.op() else { continue };
            let mut values = Values { made: &mut made, uses: &mut uses, gate: &gate };
            let mut hints = Kept::new();
            let mut outputs: SmallVec<[TrackedTensor; 2]> = SmallVec::new();
            if evaluated[at] {
                ops += 1;
                let inputs: SmallVec<[TrackedTensor; 4]> = (0..step.node.inputs.len())
                    .map(|i| recalled(values.operand(step, op, i)?))
                    .collect::<Result<_>>()?;
                let refs: SmallVec<[&TrackedTensor; 4]> = inputs.iter().collect();
                let aux = step.pulled && step.reads.iter().any(|r| matches!(r, Residual::Aux(_)));
                let site = step.node.site;
                let applied = on_behalf_of(site, || apply_call(&**op, &refs, aux, site))?;
                outputs.extend(applied.outputs);
                hints.extend(applied.aux.into_iter().map(Some));
            } else if !step.saved().is_empty() {
                let count = step.node.outputs.len();
                for saved in step.saved()[..count].iter().flatten() {
                    outputs.push(gate.pass(saved)?);
                }
                hints.extend(step.saved()[count..].iter().cloned());
            }
            if let Some(inner) = step.inside {
                if awaited.contains(&inner) {
                    let kept = values.for_inner(step, op, &steps)?;
                    self.kept.insert(step.id, kept);
                }
            } else if step.pulled {
                let mut kept = Kept::with_capacity(step.reads.len());
                for residual in &step.reads {
                    kept.push(match *residual {
                        Residual::Input(i) => Some(values.operand(step, op, i)?),
                        Residual::Output(j) => outputs.get(j).cloned(),
                        Residual::Aux(k) => hints.get(k).cloned().flatten(),
                    });
                }
                self.kept.insert(step.id, kept);
            }
            for (output, value) in outputs.into_iter().enumerate() {
                let slot = step.slot(output);
                if uses.get(&slot).is_some_and(|left| *left > 0) {
                    made.insert(slot, value);
                }
            }
        }
        Ok(ops)
    }

    /// The nodes of a region, up to the one that the sweep has reached.
    fn steps(
        &mut self,
        nodes: &Nodes<'_>,
        region: u32,
        entry: &RegionEntry,
        reached: &Reached<'_>,
    ) -> Vec<Visit> {
        let first = entry.first as usize;
        nodes.with(|record| {
            let pulled = pulled(record, first, reached);
            let mut steps = Vec::new();
            for id in first..=reached.id {
                let node = if id == reached.id { reached.node } else { &record.nodes[id] };
                let Some(inside) = place(record, node.region, region) else { continue };
                let mut node = node.clone();
                if id == reached.id {
                    node.step = Step::Apply(reached.op.clone());
                }
                if let Some(kept) = self.kept.remove(&(id as u32)) {
                    node.kept = kept;
                }
                let reads = match &node.step {
                    Step::Apply(op) => {
                        residuals(op.rule(), node.differentiable(), node.inputs.len(), node.outputs.len())
                    }
                    Step::Variable | Step::Released => continue,
                };
                steps.push(Visit { id: id as u32, node, inside, pulled: pulled[id - first], reads });
            }
            steps
        })
    }
}

/// Values on their way through a replay.
struct Values<'a> {
    made: &'a mut HashMap<Slot, TrackedTensor>,
    uses: &'a mut HashMap<Slot, u32>,
    gate: &'a Gate,
}

impl Values<'_> {
    /// A node's operand; one that the region makes is let go with its last use.
    fn operand(&mut self, step: &Visit, op: &Prim, input: usize) -> Result<TrackedTensor> {
        match (step.outside(input), step.node.inputs[input]) {
            (Some(value), _) => self.gate.pass(&recalled(value.clone())?),
            (None, Source::Slot(slot)) => self.take(slot, op),
            (None, Source::Constant(_)) => Err(Error::internal(op.name(), "a constant operand was not kept")),
        }
    }

    fn take(&mut self, slot: Slot, op: &Prim) -> Result<TrackedTensor> {
        let missing = || Error::internal(op.name(), "an operand was not replayed");
        let left = self.uses.get_mut(&slot).ok_or_else(missing)?;
        *left = left.saturating_sub(1);
        let value = if *left == 0 { self.made.remove(&slot) } else { self.made.get(&slot).cloned() };
        value.ok_or_else(missing)
    }

    /// What a node of a region inside keeps until that one is replayed: the operands from outside
    /// of it, and what was saved.
    fn for_inner(&mut self, step: &Visit, op: &Prim, steps: &[Visit]) -> Result<Kept> {
        let mut kept = Kept::with_capacity(step.node.kept.len());
        for input in 0..step.node.inputs.len() {
            kept.push(match (step.outside(input), step.node.inputs[input]) {
                (Some(value), _) => Some(value.clone()),
                (None, Source::Slot(slot)) if !steps_of(steps, slot, step.inside) => {
                    Some(self.take(slot, op)?)
                }
                (None, Source::Slot(_) | Source::Constant(_)) => None,
            });
        }
        kept.extend(step.saved().iter().cloned());
        Ok(kept)
    }
}

/// Whether a slot is made by one of the steps in the same region inside.
fn steps_of(steps: &[Visit], slot: Slot, inside: Option<u32>) -> bool {
    let at = steps.binary_search_by_key(&slot.node, |step| step.id);
    at.is_ok_and(|at| steps[at].inside == inside)
}

/// A region and those around it, the innermost first.
fn around(record: &Record, region: u32) -> SmallVec<[(u32, RegionEntry); 4]> {
    let mut found = SmallVec::new();
    let mut id = region;
    while let Some(entry) = record.regions.get(&id) {
        found.push((id, entry.clone()));
        id = entry.outer;
    }
    found
}

/// Where a node stands as `region` sees it: `Some(None)` in it, `Some(Some(inner))` in a region
/// inside of it, `None` elsewhere.
fn place(record: &Record, of: u32, region: u32) -> Option<Option<u32>> {
    if of == region {
        return Some(None);
    }
    let mut id = of;
    loop {
        let outer = record.regions.get(&id)?.outer;
        if outer == region {
            return Some(Some(id));
        }
        id = outer;
    }
}

/// Which nodes from `first` to the reached one the sweep will run a rule of: those that a
/// cotangent reaches and that depend on a source.
fn pulled(record: &Record, first: usize, reached: &Reached<'_>) -> Vec<bool> {
    let mut pulled = vec![false; reached.id + 1 - first];
    for id in (first..=reached.id).rev() {
        let node = if id == reached.id { reached.node } else { &record.nodes[id] };
        let offset = |id: usize| id.checked_sub(reached.low);
        let depends = offset(id).is_some_and(|at| reached.depends[at]);
        let given = offset(id).is_some_and(|at| reached.cts[at].iter().any(Option::is_some));
        let at = id - first;
        pulled[at] = depends && (pulled[at] || given || id == reached.id);
        if pulled[at] {
            for slot in node.inputs.iter().filter_map(|input| input.slot()) {
                if let Some(at) = (slot.node as usize).checked_sub(first) {
                    pulled[at] = true;
                }
            }
        }
    }
    pulled
}
