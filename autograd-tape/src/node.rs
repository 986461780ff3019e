//! What a tape records.

use autograd_core::smallvec::SmallVec;
use autograd_core::{Mask, Meta, Prim, Residual, Residuals, Rule, Site, TrackedTensor};

/// An output of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Slot {
    pub(crate) node: u32,
    pub(crate) output: u32,
}

/// Where a node found an operand.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Source {
    /// Recorded on this tape.
    Slot(Slot),
    /// A constant to this tape; its meta stands in the record's side table.
    Constant(u32),
}

impl Source {
    pub(crate) fn slot(self) -> Option<Slot> {
        match self {
            Source::Slot(slot) => Some(slot),
            Source::Constant(_) => None,
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// A variable of the user.
    Variable,
    /// An application of an op.
    Apply(Prim),
    /// An application that nobody can reach any more: its residuals are gone.
    Released,
}

/// Values kept for the backward pass, in the order of the rule's residuals.
pub(crate) type Kept = SmallVec<[Option<TrackedTensor>; 2]>;

#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) step: Step,
    pub(crate) inputs: SmallVec<[Source; 2]>,
    pub(crate) outputs: SmallVec<[Meta; 1]>,
    /// Residuals. For a node of a region: the operands that come from outside of the outermost
    /// region around it, and then, where a policy saved them, its outputs and hints.
    pub(crate) kept: Kept,
    pub(crate) site: Site,
    /// The region whose nodes keep no residuals and are replayed; 0 for none.
    pub(crate) region: u32,
    /// Values in the user's hands.
    pub(crate) handles: u32,
    /// Nodes that read this one.
    pub(crate) consumers: u32,
}

impl Node {
    /// A node to be filled.
    #[inline]
    pub(crate) fn empty(site: Site) -> Self {
        Self {
            step: Step::Released,
            inputs: SmallVec::new(),
            outputs: SmallVec::new(),
            kept: Kept::new(),
            site,
            region: 0,
            handles: 0,
            consumers: 0,
        }
    }

    /// The op's name.
    pub(crate) fn name(&self) -> &'static str {
        match &self.step {
            Step::Variable => "variable",
            Step::Apply(op) => op.name(),
            Step::Released => "released",
        }
    }

    /// The inputs whose gradients a recorded application can be asked for.
    pub(crate) fn differentiable(&self) -> Mask {
        match &self.step {
            Step::Apply(op) => differentiable(op.rule(), self.inputs.len())
                .and(Mask::of(self.inputs.len(), |i| self.inputs[i].slot().is_some())),
            Step::Variable | Step::Released => Mask::EMPTY,
        }
    }
}

/// The inputs in which a rule is differentiable at all.
pub(crate) fn differentiable(rule: Rule<'_>, inputs: usize) -> Mask {
    match rule {
        Rule::Pointwise(op) => Mask::of(inputs, |i| !op.definition().masks.has(i)),
        Rule::Linear(mask, _) => mask,
        Rule::Bilinear(a, b, _) => Mask::one(a).with(b),
        Rule::General(_) | Rule::Opaque(_) => Mask::first(inputs),
        Rule::Composite | Rule::Flat => Mask::EMPTY,
    }
}

/// Calls `f` with what the reverse rule of an application reads.
pub(crate) fn with_residuals<R>(
    rule: Rule<'_>,
    wanted: Mask,
    inputs: usize,
    outputs: usize,
    f: impl FnOnce(&[Residual]) -> R,
) -> R {
    match rule {
        Rule::Pointwise(op) => {
            op.expr().reverse(wanted, Mask::first(outputs), |reverse| f(&reverse.residuals))
        }
        Rule::Linear(_, transpose) | Rule::Bilinear(_, _, transpose) => {
            f(&transpose.residuals(wanted, inputs, rule))
        }
        Rule::General(general) => f(&general.residuals(wanted)),
        Rule::Opaque(_) => f(&(0..inputs).map(Residual::Input).collect::<Residuals>()),
        Rule::Composite | Rule::Flat => f(&[]),
    }
}

/// What the reverse rule of an application reads.
pub(crate) fn residuals(rule: Rule<'_>, wanted: Mask, inputs: usize, outputs: usize) -> Residuals {
    with_residuals(rule, wanted, inputs, outputs, Residuals::from_slice)
}
