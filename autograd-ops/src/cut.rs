//! candle's `i`: parts of a value by numbers, ranges and lists of indices.

use crate::index::index_select;
use crate::numbers::sound;
use crate::registry::{Case, Family, Op, Sample};
use crate::slice::{bounds, part};
use autograd_core::algebra::reshape;
use autograd_core::smallvec::SmallVec;
use autograd_core::{Error, Result, Site, TrackedTensor, checked_shape};
use candle_core::Tensor;
use std::ops::{Bound, Range, RangeBounds, RangeFrom, RangeFull, RangeInclusive, RangeTo, RangeToInclusive};

/// What to take of one dimension.
#[derive(Clone, Debug)]
pub enum Cut {
    /// One element; the dimension goes.
    One(usize),
    /// A range.
    Range(Bound<usize>, Bound<usize>),
    /// The elements at these indices (rank 1).
    At(TrackedTensor),
}

impl From<usize> for Cut {
    fn from(i: usize) -> Self {
        Cut::One(i)
    }
}

impl From<&TrackedTensor> for Cut {
    fn from(indices: &TrackedTensor) -> Self {
        Cut::At(indices.clone())
    }
}

impl From<&Tensor> for Cut {
    fn from(indices: &Tensor) -> Self {
        Cut::At(TrackedTensor::from(indices))
    }
}

impl From<&[u32]> for Cut {
    fn from(indices: &[u32]) -> Self {
        let list = TrackedTensor::from_vec(indices.to_vec(), &[indices.len()]);
        Cut::At(list.unwrap_or_else(TrackedTensor::failed))
    }
}

macro_rules! ranges {
    ($($range:ty),*) => {$(
        impl From<$range> for Cut {
            fn from(range: $range) -> Self {
                Cut::Range(range.start_bound().cloned(), range.end_bound().cloned())
            }
        }
    )*};
}

ranges!(Range<usize>, RangeFrom<usize>, RangeInclusive<usize>, RangeTo<usize>, RangeToInclusive<usize>);

impl From<RangeFull> for Cut {
    fn from(_: RangeFull) -> Self {
        Cut::Range(Bound::Unbounded, Bound::Unbounded)
    }
}

/// Cuts of the first dimensions: one, or a tuple with one for each dimension.
pub trait Cuts {
    /// The cuts.
    fn list(self) -> SmallVec<[Cut; 4]>;
}

impl<A: Into<Cut>> Cuts for A {
    fn list(self) -> SmallVec<[Cut; 4]> {
        [self.into()].into_iter().collect()
    }
}

macro_rules! tuples {
    ($(($($name:ident),*))*) => {$(
        impl<$($name: Into<Cut>),*> Cuts for ($($name,)*) {
            #[allow(non_snake_case, reason = "type parameters name the fields")]
            fn list(self) -> SmallVec<[Cut; 4]> {
                let ($($name,)*) = self;
                [$($name.into()),*].into_iter().collect()
            }
        }
    )*};
}

tuples! { (A) (A, B) (A, B, C) (A, B, C, D) (A, B, C, D, E) (A, B, C, D, E, F) }

/// A part of x: `i(x, (.., 1..3, 0))`. Numbers take one element and their dimension goes, ranges a
/// view, lists of indices a copy; dimensions that are not named stay whole.
///
/// # Errors
/// More cuts than dimensions; elements that are not there.
#[track_caller]
pub fn i(x: &TrackedTensor, cuts: impl Cuts) -> Result<TrackedTensor> {
    sound(x)?;
    let site = Site::caller();
    let cuts = cuts.list();
    if cuts.len() > x.rank() {
        let reason = format!("{} cuts", cuts.len());
        return Err(Error::shape("i", &[*x.shape()], reason).or_at(site));
    }
    let mut steps: SmallVec<[(usize, usize, usize); 4]> = SmallVec::new();
    let mut shape: SmallVec<[usize; 8]> = SmallVec::new();
    let mut lists: SmallVec<[(usize, &TrackedTensor); 2]> = SmallVec::new();
    for (d, &extent) in x.dims().iter().enumerate() {
        let (start, end) = match cuts.get(d) {
            None => (0, extent),
            Some(Cut::One(i)) => (*i, i.saturating_add(1)),
            Some(Cut::Range(start, end)) => bounds(&(*start, *end), extent),
            Some(Cut::At(indices)) => {
                lists.push((shape.len(), indices));
                (0, extent)
            }
        };
        if start > end || end > extent {
            let reason =
                format!("elements {start}..{end} of dimension {d} are not all in shape {}", x.shape());
            return Err(Error::argument("i", reason).or_at(site));
        }
        steps.push((start, end - start, 1));
        if !matches!(cuts.get(d), Some(Cut::One(_))) {
            shape.push(end - start);
        }
    }
    let whole = steps.iter().zip(x.dims()).all(|(&(_, len, _), &extent)| len == extent);
    let mut y = if whole { x.clone() } else { part(x, steps)? };
    y = reshape(&y, &checked_shape("i", &shape)?)?;
    for (d, indices) in lists {
        y = index_select(&y, autograd_core::algebra::beside(indices.clone(), x)?, d as isize)?;
    }
    Ok(y)
}

/// The ops of this file.
pub fn ops() -> Vec<Op> {
    fn one(
        label: &str,
        dims: &[usize],
        run: impl Fn(&TrackedTensor) -> Result<TrackedTensor> + Send + Sync + 'static,
    ) -> Case {
        Case::new(label, vec![Sample::float(dims)], move |x| run(&x[0]))
    }
    let cases = || {
        vec![
            one("a row", &[3, 2], |x| i(x, 1)),
            one("a block", &[3, 4], |x| i(x, (1.., ..=2))),
            one("a column of a batch", &[2, 3, 2], |x| i(x, (.., .., 1))),
            one("a list", &[3, 4], |x| i(x, (0..2, &[3u32, 0, 3][..]))),
            one("all", &[2], |x| i(x, ..)),
            one("nothing", &[2, 3], |x| i(x, (.., 2..2))),
        ]
    };
    vec![Op { name: "i", family: Family::Shape, formula: "a part by numbers, ranges and indices", cases }]
}

/// The methods of this file.
#[macro_export]
#[doc(hidden)]
macro_rules! cut_methods {
    ($($callback:tt)*) => {
        $($callback)* {
            unary {}
            binary {}
            other {
                /// A part by numbers, ranges and lists of indices, as candle's `i`.
                i(cuts: impl $crate::Cuts) -> autograd_core::TrackedTensor = $crate::cut::i;
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TensorAutograd;

    #[test]
    fn cuts_read_as_in_candle() -> Result<()> {
        let x = TrackedTensor::from_vec((0..12).map(f64::from).collect(), &[3, 4])?;
        assert_eq!(x.i(1)?.to_vec1::<f64>()?, [4., 5., 6., 7.]);
        assert_eq!(x.i((.., 3))?.to_vec1::<f64>()?, [3., 7., 11.]);
        assert_eq!(x.i((2, 3))?.to_vec0::<f64>()?, 11.);
        assert_eq!(x.i((1.., 1..3))?.to_vec2::<f64>()?, [[5., 6.], [9., 10.]]);
        assert!(matches!(x.i(3), Err(Error::InvalidArgument { op: "i", .. })));
        assert!(x.i((0, 0, 0)).is_err());
        Ok(())
    }
}
