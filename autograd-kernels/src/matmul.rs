//! The batched matrix product, and with it what can be done to each block of the result while it is
//! in a cache: a bias added to it, an expression evaluated on it.
//!
//! Five ways, chosen by shape and strides alone: small products straight from the factors, matrix
//! times vector and column times row at the speed of memory, thin products that read the right
//! factor in place, and everything else in packed blocks. The order in which an element is summed
//! depends on the shape only, never on the number of threads.

mod blocks;
mod outer;
mod pack;
mod shares;
mod small;
#[cfg(test)]
mod tests;
pub(crate) mod then;
mod thin;
pub(crate) mod tile;
mod vector;

pub(crate) use shares::Shares;

use crate::float::Float;
use crate::lanes::Isa;
use crate::machine::Epilogue;
use crate::memory;
use crate::operand::{assert_dims, assert_in_bounds, assert_kind, narrow, same, widen, widened};
use crate::threads::{Disjoint, parallel_for, threads};
use crate::{Element, Kind, Layout, Shape, SliceMut, View};
use then::{Block, Then, add_bias};

/// out = a · b for a [..batch, m, k], b [..batch, k, n], out [..batch, m, n].
///
/// The batch dimensions are equal (the caller has broadcast the layouts); operands have any
/// strides, `out` is contiguous. k = 0 gives zeros. Half types are computed in f32.
///
/// # Panics
/// Panics where shapes or types do not fit, or a layout leaves its buffer.
pub fn matmul(a: View<'_>, b: View<'_>, out: SliceMut<'_>) {
    product(a, b, None, out, false);
}

/// out = a · b + bias, with one number of `bias` for each of the n columns; otherwise as [`matmul`].
///
/// The bias is added to each block of the product by the thread that has just finished it. For f32
/// and f64 the result is that of the product and an addition after it, to the bit; half types are
/// rounded once, after the addition. k = 0 gives the bias.
///
/// # Panics
/// As [`matmul`]; where the bias has not the shape `[n]`, or another type.
pub fn matmul_bias(a: View<'_>, b: View<'_>, bias: View<'_>, out: SliceMut<'_>) {
    product(a, b, Some(bias), out, false);
}

/// out += a · b, otherwise as [`matmul`].
///
/// # Panics
/// As [`matmul`].
pub fn matmul_acc(a: View<'_>, b: View<'_>, out: SliceMut<'_>) {
    product(a, b, None, out, true);
}

/// The expression of `then` evaluated on a · b, or on a · b + bias: on each block of the product by the
/// thread that has just finished it. The product is made in the epilogue's home.
///
/// The results are those of [`matmul`] or [`matmul_bias`] and of the expression after it, to the bit.
///
/// # Panics
/// As [`matmul_bias`]; where the product is of a half type.
pub fn matmul_then(a: View<'_>, b: View<'_>, bias: Option<View<'_>>, then: Epilogue<'_>) {
    fits(a, b, bias, then.kind(), then.elements());
    match then.kind() {
        Kind::F32 => followed::<f32>(a, b, bias, then),
        Kind::F64 => followed::<f64>(a, b, bias, then),
        other => panic!("a matrix product of type {other:?} with an epilogue"),
    }
}

fn followed<T: Float>(a: View<'_>, b: View<'_>, bias: Option<View<'_>>, then: Epilogue<'_>) {
    let columns = b.layout.dims()[b.layout.rank() - 1];
    let (out, following) = then.open::<T>(columns);
    let (isa, bias) = (Isa::detect(), bias.map(same));
    let epilogue = |mut block: Block<'_, T>| {
        if let Some(bias) = bias.as_deref() {
            add_bias(isa, bias, &mut block);
        }
        // SAFETY: each element of the product is in one block.
        unsafe { following.finish(&mut block) };
    };
    batched(a, b, out, false, Then::of(&epilogue));
}

/// One factor: where its elements lie.
#[derive(Clone, Copy)]
struct Matrix<'a, T> {
    /// The buffer from the first element on.
    data: &'a [T],
    /// Elements from one row to the next.
    row: usize,
    /// Elements from one column to the next.
    column: usize,
}

impl<'a, T> Matrix<'a, T> {
    /// The matrix that starts at the first element of `data`.
    fn new(data: &'a [T], row: usize, column: usize) -> Self {
        Self { data, row, column }
    }

    /// The same elements with rows for columns.
    fn transposed(self) -> Self {
        Self { data: self.data, row: self.column, column: self.row }
    }

    /// The same matrix where the strides of extents of 1 are those of a contiguous one.
    fn normal(self, rows: usize, columns: usize) -> Self {
        let column = if columns == 1 { 1 } else { self.column };
        let row = if rows == 1 { columns } else { self.row };
        Self { row, column, ..self }
    }

    fn assert_holds(&self, rows: usize, columns: usize) {
        let end = (rows - 1) * self.row + (columns - 1) * self.column + 1;
        let len = self.data.len();
        assert!(end <= len, "a matrix reaches element {end} of a buffer of {len}");
    }
}

/// Asserts that factors and bias fit a product of so many elements of this type.
fn fits(a: View<'_>, b: View<'_>, bias: Option<View<'_>>, kind: Kind, len: usize) {
    let (da, db) = (a.layout.dims(), b.layout.dims());
    let rank = da.len();
    assert!(
        rank >= 2 && rank == db.len() && da[..rank - 2] == db[..rank - 2],
        "matrix product of shapes {da:?} and {db:?}: at least rank 2 and equal batch dimensions"
    );
    assert!(da[rank - 1] == db[rank - 2], "matrix product of shapes {da:?} and {db:?}");
    assert_kind("the left factor", a, kind);
    assert_kind("the right factor", b, kind);
    let batch: usize = da[..rank - 2].iter().product();
    let elements = batch * da[rank - 2] * db[rank - 1];
    assert!(len == elements, "the product has {len} elements where {elements} are expected");
    if let Some(bias) = bias {
        assert_kind("the bias", bias, kind);
        assert_dims("the bias", bias, &db[rank - 1..]);
    }
}

fn product(a: View<'_>, b: View<'_>, bias: Option<View<'_>>, out: SliceMut<'_>, add: bool) {
    fits(a, b, bias, out.kind(), out.len());
    match out {
        SliceMut::F32(out) => finished(a, b, bias.map(same).as_deref(), out, add),
        SliceMut::F64(out) => finished(a, b, bias.map(same).as_deref(), out, add),
        out if out.kind().is_float() => {
            let (wa, wb) = (repeat_free(a.layout), repeat_free(b.layout));
            let (xa, xb) = (widen(View { layout: &wa, ..a }), widen(View { layout: &wb, ..b }));
            let (la, lb) = (repeated(&wa, a.layout), repeated(&wb, b.layout));
            let mut wide = if add { widened(&out) } else { memory::take(out.len()) };
            let (a, b) =
                (View { data: f32::slice(&xa), layout: &la }, View { data: f32::slice(&xb), layout: &lb });
            finished(a, b, bias.map(widen).as_deref(), &mut wide, add);
            narrow(wide, out);
        }
        other => panic!("a matrix product of type {:?}", other.kind()),
    }
}

/// The product, and the bias added to each block of it.
fn finished<T: Float>(a: View<'_>, b: View<'_>, bias: Option<&[T]>, out: &mut [T], add: bool) {
    match bias {
        Some(bias) => {
            let isa = Isa::detect();
            batched(a, b, out, add, Then::of(&|mut block| add_bias(isa, bias, &mut block)));
        }
        None => batched(a, b, out, add, Then::nothing()),
    }
}

/// The layout with one element where a dimension is repeated, so that a conversion reads it once.
fn repeat_free(layout: &Layout) -> Layout {
    let mut out = *layout;
    for (dim, &stride) in layout.strides().iter().enumerate() {
        if stride == 0 && layout.dims()[dim] > 1 {
            out = out.narrow(dim, 0, 1);
        }
    }
    out
}

/// The contiguous layout of `once`, repeated to the extents of `like`.
fn repeated(once: &Layout, like: &Layout) -> Layout {
    Layout::contiguous(*once.shape()).broadcast_to(like.shape()).expect("extents are 1 or equal")
}

fn batched<T: Float>(a: View<'_>, b: View<'_>, out: &mut [T], add: bool, then: Then<'_, T>) {
    assert_in_bounds(a);
    assert_in_bounds(b);
    let (xa, xb) =
        (T::read(&a.data).expect("its type was checked"), T::read(&b.data).expect("its type was checked"));
    let rank = a.layout.rank();
    let (m, k, n) = (a.layout.dims()[rank - 2], a.layout.dims()[rank - 1], b.layout.dims()[rank - 1]);
    if out.is_empty() {
        return;
    }
    if k == 0 {
        if !add {
            out.fill(T::ZERO);
        }
        then.whole(out, n);
        return;
    }
    let isa = Isa::detect();
    if rank == 2 {
        let factor = |data, layout: &Layout| -> Matrix<'_, T> {
            let data: &[T] = data;
            Matrix::new(&data[layout.offset()..], layout.strides()[0], layout.strides()[1])
        };
        return multiply(isa, [m, k, n], factor(xa, a.layout), factor(xb, b.layout), out, add, then);
    }
    // One right factor for the whole batch, as in a linear layer: one product of batch·m rows.
    if b.layout.strides()[..rank - 2].iter().all(|&stride| stride == 0) {
        let rows = out.len() / n;
        if let Some(a) = a.layout.reshape(Shape::new(&[rows, k])) {
            let a = Matrix::new(&xa[a.offset()..], a.strides()[0], a.strides()[1]);
            let strides = &b.layout.strides()[rank - 2..];
            let b = Matrix::new(&xb[b.layout.offset()..], strides[0], strides[1]);
            return multiply(isa, [rows, k, n], a, b, out, add, then);
        }
    }
    let batch = Shape::new(&a.layout.dims()[..rank - 2]);
    let start = |layout: &Layout, mut index: usize| {
        let mut at = layout.offset();
        for d in (0..rank - 2).rev() {
            at += index % batch.dims()[d] * layout.strides()[d];
            index /= batch.dims()[d];
        }
        at
    };
    let at = |i: usize| {
        let (la, lb) = (a.layout, b.layout);
        let a = Matrix::new(&xa[start(la, i)..], la.strides()[rank - 2], la.strides()[rank - 1]);
        let b = Matrix::new(&xb[start(lb, i)..], lb.strides()[rank - 2], lb.strides()[rank - 1]);
        (a, b)
    };
    // Products too large to be one task each, and too few to keep all threads busy, are divided
    // inside.
    let count = out.len() / (m * n);
    if count < 4 * threads() && m * k * n >= ONE_TASK {
        for (i, out) in out.chunks_exact_mut(m * n).enumerate() {
            let (a, b) = at(i);
            multiply(isa, [m, k, n], a, b, out, add, then.at(i * m));
        }
        return;
    }
    let together = (ONE_TASK / (m * k * n)).clamp(1, count.div_ceil(threads()));
    let parts = Disjoint::new(out);
    parallel_for(count.div_ceil(together), &|task| {
        for i in task * together..count.min((task + 1) * together) {
            // SAFETY: each product has its own part.
            let out = unsafe { parts.part(i * m * n..(i + 1) * m * n) };
            let (a, b) = at(i);
            multiply(isa, [m, k, n], a, b, out, add, then.at(i * m));
        }
    });
}

/// Multiplications that are worth a task of their own.
const ONE_TASK: usize = 1 << 17;

/// out (m × n, contiguous) = or += a (m × k) · b (k × n).
fn multiply<T: Float>(
    isa: Isa,
    [m, k, n]: [usize; 3],
    a: Matrix<'_, T>,
    b: Matrix<'_, T>,
    out: &mut [T],
    add: bool,
    then: Then<'_, T>,
) {
    if m * n == 0 {
        return;
    }
    if k == 0 {
        if !add {
            out.fill(T::ZERO);
        }
        then.whole(out, n);
        return;
    }
    let a = a.normal(m, k);
    let b = b.normal(k, n);
    if n == 1 && (a.row == 1 || a.column == 1) {
        vector::multiply(isa, [m, k, 1], a, b, out, add, then);
    } else if m == 1 && (b.row == 1 || b.column == 1) {
        vector::multiply(isa, [n, k, n], b.transposed(), a.transposed(), out, add, then);
    } else if k == 1 && n >= outer::SHORTEST {
        outer::multiply(isa, [m, n], a, b, out, add, then);
    } else if m * k * n <= small::LIMIT {
        small::multiply(isa, [m, k, n], a, b, out, add, then);
    } else if thin::fits(m, &a, &b) {
        thin::multiply(isa, [m, k, n], a, b, out, add, then);
    } else {
        blocks::multiply(isa, [m, k, n], a, b, out, add, then);
    }
}
