//! The functions that are explained, and how their inputs divide into examples.

use autograd_core::{Error, Result, Site, TrackedTensor, is_float};

/// What is explained: any function of some values, a model's forward pass.
///
/// Inputs that carry a batch have it in front; the output then has the same extent in front. An
/// output of another first extent, or of none, is that of one example.
pub type Function<'f> = dyn Fn(&[TrackedTensor]) -> Result<TrackedTensor> + 'f;

/// A function of one value as a [`Function`] of a list.
///
/// ```
/// use autograd_core::{Result, TrackedTensor};
/// use autograd_interpret::{Method, Saliency, Target, single};
///
/// fn main() -> Result<()> {
///     let x = TrackedTensor::from_vec(vec![3.0, -1.0], &[2])?;
///     let f = single(|x| x * x); // a batch of two examples
///     let found = Saliency::new().attribute(&f, &[x], &Target::Only)?;
///     assert_eq!(found.value().to_vec1::<f64>()?, [6.0, 2.0]);
///     Ok(())
/// }
/// ```
pub fn single<'f>(
    f: impl Fn(&TrackedTensor) -> Result<TrackedTensor> + 'f,
) -> impl Fn(&[TrackedTensor]) -> Result<TrackedTensor> + 'f {
    move |inputs| match inputs {
        [x] => f(x),
        _ => Err(Error::argument("single", format!("{} inputs given to a function of one", inputs.len()))),
    }
}

/// How inputs divide into examples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Examples {
    pub(crate) count: usize,
    /// Whether the inputs carry them in front; otherwise all of an input is one example.
    pub(crate) batched: bool,
}

impl Examples {
    /// The examples of inputs that gave the output `y`.
    pub(crate) fn of(inputs: &[TrackedTensor], y: &TrackedTensor) -> Self {
        let rows = y.dims().first().copied();
        let batched = rows.is_some() && inputs.iter().all(|x| x.dims().first().copied() == rows);
        Self { count: if batched { rows.unwrap_or(1) } else { 1 }, batched }
    }

    /// The extents of one example of an input.
    pub(crate) fn dims<'a>(&self, x: &'a TrackedTensor) -> &'a [usize] {
        &x.dims()[usize::from(self.batched)..]
    }

    /// The number of elements of one example of an input.
    pub(crate) fn elements(&self, x: &TrackedTensor) -> usize {
        self.dims(x).iter().product()
    }
}

/// Inputs that can be attributed to: at least one, all floats, none empty or failed.
pub(crate) fn check_inputs(op: &'static str, inputs: &[TrackedTensor], site: Site) -> Result<()> {
    if inputs.is_empty() {
        return Err(Error::argument(op, "no inputs were given").or_at(site));
    }
    for (i, x) in inputs.iter().enumerate() {
        if let Some(error) = x.failure() {
            return Err(error.clone());
        }
        if !is_float(x.dtype()) {
            let hint = "attribute to an embedding of it: name that with tap, and use a layer method";
            return Err(Error::dtype(op, x.dtype(), hint).or_at(site));
        }
        if x.elem_count() == 0 {
            let reason = format!("input {i} of shape {} has no elements", x.shape());
            return Err(Error::argument(op, reason).or_at(site));
        }
    }
    Ok(())
}

/// Numbers as f64, in row-major order.
pub(crate) fn numbers(x: &TrackedTensor) -> Result<Vec<f64>> {
    Ok(x.tensor()?.to_dtype(candle_core::DType::F64)?.flatten_all()?.to_vec1()?)
}

/// Numbers as a value of a shape, in the type of `like`.
pub(crate) fn value_of(numbers: Vec<f64>, dims: &[usize], like: &TrackedTensor) -> Result<TrackedTensor> {
    autograd_ops::shape::to_dtype(&TrackedTensor::from_vec(numbers, dims)?, like.dtype())
}
