//! The Jacobian of a reaction–diffusion equation with 100,000 unknowns, in a dozen products.
//!
//! ```text
//! cargo run --release --example sparse_jacobian
//! ```
//!
//! The Brusselator on a periodic grid (Hairer and Wanner, "Solving Ordinary Differential Equations
//! II", section IV.10): ∂u/∂t = 1 + u²v − 4.4u + α∇²u, ∂v/∂t = 3.4u − u²v + α∇²v. Each unknown
//! reads six: itself, its four neighbours, and the other substance at its place. An implicit solver
//! needs that Jacobian at every step. By columns it takes as many products as there are unknowns;
//! compressed it takes one for each colour, whatever the size of the grid.

use candle_autograd::jvp;
use candle_autograd::transforms::operators::LinearOperator;
use candle_autograd::transforms::sparse::{SparseJacobian, jacobian_sparsity};
use candle_autograd::{Result, TensorAutograd, TrackedTensor};
use std::time::{Duration, Instant};

/// The grid of the large problem: 2 · 250 · 200 = 100,000 unknowns.
const LARGE: (usize, usize) = (250, 200);

/// The grid of the problem that is done by columns too: 2 · 25 · 40 = 2,000 unknowns.
const SMALL: (usize, usize) = (25, 40);

/// The same sums in another order, for entries up to some thousands.
const ROUNDING: f64 = 1e-8;

/// The right-hand side of the equation for both substances, each `rows`×`columns`, as a stack.
fn brusselator(state: &TrackedTensor) -> Result<TrackedTensor> {
    const DIFFUSION: f64 = 0.02;
    let (u, v) = (state.narrow(0, 0, 1)?, state.narrow(0, 1, 1)?);
    let columns = state.dims()[2] as f64;
    let laplacian = |x: &TrackedTensor| {
        let around = x.roll(1, 1)?.add(&x.roll(-1, 1)?)?.add(&x.roll(1, 2)?)?.add(&x.roll(-1, 2)?)?;
        around.sub(&x.mul(4.0)?)?.mul(DIFFUSION * columns * columns)
    };
    let reaction = u.sqr()?.mul(&v)?;
    let du = reaction.sub(&u.mul(4.4)?)?.add(1.0)?.add(&laplacian(&u)?)?;
    let dv = u.mul(3.4)?.sub(&reaction)?.add(&laplacian(&v)?)?;
    TrackedTensor::cat(&[du, dv], 0)
}

/// A state that is smooth and the same nowhere.
fn state((rows, columns): (usize, usize)) -> Result<TrackedTensor> {
    let wave = |substance: usize, i: usize, j: usize| {
        let (y, x) = (i as f64 / rows as f64, j as f64 / columns as f64);
        2.0 + substance as f64 + (6.0 * x).sin() * (4.0 * y + substance as f64).cos()
    };
    let numbers = (0..2).flat_map(|s| (0..rows * columns).map(move |k| wave(s, k / columns, k % columns)));
    TrackedTensor::from_vec(numbers.collect(), &[2, rows, columns])
}

/// Runs something and says how long it took.
fn timed<R>(f: impl FnOnce() -> Result<R>) -> Result<(R, Duration)> {
    let start = Instant::now();
    let result = f()?;
    Ok((result, start.elapsed()))
}

/// The Jacobian column by column: a product for each unknown.
fn by_columns(x: &TrackedTensor) -> Result<Vec<f64>> {
    let n = x.elem_count();
    let mut dense = vec![0.0; n * n];
    let mut unit = vec![0.0; n];
    for j in 0..n {
        unit[j] = 1.0;
        let (_, column) = jvp(brusselator, x, &TrackedTensor::from_vec(unit.clone(), x.dims())?)?;
        unit[j] = 0.0;
        for (i, value) in column.to_flat::<f64>()?.into_iter().enumerate() {
            dense[i * n + j] = value;
        }
    }
    Ok(dense)
}

fn main() -> Result<()> {
    let x = state(LARGE)?;
    let n = x.elem_count();
    println!("Brusselator on a periodic grid of {} by {}: n = {n}", LARGE.0, LARGE.1);
    let (pattern, detecting) = timed(|| jacobian_sparsity(brusselator, &x))?;
    println!("structure    {:>9.1?}   {} entries of {n}²", detecting, pattern.nnz());
    let (plan, colouring) = timed(|| Ok(SparseJacobian::new(pattern)))?;
    println!("colouring    {colouring:>9.1?}   {} colours, {:?}", plan.colours(), plan.compression());
    let (jacobian, evaluating) = timed(|| plan.evaluate(brusselator, &x))?;
    println!("values       {evaluating:>9.1?}   at this and at any other state, with the same colours");

    // A product with the sparse matrix against one in forward mode.
    let direction = x.sin()?;
    let (_, exact) = jvp(brusselator, &x, &direction)?;
    let off = jacobian.matvec(&direction.flatten_all()?)?.sub(&exact.flatten_all()?)?.abs()?;
    let off = off.max_all()?.to_scalar::<f64>()?;
    println!("J·v against forward mode: largest difference {off:.1e}");
    assert!(off < ROUNDING, "the sparse Jacobian is not the Jacobian");

    let x = state(SMALL)?;
    let small = x.elem_count();
    let (dense, columns) = timed(|| by_columns(&x))?;
    let small_plan = SparseJacobian::detect(brusselator, &x)?;
    let (sparse, compressed) = timed(|| small_plan.evaluate(brusselator, &x))?;
    let off = sparse.to_dense()?.to_flat::<f64>()?.into_iter().zip(&dense).map(|(a, b)| (a - b).abs());
    let off = off.fold(0.0, f64::max);
    println!("\nat n = {small}: by columns {columns:.1?}, compressed {compressed:.1?}, difference {off:.1e}");
    assert!(off < ROUNDING, "the two Jacobians differ");
    // n columns of n elements each.
    let factor = (n as f64 / small as f64).powi(2);
    let all = columns.mul_f64(factor);
    println!(
        "by columns at n = {n}, extrapolated with n²: {:.0} s, and {:.0} GB to hold the result; compressed is {:.0} times faster",
        all.as_secs_f64(),
        (n as f64).powi(2) * 8e-9,
        all.as_secs_f64() / evaluating.as_secs_f64()
    );
    Ok(())
}
