//! Noise on gradients, from an explicit key.

use autograd_core::algebra::add;
use autograd_core::kernels::{copy, random};
use autograd_core::smallvec::{SmallVec, smallvec};
use autograd_core::{
    DType, Error, Layout, Mask, Meta, Prim, Primitive, Result, Rule, Shape, Signature, Site, SliceMut,
    TrackedTensor, Values, View, apply_one, checked_shape, is_float,
};
use std::sync::Arc;

/// Gaussian noise on gradients whose variance falls with the steps,
///
/// g + σₜ·N(0, 1), σₜ² = η / (1 + t)^γ.
///
/// From Neelakantan et al., "Adding gradient noise improves learning for very deep networks" (2015),
/// who use γ = 0.55 and η among 0.01, 0.3 and 1. The numbers are a function of the key, the step and
/// the place of the gradient in the list: the same on every run and for any number of threads.
///
/// ```
/// use autograd_core::{Result, TrackedTensor};
/// use autograd_tape::GradientNoise;
///
/// fn main() -> Result<()> {
///     let noise = GradientNoise::new(0.01)?;
///     let key = TrackedTensor::from_vec(vec![42u32, 0], &[2])?; // autograd_ops::random::key(42)
///     let grads = vec![TrackedTensor::from_vec(vec![1f32; 3], &[3])?];
///     let noisy = noise.add(grads.clone(), &key, 0)?;
///     assert_ne!(noisy[0].to_vec1::<f32>()?, [1.0; 3]);
///     assert_eq!(noise.add(grads, &key, 0)?[0].to_vec1::<f32>()?, noisy[0].to_vec1::<f32>()?);
///     Ok(())
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GradientNoise {
    variance: f64,
    decay: f64,
}

impl GradientNoise {
    /// Noise of variance η at step 0, with γ = 0.55.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for a variance that is negative or not finite.
    #[track_caller]
    pub fn new(variance: f64) -> Result<Self> {
        Self::with_decay(variance, 0.55)
    }

    /// Noise of variance η at step 0, with another γ; 0 for noise that stays.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for numbers that are negative or not finite.
    #[track_caller]
    pub fn with_decay(variance: f64, decay: f64) -> Result<Self> {
        if [variance, decay].iter().all(|x| x.is_finite() && *x >= 0.0) {
            return Ok(Self { variance, decay });
        }
        let reason = format!("variance {variance} and decay {decay} are not both finite and 0 or more");
        Err(Error::argument("gradient_noise", reason).or_at(Site::caller()))
    }

    /// The standard deviation at a step, from 0.
    pub fn deviation(&self, step: u64) -> f64 {
        (self.variance / (1.0 + step as f64).powf(self.decay)).sqrt()
    }

    /// The gradients with the noise of a step on them. The key is one of
    /// `autograd_ops::random::key`: two words of type u32.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for what is not a key; a gradient that is not of a float type.
    #[track_caller]
    pub fn add(
        &self,
        grads: Vec<TrackedTensor>,
        key: &TrackedTensor,
        step: u64,
    ) -> Result<Vec<TrackedTensor>> {
        let site = Site::caller();
        let deviation = self.deviation(step);
        let noisy = |(place, grad): (usize, TrackedTensor)| {
            if let Some(error) = grad.failure() {
                return Err(error.clone());
            }
            let (shape, dtype) = (*grad.shape(), grad.dtype());
            let noise = apply_one(&Noise { shape, dtype, deviation, step, place: place as u64 }, &[key])?;
            add(&grad, &noise)
        };
        grads.into_iter().enumerate().map(|pair| noisy(pair).map_err(|e| e.or_at(site))).collect()
    }
}

/// Keys …×2 to noise of shape …×shape.
#[derive(Clone, Copy, Debug)]
struct Noise {
    shape: Shape,
    dtype: DType,
    deviation: f64,
    step: u64,
    place: u64,
}

impl Primitive for Noise {
    fn name(&self) -> &'static str {
        "gradient_noise"
    }

    fn keep(&self) -> Prim {
        Prim::Shared(Arc::new(*self))
    }

    fn infer(&self, inputs: &[Meta]) -> Result<Signature> {
        let key = inputs[0];
        let [lead @ .., 2] = key.shape.dims() else {
            let reason = format!("a key is two words of type u32, not of shape {}", key.shape);
            return Err(Error::argument("gradient_noise", reason));
        };
        if key.dtype != DType::U32 {
            let reason = format!("a key is two words of type u32, not {:?}", key.dtype);
            return Err(Error::argument("gradient_noise", reason));
        }
        if !is_float(self.dtype) {
            return Err(Error::dtype("gradient_noise", self.dtype, "gradients are of float types"));
        }
        let mut dims: SmallVec<[usize; 8]> = SmallVec::from_slice(lead);
        dims.extend_from_slice(self.shape.dims());
        let shape = checked_shape("gradient_noise", &dims)?;
        Ok(Signature::one(key.with_dtype(self.dtype).with_shape(shape)))
    }

    fn eval_into(&self, inputs: &[View<'_>], outputs: &mut [SliceMut<'_>]) -> Result<()> {
        // A key for this step, and of that one for this gradient.
        let layout = Layout::contiguous(*inputs[0].layout.shape());
        let mut step = vec![0u32; layout.elements()];
        random::fold_in(inputs[0], self.step, SliceMut::U32(&mut step));
        let mut own = vec![0u32; layout.elements()];
        let view = View { data: autograd_core::kernels::Slice::U32(&step), layout: &layout };
        random::fold_in(view, self.place, SliceMut::U32(&mut own));
        let view = View { data: autograd_core::kernels::Slice::U32(&own), layout: &layout };
        random::normal(view, outputs[0].reborrow());
        scale_in_place(self.deviation, &mut outputs[0]);
        Ok(())
    }

    fn rule(&self) -> Rule<'_> {
        Rule::Flat
    }

    /// A batch of keys is one more leading dimension.
    fn batch(&self, _: Mask, inputs: &[&TrackedTensor], _: usize) -> Result<Option<Values>> {
        Ok(Some(smallvec![apply_one(self, inputs)?]))
    }
}

fn scale_in_place(factor: f64, out: &mut SliceMut<'_>) {
    use autograd_core::kernels::{bf16, f16};
    match out {
        SliceMut::F64(out) => out.iter_mut().for_each(|x| *x *= factor),
        SliceMut::F32(out) => out.iter_mut().for_each(|x| *x = (f64::from(*x) * factor) as f32),
        SliceMut::BF16(out) => out.iter_mut().for_each(|x| *x = bf16::from_f64(x.to_f64() * factor)),
        SliceMut::F16(out) => out.iter_mut().for_each(|x| *x = f16::from_f64(x.to_f64() * factor)),
        // Refused by the inference.
        other => copy::fill(0.0, other.reborrow()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Statistics;
    use autograd_core::algebra::cast;

    fn key(seed: u32) -> Result<TrackedTensor> {
        TrackedTensor::from_vec(vec![seed, 1], &[2])
    }

    fn zeros(n: usize) -> Result<TrackedTensor> {
        TrackedTensor::from_vec(vec![0f64; n], &[n])
    }

    #[test]
    fn the_deviation_follows_the_schedule() -> Result<()> {
        let noise = GradientNoise::new(0.3)?;
        assert_eq!(noise.deviation(0), 0.3f64.sqrt());
        assert_eq!(noise.deviation(99), (0.3 / 100f64.powf(0.55)).sqrt());
        let noisy = noise.add(vec![zeros(100_000)?], &key(7)?, 99)?;
        let found = Statistics::of(&noisy[0])?;
        // Five standard errors of a mean and of a deviation over 100,000 numbers.
        let (sigma, error) = (noise.deviation(99), 5.0 / 100_000f64.sqrt());
        assert!(found.mean().abs() < sigma * error, "{}", found.mean());
        assert!((found.root_mean_square() / sigma - 1.0).abs() < error, "{}", found.root_mean_square());
        Ok(())
    }

    #[test]
    fn keys_steps_and_places_give_other_numbers() -> Result<()> {
        let noise = GradientNoise::with_decay(1.0, 0.0)?;
        let draw = |seed, step| noise.add(vec![zeros(4)?, zeros(4)?], &key(seed)?, step);
        let mut all = Vec::new();
        for made in [draw(1, 0)?, draw(2, 0)?, draw(1, 1)?] {
            all.extend(made.iter().map(|x| x.to_vec1::<f64>()).collect::<Result<Vec<_>>>()?);
        }
        assert_eq!(draw(1, 1)?[1].to_vec1::<f64>()?, all[5]);
        for i in 0..all.len() {
            assert!(all[..i].iter().all(|other| *other != all[i]));
        }
        Ok(())
    }

    #[test]
    fn every_float_type_and_nothing_else() -> Result<()> {
        let noise = GradientNoise::new(1.0)?;
        for dtype in [DType::F64, DType::F32, DType::F16, DType::BF16] {
            let noisy = noise.add(vec![cast(&zeros(1000)?, dtype)?], &key(3)?, 0)?;
            let found = Statistics::of(&noisy[0])?;
            // Some 1/√1000 is the error of a deviation; four of them.
            assert!(noisy[0].dtype() == dtype && (found.root_mean_square() - 1.0).abs() < 0.13);
        }
        let whole = TrackedTensor::from_vec(vec![1u32], &[1])?;
        let found = noise.add(vec![whole.clone()], &key(3)?, 0);
        assert!(matches!(found, Err(Error::UnsupportedDType { op: "gradient_noise", .. })));
        assert!(matches!(noise.add(vec![zeros(1)?], &whole, 0), Err(Error::InvalidArgument { .. })));
        assert!(matches!(noise.add(vec![zeros(1)?], &zeros(2)?, 0), Err(Error::InvalidArgument { .. })));
        for (variance, decay) in [(-1.0, 0.5), (f64::NAN, 0.5), (1.0, f64::INFINITY)] {
            assert!(GradientNoise::with_decay(variance, decay).is_err());
        }
        Ok(())
    }
}
