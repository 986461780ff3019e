//! The cases of linear algebra: well-conditioned matrices, alone and in batches.

use super::{
    MatrixNorm, Triangle, cholesky, columns_times, det, eigh, eigvalsh, inverse, logdet, matrix_norm, mm, mt,
    pinv, qr, slogdet, solve, svd, svdvals, triangular_solve,
};
use crate::registry::{Case, Family, Op, Sample};
use autograd_core::algebra::{add, mul, scale};
use autograd_core::{Result, TrackedTensor};

/// x + 3·(diagonal 1, 2, 3, …): far from singular, with eigenvalues and singular values apart.
fn regular(x: &TrackedTensor) -> Result<TrackedTensor> {
    let (rows, columns) = (x.dims()[x.rank() - 2], x.dims()[x.rank() - 1]);
    let mut shift = vec![0.0; rows * columns];
    for i in 0..rows.min(columns) {
        shift[i * columns + i] = 3.0 * (i + 1) as f64;
    }
    let shift = TrackedTensor::from_vec(shift, &[rows, columns])?;
    add(x, &autograd_core::algebra::beside(autograd_core::algebra::cast(&shift, x.dtype())?, x)?)
}

/// x·xᵀ + 2, positive definite.
fn definite(x: &TrackedTensor) -> Result<TrackedTensor> {
    let n = x.dims()[x.rank() - 2];
    let mut two = vec![0.0; n * n];
    (0..n).for_each(|i| two[i * n + i] = 2.0);
    let two = TrackedTensor::from_vec(two, &[n, n])?;
    add(&mm(x, &mt(x)?)?, &autograd_core::algebra::beside(autograd_core::algebra::cast(&two, x.dtype())?, x)?)
}

type Unary = fn(&TrackedTensor) -> Result<TrackedTensor>;

fn over(shapes: &[&[usize]], run: Unary) -> Vec<Case> {
    let case = |dims: &&[usize]| {
        Case::new(&format!("{dims:?}"), vec![Sample::between(dims, -1.0, 1.0)], move |x| run(&x[0]))
    };
    shapes.iter().map(case).collect()
}

fn with_rhs(
    label: &str,
    a: &[usize],
    b: &[usize],
    run: impl Fn(&TrackedTensor, &TrackedTensor) -> Result<TrackedTensor> + Send + Sync + 'static,
) -> Case {
    let inputs = vec![Sample::between(a, -1.0, 1.0), Sample::between(b, -1.0, 1.0)];
    Case::new(label, inputs, move |x| run(&regular(&x[0])?, &x[1]))
}

const SQUARE: &[&[usize]] = &[&[3, 3], &[1, 1], &[2, 2, 2], &[0, 2, 2]];
const ANY: &[&[usize]] = &[&[3, 3], &[4, 2], &[2, 4], &[2, 3, 2]];

/// The ops of linear algebra.
pub fn ops() -> Vec<Op> {
    let op = |name, formula, cases| Op { name, family: Family::LinearAlgebra, formula, cases };
    vec![
        op("cholesky", "L·Lᵀ = (a + aᵀ)/2, L lower triangular", || {
            over(SQUARE, |x| cholesky(&definite(x)?))
        }),
        op("solve", "a·x = b", || {
            vec![
                with_rhs("matrices", &[3, 3], &[3, 2], solve),
                with_rhs("a vector", &[2, 2], &[2], solve),
                with_rhs("batches", &[2, 2, 2], &[2, 2, 1], solve),
                with_rhs("a batch of vectors", &[2, 3, 3], &[2, 3], solve),
                with_rhs("batches that broadcast", &[2, 1, 2, 2], &[3, 2, 1], solve),
            ]
        }),
        op("triangular_solve", "t·x = b, t a triangle of a", || {
            let unit = Triangle { unit: true, ..Triangle::LOWER };
            let upper_unit = Triangle { unit: true, ..Triangle::UPPER };
            vec![
                with_rhs("lower", &[3, 3], &[3, 2], |a, b| triangular_solve(a, b, Triangle::LOWER)),
                with_rhs("upper", &[3, 3], &[3, 2], |a, b| triangular_solve(a, b, Triangle::UPPER)),
                with_rhs("lower, ones", &[2, 3, 3], &[3, 1], move |a, b| triangular_solve(a, b, unit)),
                with_rhs("upper, ones", &[3, 3], &[2, 3, 1], move |a, b| triangular_solve(a, b, upper_unit)),
            ]
        }),
        op("inverse", "a⁻¹", || over(SQUARE, |x| inverse(&regular(x)?))),
        op("det", "det a", || {
            let mut cases = over(SQUARE, |x| det(&regular(x)?));
            cases.push(Case::new("not regular", vec![Sample::float(&[2, 2])], |x| det(&x[0])));
            cases
        }),
        op("slogdet", "the sign of det a, and ln |det a|", || {
            let case = |dims: &[usize]| {
                Case::many(&format!("{dims:?}"), vec![Sample::between(dims, -1.0, 1.0)], |x| {
                    let (sign, log) = slogdet(&regular(&x[0])?)?;
                    Ok(vec![sign, log])
                })
            };
            vec![case(&[3, 3]), case(&[2, 2, 2])]
        }),
        op("logdet", "ln det a", || over(&[&[3, 3], &[2, 2, 2]], |x| logdet(&definite(x)?))),
        op("qr", "a = Q·R", || {
            let case = |dims: &[usize]| {
                Case::many(&format!("{dims:?}"), vec![Sample::between(dims, -1.0, 1.0)], |x| {
                    // Functions of the factors that do not depend on their signs.
                    let (q, r) = qr(&regular(&x[0])?)?;
                    let d = crate::linalg::diagonal(&r)?;
                    Ok(vec![columns_times(&q, &d)?, crate::linalg::rows_times(&d, &r)?])
                })
            };
            vec![case(&[3, 3]), case(&[4, 2]), case(&[2, 3]), case(&[2, 3, 2])]
        }),
        op("svd", "a = U·diag(s)·Vᵀ", || {
            // Functions of the factors that do not depend on the signs of the vectors.
            fn invariants(x: &TrackedTensor) -> Result<Vec<TrackedTensor>> {
                let (u, s, vt) = svd(&regular(x)?)?;
                let left = columns_times(&mul(&u, &u)?, &s)?;
                let polar = mm(&u, &vt)?;
                Ok(vec![s, left, polar, mul(&vt, &vt)?])
            }
            let case = |dims: &[usize]| {
                Case::many(&format!("{dims:?}"), vec![Sample::between(dims, -1.0, 1.0)], |x| {
                    invariants(&x[0])
                })
            };
            vec![case(&[3, 3]), case(&[4, 2]), case(&[2, 4]), case(&[2, 3, 2])]
        }),
        op("svdvals", "the singular values", || over(ANY, |x| svdvals(&regular(x)?))),
        op("eigh", "a·V = V·diag(w), a symmetric", || {
            let case = |dims: &[usize]| {
                Case::many(&format!("{dims:?}"), vec![Sample::between(dims, -1.0, 1.0)], |x| {
                    let (w, v) = eigh(&regular(&x[0])?)?;
                    let exp = crate::elementwise::exp(&scale(&w, 0.25)?)?;
                    let function = mm(&columns_times(&v, &exp)?, &mt(&v)?)?;
                    Ok(vec![w, function, mul(&v, &v)?])
                })
            };
            vec![case(&[3, 3]), case(&[1, 1]), case(&[2, 2, 2])]
        }),
        op("eigvalsh", "the eigenvalues of a symmetric matrix", || {
            over(&[&[3, 3], &[2, 2, 2]], |x| eigvalsh(&regular(x)?))
        }),
        op("pinv", "a⁺", || over(ANY, |x| pinv(&regular(x)?))),
        op("matrix_norm", "a norm of each matrix", || {
            let norms = [
                MatrixNorm::Frobenius,
                MatrixNorm::Nuclear,
                MatrixNorm::Spectral,
                MatrixNorm::Smallest,
                MatrixNorm::One,
                MatrixNorm::Infinity,
            ];
            let case = |norm: MatrixNorm| {
                Case::new(&format!("{norm:?}"), vec![Sample::between(&[2, 3, 2], 0.2, 1.0)], move |x| {
                    matrix_norm(&regular(&x[0])?, norm)
                })
            };
            norms.map(case).into()
        }),
    ]
}

/// The methods of linear algebra.
#[macro_export]
#[doc(hidden)]
macro_rules! linalg_methods {
    ($($callback:tt)*) => {
        $($callback)* {
            unary {
                /// The Cholesky factor of each symmetric matrix.
                cholesky = $crate::linalg::cholesky;
                /// The inverse of each matrix.
                inverse = $crate::linalg::inverse;
                /// The pseudo-inverse of each matrix.
                pinv = $crate::linalg::pinv;
                /// The determinant of each matrix.
                det = $crate::linalg::det;
                /// The logarithm of each determinant.
                logdet = $crate::linalg::logdet;
                /// The eigenvalues of each symmetric matrix.
                eigvalsh = $crate::linalg::eigvalsh;
                /// The singular values of each matrix.
                svdvals = $crate::linalg::svdvals;
            }
            binary {}
            other {
                /// x with a·x = b, where this value is a.
                solve(b: &autograd_core::TrackedTensor) -> autograd_core::TrackedTensor = $crate::linalg::solve;
                /// x with t·x = b, where t is a triangle of this value.
                triangular_solve(b: &autograd_core::TrackedTensor, triangle: $crate::linalg::Triangle) -> autograd_core::TrackedTensor = $crate::linalg::triangular_solve;
                /// A norm of each matrix.
                matrix_norm(norm: $crate::linalg::MatrixNorm) -> autograd_core::TrackedTensor = $crate::linalg::matrix_norm;
                /// The sign and the logarithm of each determinant.
                slogdet() -> (autograd_core::TrackedTensor, autograd_core::TrackedTensor) = $crate::linalg::slogdet;
                /// Q and R of each matrix.
                qr() -> (autograd_core::TrackedTensor, autograd_core::TrackedTensor) = $crate::linalg::qr;
                /// U, the singular values and Vᵀ of each matrix.
                svd() -> (autograd_core::TrackedTensor, autograd_core::TrackedTensor, autograd_core::TrackedTensor) = $crate::linalg::svd;
                /// The eigenvalues and eigenvectors of each symmetric matrix.
                eigh() -> (autograd_core::TrackedTensor, autograd_core::TrackedTensor) = $crate::linalg::eigh;
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linalg::symmetric;
    use crate::pull::{close, pull};

    fn matrix(values: &[f64], dims: &[usize]) -> TrackedTensor {
        TrackedTensor::from_vec(values.to_vec(), dims).expect("the shape fits")
    }

    /// A matrix of rank 1 has no inverse, yet its determinant has a gradient.
    #[test]
    fn the_gradient_of_a_determinant_of_zero() -> Result<()> {
        let a = matrix(&[1., 2., 2., 4.], &[2, 2]);
        close(&pull(&[&a], |x| det(&x[0]))?[0], &[4., -2., -2., 1.]);
        let error = pull(&[&a], |x| Ok(slogdet(&x[0])?.1)).expect_err("ln 0 has no derivative");
        assert!(error.to_string().starts_with("inverse: matrix 0 of the batch is singular"), "{error}");
        assert_eq!(logdet(&a)?.to_scalar::<f64>()?, f64::NEG_INFINITY);
        assert!(logdet(&matrix(&[-1.], &[1, 1]))?.to_scalar::<f64>()?.is_nan());
        Ok(())
    }

    /// Equal eigenvalues: functions of the values alone keep their derivatives.
    #[test]
    fn equal_values_have_finite_gradients() -> Result<()> {
        let one = matrix(&[1., 0., 0., 1.], &[2, 2]);
        close(&pull(&[&one], |x| crate::reduce::sum(&eigvalsh(&x[0])?))?[0], &[1., 0., 0., 1.]);
        close(&pull(&[&one], |x| crate::reduce::sum(&svdvals(&x[0])?))?[0], &[1., 0., 0., 1.]);
        // The polar factor V·Vᵀ does not depend on the basis; its derivative is 0.
        let polar = pull(&[&one], |x| {
            let (_, v) = eigh(&x[0])?;
            mm(&v, &mt(&v)?)
        })?;
        close(&polar[0], &[0.; 4]);
        Ok(())
    }

    #[test]
    fn the_zero_matrix_has_a_norm_with_gradient_zero() -> Result<()> {
        let zero = matrix(&[0.; 4], &[2, 2]);
        assert_eq!(pull(&[&zero], |x| matrix_norm(&x[0], MatrixNorm::Frobenius))?[0], [0.; 4]);
        Ok(())
    }

    #[test]
    fn errors_name_the_op_and_the_line() {
        let wide = matrix(&[1.; 6], &[2, 3]);
        for error in [cholesky(&wide), inverse(&wide), det(&wide), solve(&wide, &wide)] {
            let error = error.expect_err("not square");
            assert!(error.to_string().contains("not square"), "{error}");
            assert!(error.site().is_some_and(|site| site.file().ends_with("registry.rs")), "{error}");
        }
        let error = cholesky(&matrix(&[1., 0., 0., -1.], &[2, 2])).expect_err("indefinite");
        assert!(error.to_string().contains("not positive definite"), "{error}");
        assert!(symmetric(&matrix(&[1.], &[1])).is_err());
    }
}
