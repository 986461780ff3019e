//! A buffer without its element type.

use crate::Element;
use std::alloc::{Layout, dealloc};
use std::mem::ManuallyDrop;
use std::ptr::NonNull;

/// The memory of a `Vec` of plain numbers.
pub(super) struct RawBuffer {
    start: NonNull<u8>,
    bytes: usize,
    align: usize,
    /// How many bytes from the start are known to be initialised.
    written: usize,
}

// SAFETY: it owns its memory, as a `Vec<u8>` does.
unsafe impl Send for RawBuffer {}

impl RawBuffer {
    /// Takes the memory of a vector with capacity.
    pub(super) fn new<T: Element>(v: Vec<T>) -> Self {
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
    pub(super) fn into_vec<T: Element>(self, len: usize) -> Vec<T> {
        let (capacity, bytes) = (self.bytes / size_of::<T>(), len * size_of::<T>());
        assert!(
            len <= capacity && self.align == align_of::<T>() && self.bytes.is_multiple_of(size_of::<T>()),
            "a recycled buffer fits what is asked of it"
        );
        let this = ManuallyDrop::new(self);
        if bytes > this.written {
            // SAFETY: `bytes` is at most the size of the memory, which this buffer owns.
            unsafe {
                this.start.as_ptr().add(this.written).write_bytes(0, bytes - this.written);
            }
        }
        // SAFETY: `new` got the memory from a `Vec` of this alignment (its allocation was of
        // `bytes` bytes, which are `capacity` elements of T), the first `len` of them are
        // initialised, and any bytes are a number of every element type.
        unsafe { Vec::from_raw_parts(this.start.cast().as_ptr(), len, capacity) }
    }
}

impl Drop for RawBuffer {
    fn drop(&mut self) {
        // SAFETY: the layout is that of the allocation in `new`; it was valid then.
        unsafe {
            dealloc(self.start.as_ptr(), Layout::from_size_align_unchecked(self.bytes, self.align));
        }
    }
}
