//! Writing whole slices at indices of the first dimensions (PyTorch's `index_put`).

use crate::index::{IndexAdd, scatter_add};
use crate::numbers::sound;
use crate::registry::{Case, Family, Op, Sample};
use crate::scatter::scatter;
use autograd_core::algebra::{broadcast_to, reshape};
use autograd_core::smallvec::SmallVec;
use autograd_core::{Error, Result, Shape, Site, TrackedTensor, apply_one, checked_shape};

/// Where an [`index_put`] writes: x seen as [rows, elements of a row], and a row for each index.
pub(crate) struct Place {
    /// x's shape with the indexed dimensions as one.
    pub(crate) rows: Shape,
    /// A row's number for each index: rank 1.
    pub(crate) indices: TrackedTensor,
    /// The values, one row for each index: the shape of `rows` with their number in front.
    pub(crate) values: TrackedTensor,
    /// The row's number repeated for each element of the values.
    pub(crate) spread: TrackedTensor,
}

impl Place {
    /// Checks and aligns the arguments of an `index_put`.
    #[track_caller]
    pub(crate) fn of(
        x: &TrackedTensor,
        indices: &[&TrackedTensor],
        values: impl Into<TrackedTensor>,
    ) -> Result<Self> {
        let (site, values) = (Site::caller(), values.into());
        sound(x)?;
        sound(&values)?;
        let refused = |reason: String| Error::argument("index_put", reason).or_at(site);
        if indices.is_empty() || indices.len() > x.rank() {
            let reason = format!("{} indices given for shape {}", indices.len(), x.shape());
            return Err(refused(reason));
        }
        let mut at = *indices[0].shape();
        for index in indices {
            sound(index)?;
            let shapes = [at, *index.shape()];
            at = shapes[0].broadcast(&shapes[1]).ok_or_else(|| {
                Error::shape("index_put", &shapes, "the indices do not broadcast").or_at(site)
            })?;
        }
        let (first, rest) = x.dims().split_at(indices.len());
        let rows: usize = first.iter().product();
        let count = at.elements();
        let flat = match indices {
            [index] => reshape(index, &checked_shape("index_put", &[count])?)?,
            _ => row_numbers(first, indices, &at).map_err(|error| error.or_at(site))?,
        };
        let shape = |front: &[usize]| {
            let dims: SmallVec<[usize; 8]> = front.iter().chain(rest).copied().collect();
            checked_shape("index_put", &dims).map_err(|error| error.or_at(site))
        };
        let (whole, in_rows) = (shape(at.dims())?, shape(&[count])?);
        if Some(whole) != values.shape().broadcast(&whole) {
            let reason = "the values do not broadcast to one slice for each index";
            return Err(Error::shape("index_put", &[*x.shape(), whole, *values.shape()], reason).or_at(site));
        }
        let values = reshape(&broadcast_to(&values, &whole)?, &in_rows)?;
        let mut one = SmallVec::<[usize; 8]>::from_elem(1, in_rows.rank());
        one[0] = count;
        let spread = broadcast_to(&reshape(&flat, &checked_shape("index_put", &one)?)?, &in_rows)?;
        Ok(Self { rows: shape(&[rows])?, indices: flat, values, spread })
    }
}

/// The row-major number of each index among the first dimensions.
fn row_numbers(dims: &[usize], indices: &[&TrackedTensor], at: &Shape) -> Result<TrackedTensor> {
    let mut rows = vec![0i64; at.elements()];
    for (d, (index, &extent)) in indices.iter().zip(dims).enumerate() {
        let wide = broadcast_to(index, at)?.tensor()?.to_dtype(candle_core::DType::I64)?;
        for (position, (row, i)) in rows.iter_mut().zip(wide.flatten_all()?.to_vec1::<i64>()?).enumerate() {
            if usize::try_from(i).is_ok_and(|i| i < extent) {
                *row = *row * extent as i64 + i;
                continue;
            }
            let reason = format!("index {i} (number {position} of dimension {d}) is not in 0 .. {extent}");
            return Err(Error::argument("index_put", reason));
        }
    }
    let rows = TrackedTensor::from_vec(rows, &[at.elements()])?;
    indices.first().map_or(Ok(rows.clone()), |index| autograd_core::algebra::beside(rows.clone(), index))
}

/// x with a slice of `values` written for each index, or added to it where `accumulate` says so:
/// `x[indices[0][p], indices[1][p], ..] = values[p]`. The indices broadcast to one shape, the
/// values to that shape and x's other dimensions. Of equal indices the last wins, and has the
/// cotangent alone; added values all have it.
///
/// # Errors
/// No indices, or more than x has dimensions; shapes that do not broadcast; indices out of range;
/// with several indices, ones that are batched or captured.
#[track_caller]
pub fn index_put(
    x: &TrackedTensor,
    indices: &[&TrackedTensor],
    values: impl Into<TrackedTensor>,
    accumulate: bool,
) -> Result<TrackedTensor> {
    let place = Place::of(x, indices, values)?;
    let rows = reshape(x, &place.rows)?;
    let written = if !accumulate {
        scatter(&rows, &place.spread, &place.values, 0)?
    } else if place.rows.rank() == 1 {
        scatter_add(&rows, &place.indices, &place.values, 0)?
    } else {
        apply_one(&IndexAdd { dim: 0 }, &[&rows, &place.indices, &place.values])?
    };
    reshape(&written, x.shape())
}

/// The ops of this file.
pub fn ops() -> Vec<Op> {
    fn case(label: &str, x: &[usize], index: (&[usize], u32), values: &[usize], accumulate: bool) -> Case {
        let inputs = vec![Sample::float(x), Sample::index(index.0, index.1), Sample::float(values)];
        Case::new(label, inputs, move |v| index_put(&v[0], &[&v[1]], &v[2], accumulate))
    }
    let cases = || {
        vec![
            case("rows", &[3, 2], (&[2], 3), &[2, 2], false),
            case("one row for all", &[3, 2], (&[4], 3), &[2], false),
            case("indices of rank 2", &[4, 2], (&[2, 2], 4), &[2, 2, 2], false),
            case("elements", &[4], (&[3], 4), &[3], false),
            case("rows added", &[3, 2], (&[4], 3), &[4, 2], true),
            case("elements added", &[4], (&[3], 4), &[3], true),
        ]
    };
    let formula = "x with values written (or added) at indices of its first dimensions";
    vec![Op { name: "index_put", family: Family::Shape, formula, cases }]
}

/// The methods of this file.
#[macro_export]
#[doc(hidden)]
macro_rules! put_methods {
    ($($callback:tt)*) => {
        $($callback)* {
            unary {}
            binary {}
            other {
                /// This value with slices written, or added, at indices of its first dimensions.
                index_put(indices: &[&autograd_core::TrackedTensor], values: impl Into<autograd_core::TrackedTensor>, accumulate: bool) -> autograd_core::TrackedTensor = $crate::put::index_put;
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use autograd_tape::GradientTape;

    #[test]
    fn two_indices_write_elements_and_the_last_of_equal_ones_wins() -> Result<()> {
        let tape = GradientTape::new();
        let x = tape.variable(TrackedTensor::from_vec(vec![0f64; 6], &[2, 3])?);
        let values = tape.variable(TrackedTensor::from_vec(vec![1f64, 2., 3.], &[3])?);
        let rows = TrackedTensor::from_vec(vec![0u32, 1, 0], &[3])?;
        let columns = TrackedTensor::from_vec(vec![2u32, 0, 2], &[3])?;
        let y = index_put(&x, &[&rows, &columns], &values, false)?;
        assert_eq!(y.to_flat::<f64>()?, [0., 0., 3., 2., 0., 0.]);
        let grads = tape.gradient_with(&[&y], &[&autograd_core::algebra::ones_like(&y)?], &[&x, &values])?;
        assert_eq!(grads[0].to_flat::<f64>()?, [1., 1., 0., 0., 1., 1.]);
        assert_eq!(grads[1].to_flat::<f64>()?, [0., 1., 1.]);
        Ok(())
    }

    #[test]
    fn wrong_indices_are_errors() -> Result<()> {
        let x = TrackedTensor::from_vec(vec![0f64; 6], &[2, 3])?;
        let far = TrackedTensor::from_vec(vec![2u32], &[1])?;
        let one = TrackedTensor::from_vec(vec![1u32], &[1])?;
        let value = TrackedTensor::scalar(1.0);
        for indices in [&[&far][..], &[&one, &TrackedTensor::from_vec(vec![3u32], &[1])?], &[], &[&one; 3]] {
            let error = index_put(&x, indices, &value, false).expect_err("out of range");
            assert!(error.site().is_some_and(|site| site.file().ends_with("put.rs")), "{error}");
        }
        Ok(())
    }
}
