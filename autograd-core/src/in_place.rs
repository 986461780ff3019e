//! Ops in place: a handle is bound to the result, and its memory is reused where nothing needs
//! the old content.
//!
//! `x.add_(&y)` means `x = x.add(&y)`, with the result written over `x`'s memory where that
//! cannot be seen: no clone, no view and no rule reads it. Otherwise the result has memory of its
//! own. Either way clones and views of `x` keep the old numbers, and every gradient is that of
//! the functional op.

use crate::apply::{apply_single, heard};
use crate::capture::{is_capturing, recorder};
use crate::deferred;
use crate::error::{At, Error, Result, Site};
use crate::meta::Meta;
use crate::plain::{Plain, open};
use crate::primitive::Primitive;
use crate::tracer::Tracer;
use crate::value::{Repr, TrackedTensor};
use smallvec::SmallVec;
use std::cell::Cell;
use std::fmt;
use std::sync::Arc;

/// Why an op in place gave its result memory of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Obstacle {
    /// A clone of the value exists.
    Cloned,
    /// A view, a clone from before it was watched, or what another op saved for its backward pass
    /// shares the memory.
    Shared,
    /// The memory is a candle tensor's.
    CandleMemory,
    /// The op's own backward pass reads the value.
    ReadByRule,
    /// A checkpointed region is being recorded, whose replay may need the value.
    Replayed,
    /// A dual number, a batch or a graph being captured watches the value.
    OtherMode,
    /// A tape watches another operand, and not the value.
    Unwatched,
    /// The elements are not one after the other, or the op has no way to write over them.
    NoKernel,
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cloned => "a clone of the value exists; drop it first",
            Self::Shared => "a view, a clone or an op's saved value shares its memory",
            Self::CandleMemory => "its memory is a candle tensor's, which is never written to",
            Self::ReadByRule => "the op's own backward pass reads the old value",
            Self::Replayed => "a checkpointed region may read the old value when it is replayed",
            Self::OtherMode => "a dual number, a batch or a graph being captured watches the value",
            Self::Unwatched => "a tape watches another operand, but not the value itself",
            Self::NoKernel => "its elements are not one after the other, or are not on the CPU",
        })
    }
}

/// What came of writing over a watched value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rewritten {
    /// The value is bound to the result.
    Done,
    /// Nothing was done: the result needs memory of its own.
    Declined(Obstacle),
}

/// An op in place on its way through the levels; the value that it writes over is its first input.
#[derive(Clone, Copy, Debug)]
pub struct Rewrite<'a> {
    /// The op.
    pub op: &'a dyn Primitive,
    /// Its inputs after the first. None of them is silent.
    pub rest: &'a [&'a TrackedTensor],
    /// The user's line.
    pub site: Site,
}

/// How often ops in place found memory to reuse.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct InPlaceStatistics {
    /// Ops that wrote over their input.
    pub reused: usize,
    /// Ops whose result needed memory of its own.
    pub copied: usize,
    /// Bytes that were not taken from the pool, thanks to reuse.
    pub bytes_reused: usize,
    /// Bytes of results that needed memory of their own.
    pub bytes_copied: usize,
}

impl InPlaceStatistics {
    /// The share of ops that wrote over their input; 1 where there were none.
    pub fn share_reused(&self) -> f64 {
        match self.reused + self.copied {
            0 => 1.0,
            all => self.reused as f64 / all as f64,
        }
    }

    fn plus(self, other: Self) -> Self {
        Self {
            reused: self.reused + other.reused,
            copied: self.copied + other.copied,
            bytes_reused: self.bytes_reused + other.bytes_reused,
            bytes_copied: self.bytes_copied + other.bytes_copied,
        }
    }
}

thread_local! {
    static STRICT: Cell<bool> = const { Cell::new(false) };
    static STATISTICS: Cell<InPlaceStatistics> = const {
        Cell::new(InPlaceStatistics { reused: 0, copied: 0, bytes_reused: 0, bytes_copied: 0 })
    };
}

/// Runs `f`; an op in place on this thread that would need memory of its own is the error
/// [`Error::InPlaceCopy`], and leaves its value as it was.
pub fn strict_in_place<R>(f: impl FnOnce() -> R) -> R {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            STRICT.set(self.0);
        }
    }
    let _restore = Restore(STRICT.replace(true));
    f()
}

/// Runs `f`, and counts what its ops in place on this thread reuse and copy.
pub fn count_in_place<R>(f: impl FnOnce() -> R) -> (R, InPlaceStatistics) {
    struct Restore(InPlaceStatistics);
    impl Drop for Restore {
        fn drop(&mut self) {
            // An outer count goes on with this one's in it.
            STATISTICS.set(self.0.plus(STATISTICS.get()));
        }
    }
    let _restore = Restore(STATISTICS.replace(InPlaceStatistics::default()));
    let result = f();
    (result, STATISTICS.get())
}

fn note(bytes: usize, reused: bool) {
    let one = if reused {
        InPlaceStatistics { reused: 1, bytes_reused: bytes, ..Default::default() }
    } else {
        InPlaceStatistics { copied: 1, bytes_copied: bytes, ..Default::default() }
    };
    STATISTICS.set(STATISTICS.get().plus(one));
}

/// Applies an op of one output whose first input is `x`, and binds `x` to the result, written
/// over the old content where nothing needs that. `x` is as it was where this fails.
///
/// # Errors
/// As [`apply`](crate::apply()); [`Error::Shape`] where the result has another shape or type than
/// `x`; [`Error::InPlaceCopy`] under [`strict_in_place`].
#[track_caller]
pub fn apply_in_place(op: &dyn Primitive, x: &mut TrackedTensor, rest: &[&TrackedTensor]) -> Result<()> {
    let site = Site::caller();
    for value in std::iter::once(&*x).chain(rest.iter().copied()) {
        if let Some(error) = value.failure() {
            return Err(error.clone());
        }
    }
    let mut metas: SmallVec<[Meta; 4]> = smallvec::smallvec![x.meta()];
    metas.extend(rest.iter().map(|value| value.meta()));
    let signature = op.infer(&metas).map_err(|error| error.or_at(site))?;
    if signature.outputs[..] != metas[..1] {
        let made =
            signature.outputs.first().map_or_else(String::new, |m| format!("{} {:?}", m.shape, m.dtype));
        let reason = format!("in place the result must be like the value, and is {made}");
        let shapes: SmallVec<[_; 4]> = metas.iter().map(|m| m.shape).collect();
        return Err(Error::shape(op.name(), &shapes, reason).or_at(site));
    }
    rewrite(&Rewrite { op, rest, site }, x)
}

/// One level's part of [`apply_in_place`]: a tape that has decided to reuse a value passes the
/// value below on to this.
///
/// # Errors
/// As [`apply_in_place`].
pub fn rewrite(call: &Rewrite<'_>, x: &mut TrackedTensor) -> Result<()> {
    let heard_rest: SmallVec<[&TrackedTensor; 4]> = call.rest.iter().map(|value| heard(value)).collect();
    let call = Rewrite { rest: &heard_rest, ..*call };
    if x.tracer().is_some_and(|tracer| !tracer.is_active()) {
        // The handle leaves the tape that no longer listens, as the result of any op would.
        let lower = heard(x).clone();
        *x = lower;
    }
    let above = call.rest.iter().filter_map(|value| value.tracer()).map(|t| t.level()).max();
    let recorded = {
        let all: SmallVec<[&TrackedTensor; 4]> =
            std::iter::once(&*x).chain(call.rest.iter().copied()).collect();
        recorder(&all, all.iter().filter_map(|value| value.tracer()).map(|t| t.level()).max()).is_some()
    };
    let outcome = match &mut x.0 {
        Repr::Failed(error) => return Err(Error::clone(error)),
        Repr::Plain(_) if above.is_some() => Rewritten::Declined(Obstacle::Unwatched),
        Repr::Plain(_) | Repr::Traced(_) if recorded => Rewritten::Declined(Obstacle::OtherMode),
        Repr::Plain(plain) => over(&call, plain)?,
        Repr::Traced(tracer) if above > Some(tracer.level()) => Rewritten::Declined(Obstacle::Unwatched),
        Repr::Traced(tracer) => watched(&call, tracer)?,
    };
    let Rewritten::Declined(obstacle) = outcome else { return Ok(()) };
    if STRICT.get() {
        return Err(Error::InPlaceCopy { op: call.op.name(), obstacle, at: At::from(call.site) });
    }
    let bytes = x.meta().bytes();
    let made = {
        let inputs: SmallVec<[&TrackedTensor; 4]> =
            std::iter::once(&*x).chain(call.rest.iter().copied()).collect();
        apply_single(call.op, &inputs, call.site)?
    };
    *x = made;
    note(bytes, false);
    Ok(())
}

fn watched(call: &Rewrite<'_>, tracer: &mut Arc<dyn Tracer>) -> Result<Rewritten> {
    match Arc::get_mut(tracer) {
        Some(tracer) => tracer.process_in_place(call).map_err(|error| error.or_at(call.site)),
        None => Ok(Rewritten::Declined(Obstacle::Cloned)),
    }
}

/// Writes the result of an op over its first input, where nobody else has that, nobody watches and
/// the op can. Returns whether it did; `x` is as it was where not.
pub(crate) fn write_over(op: &dyn Primitive, x: &mut TrackedTensor, rest: &[&TrackedTensor]) -> Result<bool> {
    if is_capturing() {
        return Ok(false);
    }
    let Some(plain) = x.plain_mut() else { return Ok(false) };
    let mut metas: SmallVec<[Meta; 6]> = SmallVec::new();
    let mut others: SmallVec<[&Plain; 4]> = SmallVec::new();
    metas.push(plain.meta());
    for value in rest {
        let Some(other) = value.plain().filter(|other| other.device() == plain.device()) else {
            return Ok(false);
        };
        metas.push(other.meta());
        others.push(other);
    }
    // What does not fit is for the functional op to report.
    if !op.infer(&metas).is_ok_and(|signature| signature.outputs[..] == metas[..1]) {
        return Ok(false);
    }
    let shape = metas[0].shape;
    // A small part would keep all of a large owner's memory.
    if !plain.fills_its_memory() {
        return Ok(false);
    }
    let Ok(target) = plain.writable() else { return Ok(false) };
    if !open(op.name(), &others, |views| op.eval_over(target, &shape, views))? {
        return Ok(false);
    }
    crate::testing::note_evaluation();
    plain.inherit(others);
    Ok(true)
}

/// Writes over a value that nobody watches.
fn over(call: &Rewrite<'_>, plain: &mut Arc<Plain>) -> Result<Rewritten> {
    let (shape, bytes) = (*plain.layout().shape(), plain.meta().bytes());
    let mut rest: SmallVec<[&Plain; 4]> = SmallVec::new();
    for value in call.rest {
        match value.plain() {
            Some(plain) => rest.push(plain),
            None => return Ok(Rewritten::Declined(Obstacle::Unwatched)),
        }
    }
    if rest.iter().any(|other| other.device() != plain.device()) {
        // The functional op reports it.
        return Ok(Rewritten::Declined(Obstacle::NoKernel));
    }
    if matches!(plain.writable(), Err(Obstacle::Shared)) {
        // Perhaps only values that are yet to be computed read it.
        deferred::settle_all();
    }
    let target = match plain.writable() {
        Ok(target) => target,
        Err(obstacle) => return Ok(Rewritten::Declined(obstacle)),
    };
    let name = call.op.name();
    let done = open(name, &rest, |views| call.op.eval_over(target, &shape, views));
    if done.map_err(|error| error.or_at(call.site))? {
        crate::testing::note_evaluation();
        note(bytes, true);
        return Ok(Rewritten::Done);
    }
    Ok(Rewritten::Declined(Obstacle::NoKernel))
}
