//! Smaller float types give what f64 gives, to their own precision.

use super::Outcome;
use super::compare::{close, numbers};
use super::report::Stop;
use super::subject::Subject;
use autograd_core::{Result, TrackedTensor, algebra, is_float};
use candle_core::DType;

/// How many units of rounding an op and its reverse rule may lose, relative to the largest result
/// (or to 1): inputs are rounded before the comparison, intermediate results are not.
const UNITS: f64 = 16.0;

/// The unit of rounding of f32: half the last place of 1.
pub(crate) const F32: f64 = 1.0 / (1u64 << 24) as f64;
/// The unit of rounding of bf16.
pub(crate) const BF16: f64 = 1.0 / (1u64 << 8) as f64;
/// The unit of rounding of f16.
pub(crate) const F16: f64 = 1.0 / (1u64 << 11) as f64;

/// Values and gradients in a float type are near those in f64 of the same (rounded) numbers.
pub(crate) fn near_f64(subject: &Subject<'_>, dtype: DType, unit: f64) -> Result<Outcome, Stop> {
    if subject.floats.is_empty() {
        return Ok(Outcome::NothingToCheck);
    }
    let tolerance = UNITS * unit;
    let small = convert(&subject.inputs, dtype)?;
    let exact = convert(&small, DType::F64)?;
    let (got, want) = ((subject.case.run)(&small)?, (subject.case.run)(&exact)?);
    for (j, (got, want)) in got.iter().zip(&want).enumerate() {
        // f64 out of a smaller type is what the op was asked for (a conversion).
        let expected = want.dtype() == got.dtype() || (want.dtype() == DType::F64 && got.dtype() == dtype);
        if !expected {
            let words = format!("has type {:?}, for inputs of {dtype:?}", got.dtype());
            return Err(Stop::broken(&format!("output {j}"), words));
        }
        close(&format!("output {j}"), &numbers(got)?, &numbers(want)?, tolerance)?;
    }
    if !subject.is_differentiable() {
        return Ok(Outcome::Checked);
    }
    let floats = |values: &[TrackedTensor]| -> Vec<TrackedTensor> {
        subject.floats.iter().map(|&i| values[i].clone()).collect()
    };
    let outputs = got.iter().filter(|y| is_float(y.dtype()));
    let u: Vec<TrackedTensor> = subject
        .cotangents()?
        .iter()
        .zip(outputs)
        .map(|(u, y)| algebra::cast(u, y.dtype()))
        .collect::<Result<_>>()?;
    let wide: Vec<TrackedTensor> = u
        .iter()
        .zip(want.iter().filter(|y| is_float(y.dtype())))
        .map(|(u, y)| algebra::cast(u, y.dtype()))
        .collect::<Result<_>>()?;
    let vjp = |inputs: &[TrackedTensor], u: &[TrackedTensor]| {
        let f = |x: &[TrackedTensor]| subject.call(inputs, x);
        Ok::<_, Stop>(subject.modes.vjp(&f, &floats(inputs), u)?.1)
    };
    for (i, (got, want)) in vjp(&small, &u)?.iter().zip(vjp(&exact, &wide)?).enumerate() {
        let place = format!("gradient of input {i}");
        if got.dtype() != dtype {
            return Err(Stop::broken(&place, format!("has type {:?}, not {dtype:?}", got.dtype())));
        }
        close(&place, &numbers(got)?, &numbers(&want)?, tolerance)?;
    }
    Ok(Outcome::Checked)
}

pub(crate) fn convert(values: &[TrackedTensor], dtype: DType) -> Result<Vec<TrackedTensor>> {
    let one = |x: &TrackedTensor| if is_float(x.dtype()) { algebra::cast(x, dtype) } else { Ok(x.clone()) };
    values.iter().map(one).collect()
}
