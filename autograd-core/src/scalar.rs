//! Scalar expressions that differentiate themselves.

mod taylor;

pub use taylor::{MAX_COEFFICIENTS, Taylor};

use crate::mask::Mask;
use crate::pointwise::Definition;
use crate::rule::Residual;
use autograd_kernels::expr::{Binary, Builder, Node, Program, Reg, Unary};
use std::collections::HashMap;
use std::f64::consts::{LN_2, PI};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// A scalar expression: what a pointwise op computes for one element of each input.
///
/// Derivatives are expressions too and are made once: each expression keeps its own.
#[derive(Clone, Debug)]
pub struct ScalarExpr(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    program: Program,
    /// Whether the reverse rule reads inputs alone.
    from_inputs: bool,
    /// The reverse expressions of one output, for wanted masks below 8.
    small: [OnceLock<Arc<Reverse>>; 8],
    reverse: Mutex<HashMap<(Mask, Mask), Arc<Reverse>>>,
    forward: Mutex<HashMap<Mask, Arc<Forward>>>,
    taylor: Mutex<HashMap<(Mask, usize), Arc<Taylor>>>,
}

/// The reverse rule of an expression: an expression over the present cotangents and then the
/// residuals, with one output for each wanted input.
#[derive(Debug)]
pub struct Reverse {
    /// The expression, as an op.
    pub definition: Arc<Definition>,
    /// What it reads after the cotangents.
    pub residuals: Vec<Residual>,
    /// For each output, the cotangent that it simply is, if it is one.
    pub direct: Vec<Option<usize>>,
    /// For each output, the residual that it is where the one cotangent is 1: the other factor of
    /// a product.
    pub factor: Vec<Option<usize>>,
}

/// The forward rule of an expression: an expression over residuals and then tangents, with one
/// output for each output.
#[derive(Debug)]
pub struct Forward {
    /// The expression, as an op.
    pub definition: Arc<Definition>,
    /// What it reads before the tangents.
    pub residuals: Vec<Residual>,
}

impl ScalarExpr {
    /// The expression of a finished program.
    pub fn new(program: Program) -> Self {
        Self::made(program, false)
    }

    /// The same expression whose reverse rule reads no output: for applications whose inputs are
    /// smaller than that.
    #[must_use]
    pub fn from_inputs(&self) -> Self {
        Self::made(self.0.program.clone(), true)
    }

    fn made(program: Program, from_inputs: bool) -> Self {
        Self(Arc::new(Inner {
            program,
            from_inputs,
            small: Default::default(),
            reverse: Mutex::default(),
            forward: Mutex::default(),
            taylor: Mutex::default(),
        }))
    }

    /// An expression of one output, written with a builder: `f` gets the registers of the inputs
    /// and of the parameters.
    pub fn build(inputs: usize, params: usize, f: impl FnOnce(&mut Builder, &[Reg], &[Reg]) -> Reg) -> Self {
        let mut b = Builder::new();
        let xs: Vec<Reg> = (0..inputs).map(|i| b.input(i)).collect();
        let ps: Vec<Reg> = (0..params).map(|i| b.param(i)).collect();
        let y = f(&mut b, &xs, &ps);
        Self::new(b.finish(&[y], inputs, params))
    }

    /// As [`build`](Self::build), of several outputs.
    pub fn build_many(
        inputs: usize,
        params: usize,
        f: impl FnOnce(&mut Builder, &[Reg], &[Reg]) -> Vec<Reg>,
    ) -> Self {
        let mut b = Builder::new();
        let xs: Vec<Reg> = (0..inputs).map(|i| b.input(i)).collect();
        let ps: Vec<Reg> = (0..params).map(|i| b.param(i)).collect();
        let outputs = f(&mut b, &xs, &ps);
        Self::new(b.finish(&outputs, inputs, params))
    }

    /// The program.
    pub fn program(&self) -> &Program {
        &self.0.program
    }

    /// How many functions it computes for one element.
    pub fn operations(&self) -> u64 {
        let program = &self.0.program;
        let computed =
            |(i, node): &(usize, &Node)| node.operands().next().is_some() && !program.is_uniform(*i as Reg);
        program.nodes().iter().enumerate().filter(computed).count() as u64
    }

    /// The reverse rule for these wanted inputs, given cotangents for these outputs.
    pub fn reverse<R>(&self, wanted: Mask, cts: Mask, read: impl FnOnce(&Reverse) -> R) -> R {
        let make = || Arc::new(make_reverse(&self.0, wanted, cts));
        if cts == Mask::one(0)
            && let Some(slot) = self.0.small.get(wanted.bits() as usize)
        {
            return read(slot.get_or_init(make));
        }
        let known = {
            let mut all = self.0.reverse.lock().unwrap_or_else(PoisonError::into_inner);
            all.entry((wanted, cts)).or_insert_with(make).clone()
        };
        read(&known)
    }

    /// The forward rule, given tangents for these inputs.
    pub fn forward(&self, tangents: Mask) -> Arc<Forward> {
        let mut known = self.0.forward.lock().unwrap_or_else(PoisonError::into_inner);
        known.entry(tangents).or_insert_with(|| Arc::new(make_forward(&self.0.program, tangents))).clone()
    }
}

/// The primal program copied into a builder whose leaves stand for everything a rule may read:
/// outputs are read, not computed again, wherever a node is one.
struct Primal {
    b: Builder,
    /// Where each node of the program stands.
    at: Vec<Reg>,
    /// The number of leaves in front of the residuals.
    before: usize,
    inputs: usize,
    outputs: usize,
}

impl Primal {
    fn new(program: &Program, before: usize, from_outputs: bool) -> Self {
        let mut b = Builder::new();
        let (inputs, outputs) = (program.inputs(), program.outputs().len());
        let xs: Vec<Reg> = (0..inputs).map(|i| b.input(before + i)).collect();
        let ps: Vec<Reg> = (0..program.params()).map(|i| b.param(i)).collect();
        let mut at = b.inline(program, &xs, &ps);
        for (j, &out) in program.outputs().iter().enumerate() {
            let computed =
                !matches!(program.nodes()[out as usize], Node::Input(_) | Node::Const(_) | Node::Param(_));
            if computed && from_outputs {
                at[out as usize] = b.input(before + inputs + j);
            }
        }
        Self { b, at, before, inputs, outputs }
    }

    fn c(&mut self, value: f64) -> Reg {
        self.b.constant(value)
    }

    fn mul(&mut self, a: Reg, b: Reg) -> Reg {
        self.b.binary(Binary::Mul, a, b)
    }

    fn add(&mut self, a: Reg, b: Reg) -> Reg {
        self.b.binary(Binary::Add, a, b)
    }

    fn sub(&mut self, a: Reg, b: Reg) -> Reg {
        self.b.binary(Binary::Sub, a, b)
    }

    fn div(&mut self, a: Reg, b: Reg) -> Reg {
        self.b.binary(Binary::Div, a, b)
    }

    fn f(&mut self, f: Unary, a: Reg) -> Reg {
        self.b.unary(f, a)
    }

    /// t · f'(a), where y = f(a).
    fn chain_unary(&mut self, f: Unary, a: Reg, y: Reg, t: Reg) -> Reg {
        let one = self.c(1.0);
        match f {
            Unary::Neg => self.f(Unary::Neg, t),
            // |x|' = sign x, 0 at 0, as PyTorch.
            Unary::Abs => {
                let sign = self.f(Unary::Sign, a);
                self.mul(t, sign)
            }
            Unary::Sign | Unary::Floor | Unary::Ceil | Unary::Round => self.c(0.0),
            // (1/x)' = −y².
            Unary::Recip => {
                let y2 = self.mul(y, y);
                let p = self.mul(t, y2);
                self.f(Unary::Neg, p)
            }
            // √x' = 1/(2y).
            Unary::Sqrt => {
                let half = self.c(0.5);
                let n = self.mul(t, half);
                self.div(n, y)
            }
            // (x^−½)' = −y³/2.
            Unary::Rsqrt => {
                let y2 = self.mul(y, y);
                let y3 = self.mul(y2, y);
                let h = self.c(-0.5);
                let p = self.mul(h, y3);
                self.mul(t, p)
            }
            Unary::Exp => self.mul(t, y),
            // expm1' = eˣ = y + 1.
            Unary::Expm1 => {
                let p = self.add(y, one);
                self.mul(t, p)
            }
            Unary::Log => self.div(t, a),
            Unary::Log1p => {
                let d = self.add(one, a);
                self.div(t, d)
            }
            Unary::Log2 => {
                let ln2 = self.c(LN_2);
                let d = self.mul(a, ln2);
                self.div(t, d)
            }
            Unary::Sin => {
                let p = self.f(Unary::Cos, a);
                self.mul(t, p)
            }
            Unary::Cos => {
                let s = self.f(Unary::Sin, a);
                let p = self.mul(t, s);
                self.f(Unary::Neg, p)
            }
            // tan' = 1 + y².
            Unary::Tan => {
                let y2 = self.mul(y, y);
                let p = self.add(one, y2);
                self.mul(t, p)
            }
            // arcsin' = 1/√(1 − x²); arccos' is its negative.
            Unary::Asin | Unary::Acos => {
                let a2 = self.mul(a, a);
                let d = self.sub(one, a2);
                let p = self.f(Unary::Rsqrt, d);
                let p = self.mul(t, p);
                if f == Unary::Acos { self.f(Unary::Neg, p) } else { p }
            }
            // arctan' = 1/(1 + x²).
            Unary::Atan => {
                let a2 = self.mul(a, a);
                let d = self.add(one, a2);
                self.div(t, d)
            }
            Unary::Sinh => {
                let p = self.f(Unary::Cosh, a);
                self.mul(t, p)
            }
            Unary::Cosh => {
                let p = self.f(Unary::Sinh, a);
                self.mul(t, p)
            }
            // tanh' = 1 − y².
            Unary::Tanh => {
                let y2 = self.mul(y, y);
                let p = self.sub(one, y2);
                self.mul(t, p)
            }
            // arsinh' = 1/√(x² + 1).
            Unary::Asinh => {
                let a2 = self.mul(a, a);
                let d = self.add(a2, one);
                let p = self.f(Unary::Rsqrt, d);
                self.mul(t, p)
            }
            // arcosh' = 1/√(x² − 1).
            Unary::Acosh => {
                let a2 = self.mul(a, a);
                let d = self.sub(a2, one);
                let p = self.f(Unary::Rsqrt, d);
                self.mul(t, p)
            }
            // artanh' = 1/(1 − x²).
            Unary::Atanh => {
                let a2 = self.mul(a, a);
                let d = self.sub(one, a2);
                self.div(t, d)
            }
            // erf' = 2/√π · e^−x².
            Unary::Erf => {
                let a2 = self.mul(a, a);
                let n = self.f(Unary::Neg, a2);
                let e = self.f(Unary::Exp, n);
                let k = self.c(2.0 / PI.sqrt());
                let p = self.mul(e, k);
                self.mul(t, p)
            }
            Unary::Lgamma => {
                let p = self.f(Unary::Digamma, a);
                self.mul(t, p)
            }
            Unary::Digamma => {
                let p = self.b.binary(Binary::Polygamma, one, a);
                self.mul(t, p)
            }
            // σ' = y(1 − y).
            Unary::Sigmoid => {
                let q = self.sub(one, y);
                let p = self.mul(y, q);
                self.mul(t, p)
            }
            // relu' = 1 where the output is positive; 0 at 0, as PyTorch.
            Unary::Relu => {
                let zero = self.c(0.0);
                let on = self.b.binary(Binary::Gt, y, zero);
                self.b.select(on, t, zero)
            }
            Unary::Softplus => {
                let p = self.f(Unary::Sigmoid, a);
                self.mul(t, p)
            }
        }
    }

    /// t · ∂f/∂a, where y = f(a, b).
    fn chain_left(&mut self, f: Binary, a: Reg, b: Reg, y: Reg, t: Reg) -> Reg {
        let zero = self.c(0.0);
        match f {
            Binary::Add | Binary::Sub | Binary::Rem => t,
            Binary::Mul => self.mul(t, b),
            Binary::Div => self.div(t, b),
            // b·a^(b−1), and 0 for 0⁰.
            Binary::Pow => {
                let one = self.c(1.0);
                let a0 = self.b.binary(Binary::Eq, a, zero);
                let b0 = self.b.binary(Binary::Eq, b, zero);
                let both = self.mul(a0, b0);
                // Selected on both sides, so that no infinity hides behind the zero at any order.
                let safe = self.b.select(both, one, a);
                let e = self.sub(b, one);
                let p = self.b.binary(Binary::Pow, safe, e);
                let p = self.mul(b, p);
                let p = self.b.select(both, zero, p);
                self.mul(t, p)
            }
            // n·a^(n−1), and 0 for n = 0.
            Binary::Powi => {
                let one = self.c(1.0);
                let flat = self.b.binary(Binary::Eq, b, zero);
                let e = self.sub(b, one);
                let e = self.b.select(flat, zero, e);
                let p = self.b.binary(Binary::Powi, a, e);
                let p = self.mul(b, p);
                self.mul(t, p)
            }
            // ∂/∂a atan2(a, b) = b/(a² + b²).
            Binary::Atan2 => {
                let (a2, b2) = (self.mul(a, a), self.mul(b, b));
                let d = self.add(a2, b2);
                let p = self.div(b, d);
                self.mul(t, p)
            }
            Binary::Hypot => self.hypot_part(a, y, t),
            Binary::Max => self.winner(Binary::Gt, a, b, t),
            Binary::Min => self.winner(Binary::Lt, a, b, t),
            // A comparison is flat; the order of a polygamma is a whole number.
            Binary::Lt
            | Binary::Le
            | Binary::Gt
            | Binary::Ge
            | Binary::Eq
            | Binary::Ne
            | Binary::Polygamma => zero,
        }
    }

    /// t · ∂f/∂b, where y = f(a, b).
    fn chain_right(&mut self, f: Binary, a: Reg, b: Reg, y: Reg, t: Reg) -> Reg {
        let zero = self.c(0.0);
        match f {
            Binary::Add => t,
            Binary::Sub => self.f(Unary::Neg, t),
            Binary::Mul => self.mul(t, a),
            // −y/b.
            Binary::Div => {
                let p = self.div(y, b);
                let p = self.mul(t, p);
                self.f(Unary::Neg, p)
            }
            // a − b·⌊a/b⌋: −⌊a/b⌋.
            Binary::Rem => {
                let q = self.div(a, b);
                let q = self.f(Unary::Floor, q);
                let p = self.mul(t, q);
                self.f(Unary::Neg, p)
            }
            // y·ln a, and 0 where a = 0 and b ≥ 0.
            Binary::Pow => {
                let one = self.c(1.0);
                let a0 = self.b.binary(Binary::Eq, a, zero);
                let b0 = self.b.binary(Binary::Ge, b, zero);
                let both = self.mul(a0, b0);
                let safe = self.b.select(both, one, a);
                let l = self.f(Unary::Log, safe);
                let p = self.mul(y, l);
                let p = self.b.select(both, zero, p);
                self.mul(t, p)
            }
            Binary::Atan2 => {
                let (a2, b2) = (self.mul(a, a), self.mul(b, b));
                let d = self.add(a2, b2);
                let p = self.div(a, d);
                let p = self.mul(t, p);
                self.f(Unary::Neg, p)
            }
            Binary::Hypot => self.hypot_part(b, y, t),
            Binary::Max => self.winner(Binary::Gt, b, a, t),
            Binary::Min => self.winner(Binary::Lt, b, a, t),
            // ψ⁽ⁿ⁾' = ψ⁽ⁿ⁺¹⁾.
            Binary::Polygamma => {
                let one = self.c(1.0);
                let n = self.add(a, one);
                let p = self.b.binary(Binary::Polygamma, n, b);
                self.mul(t, p)
            }
            // The integral exponent is a parameter, never an input.
            Binary::Powi | Binary::Lt | Binary::Le | Binary::Gt | Binary::Ge | Binary::Eq | Binary::Ne => {
                zero
            }
        }
    }

    /// a/√(a² + b²), and 0 at the origin.
    fn hypot_part(&mut self, a: Reg, y: Reg, t: Reg) -> Reg {
        let (zero, one) = (self.c(0.0), self.c(1.0));
        let at_origin = self.b.binary(Binary::Eq, y, zero);
        let safe = self.b.select(at_origin, one, y);
        let p = self.div(a, safe);
        let p = self.b.select(at_origin, zero, p);
        self.mul(t, p)
    }

    /// All of t where `a` wins against `b`, half at a tie, as PyTorch.
    fn winner(&mut self, wins: Binary, a: Reg, b: Reg, t: Reg) -> Reg {
        let (zero, half) = (self.c(0.0), self.c(0.5));
        let won = self.b.binary(wins, a, b);
        let tied = self.b.binary(Binary::Eq, a, b);
        let half = self.mul(t, half);
        let rest = self.b.select(tied, half, zero);
        self.b.select(won, t, rest)
    }

    /// Ends the rule: leaves that it does not read are dropped, the others renumbered.
    /// `own` leaves stand in front of the residuals, the `after` ones behind them.
    fn finish(self, results: &[Reg], params: usize, after: usize) -> (ScalarExpr, Vec<Residual>) {
        let leaves = self.before + self.inputs + self.outputs + after;
        let wide = self.b.finish(results, leaves, params);
        let mut residuals = Vec::new();
        let mut inputs = 0;
        let mut b = Builder::new();
        let map: Vec<Reg> = (0..leaves)
            .map(|leaf| {
                let number = leaf.wrapping_sub(self.before);
                let is_residual = number < self.inputs + self.outputs;
                if is_residual && !wide.reads(leaf) {
                    return 0;
                }
                if is_residual {
                    residuals.push(if number < self.inputs {
                        Residual::Input(number)
                    } else {
                        Residual::Output(number - self.inputs)
                    });
                }
                inputs += 1;
                b.input(inputs - 1)
            })
            .collect();
        let ps: Vec<Reg> = (0..params).map(|i| b.param(i)).collect();
        let at = b.inline(&wide, &map, &ps);
        let outputs: Vec<Reg> = wide.outputs().iter().map(|&r| at[r as usize]).collect();
        (ScalarExpr::new(b.finish(&outputs, inputs, params)), residuals)
    }
}

/// Reverse accumulation over the expression's own nodes, the cotangents being its first inputs.
fn make_reverse(of: &Inner, wanted: Mask, cts: Mask) -> Reverse {
    let program = &of.program;
    let mut p = Primal::new(program, cts.len(), !of.from_inputs);
    let nodes = program.nodes();
    let mut adjoint: Vec<Option<Reg>> = vec![None; nodes.len()];
    for (slot, j) in cts.iter().enumerate() {
        let ct = p.b.input(slot);
        let at = program.outputs()[j] as usize;
        adjoint[at] = Some(match adjoint[at] {
            Some(sum) => p.add(sum, ct),
            None => ct,
        });
    }
    let active = reaches(program, wanted);
    let mut results: HashMap<usize, Reg> = HashMap::new();
    for i in (0..nodes.len()).rev() {
        let Some(t) = adjoint[i].filter(|_| active[i]) else {
            continue;
        };
        let y = p.at[i];
        let mut give = |p: &mut Primal, to: Reg, part: Reg| {
            let slot = &mut adjoint[to as usize];
            *slot = Some(slot.map_or(part, |sum| p.add(sum, part)));
        };
        match nodes[i] {
            Node::Input(input) => {
                results.insert(usize::from(input), t);
            }
            Node::Param(_) | Node::Const(_) => {}
            Node::Unary(f, a) => {
                let part = p.chain_unary(f, p.at[a as usize], y, t);
                give(&mut p, a, part);
            }
            Node::Binary(f, a, b) => {
                let (ra, rb) = (p.at[a as usize], p.at[b as usize]);
                if active[a as usize] {
                    let part = p.chain_left(f, ra, rb, y, t);
                    give(&mut p, a, part);
                }
                if active[b as usize] {
                    let part = p.chain_right(f, ra, rb, y, t);
                    give(&mut p, b, part);
                }
            }
            Node::Select(c, a, b) => {
                let (rc, zero) = (p.at[c as usize], p.c(0.0));
                let part = p.b.select(rc, t, zero);
                give(&mut p, a, part);
                let part = p.b.select(rc, zero, t);
                give(&mut p, b, part);
            }
        }
    }
    let zero = p.c(0.0);
    let results: Vec<Reg> = wanted.iter().map(|i| results.get(&i).copied().unwrap_or(zero)).collect();
    let (expr, residuals) = p.finish(&results, program.params(), 0);
    let made = expr.program();
    let direct = made.outputs().iter().map(|&out| match made.nodes()[usize::from(out)] {
        Node::Input(i) if usize::from(i) < cts.len() => Some(usize::from(i)),
        _ => None,
    });
    let direct = direct.collect();
    // The inputs of the expression: the cotangents, and then the residuals.
    let residual = |reg: Reg| match made.nodes()[usize::from(reg)] {
        Node::Input(i) => usize::from(i).checked_sub(cts.len()),
        _ => None,
    };
    let is_ct = |reg: Reg| cts.len() == 1 && matches!(made.nodes()[usize::from(reg)], Node::Input(0));
    let factor = made.outputs().iter().map(|&out| match made.nodes()[usize::from(out)] {
        Node::Binary(Binary::Mul, a, b) if is_ct(a) => residual(b),
        Node::Binary(Binary::Mul, a, b) if is_ct(b) => residual(a),
        _ => None,
    });
    let factor = factor.collect();
    Reverse { definition: Arc::new(Definition::new("pointwise_vjp", expr)), residuals, direct, factor }
}

/// Tangents pushed forward through the expression's own nodes, the tangents being its last
/// inputs.
fn make_forward(program: &Program, tangents: Mask) -> Forward {
    let mut p = Primal::new(program, 0, true);
    let nodes = program.nodes();
    let first = p.inputs + p.outputs;
    let mut moving: Vec<Option<Reg>> = Vec::with_capacity(nodes.len());
    for (i, node) in nodes.iter().enumerate() {
        let y = p.at[i];
        let dot = |r: Reg| moving[r as usize];
        let next = match *node {
            Node::Input(input) => {
                let input = usize::from(input);
                let slot = tangents.iter().position(|t| t == input);
                slot.map(|slot| p.b.input(first + slot))
            }
            Node::Param(_) | Node::Const(_) => None,
            Node::Unary(f, a) => dot(a).map(|t| p.chain_unary(f, p.at[a as usize], y, t)),
            Node::Binary(f, a, b) => {
                let (ra, rb) = (p.at[a as usize], p.at[b as usize]);
                let left = dot(a).map(|t| p.chain_left(f, ra, rb, y, t));
                let right = dot(b).map(|t| p.chain_right(f, ra, rb, y, t));
                match (left, right) {
                    (Some(l), Some(r)) => Some(p.add(l, r)),
                    (l, r) => l.or(r),
                }
            }
            Node::Select(c, a, b) => match (dot(a), dot(b)) {
                (None, None) => None,
                (l, r) => {
                    let zero = p.c(0.0);
                    let rc = p.at[c as usize];
                    Some(p.b.select(rc, l.unwrap_or(zero), r.unwrap_or(zero)))
                }
            },
        };
        moving.push(next);
    }
    let zero = p.c(0.0);
    let results: Vec<Reg> = program.outputs().iter().map(|&o| moving[o as usize].unwrap_or(zero)).collect();
    let (expr, residuals) = p.finish(&results, program.params(), tangents.len());
    Forward { definition: Arc::new(Definition::new("pointwise_jvp", expr)), residuals }
}

/// Which nodes depend on a wanted input.
fn reaches(program: &Program, wanted: Mask) -> Vec<bool> {
    let mut active: Vec<bool> = Vec::with_capacity(program.nodes().len());
    for node in program.nodes() {
        active.push(match node {
            Node::Input(i) => wanted.has(usize::from(*i)),
            Node::Select(_, a, b) => active[*a as usize] || active[*b as usize],
            _ => node.operands().any(|a| active[a as usize]),
        });
    }
    active
}
