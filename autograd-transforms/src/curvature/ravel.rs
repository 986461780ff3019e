//! Parameters laid end to end.

use autograd_core::algebra::{narrow, reshape};
use autograd_core::{DType, Error, Result, Shape, Site, TrackedTensor, is_float};
use autograd_ops::TensorAutograd;

/// The way from a list of parameters to one vector and back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ravel {
    shapes: Vec<Shape>,
    dtype: DType,
}

impl Ravel {
    /// The way for parameters like these.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for no parameters, [`Error::DTypeMismatch`] for several element
    /// types, [`Error::NotDifferentiable`] for integers.
    #[track_caller]
    pub fn of(parameters: &[&TrackedTensor]) -> Result<Self> {
        let site = Site::caller();
        if let Some(error) = parameters.iter().find_map(|p| p.failure()) {
            return Err(error.clone());
        }
        let Some(first) = parameters.first() else {
            return Err(Error::argument("ravel", "there are no parameters").or_at(site));
        };
        let dtype = first.dtype();
        if parameters.iter().any(|p| p.dtype() != dtype) {
            let dtypes = parameters.iter().map(|p| p.dtype()).collect();
            return Err(Error::DTypeMismatch { op: "ravel", dtypes, at: site.into() });
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
    pub fn ravel(&self, parameters: &[&TrackedTensor]) -> Result<TrackedTensor> {
        if parameters.len() != self.shapes.len()
            || parameters.iter().zip(&self.shapes).any(|(p, shape)| p.shape() != shape)
        {
            let shapes: Vec<Shape> = parameters.iter().map(|p| *p.shape()).collect();
            let reason = format!("shapes {:?} are raveled here", self.shapes);
            return Err(Error::shape("ravel", &shapes, reason).or_at(Site::caller()));
        }
        let flat: Vec<TrackedTensor> = parameters.iter().map(|p| p.flatten_all()).collect::<Result<_>>()?;
        match &flat[..] {
            [only] => Ok(only.clone()),
            _ => TrackedTensor::cat(&flat, 0),
        }
    }

    /// The parameters of a vector.
    ///
    /// # Errors
    /// [`Error::Mismatch`] for a vector of another length or type.
    #[track_caller]
    pub fn unravel(&self, vector: &TrackedTensor) -> Result<Vec<TrackedTensor>> {
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
