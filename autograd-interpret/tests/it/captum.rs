//! Attributions held against Captum's, of the same nets with the same weights.

use crate::fixtures::{Fixtures, IN_F32, IN_F64};
use autograd_core::{DType, Result, TrackedTensor};
use autograd_interpret::{
    AtLayer, Conductance, Deconvolution, DeepLift, DeepLiftShap, FeatureAblation, GuidedBackprop,
    InputXGradient, IntegratedGradients, InternalInfluence, LayerRule, Lrp, Method, NeuronConductance,
    Occlusion, Quadrature, Saliency, ShapleyValues, Target, grad_cam, guided_grad_cam, layer_activation,
    layer_gradient_x_activation, neuron,
};

const RULES: [(&str, Quadrature); 4] = [
    ("gauss", Quadrature::GaussLegendre),
    ("left", Quadrature::Left),
    ("middle", Quadrature::Middle),
    ("right", Quadrature::Right),
];

fn conv_net(dtype: DType) -> Result<()> {
    let fixtures = Fixtures::load(dtype)?;
    let f = |x: &[TrackedTensor]| fixtures.conv(&x[0], false);
    let means = |x: &[TrackedTensor]| fixtures.conv(&x[0], true);
    let (x, base) = (fixtures.get("conv/x")?, fixtures.get("conv/base")?);
    let inputs = [x.clone()];
    let target = Target::Each(vec![1, 2]);
    fixtures.check("conv/y", f(&inputs))?;
    let method =
        |name: &str, method: &dyn Method| fixtures.method(&format!("conv/{name}"), method, &f, x, &target);
    method("saliency", &Saliency::new())?;
    method("input_x_gradient", &InputXGradient)?;
    for (name, rule) in RULES {
        let ig = IntegratedGradients::new().baseline(base).quadrature(rule).steps(17);
        method(&format!("ig_{name}"), &ig)?;
    }
    // Captum is not complete through max-pooling; this crate is.
    let lift = DeepLift::new().baseline(base);
    fixtures.method("conv/deep_lift", &lift, &means, x, &target)?;
    let shap = DeepLiftShap::new(vec![fixtures.get("conv/references")?.clone()]);
    fixtures.method("conv/deep_lift_shap", &shap, &means, x, &target)?;
    let most = if dtype == DType::F64 { IN_F64 } else { IN_F32 };
    assert!(lift.attribute(&f, &inputs, &target)?.worst_delta() < most);
    method("guided", &GuidedBackprop)?;
    method("deconvolution", &Deconvolution)?;
    method("lrp", &Lrp::new())?;
    let last = LayerRule::Epsilon(1e-6);
    let gamma = LayerRule::Gamma { gamma: 0.25, epsilon: 1e-9 };
    let bare = |x: &[TrackedTensor]| fixtures.bare(&x[0]);
    fixtures.method("conv/lrp_gamma", &Lrp::new().rule(gamma).on("fc2", last), &bare, x, &target)?;
    let zplus = Lrp::new().rule(LayerRule::ZPlus { epsilon: 1e-9 }).on_number(3, last);
    fixtures.method("conv/lrp_zplus", &zplus, &bare, x, &target)?;
    method("occlusion", &Occlusion::new(&[1, 3, 4]).stride(&[1, 2, 3]).baseline(0.1))?;
    let mask = TrackedTensor::from_vec((0..100i64).map(|i| i / 12).collect(), &[1, 1, 10, 10])?;
    method("ablation", &FeatureAblation::new().baseline(base).features(&mask))?;

    let layer = "relu2";
    fixtures.check("conv/layer_activation", layer_activation(&f, &inputs, layer))?;
    let found = layer_gradient_x_activation(&f, &inputs, &target, layer);
    fixtures.check("conv/layer_gradient_x_activation", found)?;
    fixtures.check("conv/grad_cam", grad_cam(&f, &inputs, &target, layer))?;
    fixtures.check("conv/guided_grad_cam", guided_grad_cam(&f, x, &target, layer))?;
    method("conductance", &Conductance::new(layer).baseline(base).steps(13))?;
    method("internal_influence", &InternalInfluence::new(layer).baseline(base).steps(13))?;
    method("layer_ig", &AtLayer::new(layer, IntegratedGradients::new().baseline(base).steps(13)))?;
    method("layer_deep_lift", &AtLayer::new(layer, DeepLift::new().baseline(base)))?;
    method("layer_lrp", &AtLayer::new("conv2", Lrp::new()))?;
    let place = Target::At(vec![0, 1, 1]);
    let unit = neuron(&f, "conv2");
    fixtures.method("conv/neuron_gradient", &Saliency::new().signed(), &unit, x, &place)?;
    let ig = IntegratedGradients::new().baseline(base).steps(13);
    fixtures.method("conv/neuron_ig", &ig, &unit, x, &place)?;
    method("neuron_conductance", &NeuronConductance::new(layer, place).baseline(base).steps(13))
}

fn mlp(dtype: DType) -> Result<()> {
    let fixtures = Fixtures::load(dtype)?;
    let f = |x: &[TrackedTensor]| fixtures.mlp(&x[0]);
    let (x, base) = (fixtures.get("mlp/x")?, fixtures.get("mlp/base")?);
    let target = Target::Each(vec![0, 2, 1]);
    fixtures.check("mlp/y", f(std::slice::from_ref(x)))?;
    let method =
        |name: &str, method: &dyn Method| fixtures.method(&format!("mlp/{name}"), method, &f, x, &target);
    method("saliency", &Saliency::new().signed())?;
    for (name, rule) in RULES {
        method(&format!("ig_{name}"), &IntegratedGradients::new().baseline(base).quadrature(rule).steps(20))?;
    }
    method("deep_lift", &DeepLift::new().baseline(base))?;
    method("deep_lift_shap", &DeepLiftShap::new(vec![fixtures.get("mlp/references")?.clone()]))?;
    method("ablation", &FeatureAblation::new().baseline(base))?;
    method("occlusion", &Occlusion::new(&[2]).baseline(base))?;
    method("shapley", &ShapleyValues::exact().baseline(base))?;
    let mask = TrackedTensor::from_vec(vec![0i64, 1, 1, 2, 0], &[1, 5])?;
    method("shapley_grouped", &ShapleyValues::exact().baseline(base).features(&mask))?;
    method("conductance", &Conductance::new("act2").baseline(base).steps(13))?;
    method("neuron_conductance", &NeuronConductance::new("act3", 3).baseline(base).steps(13))?;
    method("layer_deep_lift", &AtLayer::new("act1", DeepLift::new().baseline(base)))?;
    let plain = |x: &[TrackedTensor]| fixtures.plain(&x[0]);
    fixtures.method("mlp/lrp", &Lrp::new(), &plain, x, &target)
}

fn transformer(dtype: DType) -> Result<()> {
    let fixtures = Fixtures::load(dtype)?;
    let f = |x: &[TrackedTensor]| fixtures.block(&x[0]);
    let (x, base) = (fixtures.get("block/x")?, fixtures.get("block/base")?);
    let target = Target::Each(vec![2, 0]);
    fixtures.check("block/y", f(std::slice::from_ref(x)))?;
    let method =
        |name: &str, method: &dyn Method| fixtures.method(&format!("block/{name}"), method, &f, x, &target);
    method("saliency", &Saliency::new().signed())?;
    for (name, rule) in RULES {
        method(&format!("ig_{name}"), &IntegratedGradients::new().baseline(base).quadrature(rule).steps(20))?;
    }
    let tokens = TrackedTensor::from_vec(vec![0i64, 1, 2, 3], &[4, 1])?;
    method("ablation", &FeatureAblation::new().baseline(base).features(&tokens))?;
    method("shapley", &ShapleyValues::exact().baseline(base).features(&tokens))?;
    let layer = "attended";
    method("conductance", &Conductance::new(layer).baseline(base).steps(13))?;
    method("layer_ig", &AtLayer::new(layer, IntegratedGradients::new().baseline(base).steps(13)))?;
    method("internal_influence", &InternalInfluence::new(layer).baseline(base).steps(13))?;
    let unit = neuron(&f, layer);
    fixtures.method("block/neuron_gradient", &Saliency::new().signed(), &unit, x, &Target::At(vec![2, 5]))
}

#[test]
fn a_conv_net_in_f64() -> Result<()> {
    conv_net(DType::F64)
}

#[test]
fn a_conv_net_in_f32() -> Result<()> {
    conv_net(DType::F32)
}

#[test]
fn a_perceptron_in_f64() -> Result<()> {
    mlp(DType::F64)
}

#[test]
fn a_perceptron_in_f32() -> Result<()> {
    mlp(DType::F32)
}

#[test]
fn a_transformer_in_f64() -> Result<()> {
    transformer(DType::F64)
}

#[test]
fn a_transformer_in_f32() -> Result<()> {
    transformer(DType::F32)
}

#[test]
fn deep_lift_and_relevance_go_through_a_transformer() -> Result<()> {
    // Captum has neither: what is checked is that the contributions add up.
    let fixtures = Fixtures::load(DType::F64)?;
    let f = |x: &[TrackedTensor]| fixtures.block(&x[0]);
    let (x, base) = (fixtures.get("block/x")?, fixtures.get("block/base")?);
    let target = Target::Each(vec![2, 0]);
    let found = DeepLift::new().baseline(base).attribute(&f, std::slice::from_ref(x), &target)?;
    assert!(found.worst_delta() < IN_F64, "{:?}", found.delta);
    let found = Lrp::new().attribute(&f, std::slice::from_ref(x), &target)?;
    assert!(found.value().to_flat::<f64>()?.iter().all(|r| r.is_finite()));
    Ok(())
}
