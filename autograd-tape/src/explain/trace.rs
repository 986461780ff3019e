//! What becomes of a cotangent on its way down.

use super::report::{Cause, Place};
use crate::node::Node;
use crate::statistics::Statistics;
use crate::watch::{Passage, Watch};
use autograd_core::algebra::fill;
use autograd_core::{Cotangents, Mask, Pointwise, Residual, Result, Rule, Saved, TrackedTensor};
use std::collections::{HashMap, HashSet};

/// What arrived at a node.
#[derive(Clone, Copy)]
struct Arrived {
    norm: f64,
    zero: bool,
    finite: bool,
}

/// A look at every cotangent of a sweep.
#[derive(Default)]
pub(crate) struct Trace {
    arrived: HashMap<usize, Arrived>,
    /// Nodes to which something other than zero was sent.
    given: HashSet<usize>,
    /// Where something became zero, the target's side first.
    dead: Vec<Cause>,
    cancelled: Vec<Cause>,
    /// Where something finite became NaN or infinite.
    broken: Vec<Cause>,
}

/// More causes than this are not listed.
const LISTED: usize = 8;

impl Trace {
    /// The norm of what arrived at a node.
    pub(crate) fn norm(&self, node: usize) -> Option<f64> {
        self.arrived.get(&node).map(|arrived| arrived.norm)
    }

    /// Whether what arrived at a node was finite.
    pub(crate) fn is_finite(&self, node: usize) -> bool {
        self.arrived.get(&node).is_none_or(|arrived| arrived.finite)
    }

    pub(super) fn zeros(&self) -> Vec<Cause> {
        self.dead.iter().chain(&self.cancelled).take(LISTED).cloned().collect()
    }

    pub(super) fn not_finite(&self) -> Vec<Cause> {
        self.broken.iter().take(LISTED).cloned().collect()
    }
}

impl Watch for Trace {
    fn arrive(&mut self, id: usize, node: &Node, cts: &mut Cotangents) -> Result<()> {
        let mut seen = Arrived { norm: 0.0, zero: true, finite: true };
        for ct in cts.iter().flatten() {
            let s = Statistics::of(ct)?;
            seen.norm = seen.norm.hypot(s.norm());
            seen.zero &= s.all_zero();
            seen.finite &= s.all_finite();
        }
        let place = || Place { node: id, op: node.name(), site: node.site };
        if seen.zero && self.given.contains(&id) {
            self.cancelled.push(Cause::Cancelled { at: place() });
        }
        if !seen.finite && self.broken.is_empty() {
            let reason = "the sum of what its readers sent overflows".to_owned();
            self.broken.push(Cause::NotFinite { at: place(), reason });
        }
        self.arrived.insert(id, seen);
        Ok(())
    }

    fn pass(&mut self, passage: &Passage<'_>) -> Result<()> {
        let Some(&seen) = self.arrived.get(&passage.id) else { return Ok(()) };
        for i in passage.wanted.iter() {
            let sent = passage.grads[i].as_ref().map(Statistics::of).transpose()?;
            let zero = sent.is_none_or(|s| s.all_zero());
            if zero && !seen.zero && seen.finite {
                self.dead.push(classify(passage, i)?);
            }
            if let Some(s) = sent {
                if seen.finite && !s.all_finite() {
                    let reason = describe(passage, i, &s)?;
                    self.broken.push(Cause::NotFinite { at: at(passage), reason });
                }
                if !s.all_zero()
                    && let Some(slot) = passage.node.inputs[i].slot()
                {
                    self.given.insert(slot.node as usize);
                }
            }
        }
        Ok(())
    }
}

fn at(passage: &Passage<'_>) -> Place {
    Place { node: passage.id, op: passage.op.name(), site: passage.node.site }
}

/// Why an op sent zeros to input `i` though it was sent something else.
fn classify(passage: &Passage<'_>, i: usize) -> Result<Cause> {
    let place = at(passage);
    let factor = || -> Result<Option<usize>> {
        for (value, residual) in passage.kept.iter().zip(passage.reads()) {
            if let (Some(value), Residual::Input(j)) = (value, residual)
                && j != i
            {
                let s = Statistics::of(value)?;
                if s.count > 0 && s.all_zero() {
                    return Ok(Some(j));
                }
            }
        }
        Ok(None)
    };
    Ok(match passage.op.rule() {
        Rule::Opaque(_) => Cause::Opaque { at: place },
        Rule::Pointwise(op) => {
            let partial = partial(passage, op, i)?;
            match partial {
                Some(s) if s.all_zero() => match factor()? {
                    Some(operand) => Cause::TimesZero { at: place, operand },
                    None => Cause::Saturated { at: place, range: range(passage)? },
                },
                Some(s) => Cause::Missed { at: place, alive: s.count - s.zeros, of: s.count },
                None => Cause::Saturated { at: place, range: range(passage)? },
            }
        }
        Rule::Bilinear(..) | Rule::Linear(..) | Rule::General(_) => match factor()? {
            Some(operand) => Cause::TimesZero { at: place, operand },
            None => Cause::Blocked { at: place },
        },
        Rule::Composite | Rule::Flat => Cause::Blocked { at: place },
    })
}

/// The derivative of a pointwise op by input `i`, element by element (summed over the dimensions in
/// which the input was repeated).
fn partial(passage: &Passage<'_>, op: &Pointwise, i: usize) -> Result<Option<Statistics>> {
    let reads = passage.reads();
    let node = passage.node;
    let Some(like) = passage.cts.iter().flatten().next() else { return Ok(None) };
    let ones = node.outputs.iter().map(|meta| fill(1.0, meta, like).map(Some));
    let ones: Cotangents = ones.collect::<Result<_>>()?;
    let saved = Saved {
        op: passage.op.name(),
        residuals: &reads,
        values: passage.kept,
        inputs: passage.metas,
        outputs: &node.outputs,
    };
    // Asked for all recorded inputs: the residuals that were kept are those of all of them.
    let grads = op.vjp(Mask::one(i), &ones, &saved)?;
    grads.get(i).and_then(Option::as_ref).map(Statistics::of).transpose()
}

/// Where the numbers lie that an op's derivative reads.
fn range(passage: &Passage<'_>) -> Result<String> {
    for (value, residual) in passage.kept.iter().zip(passage.reads()) {
        let what = match residual {
            Residual::Input(i) => format!("operand {i}"),
            Residual::Output(_) => "its result".to_owned(),
            Residual::Aux(_) => continue,
        };
        if let Some(value) = value {
            let s = Statistics::of(value)?;
            return Ok(format!("{what} is in [{:e}, {:e}]", s.min, s.max));
        }
    }
    Ok("it reads none of its operands".to_owned())
}

fn describe(passage: &Passage<'_>, i: usize, sent: &Statistics) -> Result<String> {
    let mut reason = format!(
        "its rule sends operand {i} {} NaN and {} infinities of {}",
        sent.nans, sent.infinities, sent.count
    );
    for (value, residual) in passage.kept.iter().zip(passage.reads()) {
        let what = match residual {
            Residual::Input(i) => format!("operand {i}"),
            Residual::Output(_) => "result".to_owned(),
            Residual::Aux(_) => continue,
        };
        let Some(value): &Option<TrackedTensor> = value else { continue };
        let s = Statistics::of(value)?;
        reason += &if s.all_finite() {
            format!("; {what} in [{:e}, {:e}] with {} zeros", s.min, s.max, s.zeros)
        } else {
            format!("; {what} has {} NaN and {} infinities already", s.nans, s.infinities)
        };
    }
    Ok(reason)
}
