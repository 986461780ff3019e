//! Factorisations and solvers of small and middle-sized matrices, over faer.
//!
//! Inputs end in two dimensions of matrices, and all others count batches. f32 is factored in
//! f64: one instance of the algorithms instead of two, and twice the digits.

use crate::{Element, Slice, SliceMut, View, copy};
use faer::linalg::solvers::{PartialPivLu, Solve};
use faer::linalg::triangular_solve::{
    solve_lower_triangular_in_place, solve_unit_lower_triangular_in_place,
    solve_unit_upper_triangular_in_place, solve_upper_triangular_in_place,
};
use faer::{Mat, MatRef, Par, Side};

/// A matrix that a factorisation cannot take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The kernels work on f64 and f32.
    Type,
    /// A matrix that has no Cholesky factor.
    NotPositiveDefinite {
        /// Which of the batch.
        matrix: usize,
        /// The first leading minor that is not positive definite, from 1.
        order: usize,
    },
    /// A matrix without an inverse.
    Singular {
        /// Which of the batch.
        matrix: usize,
    },
    /// An iteration that did not end: numbers that are not finite.
    NoConvergence {
        /// Which of the batch.
        matrix: usize,
    },
}

/// The result of a factorisation.
pub type Outcome = Result<(), Fault>;

/// The numbers of a view in row-major order, as f64.
fn read(x: View<'_>) -> Result<Vec<f64>, Fault> {
    let mut out = vec![0f64; x.layout.elements()];
    match x.data {
        Slice::F64(_) => copy::copy(x, f64::slice_mut(&mut out)),
        Slice::F32(_) => {
            let mut narrow = vec![0f32; out.len()];
            copy::copy(x, f32::slice_mut(&mut narrow));
            out.iter_mut().zip(narrow).for_each(|(wide, narrow)| *wide = f64::from(narrow));
        }
        _ => return Err(Fault::Type),
    }
    Ok(out)
}

/// Writes numbers in row-major order, rounded to the output's type.
fn write(from: &[f64], to: &mut SliceMut<'_>) -> Outcome {
    match to {
        SliceMut::F64(to) => to.copy_from_slice(from),
        SliceMut::F32(to) => to.iter_mut().zip(from).for_each(|(to, from)| *to = *from as f32),
        _ => return Err(Fault::Type),
    }
    Ok(())
}

/// Rows and columns of the matrices of a view.
fn extents(x: View<'_>) -> (usize, usize) {
    match *x.layout.dims() {
        [.., rows, columns] => (rows, columns),
        ref dims => panic!("linalg: shape {dims:?} has two dimensions"),
    }
}

/// A batch of matrices in row-major order.
struct Batch {
    data: Vec<f64>,
    rows: usize,
    columns: usize,
}

impl Batch {
    fn of(x: View<'_>) -> Result<Self, Fault> {
        let (rows, columns) = extents(x);
        Ok(Self { data: read(x)?, rows, columns })
    }

    /// The matrices, `count` of them.
    fn matrices(&self, count: usize) -> impl Iterator<Item = MatRef<'_, f64>> {
        let size = self.rows * self.columns;
        (0..count).map(move |i| {
            MatRef::from_row_major_slice(&self.data[i * size..(i + 1) * size], self.rows, self.columns)
        })
    }
}

/// The number of matrices in a view.
fn count(x: View<'_>) -> usize {
    let dims = x.layout.dims();
    dims[..dims.len() - 2].iter().product()
}

/// Appends a matrix in row-major order.
fn push(m: MatRef<'_, f64>, out: &mut Vec<f64>) {
    for i in 0..m.nrows() {
        out.extend((0..m.ncols()).map(|j| m[(i, j)]));
    }
}

/// L with L·Lᵀ = x, from the lower triangle of x.
///
/// # Errors
/// A type without a kernel; a matrix that is not positive definite.
pub fn cholesky(x: View<'_>, mut out: SliceMut<'_>) -> Outcome {
    let batch = Batch::of(x)?;
    let mut made = Vec::with_capacity(batch.data.len());
    for (matrix, a) in batch.matrices(count(x)).enumerate() {
        let factor = a.llt(Side::Lower).map_err(|error| {
            let faer::linalg::cholesky::llt::factor::LltError::NonPositivePivot { index } = error;
            Fault::NotPositiveDefinite { matrix, order: index + 1 }
        })?;
        push(factor.L(), &mut made);
    }
    write(&made, &mut out)
}

/// The LU factors of a matrix that has an inverse.
fn factored(a: MatRef<'_, f64>, matrix: usize) -> Result<PartialPivLu<f64>, Fault> {
    let lu = a.partial_piv_lu();
    let u = lu.U();
    if (0..u.nrows()).any(|i| u[(i, i)] == 0.0) {
        return Err(Fault::Singular { matrix });
    }
    Ok(lu)
}

/// y with a·y = b.
///
/// # Errors
/// A type without a kernel; a matrix that is exactly singular.
pub fn solve(a: View<'_>, b: View<'_>, mut out: SliceMut<'_>) -> Outcome {
    let (left, right) = (Batch::of(a)?, Batch::of(b)?);
    let mut made = Vec::with_capacity(right.data.len());
    for (matrix, (a, rhs)) in left.matrices(count(a)).zip(right.matrices(count(b))).enumerate() {
        push(factored(a, matrix)?.solve(rhs).as_ref(), &mut made);
    }
    write(&made, &mut out)
}

/// The inverse.
///
/// # Errors
/// A type without a kernel; a matrix that is exactly singular.
pub fn inverse(a: View<'_>, mut out: SliceMut<'_>) -> Outcome {
    let batch = Batch::of(a)?;
    let mut made = Vec::with_capacity(batch.data.len());
    for (matrix, a) in batch.matrices(count(a)).enumerate() {
        let one = Mat::<f64>::identity(a.nrows(), a.ncols());
        push(factored(a, matrix)?.solve(one).as_ref(), &mut made);
    }
    write(&made, &mut out)
}

/// y with t·y = b, where t is the upper or lower triangle of a, with ones on its diagonal where
/// `unit`.
///
/// # Errors
/// A type without a kernel; a zero on the diagonal.
pub fn solve_triangular(a: View<'_>, b: View<'_>, upper: bool, unit: bool, mut out: SliceMut<'_>) -> Outcome {
    let (left, right) = (Batch::of(a)?, Batch::of(b)?);
    let mut made = Vec::with_capacity(right.data.len());
    for (matrix, (a, rhs)) in left.matrices(count(a)).zip(right.matrices(count(b))).enumerate() {
        if !unit && (0..a.nrows()).any(|i| a[(i, i)] == 0.0) {
            return Err(Fault::Singular { matrix });
        }
        let mut y = rhs.to_owned();
        match (upper, unit) {
            (false, false) => solve_lower_triangular_in_place(a, y.as_mut(), Par::Seq),
            (false, true) => solve_unit_lower_triangular_in_place(a, y.as_mut(), Par::Seq),
            (true, false) => solve_upper_triangular_in_place(a, y.as_mut(), Par::Seq),
            (true, true) => solve_unit_upper_triangular_in_place(a, y.as_mut(), Par::Seq),
        }
        push(y.as_ref(), &mut made);
    }
    write(&made, &mut out)
}

/// The sign of a permutation.
fn parity(permutation: &[usize]) -> f64 {
    let mut seen = vec![false; permutation.len()];
    let mut sign = 1.0;
    for start in 0..permutation.len() {
        let mut at = start;
        let mut length = 0;
        while !seen[at] {
            seen[at] = true;
            at = permutation[at];
            length += 1;
        }
        if length > 0 && length % 2 == 0 {
            sign = -sign;
        }
    }
    sign
}

/// The factors whose product is a determinant: the permutation's sign, and the pivots.
fn pivots(a: MatRef<'_, f64>) -> (f64, Vec<f64>) {
    let lu = a.partial_piv_lu();
    let u = lu.U();
    (parity(lu.P().arrays().0), (0..u.nrows()).map(|i| u[(i, i)]).collect())
}

fn determinant_of(a: MatRef<'_, f64>) -> f64 {
    let (sign, pivots) = pivots(a);
    pivots.into_iter().fold(sign, |product, pivot| product * pivot)
}

/// The determinant.
///
/// # Errors
/// A type without a kernel.
pub fn determinant(a: View<'_>, mut out: SliceMut<'_>) -> Outcome {
    let batch = Batch::of(a)?;
    let made: Vec<f64> = batch.matrices(count(a)).map(determinant_of).collect();
    write(&made, &mut out)
}

/// The determinant's sign (0 for a singular matrix) and the logarithm of its size.
///
/// # Errors
/// A type without a kernel.
pub fn sign_and_log(a: View<'_>, mut sign: SliceMut<'_>, mut log: SliceMut<'_>) -> Outcome {
    let batch = Batch::of(a)?;
    let (mut signs, mut logs) = (Vec::new(), Vec::new());
    for a in batch.matrices(count(a)) {
        let (sign, pivots) = pivots(a);
        signs.push(pivots.iter().fold(sign, |s, p| s * if *p == 0.0 { 0.0 } else { p.signum() }));
        logs.push(pivots.iter().map(|p| p.abs().ln()).sum());
    }
    write(&signs, &mut sign)?;
    write(&logs, &mut log)
}

/// The matrix of cofactors, which is det(a)·a⁻ᵀ where a has an inverse, and finite where it has
/// none: det(U)·det(V)·U·diag(∏_{j≠i} sⱼ)·Vᵀ.
///
/// # Errors
/// A type without a kernel; numbers that are not finite.
pub fn cofactors(a: View<'_>, mut out: SliceMut<'_>) -> Outcome {
    let batch = Batch::of(a)?;
    let mut made = Vec::with_capacity(batch.data.len());
    for (matrix, a) in batch.matrices(count(a)).enumerate() {
        let svd = a.svd().map_err(|_| Fault::NoConvergence { matrix })?;
        let s = svd.S().column_vector();
        let sign = determinant_of(svd.U()).signum() * determinant_of(svd.V()).signum();
        let mut left = svd.U().to_owned();
        for i in 0..left.ncols() {
            let others: f64 = (0..left.ncols()).filter(|&j| j != i).map(|j| s[j]).product();
            for r in 0..left.nrows() {
                left[(r, i)] *= sign * others;
            }
        }
        push((&left * svd.V().transpose()).as_ref(), &mut made);
    }
    write(&made, &mut out)
}

/// Q with orthonormal columns and R upper triangular, x = Q·R, with min(rows, columns) columns
/// in Q.
///
/// # Errors
/// A type without a kernel.
pub fn qr(x: View<'_>, mut q: SliceMut<'_>, mut r: SliceMut<'_>) -> Outcome {
    let batch = Batch::of(x)?;
    let (mut qs, mut rs) = (Vec::new(), Vec::new());
    for a in batch.matrices(count(x)) {
        let factors = a.qr();
        push(factors.compute_thin_Q().as_ref(), &mut qs);
        let upper = factors.thin_R();
        for i in 0..upper.nrows() {
            rs.extend((0..upper.ncols()).map(|j| if j < i { 0.0 } else { upper[(i, j)] }));
        }
    }
    write(&qs, &mut q)?;
    write(&rs, &mut r)
}

/// U, s and Vᵀ with x = U·diag(s)·Vᵀ, s ≥ 0 and descending, and min(rows, columns) of each.
///
/// # Errors
/// A type without a kernel; numbers that are not finite.
pub fn svd(x: View<'_>, mut u: SliceMut<'_>, mut s: SliceMut<'_>, mut vt: SliceMut<'_>) -> Outcome {
    let batch = Batch::of(x)?;
    let (mut us, mut ss, mut vs) = (Vec::new(), Vec::new(), Vec::new());
    for (matrix, a) in batch.matrices(count(x)).enumerate() {
        let factors = a.thin_svd().map_err(|_| Fault::NoConvergence { matrix })?;
        push(factors.U(), &mut us);
        let diagonal = factors.S().column_vector();
        ss.extend((0..diagonal.nrows()).map(|i| diagonal[i]));
        push(factors.V().transpose(), &mut vs);
    }
    write(&us, &mut u)?;
    write(&ss, &mut s)?;
    write(&vs, &mut vt)
}

/// w ascending and V with orthonormal columns, x = V·diag(w)·Vᵀ, from the lower triangle of x.
///
/// # Errors
/// A type without a kernel; numbers that are not finite.
pub fn eigh(x: View<'_>, mut w: SliceMut<'_>, mut v: SliceMut<'_>) -> Outcome {
    let batch = Batch::of(x)?;
    let (mut ws, mut vs) = (Vec::new(), Vec::new());
    for (matrix, a) in batch.matrices(count(x)).enumerate() {
        let factors = a.self_adjoint_eigen(Side::Lower).map_err(|_| Fault::NoConvergence { matrix })?;
        let diagonal = factors.S().column_vector();
        ws.extend((0..diagonal.nrows()).map(|i| diagonal[i]));
        push(factors.U(), &mut vs);
    }
    write(&ws, &mut w)?;
    write(&vs, &mut v)
}

/// The pseudo-inverse: singular values up to max(rows, columns) · ε · (the largest) count as 0,
/// with the ε of the input's type.
///
/// # Errors
/// A type without a kernel; numbers that are not finite.
pub fn pseudo_inverse(x: View<'_>, mut out: SliceMut<'_>) -> Outcome {
    let batch = Batch::of(x)?;
    let epsilon = if matches!(x.data, Slice::F32(_)) { f64::from(f32::EPSILON) } else { f64::EPSILON };
    let mut made = Vec::with_capacity(batch.data.len());
    for (matrix, a) in batch.matrices(count(x)).enumerate() {
        let factors = a.thin_svd().map_err(|_| Fault::NoConvergence { matrix })?;
        let s = factors.S().column_vector();
        let largest = (0..s.nrows()).map(|i| s[i]).fold(0.0, f64::max);
        let least = batch.rows.max(batch.columns) as f64 * epsilon * largest;
        let mut v = factors.V().to_owned();
        for i in 0..v.ncols() {
            let factor = if s[i] > least { 1.0 / s[i] } else { 0.0 };
            for r in 0..v.nrows() {
                v[(r, i)] *= factor;
            }
        }
        push((&v * factors.U().transpose()).as_ref(), &mut made);
    }
    write(&made, &mut out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Layout, Shape};

    fn run(
        dims: &[usize],
        data: &[f64],
        f: impl Fn(View<'_>, SliceMut<'_>) -> Outcome,
    ) -> (Outcome, Vec<f64>) {
        let layout = Layout::contiguous(Shape::new(dims));
        let mut out = vec![0f64; data.len()];
        let outcome = f(View { data: f64::slice(data), layout: &layout }, f64::slice_mut(&mut out));
        (outcome, out)
    }

    #[test]
    fn known_matrices() {
        let (_, l) = run(&[2, 2], &[4., 0., 2., 10.], cholesky);
        assert_eq!(l, [2., 0., 1., 3.]);
        let (_, inverse) = run(&[2, 2], &[2., 0., 0., 4.], super::inverse);
        assert_eq!(inverse, [0.5, 0., 0., 0.25]);
        // Rank 1: the cofactors of [[1, 2], [2, 4]].
        let (_, cofactors) = run(&[2, 2], &[1., 2., 2., 4.], super::cofactors);
        for (got, want) in cofactors.iter().zip([4., -2., -2., 1.]) {
            assert!((got - want).abs() < 1e-14, "{cofactors:?}");
        }
    }

    #[test]
    fn faults_name_the_matrix() {
        let singular = [1., 0., 0., 1., 1., 2., 2., 4.];
        assert_eq!(run(&[2, 2, 2], &singular, inverse).0, Err(Fault::Singular { matrix: 1 }));
        let indefinite = [1., 0., 0., -1.];
        let want = Err(Fault::NotPositiveDefinite { matrix: 0, order: 2 });
        assert_eq!(run(&[2, 2], &indefinite, cholesky).0, want);
        let layout = Layout::contiguous(Shape::new(&[1, 1]));
        let mut out = [0u8];
        let outcome = inverse(View { data: u8::slice(&[1]), layout: &layout }, u8::slice_mut(&mut out));
        assert_eq!(outcome, Err(Fault::Type));
    }

    #[test]
    fn permutations_have_signs() {
        assert_eq!(parity(&[0, 1, 2]), 1.0);
        assert_eq!(parity(&[1, 0, 2]), -1.0);
        assert_eq!(parity(&[1, 2, 0]), 1.0);
    }
}
