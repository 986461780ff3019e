//! Checks of derivatives against finite differences, as a product: what a user runs on a function
//! before trusting its gradient.

mod difference;
mod entries;
mod report;
mod stability;
mod trees;

pub use difference::Scheme;
pub use report::{Comparison, Report};

use crate::reverse::vjp;
use autograd_core::{At, DType, Error, Result, Site, TrackedTensor, Tree, is_float};
use difference::numbers;
use report::Table;
use stability::unstable;
use trees::random_like;

/// Checks the gradients of `f` at a point: reverse mode against finite differences of fourth
/// order, entry by entry, with a tolerance by element type. See [`GradCheck`] for other schemes,
/// forward mode and the fast check.
///
/// # Errors
/// As [`GradCheck::run`]; a gradient that is wrong is no error but in the report.
///
/// ```
/// use autograd_core::{Result, TrackedTensor};
/// use autograd_ops::TensorAutograd;
/// use autograd_transforms::gradcheck;
///
/// fn main() -> Result<()> {
///     let x = TrackedTensor::from_vec(vec![0.5f64, 1.5], &[2])?;
///     gradcheck(|x| x.sin()?.mul(x), &x)?.require()?;
///     // A gradient that is cut off is found, with the place and both values.
///     let report = gradcheck(|x| x.sin()?.mul(x.detach()?), &x)?;
///     assert!(!report.passed());
///     let wrong = &report.failures[0];
///     assert_eq!((&wrong.input_index[..], &wrong.output_index[..]), (&[0][..], &[0][..]));
///     assert!(wrong.numeric > wrong.analytic);
///     Ok(())
/// }
/// ```
#[track_caller]
pub fn gradcheck<P, O>(f: impl Fn(&P::Owned) -> Result<O>, primals: &P) -> Result<Report>
where
    P: Tree + ?Sized,
    O: Tree<Owned = O>,
{
    GradCheck::new().run(f, primals)
}

/// Checks second derivatives: [`gradcheck`] of (x, v) ↦ vᵀJ(x) for a random v.
///
/// # Errors
/// As [`gradcheck`].
///
/// ```
/// use autograd_core::{Result, TrackedTensor};
/// use autograd_ops::TensorAutograd;
/// use autograd_transforms::gradgradcheck;
///
/// fn main() -> Result<()> {
///     let x = TrackedTensor::from_vec(vec![0.5f64, 1.5], &[2])?;
///     gradgradcheck(|x| x.tanh()?.mul(x), &x)?.require()
/// }
/// ```
#[track_caller]
pub fn gradgradcheck<P, O>(f: impl Fn(&P::Owned) -> Result<O>, primals: &P) -> Result<Report>
where
    P: Tree + ?Sized,
    O: Tree<Owned = O>,
{
    GradCheck::new().run_second(f, primals)
}

/// Checks a Jacobian that was found in another way, of shape output ++ input, against finite
/// differences of `f`.
///
/// # Errors
/// [`Error::Shape`] where `jacobian` has not that shape; as [`GradCheck::run`].
///
/// ```
/// use autograd_core::{Result, TrackedTensor};
/// use autograd_ops::TensorAutograd;
/// use autograd_transforms::jacobian_check;
///
/// fn main() -> Result<()> {
///     let x = TrackedTensor::from_vec(vec![1f64, 2.], &[2])?;
///     let by_hand = TrackedTensor::from_vec(vec![2f64, 0., 0., 4.], &[2, 2])?;
///     jacobian_check(|x| x.sqr(), &x, &by_hand)?.require()
/// }
/// ```
#[track_caller]
pub fn jacobian_check(
    f: impl Fn(&TrackedTensor) -> Result<TrackedTensor>,
    x: &TrackedTensor,
    jacobian: &TrackedTensor,
) -> Result<Report> {
    let site = Site::caller();
    let check = GradCheck::new();
    floats(x, site)?;
    let y = f(x)?;
    let want: Vec<usize> = y.dims().iter().chain(x.dims()).copied().collect();
    if jacobian.dims() != want {
        let reason = format!("the Jacobian of shape {} should have output ++ input", jacobian.shape());
        return Err(Error::shape("jacobian_check", &[*y.shape(), *x.shape()], reason).or_at(site));
    }
    let claimed = numbers(jacobian)?;
    let mut table = Table::new("given");
    let n = x.elem_count();
    check.columns(&f, x, &y, site, |_, column, _, row| claimed[row * n + column], &mut table)?;
    Ok(table.finish(None))
}

/// A check with its options.
///
/// ```
/// use autograd_core::{Result, TrackedTensor};
/// use autograd_ops::TensorAutograd;
/// use autograd_transforms::{GradCheck, Scheme};
///
/// fn main() -> Result<()> {
///     let x = TrackedTensor::from_vec(vec![0.5f64; 1000], &[1000])?;
///     // One random projection of the Jacobian instead of a million entries.
///     let report = GradCheck::new().fast().scheme(Scheme::Sixth).run(|x| x.exp(), &x)?;
///     assert!(report.passed());
///     assert_eq!(report.compared, 1);
///     Ok(())
/// }
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct GradCheck {
    scheme: Scheme,
    step: Option<f64>,
    tolerance: Option<(f64, f64)>,
    fast: bool,
    forward: bool,
    seed: u64,
}

impl Default for GradCheck {
    fn default() -> Self {
        Self { scheme: Scheme::Fourth, step: None, tolerance: None, fast: false, forward: false, seed: 0 }
    }
}

impl GradCheck {
    /// Reverse mode against differences of fourth order, entry by entry.
    pub fn new() -> Self {
        Self::default()
    }

    /// The differences to compare with.
    pub fn scheme(mut self, scheme: Scheme) -> Self {
        self.scheme = scheme;
        self
    }

    /// The step of the differences, relative to max(1, |x|); by default the one that balances
    /// truncation and rounding for the element type.
    pub fn step(mut self, step: f64) -> Self {
        self.step = Some(step);
        self
    }

    /// |analytic − numeric| ≤ absolute + relative·|numeric|; by default chosen by element type.
    /// The rounding of the differences themselves is allowed for in addition.
    pub fn tolerance(mut self, absolute: f64, relative: f64) -> Self {
        self.tolerance = Some((absolute, relative));
        self
    }

    /// One number vᵀJu for random u and v instead of every entry, for each pair of an input leaf
    /// and an output leaf.
    pub fn fast(mut self) -> Self {
        self.fast = true;
        self
    }

    /// Forward mode is checked too.
    pub fn forward_too(mut self) -> Self {
        self.forward = true;
        self
    }

    /// The seed of random directions.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Checks `f` at a point.
    ///
    /// # Errors
    /// [`Error::NotDifferentiable`] for integers among the primals; [`Error::InvalidArgument`] for
    /// a step or tolerance that is not positive; what `f` or a rule reports.
    #[track_caller]
    pub fn run<P, O>(&self, f: impl Fn(&P::Owned) -> Result<O>, primals: &P) -> Result<Report>
    where
        P: Tree + ?Sized,
        O: Tree<Owned = O>,
    {
        let site = Site::caller();
        self.sound(site)?;
        primals.leaves().into_iter().try_for_each(|x| floats(x, site))?;
        let primals = primals.rebuild(&mut |x| Ok(x.clone()))?;
        let unstable = unstable(&f, &primals, self.seed)?;
        if self.fast {
            self.projected(&f, &primals, unstable, site)
        } else {
            self.full(&f, &primals, unstable, site)
        }
    }

    /// Checks the second derivatives of `f` at a point; see [`gradgradcheck`].
    ///
    /// # Errors
    /// As [`run`](Self::run).
    #[track_caller]
    pub fn run_second<P, O>(&self, f: impl Fn(&P::Owned) -> Result<O>, primals: &P) -> Result<Report>
    where
        P: Tree + ?Sized,
        O: Tree<Owned = O>,
    {
        let site = Site::caller();
        primals.leaves().into_iter().try_for_each(|x| floats(x, site))?;
        let primals = primals.rebuild(&mut |x| Ok(x.clone()))?;
        let y = f(&primals)?;
        y.leaves().into_iter().try_for_each(|y| floats(y, site))?;
        let v = random_like(&y, self.seed ^ SECOND)?;
        self.run(|(x, v): &(P::Owned, O)| Ok(vjp(&f, x, v)?.1), &(primals, v))
    }

    fn sound(&self, site: Site) -> Result<()> {
        let positive = |x: f64| x.is_finite() && x > 0.0;
        if self.step.is_some_and(|step| !positive(step)) {
            return Err(Error::argument("gradcheck", "the step must be positive").or_at(site));
        }
        if self.tolerance.is_some_and(|(a, r)| !(a >= 0.0 && r >= 0.0 && positive(a + r))) {
            return Err(Error::argument("gradcheck", "tolerances must be positive").or_at(site));
        }
        Ok(())
    }

    /// The tolerance of one comparison.
    fn allowed(&self, x: DType, y: DType, numeric: f64, noise: f64) -> f64 {
        let (a, b) = (by_dtype(x), by_dtype(y));
        let (absolute, relative) = self.tolerance.unwrap_or((a.0.max(b.0), a.1.max(b.1)));
        absolute + relative * numeric.abs() + noise
    }
}

/// Tells the seed of a second-order check's cotangents from the others.
const SECOND: u64 = 0x5eed_0002;

/// Absolute and relative tolerance of an element type: some hundred times what its rounding and
/// the truncation of the differences leave on functions of moderate curvature.
fn by_dtype(dtype: DType) -> (f64, f64) {
    match dtype {
        DType::F64 => (1e-8, 1e-6),
        DType::F32 => (1e-4, 2e-3),
        DType::F16 => (2e-2, 5e-2),
        _ => (1e-1, 1e-1),
    }
}

fn floats(x: &TrackedTensor, site: Site) -> Result<()> {
    if let Some(error) = x.failure() {
        return Err(error.clone().or_at(site));
    }
    if is_float(x.dtype()) {
        Ok(())
    } else {
        Err(Error::NotDifferentiable { dtype: x.dtype(), at: At::from(site) })
    }
}
