//! Working memory that begins with a cache line.

use crate::{Element, memory};
use std::ops::{Deref, DerefMut};

/// Bytes of a cache line.
const LINE: usize = 64;

/// Numbers to work with, with arbitrary content at first. They begin with a cache line, where a
/// `Vec` begins 16 bytes into one more often than not and every second vector of 32 bytes would lie
/// in two.
#[derive(Debug)]
pub(crate) struct Scratch<T: Element> {
    room: Vec<T>,
    start: usize,
    len: usize,
}

impl<T: Element> Scratch<T> {
    /// `len` numbers; no memory for none.
    pub(crate) fn take(len: usize) -> Self {
        if len == 0 {
            return Self { room: Vec::new(), start: 0, len };
        }
        let room = memory::take::<T>(len + LINE / size_of::<T>());
        let start = room.as_ptr().align_offset(LINE).min(room.len() - len);
        Self { room, start, len }
    }
}

impl<T: Element> Deref for Scratch<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.room[self.start..][..self.len]
    }
}

impl<T: Element> DerefMut for Scratch<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.room[self.start..][..self.len]
    }
}

impl<T: Element> Drop for Scratch<T> {
    fn drop(&mut self) {
        memory::give(std::mem::take(&mut self.room));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_begin_with_a_line() {
        for len in [0, 1, 7, 16, 1000, 100_000] {
            let mut scratch = Scratch::<f32>::take(len);
            scratch.fill(2.0);
            assert_eq!((scratch.len(), scratch.iter().sum::<f32>()), (len, 2.0 * len as f32));
            assert!(len == 0 || scratch.as_ptr().addr().is_multiple_of(LINE));
            let double = Scratch::<f64>::take(len);
            assert!(double.len() == len && (len == 0 || double.as_ptr().addr().is_multiple_of(LINE)));
        }
    }
}
