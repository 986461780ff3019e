//! Fused expressions on CUDA tensors: one kernel each, whatever the strides.

use super::memory::{Passed, address, placed, room, tensor};
use super::modules::{Expression, Module, architecture};
use super::{Kernels, driver};
use crate::Element;
use crate::codegen::fits;
use crate::sequence::geometry;
use autograd_core::device::Tensors;
use autograd_core::{DType, Error, Layout, Primitive, Result, Shape, Signature, Tensor};
use candle_core::cuda_backend::cudarc::driver::{LaunchConfig, PushKernelArg, SyncOnDrop};
use candle_core::cuda_backend::{CudaDevice, CudaStorage};

/// Threads of a block.
const BLOCK: u32 = 256;

/// Blocks that walk an expression over many elements.
const MOST_BLOCKS: u64 = 4096;

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
        let counted = shape.dims().iter().all(|&extent| u32::try_from(extent).is_ok());
        let has_room = fits(inputs.len(), outputs.outputs.len(), expression.params().len());
        let Some(found) = architecture(op.name(), device)?.filter(|_| counted && has_room) else {
            return Ok(None);
        };
        let key =
            Expression { program: program.clone(), inputs: inner, outputs: outer, architecture: found.1 };
        let Some(module) = self.modules.expression(op.name(), key, found.0)? else { return Ok(None) };
        launch(op, device, &module, inputs, outputs, expression.params()).map(Some)
    }
}

/// What the kernel reads first: n, or how it walks; and whether that is n.
fn walked(op: &'static str, inputs: &[Tensor], shape: &Shape) -> Result<(Passed, bool)> {
    let own = |x: &Tensor| -> Result<Layout> {
        let layout = Layout::new(autograd_core::checked_shape(op, x.dims())?, x.stride(), 0);
        layout.broadcast_to(shape).ok_or_else(|| Error::internal(op, "an input does not broadcast"))
    };
    let layouts: Vec<Layout> = inputs.iter().map(own).collect::<Result<_>>()?;
    if layouts.iter().all(Layout::is_contiguous) {
        return Ok((Passed::new(op, &[shape.elements() as u64])?, true));
    }
    let geometry =
        geometry(shape, &layouts).ok_or_else(|| Error::internal(op, "it has too many elements"))?;
    Ok((Passed::new(op, &geometry)?, false))
}

fn launch(
    op: &dyn Primitive,
    device: &CudaDevice,
    module: &Module,
    inputs: &[Tensor],
    outputs: &Signature,
    params: &[f64],
) -> Result<Tensors> {
    let made: Vec<CudaStorage> =
        outputs.outputs.iter().map(|y| room(device, y.shape.dims(), y.dtype)).collect::<Result<_>>()?;
    let shape = outputs.outputs[0].shape;
    let (first, contiguous) = walked(op.name(), inputs, &shape)?;
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
        arguments.arg(&first);
        for (address, _) in &addresses {
            arguments.arg(address);
        }
        for param in params {
            arguments.arg(param);
        }
        let blocks = (shape.elements() as u64).div_ceil(u64::from(BLOCK)).min(MOST_BLOCKS) as u32;
        let config = LaunchConfig { grid_dim: (blocks, 1, 1), block_dim: (BLOCK, 1, 1), shared_mem_bytes: 0 };
        // SAFETY: the kernel takes how it walks, the inputs, the outputs and the parameters in this
        // order; the strides reach no element beyond an input's buffer, and each output has n.
        unsafe { arguments.launch(config) }.map_err(|error| driver(op.name(), error))?;
    }
    let dims = outputs.outputs.iter().map(|y| y.shape);
    Ok(made.into_iter().zip(dims).map(|(y, shape)| tensor(y, shape.dims())).collect())
}
