//! Sample numbers from fixed seeds.

use crate::registry::Sample;
use autograd_core::{Error, Result, TrackedTensor, algebra};

/// The distance of neighbours among distinct numbers; jitter takes an eighth of it on each side.
const STEP: f64 = 0.04;

/// A generator of numbers (splitmix64): small, and the same everywhere.
pub(crate) struct Numbers(u64);

impl Numbers {
    /// A generator for a purpose. Seeds follow from names, so that a new case leaves the numbers
    /// of the others as they are.
    pub(crate) fn new(purpose: &[&str], index: usize) -> Self {
        // FNV-1a over the words, with a separator between them.
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        for byte in purpose.iter().flat_map(|word| word.bytes().chain([0xff])) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        Self(hash ^ (index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number in 0 .. 1.
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// A number between two bounds.
    pub(crate) fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }

    /// Numbers that are at least 0.75 · STEP apart, in random order around 0.
    fn distinct(&mut self, n: usize) -> Vec<f64> {
        let step = STEP.max(3.0 / n.max(1) as f64);
        let middle = (n as f64 - 1.0) / 2.0;
        let mut values: Vec<f64> =
            (0..n).map(|i| (i as f64 - middle + self.between(-0.125, 0.125)) * step).collect();
        for i in (1..n).rev() {
            values.swap(i, self.below(i + 1));
        }
        values
    }
}

/// Numbers for an input: floats in f64, indices in u32, masks in u8.
pub(crate) fn draw(sample: &Sample, purpose: &[&str], index: usize) -> Result<TrackedTensor> {
    let mut numbers = Numbers::new(purpose, index);
    let dims = sample.dims();
    let n = dims.iter().product();
    match sample {
        Sample::Float { range: (low, high), .. } => {
            let values: Vec<f64> = (0..n).map(|_| numbers.between(*low, *high)).collect();
            TrackedTensor::from_vec(values, dims)
        }
        Sample::Distinct { .. } => TrackedTensor::from_vec(numbers.distinct(n), dims),
        Sample::Exact { values, .. } => TrackedTensor::from_vec(values.clone(), dims),
        Sample::Index { bound, .. } => {
            let bound = *bound as usize;
            if bound == 0 && n > 0 {
                return Err(Error::msg("a sample has indices below 0"));
            }
            let values: Vec<u32> = (0..n).map(|_| numbers.below(bound) as u32).collect();
            TrackedTensor::from_vec(values, dims)
        }
        Sample::Mask { .. } => {
            let values: Vec<u8> = (0..n).map(|_| numbers.below(2) as u8).collect();
            TrackedTensor::from_vec(values, dims)
        }
    }
}

/// Numbers in −1 .. 1 with the shape and type of `like`: a direction or a cotangent. They are
/// multiples of 1/128, which every float type holds: a conversion inside of a case rounds them no
/// more than its rule does.
pub(crate) fn draw_like(like: &TrackedTensor, purpose: &[&str], index: usize) -> Result<TrackedTensor> {
    let mut numbers = Numbers::new(purpose, index);
    let draw = |_| numbers.between(-128.0, 128.0).round() / 128.0;
    let values: Vec<f64> = (0..like.elem_count()).map(draw).collect();
    algebra::cast(&TrackedTensor::from_vec(values, like.dims())?, like.dtype())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distinct_numbers_are_apart() {
        for n in [0, 1, 2, 24, 100, 300] {
            let mut values = Numbers::new(&["distinct"], n).distinct(n);
            values.sort_by(f64::total_cmp);
            assert!(values.windows(2).all(|w| w[1] - w[0] >= 0.02), "{n}");
        }
    }

    #[test]
    fn every_float_type_holds_directions() -> Result<()> {
        let x = TrackedTensor::from_vec(vec![0f64; 200], &[200])?;
        let v = draw_like(&x, &["direction"], 0)?;
        let small = algebra::cast(&v, autograd_core::DType::BF16)?;
        assert_eq!(algebra::cast(&small, x.dtype())?.to_vec1::<f64>()?, v.to_vec1::<f64>()?);
        Ok(())
    }

    #[test]
    fn seeds_differ_by_purpose_and_index() {
        let first = |purpose: &[&str], index| Numbers::new(purpose, index).unit();
        let all = [first(&["a", "b"], 0), first(&["ab"], 0), first(&["a", "b"], 1), first(&["b", "a"], 0)];
        assert!((0..4).all(|i| (0..i).all(|j| all[i] != all[j])));
    }
}
