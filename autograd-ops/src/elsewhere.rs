//! What ops on a device other than the CPU share: candle's ops under our conventions.

use autograd_core::device::Tensors;
use autograd_core::smallvec::smallvec;
use autograd_core::{DType, Device, Error, Layout, Mask, Result, Shape, Tensor};

/// One output.
pub(crate) fn one(y: Tensor) -> Result<Option<Tensors>> {
    Ok(Some(smallvec![y]))
}

/// Indices as candle's kernels take them, each found to be below `bound`.
pub(crate) fn indices(op: &'static str, indices: &Tensor, bound: usize) -> Result<Tensor> {
    let list = indices.to_device(&Device::Cpu)?.flatten_all()?.to_dtype(DType::I64)?.to_vec1::<i64>()?;
    for (position, value) in list.into_iter().enumerate() {
        if usize::try_from(value).is_ok_and(|value| value < bound) {
            continue;
        }
        return Err(Error::argument(op, format!("index {value} (number {position}) is not in 0 .. {bound}")));
    }
    Ok(indices.to_dtype(DType::U32)?.contiguous()?)
}

/// The extrema over some dimensions, which stay with extent 1; NaN where there is one.
pub(crate) fn extremum(x: &Tensor, over: Mask, max: bool) -> Result<Tensor> {
    let mut y = x.clone();
    for d in over.iter() {
        y = if max { y.max_keepdim(d)? } else { y.min_keepdim(d)? };
    }
    let nan = x.ne(x)?.to_dtype(x.dtype())?;
    let dims: Vec<usize> = over.iter().collect();
    let any = nan.sum_keepdim(dims)?;
    let not_a_number =
        Tensor::full(f64::NAN, (), x.device())?.to_dtype(x.dtype())?.broadcast_as(y.shape())?;
    Ok(any.ne(&any.zeros_like()?)?.where_cond(&not_a_number.contiguous()?, &y.contiguous()?)?)
}

/// x with `src` written where `part`, a layout over x's elements, lies.
pub(crate) fn written(x: &Tensor, src: &Tensor, part: &Layout) -> Result<Tensor> {
    if part.elements() == 0 {
        return Ok(x.clone());
    }
    let at = autograd_core::device::positions(part, x.device())?;
    let flat = x.flatten_all()?.contiguous()?;
    Ok(flat.scatter(&at, &src.flatten_all()?.contiguous()?, 0)?.reshape(x.dims())?)
}

/// x with `f` of the part that has the extents `dims`, but for dimension `dim`, in that part's place.
pub(crate) fn in_part(
    x: &Tensor,
    dims: &[usize],
    dim: usize,
    f: impl FnOnce(&Tensor) -> Result<Tensor>,
) -> Result<Option<Tensors>> {
    let mut layout = Layout::contiguous(autograd_core::checked_shape("scatter", x.dims())?);
    let mut part = x.clone();
    for (d, &extent) in dims.iter().enumerate().filter(|(d, _)| *d != dim) {
        part = part.narrow(d, 0, extent)?;
        layout = layout.narrow(d, 0, extent);
    }
    if dims.contains(&0) {
        return one(x.clone());
    }
    let made = f(&part.contiguous()?)?;
    one(if part.dims() == x.dims() { made } else { written(x, &made, &layout)? })
}

/// Zeros of the type and on the device of `x`.
pub(crate) fn zeros(shape: &Shape, x: &Tensor) -> Result<Tensor> {
    Ok(Tensor::zeros(shape.dims(), x.dtype(), x.device())?)
}

/// Says that values on a device are moved to the host for an op.
macro_rules! on_host {
    () => {
        fn on_host(&self) -> bool {
            true
        }
    };
}
pub(crate) use on_host;
