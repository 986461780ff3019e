//! One pool of threads for the whole process.
//!
//! A call hands out numbered tasks; the caller works too, and idle workers join in. Where the pool
//! cannot help (one task, one thread, a call from inside a task, the pool busy with another
//! caller), the tasks run one after the other on the caller: never a deadlock, never a queue.
//! Each thread begins with its own share of the tasks and then takes others', so which thread runs
//! a task is chance in the end, and a task must write to its own part of the output; where
//! the parts begin never depends on the number of threads, so results are equal to the bit for
//! any number of them.
//!
//! Without the feature `parallel` everything runs on the caller and no thread is ever started.

mod disjoint;
#[cfg(feature = "parallel")]
mod pool;
#[cfg(feature = "parallel")]
mod sync;

#[cfg(all(feature = "parallel", not(loom)))]
use crate::memory::Working;
pub(crate) use disjoint::{Disjoint, DisjointSlice};
use std::ops::Range;

/// Runs `f(0)`, …, `f(tasks − 1)`, in any order, and returns when all have ended.
///
/// # Panics
/// A panic in a task is thrown again here, after the running tasks have ended; the pool goes on
/// working.
pub fn parallel_for(tasks: usize, f: &(dyn Fn(usize) + Sync)) {
    #[cfg(all(feature = "parallel", not(loom)))]
    if tasks > 1 {
        let Some(working) = Working::begin(threads().min(tasks)) else { return (0..tasks).for_each(f) };
        let counted = |i: usize| working.task(|| f(i));
        if !pool::shared().run(tasks, &counted) {
            (0..tasks).for_each(counted);
        }
        return;
    }
    (0..tasks).for_each(f);
}

/// How many threads work on one call.
pub fn threads() -> usize {
    #[cfg(all(feature = "parallel", not(loom)))]
    return pool::shared().threads();
    #[cfg(any(not(feature = "parallel"), loom))]
    1
}

/// Sets how many threads work on one call; 0 means all that the machine has. Without the feature
/// `parallel` it does nothing.
pub fn set_threads(n: usize) {
    #[cfg(all(feature = "parallel", not(loom)))]
    pool::shared().set_threads(n);
    #[cfg(any(not(feature = "parallel"), loom))]
    let _ = n;
}

/// More chunks than this do not balance better.
const MAX_CHUNKS: usize = 64;

/// The length of the chunks that [`parallel_chunks`] makes, the last one aside: at least
/// `min_chunk`, and the same for any number of threads.
pub(crate) fn chunk_length(len: usize, min_chunk: usize) -> usize {
    let chunks = (len / min_chunk.max(1)).clamp(1, MAX_CHUNKS);
    // Whole cache lines, so that two threads do not write to the same one.
    if chunks == 1 { len } else { len.div_ceil(chunks).next_multiple_of(64.min(min_chunk.max(1))) }
}

/// Runs `f` over ranges that cover `0..len`, about `min_chunk` long or longer. The ranges do not
/// depend on the number of threads; where there is only one, it runs on the caller.
pub fn parallel_chunks(len: usize, min_chunk: usize, f: &(dyn Fn(Range<usize>) + Sync)) {
    if len == 0 {
        return;
    }
    let chunk = chunk_length(len, min_chunk);
    parallel_for(len.div_ceil(chunk), &|i| f(i * chunk..len.min((i + 1) * chunk)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn every_task_runs_once() {
        for tasks in [0, 1, 2, 7, 1000] {
            let counts: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
            parallel_for(tasks, &|i| {
                counts[i].fetch_add(1, Ordering::Relaxed);
            });
            assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 1));
        }
    }

    #[test]
    fn chunks_cover_the_length_once() {
        for (len, min) in [(0, 5), (1, 5), (9, 5), (10, 5), (1000, 7), (100_000, 1), (64, 0)] {
            let ranges = Mutex::new(Vec::new());
            parallel_chunks(len, min, &|r| ranges.lock().unwrap().push(r));
            let mut ranges = ranges.into_inner().unwrap();
            ranges.sort_by_key(|r| r.start);
            let mut at = 0;
            for r in ranges {
                assert!(r.start == at && r.end > at);
                at = r.end;
            }
            assert_eq!(at, len);
        }
    }

    #[test]
    fn nested_calls_run_inline() {
        let sum = AtomicUsize::new(0);
        parallel_for(8, &|i| {
            parallel_for(8, &|j| {
                sum.fetch_add(i * 8 + j, Ordering::Relaxed);
            });
        });
        assert_eq!(sum.into_inner(), 64 * 63 / 2);
    }

    #[test]
    fn callers_at_the_same_time_do_not_wait_for_each_other() {
        std::thread::scope(|s| {
            for _ in 0..4 {
                s.spawn(|| {
                    for round in 0..500 {
                        let sum = AtomicUsize::new(0);
                        parallel_for(round % 17, &|i| {
                            sum.fetch_add(i, Ordering::Relaxed);
                        });
                        let n = round % 17;
                        assert_eq!(sum.into_inner(), n * n.saturating_sub(1) / 2);
                    }
                });
            }
        });
    }

    #[test]
    fn a_panic_reaches_the_caller_and_poisons_nothing() {
        for _ in 0..20 {
            let result = std::panic::catch_unwind(|| {
                parallel_for(100, &|i| assert!(i != 37, "task 37 fails"));
            });
            let message = result.unwrap_err();
            assert_eq!(message.downcast_ref::<&str>(), Some(&"task 37 fails"));
            every_task_runs_once();
        }
    }
}
