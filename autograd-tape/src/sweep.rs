//! The reverse sweep: from the last node down, without recursion, touching values only through
//! the interception point.

use crate::fence::Fence;
use crate::node::{Kept, Node, Slot, Source, Step, with_residuals};
use crate::record::{Record, Shared};
use crate::replay::{Reached, Replays};
use crate::saved::verify;
use crate::stow::recalled;
use crate::tracer::TapeTracer;
use crate::watch::{Passage, Watch};
use autograd_core::algebra::{accumulate, add};
use autograd_core::smallvec::SmallVec;
use autograd_core::{
    Cotangents, Error, Grads, Level, Mask, Meta, Prim, Residual, Result, Rule, Saved, TrackedTensor,
    on_behalf_of,
};
use std::sync::Arc;

/// Where a sweep finds its nodes, and what it leaves behind.
pub(crate) enum Nodes<'a> {
    /// The tape is spent: nodes are taken apart as the sweep passes them.
    Taken(Record),
    /// The tape stays. With `recording`, the sweep's own work is recorded on it.
    Shared { tape: &'a Arc<Shared>, level: Level, recording: bool },
}

/// The metas of a node's inputs.
type Metas = SmallVec<[Meta; 2]>;

impl Nodes<'_> {
    pub(crate) fn with<R>(&self, f: impl FnOnce(&Record) -> R) -> R {
        match self {
            Nodes::Taken(record) => f(record),
            Nodes::Shared { tape, .. } => f(&tape.lock()),
        }
    }

    /// The node, taken or copied.
    fn node(&mut self, id: usize) -> Node {
        match self {
            // The last one, outside of regions.
            Nodes::Taken(record) if record.nodes.len() == id + 1 && record.nodes[id].region == 0 => {
                record.nodes.pop().expect("it is the last of at least one")
            }
            Nodes::Taken(record) => {
                let node = &mut record.nodes[id];
                Node {
                    step: std::mem::replace(&mut node.step, Step::Released),
                    inputs: std::mem::take(&mut node.inputs),
                    kept: std::mem::take(&mut node.kept),
                    // A replay asks the nodes of its region for their metas.
                    outputs: node.outputs.clone(),
                    ..*node
                }
            }
            Nodes::Shared { tape, .. } => tape.lock().nodes[id].clone(),
        }
    }

    /// A kept value as the sweep must see it: on the tape again where the sweep is recorded.
    fn seen(&self, value: TrackedTensor, slot: Option<Slot>) -> TrackedTensor {
        match (self, slot) {
            (Nodes::Shared { tape, level, recording: true }, Some(slot)) => {
                let mut record = tape.lock();
                record.nodes[slot.node as usize].handles += 1;
                drop(record);
                TrackedTensor::from_tracer(Arc::new(TapeTracer {
                    tape: (*tape).clone(),
                    level: *level,
                    slot,
                    value,
                }))
            }
            _ => value,
        }
    }
}

/// Pulls cotangents back from `seeds` to `sources`; `None` where there is no path. The watches see
/// what passes. `ends` are the values that the seeds are of, where it matters when replays run.
pub(crate) fn sweep(
    mut nodes: Nodes<'_>,
    seeds: Vec<(Slot, TrackedTensor)>,
    ends: &[&TrackedTensor],
    sources: &[Slot],
    watches: &mut [&mut dyn Watch],
) -> Result<Vec<Option<TrackedTensor>>> {
    let mut results: Vec<Option<TrackedTensor>> = vec![None; sources.len()];
    let (Some(low), Some(high)) =
        (sources.iter().map(|s| s.node as usize).min(), seeds.iter().map(|(s, _)| s.node as usize).max())
    else {
        return Ok(results);
    };
    if low > high {
        return Ok(results);
    }
    let depends = nodes.with(|record| dependants(record, sources, low, high));
    let mut cts: Vec<Cotangents> = vec![Cotangents::new(); high - low + 1];
    for (slot, seed) in seeds {
        if slot.node as usize >= low {
            give(&mut cts[slot.node as usize - low], slot, seed, &nodes)?;
        }
    }
    let mut replays = Replays::new(Fence::new(ends));
    for id in (low..=high).rev() {
        let mut ct = std::mem::take(&mut cts[id - low]);
        if let Nodes::Taken(record) = &mut nodes {
            record.nodes.truncate(id + 1);
        }
        if !depends[id - low] || ct.iter().all(Option::is_none) {
            continue;
        }
        let mut node = nodes.node(id);
        for watch in watches.iter_mut() {
            watch.arrive(id, &node, &mut ct)?;
        }
        for (result, source) in results.iter_mut().zip(sources) {
            if source.node as usize == id {
                *result = ct.get(source.output as usize).cloned().flatten();
            }
        }
        let reached = |source: &Source| {
            source.slot().is_some_and(|s| (s.node as usize) >= low && depends[s.node as usize - low])
        };
        let recorded = node.differentiable();
        let wanted = Mask::of(node.inputs.len(), |i| recorded.has(i) && reached(&node.inputs[i]));
        let Step::Apply(op) = &node.step else { continue };
        if wanted.is_empty() {
            continue;
        }
        let metas: Metas = nodes.with(|record| record.input_metas(&node));
        verify(op.name(), &node, &nodes.with(|record| record.prints_of(id)))?;
        let site = node.site;
        if node.region != 0 {
            let reached = Reached { id, node: &node, op, low, depends: &depends, cts: &cts, ct: &ct };
            node.kept = replays.residuals(&nodes, &reached).map_err(|e| e.or_at(site))?;
        }
        let mut kept = std::mem::take(&mut node.kept);
        let seen = (!watches.is_empty()).then(|| (ct.clone(), kept.clone()));
        let visit = Visit { id, op, node: &node, metas: &metas, recorded, wanted };
        let grads = on_behalf_of(site, || pull(&nodes, &visit, &mut ct, &mut kept))
            .map_err(|error| error.or_at(site))?;
        // What arrived and what was kept is let go before the gradients are handed on: sums are made in
        // memory that nobody else has.
        drop((ct, kept));
        if let Some((cts, kept)) = &seen {
            let (node, metas) = (&node, &metas[..]);
            let passage = Passage { id, op, node, metas, recorded, wanted, kept, cts, grads: &grads };
            for watch in watches.iter_mut() {
                watch.pass(&passage)?;
            }
        }
        for (i, grad) in grads.into_iter().enumerate() {
            let (Some(grad), Source::Slot(slot), true) = (grad, node.inputs[i], wanted.has(i)) else {
                continue;
            };
            let meta = &metas[i];
            if *grad.shape() != meta.shape || grad.dtype() != meta.dtype {
                let (got, dtype) = (grad.shape(), grad.dtype());
                let reason = format!(
                    "its rule gave {got} {dtype:?} for input {i}, which is {} {:?}",
                    meta.shape, meta.dtype
                );
                return Err(Error::internal(op.name(), reason).or_at(site));
            }
            if node.region != 0 {
                replays.fence.note(&grad);
            }
            give(&mut cts[slot.node as usize - low], slot, grad, &nodes)?;
        }
    }
    Ok(results)
}

/// Which nodes between `low` and `high` depend on a source or are one.
fn dependants(record: &Record, sources: &[Slot], low: usize, high: usize) -> Vec<bool> {
    let mut depends = vec![false; high - low + 1];
    for source in sources {
        if let Some(flag) = (source.node as usize).checked_sub(low).and_then(|i| depends.get_mut(i)) {
            *flag = true;
        }
    }
    for id in low..=high {
        if !depends[id - low] {
            let inputs = record.nodes.get(id).map_or(&[][..], |node| &node.inputs[..]);
            depends[id - low] = inputs
                .iter()
                .filter_map(|i| i.slot())
                .any(|slot| slot.node as usize >= low && depends[slot.node as usize - low]);
        }
    }
    depends
}

/// Adds a cotangent to a node's: the first one is moved in, later ones are added in place where
/// the memory is theirs alone.
fn give(cts: &mut Cotangents, slot: Slot, ct: TrackedTensor, nodes: &Nodes<'_>) -> Result<()> {
    let output = slot.output as usize;
    if cts.len() <= output {
        cts.resize(output + 1, None);
    }
    cts[output] = Some(match (cts[output].take(), nodes) {
        (None, _) => ct,
        (Some(sum), Nodes::Shared { recording: true, .. }) => add(&sum, &ct)?,
        (Some(sum), _) => accumulate(sum, &ct)?,
    });
    Ok(())
}

/// A node that the sweep has reached, recorded for some inputs and wanted for some of these.
struct Visit<'a> {
    id: usize,
    op: &'a Prim,
    node: &'a Node,
    /// The inputs' metas.
    metas: &'a [Meta],
    recorded: Mask,
    wanted: Mask,
}

/// Runs one node's reverse rule on its cotangents and what it kept.
fn pull(nodes: &Nodes<'_>, visit: &Visit<'_>, cts: &mut Cotangents, kept: &mut Kept) -> Result<Grads> {
    let Visit { id, op, node, metas, recorded, wanted } = *visit;
    let rule = op.rule();
    while cts.len() < node.outputs.len() {
        cts.push(None);
    }
    let (inputs, outputs) = (node.inputs.len(), node.outputs.len());
    with_residuals(rule, recorded, inputs, outputs, |reads| {
        for (value, residual) in kept.iter_mut().zip(reads) {
            let slot = match *residual {
                Residual::Input(i) => node.inputs[i].slot(),
                Residual::Output(j) => Some(Slot { node: id as u32, output: j as u32 }),
                // A hint is never tracked.
                Residual::Aux(_) => None,
            };
            if let Some(raw) = value.take() {
                *value = Some(nodes.seen(recalled(raw)?, slot));
            }
        }
        let saved =
            Saved { op: op.name(), residuals: reads, values: kept, inputs: metas, outputs: &node.outputs };
        match rule {
            Rule::Pointwise(op) => op.vjp_over(wanted, cts, &saved),
            Rule::Linear(_, transpose) | Rule::Bilinear(_, _, transpose) => {
                transpose.transpose(wanted, cts, &saved)
            }
            Rule::General(general) => general.vjp(wanted, cts, &saved),
            Rule::Opaque(opaque) => {
                let inputs: SmallVec<[&TrackedTensor; 4]> =
                    (0..inputs).map(|i| saved.input(i)).collect::<Result<_>>()?;
                let ct = cts[0].as_ref().ok_or_else(|| Error::internal(op.name(), "it has no cotangent"))?;
                opaque.backward(wanted, ct, &inputs)
            }
            Rule::Composite | Rule::Flat => {
                Err(Error::internal(op.name(), "a rule without a transpose was recorded"))
            }
        }
    })
}
