//! What cannot be attributed is a typed error that names the user's line.

use crate::models::{b2, ml, row, values};
use autograd_core::{Error, Result, TrackedTensor};
use autograd_interpret::{
    DeepLift, DeepLiftShap, FeatureAblation, FeaturePermutation, GradientShap, IntegratedGradients,
    KernelShap, Lime, Method, Noise, Occlusion, Saliency, ShapleyValues, Target,
};
use autograd_ops::TensorAutograd;

#[track_caller]
fn refused(method: &dyn Method, inputs: &[TrackedTensor], target: &Target, part: &str) {
    let f = |x: &[TrackedTensor]| ml(&x[0]);
    let error = method.attribute(&f, inputs, target).map(|_| ()).expect_err("it should be refused");
    assert!(error.to_string().contains(part), "{error}");
    assert!(error.site().is_some(), "{error}");
}

#[test]
fn inputs_that_are_none_empty_or_whole_numbers() {
    let index = Target::Index(0);
    refused(&Saliency::new(), &[], &index, "no inputs");
    refused(&Saliency::new(), &[values(&[], &[0, 3])], &index, "no elements");
    let whole = TrackedTensor::from_vec(vec![1u32, 2, 3], &[1, 3]).expect("three numbers");
    refused(&IntegratedGradients::new(), &[whole], &index, "tap");
}

#[test]
fn targets_that_are_not_there() {
    let x = [row(&[1., 2., 3.])];
    refused(&Saliency::new(), &x, &Target::Only, "name one of them");
    refused(&Saliency::new(), &x, &Target::Index(2), "no element [2]");
    refused(&IntegratedGradients::new(), &x, &Target::At(vec![0, 0]), "no element [0, 0]");
    refused(&FeatureAblation::new(), &x, &Target::Each(vec![0, 1]), "2 targets given for 1 examples");
    refused(&DeepLift::new(), &x, &Target::Several(vec![]), "empty list");
}

#[test]
fn baselines_masks_and_windows_that_do_not_fit() {
    let x = [row(&[1., 2., 3.])];
    let index = Target::Index(0);
    refused(&IntegratedGradients::new().baseline(row(&[1., 2.])), &x, &index, "does not broadcast");
    refused(&DeepLift::new().baseline(vec![row(&[1.]), row(&[1.])]), &x, &index, "2 baselines given for 1");
    refused(&DeepLiftShap::new(vec![row(&[1., 2.])]), &x, &index, "of the shape of its examples");
    refused(&GradientShap::new(row(&[1., 2.])), &x, &index, "alternatives");
    refused(&FeatureAblation::new().features(&row(&[0., 1.])), &x, &index, "feature mask");
    refused(&Occlusion::new(&[4]), &x, &index, "windows [4]");
    refused(&Occlusion::new(&[2, 1]), &x, &index, "windows [2, 1]");
    refused(&Occlusion::new(&[2]).stride(&[3]), &x, &index, "each stride");
}

#[test]
fn too_few_samples_and_too_many_features() {
    let x = [row(&[1., 2., 3.])];
    let index = Target::Index(0);
    refused(&IntegratedGradients::new().steps(0), &x, &index, "at least 1");
    refused(&Noise::around(Saliency::new()).samples(0), &x, &index, "no samples");
    refused(&ShapleyValues::sampled(0), &x, &index, "no orders");
    refused(&Lime::new(0), &x, &index, "at least one sample");
    refused(&KernelShap::new(2), &x, &index, "draw more");
    refused(&FeaturePermutation::new(), &x, &index, "two examples");
    let wide = |x: &TrackedTensor| x.sum_dim(1);
    let error = ShapleyValues::exact().explain(wide, &row(&[1.0; 21]), ()).map(|_| ());
    assert!(error.expect_err("2^21 coalitions").to_string().contains("group them, or sample"));
}

#[test]
fn an_output_that_is_no_number() {
    refused(&IntegratedGradients::new(), &[row(&[1., f64::NAN, 3.])], &Target::Index(0), "example 0 is NaN");
}

#[test]
fn deep_lift_refuses_what_it_cannot_divide() -> Result<()> {
    let op = |x: &TrackedTensor| autograd_core::custom(Twice, &[x]);
    let error = DeepLift::new().explain(op, &row(&[1.0]), ()).map(|_| ()).expect_err("an opaque op");
    assert!(matches!(error, Error::UnsupportedMode { mode: "DeepLift", .. }), "{error}");
    // Two inputs of one function are fine.
    let x = [values(&[3.], &[1]), values(&[1.], &[1])];
    assert!(DeepLift::new().attribute(&b2, &x, &Target::Only)?.worst_delta() < 1e-12);
    Ok(())
}

struct Twice;

impl autograd_core::CustomOp for Twice {
    fn forward(&self, inputs: &[&autograd_core::Tensor]) -> Result<autograd_core::Tensor> {
        Ok((inputs[0] * 2.0)?)
    }
    fn backward(
        &self,
        grad_output: &autograd_core::Tensor,
        _: &[&autograd_core::Tensor],
    ) -> Result<Vec<autograd_core::Tensor>> {
        Ok(vec![(grad_output * 2.0)?])
    }
}
