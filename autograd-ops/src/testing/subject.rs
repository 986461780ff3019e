//! One case with its numbers, ready to be checked.

use super::compare::numbers;
use super::report::Stop;
use super::sample::{draw, draw_like};
use super::{Modes, Outcome};
use crate::registry::{Case, Sample};
use autograd_core::{Error, Result, TrackedTensor, algebra, is_float};

/// A case with its numbers.
pub(crate) struct Subject<'a> {
    pub(crate) op: &'static str,
    pub(crate) case: &'a Case,
    pub(crate) modes: &'a dyn Modes,
    /// All inputs.
    pub(crate) inputs: Vec<TrackedTensor>,
    /// Which of them are floats: these are differentiated, the others are constants.
    pub(crate) floats: Vec<usize>,
    /// All outputs.
    pub(crate) outputs: Vec<TrackedTensor>,
}

impl<'a> Subject<'a> {
    pub(crate) fn new(op: &'static str, case: &'a Case, modes: &'a dyn Modes) -> Result<Self, Stop> {
        let floats = (0..case.inputs.len()).filter(|&i| case.inputs[i].is_float()).collect();
        let mut subject = Self { op, case, modes, inputs: Vec::new(), floats, outputs: Vec::new() };
        subject.inputs = subject.lane(0)?;
        subject.outputs = (case.run)(&subject.inputs)?;
        Ok(subject)
    }

    /// Sample inputs; each lane has its own numbers, except for exact ones.
    pub(crate) fn lane(&self, lane: usize) -> Result<Vec<TrackedTensor>> {
        let purpose = ["input", self.op, &self.case.label, &lane.to_string()];
        self.case.inputs.iter().enumerate().map(|(i, sample)| draw(sample, &purpose, i)).collect()
    }

    /// The float inputs.
    pub(crate) fn primals(&self) -> Vec<TrackedTensor> {
        self.floats.iter().map(|&i| self.inputs[i].clone()).collect()
    }

    /// The float outputs.
    pub(crate) fn results(&self) -> Vec<TrackedTensor> {
        floats_of(self.outputs.clone())
    }

    /// Whether there is something to differentiate.
    pub(crate) fn is_differentiable(&self) -> bool {
        !self.floats.is_empty() && self.outputs.iter().any(|y| is_float(y.dtype()))
    }

    /// The case as a function of its float inputs with these other inputs: its float outputs.
    pub(crate) fn call(
        &self,
        inputs: &[TrackedTensor],
        primals: &[TrackedTensor],
    ) -> Result<Vec<TrackedTensor>> {
        let mut inputs = inputs.to_vec();
        for (&i, x) in self.floats.iter().zip(primals) {
            inputs[i] = x.clone();
        }
        Ok(floats_of((self.case.run)(&inputs)?))
    }

    /// The case as a function of its float inputs: its float outputs.
    pub(crate) fn f(&self, primals: &[TrackedTensor]) -> Result<Vec<TrackedTensor>> {
        self.call(&self.inputs, primals)
    }

    /// A direction in the space of the float inputs.
    pub(crate) fn direction(&self) -> Result<Vec<TrackedTensor>> {
        self.drawn("direction", &self.primals())
    }

    /// As [`direction`](Self::direction), at rest in inputs that must not be moved; `None` where
    /// finite differences mean nothing.
    pub(crate) fn smooth_direction(&self) -> Result<Option<Vec<TrackedTensor>>> {
        let mut direction = self.direction()?;
        let mut moves = false;
        for (v, &i) in direction.iter_mut().zip(&self.floats) {
            if matches!(self.case.inputs[i], Sample::Exact { .. }) {
                *v = algebra::zeros_like(v)?;
            } else {
                moves = true;
            }
        }
        Ok((moves && self.case.smooth).then_some(direction))
    }

    /// Cotangents for the float outputs.
    pub(crate) fn cotangents(&self) -> Result<Vec<TrackedTensor>> {
        self.drawn("cotangent", &self.results())
    }

    /// Numbers with the shapes of values.
    pub(crate) fn drawn(&self, role: &str, like: &[TrackedTensor]) -> Result<Vec<TrackedTensor>> {
        let purpose = [role, self.op, &self.case.label];
        like.iter().enumerate().map(|(i, x)| draw_like(x, &purpose, i)).collect()
    }

    /// The case ran; its numbers are finite.
    pub(crate) fn values(&self) -> Result<Outcome, Stop> {
        if self.outputs.is_empty() {
            return Err(Error::msg("the case has no outputs").into());
        }
        for (j, y) in self.outputs.iter().enumerate() {
            if y.is_tracked() {
                return Err(Stop::broken(&format!("output {j}"), "is watched though no input is"));
            }
            if let Some(index) = numbers(y)?.iter().position(|y| !y.is_finite()) {
                return Err(Stop::broken(&format!("output {j}"), format!("is not finite at {index}")));
            }
        }
        Ok(Outcome::Checked)
    }
}

fn floats_of(values: Vec<TrackedTensor>) -> Vec<TrackedTensor> {
    values.into_iter().filter(|y| is_float(y.dtype())).collect()
}
