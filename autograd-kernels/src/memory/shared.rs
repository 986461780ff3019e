//! Room for values behind an `Arc`, taken before they are made.

use std::mem::MaybeUninit;
use std::sync::Arc;

/// Room for one value.
///
/// `Arc::new` gets a value that is finished, and for one of two hundred bytes that means to copy
/// all of them at every op: it asks for memory when the value is there, which may fail. Where the
/// room is there first, a value is made in its place.
pub struct Room<T>(Arc<MaybeUninit<T>>);

impl<T> Room<T> {
    /// Takes the memory.
    #[inline(always)]
    pub fn take() -> Self {
        Self(Arc::new_uninit())
    }

    /// Makes the value.
    #[inline(always)]
    pub fn fill(self, value: T) -> Arc<T> {
        let room = Arc::into_raw(self.0).cast_mut();
        // SAFETY: nobody else knows the memory that `room` points to, and it is room for a T.
        unsafe { room.cast::<T>().write(value) };
        // SAFETY: `room` came from `into_raw`, and its value is there.
        unsafe { Arc::from_raw(room).assume_init() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_made_and_dropped_once() {
        let inner = Arc::new(5);
        let outer = Room::take().fill(([1u64; 20], inner.clone()));
        let again = outer.clone();
        assert_eq!((outer.0[19], *outer.1, Arc::strong_count(&inner)), (1, 5, 2));
        drop(outer);
        assert_eq!(Arc::strong_count(&inner), 2);
        drop(again);
        assert_eq!(Arc::strong_count(&inner), 1);
        // Room that is not needed is given back.
        drop(Room::<String>::take());
    }
}
