//! What kernels of a device may report and give, seen by whoever applies an op.

use autograd_core::device::{self, DeviceKernels, HostCopy, Tensors};
use autograd_core::testing::elsewhere;
use autograd_core::{
    At, DeviceLocation, Error, Primitive, Result, Signature, Tensor, TrackedTensor, algebra,
};
use std::sync::{Arc, Once};

/// Kernels of which the one for sums lacks memory, and the one for products gives a wrong shape.
struct Failing;

/// What candle reports where there is no memory.
fn no_memory() -> candle_core::Error {
    candle_core::Error::Msg("no memory".to_owned())
}

impl DeviceKernels for Failing {
    fn evaluate(
        &self,
        op: &dyn Primitive,
        inputs: &[Tensor],
        _: &Signature,
        _: bool,
    ) -> Result<Option<Tensors>> {
        match op.name() {
            "sum_to" => Err(no_memory().into()),
            "reshape" => Ok(Some(inputs.iter().cloned().collect())),
            _ => Ok(None),
        }
    }

    fn typed(&self, op: &'static str, device: DeviceLocation, error: &candle_core::Error) -> Option<Error> {
        let said = error.to_string();
        said.contains("no memory").then(|| Error::OutOfMemory { op, device, at: At::default() })
    }

    fn to_host(&self, x: &Tensor) -> Result<Option<Box<dyn HostCopy>>> {
        #[derive(Debug)]
        struct Copied(Tensor);
        impl HostCopy for Copied {
            fn fetch(&self) -> Result<Tensor> {
                Ok(self.0.clone())
            }
        }
        Ok(Some(Box::new(Copied(x.clone()))))
    }
}

fn away() -> Result<TrackedTensor> {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| assert!(device::install(Arc::new(Failing))));
    elsewhere(&TrackedTensor::from_vec(vec![1f64, 2.], &[2])?)
}

#[test]
fn a_device_without_memory_is_named_with_the_op_and_the_line() -> Result<()> {
    let x = away()?;
    let error = algebra::sum_to(&x, &autograd_core::Shape::SCALAR).expect_err("there is no memory");
    match &error {
        Error::OutOfMemory { op: "sum_to", device, .. } => assert_eq!(*device, x.location()),
        other => panic!("not that there is no memory: {other}"),
    }
    assert!(error.site().is_some_and(|site| site.to_string().contains("device.rs")), "{error}");
    // The first kernels stay.
    assert!(!device::install(Arc::new(Failing)));
    Ok(())
}

#[test]
fn a_kernel_that_gives_another_shape_is_found() -> Result<()> {
    let error = algebra::reshape(&away()?, &autograd_core::Shape::new(&[2, 1]));
    assert!(matches!(error, Err(Error::Internal { op: "reshape", .. })));
    Ok(())
}

#[test]
fn what_a_device_copies_to_the_host_comes_back() -> Result<()> {
    let x = away()?;
    let copy = device::to_host(&x.tensor()?)?.expect("these kernels copy");
    assert_eq!(copy.fetch()?.to_vec1::<f64>()?, [1., 2.]);
    Ok(())
}
