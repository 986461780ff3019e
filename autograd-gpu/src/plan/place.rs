//! Elements that change their places: written over a part, in the opposite order, triangles of matrices.

use super::{Argument, BLOCK, Draft, Plan, Structure, blocks_for};
use autograd_core::device::KernelCall;
use autograd_core::{DType, Layout, MAX_RANK, Shape};

/// Elements as a copy walks them: where they begin, and the step along each dimension. One that leads
/// backwards is a number modulo 2⁶⁴.
pub(super) struct Way {
    pub(super) start: usize,
    pub(super) steps: Vec<usize>,
}

impl Way {
    pub(super) fn of(layout: &Layout) -> Self {
        Self { start: layout.offset(), steps: layout.strides().to_vec() }
    }
}

/// How a copy walks dimensions of these extents, as its kernel takes it; `None` for extents that it
/// does not count.
pub(crate) fn walk(dims: &[usize], from: (usize, &[usize]), to: (usize, &[usize])) -> Option<Structure> {
    let first = MAX_RANK.checked_sub(dims.len())?;
    let wide = |numbers: &[usize], missing: usize| {
        let mut all = [missing; MAX_RANK];
        all[first..].copy_from_slice(numbers);
        all
    };
    let walk = Structure::default().u64(dims.iter().product()).u64(from.0).u64(to.0);
    let walk = wide(from.1, 0).into_iter().chain(wide(to.1, 0)).fold(walk, Structure::u64);
    wide(dims, 1).into_iter().try_fold(walk, Structure::u32)
}

impl Draft<'_> {
    /// Copies elements of these extents from one way to another.
    pub(super) fn moved(
        &mut self,
        dtype: DType,
        dims: &[usize],
        (from, read): (Argument, &Way),
        (to, written): (Argument, &Way),
    ) -> Option<()> {
        let walk = walk(dims, (read.start, &read.steps), (written.start, &written.steps))?;
        let n: usize = dims.iter().product();
        let entry = format!("copy_{}", dtype.size_in_bytes());
        self.launch("copy", entry, [blocks_for(n), 1], BLOCK as usize, vec![from, to, walk.done()])
    }

    /// Copies n elements in row-major order.
    pub(super) fn copied(&mut self, from: Argument, to: Argument, dtype: DType, n: usize) -> Option<()> {
        let line = || Way { start: 0, steps: vec![1] };
        self.moved(dtype, &[n], (from, &line()), (to, &line()))
    }
}

/// Where the second input of an assignment goes in a whole of this shape: at a first element and a step
/// along each dimension, or at a diagonal, which is its last dimension.
fn part(call: &KernelCall, whole: &Shape) -> Option<Way> {
    let whole = Layout::contiguous(*whole);
    let numbers: Vec<usize> = call.integers.iter().map(|&n| n as usize).collect();
    let mut steps = whole.strides().to_vec();
    if call.kernel == "slice" {
        let mut start = 0;
        for (d, pair) in numbers.chunks_exact(2).enumerate() {
            start += pair[0] * whole.strides().get(d)?;
            steps[d] *= pair[1];
        }
        return Some(Way { start, steps });
    }
    let &[a, b, row, column] = &numbers[..] else { return None };
    let (of_a, of_b) = (*whole.strides().get(a)?, *whole.strides().get(b)?);
    for d in [a.max(b), a.min(b)] {
        steps.remove(d);
    }
    steps.push(of_a + of_b);
    Some(Way { start: row * of_a + column * of_b, steps })
}

/// Inputs x and what is written over a part of it.
pub(super) fn assign(mut draft: Draft<'_>, call: &KernelCall) -> Option<Plan> {
    let (x, source) = (draft.inputs[0], draft.inputs[1]);
    let (part, own) = (part(call, &x.shape)?, Way::of(&Layout::contiguous(source.shape)));
    draft.copied(Argument::Input(0), Argument::Output(0), x.dtype, x.elements())?;
    let (from, to) = ((Argument::Input(1), &own), (Argument::Output(0), &part));
    draft.moved(x.dtype, source.shape.dims(), from, to)?;
    draft.done()
}

/// A dimension in the opposite order.
pub(super) fn flip(mut draft: Draft<'_>, call: &KernelCall) -> Option<Plan> {
    let dim = usize::try_from(*call.integers.first()?).ok()?;
    let x = draft.inputs[0];
    let layout = Layout::contiguous(x.shape);
    let mut back = Way::of(&layout);
    let step = back.steps.get_mut(dim)?;
    back.start = (x.shape.dims()[dim] - 1) * *step;
    *step = step.wrapping_neg();
    let (from, to) = ((Argument::Input(0), &back), (Argument::Output(0), &Way::of(&layout)));
    draft.moved(x.dtype, x.shape.dims(), from, to)?;
    draft.done()
}

/// A triangle of each matrix.
pub(super) fn triangle(mut draft: Draft<'_>, call: &KernelCall) -> Option<Plan> {
    let (&[upper, diagonal], x) = (&call.integers[..], draft.inputs[0]) else { return None };
    let &[.., rows, columns] = x.shape.dims() else { return None };
    let n = x.elements();
    let triangle = [rows, columns, diagonal as usize, upper as usize, n]
        .into_iter()
        .fold(Structure::default(), Structure::u64);
    let arguments = vec![Argument::Input(0), Argument::Output(0), triangle.done()];
    let entry = format!("triangle_{}", x.dtype.size_in_bytes());
    draft.launch("triangle", entry, [blocks_for(n), 1], BLOCK as usize, arguments)?;
    draft.done()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_lie_where_they_are_read() {
        let whole = Shape::new(&[3, 4, 5]);
        let steps = KernelCall::new("slice", &[1, 1, 0, 2, 3, 1], &[]);
        let way = part(&steps, &whole).map(|way| (way.start, way.steps));
        assert_eq!(way, Some((23, vec![20, 10, 1])));
        let diagonal = KernelCall::new("diagonal", &[2, 0, 1, 0], &[]);
        let way = part(&diagonal, &whole).map(|way| (way.start, way.steps));
        assert_eq!(way, Some((1, vec![5, 21])));
    }
}
