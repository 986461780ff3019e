//! Launches on candle's CUDA tensors: fused expressions, and the softmax family over the last
//! dimension. Ops without a kernel here run by candle's own kernels.
//!
//! Each source is compiled once for the device's architecture. Without NVIDIA's compiler library,
//! or on a device older than Ampere, there is no kernel, and candle's are taken.

use crate::{Architecture, CompileError, Element, Source, compile, pointwise, sources};
use autograd_core::device::{self, DeviceKernels, Tensors};
use autograd_core::kernels::expr::Program;
use autograd_core::{DType, Error, Layout, MAX_RANK, Parameter, Primitive, Result, Shape, Signature, Tensor};
use candle_core::backend::BackendDevice;
use candle_core::cuda_backend::cudarc::driver::sys::CUdevice_attribute as Attribute;
use candle_core::cuda_backend::cudarc::driver::{
    CudaStream, DevicePtr, DeviceRepr, LaunchConfig, PushKernelArg, SyncOnDrop,
};
use candle_core::cuda_backend::{CudaDevice, CudaStorage, CudaStorageSlice};
use candle_core::op::BackpropOp;
use candle_core::{Device, Storage};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Threads of a block.
const BLOCK: u32 = 256;

/// Blocks that walk an expression over many elements.
const MOST_BLOCKS: u64 = 4096;

/// Inputs of an expression: their strides are passed by value.
const MOST_INPUTS: usize = 8;

/// Gives the process these kernels for its CUDA tensors. Returns whether they were taken.
pub fn install() -> bool {
    device::install(Arc::new(Kernels::default()))
}

/// Compiled sources, each under a name of its own: candle caches modules by name.
#[derive(Default)]
struct Kernels {
    expressions: Mutex<HashMap<Expression, Option<Arc<Module>>>>,
    files: Mutex<HashMap<File, Option<Arc<Module>>>>,
}

/// A source's name and the architecture it is compiled for.
type File = (&'static str, u32);

#[derive(PartialEq, Eq, Hash)]
struct Expression {
    program: Program,
    inputs: Vec<Element>,
    outputs: Vec<Element>,
    architecture: u32,
}

/// PTX and the name under which candle keeps it.
struct Module {
    name: String,
    ptx: String,
}

fn element(dtype: DType) -> Option<Element> {
    Some(match dtype {
        DType::F32 => Element::F32,
        DType::F64 => Element::F64,
        DType::F16 => Element::F16,
        DType::BF16 => Element::BF16,
        DType::U8 => Element::U8,
        _ => return None,
    })
}

fn driver(op: &dyn Primitive, error: impl std::fmt::Display) -> Error {
    Error::argument(op.name(), format!("CUDA: {error}"))
}

/// The newest architecture for which a device's code can be made, and its number.
fn architecture(op: &dyn Primitive, device: &CudaDevice) -> Result<Option<(Architecture, u32)>> {
    let stream = device.cuda_stream();
    let number = |attribute| stream.context().attribute(attribute).map_err(|error| driver(op, error));
    let major = number(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
    let minor = number(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
    Ok(match 10 * major + minor {
        90.. => Some((Architecture::Sm90, 90)),
        89 => Some((Architecture::Sm89, 89)),
        80..=88 => Some((Architecture::Sm80, 80)),
        _ => None,
    })
}

/// The module of a source; `None` where there is no compiler. A source that it refuses is an error.
fn module(
    op: &dyn Primitive,
    source: &Source,
    architecture: Architecture,
    name: String,
) -> Result<Option<Arc<Module>>> {
    match compile(source, architecture) {
        Ok(ptx) => Ok(Some(Arc::new(Module { name, ptx: ptx.to_src() }))),
        Err(CompileError::NoCompiler) => Ok(None),
        Err(error @ CompileError::Rejected { .. }) => Err(Error::internal(op.name(), error.to_string())),
    }
}

#[allow(clippy::mutable_key_type, reason = "a program's code is no part of its key")]
impl Kernels {
    fn expression(
        &self,
        op: &dyn Primitive,
        key: Expression,
        architecture: Architecture,
    ) -> Result<Option<Arc<Module>>> {
        let mut known = self.expressions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(module) = known.get(&key) {
            return Ok(module.clone());
        }
        let name = format!("autograd_expression_{}", known.len());
        let source = pointwise("expression", &key.program, &key.inputs, &key.outputs);
        let made = module(op, &source, architecture, name)?;
        known.insert(key, made.clone());
        Ok(made)
    }

    fn file(
        &self,
        op: &dyn Primitive,
        file: &'static str,
        (architecture, number): (Architecture, u32),
    ) -> Result<Option<Arc<Module>>> {
        let mut known = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(module) = known.get(&(file, number)) {
            return Ok(module.clone());
        }
        let source = sources().into_iter().find(|source| source.name() == file);
        let source = source.ok_or_else(|| Error::internal(op.name(), format!("no source {file}")))?;
        let made = module(op, &source, architecture, format!("autograd_{file}_{number}"))?;
        known.insert((file, number), made.clone());
        Ok(made)
    }
}

impl DeviceKernels for Kernels {
    fn evaluate(
        &self,
        op: &dyn Primitive,
        inputs: &[Tensor],
        outputs: &Signature,
    ) -> Result<Option<Tensors>> {
        let Some(Device::Cuda(device)) = inputs.first().map(Tensor::device).cloned() else { return Ok(None) };
        if outputs.outputs.iter().any(|y| y.elements() == 0) {
            return Ok(None);
        }
        if op.as_pointwise().is_some() {
            return self.pointwise(op, &device, inputs, outputs);
        }
        self.rows(op, &device, inputs, outputs)
    }
}

/// What `name_strided` reads beside the buffers.
#[derive(Clone, Copy)]
#[repr(C)]
struct Geometry<const INPUTS: usize> {
    n: u64,
    rank: u32,
    dims: [u32; MAX_RANK],
    strides: [[u64; MAX_RANK]; INPUTS],
}

// SAFETY: plain numbers in the order and with the alignment of the C structure of the same fields.
unsafe impl<const INPUTS: usize> DeviceRepr for Geometry<INPUTS> {}

/// The place of a tensor's first element, and what keeps it in order with the stream.
fn address<'a>(
    op: &dyn Primitive,
    storage: &'a CudaStorage,
    stream: &'a CudaStream,
) -> Result<(u64, SyncOnDrop<'a>)> {
    Ok(match &storage.slice {
        CudaStorageSlice::F32(x) => x.device_ptr(stream),
        CudaStorageSlice::F64(x) => x.device_ptr(stream),
        CudaStorageSlice::F16(x) => x.device_ptr(stream),
        CudaStorageSlice::BF16(x) => x.device_ptr(stream),
        CudaStorageSlice::U8(x) => x.device_ptr(stream),
        _ => return Err(Error::internal(op.name(), "a type without kernels reached the device")),
    })
}

/// An output's memory: its content is arbitrary.
fn room(device: &CudaDevice, dims: &[usize], dtype: DType) -> Result<CudaStorage> {
    // SAFETY: the kernel that it is made for writes every element before anything reads one.
    Ok(unsafe { device.alloc_uninit(&candle_core::Shape::from(dims), dtype)? })
}

fn tensor(storage: CudaStorage, dims: &[usize]) -> Tensor {
    Tensor::from_storage(Storage::Cuda(storage), dims, BackpropOp::none(), false)
}

impl Kernels {
    /// A scalar expression: one kernel, whatever the strides.
    fn pointwise(
        &self,
        op: &dyn Primitive,
        device: &CudaDevice,
        inputs: &[Tensor],
        outputs: &Signature,
    ) -> Result<Option<Tensors>> {
        let Some(expression) = op.as_pointwise() else { return Ok(None) };
        let program = expression.expr().program();
        let types = |dtypes: &mut dyn Iterator<Item = DType>| dtypes.map(element).collect::<Option<Vec<_>>>();
        let Some((inner, outer)) = types(&mut inputs.iter().map(Tensor::dtype))
            .zip(types(&mut outputs.outputs.iter().map(|y| y.dtype)))
        else {
            return Ok(None);
        };
        let shape = outputs.outputs[0].shape;
        let fits = shape.dims().iter().all(|&extent| u32::try_from(extent).is_ok());
        let Some(found) = architecture(op, device)?.filter(|_| fits && inputs.len() <= MOST_INPUTS) else {
            return Ok(None);
        };
        let key =
            Expression { program: program.clone(), inputs: inner, outputs: outer, architecture: found.1 };
        let Some(module) = self.expression(op, key, found.0)? else { return Ok(None) };
        macro_rules! of_inputs {
            ($($n:literal)*) => {
                match inputs.len() {
                    $($n => launch_expression::<$n>(op, device, &module, inputs, outputs, &shape, expression.params()).map(Some),)*
                    _ => Ok(None),
                }
            };
        }
        of_inputs!(1 2 3 4 5 6 7 8)
    }

    /// An op over contiguous rows along the last dimension: a block for each row.
    fn rows(
        &self,
        op: &dyn Primitive,
        device: &CudaDevice,
        inputs: &[Tensor],
        outputs: &Signature,
    ) -> Result<Option<Tensors>> {
        const OPS: [&str; 6] =
            ["softmax", "softmax_vjp", "log_softmax", "log_softmax_vjp", "logsumexp", "logsumexp_vjp"];
        let Some(saved) = op.saved() else { return Ok(None) };
        let (Some(kernel), [Parameter::Whole(dim)]) =
            (OPS.iter().find(|name| **name == saved.tag), &saved.parameters[..])
        else {
            return Ok(None);
        };
        // The operand that has the rows: the only one, or the one behind the cotangent.
        let wide = &inputs[usize::from(inputs.len() > 1)];
        let rank = wide.dims().len();
        let same = inputs.iter().all(|x| x.dtype() == wide.dtype());
        if *dim as usize + 1 != rank || !same || wide.elem_count() == 0 {
            return Ok(None);
        }
        let suffix = match wide.dtype() {
            DType::F32 => "f32",
            DType::F64 => "f64",
            DType::F16 => "f16",
            DType::BF16 => "bf16",
            _ => return Ok(None),
        };
        let n = wide.dims()[rank - 1];
        let Ok(rows) = u32::try_from(wide.elem_count() / n) else { return Ok(None) };
        let Some(found) = architecture(op, device)? else { return Ok(None) };
        let Some(module) = self.file(op, "softmax", found)? else { return Ok(None) };
        let inputs: Vec<Tensor> = inputs.iter().map(Tensor::contiguous).collect::<Result<_, _>>()?;
        let output = &outputs.outputs[0];
        let y = room(device, output.shape.dims(), output.dtype)?;
        let entry = format!("{kernel}_{suffix}");
        let function = device.get_or_load_custom_func(&entry, &module.name, &module.ptx)?;
        let stream = device.cuda_stream();
        {
            let guards: Vec<_> = inputs.iter().map(Tensor::storage_and_layout).collect();
            let mut addresses: Vec<(u64, SyncOnDrop<'_>)> = Vec::new();
            for (storage, layout) in &guards {
                addresses.push(placed(op, storage, layout.start_offset(), &stream)?);
            }
            addresses.push(address(op, &y, &stream)?);
            let n = n as u64;
            let mut arguments = function.builder();
            for (address, _) in &addresses {
                arguments.arg(address);
            }
            arguments.arg(&n);
            let threads = (n.div_ceil(4).next_multiple_of(32)).clamp(32, 1024) as u32;
            let config =
                LaunchConfig { grid_dim: (rows, 1, 1), block_dim: (threads, 1, 1), shared_mem_bytes: 0 };
            // SAFETY: the kernel takes the inputs, the output and the row's length; each buffer has
            // `rows` rows of `n` elements, or one element a row where the op says so.
            unsafe { arguments.launch(config) }.map_err(|error| driver(op, error))?;
        }
        Ok(Some([tensor(y, output.shape.dims())].into_iter().collect()))
    }
}

/// The place of a tensor's first element.
fn placed<'a>(
    op: &dyn Primitive,
    storage: &'a Storage,
    offset: usize,
    stream: &'a CudaStream,
) -> Result<(u64, SyncOnDrop<'a>)> {
    let Storage::Cuda(storage) = storage else {
        return Err(Error::internal(op.name(), "a tensor of another device reached CUDA"));
    };
    let (start, guard) = address(op, storage, stream)?;
    let bytes = (offset * candle_core::backend::BackendStorage::dtype(storage).size_in_bytes()) as u64;
    Ok((start + bytes, guard))
}

fn launch_expression<const INPUTS: usize>(
    op: &dyn Primitive,
    device: &CudaDevice,
    module: &Module,
    inputs: &[Tensor],
    outputs: &Signature,
    shape: &Shape,
    params: &[f64],
) -> Result<Tensors> {
    let made: Vec<CudaStorage> =
        outputs.outputs.iter().map(|y| room(device, y.shape.dims(), y.dtype)).collect::<Result<_>>()?;
    let mut geometry = Geometry::<INPUTS> {
        n: shape.elements() as u64,
        rank: shape.rank() as u32,
        dims: [1; MAX_RANK],
        strides: [[0; MAX_RANK]; INPUTS],
    };
    for (to, extent) in geometry.dims.iter_mut().zip(shape.dims()) {
        *to = *extent as u32;
    }
    let mut contiguous = true;
    for (to, x) in geometry.strides.iter_mut().zip(inputs) {
        let own = autograd_core::checked_shape(op.name(), x.dims())?;
        let layout = Layout::new(own, x.stride(), 0).broadcast_to(shape);
        let layout = layout.ok_or_else(|| Error::internal(op.name(), "an input does not broadcast"))?;
        contiguous &= layout.is_contiguous();
        for (to, stride) in to.iter_mut().zip(layout.strides()) {
            *to = *stride as u64;
        }
    }
    let entry = if contiguous { "expression" } else { "expression_strided" };
    let function = device.get_or_load_custom_func(entry, &module.name, &module.ptx)?;
    let stream = device.cuda_stream();
    {
        let guards: Vec<_> = inputs.iter().map(Tensor::storage_and_layout).collect();
        let mut addresses: Vec<(u64, SyncOnDrop<'_>)> = Vec::new();
        for (storage, layout) in &guards {
            addresses.push(placed(op, storage, layout.start_offset(), &stream)?);
        }
        for y in &made {
            addresses.push(address(op, y, &stream)?);
        }
        let mut arguments = function.builder();
        if contiguous {
            arguments.arg(&geometry.n);
        } else {
            arguments.arg(&geometry);
        }
        for (address, _) in &addresses {
            arguments.arg(address);
        }
        for param in params {
            arguments.arg(param);
        }
        let blocks = geometry.n.div_ceil(u64::from(BLOCK)).min(MOST_BLOCKS) as u32;
        let config = LaunchConfig { grid_dim: (blocks, 1, 1), block_dim: (BLOCK, 1, 1), shared_mem_bytes: 0 };
        // SAFETY: the kernel takes the geometry, the inputs, the outputs and the parameters in this
        // order; the strides reach no element beyond an input's buffer, and each output has n.
        unsafe { arguments.launch(config) }.map_err(|error| driver(op, error))?;
    }
    let dims = outputs.outputs.iter().map(|y| y.shape);
    Ok(made.into_iter().zip(dims).map(|(y, shape)| tensor(y, shape.dims())).collect())
}
