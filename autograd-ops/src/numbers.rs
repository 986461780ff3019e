//! Lists of whole numbers as arguments: extents of a shape, or dimensions.

use autograd_core::smallvec::SmallVec;
use autograd_core::{Error, MAX_RANK, Mask, Result, Shape, Site, TrackedTensor, checked_shape, resolve_dim};
use candle_core::D;

/// A few whole numbers.
pub type List = SmallVec<[isize; 8]>;

/// A whole number among extents or dimensions; `()` stands for −1, as candle writes the extent
/// that is to be found.
pub trait Number {
    /// The number.
    fn number(self) -> isize;
}

impl Number for usize {
    fn number(self) -> isize {
        isize::try_from(self).unwrap_or(isize::MAX)
    }
}

impl Number for isize {
    fn number(self) -> isize {
        self
    }
}

impl Number for i32 {
    fn number(self) -> isize {
        self as isize
    }
}

impl Number for () {
    fn number(self) -> isize {
        -1
    }
}

impl Number for D {
    fn number(self) -> isize {
        match self {
            D::Minus1 => -1,
            D::Minus2 => -2,
            D::Minus(n) => -n.number(),
        }
    }
}

/// A dimension, counted from the front (`1`, as any of `i32`, `isize` and `usize`) or from the end
/// (`-1`, or candle's `D::Minus1`).
pub trait Dim: Number + Copy {}

impl Dim for usize {}
impl Dim for isize {}
impl Dim for i32 {}
impl Dim for D {}

/// Whole numbers given as a slice, an array, a tuple or alone: `&[2, -1]`, `(2, ())`, `x.dims()`,
/// `6`.
pub trait Numbers {
    /// The numbers.
    fn list(self) -> List;
}

impl<T: Number + Copy> Numbers for &[T] {
    fn list(self) -> List {
        self.iter().map(|&n| n.number()).collect()
    }
}

impl<T: Number + Copy> Numbers for &Vec<T> {
    fn list(self) -> List {
        self.as_slice().list()
    }
}

impl<T: Number + Copy> Numbers for Vec<T> {
    fn list(self) -> List {
        self.as_slice().list()
    }
}

impl<T: Number + Copy, const N: usize> Numbers for [T; N] {
    fn list(self) -> List {
        self.as_slice().list()
    }
}

impl<T: Number + Copy, const N: usize> Numbers for &[T; N] {
    fn list(self) -> List {
        self.as_slice().list()
    }
}

impl Numbers for &Shape {
    fn list(self) -> List {
        self.dims().list()
    }
}

impl Numbers for Shape {
    fn list(self) -> List {
        self.dims().list()
    }
}

impl Numbers for &candle_core::Shape {
    fn list(self) -> List {
        self.dims().list()
    }
}

impl Numbers for usize {
    fn list(self) -> List {
        List::from_slice(&[self.number()])
    }
}

impl Numbers for isize {
    fn list(self) -> List {
        List::from_slice(&[self])
    }
}

impl Numbers for i32 {
    fn list(self) -> List {
        List::from_slice(&[self.number()])
    }
}

impl Numbers for D {
    fn list(self) -> List {
        List::from_slice(&[self.number()])
    }
}

impl Numbers for () {
    fn list(self) -> List {
        List::new()
    }
}

macro_rules! tuples {
    ($(($($name:ident),*))*) => {$(
        impl<$($name: Number),*> Numbers for ($($name,)*) {
            #[allow(non_snake_case, reason = "type parameters name the fields")]
            fn list(self) -> List {
                let ($($name,)*) = self;
                List::from_slice(&[$($name.number()),*])
            }
        }
    )*};
}

tuples! {
    (A) (A, B) (A, B, C) (A, B, C, D) (A, B, C, D, E) (A, B, C, D, E, F)
}

/// The error of a value whose construction failed, before its shape is looked at.
pub(crate) fn sound(x: &TrackedTensor) -> Result<()> {
    x.failure().map_or(Ok(()), |error| Err(error.clone()))
}

/// The dimension that `dim` names in x.
#[track_caller]
pub(crate) fn dimension(op: &'static str, dim: impl Dim, x: &TrackedTensor) -> Result<usize> {
    sound(x)?;
    let dim = dim.number();
    let site = Site::caller();
    resolve_dim(dim, x.rank())
        .ok_or_else(|| Error::argument(op, format!("no dimension {dim} in shape {}", x.shape())).or_at(site))
}

/// The dimension that `dim` names among those of x and one more.
#[track_caller]
pub(crate) fn new_dimension(op: &'static str, dim: impl Dim, x: &TrackedTensor) -> Result<usize> {
    sound(x)?;
    let dim = dim.number();
    let site = Site::caller();
    resolve_dim(dim, x.rank() + 1).ok_or_else(|| {
        let reason = format!("no place {dim} for a new dimension in shape {}", x.shape());
        Error::argument(op, reason).or_at(site)
    })
}

/// Different dimensions of x.
#[track_caller]
pub(crate) fn dimensions(
    op: &'static str,
    dims: &[isize],
    x: &TrackedTensor,
) -> Result<SmallVec<[usize; 8]>> {
    let mut found: SmallVec<[usize; 8]> = SmallVec::new();
    for &dim in dims {
        let d = dimension(op, dim, x)?;
        if found.contains(&d) {
            let reason = format!("dimension {d} is named twice in {dims:?}");
            return Err(Error::argument(op, reason).or_at(Site::caller()));
        }
        found.push(d);
    }
    Ok(found)
}

/// The shape that `extents` give for `elements` elements: one of them may be −1 and is found.
#[track_caller]
pub(crate) fn shape_of(op: &'static str, extents: &[isize], elements: usize) -> Result<Shape> {
    let site = Site::caller();
    let fail = |why: &str| {
        Error::argument(op, format!("shape {extents:?} for {elements} elements: {why}")).or_at(site)
    };
    let mut hole = None;
    let mut known = 1usize;
    let mut dims = [0; MAX_RANK];
    if extents.len() > dims.len() {
        return Err(fail("it has too many dimensions"));
    }
    for (i, &extent) in extents.iter().enumerate() {
        match usize::try_from(extent) {
            Ok(extent) => {
                known = known.checked_mul(extent).ok_or_else(|| fail("it is too large"))?;
                dims[i] = extent;
            }
            Err(_) if extent == -1 && hole.is_none() => hole = Some(i),
            Err(_) => return Err(fail("only one extent may be left open, as −1")),
        }
    }
    if let Some(i) = hole {
        if known == 0 || !elements.is_multiple_of(known) {
            return Err(fail("no extent fits in the place of −1"));
        }
        dims[i] = elements / known;
    }
    Ok(Shape::new(&dims[..extents.len()]))
}

/// `dims` of x with one of them replaced.
pub(crate) fn with_extent(x: &Shape, dim: usize, extent: usize) -> Shape {
    let mut shape = *x;
    shape.dims_mut()[dim] = extent;
    shape
}

/// The shape without the dimensions of a set.
pub(crate) fn without(shape: &Shape, dims: Mask) -> Shape {
    let (mut kept, mut rank) = ([0; MAX_RANK], 0);
    for (d, &extent) in shape.dims().iter().enumerate() {
        if !dims.has(d) {
            kept[rank] = extent;
            rank += 1;
        }
    }
    Shape::new(&kept[..rank])
}

/// The shape with extent 1 in the dimensions of a set.
pub(crate) fn flattened(shape: &Shape, dims: Mask) -> Shape {
    let mut shape = *shape;
    for (d, extent) in shape.dims_mut().iter_mut().enumerate() {
        if dims.has(d) {
            *extent = 1;
        }
    }
    shape
}

/// The shape with `size` in front.
pub(crate) fn in_front(op: &'static str, size: usize, shape: &Shape) -> Result<Shape> {
    let dims: SmallVec<[usize; 8]> = std::iter::once(size).chain(shape.dims().iter().copied()).collect();
    checked_shape(op, &dims)
}

/// x with the batch dimension in front, repeated where x has none.
pub(crate) fn with_batch(x: &TrackedTensor, batched: bool, size: usize) -> Result<TrackedTensor> {
    if batched {
        return Ok(x.clone());
    }
    autograd_core::algebra::broadcast_to(x, &in_front("batch", size, x.shape())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_extent_is_found() {
        let shape = |extents: &[isize], n| shape_of("reshape", extents, n).map(|s| s.dims().to_vec()).ok();
        assert_eq!(shape(&(2, ()).list(), 6), Some(vec![2, 3]));
        assert_eq!(shape(&[-1, 2].list(), 6), Some(vec![3, 2]));
        assert_eq!(shape(&().list(), 1), Some(vec![]));
        assert_eq!(shape(&[-1, -1].list(), 6), None);
        assert_eq!(shape(&[-1, 4].list(), 6), None);
        assert_eq!(shape(&[-1, 0].list(), 0), None);
    }
}
