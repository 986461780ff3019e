//! The checks that every op of the registry gets for free, over any modes of differentiation.
//!
//! [`check`] draws numbers for each case of an op and compares, in f64 with fixed seeds: forward
//! mode with finite differences; reverse with forward mode (⟨u, Jv⟩ = ⟨Jᵀu, v⟩); second order in
//! three nestings; kernels with decompositions; batches with loops; odd memory layouts with plain
//! ones; f32, bf16 and f16 with f64. The harness knows no tape, no dual number and no batch: they
//! come in as [`Modes`]. Another crate that adds an op runs the same checks on it.
//!
//! It does not compare with other frameworks, nor does it know what an op should compute: values
//! are checked by fixtures from outside.
//!
//! ```
//! use autograd_ops::registry::find;
//! use autograd_ops::testing::{Check, Failure, Modes, check};
//!
//! # fn checked(modes: &dyn Modes) -> Result<(), Box<Failure>> {
//! let op = find("mul").expect("mul is in the registry");
//! let report = check(&op, modes)?;
//! assert!(report.is_covered(Check::SecondOrder));
//! # Ok(())
//! # }
//! ```

mod batch;
mod compare;
mod decomposition;
mod dtypes;
mod first_order;
mod hints;
mod layouts;
mod observe;
mod placed;
mod report;
mod sample;
mod second_order;
mod subject;
mod subsets;

pub use placed::{Place, check_placed};
pub use report::{Check, Failure, Gap, Reason, Report};

use crate::registry::{Case, Op};
use autograd_core::testing::count_evaluations;
use autograd_core::{DType, Error, Mask, Result, TrackedTensor, is_float};
use report::Stop;
use subject::Subject;

/// A function on values, as modes take it.
pub type Function<'a> = dyn Fn(&[TrackedTensor]) -> Result<Vec<TrackedTensor>> + 'a;

/// The modes of differentiation under which ops are checked. Every function that is passed in may
/// itself go through a mode, and values may be watched by one already.
pub trait Modes {
    /// The outputs of `f` at the primals, and Jᵀu for the cotangents u, one for each primal.
    /// Zeros where the outputs do not depend on a primal.
    ///
    /// # Errors
    /// What `f` or a rule reports.
    fn vjp(
        &self,
        f: &Function<'_>,
        primals: &[TrackedTensor],
        cotangents: &[TrackedTensor],
    ) -> Result<(Vec<TrackedTensor>, Vec<TrackedTensor>)>;

    /// The outputs of `f` at the primals, and Jv for the tangents v, one for each output. Zeros
    /// where an output does not depend on the primals.
    ///
    /// # Errors
    /// What `f` or a rule reports.
    fn jvp(
        &self,
        f: &Function<'_>,
        primals: &[TrackedTensor],
        tangents: &[TrackedTensor],
    ) -> Result<(Vec<TrackedTensor>, Vec<TrackedTensor>)>;

    /// `f` for each element of axis 0 of the inputs in `mapped`, with the other inputs shared;
    /// outputs are stacked at axis 0.
    ///
    /// # Errors
    /// What `f` or a rule reports.
    fn vmap(&self, f: &Function<'_>, inputs: &[TrackedTensor], mapped: Mask) -> Result<Vec<TrackedTensor>>;
}

/// The numbers with which a case is checked, always the same: for comparisons with other
/// frameworks.
#[derive(Clone, Debug)]
pub struct Numbers {
    /// All inputs.
    pub inputs: Vec<TrackedTensor>,
    /// A direction for each float input.
    pub tangents: Vec<TrackedTensor>,
    /// A cotangent for each float output.
    pub cotangents: Vec<TrackedTensor>,
}

impl Numbers {
    /// The numbers of a case of an op.
    ///
    /// # Errors
    /// What the case reports.
    pub fn of(op: &'static str, case: &Case) -> Result<Self> {
        let purpose = |what| [what, op, case.label.as_str(), "0"];
        let inputs: Vec<TrackedTensor> = case
            .inputs
            .iter()
            .enumerate()
            .map(|(i, sample)| sample::draw(sample, &purpose("input"), i))
            .collect::<Result<_>>()?;
        let like = |what, values: &[TrackedTensor]| -> Result<Vec<TrackedTensor>> {
            let floats = values.iter().filter(|x| is_float(x.dtype())).enumerate();
            floats.map(|(i, x)| sample::draw_like(x, &purpose(what), i)).collect()
        };
        let tangents = like("fixture tangent", &inputs)?;
        let cotangents = like("fixture cotangent", &(case.run)(&inputs)?)?;
        Ok(Self { inputs, tangents, cotangents })
    }
}

/// Runs every check on every case of an op.
///
/// # Errors
/// The first check that fails.
pub fn check(op: &Op, modes: &dyn Modes) -> Result<Report, Box<Failure>> {
    let mut report = Report::default();
    for case in (op.cases)() {
        report.add(check_case(op, &case, modes)?);
    }
    Ok(report)
}

/// Runs every check on one case of an op.
///
/// # Errors
/// The first check that fails.
pub fn check_case(op: &Op, case: &Case, modes: &dyn Modes) -> Result<Report, Box<Failure>> {
    let mut report = Report::of_one_case();
    let failure = |check, stop| Box::new(Failure::new(op.name, case, check, stop));
    let subject = Subject::new(op.name, case, modes).map_err(|stop| failure(Check::Values, stop))?;
    if subject.inputs.iter().any(|x| x.elem_count() > 0) {
        report.kernels = Some(count_evaluations(|| (case.run)(&subject.inputs)).1);
    }
    for check in Check::ALL {
        match run(check, &subject) {
            Ok(Outcome::Checked) => report.count(check),
            Ok(Outcome::Flat) => {
                report.count(check);
                report.flat += 1;
            }
            Ok(Outcome::NothingToCheck) => {}
            Err(Stop::Error(error)) if is_gap(check, &error) => report.gap(check, case, &error),
            Err(stop) => return Err(failure(check, stop)),
        }
    }
    Ok(report)
}

/// How a check that did not fail ended.
enum Outcome {
    Checked,
    /// Checked, and the tangent is zero.
    Flat,
    /// The case has nothing that the check could look at.
    NothingToCheck,
}

fn run(check: Check, subject: &Subject<'_>) -> Result<Outcome, Stop> {
    match check {
        Check::Values => subject.values(),
        Check::Forward => first_order::forward(subject),
        Check::Reverse => first_order::reverse(subject),
        Check::Adjoint => first_order::adjoint(subject),
        Check::SecondOrder => second_order::nestings(subject),
        Check::Hints => hints::unread_at_second_order(subject),
        Check::Subsets => subsets::of_inputs(subject),
        Check::Decomposition => decomposition::equals_kernel(subject),
        Check::Batch => batch::equals_loop(subject),
        Check::Layouts => layouts::equal(subject),
        Check::F32 => dtypes::near_f64(subject, DType::F32, dtypes::F32),
        Check::BF16 => dtypes::near_f64(subject, DType::BF16, dtypes::BF16),
        Check::F16 => dtypes::near_f64(subject, DType::F16, dtypes::F16),
    }
}

/// Whether an error says that the op does not support what the check needs.
fn is_gap(check: Check, error: &Error) -> bool {
    match error {
        Error::UnsupportedMode { .. } => true,
        Error::UnsupportedDType { .. } => matches!(check, Check::F32 | Check::BF16 | Check::F16),
        _ => false,
    }
}
