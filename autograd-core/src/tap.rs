//! Taps: names for intermediate values, for whoever looks at them from outside.

use crate::apply::{apply_one, watcher};
use crate::error::Result;
use crate::mask::Mask;
use crate::meta::Meta;
use crate::primitive::{Prim, Primitive, Signature};
use crate::rule::{Grads, Rule, Saved, Transpose};
use crate::saved::{Parameter, SavedOp};
use crate::tracer::Values;
use crate::value::TrackedTensor;
use autograd_kernels::{Layout, SliceMut, View, copy};
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

/// What looks at tapped values.
type Handler = dyn Fn(&str, &TrackedTensor) -> Result<Option<TrackedTensor>>;

thread_local! {
    /// The handlers of this thread, the innermost last.
    static HANDLERS: RefCell<Vec<Rc<Handler>>> = const { RefCell::new(Vec::new()) };
}

/// Gives `x` a name and returns it: the place where layer attribution, hooks, statistics and
/// checkpoint policies find an intermediate value.
///
/// The value is unchanged unless a handler of [`with_taps`] replaces it. Where a transform watches
/// `x`, an identity whose [`label`](Primitive::label) is the name is recorded; otherwise a tap
/// costs a look at a thread's list of handlers.
///
/// # Errors
/// What a handler reports.
///
/// ```
/// use autograd_core::{Result, TrackedTensor, tap, with_taps};
/// use std::{cell::RefCell, rc::Rc};
///
/// fn model(x: &TrackedTensor) -> Result<TrackedTensor> {
///     let hidden = tap("hidden", &(x * 2.0)?)?;
///     &hidden + 1.0
/// }
///
/// fn main() -> Result<()> {
///     let seen = Rc::new(RefCell::new(Vec::new()));
///     let notes = seen.clone();
///     let look = move |name: &str, value: &TrackedTensor| {
///         notes.borrow_mut().push((name.to_string(), value.clone()));
///         Ok(None) // unchanged
///     };
///     let y = with_taps(look, || model(&TrackedTensor::scalar(3.0)))?;
///     assert_eq!(y.to_scalar::<f64>()?, 7.0);
///     let seen = seen.borrow();
///     assert_eq!(seen[0].0, "hidden");
///     assert_eq!(seen[0].1.to_scalar::<f64>()?, 6.0);
///     Ok(())
/// }
/// ```
#[track_caller]
pub fn tap(name: &str, x: &TrackedTensor) -> Result<TrackedTensor> {
    let depth = HANDLERS.with_borrow(Vec::len);
    let mut value = x.clone();
    for at in (0..depth).rev() {
        // A handler that taps values itself is heard by the handlers outside of it.
        let hidden = HANDLERS.with_borrow_mut(|handlers| handlers.split_off(at));
        let _restore = Restore { depth: at, handlers: hidden };
        if let Some(handler) = _restore.handlers.first()
            && let Some(other) = handler(name, &value)?
        {
            value = other;
        }
    }
    if watcher(&value).is_some() { apply_one(&Named(name.into()), &[&value]) } else { Ok(value) }
}

/// Runs `f` while `handler` sees every value that is tapped on this thread, and may replace it by
/// returning another one. Handlers nest: the inner one is asked first.
pub fn with_taps<R>(
    handler: impl Fn(&str, &TrackedTensor) -> Result<Option<TrackedTensor>> + 'static,
    f: impl FnOnce() -> R,
) -> R {
    let depth = HANDLERS.with_borrow_mut(|handlers| {
        handlers.push(Rc::new(handler));
        handlers.len() - 1
    });
    let _restore = Restore { depth, handlers: Vec::new() };
    f()
}

/// Puts the handlers back as they were, whichever way the scope is left.
struct Restore {
    depth: usize,
    handlers: Vec<Rc<Handler>>,
}

impl Drop for Restore {
    fn drop(&mut self) {
        let gone = HANDLERS.with_borrow_mut(|handlers| {
            let gone = handlers.split_off(self.depth);
            handlers.append(&mut self.handlers);
            gone
        });
        drop(gone);
    }
}

/// The identity with a name.
#[derive(Clone, Debug)]
struct Named(Arc<str>);

impl Primitive for Named {
    fn name(&self) -> &'static str {
        "tap"
    }
    fn label(&self) -> Option<&str> {
        Some(&self.0)
    }
    fn keep(&self) -> Prim {
        Prim::Shared(Arc::new(self.clone()))
    }
    fn saved(&self) -> Option<SavedOp> {
        Some(SavedOp::new(TAG, vec![Parameter::Text(self.0.to_string())]))
    }
    fn infer(&self, inputs: &[Meta]) -> Result<Signature> {
        Ok(Signature::one(inputs[0]))
    }
    fn view(&self, _: &Meta, inputs: &[&Layout]) -> Option<(usize, Layout)> {
        Some((0, *inputs[0]))
    }
    fn eval_into(&self, inputs: &[View<'_>], outputs: &mut [SliceMut<'_>]) -> Result<()> {
        copy::copy(inputs[0], outputs[0].reborrow());
        Ok(())
    }
    fn rule(&self) -> Rule<'_> {
        Rule::Linear(Mask::one(0), self)
    }
    fn batch(&self, _: Mask, inputs: &[&TrackedTensor], _: usize) -> Result<Option<Values>> {
        Ok(Some(smallvec::smallvec![apply_one(self, inputs)?]))
    }
}

/// The tag of a stored tap.
const TAG: &str = "tap";

/// The tap that a tag and parameters describe.
pub(crate) fn rebuild(tag: &str, parameters: &[Parameter]) -> Option<Prim> {
    match parameters {
        [Parameter::Text(name)] if tag == TAG => Some(Named(name.as_str().into()).keep()),
        _ => None,
    }
}

impl Transpose for Named {
    fn transpose(&self, _: Mask, cts: &[Option<TrackedTensor>], _: &Saved<'_>) -> Result<Grads> {
        Ok(smallvec::smallvec![cts[0].clone()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_inner_handler_is_asked_first_and_both_may_replace() -> Result<()> {
        let outer = |_: &str, x: &TrackedTensor| Ok(Some((x * 10.0)?));
        let inner = |_: &str, x: &TrackedTensor| Ok(Some((x + 1.0)?));
        let y = with_taps(outer, || with_taps(inner, || tap("x", &TrackedTensor::scalar(2.0))))?;
        assert_eq!(y.to_scalar::<f64>()?, 30.0);
        // Both are gone.
        assert_eq!(tap("x", &TrackedTensor::scalar(2.0))?.to_scalar::<f64>()?, 2.0);
        Ok(())
    }

    #[test]
    fn a_handler_that_taps_does_not_hear_itself() -> Result<()> {
        let handler = |_: &str, x: &TrackedTensor| Ok(Some(tap("again", &(x + 1.0)?)?));
        let y = with_taps(handler, || tap("x", &TrackedTensor::scalar(2.0)))?;
        assert_eq!(y.to_scalar::<f64>()?, 3.0);
        Ok(())
    }

    #[test]
    fn handlers_are_put_back_after_an_error_and_after_a_panic() {
        let refuse = |_: &str, _: &TrackedTensor| Err(crate::Error::msg("no"));
        assert!(with_taps(refuse, || tap("x", &TrackedTensor::scalar(2.0))).is_err());
        let panicking = std::panic::catch_unwind(|| with_taps(|_, _| Ok(None), || panic!("out")));
        assert!(panicking.is_err());
        assert_eq!(HANDLERS.with_borrow(Vec::len), 0);
    }
}
