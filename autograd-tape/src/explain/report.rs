//! What `explain` says.

use autograd_core::{Cut, Shape, Site};
use std::fmt;
use std::sync::Arc;

/// What a gradient is.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Verdict {
    /// It is there.
    Flows {
        /// Its norm.
        norm: f64,
    },
    /// There is a path, and every number is 0.
    Zero,
    /// Some numbers are NaN or infinite.
    NotFinite {
        /// How many are NaN.
        nans: usize,
        /// How many are infinite.
        infinities: usize,
    },
    /// There is no path from the target to the source.
    Missing,
}

/// A node of the tape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Place {
    /// Its number.
    pub node: usize,
    /// The op.
    pub op: &'static str,
    /// The user's line.
    pub site: Site,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "%{} {} at {}", self.node, self.op, self.site)
    }
}

/// Why a gradient is zero, missing or not a number.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Cause {
    /// An operand on the way is a constant whose numbers lie behind a cut: detached, made by a flat
    /// op, computed while the tape was paused, or a value of a spent or dropped tape.
    Cut {
        /// The cut, with its op and line.
        cut: Arc<Cut>,
        /// Who reads the constant.
        reader: Place,
        /// As which operand.
        operand: usize,
    },
    /// The plain value that the source was made of was used in its place.
    PlainUsed {
        /// Who reads it.
        reader: Place,
        /// As which operand.
        operand: usize,
    },
    /// An operand is a tensor from candle: what candle computed is not on the tape.
    FromCandle {
        /// Who reads it.
        reader: Place,
        /// As which operand.
        operand: usize,
    },
    /// The target or the source is not on this tape.
    Untracked {
        /// "target" or "source".
        role: &'static str,
        /// The cut behind which it lies, where one is known.
        cut: Option<Arc<Cut>>,
    },
    /// The tape was spent before it was asked.
    Spent {
        /// The line that spent it.
        at: Site,
    },
    /// The source was made after the target.
    Later {
        /// The source.
        source: Place,
    },
    /// Nothing that the target was computed from has to do with the source.
    Unrelated,
    /// The backward pass of an opaque op (a `CustomOp`, a candle model) gives zeros: candle's ops
    /// without a gradient drop it silently.
    Opaque {
        /// The op.
        at: Place,
    },
    /// A factor is 0 everywhere.
    TimesZero {
        /// The op.
        at: Place,
        /// Which operand is 0.
        operand: usize,
    },
    /// The derivative of an op is 0 at every element: a saturated activation, a dead unit.
    Saturated {
        /// The op.
        at: Place,
        /// Where the numbers lie that its derivative reads.
        range: String,
    },
    /// The derivative is not 0 everywhere, but it is wherever a gradient arrives; or their product is
    /// too small for the type.
    Missed {
        /// The op.
        at: Place,
        /// At how many elements the derivative is not 0.
        alive: usize,
        /// Of how many.
        of: usize,
    },
    /// An op that selects or moves elements passes none of those that a gradient arrives for.
    Blocked {
        /// The op.
        at: Place,
    },
    /// Contributions that are not 0 add up to 0.
    Cancelled {
        /// The value to which they were sent.
        at: Place,
    },
    /// A rule made NaN or infinity of a finite cotangent.
    NotFinite {
        /// The op.
        at: Place,
        /// What it was given.
        reason: String,
    },
}

impl Cause {
    /// The node to blame, where it is one.
    pub fn place(&self) -> Option<Place> {
        match self {
            Cause::Cut { reader, .. }
            | Cause::PlainUsed { reader, .. }
            | Cause::FromCandle { reader, .. } => Some(*reader),
            Cause::Opaque { at }
            | Cause::TimesZero { at, .. }
            | Cause::Saturated { at, .. }
            | Cause::Missed { at, .. }
            | Cause::Blocked { at }
            | Cause::Cancelled { at }
            | Cause::NotFinite { at, .. } => Some(*at),
            Cause::Later { source } => Some(*source),
            Cause::Untracked { .. } | Cause::Spent { .. } | Cause::Unrelated => None,
        }
    }
}

fn behind(f: &mut fmt::Formatter<'_>, cut: &Cut) -> fmt::Result {
    write!(f, "{} ({} at {})", cut.kind, cut.op, cut.site)
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cause::Cut { cut, reader, operand } => {
                write!(f, "operand {operand} of {reader} is a constant: ")?;
                behind(f, cut)
            }
            Cause::PlainUsed { reader, operand } => {
                write!(f, "operand {operand} of {reader} is the plain value that the source was made of: ")?;
                write!(f, "use what tape.variable(..) returned")
            }
            Cause::FromCandle { reader, operand } => {
                write!(f, "operand {operand} of {reader} is a tensor from candle: ")?;
                write!(f, "what candle computed from the source is not on the tape")
            }
            Cause::Untracked { role, cut: Some(cut) } => {
                write!(f, "the {role} is not on this tape: it was ")?;
                behind(f, cut)
            }
            Cause::Untracked { role, cut: None } => {
                write!(
                    f,
                    "the {role} is not on this tape: nothing that it is computed from is a variable of it"
                )
            }
            Cause::Spent { at } => {
                write!(
                    f,
                    "the tape was spent by the gradient at {at}: ask before it, or make it persistent()"
                )
            }
            Cause::Later { source } => write!(f, "the source was made after the target: {source}"),
            Cause::Unrelated => write!(f, "nothing that the target is computed from depends on the source"),
            Cause::Opaque { at } => {
                write!(f, "the backward pass of {at} gives zeros: ops of candle without a gradient drop it")
            }
            Cause::TimesZero { at, operand } => {
                write!(f, "operand {operand} of {at} is 0 everywhere, and the gradient is multiplied by it")
            }
            Cause::Saturated { at, range } => {
                write!(f, "the derivative of {at} is 0 at every element: {range}")
            }
            Cause::Missed { at, alive, of } => {
                write!(f, "the derivative of {at} is not 0 at {alive} of {of} elements, but there the ")?;
                write!(f, "gradient that arrives is 0, or their product too small for the type")
            }
            Cause::Blocked { at } => {
                write!(
                    f,
                    "{at} passes nothing on: the elements for which a gradient arrives are not the source's"
                )
            }
            Cause::Cancelled { at } => write!(f, "the contributions to {at} add up to 0"),
            Cause::NotFinite { at, reason } => write!(f, "{at}: {reason}"),
        }
    }
}

/// A node on the way from the target to the source.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct PathStep {
    /// Its number.
    pub node: usize,
    /// The op, or "variable".
    pub op: &'static str,
    /// The name that [`tap`](autograd_core::tap) gave it.
    pub label: Option<String>,
    /// The user's line.
    pub site: Site,
    /// The shape of its (first) output.
    pub shape: Shape,
    /// The norm of the gradient with respect to it, where there is one.
    pub norm: Option<f64>,
}

/// The answer of [`GradientTape::explain`](crate::GradientTape::explain).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Explanation {
    /// What the gradient is.
    pub verdict: Verdict,
    /// Why, the cause closest to the target first; nothing where the gradient flows.
    pub causes: Vec<Cause>,
    /// The way from the target to the source, through the first cause. Where the path is cut, both
    /// of its parts follow one another.
    pub path: Vec<PathStep>,
}

impl Explanation {
    pub(super) fn missing(cause: Cause) -> Self {
        Self { verdict: Verdict::Missing, causes: vec![cause], path: Vec::new() }
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.verdict {
            Verdict::Flows { norm } => writeln!(f, "the gradient is there: its norm is {norm:e}")?,
            Verdict::Zero => writeln!(f, "the gradient is zero")?,
            Verdict::NotFinite { nans, infinities } => {
                writeln!(f, "the gradient has {nans} NaN and {infinities} infinities")?;
            }
            Verdict::Missing => writeln!(f, "the target does not depend on the source")?,
        }
        for cause in &self.causes {
            writeln!(f, "  because {cause}")?;
        }
        if !self.path.is_empty() {
            writeln!(f, "  from the target to the source:")?;
        }
        for step in &self.path {
            write!(f, "    %{} {} {}", step.node, step.op, step.shape)?;
            if let Some(label) = &step.label {
                write!(f, " {label:?}")?;
            }
            if let Some(norm) = step.norm {
                write!(f, "  |gradient| {norm:.3e}")?;
            }
            writeln!(f, "  ; {}", step.site)?;
        }
        Ok(())
    }
}
