//! What a thread captures: ops on closed-over values are part of the captured function, though
//! nobody watches their operands.
//!
//! A value that the function makes itself is *known*: it is the same whenever the program runs, so
//! what is computed from such values alone is computed once, while capturing. Every other plain
//! value is closed over; what it holds is read when the program runs, and so is what follows from it.

use crate::level::Level;
use crate::tracer::Tracer;
use crate::value::TrackedTensor;
use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How many captures are under way, on all threads: where there are none, an op pays one load.
static CAPTURES: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// Who records on this thread, the innermost last.
    static RECORDERS: RefCell<Vec<Arc<dyn Tracer>>> = const { RefCell::new(Vec::new()) };
}

/// Runs `f`, whose ops on closed-over values go to the recorder.
pub(crate) fn capturing<R>(recorder: Arc<dyn Tracer>, f: impl FnOnce() -> R) -> R {
    struct End;
    impl Drop for End {
        fn drop(&mut self) {
            // The recorder is dropped when the list is no longer borrowed.
            let _recorder = RECORDERS.with_borrow_mut(Vec::pop);
            CAPTURES.fetch_sub(1, Ordering::Relaxed);
        }
    }
    RECORDERS.with_borrow_mut(|all| all.push(recorder));
    CAPTURES.fetch_add(1, Ordering::Relaxed);
    let _end = End;
    f()
}

/// Whether this thread is capturing a function to be run later.
#[inline]
pub fn is_capturing() -> bool {
    CAPTURES.load(Ordering::Relaxed) > 0 && RECORDERS.with_borrow(|all| !all.is_empty())
}

/// Who records an op, where that is the captured function and not the highest level among the
/// inputs, `top`: they are closed over. `None` where the level handles it, or nobody watches and the
/// function made all inputs itself.
#[inline]
pub(crate) fn recorder(inputs: &[&TrackedTensor], top: Option<Level>) -> Option<Arc<dyn Tracer>> {
    let recorder = innermost()?;
    let closed_over = match top {
        Some(level) => level < recorder.level(),
        None => !inputs.iter().all(|x| x.plain().is_none_or(|x| x.is_known())),
    };
    closed_over.then_some(recorder)
}

/// Who records on this thread.
#[inline]
pub(crate) fn innermost() -> Option<Arc<dyn Tracer>> {
    match CAPTURES.load(Ordering::Relaxed) {
        0 => None,
        _ => RECORDERS.with_borrow(|all| all.last().cloned()),
    }
}

/// A value as a part of the program that reads it, which nobody can change: what a captured
/// function makes itself is so from the start. A watched value is given back as it is.
pub fn known(value: &TrackedTensor) -> TrackedTensor {
    match value.plain() {
        Some(plain) => TrackedTensor::from_plain(plain.as_known()),
        None => value.clone(),
    }
}
