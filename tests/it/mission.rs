//! The public API as people type it: these lines are the README's.

use candle_autograd::{
    CustomOp, DualTensor, ForwardADContext, GradientTape, Operation, Result, TapeNode, TensorAutograd,
    TrackedTensor,
};
use candle_core::{Device, Tensor};
use std::sync::Arc;

fn vector(data: &[f32]) -> Result<Tensor> {
    Ok(Tensor::from_vec(data.to_vec(), data.len(), &Device::Cpu)?)
}

#[test]
fn reverse_mode() -> Result<()> {
    let tape = GradientTape::new();
    let x = tape.variable(Tensor::from_vec(vec![2f32, 3.], 2, &Device::Cpu)?);
    let w = tape.variable(Tensor::from_vec(vec![5f32, 7.], 2, &Device::Cpu)?);
    let y = x.mul(&w)?;
    let z = y.sum()?;
    let grads = tape.gradient(&z, &[&x, &w])?;
    assert_eq!(z.to_scalar::<f32>()?, 31.);
    assert_eq!(grads[0].to_vec1::<f32>()?, [5., 7.]);
    assert_eq!(grads[1].to_vec1::<f32>()?, [2., 3.]);
    Ok(())
}

#[test]
fn forward_mode() -> Result<()> {
    let (value, tangent) = (vector(&[0.5, 1.5])?, vector(&[1., 2.])?);
    let mut ctx = ForwardADContext::new();
    let x = DualTensor::new(value, tangent);
    let y = ctx.sin(&x)?;
    let z = ctx.mul(&y, &x)?;
    let (value, tangent) = (z.value().to_vec1::<f32>()?, z.tangent().to_vec1::<f32>()?);
    for (i, (x, v)) in [(0.5f32, 1f32), (1.5, 2.)].into_iter().enumerate() {
        assert!((value[i] - x.sin() * x).abs() < 1e-6);
        assert!((tangent[i] - v * (x.cos() * x + x.sin())).abs() < 1e-6);
    }
    Ok(())
}

#[test]
fn higher_orders() -> Result<()> {
    let tape = GradientTape::new().persistent();
    let x = tape.variable(vector(&[2.])?);
    let y = x.pow(3)?;
    let dy = &tape.gradient(&y, &[&x])?[0];
    let ddy = &tape.gradient(dy, &[&x])?[0];
    assert_eq!(dy.to_vec1::<f32>()?, [12.]);
    assert_eq!(ddy.to_vec1::<f32>()?, [12.]);
    // The shorter way.
    assert_eq!(tape.derivative(&y, &x)?.to_vec1::<f32>()?, [12.]);
    Ok(())
}

#[test]
fn the_sixth_derivative() -> Result<()> {
    // d⁶(1/x) at 4 = 720/4⁷.
    let tape = GradientTape::new().persistent();
    let x = tape.variable(TrackedTensor::scalar(4.0));
    let mut y = x.recip()?;
    for _ in 0..6 {
        y = tape.gradient(&y, &[&x])?.remove(0);
    }
    assert!((y.to_scalar::<f64>()? - 0.0439453125).abs() < 1e-15);
    Ok(())
}

struct ClipGradient;

impl CustomOp for ClipGradient {
    fn forward(&self, inputs: &[&Tensor]) -> Result<Tensor> {
        Ok(inputs[0].clone())
    }
    fn backward(&self, grad_output: &Tensor, _inputs: &[&Tensor]) -> Result<Vec<Tensor>> {
        Ok(vec![grad_output.clamp(-1f32, 1f32)?])
    }
}

#[test]
fn a_users_own_op() -> Result<()> {
    let tape = GradientTape::new();
    let x = tape.variable(vector(&[1., 2.])?);
    let y = tape.custom_op(&ClipGradient, &[&x])?.mul(&vector(&[0.5, 9.])?)?.sum()?;
    assert_eq!(tape.gradient(&y, &[&x])?[0].to_vec1::<f32>()?, [0.5, 1.]);
    Ok(())
}

/// An op with a parameter is local: it goes in by value or by `Arc`.
struct ScaleGradient(f64);

impl CustomOp for ScaleGradient {
    fn name(&self) -> &'static str {
        "scale_gradient"
    }
    fn forward(&self, inputs: &[&Tensor]) -> Result<Tensor> {
        Ok(inputs[0].clone())
    }
    fn backward(&self, grad_output: &Tensor, _inputs: &[&Tensor]) -> Result<Vec<Tensor>> {
        Ok(vec![(grad_output * self.0)?])
    }
}

#[test]
fn a_local_op_by_value_and_by_arc() -> Result<()> {
    let tape = GradientTape::new();
    let x = tape.variable(vector(&[1.])?);
    let shared = Arc::new(ScaleGradient(3.0));
    let y = tape.custom_op(ScaleGradient(2.0), &[&x])?;
    let z = tape.custom_op(shared.clone(), &[&y])?.sum()?;
    assert_eq!(tape.derivative(&z, &x)?.to_vec1::<f32>()?, [6.]);
    Ok(())
}

#[test]
fn a_tape_is_data() -> Result<()> {
    let tape = GradientTape::new();
    let x = tape.variable(vector(&[1., 2.])?);
    let y = x.mul(&x)?.sum()?;
    let nodes: Vec<TapeNode> = tape.nodes();
    assert_eq!(nodes[0].operation, Operation::Variable);
    assert_eq!(nodes[1].operation, Operation::Primitive("mul"));
    assert!(nodes[1].site.file().ends_with("mission.rs"));
    assert!(tape.dump().contains("mul %0 %0"));
    assert!(tape.to_dot().starts_with("digraph tape {"));
    drop(y);
    Ok(())
}

#[test]
fn operators_and_scalars() -> Result<()> {
    let tape = GradientTape::new();
    let x = tape.variable(vector(&[1., 2.])?);
    let w = vector(&[3., 4.])?;
    let y = ((&x * &TrackedTensor::from(&w))? + 1.0)?.sum()?;
    assert_eq!(y.to_scalar::<f32>()?, 13.);
    assert_eq!(tape.derivative(&y, &x)?.to_vec1::<f32>()?, [3., 4.]);
    Ok(())
}
