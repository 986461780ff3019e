//! Values that wait outside of the memory until a backward pass reads them.

use autograd_core::{
    Applied, Call, DType, DeviceLocation, Error, Level, Meta, Plain, Result, Shape, Tracer, TrackedTensor,
    apply_call,
};
use parking_lot::Mutex;
use std::any::Any;
use std::fmt;
use std::sync::{Arc, Weak};

/// A place outside of the memory: a disk, or the host's memory for a device's tensors.
pub trait Store: fmt::Debug + Send + Sync {
    /// Moves a value there. It is contiguous or a view, and nobody watches it.
    ///
    /// # Errors
    /// Whatever keeps the value from being written; then nothing of it is left there.
    fn put(&self, value: &TrackedTensor) -> Result<Box<dyn Stowed>>;
}

/// A value in a [`Store`]. Dropping it frees its place there.
pub trait Stowed: fmt::Debug + Send + Sync {
    /// The value, equal to the bit.
    ///
    /// # Errors
    /// Whatever keeps the value from being read, or shows that it is not what was written.
    fn fetch(&self) -> Result<TrackedTensor>;
}

/// A stand-in for a value in a store, below all levels: whatever is applied to it fetches it.
struct Waiting {
    meta: Meta,
    stowed: Box<dyn Stowed>,
    /// The value, while somebody still has it from the last time.
    fetched: Mutex<Weak<Plain>>,
}

impl fmt::Debug for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "waiting in {:?}", self.stowed)
    }
}

impl Waiting {
    fn fetch(&self) -> Result<TrackedTensor> {
        let mut fetched = self.fetched.lock();
        if let Some(plain) = fetched.upgrade() {
            return Ok(TrackedTensor::from_plain(plain));
        }
        let value = self.stowed.fetch()?;
        if let Some(plain) = value.plain() {
            *fetched = Arc::downgrade(plain);
        }
        Ok(value)
    }
}

impl Tracer for Waiting {
    fn level(&self) -> Level {
        Level::from_number(0)
    }

    fn shape(&self) -> &Shape {
        &self.meta.shape
    }

    fn dtype(&self) -> DType {
        self.meta.dtype
    }

    fn device(&self) -> DeviceLocation {
        self.meta.device
    }

    fn lower(&self) -> Option<&TrackedTensor> {
        None
    }

    fn process(&self, call: &Call<'_>) -> Result<Applied> {
        let inputs: Vec<TrackedTensor> =
            call.inputs.iter().map(|x| recalled((*x).clone())).collect::<Result<_>>()?;
        let refs: Vec<&TrackedTensor> = inputs.iter().collect();
        apply_call(call.op, &refs, call.aux, call.site)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// The value in memory: fetched where it waits in a store.
pub(crate) fn recalled(value: TrackedTensor) -> Result<TrackedTensor> {
    match value.tracer().and_then(|tracer| tracer.as_any().downcast_ref::<Waiting>()) {
        Some(waiting) => waiting.fetch(),
        None => Ok(value),
    }
}

/// Moves a value to a store and gives what stands in for it.
pub(crate) fn stowed(
    op: &'static str,
    value: &TrackedTensor,
    store: Option<&Arc<dyn Store>>,
) -> Result<TrackedTensor> {
    let Some(store) = store else {
        return Err(Error::argument(op, "a value is to be offloaded, but there is no store to move it to"));
    };
    if value.plain().is_none() {
        let reason = "another transform watches the value; keep it in memory there";
        return Err(Error::mode(op, "offload", reason));
    }
    let stowed = store.put(value)?;
    let waiting = Waiting { meta: value.meta(), stowed, fetched: Mutex::new(Weak::new()) };
    Ok(TrackedTensor::from_tracer(Arc::new(waiting)))
}
