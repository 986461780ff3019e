//! Sums of an output over the dimensions in which its target is repeated.
//!
//! Sums are f64. Where the chunks of work lie along a dimension that the target keeps, each writes
//! to its own part of one array of sums; where they do not, each has an array of its own, and
//! these are added in the order of the chunks.

use super::input::for_each_run;
use crate::simd::{Float, fold, vectorised};
use crate::threads::Disjoint;
use crate::{MAX_RANK, Shape, SliceMut, memory};
use std::cell::RefCell;
use std::sync::Mutex;

/// How many of them a thread keeps to be used again.
const KEPT: usize = 8;

/// Accumulators to be used again.
type Spare = RefCell<Vec<Box<Accumulator>>>;

thread_local! {
    static SPARE: Spare = const { RefCell::new(Vec::new()) };
}

/// The sums of one output.
#[derive(Default)]
pub(super) struct Accumulator {
    /// One array after the other, where chunks have their own.
    sums: Mutex<Vec<Vec<f64>>>,
    len: usize,
    strides: [usize; MAX_RANK],
    /// Sums for each index of the outermost dimension, where it is kept.
    per_index: Option<usize>,
    outer: usize,
}

/// The sums that one chunk writes.
pub(super) struct Part {
    sums: Vec<f64>,
    /// The index in the target at which they begin.
    start: usize,
}

impl Accumulator {
    pub(super) fn new(len: usize, strides: [usize; MAX_RANK], outer: usize, chunks: usize) -> Box<Self> {
        let per_index = (strides[0] != 0).then(|| len / outer);
        // A thread that is ending has no spare ones any more.
        let spare = SPARE.try_with(|spare| spare.try_borrow_mut().ok()?.pop()).ok().flatten();
        let mut own = spare.unwrap_or_default();
        own.sums.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner).resize_with(chunks, Vec::new);
        (own.len, own.strides, own.per_index, own.outer) = (len, strides, per_index, outer);
        own
    }

    /// Zeros for the chunk that covers these indices of the outermost dimension.
    pub(super) fn begin(&self, range: &std::ops::Range<usize>) -> Part {
        match self.per_index {
            Some(n) => Part { sums: memory::zeros(range.len() * n), start: range.start * n },
            None => Part { sums: memory::zeros(self.len), start: 0 },
        }
    }

    /// Keeps what chunk number `chunk` has summed.
    pub(super) fn keep(&self, part: Part, chunk: usize) {
        // Nothing panics while it is held.
        self.sums.lock().unwrap_or_else(std::sync::PoisonError::into_inner)[chunk] = part.sums;
    }

    /// Writes the sums.
    pub(super) fn finish(mut self: Box<Self>, out: SliceMut<'_>) {
        let parts = self.sums.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut total = memory::take::<f64>(self.len);
        if let Some(n) = self.per_index {
            debug_assert_eq!(n * self.outer, self.len);
            let mut at = 0;
            for part in parts.iter() {
                total[at..at + part.len()].copy_from_slice(part);
                at += part.len();
            }
        } else {
            let all = Disjoint::new(&mut total);
            crate::threads::parallel_chunks(self.len, super::MIN_CHUNK, &|range| {
                // SAFETY: the ranges do not overlap.
                let total = unsafe { all.part(range.clone()) };
                total.copy_from_slice(&parts[0][range.clone()]);
                for part in &parts[1..] {
                    total.iter_mut().zip(&part[range.clone()]).for_each(|(t, p)| *t += p);
                }
            });
        }
        f64::scatter(&total, out);
        memory::give(total);
        parts.drain(..).for_each(memory::give);
        let _ = SPARE.try_with(|spare| {
            if let Ok(mut spare) = spare.try_borrow_mut()
                && spare.len() < KEPT
            {
                spare.push(self);
            }
        });
    }

    /// Adds a part of a row: `base` is what the other dimensions add to the index, `start` the
    /// index in the last one.
    pub(super) fn add_row<T: Float>(
        &self,
        part: &mut Part,
        rank: usize,
        base: usize,
        start: usize,
        values: &[T],
    ) {
        if rank == 0 || self.strides[rank - 1] == 0 {
            part.sums[base - part.start] += sum(values);
        } else {
            add(&mut part.sums[base + start - part.start..][..values.len()], values);
        }
    }

    /// Adds elements `start ..` in row-major order, across rows.
    pub(super) fn add_across<T: Float>(&self, part: &mut Part, shape: &Shape, start: usize, values: &[T]) {
        let kept = self.strides[shape.rank() - 1] != 0;
        for_each_run(shape, &self.strides, start, values.len(), |at, to, len| {
            let values = &values[at..at + len];
            let to = to - part.start;
            if kept {
                part.sums[to..to + len].iter_mut().zip(values).for_each(|(s, v)| *s += v.to_f64());
            } else {
                part.sums[to] += values.iter().map(|v| v.to_f64()).sum::<f64>();
            }
        });
    }

    /// What each step of a dimension adds to the index.
    pub(super) fn strides(&self) -> &[usize; MAX_RANK] {
        &self.strides
    }
}

vectorised! {
    /// Σ values, each lane in the type of computation: a tile is too short to lose accuracy.
    pub(super) fn sum<T, V>(values: &[T]) -> f64 {
        fold::<V>(values, T::ZERO, T::ZERO, #[inline(always)] |a, x| a + x, #[inline(always)] |a, b| a + b).sum()
    }
}

vectorised! {
    /// sums += values.
    pub(super) fn add<T, V>(sums: &mut [f64], values: &[T]) {
        for (s, v) in sums.iter_mut().zip(values) {
            *s += v.to_f64();
        }
    }
}
