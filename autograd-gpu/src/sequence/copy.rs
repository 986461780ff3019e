//! Elements moved within a sequence: into row-major order, into a part of a larger value, to another
//! type.

use super::{BLOCK, Call, Code, Draft, Launch, Passed, Placed, blocks};
use crate::Words;
use crate::plan::place::walk;
use autograd_core::kernels::expr::Builder;
use autograd_core::{DType, Layout, Meta};

impl Draft {
    /// x in row-major order, in a room.
    pub(super) fn in_order(&mut self, x: &Placed) -> Option<Placed> {
        let to = Placed::new(self.room(x.meta().bytes()), &x.meta());
        self.copy(x, &to)?;
        Some(to)
    }

    /// Writes the elements of x, in row-major order, where y has them.
    pub(super) fn copy(&mut self, x: &Placed, y: &Placed) -> Option<()> {
        let n = x.layout.elements();
        if n == 0 {
            return Some(());
        }
        // y has as many elements; where it has another shape it is in row-major order.
        let target = if y.layout.shape() == x.layout.shape() {
            y.layout
        } else {
            y.layout.reshape(*x.layout.shape())?
        };
        let walk = walk(x.layout.dims(), (0, x.layout.strides()), (0, target.strides()))?;
        let y = Placed { layout: target, ..*y };
        let arguments = [Passed::Address(x.first()), Passed::Address(y.first())];
        self.call(format!("copy_{}", x.dtype.size_in_bytes()), n, arguments, walk.words());
        Some(())
    }

    /// Writes x into a part of y that begins at `start` of a dimension.
    pub(super) fn copy_into(&mut self, x: &Placed, y: &Placed, dim: usize, start: usize) -> Option<()> {
        let extent = *x.layout.dims().get(dim)?;
        self.copy(x, &Placed { layout: y.layout.narrow(dim, start, extent), ..*y })
    }

    /// The values behind each other along a dimension.
    pub(super) fn cat(&mut self, dim: usize, reads: &[Placed], y: &Placed) -> Option<()> {
        let mut start = 0;
        for x in reads {
            self.copy_into(x, y, dim, start)?;
            start += x.layout.dims().get(dim)?;
        }
        Some(())
    }

    /// Indices as 64-bit integers, in a room.
    pub(super) fn indices(&mut self, x: &Placed) -> Option<Placed> {
        let entry = match x.dtype {
            DType::U8 => "index_of_u8",
            DType::U32 => "index_of_u32",
            _ => return None,
        };
        let x = if x.layout.is_contiguous() { *x } else { self.in_order(x)? };
        let meta = Meta { dtype: DType::I64, ..x.meta() };
        let to = Placed::new(self.room(meta.bytes()), &meta);
        let n = x.layout.elements();
        let arguments = [Passed::Address(x.first()), Passed::Address(to.spot)];
        self.call(entry.to_owned(), n, arguments, Words::from_slice(&[n as u64]));
        Some(to)
    }

    /// x as another type: from and to floats by an expression; a wider integer keeps the number.
    pub(super) fn cast(&mut self, x: &Placed, y: &Placed) -> Option<()> {
        if let Some(low) = low_bytes(x, y.dtype) {
            return self.copy(&low, y);
        }
        let mut b = Builder::new();
        let number = b.input(0);
        self.expression(&b.finish(&[number], 1, 0), &[], &[*x], &[*y])
    }

    fn call(&mut self, entry: String, n: usize, buffers: [Passed; 2], last: Words) {
        let arguments = buffers.into_iter().chain([Passed::Value(last)]).collect();
        let call =
            Call { code: Code::File("copy"), entry, grid: blocks(n), threads: BLOCK as u32, arguments };
        self.made.launches.push(Launch::Kernel(call));
    }
}

/// x as an integer that is no wider: its low bytes, which come first on every device that has
/// these kernels. `None` where it is no such cast.
fn low_bytes(x: &Placed, to: DType) -> Option<Placed> {
    let width = |dtype| match dtype {
        DType::U8 => Some(1usize),
        DType::U32 => Some(4),
        DType::I64 => Some(8),
        _ => None,
    };
    if x.dtype == to {
        return Some(*x);
    }
    let times = width(x.dtype)?.checked_div(width(to)?).filter(|&times| times > 0)?;
    let strides: Vec<usize> = x.layout.strides().iter().map(|stride| stride * times).collect();
    let layout = Layout::new(*x.layout.shape(), &strides, x.layout.offset() * times);
    Some(Placed { layout, dtype: to, ..*x })
}
