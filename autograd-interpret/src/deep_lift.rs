//! DeepLift: differences from a reference, passed back through multipliers.

use crate::attribution::{Attribution, Method, deltas};
use crate::baseline::Baseline;
use crate::control::{Control, controls};
use crate::copies::{copies, weighted_sum};
use crate::function::{Examples, Function, check_inputs, numbers};
use crate::multipliers::rescale;
use crate::pair::Pair;
use crate::reveal::reveal_cancel;
use crate::slopes::outputs;
use crate::target::Target;
use autograd_core::algebra::{mul, sub};
use autograd_core::{Error, Level, Result, Site, TrackedTensor};
use autograd_ops::TensorAutograd;
use autograd_tape::GradientTape;

/// How a nonlinear op passes differences on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LiftRule {
    /// In proportion: Δy / Δx, and the derivative where Δx vanishes.
    #[default]
    Rescale,
    /// What raised x and what lowered it apart from each other, each averaged over whether the
    /// other is already there.
    RevealCancel,
}

/// Contributions by the differences of all intermediate values from those at a reference
/// (Shrikumar et al. 2017).
///
/// Linear ops pass differences on as they are; a product of two values that both depend on the
/// input is divided evenly; max-pooling is divided between the places of both maxima, as in
/// Captum; other ops go by their decomposition, which completeness survives. The contributions add
/// up to y(x) − y(x₀).
#[derive(Clone, Debug)]
pub struct DeepLift {
    baseline: Baseline,
    rule: LiftRule,
    multiply: bool,
}

impl Default for DeepLift {
    fn default() -> Self {
        Self::new()
    }
}

impl DeepLift {
    /// The rescale rule, from zero.
    pub fn new() -> Self {
        Self { baseline: Baseline::Zero, rule: LiftRule::Rescale, multiply: true }
    }

    /// The reference.
    #[must_use]
    pub fn baseline(mut self, baseline: impl Into<Baseline>) -> Self {
        self.baseline = baseline.into();
        self
    }

    /// How nonlinear ops pass differences on.
    #[must_use]
    pub fn rule(mut self, rule: LiftRule) -> Self {
        self.rule = rule;
        self
    }

    /// The multipliers alone, not times x − x₀.
    #[must_use]
    pub fn not_multiplied(mut self) -> Self {
        self.multiply = false;
        self
    }

    pub(crate) fn own_baseline(&self) -> &Baseline {
        &self.baseline
    }

    fn start(&self, inputs: &[TrackedTensor]) -> Result<Vec<TrackedTensor>> {
        self.baseline.of(self.name(), inputs)
    }

    fn run(&self, f: &Function<'_>, inputs: &[TrackedTensor], target: &Target) -> Result<Attribution> {
        let op = self.name();
        let start = self.start(inputs)?;
        let (low, _) = outputs(op, f, &start, target)?;
        let (high, _) = outputs(op, f, inputs, target)?;
        let ways: Vec<TrackedTensor> =
            inputs.iter().zip(&start).map(|(x, b)| sub(x, b)).collect::<Result<_>>()?;
        let whole: Vec<TrackedTensor> = match self.rule {
            LiftRule::Rescale => {
                let found = multipliers(f, inputs, &start, target)?;
                if !self.multiply {
                    let whole: Vec<TrackedTensor> =
                        found.iter().zip(&ways).map(|(m, way)| mul(m, way)).collect::<Result<_>>()?;
                    let delta = Some(deltas(&whole, &high, &low)?);
                    return Ok(Attribution { values: found, delta, errors: None, steps: 1 });
                }
                found.iter().zip(&ways).map(|(m, way)| mul(m, way)).collect::<Result<_>>()?
            }
            LiftRule::RevealCancel if !self.multiply => {
                let reason = "reveal-cancel has two multipliers for each element: only their sum times the difference is meant";
                return Err(Error::argument(op, reason));
            }
            LiftRule::RevealCancel => reveal_cancel(f, &start, &ways, target)?,
        };
        let delta = Some(deltas(&whole, &high, &low)?);
        Ok(Attribution { values: whole, delta, errors: None, steps: 1 })
    }
}

/// One backward pass with multipliers in place of derivatives.
fn multipliers(
    f: &Function<'_>,
    inputs: &[TrackedTensor],
    start: &[TrackedTensor],
    target: &Target,
) -> Result<Vec<TrackedTensor>> {
    let level = Level::fresh();
    // The tape is younger than the pairs: what it keeps are pairs, what it passes back is plain.
    let tape = GradientTape::with_rules(rescale());
    let pairs = inputs.iter().zip(start).map(|(x, b)| Pair::watch(level, x.clone(), b.clone()));
    let variables: Vec<TrackedTensor> = pairs.map(|x| tape.try_variable(x)).collect::<Result<_>>()?;
    let y = f(&variables)?;
    let y = target.select(&y, Examples::of(inputs, &y))?.sum()?;
    let sources: Vec<&TrackedTensor> = variables.iter().collect();
    let one = autograd_core::algebra::fill(1.0, &y.meta(), &inputs[0])?;
    let found = tape.gradient_with(&[&y], &[&one], &sources)?;
    Ok(found.iter().map(|m| Pair::split(m).0).collect())
}

impl Method for DeepLift {
    fn name(&self) -> &'static str {
        "DeepLift"
    }

    #[track_caller]
    fn attribute(&self, f: &Function<'_>, inputs: &[TrackedTensor], target: &Target) -> Result<Attribution> {
        let site = Site::caller();
        check_inputs(self.name(), inputs, site)?;
        self.run(f, inputs, target).map_err(|e| e.or_at(site))
    }
}

/// [`DeepLift`] averaged over a set of references (Lundberg and Lee 2017): for each input a value
/// whose first extent counts them. Every example is compared with every reference.
#[derive(Clone, Debug)]
pub struct DeepLiftShap {
    baselines: Vec<TrackedTensor>,
    rule: LiftRule,
    control: Control,
}

impl DeepLiftShap {
    /// Over these references.
    pub fn new(baselines: Vec<TrackedTensor>) -> Self {
        Self { baselines, rule: LiftRule::Rescale, control: Control::default() }
    }

    /// How nonlinear ops pass differences on.
    #[must_use]
    pub fn rule(mut self, rule: LiftRule) -> Self {
        self.rule = rule;
        self
    }

    controls!();

    fn run(&self, f: &Function<'_>, inputs: &[TrackedTensor], target: &Target) -> Result<Attribution> {
        let op = self.name();
        let (_, examples) = outputs(op, f, inputs, target)?;
        let count = self.baselines.first().map_or(0, |b| b.dims().first().copied().unwrap_or(0));
        let fits = |(b, x): (&TrackedTensor, &TrackedTensor)| {
            b.dims().first() == Some(&count) && b.dims().get(1..) == Some(examples.dims(x))
        };
        if count == 0 || self.baselines.len() != inputs.len() || !self.baselines.iter().zip(inputs).all(fits)
        {
            let shapes: Vec<_> = self.baselines.iter().map(|b| *b.shape()).collect();
            let reason = "one value of alternatives is needed for each input, of the shape of its examples";
            return Err(Error::shape(op, &shapes, reason));
        }
        let at_once = if examples.batched { self.control.copies(examples.count) } else { 1 };
        let mut sums: Vec<TrackedTensor> = Vec::new();
        let mut delta = vec![0.0; examples.count];
        let mut done = 0;
        while done < count {
            let n = at_once.min(count - done);
            let (mut wide, mut starts) = (Vec::new(), Vec::new());
            for (x, b) in inputs.iter().zip(&self.baselines) {
                let b = b.narrow(0, done, n)?.to_dtype(x.dtype())?;
                if examples.batched {
                    wide.push(copies(x, n)?);
                    // n×1×… to n×B×…: each copy of the batch has one reference.
                    let mut dims = vec![n, 1];
                    dims.extend_from_slice(examples.dims(x));
                    let b = b.reshape(&dims)?;
                    dims[1] = examples.count;
                    starts.push(crate::copies::joined(&b.broadcast_as(&dims)?)?);
                } else {
                    wide.push(x.clone());
                    starts.push(b.reshape(x.dims())?);
                }
            }
            let lift = DeepLift::new().rule(self.rule).baseline(starts);
            let found = lift.attribute(f, &wide, &target.repeat(n))?;
            let weights = vec![1.0 / count as f64; n];
            let parts = found.values.iter().map(|value| {
                if examples.batched {
                    weighted_sum(value, &weights)
                } else {
                    autograd_core::algebra::scale(value, weights[0])
                }
            });
            crate::copies::add_to(&mut sums, parts.collect::<Result<_>>()?)?;
            for (i, d) in found.delta.iter().flatten().enumerate() {
                delta[i % examples.count] += d / count as f64;
            }
            done += n;
            self.control.report(op, done, count)?;
        }
        for sum in &sums {
            crate::attribution::finite(op, "a contribution", numbers(sum)?)?;
        }
        Ok(Attribution { values: sums, delta: Some(delta), errors: None, steps: count })
    }
}

impl Method for DeepLiftShap {
    fn name(&self) -> &'static str {
        "DeepLift SHAP"
    }

    #[track_caller]
    fn attribute(&self, f: &Function<'_>, inputs: &[TrackedTensor], target: &Target) -> Result<Attribution> {
        let site = Site::caller();
        check_inputs(self.name(), inputs, site)?;
        self.run(f, inputs, target).map_err(|e| e.or_at(site))
    }
}
