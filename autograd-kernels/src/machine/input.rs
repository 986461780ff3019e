//! How a tile reads an input.

use crate::copy::copy;
use crate::simd::Float;
use crate::{MAX_RANK, Shape, Slice, View, memory};

/// Larger inputs whose rows are not contiguous are made so first, in blocks.
const COPY_FROM: usize = 4096;

/// The numbers of an input.
enum Data<'a, T> {
    /// In the type of computation.
    Same(&'a [T]),
    /// In another type.
    Other(Slice<'a>),
    /// Copied.
    Copied(Vec<T>),
    /// One number.
    One(T),
    /// In the memory of the first output, from which the worker copies it.
    Over,
}

/// An input, broadcast to the merged shape.
pub(super) struct Input<'a, T> {
    data: Data<'a, T>,
    offset: usize,
    strides: [usize; MAX_RANK],
    /// Whether element i of the shape is element i of the data.
    contiguous: bool,
}

/// A tile of an input.
#[derive(Clone, Copy)]
pub(super) enum Source<'a, T> {
    /// In place.
    Slice(&'a [T]),
    /// One number.
    One(T),
    /// Converted into the worker's buffer for this input.
    Buffer,
}

impl<'a, T: Float> Input<'a, T> {
    /// `lean`: without memory for a copy, where one would pay.
    pub(super) fn new(x: &View<'a>, shape: &Shape, strides: [usize; MAX_RANK], lean: bool) -> Self {
        assert!(x.layout.end() <= x.data.len(), "machine: an input lies within its buffer");
        let (rank, offset) = (shape.rank(), x.layout.offset());
        if strides[..rank].iter().all(|&s| s == 0) {
            let mut one = [T::ZERO];
            T::gather(&x.data, offset, 0, &mut one);
            return Self { data: Data::One(one[0]), offset: 0, strides, contiguous: false };
        }
        let inner = strides[rank - 1];
        let repeated = strides[..rank].contains(&0);
        if inner > 1 && !repeated && !lean && shape.elements() >= COPY_FROM {
            let mut copied = memory::take::<T>(shape.elements());
            copy(*x, T::slice_mut(&mut copied));
            let strides = shape.contiguous_strides();
            return Self { data: Data::Copied(copied), offset: 0, strides, contiguous: true };
        }
        let contiguous = strides[..rank] == shape.contiguous_strides()[..rank];
        let data = match T::read(&x.data) {
            Some(data) => Data::Same(data),
            None => Data::Other(x.data),
        };
        Self { data, offset, strides, contiguous }
    }

    /// An input in the memory of the first output.
    pub(super) fn over(strides: [usize; MAX_RANK]) -> Self {
        Self { data: Data::Over, offset: 0, strides, contiguous: true }
    }

    /// The elements `start .. start + out.len()` of dimension last, where `base` is what the other
    /// dimensions add to the offset; into `buffer` where they do not lie in place.
    pub(super) fn in_row<'b>(
        &'b self,
        rank: usize,
        base: usize,
        start: usize,
        buffer: &mut [T],
    ) -> Source<'b, T> {
        let stride = if rank == 0 { 0 } else { self.strides[rank - 1] };
        let from = self.offset + base + start * stride;
        let slice: Slice<'_> = match &self.data {
            Data::One(x) => return Source::One(*x),
            Data::Over => return Source::Buffer,
            Data::Same(x) if stride == 1 => return Source::Slice(&x[from..from + buffer.len()]),
            Data::Same(x) if stride == 0 => return Source::One(x[from]),
            Data::Copied(x) => return Source::Slice(&x[from..from + buffer.len()]),
            Data::Same(x) => T::slice(x),
            Data::Other(x) => *x,
        };
        if stride == 0 {
            let mut one = [T::ZERO];
            T::gather(&slice, from, 0, &mut one);
            return Source::One(one[0]);
        }
        T::gather(&slice, from, stride, buffer);
        Source::Buffer
    }

    /// The elements `start .. start + buffer.len()` in row-major order, across rows.
    pub(super) fn across<'b>(&'b self, shape: &Shape, start: usize, buffer: &mut [T]) -> Source<'b, T> {
        let slice = match &self.data {
            Data::One(x) => return Source::One(*x),
            Data::Over => return Source::Buffer,
            Data::Same(x) if self.contiguous => {
                return Source::Slice(&x[self.offset + start..][..buffer.len()]);
            }
            Data::Copied(x) => return Source::Slice(&x[start..][..buffer.len()]),
            Data::Other(x) if self.contiguous => {
                T::gather(x, self.offset + start, 1, buffer);
                return Source::Buffer;
            }
            Data::Same(x) => T::slice(x),
            Data::Other(x) => *x,
        };
        let stride = self.strides[shape.rank() - 1];
        for_each_run(shape, &self.strides, start, buffer.len(), |at, from, len| {
            T::gather(&slice, self.offset + from, stride, &mut buffer[at..at + len]);
        });
        Source::Buffer
    }

    /// What each step of a dimension adds to the offset.
    pub(super) fn strides(&self) -> &[usize; MAX_RANK] {
        &self.strides
    }

    /// Gives a copy's memory back.
    pub(super) fn end(&mut self) {
        if let Data::Copied(x) = &mut self.data {
            memory::give(std::mem::take(x));
        }
    }
}

/// The runs along the last dimension that make up `start .. start + len` of a shape in row-major
/// order: f(number of the run's first element counted from start, its index, its length).
pub(super) fn for_each_run(
    shape: &Shape,
    strides: &[usize; MAX_RANK],
    start: usize,
    len: usize,
    mut f: impl FnMut(usize, usize, usize),
) {
    let (dims, last) = (shape.dims(), shape.rank() - 1);
    let mut index = [0; MAX_RANK];
    let mut rest = start;
    let mut base = 0;
    for d in (0..=last).rev() {
        index[d] = rest % dims[d];
        rest /= dims[d];
        if d != last {
            base += index[d] * strides[d];
        }
    }
    let mut done = 0;
    while done < len {
        let run = (dims[last] - index[last]).min(len - done);
        f(done, base + index[last] * strides[last], run);
        done += run;
        index[last] = 0;
        for d in (0..last).rev() {
            index[d] += 1;
            base += strides[d];
            if index[d] < dims[d] {
                break;
            }
            base -= strides[d] * index[d];
            index[d] = 0;
        }
    }
}
