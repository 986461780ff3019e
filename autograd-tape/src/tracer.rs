//! Values that a tape watches, and how it records.

use crate::anomaly::{self, Check};
use crate::life::State;
use crate::node::{Kept, Node, Slot, Source, Step, differentiable, residuals, with_residuals};
use crate::record::Shared;
use crate::region::{Fate, Region, open_region};
use crate::rules::{Choice, Replaced};
use autograd_core::kernels::memory::Room;
use autograd_core::smallvec::{SmallVec, smallvec};
use autograd_core::{
    Applied, Call, Cut, CutKind, Error, Level, Mask, Meta, Prim, Primitive, Residual, Result, Rewrite,
    Rewritten, Rule, Shape, Tracer, TrackedTensor, Values, apply_call, apply_single, is_float, is_recording,
    on_behalf_of,
};
use candle_core::{DType, DeviceLocation};
use std::any::Any;
use std::fmt;
use std::sync::Arc;

/// Operands one level below.
type Inner<'a> = SmallVec<[&'a TrackedTensor; 4]>;

/// Where operands were recorded, where they were.
type Slots = SmallVec<[Option<Slot>; 4]>;

/// A value on a tape.
pub(crate) struct TapeTracer {
    pub(crate) tape: Arc<Shared>,
    pub(crate) level: Level,
    pub(crate) slot: Slot,
    /// The value one level below.
    pub(crate) value: TrackedTensor,
}

impl TapeTracer {
    /// The tracer behind a value, if a tape watches it.
    pub(crate) fn of(value: &TrackedTensor) -> Option<&Self> {
        value.tracer()?.as_any().downcast_ref()
    }
}

impl fmt::Debug for TapeTracer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tape level {}, node {}", self.level.number(), self.slot.node)
    }
}

impl Drop for TapeTracer {
    fn drop(&mut self) {
        self.tape.release(self.slot);
    }
}

impl Tracer for TapeTracer {
    fn level(&self) -> Level {
        self.level
    }

    fn shape(&self) -> &Shape {
        self.value.shape()
    }

    fn dtype(&self) -> DType {
        self.value.dtype()
    }

    fn device(&self) -> DeviceLocation {
        self.value.location()
    }

    fn lower(&self) -> Option<&TrackedTensor> {
        Some(&self.value)
    }

    fn is_active(&self) -> bool {
        self.tape.state() == State::Live && is_recording(self.level)
    }

    fn number(&self) -> Option<usize> {
        Some(self.slot.node as usize)
    }

    fn silence(&self) -> Option<CutKind> {
        match self.tape.state() {
            State::Live if is_recording(self.level) => None,
            State::Live => Some(CutKind::Paused),
            State::Spent => Some(CutKind::Spent(self.tape.lock().spent_at)),
            State::Dropped => Some(CutKind::Dropped),
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn process_in_place(&mut self, call: &Rewrite<'_>) -> Result<Rewritten> {
        self.record_in_place(call)
    }

    fn process_one(&self, call: &Call<'_>) -> Result<TrackedTensor> {
        let op = call.op;
        let rule = op.rule();
        if self.tape.rules.is_none()
            && matches!(rule, Rule::Pointwise(_) | Rule::Linear(..) | Rule::Bilinear(..) | Rule::General(_))
            && open_region(self.level).is_none()
        {
            let (mut inner, mut slots) = (Inner::new(), Slots::new());
            self.operands(call.inputs, &mut inner, &mut slots);
            let tracked = Mask::of(slots.len(), |i| slots[i].is_some());
            let wanted = differentiable(rule, slots.len()).and(tracked);
            if !wanted.is_empty() {
                let recorded = with_residuals(rule, wanted, slots.len(), 1, |reads| {
                    let hinted = reads.iter().any(|r| matches!(r, Residual::Aux(_)));
                    (!hinted).then(|| self.record_one(call, reads, &slots, &inner))
                });
                if let Some(y) = recorded {
                    return y;
                }
            }
        }
        let outputs = self.process(call)?.outputs;
        outputs.into_iter().next().ok_or_else(|| Error::internal(op.name(), "it has no output"))
    }

    fn process(&self, call: &Call<'_>) -> Result<Applied> {
        let Call { op, inputs, aux, site } = *call;
        let (mut inner, mut slots) = (Inner::new(), Slots::new());
        self.operands(inputs, &mut inner, &mut slots);
        let replaced = match &self.tape.rules {
            Some(rules) => match rules.choice(op, Mask::of(inputs.len(), |i| slots[i].is_some())) {
                Choice::Own => None,
                Choice::Decompose => match on_behalf_of(site, || op.decompose(inputs))? {
                    Some(outputs) => return Ok(Applied { outputs, aux: Values::new() }),
                    None => None,
                },
                Choice::Backward(rule) => Some(Replaced::new(op, rule, inputs.len())),
            },
            None => None,
        };
        let rule = replaced.as_ref().map_or_else(|| op.rule(), |replaced| replaced.rule());
        let wanted = match rule {
            Rule::Flat => Mask::EMPTY,
            Rule::Composite => {
                let parts = on_behalf_of(site, || op.decompose(inputs))?;
                let outputs =
                    parts.ok_or_else(|| Error::mode(op.name(), "reverse mode", "it has no decomposition"))?;
                return Ok(Applied { outputs, aux: Values::new() });
            }
            Rule::Pointwise(_)
            | Rule::Linear(..)
            | Rule::Bilinear(..)
            | Rule::General(_)
            | Rule::Opaque(_) => {
                differentiable(rule, inputs.len()).and(Mask::of(inputs.len(), |i| slots[i].is_some()))
            }
        };
        if wanted.is_empty() {
            // Whoever asks why a gradient is missing is told of this line.
            let Applied { outputs, aux } = apply_call(op, &inner, aux, site)?;
            let cut = Cut::through(inputs, CutKind::Flat, op.name(), site);
            let outputs = outputs.into_iter().map(|y| y.behind(cut.clone())).collect();
            return Ok(Applied { outputs, aux });
        }
        let region = open_region(self.level);
        if let (Rule::Pointwise(pointwise), None, false) = (rule, &region, aux)
            && pointwise.expr().program().outputs().len() == 1
        {
            let y = self.record_one(call, &pointwise.residuals(wanted, 1), &slots, &inner)?;
            return Ok(Applied { outputs: smallvec![y], aux: Values::new() });
        }
        // Aux(k) is declared last; whether hints are needed is known before the outputs are.
        let early = residuals(rule, wanted, inputs.len(), 1);
        let reads_hints = early.iter().any(|r| matches!(r, Residual::Aux(_)));
        let fate = match &region {
            Some(region) => region.fate(op, &self.output_metas(op, &inner)?),
            None => Fate::Keep,
        };
        let hints = reads_hints && fate != Fate::Recompute;
        let made = apply_call(op, &inner, aux || hints, site)?;
        if self.tape.check() != Check::Off {
            anomaly::forward(self.tape.check(), op, &slots, &inner, &made.outputs)?;
        }
        let reads = if made.outputs.len() == 1 {
            early
        } else {
            residuals(rule, wanted, inputs.len(), made.outputs.len())
        };
        let kept: Kept = match &region {
            None => reads
                .iter()
                .map(|residual| match *residual {
                    Residual::Input(i) => Some(inner[i].settle().clone()),
                    Residual::Output(j) => Some(made.outputs[j].settle().clone()),
                    Residual::Aux(k) => made.aux.get(k).cloned(),
                })
                .collect(),
            Some(region) => {
                let mut kept = self.operands_from_outside(region, &slots, &inner)?;
                self.save(region, fate, op.name(), &made, &mut kept)?;
                kept
            }
        };
        let metas: SmallVec<[Meta; 1]> = made.outputs.iter().map(TrackedTensor::meta).collect();
        let handles = metas.iter().filter(|m| is_float(m.dtype)).count() as u32;
        let step = Step::Apply(replaced.map_or_else(|| op.keep(), |replaced| Prim::Shared(replaced)));
        let prints = self.tape.fingerprints(kept.iter().map(Option::as_ref));
        let id = {
            let Some(mut record) = self.tape.live() else {
                // Another thread ended the tape meanwhile: the values are plain from here on.
                return Ok(made);
            };
            let mut sources: SmallVec<[Source; 2]> = SmallVec::with_capacity(slots.len());
            for (slot, value) in slots.iter().zip(&inner) {
                sources.push(match slot {
                    Some(slot) => Source::Slot(*slot),
                    None => Source::Constant(record.constant(value)),
                });
            }
            if let Some(region) = &region {
                record.enter(region, self.level);
            }
            let region = region.as_ref().map_or(0, |region| region.id);
            let node =
                Node { step, inputs: sources, outputs: metas, kept, site, region, handles, consumers: 0 };
            record.push_saved(node, prints)
        };
        let outputs = made.outputs.into_iter().enumerate().map(|(output, value)| {
            if !is_float(value.dtype()) {
                return value;
            }
            let slot = Slot { node: id, output: output as u32 };
            TrackedTensor::from_tracer(Arc::new(Self {
                tape: self.tape.clone(),
                level: self.level,
                slot,
                value,
            }))
        });
        Ok(Applied { outputs: outputs.collect(), aux: made.aux })
    }
}

impl TapeTracer {
    /// The operands one level below, and where those of this tape were recorded.
    #[inline]
    fn operands<'a>(&self, inputs: &[&'a TrackedTensor], inner: &mut Inner<'a>, slots: &mut Slots) {
        for input in inputs {
            match Self::of(input).filter(|t| t.level == self.level) {
                Some(tracer) => {
                    inner.push(&tracer.value);
                    slots.push(Some(tracer.slot));
                }
                None => {
                    inner.push(input);
                    slots.push(None);
                }
            }
        }
    }

    /// The way of most ops, of one output and outside of any region: no hints, nothing to count.
    fn record_one(
        &self,
        call: &Call<'_>,
        reads: &[Residual],
        slots: &[Option<Slot>],
        inner: &[&TrackedTensor],
    ) -> Result<TrackedTensor> {
        let op = call.op;
        if inner.iter().any(|x| x.is_deferred()) {
            // What is kept is there before an op could take it in.
            for residual in reads {
                if let Residual::Input(i) = *residual {
                    inner[i].settle();
                }
            }
        }
        // Early: what was just written is slow to move.
        let step = Step::Apply(op.keep());
        let y = apply_single(op, inner, call.site)?;
        if self.tape.check() != Check::Off {
            anomaly::forward(self.tape.check(), op, slots, inner, std::slice::from_ref(&y))?;
        }
        if y.is_deferred() && reads.contains(&Residual::Output(0)) {
            y.settle();
        }
        let kept = |residual: &Residual| match *residual {
            Residual::Input(i) => Some(inner[i]),
            Residual::Output(_) => Some(&y),
            Residual::Aux(_) => None,
        };
        let prints = self.tape.fingerprints(reads.iter().map(kept));
        let handles = u32::from(is_float(y.dtype()));
        let id = {
            let Some(mut record) = self.tape.live() else {
                return Ok(y);
            };
            let id = record.begin(call.site, slots, inner);
            let node = &mut record.nodes[id as usize];
            node.step = step;
            node.handles = handles;
            node.outputs.push(y.meta());
            for residual in reads {
                node.kept.push(kept(residual).cloned());
            }
            record.note_prints(id, prints);
            id
        };
        if handles == 0 {
            return Ok(y);
        }
        let slot = Slot { node: id, output: 0 };
        let (tape, level) = (self.tape.clone(), self.level);
        Ok(TrackedTensor::from_tracer(Room::take().fill(Self { tape, level, slot, value: y })))
    }

    /// For a node of a region: the operands that the region, or one around it, does not make
    /// itself.
    fn operands_from_outside(
        &self,
        region: &Region,
        slots: &[Option<Slot>],
        inner: &[&TrackedTensor],
    ) -> Result<Kept> {
        let outermost = region.chain(self.level).last().unwrap_or(region);
        let inside: SmallVec<[bool; 4]> = {
            let record = self.tape.lock();
            let of = |slot: &Slot| record.nodes.get(slot.node as usize).map_or(0, |node| node.region);
            let root = |region: u32| record.regions.get(&region).map_or(0, |entry| entry.root);
            slots
                .iter()
                .map(|slot| slot.as_ref().is_some_and(|slot| root(of(slot)) == outermost.id))
                .collect()
        };
        let mut kept = Kept::with_capacity(slots.len());
        for ((slot, value), inside) in slots.iter().zip(inner).zip(inside) {
            kept.push(match slot {
                Some(_) if inside => None,
                Some(slot) => Some(outermost.operand(&self.tape, self.level, *slot, value)?),
                None => Some(value.settle().clone()),
            });
        }
        Ok(kept)
    }

    /// What an op makes, for whoever decides its fate.
    fn output_metas(&self, op: &dyn Primitive, inner: &[&TrackedTensor]) -> Result<SmallVec<[Meta; 1]>> {
        let metas: SmallVec<[Meta; 4]> = inner.iter().map(|value| value.meta()).collect();
        match op.rule() {
            // The shape of a user's own op is known only when it has run.
            Rule::Opaque(_) => Ok(SmallVec::new()),
            Rule::Pointwise(_)
            | Rule::Linear(..)
            | Rule::Bilinear(..)
            | Rule::General(_)
            | Rule::Composite
            | Rule::Flat => Ok(op.infer(&metas)?.outputs),
        }
    }

    /// Saves what an op of a region made, where it is not to be made again.
    fn save(
        &self,
        region: &Region,
        fate: Fate,
        op: &'static str,
        made: &Applied,
        kept: &mut Kept,
    ) -> Result<()> {
        match fate {
            Fate::Recompute => {}
            Fate::Keep => {
                kept.extend(made.outputs.iter().chain(&made.aux).map(|value| Some(value.settle().clone())));
            }
            Fate::Offload => {
                for output in &made.outputs {
                    kept.push(Some(region.stow(op, output)?));
                }
                // Hints are small and may be integers: they stay.
                kept.extend(made.aux.iter().cloned().map(Some));
            }
        }
        Ok(())
    }
}
