//! Every method with every kind of target: the same as explaining a function that gives the chosen
//! number alone.

use crate::models::values;
use autograd_core::{Result, TrackedTensor, tap};
use autograd_interpret::{
    AtLayer, Attribution, Ball, Conductance, Curves, Deconvolution, DeepLift, DeepLiftShap, FeatureAblation,
    FeaturePermutation, Function, GradientShap, GuidedBackprop, Infidelity, InputXGradient,
    IntegratedGradients, InternalInfluence, KernelShap, LayerRule, LiftRule, Lime, Lrp, MaxSensitivity,
    Method, NeuronConductance, Noise, Occlusion, Perturbation, Pgd, Saliency, ShapleyValues, Smoothing,
    Target, fgsm, grad_cam, layer_gradient_x_activation, neuron,
};
use autograd_ops::TensorAutograd;

/// Rounding, and the ε of 1e-9 that relevance is stabilised with, once more for the choice itself.
const CLOSE: f64 = 1e-6;

const EXAMPLES: usize = 3;
const INPUTS: usize = 4;
/// Two rows of three numbers for each example.
const OUTPUTS: [usize; 2] = [2, 3];

fn numbers(rows: usize, columns: usize, seed: f64) -> TrackedTensor {
    let number = |i: usize| ((i as f64 + seed) * 12.9898).sin();
    values(&(0..rows * columns).map(number).collect::<Vec<_>>(), &[rows, columns])
}

/// B×4 to B×6.
fn net(x: &[TrackedTensor]) -> Result<TrackedTensor> {
    let h = x[0].matmul(numbers(INPUTS, 5, 0.3))?.add(numbers(1, 5, 1.7))?;
    let h = tap("relu", &h.relu()?)?;
    h.matmul(numbers(5, 6, 0.9))?.add(numbers(1, 6, 2.1))
}

/// B×4 to B×2×3.
fn table(x: &[TrackedTensor]) -> Result<TrackedTensor> {
    let y = net(x)?;
    y.reshape((y.dims()[0], OUTPUTS[0], OUTPUTS[1]))
}

/// How often each of an example's six numbers is counted by a target.
fn counts(target: &Target, example: usize) -> [f64; 6] {
    let mut counts = [0.0; 6];
    let place = |at: &[usize]| at[0] * OUTPUTS[1] + at[1];
    match target {
        Target::Only => unreachable!("six numbers are never the only one"),
        Target::Index(i) => counts[*i] += 1.0,
        Target::At(at) => counts[place(at)] += 1.0,
        Target::Each(all) => counts[all[example]] += 1.0,
        Target::EachAt(all) => counts[place(&all[example])] += 1.0,
        Target::Several(all) => {
            for target in all {
                for (sum, count) in counts.iter_mut().zip(self::counts(target, example)) {
                    *sum += count;
                }
            }
        }
    }
    counts
}

/// The function that gives the chosen number alone; examples come again and again in one batch.
fn chosen<'f>(
    f: &'f Function<'f>,
    target: &Target,
) -> impl Fn(&[TrackedTensor]) -> Result<TrackedTensor> + 'f {
    let rows: Vec<[f64; 6]> = (0..EXAMPLES).map(|example| counts(target, example)).collect();
    move |x| {
        let y = f(x)?;
        let n = y.dims()[0];
        let mask: Vec<f64> = (0..n).flat_map(|i| rows[i % EXAMPLES]).collect();
        y.flatten_from(1)?.mul(values(&mask, &[n, 6]))?.sum_dim(1)
    }
}

fn first(found: Result<Attribution>) -> Result<TrackedTensor> {
    Ok(found?.values.remove(0))
}

/// Asks something of a function, some inputs and a target.
type Question = Box<dyn Fn(&Function<'_>, &[TrackedTensor], &Target) -> Result<TrackedTensor>>;

fn questions() -> Vec<(&'static str, Question)> {
    fn ask<M: Method + 'static>(method: M) -> (&'static str, Question) {
        (method.name(), Box::new(move |f, x, target| first(method.attribute(f, x, target))))
    }
    fn row(numbers: Vec<f64>) -> Result<TrackedTensor> {
        let n = numbers.len();
        TrackedTensor::from_vec(numbers, &[n])
    }
    let references = || numbers(2, INPUTS, 4.4);
    // Of all five: one of them may be closed on the whole way.
    let units = Target::Several((0..5).map(Target::Index).collect());
    let gamma = LayerRule::Gamma { gamma: 0.25, epsilon: 1e-9 };
    let mut all = vec![
        ask(Saliency::new()),
        ask(InputXGradient),
        ask(IntegratedGradients::new().steps(7)),
        ask(GradientShap::new(vec![references()]).samples(9).noise(0.1)),
        ask(DeepLift::new()),
        ask(DeepLift::new().rule(LiftRule::RevealCancel)),
        ask(DeepLiftShap::new(vec![references()])),
        ask(GuidedBackprop),
        ask(Deconvolution),
        ask(Noise::around(Saliency::new()).samples(4)),
        ask(Noise::around(DeepLift::new()).samples(4).smoothing(Smoothing::MeanSquare)),
        ask(Noise::around(Saliency::new()).samples(4).smoothing(Smoothing::Variance)),
        ask(Lrp::new()),
        ask(Lrp::new().rule(gamma)),
        ask(Occlusion::new(&[2])),
        ask(FeatureAblation::new()),
        ask(FeaturePermutation::new()),
        ask(ShapleyValues::exact()),
        ask(ShapleyValues::sampled(5)),
        ask(KernelShap::new(14)),
        ask(Lime::new(20)),
        ask(Conductance::new("relu").steps(6)),
        ask(InternalInfluence::new("relu").steps(6)),
        ask(NeuronConductance::new("relu", units).steps(6)),
        ask(AtLayer::new("relu", IntegratedGradients::new().steps(6))),
        ask(AtLayer::new("relu", DeepLift::new())),
        ask(AtLayer::new("relu", Lrp::new())),
    ];
    all.push(("gradient × activation", Box::new(|f, x, t| layer_gradient_x_activation(f, x, t, "relu"))));
    all.push(("GradCAM", Box::new(|f, x, t| grad_cam(f, x, t, "relu"))));
    all.push(("FGSM", Box::new(|f, x, t| Ok(fgsm(f, x, t, 0.1, None)?.remove(0)))));
    all.push(("PGD", Box::new(|f, x, t| Ok(Pgd::new(Ball::Euclid(0.5)).ascend(f, x, t)?.remove(0)))));
    all.push((
        "infidelity",
        Box::new(|f, x, t| row(Infidelity::new(Perturbation::Normal(0.3)).measure(f, x, t, x)?)),
    ));
    all.push((
        "max-sensitivity",
        Box::new(|f, x, t| row(MaxSensitivity::new(0.3).measure(&InputXGradient, f, x, t)?)),
    ));
    all
}

#[test]
fn every_method_takes_every_target() -> Result<()> {
    let at = |i: usize, j: usize| Target::At(vec![i, j]);
    let several = Target::Several(vec![Target::Index(1), Target::Each(vec![5, 0, 1])]);
    let cases: [(&Function<'_>, Target); 6] = [
        (&net, Target::Index(4)),
        (&net, Target::Each(vec![1, 5, 0])),
        (&net, several),
        (&table, at(1, 2)),
        (&table, Target::EachAt(vec![vec![0, 1], vec![1, 0], vec![1, 2]])),
        (&table, Target::Several(vec![at(0, 0), Target::EachAt(vec![vec![1, 1]; 3])])),
    ];
    let x = [numbers(EXAMPLES, INPUTS, 3.1)];
    for (name, question) in questions() {
        for (f, target) in &cases {
            let found = question(f, &x, target)?.to_flat::<f64>()?;
            let wanted = question(&chosen(f, target), &x, &Target::Only)?.to_flat::<f64>()?;
            let scale = wanted.iter().fold(1e-3f64, |most, w| most.max(w.abs()));
            let far = found.iter().zip(&wanted).fold(0.0f64, |most, (a, b)| most.max((a - b).abs()));
            assert!(
                found.len() == wanted.len() && far <= CLOSE * scale,
                "{name}, {target:?}: {found:?}, alone {wanted:?}"
            );
            assert!(wanted.iter().any(|w| *w != 0.0), "{name}, {target:?}: nothing is compared");
        }
    }
    Ok(())
}

#[test]
fn curves_of_examples_with_targets_of_their_own() -> Result<()> {
    let x = numbers(EXAMPLES, INPUTS, 3.1);
    let curves = Curves::new().points(4);
    let all = [1, 5, 0];
    let whole = std::slice::from_ref(&x);
    let together = curves.deletion(&net, whole, &Target::Each(all.to_vec()), whole)?;
    for (i, index) in all.into_iter().enumerate() {
        let one = [x.narrow(0, i, 1)?];
        assert_eq!(curves.deletion(&net, &one, &Target::Index(index), &one)?[0], together[i]);
    }
    Ok(())
}

#[test]
fn ways_that_are_divided_for_each_example_alone() -> Result<()> {
    let x = numbers(EXAMPLES, INPUTS, 3.1);
    let method = IntegratedGradients::new().complete_to(1e-9);
    let all = [1, 5, 0];
    let target = Target::Several(vec![Target::Each(all.to_vec()), Target::Index(2)]);
    let together = method.attribute(&net, std::slice::from_ref(&x), &target)?;
    assert!(together.worst_delta() <= 1e-9);
    for (i, index) in all.into_iter().enumerate() {
        let both = Target::Several(vec![Target::Index(index), Target::Index(2)]);
        let alone = method.attribute(&net, &[x.narrow(0, i, 1)?], &both)?;
        let pairs =
            alone.value().to_flat::<f64>()?.into_iter().zip(together.value().narrow(0, i, 1)?.to_flat()?);
        for (alone, together) in pairs {
            let together: f64 = together;
            assert!((alone - together).abs() <= 1e-8, "{alone} and {together}");
        }
    }
    Ok(())
}

#[test]
fn neurons_are_targets_too() -> Result<()> {
    let x = [numbers(EXAMPLES, INPUTS, 3.1)];
    let unit = neuron(&net, "relu");
    let each = [0, 3, 4];
    let found = Saliency::new().signed().attribute(&unit, &x, &Target::Each(each.to_vec()))?;
    for (i, index) in each.into_iter().enumerate() {
        let one = Saliency::new().signed().attribute(&unit, &x, &Target::Index(index))?;
        let row = |found: &Attribution| found.value().narrow(0, i, 1)?.to_flat::<f64>();
        assert_eq!(row(&found)?, row(&one)?);
    }
    Ok(())
}
