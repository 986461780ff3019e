//! For checks of rules: evaluations counted, hints poisoned. Both belong to the calling thread and
//! cost one read of a flag when they are off.

use crate::error::{Error, Result};
use crate::plain::Plain;
use crate::value::TrackedTensor;
use autograd_kernels::{SliceMut, copy};
use candle_core::DeviceLocation;
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

/// The same numbers, said to be on a device: nothing of this workspace's CPU code may then read
/// them, so that [`device`](crate::device)'s ways can be checked on any machine. Only values that
/// nobody watches.
///
/// # Errors
/// A watched value.
pub fn elsewhere(x: &TrackedTensor) -> Result<TrackedTensor> {
    let plain = x.plain().ok_or_else(|| Error::internal("elsewhere", "the value is watched"))?;
    let tensor = plain.to_tensor()?;
    Ok(TrackedTensor::from_plain(Plain::on_device(&tensor, ELSEWHERE)?))
}

/// The device of values that are said to be on one.
const ELSEWHERE: DeviceLocation = DeviceLocation::Metal { gpu_id: usize::MAX };

/// Runs `f` while results of at least this many elements are deferred on this thread.
pub fn deferred_from<R>(elements: usize, f: impl FnOnce() -> R) -> R {
    crate::deferred::deferred_from(elements, f)
}

/// Notes an evaluation.
pub(crate) fn note_evaluation() {
    if COUNTING.get() {
        EVALUATIONS.set(EVALUATIONS.get() + 1);
    }
}

/// Overwrites auxiliary outputs where that was asked for.
pub(crate) fn poison(hints: &mut [SliceMut<'_>]) {
    if POISONED.get() {
        for hint in hints {
            match hint {
                SliceMut::F64(_) | SliceMut::F32(_) | SliceMut::BF16(_) | SliceMut::F16(_) => {
                    copy::fill(f64::NAN, hint.reborrow());
                }
                SliceMut::U8(_) | SliceMut::U32(_) | SliceMut::I64(_) => {}
            }
        }
    }
}
