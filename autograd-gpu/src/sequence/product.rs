//! Products of matrices in a sequence, read where they lie wherever the library can.

#[cfg(feature = "cuda")]
use super::Memory;
use super::{ALIGNED, BLOCK, Call, Code, Draft, Launch, Passed, Placed, Sequence, Spot, blocks};
use crate::plan::place::walk;
#[cfg(feature = "cuda")]
use autograd_core::Layout;
use autograd_core::{DType, Shape};

/// `y[b] = x[b] · w[b]` for every matrix of a batch, y in row-major order, added to something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Product {
    /// The left factor, rows × inner.
    pub x: Factor,
    /// The right factor, inner × columns.
    pub w: Factor,
    /// The product.
    pub y: Spot,
    /// The type of all three.
    pub dtype: DType,
    /// Rows of the product.
    pub rows: usize,
    /// Its columns.
    pub columns: usize,
    /// Terms of each of its numbers.
    pub inner: usize,
    /// Matrices.
    pub batch: usize,
    /// What it is added to.
    pub onto: Onto,
}

/// What a product is added to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Onto {
    /// Nothing.
    Nothing,
    /// A number for each column of its one matrix, by the library's epilogue.
    Bias(Spot),
    /// What lies in its place.
    Held,
}

/// A matrix of a product, or a batch of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Factor {
    /// Its first element.
    pub at: Spot,
    /// Whether its columns, not its rows, lie in one piece.
    pub turned: bool,
    /// The step from one row to the next, or one column where it is turned.
    pub step: usize,
    /// The step from one matrix of the batch to the next.
    pub batch: usize,
}

impl Product {
    /// The product without an epilogue: the bias in every row of its place first.
    fn onto_rows(self, bias: Spot) -> Option<[Launch; 2]> {
        let (rows, columns) = (self.rows, self.columns);
        let walk = walk(&[rows, columns], (0, &[0, 1]), (0, &[columns, 1]))?;
        let copy = Call {
            code: Code::File("copy"),
            entry: format!("copy_{}", self.dtype.size_in_bytes()),
            grid: blocks(rows * columns),
            threads: BLOCK as u32,
            arguments: vec![Passed::Address(bias), Passed::Address(self.y), Passed::Value(walk.words())],
        };
        Some([Launch::Kernel(copy), Launch::Product(Self { onto: Onto::Held, ..self })])
    }
}

impl Sequence {
    /// The same launches, but that a product whose bias no epilogue adds is added to it.
    #[must_use]
    pub fn with_epilogues(self, mut has: impl FnMut(&Product) -> bool) -> Self {
        let mut launches = Vec::with_capacity(self.launches.len());
        for launch in self.launches {
            let apart = match &launch {
                Launch::Product(product) => match product.onto {
                    Onto::Bias(bias) if !has(product) => product.onto_rows(bias),
                    _ => None,
                },
                _ => None,
            };
            match apart {
                Some(apart) => launches.extend(apart),
                None => launches.push(launch),
            }
        }
        Self { launches, ..self }
    }
}

impl Draft {
    /// x · weightᵀ + bias for rows x.
    pub(super) fn linear(&mut self, x: &Placed, weight: &Placed, bias: &Placed, y: &Placed) -> Option<()> {
        let turned = Placed { layout: weight.layout.permute(&[1, 0]), ..*weight };
        let ready = bias.layout.is_contiguous() && bias.first().at.is_multiple_of(ALIGNED);
        let bias = if ready { *bias } else { self.in_order(bias)? };
        let onto = bias.first();
        if y.dtype != DType::F64 {
            return self.product(x, &turned, y, Onto::Bias(onto));
        }
        // No epilogue is asked for in f64: the product is added to rows of the bias.
        self.product(x, &turned, y, Onto::Held)?;
        let Some(Launch::Product(product)) = self.made.launches.pop() else { return None };
        self.made.launches.extend(product.onto_rows(onto)?);
        Some(())
    }

    pub(super) fn product(&mut self, x: &Placed, w: &Placed, y: &Placed, onto: Onto) -> Option<()> {
        let (&[ref batch @ .., rows, columns], Some(&inner)) = (y.layout.dims(), x.layout.dims().last())
        else {
            return None;
        };
        crate::plan::suffix(y.dtype)?;
        let wide = |r: usize, c: usize| Shape::try_new(&[batch, &[r, c]].concat());
        let x = self.factor(x, &wide(rows, inner)?)?;
        let w = self.factor(w, &wide(inner, columns)?)?;
        let fits = [rows, columns, inner, x.step, w.step].into_iter().all(|n| i32::try_from(n).is_ok());
        let (batch, y, dtype) = (batch.iter().product(), y.spot, y.dtype);
        let product = Product { x, w, y, dtype, rows, columns, inner, batch, onto };
        (fits && i32::try_from(batch).is_ok()).then(|| self.made.launches.push(Launch::Product(product)))
    }

    /// A factor where it lies, or in a room.
    fn factor(&mut self, x: &Placed, wide: &Shape) -> Option<Factor> {
        let x = Placed { layout: x.layout.broadcast_to(wide)?, ..*x };
        if let Some(factor) = direct(&x) {
            return Some(factor);
        }
        let ordered = self.in_order(&x)?;
        direct(&ordered)
    }
}

/// x · weightᵀ + bias for values that lie like this, each from its own beginning on; `None` where the
/// library cannot read them.
#[cfg(feature = "cuda")]
pub(crate) fn rows_with_bias(x: &Layout, weight: &Layout, dtype: DType) -> Option<Product> {
    let spot = Spot { memory: Memory::Rooms, at: 0 };
    let factor = |layout: Layout| direct(&Placed { spot, layout, dtype });
    let (&[rows, inner], &[columns, _]) = (x.dims(), weight.dims()) else { return None };
    let (x, w) = (factor(*x)?, factor(weight.permute(&[1, 0]))?);
    let fits = [rows, columns, inner, x.step, w.step].into_iter().all(|n| i32::try_from(n).is_ok());
    fits.then_some(Product { x, w, y: spot, dtype, rows, columns, inner, batch: 1, onto: Onto::Bias(spot) })
}

/// `None` where neither rows nor columns lie in one piece, or matrices not at equal steps.
fn direct(x: &Placed) -> Option<Factor> {
    let (&[ref batch @ .., rows, columns], &[ref steps @ .., row, column]) =
        (x.layout.dims(), x.layout.strides())
    else {
        return None;
    };
    let whole = |extent: usize, step: usize| extent == 1 || step == 1;
    // The library wants no step below the extent of what lies in one piece, whether it takes it or not.
    let apart = |extent: usize, step: usize, length: usize| match extent {
        1 => Some(length),
        _ => (step >= length).then_some(step),
    };
    let (turned, step) = match (whole(columns, column), whole(rows, row)) {
        (true, _) if apart(rows, row, columns).is_some() => (false, apart(rows, row, columns)?),
        (_, true) => (true, apart(columns, column, rows)?),
        _ => return None,
    };
    Some(Factor { at: x.first(), turned, step, batch: even(batch, steps)? })
}

/// The step from one matrix to the next where all are equal.
fn even(dims: &[usize], steps: &[usize]) -> Option<usize> {
    let mut runs = dims.iter().zip(steps).filter(|(extent, _)| **extent != 1).rev();
    let Some((&extent, &step)) = runs.next() else { return Some(0) };
    let mut next = extent * step;
    for (&extent, &outer) in runs {
        if outer != next {
            return None;
        }
        next = extent * outer;
    }
    Some(step)
}

#[cfg(test)]
mod tests {
    use super::super::Memory;
    use super::*;
    use autograd_core::Layout;
    use autograd_core::device::Home;

    fn of(layout: Layout) -> Option<Factor> {
        let spot = Spot { memory: Memory::Of(Home::Arena), at: 64 };
        direct(&Placed { spot, layout, dtype: DType::F32 })
    }

    #[test]
    fn factors_are_read_where_they_lie() {
        let whole = Layout::contiguous(Shape::new(&[2, 3, 4, 5]));
        let as_it_is = of(whole).map(|f| (f.turned, f.step, f.batch, f.at.at));
        assert_eq!(as_it_is, Some((false, 5, 20, 64)));
        let turned = Layout::new(Shape::new(&[2, 3, 5, 4]), &[60, 20, 1, 5], 3);
        assert_eq!(of(turned).map(|f| (f.turned, f.step, f.batch, f.at.at)), Some((true, 5, 20, 76)));
        // Heads between the rows: matrices of one batch element are not at the step of the others.
        let heads = Layout::new(Shape::new(&[2, 3, 4, 5]), &[60, 5, 15, 1], 0);
        assert_eq!(of(heads), None);
        let one_batch = Layout::new(Shape::new(&[3, 4, 5]), &[5, 15, 1], 0);
        assert_eq!(of(one_batch).map(|f| (f.turned, f.step, f.batch)), Some((false, 15, 5)));
        // One matrix for the whole batch.
        let shared = Layout::new(Shape::new(&[2, 3, 4, 5]), &[0, 0, 5, 1], 0);
        assert_eq!(of(shared).map(|f| (f.step, f.batch)), Some((5, 0)));
        // Every second column, a row repeated.
        assert_eq!(of(Layout::new(Shape::new(&[4, 5]), &[10, 2], 0)), None);
        assert_eq!(of(Layout::new(Shape::new(&[4, 5]), &[0, 1], 0)), None);
        // One column, one row.
        assert_eq!(of(Layout::new(Shape::new(&[4, 1]), &[7, 3], 0)).map(|f| f.step), Some(7));
        assert_eq!(
            of(Layout::new(Shape::new(&[1, 4]), &[1, 3], 0)).map(|f| (f.turned, f.step)),
            Some((true, 3))
        );
    }
}
