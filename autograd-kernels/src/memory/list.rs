//! Lists that a kernel makes for itself: offsets, segments, targets. Their memory is used again, so
//! that a kernel that has run once allocates nothing.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};
use std::thread::LocalKey;

/// The spare memory of lists of one type on this thread.
pub(crate) type Spare<T> = RefCell<Vec<Vec<T>>>;

/// What lists are made of.
pub(crate) trait Listed: Sized + 'static {
    /// The spare memory of this thread.
    fn spare() -> &'static LocalKey<Spare<Self>>;
}

/// A list whose memory is used again.
#[derive(Debug)]
pub(crate) struct List<T: Listed>(Vec<T>);

/// How many lists of one type a thread keeps.
const KEPT: usize = 8;

impl<T: Listed> FromIterator<T> for List<T> {
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Self {
        // A thread that is ending has no spare memory any more.
        let spare = T::spare().try_with(|spare| spare.try_borrow_mut().ok()?.pop());
        let mut list = spare.ok().flatten().unwrap_or_default();
        list.extend(items);
        Self(list)
    }
}

impl<T: Listed> Drop for List<T> {
    fn drop(&mut self) {
        let mut list = std::mem::take(&mut self.0);
        list.clear();
        let _ = T::spare().try_with(|spare| {
            if let Ok(mut spare) = spare.try_borrow_mut()
                && spare.len() < KEPT
            {
                spare.push(list);
            }
        });
    }
}

impl<T: Listed> Deref for List<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl<T: Listed> DerefMut for List<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.0
    }
}

/// Says that there are lists of a type.
macro_rules! listed {
    ($($type:ty),*) => {$(
        impl $crate::memory::list::Listed for $type {
            fn spare() -> &'static std::thread::LocalKey<$crate::memory::list::Spare<Self>> {
                thread_local! {
                    static SPARE: $crate::memory::list::Spare<$type> =
                        const { std::cell::RefCell::new(Vec::new()) };
                }
                &SPARE
            }
        }
    )*};
}
pub(crate) use listed;

listed!(usize, u32);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_used_again_and_content_is_not() {
        let list: List<usize> = (0..100).collect();
        let at = list.as_ptr();
        drop(list);
        let list: List<usize> = (5..8).collect();
        assert_eq!((&list[..], list.as_ptr()), (&[5, 6, 7][..], at));
    }
}
