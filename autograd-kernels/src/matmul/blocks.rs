//! Large products: packed blocks that fit the caches, spread over the threads.
//!
//! For each block of rows and steps, the left factor is packed once for all threads; then each task
//! packs a panel of a few columns of the right factor, which stays in its own cache, and multiplies
//! all rows with it. An element of the product is summed in the same order for any number of
//! threads, as tasks divide only rows and columns.

use super::{Matrix, Shares};
use super::pack::pack;
use super::tile::{Size, kernel};
use crate::float::Float;
use crate::lanes::Isa;
use crate::memory;
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

/// out (m × n, contiguous) = or += a · b, m, k and n all positive.
pub(crate) fn multiply<T: Float>(
    isa: Isa,
    [m, k, n]: [usize; 3],
    a: Matrix<'_, T>,
    b: Matrix<'_, T>,
    out: &mut [T],
    add: bool,
) {
    assert!(out.len() == m * n, "the product has {} elements, not {}", m * n, out.len());
    let size = Size::of::<T>(isa);
    let depth = k.div_ceil(k.div_ceil(DEPTH));
    let block_rows = m.div_ceil(m.div_ceil(BLOCK_ROWS));
    let mut left = memory::take::<T>(block_rows * depth);
    let output = Output::new(out);
    for row in (0..m).step_by(block_rows) {
        let strips = Shares::new(block_rows.min(m - row), size.rows);
        let panels = Shares::new(n.div_ceil(size.lanes), size.vectors);
        for step in (0..k).step_by(depth) {
            let depth = depth.min(k - step);
            pack_left(isa, a, [row, step], depth, strips, &mut left);
            let block = Block { isa, depth, lanes: size.lanes, n, add: add || step > 0 };
            // Where there are few panels, the rows are divided too.
            let parts = (4 * threads()).div_ceil(panels.count).min(strips.count.div_ceil(STRIPS));
            let parts = if threads() == 1 { 1 } else { parts };
            parallel_for(panels.count * parts, &|task| {
                let (panel, part) = (panels.share(task / parts), task % parts);
                let strips = strips.part(part, parts);
                let columns = panel.start * size.lanes..n.min(panel.end * size.lanes);
                let mut right = memory::take::<T>(depth * panel.len() * size.lanes);
                let from = [step, columns.start];
                pack(isa, b, from, [depth, columns.len()], panel.len() * size.lanes, &mut right);
                // SAFETY: rows row .. and `columns` lie in the product, and no other task has the
                // same rows of this panel.
                unsafe {
                    let out = output.start().add(row * n + columns.start);
                    block.run(&left, &right, strips, columns.len(), out);
                }
                memory::give(right);
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
    /// The tiles of some strips of rows and a panel of `width` columns.
    ///
    /// # Safety
    /// `out` points to the first row of the block and the first column of the panel; the tiles'
    /// elements can be written and nothing else uses them meanwhile.
    unsafe fn run<T: Float>(&self, left: &[T], right: &[T], strips: Shares, width: usize, out: *mut T) {
        let vectors = width.div_ceil(self.lanes);
        let right = &right[..self.depth * vectors * self.lanes];
        for rows in strips.each() {
            let left = &left[rows.start * self.depth..rows.end * self.depth];
            let kernel = kernel::<T>(self.isa, rows.len(), vectors);
            let (a, a_step) = (left.as_ptr(), rows.len());
            let (b, b_step) = (right.as_ptr(), vectors * self.lanes);
            // SAFETY: both factors hold `depth` steps; the caller owns these rows of the panel.
            unsafe {
                let to = out.add(rows.start * self.n);
                kernel(self.depth, a, a_step, b, b_step, to, self.n, width, self.add);
            }
        }
    }
}
