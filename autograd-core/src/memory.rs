//! Values and the memory under them, for those who run kernels themselves: static graphs.

use crate::error::{Error, Result};
use crate::meta::{Meta, dtype_of};
use crate::plain::{Buffer, Plain, candle_slice, unsupported};
use crate::value::TrackedTensor;
use autograd_kernels::{Shape, Slice, SliceMut};
use candle_core::DeviceLocation;
use smallvec::SmallVec;

impl TrackedTensor {
    /// A plain value that owns a buffer, in row-major order.
    ///
    /// # Errors
    /// [`Error::Shape`] where the buffer has not as many elements as the shape, or is a candle
    /// tensor's.
    pub fn from_buffer(buffer: Buffer, shape: Shape) -> Result<Self> {
        let found = buffer.slice().map(|slice| (slice.kind(), slice.len()));
        let Some((kind, _)) = found.filter(|(_, len)| *len == shape.elements()) else {
            return Err(Error::shape("from_buffer", &[shape], "the buffer has another number of elements"));
        };
        let meta = Meta { shape, dtype: dtype_of(kind), device: DeviceLocation::Cpu };
        Ok(Self::from_plain(Plain::own(buffer, &meta)))
    }

    /// The elements to overwrite, in row-major order, where nobody else can see them: a value that
    /// nobody watches, whose memory is its own and shared with nobody.
    pub fn unique_slice(&mut self) -> Option<SliceMut<'_>> {
        let elements = self.elem_count();
        self.plain_mut()?.unique_mut().filter(|slice| slice.len() == elements)
    }
}

/// Runs `f` on the whole buffers of values, to be read under their layouts. Memory of our own
/// needs no lock; candle storages are locked for reading meanwhile, each one once. Up to sixteen
/// values take no allocation.
///
/// # Errors
/// A device or type without kernels; what `f` reports.
pub fn with_buffers<R>(
    op: &'static str,
    plains: &[&Plain],
    f: impl FnOnce(&[Slice<'_>]) -> Result<R>,
) -> Result<R> {
    let mut guards: SmallVec<[(usize, _); 4]> = SmallVec::new();
    for plain in plains {
        if let Buffer::Candle(tensor, identity) = plain.buffer()
            && guards.iter().all(|(known, _)| known != identity)
        {
            guards.push((*identity, tensor.storage_and_layout().0));
        }
    }
    let mut slices: SmallVec<[Slice<'_>; 16]> = SmallVec::new();
    for plain in plains {
        let slice = match plain.buffer() {
            Buffer::Candle(_, identity) => {
                let found = guards.iter().find(|(known, _)| known == identity);
                found.and_then(|(_, guard)| candle_slice(guard))
            }
            buffer => buffer.slice(),
        };
        slices.push(slice.ok_or_else(|| unsupported(op, plain))?);
    }
    f(&slices)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::algebra::{fill, zeros_like};
    use crate::meta::is_float;

    #[test]
    fn only_fills_are_literals() -> Result<()> {
        let x = TrackedTensor::from_vec(vec![2f32; 3], &[3])?;
        let literal = |x: &TrackedTensor| x.plain().and_then(|plain| plain.literal());
        assert_eq!(literal(&x), None);
        assert_eq!(literal(&TrackedTensor::scalar(2.0)), None);
        assert_eq!(literal(&fill(2.5, &x.meta(), &x)?), Some(2.5));
        assert_eq!(literal(&zeros_like(&x)?), Some(0.0));
        assert!(is_float(x.dtype()));
        Ok(())
    }

    #[test]
    fn only_unique_memory_is_overwritten() -> Result<()> {
        let mut x = TrackedTensor::from_vec(vec![1f32, 2.], &[2])?;
        let y = x.clone();
        assert!(x.unique_slice().is_none());
        drop(y);
        x.unique_slice().and_then(|mut s| s.f32s_mut().map(|s| s.fill(7.0))).expect("now it is unique");
        assert_eq!(x.to_vec1::<f32>()?, [7., 7.]);
        Ok(())
    }

    #[test]
    fn buffers_of_candle_tensors_are_read_in_place() -> Result<()> {
        let t = candle_core::Tensor::new(&[1f32, 2.], &candle_core::Device::Cpu)?;
        let x = TrackedTensor::from_candle(&t)?;
        let plain = x.plain().expect("nobody watches");
        let sum = with_buffers("test", &[plain, plain], |slices| {
            Ok(slices.iter().filter_map(Slice::f32s).map(|s| s.iter().sum::<f32>()).sum::<f32>())
        })?;
        assert_eq!(sum, 6.0);
        Ok(())
    }
}
