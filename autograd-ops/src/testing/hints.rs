//! Hints are for kernels: what is differentiated must not read them.
//!
//! A hint (an auxiliary output: a row's mean, a logsumexp) is not tracked, so a rule that computes
//! with it loses the hint's own derivative. A fused vjp primitive may read it; the rule of that
//! primitive, which runs at second order, may not. Integer hints have no derivative to lose.

use super::Outcome;
use super::observe::{Observer, Watch};
use super::report::Stop;
use super::subject::Subject;
use autograd_core::{Applied, Call, Result, TrackedTensor};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

#[derive(Debug, Default)]
struct Readers {
    /// Whether the outer backward pass runs.
    second_order: AtomicBool,
    /// Whether a hint was read at all.
    used: AtomicBool,
    /// The first op that read a hint at second order.
    found: OnceLock<&'static str>,
}

impl Observer for Readers {
    fn see(&self, call: &Call<'_>, _: &[&TrackedTensor], hints: &[bool], _: &Applied) -> Result<()> {
        if hints.iter().any(|h| *h) {
            self.used.store(true, Ordering::Relaxed);
            if self.second_order.load(Ordering::Relaxed) && !hints.iter().all(|h| *h) {
                // The first one is kept: later ones follow from it.
                let _ = self.found.set(call.op.name());
            }
        }
        Ok(())
    }
}

/// In reverse over reverse, no op of the outer backward pass reads a hint of the forward pass.
pub(crate) fn unread_at_second_order(subject: &Subject<'_>) -> Result<Outcome, Stop> {
    if !subject.is_differentiable() {
        return Ok(Outcome::NothingToCheck);
    }
    let readers = Arc::new(Readers::default());
    let watch = Watch::new(readers.clone());
    let (x, u, v) = (subject.primals(), subject.cotangents()?, subject.direction()?);
    let f = |x: &[TrackedTensor]| subject.f(x);
    let gradient = |x: &[TrackedTensor]| {
        let gradient = subject.modes.vjp(&f, x, &u)?.1;
        readers.second_order.store(true, Ordering::Relaxed);
        Ok(gradient)
    };
    subject.modes.vjp(&gradient, &watch.over(&x), &v)?;
    if let Some(op) = readers.found.get() {
        let words = format!("reads an auxiliary output of the forward pass as an input of '{op}'");
        return Err(Stop::broken("the rule at second order", words));
    }
    Ok(if readers.used.load(Ordering::Relaxed) { Outcome::Checked } else { Outcome::NothingToCheck })
}
