//! Programs: straight-line sequences of primitives, in SSA form.

use crate::apply::{apply_call, on_behalf_of};
use crate::error::{Error, Result, Site};
use crate::meta::Meta;
use crate::primitive::Prim;
use crate::tracer::Values;
use crate::value::TrackedTensor;
use smallvec::SmallVec;
use std::any::Any;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// Where an instruction finds an operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operand {
    /// An input of the program.
    Input(usize),
    /// A constant of the program.
    Constant(usize),
    /// An output of an earlier instruction.
    Result {
        /// The instruction.
        instruction: usize,
        /// Which of its outputs.
        output: usize,
    },
}

/// One step: a primitive, what it reads, what it makes.
#[derive(Clone, Debug)]
pub struct Instruction {
    /// The op.
    pub op: Prim,
    /// What it reads.
    pub operands: SmallVec<[Operand; 2]>,
    /// What it makes: outputs, then auxiliary outputs.
    pub outputs: SmallVec<[Meta; 1]>,
    /// How many of [`outputs`](Self::outputs) are auxiliary.
    pub aux: usize,
    /// The user's line.
    pub site: Site,
    /// The innermost section that it is in, by its number among [`Program::sections`].
    pub section: Option<usize>,
}

/// A part of a program: a checkpointed region. Its steps are those that say so
/// ([`Instruction::section`]), wherever they stand.
#[derive(Clone, Debug)]
pub struct Section {
    /// The section around it, which comes before it.
    pub outer: Option<usize>,
    /// What whoever marked the section knows about it.
    pub what: Arc<dyn Any + Send + Sync>,
}

/// Who runs a section's steps, given as a function.
type Within<'a> = dyn Fn(&Section, &mut dyn FnMut() -> Result<()>) -> Result<()> + 'a;

/// A sequence of primitives with inputs, constants and outputs. It holds no tracked value: what
/// was watched when it was recorded is an input.
#[derive(Clone, Debug, Default)]
pub struct Program {
    /// The inputs' metas.
    pub inputs: Vec<Meta>,
    /// Values that do not depend on the inputs.
    pub constants: Vec<TrackedTensor>,
    /// The steps, in an order in which operands come first.
    pub instructions: Vec<Instruction>,
    /// The results.
    pub outputs: Vec<Operand>,
    /// The sections, outer ones before those that they contain.
    pub sections: Vec<Section>,
}

impl Program {
    /// Runs the program on values, through whatever watches them: the interpreter that equals
    /// eager mode to the bit.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] where the inputs are not as many as recorded or differ in shape
    /// or type; whatever a primitive reports.
    pub fn run(&self, inputs: &[&TrackedTensor]) -> Result<Vec<TrackedTensor>> {
        self.run_in_sections(inputs, &|_, steps| steps())
    }

    /// As [`run`](Self::run); `within` runs the steps of each section that stand together. A section
    /// whose steps stand apart is run in parts.
    ///
    /// # Errors
    /// As [`run`](Self::run), and whatever `within` reports.
    pub fn run_in_sections(
        &self,
        inputs: &[&TrackedTensor],
        within: &Within<'_>,
    ) -> Result<Vec<TrackedTensor>> {
        if inputs.len() != self.inputs.len() {
            let reason = format!("{} inputs given, {} recorded", inputs.len(), self.inputs.len());
            return Err(Error::argument("program", reason));
        }
        for (i, (input, meta)) in inputs.iter().zip(&self.inputs).enumerate() {
            if input.shape() != &meta.shape || input.dtype() != meta.dtype {
                let got = format!("{} {:?}", input.shape(), input.dtype());
                let reason = format!("input {i} is {got}, recorded for {} {:?}", meta.shape, meta.dtype);
                return Err(Error::argument("program", reason));
            }
        }
        let results = vec![Values::new(); self.instructions.len()];
        let mut run = Run { program: self, inputs, last: self.last_uses(), results };
        run.range(0..self.instructions.len(), None, within)?;
        Ok(self.outputs.iter().map(|o| self.read(*o, inputs, &run.results).clone()).collect())
    }

    /// Leaves out the steps that no output needs.
    pub(crate) fn drop_unused(&mut self) {
        let mut needed = vec![false; self.instructions.len()];
        let mark = |operand: &Operand, needed: &mut Vec<bool>| {
            if let Operand::Result { instruction, .. } = *operand {
                needed[instruction] = true;
            }
        };
        self.outputs.iter().for_each(|operand| mark(operand, &mut needed));
        for at in (0..self.instructions.len()).rev() {
            if needed[at] {
                self.instructions[at].operands.iter().for_each(|operand| mark(operand, &mut needed));
            }
        }
        // Where each step stands when the others are gone.
        let places: Vec<usize> = needed
            .iter()
            .scan(0, |next, &kept| {
                let place = *next;
                *next += usize::from(kept);
                Some(place)
            })
            .collect();
        let moved = |operand: &mut Operand| {
            if let Operand::Result { instruction, .. } = operand {
                *instruction = places[*instruction];
            }
        };
        let mut kept = needed.iter();
        self.instructions.retain(|_| kept.next().copied().unwrap_or_default());
        self.instructions.iter_mut().flat_map(|step| &mut step.operands).for_each(moved);
        self.outputs.iter_mut().for_each(moved);
    }

    /// The meta of an operand.
    pub fn meta_of(&self, operand: Operand) -> Meta {
        match operand {
            Operand::Input(i) => self.inputs[i],
            Operand::Constant(i) => self.constants[i].meta(),
            Operand::Result { instruction, output } => self.instructions[instruction].outputs[output],
        }
    }

    /// The outputs' metas.
    pub fn output_metas(&self) -> Vec<Meta> {
        self.outputs.iter().map(|operand| self.meta_of(*operand)).collect()
    }

    /// A section and those around it, the innermost first.
    pub fn around(&self, section: Option<usize>) -> impl Iterator<Item = usize> + '_ {
        std::iter::successors(section, |&section| self.sections[section].outer)
    }

    /// The inputs that some step or output reads.
    pub fn reads(&self) -> Vec<bool> {
        let mut read = vec![false; self.inputs.len()];
        let operands = self.instructions.iter().flat_map(|step| &step.operands).chain(&self.outputs);
        for operand in operands {
            if let Operand::Input(i) = *operand {
                read[i] = true;
            }
        }
        read
    }

    /// Whether something reads an output of instruction `from` that is not below `made`.
    fn reads_beyond(&self, from: usize, made: usize) -> bool {
        let beyond = |operand: &Operand| matches!(*operand, Operand::Result { instruction, output } if instruction == from && output >= made);
        self.instructions.iter().flat_map(|step| &step.operands).chain(&self.outputs).any(beyond)
    }

    fn read<'a>(
        &'a self,
        operand: Operand,
        inputs: &[&'a TrackedTensor],
        results: &'a [Values],
    ) -> &'a TrackedTensor {
        match operand {
            Operand::Input(i) => inputs[i],
            Operand::Constant(i) => &self.constants[i],
            Operand::Result { instruction, output } => &results[instruction][output],
        }
    }

    /// For each instruction, the last one that reads a result of it; outputs are read at the end.
    fn last_uses(&self) -> Vec<usize> {
        let mut last = vec![0; self.instructions.len()];
        for (i, instruction) in self.instructions.iter().enumerate() {
            for operand in &instruction.operands {
                if let Operand::Result { instruction: from, .. } = *operand {
                    last[from] = i;
                }
            }
        }
        for output in &self.outputs {
            if let Operand::Result { instruction, .. } = *output {
                last[instruction] = usize::MAX;
            }
        }
        last
    }
}

/// A program as it runs.
struct Run<'a> {
    program: &'a Program,
    inputs: &'a [&'a TrackedTensor],
    /// For each instruction, the last one that reads a result of it.
    last: Vec<usize>,
    results: Vec<Values>,
}

impl Run<'_> {
    /// Runs some instructions, all of them in the section `around`.
    fn range(&mut self, range: Range<usize>, around: Option<usize>, within: &Within<'_>) -> Result<()> {
        let program = self.program;
        let mut at = range.start;
        while at < range.end {
            let section = program.instructions[at].section;
            let inner = program.around(section).take_while(|section| Some(*section) != around).last();
            let Some(inner) = inner else {
                self.step(at)?;
                at += 1;
                continue;
            };
            let inside = |i: &usize| program.around(program.instructions[*i].section).any(|s| s == inner);
            let end = at + (at..range.end).take_while(inside).count();
            within(&program.sections[inner], &mut || self.range(at..end, Some(inner), within))?;
            at = end;
        }
        Ok(())
    }

    fn step(&mut self, i: usize) -> Result<()> {
        let instruction = &self.program.instructions[i];
        let applied = {
            let read = |o: &Operand| self.program.read(*o, self.inputs, &self.results);
            let operands: SmallVec<[&TrackedTensor; 4]> = instruction.operands.iter().map(read).collect();
            on_behalf_of(instruction.site, || {
                apply_call(&*instruction.op, &operands, instruction.aux > 0, instruction.site)
            })?
        };
        let mut made = applied.outputs;
        made.extend(applied.aux);
        if made.len() < instruction.outputs.len() && self.program.reads_beyond(i, made.len()) {
            let reason = "the graph reads what the CPU's kernels give beside their results; capture it for inputs that are on the device";
            return Err(Error::mode(instruction.op.name(), "device", reason).or_at(instruction.site));
        }
        self.results[i] = made;
        for operand in &instruction.operands {
            if let Operand::Result { instruction: from, .. } = *operand
                && self.last[from] == i
            {
                self.results[from].clear();
            }
        }
        Ok(())
    }
}

impl fmt::Display for Operand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Operand::Input(i) => write!(f, "x{i}"),
            Operand::Constant(i) => write!(f, "c{i}"),
            Operand::Result { instruction, output: 0 } => write!(f, "%{instruction}"),
            Operand::Result { instruction, output } => write!(f, "%{instruction}.{output}"),
        }
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, meta) in self.inputs.iter().enumerate() {
            writeln!(f, "x{i}: {} {:?}", meta.shape, meta.dtype)?;
        }
        for (i, constant) in self.constants.iter().enumerate() {
            let known = constant.plain().is_some_and(|plain| plain.is_known());
            let (shape, dtype) = (constant.shape(), constant.dtype());
            match constant.plain().and_then(|plain| plain.literal()) {
                Some(number) => writeln!(f, "c{i}: {shape} {dtype:?} = {number}")?,
                None if known => writeln!(f, "c{i}: {shape} {dtype:?}")?,
                None => writeln!(f, "c{i}: {shape} {dtype:?}, closed over")?,
            }
        }
        for (i, instruction) in self.instructions.iter().enumerate() {
            write!(f, "%{i} = {}", instruction.op.name())?;
            for operand in &instruction.operands {
                write!(f, " {operand}")?;
            }
            for meta in &instruction.outputs {
                write!(f, " : {} {:?}", meta.shape, meta.dtype)?;
            }
            writeln!(f, "  ; {}", instruction.site)?;
        }
        write!(f, "return")?;
        self.outputs.iter().try_for_each(|o| write!(f, " {o}"))
    }
}
