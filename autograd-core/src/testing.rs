//! For checks of rules: the work that a computation costs, counted on the calling thread. It
//! costs one read of a flag when nobody counts.

use std::cell::Cell;

thread_local! {
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

/// Notes an evaluation.
pub(crate) fn note_evaluation() {
    if COUNTING.get() {
        EVALUATIONS.set(EVALUATIONS.get() + 1);
    }
}
