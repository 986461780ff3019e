//! How much of the arena a program uses at each instruction: the plan without its offsets.
//!
//! It follows the plan closely enough to steer a search and costs a fraction of it; what an arena
//! really takes (gaps, working memory, copies into order) the plan alone knows.

use crate::plan::{Overwriting, Place, Value, last_reads, overwriting, value_of, values};
use autograd_core::kernels::Layout;
use autograd_core::kernels::arena::ALIGNMENT;
use autograd_core::{Operand, Program};

/// What lives when.
pub(crate) struct Usage {
    /// Bytes in use while each instruction runs.
    pub(crate) live: Vec<usize>,
    /// Where every value lies.
    values: Vec<Vec<Value>>,
    /// The last instruction that reads the memory of each made value; `usize::MAX` for what the
    /// program gives out.
    pub(crate) last: Vec<Vec<usize>>,
    /// The arena's bytes of each made value: none for rearrangements and for outputs that lie in
    /// the caller's buffers.
    pub(crate) bytes: Vec<Vec<usize>>,
}

impl Usage {
    pub(crate) fn of(program: &Program, in_place: bool) -> Self {
        let values = values(program);
        let last = last_reads(program, &values);
        let mut usage = Self { live: Vec::new(), bytes: bytes(program, &values), values, last };
        usage.live = usage.profile(program, in_place);
        usage
    }

    /// The made value in whose memory an operand lies.
    pub(crate) fn home(&self, operand: Operand) -> Option<(usize, usize)> {
        let Operand::Result { instruction, output } = operand else { return None };
        match self.values[instruction][output].place {
            Place::Made(i, j) => Some((i, j)),
            Place::Input(_) | Place::Constant(_) => None,
        }
    }

    /// Whether an instruction rearranges memory and makes none.
    pub(crate) fn is_view(&self, i: usize) -> bool {
        self.values[i].first().is_some_and(|v| !matches!(v.place, Place::Made(a, _) if a == i))
    }

    /// The peak, and where it is.
    pub(crate) fn peak(&self) -> (usize, usize) {
        let peak = self.live.iter().copied().enumerate().max_by_key(|&(i, bytes)| (bytes, i));
        peak.map_or((0, 0), |(at, bytes)| (bytes, at))
    }

    fn profile(&self, program: &Program, in_place: bool) -> Vec<usize> {
        let n = program.instructions.len();
        let mut live = Vec::with_capacity(n);
        let mut ends: Vec<usize> = vec![0; n];
        let mut now = 0;
        for i in 0..n {
            if in_place {
                for (a, b) in self.overwritten(program, i) {
                    let bytes = self.bytes[a][b];
                    ends[i] -= bytes;
                    now -= bytes;
                }
            }
            for (bytes, last) in self.bytes[i].iter().zip(&self.last[i]) {
                now += bytes;
                if let Some(end) = ends.get_mut(*last) {
                    *end += bytes;
                }
            }
            live.push(now);
            now -= ends[i];
        }
        live
    }

    /// The values that a fused op or an epilogue writes over.
    fn overwritten(&self, program: &Program, i: usize) -> Vec<(usize, usize)> {
        let instruction = &program.instructions[i];
        let Some(Overwriting { fused, from, home }) = overwriting(program, instruction) else {
            return Vec::new();
        };
        let whole = Layout::contiguous(fused.shape);
        let mut found: Vec<(usize, usize)> = Vec::new();
        for (j, out) in fused.outputs.iter().enumerate() {
            if Some(j) == home || out.kept != fused.shape || out.mask || self.bytes[i][j] == 0 {
                continue;
            }
            let dies = |operand: &Operand| {
                let (a, b) = self.home(*operand)?;
                let same = |o: &&Operand| self.home(**o) == Some((a, b));
                let fits = self.last[a][b] == i
                    && !found.contains(&(a, b))
                    && self.bytes[a][b] == self.bytes[i][j]
                    && program.instructions[a].outputs[b].dtype == instruction.outputs[j].dtype
                    && value_of(program, &self.values, *operand).layout == whole
                    && instruction.operands.iter().filter(same).count() == 1;
                fits.then_some((a, b))
            };
            let over = instruction.operands.iter().skip(from).find_map(dies);
            found.extend(over);
        }
        found
    }
}

/// The arena's bytes of each output of each instruction.
fn bytes(program: &Program, values: &[Vec<Value>]) -> Vec<Vec<usize>> {
    let made = |i: usize, j: usize| values[i][j].place == Place::Made(i, j);
    let mut bytes: Vec<Vec<usize>> = program
        .instructions
        .iter()
        .enumerate()
        .map(|(i, instruction)| {
            let of = |(j, meta): (usize, &autograd_core::Meta)| {
                if made(i, j) { meta.bytes().next_multiple_of(ALIGNMENT) } else { 0 }
            };
            instruction.outputs.iter().enumerate().map(of).collect()
        })
        .collect();
    for output in &program.outputs {
        let value = value_of(program, values, *output);
        if let Place::Made(i, j) = value.place
            && value.layout == Layout::contiguous(program.instructions[i].outputs[j].shape)
        {
            bytes[i][j] = 0;
        }
    }
    bytes
}
