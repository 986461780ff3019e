//! Shapley values: what a feature adds, averaged over the orders in which features arrive.

use crate::attribution::{Attribution, Method};
use crate::baseline::Baseline;
use crate::control::{Control, controls};
use crate::draws::Draws;
use crate::expected::Moments;
use crate::function::{Function, check_inputs};
use crate::masks::{Features, Grouping, Masked};
use crate::target::Target;
use autograd_core::{Error, Result, Site, TrackedTensor};

/// The most features of which every coalition is evaluated.
const MOST_FEATURES: usize = 20;

/// Shapley values (Shapley 1953; Štrumbelj and Kononenko 2010), exact or over sampled orders. They
/// add up to y(x) − y(x₀).
#[derive(Clone, Debug)]
pub struct ShapleyValues {
    baseline: Baseline,
    features: Features,
    orders: Option<usize>,
    seed: u64,
    control: Control,
}

impl ShapleyValues {
    /// Over all coalitions: 2ⁿ evaluations for n features, of which there may be 20.
    pub fn exact() -> Self {
        Self {
            baseline: Baseline::Zero,
            features: Features::Elements,
            orders: None,
            seed: 0,
            control: Control::default(),
        }
    }

    /// Over so many random orders; [`Attribution::errors`] holds the standard errors.
    pub fn sampled(orders: usize) -> Self {
        Self { orders: Some(orders), ..Self::exact() }
    }

    /// What stands for a feature that has not arrived.
    #[must_use]
    pub fn baseline(mut self, baseline: impl Into<Baseline>) -> Self {
        self.baseline = baseline.into();
        self
    }

    /// Which elements belong together.
    #[must_use]
    pub fn features(mut self, features: impl Into<Features>) -> Self {
        self.features = features.into();
        self
    }

    /// Where the draws begin.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    controls!();

    fn run(&self, f: &Function<'_>, inputs: &[TrackedTensor], target: &Target) -> Result<Attribution> {
        let masked = Masked::new(self.name(), f, inputs, &self.baseline, target, &self.control)?;
        let grouping = self.features.grouping(self.name(), inputs, masked.examples)?;
        match self.orders {
            None => self.all_coalitions(&masked, &grouping),
            Some(orders) => self.some_orders(&masked, &grouping, orders),
        }
    }

    fn all_coalitions(&self, masked: &Masked<'_>, grouping: &Grouping) -> Result<Attribution> {
        let n = grouping.count;
        if n > MOST_FEATURES {
            let reason = format!(
                "{n} features have 2^{n} coalitions, at most {MOST_FEATURES} features are allowed: group them, or sample"
            );
            return Err(Error::argument(self.name(), reason));
        }
        let all = 1usize << n;
        let keeps = |coalition: usize| (0..n).map(|i| coalition >> i & 1 == 1).collect::<Vec<bool>>();
        let mut values: Vec<Vec<f64>> = Vec::with_capacity(all);
        while values.len() < all {
            let part: Vec<Vec<bool>> =
                (values.len()..all.min(values.len() + masked.at_once())).map(keeps).collect();
            values.extend(masked.of_features(grouping, &part)?);
            self.control.report(self.name(), values.len(), all)?;
        }
        // |S|! (n − |S| − 1)! / n!: how often a coalition is what a feature finds.
        let mut weights = vec![1.0 / n as f64; n];
        for size in 1..n {
            weights[size] = weights[size - 1] * size as f64 / (n - size) as f64;
        }
        let mut scores = vec![vec![0.0; n]; masked.examples.count];
        for coalition in 0..all {
            for i in (0..n).filter(|i| coalition >> i & 1 == 0) {
                let weight = weights[coalition.count_ones() as usize];
                for (example, score) in scores.iter_mut().enumerate() {
                    score[i] += weight * (values[coalition | 1 << i][example] - values[coalition][example]);
                }
            }
        }
        let found = grouping.spread(&scores, masked.inputs)?;
        let delta = group_deltas(&scores, &values[all - 1], &values[0]);
        Ok(Attribution { values: found, delta: Some(delta), errors: None, steps: all })
    }

    fn some_orders(&self, masked: &Masked<'_>, grouping: &Grouping, orders: usize) -> Result<Attribution> {
        if orders == 0 {
            return Err(Error::argument(self.name(), "no orders were asked for"));
        }
        let n = grouping.count;
        let none = masked.of_features(grouping, &[vec![false; n]])?.remove(0);
        let mut draws = Draws::new(self.seed);
        let mut moments: Vec<Moments> = masked.whole.iter().map(|_| Moments::new(n)).collect();
        for done in 1..=orders {
            let order = draws.permutation(n)?;
            let mut before = none.clone();
            let mut gains = vec![vec![0.0; n]; masked.examples.count];
            let mut keep = vec![false; n];
            for part in order.chunks(masked.at_once()) {
                let keeps: Vec<Vec<bool>> = part
                    .iter()
                    .map(|&i| {
                        keep[i] = true;
                        keep.clone()
                    })
                    .collect();
                for (&i, now) in part.iter().zip(masked.of_features(grouping, &keeps)?) {
                    for (example, gains) in gains.iter_mut().enumerate() {
                        gains[i] = now[example] - before[example];
                    }
                    before = now;
                }
            }
            for (moments, gains) in moments.iter_mut().zip(&gains) {
                moments.add(gains);
            }
            self.control.report(self.name(), done, orders)?;
        }
        let scores: Vec<Vec<f64>> = moments.iter().map(Moments::mean).collect();
        let spread: Vec<Vec<f64>> = moments.iter().map(Moments::standard_error).collect();
        Ok(Attribution {
            values: grouping.spread(&scores, masked.inputs)?,
            delta: Some(group_deltas(&scores, &masked.whole, &none)),
            errors: Some(grouping.spread(&spread, masked.inputs)?),
            steps: 1 + orders * n,
        })
    }
}

/// For each example, the sum over features less the change of the output.
pub(crate) fn group_deltas(scores: &[Vec<f64>], high: &[f64], low: &[f64]) -> Vec<f64> {
    let sums = scores.iter().map(|row| row.iter().sum::<f64>());
    sums.zip(high).zip(low).map(|((sum, high), low)| sum - (high - low)).collect()
}

impl Method for ShapleyValues {
    fn name(&self) -> &'static str {
        "Shapley values"
    }

    #[track_caller]
    fn attribute(&self, f: &Function<'_>, inputs: &[TrackedTensor], target: &Target) -> Result<Attribution> {
        let site = Site::caller();
        check_inputs(self.name(), inputs, site)?;
        self.run(f, inputs, target).map_err(|e| e.or_at(site))
    }
}
