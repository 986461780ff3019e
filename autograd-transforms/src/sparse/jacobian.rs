//! Sparse Jacobians: a few products in place of one for each column or row.

use super::colouring::{Colouring, column_colouring, row_colouring};
use super::csr::CsrMatrix;
use super::pattern::SparsityPattern;
use super::tracer::jacobian_sparsity;
use crate::single::{map, push};
use autograd_core::algebra::{cast, zeros_like};
use autograd_core::{Error, Result, Site, TrackedTensor};
use autograd_ops::TensorAutograd;
use autograd_tape::GradientTape;

/// The most elements that the seeds of one pass have: more colours than that are done in several.
const MOST_SEED_ELEMENTS: usize = 1 << 24;

/// Which side of the Jacobian is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Columns, by products J·s in forward mode.
    Forward,
    /// Rows, by products sᵀ·J in reverse mode.
    Reverse,
}

/// A plan for the Jacobian of one function: structure and colours, found once and used at any
/// point.
///
/// The structure must hold where the plan is used: it belongs to the function and to the shape of
/// its input.
#[derive(Clone, Debug)]
pub struct SparseJacobian {
    pattern: SparsityPattern,
    compression: Compression,
    colouring: Colouring,
}

impl SparseJacobian {
    /// The plan for a structure: columns or rows, whichever need fewer colours.
    pub fn new(pattern: SparsityPattern) -> Self {
        let (columns, rows) = (column_colouring(&pattern), row_colouring(&pattern));
        // A reverse product costs more than a forward one, so a tie goes forward.
        if rows.count() < columns.count() {
            Self { pattern, compression: Compression::Reverse, colouring: rows }
        } else {
            Self { pattern, compression: Compression::Forward, colouring: columns }
        }
    }

    /// The plan for a structure with the compression given.
    pub fn with_compression(pattern: SparsityPattern, compression: Compression) -> Self {
        let colouring = match compression {
            Compression::Forward => column_colouring(&pattern),
            Compression::Reverse => row_colouring(&pattern),
        };
        Self { pattern, compression, colouring }
    }

    /// The plan for a function: its structure is detected at `x`.
    ///
    /// # Errors
    /// As [`jacobian_sparsity`].
    #[track_caller]
    pub fn detect(
        f: impl FnOnce(&TrackedTensor) -> Result<TrackedTensor>,
        x: &TrackedTensor,
    ) -> Result<Self> {
        Ok(Self::new(jacobian_sparsity(f, x)?))
    }

    /// The structure.
    pub fn pattern(&self) -> &SparsityPattern {
        &self.pattern
    }

    /// How many products the Jacobian takes.
    pub fn colours(&self) -> usize {
        self.colouring.count()
    }

    /// Which side is compressed.
    pub fn compression(&self) -> Compression {
        self.compression
    }

    /// The Jacobian of `f` at `x`: rows for the elements of f(x), columns for those of `x`, in
    /// row-major order. Its values can be watched: by an outer tape, say.
    ///
    /// # Errors
    /// [`Error::Shape`] where `x` or f(x) has not as many elements as the structure; what `f`
    /// reports, or an op that cannot be batched.
    #[track_caller]
    pub fn evaluate(
        &self,
        f: impl Fn(&TrackedTensor) -> Result<TrackedTensor>,
        x: &TrackedTensor,
    ) -> Result<CsrMatrix> {
        let site = Site::caller();
        let (rows, columns) = (self.pattern.rows(), self.pattern.columns());
        self.check("the input", x, columns, site)?;
        let seeded = match self.compression {
            Compression::Forward => columns,
            Compression::Reverse => rows,
        };
        let products = compressed(&self.colouring, seeded, x, |seeds| match self.compression {
            Compression::Forward => {
                let product = |seed: &TrackedTensor| {
                    let (_, dy) = push(&f, x, &seed.reshape(x.dims())?)?;
                    self.check("the output", &dy, rows, site)?;
                    dy.flatten_all()
                };
                map(product, seeds)
            }
            Compression::Reverse => {
                let product = |seed: &TrackedTensor| {
                    let tape = GradientTape::new();
                    let variable = tape.try_variable(x)?;
                    let y = f(&variable)?;
                    self.check("the output", &y, rows, site)?;
                    if !tape.watches(&y) {
                        return zeros_like(x)?.flatten_all();
                    }
                    let seed = seed.reshape(y.dims())?;
                    tape.gradient_with(&[&y], &[&seed], &[&variable])?[0].flatten_all()
                };
                map(product, seeds)
            }
        })?;
        let colours = self.colouring.colours();
        let place = |(i, j): (usize, usize)| match self.compression {
            Compression::Forward => colours[j] as usize * rows + i,
            Compression::Reverse => colours[i] as usize * columns + j,
        };
        extract(&self.pattern, &products, place)
    }

    fn check(&self, what: &str, x: &TrackedTensor, wanted: usize, site: Site) -> Result<()> {
        if let Some(error) = x.failure() {
            return Err(error.clone());
        }
        if x.elem_count() == wanted {
            return Ok(());
        }
        let reason = format!("{what} has {} elements, the structure {wanted}", x.elem_count());
        Err(Error::shape("sparse_jacobian", &[*x.shape()], reason).or_at(site))
    }
}

/// The products with the seeds of all colours, one row a colour.
pub(super) fn compressed(
    colouring: &Colouring,
    seeded: usize,
    like: &TrackedTensor,
    mut product: impl FnMut(&TrackedTensor) -> Result<TrackedTensor>,
) -> Result<TrackedTensor> {
    let at_once = (MOST_SEED_ELEMENTS / seeded.max(1)).max(1);
    let mut parts: Vec<TrackedTensor> = Vec::new();
    let mut start = 0;
    while start < colouring.count() {
        let count = at_once.min(colouring.count() - start);
        let mut seeds = vec![0f32; count * seeded];
        for (column, &colour) in colouring.colours().iter().enumerate() {
            if let Some(row) = (colour as usize).checked_sub(start).filter(|&row| row < count) {
                seeds[row * seeded + column] = 1.0;
            }
        }
        let seeds = cast(&TrackedTensor::from_vec(seeds, &[count, seeded])?, like.dtype())?;
        parts.push(product(&seeds)?);
        start += count;
    }
    match parts.len() {
        0 => TrackedTensor::from_vec(Vec::<f32>::new(), &[0, 0]).and_then(|none| cast(&none, like.dtype())),
        1 => Ok(parts.swap_remove(0)),
        _ => TrackedTensor::cat(&parts, 0),
    }
}

/// The entries of a structure out of the products: `place` says where each one is.
pub(super) fn extract(
    pattern: &SparsityPattern,
    products: &TrackedTensor,
    place: impl Fn((usize, usize)) -> usize,
) -> Result<CsrMatrix> {
    let places: Vec<i64> = pattern.entries().map(|entry| place(entry) as i64).collect();
    let nnz = places.len();
    let places = TrackedTensor::from_vec(places, &[nnz])?;
    CsrMatrix::new(pattern.clone(), products.flatten_all()?.index_select(places, 0)?)
}

/// The sparse Jacobian of `f` at `x`: [`SparseJacobian::detect`] and
/// [`evaluate`](SparseJacobian::evaluate) in one. Keep the plan to take it at several points.
///
/// # Errors
/// As those two.
///
/// ```
/// use autograd_core::{Result, TrackedTensor};
/// use autograd_ops::TensorAutograd;
/// use autograd_transforms::sparse::sparse_jacobian;
///
/// fn main() -> Result<()> {
///     let x = TrackedTensor::from_vec(vec![1f64, 2., 3.], &[3])?;
///     let jacobian = sparse_jacobian(|x| x.powf(3.), &x)?;
///     assert_eq!(jacobian.pattern().nnz(), 3);
///     assert_eq!(jacobian.values().to_vec1::<f64>()?, [3., 12., 27.]);
///     Ok(())
/// }
/// ```
#[track_caller]
pub fn sparse_jacobian(
    f: impl Fn(&TrackedTensor) -> Result<TrackedTensor>,
    x: &TrackedTensor,
) -> Result<CsrMatrix> {
    SparseJacobian::detect(&f, x)?.evaluate(&f, x)
}
