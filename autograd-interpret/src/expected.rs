//! Gradients expected over baselines: gradient SHAP.

use crate::attribution::{Attribution, Method, deltas};
use crate::baseline::Baseline;
use crate::control::{Control, controls};
use crate::draws::Draws;
use crate::function::{Examples, Function, check_inputs, numbers, value_of};
use crate::slopes::{outputs, slopes};
use crate::target::Target;
use autograd_core::algebra::{add, broadcast_to, mul, scale, sub};
use autograd_core::{Error, Result, Shape, Site, TrackedTensor, checked_shape};
use autograd_ops::TensorAutograd;

/// The mean of (x − x₀) · ∂y/∂x(x₀ + t(x − x₀)) over baselines x₀ and t: expected gradients
/// (Erion et al. 2021), and with noise on x gradient SHAP (Lundberg and Lee 2017).
///
/// Baselines are values whose first extent counts the alternatives; one is drawn for each example
/// and sample. The delta compares with y(x) less the mean output of the drawn baselines.
#[derive(Clone, Debug)]
pub struct GradientShap {
    baselines: Baseline,
    samples: usize,
    deviation: f64,
    seed: u64,
    control: Control,
}

/// Expected gradients under the name that most know: [`GradientShap`] without noise.
pub type ExpectedGradients = GradientShap;

impl GradientShap {
    /// Over these baselines: for each input a value of N alternatives.
    pub fn new(baselines: impl Into<Baseline>) -> Self {
        Self {
            baselines: baselines.into(),
            samples: 50,
            deviation: 0.0,
            seed: 0,
            control: Control::default(),
        }
    }

    /// How many samples are drawn for each example; 50 unless set.
    #[must_use]
    pub fn samples(mut self, samples: usize) -> Self {
        self.samples = samples;
        self
    }

    /// The standard deviation of the noise on x; 0 unless set.
    #[must_use]
    pub fn noise(mut self, deviation: f64) -> Self {
        self.deviation = deviation;
        self
    }

    /// Where the draws begin.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    controls!();

    /// The alternatives of each input: values with them in front.
    fn alternatives(&self, inputs: &[TrackedTensor], examples: Examples) -> Result<Vec<TrackedTensor>> {
        let Baseline::Values(values) = &self.baselines else {
            return self
                .baselines
                .of(self.name(), inputs)?
                .iter()
                .zip(inputs)
                .map(|(value, x)| {
                    let one: Vec<usize> =
                        std::iter::once(1).chain(examples.dims(x).iter().copied()).collect();
                    if examples.batched { value.narrow(0, 0, 1) } else { value.reshape(&one) }
                })
                .collect();
        };
        if values.len() != inputs.len() {
            let reason = format!("{} baselines given for {} inputs", values.len(), inputs.len());
            return Err(Error::argument(self.name(), reason));
        }
        let fit = |(value, x): (&TrackedTensor, &TrackedTensor)| -> Result<TrackedTensor> {
            if let Some(error) = value.failure() {
                return Err(error.clone());
            }
            let fits = value.dims().get(1..) == Some(examples.dims(x)) && value.elem_count() > 0;
            if !fits || value.dims()[0] != values[0].dims()[0] {
                let shapes: [Shape; 2] = [*value.shape(), *x.shape()];
                return Err(Error::shape(
                    self.name(),
                    &shapes,
                    "baselines are alternatives of one example of the input",
                ));
            }
            value.to_dtype(x.dtype())
        };
        values.iter().zip(inputs).map(fit).collect()
    }

    fn run(&self, f: &Function<'_>, inputs: &[TrackedTensor], target: &Target) -> Result<Attribution> {
        let op = self.name();
        if self.samples == 0 {
            return Err(Error::argument(op, "no samples were asked for"));
        }
        let (high, examples) = outputs(op, f, inputs, target)?;
        let alternatives = self.alternatives(inputs, examples)?;
        let choices = alternatives[0].dims()[0];
        let mut draws = Draws::new(self.seed);
        let mut totals: Vec<Moments> = inputs.iter().map(|x| Moments::new(x.elem_count())).collect();
        let mut low = vec![0.0; examples.count];
        let at_once = if examples.batched { self.control.copies(examples.count) } else { 1 };
        let mut done = 0;
        while done < self.samples {
            let n = at_once.min(self.samples - done);
            let rows = n * examples.count;
            let chosen = draws.below(choices, rows)?;
            let t = draws.uniform(rows)?;
            let (mut points, mut starts, mut ways) = (Vec::new(), Vec::new(), Vec::new());
            for (x, alternatives) in inputs.iter().zip(&alternatives) {
                let index: Vec<u32> = chosen.iter().map(|&i| i as u32).collect();
                let start = alternatives.index_select(TrackedTensor::from_vec(index, &[rows])?, 0)?;
                let mut dims = vec![n];
                dims.extend_from_slice(x.dims());
                let wide = broadcast_to(x, &checked_shape(op, &dims)?)?.reshape(start.dims())?;
                let end = if self.deviation > 0.0 {
                    add(&wide, &scale(&draws.normal(start.dims(), x.dtype())?, self.deviation)?)?
                } else {
                    wide
                };
                let mut column = vec![1; start.rank()];
                column[0] = rows;
                let t = TrackedTensor::from_vec(t.clone(), &column)?.to_dtype(x.dtype())?;
                let way = sub(&end, &start)?;
                let at = add(&start, &mul(&way, &t)?)?;
                let own = if examples.batched { *at.shape() } else { *x.shape() };
                points.push(at.reshape(own.dims())?);
                starts.push(start.reshape(own.dims())?);
                ways.push(way.reshape(own.dims())?);
            }
            let target = target.repeat(n);
            let found = slopes(f, &points, &target)?.gradients;
            for ((moments, g), way) in totals.iter_mut().zip(&found).zip(&ways) {
                moments.add(&numbers(&mul(g, way)?)?);
            }
            for (i, y) in outputs(op, f, &starts, &target)?.0.into_iter().enumerate() {
                low[i % examples.count] += y / self.samples as f64;
            }
            done += n;
            self.control.report(op, done, self.samples)?;
        }
        let (mut values, mut errors) = (Vec::new(), Vec::new());
        for (moments, x) in totals.iter().zip(inputs) {
            values.push(value_of(moments.mean(), x.dims(), x)?);
            errors.push(value_of(moments.standard_error(), x.dims(), x)?);
        }
        let delta = Some(deltas(&values, &high, &low)?);
        Ok(Attribution { values, delta, errors: Some(errors), steps: self.samples })
    }
}

impl Method for GradientShap {
    fn name(&self) -> &'static str {
        "gradient SHAP"
    }

    #[track_caller]
    fn attribute(&self, f: &Function<'_>, inputs: &[TrackedTensor], target: &Target) -> Result<Attribution> {
        let site = Site::caller();
        check_inputs(self.name(), inputs, site)?;
        self.run(f, inputs, target).map_err(|e| e.or_at(site))
    }
}

/// Sums and sums of squares of samples, each of `len` numbers.
pub(crate) struct Moments {
    count: f64,
    sum: Vec<f64>,
    squares: Vec<f64>,
}

impl Moments {
    pub(crate) fn new(len: usize) -> Self {
        Self { count: 0.0, sum: vec![0.0; len], squares: vec![0.0; len] }
    }

    /// Adds samples, one after the other.
    pub(crate) fn add(&mut self, samples: &[f64]) {
        for sample in samples.chunks(self.sum.len().max(1)) {
            self.count += 1.0;
            for ((sum, square), x) in self.sum.iter_mut().zip(&mut self.squares).zip(sample) {
                *sum += x;
                *square += x * x;
            }
        }
    }

    pub(crate) fn mean(&self) -> Vec<f64> {
        self.sum.iter().map(|sum| sum / self.count).collect()
    }

    /// The mean of the squares.
    pub(crate) fn mean_square(&self) -> Vec<f64> {
        self.squares.iter().map(|sum| sum / self.count).collect()
    }

    /// The variance of the samples themselves.
    pub(crate) fn variance(&self) -> Vec<f64> {
        let means = self.sum.iter().map(|sum| sum / self.count);
        self.squares.iter().zip(means).map(|(s, mean)| (s / self.count - mean * mean).max(0.0)).collect()
    }

    /// The standard error of the mean; 0 of a single sample, which tells nothing of it.
    pub(crate) fn standard_error(&self) -> Vec<f64> {
        let freedom = (self.count - 1.0).max(1.0);
        self.variance().into_iter().map(|variance| (variance / freedom).sqrt()).collect()
    }
}
