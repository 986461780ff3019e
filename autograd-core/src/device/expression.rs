//! Scalar expressions by candle's ops, node by node.

use super::Tensors;
use crate::error::Result;
use crate::pointwise::Pointwise;
use crate::primitive::Signature;
use autograd_kernels::expr::{Binary, Node, Unary};
use autograd_kernels::math::scalar;
use candle_core::{DType, Tensor};

/// Functions that candle has on no device, or not to our convention: an expression with one of
/// them is computed on the host.
pub const HOST_FUNCTIONS: &[&str] = &[
    "tan",
    "asin",
    "acos",
    "atan",
    "asinh",
    "acosh",
    "atanh",
    "lgamma",
    "digamma",
    "polygamma",
    "atan2",
    "hypot",
    "rem",
    "pow",
];

/// The value of a node.
#[derive(Clone)]
enum Value {
    /// The same number for all elements.
    Number(f64),
    /// A number for each element, broadcast where extents are 1.
    Tensor(Tensor),
}

/// The outputs of an expression; `None` where candle lacks one of its functions.
pub(super) fn evaluate(op: &Pointwise, inputs: &[Tensor], signature: &Signature) -> Result<Option<Tensors>> {
    let program = op.expr().program();
    // Half types are computed in f32, as everywhere, and integers in what holds them.
    let wide = |x: &Tensor| !matches!(x.dtype(), DType::F32 | DType::F16 | DType::BF16 | DType::U8);
    let dtype = if inputs.iter().any(wide) { DType::F64 } else { DType::F32 };
    let mut values: Vec<Value> = Vec::with_capacity(program.nodes().len());
    for node in program.nodes() {
        let at = |reg: u16| &values[usize::from(reg)];
        let value = match *node {
            Node::Input(i) => Some(Value::Tensor(inputs[usize::from(i)].to_dtype(dtype)?)),
            Node::Param(i) => Some(Value::Number(op.params()[usize::from(i)])),
            Node::Const(c) => Some(Value::Number(c)),
            Node::Unary(f, a) => match at(a) {
                Value::Number(a) => Some(Value::Number(scalar::unary(f, *a))),
                Value::Tensor(a) => unary(f, a)?.map(Value::Tensor),
            },
            Node::Binary(f, a, b) => match (at(a), at(b)) {
                (Value::Number(a), Value::Number(b)) => Some(Value::Number(scalar::binary(f, *a, *b))),
                (Value::Tensor(a), Value::Tensor(b)) => binary(f, a, b)?.map(Value::Tensor),
                (Value::Tensor(a), Value::Number(b)) if f == Binary::Powi => power(a, *b)?.map(Value::Tensor),
                (Value::Tensor(a), Value::Number(b)) => binary(f, a, &like(*b, a)?)?.map(Value::Tensor),
                (Value::Number(a), Value::Tensor(b)) => binary(f, &like(*a, b)?, b)?.map(Value::Tensor),
            },
            Node::Select(c, a, b) => match at(c) {
                Value::Number(c) => Some(at(if *c == 0.0 { b } else { a }).clone()),
                Value::Tensor(c) => {
                    let side = |v: &Value| match v {
                        Value::Number(x) => like(*x, c),
                        Value::Tensor(x) => Ok(x.clone()),
                    };
                    Some(Value::Tensor(select(c, &side(at(a))?, &side(at(b))?)?))
                }
            },
        };
        let Some(value) = value else { return Ok(None) };
        values.push(value);
    }
    let mut outputs = Tensors::new();
    for (&reg, meta) in program.outputs().iter().zip(&signature.outputs) {
        let y = match &values[usize::from(reg)] {
            Value::Number(x) => like(*x, &inputs[0].to_dtype(dtype)?)?,
            Value::Tensor(y) => y.clone(),
        };
        // A mask is 1 where the value is not 0, NaN included.
        let y = if meta.dtype == DType::U8 { y.ne(&y.zeros_like()?)? } else { y.to_dtype(meta.dtype)? };
        outputs.push(y.broadcast_as(meta.shape.dims())?.contiguous()?);
    }
    Ok(Some(outputs))
}

/// A number as a tensor without dimensions, of the type and on the device of `x`.
fn like(number: f64, x: &Tensor) -> Result<Tensor> {
    Ok(Tensor::full(number, (), x.device())?.to_dtype(x.dtype())?)
}

/// `a` where the condition is not 0 (NaN is not), else `b`.
fn select(condition: &Tensor, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let shape = condition.shape().broadcast_shape_binary_op(a.shape(), "select")?;
    let shape = shape.broadcast_shape_binary_op(b.shape(), "select")?;
    let wide = |x: &Tensor| x.broadcast_as(&shape)?.contiguous();
    let condition = wide(&condition.ne(&condition.zeros_like()?)?)?;
    Ok(condition.where_cond(&wide(a)?, &wide(b)?)?)
}

/// 1 where x is NaN, else 0.
fn is_nan(x: &Tensor) -> Result<Tensor> {
    Ok(x.ne(x)?.to_dtype(x.dtype())?)
}

fn unary(f: Unary, x: &Tensor) -> Result<Option<Tensor>> {
    let one = || like(1.0, x);
    Ok(Some(match f {
        Unary::Neg => x.neg()?,
        Unary::Abs => x.abs()?,
        Unary::Sign => select(&is_nan(x)?, x, &x.sign()?)?,
        Unary::Recip => x.recip()?,
        Unary::Sqrt => x.sqrt()?,
        Unary::Rsqrt => x.sqrt()?.recip()?,
        Unary::Exp => x.exp()?,
        Unary::Expm1 => expm1(x)?,
        Unary::Log => x.log()?,
        Unary::Log1p => log1p(x)?,
        Unary::Log2 => x.log()?.broadcast_mul(&like(std::f64::consts::LOG2_E, x)?)?,
        Unary::Sin => x.sin()?,
        Unary::Cos => x.cos()?,
        Unary::Tanh => x.tanh()?,
        Unary::Sinh => {
            // Near 0 by eˣ − 1, which is exact there.
            let near = expm1(x)?;
            let near = ((&near + near.broadcast_div(&near.broadcast_add(&one()?)?)?)? * 0.5)?;
            let far = ((x.exp()? - x.neg()?.exp()?)? * 0.5)?;
            select(&below_one(x)?, &near, &far)?
        }
        Unary::Cosh => ((x.exp()? + x.neg()?.exp()?)? * 0.5)?,
        Unary::Erf => x.erf()?,
        Unary::Floor => x.floor()?,
        Unary::Ceil => x.ceil()?,
        Unary::Round => {
            // Halves to even; candle's go away from 0.
            let half = x.sub(&x.floor()?)?.broadcast_eq(&like(0.5, x)?)?.to_dtype(x.dtype())?;
            select(&half, &((x * 0.5)?.round()? * 2.0)?, &x.round()?)?
        }
        Unary::Sigmoid => x.neg()?.exp()?.broadcast_add(&one()?)?.recip()?,
        Unary::Relu => relu(x)?,
        Unary::Softplus => (relu(x)? + log1p(&x.abs()?.neg()?.exp()?)?)?,
        Unary::Tan
        | Unary::Asin
        | Unary::Acos
        | Unary::Atan
        | Unary::Asinh
        | Unary::Acosh
        | Unary::Atanh
        | Unary::Lgamma
        | Unary::Digamma => return Ok(None),
    }))
}

/// max(x, 0), NaN where x is.
fn relu(x: &Tensor) -> Result<Tensor> {
    let zero = x.zeros_like()?;
    // x ≤ 0 does not hold for NaN.
    select(&x.le(&zero)?.to_dtype(x.dtype())?, &zero, x)
}

/// 1 where |x| < 1.
fn below_one(x: &Tensor) -> Result<Tensor> {
    Ok(x.abs()?.broadcast_lt(&like(1.0, x)?)?.to_dtype(x.dtype())?)
}

/// eˣ − 1; near 0 as 2t / (1 − t) with t = tanh(x/2).
fn expm1(x: &Tensor) -> Result<Tensor> {
    let one = like(1.0, x)?;
    let t = (x * 0.5)?.tanh()?;
    let near = (&t * 2.0)?.div(&t.neg()?.broadcast_add(&one)?)?;
    select(&below_one(x)?, &near, &x.exp()?.broadcast_sub(&one)?)
}

/// ln(1 + x): with u = 1 + x rounded, ln u · x/(u − 1), and x itself where u is 1.
fn log1p(x: &Tensor) -> Result<Tensor> {
    let one = like(1.0, x)?;
    let u = x.broadcast_add(&one)?;
    let rounded = u.broadcast_sub(&one)?;
    let whole = u.log()?.mul(&x.div(&rounded)?)?;
    // Neither 0/0 nor ∞/∞ counts: there ln(1 + x) is x.
    let itself = rounded.eq(&x.zeros_like()?)?.to_dtype(x.dtype())?;
    let infinite = x.broadcast_eq(&like(f64::INFINITY, x)?)?.to_dtype(x.dtype())?;
    select(&(itself + infinite)?, x, &whole)
}

fn binary(f: Binary, a: &Tensor, b: &Tensor) -> Result<Option<Tensor>> {
    let number = |mask: Tensor| mask.to_dtype(a.dtype());
    Ok(Some(match f {
        Binary::Add => a.broadcast_add(b)?,
        Binary::Sub => a.broadcast_sub(b)?,
        Binary::Mul => a.broadcast_mul(b)?,
        Binary::Div => a.broadcast_div(b)?,
        Binary::Max => extreme(a, b, &a.broadcast_maximum(b)?)?,
        Binary::Min => extreme(a, b, &a.broadcast_minimum(b)?)?,
        Binary::Lt => number(a.broadcast_lt(b)?)?,
        Binary::Le => number(a.broadcast_le(b)?)?,
        Binary::Gt => number(a.broadcast_gt(b)?)?,
        Binary::Ge => number(a.broadcast_ge(b)?)?,
        Binary::Eq => number(a.broadcast_eq(b)?)?,
        Binary::Ne => number(a.broadcast_ne(b)?)?,
        Binary::Rem | Binary::Pow | Binary::Powi | Binary::Atan2 | Binary::Hypot | Binary::Polygamma => {
            return Ok(None);
        }
    }))
}

/// A maximum or minimum, NaN where either side is.
fn extreme(a: &Tensor, b: &Tensor, chosen: &Tensor) -> Result<Tensor> {
    let chosen = select(&is_nan(b)?, b, chosen)?;
    select(&is_nan(a)?, a, &chosen)
}

/// xⁿ for a whole number n, by squaring.
fn power(x: &Tensor, n: f64) -> Result<Option<Tensor>> {
    if n.fract() != 0.0 || n.abs() > 64.0 {
        return Ok(None);
    }
    let mut rest = n.abs() as u32;
    let (mut power, mut square) = (x.ones_like()?, x.clone());
    while rest > 0 {
        if rest & 1 == 1 {
            power = power.mul(&square)?;
        }
        rest >>= 1;
        if rest > 0 {
            square = square.sqr()?;
        }
    }
    Ok(Some(if n < 0.0 { power.recip()? } else { power }))
}
