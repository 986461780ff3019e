//! An output whose tasks write to interleaved elements, where parts of a slice will not do.

use std::marker::PhantomData;

/// The start of an exclusive slice, shared between tasks of which each writes other elements.
pub(crate) struct Output<'a, T> {
    start: *mut T,
    slice: PhantomData<&'a mut [T]>,
}

// SAFETY: it is a `&mut [T]`; whoever writes through the pointer promises that no other thread
// uses the same elements, so `T: Send` suffices.
unsafe impl<T: Send> Sync for Output<'_, T> {}

impl<'a, T> Output<'a, T> {
    /// Takes the slice, to be written to by tasks.
    pub(crate) fn new(slice: &'a mut [T]) -> Self {
        Self { start: slice.as_mut_ptr(), slice: PhantomData }
    }

    /// The pointer to element 0. To write through it is unsafe: the element must lie in the slice,
    /// and no other task may use it.
    pub(crate) fn start(&self) -> *mut T {
        self.start
    }
}
