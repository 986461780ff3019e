//! Whether an attribution depends on what the model has learnt.

use crate::attribution::Method;
use crate::control::{Control, progress};
use crate::draws::Draws;
use crate::function::{Function, check_inputs, numbers, value_of};
use crate::target::Target;
use autograd_core::{Result, Site, TrackedTensor};

/// A model as a function of its parameters and its inputs.
pub type Parametrised<'f> = dyn Fn(&[TrackedTensor], &[TrackedTensor]) -> Result<TrackedTensor> + 'f;

/// The rank correlation of a method's attribution with those of the same model with its
/// parameters replaced by random ones, the last first, one more each time (Adebayo et al. 2018).
/// A method that explains the model loses its correlation; one that only finds edges keeps it.
///
/// Random parameters are the model's own in another order, so that their sizes stay.
#[derive(Clone, Debug, Default)]
pub struct ParameterRandomisation {
    seed: u64,
    control: Control,
}

impl ParameterRandomisation {
    /// With draws from seed 0.
    pub fn new() -> Self {
        Self::default()
    }

    /// Where the draws begin.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    progress!();

    /// The correlations: with the last parameter random, with the last two, and so on.
    ///
    /// # Errors
    /// [`Error::Cancelled`](autograd_core::Error::Cancelled) where the progress callback says so;
    /// whatever the model or the method reports.
    #[track_caller]
    pub fn correlations(
        &self,
        method: &dyn Method,
        model: &Parametrised<'_>,
        parameters: &[TrackedTensor],
        inputs: &[TrackedTensor],
        target: &Target,
    ) -> Result<Vec<f64>> {
        let site = Site::caller();
        self.run(method, model, parameters, inputs, target).map_err(|e| e.or_at(site))
    }

    fn run(
        &self,
        method: &dyn Method,
        model: &Parametrised<'_>,
        parameters: &[TrackedTensor],
        inputs: &[TrackedTensor],
        target: &Target,
    ) -> Result<Vec<f64>> {
        let op = "parameter_randomisation";
        check_inputs(op, inputs, Site::caller())?;
        let attribute = |parameters: &[TrackedTensor]| -> Result<Vec<f64>> {
            let f: &Function<'_> = &|x: &[TrackedTensor]| model(parameters, x);
            let found = method.attribute(f, inputs, target)?;
            Ok(found.values.iter().map(numbers).collect::<Result<Vec<_>>>()?.concat())
        };
        let here = attribute(parameters)?;
        let mut draws = Draws::new(self.seed);
        let mut changed = parameters.to_vec();
        let mut correlations = Vec::new();
        for i in (0..parameters.len()).rev() {
            let old = numbers(&parameters[i])?;
            let order = draws.permutation(old.len())?;
            let new = order.iter().map(|&at| old[at]).collect();
            changed[i] = value_of(new, parameters[i].dims(), &parameters[i])?;
            correlations.push(rank_correlation(&here, &attribute(&changed)?));
            self.control.report(op, correlations.len(), parameters.len())?;
        }
        Ok(correlations)
    }
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
