//! Taylor mode and the Laplacian through every op of the registry, against nested forward mode.

use autograd_core::{Error, Result, TrackedTensor, is_float};
use autograd_ops::registry::{self, Case, Sample};
use autograd_ops::{TensorAutograd, random};
use autograd_transforms::{derivatives, jvp, laplacian_along, ravel};
use candle_core::DType;
use std::collections::BTreeSet;

/// Third derivatives of sums of products, beside the largest one.
const AGREE: f64 = 1e-8;

/// Inputs of a case; `None` where one must not be moved.
fn inputs(case: &Case, seed: u64) -> Result<Option<Vec<TrackedTensor>>> {
    let mut drawn = Vec::new();
    for (i, sample) in case.inputs.iter().enumerate() {
        let key = random::fold_in(&random::key(seed), i as u64)?;
        let unit = random::uniform(&key, sample.dims(), DType::F64)?;
        let n: usize = sample.dims().iter().product();
        drawn.push(match sample {
            Sample::Float { range: (low, high), .. } => unit.mul(high - low)?.add(*low)?,
            // A permutation of an arithmetic row, far from ties.
            Sample::Distinct { dims } => {
                let stride = (1..n.max(2)).rev().find(|s| gcd(*s, n.max(1)) == 1).unwrap_or(1);
                let place = |i: usize| ((i * stride + 1) % n.max(1)) as f64 - n as f64 / 2.0 + 0.25;
                let values: Vec<f64> = (0..n).map(|i| 0.07 * place(i)).collect();
                TrackedTensor::from_vec(values, dims)?
            }
            Sample::Exact { .. } => return Ok(None),
            Sample::Index { dims, bound } => {
                let values: Vec<u32> = (0..n as u32).map(|i| (i * 7 + 3) % (*bound).max(1)).collect();
                TrackedTensor::from_vec(values, dims)?
            }
            Sample::Mask { dims } => {
                TrackedTensor::from_vec((0..n).map(|i| u8::from(i % 3 != 0)).collect::<Vec<u8>>(), dims)?
            }
        });
    }
    Ok(Some(drawn))
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

fn close(got: &TrackedTensor, want: &TrackedTensor, what: &str) -> Result<()> {
    assert_eq!(got.dims(), want.dims(), "{what}");
    let (got, want) =
        (got.to_dtype(DType::F64)?.to_flat::<f64>()?, want.to_dtype(DType::F64)?.to_flat::<f64>()?);
    let scale = want.iter().fold(1.0f64, |scale, x| scale.max(x.abs()));
    for (got, want) in got.iter().zip(&want) {
        assert!((got - want).abs() <= AGREE * scale, "{what}: {got} and {want}");
    }
    Ok(())
}

/// An op that has no forward mode has none to any order, and says so.
fn is_unsupported<T>(result: &Result<T>) -> bool {
    matches!(result, Err(Error::UnsupportedMode { .. }))
}

/// A case as a function of its float inputs.
struct Function<'a> {
    case: &'a Case,
    all: Vec<TrackedTensor>,
    floats: Vec<usize>,
}

impl Function<'_> {
    fn call(&self, x: &[TrackedTensor]) -> Result<Vec<TrackedTensor>> {
        let mut all = self.all.clone();
        for (&i, x) in self.floats.iter().zip(x) {
            all[i] = x.clone();
        }
        Ok((self.case.run)(&all)?.into_iter().filter(|y| is_float(y.dtype())).collect())
    }

    fn nested(&self, x: &[TrackedTensor], v: &[TrackedTensor], order: usize) -> Result<Vec<TrackedTensor>> {
        if order == 0 {
            return self.call(x);
        }
        Ok(jvp(|x| self.nested(x, v, order - 1), x, v)?.1)
    }
}

#[test]
fn every_op_to_third_order_and_its_laplacian() -> Result<()> {
    let (mut checked, mut seed, mut without_series) = (0, 0, BTreeSet::new());
    for op in registry::all() {
        for case in (op.cases)().iter().filter(|case| case.smooth) {
            seed += 1;
            let Some(all) = inputs(case, seed)? else { continue };
            let floats: Vec<usize> = (0..all.len()).filter(|&i| case.inputs[i].is_float()).collect();
            let what = format!("{}, {}", op.name, case.label);
            let x: Vec<TrackedTensor> = floats.iter().map(|&i| all[i].clone()).collect();
            if x.is_empty() || x.iter().all(|x| x.elem_count() == 0) {
                continue;
            }
            let f = Function { case, all, floats };
            let directions = |purpose: u64| -> Result<Vec<TrackedTensor>> {
                let key = random::fold_in(&random::key(seed), purpose)?;
                let draw = |(i, x): (usize, &TrackedTensor)| {
                    random::normal(&random::fold_in(&key, i as u64)?, x.dims(), DType::F64)
                };
                x.iter().enumerate().map(draw).collect()
            };
            let (v, w) = (directions(100)?, directions(101)?);
            let found = derivatives(|x| f.call(x), &x, &v, 3);
            if is_unsupported(&found) {
                if !is_unsupported(&f.nested(&x, &v, 1)) {
                    without_series.insert(op.name);
                }
                continue;
            }
            for (order, found) in found?.iter().enumerate().skip(1) {
                for (found, want) in found.iter().zip(f.nested(&x, &v, order)?) {
                    close(found, &want, &format!("{what}, order {order}"))?;
                }
            }
            // Σ over two directions of the second derivative.
            let (flat, layout) = ravel(&x)?;
            let both = TrackedTensor::stack(&[ravel(&v)?.0, ravel(&w)?.0], 0)?;
            let first = |flat: &TrackedTensor| -> Result<TrackedTensor> {
                let mut outputs = f.call(&layout.unflatten_like(flat, &x)?)?;
                if outputs.is_empty() { Err(Error::msg("no output")) } else { Ok(outputs.swap_remove(0)) }
            };
            if f.call(&x)?.is_empty() {
                continue;
            }
            let found = laplacian_along(first, &flat, &both)?;
            let (one, other) = (f.nested(&x, &v, 2)?, f.nested(&x, &w, 2)?);
            close(&found.laplacian, &one[0].add(&other[0])?, &format!("{what}, Laplacian"))?;
            checked += 1;
        }
    }
    assert!(checked > 300, "{checked} cases checked");
    assert!(without_series.is_empty(), "{without_series:?} have a tangent and no series");
    Ok(())
}
