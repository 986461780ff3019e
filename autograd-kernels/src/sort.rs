//! Sorting along a dimension.

use crate::copy::copy;
use crate::operand::assert_in_bounds;
use crate::{Element, Layout, Shape, SliceMut, View, bf16, f16};
use std::cmp::Ordering;

/// The elements along `dim` in ascending or descending order and their indices there: the first
/// of them, as many as the outputs have room for. Equal elements keep their order; NaN counts as
/// the largest.
///
/// # Panics
/// Panics where `dim` is no dimension, the outputs differ in length or have no whole number of
/// elements for each row, or `indices` is not U32.
pub fn sort(descending: bool, x: View<'_>, dim: usize, values: SliceMut<'_>, indices: SliceMut<'_>) {
    assert!(dim < x.layout.rank(), "sort: the dimension exists");
    assert!(values.len() == indices.len(), "sort: as many values as indices");
    assert_in_bounds(x);
    let SliceMut::U32(indices) = indices else { panic!("sort: the indices are U32") };
    macro_rules! kinds {
        ($($variant:ident $ty:ident $order:expr),*) => {
            match values {
                $(SliceMut::$variant(values) => {
                    let mut data = vec![$ty::default(); x.layout.elements()];
                    copy(x, $ty::slice_mut(&mut data));
                    sort_typed(descending, &data, x.layout, dim, values, indices, $order);
                })*
            }
        };
    }
    assert!(values.kind() == x.kind(), "sort: {:?} into {:?}", x.kind(), values.kind());
    kinds!(
        F64 f64 |a, b| floats(*a, *b),
        F32 f32 |a, b| floats(*a, *b),
        BF16 bf16 |a, b| floats(a.to_f32(), b.to_f32()),
        F16 f16 |a, b| floats(a.to_f32(), b.to_f32()),
        U8 u8 Ord::cmp,
        U32 u32 Ord::cmp,
        I64 i64 Ord::cmp
    );
}

/// The order of floats with NaN above all.
fn floats<T: PartialOrd>(a: T, b: T) -> Ordering {
    a.partial_cmp(&b).unwrap_or_else(|| is_nan(&a).cmp(&is_nan(&b)))
}

fn is_nan<T: PartialOrd>(x: &T) -> bool {
    x.partial_cmp(x).is_none()
}

fn sort_typed<T: Element>(
    descending: bool,
    data: &[T],
    layout: &Layout,
    dim: usize,
    values: &mut [T],
    indices: &mut [u32],
    order: impl Fn(&T, &T) -> Ordering,
) {
    let dims = layout.dims();
    let (n, inner) = (dims[dim], dims[dim + 1..].iter().product::<usize>());
    let rows = Shape::new(&dims[..dim]).elements() * inner;
    if rows == 0 {
        return;
    }
    assert!(values.len().is_multiple_of(rows), "sort: a whole number of elements for each row");
    let keep = values.len() / rows;
    assert!(keep <= n, "sort: {keep} of {n} elements");
    assert!(u32::try_from(n).is_ok(), "sort: {n} elements have u32 indices");
    let mut row: Vec<u32> = Vec::with_capacity(n);
    for r in 0..rows {
        let (outer, within) = (r / inner, r % inner);
        let at = |i: u32| &data[(outer * n + i as usize) * inner + within];
        row.clear();
        row.extend(0..n as u32);
        let compare = |a: &u32, b: &u32| {
            let ascending = order(at(*a), at(*b));
            let values = if descending { ascending.reverse() } else { ascending };
            values.then(a.cmp(b))
        };
        if keep < n && keep > 0 {
            row.select_nth_unstable_by(keep - 1, compare);
            row.truncate(keep);
        }
        row.sort_unstable_by(compare);
        for (k, &i) in row.iter().take(keep).enumerate() {
            let to = (outer * keep + k) * inner + within;
            values[to] = *at(i);
            indices[to] = i;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_elements_keep_their_order_and_nan_is_largest() {
        let x = [2f32, 1., f32::NAN, 1., 0.];
        let layout = Layout::contiguous(Shape::new(&[5]));
        let view = View { data: f32::slice(&x), layout: &layout };
        let (mut values, mut indices) = ([0f32; 5], [0u32; 5]);
        sort(false, view, 0, f32::slice_mut(&mut values), u32::slice_mut(&mut indices));
        assert_eq!(indices, [4, 1, 3, 0, 2]);
        let (mut values, mut indices) = ([0f32; 3], [0u32; 3]);
        sort(true, view, 0, f32::slice_mut(&mut values), u32::slice_mut(&mut indices));
        assert_eq!(indices, [2, 0, 1]);
        assert_eq!(values[1..], [2., 1.]);
    }

    #[test]
    fn columns_are_sorted_on_their_own() {
        let x = [3i64, 1, 2, 5, 1, 4];
        let layout = Layout::contiguous(Shape::new(&[3, 2]));
        let view = View { data: i64::slice(&x), layout: &layout };
        let (mut values, mut indices) = ([0i64; 6], [0u32; 6]);
        sort(false, view, 0, i64::slice_mut(&mut values), u32::slice_mut(&mut indices));
        assert_eq!(values, [1, 1, 2, 4, 3, 5]);
        assert_eq!(indices, [2, 0, 1, 2, 0, 1]);
    }
}
