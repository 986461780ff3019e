//! The plan: every value's place, worked out before the first run.
//!
//! Values that are rearrangements of others share their memory. The rest lie in one arena, at
//! offsets that two values share only where one is dead before the other is born; an output of the
//! graph lies in the caller's own buffer. A fused op writes over an input that nobody reads
//! afterwards. What fused ops and epilogues need to work in is part of the arena too.
//!
//! All kinds of steps are planned here side by side, which makes the file long.

use crate::blocked::{Blocked, in_order};
use crate::epilogue::WithEpilogue;
use crate::fused::Fused;
use crate::graph::meta_of;
use autograd_core::kernels::arena::{ALIGNMENT, Region};
use autograd_core::kernels::machine::Prepared;
use autograd_core::kernels::{Kind, Layout, threads};
use autograd_core::smallvec::SmallVec;
use autograd_core::{
    Error, Finishes, Instruction, Mask, Meta, Operand, Prim, Program, Result, Site, kind_of,
};
use std::sync::Arc;

/// Where a value lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In an input's memory.
    Input(usize),
    /// In a constant's memory.
    Constant(usize),
    /// In the memory that instruction `.0` made for its output `.1`.
    Made(usize, usize),
}

/// A value: a place and how its elements lie there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Value {
    pub(crate) place: Place,
    pub(crate) layout: Layout,
}

/// What a step reads.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Read {
    /// The region of this number among the step's.
    Arena(usize),
    /// The external value of this number among the step's.
    External(usize),
    /// An output's buffer.
    Output(usize),
}

/// What a step writes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Write {
    /// The region of this number among those that the step writes.
    Arena(usize),
    /// An output's buffer.
    Output(usize),
}

/// A value from outside of the arena.
#[derive(Clone, Copy, Debug)]
pub(crate) enum External {
    Input(usize),
    Constant(usize),
}

/// What a step computes.
#[derive(Clone, Debug)]
pub(crate) enum Kernel {
    /// An op, by its own kernel.
    Op(Prim),
    /// A fused op: for each input, whether it lies under an output.
    Fused { prepared: Box<Prepared>, over: Vec<Option<usize>>, parts: Vec<&'static str> },
    /// An op of so many of the reads, whose output is made in the memory of output `home`, and an
    /// expression that follows it: the op's output is its input `input`, the other reads are its others.
    Epilogue {
        op: Prim,
        count: usize,
        prepared: Box<Prepared>,
        input: usize,
        home: usize,
        over: Vec<Option<usize>>,
        parts: Vec<&'static str>,
    },
    /// A plan over the rows of a block, run for each block.
    Blocked { plan: SharedPlan, blocks: usize, rows: Mask, parts: Vec<&'static str> },
    /// A copy into row-major order.
    Copy,
}

/// One step of the executor.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub(crate) kernel: Kernel,
    pub(crate) reads: Vec<(Read, Layout)>,
    pub(crate) writes: Vec<Write>,
    /// The external values that it reads.
    pub(crate) externals: Vec<External>,
    /// The regions that it reads and writes; working memory comes last among the written ones.
    pub(crate) read_regions: Vec<Region>,
    pub(crate) write_regions: Vec<Region>,
    pub(crate) site: Site,
    pub(crate) operations: u64,
    /// Bytes that it reads and writes.
    pub(crate) bytes: u64,
}

impl Step {
    /// The plan within a step that runs for blocks of rows.
    pub(crate) fn within(&self) -> Option<&Plan> {
        match &self.kernel {
            Kernel::Blocked { plan, .. } => Some(plan),
            Kernel::Op(_) | Kernel::Fused { .. } | Kernel::Epilogue { .. } | Kernel::Copy => None,
        }
    }
}

/// A program ready to run.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) steps: Vec<Step>,
    pub(crate) inputs: Vec<Meta>,
    pub(crate) outputs: Vec<Meta>,
    /// How large the arena is.
    pub(crate) bytes: usize,
    /// Bytes of all values if each had memory of its own.
    pub(crate) without_reuse: usize,
}

/// Inputs that a fused op reads with steps between neighbours are copied first from so many
/// elements on.
const COPIED_FROM: usize = 4096;

pub(crate) fn as_fused(op: &Prim) -> Option<&Fused> {
    op.as_any()?.downcast_ref()
}

pub(crate) fn as_epilogue(op: &Prim) -> Option<&WithEpilogue> {
    op.as_any()?.downcast_ref()
}

/// An op whose expression may write over what it reads.
pub(crate) struct Overwriting<'a> {
    pub(crate) fused: &'a Fused,
    /// The operands that it may write over begin here.
    pub(crate) from: usize,
    /// The output in which a product is made.
    pub(crate) home: Option<usize>,
}

/// How an instruction's expression may write over what it reads, where it may.
pub(crate) fn overwriting<'a>(program: &Program, instruction: &'a Instruction) -> Option<Overwriting<'a>> {
    if let Some(fused) = as_fused(&instruction.op) {
        return Some(Overwriting { fused, from: 0, home: None });
    }
    let op = as_epilogue(&instruction.op)?;
    let metas: SmallVec<[Meta; 4]> = instruction.operands.iter().map(|o| meta_of(program, *o)).collect();
    let once = op.finishes(&metas) == Some(Finishes::Once);
    once.then_some(Overwriting { fused: &op.fused, from: op.reads, home: Some(op.home) })
}

/// The layout of an instruction's output where it is a rearrangement of an operand's memory.
fn viewed(instruction: &Instruction, layouts: &[Layout]) -> Option<(usize, Layout)> {
    let [output] = instruction.outputs[..] else { return None };
    let refs: SmallVec<[&Layout; 4]> = layouts.iter().collect();
    instruction.op.view(&output, &refs)
}

/// Where every value lies, before places are assigned.
pub(crate) fn values(program: &Program) -> Vec<Vec<Value>> {
    let mut all: Vec<Vec<Value>> = Vec::with_capacity(program.instructions.len());
    for (i, instruction) in program.instructions.iter().enumerate() {
        let operands: Vec<Value> = instruction.operands.iter().map(|o| value_of(program, &all, *o)).collect();
        let layouts: Vec<Layout> = operands.iter().map(|v| v.layout).collect();
        let made = match viewed(instruction, &layouts) {
            Some((input, layout)) => vec![Value { place: operands[input].place, layout }],
            None => instruction
                .outputs
                .iter()
                .enumerate()
                .map(|(j, meta)| Value { place: Place::Made(i, j), layout: Layout::contiguous(meta.shape) })
                .collect(),
        };
        all.push(made);
    }
    all
}

pub(crate) fn value_of(program: &Program, all: &[Vec<Value>], operand: Operand) -> Value {
    match operand {
        // The executor gives inputs in row-major order.
        Operand::Input(i) => {
            Value { place: Place::Input(i), layout: Layout::contiguous(program.inputs[i].shape) }
        }
        Operand::Constant(i) => {
            let constant = &program.constants[i];
            let layout = constant.plain().map_or(Layout::contiguous(*constant.shape()), |p| *p.layout());
            Value { place: Place::Constant(i), layout }
        }
        Operand::Result { instruction, output } => all[instruction][output],
    }
}

/// How the elements of an operand lie.
pub(crate) fn layouts(program: &Program) -> impl Fn(Operand) -> Layout + '_ {
    let all = values(program);
    move |operand| value_of(program, &all, operand).layout
}

/// For each instruction, the one in whose memory its first output lies; `None` for memory from
/// outside.
pub(crate) fn storage_roots(program: &Program) -> Vec<Option<usize>> {
    let root = |made: &Vec<Value>| match made.first()?.place {
        Place::Made(i, _) => Some(i),
        Place::Input(_) | Place::Constant(_) => None,
    };
    values(program).iter().map(root).collect()
}

/// The most bytes that values of the program need at one time: a lower bound of its arena.
pub(crate) fn peak_bytes(program: &Program) -> usize {
    let all = values(program);
    let n = program.instructions.len();
    let last = last_reads(program, &all);
    let mut ends: Vec<usize> = vec![0; n + 2];
    let (mut now, mut peak) = (0, 0);
    for (i, instruction) in program.instructions.iter().enumerate() {
        for (j, meta) in instruction.outputs.iter().enumerate() {
            if all[i][j].place == Place::Made(i, j) {
                now += meta.bytes();
                ends[last[i][j].min(n)] += meta.bytes();
            }
        }
        peak = peak.max(now);
        now -= std::mem::take(&mut ends[i]);
    }
    peak
}

/// For each value that is made, the last instruction that reads its memory; `usize::MAX` for what
/// the program gives out.
pub(crate) fn last_reads(program: &Program, all: &[Vec<Value>]) -> Vec<Vec<usize>> {
    let mut last: Vec<Vec<usize>> =
        program.instructions.iter().enumerate().map(|(i, x)| vec![i; x.outputs.len()]).collect();
    for (i, instruction) in program.instructions.iter().enumerate() {
        for operand in &instruction.operands {
            if let Place::Made(a, b) = value_of(program, all, *operand).place {
                last[a][b] = last[a][b].max(i);
            }
        }
    }
    for output in &program.outputs {
        if let Place::Made(a, b) = value_of(program, all, *output).place {
            last[a][b] = usize::MAX;
        }
    }
    last
}

/// Memory that is needed from one step to another.
struct Block {
    kind: Kind,
    len: usize,
    from: usize,
    to: usize,
    offset: usize,
}

impl Block {
    fn bytes(&self) -> usize {
        (self.len * self.kind.size()).next_multiple_of(ALIGNMENT)
    }

    fn region(&self) -> Region {
        Region { offset: self.offset, kind: self.kind, len: self.len }
    }
}

/// Builds a plan.
struct Planner<'a> {
    program: &'a Program,
    all: Vec<Vec<Value>>,
    last: Vec<Vec<usize>>,
    blocks: Vec<Block>,
    /// The block of each made value, or the output in whose buffer it lies.
    homes: Vec<Vec<Option<Home>>>,
    drafts: Vec<Draft>,
}

#[derive(Clone, Copy)]
enum Home {
    Block(usize),
    Output(usize),
}

/// A step whose offsets are not known yet.
struct Draft {
    kernel: Kernel,
    reads: Vec<(Home2, Layout)>,
    writes: Vec<Home>,
    scratch: Vec<usize>,
    site: Site,
    operations: u64,
    bytes: u64,
}

#[derive(Clone, Copy)]
enum Home2 {
    Home(Home),
    External(External),
}

impl Plan {
    /// Plans a program; with `in_place`, fused ops write over inputs that die there.
    ///
    /// # Errors
    /// [`Error::UnsupportedMode`] for a closed-over value that a transform watches; a type without
    /// kernels.
    pub(crate) fn new(program: &Program, in_place: bool) -> Result<Self> {
        for constant in &program.constants {
            if constant.plain().is_none() {
                let reason = "a closed-over value is watched by a transform; pass it as an input";
                return Err(Error::mode("compile", "static graph", reason));
            }
        }
        let all = values(program);
        let last = last_reads(program, &all);
        let homes = program.instructions.iter().map(|i| vec![None; i.outputs.len()]).collect();
        let mut planner = Planner { program, all, last, blocks: Vec::new(), homes, drafts: Vec::new() };
        planner.give_outputs_their_buffers();
        for i in 0..program.instructions.len() {
            planner.step(i, in_place)?;
        }
        planner.copy_outputs();
        let bytes = place(&mut planner.blocks);
        let without_reuse = planner.blocks.iter().map(Block::bytes).sum();
        let steps = planner.drafts.iter().map(|draft| finished(draft, &planner.blocks)).collect();
        let outputs = program.outputs.iter().map(|o| meta_of(program, *o)).collect();
        Ok(Self { steps, inputs: program.inputs.clone(), outputs, bytes, without_reuse })
    }
}

impl Planner<'_> {
    /// A value that is an output of the graph, whole and in order, lies in the caller's buffer.
    fn give_outputs_their_buffers(&mut self) {
        for (k, output) in self.program.outputs.iter().enumerate() {
            let value = value_of(self.program, &self.all, *output);
            let Place::Made(i, j) = value.place else { continue };
            let made = self.program.instructions[i].outputs[j].elements();
            let whole = value.layout == Layout::contiguous(*value.layout.shape());
            if whole && value.layout.elements() == made && self.homes[i][j].is_none() {
                self.homes[i][j] = Some(Home::Output(k));
            }
        }
    }

    fn home(&self, place: Place) -> Home2 {
        match place {
            Place::Input(i) => Home2::External(External::Input(i)),
            Place::Constant(i) => Home2::External(External::Constant(i)),
            // Every value has a home from the step that makes it on.
            Place::Made(i, j) => Home2::Home(self.homes[i][j].expect("it was made by an earlier step")),
        }
    }

    fn block(&mut self, kind: Kind, len: usize, from: usize, to: usize) -> usize {
        self.blocks.push(Block { kind, len, from, to, offset: 0 });
        self.blocks.len() - 1
    }

    fn step(&mut self, i: usize, in_place: bool) -> Result<()> {
        let program = self.program;
        let instruction = &program.instructions[i];
        if self.all[i].first().is_some_and(|v| !matches!(v.place, Place::Made(a, _) if a == i)) {
            return Ok(());
        }
        let operands: Vec<Value> =
            instruction.operands.iter().map(|o| value_of(program, &self.all, *o)).collect();
        let metas: Vec<Meta> = instruction.operands.iter().map(|o| meta_of(program, *o)).collect();
        let mut reads: Vec<(Home2, Layout)> =
            operands.iter().map(|v| (self.home(v.place), v.layout)).collect();
        let mut scratch = Vec::new();
        let kernel = match as_fused(&instruction.op) {
            Some(fused) => self.fused(i, fused, &operands, &metas, &mut reads, &mut scratch, in_place)?,
            None => match (
                instruction.op.as_any().and_then(|op| op.downcast_ref::<Blocked>()),
                as_epilogue(&instruction.op),
            ) {
                (Some(blocked), _) => self.blocked(i, blocked, &metas, &mut reads, &mut scratch, in_place)?,
                (None, Some(op)) => {
                    self.epilogue(i, op, &operands, &metas, &mut reads, &mut scratch, in_place)?
                }
                (None, None) => Kernel::Op(instruction.op.clone()),
            },
        };
        let now = self.drafts.len();
        for (j, meta) in instruction.outputs.iter().enumerate() {
            if self.homes[i][j].is_none() {
                let kind = kind_of(meta.dtype).ok_or_else(|| {
                    Error::dtype(
                        instruction.op.name(),
                        meta.dtype,
                        "f64, f32, bf16, f16, u8, u32 and i64 are",
                    )
                    .or_at(instruction.site)
                })?;
                let block = self.block(kind, meta.elements(), now, now);
                self.homes[i][j] = Some(Home::Block(block));
            }
        }
        let writes: Vec<Home> = self.homes[i].iter().flatten().copied().collect();
        let bytes = metas.iter().chain(&instruction.outputs).map(|m| m.bytes() as u64).sum();
        self.push(Draft {
            kernel,
            reads,
            writes,
            scratch,
            site: instruction.site,
            operations: instruction.op.operations(&metas),
            bytes,
        });
        Ok(())
    }

    /// Appends a step: what it touches lives until then.
    fn push(&mut self, draft: Draft) {
        let now = self.drafts.len();
        let read = draft.reads.iter().filter_map(|(home, _)| match home {
            Home2::Home(home) => Some(*home),
            Home2::External(_) => None,
        });
        for home in read.chain(draft.writes.iter().copied()) {
            if let Home::Block(block) = home {
                self.blocks[block].to = now;
            }
        }
        self.drafts.push(draft);
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one step")]
    fn fused(
        &mut self,
        i: usize,
        fused: &Fused,
        operands: &[Value],
        metas: &[Meta],
        reads: &mut [(Home2, Layout)],
        scratch: &mut Vec<usize>,
        in_place: bool,
    ) -> Result<Kernel> {
        let kinds = self.readable(i, metas, reads, 0)?;
        let over = self.overwritten(i, in_place, operands, &kinds, reads);
        let layouts: Vec<(Kind, Layout)> =
            kinds.iter().zip(reads.iter()).map(|(k, (_, l))| (*k, *l)).collect();
        let prepared = fused.prepare(&layouts)?;
        let now = self.drafts.len();
        let (kind, len) = prepared.tiles();
        scratch.push(self.block(kind, len, now, now));
        scratch.push(self.block(Kind::F64, prepared.sums(), now, now));
        Ok(Kernel::Fused { prepared: Box::new(prepared), over, parts: fused.parts.clone() })
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one step")]
    fn epilogue(
        &mut self,
        i: usize,
        op: &WithEpilogue,
        operands: &[Value],
        metas: &[Meta],
        reads: &mut [(Home2, Layout)],
        scratch: &mut Vec<usize>,
        in_place: bool,
    ) -> Result<Kernel> {
        let kinds = self.readable(i, metas, reads, op.reads)?;
        let over = self.overwritten(i, in_place, operands, &kinds, reads);
        let others: Vec<(Kind, Layout)> =
            kinds.iter().zip(reads.iter()).skip(op.reads).map(|(k, (_, l))| (*k, *l)).collect();
        let prepared = Box::new(op.prepare(&others)?);
        let now = self.drafts.len();
        let (kind, len) = prepared.epilogue_tiles();
        scratch.push(self.block(kind, len, now, now));
        let (count, input, home) = (op.reads, op.input, op.home);
        Ok(Kernel::Epilogue { op: op.op.clone(), count, prepared, input, home, over, parts: op.parts() })
    }

    /// The types of what an expression reads, from operand `from` on; large inputs whose neighbours lie
    /// apart are brought into order first.
    fn readable(
        &mut self,
        i: usize,
        metas: &[Meta],
        reads: &mut [(Home2, Layout)],
        from: usize,
    ) -> Result<Vec<Kind>> {
        let kinds: Vec<Kind> = metas.iter().filter_map(|m| kind_of(m.dtype)).collect();
        if kinds.len() != metas.len() {
            let name = self.program.instructions[i].op.name();
            return Err(Error::dtype(name, metas[0].dtype, "f64, f32, bf16, f16, u8, u32 and i64 are"));
        }
        for (k, read) in reads.iter_mut().enumerate().skip(from) {
            let layout = read.1;
            let apart = layout.strides().last().is_some_and(|&s| s > 1) && !layout.strides().contains(&0);
            if apart && layout.elements() >= COPIED_FROM {
                self.bring_into_order(i, &metas[k], kinds[k], read);
            }
        }
        Ok(kinds)
    }

    /// A copy of an operand of instruction `i` in row-major order, to be read in its place.
    fn bring_into_order(&mut self, i: usize, meta: &Meta, kind: Kind, read: &mut (Home2, Layout)) {
        let now = self.drafts.len();
        let block = self.block(kind, meta.elements(), now, now);
        self.push(Draft {
            kernel: Kernel::Copy,
            reads: vec![*read],
            writes: vec![Home::Block(block)],
            scratch: Vec::new(),
            site: self.program.instructions[i].site,
            operations: 0,
            bytes: 2 * meta.bytes() as u64,
        });
        *read = (Home2::Home(Home::Block(block)), Layout::contiguous(meta.shape));
    }

    fn blocked(
        &mut self,
        i: usize,
        blocked: &Blocked,
        metas: &[Meta],
        reads: &mut [(Home2, Layout)],
        scratch: &mut Vec<usize>,
        in_place: bool,
    ) -> Result<Kernel> {
        for (meta, read) in metas.iter().zip(reads.iter_mut()).filter(|(_, read)| !in_order(&read.1)) {
            let kind =
                kind_of(meta.dtype).ok_or_else(|| Error::internal("rows", "a type without kernels"))?;
            self.bring_into_order(i, meta, kind, read);
        }
        let plan = Arc::new(Plan::new(&blocked.part, in_place)?);
        let workers = threads::threads().clamp(1, blocked.blocks);
        let now = self.drafts.len();
        scratch.push(self.block(Kind::U8, workers * plan.bytes, now, now));
        Ok(Kernel::Blocked { plan, blocks: blocked.blocks, rows: blocked.rows, parts: blocked.parts() })
    }

    /// Which inputs lie under an output: those that die here, whole and of the output's type.
    fn overwritten(
        &mut self,
        i: usize,
        in_place: bool,
        operands: &[Value],
        kinds: &[Kind],
        reads: &[(Home2, Layout)],
    ) -> Vec<Option<usize>> {
        let mut over = vec![None; reads.len()];
        let found = overwriting(self.program, &self.program.instructions[i]).filter(|_| in_place);
        let Some(Overwriting { fused, from, home }) = found else { return over };
        let float = kind_of(fused.dtype);
        let compute = if kinds.contains(&Kind::F64) { Kind::F64 } else { Kind::F32 };
        for (j, out) in fused.outputs.iter().enumerate().filter(|(j, _)| Some(*j) != home) {
            let fits = out.kept == fused.shape && !out.mask && float == Some(compute);
            if !fits || self.homes[i][j].is_some() {
                continue;
            }
            let found = (from..reads.len()).find(|&k| {
                let Place::Made(a, b) = operands[k].place else { return false };
                let Home2::Home(Home::Block(block)) = reads[k].0 else { return false };
                let same = |other: &Value| other.place == operands[k].place;
                over[k].is_none()
                    && self.last[a][b] == i
                    && reads[k].1 == Layout::contiguous(fused.shape)
                    && kinds[k] == compute
                    && self.blocks[block].len == fused.shape.elements()
                    && operands.iter().filter(|o| same(o)).count() == 1
                    && matches!(self.homes[a][b], Some(Home::Block(home)) if home == block)
            });
            if let (Some(k), Some((Home2::Home(home), _))) = (found, found.map(|k| reads[k])) {
                over[k] = Some(j);
                self.homes[i][j] = Some(home);
            }
        }
        over
    }

    /// Outputs that lie elsewhere are copied into the caller's buffers at the end.
    fn copy_outputs(&mut self) {
        for (k, output) in self.program.outputs.iter().enumerate() {
            let value = value_of(self.program, &self.all, *output);
            let own = match value.place {
                Place::Made(i, j) => matches!(self.homes[i][j], Some(Home::Output(to)) if to == k),
                Place::Input(_) | Place::Constant(_) => false,
            };
            if !own {
                let bytes = 2 * meta_of(self.program, *output).bytes() as u64;
                let site = self.program.instructions.last().map_or_else(Site::caller, |i| i.site);
                let draft = Draft {
                    kernel: Kernel::Copy,
                    reads: vec![(self.home(value.place), value.layout)],
                    writes: vec![Home::Output(k)],
                    scratch: Vec::new(),
                    site,
                    operations: 0,
                    bytes,
                };
                self.push(draft);
            }
        }
    }
}

/// Gives every block an offset: the largest first, each at the lowest place that is free while it
/// lives. Returns the size of the arena.
fn place(blocks: &mut [Block]) -> usize {
    let mut order: Vec<usize> = (0..blocks.len()).filter(|&b| blocks[b].len > 0).collect();
    order.sort_by_key(|&b| (std::cmp::Reverse(blocks[b].bytes()), blocks[b].from));
    let mut placed: Vec<usize> = Vec::new();
    let mut size = 0;
    for b in order {
        let block = &blocks[b];
        let mut taken: Vec<(usize, usize)> = placed
            .iter()
            .map(|&p| &blocks[p])
            .filter(|other| other.from <= block.to && block.from <= other.to)
            .map(|other| (other.offset, other.offset + other.bytes()))
            .collect();
        taken.sort_unstable();
        let mut offset = 0;
        for (start, end) in taken {
            if start >= offset + block.bytes() {
                break;
            }
            offset = offset.max(end);
        }
        size = size.max(offset + blocks[b].bytes());
        blocks[b].offset = offset;
        placed.push(b);
    }
    size
}

fn finished(draft: &Draft, blocks: &[Block]) -> Step {
    let mut step = Step {
        kernel: draft.kernel.clone(),
        reads: Vec::new(),
        writes: Vec::new(),
        externals: Vec::new(),
        read_regions: Vec::new(),
        write_regions: Vec::new(),
        site: draft.site,
        operations: draft.operations,
        bytes: draft.bytes,
    };
    let over = match &draft.kernel {
        Kernel::Fused { over, .. } | Kernel::Epilogue { over, .. } => over.clone(),
        Kernel::Op(_) | Kernel::Blocked { .. } | Kernel::Copy => vec![None; draft.reads.len()],
    };
    for ((home, layout), over) in draft.reads.iter().zip(over) {
        let read = match *home {
            Home2::External(external) => {
                step.externals.push(external);
                Read::External(step.externals.len() - 1)
            }
            Home2::Home(Home::Output(k)) => Read::Output(k),
            Home2::Home(Home::Block(b)) => {
                // What lies under an output is read through it.
                if over.is_none() {
                    step.read_regions.push(blocks[b].region());
                }
                Read::Arena(step.read_regions.len().saturating_sub(1))
            }
        };
        step.reads.push((read, *layout));
    }
    for home in &draft.writes {
        step.writes.push(match *home {
            Home::Output(k) => Write::Output(k),
            Home::Block(b) => {
                step.write_regions.push(blocks[b].region());
                Write::Arena(step.write_regions.len() - 1)
            }
        });
    }
    step.write_regions.extend(draft.scratch.iter().map(|&b| blocks[b].region()));
    step
}

/// A plan shared by its executors.
pub(crate) type SharedPlan = Arc<Plan>;
