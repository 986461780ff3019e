//! Where layers find their parameters: candle's `VarBuilder` over values.

use crate::parameters::Parameters;
use crate::watched::Watched;
use autograd_core::{Error, Result, Site, TrackedTensor};
use autograd_ops::random;
use candle_core::{DType, Device, Shape, Tensor, Var};
use candle_nn::Init;
use candle_nn::init::NormalOrUniform;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::{Arc, Mutex, PoisonError};

/// Gives layers their parameters by name: those of a [`Watched`], or new ones from a seed.
///
/// The same constructor builds a model that is to be initialised and one that is on a tape:
///
/// ```
/// use autograd_core::Result;
/// use autograd_nn::layers::{Linear, Module, linear};
/// use autograd_nn::ValueBuilder;
/// use autograd_tape::GradientTape;
/// use candle_core::{DType, Device};
///
/// fn main() -> Result<()> {
///     let init = ValueBuilder::seeded(42, DType::F32, &Device::Cpu);
///     linear(3, 2, init.pp("fc"))?;
///     let parameters = init.parameters();
///
///     let tape = GradientTape::new();
///     let watched = parameters.watch(&tape)?;
///     let model = linear(3, 2, ValueBuilder::from(&watched).pp("fc"))?;
///     assert!(tape.watches(model.weight()));
///     Ok(())
/// }
/// ```
#[derive(Clone, Debug)]
pub struct ValueBuilder {
    source: Source,
    prefix: String,
}

#[derive(Clone, Debug)]
enum Source {
    Watched(Watched),
    Seeded(Arc<Seeded>),
}

#[derive(Debug)]
struct Seeded {
    key: TrackedTensor,
    dtype: DType,
    device: Device,
    made: Mutex<BTreeMap<String, Var>>,
}

impl From<&Watched> for ValueBuilder {
    fn from(watched: &Watched) -> Self {
        Self { source: Source::Watched(watched.clone()), prefix: String::new() }
    }
}

impl ValueBuilder {
    /// New parameters from a seed. Each is drawn from the seed and its own name, so the order in
    /// which layers ask for them means nothing.
    pub fn seeded(seed: u64, dtype: DType, device: &Device) -> Self {
        let (key, device, made) = (random::key(seed), device.clone(), Mutex::default());
        Self { source: Source::Seeded(Arc::new(Seeded { key, dtype, device, made })), prefix: String::new() }
    }

    /// The builder for a part of the model, whose names all start with `part` and a dot.
    #[must_use]
    pub fn pp(&self, part: impl Display) -> Self {
        Self { source: self.source.clone(), prefix: format!("{}{part}.", self.prefix) }
    }

    /// Whether there is a parameter of this name.
    pub fn contains(&self, name: &str) -> bool {
        let name = format!("{}{name}", self.prefix);
        match &self.source {
            Source::Watched(watched) => watched.entry(&name).is_some(),
            Source::Seeded(seeded) => seeded.lock().contains_key(&name),
        }
    }

    /// The parameter of a name and shape. One that must be made is zero.
    ///
    /// # Errors
    /// As [`get_with`](Self::get_with).
    #[track_caller]
    pub fn get(&self, dims: &[usize], name: &str) -> Result<TrackedTensor> {
        self.get_with(dims, name, Init::Const(0.0))
    }

    /// The parameter of a name and shape; where it must be made, by this initialisation.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] where there is none of that name, or one of another shape.
    #[track_caller]
    pub fn get_with(&self, dims: &[usize], name: &str, init: Init) -> Result<TrackedTensor> {
        self.entry(dims, name, init).map(|(_, value)| value)
    }

    /// A parameter with its variable, which layers that keep statistics write to.
    #[track_caller]
    pub(crate) fn entry(&self, dims: &[usize], name: &str, init: Init) -> Result<(Var, TrackedTensor)> {
        let site = Site::caller();
        let full = format!("{}{name}", self.prefix);
        let (var, value) = match &self.source {
            Source::Watched(watched) => {
                watched.get(&full).map_err(|error| error.or_at(site))?;
                let missing = || Error::internal("parameters", "an entry went away");
                let entry = watched.entry(&full).ok_or_else(missing)?;
                (entry.var.clone(), entry.value.clone())
            }
            Source::Seeded(seeded) => {
                let var = seeded.var(dims, &full, init).map_err(|error| error.or_at(site))?;
                let value = TrackedTensor::from_candle(&var)?;
                (var, value)
            }
        };
        if value.dims() != dims {
            let reason = format!("{full:?} has shape {:?}, and the layer needs {dims:?}", value.dims());
            return Err(Error::argument("parameters", reason).or_at(site));
        }
        Ok((var, value))
    }

    /// The parameters that were made; none for a builder of watched ones.
    pub fn parameters(&self) -> Parameters {
        match &self.source {
            Source::Watched(_) => Parameters::default(),
            Source::Seeded(seeded) => seeded.lock().clone().into_iter().collect(),
        }
    }
}

impl Seeded {
    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Var>> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn var(&self, dims: &[usize], name: &str, init: Init) -> Result<Var> {
        if let Some(var) = self.lock().get(name) {
            return Ok(var.clone());
        }
        let var = Var::from_tensor(&self.draw(dims, name, init)?)?;
        self.lock().insert(name.to_owned(), var.clone());
        Ok(var)
    }

    fn draw(&self, dims: &[usize], name: &str, init: Init) -> Result<Tensor> {
        let scaled = |normal: bool, scale: f64, shift: f64| -> Result<Tensor> {
            // FNV-1a of the name: the same on every machine.
            let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
            });
            let key = random::fold_in(&self.key, hash)?;
            let draw = if normal { random::normal } else { random::uniform };
            let unit = draw(&key, dims, DType::F64)?.into_tensor()?;
            Ok(unit.affine(scale, shift)?.to_dtype(self.dtype)?.to_device(&self.device)?)
        };
        match init {
            Init::Const(value) => {
                Ok(Tensor::full(value, dims, &self.device)?.to_dtype(self.dtype)?.contiguous()?)
            }
            Init::Randn { mean, stdev } => scaled(true, stdev, mean),
            Init::Uniform { lo, up } => scaled(false, up - lo, lo),
            Init::Kaiming { dist, fan, non_linearity } => {
                let fan = fan.for_shape(&Shape::from(dims)).max(1);
                let deviation = non_linearity.gain() / (fan as f64).sqrt();
                match dist {
                    NormalOrUniform::Normal => scaled(true, deviation, 0.0),
                    NormalOrUniform::Uniform => {
                        let bound = 3f64.sqrt() * deviation;
                        scaled(false, 2.0 * bound, -bound)
                    }
                }
            }
        }
    }
}
