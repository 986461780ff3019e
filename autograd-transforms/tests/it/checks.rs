//! The checks find what is wrong, name it, and do not cry at kinks.

use crate::models::draw;
use autograd_core::{CustomOp, Result, TrackedTensor};
use autograd_ops::TensorAutograd;
use autograd_transforms::{GradCheck, Scheme, gradcheck, gradgradcheck, jacobian_check, jacrev};
use candle_core::{DType, Tensor};
use std::cell::Cell;

/// x³ with a gradient that is off by a factor in one element.
#[derive(Debug)]
struct Crooked;

impl CustomOp for Crooked {
    fn name(&self) -> &'static str {
        "crooked"
    }
    fn forward(&self, inputs: &[&Tensor]) -> Result<Tensor> {
        Ok(inputs[0].powf(3.0)?)
    }
    fn backward(&self, ct: &Tensor, inputs: &[&Tensor]) -> Result<Vec<Tensor>> {
        let factors = Tensor::new(&[3f64, 3.0, 3.3], &candle_core::Device::Cpu)?;
        Ok(vec![(ct * inputs[0].sqr()?)?.mul(&factors)?])
    }
}

#[test]
fn a_wrong_entry_is_named() -> Result<()> {
    let x = TrackedTensor::from_vec(vec![1f64, 2., 3.], &[3])?;
    let f = |(a, x): &(TrackedTensor, TrackedTensor)| a.mul(autograd_core::custom(&Crooked, &[x])?);
    let a = TrackedTensor::scalar(1.0);
    for scheme in [Scheme::Central, Scheme::Fourth, Scheme::Sixth] {
        let report = GradCheck::new().scheme(scheme).run(f, &(&a, &x))?;
        assert_eq!(report.failures.len(), 1, "{scheme:?}: {report}");
        let wrong = &report.failures[0];
        assert_eq!((wrong.input.as_str(), &wrong.input_index[..]), (".1", &[2][..]));
        assert_eq!(&wrong.output_index[..], [2]);
        assert!((wrong.analytic - 29.7).abs() < 1e-9 && (wrong.numeric - 27.0).abs() < 1e-4, "{wrong}");
        let said = report.require().map_err(|e| e.to_string());
        assert!(said.is_err_and(|s| s.contains("d output[2] / d input.1[2]") && s.contains("checks.rs")));
    }
    let fast = GradCheck::new().fast().run(f, &(&a, &x))?;
    assert_eq!(fast.failures.len(), 1, "{fast}");
    assert_eq!(fast.failures[0].input, ".1");
    Ok(())
}

#[test]
fn right_gradients_pass_in_every_type_and_mode() -> Result<()> {
    let f = |x: &TrackedTensor| x.tanh()?.matmul(x.t()?)?.softmax(-1);
    for dtype in [DType::F64, DType::F32, DType::F16, DType::BF16] {
        let x = draw(&[2, 3], 1)?.to_dtype(dtype)?;
        for scheme in [Scheme::Central, Scheme::Fourth, Scheme::Sixth] {
            let check = GradCheck::new().scheme(scheme).forward_too();
            let report = check.clone().run(f, &x)?;
            assert!(report.passed() && report.compared == 48, "{dtype:?} {scheme:?}: {report}");
            let report = check.fast().run(f, &x)?;
            assert!(report.passed() && report.compared == 2, "{dtype:?} {scheme:?} fast: {report}");
        }
    }
    let x = draw(&[2, 3], 2)?;
    gradgradcheck(f, &x)?.require()?;
    jacobian_check(f, &x, &jacrev(f, &x)?)?.require()?;
    let wrong = jacobian_check(f, &x, &jacrev(f, &x)?.mul(1.01)?)?;
    assert!(!wrong.passed());
    Ok(())
}

#[test]
fn a_kink_in_the_stencil_is_no_failure() -> Result<()> {
    // relu at 0, and abs a third of a step beside it.
    let x = TrackedTensor::from_vec(vec![0f64, 1e-4, 1.0], &[3])?;
    let report = gradcheck(|x| x.relu()?.add(x.abs()?)?.mul(3.0), &x)?;
    assert!(report.passed(), "{report}");
    assert_eq!(report.kinks.len(), 2, "{report}");
    assert_eq!(report.kinks[0].input_index, [0]);
    // A smooth function with a wrong gradient does not hide as a kink.
    let wrong = gradcheck(|x| x.exp()?.mul(x.detach()?.cos()?), &x)?;
    assert!(!wrong.passed() && wrong.kinks.is_empty(), "{wrong}");
    Ok(())
}

#[test]
fn what_is_not_deterministic_is_said() -> Result<()> {
    let calls = Cell::new(0);
    let x = draw(&[2], 3)?;
    let report = gradcheck(
        |x| {
            calls.set(calls.get() + 1);
            x.mul(1.0 + 1e-3 * f64::from(calls.get()))
        },
        &x,
    )?;
    assert!(!report.passed());
    assert!(report.unstable.as_deref().is_some_and(|s| s.contains("two evaluations differ")), "{report}");
    Ok(())
}
