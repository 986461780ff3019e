//! An exclusive slice that tasks write to in parts.

use std::marker::PhantomData;
use std::ops::Range;

/// An exclusive slice, shared between tasks of which each writes to its own part.
pub(crate) struct Disjoint<'a, T> {
    start: *mut T,
    len: usize,
    slice: PhantomData<&'a mut [T]>,
}

// SAFETY: it is a `&mut [T]` cut in parts; a part goes to one thread, so `T: Send` suffices.
unsafe impl<T: Send> Sync for Disjoint<'_, T> {}
// SAFETY: as for `&mut [T]`.
unsafe impl<T: Send> Send for Disjoint<'_, T> {}

impl<'a, T> Disjoint<'a, T> {
    /// Takes the slice, to be cut in parts.
    pub(crate) fn new(slice: &'a mut [T]) -> Self {
        Self { start: slice.as_mut_ptr(), len: slice.len(), slice: PhantomData }
    }

    /// One part.
    ///
    /// # Panics
    /// Panics where the range does not lie within the slice.
    ///
    /// # Safety
    /// While a part is in use no other part that overlaps it may be.
    #[expect(clippy::mut_from_ref, reason = "parts do not overlap: the caller's promise")]
    pub(crate) unsafe fn part(&self, range: Range<usize>) -> &mut [T] {
        assert!(range.start <= range.end && range.end <= self.len, "a part lies within the slice");
        // SAFETY: the range lies within the slice, which is borrowed exclusively for 'a, and the
        // caller keeps overlapping parts apart.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }
}
