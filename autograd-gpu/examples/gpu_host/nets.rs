//! Small nets as captured steps, compared with the CPU's: what a CUDA graph must give.

use autograd_core::{DType, Result, TrackedTensor, algebra};
use autograd_graph::{jit, value_and_grad};
use autograd_ops::attention::scaled_dot_product_attention;
use autograd_ops::testing::Place;
use autograd_ops::{TensorAutograd, conv, index, loss, norm};

/// Roundings of sums in another order, for numbers around 1; of half floats on the way, too.
const F64: f64 = 1e-11;
const F32: f64 = 2e-5;
const HALF: f64 = 2e-2;

/// Runs of a step: the first one is not replayed yet.
const ROUNDS: usize = 3;

/// A net: its loss, and the shapes of what it reads; indices stay below their bound.
pub(crate) struct Net {
    pub(crate) name: &'static str,
    inputs: Vec<Kind>,
    /// Whether it has products of matrices.
    products: bool,
    loss: fn(&[TrackedTensor]) -> Result<TrackedTensor>,
}

enum Kind {
    Float(&'static [usize]),
    Index(usize, u32),
    SmallIndex(usize, u8),
    /// Below the bound, or -100 in every fourth place: classes that are ignored.
    Class(&'static [usize], i64, bool),
    Seen(&'static [usize]),
    /// Of three numbers: windows have equal maxima.
    Tied(&'static [usize]),
}

impl Kind {
    fn value(&self, round: usize, dtype: DType) -> Result<TrackedTensor> {
        let number = |i: usize| ((i * 37 + round * 11) % 23) as f64 / 16.0 - 0.7;
        match *self {
            Kind::Float(dims) => {
                let n = dims.iter().product::<usize>();
                algebra::cast(&TrackedTensor::from_vec((0..n).map(number).collect(), dims)?, dtype)
            }
            Kind::Index(n, bound) => {
                let of = |i: usize| (i * 5 + round) as u32 % bound;
                TrackedTensor::from_vec((0..n).map(of).collect(), &[n])
            }
            Kind::SmallIndex(n, bound) => {
                let of = |i: usize| ((i * 5 + round) % usize::from(bound)) as u8;
                TrackedTensor::from_vec((0..n).map(of).collect(), &[n])
            }
            Kind::Class(dims, bound, ignoring) => {
                let n = dims.iter().product::<usize>();
                let of = |i: usize| match ignoring && (i + round).is_multiple_of(4) {
                    true => -100,
                    false => (i * 5 + round) as i64 % bound,
                };
                TrackedTensor::from_vec((0..n).map(of).collect(), dims)
            }
            Kind::Tied(dims) => {
                let n = dims.iter().product::<usize>();
                let of = |i: usize| ((i * 7 + i / 5 + round) % 3) as f64 / 2.0;
                algebra::cast(&TrackedTensor::from_vec((0..n).map(of).collect(), dims)?, dtype)
            }
            Kind::Seen(dims) => {
                let n = dims.iter().product::<usize>();
                TrackedTensor::from_vec(
                    (0..n).map(|i| u8::from(!(i + round).is_multiple_of(3))).collect(),
                    dims,
                )
            }
        }
    }
}

pub(crate) fn nets() -> Vec<Net> {
    use Kind::{Class, Float, Index, Seen, SmallIndex, Tied};
    vec![
        Net {
            name: "an expression with a sum",
            inputs: vec![Float(&[3, 5]), Float(&[5])],
            products: false,
            loss: |x| x[0].mul(&x[1])?.tanh()?.sum(),
        },
        Net {
            name: "classes of embedded words",
            inputs: vec![
                Float(&[9, 6]),
                Float(&[6, 7]),
                Float(&[7]),
                Float(&[7, 4]),
                Index(5, 9),
                Index(5, 4),
            ],
            products: true,
            loss: |x| {
                let h = index::embedding(&x[0], &x[4])?.matmul(&x[1])?.add(&x[2])?.gelu()?;
                let h = norm::layer_norm_with(&h, 1, None, None, 1e-3)?;
                loss::cross_entropy(&h.matmul(&x[3])?, &x[5])
            },
        },
        Net {
            name: "layers with biases",
            inputs: vec![Float(&[5, 6]), Float(&[7, 6]), Float(&[7]), Float(&[3, 7]), Float(&[3])],
            products: true,
            loss: |x| x[0].linear(&x[1], Some(&x[2]))?.relu()?.linear(&x[3], Some(&x[4]))?.sqr()?.sum(),
        },
        Net {
            name: "a block of a transformer",
            inputs: vec![Float(&[2, 5, 8]), Float(&[8, 24]), Float(&[8, 8]), Float(&[8]), Seen(&[5, 5])],
            products: true,
            loss: |x| {
                let h = norm::rms_norm(&x[0], &x[3], 1e-3)?;
                let qkv = h.matmul(&x[1])?;
                let heads = |i: usize| qkv.narrow(-1, 8 * i, 8)?.reshape((2, 5, 2, 4))?.transpose(1, 2);
                let y = scaled_dot_product_attention(
                    &heads(0)?,
                    &heads(1)?,
                    &heads(2)?,
                    Some(&x[4].transpose(0, 1)?),
                    true,
                    None,
                )?;
                let y = y.transpose(1, 2)?.reshape((2, 5, 8))?.matmul(&x[2])?.add(&x[0])?;
                y.mul(&y.silu()?)?.mean()
            },
        },
        Net {
            name: "rows by small indices",
            inputs: vec![Float(&[9, 6]), SmallIndex(5, 9)],
            products: false,
            loss: |x| index::embedding(&x[0], &x[1])?.sin()?.sum(),
        },
        Net {
            name: "attention in products",
            inputs: vec![Float(&[2, 3, 4, 5]), Float(&[2, 3, 6, 5])],
            products: true,
            loss: |x| {
                let scores = x[0].matmul(&x[1].transpose(-1, -2)?)?.softmax(-1)?;
                scores.matmul(&x[1])?.sqr()?.sum()
            },
        },
        Net {
            name: "convolutions",
            inputs: vec![Float(&[2, 3, 9, 8]), Float(&[4, 3, 3, 3]), Float(&[4, 4, 3, 3]), Float(&[4])],
            products: false,
            loss: |x| {
                let y = conv::conv2d(&x[0], &x[1], 1, 1, 1, 1)?.relu()?;
                let y = conv::conv2d(&y, &x[2], 1, 2, 1, 1)?.add(&x[3].reshape((4, 1, 1))?)?;
                y.mean_keepdim(vec![2usize, 3])?.reshape((2, 4))?.log_softmax(-1)?.sqr()?.mean()
            },
        },
        Net {
            name: "a net for digits",
            inputs: vec![
                Float(&[8, 1, 8, 8]),
                Float(&[3, 1, 3, 3]),
                Float(&[3]),
                Float(&[4, 3, 3, 3]),
                Float(&[4]),
                Float(&[16, 10]),
                Float(&[10]),
                Class(&[8], 10, false),
            ],
            products: true,
            loss: digits,
        },
        Net {
            name: "windows with equal maxima",
            inputs: vec![Tied(&[2, 3, 7, 6]), Float(&[6, 4, 6])],
            products: false,
            loss: |x| {
                let y = x[0].max_pool2d_with((3, 2), (2, 1), (1, 0))?.reshape((6, 4, 5))?;
                y.mul(&x[1].narrow(2, 1, 5)?)?.sum()
            },
        },
        Net {
            name: "batch norm in training",
            inputs: vec![
                Float(&[3, 2, 5, 4]),
                Float(&[4, 2, 3, 3]),
                Float(&[4]),
                Float(&[4]),
                Float(&[4]),
                Float(&[4]),
            ],
            products: false,
            loss: |x| {
                let y = conv::conv2d(&x[0], &x[1], 1, 1, 1, 1)?;
                let y = norm::batch_norm_train(&y, &x[2], &x[3], Some(&x[4]), Some(&x[5]), 0.1, 1e-3)?;
                let carried = y.running_mean.add(&y.running_var)?.mean()?;
                y.output.relu()?.sqr()?.mean()?.add(&carried)
            },
        },
        Net {
            name: "a step of a language model",
            inputs: vec![
                Float(&[11, 8]),
                Float(&[8, 8]),
                Float(&[8]),
                Class(&[2, 6], 11, false),
                Class(&[2, 6], 11, true),
            ],
            products: true,
            loss: |x| {
                let h = index::embedding(&x[0], &x[3])?;
                let h = norm::rms_norm(&h, &x[2], 1e-3)?.matmul(&x[1])?.silu()?.add(&h)?;
                // The table's rows are the weights of the classes, too.
                let logits = h.reshape((12, 8))?.matmul(&x[0].t()?)?;
                loss::cross_entropy(&logits, &x[4].reshape((12,))?)
            },
        },
        Net {
            name: "parts put together",
            inputs: vec![Float(&[3, 4]), Float(&[3, 2])],
            products: false,
            loss: |x| {
                let whole = TrackedTensor::cat(&[&x[0], &x[1], &x[0].narrow(1, 1, 2)?], 1)?;
                whole.transpose(0, 1)?.reshape([4, 6])?.exp()?.narrow(0, 1, 2)?.sqr()?.sum()
            },
        },
    ]
}

/// Two convolutions with pooling, and a linear layer: eight images, ten classes.
fn digits(x: &[TrackedTensor]) -> Result<TrackedTensor> {
    let mut y = x[0].clone();
    for layer in x[1..5].chunks(2) {
        y = conv::conv2d_bias(&y, &layer[0], &layer[1], 1, 1, 1, 1)?.relu()?.max_pool2d(2)?;
    }
    loss::cross_entropy(&y.flatten_from(1)?.matmul(&x[5])?.add(&x[6])?, &x[7])
}

/// The most that a number may be off, for each type.
fn tolerance(dtype: DType) -> f64 {
    match dtype {
        DType::F64 => F64,
        DType::F32 => F32,
        _ => HALF,
    }
}

impl Net {
    /// The types that it is compared in: the emulation has no products of halves.
    pub(crate) fn types(&self, products_of_halves: bool) -> &'static [DType] {
        if products_of_halves || !self.products {
            &[DType::F64, DType::F32, DType::F16, DType::BF16]
        } else {
            &[DType::F64, DType::F32]
        }
    }

    /// The first difference between the step where `place` puts its inputs and the step here, both
    /// captured once and run on several inputs.
    pub(crate) fn difference(&self, dtype: DType, place: &Place<'_>) -> Result<Option<String>> {
        let (here, there) = (jit(value_and_grad(self.loss)), jit(value_and_grad(self.loss)));
        for round in 0..ROUNDS {
            let values: Vec<TrackedTensor> =
                self.inputs.iter().map(|kind| kind.value(round, dtype)).collect::<Result<_>>()?;
            let far: Vec<TrackedTensor> = values.iter().map(place).collect::<Result<_>>()?;
            let want = here.call(&values.iter().collect::<Vec<_>>())?;
            let got = there.call(&far.iter().collect::<Vec<_>>())?;
            let metas = |x: &[TrackedTensor]| x.iter().map(|x| (*x.shape(), x.dtype())).collect::<Vec<_>>();
            if metas(&got) != metas(&want) {
                return Ok(Some(format!("{}: {:?}, not {:?}", self.name, metas(&got), metas(&want))));
            }
            for (i, (got, want)) in got.iter().zip(&want).enumerate() {
                let flat = |x: &TrackedTensor| algebra::cast(x, DType::F64)?.to_flat::<f64>();
                for (a, b) in flat(got)?.iter().zip(flat(want)?) {
                    let close = (a - b).abs() <= tolerance(dtype) * b.abs().max(1.0);
                    if !close {
                        let place = format!("run {round}, output {i}");
                        return Ok(Some(format!("{} in {dtype:?}, {place}: {a}, not {b}", self.name)));
                    }
                }
            }
        }
        Ok(None)
    }
}
