//! Roots, fixed points and minima as differentiable functions of what their equations read.

use super::linear::{fits, linear_solve, moved, parameter_grads, transposed};
use super::newton::{self, At, SolveOptions};
use super::numbers::{values, write};
use super::record::{Recorded, record, run};
use crate::single::{gradient, push_all};
use autograd_core::algebra::{fill, narrow, neg, reshape, sub};
use autograd_core::smallvec::{SmallVec, smallvec};
use autograd_core::{
    Error, General, Grads, Mask, Meta, Prim, Primitive, Program, Residual, Residuals, Result, Rule, Saved,
    Shape, Signature, Site, SliceMut, TrackedTensor, Values, View, apply, checked_shape, is_float,
};
use std::fmt;
use std::sync::Arc;

/// What the solution is of.
#[derive(Clone)]
enum Equation {
    /// F(y) = 0.
    Root,
    /// f(y) = y.
    FixedPoint(Arc<Program>),
    /// ∇f(y) = 0.
    Minimum(Arc<Program>),
}

/// y with F(y, θ) = 0: inputs a guess and θ.
#[derive(Clone)]
struct Solution {
    equation: Equation,
    /// F.
    residual: Arc<Program>,
    options: SolveOptions,
}

impl fmt::Debug for Solution {
    // The address tells two functions of one form apart.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Solution({:?}, {:p})", self.options, Arc::as_ptr(&self.residual))
    }
}

/// y with f(y) = 0, shaped like `guess`, by Newton's method from there; the solution nearest to a
/// guess in that sense. A solution that was found elsewhere can be the guess: it is polished, and
/// becomes a differentiable function of what `f` reads.
///
/// # Errors
/// [`Error::Mismatch`] where f(y) is not like y, [`Error::InvalidArgument`] where Newton's method does
/// not converge or the Jacobian is singular, [`Error::ReadWhileCapturing`] where `f` reads
/// numbers, [`Error::UnsupportedDType`] for half types, and what `f` reports.
#[track_caller]
pub fn root(
    f: impl FnOnce(&TrackedTensor) -> Result<TrackedTensor>,
    guess: &TrackedTensor,
    options: &SolveOptions,
) -> Result<TrackedTensor> {
    let site = Site::caller();
    let op = Equation::Root.name();
    check(guess, site)?;
    let Recorded { program, captured } = record(|y| f(&y[0]), &[guess.meta()])?;
    fits(op, &program, &guess.meta(), site)?;
    let solution = Solution { equation: Equation::Root, residual: program, options: *options };
    solution.solved(guess, &captured, site)
}

/// y with f(y) = y, shaped like `guess`, by iteration from there: `f` must contract near it.
///
/// # Errors
/// As [`root`]; [`Error::InvalidArgument`] where the iteration does not converge.
///
/// ```
/// use autograd_core::{Result, TrackedTensor};
/// use autograd_ops::TensorAutograd;
/// use autograd_tape::GradientTape;
/// use autograd_transforms::implicit::fixed_point;
///
/// fn main() -> Result<()> {
///     // Heron's iteration for √a: its derivative is 1/(2√a).
///     let tape = GradientTape::new();
///     let a = tape.variable(TrackedTensor::scalar(4.0));
///     let y = fixed_point(|y| a.div(y)?.add(y)?.mul(0.5), &TrackedTensor::scalar(1.0), &Default::default())?;
///     assert!((y.to_scalar::<f64>()? - 2.0).abs() < 1e-12);
///     assert!((tape.derivative(&y, &a)?.to_scalar::<f64>()? - 0.25).abs() < 1e-12);
///     Ok(())
/// }
/// ```
#[track_caller]
pub fn fixed_point(
    f: impl FnOnce(&TrackedTensor) -> Result<TrackedTensor>,
    guess: &TrackedTensor,
    options: &SolveOptions,
) -> Result<TrackedTensor> {
    let site = Site::caller();
    check(guess, site)?;
    let Recorded { program, captured } = record(|y| f(&y[0]), &[guess.meta()])?;
    let equation = Equation::FixedPoint(program.clone());
    fits(equation.name(), &program, &guess.meta(), site)?;
    // y − f(y), recorded from the record so that it reads the same values in the same order.
    let residual = derived(&program, |y, all| sub(y, &run(&program, all)?))?;
    Solution { equation, residual, options: *options }.solved(guess, &captured, site)
}

/// y that minimizes the scalar f(y), shaped like `guess`: a local minimum, by Newton's method with a
/// line search from there.
///
/// # Errors
/// As [`root`]; [`Error::NonScalarTarget`]; [`Error::InvalidArgument`] where no minimum is found.
///
/// ```
/// use autograd_core::{Result, TrackedTensor};
/// use autograd_ops::TensorAutograd;
/// use autograd_tape::GradientTape;
/// use autograd_transforms::implicit::argmin;
///
/// fn main() -> Result<()> {
///     // The mean minimizes the squares of distances.
///     let tape = GradientTape::new();
///     let data = tape.variable(TrackedTensor::from_vec(vec![1f64, 2., 6.], &[3])?);
///     let squares = |y: &TrackedTensor| data.sub(y)?.sqr()?.sum();
///     let mean = argmin(squares, &TrackedTensor::scalar(0.0), &Default::default())?;
///     assert!((mean.to_scalar::<f64>()? - 3.0).abs() < 1e-12);
///     let slope = tape.derivative(&mean, &data)?.to_vec1::<f64>()?;
///     assert!(slope.iter().all(|s| (s - 1. / 3.).abs() < 1e-12));
///     Ok(())
/// }
/// ```
#[track_caller]
pub fn argmin(
    f: impl FnOnce(&TrackedTensor) -> Result<TrackedTensor>,
    guess: &TrackedTensor,
    options: &SolveOptions,
) -> Result<TrackedTensor> {
    let site = Site::caller();
    check(guess, site)?;
    let Recorded { program, captured } = record(|y| f(&y[0]), &[guess.meta()])?;
    let meta = super::linear::output_meta(&program)?;
    if meta.elements() != 1 {
        return Err(Error::NonScalarTarget { shape: meta.shape, at: site.into() });
    }
    let equation = Equation::Minimum(program.clone());
    let residual = derived(&program, |y, all| {
        gradient(
            |y| {
                let mut all: SmallVec<[&TrackedTensor; 4]> = all.iter().copied().collect();
                all[0] = y;
                run(&program, &all)
            },
            y,
        )
    })?;
    Solution { equation, residual, options: *options }.solved(guess, &captured, site)
}

fn check(guess: &TrackedTensor, site: Site) -> Result<()> {
    if let Some(error) = guess.failure() {
        return Err(error.clone());
    }
    if !is_float(guess.dtype()) {
        return Err(Error::NotDifferentiable { dtype: guess.dtype(), at: site.into() });
    }
    Ok(())
}

/// A program of the same inputs as another one, made from it.
fn derived(
    program: &Program,
    f: impl FnOnce(&TrackedTensor, &[&TrackedTensor]) -> Result<TrackedTensor>,
) -> Result<Arc<Program>> {
    let recorded = record(
        |all| {
            let refs: SmallVec<[&TrackedTensor; 4]> = all.iter().collect();
            f(&all[0], &refs)
        },
        &program.inputs,
    )?;
    if recorded.captured.is_empty() {
        return Ok(recorded.program);
    }
    Err(Error::internal("implicit", "a program held a watched value"))
}

impl Equation {
    fn name(&self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::FixedPoint(_) => "fixed_point",
            Self::Minimum(_) => "argmin",
        }
    }
}

impl Solution {
    fn solved(&self, guess: &TrackedTensor, captured: &[TrackedTensor], site: Site) -> Result<TrackedTensor> {
        let inputs: SmallVec<[&TrackedTensor; 4]> = std::iter::once(guess).chain(captured).collect();
        autograd_core::apply_single(self, &inputs, site)
    }
}

impl Primitive for Solution {
    fn name(&self) -> &'static str {
        self.equation.name()
    }

    fn keep(&self) -> Prim {
        Prim::Shared(Arc::new(self.clone()))
    }

    fn infer(&self, inputs: &[Meta]) -> Result<Signature> {
        Ok(Signature::one(inputs[0]))
    }

    fn eval_into(&self, inputs: &[View<'_>], outputs: &mut [SliceMut<'_>]) -> Result<()> {
        let op = self.name();
        let inputs = values(op, inputs)?;
        let (guess, read) = (&inputs[0], &inputs[1..]);
        let residual = At { program: &self.residual, read };
        let y = match &self.equation {
            Equation::Root => newton::root(op, &residual, guess, &self.options)?,
            Equation::FixedPoint(step) => {
                newton::fixed_point(op, &At { program: step, read }, guess, &self.options)?
            }
            Equation::Minimum(f) => {
                newton::minimum(op, &At { program: f, read }, &residual, guess, &self.options)?
            }
        };
        write(op, &y, &mut outputs[0])
    }

    fn rule(&self) -> Rule<'_> {
        Rule::General(self)
    }

    fn batch(&self, batched: Mask, inputs: &[&TrackedTensor], size: usize) -> Result<Option<Values>> {
        looped(self, batched, inputs, size)
    }
}

impl General for Solution {
    fn residuals(&self, _: Mask) -> Residuals {
        let inputs = (1..self.residual.inputs.len()).map(Residual::Input);
        inputs.chain([Residual::Output(0)]).collect()
    }

    // λ = F_y⁻ᵀ·ct; θ̄ = −λᵀ·F_θ. The solution does not depend on the guess.
    fn vjp(&self, wanted: Mask, cts: &[Option<TrackedTensor>], saved: &Saved<'_>) -> Result<Grads> {
        let mut grads: Grads = smallvec![None; saved.inputs.len()];
        let Some(ct) = &cts[0] else { return Ok(grads) };
        let y = saved.output(0)?;
        let read: Vec<&TrackedTensor> =
            (1..saved.inputs.len()).map(|i| saved.input(i)).collect::<Result<_>>()?;
        let solver = self.options.linear;
        let lambda = linear_solve(|v| transposed(&self.residual, y, &read, v), ct, solver)?;
        parameter_grads(&self.residual, y, &read, &neg(&lambda)?, wanted, &mut grads)?;
        Ok(grads)
    }

    // F_y·ẏ = −F_θ·θ̇.
    fn jvp(
        &self,
        inputs: &[&TrackedTensor],
        outputs: &[TrackedTensor],
        tangents: &[Option<TrackedTensor>],
    ) -> Result<Option<SmallVec<[Option<TrackedTensor>; 2]>>> {
        let (y, read) = (&outputs[0], &inputs[1..]);
        let Some(moved) = moved(&self.residual, y, read, &tangents[1..])? else {
            return Ok(Some(smallvec![None]));
        };
        let along = |v: &TrackedTensor| {
            let at = |y: &[TrackedTensor]| {
                let all: SmallVec<[&TrackedTensor; 4]> =
                    std::iter::once(&y[0]).chain(read.iter().copied()).collect();
                run(&self.residual, &all)
            };
            Ok(push_all(at, &[y], &[v])?.1)
        };
        Ok(Some(smallvec![Some(linear_solve(along, &neg(&moved)?, self.options.linear)?)]))
    }
}

/// A batch of solutions, one after the other: solvers take different numbers of steps.
pub(super) fn looped(
    op: &dyn Primitive,
    batched: Mask,
    inputs: &[&TrackedTensor],
    size: usize,
) -> Result<Option<Values>> {
    let example = |x: &TrackedTensor, i: usize| -> Result<TrackedTensor> {
        reshape(&narrow(x, 0, i, 1)?, &Shape::new(&x.dims()[1..]))
    };
    let mut rows: Vec<TrackedTensor> = Vec::with_capacity(size);
    for i in 0..size {
        let one: SmallVec<[TrackedTensor; 4]> = inputs
            .iter()
            .enumerate()
            .map(|(k, x)| if batched.has(k) { example(x, i) } else { Ok((*x).clone()) })
            .collect::<Result<_>>()?;
        let refs: SmallVec<[&TrackedTensor; 4]> = one.iter().collect();
        rows.extend(apply(op, &refs)?);
    }
    if size == 0 {
        let meta = inputs[0].meta();
        let dims: &[usize] = if batched.has(0) { &meta.shape.dims()[1..] } else { meta.shape.dims() };
        let dims: SmallVec<[usize; 8]> = std::iter::once(0).chain(dims.iter().copied()).collect();
        return Ok(Some(smallvec![fill(
            0.0,
            &meta.with_shape(checked_shape(op.name(), &dims)?),
            inputs[0]
        )?]));
    }
    Ok(Some(smallvec![autograd_ops::stack(&rows, 0)?]))
}
