//! Recycled buffers: the precondition of every fast kernel.
//!
//! Memory fresh from the system is mapped page by page while it is first written, which costs more
//! than most kernels that write it. So buffers are given back here and taken again. They are
//! sorted in buckets by size, four to each doubling and 32 from 1 MiB on, and a buffer taken is at
//! most a quarter larger than asked for (a fresh one a fifth, or a 32nd). Small buffers stay on the thread that gave them; large ones go to a store that
//! all threads share and that holds no more than a limit. While a thread runs a task of a parallel
//! call, or a static graph, what it gives back up to 256 KiB stays with it too, so that working
//! memory that is taken anew at every step takes no lock.

mod bucket;
pub(crate) mod list;
mod raw;
mod scratch;
mod shared;
#[cfg(all(feature = "parallel", not(loom)))]
mod working;

use crate::Element;
use bucket::{SHARED_FROM, bucket_above, bucket_below, bucket_bytes, fitting};
use raw::{Spare, Stack};
pub(crate) use scratch::Scratch;
pub use shared::Room;
use std::cell::{Cell, RefCell};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
#[cfg(all(feature = "parallel", not(loom)))]
pub(crate) use working::Working;

/// Counters of the buffer pool, for buffers of 4 KiB and more: smaller ones are not counted, so
/// that they stay cheap, and neither are the tiles that a thread keeps for its own work (256 KiB at
/// the most). What waits on a thread's own stacks is neither live nor pooled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryStats {
    /// Bytes asked for in buffers taken (or adopted) and not given back (or released): what is
    /// resident may be a quarter above it, where buffers were taken again for less.
    pub live_bytes: usize,
    /// The largest `live_bytes` since the start or [`reset_peak`]; a parallel call counts as if all
    /// threads were at work at once, so that the same work has the same peak.
    pub peak_bytes: usize,
    /// Bytes that lie ready in the shared store, to be taken again.
    pub pooled_bytes: usize,
    /// How many buffers were taken again.
    pub reused: usize,
    /// How many had to come from the system.
    pub fresh: usize,
    /// For how many the shared store was asked, each time under its lock.
    pub asked: usize,
}

/// Buffers from this size on are counted: those that threads share.
const COUNTED_FROM: usize = bucket_bytes(SHARED_FROM);

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);
static REUSED: AtomicUsize = AtomicUsize::new(0);
static FRESH: AtomicUsize = AtomicUsize::new(0);
static LIMIT: AtomicUsize = AtomicUsize::new(2 << 30);

/// Buffers of one size and alignment that all threads share.
struct Shelf {
    stack: Stack,
    /// When it was last used: what `Store::asked` was.
    used: usize,
}

/// The buffers that all threads share, one shelf for each alignment and bucket.
struct Store {
    shelves: Vec<Shelf>,
    bytes: usize,
    asked: usize,
}

static STORE: Mutex<Store> = Mutex::new(Store { shelves: Vec::new(), bytes: 0, asked: 0 });

impl Store {
    /// The top of a shelf.
    fn pop(&mut self, at: usize) -> Option<Spare> {
        let shelf = self.shelves.get_mut(at)?;
        let spare = shelf.stack.pop()?;
        shelf.used = self.asked;
        self.bytes -= spare.bytes();
        Some(spare)
    }

    /// Puts a buffer on a shelf.
    fn push<T: Element>(&mut self, at: usize, v: Vec<T>) {
        if self.shelves.len() <= at {
            self.shelves.resize_with(at + 1, || Shelf { stack: Stack::new(), used: 0 });
        }
        let shelf = &mut self.shelves[at];
        shelf.used = self.asked;
        self.bytes += v.capacity() * size_of::<T>();
        shelf.stack.push(v);
    }

    /// Makes room for so many bytes below the limit: what has been used least lately goes, to be
    /// freed when the lock is.
    fn make_room(&mut self, bytes: usize, limit: usize) -> Stack {
        let mut gone = Stack::new();
        while self.bytes + bytes > limit {
            let full = self.shelves.iter_mut().filter(|shelf| shelf.stack.len() > 0);
            let Some(oldest) = full.min_by_key(|shelf| shelf.used) else { break };
            self.bytes -= oldest.stack.pop_to(&mut gone);
        }
        gone
    }
}

/// How many small buffers of one size a thread keeps.
const KEPT: usize = 16;

/// How many of one size from [`COUNTED_FROM`] on.
const KEPT_LARGE: usize = 4;

/// The largest buffer that [`take_own`] leaves with its thread: the tiles of 32 steps in f64, twice.
const OWN: usize = 256 << 10;

thread_local! {
    static SMALL: RefCell<Vec<Stack>> = const { RefCell::new(Vec::new()) };
    /// Whether this thread runs a graph: see [`staying`].
    static STAYING: Cell<bool> = const { Cell::new(false) };
}

/// Runs `f`, and what it takes and gives back stays with this thread where it is no larger than
/// 256 KiB: the next run finds it there, and takes no lock.
pub fn staying<R>(f: impl FnOnce() -> R) -> R {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            STAYING.set(self.0);
        }
    }
    let _restore = Restore(STAYING.replace(true));
    f()
}

/// Whether buffers of a bucket stay with this thread now.
fn stays(bucket: usize) -> bool {
    bucket_bytes(bucket) <= OWN && (STAYING.get() || runs_a_task())
}

/// Whether this thread runs a task of a parallel call.
fn runs_a_task() -> bool {
    #[cfg(all(feature = "parallel", not(loom)))]
    return working::is_task();
    #[cfg(any(not(feature = "parallel"), loom))]
    false
}

/// The number of a stack: buffers are shared only between types of one alignment, because memory
/// must be freed as it was allocated.
#[inline]
fn stack_of<T>(bucket: usize) -> usize {
    bucket * 4 + align_of::<T>().trailing_zeros() as usize
}

fn store() -> std::sync::MutexGuard<'static, Store> {
    // A panic cannot happen while it is held, short of a failed allocation.
    STORE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// A buffer of `len` elements with arbitrary (but initialised) content: what its last user left,
/// or zeros. Debug builds fill floats with NaN, so that reading before writing shows.
#[inline]
pub fn take<T: Element>(len: usize) -> Vec<T> {
    let mut v = match recycled(len) {
        Some(v) => v,
        None => return fresh(len),
    };
    if cfg!(debug_assertions) {
        poison(&mut v);
    }
    v
}

/// A buffer of `len` zeros.
pub fn zeros<T: Element>(len: usize) -> Vec<T> {
    match recycled::<T>(len) {
        Some(mut v) => {
            v.fill(T::default());
            v
        }
        None => allocate(len),
    }
}

/// Gives a buffer back, to be taken again; it may come from anywhere. It has the length with which
/// it was taken: that is what is counted.
#[inline]
pub fn give<T: Element>(v: Vec<T>) {
    let bytes = v.capacity() * size_of::<T>();
    let Some(bucket) = bucket_below(bytes) else { return };
    if bucket < SHARED_FROM {
        drop(keep(bucket, v));
    } else {
        give_shared(bucket, v);
    }
}

/// Puts a buffer into the store that threads share.
fn give_shared<T: Element>(bucket: usize, v: Vec<T>) {
    release(size_of_val(v.as_slice()));
    let v = match stays(bucket) {
        true => match keep(bucket, v) {
            Some(v) => v,
            None => return,
        },
        false => v,
    };
    let (bytes, limit) = (v.capacity() * size_of::<T>(), LIMIT.load(Relaxed));
    // What is over the limit is freed with this function's end.
    let _gone;
    if bytes <= limit {
        let mut store = store();
        _gone = store.make_room(bytes, limit);
        store.push(stack_of::<T>(bucket), v);
    }
}

/// A buffer for work that ends on this thread, with content as [`take`]'s. Up to [`OWN`] bytes it
/// stays with the thread: a kernel in small steps does not meet other threads at the store for
/// each of them, and is not counted.
pub(crate) fn take_own<T: Element>(len: usize) -> Vec<T> {
    let Some(bucket) = own_bucket::<T>(len) else { return take(len) };
    let mut v = kept(bucket, len).unwrap_or_else(|| {
        let mut v = vec![T::default(); bucket_bytes(bucket) / size_of::<T>()];
        v.truncate(len);
        v
    });
    if cfg!(debug_assertions) {
        poison(&mut v);
    }
    v
}

/// Gives back what [`take_own`] gave.
pub(crate) fn give_own<T: Element>(v: Vec<T>) {
    match own_bucket::<T>(v.len()) {
        Some(bucket) => drop(keep(bucket, v)),
        None => give(v),
    }
}

/// The bucket of a thread's own buffer, where it has that size.
fn own_bucket<T>(len: usize) -> Option<usize> {
    let bytes = len.checked_mul(size_of::<T>())?;
    bucket_above(bytes).filter(|&bucket| bucket_bytes(bucket) <= OWN)
}

/// Puts a buffer on this thread's stacks; gives it back where they are full, or the thread is ending.
#[inline]
fn keep<T: Element>(bucket: usize, v: Vec<T>) -> Option<Vec<T>> {
    let mut v = Some(v);
    let _ = SMALL.try_with(|small| {
        let Ok(mut stacks) = small.try_borrow_mut() else { return };
        let at = stack_of::<T>(bucket);
        if stacks.len() <= at {
            stacks.resize_with(at + 1, Stack::new);
        }
        if stacks[at].len() < if bucket < SHARED_FROM { KEPT } else { KEPT_LARGE }
            && let Some(v) = v.take()
        {
            stacks[at].push(v);
        }
    });
    v
}

/// Counts `bytes` that leave the pool's care without [`give`]: a buffer moved into a tensor of
/// another library.
pub fn release(bytes: usize) {
    if bytes < COUNTED_FROM {
        return;
    }
    counted_by_a_task(-bytes.cast_signed());
    let _ = LIVE.fetch_update(Relaxed, Relaxed, |live| Some(live.saturating_sub(bytes)));
}

/// Counts `bytes` that come into the pool's care without [`take`].
pub fn adopt(bytes: usize) {
    if bytes < COUNTED_FROM {
        return;
    }
    let live = LIVE.fetch_add(bytes, Relaxed) + bytes;
    // A task's working memory counts when its call has ended.
    if !counted_by_a_task(bytes.cast_signed()) && live > PEAK.load(Relaxed) {
        PEAK.fetch_max(live, Relaxed);
    }
}

/// Whether this thread runs a task of a parallel call, which counts the bytes then.
fn counted_by_a_task(bytes: isize) -> bool {
    #[cfg(all(feature = "parallel", not(loom)))]
    return working::count(bytes);
    #[cfg(any(not(feature = "parallel"), loom))]
    {
        let _ = bytes;
        false
    }
}

#[inline]
fn recycled<T: Element>(len: usize) -> Option<Vec<T>> {
    let bucket = bucket_above(len.checked_mul(size_of::<T>())?)?;
    if bucket >= SHARED_FROM {
        return recycled_shared(bucket, len);
    }
    kept(bucket, len)
}

/// The buffer on top of one of this thread's stacks.
#[inline]
fn kept<T: Element>(bucket: usize, len: usize) -> Option<Vec<T>> {
    let at = stack_of::<T>(bucket);
    SMALL
        .try_with(|small| Some(small.try_borrow_mut().ok()?.get_mut(at)?.pop()?.into_vec(len)))
        .ok()
        .flatten()
}

fn recycled_shared<T: Element>(bucket: usize, len: usize) -> Option<Vec<T>> {
    if stays(bucket)
        && let Some(v) = kept::<T>(bucket, len)
    {
        adopt(size_of_val(v.as_slice()));
        REUSED.fetch_add(1, Relaxed);
        return Some(v);
    }
    let spare = {
        let mut store = store();
        store.asked += 1;
        fitting(bucket).find_map(|bucket| store.pop(stack_of::<T>(bucket)))?
    };
    adopt(len * size_of::<T>());
    REUSED.fetch_add(1, Relaxed);
    Some(spare.into_vec(len))
}

/// Zeros from the system, with the capacity of their bucket.
fn allocate<T: Element>(len: usize) -> Vec<T> {
    let bytes = len * size_of::<T>();
    let Some(bucket) = bucket_above(bytes) else { return vec![T::default(); len] };
    let mut v = vec![T::default(); bucket_bytes(bucket) / size_of::<T>()];
    v.truncate(len);
    if bucket >= SHARED_FROM {
        adopt(bytes);
        FRESH.fetch_add(1, Relaxed);
    }
    v
}

fn fresh<T: Element>(len: usize) -> Vec<T> {
    let mut v = allocate(len);
    if cfg!(debug_assertions) {
        poison(&mut v);
    }
    v
}

fn poison<T: Element>(v: &mut [T]) {
    if T::KIND.is_float() {
        crate::copy::fill(f64::NAN, T::slice_mut(v));
    }
}

/// Frees all buffers that lie ready: those that threads share, and those that stay with this thread.
/// Every other thread keeps its own, at the most a few MiB, until it ends.
pub fn trim() {
    let shelves = {
        let mut store = store();
        store.bytes = 0;
        std::mem::take(&mut store.shelves)
    };
    drop(shelves);
    let _ = SMALL.try_with(|small| small.try_borrow_mut().map(|mut s| s.clear()));
}

/// Sets the largest number of bytes that the shared store keeps ready; 2 GiB at the start. Above
/// it, what has been used least lately is freed.
pub fn set_limit(bytes: usize) {
    LIMIT.store(bytes, Relaxed);
    let gone = store().make_room(0, bytes);
    drop(gone);
}

/// The counters now.
pub fn stats() -> MemoryStats {
    let (pooled_bytes, asked) = {
        let store = store();
        (store.bytes, store.asked)
    };
    MemoryStats {
        live_bytes: LIVE.load(Relaxed),
        peak_bytes: PEAK.load(Relaxed),
        pooled_bytes,
        asked,
        reused: REUSED.load(Relaxed),
        fresh: FRESH.load(Relaxed),
    }
}

/// Starts a new measurement of the peak, from the bytes that live now.
pub fn reset_peak() {
    PEAK.store(LIVE.load(Relaxed), Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_given_back_is_taken_again() {
        // A size that no other test uses, so that nobody takes it first.
        let n = 777_777;
        let v = take::<f64>(n);
        let (at, capacity) = (v.as_ptr(), v.capacity());
        give(v);
        let w = take::<f64>(n - 1000);
        assert_eq!((w.as_ptr(), w.capacity(), w.len()), (at, capacity, n - 1000));
        give(w);
        // What lay beyond the length given back is initialised again.
        let z = take::<i64>(n);
        assert_eq!(z.len(), n);
        assert!(z.iter().all(|&v| v == 0 || f64::from_bits(v as u64).is_nan()));
    }

    #[test]
    fn small_buffers_stay_on_their_thread() {
        let v = take::<f32>(100);
        let at = v.as_ptr();
        give(v);
        let far = std::thread::spawn(|| take::<f32>(100).len()).join().unwrap();
        let again = take::<f32>(100);
        assert_eq!((far, again.as_ptr()), (100, at));
    }

    #[test]
    fn a_threads_own_buffer_stays_and_a_large_one_does_not() {
        let n = OWN / size_of::<f64>();
        let v = take_own::<f64>(n);
        let at = v.as_ptr();
        give_own(v);
        // The shared store has no such buffer: another thread gets one of its own.
        let far = std::thread::spawn(move || {
            let v = take_own::<f64>(n);
            v.as_ptr().addr()
        });
        let far = far.join().unwrap();
        let again = take_own::<f64>(n - 7);
        assert_eq!((again.as_ptr(), again.len()), (at, n - 7));
        assert_ne!(far, at.addr());
        give_own(again);
        assert_eq!((own_bucket::<f64>(n + 1), own_bucket::<f64>(0)), (None, None));
        give_own(take_own::<f64>(n + 1));
        give_own(take_own::<f64>(0));
    }

    #[test]
    fn what_is_used_least_lately_makes_room() {
        let mut store = Store { shelves: Vec::new(), bytes: 0, asked: 0 };
        let buffer = |bytes: usize| vec![0u8; bytes];
        for (at, bytes) in [(3, 100), (5, 200), (3, 100)] {
            store.asked += 1;
            store.push(at, buffer(bytes));
        }
        assert!(store.make_room(100, 500).len() == 0 && store.bytes == 400);
        // The shelf of 200 was used before that of 100.
        assert_eq!((store.make_room(200, 500).len(), store.bytes), (1, 200));
        assert_eq!(store.pop(3).map(|spare| spare.into_vec::<u8>(100).len()), Some(100));
        assert!(store.pop(5).is_none() && store.pop(9).is_none());
        assert_eq!((store.make_room(600, 500).len(), store.bytes), (1, 0));
    }

    #[test]
    fn a_foreign_buffer_serves_by_its_capacity() {
        let mut v: Vec<u8> = Vec::with_capacity(3_333_333);
        v.push(1);
        let at = v.as_ptr();
        give(v);
        let bucket = bucket_below(3_333_333).unwrap();
        let w = zeros::<u8>(bucket_bytes(bucket));
        assert_eq!(w.as_ptr(), at);
        assert!(w.iter().all(|&b| b == 0));
    }

    #[test]
    fn zeros_are_zero_and_floats_are_poisoned_in_debug_builds() {
        for n in [0, 1, 17, 5000, 100_003] {
            let mut v = take::<f32>(n);
            if cfg!(debug_assertions) {
                assert!(v.iter().all(|x| x.is_nan()));
            }
            v.fill(3.0);
            give(v);
            assert!(zeros::<f32>(n).iter().all(|&x| x == 0.0));
        }
    }
}
