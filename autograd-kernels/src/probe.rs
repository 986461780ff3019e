//! What the machine can do at this moment: the rate beside which timings are read.

use crate::simd::vectorised;
use crate::threads::{parallel_for, threads};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Instant;

/// Independent chains: enough to fill two pipes of latency 4 to 5.
const CHAINS: usize = 10;

vectorised! {
    /// Runs `rounds` rounds of multiply-adds; the result depends on every one of them.
    fn chains<T, V>(rounds: usize, start: T) -> T {
        let (factor, term) = (V::splat(start), V::num(1e-9));
        let mut sums = [V::num(0.5); CHAINS];
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = sum.fma(factor, term);
            }
        }
        let mut lanes = [start; 64];
        let total = sums.into_iter().fold(V::num(0.0), |a, b| a + b);
        assert!(V::LANES <= lanes.len());
        // SAFETY: there is room for `LANES` numbers.
        unsafe { total.store(lanes.as_mut_ptr()) };
        lanes[0]
    }
}

vectorised! {
    /// How many numbers a vector holds.
    fn lanes<T, V>(_zero: T) -> usize {
        V::LANES
    }
}

/// Fused multiply-adds in f32 on all threads of the pool, in 10⁹ floating-point operations a
/// second, measured over roughly 15 ms. The peak that no kernel can pass: quote it beside timings on a
/// machine that is shared.
pub fn fma_gflops() -> f64 {
    const ROUNDS: usize = 1 << 23;
    let workers = threads();
    let sink = AtomicU32::new(0);
    let clock = Instant::now();
    parallel_for(workers, &|task| {
        let end = chains::<f32>(ROUNDS, 1.0 - 1e-7 * task as f32);
        sink.fetch_xor(end.to_bits(), Relaxed);
    });
    let seconds = clock.elapsed().as_secs_f64();
    std::hint::black_box(sink.into_inner());
    (2 * ROUNDS * CHAINS * lanes(0f32) * workers) as f64 / seconds / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_finite_and_positive() {
        let rate = fma_gflops();
        assert!(rate.is_finite() && rate > 0.0, "{rate}");
    }
}
