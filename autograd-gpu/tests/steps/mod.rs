//! Captured steps as sequences: the launches that a CUDA graph would hold, executed over the offsets of
//! one arena, give what the steps give on the CPU.

mod registry;

use crate::EMULATOR;
use crate::emulator::{BIASED, launched, message, wholes, without_epilogues};
use crate::nets::nets;
use autograd_core::device::{Declined, Tensors};
use autograd_core::kernels::{copy, expr::Binary};
use autograd_core::testing::elsewhere;
use autograd_core::{
    DType, Definition, Meta, Prim, Primitive, Result, Rule, ScalarExpr, Signature, SliceMut, Tensor,
    TrackedTensor, View, algebra, apply_one, pointwise,
};
use autograd_gpu::sources;
use autograd_graph::jit;
use autograd_ops::{TensorAutograd, compare, index, loss};
use std::sync::LazyLock;

#[test]
fn captured_steps_are_sequences_that_give_the_numbers_of_the_cpu() -> Result<()> {
    if EMULATOR.is_none() {
        return Ok(());
    }
    for net in nets() {
        for &dtype in net.types(false) {
            let before = wholes();
            let difference = net.difference(dtype, &elsewhere)?;
            assert_eq!(difference, None);
            assert_eq!(wholes(), before + 1, "{} runs as a whole, and is made once", net.name);
        }
    }
    let ran = launched();
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

/// Indices of elements and classes of rows are judged, too.
#[test]
fn elements_and_classes_by_index_are_judged_as_on_the_cpu() -> Result<()> {
    if EMULATOR.is_none() {
        return Ok(());
    }
    let rows = TrackedTensor::from_vec((0..12).map(f64::from).collect(), &[4, 3])?;
    let step = jit(|x: &[TrackedTensor]| {
        let at = x[1].reshape((4, 1))?;
        let read = x[0].gather(&at, 1)?.sum()?;
        let added = x[0].scatter_add(&at, x[0].narrow(1, 0, 1)?, 1)?.sqr()?.sum()?;
        Ok(vec![read, added, x[0].index_select(&x[1], 1)?, loss::nll(&x[0], &x[1])?])
    });
    let before = wholes();
    for classes in [vec![2i64, 0, 1, 2], vec![0, 1, 3, 1], vec![0, -7, 0, 0]] {
        let classes = TrackedTensor::from_vec(classes, &[4])?;
        let here = step.call(&[&rows, &classes]);
        let there = step.call(&[&elsewhere(&rows)?, &elsewhere(&classes)?]);
        match (here, there) {
            (Ok(here), Ok(there)) => {
                for (here, there) in here.iter().zip(&there) {
                    assert_eq!(there.to_flat::<f64>()?, here.to_flat::<f64>()?);
                }
            }
            (here, there) => assert_eq!(message(there), message(here)),
        }
    }
    assert_eq!(wholes(), before + 1);
    Ok(())
}

/// Numbers of every type as those of every other, at the bounds of integers too, and compared.
#[test]
fn numbers_are_cast_and_compared_as_on_the_cpu() -> Result<()> {
    const TYPES: [DType; 7] =
        [DType::F64, DType::F32, DType::F16, DType::BF16, DType::U8, DType::U32, DType::I64];
    if EMULATOR.is_none() {
        return Ok(());
    }
    let step = jit(|x: &[TrackedTensor]| {
        let mut made = Vec::new();
        for x in x {
            // Read where it lies: the columns of a larger value.
            let x = x.narrow(1, 0, 2)?.t()?;
            for dtype in TYPES {
                made.push(algebra::cast(&x, dtype)?);
            }
            made.push(compare::ne(&x, 3)?);
            made.push(compare::lt(&x.narrow(0, 0, 1)?, x.narrow(0, 1, 1)?)?);
        }
        Ok(made)
    });
    let table = |numbers: [f64; 12]| TrackedTensor::from_vec(numbers.to_vec(), &[4, 3]);
    let floats = table([-5.5, 300.7, 0.0, 3.0, f64::NAN, 1.0, 1e30, -1e30, 2.0, 4e9, f64::INFINITY, 9.0])?;
    let bytes = table([3.0, 255.0, 0.0, 0.0, 3.0, 1.0, 7.0, 6.0, 2.0, 200.0, 128.0, 9.0])?;
    let words = table([3.0, 4294967295.0, 0.0, 256.0, 3.0, 1.0, 2147483648.0, 6.0, 2.0, 65535.0, 0.0, 9.0])?;
    let longs = vec![-1i64, i64::MAX, 0, i64::MIN, 3, 1, (1 << 53) + 1, 1 << 53, 2, -100, 257, 9];
    let mut x: Vec<TrackedTensor> = Vec::new();
    for dtype in [DType::F64, DType::F32, DType::F16, DType::BF16] {
        x.push(algebra::cast(&floats, dtype)?);
    }
    x.push(algebra::cast(&bytes, DType::U8)?);
    x.push(algebra::cast(&words, DType::U32)?);
    x.push(TrackedTensor::from_vec(longs, &[4, 3])?);
    let far: Vec<TrackedTensor> = x.iter().map(elsewhere).collect::<Result<_>>()?;
    let before = wholes();
    let here = step.call(&x.iter().collect::<Vec<_>>())?;
    let there = step.call(&far.iter().collect::<Vec<_>>())?;
    assert_eq!(wholes(), before + 1);
    for (i, (here, there)) in here.iter().zip(&there).enumerate() {
        let bits = |x: &TrackedTensor| -> Result<Vec<i128>> {
            Ok(match x.dtype() {
                DType::I64 => x.to_flat::<i64>()?.into_iter().map(i128::from).collect(),
                _ => {
                    let numbers = algebra::cast(x, DType::F64)?.to_flat::<f64>()?;
                    numbers
                        .into_iter()
                        .map(|x| i128::from(if x.is_nan() { 1 } else { x.to_bits() }))
                        .collect()
                }
            })
        };
        assert_eq!(
            bits(there)?,
            bits(here)?,
            "{:?} to {:?}, number {}",
            x[i / 9].dtype(),
            here.dtype(),
            i % 9
        );
    }
    Ok(())
}

/// An op of a user's, which has no launches: a copy.
#[derive(Clone, Copy, Debug)]
struct Copied;

impl Primitive for Copied {
    fn name(&self) -> &'static str {
        "copied"
    }
    fn keep(&self) -> Prim {
        Prim::Static(&Self)
    }
    fn infer(&self, inputs: &[Meta]) -> Result<Signature> {
        Ok(Signature::one(inputs[0]))
    }
    fn eval_into(&self, inputs: &[View<'_>], outputs: &mut [SliceMut<'_>]) -> Result<()> {
        copy::copy(inputs[0], outputs[0].reborrow());
        Ok(())
    }
    fn eval_candle(&self, inputs: &[Tensor]) -> Result<Option<Tensors>> {
        Ok(Some([inputs[0].copy()?].into_iter().collect()))
    }
    fn rule(&self) -> Rule<'_> {
        Rule::Flat
    }
}

/// What no sequence has runs op by op, with the same numbers, and the graph says what it was.
#[test]
fn a_step_with_an_op_that_has_no_launch_runs_op_by_op() -> Result<()> {
    if EMULATOR.is_none() {
        return Ok(());
    }
    let x = TrackedTensor::from_vec(vec![0.5, -1.0, 2.0, 0.25], &[4])?;
    let step = jit(|x: &[TrackedTensor]| {
        Ok(vec![apply_one(&Copied, &[&x[0]])?.tanh()?, apply_one(&Copied, &[&x[0].exp()?])?])
    });
    let before = wholes();
    let far = elsewhere(&x)?;
    let (here, there) = (step.call(&[&x])?, step.call(&[&far])?);
    assert_eq!(wholes(), before);
    for (a, b) in there[0].to_flat::<f64>()?.iter().zip(here[0].to_flat::<f64>()?) {
        assert!((a - b).abs() <= 1e-12, "{a}, not {b}");
    }
    let [device] = &step.explain(&[&far])?.devices[..] else { panic!("it has run on one device") };
    assert_eq!(device.location, far.location());
    let named = |declined: &Declined| matches!(declined, Declined::Op { op: "copied", .. });
    assert!(device.declined.len() == 2 && device.declined.iter().all(named), "{device}");
    assert!(
        device.to_string().contains("copied has no launch there (at ")
            && device.to_string().contains(file!())
    );
    let whole = jit(|x: &[TrackedTensor]| Ok(vec![x[0].exp()?]));
    whole.call(&[&far])?;
    assert!(whole.explain(&[&far])?.to_string().contains("as one sequence of launches"));
    Ok(())
}

/// Values without elements, integers, and an expression of more inputs than a fused group has.
#[test]
fn what_is_made_of_nothing_of_integers_and_of_many_is_a_sequence() -> Result<()> {
    /// How many numbers are added.
    const MANY: usize = 40;
    static SUM: LazyLock<Definition> = LazyLock::new(|| {
        Definition::new(
            "sum_of_many",
            ScalarExpr::build(MANY, 0, |b, x, _| {
                x[1..].iter().fold(x[0], |sum, &next| b.binary(Binary::Add, sum, next))
            }),
        )
    });
    if EMULATOR.is_none() {
        return Ok(());
    }
    let step = jit(|x: &[TrackedTensor]| {
        let none = x[0].narrow(0, 0, 0)?;
        let rows = none.reshape((0, 3))?;
        let counts = algebra::cast(&x[0], DType::I64)?;
        let parts: Vec<TrackedTensor> = (0..MANY).map(|i| x[0].narrow(0, i % 3, 2)).collect::<Result<_>>()?;
        Ok(vec![
            none.sum()?,
            rows.mean_keepdim(0)?,
            rows.t()?.matmul(&rows)?,
            rows.t()?.logsumexp(1)?,
            x[0].slice_scatter(&none, 0, 2)?,
            counts.sum()?,
            counts.sum_keepdim(0)?,
            pointwise(&SUM, &parts.iter().collect::<Vec<_>>())?,
        ])
    });
    let x = TrackedTensor::from_vec(vec![0.5, -1.0, 2.0, 1e12], &[4])?;
    let before = wholes();
    let (here, there) = (step.call(&[&x])?, step.call(&[&elsewhere(&x)?])?);
    assert_eq!(wholes(), before + 1);
    for (i, (here, there)) in here.iter().zip(&there).enumerate() {
        let flat = |x: &TrackedTensor| algebra::cast(x, DType::F64)?.to_flat::<f64>();
        let (here, there) = (flat(here)?, flat(there)?);
        let same = here.iter().zip(&there).all(|(a, b)| a == b || (a.is_nan() && b.is_nan()));
        assert!(same && here.len() == there.len(), "output {i}: {there:?}, not {here:?}");
    }
    Ok(())
}

/// A layer is one product whose epilogue adds the bias, but in f64, and where there is no epilogue.
#[test]
fn a_bias_is_added_by_its_product() -> Result<()> {
    if EMULATOR.is_none() {
        return Ok(());
    }
    let numbers = |n: usize, dims: &[usize], dtype: DType| {
        let numbers = (0..n).map(|i| (i * 7 % 13) as f64 / 4.0 - 1.5).collect();
        algebra::cast(&TrackedTensor::from_vec(numbers, dims)?, dtype)
    };
    for (dtype, tolerance) in [(DType::F32, 1e-6), (DType::F64, 1e-14)] {
        let x = [(12, vec![2, 2, 3]), (15, vec![5, 3]), (10, vec![2, 5])];
        let x: Vec<TrackedTensor> =
            x.iter().map(|(n, dims)| numbers(*n, dims, dtype)).collect::<Result<_>>()?;
        let far: Vec<TrackedTensor> = x.iter().map(elsewhere).collect::<Result<_>>()?;
        for apart in [false, true] {
            // The bias lies in the second row of a value, the factors as they are and turned.
            let step = jit(|x: &[TrackedTensor]| {
                let bias = x[2].narrow(0, 1, 1)?.reshape(5)?;
                let layer = x[0].linear(&x[1], Some(&bias))?;
                let turned = x[1].linear(&x[0].reshape((4, 3))?, None)?.t()?.add(&bias)?;
                Ok(vec![layer.relu()?, layer, turned])
            });
            let far: Vec<&TrackedTensor> = far.iter().collect();
            let biased = || launched().get(BIASED).copied().unwrap_or(0);
            let (before, made) = (wholes(), biased());
            let there = if apart { without_epilogues(|| step.call(&far)) } else { step.call(&far) }?;
            assert_eq!(wholes(), before + 1);
            let epilogues = if apart || dtype == DType::F64 { 0 } else { 2 };
            assert_eq!(biased() - made, epilogues, "{dtype:?}");
            for (here, there) in step.call(&x.iter().collect::<Vec<_>>())?.iter().zip(&there) {
                let flat = |x: &TrackedTensor| algebra::cast(x, DType::F64)?.to_flat::<f64>();
                for (a, b) in flat(here)?.iter().zip(flat(there)?) {
                    assert!((a - b).abs() <= tolerance * a.abs().max(1.0), "{dtype:?}: {b}, not {a}");
                }
            }
        }
    }
    Ok(())
}
