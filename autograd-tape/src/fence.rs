//! The place of replays in a captured program: behind the backward pass so far.
//!
//! Where ops are evaluated as they are applied, a replay happens when the sweep comes to it. In a
//! captured program it would be a copy of the forward pass, equal to it op by op: whoever shares
//! equal ops would keep the first results, and whoever reorders or fuses could make the second ones
//! early. So what a replay reads passes a barrier that waits for the ends of the forward pass, for
//! what the sweep made in the region before, and for the cotangent that it brings: any of the three
//! may be there long before the others.

use autograd_core::smallvec::SmallVec;
use autograd_core::{Cotangents, Result, TrackedTensor, barrier, captured};

/// What a sweep knows of the program that it is captured in, if it is.
pub(crate) struct Fence<'a> {
    ends: &'a [&'a TrackedTensor],
    /// The last cotangent that a region's backward pass made.
    last: Option<TrackedTensor>,
}

/// What one replay waits for; nothing, where nothing is captured.
#[derive(Default)]
pub(crate) struct Gate(Option<TrackedTensor>);

impl<'a> Fence<'a> {
    pub(crate) fn new(ends: &'a [&'a TrackedTensor]) -> Self {
        Self { ends, last: None }
    }

    /// A rule of a node in a region made a cotangent.
    pub(crate) fn note(&mut self, ct: &TrackedTensor) {
        if ct.plain().is_none()
            && let Some(found) = captured(ct)
        {
            self.last = Some(found);
        }
    }

    /// The gate of a replay that the sweep comes to with these cotangents.
    pub(crate) fn gate(&self, cts: &Cotangents) -> Result<Gate> {
        let ends = self.ends.iter().filter_map(|end| captured(end));
        let cts = cts.iter().flatten().filter_map(captured);
        let tokens: SmallVec<[TrackedTensor; 4]> = ends.chain(self.last.clone()).chain(cts).collect();
        let mut gate = Gate::default();
        for token in tokens {
            gate = Gate(Some(gate.pass(&token)?));
        }
        Ok(gate)
    }
}

impl Gate {
    /// The value behind the gate; itself where it is not of the program that is captured.
    pub(crate) fn pass(&self, value: &TrackedTensor) -> Result<TrackedTensor> {
        let level = |x: &TrackedTensor| x.tracer().map(|tracer| tracer.level());
        match &self.0 {
            Some(token) if captured(value).is_some_and(|found| level(&found) == level(token)) => {
                barrier(value, token)
            }
            _ => Ok(value.clone()),
        }
    }
}
