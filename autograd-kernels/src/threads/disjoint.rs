//! An exclusive slice that tasks write to in parts.

use crate::{SliceMut, bf16, f16};
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

    /// The length of the whole slice.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// One part to read.
    ///
    /// # Panics
    /// Panics where the range does not lie within the slice.
    ///
    /// # Safety
    /// While it is in use no part that overlaps it may be written.
    #[inline]
    pub(crate) unsafe fn read(&self, range: Range<usize>) -> &[T] {
        assert!(range.start <= range.end && range.end <= self.len, "a part lies within the slice");
        // SAFETY: the range lies within the slice, and the caller keeps writers away.
        unsafe { std::slice::from_raw_parts(self.start.add(range.start), range.len()) }
    }

    /// One part.
    ///
    /// # Panics
    /// Panics where the range does not lie within the slice.
    ///
    /// # Safety
    /// While a part is in use no other part that overlaps it may be.
    #[inline]
    #[expect(clippy::mut_from_ref, reason = "parts do not overlap: the caller's promise")]
    pub(crate) unsafe fn part(&self, range: Range<usize>) -> &mut [T] {
        assert!(range.start <= range.end && range.end <= self.len, "a part lies within the slice");
        // SAFETY: the range lies within the slice, which is borrowed exclusively for 'a, and the
        // caller keeps overlapping parts apart.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }
}

/// A [`SliceMut`] that tasks write to in parts.
pub(crate) enum DisjointSlice<'a> {
    F64(Disjoint<'a, f64>),
    F32(Disjoint<'a, f32>),
    BF16(Disjoint<'a, bf16>),
    F16(Disjoint<'a, f16>),
    U8(Disjoint<'a, u8>),
    U32(Disjoint<'a, u32>),
    I64(Disjoint<'a, i64>),
}

impl<'a> DisjointSlice<'a> {
    /// Takes the slice, to be cut in parts.
    pub(crate) fn new(slice: SliceMut<'a>) -> Self {
        match slice {
            SliceMut::F64(s) => Self::F64(Disjoint::new(s)),
            SliceMut::F32(s) => Self::F32(Disjoint::new(s)),
            SliceMut::BF16(s) => Self::BF16(Disjoint::new(s)),
            SliceMut::F16(s) => Self::F16(Disjoint::new(s)),
            SliceMut::U8(s) => Self::U8(Disjoint::new(s)),
            SliceMut::U32(s) => Self::U32(Disjoint::new(s)),
            SliceMut::I64(s) => Self::I64(Disjoint::new(s)),
        }
    }

    /// One part.
    ///
    /// # Safety
    /// As for [`Disjoint::part`].
    pub(crate) unsafe fn part(&self, range: Range<usize>) -> SliceMut<'_> {
        // SAFETY: the caller's promise, for each of the types.
        unsafe {
            match self {
                Self::F64(s) => SliceMut::F64(s.part(range)),
                Self::F32(s) => SliceMut::F32(s.part(range)),
                Self::BF16(s) => SliceMut::BF16(s.part(range)),
                Self::F16(s) => SliceMut::F16(s.part(range)),
                Self::U8(s) => SliceMut::U8(s.part(range)),
                Self::U32(s) => SliceMut::U32(s.part(range)),
                Self::I64(s) => SliceMut::I64(s.part(range)),
            }
        }
    }
}
