//! Which number of the output is explained.

use crate::function::Examples;
use autograd_core::{Error, Result, TrackedTensor};
use autograd_ops::TensorAutograd;

/// Which number of each example's output is explained.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Target {
    /// The only one there is.
    #[default]
    Only,
    /// This element of a row: a class.
    Index(usize),
    /// The element at this place, one number for each dimension behind the batch.
    At(Vec<usize>),
    /// For each example its own element of a row.
    Each(Vec<usize>),
    /// For each example its own place.
    EachAt(Vec<Vec<usize>>),
    /// The sum of several.
    Several(Vec<Target>),
}

impl From<usize> for Target {
    fn from(index: usize) -> Self {
        Self::Index(index)
    }
}

impl From<()> for Target {
    fn from((): ()) -> Self {
        Self::Only
    }
}

impl From<&Target> for Target {
    fn from(target: &Target) -> Self {
        target.clone()
    }
}

impl Target {
    /// The same for `n` copies of all examples, one after the other.
    pub(crate) fn repeat(&self, n: usize) -> Self {
        match self {
            Self::Only | Self::Index(_) | Self::At(_) => self.clone(),
            Self::Each(all) => Self::Each(all.repeat(n)),
            Self::EachAt(all) => Self::EachAt((0..n).flat_map(|_| all.iter().cloned()).collect()),
            Self::Several(all) => Self::Several(all.iter().map(|target| target.repeat(n)).collect()),
        }
    }

    /// The same for chosen examples.
    pub(crate) fn of(&self, chosen: &[usize]) -> Self {
        match self {
            Self::Only | Self::Index(_) | Self::At(_) => self.clone(),
            Self::Each(all) => Self::Each(chosen.iter().filter_map(|&i| all.get(i).copied()).collect()),
            Self::EachAt(all) => Self::EachAt(chosen.iter().filter_map(|&i| all.get(i).cloned()).collect()),
            Self::Several(all) => Self::Several(all.iter().map(|target| target.of(chosen)).collect()),
        }
    }

    /// The explained number of each example: a value of shape `[examples]`.
    pub(crate) fn select(&self, y: &TrackedTensor, examples: Examples) -> Result<TrackedTensor> {
        let dims = if examples.batched { &y.dims()[1..] } else { y.dims() };
        let width: usize = dims.iter().product();
        let rows = y.reshape([examples.count, width])?;
        let place = |at: &[usize]| -> Result<usize> {
            let inside = at.len() == dims.len() && at.iter().zip(dims).all(|(i, d)| i < d);
            if !inside {
                let reason = format!("no element {at:?} in an output of shape {dims:?} for each example");
                return Err(Error::argument("target", reason));
            }
            Ok(at.iter().zip(dims).fold(0, |so_far, (i, d)| so_far * d + i))
        };
        let index = |i: usize| match dims {
            [] if i == 0 => Ok(0),
            _ => place(&[i]),
        };
        let column = |k: usize| rows.narrow(1, k, 1)?.reshape([examples.count]);
        let each = |places: Vec<usize>| -> Result<TrackedTensor> {
            if places.len() != examples.count {
                let reason = format!("{} targets given for {} examples", places.len(), examples.count);
                return Err(Error::argument("target", reason));
            }
            let places = places.into_iter().map(|k| k as u32).collect();
            let places = TrackedTensor::from_vec(places, &[examples.count, 1])?;
            rows.gather(places, 1)?.reshape([examples.count])
        };
        match self {
            Self::Only if width == 1 => column(0),
            Self::Only => {
                let reason = format!("the output has {width} numbers for each example: name one of them");
                Err(Error::argument("target", reason))
            }
            Self::Index(i) => column(index(*i)?),
            Self::At(at) => column(place(at)?),
            Self::Each(all) => each(all.iter().map(|i| index(*i)).collect::<Result<_>>()?),
            Self::EachAt(all) => each(all.iter().map(|at| place(at)).collect::<Result<_>>()?),
            Self::Several(all) => {
                let mut sum: Option<TrackedTensor> = None;
                for target in all {
                    let next = target.select(y, examples)?;
                    sum = Some(match sum {
                        Some(sum) => sum.add(&next)?,
                        None => next,
                    });
                }
                sum.ok_or_else(|| Error::argument("target", "an empty list of targets"))
            }
        }
    }
}
