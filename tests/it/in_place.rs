//! Random programs with in-place ops against their functional twins: values and gradients are
//! equal to the bit, on spent and persistent tapes, nested tapes and in checkpointed regions.
//!
//! `CANDLE_AUTOGRAD_PROGRAMS` sets how many programs are run; `cargo xtask soak` runs 10,000.

use candle_autograd::core::{InPlaceStatistics, count_in_place, strict_in_place};
use candle_autograd::tape::{RegionOptions, region};
use candle_autograd::{Error, GradientTape, Result, TensorAutograd, TrackedTensor};

/// Programs in an ordinary test run.
const PROGRAMS: u64 = 500;

/// A small generator (SplitMix64): a program is its seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// A number in −1 .. 1.
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }

    fn values(&mut self, dims: &[usize]) -> Result<TrackedTensor> {
        let data: Vec<f64> = (0..dims.iter().product()).map(|_| self.unit()).collect();
        TrackedTensor::from_vec(data, dims)
    }
}

const ROWS: usize = 4;
const COLUMNS: usize = 3;

/// One run of a program: in place, or its functional twin. Both draw the same numbers.
struct Run {
    random: Random,
    in_place: bool,
    pool: Vec<TrackedTensor>,
}

impl Run {
    /// Binds a value of the pool to what an op gives: by the op in place, or by its twin.
    fn bind(
        &mut self,
        i: usize,
        place: impl FnOnce(&mut TrackedTensor) -> Result<()>,
        twin: impl FnOnce(&TrackedTensor) -> Result<TrackedTensor>,
    ) -> Result<()> {
        if self.in_place {
            return place(&mut self.pool[i]);
        }
        self.pool[i] = twin(&self.pool[i])?;
        Ok(())
    }

    /// Another value of the pool, or a row or a column of it, or a number.
    fn operand(&mut self) -> Result<TrackedTensor> {
        let j = self.random.below(self.pool.len());
        let y = self.pool[j].clone();
        Ok(match self.random.below(4) {
            0 => y.narrow(0, 1, 1)?,
            1 => y.narrow(1, 0, 1)?,
            2 => y.get(0)?,
            _ => y,
        })
    }

    fn step(&mut self) -> Result<()> {
        let i = self.random.below(self.pool.len());
        match self.random.below(20) {
            0 | 1 => {
                let y = self.operand()?;
                self.bind(i, |x| x.add_(&y).map(|_| ()), |x| x.add(&y))
            }
            2 => {
                let y = self.operand()?;
                self.bind(i, |x| x.sub_(&y).map(|_| ()), |x| x.sub(&y))
            }
            3 => {
                let y = self.operand()?.tanh()?;
                self.bind(i, |x| x.mul_(&y).map(|_| ()), |x| x.mul(&y))
            }
            4 => {
                let y = self.operand()?.abs()?.add(1.0)?;
                self.bind(i, |x| x.div_(&y).map(|_| ()), |x| x.div(&y))
            }
            5 => self.bind(i, |x| x.neg_().map(|_| ()), |x| x.neg()),
            6 | 7 => self.bind(i, |x| x.relu_().map(|_| ()), |x| x.relu()),
            8 => self.bind(i, |x| x.clamp_(-0.5, 0.75).map(|_| ()), |x| x.clamp(-0.5, 0.75)),
            9 => {
                let c = self.random.unit();
                self.bind(i, |x| x.mul_(c)?.add_(0.25).map(|_| ()), |x| x.mul(c)?.add(0.25))
            }
            10 => {
                let (row, src) = (self.random.below(ROWS), self.operand()?.sum_keepdim(0)?);
                let src = src.broadcast_as(vec![1, COLUMNS])?;
                let part = [row..row + 1, 0..COLUMNS];
                self.bind(i, |x| x.slice_assign_(&part, &src).map(|_| ()), |x| x.slice_assign(&part, &src))
            }
            11 | 12 => {
                let accumulate = self.random.below(2) == 0;
                let rows: Vec<u32> = (0..2).map(|_| self.random.below(ROWS) as u32).collect();
                let rows = TrackedTensor::from_vec(rows, &[2])?;
                let j = self.random.below(self.pool.len());
                let src = self.pool[j].narrow(0, 0, 2)?;
                self.bind(
                    i,
                    |x| x.index_put_(&[&rows], &src, accumulate).map(|_| ()),
                    |x| x.index_put(&[&rows], &src, accumulate),
                )
            }
            13 => {
                let made = self.pool[i].sin()?;
                self.keep(made)
            }
            14 => {
                let made = self.pool[i].exp()?.mul(0.25)?;
                self.keep(made)
            }
            15 => {
                let y = self.operand()?;
                let made = self.pool[i].mul(&y)?.tanh()?;
                self.keep(made)
            }
            // Handles and views that must keep what they see.
            16 => self.keep(self.pool[i].clone()),
            17 => {
                let made = self.pool[i].reshape(vec![ROWS * COLUMNS])?.reshape(vec![ROWS, COLUMNS])?;
                self.keep(made)
            }
            18 => {
                let made = self.pool[i].flip(vec![0])?.t()?.t()?;
                self.keep(made)
            }
            // A handle that goes, so that memory becomes free to reuse.
            _ => {
                if self.pool.len() > 2 {
                    drop(self.pool.swap_remove(i));
                }
                Ok(())
            }
        }
    }

    fn keep(&mut self, value: TrackedTensor) -> Result<()> {
        if self.pool.len() < 6 {
            self.pool.push(value);
            return Ok(());
        }
        let i = self.random.below(self.pool.len());
        self.pool[i] = value;
        Ok(())
    }

    /// Runs the program and gives a loss over everything that is left.
    fn loss(&mut self, checkpointed: bool) -> Result<TrackedTensor> {
        let steps = 4 + self.random.below(14);
        for _ in 0..steps / 2 {
            self.step()?;
        }
        if checkpointed {
            region(RegionOptions::new(), || (0..3).try_for_each(|_| self.step()))?;
        }
        for _ in steps / 2..steps {
            self.step()?;
        }
        let mut loss = TrackedTensor::scalar(0.0);
        for value in &self.pool {
            let weights = self.random.values(&[ROWS, COLUMNS])?;
            loss = loss.add(&value.mul(&weights)?.sum()?)?;
        }
        Ok(loss)
    }
}

/// Everything that a program gives, as bits.
fn outcome(seed: u64, in_place: bool) -> Result<Vec<u64>> {
    let mut random = Random(seed);
    let start = [random.values(&[ROWS, COLUMNS])?, random.values(&[ROWS, COLUMNS])?];
    let kind = seed % 4;
    let outer = GradientTape::new();
    let tape = if kind == 1 { GradientTape::new().persistent() } else { GradientTape::new() };
    let below: Vec<TrackedTensor> = match kind {
        3 => start.iter().map(|x| outer.variable(x)).collect(),
        _ => start.to_vec(),
    };
    let sources: Vec<TrackedTensor> = below.iter().map(|x| tape.variable(x)).collect();
    let pool = vec![sources[0].mul(1.5)?, sources[0].mul(&sources[1])?, sources[1].clone()];
    let mut run = Run { random, in_place, pool };
    let loss = run.loss(kind == 2)?;
    let mut found = vec![loss.clone()];
    found.extend(run.pool.iter().cloned());
    let sources: Vec<&TrackedTensor> = sources.iter().collect();
    let grads = tape.gradient(&loss, &sources)?;
    if kind == 1 || kind == 3 {
        // Gradients that do not depend on the sources have no second order.
        let again = grads[0].mul(&grads[1])?.sum()?;
        if kind == 1 && tape.watches(&again) {
            found.extend(tape.gradient(&again, &sources)?);
        } else if kind == 3 && outer.watches(&again) {
            found.extend(outer.gradient(&again, &below.iter().collect::<Vec<_>>())?);
        }
    }
    found.extend(grads);
    // The start values, which nothing may have written to.
    found.extend(start);
    let mut bits = Vec::new();
    for value in found {
        bits.extend(value.to_flat::<f64>()?.iter().map(|x| x.to_bits()));
    }
    Ok(bits)
}

#[test]
fn random_programs_in_place_equal_their_functional_twins() -> Result<()> {
    let wanted = std::env::var("CANDLE_AUTOGRAD_PROGRAMS").ok().and_then(|n| n.parse().ok());
    let programs = wanted.unwrap_or(PROGRAMS);
    let (done, statistics) = count_in_place(|| -> Result<InPlaceStatistics> {
        let mut functional = InPlaceStatistics::default();
        for seed in 0..programs {
            let in_place = outcome(seed, true)?;
            let (twin, none) = count_in_place(|| outcome(seed, false));
            functional = none;
            assert!(in_place == twin?, "program {seed} differs from its twin");
        }
        Ok(functional)
    });
    assert_eq!(done?, InPlaceStatistics::default(), "a twin does nothing in place");
    assert!(statistics.reused > 0 && statistics.copied > 0, "both ways are taken: {statistics:?}");
    println!(
        "{programs} programs: {} ops in place, {:.1} % of buffers reused ({} of {} bytes)",
        statistics.reused + statistics.copied,
        100.0 * statistics.share_reused(),
        statistics.bytes_reused,
        statistics.bytes_reused + statistics.bytes_copied
    );
    Ok(())
}

#[test]
fn a_var_stepped_between_forward_and_backward_is_an_error() -> Result<()> {
    use candle_core::{DType, Device, Tensor, Var};
    let var = Var::zeros(1000, DType::F64, &Device::Cpu)?;
    let tape = GradientTape::new().verify_saved();
    let w = tape.variable(var.as_tensor());
    let loss = w.sin()?.sum()?;
    // One element out of a thousand: the full check sees it.
    var.slice_set(&Tensor::ones(1, DType::F64, &Device::Cpu)?, 0, 17)?;
    let error = tape.gradient(&loss, &[&w]).expect_err("sin saved its input");
    assert!(matches!(error, Error::MutatedInput { op: "sin", .. }), "{error}");
    assert!(error.to_string().contains("in_place.rs"), "the line of the op: {error}");
    Ok(())
}

/// Without `verify_saved`, debug builds look at samples, the last element among them.
#[test]
#[cfg(debug_assertions)]
fn debug_builds_sample_saved_tensors() -> Result<()> {
    use candle_core::{DType, Device, Tensor, Var};
    let var = Var::zeros(1000, DType::F64, &Device::Cpu)?;
    let tape = GradientTape::new();
    let w = tape.variable(var.as_tensor());
    let loss = w.sin()?.sum()?;
    var.set(&Tensor::ones(1000, DType::F64, &Device::Cpu)?)?;
    assert!(matches!(tape.gradient(&loss, &[&w]), Err(Error::MutatedInput { .. })));
    Ok(())
}

#[test]
fn strict_mode_reaches_through_the_facade() -> Result<()> {
    let mut x = TrackedTensor::from_vec(vec![1f64], &[1])?;
    let kept = x.clone();
    assert!(matches!(strict_in_place(|| x.add_(1.0).map(|_| ())), Err(Error::InPlaceCopy { .. })));
    drop(kept);
    strict_in_place(|| x.add_(1.0).map(|_| ()))
}
