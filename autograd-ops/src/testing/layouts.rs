//! The same numbers in other memory layouts give the same results.

use super::Outcome;
use super::compare::{all_close, numbers};
use super::report::Stop;
use super::subject::Subject;
use autograd_core::{Error, Result, TrackedTensor, algebra};
use candle_core::{DType, Tensor};

/// A kernel may add up in another order for another layout.
const LAYOUT: f64 = 1e-12;

/// The number in every element of a cotangent that is broadcast from one.
const SEED: f64 = 0.7;

/// A way to lay numbers out in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layout {
    /// With the strides of the reversed shape.
    Transposed,
    /// The same in a candle tensor, which is read in place.
    Candle,
    /// Inside a larger block of NaN.
    Narrowed,
    /// One slice along a dimension, repeated by a stride of 0: other numbers than the sample's.
    Repeated {
        /// Whether along the last dimension, otherwise the first.
        last: bool,
    },
}

const LAYOUTS: [Layout; 5] = [
    Layout::Transposed,
    Layout::Candle,
    Layout::Narrowed,
    Layout::Repeated { last: false },
    Layout::Repeated { last: true },
];

/// Values, gradients and tangents do not depend on the layout of inputs, cotangents and tangents.
pub(crate) fn equal(subject: &Subject<'_>) -> Result<Outcome, Stop> {
    let mut checked = Outcome::NothingToCheck;
    for layout in LAYOUTS {
        let repeated = matches!(layout, Layout::Repeated { .. });
        // Repeated numbers are not the sample's; an op may not take them (a singular matrix).
        let want = match Outputs::of(subject, |x| contiguous(&layout.of(x)?), contiguous) {
            Err(_) if repeated => continue,
            want => want?,
        };
        if repeated && !want.is_finite()? {
            continue;
        }
        let got = Outputs::of(subject, |x| layout.of(x), |x| Ok(x.clone()))?;
        let name = format!("{layout:?}").to_lowercase();
        all_close(&format!("{name} inputs, output"), &got.values, &want.values, LAYOUT)?;
        all_close(&format!("{name} inputs, gradient of input"), &got.gradients, &want.gradients, LAYOUT)?;
        all_close(&format!("{name} inputs, gradient of a sum, input"), &got.of_sum, &want.of_sum, LAYOUT)?;
        all_close(&format!("{name} inputs, tangent of output"), &got.tangents, &want.tangents, LAYOUT)?;
        checked = Outcome::Checked;
    }
    Ok(checked)
}

/// What the case gives for inputs, cotangents and tangents in one layout.
struct Outputs {
    values: Vec<TrackedTensor>,
    gradients: Vec<TrackedTensor>,
    /// Gradients with a cotangent of one number for all elements, as a sum passes it back.
    of_sum: Vec<TrackedTensor>,
    tangents: Vec<TrackedTensor>,
}

impl Outputs {
    /// `laid` lays numbers out; `seeded` does so with the cotangent of a sum.
    fn of(
        subject: &Subject<'_>,
        laid: impl Fn(&TrackedTensor) -> Result<TrackedTensor>,
        seeded: impl Fn(&TrackedTensor) -> Result<TrackedTensor>,
    ) -> Result<Self> {
        let inputs: Vec<TrackedTensor> = subject.inputs.iter().map(&laid).collect::<Result<_>>()?;
        let values = (subject.case.run)(&inputs)?;
        let (mut gradients, mut of_sum, mut tangents) = (Vec::new(), Vec::new(), Vec::new());
        if subject.is_differentiable() {
            let x: Vec<TrackedTensor> = subject.floats.iter().map(|&i| inputs[i].clone()).collect();
            let f = |x: &[TrackedTensor]| subject.call(&inputs, x);
            let u: Vec<TrackedTensor> = subject.cotangents()?.iter().map(&laid).collect::<Result<_>>()?;
            let v: Vec<TrackedTensor> = subject.direction()?.iter().map(&laid).collect::<Result<_>>()?;
            gradients = subject.modes.vjp(&f, &x, &u)?.1;
            let seed = |u: &TrackedTensor| seeded(&algebra::fill(SEED, &u.meta(), u)?);
            let seeds: Vec<TrackedTensor> = u.iter().map(seed).collect::<Result<_>>()?;
            of_sum = subject.modes.vjp(&f, &x, &seeds)?.1;
            tangents = match subject.modes.jvp(&f, &x, &v) {
                Err(Error::UnsupportedMode { .. }) => Vec::new(),
                both => both?.1,
            };
        }
        Ok(Self { values, gradients, of_sum, tangents })
    }

    fn is_finite(&self) -> Result<bool> {
        let all = self.values.iter().chain(&self.gradients).chain(&self.of_sum).chain(&self.tangents);
        for x in all {
            if numbers(x)?.iter().any(|x| !x.is_finite()) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

impl Layout {
    /// x in this layout.
    fn of(self, x: &TrackedTensor) -> Result<TrackedTensor> {
        let (rank, reversed): (usize, Vec<usize>) = (x.rank(), (0..x.rank()).rev().collect());
        match self {
            Layout::Transposed if rank >= 2 => {
                let block = x.tensor()?.permute(reversed.as_slice())?.contiguous()?;
                algebra::permute(&own(&block)?, &reversed)
            }
            Layout::Candle => {
                let block = x.tensor()?.permute(reversed.as_slice())?.contiguous()?;
                TrackedTensor::from_candle(&block.permute(reversed.as_slice())?)
            }
            Layout::Narrowed if x.elem_count() > 0 => narrowed(x),
            Layout::Repeated { last } if rank >= 1 && x.elem_count() > 0 && x.dtype() == DType::F64 => {
                let slice = algebra::narrow(x, if last { rank - 1 } else { 0 }, 0, 1)?;
                algebra::broadcast_to(&slice, x.shape())
            }
            Layout::Transposed | Layout::Narrowed | Layout::Repeated { .. } => Ok(x.clone()),
        }
    }
}

/// x as a window of a block that holds NaN, or the largest integer, all around it.
fn narrowed(x: &TrackedTensor) -> Result<TrackedTensor> {
    let scalar = x.rank() == 0;
    let mut block = x.tensor()?;
    if scalar {
        block = block.reshape(1)?;
    }
    for dim in 0..block.rank() {
        let mut dims = block.dims().to_vec();
        dims[dim] = 1;
        let edge = match x.dtype() {
            DType::U32 => Tensor::full(u32::MAX, dims, block.device())?,
            DType::U8 => Tensor::full(u8::MAX, dims, block.device())?,
            dtype => Tensor::full(f64::NAN, dims, block.device())?.to_dtype(dtype)?,
        };
        block = Tensor::cat(&[&edge, &block, &edge], dim)?;
    }
    let mut window = own(&block)?;
    for dim in 0..block.rank() {
        window = algebra::narrow(&window, dim, 1, block.dims()[dim] - 2)?;
    }
    if scalar { algebra::reshape(&window, x.shape()) } else { Ok(window) }
}

/// The same numbers in row-major order, in memory of their own.
fn contiguous(x: &TrackedTensor) -> Result<TrackedTensor> {
    own(&x.tensor()?)
}

/// A value with a copy of a candle tensor's numbers.
fn own(tensor: &Tensor) -> Result<TrackedTensor> {
    let (flat, dims) = (tensor.flatten_all()?, tensor.dims());
    match tensor.dtype() {
        DType::U32 => TrackedTensor::from_vec(flat.to_vec1::<u32>()?, dims),
        DType::U8 => TrackedTensor::from_vec(flat.to_vec1::<u8>()?, dims),
        DType::F32 => TrackedTensor::from_vec(flat.to_vec1::<f32>()?, dims),
        _ => TrackedTensor::from_vec(flat.to_vec1::<f64>()?, dims),
    }
}
