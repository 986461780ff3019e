//! Primitives: the ops that levels see. Open over ops, closed over rule shapes.

use crate::device::{KernelCall, Tensors};
use crate::error::{Error, Result};
use crate::mask::Mask;
use crate::meta::Meta;
use crate::pointwise::{Pointwise, ReducedPointwise};
use crate::rule::Rule;
use crate::saved::SavedOp;
use crate::tracer::Values;
use crate::value::TrackedTensor;
use autograd_kernels::machine::Epilogue;
use autograd_kernels::{Layout, Shape, SliceMut, View};
use candle_core::Tensor;
use smallvec::SmallVec;
use std::any::Any;
use std::fmt::Debug;
use std::ops::Deref;
use std::sync::Arc;

/// What an op makes of inputs: its outputs, and the auxiliary outputs that it can give on demand.
#[derive(Clone, Debug, Default)]
pub struct Signature {
    /// The outputs.
    pub outputs: SmallVec<[Meta; 1]>,
    /// Auxiliary outputs (a row's mean, a logsumexp, indices): hints that a fused rule can read.
    pub aux: SmallVec<[Meta; 1]>,
}

impl Signature {
    /// One output and nothing else.
    pub fn one(output: Meta) -> Self {
        let mut outputs = SmallVec::new();
        outputs.push(output);
        Self { outputs, aux: SmallVec::new() }
    }
}

/// A sum over some dimensions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SumOver {
    /// The input's shape with extent 1 where it is summed.
    pub kept: Shape,
    /// What the sum is multiplied with: 1, or 1/n for a mean.
    pub scale: f64,
}

/// How an op treats the first dimension of its inputs; see [`Primitive::by_rows`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ByRows {
    /// The inputs that every row reads whole. The first extent of all others is the number of rows.
    pub whole: Mask,
    /// The outputs, auxiliary ones counted behind the others, that are sums over the rows. The
    /// first extent of all others is the number of rows.
    pub summed: Mask,
}

/// How often an op finishes a part of its output, where an expression is evaluated on each part that is
/// finished; see [`Primitive::finishes`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finishes {
    /// Once: what the expression reads may be written over by it.
    Once,
    /// Where numbers ask for it, again: then the expression reads all that it has read before.
    Repeatedly,
}

/// An operation that levels can see.
///
/// A primitive is data: its parameters, and what follows from them. It never holds a tracked
/// value; what it would capture is an input. Parameters print in full through `Debug`, since
/// [`key`](Self::key) compares ops by it.
pub trait Primitive: Debug + Send + Sync + 'static {
    /// The op's name, as users type it.
    fn name(&self) -> &'static str;

    /// What makes two applications the same op: name and all parameters.
    fn key(&self) -> String {
        format!("{}:{self:?}", self.name())
    }

    /// The name that the user gave this one application, by [`tap`](crate::tap).
    fn label(&self) -> Option<&str> {
        None
    }

    /// The op in a form that can be kept: `Prim::Static(&Op)` where it has no parameters,
    /// `Prim::Shared` of a clone otherwise.
    fn keep(&self) -> Prim;

    /// Shapes, types and devices of the outputs.
    ///
    /// # Errors
    /// An error that names the op where the inputs do not fit.
    fn infer(&self, inputs: &[Meta]) -> Result<Signature>;

    /// The output as a rearrangement of one input's memory: that input and the layout, or `None`
    /// where elements must be computed or moved.
    fn view(&self, output: &Meta, inputs: &[&Layout]) -> Option<(usize, Layout)> {
        let _ = (output, inputs);
        None
    }

    /// The same for an op of one input that checks its parameters against the layout here: the
    /// evaluator's short way past [`infer`](Self::infer). `None` where they do not fit, too.
    fn rearranged(&self, input: &Layout) -> Option<Layout> {
        let _ = input;
        None
    }

    /// The op as a scalar expression, whatever its rule: the evaluator has a short way for those.
    fn as_pointwise(&self) -> Option<&Pointwise> {
        None
    }

    /// The op as an expression whose outputs are summed, where it is one: graphs fuse those.
    fn as_reduced_pointwise(&self) -> Option<&ReducedPointwise> {
        None
    }

    /// The op as a sum of its one input, where it is one: graphs fuse sums into what they sum.
    fn as_sum(&self, input: &Meta) -> Option<SumOver> {
        let _ = input;
        None
    }

    /// Whether rows, the indices of the first dimension, do not depend on each other: evaluated on
    /// some of the rows of its inputs the op gives those rows of its outputs, or terms of sums over
    /// the rows. Static graphs evaluate a run of such ops on a few rows at a time, which stay in the
    /// cache.
    fn by_rows(&self, inputs: &[Meta]) -> Option<ByRows> {
        let _ = inputs;
        None
    }

    /// Whether the op is a product of two inputs with a third one added to it, whose decomposition is
    /// a [`Bilinear`](Rule::Bilinear) op and a sum: policies keep it as they keep products, and who
    /// looks for products takes it apart.
    fn is_affine(&self) -> bool {
        false
    }

    /// The op itself, for who made it to recognise it: a static graph its fused ops. `None` for
    /// ops that nobody has to recognise.
    fn as_any(&self) -> Option<&dyn Any> {
        None
    }

    /// What makes the op again from data; `None` where nothing does (a user's closure), so that a
    /// program with it cannot be stored.
    fn saved(&self) -> Option<SavedOp> {
        None
    }

    /// How many floating-point operations an application takes, about: what cost models and
    /// `explain` count. By default one for each element of the largest input.
    fn operations(&self, inputs: &[Meta]) -> u64 {
        inputs.iter().map(|x| x.elements() as u64).max().unwrap_or(0)
    }

    /// Bytes that [`eval_into`](Self::eval_into) takes from the buffer pool beyond its outputs.
    fn scratch(&self, inputs: &[Meta]) -> usize {
        let _ = inputs;
        0
    }

    /// Whether an output may be written over an input of the same size while it is computed.
    fn may_alias(&self, input: usize, output: usize) -> bool {
        let _ = (input, output);
        false
    }

    /// Computes the outputs, and the auxiliary ones after them where there is room for them.
    /// This is the only evaluation: eager mode and static graphs share it.
    ///
    /// # Errors
    /// Values that the op cannot take (an index out of range), or a type without a kernel.
    fn eval_into(&self, inputs: &[View<'_>], outputs: &mut [SliceMut<'_>]) -> Result<()>;

    /// Whether an expression that follows can be evaluated on each part of the only output while that is
    /// in a cache, by [`eval_then`](Self::eval_then). Static graphs ask products and convolutions.
    fn finishes(&self, inputs: &[Meta]) -> Option<Finishes> {
        let _ = inputs;
        None
    }

    /// Computes the only output in the home of an epilogue, whose expression is evaluated on each part as
    /// soon as it is finished.
    ///
    /// # Errors
    /// As [`eval_into`](Self::eval_into); an op that [finishes](Self::finishes) nothing.
    fn eval_then(&self, inputs: &[View<'_>], then: Epilogue<'_>) -> Result<()> {
        let _ = (inputs, then);
        Err(Error::internal(self.name(), "it has no parts that an expression could follow"))
    }

    /// The outputs by candle's ops, on the device of the inputs; `None` where the op says nothing:
    /// its expression, view or decomposition is taken. See [`device`](crate::device).
    ///
    /// # Errors
    /// What candle reports, and values that the op cannot take.
    fn eval_candle(&self, inputs: &[Tensor]) -> Result<Option<Tensors>> {
        let _ = inputs;
        Ok(None)
    }

    /// What a device's own kernels are asked for in the op's place, where a crate may have
    /// [installed](crate::device::install) some.
    fn kernel(&self) -> Option<KernelCall> {
        None
    }

    /// Whether values on a device are moved to the host for this op, for want of another way.
    fn on_host(&self) -> bool {
        false
    }

    /// The op as a run of other ops, for one that holds a program: evaluators prefer it to
    /// [`eval_into`](Self::eval_into), which must then be [`eval_composed`](crate::eval_composed).
    fn composed(&self) -> Option<&dyn Composed> {
        None
    }

    /// Computes the only output over the first input, whose elements lie in `x` in row-major
    /// order and have the shape and type of the output. `Ok(false)`: there is no way to, and
    /// nothing was written. What can fail is checked before the first write.
    ///
    /// # Errors
    /// As [`eval_into`](Self::eval_into).
    fn eval_over(&self, x: SliceMut<'_>, shape: &Shape, rest: &[View<'_>]) -> Result<bool> {
        let _ = (x, shape, rest);
        Ok(false)
    }

    /// How to differentiate it.
    fn rule(&self) -> Rule<'_>;

    /// Applies the op to inputs of which those in `batched` carry a batch dimension of extent
    /// `size` in front; every output carries it in front. `None`: by decomposition.
    ///
    /// # Errors
    /// Whatever the ops that it applies report.
    fn batch(&self, batched: Mask, inputs: &[&TrackedTensor], size: usize) -> Result<Option<Values>> {
        let _ = (batched, inputs, size);
        Ok(None)
    }

    /// The op said in Pointwise, Linear and Bilinear terms; `None` for an op of those shapes.
    ///
    /// # Errors
    /// Whatever the ops that it applies report.
    fn decompose(&self, inputs: &[&TrackedTensor]) -> Result<Option<Values>> {
        let _ = inputs;
        Ok(None)
    }
}

/// An op that is evaluated by other ops: a loop, a function with a rule of its own.
pub trait Composed {
    /// The outputs, from values that nobody watches.
    ///
    /// # Errors
    /// Whatever the ops that it applies report.
    fn run(&self, inputs: &[&TrackedTensor]) -> Result<Values>;
}

/// A primitive to keep: recorded on a tape or in a program.
#[derive(Clone, Debug)]
pub enum Prim {
    /// An op without parameters.
    Static(&'static dyn Primitive),
    /// An op with parameters.
    Shared(Arc<dyn Primitive>),
    /// A scalar expression, kept inline: the most frequent shape.
    Pointwise(Pointwise),
}

impl Deref for Prim {
    type Target = dyn Primitive;

    fn deref(&self) -> &Self::Target {
        match self {
            Prim::Static(op) => *op,
            Prim::Shared(op) => &**op,
            Prim::Pointwise(op) => op,
        }
    }
}
