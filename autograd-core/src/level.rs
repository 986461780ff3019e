//! Levels order nested transforms: a watcher of level L wraps only values of lower levels.

use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicU64, Ordering};

/// The depth of a transform. Younger transforms have higher levels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Level(u64);

static NEXT: AtomicU64 = AtomicU64::new(1);

impl Level {
    /// A level above all that exist.
    pub fn fresh() -> Self {
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }

    /// The level as a number: greater is younger.
    pub fn number(self) -> u64 {
        self.0
    }

    /// The level of a number that [`Level::number`] gave.
    pub fn from_number(number: u64) -> Self {
        Self(number)
    }
}

thread_local! {
    /// Reverse levels below this one record nothing on this thread.
    static SILENT_BELOW: Cell<u64> = const { Cell::new(0) };
    /// Single reverse levels that record nothing on this thread.
    static SILENT: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
}

/// What this thread's reverse levels must not record, to be carried to helper threads.
#[derive(Clone, Debug, Default)]
pub struct Pauses {
    below: u64,
    single: Vec<u64>,
}

impl Pauses {
    /// This thread's pauses.
    pub fn current() -> Self {
        Self { below: SILENT_BELOW.get(), single: SILENT.with_borrow(Clone::clone) }
    }

    /// Runs `f` under these pauses, whatever the thread's own are.
    pub fn scope<R>(self, f: impl FnOnce() -> R) -> R {
        let _restore = Restore(Self::current());
        self.install();
        f()
    }

    fn install(self) {
        SILENT_BELOW.set(self.below);
        SILENT.set(self.single);
    }
}

struct Restore(Pauses);

impl Drop for Restore {
    fn drop(&mut self) {
        std::mem::take(&mut self.0).install();
    }
}

/// Whether a reverse level records on this thread.
pub fn is_recording(level: Level) -> bool {
    level.0 >= SILENT_BELOW.get() && SILENT.with_borrow(|s| s.is_empty() || !s.contains(&level.0))
}

/// Runs `f` while no tape that exists now records on this thread. Duals and batches go on, and
/// a tape made inside records: the pause is keyed by level.
///
/// ```
/// # use autograd_core::no_grad;
/// assert_eq!(no_grad(|| 1 + 1), 2);
/// ```
pub fn no_grad<R>(f: impl FnOnce() -> R) -> R {
    Pauses { below: Level::fresh().0, single: Vec::new() }.scope(f)
}

/// Runs `f` while one reverse level records nothing on this thread.
pub fn pause_level<R>(level: Level, f: impl FnOnce() -> R) -> R {
    let mut pauses = Pauses::current();
    pauses.single.push(level.0);
    pauses.scope(f)
}
