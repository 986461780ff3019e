//! Sets of small numbers: which inputs are wanted, which cotangents are there.

use std::fmt;

/// A set of numbers below 64.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Mask(u64);

impl Mask {
    /// Numbers below this can be in a set.
    pub const CAPACITY: usize = 64;

    /// Nothing.
    pub const EMPTY: Mask = Mask(0);

    /// Just `i`.
    pub const fn one(i: usize) -> Self {
        Self(1 << i)
    }

    /// 0 .. n.
    pub const fn first(n: usize) -> Self {
        Self(if n >= 64 { u64::MAX } else { (1 << n) - 1 })
    }

    /// The numbers at which `f` holds among 0 .. n.
    pub fn of(n: usize, f: impl Fn(usize) -> bool) -> Self {
        (0..n).filter(|&i| f(i)).collect()
    }

    /// Whether `i` is in.
    pub const fn has(self, i: usize) -> bool {
        i < 64 && self.0 >> i & 1 == 1
    }

    /// This set with `i`.
    pub const fn with(self, i: usize) -> Self {
        Self(self.0 | 1 << i)
    }

    /// Whether nothing is in.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// How many are in.
    pub const fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// What is in, ascending.
    #[inline]
    pub fn iter(self) -> impl Iterator<Item = usize> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            let next = rest.trailing_zeros() as usize;
            let found = rest != 0;
            rest &= rest.wrapping_sub(1);
            found.then_some(next)
        })
    }

    /// What is in both.
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// The set as bits.
    pub const fn bits(self) -> u64 {
        self.0
    }
}

impl FromIterator<usize> for Mask {
    fn from_iter<I: IntoIterator<Item = usize>>(iter: I) -> Self {
        iter.into_iter().fold(Self::EMPTY, Self::with)
    }
}

impl fmt::Debug for Mask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}
