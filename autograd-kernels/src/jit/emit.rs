//! The code itself: bytes, pages, and the way in.

use super::allocate::{Allocated, BIAS, Register, SQRT_HALF, Source, Step, allocate};
use crate::expr::Program;
use crate::machine::{MAX_INPUTS, MAX_OUTPUTS, TileCode};
use crate::math::recorded::{Instruction, record_program};
use dynasmrt::x64::Assembler;
use dynasmrt::{AssemblyOffset, DynasmApi, DynasmLabelApi, ExecutableBuffer, dynasm};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// Numbers in a vector, and its bytes.
const LANES: usize = 8;
const BYTES: i32 = 32;

/// A row of the constant table: one number in all lanes.
#[derive(Clone, Copy)]
#[repr(C, align(32))]
struct Row([u32; LANES]);

/// Machine code for one expression.
pub(super) struct MachineCode {
    pages: ExecutableBuffer,
    start: AssemblyOffset,
    constants: Vec<Row>,
    inputs: usize,
    outputs: usize,
}

/// What the code expects: where the inputs and outputs are, the constant table, and how many bytes
/// of each to compute, a multiple of a vector's.
type Entry = unsafe extern "sysv64" fn(*const *const f32, *const *mut f32, *const Row, usize);

static CACHE: Mutex<Option<HashMap<Program, Weak<MachineCode>>>> = Mutex::new(None);

/// The code of an expression: made once while somebody holds it. `None` where a function of it has
/// no vector code, or no executable memory can be had.
#[allow(clippy::mutable_key_type, reason = "a program's code is no part of its key")]
pub(super) fn shared(program: &Program) -> Option<Arc<MachineCode>> {
    let lock = || CACHE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = lock().get_or_insert_default().get(program).and_then(Weak::upgrade) {
        return Some(known);
    }
    let code = Arc::new(MachineCode::new(program)?);
    let mut cache = lock();
    let cache = cache.get_or_insert_default();
    cache.retain(|_, code| code.strong_count() > 0);
    cache.insert(program.clone(), Arc::downgrade(&code));
    Some(code)
}

impl MachineCode {
    fn new(program: &Program) -> Option<Self> {
        let allocated = allocate(&record_program(program)?);
        let mut a = Assembler::new().ok()?;
        let start = a.offset();
        write(&mut a, &allocated);
        // Written while its pages were writable, executable from here on.
        let pages = a.finalize().ok()?;
        let constants = allocated.constants.iter().map(|&bits| Row([bits; LANES])).collect();
        Some(Self { pages, start, constants, inputs: program.inputs(), outputs: program.outputs().len() })
    }

    /// # Safety
    /// As for [`TileCode::run`], with `len` a multiple of the lanes.
    unsafe fn enter(&self, inputs: *const *const f32, outputs: *const *mut f32, len: usize) {
        // SAFETY: the pages hold code written by `write` with this signature, and live as long as
        // self. It was made where the processor was found to have AVX2 and FMA.
        let entry: Entry = unsafe { std::mem::transmute(self.pages.ptr(self.start)) };
        // SAFETY: the caller's promise; the table has the rows that the code reads.
        unsafe { entry(inputs, outputs, self.constants.as_ptr(), len * size_of::<f32>()) };
    }
}

// SAFETY: the code reads and writes what `write` makes it read and write: each input and output
// element by element, the constant table and its own stack.
unsafe impl TileCode for MachineCode {
    unsafe fn run(&self, inputs: *const *const f32, outputs: *const *mut f32, len: usize) {
        let whole = len - len % LANES;
        if whole > 0 {
            // SAFETY: the caller's promise, for a part of the elements.
            unsafe { self.enter(inputs, outputs, whole) };
        }
        let rest = len - whole;
        if rest == 0 {
            return;
        }
        // What is left over goes through the same code in padded buffers.
        let mut read = [[0f32; LANES]; MAX_INPUTS];
        let mut written = [[0f32; LANES]; MAX_OUTPUTS];
        let mut from = [std::ptr::null::<f32>(); MAX_INPUTS];
        let mut to = [std::ptr::null_mut::<f32>(); MAX_OUTPUTS];
        for (i, buffer) in read.iter_mut().enumerate().take(self.inputs) {
            // SAFETY: each input has `len` elements, of which these are the last.
            let tail = unsafe { std::slice::from_raw_parts((*inputs.add(i)).add(whole), rest) };
            buffer.fill(tail[rest - 1]);
            buffer[..rest].copy_from_slice(tail);
            from[i] = buffer.as_ptr();
        }
        for (buffer, to) in written.iter_mut().zip(&mut to) {
            *to = buffer.as_mut_ptr();
        }
        // SAFETY: the buffers have a vector's numbers each.
        unsafe { self.enter(from.as_ptr(), to.as_ptr(), LANES) };
        for (j, buffer) in written.iter().enumerate().take(self.outputs) {
            // SAFETY: each output has `len` elements, of which these are the last.
            let tail = unsafe { std::slice::from_raw_parts_mut((*outputs.add(j)).add(whole), rest) };
            tail.copy_from_slice(&buffer[..rest]);
        }
    }
}

/// Writes the function: rdi inputs, rsi outputs, rdx constants, rcx bytes; rax runs through the
/// bytes, r8 holds the pointer at hand.
fn write(a: &mut Assembler, code: &Allocated) {
    let room = code.slots as i32 * BYTES;
    dynasm!(a
        ; .arch x64
        ; push rbp
        ; mov rbp, rsp
        ; and rsp, -32
        ; sub rsp, room
        ; xor eax, eax
        ; ->elements:
    );
    let bias = row(code, BIAS);
    let sqrt_half = row(code, SQRT_HALF);
    for step in &code.steps {
        match *step {
            Step::Load(to, from) => load(a, to, from),
            Step::Spill(slot, from) => {
                let at = slot as i32 * BYTES;
                dynasm!(a; .arch x64; vmovaps [rsp + at], Ry(from));
            }
            Step::Store(output, from) => {
                let at = output as i32 * 8;
                dynasm!(a; .arch x64; mov r8, [rsi + at]; vmovups [r8 + rax], Ry(from));
            }
            Step::Compute(instruction, to, x, y) => compute(a, instruction, to, x, y, bias, sqrt_half),
            Step::FmaProduct(to, x, y) => three(a, Fused::Product, to, x, y),
            Step::FmaSum(to, x, y) => three(a, Fused::Sum, to, x, y),
            Step::Select(to, otherwise, chosen, mask) => select(a, to, otherwise, chosen, mask),
        }
    }
    dynasm!(a
        ; .arch x64
        ; add rax, BYTES
        ; cmp rax, rcx
        ; jb ->elements
        ; vzeroupper
        ; mov rsp, rbp
        ; pop rbp
        ; ret
    );
}

/// How many bytes before they are read inputs are asked for: the processor's own guesses end at
/// each page of 4096.
const AHEAD: i32 = 2048;

/// Where a row of the constant table begins.
fn row(code: &Allocated, bits: u32) -> i32 {
    let at = code.constants.iter().position(|&known| known == bits);
    at.expect("the table begins with the integers") as i32 * BYTES
}

/// An instruction of a register and a source, wherever that is.
macro_rules! with_source {
    ($a:ident, $source:expr, $op:ident, [$($first:expr),*]) => {
        match $source {
            Source::Register(r) => dynasm!($a; .arch x64; $op $(Ry($first)),*, Ry(r)),
            Source::Constant(i) => {
                let at = i as i32 * BYTES;
                dynasm!($a; .arch x64; $op $(Ry($first)),*, [rdx + at])
            }
            Source::Slot(i) => {
                let at = i as i32 * BYTES;
                dynasm!($a; .arch x64; $op $(Ry($first)),*, [rsp + at])
            }
            Source::Input(i) => {
                let at = i32::from(i) * 8;
                dynasm!($a
                    ; .arch x64
                    ; mov r8, [rdi + at]
                    ; prefetcht0 [r8 + rax + AHEAD]
                    ; $op $(Ry($first)),*, [r8 + rax]
                )
            }
        }
    };
}

fn load(a: &mut Assembler, to: Register, from: Source) {
    with_source!(a, from, vmovups, [to]);
}

#[derive(Clone, Copy)]
enum Fused {
    Product,
    Sum,
}

fn three(a: &mut Assembler, form: Fused, to: Register, x: Register, y: Source) {
    match form {
        Fused::Product => with_source!(a, y, vfmadd213ps, [to, x]),
        Fused::Sum => with_source!(a, y, vfmadd231ps, [to, x]),
    }
}

/// An operand of an instruction that is written byte by byte.
#[derive(Clone, Copy)]
enum Operand {
    Register(Register),
    /// What r8 points to.
    Pointed,
}

/// The operand of a source; r8 points to it where it is in memory.
fn pointed(a: &mut Assembler, source: Source) -> Operand {
    match source {
        Source::Register(r) => return Operand::Register(r),
        Source::Constant(i) => {
            let at = i as i32 * BYTES;
            dynasm!(a; .arch x64; lea r8, [rdx + at]);
        }
        Source::Slot(i) => {
            let at = i as i32 * BYTES;
            dynasm!(a; .arch x64; lea r8, [rsp + at]);
        }
        Source::Input(i) => {
            let at = i32::from(i) * 8;
            dynasm!(a; .arch x64; mov r8, [rdi + at]; add r8, rax);
        }
    }
    Operand::Pointed
}

/// A 256-bit instruction with three operands and a byte behind them, after the manual's section on
/// VEX prefixes: the assembler's forms of these two do not encode all their operands.
#[expect(clippy::too_many_arguments, reason = "the parts of one instruction")]
fn encoded(
    a: &mut Assembler,
    map: u8,
    prefix: u8,
    opcode: u8,
    to: Register,
    x: Register,
    y: Operand,
    last: u8,
) {
    // r8 is register 8: its low bits are 0, which stands for a plain address.
    let (mode, low, high) = match y {
        Operand::Register(r) => (0b11, r & 7, r >> 3),
        Operand::Pointed => (0b00, 0, 1),
    };
    let inverted = |bit: u8, at: u8| (1 - bit) << at;
    a.push(0xc4);
    a.push(inverted(to >> 3, 7) | inverted(0, 6) | inverted(high, 5) | map);
    a.push((!x & 0xf) << 3 | 1 << 2 | prefix);
    a.push(opcode);
    a.push(mode << 6 | (to & 7) << 3 | low);
    a.push(last);
}

/// vblendvps: where the mask is set the chosen one, else the other.
fn select(a: &mut Assembler, to: Register, otherwise: Register, chosen: Source, mask: Register) {
    let chosen = pointed(a, chosen);
    encoded(a, 3, 1, 0x4a, to, otherwise, chosen, mask << 4);
}

/// Comparisons as the processor numbers them: ordered, quiet; the last is "unordered".
const LESS: u8 = 0x11;
const LESS_EQUAL: u8 = 0x12;
const EQUAL: u8 = 0x00;
const UNORDERED: u8 = 0x03;

/// vcmpps: a mask of where the comparison holds.
fn compare(a: &mut Assembler, how: u8, to: Register, x: Register, y: Source) {
    let y = pointed(a, y);
    encoded(a, 1, 0, 0xc2, to, x, y, how);
}

/// Rounding without the inexact flag: nearest, down, up.
const NEAREST: i8 = 8;
const DOWN: i8 = 9;
const UP: i8 = 10;

fn compute(
    a: &mut Assembler,
    instruction: Instruction,
    to: Register,
    x: Register,
    y: Source,
    bias: i32,
    sqrt_half: i32,
) {
    use Instruction as I;
    match instruction {
        I::Add(..) => with_source!(a, y, vaddps, [to, x]),
        I::Sub(..) => with_source!(a, y, vsubps, [to, x]),
        I::Mul(..) => with_source!(a, y, vmulps, [to, x]),
        I::Div(..) => with_source!(a, y, vdivps, [to, x]),
        I::Min(..) => with_source!(a, y, vminps, [to, x]),
        I::Max(..) => with_source!(a, y, vmaxps, [to, x]),
        I::And(..) => with_source!(a, y, vandps, [to, x]),
        I::Or(..) => with_source!(a, y, vorps, [to, x]),
        I::Xor(..) => with_source!(a, y, vxorps, [to, x]),
        I::Without(..) => with_source!(a, y, vandnps, [to, x]),
        I::Less(..) => compare(a, LESS, to, x, y),
        I::LessEqual(..) => compare(a, LESS_EQUAL, to, x, y),
        I::Equal(..) => compare(a, EQUAL, to, x, y),
        I::IsNan(_) => compare(a, UNORDERED, to, x, Source::Register(x)),
        I::Sqrt(_) => dynasm!(a; .arch x64; vsqrtps Ry(to), Ry(x)),
        I::Floor(_) => dynasm!(a; .arch x64; vroundps Ry(to), Ry(x), DOWN),
        I::Ceil(_) => dynasm!(a; .arch x64; vroundps Ry(to), Ry(x), UP),
        I::Round(_) => dynasm!(a; .arch x64; vroundps Ry(to), Ry(x), NEAREST),
        I::Pow2(_) => dynasm!(a
            ; .arch x64
            ; vcvtps2dq Ry(to), Ry(x)
            ; vpaddd Ry(to), Ry(to), [rdx + bias]
            ; vpslld Ry(to), Ry(to), 23
        ),
        I::Mantissa(_) => dynasm!(a
            ; .arch x64
            ; vpsubd Ry(to), Ry(x), [rdx + sqrt_half]
            ; vpsrad Ry(to), Ry(to), 23
            ; vpslld Ry(to), Ry(to), 23
            ; vpsubd Ry(to), Ry(x), Ry(to)
        ),
        I::Exponent(_) => dynasm!(a
            ; .arch x64
            ; vpsubd Ry(to), Ry(x), [rdx + sqrt_half]
            ; vpsrad Ry(to), Ry(to), 23
            ; vcvtdq2ps Ry(to), Ry(to)
        ),
        I::IsOdd(_) => dynasm!(a
            ; .arch x64
            ; vcvtps2dq Ry(to), Ry(x)
            ; vpslld Ry(to), Ry(to), 31
            ; vpsrad Ry(to), Ry(to), 31
        ),
        I::Input(_) | I::Constant(_) | I::Fma(..) | I::Select(..) => {
            unreachable!("these are steps of their own")
        }
    }
}
