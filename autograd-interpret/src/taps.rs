//! Functions cut at a tapped value: what comes before it, and what comes after.

use crate::copies::copies;
use crate::function::Function;
use autograd_core::{Error, Result, TrackedTensor, no_grad, with_taps};
use std::cell::RefCell;
use std::rc::Rc;

/// A name that was not tapped exactly once.
pub(crate) fn not_one(name: &str, times: usize) -> Error {
    let reason = match times {
        0 => format!("the function taps no value as {name:?}"),
        _ => format!("the function taps {times} values as {name:?}: give each its own name"),
    };
    Error::argument("layer", reason)
}

/// The value that `f` taps under a name, and the output.
pub(crate) fn tapped(
    f: &Function<'_>,
    inputs: &[TrackedTensor],
    name: &str,
) -> Result<(TrackedTensor, TrackedTensor)> {
    let found: Rc<RefCell<Vec<TrackedTensor>>> = Rc::default();
    let (wanted, keep) = (name.to_owned(), found.clone());
    let look = move |name: &str, value: &TrackedTensor| {
        if name == wanted {
            keep.borrow_mut().push(value.clone());
        }
        Ok(None)
    };
    let y = with_taps(look, || f(inputs))?;
    let mut found = found.take();
    match found.len() {
        1 => Ok((found.remove(0), y)),
        times => Err(not_one(name, times)),
    }
}

/// The tapped value alone, unrecorded.
pub(crate) fn activation(f: &Function<'_>, inputs: &[TrackedTensor], name: &str) -> Result<TrackedTensor> {
    no_grad(|| Ok(tapped(f, inputs, name)?.0))
}

/// The output of `f` at inputs, with another value in the place of a tapped one. Copies of the
/// batch in the value are met by copies of the inputs.
pub(crate) fn with_value(
    f: &Function<'_>,
    inputs: &[TrackedTensor],
    name: &str,
    value: &TrackedTensor,
    rows: Option<usize>,
) -> Result<TrackedTensor> {
    let (wanted, other) = (name.to_owned(), value.clone());
    let times: Rc<RefCell<usize>> = Rc::default();
    let count = times.clone();
    let replace = move |name: &str, _: &TrackedTensor| {
        if name != wanted {
            return Ok(None);
        }
        *count.borrow_mut() += 1;
        Ok(Some(other.clone()))
    };
    let n = match rows {
        Some(rows) if rows > 0 => value.dims().first().copied().unwrap_or(rows) / rows,
        _ => 1,
    };
    let wide: Vec<TrackedTensor> =
        if n > 1 { inputs.iter().map(|x| copies(x, n)).collect::<Result<_>>()? } else { inputs.to_vec() };
    let y = with_taps(replace, || f(&wide))?;
    let times = *times.borrow();
    if times == 1 { Ok(y) } else { Err(not_one(name, times)) }
}
