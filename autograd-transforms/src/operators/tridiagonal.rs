//! Eigenvalues and eigenvectors of a symmetric tridiagonal matrix.

use autograd_core::{Error, Result};

/// The eigenvalues, ascending, each with the first and the last component of its eigenvector of
/// norm 1: all that Ritz values and quadratures need. `diagonal` has n elements, `beside` n − 1.
///
/// The implicit QL algorithm with Wilkinson shifts (Bowdler, Martin, Reinsch and Wilkinson,
/// Numerische Mathematik 11, 1968); only two rows of the eigenvectors are carried along.
pub(super) fn eigenvalues(diagonal: &[f64], beside: &[f64]) -> Result<Vec<(f64, f64, f64)>> {
    /// Two or three sweeps an eigenvalue are usual.
    const MOST_SWEEPS: usize = 50;
    let n = diagonal.len();
    let mut d = diagonal.to_vec();
    let mut e = beside.to_vec();
    e.resize(n, 0.0);
    let (mut first, mut last) = (vec![0.0; n], vec![0.0; n]);
    if n > 0 {
        first[0] = 1.0;
        last[n - 1] = 1.0;
    }
    for low in 0..n {
        let mut sweeps = 0;
        loop {
            let negligible = |m: usize| e[m].abs() <= f64::EPSILON * (d[m].abs() + d[m + 1].abs());
            let high = (low..n - 1).find(|&m| negligible(m)).unwrap_or(n - 1);
            if high == low {
                break;
            }
            sweeps += 1;
            if sweeps > MOST_SWEEPS || !e[low].is_finite() || !d[low].is_finite() {
                return Err(Error::argument("lanczos", "the operator's products are not finite numbers"));
            }
            let mut g = (d[low + 1] - d[low]) / (2.0 * e[low]);
            g = d[high] - d[low] + e[low] / (g + g.hypot(1.0).copysign(g));
            let (mut sine, mut cosine, mut shift) = (1.0, 1.0, 0.0);
            let mut split = false;
            for i in (low..high).rev() {
                let (f, b) = (sine * e[i], cosine * e[i]);
                let r = f.hypot(g);
                e[i + 1] = r;
                if r == 0.0 {
                    d[i + 1] -= shift;
                    e[high] = 0.0;
                    split = true;
                    break;
                }
                (sine, cosine) = (f / r, g / r);
                let lifted = d[i + 1] - shift;
                let r = (d[i] - lifted) * sine + 2.0 * cosine * b;
                shift = sine * r;
                d[i + 1] = lifted + shift;
                g = cosine * r - b;
                for row in [&mut first, &mut last] {
                    let (here, next) = (row[i], row[i + 1]);
                    row[i + 1] = sine * here + cosine * next;
                    row[i] = cosine * here - sine * next;
                }
            }
            if !split {
                d[low] -= shift;
                e[low] = g;
                e[high] = 0.0;
            }
        }
    }
    let mut found: Vec<(f64, f64, f64)> = (0..n).map(|i| (d[i], first[i], last[i])).collect();
    found.sort_by(|a, b| a.0.total_cmp(&b.0));
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::f64::consts::PI;

    /// Rounding of a few sweeps over numbers up to 4.
    const ROUNDING: f64 = 1e-13;

    #[test]
    fn second_differences_have_the_eigenvalues_of_the_book() -> Result<()> {
        let n = 30;
        let found = eigenvalues(&vec![2.0; n], &vec![-1.0; n - 1])?;
        for (k, (value, first, last)) in found.iter().enumerate() {
            let angle = PI * (k + 1) as f64 / (n + 1) as f64;
            assert!((value - (2.0 - 2.0 * angle.cos())).abs() < ROUNDING, "{k}: {value}");
            let component = (2.0 / (n + 1) as f64).sqrt() * angle.sin();
            assert!((first.abs() - component).abs() < ROUNDING, "{k}: {first}");
            assert!((last.abs() - component).abs() < ROUNDING, "{k}: {last}");
        }
        Ok(())
    }

    #[test]
    fn zeros_beside_the_diagonal_split_the_matrix() -> Result<()> {
        let found = eigenvalues(&[3.0, 1.0, 2.0], &[0.0, 0.0])?;
        assert_eq!(found.iter().map(|f| f.0).collect::<Vec<_>>(), [1.0, 2.0, 3.0]);
        assert!(eigenvalues(&[f64::NAN, 1.0], &[1.0]).is_err());
        assert!(eigenvalues(&[], &[])?.is_empty());
        Ok(())
    }
}
