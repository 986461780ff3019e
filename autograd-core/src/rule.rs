//! The shapes that differentiation rules have. Interpreters match on them and never on ops.

use crate::error::{Error, Result};
use crate::mask::Mask;
use crate::meta::Meta;
use crate::pointwise::Pointwise;
use crate::tracer::Values;
use crate::value::TrackedTensor;
use smallvec::SmallVec;
use std::fmt::Debug;

/// How an op is differentiated.
///
/// The list is closed: interpreters handle every shape, without a wildcard arm.
#[derive(Clone, Copy, Debug)]
pub enum Rule<'a> {
    /// The op is a scalar expression; its partials are expressions too.
    Pointwise(&'a Pointwise),
    /// Linear, jointly, in the inputs of the mask.
    Linear(Mask, &'a dyn Transpose),
    /// Linear in each of two inputs, with the other held.
    Bilinear(usize, usize, &'a dyn Transpose),
    /// Its own rules.
    General(&'a dyn General),
    /// Nothing but its decomposition: levels that differentiate inline it.
    Composite,
    /// Zero almost everywhere: outputs leave the level.
    Flat,
    /// A user's function on candle tensors, differentiable once in reverse.
    Opaque(&'a dyn Opaque),
}

/// What a reverse rule reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Residual {
    /// An input.
    Input(usize),
    /// An output.
    Output(usize),
    /// An auxiliary output: a hint, absent where the levels below could not give it.
    Aux(usize),
}

/// The residuals that a rule reads.
pub type Residuals = SmallVec<[Residual; 4]>;

/// Cotangents, one for each output; `None` is zero.
pub type Cotangents = SmallVec<[Option<TrackedTensor>; 2]>;

/// What a reverse rule gives: one cotangent for each input; `None` is zero or unwanted.
pub type Grads = SmallVec<[Option<TrackedTensor>; 2]>;

/// The residuals of one application, and the metas of all its inputs and outputs.
#[derive(Debug)]
pub struct Saved<'a> {
    /// The op's name, for errors.
    pub op: &'static str,
    /// What each of [`values`](Self::values) is.
    pub residuals: &'a [Residual],
    /// The residuals, in the same order; an absent hint is `None`.
    pub values: &'a [Option<TrackedTensor>],
    /// The inputs' metas.
    pub inputs: &'a [Meta],
    /// The outputs' metas.
    pub outputs: &'a [Meta],
}

impl Saved<'_> {
    fn find(&self, residual: Residual) -> Option<&TrackedTensor> {
        let at = self.residuals.iter().position(|r| *r == residual)?;
        self.values.get(at)?.as_ref()
    }

    fn need(&self, residual: Residual) -> Result<&TrackedTensor> {
        self.find(residual).ok_or_else(|| {
            Error::internal(self.op, format!("its rule reads {residual:?}, which it does not declare"))
        })
    }

    /// Input `i`.
    ///
    /// # Errors
    /// [`Error::Internal`] where the rule did not declare it.
    pub fn input(&self, i: usize) -> Result<&TrackedTensor> {
        self.need(Residual::Input(i))
    }

    /// Output `j`.
    ///
    /// # Errors
    /// [`Error::Internal`] where the rule did not declare it.
    pub fn output(&self, j: usize) -> Result<&TrackedTensor> {
        self.need(Residual::Output(j))
    }

    /// The hint `k`, where it is there.
    pub fn aux(&self, k: usize) -> Option<&TrackedTensor> {
        self.find(Residual::Aux(k))
    }
}

/// The transpose of a linear op.
pub trait Transpose: Debug {
    /// What the transpose reads. By default the inputs in which the op is not linear, and for a
    /// bilinear op the partner of each wanted input.
    fn residuals(&self, wanted: Mask, inputs: usize, rule: Rule<'_>) -> Residuals {
        match rule {
            Rule::Bilinear(a, b, _) => (0..inputs)
                .filter(|&i| (i != a && i != b) || (i == a && wanted.has(b)) || (i == b && wanted.has(a)))
                .map(Residual::Input)
                .collect(),
            Rule::Linear(linear, _) => (0..inputs).filter(|&i| !linear.has(i)).map(Residual::Input).collect(),
            Rule::Pointwise(_) | Rule::General(_) | Rule::Composite | Rule::Flat | Rule::Opaque(_) => {
                Residuals::new()
            }
        }
    }

    /// The cotangent of each wanted input, from those of the outputs.
    ///
    /// # Errors
    /// Whatever the ops that it applies report.
    fn transpose(&self, wanted: Mask, cts: &[Option<TrackedTensor>], saved: &Saved<'_>) -> Result<Grads>;
}

/// Rules of an op that is neither an expression nor linear.
pub trait General: Debug {
    /// What [`vjp`](Self::vjp) reads when these inputs are wanted. Hints (`Aux`) may be read by
    /// fused kernels only, never by anything that is differentiated.
    fn residuals(&self, wanted: Mask) -> Residuals;

    /// vᵀJ: the cotangent of each wanted input.
    ///
    /// # Errors
    /// Whatever the ops that it applies report.
    fn vjp(&self, wanted: Mask, cts: &[Option<TrackedTensor>], saved: &Saved<'_>) -> Result<Grads>;

    /// Jv: the tangent of each output, `None` for zero. By default by decomposition, which is
    /// what `Ok(None)` asks for.
    ///
    /// # Errors
    /// Whatever the ops that it applies report.
    fn jvp(
        &self,
        inputs: &[&TrackedTensor],
        outputs: &[TrackedTensor],
        tangents: &[Option<TrackedTensor>],
    ) -> Result<Option<SmallVec<[Option<TrackedTensor>; 2]>>> {
        let _ = (inputs, outputs, tangents);
        Ok(None)
    }
}

/// A function on numbers that no level can look into.
pub trait Opaque: Debug {
    /// The outputs, computed from plain inputs.
    ///
    /// # Errors
    /// Whatever the user's function reports.
    fn forward(&self, inputs: &[&TrackedTensor]) -> Result<Values>;

    /// The cotangent of each input. First order only: the result must say so when it is
    /// differentiated again.
    ///
    /// # Errors
    /// Whatever the user's function reports, or [`Error::UnsupportedMode`] where there is no rule.
    fn backward(&self, wanted: Mask, ct: &TrackedTensor, inputs: &[&TrackedTensor]) -> Result<Grads>;
}
