//! The optimal plan for a chain of unequal layers under a byte budget.
//!
//! The recursion is that of rotor (Beaumont, Eyraud-Dubois, Herrmann, Joly and Shilova, "Optimal
//! checkpointing for heterogeneous chains", 2019): a segment's first layer keeps everything, or
//! the segment splits into layers that are evaluated again later and layers that come first in the
//! backward pass. rotor fills a table over memory in slots; here each segment has the front of its
//! trades instead, least bytes for least work, so that bytes are exact and the least possible
//! budget is known.

use crate::cost::ChainCost;
use crate::plan::{Part, Plan};
use crate::predict::{discard, keep, output_outside, recompute};
use crate::uniform::again;
use autograd_core::{At, Error, Result, Site};
use std::ops::Range;

/// What is done with a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Choice {
    /// Its first layer keeps what its backward pass reads.
    Keep,
    /// Its first so many layers are evaluated again.
    Split(u32),
}

/// A trade: so many bytes for so much extra work.
#[derive(Clone, Copy, Debug)]
struct Trade {
    bytes: usize,
    work: f64,
    choice: Choice,
}

/// The trades of a segment that no other is better than in both; more bytes, less work.
type Front = Vec<Trade>;

/// The fronts of all segments of a chain.
pub(crate) struct Fronts<'a> {
    cost: &'a ChainCost,
    fronts: Vec<Front>,
    /// Which front is whose: row by first layer, column by length − 1. Segments of equal layers
    /// share one.
    of: Vec<Vec<u32>>,
}

/// How many trades a segment remembers. Chains of up to 64 layers have all that matter; beyond,
/// trades between the extremes are thinned out, which costs some of the last percent of work.
fn most_trades(layers: usize) -> usize {
    match layers {
        0..=64 => 512,
        65..=160 => 128,
        _ => 48,
    }
}

impl<'a> Fronts<'a> {
    pub(crate) fn new(cost: &'a ChainCost) -> Self {
        let n = cost.len();
        let most = most_trades(n);
        let mut made = Self { cost, fronts: Vec::new(), of: vec![Vec::new(); n] };
        // How many layers from each on equal those one earlier.
        let layers = cost.layers();
        let mut repeats = vec![0; n + 1];
        for s in (1..n).rev() {
            repeats[s] = if layers[s] == layers[s - 1] { repeats[s + 1] + 1 } else { 0 };
        }
        for length in 1..=n {
            for (s, repeats) in repeats.iter().enumerate().take(n - length + 1) {
                // The end of the chain differs: its output is held outside.
                let id = if s > 0 && s + length < n && *repeats >= length {
                    made.of[s - 1][length - 1]
                } else {
                    let front = made.front(s, s + length, most);
                    made.fronts.push(front);
                    (made.fronts.len() - 1) as u32
                };
                made.of[s].push(id);
            }
        }
        made
    }

    fn get(&self, segment: Range<usize>) -> &Front {
        &self.fronts[self.of[segment.start][segment.len() - 1] as usize]
    }

    fn front(&self, start: usize, end: usize, most: usize) -> Front {
        let cost = self.cost;
        let seed = cost.layers()[end - 1].output;
        let held = held(end, cost);
        if end - start == 1 {
            let bytes = keep(start, end, held, None, cost);
            return vec![Trade { bytes, work: 0.0, choice: Choice::Keep }];
        }
        let mut trades: Vec<Trade> = Vec::new();
        for rest in self.get(start + 1..end) {
            let bytes = keep(start, end, held, Some(rest.bytes), cost);
            trades.push(Trade { bytes, work: rest.work, choice: Choice::Keep });
        }
        for split in start + 1..end {
            let floor = discard(start..split, seed, cost);
            let forward = cost.work_of(start..split);
            let (left, right) = (self.get(start..split), self.get(split..end));
            let choice = Choice::Split((split - start) as u32);
            // The cheapest of each side under the same bytes: a walk over both fronts at once.
            let left_bytes =
                |i: usize| left[i].bytes.saturating_add(cost.gradients_of(split..end)).saturating_add(held);
            let right_bytes = |j: usize| cost.layers()[split - 1].output.saturating_add(right[j].bytes);
            let (mut i, mut j) = (0, 0);
            let mut bytes = floor.max(left_bytes(0)).max(right_bytes(0));
            loop {
                while i + 1 < left.len() && left_bytes(i + 1) <= bytes {
                    i += 1;
                }
                while j + 1 < right.len() && right_bytes(j + 1) <= bytes {
                    j += 1;
                }
                trades.push(Trade { bytes, work: forward + left[i].work + right[j].work, choice });
                let next_left = (i + 1 < left.len()).then(|| left_bytes(i + 1));
                let next_right = (j + 1 < right.len()).then(|| right_bytes(j + 1));
                match (next_left, next_right) {
                    (None, None) => break,
                    (Some(a), Some(b)) => bytes = a.min(b),
                    (Some(a), None) | (None, Some(a)) => bytes = a,
                }
            }
        }
        thinned(front_of(trades), most)
    }

    /// The least bytes that a segment can do with.
    pub(crate) fn least(&self, segment: Range<usize>) -> usize {
        self.get(segment).first().map_or(0, |trade| trade.bytes)
    }

    /// The least extra work of a segment within so many bytes; `None` where they are too few.
    pub(crate) fn work(&self, segment: Range<usize>, bytes: usize) -> Option<f64> {
        self.best(segment, bytes).map(|trade| trade.work)
    }

    /// The bytes that the cheapest way within `bytes` needs at most.
    pub(crate) fn least_within(&self, segment: Range<usize>, bytes: usize) -> usize {
        self.best(segment, bytes).map_or(0, |trade| trade.bytes)
    }

    fn best(&self, segment: Range<usize>, bytes: usize) -> Option<&Trade> {
        let front = self.get(segment);
        let fitting = front.partition_point(|trade| trade.bytes <= bytes);
        fitting.checked_sub(1).map(|at| &front[at])
    }

    /// The parts that do a segment with the least work within so many bytes.
    pub(crate) fn parts(&self, segment: Range<usize>, bytes: usize) -> Option<Vec<Part>> {
        let mut parts = Vec::new();
        let (mut start, end, mut bytes) = (segment.start, segment.end, bytes);
        while start < end {
            match self.best(start..end, bytes)?.choice {
                Choice::Keep => {
                    let layer = &self.cost.layers()[start];
                    parts.push(Part::Keep(start));
                    if start + 1 < end {
                        bytes = bytes.checked_sub(layer.kept.saturating_add(layer.output))?;
                    }
                    start += 1;
                }
                Choice::Split(length) => {
                    let split = start + length as usize;
                    let inner =
                        bytes.checked_sub(self.cost.gradients_of(split..end) + held(end, self.cost))?;
                    parts.push(again(start..split, self.parts(start..split, inner)?));
                    bytes = bytes.checked_sub(self.cost.layers()[split - 1].output)?;
                    start = split;
                }
            }
        }
        Some(parts)
    }
}

/// The chain's output while its end is pulled back: it is in the caller's hands then.
fn held(end: usize, cost: &ChainCost) -> usize {
    if end == cost.len() { output_outside(cost) } else { 0 }
}

/// The trades that no other is better than in both.
fn front_of(mut trades: Vec<Trade>) -> Front {
    trades.sort_by(|a, b| a.bytes.cmp(&b.bytes).then(a.work.total_cmp(&b.work)));
    let mut best = f64::INFINITY;
    trades.retain(|trade| {
        let better = trade.work < best;
        if better {
            best = trade.work;
        }
        better
    });
    trades
}

/// At most so many trades: the extremes, and the others at even steps.
fn thinned(front: Front, most: usize) -> Front {
    if front.len() <= most {
        return front;
    }
    let last = front.len() - 1;
    (0..most).map(|i| front[i * last / (most - 1)]).collect()
}

pub(crate) fn in_memory(cost: &ChainCost, budget: usize) -> Result<Plan> {
    let n = cost.len();
    let fronts = Fronts::new(cost);
    let parts = fronts.parts(0..n, budget);
    let parts = parts.ok_or(Error::Budget { budget, least: fronts.least(0..n), at: At::default() })?;
    Plan::made("optimal", n, parts).within(budget).with_cost(cost.clone())
}

impl Plan {
    /// The plan of least extra work whose predicted peak is within `budget` bytes.
    ///
    /// # Errors
    /// [`Error::Budget`] where no plan fits; it states the least budget that one fits.
    #[track_caller]
    pub fn optimal(cost: &ChainCost, budget: usize) -> Result<Self> {
        let site = Site::caller();
        in_memory(cost, budget).map_err(|e| e.or_at(site))
    }

    /// The least budget that [`optimal`](Self::optimal) can meet.
    pub fn least_budget(cost: &ChainCost) -> usize {
        Fronts::new(cost).least(0..cost.len())
    }

    /// All budgets at which the optimal plan changes, with its extra work: the curve to choose a
    /// budget from, least bytes first.
    pub fn trades(cost: &ChainCost) -> Vec<(usize, f64)> {
        let fronts = Fronts::new(cost);
        fronts.get(0..cost.len()).iter().map(|trade| (trade.bytes, trade.work)).collect()
    }
}

/// The need of a split, for the search over offloaded segments.
pub(crate) fn split_need(
    segment: Range<usize>,
    end: usize,
    rest: usize,
    inner: usize,
    absent: usize,
    cost: &ChainCost,
) -> usize {
    recompute(segment, end, held(end, cost), Some(rest), inner, absent, cost)
}
