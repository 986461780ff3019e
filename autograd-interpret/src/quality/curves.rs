//! What becomes of the output as features go or come.

use super::fits;
use crate::baseline::Baseline;
use crate::control::{Control, controls};
use crate::function::{Function, check_inputs, numbers};
use crate::masks::{Features, Masked};
use crate::slopes::outputs;
use crate::target::Target;
use autograd_core::{Error, Result, Site, TrackedTensor};
use autograd_ops::TensorAutograd;

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
        if self.points == 0 || !fits(attributions, inputs) {
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
