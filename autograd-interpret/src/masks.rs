//! Features: groups of elements that come and go together.

use crate::baseline::Baseline;
use crate::control::Control;
use crate::copies::{copies, joined};
use crate::function::{Examples, Function, numbers, value_of};
use crate::slopes::outputs;
use crate::target::Target;
use autograd_core::algebra::{reshape, select};
use autograd_core::{Error, Result, TrackedTensor, checked_shape};

/// Which feature each element of an input belongs to.
#[derive(Clone, Debug, Default)]
pub enum Features {
    /// Every element is a feature of its own.
    #[default]
    Elements,
    /// For each input the numbers of its elements' features, in the shape of one example or one
    /// that broadcasts to it. Equal numbers are one feature, across inputs too.
    Masks(Vec<TrackedTensor>),
}

impl From<&TrackedTensor> for Features {
    fn from(mask: &TrackedTensor) -> Self {
        Self::Masks(vec![mask.clone()])
    }
}

impl From<Vec<TrackedTensor>> for Features {
    fn from(masks: Vec<TrackedTensor>) -> Self {
        Self::Masks(masks)
    }
}

/// The features of all inputs, numbered from 0.
pub(crate) struct Grouping {
    /// For each input the feature of each element of an example.
    pub(crate) of: Vec<Vec<usize>>,
    pub(crate) count: usize,
}

impl Features {
    pub(crate) fn grouping(
        &self,
        op: &'static str,
        inputs: &[TrackedTensor],
        examples: Examples,
    ) -> Result<Grouping> {
        let masks = match self {
            Self::Elements => {
                let mut count = 0;
                let of = inputs.iter().map(|x| {
                    let start = count;
                    count += examples.elements(x);
                    (start..count).collect()
                });
                let of = of.collect();
                return Ok(Grouping { of, count });
            }
            Self::Masks(masks) if masks.len() == inputs.len() => masks,
            Self::Masks(masks) => {
                let reason = format!("{} feature masks given for {} inputs", masks.len(), inputs.len());
                return Err(Error::argument(op, reason));
            }
        };
        let mut raw: Vec<Vec<i64>> = Vec::new();
        for (mask, x) in masks.iter().zip(inputs) {
            if let Some(error) = mask.failure() {
                return Err(error.clone());
            }
            // A leading 1 may stand for the batch, as Captum has it.
            let dims = examples.dims(x);
            let one = checked_shape(op, dims)?;
            let mut mask = mask.detach()?;
            if mask.rank() == dims.len() + 1 && mask.dims()[0] == 1 {
                mask = reshape(&mask, &checked_shape(op, &mask.dims()[1..])?)?;
            }
            let wide = autograd_core::algebra::broadcast_to(&mask, &one).map_err(|_| {
                Error::shape(
                    op,
                    &[*mask.shape(), one],
                    "a feature mask does not broadcast to an example of its input",
                )
            })?;
            raw.push(numbers(&wide)?.into_iter().map(|n| n as i64).collect());
        }
        let mut names: Vec<i64> = raw.iter().flatten().copied().collect();
        names.sort_unstable();
        names.dedup();
        let place = |name: &i64| names.binary_search(name).unwrap_or(0);
        let of = raw.iter().map(|row| row.iter().map(place).collect()).collect();
        Ok(Grouping { of, count: names.len() })
    }
}

impl Grouping {
    /// A number for each feature of each example, spread over its elements: a value for each
    /// input. `scores` has one row for each example.
    pub(crate) fn spread(&self, scores: &[Vec<f64>], inputs: &[TrackedTensor]) -> Result<Vec<TrackedTensor>> {
        let each = |(of, x): (&Vec<usize>, &TrackedTensor)| {
            let all = scores.iter().flat_map(|row| of.iter().map(|&feature| row[feature])).collect();
            value_of(all, x.dims(), x)
        };
        self.of.iter().zip(inputs).map(each).collect()
    }

    /// Which elements of each input stay when these features do.
    pub(crate) fn elements(&self, keep: &[bool]) -> Vec<Vec<bool>> {
        self.of.iter().map(|of| of.iter().map(|&feature| keep[feature]).collect()).collect()
    }
}

/// A function at inputs of which some elements are replaced by a baseline.
pub(crate) struct Masked<'a> {
    pub(crate) op: &'static str,
    pub(crate) f: &'a Function<'a>,
    pub(crate) inputs: &'a [TrackedTensor],
    pub(crate) start: Vec<TrackedTensor>,
    pub(crate) target: &'a Target,
    pub(crate) examples: Examples,
    /// The output at the inputs themselves.
    pub(crate) whole: Vec<f64>,
    pub(crate) control: &'a Control,
}

impl<'a> Masked<'a> {
    pub(crate) fn new(
        op: &'static str,
        f: &'a Function<'a>,
        inputs: &'a [TrackedTensor],
        baseline: &Baseline,
        target: &'a Target,
        control: &'a Control,
    ) -> Result<Self> {
        let start = baseline.of(op, inputs)?;
        let (whole, examples) = outputs(op, f, inputs, target)?;
        Ok(Self { op, f, inputs, start, target, examples, whole, control })
    }

    /// How many variants go into one evaluation.
    pub(crate) fn at_once(&self) -> usize {
        if self.examples.batched { self.control.copies(self.examples.count) } else { 1 }
    }

    /// The outputs of variants: for each the elements that stay, and a row of examples back.
    pub(crate) fn outputs(&self, keeps: &[Vec<Vec<bool>>]) -> Result<Vec<Vec<f64>>> {
        let mut rows = Vec::with_capacity(keeps.len());
        for part in keeps.chunks(self.at_once()) {
            let n = part.len();
            let mut points = Vec::with_capacity(self.inputs.len());
            for (i, (x, start)) in self.inputs.iter().zip(&self.start).enumerate() {
                let bytes: Vec<u8> =
                    part.iter().flat_map(|keep| keep[i].iter().map(|&k| u8::from(k))).collect();
                if !self.examples.batched {
                    points.push(select(&TrackedTensor::from_vec(bytes, x.dims())?, x, start)?);
                    continue;
                }
                let mut dims = vec![n, 1];
                dims.extend_from_slice(self.examples.dims(x));
                let keep = TrackedTensor::from_vec(bytes, &dims)?;
                let wide = |x: &TrackedTensor| -> Result<TrackedTensor> {
                    let mut dims = vec![n];
                    dims.extend_from_slice(x.dims());
                    reshape(&copies(x, n)?, &checked_shape(self.op, &dims)?)
                };
                points.push(joined(&select(&keep, &wide(x)?, &wide(start)?)?)?);
            }
            let (found, _) = outputs(self.op, self.f, &points, &self.target.repeat(n))?;
            rows.extend(found.chunks(self.examples.count).map(<[f64]>::to_vec));
        }
        Ok(rows)
    }

    /// The outputs of variants that keep some features.
    pub(crate) fn of_features(&self, grouping: &Grouping, keeps: &[Vec<bool>]) -> Result<Vec<Vec<f64>>> {
        let elements: Vec<Vec<Vec<bool>>> = keeps.iter().map(|keep| grouping.elements(keep)).collect();
        self.outputs(&elements)
    }
}
