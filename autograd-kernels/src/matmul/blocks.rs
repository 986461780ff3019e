//! Large products: packed blocks that fit the caches, spread over the threads.
//!
//! For each block of rows and steps, the left factor is packed once for all threads; then each task
//! packs a panel of a few columns of the right factor, which stays in its own cache, and multiplies
//! all rows with it. An element of the product is summed in the same order for any number of
//! threads, as tasks divide only rows and columns.

use super::pack::pack;
use super::then::Then;
use super::tile::{Left, Size, kernel};
use super::{Matrix, Shares};
use crate::float::Float;
use crate::lanes::Isa;
use crate::memory::{self, Scratch};
use crate::output::Output;
use crate::threads::{Disjoint, parallel_for, threads};

/// Steps of a block: a panel of the right factor, 256 · 48 · 4 bytes, stays in the second cache,
/// and a strip of the left one, 256 · 8 · 4 bytes, in the first.
const DEPTH: usize = 256;
/// Rows of a block of the left factor: it stays in the last cache, from where strips come in time.
const BLOCK_ROWS: usize = 1024;
/// Elements that a task packs of the left factor.
const PACKED: usize = 1 << 14;
/// Strips of rows that are worth packing a panel for.
const STRIPS: usize = 4;

/// Panels of the right factor up to which the rows of the left one are read where they lie: to pack
/// them pays when they are read again and again.
const FEW: usize = 6;
/// Steps up to which the rows of the right factor are read where they lie.
const SHALLOW: usize = 64;
/// Elements of the product that are finished together: what follows is begun once for all of them, while
/// they are in the first or second cache.
const FINISHED: usize = 1 << 12;
/// Bytes between rows whose elements share a set of the first cache.
const PAGE: usize = 4096;

/// out (m × n, contiguous) = or += a · b, m, k and n all positive.
pub(crate) fn multiply<T: Float>(
    isa: Isa,
    [m, k, n]: [usize; 3],
    a: Matrix<'_, T>,
    b: Matrix<'_, T>,
    out: &mut [T],
    add: bool,
    then: Then<'_, T>,
) {
    assert!(out.len() == m * n, "the product has {} elements, not {}", m * n, out.len());
    a.assert_holds(m, k);
    b.assert_holds(k, n);
    let size = Size::of::<T>(isa);
    let depth = k.div_ceil(k.div_ceil(DEPTH));
    let block_rows = m.div_ceil(m.div_ceil(BLOCK_ROWS));
    let panels = Shares::new(n.div_ceil(size.lanes), size.vectors);
    let scattered = |step: usize| (step * size_of::<T>()).is_multiple_of(PAGE);
    let in_place = a.column == 1 && panels.count <= FEW && !scattered(a.row);
    let mut left = memory::take::<T>(if in_place { 0 } else { block_rows * depth });
    let output = Output::new(out);
    for row in (0..m).step_by(block_rows) {
        let strips = Shares::new(block_rows.min(m - row), size.rows);
        for step in (0..k).step_by(depth) {
            let depth = depth.min(k - step);
            let last = step + depth == k;
            if !in_place {
                pack_left(isa, a, [row, step], depth, strips, &mut left);
            }
            let block = Block { isa, depth, lanes: size.lanes, n, add: add || step > 0 };
            // Where there are few panels, the rows are divided too.
            let parts = (4 * threads()).div_ceil(panels.count).min(strips.count.div_ceil(STRIPS));
            let parts = if threads() == 1 { 1 } else { parts };
            parallel_for(panels.count * parts, &|task| {
                let (panel, part) = (panels.share(task / parts), task % parts);
                let strips = strips.part(part, parts);
                let columns = panel.start * size.lanes..n.min(panel.end * size.lanes);
                let width = panel.len() * size.lanes;
                let right = &b.data[step * b.row + columns.start * b.column..];
                // A last vector in part would be read past its row.
                let whole = columns.len() == width;
                let right_in_place = whole && b.column == 1 && depth <= SHALLOW && !scattered(b.row);
                let mut packed = Scratch::<T>::take(if right_in_place { 0 } else { depth * width });
                let (right, right_step) = if right_in_place {
                    (right, b.row)
                } else {
                    pack(isa, b, [step, columns.start], [depth, columns.len()], width, &mut packed);
                    (&packed[..], width)
                };
                // The first row that is not finished.
                let (mut open, end) = (row + strips.range().start, row + strips.range().end);
                for rows in strips.each() {
                    let left = if in_place {
                        let from = &a.data[(row + rows.start) * a.row + step..];
                        Left { at: from.as_ptr(), row: a.row, column: 1 }
                    } else {
                        let from = &left[rows.start * depth..rows.end * depth];
                        Left { at: from.as_ptr(), row: 1, column: rows.len() }
                    };
                    // SAFETY: the factors were checked to hold all elements, and packed ones hold
                    // `depth` steps of the rows and of whole vectors; the rows and `columns` lie in
                    // the product, and no other task has the same rows of this panel.
                    unsafe {
                        let out = output.start().add((row + rows.start) * n + columns.start);
                        block.tile(rows.len(), left, right, right_step, columns.len(), out);
                        let next = row + rows.end;
                        if last && ((next - open) * columns.len() >= FINISHED || next == end) {
                            then.block(output.start(), n, open..next, columns.clone());
                            open = next;
                        }
                    }
                }
            });
        }
    }
    memory::give(left);
}

/// Packs the strips of a block of the left factor one after another: strip[l·rows + i].
fn pack_left<T: Float>(
    isa: Isa,
    a: Matrix<'_, T>,
    [row, step]: [usize; 2],
    depth: usize,
    strips: Shares,
    left: &mut [T],
) {
    let packed = Disjoint::new(left);
    let tasks = (strips.things * depth).div_ceil(PACKED).min(strips.count);
    parallel_for(tasks, &|task| {
        for rows in strips.part(task, tasks).each() {
            // SAFETY: strips do not overlap, and the buffer holds the rows of all.
            let out = unsafe { packed.part(rows.start * depth..rows.end * depth) };
            let from = [step, row + rows.start];
            pack(isa, a.transposed(), from, [depth, rows.len()], rows.len(), out);
        }
    });
}

/// What the tiles of a block have in common.
struct Block {
    isa: Isa,
    depth: usize,
    /// Columns in a vector.
    lanes: usize,
    /// Elements from one row of the output to the next.
    n: usize,
    add: bool,
}

impl Block {
    /// The tile of some rows of the left factor and a panel of `width` columns.
    ///
    /// # Safety
    /// Both factors hold `depth` steps, the right one whole vectors; `out` points to the tile's
    /// first element, all its elements can be written, and nothing else uses them meanwhile.
    #[inline]
    unsafe fn tile<T: Float>(
        &self,
        rows: usize,
        left: Left<T>,
        right: &[T],
        right_step: usize,
        width: usize,
        out: *mut T,
    ) {
        let vectors = width.div_ceil(self.lanes);
        let kernel = kernel::<T>(self.isa, rows, vectors);
        // SAFETY: the caller's promise is the same.
        unsafe { kernel(self.depth, left, right.as_ptr(), right_step, out, self.n, width, self.add) };
    }
}
