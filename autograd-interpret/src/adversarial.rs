//! Probes: the smallest changes that move an answer.

use crate::control::{Control, progress};
use crate::draws::Draws;
use crate::function::{Function, check_inputs, numbers, value_of};
use crate::slopes::slopes;
use crate::target::Target;
use autograd_core::algebra::{add, scale, sub};
use autograd_core::{Error, Result, Site, TrackedTensor};
use autograd_ops::TensorAutograd;

/// What a change may measure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Ball {
    /// At most this much in every element.
    Max(f64),
    /// At most this Euclidean length in each example and input.
    Euclid(f64),
}

/// x moved by `size` in every element along the sign of the gradient, so that the target grows
/// (fast gradient sign method, Goodfellow et al. 2014). With a negative size it shrinks.
///
/// # Errors
/// As [`Method::attribute`](crate::Method::attribute).
#[track_caller]
pub fn fgsm(
    f: &Function<'_>,
    inputs: &[TrackedTensor],
    target: &Target,
    size: f64,
    bounds: Option<(f64, f64)>,
) -> Result<Vec<TrackedTensor>> {
    let site = Site::caller();
    check_inputs("fgsm", inputs, site)?;
    let run = || {
        let found = slopes(f, inputs, target)?.gradients;
        let moved =
            inputs.iter().zip(&found).map(|(x, g)| bounded(&add(x, &scale(&g.sign()?, size)?)?, bounds));
        moved.collect::<Result<Vec<_>>>()
    };
    run().map_err(|e: Error| e.or_at(site))
}

fn bounded(x: &TrackedTensor, bounds: Option<(f64, f64)>) -> Result<TrackedTensor> {
    match bounds {
        Some((low, high)) => x.clamp(low, high),
        None => Ok(x.clone()),
    }
}

/// Projected gradient ascent of the target within a ball around the input (Madry et al. 2017).
///
/// ```
/// use autograd_core::{Result, TrackedTensor};
/// use autograd_interpret::{Ball, Pgd, Target, single};
/// use autograd_ops::TensorAutograd;
///
/// fn main() -> Result<()> {
///     let x = TrackedTensor::from_vec(vec![1.0, -2.0], &[1, 2])?;
///     let f = single(|x| x.sqr()?.sum_dim(1));
///     let found = Pgd::new(Ball::Max(0.5)).ascend(&f, &[x], &Target::Only)?;
///     assert_eq!(found[0].to_flat::<f64>()?, [1.5, -2.5]);
///     Ok(())
/// }
/// ```
#[derive(Clone, Debug)]
pub struct Pgd {
    ball: Ball,
    step: f64,
    steps: usize,
    bounds: Option<(f64, f64)>,
    start: Option<u64>,
    control: Control,
}

impl Pgd {
    /// 20 steps of a tenth of the ball's size.
    pub fn new(ball: Ball) -> Self {
        let (Ball::Max(size) | Ball::Euclid(size)) = ball;
        let (step, control) = (0.1 * size, Control::default());
        Self { ball, step, steps: 20, bounds: None, start: None, control }
    }

    /// How far one step goes.
    #[must_use]
    pub fn step(mut self, step: f64) -> Self {
        self.step = step;
        self
    }

    /// How many steps are taken.
    #[must_use]
    pub fn steps(mut self, steps: usize) -> Self {
        self.steps = steps;
        self
    }

    /// The least and the greatest number that an input may hold.
    #[must_use]
    pub fn bounds(mut self, low: f64, high: f64) -> Self {
        self.bounds = Some((low, high));
        self
    }

    /// A start at a random place in the ball instead of its centre.
    #[must_use]
    pub fn random_start(mut self, seed: u64) -> Self {
        self.start = Some(seed);
        self
    }

    progress!();

    /// Inputs in the ball at which the target is larger.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for a ball or step that is not positive; as
    /// [`Method::attribute`](crate::Method::attribute).
    #[track_caller]
    pub fn ascend(
        &self,
        f: &Function<'_>,
        inputs: &[TrackedTensor],
        target: &Target,
    ) -> Result<Vec<TrackedTensor>> {
        let site = Site::caller();
        self.run(f, inputs, target, 1.0).map_err(|e| e.or_at(site))
    }

    /// Inputs in the ball at which the target is smaller.
    ///
    /// # Errors
    /// As [`ascend`](Self::ascend).
    #[track_caller]
    pub fn descend(
        &self,
        f: &Function<'_>,
        inputs: &[TrackedTensor],
        target: &Target,
    ) -> Result<Vec<TrackedTensor>> {
        let site = Site::caller();
        self.run(f, inputs, target, -1.0).map_err(|e| e.or_at(site))
    }

    fn run(
        &self,
        f: &Function<'_>,
        inputs: &[TrackedTensor],
        target: &Target,
        sign: f64,
    ) -> Result<Vec<TrackedTensor>> {
        check_inputs("pgd", inputs, Site::caller())?;
        let (Ball::Max(size) | Ball::Euclid(size)) = self.ball;
        if !(size > 0.0 && self.step > 0.0) {
            return Err(Error::argument("pgd", "the ball and the step must be positive"));
        }
        let mut x = inputs.to_vec();
        if let Some(seed) = self.start {
            let mut draws = Draws::new(seed);
            for (x, centre) in x.iter_mut().zip(inputs) {
                let drawn = draws.uniform(x.elem_count())?;
                let moves = drawn.into_iter().map(|u| size * (2.0 * u - 1.0)).collect();
                *x = self.project(&add(centre, &value_of(moves, centre.dims(), centre)?)?, centre)?;
            }
        }
        for done in 1..=self.steps {
            let found = slopes(f, &x, target)?.gradients;
            for ((x, g), centre) in x.iter_mut().zip(&found).zip(inputs) {
                let way = match self.ball {
                    Ball::Max(_) => g.sign()?,
                    Ball::Euclid(_) => scaled(g, |length| if length > 0.0 { 1.0 / length } else { 0.0 })?,
                };
                *x = self.project(&add(x, &scale(&way, sign * self.step)?)?, centre)?;
            }
            self.control.report("pgd", done, self.steps)?;
        }
        Ok(x)
    }

    fn project(&self, x: &TrackedTensor, centre: &TrackedTensor) -> Result<TrackedTensor> {
        let way = sub(x, centre)?;
        let inside = match self.ball {
            Ball::Max(size) => way.clamp(-size, size)?,
            Ball::Euclid(size) => scaled(&way, |length| if length > size { size / length } else { 1.0 })?,
        };
        bounded(&add(centre, &inside)?, self.bounds)
    }
}

/// Each example times a factor that follows from its length.
fn scaled(x: &TrackedTensor, factor: impl Fn(f64) -> f64) -> Result<TrackedTensor> {
    let all = numbers(x)?;
    let rows = x.dims().first().copied().unwrap_or(1).max(1);
    let each = (all.len() / rows).max(1);
    let new = all.chunks(each).flat_map(|row| {
        let times = factor(row.iter().map(|v| v * v).sum::<f64>().sqrt());
        row.iter().map(move |v| v * times)
    });
    value_of(new.collect(), x.dims(), x)
}
