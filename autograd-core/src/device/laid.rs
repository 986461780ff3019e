//! Programs that a device runs as a whole: every value has a place, and the steps follow each other.

use super::{KERNELS, Tensors};
use crate::error::{Error, Result, Site};
use crate::meta::Meta;
use crate::plain::Plain;
use crate::primitive::{Prim, Primitive, Signature};
use crate::value::TrackedTensor;
use autograd_kernels::{Layout, Shape};
use candle_core::{DType, Device, DeviceLocation, Tensor};
use smallvec::SmallVec;
use std::fmt;

/// A program with a place for every value.
#[derive(Clone, Debug)]
pub struct Laid {
    /// The steps, in their order.
    pub steps: Vec<LaidStep>,
    /// The size of the arena.
    pub bytes: usize,
    /// The inputs, in row-major order.
    pub inputs: Vec<Meta>,
    /// The closed-over values.
    pub constants: Vec<TrackedTensor>,
    /// The outputs, in row-major order.
    pub outputs: Vec<Meta>,
}

/// An application of an op.
#[derive(Clone, Debug)]
pub struct LaidStep {
    /// The op; `None` for a copy into row-major order.
    pub op: Option<Prim>,
    /// What it reads.
    pub reads: Vec<LaidValue>,
    /// What it writes, in row-major order: outputs, then auxiliary ones, all or none.
    pub writes: Vec<LaidValue>,
    /// The user's line.
    pub site: Site,
}

/// A value in its place.
#[derive(Clone, Copy, Debug)]
pub struct LaidValue {
    /// Where it lies.
    pub home: Home,
    /// How many bytes behind the beginning of its home.
    pub at: usize,
    /// How its elements lie from there on.
    pub layout: Layout,
    /// Their type.
    pub dtype: DType,
}

impl LaidValue {
    /// Shape and type.
    pub fn meta(&self) -> Meta {
        Meta { shape: *self.layout.shape(), dtype: self.dtype, device: DeviceLocation::Cpu }
    }
}

/// A piece of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Home {
    /// That of an input.
    Input(usize),
    /// That of a closed-over value.
    Constant(usize),
    /// That of an output.
    Output(usize),
    /// What all values between share.
    Arena,
}

/// Why a device does not run a program as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Declined {
    /// An op has no launch there.
    Op {
        /// The op's name.
        op: &'static str,
        /// The user's line.
        site: Site,
    },
    /// A closed-over value does not lie where its layout says.
    Constant(Shape),
    /// There are no kernels: none were installed, the compiler is missing, or the device is too old.
    Device,
}

impl fmt::Display for Declined {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Declined::Op { op, site } => write!(f, "{op} has no launch there (at {site})"),
            Declined::Constant(shape) => {
                write!(f, "a closed-over value of shape {shape} is moved when it is read")
            }
            Declined::Device => {
                f.write_str("there are no kernels for it: none installed, no compiler, or too old")
            }
        }
    }
}

/// What kernels make of a program, or why they do not take it.
pub type Tried<T> = std::result::Result<T, Declined>;

/// A program that kernels have made ready.
pub trait DeviceProgram: Send + Sync {
    /// Runs it on the device.
    ///
    /// # Errors
    /// The device's; values that an op cannot take.
    fn run(&self, inputs: &[Tensor]) -> Result<Tensors>;
}

/// Whether the installed kernels can have this application of an op in a program.
pub fn takes(op: &dyn Primitive, inputs: &[Meta], signature: &Signature) -> bool {
    KERNELS.get().is_some_and(|kernels| kernels.takes(op, inputs, signature))
}

/// A program made ready by the installed kernels for the device of `like`, or why they do not take
/// it.
///
/// # Errors
/// The device's: no memory, code that it refuses.
pub fn compile(program: &Laid, like: &TrackedTensor) -> Result<Tried<Whole>> {
    let (Some(kernels), Some(device)) = (KERNELS.get(), like.plain().map(|x| x.candle_device())) else {
        return Ok(Err(Declined::Device));
    };
    let mut constants = Vec::with_capacity(program.constants.len());
    for constant in &program.constants {
        let declined = Declined::Constant(*constant.shape());
        let Some(plain) = constant.plain() else { return Ok(Err(declined)) };
        let tensor = plain.device_tensor()?;
        // The steps read it where the layout says.
        if plain.device() != like.location() || tensor.layout().start_offset() != plain.layout().offset() {
            return Ok(Err(declined));
        }
        constants.push(tensor);
    }
    let made = kernels.compile(program, &constants, &device)?;
    let (inputs, location) = (program.inputs.clone(), like.location());
    Ok(made.map(|made| Whole { made, inputs, device, location }))
}

/// A program that runs on a device as a whole.
pub struct Whole {
    made: Box<dyn DeviceProgram>,
    inputs: Vec<Meta>,
    device: Device,
    location: DeviceLocation,
}

impl Whole {
    /// The program's outputs.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for inputs of other shapes or types; as [`DeviceProgram::run`].
    pub fn run(&self, inputs: &[&TrackedTensor]) -> Result<Vec<TrackedTensor>> {
        let fits = |(x, meta): (&&TrackedTensor, &Meta)| {
            *x.shape() == meta.shape && x.dtype() == meta.dtype && x.location() == self.location
        };
        if inputs.len() != self.inputs.len() || !inputs.iter().zip(&self.inputs).all(fits) {
            return Err(Error::argument("compiled", "inputs of other shapes, types or devices".to_owned()));
        }
        let tensors: SmallVec<[Tensor; 8]> = inputs
            .iter()
            .map(|x| x.plain().ok_or_else(|| Error::internal("compiled", "an input is watched")))
            .map(|plain| plain?.device_tensor())
            .collect::<Result<_>>()?;
        let on = |x: &Tensor| Plain::on_device(x, self.location).map(TrackedTensor::from_plain);
        debug_assert!(tensors.iter().all(|x| x.device().same_device(&self.device)), "one device");
        self.made.run(&tensors)?.iter().map(on).collect()
    }
}

impl fmt::Debug for Whole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Whole(on {:?})", self.location)
    }
}
