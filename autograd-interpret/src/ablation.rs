//! What the output loses when features are taken away, covered or shuffled.

use crate::attribution::{Attribution, Method};
use crate::baseline::Baseline;
use crate::control::{Control, controls, progress};
use crate::draws::Draws;
use crate::function::{Function, check_inputs, numbers, value_of};
use crate::masks::{Features, Masked};
use crate::slopes::outputs;
use crate::target::Target;
use autograd_core::{Error, Result, Site, TrackedTensor};

/// y(x) − y(x without the feature), for each feature.
#[derive(Clone, Debug, Default)]
pub struct FeatureAblation {
    baseline: Baseline,
    features: Features,
    control: Control,
}

impl FeatureAblation {
    /// Every element by itself, set to zero.
    pub fn new() -> Self {
        Self::default()
    }

    /// What stands for a feature that is taken away.
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

    controls!();

    fn run(&self, f: &Function<'_>, inputs: &[TrackedTensor], target: &Target) -> Result<Attribution> {
        let masked = Masked::new(self.name(), f, inputs, &self.baseline, target, &self.control)?;
        let grouping = self.features.grouping(self.name(), inputs, masked.examples)?;
        let mut scores = vec![vec![0.0; grouping.count]; masked.examples.count];
        let features: Vec<usize> = (0..grouping.count).collect();
        for part in features.chunks(masked.at_once()) {
            let keeps: Vec<Vec<bool>> =
                part.iter().map(|gone| features.iter().map(|feature| feature != gone).collect()).collect();
            for (&feature, row) in part.iter().zip(masked.of_features(&grouping, &keeps)?) {
                for ((score, whole), y) in scores.iter_mut().zip(&masked.whole).zip(row) {
                    score[feature] = whole - y;
                }
            }
            self.control.report(self.name(), part[part.len() - 1] + 1, grouping.count)?;
        }
        Ok(Attribution::plain(grouping.spread(&scores, inputs)?, grouping.count + 1))
    }
}

impl Method for FeatureAblation {
    fn name(&self) -> &'static str {
        "feature ablation"
    }

    #[track_caller]
    fn attribute(&self, f: &Function<'_>, inputs: &[TrackedTensor], target: &Target) -> Result<Attribution> {
        let site = Site::caller();
        check_inputs(self.name(), inputs, site)?;
        self.run(f, inputs, target).map_err(|e| e.or_at(site))
    }
}

/// y(x) − y(x with a window covered), for each element the mean over the windows that cover it
/// (Zeiler and Fergus 2013).
///
/// A window slides over all of an example's dimensions; the last one of each is moved back to end
/// at the edge.
#[derive(Clone, Debug)]
pub struct Occlusion {
    window: Vec<usize>,
    stride: Vec<usize>,
    baseline: Baseline,
    control: Control,
}

impl Occlusion {
    /// Windows of this extent for each dimension behind the batch, moved by 1.
    pub fn new(window: &[usize]) -> Self {
        Self {
            window: window.to_vec(),
            stride: vec![1; window.len()],
            baseline: Baseline::Zero,
            control: Control::default(),
        }
    }

    /// How far a window is moved in each dimension.
    #[must_use]
    pub fn stride(mut self, stride: &[usize]) -> Self {
        self.stride = stride.to_vec();
        self
    }

    /// What covers.
    #[must_use]
    pub fn baseline(mut self, baseline: impl Into<Baseline>) -> Self {
        self.baseline = baseline.into();
        self
    }

    controls!();

    /// The places of windows along each dimension: first element and extent.
    fn windows(&self, dims: &[usize]) -> Result<Vec<Vec<(usize, usize)>>> {
        let fits = dims.len() == self.window.len()
            && dims.len() == self.stride.len()
            && self.window.iter().zip(dims).all(|(&w, &d)| (1..=d).contains(&w))
            && self.stride.iter().zip(&self.window).all(|(&s, &w)| (1..=w).contains(&s));
        if !fits {
            let (window, stride) = (&self.window, &self.stride);
            let reason = format!(
                "windows {window:?} moved by {stride:?} do not fit examples of shape {dims:?}: each extent is at most the input's, each stride at most the extent"
            );
            return Err(Error::argument(self.name(), reason));
        }
        let along = |((&d, &w), &s): ((&usize, &usize), &usize)| {
            let count = (d - w).div_ceil(s) + 1;
            // The last window covers what is left.
            (0..count).map(|i| (i * s, w.min(d - i * s))).collect()
        };
        Ok(dims.iter().zip(&self.window).zip(&self.stride).map(along).collect())
    }

    fn run(&self, f: &Function<'_>, inputs: &[TrackedTensor], target: &Target) -> Result<Attribution> {
        let masked = Masked::new(self.name(), f, inputs, &self.baseline, target, &self.control)?;
        let mut values = Vec::new();
        let mut steps = 1;
        for (input, x) in inputs.iter().enumerate() {
            let dims = masked.examples.dims(x);
            let windows = self.windows(dims)?;
            let count: usize = windows.iter().map(Vec::len).product();
            let elements = masked.examples.elements(x);
            let mut sums = vec![vec![0.0; elements]; masked.examples.count];
            let mut covered = vec![0.0; elements];
            let all: Vec<usize> = (0..count).collect();
            for part in all.chunks(masked.at_once()) {
                let covers: Vec<Vec<bool>> = part.iter().map(|&at| cover(at, &windows, dims)).collect();
                let keeps: Vec<Vec<Vec<bool>>> = covers
                    .iter()
                    .map(|cover| {
                        let others = inputs.iter().enumerate().map(|(i, other)| match i == input {
                            true => cover.iter().map(|c| !c).collect(),
                            false => vec![true; masked.examples.elements(other)],
                        });
                        others.collect()
                    })
                    .collect();
                for (cover, row) in covers.iter().zip(masked.outputs(&keeps)?) {
                    for (e, _) in cover.iter().enumerate().filter(|(_, c)| **c) {
                        covered[e] += 1.0;
                        for ((sum, whole), y) in sums.iter_mut().zip(&masked.whole).zip(&row) {
                            sum[e] += whole - y;
                        }
                    }
                }
                self.control.report(self.name(), part[part.len() - 1] + 1, count)?;
            }
            let means = sums.iter().flat_map(|row| row.iter().zip(&covered).map(|(sum, n)| sum / n));
            values.push(value_of(means.collect(), x.dims(), x)?);
            steps += count;
        }
        Ok(Attribution::plain(values, steps))
    }
}

/// Which elements the window with this number covers.
fn cover(number: usize, windows: &[Vec<(usize, usize)>], dims: &[usize]) -> Vec<bool> {
    let mut rest = number;
    let mut at = vec![(0, 0); dims.len()];
    for (place, choices) in at.iter_mut().zip(windows).rev() {
        *place = choices[rest % choices.len()];
        rest /= choices.len();
    }
    let mut covered = vec![true];
    for (&(start, len), &d) in at.iter().zip(dims) {
        let inside = |i: usize| (start..start + len).contains(&i);
        covered = covered.iter().flat_map(|&c| (0..d).map(move |i| c && inside(i))).collect();
    }
    covered
}

impl Method for Occlusion {
    fn name(&self) -> &'static str {
        "occlusion"
    }

    #[track_caller]
    fn attribute(&self, f: &Function<'_>, inputs: &[TrackedTensor], target: &Target) -> Result<Attribution> {
        let site = Site::caller();
        check_inputs(self.name(), inputs, site)?;
        self.run(f, inputs, target).map_err(|e| e.or_at(site))
    }
}

/// y(x) − y(x with the feature shuffled among the examples of the batch) (Fisher et al. 2019).
#[derive(Clone, Debug)]
pub struct FeaturePermutation {
    features: Features,
    repeats: usize,
    seed: u64,
    control: Control,
}

impl Default for FeaturePermutation {
    fn default() -> Self {
        Self::new()
    }
}

impl FeaturePermutation {
    /// Every element by itself, shuffled once.
    pub fn new() -> Self {
        Self { features: Features::Elements, repeats: 1, seed: 0, control: Control::default() }
    }

    /// Which elements belong together.
    #[must_use]
    pub fn features(mut self, features: impl Into<Features>) -> Self {
        self.features = features.into();
        self
    }

    /// Over how many shuffles the mean is taken.
    #[must_use]
    pub fn repeats(mut self, repeats: usize) -> Self {
        self.repeats = repeats;
        self
    }

    /// Where the draws begin.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    progress!();

    fn run(&self, f: &Function<'_>, inputs: &[TrackedTensor], target: &Target) -> Result<Attribution> {
        let op = self.name();
        let (whole, examples) = outputs(op, f, inputs, target)?;
        if !examples.batched || examples.count < 2 {
            return Err(Error::argument(op, "a batch of at least two examples is needed to shuffle"));
        }
        if self.repeats == 0 {
            return Err(Error::argument(op, "no shuffles were asked for"));
        }
        let grouping = self.features.grouping(op, inputs, examples)?;
        let all: Vec<Vec<f64>> = inputs.iter().map(numbers).collect::<Result<_>>()?;
        let mut draws = Draws::new(self.seed);
        let mut scores = vec![vec![0.0; grouping.count]; examples.count];
        for feature in 0..grouping.count {
            for _ in 0..self.repeats {
                let order = draws.permutation(examples.count)?;
                let shuffled = inputs.iter().zip(&all).zip(&grouping.of).map(|((x, old), of)| {
                    let mut rows = old.clone();
                    for (e, _) in of.iter().enumerate().filter(|(_, f)| **f == feature) {
                        for (to, &from) in order.iter().enumerate() {
                            rows[to * of.len() + e] = old[from * of.len() + e];
                        }
                    }
                    value_of(rows, x.dims(), x)
                });
                let shuffled: Vec<TrackedTensor> = shuffled.collect::<Result<_>>()?;
                let (y, _) = outputs(op, f, &shuffled, target)?;
                for ((score, whole), y) in scores.iter_mut().zip(&whole).zip(y) {
                    score[feature] += (whole - y) / self.repeats as f64;
                }
            }
            self.control.report(op, feature + 1, grouping.count)?;
        }
        let steps = 1 + grouping.count * self.repeats;
        Ok(Attribution::plain(grouping.spread(&scores, inputs)?, steps))
    }
}

impl Method for FeaturePermutation {
    fn name(&self) -> &'static str {
        "feature permutation"
    }

    #[track_caller]
    fn attribute(&self, f: &Function<'_>, inputs: &[TrackedTensor], target: &Target) -> Result<Attribution> {
        let site = Site::caller();
        check_inputs(self.name(), inputs, site)?;
        self.run(f, inputs, target).map_err(|e| e.or_at(site))
    }
}
