//! Long chains: nothing recurses.

use candle_autograd::{GradientTape, Result, TensorAutograd, TrackedTensor};

/// Recorded ops of the chain.
const OPS: usize = 1_000_000;

#[test]
fn a_million_ops_on_a_small_stack() -> Result<()> {
    let run = || -> Result<()> {
        let tape = GradientTape::new();
        let x = tape.variable(TrackedTensor::scalar(1.0));
        let mut y = x.clone();
        for _ in 0..OPS {
            y = y.mul(1.000_000_1)?;
        }
        let dy = tape.derivative(&y, &x)?.to_scalar::<f64>()?;
        assert!((dy - y.to_scalar::<f64>()?).abs() < 1e-9, "{dy}");
        // The same chain dropped without a gradient.
        let tape = GradientTape::new();
        let mut y = tape.variable(TrackedTensor::scalar(1.0));
        for _ in 0..OPS {
            y = y.sin()?;
        }
        drop(y);
        drop(tape);
        Ok(())
    };
    let small = std::thread::Builder::new().stack_size(1 << 20).spawn(run);
    small
        .map_err(candle_autograd::Error::msg)?
        .join()
        .map_err(|_| candle_autograd::Error::msg("the thread died"))?
}

#[test]
fn what_nobody_reads_is_let_go() -> Result<()> {
    let tape = GradientTape::new();
    let x = tape.variable(TrackedTensor::scalar(1.0));
    let kept = x.exp()?;
    // A metric computed and thrown away.
    for _ in 0..100 {
        drop(kept.mul(&kept)?.sqrt()?.add(1.0)?);
    }
    let bytes: usize = tape.nodes().iter().map(|n| n.kept_bytes).sum();
    assert_eq!(bytes, 8, "only exp's own output is kept");
    assert_eq!(tape.derivative(&kept, &x)?.to_scalar::<f64>()?, 1f64.exp());
    Ok(())
}
