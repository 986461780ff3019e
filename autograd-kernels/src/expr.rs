//! Scalar expressions: straight-line programs over one element of each input, in SSA form.
//!
//! An expression is data. The tile machine evaluates it, static graphs fuse it, machine code and
//! CUDA are made from it, and `autograd-core` differentiates it. The [`Builder`] keeps programs
//! small while they are built: equal nodes are shared, constants fold, neutral elements vanish.

#[cfg(feature = "jit")]
use crate::machine::{MAX_INPUTS, MAX_OUTPUTS};
use crate::machine::{Schedule, TileCode, is_cheap_binary, is_cheap_unary};
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, OnceLock};

/// The number of a node within its program.
pub type Reg = u16;

/// A function of one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unary {
    /// −x.
    Neg,
    /// |x|.
    Abs,
    /// −1, 0 or 1; NaN for NaN.
    Sign,
    /// 1/x.
    Recip,
    /// √x.
    Sqrt,
    /// 1/√x.
    Rsqrt,
    /// eˣ.
    Exp,
    /// eˣ − 1, exact near 0.
    Expm1,
    /// ln x.
    Log,
    /// ln(1 + x), exact near 0.
    Log1p,
    /// log₂ x.
    Log2,
    /// sin x.
    Sin,
    /// cos x.
    Cos,
    /// tan x.
    Tan,
    /// arcsin x.
    Asin,
    /// arccos x.
    Acos,
    /// arctan x.
    Atan,
    /// sinh x.
    Sinh,
    /// cosh x.
    Cosh,
    /// tanh x.
    Tanh,
    /// arsinh x.
    Asinh,
    /// arcosh x.
    Acosh,
    /// artanh x.
    Atanh,
    /// The error function.
    Erf,
    /// ln |Γ(x)|.
    Lgamma,
    /// ψ(x), the derivative of ln Γ.
    Digamma,
    /// The largest integer not above x.
    Floor,
    /// The smallest integer not below x.
    Ceil,
    /// The nearest integer, halves to even (PyTorch's and JAX's `round`).
    Round,
    /// 1/(1 + e⁻ˣ), without overflow.
    Sigmoid,
    /// max(x, 0); NaN for NaN.
    Relu,
    /// ln(1 + eˣ), without overflow.
    Softplus,
}

/// A function of two numbers. Comparisons give 1 or 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Binary {
    /// a + b.
    Add,
    /// a − b.
    Sub,
    /// a · b.
    Mul,
    /// a / b.
    Div,
    /// The remainder with the divisor's sign: a − b·⌊a/b⌋ (PyTorch's `remainder`).
    Rem,
    /// aᵇ for real b.
    Pow,
    /// aⁿ for an integral n, exact for negative a; 0⁰ = 1.
    Powi,
    /// The angle of the point (b, a).
    Atan2,
    /// √(a² + b²) without overflow.
    Hypot,
    /// The larger; NaN where either is.
    Max,
    /// The smaller; NaN where either is.
    Min,
    /// a < b.
    Lt,
    /// a ≤ b.
    Le,
    /// a > b.
    Gt,
    /// a ≥ b.
    Ge,
    /// a = b.
    Eq,
    /// a ≠ b.
    Ne,
    /// ψ⁽ⁿ⁾(b), n = a a whole number ≥ 0: derivatives of the digamma function.
    Polygamma,
}

impl Unary {
    /// All of them.
    pub const ALL: [Self; 32] = [
        Self::Neg,
        Self::Abs,
        Self::Sign,
        Self::Recip,
        Self::Sqrt,
        Self::Rsqrt,
        Self::Exp,
        Self::Expm1,
        Self::Log,
        Self::Log1p,
        Self::Log2,
        Self::Sin,
        Self::Cos,
        Self::Tan,
        Self::Asin,
        Self::Acos,
        Self::Atan,
        Self::Sinh,
        Self::Cosh,
        Self::Tanh,
        Self::Asinh,
        Self::Acosh,
        Self::Atanh,
        Self::Erf,
        Self::Lgamma,
        Self::Digamma,
        Self::Floor,
        Self::Ceil,
        Self::Round,
        Self::Sigmoid,
        Self::Relu,
        Self::Softplus,
    ];
}

impl Binary {
    /// All of them.
    pub const ALL: [Self; 18] = [
        Self::Add,
        Self::Sub,
        Self::Mul,
        Self::Div,
        Self::Rem,
        Self::Pow,
        Self::Powi,
        Self::Atan2,
        Self::Hypot,
        Self::Max,
        Self::Min,
        Self::Lt,
        Self::Le,
        Self::Gt,
        Self::Ge,
        Self::Eq,
        Self::Ne,
        Self::Polygamma,
    ];
}

/// One step of a program. Operands are earlier nodes.
#[derive(Clone, Copy, Debug)]
pub enum Node {
    /// The element of input `.0`.
    Input(u8),
    /// Parameter `.0` of the run, the same for all elements.
    Param(u8),
    /// A fixed number.
    Const(f64),
    /// A function of one node.
    Unary(Unary, Reg),
    /// A function of two nodes.
    Binary(Binary, Reg, Reg),
    /// The second where the first is not 0 (NaN counts as not 0), else the third.
    Select(Reg, Reg, Reg),
}

impl Node {
    /// The nodes that this one reads.
    pub fn operands(&self) -> impl Iterator<Item = Reg> + use<> {
        let (list, n) = match *self {
            Node::Input(_) | Node::Param(_) | Node::Const(_) => ([0; 3], 0),
            Node::Unary(_, a) => ([a, 0, 0], 1),
            Node::Binary(_, a, b) => ([a, b, 0], 2),
            Node::Select(c, a, b) => ([c, a, b], 3),
        };
        list.into_iter().take(n)
    }
}

impl PartialEq for Node {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Node {}

impl Node {
    /// The node as plain words: constants by their bits, so that NaN equals itself.
    fn key(&self) -> (u8, u64, Reg, Reg, Reg) {
        match *self {
            Node::Input(i) => (0, u64::from(i), 0, 0, 0),
            Node::Param(i) => (1, u64::from(i), 0, 0, 0),
            Node::Const(c) => (2, c.to_bits(), 0, 0, 0),
            Node::Unary(f, a) => (3, f as u64, a, 0, 0),
            Node::Binary(f, a, b) => (4, f as u64, a, b, 0),
            Node::Select(c, a, b) => (5, 0, c, a, b),
        }
    }
}

impl std::hash::Hash for Node {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.key().hash(state);
    }
}

/// A finished expression: nodes in an order where operands come first, and the nodes that are
/// its outputs.
#[derive(Clone, Debug)]
pub struct Program {
    nodes: Vec<Node>,
    outputs: Vec<Reg>,
    inputs: usize,
    params: usize,
    /// For each node, whether it depends on no input: the same number for all elements.
    uniform: Vec<bool>,
    /// How the tile machine evaluates it; follows from the rest.
    schedule: Schedule,
    /// Its machine code, made when it is first run on many elements.
    code: CodeCell,
}

impl PartialEq for Program {
    fn eq(&self, other: &Self) -> bool {
        let key = |p: &Self| (p.inputs, p.params);
        key(self) == key(other) && self.nodes == other.nodes && self.outputs == other.outputs
    }
}

impl Eq for Program {}

impl std::hash::Hash for Program {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        (&self.nodes, &self.outputs, self.inputs, self.params).hash(state);
    }
}

impl Program {
    /// The steps, operands first.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The nodes whose values are the results.
    pub fn outputs(&self) -> &[Reg] {
        &self.outputs
    }

    /// How many inputs it reads, whether or not each one is used.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// How many parameters it reads.
    pub fn params(&self) -> usize {
        self.params
    }

    /// Whether a node is the same number for all elements (made of parameters and constants).
    pub fn is_uniform(&self, node: Reg) -> bool {
        self.uniform[node as usize]
    }

    /// How the tile machine evaluates it.
    #[inline]
    pub(crate) fn schedule(&self) -> &Schedule {
        &self.schedule
    }

    /// The machine code that computes it in f32 for many elements, where there is some.
    pub(crate) fn code(&self) -> Option<&dyn TileCode> {
        self.code.0.get_or_init(|| code_of(self)).as_deref()
    }

    /// What one element costs, in additions: what the processor has no instruction for counts 8.
    pub fn cost(&self) -> u64 {
        let cost = |(i, node): (usize, &Node)| match *node {
            Node::Input(_) | Node::Param(_) | Node::Const(_) => 0,
            _ if self.uniform[i] => 0,
            Node::Unary(f, _) if !is_cheap_unary(f) => 8,
            Node::Binary(f, ..) if !is_cheap_binary(f) => 8,
            _ => 1,
        };
        self.nodes.iter().enumerate().map(cost).sum()
    }

    /// Whether any node reads input `i`.
    pub fn reads(&self, i: usize) -> bool {
        self.nodes.iter().any(|n| matches!(n, Node::Input(j) if usize::from(*j) == i))
    }
}

/// Machine code that is made once.
#[derive(Clone, Default)]
struct CodeCell(OnceLock<Option<Arc<dyn TileCode>>>);

impl fmt::Debug for CodeCell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0.get() {
            None => "not made",
            Some(None) => "none",
            Some(Some(_)) => "made",
        })
    }
}

/// Code for a program that gains by it: what is one loop already, and what has parameters (which
/// code would fix), runs as it is.
#[cfg(feature = "jit")]
fn code_of(program: &Program) -> Option<Arc<dyn TileCode>> {
    let schedule = program.schedule();
    let fits = program.inputs() <= MAX_INPUTS && program.outputs().len() <= MAX_OUTPUTS;
    let worth = schedule.steps.len() > 1 && program.params() == 0;
    (fits && worth).then(|| crate::jit::code_of(program)).flatten()
}

#[cfg(not(feature = "jit"))]
fn code_of(_: &Program) -> Option<Arc<dyn TileCode>> {
    None
}

/// Builds a [`Program`].
#[derive(Clone, Debug, Default)]
pub struct Builder {
    nodes: Vec<Node>,
    known: HashMap<Node, Reg>,
}

impl Builder {
    /// A builder with nothing in it.
    pub fn new() -> Self {
        Self::default()
    }

    /// The node that `reg` names.
    pub fn node(&self, reg: Reg) -> Node {
        self.nodes[reg as usize]
    }

    fn push(&mut self, node: Node) -> Reg {
        if let Some(&reg) = self.known.get(&node) {
            return reg;
        }
        let reg = Reg::try_from(self.nodes.len()).expect("an expression has fewer than 65536 nodes");
        self.nodes.push(node);
        self.known.insert(node, reg);
        reg
    }

    fn as_const(&self, reg: Reg) -> Option<f64> {
        match self.node(reg) {
            Node::Const(c) => Some(c),
            _ => None,
        }
    }

    /// The element of input `i`.
    pub fn input(&mut self, i: usize) -> Reg {
        self.push(Node::Input(u8::try_from(i).expect("an expression has at most 256 inputs")))
    }

    /// Parameter `i`.
    pub fn param(&mut self, i: usize) -> Reg {
        self.push(Node::Param(u8::try_from(i).expect("an expression has at most 256 parameters")))
    }

    /// A fixed number.
    pub fn constant(&mut self, value: f64) -> Reg {
        self.push(Node::Const(value))
    }

    /// f(a).
    pub fn unary(&mut self, f: Unary, a: Reg) -> Reg {
        if let Some(c) = self.as_const(a) {
            match f {
                Unary::Neg => return self.constant(-c),
                Unary::Recip => return self.constant(1.0 / c),
                Unary::Abs => return self.constant(c.abs()),
                Unary::Sqrt => return self.constant(c.sqrt()),
                _ => {}
            }
        }
        match (f, self.node(a)) {
            (Unary::Neg, Node::Unary(Unary::Neg, x)) => x,
            _ => self.push(Node::Unary(f, a)),
        }
    }

    /// f(a, b). Simplifications keep NaN, infinities and the sign of zero right for values, with
    /// one exception taken on purpose: 0·x is 0, because a zero factor in a derivative is a
    /// structural zero and must not turn an infinite partner into NaN.
    pub fn binary(&mut self, f: Binary, a: Reg, b: Reg) -> Reg {
        use Binary::{Add, Div, Mul, Powi, Sub};
        let (ca, cb) = (self.as_const(a), self.as_const(b));
        match (f, ca, cb) {
            (Add, Some(x), Some(y)) => return self.constant(x + y),
            (Sub, Some(x), Some(y)) => return self.constant(x - y),
            (Mul, Some(x), Some(y)) => return self.constant(x * y),
            (Div, Some(x), Some(y)) => return self.constant(x / y),
            (Add, Some(0.0), _) => return b,
            (Add | Sub, _, Some(0.0)) => return a,
            (Sub, Some(0.0), _) => return self.unary(Unary::Neg, b),
            (Mul, Some(0.0), _) | (Mul, _, Some(0.0)) => return self.constant(0.0),
            (Mul, Some(1.0), _) => return b,
            (Mul | Div, _, Some(1.0)) => return a,
            (Mul, Some(-1.0), _) => return self.unary(Unary::Neg, b),
            (Mul | Div, _, Some(-1.0)) => return self.unary(Unary::Neg, a),
            (Powi, _, Some(1.0)) => return a,
            (Powi, _, Some(2.0)) => return self.binary(Mul, a, a),
            _ => {}
        }
        match (f, self.node(a), self.node(b)) {
            (Mul, Node::Unary(Unary::Neg, x), Node::Unary(Unary::Neg, y)) => self.binary(Mul, x, y),
            (Add, _, Node::Unary(Unary::Neg, y)) => self.binary(Sub, a, y),
            (Add, Node::Unary(Unary::Neg, x), _) => self.binary(Sub, b, x),
            (Sub, _, Node::Unary(Unary::Neg, y)) => self.binary(Add, a, y),
            // One order for commuting operands, so that equal sums and products are shared.
            (Add | Mul, _, _) if a > b => self.push(Node::Binary(f, b, a)),
            _ => self.push(Node::Binary(f, a, b)),
        }
    }

    /// `a` where `condition` is not 0, else `b`.
    pub fn select(&mut self, condition: Reg, a: Reg, b: Reg) -> Reg {
        if a == b {
            return a;
        }
        match self.as_const(condition) {
            Some(0.0) => b,
            Some(_) => a,
            None => self.push(Node::Select(condition, a, b)),
        }
    }

    /// Copies a program's nodes in, reading `inputs[i]` for its input i and `params[i]` for its
    /// parameter i; returns where each of its nodes has come to stand.
    pub fn inline(&mut self, program: &Program, inputs: &[Reg], params: &[Reg]) -> Vec<Reg> {
        let mut at: Vec<Reg> = Vec::with_capacity(program.nodes.len());
        for node in &program.nodes {
            let r = |reg: Reg| at[reg as usize];
            let reg = match *node {
                Node::Input(i) => inputs[usize::from(i)],
                Node::Param(i) => params[usize::from(i)],
                Node::Const(c) => self.constant(c),
                Node::Unary(f, a) => self.unary(f, r(a)),
                Node::Binary(f, a, b) => self.binary(f, r(a), r(b)),
                Node::Select(c, a, b) => self.select(r(c), r(a), r(b)),
            };
            at.push(reg);
        }
        at
    }

    /// Ends the program with these results; nodes that none of them needs are left out.
    pub fn finish(&self, outputs: &[Reg], inputs: usize, params: usize) -> Program {
        let mut needed = vec![false; self.nodes.len()];
        for &reg in outputs {
            needed[reg as usize] = true;
        }
        for i in (0..self.nodes.len()).rev() {
            if needed[i] {
                for a in self.nodes[i].operands() {
                    needed[a as usize] = true;
                }
            }
        }
        let mut to = vec![0 as Reg; self.nodes.len()];
        let (mut nodes, mut uniform) = (Vec::new(), Vec::<bool>::new());
        for (i, node) in self.nodes.iter().enumerate().filter(|(i, _)| needed[*i]) {
            let r = |reg: Reg| to[reg as usize];
            let node = match *node {
                Node::Unary(f, a) => Node::Unary(f, r(a)),
                Node::Binary(f, a, b) => Node::Binary(f, r(a), r(b)),
                Node::Select(c, a, b) => Node::Select(r(c), r(a), r(b)),
                leaf @ (Node::Input(_) | Node::Param(_) | Node::Const(_)) => leaf,
            };
            to[i] = nodes.len() as Reg;
            uniform.push(match node {
                Node::Input(_) => false,
                _ => node.operands().all(|a| uniform[a as usize]),
            });
            nodes.push(node);
        }
        let outputs: Vec<Reg> = outputs.iter().map(|&reg| to[reg as usize]).collect();
        let schedule = Schedule::new(&nodes, &outputs, &uniform);
        Program { nodes, outputs, inputs, params, uniform, schedule, code: CodeCell::default() }
    }
}
