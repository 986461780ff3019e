//! `TrackedTensor`, the value that every function takes and returns.

use crate::error::{At, Error, Result, Site};
use crate::meta::{Meta, resolve_dim};
use crate::plain::{Buffer, Plain, open};
use crate::provenance::{Cut, CutKind};
use crate::tracer::Tracer;
use autograd_kernels::{Shape, SliceMut, View, copy};
use candle_core::{DType, Device, DeviceLocation, Tensor, WithDType};
use std::fmt;
use std::sync::Arc;

/// A tensor that transforms can watch: a plain value, or one that a tape, a dual number, a batch
/// or a graph is following.
///
/// Cloning is cheap (a reference count) and shares the memory. A model is a plain struct of such
/// values, and a closure `|x: &TrackedTensor| -> Result<TrackedTensor>` serves every transform.
/// There is no `Deref` to a candle tensor: nothing may drop a gradient silently. Leaving is
/// spelled [`detach`](Self::detach) or [`tensor`](Self::tensor).
#[derive(Clone)]
#[must_use]
pub struct TrackedTensor(pub(crate) Repr);

#[derive(Clone)]
pub(crate) enum Repr {
    Plain(Arc<Plain>),
    Traced(Arc<dyn Tracer>),
    /// A value whose construction failed where the signature has no room for an error: the error
    /// comes out at its first use.
    Failed(Arc<Error>),
}

impl TrackedTensor {
    /// A value from elements in row-major order.
    ///
    /// # Errors
    /// [`Error::Shape`] where the number of elements is not the shape's.
    #[track_caller]
    pub fn from_vec<T: WithDType>(data: Vec<T>, shape: &[usize]) -> Result<Self>
    where
        Buffer: From<Vec<T>>,
    {
        let site = Site::caller();
        let shape = checked_shape("from_vec", shape).map_err(|e| e.or_at(site))?;
        Plain::from_vec(data, shape).map(Self::from_plain).map_err(|e| e.or_at(site))
    }

    /// A single number of type f64 without dimensions.
    pub fn scalar(value: f64) -> Self {
        let meta = Meta { shape: Shape::SCALAR, dtype: DType::F64, device: DeviceLocation::Cpu };
        Self::from_plain(Plain::own(Buffer::F64(vec![value]), &meta))
    }

    /// The value of a candle tensor, read in place; any history that candle keeps is cut.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for more than eight dimensions.
    #[track_caller]
    pub fn from_candle(tensor: &Tensor) -> Result<Self> {
        let site = Site::caller();
        Plain::from_candle(tensor).map(Self::from_plain).map_err(|e| e.or_at(site))
    }

    /// A value of a copy of what a kernel sees.
    pub(crate) fn from_view(view: View<'_>) -> Self {
        Self::from_plain(Plain::copy_of(view))
    }

    /// Copies the numbers of a value that nobody watches into a kernel's output.
    pub(crate) fn copy_into(&self, out: SliceMut<'_>) -> Result<()> {
        let plain = self.plain().ok_or_else(|| Error::internal("copy_into", "the value is watched"))?;
        open("copy_into", &[plain], |views| {
            copy::copy(views[0], out);
            Ok(())
        })
    }

    /// A value that a transform watches.
    pub fn from_tracer(tracer: Arc<dyn Tracer>) -> Self {
        Self(Repr::Traced(tracer))
    }

    /// A value that nobody watches.
    pub fn from_plain(plain: Arc<Plain>) -> Self {
        Self(Repr::Plain(plain))
    }

    /// A value that gives `error` at its first use.
    pub fn failed(error: Error) -> Self {
        Self(Repr::Failed(Arc::new(error)))
    }

    /// The error that stands in for this value, if its construction failed.
    pub fn failure(&self) -> Option<&Error> {
        match &self.0 {
            Repr::Failed(error) => Some(error),
            Repr::Plain(_) | Repr::Traced(_) => None,
        }
    }

    /// The watcher, if there is one.
    pub fn tracer(&self) -> Option<&Arc<dyn Tracer>> {
        match &self.0 {
            Repr::Traced(tracer) => Some(tracer),
            Repr::Plain(_) | Repr::Failed(_) => None,
        }
    }

    /// The plain value, if nobody watches.
    pub fn plain(&self) -> Option<&Arc<Plain>> {
        match &self.0 {
            Repr::Plain(plain) => Some(plain),
            Repr::Traced(_) | Repr::Failed(_) => None,
        }
    }

    /// The plain value to take apart, if nobody watches.
    pub(crate) fn plain_mut(&mut self) -> Option<&mut Arc<Plain>> {
        match &mut self.0 {
            Repr::Plain(plain) => Some(plain),
            Repr::Traced(_) | Repr::Failed(_) => None,
        }
    }

    /// Whether a transform watches this value.
    pub fn is_tracked(&self) -> bool {
        matches!(self.0, Repr::Traced(_))
    }

    /// The shape. A value whose construction failed has the shape of a scalar.
    pub fn shape(&self) -> &Shape {
        match &self.0 {
            Repr::Plain(plain) => plain.layout().shape(),
            Repr::Traced(tracer) => tracer.shape(),
            Repr::Failed(_) => &Shape::SCALAR,
        }
    }

    /// The extent of each dimension.
    pub fn dims(&self) -> &[usize] {
        self.shape().dims()
    }

    /// The number of dimensions.
    #[inline]
    pub fn rank(&self) -> usize {
        self.shape().rank()
    }

    /// The extent of one dimension; negative numbers count from the end.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] where there is no such dimension.
    #[track_caller]
    pub fn dim(&self, dim: isize) -> Result<usize> {
        let found = resolve_dim(dim, self.rank()).map(|d| self.dims()[d]);
        found.ok_or_else(|| {
            Error::argument("dim", format!("no dimension {dim} in shape {}", self.shape()))
                .or_at(Site::caller())
        })
    }

    /// The number of elements.
    pub fn elem_count(&self) -> usize {
        self.shape().elements()
    }

    /// The element type. A value whose construction failed says f64.
    #[inline]
    pub fn dtype(&self) -> DType {
        match &self.0 {
            Repr::Plain(plain) => plain.dtype(),
            Repr::Traced(tracer) => tracer.dtype(),
            Repr::Failed(_) => DType::F64,
        }
    }

    /// Where the elements are.
    #[inline]
    pub fn location(&self) -> DeviceLocation {
        match &self.0 {
            Repr::Plain(plain) => plain.device(),
            Repr::Traced(tracer) => tracer.device(),
            Repr::Failed(_) => DeviceLocation::Cpu,
        }
    }

    /// The candle device that holds the elements.
    pub fn device(&self) -> Device {
        self.bottom().map_or(Device::Cpu, |plain| plain.candle_device())
    }

    /// Shape, element type and device.
    #[inline]
    pub fn meta(&self) -> Meta {
        Meta { shape: *self.shape(), dtype: self.dtype(), device: self.location() }
    }

    /// The numbers below all watchers; `None` while they are being captured or never were.
    pub(crate) fn bottom(&self) -> Option<&Arc<Plain>> {
        let mut value = self;
        loop {
            match &value.0 {
                Repr::Plain(plain) => return Some(plain),
                Repr::Traced(tracer) => value = tracer.lower()?,
                Repr::Failed(_) => return None,
            }
        }
    }

    /// The numbers without any watcher, for looking at them: unlike [`detach`](Self::detach) it is
    /// no step of the user's function. `None` while they are being captured or batched.
    pub fn beneath(&self) -> Option<Self> {
        self.bottom().map(|plain| Self::from_plain(plain.clone()))
    }

    /// The value itself, with its numbers there: what is large and cheap is otherwise computed when
    /// it is first read ([`set_deferred_from`](crate::set_deferred_from)).
    pub fn settle(&self) -> &Self {
        if let Some(plain) = self.bottom() {
            plain.buffer();
        }
        self
    }

    /// Whether the numbers are still to be computed.
    #[inline]
    pub fn is_deferred(&self) -> bool {
        self.bottom().is_some_and(|plain| plain.deferred().is_some())
    }

    fn bottom_or(&self, site: Site) -> Result<&Arc<Plain>> {
        self.bottom().ok_or_else(|| match &self.0 {
            Repr::Failed(error) => Error::clone(error),
            Repr::Plain(_) | Repr::Traced(_) => Error::ReadWhileCapturing { at: At::from(site) },
        })
    }

    /// The same numbers without any watcher: gradients stop here.
    ///
    /// # Errors
    /// [`Error::ReadWhileCapturing`] while a graph is being captured.
    #[track_caller]
    pub fn detach(&self) -> Result<Self> {
        let site = Site::caller();
        let plain = self.bottom_or(site)?;
        if !self.is_tracked() {
            return Ok(Self::from_plain(plain.clone()));
        }
        // A value of its own: the numbers of the watched one do not lie behind this cut.
        let cut = Cut::through(&[self], CutKind::Detached, "detach", site);
        Ok(Self::from_plain(plain.without_cut()).behind(cut))
    }

    /// The numbers as a candle tensor in memory of its own.
    ///
    /// # Errors
    /// [`Error::ReadWhileCapturing`] while a graph is being captured.
    #[track_caller]
    pub fn tensor(&self) -> Result<Tensor> {
        let site = Site::caller();
        self.bottom_or(site)?.to_tensor().map_err(|e| e.or_at(site))
    }

    /// The numbers as a candle tensor: moved where nobody else holds them, otherwise copied.
    ///
    /// # Errors
    /// [`Error::ReadWhileCapturing`] while a graph is being captured.
    #[track_caller]
    pub fn into_tensor(self) -> Result<Tensor> {
        let site = Site::caller();
        match self.0 {
            Repr::Plain(plain) => plain.into_tensor().map_err(|e| e.or_at(site)),
            Repr::Traced(_) | Repr::Failed(_) => self.tensor(),
        }
    }

    /// The number of a value without dimensions.
    ///
    /// # Errors
    /// As candle's `to_vec0`.
    #[track_caller]
    pub fn to_vec0<S: WithDType>(&self) -> Result<S> {
        Ok(self.tensor()?.to_vec0()?)
    }

    /// The number of a value without dimensions.
    ///
    /// # Errors
    /// As candle's `to_scalar`.
    #[track_caller]
    pub fn to_scalar<S: WithDType>(&self) -> Result<S> {
        self.to_vec0()
    }

    /// The numbers of a value with one dimension.
    ///
    /// # Errors
    /// As candle's `to_vec1`.
    #[track_caller]
    pub fn to_vec1<S: WithDType>(&self) -> Result<Vec<S>> {
        Ok(self.tensor()?.to_vec1()?)
    }

    /// The numbers of a value with two dimensions.
    ///
    /// # Errors
    /// As candle's `to_vec2`.
    #[track_caller]
    pub fn to_vec2<S: WithDType>(&self) -> Result<Vec<Vec<S>>> {
        Ok(self.tensor()?.to_vec2()?)
    }

    /// The numbers of a value with three dimensions.
    ///
    /// # Errors
    /// As candle's `to_vec3`.
    #[track_caller]
    pub fn to_vec3<S: WithDType>(&self) -> Result<Vec<Vec<Vec<S>>>> {
        Ok(self.tensor()?.to_vec3()?)
    }

    /// All numbers in row-major order.
    ///
    /// # Errors
    /// As candle's `to_vec1`.
    #[track_caller]
    pub fn to_flat<S: WithDType>(&self) -> Result<Vec<S>> {
        Ok(self.tensor()?.flatten_all()?.to_vec1()?)
    }
}

/// A shape from outside, with an error where it has too many dimensions.
pub fn checked_shape(op: &'static str, dims: &[usize]) -> Result<Shape> {
    // Not even bytes could be counted; an extent of 0 hides no other one.
    let most = dims.iter().filter(|&&d| d > 0).try_fold(16usize, |n, &d| n.checked_mul(d));
    if most.is_none() {
        return Err(Error::argument(op, format!("a value of extents {dims:?} has too many elements")));
    }
    Shape::try_new(dims).ok_or_else(|| {
        Error::argument(
            op,
            format!("rank {} is above the limit of {}", dims.len(), autograd_kernels::MAX_RANK),
        )
    })
}

impl From<&Tensor> for TrackedTensor {
    #[track_caller]
    fn from(tensor: &Tensor) -> Self {
        Self::from_candle(tensor).unwrap_or_else(Self::failed)
    }
}

impl From<Tensor> for TrackedTensor {
    #[track_caller]
    fn from(tensor: Tensor) -> Self {
        Self::from(&tensor)
    }
}

impl From<&TrackedTensor> for TrackedTensor {
    fn from(value: &TrackedTensor) -> Self {
        value.clone()
    }
}

impl fmt::Debug for TrackedTensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Repr::Plain(_) => write!(f, "TrackedTensor({:?}, {:?})", self.shape(), self.dtype()),
            Repr::Traced(tracer) => {
                write!(f, "TrackedTensor({:?}, {:?}, {tracer:?})", self.shape(), self.dtype())
            }
            Repr::Failed(error) => write!(f, "TrackedTensor(failed: {error})"),
        }
    }
}

impl fmt::Display for TrackedTensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.tensor() {
            Ok(tensor) => tensor.fmt(f),
            Err(error) => write!(f, "<{error}>"),
        }
    }
}
