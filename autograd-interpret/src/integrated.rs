//! Integrated gradients: the gradient's mean on the way from a baseline, times the way.

use crate::attribution::{Attribution, Method, deltas};
use crate::baseline::Baseline;
use crate::control::{Control, controls};
use crate::copies::{add_to, along, weighted_sum};
use crate::function::{Examples, Function, check_inputs, value_of};
use crate::kinks::Line;
use crate::quadrature::Quadrature;
use crate::slopes::{outputs, slopes};
use crate::target::Target;
use autograd_core::algebra::{add, mul, scale, sub};
use autograd_core::{Error, Result, Site, TrackedTensor};

/// (x − x₀) · ∫₀¹ ∂y/∂x(x₀ + t(x − x₀)) dt (Sundararajan et al. 2017). The contributions add up to
/// y(x) − y(x₀); [`Attribution::delta`] says how nearly.
///
/// The points of the integral are evaluated in batches; where the function gives one number
/// without a batch in front, one after the other.
#[derive(Clone, Debug)]
pub struct IntegratedGradients {
    baseline: Baseline,
    quadrature: Quadrature,
    steps: usize,
    complete: Option<f64>,
    multiply: bool,
    control: Control,
}

/// Captum's default.
const STEPS: usize = 50;

/// The most evaluations of an example on the way to a requested completeness, unless set.
const MOST: usize = 100_000;

impl Default for IntegratedGradients {
    fn default() -> Self {
        Self::new()
    }
}

impl IntegratedGradients {
    /// 50 steps of Gauss and Legendre from zero.
    pub fn new() -> Self {
        Self {
            baseline: Baseline::Zero,
            quadrature: Quadrature::GaussLegendre,
            steps: STEPS,
            complete: None,
            multiply: true,
            control: Control::default(),
        }
    }

    /// Where the way begins.
    #[must_use]
    pub fn baseline(mut self, baseline: impl Into<Baseline>) -> Self {
        self.baseline = baseline.into();
        self
    }

    /// How the integral is taken.
    #[must_use]
    pub fn quadrature(mut self, quadrature: Quadrature) -> Self {
        self.quadrature = quadrature;
        self
    }

    /// How many points it has; with [`complete_to`](Self::complete_to), at most how many.
    #[must_use]
    pub fn steps(mut self, steps: usize) -> Self {
        self.steps = steps;
        self
    }

    /// As many points as it takes until |delta| of each example is at most `tolerance`.
    ///
    /// Smooth functions converge by Gauss and Legendre's rule on ever more points. The gradient of
    /// a net of relus jumps instead, and no rule for smooth functions ever gets there: the way is
    /// then divided where it bends. At both ends of an interval the function's tangents are known;
    /// where they meet, the only bend of the interval must be, which one evaluation confirms or
    /// refutes. At most 100,000 evaluations an example, unless [`steps`](Self::steps) is called
    /// afterwards.
    ///
    /// [`Attribution::steps`] says how many it took; where they are not enough, that is an error.
    #[must_use]
    pub fn complete_to(mut self, tolerance: f64) -> Self {
        self.complete = Some(tolerance);
        self.steps = MOST;
        self
    }

    /// The gradients' mean alone, not multiplied by x − x₀.
    #[must_use]
    pub fn not_multiplied(mut self) -> Self {
        self.multiply = false;
        self
    }

    controls!();

    pub(crate) fn own_baseline(&self) -> &Baseline {
        &self.baseline
    }

    fn start(&self, inputs: &[TrackedTensor]) -> Result<Vec<TrackedTensor>> {
        self.baseline.of("integrated_gradients", inputs)
    }

    fn run(&self, f: &Function<'_>, inputs: &[TrackedTensor], target: &Target) -> Result<Attribution> {
        let op = self.name();
        let start = self.start(inputs)?;
        let (high, examples) = outputs(op, f, inputs, target)?;
        let (low, _) = outputs(op, f, &start, target)?;
        let path = Path { op, f, start: &start, end: inputs, target, examples, control: &self.control };
        let finish = |means: Vec<TrackedTensor>, steps: usize| -> Result<Attribution> {
            let whole = path.times_way(&means)?;
            let delta = deltas(&whole, &high, &low)?;
            let values = if self.multiply { whole } else { means };
            Ok(Attribution { values, delta: Some(delta), errors: None, steps })
        };
        let Some(tolerance) = self.complete else {
            let points = self.quadrature.points(self.steps)?;
            return finish(path.mean_gradients(&points)?, points.len());
        };
        let mut taken = 0;
        for steps in SMOOTH.into_iter().filter(|&steps| steps <= self.steps) {
            let found = finish(path.mean_gradients(&Quadrature::GaussLegendre.points(steps)?)?, steps)?;
            taken += steps;
            if found.worst_delta() <= tolerance {
                return Ok(Attribution { steps: taken, ..found });
            }
        }
        let line = Line { path: &path, tolerance, most: self.steps };
        let (means, bends) = line.means(&low, &high)?;
        let mut values = Vec::new();
        let mut from = 0;
        for x in inputs {
            let each = examples.elements(x);
            let rows = means.iter().flat_map(|row| row[from..from + each].iter().copied()).collect();
            values.push(value_of(rows, x.dims(), x)?);
            from += each;
        }
        let found = finish(values, taken + bends)?;
        if found.worst_delta() > tolerance {
            let (delta, steps) = (found.worst_delta(), found.steps);
            let reason = format!(
                "|delta| is {delta:.1e} after {steps} evaluations, {tolerance:.1e} was asked for; allow more steps, or compute in f64"
            );
            return Err(Error::argument(op, reason));
        }
        Ok(found)
    }
}

/// Numbers of points that are tried before the way is searched for bends.
const SMOOTH: [usize; 4] = [8, 16, 32, 64];

impl Method for IntegratedGradients {
    fn name(&self) -> &'static str {
        "integrated gradients"
    }

    #[track_caller]
    fn attribute(&self, f: &Function<'_>, inputs: &[TrackedTensor], target: &Target) -> Result<Attribution> {
        let site = Site::caller();
        check_inputs(self.name(), inputs, site)?;
        self.run(f, inputs, target).map_err(|e| e.or_at(site))
    }
}

/// The straight way from baselines to inputs.
pub(crate) struct Path<'a> {
    pub(crate) op: &'static str,
    pub(crate) f: &'a Function<'a>,
    pub(crate) start: &'a [TrackedTensor],
    pub(crate) end: &'a [TrackedTensor],
    pub(crate) target: &'a Target,
    pub(crate) examples: Examples,
    pub(crate) control: &'a Control,
}

impl Path<'_> {
    /// The gradients along the way, added up with the weights of a quadrature.
    pub(crate) fn mean_gradients(&self, points: &[(f64, f64)]) -> Result<Vec<TrackedTensor>> {
        let mut sums = Vec::new();
        self.each_part(points, |inputs, target, weights| {
            let found = slopes(self.f, inputs, target)?.gradients;
            let parts: Result<Vec<TrackedTensor>> = match weights {
                [weight] => found.iter().map(|g| scale(g, *weight)).collect(),
                _ => found.iter().map(|g| weighted_sum(g, weights)).collect(),
            };
            add_to(&mut sums, parts?)
        })?;
        Ok(sums)
    }

    /// Visits the points of the way, as many at once as memory allows: the inputs there, the
    /// target of all copies, and the weights.
    pub(crate) fn each_part(
        &self,
        points: &[(f64, f64)],
        mut visit: impl FnMut(&[TrackedTensor], &Target, &[f64]) -> Result<()>,
    ) -> Result<()> {
        let at_once = if self.examples.batched { self.control.copies(self.examples.count) } else { 1 };
        let mut done = 0;
        for part in points.chunks(at_once) {
            let (at, weights): (Vec<f64>, Vec<f64>) = part.iter().copied().unzip();
            let ends = self.start.iter().zip(self.end);
            let inputs: Vec<TrackedTensor> = if self.examples.batched {
                ends.map(|(start, end)| along(start, end, &at)).collect::<Result<_>>()?
            } else {
                ends.map(|(start, end)| {
                    let way = scale(&sub(end, start)?, at[0])?;
                    add(start, &way)
                })
                .collect::<Result<_>>()?
            };
            visit(&inputs, &self.target.repeat(part.len()), &weights)?;
            done += part.len();
            self.control.report(self.op, done, points.len())?;
        }
        Ok(())
    }

    /// Each value times the way.
    pub(crate) fn times_way(&self, values: &[TrackedTensor]) -> Result<Vec<TrackedTensor>> {
        let ends = self.end.iter().zip(self.start);
        values.iter().zip(ends).map(|(value, (end, start))| mul(value, &sub(end, start)?)).collect()
    }
}

/// [`IntegratedGradients`] of a function of one value and one number, by the midpoint rule; from
/// zero where no baseline is given.
///
/// # Errors
/// As [`Method::attribute`].
#[track_caller]
pub fn integrated_gradients(
    f: impl Fn(&TrackedTensor) -> Result<TrackedTensor>,
    x: &TrackedTensor,
    baseline: Option<&TrackedTensor>,
    steps: usize,
) -> Result<Attribution> {
    let method = IntegratedGradients::new().quadrature(Quadrature::Middle).steps(steps);
    match baseline {
        Some(baseline) => method.baseline(baseline).explain(f, x, ()),
        None => method.explain(f, x, ()),
    }
}
