//! Any method under noise: SmoothGrad and its relatives.

use crate::attribution::{Attribution, Method};
use crate::control::{Control, progress};
use crate::draws::Draws;
use crate::expected::Moments;
use crate::function::{Function, check_inputs, numbers, value_of};
use crate::target::Target;
use autograd_core::algebra::{add, scale};
use autograd_core::{Error, Result, Site, TrackedTensor};

/// What is made of the attributions of noisy inputs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Smoothing {
    /// Their mean: SmoothGrad (Smilkov et al. 2017).
    #[default]
    Mean,
    /// The mean of their squares: SmoothGrad².
    MeanSquare,
    /// Their variance: VarGrad (Adebayo et al. 2018).
    Variance,
}

/// A method applied to inputs with normal noise, several times.
///
/// ```
/// use autograd_core::{Result, TrackedTensor};
/// use autograd_interpret::{Method, Noise, Saliency};
/// use autograd_ops::TensorAutograd;
///
/// fn main() -> Result<()> {
///     let x = TrackedTensor::from_vec(vec![1.0, 2.0], &[1, 2])?;
///     let smooth = Noise::around(Saliency::new().signed()).samples(200).deviation(0.5);
///     let found = smooth.explain(|x| x.sqr()?.sum_dim(1), &x, ())?;
///     // The gradient 2x has mean 2x; the standard error of the mean is 2·0.5/√200.
///     assert!((found.value().to_flat::<f64>()?[0] - 2.0).abs() < 0.3);
///     Ok(())
/// }
/// ```
#[derive(Clone, Debug)]
pub struct Noise<M> {
    method: M,
    smoothing: Smoothing,
    samples: usize,
    deviation: f64,
    seed: u64,
    control: Control,
}

impl<M: Method> Noise<M> {
    /// The mean of five attributions under noise of deviation 1.
    pub fn around(method: M) -> Self {
        Self {
            method,
            smoothing: Smoothing::Mean,
            samples: 5,
            deviation: 1.0,
            seed: 0,
            control: Control::default(),
        }
    }

    /// What is made of the attributions.
    #[must_use]
    pub fn smoothing(mut self, smoothing: Smoothing) -> Self {
        self.smoothing = smoothing;
        self
    }

    /// How often the method is applied.
    #[must_use]
    pub fn samples(mut self, samples: usize) -> Self {
        self.samples = samples;
        self
    }

    /// The standard deviation of the noise.
    #[must_use]
    pub fn deviation(mut self, deviation: f64) -> Self {
        self.deviation = deviation;
        self
    }

    /// Where the draws begin.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    progress!();
}

impl<M: Method> Method for Noise<M> {
    fn name(&self) -> &'static str {
        match self.smoothing {
            Smoothing::Mean => "SmoothGrad",
            Smoothing::MeanSquare => "SmoothGrad²",
            Smoothing::Variance => "VarGrad",
        }
    }

    #[track_caller]
    fn attribute(&self, f: &Function<'_>, inputs: &[TrackedTensor], target: &Target) -> Result<Attribution> {
        let site = Site::caller();
        check_inputs(self.name(), inputs, site)?;
        if self.samples == 0 {
            return Err(Error::argument(self.name(), "no samples were asked for").or_at(site));
        }
        let mut draws = Draws::new(self.seed);
        let mut totals: Vec<Moments> = inputs.iter().map(|x| Moments::new(x.elem_count())).collect();
        let mut steps = 0;
        for done in 1..=self.samples {
            let noisy = inputs.iter().map(|x| {
                let noise = scale(&draws.normal(x.dims(), x.dtype())?, self.deviation)?;
                add(x, &noise)
            });
            let noisy: Vec<TrackedTensor> = noisy.collect::<Result<_>>().map_err(|e| e.or_at(site))?;
            let found = self.method.attribute(f, &noisy, target).map_err(|e| e.or_at(site))?;
            for (moments, value) in totals.iter_mut().zip(&found.values) {
                moments.add(&numbers(value)?);
            }
            steps += found.steps;
            self.control.report(self.name(), done, self.samples).map_err(|e| e.or_at(site))?;
        }
        let (mut values, mut errors) = (Vec::new(), Vec::new());
        for (moments, x) in totals.iter().zip(inputs) {
            let value = match self.smoothing {
                Smoothing::Mean => moments.mean(),
                Smoothing::MeanSquare => moments.mean_square(),
                Smoothing::Variance => moments.variance(),
            };
            values.push(value_of(value, x.dims(), x)?);
            errors.push(value_of(moments.standard_error(), x.dims(), x)?);
        }
        let errors = (self.smoothing == Smoothing::Mean).then_some(errors);
        Ok(Attribution { values, delta: None, errors, steps })
    }
}
