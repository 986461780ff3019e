//! Linear systems.

use super::{fault, matrices, mm, mt, square};
use crate::rearrange::{tril, triu};
use autograd_core::kernels::linalg as kernel;
use autograd_core::smallvec::smallvec;
use autograd_core::{
    Error, General, Grads, Mask, Meta, Prim, Primitive, Residual, Residuals, Result, Rule, Saved, Shape,
    Signature, Site, SliceMut, TrackedTensor, View, algebra, apply_one,
};
use std::sync::Arc;

/// x with a·x = b: a is …×N×N, b is …×N×K or …×N; batches broadcast. For b of one dimension, or
/// of one less than a with a's batch, the result is a vector too.
///
/// # Errors
/// Shapes that do not fit; a matrix that is exactly singular.
#[track_caller]
pub fn solve(a: &TrackedTensor, b: &TrackedTensor) -> Result<TrackedTensor> {
    let vector = b.rank() == 1 || (b.rank() + 1 == a.rank() && b.dims() == &a.dims()[..a.rank() - 1]);
    if vector {
        let column = crate::shape::unsqueeze(b, -1)?;
        return crate::shape::squeeze(&solve(a, &column)?, -1);
    }
    let site = Site::caller();
    let (a, b) = broadcast("solve", a, b).map_err(|e| e.or_at(site))?;
    apply_one(&Solve, &[&a, &b])
}

/// Which triangle of a matrix counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Triangle {
    /// The upper one.
    pub upper: bool,
    /// The diagonal counts as ones.
    pub unit: bool,
}

impl Triangle {
    /// The lower triangle, with its diagonal.
    pub const LOWER: Self = Self { upper: false, unit: false };
    /// The upper triangle, with its diagonal.
    pub const UPPER: Self = Self { upper: true, unit: false };

    /// The triangle of the transposed matrix.
    fn transposed(self) -> Self {
        Self { upper: !self.upper, ..self }
    }

    /// The elements of a that count in a derivative.
    fn of(self, a: &TrackedTensor) -> Result<TrackedTensor> {
        match (self.upper, self.unit) {
            (false, unit) => tril(a, -isize::from(unit)),
            (true, unit) => triu(a, isize::from(unit)),
        }
    }
}

/// x with t·x = b, where t is a triangle of a (…×N×N) and b is …×N×K; batches broadcast. The
/// other elements of a are not read.
///
/// # Errors
/// Shapes that do not fit; a zero on the diagonal.
#[track_caller]
pub fn triangular_solve(a: &TrackedTensor, b: &TrackedTensor, triangle: Triangle) -> Result<TrackedTensor> {
    let site = Site::caller();
    let (a, b) = broadcast("triangular_solve", a, b).map_err(|e| e.or_at(site))?;
    apply_one(&TriangularSolve(triangle), &[&a, &b])
}

/// Both with the same batch.
fn broadcast(
    op: &'static str,
    a: &TrackedTensor,
    b: &TrackedTensor,
) -> Result<(TrackedTensor, TrackedTensor)> {
    if let Some(error) = a.failure().or_else(|| b.failure()) {
        return Err(error.clone());
    }
    let n = square(op, &a.meta())?;
    let (rows, columns) = matrices(op, &b.meta())?;
    let shapes = [*a.shape(), *b.shape()];
    if rows != n {
        return Err(Error::shape(op, &shapes, "the second has not a row for each of the first's"));
    }
    let batch = |x: &TrackedTensor| Shape::new(&x.dims()[..x.rank() - 2]);
    let Some(whole) = batch(a).broadcast(&batch(b)) else {
        return Err(Error::shape(op, &shapes, "the batches do not broadcast"));
    };
    let with = |x: &TrackedTensor, end: [usize; 2]| {
        let dims: Vec<usize> = whole.dims().iter().copied().chain(end).collect();
        let shape = autograd_core::checked_shape(op, &dims)?;
        if *x.shape() == shape { Ok(x.clone()) } else { algebra::broadcast_to(x, &shape) }
    };
    Ok((with(a, [n, n])?, with(b, [n, columns])?))
}

#[derive(Clone, Copy, Debug)]
struct Solve;

#[derive(Clone, Copy, Debug)]
struct TriangularSolve(Triangle);

fn fits(op: &'static str, inputs: &[Meta]) -> Result<Signature> {
    let n = square(op, &inputs[0])?;
    let (rows, _) = matrices(op, &inputs[1])?;
    let (a, b) = (inputs[0].shape, inputs[1].shape);
    let batch = |x: &Shape| Shape::new(&x.dims()[..x.rank() - 2]);
    if rows != n || batch(&a) != batch(&b) {
        return Err(Error::shape(op, &[a, b], "rows or batches differ"));
    }
    if inputs[0].dtype != inputs[1].dtype {
        let dtypes = vec![inputs[0].dtype, inputs[1].dtype];
        return Err(Error::DTypeMismatch { op, dtypes, at: Default::default() });
    }
    Ok(Signature::one(inputs[1]))
}

crate::saved::datum!(Triangle { upper, unit });

crate::saved::stored! {
    "solve" => Solve {}, |_, x| x.len() == 2;
    "triangular_solve" => TriangularSolve { 0 }, |_, x| x.len() == 2;
}

impl Primitive for Solve {
    crate::saved::by_tag!();
    super::plain_parts!(Solve, "solve");
    fn infer(&self, inputs: &[Meta]) -> Result<Signature> {
        fits("solve", inputs)
    }
    fn eval_into(&self, inputs: &[View<'_>], outputs: &mut [SliceMut<'_>]) -> Result<()> {
        kernel::solve(inputs[0], inputs[1], outputs[0].reborrow()).map_err(|f| fault("solve", f))
    }
    crate::elsewhere::on_host!();
}

impl General for Solve {
    fn residuals(&self, wanted: Mask) -> Residuals {
        match wanted.has(0) {
            true => smallvec![Residual::Input(0), Residual::Output(0)],
            false => smallvec![Residual::Input(0)],
        }
    }
    // b̄ = a⁻ᵀ·x̄, ā = −b̄·xᵀ.
    fn vjp(&self, wanted: Mask, cts: &[Option<TrackedTensor>], saved: &Saved<'_>) -> Result<Grads> {
        let Some(ct) = &cts[0] else { return Ok(smallvec![None; 2]) };
        let db = apply_one(&Solve, &[&mt(saved.input(0)?)?, ct])?;
        let da = match wanted.has(0) {
            true => Some(algebra::neg(&mm(&db, &mt(saved.output(0)?)?)?)?),
            false => None,
        };
        Ok(smallvec![da, Some(db).filter(|_| wanted.has(1))])
    }
    // ẋ = a⁻¹·(ḃ − ȧ·x).
    fn jvp(
        &self,
        inputs: &[&TrackedTensor],
        outputs: &[TrackedTensor],
        tangents: &[Option<TrackedTensor>],
    ) -> Result<Option<super::Tangents>> {
        let moved = match &tangents[0] {
            Some(da) => Some(algebra::neg(&mm(da, &outputs[0])?)?),
            None => None,
        };
        let rhs = super::plus(tangents[1].clone(), moved)?;
        let dx = rhs.map(|rhs| apply_one(&Solve, &[inputs[0], &rhs])).transpose()?;
        Ok(Some(smallvec![dx]))
    }
}

impl Primitive for TriangularSolve {
    crate::saved::by_tag!();
    super::batches!();
    fn name(&self) -> &'static str {
        "triangular_solve"
    }
    fn keep(&self) -> Prim {
        Prim::Shared(Arc::new(*self))
    }
    crate::elsewhere::on_host!();
    fn rule(&self) -> Rule<'_> {
        Rule::General(self)
    }
    fn infer(&self, inputs: &[Meta]) -> Result<Signature> {
        fits("triangular_solve", inputs)
    }
    fn eval_into(&self, inputs: &[View<'_>], outputs: &mut [SliceMut<'_>]) -> Result<()> {
        let Triangle { upper, unit } = self.0;
        kernel::solve_triangular(inputs[0], inputs[1], upper, unit, outputs[0].reborrow())
            .map_err(|f| fault("triangular_solve", f))
    }
}

impl General for TriangularSolve {
    fn residuals(&self, wanted: Mask) -> Residuals {
        match wanted.has(0) {
            true => smallvec![Residual::Input(0), Residual::Output(0)],
            false => smallvec![Residual::Input(0)],
        }
    }
    // b̄ = t⁻ᵀ·x̄, ā = −(the triangle of b̄·xᵀ).
    fn vjp(&self, wanted: Mask, cts: &[Option<TrackedTensor>], saved: &Saved<'_>) -> Result<Grads> {
        let Some(ct) = &cts[0] else { return Ok(smallvec![None; 2]) };
        let back = TriangularSolve(self.0.transposed());
        let db = apply_one(&back, &[&mt(saved.input(0)?)?, ct])?;
        let da = match wanted.has(0) {
            true => Some(algebra::neg(&self.0.of(&mm(&db, &mt(saved.output(0)?)?)?)?)?),
            false => None,
        };
        Ok(smallvec![da, Some(db).filter(|_| wanted.has(1))])
    }
    // ẋ = t⁻¹·(ḃ − ṫ·x).
    fn jvp(
        &self,
        inputs: &[&TrackedTensor],
        outputs: &[TrackedTensor],
        tangents: &[Option<TrackedTensor>],
    ) -> Result<Option<super::Tangents>> {
        let moved = match &tangents[0] {
            Some(da) => Some(algebra::neg(&mm(&self.0.of(da)?, &outputs[0])?)?),
            None => None,
        };
        let rhs = super::plus(tangents[1].clone(), moved)?;
        let dx = rhs.map(|rhs| apply_one(self, &[inputs[0], &rhs])).transpose()?;
        Ok(Some(smallvec![dx]))
    }
}
