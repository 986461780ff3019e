//! From an op to launches: which kernels, on how many blocks, with which arguments.
//!
//! A [`Plan`] is data, made from the op and the shapes alone. The launcher and the emulation that the
//! tests run execute the same plans, so what is launched on a device is what was compared with the
//! CPU. Only the addresses of buffers are put in by whoever executes it.

mod along;
mod attention;
mod gather;
mod index;
mod norm;
mod order;
pub(crate) mod place;
mod random;
mod reduce;
mod rows;
mod window;

use autograd_core::device::KernelCall;
use autograd_core::smallvec::SmallVec;
use autograd_core::{DType, Error, Meta, Primitive, Result, Signature, Tensor};

/// The 64-bit words of an argument: a number, an address, or a structure passed by value.
pub type Words = SmallVec<[u64; 12]>;

/// What takes the place of an op: launches in their order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// The type that each input is converted to first, where the kernels want another. Inputs are
    /// read as contiguous buffers that begin at multiples of 16 bytes.
    pub converted: SmallVec<[Option<DType>; 4]>,
    /// Buffers beside inputs and outputs.
    pub rooms: Vec<Room>,
    /// The launches.
    pub steps: Vec<Step>,
    /// The room of three numbers in which kernels report an index that is out of its range.
    pub fault: Option<Fault>,
    /// Whether auxiliary outputs are written behind the others.
    pub hints: bool,
}

/// A buffer for the time of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Its size.
    pub bytes: usize,
    /// Whether it must hold zeros at first.
    pub zeroed: bool,
}

/// One launch.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// The [source](crate::sources) that holds the kernel.
    pub source: &'static str,
    /// The kernel.
    pub entry: String,
    /// Blocks along x and y.
    pub grid: [u32; 2],
    /// Threads of a block.
    pub threads: u32,
    /// What the kernel takes, in its order.
    pub arguments: Vec<Argument>,
}

/// An argument of a kernel.
#[derive(Clone, Debug, PartialEq)]
pub enum Argument {
    /// The address of an input.
    Input(usize),
    /// The address of an output, auxiliary ones counted behind the others.
    Output(usize),
    /// The address of a room.
    Room(usize),
    /// No address.
    Null,
    /// A number, or a structure.
    Value(Words),
}

/// What an index out of its range is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The room it is reported in.
    pub room: usize,
    /// How many there are to choose from.
    pub bound: usize,
    /// Whether it is the class that a row belongs to.
    pub class: bool,
    /// The op that the error names, where it is not the one that is applied.
    pub named: Option<&'static str>,
}

impl Fault {
    /// The error for what kernels have reported.
    ///
    /// # Errors
    /// An index out of its range.
    pub fn judge(&self, op: &'static str, [met, index, position]: [u64; 3]) -> Result<()> {
        let (index, bound, op) = (index as i64, self.bound, self.named.unwrap_or(op));
        match (met, self.class) {
            (0, _) => Ok(()),
            (_, true) => Err(Error::argument(
                op,
                format!("target {index} of row {position} is not one of {bound} classes"),
            )),
            (_, false) => {
                Err(Error::argument(op, format!("index {index} (number {position}) is not in 0 .. {bound}")))
            }
        }
    }
}

impl Plan {
    /// The inputs as the kernels read them.
    ///
    /// # Errors
    /// The device's: no memory.
    pub fn prepare(&self, inputs: &[Tensor]) -> Result<SmallVec<[Tensor; 4]>> {
        let prepared = |(i, x): (usize, &Tensor)| {
            let x = match self.converted.get(i).copied().flatten() {
                Some(dtype) => x.to_dtype(dtype)?,
                None => x.clone(),
            };
            let x = x.contiguous()?;
            let start = x.layout().start_offset() * x.dtype().size_in_bytes();
            Ok(if start.is_multiple_of(ALIGNED) { x } else { x.force_contiguous()? })
        };
        inputs.iter().enumerate().map(prepared).collect()
    }

    /// The words of a step's arguments for buffers at these addresses, in the order of the kernel.
    pub fn words(step: &Step, inputs: &[u64], outputs: &[u64], rooms: &[u64]) -> Vec<Words> {
        let word = |address: u64| Words::from_slice(&[address]);
        let of = |argument: &Argument| match argument {
            Argument::Input(i) => word(inputs[*i]),
            Argument::Output(i) => word(outputs[*i]),
            Argument::Room(i) => word(rooms[*i]),
            Argument::Null => word(0),
            Argument::Value(words) => words.clone(),
        };
        step.arguments.iter().map(of).collect()
    }
}

/// The plan for an op on inputs like these; `None` where there are no kernels for this application.
/// `hints` asks for the auxiliary outputs.
pub fn plan(op: &dyn Primitive, inputs: &[Meta], signature: &Signature, hints: bool) -> Option<Plan> {
    made(op, Draft { inputs, signature, whole: false, named: None, plan: Plan { hints, ..Plan::default() } })
}

/// The plan for an op within a sequence, where candle's kernels are no alternative.
pub(crate) fn plan_within(
    op: &dyn Primitive,
    inputs: &[Meta],
    signature: &Signature,
    hints: bool,
) -> Option<Plan> {
    made(op, Draft { inputs, signature, whole: true, named: None, plan: Plan { hints, ..Plan::default() } })
}

fn made(op: &dyn Primitive, mut draft: Draft<'_>) -> Option<Plan> {
    let inputs = draft.inputs;
    let mut all = inputs.iter().chain(&draft.signature.outputs);
    if all.any(|x| x.elements() == 0) || inputs.is_empty() {
        return None;
    }
    if let [x] = inputs
        && let Some(sum) = op.as_sum(x)
    {
        return reduce::sum(draft, &sum);
    }
    let call = op.kernel()?;
    let make = FAMILIES.iter().find(|(name, _)| *name == call.kernel)?.1;
    draft.named = call.named;
    make(draft, &call)
}

type Make = fn(Draft<'_>, &KernelCall) -> Option<Plan>;

const FAMILIES: [(&str, Make); 44] = [
    ("softmax", rows::softmax),
    ("softmax_vjp", rows::softmax),
    ("log_softmax", rows::softmax),
    ("log_softmax_vjp", rows::softmax),
    ("logsumexp", rows::softmax),
    ("logsumexp_vjp", rows::softmax),
    ("cross_entropy", rows::cross_entropy),
    ("cross_entropy_vjp", rows::cross_entropy_vjp),
    ("normalize", norm::normalize),
    ("normalize_vjp", norm::normalize_vjp),
    ("sum_of_squares", reduce::squares),
    ("unscale", reduce::unscale),
    ("dropout", random::dropout),
    ("uniform", random::draw),
    ("normal", random::draw),
    ("split_key", random::split),
    ("fold_in", random::fold_in),
    ("extremum", order::extremum),
    ("arg_extremum", order::arg_extremum),
    ("row_max", order::row_max),
    ("sort", order::sort),
    ("cumsum", along::cumsum),
    ("resample", along::resample),
    ("slice", place::assign),
    ("diagonal", place::assign),
    ("flip", place::flip),
    ("triangle", place::triangle),
    ("index_select", index::select),
    ("index_add", index::add),
    ("gather", gather::gather),
    ("scatter", gather::scatter),
    ("scatter_add", gather::scatter),
    ("pick_class", gather::classes),
    ("place_class", gather::classes),
    ("max_pool2d", window::max_pool),
    ("max_pool2d_indices", window::max_pool_indices),
    ("max_pool2d_vjp", window::max_pool_vjp),
    ("avg_pool2d", window::avg_pool),
    ("avg_pool2d_grad", window::avg_pool),
    ("conv2d", window::conv),
    ("conv2d_input_grad", window::conv),
    ("conv2d_weight_grad", window::conv),
    ("attention", attention::attention),
    ("attention_vjp", attention::attention_vjp),
];

/// The ops that have kernels beside expressions and sums, by the names of
/// [`KernelCall`](autograd_core::device::KernelCall).
pub fn kernels() -> impl Iterator<Item = &'static str> {
    FAMILIES.iter().map(|(name, _)| *name)
}

/// Where buffers begin: kernels read them in packs of so many bytes.
const ALIGNED: usize = 16;

/// Threads of a block that walks a buffer.
const BLOCK: u32 = 256;

/// Blocks that keep a large device busy.
const MANY_BLOCKS: usize = 512;

/// The most threads that a kernel of 128 registers, the bound that is checked, can have in a block.
const MOST_THREADS: usize = 512;

/// A plan in the making.
struct Draft<'a> {
    inputs: &'a [Meta],
    signature: &'a Signature,
    /// Whether it is a part of a sequence.
    whole: bool,
    /// The op that errors name.
    named: Option<&'static str>,
    plan: Plan,
}

impl Draft<'_> {
    /// The type of all these inputs as kernels name it.
    fn suffix(&self, of: impl IntoIterator<Item = usize>) -> Option<&'static str> {
        let mut types = of.into_iter().map(|i| self.inputs[i].dtype);
        let first = types.next()?;
        types.all(|dtype| dtype == first).then_some(())?;
        suffix(first)
    }

    /// Room for so many numbers of a type.
    fn room(&mut self, dtype: DType, elements: usize) -> Argument {
        self.plan.rooms.push(Room { bytes: elements * dtype.size_in_bytes(), zeroed: false });
        Argument::Room(self.plan.rooms.len() - 1)
    }

    /// Where indices out of range are reported.
    fn fault(&mut self, bound: usize, class: bool) -> Argument {
        self.plan.rooms.push(Room { bytes: 24, zeroed: true });
        let room = self.plan.rooms.len() - 1;
        self.plan.fault = Some(Fault { room, bound, class, named: self.named });
        Argument::Room(room)
    }

    /// An auxiliary output where hints are wanted, else room for it.
    fn hint(&mut self, k: usize) -> Option<Argument> {
        let meta = self.signature.aux.get(k)?;
        let (dtype, elements) = (meta.dtype, meta.elements());
        Some(match self.plan.hints {
            true => Argument::Output(self.signature.outputs.len() + k),
            false => self.room(dtype, elements),
        })
    }

    /// Adds a launch; `None` for more blocks than there may be.
    fn launch(
        &mut self,
        source: &'static str,
        entry: String,
        grid: [usize; 2],
        threads: usize,
        arguments: Vec<Argument>,
    ) -> Option<()> {
        let x = i32::try_from(grid[0]).ok()? as u32;
        let y = u16::try_from(grid[1]).ok()?.into();
        self.plan.steps.push(Step { source, entry, grid: [x, y], threads: threads as u32, arguments });
        Some(())
    }

    fn done(self) -> Option<Plan> {
        Some(self.plan)
    }
}

/// A float type as kernels name it.
pub(crate) fn suffix(dtype: DType) -> Option<&'static str> {
    match dtype {
        DType::F32 => Some("f32"),
        DType::F64 => Some("f64"),
        DType::F16 => Some("f16"),
        DType::BF16 => Some("bf16"),
        _ => None,
    }
}

/// The type in which a float type is computed.
fn wide(dtype: DType) -> DType {
    if dtype == DType::F64 { DType::F64 } else { DType::F32 }
}

/// Threads for a row of n elements, four for each.
fn threads_for(n: usize) -> usize {
    n.div_ceil(4).next_multiple_of(32).clamp(32, MOST_THREADS)
}

/// Blocks that walk n elements.
fn blocks_for(n: usize) -> usize {
    n.div_ceil(BLOCK as usize).clamp(1, 4096)
}

/// Whether a thread walks a whole line of n elements, of which `total` lie `inner` apart: short ones, and
/// those where neighbouring threads read neighbours and there are enough of them.
fn alone(n: usize, inner: usize, total: usize) -> bool {
    n <= 32 || (inner >= 32 && total >= 4096)
}

/// Into how many parts a sum of n terms is cut where `blocks` blocks are there without that, and how
/// long a part is.
fn parts_of(n: usize, blocks: usize, least: usize) -> (usize, usize) {
    let wanted = (MANY_BLOCKS / blocks.max(1)).clamp(1, n.div_ceil(least).max(1));
    let per = n.div_ceil(wanted).max(1);
    (n.div_ceil(per).max(1), per)
}

fn whole(n: usize) -> Argument {
    Argument::Value(Words::from_slice(&[n as u64]))
}

fn real(x: f64) -> Argument {
    Argument::Value(Words::from_slice(&[x.to_bits()]))
}

/// A structure as C lays it out.
#[derive(Default)]
pub(crate) struct Structure {
    words: Words,
    bytes: usize,
}

impl Structure {
    pub(crate) fn u64(mut self, n: usize) -> Self {
        self.words.push(n as u64);
        self.bytes = self.words.len() * 8;
        self
    }

    fn f64(mut self, x: f64) -> Self {
        self.words.push(x.to_bits());
        self.bytes = self.words.len() * 8;
        self
    }

    /// Two of them share a word.
    pub(crate) fn u32(mut self, n: usize) -> Option<Self> {
        let n = u64::from(u32::try_from(n).ok()?);
        match self.words.last_mut() {
            Some(word) if self.bytes % 8 == 4 => *word |= n << 32,
            _ => self.words.push(n),
        }
        self.bytes += 4;
        Some(self)
    }

    pub(crate) fn words(self) -> Words {
        self.words
    }

    fn done(self) -> Argument {
        Argument::Value(self.words)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_structure_is_laid_out_as_in_c() {
        #[repr(C)]
        struct Want {
            a: u32,
            b: u32,
            c: u32,
            d: u64,
            e: f64,
        }
        let made = Structure::default().u32(1).and_then(|s| s.u32(2)).and_then(|s| s.u32(3));
        let Some(made) = made else { panic!("they are small") };
        let Argument::Value(words) = made.u64(4).f64(0.5).done() else { panic!("it is a value") };
        assert_eq!(words.len() * 8, size_of::<Want>());
        assert_eq!(std::mem::offset_of!(Want, c), 8);
        assert_eq!((std::mem::offset_of!(Want, d), std::mem::offset_of!(Want, e)), (16, 24));
        assert_eq!((std::mem::offset_of!(Want, a), std::mem::offset_of!(Want, b)), (0, 4));
        assert_eq!(&words[..], [1 | 2 << 32, 3, 4, 0.5f64.to_bits()]);
    }

    #[test]
    fn parts_cover_a_sum_and_no_more() {
        for n in [1, 31, 1000, 1 << 20] {
            for blocks in [1, 7, 600] {
                let (parts, per) = parts_of(n, blocks, 1024);
                assert!(parts * per >= n && (parts - 1) * per < n, "{n} {blocks}");
            }
        }
    }

    #[test]
    fn inputs_begin_where_packs_do() -> Result<()> {
        let plan = Plan { converted: [None, Some(DType::I64)].into_iter().collect(), ..Plan::default() };
        let x = Tensor::arange(0f32, 8., &autograd_core::Device::Cpu)?;
        let part = x.narrow(0, 1, 4)?;
        let made = plan.prepare(&[part.clone(), part, x.narrow(0, 4, 4)?])?;
        assert_eq!(made[0].layout().start_offset(), 0);
        assert_eq!(made[0].to_vec1::<f32>()?, [1., 2., 3., 4.]);
        assert_eq!(made[1].to_vec1::<i64>()?, [1, 2, 3, 4]);
        // What is aligned is not copied.
        assert_eq!(made[2].layout().start_offset(), 4);
        Ok(())
    }

    #[test]
    fn what_kernels_report_is_an_error() {
        let fault = Fault { room: 0, bound: 5, class: true, named: None };
        assert!(fault.judge("op", [0, 9, 9]).is_ok());
        let error = fault.judge("op", [1, u64::MAX, 3]).expect_err("an index was reported");
        assert!(error.to_string().contains("target -1 of row 3 is not one of 5 classes"));
    }
}
