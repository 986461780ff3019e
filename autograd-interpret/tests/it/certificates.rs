//! What certifies an attribution: completeness, errors, progress.

use crate::models::{ROUNDING, ml, row, values};
use autograd_core::{Error, Result, TrackedTensor};
use autograd_interpret::{
    Ball, Checkpoint, Conductance, Curves, DeepLiftShap, FeatureAblation, FeaturePermutation, GradientShap,
    Infidelity, InfluenceFunctions, InputXGradient, IntegratedGradients, InternalInfluence, KernelShap, Lime,
    Loss, MaxSensitivity, Method, NeuronConductance, Noise, Occlusion, ParameterRandomisation, Perturbation,
    Pgd, Quadrature, Saliency, ShapleyValues, Target, TracIn, single,
};
use autograd_ops::TensorAutograd;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A net of relus whose gradient jumps many times on the way.
fn bent(x: &TrackedTensor) -> Result<TrackedTensor> {
    let weights = |rows: usize, columns: usize, seed: f64| {
        let number = |i: usize| ((i as f64 + seed) * 12.9898).sin();
        values(&(0..rows * columns).map(number).collect::<Vec<_>>(), &[rows, columns])
    };
    let h = x.matmul(weights(4, 32, 0.3))?.add(weights(1, 32, 1.7))?.relu()?;
    let h = h.matmul(weights(32, 16, 0.9))?.add(weights(1, 16, 2.1))?.relu()?;
    h.matmul(weights(16, 3, 0.5))
}

#[test]
fn a_net_of_relus_is_integrated_to_the_requested_completeness() -> Result<()> {
    let x = values(&[0.9, -1.3, 0.4, 2.2, -0.5, 1.7, 1.1, -0.8], &[2, 4]);
    for tolerance in [1e-6, 1e-11] {
        let found = IntegratedGradients::new().complete_to(tolerance).explain(bent, &x, 1)?;
        assert!(found.worst_delta() <= tolerance, "{:?}", found.delta);
        assert!(found.steps < 1500, "{} steps", found.steps);
        // Fixed rules come to the same, more slowly.
        let middles = IntegratedGradients::new().quadrature(Quadrature::Middle).steps(30_000);
        let fixed = middles.rows(1000).explain(bent, &x, 1)?;
        let pairs = fixed.value().to_flat::<f64>()?.into_iter().zip(found.value().to_flat::<f64>()?);
        for (fixed, found) in pairs {
            assert!((fixed - found).abs() < 2e-3, "{fixed} and {found}");
        }
    }
    Ok(())
}

#[test]
fn a_function_without_a_batch_is_integrated_too() -> Result<()> {
    let x = values(&[0.9, -1.3, 0.4, 2.2], &[4]);
    let f = |x: &TrackedTensor| bent(&x.unsqueeze(0)?)?.sum();
    let found = IntegratedGradients::new().complete_to(1e-9).explain(f, &x, ())?;
    assert!(found.worst_delta() <= 1e-9 && found.value().dims() == [4]);
    Ok(())
}

#[test]
fn a_bend_at_the_very_start_of_the_way() -> Result<()> {
    // The slope of |x| at 0 is 0, and no tangent there holds behind it.
    let x = values(&[0.9, -1.3, 0.4, 2.2], &[1, 4]);
    let f = |x: &TrackedTensor| bent(x)?.narrow(1, 1, 1)?.add(&x.abs()?.sum_keepdim(1)?);
    let found = IntegratedGradients::new().complete_to(1e-9).explain(f, &x, ())?;
    let rest = IntegratedGradients::new().complete_to(1e-9).explain(bent, &x, 1)?;
    let pairs = found.value().to_flat::<f64>()?.into_iter().zip(rest.value().to_flat::<f64>()?);
    for ((found, rest), x) in pairs.zip([0.9, 1.3, 0.4, 2.2]) {
        assert!((found - rest - x).abs() < 1e-8, "{found}, {rest} and {x}");
    }
    Ok(())
}

#[test]
fn completeness_that_is_not_reached_is_an_error() {
    let x = values(&[0.9, -1.3, 0.4, 2.2], &[1, 4]);
    let error = IntegratedGradients::new().complete_to(1e-11).steps(20).explain(bent, &x, 1);
    let error = error.map(|_| ()).expect_err("20 steps do not suffice").to_string();
    assert!(error.contains("|delta|") && error.contains("certificates.rs"), "{error}");
}

#[test]
fn progress_is_heard_and_can_cancel() -> Result<()> {
    let heard = Arc::new(AtomicUsize::new(0));
    let count = heard.clone();
    let method = IntegratedGradients::new().steps(10).rows(2).progress(move |done, total| {
        assert!(done <= total && total == 10);
        count.store(done, Ordering::Relaxed);
        ControlFlow::Continue(())
    });
    method.explain(ml, &row(&[1., 2., 3.]), 0)?;
    assert_eq!(heard.load(Ordering::Relaxed), 10);
    let stop = ShapleyValues::exact()
        .rows(2)
        .progress(|done, _| if done >= 4 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) });
    let error = stop.explain(ml, &row(&[1., 2., 3.]), 0).map(|_| ()).expect_err("it was cancelled");
    assert!(matches!(error, Error::Cancelled { done: 4, total: 8, .. }), "{error}");
    assert!(error.site().is_some_and(|site| site.file().ends_with("certificates.rs")));
    Ok(())
}

/// A callback that lets one evaluation pass.
fn stop(_: usize, _: usize) -> ControlFlow<()> {
    ControlFlow::Break(())
}

#[test]
fn whatever_takes_long_can_be_cancelled() -> Result<()> {
    let x = [values(&[1., 2., 3., 4., 5., 6.], &[2, 3])];
    let target = Target::Index(0);
    let f = single(ml);
    let references = || vec![values(&[0.; 6], &[2, 3])];
    let methods: [Box<dyn Method>; 15] = [
        Box::new(IntegratedGradients::new().progress(stop)),
        Box::new(IntegratedGradients::new().complete_to(1e-9).progress(stop)),
        Box::new(GradientShap::new(references()).progress(stop)),
        Box::new(DeepLiftShap::new(references()).progress(stop)),
        Box::new(Noise::around(Saliency::new()).progress(stop)),
        Box::new(Occlusion::new(&[2]).progress(stop)),
        Box::new(FeatureAblation::new().progress(stop)),
        Box::new(FeaturePermutation::new().progress(stop)),
        Box::new(ShapleyValues::exact().progress(stop)),
        Box::new(ShapleyValues::sampled(3).progress(stop)),
        Box::new(KernelShap::new(20).progress(stop)),
        Box::new(Lime::new(20).progress(stop)),
        Box::new(Conductance::new("relu").progress(stop)),
        Box::new(InternalInfluence::new("relu").progress(stop)),
        Box::new(NeuronConductance::new("relu", 0).progress(stop)),
    ];
    #[track_caller]
    fn cancelled<T>(what: &str, found: Result<T>) {
        let Err(error) = found else { panic!("{what} was not cancelled") };
        assert!(
            matches!(error, Error::Cancelled { done, total, .. } if 0 < done && done <= total),
            "{what}: {error}"
        );
        assert!(error.site().is_some_and(|site| site.file().ends_with("certificates.rs")), "{what}: {error}");
    }
    for method in &methods {
        cancelled(method.name(), method.attribute(&f, &x, &target));
    }
    let infidelity = Infidelity::new(Perturbation::Whole).progress(stop);
    cancelled("infidelity", infidelity.measure(&f, &x, &target, &x));
    let sensitivity = MaxSensitivity::new(0.1).progress(stop);
    cancelled("max-sensitivity", sensitivity.measure(&InputXGradient, &f, &x, &target));
    cancelled("deletion", Curves::new().progress(stop).deletion(&f, &x, &target, &x));
    cancelled("PGD", Pgd::new(Ball::Max(0.1)).progress(stop).ascend(&f, &x, &target));
    let weights = values(&[1., 2., 3.], &[3, 1]);
    let model = |p: &[TrackedTensor], x: &[TrackedTensor]| x[0].matmul(&p[0]);
    let random = ParameterRandomisation::new().progress(stop);
    let parameters = [weights.clone()];
    cancelled("randomisation", random.correlations(&Saliency::new(), &model, &parameters, &x, &Target::Only));
    let loss: &Loss<'_> = &|p: &[TrackedTensor]| p[0].sqr()?.sum();
    let checkpoint = Checkpoint { parameters: vec![weights], learning_rate: 0.1 };
    cancelled("TracIn", TracIn::new(vec![checkpoint]).progress(stop).influence(&[loss], loss));
    let functions = InfluenceFunctions::new().progress(stop);
    cancelled("influence functions", functions.influence(&[loss], loss, loss, &parameters));
    Ok(())
}

#[test]
fn attribution_works_inside_of_another_tape() -> Result<()> {
    // The gradient of an attribution with respect to a weight: x·w·2 for f = w·x², at w = 3.
    let tape = autograd_tape::GradientTape::new();
    let w = tape.variable(values(&[3.0], &[1]));
    let x = values(&[2.0], &[1]);
    let found = IntegratedGradients::new().explain(|x| x.sqr()?.mul(&w), &x, ())?;
    assert!((found.value().to_flat::<f64>()?[0] - 12.0).abs() < ROUNDING);
    let dw = tape.derivative(&found.value().sum()?, &w)?;
    assert!((dw.to_flat::<f64>()?[0] - 4.0).abs() < ROUNDING);
    Ok(())
}
