//! The batched matrix product.

use crate::float::Float;
use crate::operand::{assert_in_bounds, assert_kind, assert_len, narrow, widen};
use crate::{Element, Layout, Shape, SliceMut, View};

/// out = a · b for a [..batch, m, k], b [..batch, k, n], out [..batch, m, n].
///
/// The batch dimensions are equal (the caller has broadcast the layouts); operands have any
/// strides, `out` is contiguous. k = 0 gives zeros. Half types are computed in f32.
///
/// # Panics
/// Panics where shapes or types do not fit, or a layout leaves its buffer.
pub fn matmul(a: View<'_>, b: View<'_>, out: SliceMut<'_>) {
    product(a, b, out, false);
}

/// out += a · b, otherwise as [`matmul`].
///
/// # Panics
/// As [`matmul`].
pub fn matmul_acc(a: View<'_>, b: View<'_>, out: SliceMut<'_>) {
    product(a, b, out, true);
}

/// One operand: where its elements lie.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a, T> {
    /// The buffer from the first element on.
    pub(crate) data: &'a [T],
    /// Elements from one row to the next.
    pub(crate) row: usize,
    /// Elements from one column to the next.
    pub(crate) column: usize,
}

fn product(a: View<'_>, b: View<'_>, out: SliceMut<'_>, add: bool) {
    let (da, db) = (a.layout.dims(), b.layout.dims());
    let rank = da.len();
    assert!(
        rank >= 2 && rank == db.len() && da[..rank - 2] == db[..rank - 2],
        "matrix product of shapes {da:?} and {db:?}: at least rank 2 and equal batch dimensions"
    );
    assert!(da[rank - 1] == db[rank - 2], "matrix product of shapes {da:?} and {db:?}");
    assert_kind("the left factor", a, out.kind());
    assert_kind("the right factor", b, out.kind());
    let batch: usize = da[..rank - 2].iter().product();
    assert_len("the product", &out, batch * da[rank - 2] * db[rank - 1]);
    match out {
        SliceMut::F32(out) => batched(a, b, out, add),
        SliceMut::F64(out) => batched(a, b, out, add),
        mut out if out.kind().is_float() => {
            let (wa, wb) = (repeat_free(a.layout), repeat_free(b.layout));
            let (xa, xb) = (widen(View { layout: &wa, ..a }), widen(View { layout: &wb, ..b }));
            let (la, lb) = (repeated(&wa, a.layout), repeated(&wb, b.layout));
            let mut wide = vec![0f32; out.len()];
            if add {
                let layout = Layout::contiguous(Shape::new(&[out.len()]));
                wide.copy_from_slice(&widen(View { data: out.as_slice(), layout: &layout }));
            }
            let (a, b) =
                (View { data: f32::slice(&xa), layout: &la }, View { data: f32::slice(&xb), layout: &lb });
            batched(a, b, &mut wide, add);
            narrow(&wide, out.reborrow());
        }
        other => panic!("a matrix product of type {:?}", other.kind()),
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

fn batched<T: Float>(a: View<'_>, b: View<'_>, out: &mut [T], add: bool) {
    assert_in_bounds(a);
    assert_in_bounds(b);
    let (xa, xb) = (T::read(&a.data).expect("type checked"), T::read(&b.data).expect("type checked"));
    let rank = a.layout.rank();
    let (m, k, n) = (a.layout.dims()[rank - 2], a.layout.dims()[rank - 1], b.layout.dims()[rank - 1]);
    if out.is_empty() {
        return;
    }
    if k == 0 {
        if !add {
            out.fill(T::ZERO);
        }
        return;
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
    for (i, out) in out.chunks_exact_mut(m * n).enumerate() {
        let at = |data, layout: &Layout| -> Matrix<'_, T> {
            let data: &[T] = data;
            Matrix {
                data: &data[start(layout, i)..],
                row: layout.strides()[rank - 2],
                column: layout.strides()[rank - 1],
            }
        };
        multiply([m, k, n], at(xa, a.layout), at(xb, b.layout), out, add);
    }
}

/// out (m × n, contiguous) = or += a (m × k) · b (k × n).
pub(crate) fn multiply<T: Float>(
    [m, k, n]: [usize; 3],
    a: Matrix<'_, T>,
    b: Matrix<'_, T>,
    out: &mut [T],
    add: bool,
) {
    for i in 0..m {
        let row = &mut out[i * n..][..n];
        if !add {
            row.fill(T::ZERO);
        }
        for l in 0..k {
            let x = a.data[i * a.row + l * a.column];
            for (j, y) in row.iter_mut().enumerate() {
                *y += x * b.data[l * b.row + j * b.column];
            }
        }
    }
}
