//! When memory is reused, when it is copied, and that nobody can tell the difference.

use crate::TensorAutograd;
use autograd_core::{
    Error, InPlaceStatistics, Obstacle, Result, TrackedTensor, count_in_place, no_grad, strict_in_place,
};
use autograd_tape::{GradientTape, RegionOptions, region};

fn vector(data: &[f64]) -> Result<TrackedTensor> {
    TrackedTensor::from_vec(data.to_vec(), &[data.len()])
}

fn counted(f: impl FnOnce() -> Result<()>) -> Result<InPlaceStatistics> {
    let (done, statistics) = count_in_place(f);
    done.map(|()| statistics)
}

/// The obstacle that strict mode names.
fn obstacle(f: impl FnOnce() -> Result<()>) -> Option<Obstacle> {
    match strict_in_place(f) {
        Err(Error::InPlaceCopy { obstacle, at, .. }) => {
            assert!(at.site().is_some_and(|site| site.file().ends_with("tests.rs")), "the user's line");
            Some(obstacle)
        }
        Err(other) => panic!("another error: {other}"),
        Ok(()) => None,
    }
}

#[test]
fn a_plain_value_nobody_shares_is_written_over() -> Result<()> {
    let mut x = vector(&[1., -2., 3.])?;
    let statistics = counted(|| {
        x.add_(1.0)?.mul_(2)?.sub_(&vector(&[1., 1., 1.])?)?.div_(2.0)?.neg_()?;
        x.clamp_(-3.0, 0.0)?.relu_()?;
        Ok(())
    })?;
    assert_eq!((statistics.reused, statistics.copied, statistics.bytes_reused), (7, 0, 7 * 24));
    assert_eq!(statistics.share_reused(), 1.0);
    assert_eq!(x.to_vec1::<f64>()?, [0., 0., 0.]);
    Ok(())
}

#[test]
fn clones_and_views_keep_the_old_numbers() -> Result<()> {
    let tape = GradientTape::new();
    let v = tape.variable(vector(&[1., 2., 3., 4.])?);
    let mut x = v.mul(2.0)?;
    let clone = x.clone();
    assert_eq!(obstacle(|| x.add_(1.0).map(|_| ())), Some(Obstacle::Cloned));
    assert_eq!(x.to_vec1::<f64>()?, [2., 4., 6., 8.], "a strict error leaves the value as it was");
    x.add_(1.0)?;
    assert_eq!(clone.to_vec1::<f64>()?, [2., 4., 6., 8.]);
    let view = x.reshape(vec![2, 2])?;
    assert_eq!(obstacle(|| x.neg_().map(|_| ())), Some(Obstacle::Shared));
    x.neg_()?;
    assert_eq!(view.to_flat::<f64>()?, [3., 5., 7., 9.]);
    assert_eq!(x.to_vec1::<f64>()?, [-3., -5., -7., -9.]);
    // Both branches are recorded as what they are.
    let loss = x.sum()?.add(&clone.sum()?)?.add(&view.sum()?)?;
    assert_eq!(tape.derivative(&loss, &v)?.to_vec1::<f64>()?, [2.0; 4]);
    Ok(())
}

#[test]
fn a_view_whose_owner_is_gone_is_written_over() -> Result<()> {
    let mut x = vector(&[1., 2., 3., 4.])?.reshape(vec![2, 2])?;
    assert_eq!(obstacle(|| x.add_(1.0).map(|_| ())), None);
    assert_eq!(x.to_flat::<f64>()?, [2., 3., 4., 5.]);
    Ok(())
}

#[test]
fn what_a_backward_pass_reads_is_kept() -> Result<()> {
    let tape = GradientTape::new();
    let x = tape.variable(vector(&[0.5, -1.0])?);
    // exp saves its result: writing over it would spoil its gradient.
    let mut y = x.exp()?;
    assert_eq!(obstacle(|| y.add_(1.0).map(|_| ())), Some(Obstacle::Shared));
    y.add_(1.0)?;
    // The gradient of w reads y.
    let w = tape.variable(vector(&[2., 3.])?);
    assert_eq!(obstacle(|| y.mul_(&w).map(|_| ())), Some(Obstacle::ReadByRule));
    y.mul_(&w)?;
    assert_eq!(obstacle(|| y.clamp_(0.0, 3.0).map(|_| ())), Some(Obstacle::ReadByRule));
    let grads = tape.gradient(&y.sum()?, &[&x, &w])?;
    let e = [0.5f64.exp(), (-1f64).exp()];
    assert_eq!(grads[0].to_vec1::<f64>()?, [2. * e[0], 3. * e[1]]);
    assert_eq!(grads[1].to_vec1::<f64>()?, [e[0] + 1., e[1] + 1.]);
    Ok(())
}

#[test]
fn a_residual_block_reuses_its_memory() -> Result<()> {
    let tape = GradientTape::new();
    let x = tape.variable(vector(&[1., -2.])?);
    let bias = tape.variable(vector(&[0.5, 0.5])?);
    let mut h = x.mul(3.0)?;
    // h + bias, the skip connection, and a relu that reads its own result.
    assert_eq!(obstacle(|| h.add_(&bias)?.add_(&x)?.relu_().map(|_| ())), None);
    let grads = tape.gradient(&h.sum()?, &[&x, &bias])?;
    assert_eq!(grads[0].to_vec1::<f64>()?, [4., 0.]);
    assert_eq!(grads[1].to_vec1::<f64>()?, [1., 0.]);
    Ok(())
}

#[test]
fn a_variable_keeps_its_numbers_and_the_handle_moves_on() -> Result<()> {
    let tape = GradientTape::new();
    let x = tape.variable(vector(&[3.])?);
    let mut y = x.clone();
    y.mul_(&x)?;
    assert_eq!(tape.derivative(&y, &x)?.to_vec1::<f64>()?, [6.]);
    Ok(())
}

#[test]
fn candle_memory_is_never_written() -> Result<()> {
    let tensor = candle_core::Tensor::new(&[1f64, 2.], &candle_core::Device::Cpu)?;
    let mut x = TrackedTensor::from(&tensor);
    assert_eq!(obstacle(|| x.add_(1.0).map(|_| ())), Some(Obstacle::CandleMemory));
    x.add_(1.0)?;
    assert_eq!(tensor.to_vec1::<f64>()?, [1., 2.]);
    assert_eq!(x.to_vec1::<f64>()?, [2., 3.]);
    Ok(())
}

#[test]
fn a_region_that_would_replay_the_value_keeps_it() -> Result<()> {
    let tape = GradientTape::new();
    let x = tape.variable(vector(&[2.])?);
    let mut y = x.mul(3.0)?;
    let outside = region(RegionOptions::new(), || obstacle(|| y.add_(1.0).map(|_| ())));
    assert_eq!(outside, Some(Obstacle::Replayed));
    let inside = region(RegionOptions::new(), || {
        y = y.sin()?;
        y.mul_(2.0).map(|_| ())
    });
    inside?;
    let dx = tape.derivative(&y, &x)?.to_vec1::<f64>()?;
    assert_eq!(dx, [6.0 * 6f64.cos()]);
    Ok(())
}

#[test]
fn a_paused_tape_lets_the_handle_go() -> Result<()> {
    let tape = GradientTape::new();
    let x = tape.variable(vector(&[2.])?);
    let mut y = x.mul(3.0)?;
    no_grad(|| y.add_(1.0).map(|_| ()))?;
    assert!(!y.is_tracked(), "as x.add(1.0) would give under no_grad");
    assert_eq!(y.to_vec1::<f64>()?, [7.]);
    Ok(())
}

#[test]
fn slices_and_indices_are_written_in_place() -> Result<()> {
    let tape = GradientTape::new();
    let src = tape.variable(vector(&[10., 20.])?);
    let mut x = tape.variable(vector(&[1., 2., 3., 4.])?).mul(1.0)?;
    let index = TrackedTensor::from_vec(vec![3u32, 0], &[2])?;
    let part = std::iter::once(1..3).collect::<Vec<_>>();
    let statistics = counted(|| {
        x.slice_assign_(&part, &src)?.index_add_(&index, &src, 0)?.scatter_(&index, &src, 0)?;
        x.index_put_(&[&index], &src, true)?;
        Ok(())
    })?;
    assert_eq!((statistics.reused, statistics.copied), (4, 0));
    assert_eq!(x.to_vec1::<f64>()?, [40., 10., 20., 20.]);
    assert_eq!(tape.derivative(&x.sum()?, &src)?.to_vec1::<f64>()?, [3., 3.]);
    Ok(())
}

#[test]
fn index_put_in_place_sees_rows_of_a_matrix() -> Result<()> {
    let mut x = vector(&[0.; 6])?.reshape(vec![3, 2])?;
    let rows = TrackedTensor::from_vec(vec![2u32, 0], &[2])?;
    let columns = TrackedTensor::from_vec(vec![1u32, 0], &[2])?;
    let statistics = counted(|| x.index_put_(&[&rows, &columns], vector(&[5., 7.])?, false).map(|_| ()))?;
    assert_eq!((statistics.reused, statistics.copied), (1, 0));
    assert_eq!((x.dims(), x.to_flat::<f64>()?), (&[3, 2][..], vec![7., 0., 0., 0., 0., 5.]));
    Ok(())
}

#[test]
fn failures_leave_the_value_as_it_was() -> Result<()> {
    let mut x = vector(&[1., 2.])?;
    let wide = vector(&[1.; 6])?.reshape(vec![3, 2])?;
    let error = x.add_(&wide).expect_err("x cannot grow");
    assert!(matches!(error, Error::Shape { op: "add", .. }), "{error}");
    let far = TrackedTensor::from_vec(vec![0u32, 9], &[2])?;
    assert!(x.index_add_(&far, vector(&[1., 1.])?, 0).is_err());
    assert!(x.index_put_(&[&far], vector(&[1., 1.])?, false).is_err());
    assert!(x.add_(&TrackedTensor::from_vec(vec![1f32, 1.], &[2])?).is_err());
    assert_eq!(x.to_vec1::<f64>()?, [1., 2.]);
    Ok(())
}

#[test]
fn nested_tapes_write_over_the_innermost_memory() -> Result<()> {
    let outer = GradientTape::new();
    let a = outer.variable(vector(&[2.])?);
    let inner = GradientTape::new();
    let b = inner.variable(&a);
    let mut y = b.mul(3.0)?;
    assert_eq!(obstacle(|| y.add_(&b)?.relu_().map(|_| ())), None);
    let z = y.mul(&y)?; // 16 b²
    let db = inner.derivative(&z, &b)?;
    assert_eq!(db.to_vec1::<f64>()?, [64.]);
    assert_eq!(outer.derivative(&db, &a)?.to_vec1::<f64>()?, [32.]);
    Ok(())
}
