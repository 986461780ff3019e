//! Host memory for values of a device until the backward pass needs them.

use autograd_core::device::{self, HostCopy};
use autograd_core::{Device, DeviceLocation, Error, Result, Shape, Tensor, TrackedTensor, algebra};
use autograd_tape::{Store, Stowed};

/// Host memory for a device's tensors. A value is copied when it is stowed and copied back when it
/// is needed. With CUDA kernels installed the memory is pinned, and copies run beside the kernels;
/// else each copy is waited for.
#[derive(Clone, Copy, Debug, Default)]
pub struct HostStore;

/// A value in host memory.
#[derive(Debug)]
struct InHost {
    numbers: Tensor,
    /// A number on the device that the value came from: where it goes back to.
    home: TrackedTensor,
}

/// A value that the device's own kernels have copied.
#[derive(Debug)]
struct Copied(Box<dyn HostCopy>);

impl Stowed for Copied {
    fn fetch(&self) -> Result<TrackedTensor> {
        TrackedTensor::from_candle(&self.0.fetch()?)
    }
}

impl Store for HostStore {
    /// # Errors
    /// A value that is in host memory already; what candle reports of the copy.
    fn put(&self, value: &TrackedTensor) -> Result<Box<dyn Stowed>> {
        if value.location() == DeviceLocation::Cpu {
            return Err(Error::mode("offload", "host memory", "the value is in host memory already"));
        }
        let tensor = value.tensor()?;
        if let Some(copy) = device::to_host(&tensor)? {
            return Ok(Box::new(Copied(copy)));
        }
        let numbers = tensor.contiguous()?.to_device(&Device::Cpu)?;
        let home = algebra::fill(0.0, &value.meta().with_shape(Shape::SCALAR), value)?;
        Ok(Box::new(InHost { numbers, home }))
    }
}

impl Stowed for InHost {
    fn fetch(&self) -> Result<TrackedTensor> {
        algebra::beside(TrackedTensor::from_candle(&self.numbers)?, &self.home)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use autograd_core::testing::elsewhere;

    fn value() -> TrackedTensor {
        TrackedTensor::from_vec(vec![1f32, 2., 3.], &[3]).unwrap()
    }

    #[test]
    fn values_come_back_to_their_device_equal() {
        let away = elsewhere(&value()).unwrap();
        let back = HostStore.put(&away).unwrap().fetch().unwrap();
        assert_eq!((back.meta(), back.to_vec1::<f32>().unwrap()), (away.meta(), vec![1., 2., 3.]));
    }

    #[test]
    fn a_copy_of_the_devices_own_comes_back() {
        #[derive(Debug)]
        struct Own(Tensor);
        impl HostCopy for Own {
            fn fetch(&self) -> Result<Tensor> {
                Ok(self.0.clone())
            }
        }
        let tensor = value().into_tensor().unwrap();
        let back = Copied(Box::new(Own(tensor))).fetch().unwrap();
        assert_eq!(back.to_vec1::<f32>().unwrap(), [1., 2., 3.]);
    }

    #[test]
    fn what_is_in_host_memory_stays_there() {
        let error = HostStore.put(&value()).unwrap_err().to_string();
        assert!(error.contains("host memory already"), "{error}");
    }
}
