//! A case whose inputs are put elsewhere: its values and gradients as on the CPU.

use super::compare::{numbers, same_shapes, within};
use super::dtypes::{BF16, F16, F32, convert};
use super::report::{Check, Failure, Stop};
use super::subject::Subject;
use super::{Modes, is_gap};
use crate::registry::{Case, Op};
use autograd_core::{Result, TrackedTensor, algebra, is_float};
use candle_core::DType;

/// A value on another device, the same numbers.
pub type Place<'a> = dyn Fn(&TrackedTensor) -> Result<TrackedTensor> + 'a;

/// Rounding of f64 sums in another order, through functions to a few units.
const F64_TOLERANCE: f64 = 1e-9;

/// How many units of rounding the two may be apart in a smaller type, relative to the largest number
/// (or to 1): each rounds its intermediate results where its kernels begin and end.
const UNITS: f64 = 32.0;

/// Values and gradients of a case in one float type.
fn results(subject: &Subject<'_>, inputs: &[TrackedTensor], place: &Place<'_>) -> Result<Vec<TrackedTensor>> {
    let inputs: Vec<TrackedTensor> = inputs.iter().map(place).collect::<Result<_>>()?;
    let outputs = (subject.case.run)(&inputs)?;
    if !subject.is_differentiable() {
        return Ok(outputs);
    }
    let floats = outputs.iter().filter(|y| is_float(y.dtype()));
    let cotangents: Vec<TrackedTensor> = subject
        .cotangents()?
        .iter()
        .zip(floats)
        .map(|(u, y)| place(&algebra::cast(u, y.dtype())?))
        .collect::<Result<_>>()?;
    let primals: Vec<TrackedTensor> = subject.floats.iter().map(|&i| inputs[i].clone()).collect();
    let f = |x: &[TrackedTensor]| subject.call(&inputs, x);
    let (_, gradients) = subject.modes.vjp(&f, &primals, &cotangents)?;
    Ok(outputs.into_iter().chain(gradients).collect())
}

/// Compares a case where `place` puts its inputs with the same case on the CPU, in a float type:
/// values, and gradients by reverse mode. `Ok(false)`: the CPU has neither in this type.
///
/// # Errors
/// Numbers, shapes or devices that differ, and what the device reports.
pub fn check_placed(
    op: &Op,
    case: &Case,
    modes: &dyn Modes,
    place: &Place<'_>,
    dtype: DType,
) -> std::result::Result<bool, Box<Failure>> {
    let check = match dtype {
        DType::F32 => Check::F32,
        DType::BF16 => Check::BF16,
        DType::F16 => Check::F16,
        _ => Check::Reverse,
    };
    let failure = |stop| Box::new(Failure::new(op.name, case, check, stop));
    let subject = Subject::new(op.name, case, modes).map_err(failure)?;
    let inputs = convert(&subject.inputs, dtype).map_err(|error| failure(error.into()))?;
    let here = match results(&subject, &inputs, &|x| Ok(x.clone())) {
        Ok(here) => here,
        Err(error) if is_gap(check, &error) => return Ok(false),
        Err(error) => return Err(failure(error.into())),
    };
    let compare = || -> std::result::Result<(), Stop> {
        let there = results(&subject, &inputs, place)?;
        same_shapes("result", &there, &here)?;
        for (i, (there, here)) in there.iter().zip(&here).enumerate() {
            let role = format!("result {i}");
            if there.dtype() != here.dtype() {
                return Err(Stop::broken(&role, format!("has type {:?}", there.dtype())));
            }
            let tolerance = match here.dtype() {
                DType::F32 => UNITS * F32,
                DType::BF16 => UNITS * BF16,
                DType::F16 => UNITS * F16,
                _ if dtype == DType::F64 => F64_TOLERANCE,
                _ => UNITS * F32,
            };
            let (got, want) = (numbers(there)?, numbers(here)?);
            let scale = want.iter().filter(|x| x.is_finite()).fold(1.0f64, |m, x| m.max(x.abs()));
            // Not a number on both sides is the same.
            let (got, want): (Vec<f64>, Vec<f64>) =
                got.iter().zip(&want).filter(|(a, b)| !(a.is_nan() && b.is_nan())).unzip();
            within(&role, &got, &want, tolerance * scale)?;
        }
        Ok(())
    };
    compare().map(|()| true).map_err(failure)
}
