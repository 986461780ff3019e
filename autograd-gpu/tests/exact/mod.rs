//! What must be equal to the bit: the order of sorted elements with all their edges, random numbers, and
//! whatever is computed from integers.

use autograd_core::testing::elsewhere;
use autograd_core::{DType, Result, TrackedTensor, algebra};
use autograd_ops::{TensorAutograd, order, random};

const INTEGERS: [DType; 3] = [DType::U8, DType::U32, DType::I64];

/// More than a tile of the sorting network, and no power of two.
const LONG: usize = 2500;

/// The numbers as bits; every NaN is the same.
fn bits(x: &TrackedTensor) -> Result<Vec<u64>> {
    Ok(match x.dtype() {
        DType::U8 => x.to_flat::<u8>()?.into_iter().map(u64::from).collect(),
        DType::U32 => x.to_flat::<u32>()?.into_iter().map(u64::from).collect(),
        DType::I64 => x.to_flat::<i64>()?.into_iter().map(|n| n as u64).collect(),
        _ => {
            let numbers = algebra::cast(x, DType::F64)?.to_flat::<f64>()?;
            numbers.into_iter().map(|x| if x.is_nan() { u64::MAX } else { x.to_bits() }).collect()
        }
    })
}

/// Compares a function of a value where it is said to be elsewhere with itself here.
fn same(
    label: &str,
    x: &TrackedTensor,
    f: impl Fn(&TrackedTensor) -> Result<Vec<TrackedTensor>>,
) -> Result<()> {
    let (here, there) = (f(x)?, f(&elsewhere(x)?)?);
    assert_eq!(here.len(), there.len());
    for (i, (here, there)) in here.iter().zip(&there).enumerate() {
        let (here, there) = (bits(here)?, bits(there)?);
        if let Some(at) = here.iter().zip(&there).position(|(a, b)| a != b) {
            panic!("{label}, {:?}, output {i}: number {at} of {} differs", x.dtype(), here.len());
        }
        assert_eq!(here.len(), there.len());
    }
    Ok(())
}

/// Many equal numbers, of both signs, zeros of both signs among them, infinities and NaN.
fn edges(n: usize) -> Vec<f64> {
    let number = |i: usize| match i * 37 % 101 {
        0 => f64::NAN,
        1 => f64::INFINITY,
        2 => f64::NEG_INFINITY,
        3 => -0.0,
        4 => 0.0,
        k => ((k * k) % 29) as f64 / 4.0 - 3.0,
    };
    (0..n).map(number).collect()
}

/// Sorted, and the first of them; extrema with their places.
fn ordered(x: &TrackedTensor, dim: isize) -> Result<Vec<TrackedTensor>> {
    let mut all = Vec::new();
    for (values, indices) in [
        order::sort(x, dim, false)?,
        order::sort(x, dim, true)?,
        order::topk(x, 3, dim, true)?,
        order::max_with_indices(x, dim)?,
        order::min_with_indices(x, dim)?,
    ] {
        all.extend([values, indices]);
    }
    Ok(all)
}

pub(crate) fn sorted_floats_are_those_of_the_cpu() -> Result<()> {
    let shapes = [([3, 40, 1], 1), ([2, 7, 5], 1), ([5, 2, 33], 0), ([1, LONG, 2], 1), ([2, 1, 70], -1)];
    for (shape, dim) in shapes {
        let x = TrackedTensor::from_vec(edges(shape.iter().product()), &shape)?;
        for dtype in crate::FLOATS {
            same("sorted", &algebra::cast(&x, dtype)?, |x| ordered(x, dim))?;
        }
    }
    Ok(())
}

/// Integers of a type, from one end of it to the other.
fn integers(n: usize, shape: &[usize], dtype: DType) -> Result<TrackedTensor> {
    let long = |i: usize| (i as i64).wrapping_mul(0x5851_f42d_4c95_7f2d).rotate_left(i as u32 % 7);
    match dtype {
        DType::U8 => TrackedTensor::from_vec((0..n).map(|i| (i * 67 + i / 9) as u8).collect(), shape),
        DType::U32 => TrackedTensor::from_vec((0..n).map(|i| long(i) as u32).collect(), shape),
        _ => TrackedTensor::from_vec((0..n).map(long).collect(), shape),
    }
}

pub(crate) fn integers_are_those_of_the_cpu() -> Result<()> {
    for dtype in INTEGERS {
        let x = integers(6 * 50, &[6, 50], dtype)?;
        same("integers", &x, |x| {
            let sums = [
                x.sum()?,
                x.sum_dim(0)?,
                x.sum_keepdim(1)?,
                x.reshape((2, 3, 10, 5))?.sum_dims((0, 2), false)?,
            ];
            Ok([
                ordered(x, 0)?,
                ordered(x, 1)?,
                sums.to_vec(),
                vec![x.tril(-1)?, x.triu(20)?, x.flip((0, 1))?],
            ]
            .concat())
        })?;
        same("many integers", &integers(9000, &[9000], dtype)?, |x| Ok(vec![x.sum()?]))?;
    }
    Ok(())
}

pub(crate) fn random_numbers_are_those_of_the_cpu() -> Result<()> {
    let keys = random::split_batch(&random::key(0x1234_5678_9abc_def0), 7)?;
    for key in [random::key(3), keys] {
        same("keys", &key, |key| {
            let folded = [0, 7, u64::MAX].into_iter().map(|number| random::fold_in(key, number));
            let split = [1, 5].into_iter().map(|n| random::split_batch(key, n));
            folded.chain(split).collect()
        })?;
        for dtype in crate::FLOATS {
            let shapes: [&[usize]; 4] = [&[1], &[3, 5], &[1030], &[]];
            same("uniform", &key, |key| {
                shapes.iter().map(|shape| random::uniform(key, shape, dtype)).collect()
            })?;
            // The emulation has the CPU's logarithm and cosine, but for what Rust's own round otherwise.
            let (here, there) =
                (random::normal(&key, &[101], dtype)?, random::normal(&elsewhere(&key)?, &[101], dtype)?);
            let flat = |x: &TrackedTensor| algebra::cast(x, DType::F64)?.to_flat::<f64>();
            let unit = match dtype {
                DType::F64 => 1e-15,
                DType::F32 => f64::from(f32::EPSILON),
                DType::F16 => 1e-3,
                _ => 8e-3,
            };
            for (a, b) in flat(&here)?.iter().zip(flat(&there)?) {
                assert!((a - b).abs() <= unit * a.abs().max(1.0), "{dtype:?}: {b}, not {a}");
            }
        }
    }
    Ok(())
}
