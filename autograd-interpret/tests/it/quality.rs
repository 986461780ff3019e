//! Measures of quality, concepts, training data and probes.

use crate::models::{ROUNDING, b2, close, row, three_one, values};
use autograd_core::{Result, TrackedTensor, tap};
use autograd_interpret::{
    Ball, Checkpoint, Concept, Curves, Infidelity, InfluenceFunctions, IntegratedGradients, Loss,
    MaxSensitivity, Method, ParameterRandomisation, Perturbation, Pgd, Saliency, Target, TracIn, fgsm,
    rank_correlation, single,
};
use autograd_ops::TensorAutograd;

#[test]
fn infidelity_of_b2_is_zero() -> Result<()> {
    let (x, target) = (three_one(), Target::Only);
    let normal = Infidelity::new(Perturbation::Normal(0.01)).seed(1);
    let gradient = Saliency::new().signed().attribute(&b2, &x, &target)?.values;
    let found = normal.clone().samples(20).measure(&b2, &x, &target, &gradient)?;
    assert!(found[0] < 1e-20, "{found:?}");
    // Integrated gradients before they are multiplied foretell what the whole input does.
    let ig = IntegratedGradients::new().complete_to(1e-12).not_multiplied();
    let ig = ig.attribute(&b2, &x, &target)?.values;
    let whole = Infidelity::new(Perturbation::Whole).samples(1);
    assert!(whole.measure(&b2, &x, &target, &ig)?[0] < 1e-20);
    // An attribution of nothing misses E[(p1 − p2)²] = 2·0.01².
    let nothing = [values(&[0.], &[1]), values(&[0.], &[1])];
    let found = normal.samples(400).measure(&b2, &x, &target, &nothing)?;
    assert!((found[0] / 2e-4 - 1.0).abs() < 0.3, "{found:?}");
    Ok(())
}

#[test]
fn sensitivity_is_zero_where_the_gradient_is_constant() -> Result<()> {
    let w = values(&[2., -1.], &[2, 1]);
    let linear = single(|x| x.matmul(&w));
    let x = [row(&[1., 3.])];
    let method = Saliency::new();
    assert_eq!(MaxSensitivity::new(0.1).measure(&method, &linear, &x, &Target::Only)?, [0.0]);
    let square = single(|x| x.sqr()?.sum_dim(1));
    // |2p| / |2x| with |p| at most 0.1·√2.
    let found = MaxSensitivity::new(0.1).samples(200).measure(&method, &square, &x, &Target::Only)?[0];
    let most = 0.1 * 2f64.sqrt() / 10f64.sqrt();
    assert!(found <= most + ROUNDING && found > 0.8 * most, "{found} of {most}");
    Ok(())
}

#[test]
fn curves_of_a_linear_function() -> Result<()> {
    let w = values(&[1., 2., 3., 4.], &[4, 1]);
    let f = single(|x| x.matmul(&w));
    let x = [values(&[1., 1., 1., 1., 2., 2., 2., 2.], &[2, 4])];
    let right = [values(&[1., 2., 3., 4., 1., 2., 3., 4.], &[2, 4])];
    let curves = Curves::new().points(4);
    let deletion = curves.deletion(&f, &x, &Target::Only, &right)?;
    assert_eq!(deletion[0].outputs, [10., 6., 3., 1., 0.]);
    assert_eq!(deletion[1].outputs, [20., 12., 6., 2., 0.]);
    assert_eq!(deletion[0].area, (5. + 6. + 3. + 1.) / 4.);
    let insertion = curves.insertion(&f, &x, &Target::Only, &right)?;
    assert_eq!(insertion[0].outputs, [0., 4., 7., 9., 10.]);
    Ok(())
}

#[test]
fn randomised_parameters_lose_the_correlation_of_gradients_only() -> Result<()> {
    let number = |i: usize| ((i as f64 + 0.5) * 12.9898).sin();
    let parameters = [
        values(&(0..60).map(number).collect::<Vec<_>>(), &[10, 6]),
        values(&(60..66).map(number).collect::<Vec<_>>(), &[6, 1]),
    ];
    let model = |p: &[TrackedTensor], x: &[TrackedTensor]| x[0].matmul(&p[0])?.tanh()?.matmul(&p[1]);
    let x = [row(&(0..10).map(|i| number(i + 100)).collect::<Vec<_>>())];
    let (signed, check) = (Saliency::new().signed(), ParameterRandomisation::new().seed(3));
    let found = check.correlations(&signed, &model, &parameters, &x, &Target::Only)?;
    assert!(found.len() == 2 && found[1].abs() < 0.7, "{found:?}");
    // A "method" that shows the input keeps it, which is what the check is for.
    struct Input;
    impl Method for Input {
        fn name(&self) -> &'static str {
            "the input"
        }
        fn attribute(
            &self,
            f: &autograd_interpret::Function<'_>,
            inputs: &[TrackedTensor],
            target: &Target,
        ) -> Result<autograd_interpret::Attribution> {
            let mut found = Saliency::new().attribute(f, inputs, target)?;
            found.values = inputs.to_vec();
            Ok(found)
        }
    }
    assert_eq!(check.correlations(&Input, &model, &parameters, &x, &Target::Only)?, [1.0, 1.0]);
    Ok(())
}

#[test]
fn ranks_with_ties() {
    assert_eq!(rank_correlation(&[1., 2., 3.], &[10., 20., 30.]), 1.0);
    assert_eq!(rank_correlation(&[1., 2., 3.], &[3., 2., 1.]), -1.0);
    assert_eq!(rank_correlation(&[1., 1., 1.], &[3., 2., 1.]), 0.0);
    assert!((rank_correlation(&[1., 1., 2.], &[1., 2., 3.]) - 0.75f64.sqrt()).abs() < ROUNDING);
}

#[test]
fn a_concept_is_the_direction_that_separates_it() -> Result<()> {
    let f = |x: &[TrackedTensor]| tap("h", &x[0])?.matmul(values(&[3., 1., -2., 1.], &[2, 2]));
    let number = |i: usize| 2.0 * (((i as f64 + 0.5) * 12.9898).sin() * 43758.5453).rem_euclid(1.0) - 1.0;
    let cloud = |shift: f64| {
        let point = |i: usize| [number(2 * i) + shift, number(2 * i + 1)];
        values(&(0..40).flat_map(point).collect::<Vec<_>>(), &[40, 2])
    };
    let concept = Concept::fit(&f, "h", &[cloud(1.5)], &[cloud(-1.5)])?;
    let direction = concept.direction();
    assert!(direction[0] > 0.98 && concept.accuracy().is_some_and(|share| share > 0.95), "{direction:?}");
    // Output 0 grows with the first element, output 1 too, by 1; with less of the second.
    let x = [values(&[0., 0., 1., 1.], &[2, 2])];
    assert_eq!(concept.score(&f, &x, &Target::Index(0))?, 1.0);
    let slopes = concept.sensitivities(&f, &x, &Target::Index(0))?;
    assert!((slopes[0] - (3. * direction[0] - 2. * direction[1])).abs() < ROUNDING);
    assert!(Concept::fit(&f, "g", &[cloud(1.)], &[cloud(-1.)]).is_err());
    Ok(())
}

/// Half of the squared error of a line without intercept.
fn half_square(x: f64, y: f64) -> impl Fn(&[TrackedTensor]) -> Result<TrackedTensor> {
    move |w: &[TrackedTensor]| w[0].affine(x, -y)?.sqr()?.affine(0.5, 0.0)
}

#[test]
fn tracin_and_influence_by_hand() -> Result<()> {
    // Gradients x(wx − y): at w = 1 these are 2·(2 − 1) = 2, 1·(1 − 3) = −2, and 3·(3 − 2) = 3.
    let (first, second, test) = (half_square(2., 1.), half_square(1., 3.), half_square(3., 2.));
    let train: [&Loss<'_>; 2] = [&first, &second];
    let parameters = vec![TrackedTensor::scalar(1.0)];
    let checkpoints = [
        Checkpoint { parameters: parameters.clone(), learning_rate: 0.1 },
        Checkpoint { parameters: vec![TrackedTensor::scalar(0.0)], learning_rate: 0.2 },
    ];
    // At w = 0: −2, −3, −6.
    let found = TracIn::new(checkpoints.to_vec()).influence(&train, &test)?;
    let wanted = [0.1 * 6. + 0.2 * 12., 0.1 * -6. + 0.2 * 18.];
    assert!(found.iter().zip(wanted).all(|(a, b)| (a - b).abs() < ROUNDING), "{found:?}");
    // The Hessian of the whole loss is 2² + 1² = 5.
    let whole = |w: &[TrackedTensor]| first(w)?.add(&second(w)?);
    let found = InfluenceFunctions::new().damping(0.0).influence(&train, &whole, &test, &parameters)?;
    assert!((found[0] - 6. / 5.).abs() < ROUNDING && (found[1] + 6. / 5.).abs() < ROUNDING, "{found:?}");
    let saddle = |w: &[TrackedTensor]| w[0].sqr()?.affine(-1.0, 0.0);
    let error = InfluenceFunctions::new().influence(&train, &saddle, &test, &parameters);
    assert!(error.expect_err("no minimum").to_string().contains("not positive"));
    Ok(())
}

#[test]
fn influence_of_several_parameters_solves_the_system() -> Result<()> {
    // A loss ½wᵀAw in two tensors, A = [[2, 1], [1, 3]]: A⁻¹ = [[3, −1], [−1, 2]] / 5.
    let whole = |w: &[TrackedTensor]| {
        let square = w[0].sqr()?.add(&w[1].sqr()?.affine(1.5, 0.0)?)?;
        square.add(&w[0].mul(&w[1])?)
    };
    let first = |w: &[TrackedTensor]| w[0].add(&w[1].affine(0.0, 0.0)?);
    let second = |w: &[TrackedTensor]| w[1].add(&w[0].affine(0.0, 0.0)?);
    let train: [&Loss<'_>; 2] = [&first, &second];
    let parameters = [TrackedTensor::scalar(0.3), TrackedTensor::scalar(-0.7)];
    let found = InfluenceFunctions::new().damping(0.0).influence(&train, &whole, train[0], &parameters)?;
    assert!((found[0] - 0.6).abs() < ROUNDING && (found[1] + 0.2).abs() < ROUNDING, "{found:?}");
    Ok(())
}

#[test]
fn probes_stay_in_their_ball_and_move_the_target() -> Result<()> {
    let w = values(&[3., -4.], &[2, 1]);
    let f = single(|x| x.matmul(&w));
    let x = [values(&[0.1, 0.5, 0.9, 0.2], &[2, 2])];
    let found = fgsm(&f, &x, &Target::Only, 0.2, Some((0.0, 1.0)))?;
    close(&found[0], &[0.3, 0.3, 1.0, 0.0], ROUNDING);
    let found = Pgd::new(Ball::Euclid(1.0)).steps(30).ascend(&f, &x, &Target::Only)?;
    close(&found[0], &[0.7, -0.3, 1.5, -0.6], 1e-6);
    let found = Pgd::new(Ball::Max(0.5)).bounds(0.0, 1.0).random_start(1).descend(&f, &x, &Target::Only)?;
    close(&found[0], &[0.0, 1.0, 0.4, 0.7], ROUNDING);
    assert!(Pgd::new(Ball::Max(0.0)).ascend(&f, &x, &Target::Only).is_err());
    Ok(())
}
