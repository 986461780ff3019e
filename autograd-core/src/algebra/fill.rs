//! Values of one number everywhere: seeds and zeros. One element of memory, whatever the shape.

use crate::error::{Error, Result};
use crate::meta::{Meta, kind_of};
use crate::plain::{Buffer, Plain};
use crate::value::TrackedTensor;
use autograd_kernels::{Layout, MAX_RANK, Shape, copy};
use candle_core::{Device, DeviceLocation, Tensor};

/// A value of the given shape and type with `number` everywhere, on the device of `like`.
///
/// # Errors
/// A type without kernels.
#[track_caller]
pub fn fill(number: f64, meta: &Meta, like: &TrackedTensor) -> Result<TrackedTensor> {
    let Some(kind) = kind_of(meta.dtype) else {
        return Err(Error::dtype("fill", meta.dtype, "f64, f32, bf16, f16, u8, u32 and i64 are"));
    };
    let one = meta.with_shape(Shape::SCALAR);
    let plain = if meta.device == DeviceLocation::Cpu {
        let mut buffer = Buffer::take(kind, 1);
        if let Some(slice) = buffer.slice_mut() {
            copy::fill(number, slice);
        }
        Plain::own(buffer, &one)
    } else {
        let device: Device = like.device();
        Plain::on_device(&Tensor::full(number, (), &device)?.to_dtype(meta.dtype)?, meta.device)?
    };
    let strides = [0; MAX_RANK];
    let layout = Layout::new(meta.shape, &strides[..meta.shape.rank()], 0);
    let made = TrackedTensor::from_plain(plain.repeated(layout));
    Ok(match like.tracer() {
        Some(tracer) => tracer.constant(made),
        None => made,
    })
}

/// 0 everywhere, with the shape, type and device of `x`.
///
/// # Errors
/// A type without kernels.
#[track_caller]
pub fn zeros_like(x: &TrackedTensor) -> Result<TrackedTensor> {
    fill(0.0, &x.meta(), x)
}

/// 1 everywhere, with the shape, type and device of `x`.
///
/// # Errors
/// A type without kernels.
#[track_caller]
pub fn ones_like(x: &TrackedTensor) -> Result<TrackedTensor> {
    fill(1.0, &x.meta(), x)
}

/// A value that the program made itself, where `like` is: an op's own list of indices or mask. One
/// that a transform watches stays where it is.
///
/// # Errors
/// What candle reports of the move.
#[track_caller]
pub fn beside(x: TrackedTensor, like: &TrackedTensor) -> Result<TrackedTensor> {
    let location = like.location();
    match x.plain() {
        Some(plain) if plain.device() != location => {
            let moved = plain.to_tensor()?.to_device(&like.device())?;
            Ok(TrackedTensor::from_plain(Plain::on_device(&moved, location)?))
        }
        _ => Ok(x),
    }
}
