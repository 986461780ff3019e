//! Concepts and the influence of training data, held against Captum's.

use crate::fixtures::{Fixtures, IN_F32, IN_F64};
use autograd_core::{DType, Error, Result, TrackedTensor};
use autograd_interpret::{Checkpoint, Concept, InfluenceFunctions, Loss, Target, TracIn};
use autograd_ops::TensorAutograd;

const LAYER: &str = "relu2";
const TARGET: Target = Target::Index(1);

/// Holds sign counts and magnitudes against those of a direction and of its opposite, which Captum
/// gives to the other side.
fn scores(fixtures: &Fixtures, name: &str, concept: &Concept) -> Result<()> {
    let f = |x: &[TrackedTensor]| fixtures.conv(&x[0], false);
    let asked = [fixtures.get("concepts/asked")?.clone()];
    let opposite: Vec<f64> = concept.direction().iter().map(|d| -d).collect();
    let both = [concept.clone(), Concept::along(LAYER, &opposite)];
    let score = |concept: &Concept| concept.score(&f, &asked, &TARGET);
    let magnitude = |concept: &Concept| concept.magnitude(&f, &asked, &TARGET);
    let found = both.iter().map(score).collect::<Result<Vec<f64>>>()?;
    // A share of 0 or 1 would say little about the direction.
    assert!(found.iter().all(|share| *share > 0.0 && *share < 1.0), "{name}: {found:?}");
    fixtures.check(&format!("concepts/{name}/sign_count"), TrackedTensor::from_vec(found, &[2]))?;
    let found = both.iter().map(magnitude).collect::<Result<Vec<f64>>>()?;
    fixtures.check(&format!("concepts/{name}/magnitude"), TrackedTensor::from_vec(found, &[2]))
}

fn concepts(dtype: DType) -> Result<()> {
    let fixtures = Fixtures::load(dtype)?;
    let given = fixtures.get("concepts/given/direction")?.to_dtype(DType::F64)?.to_flat::<f64>()?;
    scores(&fixtures, "given", &Concept::along(LAYER, &given))?;

    let f = |x: &[TrackedTensor]| fixtures.conv(&x[0], false);
    let side = |name: &str| fixtures.get(&format!("concepts/{name}")).map(|x| [x.clone()]);
    let fitted = Concept::fit(&f, LAYER, &side("examples")?, &side("others")?)?;
    let direction = fitted.direction().to_vec();
    fixtures.check("concepts/logistic/direction", TrackedTensor::from_vec(direction, &[given.len()]))?;
    scores(&fixtures, "logistic", &fitted)
}

#[test]
fn concepts_in_f64() -> Result<()> {
    concepts(DType::F64)
}

#[test]
fn concepts_in_f32() -> Result<()> {
    concepts(DType::F32)
}

/// The perceptron as a function of its parameters, in the order of the file.
const NAMES: [&str; 8] =
    ["fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias", "fc3.weight", "fc3.bias", "fc4.weight", "fc4.bias"];

/// The last layer's numbers in that list.
const LAST: [usize; 2] = [6, 7];

struct Training {
    fixtures: Fixtures,
    own: Vec<TrackedTensor>,
    x: TrackedTensor,
    y: TrackedTensor,
    test_x: TrackedTensor,
    test_y: TrackedTensor,
}

/// The sum of the squared errors.
fn loss(x: TrackedTensor, y: TrackedTensor) -> Box<Loss<'static>> {
    Box::new(move |p: &[TrackedTensor]| {
        let linear = |x: &TrackedTensor, i: usize| x.matmul(&p[2 * i].t()?)?.add(&p[2 * i + 1]);
        let h = linear(&linear(&x, 0)?.tanh()?, 1)?.relu()?;
        linear(&linear(&h, 2)?.softplus()?, 3)?.sub(&y)?.sqr()?.sum()
    })
}

/// One loss for each example.
fn losses(x: &TrackedTensor, y: &TrackedTensor) -> Result<Vec<Box<Loss<'static>>>> {
    (0..x.dims()[0]).map(|i| Ok(loss(x.narrow(0, i, 1)?, y.narrow(0, i, 1)?))).collect()
}

impl Training {
    fn load(dtype: DType) -> Result<Self> {
        let fixtures = Fixtures::load(dtype)?;
        let get = |name: &str| fixtures.get(name).cloned();
        let own = NAMES.iter().map(|name| get(&format!("mlp/weights/{name}"))).collect::<Result<_>>()?;
        Ok(Self {
            own,
            x: get("probes/train_x")?,
            y: get("probes/train_y")?,
            test_x: get("mlp/x")?,
            test_y: get("probes/test_y")?,
            fixtures,
        })
    }

    fn checkpoints(&self) -> Result<Vec<Checkpoint>> {
        let checkpoint = |(scale, learning_rate): (f64, f64)| {
            let parameters = self.own.iter().map(|p| p.affine(scale, 0.0)).collect::<Result<_>>()?;
            Ok(Checkpoint { parameters, learning_rate })
        };
        [(0.5, 0.1), (1.0, 0.3)].into_iter().map(checkpoint).collect()
    }

    /// The influence of each training example on each test example.
    #[track_caller]
    fn check(
        &self,
        name: &str,
        influence: impl Fn(&[&Loss<'_>], &Loss<'_>) -> Result<Vec<f64>>,
    ) -> Result<()> {
        let (train, test) = (losses(&self.x, &self.y)?, losses(&self.test_x, &self.test_y)?);
        let train: Vec<&Loss<'_>> = train.iter().map(|loss| &**loss).collect();
        let found = test.iter().map(|test| influence(&train, &**test)).collect::<Result<Vec<_>>>()?;
        let found = TrackedTensor::from_vec(found.concat(), &[test.len(), train.len()]);
        self.fixtures.check(&format!("probes/{name}"), found)
    }
}

fn traced(dtype: DType) -> Result<()> {
    let training = Training::load(dtype)?;
    let trace = TracIn::new(training.checkpoints()?);
    training.check("tracin", |train, test| trace.influence(train, test))?;
    let layer = trace.clone().only(&LAST);
    training.check("tracin_layer", |train, test| layer.influence(train, test))?;
    // Captum's fast way leaves out the bias.
    let weight = trace.only(&LAST[..1]);
    training.check("tracin_fast", |train, test| weight.influence(train, test))
}

#[test]
fn training_traced_in_f64() -> Result<()> {
    traced(DType::F64)
}

#[test]
fn training_traced_in_f32() -> Result<()> {
    traced(DType::F32)
}

fn functions(dtype: DType) -> Result<()> {
    let training = Training::load(dtype)?;
    let get = |name: &&str| training.fixtures.get(&format!("probes/trained/{name}")).cloned();
    let trained = NAMES.iter().map(get).collect::<Result<Vec<_>>>()?;
    let whole = loss(training.x.clone(), training.y.clone());
    let tolerance = if dtype == DType::F64 { IN_F64 * 1e-3 } else { IN_F32 * 1e-2 };
    let method = InfluenceFunctions::new().damping(0.5).tolerance(tolerance);
    training.check("influence", |train, test| method.influence(train, &*whole, test, &trained))
}

#[test]
fn influence_functions_in_f64() -> Result<()> {
    functions(DType::F64)
}

#[test]
fn influence_functions_in_f32() -> Result<()> {
    functions(DType::F32)
}

#[test]
fn parameters_that_are_not_there_are_named() -> Result<()> {
    let training = Training::load(DType::F64)?;
    let test = loss(training.test_x.clone(), training.test_y.clone());
    let ask = |only: &[usize]| match TracIn::new(training.checkpoints()?).only(only).influence(&[], &*test) {
        Err(error) => Ok(error.to_string()),
        Ok(_) => Err(Error::msg("bad parameters were taken")),
    };
    assert!(ask(&[8])?.contains("no parameter 8"), "{}", ask(&[8])?);
    assert!(ask(&[6, 6])?.contains("twice"), "{}", ask(&[6, 6])?);
    Ok(())
}

#[test]
fn a_direction_of_another_length_is_an_error() -> Result<()> {
    let fixtures = Fixtures::load(DType::F64)?;
    let f = |x: &[TrackedTensor]| fixtures.conv(&x[0], false);
    let asked = [fixtures.get("concepts/asked")?.clone()];
    let error =
        Concept::along(LAYER, &[1.0; 3]).score(&f, &asked, &TARGET).expect_err("relu2 has 16 elements");
    assert!(error.to_string().contains("3 elements, and `relu2` has 16"), "{error}");
    assert_eq!(Concept::along(LAYER, &[1.0]).accuracy(), None);
    Ok(())
}
