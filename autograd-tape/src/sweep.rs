//! The reverse sweep: from the last node down, without recursion, touching values only through
//! the interception point.

use crate::fence::Fence;
use crate::node::{Node, Slot, Source, Step, residuals};
use crate::record::{Record, Shared};
use crate::replay::{Reached, Replays};
use crate::saved::verify;
use crate::stow::recalled;
use crate::tracer::TapeTracer;
use crate::watch::{Passage, Watch};
use autograd_core::algebra::{accumulate, add};
use autograd_core::smallvec::SmallVec;
use autograd_core::{
    Cotangents, Error, Grads, Level, Mask, Meta, Primitive, Residual, Result, Rule, Saved, TrackedTensor,
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

/// One node, ready for its rule.
struct Visit {
    node: Node,
    metas: SmallVec<[Meta; 4]>,
}

impl Nodes<'_> {
    pub(crate) fn with<R>(&self, f: impl FnOnce(&Record) -> R) -> R {
        match self {
            Nodes::Taken(record) => f(record),
            Nodes::Shared { tape, .. } => f(&tape.lock()),
        }
    }

    /// The node, taken or copied; its kept values are wrapped again where the sweep is recorded.
    fn visit(&mut self, id: usize) -> Visit {
        match self {
            Nodes::Taken(record) => {
                let metas = record.input_metas(&record.nodes[id]);
                let node = &mut record.nodes[id];
                // What the outputs' consumers need stays: the metas.
                let taken = Node {
                    step: std::mem::replace(&mut node.step, Step::Released),
                    inputs: std::mem::take(&mut node.inputs),
                    kept: std::mem::take(&mut node.kept),
                    outputs: node.outputs.clone(),
                    ..*node
                };
                Visit { node: taken, metas }
            }
            Nodes::Shared { tape, .. } => {
                let record = tape.lock();
                let node = record.nodes[id].clone();
                Visit { metas: record.input_metas(&node), node }
            }
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
        let mut visit = nodes.visit(id);
        for watch in watches.iter_mut() {
            watch.arrive(id, &visit.node, &mut ct)?;
        }
        for (result, source) in results.iter_mut().zip(sources) {
            if source.node as usize == id {
                *result = ct.get(source.output as usize).cloned().flatten();
            }
        }
        let reached = |source: &Source| {
            source.slot().is_some_and(|s| (s.node as usize) >= low && depends[s.node as usize - low])
        };
        let recorded = visit.node.differentiable();
        let wanted = Mask::of(visit.node.inputs.len(), |i| recorded.has(i) && reached(&visit.node.inputs[i]));
        let Step::Apply(op) = std::mem::replace(&mut visit.node.step, Step::Released) else { continue };
        if wanted.is_empty() {
            continue;
        }
        verify(op.name(), &visit.node, &nodes.with(|record| record.prints_of(id)))?;
        if visit.node.region != 0 {
            let reached =
                Reached { id, node: &visit.node, op: &op, low, depends: &depends, cts: &cts, ct: &ct };
            let again = replays.residuals(&nodes, &reached).map_err(|e| e.or_at(visit.node.site))?;
            visit.node.kept = again;
        }
        let site = visit.node.site;
        let seen = (!watches.is_empty()).then(|| (ct.clone(), visit.node.kept.clone()));
        let grads = on_behalf_of(site, || pull(&nodes, &*op, id, recorded, wanted, ct, &mut visit))
            .map_err(|error| error.or_at(site))?;
        if let Some((cts, kept)) = &seen {
            let (node, metas) = (&visit.node, &visit.metas[..]);
            let passage = Passage { id, op: &op, node, metas, recorded, wanted, kept, cts, grads: &grads };
            for watch in watches.iter_mut() {
                watch.pass(&passage)?;
            }
        }
        for (i, grad) in grads.into_iter().enumerate() {
            let (Some(grad), Source::Slot(slot), true) = (grad, visit.node.inputs[i], wanted.has(i)) else {
                continue;
            };
            let meta = visit.metas[i];
            if *grad.shape() != meta.shape || grad.dtype() != meta.dtype {
                let (got, dtype) = (grad.shape(), grad.dtype());
                let reason = format!(
                    "its rule gave {got} {dtype:?} for input {i}, which is {} {:?}",
                    meta.shape, meta.dtype
                );
                return Err(Error::internal(op.name(), reason).or_at(site));
            }
            if visit.node.region != 0 {
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

/// Runs one node's reverse rule.
fn pull(
    nodes: &Nodes<'_>,
    op: &dyn Primitive,
    id: usize,
    recorded: Mask,
    wanted: Mask,
    mut cts: Cotangents,
    visit: &mut Visit,
) -> Result<Grads> {
    let rule = op.rule();
    let node = &mut visit.node;
    cts.resize(node.outputs.len(), None);
    let reads = residuals(rule, recorded, node.inputs.len(), node.outputs.len());
    let values: SmallVec<[Option<TrackedTensor>; 4]> = std::mem::take(&mut node.kept)
        .into_iter()
        .zip(&reads)
        .map(|(value, residual)| {
            let slot = match *residual {
                Residual::Input(i) => node.inputs[i].slot(),
                Residual::Output(j) => Some(Slot { node: id as u32, output: j as u32 }),
                // A hint is never tracked.
                Residual::Aux(_) => None,
            };
            value.map(|value| Ok(nodes.seen(recalled(&value)?, slot))).transpose()
        })
        .collect::<Result<_>>()?;
    let saved = Saved {
        op: op.name(),
        residuals: &reads,
        values: &values,
        inputs: &visit.metas,
        outputs: &node.outputs,
    };
    match rule {
        Rule::Pointwise(op) => op.vjp(wanted, &cts, &saved),
        Rule::Linear(_, transpose) | Rule::Bilinear(_, _, transpose) => {
            transpose.transpose(wanted, &cts, &saved)
        }
        Rule::General(general) => general.vjp(wanted, &cts, &saved),
        Rule::Opaque(opaque) => {
            let inputs: SmallVec<[&TrackedTensor; 4]> =
                (0..node.inputs.len()).map(|i| saved.input(i)).collect::<Result<_>>()?;
            let ct = cts[0].as_ref().ok_or_else(|| Error::internal(op.name(), "it has no cotangent"))?;
            opaque.backward(wanted, ct, &inputs)
        }
        Rule::Composite | Rule::Flat => {
            Err(Error::internal(op.name(), "a rule without a transpose was recorded"))
        }
    }
}
