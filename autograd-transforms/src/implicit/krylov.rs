//! Linear systems by products: small ones written down and eliminated, large ones by GMRES or
//! conjugate gradients.

use super::numbers::norm;
use autograd_core::{Error, Result};

/// How linear systems are solved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum LinearSolver {
    /// [`Dense`](Self::Dense) up to 64 unknowns, [`Gmres`](Self::Gmres) above.
    #[default]
    Auto,
    /// The matrix column by column, and elimination with partial pivoting.
    Dense,
    /// Generalized minimal residuals with restarts (Saad and Schultz 1986).
    Gmres,
    /// Conjugate gradients: for symmetric positive definite operators only.
    ConjugateGradient,
}

/// Up to here a matrix is written down.
const SMALL: usize = 64;

/// Vectors of one Krylov space.
const RESTART: usize = 60;

/// The most products with the operator.
const MOST_PRODUCTS: usize = 10_000;

/// A function that gives A·x.
pub(super) type Product<'a> = dyn FnMut(&[f64]) -> Result<Vec<f64>> + 'a;

/// Solves A·x = b to a residual of `tolerance`·‖b‖.
///
/// # Errors
/// [`Error::InvalidArgument`] where A is singular, not positive definite where that was promised,
/// or the iteration does not reach the tolerance.
pub(super) fn solve(
    op: &'static str,
    apply: &mut Product<'_>,
    b: &[f64],
    solver: LinearSolver,
    tolerance: f64,
) -> Result<Vec<f64>> {
    if !norm(b).is_finite() {
        return Err(Error::argument(op, "the right-hand side of a linear system is not finite"));
    }
    match solver {
        LinearSolver::Auto if b.len() > SMALL => gmres(op, apply, b, tolerance),
        LinearSolver::Auto | LinearSolver::Dense => dense(op, apply, b),
        LinearSolver::Gmres => gmres(op, apply, b, tolerance),
        LinearSolver::ConjugateGradient => conjugate_gradient(op, apply, b, tolerance),
    }
}

fn singular(op: &'static str) -> Error {
    Error::argument(op, "the matrix of a linear system is singular: the solution is not a function here")
}

fn stuck(op: &'static str, residual: f64, products: usize) -> Error {
    let reason = format!("a linear system has a residual of {residual:e} after {products} products");
    Error::argument(op, reason)
}

fn dense(op: &'static str, apply: &mut Product<'_>, b: &[f64]) -> Result<Vec<f64>> {
    let n = b.len();
    let mut rows = vec![vec![0.0; n + 1]; n];
    for j in 0..n {
        let mut unit = vec![0.0; n];
        unit[j] = 1.0;
        for (row, value) in rows.iter_mut().zip(apply(&unit)?) {
            row[j] = value;
        }
    }
    let size = rows.iter().flatten().fold(0.0f64, |a, b| a.max(b.abs()));
    for (row, value) in rows.iter_mut().zip(b) {
        row[n] = *value;
    }
    for k in 0..n {
        let pivot = (k..n).max_by(|&i, &j| rows[i][k].abs().total_cmp(&rows[j][k].abs())).unwrap_or(k);
        rows.swap(k, pivot);
        let (above, below) = rows.split_at_mut(k + 1);
        let row = &above[k];
        // NaN fails this comparison too.
        let regular = row[k].abs() > size * f64::EPSILON * n as f64 * 1e-3;
        if !regular {
            return Err(singular(op));
        }
        for other in below {
            let factor = other[k] / row[k];
            other.iter_mut().zip(row).skip(k).for_each(|(o, r)| *o -= factor * r);
        }
    }
    let mut x = vec![0.0; n];
    for i in (0..n).rev() {
        let known: f64 = (i + 1..n).map(|j| rows[i][j] * x[j]).sum();
        x[i] = (rows[i][n] - known) / rows[i][i];
    }
    Ok(x)
}

fn dot(x: &[f64], y: &[f64]) -> f64 {
    x.iter().zip(y).map(|(a, b)| a * b).sum()
}

fn add_scaled(x: &mut [f64], factor: f64, y: &[f64]) {
    x.iter_mut().zip(y).for_each(|(a, b)| *a += factor * b);
}

fn gmres(op: &'static str, apply: &mut Product<'_>, b: &[f64], tolerance: f64) -> Result<Vec<f64>> {
    let size = norm(b);
    let mut x = vec![0.0; b.len()];
    if size == 0.0 {
        return Ok(x);
    }
    let (mut products, mut before) = (0, f64::INFINITY);
    loop {
        let mut residual = b.to_vec();
        if products > 0 {
            add_scaled(&mut residual, -1.0, &apply(&x)?);
        }
        let left = norm(&residual);
        if left <= tolerance * size {
            return Ok(x);
        }
        // NaN fails this comparison too; a restart that gains nothing will not gain later.
        let gains = left < 0.999 * before;
        if products >= MOST_PRODUCTS || !gains {
            // Rounding of the products themselves keeps the last digits from being reached.
            const CLOSE: f64 = 1e3;
            return if left <= CLOSE * tolerance * size {
                Ok(x)
            } else {
                Err(stuck(op, left / size, products))
            };
        }
        before = left;
        products += cycle(apply, &residual, left, tolerance * size, &mut x)?;
    }
}

/// One Krylov space: adds its best correction to x, and gives the products taken.
fn cycle(apply: &mut Product<'_>, residual: &[f64], left: f64, goal: f64, x: &mut [f64]) -> Result<usize> {
    let mut basis = vec![residual.iter().map(|r| r / left).collect::<Vec<f64>>()];
    // The Hessenberg matrix by columns, made triangular by rotations as it grows.
    let mut columns: Vec<Vec<f64>> = Vec::new();
    let mut rotations: Vec<(f64, f64)> = Vec::new();
    let mut rest = vec![left];
    while columns.len() < RESTART.min(residual.len()) && rest[columns.len()].abs() > goal {
        let mut next = apply(&basis[columns.len()])?;
        let before = norm(&next);
        let mut column = vec![0.0; basis.len() + 1];
        for _ in 0..2 {
            for (entry, known) in column.iter_mut().zip(&basis) {
                let part = dot(known, &next);
                *entry += part;
                add_scaled(&mut next, -part, known);
            }
        }
        let after = norm(&next);
        let closed = after <= f64::EPSILON * before || !after.is_finite();
        let k = columns.len();
        column[k + 1] = if closed { 0.0 } else { after };
        for (i, (cosine, sine)) in rotations.iter().enumerate() {
            let (above, below) = (column[i], column[i + 1]);
            column[i] = cosine * above + sine * below;
            column[i + 1] = cosine * below - sine * above;
        }
        let length = column[k].hypot(column[k + 1]);
        if length == 0.0 || !length.is_finite() {
            break;
        }
        let (cosine, sine) = (column[k] / length, column[k + 1] / length);
        column[k] = length;
        rotations.push((cosine, sine));
        let last = rest[k];
        rest[k] = cosine * last;
        rest.push(-sine * last);
        columns.push(column);
        if closed {
            break;
        }
        basis.push(next.iter().map(|v| v / after).collect());
    }
    let k = columns.len();
    let mut weights = vec![0.0; k];
    for i in (0..k).rev() {
        let known: f64 = (i + 1..k).map(|j| columns[j][i] * weights[j]).sum();
        weights[i] = (rest[i] - known) / columns[i][i];
    }
    for (weight, vector) in weights.iter().zip(&basis) {
        add_scaled(x, *weight, vector);
    }
    Ok(k.max(1))
}

fn conjugate_gradient(
    op: &'static str,
    apply: &mut Product<'_>,
    b: &[f64],
    tolerance: f64,
) -> Result<Vec<f64>> {
    let size = norm(b);
    let mut x = vec![0.0; b.len()];
    let mut residual = b.to_vec();
    let mut direction = residual.clone();
    let mut product = dot(&residual, &residual);
    for products in 0.. {
        if product.sqrt() <= tolerance * size {
            break;
        }
        if products >= MOST_PRODUCTS {
            return Err(stuck(op, product.sqrt() / size, products));
        }
        let image = apply(&direction)?;
        let curvature = dot(&direction, &image);
        let definite = curvature > 0.0;
        if !definite {
            return Err(Error::argument(op, format!("not positive definite: curvature {curvature:e}")));
        }
        let step = product / curvature;
        add_scaled(&mut x, step, &direction);
        add_scaled(&mut residual, -step, &image);
        let next = dot(&residual, &residual);
        direction.iter_mut().zip(&residual).for_each(|(d, r)| *d = r + next / product * *d);
        product = next;
    }
    Ok(x)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rounding of small systems of condition below 100.
    const ROUNDING: f64 = 1e-10;

    #[test]
    fn all_solvers_agree_on_a_definite_matrix() -> Result<()> {
        let n = 90;
        // Second differences with 1 on the diagonal more, and a lopsided part for the general ones.
        let matrix = |lopsided: f64| {
            move |x: &[f64]| -> Result<Vec<f64>> {
                Ok((0..n)
                    .map(|i| {
                        let left = if i > 0 { x[i - 1] } else { 0.0 };
                        let right = if i + 1 < n { x[i + 1] } else { 0.0 };
                        3.0 * x[i] - (1.0 + lopsided) * left - (1.0 - lopsided) * right
                    })
                    .collect())
            }
        };
        let b: Vec<f64> = (0..n).map(|i| (i as f64).sin()).collect();
        for lopsided in [0.0, 0.5] {
            for solver in [LinearSolver::Dense, LinearSolver::Gmres, LinearSolver::ConjugateGradient] {
                if lopsided != 0.0 && solver == LinearSolver::ConjugateGradient {
                    continue;
                }
                let x = solve("test", &mut matrix(lopsided), &b, solver, 1e-13)?;
                let mut residual = b.clone();
                add_scaled(&mut residual, -1.0, &matrix(lopsided)(&x)?);
                assert!(norm(&residual) < ROUNDING, "{solver:?}: {:e}", norm(&residual));
            }
        }
        Ok(())
    }

    #[test]
    fn singular_matrices_are_refused() {
        let mut project = |x: &[f64]| Ok(vec![x[0], 0.0]);
        for solver in [LinearSolver::Dense, LinearSolver::Gmres, LinearSolver::ConjugateGradient] {
            let error = solve("test", &mut project, &[1.0, 1.0], solver, 1e-12).expect_err("singular");
            assert!(matches!(error, Error::InvalidArgument { .. }), "{solver:?}: {error}");
        }
        assert!(solve("test", &mut project, &[f64::NAN, 0.0], LinearSolver::Auto, 1e-12).is_err());
    }
}
