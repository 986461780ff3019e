//! Writing into a part of a buffer: the other direction of a strided copy.

use crate::{Element, Layout, SliceMut, View};

/// Writes the elements of `x` to where `at` puts them in `out`; the rest of `out` keeps its
/// content.
///
/// # Panics
/// Panics where shapes or element types differ, or where `out` is shorter than `at` needs.
pub fn place(x: View<'_>, mut out: SliceMut<'_>, at: &Layout) {
    assert_eq!(x.layout.shape(), at.shape(), "place: both sides have one shape");
    macro_rules! kinds {
        ($($variant:ident),*) => {
            match (x.data, out.reborrow()) {
                $((crate::Slice::$variant(from), SliceMut::$variant(to)) => place_typed(from, x.layout, to, at),)*
                (from, to) => panic!("place: {:?} into {:?}", from.kind(), to.kind()),
            }
        };
    }
    kinds!(F64, F32, BF16, F16, U8, U32, I64);
}

fn place_typed<T: Element>(from: &[T], x: &Layout, to: &mut [T], at: &Layout) {
    let rank = x.rank();
    if x.elements() == 0 {
        return;
    }
    let (outer, last) = if rank == 0 { (&[][..], 1) } else { (&x.dims()[..rank - 1], x.dims()[rank - 1]) };
    let stride = |layout: &Layout| layout.strides().last().copied().unwrap_or(1);
    let (step_from, step_to) = (stride(x), stride(at));
    let mut index = [0usize; crate::MAX_RANK];
    let (mut a, mut b) = (x.offset(), at.offset());
    loop {
        if step_from == 1 && step_to == 1 {
            to[b..b + last].copy_from_slice(&from[a..a + last]);
        } else {
            for i in 0..last {
                to[b + i * step_to] = from[a + i * step_from];
            }
        }
        let mut d = outer.len();
        loop {
            if d == 0 {
                return;
            }
            d -= 1;
            index[d] += 1;
            a += x.strides()[d];
            b += at.strides()[d];
            if index[d] < outer[d] {
                break;
            }
            a -= x.strides()[d] * index[d];
            b -= at.strides()[d] * index[d];
            index[d] = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Shape;

    #[test]
    fn a_transposed_block_lands_in_its_place() {
        let x = [1f32, 2., 3., 4., 5., 6.];
        let from = Layout::contiguous(Shape::new(&[2, 3])).permute(&[1, 0]);
        let mut out = [0f32; 16];
        let at = Layout::contiguous(Shape::new(&[4, 4])).narrow(0, 1, 3).narrow(1, 2, 2);
        place(View { data: f32::slice(&x), layout: &from }, f32::slice_mut(&mut out), &at);
        assert_eq!(out, [0., 0., 0., 0., 0., 0., 1., 4., 0., 0., 2., 5., 0., 0., 3., 6.]);
    }
}
