//! For checks of rules: evaluations counted, hints poisoned. Both belong to the calling thread and
//! cost one read of a flag when they are off.

use autograd_kernels::{SliceMut, copy};
use std::cell::Cell;

thread_local! {
    static POISONED: Cell<bool> = const { Cell::new(false) };
    static COUNTING: Cell<bool> = const { Cell::new(false) };
    static EVALUATIONS: Cell<usize> = const { Cell::new(0) };
}

/// Runs `f` and counts the ops that are evaluated on this thread meanwhile. Views cost nothing.
///
/// ```
/// use autograd_core::{Result, TrackedTensor, testing::count_evaluations};
///
/// fn main() -> Result<()> {
///     let x = TrackedTensor::from_vec(vec![1f64, 2.], &[2])?;
///     let (_, evaluations) = count_evaluations(|| &x + &x);
///     assert_eq!(evaluations, 1);
///     Ok(())
/// }
/// ```
pub fn count_evaluations<R>(f: impl FnOnce() -> R) -> (R, usize) {
    struct Restore(bool, usize);
    impl Drop for Restore {
        fn drop(&mut self) {
            COUNTING.set(self.0);
            // An outer count goes on with this one's work in it.
            EVALUATIONS.set(self.1 + EVALUATIONS.get());
        }
    }
    let _restore = Restore(COUNTING.replace(true), EVALUATIONS.replace(0));
    let result = f();
    (result, EVALUATIONS.get())
}

/// Runs `f` while every auxiliary output of a float type that is evaluated on this thread is
/// overwritten with NaN: whatever reads a hint shows it. Integers stay, since kernels use them as
/// addresses.
pub fn poison_hints<R>(f: impl FnOnce() -> R) -> R {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            POISONED.set(self.0);
        }
    }
    let _restore = Restore(POISONED.replace(true));
    f()
}

/// Notes an evaluation.
pub(crate) fn note_evaluation() {
    if COUNTING.get() {
        EVALUATIONS.set(EVALUATIONS.get() + 1);
    }
}

thread_local! {
    static POISONED: Cell<bool> = const { Cell::new(false) };
}

/// Runs `f` while every auxiliary output that a kernel makes on this thread is overwritten: floats
/// with NaN, whole numbers with 0. A rule that reads a hint where it must not shows by its result.
pub fn poison_hints<R>(f: impl FnOnce() -> R) -> R {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            POISONED.set(self.0);
        }
    }
    let _restore = Restore(POISONED.replace(true));
    f()
}

/// Whether hints are to be overwritten.
pub(crate) fn hints_are_poisoned() -> bool {
    POISONED.get()
}
