//! The harness itself: deliberately wrong rules, each of which the right check must reject.

mod exp_scale;
mod fault;
mod pair;
mod pull;

use crate::modes::Workspace;
use autograd_core::kernels::expr::Unary;
use autograd_core::{
    CustomOp, DType, Definition, Error, Mask, Result, ScalarExpr, Tensor, TrackedTensor, apply, custom,
    pointwise,
};
use autograd_ops::registry::{Case, Family, Op, Sample};
use autograd_ops::testing::{Check, Failure, Function, Modes, Report, check_case};
use exp_scale::ExpScale;
use fault::Fault;
use pair::Pair;
use std::sync::LazyLock;

const PLANTED: Op =
    Op { name: "planted", family: Family::Elementwise, formula: "eˣ · w, in a way", cases: Vec::new };

fn case(fault: Fault) -> Case {
    // As wide as high, and as the harness's batches: wrong axes fit the shapes.
    let inputs = vec![Sample::float(&[2, 2]), Sample::between(&[2], 0.5, 2.0)];
    Case::new("planted", inputs, move |x| ExpScale(fault).run(&x[0], &x[1]))
}

fn run_case(case: &Case) -> Result<Report, Box<Failure>> {
    check_case(&PLANTED, case, &Workspace)
}

#[test]
fn the_right_twin_passes_every_check() {
    let report = run_case(&case(Fault::Nothing)).unwrap_or_else(|failure| panic!("{failure}"));
    for check in Check::ALL {
        assert!(report.is_covered(check), "{check} was not executed");
    }
    assert!(!report.is_flat());
}

fn assert_rejected(fault: Fault, check: Check, words: &str) {
    match run_case(&case(fault)) {
        Ok(_) => panic!("{fault:?} passed"),
        Err(failure) => {
            assert_eq!(failure.check, check, "{fault:?}: {failure}");
            assert!(failure.to_string().contains(words), "{fault:?}: {failure}");
        }
    }
}

#[test]
fn wrong_values_are_rejected() {
    assert_rejected(Fault::NotFinite, Check::Values, "output 0 is not finite at 0");
}

#[test]
fn wrong_first_derivatives_are_rejected() {
    assert_rejected(Fault::TangentLacksTerm, Check::Forward, "tangent of output 0[");
    assert_rejected(Fault::Factor, Check::Reverse, "gradient of input 0[");
    assert_rejected(Fault::MissingTerm, Check::Reverse, "gradient of input 1[");
    assert_rejected(Fault::WrongAxis, Check::Reverse, "gradient of input 1[");
}

#[test]
fn modes_that_differ_at_a_kink_are_rejected() {
    let failure = run_case(&case(Fault::TangentLacksTerm).at_a_kink()).expect_err("the modes differ");
    assert_eq!(failure.check, Check::Adjoint, "{failure}");
}

#[test]
fn wrong_second_derivatives_are_rejected() {
    assert_rejected(Fault::SecondFactor, Check::SecondOrder, "reverse over reverse, input 0[");
    assert_rejected(Fault::HintLosesDerivative, Check::SecondOrder, "reverse over reverse, input 0[");
    assert_rejected(Fault::SecondTangent, Check::SecondOrder, "forward over reverse, input 0[");
    assert_rejected(Fault::TangentIsConstant, Check::SecondOrder, "reverse over forward, input 0[");
}

#[test]
fn a_rule_that_reads_a_hint_at_second_order_is_rejected() {
    assert_rejected(Fault::HintAtSecondOrder, Check::Hints, "as an input of 'mul'");
}

#[test]
fn rules_that_neglect_what_is_wanted_are_rejected() {
    assert_rejected(Fault::GivesUnwanted, Check::Subsets, "also gives input");
    assert_rejected(Fault::ReadsUndeclared, Check::Subsets, "reads Input(1), which it does not declare");
    assert_rejected(Fault::MoreForLess, Check::Subsets, "evaluates");
    assert_rejected(Fault::SubsetDiffers, Check::Subsets, "gradient of input 0 alone");
}

#[test]
fn rules_that_neglect_what_is_absent_are_rejected() {
    assert_rejected(Fault::TangentAlone, Check::Subsets, "tangent summed over single inputs, output 0[");
    let pair = |wrong| {
        let run = move |x: &[TrackedTensor]| Ok(apply(&Pair { wrong }, &[&x[0]])?.into_vec());
        run_case(&Case::many("pair", vec![Sample::float(&[3])], run))
    };
    assert!(pair(false).is_ok());
    let failure = pair(true).expect_err("an absent cotangent is zero");
    assert_eq!(failure.check, Check::Subsets, "{failure}");
    assert_eq!(failure.place, "gradient summed over single outputs, input 0");
}

#[test]
fn a_wrong_batch_rule_is_rejected() {
    assert_rejected(Fault::Batch, Check::Batch, "output 0 with inputs {1} mapped");
    assert_rejected(Fault::GradientBatch, Check::Batch, "gradient 0 with inputs {0} mapped");
}

#[test]
fn a_wrong_decomposition_is_rejected() {
    let rejected = |fault, words| assert_rejected(fault, Check::Decomposition, words);
    rejected(Fault::Decomposition, "output of the decomposition, 0[");
    rejected(Fault::SecondDecomposition, "gradient by decomposed rules, input 0[");
    rejected(Fault::DecompositionGradient, "gradient through the decomposition, input 0[");
}

#[test]
fn a_kernel_that_neglects_the_layout_is_rejected() {
    let rejected = |fault, words| assert_rejected(fault, Check::Layouts, words);
    rejected(Fault::Strides, "transposed inputs, output 0[");
    rejected(Fault::Offset, "narrowed inputs, output 0[");
    rejected(Fault::ZeroStride, "repeated { last: false } inputs, output 0[");
    rejected(Fault::CotangentStrides, "transposed inputs, gradient of input 0[");
    rejected(Fault::CotangentFill, "transposed inputs, gradient of a sum, input 0[");
}

#[test]
fn wrong_small_types_are_rejected() {
    assert_rejected(Fault::CoarseF32, Check::F32, "output 0[");
    assert_rejected(Fault::CoarseGradient, Check::F32, "gradient of input 0[");
    assert_rejected(Fault::GradientType, Check::BF16, "its rule gave");
    assert_rejected(Fault::OutputType, Check::F16, "has type F32");
}

/// Modes that change the outputs they pass on, as a broken interpreter would.
struct Skewed;

impl Modes for Skewed {
    fn vjp(
        &self,
        f: &Function<'_>,
        x: &[TrackedTensor],
        u: &[TrackedTensor],
    ) -> Result<(Vec<TrackedTensor>, Vec<TrackedTensor>)> {
        let (y, gradients) = Workspace.vjp(f, x, u)?;
        Ok((y.iter().map(|y| y + 1.0).collect::<Result<_>>()?, gradients))
    }
    fn jvp(
        &self,
        f: &Function<'_>,
        x: &[TrackedTensor],
        v: &[TrackedTensor],
    ) -> Result<(Vec<TrackedTensor>, Vec<TrackedTensor>)> {
        Workspace.jvp(f, x, v)
    }
    fn vmap(&self, f: &Function<'_>, inputs: &[TrackedTensor], mapped: Mask) -> Result<Vec<TrackedTensor>> {
        Workspace.vmap(f, inputs, mapped)
    }
}

#[test]
fn a_mode_that_changes_outputs_is_rejected() {
    let failure = check_case(&PLANTED, &case(Fault::Nothing), &Skewed).expect_err("the outputs differ");
    assert!(failure.check == Check::Reverse && failure.place == "output 0", "{failure}");
}

/// The identity, first-order reverse only.
struct Pass;

impl CustomOp for Pass {
    fn forward(&self, inputs: &[&Tensor]) -> Result<Tensor> {
        Ok(inputs[0].clone())
    }
    fn backward(&self, ct: &Tensor, _: &[&Tensor]) -> Result<Vec<Tensor>> {
        Ok(vec![ct.clone()])
    }
}

#[test]
fn an_unsupported_mode_is_a_gap_and_no_pass() {
    let opaque = Case::new("opaque", vec![Sample::float(&[3])], |x| custom(&Pass, &[&x[0]]));
    let report = run_case(&opaque).unwrap_or_else(|failure| panic!("{failure}"));
    assert!(report.is_covered(Check::Reverse) && report.is_covered(Check::F32));
    for check in [Check::Forward, Check::Adjoint, Check::SecondOrder, Check::Batch] {
        assert!(!report.is_covered(check), "{check}");
        assert!(report.gaps.iter().any(|gap| gap.check == check), "{check}");
    }
}

#[test]
fn an_unsupported_type_is_a_gap_and_no_pass() {
    let only_wide = Case::new("only wide", vec![Sample::float(&[3])], |x| match x[0].dtype() {
        DType::F64 | DType::F32 => &x[0] + 1.0,
        dtype => Err(Error::dtype("only_wide", dtype, "f64 and f32 are")),
    });
    let report = run_case(&only_wide).unwrap_or_else(|failure| panic!("{failure}"));
    assert!(
        report.is_covered(Check::F32) && !report.is_covered(Check::F16) && !report.is_covered(Check::BF16)
    );
}

#[test]
fn another_error_is_a_failure_and_no_gap() {
    let broken = Case::new("broken", vec![Sample::float(&[3])], |_| Err(Error::msg("out of order")));
    let failure = run_case(&broken).expect_err("the case does not run");
    assert!(failure.to_string().contains("out of order"), "{failure}");
}

static STAIRS: LazyLock<Definition> = LazyLock::new(|| {
    Definition::flat("floor", ScalarExpr::build(1, 0, |b, x, _| b.unary(Unary::Floor, x[0])))
});

#[test]
fn a_flat_op_is_recognised() {
    let flat = Case::new("stairs", vec![Sample::between(&[4], 1.1, 1.9)], |x| pointwise(&STAIRS, &[&x[0]]));
    let report = run_case(&flat).unwrap_or_else(|failure| panic!("{failure}"));
    assert!(report.is_flat());
    // An op that is steep must not say that it is flat.
    let steep = Case::new("steep", vec![Sample::float(&[4])], |x| {
        let flat = Definition::flat("steep", ScalarExpr::build(1, 0, |b, x, _| b.unary(Unary::Exp, x[0])));
        let op = autograd_core::Pointwise::shared(std::sync::Arc::new(flat), &[]);
        autograd_core::apply_one(&op, &[&x[0]])
    });
    assert_eq!(run_case(&steep).expect_err("its derivative is not zero").check, Check::Forward);
}
