//! An integration as one op, with the continuous adjoint for its reverse rule and the equation of
//! sensitivities for its forward rule.

use super::dormand_prince::{Accuracy, integrate};
use super::linear::{moved, parameter_grads, transposed};
use super::numbers::{values, write};
use super::ode::{Adjoint, OP, OdeOptions, ode_solve};
use super::record::run;
use super::solution::looped;
use crate::single::push_all;
use autograd_core::algebra::{add, cast, narrow, neg, reshape, zeros_like};
use autograd_core::smallvec::{SmallVec, smallvec};
use autograd_core::{
    Error, General, Grads, Mask, Meta, Prim, Primitive, Program, Residual, Residuals, Result, Rule, Saved,
    Shape, Signature, Site, SliceMut, TrackedTensor, Values, View, is_float,
};
use autograd_ops::TensorAutograd;
use std::fmt;
use std::sync::Arc;

/// y(t1) for y' = f(t, y, θ): inputs y(t0) and θ.
#[derive(Clone)]
pub(super) struct Segment {
    /// f, for y, t and θ.
    pub(super) field: Arc<Program>,
    pub(super) span: (f64, f64),
    pub(super) accuracy: Accuracy,
}

impl fmt::Debug for Segment {
    // The address tells two fields of one form apart.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Segment({:?}, {:?}, {:p})", self.span, self.accuracy, Arc::as_ptr(&self.field))
    }
}

impl Segment {
    pub(super) fn solved(
        &self,
        y: &TrackedTensor,
        captured: &[TrackedTensor],
        site: Site,
    ) -> Result<TrackedTensor> {
        let inputs: SmallVec<[&TrackedTensor; 4]> = std::iter::once(y).chain(captured).collect();
        autograd_core::apply_single(self, &inputs, site)
    }

    fn options(&self) -> OdeOptions {
        let Accuracy { relative, absolute, most_steps } = self.accuracy;
        OdeOptions { relative, absolute, most_steps, adjoint: Adjoint::Continuous }
    }
}

impl Primitive for Segment {
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
        let field = |t: f64, y: &TrackedTensor| {
            let t = cast(&TrackedTensor::scalar(t), y.dtype())?;
            let all: SmallVec<[&TrackedTensor; 4]> = [y, &t].into_iter().chain(&inputs[1..]).collect();
            run(&self.field, &all)
        };
        let path = integrate(OP, &field, &inputs[0], self.span, &self.accuracy)?;
        write(OP, &path.end, &mut outputs[0])
    }

    fn rule(&self) -> Rule<'_> {
        Rule::General(self)
    }

    fn batch(&self, batched: Mask, inputs: &[&TrackedTensor], size: usize) -> Result<Option<Values>> {
        looped(self, batched, inputs, size)
    }
}

impl General for Segment {
    fn residuals(&self, _: Mask) -> Residuals {
        // The field's inputs are y, t and θ; the op's y and θ.
        let inputs = (1..self.field.inputs.len() - 1).map(Residual::Input);
        inputs.chain([Residual::Output(0)]).collect()
    }

    // λ' = −λᵀ·f_y from λ(t1) = ct; ȳ₀ = λ(t0), θ̄ = ∫ λᵀ·f_θ dt: one integration from t1 to t0
    // of y, λ and θ̄ end to end.
    fn vjp(&self, wanted: Mask, cts: &[Option<TrackedTensor>], saved: &Saved<'_>) -> Result<Grads> {
        let mut grads: Grads = smallvec![None; saved.inputs.len()];
        let Some(ct) = &cts[0] else { return Ok(grads) };
        let y = saved.output(0)?;
        let read: Vec<&TrackedTensor> =
            (1..saved.inputs.len()).map(|i| saved.input(i)).collect::<Result<_>>()?;
        let pulled: Vec<usize> =
            (0..read.len()).filter(|&i| wanted.has(i + 1) && is_float(read[i].dtype())).collect();
        let mut parts = vec![y.clone(), ct.clone()];
        for &i in &pulled {
            parts.push(zeros_like(&cast(read[i], y.dtype())?)?);
        }
        let (state, ends) = joined(&parts)?;
        let shapes: Vec<Shape> = parts.iter().map(|p| *p.shape()).collect();
        let field = |t: &TrackedTensor, state: &TrackedTensor| {
            let (y, lambda) = (part(state, &ends, &shapes, 0)?, part(state, &ends, &shapes, 1)?);
            let down = neg(&lambda)?;
            // t goes where the program has it, first of what it reads after y.
            let all: SmallVec<[&TrackedTensor; 4]> = std::iter::once(t).chain(read.iter().copied()).collect();
            let inputs: SmallVec<[&TrackedTensor; 4]> =
                std::iter::once(&y).chain(all.iter().copied()).collect();
            let mut slopes = vec![run(&self.field, &inputs)?, transposed(&self.field, &y, &all, &down)?];
            let mut of_read: Grads = smallvec![None; all.len() + 1];
            let asked: Mask = pulled.iter().map(|i| i + 2).collect();
            parameter_grads(&self.field, &y, &all, &down, asked, &mut of_read)?;
            for &i in &pulled {
                slopes.push(match of_read[i + 2].take() {
                    Some(grad) => cast(&grad, y.dtype())?,
                    None => zeros_like(&cast(read[i], y.dtype())?)?,
                });
            }
            Ok(joined(&slopes)?.0)
        };
        let back = [self.span.1, self.span.0];
        let mut end = ode_solve(field, &state, &back, &self.options())?;
        let end = end.pop().ok_or_else(|| Error::internal(OP, "an integration without end"))?;
        grads[0] = Some(part(&end, &ends, &shapes, 1)?);
        for (k, &i) in pulled.iter().enumerate() {
            grads[i + 1] = Some(cast(&part(&end, &ends, &shapes, k + 2)?, read[i].dtype())?);
        }
        Ok(grads)
    }

    // ẏ' = f_y·ẏ + f_θ·θ̇, integrated together with y.
    fn jvp(
        &self,
        inputs: &[&TrackedTensor],
        _: &[TrackedTensor],
        tangents: &[Option<TrackedTensor>],
    ) -> Result<Option<SmallVec<[Option<TrackedTensor>; 2]>>> {
        let y0 = inputs[0];
        let start = match &tangents[0] {
            Some(tangent) => tangent.clone(),
            None => zeros_like(y0)?,
        };
        let parts = [y0.clone(), start];
        let (state, ends) = joined(&parts)?;
        let shapes = [*y0.shape(), *y0.shape()];
        let field = |t: &TrackedTensor, state: &TrackedTensor| {
            let (y, dy) = (part(state, &ends, &shapes, 0)?, part(state, &ends, &shapes, 1)?);
            let read: SmallVec<[&TrackedTensor; 4]> =
                std::iter::once(t).chain(inputs[1..].iter().copied()).collect();
            let at = |y: &[TrackedTensor]| {
                let all: SmallVec<[&TrackedTensor; 4]> =
                    std::iter::once(&y[0]).chain(read.iter().copied()).collect();
                run(&self.field, &all)
            };
            let (slope, mut turned) = push_all(at, &[&y], &[&dy])?;
            let of_read: Vec<Option<TrackedTensor>> =
                std::iter::once(None).chain(tangents[1..].iter().cloned()).collect();
            if let Some(moved) = moved(&self.field, &y, &read, &of_read)? {
                turned = add(&turned, &moved)?;
            }
            Ok(joined(&[slope, turned])?.0)
        };
        let mut end = ode_solve(field, &state, &[self.span.0, self.span.1], &self.options())?;
        let end = end.pop().ok_or_else(|| Error::internal(OP, "an integration without end"))?;
        Ok(Some(smallvec![Some(part(&end, &ends, &shapes, 1)?)]))
    }
}

/// Values end to end, and where each ends.
fn joined(parts: &[TrackedTensor]) -> Result<(TrackedTensor, Vec<usize>)> {
    let flat: Vec<TrackedTensor> = parts.iter().map(|p| p.flatten_all()).collect::<Result<_>>()?;
    let mut end = 0;
    let ends = flat.iter().map(|p| {
        end += p.elem_count();
        end
    });
    let ends = ends.collect();
    Ok((autograd_ops::cat(&flat, 0)?, ends))
}

/// Part `i` of values end to end.
fn part(state: &TrackedTensor, ends: &[usize], shapes: &[Shape], i: usize) -> Result<TrackedTensor> {
    let start = if i == 0 { 0 } else { ends[i - 1] };
    reshape(&narrow(state, 0, start, ends[i] - start)?, &shapes[i])
}
