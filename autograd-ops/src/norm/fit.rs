//! Which of the norms' own kernels shapes fit. What fits none is left to the tile machine.

use autograd_core::{Layout, Mask, Shape};

/// Runs shorter than this are left to the tile machine.
const SHORTEST_RUN: usize = 16;
/// Large values with fewer sets are left to the tile machine, which divides sets too.
const FEWEST_SETS: usize = 8;
const LARGE: usize = 1 << 16;

/// The kernels that a centred normalisation has.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Fit {
    /// Over the last dimension, with nothing or that dimension for weight and bias.
    Rows,
    /// x as [batch, channels, run], with nothing or the channels for weight and bias.
    Channels {
        shape: Shape,
        /// Into how many groups the channels of an example fall; `None` where the statistics are
        /// taken over the batch.
        groups: Option<usize>,
    },
}

impl Fit {
    /// For statistics over some dimensions of x, and the shapes of weight and bias.
    pub(super) fn of(over: Mask, x: &Shape, affine: impl Iterator<Item = Shape> + Clone) -> Option<Self> {
        let n = *x.dims().last()?;
        let along = |s: Shape| s.dims().last() == Some(&n) && s.elements() == n;
        if over == Mask::one(x.rank() - 1) && affine.clone().all(along) {
            return Some(Self::Rows);
        }
        Self::channels(over, x, affine)
    }

    fn channels(over: Mask, x: &Shape, mut affine: impl Iterator<Item = Shape>) -> Option<Self> {
        let (dims, rank) = (x.dims(), x.rank());
        let last = rank.checked_sub(1).filter(|_| x.elements() > 0)?;
        let (parts, grouped) = match rank {
            3 if over == Mask::one(0).with(2) => (1, false),
            _ if over == Mask::one(last) && rank > 2 => (1, true),
            _ if rank > 3 && over == Mask::one(last).with(last - 1) => (2, true),
            _ => return None,
        };
        let (lead, run) = (last - parts, dims[last]);
        let mut own = *x;
        let others = own.dims_mut().iter_mut().enumerate().filter(|(d, _)| !(lead..last).contains(d));
        others.for_each(|(_, extent)| *extent = 1);
        let channels = own.elements();
        let fits = |part: Shape| {
            part.elements() == channels && Layout::contiguous(part).broadcast_to(&own).is_some()
        };
        let batch: usize = dims[..lead].iter().product();
        let groups = grouped.then_some(dims[lead]);
        let sets = groups.map_or(channels, |groups| batch * groups);
        let pays = run >= SHORTEST_RUN && (sets >= FEWEST_SETS || x.elements() <= LARGE);
        (pays && affine.all(fits))
            .then(|| Self::Channels { shape: Shape::new(&[batch, channels, run]), groups })
    }

    /// How the kernels see a value of x's shape, where it can be seen so without a copy.
    pub(super) fn seen(&self, layout: &Layout) -> Option<Layout> {
        match self {
            Self::Rows => Some(*layout),
            Self::Channels { shape, .. } => layout.reshape(*shape),
        }
    }
}
