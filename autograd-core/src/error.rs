//! The one error type of the workspace: what failed, with op, shapes or dtypes, and where.

use crate::in_place::Obstacle;
use crate::meta::Meta;
use autograd_kernels::Shape;
use candle_core::{DType, DeviceLocation};
use std::fmt;
use std::panic::Location;
use std::sync::Arc;

/// The result of everything that can fail here.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A line of the user's program.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Site(&'static Location<'static>);

impl Site {
    /// The line of the function's caller, through every `#[track_caller]` above it.
    #[track_caller]
    pub fn caller() -> Self {
        Self(Location::caller())
    }

    /// The file as the compiler names it.
    pub fn file(&self) -> &'static str {
        self.0.file()
    }

    /// The line, from 1.
    pub fn line(&self) -> u32 {
        self.0.line()
    }
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Where an error arose, once it is known: filled in by the interception point, which knows the
/// user's line where a primitive does not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct At(Option<Site>);

impl At {
    /// The line, where one is known.
    pub fn site(&self) -> Option<Site> {
        self.0
    }
}

impl From<Site> for At {
    fn from(site: Site) -> Self {
        Self(Some(site))
    }
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(site) => write!(f, " (at {site})"),
            None => Ok(()),
        }
    }
}

/// Everything that can go wrong, from shapes that do not fit to tapes that are spent.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Shapes that an op cannot combine.
    #[error("{op}: shapes {shapes:?} do not fit: {reason}{at}")]
    Shape {
        /// The op.
        op: &'static str,
        /// The shapes of its inputs.
        shapes: Vec<Shape>,
        /// What does not fit.
        reason: String,
        /// The user's line.
        at: At,
    },
    /// Element types that an op cannot combine.
    #[error("{op}: element types {dtypes:?} differ; convert one with to_dtype{at}")]
    DTypeMismatch {
        /// The op.
        op: &'static str,
        /// The element types of its inputs.
        dtypes: Vec<DType>,
        /// The user's line.
        at: At,
    },
    /// An element type that an op does not take.
    #[error("{op}: element type {dtype:?} is not supported here; {hint}{at}")]
    UnsupportedDType {
        /// The op.
        op: &'static str,
        /// The element type.
        dtype: DType,
        /// What would work.
        hint: &'static str,
        /// The user's line.
        at: At,
    },
    /// Inputs on different devices.
    #[error("{op}: inputs are on {devices:?}; move them to one device with to_device{at}")]
    DeviceMismatch {
        /// The op.
        op: &'static str,
        /// Where its inputs are.
        devices: Vec<DeviceLocation>,
        /// The user's line.
        at: At,
    },
    /// A device for which an op has no kernel.
    #[error("{op}: no kernel for device {device:?}{at}")]
    UnsupportedDevice {
        /// The op.
        op: &'static str,
        /// The device.
        device: DeviceLocation,
        /// The user's line.
        at: At,
    },
    /// A device without memory for an op's results.
    #[error("{op}: {device:?} has no memory left; free values, use a smaller batch or checkpoint{at}")]
    OutOfMemory {
        /// The op.
        op: &'static str,
        /// The device.
        device: DeviceLocation,
        /// The user's line.
        at: At,
    },
    /// A device that is not there or does not answer: no driver, no such device, a launch that
    /// failed.
    #[error("{op}: the device cannot be used: {reason}{at}")]
    Device {
        /// The op.
        op: &'static str,
        /// What the driver says.
        reason: String,
        /// The user's line.
        at: At,
    },
    /// An argument out of its range: a dimension, an index, a kernel size.
    #[error("{op}: {reason}{at}")]
    InvalidArgument {
        /// The op.
        op: &'static str,
        /// What is wrong with it.
        reason: String,
        /// The user's line.
        at: At,
    },
    /// An op that a mode of differentiation cannot go through.
    #[error("{op}: no {mode} rule: {reason}{at}")]
    UnsupportedMode {
        /// The op.
        op: &'static str,
        /// The mode, as in "forward mode", "batching" or "second order".
        mode: &'static str,
        /// Why, and what to do.
        reason: String,
        /// The user's line.
        at: At,
    },
    /// An integer tensor cannot be a variable: it has no derivative.
    #[error(
        "a tensor of {dtype:?} has no derivative and cannot be a variable; convert it with to_dtype first{at}"
    )]
    NotDifferentiable {
        /// The element type.
        dtype: DType,
        /// The user's line.
        at: At,
    },
    /// A target of several elements needs a seed.
    #[error(
        "the target has shape {shape}, not one element: reduce it, or give a seed with gradient_with{at}"
    )]
    NonScalarTarget {
        /// The target's shape.
        shape: Shape,
        /// The user's line.
        at: At,
    },
    /// A target or source that no tape recorded.
    #[error(
        "the {role} is not recorded on any live tape: compute it from tape.variable(..) and outside no_grad{at}"
    )]
    Untracked {
        /// "target" or "source".
        role: &'static str,
        /// The user's line.
        at: At,
    },
    /// A value of another tape.
    #[error("the {role} belongs to another tape (first variable at {other}){at}")]
    ForeignTape {
        /// "target" or "source".
        role: &'static str,
        /// Where the other tape took its first variable.
        other: Site,
        /// The user's line.
        at: At,
    },
    /// A tape whose nodes were consumed by an earlier gradient.
    #[error(
        "the tape was spent by the gradient at {spent_at}: ask for all gradients in one call, or make the tape persistent(){at}"
    )]
    SpentTape {
        /// The line that consumed it.
        spent_at: Site,
        /// The user's line.
        at: At,
    },
    /// A value whose tape no longer exists.
    #[error("the {role} belongs to a tape that was dropped; keep the tape until its gradients are taken{at}")]
    DroppedTape {
        /// "target" or "source".
        role: &'static str,
        /// The user's line.
        at: At,
    },
    /// A value of a younger transform given to an older tape.
    #[error(
        "level inversion: this tape took its first variable at {tape_at}, before the transform that made the value ({value_at}); make the tape inside that transform{at}"
    )]
    LevelInversion {
        /// Where the tape took its first variable.
        tape_at: Site,
        /// What made the value: a line where it is known.
        value_at: String,
        /// The user's line.
        at: At,
    },
    /// A seed or tangent that does not match its value.
    #[error("{what}: shape {} and type {:?} given, {} and {:?} needed{at}", got.shape, got.dtype, want.shape, want.dtype)]
    Mismatch {
        /// What was given.
        what: &'static str,
        /// Its shape and element type.
        got: Box<Meta>,
        /// The shape and element type that it must have.
        want: Box<Meta>,
        /// The user's line.
        at: At,
    },
    /// A value was read while a function is being captured or batched.
    #[error(
        "the value is being captured or batched and has no numbers of its own yet; compute with select instead of reading it{at}"
    )]
    ReadWhileCapturing {
        /// The user's line.
        at: At,
    },
    /// A source that the target does not depend on, where that was forbidden.
    #[error("the target does not depend on source {index}: {reason}{at}")]
    NoPath {
        /// Which source, from 0.
        index: usize,
        /// What cut the path, where it is known.
        reason: String,
        /// The user's line.
        at: At,
    },
    /// NaN or infinity where a tape looks for them: the op that made them of finite numbers.
    #[error("{op}: {found} in its {pass} pass: {reason}{at}")]
    Anomaly {
        /// The op.
        op: &'static str,
        /// "forward" or "backward".
        pass: &'static str,
        /// What arose, and how often.
        found: String,
        /// What the op was given.
        reason: String,
        /// The user's line on which the op was applied.
        at: At,
    },
    /// An op in place that would need memory of its own, where that was forbidden.
    #[error("{op} in place: {obstacle}{at}")]
    InPlaceCopy {
        /// The op.
        op: &'static str,
        /// Why the memory cannot be reused.
        obstacle: Obstacle,
        /// The user's line.
        at: At,
    },
    /// A candle tensor that an op saved for the backward pass has other numbers now.
    #[error(
        "{op} saved a candle tensor of shape {shape} for its backward pass, and its numbers changed since (Var::set, slice_set or an optimiser step before the gradient?); take the gradient first, or record a copy{at}"
    )]
    MutatedInput {
        /// The op that saved it.
        op: &'static str,
        /// The tensor's shape.
        shape: Shape,
        /// The line of that op.
        at: At,
    },
    /// A long computation that its progress callback ended.
    #[error("{op}: cancelled after {done} of {total} evaluations{at}")]
    Cancelled {
        /// The method.
        op: &'static str,
        /// How many evaluations were done.
        done: usize,
        /// How many there would have been.
        total: usize,
        /// The user's line.
        at: At,
    },
    /// A memory budget that no plan can meet.
    #[error("no plan fits a budget of {budget} bytes: the least possible is {least} bytes{at}")]
    Budget {
        /// The bytes that were allowed.
        budget: usize,
        /// The least that would do.
        least: usize,
        /// The user's line.
        at: At,
    },
    /// A value that could not be moved out of the memory, or back.
    #[error("offload to {place}: {reason}{at}")]
    Offload {
        /// The directory or file.
        place: String,
        /// What went wrong there.
        reason: String,
        /// The user's line.
        at: At,
    },
    /// A tree whose structure is not the one that is needed.
    #[error("{what}: {reason}{at}")]
    TreeMismatch {
        /// What was given.
        what: &'static str,
        /// The first difference.
        reason: String,
        /// The user's line.
        at: At,
    },
    /// A value that a transform handed to its function, used after the function's end.
    #[error(
        "a value of the {transform} at {entered} is used after its end: return it from the function, or detach() it inside{at}"
    )]
    Leaked {
        /// The transform.
        transform: &'static str,
        /// Where the transform was called.
        entered: Site,
        /// The user's line.
        at: At,
    },
    /// An error from candle.
    #[error("candle: {source}{at}")]
    Candle {
        /// What candle said.
        source: Arc<candle_core::Error>,
        /// The user's line.
        at: At,
    },
    /// A broken promise of a primitive: a bug in it, not in the caller.
    #[error("{op}: {reason} (a bug in the op's definition){at}")]
    Internal {
        /// The op.
        op: &'static str,
        /// What was broken.
        reason: String,
        /// The user's line.
        at: At,
    },
    /// An error of the user's own function.
    #[error("{0}")]
    Message(String),
}

impl Error {
    /// An error of the user's own, for closures that return this crate's [`Result`].
    pub fn msg(message: impl fmt::Display) -> Self {
        Self::Message(message.to_string())
    }

    /// Shapes that do not fit.
    pub fn shape(op: &'static str, shapes: &[Shape], reason: impl Into<String>) -> Self {
        Self::Shape { op, shapes: shapes.to_vec(), reason: reason.into(), at: At::default() }
    }

    /// An argument out of range.
    pub fn argument(op: &'static str, reason: impl Into<String>) -> Self {
        Self::InvalidArgument { op, reason: reason.into(), at: At::default() }
    }

    /// A device that cannot be used.
    pub fn device(op: &'static str, reason: impl Into<String>) -> Self {
        Self::Device { op, reason: reason.into(), at: At::default() }
    }

    /// An op that a mode cannot go through.
    pub fn mode(op: &'static str, mode: &'static str, reason: impl Into<String>) -> Self {
        Self::UnsupportedMode { op, mode, reason: reason.into(), at: At::default() }
    }

    /// An element type that an op does not take.
    pub fn dtype(op: &'static str, dtype: DType, hint: &'static str) -> Self {
        Self::UnsupportedDType { op, dtype, hint, at: At::default() }
    }

    /// A bug in a primitive.
    pub fn internal(op: &'static str, reason: impl Into<String>) -> Self {
        Self::Internal { op, reason: reason.into(), at: At::default() }
    }

    /// The user's line, where it is known.
    pub fn site(&self) -> Option<Site> {
        self.at_ref().and_then(At::site)
    }

    /// The same error with the user's line, unless it already has one.
    pub fn or_at(mut self, site: Site) -> Self {
        if let Some(at) = self.at_mut().filter(|at| at.0.is_none()) {
            *at = site.into();
        }
        self
    }

    fn at_ref(&self) -> Option<&At> {
        match self {
            Self::Shape { at, .. }
            | Self::DTypeMismatch { at, .. }
            | Self::UnsupportedDType { at, .. }
            | Self::DeviceMismatch { at, .. }
            | Self::UnsupportedDevice { at, .. }
            | Self::OutOfMemory { at, .. }
            | Self::Device { at, .. }
            | Self::InvalidArgument { at, .. }
            | Self::UnsupportedMode { at, .. }
            | Self::NotDifferentiable { at, .. }
            | Self::NonScalarTarget { at, .. }
            | Self::Untracked { at, .. }
            | Self::ForeignTape { at, .. }
            | Self::SpentTape { at, .. }
            | Self::DroppedTape { at, .. }
            | Self::LevelInversion { at, .. }
            | Self::Mismatch { at, .. }
            | Self::ReadWhileCapturing { at }
            | Self::NoPath { at, .. }
            | Self::Anomaly { at, .. }
            | Self::InPlaceCopy { at, .. }
            | Self::MutatedInput { at, .. }
            | Self::Cancelled { at, .. }
            | Self::Budget { at, .. }
            | Self::Offload { at, .. }
            | Self::TreeMismatch { at, .. }
            | Self::Leaked { at, .. }
            | Self::Candle { at, .. }
            | Self::Internal { at, .. } => Some(at),
            Self::Message(_) => None,
        }
    }

    fn at_mut(&mut self) -> Option<&mut At> {
        match self {
            Self::Shape { at, .. }
            | Self::DTypeMismatch { at, .. }
            | Self::UnsupportedDType { at, .. }
            | Self::DeviceMismatch { at, .. }
            | Self::UnsupportedDevice { at, .. }
            | Self::OutOfMemory { at, .. }
            | Self::Device { at, .. }
            | Self::InvalidArgument { at, .. }
            | Self::UnsupportedMode { at, .. }
            | Self::NotDifferentiable { at, .. }
            | Self::NonScalarTarget { at, .. }
            | Self::Untracked { at, .. }
            | Self::ForeignTape { at, .. }
            | Self::SpentTape { at, .. }
            | Self::DroppedTape { at, .. }
            | Self::LevelInversion { at, .. }
            | Self::Mismatch { at, .. }
            | Self::ReadWhileCapturing { at }
            | Self::NoPath { at, .. }
            | Self::Anomaly { at, .. }
            | Self::InPlaceCopy { at, .. }
            | Self::MutatedInput { at, .. }
            | Self::Cancelled { at, .. }
            | Self::Budget { at, .. }
            | Self::Offload { at, .. }
            | Self::TreeMismatch { at, .. }
            | Self::Leaked { at, .. }
            | Self::Candle { at, .. }
            | Self::Internal { at, .. } => Some(at),
            Self::Message(_) => None,
        }
    }
}

impl From<candle_core::Error> for Error {
    #[track_caller]
    fn from(source: candle_core::Error) -> Self {
        Self::Candle { source: Arc::new(source), at: Site::caller().into() }
    }
}

impl From<Error> for candle_core::Error {
    fn from(error: Error) -> Self {
        candle_core::Error::wrap(error)
    }
}
