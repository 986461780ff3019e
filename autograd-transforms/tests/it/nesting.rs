//! Second derivatives agree in every nesting, and perturbations are not confused.

use crate::models::{Block, ConvNet, Mlp, draw};
use autograd_core::{Result, TrackedTensor, Tree};
use autograd_ops::TensorAutograd;
use autograd_transforms::{
    estimate_hessian_diagonal, grad, gradcheck, hessian, hessian_diagonal, hvp, inner_product, jacrev, jvp,
    laplacian, ravel, vhp, vmap,
};

/// f64 through a few hundred roundings; the figure.
const AGREE: f64 = 1e-10;

fn close(a: &TrackedTensor, b: &TrackedTensor, what: &str) -> Result<()> {
    assert_eq!(a.dims(), b.dims(), "{what}");
    let (a, b) = (a.to_flat::<f64>()?, b.to_flat::<f64>()?);
    for (i, (a, b)) in a.iter().zip(&b).enumerate() {
        assert!((a - b).abs() <= AGREE * b.abs().max(1.0), "{what}, element {i}: {a} and {b}");
    }
    Ok(())
}

fn close_trees(a: &impl Tree, b: &impl Tree, what: &str) -> Result<()> {
    assert_eq!(a.paths(), b.paths(), "{what}");
    a.leaves().into_iter().zip(b.leaves()).try_for_each(|(a, b)| close(a, b, what))
}

/// Every way to a second derivative of a model's loss.
fn agree<M: Tree<Owned = M>>(
    name: &str,
    model: &M,
    loss: impl Fn(&M) -> Result<TrackedTensor>,
) -> Result<()> {
    let mut seed = 1000;
    let v = model.rebuild(&mut |x| {
        seed += 1;
        draw(x.dims(), seed)
    })?;
    let (_, forward_over_reverse) = jvp(|x| grad(&loss, x), model, &v)?;
    let reverse_over_reverse = vhp(&loss, model, &v)?;
    close_trees(&forward_over_reverse, &reverse_over_reverse, &format!("{name}: jvp of grad and vhp"))?;
    let slope = |x: &M| Ok(jvp(&loss, x, &v)?.1);
    let reverse_over_forward = grad(slope, model)?;
    close_trees(&forward_over_reverse, &reverse_over_forward, &format!("{name}: jvp of grad, grad of jvp"))?;
    close_trees(&forward_over_reverse, &hvp(&loss, model, &v)?, &format!("{name}: jvp of grad and hvp"))?;
    let along = |x: &M| inner_product(&grad(&loss, x)?, &v);
    let grad_of_grad = grad(along, model)?;
    close_trees(&forward_over_reverse, &grad_of_grad, &format!("{name}: jvp of grad, grad of grad"))?;
    let (_, forward_over_forward) = jvp(slope, model, &v)?;
    let product = inner_product(&v, &forward_over_reverse)?;
    close(&forward_over_forward, &product, &format!("{name}: jvp of jvp"))?;

    let (flat, layout) = ravel(model)?;
    let of_flat = |flat: &TrackedTensor| loss(&layout.unflatten_like(flat, model)?);
    let h = hessian(of_flat, &flat)?;
    let (flat_v, _) = ravel(&v)?;
    close(&h.mv(&flat_v)?, &ravel(&forward_over_reverse)?.0, &format!("{name}: hessian"))?;
    close(&h, &h.t()?.contiguous()?, &format!("{name}: the Hessian is symmetric"))?;
    close(&h, &jacrev(|x| grad(of_flat, x), &flat)?, &format!("{name}: jacrev of grad"))?;
    let diagonal = hessian_diagonal(of_flat, &flat)?;
    let n = flat.elem_count();
    let want: Vec<f64> = h.to_vec2::<f64>()?.iter().enumerate().map(|(i, row)| row[i]).collect();
    let trace = want.iter().sum::<f64>();
    let want = TrackedTensor::from_vec(want, &[n])?;
    close(&diagonal, &want, &format!("{name}: exact diagonal"))?;
    let found = laplacian(of_flat, &flat)?;
    close(&found.laplacian, &TrackedTensor::scalar(trace), &format!("{name}: Laplacian"))?;
    close(&found.slopes, &grad(of_flat, &flat)?, &format!("{name}: slopes of the Laplacian"))?;
    let estimate = estimate_hessian_diagonal(of_flat, &flat, 64, &autograd_ops::random::key(5))?;
    let mean = estimate.mean.to_vec1::<f64>()?;
    let error = estimate.standard_error.to_vec1::<f64>()?;
    // Six standard errors of 64 samples for each of some fifty entries.
    for (i, want) in want.to_vec1::<f64>()?.into_iter().enumerate() {
        let off = (mean[i] - want).abs();
        assert!(off <= 6.0 * error[i] + AGREE, "{name}: diagonal {i} is {off} off, error {}", error[i]);
    }
    // And all of it is the derivative.
    let report = gradcheck(&loss, model)?;
    assert!(report.passed() && report.compared == n, "{name}: {report}");
    Ok(())
}

#[test]
fn second_derivatives_of_an_mlp() -> Result<()> {
    agree("mlp", &Mlp::new()?, Mlp::loss)
}

#[test]
fn second_derivatives_of_a_conv_net() -> Result<()> {
    agree("conv net", &ConvNet::new()?, ConvNet::loss)
}

#[test]
fn second_derivatives_of_an_attention_block() -> Result<()> {
    agree("attention", &Block::new()?, Block::loss)
}

/// d/dx (x · d/dy (x + y)) at 1 is 1, whichever modes are nested; confusion says 2.
#[test]
fn perturbations_are_not_confused() -> Result<()> {
    let one = TrackedTensor::scalar(1.0);
    let number = |x: TrackedTensor| x.to_scalar::<f64>();
    let by_jvp = |f: &dyn Fn(&TrackedTensor) -> Result<TrackedTensor>, x: &TrackedTensor| {
        Ok(jvp(|x| f(x), x, &TrackedTensor::scalar(1.0))?.1)
    };
    let by_grad = |f: &dyn Fn(&TrackedTensor) -> Result<TrackedTensor>, x: &TrackedTensor| grad(|x| f(x), x);
    let by_laplacian = |f: &dyn Fn(&TrackedTensor) -> Result<TrackedTensor>, x: &TrackedTensor| {
        laplacian(|x| f(x), x)?.slopes.reshape(())
    };
    type Derivative<'a> =
        &'a dyn Fn(&dyn Fn(&TrackedTensor) -> Result<TrackedTensor>, &TrackedTensor) -> Result<TrackedTensor>;
    let ways: [Derivative<'_>; 3] = [&by_jvp, &by_grad, &by_laplacian];
    for (i, outer) in ways.iter().enumerate() {
        for (j, inner) in ways.iter().enumerate() {
            let f = |x: &TrackedTensor| x.mul(&inner(&|y| x.add(y), &TrackedTensor::scalar(1.0))?);
            assert_eq!(number(outer(&f, &one)?)?, 1.0, "nesting {i} over {j}");
        }
    }
    Ok(())
}

/// A closure three levels deep that captures a value of each level above.
#[test]
fn closures_capture_values_of_every_level() -> Result<()> {
    // a(x) = d/dy [x·y² · d/dz (x·y·z³) at y] at x = d/dy [3x²y⁵] at x = 15·x⁶; a' = 90·x⁵.
    let f = |x: &TrackedTensor| {
        grad(
            |y| {
                let inner = grad(|z| x.mul(y)?.mul(z.pow(3)?), y)?;
                x.mul(y.sqr()?)?.mul(inner)
            },
            x,
        )
    };
    let x = TrackedTensor::scalar(2.0);
    assert_eq!(f(&x)?.to_scalar::<f64>()?, 15.0 * 64.0);
    let (_, dy) = jvp(f, &x, &TrackedTensor::scalar(1.0))?;
    assert_eq!(dy.to_scalar::<f64>()?, 90.0 * 32.0);
    assert_eq!(grad(f, &x)?.to_scalar::<f64>()?, 90.0 * 32.0);
    let many = TrackedTensor::from_vec(vec![1f64, 2.], &[2])?;
    let mapped = vmap(|x| Ok(jvp(f, x, &TrackedTensor::scalar(1.0))?.1), &many, 0)?;
    assert_eq!(mapped.to_vec1::<f64>()?, [90.0, 90.0 * 32.0]);
    Ok(())
}
