//! Dividing rows and columns evenly.

use std::ops::Range;

/// A number of things divided into shares of one size, of which the last may be smaller.
#[derive(Clone, Copy)]
pub(crate) struct Shares {
    pub(crate) things: usize,
    size: usize,
    pub(crate) count: usize,
    /// The first of the shares that are meant, and one past the last.
    first: usize,
    last: usize,
}

impl Shares {
    /// Shares of `size` things.
    pub(crate) fn new(things: usize, size: usize) -> Self {
        let count = things.div_ceil(size);
        Self { things, size, count, first: 0, last: count }
    }

    /// The things of share i.
    pub(crate) fn share(&self, i: usize) -> Range<usize> {
        i * self.size..self.things.min((i + 1) * self.size)
    }

    /// Some of the shares: one part of several.
    pub(crate) fn part(self, part: usize, parts: usize) -> Self {
        Self { first: self.count * part / parts, last: self.count * (part + 1) / parts, ..self }
    }

    /// The things of all that are meant.
    pub(crate) fn range(&self) -> Range<usize> {
        self.first * self.size..self.things.min(self.last * self.size)
    }

    /// Those that are meant, in order.
    pub(crate) fn each(&self) -> impl Iterator<Item = Range<usize>> {
        let this = *self;
        (this.first..this.last).map(move |i| this.share(i))
    }
}
