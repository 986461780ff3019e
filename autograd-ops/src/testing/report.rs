//! What a check found: coverage, gaps, and failures that say where.

use crate::registry::Case;
use autograd_core::{Error, Shape};
use std::fmt;

macro_rules! checks {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// A property that ops are checked for.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum Check {
            $($(#[$doc])* $name,)*
        }

        impl Check {
            /// All checks, in the order in which they run.
            pub const ALL: [Check; [$($text),*].len()] = [$(Check::$name),*];
        }

        impl fmt::Display for Check {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(Check::$name => $text,)* })
            }
        }
    };
}

checks! {
    /// The case runs, and its outputs are finite.
    Values = "values",
    /// Forward mode gives what finite differences give.
    Forward = "forward mode",
    /// Reverse mode gives what finite differences give.
    Reverse = "reverse mode",
    /// ⟨u, Jv⟩ = ⟨Jᵀu, v⟩.
    Adjoint = "adjoint identity",
    /// Reverse over reverse, forward over reverse and reverse over forward agree.
    SecondOrder = "second order",
    /// No op reads a hint of the forward pass at second order.
    Hints = "hints",
    /// Inputs whose gradients nobody wants cost nothing and change nothing.
    Subsets = "wanted subsets",
    /// Kernels give what decompositions give.
    Decomposition = "decomposition",
    /// A batch gives what a loop gives, for values and for gradients.
    Batch = "batch",
    /// Transposed, narrowed and repeated memory gives what contiguous memory gives.
    Layouts = "layouts",
    /// f32 gives what f64 gives, to its precision.
    F32 = "f32",
    /// bf16 gives what f64 gives, to its precision.
    BF16 = "bf16",
    /// f16 gives what f64 gives, to its precision.
    F16 = "f16",
}

/// A check that an op does not support, by its own typed error.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Gap {
    /// The check.
    pub check: Check,
    /// The case.
    pub case: String,
    /// The op's own words.
    pub reason: String,
}

/// What was executed for an op.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Report {
    /// The cases.
    pub cases: usize,
    /// The cases with a tangent that is zero.
    pub flat: usize,
    /// What was not covered.
    pub gaps: Vec<Gap>,
    /// The kernels that the forward pass of the simplest case runs: 0 for a view, 1 for a fused op.
    pub kernels: Option<usize>,
    executed: [usize; Check::ALL.len()],
}

impl Report {
    /// The number of cases on which a check was executed.
    pub fn executed(&self, check: Check) -> usize {
        self.executed[check as usize]
    }

    /// Whether a check was executed on some case, and no case said that it is not supported.
    pub fn is_covered(&self, check: Check) -> bool {
        self.executed(check) > 0 && self.gaps.iter().all(|gap| gap.check != check)
    }

    /// Whether no case has a derivative that is not zero: a flat op, or one without floats to
    /// differentiate.
    pub fn is_flat(&self) -> bool {
        let unknown = self.gaps.iter().any(|gap| gap.check == Check::Forward);
        self.cases > 0 && !unknown && self.flat == self.executed(Check::Forward)
    }

    pub(crate) fn of_one_case() -> Self {
        Self { cases: 1, ..Self::default() }
    }

    pub(crate) fn count(&mut self, check: Check) {
        self.executed[check as usize] += 1;
    }

    pub(crate) fn gap(&mut self, check: Check, case: &Case, error: &Error) {
        self.gaps.push(Gap { check, case: case.label.clone(), reason: error.to_string() });
    }

    /// Adds what was executed for another case of the op.
    pub fn add(&mut self, other: Self) {
        self.cases += other.cases;
        self.flat += other.flat;
        self.gaps.extend(other.gaps);
        self.kernels = [self.kernels, other.kernels].into_iter().flatten().min();
        for (sum, n) in self.executed.iter_mut().zip(other.executed) {
            *sum += n;
        }
    }
}

/// A check that an op does not pass.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Failure {
    /// The op.
    pub op: &'static str,
    /// The case.
    pub case: String,
    /// The check.
    pub check: Check,
    /// What was compared, as in "gradient of input 1, forward over reverse".
    pub place: String,
    /// What was wrong with it.
    pub reason: Reason,
}

/// How something was wrong.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Reason {
    /// Two numbers that should agree.
    Differs {
        /// The position in row-major order.
        index: usize,
        /// The number that was checked.
        got: f64,
        /// The number that it should be.
        want: f64,
        /// How far apart they may be.
        tolerance: f64,
    },
    /// A shape that does not fit.
    Shape {
        /// The shape that came.
        got: Box<Shape>,
        /// The shape that it should be.
        want: Box<Shape>,
    },
    /// An error.
    Error(Box<Error>),
    /// Something else, in words.
    Broken(String),
}

impl Failure {
    pub(crate) fn new(op: &'static str, case: &Case, check: Check, stop: Stop) -> Self {
        let (place, reason) = match stop {
            Stop::Error(error) => (String::from("the application"), Reason::Error(Box::new(error))),
            Stop::Wrong(place, reason) => (place, reason),
        };
        Self { op, case: case.label.clone(), check, place, reason }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { op, case, check, place, reason } = self;
        write!(f, "{op}, case '{case}', {check}: {place}")?;
        match reason {
            Reason::Differs { index, got, want, tolerance } => {
                let off = (got - want).abs();
                write!(f, "[{index}] is {got:e}, not {want:e} (off by {off:.1e}, allowed {tolerance:.1e})")
            }
            Reason::Shape { got, want } => write!(f, " has shape {got}, not {want}"),
            Reason::Error(error) => write!(f, " failed: {error}"),
            Reason::Broken(words) => write!(f, " {words}"),
        }
    }
}

impl std::error::Error for Failure {}

/// Why a check ended early.
pub(crate) enum Stop {
    /// Something reported an error; it may say that a mode is not supported.
    Error(Error),
    /// A comparison failed.
    Wrong(String, Reason),
}

impl Stop {
    /// Something that is wrong beyond numbers.
    pub(crate) fn broken(place: &str, words: impl Into<String>) -> Self {
        Self::Wrong(place.to_owned(), Reason::Broken(words.into()))
    }
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}
