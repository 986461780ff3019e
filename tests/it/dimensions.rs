//! Dimensions as candle code names them: `usize`, `D::Minus1`, and bare numbers of either sign.

use candle_autograd::{Result, TensorAutograd, TrackedTensor};
use candle_core::{D, Tensor};

fn value(dims: &[usize]) -> Result<TrackedTensor> {
    let n: usize = dims.iter().product();
    TrackedTensor::from_vec((0..n).map(|i| (i as f64 * 0.7).sin()).collect(), dims)
}

fn same(ours: &TrackedTensor, theirs: &Tensor) -> Result<()> {
    assert_eq!(ours.dims(), theirs.dims());
    let near = |(a, b): (f64, f64)| (a - b).abs() < 1e-14;
    let theirs = theirs.flatten_all()?.to_vec1::<f64>()?;
    assert!(ours.to_flat::<f64>()?.into_iter().zip(theirs).all(near));
    Ok(())
}

/// The text of each pair is the same but for the names of `sum` and `max`.
#[test]
fn candles_calls_compile_and_agree() -> Result<()> {
    let x = value(&[2, 3, 4])?;
    let t = x.tensor()?;
    let dim = 1usize;
    same(&x.transpose(1, 2)?, &t.transpose(1, 2)?)?;
    same(&x.transpose(D::Minus2, D::Minus1)?, &t.transpose(D::Minus2, D::Minus1)?)?;
    same(&x.transpose(0, D::Minus1)?, &t.transpose(0, D::Minus1)?)?;
    same(&x.permute((2, 0, 1))?, &t.permute((2, 0, 1))?)?;
    same(&x.narrow(D::Minus1, 1, 2)?, &t.narrow(D::Minus1, 1, 2)?)?;
    same(&x.narrow(dim, 0, 2)?, &t.narrow(dim, 0, 2)?)?;
    same(&x.unsqueeze(D::Minus1)?, &t.unsqueeze(D::Minus1)?)?;
    same(&x.unsqueeze(0)?.squeeze(0)?, &t.unsqueeze(0)?.squeeze(0)?)?;
    same(&x.flatten(0, D::Minus2)?, &t.flatten(0, D::Minus2)?)?;
    same(&x.flatten_from(dim)?, &t.flatten_from(dim)?)?;
    same(&x.flatten_to(1)?, &t.flatten_to(1)?)?;
    same(&x.sum_keepdim(D::Minus1)?, &t.sum_keepdim(D::Minus1)?)?;
    same(&x.sum_keepdim((0, 2))?, &t.sum_keepdim((0, 2))?)?;
    same(&x.mean_keepdim(dim)?, &t.mean_keepdim(dim)?)?;
    same(&x.max_keepdim(D::Minus1)?, &t.max_keepdim(D::Minus1)?)?;
    same(&x.var_keepdim(dim)?, &t.var_keepdim(dim)?)?;
    same(&x.log_sum_exp(D::Minus1)?, &t.log_sum_exp(D::Minus1)?)?;
    same(&x.cumsum(D::Minus1)?, &t.cumsum(D::Minus1)?)?;
    same(&x.get_on_dim(dim, 2)?, &t.get_on_dim(dim, 2)?)?;
    same(&x.pad_with_zeros(D::Minus1, 1, 0)?, &t.pad_with_zeros(D::Minus1, 1, 0)?)?;
    same(&x.chunk(2, D::Minus1)?[1], &t.chunk(2, D::Minus1)?[1])?;
    same(&TrackedTensor::cat(&[&x, &x], D::Minus1)?, &Tensor::cat(&[&t, &t], D::Minus1)?)?;
    same(&TrackedTensor::stack(&[&x, &x], 0)?, &Tensor::stack(&[&t, &t], 0)?)?;
    let at = Tensor::new(&[2u32, 0], t.device())?;
    same(&x.index_select(&at, dim)?, &t.index_select(&at, dim)?)?;
    same(&x.softmax(D::Minus1)?, &candle_nn::ops::softmax(&t, D::Minus1)?)?;
    same(&x.log_softmax(dim)?, &candle_nn::ops::log_softmax(&t, dim)?)?;
    same(&x.sum_dim(D::Minus1)?, &t.sum(D::Minus1)?)?;
    same(&x.mean_dim(dim)?, &t.mean(dim)?)?;
    same(&x.max_dim(D::Minus2)?, &t.max(D::Minus2)?)?;
    same(&x.sum_dims((D::Minus2, D::Minus1), false)?, &t.sum((1, 2))?)?;
    Ok(())
}

/// A bare number has no type of its own; nothing has to be written behind it.
#[test]
fn numbers_of_any_kind_name_a_dimension() -> Result<()> {
    let x = value(&[2, 3])?;
    let want = x.sum_dim(1)?.to_flat::<f64>()?;
    let last = x.rank() - 1;
    for got in [x.sum_dim(-1)?, x.sum_dim(last)?, x.sum_dim(1usize)?, x.sum_dim(-1isize)?, x.sum_dim(1i32)?] {
        assert_eq!(got.to_flat::<f64>()?, want);
    }
    assert_eq!(x.sum_dim(D::Minus(1))?.to_flat::<f64>()?, want);
    for wrong in [x.sum_dim(2), x.sum_dim(-3), x.sum_dim(D::Minus(3)), x.softmax(7usize)] {
        let error = wrong.expect_err("x has two dimensions").to_string();
        assert!(error.contains("no dimension") && error.contains("dimensions.rs"), "{error}");
    }
    Ok(())
}
