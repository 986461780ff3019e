//! For checks of rules: the work that a computation costs, counted on the calling thread. It
//! costs one read of a flag when nobody counts.

use crate::meta::Meta;
use std::cell::Cell;

thread_local! {
    static COUNTING: Cell<bool> = const { Cell::new(false) };
    static WORK: Cell<Work> = const { Cell::new(Work { evaluations: 0, elements: 0 }) };
}

/// What was evaluated: views count as nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Ops evaluated.
    pub evaluations: usize,
    /// Elements of all their outputs, auxiliary ones included.
    pub elements: usize,
}

/// Runs `f` and counts what is evaluated on this thread meanwhile.
///
/// ```
/// use autograd_core::{Result, TrackedTensor, testing::count_work};
///
/// fn main() -> Result<()> {
///     let x = TrackedTensor::from_vec(vec![1f64, 2.], &[2])?;
///     let (_, work) = count_work(|| &x + &x);
///     assert_eq!((work.evaluations, work.elements), (1, 2));
///     Ok(())
/// }
/// ```
pub fn count_work<R>(f: impl FnOnce() -> R) -> (R, Work) {
    struct Restore(bool, Work);
    impl Drop for Restore {
        fn drop(&mut self) {
            let (outer, inner) = (self.1, WORK.get());
            COUNTING.set(self.0);
            // An outer count goes on with this one's work in it.
            WORK.set(Work {
                evaluations: outer.evaluations + inner.evaluations,
                elements: outer.elements + inner.elements,
            });
        }
    }
    let _restore = Restore(COUNTING.replace(true), WORK.replace(Work::default()));
    let result = f();
    (result, WORK.get())
}

/// Notes an evaluation that made buffers of these metas.
pub(crate) fn note<'a>(made: impl Iterator<Item = &'a Meta>) {
    if COUNTING.get() {
        let work = WORK.get();
        let elements = made.map(Meta::elements).sum::<usize>();
        WORK.set(Work { evaluations: work.evaluations + 1, elements: work.elements + elements });
    }
}
