//! Epilogues: a prepared expression evaluated on each part of a result as soon as that part is
//! finished, while it is in a cache. The result is that of a product or a convolution, and one of the
//! expression's inputs.
//!
//! A finished part is a block of some rows and columns of the result, seen as a matrix whose elements
//! are those of the expression's shape in row-major order. A block of few columns has its rows brought
//! side by side in a tile; the functions on the tile are those of [`Prepared::run`], so that both give
//! the same numbers.

use super::input::for_each_run;
use super::prepared::{Source, Tile, one};
use super::{Feed, MAX_INPUTS, Prepared, TileCode};
use crate::arena::Slices;
use crate::float::Float;
use crate::matmul::then::Block;
use crate::memory;
use crate::threads::{Disjoint, DisjointSlice};
use crate::{Kind, MAX_RANK, Slice, SliceMut};
use std::cell::Cell;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Threads that find tiles of their own in the working memory; more take some from their own store.
pub(super) const MOST_THREADS: usize = 32;

/// A prepared expression with its operands, to be evaluated on a result that is yet to be made.
///
/// The result's memory is that of one output, the home, which the expression overwrites. The input
/// that is the result has the feed [`Feed::Output`] of that number; another input may lie under another
/// output.
pub struct Epilogue<'r> {
    plan: &'r Prepared,
    feeds: &'r [Feed<'r>],
    home: usize,
    result: SliceMut<'r>,
    /// The outputs; nothing in the place of the home.
    outs: Slices<DisjointSlice<'r>>,
    tiles: SliceMut<'r>,
    code: Option<&'r dyn TileCode>,
}

impl<'r> Epilogue<'r> {
    /// The expression with what each input reads, its outputs, of which `home` is where the result is
    /// made, tiles to work in ([`Prepared::epilogue_tiles`]), and machine code in place of the steps
    /// where there is some.
    ///
    /// # Panics
    /// Panics where a buffer has not the length or type that was prepared, an output is summed, or the
    /// home is not of the type of computation.
    pub fn new(
        plan: &'r Prepared,
        feeds: &'r [Feed<'r>],
        outputs: &'r mut [SliceMut<'_>],
        home: usize,
        tiles: SliceMut<'r>,
        code: Option<&'r dyn TileCode>,
    ) -> Self {
        plan.assert_fits(feeds, outputs);
        assert!(plan.outputs.iter().all(|out| !out.reduced), "epilogue: no output is a sum");
        assert!(tiles.kind() == plan.tiles().0, "epilogue: tiles of the type of computation");
        assert!(
            outputs[home].kind() == tiles.kind() && plan.outputs[home].len == plan.elements,
            "epilogue: the home is an output of the type of computation"
        );
        let mut result = SliceMut::U8(&mut []);
        let mut outs = Slices::new();
        for (j, out) in outputs.iter_mut().enumerate() {
            let out = out.reborrow();
            outs.push(DisjointSlice::new(if j == home {
                result = out;
                SliceMut::U8(&mut [])
            } else {
                out
            }));
        }
        Self { plan, feeds, home, result, outs, tiles, code }
    }

    /// The type of the result.
    pub fn kind(&self) -> Kind {
        self.result.kind()
    }

    /// How many elements the result has.
    pub fn elements(&self) -> usize {
        self.plan.elements
    }

    /// Whether it can be evaluated again on a part of the result that is made again: no input lies under an
    /// output, but the result.
    pub fn is_repeatable(&self) -> bool {
        self.feeds.iter().all(|feed| match *feed {
            Feed::Read(_) => true,
            Feed::Output(j) => j == self.home,
        })
    }

    /// The result's memory, and what is done to each block of it: rows of so many columns.
    ///
    /// # Panics
    /// Panics where the result is of another type.
    pub(crate) fn open<T: Float>(self, columns: usize) -> (&'r mut [T], Following<'r, T>) {
        let tiles = T::own(self.tiles).expect("epilogue: tiles of the type of the result");
        let following = Following {
            plan: self.plan,
            feeds: self.feeds,
            home: self.home,
            outs: self.outs,
            uniform: self.plan.uniform(),
            code: self.code.filter(|_| T::KIND == Kind::F32),
            columns,
            each: self.plan.tiles_of_one(),
            tiles: Disjoint::new(tiles),
            taken: [const { Taken(AtomicBool::new(false)) }; MOST_THREADS],
        };
        (T::own(self.result).expect("epilogue: a result of its type"), following)
    }
}

/// Whether a thread has the tiles of this number; on a cache line of its own.
#[repr(align(64))]
struct Taken(AtomicBool);

/// What follows a result, block by block.
pub(crate) struct Following<'r, T> {
    plan: &'r Prepared,
    feeds: &'r [Feed<'r>],
    home: usize,
    outs: Slices<DisjointSlice<'r>>,
    uniform: &'r [T],
    code: Option<&'r dyn TileCode>,
    /// Of the result as a matrix.
    columns: usize,
    /// Numbers of one thread's tiles.
    each: usize,
    tiles: Disjoint<'r, T>,
    taken: [Taken; MOST_THREADS],
}

/// A part of a block that fits a tile.
struct Part {
    /// Rows of the block, counted from its first.
    rows: Range<usize>,
    /// Columns of the result.
    columns: Range<usize>,
    /// The number of the first element.
    first: usize,
}

impl Part {
    fn len(&self) -> usize {
        self.rows.len() * self.columns.len()
    }
}

impl<T: Float> Following<'_, T> {
    /// Evaluates the expression on a finished block of the result.
    ///
    /// # Safety
    /// The elements of the block are the result's, and no other call is given one of them, unless it has
    /// returned and no input lies under an output but the result.
    pub(crate) unsafe fn finish(&self, block: &mut Block<'_, T>) {
        if block.rows().is_empty() || block.columns().is_empty() {
            return;
        }
        self.with_tiles(|tiles| {
            let (rows, columns, room) = (block.rows(), block.columns(), self.plan.tile);
            // As many whole rows as a tile has room for, or parts of one.
            let together = (room / columns.len()).max(1);
            let mut row = 0;
            while row < rows.len() {
                let some = row..rows.len().min(row + together);
                row = some.end;
                for from in columns.clone().step_by(room) {
                    let part = Part {
                        rows: some.clone(),
                        columns: from..columns.end.min(from + room),
                        first: (rows.start + some.start) * self.columns + from,
                    };
                    // SAFETY: the caller's promise.
                    unsafe { self.tile(tiles, block, &part) };
                }
            }
        });
    }

    /// Runs `f` with tiles that no other thread has meanwhile.
    fn with_tiles(&self, f: impl FnOnce(&mut [T])) {
        let sets = (self.tiles.len() / self.each).min(MOST_THREADS);
        let first = number_of_thread();
        for at in 0..sets {
            let set = (first + at) % sets;
            let taken = &self.taken[set].0;
            if !taken.load(Ordering::Relaxed) && !taken.swap(true, Ordering::Acquire) {
                // SAFETY: only the thread that has taken a set uses it.
                f(unsafe { self.tiles.part(set * self.each..(set + 1) * self.each) });
                taken.store(false, Ordering::Release);
                return;
            }
        }
        let mut own = memory::take::<T>(self.each);
        f(&mut own);
        memory::give(own);
    }

    /// Evaluates the expression on a part of a block.
    ///
    /// # Safety
    /// As for [`finish`](Self::finish).
    unsafe fn tile(&self, tiles: &mut [T], block: &mut Block<'_, T>, part: &Part) {
        let (plan, len) = (self.plan, part.len());
        let slots = plan.program().schedule().slots * plan.tile;
        let (work, rest) = tiles.split_at_mut(slots);
        let (read, written) = rest.split_at_mut(plan.inputs.len() * plan.tile);
        let mut sources = [Source::One(T::ZERO); MAX_INPUTS];
        for (i, tile) in read.chunks_exact_mut(plan.tile).enumerate() {
            // SAFETY: the caller's promise.
            sources[i] = unsafe { self.source(i, block, part, &mut tile[..len]) };
        }
        // One row is written where it lies.
        let whole = part.rows.len() == 1;
        let result = whole.then(|| block.part(part.rows.start, part.columns.clone()).as_mut_ptr());
        let own = |j: usize| {
            let result = result?;
            let range = part.first..part.first + len;
            // SAFETY: the caller's promise; an input under an output was copied to its tile, and the
            // block is not used while the slice of it is.
            unsafe {
                match j == self.home {
                    true => Some(std::slice::from_raw_parts_mut(result, len)),
                    false => T::own(self.outs[j].part(range)),
                }
            }
        };
        let mut tile = Tile { plan, sources: &mut sources, read, written: &mut *written, len };
        match self.code {
            Some(code) => tile.run_code(code, own),
            None => tile.run_steps(self.uniform, work, own),
        }
        for (j, (out, tile)) in plan.outputs.iter().zip(written.chunks_exact(plan.tile)).enumerate() {
            if whole && out.kind == T::KIND {
                continue;
            }
            for (row, values) in part.rows.clone().zip(tile[..len].chunks_exact(part.columns.len())) {
                if j == self.home {
                    block.part(row, part.columns.clone()).copy_from_slice(values);
                    continue;
                }
                let from = part.first + (row - part.rows.start) * self.columns;
                // SAFETY: the caller's promise.
                T::scatter(values, unsafe { self.outs[j].part(from..from + values.len()) });
            }
        }
    }

    /// What input `i` is for a part.
    ///
    /// # Safety
    /// As for [`finish`](Self::finish).
    unsafe fn source<'b>(
        &'b self,
        i: usize,
        block: &mut Block<'_, T>,
        part: &Part,
        tile: &mut [T],
    ) -> Source<'b, T> {
        let (x, width) = (&self.plan.inputs[i], part.columns.len());
        let rows = part.rows.clone().zip(tile.chunks_exact_mut(width));
        let rows = rows.map(|(row, to)| (row, part.first + (row - part.rows.start) * self.columns, to));
        let slice = match self.feeds[i] {
            Feed::Read(slice) => slice,
            Feed::Output(j) if j == self.home => {
                rows.for_each(|(row, _, to)| to.copy_from_slice(block.part(row, part.columns.clone())));
                return Source::Tile;
            }
            Feed::Output(j) => {
                for (_, from, to) in rows {
                    // SAFETY: the caller's promise; it is written later, by this thread alone.
                    let own = T::own(unsafe { self.outs[j].part(from..from + width) });
                    to.copy_from_slice(own.expect("an input over an output is of the type of computation"));
                }
                return Source::Tile;
            }
        };
        if x.one {
            return Source::One(one(&slice, x.offset));
        }
        match T::read(&slice) {
            Some(data) if x.contiguous && part.rows.len() == 1 => {
                return Source::Slice(&data[x.offset + part.first..][..width]);
            }
            Some(data) if x.contiguous => {
                rows.for_each(|(_, from, to)| to.copy_from_slice(&data[x.offset + from..][..width]));
            }
            None if x.contiguous => rows.for_each(|(_, from, to)| T::gather(&slice, x.offset + from, 1, to)),
            Some(_) | None => self.gather(i, &slice, part, tile),
        }
        Source::Tile
    }

    /// A part of an input that is broadcast or rearranged.
    fn gather(&self, i: usize, slice: &Slice<'_>, part: &Part, tile: &mut [T]) {
        let (shape, x) = (&self.plan.shape, &self.plan.inputs[i]);
        let (dims, last) = (shape.dims(), shape.rank() - 1);
        let (stride, width) = (x.strides[last], part.columns.len());
        if dims[last] != self.columns {
            // A row of the result is none of the shape's.
            for (row, to) in tile.chunks_exact_mut(width).enumerate() {
                let first = part.first + row * self.columns;
                for_each_run(shape, &x.strides, first, width, |at, from, len| {
                    T::gather(slice, x.offset + from, stride, &mut to[at..at + len]);
                });
            }
            return;
        }
        let (same, mut rest) = (T::read(slice), part.first / self.columns);
        let mut base = x.offset + part.columns.start * stride;
        let mut index = [0; MAX_RANK];
        for d in (0..last).rev() {
            index[d] = rest % dims[d];
            rest /= dims[d];
            base += index[d] * x.strides[d];
        }
        for to in tile.chunks_exact_mut(width) {
            match (same, stride) {
                (Some(data), 0) => to.fill(data[base]),
                (Some(data), 1) => to.copy_from_slice(&data[base..base + width]),
                _ => T::gather(slice, base, stride, to),
            }
            for d in (0..last).rev() {
                index[d] += 1;
                base += x.strides[d];
                if index[d] < dims[d] {
                    break;
                }
                base -= x.strides[d] * dims[d];
                index[d] = 0;
            }
        }
    }
}

/// A small number of the calling thread's own.
fn number_of_thread() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static OWN: Cell<usize> = const { Cell::new(usize::MAX) };
    }
    OWN.with(|own| {
        if own.get() == usize::MAX {
            own.set(NEXT.fetch_add(1, Ordering::Relaxed));
        }
        own.get()
    })
}

#[cfg(test)]
mod tests {
    use super::super::Target;
    use super::*;
    use crate::expr::{Binary, Builder, Program, Unary};
    use crate::matmul::{matmul_bias, matmul_then};
    use crate::{Element, Layout, Shape, View};

    /// tanh(y + r)·s, y itself, and whether y + r is less than s: a residual r, numbers s of the columns.
    fn expression() -> Program {
        let mut b = Builder::new();
        let (s, y, r) = (b.input(0), b.input(1), b.input(2));
        let sum = b.binary(Binary::Add, y, r);
        let tanh = b.unary(Unary::Tanh, sum);
        let (z, less) = (b.binary(Binary::Mul, tanh, s), b.binary(Binary::Lt, sum, s));
        b.finish(&[z, y, less], 3, 0)
    }

    fn numbers(len: usize, seed: usize) -> Vec<f32> {
        (0..len).map(|i| ((i * 7919 + seed * 104_729) % 2003) as f32 / 1001.0 - 1.0).collect()
    }

    #[test]
    fn a_product_and_its_epilogue_give_the_numbers_of_both_in_turn() {
        for [m, k, n] in [[7, 5, 9], [61, 300, 50], [9, 100, 1300], [1, 40, 700], [700, 40, 1], [70, 1, 90]] {
            let whole = Layout::contiguous(Shape::new(&[m, n]));
            let columns = Layout::contiguous(Shape::new(&[n]));
            let (a, b, bias) = (numbers(m * k, 1), numbers(k * n, 2), numbers(n, 3));
            let (s, r) = (numbers(n, 4), numbers(m * n, 5));
            let layout = |dims: [usize; 2]| Layout::contiguous(Shape::new(&dims));
            let (la, lb) = (layout([m, k]), layout([k, n]));
            let a = View { data: f32::slice(&a), layout: &la };
            let b = View { data: f32::slice(&b), layout: &lb };
            let bias = View { data: f32::slice(&bias), layout: &columns };
            let target = |kind| Target { shape: *whole.shape(), kind, scale: 1.0 };
            let plan = Prepared::new(
                &expression(),
                &[(Kind::F32, columns), (Kind::F32, whole), (Kind::F32, whole)],
                whole.shape(),
                &[target(Kind::F32), target(Kind::F32), target(Kind::U8)],
            );
            // The residual lies under what is made of it.
            let (mut z, mut y, mut less) = (r.clone(), vec![f32::NAN; m * n], vec![9u8; m * n]);
            let mut tiles = vec![0f32; plan.epilogue_tiles().1];
            let feeds = [Feed::Read(f32::slice(&s)), Feed::Output(1), Feed::Output(0)];
            let outputs = &mut [f32::slice_mut(&mut z), f32::slice_mut(&mut y), SliceMut::U8(&mut less)];
            let then = Epilogue::new(&plan, &feeds, outputs, 1, f32::slice_mut(&mut tiles), None);
            matmul_then(a, b, Some(bias), then);

            let mut product = vec![f32::NAN; m * n];
            matmul_bias(a, b, bias, f32::slice_mut(&mut product));
            let (mut want, mut own, mut mask) = (vec![0f32; m * n], vec![0f32; m * n], vec![9u8; m * n]);
            let feeds = [&s, &product, &r].map(|x| Feed::Read(f32::slice(x)));
            let outputs = &mut [f32::slice_mut(&mut want), f32::slice_mut(&mut own), SliceMut::U8(&mut mask)];
            let mut tiles = vec![0f32; plan.tiles().1];
            plan.run(&feeds, outputs, f32::slice_mut(&mut tiles), &mut [], None);
            assert_eq!((&z, &y, &less), (&want, &product, &mask), "{m} x {k} x {n}");
        }
    }
}
