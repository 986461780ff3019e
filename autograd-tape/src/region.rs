//! Regions: parts of a recording that keep no residuals and are replayed by the backward pass.

use crate::node::Slot;
use crate::record::Shared;
use crate::stow::{Store, stowed};
use crate::tracer::TapeTracer;
use autograd_core::smallvec::SmallVec;
use autograd_core::{Level, Meta, Primitive, Program, Result, TrackedTensor, section};
use parking_lot::Mutex;
use std::any::Any;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// What becomes of the outputs of an op inside a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fate {
    /// They are computed again.
    Recompute,
    /// They are kept.
    Keep,
    /// They wait outside of the memory, in the region's store.
    Offload,
}

/// Decides the fate of an op's outputs, from the op and their metas.
type Select = dyn Fn(&dyn Primitive, &[Meta]) -> Fate + Send + Sync;

/// Counts what replays do. Shared by the regions that were given it.
#[derive(Debug, Default)]
pub struct ReplayCount {
    ops: AtomicU64,
    nanoseconds: AtomicU64,
}

impl ReplayCount {
    /// Ops that were evaluated again.
    pub fn ops(&self) -> u64 {
        self.ops.load(Ordering::Relaxed)
    }

    /// The time that took.
    pub fn time(&self) -> Duration {
        Duration::from_nanos(self.nanoseconds.load(Ordering::Relaxed))
    }

    pub(crate) fn note(&self, ops: u64, time: Duration) {
        self.ops.fetch_add(ops, Ordering::Relaxed);
        self.nanoseconds.fetch_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

/// How a region records and replays.
#[derive(Clone, Default)]
pub struct RegionOptions {
    select: Option<Arc<Select>>,
    store: Option<Arc<dyn Store>>,
    offloaded: Vec<TrackedTensor>,
    count: Option<Arc<ReplayCount>>,
}

impl fmt::Debug for RegionOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegionOptions")
            .field("selects", &self.select.is_some())
            .field("store", &self.store)
            .field("offloaded", &self.offloaded)
            .finish_non_exhaustive()
    }
}

impl RegionOptions {
    /// Nothing is kept but what comes from outside.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks `select` about the outputs of every op that is recorded.
    #[must_use]
    pub fn select(
        mut self,
        select: impl Fn(&dyn Primitive, &[Meta]) -> Fate + Send + Sync + 'static,
    ) -> Self {
        self.select = Some(Arc::new(select));
        self
    }

    /// Where values wait that are not to stay in memory.
    #[must_use]
    pub fn store(mut self, store: Arc<dyn Store>) -> Self {
        self.store = Some(store);
        self
    }

    /// A value from outside that waits in the store until the region is replayed. A region inside
    /// another one leaves it where it is: what it reads is made again by the outer one.
    #[must_use]
    pub fn offload(mut self, value: &TrackedTensor) -> Self {
        self.offloaded.push(value.clone());
        self
    }

    /// What becomes of an op's outputs in such a region.
    pub fn fate(&self, op: &dyn Primitive, outputs: &[Meta]) -> Fate {
        self.select.as_ref().map_or(Fate::Recompute, |select| select(op, outputs))
    }

    /// Counts the region's replays.
    #[must_use]
    pub fn count(mut self, count: Arc<ReplayCount>) -> Self {
        self.count = Some(count);
        self
    }
}

/// An open region of this thread.
pub(crate) struct Region {
    pub(crate) id: u32,
    /// The region around this one.
    outer: Option<Arc<Region>>,
    /// Tapes of this level and above were made inside: they record as always.
    below: Level,
    options: RegionOptions,
    /// Values that have been moved out, so that each one moves once.
    moved: Mutex<Vec<(usize, Slot, TrackedTensor)>>,
}

impl Region {
    /// The regions around this one that concern a tape, the innermost first, itself at the start.
    pub(crate) fn chain(&self, level: Level) -> impl Iterator<Item = &Region> {
        std::iter::successors(Some(self), |region| region.outer.as_deref())
            .take_while(move |region| level < region.below)
    }

    /// What becomes of an op's outputs.
    pub(crate) fn fate(&self, op: &dyn Primitive, outputs: &[Meta]) -> Fate {
        self.options.fate(op, outputs)
    }

    /// The value in the region's store; there it waits until it is read.
    pub(crate) fn stow(&self, op: &'static str, value: &TrackedTensor) -> Result<TrackedTensor> {
        stowed(op, value, self.options.store.as_ref())
    }

    pub(crate) fn count(&self) -> Option<&Arc<ReplayCount>> {
        self.options.count.as_ref()
    }

    /// An operand from outside as the region keeps it: moved out where that was asked for.
    pub(crate) fn operand(
        &self,
        tape: &Arc<Shared>,
        level: Level,
        slot: Slot,
        value: &TrackedTensor,
    ) -> Result<TrackedTensor> {
        if !self.options.offloaded.iter().any(|moved| slot_of(moved, tape, level) == Some(slot)) {
            return Ok(value.settle().clone());
        }
        let tape = Arc::as_ptr(tape).addr();
        let mut moved = self.moved.lock();
        if let Some((.., known)) = moved.iter().find(|(t, s, _)| *t == tape && *s == slot) {
            return Ok(known.clone());
        }
        let waiting = self.stow("checkpoint", value)?;
        moved.push((tape, slot, waiting.clone()));
        Ok(waiting)
    }
}

/// Where a value stands on a tape, below whatever else watches it.
fn slot_of(value: &TrackedTensor, tape: &Arc<Shared>, level: Level) -> Option<Slot> {
    let mut value = value;
    loop {
        let tracer = value.tracer()?;
        if tracer.level() == level {
            let found = TapeTracer::of(value)?;
            return Arc::ptr_eq(&found.tape, tape).then_some(found.slot);
        }
        value = tracer.lower()?;
    }
}

thread_local! {
    /// How many regions are open on this thread: asked at every recorded op.
    static DEPTH: Cell<u32> = const { Cell::new(0) };
    static INNERMOST: RefCell<Option<Arc<Region>>> = const { RefCell::new(None) };
}

static NEXT: AtomicU32 = AtomicU32::new(1);

/// The innermost open region that concerns a tape of this level.
#[inline]
pub(crate) fn open_region(level: Level) -> Option<Arc<Region>> {
    if DEPTH.get() == 0 {
        return None;
    }
    let mut region = INNERMOST.with_borrow(Clone::clone);
    while let Some(open) = &region
        && level >= open.below
    {
        region = open.outer.clone();
    }
    region
}

/// Runs `f`; what tapes that exist now record meanwhile on this thread keeps no residuals, and is
/// replayed when the backward pass needs it. A region inside a region nests: a replay of the outer
/// one leaves the inner one to be replayed in its turn. A function that is captured remembers its
/// regions, with these options but for what is offloaded: [`run_recorded`] opens them again.
pub fn region<R>(options: RegionOptions, f: impl FnOnce() -> R) -> R {
    let kept = options.clone();
    let what = || Arc::new(RegionOptions { offloaded: Vec::new(), ..kept }) as Arc<dyn Any + Send + Sync>;
    section(what, || open(options, f))
}

/// Runs a program that was captured with regions, and opens these.
///
/// # Errors
/// As [`Program::run`].
pub fn run_recorded(program: &Program, inputs: &[&TrackedTensor]) -> Result<Vec<TrackedTensor>> {
    program.run_in_sections(inputs, &|section, steps| match section.what.downcast_ref::<RegionOptions>() {
        Some(options) => region(options.clone(), steps),
        None => steps(),
    })
}

fn open<R>(options: RegionOptions, f: impl FnOnce() -> R) -> R {
    struct Restore(Option<Arc<Region>>);
    impl Drop for Restore {
        fn drop(&mut self) {
            DEPTH.set(DEPTH.get() - 1);
            // Values that the region held are dropped after the borrow has ended.
            let closed = INNERMOST.with_borrow_mut(|innermost| std::mem::replace(innermost, self.0.take()));
            drop(closed);
        }
    }
    let outer = INNERMOST.with_borrow(Clone::clone);
    let open = Region {
        id: NEXT.fetch_add(1, Ordering::Relaxed),
        outer: outer.clone(),
        below: Level::fresh(),
        options,
        moved: Mutex::new(Vec::new()),
    };
    INNERMOST.set(Some(Arc::new(open)));
    DEPTH.set(DEPTH.get() + 1);
    let _restore = Restore(outer);
    f()
}

/// What a tape knows of a region that some of its nodes are in.
#[derive(Clone, Debug)]
pub(crate) struct RegionEntry {
    /// The region around it, 0 for none.
    pub(crate) outer: u32,
    /// The outermost region around it, or itself.
    pub(crate) root: u32,
    /// The first node in it or in a region inside of it.
    pub(crate) first: u32,
    pub(crate) count: Option<Arc<ReplayCount>>,
}

/// The entries that a tape needs for a region and those around it, the innermost first.
pub(crate) fn entries(region: &Region, level: Level, first: u32) -> SmallVec<[(u32, RegionEntry); 2]> {
    let ids: SmallVec<[&Region; 4]> = region.chain(level).collect();
    let root = ids.last().map_or(0, |r| r.id);
    let entry = |i: usize| RegionEntry {
        outer: ids.get(i + 1).map_or(0, |r| r.id),
        root,
        first,
        count: ids[i].count().cloned(),
    };
    (0..ids.len()).map(|i| (ids[i].id, entry(i))).collect()
}
