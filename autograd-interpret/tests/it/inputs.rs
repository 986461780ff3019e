//! Input methods on models whose attributions are known.

use crate::models::{ROUNDING, b, b2, b3, close, conv, gives, lrpm, ml, picture, row, three_one, values};
use autograd_core::{Result, TrackedTensor, tap};
use autograd_interpret::{
    Attribution, Deconvolution, DeepLift, DeepLiftShap, FeatureAblation, FeaturePermutation, GradientShap,
    GuidedBackprop, InputXGradient, IntegratedGradients, KernelShap, LayerRule, LiftRule, Lime, Lrp, Method,
    Noise, Occlusion, Quadrature, Saliency, ShapleyValues, Shrinkage, Smoothing, Target, single,
};
use autograd_ops::TensorAutograd;

fn both(found: &Attribution, wanted: [f64; 2], tolerance: f64) {
    close(&found.values[0], &wanted[..1], tolerance);
    close(&found.values[1], &wanted[1..], tolerance);
}

#[test]
fn saliency_of_b() -> Result<()> {
    let x = values(&[1., 2., 3., 0., -1., 7.], &[6]);
    let found = Saliency::new().explain(b, &x, ())?;
    gives(&found, &[0., 0., 0., 1., 1., 0.]);
    Ok(())
}

#[test]
fn integrated_gradients_of_b2_and_b3() -> Result<()> {
    // The kinks lie at rational points of the way; 3,000 middles hit none and split at each.
    let method = IntegratedGradients::new().quadrature(Quadrature::Middle).steps(3000);
    for f in [b2, b3] {
        let found = method.attribute(&f, &three_one(), &Target::Only)?;
        both(&found, [1.5, -0.5], 1e-3);
        let exact = IntegratedGradients::new().complete_to(1e-12);
        let found = exact.attribute(&f, &three_one(), &Target::Only)?;
        both(&found, [1.5, -0.5], ROUNDING);
        assert!(found.worst_delta() <= 1e-12 && found.steps < 200, "{} steps", found.steps);
        let found = exact.not_multiplied().attribute(&f, &three_one(), &Target::Only)?;
        both(&found, [0.5, -0.5], ROUNDING);
    }
    Ok(())
}

#[test]
fn every_quadrature_converges() -> Result<()> {
    let x = values(&[0.4, -1.2, 0.9, 0.3, 0.1, 2.0], &[2, 3]);
    let f = |x: &TrackedTensor| x.tanh()?.mul(&x.sin()?)?.sum_dim(1);
    let exact = IntegratedGradients::new().steps(60).explain(f, &x, ())?;
    assert!(exact.worst_delta() < 1e-12);
    // The error of n steps falls as 1/n, and as 1/n² for the last two.
    for (rule, power) in
        [(Quadrature::Left, 1), (Quadrature::Right, 1), (Quadrature::Middle, 2), (Quadrature::Trapezoid, 2)]
    {
        let delta = |steps: usize| -> Result<f64> {
            let found = IntegratedGradients::new().quadrature(rule).steps(steps).explain(f, &x, ())?;
            Ok(found.worst_delta())
        };
        let (few, many) = (delta(101)?, delta(201)?);
        let fall = few / many;
        assert!((fall / 2f64.powi(power) - 1.0).abs() < 0.1, "{rule:?}: {few:e}, then {many:e}");
    }
    Ok(())
}

#[test]
fn a_memory_bound_changes_nothing() -> Result<()> {
    let x = values(&[0.4, -1.2, 0.9, 0.3, 0.1, 2.0], &[3, 2]);
    let f = |x: &TrackedTensor| x.exp()?.matmul(values(&[1., 2., -1., 0.5], &[2, 2]))?.sin();
    let target = Target::Each(vec![0, 1, 1]);
    let whole = IntegratedGradients::new().rows(1000).explain(f, &x, &target)?;
    let small = IntegratedGradients::new().rows(1).explain(f, &x, &target)?;
    close(small.value(), &whole.value().to_flat::<f64>()?, ROUNDING);
    let whole = FeatureAblation::new().rows(1000).explain(f, &x, &target)?;
    let small = FeatureAblation::new().rows(1).explain(f, &x, &target)?;
    close(small.value(), &whole.value().to_flat::<f64>()?, 0.0);
    Ok(())
}

#[test]
fn deep_lift_of_two_relus() -> Result<()> {
    let f = |x: &[TrackedTensor]| (x[0].relu()? * 2.0)?.add((x[1].affine(1.0, -1.5)?.relu()? * 2.0)?);
    let x = [values(&[1.], &[1]), values(&[2.], &[1])];
    let found = DeepLift::new().attribute(&f, &x, &Target::Only)?;
    both(&found, [2., 1.], ROUNDING);
    assert!(found.worst_delta() < ROUNDING);
    both(&DeepLift::new().not_multiplied().attribute(&f, &x, &Target::Only)?, [2., 0.5], ROUNDING);
    let found = DeepLift::new().rule(LiftRule::RevealCancel).attribute(&f, &x, &Target::Only)?;
    both(&found, [2., 1.], ROUNDING);
    Ok(())
}

/// min(x1, x2) as a net: x1 − relu(x1 − x2). The paper's example of what rescale cannot see.
fn least(x: &TrackedTensor) -> Result<TrackedTensor> {
    let w = values(&[1., -1.], &[2, 1]);
    let first = values(&[1., 0.], &[2, 1]);
    x.matmul(&first)?.sub(&x.matmul(&w)?.relu()?)
}

#[test]
fn reveal_cancel_sees_both_inputs_of_a_minimum() -> Result<()> {
    let x = row(&[2., 1.]);
    // Rescale gives all to the second input; reveal-cancel halves it.
    gives(&DeepLift::new().explain(least, &x, 0)?, &[0., 1.]);
    let found = DeepLift::new().rule(LiftRule::RevealCancel).explain(least, &x, 0)?;
    gives(&found, &[0.5, 0.5]);
    assert!(found.worst_delta() < ROUNDING);
    Ok(())
}

/// Layers of all shapes: products, norms, softmax, pools.
fn mixed(x: &TrackedTensor) -> Result<TrackedTensor> {
    let w = values(&[0.3, -0.7, 1.1, 0.2, 0.9, -0.4, 0.5, 0.8, -0.6], &[3, 3]);
    let h = x.matmul(&w)?.tanh()?;
    let q = h.mul(&x.sigmoid()?)?.softmax(1)?;
    let pooled = h.reshape((x.dims()[0], 1, 1, 3))?.max_pool2d_with_stride((1, 2), (1, 1))?;
    q.div(&h.sqr()?.affine(1.0, 1.0)?)?.sum_dim(1)?.add(&pooled.flatten_from(1)?.sum_dim(1)?)
}

#[test]
fn deep_lift_is_complete_through_products_and_softmax() -> Result<()> {
    let x = values(&[0.3, -0.8, 1.4, 0.9, 0.2, -0.5], &[2, 3]);
    let found = DeepLift::new().baseline(row(&[0.1, 0.4, -0.3])).explain(mixed, &x, ())?;
    assert!(found.worst_delta() < ROUNDING, "{:?}", found.delta);
    Ok(())
}

#[test]
fn deep_lift_shap_is_the_mean_over_references() -> Result<()> {
    let x = values(&[0.3, -0.8, 1.4, 0.9, 0.2, -0.5], &[2, 3]);
    let references = values(&[0., 0., 0., 0.5, -0.1, 0.2, -1., 1., 0.3], &[3, 3]);
    let mut mean = vec![0.0; 6];
    for i in 0..3 {
        let one = DeepLift::new().baseline(references.narrow(0, i, 1)?).explain(mixed, &x, ())?;
        for (sum, value) in mean.iter_mut().zip(one.value().to_flat::<f64>()?) {
            *sum += value / 3.0;
        }
    }
    for rows in [1, 100] {
        let found = DeepLiftShap::new(vec![references.clone()]).rows(rows).explain(mixed, &x, ())?;
        close(found.value(), &mean, ROUNDING);
        assert!(found.worst_delta() < ROUNDING);
    }
    Ok(())
}

#[test]
fn guided_backpropagation_and_deconvolution_of_conv() -> Result<()> {
    let found = GuidedBackprop.explain(conv, &picture(0.0), 0)?;
    gives(&found, &[0., 1., 1., 1., 1., 3., 3., 2., 1., 3., 3., 2., 1., 2., 2., 1.]);
    let found = GuidedBackprop.explain(conv, &picture(1.0), 0)?;
    gives(&found, &[1., 2., 2., 1., 2., 4., 4., 2., 2., 4., 4., 2., 1., 2., 2., 1.]);
    let found = Deconvolution.explain(conv, &picture(0.0), 0)?;
    gives(&found, &[2., 3., 3., 1., 3., 5., 5., 2., 3., 5., 5., 2., 1., 2., 2., 1.]);
    Ok(())
}

#[test]
fn relevance_of_lrpm_and_conv() -> Result<()> {
    let found = Lrp::new().explain(lrpm, &row(&[1., 2., 3.]), ())?;
    close(found.value(), &[18., 36., 54.], 1e-6);
    let found = Lrp::new().explain(lrpm, &row(&[3., 6., 9.]), ())?;
    close(found.value(), &[54., 108., 162.], 1e-6);
    let found = Lrp::new().explain(conv, &picture(0.0), 0)?;
    close(found.value(), &[0., 1., 2., 3., 0., 5., 6., 7., 0., 9., 10., 11., 0., 0., 0., 0.], 1e-6);
    assert!(found.worst_delta() < 1e-6);
    Ok(())
}

#[test]
fn relevance_rules_differ_by_layer_and_keep_the_sum() -> Result<()> {
    let w = values(&[0.5, -1.0, 2.0, 1.5, -0.5, 1.0], &[2, 3]);
    let v = values(&[1.0, 0.5, -0.7], &[3, 1]);
    let net = |x: &TrackedTensor| tap("hidden", &x.matmul(&w)?.relu()?)?.matmul(&v);
    let x = row(&[1.0, 2.0]);
    let by_rule = |rule: LayerRule| Lrp::new().on("hidden", rule).explain(net, &x, ());
    let epsilon = 1e-12;
    let plain = by_rule(LayerRule::Epsilon(epsilon))?;
    // z = (3.5, 0 after relu, 4·…): by hand, h = relu(1·w₀ + 2·w₁).
    let h = [3.5, 0.0, 4.0];
    let y = [h[0], 0.0, -0.7 * h[2]];
    let share = |w0: [f64; 3], w1: [f64; 3]| -> [f64; 2] {
        let mut sums = [0.0; 2];
        for j in [0, 2] {
            let z = w0[j] + 2.0 * w1[j];
            sums[0] += y[j] * w0[j] / z;
            sums[1] += y[j] * 2.0 * w1[j] / z;
        }
        sums
    };
    close(plain.value(), &share([0.5, -1.0, 2.0], [1.5, -0.5, 1.0]), 1e-8);
    let gamma = by_rule(LayerRule::Gamma { gamma: 0.5, epsilon })?;
    close(gamma.value(), &share([0.75, -1.0, 3.0], [2.25, -0.5, 1.5]), 1e-8);
    let zplus = by_rule(LayerRule::ZPlus { epsilon })?;
    close(zplus.value(), &share([0.5, 0.0, 2.0], [1.5, 0.0, 1.0]), 1e-8);
    let alpha = by_rule(LayerRule::AlphaBeta { alpha: 1.0, beta: 0.0 })?;
    close(alpha.value(), &zplus.value().to_flat::<f64>()?, 1e-8);
    for found in [plain, gamma, zplus, alpha] {
        assert!(found.worst_delta() < 1e-8, "{:?}", found.delta);
    }
    // The identity rule needs the shape.
    assert!(by_rule(LayerRule::Identity).is_err());
    assert!(Lrp::new().on("nowhere", LayerRule::default()).explain(net, &x, ()).is_err());
    let square = |x: &TrackedTensor| tap("same", &x.matmul(values(&[0., 1., 1., 0.], &[2, 2]))?)?.sum_dim(1);
    let found = Lrp::new().on("same", LayerRule::Identity).explain(square, &x, ())?;
    gives(&found, &[2.0, 1.0]);
    Ok(())
}

/// A layer is what it is, whether its bias is added by an op of its own or with the product.
#[test]
fn a_product_with_its_bias_has_the_attributions_of_its_parts() -> Result<()> {
    let (w, b) = (values(&[0.5, 1.5, -1.0, -0.5, 2.0, 1.0], &[3, 2]), values(&[0.3, 4.0, -0.2], &[3]));
    let v = values(&[1.0, 0.5, -0.7], &[3, 1]);
    let apart = |x: &TrackedTensor| tap("hidden", &x.matmul(w.t()?)?.add(&b)?.relu()?)?.matmul(&v);
    let joined = |x: &TrackedTensor| tap("hidden", &x.linear(&w, Some(&b))?.relu()?)?.matmul(&v);
    let x = row(&[1.0, 2.0]);
    for rule in [
        LayerRule::default(),
        LayerRule::Gamma { gamma: 0.5, epsilon: 1e-9 },
        LayerRule::ZPlus { epsilon: 1e-9 },
        LayerRule::AlphaBeta { alpha: 2.0, beta: 1.0 },
    ] {
        let by_rule = || Lrp::new().on("hidden", rule);
        gives(
            &by_rule().explain(joined, &x, ())?,
            &by_rule().explain(apart, &x, ())?.value().to_flat::<f64>()?,
        );
    }
    for rule in [LiftRule::Rescale, LiftRule::RevealCancel] {
        let lift = || DeepLift::new().rule(rule);
        gives(&lift().explain(joined, &x, ())?, &lift().explain(apart, &x, ())?.value().to_flat::<f64>()?);
    }
    Ok(())
}

#[test]
fn alpha_beta_counts_negative_contributions() -> Result<()> {
    // One neuron, z = 3·1 − 1·2 + 1: positive part 4 with the bias, negative part −2.
    let w = values(&[3.0, -1.0], &[2, 1]);
    let net = |x: &TrackedTensor| tap("z", &x.matmul(&w)?.add(row(&[1.0]))?);
    let found = Lrp::new().rule(LayerRule::AlphaBeta { alpha: 2.0, beta: 1.0 }).explain(
        net,
        &row(&[1.0, 2.0]),
        (),
    )?;
    // R = 2: 2·R·3/4 and −1·R·(−2)/(−2).
    gives(&found, &[3.0, -2.0]);
    Ok(())
}

#[test]
fn feature_ablation_of_ml() -> Result<()> {
    let x = row(&[20., 50., 30.]);
    gives(&FeatureAblation::new().explain(ml, &x, 0)?, &[80., 200., 120.]);
    let mask = TrackedTensor::from_vec(vec![0i64, 0, 1], &[3])?;
    let grouped = FeatureAblation::new().features(&mask);
    gives(&grouped.clone().explain(ml, &x, 0)?, &[280., 280., 120.]);
    gives(&grouped.baseline(4.0).explain(ml, &x, 0)?, &[248., 248., 104.]);
    gives(&FeatureAblation::new().explain(ml, &row(&[2., 10., 3.]), 0)?, &[8., 35., 12.]);
    Ok(())
}

#[test]
fn occlusion_of_ml() -> Result<()> {
    let x = row(&[20., 50., 30.]);
    gives(&Occlusion::new(&[2]).baseline(10.0).explain(ml, &x, 0)?, &[200., 220., 240.]);
    gives(&Occlusion::new(&[2]).stride(&[2]).explain(ml, &x, 0)?, &[280., 280., 120.]);
    Ok(())
}

#[test]
fn shapley_values_of_ml_three_ways() -> Result<()> {
    let x = row(&[20., 50., 30.]);
    let baseline = row(&[10., 20., 10.]);
    let exact = ShapleyValues::exact().baseline(&baseline).explain(ml, &x, 0)?;
    gives(&exact, &[40., 120., 80.]);
    assert!(exact.worst_delta() < ROUNDING);
    gives(&KernelShap::new(200).baseline(&baseline).explain(ml, &x, 0)?, &[40., 120., 80.]);
    Ok(())
}

#[test]
fn sampled_shapley_values_are_within_their_errors() -> Result<()> {
    let x = values(&[0.3, -0.8, 1.4, 0.9, 0.2, -0.5], &[2, 3]);
    let exact = ShapleyValues::exact().explain(mixed, &x, ())?;
    let sampled = ShapleyValues::sampled(400).seed(7).explain(mixed, &x, ())?;
    let errors = sampled.errors.as_ref().expect("a sampled method has errors")[0].to_flat::<f64>()?;
    let pairs = exact.value().to_flat::<f64>()?.into_iter().zip(sampled.value().to_flat::<f64>()?);
    for ((exact, sampled), error) in pairs.zip(errors) {
        // Four standard errors: one in 16,000.
        assert!((exact - sampled).abs() <= 4.0 * error + ROUNDING, "{exact} and {sampled} ± {error}");
    }
    // A kernel regression over all coalitions is exact; over some it comes near.
    let kernel = KernelShap::new(1000).explain(mixed, &x, ())?;
    close(kernel.value(), &exact.value().to_flat::<f64>()?, ROUNDING);
    Ok(())
}

#[test]
fn kernel_shap_by_samples_is_right_for_a_linear_function() -> Result<()> {
    let weights: Vec<f64> = (0..12).map(|i| f64::from(i) - 4.5).collect();
    let w = values(&weights, &[12, 1]);
    let x = row(&[1.0; 12]);
    let found = KernelShap::new(200).explain(|x| x.matmul(&w), &x, ())?;
    close(found.value(), &weights, 1e-8);
    assert!(found.worst_delta() < ROUNDING);
    Ok(())
}

#[test]
fn lime_finds_the_weights_of_a_linear_function() -> Result<()> {
    let w = values(&[2.0, -1.0, 0.0, 0.5], &[4, 1]);
    let x = values(&[1., 1., 1., 1., 2., 0., 1., 4.], &[2, 4]);
    let found = Lime::new(100).explain(|x| x.matmul(&w), &x, ())?;
    close(found.value(), &[2., -1., 0., 0.5, 4., 0., 0., 2.], 1e-6);
    let few = Lime::new(400).shrinkage(Shrinkage::Lasso(0.05)).explain(|x| x.matmul(&w), &x, ())?;
    let found = few.value().to_flat::<f64>()?;
    assert!(found[2] == 0.0 && found[0] > 1.5 && found[0] < 2.0, "{found:?}");
    Ok(())
}

#[test]
fn gradient_shap_agrees_with_the_mean_over_its_baselines() -> Result<()> {
    let x = values(&[0.3, -0.8, 1.4], &[1, 3]);
    let baselines = values(&[0., 0., 0., 0.5, -0.1, 0.2], &[2, 3]);
    let method = GradientShap::new(vec![baselines.clone()]).samples(3000);
    let found = method.explain(|x| x.tanh()?.sum_dim(1), &x, ())?;
    let one = |i: usize| -> Result<Vec<f64>> {
        let start = baselines.narrow(0, i, 1)?;
        let ig = IntegratedGradients::new().baseline(start).explain(|x| x.tanh()?.sum_dim(1), &x, ())?;
        ig.value().to_flat::<f64>()
    };
    let mean: Vec<f64> = one(0)?.iter().zip(one(1)?).map(|(a, b)| 0.5 * (a + b)).collect();
    let errors = found.errors.as_ref().expect("a sampled method has errors")[0].to_flat::<f64>()?;
    for ((found, mean), error) in found.value().to_flat::<f64>()?.iter().zip(mean).zip(errors) {
        assert!((found - mean).abs() < 4.0 * error, "{found}, {mean} ± {error}");
    }
    Ok(())
}

#[test]
fn noise_of_a_linear_function_leaves_its_gradient() -> Result<()> {
    let w = values(&[2.0, -1.0], &[2, 1]);
    let x = row(&[1., 3.]);
    let f = |x: &TrackedTensor| x.matmul(&w);
    let around = |smoothing| Noise::around(Saliency::new().signed()).samples(8).smoothing(smoothing);
    gives(&around(Smoothing::Mean).explain(f, &x, ())?, &[2., -1.]);
    gives(&around(Smoothing::MeanSquare).explain(f, &x, ())?, &[4., 1.]);
    gives(&around(Smoothing::Variance).explain(f, &x, ())?, &[0., 0.]);
    Ok(())
}

#[test]
fn shuffling_a_feature_that_is_not_read_changes_nothing() -> Result<()> {
    let w = values(&[1.0, 0.0], &[2, 1]);
    let x = values(&[1., 5., 2., 6., 3., 7., 4., 8.], &[4, 2]);
    let found = FeaturePermutation::new().repeats(20).explain(|x| x.matmul(&w), &x, ())?;
    let found = found.value().to_flat::<f64>()?;
    assert!(found.iter().skip(1).step_by(2).all(|score| *score == 0.0));
    // The mean over all orders of x − x(shuffled) is x less the mean.
    assert!(found.iter().step_by(2).any(|score| *score != 0.0));
    assert!(found.iter().step_by(2).sum::<f64>().abs() < ROUNDING);
    Ok(())
}

#[test]
fn targets_by_index_place_and_example() -> Result<()> {
    let x = values(&[1., 2., 3., 4.], &[2, 2]);
    // Two numbers at two places for each example: x², x³ elementwise.
    let f = single(|x| TrackedTensor::stack(&[x.pow(2)?, x.pow(3)?], 1));
    let signed = Saliency::new().signed();
    let at = |target: Target| -> Result<Vec<f64>> {
        signed.attribute(&f, std::slice::from_ref(&x), &target)?.value().to_flat()
    };
    assert_eq!(at(Target::At(vec![1, 0]))?, [3., 0., 27., 0.]);
    assert_eq!(at(Target::EachAt(vec![vec![0, 0], vec![1, 1]]))?, [2., 0., 0., 48.]);
    let several = Target::Several(vec![Target::At(vec![0, 0]), Target::At(vec![0, 1])]);
    assert_eq!(at(several)?, [2., 4., 6., 8.]);
    let found = InputXGradient.attribute(&f, std::slice::from_ref(&x), &Target::At(vec![0, 1]))?;
    gives(&found, &[0., 8., 0., 32.]);
    Ok(())
}
