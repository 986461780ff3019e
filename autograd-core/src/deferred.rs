//! Deferred values: large results of cheap expressions, computed when their numbers are first read.
//!
//! An expression or a sum that comes before that takes the deferred one in, so that one pass over
//! memory does the work of both: `x.mul(&g)?.sum()` never writes the product. Every operation
//! rounds on its own and sums are divided as those of finished values, so that the numbers are
//! those of one op at a time, to the bit. A value is taken in once; whoever wants it again gets it
//! computed. Only values in memory of our own are read later: nobody can change them meanwhile,
//! and an op in place first settles those that read its memory.

use crate::error::Result;
use crate::meta::{Meta, kind_of};
use crate::plain::{Buffer, Plain, open};
use crate::pointwise::Pointwise;
use crate::primitive::Primitive;
use crate::value::TrackedTensor;
use autograd_kernels::expr::{Builder, Program, Reg};
use autograd_kernels::reduce::{Reduction, sums_alike};
use autograd_kernels::{Shape, machine, reduce};
use candle_core::{DType, DeviceLocation};
use smallvec::SmallVec;
use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

/// Results of fewer elements are computed at once: they stay in a cache until they are read.
const LARGE: usize = 128 * 1024;

/// The most work on one element that is put off, in additions (`Program::cost`). Where a value is
/// both taken in and wanted it is computed twice, which is to cost no more than a few times what
/// writing and reading it does: gelu and what is multiplied with it fit, two of them do not.
const MOST_COST: u64 = 32;

/// The most values that one deferred value keeps alive.
const MOST_INPUTS: usize = 4;

/// The most deferred values of a thread that nobody has read yet.
const MOST_OPEN: usize = 8;

/// The most composed expressions that are kept.
const MOST_PROGRAMS: usize = 256;

static FROM: AtomicUsize = AtomicUsize::new(LARGE);

thread_local! {
    static FROM_HERE: Cell<Option<usize>> = const { Cell::new(None) };
    /// What this thread has deferred, the oldest first.
    static OPEN: RefCell<Vec<Weak<Plain>>> = const { RefCell::new(Vec::new()) };
}

static PROGRAMS: OnceLock<Mutex<HashSet<Arc<Program>>>> = OnceLock::new();

/// Results of at least this many elements are deferred in the whole process; `usize::MAX` computes
/// everything at once. At first 131,072.
pub fn set_deferred_from(elements: usize) {
    FROM.store(elements, Relaxed);
}

/// Runs `f` with another bound for this thread.
pub(crate) fn deferred_from<R>(elements: usize, f: impl FnOnce() -> R) -> R {
    struct Restore(Option<usize>);
    impl Drop for Restore {
        fn drop(&mut self) {
            FROM_HERE.set(self.0);
        }
    }
    let _restore = Restore(FROM_HERE.replace(Some(elements)));
    f()
}

fn bound() -> usize {
    FROM_HERE.get().unwrap_or_else(|| FROM.load(Relaxed))
}

/// Memory that is filled when it is first read.
pub(crate) struct Deferred {
    shape: Shape,
    dtype: DType,
    /// Gone when the buffer is there.
    work: Mutex<Option<Work>>,
    /// Whether an op has taken the expression in.
    taken: AtomicBool,
    buffer: OnceLock<Buffer>,
}

/// An expression of one output and what it reads.
#[derive(Clone)]
struct Work {
    op: Pointwise,
    inputs: SmallVec<[Arc<Plain>; 2]>,
    cost: u64,
    leaves: usize,
}

/// A deferred value as one expression over values that are there.
struct Composed {
    program: Arc<Program>,
    params: SmallVec<[f64; 4]>,
    leaves: SmallVec<[Arc<Plain>; MOST_INPUTS]>,
}

impl fmt::Debug for Deferred {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_open() { "deferred" } else { "computed" })
    }
}

impl Deferred {
    fn work(&self) -> MutexGuard<'_, Option<Work>> {
        // Nothing panics while it is held.
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether nobody has read the numbers yet.
    pub(crate) fn is_open(&self) -> bool {
        self.buffer.get().is_none()
    }

    /// The numbers, computed now where nobody has asked before.
    pub(crate) fn buffer(&self) -> &Buffer {
        self.buffer.get_or_init(|| {
            let work = self.work().take().expect("the work is there until the buffer is");
            let mut composed = Composed::of(&work);
            // What nobody but the work has read is not needed any more.
            drop(work);
            let over = composed.take_leaf(&self.shape, self.dtype);
            let (over, mut buffer) = match over {
                Some((i, buffer)) => (Some(i), buffer),
                None => {
                    let kind = kind_of(self.dtype).expect("only floats are deferred");
                    (None, Buffer::take(kind, self.shape.elements()))
                }
            };
            let out = buffer.slice_mut().expect("memory of our own");
            composed
                .read(|program, params, views| match over {
                    Some(i) => machine::run_over(program, params, i, out, &self.shape, views),
                    None => machine::run(program, params, views, &self.shape, &mut [out]),
                })
                .expect("values of our own memory can be read");
            buffer
        })
    }

    /// The numbers to change, for their only owner.
    pub(crate) fn buffer_mut(&mut self) -> Option<&mut Buffer> {
        self.buffer();
        self.buffer.get_mut()
    }

    /// The numbers, for their only owner.
    pub(crate) fn into_buffer(self) -> Option<Buffer> {
        self.buffer();
        self.buffer.into_inner()
    }
}

impl Composed {
    fn of(work: &Work) -> Self {
        let mut b = Builder::new();
        let (mut params, mut leaves) = (SmallVec::new(), SmallVec::new());
        let y = inline(work, &mut b, &mut params, &mut leaves);
        let program = kept(b.finish(&[y], leaves.len(), params.len()));
        Self { program, params, leaves }
    }

    /// The memory of a value of this shape and type that nobody else has, and its place among the
    /// leaves, which it leaves.
    fn take_leaf(&mut self, shape: &Shape, dtype: DType) -> Option<(usize, Buffer)> {
        for i in 0..self.leaves.len() {
            let leaf = &self.leaves[i];
            if leaf.dtype() == dtype && leaf.layout().shape() == shape && leaf.is_last() {
                match Plain::into_buffer(self.leaves.remove(i)) {
                    Ok(buffer) => return Some((i, buffer)),
                    Err(shared) => self.leaves.insert(i, shared),
                }
            }
        }
        None
    }

    fn read<R>(&self, f: impl FnOnce(&Program, &[f64], &[autograd_kernels::View<'_>]) -> R) -> Result<R> {
        let plains: SmallVec<[&Plain; MOST_INPUTS]> = self.leaves.iter().map(|leaf| &**leaf).collect();
        open("deferred", &plains, |views| Ok(f(&self.program, &self.params, views)))
    }
}

/// Puts an expression and those that it takes in into one; the node of its output.
fn inline(
    work: &Work,
    b: &mut Builder,
    params: &mut SmallVec<[f64; 4]>,
    leaves: &mut SmallVec<[Arc<Plain>; MOST_INPUTS]>,
) -> Reg {
    let inputs: SmallVec<[Reg; 4]> = work
        .inputs
        .iter()
        .map(|x| {
            if let Some(inner) = x.deferred().and_then(|deferred| deferred.work().clone()) {
                return inline(&inner, b, params, leaves);
            }
            let known = leaves.iter().position(|leaf| Arc::ptr_eq(leaf, x));
            let i = known.unwrap_or_else(|| {
                leaves.push(x.clone());
                leaves.len() - 1
            });
            b.input(i)
        })
        .collect();
    let own: SmallVec<[Reg; 2]> = work
        .op
        .params()
        .iter()
        .map(|&p| {
            params.push(p);
            b.param(params.len() - 1)
        })
        .collect();
    let program = work.op.expr().program();
    b.inline(program, &inputs, &own)[usize::from(program.outputs()[0])]
}

/// The program of this content that is kept, with what has been made of it.
#[allow(clippy::mutable_key_type, reason = "a program's code is no part of its key")]
fn kept(program: Program) -> Arc<Program> {
    let programs = PROGRAMS.get_or_init(Mutex::default);
    let mut programs = programs.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = programs.get(&program) {
        return known.clone();
    }
    if programs.len() == MOST_PROGRAMS {
        programs.clear();
    }
    let program = Arc::new(program);
    programs.insert(program.clone());
    program
}

/// The deferred result of an op on values that nobody watches; `None` where it is computed now.
#[inline]
pub(crate) fn defer(op: &Pointwise, inputs: &[&TrackedTensor]) -> Option<Arc<Plain>> {
    let from = bound();
    let large = |x: &&TrackedTensor| x.plain().is_some_and(|plain| plain.layout().elements() >= from);
    if inputs.iter().any(large) { defer_large(op, inputs) } else { None }
}

fn defer_large(op: &Pointwise, inputs: &[&TrackedTensor]) -> Option<Arc<Plain>> {
    let definition = op.definition();
    // Derived rules are computed at once: a sweep lets go of what they read.
    if !op.is_static() || definition.to_mask || definition.expr.program().outputs().len() != 1 {
        return None;
    }
    let first = inputs[0].plain()?;
    let dtype = first.dtype();
    if !matches!(dtype, DType::F32 | DType::F64) {
        return None;
    }
    let mut plains: SmallVec<[Arc<Plain>; 2]> = SmallVec::new();
    let mut shape = *first.layout().shape();
    for x in inputs {
        let plain = x.plain()?;
        if plain.device() != DeviceLocation::Cpu || plain.dtype() != dtype || !plain.is_own() {
            return None;
        }
        if *plain.layout().shape() != shape {
            shape = shape.broadcast(plain.layout().shape())?;
        }
        plains.push(plain.clone());
    }
    // The memory of the result stands for that of one input: a broadcast of small ones is none.
    if shape.elements() == 0 || plains.iter().all(|plain| *plain.layout().shape() != shape) {
        return None;
    }
    let mut cost = definition.expr.program().cost();
    let mut leaves = 0;
    for plain in &plains {
        let inner = plain.deferred().and_then(|deferred| {
            let work = deferred.work();
            let work = work.as_ref()?;
            let fits = cost + work.cost <= MOST_COST
                && leaves + work.leaves + plains.len() <= MOST_INPUTS + 1
                && *plain.layout().shape() == shape
                && !deferred.taken.swap(true, Relaxed);
            fits.then_some((work.cost, work.leaves))
        });
        match inner {
            Some((more, read)) => (cost, leaves) = (cost + more, leaves + read),
            None => {
                plain.buffer();
                leaves += 1;
            }
        }
    }
    if cost > MOST_COST || leaves > MOST_INPUTS {
        return None;
    }
    let made = Plain::later(
        Box::new(Deferred {
            shape,
            dtype,
            work: Mutex::new(Some(Work { op: op.clone(), inputs: plains.clone(), cost, leaves })),
            taken: AtomicBool::new(false),
            buffer: OnceLock::new(),
        }),
        Meta { shape, dtype, device: DeviceLocation::Cpu },
    );
    made.inherit(plains.iter().map(|plain| &**plain));
    note(&made);
    Some(made)
}

/// Remembers a deferred value, and computes the oldest where there are many.
fn note(made: &Arc<Plain>) {
    let add = |open: &RefCell<Vec<Weak<Plain>>>| {
        let mut open = open.borrow_mut();
        open.retain(|weak| weak.upgrade().is_some_and(|plain| plain.deferred().is_some()));
        let oldest = if open.len() == MOST_OPEN { Some(open.remove(0)) } else { None };
        open.push(Arc::downgrade(made));
        oldest
    };
    // A thread that is ending defers nothing more.
    let oldest = OPEN.try_with(add).unwrap_or_else(|_| Some(Arc::downgrade(made)));
    if let Some(plain) = oldest.and_then(|weak| weak.upgrade()) {
        plain.buffer();
    }
}

/// Computes a value, which this thread then no longer counts as deferred.
pub(crate) fn close(plain: &Arc<Plain>) {
    plain.buffer();
    let other = |weak: &Weak<Plain>| !std::ptr::eq(weak.as_ptr(), Arc::as_ptr(plain));
    let _ = OPEN.try_with(|open| open.borrow_mut().retain(other));
}

/// Computes what this thread has deferred, so that nothing of it reads other values any more.
pub(crate) fn settle_all() {
    let open = OPEN.try_with(RefCell::take).unwrap_or_default();
    for plain in open.iter().filter_map(Weak::upgrade) {
        plain.buffer();
    }
}

/// The sum of a deferred value, in the pass that computes it. `None` where it is not one, or has
/// been taken in before.
pub(crate) fn summed(op: &dyn Primitive, inputs: &[&TrackedTensor]) -> Option<Result<Arc<Plain>>> {
    let [x] = inputs else { return None };
    let plain = x.plain()?;
    let deferred = plain.deferred()?;
    let meta = plain.meta();
    let sum = op.as_sum(&meta)?;
    let over: SmallVec<[bool; 8]> =
        meta.shape.dims().iter().zip(sum.kept.dims()).map(|(from, to)| from != to).collect();
    if !sums_alike(meta.shape.elements()) || deferred.taken.swap(true, Relaxed) {
        return None;
    }
    let composed = Composed::of(&deferred.work().clone()?);
    let alike = |leaf: &Arc<Plain>| leaf.is_contiguous() && *leaf.layout().shape() == meta.shape;
    if !composed.leaves.iter().all(alike) {
        return None;
    }
    let made = match op.infer(&[meta]) {
        Ok(signature) => signature.outputs[0],
        Err(error) => return Some(Err(error)),
    };
    let mut buffer = Buffer::take(kind_of(made.dtype)?, made.elements());
    let out = buffer.slice_mut()?;
    let reduction = if sum.scale == 1.0 { Reduction::Sum } else { Reduction::Mean };
    crate::testing::note_evaluation();
    let ran = composed.read(|program, params, views| {
        reduce::reduce_expression(reduction, program, params, views, &over, out);
    });
    Some(ran.map(|()| {
        let made = Plain::own(buffer, &made);
        made.inherit([&**plain]);
        made
    }))
}
