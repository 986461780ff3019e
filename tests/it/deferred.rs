//! Deferred values: the numbers and gradients are those of one op at a time, to the bit.

use crate::modes::Workspace;
use crate::registry::all;
use autograd_core::testing::deferred_from;
use autograd_core::{Result, TrackedTensor, strict_in_place};
use autograd_ops::testing::check;
use candle_autograd::checkpoint::checkpoint;
use candle_autograd::{GradientTape, TensorAutograd};

const AT_ONCE: usize = usize::MAX;
const ALWAYS: usize = 1;

/// Rows and columns of values whose sums go through the tile machine.
const LONG: [usize; 2] = [300, 257];

fn values(shape: [usize; 2], seed: u32) -> Result<TrackedTensor> {
    let n = shape[0] * shape[1];
    let number = |i: usize| ((i as u32).wrapping_mul(2_654_435_761) ^ seed) >> 8;
    TrackedTensor::from_vec((0..n).map(|i| number(i) as f32 / (1 << 23) as f32 - 1.0).collect(), &shape)
}

fn bits(x: &TrackedTensor) -> Result<Vec<u32>> {
    Ok(x.to_flat::<f32>()?.into_iter().map(f32::to_bits).collect())
}

type Chain = fn(&TrackedTensor, &TrackedTensor, &TrackedTensor) -> Result<TrackedTensor>;

/// Functions of two whole values and a row.
const CHAINS: [(&str, Chain); 10] = [
    ("product and sum", |x, w, _| x.mul(w)?.sum()),
    ("mean of squares", |x, w, _| x.sub(w)?.sqr()?.mean()),
    ("rows", |x, w, _| x.mul(w)?.sum_dim(1)),
    ("columns", |x, w, _| x.mul(w)?.gelu()?.sum_keepdim(0usize)),
    ("a row goes in", |x, _, b| x.add(b)?.tanh()?.mul(x)?.sum()),
    ("taken in twice", |x, w, _| {
        let y = x.mul(w)?;
        y.exp()?.add(&y)?.sum()?.add(&y.mean()?)
    }),
    ("parameters", |x, w, _| x.mul(0.3)?.add(1.5)?.leaky_relu(0.1)?.mul(w)?.mul(0.5)?.sum()),
    ("mish and gelu", |x, w, _| x.mish()?.mul(&w.gelu()?)?.sum()),
    ("long", |x, w, b| {
        let mut y = x.clone();
        for _ in 0..20 {
            y = y.mul(w)?.add(b)?.sigmoid()?;
        }
        y.sum()
    }),
    ("no sum", |x, w, b| x.add(w)?.mul(b)?.t()?.relu()),
];

#[test]
fn numbers_and_gradients_are_those_of_one_op_at_a_time() -> Result<()> {
    for shape in [LONG, [7, 9]] {
        let (x, w, b) = (values(shape, 1)?, values(shape, 2)?, values([1, shape[1]], 3)?);
        for (name, f) in CHAINS {
            let run = |from: usize| -> Result<Vec<Vec<u32>>> {
                deferred_from(from, || {
                    let plain = f(&x, &w, &b)?;
                    let tape = GradientTape::new();
                    let leaves = [&x, &w, &b].map(|v| tape.variable(v.clone()));
                    let y = f(&leaves[0], &leaves[1], &leaves[2])?;
                    let sources: Vec<&TrackedTensor> = leaves.iter().collect();
                    let grads = tape.gradient(&y.sum()?, &sources)?;
                    std::iter::once(&plain).chain([&y]).chain(&grads).map(bits).collect()
                })
            };
            assert_eq!(run(ALWAYS)?, run(AT_ONCE)?, "{name} of {shape:?}");
        }
    }
    Ok(())
}

#[test]
fn a_sum_takes_in_what_is_deferred() -> Result<()> {
    let (x, w) = (values(LONG, 1)?, values(LONG, 2)?);
    deferred_from(ALWAYS, || {
        let product = x.mul(&w)?;
        assert!(product.is_deferred());
        let sum = product.sum()?;
        assert!(product.is_deferred() && !sum.is_deferred(), "the product was never written");
        assert_eq!(bits(&product.sum()?)?, bits(&sum)?);
        assert!(!product.is_deferred(), "who comes second gets it computed");
        assert!(!x.gelu()?.settle().is_deferred());
        Ok(())
    })
}

#[test]
fn small_values_are_there_at_once() -> Result<()> {
    let x = values([4, 4], 1)?;
    assert!(!x.mul(&x)?.is_deferred());
    assert!(values([1024, 512], 1)?.exp()?.is_deferred());
    Ok(())
}

#[test]
fn what_rules_keep_is_there() -> Result<()> {
    deferred_from(ALWAYS, || {
        let tape = GradientTape::new();
        let x = tape.variable(values([3, 5], 1)?);
        let h = x.mul(2.0)?;
        assert!(h.is_deferred());
        let y = h.gelu()?;
        assert!(!h.is_deferred() && y.is_deferred(), "gelu keeps its argument");
        assert!(!x.exp()?.is_deferred(), "exp keeps its result");
        Ok(())
    })
}

#[test]
fn ops_in_place_change_nothing_that_is_deferred() -> Result<()> {
    deferred_from(ALWAYS, || {
        let mut x = values([3, 5], 1)?;
        let want = bits(&deferred_from(AT_ONCE, || x.mul(3.0))?)?;
        let y = x.mul(3.0)?;
        strict_in_place(|| x.add_(1.0).map(|_| ()))?;
        assert_eq!(bits(&y)?, want);
        // A deferred value is written over like any other.
        // So is a view of what a deferred value reads.
        let owner = values([3, 5], 2)?;
        let mut view = owner.narrow(0, 1, 1)?;
        let product = owner.mul(3.0)?;
        let want_product = bits(&deferred_from(AT_ONCE, || owner.mul(3.0))?)?;
        drop(owner);
        strict_in_place(|| view.add_(1.0).map(|_| ()))?;
        assert_eq!(bits(&product)?, want_product);
        let mut z = x.mul(2.0)?;
        let want = bits(&deferred_from(AT_ONCE, || x.mul(2.0)?.add(1.0))?)?;
        strict_in_place(|| z.add_(1.0).map(|_| ()))?;
        assert_eq!(bits(&z)?, want);
        Ok(())
    })
}

#[test]
fn candle_memory_is_read_at_once() -> Result<()> {
    let var = candle_core::Var::from_vec(vec![1f32, 2., 3.], 3, &candle_core::Device::Cpu)?;
    deferred_from(ALWAYS, || {
        let x = TrackedTensor::from_candle(var.as_tensor())?;
        let y = x.mul(2.0)?;
        assert!(!y.is_deferred());
        var.set(&candle_core::Tensor::zeros(3, candle_core::DType::F32, &candle_core::Device::Cpu)?)?;
        assert_eq!(y.to_vec1::<f32>()?, [2., 4., 6.]);
        Ok(())
    })
}

#[test]
fn tensors_and_views_of_deferred_values() -> Result<()> {
    deferred_from(ALWAYS, || {
        let x = values([3, 5], 1)?;
        let want = deferred_from(AT_ONCE, || x.exp())?;
        assert_eq!(bits(&x.exp()?.t()?)?, bits(&want.t()?)?);
        assert_eq!(bits(&x.exp()?.detach()?)?, bits(&want)?);
        let tensor = x.exp()?.into_tensor()?;
        assert_eq!(bits(&TrackedTensor::from(tensor))?, bits(&want)?);
        drop(x.exp()?);
        Ok(())
    })
}

#[test]
fn threads_read_one_deferred_value() -> Result<()> {
    let x = values(LONG, 1)?;
    for _ in 0..50 {
        let y = deferred_from(ALWAYS, || x.gelu())?;
        let want = bits(&deferred_from(AT_ONCE, || x.gelu())?)?;
        std::thread::scope(|scope| {
            let readers: Vec<_> = (0..4)
                .map(|i| {
                    let y = &y;
                    scope.spawn(move || match i % 2 {
                        0 => bits(y),
                        // Takes it in, or finds it computed.
                        _ => deferred_from(ALWAYS, || bits(&y.mul(1.0)?)),
                    })
                })
                .collect();
            for reader in readers {
                assert_eq!(reader.join().expect("no panic")?, want);
            }
            Ok::<_, autograd_core::Error>(())
        })?;
    }
    Ok(())
}

#[test]
fn checkpoints_replay_deferred_values() -> Result<()> {
    let x = values([40, 30], 1)?;
    let f = |x: &TrackedTensor| x.mul(2.0)?.gelu()?.mul(x)?.exp();
    let run = |from: usize, replayed: bool| -> Result<Vec<u32>> {
        deferred_from(from, || {
            let tape = GradientTape::new();
            let x = tape.variable(x.clone());
            let y = match replayed {
                true => checkpoint(|x| Ok(vec![f(&x[0])?]), &[&x])?.remove(0),
                false => f(&x)?,
            };
            bits(&tape.derivative(&y.sum()?, &x)?)
        })
    };
    let want = run(AT_ONCE, false)?;
    assert!(run(ALWAYS, false)? == want && run(ALWAYS, true)? == want);
    Ok(())
}

#[test]
fn every_op_passes_every_check_on_deferred_values() {
    deferred_from(ALWAYS, || {
        for op in all() {
            if let Err(failure) = check(&op, &Workspace) {
                panic!("{failure}");
            }
        }
    });
}
