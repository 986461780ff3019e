//! Launches on candle's CUDA tensors: fused expressions, and the [plans](crate::plan) of ops that
//! have kernels of their own. Other ops run by candle's kernels.
//!
//! Each source is compiled once for the device's architecture and kept on disk. Without NVIDIA's
//! compiler library, or on a device older than Ampere, there is no kernel, and candle's are taken.

mod biased;
mod expression;
#[cfg(feature = "nccl")]
mod group;
mod host;
mod linear;
mod memory;
mod modules;
mod replay;

use crate::{Plan, plan, sequence, takes};
use autograd_core::device::{self, Declined, DeviceKernels, DeviceProgram, HostCopy, Laid, Tensors, Tried};
use autograd_core::{At, Error, Meta, Primitive, Result, Signature, Tensor};
use biased::Libraries;
use candle_core::cuda_backend::cudarc::driver::sys::CUresult;
use candle_core::cuda_backend::cudarc::driver::{
    CudaSlice, DevicePtr, DriverError, LaunchConfig, PushKernelArg, SyncOnDrop,
};
use candle_core::cuda_backend::{CudaDevice, CudaError, CudaStorage};
use candle_core::{Device, DeviceLocation};
#[cfg(feature = "nccl")]
pub use group::{Group, GroupId};
use host::Copies;
use memory::{Passed, address, placed, room, tensor};
use modules::{Modules, architecture};
use replay::Replay;
use std::sync::Arc;

/// Gives the process these kernels for its CUDA tensors. Returns whether they were taken.
pub fn install() -> bool {
    device::install(Arc::new(Kernels {
        modules: Modules::new(),
        libraries: Libraries::default(),
        copies: Copies::default(),
    }))
}

/// A CUDA device by its number.
///
/// # Errors
/// [`Error::Device`] where there is no driver that works, or no such device.
pub fn cuda(ordinal: usize) -> Result<Device> {
    Device::new_cuda(ordinal).map_err(|error| {
        let reason = driver_error(&error).map_or_else(|| error.to_string(), ToString::to_string);
        Error::device("cuda", format!("number {ordinal}: {reason}"))
    })
}

/// The kernels of this crate.
struct Kernels {
    modules: Modules,
    libraries: Libraries,
    copies: Copies,
}

/// What the driver says about a launch or a copy.
fn driver(op: &'static str, error: impl std::fmt::Display) -> Error {
    Error::device(op, error.to_string())
}

/// The driver's error within one of candle's.
fn driver_error(error: &candle_core::Error) -> Option<&DriverError> {
    match error {
        candle_core::Error::Cuda(cuda) => match cuda.downcast_ref::<CudaError>()? {
            CudaError::Cuda(error) | CudaError::Load { cuda: error, .. } => Some(error),
            _ => None,
        },
        candle_core::Error::Context { inner, .. }
        | candle_core::Error::WithPath { inner, .. }
        | candle_core::Error::WithBacktrace { inner, .. } => driver_error(inner),
        _ => None,
    }
}

impl DeviceKernels for Kernels {
    fn evaluate(
        &self,
        op: &dyn Primitive,
        inputs: &[Tensor],
        signature: &Signature,
        hints: bool,
    ) -> Result<Option<Tensors>> {
        let Some(Device::Cuda(device)) = inputs.first().map(Tensor::device).cloned() else { return Ok(None) };
        if op.as_pointwise().is_some() {
            if signature.outputs.iter().any(|y| y.elements() == 0) {
                return Ok(None);
            }
            return self.pointwise(op, &device, inputs, signature);
        }
        if op.kernel().is_some_and(|call| call.kernel == "linear") {
            return self.linear(&device, inputs, &signature.outputs[0]);
        }
        let metas: Vec<Meta> = inputs.iter().map(|x| meta(op, x)).collect::<Result<_>>()?;
        let Some(plan) = plan(op, &metas, signature, hints) else { return Ok(None) };
        let aux = signature.aux.iter().take(if hints { usize::MAX } else { 0 });
        let outputs: Vec<Meta> = signature.outputs.iter().chain(aux).copied().collect();
        self.execute(op, &device, &plan, inputs, &outputs)
    }

    fn typed(&self, op: &'static str, device: DeviceLocation, error: &candle_core::Error) -> Option<Error> {
        let error = driver_error(error)?;
        Some(match error.0 {
            CUresult::CUDA_ERROR_OUT_OF_MEMORY => Error::OutOfMemory { op, device, at: At::default() },
            _ => driver(op, error),
        })
    }

    fn takes(&self, op: &dyn Primitive, inputs: &[Meta], signature: &Signature) -> bool {
        takes(op, inputs, signature)
    }

    fn compile(
        &self,
        program: &Laid,
        constants: &[Tensor],
        device: &Device,
    ) -> Result<Tried<Box<dyn DeviceProgram>>> {
        let Device::Cuda(device) = device else { return Ok(Err(Declined::Device)) };
        let sequence = match sequence(program) {
            Ok(sequence) => sequence,
            Err(declined) => return Ok(Err(declined)),
        };
        let replay = Replay::new(&self.modules, &self.libraries, device, sequence, program, constants)?;
        Ok(replay.map(|replay| Box::new(replay) as Box<dyn DeviceProgram>).ok_or(Declined::Device))
    }

    fn to_host(&self, x: &Tensor) -> Result<Option<Box<dyn HostCopy>>> {
        self.copies.begin(x)
    }
}

fn meta(op: &dyn Primitive, x: &Tensor) -> Result<Meta> {
    let shape = autograd_core::checked_shape(op.name(), x.dims())?;
    Ok(Meta { shape, dtype: x.dtype(), device: x.device().location() })
}

impl Kernels {
    /// Executes a plan; `None` where there is no code for the device.
    fn execute(
        &self,
        op: &dyn Primitive,
        device: &CudaDevice,
        plan: &Plan,
        inputs: &[Tensor],
        outputs: &[Meta],
    ) -> Result<Option<Tensors>> {
        let Some(found) = architecture(op.name(), device)? else { return Ok(None) };
        let mut functions = Vec::with_capacity(plan.steps.len());
        for step in &plan.steps {
            let Some(module) = self.modules.file(op.name(), step.source, found)? else { return Ok(None) };
            functions.push(device.get_or_load_custom_func(&step.entry, &module.name, &module.ptx)?);
        }
        let inputs = plan.prepare(inputs)?;
        let made: Vec<CudaStorage> =
            outputs.iter().map(|y| room(device, y.shape.dims(), y.dtype)).collect::<Result<_>>()?;
        let rooms: Vec<CudaSlice<u8>> = plan
            .rooms
            .iter()
            .map(|room| match room.zeroed {
                true => device.alloc_zeros::<u8>(room.bytes),
                // SAFETY: kernels write what they read of a room that need not be zeroed.
                false => unsafe { device.alloc::<u8>(room.bytes) },
            })
            .collect::<candle_core::Result<_>>()?;
        let stream = device.cuda_stream();
        {
            let guards: Vec<_> = inputs.iter().map(Tensor::storage_and_layout).collect();
            let mut order: Vec<SyncOnDrop<'_>> = Vec::new();
            let mut keep = |(address, guard): (u64, _)| {
                order.push(guard);
                address
            };
            let mut from = Vec::with_capacity(guards.len());
            for (storage, layout) in &guards {
                from.push(keep(placed(op.name(), storage, layout.start_offset(), &stream)?));
            }
            let mut to = Vec::with_capacity(made.len());
            for y in &made {
                to.push(keep(address(op.name(), y, &stream)?));
            }
            let beside: Vec<u64> = rooms.iter().map(|room| keep(room.device_ptr(&stream))).collect();
            for (step, function) in plan.steps.iter().zip(&functions) {
                let words = Plan::words(step, &from, &to, &beside);
                let passed: Vec<Passed> =
                    words.iter().map(|words| Passed::new(op.name(), words)).collect::<Result<_>>()?;
                let mut launch = function.builder();
                for argument in &passed {
                    launch.arg(argument);
                }
                let [x, y] = step.grid;
                let config = LaunchConfig {
                    grid_dim: (x, y, 1),
                    block_dim: (step.threads, 1, 1),
                    shared_mem_bytes: 0,
                };
                // SAFETY: the plan gives the kernel its arguments in their types and order, for
                // buffers of the sizes that it was made for: the tests execute the same plans.
                unsafe { launch.launch(config) }.map_err(|error| driver(op.name(), error))?;
            }
        }
        if let Some(fault) = &plan.fault {
            let bytes = device.clone_dtoh(&rooms[fault.room])?;
            let mut words = [0; 3];
            for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(8)) {
                *word = bytes.iter().rev().fold(0u64, |word, &byte| word << 8 | u64::from(byte));
            }
            fault.judge(op.name(), words)?;
        }
        let tensors = made.into_iter().zip(outputs).map(|(y, meta)| tensor(y, meta.shape.dims()));
        Ok(Some(tensors.collect()))
    }
}
