//! Fingerprints of candle tensors: whether somebody changed numbers that we read in place.

use crate::plain::{Buffer, Plain, open};
use crate::value::TrackedTensor;
use autograd_kernels::{Element, Slice, View};
use candle_core::DeviceLocation;

/// Elements that a sampled fingerprint reads: the first, the last, and some between.
const SAMPLES: usize = 64;

/// A hash of a candle tensor's numbers, to be compared with a later one.
///
/// Memory of this library is never written while anybody can see it; a candle tensor's can be,
/// through `Var::set` or `slice_set`. A sampled fingerprint reads 64 elements at equal distances,
/// so it misses a change of others; a full one misses a change only with probability 2⁻⁶⁴.
/// Neither sees a change that was undone, nor tensors that are not on the CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint {
    hash: u64,
    full: bool,
}

impl Fingerprint {
    /// The fingerprint of the numbers below all watchers; `None` where they are not a candle
    /// tensor's on the CPU.
    pub fn of(value: &TrackedTensor, full: bool) -> Option<Self> {
        let plain = bottom(value)?;
        if !matches!(plain.buffer(), Buffer::Candle(..)) || plain.device() != DeviceLocation::Cpu {
            return None;
        }
        let hash = open("fingerprint", &[plain], |views| Ok(hash(views[0], full))).ok()?;
        Some(Self { hash, full })
    }

    /// Whether the value still has the numbers of this fingerprint.
    pub fn holds_for(self, value: &TrackedTensor) -> bool {
        Self::of(value, self.full).is_none_or(|now| now == self)
    }
}

fn bottom(value: &TrackedTensor) -> Option<&Plain> {
    let mut value = value;
    while let Some(tracer) = value.tracer() {
        value = tracer.lower()?;
    }
    value.plain().map(|plain| &**plain)
}

fn hash(view: View<'_>, full: bool) -> u64 {
    match view.data {
        Slice::F64(data) => elements(view, data, full, f64::to_bits),
        Slice::F32(data) => elements(view, data, full, |x| u64::from(x.to_bits())),
        Slice::BF16(data) => elements(view, data, full, |x| u64::from(x.to_bits())),
        Slice::F16(data) => elements(view, data, full, |x| u64::from(x.to_bits())),
        Slice::U8(data) => elements(view, data, full, u64::from),
        Slice::U32(data) => elements(view, data, full, u64::from),
        Slice::I64(data) => elements(view, data, full, i64::cast_unsigned),
    }
}

/// FNV-1a over words, with a final mix: quick, and every bit counts.
fn elements<T: Element>(view: View<'_>, data: &[T], full: bool, bits: impl Fn(T) -> u64) -> u64 {
    const PRIME: u64 = 0x0100_0000_01b3;
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    let mut take = |x: T| hash = (hash ^ bits(x)).wrapping_mul(PRIME).rotate_left(23);
    let count = view.layout.elements();
    if full || count <= SAMPLES {
        view.layout.for_each_run(|_, from, len, stride| {
            (0..len).for_each(|i| take(data[from + i * stride]));
        });
    } else {
        for k in 0..SAMPLES {
            take(data[view.layout.index_of(k * (count - 1) / (SAMPLES - 1))]);
        }
    }
    hash ^ hash >> 32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Result;
    use candle_core::{DType, Device, Tensor};

    #[test]
    fn a_full_fingerprint_sees_every_element_and_a_sampled_one_the_ends() -> Result<()> {
        let tensor = Tensor::zeros(1000, DType::F32, &Device::Cpu)?;
        let value = TrackedTensor::from_candle(&tensor)?;
        let (sampled, full) = (Fingerprint::of(&value, false), Fingerprint::of(&value, true));
        let (sampled, full) = (sampled.expect("candle memory"), full.expect("candle memory"));
        assert!(sampled.holds_for(&value) && full.holds_for(&value));
        let one = Tensor::ones(1, DType::F32, &Device::Cpu)?;
        tensor.slice_set(&one, 0, 5)?;
        assert!(!full.holds_for(&value), "any element");
        assert!(
            sampled.holds_for(&value),
            "element 5 is not among the samples: what is missed is documented"
        );
        tensor.slice_set(&one, 0, 999)?;
        assert!(!sampled.holds_for(&value), "the last element");
        Ok(())
    }

    #[test]
    fn memory_of_our_own_has_no_fingerprint() -> Result<()> {
        let value = TrackedTensor::from_vec(vec![1f32, 2.], &[2])?;
        assert_eq!(Fingerprint::of(&value, true), None);
        Ok(())
    }
}
