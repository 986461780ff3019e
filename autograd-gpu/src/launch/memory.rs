//! Buffers of CUDA tensors as kernels get them.

use crate::codegen::MOST_BYTES;
use autograd_core::{DType, Error, Result, Tensor};
use candle_core::Storage;
use candle_core::backend::{BackendDevice, BackendStorage};
use candle_core::cuda_backend::cudarc::driver::{CudaStream, DevicePtr, DeviceRepr, SyncOnDrop};
use candle_core::cuda_backend::{CudaDevice, CudaStorage, CudaStorageSlice};
use candle_core::op::BackpropOp;

/// The most words of an argument: as many as all of a kernel's take.
const MOST_WORDS: usize = MOST_BYTES / 8;

/// An argument of any size: the driver reads as many bytes as the kernel's parameter has.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct Passed([u64; MOST_WORDS]);

// SAFETY: plain numbers, which a kernel reads as those of its parameter's type.
unsafe impl DeviceRepr for Passed {}

impl Passed {
    /// Words as they are passed.
    ///
    /// # Errors
    /// More than a parameter of ours has.
    pub(super) fn new(op: &'static str, words: &[u64]) -> Result<Self> {
        let mut passed = [0; MOST_WORDS];
        let to = passed.get_mut(..words.len());
        to.ok_or_else(|| Error::internal(op, "an argument of a kernel is too long"))?.copy_from_slice(words);
        Ok(Self(passed))
    }
}

/// The place of a buffer, and what keeps it in order with the stream.
pub(super) fn address<'a>(
    op: &'static str,
    storage: &'a CudaStorage,
    stream: &'a CudaStream,
) -> Result<(u64, SyncOnDrop<'a>)> {
    Ok(match &storage.slice {
        CudaStorageSlice::F32(x) => x.device_ptr(stream),
        CudaStorageSlice::F64(x) => x.device_ptr(stream),
        CudaStorageSlice::F16(x) => x.device_ptr(stream),
        CudaStorageSlice::BF16(x) => x.device_ptr(stream),
        CudaStorageSlice::U8(x) => x.device_ptr(stream),
        CudaStorageSlice::U32(x) => x.device_ptr(stream),
        CudaStorageSlice::I64(x) => x.device_ptr(stream),
        _ => return Err(Error::internal(op, "a type without kernels reached the device")),
    })
}

/// The place of a tensor's first element.
pub(super) fn placed<'a>(
    op: &'static str,
    storage: &'a Storage,
    offset: usize,
    stream: &'a CudaStream,
) -> Result<(u64, SyncOnDrop<'a>)> {
    let Storage::Cuda(storage) = storage else {
        return Err(Error::internal(op, "a tensor of another device reached CUDA"));
    };
    let (start, guard) = address(op, storage, stream)?;
    let bytes = (offset * storage.dtype().size_in_bytes()) as u64;
    Ok((start + bytes, guard))
}

/// An output's memory: its content is arbitrary.
pub(super) fn room(device: &CudaDevice, dims: &[usize], dtype: DType) -> Result<CudaStorage> {
    // SAFETY: the kernel that it is made for writes every element before anything reads one.
    Ok(unsafe { device.alloc_uninit(&candle_core::Shape::from(dims), dtype)? })
}

pub(super) fn tensor(storage: CudaStorage, dims: &[usize]) -> Tensor {
    Tensor::from_storage(Storage::Cuda(storage), dims, BackpropOp::none(), false)
}
