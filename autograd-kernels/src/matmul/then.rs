//! What is done to a block of a product as soon as all its terms are added, while it is in a cache.

use crate::float::Float;
use crate::lanes::Isa;
use std::marker::PhantomData;
use std::ops::Range;

/// A finished block of a product, to be changed in place. Rows are counted over the whole batch.
pub(crate) struct Block<'a, T> {
    start: *mut T,
    /// Elements from one row to the next.
    step: usize,
    rows: Range<usize>,
    columns: Range<usize>,
    slice: PhantomData<&'a mut [T]>,
}

impl<T> Block<'_, T> {
    /// The block's columns of the product.
    pub(crate) fn columns(&self) -> Range<usize> {
        self.columns.clone()
    }

    /// The block's rows, counted over the whole batch.
    pub(crate) fn rows(&self) -> Range<usize> {
        self.rows.clone()
    }

    /// The part of a row, counted from the block's first, that lies in some columns of the product.
    ///
    /// # Panics
    /// Panics where the block has no such elements.
    pub(crate) fn part(&mut self, row: usize, columns: Range<usize>) -> &mut [T] {
        let own = &self.columns;
        assert!(
            row < self.rows.len() && own.start <= columns.start && columns.end <= own.end,
            "a part of a block lies in it"
        );
        // SAFETY: the part lies in the block; who made the block vouched for its elements, which
        // nobody else uses meanwhile.
        unsafe {
            let start = self.start.add(row * self.step + (columns.start - own.start));
            std::slice::from_raw_parts_mut(start, columns.len())
        }
    }

    /// Calls `f` with each row of the product that the block has a part of, and with that part.
    pub(crate) fn each_row(&mut self, mut f: impl FnMut(usize, &mut [T])) {
        for (i, row) in self.rows.clone().enumerate() {
            // SAFETY: who made the block vouched for its elements, which nobody else uses
            // meanwhile; rows do not overlap.
            f(row, unsafe {
                std::slice::from_raw_parts_mut(self.start.add(i * self.step), self.columns.len())
            });
        }
    }
}

/// What is done to each finished block, by the thread that finished it: each element of the product
/// is in one block.
pub(crate) type Epilogue<'a, T> = dyn Fn(Block<'_, T>) + Sync + 'a;

/// An epilogue, or none, for one product of a batch.
pub(crate) struct Then<'a, T> {
    run: Option<&'a Epilogue<'a, T>>,
    /// The row of the batch at which the product begins.
    first: usize,
}

// By hand: what it refers to need not be copied.
impl<T> Clone for Then<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Then<'_, T> {}

impl<'a, T> Then<'a, T> {
    /// Nothing is done.
    pub(crate) fn nothing() -> Self {
        Self { run: None, first: 0 }
    }

    /// An epilogue for all blocks of a product.
    pub(crate) fn of(run: &'a Epilogue<'a, T>) -> Self {
        Self { run: Some(run), first: 0 }
    }

    /// The same for what begins so many rows further on.
    pub(crate) fn at(self, rows: usize) -> Self {
        Self { first: self.first + rows, ..self }
    }

    /// Runs it on a block of a product with `n` columns that begins at `out`.
    ///
    /// # Safety
    /// All elements of the block can be read and written through `out`, and nothing else uses them
    /// meanwhile.
    #[inline]
    pub(crate) unsafe fn block(self, out: *mut T, n: usize, rows: Range<usize>, columns: Range<usize>) {
        let Some(run) = self.run else { return };
        // SAFETY: the block's first element can be written.
        let start = unsafe { out.add(rows.start * n + columns.start) };
        let rows = self.first + rows.start..self.first + rows.end;
        run(Block { start, step: n, rows, columns, slice: PhantomData });
    }

    /// Runs it on whole rows of a product with `n` columns.
    pub(crate) fn whole(self, out: &mut [T], n: usize) {
        let rows = out.len() / n;
        // SAFETY: the slice is exclusive and holds these rows.
        unsafe { self.block(out.as_mut_ptr(), n, 0..rows, 0..n) };
    }

    /// Runs it on a part of one row, from a column on.
    pub(crate) fn part_of_row(self, out: &mut [T], column: usize) {
        let Some(run) = self.run else { return };
        let (rows, columns) = (self.first..self.first + 1, column..column + out.len());
        run(Block { start: out.as_mut_ptr(), step: 0, rows, columns, slice: PhantomData });
    }
}

/// Adds one number to each column of a block.
pub(super) fn add_bias<T: Float>(isa: Isa, bias: &[T], block: &mut Block<'_, T>) {
    let bias = &bias[block.columns()];
    match isa {
        Isa::Plain => block.each_row(|_, row| plus(row, bias)),
        // SAFETY: `Fast` is only chosen where the machine has its instructions.
        Isa::Fast | Isa::Wide => block.each_row(|_, row| unsafe { fast(row, bias) }),
    }
}

#[cfg_attr(target_arch = "x86_64", target_feature(enable = "avx2,fma"))]
unsafe fn fast<T: Float>(row: &mut [T], bias: &[T]) {
    plus(row, bias);
}

/// The compiler makes vectors of the loop.
#[inline(always)]
fn plus<T: Float>(row: &mut [T], bias: &[T]) {
    row.iter_mut().zip(bias).for_each(|(y, &b)| *y += b);
}
