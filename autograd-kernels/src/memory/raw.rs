//! Buffers without their element type, in stacks.

use crate::Element;
use std::alloc::{Layout, dealloc};
use std::mem::ManuallyDrop;
use std::ptr::NonNull;

/// The memory of a `Vec` of plain numbers. It has no destructor, so that it moves in registers; a
/// [`Stack`] frees those that it still holds.
#[must_use]
pub(super) struct Spare {
    start: NonNull<u8>,
    bytes: usize,
    align: usize,
    /// How many bytes from the start are known to be initialised.
    written: usize,
}

// SAFETY: it owns its memory, as a `Vec<u8>` does.
unsafe impl Send for Spare {}

impl Spare {
    /// Takes the memory of a vector with capacity.
    #[inline]
    fn new<T: Element>(v: Vec<T>) -> Self {
        let v = ManuallyDrop::new(v);
        debug_assert!(v.capacity() > 0, "a buffer has memory");
        // SAFETY: the pointer of a `Vec` is never null.
        let start = unsafe { NonNull::new_unchecked(v.as_ptr().cast_mut().cast()) };
        Self {
            start,
            bytes: v.capacity() * size_of::<T>(),
            align: align_of::<T>(),
            written: v.len() * size_of::<T>(),
        }
    }

    /// The number of bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The memory as `len` numbers.
    ///
    /// # Panics
    /// Panics where the memory is too small for them, or was allocated for another alignment.
    #[inline]
    pub(super) fn into_vec<T: Element>(self, len: usize) -> Vec<T> {
        let (capacity, bytes) = (self.bytes / size_of::<T>(), len * size_of::<T>());
        assert!(
            len <= capacity && self.align == align_of::<T>() && self.bytes.is_multiple_of(size_of::<T>()),
            "a recycled buffer fits what is asked of it"
        );
        if bytes > self.written {
            // SAFETY: `bytes` is at most the size of the memory, which this buffer owns.
            unsafe {
                self.start.as_ptr().add(self.written).write_bytes(0, bytes - self.written);
            }
        }
        // SAFETY: `new` got the memory from a `Vec` of this alignment (its allocation was of
        // `bytes` bytes, which are `capacity` elements of T), the first `len` of them are
        // initialised, and any bytes are a number of every element type.
        unsafe { Vec::from_raw_parts(self.start.cast().as_ptr(), len, capacity) }
    }
}

/// Spare buffers of one size, the last one given on top.
#[derive(Default)]
pub(super) struct Stack(Vec<Spare>);

impl Stack {
    /// An empty stack.
    pub(super) const fn new() -> Self {
        Self(Vec::new())
    }

    /// How many buffers lie here.
    #[inline]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Puts the memory of a vector with capacity on top.
    #[inline]
    pub(super) fn push<T: Element>(&mut self, v: Vec<T>) {
        // Room comes first: nothing can fail while the memory has no owner.
        self.0.reserve(1);
        self.0.push(Spare::new(v));
    }

    /// Moves the memory on top to another stack; its bytes, 0 where there is none.
    pub(super) fn pop_to(&mut self, other: &mut Self) -> usize {
        other.0.reserve(1);
        let Some(spare) = self.0.pop() else { return 0 };
        let bytes = spare.bytes();
        other.0.push(spare);
        bytes
    }

    /// The memory on top.
    #[inline]
    pub(super) fn pop(&mut self) -> Option<Spare> {
        self.0.pop()
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        for spare in self.0.drain(..) {
            // SAFETY: the layout is that of the allocation in `Spare::new`; it was valid then.
            unsafe {
                dealloc(spare.start.as_ptr(), Layout::from_size_align_unchecked(spare.bytes, spare.align));
            }
        }
    }
}
