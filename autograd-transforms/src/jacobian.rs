//! Jacobians: all derivatives of a function at once, by forward or by reverse mode.

use crate::batch::{joined, vmap};
use crate::reverse::variables;
use autograd_core::algebra::{cast, permute, reshape};
use autograd_core::smallvec::SmallVec;
use autograd_core::{DType, Error, Result, Shape, Site, TrackedTensor, Tree, checked_shape};
use autograd_forward::jvp;
use autograd_tape::GradientTape;

/// J by forward mode: column by column, all columns as one batch. For functions with as many
/// outputs as inputs or more. Each leaf of the result has the shape output ++ input.
///
/// # Errors
/// As [`Jacobian::of`].
///
/// ```
/// use autograd_core::{Result, TrackedTensor};
/// use autograd_ops::TensorAutograd;
/// use autograd_transforms::jacfwd;
///
/// fn main() -> Result<()> {
///     let x = TrackedTensor::from_vec(vec![1f64, 2.], &[2])?;
///     let j = jacfwd(|x| x.pow(3), &x)?;
///     assert_eq!(j.to_vec2::<f64>()?, [[3., 0.], [0., 12.]]);
///     Ok(())
/// }
/// ```
#[track_caller]
pub fn jacfwd<P: Tree + ?Sized>(
    f: impl Fn(&P::Owned) -> Result<TrackedTensor>,
    primals: &P,
) -> Result<P::Owned> {
    Jacobian::forward().of(f, primals)
}

/// J by reverse mode: row by row, all rows as one batch, after one evaluation of `f`. For
/// functions with fewer outputs than inputs. Each leaf of the result has the shape
/// output ++ input.
///
/// # Errors
/// As [`Jacobian::of`].
///
/// ```
/// use autograd_core::{Result, TrackedTensor};
/// use autograd_ops::TensorAutograd;
/// use autograd_transforms::jacrev;
///
/// fn main() -> Result<()> {
///     let x = TrackedTensor::from_vec(vec![1f64, 2., 3.], &[3])?;
///     let j = jacrev(|x| x.sqr()?.sum_keepdim(0), &x)?;
///     assert_eq!(j.to_vec2::<f64>()?, [[2., 4., 6.]]);
///     Ok(())
/// }
/// ```
#[track_caller]
pub fn jacrev<P: Tree + ?Sized>(
    f: impl Fn(&P::Owned) -> Result<TrackedTensor>,
    primals: &P,
) -> Result<P::Owned> {
    Jacobian::reverse().of(f, primals)
}

/// J by whichever mode needs fewer passes: reverse where `f` has fewer outputs than inputs,
/// forward otherwise. Each leaf of the result has the shape output ++ input.
///
/// # Errors
/// As [`Jacobian::of`].
#[track_caller]
pub fn jacobian<P: Tree + ?Sized>(
    f: impl Fn(&P::Owned) -> Result<TrackedTensor>,
    primals: &P,
) -> Result<P::Owned> {
    Jacobian::new().of(f, primals)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Forward,
    Reverse,
}

/// A Jacobian with its options: the mode, and how many directions are worked on at once.
///
/// ```
/// use autograd_core::{Result, TrackedTensor};
/// use autograd_ops::TensorAutograd;
/// use autograd_transforms::Jacobian;
///
/// fn main() -> Result<()> {
///     let x = TrackedTensor::from_vec(vec![1f64, 2., 3.], &[3])?;
///     let j = Jacobian::reverse().chunk_size(2).of(|x| x.sin(), &x)?;
///     assert_eq!(j.dims(), [3, 3]);
///     Ok(())
/// }
/// ```
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct Jacobian {
    mode: Option<Mode>,
    chunk_size: Option<usize>,
}

impl Jacobian {
    /// By the mode that needs fewer passes.
    pub fn new() -> Self {
        Self::default()
    }

    /// By forward mode.
    pub fn forward() -> Self {
        Self { mode: Some(Mode::Forward), chunk_size: None }
    }

    /// By reverse mode.
    pub fn reverse() -> Self {
        Self { mode: Some(Mode::Reverse), chunk_size: None }
    }

    /// At most so many rows or columns at once: memory grows with them.
    pub fn chunk_size(mut self, directions: usize) -> Self {
        self.chunk_size = Some(directions);
        self
    }

    /// The Jacobian of `f`: for each leaf of the primals a value of shape output ++ leaf.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for chunks of 0 directions or where output and input together
    /// have more than eight dimensions; [`Error::NotDifferentiable`] for integers among the
    /// primals; what `f` reports.
    #[track_caller]
    pub fn of<P: Tree + ?Sized>(
        &self,
        f: impl Fn(&P::Owned) -> Result<TrackedTensor>,
        primals: &P,
    ) -> Result<P::Owned> {
        let site = Site::caller();
        if self.chunk_size == Some(0) {
            return Err(Error::argument("jacobian", "chunks of 0 directions never end").or_at(site));
        }
        if self.mode == Some(Mode::Forward) {
            return self.by_columns(&f, primals, site);
        }
        // In one chunk the tape is read once, and gives its memory back on the way.
        let tape = match self.chunk_size {
            Some(_) => GradientTape::new().persistent(),
            None => GradientTape::new(),
        };
        let variables = variables(&tape, primals, site)?;
        let y = f(&variables)?;
        if let Some(error) = y.failure() {
            return Err(error.clone().or_at(site));
        }
        let inputs: usize = primals.leaves().iter().map(|x| x.elem_count()).sum();
        if self.mode.is_none() && y.elem_count() >= inputs {
            drop((tape, variables));
            return self.by_columns(&f, primals, site);
        }
        self.by_rows(&tape, &variables, &y, primals, site)
    }

    /// Unit cotangents pulled back through one recorded evaluation, as a batch.
    fn by_rows<P: Tree + ?Sized>(
        &self,
        tape: &GradientTape,
        variables: &P::Owned,
        y: &TrackedTensor,
        primals: &P,
        site: Site,
    ) -> Result<P::Owned> {
        let whole = |x: &TrackedTensor, rows: &TrackedTensor| joint(y.shape(), x.shape(), rows, site);
        let n = y.elem_count();
        if !tape.watches(y) || n == 0 {
            return primals.rebuild(&mut |x| {
                let shape = both(y.shape(), x.shape(), site)?;
                autograd_core::algebra::fill(0.0, &x.meta().with_shape(shape), x)
            });
        }
        let sources = variables.leaves();
        let mut parts = Vec::new();
        for units in self.units(n, y.shape(), y.dtype(), site) {
            let units = units?;
            let rows = vmap(|ct| tape.gradient_with_detached(&[y], &[ct], &sources), &units, 0);
            parts.push(rows.map_err(|e| e.or_at(site))?);
        }
        let rows = joined(parts, site)?;
        let mut next = rows.iter();
        primals.rebuild(&mut |x| {
            let rows = next.next().ok_or_else(|| Error::internal("jacobian", "a leaf is missing"))?;
            whole(x, rows)
        })
    }

    /// Unit tangents of each leaf pushed forward, as a batch.
    fn by_columns<P: Tree + ?Sized>(
        &self,
        f: &impl Fn(&P::Owned) -> Result<TrackedTensor>,
        primals: &P,
        site: Site,
    ) -> Result<P::Owned> {
        let leaves: Vec<TrackedTensor> = primals.leaves().into_iter().cloned().collect();
        let mut at = 0;
        primals.rebuild(&mut |x| {
            let i = at;
            at += 1;
            if !autograd_core::is_float(x.dtype()) && x.failure().is_none() {
                return Err(Error::NotDifferentiable { dtype: x.dtype(), at: site.into() });
            }
            // f of leaf i alone, the others held.
            let alone = |x: &TrackedTensor| {
                let mut leaves = leaves.clone();
                leaves[i] = x.clone();
                f(&primals.with_leaves(leaves)?)
            };
            let n = x.elem_count();
            if n == 0 {
                let y = alone(x)?;
                let shape = both(y.shape(), x.shape(), site)?;
                return autograd_core::algebra::fill(0.0, &y.meta().with_shape(shape), &y);
            }
            let mut parts = Vec::new();
            for units in self.units(n, x.shape(), x.dtype(), site) {
                let units = units?;
                let columns = vmap(|v| Ok(jvp(alone, x, v)?.1), &units, 0);
                parts.push(columns.map_err(|e| e.or_at(site))?);
            }
            let columns = joined(parts, site)?;
            let out: SmallVec<[usize; 8]> = SmallVec::from_slice(&columns.dims()[1..]);
            // The direction goes behind the output.
            let order: SmallVec<[usize; 8]> = (1..columns.rank()).chain(std::iter::once(0)).collect();
            let columns = permute(&columns, &order)?;
            joint(&Shape::new(&out), x.shape(), &columns, site)
        })
    }

    /// The rows of the identity in chunks, made one after the other, each row in a given shape.
    fn units(
        &self,
        n: usize,
        shape: &Shape,
        dtype: DType,
        site: Site,
    ) -> impl Iterator<Item = Result<TrackedTensor>> {
        let (shape, step) = (*shape, self.chunk_size.unwrap_or(n).min(n));
        (0..n)
            .step_by(step)
            .map(move |start| units(start, step.min(n - start), n, &shape, dtype).map_err(|e| e.or_at(site)))
    }
}

/// Rows start .. start + rows of the n×n identity, each in a given shape.
pub(crate) fn units(
    start: usize,
    rows: usize,
    n: usize,
    shape: &Shape,
    dtype: DType,
) -> Result<TrackedTensor> {
    let mut data = vec![0f32; rows * n];
    for row in 0..rows {
        data[row * n + start + row] = 1.0;
    }
    let dims: SmallVec<[usize; 8]> = std::iter::once(rows).chain(shape.dims().iter().copied()).collect();
    let shape = checked_shape("jacobian", &dims)?;
    cast(&reshape(&TrackedTensor::from_vec(data, &[rows, n])?, &shape)?, dtype)
}

/// The shape output ++ input.
fn both(y: &Shape, x: &Shape, site: Site) -> Result<Shape> {
    let dims: SmallVec<[usize; 16]> = y.dims().iter().chain(x.dims()).copied().collect();
    checked_shape("jacobian", &dims).map_err(|e| e.or_at(site))
}

fn joint(y: &Shape, x: &Shape, rows: &TrackedTensor, site: Site) -> Result<TrackedTensor> {
    reshape(rows, &both(y, x, site)?)
}
