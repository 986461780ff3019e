//! The transforms on functions of one value, as the rest of this crate needs them.

use crate::vmap;
use autograd_core::algebra::zeros_like;
use autograd_core::{Error, Result, Site, TrackedTensor};
use autograd_forward::jvp;
use autograd_tape::GradientTape;

/// `f` mapped over the first dimension of `xs`.
#[track_caller]
pub(crate) fn map(
    f: impl FnOnce(&TrackedTensor) -> Result<TrackedTensor>,
    xs: &TrackedTensor,
) -> Result<TrackedTensor> {
    vmap(f, xs, 0)
}

/// f(x) and J·v.
#[track_caller]
pub(crate) fn push(
    f: impl FnOnce(&TrackedTensor) -> Result<TrackedTensor>,
    x: &TrackedTensor,
    v: &TrackedTensor,
) -> Result<(TrackedTensor, TrackedTensor)> {
    jvp(f, x, v)
}

/// The gradient of a scalar function, zeros where it does not depend on its argument.
#[track_caller]
pub(crate) fn gradient(
    f: impl FnOnce(&TrackedTensor) -> Result<TrackedTensor>,
    x: &TrackedTensor,
) -> Result<TrackedTensor> {
    let site = Site::caller();
    let tape = GradientTape::new();
    let variable = tape.try_variable(x)?;
    let y = f(&variable)?;
    if y.elem_count() != 1 {
        return Err(Error::NonScalarTarget { shape: *y.shape(), at: site.into() });
    }
    if !tape.watches(&y) {
        return zeros_like(x);
    }
    tape.derivative(&y, &variable)
}

/// f(x) and J·v for several arguments.
#[track_caller]
pub(crate) fn push_all(
    f: impl FnOnce(&[TrackedTensor]) -> Result<TrackedTensor>,
    xs: &[&TrackedTensor],
    vs: &[&TrackedTensor],
) -> Result<(TrackedTensor, TrackedTensor)> {
    jvp(|x: &Vec<TrackedTensor>| f(x), xs, vs)
}
