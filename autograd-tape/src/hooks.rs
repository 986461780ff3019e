//! Hooks: what happens to the cotangent of a value when a sweep comes by.

use crate::node::{Node, Slot, Step};
use crate::tape::GradientTape;
use crate::tracer::TapeTracer;
use crate::watch::Watch;
use autograd_core::algebra::{fill, ones_like};
use autograd_core::smallvec::SmallVec;
use autograd_core::{At, Cotangents, Error, Result, Site, TrackedTensor};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

/// A function on the cotangent of a value: what it returns takes its place, `None` leaves it.
pub(crate) type Function = Arc<dyn Fn(&TrackedTensor) -> Result<Option<TrackedTensor>> + Send + Sync>;

/// Gradients of values that were named with [`tap`](autograd_core::tap), in the order of recording.
pub type NamedGradients = Vec<(String, TrackedTensor)>;

/// A registered hook: what [`GradientTape::remove_hook`] takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Hook(u64);

#[derive(Default)]
struct Registered {
    /// In the order of registration.
    functions: Vec<(Hook, Slot, Function)>,
    /// Values whose gradients are kept, with that of the last sweep.
    retained: HashMap<Slot, Option<TrackedTensor>>,
    next: u64,
}

/// The hooks of a tape. They belong to the handle and not to the record, so that what they hold
/// may itself be on the tape.
#[derive(Default)]
pub(crate) struct Hooks(Mutex<Registered>);

impl fmt::Debug for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let registered = self.0.lock();
        write!(f, "{} hooks, {} retained", registered.functions.len(), registered.retained.len())
    }
}

impl Hooks {
    /// The hooks for one sweep; `None` where there are none.
    pub(crate) fn begin(&self) -> Option<Running<'_>> {
        let mut registered = self.0.lock();
        if registered.functions.is_empty() && registered.retained.is_empty() {
            return None;
        }
        let old: Vec<_> = registered.retained.values_mut().map(Option::take).collect();
        let functions = registered.functions.iter().map(|(_, slot, f)| (*slot, f.clone())).collect();
        drop(registered);
        // Gradients of an earlier sweep may be the last values of a tape: not under the lock.
        drop(old);
        Some(Running { hooks: self, functions })
    }
}

/// The hooks while a sweep runs.
pub(crate) struct Running<'a> {
    hooks: &'a Hooks,
    functions: Vec<(Slot, Function)>,
}

impl Watch for Running<'_> {
    fn arrive(&mut self, id: usize, node: &Node, cts: &mut Cotangents) -> Result<()> {
        for (slot, function) in self.functions.iter().filter(|(slot, _)| slot.node as usize == id) {
            let Some(ct) = cts.get_mut(slot.output as usize).and_then(Option::as_mut) else { continue };
            let Some(other) = function(ct).map_err(|e| e.or_at(node.site))? else { continue };
            if let Some(error) = other.failure() {
                return Err(error.clone());
            }
            if other.shape() != ct.shape() || other.dtype() != ct.dtype() {
                let (got, want) = (Box::new(other.meta()), Box::new(ct.meta()));
                return Err(Error::Mismatch {
                    what: "what a hook returned",
                    got,
                    want,
                    at: node.site.into(),
                });
            }
            *ct = other;
        }
        let mut registered = self.hooks.0.lock();
        let mut replaced: SmallVec<[Option<TrackedTensor>; 1]> = SmallVec::new();
        for (output, ct) in cts.iter().enumerate() {
            let slot = Slot { node: id as u32, output: output as u32 };
            if let Some(kept) = registered.retained.get_mut(&slot) {
                replaced.push(std::mem::replace(kept, ct.clone()));
            }
        }
        drop(registered);
        Ok(())
    }
}

impl GradientTape {
    /// Calls `hook` with the gradient with respect to `value` in every sweep that comes by it: once,
    /// when all its contributions are summed, before it is passed on. What the hook returns takes
    /// its place (and is what a source or [`retained_grad`](Self::retained_grad) gets); `None`
    /// leaves it. Hooks of one value run in the order of registration. A sweep comes by the values
    /// between its target and its sources.
    ///
    /// On a persistent tape the hook's ops are recorded like the sweep's own.
    ///
    /// # Errors
    /// As [`gradient`](Self::gradient) for a source.
    ///
    /// ```
    /// use autograd_core::{Result, TrackedTensor, algebra};
    /// use autograd_tape::GradientTape;
    ///
    /// fn main() -> Result<()> {
    ///     let tape = GradientTape::new();
    ///     let x = tape.variable(TrackedTensor::scalar(3.0));
    ///     let y = (&x * &x)?;
    ///     tape.register_hook(&y, |ct| Ok(Some(algebra::scale(ct, 10.0)?)))?;
    ///     assert_eq!(tape.derivative(&y, &x)?.to_scalar::<f64>()?, 60.0);
    ///     Ok(())
    /// }
    /// ```
    #[track_caller]
    pub fn register_hook(
        &self,
        value: &TrackedTensor,
        hook: impl Fn(&TrackedTensor) -> Result<Option<TrackedTensor>> + Send + Sync + 'static,
    ) -> Result<Hook> {
        let slot = self.hooked(value, Site::caller())?;
        let mut registered = self.hooks.0.lock();
        let id = Hook(registered.next);
        registered.next += 1;
        registered.functions.push((id, slot, Arc::new(hook)));
        Ok(id)
    }

    /// Takes a hook away again; returns whether it was there.
    pub fn remove_hook(&self, hook: Hook) -> bool {
        let mut registered = self.hooks.0.lock();
        let at = registered.functions.iter().position(|(id, ..)| *id == hook);
        let removed = at.map(|at| registered.functions.remove(at));
        drop(registered);
        removed.is_some()
    }

    /// Keeps the gradient with respect to `value`, an intermediate one say, in the sweeps to come:
    /// [`retained_grad`](Self::retained_grad) gives it.
    ///
    /// # Errors
    /// As [`gradient`](Self::gradient) for a source.
    ///
    /// ```
    /// use autograd_core::{Result, TrackedTensor};
    /// use autograd_tape::GradientTape;
    ///
    /// fn main() -> Result<()> {
    ///     let tape = GradientTape::new();
    ///     let x = tape.variable(TrackedTensor::scalar(3.0));
    ///     let y = (&x * &x)?;
    ///     tape.retain_grad(&y)?;
    ///     let z = (&y * 2.0)?;
    ///     tape.derivative(&z, &x)?;
    ///     let dy = tape.retained_grad(&y).map(|dy| dy.to_scalar::<f64>()).transpose()?;
    ///     assert_eq!(dy, Some(2.0));
    ///     Ok(())
    /// }
    /// ```
    #[track_caller]
    pub fn retain_grad(&self, value: &TrackedTensor) -> Result<()> {
        let slot = self.hooked(value, Site::caller())?;
        self.hooks.0.lock().retained.entry(slot).or_default();
        Ok(())
    }

    /// The gradient that the last sweep found for a value of [`retain_grad`](Self::retain_grad):
    /// `None` before the first one, and where that did not come by it.
    pub fn retained_grad(&self, value: &TrackedTensor) -> Option<TrackedTensor> {
        let tracer = TapeTracer::of(value).filter(|t| Arc::ptr_eq(&t.tape, &self.shared))?;
        self.hooks.0.lock().retained.get(&tracer.slot).cloned().flatten()
    }

    fn hooked(&self, value: &TrackedTensor, site: Site) -> Result<Slot> {
        self.check_live(site)?;
        Ok(self.find(value, "value of a hook", site)?.slot)
    }

    /// The gradients with respect to sources, and with respect to every value that was named with
    /// [`tap`](autograd_core::tap) on the way: names in the order of recording, zeros where the
    /// target does not depend on one. One sweep gives both.
    ///
    /// # Errors
    /// As [`gradient`](Self::gradient).
    ///
    /// ```
    /// use autograd_core::{Result, TrackedTensor, tap};
    /// use autograd_tape::GradientTape;
    ///
    /// fn main() -> Result<()> {
    ///     let tape = GradientTape::new();
    ///     let x = tape.variable(TrackedTensor::scalar(3.0));
    ///     let hidden = tap("hidden", &(&x * &x)?)?;
    ///     let y = (&hidden * 2.0)?;
    ///     let (grads, named) = tape.gradient_and_taps(&y, &[&x])?;
    ///     assert_eq!(grads[0].to_scalar::<f64>()?, 12.0);
    ///     assert_eq!((named[0].0.as_str(), named[0].1.to_scalar::<f64>()?), ("hidden", 2.0));
    ///     Ok(())
    /// }
    /// ```
    #[track_caller]
    pub fn gradient_and_taps(
        &self,
        target: &TrackedTensor,
        sources: &[&TrackedTensor],
    ) -> Result<(Vec<TrackedTensor>, NamedGradients)> {
        let site = Site::caller();
        self.check_live(site)?;
        let end = self.find(target, "target", site)?.slot;
        if target.elem_count() != 1 {
            return Err(Error::NonScalarTarget { shape: *target.shape(), at: At::from(site) });
        }
        let mut slots: Vec<Slot> =
            sources.iter().map(|s| Ok(self.find(s, "source", site)?.slot)).collect::<Result<_>>()?;
        let mut metas: Vec<_> = sources.iter().map(|s| s.meta()).collect();
        let mut names = Vec::new();
        self.with_record(|record| {
            for (id, node) in record.nodes.iter().enumerate() {
                if let Step::Apply(op) = &node.step
                    && let Some(name) = op.label()
                {
                    names.push(name.to_owned());
                    slots.push(Slot { node: id as u32, output: 0 });
                    metas.push(node.outputs[0]);
                }
            }
        });
        let seeds = vec![(end, ones_like(target)?)];
        let found = self.pull_slots(seeds, &[target], &slots, self.is_persistent(), site)?;
        let zeros = |(grad, meta): (Option<TrackedTensor>, _)| {
            grad.map_or_else(|| fill(0.0, &meta, target).map_err(|e| e.or_at(site)), Ok)
        };
        let mut grads: Vec<_> = found.into_iter().zip(metas).map(zeros).collect::<Result<_>>()?;
        let named = grads.split_off(sources.len());
        Ok((grads, names.into_iter().zip(named).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use autograd_core::algebra::{broadcast_to, scale};
    use autograd_core::{Shape, tap};
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn number(x: &TrackedTensor) -> Result<f64> {
        x.to_scalar()
    }

    #[test]
    fn a_hook_runs_once_on_the_sum_of_all_contributions() -> Result<()> {
        let tape = GradientTape::new();
        let x = tape.variable(TrackedTensor::scalar(3.0));
        let y = (&x * 2.0)?;
        let calls = Arc::new(AtomicUsize::new(0));
        let count = calls.clone();
        tape.register_hook(&y, move |ct| {
            count.fetch_add(1, Ordering::Relaxed);
            assert_eq!(number(ct)?, 12.0);
            Ok(None)
        })?;
        // Two uses of y: the contributions 6 and 6 are summed before the hook sees them.
        assert_eq!(number(&tape.derivative(&(&y * &y)?, &x)?)?, 24.0);
        assert_eq!(calls.load(Ordering::Relaxed), 1);
        Ok(())
    }

    #[test]
    fn hooks_run_in_order_and_can_be_removed() -> Result<()> {
        let tape = GradientTape::new().persistent();
        let x = tape.variable(TrackedTensor::scalar(3.0));
        let add = tape.register_hook(&x, |ct| Ok(Some((ct + 1.0)?)))?;
        tape.register_hook(&x, |ct| Ok(Some(scale(ct, 10.0)?)))?;
        let y = (&x * 2.0)?;
        assert_eq!(number(&tape.derivative(&y, &x)?)?, 30.0);
        assert!(tape.remove_hook(add) && !tape.remove_hook(add));
        assert_eq!(number(&tape.derivative(&y, &x)?)?, 20.0);
        Ok(())
    }

    #[test]
    fn a_hook_is_differentiated_again() -> Result<()> {
        let tape = GradientTape::new().persistent();
        let x = tape.variable(TrackedTensor::scalar(3.0));
        let y = (&x * &x)?;
        let held = x.clone();
        tape.register_hook(&y, move |ct| Ok(Some((ct * &held)?)))?;
        let dy = tape.derivative(&y, &x)?; // x · 2x
        assert_eq!(number(&tape.derivative(&dy, &x)?)?, 12.0);
        Ok(())
    }

    #[test]
    fn what_a_hook_returns_must_fit() -> Result<()> {
        let tape = GradientTape::new();
        let x = tape.variable(TrackedTensor::scalar(3.0));
        tape.register_hook(&x, |ct| Ok(Some(broadcast_to(ct, &Shape::new(&[2]))?)))?;
        let found = tape.derivative(&(&x * 2.0)?, &x);
        assert!(matches!(found, Err(Error::Mismatch { what: "what a hook returned", .. })));
        assert!(matches!(tape.retain_grad(&x), Err(Error::SpentTape { .. })));
        let other = GradientTape::new();
        assert!(matches!(other.register_hook(&x, |_| Ok(None)), Err(Error::ForeignTape { .. })));
        Ok(())
    }

    #[test]
    fn a_gradient_is_retained_until_the_next_sweep() -> Result<()> {
        let tape = GradientTape::new().persistent();
        let x = tape.variable(TrackedTensor::scalar(3.0));
        let (y, other) = ((&x * 5.0)?, (&x * 7.0)?);
        tape.retain_grad(&y)?;
        assert!(tape.retained_grad(&y).is_none());
        let _ = tape.derivative(&(&y * 2.0)?, &x)?;
        assert_eq!(tape.retained_grad(&y).map(|g| number(&g)).transpose()?, Some(2.0));
        let _ = tape.derivative(&other, &x)?;
        assert!(tape.retained_grad(&y).is_none(), "the last sweep did not come by it");
        Ok(())
    }

    #[test]
    fn taps_come_in_the_order_of_recording_and_unreached_ones_are_zero() -> Result<()> {
        let tape = GradientTape::new();
        let x = tape.variable(TrackedTensor::scalar(3.0));
        let mut y = x.clone();
        for _ in 0..2 {
            y = tap("layer", &(&y * 2.0)?)?;
        }
        let _aside = tap("aside", &(&x * 9.0)?)?;
        let (grads, named) = tape.gradient_and_taps(&y, &[])?;
        assert!(grads.is_empty());
        let found: Vec<_> = named.iter().map(|(n, g)| Ok((n.as_str(), number(g)?))).collect::<Result<_>>()?;
        assert_eq!(found, [("layer", 2.0), ("layer", 1.0), ("aside", 0.0)]);
        Ok(())
    }
}
