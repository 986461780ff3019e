//! Finite differences along a direction, and whether they mean anything.

use super::trees::replaced;
use autograd_core::algebra::{cast, reshape};
use autograd_core::{DType, Error, Result, Site, TrackedTensor, Tree, is_float, same_structure};
use std::cell::RefCell;
use std::collections::BTreeMap;

/// Which differences stand for the derivative.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// (f(x + h) − f(x − h))/2h; two evaluations, error h².
    Central,
    /// Four evaluations, error h⁴: some ten digits in f64.
    Fourth,
    /// Six evaluations, error h⁶.
    Sixth,
}

impl Scheme {
    /// The weights of f(x + kh) − f(x − kh), k = 1, 2, …
    fn weights(self) -> &'static [f64] {
        match self {
            Scheme::Central => &[0.5],
            Scheme::Fourth => &[2.0 / 3.0, -1.0 / 12.0],
            Scheme::Sixth => &[0.75, -0.15, 1.0 / 60.0],
        }
    }

    /// The step where truncation hᵖ and rounding ε/h balance.
    fn step(self, epsilon: f64) -> f64 {
        let order = 2.0 * self.weights().len() as f64;
        epsilon.powf(1.0 / (order + 1.0))
    }
}

/// The distance from 1 to the next number.
fn epsilon(dtype: DType) -> f64 {
    match dtype {
        DType::F64 => f64::EPSILON,
        DType::F32 => f64::from(f32::EPSILON),
        DType::F16 => 9.765625e-4,
        _ => 7.8125e-3,
    }
}

/// A difference, and how far rounding alone may have moved it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slope {
    pub(super) numeric: f64,
    pub(super) noise: f64,
}

/// Evaluations of f on the line x + t·u through one leaf; each point is evaluated once.
pub(super) struct Difference<'a, P, F> {
    f: &'a F,
    primals: &'a P,
    leaf: usize,
    start: Vec<f64>,
    u: Vec<f64>,
    h: f64,
    scheme: Scheme,
    /// All output leaves at t, by the bits of t.
    known: RefCell<BTreeMap<u64, Vec<Vec<f64>>>>,
}

impl<'a, P, O, F> Difference<'a, P, F>
where
    P: Tree<Owned = P>,
    O: Tree<Owned = O>,
    F: Fn(&P) -> Result<O>,
{
    pub(super) fn new(
        f: &'a F,
        primals: &'a P,
        leaf: usize,
        u: &[f64],
        scheme: Scheme,
        step: Option<f64>,
    ) -> Result<Self> {
        let x = primals.leaves()[leaf];
        let start = numbers(x)?;
        // Relative to the largest element that moves, and a power of two, so that x ± h is exact
        // more often than not.
        let size = start.iter().zip(u).map(|(x, u)| if *u == 0.0 { 0.0 } else { x.abs() });
        let size = size.fold(1.0, f64::max);
        let h = step.unwrap_or_else(|| scheme.step(epsilon(x.dtype()))) * size;
        let h = h.log2().round().exp2();
        Ok(Self { f, primals, leaf, start, u: u.to_vec(), h, scheme, known: RefCell::default() })
    }

    /// All outputs at x + t·u.
    fn at(&self, t: f64) -> Result<Vec<Vec<f64>>> {
        if let Some(known) = self.known.borrow().get(&t.to_bits()) {
            return Ok(known.clone());
        }
        let moved: Vec<f64> = self.start.iter().zip(&self.u).map(|(x, u)| x + t * u).collect();
        let y = (self.f)(&replaced(self.primals, self.leaf, &moved)?)?;
        let values = y.leaves().into_iter().map(numbers).collect::<Result<Vec<_>>>()?;
        self.known.borrow_mut().insert(t.to_bits(), values.clone());
        Ok(values)
    }

    /// The derivative of every element of every output leaf.
    pub(super) fn slopes(&self, y: &O, site: Site) -> Result<Vec<Vec<Slope>>> {
        let mut sums: Vec<Vec<Slope>> = Vec::new();
        let outputs = y.leaves();
        let moved = (self.f)(self.primals)?;
        same_structure("the outputs of a second evaluation", &moved, y, site)?;
        for (k, weight) in self.scheme.weights().iter().enumerate() {
            let t = (k + 1) as f64 * self.h;
            let (up, down) = (self.at(t)?, self.at(-t)?);
            for (j, (up, down)) in up.iter().zip(&down).enumerate() {
                if sums.len() == j {
                    sums.push(vec![Slope { numeric: 0.0, noise: 0.0 }; up.len()]);
                }
                if up.len() != sums[j].len() || down.len() != sums[j].len() || j >= outputs.len() {
                    let reason = "the shape of an output depends on the values of the input";
                    return Err(Error::argument("gradcheck", reason).or_at(site));
                }
                // The rounding of the function's values, and of the stencil's points.
                let coarse = epsilon(outputs[j].dtype());
                for (slope, (up, down)) in sums[j].iter_mut().zip(up.iter().zip(down)) {
                    slope.numeric += weight * (up - down) / self.h;
                    slope.noise += 4.0 * coarse * weight.abs() * (up.abs() + down.abs()) / self.h;
                }
            }
        }
        Ok(sums)
    }

    /// Whether an output has a kink or a jump inside the stencil: left and right slopes differ,
    /// and their difference does not shrink with the step as that of a smooth function does.
    pub(super) fn has_kink(&self, output: usize, element: usize, tolerance: f64) -> Result<bool> {
        let reach = self.scheme.weights().len() as f64 * self.h;
        let apart = |h: f64| -> Result<f64> {
            let (up, here, down) = (self.at(h)?, self.at(0.0)?, self.at(-h)?);
            let value = |all: &[Vec<f64>]| all[output][element];
            Ok(((value(&up) - value(&here)) / h - (value(&here) - value(&down)) / h).abs())
        };
        let (whole, half, quarter) = (apart(reach)?, apart(reach / 2.0)?, apart(reach / 4.0)?);
        if whole.is_nan() || half.is_nan() || quarter.is_nan() {
            return Ok(false);
        }
        let smooth = |ratio: f64, want: f64| (ratio - want).abs() <= SHRINKS * want;
        let largest = whole.max(half).max(quarter);
        // Differences of rounding size say nothing.
        if largest <= tolerance {
            return Ok(false);
        }
        Ok(!(smooth(half / whole, 0.5) && smooth(quarter / whole, 0.25)))
    }
}

/// How far from halving the slopes' difference may shrink at a smooth point.
const SHRINKS: f64 = 0.3;

/// The elements of a value, in f64.
pub(super) fn numbers(x: &TrackedTensor) -> Result<Vec<f64>> {
    if let Some(error) = x.failure() {
        return Err(error.clone());
    }
    let flat = reshape(x, &autograd_core::Shape::new(&[x.elem_count()]))?;
    let flat = if is_float(x.dtype()) { cast(&flat, DType::F64)? } else { flat };
    if flat.dtype() == DType::F64 {
        return flat.to_vec1();
    }
    Ok(flat.tensor()?.to_dtype(DType::F64)?.to_vec1()?)
}

/// Normal numbers from a seed, as f64 whatever the leaf's type.
pub(super) fn sample(n: usize, seed: u64) -> Result<Vec<f64>> {
    autograd_ops::random::normal(&autograd_ops::random::key(seed), &[n], DType::F64)?.to_vec1()
}
