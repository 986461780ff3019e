//! A batch gives what a loop gives.

use super::Outcome;
use super::compare::{close, numbers};
use super::report::{Reason, Stop};
use super::subject::Subject;
use autograd_core::{Mask, Result, Shape, TrackedTensor};
use candle_core::Tensor;

/// The number of lanes.
const LANES: usize = 2;

/// A batch may sum in another order than a loop.
const LOOP: f64 = 1e-11;

/// vmap = loop: each float input mapped alone, all of them, and all inputs of whatever type; for
/// values, and for the gradients with cotangents that are mapped too.
pub(crate) fn equals_loop(subject: &Subject<'_>) -> Result<Outcome, Stop> {
    let n = subject.inputs.len();
    if n == 0 {
        return Ok(Outcome::NothingToCheck);
    }
    let lanes: Vec<Vec<TrackedTensor>> = (0..LANES).map(|lane| subject.lane(lane)).collect::<Result<_>>()?;
    let mut masks: Vec<Mask> = subject.floats.iter().map(|&i| Mask::one(i)).collect();
    for mask in [subject.floats.iter().copied().collect(), Mask::first(n)] {
        if !mask.is_empty() && !masks.contains(&mask) {
            masks.push(mask);
        }
    }
    for mask in masks {
        let run = |inputs: &[TrackedTensor]| (subject.case.run)(inputs);
        compare(subject, &run, &lanes, mask, "output")?;
        if subject.is_differentiable() {
            gradients(subject, &lanes, mask)?;
        }
    }
    Ok(Outcome::Checked)
}

/// The vjp as a function of all inputs and then the cotangents.
fn gradients(subject: &Subject<'_>, lanes: &[Vec<TrackedTensor>], mapped: Mask) -> Result<(), Stop> {
    let n = subject.inputs.len();
    let results = subject.results();
    let mut all = mapped;
    let mut with_cotangents = Vec::with_capacity(LANES);
    for (lane, inputs) in lanes.iter().enumerate() {
        let mut inputs = inputs.clone();
        inputs.extend(subject.drawn(&format!("cotangent of lane {lane}"), &results)?);
        with_cotangents.push(inputs);
    }
    // With every float input mapped the cotangents are too, otherwise they are shared.
    if subject.floats.iter().all(|&i| mapped.has(i)) {
        all = (n..n + results.len()).fold(all, Mask::with);
    }
    let vjp = |arguments: &[TrackedTensor]| -> Result<Vec<TrackedTensor>> {
        let (inputs, cotangents) = arguments.split_at(n);
        let primals: Vec<TrackedTensor> = subject.floats.iter().map(|&i| inputs[i].clone()).collect();
        let f = |x: &[TrackedTensor]| subject.call(inputs, x);
        Ok(subject.modes.vjp(&f, &primals, cotangents)?.1)
    };
    compare(subject, &vjp, &with_cotangents, all, "gradient")
}

fn compare(
    subject: &Subject<'_>,
    f: &super::Function<'_>,
    lanes: &[Vec<TrackedTensor>],
    mapped: Mask,
    role: &str,
) -> Result<(), Stop> {
    let shared = |lane: &[TrackedTensor]| -> Vec<TrackedTensor> {
        (0..lane.len()).map(|i| if mapped.has(i) { lane[i].clone() } else { lanes[0][i].clone() }).collect()
    };
    let arguments: Vec<TrackedTensor> =
        (0..lanes[0].len())
            .map(|i| {
                if mapped.has(i) { stack(lanes.iter().map(|lane| &lane[i])) } else { Ok(lanes[0][i].clone()) }
            })
            .collect::<Result<_>>()?;
    let got = subject.modes.vmap(f, &arguments, mapped)?;
    let each: Vec<Vec<TrackedTensor>> =
        lanes.iter().map(|lane| f(&shared(lane))).collect::<Result<Vec<_>>>()?;
    if got.len() != each[0].len() {
        return Err(Stop::broken("the batch", format!("has {} {role}s, not {}", got.len(), each[0].len())));
    }
    for (j, got) in got.iter().enumerate() {
        let place = format!("{role} {j} with inputs {mapped:?} mapped");
        let mut dims = vec![LANES];
        dims.extend_from_slice(each[0][j].dims());
        let want = Shape::try_new(&dims).ok_or_else(|| Stop::broken(&place, "has too many dimensions"))?;
        if *got.shape() != want {
            return Err(Stop::Wrong(
                place,
                Reason::Shape { got: Box::new(*got.shape()), want: Box::new(want) },
            ));
        }
        let mut looped = Vec::new();
        for lane in &each {
            looped.extend(numbers(&lane[j])?);
        }
        close(&place, &numbers(got)?, &looped, LOOP)?;
    }
    Ok(())
}

fn stack<'a>(lanes: impl Iterator<Item = &'a TrackedTensor>) -> Result<TrackedTensor> {
    let tensors: Vec<Tensor> = lanes.map(TrackedTensor::tensor).collect::<Result<_>>()?;
    TrackedTensor::from_candle(&Tensor::stack(&tensors, 0)?)
}
