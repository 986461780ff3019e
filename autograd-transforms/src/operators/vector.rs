//! Vectors that iterations work on: numbers that nobody watches.

use super::LinearOperator;
use autograd_core::algebra::{add, scale};
use autograd_core::{Error, Meta, Result, Shape, Site, TrackedTensor, watcher};
use autograd_ops::TensorAutograd;
use candle_core::{DType, DeviceLocation};

/// A vector of the length and type that an operator takes, with a typed error where it is not.
#[track_caller]
pub(crate) fn checked(what: &'static str, x: &TrackedTensor, len: usize, dtype: DType) -> Result<()> {
    if let Some(error) = x.failure() {
        return Err(error.clone());
    }
    if x.dims() == [len] && x.dtype() == dtype {
        return Ok(());
    }
    let want = Meta { shape: Shape::new(&[len]), dtype, device: DeviceLocation::Cpu };
    Err(Error::Mismatch { what, got: Box::new(x.meta()), want: Box::new(want), at: Site::caller().into() })
}

/// A vector whose numbers an iteration may read. Steps that depend on numbers have no derivative,
/// so a value that is watched gives an error and never a wrong gradient.
pub(crate) fn unwatched(op: &'static str, x: &TrackedTensor, site: Site) -> Result<()> {
    if watcher(x).is_none() {
        return Ok(());
    }
    let reason = "its steps are chosen by numbers; use implicit::linear_solve, or detach the vector";
    Err(Error::mode(op, "differentiation", reason).or_at(site))
}

/// A square operator, with a typed error where it is not.
pub(crate) fn square(op: &'static str, a: &dyn LinearOperator, site: Site) -> Result<usize> {
    let (rows, columns) = (a.rows(), a.columns());
    if rows == columns && rows > 0 {
        return Ok(rows);
    }
    let reason = format!("the operator is {rows}×{columns}, not square and of at least one row");
    Err(Error::argument(op, reason).or_at(site))
}

/// ⟨x, y⟩.
pub(crate) fn dot(x: &TrackedTensor, y: &TrackedTensor) -> Result<f64> {
    x.dot(y)?.to_dtype(DType::F64)?.to_scalar::<f64>()
}

/// ‖x‖.
pub(crate) fn norm(x: &TrackedTensor) -> Result<f64> {
    Ok(dot(x, x)?.sqrt())
}

/// x + factor·y.
pub(crate) fn plus(x: &TrackedTensor, factor: f64, y: &TrackedTensor) -> Result<TrackedTensor> {
    add(x, &scale(y, factor)?)
}
