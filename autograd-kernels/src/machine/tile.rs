//! The work of one thread: tile after tile through the steps of a program.

use super::accumulate::Part;
use super::input::Source;
use super::schedule::{Action, Place, Step};
use super::{List, MAX_INPUTS, MAX_OUTPUTS, MIN_ROW, Output, Plan, TILE, TileCode};
use crate::math::{Operand, binary, select, unary};
use crate::simd::Float;
use crate::threads::Disjoint;
use crate::{MAX_RANK, memory};
use std::ops::Range;

/// One thread's tiles and where it stands.
pub(super) struct Worker<'p, 'a, T> {
    plan: &'p Plan<'a, T>,
    /// The steps' tiles, then one for each input and, for machine code, each output.
    tiles: Vec<T>,
    /// How long a tile is.
    len: usize,
    sources: List<Source<'p, T>>,
    parts: List<Option<Part>>,
}

/// The place of a row: indices of all dimensions but the last, and what they add up to for each
/// input and each target.
struct Row {
    index: [usize; MAX_RANK],
    inputs: List<usize>,
    targets: List<usize>,
}

impl<'p, 'a, T: Float> Worker<'p, 'a, T> {
    pub(super) fn new(plan: &'p Plan<'a, T>) -> Self {
        let len = plan.shape.elements().min(TILE);
        let outputs = if plan.code.is_some() { plan.outputs.len() } else { 0 };
        let tiles = memory::take_own((plan.schedule.slots + plan.inputs.len() + outputs) * len);
        Self { plan, tiles, len, sources: List::new(), parts: List::new() }
    }

    /// Works through these indices of the outermost dimension.
    pub(super) fn run(&mut self, range: Range<usize>, slab: usize, chunk: usize) {
        self.parts = self
            .plan
            .outputs
            .iter()
            .map(|out| match out {
                Output::Reduced(sums) => Some(sums.begin(&range)),
                Output::Whole(_) => None,
            })
            .collect();
        let dims = self.plan.shape.dims();
        match *dims {
            [] => self.row(&self.start_row(0), 0, 0..1),
            [_] => {
                let row = self.start_row(0);
                self.row(&row, 0, range);
            }
            [.., inner] if inner >= MIN_ROW => self.rows(range, slab / inner, inner),
            _ => self.across(range.start * slab..range.end * slab),
        }
        for (out, part) in self.plan.outputs.iter().zip(self.parts.drain(..)) {
            if let (Output::Reduced(sums), Some(part)) = (out, part) {
                sums.keep(part, chunk);
            }
        }
        memory::give_own(std::mem::take(&mut self.tiles));
    }

    fn start_row(&self, outer: usize) -> Row {
        let mut index = [0; MAX_RANK];
        index[0] = outer;
        let base = |strides: &[usize; MAX_RANK]| strides[0] * outer;
        Row {
            index,
            inputs: self.plan.inputs.iter().map(|x| base(x.strides())).collect(),
            targets: self
                .plan
                .outputs
                .iter()
                .map(|out| match out {
                    Output::Reduced(sums) => base(sums.strides()),
                    Output::Whole(_) => 0,
                })
                .collect(),
        }
    }

    /// Row after row, `each` of them for an index of the outermost dimension.
    fn rows(&mut self, range: Range<usize>, each: usize, inner: usize) {
        let mut row = self.start_row(range.start);
        for r in range.start * each..range.end * each {
            self.row(&row, r * inner, 0..inner);
            self.next_row(&mut row);
        }
    }

    fn next_row(&self, row: &mut Row) {
        let dims = self.plan.shape.dims();
        let mut shift = |d: usize, back: usize| {
            let step = |at: &mut usize, stride: usize| *at = *at + stride - back * stride;
            for (at, x) in row.inputs.iter_mut().zip(&self.plan.inputs) {
                step(at, x.strides()[d]);
            }
            for (at, out) in row.targets.iter_mut().zip(&self.plan.outputs) {
                if let Output::Reduced(sums) = out {
                    step(at, sums.strides()[d]);
                }
            }
        };
        for d in (0..dims.len() - 1).rev() {
            row.index[d] += 1;
            if row.index[d] < dims[d] || d == 0 {
                return shift(d, 0);
            }
            shift(d, dims[d]);
            row.index[d] = 0;
        }
    }

    /// A part of one row; `first` is the number of the row's first element.
    fn row(&mut self, row: &Row, first: usize, part: Range<usize>) {
        let plan = self.plan;
        let rank = plan.shape.rank();
        let mut start = part.start;
        while start < part.end {
            let len = self.len.min(part.end - start);
            self.sources.clear();
            for (i, (x, &base)) in plan.inputs.iter().zip(&row.inputs).enumerate() {
                let at = (plan.schedule.slots + i) * self.len;
                self.sources.push(x.in_row(rank, base, start, &mut self.tiles[at..at + len]));
            }
            self.set_aside(first + start, len);
            self.steps(first + start, len);
            for i in 0..plan.outputs.len() {
                if let Output::Reduced(sums) = &plan.outputs[i] {
                    let mut part = self.parts[i].take();
                    let to = part.as_mut().expect("a reduced output has its sums");
                    self.with_output(i, len, |v| {
                        sums.add_row(to, rank, row.targets[i], start, v);
                    });
                    self.parts[i] = part;
                }
            }
            start += len;
        }
    }

    /// Elements in row-major order, across rows.
    fn across(&mut self, range: Range<usize>) {
        let plan = self.plan;
        let mut start = range.start;
        while start < range.end {
            let len = self.len.min(range.end - start);
            self.sources.clear();
            for (i, x) in plan.inputs.iter().enumerate() {
                let at = (plan.schedule.slots + i) * self.len;
                let tile = &mut self.tiles[at..at + len];
                self.sources.push(x.across(&plan.shape, start, tile));
            }
            self.set_aside(start, len);
            self.steps(start, len);
            for i in 0..plan.outputs.len() {
                if let Output::Reduced(sums) = &plan.outputs[i] {
                    let mut part = self.parts[i].take();
                    let to = part.as_mut().expect("a reduced output has its sums");
                    self.with_output(i, len, |v| sums.add_across(to, &plan.shape, start, v));
                    self.parts[i] = part;
                }
            }
            start += len;
        }
    }

    /// Copies what lies in the memory of the first output to its input's tile, before it is
    /// overwritten.
    #[inline]
    fn set_aside(&mut self, start: usize, len: usize) {
        let (Some(i), [Output::Whole(out), ..]) = (self.plan.over, &self.plan.outputs[..]) else { return };
        let at = (self.plan.schedule.slots + i) * self.len;
        // SAFETY: tiles of different chunks and positions do not overlap, and this thread writes
        // its own later.
        let old = unsafe { out.part(start..start + len) };
        T::gather(&old.as_slice(), 0, 1, &mut self.tiles[at..at + len]);
    }

    /// The values of output `i`, as a slice.
    fn with_output(&mut self, i: usize, len: usize, f: impl FnOnce(&[T])) {
        let (plan, tile_len) = (self.plan, self.len);
        if plan.code.is_some() {
            let at = plan.output_tile(i) * tile_len;
            return f(&self.tiles[at..at + len]);
        }
        let tiles = Disjoint::new(&mut self.tiles);
        let place = plan.schedule.outputs[i];
        // SAFETY: nothing is written to the tiles here.
        match unsafe { operand(plan, &tiles, &self.sources, place, tile_len, len) } {
            Operand::Each(v) => f(v),
            Operand::All(v) => f(&[v; TILE][..len]),
        }
    }

    /// Runs machine code for one tile, and stores the outputs that are not summed.
    fn enter(&mut self, code: &dyn TileCode, start: usize, len: usize) {
        let (plan, tile_len) = (self.plan, self.len);
        let tiles = Disjoint::new(&mut self.tiles);
        let mut inputs = [std::ptr::null::<f32>(); MAX_INPUTS];
        for (i, (to, source)) in inputs.iter_mut().zip(&self.sources).enumerate() {
            let at = (plan.schedule.slots + i) * tile_len;
            // SAFETY: each input has a tile of its own.
            let tile = unsafe { tiles.part(at..at + len) };
            let from: &[T] = match *source {
                Source::Slice(x) => x,
                Source::One(x) => {
                    tile.fill(x);
                    tile
                }
                Source::Buffer => tile,
            };
            debug_assert_eq!(from.len(), len);
            *to = from.as_ptr().cast::<f32>();
        }
        let mut outputs = [std::ptr::null_mut::<f32>(); MAX_OUTPUTS];
        for (o, (to, out)) in outputs.iter_mut().zip(&plan.outputs).enumerate() {
            let own = match out {
                // SAFETY: tiles of different chunks and positions do not overlap.
                Output::Whole(out) => T::own(unsafe { out.part(start..start + len) }),
                Output::Reduced(_) => None,
            };
            let at = plan.output_tile(o) * tile_len;
            // SAFETY: no input's tile is an output's.
            let y = own.unwrap_or_else(|| unsafe { tiles.part(at..at + len) });
            *to = y.as_mut_ptr().cast::<f32>();
        }
        // SAFETY: code is there for f32 only, so T is f32. Each pointer is valid for `len` numbers;
        // the outputs are parts of separate memory, or tiles of their own.
        unsafe { code.run(inputs.as_ptr(), outputs.as_ptr(), len) };
        for (o, out) in plan.outputs.iter().enumerate() {
            if let Output::Whole(out) = out {
                // SAFETY: tiles of different chunks and positions do not overlap.
                let y = unsafe { out.part(start..start + len) };
                if y.kind() != T::KIND {
                    let at = plan.output_tile(o) * tile_len;
                    // SAFETY: the tile was written above, and nothing writes it now.
                    T::scatter(unsafe { tiles.read(at..at + len) }, y);
                }
            }
        }
    }

    /// Runs the steps for one tile, and stores the outputs that are not summed.
    fn steps(&mut self, start: usize, len: usize) {
        if let Some(code) = self.plan.code {
            return self.enter(code, start, len);
        }
        let (plan, tile_len) = (self.plan, self.len);
        let tiles = Disjoint::new(&mut self.tiles);
        let at = |place: Place| {
            // SAFETY: a step writes to no tile that it reads (the schedule's invariant), so while
            // an operand is in use its tile is not written.
            unsafe { operand(plan, &tiles, &self.sources, place, tile_len, len) }
        };
        let mut stored = 0u64;
        for &Step { action, to, only_for } in &plan.schedule.steps {
            let from = usize::from(to) * tile_len;
            let direct = only_for.and_then(|o| match &plan.outputs[usize::from(o)] {
                Output::Whole(out) if o < 64 => {
                    // SAFETY: tiles of different chunks and positions do not overlap.
                    let y = T::own(unsafe { out.part(start..start + len) });
                    stored |= u64::from(y.is_some()) << o;
                    y
                }
                Output::Whole(_) | Output::Reduced(_) => None,
            });
            // SAFETY: this tile is not among those that the step reads.
            let y = direct.unwrap_or_else(|| unsafe { tiles.part(from..from + len) });
            act(action, at, y);
        }
        for (o, out) in plan.outputs.iter().enumerate() {
            if let Output::Whole(out) = out
                && (o >= 64 || stored >> o & 1 == 0)
            {
                // SAFETY: tiles of different chunks and positions do not overlap.
                let y = unsafe { out.part(start..start + len) };
                match at(plan.schedule.outputs[o]) {
                    Operand::Each(v) => T::scatter(v, y),
                    Operand::All(v) => T::scatter(&[v; TILE][..len], y),
                }
            }
        }
    }
}

impl<T> Plan<'_, T> {
    /// The tile to which machine code writes output `o` where it does not go straight to memory.
    fn output_tile(&self, o: usize) -> usize {
        self.schedule.slots + self.inputs.len() + o
    }
}

/// One step: y = action of what lies at its operands' places.
#[inline]
pub(super) fn act<'t, T: Float>(action: Action, at: impl Fn(Place) -> Operand<'t, T>, y: &mut [T]) {
    match action {
        Action::Unary(f, a) => match at(a) {
            Operand::Each(a) => unary(f, a, y),
            Operand::All(a) => {
                unary(f, &[a], &mut y[..1]);
                y.fill(y[0]);
            }
        },
        Action::Binary(f, a, b) => binary(f, at(a), at(b), y),
        Action::Select(c, a, b) => match at(c) {
            Operand::Each(c) => select(c, at(a), at(b), y),
            Operand::All(c) => match at(if c != T::ZERO { a } else { b }) {
                Operand::Each(v) => y.copy_from_slice(v),
                Operand::All(v) => y.fill(v),
            },
        },
    }
}

/// What a place holds for a tile of this length.
///
/// # Safety
/// While the operand is in use its tile must not be written.
#[inline]
unsafe fn operand<'t, T: Float>(
    plan: &Plan<'_, T>,
    tiles: &'t Disjoint<'_, T>,
    sources: &[Source<'t, T>],
    place: Place,
    tile_len: usize,
    len: usize,
) -> Operand<'t, T> {
    let slot = match place {
        Place::Uniform(i) => return Operand::All(plan.uniform[usize::from(i)]),
        Place::Slot(slot) => usize::from(slot),
        Place::Input(i) => match sources[usize::from(i)] {
            Source::Slice(x) => return Operand::Each(x),
            Source::One(x) => return Operand::All(x),
            Source::Buffer => plan.schedule.slots + usize::from(i),
        },
    };
    // SAFETY: the caller's promise.
    Operand::Each(unsafe { tiles.read(slot * tile_len..slot * tile_len + len) })
}
