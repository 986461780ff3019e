//! Initial value problems as differentiable functions.

use super::adjoint::Segment;
use super::dormand_prince::{Accuracy, integrate, step};
use super::linear::fits;
use super::record::{Recorded, record, run};
use autograd_checkpoint::checkpoint;
use autograd_core::algebra::cast;
use autograd_core::smallvec::SmallVec;
use autograd_core::{DeviceLocation, Error, Meta, Result, Shape, Site, TrackedTensor, is_float};

pub(super) const OP: &str = "ode_solve";

/// How gradients flow back through an integration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Adjoint {
    /// The adjoint equation integrated backwards in time, with the state recomputed on the way
    /// (Chen, Rubanova, Bettencourt and Duvenaud, "Neural ordinary differential equations", NeurIPS 2018):
    /// memory for one state, whatever the number of steps. The gradient is that of the exact
    /// solution, to the accuracy asked for.
    #[default]
    Continuous,
    /// The steps that were taken, each as a checkpointed segment of the tape: the gradient of the
    /// computed numbers to rounding, with memory for one state a step.
    Discrete,
}

/// Accuracy and adjoint of an integration.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OdeOptions {
    /// The error of a step allowed for each element, as a part of the element.
    pub relative: f64,
    /// The error allowed besides.
    pub absolute: f64,
    /// The most steps between two times.
    pub most_steps: usize,
    /// How gradients flow back.
    pub adjoint: Adjoint,
}

impl Default for OdeOptions {
    /// 1e-7 of each element and 1e-9, within 10,000 steps, by the continuous adjoint.
    fn default() -> Self {
        Self { relative: 1e-7, absolute: 1e-9, most_steps: 10_000, adjoint: Adjoint::Continuous }
    }
}

/// The solution of dy/dt = f(t, y), y(times\[0\]) = y0, at each of the later times, by the adaptive
/// method of Dormand and Prince of orders 5(4). Times ascend or descend. Differentiable to any
/// order with respect to y0 and to whatever watched values `f` reads, in reverse and forward
/// mode; not with respect to the times. Steps are chosen from numbers and count as constants.
///
/// `f` gets t as a value without dimensions of y's type, and must not look at numbers to choose
/// what it computes.
///
/// # Errors
/// [`Error::Mismatch`] where f(t, y) is not like y; [`Error::InvalidArgument`] for fewer than two
/// times, times that are not in order or not finite, accuracies that are not positive, or an integration
/// that does not arrive; [`Error::ReadWhileCapturing`] where `f` reads numbers, or in
/// [`Adjoint::Discrete`] under `vmap`; [`Error::UnsupportedDType`] for half types.
///
/// ```
/// use autograd_core::{Result, TrackedTensor};
/// use autograd_ops::TensorAutograd;
/// use autograd_tape::GradientTape;
/// use autograd_transforms::implicit::ode_solve;
///
/// fn main() -> Result<()> {
///     // y' = −k·y: y(1) = e^−k and ∂y(1)/∂k = −e^−k.
///     let tape = GradientTape::new();
///     let k = tape.variable(TrackedTensor::scalar(2.0));
///     let y = ode_solve(|_, y| k.mul(y)?.neg(), &TrackedTensor::scalar(1.0), &[0.0, 1.0], &Default::default())?;
///     let exact = (-2f64).exp();
///     assert!((y[0].to_scalar::<f64>()? - exact).abs() < 1e-7);
///     assert!((tape.derivative(&y[0], &k)?.to_scalar::<f64>()? + exact).abs() < 1e-7);
///     Ok(())
/// }
/// ```
#[track_caller]
pub fn ode_solve(
    f: impl Fn(&TrackedTensor, &TrackedTensor) -> Result<TrackedTensor>,
    y0: &TrackedTensor,
    times: &[f64],
    options: &OdeOptions,
) -> Result<Vec<TrackedTensor>> {
    let site = Site::caller();
    check(y0, times, options, site)?;
    let accuracy =
        Accuracy { relative: options.relative, absolute: options.absolute, most_steps: options.most_steps };
    let meta = y0.meta();
    let time = Meta { shape: Shape::SCALAR, device: DeviceLocation::Cpu, ..meta };
    // y comes first, as in every program here.
    let Recorded { program, captured } = record(|all| f(&all[1], &all[0]), &[meta, time])?;
    fits(OP, &program, &meta, site)?;
    let mut solutions = Vec::with_capacity(times.len() - 1);
    let mut y = y0.clone();
    let field = |t: f64, y: &TrackedTensor| f(&cast(&TrackedTensor::scalar(t), y.dtype())?, y);
    // The steps are chosen on plain numbers.
    let plain: Vec<TrackedTensor> = match options.adjoint {
        Adjoint::Continuous => Vec::new(),
        Adjoint::Discrete => captured.iter().map(TrackedTensor::detach).collect::<Result<_>>()?,
    };
    let numbers = |t: f64, y: &TrackedTensor| {
        let t = cast(&TrackedTensor::scalar(t), y.dtype())?;
        let all: SmallVec<[&TrackedTensor; 4]> = [y, &t].into_iter().chain(&plain).collect();
        run(&program, &all)
    };
    for span in times.windows(2) {
        let span = (span[0], span[1]);
        y = match options.adjoint {
            Adjoint::Continuous => {
                Segment { field: program.clone(), span, accuracy }.solved(&y, &captured, site)?
            }
            Adjoint::Discrete => {
                let path =
                    integrate(OP, &numbers, &y.detach()?, span, &accuracy).map_err(|e| e.or_at(site))?;
                for (t, h) in path.steps {
                    let mut end = checkpoint(|y| Ok(vec![step(&field, t, h, &y[0])?]), &[&y])?;
                    y = end.pop().ok_or_else(|| Error::internal(OP, "a step without end"))?;
                }
                y
            }
        };
        solutions.push(y.clone());
    }
    Ok(solutions)
}

fn check(y0: &TrackedTensor, times: &[f64], options: &OdeOptions, site: Site) -> Result<()> {
    if let Some(error) = y0.failure() {
        return Err(error.clone());
    }
    if !is_float(y0.dtype()) {
        return Err(Error::NotDifferentiable { dtype: y0.dtype(), at: site.into() });
    }
    let wrong = |reason: String| Err(Error::argument(OP, reason).or_at(site));
    let ascending = times.windows(2).all(|t| t[0] < t[1]);
    let descending = times.windows(2).all(|t| t[0] > t[1]);
    if times.len() < 2 || !(ascending || descending) || times.iter().any(|t| !t.is_finite()) {
        return wrong(format!("times {times:?}: two or more, finite, ascending or descending, are needed"));
    }
    let positive = |x: f64| x > 0.0 && x.is_finite();
    if !(positive(options.relative) && positive(options.absolute)) {
        return wrong(format!(
            "accuracies {:e} and {:e} are not positive",
            options.relative, options.absolute
        ));
    }
    Ok(())
}
