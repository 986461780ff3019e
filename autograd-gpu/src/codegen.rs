//! Fused kernels from scalar expressions: the program that the CPU's tiles run, as CUDA C++.

use crate::source::{PRELUDE, Source};
use autograd_core::kernels::expr::{Binary, Node, Program, Reg, Unary};
use autograd_core::{DType, MAX_RANK};
use std::fmt::Write as _;

const SPECIAL: &str = include_str!("../cuda/special.cuh");

/// The type of a buffer's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Element {
    /// 32-bit floats.
    F32,
    /// 64-bit floats.
    F64,
    /// IEEE half floats, computed in f32.
    F16,
    /// bfloat16, computed in f32.
    BF16,
    /// Bytes: masks of 0 and 1.
    U8,
    /// 32-bit unsigned integers, computed in f64.
    U32,
    /// 64-bit integers, computed in f64 as on the CPU: exact up to 2⁵³.
    I64,
}

impl Element {
    /// That of a tensor's elements, where expressions have it.
    pub fn of(dtype: DType) -> Option<Self> {
        match dtype {
            DType::F32 => Some(Self::F32),
            DType::F64 => Some(Self::F64),
            DType::F16 => Some(Self::F16),
            DType::BF16 => Some(Self::BF16),
            DType::U8 => Some(Self::U8),
            DType::U32 => Some(Self::U32),
            DType::I64 => Some(Self::I64),
            _ => None,
        }
    }

    fn storage(self) -> &'static str {
        match self {
            Element::F32 => "float",
            Element::F64 => "double",
            Element::F16 => "f16",
            Element::BF16 => "bf16",
            Element::U8 => "unsigned char",
            Element::U32 => "u32",
            Element::I64 => "i64",
        }
    }

    /// Whether what holds its numbers is f64.
    fn is_wide(self) -> bool {
        matches!(self, Element::F64 | Element::U32 | Element::I64)
    }

    fn load(self, from: &str) -> String {
        match self {
            Element::U8 | Element::U32 | Element::I64 => format!("A({from})"),
            _ => format!("A(widen({from}))"),
        }
    }

    fn store(self, value: &str, to: &str) -> String {
        match self {
            Element::U8 | Element::U32 | Element::I64 => format!("cut_off({value}, {to});"),
            // Through the type's own width, so that a double becomes a half in one rounding less.
            Element::F64 => format!("narrow(double({value}), {to});"),
            _ => format!("narrow(float({value}), {to});"),
        }
    }
}

/// The bytes that the parameters of a kernel may take on every device.
pub(crate) const MOST_BYTES: usize = 4096;

/// Whether the kernel of an expression may have so many: the strides of its inputs are passed by value.
pub(crate) fn fits(inputs: usize, outputs: usize, params: usize) -> bool {
    let geometry = 8 + 4 + 4 * MAX_RANK + 8 * MAX_RANK * inputs.max(1);
    geometry.next_multiple_of(8) + 8 * (inputs + outputs + params) <= MOST_BYTES
}

/// The fused kernel of an expression: `name(n, x₀ …, y₀ …, p₀ …)` for contiguous buffers of n
/// elements, and `name_strided(g, x₀ …, y₀ …, p₀ …)` for inputs of any strides (0 along broadcast
/// dimensions) and contiguous outputs, where
/// `g = { u64 n; u32 rank; u32 dims[8]; u64 strides[INPUTS][8]; }`. Parameters are doubles. It is
/// computed in f64 where any buffer is of that type or of integers that f32 cannot hold, otherwise
/// in f32. Threads walk by the grid.
///
/// `inputs` and `outputs` name the type of each buffer, as many as the program has.
pub fn pointwise(name: &str, program: &Program, inputs: &[Element], outputs: &[Element]) -> Source {
    let wide = inputs.iter().chain(outputs).any(|e| e.is_wide());
    let accumulator = if wide { "double" } else { "float" };
    let mut buffers = Vec::new();
    buffers.extend(inputs.iter().enumerate().map(|(i, e)| format!("const {}* x{i}", e.storage())));
    buffers.extend(outputs.iter().enumerate().map(|(i, e)| format!("{}* y{i}", e.storage())));
    buffers.extend((0..program.params()).map(|i| format!("double p{i}")));
    let buffers = buffers.join(", ");
    let mut text = format!("{PRELUDE}\n{SPECIAL}\n");
    let _ = writeln!(
        text,
        "struct Geometry {{ u64 n; u32 rank; u32 dims[8]; u64 strides[{}][8]; }};\n",
        inputs.len().max(1)
    );
    // The function of one element, shared by both kernels.
    let values: Vec<String> = (0..inputs.len()).map(|i| format!("A v{i}")).collect();
    let params = (0..program.params()).map(|i| format!("A p{i}"));
    let results = (0..outputs.len()).map(|i| format!("A& r{i}"));
    let signature: Vec<String> = values.into_iter().chain(params).chain(results).collect();
    let _ = writeln!(text, "typedef {accumulator} A;\n");
    let _ = writeln!(text, "__device__ inline void {name}_element({}) {{", signature.join(", "));
    for (i, node) in program.nodes().iter().enumerate() {
        let _ = writeln!(text, "    A t{i} = {};", expression(*node, wide));
    }
    for (i, output) in program.outputs().iter().enumerate() {
        let _ = writeln!(text, "    r{i} = t{output};");
    }
    let _ = writeln!(text, "}}\n");
    let walk = "(u64)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (u64)gridDim.x * blockDim.x";
    let body = |index: &dyn Fn(usize) -> String| {
        let mut body = String::new();
        let loads = inputs.iter().enumerate().map(|(i, e)| e.load(&format!("x{i}[{}]", index(i))));
        let params = (0..program.params()).map(|i| format!("A(p{i})"));
        let results: Vec<String> = (0..outputs.len()).map(|i| format!("r{i}")).collect();
        let arguments: Vec<String> = loads.chain(params).chain(results.iter().cloned()).collect();
        let _ = writeln!(body, "        A {};", results.join(", "));
        let _ = writeln!(body, "        {name}_element({});", arguments.join(", "));
        for (i, element) in outputs.iter().enumerate() {
            let _ = writeln!(body, "        {}", element.store(&format!("r{i}"), &format!("y{i}[i]")));
        }
        body
    };
    let _ = writeln!(text, "extern \"C\" __global__ void {name}(u64 n, {buffers}) {{");
    let _ = writeln!(text, "    for (u64 i = {walk}) {{\n{}    }}\n}}\n", body(&|_| "i".to_owned()));
    let _ = writeln!(text, "extern \"C\" __global__ void {name}_strided(Geometry g, {buffers}) {{");
    let _ = writeln!(text, "    u64 n = g.n;\n    for (u64 i = {walk}) {{");
    let _ = writeln!(text, "        u64 at[{}] = {{}}, rest = i;", inputs.len().max(1));
    let _ = writeln!(text, "        for (int d = (int)g.rank - 1; d >= 0; --d) {{");
    let _ = writeln!(text, "            u64 c = rest % g.dims[d];\n            rest /= g.dims[d];");
    let _ = writeln!(
        text,
        "            for (int k = 0; k < {}; ++k) at[k] += c * g.strides[k][d];",
        inputs.len()
    );
    let _ = writeln!(text, "        }}\n{}    }}\n}}", body(&|i| format!("at[{i}]")));
    let entries = vec![name.to_owned(), format!("{name}_strided")];
    Source::new(name.to_owned(), text, entries)
}

fn expression(node: Node, wide: bool) -> String {
    let at = |reg: Reg| format!("t{reg}");
    match node {
        Node::Input(i) => format!("v{i}"),
        Node::Param(i) => format!("p{i}"),
        Node::Const(c) => constant(c, wide),
        Node::Unary(f, a) => unary(f, &at(a)),
        Node::Binary(f, a, b) => binary(f, &at(a), &at(b)),
        Node::Select(c, a, b) => format!("{} != A(0) ? {} : {}", at(c), at(a), at(b)),
    }
}

fn constant(c: f64, wide: bool) -> String {
    if c.is_nan() {
        return "infinity_of(A()) - infinity_of(A())".to_owned();
    }
    if c.is_infinite() {
        return format!("{}infinity_of(A())", if c < 0.0 { "-" } else { "" });
    }
    // The shortest decimal that gives the number back.
    if wide { format!("{c:?}") } else { format!("{:?}f", c as f32).replace("inff", "infinity_of(A())") }
}

fn unary(f: Unary, a: &str) -> String {
    let call = |name: &str| format!("{name}({a})");
    match f {
        Unary::Neg => format!("-{a}"),
        Unary::Abs => call("fabs"),
        Unary::Sign => call("sign_of"),
        Unary::Recip => format!("A(1) / {a}"),
        Unary::Sqrt => call("sqrt"),
        Unary::Rsqrt => format!("A(1) / sqrt({a})"),
        Unary::Exp => call("exp"),
        Unary::Expm1 => call("expm1"),
        Unary::Log => call("log"),
        Unary::Log1p => call("log1p"),
        Unary::Log2 => call("log2"),
        Unary::Sin => call("sin"),
        Unary::Cos => call("cos"),
        Unary::Tan => call("tan"),
        Unary::Asin => call("asin"),
        Unary::Acos => call("acos"),
        Unary::Atan => call("atan"),
        Unary::Sinh => call("sinh"),
        Unary::Cosh => call("cosh"),
        Unary::Tanh => call("tanh"),
        Unary::Asinh => call("asinh"),
        Unary::Acosh => call("acosh"),
        Unary::Atanh => call("atanh"),
        Unary::Erf => call("erf"),
        Unary::Lgamma => call("lgamma"),
        Unary::Digamma => call("digamma_of"),
        Unary::Floor => call("floor"),
        Unary::Ceil => call("ceil"),
        Unary::Round => call("rint"),
        Unary::Sigmoid => call("sigmoid_of"),
        Unary::Relu => call("relu_of"),
        Unary::Softplus => call("softplus_of"),
    }
}

fn binary(f: Binary, a: &str, b: &str) -> String {
    let sign = |sign: &str| format!("{a} {sign} {b}");
    let truth = |sign: &str| format!("A({a} {sign} {b})");
    let call = |name: &str| format!("{name}({a}, {b})");
    match f {
        Binary::Add => sign("+"),
        Binary::Sub => sign("-"),
        Binary::Mul => sign("*"),
        Binary::Div => sign("/"),
        Binary::Rem => call("rem_of"),
        Binary::Pow => call("pow"),
        Binary::Powi => call("powi_of"),
        Binary::Atan2 => call("atan2"),
        Binary::Hypot => call("hypot"),
        Binary::Max => call("larger"),
        Binary::Min => call("smaller"),
        Binary::Lt => truth("<"),
        Binary::Le => truth("<="),
        Binary::Gt => truth(">"),
        Binary::Ge => truth(">="),
        Binary::Eq => truth("=="),
        Binary::Ne => truth("!="),
        Binary::Polygamma => call("polygamma_of"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constants_come_back_as_they_were() {
        for c in [0.1, -2.5e-300, 1e22, f64::MIN_POSITIVE] {
            assert_eq!(constant(c, true).parse::<f64>().unwrap(), c);
        }
        assert_eq!(constant(0.1, false), "0.1f");
        assert_eq!(constant(f64::NEG_INFINITY, false), "-infinity_of(A())");
        assert_eq!(constant(1e300, false), "infinity_of(A())");
    }
}
