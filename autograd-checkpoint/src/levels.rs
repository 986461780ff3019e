//! Plans over two levels of storage: states in memory, and states that wait on a disk.
//!
//! The chain is cut into segments. The input of each segment but the first waits on the disk while
//! what is behind it runs; the segment itself is done by the optimal plan in memory. Where to cut,
//! and how often, is a shortest path over the cuts.

use crate::cost::ChainCost;
use crate::optimal::{Fronts, split_need};
use crate::plan::{Part, Plan};
use autograd_core::{At, Error, Result, Site};

/// What waiting outside of the memory costs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OffloadCost {
    /// The most bytes that may wait at one time.
    pub limit: usize,
    /// Work of writing and reading one byte, in the units of the layers' work.
    pub work_per_byte: f64,
}

/// A way to do a suffix of the chain.
#[derive(Clone, Copy, Debug)]
struct Suffix {
    /// Bytes that wait.
    waiting: usize,
    work: f64,
    /// Peak bytes of the suffix, its own input in them.
    need: usize,
    /// Where its first segment ends; the chain's end for one that is done in memory alone.
    cut: usize,
    /// Which of the suffixes from `cut` on follows.
    next: usize,
}

impl Plan {
    /// The plan of least extra work whose predicted peak is within `budget` bytes of memory and
    /// `offload.limit` bytes of disk.
    ///
    /// # Errors
    /// [`Error::Budget`] where no plan fits; it states the least budget that one fits.
    /// [`Error::InvalidArgument`] for work that is no amount.
    #[track_caller]
    pub fn two_level(cost: &ChainCost, budget: usize, offload: OffloadCost) -> Result<Self> {
        let site = Site::caller();
        over_two_levels(cost, budget, offload).map_err(|e| e.or_at(site))
    }
}

pub(crate) fn over_two_levels(cost: &ChainCost, budget: usize, offload: OffloadCost) -> Result<Plan> {
    if !(offload.work_per_byte.is_finite() && offload.work_per_byte >= 0.0) {
        let reason = format!("work of {} a byte is no amount", offload.work_per_byte);
        return Err(Error::argument("plan", reason));
    }
    let fronts = Fronts::new(cost);
    let suffixes = suffixes(cost, &fronts, budget, offload);
    let best = suffixes[0].iter().enumerate().min_by(|(_, a), (_, b)| a.work.total_cmp(&b.work));
    let parts = best.and_then(|(first, _)| parts(cost, &fronts, budget, &suffixes, first));
    let parts = parts.ok_or_else(|| Error::Budget {
        budget,
        least: least(cost, &fronts, offload),
        at: At::default(),
    })?;
    Plan::made("two-level", cost.len(), parts).within(budget).with_cost(cost.clone())
}

/// For each first layer, the ways to do the chain from there on that no other is better than in
/// waiting bytes and work. The suffix's input is in memory when it starts.
fn suffixes(cost: &ChainCost, fronts: &Fronts<'_>, budget: usize, offload: OffloadCost) -> Vec<Vec<Suffix>> {
    let n = cost.len();
    let mut found: Vec<Vec<Suffix>> = vec![Vec::new(); n];
    for start in (0..n).rev() {
        let input = cost.input_of(start);
        let Some(bytes) = budget.checked_sub(input) else { continue };
        let mut ways = Vec::new();
        if let Some(work) = fronts.work(start..n, bytes) {
            let need = input.saturating_add(fronts.least_within(start..n, bytes));
            ways.push(Suffix { waiting: 0, work, need, cut: n, next: 0 });
        }
        for (cut, rests) in found.iter().enumerate().skip(start + 1) {
            let Some(own) = bytes.checked_sub(cost.gradients_of(cut..n)) else { continue };
            let Some(inner) = fronts.work(start..cut, own) else { continue };
            let inner_need = fronts.least_within(start..cut, own);
            for (next, rest) in rests.iter().enumerate() {
                let waiting = rest.waiting.saturating_add(input);
                // The rest counts its own input, and this segment's is out of the memory meanwhile.
                let behind = rest.need - cost.input_of(cut);
                let need = split_need(start..cut, n, behind, inner_need, input, cost).saturating_add(input);
                if waiting > offload.limit || need > budget {
                    continue;
                }
                let moved = input as f64 * offload.work_per_byte;
                let work = cost.work_of(start..cut) + inner + rest.work + moved;
                ways.push(Suffix { waiting, work, need, cut, next });
            }
        }
        ways.sort_by(|a, b| a.waiting.cmp(&b.waiting).then(a.work.total_cmp(&b.work)));
        let mut best = f64::INFINITY;
        ways.retain(|way| {
            let better = way.work < best;
            best = best.min(way.work);
            better
        });
        found[start] = ways;
    }
    found
}

fn parts(
    cost: &ChainCost,
    fronts: &Fronts<'_>,
    budget: usize,
    suffixes: &[Vec<Suffix>],
    first: usize,
) -> Option<Vec<Part>> {
    let n = cost.len();
    let mut parts = Vec::new();
    let (mut start, mut at) = (0, first);
    loop {
        let way = suffixes[start].get(at)?;
        let bytes = budget.checked_sub(cost.input_of(start))?;
        if way.cut == n {
            parts.extend(fronts.parts(start..n, bytes)?);
            return Some(parts);
        }
        let own = bytes.checked_sub(cost.gradients_of(way.cut..n))?;
        let layers = start..way.cut;
        let inner = fronts.parts(layers.clone(), own)?;
        // The chain's own input is the caller's: there is nothing to move away.
        parts.push(Part::Recompute { layers, parts: inner, offload: start > 0 });
        (start, at) = (way.cut, way.next);
    }
}

/// The least budget that a plan fits: found by halving between what is too little and what memory
/// alone can do with.
fn least(cost: &ChainCost, fronts: &Fronts<'_>, offload: OffloadCost) -> usize {
    let (mut low, mut high) = (0, fronts.least(0..cost.len()));
    while low < high {
        let middle = low + (high - low) / 2;
        if suffixes(cost, fronts, middle, offload)[0].is_empty() {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low
}
