//! Anomalies: NaN and infinity, found where they arise.

use crate::node::{Node, Slot};
use crate::statistics::{Statistics, not_finite};
use crate::tape::GradientTape;
use crate::watch::{Passage, Watch};
use autograd_core::{Cotangents, Error, Primitive, Residual, Result, Site, TrackedTensor, is_float};
use std::cell::Cell;
use std::fmt::Write;

/// Which numbers are anomalies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Check {
    Off,
    Nan,
    NotFinite,
}

impl Check {
    pub(crate) fn from_number(number: u8) -> Self {
        match number {
            0 => Check::Off,
            1 => Check::Nan,
            _ => Check::NotFinite,
        }
    }
}

impl GradientTape {
    /// Looks at every number that the tape records and pulls back: the first op that makes a NaN or
    /// an infinity of finite numbers, forward or backward, gives [`Error::Anomaly`], which names the
    /// op, the user's line and what the op was given. For looking for a fault: a look costs a pass
    /// over each result. Numbers that are being captured or batched cannot be looked at.
    ///
    /// ```
    /// use autograd_core::{Error, Result, TrackedTensor};
    /// use autograd_tape::GradientTape;
    ///
    /// fn main() -> Result<()> {
    ///     let tape = GradientTape::new().detect_anomaly();
    ///     let x = tape.variable(TrackedTensor::scalar(0.0));
    ///     let error = (&TrackedTensor::scalar(1.0) / &x).unwrap_err();
    ///     assert!(matches!(error, Error::Anomaly { op: "div", pass: "forward", .. }));
    ///     println!("{error}");
    ///     Ok(())
    /// }
    /// ```
    #[must_use]
    pub fn detect_anomaly(self) -> Self {
        self.shared.set_check(Check::NotFinite);
        self
    }

    /// As [`detect_anomaly`](Self::detect_anomaly), for NaN alone: for functions that go through
    /// infinities on purpose, as attention masks do.
    #[must_use]
    pub fn detect_nan(self) -> Self {
        self.shared.set_check(Check::Nan);
        self
    }
}

thread_local! {
    /// Whether the tapes of this thread look at what they record: not during a sweep, whose ops are
    /// blamed on the op that was recorded.
    static UNCHECKED: Cell<bool> = const { Cell::new(false) };
}

/// Runs `f` while no tape of this thread looks at what it records.
pub(crate) fn unchecked<R>(f: impl FnOnce() -> R) -> R {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            UNCHECKED.set(self.0);
        }
    }
    let _restore = Restore(UNCHECKED.replace(true));
    f()
}

/// What is wrong with a value's numbers, in words; `None` where nothing is, or where they cannot be
/// looked at.
fn wrong(check: Check, x: &TrackedTensor) -> Result<Option<String>> {
    if !is_float(x.dtype()) || x.beneath().is_none() {
        return Ok(None);
    }
    let (nans, infinities) = not_finite(x)?;
    let total = x.elem_count();
    Ok(match (nans, infinities) {
        (0, 0) => None,
        (0, _) if check == Check::Nan => None,
        (0, n) => Some(format!("{n} of {total} numbers are infinite")),
        (n, _) => Some(format!("{n} of {total} numbers are NaN")),
    })
}

/// Checks a variable.
pub(crate) fn variable(check: Check, x: &TrackedTensor) -> Result<()> {
    match wrong(check, x)? {
        None => Ok(()),
        Some(found) => {
            let reason = "it came in as a variable".to_owned();
            Err(Error::Anomaly { op: "variable", pass: "forward", found, reason, at: Default::default() })
        }
    }
}

/// Checks the outputs of an application: an error where it made the anomaly of sound operands, or
/// where a NaN came in with a constant.
pub(crate) fn forward(
    check: Check,
    op: &dyn Primitive,
    slots: &[Option<Slot>],
    inner: &[&TrackedTensor],
    outputs: &[TrackedTensor],
) -> Result<()> {
    if UNCHECKED.get() {
        return Ok(());
    }
    for output in outputs {
        let Some(found) = wrong(check, output)? else { continue };
        let nan = wrong(Check::Nan, output)?.is_some();
        let mut given = String::new();
        for (i, (x, slot)) in inner.iter().zip(slots).enumerate() {
            // An output that is NaN is no fault of an op that was given NaN, nor an infinite one of
            // an op that was given infinity.
            let taken = wrong(if nan { Check::Nan } else { Check::NotFinite }, x)?;
            match (taken, slot) {
                (Some(taken), None) if nan => {
                    let reason = format!("they came in with operand {i}, a constant of which {taken}");
                    return Err(anomaly(op.name(), "forward", found, reason));
                }
                (Some(_), _) => return Ok(()),
                (None, _) => describe(&mut given, &format!("operand {i}"), x)?,
            }
        }
        return Err(anomaly(op.name(), "forward", found, given));
    }
    Ok(())
}

fn anomaly(op: &'static str, pass: &'static str, found: String, reason: String) -> Error {
    Error::Anomaly { op, pass, found, reason, at: Default::default() }
}

/// Appends what a value looks like.
fn describe(text: &mut String, role: &str, x: &TrackedTensor) -> Result<()> {
    if x.beneath().is_none() {
        return Ok(());
    }
    let s = Statistics::of(x)?;
    let comma = if text.is_empty() { "" } else { ", " };
    let _ = match (s.finite(), s.zeros) {
        (0, _) => write!(text, "{comma}{role} {} has no finite number", x.shape()),
        (_, 0) => write!(text, "{comma}{role} {} in [{:e}, {:e}]", x.shape(), s.min, s.max),
        (_, zeros) => {
            write!(text, "{comma}{role} {} in [{:e}, {:e}] with {zeros} zeros", x.shape(), s.min, s.max)
        }
    };
    Ok(())
}

/// Checks a sweep.
pub(crate) struct Backward {
    check: Check,
    /// The line that asked for the gradient.
    asked: Site,
}

impl Backward {
    pub(crate) fn new(check: Check, asked: Site) -> Self {
        Self { check, asked }
    }
}

impl Watch for Backward {
    fn arrive(&mut self, _: usize, node: &Node, cts: &mut Cotangents) -> Result<()> {
        for ct in cts.iter().flatten() {
            if let Some(found) = wrong(self.check, ct)? {
                let (op, asked) = (node.name(), self.asked);
                let reason =
                    format!("its cotangent is so already, by a seed, a hook or a sum (asked at {asked})");
                return Err(anomaly(op, "backward", found, reason).or_at(node.site));
            }
        }
        Ok(())
    }

    fn pass(&mut self, passage: &Passage<'_>) -> Result<()> {
        for (i, grad) in passage.grads.iter().enumerate() {
            let Some(grad) = grad.as_ref().filter(|_| passage.wanted.has(i)) else { continue };
            let Some(found) = wrong(self.check, grad)? else { continue };
            let mut reason = format!("the gradient of operand {i}");
            for (ct, output) in passage.cts.iter().zip(0..) {
                let role = if output == 0 { "cotangent".to_owned() } else { format!("cotangent {output}") };
                ct.as_ref().map_or(Ok(()), |ct| describe(&mut reason, &role, ct))?;
            }
            for (value, residual) in passage.kept.iter().zip(passage.reads()) {
                let role = match residual {
                    Residual::Input(i) => format!("operand {i}"),
                    Residual::Output(_) => "result".to_owned(),
                    Residual::Aux(_) => continue,
                };
                value.as_ref().map_or(Ok(()), |value| describe(&mut reason, &role, value))?;
            }
            let _ = write!(reason, " (asked at {})", self.asked);
            return Err(anomaly(passage.op.name(), "backward", found, reason).or_at(passage.node.site));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use autograd_core::algebra::{mul, sum_to};
    use autograd_core::{CustomOp, Shape, Tensor};

    fn vector(x: &[f64]) -> Result<TrackedTensor> {
        TrackedTensor::from_vec(x.to_vec(), &[x.len()])
    }

    fn error_of<T>(result: Result<T>) -> Error {
        match result {
            Err(error) => error,
            Ok(_) => panic!("an error was expected"),
        }
    }

    #[test]
    fn the_op_and_the_line_where_it_arose_forward() -> Result<()> {
        let tape = GradientTape::new().detect_anomaly();
        let x = tape.variable(vector(&[1.0, 0.0])?);
        let y = (&x * 2.0)?;
        let here = line!() + 1;
        let error = error_of(&y / &x);
        assert!(matches!(&error, Error::Anomaly { op: "div", pass: "forward", .. }), "{error}");
        assert_eq!(error.site().map(|site| site.line()), Some(here));
        let text = error.to_string();
        assert!(text.contains("1 of 2 numbers are NaN") && text.contains("with 1 zeros"), "{text}");
        Ok(())
    }

    /// The identity, whose gradient is not a number.
    struct Broken;

    impl CustomOp for Broken {
        fn name(&self) -> &'static str {
            "broken"
        }
        fn forward(&self, inputs: &[&Tensor]) -> Result<Tensor> {
            Ok(inputs[0].clone())
        }
        fn backward(&self, ct: &Tensor, _: &[&Tensor]) -> Result<Vec<Tensor>> {
            Ok(vec![(ct * f64::NAN)?])
        }
    }

    #[test]
    fn the_op_and_the_line_where_it_arose_backward() -> Result<()> {
        for persistent in [false, true] {
            let tape = GradientTape::new().detect_nan();
            let tape = if persistent { tape.persistent() } else { tape };
            let x = tape.variable(vector(&[1.0, 2.0])?);
            let here = line!() + 1;
            let y = tape.custom_op(Broken, &[&x])?;
            let z = sum_to(&mul(&y, &x)?, &Shape::SCALAR)?;
            let error = error_of(tape.derivative(&z, &x));
            assert!(matches!(&error, Error::Anomaly { op: "broken", pass: "backward", .. }), "{error}");
            assert_eq!(error.site().map(|site| site.line()), Some(here));
        }
        Ok(())
    }

    #[test]
    fn infinities_pass_where_only_nan_is_looked_for() -> Result<()> {
        let tape = GradientTape::new().detect_nan();
        let x = tape.variable(vector(&[1.0, 0.0])?);
        let inverse = (&vector(&[1.0, 1.0])? / &x)?;
        assert!(matches!(error_of(&inverse - &inverse), Error::Anomaly { op: "sub", .. }));
        let strict = GradientTape::new().detect_anomaly();
        let x = strict.variable(vector(&[1.0, 0.0])?);
        assert!(matches!(error_of(&vector(&[1.0, 1.0])? / &x), Error::Anomaly { op: "div", .. }));
        Ok(())
    }

    #[test]
    fn what_came_in_is_not_blamed_on_an_op() -> Result<()> {
        let tape = GradientTape::new().detect_anomaly();
        let nan = error_of(tape.try_variable(vector(&[f64::NAN])?));
        assert!(matches!(nan, Error::Anomaly { op: "variable", .. }), "{nan}");
        let x = tape.variable(vector(&[1.0])?);
        // A constant infinity is a mask; a constant NaN is reported as what it is.
        assert!((&x + &vector(&[f64::NEG_INFINITY])?).is_ok());
        let entered = error_of(&x + &vector(&[f64::NAN])?);
        assert!(entered.to_string().contains("operand 1, a constant"), "{entered}");
        Ok(())
    }

    #[test]
    fn a_seed_is_blamed_for_itself() -> Result<()> {
        let tape = GradientTape::new().detect_anomaly();
        let x = tape.variable(vector(&[1.0])?);
        let y = (&x * 2.0)?;
        let error = error_of(tape.gradient_with(&[&y], &[&vector(&[f64::NAN])?], &[&x]));
        assert!(error.to_string().contains("by a seed"), "{error}");
        Ok(())
    }

    #[test]
    fn sound_numbers_give_the_same_gradient() -> Result<()> {
        let gradient = |tape: GradientTape| -> Result<Vec<f64>> {
            let x = tape.variable(vector(&[1.0, 2.0])?);
            let y = sum_to(&mul(&x, &mul(&x, &x)?)?, &Shape::SCALAR)?;
            tape.derivative(&y, &x)?.to_vec1()
        };
        assert_eq!(gradient(GradientTape::new().detect_anomaly())?, gradient(GradientTape::new())?);
        Ok(())
    }
}
