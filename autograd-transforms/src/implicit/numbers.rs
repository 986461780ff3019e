//! Values as lists of f64 and back, for the solvers' own arithmetic, and views as values.

use autograd_core::algebra::cast;
use autograd_core::kernels::{Kind, copy};
use autograd_core::smallvec::SmallVec;
use autograd_core::{DType, Error, Meta, Result, SliceMut, TrackedTensor, View};

/// The elements as f64.
pub(super) fn numbers(x: &TrackedTensor) -> Result<Vec<f64>> {
    cast(x, DType::F64)?.to_flat::<f64>()
}

/// A value of the given shape and type.
pub(super) fn value(numbers: Vec<f64>, meta: &Meta) -> Result<TrackedTensor> {
    cast(&TrackedTensor::from_vec(numbers, meta.shape.dims())?, meta.dtype)
}

/// ‖x‖.
pub(super) fn norm(x: &[f64]) -> f64 {
    // Scaled, so that large numbers do not overflow.
    let largest = x.iter().fold(0.0f64, |a, b| a.max(b.abs()));
    if largest == 0.0 || !largest.is_finite() || x.iter().any(|x| x.is_nan()) {
        return if x.iter().any(|x| x.is_nan()) { f64::NAN } else { largest };
    }
    largest * x.iter().map(|x| (x / largest).powi(2)).sum::<f64>().sqrt()
}

/// The inputs of a kernel as values of their own.
pub(super) fn values(op: &'static str, views: &[View<'_>]) -> Result<SmallVec<[TrackedTensor; 4]>> {
    macro_rules! owned {
        ($view:expr, $($kind:ident $ty:ty),*) => {
            match $view.kind() {
                $(Kind::$kind => {
                    let mut data: Vec<$ty> = vec![Default::default(); $view.layout.elements()];
                    copy::copy(*$view, SliceMut::$kind(&mut data));
                    TrackedTensor::from_vec(data, $view.layout.dims())
                })*
                Kind::BF16 => Err(Error::dtype(op, DType::BF16, "solve in f32 or f64")),
                Kind::F16 => Err(Error::dtype(op, DType::F16, "solve in f32 or f64")),
            }
        };
    }
    views.iter().map(|view| owned!(view, F64 f64, F32 f32, U8 u8, U32 u32, I64 i64)).collect()
}

/// Writes a value where a kernel's output goes.
pub(super) fn write(op: &'static str, x: &TrackedTensor, output: &mut SliceMut<'_>) -> Result<()> {
    match output {
        SliceMut::F64(out) => out.copy_from_slice(&x.to_flat::<f64>()?),
        SliceMut::F32(out) => out.copy_from_slice(&x.to_flat::<f32>()?),
        _ => return Err(Error::dtype(op, x.dtype(), "solve in f32 or f64")),
    }
    Ok(())
}

/// The tolerance of a solver where none is given: a few digits above rounding.
pub(super) fn default_tolerance(dtype: DType) -> f64 {
    match dtype {
        DType::F64 => 1e-13,
        _ => 1e-6,
    }
}
