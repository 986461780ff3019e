//! Products of a column and a row: as fast as the result can be written.

use super::Matrix;
use super::then::Then;
use crate::float::Float;
use crate::lanes::Isa;
use crate::memory;
use crate::threads::{Disjoint, parallel_for};

/// Rows shorter than this are left to the tiles of small products.
pub(crate) const SHORTEST: usize = 16;

/// Elements of the product that are worth a task of their own.
const ONE_TASK: usize = 1 << 15;

/// out (m × n, contiguous) = or += a (m × 1) · b (1 × n), m and n positive.
pub(crate) fn multiply<T: Float>(
    isa: Isa,
    [m, n]: [usize; 2],
    a: Matrix<'_, T>,
    b: Matrix<'_, T>,
    out: &mut [T],
    add: bool,
    then: Then<'_, T>,
) {
    assert!(out.len() == m * n, "the product has {} elements, not {}", m * n, out.len());
    a.assert_holds(m, 1);
    b.assert_holds(1, n);
    let mut order = memory::take::<T>(if b.column == 1 { 0 } else { n });
    order.iter_mut().enumerate().for_each(|(j, to)| *to = b.data[j * b.column]);
    let row = if b.column == 1 { &b.data[..n] } else { &order };
    let share = (ONE_TASK / n).max(1);
    let parts = Disjoint::new(out);
    parallel_for(m.div_ceil(share), &|task| {
        let rows = task * share..m.min((task + 1) * share);
        // SAFETY: tasks have different rows.
        let out = unsafe { parts.part(rows.start * n..rows.end * n) };
        let column = &a.data[rows.start * a.row..];
        match isa {
            Isa::Plain => scaled(column, a.row, row, out, add),
            // SAFETY: `Fast` is only chosen where the machine has its instructions.
            Isa::Fast | Isa::Wide => unsafe { fast(column, a.row, row, out, add) },
        }
        then.at(rows.start).whole(out, n);
    });
    memory::give(order);
}

#[cfg_attr(target_arch = "x86_64", target_feature(enable = "avx2,fma"))]
unsafe fn fast<T: Float>(column: &[T], step: usize, row: &[T], out: &mut [T], add: bool) {
    scaled(column, step, row, out, add);
}

/// Each row of `out` = or += an element of the column, `step` apart, times the row. The compiler
/// makes vectors of the loops.
#[inline(always)]
fn scaled<T: Float>(column: &[T], step: usize, row: &[T], out: &mut [T], add: bool) {
    for (i, out) in out.chunks_exact_mut(row.len()).enumerate() {
        let x = column[i * step];
        let pairs = out.iter_mut().zip(row);
        if add {
            pairs.for_each(|(y, &b)| *y += x * b);
        } else {
            pairs.for_each(|(y, &b)| *y = x * b);
        }
    }
}
