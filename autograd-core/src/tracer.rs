//! What it takes to watch values.

use crate::error::{Error, Result, Site};
use crate::in_place::{Obstacle, Rewrite, Rewritten};
use crate::level::Level;
use crate::primitive::Primitive;
use crate::provenance::CutKind;
use crate::value::TrackedTensor;
use autograd_kernels::Shape;
use candle_core::{DType, DeviceLocation};
use smallvec::SmallVec;
use std::any::Any;
use std::fmt::Debug;

/// A few values: the outputs of an op. Most ops have one.
pub type Values = SmallVec<[TrackedTensor; 2]>;

/// One application of an op, on its way through the levels.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// The op.
    pub op: &'a dyn Primitive,
    /// Its inputs. None of them is silent, and the highest level among them is the handler's.
    pub inputs: &'a [&'a TrackedTensor],
    /// Whether the op's auxiliary outputs are wanted.
    pub aux: bool,
    /// The user's line.
    pub site: Site,
}

/// The output of an op that has one.
pub(crate) fn only(op: &dyn Primitive, outputs: Values) -> Result<TrackedTensor> {
    outputs.into_iter().next().ok_or_else(|| Error::internal(op.name(), "it has no output"))
}

/// What an application gives: outputs, and auxiliary outputs where they were wanted and the
/// levels below could give them.
#[derive(Clone, Debug, Default)]
pub struct Applied {
    /// The outputs.
    pub outputs: Values,
    /// Hints for fused rules, never tracked by the level that passes them on; either all or none.
    pub aux: Values,
}

/// A watched value: a tape's, a dual's, a batch's or a captured one.
///
/// Invariant: the values inside a tracer have lower levels than the tracer.
pub trait Tracer: Any + Debug + Send + Sync {
    /// The level of the transform that watches.
    fn level(&self) -> Level;

    /// The shape that the user sees.
    fn shape(&self) -> &Shape;

    /// The element type.
    fn dtype(&self) -> DType;

    /// Where the elements are.
    fn device(&self) -> DeviceLocation;

    /// The value one level below, which holds the numbers; `None` where there are none (a graph
    /// being captured) or where they do not have the value's shape (a batch).
    fn lower(&self) -> Option<&TrackedTensor>;

    /// Whether the transform still watches: a spent tape does not, nor one that is paused on this
    /// thread. A silent value's [`lower`](Self::lower) stands for it.
    fn is_active(&self) -> bool {
        true
    }

    /// Applies an op of which at least one input is of this level and none is of a higher one;
    /// inputs of lower levels are constants to it.
    ///
    /// # Errors
    /// Whatever the op or the levels below report.
    fn process(&self, call: &Call<'_>) -> Result<Applied>;

    /// The same for an op of one output, of which no hints are wanted: the way of most ops, where a
    /// level may do without lists. By default [`process`](Self::process).
    ///
    /// # Errors
    /// As [`process`](Self::process).
    fn process_one(&self, call: &Call<'_>) -> Result<TrackedTensor> {
        only(call.op, self.process(call)?.outputs)
    }

    /// A plain value that a function made for this one, a number for all elements, as the level
    /// sees it: a graph being captured makes a constant of it, so that what is computed from it
    /// and closed-over values is recorded and not evaluated. By default what the level below says.
    fn constant(&self, plain: TrackedTensor) -> TrackedTensor {
        match self.lower().and_then(TrackedTensor::tracer) {
            Some(tracer) => tracer.constant(plain),
            None => plain,
        }
    }

    /// The value beneath all levels where a program is being captured, to be run later in an order
    /// that passes choose; `None` where ops are evaluated as they are applied. By default what the
    /// level below says.
    fn captured(&self) -> Option<TrackedTensor> {
        self.lower().and_then(TrackedTensor::tracer).and_then(|tracer| tracer.captured())
    }

    /// The transform's own number for the value, where it has one: what a cut is remembered by.
    fn number(&self) -> Option<usize> {
        None
    }

    /// Why the transform does not watch the value now; `None` while it does.
    fn silence(&self) -> Option<CutKind> {
        None
    }

    /// Applies an op whose first input is this value, which nobody else holds, and binds the value
    /// to the result, reusing the memory below where nothing needs its old content. The other
    /// inputs are of this level or lower ones. The default declines: the op is applied as any other.
    ///
    /// # Errors
    /// Whatever the op or the levels below report; the value is then as it was.
    fn process_in_place(&mut self, call: &Rewrite<'_>) -> Result<Rewritten> {
        let _ = call;
        Ok(Rewritten::Declined(Obstacle::OtherMode))
    }

    /// This tracer, to be recognised by the transform that made it.
    fn as_any(&self) -> &dyn Any;
}
