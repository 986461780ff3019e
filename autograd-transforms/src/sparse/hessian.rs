//! Sparse Hessians by star colouring and products of the Hessian with seeds.

use super::colouring::{Colouring, star_colouring};
use super::csr::CsrMatrix;
use super::jacobian::{compressed, extract};
use super::pattern::SparsityPattern;
use super::tracer::hessian_sparsity;
use crate::single::{gradient, map, push};
use autograd_core::{Error, Result, Site, TrackedTensor};
use autograd_ops::TensorAutograd;

/// A plan for the Hessian of one scalar function: structure and star colours, found once and used
/// at any point.
#[derive(Clone, Debug)]
pub struct SparseHessian {
    pattern: SparsityPattern,
    colouring: Colouring,
}

impl SparseHessian {
    /// The plan for a structure.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] where the structure is not symmetric.
    #[track_caller]
    pub fn new(pattern: SparsityPattern) -> Result<Self> {
        let colouring = star_colouring(&pattern)?;
        Ok(Self { pattern, colouring })
    }

    /// The plan for a function: its structure is detected at `x`.
    ///
    /// # Errors
    /// As [`hessian_sparsity`].
    #[track_caller]
    pub fn detect(
        f: impl FnOnce(&TrackedTensor) -> Result<TrackedTensor>,
        x: &TrackedTensor,
    ) -> Result<Self> {
        Self::new(hessian_sparsity(f, x)?)
    }

    /// The structure.
    pub fn pattern(&self) -> &SparsityPattern {
        &self.pattern
    }

    /// How many products the Hessian takes.
    pub fn colours(&self) -> usize {
        self.colouring.count()
    }

    /// The Hessian of `f` at `x`, its rows and columns the elements of `x` in row-major order.
    ///
    /// Entry (i, j) is read from the product of j's colour where j is the only one of it among the
    /// entries of row i, else from that of i's colour in row j; a star colouring leaves no third
    /// case (Gebremedhin, Manne and Pothen 2005, section 4).
    ///
    /// # Errors
    /// [`Error::Shape`] where `x` has not as many elements as the structure,
    /// [`Error::NonScalarTarget`], and what `f` reports.
    #[track_caller]
    pub fn evaluate(
        &self,
        f: impl Fn(&TrackedTensor) -> Result<TrackedTensor>,
        x: &TrackedTensor,
    ) -> Result<CsrMatrix> {
        let site = Site::caller();
        let n = self.pattern.columns();
        if let Some(error) = x.failure() {
            return Err(error.clone());
        }
        if x.elem_count() != n {
            let reason = format!("the input has {} elements, the structure {n}", x.elem_count());
            return Err(Error::shape("sparse_hessian", &[*x.shape()], reason).or_at(site));
        }
        let products = compressed(&self.colouring, n, x, |seeds| {
            let product = |seed: &TrackedTensor| {
                let tangent = seed.reshape(x.dims())?;
                push(|x| gradient(&f, x), x, &tangent)?.1.flatten_all()
            };
            map(product, seeds).map_err(|e| e.or_at(site))
        })?;
        let colours = self.colouring.colours();
        // Of each row, how many entries have each colour: kept for one row at a time.
        let mut alone = vec![0u32; self.colours()];
        let mut direct = vec![false; self.pattern.nnz()];
        let mut at = 0;
        for i in 0..n {
            let row = self.pattern.row(i);
            row.iter().for_each(|&j| alone[colours[j as usize] as usize] += 1);
            for &j in row {
                direct[at] = alone[colours[j as usize] as usize] == 1;
                at += 1;
            }
            row.iter().for_each(|&j| alone[colours[j as usize] as usize] = 0);
        }
        let next = std::cell::Cell::new(0);
        extract(&self.pattern, &products, |(i, j)| {
            let direct = direct[next.replace(next.get() + 1)];
            if direct { colours[j] as usize * n + i } else { colours[i] as usize * n + j }
        })
    }
}

/// The sparse Hessian of `f` at `x`: [`SparseHessian::detect`] and
/// [`evaluate`](SparseHessian::evaluate) in one.
///
/// # Errors
/// As those two.
///
/// ```
/// use autograd_core::{Result, TrackedTensor};
/// use autograd_ops::TensorAutograd;
/// use autograd_transforms::sparse::sparse_hessian;
///
/// fn main() -> Result<()> {
///     // x₀x₁ + x₂³: a block and a number.
///     let x = TrackedTensor::from_vec(vec![2f64, 3., 4.], &[3])?;
///     let f = |x: &TrackedTensor| {
///         let product = x.narrow(0, 0, 1)?.mul(&x.narrow(0, 1, 1)?)?;
///         product.add(&x.narrow(0, 2, 1)?.powf(3.)?)?.sum()
///     };
///     let hessian = sparse_hessian(f, &x)?.to_dense()?;
///     assert_eq!(hessian.to_vec2::<f64>()?, [[0., 1., 0.], [1., 0., 0.], [0., 0., 24.]]);
///     Ok(())
/// }
/// ```
#[track_caller]
pub fn sparse_hessian(
    f: impl Fn(&TrackedTensor) -> Result<TrackedTensor>,
    x: &TrackedTensor,
) -> Result<CsrMatrix> {
    SparseHessian::detect(&f, x)?.evaluate(&f, x)
}
