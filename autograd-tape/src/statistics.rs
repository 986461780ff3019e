//! What a value's numbers look like, whoever watches it.

use autograd_core::kernels::statistics::{self as kernel, BINS, FIRST_EXPONENT};
use autograd_core::smallvec::SmallVec;
use autograd_core::{
    At, DType, Error, Layout, Meta, Prim, Primitive, Result, Rule, Shape, Signature, Site, SliceMut,
    TrackedTensor, View, apply_one,
};
use std::sync::Arc;

/// What numbers look like: norms, extremes, counts, and how many there are of each magnitude. Sums
/// are kept in f64 whatever the type. Extremes, mean and norm are of the finite numbers.
///
/// ```
/// use autograd_core::{Result, TrackedTensor};
/// use autograd_tape::Statistics;
///
/// fn main() -> Result<()> {
///     let x = TrackedTensor::from_vec(vec![3f32, -4., 0., f32::NAN], &[4])?;
///     let found = Statistics::of(&x)?;
///     assert_eq!((found.norm(), found.largest(), found.zeros, found.nans), (5.0, 4.0, 1, 1));
///     Ok(())
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Statistics {
    /// How many numbers there are.
    pub count: usize,
    /// How many are NaN.
    pub nans: usize,
    /// How many are infinite.
    pub infinities: usize,
    /// How many are exactly 0.
    pub zeros: usize,
    /// Σ x.
    pub sum: f64,
    /// Σ x².
    pub squares: f64,
    /// The smallest; +∞ of nothing.
    pub min: f64,
    /// The largest; −∞ of nothing.
    pub max: f64,
    /// How many have 2ᵉ ≤ |x| < 2ᵉ⁺¹, for e from [`FIRST_EXPONENT`](Self::FIRST_EXPONENT) up: the
    /// first bin holds all smaller ones but 0, the last all larger ones.
    pub magnitudes: [usize; BINS],
}

impl Statistics {
    /// The binary exponent of the first bin of [`magnitudes`](Self::magnitudes).
    pub const FIRST_EXPONENT: i32 = FIRST_EXPONENT;

    /// The statistics of a value.
    ///
    /// # Errors
    /// [`Error::ReadWhileCapturing`] while the value is being captured or batched; the error of a
    /// value whose construction failed; an element type or device without kernels.
    #[track_caller]
    pub fn of(x: &TrackedTensor) -> Result<Self> {
        let made = look(x, Look::Everything)?;
        let count = |i: usize| made[i] as usize;
        let mut magnitudes = [0; BINS];
        magnitudes.iter_mut().zip(&made[8..]).for_each(|(bin, n)| *bin = *n as usize);
        Ok(Self {
            count: count(0),
            nans: count(1),
            infinities: count(2),
            zeros: count(3),
            sum: made[4],
            squares: made[5],
            min: made[6],
            max: made[7],
            magnitudes,
        })
    }

    /// √Σx².
    pub fn norm(&self) -> f64 {
        self.squares.sqrt()
    }

    /// How many are finite.
    pub fn finite(&self) -> usize {
        self.count - self.nans - self.infinities
    }

    /// The mean of the finite numbers; 0 of nothing.
    pub fn mean(&self) -> f64 {
        if self.finite() == 0 { 0.0 } else { self.sum / self.finite() as f64 }
    }

    /// √(Σx²/n) over the finite numbers; 0 of nothing.
    pub fn root_mean_square(&self) -> f64 {
        if self.finite() == 0 { 0.0 } else { (self.squares / self.finite() as f64).sqrt() }
    }

    /// The largest |x| of the finite numbers; 0 of nothing.
    pub fn largest(&self) -> f64 {
        if self.finite() == 0 { 0.0 } else { self.max.abs().max(self.min.abs()) }
    }

    /// Whether all numbers are 0.
    pub fn all_zero(&self) -> bool {
        self.zeros == self.count
    }

    /// Whether no number is NaN or infinite.
    pub fn all_finite(&self) -> bool {
        self.finite() == self.count
    }
}

/// How many elements are NaN, and how many infinite: [`Statistics::of`] for hot paths.
#[track_caller]
pub(crate) fn not_finite(x: &TrackedTensor) -> Result<(usize, usize)> {
    let made = look(x, Look::NotFinite)?;
    Ok((made[0] as usize, made[1] as usize))
}

#[track_caller]
fn look(x: &TrackedTensor, what: Look) -> Result<Vec<f64>> {
    let site = Site::caller();
    if let Some(error) = x.failure() {
        return Err(error.clone());
    }
    let plain = x.beneath().ok_or(Error::ReadWhileCapturing { at: At::from(site) })?;
    let made = apply_one(&what, &[&plain]).map_err(|e| e.or_at(site))?;
    made.to_flat()
}

/// Looks at numbers: a flat op, whose result is f64 whatever it looks at.
#[derive(Clone, Copy, Debug)]
enum Look {
    Everything,
    NotFinite,
}

impl Primitive for Look {
    fn name(&self) -> &'static str {
        "statistics"
    }

    fn keep(&self) -> Prim {
        Prim::Shared(Arc::new(*self))
    }

    fn infer(&self, inputs: &[Meta]) -> Result<Signature> {
        let numbers = match self {
            Look::Everything => 8 + BINS,
            Look::NotFinite => 2,
        };
        Ok(Signature::one(inputs[0].with_dtype(DType::F64).with_shape(Shape::new(&[numbers]))))
    }

    fn view(&self, _: &Meta, _: &[&Layout]) -> Option<(usize, Layout)> {
        None
    }

    fn eval_into(&self, inputs: &[View<'_>], outputs: &mut [SliceMut<'_>]) -> Result<()> {
        let Some(out) = outputs[0].f64s_mut() else {
            return Err(Error::internal("statistics", "its output is not f64"));
        };
        match self {
            Look::Everything => {
                let s = kernel::statistics(inputs[0]);
                let counts = [s.count, s.nans, s.infinities, s.zeros];
                let mut numbers: SmallVec<[f64; 8 + BINS]> = counts.iter().map(|&n| n as f64).collect();
                numbers.extend([s.sum, s.squares, s.min, s.max]);
                numbers.extend(s.magnitudes.iter().map(|&n| n as f64));
                out.copy_from_slice(&numbers);
            }
            Look::NotFinite => {
                let (nans, infinities) = kernel::not_finite(inputs[0]);
                out.copy_from_slice(&[nans as f64, infinities as f64]);
            }
        }
        Ok(())
    }

    fn rule(&self) -> Rule<'_> {
        Rule::Flat
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::GradientTape;

    #[test]
    fn views_and_watched_values_are_seen_through() -> Result<()> {
        let tape = GradientTape::new();
        let x = tape.variable(TrackedTensor::from_vec(vec![1f64, 2., 3., 4.], &[2, 2])?);
        let row = autograd_core::algebra::narrow(&x, 1, 1, 1)?;
        let found = Statistics::of(&row)?;
        assert_eq!((found.count, found.min, found.max, found.sum), (2, 2., 4., 6.));
        assert_eq!(found.root_mean_square(), 10f64.sqrt());
        Ok(())
    }

    #[test]
    fn nothing_has_no_extremes() -> Result<()> {
        let found = Statistics::of(&TrackedTensor::from_vec(Vec::<f32>::new(), &[0, 3])?)?;
        assert_eq!((found.count, found.norm(), found.mean(), found.largest()), (0, 0., 0., 0.));
        assert!(found.all_zero() && found.all_finite());
        Ok(())
    }
}
