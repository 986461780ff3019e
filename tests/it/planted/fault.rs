//! The faults, one at a time.

/// The one place that is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// All is right.
    Nothing,
    /// The kernel gives NaN.
    NotFinite,
    /// The gradient of x is twice what it is.
    Factor,
    /// There is no gradient of w.
    MissingTerm,
    /// The gradient of w is summed over the wrong dimension.
    WrongAxis,
    /// The tangent lacks the part of w.
    TangentLacksTerm,
    /// The tangent is right, but a constant to other levels.
    TangentIsConstant,
    /// The vjp computes with the hint, and loses its derivative.
    HintLosesDerivative,
    /// The fused vjp's rule has a wrong factor.
    SecondFactor,
    /// The fused vjp has no tangent.
    SecondTangent,
    /// The fused vjp's rule gives the right numbers, by reading the hint.
    HintAtSecondOrder,
    /// The vjp gives what nobody wants.
    GivesUnwanted,
    /// The vjp for w alone reads an input that it does not declare.
    ReadsUndeclared,
    /// The vjp of one input evaluates more than that of both.
    MoreForLess,
    /// The gradient of one input alone is another one.
    SubsetDiffers,
    /// The tangent along x alone is another one.
    TangentAlone,
    /// The decomposition is another function.
    Decomposition,
    /// The decomposition has another derivative.
    DecompositionGradient,
    /// The decomposition of the fused vjp is another function.
    SecondDecomposition,
    /// The batch rule does not align dimensions.
    Batch,
    /// The fused vjp's batch rule gives zeros.
    GradientBatch,
    /// The kernel takes its input for contiguous.
    Strides,
    /// The kernel starts at the beginning of memory.
    Offset,
    /// The kernel takes a repeated input for contiguous.
    ZeroStride,
    /// The fused vjp's kernel takes its cotangent for contiguous.
    CotangentStrides,
    /// The fused vjp's kernel takes a cotangent of one repeated number for zero.
    CotangentFill,
    /// The kernel keeps 8 bits of an f32.
    CoarseF32,
    /// The fused vjp's kernel keeps 8 bits of an f32.
    CoarseGradient,
    /// The gradient of a bf16 input is f32.
    GradientType,
    /// The output for an f16 input is f32.
    OutputType,
}
