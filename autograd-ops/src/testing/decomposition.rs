//! A kernel computes what the op's decomposition says.

use super::Outcome;
use super::compare::all_close;
use super::observe::{Observer, Watch};
use super::report::Stop;
use super::subject::Subject;
use autograd_core::{Call, Error, Result, TrackedTensor, Values, on_behalf_of};
use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A decomposition adds up in another order than a kernel, and may lose a few digits that the
/// kernel saves.
const DECOMPOSED: f64 = 1e-10;

/// A decomposition in terms of itself would never end.
const DEEPEST: usize = 32;

thread_local! {
    static DEPTH: Cell<usize> = const { Cell::new(0) };
}

/// Replaces every op that has a decomposition by it.
#[derive(Debug, Default)]
struct Decomposing {
    replaced: AtomicUsize,
}

impl Observer for Decomposing {
    fn replace(&self, call: &Call<'_>) -> Result<Option<Values>> {
        struct Restore(usize);
        impl Drop for Restore {
            fn drop(&mut self) {
                DEPTH.set(self.0);
            }
        }
        let depth = DEPTH.get();
        if depth > DEEPEST {
            return Err(Error::internal(call.op.name(), "its decomposition does not end"));
        }
        let _restore = Restore(DEPTH.replace(depth + 1));
        let parts = on_behalf_of(call.site, || call.op.decompose(call.inputs))?;
        if parts.is_some() {
            self.replaced.fetch_add(1, Ordering::Relaxed);
        }
        Ok(parts)
    }
}

/// With every op decomposed, values are the same; so are gradients with the ops of the backward
/// pass decomposed, and gradients taken through the decomposition.
pub(crate) fn equals_kernel(subject: &Subject<'_>) -> Result<Outcome, Stop> {
    let decomposing = Arc::new(Decomposing::default());
    let decomposed = |inputs: &[TrackedTensor]| -> Result<Vec<TrackedTensor>> {
        let watch = Watch::new(decomposing.clone());
        Ok(watch.below(&(subject.case.run)(&watch.over(inputs))?))
    };
    all_close("output of the decomposition,", &decomposed(&subject.inputs)?, &subject.outputs, DECOMPOSED)?;
    if subject.is_differentiable() {
        let (x, u) = (subject.primals(), subject.cotangents()?);
        let f = |x: &[TrackedTensor]| subject.f(x);
        let want = subject.modes.vjp(&f, &x, &u)?.1;
        let watch = Watch::new(decomposing.clone());
        let got = watch.below(&subject.modes.vjp(&f, &watch.over(&x), &watch.over(&u))?.1);
        all_close("gradient by decomposed rules, input", &got, &want, DECOMPOSED)?;
        let through = |x: &[TrackedTensor]| -> Result<Vec<TrackedTensor>> {
            let watch = Watch::new(decomposing.clone());
            Ok(watch.below(&subject.f(&watch.over(x))?))
        };
        let got = subject.modes.vjp(&through, &x, &u)?.1;
        all_close("gradient through the decomposition, input", &got, &want, DECOMPOSED)?;
    }
    let replaced = decomposing.replaced.load(Ordering::Relaxed);
    Ok(if replaced > 0 { Outcome::Checked } else { Outcome::NothingToCheck })
}
