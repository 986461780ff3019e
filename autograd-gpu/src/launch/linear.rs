//! A product with its bias, op by op: one call of cuBLASLt.

use super::Kernels;
use super::biased::Places;
use super::memory::{address, placed, room, tensor};
use crate::sequence::rows_with_bias;
use autograd_core::device::Tensors;
use autograd_core::{DType, Layout, Meta, Result, Tensor};
use candle_core::cuda_backend::CudaDevice;
use candle_core::cuda_backend::cudarc::driver::DevicePtr;

const NAME: &str = "linear";

impl Kernels {
    /// x · weightᵀ + bias; `None` where the library has no way: it is a product and an addition then.
    pub(super) fn linear(
        &self,
        device: &CudaDevice,
        inputs: &[Tensor],
        output: &Meta,
    ) -> Result<Option<Tensors>> {
        let [x, weight, bias] = inputs else { return Ok(None) };
        let nothing = output.elements() == 0 || x.elem_count() == 0;
        if nothing || !matches!(output.dtype, DType::F32 | DType::F16 | DType::BF16) {
            return Ok(None);
        }
        let layout = |x: &Tensor| -> Result<Layout> {
            Ok(Layout::new(autograd_core::checked_shape(NAME, x.dims())?, x.stride(), 0))
        };
        let bias = bias.contiguous()?;
        let Some(product) = rows_with_bias(&layout(x)?, &layout(weight)?, output.dtype) else {
            return Ok(None);
        };
        let made = room(device, output.shape.dims(), output.dtype)?;
        let stream = device.cuda_stream();
        let library = self.libraries.of(&stream)?;
        {
            let guards = [x, weight, &bias].map(Tensor::storage_and_layout);
            let at = |i: usize| placed(NAME, &guards[i].0, guards[i].1.start_offset(), &stream);
            let ((x, _x), (w, _w), (bias, _bias)) = (at(0)?, at(1)?, at(2)?);
            let (y, _y) = address(NAME, &made, &stream)?;
            let places = Places { x, w, y, bias };
            let Some(algorithm) = library.algorithm(&product, places)? else { return Ok(None) };
            // SAFETY: the library writes what it reads of its workspace.
            let workspace = unsafe { device.alloc::<u8>(algorithm.workspace.max(1)) }?;
            let (workspace, _workspace) = workspace.device_ptr(&stream);
            // SAFETY: the factors lie where their strides lead, y has room for the product, and the
            // algorithm was found for these places; memory that is let go waits for the stream.
            unsafe { library.multiply(&stream, &product, places, &algorithm, workspace) }?;
        }
        Ok(Some([tensor(made, output.shape.dims())].into_iter().collect()))
    }
}
