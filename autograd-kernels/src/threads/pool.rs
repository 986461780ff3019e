//! The pool itself: a gate that workers pass while a job is open.
//!
//! The caller that holds `busy` writes the job, opens the gate, and takes tasks like everyone
//! else. Workers that come in time enter (the gate counts them) and take tasks too. Each thread
//! begins with a part of them that is its own, so that it finds in its caches what it worked on in
//! the job before, and then helps with the others'. When the tasks have run out the caller closes
//! the gate and waits for those inside: a worker that never woke up is not waited for. So the job,
//! which borrows from the caller's stack, is only ever read between entering and leaving.
//!
//! A job takes no lock: those that there are belong to a panic, and to a caller that goes to sleep.

use super::sync::{
    Arc, AtomicBool, AtomicUsize, Mutex, Ordering, Thread, UnsafeCell, is_inside, look, set_inside, spin,
    thread,
};
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// The pool of the process.
#[cfg(not(loom))]
pub(super) fn shared() -> &'static Arc<Pool> {
    static POOL: std::sync::LazyLock<Arc<Pool>> = std::sync::LazyLock::new(|| Arc::new(Pool::new()));
    &POOL
}

/// Set in the gate while workers may enter; the rest of it counts them in steps of [`ENTRANT`].
const OPEN: usize = 1;
const ENTRANT: usize = 2;

/// Into how many parts tasks fall at the most: more threads share them.
const MOST_PARTS: usize = if cfg!(loom) { 2 } else { 16 };

struct Job {
    /// Borrowed from the caller; valid while the gate is open or somebody is inside.
    f: *const (dyn Fn(usize) + Sync),
    tasks: usize,
    parts: usize,
}

/// The next task of a part, on a cache line of its own.
#[repr(align(64))]
struct Next(AtomicUsize);

struct Worker {
    thread: Thread,
    asleep: Arc<AtomicBool>,
}

/// A crew of threads and one place for a job.
pub(super) struct Pool {
    busy: AtomicBool,
    gate: AtomicUsize,
    /// Counts jobs: a change is what workers wait for.
    epoch: AtomicUsize,
    job: UnsafeCell<Job>,
    next: [Next; MOST_PARTS],
    /// Threads that work on one job, the caller's included.
    threads: AtomicUsize,
    started: AtomicUsize,
    /// Read and written by the holder of `busy` alone.
    workers: UnsafeCell<Vec<Worker>>,
    panicked: AtomicBool,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    /// The caller, where it sleeps until the last worker has left.
    waiting: AtomicBool,
    caller: Mutex<Option<Thread>>,
    closed: AtomicBool,
}

// SAFETY: `job` is written only by the holder of `busy` while the gate is shut and nobody is
// inside, and read only by those who entered after it was opened; `workers` belongs to the holder of
// `busy`; all else is atomics and locks.
unsafe impl Sync for Pool {}
// SAFETY: as above; the raw pointer in `job` is to a `Sync` closure.
unsafe impl Send for Pool {}

/// The content of a lock; a panic never happens while one is held, so poison means nothing.
fn lock<T>(mutex: &Mutex<T>) -> impl std::ops::DerefMut<Target = T> + '_ {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn available() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

impl Pool {
    pub(super) fn new() -> Self {
        Self {
            busy: AtomicBool::new(false),
            gate: AtomicUsize::new(0),
            epoch: AtomicUsize::new(0),
            job: UnsafeCell::new(Job { f: &|_| (), tasks: 0, parts: 1 }),
            next: std::array::from_fn(|_| Next(AtomicUsize::new(0))),
            threads: AtomicUsize::new(available()),
            started: AtomicUsize::new(0),
            workers: UnsafeCell::new(Vec::new()),
            panicked: AtomicBool::new(false),
            panic: Mutex::new(None),
            waiting: AtomicBool::new(false),
            caller: Mutex::new(None),
            closed: AtomicBool::new(false),
        }
    }

    pub(super) fn threads(&self) -> usize {
        self.threads.load(Ordering::Relaxed)
    }

    pub(super) fn set_threads(&self, n: usize) {
        self.threads.store(if n == 0 { available() } else { n }, Ordering::Relaxed);
    }

    /// Runs the tasks here and on the workers. Returns false, with nothing run, where the caller
    /// should run them alone.
    pub(super) fn run(self: &Arc<Self>, tasks: usize, f: &(dyn Fn(usize) + Sync)) -> bool {
        let helpers = self.threads().saturating_sub(1).min(tasks - 1);
        if helpers == 0 || is_inside() || !self.take() {
            return false;
        }
        if self.started.load(Ordering::Relaxed) < helpers {
            self.start(helpers);
        }
        // SAFETY: only the lifetime changes. The pointer is read by those inside the gate alone,
        // and this function does not return before the gate is shut and all have left.
        let f: *const (dyn Fn(usize) + Sync) =
            unsafe { std::mem::transmute::<&(dyn Fn(usize) + Sync), &'static (dyn Fn(usize) + Sync)>(f) };
        let parts = (helpers + 1).min(MOST_PARTS);
        // SAFETY: this thread holds `busy`, and its last holder left the gate shut and empty.
        self.job.with_mut(|job| unsafe { *job = Job { f, tasks, parts } });
        for (part, next) in self.next.iter().enumerate().take(parts) {
            next.0.store(tasks * part / parts, Ordering::Relaxed);
        }
        self.gate.store(OPEN, Ordering::Release);
        self.epoch.fetch_add(1, Ordering::SeqCst);
        self.wake(helpers);

        set_inside(true);
        self.work(0);
        set_inside(false);
        self.gate.fetch_and(!OPEN, Ordering::SeqCst);
        self.wait_until_empty();

        // Set before its thread left, which the gate has shown.
        let panic = if self.panicked.load(Ordering::Relaxed) {
            self.panicked.store(false, Ordering::Relaxed);
            lock(&self.panic).take()
        } else {
            None
        };
        self.busy.store(false, Ordering::Release);
        if let Some(payload) = panic {
            resume_unwind(payload);
        }
        true
    }

    /// Makes this thread the holder of `busy`, where there is none.
    fn take(&self) -> bool {
        self.busy.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    /// Takes tasks until there is none, first those of the part `own`. Only for the caller and for
    /// those inside the gate.
    fn work(&self, own: usize) {
        // SAFETY: the job was written before the gate opened and stays until all have left.
        let (f, tasks, parts) = self.job.with(|job| unsafe { (&*(*job).f, (*job).tasks, (*job).parts) });
        let result = catch_unwind(AssertUnwindSafe(|| {
            for part in (0..parts).map(|k| (own + k) % parts) {
                let end = tasks * (part + 1) / parts;
                loop {
                    let i = self.next[part].0.fetch_add(1, Ordering::Relaxed);
                    if i >= end {
                        break;
                    }
                    f(i);
                }
            }
        }));
        if let Err(payload) = result {
            // The tasks not yet begun are dropped.
            self.next.iter().for_each(|next| next.0.store(tasks, Ordering::Relaxed));
            lock(&self.panic).get_or_insert(payload);
            self.panicked.store(true, Ordering::Relaxed);
        }
    }

    fn wait_until_empty(&self) {
        let empty = || look(&self.gate) == 0;
        if empty() || spin(empty) {
            return;
        }
        *lock(&self.caller) = Some(thread::current());
        self.waiting.store(true, Ordering::SeqCst);
        while !empty() {
            thread::park();
        }
        self.waiting.store(false, Ordering::SeqCst);
    }

    /// Only for the holder of `busy`.
    fn start(self: &Arc<Self>, helpers: usize) {
        self.workers.with_mut(|workers| {
            // SAFETY: this thread holds `busy`.
            let workers = unsafe { &mut *workers };
            while workers.len() < helpers {
                let (pool, id) = (Arc::clone(self), workers.len());
                let asleep = Arc::new(AtomicBool::new(false));
                let flag = Arc::clone(&asleep);
                let builder = thread::Builder::new().name(format!("autograd-{id}"));
                // With no more threads to be had, the ones that there are do the work.
                let Ok(handle) = builder.spawn(move || pool.serve(id, &flag)) else { break };
                workers.push(Worker { thread: handle.thread().clone(), asleep });
            }
            self.started.store(workers.len(), Ordering::Relaxed);
        });
    }

    /// Only for the holder of `busy`.
    fn wake(&self, helpers: usize) {
        self.workers.with(|workers| {
            // SAFETY: this thread holds `busy`.
            for worker in unsafe { &*workers }.iter().take(helpers) {
                // SeqCst against the worker's own: either it sees the new epoch, or it is seen here.
                if worker.asleep.load(Ordering::SeqCst) && worker.asleep.swap(false, Ordering::SeqCst) {
                    worker.thread.unpark();
                }
            }
        });
    }

    /// A worker's life.
    fn serve(&self, id: usize, asleep: &AtomicBool) {
        set_inside(true);
        let mut seen = self.epoch.load(Ordering::SeqCst).wrapping_sub(1);
        loop {
            let changed = || look(&self.epoch) != seen;
            if !changed() && !spin(changed) {
                loop {
                    // Before each look: who woke this worker late, for a job that it had seen
                    // already, took the flag down, and nobody would wake it again.
                    asleep.store(true, Ordering::SeqCst);
                    if changed() {
                        break;
                    }
                    thread::park();
                }
                asleep.store(false, Ordering::SeqCst);
            }
            // Read first: a pool that is closed in between has another epoch than the one seen.
            seen = self.epoch.load(Ordering::SeqCst);
            if self.closed.load(Ordering::SeqCst) {
                return;
            }
            if id + 1 < self.threads() && self.enter() {
                self.work(id + 1);
                self.leave();
            }
        }
    }

    fn enter(&self) -> bool {
        let step = |gate| (gate & OPEN != 0).then_some(gate + ENTRANT);
        self.gate.fetch_update(Ordering::AcqRel, Ordering::Acquire, step).is_ok()
    }

    fn leave(&self) {
        // The last one out of a shut gate wakes the caller, where it sleeps.
        let last = self.gate.fetch_sub(ENTRANT, Ordering::SeqCst) == ENTRANT;
        if last
            && self.waiting.load(Ordering::SeqCst)
            // Not taken out: who comes this far late may meet the caller of a later job, whose own last
            // worker must find it too. Woken for nothing, a caller looks and sleeps again.
            && let Some(caller) = lock(&self.caller).clone()
        {
            caller.unpark();
        }
    }

    /// Ends the workers, for tests that make pools of their own.
    #[cfg(any(test, loom))]
    pub(super) fn close(&self) {
        assert!(self.take(), "a pool is closed when its jobs have ended");
        self.closed.store(true, Ordering::SeqCst);
        self.epoch.fetch_add(1, Ordering::SeqCst);
        self.wake(usize::MAX);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn workers_take_part_and_sleep_between_jobs() {
        let pool = Arc::new(Pool::new());
        pool.set_threads(3);
        for round in 0..50 {
            let sum = std::sync::atomic::AtomicUsize::new(0);
            let ran = pool.run(40, &|i| {
                sum.fetch_add(i, Ordering::Relaxed);
            });
            assert!(ran, "nobody else uses this pool");
            assert_eq!(sum.into_inner(), 780);
            if round % 10 == 0 {
                // Longer than a worker spins: the next round has to wake it.
                thread::sleep(std::time::Duration::from_micros(300));
            }
        }
        assert_eq!(pool.started.load(Ordering::Relaxed), 2);
        pool.close();
    }

    #[test]
    fn each_thread_begins_with_its_own_part() {
        let pool = Arc::new(Pool::new());
        pool.set_threads(2);
        let (firsts, barrier) = (Mutex::new(std::collections::HashMap::new()), std::sync::Barrier::new(2));
        assert!(pool.run(8, &|i| {
            let is_first = {
                let mut firsts = lock(&firsts);
                let known = firsts.len();
                firsts.entry(thread::current().id()).or_insert(i);
                firsts.len() > known
            };
            if is_first {
                barrier.wait();
            }
        }));
        let firsts = lock(&firsts);
        assert_eq!(firsts.get(&thread::current().id()), Some(&0));
        assert!(firsts.len() == 2 && firsts.values().any(|&i| i == 4), "{:?}", *firsts);
        pool.close();
    }

    #[test]
    fn more_threads_than_parts_share_them() {
        let pool = Arc::new(Pool::new());
        pool.set_threads(MOST_PARTS + 3);
        let counts: [_; 100] = std::array::from_fn(|_| std::sync::atomic::AtomicUsize::new(0));
        let inside = std::sync::Barrier::new(MOST_PARTS + 3);
        // The first tasks of all threads wait for each other.
        let begun = std::sync::atomic::AtomicUsize::new(0);
        assert!(pool.run(counts.len(), &|i| {
            counts[i].fetch_add(1, Ordering::Relaxed);
            if begun.fetch_add(1, Ordering::Relaxed) < MOST_PARTS + 3 {
                inside.wait();
            }
        }));
        assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1));
        pool.close();
    }

    #[test]
    fn a_worker_joins_a_job_that_is_waiting_for_it() {
        let pool = Arc::new(Pool::new());
        pool.set_threads(2);
        // Both tasks must run at the same time for either to end.
        let barrier = std::sync::Barrier::new(2);
        assert!(pool.run(2, &|_| {
            barrier.wait();
        }));
        pool.close();
    }
}

/// Every interleaving of a caller and its workers, as far as two preemptions go. Run by
/// `cargo xtask loom`.
#[cfg(all(test, loom))]
mod models {
    use super::*;
    use loom::sync::atomic::AtomicUsize as Counter;

    fn check(f: impl Fn() + Sync + Send + 'static) {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(2);
        model.check(f);
    }

    #[test]
    fn every_task_runs_once_and_its_writes_are_seen() {
        check(|| {
            let pool = Arc::new(Pool::new());
            pool.set_threads(2);
            let counts = [Counter::new(0), Counter::new(0)];
            let ran = pool.run(2, &|i| {
                counts[i].fetch_add(1, Ordering::Relaxed);
            });
            assert!(ran, "nobody else uses this pool");
            // The caller sees what the tasks wrote, without an ordering of theirs.
            assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1));
            pool.close();
        });
    }

    #[test]
    fn a_second_job_finds_the_worker_awake_or_asleep() {
        check(|| {
            let pool = Arc::new(Pool::new());
            pool.set_threads(2);
            for _ in 0..2 {
                let count = Counter::new(0);
                assert!(pool.run(2, &|_| {
                    count.fetch_add(1, Ordering::Relaxed);
                }));
                assert_eq!(count.load(Ordering::Relaxed), 2);
            }
            pool.close();
        });
    }

    #[test]
    fn two_callers_do_not_wait_for_each_other() {
        check(|| {
            let pool = Arc::new(Pool::new());
            pool.set_threads(2);
            let other = {
                let pool = Arc::clone(&pool);
                loom::thread::spawn(move || {
                    let count = Counter::new(0);
                    let task = |_| {
                        count.fetch_add(1, Ordering::Relaxed);
                    };
                    if !pool.run(2, &task) {
                        (0..2).for_each(task);
                    }
                    assert_eq!(count.load(Ordering::Relaxed), 2);
                })
            };
            let count = Counter::new(0);
            let task = |_| {
                count.fetch_add(1, Ordering::Relaxed);
            };
            if !pool.run(2, &task) {
                (0..2).for_each(task);
            }
            assert_eq!(count.load(Ordering::Relaxed), 2);
            assert!(other.join().is_ok());
            pool.close();
        });
    }
}
