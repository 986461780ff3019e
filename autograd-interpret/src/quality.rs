//! How far an attribution can be trusted.

use crate::attribution::Method;
use crate::baseline::Baseline;
use crate::control::{Control, controls};
use crate::draws::Draws;
use crate::function::{Function, check_inputs, numbers, value_of};
use crate::masks::{Features, Masked};
use crate::slopes::outputs;
use crate::target::Target;
use autograd_core::algebra::{add, scale, sub};
use autograd_core::{Error, Result, Site, TrackedTensor};
use autograd_ops::TensorAutograd;

/// A perturbation of inputs: which random numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Perturbation {
    /// Normal numbers of this deviation.
    Normal(f64),
    /// Uniform numbers of at most this size: a box around the input.
    Uniform(f64),
}

impl Perturbation {
    fn of(self, inputs: &[TrackedTensor], draws: &mut Draws) -> Result<Vec<TrackedTensor>> {
        let one = |x: &TrackedTensor| match self {
            Self::Normal(deviation) => scale(&draws.normal(x.dims(), x.dtype())?, deviation),
            Self::Uniform(size) => {
                let drawn = draws.uniform(x.elem_count())?;
                value_of(drawn.into_iter().map(|u| size * (2.0 * u - 1.0)).collect(), x.dims(), x)
            }
        };
        inputs.iter().map(one).collect()
    }
}

/// E[(Σ p·φ − (y(x) − y(x − p)))²] over perturbations p, for each example: how badly the
/// attribution φ tells what a perturbation does (Yeh et al. 2019). 0 is best. φ is of the gradient's
/// kind: not multiplied by the input.
///
/// # Errors
/// [`Error::InvalidArgument`] for no samples or attributions that are not the inputs' in number;
/// whatever `f` reports.
#[track_caller]
pub fn infidelity(
    f: &Function<'_>,
    inputs: &[TrackedTensor],
    target: &Target,
    attributions: &[TrackedTensor],
    perturbation: Perturbation,
    samples: usize,
    seed: u64,
) -> Result<Vec<f64>> {
    let site = Site::caller();
    let op = "infidelity";
    check_inputs(op, inputs, site)?;
    let fits = attributions.len() == inputs.len()
        && attributions.iter().zip(inputs).all(|(a, x)| a.shape() == x.shape());
    if samples == 0 || !fits {
        let reason = "at least one sample is needed, and one attribution of the shape of each input";
        return Err(Error::argument(op, reason).or_at(site));
    }
    let run = || {
        let (high, examples) = outputs(op, f, inputs, target)?;
        let mut draws = Draws::new(seed);
        let mut sums = vec![0.0; examples.count];
        for _ in 0..samples {
            let moves = perturbation.of(inputs, &mut draws)?;
            let moved: Vec<TrackedTensor> =
                inputs.iter().zip(&moves).map(|(x, p)| sub(x, p)).collect::<Result<_>>()?;
            let (low, _) = outputs(op, f, &moved, target)?;
            let foretold: Vec<TrackedTensor> =
                attributions.iter().zip(&moves).map(|(a, p)| a.mul(p)).collect::<Result<_>>()?;
            let foretold = crate::attribution::sums(&foretold, examples.count)?;
            for (i, sum) in sums.iter_mut().enumerate() {
                *sum += (foretold[i] - (high[i] - low[i])).powi(2) / samples as f64;
            }
        }
        Ok(sums)
    };
    run().map_err(|e: Error| e.or_at(site))
}

/// max ‖φ(x + p) − φ(x)‖ / ‖φ(x)‖ over sampled p in a box of this radius, for each example: how
/// easily the attribution changes (Yeh et al. 2019). 0 is best.
///
/// # Errors
/// [`Error::InvalidArgument`] for no samples; whatever the method reports.
#[track_caller]
pub fn max_sensitivity(
    method: &dyn Method,
    f: &Function<'_>,
    inputs: &[TrackedTensor],
    target: &Target,
    radius: f64,
    samples: usize,
    seed: u64,
) -> Result<Vec<f64>> {
    let site = Site::caller();
    let op = "max_sensitivity";
    check_inputs(op, inputs, site)?;
    if samples == 0 {
        return Err(Error::argument(op, "no samples were asked for").or_at(site));
    }
    let run = || {
        let (_, examples) = outputs(op, f, inputs, target)?;
        let rows = |values: &[TrackedTensor]| -> Result<Vec<Vec<f64>>> {
            let mut rows = vec![Vec::new(); examples.count];
            for value in values {
                let all = numbers(value)?;
                for (row, part) in rows.iter_mut().zip(all.chunks((all.len() / examples.count).max(1))) {
                    row.extend_from_slice(part);
                }
            }
            Ok(rows)
        };
        let norm = |row: &[f64]| row.iter().map(|v| v * v).sum::<f64>().sqrt();
        let here = rows(&method.attribute(f, inputs, target)?.values)?;
        let mut draws = Draws::new(seed);
        let mut worst = vec![0.0f64; examples.count];
        for _ in 0..samples {
            let moves = Perturbation::Uniform(radius).of(inputs, &mut draws)?;
            let moved: Vec<TrackedTensor> =
                inputs.iter().zip(&moves).map(|(x, p)| add(x, p)).collect::<Result<_>>()?;
            let there = rows(&method.attribute(f, &moved, target)?.values)?;
            for (i, worst) in worst.iter_mut().enumerate() {
                let change: Vec<f64> = there[i].iter().zip(&here[i]).map(|(a, b)| a - b).collect();
                // An attribution of zero has no scale of its own.
                let size = norm(&here[i]);
                *worst = worst.max(norm(&change) / if size > 0.0 { size } else { 1.0 });
            }
        }
        Ok(worst)
    };
    run().map_err(|e: Error| e.or_at(site))
}

/// How the output changes as features go or come, the most important first (Petsiuk et al. 2018).
#[derive(Clone, Debug)]
pub struct Curves {
    baseline: Baseline,
    features: Features,
    points: usize,
    control: Control,
}

/// The curves of each example.
#[derive(Clone, Debug, PartialEq)]
pub struct Curve {
    /// The output at each point, from none of the features moved to all.
    pub outputs: Vec<f64>,
    /// The area below it, the way there counted as 1: the mean output.
    pub area: f64,
}

impl Default for Curves {
    fn default() -> Self {
        Self::new()
    }
}

impl Curves {
    /// Element by element in 20 steps, zero standing for absence.
    pub fn new() -> Self {
        let (baseline, features) = (Baseline::Zero, Features::Elements);
        Self { baseline, features, points: 20, control: Control::default() }
    }

    /// What stands for absence.
    #[must_use]
    pub fn baseline(mut self, baseline: impl Into<Baseline>) -> Self {
        self.baseline = baseline.into();
        self
    }

    /// Which elements move together.
    #[must_use]
    pub fn features(mut self, features: impl Into<Features>) -> Self {
        self.features = features.into();
        self
    }

    /// In how many steps.
    #[must_use]
    pub fn points(mut self, points: usize) -> Self {
        self.points = points;
        self
    }

    controls!();

    /// The output as the features with the greatest contributions are taken away. A good
    /// attribution makes it fall at once: a small area.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for no points, and attributions that do not fit; whatever `f`
    /// reports.
    #[track_caller]
    pub fn deletion(
        &self,
        f: &Function<'_>,
        inputs: &[TrackedTensor],
        target: &Target,
        attributions: &[TrackedTensor],
    ) -> Result<Vec<Curve>> {
        let site = Site::caller();
        self.run("deletion", f, inputs, target, attributions, false).map_err(|e| e.or_at(site))
    }

    /// The output as they are added to the baseline. A good attribution makes it rise at once: a
    /// large area.
    ///
    /// # Errors
    /// As [`deletion`](Self::deletion).
    #[track_caller]
    pub fn insertion(
        &self,
        f: &Function<'_>,
        inputs: &[TrackedTensor],
        target: &Target,
        attributions: &[TrackedTensor],
    ) -> Result<Vec<Curve>> {
        let site = Site::caller();
        self.run("insertion", f, inputs, target, attributions, true).map_err(|e| e.or_at(site))
    }

    fn run(
        &self,
        op: &'static str,
        f: &Function<'_>,
        inputs: &[TrackedTensor],
        target: &Target,
        attributions: &[TrackedTensor],
        insert: bool,
    ) -> Result<Vec<Curve>> {
        check_inputs(op, inputs, Site::caller())?;
        let fits = attributions.len() == inputs.len()
            && attributions.iter().zip(inputs).all(|(a, x)| a.shape() == x.shape());
        if self.points == 0 || !fits {
            let reason = "at least one point is needed, and one attribution of the shape of each input";
            return Err(Error::argument(op, reason));
        }
        let (_, examples) = outputs(op, f, inputs, target)?;
        let scores = attributions.iter().map(numbers).collect::<Result<Vec<_>>>()?;
        let mut curves = Vec::new();
        for example in 0..examples.count {
            // Examples have orders of their own: one after the other.
            let part =
                |x: &TrackedTensor| if examples.batched { x.narrow(0, example, 1) } else { Ok(x.clone()) };
            let one: Vec<TrackedTensor> = inputs.iter().map(part).collect::<Result<_>>()?;
            let start: Vec<TrackedTensor> =
                self.baseline.of(op, inputs)?.iter().map(part).collect::<Result<_>>()?;
            let target = target.of(&[example]);
            let masked = Masked::new(op, f, &one, &start.into(), &target, &self.control)?;
            let grouping = self.features.grouping(op, &one, masked.examples)?;
            let mut sums = vec![0.0; grouping.count];
            for (of, scores) in grouping.of.iter().zip(&scores) {
                for (&feature, score) in of.iter().zip(&scores[example * of.len()..]) {
                    sums[feature] += score;
                }
            }
            let mut order: Vec<usize> = (0..grouping.count).collect();
            order.sort_by(|&a, &b| sums[b].total_cmp(&sums[a]));
            let keeps: Vec<Vec<bool>> = (0..=self.points)
                .map(|point| {
                    let moved = (order.len() * point).div_ceil(self.points);
                    let mut keep = vec![!insert; order.len()];
                    for &feature in &order[..moved] {
                        keep[feature] = insert;
                    }
                    keep
                })
                .collect();
            let found: Vec<f64> =
                masked.of_features(&grouping, &keeps)?.into_iter().map(|row| row[0]).collect();
            let area =
                found.windows(2).map(|pair| 0.5 * (pair[0] + pair[1])).sum::<f64>() / self.points as f64;
            curves.push(Curve { outputs: found, area });
            self.control.report(op, example + 1, examples.count)?;
        }
        Ok(curves)
    }
}

/// A model as a function of its parameters and its inputs.
pub type Parametrised<'f> = dyn Fn(&[TrackedTensor], &[TrackedTensor]) -> Result<TrackedTensor> + 'f;

/// The rank correlation of a method's attribution with those of the same model with its
/// parameters replaced by random ones, the last first, one more each time (Adebayo et al. 2018).
/// A method that explains the model loses its correlation; one that only finds edges keeps it.
///
/// Random parameters are the model's own in another order, so that their sizes stay.
///
/// # Errors
/// Whatever the model or the method reports.
#[track_caller]
pub fn parameter_randomisation(
    method: &dyn Method,
    model: &Parametrised<'_>,
    parameters: &[TrackedTensor],
    inputs: &[TrackedTensor],
    target: &Target,
    seed: u64,
) -> Result<Vec<f64>> {
    let site = Site::caller();
    check_inputs("parameter_randomisation", inputs, site)?;
    let run = || {
        let attribute = |parameters: &[TrackedTensor]| -> Result<Vec<f64>> {
            let f = |x: &[TrackedTensor]| model(parameters, x);
            let found = method.attribute(&f, inputs, target)?;
            Ok(found.values.iter().map(numbers).collect::<Result<Vec<_>>>()?.concat())
        };
        let here = attribute(parameters)?;
        let mut draws = Draws::new(seed);
        let mut changed = parameters.to_vec();
        let mut correlations = Vec::new();
        for i in (0..parameters.len()).rev() {
            let old = numbers(&parameters[i])?;
            let order = draws.permutation(old.len())?;
            let new = order.iter().map(|&at| old[at]).collect();
            changed[i] = value_of(new, parameters[i].dims(), &parameters[i])?;
            correlations.push(rank_correlation(&here, &attribute(&changed)?));
        }
        Ok(correlations)
    };
    run().map_err(|e: Error| e.or_at(site))
}

/// Spearman's coefficient: the correlation of ranks, equal numbers sharing theirs. 0 where one
/// side is constant.
pub fn rank_correlation(a: &[f64], b: &[f64]) -> f64 {
    let (a, b) = (ranks(a), ranks(b));
    let n = a.len().min(b.len()).max(1) as f64;
    let mean = |x: &[f64]| x.iter().sum::<f64>() / n;
    let (ma, mb) = (mean(&a), mean(&b));
    let covariance: f64 = a.iter().zip(&b).map(|(x, y)| (x - ma) * (y - mb)).sum();
    let size = |x: &[f64], m: f64| x.iter().map(|v| (v - m).powi(2)).sum::<f64>();
    let scale = (size(&a, ma) * size(&b, mb)).sqrt();
    if scale > 0.0 { covariance / scale } else { 0.0 }
}

fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    let mut ranks = vec![0.0; values.len()];
    let mut start = 0;
    while start < order.len() {
        let same = order[start..].iter().take_while(|&&i| values[i] == values[order[start]]).count();
        for &i in &order[start..start + same] {
            ranks[i] = start as f64 + 0.5 * (same as f64 - 1.0);
        }
        start += same;
    }
    ranks
}
