//! One pool of threads for the whole process.

use std::ops::Range;

/// Runs `f(0)`, …, `f(tasks − 1)`, in any order, and returns when all have ended.
pub fn parallel_for(tasks: usize, f: &(dyn Fn(usize) + Sync)) {
    (0..tasks).for_each(f);
}

/// How many threads work on one call.
pub fn threads() -> usize {
    1
}

/// Sets how many threads work on one call; 0 means all that the machine has.
pub fn set_threads(_n: usize) {}

/// Runs `f` over ranges that cover `0..len`, each at least `min_chunk` long (but the only one).
/// The ranges do not depend on the number of threads.
pub fn parallel_chunks(len: usize, min_chunk: usize, f: &(dyn Fn(Range<usize>) + Sync)) {
    let chunk = min_chunk.max(1);
    let tasks = len.div_ceil(chunk);
    parallel_for(tasks, &|i| f(i * chunk..len.min((i + 1) * chunk)));
}
