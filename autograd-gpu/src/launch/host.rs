//! Tensors in pinned host memory: copied by a stream of their own, beside the kernels that go on.

use super::driver;
use super::memory::tensor;
use autograd_core::device::HostCopy;
use autograd_core::{Device, Error, Result, Shape, Tensor, checked_shape};
use candle_core::Storage;
use candle_core::cuda_backend::cudarc::driver::{CudaEvent, CudaStream, PinnedHostSlice};
use candle_core::cuda_backend::{CudaDevice, CudaStorage, CudaStorageSlice, DeviceId};
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

const NAME: &str = "offload";

/// Copies under way that may hold memory of the device; the next one waits for the first of them.
const MOST_PENDING: usize = 4;

/// The streams that copy, and what they have not copied yet.
#[derive(Default)]
pub(super) struct Copies(Mutex<State>);

#[derive(Default)]
struct State {
    streams: HashMap<DeviceId, Arc<CudaStream>>,
    /// A tensor's memory must not be given away before its copy is done.
    pending: VecDeque<(CudaEvent, Tensor)>,
}

/// Pinned memory of each type that a value has.
enum Pinned {
    F32(PinnedHostSlice<f32>),
    F64(PinnedHostSlice<f64>),
    F16(PinnedHostSlice<half::f16>),
    BF16(PinnedHostSlice<half::bf16>),
    U8(PinnedHostSlice<u8>),
    U32(PinnedHostSlice<u32>),
    I64(PinnedHostSlice<i64>),
}

/// A tensor in pinned memory.
struct InPinned {
    numbers: Pinned,
    shape: Shape,
    device: CudaDevice,
}

impl fmt::Debug for InPinned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in pinned memory of {:?}", self.shape, self.device)
    }
}

macro_rules! each_type {
    ($callback:ident) => {
        $callback!(F32 F64 F16 BF16 U8 U32 I64)
    };
}

impl Copies {
    /// Begins to copy a tensor; `None` for one that is not on a CUDA device.
    pub(super) fn begin(&self, x: &Tensor) -> Result<Option<Box<dyn HostCopy>>> {
        let Device::Cuda(device) = x.device().clone() else { return Ok(None) };
        let x = x.contiguous()?;
        let shape = checked_shape(NAME, x.dims())?;
        let said = |error| driver(NAME, error);
        let stream = device.cuda_stream();
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let copying = match state.streams.get(&device.id()) {
            Some(copying) => copying.clone(),
            None => {
                let copying = stream.fork().map_err(said)?;
                state.streams.insert(device.id(), copying.clone());
                copying
            }
        };
        while state.pending.front().is_some_and(|(done, _)| done.is_complete()) {
            state.pending.pop_front();
        }
        if state.pending.len() >= MOST_PENDING
            && let Some((done, _)) = state.pending.pop_front()
        {
            done.synchronize().map_err(said)?;
        }
        copying.wait(&stream.record_event(None).map_err(said)?).map_err(said)?;
        let numbers = {
            let (storage, layout) = x.storage_and_layout();
            let Storage::Cuda(storage) = &*storage else {
                return Err(Error::internal(NAME, "a tensor of CUDA has its storage there"));
            };
            let range = layout.start_offset()..layout.start_offset() + shape.elements();
            macro_rules! copied {
                ($($kind:ident)*) => {
                    match &storage.slice {
                        $(CudaStorageSlice::$kind(from) => {
                            // SAFETY: the copy writes all of it before anything reads it.
                            let mut to = unsafe { stream.context().alloc_pinned(shape.elements()) }.map_err(said)?;
                            copying.memcpy_dtoh(&from.slice(range), &mut to).map_err(said)?;
                            Pinned::$kind(to)
                        })*
                        _ => return Ok(None),
                    }
                };
            }
            each_type!(copied)
        };
        state.pending.push_back((copying.record_event(None).map_err(said)?, x));
        Ok(Some(Box::new(InPinned { numbers, shape, device })))
    }
}

impl HostCopy for InPinned {
    fn fetch(&self) -> Result<Tensor> {
        let stream = self.device.cuda_stream();
        macro_rules! back {
            ($($kind:ident)*) => {
                match &self.numbers {
                    $(Pinned::$kind(from) => {
                        // SAFETY: the copy writes all of it before anything reads it.
                        let mut to = unsafe { self.device.alloc(self.shape.elements()) }?;
                        stream.memcpy_htod(from, &mut to).map_err(|error| driver(NAME, error))?;
                        CudaStorageSlice::$kind(to)
                    })*
                }
            };
        }
        let slice = each_type!(back);
        Ok(tensor(CudaStorage { slice, device: self.device.clone() }, self.shape.dims()))
    }
}
