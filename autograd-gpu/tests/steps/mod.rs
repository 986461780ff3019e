//! Captured steps as sequences: the launches that a CUDA graph would hold, executed over the offsets of
//! one arena, give what the steps give on the CPU.

use crate::EMULATOR;
use crate::emulator::{message, wholes};
use autograd_core::testing::elsewhere;
use autograd_core::{DType, Result, TrackedTensor, algebra};
use autograd_gpu::sources;
use autograd_graph::{jit, value_and_grad};
use autograd_ops::attention::scaled_dot_product_attention;
use autograd_ops::{TensorAutograd, conv, index, loss, norm};

/// Roundings of sums in another order, for numbers around 1; of half floats on the way, too.
const F64: f64 = 1e-11;
const F32: f64 = 2e-5;
const HALF: f64 = 2e-2;

/// A net: its loss, and the shapes of what it reads; indices stay below their bound.
struct Net {
    name: &'static str,
    inputs: Vec<Kind>,
    /// The emulation has no products of halves.
    products: bool,
    loss: fn(&[TrackedTensor]) -> Result<TrackedTensor>,
}

enum Kind {
    Float(&'static [usize]),
    Index(usize, u32),
    SmallIndex(usize, u8),
    Seen(&'static [usize]),
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

fn nets() -> Vec<Net> {
    use Kind::{Float, Index, Seen, SmallIndex};
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

#[test]
fn captured_steps_are_sequences_that_give_the_numbers_of_the_cpu() -> Result<()> {
    let Some(emulator) = EMULATOR.as_ref() else { return Ok(()) };
    let types = [(DType::F64, F64), (DType::F32, F32), (DType::F16, HALF)];
    for net in nets() {
        for (dtype, tolerance) in types.into_iter().take(if net.products { 2 } else { 3 }) {
            let (here, there) = (jit(value_and_grad(net.loss)), jit(value_and_grad(net.loss)));
            let before = wholes();
            for round in 0..2 {
                let values: Vec<TrackedTensor> =
                    net.inputs.iter().map(|kind| kind.value(round, dtype)).collect::<Result<_>>()?;
                let far: Vec<TrackedTensor> = values.iter().map(elsewhere).collect::<Result<_>>()?;
                let want = here.call(&values.iter().collect::<Vec<_>>())?;
                let got = there.call(&far.iter().collect::<Vec<_>>())?;
                assert_eq!(got.len(), want.len(), "{}", net.name);
                for (i, (got, want)) in got.iter().zip(&want).enumerate() {
                    assert_eq!((got.dims(), got.dtype()), (want.dims(), want.dtype()), "{}", net.name);
                    let flat = |x: &TrackedTensor| algebra::cast(x, DType::F64)?.to_flat::<f64>();
                    for (a, b) in flat(got)?.iter().zip(flat(want)?) {
                        let close = (a - b).abs() <= tolerance * b.abs().max(1.0);
                        assert!(close, "{} in {dtype:?}, output {i}: {a}, not {b}", net.name);
                    }
                }
            }
            assert_eq!(wholes(), before + 1, "{} runs as a whole, and is made once", net.name);
        }
    }
    let ran = emulator.launches();
    for source in sources().iter().filter(|source| source.name() == "copy") {
        let missing: Vec<&String> =
            source.entries().iter().filter(|entry| !ran.contains_key(*entry)).collect();
        assert!(missing.is_empty(), "no step has launched {missing:?}");
    }
    Ok(())
}

/// Closed-over values are read where they are, and an index out of range is the error of the CPU.
#[test]
fn a_step_reads_what_it_closes_over_and_judges_indices() -> Result<()> {
    if EMULATOR.is_none() {
        return Ok(());
    }
    let table = TrackedTensor::from_vec((0..12).map(f64::from).collect(), &[4, 3])?;
    let good = TrackedTensor::from_vec(vec![3i64, 0], &[2])?;
    let bad = TrackedTensor::from_vec(vec![1i64, 4], &[2])?;
    let far_table = elsewhere(&table)?;
    let rows = |table: TrackedTensor| {
        jit(move |x: &[TrackedTensor]| Ok(vec![index::embedding(&table, &x[0])?.affine(2.0, 1.0)?]))
    };
    let (here, there) = (rows(table), rows(far_table));
    let before = wholes();
    let far = |x: &TrackedTensor| elsewhere(x);
    assert_eq!(there.call(&[&far(&good)?])?[0].to_flat::<f64>()?, here.call(&[&good])?[0].to_flat::<f64>()?);
    let (want, got) = (message(here.call(&[&bad])), message(there.call(&[&far(&bad)?])));
    assert!(want.contains("index 4"), "{want}");
    assert_eq!(got, want);
    // It goes on with the next ones.
    assert_eq!(there.call(&[&far(&good)?])?[0].to_flat::<f64>()?, here.call(&[&good])?[0].to_flat::<f64>()?);
    assert_eq!(wholes(), before + 1);
    Ok(())
}

/// What no sequence has runs op by op, with the same numbers.
#[test]
fn a_step_with_an_op_that_has_no_launch_runs_op_by_op() -> Result<()> {
    if EMULATOR.is_none() {
        return Ok(());
    }
    let x = TrackedTensor::from_vec(vec![0.5, -1.0, 2.0, 0.25], &[4])?;
    let step = jit(|x: &[TrackedTensor]| Ok(vec![x[0].cumsum(0)?.tanh()?]));
    let before = wholes();
    let (here, there) = (step.call(&[&x])?, step.call(&[&elsewhere(&x)?])?);
    assert_eq!(wholes(), before);
    for (a, b) in there[0].to_flat::<f64>()?.iter().zip(here[0].to_flat::<f64>()?) {
        assert!((a - b).abs() <= F64, "{a}, not {b}");
    }
    Ok(())
}
