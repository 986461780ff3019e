//! Triangles of matrices.

use crate::copy::copy;
use crate::{SliceMut, View};

/// The lower triangle of each matrix of `x` (elements with column − row ≤ `diagonal`), or with
/// `upper` the upper one (≥ `diagonal`); zeros elsewhere.
///
/// # Panics
/// Panics where `x` has fewer than two dimensions, or `out` not as many elements.
pub fn triangle(upper: bool, diagonal: isize, x: View<'_>, mut out: SliceMut<'_>) {
    let &[.., rows, columns] = x.layout.dims() else {
        panic!("triangle: shape {:?} has two dimensions", x.layout.dims())
    };
    copy(x, out.reborrow());
    // Row r keeps its columns from (upper) or below (lower) this one.
    let edge = |r: usize| {
        let edge = (r as isize).saturating_add(diagonal).saturating_add(isize::from(!upper));
        usize::try_from(edge).unwrap_or(0).min(columns)
    };
    macro_rules! kinds {
        ($($variant:ident),*) => {
            match out {
                $(SliceMut::$variant(out) => {
                    for (i, row) in out.chunks_exact_mut(columns.max(1)).enumerate() {
                        let edge = edge(i % rows.max(1));
                        let clear = if upper { &mut row[..edge] } else { &mut row[edge..] };
                        clear.fill(Default::default());
                    }
                })*
            }
        };
    }
    kinds!(F64, F32, BF16, F16, U8, U32, I64);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Element, Layout, Shape};

    #[test]
    fn both_triangles() {
        let x = [1u8; 6];
        let layout = Layout::contiguous(Shape::new(&[2, 3]));
        let view = View { data: u8::slice(&x), layout: &layout };
        let cut = |upper, diagonal| {
            let mut out = [9u8; 6];
            triangle(upper, diagonal, view, u8::slice_mut(&mut out));
            out
        };
        assert_eq!(cut(false, 0), [1, 0, 0, 1, 1, 0]);
        assert_eq!(cut(true, 0), [1, 1, 1, 0, 1, 1]);
        assert_eq!(cut(true, 1), [0, 1, 1, 0, 0, 1]);
        assert_eq!(cut(false, -1), [0, 0, 0, 1, 0, 0]);
        assert_eq!(cut(true, 9), [0; 6]);
        assert_eq!(cut(false, isize::MAX), [1; 6]);
    }
}
