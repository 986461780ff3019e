//! From a program to launches over one piece of memory: what a captured step is on a device.
//!
//! A [`Sequence`] is data, like a [`Plan`](crate::Plan): the launches of a whole program, with the
//! place of everything that they touch. The launcher replays it as a CUDA graph, and the emulation
//! that the tests run executes the same launches over the same offsets.

mod copy;
mod empty;
mod expression;
mod product;

use crate::plan::plan_within;
use crate::{Argument, Fault, Plan, Words};
use autograd_core::device::{Declined, Home, Laid, LaidValue, Tried};
use autograd_core::{DType, DeviceLocation, Error, Layout, Meta, Primitive, Result, Signature, Site};
pub use expression::Expression;
#[cfg(feature = "cuda")]
pub(crate) use expression::geometry;
#[cfg(feature = "cuda")]
pub(crate) use product::rows_with_bias;
pub use product::{Factor, Onto, Product};

/// The launches of a program.
#[derive(Clone, Debug, Default)]
pub struct Sequence {
    /// The launches, in their order.
    pub launches: Vec<Launch>,
    /// What kernels are generated from.
    pub expressions: Vec<Expression>,
    /// The size of the arena that the program's values share.
    pub arena: usize,
    /// The size of what kernels need beside values while they run.
    pub rooms: usize,
    /// The size of what holds reports of indices out of range: zeros at the beginning of every run.
    pub reports: usize,
    /// What the reports are about.
    pub faults: Vec<Report>,
}

/// Where a kernel reports an index that is out of its range.
#[derive(Clone, Copy, Debug)]
pub struct Report {
    /// The op.
    pub op: &'static str,
    /// What the index is called.
    pub fault: Fault,
    /// Where its three numbers lie among the reports.
    pub at: usize,
    /// The user's line.
    pub site: Site,
}

impl Report {
    /// The error for what has been reported.
    ///
    /// # Errors
    /// An index out of its range.
    pub fn judge(&self, reports: &[u64]) -> Result<()> {
        let numbers = reports.get(self.at / 8..).and_then(|words| words.first_chunk::<3>());
        let numbers = numbers.ok_or_else(|| Error::internal(self.op, "no report where one is expected"))?;
        self.fault.judge(self.op, *numbers).map_err(|error| error.or_at(self.site))
    }
}

/// One launch, or what takes its place.
#[derive(Clone, Debug)]
pub enum Launch {
    /// A kernel.
    Kernel(Call),
    /// A product of matrices, by the device's library.
    Product(Product),
    /// Zeros.
    Zero {
        /// From where on.
        to: Spot,
        /// How many bytes.
        bytes: usize,
    },
}

/// The launch of a kernel.
#[derive(Clone, Debug)]
pub struct Call {
    /// What the kernel is a part of.
    pub code: Code,
    /// The kernel.
    pub entry: String,
    /// Blocks along x and y.
    pub grid: [u32; 2],
    /// Threads of a block.
    pub threads: u32,
    /// What the kernel takes, in its order.
    pub arguments: Vec<Passed>,
}

/// Where a kernel's code is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// In the hand-made [source](crate::sources) of this name.
    File(&'static str),
    /// Generated from the expression of this number.
    Generated(usize),
}

/// An argument of a kernel.
#[derive(Clone, Debug, PartialEq)]
pub enum Passed {
    /// An address.
    Address(Spot),
    /// No address.
    Null,
    /// A number, or a structure.
    Value(Words),
}

/// A piece of memory that a sequence runs in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Memory {
    /// What the program knows.
    Of(Home),
    /// Beside the values.
    Rooms,
    /// What holds the reports.
    Reports,
}

/// A place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spot {
    /// In which piece of memory.
    pub memory: Memory,
    /// How many bytes behind its beginning.
    pub at: usize,
}

/// Where rooms begin.
const ROOM: usize = 256;

/// Where kernels read packs.
const ALIGNED: usize = 16;

/// Threads of a block that walks a buffer, and the most blocks.
const BLOCK: usize = 256;
const MOST_BLOCKS: usize = 4096;

fn blocks(n: usize) -> [u32; 2] {
    [n.div_ceil(BLOCK).clamp(1, MOST_BLOCKS) as u32, 1]
}

/// The kernels of [`KernelCall`](autograd_core::device::KernelCall) that are made of others here.
pub const COMPOSED: [&str; 5] = ["matmul", "linear", "cast", "cat", "embed"];

/// The sequence of a program.
///
/// # Errors
/// [`Declined::Op`] for an op without launches.
pub fn sequence(program: &Laid) -> Tried<Sequence> {
    let mut draft = Draft::default();
    draft.made.arena = program.bytes;
    for step in &program.steps {
        let [reads, writes] =
            [&step.reads, &step.writes].map(|values| values.iter().map(Placed::of).collect::<Vec<_>>());
        draft.used = 0;
        draft.site = Some(step.site);
        let launched = match (&step.op, &reads[..], &writes[..]) {
            (Some(op), ..) => draft.op(&**op, &reads, &writes),
            (None, [x], [y]) => draft.copy(x, y),
            (None, ..) => None,
        };
        let op = step.op.as_ref().map_or("copy", |op| op.name());
        launched.ok_or(Declined::Op { op, site: step.site })?;
        draft.made.rooms = draft.made.rooms.max(draft.used);
    }
    Ok(draft.made)
}

/// Whether a sequence can have this application of an op.
pub fn takes(op: &dyn Primitive, inputs: &[Meta], signature: &Signature) -> bool {
    let somewhere = Spot { memory: Memory::Of(Home::Arena), at: 0 };
    let value = |meta: &Meta| Placed::new(somewhere, meta);
    let reads: Vec<Placed> = inputs.iter().map(value).collect();
    let writes: Vec<Placed> = signature.outputs.iter().map(value).collect();
    Draft::default().op(op, &reads, &writes).is_some()
}

/// A value in its place.
#[derive(Clone, Copy)]
struct Placed {
    /// Where its layout begins.
    spot: Spot,
    layout: Layout,
    dtype: DType,
}

impl Placed {
    /// In row-major order.
    fn new(spot: Spot, meta: &Meta) -> Self {
        Self { spot, layout: Layout::contiguous(meta.shape), dtype: meta.dtype }
    }

    fn of(value: &LaidValue) -> Self {
        let spot = Spot { memory: Memory::Of(value.home), at: value.at };
        Self { spot, layout: value.layout, dtype: value.dtype }
    }

    fn meta(&self) -> Meta {
        Meta { shape: *self.layout.shape(), dtype: self.dtype, device: DeviceLocation::Cpu }
    }

    fn is_empty(&self) -> bool {
        self.layout.elements() == 0
    }

    /// The place of its first element.
    fn first(&self) -> Spot {
        Spot { at: self.spot.at + self.layout.offset() * self.dtype.size_in_bytes(), ..self.spot }
    }
}

/// A sequence in the making.
#[derive(Default)]
struct Draft {
    made: Sequence,
    /// How much of the rooms this step needs so far.
    used: usize,
    site: Option<Site>,
}

impl Draft {
    fn op(&mut self, op: &dyn Primitive, reads: &[Placed], writes: &[Placed]) -> Option<()> {
        let call = op.kernel();
        if !writes.is_empty() && writes.iter().all(Placed::is_empty) {
            return self.nothing(op, call.as_ref(), reads);
        }
        let parts = call.as_ref().is_some_and(|call| matches!(call.kernel, "cat" | "embed"));
        if !parts && reads.iter().chain(writes).any(Placed::is_empty) {
            return self.of_nothing(op, call.as_ref(), reads, writes);
        }
        if let Some(pointwise) = op.as_pointwise() {
            return self.expression(pointwise.expr().program(), pointwise.params(), reads, writes);
        }
        let numbers = call.as_ref().map(|call| &call.integers[..]);
        match (call.as_ref().map(|call| call.kernel), numbers, reads, writes) {
            (Some("matmul"), _, [a, b], [y]) => self.product(a, b, y, Onto::Nothing),
            (Some("linear"), _, [x, weight, bias], [y]) => self.linear(x, weight, bias, y),
            (Some("cast"), _, [x], [y]) => self.cast(x, y),
            (Some("cat"), Some(&[dim]), _, [y]) => self.cat(dim as usize, reads, y),
            (Some("embed"), Some(&[dim, start]), [x], [y]) => {
                self.made.launches.push(Launch::Zero { to: y.spot, bytes: y.meta().bytes() });
                self.copy_into(x, y, dim as usize, start as usize)
            }
            _ => self.planned(op, reads, writes),
        }
    }

    /// By a plan of the op's own, or a copy.
    fn planned(&mut self, op: &dyn Primitive, reads: &[Placed], writes: &[Placed]) -> Option<()> {
        let metas: Vec<Meta> = reads.iter().map(Placed::meta).collect();
        let signature = op.infer(&metas).ok()?;
        let hints = writes.len() > signature.outputs.len();
        let Some(plan) = plan_within(op, &metas, &signature, hints) else {
            return self.rearranged(op, reads, writes);
        };
        let mut inputs = Vec::with_capacity(reads.len());
        for (i, x) in reads.iter().enumerate() {
            let x = match plan.converted.get(i).copied().flatten() {
                Some(DType::I64) if x.dtype != DType::I64 => self.indices(x)?,
                Some(dtype) if dtype != x.dtype => return None,
                _ => *x,
            };
            let ready = x.layout.is_contiguous() && x.first().at.is_multiple_of(ALIGNED);
            inputs.push(if ready { x.first() } else { self.in_order(&x)?.spot });
        }
        let rooms = self.rooms(op.name(), &plan);
        for step in &plan.steps {
            let passed = |argument: &Argument| match argument {
                Argument::Input(i) => Passed::Address(inputs[*i]),
                Argument::Output(i) => Passed::Address(writes[*i].spot),
                Argument::Room(i) => Passed::Address(rooms[*i]),
                Argument::Null => Passed::Null,
                Argument::Value(words) => Passed::Value(words.clone()),
            };
            self.made.launches.push(Launch::Kernel(Call {
                code: Code::File(step.source),
                entry: step.entry.clone(),
                grid: step.grid,
                threads: step.threads,
                arguments: step.arguments.iter().map(passed).collect(),
            }));
        }
        Some(())
    }

    /// The rooms of a plan; what reports faults is read when the sequence has run.
    fn rooms(&mut self, op: &'static str, plan: &Plan) -> Vec<Spot> {
        let mut rooms = Vec::with_capacity(plan.rooms.len());
        for (i, room) in plan.rooms.iter().enumerate() {
            rooms.push(match plan.fault {
                Some(fault) if fault.room == i => {
                    let at = self.made.reports;
                    self.made.reports += room.bytes;
                    let site = self.site.unwrap_or_else(Site::caller);
                    self.made.faults.push(Report { op, fault, at, site });
                    Spot { memory: Memory::Reports, at }
                }
                _ => {
                    let to = self.room(room.bytes);
                    if room.zeroed {
                        self.made.launches.push(Launch::Zero { to, bytes: room.bytes });
                    }
                    to
                }
            });
        }
        rooms
    }

    /// An op that is a view of what is in row-major order, and was not of what it reads.
    fn rearranged(&mut self, op: &dyn Primitive, reads: &[Placed], writes: &[Placed]) -> Option<()> {
        let [to] = writes else { return None };
        let layouts: Vec<Layout> = reads.iter().map(|x| Layout::contiguous(*x.layout.shape())).collect();
        let (input, layout) = op.view(&to.meta(), &layouts.iter().collect::<Vec<_>>())?;
        let ordered = self.in_order(&reads[input])?;
        self.copy(&Placed { layout, ..ordered }, to)
    }

    /// Memory for this step.
    fn room(&mut self, bytes: usize) -> Spot {
        let at = self.used;
        self.used += bytes.next_multiple_of(ROOM);
        Spot { memory: Memory::Rooms, at }
    }
}
