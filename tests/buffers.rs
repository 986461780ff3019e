//! What ops in place, results computed late and sweeps take from the pool of buffers, counted. A program of its own, because the
//! counters are those of the whole process: one test, and nothing beside it.

#[path = "../benches/residual.rs"]
mod residual;

use candle_autograd::kernels::memory;
use candle_autograd::{GradientTape, Result, TensorAutograd, TrackedTensor};
use residual::Net;

/// Elements of a value: in row-major order some megabytes, so that kernels work in many steps.
const LEN: usize = 1 << 19;

/// An op and its twin in place, of a large value and another operand.
type Twins = (
    &'static str,
    fn(&TrackedTensor, &TrackedTensor) -> Result<TrackedTensor>,
    fn(&mut TrackedTensor, &TrackedTensor) -> Result<()>,
);

const OPS: [Twins; 7] = [
    ("add", |x, y| x.add(y), |x, y| x.add_(y).map(|_| ())),
    ("sub", |x, y| x.sub(y), |x, y| x.sub_(y).map(|_| ())),
    ("mul", |x, y| x.mul(y), |x, y| x.mul_(y).map(|_| ())),
    ("div", |x, y| x.div(y), |x, y| x.div_(y).map(|_| ())),
    ("neg", |x, _| x.neg(), |x, _| x.neg_().map(|_| ())),
    ("relu", |x, _| x.relu(), |x, _| x.relu_().map(|_| ())),
    ("clamp", |x, _| x.clamp(0.25, 0.5), |x, _| x.clamp_(0.25, 0.5).map(|_| ())),
];

/// Buffers of 4 KiB and more that `f` takes.
fn taken<T>(f: impl FnOnce() -> Result<T>) -> Result<(T, usize)> {
    let before = memory::stats();
    let made = f()?;
    let after = memory::stats();
    Ok((made, (after.reused + after.fresh) - (before.reused + before.fresh)))
}

fn numbers(dims: &[usize]) -> Result<TrackedTensor> {
    let count: usize = dims.iter().product();
    TrackedTensor::from_vec((0..count).map(|i| 1.5 + (i as f32 * 0.37).sin()).collect(), dims)
}

/// Values that nobody else has give their memory to what is computed from them.
fn dying_values_are_written_over() -> Result<()> {
    let (x, b) = (numbers(&[512, LEN / 512])?, numbers(&[LEN / 512])?);
    let wanted = x.exp()?.settle().add(&b)?.relu()?.to_flat::<f32>()?;
    // A result that only the late one reads, in either place of the expression.
    let either: [fn(&TrackedTensor, &TrackedTensor) -> Result<TrackedTensor>; 2] =
        [|h, b| h.add(b), |h, b| b.add(h)];
    for sum in either {
        let (y, dropped) = taken(|| {
            let y = sum(x.exp()?.settle(), &b)?.relu()?;
            Ok(y.settle().clone())
        })?;
        let h = x.exp()?.settle().clone();
        let (z, kept) = taken(|| Ok(sum(&h, &b)?.relu()?.settle().clone()))?;
        assert_eq!((dropped, kept), (1, 1), "one buffer for both, and one where the first is kept");
        assert!(y.to_flat::<f32>()? == wanted && z.to_flat::<f32>()? == wanted);
        assert!(h.to_flat::<f32>()? == x.exp()?.to_flat::<f32>()?, "what is kept is as it was");
    }

    // The cotangents of a chain: the seed is the user's, all others are the sweep's own.
    let seed = numbers(&[512, LEN / 512])?;
    let before = seed.to_flat::<f32>()?;
    let gradient = |last: bool| -> Result<(Vec<TrackedTensor>, usize)> {
        let tape = GradientTape::new();
        let x = tape.variable(&x);
        let h = x.tanh()?;
        let y = h.sigmoid()?.silu()?;
        y.settle();
        let sources = if last { vec![&x] } else { vec![&x, &h] };
        taken(|| tape.gradient_with(&[&y], &[&seed], &sources))
    };
    // A residual connection: what comes through the op is added to what comes past it, where that lies.
    let (_, residual) = {
        // Too small to be computed late.
        let (x, seed) = (numbers(&[128, 512])?, numbers(&[128, 512])?);
        let tape = GradientTape::new();
        let x = tape.variable(&x);
        let h = x.exp()?;
        let y = h.add(&h.tanh()?)?.sigmoid()?;
        taken(|| tape.gradient_with(&[&y], &[&seed], &[&x]))?
    };
    assert_eq!(residual, 2, "one buffer past the op, one through it");
    let (one, alone) = gradient(true)?;
    let (both, asked) = gradient(false)?;
    assert_eq!((alone, asked), (1, 2), "one buffer for each gradient that is kept");
    assert!(seed.to_flat::<f32>()? == before, "the seed is as it was");
    assert!(one[0].to_flat::<f32>()? == both[0].to_flat::<f32>()?);
    let (h, g) = (x.tanh()?, &both[1]);
    let slope = h.sqr()?.affine(-1.0, 1.0)?.mul(g)?.to_flat::<f32>()?;
    // A part of a large cotangent is left as it is: written over, it would keep all of it.
    let before = memory::stats().live_bytes;
    let tape = GradientTape::new();
    let part = tape.variable(&numbers(&[64, LEN / 512])?);
    let z = TrackedTensor::cat(&[&part.exp()?, &x], 0)?;
    let y = z.silu()?;
    let grad = tape.gradient_with(&[&y], &[&y.detach()?], &[&part])?;
    drop((y, z, part, tape));
    let (live, own) = (memory::stats().live_bytes, grad[0].elem_count() * 4);
    assert!(live <= before + own, "{live} bytes after {before}, of which {own} are the gradient");
    let apart = one[0].to_flat::<f32>()?.iter().zip(&slope).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(apart < 1e-6, "{apart:e}");
    Ok(())
}

#[test]
fn in_place_takes_no_more_buffers_than_not() -> Result<()> {
    // Of one shape, one for each row, one for each column, and a number.
    for other in [&[512, LEN / 512][..], &[512, 1], &[LEN / 512], &[1]] {
        let y = numbers(other)?;
        for (name, functional, in_place) in OPS {
            let mut x = numbers(&[512, LEN / 512])?;
            let (wanted, without) = taken(|| Ok(functional(&x, &y)?.settle().clone()))?;
            let ((), with) = taken(|| in_place(&mut x, &y))?;
            assert!(x.to_flat::<f32>()? == wanted.to_flat::<f32>()?, "{name} with {other:?}");
            assert_eq!((without, with), (1, 0), "{name} with {other:?}: the result, and nothing");
        }
    }

    // Nor for an operand in another order.
    let (mut x, y) = (numbers(&[512, LEN / 512])?, numbers(&[LEN / 512, 512])?);
    let wanted = x.add(&y.transpose(0, 1)?)?.to_flat::<f32>()?;
    let ((), with) = taken(|| x.add_(&y.transpose(0, 1)?).map(|_| ()))?;
    assert!(x.to_flat::<f32>()? == wanted && with == 0, "{with} for a transposed operand");

    dying_values_are_written_over()?;

    let net = Net::new(3, 2, 8, 32)?;
    let (without, with) = (net.step(residual::functional)?, net.step(residual::in_place)?);
    assert!(without.gradients == with.gradients, "both ways give the same gradients");
    let figures = ((without.taken, without.peak), (with.taken, with.peak));
    assert_eq!(with.statistics.copied, 0, "nothing needs the old values: {:?}", with.statistics);
    let spared = with.statistics.reused;
    assert_eq!(with.taken + spared, without.taken, "each reuse spares a buffer: {figures:?}");
    assert!(with.peak < without.peak, "{figures:?}");
    // A second time all is the same.
    let again = net.step(residual::in_place)?;
    assert_eq!((again.taken, again.peak), (with.taken, with.peak));
    Ok(())
}
