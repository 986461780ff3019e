//! Trees as one vector, for methods that are written for vectors.

use autograd_core::algebra::{narrow, reshape};
use autograd_core::{DType, Error, Result, Shape, Site, TrackedTensor, Tree, is_float};
use autograd_ops::TensorAutograd;

/// The way from a tree of parameters to one vector, leaf after leaf, and back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParameterLayout {
    shapes: Vec<Shape>,
    dtype: DType,
}

impl ParameterLayout {
    /// The way for parameters like these.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for no parameters, [`Error::DTypeMismatch`] for several element
    /// types, [`Error::NotDifferentiable`] for integers.
    #[track_caller]
    pub fn of<P: Tree + ?Sized>(parameters: &P) -> Result<Self> {
        let site = Site::caller();
        let parameters = parameters.leaves();
        if let Some(error) = parameters.iter().find_map(|p| p.failure()) {
            return Err(error.clone());
        }
        let Some(first) = parameters.first() else {
            return Err(Error::argument("parameter_layout", "there are no parameters").or_at(site));
        };
        let dtype = first.dtype();
        if parameters.iter().any(|p| p.dtype() != dtype) {
            let dtypes = parameters.iter().map(|p| p.dtype()).collect();
            return Err(Error::DTypeMismatch { op: "parameter_layout", dtypes, at: site.into() });
        }
        if !is_float(dtype) {
            return Err(Error::NotDifferentiable { dtype, at: site.into() });
        }
        Ok(Self { shapes: parameters.iter().map(|p| *p.shape()).collect(), dtype })
    }

    /// The length of the vector.
    pub fn elements(&self) -> usize {
        self.shapes.iter().map(Shape::elements).sum()
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The parameters' shapes.
    pub fn shapes(&self) -> &[Shape] {
        &self.shapes
    }

    /// The vector of parameters.
    ///
    /// # Errors
    /// [`Error::Shape`] where they have not the shapes that this way was made for.
    #[track_caller]
    pub fn flatten<P: Tree + ?Sized>(&self, parameters: &P) -> Result<TrackedTensor> {
        let parameters = parameters.leaves();
        if parameters.len() != self.shapes.len()
            || parameters.iter().zip(&self.shapes).any(|(p, shape)| p.shape() != shape)
        {
            let shapes: Vec<Shape> = parameters.iter().map(|p| *p.shape()).collect();
            let reason = format!("shapes {:?} are laid out here", self.shapes);
            return Err(Error::shape("parameter_layout", &shapes, reason).or_at(Site::caller()));
        }
        let flat: Vec<TrackedTensor> = parameters.iter().map(|p| p.flatten_all()).collect::<Result<_>>()?;
        match &flat[..] {
            [only] => Ok(only.clone()),
            _ => TrackedTensor::cat(&flat, 0),
        }
    }

    /// The parameters of a vector in the structure of others.
    ///
    /// # Errors
    /// As [`unflatten`](Self::unflatten).
    #[track_caller]
    pub fn unflatten_like<P: Tree + ?Sized>(&self, vector: &TrackedTensor, like: &P) -> Result<P::Owned> {
        like.with_leaves(self.unflatten(vector)?)
    }

    /// The parameters of a vector, in the order of the leaves.
    ///
    /// # Errors
    /// [`Error::Mismatch`] for a vector of another length or type.
    #[track_caller]
    pub fn unflatten(&self, vector: &TrackedTensor) -> Result<Vec<TrackedTensor>> {
        crate::operators::checked("a vector of parameters", vector, self.elements(), self.dtype)
            .map_err(|e| e.or_at(Site::caller()))?;
        let mut start = 0;
        let mut parameters = Vec::with_capacity(self.shapes.len());
        for shape in &self.shapes {
            parameters.push(reshape(&narrow(vector, 0, start, shape.elements())?, shape)?);
            start += shape.elements();
        }
        Ok(parameters)
    }
}

/// All elements of a tree as one vector, and the way back.
///
/// # Errors
/// As [`ParameterLayout::of`].
///
/// ```
/// use autograd_core::{Result, TrackedTensor};
/// use autograd_ops::TensorAutograd;
/// use autograd_transforms::{hessian, ravel};
///
/// fn main() -> Result<()> {
///     let model = (TrackedTensor::scalar(2.0), TrackedTensor::from_vec(vec![1f64, 3.], &[2])?);
///     let (flat, layout) = ravel(&model)?;
///     assert_eq!(flat.to_vec1::<f64>()?, [2., 1., 3.]);
///     // The Hessian of a model with several parameters, as one matrix.
///     let h = hessian(
///         |flat| {
///             let (a, b) = layout.unflatten_like(flat, &model)?;
///             a.mul(b)?.sum()
///         },
///         &flat,
///     )?;
///     assert_eq!(h.to_vec2::<f64>()?, [[0., 1., 1.], [1., 0., 0.], [1., 0., 0.]]);
///     Ok(())
/// }
/// ```
#[track_caller]
pub fn ravel<P: Tree + ?Sized>(tree: &P) -> Result<(TrackedTensor, ParameterLayout)> {
    let site = Site::caller();
    let layout = ParameterLayout::of(tree).map_err(|e| e.or_at(site))?;
    let flat = layout.flatten(tree).map_err(|e| e.or_at(site))?;
    Ok((flat, layout))
}
