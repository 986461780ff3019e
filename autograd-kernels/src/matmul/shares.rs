//! Dividing rows and columns evenly.

use std::ops::Range;

/// A number of things divided into shares that differ by at most one.
#[derive(Clone, Copy)]
pub(crate) struct Shares {
    pub(crate) things: usize,
    pub(crate) count: usize,
    /// The first of the shares that are meant, and one past the last.
    first: usize,
    last: usize,
}

impl Shares {
    /// Shares of at most `most` things.
    pub(crate) fn new(things: usize, most: usize) -> Self {
        let count = things.div_ceil(most);
        Self { things, count, first: 0, last: count }
    }

    /// The things of share i.
    pub(crate) fn share(&self, i: usize) -> Range<usize> {
        self.things * i / self.count..self.things * (i + 1) / self.count
    }

    /// Some of the shares: one part of several.
    pub(crate) fn part(self, part: usize, parts: usize) -> Self {
        Self { first: self.count * part / parts, last: self.count * (part + 1) / parts, ..self }
    }

    /// Those that are meant, in order.
    pub(crate) fn each(&self) -> impl Iterator<Item = Range<usize>> {
        let this = *self;
        (this.first..this.last).map(move |i| this.share(i))
    }
}
