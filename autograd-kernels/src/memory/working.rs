//! The peak of a parallel call, whoever runs its tasks.
//!
//! How many tasks run at one time is chance: a worker may come late or not at all, and a peak that
//! followed it would differ from run to run by a task's working memory. So a call counts as if all
//! threads were at work at once, each with the most that any task takes for itself.

use super::{LIVE, PEAK};
use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// What a task has taken and not given back, and the most of it: less than nothing where it gives
/// back what it did not take.
#[derive(Clone, Copy, Default)]
struct Task {
    live: isize,
    most: isize,
}

thread_local! {
    static TASK: Cell<Option<Task>> = const { Cell::new(None) };
}

/// Whether this thread runs a task.
pub(super) fn is_task() -> bool {
    TASK.get().is_some()
}

/// Counts bytes for the task that this thread runs; false where it runs none.
pub(super) fn count(bytes: isize) -> bool {
    let Some(mut task) = TASK.get() else { return false };
    task.live += bytes;
    task.most = task.most.max(task.live);
    TASK.set(Some(task));
    true
}

/// A parallel call; the peak is settled when it is dropped.
pub(crate) struct Working {
    before: usize,
    threads: usize,
    /// The most that a task takes beyond what it leaves.
    most: AtomicUsize,
}

impl Working {
    /// A call on so many threads; `None` inside of a task, which counts for itself.
    pub(crate) fn begin(threads: usize) -> Option<Self> {
        let outermost = TASK.get().is_none();
        outermost.then(|| Self { before: LIVE.load(Relaxed), threads, most: AtomicUsize::new(0) })
    }

    /// Runs one of its tasks.
    pub(crate) fn task(&self, f: impl FnOnce()) {
        struct Counted<'a>(&'a Working);
        impl Drop for Counted<'_> {
            fn drop(&mut self) {
                let task = TASK.take().unwrap_or_default();
                let own = task.most - task.live.max(0);
                self.0.most.fetch_max(own.max(0).cast_unsigned(), Relaxed);
            }
        }
        TASK.set(Some(Task::default()));
        let _counted = Counted(self);
        f();
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        let lasting = self.before.max(LIVE.load(Relaxed));
        PEAK.fetch_max(lasting + self.threads * self.most.load(Relaxed), Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{give, take};

    #[test]
    fn a_task_counts_what_it_takes_for_itself() {
        let call = Working::begin(2).unwrap();
        let given = take::<u8>(1 << 20);
        let most = || call.most.load(Relaxed);
        call.task(|| {
            // A call inside of a task is part of it.
            assert!(Working::begin(2).is_none());
            give(take::<u8>(1 << 16));
        });
        assert_eq!(most(), 1 << 16);
        call.task(|| give(given));
        assert_eq!(most(), 1 << 16, "what it gives back it has not taken");
        let mut kept = Vec::new();
        call.task(|| {
            kept = take::<u8>(1 << 17);
            give(take::<u8>(1 << 15));
        });
        assert_eq!(most(), 1 << 16, "what it leaves is counted where it lives");
        give(kept);
        assert!(TASK.get().is_none());
    }
}
