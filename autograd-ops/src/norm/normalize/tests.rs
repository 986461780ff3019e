//! The primitive and its kernels against their definition.

use super::*;
use crate::TensorAutograd;
use crate::batched::assert_equals_loop;

#[test]
fn rule_and_reverse_rule_batch_in_every_argument() {
    // As layer norm and as batch norm are seen.
    let cases: [([usize; 2], Mask, [usize; 2]); 2] =
        [([3, 4], Mask::one(1), [1, 4]), ([4, 3], Mask::one(0), [1, 3])];
    for (x, over, affine) in cases {
        for centred in [false, true] {
            let norm = Normalize { op: "norm", centred, over, eps: 0.1, weighted: true, biased: true };
            assert_equals_loop(&norm, &[&x, &affine, &affine]);
            let shape = Some(Shape::new(&affine));
            let grad = NormalizeGrad { norm, input: true, weight: shape, bias: shape, hinted: false };
            assert_equals_loop(&grad, &[&x, &x, &affine]);
        }
    }
}

/// Numbers in (−1, 1) that look random.
fn values(shape: &[usize], seed: usize) -> Result<TrackedTensor> {
    let n: usize = shape.iter().product();
    let number = |i: usize| ((i + 1) * 7919 * (seed + 3) % 2003) as f64 / 1001.5 - 1.0;
    TrackedTensor::from_vec((0..n).map(number).collect(), shape)
}

#[test]
fn kernels_for_channels_give_what_the_definition_says() -> Result<()> {
    // As group norm, instance norm, both under vmap, and batch norm are seen.
    type Case = (&'static [usize], &'static [usize], &'static [usize], bool);
    let cases: [Case; 7] = [
        (&[3, 4, 2, 18], &[2, 3], &[1, 4, 2, 1], true),
        (&[3, 5, 17], &[2], &[1, 5, 1], true),
        (&[2, 3, 4, 2, 16], &[3, 4], &[1, 4, 2, 1], true),
        (&[2, 3, 5, 17], &[3], &[1, 5, 1], true),
        // As many positions as channels: no layer norm.
        (&[3, 17, 17], &[2], &[1, 17, 1], true),
        (&[2, 3, 17, 17], &[3], &[1, 17, 1], true),
        (&[4, 5, 19], &[0, 2], &[1, 5, 1], false),
    ];
    for (x, over, affine, grouped) in cases {
        let over = over.iter().copied().collect();
        for (weighted, biased) in [(true, true), (true, false), (false, false)] {
            let norm = Normalize { op: "norm", centred: true, over, eps: 0.1, weighted, biased };
            let parts = || std::iter::repeat_n(Shape::new(affine), 1);
            let fit = norm.fit(&Shape::new(x), parts()).expect("kernels fit");
            assert!(matches!(fit, Fit::Channels { groups, .. } if groups.is_some() == grouped), "{fit:?}");
            let (ct, x) = (values(x, 1)?, values(x, 2)?);
            let (weight, bias_value) = (values(affine, 3)?, values(affine, 4)?);
            let mut inputs = vec![&x];
            inputs.extend(weighted.then_some(&weight));
            inputs.extend(biased.then_some(&bias_value));
            same(&norm, &inputs)?;
            // Where the elements cannot be seen as runs without a copy.
            let last = x.shape().rank() - 1;
            let turned = algebra::transpose(&values(&turned(x.dims()), 5)?, 0, last)?;
            inputs[0] = &turned;
            same(&norm, &inputs)?;
            let shape = weighted.then(|| Shape::new(affine));
            let bias = biased.then(|| Shape::new(affine));
            let grad = NormalizeGrad { norm, input: true, weight: shape, bias, hinted: false };
            let mut inputs = vec![&ct, &x];
            inputs.extend(weighted.then_some(&weight));
            same(&grad, &inputs)?;
            let (rstd, mean) = norm.said_statistics(&x)?;
            let want = apply(&grad, &inputs)?;
            inputs.extend([Some(&rstd), mean.as_ref()].into_iter().flatten());
            let got = apply(&NormalizeGrad { hinted: true, ..grad }, &inputs)?;
            close(&got, &want, 1e-12)?;
            let half = x.to_dtype(DType::F16)?;
            let (weight, bias) = (weight.to_dtype(DType::F16)?, bias_value.to_dtype(DType::F16)?);
            let mut inputs = vec![&half];
            inputs.extend(weighted.then_some(&weight));
            inputs.extend(biased.then_some(&bias));
            let want = norm.decompose(&inputs)?.expect("it has a decomposition");
            close(&apply(&norm, &inputs)?, &want, 4e-3)?;
        }
    }
    Ok(())
}

#[test]
fn no_channels_are_no_error() -> Result<()> {
    let x = TrackedTensor::from_vec(Vec::<f64>::new(), &[2, 0, 16])?;
    let none = TrackedTensor::from_vec(Vec::<f64>::new(), &[0])?;
    assert_eq!(crate::norm::instance_norm(&x, Some(&none), Some(&none), 0.1)?.dims(), [2, 0, 16]);
    let seen = algebra::reshape(&x, &Shape::new(&[2, 2, 0, 16]))?;
    let over = Mask::one(2).with(3);
    let norm = Normalize { op: "norm", centred: true, over, eps: 0.1, weighted: false, biased: false };
    assert_eq!(apply(&norm, &[&seen])?[0].dims(), [2, 2, 0, 16]);
    let grad = NormalizeGrad { norm, input: true, weight: None, bias: None, hinted: false };
    assert_eq!(apply(&grad, &[&seen, &seen])?[0].dims(), [2, 2, 0, 16]);
    Ok(())
}

fn turned(dims: &[usize]) -> Vec<usize> {
    let mut dims = dims.to_vec();
    let last = dims.len() - 1;
    dims.swap(0, last);
    dims
}

/// Whether an op's kernel and its decomposition agree.
fn same(op: &dyn Primitive, inputs: &[&TrackedTensor]) -> Result<()> {
    let (got, want) = (apply(op, inputs)?, op.decompose(inputs)?.expect("it has a decomposition"));
    assert_eq!(got.len(), want.len());
    close(&got, &want, 1e-12)
}

fn close(got: &[TrackedTensor], want: &[TrackedTensor], tolerance: f64) -> Result<()> {
    for (got, want) in got.iter().zip(want) {
        let (got, want) = (got.to_dtype(DType::F64)?, want.to_dtype(DType::F64)?);
        for (got, want) in got.to_flat::<f64>()?.into_iter().zip(want.to_flat::<f64>()?) {
            assert!((got - want).abs() <= tolerance * want.abs().max(1.0), "{got} is not {want}");
        }
    }
    Ok(())
}
