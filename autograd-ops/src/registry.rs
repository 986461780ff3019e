//! The registry: every op with the cases that check it. An op that is not here does not exist.

use autograd_core::{Result, TrackedTensor};
use std::fmt;

/// The kinds of ops, as the documentation groups them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// Arithmetic and elementary functions of each element.
    Elementwise,
    /// Activations.
    Activation,
    /// Matrix products and their relatives.
    Matrix,
    /// Rearrangements and indexing.
    Shape,
    /// Reductions.
    Reduction,
    /// Convolutions, pooling, norms, attention.
    Neural,
    /// Losses.
    Loss,
    /// Linear algebra.
    LinearAlgebra,
    /// Fourier transforms.
    Fourier,
    /// Loops, custom rules, and the identity with another derivative.
    Control,
}

/// An op of the registry.
#[derive(Clone, Copy)]
pub struct Op {
    /// Its name: the method's.
    pub name: &'static str,
    /// Its family.
    pub family: Family,
    /// Its formula, with shapes and the convention at kinks.
    pub formula: &'static str,
    /// Sample applications: several shapes and parameter sets each.
    pub cases: fn() -> Vec<Case>,
}

impl fmt::Debug for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Op({}, {:?})", self.name, self.family)
    }
}

/// An input of a case: how to draw it.
#[derive(Clone, Debug)]
pub enum Sample {
    /// Floats of this shape, uniform between the bounds.
    Float {
        /// The shape.
        dims: Vec<usize>,
        /// Bounds that keep clear of the op's kinks and poles.
        range: (f64, f64),
    },
    /// Floats of this shape, all different and at least 0.02 apart: for ops that compare.
    Distinct {
        /// The shape.
        dims: Vec<usize>,
    },
    /// Given floats of this shape, never to be moved: an edge.
    Exact {
        /// The shape.
        dims: Vec<usize>,
        /// The numbers.
        values: Vec<f64>,
    },
    /// Whole numbers of type u32 below a bound.
    Index {
        /// The shape.
        dims: Vec<usize>,
        /// All are below it.
        bound: u32,
    },
    /// Bytes that are 0 or 1.
    Mask {
        /// The shape.
        dims: Vec<usize>,
    },
}

impl Sample {
    /// Floats of a shape, uniform between −1.5 and 1.5.
    pub fn float(dims: &[usize]) -> Self {
        Self::between(dims, -1.5, 1.5)
    }

    /// Floats of a shape, uniform between two bounds.
    pub fn between(dims: &[usize], low: f64, high: f64) -> Self {
        Self::Float { dims: dims.to_vec(), range: (low, high) }
    }

    /// Floats of a shape that differ.
    pub fn distinct(dims: &[usize]) -> Self {
        Self::Distinct { dims: dims.to_vec() }
    }

    /// Whole numbers of a shape.
    pub fn index(dims: &[usize], bound: u32) -> Self {
        Self::Index { dims: dims.to_vec(), bound }
    }

    /// A mask of a shape.
    pub fn mask(dims: &[usize]) -> Self {
        Self::Mask { dims: dims.to_vec() }
    }

    /// The shape.
    pub fn dims(&self) -> &[usize] {
        match self {
            Sample::Float { dims, .. }
            | Sample::Distinct { dims }
            | Sample::Exact { dims, .. }
            | Sample::Index { dims, .. }
            | Sample::Mask { dims } => dims,
        }
    }

    /// Whether it is of a float type.
    pub fn is_float(&self) -> bool {
        matches!(self, Sample::Float { .. } | Sample::Distinct { .. } | Sample::Exact { .. })
    }
}

/// A function on values, as a case runs it.
pub type Run = Box<dyn Fn(&[TrackedTensor]) -> Result<Vec<TrackedTensor>> + Send + Sync>;

/// An application of an op to sample inputs.
pub struct Case {
    /// What is particular about it.
    pub label: String,
    /// Its inputs.
    pub inputs: Vec<Sample>,
    /// The application.
    pub run: Run,
    /// Whether finite differences mean something there (not for flat ops and at kinks).
    pub smooth: bool,
}

impl Case {
    /// An application with one output.
    pub fn new(
        label: &str,
        inputs: Vec<Sample>,
        run: impl Fn(&[TrackedTensor]) -> Result<TrackedTensor> + Send + Sync + 'static,
    ) -> Self {
        Self::many(label, inputs, move |x| Ok(vec![run(x)?]))
    }

    /// An application with several outputs.
    pub fn many(
        label: &str,
        inputs: Vec<Sample>,
        run: impl Fn(&[TrackedTensor]) -> Result<Vec<TrackedTensor>> + Send + Sync + 'static,
    ) -> Self {
        Self { label: label.to_owned(), inputs, run: Box::new(run), smooth: true }
    }

    /// The same, not to be compared with finite differences.
    #[must_use]
    pub fn at_a_kink(mut self) -> Self {
        self.smooth = false;
        self
    }
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Case({}, {:?})", self.label, self.inputs)
    }
}

/// All ops, family by family.
pub fn all() -> Vec<Op> {
    let families: &[fn() -> Vec<Op>] = &[
        crate::arithmetic::ops,
        crate::elementwise::ops,
        crate::compare::ops,
        crate::activation::ops,
        crate::matrix::ops,
        crate::linear::ops,
        crate::product::ops,
        crate::shape::ops,
        crate::slice::ops,
        crate::join::ops,
        crate::rearrange::ops,
        crate::index::ops,
        crate::spread::ops,
        crate::reduce::ops,
        crate::extremum::ops,
        crate::order::ops,
        crate::scan::ops,
        crate::softmax::ops,
        crate::cross_entropy::ops,
        crate::loss::ops,
        crate::conv::ops,
        crate::conv3d::ops,
        crate::pool::ops,
        crate::norm::ops,
        crate::attention::ops,
        crate::rotary::ops,
        crate::random::ops,
        crate::cut::ops,
        crate::einsum::ops,
        crate::resample::ops,
        crate::scatter::ops,
        crate::unfold::ops,
        crate::gradient::ops,
        #[cfg(feature = "linalg")]
        crate::linalg::ops,
        #[cfg(feature = "fft")]
        crate::fft::ops,
        crate::put::ops,
    ];
    families.iter().flat_map(|ops| ops()).collect()
}

/// The op of a name.
pub fn find(name: &str) -> Option<Op> {
    all().into_iter().find(|op| op.name == name)
}
