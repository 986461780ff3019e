//! The gradient tape.

use crate::anomaly::{self, Backward, Check};
use crate::hooks::Hooks;
use crate::life::State;
use crate::node::{Node, Slot, Step};
use crate::record::{Record, Shared};
use crate::rules::RuleSet;
use crate::sweep::{Nodes, sweep};
use crate::tracer::TapeTracer;
use crate::watch::Watch;
use autograd_core::algebra::{fill, ones_like};
use autograd_core::smallvec::smallvec;
use autograd_core::{
    At, CustomOp, Error, Level, Meta, Result, Site, TrackedTensor, custom, heard, is_float, pause_level,
};
use std::sync::Arc;

/// Records what is computed from its variables, and pulls gradients back through it.
///
/// A tape is spent by its first gradient, unless it is [`persistent`](Self::persistent). It can
/// be used from several threads.
///
/// ```
/// use autograd_core::{Result, TrackedTensor};
/// use autograd_tape::GradientTape;
///
/// fn main() -> Result<()> {
///     let tape = GradientTape::new();
///     let x = tape.variable(TrackedTensor::scalar(3.0));
///     let y = (&x * &x)?;
///     assert_eq!(tape.derivative(&y, &x)?.to_scalar::<f64>()?, 6.0);
///     Ok(())
/// }
/// ```
#[derive(Debug)]
pub struct GradientTape {
    pub(crate) shared: Arc<Shared>,
    persistent: bool,
    pub(crate) hooks: Hooks,
}

impl Default for GradientTape {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for GradientTape {
    fn drop(&mut self) {
        drop(self.shared.end());
    }
}

impl GradientTape {
    /// A tape for one gradient.
    pub fn new() -> Self {
        Self::of(None)
    }

    fn of(rules: Option<RuleSet>) -> Self {
        Self { shared: Arc::new(Shared::new(rules)), persistent: false, hooks: Hooks::default() }
    }

    /// A tape on which other backward passes stand in for those of chosen ops. They are fixed
    /// before recording. What a rule gives is no derivative that could be differentiated again: a
    /// gradient is never recorded here, even if the tape is [`persistent`](Self::persistent).
    pub fn with_rules(rules: RuleSet) -> Self {
        Self::of(Some(rules))
    }

    /// The tape kept after a gradient: further ones can be asked, and since the backward pass is
    /// recorded too, gradients of gradients, to any order.
    #[must_use]
    pub fn persistent(mut self) -> Self {
        self.persistent = true;
        self
    }

    /// Whether the tape outlives its first gradient.
    pub fn is_persistent(&self) -> bool {
        self.persistent
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    pub(crate) fn shared_handle(&self) -> Arc<Shared> {
        self.shared.clone()
    }

    pub(crate) fn with_record<R>(&self, f: impl FnOnce(&Record) -> R) -> R {
        f(&self.shared.lock())
    }

    /// A variable: a value to differentiate with respect to. Where
    /// [`try_variable`](Self::try_variable) fails, the value gives that error at its first use.
    #[track_caller]
    pub fn variable(&self, value: impl Into<TrackedTensor>) -> TrackedTensor {
        self.try_variable(value).unwrap_or_else(TrackedTensor::failed)
    }

    /// A variable: a value to differentiate with respect to.
    ///
    /// # Errors
    /// [`Error::NotDifferentiable`] for an integer tensor, [`Error::SpentTape`] after the
    /// gradient, [`Error::LevelInversion`] for the value of a transform that was entered after
    /// this tape's first variable.
    #[track_caller]
    pub fn try_variable(&self, value: impl Into<TrackedTensor>) -> Result<TrackedTensor> {
        let site = Site::caller();
        let value: TrackedTensor = value.into();
        if let Some(error) = value.failure() {
            return Err(error.clone());
        }
        let value = heard(&value).clone();
        if !is_float(value.dtype()) {
            return Err(Error::NotDifferentiable { dtype: value.dtype(), at: At::from(site) });
        }
        self.check_live(site)?;
        if self.shared.check() != Check::Off {
            anomaly::variable(self.shared.check(), &value).map_err(|e| e.or_at(site))?;
        }
        let level = self.level_for(&value, site)?;
        let meta = value.meta();
        let node = Node {
            step: Step::Variable,
            inputs: smallvec![],
            outputs: smallvec![meta],
            kept: smallvec![],
            site,
            region: 0,
            handles: 1,
            consumers: 0,
        };
        let slot = {
            let Some(mut record) = self.shared.live() else { return Err(self.spent(site)) };
            let slot = Slot { node: record.push(node), output: 0 };
            record.note_variable(slot, &value);
            slot
        };
        let tracer = TapeTracer { tape: self.shared.clone(), level, slot, value };
        Ok(TrackedTensor::from_tracer(Arc::new(tracer)))
    }

    /// The tape's level; taken at the first variable, so that a tape made outside of a transform
    /// and used inside of it lies above it.
    fn level_for(&self, value: &TrackedTensor, site: Site) -> Result<Level> {
        let above = |level: Level| value.tracer().is_none_or(|t| t.level() < level);
        let Some(mut record) = self.shared.live() else { return Err(self.spent(site)) };
        let tape_at = *record.started_at.get_or_insert(site);
        match self.shared.level() {
            Some(level) if above(level) => Ok(level),
            Some(_) if !record.nodes.is_empty() => {
                let value_at = value.tracer().map_or_else(String::new, |t| format!("{t:?}"));
                Err(Error::LevelInversion { tape_at, value_at, at: At::from(site) })
            }
            _ => {
                let level = Level::fresh();
                self.shared.set_level(level);
                record.started_at = Some(site);
                Ok(level)
            }
        }
    }

    pub(crate) fn check_live(&self, site: Site) -> Result<()> {
        if self.shared.state() == State::Live {
            return Ok(());
        }
        Err(self.spent(site))
    }

    fn spent(&self, site: Site) -> Error {
        let spent_at = self.with_record(|r| r.spent_at).unwrap_or(site);
        Error::SpentTape { spent_at, at: At::from(site) }
    }

    /// The gradients of a target of one element with respect to the sources (variables or values
    /// computed from them): for each one a value of its shape, zeros where the target does not
    /// depend on it. On a persistent tape they can be differentiated again.
    ///
    /// # Errors
    /// [`Error::NonScalarTarget`], [`Error::Untracked`], [`Error::ForeignTape`],
    /// [`Error::SpentTape`], [`Error::DroppedTape`] or [`Error::LevelInversion`], or what a rule
    /// reports.
    #[track_caller]
    pub fn gradient(&self, target: &TrackedTensor, sources: &[&TrackedTensor]) -> Result<Vec<TrackedTensor>> {
        self.pull(&[target], None, sources, self.persistent, Site::caller())
    }

    /// The gradient with respect to one source: `gradient` without the list.
    ///
    /// # Errors
    /// As [`gradient`](Self::gradient).
    #[track_caller]
    pub fn derivative(&self, target: &TrackedTensor, source: &TrackedTensor) -> Result<TrackedTensor> {
        let site = Site::caller();
        let found = self.pull(&[target], None, &[source], self.persistent, site)?;
        found.into_iter().next().ok_or_else(|| Error::internal("derivative", "no gradient came back"))
    }

    /// vᵀJ: targets of any shape, each with its cotangent v (the seed), summed.
    ///
    /// # Errors
    /// As [`gradient`](Self::gradient); [`Error::Mismatch`] where a seed has not its target's
    /// shape and type.
    #[track_caller]
    pub fn gradient_with(
        &self,
        targets: &[&TrackedTensor],
        seeds: &[&TrackedTensor],
        sources: &[&TrackedTensor],
    ) -> Result<Vec<TrackedTensor>> {
        self.pull(targets, Some(seeds), sources, self.persistent, Site::caller())
    }

    /// The gradients of the sum of several targets of one element each.
    ///
    /// # Errors
    /// As [`gradient`](Self::gradient).
    #[track_caller]
    pub fn gradient_of(
        &self,
        targets: &[&TrackedTensor],
        sources: &[&TrackedTensor],
    ) -> Result<Vec<TrackedTensor>> {
        self.pull(targets, None, sources, self.persistent, Site::caller())
    }

    /// As [`gradient`](Self::gradient), on a persistent tape without recording the backward pass:
    /// the result is a constant to the tape.
    ///
    /// # Errors
    /// As [`gradient`](Self::gradient).
    #[track_caller]
    pub fn gradient_detached(
        &self,
        target: &TrackedTensor,
        sources: &[&TrackedTensor],
    ) -> Result<Vec<TrackedTensor>> {
        self.pull(&[target], None, sources, false, Site::caller())
    }

    /// As [`gradient_with`](Self::gradient_with), on a persistent tape without recording the
    /// backward pass.
    ///
    /// # Errors
    /// As [`gradient_with`](Self::gradient_with).
    #[track_caller]
    pub fn gradient_with_detached(
        &self,
        targets: &[&TrackedTensor],
        seeds: &[&TrackedTensor],
        sources: &[&TrackedTensor],
    ) -> Result<Vec<TrackedTensor>> {
        self.pull(targets, Some(seeds), sources, false, Site::caller())
    }

    /// As [`gradient`](Self::gradient), with an error where the target does not depend on a
    /// source, which says why (see [`explain`](Self::explain)); the tape is not spent then.
    ///
    /// # Errors
    /// [`Error::NoPath`], and as [`gradient`](Self::gradient).
    #[track_caller]
    pub fn gradient_strict(
        &self,
        target: &TrackedTensor,
        sources: &[&TrackedTensor],
    ) -> Result<Vec<TrackedTensor>> {
        let site = Site::caller();
        let no_path = |index: usize, reason: String| Error::NoPath { index, reason, at: At::from(site) };
        if let Ok(to) = self.find(target, "target", site) {
            for (index, source) in sources.iter().enumerate() {
                let from = self.find(source, "source", site)?;
                if let Some(reason) = self.why_no_path(to, from) {
                    return Err(no_path(index, reason));
                }
            }
        }
        let found = self.pull_paths(&[target], None, sources, self.persistent, site)?;
        let zero = "no rule on the path passes anything on";
        let strict = |(index, grad): (usize, Option<_>)| grad.ok_or_else(|| no_path(index, zero.to_owned()));
        found.into_iter().enumerate().map(strict).collect()
    }

    fn pull(
        &self,
        targets: &[&TrackedTensor],
        seeds: Option<&[&TrackedTensor]>,
        sources: &[&TrackedTensor],
        recording: bool,
        site: Site,
    ) -> Result<Vec<TrackedTensor>> {
        let found = self.pull_paths(targets, seeds, sources, recording, site)?;
        let zero = |source: &TrackedTensor| {
            let meta: Meta = source.meta();
            fill(0.0, &meta, source).map_err(|e| e.or_at(site))
        };
        found.into_iter().zip(sources).map(|(grad, source)| grad.map_or_else(|| zero(source), Ok)).collect()
    }

    fn pull_paths(
        &self,
        targets: &[&TrackedTensor],
        seeds: Option<&[&TrackedTensor]>,
        sources: &[&TrackedTensor],
        recording: bool,
        site: Site,
    ) -> Result<Vec<Option<TrackedTensor>>> {
        self.check_live(site)?;
        if let Some(seeds) = seeds
            && seeds.len() != targets.len()
        {
            let reason = format!("{} seeds given for {} targets", seeds.len(), targets.len());
            return Err(Error::argument("gradient_with", reason).or_at(site));
        }
        let mut pulled = Vec::with_capacity(targets.len());
        for (i, target) in targets.iter().enumerate() {
            let tracer = self.find(target, "target", site)?;
            let seed = match seeds {
                Some(seeds) => seeds[i].clone(),
                None if target.elem_count() == 1 => ones_like(target)?,
                None => return Err(Error::NonScalarTarget { shape: *target.shape(), at: At::from(site) }),
            };
            if let Some(error) = seed.failure() {
                return Err(error.clone());
            }
            if seed.shape() != target.shape() || seed.dtype() != target.dtype() {
                let (got, want) = (Box::new(seed.meta()), Box::new(target.meta()));
                let what = "the seed of a target";
                return Err(Error::Mismatch { what, got, want, at: At::from(site) });
            }
            pulled.push((tracer.slot, seed));
        }
        let sources: Vec<Slot> =
            sources.iter().map(|s| Ok(self.find(s, "source", site)?.slot)).collect::<Result<_>>()?;
        self.pull_slots(pulled, targets, &sources, recording, site)
    }

    /// Runs the sweep from seeded slots to slots, under the tape's hooks and checks.
    pub(crate) fn pull_slots(
        &self,
        seeds: Vec<(Slot, TrackedTensor)>,
        targets: &[&TrackedTensor],
        sources: &[Slot],
        recording: bool,
        site: Site,
    ) -> Result<Vec<Option<TrackedTensor>>> {
        let recording = recording && self.shared.rules.is_none();
        let check = self.shared.check();
        let mut hooks = self.hooks.begin();
        let mut checks = Backward::new(check, site);
        let mut watches: Vec<&mut dyn Watch> = Vec::new();
        watches.extend(hooks.as_mut().map(|hooks| hooks as &mut dyn Watch));
        if check != Check::Off {
            watches.push(&mut checks);
        }
        let level = self.shared.level().unwrap_or_else(Level::fresh);
        let nodes = if self.persistent {
            Nodes::Shared { tape: &self.shared, level, recording }
        } else {
            let Some(record) = self.shared.spend(site) else {
                // Another thread took its gradient since this one looked.
                self.check_live(site)?;
                return Err(
                    Error::internal("gradient", "a tape that is not live cannot be spent").or_at(site)
                );
            };
            Nodes::Taken(record)
        };
        match check {
            Check::Off => sweep(nodes, seeds, targets, sources, &mut watches),
            // The sweep's own ops are blamed on the op whose rule applies them.
            Check::Nan | Check::NotFinite => {
                anomaly::unchecked(|| sweep(nodes, seeds, targets, sources, &mut watches))
            }
        }
    }

    /// The tracer of a value on this tape, or the error that says why there is none.
    pub(crate) fn find<'a>(
        &self,
        value: &'a TrackedTensor,
        role: &'static str,
        site: Site,
    ) -> Result<&'a TapeTracer> {
        let at = At::from(site);
        let mut seen = value;
        let mut reason = Error::Untracked { role, at };
        loop {
            if let Some(error) = seen.failure() {
                return Err(error.clone());
            }
            let Some(tracer) = seen.tracer() else {
                // Computed after another thread spent the tape: that is the reason.
                self.check_live(site)?;
                return Err(reason);
            };
            let Some(tape) = TapeTracer::of(seen) else {
                // A dual, a batch or a graph wraps the value: it is younger than this tape.
                let tape_at = self.with_record(|r| r.started_at).unwrap_or(site);
                return Err(Error::LevelInversion { tape_at, value_at: format!("{tracer:?}"), at });
            };
            if Arc::ptr_eq(&tape.tape, &self.shared) {
                return Ok(tape);
            }
            let other = tape.tape.lock().started_at.unwrap_or(site);
            match tape.tape.state() {
                // A tape that no longer watches is looked through.
                State::Spent => reason = Error::ForeignTape { role, other, at },
                State::Dropped => reason = Error::DroppedTape { role, at },
                State::Live if self.shared.level().is_some_and(|mine| mine < tape.level) => {
                    let tape_at = self.with_record(|r| r.started_at).unwrap_or(site);
                    return Err(Error::LevelInversion { tape_at, value_at: other.to_string(), at });
                }
                State::Live => return Err(Error::ForeignTape { role, other, at }),
            }
            seen = &tape.value;
        }
    }

    /// Whether the value is recorded on this tape.
    pub fn watches(&self, value: &TrackedTensor) -> bool {
        TapeTracer::of(value).is_some_and(|tracer| Arc::ptr_eq(&tracer.tape, &self.shared))
    }

    /// The value as the levels below this tape see it: a constant to this tape.
    pub fn unwatched(&self, value: &TrackedTensor) -> TrackedTensor {
        match TapeTracer::of(value) {
            Some(tracer) if Arc::ptr_eq(&tracer.tape, &self.shared) => tracer.value.clone(),
            _ => value.clone(),
        }
    }

    /// Applies a user's op with its own gradient; see [`CustomOp`]. The op goes in by value, by
    /// `Arc`, or by `&'static`, as a unit struct's `&Op` is.
    ///
    /// # Errors
    /// What the op reports.
    #[track_caller]
    pub fn custom_op(&self, op: impl CustomOp + 'static, inputs: &[&TrackedTensor]) -> Result<TrackedTensor> {
        custom(op, inputs)
    }

    /// Runs `f` while this tape records nothing on this thread.
    pub fn stop_recording<R>(&self, f: impl FnOnce() -> R) -> R {
        match self.shared.level() {
            Some(level) => pause_level(level, f),
            None => f(),
        }
    }
}
