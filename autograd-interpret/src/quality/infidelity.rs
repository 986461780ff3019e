//! What an attribution foretells of perturbations.

use super::fits;
use crate::attribution::sums;
use crate::control::{Control, progress};
use crate::draws::Draws;
use crate::function::{Function, check_inputs, value_of};
use crate::slopes::outputs;
use crate::target::Target;
use autograd_core::algebra::{scale, sub};
use autograd_core::{Error, Result, Site, TrackedTensor};
use autograd_ops::TensorAutograd;

/// A perturbation of inputs: which random numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Perturbation {
    /// Normal numbers of this deviation.
    Normal(f64),
    /// Uniform numbers of at most this size: a box around the input.
    Uniform(f64),
    /// The input itself: all of it is taken away.
    Whole,
}

impl Perturbation {
    pub(super) fn of(self, inputs: &[TrackedTensor], draws: &mut Draws) -> Result<Vec<TrackedTensor>> {
        let one = |x: &TrackedTensor| match self {
            Self::Whole => Ok(x.clone()),
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
/// ```
/// use autograd_core::{Result, TrackedTensor};
/// use autograd_interpret::{Infidelity, Perturbation, Target, single};
/// use autograd_ops::TensorAutograd;
///
/// fn main() -> Result<()> {
///     let w = TrackedTensor::from_vec(vec![2.0, -1.0], &[2, 1])?;
///     let f = single(|x| x.matmul(&w));
///     let x = [TrackedTensor::from_vec(vec![1.0, 3.0], &[1, 2])?];
///     let right = [TrackedTensor::from_vec(vec![2.0, -1.0], &[1, 2])?];
///     let found = Infidelity::new(Perturbation::Normal(0.1)).measure(&f, &x, &Target::Only, &right)?;
///     assert!(found[0] < 1e-20);
///     Ok(())
/// }
/// ```
#[derive(Clone, Debug)]
pub struct Infidelity {
    perturbation: Perturbation,
    samples: usize,
    seed: u64,
    control: Control,
}

impl Infidelity {
    /// Over ten perturbations of a kind.
    pub fn new(perturbation: Perturbation) -> Self {
        Self { perturbation, samples: 10, seed: 0, control: Control::default() }
    }

    /// Over how many perturbations the mean is taken.
    #[must_use]
    pub fn samples(mut self, samples: usize) -> Self {
        self.samples = samples;
        self
    }

    /// Where the draws begin.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    progress!();

    /// The infidelity of an attribution, for each example.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for no samples or attributions that are not the inputs' in
    /// number; [`Error::Cancelled`] where the progress callback says so; whatever `f` reports.
    #[track_caller]
    pub fn measure(
        &self,
        f: &Function<'_>,
        inputs: &[TrackedTensor],
        target: &Target,
        attributions: &[TrackedTensor],
    ) -> Result<Vec<f64>> {
        let site = Site::caller();
        self.run(f, inputs, target, attributions).map_err(|e| e.or_at(site))
    }

    fn run(
        &self,
        f: &Function<'_>,
        inputs: &[TrackedTensor],
        target: &Target,
        attributions: &[TrackedTensor],
    ) -> Result<Vec<f64>> {
        let op = "infidelity";
        check_inputs(op, inputs, Site::caller())?;
        if self.samples == 0 || !fits(attributions, inputs) {
            let reason = "at least one sample is needed, and one attribution of the shape of each input";
            return Err(Error::argument(op, reason));
        }
        let (high, examples) = outputs(op, f, inputs, target)?;
        let mut draws = Draws::new(self.seed);
        let mut means = vec![0.0; examples.count];
        for done in 1..=self.samples {
            let moves = self.perturbation.of(inputs, &mut draws)?;
            let moved: Vec<TrackedTensor> =
                inputs.iter().zip(&moves).map(|(x, p)| sub(x, p)).collect::<Result<_>>()?;
            let (low, _) = outputs(op, f, &moved, target)?;
            let foretold: Vec<TrackedTensor> =
                attributions.iter().zip(&moves).map(|(a, p)| a.mul(p)).collect::<Result<_>>()?;
            let foretold = sums(&foretold, examples.count)?;
            for (i, mean) in means.iter_mut().enumerate() {
                *mean += (foretold[i] - (high[i] - low[i])).powi(2) / self.samples as f64;
            }
            self.control.report(op, done, self.samples)?;
        }
        Ok(means)
    }
}
