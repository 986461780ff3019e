//! Linear models that stand in for the function near an input: LIME and kernel SHAP.

use crate::attribution::{Attribution, Method};
use crate::baseline::Baseline;
use crate::control::{Control, controls};
use crate::draws::Draws;
use crate::function::{Function, check_inputs};
use crate::masks::{Features, Grouping, Masked};
use crate::regression::{lasso, least_squares};
use crate::shapley::group_deltas;
use crate::target::Target;
use autograd_core::{Error, Result, Site, TrackedTensor};

/// Shapley values as the weighted regression of the output on the features that are present
/// (Lundberg and Lee 2017). The contributions add up to y(x) − y(x₀) by construction.
///
/// Where the samples suffice for every coalition, each is taken once with its weight, and the
/// result is exact. Otherwise coalitions are drawn by their weights, each with its complement.
#[derive(Clone, Debug)]
pub struct KernelShap {
    baseline: Baseline,
    features: Features,
    samples: usize,
    seed: u64,
    control: Control,
}

impl KernelShap {
    /// With this many evaluations.
    pub fn new(samples: usize) -> Self {
        Self {
            baseline: Baseline::Zero,
            features: Features::Elements,
            samples,
            seed: 0,
            control: Control::default(),
        }
    }

    /// What stands for a feature that is absent.
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

    /// Coalitions, neither empty nor full, with their weights.
    fn coalitions(&self, n: usize) -> Result<(Vec<Vec<bool>>, Vec<f64>)> {
        // (n − 1) / (C(n, s) s (n − s)) for each coalition of size s; for all of them together:
        let of_size = |s: usize| (n - 1) as f64 / (s * (n - s)) as f64;
        if n < usize::BITS as usize - 1 && (1usize << n) - 2 <= self.samples {
            let mut single = vec![0.0; n];
            let mut count = 1.0;
            for (s, weight) in single.iter_mut().enumerate().skip(1) {
                count *= (n - s + 1) as f64 / s as f64;
                *weight = of_size(s) / count;
            }
            let all = 1..(1usize << n) - 1;
            let weights = all.clone().map(|c| single[c.count_ones() as usize]).collect();
            return Ok((all.map(|c| (0..n).map(|i| c >> i & 1 == 1).collect()).collect(), weights));
        }
        let sizes: Vec<f64> = (1..n).map(of_size).collect();
        let total: f64 = sizes.iter().sum();
        let mut draws = Draws::new(self.seed);
        let mut found = Vec::with_capacity(self.samples);
        while found.len() + 1 < self.samples {
            let mut left = draws.uniform(1)?[0] * total;
            let picked = sizes.iter().position(|weight| {
                left -= weight;
                left < 0.0
            });
            let size = picked.unwrap_or(n - 2) + 1;
            let mut keep = vec![false; n];
            for &i in &draws.permutation(n)?[..size] {
                keep[i] = true;
            }
            let complement = keep.iter().map(|k| !k).collect();
            found.push(keep);
            found.push(complement);
        }
        let weights = vec![1.0; found.len()];
        Ok((found, weights))
    }

    fn run(&self, f: &Function<'_>, inputs: &[TrackedTensor], target: &Target) -> Result<Attribution> {
        let op = self.name();
        let masked = Masked::new(op, f, inputs, &self.baseline, target, &self.control)?;
        let grouping = self.features.grouping(op, inputs, masked.examples)?;
        let n = grouping.count;
        let none = masked.of_features(&grouping, &[vec![false; n]])?.remove(0);
        let mut scores = Vec::new();
        let mut steps = 2;
        if n == 1 {
            scores = masked.whole.iter().zip(&none).map(|(whole, none)| vec![whole - none]).collect();
        } else {
            let (coalitions, weights) = self.coalitions(n)?;
            let values = evaluate(op, &masked, &grouping, &coalitions)?;
            steps += coalitions.len();
            // The last contribution is what the others leave of the change, so that they add up.
            let last = |keep: &[bool]| f64::from(u8::from(keep[n - 1]));
            let rows: Vec<Vec<f64>> = coalitions
                .iter()
                .map(|keep| keep[..n - 1].iter().map(|&k| f64::from(u8::from(k)) - last(keep)).collect())
                .collect();
            for (example, (whole, none)) in masked.whole.iter().zip(&none).enumerate() {
                let change = whole - none;
                let y: Vec<f64> = values
                    .iter()
                    .zip(&coalitions)
                    .map(|(row, keep)| row[example] - none - last(keep) * change)
                    .collect();
                let mut found = least_squares(&rows, &y, &weights, 0.0)?;
                found.push(change - found.iter().sum::<f64>());
                scores.push(found);
            }
        }
        let delta = group_deltas(&scores, &masked.whole, &none);
        let values = grouping.spread(&scores, inputs)?;
        Ok(Attribution { values, delta: Some(delta), errors: None, steps })
    }
}

/// The outputs of coalitions: one row of examples for each.
fn evaluate(
    op: &'static str,
    masked: &Masked<'_>,
    grouping: &Grouping,
    coalitions: &[Vec<bool>],
) -> Result<Vec<Vec<f64>>> {
    let mut values = Vec::with_capacity(coalitions.len());
    for part in coalitions.chunks(masked.at_once()) {
        values.extend(masked.of_features(grouping, part)?);
        masked.control.report(op, values.len(), coalitions.len())?;
    }
    Ok(values)
}

impl Method for KernelShap {
    fn name(&self) -> &'static str {
        "kernel SHAP"
    }

    #[track_caller]
    fn attribute(&self, f: &Function<'_>, inputs: &[TrackedTensor], target: &Target) -> Result<Attribution> {
        let site = Site::caller();
        check_inputs(self.name(), inputs, site)?;
        self.run(f, inputs, target).map_err(|e| e.or_at(site))
    }
}

/// How the linear model of LIME is kept small.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Shrinkage {
    /// |β|²: all features, evenly smaller.
    Ridge(f64),
    /// |β|₁: few features.
    Lasso(f64),
}

/// A linear model of the output near the input (Ribeiro et al. 2016): features are present or
/// absent with even odds, and a sample with a share d of absent features weighs exp(−d²/width²).
#[derive(Clone, Debug)]
pub struct Lime {
    baseline: Baseline,
    features: Features,
    samples: usize,
    width: f64,
    shrinkage: Shrinkage,
    seed: u64,
    control: Control,
}

impl Lime {
    /// With this many samples, a kernel of width 0.75, and a ridge of 1e-6 against chance.
    pub fn new(samples: usize) -> Self {
        Self {
            baseline: Baseline::Zero,
            features: Features::Elements,
            samples,
            width: 0.75,
            shrinkage: Shrinkage::Ridge(1e-6),
            seed: 0,
            control: Control::default(),
        }
    }

    /// What stands for a feature that is absent.
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

    /// The width of the kernel, in shares of all features.
    #[must_use]
    pub fn width(mut self, width: f64) -> Self {
        self.width = width;
        self
    }

    /// How the model is kept small.
    #[must_use]
    pub fn shrinkage(mut self, shrinkage: Shrinkage) -> Self {
        self.shrinkage = shrinkage;
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
        let op = self.name();
        if self.samples == 0 || self.width <= 0.0 || !self.width.is_finite() {
            return Err(Error::argument(op, "at least one sample and a positive width are needed"));
        }
        let masked = Masked::new(op, f, inputs, &self.baseline, target, &self.control)?;
        let grouping = self.features.grouping(op, inputs, masked.examples)?;
        let n = grouping.count;
        let mut draws = Draws::new(self.seed);
        let mut keeps: Vec<Vec<bool>> = vec![vec![true; n]];
        while keeps.len() < self.samples {
            keeps.push(draws.uniform(n)?.into_iter().map(|u| u < 0.5).collect());
        }
        let values = evaluate(op, &masked, &grouping, &keeps)?;
        let weight = |keep: &Vec<bool>| {
            let absent = keep.iter().filter(|k| !**k).count() as f64 / n as f64;
            (-(absent / self.width).powi(2)).exp()
        };
        let weights: Vec<f64> = keeps.iter().map(weight).collect();
        let number = |k: &bool| f64::from(u8::from(*k));
        let mut scores = Vec::new();
        for example in 0..masked.examples.count {
            let y: Vec<f64> = values.iter().map(|row| row[example]).collect();
            scores.push(match self.shrinkage {
                Shrinkage::Lasso(alpha) => {
                    let rows: Vec<Vec<f64>> =
                        keeps.iter().map(|keep| keep.iter().map(number).collect()).collect();
                    lasso(&rows, &y, &weights, alpha).0
                }
                Shrinkage::Ridge(ridge) => {
                    // Centred, so that the intercept is not shrunk.
                    let total: f64 = weights.iter().sum();
                    let mean = |i: usize| {
                        keeps.iter().zip(&weights).map(|(k, w)| w * number(&k[i])).sum::<f64>() / total
                    };
                    let means: Vec<f64> = (0..n).map(mean).collect();
                    let level = y.iter().zip(&weights).map(|(y, w)| w * y).sum::<f64>() / total;
                    let rows: Vec<Vec<f64>> = keeps
                        .iter()
                        .map(|keep| keep.iter().zip(&means).map(|(k, mean)| number(k) - mean).collect())
                        .collect();
                    let y: Vec<f64> = y.iter().map(|y| y - level).collect();
                    least_squares(&rows, &y, &weights, ridge)?
                }
            });
        }
        Ok(Attribution::plain(grouping.spread(&scores, inputs)?, keeps.len() + 1))
    }
}

impl Method for Lime {
    fn name(&self) -> &'static str {
        "LIME"
    }

    #[track_caller]
    fn attribute(&self, f: &Function<'_>, inputs: &[TrackedTensor], target: &Target) -> Result<Attribution> {
        let site = Site::caller();
        check_inputs(self.name(), inputs, site)?;
        self.run(f, inputs, target).map_err(|e| e.or_at(site))
    }
}
