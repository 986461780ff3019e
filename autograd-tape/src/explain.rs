//! Why a gradient is zero, missing or not a number.
//!
//! The record says where a path ends: every operand that is a constant remembers the cut behind
//! which its numbers lie. Where there is a path, a sweep that leaves the tape as it is shows where
//! on it the cotangent becomes zero or NaN.

mod report;
mod trace;

pub use report::{Cause, Explanation, PathStep, Place, Verdict};

use crate::life::State;
use crate::node::{Slot, Source, Step};
use crate::record::Record;
use crate::statistics::Statistics;
use crate::sweep::{Nodes, sweep};
use crate::tape::GradientTape;
use crate::tracer::TapeTracer;
use autograd_core::algebra::ones_like;
use autograd_core::{Level, Result, Site, TrackedTensor};
pub(crate) use trace::Trace;

impl GradientTape {
    /// Says why the gradient of a target with respect to a source is what it is: missing (and what
    /// cut the path), zero (and where it became so), not a number (and which rule made it), or
    /// flowing. The tape stays as it is, so it can be asked before the gradient; a target of several
    /// elements is summed. Printed, the explanation names ops and lines.
    ///
    /// A missing path is looked for among the constants of the record. What was computed outside of
    /// the tape from a cut value is recognised by that value; what went through a candle tensor
    /// (`tensor()`, `to_vec1()` and back) is not, and reported as a constant from candle.
    ///
    /// # Errors
    /// The error of a value whose construction failed; what a rule reports;
    /// [`Error::ReadWhileCapturing`](autograd_core::Error::ReadWhileCapturing) while there are no
    /// numbers to look at.
    ///
    /// ```
    /// use autograd_core::{Result, TrackedTensor};
    /// use autograd_tape::{Cause, GradientTape, Verdict};
    ///
    /// fn main() -> Result<()> {
    ///     let tape = GradientTape::new();
    ///     let x = tape.variable(TrackedTensor::scalar(3.0));
    ///     let norm = (&x * &x)?.detach()?; // meant for a log, used in the loss
    ///     let bias = tape.variable(TrackedTensor::scalar(1.0));
    ///     let loss = (&norm + &bias)?;
    ///     let why = tape.explain(&loss, &x)?;
    ///     assert_eq!(why.verdict, Verdict::Missing);
    ///     assert!(matches!(why.causes[0], Cause::Cut { .. }));
    ///     println!("{why}");
    ///     Ok(())
    /// }
    /// ```
    #[track_caller]
    pub fn explain(&self, target: &TrackedTensor, source: &TrackedTensor) -> Result<Explanation> {
        let site = Site::caller();
        if let Some(error) = target.failure().or_else(|| source.failure()) {
            return Err(error.clone());
        }
        if self.shared.state() != State::Live {
            let at = self.with_record(|record| record.spent_at).unwrap_or(site);
            return Ok(Explanation::missing(Cause::Spent { at }));
        }
        let level = self.shared.level().unwrap_or_else(Level::fresh);
        let Ok(from) = self.find(source, "source", site) else {
            let cut = source.cut().cloned();
            return Ok(Explanation::missing(Cause::Untracked { role: "source", cut }));
        };
        let Ok(to) = self.find(target, "target", site) else {
            let cut = target.cut().cloned();
            let origin = cut.as_ref().and_then(|cut| cut.origins.iter().find(|(l, _)| *l == level));
            let path = origin.map(|(_, node)| {
                self.with_record(|record| {
                    let depends = depends_on(record, from.slot.node as usize);
                    steps(record, &walk(record, *node, from.slot.node as usize, &depends))
                })
            });
            let cause = Cause::Untracked { role: "target", cut: cut.clone() };
            return Ok(Explanation { path: path.unwrap_or_default(), ..Explanation::missing(cause) });
        };
        let missing = self.with_record(|record| {
            let depends = depends_on(record, from.slot.node as usize);
            (!depends[to.slot.node as usize]).then(|| no_path(record, level, to.slot, from, &depends))
        });
        match missing {
            Some(explanation) => Ok(explanation),
            None => self.trace(level, to.slot, target, from.slot),
        }
    }

    /// Sends a cotangent of ones down to the source and looks at what becomes of it.
    fn trace(&self, level: Level, target: Slot, value: &TrackedTensor, source: Slot) -> Result<Explanation> {
        let mut trace = Trace::default();
        let nodes = Nodes::Shared { tape: &self.shared, level, recording: false };
        let seeds = vec![(target, ones_like(value)?)];
        let found = crate::anomaly::unchecked(|| sweep(nodes, seeds, &[], &[source], &mut [&mut trace]))?;
        let gradient = found.into_iter().next().flatten().map(|grad| Statistics::of(&grad)).transpose()?;
        let verdict = match &gradient {
            None => Verdict::Zero,
            Some(s) if !s.all_finite() => Verdict::NotFinite { nans: s.nans, infinities: s.infinities },
            Some(s) if s.all_zero() => Verdict::Zero,
            Some(s) => Verdict::Flows { norm: s.norm() },
        };
        let causes = match verdict {
            Verdict::Zero => trace.zeros(),
            Verdict::NotFinite { .. } => trace.not_finite(),
            Verdict::Flows { .. } | Verdict::Missing => Vec::new(),
        };
        let path = self.with_record(|record| {
            let (target, source) = (target.node as usize, source.node as usize);
            let below = depends_on(record, source);
            let through = causes.first().and_then(Cause::place).map(|place| place.node);
            let ids = match through.filter(|&node| node != target && node >= source) {
                None => walk(record, target, source, &below),
                Some(node) => {
                    let mut ids = walk(record, target, node, &depends_on(record, node));
                    ids.extend(walk(record, node, source, &below).into_iter().skip(1));
                    ids
                }
            };
            steps(record, &ids)
        });
        let path = path.into_iter().map(|step| PathStep { norm: trace.norm(step.node), ..step }).collect();
        Ok(Explanation { verdict, causes, path })
    }

    /// The same in a few words, for the error of a strict gradient.
    pub(crate) fn why_no_path(&self, target: &TapeTracer, source: &TapeTracer) -> Option<String> {
        let level = self.shared.level()?;
        self.with_record(|record| {
            let depends = depends_on(record, source.slot.node as usize);
            if depends.get(target.slot.node as usize).copied().unwrap_or(true) {
                return None;
            }
            let found = no_path(record, level, target.slot, source, &depends);
            found.causes.first().map(ToString::to_string)
        })
    }
}

/// Whether a node depends on another one, for all nodes.
fn depends_on(record: &Record, on: usize) -> Vec<bool> {
    let mut depends = vec![false; record.nodes.len()];
    for (id, node) in record.nodes.iter().enumerate().skip(on) {
        let reads = || node.inputs.iter().filter_map(|input| input.slot());
        depends[id] = id == on || reads().any(|slot| depends[slot.node as usize]);
    }
    depends
}

/// The nodes from one down to another that it depends on.
fn walk(record: &Record, from: usize, to: usize, depends: &[bool]) -> Vec<usize> {
    let mut path = vec![from];
    let mut at = from;
    while at != to {
        let Some(node) = record.nodes.get(at) else { break };
        let mut reads = node.inputs.iter().filter_map(|input| input.slot()).map(|slot| slot.node as usize);
        let Some(next) = reads.find(|&id| depends[id]) else { break };
        path.push(next);
        at = next;
    }
    path
}

fn steps(record: &Record, ids: &[usize]) -> Vec<PathStep> {
    let step = |&id: &usize| {
        let node = record.nodes.get(id)?;
        let label = match &node.step {
            Step::Apply(op) => op.label().map(str::to_owned),
            Step::Variable | Step::Released => None,
        };
        let shape = *node.outputs.first().map(|meta| &meta.shape)?;
        Some(PathStep { node: id, op: node.name(), label, site: node.site, shape, norm: None })
    };
    ids.iter().filter_map(step).collect()
}

fn place(record: &Record, id: usize) -> Place {
    let node = &record.nodes[id];
    Place { node: id, op: node.name(), site: node.site }
}

/// Why a target does not depend on a source: the constant, among those that the target was computed
/// from, behind which the source lies.
fn no_path(
    record: &Record,
    level: Level,
    target: Slot,
    source: &TapeTracer,
    depends: &[bool],
) -> Explanation {
    let target = target.node as usize;
    let wanted = source.slot.node as usize;
    let mut reached = vec![false; target + 1];
    reached[target] = true;
    let mut constants = Vec::new();
    for id in (0..=target).rev() {
        if !reached[id] {
            continue;
        }
        for (operand, input) in record.nodes[id].inputs.iter().enumerate() {
            match *input {
                Source::Slot(slot) => reached[slot.node as usize] = true,
                Source::Constant(at) => constants.push((id, operand, &record.constants[at as usize])),
            }
        }
    }
    let to = |id: usize| walk(record, target, id, &depends_on(record, id));
    let explain = |cause: Cause, ids: &[usize]| Explanation {
        verdict: Verdict::Missing,
        causes: vec![cause],
        path: steps(record, ids),
    };
    for (id, operand, constant) in &constants {
        let Some(cut) = &constant.cut else { continue };
        let origin = |(l, node): &&(Level, usize)| *l == level && depends.get(*node) == Some(&true);
        if let Some((_, origin)) = cut.origins.iter().find(origin) {
            let mut ids = to(*id);
            ids.extend(walk(record, *origin, wanted, depends));
            let reader = place(record, *id);
            return explain(Cause::Cut { cut: cut.clone(), reader, operand: *operand }, &ids);
        }
    }
    let own = source.value.plain().map(|plain| std::sync::Arc::as_ptr(plain).addr());
    for (id, operand, constant) in &constants {
        // Recorded after the source: the address cannot be that of other numbers.
        if *id > wanted && constant.address.is_some() && constant.address == own {
            let reader = place(record, *id);
            return explain(Cause::PlainUsed { reader, operand: *operand }, &to(*id));
        }
    }
    for (id, operand, constant) in &constants {
        if let Some(cut) = &constant.cut {
            let reader = place(record, *id);
            return explain(Cause::Cut { cut: cut.clone(), reader, operand: *operand }, &to(*id));
        }
    }
    if wanted > target {
        return explain(Cause::Later { source: place(record, wanted) }, &[]);
    }
    for (id, operand, constant) in &constants {
        if constant.from_candle {
            let reader = place(record, *id);
            return explain(Cause::FromCandle { reader, operand: *operand }, &to(*id));
        }
    }
    explain(Cause::Unrelated, &[])
}

#[cfg(test)]
mod tests;
