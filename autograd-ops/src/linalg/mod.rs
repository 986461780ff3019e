//! Linear algebra: solvers, factorisations, determinants, over batches of matrices.
//!
//! Values end in the two dimensions of the matrices; all others count batches. The kernels are
//! faer's and work on f64 and f32. Rules are written in matrix products and solves, so derivatives
//! of every order, batches and captures follow.

mod determinant;
mod factors;
mod inverse;
mod norms;
mod registry;
mod solve;
mod spectral;

pub use determinant::{det, logdet, slogdet};
pub use factors::{cholesky, qr};
pub use inverse::{inverse, pinv};
pub use norms::{MatrixNorm, matrix_norm};
pub use registry::ops;
pub use solve::{Triangle, solve, triangular_solve};
pub use spectral::{eigh, eigvalsh, svd, svdvals};

use crate::matrix::matmul;
use autograd_core::kernels::linalg::Fault;
use autograd_core::smallvec::SmallVec;
use autograd_core::{DType, Error, Mask, Meta, Parameter, Prim, Result, Shape, TrackedTensor, algebra};

/// a·b.
fn mm(a: &TrackedTensor, b: &TrackedTensor) -> Result<TrackedTensor> {
    matmul(a, b)
}

/// Each matrix transposed.
fn mt(a: &TrackedTensor) -> Result<TrackedTensor> {
    crate::shape::transpose(a, -1, -2)
}

/// (a + aᵀ) / 2.
fn symmetric(a: &TrackedTensor) -> Result<TrackedTensor> {
    algebra::scale(&algebra::add(a, &mt(a)?)?, 0.5)
}

/// The elements of the diagonals.
fn diagonal(a: &TrackedTensor) -> Result<TrackedTensor> {
    crate::slice::diagonal(a, 0, -2, -1)
}

/// a with column j times s[j].
fn columns_times(a: &TrackedTensor, s: &TrackedTensor) -> Result<TrackedTensor> {
    algebra::mul(a, &crate::shape::unsqueeze(s, -2)?)
}

/// a with row i times s[i].
fn rows_times(s: &TrackedTensor, a: &TrackedTensor) -> Result<TrackedTensor> {
    algebra::mul(&crate::shape::unsqueeze(s, -1)?, a)
}

/// The sum of two optional values.
fn plus(a: Option<TrackedTensor>, b: Option<TrackedTensor>) -> Result<Option<TrackedTensor>> {
    match (a, b) {
        (Some(a), Some(b)) => algebra::add(&a, &b).map(Some),
        (a, b) => Ok(a.or(b)),
    }
}

/// A matrix that a kernel cannot take, in words.
fn fault(op: &'static str, fault: Fault) -> Error {
    Error::argument(
        op,
        match fault {
            Fault::Type => "the kernels work on f64 and f32".to_owned(),
            Fault::NotPositiveDefinite { matrix, order } => format!(
                "matrix {matrix} of the batch is not positive definite: its leading minor of order {order} is not"
            ),
            Fault::Singular { matrix } => format!("matrix {matrix} of the batch is singular"),
            Fault::NoConvergence { matrix } => {
                format!("the iteration on matrix {matrix} of the batch did not end: it is not finite")
            }
        },
    )
}

/// Rows and columns of a value's matrices.
fn matrices(op: &'static str, x: &Meta) -> Result<(usize, usize)> {
    if !matches!(x.dtype, DType::F64 | DType::F32) {
        return Err(Error::dtype(op, x.dtype, "f64 and f32 are; convert with to_dtype"));
    }
    match *x.shape.dims() {
        [.., rows, columns] => Ok((rows, columns)),
        _ => Err(Error::shape(op, &[x.shape], "a matrix has two dimensions")),
    }
}

/// The extent of a value's square matrices.
fn square(op: &'static str, x: &Meta) -> Result<usize> {
    match matrices(op, x)? {
        (rows, columns) if rows == columns => Ok(rows),
        _ => Err(Error::shape(op, &[x.shape], "the matrices are not square")),
    }
}

/// The shape of a batch with other dimensions at its end.
fn ending(batch: &Shape, end: &[usize]) -> Result<Shape> {
    let batch = &batch.dims()[..batch.rank() - 2];
    let dims: SmallVec<[usize; 8]> = batch.iter().chain(end).copied().collect();
    autograd_core::checked_shape("linalg", &dims)
}

/// All inputs with the batch dimension in front.
fn in_front(inputs: &[&TrackedTensor], batched: Mask, size: usize) -> Result<SmallVec<[TrackedTensor; 2]>> {
    let each = |(i, x): (usize, &&TrackedTensor)| crate::numbers::with_batch(x, batched.has(i), size);
    inputs.iter().enumerate().map(each).collect()
}

/// An op whose kernel takes batches as they are.
macro_rules! batches {
    () => {
        fn batch(
            &self,
            batched: autograd_core::Mask,
            inputs: &[&TrackedTensor],
            size: usize,
        ) -> Result<Option<autograd_core::Values>> {
            let inputs = crate::linalg::in_front(inputs, batched, size)?;
            let refs: autograd_core::smallvec::SmallVec<[&TrackedTensor; 2]> = inputs.iter().collect();
            Ok(Some(autograd_core::apply(self, &refs)?))
        }
    };
}
pub(crate) use batches;

/// A primitive of rule `General` without parameters.
macro_rules! plain_parts {
    ($op:ident, $name:literal) => {
        fn name(&self) -> &'static str {
            $name
        }
        fn keep(&self) -> autograd_core::Prim {
            autograd_core::Prim::Static(&$op)
        }
        fn rule(&self) -> autograd_core::Rule<'_> {
            autograd_core::Rule::General(self)
        }
        crate::linalg::batches!();
    };
}
pub(crate) use plain_parts;

pub(crate) fn rebuild(tag: &str, parameters: &[Parameter], x: &[Meta]) -> Option<Prim> {
    determinant::rebuild(tag, parameters, x)
        .or_else(|| factors::rebuild(tag, parameters, x))
        .or_else(|| inverse::rebuild(tag, parameters, x))
        .or_else(|| solve::rebuild(tag, parameters, x))
        .or_else(|| spectral::rebuild(tag, parameters, x))
}

/// Tangents of outputs, `None` for zero.
type Tangents = SmallVec<[Option<TrackedTensor>; 2]>;
