//! The atomics, locks and threads that the pool uses, which loom replaces under `cfg(loom)`.

#[cfg(loom)]
pub(super) use loom::{
    cell::UnsafeCell,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, Thread},
};
// Who frees the pool last is no question of it: methods take `&Arc<Self>`, which is std's alone.
pub(super) use std::sync::Arc;
#[cfg(not(loom))]
pub(super) use std::{
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, Thread},
};

#[cfg(not(loom))]
thread_local! {
    /// Whether this thread is working on a job: calls from inside one run inline.
    static INSIDE: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

// loom's threads share one of the system's: theirs must be told apart.
#[cfg(loom)]
loom::thread_local! {
    static INSIDE: std::cell::Cell<bool> = std::cell::Cell::new(false);
}

/// Whether this thread is working on a job.
pub(super) fn is_inside() -> bool {
    INSIDE.with(std::cell::Cell::get)
}

/// Notes whether this thread is working on a job.
pub(super) fn set_inside(inside: bool) {
    INSIDE.with(|cell| cell.set(inside));
}

/// Reads what another thread writes before it reads what this one wrote, both sequentially
/// consistent: of the two at least one sees the other.
#[cfg(not(loom))]
pub(super) fn look(value: &AtomicUsize) -> usize {
    value.load(Ordering::SeqCst)
}

/// loom takes a sequentially consistent load for an acquiring one, which may read an old value; a
/// read-modify-write reads the last one.
#[cfg(loom)]
pub(super) fn look(value: &AtomicUsize) -> usize {
    value.fetch_add(0, Ordering::SeqCst)
}

/// `std`'s cell with loom's interface.
#[cfg(not(loom))]
pub(super) struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

#[cfg(not(loom))]
impl<T> UnsafeCell<T> {
    pub(super) fn new(value: T) -> Self {
        Self(std::cell::UnsafeCell::new(value))
    }

    pub(super) fn with<R>(&self, f: impl FnOnce(*const T) -> R) -> R {
        f(self.0.get())
    }

    pub(super) fn with_mut<R>(&self, f: impl FnOnce(*mut T) -> R) -> R {
        f(self.0.get())
    }
}

/// Waits a short while for `ready`; returns whether it came true. Longer waits must park.
#[cfg(not(loom))]
pub(super) fn spin(ready: impl Fn() -> bool) -> bool {
    const SPIN: std::time::Duration = std::time::Duration::from_micros(40);
    let start = std::time::Instant::now();
    loop {
        for _ in 0..64 {
            if ready() {
                return true;
            }
            std::hint::spin_loop();
        }
        if start.elapsed() > SPIN {
            return false;
        }
    }
}

#[cfg(loom)]
pub(super) fn spin(ready: impl Fn() -> bool) -> bool {
    ready()
}
