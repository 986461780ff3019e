//! Trees as one vector, for methods that are written for vectors.

use autograd_core::algebra::{narrow, reshape};
use autograd_core::{Error, Result, Shape, Site, TrackedTensor, Tree, checked_shape};

/// How to cut a vector into a tree again.
#[derive(Clone, Debug)]
pub struct Ravel<P> {
    like: P,
    shapes: Vec<Shape>,
    len: usize,
}

/// All elements of a tree as one vector, and the way back.
///
/// # Errors
/// [`Error::InvalidArgument`] for a tree without leaves; leaves of different types.
///
/// ```
/// use autograd_core::{Result, TrackedTensor};
/// use autograd_ops::TensorAutograd;
/// use autograd_transforms::{hessian, ravel};
///
/// fn main() -> Result<()> {
///     let model = (TrackedTensor::scalar(2.0), TrackedTensor::from_vec(vec![1f64, 3.], &[2])?);
///     let (flat, shapes) = ravel(&model)?;
///     assert_eq!(flat.to_vec1::<f64>()?, [2., 1., 3.]);
///     // The Hessian of a model with several parameters, as one matrix.
///     let h = hessian(
///         |flat| {
///             let (a, b) = shapes.unravel(flat)?;
///             a.mul(b)?.sum()
///         },
///         &flat,
///     )?;
///     assert_eq!(h.to_vec2::<f64>()?, [[0., 1., 1.], [1., 0., 0.], [1., 0., 0.]]);
///     Ok(())
/// }
/// ```
#[track_caller]
pub fn ravel<P: Tree + ?Sized>(tree: &P) -> Result<(TrackedTensor, Ravel<P::Owned>)> {
    let site = Site::caller();
    let leaves = tree.leaves();
    if leaves.is_empty() {
        return Err(Error::argument("ravel", "the tree has no leaves").or_at(site));
    }
    let shapes: Vec<Shape> = leaves.iter().map(|x| *x.shape()).collect();
    let vectors = leaves.iter().map(|x| reshape(x, &Shape::new(&[x.elem_count()])));
    let flat = autograd_ops::cat(&vectors.collect::<Result<Vec<_>>>()?, 0).map_err(|e| e.or_at(site))?;
    let len = flat.elem_count();
    Ok((flat, Ravel { like: tree.rebuild(&mut |x| Ok(x.clone()))?, shapes, len }))
}

impl<P: Tree<Owned = P>> Ravel<P> {
    /// How many elements the tree has.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the tree has no element.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The tree with the elements of a vector.
    ///
    /// # Errors
    /// [`Error::Shape`] where the vector has not as many elements as the tree.
    #[track_caller]
    pub fn unravel(&self, flat: &TrackedTensor) -> Result<P> {
        let site = Site::caller();
        if flat.dims() != [self.len] {
            let shapes = [*flat.shape(), checked_shape("unravel", &[self.len])?];
            return Err(Error::shape("unravel", &shapes, "the second is needed").or_at(site));
        }
        let mut start = 0;
        let parts = self.shapes.iter().map(|shape| {
            let part = narrow(flat, 0, start, shape.elements())?;
            start += shape.elements();
            reshape(&part, shape)
        });
        self.like.with_leaves(parts.collect::<Result<Vec<_>>>()?)
    }
}
