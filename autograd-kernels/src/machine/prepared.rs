//! Expressions prepared once and run often: a static graph's fused groups.
//!
//! What [`run_reduced`](super::run_reduced) works out anew at every call (merged dimensions,
//! strides, chunks, uniform numbers) is worked out here once, and the working memory is the
//! caller's: a run allocates nothing and locks nothing. An input may be an output's own memory,
//! which is then overwritten. Machine code for the expression can be given in place of the steps;
//! everything around it stays the same, so that both give the same numbers.
//!
//! Preparation and run know each other's numbers, which makes the file long.

use super::accumulate::{add, sum};
use super::epilogue::MOST_THREADS;
use super::input::for_each_run;
use super::schedule::{Place, Step};
use super::tile::act;
use super::{MIN_CHUNK, MIN_ROW, TILE};
use crate::expr::Program;
use crate::math::Operand;
use crate::shape::merge_dims;
use crate::simd::Float;
use crate::threads::{Disjoint, DisjointSlice, parallel_for, threads};
use crate::{Kind, Layout, MAX_RANK, Shape, Slice, SliceMut};
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The most inputs of a prepared expression.
pub const MAX_INPUTS: usize = 16;

/// The most outputs of a prepared expression.
pub const MAX_OUTPUTS: usize = 16;

/// Chunks that hold partial sums of their own are no more than this.
const MAX_PRIVATE: usize = 16;

/// Where an output goes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Target {
    /// The output is summed over the dimensions in which this shape, which broadcasts to the
    /// expression's, is repeated. A shape equal to the expression's is not summed.
    pub shape: Shape,
    /// The element type; U8 is a mask.
    pub kind: Kind,
    /// What a sum is multiplied with: 1 for a sum, 1/n for a mean.
    pub scale: f64,
}

/// What an input reads.
#[derive(Clone, Copy, Debug)]
pub enum Feed<'a> {
    /// A buffer, under the layout that was prepared.
    Read(Slice<'a>),
    /// The memory of the output of this number, before it is overwritten.
    Output(usize),
}

/// Machine code that computes a prepared expression for part of a row.
///
/// # Safety
/// `run` reads `len` numbers through each pointer of `inputs` (as many as the program has inputs)
/// and writes `len` numbers through each pointer of `outputs`; it touches nothing else. All are
/// f32. It computes what the program says.
pub unsafe trait TileCode: Send + Sync {
    /// Computes `len` elements.
    ///
    /// # Safety
    /// `inputs` and `outputs` point to as many pointers as the program has inputs and outputs,
    /// each valid for `len` numbers; no output overlaps an input or another output.
    unsafe fn run(&self, inputs: *const *const f32, outputs: *const *mut f32, len: usize);
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Input {
    pub(super) kind: Kind,
    pub(super) offset: usize,
    pub(super) strides: [usize; MAX_RANK],
    /// Whether element i of the shape is element i of the data.
    pub(super) contiguous: bool,
    /// One number for all elements.
    pub(super) one: bool,
    /// How long its buffer must be.
    pub(super) end: usize,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Output {
    pub(super) kind: Kind,
    pub(super) len: usize,
    pub(super) reduced: bool,
    strides: [usize; MAX_RANK],
    scale: f64,
    /// Where its sums begin in the working memory.
    sums: usize,
    /// Each chunk has sums of its own (else chunks write to parts of one array).
    private: bool,
}

/// An expression with everything about it that does not change from run to run.
#[derive(Clone, Debug)]
pub struct Prepared {
    pub(super) program: Program,
    pub(super) shape: Shape,
    pub(super) elements: usize,
    pub(super) inputs: Vec<Input>,
    pub(super) outputs: Vec<Output>,
    uniform_f32: Vec<f32>,
    uniform_f64: Vec<f64>,
    pub(super) wide: bool,
    /// Indices of the outermost dimension in a chunk, and how many chunks.
    chunk: usize,
    chunks: usize,
    outer: usize,
    workers: usize,
    /// Elements of one tile.
    pub(super) tile: usize,
    sums: usize,
}

impl Prepared {
    /// Prepares `program`, which has no parameters, over `shape`: inputs by type and layout, and
    /// where each output goes.
    ///
    /// # Panics
    /// Panics where the numbers do not fit the program's, an input or a target does not broadcast
    /// to `shape`, the program has parameters, or there are more than [`MAX_INPUTS`] inputs or
    /// [`MAX_OUTPUTS`] outputs.
    pub fn new(program: &Program, inputs: &[(Kind, Layout)], shape: &Shape, targets: &[Target]) -> Self {
        assert!(program.params() == 0, "prepared: parameters are constants by now");
        assert!(inputs.len() == program.inputs() && inputs.len() <= MAX_INPUTS, "prepared: its inputs");
        assert!(
            targets.len() == program.outputs().len() && targets.len() <= MAX_OUTPUTS,
            "prepared: its outputs"
        );
        let mut strides: Vec<[usize; MAX_RANK]> = Vec::new();
        let wide_strides = |layout: &Layout| {
            let wide = layout.broadcast_to(shape).expect("prepared: inputs and targets broadcast");
            let mut all = [0; MAX_RANK];
            all[..wide.rank()].copy_from_slice(wide.strides());
            all
        };
        strides.extend(inputs.iter().map(|(_, layout)| wide_strides(layout)));
        strides.extend(targets.iter().map(|t| wide_strides(&Layout::contiguous(t.shape))));
        let merged = merge_dims(shape, &mut strides);
        let rank = merged.rank();
        let elements = shape.elements();
        let contiguous = merged.contiguous_strides();
        let outer = merged.dims().first().copied().unwrap_or(1);
        let slab = if elements == 0 { 1 } else { elements / outer };

        let is_reduced = |t: &Target| t.shape.elements() != elements;
        let is_private = |i: usize| is_reduced(&targets[i]) && strides[inputs.len() + i][0] == 0;
        let private =
            (0..targets.len()).filter(|&i| is_private(i)).map(|i| targets[i].shape.elements()).max();
        let mut min_chunk = MIN_CHUNK.max(8 * private.unwrap_or(0));
        if private.is_some() {
            min_chunk = min_chunk.max(elements.div_ceil(MAX_PRIVATE));
        }
        let chunk = crate::threads::chunk_length(outer, min_chunk.div_ceil(slab)).max(1);
        let chunks = outer.div_ceil(chunk);
        let mut sums = 0;
        let outputs = targets
            .iter()
            .enumerate()
            .map(|(i, t)| {
                let (reduced, private) = (is_reduced(t), is_private(i));
                let at = sums;
                if reduced {
                    sums += t.shape.elements() * if private { chunks } else { 1 };
                }
                let strides = strides[inputs.len() + i];
                Output {
                    kind: t.kind,
                    len: t.shape.elements(),
                    reduced,
                    strides,
                    scale: t.scale,
                    sums: at,
                    private,
                }
            })
            .collect();
        let inputs: Vec<Input> = inputs
            .iter()
            .zip(&strides)
            .map(|((kind, layout), strides)| Input {
                kind: *kind,
                offset: layout.offset(),
                strides: *strides,
                contiguous: strides[..rank] == contiguous[..rank],
                one: strides[..rank].iter().all(|&s| s == 0),
                end: layout.end(),
            })
            .collect();
        let kinds = inputs.iter().map(|x| x.kind).chain(targets.iter().map(|t| t.kind));
        let wide = kinds.into_iter().any(|kind| kind == Kind::F64);
        let mut uniform_f64 = Vec::new();
        super::uniform(program, &[], |_, value| uniform_f64.push(value));
        Self {
            program: program.clone(),
            shape: merged,
            elements,
            inputs,
            outputs,
            uniform_f32: uniform_f64.iter().map(|&x| x as f32).collect(),
            uniform_f64,
            wide,
            chunk,
            chunks,
            outer,
            workers: chunks.min(threads()).max(1),
            tile: elements.min(TILE),
            sums,
        }
    }

    /// The expression.
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// Whether it computes in f32, in which machine code can be given.
    pub fn is_f32(&self) -> bool {
        !self.wide
    }

    /// How many elements it is computed for.
    pub fn elements(&self) -> usize {
        self.elements
    }

    /// The tiles' type and how many numbers of it they take, for all workers.
    pub fn tiles(&self) -> (Kind, usize) {
        let kind = if self.wide { Kind::F64 } else { Kind::F32 };
        (kind, self.workers * self.tiles_of_one())
    }

    /// How many f64 the sums take.
    pub fn sums(&self) -> usize {
        self.sums
    }

    /// The numbers that are the same for all elements.
    pub(super) fn uniform<T: Float>(&self) -> &[T] {
        let own = T::read(&Slice::F32(&self.uniform_f32)).or(T::read(&Slice::F64(&self.uniform_f64)));
        own.unwrap_or(&[])
    }

    pub(super) fn tiles_of_one(&self) -> usize {
        (self.program.schedule().slots + self.inputs.len() + self.outputs.len()) * self.tile
    }

    /// The tiles' type and how many numbers of it an [`Epilogue`](super::Epilogue) takes, for as many
    /// threads as there are now.
    pub fn epilogue_tiles(&self) -> (Kind, usize) {
        (self.tiles().0, threads().min(MOST_THREADS) * self.tiles_of_one())
    }

    /// Runs it: what each input reads, the outputs, the working memory, and machine code in place
    /// of the steps where there is some.
    ///
    /// # Panics
    /// Panics where a buffer has not the length or type that was prepared.
    pub fn run(
        &self,
        feeds: &[Feed<'_>],
        outputs: &mut [SliceMut<'_>],
        tiles: SliceMut<'_>,
        sums: &mut [f64],
        code: Option<&dyn TileCode>,
    ) {
        self.assert_fits(feeds, outputs);
        assert!(tiles.len() >= self.tiles().1 && sums.len() >= self.sums, "prepared: enough working memory");
        if self.elements == 0 {
            outputs.iter_mut().for_each(|out| crate::copy::fill(0.0, out.reborrow()));
            return;
        }
        match tiles {
            SliceMut::F32(tiles) => self.run_as::<f32>(feeds, outputs, tiles, sums, code),
            SliceMut::F64(tiles) => self.run_as::<f64>(feeds, outputs, tiles, sums, None),
            _ => panic!("prepared: tiles are floats of the type of computation"),
        }
    }

    /// Asserts that inputs and outputs are those that were prepared.
    pub(super) fn assert_fits(&self, feeds: &[Feed<'_>], outputs: &[SliceMut<'_>]) {
        assert!(feeds.len() == self.inputs.len(), "prepared: as many inputs as prepared");
        assert!(outputs.len() == self.outputs.len(), "prepared: as many outputs as prepared");
        for (feed, input) in feeds.iter().zip(&self.inputs) {
            match feed {
                Feed::Read(slice) => {
                    assert!(
                        slice.kind() == input.kind && slice.len() >= input.end,
                        "prepared: an input's buffer"
                    );
                }
                Feed::Output(j) => {
                    let out = &self.outputs[*j];
                    let whole =
                        input.contiguous && input.offset == 0 && !out.reduced && out.kind == input.kind;
                    assert!(whole, "prepared: an input lies over an output of its shape and type");
                }
            }
        }
        for (out, plan) in outputs.iter().zip(&self.outputs) {
            assert!(out.kind() == plan.kind && out.len() == plan.len, "prepared: an output's buffer");
        }
    }

    fn run_as<T: Float>(
        &self,
        feeds: &[Feed<'_>],
        outputs: &mut [SliceMut<'_>],
        tiles: &mut [T],
        sums: &mut [f64],
        code: Option<&dyn TileCode>,
    ) {
        assert!((T::KIND == Kind::F64) == self.wide, "prepared: tiles of the type of computation");
        let each = self.tiles_of_one();
        {
            let outs: crate::arena::Slices<DisjointSlice<'_>> =
                outputs.iter_mut().map(|out| DisjointSlice::new(out.reborrow())).collect();
            let run = Run {
                plan: self,
                feeds,
                outs: &outs,
                sums: Disjoint::new(sums),
                uniform: self.uniform(),
                code: code.filter(|_| T::KIND == Kind::F32),
            };
            let tiles = Disjoint::new(tiles);
            let next = AtomicUsize::new(0);
            parallel_for(self.workers, &|w| {
                // SAFETY: each worker has tiles of its own.
                let tiles = unsafe { tiles.part(w * each..(w + 1) * each) };
                loop {
                    let c = next.fetch_add(1, Ordering::Relaxed);
                    if c >= self.chunks {
                        break;
                    }
                    run.chunk(tiles, c);
                }
            });
        }
        for (out, plan) in outputs.iter_mut().zip(&self.outputs).filter(|(_, plan)| plan.reduced) {
            self.finish(plan, sums, out.reborrow());
        }
    }

    /// Adds the chunks' sums in their order and writes them.
    fn finish(&self, plan: &Output, sums: &mut [f64], out: SliceMut<'_>) {
        let n = plan.len;
        let all = &mut sums[plan.sums..plan.sums + n * if plan.private { self.chunks } else { 1 }];
        let (total, rest) = all.split_at_mut(n);
        let parts = rest.chunks_exact(n.max(1));
        for part in parts {
            total.iter_mut().zip(part).for_each(|(t, p)| *t += p);
        }
        if plan.scale != 1.0 {
            total.iter_mut().for_each(|t| *t *= plan.scale);
        }
        f64::scatter(total, out);
    }
}

/// One run.
struct Run<'r, T> {
    plan: &'r Prepared,
    feeds: &'r [Feed<'r>],
    outs: &'r [DisjointSlice<'r>],
    sums: Disjoint<'r, f64>,
    uniform: &'r [T],
    code: Option<&'r dyn TileCode>,
}

/// What an input is for one tile.
#[derive(Clone, Copy)]
pub(super) enum Source<'a, T> {
    /// In place.
    Slice(&'a [T]),
    /// One number.
    One(T),
    /// In the tile of this input.
    Tile,
}

/// Where a tile lies.
struct At<'a> {
    /// The number of its first element.
    first: usize,
    /// In a row: what the dimensions but the last add for each input and each target, and the
    /// index in the last one. Across rows: nothing.
    row: Option<(&'a [usize; MAX_INPUTS], &'a [usize; MAX_OUTPUTS], usize)>,
}

impl<T: Float> Run<'_, T> {
    fn chunk(&self, tiles: &mut [T], c: usize) {
        let plan = self.plan;
        let range = c * plan.chunk..plan.outer.min((c + 1) * plan.chunk);
        for out in plan.outputs.iter().filter(|out| out.reduced) {
            let mine = self.sums_of(out, c, &range);
            // SAFETY: chunks have sums of their own: separate arrays, or separate parts of one.
            unsafe { self.sums.part(mine) }.fill(0.0);
        }
        let slab = plan.elements / plan.outer;
        match *plan.shape.dims() {
            [.., inner] if plan.shape.rank() > 1 && inner >= MIN_ROW => {
                self.rows(tiles, c, range, slab / inner, inner)
            }
            [] => self.tile_at(
                tiles,
                c,
                &At { first: 0, row: Some((&[0; MAX_INPUTS], &[0; MAX_OUTPUTS], 0)) },
                1,
            ),
            [_] => self.row(tiles, c, 0, &[0; MAX_INPUTS], &[0; MAX_OUTPUTS], range),
            _ => {
                let (mut start, end) = (range.start * slab, range.end * slab);
                while start < end {
                    let len = plan.tile.min(end - start);
                    self.tile_at(tiles, c, &At { first: start, row: None }, len);
                    start += len;
                }
            }
        }
    }

    /// Where a chunk's sums of an output lie.
    fn sums_of(&self, out: &Output, c: usize, range: &Range<usize>) -> Range<usize> {
        if out.private {
            out.sums + c * out.len..out.sums + (c + 1) * out.len
        } else {
            let each = out.len / self.plan.outer;
            out.sums + range.start * each..out.sums + range.end * each
        }
    }

    fn rows(&self, tiles: &mut [T], c: usize, range: Range<usize>, each: usize, inner: usize) {
        let plan = self.plan;
        let dims = plan.shape.dims();
        let mut index = [0; MAX_RANK];
        index[0] = range.start;
        let (mut inputs, mut targets) = ([0; MAX_INPUTS], [0; MAX_OUTPUTS]);
        for (at, x) in inputs.iter_mut().zip(&plan.inputs) {
            *at = x.strides[0] * range.start;
        }
        for (at, out) in targets.iter_mut().zip(&plan.outputs) {
            *at = out.strides[0] * range.start;
        }
        for r in range.start * each..range.end * each {
            self.row(tiles, c, r * inner, &inputs, &targets, 0..inner);
            for d in (0..dims.len() - 1).rev() {
                index[d] += 1;
                let back = if index[d] < dims[d] || d == 0 { 0 } else { dims[d] };
                for (at, x) in inputs.iter_mut().zip(&plan.inputs) {
                    *at = *at + x.strides[d] - back * x.strides[d];
                }
                for (at, out) in targets.iter_mut().zip(&plan.outputs) {
                    *at = *at + out.strides[d] - back * out.strides[d];
                }
                if back == 0 {
                    break;
                }
                index[d] = 0;
            }
        }
    }

    /// A part of one row; `first` is the number of the row's first element.
    fn row(
        &self,
        tiles: &mut [T],
        c: usize,
        first: usize,
        inputs: &[usize; MAX_INPUTS],
        targets: &[usize; MAX_OUTPUTS],
        part: Range<usize>,
    ) {
        let mut start = part.start;
        while start < part.end {
            let len = self.plan.tile.min(part.end - start);
            self.tile_at(tiles, c, &At { first: first + start, row: Some((inputs, targets, start)) }, len);
            start += len;
        }
    }

    /// Computes one tile: reads the inputs, runs the expression, stores and sums.
    fn tile_at(&self, tiles: &mut [T], c: usize, at: &At<'_>, len: usize) {
        let plan = self.plan;
        let slots = plan.program.schedule().slots * plan.tile;
        let (work, rest) = tiles.split_at_mut(slots);
        let (read, written) = rest.split_at_mut(plan.inputs.len() * plan.tile);
        let mut sources = [Source::One(T::ZERO); MAX_INPUTS];
        for (i, tile) in read.chunks_exact_mut(plan.tile).enumerate() {
            sources[i] = self.source(i, at, &mut tile[..len]);
        }
        let own = |j: usize| {
            let out = &plan.outputs[j];
            let direct = !out.reduced && out.kind == T::KIND;
            // SAFETY: tiles of different chunks and positions do not overlap; an input over an output
            // was copied to its tile.
            direct.then(|| T::own(unsafe { self.outs[j].part(at.first..at.first + len) })).flatten()
        };
        let mut tile = Tile { plan, sources: &mut sources, read, written, len };
        match self.code {
            Some(code) => tile.run_code(code, own),
            None => tile.run_steps(self.uniform, work, own),
        }
        // What was not stored in place is in the tiles by now.
        for (j, (out, tile)) in plan.outputs.iter().zip(written.chunks_exact(plan.tile)).enumerate() {
            if out.reduced {
                self.sum(out, j, c, at, &tile[..len]);
            } else if out.kind != T::KIND {
                // SAFETY: tiles of different chunks and positions do not overlap.
                T::scatter(&tile[..len], unsafe { self.outs[j].part(at.first..at.first + len) });
            }
        }
    }

    /// What input `i` is for a tile.
    fn source<'b>(&'b self, i: usize, at: &At<'_>, tile: &mut [T]) -> Source<'b, T> {
        let (x, rank) = (&self.plan.inputs[i], self.plan.shape.rank());
        let slice = match self.feeds[i] {
            Feed::Read(slice) => slice,
            Feed::Output(j) => {
                // SAFETY: this part is read here and written later, by this worker alone.
                let own = T::own(unsafe { self.outs[j].part(at.first..at.first + tile.len()) });
                tile.copy_from_slice(own.expect("an input over an output is of the type of computation"));
                return Source::Tile;
            }
        };
        let same = T::read(&slice);
        if x.one {
            return Source::One(one(&slice, x.offset));
        }
        if x.contiguous {
            let from = x.offset + at.first;
            return match same {
                Some(data) => Source::Slice(&data[from..from + tile.len()]),
                None => gathered(&slice, from, 1, tile),
            };
        }
        let stride = x.strides[rank - 1];
        match at.row {
            Some((bases, _, start)) => {
                let from = x.offset + bases[i] + start * stride;
                match (same, stride) {
                    (Some(data), 1) => Source::Slice(&data[from..from + tile.len()]),
                    (_, 0) => Source::One(one(&slice, from)),
                    _ => gathered(&slice, from, stride, tile),
                }
            }
            None => {
                for_each_run(&self.plan.shape, &x.strides, at.first, tile.len(), |to, from, len| {
                    T::gather(&slice, x.offset + from, stride, &mut tile[to..to + len]);
                });
                Source::Tile
            }
        }
    }

    /// Adds a tile's values to the sums of an output.
    fn sum(&self, out: &Output, j: usize, c: usize, at: &At<'_>, values: &[T]) {
        let plan = self.plan;
        // An array of the chunk's own, or the one that chunks have parts of.
        let start = if out.private { out.sums + c * out.len } else { out.sums };
        let rank = plan.shape.rank();
        let kept = rank > 0 && out.strides[rank - 1] != 0;
        match at.row {
            Some((_, bases, from)) => {
                let to = start + bases[j];
                if kept {
                    // SAFETY: these sums are the chunk's own.
                    add(unsafe { self.sums.part(to + from..to + from + values.len()) }, values);
                } else {
                    // SAFETY: as above.
                    let sums = unsafe { self.sums.part(to..to + 1) };
                    sums[0] += sum(values);
                }
            }
            None => for_each_run(&plan.shape, &out.strides, at.first, values.len(), |i, to, len| {
                let values = &values[i..i + len];
                if kept {
                    // SAFETY: as above.
                    let sums = unsafe { self.sums.part(start + to..start + to + len) };
                    sums.iter_mut().zip(values).for_each(|(s, v)| *s += v.to_f64());
                } else {
                    // SAFETY: as above.
                    let sums = unsafe { self.sums.part(start + to..start + to + 1) };
                    sums[0] += values.iter().map(|v| v.to_f64()).sum::<f64>();
                }
            }),
        }
    }
}

/// The memory of one tile whose inputs are at hand: read tiles for those inputs that lie in none of
/// the slices, and one for each output.
pub(super) struct Tile<'t, 's, T> {
    pub(super) plan: &'t Prepared,
    pub(super) sources: &'t mut [Source<'s, T>; MAX_INPUTS],
    pub(super) read: &'t mut [T],
    pub(super) written: &'t mut [T],
    /// Elements of this tile.
    pub(super) len: usize,
}

impl<T: Float> Tile<'_, '_, T> {
    /// Runs machine code in place of the steps. `own(j)` is where output j is written straight to its
    /// memory; other outputs go to their tiles. It is f32's alone.
    pub(super) fn run_code<'o>(&mut self, code: &dyn TileCode, own: impl Fn(usize) -> Option<&'o mut [T]>)
    where
        T: 'o,
    {
        assert!(T::KIND == Kind::F32, "prepared: machine code is for f32");
        let (plan, len) = (self.plan, self.len);
        let mut inputs = [std::ptr::null::<f32>(); MAX_INPUTS];
        for (i, tile) in self.read.chunks_exact_mut(plan.tile).enumerate() {
            let from: &[T] = match self.sources[i] {
                Source::Slice(x) => x,
                Source::One(x) => {
                    tile[..len].fill(x);
                    tile
                }
                Source::Tile => tile,
            };
            inputs[i] = from.as_ptr().cast::<f32>();
        }
        let mut outputs = [std::ptr::null_mut::<f32>(); MAX_OUTPUTS];
        for (j, tile) in self.written.chunks_exact_mut(plan.tile).enumerate() {
            outputs[j] = own(j).unwrap_or(tile).as_mut_ptr().cast::<f32>();
        }
        // SAFETY: code is given for f32 only, so T is f32. Each pointer is valid for `len` numbers:
        // inputs are slices of at least that length, outputs parts of it or tiles. Outputs are
        // separate memory: an input over an output was copied to its tile.
        unsafe { code.run(inputs.as_ptr(), outputs.as_ptr(), len) };
    }

    /// Runs the steps; `work` holds their tiles, `own` is as for [`run_code`](Self::run_code).
    pub(super) fn run_steps<'o>(
        &mut self,
        uniform: &[T],
        work: &mut [T],
        own: impl Fn(usize) -> Option<&'o mut [T]>,
    ) where
        T: 'o,
    {
        let (plan, len) = (self.plan, self.len);
        let (schedule, tile) = (plan.program.schedule(), plan.tile);
        let (sources, read) = (&*self.sources, &*self.read);
        let slots = Disjoint::new(work);
        let place = |place: Place| match place {
            Place::Uniform(i) => Operand::All(uniform[usize::from(i)]),
            Place::Input(i) => match sources[usize::from(i)] {
                Source::Slice(x) => Operand::Each(x),
                Source::One(x) => Operand::All(x),
                Source::Tile => Operand::Each(&read[usize::from(i) * tile..][..len]),
            },
            Place::Slot(slot) => {
                let from = usize::from(slot) * tile;
                // SAFETY: a step writes to no tile that it reads (the schedule's invariant), so
                // while an operand is in use its tile is not written.
                Operand::Each(unsafe { slots.read(from..from + len) })
            }
        };
        let mut stored = 0u32;
        for &Step { action, to, only_for } in &schedule.steps {
            let direct = only_for.map(usize::from).and_then(|j| {
                let own = own(j)?;
                stored |= 1 << j;
                Some(own)
            });
            let from = usize::from(to) * tile;
            // SAFETY: this tile is not among those that the step reads.
            let y = direct.unwrap_or_else(|| unsafe { slots.part(from..from + len) });
            act(action, place, y);
        }
        for (j, (out, to)) in schedule.outputs.iter().zip(self.written.chunks_exact_mut(tile)).enumerate() {
            if stored >> j & 1 == 1 {
                continue;
            }
            let y = own(j).unwrap_or(&mut to[..len]);
            match place(*out) {
                Operand::Each(v) => y.copy_from_slice(v),
                Operand::All(v) => y.fill(v),
            }
        }
    }
}

pub(super) fn one<T: Float>(slice: &Slice<'_>, at: usize) -> T {
    let mut one = [T::ZERO];
    T::gather(slice, at, 0, &mut one);
    one[0]
}

fn gathered<'b, T: Float>(slice: &Slice<'_>, from: usize, stride: usize, tile: &mut [T]) -> Source<'b, T> {
    T::gather(slice, from, stride, tile);
    Source::Tile
}
