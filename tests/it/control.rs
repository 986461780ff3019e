//! Loops and custom rules: known figures, every order, every mode, errors.

use autograd_core::{Error, Mask, Result, TrackedTensor};
use autograd_forward::jvp;
use autograd_ops::TensorAutograd;
use autograd_tape::GradientTape;
use autograd_transforms::{ScanOptions, custom_jvp, custom_vjp, grad, scan, scan_with, vmap};
use candle_autograd::graph::capture;

fn number(x: f64) -> TrackedTensor {
    TrackedTensor::scalar(x)
}

fn value(x: &TrackedTensor) -> f64 {
    x.to_scalar::<f64>().expect("it is a number")
}

fn derivative(
    f: impl FnOnce(&TrackedTensor) -> Result<TrackedTensor>,
    x: &TrackedTensor,
) -> Result<TrackedTensor> {
    grad(f, x)
}

/// sin with a derivative that is 2·cos.
fn steep_sin(x: &TrackedTensor) -> Result<TrackedTensor> {
    let back = |x: &[TrackedTensor], _: &[TrackedTensor], ct: &[TrackedTensor]| {
        Ok(vec![x[0].cos()?.mul(&ct[0])?.mul(2.0)?])
    };
    Ok(custom_vjp(|x| Ok(vec![x[0].sin()?]), back, &[x])?.remove(0))
}

/// x² whose backward pass is g·x.
fn passed(x: &TrackedTensor) -> Result<TrackedTensor> {
    let back = |x: &[TrackedTensor], _: &[TrackedTensor], ct: &[TrackedTensor]| Ok(vec![ct[0].mul(&x[0])?]);
    Ok(custom_vjp(|x| Ok(vec![x[0].sqr()?]), back, &[x])?.remove(0))
}

#[test]
fn figures_of_custom_rules() -> Result<()> {
    let x = number(3.0);
    assert!((value(&derivative(steep_sin, &x)?) + 1.979985).abs() < 1e-6);
    assert_eq!(value(&passed(&x)?), 9.0);
    assert_eq!(value(&derivative(passed, &x)?), 3.0);
    // The second derivative is the backward pass's: g·x differentiated.
    assert_eq!(value(&derivative(|x| derivative(passed, x), &x)?), 1.0);
    // Forward mode transposes the backward pass: the same number.
    let (y, dy) = jvp(|x| Ok(vec![passed(&x[0])?]), &[&x], &[&number(1.0)])?;
    assert_eq!((value(&y[0]), value(&dy[0])), (9.0, 3.0));
    // Mapped: each example by its own rule.
    let many = TrackedTensor::from_vec(vec![1f64, 2., 3.], &[3])?;
    let slopes = vmap(|x| Ok(vec![derivative(passed, &x[0])?]), &[&many], Mask::one(0))?;
    assert_eq!(slopes[0].to_vec1::<f64>()?, [1., 2., 3.]);
    // Captured: rule and all.
    let program = capture(|x| Ok(vec![derivative(passed, &x[0])?]), &[x.meta()])?;
    assert_eq!(value(&program.run(&[&x])?[0]), 3.0);
    let program = capture(|x| Ok(vec![passed(&x[0])?]), &[x.meta()])?;
    assert_eq!(value(&derivative(|x| Ok(program.run(&[x])?.remove(0)), &x)?), 3.0);
    Ok(())
}

/// An input that all examples share gets the sum over them.
#[test]
fn a_shared_input_of_a_mapped_custom_rule() -> Result<()> {
    let product = |w: &TrackedTensor, x: &TrackedTensor| -> Result<TrackedTensor> {
        let made = custom_vjp(
            |x| Ok(vec![x[0].mul(&x[1])?]),
            |x, _, ct| Ok(vec![ct[0].mul(&x[1])?.mul(10.0)?, ct[0].mul(&x[0])?]),
            &[w, x],
        )?;
        Ok(made[0].clone())
    };
    let xs = TrackedTensor::from_vec(vec![1f64, 2., 3.], &[3])?;
    let total = |w: &TrackedTensor| {
        let ys = vmap(|x| Ok(vec![product(w, &x[0])?]), &[&xs], Mask::one(0))?;
        ys[0].sum()
    };
    assert_eq!(value(&derivative(total, &number(2.0))?), 60.0);
    Ok(())
}

#[test]
fn what_a_custom_rule_refuses() -> Result<()> {
    let x = number(3.0);
    // Clamping is not linear, so it cannot be transposed.
    let clipped = |x: &TrackedTensor| -> Result<TrackedTensor> {
        Ok(custom_vjp(|x| Ok(vec![x[0].clone()]), |_, _, ct| Ok(vec![ct[0].clamp(-1.0, 1.0)?]), &[x])?
            .remove(0))
    };
    assert_eq!(value(&derivative(|x| clipped(x)?.mul(5.0), &x)?), 1.0);
    let error = jvp(|x| Ok(vec![clipped(&x[0])?]), &[&x], &[&x]).expect_err("it is not linear");
    assert!(
        matches!(error, Error::UnsupportedMode { op: "custom_vjp", mode: "forward mode", .. }),
        "{error}"
    );
    let bent = |x: &TrackedTensor| -> Result<TrackedTensor> {
        Ok(custom_jvp(|x| Ok(vec![x[0].clone()]), |_, _, dx| Ok(vec![dx[0].sqr()?]), &[x])?.remove(0))
    };
    let error = derivative(bent, &x).expect_err("it is not linear");
    assert!(
        matches!(error, Error::UnsupportedMode { op: "custom_jvp", mode: "reverse mode", .. }),
        "{error}"
    );
    // A watched value that is no input would lose its gradient.
    let tape = GradientTape::new();
    let w = tape.variable(number(2.0));
    let line = line!() + 1;
    let error = custom_vjp(|x| Ok(vec![x[0].mul(&w)?]), |_, _, ct| Ok(vec![ct[0].clone()]), &[&x]);
    let error = error.expect_err("w is watched");
    assert!(error.to_string().contains("make it an input"), "{error}");
    assert_eq!(error.site().map(|site| site.line()), Some(line));
    // A rule that gives too few.
    let error = custom_vjp(|x| Ok(vec![x[0].mul(&x[1])?]), |_, _, ct| Ok(vec![ct[0].clone()]), &[&x, &x]);
    assert!(error.expect_err("one cotangent for two").to_string().contains("1 cotangents for 2"));
    // Reading a number.
    let error = custom_vjp(
        |x| Ok(vec![if x[0].to_scalar::<f64>()? > 0.0 { x[0].clone() } else { x[0].neg()? }]),
        |_, _, ct| Ok(vec![ct[0].clone()]),
        &[&x],
    );
    assert!(matches!(error, Err(Error::ReadWhileCapturing { .. })));
    Ok(())
}

/// What a custom rule keeps is what its backward pass reads.
#[test]
fn a_custom_rule_keeps_what_it_reads() -> Result<()> {
    type Rule = fn(&[TrackedTensor], &[TrackedTensor], &[TrackedTensor]) -> Result<Vec<TrackedTensor>>;
    let kept = |back: Rule| {
        let tape = GradientTape::new();
        let x = tape.variable(TrackedTensor::from_vec(vec![0f64; 10], &[10])?);
        let y = custom_vjp(|x| Ok(vec![x[0].sin()?]), back, &[&x])?;
        let bytes: usize = tape.nodes().iter().map(|node| node.kept_bytes).sum();
        drop(y);
        Ok::<_, Error>(bytes)
    };
    assert_eq!(kept(|_, _, ct| Ok(vec![ct[0].clone()]))?, 0);
    assert_eq!(kept(|x, _, ct| Ok(vec![ct[0].mul(x[0].cos()?)?]))?, 80);
    Ok(())
}

/// A chain of 1000 steps is one node, and its backward pass another loop.
#[test]
fn a_long_loop_is_one_node() -> Result<()> {
    let tape = GradientTape::new();
    let x = tape.variable(number(1.0));
    let options = ScanOptions { length: Some(1000), ..ScanOptions::default() };
    let (state, _) = scan_with(|s, _| Ok((vec![s[0].mul(1.001)?], vec![])), &[&x], &[], &options)?;
    assert_eq!(tape.len(), 2);
    let slope = tape.derivative(&state[0], &x)?;
    assert!((value(&slope) - 1.001f64.powi(1000)).abs() < 1e-12);
    Ok(())
}

/// The states are kept once, or not at all.
#[test]
fn bytes_that_a_loop_keeps() -> Result<()> {
    let kept = |recompute| -> Result<usize> {
        let tape = GradientTape::new();
        let start = tape.variable(TrackedTensor::from_vec(vec![0.5f64; 4], &[4])?);
        let rows = TrackedTensor::from_vec(vec![0.1f64; 400], &[100, 4])?;
        let options = ScanOptions { recompute, ..ScanOptions::default() };
        let step = |s: &[TrackedTensor], x: &[TrackedTensor]| Ok((vec![s[0].mul(&x[0])?.sin()?], vec![]));
        let (state, _) = scan_with(step, &[&start], &[&rows], &options)?;
        let bytes = tape.nodes().iter().map(|node| node.kept_bytes).sum();
        drop(state);
        Ok(bytes)
    };
    let sequence = 400 * 8;
    assert_eq!(kept(false)?, sequence + 100 * 4 * 8);
    assert_eq!(kept(true)?, sequence + 4 * 8);
    Ok(())
}

#[test]
fn a_loop_captured_and_differentiated() -> Result<()> {
    let power = |x: &TrackedTensor| -> Result<TrackedTensor> {
        let options = ScanOptions { length: Some(4), ..ScanOptions::default() };
        let (state, _) = scan_with(|s, _| Ok((vec![s[0].mul(x)?], vec![])), &[&number(1.0)], &[], &options)?;
        Ok(state[0].clone())
    };
    let x = number(1.5);
    let program = capture(|x| Ok(vec![power(&x[0])?]), &[x.meta()])?;
    assert_eq!(program.instructions.len(), 1);
    assert!(
        (value(&derivative(|x| Ok(program.run(&[x])?.remove(0)), &x)?) - 4.0 * 1.5f64.powi(3)).abs() < 1e-12
    );
    let third = derivative(|x| derivative(|x| derivative(power, x), x), &x)?;
    assert!((value(&third) - 24.0 * 1.5).abs() < 1e-12);
    Ok(())
}

#[test]
fn what_a_loop_refuses() -> Result<()> {
    let x = TrackedTensor::from_vec(vec![1f64, 2.], &[2])?;
    let grown = scan(|s, _| Ok((vec![s[0].unsqueeze(0)?], vec![])), &[&x], &[&x]);
    assert!(
        grown.expect_err("the state grows").to_string().contains("state 0 is [2] F64 and becomes [1, 2] F64")
    );
    let y = TrackedTensor::from_vec(vec![1f64; 3], &[3])?;
    assert!(scan(|_, _| Ok((vec![], vec![])), &[], &[&x, &y]).is_err());
    assert!(scan(|_, _| Ok((vec![], vec![])), &[], &[]).is_err());
    assert!(scan(|_, _| Ok((vec![], vec![])), &[], &[&number(1.0)]).is_err());
    Ok(())
}
