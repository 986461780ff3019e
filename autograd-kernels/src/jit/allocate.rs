//! Registers for straight-line vector code.
//!
//! Code has no branches, so the next use of every value is known. A register that is needed is
//! taken from the value whose next use is farthest away. Inputs and constants are in memory anyway
//! and are read again; other values are stored on the stack before they give up their register.

use crate::math::recorded::{Instruction, Recorded, Value};
use std::collections::HashMap;

/// How many vector registers there are.
const REGISTERS: usize = 16;

/// A vector register.
pub(super) type Register = u8;

/// Where an operand is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Register(Register),
    /// A row of the constant table.
    Constant(usize),
    /// A slot on the stack.
    Slot(usize),
    /// The elements of an input.
    Input(u8),
}

/// One step of the code.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    /// Register := memory.
    Load(Register, Source),
    /// Stack slot := register.
    Spill(usize, Register),
    /// Output := register.
    Store(usize, Register),
    /// Register := f(register, source).
    Compute(Instruction, Register, Register, Source),
    /// The first register is also the first factor: d := d · register + source.
    FmaProduct(Register, Register, Source),
    /// The first register is also the summand: d := register · source + d.
    FmaSum(Register, Register, Source),
    /// d := where the mask (last) is set the source, else the register.
    Select(Register, Register, Source, Register),
}

/// Code with registers.
#[derive(Debug)]
pub(super) struct Allocated {
    pub(super) steps: Vec<Step>,
    /// The bits of each row of the constant table.
    pub(super) constants: Vec<u32>,
    pub(super) slots: usize,
}

struct Allocator<'a> {
    code: &'a Recorded,
    /// For each value, where it is read, the next one last.
    uses: Vec<Vec<usize>>,
    register: Vec<Option<Register>>,
    slot: Vec<Option<usize>>,
    holds: [Option<Value>; REGISTERS],
    free_slots: Vec<usize>,
    slots: usize,
    constants: Vec<u32>,
    constant_at: HashMap<u32, usize>,
    steps: Vec<Step>,
}

/// Bits that integer steps read from the constant table: the bias of exponents and the mantissa
/// bits of √½.
pub(super) const BIAS: u32 = 127;
pub(super) const SQRT_HALF: u32 = 0x3f35_04f3;

/// Gives registers to recorded code.
pub(super) fn allocate(code: &Recorded) -> Allocated {
    let n = code.instructions.len();
    let mut uses: Vec<Vec<usize>> = vec![Vec::new(); n];
    for (i, instruction) in code.instructions.iter().enumerate() {
        instruction.operands().for_each(|v| uses[v as usize].push(i));
    }
    uses.iter_mut().for_each(|list| list.reverse());
    let mut a = Allocator {
        code,
        uses,
        register: vec![None; n],
        slot: vec![None; n],
        holds: [None; REGISTERS],
        free_slots: Vec::new(),
        slots: 0,
        constants: Vec::new(),
        constant_at: HashMap::new(),
        steps: Vec::new(),
    };
    // The integer steps find these rows first.
    a.constant(BIAS);
    a.constant(SQRT_HALF);
    for i in 0..n {
        a.instruction(i);
    }
    // Outputs that are inputs or constants were not stored when they were made.
    for (j, &out) in code.outputs.iter().enumerate() {
        if a.is_memory(out) {
            let register = a.in_register(out, &[]);
            a.steps.push(Step::Store(j, register));
        }
    }
    Allocated { steps: a.steps, constants: a.constants, slots: a.slots }
}

impl Allocator<'_> {
    fn constant(&mut self, bits: u32) -> usize {
        let next = self.constants.len();
        let at = *self.constant_at.entry(bits).or_insert(next);
        if at == next {
            self.constants.push(bits);
        }
        at
    }

    /// Whether a value is in memory from the start.
    fn is_memory(&self, v: Value) -> bool {
        matches!(self.code.instructions[v as usize], Instruction::Input(_) | Instruction::Constant(_))
    }

    /// Where a value is in memory.
    fn memory(&mut self, v: Value) -> Source {
        match self.code.instructions[v as usize] {
            Instruction::Input(i) => Source::Input(i),
            Instruction::Constant(bits) => Source::Constant(self.constant(bits)),
            _ => Source::Slot(self.slot[v as usize].expect("a value without a register is on the stack")),
        }
    }

    /// A register that holds nothing, which is none of `pinned`.
    fn take(&mut self, pinned: &[Register]) -> Register {
        let free =
            (0..REGISTERS as u8).find(|r| self.holds[usize::from(*r)].is_none() && !pinned.contains(r));
        if let Some(register) = free {
            return register;
        }
        let next =
            |v: Option<Value>| v.map_or(usize::MAX, |v| *self.uses[v as usize].last().unwrap_or(&usize::MAX));
        let victim = (0..REGISTERS as u8)
            .filter(|r| !pinned.contains(r))
            .max_by_key(|r| next(self.holds[usize::from(*r)]))
            .expect("no instruction pins all registers");
        let v = self.holds[usize::from(victim)].take().expect("it holds a value, or it was free");
        self.register[v as usize] = None;
        let needed = !self.uses[v as usize].is_empty();
        if needed && !self.is_memory(v) && self.slot[v as usize].is_none() {
            let slot = self.free_slots.pop().unwrap_or_else(|| {
                self.slots += 1;
                self.slots - 1
            });
            self.slot[v as usize] = Some(slot);
            self.steps.push(Step::Spill(slot, victim));
        }
        victim
    }

    /// The register of a value, loaded where it has none.
    fn in_register(&mut self, v: Value, pinned: &[Register]) -> Register {
        if let Some(register) = self.register[v as usize] {
            return register;
        }
        let register = self.take(pinned);
        let from = self.memory(v);
        self.steps.push(Step::Load(register, from));
        self.hold(register, v);
        register
    }

    fn hold(&mut self, register: Register, v: Value) {
        self.holds[usize::from(register)] = Some(v);
        self.register[v as usize] = Some(register);
    }

    /// Where the last operand is read: its register, or straight from memory. An input that is
    /// read again soon is worth a register.
    fn source(&mut self, v: Value, pinned: &[Register], at: usize) -> Source {
        if let Some(register) = self.register[v as usize] {
            return Source::Register(register);
        }
        let again = matches!(self.code.instructions[v as usize], Instruction::Input(_))
            && self.uses[v as usize].iter().any(|&u| u > at);
        if again { Source::Register(self.in_register(v, pinned)) } else { self.memory(v) }
    }

    /// The operands of instruction `at` are read: those that end there give up their places.
    fn end(&mut self, at: usize, operands: &[Value]) {
        for &v in operands {
            let uses = &mut self.uses[v as usize];
            while uses.last() == Some(&at) {
                uses.pop();
            }
            if uses.is_empty() {
                if let Some(register) = self.register[v as usize].take() {
                    self.holds[usize::from(register)] = None;
                }
                if let Some(slot) = self.slot[v as usize].take() {
                    self.free_slots.push(slot);
                }
            }
        }
    }

    /// Whether a value is in a register that instruction `at` may overwrite, and no other operand.
    fn dies(&self, v: Value, at: usize, others: &[Value]) -> bool {
        self.register[v as usize].is_some()
            && !others.contains(&v)
            && self.uses[v as usize].iter().all(|&u| u == at)
    }

    fn instruction(&mut self, i: usize) {
        use Instruction as I;
        let instruction = self.code.instructions[i];
        let v = i as Value;
        match instruction {
            I::Input(_) | I::Constant(_) => return,
            I::Fma(a, b, c) => self.fma(i, a, b, c),
            I::Select(mask, a, b) => {
                let mask_at = self.in_register(mask, &[]);
                let b_at = self.in_register(b, &[mask_at]);
                let a_at = self.source(a, &[mask_at, b_at], i);
                self.end(i, &[mask, a, b]);
                let to = self.destination(v, &[]);
                self.steps.push(Step::Select(to, b_at, a_at, mask_at));
            }
            // a & !b is one instruction with the operands exchanged.
            I::Without(a, b) => self.two(i, instruction, b, a),
            I::Add(a, b) | I::Mul(a, b) | I::And(a, b) | I::Or(a, b) | I::Xor(a, b)
                if self.is_memory(a) && !self.is_memory(b) =>
            {
                self.two(i, instruction, b, a);
            }
            I::Add(a, b)
            | I::Sub(a, b)
            | I::Mul(a, b)
            | I::Div(a, b)
            | I::Min(a, b)
            | I::Max(a, b)
            | I::And(a, b)
            | I::Or(a, b)
            | I::Xor(a, b)
            | I::Less(a, b)
            | I::LessEqual(a, b)
            | I::Equal(a, b) => self.two(i, instruction, a, b),
            I::Mantissa(a) => {
                // It reads its operand after it has written to its result.
                let a_at = self.in_register(a, &[]);
                let to = self.take(&[a_at]);
                self.steps.push(Step::Compute(instruction, to, a_at, Source::Register(a_at)));
                self.end(i, &[a]);
                self.hold(to, v);
            }
            I::Sqrt(a)
            | I::Floor(a)
            | I::Ceil(a)
            | I::Round(a)
            | I::IsNan(a)
            | I::Pow2(a)
            | I::Exponent(a)
            | I::IsOdd(a) => {
                let a_at = self.in_register(a, &[]);
                self.end(i, &[a]);
                let to = self.destination(v, &[]);
                self.steps.push(Step::Compute(instruction, to, a_at, Source::Register(a_at)));
            }
        }
        let register = self.register[i].expect("an instruction leaves its result in a register");
        for (j, _) in self.code.outputs.iter().enumerate().filter(|(_, out)| **out == v) {
            self.steps.push(Step::Store(j, register));
        }
        if self.uses[i].is_empty() {
            self.holds[usize::from(register)] = None;
            self.register[i] = None;
        }
    }

    fn two(&mut self, i: usize, instruction: Instruction, a: Value, b: Value) {
        let a_at = self.in_register(a, &[]);
        let b_at = self.source(b, &[a_at], i);
        self.end(i, &[a, b]);
        let to = self.destination(i as Value, &[]);
        self.steps.push(Step::Compute(instruction, to, a_at, b_at));
    }

    /// A register for a result, after its operands have ended. What an eviction would have to
    /// store is none of them: they are read by the step that follows.
    fn destination(&mut self, v: Value, pinned: &[Register]) -> Register {
        let to = self.take(pinned);
        self.hold(to, v);
        to
    }

    fn fma(&mut self, i: usize, a: Value, b: Value, c: Value) {
        let v = i as Value;
        // The summand's register, where it ends here: d := a · b + d.
        if self.dies(c, i, &[a, b]) {
            let c_at = self.in_register(c, &[]);
            let (a, b) = if self.is_memory(a) && !self.is_memory(b) { (b, a) } else { (a, b) };
            let a_at = self.in_register(a, &[c_at]);
            let b_at = self.source(b, &[c_at, a_at], i);
            self.end(i, &[a, b, c]);
            self.hold(c_at, v);
            self.steps.push(Step::FmaSum(c_at, a_at, b_at));
            return;
        }
        // A factor's register, where it ends here: d := d · b + c.
        let (a, b) = if !self.dies(a, i, &[b, c]) && self.dies(b, i, &[a, c]) { (b, a) } else { (a, b) };
        if self.dies(a, i, &[b, c]) {
            let a_at = self.in_register(a, &[]);
            let b_at = self.in_register(b, &[a_at]);
            let c_at = self.source(c, &[a_at, b_at], i);
            self.end(i, &[a, b, c]);
            self.hold(a_at, v);
            self.steps.push(Step::FmaProduct(a_at, b_at, c_at));
            return;
        }
        // None of them ends: a copy of the first factor.
        let b_at = self.in_register(b, &[]);
        let c_at = self.source(c, &[b_at], i);
        let mut pinned = vec![b_at];
        if let Source::Register(c) = c_at {
            pinned.push(c);
        }
        let from = self.register[a as usize].map(Source::Register);
        if let Some(Source::Register(a)) = from {
            pinned.push(a);
        }
        let to = self.take(&pinned);
        let from = from.unwrap_or_else(|| self.memory(a));
        self.steps.push(Step::Load(to, from));
        self.end(i, &[a, b, c]);
        self.hold(to, v);
        self.steps.push(Step::FmaProduct(to, b_at, c_at));
    }
}
