//! Convolutions on a device other than the CPU: candle's where its parameters suffice, else and for
//! the gradients a product with the input's patches.

use super::contraction::{Contraction, Role, dims};
use crate::elsewhere::{one, zeros};
use autograd_core::device::Tensors;
use autograd_core::kernels::conv2d::Conv2d as Geometry;
use autograd_core::{Device, Error, Result, Shape, Tensor};

/// The derivative of ⟨y, x ⋆ k⟩ that `op` gives.
pub(super) fn contraction(op: &Contraction, inputs: &[Tensor]) -> Result<Option<Tensors>> {
    let g = &op.geometry;
    let shape = Shape::new(&dims(g, op.gives));
    let (a, b) = (inputs[0].contiguous()?, inputs[1].contiguous()?);
    if a.elem_count() == 0 || b.elem_count() == 0 || shape.elements() == 0 {
        return one(zeros(&shape, &a)?);
    }
    match op.gives {
        Role::Output => one(forward(g, &a, &b)?),
        Role::Kernel => {
            // Σₙ ct · patchesᵀ.
            let products = grouped(g, &b)?.matmul(&patches(g, &a)?.transpose(2, 3)?.contiguous()?)?;
            one(products.sum(0)?.reshape(shape.dims())?)
        }
        Role::Input => {
            // kᵀ · ct: each patch's gradient, added where the patch was read.
            let kernel = kernels(g, &a)?.transpose(1, 2)?.contiguous()?;
            let patches = kernel.unsqueeze(0)?.broadcast_matmul(&grouped(g, &b)?)?;
            let (height, width) = padded(g);
            let whole = Tensor::zeros((g.batch, g.in_channels, height * width), b.dtype(), b.device())?;
            let at = positions(g, b.device())?;
            let parts = patches.reshape((g.batch, g.in_channels, at.dims()[0]))?;
            let sum = whole.index_add(&at, &parts.contiguous()?, 2)?;
            let sum = sum.reshape((g.batch, g.in_channels, height, width))?;
            one(sum.narrow(2, g.padding[0], g.height)?.narrow(3, g.padding[1], g.width)?.contiguous()?)
        }
    }
}

fn forward(g: &Geometry, x: &Tensor, kernel: &Tensor) -> Result<Tensor> {
    let square = |pair: [usize; 2]| pair[0] == pair[1];
    if square(g.stride) && square(g.padding) && square(g.dilation) {
        return Ok(x.conv2d(kernel, g.padding[0], g.stride[0], g.dilation[0], g.groups)?);
    }
    let y = kernels(g, kernel)?.unsqueeze(0)?.broadcast_matmul(&patches(g, x)?)?;
    Ok(y.reshape(&dims(g, Role::Output)[..])?)
}

/// The extents with the padding around them.
fn padded(g: &Geometry) -> (usize, usize) {
    (g.height + 2 * g.padding[0], g.width + 2 * g.padding[1])
}

/// Kernels as [groups, out / groups, in / groups · taps].
fn kernels(g: &Geometry, kernel: &Tensor) -> Result<Tensor> {
    let taps = g.in_channels / g.groups * g.kernel_h * g.kernel_w;
    Ok(kernel.reshape((g.groups, g.out_channels / g.groups, taps))?)
}

/// Outputs as [batch, groups, out / groups, places].
fn grouped(g: &Geometry, y: &Tensor) -> Result<Tensor> {
    Ok(y.reshape((g.batch, g.groups, g.out_channels / g.groups, g.out_height() * g.out_width()))?)
}

/// What each tap of the kernel sees at each place: [batch, groups, in / groups · taps, places].
fn patches(g: &Geometry, x: &Tensor) -> Result<Tensor> {
    let (height, width) = padded(g);
    let x = x.pad_with_zeros(2, g.padding[0], g.padding[0])?.pad_with_zeros(3, g.padding[1], g.padding[1])?;
    let x = x.reshape((g.batch, g.in_channels, height * width))?.contiguous()?;
    let seen = x.index_select(&positions(g, x.device())?, 2)?;
    let taps = g.in_channels / g.groups * g.kernel_h * g.kernel_w;
    Ok(seen.reshape((g.batch, g.groups, taps, g.out_height() * g.out_width()))?)
}

/// Where in a padded plane each tap reads at each place, taps first.
fn positions(g: &Geometry, device: &Device) -> Result<Tensor> {
    let (height, width) = padded(g);
    if u32::try_from(height * width).is_err() {
        return Err(Error::argument("conv2d", "more than 2³² elements in a plane on a device"));
    }
    let mut positions = Vec::new();
    for p in 0..g.kernel_h {
        for q in 0..g.kernel_w {
            for i in 0..g.out_height() {
                let row = i * g.stride[0] + p * g.dilation[0];
                let at = |j: usize| (row * width + j * g.stride[1] + q * g.dilation[1]) as u32;
                positions.extend((0..g.out_width()).map(at));
            }
        }
    }
    let len = positions.len();
    Ok(Tensor::from_vec(positions, len, device)?)
}
