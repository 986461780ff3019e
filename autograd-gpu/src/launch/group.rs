//! Several GPUs that each compute a part of a batch: gradients averaged over them by NCCL.

use super::driver;
use super::memory::{room, tensor};
use autograd_core::{At, Device, Error, Result, Tensor, TrackedTensor};
use candle_core::Storage;
use candle_core::cuda_backend::{CudaDevice, CudaStorageSlice};
use cudarc::nccl::result::NcclError;
use cudarc::nccl::{Comm, Id, ReduceOp};

const NAME: &str = "all_reduce";

/// A name for a group, which one member makes and sends to the others.
#[derive(Clone, Copy, Debug)]
pub struct GroupId(Id);

impl GroupId {
    /// A new one.
    ///
    /// # Errors
    /// [`Error::Device`]: what NCCL reports.
    pub fn new() -> Result<Self> {
        Id::new().map(Self).map_err(said)
    }

    /// The bytes that make the same name in another process.
    pub fn bytes(&self) -> [u8; 128] {
        self.0.internal().map(|c| c.to_ne_bytes()[0])
    }

    /// The name that another process has made.
    pub fn from_bytes(bytes: [u8; 128]) -> Self {
        Self(Id::uninit(bytes.map(|byte| std::ffi::c_char::from_ne_bytes([byte]))))
    }
}

/// A member of a group of GPUs: it belongs to the thread or process that computes on its GPU.
pub struct Group {
    comm: Comm,
    device: CudaDevice,
}

fn said(error: NcclError) -> Error {
    driver(NAME, format!("NCCL: {:?}", error.0))
}

impl Group {
    /// Joins the group as member `rank` of `size`, and waits until all have.
    ///
    /// # Errors
    /// A rank that is not below the size; a device without CUDA; [`Error::Device`]: what NCCL reports.
    pub fn join(id: GroupId, rank: usize, size: usize, device: &Device) -> Result<Self> {
        if rank >= size || i32::try_from(size).is_err() {
            return Err(Error::argument(NAME, format!("member {rank} of a group of {size}")));
        }
        let Device::Cuda(device) = device.clone() else {
            let device = device.location();
            return Err(Error::UnsupportedDevice { op: NAME, device, at: At::default() });
        };
        let comm = Comm::from_rank(device.cuda_stream(), rank, size, id.0).map_err(said)?;
        Ok(Self { comm, device })
    }

    /// Each gradient's mean over the members, which call this with gradients of the same shapes and
    /// types in the same order.
    ///
    /// # Errors
    /// A watched value, one of another device or of a type that is no float; what NCCL reports.
    pub fn mean(&self, grads: &[TrackedTensor]) -> Result<Vec<TrackedTensor>> {
        let mean = |grad: &TrackedTensor| TrackedTensor::from_candle(&self.mean_of(&grad.tensor()?)?);
        grads.iter().map(mean).collect()
    }

    fn mean_of(&self, x: &Tensor) -> Result<Tensor> {
        if !x.device().same_device(&Device::Cuda(self.device.clone())) {
            let devices = vec![x.device().location(), Device::Cuda(self.device.clone()).location()];
            return Err(Error::DeviceMismatch { op: NAME, devices, at: At::default() });
        }
        if x.elem_count() == 0 {
            return Ok(x.clone());
        }
        let x = x.contiguous()?;
        let mut made = room(&self.device, x.dims(), x.dtype())?;
        {
            let (storage, layout) = x.storage_and_layout();
            let Storage::Cuda(storage) = &*storage else {
                return Err(Error::internal(NAME, "a tensor of CUDA has its storage there"));
            };
            let range = layout.start_offset()..layout.start_offset() + x.elem_count();
            macro_rules! reduced {
                ($($kind:ident)*) => {
                    match (&storage.slice, &mut made.slice) {
                        $((CudaStorageSlice::$kind(from), CudaStorageSlice::$kind(to)) => {
                            self.comm.all_reduce(&from.slice(range), to, &ReduceOp::Avg).map_err(said)?;
                        })*
                        _ => return Err(Error::dtype(NAME, x.dtype(), "gradients are of float types")),
                    }
                };
            }
            reduced!(F32 F64 F16 BF16);
        }
        Ok(tensor(made, x.dims()))
    }
}
