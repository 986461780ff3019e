//! How easily an attribution changes with its input.

use super::infidelity::Perturbation;
use crate::attribution::Method;
use crate::control::{Control, progress};
use crate::draws::Draws;
use crate::function::{Function, check_inputs, numbers};
use crate::slopes::outputs;
use crate::target::Target;
use autograd_core::algebra::add;
use autograd_core::{Error, Result, Site, TrackedTensor};

/// max ‖φ(x + p) − φ(x)‖ / ‖φ(x)‖ over sampled p in a box of this radius, for each example: how
/// easily the attribution changes (Yeh et al. 2019). 0 is best.
#[derive(Clone, Debug)]
pub struct MaxSensitivity {
    radius: f64,
    samples: usize,
    seed: u64,
    control: Control,
}

impl MaxSensitivity {
    /// Over ten places of a box that reaches so far in every element.
    pub fn new(radius: f64) -> Self {
        Self { radius, samples: 10, seed: 0, control: Control::default() }
    }

    /// How many places are tried.
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

    /// The sensitivity of a method, for each example.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for no samples; [`Error::Cancelled`] where the progress callback
    /// says so; whatever the method reports.
    #[track_caller]
    pub fn measure(
        &self,
        method: &dyn Method,
        f: &Function<'_>,
        inputs: &[TrackedTensor],
        target: &Target,
    ) -> Result<Vec<f64>> {
        let site = Site::caller();
        self.run(method, f, inputs, target).map_err(|e| e.or_at(site))
    }

    fn run(
        &self,
        method: &dyn Method,
        f: &Function<'_>,
        inputs: &[TrackedTensor],
        target: &Target,
    ) -> Result<Vec<f64>> {
        let op = "max_sensitivity";
        check_inputs(op, inputs, Site::caller())?;
        if self.samples == 0 {
            return Err(Error::argument(op, "no samples were asked for"));
        }
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
        let mut draws = Draws::new(self.seed);
        let mut worst = vec![0.0f64; examples.count];
        for done in 1..=self.samples {
            let moves = Perturbation::Uniform(self.radius).of(inputs, &mut draws)?;
            let moved: Vec<TrackedTensor> =
                inputs.iter().zip(&moves).map(|(x, p)| add(x, p)).collect::<Result<_>>()?;
            let there = rows(&method.attribute(f, &moved, target)?.values)?;
            for (i, worst) in worst.iter_mut().enumerate() {
                let change: Vec<f64> = there[i].iter().zip(&here[i]).map(|(a, b)| a - b).collect();
                // An attribution of zero has no scale of its own.
                let size = norm(&here[i]);
                *worst = worst.max(norm(&change) / if size > 0.0 { size } else { 1.0 });
            }
            self.control.report(op, done, self.samples)?;
        }
        Ok(worst)
    }
}
