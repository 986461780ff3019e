//! The record of a tape, and the small header that its values share.

use crate::anomaly::Check;
use crate::life::{Life, Own, State};
use crate::node::{Node, Slot, Source, Step};
use crate::region::{Region, RegionEntry, entries};
use crate::rules::RuleSet;
use crate::saved::{Fingerprints, Watchfulness};
use crate::variables::Variables;
use autograd_core::smallvec::SmallVec;
use autograd_core::{Cut, Level, Meta, Site, TrackedTensor};
use parking_lot::MutexGuard;
use std::cell::Cell;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

/// What the values of a tape share with it. The nodes belong to the tape: when it is dropped they
/// go, and values compute on as plain values.
#[derive(Debug)]
pub(crate) struct Shared {
    life: Life<Own, Record>,
    /// 0 until the first variable.
    level: AtomicU64,
    /// Which numbers are anomalies; see [`Check`].
    check: AtomicU8,
    pub(crate) watchfulness: Watchfulness,
    /// Backward passes that stand in for the ops' own.
    pub(crate) rules: Option<RuleSet>,
}

/// An operand that is a constant to the tape.
#[derive(Clone, Debug)]
pub(crate) struct Constant {
    pub(crate) meta: Meta,
    /// The cut behind which its numbers lie.
    pub(crate) cut: Option<Arc<Cut>>,
    /// Which plain value it was.
    pub(crate) address: Option<usize>,
    pub(crate) from_candle: bool,
}

impl Constant {
    pub(crate) fn of(value: &TrackedTensor) -> Self {
        let plain = value.plain();
        Self {
            meta: value.meta(),
            cut: value.cut().cloned(),
            address: plain.map(|plain| Arc::as_ptr(plain).addr()),
            from_candle: plain.is_some_and(|plain| !plain.is_own()),
        }
    }

    /// Whether all that is noted holds for a value at the same address, which may be a later one.
    fn is(&self, value: &TrackedTensor) -> bool {
        let cut = match (&self.cut, value.cut()) {
            (None, None) => true,
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            (Some(_), None) | (None, Some(_)) => false,
        };
        cut && self.meta.dtype == value.dtype()
            && self.meta.shape == *value.shape()
            && self.meta.device == value.location()
            && value.plain().is_some_and(|plain| plain.is_own() != self.from_candle)
    }
}

#[derive(Debug, Default)]
pub(crate) struct Record {
    pub(crate) nodes: Vec<Node>,
    pub(crate) constants: Vec<Constant>,
    /// The regions that nodes are in.
    pub(crate) regions: HashMap<u32, RegionEntry>,
    /// Where the first variable was taken.
    pub(crate) started_at: Option<Site>,
    pub(crate) spent_at: Option<Site>,
    /// Fingerprints of candle tensors among the kept values of a node.
    pub(crate) prints: HashMap<u32, Fingerprints>,
    pub(crate) variables: Variables,
}

impl Shared {
    pub(crate) fn new(rules: Option<RuleSet>) -> Self {
        let (nodes, constants) = SPARE.take();
        let life = Life::new(Record {
            nodes,
            constants,
            regions: HashMap::new(),
            started_at: None,
            spent_at: None,
            prints: HashMap::new(),
            variables: Variables::new(),
        });
        let (level, watchfulness) = (AtomicU64::new(0), Watchfulness::new());
        Self { life, level, check: AtomicU8::new(0), watchfulness, rules }
    }

    /// Which numbers are anomalies.
    pub(crate) fn check(&self) -> Check {
        Check::from_number(self.check.load(Ordering::Relaxed))
    }

    pub(crate) fn set_check(&self, check: Check) {
        self.check.store(check as u8, Ordering::Relaxed);
    }

    pub(crate) fn state(&self) -> State {
        self.life.state()
    }

    /// The record, whatever has become of the tape.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Record> {
        self.life.lock()
    }

    /// The record of a tape that is live; `None` where another thread has spent or dropped it.
    pub(crate) fn live(&self) -> Option<MutexGuard<'_, Record>> {
        self.life.live()
    }

    /// Spends the tape: the nodes come out to be taken apart. `None` where another thread was first.
    pub(crate) fn spend(&self, site: Site) -> Option<Record> {
        self.life.spend(|record| {
            let taken = std::mem::take(record);
            record.started_at = taken.started_at;
            record.spent_at = Some(site);
            taken
        })
    }

    /// Drops the tape; the nodes come out so that they are dropped outside of any lock.
    pub(crate) fn end(&self) -> Record {
        self.life.end(|record| {
            let taken = std::mem::take(record);
            (record.started_at, record.spent_at) = (taken.started_at, taken.spent_at);
            taken
        })
    }

    /// The level; `None` before the first variable.
    pub(crate) fn level(&self) -> Option<Level> {
        let number = self.level.load(Ordering::Acquire);
        (number != 0).then(|| Level::from_number(number))
    }

    pub(crate) fn set_level(&self, level: Level) {
        self.level.store(level.number(), Ordering::Release);
    }

    /// One value fewer in the user's hands; what nobody can reach any more loses its residuals.
    pub(crate) fn release(&self, slot: Slot) {
        if self.state() != State::Live {
            return;
        }
        let mut garbage: SmallVec<[_; 1]> = SmallVec::new();
        // The nodes may have been taken meanwhile.
        let Some(mut record) = self.live() else { return };
        let Some(node) = record.nodes.get_mut(slot.node as usize) else { return };
        node.handles -= 1;
        let mut open: SmallVec<[u32; 4]> = SmallVec::new();
        open.push(slot.node);
        while let Some(id) = open.pop() {
            let node = &mut record.nodes[id as usize];
            if node.handles > 0 || node.consumers > 0 || !matches!(node.step, Step::Apply(_)) {
                continue;
            }
            let step = std::mem::replace(&mut node.step, Step::Released);
            garbage.push((step, std::mem::take(&mut node.kept)));
            let inputs = std::mem::take(&mut node.inputs);
            for input in inputs.iter().filter_map(|i| i.slot()) {
                record.nodes[input.node as usize].consumers -= 1;
                open.push(input.node);
            }
        }
        drop(record);
    }
}

impl Record {
    /// Appends a node, and counts it at its inputs.
    pub(crate) fn push(&mut self, node: Node) -> u32 {
        let id = u32::try_from(self.nodes.len()).expect("a tape has fewer than 2^32 nodes");
        for input in node.inputs.iter().filter_map(|i| i.slot()) {
            self.nodes[input.node as usize].consumers += 1;
        }
        self.nodes.push(node);
        id
    }

    /// Appends a node of these operands, which is to be filled where it stands: to move one costs
    /// more than to write it. `values` are the operands one level below.
    pub(crate) fn begin(&mut self, site: Site, slots: &[Option<Slot>], values: &[&TrackedTensor]) -> u32 {
        let id = u32::try_from(self.nodes.len()).expect("a tape has fewer than 2^32 nodes");
        // Unlike `push`, this writes the node where it will stand.
        self.nodes.resize_with(self.nodes.len() + 1, || Node::empty(site));
        for (slot, value) in slots.iter().zip(values) {
            let source = match slot {
                Some(slot) => {
                    self.nodes[slot.node as usize].consumers += 1;
                    Source::Slot(*slot)
                }
                None => Source::Constant(self.constant(value)),
            };
            self.nodes[id as usize].inputs.push(source);
        }
        id
    }

    /// Notes a region before its next node is appended.
    pub(crate) fn enter(&mut self, region: &Region, level: Level) {
        if !self.regions.contains_key(&region.id) {
            let first = self.nodes.len() as u32;
            for (id, entry) in entries(region, level, first) {
                self.regions.entry(id).or_insert(entry);
            }
        }
    }

    /// The number of a constant: that of the one noted last, where it is the same value.
    pub(crate) fn constant(&mut self, value: &TrackedTensor) -> u32 {
        if let (Some(last), Some(plain)) = (self.constants.last(), value.plain())
            && last.address == Some(Arc::as_ptr(plain).addr())
            && last.is(value)
        {
            return self.constants.len() as u32 - 1;
        }
        let id = u32::try_from(self.constants.len()).expect("a tape has fewer than 2^32 constants");
        self.constants.push(Constant::of(value));
        id
    }

    /// The metas of a node's inputs.
    pub(crate) fn input_metas(&self, node: &Node) -> SmallVec<[Meta; 2]> {
        let mut metas = SmallVec::new();
        for input in &node.inputs {
            metas.push(match *input {
                Source::Slot(slot) => self.nodes[slot.node as usize].outputs[slot.output as usize],
                Source::Constant(id) => self.constants[id as usize].meta,
            });
        }
        metas
    }
}

/// The most nodes whose memory a thread keeps for its next tape.
const SPARE_NODES: usize = 1 << 16;

thread_local! {
    /// Memory of an earlier tape: a training step records as many nodes as the one before, and
    /// growing to them again costs more than recording them.
    static SPARE: Cell<(Vec<Node>, Vec<Constant>)> = const { Cell::new((Vec::new(), Vec::new())) };
}

impl Drop for Record {
    fn drop(&mut self) {
        if self.nodes.capacity() == 0 || self.nodes.capacity() > SPARE_NODES {
            return;
        }
        let (mut nodes, mut constants) =
            (std::mem::take(&mut self.nodes), std::mem::take(&mut self.constants));
        nodes.clear();
        constants.clear();
        // A thread that is ending keeps nothing.
        let _ = SPARE.try_with(|spare| {
            let (kept, _) = spare.replace((nodes, constants));
            // What a node held may itself have been a tape's last value, which came here first.
            drop(kept);
        });
    }
}
