//! Dual numbers to work with op by op, without a closure.

use crate::dual::DualTracer;
use crate::jvp::checked;
use autograd_core::algebra::zeros_like;
use autograd_core::{Level, Primitive, Result, Site, TrackedTensor, apply_one};
use autograd_ops::Operand;

/// A value and its tangent: x + ẋε with ε² = 0.
#[derive(Clone, Debug)]
pub struct DualTensor {
    value: TrackedTensor,
    tangent: TrackedTensor,
}

impl DualTensor {
    /// A value with its tangent. Where shapes or types differ, the first op on it says so, with
    /// this line.
    #[track_caller]
    pub fn new(value: impl Into<TrackedTensor>, tangent: impl Into<TrackedTensor>) -> Self {
        let (value, tangent) = (value.into(), tangent.into());
        match checked(&value, &tangent, Site::caller()) {
            Ok(()) => Self { value, tangent },
            Err(error) => Self { value, tangent: TrackedTensor::failed(error) },
        }
    }

    /// A value that does not move: tangent 0.
    ///
    /// # Errors
    /// A type without kernels.
    #[track_caller]
    pub fn constant(value: impl Into<TrackedTensor>) -> Result<Self> {
        let value = value.into();
        let tangent = zeros_like(&value)?;
        Ok(Self { value, tangent })
    }

    /// The value.
    pub fn value(&self) -> &TrackedTensor {
        &self.value
    }

    /// The tangent.
    pub fn tangent(&self) -> &TrackedTensor {
        &self.tangent
    }
}

/// What a dual number can be combined with: another one, a value, or a number.
pub trait DualOperand {
    /// The operand as the context's level sees it.
    ///
    /// # Errors
    /// A dual whose tangent does not fit its value.
    fn lift(self, context: &ForwardADContext) -> Result<Operand>;
}

impl DualOperand for &DualTensor {
    fn lift(self, context: &ForwardADContext) -> Result<Operand> {
        context.lift(self).map(Operand::Value)
    }
}

macro_rules! plain_operand {
    ($($ty:ty),*) => {$(
        impl DualOperand for $ty {
            fn lift(self, _: &ForwardADContext) -> Result<Operand> {
                Ok(Operand::from(self))
            }
        }
    )*};
}

plain_operand!(&TrackedTensor, TrackedTensor, &candle_core::Tensor, f64, f32, i32, i64);

/// A level of forward mode with every op as a method on dual numbers.
///
/// ```
/// use autograd_core::{Result, TrackedTensor};
/// use autograd_forward::{DualTensor, ForwardADContext};
///
/// fn main() -> Result<()> {
///     let mut ctx = ForwardADContext::new();
///     let x = DualTensor::new(TrackedTensor::scalar(3.0), TrackedTensor::scalar(1.0));
///     let y = ctx.mul(&x, &x)?;
///     assert_eq!(y.tangent().to_scalar::<f64>()?, 6.0);
///     Ok(())
/// }
/// ```
#[derive(Debug)]
pub struct ForwardADContext {
    level: Level,
}

impl Default for ForwardADContext {
    fn default() -> Self {
        Self::new()
    }
}

macro_rules! context_methods {
    (
        unary { $($(#[$u:meta])* $unary:ident = $upath:path;)* }
        binary { $($(#[$b:meta])* $binary:ident = $bpath:path;)* }
        other { $($(#[$o:meta])* $other:ident($($arg:ident: $ty:ty),*) -> $out:ty = $opath:path;)* }
    ) => {
        #[allow(clippy::too_many_arguments, reason = "a convolution has candle's arguments and the value")]
        impl ForwardADContext {
            $(
                $(#[$u])*
                ///
                /// # Errors
                #[doc = concat!("As [`", stringify!($upath), "`].")]
                #[track_caller]
                pub fn $unary(&mut self, x: &DualTensor) -> Result<DualTensor> {
                    self.lower(&$upath(&self.lift(x)?)?)
                }
            )*
            $(
                $(#[$b])*
                ///
                /// # Errors
                #[doc = concat!("As [`", stringify!($bpath), "`].")]
                #[track_caller]
                pub fn $binary(&mut self, x: &DualTensor, rhs: impl DualOperand) -> Result<DualTensor> {
                    let rhs = rhs.lift(self)?;
                    self.lower(&$bpath(&self.lift(x)?, rhs)?)
                }
            )*
            $(
                $(#[$o])*
                ///
                /// # Errors
                #[doc = concat!("As [`", stringify!($opath), "`].")]
                #[track_caller]
                pub fn $other(&mut self, x: &DualTensor, $($arg: $ty),*) -> Result<<$out as Lowered>::Dual> {
                    $opath(&self.lift(x)?, $($arg),*)?.lowered(self)
                }
            )*
        }
    };
}

/// Results that come back as dual numbers, one by one or several.
pub trait Lowered {
    /// The same with dual numbers for values.
    type Dual;

    /// The result on the context's level, taken apart.
    ///
    /// # Errors
    /// A type without kernels.
    fn lowered(self, context: &ForwardADContext) -> Result<Self::Dual>;
}

impl Lowered for TrackedTensor {
    type Dual = DualTensor;

    fn lowered(self, context: &ForwardADContext) -> Result<DualTensor> {
        context.lower(&self)
    }
}

impl Lowered for Vec<TrackedTensor> {
    type Dual = Vec<DualTensor>;

    fn lowered(self, context: &ForwardADContext) -> Result<Vec<DualTensor>> {
        self.iter().map(|x| context.lower(x)).collect()
    }
}

impl Lowered for (TrackedTensor, TrackedTensor) {
    type Dual = (DualTensor, DualTensor);

    fn lowered(self, context: &ForwardADContext) -> Result<(DualTensor, DualTensor)> {
        Ok((context.lower(&self.0)?, context.lower(&self.1)?))
    }
}

impl Lowered for (TrackedTensor, TrackedTensor, TrackedTensor) {
    type Dual = (DualTensor, DualTensor, DualTensor);

    fn lowered(self, context: &ForwardADContext) -> Result<Self::Dual> {
        Ok((context.lower(&self.0)?, context.lower(&self.1)?, context.lower(&self.2)?))
    }
}

impl Lowered for autograd_ops::norm::BatchNormed {
    /// The normalised values; running statistics carry no tangent.
    type Dual = (DualTensor, TrackedTensor, TrackedTensor);

    fn lowered(self, context: &ForwardADContext) -> Result<Self::Dual> {
        Ok((context.lower(&self.output)?, self.running_mean, self.running_var))
    }
}

autograd_ops::for_each_family!(context_methods!);

impl ForwardADContext {
    /// A context at a level of its own.
    pub fn new() -> Self {
        Self { level: Level::fresh() }
    }

    /// A dual number as a value of this context's level: all methods of the value work on it.
    ///
    /// # Errors
    /// A dual whose tangent does not fit its value.
    pub fn lift(&self, x: &DualTensor) -> Result<TrackedTensor> {
        if let Some(error) = x.value.failure().or_else(|| x.tangent.failure()) {
            return Err(error.clone());
        }
        Ok(DualTracer::join(self.level, x.value.clone(), x.tangent.clone(), None))
    }

    /// A value of this context's level as a dual number; tangent 0 where it does not move.
    ///
    /// # Errors
    /// A type without kernels.
    pub fn lower(&self, y: &TrackedTensor) -> Result<DualTensor> {
        let (value, tangent) = DualTracer::split(self.level, y);
        match tangent {
            Some(tangent) => Ok(DualTensor { value, tangent }),
            None => DualTensor::constant(value),
        }
    }

    /// Applies any primitive of one output.
    ///
    /// # Errors
    /// What the primitive reports.
    #[track_caller]
    pub fn apply(&mut self, op: &dyn Primitive, inputs: &[&DualTensor]) -> Result<DualTensor> {
        let lifted: Vec<TrackedTensor> = inputs.iter().map(|x| self.lift(x)).collect::<Result<_>>()?;
        let refs: Vec<&TrackedTensor> = lifted.iter().collect();
        self.lower(&apply_one(op, &refs)?)
    }
}
