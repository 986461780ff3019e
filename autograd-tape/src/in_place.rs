//! Writing over a value on the tape: the node is recorded as the functional op's, and the handle
//! moves on to it.

use crate::anomaly::Check;
use crate::node::{Kept, Node, Slot, Source, Step, differentiable, residuals};
use crate::region::open_region;
use crate::tracer::TapeTracer;
use autograd_core::smallvec::{SmallVec, smallvec};
use autograd_core::{
    Mask, Obstacle, Residual, Residuals, Result, Rewrite, Rewritten, Rule, TrackedTensor, rewrite,
};

impl TapeTracer {
    /// Records the op and binds this value, of which no clone exists, to its result. Nothing is
    /// done where the backward pass needs the old content: by the op's own rule, or to compute a
    /// checkpointed region again, whose plan may keep any of its values. Where something else holds the memory (a view, what another op
    /// saved), the level that owns it sees that, and gives the result memory of its own.
    pub(crate) fn record_in_place(&mut self, call: &Rewrite<'_>) -> Result<Rewritten> {
        let Rewrite { op, rest, site } = *call;
        let mut slots: SmallVec<[Option<Slot>; 4]> = smallvec![Some(self.slot)];
        let mut others: SmallVec<[&TrackedTensor; 4]> = SmallVec::new();
        for input in rest {
            let mine = Self::of(input).filter(|t| t.level == self.level);
            slots.push(mine.map(|t| t.slot));
            others.push(mine.map_or(*input, |t| &t.value));
        }
        let rule = op.rule();
        if self.tape.rules.is_some() || self.tape.check() != Check::Off {
            // A backward pass that stands in for the op's own may read what it likes, and so does a
            // look for anomalies.
            return Ok(Rewritten::Declined(Obstacle::ReadByRule));
        }
        match rule {
            Rule::Pointwise(_) | Rule::Linear(..) | Rule::Bilinear(..) | Rule::General(_) => {}
            Rule::Composite | Rule::Flat | Rule::Opaque(_) => {
                return Ok(Rewritten::Declined(Obstacle::NoKernel));
            }
        }
        let wanted = differentiable(rule, slots.len()).and(Mask::of(slots.len(), |i| slots[i].is_some()));
        let reads = residuals(rule, wanted, slots.len(), 1);
        if reads.contains(&Residual::Input(0)) {
            return Ok(Rewritten::Declined(Obstacle::ReadByRule));
        }
        if reads.iter().any(|r| matches!(r, Residual::Aux(_))) {
            return Ok(Rewritten::Declined(Obstacle::NoKernel));
        }
        if open_region(self.level).is_some() {
            return Ok(Rewritten::Declined(Obstacle::Replayed));
        }
        rewrite(&Rewrite { op, rest: &others, site }, &mut self.value)?;
        let kept = self.kept_of(&reads, &others);
        let prints = self.tape.fingerprints(kept.iter().map(Option::as_ref));
        let mut outputs = SmallVec::new();
        outputs.push(self.value.meta());
        let step = Step::Apply(op.keep());
        let id = {
            let Some(mut record) = self.tape.live() else {
                // Another thread ended the tape: the value stands for its numbers from here on.
                return Ok(Rewritten::Done);
            };
            let mut inputs: SmallVec<[Source; 2]> = smallvec![Source::Slot(self.slot)];
            for (slot, value) in slots[1..].iter().zip(&others) {
                inputs.push(match slot {
                    Some(slot) => Source::Slot(*slot),
                    None => Source::Constant(record.constant(value)),
                });
            }
            let node = Node { step, inputs, outputs, kept, site, region: 0, handles: 1, consumers: 0 };
            record.push_saved(node, prints)
        };
        // The new node reads the old one, so that stays; the handle is the new one's.
        let old = std::mem::replace(&mut self.slot, Slot { node: id, output: 0 });
        self.tape.release(old);
        Ok(Rewritten::Done)
    }

    fn kept_of(&self, reads: &Residuals, others: &[&TrackedTensor]) -> Kept {
        let value = |residual: &Residual| match *residual {
            Residual::Input(i) => Some(others[i - 1].clone()),
            Residual::Output(_) => Some(self.value.clone()),
            Residual::Aux(_) => None,
        };
        reads.iter().map(value).collect()
    }
}
