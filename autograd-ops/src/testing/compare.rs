//! Comparison of numbers.

use super::report::{Reason, Stop};
use autograd_core::{Result, TrackedTensor, algebra};
use candle_core::DType;

/// All numbers in row-major order, as f64.
pub(crate) fn numbers(x: &TrackedTensor) -> Result<Vec<f64>> {
    algebra::cast(&x.detach()?, DType::F64)?.to_flat()
}

/// ⟨a, b⟩ over lists of values.
pub(crate) fn inner(a: &[TrackedTensor], b: &[TrackedTensor]) -> Result<f64> {
    let mut sum = 0.0;
    for (a, b) in a.iter().zip(b) {
        sum += numbers(a)?.iter().zip(numbers(b)?).map(|(a, b)| a * b).sum::<f64>();
    }
    Ok(sum)
}

/// ‖a‖ over a list of values.
pub(crate) fn norm(a: &[TrackedTensor]) -> Result<f64> {
    Ok(inner(a, a)?.sqrt())
}

/// Passes where |got − want| ≤ tolerance · max(1, ‖want‖∞) for each element. NaN never passes.
pub(crate) fn close(place: &str, got: &[f64], want: &[f64], tolerance: f64) -> Result<(), Stop> {
    let scale = want.iter().fold(1.0f64, |m, w| m.max(w.abs()));
    within(place, got, want, tolerance * scale)
}

/// Passes where |got − want| ≤ tolerance for each element. NaN never passes.
pub(crate) fn within(place: &str, got: &[f64], want: &[f64], tolerance: f64) -> Result<(), Stop> {
    if got.len() != want.len() {
        return Err(Stop::broken(place, format!("has {} elements, not {}", got.len(), want.len())));
    }
    let wrong = |(_, (got, want)): &(usize, (&f64, &f64))| {
        let near = (*got - *want).abs() <= tolerance;
        *got != *want && !near
    };
    match got.iter().zip(want).enumerate().find(wrong) {
        Some((index, (&got, &want))) => {
            Err(Stop::Wrong(place.to_owned(), Reason::Differs { index, got, want, tolerance }))
        }
        None => Ok(()),
    }
}

/// Compares lists of values, shapes first; `role` names an element of the list.
pub(crate) fn all_close(
    role: &str,
    got: &[TrackedTensor],
    want: &[TrackedTensor],
    tolerance: f64,
) -> Result<(), Stop> {
    same_shapes(role, got, want)?;
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        close(&format!("{role} {i}"), &numbers(got)?, &numbers(want)?, tolerance)?;
    }
    Ok(())
}

/// Passes where two lists of values have the same shapes.
pub(crate) fn same_shapes(role: &str, got: &[TrackedTensor], want: &[TrackedTensor]) -> Result<(), Stop> {
    if got.len() != want.len() {
        return Err(Stop::broken(
            &format!("list of {role}s"),
            format!("has {}, not {}", got.len(), want.len()),
        ));
    }
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        if got.shape() != want.shape() {
            let reason = Reason::Shape { got: Box::new(*got.shape()), want: Box::new(*want.shape()) };
            return Err(Stop::Wrong(format!("{role} {i}"), reason));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nan_never_passes() {
        assert!(within("x", &[f64::NAN], &[f64::NAN], 1.0).is_err());
        assert!(within("x", &[0.0], &[f64::NAN], f64::INFINITY).is_err());
        assert!(within("x", &[f64::INFINITY], &[f64::INFINITY], 0.0).is_ok());
        assert!(within("x", &[1.0], &[], 1.0).is_err());
    }
}
