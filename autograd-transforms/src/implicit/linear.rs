//! Linear systems as differentiable functions of their right-hand side and of what their operator
//! reads.

use super::krylov::{LinearSolver, solve};
use super::numbers::{default_tolerance, numbers, value, values, write};
use super::record::{Recorded, record, run};
use super::solution::looped;
use crate::single::push_all;
use autograd_core::algebra::{neg, sub, zeros_like};
use autograd_core::smallvec::{SmallVec, smallvec};
use autograd_core::{
    Error, General, Grads, Mask, Meta, Prim, Primitive, Program, Residual, Residuals, Result, Rule, Saved,
    Signature, Site, SliceMut, TrackedTensor, Values, View, apply_one, is_float,
};
use autograd_tape::GradientTape;
use std::fmt;
use std::sync::Arc;

const OP: &str = "linear_solve";

/// x with A(φ)·x = b: inputs b and φ.
#[derive(Clone)]
struct LinearSolution {
    /// A·v for v and φ.
    operator: Arc<Program>,
    solver: LinearSolver,
}

impl fmt::Debug for LinearSolution {
    // The address tells two operators of one form apart.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LinearSolution({:?}, {:p})", self.solver, Arc::as_ptr(&self.operator))
    }
}

/// Solves a(x) = b for a linear function a of values shaped like b: a square, regular matrix known
/// by its products. Differentiable to any order, in any mode, with respect to b and to whatever
/// watched values `a` reads: A·ẋ = ḃ − Ȧ·x, and λ = A⁻ᵀ·ct, b̄ = λ, φ̄ = −λᵀ·(∂A/∂φ)·x.
///
/// # Errors
/// [`Error::Shape`] where a(x) is not shaped like b; [`Error::InvalidArgument`] where the operator is
/// singular, or an iteration does not converge; [`Error::ReadWhileCapturing`] where `a` reads
/// numbers; [`Error::UnsupportedDType`] for half types.
///
/// ```
/// use autograd_core::{Result, TrackedTensor};
/// use autograd_ops::TensorAutograd;
/// use autograd_tape::GradientTape;
/// use autograd_transforms::implicit::{LinearSolver, linear_solve};
///
/// fn main() -> Result<()> {
///     let tape = GradientTape::new();
///     let d = tape.variable(TrackedTensor::from_vec(vec![2f64, 4.], &[2])?);
///     let b = TrackedTensor::from_vec(vec![1f64, 1.], &[2])?;
///     let x = linear_solve(|x| d.mul(x), &b, LinearSolver::Auto)?;
///     assert_eq!(x.to_vec1::<f64>()?, [0.5, 0.25]);
///     assert_eq!(tape.derivative(&x.sum()?, &d)?.to_vec1::<f64>()?, [-0.25, -0.0625]);
///     Ok(())
/// }
/// ```
#[track_caller]
pub fn linear_solve(
    a: impl FnOnce(&TrackedTensor) -> Result<TrackedTensor>,
    b: &TrackedTensor,
    solver: LinearSolver,
) -> Result<TrackedTensor> {
    let site = Site::caller();
    if let Some(error) = b.failure() {
        return Err(error.clone());
    }
    if !is_float(b.dtype()) {
        return Err(Error::NotDifferentiable { dtype: b.dtype(), at: site.into() });
    }
    let Recorded { program, captured } = record(|x| a(&x[0]), &[b.meta()])?;
    fits(OP, &program, &b.meta(), site)?;
    let inputs: SmallVec<[&TrackedTensor; 4]> = std::iter::once(b).chain(&captured).collect();
    apply_one(&LinearSolution { operator: program, solver }, &inputs).map_err(|e| e.or_at(site))
}

/// Whether a program gives a value like its first input.
pub(super) fn fits(op: &'static str, program: &Program, like: &Meta, site: Site) -> Result<()> {
    let meta = output_meta(program)?;
    if meta.shape == like.shape && meta.dtype == like.dtype {
        return Ok(());
    }
    Err(Error::Mismatch {
        what: if op == OP { "the operator's output" } else { "the function's output" },
        got: Box::new(meta),
        want: Box::new(*like),
        at: site.into(),
    })
}

/// The meta of a program's output.
pub(super) fn output_meta(program: &Program) -> Result<Meta> {
    use autograd_core::Operand;
    let found = program.outputs.first().and_then(|operand| match *operand {
        Operand::Input(i) => program.inputs.get(i).copied(),
        Operand::Constant(i) => program.constants.get(i).map(TrackedTensor::meta),
        Operand::Result { instruction, output } => {
            program.instructions.get(instruction)?.outputs.get(output).copied()
        }
    });
    found.ok_or_else(|| Error::internal("implicit", "a program without output"))
}

impl Primitive for LinearSolution {
    fn name(&self) -> &'static str {
        OP
    }

    fn keep(&self) -> Prim {
        Prim::Shared(Arc::new(self.clone()))
    }

    fn infer(&self, inputs: &[Meta]) -> Result<Signature> {
        Ok(Signature::one(inputs[0]))
    }

    fn eval_into(&self, inputs: &[View<'_>], outputs: &mut [SliceMut<'_>]) -> Result<()> {
        let inputs = values(OP, inputs)?;
        let meta = inputs[0].meta();
        let mut apply = |x: &[f64]| {
            let x = value(x.to_vec(), &meta)?;
            let all: SmallVec<[&TrackedTensor; 4]> = std::iter::once(&x).chain(&inputs[1..]).collect();
            numbers(&run(&self.operator, &all)?)
        };
        let tolerance = default_tolerance(meta.dtype);
        let x = solve(OP, &mut apply, &numbers(&inputs[0])?, self.solver, tolerance)?;
        write(OP, &value(x, &meta)?, &mut outputs[0])
    }

    fn rule(&self) -> Rule<'_> {
        Rule::General(self)
    }

    fn batch(&self, batched: Mask, inputs: &[&TrackedTensor], size: usize) -> Result<Option<Values>> {
        looped(self, batched, inputs, size)
    }
}

impl General for LinearSolution {
    fn residuals(&self, _: Mask) -> Residuals {
        let inputs = (1..self.operator.inputs.len()).map(Residual::Input);
        inputs.chain([Residual::Output(0)]).collect()
    }

    // λ = A⁻ᵀ·ct; b̄ = λ, φ̄ = −λᵀ·∂(A(φ)·x)/∂φ.
    fn vjp(&self, wanted: Mask, cts: &[Option<TrackedTensor>], saved: &Saved<'_>) -> Result<Grads> {
        let mut grads: Grads = smallvec![None; saved.inputs.len()];
        let Some(ct) = &cts[0] else { return Ok(grads) };
        let x = saved.output(0)?;
        let read: Vec<&TrackedTensor> =
            (1..saved.inputs.len()).map(|i| saved.input(i)).collect::<Result<_>>()?;
        let lambda = linear_solve(|v| transposed(&self.operator, x, &read, v), ct, self.solver)?;
        parameter_grads(&self.operator, x, &read, &neg(&lambda)?, wanted, &mut grads)?;
        grads[0] = Some(lambda);
        Ok(grads)
    }

    // A·ẋ = ḃ − Ȧ·x.
    fn jvp(
        &self,
        inputs: &[&TrackedTensor],
        outputs: &[TrackedTensor],
        tangents: &[Option<TrackedTensor>],
    ) -> Result<Option<SmallVec<[Option<TrackedTensor>; 2]>>> {
        let x = &outputs[0];
        let moved = moved(&self.operator, x, &inputs[1..], &tangents[1..])?;
        let side = match (&tangents[0], moved) {
            (None, None) => return Ok(Some(smallvec![None])),
            (Some(db), None) => db.clone(),
            (None, Some(moved)) => neg(&moved)?,
            (Some(db), Some(moved)) => sub(db, &moved)?,
        };
        let operator = |v: &TrackedTensor| {
            let all: SmallVec<[&TrackedTensor; 4]> =
                std::iter::once(v).chain(inputs[1..].iter().copied()).collect();
            run(&self.operator, &all)
        };
        Ok(Some(smallvec![Some(linear_solve(operator, &side, self.solver)?)]))
    }
}

/// vᵀ·∂P/∂y for a program P of y and what it reads.
pub(super) fn transposed(
    program: &Program,
    y: &TrackedTensor,
    read: &[&TrackedTensor],
    v: &TrackedTensor,
) -> Result<TrackedTensor> {
    let tape = GradientTape::new();
    let variable = tape.try_variable(y)?;
    let all: SmallVec<[&TrackedTensor; 4]> = std::iter::once(&variable).chain(read.iter().copied()).collect();
    let output = run(program, &all)?;
    if !tape.watches(&output) {
        return zeros_like(y);
    }
    let mut grads = tape.gradient_with(&[&output], &[v], &[&variable])?;
    Ok(grads.swap_remove(0))
}

/// vᵀ·∂P/∂θ for those of what a program reads that are wanted, into `grads` from 1 on.
pub(super) fn parameter_grads(
    program: &Program,
    y: &TrackedTensor,
    read: &[&TrackedTensor],
    v: &TrackedTensor,
    wanted: Mask,
    grads: &mut Grads,
) -> Result<()> {
    let wanted: Vec<usize> =
        (0..read.len()).filter(|&i| wanted.has(i + 1) && is_float(read[i].dtype())).collect();
    if wanted.is_empty() {
        return Ok(());
    }
    let tape = GradientTape::new();
    let mut all: SmallVec<[TrackedTensor; 4]> =
        std::iter::once(y).chain(read.iter().copied()).cloned().collect();
    for &i in &wanted {
        all[i + 1] = tape.try_variable(read[i])?;
    }
    let refs: SmallVec<[&TrackedTensor; 4]> = all.iter().collect();
    let output = run(program, &refs)?;
    if !tape.watches(&output) {
        return Ok(());
    }
    let sources: Vec<&TrackedTensor> = wanted.iter().map(|&i| &all[i + 1]).collect();
    for (&i, grad) in wanted.iter().zip(tape.gradient_with(&[&output], &[v], &sources)?) {
        grads[i + 1] = Some(grad);
    }
    Ok(())
}

/// ∂P/∂θ·θ̇ for a program P of y and what it reads, `None` where nothing of it moves.
pub(super) fn moved(
    program: &Program,
    y: &TrackedTensor,
    read: &[&TrackedTensor],
    tangents: &[Option<TrackedTensor>],
) -> Result<Option<TrackedTensor>> {
    let moving: Vec<usize> = (0..read.len()).filter(|&i| tangents[i].is_some()).collect();
    if moving.is_empty() {
        return Ok(None);
    }
    let primals: Vec<&TrackedTensor> = moving.iter().map(|&i| read[i]).collect();
    let directions: Vec<&TrackedTensor> = moving.iter().filter_map(|&i| tangents[i].as_ref()).collect();
    let along = |duals: &[TrackedTensor]| {
        let mut all: SmallVec<[&TrackedTensor; 4]> = std::iter::once(y).chain(read.iter().copied()).collect();
        for (&i, dual) in moving.iter().zip(duals) {
            all[i + 1] = dual;
        }
        run(program, &all)
    };
    Ok(Some(push_all(along, &primals, &directions)?.1))
}
