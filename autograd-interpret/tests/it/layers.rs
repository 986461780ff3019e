//! Layers and neurons of models whose attributions are known.

use crate::models::{ROUNDING, close, conv, gives, ml, picture, row, values};
use autograd_core::{Result, TrackedTensor, tap};
use autograd_interpret::{
    AtLayer, Conductance, DeepLift, GuidedBackprop, IntegratedGradients, InternalInfluence, Lrp, Method,
    NeuronConductance, Saliency, Target, attention_rollout, grad_cam, guided_grad_cam, layer_activation,
    layer_gradient_x_activation, neuron, single,
};
use autograd_ops::TensorAutograd;

fn hundred() -> Vec<TrackedTensor> {
    vec![row(&[0., 100., 0.])]
}

#[test]
fn activation_and_gradient_x_activation_of_ml() -> Result<()> {
    let f = single(ml);
    close(&layer_activation(&f, &hundred(), "linear1")?, &[90., 101., 101., 101.], ROUNDING);
    let found = |layer: &str| layer_gradient_x_activation(&f, &hundred(), &Target::Index(0), layer);
    close(&found("linear0")?, &[0., 400., 0.], ROUNDING);
    close(&found("linear1")?, &[90., 101., 101., 101.], ROUNDING);
    close(&found("linear2")?, &[392., 0.], ROUNDING);
    Ok(())
}

#[test]
fn grad_cam_of_conv_and_ml() -> Result<()> {
    let f = single(conv);
    let x = [picture(0.0)];
    close(&grad_cam(&f, &x, &Target::Index(0), "conv")?, &[11.25, 13.5, 20.25, 22.5], ROUNDING);
    close(&grad_cam(&f, &x, &Target::Index(0), "relu")?, &[0., 4., 28., 32.5], ROUNDING);
    close(&grad_cam(&single(ml), &hundred(), &Target::Index(0), "linear0")?, &[400.], ROUNDING);
    Ok(())
}

#[test]
fn guided_grad_cam_is_the_product_of_both() -> Result<()> {
    let (f, x) = (single(conv), picture(0.0));
    let target = Target::Index(0);
    let found = guided_grad_cam(&f, &x, &target, "relu")?.to_flat::<f64>()?;
    let guided = GuidedBackprop.attribute(&f, std::slice::from_ref(&x), &target)?.value().to_flat::<f64>()?;
    let map = [0., 4., 28., 32.5];
    for (i, (found, guided)) in found.iter().zip(guided).enumerate() {
        let (row, column) = (i / 4, i % 4);
        assert!((found - guided * map[2 * (row / 2) + column / 2]).abs() < ROUNDING);
    }
    Ok(())
}

#[test]
fn conductance_of_ml() -> Result<()> {
    let f = single(ml);
    let at = |layer: &str| Conductance::new(layer).steps(500).attribute(&f, &hundred(), &Target::Index(0));
    // The relu of the first unit opens at a tenth of the way: between two of the points.
    close(at("linear0")?.value(), &[0., 390., 0.], 1.0);
    let found = at("linear2")?;
    close(found.value(), &[390., 0.], 1.0);
    let finer = Conductance::new("linear0").steps(5000).attribute(&f, &hundred(), &Target::Index(0))?;
    close(finer.value(), &[0., 390., 0.], 0.1);
    let small =
        Conductance::new("linear0").steps(500).rows(7).attribute(&f, &hundred(), &Target::Index(0))?;
    close(small.value(), &at("linear0")?.value().to_flat::<f64>()?, ROUNDING);
    Ok(())
}

#[test]
fn influence_inside_of_ml() -> Result<()> {
    // ∂y/∂linear0 is 3 before the first unit opens at a tenth of the way, then 4.
    let method = InternalInfluence::new("linear0").steps(1000);
    let found = method.attribute(&single(ml), &hundred(), &Target::Index(0))?;
    close(found.value(), &[3.9, 3.9, 3.9], 2e-3);
    Ok(())
}

#[test]
fn methods_behind_a_layer() -> Result<()> {
    let f = single(ml);
    let target = Target::Index(0);
    // From relu on ml is linear: both methods give the difference of the relus, times 1.
    let ig = AtLayer::new("relu", IntegratedGradients::new().rows(8)).attribute(&f, &hundred(), &target)?;
    gives(&ig, &[90., 100., 100., 100.]);
    assert!(ig.worst_delta() < ROUNDING);
    let lift = AtLayer::new("relu", DeepLift::new()).attribute(&f, &hundred(), &target)?;
    gives(&lift, &[90., 100., 100., 100.]);
    let lrp = AtLayer::new("relu", Lrp::new()).attribute(&f, &hundred(), &target)?;
    close(lrp.value(), &[90., 101., 101., 101.].map(|h| h * 392.0 / 392.0), 1e-6);
    Ok(())
}

#[test]
fn neurons_of_ml() -> Result<()> {
    let f = single(ml);
    let signed = Saliency::new().signed();
    let gradient = |layer: &str, index: usize, x: &[f64]| {
        signed.attribute(&neuron(&f, layer), &[row(x)], &Target::Index(index))
    };
    gives(&gradient("linear2", 0, &[0., 100., 0.])?, &[4., 4., 4.]);
    gives(&gradient("relu", 0, &[0., 5., 4.])?, &[0., 0., 0.]);
    gives(&gradient("relu", 1, &[0., 5., 4.])?, &[1., 1., 1.]);
    let ig = IntegratedGradients::new().attribute(&neuron(&f, "relu"), &hundred(), &Target::Index(1))?;
    gives(&ig, &[0., 100., 0.]);
    // The first unit opens at a tenth: nine tenths of 100 flow through it.
    let through = NeuronConductance::new("relu", 0).steps(1000);
    close(through.attribute(&f, &hundred(), &Target::Index(0))?.value(), &[0., 90., 0.], 0.1);
    Ok(())
}

#[test]
fn rollout_of_two_layers() -> Result<()> {
    let first = values(&[1., 0., 1., 0.], &[1, 1, 2, 2]);
    let second = values(&[0., 1., 0., 1.], &[1, 1, 2, 2]);
    // ½(A + 1): [[1, 0], [½, ½]] and [[½, ½], [0, 1]].
    close(&attention_rollout(&[first, second])?, &[0.75, 0.25, 0.5, 0.5], ROUNDING);
    assert!(attention_rollout(&[]).is_err());
    assert!(attention_rollout(&[values(&[1., 2.], &[1, 1, 2])]).is_err());
    Ok(())
}

#[test]
fn layers_that_are_not_there_or_twice() {
    let twice = single(|x| tap("h", &tap("h", x)?));
    let error = layer_activation(&twice, &hundred(), "h").map(|_| ()).expect_err("it is tapped twice");
    assert!(error.to_string().contains("2 values as \"h\"") && error.site().is_some(), "{error}");
    let f = single(ml);
    let error = grad_cam(&f, &hundred(), &Target::Index(0), "conv9").map(|_| ()).expect_err("no such tap");
    assert!(error.to_string().contains("no value as \"conv9\""), "{error}");
    let at = AtLayer::new("conv9", IntegratedGradients::new());
    assert!(at.attribute(&f, &hundred(), &Target::Index(0)).is_err());
    assert!(Conductance::new("conv9").attribute(&f, &hundred(), &Target::Index(0)).is_err());
}

#[test]
fn an_embedding_is_explained_though_its_indices_are_whole_numbers() -> Result<()> {
    let table = values(&[0., 0., 1., 2., -1., 0.5], &[3, 2]);
    let f = |x: &[TrackedTensor]| tap("embedding", &table.embedding(&x[0])?)?.sum_dims([1, 2], false);
    let tokens = TrackedTensor::from_vec(vec![1u32, 2], &[1, 2])?;
    let found =
        AtLayer::new("embedding", IntegratedGradients::new()).attribute(&f, &[tokens], &Target::Only)?;
    close(found.value(), &[1., 2., -1., 0.5], ROUNDING);
    Ok(())
}
