//! Large products: packed blocks that fit the caches, spread over the threads.
//!
//! The right factor is packed block by block for all threads, the left one by each task for its
//! rows. Only rows and columns are divided among tasks: an element of the product is summed in
//! the same order for any number of threads.

use super::Matrix;
use super::pack::{pack_left, pack_right};
use super::tile::{Kernel, ROWS, columns, kernel};
use crate::float::Float;
use crate::lanes::Isa;
use crate::memory;
use crate::output::Output;
use crate::threads::{parallel_for, threads};

/// Bytes of one step of a panel of each factor times the depth of a block stay below the first
/// cache: 256 · (6 + 16) · 4 bytes.
const DEPTH: usize = 256;
/// Rows of a block of the left factor: its panels stay in the second cache.
const BLOCK_ROWS: usize = 16 * ROWS;
/// Columns of a block of the right factor: it stays in the second or third cache.
const BLOCK_COLUMNS: usize = 2048;
/// Panels of the right factor that a task packs.
const PANELS_PER_TASK: usize = 8;

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
    let full = columns::<T>();
    let depth = k.div_ceil(k.div_ceil(DEPTH));
    let block_columns = n.min(BLOCK_COLUMNS).next_multiple_of(full);
    let mut right = memory::take::<T>(depth * block_columns);
    let (kernel, output) = (kernel::<T>(isa), Output::new(out));
    for column in (0..n).step_by(block_columns) {
        let width = block_columns.min(n - column);
        let panels = width.div_ceil(full);
        for step in (0..k).step_by(depth) {
            let depth = depth.min(k - step);
            let chunk = full * depth * PANELS_PER_TASK;
            let packed = Output::new(&mut right);
            let used = panels * full * depth;
            parallel_for(panels.div_ceil(PANELS_PER_TASK), &|task| {
                let start = task * chunk;
                // SAFETY: tasks write to chunks that do not overlap, within `used` elements,
                // which the buffer has: depth · (columns rounded up).
                let out = unsafe {
                    std::slice::from_raw_parts_mut(packed.start().add(start), chunk.min(used - start))
                };
                let first = task * PANELS_PER_TASK * full;
                let width = (PANELS_PER_TASK * full).min(width - first);
                pack_right(isa, b, [step, column + first], [depth, width], out);
            });
            let grid = Grid::new(m, panels);
            let right = &right[..used];
            parallel_for(grid.rows * grid.columns, &|task| {
                let (rows, panels) = grid.task(task);
                let block = Block { kernel, depth, width, add: add || step > 0, n };
                let height = rows.len();
                let mut left = memory::take::<T>(height.next_multiple_of(ROWS) * depth);
                pack_left(a, [rows.start, step], [height, depth], &mut left);
                // SAFETY: the tile rows .. and columns of these panels lie in the product, as
                // `rows` ⊆ 0..m and the panels cover columns column .. column + width; no other
                // task has the same row and panel.
                unsafe {
                    let out = output.start().add(rows.start * n + column);
                    block.run(&left, right, height, panels, out);
                }
                memory::give(left);
            });
        }
    }
    memory::give(right);
}

/// How the tiles of a block are divided among tasks.
struct Grid {
    m: usize,
    panels: usize,
    block_rows: usize,
    block_panels: usize,
    rows: usize,
    columns: usize,
}

impl Grid {
    fn new(m: usize, panels: usize) -> Self {
        let (threads, strips) = (threads(), m.div_ceil(ROWS));
        // As many blocks of rows as fit the cache, rounded up to a multiple of the threads where
        // there are enough strips for that.
        let mut rows = m.div_ceil(BLOCK_ROWS);
        if strips >= 2 * threads {
            rows = rows.next_multiple_of(threads).min(strips);
        }
        let columns = if rows < threads { threads.div_ceil(rows).min(panels) } else { 1 };
        let (block_rows, block_panels) = (strips.div_ceil(rows) * ROWS, panels.div_ceil(columns));
        Self {
            m,
            panels,
            block_rows,
            block_panels,
            rows: m.div_ceil(block_rows),
            columns: panels.div_ceil(block_panels),
        }
    }

    fn task(&self, task: usize) -> (std::ops::Range<usize>, std::ops::Range<usize>) {
        let (row, panel) = (task / self.columns, task % self.columns);
        let (row, panel) = (row * self.block_rows, panel * self.block_panels);
        (row..self.m.min(row + self.block_rows), panel..self.panels.min(panel + self.block_panels))
    }
}

/// What the tiles of a block have in common.
struct Block<T> {
    kernel: Kernel<T>,
    depth: usize,
    /// Columns of the block, of which the last panel may have fewer than a full one.
    width: usize,
    add: bool,
    /// Elements from one row of the output to the next.
    n: usize,
}

impl<T: Float> Block<T> {
    /// All tiles of `height` rows and some panels.
    ///
    /// # Safety
    /// `out` points to the first row and column 0 of the block; the tiles' elements can be
    /// written and nothing else uses them meanwhile.
    unsafe fn run(
        &self,
        left: &[T],
        right: &[T],
        height: usize,
        panels: std::ops::Range<usize>,
        out: *mut T,
    ) {
        let full = columns::<T>();
        for panel in panels {
            let right = &right[panel * full * self.depth..][..full * self.depth];
            let width = full.min(self.width - panel * full);
            for row in (0..height).step_by(ROWS) {
                let left = &left[row * self.depth..][..ROWS * self.depth];
                let (left, right) = (left.as_ptr(), right.as_ptr());
                let rows = ROWS.min(height - row);
                // SAFETY: both panels hold `depth` steps; the tile is written whole where it is
                // full and through a buffer where it is not; the caller owns its elements.
                unsafe {
                    let to = out.add(row * self.n + panel * full);
                    if rows == ROWS && width == full {
                        (self.kernel)(self.depth, left, right, to, self.n, self.add);
                        continue;
                    }
                    let mut tile = [T::ZERO; ROWS * 16];
                    (self.kernel)(self.depth, left, right, tile.as_mut_ptr(), full, false);
                    for i in 0..rows {
                        let to = std::slice::from_raw_parts_mut(to.add(i * self.n), width);
                        for (to, &sum) in to.iter_mut().zip(&tile[i * full..]) {
                            *to = if self.add { *to + sum } else { sum };
                        }
                    }
                }
            }
        }
    }
}
