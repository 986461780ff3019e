//! Random graphs: eager = interpreter to the bit, = optimised = compiled within rounding, and
//! machine code = tiles to the bit.
//!
//! `GRAPHS=10000 cargo test -p autograd-graph --features jit --test random` runs more.

use autograd_core::{Result, TrackedTensor};
use autograd_graph::{Engine, Graph, Options, Passes, value_and_grad};
use autograd_ops::TensorAutograd;

/// How many graphs are drawn in the gate.
const GRAPHS: u64 = 500;

/// f64 graphs of a few dozen ops of moderate numbers: each op rounds once, fusion and folding move
/// roundings, and gradients add a few products.
const F64: f64 = 1e-9;

/// The same in f32.
const F32: f64 = 2e-3;

struct Draw(u64);

impl Draw {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn number(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64 * 2.0 - 1.0
    }
}

/// A random program of a seed: the same choices whatever the values are.
fn run(seed: u64, x: &[TrackedTensor]) -> Result<TrackedTensor> {
    let mut draw = Draw(seed);
    let mut values: Vec<TrackedTensor> = x.to_vec();
    for _ in 0..4 + draw.below(24) {
        let a = values[draw.below(values.len())].clone();
        let b = values[draw.below(values.len())].clone();
        let number = (draw.number() * 4.0).round() / 2.0;
        let made = match draw.below(26) {
            0 => a.tanh(),
            1 => a.sigmoid(),
            2 => a.relu(),
            3 => a.mul(number),
            4 => a.add(number),
            5 => a.sqr()?.mul(0.25),
            6 => a.tanh()?.exp(),
            7 => a.gelu(),
            8 => a.abs(),
            9 => a.softplus(),
            10 => a.sqr()?.add(1.0)?.log(),
            11 => a.tanh()?.pow(3),
            12 => a.sin(),
            13 if a.rank() == 2 => a.sum_keepdim(draw.below(2) as isize)?.mul(0.1),
            14 if a.rank() == 2 => a.mean_keepdim(draw.below(2) as isize),
            15 if a.rank() == 2 => a.t(),
            16 if a.rank() == 2 => a.softmax(-1),
            17 if a.rank() == 2 => {
                let n = a.elem_count();
                a.reshape(n)?.reshape(a.dims().iter().rev().copied().collect::<Vec<_>>())
            }
            18 if a.rank() == 2 && b.rank() == 2 && a.dims()[1] == b.dims()[0] => a.matmul(&b)?.tanh(),
            19 if a.rank() == 2 && a.dims()[0] > 1 => a.narrow(0, 1, a.dims()[0] - 1),
            20 => a.gt(0.1)?.where_cond(&a, &a.mul(0.5)?),
            21 => a.add(&b).or_else(|_| a.neg()),
            22 => a.mul(&b).or_else(|_| a.silu()),
            23 if a.rank() == 2 && b.rank() == 2 && a.dims()[1] == b.dims()[0] => {
                a.matmul(&b)?.add(&b.mean_keepdim(0)?)?.sigmoid()
            }
            24 if a.rank() == 2 && b.rank() == 2 && a.dims()[1] == b.dims()[1] => {
                a.linear(&b, Some(&b.mean_keepdim(1)?.flatten_all()?))?.tanh()
            }
            _ => a.maximum(&b).or_else(|_| a.sub(0.3)),
        }?;
        // Broadcasts of broadcasts would only grow.
        if made.elem_count() <= x[0].elem_count().max(4096) {
            values.push(made);
        }
    }
    let mut total = values[values.len() - 1].mean()?;
    for value in values.iter().rev().skip(1).take(3) {
        total = total.add(&value.tanh()?.mean()?)?;
    }
    Ok(total)
}

fn inputs(seed: u64) -> Result<Vec<TrackedTensor>> {
    let mut draw = Draw(seed ^ 0x5555);
    // Some are large enough to be run on a few rows at a time.
    let (rows, columns) = match seed % 16 {
        15 => (16 * (10 + draw.below(10)), 200 + draw.below(100)),
        // And some whose products are worth an epilogue.
        13 | 14 => (90 + draw.below(30), 90 + draw.below(60)),
        _ => (1 + draw.below(9), 1 + draw.below(40)),
    };
    let shapes = [vec![rows, columns], vec![columns], vec![rows, 1], vec![columns, rows], vec![]];
    let double = draw.below(2) == 0;
    shapes
        .iter()
        .map(|dims| {
            let n: usize = dims.iter().product();
            let numbers: Vec<f64> = (0..n).map(|_| draw.number()).collect();
            if double {
                TrackedTensor::from_vec(numbers, dims)
            } else {
                TrackedTensor::from_vec(numbers.iter().map(|x| *x as f32).collect::<Vec<f32>>(), dims)
            }
        })
        .collect()
}

fn flat(x: &TrackedTensor) -> Result<Vec<f64>> {
    x.to_dtype(autograd_core::DType::F64)?.to_flat::<f64>()
}

fn compare(seed: u64, what: &str, a: &[TrackedTensor], b: &[TrackedTensor], tolerance: f64) -> Result<()> {
    assert_eq!(a.len(), b.len(), "graph {seed}: {what}");
    for (k, (a, b)) in a.iter().zip(b).enumerate() {
        assert_eq!((a.dims(), a.dtype()), (b.dims(), b.dtype()), "graph {seed}: {what}: output {k}");
        let (a, b) = (flat(a)?, flat(b)?);
        let size = b.iter().filter(|x| x.is_finite()).fold(1.0f64, |m, x| m.max(x.abs()));
        for (x, y) in a.iter().zip(&b) {
            let same = x == y || x.is_nan() && y.is_nan() || (x - y).abs() <= tolerance * size;
            assert!(same, "graph {seed}: {what}: output {k}: {x} and {y}");
        }
    }
    Ok(())
}

#[test]
fn random_graphs_agree_with_eager_mode() -> Result<()> {
    let count = std::env::var("GRAPHS").ok().and_then(|n| n.parse().ok()).unwrap_or(GRAPHS);
    let first = std::env::var("FIRST").ok().and_then(|n| n.parse().ok()).unwrap_or(0);
    for seed in first..first + count {
        let x = inputs(seed)?;
        let refs: Vec<&TrackedTensor> = x.iter().collect();
        let metas: Vec<_> = x.iter().map(TrackedTensor::meta).collect();
        let f = value_and_grad(|x: &[TrackedTensor]| run(seed, x));
        let want = f(&x)?;
        let tolerance = if x[0].dtype() == autograd_core::DType::F64 { F64 } else { F32 };
        let graph = Graph::capture(&f, &metas)?;
        graph.check()?;
        compare(seed, "interpreter", &graph.run(&refs)?, &want, 0.0)?;
        compare(seed, "optimised", &graph.optimise(&Passes::ALL)?.run(&refs)?, &want, tolerance)?;
        let compiled = |engine| graph.compile(Options { engine, passes: Passes::ALL, ..Options::default() });
        let tiles = compiled(Engine::Tiles)?.call(&refs)?;
        compare(seed, "tiles", &tiles, &want, tolerance)?;
        compare(seed, "machine code", &compiled(Engine::Best)?.call(&refs)?, &tiles, 0.0)?;
    }
    Ok(())
}
