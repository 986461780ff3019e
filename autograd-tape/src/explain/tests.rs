//! One test for each reason why a gradient is not what it was meant to be.

use super::*;
use autograd_core::algebra::{add, cast, mul, narrow, sub, sum_to};
use autograd_core::kernels::expr::Unary;
use autograd_core::{
    CustomOp, CutKind, DType, Definition, Error, ScalarExpr, Shape, Tensor, no_grad, pointwise, tap,
};
use std::sync::LazyLock;

static RELU: LazyLock<Definition> =
    LazyLock::new(|| Definition::new("relu", ScalarExpr::build(1, 0, |b, x, _| b.unary(Unary::Relu, x[0]))));
static LOG: LazyLock<Definition> =
    LazyLock::new(|| Definition::new("log", ScalarExpr::build(1, 0, |b, x, _| b.unary(Unary::Log, x[0]))));
static FLOOR: LazyLock<Definition> = LazyLock::new(|| {
    Definition::flat("floor", ScalarExpr::build(1, 0, |b, x, _| b.unary(Unary::Floor, x[0])))
});

fn vector(x: &[f64]) -> Result<TrackedTensor> {
    TrackedTensor::from_vec(x.to_vec(), &[x.len()])
}

fn total(x: &TrackedTensor) -> Result<TrackedTensor> {
    sum_to(x, &Shape::SCALAR)
}

/// The cut of an explanation, with the ops on the path.
fn cut_of(why: &Explanation) -> (CutKind, &'static str, u32, usize, Vec<&'static str>) {
    let Some(Cause::Cut { cut, operand, .. }) = why.causes.first() else { panic!("no cut: {why}") };
    assert_eq!(why.verdict, Verdict::Missing);
    (cut.kind, cut.op, cut.site.line(), *operand, why.path.iter().map(|step| step.op).collect())
}

#[test]
fn a_gradient_that_flows() -> Result<()> {
    let tape = GradientTape::new();
    let x = tape.variable(vector(&[3.0, 4.0])?);
    let y = total(&mul(&x, &x)?)?;
    let why = tape.explain(&y, &x)?;
    assert_eq!((why.verdict, why.causes.len()), (Verdict::Flows { norm: 10.0 }, 0));
    let ops: Vec<_> = why.path.iter().map(|step| (step.op, step.norm)).collect();
    assert_eq!(ops, [("sum_to", Some(1.0)), ("mul", Some(2f64.sqrt())), ("variable", Some(10.0))]);
    // The tape is as it was.
    assert_eq!(tape.derivative(&y, &x)?.to_vec1::<f64>()?, [6.0, 8.0]);
    Ok(())
}

#[test]
fn a_detached_value_and_what_was_computed_from_it() -> Result<()> {
    let tape = GradientTape::new();
    let (x, w) = (tape.variable(vector(&[1.0, 2.0])?), tape.variable(vector(&[1.0, 1.0])?));
    let hidden = mul(&x, &x)?;
    let line = line!() + 1;
    let loose = hidden.detach()?;
    // Untracked ops carry the cut on.
    let loose = (&(&loose * 2.0)? + 1.0)?;
    let y = total(&mul(&w, &loose)?)?;
    let why = tape.explain(&y, &x)?;
    let ops = vec!["sum_to", "mul", "mul", "variable"];
    assert_eq!(cut_of(&why), (CutKind::Detached, "detach", line, 1, ops));
    let text = why.to_string();
    assert!(
        text.contains("operand 1 of") && text.contains(&format!("detach at {}:{line}", file!())),
        "{text}"
    );
    assert!(matches!(tape.explain(&y, &w)?.verdict, Verdict::Flows { .. }));
    Ok(())
}

#[test]
fn a_flat_op_and_an_integer_cast() -> Result<()> {
    let tape = GradientTape::new();
    let (x, w) = (tape.variable(vector(&[1.5, 2.5])?), tape.variable(vector(&[1.0, 1.0])?));
    let y = total(&mul(&pointwise(&FLOOR, &[&x])?, &w)?)?;
    let (kind, op, _, operand, _) = cut_of(&tape.explain(&y, &x)?);
    assert_eq!((kind, op, operand), (CutKind::Flat, "floor", 0));
    let whole = cast(&cast(&x, DType::U32)?, DType::F64)?;
    let y = total(&mul(&w, &whole)?)?;
    let (kind, op, ..) = cut_of(&tape.explain(&y, &x)?);
    assert_eq!((kind, op), (CutKind::Flat, "to_dtype"));
    Ok(())
}

#[test]
fn a_paused_and_a_spent_tape() -> Result<()> {
    let tape = GradientTape::new();
    let (x, w) = (tape.variable(vector(&[1.5])?), tape.variable(vector(&[1.0])?));
    let silent = no_grad(|| &x * 2.0)?;
    let (kind, op, ..) = cut_of(&tape.explain(&mul(&w, &silent)?, &x)?);
    assert_eq!((kind, op), (CutKind::Paused, "scale"));
    // A state carried over from the tape of an earlier step.
    let before = GradientTape::new();
    let h = before.variable(vector(&[1.0])?);
    let state = (&h * 3.0)?;
    let line = line!() + 1;
    let _ = before.derivative(&state, &h)?;
    let y = mul(&w, &state)?;
    let why = tape.explain(&y, &x)?;
    let (kind, ..) = cut_of(&why);
    assert!(matches!(kind, CutKind::Spent(Some(at)) if at.line() == line), "{why}");
    Ok(())
}

#[test]
fn the_plain_value_in_place_of_the_variable() -> Result<()> {
    let tape = GradientTape::new();
    let plain = vector(&[1.0, 2.0])?;
    let (x, w) = (tape.variable(&plain), tape.variable(vector(&[1.0, 1.0])?));
    let y = total(&mul(&w, &plain)?)?;
    let why = tape.explain(&y, &x)?;
    assert!(matches!(why.causes[0], Cause::PlainUsed { operand: 1, .. }), "{why}");
    Ok(())
}

#[test]
fn a_way_through_candle() -> Result<()> {
    let tape = GradientTape::new();
    let (x, w) = (tape.variable(vector(&[1.0, 2.0])?), tape.variable(vector(&[1.0, 1.0])?));
    let outside = x.tensor()?.relu()?;
    let y = total(&mul(&w, &TrackedTensor::from(&outside))?)?;
    let why = tape.explain(&y, &x)?;
    assert!(matches!(why.causes[0], Cause::FromCandle { operand: 1, .. }), "{why}");
    Ok(())
}

#[test]
fn values_that_have_nothing_to_do_with_each_other() -> Result<()> {
    let tape = GradientTape::new();
    let (x, w) = (tape.variable(vector(&[1.0])?), tape.variable(vector(&[1.0])?));
    let y = mul(&w, &w)?;
    assert!(matches!(tape.explain(&y, &x)?.causes[0], Cause::Unrelated));
    let late = tape.variable(vector(&[1.0])?);
    assert!(matches!(tape.explain(&y, &late)?.causes[0], Cause::Later { .. }));
    let why = tape.explain(&vector(&[1.0])?, &x)?;
    assert!(matches!(why.causes[0], Cause::Untracked { role: "target", cut: None }), "{why}");
    let why = tape.explain(&y.detach()?, &w)?;
    assert!(matches!(why.causes[0], Cause::Untracked { role: "target", cut: Some(_) }), "{why}");
    assert_eq!(why.path.iter().map(|step| step.op).collect::<Vec<_>>(), ["mul", "variable"]);
    let why = tape.explain(&y, &vector(&[1.0])?)?;
    assert!(matches!(why.causes[0], Cause::Untracked { role: "source", .. }));
    let spent = line!() + 1;
    let _ = tape.derivative(&y, &w)?;
    let why = tape.explain(&y, &w)?;
    assert!(matches!(why.causes[0], Cause::Spent { at } if at.line() == spent));
    Ok(())
}

/// The place of the first cause of a gradient that is zero.
fn zero(why: &Explanation) -> Place {
    assert_eq!(why.verdict, Verdict::Zero, "{why}");
    why.causes[0].place().unwrap_or_else(|| panic!("{why}"))
}

#[test]
fn a_factor_of_zero() -> Result<()> {
    let tape = GradientTape::new();
    let x = tape.variable(vector(&[1.0, 2.0])?);
    let hidden = mul(&x, &x)?;
    let line = line!() + 1;
    let gated = mul(&hidden, &vector(&[0.0, 0.0])?)?;
    let why = tape.explain(&total(&gated)?, &x)?;
    assert_eq!(zero(&why).site.line(), line);
    assert!(matches!(why.causes[0], Cause::TimesZero { operand: 1, .. }), "{why}");
    assert_eq!(why.path.iter().map(|s| s.op).collect::<Vec<_>>(), ["sum_to", "mul", "mul", "variable"]);
    Ok(())
}

#[test]
fn a_dead_unit_and_a_gradient_that_misses() -> Result<()> {
    let tape = GradientTape::new();
    let x = tape.variable(vector(&[-1.0, -2.0, -3.0])?);
    let why = tape.explain(&total(&pointwise(&RELU, &[&x])?)?, &x)?;
    assert!(matches!(&why.causes[0], Cause::Saturated { at, .. } if at.op == "relu"), "{why}");
    // Alive at one element, which the target does not read.
    let x = tape.variable(vector(&[-1.0, -2.0, 3.0])?);
    let front = narrow(&pointwise(&RELU, &[&x])?, 0, 0, 2)?;
    let why = tape.explain(&total(&front)?, &x)?;
    assert!(matches!(&why.causes[0], Cause::Missed { at, alive: 1, of: 3 } if at.op == "relu"), "{why}");
    Ok(())
}

#[test]
fn contributions_that_cancel() -> Result<()> {
    let tape = GradientTape::new();
    let x = tape.variable(vector(&[1.0, 2.0])?);
    let why = tape.explain(&total(&sub(&x, &x)?)?, &x)?;
    assert!(matches!(&why.causes[0], Cause::Cancelled { at } if at.op == "variable"), "{why}");
    Ok(())
}

/// An op whose backward pass forgets its gradient.
struct Forgetful;

impl CustomOp for Forgetful {
    fn name(&self) -> &'static str {
        "forgetful"
    }
    fn forward(&self, inputs: &[&Tensor]) -> Result<Tensor> {
        Ok(inputs[0].clone())
    }
    fn backward(&self, ct: &Tensor, _: &[&Tensor]) -> Result<Vec<Tensor>> {
        Ok(vec![ct.zeros_like()?])
    }
}

#[test]
fn an_opaque_op_without_a_gradient() -> Result<()> {
    let tape = GradientTape::new();
    let x = tape.variable(vector(&[1.0, 2.0])?);
    let y = total(&tape.custom_op(Forgetful, &[&x])?)?;
    let why = tape.explain(&y, &x)?;
    assert!(matches!(&why.causes[0], Cause::Opaque { at } if at.op == "forgetful"), "{why}");
    Ok(())
}

#[test]
fn a_rule_that_makes_nan() -> Result<()> {
    let tape = GradientTape::new();
    let x = tape.variable(vector(&[0.0, 1.0])?);
    let line = line!() + 1;
    let y = pointwise(&LOG, &[&x])?;
    let z = total(&tap("logits", &add(&y, &y)?)?)?;
    let why = tape.explain(&z, &x)?;
    assert_eq!(why.verdict, Verdict::NotFinite { nans: 0, infinities: 1 });
    assert!(matches!(&why.causes[0], Cause::NotFinite { at, .. } if at.site.line() == line), "{why}");
    assert!(why.path.iter().any(|step| step.label.as_deref() == Some("logits")));
    Ok(())
}

#[test]
fn a_strict_gradient_says_what_cut_the_path() -> Result<()> {
    let tape = GradientTape::new();
    let (x, w) = (tape.variable(vector(&[1.0])?), tape.variable(vector(&[1.0])?));
    let y = mul(&w, &(&x * 2.0)?.detach()?)?;
    let line = line!() + 1;
    let Err(error) = tape.gradient_strict(&y, &[&w, &x]) else { panic!("x has no path") };
    assert!(matches!(&error, Error::NoPath { index: 1, .. }), "{error}");
    assert!(error.to_string().contains("detach at"), "{error}");
    assert_eq!(error.site().map(|site| site.line()), Some(line));
    // Nothing was spent.
    assert_eq!(tape.gradient_strict(&y, &[&w])?[0].to_vec1::<f64>()?, [2.0]);
    Ok(())
}
