//! Batches: mapped dimensions of any argument, per-sample gradients, chunks.

use crate::models::draw;
use autograd_core::{Mask, Result, TrackedTensor};
use autograd_ops::TensorAutograd;
use autograd_transforms::{Jacobian, Vmap, grad, jacfwd, jacobian, jacrev, vmap};

fn same(a: &TrackedTensor, b: &TrackedTensor) -> Result<()> {
    assert_eq!(a.dims(), b.dims());
    for (a, b) in a.to_flat::<f64>()?.into_iter().zip(b.to_flat::<f64>()?) {
        // Sums in another order.
        assert!((a - b).abs() <= 1e-12 * b.abs().max(1.0), "{a} and {b}");
    }
    Ok(())
}

#[test]
fn any_dimension_of_any_argument() -> Result<()> {
    let (x, w) = (draw(&[3, 4, 2], 1)?, draw(&[4, 5], 2)?);
    let f = |(x, w): &(TrackedTensor, TrackedTensor)| x.sin()?.matmul(w);
    // x mapped over its last dimension: examples of 3×4.
    let got = vmap(f, &(&x, &w), [Some(-1), None])?;
    let loop_ = |i: usize| x.narrow(2, i, 1)?.reshape((3, 4))?.sin()?.matmul(&w);
    same(&got, &TrackedTensor::stack(&[loop_(0)?, loop_(1)?], 0)?)?;
    let placed = Vmap::over([Some(2), None]).to(-1).run(f, &(&x, &w))?;
    same(&placed, &TrackedTensor::stack(&[loop_(0)?, loop_(1)?], -1)?)?;
    let chunked = Vmap::over(1).chunk_size(3).run(|x| x.exp()?.sum(), &x)?;
    same(&chunked, &vmap(|x| x.exp()?.sum(), &x, 1)?)?;
    let masked = vmap(|x| x[0].sub(&x[1]), &[&x, &x], Mask::one(0))?;
    assert_eq!(masked.dims(), [3, 3, 4, 2]);
    Ok(())
}

/// A batch inside of a gradient: one matrix for all examples, on either side of the product.
#[test]
fn a_gradient_through_a_batch() -> Result<()> {
    let (w, x) = (draw(&[3, 4], 3)?, draw(&[5, 4, 2], 4)?);
    let at_once = grad(|w| vmap(|x| w.matmul(x)?.tanh()?.sum(), &x, 0)?.sum(), &w)?;
    let mut want = w.mul(0.0)?;
    for i in 0..5 {
        let x = x.narrow(0, i, 1)?.reshape((4, 2))?;
        want = want.add(grad(|w| w.matmul(&x)?.tanh()?.sum(), &w)?)?;
    }
    same(&at_once, &want)?;
    let vectors = draw(&[5, 4], 5)?;
    let mapped = vmap(|x| w.mv(x), &vectors, 0)?;
    same(&mapped, &vectors.matmul(w.t()?)?)?;
    same(&grad(|w| vmap(|x| w.mv(x)?.sqr()?.sum(), &vectors, 0)?.sum(), &w)?, &{
        vectors.matmul(w.t()?)?.mul(2.0)?.t()?.matmul(&vectors)?
    })
}

#[test]
fn gradients_of_each_sample() -> Result<()> {
    let (w, b) = (draw(&[4, 3], 6)?, draw(&[3], 7)?);
    let x = draw(&[5, 4], 8)?;
    let targets = TrackedTensor::from_vec(vec![0u32, 1, 2, 1, 0], &[5])?;
    let loss = |(w, b): &(TrackedTensor, TrackedTensor), x: &TrackedTensor, t: &TrackedTensor| {
        x.matmul(w)?.add(b)?.relu()?.cross_entropy(t)
    };
    let model = (w, b);
    let each = vmap(|(x, t)| grad(|model| loss(model, x, t), &model), &(&x, &targets), 0)?;
    assert_eq!((each.0.dims(), each.1.dims()), (&[5, 4, 3][..], &[5, 3][..]));
    for i in 0..5 {
        let (x, t) = (x.narrow(0, i, 1)?.reshape(4)?, targets.narrow(0, i, 1)?.reshape(())?);
        let one = grad(|model| loss(model, &x, &t), &model)?;
        same(&each.0.narrow(0, i, 1)?.reshape((4, 3))?, &one.0)?;
        same(&each.1.narrow(0, i, 1)?.reshape(3)?, &one.1)?;
    }
    Ok(())
}

#[test]
fn jacobians_by_both_modes_and_in_chunks() -> Result<()> {
    let (w, x) = (draw(&[4, 3], 9)?, draw(&[2, 4], 10)?);
    let f = |(x, w): &(TrackedTensor, TrackedTensor)| x.matmul(w)?.tanh();
    let by_columns = jacfwd(f, &(&x, &w))?;
    let by_rows = jacrev(f, &(&x, &w))?;
    assert_eq!(by_rows.0.dims(), [2, 3, 2, 4]);
    assert_eq!(by_rows.1.dims(), [2, 3, 4, 3]);
    same(&by_columns.0, &by_rows.0)?;
    same(&by_columns.1, &by_rows.1)?;
    for way in [Jacobian::forward(), Jacobian::reverse(), Jacobian::new()] {
        let found = way.chunk_size(4).of(f, &(&x, &w))?;
        same(&found.0, &by_rows.0)?;
        same(&found.1, &by_rows.1)?;
    }
    // A constant has a Jacobian of zeros, and a wide and a tall function the same by any way.
    same(&jacrev(|_| Ok(w.clone()), &x)?, &draw(&[4, 3, 2, 4], 0)?.mul(0.0)?)?;
    same(&jacobian(|x| x.sum_keepdim(0), &x)?, &jacfwd(|x| x.sum_keepdim(0), &x)?)?;
    let tall = |x: &TrackedTensor| TrackedTensor::cat(&[x.exp()?, x.sin()?], 0);
    same(&jacobian(tall, &x)?, &jacrev(tall, &x)?)
}
