//! Shapes and layouts, inline and `Copy`: nothing in this crate allocates to describe a tensor.

use std::fmt;

/// The largest number of dimensions a shape can have.
pub const MAX_RANK: usize = 8;

/// The extent of each dimension, outermost first; at most [`MAX_RANK`] of them.
#[derive(Clone, Copy)]
pub struct Shape {
    /// As wide as the extents: a struct without gaps is copied in whole words.
    rank: usize,
    dims: [usize; MAX_RANK],
}

impl Shape {
    /// The shape of a scalar: no dimension, one element.
    pub const SCALAR: Shape = Shape { rank: 0, dims: [0; MAX_RANK] };

    /// The shape with these extents, or `None` where there are more than [`MAX_RANK`].
    pub fn try_new(dims: &[usize]) -> Option<Self> {
        let mut shape = Self::SCALAR;
        shape.dims.get_mut(..dims.len())?.copy_from_slice(dims);
        shape.rank = dims.len();
        Some(shape)
    }

    /// The shape with these extents.
    ///
    /// # Panics
    /// Panics on more than [`MAX_RANK`] dimensions; callers that take outside data use
    /// [`Shape::try_new`].
    pub fn new(dims: &[usize]) -> Self {
        Self::try_new(dims).expect("a shape has at most MAX_RANK dimensions")
    }

    /// The number of dimensions.
    #[inline]
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// The extents.
    #[inline]
    pub fn dims(&self) -> &[usize] {
        &self.dims[..self.rank]
    }

    /// The extents, to be changed in place.
    #[inline]
    pub fn dims_mut(&mut self) -> &mut [usize] {
        &mut self.dims[..self.rank]
    }

    /// The number of elements: the product of the extents, 1 for a scalar.
    #[inline]
    pub fn elements(&self) -> usize {
        self.dims().iter().product()
    }

    /// This shape with one more dimension of extent `dim` at the end; `None` at [`MAX_RANK`].
    pub fn push(mut self, dim: usize) -> Option<Self> {
        *self.dims.get_mut(self.rank)? = dim;
        self.rank += 1;
        Some(self)
    }

    /// The NumPy broadcast of two shapes, or `None` where they do not fit.
    pub fn broadcast(&self, other: &Self) -> Option<Self> {
        if self == other {
            return Some(*self);
        }
        let rank = self.rank().max(other.rank());
        let mut out = Self { rank, dims: [0; MAX_RANK] };
        for i in 0..rank {
            let a = (i + self.rank()).checked_sub(rank).map_or(1, |j| self.dims[j]);
            let b = (i + other.rank()).checked_sub(rank).map_or(1, |j| other.dims[j]);
            out.dims[i] = match (a, b) {
                (a, b) if a == b => a,
                (1, b) => b,
                (a, 1) => a,
                _ => return None,
            };
        }
        Some(out)
    }

    /// Row-major strides, in elements.
    #[inline]
    pub fn contiguous_strides(&self) -> [usize; MAX_RANK] {
        let mut strides = [0; MAX_RANK];
        let mut step = 1;
        for i in (0..self.rank()).rev() {
            strides[i] = step;
            step *= self.dims[i].max(1);
        }
        strides
    }
}

// Compared at every op: a loop over the few dimensions there are beats a call to compare them all.
impl PartialEq for Shape {
    #[inline]
    fn eq(&self, other: &Self) -> bool {
        self.rank == other.rank && (0..self.rank()).all(|i| self.dims[i] == other.dims[i])
    }
}

impl Eq for Shape {}

impl std::hash::Hash for Shape {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.dims().hash(state);
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.dims()).finish()
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Where the elements of a tensor lie in its buffer: a shape, a stride for each dimension (in
/// elements, 0 along a broadcast dimension) and the offset of the first element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    shape: Shape,
    strides: [usize; MAX_RANK],
    offset: usize,
}

impl Layout {
    /// The row-major layout of `shape`, starting at the buffer's first element.
    #[inline]
    pub fn contiguous(shape: Shape) -> Self {
        Self::contiguous_from(shape, 0)
    }

    /// The row-major layout of `shape`, starting at the buffer's element `offset`.
    #[inline]
    pub fn contiguous_from(shape: Shape, offset: usize) -> Self {
        Self { shape, strides: shape.contiguous_strides(), offset }
    }

    /// A layout given in full.
    ///
    /// # Panics
    /// Panics where there is not one stride for each dimension.
    pub fn new(shape: Shape, strides: &[usize], offset: usize) -> Self {
        assert_eq!(shape.rank(), strides.len(), "a layout has one stride for each dimension");
        let mut all = [0; MAX_RANK];
        all[..strides.len()].copy_from_slice(strides);
        Self { shape, strides: all, offset }
    }

    /// The shape.
    #[inline]
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The extents.
    #[inline]
    pub fn dims(&self) -> &[usize] {
        self.shape.dims()
    }

    /// The number of dimensions.
    #[inline]
    pub fn rank(&self) -> usize {
        self.shape.rank()
    }

    /// The strides, in elements.
    #[inline]
    pub fn strides(&self) -> &[usize] {
        &self.strides[..self.shape.rank()]
    }

    /// The index of the first element in the buffer.
    #[inline]
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// The number of elements of the tensor (not of its buffer).
    #[inline]
    pub fn elements(&self) -> usize {
        self.shape.elements()
    }

    /// Whether the elements lie one after the other in row-major order, at any offset.
    #[inline]
    pub fn is_contiguous(&self) -> bool {
        let mut step = 1;
        for i in (0..self.rank()).rev() {
            let dim = self.shape.dims[i];
            if dim != 1 && self.strides[i] != step {
                return self.elements() == 0;
            }
            step *= dim;
        }
        true
    }

    /// One past the largest buffer index that an element has: the buffer must be this long.
    pub fn end(&self) -> usize {
        if self.elements() == 0 {
            return self.offset;
        }
        let last: usize = self.dims().iter().zip(self.strides()).map(|(d, s)| (d - 1) * s).sum();
        self.offset + last + 1
    }

    /// The layout read as the larger `shape` by NumPy's rules (stride 0 where a dimension is
    /// repeated), or `None` where it does not broadcast to it.
    pub fn broadcast_to(&self, shape: &Shape) -> Option<Self> {
        let lead = shape.rank().checked_sub(self.rank())?;
        let mut strides = [0; MAX_RANK];
        for i in 0..self.rank() {
            let (have, want) = (self.shape.dims[i], shape.dims[i + lead]);
            strides[i + lead] = match have {
                _ if have == want => self.strides[i],
                1 => 0,
                _ => return None,
            };
        }
        Some(Self { shape: *shape, strides, offset: self.offset })
    }

    /// The layout with its dimensions in the order `order` (a permutation).
    pub fn permute(&self, order: &[usize]) -> Self {
        let mut out = *self;
        for (to, &from) in order.iter().enumerate() {
            out.shape.dims[to] = self.shape.dims[from];
            out.strides[to] = self.strides[from];
        }
        out
    }

    /// Dimensions a and b exchanged.
    #[inline]
    pub fn exchange(&self, a: usize, b: usize) -> Self {
        let mut out = *self;
        out.shape.dims.swap(a, b);
        out.strides.swap(a, b);
        out
    }

    /// The elements `start .. start + len` of dimension `dim`.
    pub fn narrow(&self, dim: usize, start: usize, len: usize) -> Self {
        let mut out = *self;
        out.shape.dims[dim] = len;
        out.offset += start * self.strides[dim];
        out
    }

    /// The same elements under another shape without moving them, or `None` where they would
    /// have to be copied first.
    pub fn reshape(&self, shape: Shape) -> Option<Self> {
        if self.is_contiguous() {
            return Some(Self::contiguous_from(shape, self.offset));
        }
        // Match runs of old dimensions against runs of new ones with the same product. Strides of
        // dimensions of extent 1 mean nothing: they are left out first.
        let (mut old, mut steps, mut rank) = ([1; MAX_RANK], [0; MAX_RANK], 0);
        for (&dim, &stride) in self.dims().iter().zip(self.strides()).filter(|(dim, _)| **dim != 1) {
            (old[rank], steps[rank]) = (dim, stride);
            rank += 1;
        }
        let (old, new) = (&old[..rank], shape.dims());
        let mut strides = [0; MAX_RANK];
        let (mut i, mut j) = (0, 0);
        while i < old.len() && j < new.len() {
            let (i0, j0) = (i, j);
            let (mut a, mut b) = (old[i], new[j]);
            while a != b {
                if a < b {
                    i += 1;
                    a *= *old.get(i)?;
                } else {
                    j += 1;
                    b *= *new.get(j)?;
                }
            }
            if (i0..i).any(|k| steps[k] != steps[k + 1] * old[k + 1]) {
                return None;
            }
            let mut step = steps[i];
            for k in (j0..=j).rev() {
                strides[k] = step;
                step *= new[k];
            }
            i += 1;
            j += 1;
        }
        Some(Self { shape, strides, offset: self.offset })
    }

    /// The buffer index of the element with this number in row-major order.
    pub fn index_of(&self, element: usize) -> usize {
        let (mut rest, mut at) = (element, self.offset);
        for d in (0..self.rank()).rev() {
            at += rest % self.shape.dims[d] * self.strides[d];
            rest /= self.shape.dims[d];
        }
        at
    }

    /// The buffer index of every element in row-major order, one call for each run along the
    /// last dimension: `f(first element's number, first index, length, stride)`.
    pub fn for_each_run(&self, mut f: impl FnMut(usize, usize, usize, usize)) {
        let total = self.elements();
        if total == 0 {
            return;
        }
        let rank = self.rank();
        if rank == 0 {
            return f(0, self.offset, 1, 1);
        }
        let (len, stride) = (self.shape.dims[rank - 1], self.strides[rank - 1]);
        let mut index = [0usize; MAX_RANK];
        let (mut at, mut done) = (self.offset, 0);
        loop {
            f(done, at, len, stride);
            done += len;
            if done == total {
                return;
            }
            for d in (0..rank - 1).rev() {
                index[d] += 1;
                at += self.strides[d];
                if index[d] < self.shape.dims[d] {
                    break;
                }
                at -= self.strides[d] * index[d];
                index[d] = 0;
            }
        }
    }
}

/// Drops dimensions of extent 1 and merges neighbours that every one of the stride lists walks
/// through in one step, so that kernels see few and long dimensions. The strides belong to
/// `shape`; they are changed to fit the shape that is returned.
pub(crate) fn merge_dims(shape: &Shape, strides: &mut [[usize; MAX_RANK]]) -> Shape {
    let mut out = Shape::SCALAR;
    let mut rank = 0;
    for d in 0..shape.rank() {
        let dim = shape.dims[d];
        if dim == 1 {
            continue;
        }
        // The last kept dimension and this one are one where a step of it is `dim` steps here.
        if rank > 0 && strides.iter().all(|s| s[rank - 1] == s[d] * dim) {
            out.dims[rank - 1] *= dim;
            strides.iter_mut().for_each(|s| s[rank - 1] = s[d]);
        } else {
            out.dims[rank] = dim;
            strides.iter_mut().for_each(|s| s[rank] = s[d]);
            rank += 1;
        }
    }
    out.rank = rank;
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeated_dimension_beside_one_of_extent_1_is_not_merged() {
        let layout = Layout::new(Shape::new(&[2, 1, 2]), &[0, 0, 1], 0);
        assert_eq!(layout.reshape(Shape::new(&[4])), None);
        let split = layout.reshape(Shape::new(&[2, 2])).expect("only the 1 is dropped");
        assert_eq!(split.strides(), [0, 1]);
    }

    /// Whatever view a reshape gives has the same elements in the same order.
    #[test]
    fn reshaped_views_have_the_same_elements() {
        let block = Layout::contiguous(Shape::new(&[2, 3, 4]));
        let thin = Layout::contiguous(Shape::new(&[2, 1, 3]));
        let slices = [block, block.narrow(2, 0, 1), block.narrow(1, 1, 1), thin, thin.narrow(2, 0, 1)];
        let orders = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
        let mut views = 0;
        for slice in slices.iter().flat_map(|slice| orders.map(|order| slice.permute(&order))) {
            // As it is, and with each dimension of extent 1 repeated.
            for repeated in 0..=slice.rank() {
                let mut dims = slice.dims().to_vec();
                dims.iter_mut().skip(repeated).take(1).filter(|d| **d == 1).for_each(|d| *d = 4);
                let layout = slice.broadcast_to(&Shape::new(&dims)).expect("only ones were changed");
                let n = layout.elements();
                for target in [vec![n], vec![1, n], vec![n, 1], vec![2, n / 2], vec![n / 2, 1, 2]] {
                    let Some(view) = layout.reshape(Shape::new(&target)) else { continue };
                    views += 1;
                    for element in 0..n {
                        let (got, want) = (view.index_of(element), layout.index_of(element));
                        assert_eq!(got, want, "{layout:?} as {target:?}");
                    }
                }
            }
        }
        assert!(views > 50, "only {views} were views");
    }
}
