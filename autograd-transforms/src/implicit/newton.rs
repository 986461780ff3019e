//! Newton's method on recorded functions.

use super::krylov::{LinearSolver, solve};
use super::numbers::{default_tolerance, norm, numbers, value};
use super::record::run;
use crate::single::push_all;
use autograd_core::smallvec::SmallVec;
use autograd_core::{Error, Program, Result, TrackedTensor};

/// When and how a solver works.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SolveOptions {
    /// The last step, as a part of 1 + ‖y‖; `None`: 1e-13 for f64, 1e-6 for f32.
    pub tolerance: Option<f64>,
    /// The most steps.
    pub iterations: usize,
    /// How linear systems are solved: Newton's, and those of the derivative.
    pub linear: LinearSolver,
}

impl Default for SolveOptions {
    /// Within 1,000 steps.
    fn default() -> Self {
        Self { tolerance: None, iterations: 1000, linear: LinearSolver::Auto }
    }
}

/// A function of y with what else it reads held.
pub(super) struct At<'a> {
    pub(super) program: &'a Program,
    pub(super) read: &'a [TrackedTensor],
}

impl At<'_> {
    pub(super) fn value(&self, y: &TrackedTensor) -> Result<TrackedTensor> {
        let all: SmallVec<[&TrackedTensor; 4]> = std::iter::once(y).chain(self.read).collect();
        run(self.program, &all)
    }

    /// The step d with J(y)·d = side.
    fn step(
        &self,
        op: &'static str,
        y: &TrackedTensor,
        side: &[f64],
        options: &SolveOptions,
    ) -> Result<Vec<f64>> {
        let meta = y.meta();
        let mut along = |v: &[f64]| {
            let v = value(v.to_vec(), &meta)?;
            numbers(&push_all(|y| self.value(&y[0]), &[y], &[&v])?.1)
        };
        solve(op, &mut along, side, options.linear, default_tolerance(meta.dtype))
    }
}

fn lost(op: &'static str, iterations: usize, size: f64) -> Error {
    let reason = format!("no solution after {iterations} steps: ‖residual‖ = {size:e}; try another guess");
    Error::argument(op, reason)
}

/// y with F(y) = 0, by Newton's method with steps halved until the residual falls.
pub(super) fn root(
    op: &'static str,
    f: &At<'_>,
    guess: &TrackedTensor,
    options: &SolveOptions,
) -> Result<TrackedTensor> {
    let meta = guess.meta();
    let tolerance = options.tolerance.unwrap_or_else(|| default_tolerance(meta.dtype));
    let mut y = numbers(guess)?;
    let mut residual = numbers(&f.value(guess)?)?;
    for iteration in 0..options.iterations {
        let size = norm(&residual);
        if !size.is_finite() {
            return Err(lost(op, iteration, size));
        }
        if size == 0.0 {
            return value(y, &meta);
        }
        let here = value(y.clone(), &meta)?;
        let side: Vec<f64> = residual.iter().map(|r| -r).collect();
        let step = f.step(op, &here, &side, options)?;
        let small = norm(&step) <= tolerance * (1.0 + norm(&y));
        // Near the end rounding lets residuals rise: a small step is taken as it is.
        let mut scale = 1.0;
        loop {
            let next: Vec<f64> = y.iter().zip(&step).map(|(y, d)| y + scale * d).collect();
            let there = numbers(&f.value(&value(next.clone(), &meta)?)?)?;
            if small || norm(&there) < size {
                (y, residual) = (next, there);
                break;
            }
            scale *= 0.5;
            // A step that must be that short leads nowhere, unless only rounding is left.
            const SHORTEST: f64 = 1e-6;
            if scale < SHORTEST {
                let rounding = norm(&step) <= 1e4 * tolerance * (1.0 + norm(&y));
                return if rounding { value(y, &meta) } else { Err(lost(op, iteration, size)) };
            }
        }
        if small {
            return value(y, &meta);
        }
    }
    Err(lost(op, options.iterations, norm(&residual)))
}

/// y with f(y) = y, by iteration.
pub(super) fn fixed_point(
    op: &'static str,
    f: &At<'_>,
    guess: &TrackedTensor,
    options: &SolveOptions,
) -> Result<TrackedTensor> {
    let tolerance = options.tolerance.unwrap_or_else(|| default_tolerance(guess.dtype()));
    let mut y = guess.clone();
    let mut step = f64::INFINITY;
    for _ in 0..options.iterations {
        let next = f.value(&y)?;
        let (before, after) = (numbers(&y)?, numbers(&next)?);
        step = norm(&before.iter().zip(&after).map(|(a, b)| b - a).collect::<Vec<_>>());
        y = next;
        if step <= tolerance * (1.0 + norm(&after)) {
            return Ok(y);
        }
        if !step.is_finite() {
            break;
        }
    }
    Err(lost(op, options.iterations, step))
}

/// y that minimizes f, by Newton's method on the gradient; where its direction does not descend,
/// by the gradient's own, with steps halved until the value falls enough (Armijo).
pub(super) fn minimum(
    op: &'static str,
    f: &At<'_>,
    gradient: &At<'_>,
    guess: &TrackedTensor,
    options: &SolveOptions,
) -> Result<TrackedTensor> {
    let meta = guess.meta();
    let tolerance = options.tolerance.unwrap_or_else(|| default_tolerance(meta.dtype));
    let number = |y: &TrackedTensor| Ok::<f64, Error>(numbers(&f.value(y)?)?.iter().sum());
    let mut y = numbers(guess)?;
    let mut size = f64::INFINITY;
    for iteration in 0..options.iterations {
        let here = value(y.clone(), &meta)?;
        let slope = numbers(&gradient.value(&here)?)?;
        size = norm(&slope);
        if size == 0.0 {
            return Ok(here);
        }
        let before = number(&here)?;
        if !(size.is_finite() && before.is_finite()) {
            return Err(lost(op, iteration, size));
        }
        let down: Vec<f64> = slope.iter().map(|g| -g).collect();
        let along = |step: &[f64]| -> f64 { step.iter().zip(&slope).map(|(d, g)| d * g).sum() };
        // Where the Hessian is singular or indefinite its step is of no use.
        let newton = gradient.step(op, &here, &down, options).ok().filter(|step| along(step) < 0.0);
        let is_newton = newton.is_some();
        let step = newton.unwrap_or(down);
        if is_newton && norm(&step) <= tolerance * (1.0 + norm(&y)) {
            let next = y.iter().zip(&step).map(|(y, d)| y + d).collect();
            return value(next, &meta);
        }
        const ENOUGH: f64 = 1e-4;
        let fall = along(&step);
        let mut scale = 1.0;
        loop {
            let next: Vec<f64> = y.iter().zip(&step).map(|(y, d)| y + scale * d).collect();
            if number(&value(next.clone(), &meta)?)? <= before + ENOUGH * scale * fall {
                y = next;
                break;
            }
            scale *= 0.5;
            const SHORTEST: f64 = 1e-12;
            if scale < SHORTEST {
                // Values no longer tell better from worse; the gradient does.
                let rounding = is_newton && norm(&step) <= 1e-6 * (1.0 + norm(&y));
                let program = At { program: gradient.program, read: gradient.read };
                return if rounding {
                    root(op, &program, &here, options)
                } else {
                    Err(lost(op, iteration, size))
                };
            }
        }
    }
    Err(lost(op, options.iterations, size))
}
