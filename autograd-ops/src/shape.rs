//! Rearrangements that move nothing, or copy at most once: views of other shapes, conversions.

use crate::numbers::{Dim, Numbers, dimension, dimensions, new_dimension, shape_of, sound};
use crate::registry::{Case, Family, Op, Sample};
use autograd_core::smallvec::SmallVec;
use autograd_core::{
    Error, Grads, Layout, Mask, Meta, Opaque, Prim, Primitive, Result, Rule, Saved, Signature, Site,
    SliceMut, TrackedTensor, Transpose, Values, View, algebra, apply_one, checked_shape,
};
use autograd_core::{kernels::copy, smallvec::smallvec};
use candle_core::{DType, Device, DeviceLocation};
use std::fmt;
use std::sync::Arc;

/// x with dimensions a and b exchanged, without copying.
///
/// # Errors
/// A dimension that x does not have.
#[track_caller]
pub fn transpose(x: &TrackedTensor, a: impl Dim, b: impl Dim) -> Result<TrackedTensor> {
    let (a, b) = (dimension("transpose", a, x)?, dimension("transpose", b, x)?);
    algebra::transpose(x, a, b)
}

/// x with its last two dimensions exchanged, without copying: xᵀ of a matrix, or of each matrix of
/// a batch.
///
/// # Errors
/// Fewer than two dimensions.
#[track_caller]
pub fn t(x: &TrackedTensor) -> Result<TrackedTensor> {
    sound(x)?;
    if x.rank() < 2 {
        let reason = "two dimensions or more are needed";
        return Err(Error::shape("t", &[*x.shape()], reason).or_at(Site::caller()));
    }
    algebra::transpose(x, x.rank() - 2, x.rank() - 1)
}

/// x with its dimensions in another order, without copying: dimension i of the result is
/// `order[i]` of x.
///
/// # Errors
/// An order that does not name each dimension once.
#[track_caller]
pub fn permute(x: &TrackedTensor, order: impl Numbers) -> Result<TrackedTensor> {
    let order = dimensions("permute", &order.list(), x)?;
    algebra::permute(x, &order)
}

/// The elements of x in row-major order under another shape; a view where x is contiguous. One
/// extent may be −1 (or `()` in a tuple): it is found.
///
/// # Errors
/// A shape of another number of elements, or one whose open extent cannot be found.
#[track_caller]
pub fn reshape(x: &TrackedTensor, shape: impl Numbers) -> Result<TrackedTensor> {
    sound(x)?;
    algebra::reshape(x, &shape_of("reshape", &shape.list(), x.elem_count())?)
}

/// Dimensions `from ..= to` of x as one.
///
/// # Errors
/// A dimension that x does not have; `from` behind `to`.
#[track_caller]
pub fn flatten(x: &TrackedTensor, from: impl Dim, to: impl Dim) -> Result<TrackedTensor> {
    sound(x)?;
    let (from, to) = (from.number(), to.number());
    if x.rank() == 0 && matches!(from, 0 | -1) && matches!(to, 0 | -1) {
        return algebra::reshape(x, &checked_shape("flatten", &[1])?);
    }
    let (first, last) = (dimension("flatten", from, x)?, dimension("flatten", to, x)?);
    if first > last {
        let reason = format!("dimension {first} is behind dimension {last}");
        return Err(Error::argument("flatten", reason).or_at(Site::caller()));
    }
    let dims = x.dims();
    let mut shape: SmallVec<[usize; 8]> = SmallVec::from_slice(&dims[..first]);
    shape.push(dims[first..=last].iter().product());
    shape.extend_from_slice(&dims[last + 1..]);
    algebra::reshape(x, &checked_shape("flatten", &shape)?)
}

/// All dimensions of x as one.
///
/// # Errors
/// None of its own.
#[track_caller]
pub fn flatten_all(x: &TrackedTensor) -> Result<TrackedTensor> {
    flatten(x, 0, -1)
}

/// Dimensions `from ..` of x as one.
///
/// # Errors
/// A dimension that x does not have.
#[track_caller]
pub fn flatten_from(x: &TrackedTensor, from: impl Dim) -> Result<TrackedTensor> {
    flatten(x, from, -1)
}

/// Dimensions `..= to` of x as one.
///
/// # Errors
/// A dimension that x does not have.
#[track_caller]
pub fn flatten_to(x: &TrackedTensor, to: impl Dim) -> Result<TrackedTensor> {
    flatten(x, 0, to)
}

/// x without dimension `dim`, where its extent is 1; x itself where it is not (as candle and
/// PyTorch have it).
///
/// # Errors
/// A dimension that x does not have.
#[track_caller]
pub fn squeeze(x: &TrackedTensor, dim: impl Dim) -> Result<TrackedTensor> {
    let dim = dimension("squeeze", dim, x)?;
    if x.dims()[dim] != 1 {
        return Ok(x.clone());
    }
    let mut dims: SmallVec<[usize; 8]> = SmallVec::from_slice(x.dims());
    dims.remove(dim);
    algebra::reshape(x, &checked_shape("squeeze", &dims)?)
}

/// x with a new dimension of extent 1 at `dim`; −1 puts it behind all others.
///
/// # Errors
/// A place that is not there; a rank above the limit.
#[track_caller]
pub fn unsqueeze(x: &TrackedTensor, dim: impl Dim) -> Result<TrackedTensor> {
    let dim = new_dimension("unsqueeze", dim, x)?;
    let mut dims: SmallVec<[usize; 8]> = SmallVec::from_slice(x.dims());
    dims.insert(dim, 1);
    let shape = checked_shape("unsqueeze", &dims).map_err(|e| e.or_at(Site::caller()))?;
    algebra::reshape(x, &shape)
}

/// x repeated to a larger shape by NumPy's rules, without copying; −1 keeps an extent of x.
///
/// # Errors
/// A shape to which x does not broadcast.
#[track_caller]
pub fn broadcast_as(x: &TrackedTensor, shape: impl Numbers) -> Result<TrackedTensor> {
    sound(x)?;
    let extents = shape.list();
    let mut dims: SmallVec<[usize; 8]> = SmallVec::new();
    for (i, &extent) in extents.iter().enumerate() {
        let own = (i + x.rank()).checked_sub(extents.len()).map(|d| x.dims()[d]);
        let found = usize::try_from(extent).ok().or(own.filter(|_| extent == -1));
        dims.push(found.ok_or_else(|| {
            let reason = format!("extent {extent} of {extents:?} for shape {}", x.shape());
            Error::argument("broadcast_as", reason)
        })?);
    }
    let shape = checked_shape("broadcast_as", &dims).map_err(|e| e.or_at(Site::caller()))?;
    algebra::broadcast_to(x, &shape)
}

/// x repeated `shape` times along new dimensions in front, without copying: `[2]` by (3, 4) gives
/// [3, 4, 2].
///
/// # Errors
/// A rank above the limit.
#[track_caller]
pub fn broadcast_left(x: &TrackedTensor, shape: impl Numbers) -> Result<TrackedTensor> {
    let mut extents = shape.list();
    extents.extend(x.dims().iter().map(|&extent| extent as isize));
    broadcast_as(x, extents.as_slice())
}

/// The elements in row-major order in memory; x itself where they lie so already.
#[derive(Clone, Copy, Debug)]
pub struct Contiguous;

/// x with its elements in row-major order in memory; the same memory where they lie so already.
///
/// # Errors
/// None of its own.
#[track_caller]
pub fn contiguous(x: &TrackedTensor) -> Result<TrackedTensor> {
    if x.plain().is_some_and(|plain| plain.layout().is_contiguous()) {
        return Ok(x.clone());
    }
    apply_one(&Contiguous, &[x])
}

crate::saved::stored! {
    "contiguous" => Contiguous {}, |_, x| x.len() == 1;
}

impl Primitive for Contiguous {
    crate::saved::by_tag!();
    fn name(&self) -> &'static str {
        "contiguous"
    }
    fn keep(&self) -> Prim {
        Prim::Static(&Self)
    }
    fn infer(&self, inputs: &[Meta]) -> Result<Signature> {
        Ok(Signature::one(inputs[0]))
    }
    fn view(&self, _: &Meta, inputs: &[&Layout]) -> Option<(usize, Layout)> {
        inputs[0].is_contiguous().then(|| (0, *inputs[0]))
    }
    fn eval_into(&self, inputs: &[View<'_>], outputs: &mut [SliceMut<'_>]) -> Result<()> {
        copy::copy(inputs[0], outputs[0].reborrow());
        Ok(())
    }
    fn rule(&self) -> Rule<'_> {
        Rule::Linear(Mask::one(0), self)
    }
    fn batch(&self, _: Mask, inputs: &[&TrackedTensor], _: usize) -> Result<Option<Values>> {
        Ok(Some(smallvec![contiguous(inputs[0])?]))
    }
}

impl Transpose for Contiguous {
    fn transpose(&self, _: Mask, cts: &[Option<TrackedTensor>], _: &Saved<'_>) -> Result<Grads> {
        Ok(smallvec![cts[0].clone()])
    }
}

/// x converted to another element type. The gradient is converted back; conversion to or from an
/// integer type has none.
///
/// # Errors
/// A type without kernels.
#[track_caller]
pub fn to_dtype(x: &TrackedTensor, dtype: DType) -> Result<TrackedTensor> {
    algebra::cast(x, dtype)
}

/// A copy on another device, made by candle.
#[derive(Clone)]
struct ToDevice(Device);

impl fmt::Debug for ToDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ToDevice({:?})", self.0.location())
    }
}

/// x on another device; x itself where it is there already. The gradient comes back to x's device.
///
/// # Errors
/// What candle reports; forward mode and batches do not cross devices.
#[track_caller]
pub fn to_device(x: &TrackedTensor, device: &Device) -> Result<TrackedTensor> {
    if x.location() == device.location() {
        return Ok(x.clone());
    }
    apply_one(&ToDevice(device.clone()), &[x])
}

impl Primitive for ToDevice {
    fn name(&self) -> &'static str {
        "to_device"
    }
    fn keep(&self) -> Prim {
        Prim::Shared(Arc::new(self.clone()))
    }
    fn infer(&self, inputs: &[Meta]) -> Result<Signature> {
        Ok(Signature::one(Meta { device: self.0.location(), ..inputs[0] }))
    }
    fn eval_into(&self, _: &[View<'_>], _: &mut [SliceMut<'_>]) -> Result<()> {
        Err(Error::mode("to_device", "static memory", "it crosses devices; move the inputs before"))
    }
    fn rule(&self) -> Rule<'_> {
        Rule::Opaque(self)
    }
}

impl Opaque for ToDevice {
    fn forward(&self, inputs: &[&TrackedTensor]) -> Result<Values> {
        Ok(smallvec![TrackedTensor::from_candle(&inputs[0].tensor()?.to_device(&self.0)?)?])
    }
    fn backward(&self, _: Mask, ct: &TrackedTensor, inputs: &[&TrackedTensor]) -> Result<Grads> {
        let home = match inputs[0].location() {
            DeviceLocation::Cpu => Device::Cpu,
            DeviceLocation::Cuda { .. } | DeviceLocation::Metal { .. } => inputs[0].device(),
        };
        Ok(smallvec![Some(to_device(ct, &home)?)])
    }
}

/// The ops of this file.
pub fn ops() -> Vec<Op> {
    let op = |name, formula, cases| Op { name, family: Family::Shape, formula, cases };
    fn one(
        label: &str,
        dims: &[usize],
        run: impl Fn(&TrackedTensor) -> Result<TrackedTensor> + Send + Sync + 'static,
    ) -> Case {
        Case::new(label, vec![Sample::float(dims)], move |x| run(&x[0]))
    }
    vec![
        op("transpose", "two dimensions exchanged", || {
            vec![
                one("first and last", &[2, 3, 4], |x| transpose(x, 0, -1)),
                one("empty", &[0, 3], |x| transpose(x, 0, 1)),
            ]
        }),
        op("t", "the last two dimensions exchanged", || vec![one("matrix", &[2, 3], t)]),
        op("permute", "dimensions in another order", || {
            vec![
                one("a cycle", &[2, 3, 4], |x| permute(x, (2, 0, 1))),
                one("rank 0", &[], |x| permute(x, ())),
            ]
        }),
        op("reshape", "the same elements under another shape; −1 is found", || {
            vec![
                one("an open extent", &[2, 6], |x| reshape(x, (3, ()))),
                one("of a transposed view", &[2, 3], |x| reshape(&t(x)?, 6)),
                one("to rank 0", &[1, 1], |x| reshape(x, ())),
                one("empty", &[0, 3], |x| reshape(x, (3, 0))),
            ]
        }),
        op("flatten", "dimensions from ..= to as one", || {
            vec![
                one("the last two", &[2, 3, 2], |x| flatten(x, 1, -1)),
                one("rank 0", &[], |x| flatten(x, 0, -1)),
            ]
        }),
        op("flatten_all", "all dimensions as one", || vec![one("rank 3", &[2, 1, 3], flatten_all)]),
        op("flatten_from", "dimensions from .. as one", || {
            vec![one("from 1", &[2, 2, 3], |x| flatten_from(x, 1))]
        }),
        op("flatten_to", "dimensions ..= to as one", || vec![one("to 1", &[2, 2, 3], |x| flatten_to(x, 1))]),
        op("squeeze", "without a dimension of extent 1", || {
            vec![
                one("there", &[2, 1, 3], |x| squeeze(x, 1)),
                one("larger extent", &[2, 3], |x| squeeze(x, 1)),
            ]
        }),
        op("unsqueeze", "with a new dimension of extent 1", || {
            vec![one("inside", &[2, 3], |x| unsqueeze(x, 1)), one("at the end", &[2], |x| unsqueeze(x, -1))]
        }),
        op("broadcast_as", "repeated to a larger shape", || {
            vec![
                one("a column", &[2, 1], |x| broadcast_as(x, (3, 2, 4))),
                one("kept extents", &[2, 1], |x| broadcast_as(x, (-1, 3))),
                one("rank 0", &[], |x| broadcast_as(x, (2, 2))),
                one("to nothing", &[1, 2], |x| broadcast_as(x, (0, 2))),
            ]
        }),
        op("broadcast_left", "repeated along new dimensions in front", || {
            vec![one("two dimensions", &[2], |x| broadcast_left(x, (3, 2)))]
        }),
        op("contiguous", "the same elements in row-major order in memory", || {
            vec![one("a transposed view", &[2, 3], |x| contiguous(&t(x)?))]
        }),
        op("to_dtype", "the elements in another type", || {
            vec![
                one("wider", &[3], |x| to_dtype(x, DType::F64)),
                // Flat: whole numbers have no derivative.
                one("through whole numbers", &[3], |x| to_dtype(&to_dtype(x, DType::I64)?, x.dtype()))
                    .at_a_kink(),
            ]
        }),
    ]
}

/// The methods of this file.
#[macro_export]
#[doc(hidden)]
macro_rules! shape_methods {
    ($($callback:tt)*) => {
        $($callback)* {
            unary {
                /// The last two dimensions exchanged, without copying.
                t = $crate::shape::t;
                /// All dimensions as one.
                flatten_all = $crate::shape::flatten_all;
                /// The elements in row-major order in memory.
                contiguous = $crate::shape::contiguous;
            }
            binary {}
            other {
                /// Dimensions a and b exchanged, without copying.
                transpose(a: impl $crate::Dim, b: impl $crate::Dim) -> TrackedTensor = $crate::shape::transpose;
                /// The dimensions in another order, without copying.
                permute(order: impl $crate::Numbers) -> TrackedTensor = $crate::shape::permute;
                /// The elements in row-major order under another shape; one extent may be −1.
                reshape(shape: impl $crate::Numbers) -> TrackedTensor = $crate::shape::reshape;
                /// Dimensions `from ..= to` as one.
                flatten(from: impl $crate::Dim, to: impl $crate::Dim) -> TrackedTensor = $crate::shape::flatten;
                /// Dimensions `from ..` as one.
                flatten_from(from: impl $crate::Dim) -> TrackedTensor = $crate::shape::flatten_from;
                /// Dimensions `..= to` as one.
                flatten_to(to: impl $crate::Dim) -> TrackedTensor = $crate::shape::flatten_to;
                /// Without dimension `dim`, where its extent is 1.
                squeeze(dim: impl $crate::Dim) -> TrackedTensor = $crate::shape::squeeze;
                /// With a new dimension of extent 1 at `dim`.
                unsqueeze(dim: impl $crate::Dim) -> TrackedTensor = $crate::shape::unsqueeze;
                /// Repeated to a larger shape, without copying.
                broadcast_as(shape: impl $crate::Numbers) -> TrackedTensor = $crate::shape::broadcast_as;
                /// Repeated along new dimensions in front, without copying.
                broadcast_left(shape: impl $crate::Numbers) -> TrackedTensor = $crate::shape::broadcast_left;
                /// As `broadcast_as`.
                expand(shape: impl $crate::Numbers) -> TrackedTensor = $crate::shape::broadcast_as;
                /// The elements in another type.
                to_dtype(dtype: candle_core::DType) -> TrackedTensor = $crate::shape::to_dtype;
                /// The elements on another device.
                to_device(device: &candle_core::Device) -> TrackedTensor = $crate::shape::to_device;
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use autograd_tape::GradientTape;

    #[test]
    fn a_conversion_converts_the_gradient_back() -> Result<()> {
        let tape = GradientTape::new();
        let x = tape.variable(TrackedTensor::from_vec(vec![1f64, 2.], &[2])?);
        let y = to_dtype(&x, DType::F32)?;
        assert_eq!(y.dtype(), DType::F32);
        let dx = tape.derivative(&crate::reduce::sum(&y)?, &x)?;
        assert_eq!(dx.to_vec1::<f64>()?, [1., 1.]);
        Ok(())
    }

    #[test]
    fn broken_values_say_what_broke() -> Result<()> {
        let x = TrackedTensor::failed(Error::msg("torn"));
        assert_eq!(squeeze(&x, -2).expect_err("it must fail").to_string(), "torn");
        assert_eq!(reshape(&x, (2, 3)).expect_err("it must fail").to_string(), "torn");
        assert!(unsqueeze(&TrackedTensor::from_vec(vec![1f32], &[1; 8])?, 0).is_err());
        Ok(())
    }
}
