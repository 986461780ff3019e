//! Small weighted regressions, in f64 on the host.

use autograd_core::{Error, Result};

/// The coefficients that minimise Σ w (y − Xβ)² + ridge·|β|², by Cholesky's factorisation.
pub(crate) fn least_squares(rows: &[Vec<f64>], y: &[f64], weights: &[f64], ridge: f64) -> Result<Vec<f64>> {
    let n = rows.first().map_or(0, Vec::len);
    let mut normal = vec![vec![0.0; n]; n];
    let mut right = vec![0.0; n];
    for ((row, y), w) in rows.iter().zip(y).zip(weights) {
        for i in 0..n {
            right[i] += w * row[i] * y;
            for j in 0..=i {
                normal[i][j] += w * row[i] * row[j];
            }
        }
    }
    let largest = (0..n).map(|i| normal[i][i]).fold(0.0, f64::max);
    for (i, row) in normal.iter_mut().enumerate() {
        row[i] += ridge;
    }
    // A pivot of rounding size means that the samples do not determine the coefficients.
    let least = largest * f64::EPSILON * n as f64;
    for i in 0..n {
        for j in 0..=i {
            let known: f64 = (0..j).map(|k| normal[i][k] * normal[j][k]).sum();
            let rest = normal[i][j] - known;
            if i == j {
                if rest <= least {
                    let reason = format!("{} samples do not determine {n} features: draw more", rows.len());
                    return Err(Error::argument("regression", reason));
                }
                normal[i][i] = rest.sqrt();
            } else {
                normal[i][j] = rest / normal[j][j];
            }
        }
    }
    for i in 0..n {
        let known: f64 = (0..i).map(|k| normal[i][k] * right[k]).sum();
        right[i] = (right[i] - known) / normal[i][i];
    }
    for i in (0..n).rev() {
        let known: f64 = (i + 1..n).map(|k| normal[k][i] * right[k]).sum();
        right[i] = (right[i] - known) / normal[i][i];
    }
    Ok(right)
}

/// Rounds of coordinate descent, and the change at which they end.
const ROUNDS: usize = 1000;
const STILL: f64 = 1e-10;

/// The coefficients and the intercept that minimise ½ Σ w (y − Xβ − c)² / Σ w + alpha·|β|₁, by
/// coordinate descent.
pub(crate) fn lasso(rows: &[Vec<f64>], y: &[f64], weights: &[f64], alpha: f64) -> (Vec<f64>, f64) {
    let n = rows.first().map_or(0, Vec::len);
    let total: f64 = weights.iter().sum();
    let mean = |values: &dyn Fn(usize) -> f64| {
        weights.iter().enumerate().map(|(i, w)| w * values(i)).sum::<f64>() / total
    };
    let centre: Vec<f64> = (0..n).map(|j| mean(&|i| rows[i][j])).collect();
    let level = mean(&|i| y[i]);
    let scale: Vec<f64> = (0..n).map(|j| mean(&|i| (rows[i][j] - centre[j]).powi(2))).collect();
    let mut rest: Vec<f64> = y.iter().map(|y| y - level).collect();
    let mut beta = vec![0.0; n];
    for _ in 0..ROUNDS {
        let mut moved = 0.0;
        for j in 0..n {
            if scale[j] == 0.0 {
                continue;
            }
            let pull = mean(&|i| (rows[i][j] - centre[j]) * rest[i]) + scale[j] * beta[j];
            let next = pull.signum() * (pull.abs() - alpha).max(0.0) / scale[j];
            let step = next - beta[j];
            if step != 0.0 {
                for (rest, row) in rest.iter_mut().zip(rows) {
                    *rest -= step * (row[j] - centre[j]);
                }
                beta[j] = next;
            }
            moved = f64::max(moved, step.abs());
        }
        if moved < STILL {
            break;
        }
    }
    let shift: f64 = beta.iter().zip(&centre).map(|(b, c)| b * c).sum();
    (beta, level - shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rounding of systems of two unknowns.
    const ROUNDING: f64 = 1e-12;

    #[test]
    fn a_line_is_found_again() -> Result<()> {
        let rows: Vec<Vec<f64>> = (0..6).map(|i| vec![1.0, f64::from(i)]).collect();
        let y: Vec<f64> = (0..6).map(|i| 2.0 - 3.0 * f64::from(i)).collect();
        let weights = [1.0, 2.0, 0.5, 1.0, 3.0, 1.0];
        let found = least_squares(&rows, &y, &weights, 0.0)?;
        assert!((found[0] - 2.0).abs() < ROUNDING && (found[1] + 3.0).abs() < ROUNDING, "{found:?}");
        Ok(())
    }

    #[test]
    fn columns_that_agree_are_an_error() {
        let rows = vec![vec![1.0, 2.0], vec![2.0, 4.0], vec![3.0, 6.0]];
        assert!(least_squares(&rows, &[1.0, 2.0, 3.0], &[1.0; 3], 0.0).is_err());
        assert!(least_squares(&rows, &[1.0, 2.0, 3.0], &[1.0; 3], 0.1).is_ok());
    }

    #[test]
    fn the_lasso_shrinks_by_its_formula() {
        // One feature of variance 1: β = soft(cov, alpha).
        let rows = vec![vec![-1.0], vec![1.0]];
        let (beta, level) = lasso(&rows, &[0.0, 4.0], &[1.0, 1.0], 0.5);
        assert!((beta[0] - 1.5).abs() < ROUNDING && (level - 2.0).abs() < ROUNDING);
        assert_eq!(lasso(&rows, &[0.0, 4.0], &[1.0, 1.0], 3.0).0, [0.0]);
    }
}
