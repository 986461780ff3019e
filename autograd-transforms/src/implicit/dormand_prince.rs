//! The Dormand–Prince pair of orders 5 and 4: one step on values, and the choice of steps on
//! numbers.

use super::numbers::numbers;
use autograd_core::algebra::zeros_like;
use autograd_core::kernels::expr::Binary;
use autograd_core::smallvec::SmallVec;
use autograd_core::{Definition, Error, Pointwise, Result, ScalarExpr, TrackedTensor, apply_one};
use std::sync::LazyLock;

/// When each stage looks, as a part of the step.
const NODES: [f64; 7] = [0.0, 1. / 5., 3. / 10., 4. / 5., 8. / 9., 1.0, 1.0];

/// The weights of earlier stages (Dormand and Prince 1980; Hairer, Nørsett and Wanner, table II.5.2).
/// The last row is the solution of order 5.
const STAGES: [&[f64]; 7] = [
    &[],
    &[1. / 5.],
    &[3. / 40., 9. / 40.],
    &[44. / 45., -56. / 15., 32. / 9.],
    &[19372. / 6561., -25360. / 2187., 64448. / 6561., -212. / 729.],
    &[9017. / 3168., -355. / 33., 46732. / 5247., 49. / 176., -5103. / 18656.],
    &[35. / 384., 0.0, 500. / 1113., 125. / 192., -2187. / 6784., 11. / 84.],
];

/// The difference of the solutions of orders 5 and 4.
const ERROR: [f64; 7] =
    [71. / 57600., 0.0, -71. / 16695., 71. / 1920., -17253. / 339200., 22. / 525., -1. / 40.];

/// y + Σ pᵢ·kᵢ for 1 to 7 stages, as one expression each.
static COMBINATIONS: LazyLock<Vec<Definition>> = LazyLock::new(|| {
    let combination = |stages: usize| {
        Definition::new(
            "ode_stage",
            ScalarExpr::build(1 + stages, stages, |b, x, p| {
                (0..stages).fold(x[0], |sum, i| {
                    let part = b.binary(Binary::Mul, p[i], x[1 + i]);
                    b.binary(Binary::Add, sum, part)
                })
            }),
        )
    };
    (1..=NODES.len()).map(combination).collect()
});

/// y + h·Σ weights·stages, without the stages of weight 0.
fn combine(y: &TrackedTensor, h: f64, weights: &[f64], stages: &[TrackedTensor]) -> Result<TrackedTensor> {
    let used = || weights.iter().zip(stages).filter(|(weight, _)| **weight != 0.0);
    let params: SmallVec<[f64; 8]> = used().map(|(weight, _)| h * weight).collect();
    if params.is_empty() {
        return Ok(y.clone());
    }
    let inputs: SmallVec<[&TrackedTensor; 8]> = std::iter::once(y).chain(used().map(|(_, k)| k)).collect();
    apply_one(&Pointwise::with(&COMBINATIONS[params.len() - 1], &params), &inputs)
}

/// A function f(t, y).
pub(super) type Field<'a> = dyn Fn(f64, &TrackedTensor) -> Result<TrackedTensor> + 'a;

/// One step from (t, y): y at t + h.
pub(super) fn step(f: &Field<'_>, t: f64, h: f64, y: &TrackedTensor) -> Result<TrackedTensor> {
    Ok(stages(f, t, h, y, None)?.0)
}

/// y at t + h by order 5, and all seven stages; the first is known where the step before ended.
fn stages(
    f: &Field<'_>,
    t: f64,
    h: f64,
    y: &TrackedTensor,
    first: Option<TrackedTensor>,
) -> Result<(TrackedTensor, Vec<TrackedTensor>)> {
    let mut made = Vec::with_capacity(NODES.len());
    made.push(match first {
        Some(first) => first,
        None => f(t, y)?,
    });
    for i in 1..NODES.len() - 1 {
        let at = combine(y, h, STAGES[i], &made)?;
        made.push(f(t + NODES[i] * h, &at)?);
    }
    let end = combine(y, h, STAGES[NODES.len() - 1], &made)?;
    Ok((end, made))
}

/// How exact an integration is, and how long it may take.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Accuracy {
    pub(super) relative: f64,
    pub(super) absolute: f64,
    pub(super) most_steps: usize,
}

/// What was chosen on the way from t0 to t1.
pub(super) struct Path {
    /// Where each accepted step starts, and its length.
    pub(super) steps: Vec<(f64, f64)>,
    pub(super) end: TrackedTensor,
}

/// The root mean square of x over the allowed errors.
fn scaled(x: &[f64], y: &[f64], z: &[f64], accuracy: &Accuracy) -> f64 {
    let part = |((x, y), z): ((&f64, &f64), &f64)| {
        (x / (accuracy.absolute + accuracy.relative * y.abs().max(z.abs()))).powi(2)
    };
    let sum: f64 = x.iter().zip(y).zip(z).map(part).sum();
    (sum / x.len().max(1) as f64).sqrt()
}

/// Integrates plain values from t0 to t1 with steps that keep the estimated error of each within
/// the accuracy (a proportional–integral controller; Hairer, Nørsett and Wanner, section II.4, and
/// Hairer and Wanner, section IV.2).
pub(super) fn integrate(
    op: &'static str,
    f: &Field<'_>,
    y: &TrackedTensor,
    (t0, t1): (f64, f64),
    accuracy: &Accuracy,
) -> Result<Path> {
    const SAFETY: f64 = 0.9;
    const SHRINK: f64 = 0.2;
    const GROW: f64 = 10.0;
    let mut path = Path { steps: Vec::new(), end: y.clone() };
    if t0 == t1 || y.elem_count() == 0 {
        return Ok(path);
    }
    let direction = (t1 - t0).signum();
    let mut t = t0;
    let mut first = f(t0, y)?;
    let mut h = first_step(f, y, &first, (t0, t1), accuracy)?;
    let mut before: f64 = 1e-4;
    for _ in 0..accuracy.most_steps {
        let last = h.abs() >= (t1 - t).abs() * (1.0 - 1e-12);
        if last {
            h = t1 - t;
        }
        let (end, mut made) = stages(f, t, h, &path.end, Some(first.clone()))?;
        let next = f(t + h, &end)?;
        made.push(next);
        let (from, to) = (numbers(&path.end)?, numbers(&end)?);
        // Summed from zero: next to y the small difference would lose its digits.
        let errors = numbers(&combine(&zeros_like(&end)?, h, &ERROR, &made)?)?;
        let size = scaled(&errors, &from, &to, accuracy);
        if size <= 1.0 {
            path.steps.push((t, h));
            path.end = end;
            if last {
                return Ok(path);
            }
            t += h;
            first = made.pop().ok_or_else(|| Error::internal(op, "a step without stages"))?;
            let factor = SAFETY * size.max(1e-10).powf(-0.7 / 5.0) * before.powf(0.4 / 5.0);
            before = size.max(1e-4);
            h *= factor.clamp(SHRINK, GROW);
        } else {
            // A field that is not finite shrinks the step too.
            let factor = if size.is_finite() { SAFETY * size.powf(-1.0 / 5.0) } else { SHRINK };
            h *= factor.clamp(SHRINK, 1.0);
        }
        if h.abs() <= 16.0 * f64::EPSILON * t.abs().max(t1.abs()) || h * direction <= 0.0 || h.is_nan() {
            let reason = format!(
                "the step at t = {t} became {h:e}: the solution may end here, or the field is not finite"
            );
            return Err(Error::argument(op, reason));
        }
    }
    let reason = format!(
        "t = {t} was reached in {} steps, not {t1}; allow more, or less accuracy",
        accuracy.most_steps
    );
    Err(Error::argument(op, reason))
}

/// A first step from the field's size and its change (Hairer, Nørsett and Wanner, section II.4).
fn first_step(
    f: &Field<'_>,
    y: &TrackedTensor,
    slope: &TrackedTensor,
    (t0, t1): (f64, f64),
    accuracy: &Accuracy,
) -> Result<f64> {
    let (here, down) = (numbers(y)?, numbers(slope)?);
    let (size, speed) = (scaled(&here, &here, &here, accuracy), scaled(&down, &here, &here, accuracy));
    let small = size < 1e-5 || speed < 1e-5 || !speed.is_finite();
    let guess = if small { 1e-6 } else { 0.01 * size / speed };
    let guess = guess.min((t1 - t0).abs()).copysign(t1 - t0);
    let near = combine(y, guess, &[1.0], std::slice::from_ref(slope))?;
    let turned: Vec<f64> = numbers(&f(t0 + guess, &near)?)?.iter().zip(&down).map(|(a, b)| a - b).collect();
    let change = scaled(&turned, &here, &here, accuracy) / guess.abs();
    let largest = speed.max(change);
    let step = if largest <= 1e-15 || !largest.is_finite() {
        (guess.abs() * 1e-3).max(1e-6)
    } else {
        (0.01 / largest).powf(1.0 / 5.0)
    };
    Ok(step.min(100.0 * guess.abs()).min((t1 - t0).abs()).copysign(t1 - t0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_meets_the_order_conditions() {
        /// Fractions rounded once.
        const ROUNDING: f64 = 1e-15;
        for (node, row) in NODES.iter().zip(STAGES) {
            assert!((row.iter().sum::<f64>() - node).abs() < 4.0 * ROUNDING, "{row:?} sums to {node}");
        }
        let weights = STAGES[6];
        for power in 0..5 {
            let sum: f64 = weights.iter().zip(NODES).map(|(b, c)| b * c.powi(power)).sum();
            assert!((sum - 1.0 / f64::from(power + 1)).abs() < 4.0 * ROUNDING, "∑ b·c^{power} = {sum}");
        }
        assert!(ERROR.iter().sum::<f64>().abs() < ROUNDING);
    }

    #[test]
    fn halving_a_step_divides_its_error_by_64() -> Result<()> {
        let f = |t: f64, y: &TrackedTensor| (y * y)? * t.cos();
        let exact = |t: f64| 1.0 / (2.0 - t.sin());
        let error = |h: f64| -> Result<f64> {
            let y = TrackedTensor::scalar(exact(1.0));
            Ok((step(&f, 1.0, h, &y)?.to_scalar::<f64>()? - exact(1.0 + h)).abs())
        };
        let ratio = error(0.05)? / error(0.025)?;
        assert!((50.0..80.0).contains(&ratio), "{ratio}");
        Ok(())
    }
}
