//! Taylor mode and the Laplacian against nested derivatives.

use crate::models::draw;
use autograd_core::{Result, TrackedTensor};
use autograd_ops::TensorAutograd;
use autograd_transforms::{derivatives, grad, hessian, jet, jvp, laplacian, laplacian_along, vmap};

/// f64, orders up to five.
const AGREE: f64 = 1e-10;

type Function = fn(&TrackedTensor) -> Result<TrackedTensor>;

/// Every rule shape: expressions, linear, bilinear, decomposed, flat; on a 3×4 value.
const FUNCTIONS: &[(&str, Function)] = &[
    ("expressions", |x| x.tanh()?.mul(x.sigmoid()?)?.add(x.exp()?)?.sum()),
    ("more expressions", |x| x.sqr()?.add(1.0)?.sqrt()?.recip()?.log()?.mul(x.sin()?)?.sum()),
    ("gelu and softplus", |x| x.gelu()?.mul(x.softplus()?)?.sum()),
    ("division and powers", |x| x.pow(3)?.div(x.sqr()?.add(2.0)?)?.sum()),
    ("matrix products", |x| x.matmul(x.t()?)?.tanh()?.matmul(x)?.sum()),
    ("softmax", |x| x.softmax(-1)?.mul(x)?.sum()),
    ("logsumexp", |x| x.logsumexp(0)?.sqr()?.sum()),
    ("cross entropy", |x| x.cross_entropy(&TrackedTensor::from_vec(vec![0u32, 3, 1], &[3])?)),
    ("slices and joins", |x| {
        TrackedTensor::cat(&[x.narrow(1, 1, 2)?.sqr()?, x.narrow(1, 0, 2)?.cos()?], 0)?.prod()
    }),
    ("flat", |x| x.floor()?.mul(x)?.add(x.relu()?.pow(2)?)?.sum()),
    ("layer norm", |x| {
        let centred = x.sub(x.mean_keepdim(-1)?)?;
        centred.div(centred.sqr()?.mean_keepdim(-1)?.add(1e-5)?.sqrt()?)?.exp()?.sum()
    }),
];

fn close(a: f64, b: f64, what: &str) {
    assert!((a - b).abs() <= AGREE * b.abs().max(1.0), "{what}: {a} and {b}");
}

#[test]
fn derivatives_of_every_order_equal_nested_ones() -> Result<()> {
    let (x, v) = (draw(&[3, 4], 1)?, draw(&[3, 4], 2)?);
    for &(name, f) in FUNCTIONS {
        let found = derivatives(f, &x, &v, 4)?;
        fn nested(f: Function, x: &TrackedTensor, v: &TrackedTensor, order: usize) -> Result<TrackedTensor> {
            if order == 0 { f(x) } else { Ok(jvp(|x| nested(f, x, v, order - 1), x, v)?.1) }
        }
        for (order, found) in found.iter().enumerate() {
            let want = nested(f, &x, &v, order)?.to_scalar::<f64>()?;
            close(found.to_scalar()?, want, &format!("{name}, order {order}"));
        }
    }
    Ok(())
}

/// Along a curve x + vt + wt²/2 the second derivative is vᵀHv + ⟨∇f, w⟩.
#[test]
fn a_jet_follows_a_curve() -> Result<()> {
    let (x, v, w) = (draw(&[3, 4], 3)?, draw(&[3, 4], 4)?, draw(&[3, 4], 5)?);
    for &(name, f) in FUNCTIONS {
        let (_, series) = jet(f, &x, &[&v, &w])?;
        let hv = jvp(|x| grad(f, x), &x, &v)?.1;
        let want = v.mul(hv)?.sum()?.add(grad(f, &x)?.mul(&w)?.sum()?)?;
        close(series[1].to_scalar()?, want.to_scalar()?, name);
    }
    Ok(())
}

#[test]
fn a_jet_can_be_differentiated_and_mapped() -> Result<()> {
    let x = TrackedTensor::from_vec(vec![0.5f64, 1.5], &[2])?;
    let one = TrackedTensor::scalar(1.0);
    let second = |x: &TrackedTensor| {
        derivatives(|x| x.sin(), x, &one, 2)?.pop().ok_or_else(|| autograd_core::Error::msg("none"))
    };
    // sin'' = −sin, and its derivative −cos, at each of two points.
    let third = vmap(|x| grad(second, x), &x, 0)?.to_vec1::<f64>()?;
    close(third[0], -0.5f64.cos(), "reverse over Taylor, first");
    close(third[1], -1.5f64.cos(), "reverse over Taylor, second");
    Ok(())
}

#[test]
fn the_laplacian_is_the_trace_of_the_hessian() -> Result<()> {
    let x = draw(&[3, 4], 6)?;
    for &(name, f) in FUNCTIONS {
        let found = laplacian(f, &x)?;
        let h = hessian(f, &x)?.reshape((12, 12))?.to_vec2::<f64>()?;
        let trace = (0..12).map(|i| h[i][i]).sum::<f64>();
        close(found.laplacian.to_scalar()?, trace, name);
        let slopes = found.slopes.to_vec1::<f64>()?;
        for (a, b) in slopes.into_iter().zip(grad(f, &x)?.to_flat::<f64>()?) {
            close(a, b, &format!("{name}: slope"));
        }
    }
    Ok(())
}

/// The Laplacian of a network at many points at once, and its gradient with respect to the
/// weights, both against the way by Hessians.
#[test]
fn a_laplacian_at_many_points_can_be_trained() -> Result<()> {
    let (w, out, points) = (draw(&[2, 5], 7)?, draw(&[5, 1], 8)?, draw(&[6, 2], 9)?);
    let net = |w: &TrackedTensor, x: &TrackedTensor| x.matmul(w)?.tanh()?.matmul(&out);
    let axes = TrackedTensor::from_vec(vec![1f64, 0., 0., 1.], &[2, 1, 2])?;
    let at_once = |w: &TrackedTensor| laplacian_along(|x| net(w, x), &points, &axes)?.laplacian.sqr()?.sum();
    let one_by_one = |w: &TrackedTensor| {
        let of_one = |x: &TrackedTensor| laplacian(|x| net(w, &x.reshape((1, 2))?)?.sum(), x);
        vmap(|x| Ok(of_one(x)?.laplacian), &points, 0)?.sqr()?.sum()
    };
    let by_hessian = |w: &TrackedTensor| {
        let mut total = TrackedTensor::scalar(0.0);
        for i in 0..6 {
            let x = points.narrow(0, i, 1)?.reshape(2)?;
            let h = hessian(|x| net(w, &x.reshape((1, 2))?)?.sum(), &x)?;
            let trace = h.narrow(0, 0, 1)?.narrow(1, 0, 1)?.add(h.narrow(0, 1, 1)?.narrow(1, 1, 1)?)?;
            total = total.add(trace.sum()?.sqr()?)?;
        }
        Ok(total)
    };
    let want = by_hessian(&w)?.to_scalar::<f64>()?;
    close(at_once(&w)?.to_scalar()?, want, "at once");
    close(one_by_one(&w)?.to_scalar()?, want, "mapped");
    let slopes = grad(by_hessian, &w)?.to_flat::<f64>()?;
    for (name, found) in [("at once", grad(at_once, &w)?), ("mapped", grad(one_by_one, &w)?)] {
        for (a, b) in found.to_flat::<f64>()?.into_iter().zip(&slopes) {
            close(a, *b, &format!("gradient {name}"));
        }
    }
    Ok(())
}
