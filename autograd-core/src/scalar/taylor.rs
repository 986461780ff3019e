//! Taylor series pushed through an expression, to any order, by one recurrence.

use super::{Primal, ScalarExpr};
use crate::mask::Mask;
use crate::pointwise::Definition;
use crate::rule::Residual;
use autograd_kernels::expr::{Binary, Node, Program, Reg, Unary};
use std::collections::HashMap;
use std::sync::{Arc, PoisonError};

/// The rule of an expression for truncated Taylor series: an expression over residuals and then
/// the given coefficients, with one output for each coefficient that is not zero for structural
/// reasons.
#[derive(Debug)]
pub struct Taylor {
    /// The expression, as an op; it has no output where every coefficient is zero.
    pub definition: Arc<Definition>,
    /// What it reads before the coefficients.
    pub residuals: Vec<Residual>,
    /// For each output and then each order 1 ..= n: whether the coefficient is among the outputs.
    pub present: Vec<bool>,
}

/// The most coefficients, over all inputs, that a series can have: the size of a [`Mask`].
pub const MAX_COEFFICIENTS: usize = 64;

impl ScalarExpr {
    /// The rule for series of this order. Bit i·order + (k − 1) of `given` says whether input i
    /// has a coefficient of order k; inputs · order is at most [`MAX_COEFFICIENTS`]. Coefficients
    /// are those of tᵏ: derivatives divided by k!.
    pub fn taylor(&self, given: Mask, order: usize) -> Arc<Taylor> {
        let mut known = self.0.taylor.lock().unwrap_or_else(PoisonError::into_inner);
        let make = || Arc::new(make_taylor(&self.0.program, given, order));
        known.entry((given, order)).or_insert_with(make).clone()
    }
}

fn make_taylor(program: &Program, given: Mask, order: usize) -> Taylor {
    let mut series = Series::new(program, given, order);
    let (mut results, mut present) = (Vec::new(), Vec::new());
    for &out in program.outputs() {
        let reg = series.made[out as usize];
        for k in 1..=order {
            let coefficient = series.coefficient(reg, k);
            present.push(coefficient.is_some());
            results.extend(coefficient);
        }
    }
    let (expr, residuals) = series.p.finish(&results, program.params(), given.len());
    Taylor { definition: Arc::new(Definition::new("pointwise_jet", expr)), residuals, present }
}

/// An expression on its way to be expanded. Every node, of the expression or of a derivative that
/// the recurrence needs, has its coefficients found once.
struct Series {
    p: Primal,
    /// Where each node of the program was built, before outputs were replaced by leaves.
    made: Vec<Reg>,
    /// The leaf that is read for an output, and the node behind a leaf.
    leaf_of: HashMap<Reg, Reg>,
    behind: HashMap<Reg, Reg>,
    /// The number of leaves in front of the coefficients.
    first: usize,
    given: Mask,
    order: usize,
    known: HashMap<(Reg, usize), Option<Reg>>,
}

impl Series {
    fn new(program: &Program, given: Mask, order: usize) -> Self {
        let mut p = Primal::new(program, 0, true);
        let xs: Vec<Reg> = (0..p.inputs).map(|i| p.b.input(i)).collect();
        let ps: Vec<Reg> = (0..program.params()).map(|i| p.b.param(i)).collect();
        // Equal nodes are shared, so this finds the nodes where they already are.
        let made = p.b.inline(program, &xs, &ps);
        let (mut leaf_of, mut behind) = (HashMap::new(), HashMap::new());
        for &out in program.outputs() {
            let (node, leaf) = (made[out as usize], p.at[out as usize]);
            if node != leaf {
                leaf_of.insert(node, leaf);
                behind.insert(leaf, node);
            }
        }
        let first = p.inputs + p.outputs;
        Self { p, made, leaf_of, behind, first, given, order, known: HashMap::new() }
    }

    /// The node's value, read from an output where it is one.
    fn value(&self, reg: Reg) -> Reg {
        self.leaf_of.get(&reg).copied().unwrap_or(reg)
    }

    /// The coefficient of tᵏ; `None` is zero.
    fn coefficient(&mut self, reg: Reg, k: usize) -> Option<Reg> {
        let reg = self.behind.get(&reg).copied().unwrap_or(reg);
        if k == 0 {
            let value = self.value(reg);
            return (!self.is_zero(value)).then_some(value);
        }
        if let Some(known) = self.known.get(&(reg, k)) {
            return *known;
        }
        let found = self.expand(reg, k).filter(|found| !self.is_zero(*found));
        self.known.insert((reg, k), found);
        found
    }

    fn is_zero(&self, reg: Reg) -> bool {
        matches!(self.p.b.node(reg), Node::Const(0.0))
    }

    fn expand(&mut self, reg: Reg, k: usize) -> Option<Reg> {
        let one = self.p.c(1.0);
        match self.p.b.node(reg) {
            Node::Param(_) | Node::Const(_) => None,
            Node::Input(input) => {
                let bit = usize::from(input) * self.order + k - 1;
                let slot = self.given.iter().position(|given| given == bit)?;
                Some(self.p.b.input(self.first + slot))
            }
            Node::Unary(Unary::Neg, a) => {
                let a = self.coefficient(a, k)?;
                Some(self.p.f(Unary::Neg, a))
            }
            // y' = f'(a)·a', so k·yₖ = Σⱼ j·aⱼ·f'(a)ₖ₋ⱼ: the derivative is expanded to one order less.
            Node::Unary(f, a) => {
                if !self.moves(a, k) {
                    return None;
                }
                let (x, y) = (self.value(a), self.value(reg));
                let slope = self.p.chain_unary(f, x, y, one);
                self.chain(&[(a, slope)], k)
            }
            Node::Binary(Binary::Add, a, b) => {
                let (a, b) = (self.coefficient(a, k), self.coefficient(b, k));
                self.sum([a, b])
            }
            Node::Binary(Binary::Sub, a, b) => match (self.coefficient(a, k), self.coefficient(b, k)) {
                (Some(a), Some(b)) => Some(self.p.sub(a, b)),
                (None, Some(b)) => Some(self.p.f(Unary::Neg, b)),
                (a, None) => a,
            },
            // Leibniz: yₖ = Σⱼ aⱼ·bₖ₋ⱼ.
            Node::Binary(Binary::Mul, a, b) => {
                let mut total = None;
                for j in 0..=k {
                    let (a, b) = (self.coefficient(a, j), self.coefficient(b, k - j));
                    let part = self.product(a, b);
                    total = self.sum([total, part]);
                }
                total
            }
            // y·b = a: yₖ = (aₖ − Σⱼ bⱼ·yₖ₋ⱼ)/b₀.
            Node::Binary(Binary::Div, a, b) => {
                let mut total = self.coefficient(a, k);
                for j in 1..=k {
                    let (b, y) = (self.coefficient(b, j), self.coefficient(reg, k - j));
                    total = match (total, self.product(b, y)) {
                        (Some(total), Some(part)) => Some(self.p.sub(total, part)),
                        (None, Some(part)) => Some(self.p.f(Unary::Neg, part)),
                        (total, None) => total,
                    };
                }
                let below = self.value(b);
                total.map(|total| self.p.div(total, below))
            }
            Node::Binary(f, a, b) => {
                let (x, z, y) = (self.value(a), self.value(b), self.value(reg));
                let mut slopes = Vec::with_capacity(2);
                if self.moves(a, k) {
                    slopes.push((a, self.p.chain_left(f, x, z, y, one)));
                }
                if self.moves(b, k) {
                    slopes.push((b, self.p.chain_right(f, x, z, y, one)));
                }
                self.chain(&slopes, k)
            }
            Node::Select(c, a, b) => {
                let zero = self.p.c(0.0);
                let (a, b) = (self.coefficient(a, k), self.coefficient(b, k));
                if a.is_none() && b.is_none() {
                    return None;
                }
                let c = self.value(c);
                Some(self.p.b.select(c, a.unwrap_or(zero), b.unwrap_or(zero)))
            }
        }
    }

    /// Whether any coefficient up to order k is there.
    fn moves(&mut self, reg: Reg, k: usize) -> bool {
        (1..=k).any(|j| self.coefficient(reg, j).is_some())
    }

    /// (1/k)·Σⱼ j·aⱼ·sₖ₋ⱼ over operands a with partial derivatives s.
    fn chain(&mut self, slopes: &[(Reg, Reg)], k: usize) -> Option<Reg> {
        let mut total = None;
        for &(a, slope) in slopes {
            for j in 1..=k {
                let (a, s) = (self.coefficient(a, j), self.coefficient(slope, k - j));
                let Some(part) = self.product(a, s) else { continue };
                let weight = self.p.c(j as f64 / k as f64);
                let part = self.p.mul(part, weight);
                total = self.sum([total, Some(part)]);
            }
        }
        total
    }

    fn product(&mut self, a: Option<Reg>, b: Option<Reg>) -> Option<Reg> {
        Some(self.p.mul(a?, b?))
    }

    fn sum(&mut self, parts: [Option<Reg>; 2]) -> Option<Reg> {
        match parts {
            [Some(a), Some(b)] => Some(self.p.add(a, b)),
            [a, b] => a.or(b),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pointwise::Pointwise;
    use crate::value::TrackedTensor;
    use crate::{Result, apply};

    /// The coefficients of f(x + t) at a point, to order n.
    fn expand(expr: &ScalarExpr, x: f64, order: usize) -> Result<Vec<f64>> {
        let value = TrackedTensor::scalar(x);
        let rule = expr.taylor(Mask::one(0), order);
        let y = apply(&Pointwise::shared(Arc::new(Definition::new("f", expr.clone())), &[]), &[&value])?;
        let one = TrackedTensor::scalar(1.0);
        let mut reads: Vec<&TrackedTensor> = rule
            .residuals
            .iter()
            .map(|r| match r {
                Residual::Output(_) => &y[0],
                Residual::Input(_) | Residual::Aux(_) => &value,
            })
            .collect();
        reads.push(&one);
        let made = apply(&Pointwise::shared(rule.definition.clone(), &[]), &reads)?;
        let mut made = made.iter();
        let value = |there: &bool| match there {
            true => made.next().map_or(Ok(f64::NAN), TrackedTensor::to_scalar),
            false => Ok(0.0),
        };
        rule.present.iter().map(value).collect()
    }

    /// f64 sums of a few terms: nothing but rounding.
    const ROUNDING: f64 = 1e-13;

    fn check(expr: &ScalarExpr, x: f64, want: &[f64]) -> Result<()> {
        let got = expand(expr, x, want.len())?;
        for (got, want) in got.iter().zip(want) {
            assert!((got - want).abs() <= ROUNDING * want.abs().max(1.0), "{got} and {want}");
        }
        Ok(())
    }

    #[test]
    fn series_of_functions_that_are_known() -> Result<()> {
        let one = |f: Unary| ScalarExpr::build(1, 0, move |b, x, _| b.unary(f, x[0]));
        let e = 0.5f64.exp();
        check(&one(Unary::Exp), 0.5, &[e, e / 2.0, e / 6.0, e / 24.0, e / 120.0])?;
        check(&one(Unary::Sin), 0.0, &[1.0, 0.0, -1.0 / 6.0, 0.0, 1.0 / 120.0])?;
        check(&one(Unary::Tanh), 0.0, &[1.0, 0.0, -1.0 / 3.0, 0.0, 2.0 / 15.0])?;
        check(&one(Unary::Log), 1.0, &[1.0, -0.5, 1.0 / 3.0, -0.25, 0.2])?;
        check(&one(Unary::Sqrt), 1.0, &[0.5, -0.125, 0.0625, -5.0 / 128.0])?;
        check(&one(Unary::Recip), 1.0, &[-1.0, 1.0, -1.0, 1.0])?;
        check(&one(Unary::Relu), 2.0, &[1.0, 0.0, 0.0])?;
        check(&one(Unary::Floor), 2.5, &[0.0, 0.0])?;
        // 1/(1 + x²) at 0.
        let bell = ScalarExpr::build(1, 0, |b, x, _| {
            let one = b.constant(1.0);
            let square = b.binary(Binary::Mul, x[0], x[0]);
            let below = b.binary(Binary::Add, one, square);
            b.binary(Binary::Div, one, below)
        });
        check(&bell, 0.0, &[0.0, -1.0, 0.0, 1.0, 0.0, -1.0])?;
        // x³ at 2.
        let cube = ScalarExpr::build(1, 0, |b, x, _| {
            let three = b.constant(3.0);
            b.binary(Binary::Powi, x[0], three)
        });
        check(&cube, 2.0, &[12.0, 6.0, 1.0, 0.0, 0.0])
    }

    #[test]
    fn what_is_linear_has_no_higher_coefficient() {
        let twice = ScalarExpr::build(1, 0, |b, x, _| b.binary(Binary::Add, x[0], x[0]));
        assert_eq!(twice.taylor(Mask::one(0), 3).present, [true, false, false]);
    }
}
