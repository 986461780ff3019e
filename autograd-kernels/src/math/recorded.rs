//! The functions as recorded vector instructions: what machine code is made from.
//!
//! The very functions that the tile machine runs are run once on a vector that writes down what is
//! done to it. Code made from the record computes what the tiles compute, to the bit.

use super::{erf, exponential, logarithm};
use crate::expr::{Binary, Node, Program, Unary};
use crate::simd::Vector;
use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::{Add, Div, Mul, Neg, Sub};

/// The number of a recorded instruction.
pub type Value = u32;

/// One instruction on vectors of f32. Operands are earlier instructions; comparisons give masks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Instruction {
    /// The elements of an input.
    Input(u8),
    /// A number, by its bits, in all lanes.
    Constant(u32),
    /// a + b.
    Add(Value, Value),
    /// a − b.
    Sub(Value, Value),
    /// a · b.
    Mul(Value, Value),
    /// a / b.
    Div(Value, Value),
    /// a · b + c, rounded once.
    Fma(Value, Value, Value),
    /// The smaller; b where either is NaN.
    Min(Value, Value),
    /// The larger; b where either is NaN.
    Max(Value, Value),
    /// √a.
    Sqrt(Value),
    /// Down to a whole number.
    Floor(Value),
    /// Up to a whole number.
    Ceil(Value),
    /// To the nearest whole number, halves to even.
    Round(Value),
    /// Bits of both.
    And(Value, Value),
    /// Bits of either.
    Or(Value, Value),
    /// Bits of one of the two.
    Xor(Value, Value),
    /// Bits of a that b has not.
    Without(Value, Value),
    /// a < b.
    Less(Value, Value),
    /// a ≤ b.
    LessEqual(Value, Value),
    /// a = b.
    Equal(Value, Value),
    /// a is NaN.
    IsNan(Value),
    /// The second where the mask is set, else the third.
    Select(Value, Value, Value),
    /// 2 to a whole number.
    Pow2(Value),
    /// The m of a = m · 2ᵉ, m in [√½, √2).
    Mantissa(Value),
    /// The e of a = m · 2ᵉ.
    Exponent(Value),
    /// A mask: whether a whole number is odd.
    IsOdd(Value),
}

impl Instruction {
    /// The instructions that this one reads.
    pub fn operands(&self) -> impl Iterator<Item = Value> + use<> {
        use Instruction as I;
        let (list, n) = match *self {
            I::Input(_) | I::Constant(_) => ([0; 3], 0),
            I::Sqrt(a)
            | I::Floor(a)
            | I::Ceil(a)
            | I::Round(a)
            | I::IsNan(a)
            | I::Pow2(a)
            | I::Mantissa(a)
            | I::Exponent(a)
            | I::IsOdd(a) => ([a, 0, 0], 1),
            I::Add(a, b)
            | I::Sub(a, b)
            | I::Mul(a, b)
            | I::Div(a, b)
            | I::Min(a, b)
            | I::Max(a, b)
            | I::And(a, b)
            | I::Or(a, b)
            | I::Xor(a, b)
            | I::Without(a, b)
            | I::Less(a, b)
            | I::LessEqual(a, b)
            | I::Equal(a, b) => ([a, b, 0], 2),
            I::Fma(a, b, c) | I::Select(a, b, c) => ([a, b, c], 3),
        };
        list.into_iter().take(n)
    }
}

/// An expression as vector instructions.
#[derive(Clone, Debug, Default)]
pub struct Recorded {
    /// The instructions, operands first.
    pub instructions: Vec<Instruction>,
    /// Where each output of the expression is.
    pub outputs: Vec<Value>,
}

#[derive(Default)]
struct Recorder {
    instructions: Vec<Instruction>,
    known: HashMap<Instruction, Value>,
}

thread_local! {
    static RECORDER: RefCell<Recorder> = RefCell::default();
}

/// Appends an instruction; the same one is recorded once.
fn record(instruction: Instruction) -> Symbol {
    RECORDER.with_borrow_mut(|r| {
        let next = r.instructions.len() as Value;
        let at = *r.known.entry(instruction).or_insert(next);
        if at == next {
            r.instructions.push(instruction);
        }
        Symbol(at)
    })
}

/// Records a program without parameters in f32. `None` where a function of it has no vector code:
/// those are computed number by number.
///
/// # Panics
/// Panics where the program has parameters.
pub fn record_program(program: &Program) -> Option<Recorded> {
    assert!(program.params() == 0, "recorded: parameters are constants by now");
    RECORDER.take();
    let mut uniform = Vec::new();
    crate::machine::uniform_values(program, |value| uniform.push(value as f32));
    let mut uniform = uniform.into_iter();
    let mut at: Vec<Symbol> = Vec::with_capacity(program.nodes().len());
    for (k, node) in program.nodes().iter().enumerate() {
        if program.is_uniform(k as u16) {
            let number = uniform.next().expect("a number for each uniform node");
            at.push(Symbol::splat(number));
            continue;
        }
        let r = |reg: u16| at[usize::from(reg)];
        at.push(match *node {
            Node::Input(i) => record(Instruction::Input(i)),
            Node::Param(_) | Node::Const(_) => unreachable!("parameters and constants are uniform"),
            Node::Unary(f, a) => unary(f, r(a))?,
            Node::Binary(f, a, b) => {
                let exponent = program.is_uniform(b).then(|| constant(r(b))).flatten();
                binary(f, r(a), r(b), exponent)?
            }
            Node::Select(c, a, b) => match constant(r(c)) {
                Some(c) => r(if c != 0.0 { a } else { b }),
                None => r(c).eq(Symbol::num(0.0)).select(r(b), r(a)),
            },
        });
    }
    let outputs = program.outputs().iter().map(|&out| at[usize::from(out)].0).collect();
    Some(Recorded { instructions: RECORDER.take().instructions, outputs })
}

fn constant(symbol: Symbol) -> Option<f32> {
    RECORDER.with_borrow(|r| match r.instructions[symbol.0 as usize] {
        Instruction::Constant(bits) => Some(f32::from_bits(bits)),
        _ => None,
    })
}

/// The function over vectors, as in the loops over slices.
fn unary<V: Vector<Item = f32>>(f: Unary, a: V) -> Option<V> {
    Some(match f {
        Unary::Neg => -a,
        Unary::Abs => a.abs(),
        Unary::Sign => {
            let plain = a.eq(V::num(0.0)).or(a.is_nan());
            plain.select(a, V::num(1.0).or(a.sign_bit()))
        }
        Unary::Recip => V::num(1.0) / a,
        Unary::Sqrt => a.sqrt(),
        Unary::Rsqrt => V::num(1.0) / a.sqrt(),
        Unary::Exp => exponential::exp(a),
        Unary::Expm1 => exponential::expm1(a),
        Unary::Log => logarithm::log(a),
        Unary::Log1p => logarithm::log1p(a),
        Unary::Log2 => logarithm::log2(a),
        Unary::Tanh => exponential::tanh(a),
        Unary::Erf => erf::erf_f32(a),
        Unary::Floor => a.floor(),
        Unary::Ceil => a.ceil(),
        Unary::Round => a.round(),
        Unary::Sigmoid => exponential::sigmoid(a),
        Unary::Relu => V::num(0.0).max(a),
        Unary::Softplus => exponential::softplus(a),
        // Sine and cosine leave large angles to the scalar function, which a record cannot.
        Unary::Sin
        | Unary::Cos
        | Unary::Tan
        | Unary::Asin
        | Unary::Acos
        | Unary::Atan
        | Unary::Sinh
        | Unary::Cosh
        | Unary::Asinh
        | Unary::Acosh
        | Unary::Atanh
        | Unary::Lgamma
        | Unary::Digamma => {
            return None;
        }
    })
}

/// The function over vectors; the second operand's number where it is the same for all elements.
fn binary<V: Vector<Item = f32>>(f: Binary, a: V, b: V, number: Option<f32>) -> Option<V> {
    let truth = |mask: V| mask.and(V::num(1.0));
    Some(match f {
        Binary::Add => a + b,
        Binary::Sub => a - b,
        Binary::Mul => a * b,
        Binary::Div => a / b,
        Binary::Max => a.is_nan().select(a, a.max(b)),
        Binary::Min => a.is_nan().select(a, a.min(b)),
        Binary::Lt => truth(a.lt(b)),
        Binary::Le => truth(a.le(b)),
        Binary::Gt => truth(b.lt(a)),
        Binary::Ge => truth(b.le(a)),
        Binary::Eq => truth(a.eq(b)),
        Binary::Ne => truth(V::num(0.0).eq(V::num(0.0)).without(a.eq(b))),
        Binary::Pow | Binary::Powi => match number? {
            1.0 => a,
            2.0 => a * a,
            3.0 => a * a * a,
            4.0 => (a * a) * (a * a),
            -1.0 => V::num(1.0) / a,
            -2.0 => V::num(1.0) / (a * a),
            0.5 => {
                let root = a.sqrt() + V::num(0.0);
                a.eq(V::num(f64::NEG_INFINITY)).select(V::num(f64::INFINITY), root)
            }
            _ => return None,
        },
        Binary::Rem | Binary::Atan2 | Binary::Hypot | Binary::Polygamma => return None,
    })
}

/// A vector that writes down what is done to it.
#[derive(Clone, Copy)]
struct Symbol(Value);

macro_rules! operator {
    ($trait:ident, $method:ident) => {
        impl $trait for Symbol {
            type Output = Self;
            fn $method(self, b: Self) -> Self {
                record(Instruction::$trait(self.0, b.0))
            }
        }
    };
}

operator!(Add, add);
operator!(Sub, sub);
operator!(Mul, mul);
operator!(Div, div);

impl Neg for Symbol {
    type Output = Self;
    fn neg(self) -> Self {
        self.xor(Self::splat(-0.0))
    }
}

macro_rules! methods {
    ($($method:ident($($b:ident),*) = $variant:ident;)*) => {
        $(fn $method(self, $($b: Self),*) -> Self {
            record(Instruction::$variant(self.0, $($b.0),*))
        })*
    };
}

impl Vector for Symbol {
    type Item = f32;
    const LANES: usize = 8;

    fn splat(x: f32) -> Self {
        record(Instruction::Constant(x.to_bits()))
    }
    unsafe fn load(_: *const f32) -> Self {
        unreachable!("a recorded function reads no memory of its own")
    }
    unsafe fn store(self, _: *mut f32) {
        unreachable!("a recorded function writes no memory of its own")
    }
    methods! {
        fma(b, c) = Fma;
        min(b) = Min;
        max(b) = Max;
        sqrt() = Sqrt;
        floor() = Floor;
        ceil() = Ceil;
        round() = Round;
        and(b) = And;
        or(b) = Or;
        xor(b) = Xor;
        without(b) = Without;
        lt(b) = Less;
        le(b) = LessEqual;
        eq(b) = Equal;
        is_nan() = IsNan;
        select(a, b) = Select;
        pow2() = Pow2;
        is_odd() = IsOdd;
    }
    fn any(self) -> bool {
        unreachable!("a recorded function does not branch on values")
    }
    fn split(self) -> (Self, Self) {
        (record(Instruction::Mantissa(self.0)), record(Instruction::Exponent(self.0)))
    }
    fn lanes(self) -> [f32; 8] {
        unreachable!("a recorded function does not look at its lanes")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expr::Builder;

    /// What a record means, number by number.
    fn interpret(recorded: &Recorded, inputs: &[f32]) -> Vec<f32> {
        use Instruction as I;
        let mut at: Vec<f32> = Vec::new();
        let mask = |t: bool| f32::from_bits(if t { !0 } else { 0 });
        for instruction in &recorded.instructions {
            let v = |i: Value| at[i as usize];
            let bits = |i: Value| at[i as usize].to_bits();
            at.push(match *instruction {
                I::Input(i) => inputs[usize::from(i)],
                I::Constant(bits) => f32::from_bits(bits),
                I::Add(a, b) => v(a) + v(b),
                I::Sub(a, b) => v(a) - v(b),
                I::Mul(a, b) => v(a) * v(b),
                I::Div(a, b) => v(a) / v(b),
                I::Fma(a, b, c) => v(a).mul_add(v(b), v(c)),
                I::Min(a, b) => {
                    if v(a) < v(b) {
                        v(a)
                    } else {
                        v(b)
                    }
                }
                I::Max(a, b) => {
                    if v(a) > v(b) {
                        v(a)
                    } else {
                        v(b)
                    }
                }
                I::Sqrt(a) => v(a).sqrt(),
                I::Floor(a) => v(a).floor(),
                I::Ceil(a) => v(a).ceil(),
                I::Round(a) => v(a).round_ties_even(),
                I::And(a, b) => f32::from_bits(bits(a) & bits(b)),
                I::Or(a, b) => f32::from_bits(bits(a) | bits(b)),
                I::Xor(a, b) => f32::from_bits(bits(a) ^ bits(b)),
                I::Without(a, b) => f32::from_bits(bits(a) & !bits(b)),
                I::Less(a, b) => mask(v(a) < v(b)),
                I::LessEqual(a, b) => mask(v(a) <= v(b)),
                I::Equal(a, b) => mask(v(a) == v(b)),
                I::IsNan(a) => mask(v(a).is_nan()),
                I::Select(c, a, b) => {
                    if bits(c) != 0 {
                        v(a)
                    } else {
                        v(b)
                    }
                }
                I::Pow2(a) => f32::from_bits(((v(a) as i32 + 127) as u32) << 23),
                I::Mantissa(a) => {
                    let e = (bits(a).wrapping_sub(0x3f35_04f3) as i32) >> 23;
                    f32::from_bits(bits(a).wrapping_sub((e << 23) as u32))
                }
                I::Exponent(a) => ((bits(a).wrapping_sub(0x3f35_04f3) as i32) >> 23) as f32,
                I::IsOdd(a) => mask((v(a) as i32) & 1 == 1),
            });
        }
        recorded.outputs.iter().map(|&o| at[o as usize]).collect()
    }

    #[test]
    fn a_record_means_what_the_slices_compute() {
        let functions = [
            Unary::Neg,
            Unary::Abs,
            Unary::Sign,
            Unary::Recip,
            Unary::Sqrt,
            Unary::Rsqrt,
            Unary::Exp,
            Unary::Expm1,
            Unary::Log,
            Unary::Log1p,
            Unary::Log2,
            Unary::Tanh,
            Unary::Erf,
            Unary::Floor,
            Unary::Ceil,
            Unary::Round,
            Unary::Sigmoid,
            Unary::Relu,
            Unary::Softplus,
        ];
        let numbers =
            [-50.0f32, -3.3, -1.0, -0.4, -0.0, 0.0, 1e-20, 0.3, 1.0, 2.5, 40.0, 1e20, f32::INFINITY];
        for f in functions {
            let mut b = Builder::new();
            let x = b.input(0);
            let y = b.unary(f, x);
            let recorded = record_program(&b.finish(&[y], 1, 0)).expect("it has vector code");
            let mut want = numbers;
            super::super::unary(f, &numbers, &mut want);
            for (x, want) in numbers.iter().zip(want) {
                let got = interpret(&recorded, &[*x])[0];
                assert!(
                    got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan(),
                    "{f:?}({x}): {got} and {want}"
                );
            }
        }
    }

    #[test]
    fn functions_without_vector_code_are_refused() {
        let mut b = Builder::new();
        let x = b.input(0);
        let y = b.unary(Unary::Sin, x);
        assert!(record_program(&b.finish(&[y], 1, 0)).is_none());
    }
}
