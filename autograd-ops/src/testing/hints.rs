//! Hints are for kernels: what is differentiated must not read them.
//!
//! A hint (an auxiliary output: a row's mean, a logsumexp) is not tracked, so a rule that computes
//! with it loses the hint's own derivative. The fused vjp primitive of an op may read it; the rule
//! of that primitive, which runs at second order, may not. Hints are followed, not overwritten
//! with NaN: in a case of several ops a first gradient that is NaN would rightly spoil the second
//! order of the ops before it. Integer hints have no derivative to lose.

use super::Outcome;
use super::observe::{Observer, Watch};
use super::report::Stop;
use super::subject::Subject;
use autograd_core::{Applied, Call, Result, TrackedTensor};
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

#[derive(Debug, Default)]
struct Readers {
    /// Whether there are hints at all.
    given: AtomicBool,
    /// The ops that read a hint since the last look.
    names: Mutex<HashSet<&'static str>>,
}

impl Readers {
    fn take(&self) -> HashSet<&'static str> {
        std::mem::take(&mut *self.names.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Observer for Readers {
    fn see(&self, call: &Call<'_>, _: &[&TrackedTensor], hints: &[bool], applied: &Applied) -> Result<()> {
        if !applied.aux.is_empty() {
            self.given.store(true, Ordering::Relaxed);
        }
        // An op of hints alone makes another hint; it is read where it meets something else.
        if hints.iter().any(|h| *h) && !hints.iter().all(|h| *h) {
            self.names.lock().unwrap_or_else(PoisonError::into_inner).insert(call.op.name());
        }
        Ok(())
    }
}

/// In the outer pass of reverse over reverse, hints are read by the ops that read them at first
/// order (the fused vjp primitives, which the outer pass applies too) and by no other.
pub(crate) fn unread_at_second_order(subject: &Subject<'_>) -> Result<Outcome, Stop> {
    if !subject.is_differentiable() {
        return Ok(Outcome::NothingToCheck);
    }
    let readers = Arc::new(Readers::default());
    let watch = Watch::new(readers.clone());
    let (x, u, v) = (watch.over(&subject.primals()), subject.cotangents()?, subject.direction()?);
    let f = |x: &[TrackedTensor]| subject.f(x);
    subject.modes.vjp(&f, &x, &u)?;
    let fused = readers.take();
    let gradient = |x: &[TrackedTensor]| {
        let gradient = subject.modes.vjp(&f, x, &u)?.1;
        readers.take();
        Ok(gradient)
    };
    subject.modes.vjp(&gradient, &x, &v)?;
    if let Some(op) = readers.take().difference(&fused).min() {
        let words = format!("reads an auxiliary output of the forward pass as an input of '{op}'");
        return Err(Stop::broken("the rule at second order", words));
    }
    Ok(if readers.given.load(Ordering::Relaxed) { Outcome::Checked } else { Outcome::NothingToCheck })
}
