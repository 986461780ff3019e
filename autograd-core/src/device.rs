//! Ops on other devices than the CPU.
//!
//! A device's own kernels come first, where a crate has [installed](install) some. Else an op is
//! evaluated by candle's ops, which run where their tensors are: scalar expressions node by node,
//! views and the ops that say how themselves ([`Primitive::eval_candle`]), all others by their
//! decomposition. What candle cannot compute on a device either is computed on the host and moved
//! back; those are the ops that say so ([`Primitive::on_host`]) and the functions in
//! [`HOST_FUNCTIONS`]. Anything else is [`Error::UnsupportedDevice`].

mod expression;
mod laid;

pub use expression::HOST_FUNCTIONS;
pub use laid::{Declined, DeviceProgram, Home, Laid, LaidStep, LaidValue, Tried, Whole, compile, takes};

use crate::apply::apply_call;
use crate::error::{At, Error, Result, Site};
use crate::meta::Meta;
use crate::plain::Plain;
use crate::primitive::{Primitive, Signature};
use crate::testing;
use crate::tracer::{Applied, Values};
use crate::value::TrackedTensor;
use autograd_kernels::Layout;
use candle_core::{Device, DeviceLocation, Tensor};
use smallvec::SmallVec;
use std::fmt;
use std::sync::{Arc, OnceLock};

/// The outputs of an op as candle tensors: few have more than one.
pub type Tensors = SmallVec<[Tensor; 1]>;

/// An op in the words of a device's kernels: the kernel's name, and the op's numbers in an order
/// that the kernel's crate knows.
#[derive(Clone, Debug, PartialEq)]
pub struct KernelCall {
    /// The kernel.
    pub kernel: &'static str,
    /// Dimensions, extents, switches.
    pub integers: SmallVec<[i64; 8]>,
    /// Factors, and what is added for stability.
    pub reals: SmallVec<[f64; 2]>,
    /// The op that errors name, where it is not the one that is applied.
    pub named: Option<&'static str>,
}

impl KernelCall {
    /// A kernel with these numbers.
    pub fn new(kernel: &'static str, integers: &[i64], reals: &[f64]) -> Self {
        let (integers, reals) = (SmallVec::from_slice(integers), SmallVec::from_slice(reals));
        Self { kernel, integers, reals, named: None }
    }

    /// The same for an op that is a part of `op`, which errors name.
    #[must_use]
    pub fn within(self, op: &'static str) -> Self {
        Self { named: Some(op), ..self }
    }
}

/// Kernels for a device.
pub trait DeviceKernels: Send + Sync {
    /// The outputs of `op`, on the inputs' device and of the shapes and types that were inferred;
    /// `None` where there is no kernel for this application. Where `hints` asks for them, the
    /// auxiliary outputs may follow, all or none.
    ///
    /// # Errors
    /// The device's: no memory, a launch that failed; values that the op cannot take.
    fn evaluate(
        &self,
        op: &dyn Primitive,
        inputs: &[Tensor],
        signature: &Signature,
        hints: bool,
    ) -> Result<Option<Tensors>>;

    /// The typed error for one that candle's own kernels report for an op; `None` where this crate
    /// knows no better.
    fn typed(&self, op: &'static str, location: DeviceLocation, error: &candle_core::Error) -> Option<Error> {
        let _ = (op, location, error);
        None
    }

    /// Whether [`compile`](Self::compile) can have this application of an op in a program. Ops that
    /// are views of their inputs in row-major order are not asked for.
    fn takes(&self, op: &dyn Primitive, inputs: &[Meta], signature: &Signature) -> bool {
        let _ = (op, inputs, signature);
        false
    }

    /// A program made ready to run on a device as a whole, its closed-over values where these
    /// tensors are, or why it is not.
    ///
    /// # Errors
    /// The device's: no memory, code that it refuses.
    fn compile(
        &self,
        program: &Laid,
        constants: &[Tensor],
        device: &Device,
    ) -> Result<Tried<Box<dyn DeviceProgram>>> {
        let _ = (program, constants, device);
        Ok(Err(Declined::Device))
    }

    /// Begins to copy a tensor to the host's memory while the device goes on; `None` where there is
    /// no way that is not waited for.
    ///
    /// # Errors
    /// The device's.
    fn to_host(&self, x: &Tensor) -> Result<Option<Box<dyn HostCopy>>> {
        let _ = x;
        Ok(None)
    }
}

/// A device's tensor in the host's memory.
pub trait HostCopy: fmt::Debug + Send + Sync {
    /// The tensor, on its device again.
    ///
    /// # Errors
    /// The device's.
    fn fetch(&self) -> Result<Tensor>;
}

/// As [`DeviceKernels::to_host`], by the kernels that are installed.
///
/// # Errors
/// The device's.
pub fn to_host(x: &Tensor) -> Result<Option<Box<dyn HostCopy>>> {
    KERNELS.get().map_or(Ok(None), |kernels| kernels.to_host(x))
}

static KERNELS: OnceLock<Arc<dyn DeviceKernels>> = OnceLock::new();

/// Gives the process kernels for its devices. Returns whether they were taken: the first ones stay.
pub fn install(kernels: Arc<dyn DeviceKernels>) -> bool {
    KERNELS.set(kernels).is_ok()
}

/// Whether the process has kernels for its devices.
pub fn installed() -> bool {
    KERNELS.get().is_some()
}

/// Evaluates an op on plain values of one device that is not the CPU.
pub(crate) fn evaluate(
    op: &dyn Primitive,
    inputs: &[&TrackedTensor],
    plains: &[&Arc<Plain>],
    hints: bool,
    site: Site,
) -> Result<Applied> {
    let metas: SmallVec<[Meta; 4]> = plains.iter().map(|p| p.meta()).collect();
    let signature = op.infer(&metas)?;
    let location = plains.first().map_or(DeviceLocation::Cpu, |p| p.device());
    let tensors: SmallVec<[Tensor; 4]> = plains.iter().map(|p| p.device_tensor()).collect::<Result<_>>()?;
    let typed = |error: Error| match (&error, KERNELS.get()) {
        (Error::Candle { source, .. }, Some(kernels)) => match kernels.typed(op.name(), location, source) {
            Some(typed) => typed.or_at(site),
            None => error,
        },
        _ => error,
    };
    let Some(made) = by_tensors(op, &tensors, &signature, hints).map_err(typed)? else {
        if let Some(outputs) = op.decompose(inputs)? {
            return Ok(Applied { outputs, aux: Values::new() });
        }
        if !on_host(op) {
            return Err(Error::UnsupportedDevice { op: op.name(), device: location, at: At::from(site) });
        }
        let device = plains.first().map_or(Device::Cpu, |p| p.candle_device());
        return through_host(op, &tensors, &device, location, site);
    };
    testing::note_evaluation();
    let mut outputs = Values::new();
    for (tensor, meta) in made.into_iter().zip(signature.outputs.iter().chain(&signature.aux)) {
        if tensor.dims() != meta.shape.dims() || tensor.dtype() != meta.dtype {
            let (got, want) = (tensor.shape(), meta.shape);
            let reason =
                format!("{got:?} {:?} on a device instead of {want} {:?}", tensor.dtype(), meta.dtype);
            return Err(Error::internal(op.name(), reason));
        }
        let plain = Plain::on_device(&tensor, location)?;
        plain.inherit(plains.iter().map(|p| &***p));
        outputs.push(TrackedTensor::from_plain(plain));
    }
    let aux = outputs.drain(signature.outputs.len()..).collect();
    Ok(Applied { outputs, aux })
}

/// By kernels or candle's ops; `None` where neither can.
fn by_tensors(
    op: &dyn Primitive,
    inputs: &[Tensor],
    signature: &Signature,
    hints: bool,
) -> Result<Option<Tensors>> {
    if let Some(kernels) = KERNELS.get()
        && let Some(outputs) = kernels.evaluate(op, inputs, signature, hints)?
    {
        return Ok(Some(outputs));
    }
    if let Some(outputs) = op.eval_candle(inputs)? {
        return Ok(Some(outputs));
    }
    if let Some(pointwise) = op.as_pointwise() {
        return expression::evaluate(pointwise, inputs, signature);
    }
    let layouts: SmallVec<[Layout; 4]> = inputs
        .iter()
        .map(|x| Ok(Layout::contiguous(crate::checked_shape(op.name(), x.dims())?)))
        .collect::<Result<_>>()?;
    let refs: SmallVec<[&Layout; 4]> = layouts.iter().collect();
    if let [output] = &signature.outputs[..]
        && let Some((i, layout)) = op.view(output, &refs)
    {
        return Ok(Some(smallvec::smallvec![strided(&inputs[i], &layout)?]));
    }
    Ok(None)
}

/// The elements of x that a layout over its elements in row-major order names.
///
/// # Errors
/// What candle reports.
pub fn strided(x: &Tensor, layout: &Layout) -> Result<Tensor> {
    let (dims, len) = (layout.dims(), layout.elements());
    let flat = x.flatten_all()?;
    if layout.is_contiguous() {
        return Ok(flat.narrow(0, if len == 0 { 0 } else { layout.offset() }, len)?.reshape(dims)?);
    }
    Ok(flat.contiguous()?.index_select(&positions(layout, x.device())?, 0)?.reshape(dims)?)
}

/// Where each element of a layout lies, as indices on a device.
///
/// # Errors
/// More elements than 32-bit indices can name; what candle reports.
pub fn positions(layout: &Layout, device: &Device) -> Result<Tensor> {
    let len = layout.elements();
    let position = |i: usize| u32::try_from(layout.index_of(i));
    let positions: Result<Vec<u32>, _> = (0..len).map(position).collect();
    let positions = positions.map_err(|_| Error::argument("slice", "more than 2³² elements on a device"))?;
    Ok(Tensor::from_vec(positions, len, device)?)
}

/// Whether an op without other ways is computed on the host.
fn on_host(op: &dyn Primitive) -> bool {
    op.on_host() || op.as_pointwise().is_some()
}

/// Moves the inputs to the host, and the outputs back.
fn through_host(
    op: &dyn Primitive,
    inputs: &[Tensor],
    device: &Device,
    location: DeviceLocation,
    site: Site,
) -> Result<Applied> {
    let moved: SmallVec<[TrackedTensor; 4]> = inputs
        .iter()
        .map(|x| Plain::from_candle(&x.to_device(&Device::Cpu)?).map(TrackedTensor::from_plain))
        .collect::<Result<_>>()?;
    let refs: SmallVec<[&TrackedTensor; 4]> = moved.iter().collect();
    let outputs = apply_call(op, &refs, false, site)?.outputs;
    let back = |y: TrackedTensor| -> Result<TrackedTensor> {
        Ok(TrackedTensor::from_plain(Plain::on_device(&y.into_tensor()?.to_device(device)?, location)?))
    };
    Ok(Applied { outputs: outputs.into_iter().map(back).collect::<Result<_>>()?, aux: Values::new() })
}
