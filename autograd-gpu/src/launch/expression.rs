//! Fused expressions on CUDA tensors: one kernel each, whatever the strides.

use super::memory::{address, placed, room, tensor};
use super::modules::{Expression, Module, architecture};
use super::{Kernels, driver};
use crate::Element;
use autograd_core::device::Tensors;
use autograd_core::{DType, Error, Layout, MAX_RANK, Primitive, Result, Shape, Signature, Tensor};
use candle_core::cuda_backend::cudarc::driver::{DeviceRepr, LaunchConfig, PushKernelArg, SyncOnDrop};
use candle_core::cuda_backend::{CudaDevice, CudaStorage};

/// Threads of a block.
const BLOCK: u32 = 256;

/// Blocks that walk an expression over many elements.
const MOST_BLOCKS: u64 = 4096;

/// Inputs of an expression: their strides are passed by value.
const MOST_INPUTS: usize = 8;

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

impl Kernels {
    /// A scalar expression: one kernel, whatever the strides.
    pub(super) fn pointwise(
        &self,
        op: &dyn Primitive,
        device: &CudaDevice,
        inputs: &[Tensor],
        outputs: &Signature,
    ) -> Result<Option<Tensors>> {
        let Some(expression) = op.as_pointwise() else { return Ok(None) };
        let program = expression.expr().program();
        let types =
            |dtypes: &mut dyn Iterator<Item = DType>| dtypes.map(Element::of).collect::<Option<Vec<_>>>();
        let Some((inner, outer)) = types(&mut inputs.iter().map(Tensor::dtype))
            .zip(types(&mut outputs.outputs.iter().map(|y| y.dtype)))
        else {
            return Ok(None);
        };
        let shape = outputs.outputs[0].shape;
        let fits = shape.dims().iter().all(|&extent| u32::try_from(extent).is_ok());
        let Some(found) = architecture(op.name(), device)?.filter(|_| fits && inputs.len() <= MOST_INPUTS)
        else {
            return Ok(None);
        };
        let key =
            Expression { program: program.clone(), inputs: inner, outputs: outer, architecture: found.1 };
        let Some(module) = self.modules.expression(op.name(), key, found.0)? else { return Ok(None) };
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
            addresses.push(placed(op.name(), storage, layout.start_offset(), &stream)?);
        }
        for y in &made {
            addresses.push(address(op.name(), y, &stream)?);
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
        unsafe { arguments.launch(config) }.map_err(|error| driver(op.name(), error))?;
    }
    let dims = outputs.outputs.iter().map(|y| y.shape);
    Ok(made.into_iter().zip(dims).map(|(y, shape)| tensor(y, shape.dims())).collect())
}
